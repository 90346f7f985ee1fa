//! The disk behind the memory store's handles.
//!
//! Owns the journal, the two images (what reads see, what a crash leaves) and the shape that a log must keep. Never
//! knows who holds a handle. Called by the handles, under their lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Fault;
use crate::id::{LogIndex, Term};
use crate::log::{HardState, LogEntry, LogStart};
use crate::mutants::{Mutant, on};
use crate::ports::{Boot, LogBatch, LogReset, RecoveryWrite, StoreError, StoreResult, WriteSet};

/// Key to value, shared with the views that were taken of it.
pub(super) type State = Arc<BTreeMap<Bytes, Bytes>>;

/// One atomic step of the journal.
pub(super) enum Batch {
    Log(Vec<LogBatch>),
    Commit(WriteSet),
    Replace { state: State, reset: LogReset },
    Found { writes: WriteSet, reset: LogReset },
    Facts(Vec<(String, Bytes)>),
    Recover(RecoveryWrite),
}

impl Batch {
    /// What can be read of it when only the first `share` of 1,000 parts are on the disk; `None` when that is nothing. What is
    /// synced in the same call is never torn: either the call returned, and all of it is there, or nobody was told of it.
    pub(super) fn part(&self, share: u64) -> Option<Self> {
        let share_of = |count: usize| usize::try_from(count as u64 * share.min(999) / 1_000).unwrap_or(0);
        match self {
            Self::Log(group) => {
                let pieces = |batch: &LogBatch| {
                    batch.entries.len() + usize::from(batch.hard_state.is_some()) + usize::from(batch.cut.is_some())
                };
                let mut left = share_of(group.iter().map(pieces).sum());
                let mut part = Vec::new();
                for batch in group {
                    let entries: Vec<LogEntry> = batch.entries.iter().take(left).cloned().collect();
                    left -= entries.len();
                    let hard_state = batch.hard_state.filter(|_| left > 0);
                    left -= usize::from(hard_state.is_some());
                    let cut = batch.cut.filter(|_| left > 0);
                    left -= usize::from(cut.is_some());
                    part.push(LogBatch { entries, hard_state, cut });
                }
                let some = part.iter().any(|batch| pieces(batch) > 0);
                some.then_some(Self::Log(part))
            }
            Self::Commit(writes) => {
                let left = share_of(writes.ranges.len() + writes.writes.len());
                let ranges: Vec<(Bytes, Bytes)> = writes.ranges.iter().take(left).cloned().collect();
                let rest = left - ranges.len();
                let part = WriteSet { ranges, writes: writes.writes.iter().take(rest).cloned().collect() };
                (left > 0).then_some(Self::Commit(part))
            }
            Self::Replace { .. } | Self::Found { .. } | Self::Facts(_) | Self::Recover(_) => None,
        }
    }
}

/// Everything the store holds at one point of the journal.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) founded: bool,
    pub(super) hard_state: HardState,
    pub(super) start: LogStart,
    pub(super) log: BTreeMap<u64, LogEntry>,
    pub(super) state: State,
    pub(super) facts: BTreeMap<String, Bytes>,
}

impl Image {
    pub(super) fn last(&self) -> LogIndex {
        self.log.last_key_value().map_or(self.start.index, |(index, _)| LogIndex(*index))
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.founded && self.log.is_empty() && self.state.is_empty() && self.hard_state == HardState::default()
    }

    pub(super) fn boot(&self) -> Boot {
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in self.log.values() {
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        Boot { hard_state: self.hard_state, start: self.start, last: self.last(), terms, repaired: None }
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        match batch {
            Batch::Log(group) => group.iter().for_each(|batch| self.apply_log(batch)),
            Batch::Commit(writes) => self.apply_writes(writes),
            Batch::Replace { state, reset } => {
                self.state = Arc::clone(state);
                self.reset(*reset);
            }
            Batch::Found { writes, reset } => {
                self.apply_writes(writes);
                self.reset(*reset);
            }
            Batch::Facts(facts) => self.facts.extend(facts.iter().cloned()),
            Batch::Recover(RecoveryWrite { state, log, facts }) => {
                self.apply_writes(state);
                self.apply_log(log);
                self.facts.extend(facts.iter().cloned());
            }
        }
    }

    pub(super) fn reset(&mut self, reset: LogReset) {
        self.log.clear();
        self.start = reset.start;
        self.hard_state = reset.hard_state;
        self.founded = true;
    }

    pub(super) fn apply_log(&mut self, batch: &LogBatch) {
        if let Some(first) = batch.entries.first() {
            if self.last() >= first.index && !on(Mutant::SuffixStays) {
                self.log.split_off(&first.index.0);
            }
            self.log.extend(batch.entries.iter().map(|entry| (entry.index.0, entry.clone())));
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(cut) = batch.cut
            && cut.index > self.start.index
        {
            self.log = self.log.split_off(&cut.index.next().0);
            self.start = cut;
        }
    }

    pub(super) fn apply_writes(&mut self, writes: &WriteSet) {
        let state = Arc::make_mut(&mut self.state);
        for (from, to) in &writes.ranges {
            let gone: Vec<Bytes> = state.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
            for key in gone {
                state.remove(&key);
            }
        }
        for (key, value) in &writes.writes {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
    }
}

/// The disk behind all handles.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) opening: u64,
    pub(super) poisoned: Option<String>,
    /// It was more than a damaged record.
    pub(super) failed: bool,
    pub(super) current: Image,
    pub(super) durable: Image,
    pub(super) unsynced: Vec<Batch>,
    pub(super) log_syncs: u64,
    pub(super) all_syncs: u64,
    pub(super) fail_write: Option<Fault>,
    pub(super) fail_sync: Option<Fault>,
    /// Finished snapshots by id; they do not outlive the opening.
    pub(super) staged: BTreeMap<u64, State>,
    pub(super) last_staged: u64,
    pub(super) rotten_state: BTreeSet<Bytes>,
    pub(super) rotten_log: BTreeSet<u64>,
    /// What lies behind the end of the journal since the power went: the beginning of a batch.
    pub(super) torn: Option<Batch>,
}

impl Disk {
    pub(super) fn begin_opening(&mut self) {
        self.opening += 1;
        self.poisoned = None;
        self.failed = false;
        self.staged.clear();
    }

    /// A batch that is not whole does not count, and is cut off; says so, in words.
    pub(super) fn cut_torn(&mut self) -> Option<String> {
        let torn = self.torn.take()?;
        if on(Mutant::TornIsTaken) {
            self.durable.apply(&torn);
            self.current = self.durable.clone();
        }
        Some("the last write was torn by a power cut, and is cut off; nothing that was synced is missing".to_owned())
    }

    /// The first entry of the log that cannot be read.
    pub(super) fn first_rotten(&self) -> Option<u64> {
        self.rotten_log.iter().copied().find(|index| self.current.log.contains_key(index))
    }

    /// Takes damage for the end of the log.
    pub(super) fn cut_from(&mut self, index: u64) {
        for image in [&mut self.current, &mut self.durable] {
            image.log.split_off(&index);
            image.hard_state.commit = image.hard_state.commit.min(image.last());
        }
    }

    pub(super) fn poison<T>(&mut self, error: StoreError) -> StoreResult<T> {
        self.poisoned = Some(error.to_string());
        self.failed |= !matches!(error, StoreError::Corrupt { .. });
        Err(error)
    }

    /// Appends to the journal: visible at once, durable with the next sync.
    pub(super) fn write(&mut self, doing: &'static str, batch: Batch) -> StoreResult<()> {
        if let Some(fault) = self.fail_write.take() {
            return self.poison(fault.error(doing));
        }
        match &batch {
            Batch::Commit(writes)
            | Batch::Found { writes, .. }
            | Batch::Recover(RecoveryWrite { state: writes, .. }) => {
                for (key, _) in &writes.writes {
                    self.rotten_state.remove(key);
                }
                let within = |key: &Bytes| writes.ranges.iter().any(|(from, to)| from <= key && key < to);
                self.rotten_state.retain(|key| !within(key));
            }
            Batch::Log(group) => {
                if let Some(first) = group.iter().filter_map(|batch| batch.entries.first()).map(|e| e.index.0).min() {
                    self.rotten_log.split_off(&first);
                }
            }
            Batch::Replace { .. } => {
                self.rotten_state.clear();
                self.rotten_log.clear();
            }
            Batch::Facts(_) => {}
        }
        self.current.apply(&batch);
        if on(Mutant::CommitApart)
            && let Batch::Log(group) = &batch
        {
            let commits = group.iter().filter_map(|batch| batch.hard_state);
            let apart = commits.map(|hard_state| LogBatch { hard_state: Some(hard_state), ..LogBatch::default() });
            self.unsynced.push(Batch::Log(apart.collect()));
        }
        self.unsynced.push(batch);
        Ok(())
    }

    /// Makes the whole journal so far durable.
    pub(super) fn sync(&mut self, doing: &'static str) -> StoreResult<()> {
        self.all_syncs += 1;
        if self.fail_sync.is_some() && on(Mutant::FailedSyncRetried) {
            // The kernel has thrown the pages away, and the second call finds nothing to complain of.
            self.fail_sync = None;
            self.unsynced.clear();
            return Ok(());
        }
        if on(Mutant::SkipFsync) {
            return Ok(());
        }
        if on(Mutant::TwoJournals) {
            let of_the_state = |batch: &Batch| matches!(batch, Batch::Commit(_));
            let (state, log): (Vec<Batch>, Vec<Batch>) =
                std::mem::take(&mut self.unsynced).into_iter().partition(of_the_state);
            log.iter().for_each(|batch| self.durable.apply(batch));
            self.unsynced = state;
            return Ok(());
        }
        if let Some(fault) = self.fail_sync.take() {
            return self.poison(fault.error(doing));
        }
        for batch in std::mem::take(&mut self.unsynced) {
            self.durable.apply(&batch);
        }
        Ok(())
    }

    pub(super) fn write_synced(&mut self, doing: &'static str, batch: Batch) -> StoreResult<()> {
        self.write(doing, batch)?;
        self.sync(doing)
    }

    /// A group that would tear the log is the caller's mistake, and written it could not be opened again.
    pub(super) fn check_group(&self, group: &[LogBatch]) -> StoreResult<()> {
        let mut shape =
            Shape { start: self.current.start.index, last: self.current.last(), hard: self.current.hard_state };
        group.iter().try_for_each(|batch| shape.check(batch))
    }
}

/// What must stay true of a log while a group is checked.
pub(super) struct Shape {
    start: LogIndex,
    last: LogIndex,
    hard: HardState,
}

impl Shape {
    pub(super) fn check(&mut self, batch: &LogBatch) -> StoreResult<()> {
        let refuse = |record: String, detail: String| Err(StoreError::Corrupt { record, detail });
        if let Some(first) = batch.entries.first() {
            if first.index <= self.start || first.index > self.last.next() {
                return refuse(
                    format!("log entry {}", first.index),
                    format!("it does not follow the log, which holds entries after {} up to {}", self.start, self.last),
                );
            }
            let mut next = first.index;
            for entry in &batch.entries {
                if entry.index != next {
                    return refuse(format!("log entry {}", entry.index), format!("entry {next} is missing before it"));
                }
                next = next.next();
            }
            self.last = next.prev();
        }
        if let Some(hard) = batch.hard_state {
            if hard.term < self.hard.term {
                return refuse(
                    "hard state".to_owned(),
                    format!("term {} would go back to {}", self.hard.term, hard.term),
                );
            }
            self.hard = hard;
        }
        if self.hard.commit > self.last {
            return refuse(
                "hard state".to_owned(),
                format!("commit {} is beyond the last entry {}", self.hard.commit, self.last),
            );
        }
        if let Some(entry) = batch.entries.last()
            && entry.term > self.hard.term
        {
            return refuse(
                "hard state".to_owned(),
                format!("its term {} is below term {} of log entry {}", self.hard.term, entry.term, entry.index),
            );
        }
        if let Some(cut) = batch.cut {
            if cut.index > self.last {
                return refuse(
                    "log start".to_owned(),
                    format!("cut {} is beyond the last entry {}", cut.index, self.last),
                );
            }
            self.start = self.start.max(cut.index);
        }
        Ok(())
    }
}

/// A hard state that does not fit the start could not be opened again.
pub(super) fn check_reset(reset: LogReset) -> StoreResult<()> {
    let (start, hard) = (reset.start, reset.hard_state);
    if hard.commit > start.index || hard.term < start.term {
        return Err(StoreError::Corrupt {
            record: "hard state".to_owned(),
            detail: format!(
                "term {} and commit {} do not go with an empty log after entry {} of term {}; nothing was changed",
                hard.term, hard.commit, start.index, start.term
            ),
        });
    }
    Ok(())
}
