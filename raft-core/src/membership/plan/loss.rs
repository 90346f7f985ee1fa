//! Loss: the seats of voters that do not come back.
//!
//! Owns the rule that quorum never grows on the way: dead out and standby in is one joint change. A lost voter stays a
//! manager and becomes a standby by the same change.

use std::cmp::Reverse;

use super::seats::{Draft, Seats, Standing};
use crate::id::RaftId;

/// Voters below which no seat is given up because of losses: 3 -> 1 is never done by itself.
pub(super) const VOTERS_KEPT: usize = 3;

impl Seats<'_> {
    /// A damaged voter's seat goes to the raft id that its node came back with.
    pub(super) fn replace_damaged(&self, draft: &mut Draft) {
        for new in self.wanted() {
            let Some(old) = new.replaces.filter(|old| self.is_voter(*old) && !draft.loses(*old)) else { continue };
            if new.is_ready() && self.configuration.learners.contains(&new.raft_id) {
                draft.take(self, &[(old, self.fate(old))], &[new.raft_id]);
            }
        }
    }

    /// Voters that do not come back and still have their seats in the draft: those that nobody stands behind first,
    /// then the longest silent.
    pub(super) fn lost(&self, draft: &Draft) -> Vec<RaftId> {
        let mut lost: Vec<RaftId> = self.voters_that(Standing::Gone).chain(self.voters_that(Standing::Lost)).collect();
        lost.retain(|id| !draft.loses(*id));
        lost.sort_by_key(|id| {
            let silent = self.manager(*id).map(|manager| manager.silent_ticks);
            (silent.is_some(), Reverse(silent), *id)
        });
        lost
    }

    pub(super) fn loss(&self, draft: &mut Draft) {
        for voter in self.lost(draft) {
            if let Some(standby) = self.next_seated(draft, Some(voter)) {
                draft.take(self, &[(voter, self.fate(voter))], &[standby]);
            }
        }
        // Nobody to seat: two seats go at once, so that those who are left may lose one again.
        while let [first, second, ..] = self.lost(draft)[..]
            && draft.voters(self).len() >= VOTERS_KEPT + 2
            && self.give_up_both(draft, first, second)
        {}
    }
}
