//! What the planner sees.
//!
//! Owns plain types. Put together by the leader from node records, Raft progress and liveness; by tests from a story.

use crate::id::{NodeId, RaftId};
use crate::log::Configuration;

/// One manager, or one that is to be a manager no more and still is a member. Times are ticks of this leadership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, by name")]
pub struct ManagerView {
    /// The raft id of its record.
    pub raft_id: RaftId,
    /// The damaged raft id of the same node that this one takes the place of.
    pub replaces: Option<RaftId>,
    /// It is the leader that plans.
    pub leader: bool,
    /// Its connection stands, and a message of it arrived within one election timeout.
    pub connected: bool,
    /// It has nearly all of the log: behind the commit index by less than an absolute bound.
    pub caught_up: bool,
    /// It has been connected and caught up for the stabilisation time.
    pub stable: bool,
    /// For how long it has been connected and caught up.
    pub stable_ticks: u64,
    /// How long nothing of it arrived.
    pub silent_ticks: u64,
    /// For how long it has been on its way: to be a manager, and not ready for a seat.
    pub waiting_ticks: u64,
    /// It is asked to be a worker.
    pub demoted: bool,
    /// It is to be removed.
    pub removing: bool,
    /// The wish to demote or remove it may end the cluster's fault tolerance.
    pub forced: bool,
    /// It is not replaced for now, however silent.
    pub held: bool,
    /// A worker promoted in place of a lost voter.
    pub stands_in: bool,
    /// A preferred leader.
    pub preferred: bool,
    /// How often leadership was to be handed to it and did not go, since another member led.
    pub let_pass: u32,
    /// It cannot open what the barrier's active key seals: it has no copy of that yet.
    pub sealed_out: bool,
    /// Where it stands; empty is not said.
    pub zone: String,
}

impl ManagerView {
    /// It may get a seat.
    pub const fn is_ready(&self) -> bool {
        self.connected && self.caught_up && self.stable && !self.sealed_out
    }

    /// It is to hold no seat, and be no standby either.
    pub const fn is_leaving(&self) -> bool {
        self.demoted || self.removing
    }

    pub(super) const fn is_alive(&self) -> bool {
        self.connected || self.leader
    }
}

/// A worker that may be promoted for a seat that nobody else can take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerView {
    /// Which node.
    pub node: NodeId,
    /// Where it stands; empty is not said.
    pub zone: String,
    /// So many ticks ago it was taken back, because it had not caught up in time.
    pub taken_back: Option<u64>,
}

/// Everything the planner looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeatView {
    /// The configuration in force at the leader's applied index.
    pub configuration: Configuration,
    /// A configuration entry is in the log and not yet applied.
    pub pending: bool,
    /// Every node with a raft id that is not burnt, in any order: those that are to be managers, and those that are to
    /// be none any more and may still be members.
    pub managers: Vec<ManagerView>,
    /// Nodes that are to be managers and have no raft id yet, for less than the time that such a one is waited for.
    pub enrolling: usize,
    /// Workers that may be promoted for a lost voter.
    pub workers: Vec<WorkerView>,
}
