//! What goes wrong with a disk: the power, a write or a sync that is refused, a record that is not what was written.
//!
//! Owns the ways in which a caller asks for it; when it strikes the disk decides. Called by the simulator and by tests.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Image;
use super::{Fault, MemoryStore, lock};
use crate::id::LogIndex;
use crate::mutants::{Mutant, on};

impl MemoryStore {
    /// The power goes: of the batches written since the last sync only the first `keep` survive, and every open handle
    /// is dead. `keep` is taken as [`MemoryStore::unsynced`] when it is more than that.
    ///
    /// A process that is only killed loses nothing: for that, just open again.
    pub fn crash(&self, keep: usize) {
        self.crash_torn(keep, 0);
    }

    /// As [`MemoryStore::crash`]; and of the first batch that does not survive the first `share` of 1,000 parts are on the disk,
    /// so that the next opening must find out that it is not whole. Says whether there was such a batch.
    pub fn crash_torn(&self, keep: usize, share: u64) -> bool {
        let mut disk = lock(&self.disk);
        disk.begin_opening();
        let batches = std::mem::take(&mut disk.unsynced);
        for batch in batches.iter().take(keep) {
            disk.durable.apply(batch);
        }
        let torn = batches.get(keep).and_then(|batch| batch.part(share));
        let is_torn = torn.is_some();
        disk.torn = torn.or_else(|| disk.torn.take());
        if on(Mutant::SilentTruncation) && disk.durable.log.len() > 1 {
            disk.durable.log.pop_last();
        }
        disk.current = disk.durable.clone();
        is_torn
    }

    /// The next write of any kind fails and changes nothing; the store is final then, until it is opened again.
    pub fn fail_next_write(&self, fault: Fault) {
        lock(&self.disk).fail_write = Some(fault);
    }

    /// The next sync of any kind fails: what it should have made durable may or may not survive a crash. The store is
    /// final then, until it is opened again.
    pub fn fail_next_sync(&self, fault: Fault) {
        lock(&self.disk).fail_sync = Some(fault);
    }

    /// What was to fail next, and has not yet, does not.
    pub fn fail_no_more(&self) {
        let mut disk = lock(&self.disk);
        (disk.fail_write, disk.fail_sync) = (None, None);
    }

    /// Damages the value at `key` on the disk: reading it answers `Corrupt`, until it is overwritten. Says whether there
    /// was one.
    pub fn corrupt_state(&self, key: &[u8]) -> bool {
        let mut disk = lock(&self.disk);
        let Some((key, _)) = disk.current.state.get_key_value(key) else { return false };
        let key = key.clone();
        disk.rotten_state.insert(key);
        true
    }

    /// Flips one bit of the value at `key` behind every checksum's back: reads return the wrong value. Only a comparison
    /// between members can find this. Says whether there was a value of at least one byte.
    pub fn flip_state(&self, key: &[u8]) -> bool {
        let mut disk = lock(&self.disk);
        let disk = &mut *disk;
        let mut flipped = false;
        for image in [&mut disk.current, &mut disk.durable] {
            let Some(value) = Arc::make_mut(&mut image.state).get_mut(key) else { continue };
            let mut bytes = value.to_vec();
            if let Some(first) = bytes.first_mut() {
                *first ^= 1;
                flipped = true;
            }
            *value = bytes.into();
        }
        flipped
    }

    /// Damages a log record on the disk: reading it and the next opening answer `Corrupt`. Says whether it was there.
    pub fn corrupt_log(&self, index: LogIndex) -> bool {
        let mut disk = lock(&self.disk);
        let there = disk.current.log.contains_key(&index.0);
        if there {
            disk.rotten_log.insert(index.0);
        }
        there
    }

    /// One bit turns in a synced record of the log: that of entry number `nth` of those on the disk, counted around. Reading it,
    /// and the next opening, answer `Corrupt`. Says which entry it was; `None` when nothing is synced.
    #[must_use]
    pub fn rot_log(&self, nth: u64) -> Option<LogIndex> {
        let mut disk = lock(&self.disk);
        let disk = &mut *disk;
        let synced: Vec<u64> = disk
            .durable
            .log
            .iter()
            .filter(|(index, entry)| disk.current.log.get(index) == Some(entry))
            .map(|(index, _)| *index)
            .collect();
        let index = *pick(&synced, nth)?;
        if on(Mutant::RotIsRead) {
            let turn = |image: &mut Image| {
                if let Some(entry) = image.log.get_mut(&index) {
                    entry.data = turned(&entry.data);
                }
            };
            turn(&mut disk.current);
            turn(&mut disk.durable);
        } else {
            disk.rotten_log.insert(index);
        }
        Some(LogIndex(index))
    }

    /// The same of a value of the state, of the keys in `from..to`. Says which key it was.
    #[must_use]
    pub fn rot_state(&self, nth: u64, from: &[u8], to: &[u8]) -> Option<Bytes> {
        let mut disk = lock(&self.disk);
        let disk = &mut *disk;
        let range = disk.durable.state.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let synced: Vec<Bytes> = range
            .filter(|(key, value)| disk.current.state.get(*key) == Some(*value))
            .map(|(key, _)| key.clone())
            .collect();
        let key = pick(&synced, nth)?.clone();
        if on(Mutant::RotIsRead) {
            let turn = |image: &mut Image| {
                if let Some(value) = Arc::make_mut(&mut image.state).get_mut(&key) {
                    *value = turned(value);
                }
            };
            turn(&mut disk.current);
            turn(&mut disk.durable);
        } else {
            disk.rotten_state.insert(key.clone());
        }
        Some(key)
    }

    /// Whether a record that is in use is damaged, found or not.
    #[must_use]
    pub fn is_rotten(&self) -> bool {
        let disk = lock(&self.disk);
        disk.first_rotten().is_some() || disk.rotten_state.iter().any(|key| disk.current.state.contains_key(key))
    }
}

fn pick<T>(of: &[T], nth: u64) -> Option<&T> {
    let at = nth.checked_rem(of.len() as u64)?;
    of.get(usize::try_from(at).ok()?)
}

/// With the last bit of the last byte turned.
fn turned(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}
