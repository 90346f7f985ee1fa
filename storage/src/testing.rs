//! What tests do to a closed store.
//!
//! Owns the imitation of a power cut on a RocksDB store. Never part of a node. Called by the conformance tests.

use std::fs::OpenOptions;
use std::path::Path;

use quorate_core::ports::StoreResult;

use crate::error::io_error;
use crate::marker::Marker;
use crate::{dir, wal};

/// Takes everything that was not synced from the journal of the closed store in `dir`, as a power cut may.
///
/// Says how many batches were taken. What RocksDB had already moved to its tables stays, so the store must be small.
///
/// # Errors
/// As opening it.
pub fn lose_unsynced(dir: &Path) -> StoreResult<usize> {
    let marker = Marker::open(dir, true)?;
    let database = dir::database(dir);
    let judged = wal::scan(&database)?;
    let mut taken = 0;
    for file in wal::files(&database)? {
        let records = judged.ends.iter().filter(|(of, _, _)| *of == file);
        let keep = records.clone().filter(|(_, _, last)| *last <= marker.sequence()).map(|(_, end, _)| *end).max();
        taken += records.filter(|(_, _, last)| *last > marker.sequence()).count();
        OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|open| open.set_len(keep.unwrap_or(0)))
            .map_err(|error| io_error("cutting a write-ahead log for a test", &error))?;
    }
    Ok(taken)
}
