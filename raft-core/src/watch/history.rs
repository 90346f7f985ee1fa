//! What the store says of revisions past, for a watch that has to catch up.
//!
//! Owns the reading of events and of the versions that they made and ended, in chunks that are bounded. Whether a revision
//! can still be read is decided by the very view that it is read from, so that no compaction can come in between. Never
//! waits. Called off the async threads, by the task of a watch that is behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{WATCH_PART_BYTES, WATCH_PREVIOUS_BYTES_MAX};
use crate::ports::{StateRead, StoreResult, Visit};
use crate::state::contract::Refusal;
use crate::state::layout::{Record, RecordView, corrupt};
use crate::state::read::{ReadError, STEPS, compact_revision, ended_by, live, progress, recovery};
use crate::state::stored::Event;
use crate::watch::unit::{Changed, Filter, Pick, Told, ToldOf, Unit, previous_bytes};

/// Changes in one chunk, about.
const CHANGES: usize = 256;
/// Bytes of one chunk after which what is still looked for in the events that follow is left for the next one.
const BYTES_MAX: usize = 4 * WATCH_PART_BYTES;
/// Revisions looked at for one chunk, also where none is of concern.
const REVISIONS: u64 = 20_000;

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// To be told, in this order.
    pub told: Vec<Told>,
    /// Everything below it was looked at.
    pub next: u64,
    /// What it holds, bytes.
    pub bytes: usize,
}

/// Reads what the revisions `from..=upto` did to the keys of `filter`: some of them, at least one, all of each.
///
/// # Errors
/// `Refused` with `Compacted` or `NewGeneration` when `from` is not in the history of this view any more; `Store`.
pub fn read(view: &dyn StateRead, filter: &Filter, from: u64, upto: u64) -> Result<Chunk, ReadError> {
    check(view, from)?;
    let newest = progress(view)?.map_or(0, |progress| progress.revision);
    let upto = upto.min(newest).min(from.saturating_add(REVISIONS - 1));
    let mut gathered = Gathered::new(filter, upto + 1);
    Event::scan(view, (from, upto + 1), &mut |revision, event| gathered.take(revision, event))?;
    gathered.find_the_rest(view)?;
    let told = gathered
        .revisions
        .into_iter()
        .map(|(revision, changes)| Told::Changes(Arc::new(Unit::new(revision, changes)), ToldOf(Pick::All)));
    Ok(Chunk { told: told.collect(), next: gathered.next, bytes: gathered.bytes })
}

/// Whether everything from `from` on is in the history of this view.
fn check(view: &dyn StateRead, from: u64) -> Result<(), ReadError> {
    let compact = compact_revision(view)?;
    if from > compact {
        return Ok(());
    }
    let recovery = recovery(view)?;
    if from < recovery.first_revision.0 {
        let kept_revision = recovery.kept_revision.0;
        return Err(Refusal::NewGeneration { asked: from, kept_revision }.into());
    }
    Err(Refusal::Compacted { asked: from, oldest: compact + 1 }.into())
}

/// What was found so far.
struct Gathered<'a> {
    filter: &'a Filter,
    /// What concerns the filter, by revision.
    revisions: Vec<(u64, Vec<Changed>)>,
    /// Everything below it was looked at.
    next: u64,
    changes: usize,
    bytes: usize,
    /// Bytes of old records in the revision at hand.
    before: usize,
    /// Where the record that a key was given is not known yet: it is in the next event that names the key, or it lives.
    open: BTreeMap<Bytes, (usize, usize)>,
}

impl<'a> Gathered<'a> {
    fn new(filter: &'a Filter, next: u64) -> Self {
        let open = BTreeMap::new();
        Self { filter, revisions: Vec::new(), next, changes: 0, bytes: 0, before: 0, open }
    }

    /// Takes one part of an event in; whole revisions, until there are enough of them.
    fn take(&mut self, revision: u64, event: Event) -> StoreResult<Visit> {
        let goes_on = self.revisions.last().is_some_and(|(last, _)| *last == revision);
        if !goes_on {
            if self.changes >= CHANGES || self.bytes >= WATCH_PART_BYTES {
                self.next = revision;
                return Ok(Visit::Enough);
            }
            self.before = 0;
        }
        for change in event.changes {
            if !self.filter.covers(&change.key) {
                continue;
            }
            let old = change.old()?;
            self.settle(&change.key, old.as_ref())?;
            if self.filter.wants(change.deleted) {
                self.add(revision, change.key, change.deleted, old);
            }
        }
        Ok(Visit::More)
    }

    fn add(&mut self, revision: u64, key: Bytes, deleted: bool, old: Option<Record>) {
        if self.revisions.last().is_none_or(|(last, _)| *last != revision) {
            self.revisions.push((revision, Vec::new()));
        }
        let place = self.revisions.len() - 1;
        let Some((_, changes)) = self.revisions.last_mut() else { return };
        // What would not be told is not kept.
        let wanted = self.filter.previous && old.is_some();
        let room = !self.filter.values || self.before <= WATCH_PREVIOUS_BYTES_MAX;
        let old = old.filter(|_| wanted && room).map(|old| {
            self.before = self.before.saturating_add(previous_bytes(&old));
            // A value that is not told is not kept in memory either; one that is must not keep all that came with it.
            let value = if self.filter.values { old.view().value } else { &[] };
            Record::new(RecordView { value, ..old.view() })
        });
        let changed = Changed { key: key.clone(), new: None, old_omitted: wanted && old.is_none(), old };
        self.bytes += changed.bytes();
        self.changes += 1;
        if !deleted {
            self.open.insert(key, (place, changes.len()));
        }
        changes.push(changed);
    }

    /// `record` is what the key was until now.
    fn settle(&mut self, key: &[u8], record: Option<&Record>) -> StoreResult<()> {
        let Some((place, at)) = self.open.remove(key) else { return Ok(()) };
        let found =
            self.revisions.get_mut(place).and_then(|(revision, changes)| Some((revision, changes.get_mut(at)?)));
        match (found, record) {
            (Some((revision, changed)), Some(record)) if record.view().modified == *revision => {
                changed.new = Some(Record::new(record.view()));
                self.bytes += record.raw().len();
                Ok(())
            }
            (Some((revision, _)), _) => {
                Err(corrupt(key, format!("the version that revision {revision} wrote is missing")))
            }
            (None, _) => Ok(()),
        }
    }

    /// The records that were still in force at the end of what was read.
    fn find_the_rest(&mut self, view: &dyn StateRead) -> StoreResult<()> {
        let mut open: Vec<(usize, Bytes)> = self.open.iter().map(|(key, (place, _))| (*place, key.clone())).collect();
        open.sort_unstable();
        let mut at_work = 0;
        for (place, key) in open {
            if place > at_work && self.bytes >= WATCH_PART_BYTES {
                self.cut(place);
                break;
            }
            at_work = place;
            let Some((revision, _)) = self.revisions.get(place) else { continue };
            // A few steps back from what lives; who was written more often since is found soon by going on from here.
            let (revision, mut record) = (*revision, live(view, &key)?);
            for _ in 0..STEPS {
                match &record {
                    Some(newer) if newer.view().modified > revision => {
                        record = ended_by(view, &key, newer.view().modified)?;
                    }
                    Some(_) | None => break,
                }
            }
            if let Some(record) = record.filter(|record| record.view().modified == revision) {
                self.settle(&key, Some(&record))?;
            }
        }
        if self.open.is_empty() {
            return Ok(());
        }
        Event::scan(view, (self.next, u64::MAX), &mut |_, event| {
            for change in event.changes {
                if self.open.contains_key(&change.key) {
                    self.settle(&change.key, change.old()?.as_ref())?;
                }
            }
            let full = self.bytes >= BYTES_MAX && self.first_open().is_some_and(|place| place > 0);
            Ok(if self.open.is_empty() || full { Visit::Enough } else { Visit::More })
        })?;
        if let Some(place) = self.first_open().filter(|place| *place > 0 && self.bytes >= BYTES_MAX) {
            self.cut(place);
        }
        match self.open.first_key_value() {
            None => Ok(()),
            Some((key, _)) => Err(corrupt(key, "the version that an event says was written is missing")),
        }
    }

    /// The first revision of which a record is still looked for.
    fn first_open(&self) -> Option<usize> {
        self.open.values().map(|(place, _)| *place).min()
    }

    /// Leaves the revisions from this one on for the next chunk.
    fn cut(&mut self, place: usize) {
        if let Some((revision, _)) = self.revisions.get(place) {
            self.next = *revision;
            self.revisions.truncate(place);
            self.open.retain(|_, (at, _)| *at < place);
        }
    }
}
