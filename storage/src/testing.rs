//! What tests do to a closed store.
//!
//! Owns the imitation of a power cut on a RocksDB store. Never part of a node. Called by the conformance tests.

use std::fs::OpenOptions;
use std::path::Path;

use quorate_core::ports::StoreResult;

use crate::error::io_error;
use crate::marker::Marker;
use crate::{dir, wal};

/// Takes everything that was not synced from the newest file of the journal of the closed store in `dir`, as a power cut
/// may. Says how many batches were taken. Older files stay as they are: RocksDB syncs them when it writes tables.
///
/// # Errors
/// As opening it.
pub fn lose_unsynced(dir: &Path) -> StoreResult<usize> {
    let marker = Marker::open(dir, true)?;
    let database = dir::database(dir);
    let judged = wal::scan(&database)?;
    let Some(newest) = wal::files(&database)?.pop() else { return Ok(0) };
    let records = judged.ends.iter().filter(|(file, _, _)| *file == newest);
    let keep = records.clone().filter(|(_, _, last)| *last <= marker.sequence()).map(|(_, end, _)| *end).max();
    OpenOptions::new()
        .write(true)
        .open(&newest)
        .and_then(|open| open.set_len(keep.unwrap_or(0)))
        .map_err(|error| io_error("cutting a write-ahead log for a test", &error))?;
    Ok(records.filter(|(_, _, last)| *last > marker.sequence()).count())
}
