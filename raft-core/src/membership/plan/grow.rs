//! Grow: two standbys are seated at once, and every manager becomes a standby.
//!
//! Owns parity: a lone standby waits for the next one. Learners change one at a time, because raft takes several
//! changes at once as a joint one.

use super::change::{SeatChange, SeatStep};
use super::seats::{Draft, Seats};
use crate::mutants::{Mutant, on};

impl Seats<'_> {
    pub(super) fn grow(&self, draft: &mut Draft) {
        if draft.voters(self).len() + 2 > self.policy.max_voters() {
            return;
        }
        let Some(first) = self.next_seated(draft, None) else { return };
        let mut with_first = draft.clone();
        with_first.seat(first);
        if on(Mutant::EvenVoters) {
            *draft = with_first;
            return;
        }
        if let Some(second) = self.next_seated(&with_first, None) {
            draft.take(self, &[], &[first, second]);
        }
    }

    /// Learners that no manager stands behind go; managers that are no members become learners.
    pub(super) fn learners(&self) -> Option<SeatChange> {
        if !self.has_quorum() {
            return None;
        }
        let is_wanted = |id| self.manager(id).is_some_and(|manager| !manager.is_leaving());
        if let Some(orphan) = self.configuration.learners.iter().copied().find(|id| !is_wanted(*id)) {
            return Some(SeatChange::Learner { step: SeatStep::Remove(orphan) });
        }
        // Connected or not: nothing of raft arrives from a manager before it is a member, and a learner costs no quorum. But
        // nobody is sent a state whose secrets it could not open: it gets its copies of the barrier's keys first.
        let newcomer =
            self.wanted().find(|manager| !self.configuration.contains(manager.raft_id) && !manager.sealed_out)?;
        Some(SeatChange::Learner { step: SeatStep::AddLearner(newcomer.raft_id) })
    }
}
