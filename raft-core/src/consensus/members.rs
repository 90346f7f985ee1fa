//! Members: who is heard, which configuration is in force, and what the leader changes next.
//!
//! Owns the explicit joint changes of design section 4, rule 7: one in flight; a guard in every configuration entry
//! decides on every node alike whether it takes effect; whoever leads a joint configuration proposes the leave, only
//! while it sits in the incoming half. What to change is the planner's decision ([`crate::membership::plan`]);
//! everything here is level-triggered: it is computed anew from what is in force.

use raft::ProgressState;
use raft::eraftpb;

use super::config::ELECTION_TICKS;
use super::guard::{self, Guard};
use super::io::Progress;
use super::{Consensus, convert};
use crate::id::{LineageId, LogIndex, RaftId};
use crate::membership::plan::{self, ManagerView, SeatChange, SeatPolicy, SeatView};
use crate::membership::quorum::{Quorum, check_odd};
use crate::membership::record::Role;
use crate::state::contract::Payload;
use prost011::Message as _;

/// When a member was heard of, in ticks of this leadership.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    at: u64,
    stable_since: Option<u64>,
}

impl Consensus {
    pub(super) fn hear(&mut self, from: RaftId) {
        let tick = self.tick;
        self.heard.entry(from).and_modify(|heard| heard.at = tick).or_insert(Heard { at: tick, stable_since: None });
    }

    /// Heard of within one election timeout.
    pub(super) fn is_heard(&self, id: RaftId) -> bool {
        self.heard.get(&id).is_some_and(|heard| self.tick - heard.at <= u64::from(ELECTION_TICKS))
    }

    fn is_caught_up(&self, id: RaftId) -> bool {
        let raft = &self.raw.raft;
        raft.prs().get(id.0).is_some_and(|progress| {
            let follows = progress.state == ProgressState::Replicate
                && progress.matched + self.config.caught_up_entries >= raft.raft_log.committed;
            // A member whose acknowledgement of a snapshot overtakes the report of its delivery is probed, and while
            // nobody writes raft sends it nothing that would end the probe. Who has the whole log has caught up.
            follows || progress.matched >= raft.raft_log.last_index()
        })
    }

    fn lineage(&self) -> LineageId {
        self.records.lineage().current().unwrap_or_default()
    }

    /// What a committed configuration entry does: computed here, where it is handed over, and sent along.
    pub(super) fn configure(&mut self, index: LogIndex, data: &[u8]) -> Payload {
        let void = Payload::Configuration { result: None, number: self.configuration_number };
        let Some(change) = convert::conf_change(data) else {
            self.broken("configuration_entries_are_guarded", format!("entry {index} cannot be read"));
            return void;
        };
        let current = Guard::of(&change)
            .is_some_and(|guard| guard.is_current(self.lineage(), self.configuration_number, &self.configuration));
        if !current {
            tracing::info!(%index, number = self.configuration_number, "configuration entry is void: superseded");
            return void;
        }
        match self.raw.apply_conf_change(&change) {
            Ok(state) => {
                self.configuration = convert::configuration(&state);
                self.configuration_number += 1;
            }
            Err(error) => {
                // Raft refuses on every node alike: it is a function of the configuration in force.
                tracing::warn!(%index, %error, "configuration entry refused");
                return void;
            }
        }
        self.pin_timeout();
        if !self.configuration.is_odd() {
            let detail = format!("entry {index} led to {:?}", self.configuration);
            self.broken("ODD", detail);
        }
        if self.is_leader() && !self.configuration.is_voter(self.config.id) {
            // Another leader proposed the leave and this one, outside of the incoming half, came to power before it was
            // applied. Raft would let it lead on, and panic at its next commit when it is no member at all.
            tracing::info!(%index, "this leader lost its seat to an earlier leader's change: it steps down");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.pin_timeout();
        }
        Payload::Configuration { result: Some(self.configuration.clone()), number: self.configuration_number }
    }

    pub(super) fn tick_members(&mut self, missed: bool) {
        if !self.is_leader() || missed {
            return;
        }
        for id in self.configuration.members() {
            let stable = self.is_heard(id) && self.is_caught_up(id) && self.connected.contains(&id);
            let tick = self.tick;
            if let Some(heard) = self.heard.get_mut(&id) {
                heard.stable_since = if stable { heard.stable_since.or(Some(tick)) } else { None };
            }
        }
        self.drop_stale_sendable();
        self.change_members();
    }

    /// One step towards what the records ask for, if one is due and nothing is in flight.
    fn change_members(&mut self) {
        let settled =
            self.raw.raft.commit_to_current_term() && !self.raw.raft.has_pending_conf() && !self.is_transferring();
        if !settled {
            return;
        }
        if self.configuration.is_joint() {
            self.leave_joint();
            return;
        }
        let Ok(policy) = SeatPolicy::new(self.records.cluster.max_voters) else { return };
        if let Some(change) = plan::plan(&self.seat_view(), policy) {
            self.change_to(&change);
        }
    }

    fn seat_view(&self) -> SeatView {
        let managers = self
            .records
            .nodes
            .members()
            .filter(|node| node.role == i32::from(Role::Manager))
            .filter_map(|node| {
                let raft_id = node.raft()?;
                let leader = raft_id == self.config.id;
                let stable = self.heard.get(&raft_id).and_then(|heard| heard.stable_since);
                Some(ManagerView {
                    raft_id,
                    replaces: (node.replaces != 0).then_some(RaftId(node.replaces)),
                    leader,
                    connected: leader || self.connected.contains(&raft_id),
                    caught_up: leader || self.is_caught_up(raft_id),
                    stable: leader || stable.is_some_and(|since| self.tick - since >= self.config.stable_ticks),
                })
            })
            .collect();
        SeatView { configuration: self.configuration.clone(), pending: self.raw.raft.has_pending_conf(), managers }
    }

    fn change_to(&mut self, change: &SeatChange) {
        let after = change.apply_to(&self.configuration);
        let heard = |id: RaftId| id == self.config.id || self.is_heard(id);
        if !Quorum::of(&after).is_alive(heard) {
            return;
        }
        if !after.voters.contains(&self.config.id) {
            // The leader never takes its own seat: a successor that keeps one does it.
            let successor = |id: &RaftId| self.configuration.voters.contains(id) && self.is_heard(*id);
            if let Some(to) = after.voters.iter().copied().find(successor) {
                self.start_transfer(None, to);
            }
            return;
        }
        if let Err(error) = check_odd(&after) {
            self.broken("ODD", error.to_string());
            return;
        }
        let guard = Guard::new(self.lineage(), self.configuration_number, &self.configuration, &after.voters);
        let change = guard::change(change, &guard);
        self.propose_change(&change);
    }

    fn leave_joint(&mut self) {
        if self.configuration.voters.contains(&self.config.id) {
            let voters = self.configuration.voters.clone();
            let guard = Guard::new(self.lineage(), self.configuration_number, &self.configuration, &voters);
            self.propose_change(&guard::leave(&guard));
        } else if let Some(to) = self.furthest_voter() {
            self.start_transfer(None, to);
        }
    }

    fn propose_change(&mut self, change: &eraftpb::ConfChangeV2) {
        let mut entry = eraftpb::Entry { data: change.encode_to_vec(), ..eraftpb::Entry::default() };
        entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
        let mut message =
            eraftpb::Message { from: self.config.id.0, entries: vec![entry], ..eraftpb::Message::default() };
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        if let Err(error) = self.raw.raft.step(message) {
            tracing::debug!(%error, "configuration change not taken now");
        }
        self.pin_timeout();
    }

    pub(super) fn progress(&self) -> Vec<Progress> {
        if !self.is_leader() {
            return Vec::new();
        }
        self.configuration
            .members()
            .into_iter()
            .filter(|id| *id != self.config.id)
            .map(|id| {
                let heard = self.heard.get(&id);
                Progress {
                    id,
                    matched: LogIndex(self.raw.raft.prs().get(id.0).map_or(0, |progress| progress.matched)),
                    silent_ticks: heard.map_or(self.tick, |heard| self.tick - heard.at),
                    stable_ticks: heard.and_then(|heard| heard.stable_since).map_or(0, |since| self.tick - since),
                }
            })
            .collect()
    }
}
