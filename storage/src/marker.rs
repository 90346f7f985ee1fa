//! The durable marker: how far the journal was known to be synced.
//!
//! Owns one small file that is written, but not synced, after every sync of the journal. It says: all changes up to this
//! sequence number are durable. A flip in the very last synced record looks exactly like a torn tail; with the marker at
//! hand it does not, because what it names must be there. It is never ahead of the truth; after a power cut it may be
//! behind it by what the kernel had not yet written back, after the kill of a process it is exact.
//!
//! Two slots are written in turns, in sectors of their own, so that a torn write leaves the other. Called by the journal
//! after each sync, and when a store is opened.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use quorate_core::ports::{StoreError, StoreResult};

use crate::error::io_error;

const NAME: &str = "durable";
const DRAFT: &str = "durable.new";
const SLOT_BYTES: u64 = 512;
const RECORD_BYTES: usize = 20;

/// How far the journal was synced: RocksDB's sequence number, and our own count of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Synced {
    pub(crate) sequence: u64,
    pub(crate) serial: u64,
}

/// The open marker of one store.
#[derive(Debug)]
pub(crate) struct Marker {
    file: File,
    synced: Synced,
    second: bool,
}

impl Marker {
    /// Makes the marker of a new store, when it has none yet.
    pub(crate) fn ensure(dir: &Path) -> StoreResult<()> {
        let doing = "creating the durable marker";
        let io = |error: std::io::Error| io_error(doing, &error);
        if dir.join(NAME).exists() {
            return Ok(());
        }
        let draft = dir.join(DRAFT);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
        for slot in 0..2 {
            file.write_all_at(&record(Synced::default()), slot * SLOT_BYTES).map_err(io)?;
        }
        file.set_len(2 * SLOT_BYTES).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&draft, dir.join(NAME)).map_err(io)?;
        crate::dir::sync(dir)
    }

    /// Opens the marker of a store that exists.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or neither slot is whole.
    pub(crate) fn open(dir: &Path, read_only: bool) -> StoreResult<Self> {
        let damaged = |detail: String| StoreError::Corrupt {
            record: "durable marker".to_owned(),
            detail: format!("{detail}; nothing was changed"),
        };
        let path = dir.join(NAME);
        let file = match OpenOptions::new().read(true).write(!read_only).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(damaged(format!("the file `{NAME}` is missing from the store")));
            }
            Err(error) => return Err(io_error("opening the durable marker", &error)),
        };
        let slots = [slot(&file, 0), slot(&file, SLOT_BYTES)];
        let Some(synced) = slots.iter().flatten().max().copied() else {
            return Err(damaged(format!("neither copy in the file `{NAME}` can be read")));
        };
        // The next write goes over the older copy, or over the one that cannot be read.
        let second = slots.first() == Some(&Some(synced));
        Ok(Self { file, synced, second })
    }

    /// The last change known to be durable.
    pub(crate) const fn sequence(&self) -> u64 {
        self.synced.sequence
    }

    /// The last batch known to be durable.
    pub(crate) const fn serial(&self) -> u64 {
        self.synced.serial
    }

    /// Notes that everything up to `synced` was synced.
    pub(crate) fn note(&mut self, synced: Synced) -> StoreResult<()> {
        if synced <= self.synced {
            return Ok(());
        }
        let offset = if self.second { SLOT_BYTES } else { 0 };
        self.file
            .write_all_at(&record(synced), offset)
            .map_err(|error| io_error("writing the durable marker", &error))?;
        self.second = !self.second;
        self.synced = synced;
        Ok(())
    }
}

fn record(synced: Synced) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let (numbers, sum) = bytes.split_at_mut(16);
    let (sequence, serial) = numbers.split_at_mut(8);
    sequence.copy_from_slice(&synced.sequence.to_be_bytes());
    serial.copy_from_slice(&synced.serial.to_be_bytes());
    sum.copy_from_slice(&crc32c::crc32c(numbers).to_be_bytes());
    bytes
}

fn slot(file: &File, offset: u64) -> Option<Synced> {
    let mut bytes = [0; RECORD_BYTES];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let (sequence, rest) = bytes.split_first_chunk()?;
    let synced = Synced { sequence: u64::from_be_bytes(*sequence), serial: u64::from_be_bytes(*rest.first_chunk()?) };
    (record(synced) == bytes).then_some(synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Synced {
        Synced { sequence, serial: sequence / 2 }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        Marker::ensure(dir.path()).unwrap();
        let mut marker = Marker::open(dir.path(), false).unwrap();
        for sequence in [1, 2, 9] {
            marker.note(at(sequence)).unwrap();
        }
        marker.note(at(4)).unwrap();
        assert_eq!(Marker::open(dir.path(), false).unwrap().sequence(), 9);
        // when the newest slot is torn, the one before it stands
        let mut bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        let newest = if slot(&marker.file, 0) == Some(at(9)) { 3 } else { 512 + 3 };
        bytes[newest] ^= 1;
        std::fs::write(dir.path().join(NAME), bytes).unwrap();
        let mut marker = Marker::open(dir.path(), false).unwrap();
        assert_eq!(marker.sequence(), 2);
        // and the next write goes over the torn one
        marker.note(at(11)).unwrap();
        assert_eq!(slot(&marker.file, if newest == 3 { 512 } else { 0 }), Some(at(2)));
    }

    #[test]
    fn a_missing_marker_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Marker::open(dir.path(), true), Err(StoreError::Corrupt { .. })));
    }
}
