//! Random work against a model.

use std::collections::BTreeMap;

use super::*;

/// A small generator of its own: the same numbers on every machine.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What the store should hold.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    log: BTreeMap<u64, LogEntry>,
    start: LogStart,
    hard: HardState,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    facts: BTreeMap<String, Bytes>,
}

impl Model {
    fn last(&self) -> u64 {
        self.log.last_key_value().map_or(self.start.index.0, |(index, _)| *index)
    }

    fn term(&self, index: u64) -> u64 {
        self.log.get(&index).map_or(self.start.term.0, |entry| entry.term.0)
    }

    /// What the store really holds, read through every port; `boot` is only true right after an opening.
    fn read(open: &OpenStore, start: LogStart, hard: HardState) -> Self {
        let state = all(&*open.state);
        assert_eq!(all(&*open.state.reader().view()), state);
        let first = start.index.next();
        let log = match open.log_reader.entries(first, LogIndex(u64::MAX), u64::MAX) {
            Ok(found) => found,
            Err(StoreError::NotFound { index }) if index == first => Vec::new(),
            Err(error) => panic!("{error}"),
        };
        let facts = FACTS.iter().filter_map(|name| Some(((*name).to_owned(), open.meta.get(name).unwrap()?)));
        Self {
            log: log.into_iter().map(|entry| (entry.index.0, entry)).collect(),
            start,
            hard,
            state: state.into_iter().collect(),
            facts: facts.collect(),
        }
    }

    /// What a store that was just opened holds; its boot must say the same as its ports.
    fn booted(open: &OpenStore) -> Self {
        let found = Self::read(open, open.boot.start, open.boot.hard_state);
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in found.log.values() {
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        assert_eq!((open.boot.last.0, &open.boot.terms), (found.last(), &terms));
        found
    }
}

const FACTS: [&str; 3] = ["fact 0", "fact 1", "fact 2"];

/// One store, its model, and what the model was at the last sync and after every batch since: what may come back.
struct Run {
    seeded: Seeded,
    model: Model,
    since_sync: Vec<Model>,
}

impl Run {
    fn wrote(&mut self) {
        self.since_sync.push(self.model.clone());
    }

    fn synced(&mut self) {
        self.since_sync = vec![self.model.clone()];
    }

    fn writes(&mut self) -> WriteSet {
        let mut writes = WriteSet::default();
        for _ in 0..self.seeded.below(6) {
            let key = format!("key {:02}", self.seeded.below(40)).into_bytes();
            if self.seeded.below(4) == 0 {
                self.model.state.remove(&key);
                writes.delete(key);
            } else {
                let value = vec![b'v'; usize::try_from(self.seeded.below(300)).unwrap()];
                self.model.state.insert(key.clone(), value.clone());
                writes.put(key, value);
            }
        }
        if self.seeded.below(6) == 0 {
            let (from, to) = (self.seeded.below(40), self.seeded.below(40));
            let (from, to) = (format!("key {from:02}").into_bytes(), format!("key {to:02}").into_bytes());
            self.model.state.retain(|key, _| *key < from || *key >= to);
            writes.delete_range(from, to);
        }
        writes
    }

    fn log_batch(&mut self) -> LogBatch {
        let model = &mut self.model;
        let mut made = LogBatch::default();
        let floor = model.start.index.0.max(model.hard.commit.0);
        if self.seeded.below(4) > 0 {
            let first = if self.seeded.below(4) == 0 {
                floor + 1 + self.seeded.below(model.last() - floor + 1)
            } else {
                model.last() + 1
            };
            let term = model.hard.term.0.max(model.term(first - 1)) + u64::from(self.seeded.below(5) == 0);
            let term = term.max(1);
            made.entries = entries(first, first + self.seeded.below(8), term);
            model.log.split_off(&first);
            model.log.extend(made.entries.iter().map(|entry| (entry.index.0, entry.clone())));
            model.hard.term = Term(term);
        }
        // Most of the log stays uncommitted, so that conflicts reach far back.
        let ahead = if self.seeded.below(6) == 0 { model.last() - floor } else { (model.last() - floor) / 8 };
        model.hard.commit = LogIndex(floor + self.seeded.below(ahead + 1));
        made.hard_state = Some(model.hard);
        if self.seeded.below(5) == 0 {
            let index = model.start.index.0
                + self.seeded.below(model.hard.commit.0.max(model.start.index.0) - model.start.index.0 + 1);
            let cut = start(index, model.term(index));
            made.cut = Some(cut);
            if cut.index > model.start.index {
                model.start = cut;
                model.log = model.log.split_off(&(index + 1));
            }
        }
        made
    }

    fn install(&mut self, open: &mut OpenStore) {
        let mut staged = open.staging.begin().unwrap();
        let mut state = BTreeMap::new();
        for _ in 0..self.seeded.below(30) {
            state.insert(format!("key {:02}", self.seeded.below(60)).into_bytes(), b"installed".to_vec());
        }
        let records: Vec<_> =
            state.iter().map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone()))).collect();
        for part in records.chunks(7) {
            staged.write(part).unwrap();
        }
        match self.seeded.below(4) {
            // Given up while it is received, or when it is complete; finishing is a sync.
            0 => drop(staged),
            1 => {
                let staged = staged.finish().unwrap();
                self.synced();
                open.staging.discard(staged).unwrap();
            }
            _ => {
                let staged = staged.finish().unwrap();
                // Also into the middle of a log that is longer than the snapshot.
                let commit = self.model.hard.commit.0.max(self.model.start.index.0);
                let index = commit + self.seeded.below(self.model.last() - commit + 9);
                let term = self.model.hard.term.0.max(1);
                open.state.install(staged, reset(index, term)).unwrap();
                self.model.state = state;
                self.model.log.clear();
                self.model.start = start(index, term);
                self.model.hard = hard(term, index);
                self.synced();
            }
        }
    }
}

/// Writes, cuts, conflicts, installations, facts, reopens and power cuts in random order: the store is always the model,
/// and after a power cut it is the model of some moment at or after the last sync.
pub fn random_work_equals_the_model(store: &mut dyn StoreUnderTest) {
    let mut run = Run { seeded: Seeded(2), model: Model::default(), since_sync: vec![Model::default()] };
    let mut open = store.open().unwrap();
    let (mut reopened, mut cut_short, mut lost) = (0, 0, 0);
    for step in 0..1_500 {
        match run.seeded.below(44) {
            0..=14 => {
                let writes = run.writes();
                open.state.commit(writes).unwrap();
                run.wrote();
            }
            15..=33 => {
                let group: Vec<_> = (0..run.seeded.below(3)).map(|_| run.log_batch()).collect();
                let sync = run.seeded.below(3) > 0;
                open.log.write(&group, sync).unwrap();
                if sync { run.synced() } else { run.wrote() }
            }
            34 => {
                let name = FACTS[usize::try_from(run.seeded.below(3)).unwrap()];
                let value = Bytes::from(format!("of step {step}"));
                open.meta.put(&[(name, value.clone())]).unwrap();
                run.model.facts.insert(name.to_owned(), value);
                run.synced();
            }
            35 | 36 => run.install(&mut open),
            37 | 40..=43 => assert_eq!(Model::read(&open, run.model.start, run.model.hard), run.model, "step {step}"),
            power_cut => {
                drop(open);
                let cut = power_cut == 39 && store.lose_unsynced();
                open = store.open().unwrap();
                let found = Model::booted(&open);
                if cut {
                    assert!(run.since_sync.contains(&found), "step {step}: {found:?} is none of {:?}", run.since_sync);
                    lost += u32::from(found != run.model);
                    cut_short += 1;
                } else {
                    assert_eq!(found, run.model, "step {step}");
                    reopened += 1;
                }
                run.model = found;
                // Opening may make durable what it found, but need not: the sync settles it.
                open.log.write(&[], true).unwrap();
                run.synced();
            }
        }
    }
    assert!(reopened > 10, "only {reopened} reopens");
    assert!(cut_short == 0 || lost > 5, "{lost} of {cut_short} power cuts lost anything");
}
