//! What a configuration entry carries besides the change: the guard that decides, on every node alike, whether it
//! takes effect (design section 4, rule 7).
//!
//! Owns the guard's encoding and raft's form of a planned change. Pure functions.

use prost::Message as _;
use raft::eraftpb;

use crate::id::{LineageId, RaftId};
use crate::log::Configuration;
use crate::membership::plan::{SeatChange, SeatStep};
use crate::mutants::{Mutant, on};

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
        (on(Mutant::NoLineage) || self.lineage == lineage.as_bytes().as_slice())
            && self.number == number
            && self.before.iter().copied().eq(in_force.voters.iter().map(|id| id.0))
    }

    /// The invariant ODD, on what the entry itself says: checked when it is appended, by everybody.
    pub const fn is_odd(&self) -> bool {
        self.before.len() % 2 == 1 && self.after.len() % 2 == 1
    }

    /// Whether the entry did what it said.
    pub fn leads_to(&self, result: &Configuration) -> bool {
        self.after.iter().copied().eq(result.voters.iter().map(|id| id.0))
    }

    /// Reads the guard of a change; `None` when there is none.
    pub fn of(change: &eraftpb::ConfChangeV2) -> Option<Self> {
        if change.context.is_empty() {
            return None;
        }
        Self::decode(change.context.as_slice()).ok()
    }
}

/// The payload of the entry that makes a planned change: what the machine proposes, for tests that write a log by hand.
#[cfg(feature = "testing")]
pub fn payload(planned: &SeatChange, guard: &Guard) -> bytes::Bytes {
    use prost011::Message as _;
    change(planned, guard).encode_to_vec().into()
}

/// Raft's form of a planned change: voters change jointly and explicitly, one learner simply.
pub(super) fn change(planned: &SeatChange, guard: &Guard) -> eraftpb::ConfChangeV2 {
    let single = |step: &SeatStep| {
        let (kind, id) = match *step {
            SeatStep::AddVoter(id) => (eraftpb::ConfChangeType::AddNode, id),
            SeatStep::AddLearner(id) => (eraftpb::ConfChangeType::AddLearnerNode, id),
            SeatStep::Remove(id) => (eraftpb::ConfChangeType::RemoveNode, id),
        };
        eraftpb::ConfChangeSingle { change_type: kind.into(), node_id: id.0 }
    };
    let transition = match planned {
        SeatChange::Joint { .. } => eraftpb::ConfChangeTransition::Explicit,
        SeatChange::Learner { .. } => eraftpb::ConfChangeTransition::Auto,
    };
    eraftpb::ConfChangeV2 {
        transition: transition.into(),
        changes: planned.steps().iter().map(single).collect(),
        context: guard.encode_to_vec(),
    }
}

/// The entry that leaves a joint configuration.
pub(super) fn leave(guard: &Guard) -> eraftpb::ConfChangeV2 {
    eraftpb::ConfChangeV2 {
        transition: eraftpb::ConfChangeTransition::Auto.into(),
        changes: Vec::new(),
        context: guard.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_made_for_another_configuration_is_void() {
        let ids = |ids: &[u64]| ids.iter().copied().map(RaftId).collect::<Vec<_>>();
        let in_force = Configuration { voters: ids(&[1, 2, 3]), ..Configuration::default() };
        let grown = Configuration { voters: ids(&[1, 2, 3, 4, 5]), ..Configuration::default() };
        let lineage = LineageId::from_bytes([1; 16]);
        let guard = Guard::new(lineage, 4, &in_force, &ids(&[1, 2, 3, 4, 5]));
        let read_back = change(&SeatChange::Joint { steps: vec![SeatStep::AddVoter(RaftId(4))] }, &guard);
        assert_eq!(Guard::of(&read_back).as_ref(), Some(&guard));
        assert!(guard.is_current(lineage, 4, &in_force));
        // The same entry again, after it took effect; from before a recovery; and for other voters
        assert!(!guard.is_current(lineage, 5, &in_force));
        assert!(!guard.is_current(LineageId::from_bytes([2; 16]), 4, &in_force));
        assert!(!guard.is_current(lineage, 4, &grown));
    }
}
