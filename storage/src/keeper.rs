//! The keys of an open store, changed while it is in use.
//!
//! Owns every change of the key record, and the re-sealing that follows a new data key. Each change is one replacement of
//! one file, and every state between two of them opens with a key that somebody has: a new data key is durable before
//! anything is sealed with it, an old one goes when no record names it and that is durable, and a new key-encryption key
//! stands beside the old one until whoever keeps it has it. Re-sealing goes in small steps under the journal's lock, so that
//! writers wait for no longer than for one of them. Called by the node, on threads that may block.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_core::ports::{StoreError, StoreResult};

use crate::db::{Store, Touch};
use crate::families::Family;
use crate::key::{Key, KeySlot};
use crate::key_record::{KeyRecord, Opened};
use crate::keyring::DataKey;

/// Records looked at, and bytes of records, in one step of re-sealing.
const STEP_RECORDS: usize = 1_024;
const STEP_BYTES: usize = 1 << 20;

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What there is to say of a store's keys; no secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyStatus {
    /// What opens the store. Two while a change waits to be confirmed.
    pub slots: Vec<KeySlot>,
    /// The data key that seals, counted from 1.
    pub data_key: u32,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// Older data keys that records still name: they are being sealed anew.
    pub older: Vec<u32>,
}

/// The hand on the keys of one open store.
pub struct KeyKeeper {
    store: Arc<Store>,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    record: KeyRecord,
    /// What opens it: the key in force, and the one that is to take its place.
    held: Vec<(Key, KeySlot)>,
    data: Vec<DataKey>,
    walk: Walk,
}

/// How far the re-sealing has come.
#[derive(Default)]
struct Walk {
    family: usize,
    from: Vec<u8>,
    /// Whether, when it began, nobody could still write what the old key had sealed.
    quiet: bool,
}

impl KeyKeeper {
    pub(crate) fn new(store: Arc<Store>, dir: &Path, record: KeyRecord, opened: Opened) -> Self {
        let id = opened.by.id();
        let slots = record.slots().into_iter().filter(|slot| slot.id == id);
        let held = slots.take(1).map(|slot| (opened.by.clone(), slot)).collect();
        let inner = Inner { record, held, data: opened.data, walk: Walk::default() };
        Self { store, dir: dir.to_owned(), inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, inner: &mut Inner, data: &[DataKey], held: Vec<(Key, KeySlot)>, active: u32) -> StoreResult<()> {
        self.store.alive()?;
        let keys: Vec<(&Key, KeySlot)> = held.iter().map(|(key, slot)| (key, slot.clone())).collect();
        let next = inner.record.rewrapped(&keys, data, active, unix_seconds())?;
        // A failure here is final like any other: what is on disk is not known any more.
        self.store.guard(next.save(&self.dir, self.store.probe()))?;
        inner.record = next;
        inner.held = held;
        inner.data = data.to_vec();
        Ok(())
    }

    /// What there is to say.
    pub fn status(&self) -> KeyStatus {
        let inner = self.inner();
        let active = inner.record.active();
        let made = inner.record.made();
        KeyStatus {
            slots: inner.record.slots(),
            data_key: active,
            made: made.iter().find(|(id, _)| *id == active).map_or(0, |(_, made)| *made),
            older: inner.data.iter().map(|key| key.id).filter(|id| *id != active).collect(),
        }
    }

    /// The key in force, and how it is found again.
    pub fn held(&self) -> Option<(Key, KeySlot)> {
        self.inner().held.first().cloned()
    }

    /// Leaves only the key that opened the store: what was begun before it was opened, and not finished, does not count.
    /// Whether there was something to undo.
    ///
    /// # Errors
    /// `Io` or `Full`, final for the store.
    pub fn settle(&self) -> StoreResult<bool> {
        let mut inner = self.inner();
        if inner.record.slots().len() <= 1 {
            return Ok(false);
        }
        let held = inner.held.iter().take(1).cloned().collect();
        let (data, active) = (inner.data.clone(), inner.record.active());
        self.save(&mut inner, &data, held, active)?;
        Ok(true)
    }

    /// Lets `key` open the store beside the key in force. One that was begun before is forgotten.
    ///
    /// # Errors
    /// `Io` or `Full`, final for the store.
    pub fn begin_change(&self, key: &Key, slot: KeySlot) -> StoreResult<()> {
        let mut inner = self.inner();
        let mut held: Vec<_> = inner.held.iter().take(1).cloned().collect();
        held.push((key.clone(), slot));
        let (data, active) = (inner.data.clone(), inner.record.active());
        self.save(&mut inner, &data, held, active)
    }

    /// From now on only `key` opens the store. It must be where it will be looked for already.
    ///
    /// # Errors
    /// `Io` or `Full`, final for the store.
    pub fn change(&self, key: &Key, slot: KeySlot) -> StoreResult<()> {
        let mut inner = self.inner();
        let (data, active) = (inner.data.clone(), inner.record.active());
        self.save(&mut inner, &data, vec![(key.clone(), slot)], active)
    }

    /// From now on only the key that was begun opens the store. Whether there was one.
    ///
    /// # Errors
    /// `Io` or `Full`, final for the store.
    pub fn finish_change(&self) -> StoreResult<bool> {
        let mut inner = self.inner();
        if inner.held.len() < 2 {
            return Ok(false);
        }
        let held = inner.held.last().cloned().into_iter().collect();
        let (data, active) = (inner.data.clone(), inner.record.active());
        self.save(&mut inner, &data, held, active)?;
        Ok(true)
    }

    /// Seals with a fresh data key from now on; [`reseal_step`](Self::reseal_step) does the rest. The number of the new key.
    ///
    /// # Errors
    /// `Io` or `Full`, final for the store.
    pub fn rotate_data_key(&self) -> StoreResult<u32> {
        let mut inner = self.inner();
        let id = inner.data.iter().map(|key| key.id).max().unwrap_or(0).saturating_add(1);
        let key = DataKey::generate(id)?;
        let mut data = inner.data.clone();
        data.push(key.clone());
        let held = inner.held.clone();
        self.save(&mut inner, &data, held, id)?;
        self.store.guard(self.store.keys.activate(key))?;
        inner.walk = Walk::default();
        Ok(id)
    }

    /// Seals some records anew that an older data key has sealed, and lets that key go when there are none left. Whether
    /// there is more to do: soon, but not at once, so that writers are not held up.
    ///
    /// # Errors
    /// As reading and writing the store.
    pub fn reseal_step(&self) -> StoreResult<bool> {
        let mut inner = self.inner();
        if inner.data.len() <= 1 {
            return Ok(false);
        }
        self.store.alive()?;
        if inner.walk.family == 0 && inner.walk.from.is_empty() {
            inner.walk.quiet = self.store.keys.is_quiet();
        }
        let active = inner.record.active();
        if let Some(family) = Family::ALL.get(inner.walk.family).copied() {
            let next = self.store.reseal(family, &inner.walk.from, active, (STEP_RECORDS, STEP_BYTES))?;
            match next {
                Some(next) => inner.walk.from = next,
                None => inner.walk = Walk { family: inner.walk.family + 1, from: Vec::new(), ..inner.walk },
            }
            return Ok(true);
        }
        let quiet = inner.walk.quiet;
        inner.walk = Walk::default();
        if !quiet {
            return Ok(true);
        }
        let store = &self.store;
        store.write(&mut store.journal(), "syncing what was sealed anew", store.batch()?, Touch::Aside, true)?;
        store.reached("keys: everything is sealed anew");
        let data: Vec<DataKey> = inner.data.iter().filter(|key| key.id == active).cloned().collect();
        if data.is_empty() {
            return Err(StoreError::Poisoned("the data key in use is not in the key record".to_owned()));
        }
        let held = inner.held.clone();
        self.save(&mut inner, &data, held, active)?;
        Ok(false)
    }
}
