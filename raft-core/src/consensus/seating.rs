//! Configuration entries: proposed by the leader, taking effect on every node alike.
//!
//! Owns the explicit joint changes of design section 4, rule 7: one in flight; a guard in every configuration entry
//! decides on every node whether it takes effect; whoever leads a joint configuration proposes the leave, only while it
//! sits in the incoming half. Never decides who gets a seat.

use prost011::Message as _;
use raft::eraftpb;

use super::config::ELECTION_TICKS;
use super::guard::{self, Guard};
use super::{Consensus, convert};
use crate::id::{LineageId, LogIndex, RaftId};
use crate::membership::plan::SeatChange;
use crate::membership::quorum::{Quorum, check_odd};
use crate::mutants::{Mutant, on};
use crate::state::contract::Payload;

/// Ticks after which leadership may be handed over again for a seat or by preference, doubled for each time that it did
/// not go: a transfer takes up to one election timeout, and requests wait meanwhile.
const TRANSFER_PAUSE_TICKS: u64 = 4 * ELECTION_TICKS as u64;
const TRANSFER_DOUBLINGS_MAX: u32 = 5;

impl Consensus {
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
        let guard = Guard::of(&change);
        let current =
            guard.filter(|guard| guard.is_current(self.lineage(), self.configuration_number, &self.configuration));
        let Some(guard) = current else {
            tracing::info!(%index, number = self.configuration_number, "configuration entry is void: superseded");
            return void;
        };
        self.note_committed_alone();
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
        self.members.unsettled = true;
        if !self.configuration.is_odd() {
            let detail = format!("entry {index} led to {:?}", self.configuration);
            self.broken("ODD", detail);
        } else if !guard.leads_to(&self.configuration) {
            let detail = format!("entry {index} promised voters {:?}, led to {:?}", guard.after, self.configuration);
            self.broken("configuration_entries_are_guarded", detail);
        }
        if self.is_leader() && !self.configuration.is_voter(self.config.id) {
            // Another leader proposed the leave and this one, outside of the incoming half, came to power before it was
            // applied. Raft would let it lead on, and panic at its next commit when it is no member at all.
            tracing::info!(%index, "this leader lost its seat to an earlier leader's change: it steps down");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, 0);
            self.pin_timeout();
        }
        if self.is_leader() && !self.configuration.is_voter(self.config.id) {
            self.broken("the_leader_votes", format!("entry {index} led to {:?}", self.configuration));
        }
        Payload::Configuration { result: Some(self.configuration.clone()), number: self.configuration_number }
    }

    pub(super) fn change_to(&mut self, change: &SeatChange) {
        let after = change.apply_to(&self.configuration);
        let heard = |id: RaftId| id == self.config.id || self.is_heard(id);
        if !Quorum::of(&after).is_alive(heard) {
            return;
        }
        let stays = |id: &RaftId| self.configuration.voters.contains(id);
        if !after.voters.contains(&self.config.id) && after.voters.iter().any(stays) {
            // The leader never takes its own seat: a successor that keeps one does it. (Where nobody keeps one, as when
            // the only voter is swapped with its standby, leadership is handed over inside the joint configuration.)
            let successor = self.furthest(after.voters.iter().copied().filter(stays));
            if let Some(to) = successor.filter(|_| self.tick >= self.members.next_transfer) {
                tracing::info!(%to, %change, "leadership is handed over: this leader's seat is to go");
                self.hand_over_to(to);
            }
            return;
        }
        if let Err(error) = check_odd(&after) {
            self.broken("ODD", error.to_string());
            return;
        }
        tracing::info!(%change, voters = ?self.configuration.voters, "seats change");
        let guard = Guard::new(self.lineage(), self.configuration_number, &self.configuration, &after.voters);
        let change = guard::change(change, &guard);
        self.propose_change(&change);
    }

    pub(super) fn hand_over_to(&mut self, to: RaftId) {
        let pause = TRANSFER_PAUSE_TICKS << self.members.transfers.min(TRANSFER_DOUBLINGS_MAX);
        self.members.next_transfer = self.tick + pause;
        self.members.transfers += 1;
        self.start_transfer(None, to);
    }

    pub(super) fn leave_joint(&mut self) {
        if self.configuration.voters.contains(&self.config.id) || on(Mutant::LeaveFromOutside) {
            let voters = self.configuration.voters.clone();
            let guard = Guard::new(self.lineage(), self.configuration_number, &self.configuration, &voters);
            self.propose_change(&guard::leave(&guard));
        } else if self.tick >= self.members.next_transfer
            && let Some(to) = self.furthest_voter()
        {
            self.hand_over_to(to);
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
}
