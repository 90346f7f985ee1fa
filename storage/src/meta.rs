//! Small facts about the node, not replicated.
//!
//! Owns the records under `fact/` in `raft_meta`, and which version the store is marked to need. Every write is synced.
//! Called by the node for identity and fence, and when the cluster's version rises.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::ports::{MetaStore, StoreResult};

use crate::db::{Store, Touch};
use crate::dir;
use crate::families::{Family, meta_key};

/// The node's port.
pub(crate) struct Meta {
    pub(crate) store: Arc<Store>,
    /// The store's directory.
    pub(crate) dir: PathBuf,
    /// The version that it is marked to need.
    pub(crate) needs: Mutex<u32>,
}

/// The fact under `name`.
pub(crate) fn read(store: &Store, name: &str) -> StoreResult<Option<Bytes>> {
    store.get(Family::Meta, &meta_key::fact(name), None)
}

impl MetaStore for Meta {
    fn get(&self, name: &str) -> StoreResult<Option<Bytes>> {
        read(&self.store, name)
    }

    fn put(&self, facts: &[(&str, Bytes)]) -> StoreResult<()> {
        let store = &self.store;
        store.alive()?;
        let mut batch = store.batch()?;
        for (name, value) in facts {
            batch.put(Family::Meta, &meta_key::fact(name), value)?;
        }
        store.write(&mut store.journal(), "writing facts about the node", batch, Touch::Log, true)
    }

    fn require(&self, version: u32) -> StoreResult<()> {
        let mut needs = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        if version <= *needs {
            return Ok(());
        }
        self.store.alive()?;
        self.store.guard(dir::declare(&self.dir, version))?;
        *needs = version;
        Ok(())
    }
}
