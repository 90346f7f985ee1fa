//! Physical removal of what the compact revision has released.
//!
//! Owns this member's own progress in it. Never moves the compact revision, which is replicated; never touches what a
//! read at or above it needs. Called by the machine when the applier has time.

use prost::Message;

use crate::ports::{StateRead, StoreError, StoreResult, Visit, WriteSet};
use crate::state::layout::{self, corrupt};
use crate::state::stored::{Counter, Event, decode};

/// What one step of removal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Changes whose past was removed, superseded versions and events.
    pub removed: usize,
    /// Nothing released is left.
    pub complete: bool,
}

/// The removal of whole revisions up to `compact`, until at least `max` changes' past is gone.
pub(crate) fn trim(store: &dyn StateRead, compact: u64, max: usize) -> StoreResult<(WriteSet, Trimmed)> {
    let mut writes = WriteSet::default();
    let mut step = Trimmed { removed: 0, complete: true };
    let trimmed = match store.get(layout::META_TRIMMED)? {
        Some(bytes) => decode::<Counter>(layout::META_TRIMMED, &bytes)?.value,
        None => 0,
    };
    if trimmed >= compact {
        return Ok((writes, step));
    }
    let mut reached = compact;
    let mut last = trimmed;
    let mut failed: Option<StoreError> = None;
    // From where it stopped: what was removed before it may still cost the store a step each.
    store.scan(&layout::event_key(trimmed + 1), &layout::event_key(compact.saturating_add(1)), &mut |key, value| {
        if step.removed >= max.max(1) {
            reached = last;
            step.complete = false;
            return Visit::Enough;
        }
        let read = layout::parse_event_key(key).ok_or_else(|| corrupt(key, "no key of an event"));
        match read.and_then(|revision| Ok((revision, decode::<Event>(key, value)?))) {
            Ok((revision, event)) => {
                last = revision;
                writes.delete(bytes::Bytes::copy_from_slice(key));
                // An event without a superseded version costs a write as well, so it counts.
                step.removed += event.changes.len().max(1);
                for change in event.changes.iter().filter(|change| change.superseded > 0) {
                    writes.delete(layout::history_key(&change.key, revision));
                }
                Visit::More
            }
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    writes.put(layout::META_TRIMMED, Counter { value: reached }.encode_to_vec());
    Ok((writes, step))
}
