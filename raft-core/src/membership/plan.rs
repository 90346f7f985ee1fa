//! The seat planner: who gets a vote, as a pure function.
//!
//! Owns the odd rule in its simple form: growing by two, a lone second manager as standby, a damaged store's old raft id
//! replaced by its new one. Never proposes, never waits, never counts time: what it sees says who is stable. Called by the
//! leader on every tick and every event; the answer depends on nothing but the view, so whoever leads next goes on.
//!
//! Order: replace, then grow, then the learners, one at a time (raft takes several changes at once as a joint one, and a
//! change of learners alone is a simple one).

use std::collections::BTreeSet;

use crate::id::RaftId;
use crate::log::Configuration;
use crate::membership::quorum::{Quorum, check_odd};

/// What the planner sees of one manager, put together by the leader from its node record, Raft progress and liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ManagerView {
    /// The raft id of its record.
    pub raft_id: RaftId,
    /// The damaged raft id of the same node that this one takes the place of.
    pub replaces: Option<RaftId>,
    /// It is the leader that plans.
    pub leader: bool,
    /// Messages arrive from it.
    pub connected: bool,
    /// It has nearly all of the log: behind the commit index by less than an absolute bound.
    pub caught_up: bool,
    /// It has been connected and caught up for the stabilisation time of this leadership.
    pub stable: bool,
}

impl ManagerView {
    /// It may get a seat.
    const fn is_ready(&self) -> bool {
        self.connected && self.caught_up && self.stable
    }
}

/// Everything the planner looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeatView {
    /// The configuration in force at the leader's applied index.
    pub configuration: Configuration,
    /// A configuration entry is in the log and not yet applied.
    pub pending: bool,
    /// Every node whose desired role is manager and that has a raft id, in any order.
    pub managers: Vec<ManagerView>,
}

/// A wrong setting of the most voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "max_voters is {given}, it must be 3, 5, 7 or 9: an even number of voters survives no more losses than one voter less. Nothing was changed"
)]
pub struct EvenMaxVoters {
    /// What was asked for.
    pub given: u32,
}

/// The settings that the planner follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatPolicy {
    max_voters: usize,
}

impl SeatPolicy {
    /// With at most so many voters.
    ///
    /// # Errors
    /// `EvenMaxVoters` for anything but 3, 5, 7 and 9.
    pub const fn new(max_voters: u32) -> Result<Self, EvenMaxVoters> {
        match max_voters {
            3 => Ok(Self { max_voters: 3 }),
            5 => Ok(Self { max_voters: 5 }),
            7 => Ok(Self { max_voters: 7 }),
            9 => Ok(Self { max_voters: 9 }),
            given => Err(EvenMaxVoters { given }),
        }
    }

    /// Most voters.
    pub const fn max_voters(&self) -> usize {
        self.max_voters
    }
}

/// One step of a change, as raft's configuration change takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeatStep {
    /// Give a vote.
    AddVoter(RaftId),
    /// Make it a member without a vote; a voter loses its vote.
    AddLearner(RaftId),
    /// No member any more.
    Remove(RaftId),
}

/// What is to be proposed now, as ONE configuration change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeatChange {
    /// Voters change: explicit joint consensus, to be left by a further entry.
    Joint {
        /// The steps, in ascending order of kind and raft id.
        steps: Vec<SeatStep>,
    },
    /// One learner changes: a simple change.
    Learner {
        /// The step; never about a voter.
        step: SeatStep,
    },
}

impl SeatChange {
    /// The steps.
    pub fn steps(&self) -> &[SeatStep] {
        match self {
            Self::Joint { steps } => steps,
            Self::Learner { step } => std::slice::from_ref(step),
        }
    }

    /// The configuration that is in force once the change has been applied: a joint one for a change of voters. What
    /// raft itself computes for the same steps.
    #[must_use]
    pub fn apply_to(&self, from: &Configuration) -> Configuration {
        let mut to = from.clone();
        if matches!(self, Self::Joint { .. }) {
            to.voters_outgoing.clone_from(&from.voters);
        }
        for step in self.steps() {
            let (SeatStep::AddVoter(id) | SeatStep::AddLearner(id) | SeatStep::Remove(id)) = *step;
            for set in [&mut to.voters, &mut to.learners, &mut to.learners_next] {
                set.retain(|member| *member != id);
            }
            match step {
                SeatStep::AddVoter(_) => to.voters.push(id),
                // An outgoing voter is a learner only once the joint configuration is left.
                SeatStep::AddLearner(_) if to.voters_outgoing.contains(&id) => to.learners_next.push(id),
                SeatStep::AddLearner(_) => to.learners.push(id),
                SeatStep::Remove(_) => {}
            }
        }
        to.sorted()
    }
}

/// The configuration after a joint one has been left.
#[must_use]
pub fn leave(joint: &Configuration) -> Configuration {
    let mut left = joint.clone();
    left.voters_outgoing.clear();
    left.learners.append(&mut left.learners_next);
    left.sorted()
}

/// The change to propose now; `None` when there is nothing to do, or nothing that may be done yet: a configuration
/// change under way, a joint configuration in force (the consensus machine leaves it), or a majority, old or new, that is
/// not alive.
pub fn plan(view: &SeatView, policy: SeatPolicy) -> Option<SeatChange> {
    if view.pending || view.configuration.is_joint() || check_odd(&view.configuration).is_err() {
        return None;
    }
    let seats = Seats::new(view, policy);
    seats.replace().or_else(|| seats.grow()).or_else(|| seats.learners())
}

/// The view, with what the rules ask of it.
struct Seats<'a> {
    configuration: &'a Configuration,
    policy: SeatPolicy,
    /// Ascending by raft id, each once.
    managers: Vec<ManagerView>,
    /// Raft ids whose stores are damaged: not alive, whatever arrives from them.
    replaced: BTreeSet<RaftId>,
}

impl<'a> Seats<'a> {
    fn new(view: &'a SeatView, policy: SeatPolicy) -> Self {
        let replaced: BTreeSet<RaftId> = view.managers.iter().filter_map(|manager| manager.replaces).collect();
        let mut managers = view.managers.clone();
        managers.retain(|manager| manager.raft_id != RaftId(0) && !replaced.contains(&manager.raft_id));
        managers.sort_unstable_by_key(|manager| manager.raft_id);
        managers.dedup_by_key(|manager| manager.raft_id);
        Self { configuration: &view.configuration, policy, managers, replaced }
    }

    fn is_alive(&self, id: RaftId) -> bool {
        self.managers.iter().any(|manager| manager.raft_id == id && (manager.connected || manager.leader))
    }

    fn is_voter(&self, id: RaftId) -> bool {
        self.configuration.voters.contains(&id)
    }

    /// Standbys that may be seated, ascending by raft id.
    fn ready(&self) -> impl Iterator<Item = &ManagerView> {
        self.managers
            .iter()
            .filter(|manager| self.configuration.learners.contains(&manager.raft_id) && manager.is_ready())
    }

    /// A joint change, if it keeps every rule.
    fn joint(&self, mut steps: Vec<SeatStep>) -> Option<SeatChange> {
        steps.sort_unstable();
        let change = SeatChange::Joint { steps };
        let joint = change.apply_to(self.configuration);
        let allowed = check_odd(&joint).is_ok() && Quorum::of(&joint).is_alive(|id| self.is_alive(id));
        allowed.then_some(change)
    }

    /// A damaged voter's seat goes to the raft id that its node came back with.
    fn replace(&self) -> Option<SeatChange> {
        self.ready().find_map(|new| {
            let old = new.replaces.filter(|old| self.is_voter(*old))?;
            self.joint(vec![SeatStep::AddVoter(new.raft_id), SeatStep::Remove(old)])
        })
    }

    /// Two standbys are seated at once, as long as there is room.
    fn grow(&self) -> Option<SeatChange> {
        if self.configuration.voters.len() + 2 > self.policy.max_voters {
            return None;
        }
        // Who replaces a voter waits for that voter's seat: else its node would hold two.
        let free = |manager: &&ManagerView| manager.replaces.is_none_or(|old| !self.is_voter(old));
        let steps: Vec<SeatStep> =
            self.ready().filter(free).take(2).map(|manager| SeatStep::AddVoter(manager.raft_id)).collect();
        if steps.len() < 2 {
            return None;
        }
        self.joint(steps)
    }

    /// Learners that no manager stands behind go; managers that are no members become learners.
    fn learners(&self) -> Option<SeatChange> {
        let known = |id: &RaftId| self.managers.iter().any(|manager| manager.raft_id == *id);
        let orphan = self.configuration.learners.iter().find(|id| !known(id) || self.replaced.contains(id));
        if let Some(id) = orphan {
            return Some(SeatChange::Learner { step: SeatStep::Remove(*id) });
        }
        // Connected or not: nothing of raft arrives from a manager before it is a member, and a learner costs no quorum.
        let newcomer = self.managers.iter().find(|manager| !self.configuration.contains(manager.raft_id))?;
        Some(SeatChange::Learner { step: SeatStep::AddLearner(newcomer.raft_id) })
    }
}
