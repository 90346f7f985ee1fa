//! The log in the store: how an entry is written, cut, replaced and read.
//!
//! Owns the records of `raft_log`, and the shape that the log must keep. Each entry knows the term of the one before it, and the
//! head that of the last: index and term say which entry it is, so that none is put back that was written over. A group of
//! batches is ONE write. What an entry replaces goes in the same write; what a cut forgets is deleted key by key, a
//! bounded number per write, and is invisible at once because the log start moves with the cut. Never reads state.
//! Called by the log writer's thread, and by readers of old entries.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::id::{LogIndex, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry, LogStart};
use quorate_core::ports::{LogBatch, LogReader, LogReset, LogWriter, StoreError, StoreResult};

use crate::db::{Batch, Store, Touch};
use crate::families::Family;

/// Most keys that one write deletes below the log start.
const PURGE_MAX: u64 = 4_096;

/// What the log looks like; a batch that would break it is refused before it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) start: LogStart,
    pub(crate) last: LogIndex,
    pub(crate) hard: HardState,
    /// Everything up to here was deleted; between it and the start lies what is still to be deleted.
    pub(crate) purged: LogIndex,
    /// The first entry of each run of equal terms, of the entries after the start.
    pub(crate) terms: Vec<(LogIndex, Term)>,
}

impl Shape {
    pub(crate) const fn reset(reset: LogReset) -> Self {
        Self::empty(reset.start, reset.hard_state)
    }

    /// A log without entries.
    pub(crate) const fn empty(start: LogStart, hard: HardState) -> Self {
        Self { start, last: start.index, hard, purged: start.index, terms: Vec::new() }
    }

    /// The term of an entry of the log, or of the last one before it.
    fn term(&self, index: LogIndex) -> Term {
        let run = self.terms.iter().rev().find(|(first, _)| *first <= index);
        run.map_or(self.start.term, |(_, term)| *term)
    }

    /// The last entry, or what is in its place in an empty log.
    pub(crate) fn end(&self) -> LogStart {
        LogStart { index: self.last, term: self.term(self.last) }
    }

    /// The log goes on with an entry, which ends it.
    pub(crate) fn push(&mut self, index: LogIndex, term: Term) {
        while self.terms.last().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop();
        }
        if self.terms.last().is_none_or(|(_, before)| *before != term) {
            self.terms.push((index, term));
        }
        self.last = index;
    }

    /// The log begins later from now on.
    fn begin(&mut self, start: LogStart) {
        self.start = start;
        let first = start.index.next();
        let gone = self.terms.iter().take_while(|(at, _)| *at <= first).count().saturating_sub(1);
        self.terms.drain(..gone);
        match self.terms.first_mut() {
            Some(_) if self.last < first => self.terms.clear(),
            Some((at, _)) => *at = first.max(*at),
            None => {}
        }
    }

    /// Whether anything was ever written.
    pub(crate) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// Fills `write` with one batch and becomes what the log is after it.
    pub(crate) fn add(&mut self, write: &mut Batch<'_>, batch: &LogBatch) -> StoreResult<()> {
        self.check_entries(&batch.entries)?;
        if !batch.entries.is_empty() {
            let ended = self.last;
            for entry in &batch.entries {
                let (before, context) = (self.term(entry.index.prev()), context_bytes(entry)?);
                let bytes = HEAD_BYTES + entry.context.len() + entry.data.len();
                write.put_with(Family::Log, &key(entry.index), bytes, |into| encode(entry, before, context, into))?;
                self.push(entry.index, entry.term);
            }
            let mut old = self.last.next();
            while old <= ended {
                write.delete(Family::Log, &key(old))?;
                old = old.next();
            }
        }
        if let Some(hard) = batch.hard_state {
            if hard.term < self.hard.term {
                return refuse("hard state", format!("term {} would go back to {}", self.hard.term, hard.term));
            }
            self.hard = hard;
        }
        if self.hard.commit > self.last {
            return refuse("hard state", format!("commit {} is beyond the last entry {}", self.hard.commit, self.last));
        }
        if let Some(entry) = batch.entries.last()
            && entry.term > self.hard.term
        {
            let detail =
                format!("its term {} is below term {} of log entry {}", self.hard.term, entry.term, entry.index);
            return refuse("hard state", detail);
        }
        if let Some(cut) = batch.cut {
            if cut.index > self.last {
                return refuse("log start", format!("cut {} is beyond the last entry {}", cut.index, self.last));
            }
            if cut.index > self.start.index {
                let term = self.term(cut.index);
                if cut.term != term {
                    let detail =
                        format!("entry {} is of term {term}, and would be cut as one of {}", cut.index, cut.term);
                    return refuse("log start", detail);
                }
                self.begin(cut);
            }
        }
        Ok(())
    }

    fn check_entries(&self, entries: &[LogEntry]) -> StoreResult<()> {
        let Some(first) = entries.first() else { return Ok(()) };
        if first.index <= self.start.index || first.index > self.last.next() {
            let detail = format!(
                "it does not follow the log, which holds entries after {} up to {}",
                self.start.index, self.last
            );
            return refuse(&format!("log entry {}", first.index), detail);
        }
        let mut next = first.index;
        for entry in entries {
            if entry.index != next {
                return refuse(&format!("log entry {}", entry.index), format!("entry {next} is missing before it"));
            }
            next = next.next();
        }
        Ok(())
    }

    /// Deletes some of what lies below the start.
    fn purge(&mut self, write: &mut Batch<'_>) -> StoreResult<()> {
        let end = LogIndex(self.start.index.0.min(self.purged.0.saturating_add(PURGE_MAX)));
        while self.purged < end {
            self.purged = self.purged.next();
            write.delete(Family::Log, &key(self.purged))?;
        }
        Ok(())
    }
}

fn refuse<T>(record: &str, detail: String) -> StoreResult<T> {
    Err(StoreError::Corrupt { record: record.to_owned(), detail })
}

/// The log writer's port.
pub(crate) struct Writer(pub(crate) Arc<Store>);

impl LogWriter for Writer {
    fn write(&mut self, group: &[LogBatch], sync: bool) -> StoreResult<()> {
        let store = &self.0;
        store.alive()?;
        let mut journal = store.journal();
        let mut shape = journal.shape.clone();
        let entries = || group.iter().flat_map(|batch| &batch.entries);
        let bytes = entries().map(|entry| HEAD_BYTES + entry.context.len() + entry.data.len()).sum();
        let mut write = store.batch_of(entries().count(), bytes)?;
        let filled = group.iter().try_for_each(|batch| shape.add(&mut write, batch));
        store.guard(filled.and_then(|()| shape.purge(&mut write)))?;
        // A hard state is written also where it is the same: that is how an idle disk is tried.
        let touch = if group.is_empty() && shape == journal.shape { Touch::Aside } else { Touch::Log(shape) };
        store.write(&mut journal, "writing to the log", write, touch, sync)
    }
}

/// The port of those who fetch old entries.
pub(crate) struct Reader(pub(crate) Arc<Store>);

impl LogReader for Reader {
    fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> StoreResult<Vec<LogEntry>> {
        let store = &self.0;
        store.alive()?;
        if from >= to {
            return Ok(Vec::new());
        }
        if from <= store.start() {
            return Err(StoreError::NotFound { index: from });
        }
        let mut found: Vec<LogEntry> = Vec::new();
        let mut bytes = 0_u64;
        let mut next = from;
        store.scan(Family::Log, (&key(from), &key(to)), None, &mut |key, payload| {
            let (entry, before) = decode(key, payload)?;
            if entry.index != next {
                if found.is_empty() {
                    return Ok(false);
                }
                return refuse(&format!("log entry {next}"), format!("it is missing before entry {}", entry.index));
            }
            check_follows(entry.index, before, found.last().map_or(before, |last| last.term))?;
            next = next.next();
            bytes = bytes.saturating_add((entry.data.len() + entry.context.len()) as u64);
            if bytes > max_bytes && !found.is_empty() {
                return Ok(false);
            }
            found.push(entry);
            Ok(true)
        })?;
        if found.is_empty() {
            return Err(StoreError::NotFound { index: from });
        }
        Ok(found)
    }
}

pub(crate) const fn key(index: LogIndex) -> [u8; 8] {
    index.0.to_be_bytes()
}

const NORMAL: u8 = 0;
const CONFIG: u8 = 1;

fn context_bytes(entry: &LogEntry) -> StoreResult<u32> {
    u32::try_from(entry.context.len())
        .or_else(|_longer| refuse(&format!("log entry {}", entry.index), "its context is longer than 4 GiB".to_owned()))
}

/// An entry knows which one it was written after.
///
/// # Errors
/// `Corrupt` when another one is there.
pub(crate) fn check_follows(index: LogIndex, before: Term, found: Term) -> StoreResult<()> {
    if before == found {
        return Ok(());
    }
    let detail = format!(
        "it was written after an entry of term {before}, and the one before it is of term {found}: one of the two was put back as \
         it was before"
    );
    refuse(&format!("log entry {index}"), detail)
}

/// What an entry takes besides its context and its data.
const HEAD_BYTES: usize = 21;

/// Term, term of the entry before, kind, length of the context, context, data.
fn encode(entry: &LogEntry, before: Term, context: u32, into: &mut Vec<u8>) {
    into.extend_from_slice(&entry.term.0.to_be_bytes());
    into.extend_from_slice(&before.0.to_be_bytes());
    into.push(match entry.kind {
        EntryKind::Normal => NORMAL,
        EntryKind::Config => CONFIG,
    });
    into.extend_from_slice(&context.to_be_bytes());
    into.extend_from_slice(&entry.context);
    into.extend_from_slice(&entry.data);
}

/// Reads [`encode`] back: the entry, and the term of the one before it.
pub(crate) fn decode(key: &[u8], payload: &[u8]) -> StoreResult<(LogEntry, Term)> {
    let parts = || {
        let index = u64::from_be_bytes(key.try_into().ok()?);
        let (term, rest) = payload.split_first_chunk::<8>()?;
        let (before, rest) = rest.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first()?;
        let kind = match *kind {
            NORMAL => EntryKind::Normal,
            CONFIG => EntryKind::Config,
            _ => return None,
        };
        let (context, rest) = rest.split_first_chunk::<4>()?;
        let (context, data) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*context)).ok()?)?;
        let entry = LogEntry {
            index: LogIndex(index),
            term: Term(u64::from_be_bytes(*term)),
            kind,
            data: Bytes::copy_from_slice(data),
            context: Bytes::copy_from_slice(context),
        };
        Some((entry, Term(u64::from_be_bytes(*before))))
    };
    parts().ok_or_else(|| StoreError::Corrupt {
        record: Family::Log.describe(key),
        detail: "its seal is whole, but it does not have the form of such a record".to_owned(),
    })
}
