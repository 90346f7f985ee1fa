//! The view with what the rules ask of it, and the change they put together.
//!
//! Owns who counts as alive, lost, leaving or ready, and the one gate through which every part of a change of voters
//! goes: both halves odd, both majorities alive.

use std::collections::BTreeSet;

use super::change::{SeatChange, SeatStep};
use super::policy::SeatPolicy;
use super::view::{ManagerView, SeatView};
use crate::id::RaftId;
use crate::log::Configuration;
use crate::membership::quorum::{Quorum, check_odd};

/// How a voter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Standing {
    /// It keeps its seat.
    Keeps,
    /// It is to be no manager any more.
    Leaves,
    /// Silent for longer than is waited for.
    Lost,
    /// No record stands behind its raft id.
    Gone,
    /// Its store is damaged; its node has come back under another raft id and is waited for.
    Awaited,
}

/// Where a voter goes that loses its seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays a manager: the same change makes it a learner.
    Standby,
    /// It is no member any more.
    Gone,
}

/// See the module.
pub(in crate::membership) struct Seats<'a> {
    pub(super) view: &'a SeatView,
    pub(super) configuration: &'a Configuration,
    pub(super) policy: &'a SeatPolicy,
    /// Ascending by raft id, each once; without raft ids whose stores are damaged, whatever arrives from them.
    managers: Vec<&'a ManagerView>,
}

impl<'a> Seats<'a> {
    pub(in crate::membership) fn new(view: &'a SeatView, policy: &'a SeatPolicy) -> Self {
        let replaced: BTreeSet<RaftId> = view.managers.iter().filter_map(|manager| manager.replaces).collect();
        let mut managers: Vec<&ManagerView> = view.managers.iter().collect();
        managers.retain(|manager| manager.raft_id != RaftId(0) && !replaced.contains(&manager.raft_id));
        managers.sort_by_key(|manager| manager.raft_id);
        managers.dedup_by_key(|manager| manager.raft_id);
        Self { view, configuration: &view.configuration, policy, managers }
    }

    pub(in crate::membership) fn manager(&self, id: RaftId) -> Option<&'a ManagerView> {
        self.managers.iter().find(|manager| manager.raft_id == id).copied()
    }

    /// Those that are to be managers.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &'a ManagerView> + '_ {
        self.managers.iter().copied().filter(|manager| !manager.is_leaving())
    }

    pub(in crate::membership) fn is_alive(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(ManagerView::is_alive)
    }

    pub(in crate::membership) fn is_voter(&self, id: RaftId) -> bool {
        self.configuration.voters.contains(&id)
    }

    /// Whether the old majority is alive: without it nothing is proposed.
    pub(super) fn has_quorum(&self) -> bool {
        Quorum::of(self.configuration).is_alive(|id| self.is_alive(id))
    }

    /// How a voter stands.
    pub(in crate::membership) fn standing(&self, voter: RaftId) -> Standing {
        let Some(manager) = self.manager(voter) else {
            // It is given as long as any other voter that may come back.
            let waits = self
                .wanted()
                .any(|manager| manager.replaces == Some(voter) && manager.waiting_ticks < self.policy.lost_after);
            return if waits { Standing::Awaited } else { Standing::Gone };
        };
        let lost = manager.silent_ticks >= self.policy.lost_after && !manager.is_alive();
        if manager.is_leaving() {
            Standing::Leaves
        } else if lost && !manager.held && !self.policy.keep_lost {
            Standing::Lost
        } else {
            Standing::Keeps
        }
    }

    /// Voters that stand so, ascending by raft id.
    pub(in crate::membership) fn voters_that(&self, standing: Standing) -> impl Iterator<Item = RaftId> + '_ {
        self.configuration.voters.iter().copied().filter(move |id| self.standing(*id) == standing)
    }

    /// Who replaces a voter waits for that voter's seat: else its node would hold two.
    fn is_free(&self, manager: &ManagerView) -> bool {
        manager.replaces.is_none_or(|old| !self.is_voter(old) || self.standing(old) == Standing::Gone)
    }

    /// Standbys that may be seated now, ascending by raft id.
    pub(super) fn ready(&self) -> impl Iterator<Item = &'a ManagerView> + '_ {
        self.wanted().filter(|manager| {
            self.configuration.learners.contains(&manager.raft_id) && manager.is_ready() && self.is_free(manager)
        })
    }

    /// Managers on their way to be ready, members or not: heard of, or on their way for so short a time that they may
    /// still be, and not for too long.
    pub(in crate::membership) fn coming(&self) -> impl Iterator<Item = &'a ManagerView> + '_ {
        self.wanted().filter(|manager| {
            let ready = manager.is_ready() && self.configuration.learners.contains(&manager.raft_id);
            !(ready || self.is_voter(manager.raft_id))
                && self.is_free(manager)
                && (manager.connected || manager.waiting_ticks < self.policy.lost_after)
                && manager.waiting_ticks < self.policy.patience
        })
    }

    /// Whether the configuration that a change leads to keeps the rules.
    pub(super) fn is_allowed(&self, change: &SeatChange) -> bool {
        let after = change.apply_to(self.configuration);
        check_odd(&after).is_ok() && Quorum::of(&after).is_alive(|id| self.is_alive(id))
    }

    /// The change of voters that is due: loss, then shrink, then grow.
    pub(super) fn voters(&self) -> Option<SeatChange> {
        let mut draft = Draft::default();
        self.shrink_to_max(&mut draft);
        self.replace_damaged(&mut draft);
        self.loss(&mut draft);
        self.shrink(&mut draft);
        self.grow(&mut draft);
        if draft.is_empty() {
            self.leader_leaves(&mut draft);
        }
        draft.change()
    }
}

/// A change of voters as it is put together.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    out: Vec<(RaftId, Fate)>,
    seated: Vec<RaftId>,
}

impl Draft {
    pub(super) fn seat(&mut self, id: RaftId) {
        self.seated.push(id);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.out.is_empty() && self.seated.is_empty()
    }

    pub(super) fn loses(&self, id: RaftId) -> bool {
        self.out.iter().any(|(out, _)| *out == id)
    }

    pub(super) fn seats(&self, id: RaftId) -> bool {
        self.seated.contains(&id)
    }

    /// The voters it leads to.
    pub(super) fn voters(&self, seats: &Seats<'_>) -> Vec<RaftId> {
        let kept = seats.configuration.voters.iter().copied().filter(|id| !self.loses(*id));
        kept.chain(self.seated.iter().copied()).collect()
    }

    /// Takes these in, if the whole then keeps every rule.
    pub(super) fn take(&mut self, seats: &Seats<'_>, out: &[(RaftId, Fate)], seated: &[RaftId]) -> bool {
        let mut with = self.clone();
        with.out.extend_from_slice(out);
        with.seated.extend_from_slice(seated);
        let allowed = with.change().is_some_and(|change| seats.is_allowed(&change));
        if allowed {
            *self = with;
        }
        allowed
    }

    pub(super) fn change(&self) -> Option<SeatChange> {
        if self.is_empty() {
            return None;
        }
        let out = self.out.iter().map(|(id, fate)| match fate {
            Fate::Standby => SeatStep::AddLearner(*id),
            Fate::Gone => SeatStep::Remove(*id),
        });
        let mut steps: Vec<SeatStep> = self.seated.iter().copied().map(SeatStep::AddVoter).chain(out).collect();
        steps.sort_unstable();
        Some(SeatChange::Joint { steps })
    }
}

impl Seats<'_> {
    /// Where a voter goes when it loses its seat.
    pub(super) fn fate(&self, id: RaftId) -> Fate {
        let stays = self.manager(id).is_some_and(|manager| !manager.is_leaving());
        if stays { Fate::Standby } else { Fate::Gone }
    }
}
