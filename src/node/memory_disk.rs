//! The disk of a node of a test cluster: a store in memory, and how much space is free beside it.
//!
//! Owns what outlives the node that ran on it, as a disk does. The store is the one that the simulator uses and that the
//! conformance suite holds to the same promises as the one on RocksDB. Called by the layout of a directory and by the test
//! cluster, which fills it, breaks it and takes its power.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_core::ports::{OpenStore, StoreResult};
use quorate_core::testing::{Fault, MemoryStore};

/// Clones are handles to the same disk.
#[derive(Debug, Clone)]
pub(crate) struct MemoryDisk {
    store: Arc<Mutex<MemoryStore>>,
    made: Arc<AtomicBool>,
    free: Arc<AtomicU64>,
}

impl MemoryDisk {
    /// An empty disk with this many bytes.
    pub(crate) fn new(free: u64) -> Self {
        Self { store: Arc::default(), made: Arc::default(), free: Arc::new(AtomicU64::new(free)) }
    }

    /// Whether somebody has made a store on it.
    pub(super) fn has_store(&self) -> bool {
        self.made.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) -> StoreResult<OpenStore> {
        self.made.store(true, Ordering::Release);
        self.store().open()
    }

    fn store(&self) -> MemoryStore {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing of it is left.
    pub(super) fn remove_store(&self) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = MemoryStore::new();
        self.made.store(false, Ordering::Release);
    }

    pub(super) fn free_space(&self) -> u64 {
        self.free.load(Ordering::Acquire)
    }

    /// So many bytes are free from now on.
    pub(crate) fn set_free_space(&self, bytes: u64) {
        self.free.store(bytes, Ordering::Release);
    }

    /// The power goes: what was not synced is gone, and whoever has it open can write nothing any more.
    pub(crate) fn lose_power(&self) {
        self.store().crash(0);
    }

    /// The next write fails, and with it the store, until it is opened again.
    pub(crate) fn fail_next_write(&self) {
        self.store().fail_next_write(Fault::Io);
    }
}
