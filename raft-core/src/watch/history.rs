//! What the store says of revisions past, for a watch that has to catch up.
//!
//! Owns the reading of events and of the versions that they made and ended, in chunks that are bounded. Whether a revision
//! can still be read is decided by the very view that it is read from, so that no compaction can come in between. Never
//! waits. Called off the async threads, by the task of a watch that is behind.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{WATCH_PART_BYTES, WATCH_PREVIOUS_BYTES_MAX};
use crate::ports::{StateRead, StoreError, StoreResult, Visit};
use crate::state::contract::Refusal;
use crate::state::layout::{self, Record, RecordView, corrupt};
use crate::state::read::{ReadError, compact_revision, progress, recovery};
use crate::state::stored::{Event, decode};
use crate::watch::unit::{Changed, Filter, Pick, Told, ToldOf, Unit, previous_bytes};

/// Changes found before their values are read.
const CHANGES: usize = 256;
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

/// A change as an event names it.
struct Named {
    key: Bytes,
    deleted: bool,
    superseded: u64,
}

/// What concerns a filter, by revision.
type NamedRevisions = Vec<(u64, Vec<Named>)>;

/// Reads what the revisions `from..=upto` did to the keys of `filter`: some of them, at least one, all of each.
///
/// # Errors
/// `Refused` with `Compacted` or `NewGeneration` when `from` is not in the history of this view any more; `Store`.
pub fn read(view: &dyn StateRead, filter: &Filter, from: u64, upto: u64) -> Result<Chunk, ReadError> {
    check(view, from)?;
    let upto = upto.min(from.saturating_add(REVISIONS - 1));
    let (named, next) = named(view, filter, from, upto)?;
    let mut chunk = Chunk { told: Vec::new(), next, bytes: 0 };
    for (revision, changes) in named {
        if chunk.bytes >= WATCH_PART_BYTES {
            chunk.next = revision;
            break;
        }
        let unit = unit(view, filter, revision, changes)?;
        chunk.bytes += unit.bytes();
        chunk.told.push(Told::Changes(Arc::new(unit), ToldOf(Pick::All)));
    }
    Ok(chunk)
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

/// The changes that concern the filter, by revision, and the revision up to which that is all.
fn named(view: &dyn StateRead, filter: &Filter, from: u64, upto: u64) -> StoreResult<(NamedRevisions, u64)> {
    let newest = progress(view)?.map_or(0, |progress| progress.revision);
    let upto = upto.min(newest);
    let mut found = NamedRevisions::new();
    let mut count = 0;
    let mut next = upto + 1;
    let mut failed: Option<StoreError> = None;
    view.scan(&layout::event_key(from), &layout::event_key(upto + 1), &mut |key, value| {
        let read = layout::parse_event_key(key).ok_or_else(|| corrupt(key, "no key of an event"));
        match read.and_then(|revision| Ok((revision, decode::<Event>(key, value)?))) {
            Ok((revision, event)) => {
                if count >= CHANGES {
                    next = revision;
                    return Visit::Enough;
                }
                let named: Vec<Named> = event
                    .changes
                    .into_iter()
                    .filter(|change| filter.covers(&change.key) && filter.wants(change.deleted))
                    .map(|change| Named { key: change.key, deleted: change.deleted, superseded: change.superseded })
                    .collect();
                count += named.len();
                if !named.is_empty() {
                    found.push((revision, named));
                }
                Visit::More
            }
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        }
    })?;
    failed.map_or(Ok((found, next)), Err)
}

fn unit(view: &dyn StateRead, filter: &Filter, revision: u64, named: Vec<Named>) -> StoreResult<Unit> {
    let mut changes = Vec::with_capacity(named.len());
    let mut before = 0usize;
    for Named { key, deleted, superseded } in named {
        let new = if deleted { None } else { Some(written(view, &key, revision)?) };
        let mut old = None;
        // What would not be told is not read.
        let wanted = filter.previous && superseded > 0;
        let room = !filter.values || before <= WATCH_PREVIOUS_BYTES_MAX;
        if wanted && room {
            let stored = layout::history_key(&key, revision);
            let raw = view.get(&stored)?.ok_or_else(|| corrupt(&stored, "a version that an event names is missing"))?;
            let record = Record::parse(&stored, raw)?;
            before = before.saturating_add(previous_bytes(&record));
            // A value that is not told is not kept in memory either.
            old = Some(if filter.values { record } else { Record::new(RecordView { value: &[], ..record.view() }) });
        }
        let old_omitted = wanted && old.is_none();
        changes.push(Changed { key, new, old, old_omitted });
    }
    Ok(Unit::new(revision, changes))
}

/// The version of a key that `revision` wrote: the live one, or the first that ended after it.
fn written(view: &dyn StateRead, key: &Bytes, revision: u64) -> StoreResult<Record> {
    let live = layout::current_key(key);
    if let Some(raw) = view.get(&live)? {
        let record = Record::parse(&live, raw)?;
        if record.view().modified == revision {
            return Ok(record);
        }
    }
    let (from, to) = (layout::history_key(key, revision + 1), layout::history_key(key, u64::MAX));
    let mut found = None;
    view.scan(&from, &to, &mut |stored, raw| {
        found = Some(Record::parse(stored, Bytes::copy_from_slice(raw)));
        Visit::Enough
    })?;
    match found.transpose()? {
        Some(record) if record.view().modified == revision => Ok(record),
        Some(_) | None => Err(corrupt(&from, format!("the version that revision {revision} wrote is missing"))),
    }
}
