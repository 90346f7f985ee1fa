//! Small facts about the node, not replicated.
//!
//! Owns the records under `fact/` in `raft_meta`. Every write is synced. Called by the node for identity and fence.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::ports::{MetaStore, StoreResult};

use crate::db::{Store, Touch};
use crate::families::{Family, meta_key};

/// The node's port.
pub(crate) struct Meta(pub(crate) Arc<Store>);

impl MetaStore for Meta {
    fn get(&self, name: &str) -> StoreResult<Option<Bytes>> {
        self.0.get(Family::Meta, &meta_key::fact(name), None)
    }

    fn put(&self, facts: &[(&str, Bytes)]) -> StoreResult<()> {
        let store = &self.0;
        store.alive()?;
        let mut batch = store.batch()?;
        for (name, value) in facts {
            batch.put(Family::Meta, &meta_key::fact(name), value)?;
        }
        store.write(&mut store.journal(), "writing facts about the node", batch, Touch::Log, true)
    }
}
