//! What a configuration entry carries besides the change: the guard that decides, on every node alike, whether it
//! takes effect (design section 4, rule 7).
//!
//! Owns the guard's encoding and the arithmetic from a wanted configuration to raft's change. Pure functions.

use prost::Message as _;
use raft::eraftpb;

use crate::id::{LineageId, RaftId};
use crate::log::Configuration;

/// Travels in the entry. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Guard {
    /// 16 bytes: the incarnation in which it was proposed.
    #[prost(bytes = "bytes", tag = "1")]
    pub lineage: bytes::Bytes,
    /// The number of the configuration that it changes.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// The voters it changes: those of the configuration in force (the incoming half of a joint one).
    #[prost(uint64, repeated, tag = "3")]
    pub before: Vec<u64>,
    /// The voters that result.
    #[prost(uint64, repeated, tag = "4")]
    pub after: Vec<u64>,
}

impl Guard {
    /// For a change of `from` to `after` voters.
    pub fn new(lineage: LineageId, number: u64, from: &Configuration, after: &[RaftId]) -> Self {
        Self {
            lineage: bytes::Bytes::copy_from_slice(lineage.as_bytes()),
            number,
            before: from.voters.iter().map(|id| id.0).collect(),
            after: after.iter().map(|id| id.0).collect(),
        }
    }

    /// Whether the entry was made for exactly what is in force.
    pub fn is_current(&self, lineage: LineageId, number: u64, in_force: &Configuration) -> bool {
        self.lineage == lineage.as_bytes().as_slice()
            && self.number == number
            && self.before.iter().copied().eq(in_force.voters.iter().map(|id| id.0))
    }

    /// The invariant ODD, on what the entry itself says: checked when it is appended, by everybody.
    pub const fn is_odd(&self) -> bool {
        self.before.len() % 2 == 1 && self.after.len() % 2 == 1
    }

    /// Reads the guard of a change; `None` when there is none.
    pub fn of(change: &eraftpb::ConfChangeV2) -> Option<Self> {
        if change.context.is_empty() {
            return None;
        }
        Self::decode(change.context.as_slice()).ok()
    }
}

/// A configuration that is wanted instead of the one in force; not joint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The voters, ascending.
    pub voters: Vec<RaftId>,
    /// The members without a vote, ascending.
    pub learners: Vec<RaftId>,
}

/// Raft's change from `from` to `target`; voters change jointly, a change of learners alone is a simple one (and then
/// must be a single step).
pub(super) fn change(from: &Configuration, target: &Target, guard: &Guard) -> eraftpb::ConfChangeV2 {
    let mut changes = Vec::new();
    let mut push = |kind: eraftpb::ConfChangeType, id: RaftId| {
        changes.push(eraftpb::ConfChangeSingle { change_type: kind.into(), node_id: id.0 });
    };
    for id in &target.voters {
        if !from.voters.contains(id) {
            push(eraftpb::ConfChangeType::AddNode, *id);
        }
    }
    for id in &target.learners {
        if !from.learners.contains(id) {
            push(eraftpb::ConfChangeType::AddLearnerNode, *id);
        }
    }
    for id in from.members() {
        if !target.voters.contains(&id) && !target.learners.contains(&id) {
            push(eraftpb::ConfChangeType::RemoveNode, id);
        }
    }
    let transition = if from.voters == target.voters {
        eraftpb::ConfChangeTransition::Auto
    } else {
        eraftpb::ConfChangeTransition::Explicit
    };
    eraftpb::ConfChangeV2 { transition: transition.into(), changes, context: guard.encode_to_vec() }
}

/// The entry that leaves a joint configuration.
pub(super) fn leave(guard: &Guard) -> eraftpb::ConfChangeV2 {
    eraftpb::ConfChangeV2 {
        transition: eraftpb::ConfChangeTransition::Auto.into(),
        changes: Vec::new(),
        context: guard.encode_to_vec(),
    }
}
