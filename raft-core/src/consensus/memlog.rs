//! What raft reads synchronously, all of it in memory: terms of the whole log, the entries not yet applied, and a
//! byte-bounded cache of those before them.
//!
//! Owns the in-memory picture of the log. Never touches a disk: an older entry that raft wants for a lagging follower
//! is noted as a fetch, which the machine turns into an effect (design section 4, rule 5). Called by raft through its
//! `Storage` trait, and by the machine.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb;
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::convert;
use crate::id::{LogIndex, Term};
use crate::log::{Configuration, HardState, LogStart};

/// A fetch that raft waits for.
pub(super) struct Wanted {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) max_bytes: u64,
    /// For whom: raft takes each back once.
    pub(super) contexts: Vec<GetEntriesContext>,
}

/// Askers for one fetch; whoever is not among them asks again.
const CONTEXTS_MAX: usize = 16;

/// A view that can be sent as a snapshot.
#[derive(Clone)]
pub(super) struct Sendable {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) configuration: Configuration,
    pub(super) bytes: u64,
    pub(super) view: u64,
    /// The tick it was made.
    pub(super) built: u64,
}

pub(super) struct MemLog {
    hard_state: HardState,
    configuration: Configuration,
    start: LogStart,
    last: u64,
    /// Where each run of equal terms begins; entries after `start` only.
    terms: Vec<(u64, u64)>,
    /// Payload sizes of the entries after `start`.
    sizes: VecDeque<u32>,
    size_total: u64,
    /// The tail of the log; its first index is `last + 1 - cache.len()`.
    cache: VecDeque<eraftpb::Entry>,
    cache_bytes: u64,
    fetches: RefCell<BTreeMap<u64, Wanted>>,
    fetch_next: Cell<u64>,
    fetched: RefCell<Vec<eraftpb::Entry>>,
    sendable: Option<Sendable>,
    snapshot_wanted: Cell<Option<u64>>,
}

fn size_of(entry: &eraftpb::Entry) -> u32 {
    u32::try_from(entry.data.len() + entry.context.len() + 24).unwrap_or(u32::MAX)
}

impl MemLog {
    /// `tail` are the entries above the applied index, up to the last one.
    pub(super) fn new(
        hard_state: HardState,
        configuration: Configuration,
        start: LogStart,
        last: LogIndex,
        terms: &[(LogIndex, Term)],
        tail: Vec<eraftpb::Entry>,
    ) -> Self {
        let entries = last.0.saturating_sub(start.index.0);
        let mut sizes: VecDeque<u32> = VecDeque::new();
        let tail_from = last.0 + 1 - tail.len() as u64;
        // Sizes of what was applied before this start are not read back; they leave the window first anyway.
        sizes.extend((0..entries.saturating_sub(tail.len() as u64)).map(|_| 0));
        sizes.extend(tail.iter().map(size_of));
        let size_total = sizes.iter().map(|size| u64::from(*size)).sum();
        debug_assert!(tail.first().is_none_or(|entry| entry.index == tail_from));
        Self {
            hard_state,
            configuration,
            start,
            last: last.0,
            terms: terms.iter().map(|(index, term)| (index.0, term.0)).collect(),
            sizes,
            size_total,
            cache_bytes: tail.iter().map(|entry| u64::from(size_of(entry))).sum(),
            cache: tail.into(),
            fetches: RefCell::default(),
            fetch_next: Cell::new(1),
            fetched: RefCell::default(),
            sendable: None,
            snapshot_wanted: Cell::new(None),
        }
    }

    pub(super) const fn start(&self) -> LogStart {
        self.start
    }

    pub(super) const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    #[cfg(test)]
    pub(super) const fn last(&self) -> LogIndex {
        LogIndex(self.last)
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.size_total
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.start.index.0 {
            return Some(self.start.term.0);
        }
        if index < self.start.index.0 || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Appends, and forgets everything at or above the first of them.
    pub(super) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        self.truncate_from(first.index);
        for entry in entries {
            if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            let size = size_of(entry);
            self.sizes.push_back(size);
            self.size_total += u64::from(size);
            self.cache_bytes += u64::from(size);
            self.cache.push_back(entry.clone());
            self.last = entry.index;
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while self.last >= index && self.last > self.start.index.0 {
            if let Some(size) = self.sizes.pop_back() {
                self.size_total -= u64::from(size);
            }
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= u64::from(size_of(&entry));
            }
            self.last -= 1;
        }
        self.terms.retain(|(first, _)| *first < index);
    }

    /// Forgets the log up to and including `to`.
    pub(super) fn cut(&mut self, to: u64) -> Option<LogStart> {
        let term = self.term_at(to)?;
        if to <= self.start.index.0 {
            return None;
        }
        for _ in self.start.index.0..to {
            if let Some(size) = self.sizes.pop_front() {
                self.size_total -= u64::from(size);
            }
        }
        while self.cache_first() <= to && !self.cache.is_empty() {
            self.evict_one();
        }
        let run = self.terms.partition_point(|(first, _)| *first <= to);
        self.terms.drain(..run);
        if to < self.last && self.terms.first().is_none_or(|(first, _)| *first > to + 1) {
            self.terms.insert(0, (to + 1, term));
        }
        self.start = LogStart { index: LogIndex(to), term: Term(term) };
        Some(self.start)
    }

    fn cache_first(&self) -> u64 {
        self.last + 1 - self.cache.len() as u64
    }

    fn evict_one(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= u64::from(size_of(&entry));
        }
    }

    /// Drops applied entries from memory while there are more than `max_bytes`.
    pub(super) fn evict(&mut self, applied: u64, max_bytes: u64) {
        while self.cache_bytes > max_bytes && self.cache_first() <= applied && !self.cache.is_empty() {
            self.evict_one();
        }
    }

    /// The log becomes empty behind a snapshot.
    pub(super) fn reset(&mut self, start: LogStart, configuration: Configuration) {
        self.start = start;
        self.last = start.index.0;
        self.configuration = configuration;
        self.terms.clear();
        self.sizes.clear();
        self.size_total = 0;
        self.cache.clear();
        self.cache_bytes = 0;
        self.fetched.borrow_mut().clear();
    }

    /// Fetches noted since the last call: number and what is wanted.
    pub(super) fn new_fetches(&self, known: u64) -> Vec<(u64, u64, u64, u64)> {
        self.fetches
            .borrow()
            .range(known + 1..)
            .map(|(number, wanted)| (*number, wanted.from, wanted.to, wanted.max_bytes))
            .collect()
    }

    /// The answer to a fetch: raft is asked again with the contexts that come back.
    pub(super) fn fetched(&self, number: u64, entries: Vec<eraftpb::Entry>) -> Vec<GetEntriesContext> {
        let Some(wanted) = self.fetches.borrow_mut().remove(&number) else { return Vec::new() };
        *self.fetched.borrow_mut() = entries;
        wanted.contexts
    }

    /// What was fetched is only good for the call that follows it.
    pub(super) fn forget_fetched(&self) {
        self.fetched.borrow_mut().clear();
    }

    pub(super) fn set_sendable(&mut self, sendable: Option<Sendable>) -> Option<Sendable> {
        std::mem::replace(&mut self.sendable, sendable)
    }

    pub(super) const fn sendable(&self) -> Option<&Sendable> {
        self.sendable.as_ref()
    }

    /// The lowest index a snapshot must have, when raft wanted one and there was none.
    pub(super) fn take_snapshot_wanted(&self) -> Option<u64> {
        self.snapshot_wanted.take()
    }

    fn limited(entries: impl Iterator<Item = eraftpb::Entry>, max: u64) -> Vec<eraftpb::Entry> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            bytes += u64::from(size_of(&entry));
            if bytes > max && !taken.is_empty() {
                break;
            }
            taken.push(entry);
        }
        taken
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(convert::raft_hard_state(self.hard_state), convert::conf_state(&self.configuration)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let max = max_size.into().unwrap_or(u64::MAX);
        if low <= self.start.index.0 {
            return Err(StorageError::Compacted.into());
        }
        let cached_from = self.cache_first();
        if low >= cached_from {
            let skip = usize::try_from(low - cached_from).unwrap_or(usize::MAX);
            let take = usize::try_from(high - low).unwrap_or(usize::MAX);
            return Ok(Self::limited(self.cache.iter().skip(skip).take(take).cloned(), max));
        }
        let fetched = self.fetched.borrow();
        if fetched.first().is_some_and(|first| first.index <= low) {
            let found: Vec<_> = fetched.iter().filter(|e| e.index >= low && e.index < high).cloned().collect();
            if !found.is_empty() {
                return Ok(Self::limited(found.into_iter(), max));
            }
        }
        drop(fetched);
        if !context.can_async() {
            return Err(StorageError::Unavailable.into());
        }
        // Every acknowledgement and heartbeat makes raft ask again: one read of the same entries serves them all.
        let mut fetches = self.fetches.borrow_mut();
        if let Some(same) = fetches.values_mut().find(|wanted| wanted.from == low) {
            if same.contexts.len() < CONTEXTS_MAX {
                same.contexts.push(context);
            }
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        let number = self.fetch_next.get();
        self.fetch_next.set(number + 1);
        let wanted = Wanted { from: low, to: high.min(cached_from), max_bytes: max, contexts: vec![context] };
        fetches.insert(number, wanted);
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or_else(|| {
            if index < self.start.index.0 { StorageError::Compacted } else { StorageError::Unavailable }.into()
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let at_least = request_index.max(self.start.index.0);
        match &self.sendable {
            Some(view) if view.index >= at_least && view.configuration.contains(crate::id::RaftId(to)) => {
                let mut snapshot = eraftpb::Snapshot::default();
                snapshot.mut_metadata().index = view.index;
                snapshot.mut_metadata().term = view.term;
                snapshot.mut_metadata().conf_state = Some(convert::conf_state(&view.configuration));
                Ok(snapshot)
            }
            _ => {
                self.snapshot_wanted.set(Some(at_least));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> eraftpb::Entry {
        eraftpb::Entry { index, term, data: vec![0; 10], ..eraftpb::Entry::default() }
    }

    fn log() -> MemLog {
        let start = LogStart { index: LogIndex(1), term: Term(1) };
        MemLog::new(HardState::default(), Configuration::default(), start, LogIndex(1), &[], Vec::new())
    }

    #[test]
    fn terms_answer_for_the_whole_log_and_the_entry_before_it() {
        let mut log = log();
        log.append(&[entry(2, 1), entry(3, 2), entry(4, 2), entry(5, 4)]);
        assert_eq!(
            (1..=6).map(|i| log.term_at(i)).collect::<Vec<_>>(),
            [1, 1, 2, 2, 4].map(Some).into_iter().chain([None]).collect::<Vec<_>>()
        );
        log.cut(3);
        assert_eq!((2..=5).map(|i| log.term_at(i)).collect::<Vec<_>>(), [None, Some(2), Some(2), Some(4)]);
        log.cut(5);
        assert_eq!(log.term_at(5), Some(4));
        assert_eq!(log.bytes(), 0);
        log.append(&[entry(6, 4)]);
        assert_eq!(log.term_at(6), Some(4));
    }

    #[test]
    fn an_append_replaces_what_conflicts() {
        let mut log = log();
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.append(&[entry(3, 2)]);
        assert_eq!(log.last(), LogIndex(3));
        assert_eq!(log.term_at(3), Some(2));
        assert_eq!(log.term_at(4), None);
        let got = log.entries(2, 4, None, GetEntriesContext::empty(false)).unwrap();
        assert_eq!(got.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(2, 1), (3, 2)]);
    }

    #[test]
    fn an_old_entry_is_fetched_and_served_once() {
        let mut log = log();
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 1)]);
        log.evict(3, 0);
        assert!(log.entries(2, 5, None, GetEntriesContext::empty(true)).is_err());
        let wanted = log.new_fetches(0);
        assert_eq!(wanted.iter().map(|w| (w.1, w.2)).collect::<Vec<_>>(), [(2, 4)]);
        assert_eq!(log.fetched(wanted[0].0, vec![entry(2, 1), entry(3, 1)]).len(), 1);
        let got = log.entries(2, 5, None, GetEntriesContext::empty(true)).unwrap();
        assert_eq!(got.len(), 2);
    }
}
