//! Small facts about the node, not replicated.
//!
//! Owns the record `facts` in `raft_meta`, and which version the store is marked to need. Every write is synced.
//! Called by the node for identity and fence, and when the cluster's version rises.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::ports::{MetaStore, StoreResult};

use zeroize::Zeroize as _;

use crate::db::{Journal, Store, Touch};
use crate::dir;
use crate::families::{Family, meta_key};
use crate::head::{FactTable, check_facts};

/// The node's port.
pub(crate) struct Meta {
    pub(crate) store: Arc<Store>,
    /// The store's directory.
    pub(crate) dir: PathBuf,
    /// The version that it is marked to need.
    pub(crate) needs: Mutex<u32>,
}

/// All facts, which must be those that the head knows of.
fn table(store: &Store, journal: &Journal) -> StoreResult<FactTable> {
    let found = store.get(Family::Meta, meta_key::FACTS, None)?;
    let (serial, table) = match found {
        None => (0, FactTable::default()),
        Some(found) => {
            let decoded = FactTable::decode(&found);
            if let Ok(mut plain) = found.try_into_mut() {
                plain.as_mut().zeroize();
            }
            store.guard(decoded)?
        }
    };
    store.guard(check_facts(journal.serials.facts, serial))?;
    Ok(table)
}

/// All facts with these among them; none where nothing is changed.
pub(crate) fn changed(store: &Store, journal: &Journal, facts: &[(&str, Bytes)]) -> StoreResult<Option<FactTable>> {
    if facts.is_empty() {
        return Ok(None);
    }
    let mut table = table(store, journal)?;
    for (name, value) in facts {
        table.set(name, value);
    }
    Ok(Some(table))
}

/// The fact under `name`.
pub(crate) fn read(store: &Store, name: &str) -> StoreResult<Option<Bytes>> {
    Ok(table(store, &store.journal())?.get(name))
}

impl MetaStore for Meta {
    fn get(&self, name: &str) -> StoreResult<Option<Bytes>> {
        read(&self.store, name)
    }

    fn put(&self, facts: &[(&str, Bytes)]) -> StoreResult<()> {
        let store = &self.store;
        store.takes_facts()?;
        let mut journal = store.journal();
        let mut batch = store.batch()?;
        batch.facts = changed(store, &journal, facts)?;
        store.write(&mut journal, "writing facts about the node", batch, Touch::Facts, true)
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
