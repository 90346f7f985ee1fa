//! Raft ids that were taken from their nodes for ever, and the managers among those that were removed.
//!
//! Owns the form of the mark of a removed manager, and what is known of all marks. Never reads or writes the state: `state::read`
//! does, and `settle` writes marks. Called by the applier, which keeps it up to date, and by whoever has to turn somebody away.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::{NodeId, RaftId};

/// The word before the node's id.
const REMOVED: &str = "removed ";

/// The mark at the raft id of a manager that was removed. Its certificate outlives it, and any raft id can be claimed with that, so
/// the node is turned away by its own id.
pub fn mark(node: NodeId) -> Bytes {
    format!("{REMOVED}{node}").into()
}

fn marked(mark: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(mark).ok()?.strip_prefix(REMOVED)?.parse().ok()
}

/// All marks: each raft id, with the node where that was removed together with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed(BTreeMap<RaftId, Option<NodeId>>);

impl Removed {
    /// Whether `id` was taken from its node for ever.
    pub fn contains(&self, id: &RaftId) -> bool {
        self.0.contains_key(id)
    }

    /// Whether this node was removed while it was a manager.
    pub fn contains_node(&self, node: NodeId) -> bool {
        self.0.values().any(|removed| *removed == Some(node))
    }

    /// The raft ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.0.keys().copied()
    }

    /// What lies at `id` now: a mark, or none.
    pub fn set(&mut self, id: RaftId, mark: Option<&[u8]>) {
        match mark {
            Some(mark) => self.0.insert(id, marked(mark)),
            None => self.0.remove(&id),
        };
    }
}
