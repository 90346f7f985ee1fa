//! Raft ids that were taken from their nodes for ever, and which nodes these were.
//!
//! Owns the form of the mark, and what is known of all marks. Never reads or writes the state: `state::read`
//! does, and `settle` writes marks. Called by the applier, which keeps it up to date, and by whoever has to turn somebody away.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::{NodeId, RaftId};

/// Why a raft id was taken from its node for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The node was removed.
    Removed,
    /// It went on as a worker.
    Demoted,
    /// A recovery left it behind.
    Lost,
}

impl Gone {
    const ALL: [Self; 3] = [Self::Removed, Self::Demoted, Self::Lost];

    const fn word(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Demoted => "demoted",
            Self::Lost => "lost",
        }
    }
}

/// The mark at the raft id of a manager that is none any more. Its certificate outlives it, and any raft id can be claimed with that,
/// so the node is turned away by its own id, also when its record goes later.
pub fn mark(why: Gone, node: NodeId) -> Bytes {
    format!("{} {node}", why.word()).into()
}

fn marked(mark: &[u8]) -> Option<NodeId> {
    let (why, node) = std::str::from_utf8(mark).ok()?.split_once(' ')?;
    Gone::ALL.iter().any(|gone| gone.word() == why).then(|| node.parse().ok()).flatten()
}

/// All marks: each raft id, with the node that it was taken from where the mark says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed(BTreeMap<RaftId, Option<NodeId>>);

impl Removed {
    /// Whether `id` was taken from its node for ever.
    pub fn contains(&self, id: &RaftId) -> bool {
        self.0.contains_key(id)
    }

    /// Whether this node was a manager once under a raft id that was taken from it: it may have a record and another raft id by now.
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
