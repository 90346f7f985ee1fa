//! When a worker is to be promoted, because a seat has nobody else to go to.
//!
//! Owns which worker, and why. Never counts how long the seat has waited: the leader does, and promotes one worker at a
//! time.

use std::cmp::Reverse;

use super::loss::VOTERS_KEPT;
use super::policy::SeatPolicy;
use super::seats::{Draft, Seats, Standing};
use super::view::{SeatView, WorkerView};
use crate::id::NodeId;

/// Why a seat has nobody to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// A voter is lost: a worker is promoted once the seat has waited for `promote_after`.
    Loss,
    /// Somebody asked for a voter to be demoted or removed: a worker is promoted at once.
    Wish,
}

/// A worker to be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// Which node.
    pub node: NodeId,
    /// Why.
    pub why: Short,
}

impl SeatView {
    /// The workers that may be promoted. One that did not come in time is asked again where nothing else is left: for a
    /// lost voter, and for one that is to leave while there are no two seats that could go instead.
    pub(in crate::membership) fn volunteers(&self, why: Short) -> impl Iterator<Item = &WorkerView> {
        let again = match why {
            Short::Loss => true,
            Short::Wish => self.configuration.voters.len() < VOTERS_KEPT + 2,
        };
        self.workers.iter().filter(move |worker| again || worker.taken_back.is_none())
    }
}

/// The worker to promote for a seat that has nobody else to go to; `None` when no seat waits, somebody is on the way to
/// it already, or no worker is eligible.
pub fn stand_in(view: &SeatView, policy: &SeatPolicy) -> Option<StandIn> {
    let seats = Seats::new(view, policy);
    let busy = view.pending || view.configuration.is_joint() || !seats.has_quorum();
    let one_at_a_time = seats.wanted().any(|manager| manager.stands_in && !seats.is_voter(manager.raft_id));
    if busy || one_at_a_time || view.enrolling > 0 || seats.ready().next().is_some() || seats.coming().next().is_some()
    {
        return None;
    }
    let mut draft = Draft::default();
    seats.loss(&mut draft);
    let lost = seats.lost(&draft).first().copied();
    let leaves = seats.voters_that(Standing::Leaves).find(|id| !draft.loses(*id));
    let (why, seat) = match (lost, leaves) {
        (Some(lost), _) => (Short::Loss, lost),
        (None, Some(leaves)) => (Short::Wish, leaves),
        (None, None) => return None,
    };
    let crowd = |zone: &str| {
        let voters = view.managers.iter().filter(|manager| seats.is_voter(manager.raft_id) && manager.raft_id != seat);
        voters.filter(|manager| manager.zone == zone).count()
    };
    view.volunteers(why)
        .min_by_key(|worker| {
            let ago = worker.taken_back.unwrap_or(u64::MAX);
            (Reverse(ago), crowd(&worker.zone), worker.node)
        })
        .map(|worker| StandIn { node: worker.node, why })
}
