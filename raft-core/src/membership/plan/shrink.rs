//! Shrink: seats that are given up because people asked for it.
//!
//! Owns the order of ways out: a standby takes the seat; somebody on the way is waited for; two seats go at once. 3 -> 1
//! only where the wish was forced; the last voter never.

use super::seats::{Draft, Seats, Standing};
use crate::id::RaftId;

impl Seats<'_> {
    fn is_leader(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(|manager| manager.leader)
    }

    pub(super) fn is_forced(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(|manager| manager.is_leaving() && manager.forced)
    }

    /// More voters than are allowed: two give up their seats, the least needed ones whose going leaves a majority alive.
    pub(super) fn shrink_to_max(&self, draft: &mut Draft) {
        while draft.voters(self).len() > self.policy.max_voters() {
            let voters = self.least_needed(draft);
            let mut pairs = (1..voters.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
            let taken = pairs.any(|(first, second)| match (voters.get(first), voters.get(second)) {
                (Some(first), Some(second)) => self.give_up_both(draft, *first, *second),
                (None, _) | (_, None) => false,
            });
            if !taken {
                return;
            }
        }
    }

    pub(super) fn give_up_both(&self, draft: &mut Draft, first: RaftId, second: RaftId) -> bool {
        draft.take(self, &[(first, self.fate(first)), (second, self.fate(second))], &[])
    }

    pub(super) fn shrink(&self, draft: &mut Draft) {
        let leaving: Vec<RaftId> = self.voters_that(Standing::Leaves).filter(|id| !self.is_leader(*id)).collect();
        for voter in leaving {
            if !draft.loses(voter) {
                self.give_up(draft, voter);
            }
        }
    }

    /// The leader's own seat, when nothing else is to be done: it has to hand leadership over first, and its successor
    /// counts silence anew.
    pub(super) fn leader_leaves(&self, draft: &mut Draft) {
        if let Some(leader) = self.voters_that(Standing::Leaves).find(|id| self.is_leader(*id)) {
            self.give_up(draft, leader);
        }
    }

    fn give_up(&self, draft: &mut Draft, voter: RaftId) {
        if let Some(standby) = self.next_seated(draft, Some(voter)) {
            draft.take(self, &[(voter, self.fate(voter))], &[standby]);
            return;
        }
        if self.somebody_comes() {
            return;
        }
        let left = draft.voters(self).len().saturating_sub(2);
        let others = self.least_needed(draft).into_iter().filter(|other| *other != voter);
        let allowed = |other: RaftId| left >= 3 || (left == 1 && (self.is_forced(voter) || self.is_forced(other)));
        for other in others.filter(|other| allowed(*other)) {
            if self.give_up_both(draft, voter, other) {
                return;
            }
        }
    }

    /// A standby is catching up, or a worker is being promoted, or can be: its seat need not go.
    pub(in crate::membership) fn somebody_comes(&self) -> bool {
        self.coming().next().is_some()
            || self.view.enrolling > 0
            || self.view.workers.iter().any(|worker| worker.taken_back.is_none())
    }
}
