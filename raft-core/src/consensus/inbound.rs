//! What may be stepped: every message is checked here before raft sees it.
//!
//! Owns the filter between the wire and tikv raft, which panics on some inputs that no sound member sends, and ignores
//! who may say what. A message that is refused is a lost message, which raft allows for. Called by the machine.

use raft::eraftpb::{self, MessageType};

use super::config::ELECTION_TICKS;
use super::{Consensus, convert};
use crate::id::RaftId;

/// No honest term or index comes near it; arithmetic on numbers below it cannot wrap.
const NUMBER_MAX: u64 = u64::MAX >> 1;

impl Consensus {
    pub(super) fn on_message(&mut self, from: RaftId, body: &[u8]) {
        let Some(message) = convert::message(body) else { return };
        if message.from != from.0 || message.to != self.config.id.0 || from == self.config.id {
            return;
        }
        if self.installing.is_some() || self.records.removed.binary_search(&from).is_ok() {
            return;
        }
        if !is_sound(&message) || !self.may_step(&message) {
            tracing::trace!(%from, kind = message.msg_type().as_str_name(), "message dropped");
            return;
        }
        if !self.agrees_with_what_is_committed(&message) {
            return;
        }
        self.hear(from);
        if message.msg_type() == MessageType::MsgReadIndex {
            self.on_remote_read(from, &message);
            return;
        }
        // Refusals are raft's way of ignoring a message; a lost message is allowed.
        if let Err(error) = self.raw.step(message) {
            tracing::trace!(%from, %error, "message ignored");
        }
    }

    fn may_step(&self, message: &eraftpb::Message) -> bool {
        let raft = &self.raw.raft;
        let leads = self.is_leader();
        match message.msg_type() {
            // These are ours alone to say, or come with a snapshot stream.
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgSnapshot => false,
            // A member that has just started does not know whom it promised a lease to (rule 8).
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow => {
                self.tick >= u64::from(ELECTION_TICKS)
            }
            MessageType::MsgAppend => !self.backlog_is_full(),
            MessageType::MsgHeartbeat => true,
            MessageType::MsgReadIndex => leads,
            // A follower that keeps a promise to its leader learns of a newer term from a newer leader or after the
            // promise, not by hearsay: it would forget the promise with the term (rule 8). The leader itself listens.
            MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgReadIndexResp
                if message.term > raft.term && self.keeps_a_promise() =>
            {
                false
            }
            MessageType::MsgAppendResponse => {
                let last = raft.raft_log.last_index();
                // Nobody here asks for a snapshot: it would be sent whatever the log holds.
                message.request_snapshot == 0
                    && (!leads || (message.index <= last.max(message.reject_hint) && (message.reject || message.index <= last)))
            }
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgReadIndexResp => true,
        }
    }

    /// Within one base election timeout of hearing from a leader, its lease may rest on this member.
    fn keeps_a_promise(&self) -> bool {
        let raft = &self.raw.raft;
        !self.is_leader() && raft.leader_id != 0 && raft.election_elapsed < ELECTION_TICKS as usize
    }

    /// What a leader may never contradict: raft would panic where this member has to stop with a reason.
    fn agrees_with_what_is_committed(&mut self, message: &eraftpb::Message) -> bool {
        let log = &self.raw.raft.raft_log;
        if message.term < self.raw.raft.term {
            return true;
        }
        match message.msg_type() {
            MessageType::MsgHeartbeat if message.commit > log.last_index() => {
                let detail = format!(
                    "the leader has it on record that entry {} is on this disk, the log ends at {}",
                    message.commit,
                    log.last_index()
                );
                self.broken("log_holds_what_it_acknowledged", detail);
                false
            }
            MessageType::MsgAppend => {
                let conflict = message
                    .entries
                    .iter()
                    .find(|entry| entry.index <= log.committed && !log.match_term(entry.index, entry.term))
                    .filter(|_| message.index >= log.committed);
                let Some(entry) = conflict else { return true };
                let detail = format!("entry {} comes with term {}, it is committed with another", entry.index, entry.term);
                self.broken("committed_entries_stay", detail);
                false
            }
            _ => true,
        }
    }
}

/// Whether the message's numbers fit each other, as they do in everything a member sends.
fn is_sound(message: &eraftpb::Message) -> bool {
    let numbers = [
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    if numbers.iter().any(|number| *number > NUMBER_MAX) {
        return false;
    }
    match message.msg_type() {
        MessageType::MsgAppend => {
            let mut before = (message.index, message.log_term);
            message.entries.iter().all(|entry| {
                let follows = entry.index == before.0 + 1 && entry.term >= before.1 && entry.term <= message.term;
                before = (entry.index, entry.term);
                follows
            })
        }
        // Raft forwards a read without a term.
        MessageType::MsgReadIndex => message.entries.len() == 1,
        MessageType::MsgReadIndexResp => message.entries.len() == 1 && message.term > 0,
        // Raft takes a message without a term for a local one.
        _ => message.term > 0,
    }
}
