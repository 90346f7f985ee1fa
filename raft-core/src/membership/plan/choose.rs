//! Zones and preferences: who fills a seat, who gives one up, who leads.
//!
//! Owns the choice among those who may. Never moves a healthy voter for its zone.

use std::cmp::Reverse;

use super::policy::SeatPolicy;
use super::seats::{Draft, Seats, Standing};
use super::view::{ManagerView, SeatView};
use crate::id::RaftId;

/// For how many times the stabilisation time a preferred leader must have been stable before it is given leadership: one
/// that comes and goes does not take it along each time.
const PREFERRED_AFTER: u64 = 3;

impl Seats<'_> {
    fn zone(&self, id: RaftId) -> &str {
        self.manager(id).map_or("", |manager| manager.zone.as_str())
    }

    /// Voters of the draft in a zone.
    fn crowd(&self, draft: &Draft, zone: &str) -> usize {
        draft.voters(self).into_iter().filter(|id| self.zone(*id) == zone).count()
    }

    /// The standby that gets the next seat of the draft, when `out` has given up its own: of the zone with the fewest
    /// voters; among equals the one caught up longest.
    pub(super) fn next_seated(&self, draft: &Draft, out: Option<RaftId>) -> Option<RaftId> {
        let vacated = |zone: &str| usize::from(out.is_some_and(|out| self.zone(out) == zone));
        self.ready()
            .filter(|manager| !draft.seats(manager.raft_id))
            .min_by_key(|manager| {
                let crowd = self.crowd(draft, &manager.zone) - vacated(&manager.zone);
                (crowd, Reverse(manager.stable_ticks), manager.raft_id)
            })
            .map(|manager| manager.raft_id)
    }

    /// The voters of the draft, those that are missed least first: who is gone, leaves, is lost, is not connected; then of
    /// the zone with the most voters, no preferred leader, the newest. Never the leader.
    pub(super) fn least_needed(&self, draft: &Draft) -> Vec<RaftId> {
        let rank = |id: RaftId| match self.standing(id) {
            Standing::Gone => 0,
            Standing::Leaves => 1,
            Standing::Lost => 2,
            Standing::Awaited => 3,
            Standing::Keeps if !self.is_alive(id) => 4,
            Standing::Keeps => 5,
        };
        let is = |id: RaftId, what: fn(&ManagerView) -> bool| self.manager(id).is_some_and(what);
        let mut voters: Vec<RaftId> = self.configuration.voters.clone();
        voters.retain(|id| !draft.loses(*id) && !is(*id, |manager| manager.leader));
        voters.sort_by_key(|id| {
            let crowd = self.crowd(draft, self.zone(*id));
            (rank(*id), Reverse(crowd), is(*id, |manager| manager.preferred), Reverse(*id))
        });
        voters
    }
}

/// The voter that leadership is to be handed to because people prefer it; `None` while the leader is as good. For a
/// leader that has nothing else to do.
pub fn preferred_leader(view: &SeatView, policy: &SeatPolicy) -> Option<RaftId> {
    let seats = Seats::new(view, policy);
    let is_preferred = |manager: &&ManagerView| manager.preferred && !manager.is_leaving();
    let leader = view.managers.iter().find(|manager| manager.leader)?;
    if view.pending || view.configuration.is_joint() || is_preferred(&leader) {
        return None;
    }
    seats
        .wanted()
        .filter(|manager| seats.is_voter(manager.raft_id) && is_preferred(manager) && manager.is_ready())
        .filter(|manager| manager.stable_ticks >= PREFERRED_AFTER.saturating_mul(policy.stable))
        .min_by_key(|manager| (manager.let_pass, Reverse(manager.stable_ticks), manager.raft_id))
        .map(|manager| manager.raft_id)
}
