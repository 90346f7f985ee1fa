//! The log in the store: how an entry is written, cut, replaced and read.
//!
//! Owns the records of `raft_log`, the hard state and the log start, and the shape that the log must keep. A group of
//! batches is ONE write. What an entry replaces goes in the same write; what a cut forgets is deleted key by key, a
//! bounded number per write, and is invisible at once because the log start moves with the cut. Never reads state.
//! Called by the log writer's thread, and by readers of old entries.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry, LogStart};
use quorate_core::ports::{LogBatch, LogReader, LogReset, LogWriter, StoreError, StoreResult};

use crate::db::{Batch, Serials, Store, Touch};
use crate::families::{Family, meta_key};

/// Most keys that one write deletes below the log start.
const PURGE_MAX: u64 = 4_096;

/// What the log looks like; a batch that would break it is refused before it is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) start: LogStart,
    pub(crate) last: LogIndex,
    pub(crate) hard: HardState,
    /// Everything up to here was deleted; between it and the start lies what is still to be deleted.
    pub(crate) purged: LogIndex,
}

impl Shape {
    pub(crate) const fn reset(reset: LogReset) -> Self {
        Self { start: reset.start, last: reset.start.index, hard: reset.hard_state, purged: reset.start.index }
    }

    /// Whether anything was ever written.
    pub(crate) fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// Fills `write` with one batch and becomes what the log is after it.
    pub(crate) fn add(&mut self, write: &mut Batch<'_>, batch: &LogBatch) -> StoreResult<()> {
        self.check_entries(&batch.entries)?;
        if let Some((first, last)) = batch.entries.first().zip(batch.entries.last()) {
            for entry in &batch.entries {
                let context = context_bytes(entry)?;
                let bytes = HEAD_BYTES + entry.context.len() + entry.data.len();
                write.put_with(Family::Log, &key(entry.index), bytes, |into| encode(entry, context, into))?;
            }
            let mut old = last.index.next();
            while old <= self.last {
                write.delete(Family::Log, &key(old))?;
                old = old.next();
            }
            debug_assert!(first.index > self.start.index);
            self.last = last.index;
        }
        if let Some(hard) = batch.hard_state {
            if hard.term < self.hard.term {
                return refuse("hard state", format!("term {} would go back to {}", self.hard.term, hard.term));
            }
            self.hard = hard;
            write.put(Family::Meta, meta_key::HARD_STATE, &encode_hard_state(&hard))?;
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
                self.start = cut;
                write.put(Family::Meta, meta_key::LOG_START, &encode_start(&cut))?;
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
        let mut shape = journal.shape;
        let entries = || group.iter().flat_map(|batch| &batch.entries);
        let bytes = entries().map(|entry| HEAD_BYTES + entry.context.len() + entry.data.len()).sum();
        let mut write = store.batch_of(entries().count(), bytes)?;
        let filled = group.iter().try_for_each(|batch| shape.add(&mut write, batch));
        store.guard(filled.and_then(|()| shape.purge(&mut write)))?;
        store.write(&mut journal, "writing to the log", write, Touch::Log, sync)?;
        journal.shape = shape;
        store.set_start(shape.start.index);
        Ok(())
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
            let entry = decode(key, payload)?;
            if entry.index != next {
                if found.is_empty() {
                    return Ok(false);
                }
                return refuse(&format!("log entry {next}"), format!("it is missing before entry {}", entry.index));
            }
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

/// What an entry takes besides its context and its data.
const HEAD_BYTES: usize = 13;

/// Term, kind, length of the context, context, data.
fn encode(entry: &LogEntry, context: u32, into: &mut Vec<u8>) {
    into.extend_from_slice(&entry.term.0.to_be_bytes());
    into.push(match entry.kind {
        EntryKind::Normal => NORMAL,
        EntryKind::Config => CONFIG,
    });
    into.extend_from_slice(&context.to_be_bytes());
    into.extend_from_slice(&entry.context);
    into.extend_from_slice(&entry.data);
}

/// Reads [`encode`] back.
pub(crate) fn decode(key: &[u8], payload: &[u8]) -> StoreResult<LogEntry> {
    let parts = || {
        let index = u64::from_be_bytes(key.try_into().ok()?);
        let (term, rest) = payload.split_first_chunk::<8>()?;
        let (kind, rest) = rest.split_first()?;
        let kind = match *kind {
            NORMAL => EntryKind::Normal,
            CONFIG => EntryKind::Config,
            _ => return None,
        };
        let (context, rest) = rest.split_first_chunk::<4>()?;
        let (context, data) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*context)).ok()?)?;
        Some(LogEntry {
            index: LogIndex(index),
            term: Term(u64::from_be_bytes(*term)),
            kind,
            data: Bytes::copy_from_slice(data),
            context: Bytes::copy_from_slice(context),
        })
    };
    parts().ok_or_else(|| unreadable(Family::Log, key))
}

pub(crate) fn encode_hard_state(hard: &HardState) -> Vec<u8> {
    [hard.term.0, hard.vote.0, hard.commit.0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(crate) fn decode_hard_state(payload: &[u8]) -> StoreResult<HardState> {
    let [term, vote, commit] = numbers(meta_key::HARD_STATE, payload)?;
    Ok(HardState { term: Term(term), vote: RaftId(vote), commit: LogIndex(commit) })
}

pub(crate) fn encode_start(start: &LogStart) -> Vec<u8> {
    [start.index.0, start.term.0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(crate) fn decode_start(payload: &[u8]) -> StoreResult<LogStart> {
    let [index, term] = numbers(meta_key::LOG_START, payload)?;
    Ok(LogStart { index: LogIndex(index), term: Term(term) })
}

pub(crate) fn decode_serials(payload: &[u8]) -> StoreResult<Serials> {
    let [log, state] = numbers(meta_key::SERIALS, payload)?;
    Ok(Serials { log, state })
}

/// What a family's own witness says.
pub(crate) fn decode_witness(payload: &[u8]) -> StoreResult<u64> {
    let [serial] = numbers(meta_key::SERIALS, payload)?;
    Ok(serial)
}

fn numbers<const N: usize>(key: &[u8], payload: &[u8]) -> StoreResult<[u64; N]> {
    let (chunks, rest) = payload.as_chunks::<8>();
    let all: Vec<u64> = chunks.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect();
    let all = <[u64; N]>::try_from(all).ok().filter(|_| rest.is_empty());
    all.ok_or_else(|| unreadable(Family::Meta, key))
}

fn unreadable(family: Family, key: &[u8]) -> StoreError {
    StoreError::Corrupt {
        record: family.describe(key),
        detail: "its seal is whole, but it does not have the form of such a record".to_owned(),
    }
}
