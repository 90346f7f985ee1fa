//! What may be stepped: every message is checked here before raft sees it.
//!
//! Owns the filter between the wire and tikv raft, which panics on some inputs that no sound member sends, and ignores
//! who may say what. A message that is refused is a lost message, which raft allows for. Called by the machine.

use raft::eraftpb::{self, MessageType};

use super::config::ELECTION_TICKS;
use super::io::StopCause;
use super::{Consensus, convert};
use crate::id::{LogIndex, RaftId, Term};
use crate::mutants::{Mutant, on};

/// No honest term or index comes near it; arithmetic on numbers below it cannot wrap.
pub(super) const NUMBER_MAX: u64 = u64::MAX >> 1;

impl Consensus {
    pub(super) fn on_message(&mut self, from: RaftId, body: &[u8]) {
        let Some(mut message) = convert::message(body) else { return };
        if message.from != from.0 || message.to != self.config.id.0 || from == self.config.id {
            return;
        }
        #[cfg(feature = "chaos-mutants")]
        if on(Mutant::RemovedVote) {
            self.take_for_another(&mut message);
        }
        if on(Mutant::TermIgnored) && message.term > 0 && message.term < self.raw.raft.term {
            message.term = self.raw.raft.term;
        }
        if self.records.removed.contains(&RaftId(message.from)) {
            return;
        }
        if self.installing.is_some() {
            self.note_leader_lives(&message);
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
        self.hear_of_space(from, &mut message);
        if message.msg_type() == MessageType::MsgReadIndex {
            self.on_remote_read(from, &message);
            return;
        }
        let (kind, pace) = (message.msg_type(), message.reject_hint);
        // Refusals are raft's way of ignoring a message; a lost message is allowed.
        if let Err(error) = self.raw.step(message) {
            tracing::trace!(%from, %error, "message ignored");
        }
        self.note_pace(from, kind, pace);
    }

    /// While a snapshot is installed raft hears nothing, but whoever leads is not to be taken for dead. Nothing is answered,
    /// so nobody's lease rests on it.
    fn note_leader_lives(&mut self, message: &eraftpb::Message) {
        let raft = &mut self.raw.raft;
        let leads = message.from == raft.leader_id && message.term == raft.term;
        if leads && matches!(message.msg_type(), MessageType::MsgHeartbeat | MessageType::MsgAppend) {
            raft.election_elapsed = 0;
        }
    }

    fn may_step(&self, message: &eraftpb::Message) -> bool {
        let raft = &self.raw.raft;
        let leads = self.is_leader();
        if message.term > raft.term && self.writer_is_behind() {
            // Its term would have to be written, behind all that a disk that hangs leaves waiting.
            return false;
        }
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
            // A member that has just started does not know whom it promised a lease to (rule 8); one that cannot write has
            // no vote to give, and is of no use as a leader. Nor has one that does not know yet whether its incarnation was
            // ended: an old leader might win with it beside the new one.
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote | MessageType::MsgTimeoutNow => {
                self.tick >= u64::from(ELECTION_TICKS) && self.may_write() && self.has_asked()
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
            // Nobody here asks for a snapshot: it would be sent whatever the log holds. What is acknowledged was sent.
            MessageType::MsgAppendResponse => {
                let acknowledged = message.reject || message.index <= raft.raft_log.last_index();
                message.request_snapshot == 0 && (!leads || acknowledged)
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
        let kind = message.msg_type();
        if kind == MessageType::MsgHeartbeat && message.commit > log.last_index() {
            let (asked, last) = (LogIndex(message.commit), LogIndex(log.last_index()));
            // Invariant `log_holds_what_it_acknowledged`.
            self.stop(StopCause::RolledBack { asked, last });
            return false;
        }
        if kind == MessageType::MsgAppend {
            // What is cut can no longer be compared. A leader of this term or a later one has every committed entry: one
            // that says otherwise won with a directory that was rolled back.
            let known = log.first_index()..=log.committed;
            let conflict = message
                .entries
                .iter()
                .find(|entry| known.contains(&entry.index) && !log.match_term(entry.index, entry.term));
            if let Some(entry) = conflict {
                let (leader, index, term) = (RaftId(message.from), LogIndex(entry.index), Term(entry.term));
                // Invariant `committed_entries_stay`.
                self.stop(StopCause::Overruled { leader, index, term });
                return false;
            }
        }
        true
    }
}

/// Whether the message's numbers fit each other, as they do in everything a member sends.
pub(super) fn is_sound(message: &eraftpb::Message) -> bool {
    let numbers =
        [message.term, message.index, message.log_term, message.commit, message.commit_term, message.reject_hint];
    if numbers.iter().any(|number| *number > NUMBER_MAX) {
        return false;
    }
    let kind = message.msg_type();
    if kind == MessageType::MsgReadIndex {
        // Raft forwards a read without a term.
        return message.entries.len() == 1;
    }
    if kind == MessageType::MsgAppend {
        let mut before = (message.index, message.log_term);
        let in_order = message.entries.iter().all(|entry| {
            let follows = entry.index == before.0 + 1 && entry.term >= before.1 && entry.term <= message.term;
            before = (entry.index, entry.term);
            follows
        });
        // Raft answers term 0 for every index outside of its log: with it anything would seem to follow.
        let anchored = message.log_term > 0 || message.index == 0;
        return in_order && anchored && message.term > 0 && message.entries.iter().all(|entry| entry.term > 0);
    }
    // Raft takes a message without a term for a local one.
    message.term > 0 && (kind != MessageType::MsgReadIndexResp || message.entries.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: MessageType) -> eraftpb::Message {
        let mut message = eraftpb::Message { term: 3, index: 5, log_term: 2, ..eraftpb::Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn entry(index: u64, term: u64) -> eraftpb::Entry {
        eraftpb::Entry { index, term, ..eraftpb::Entry::default() }
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        let mut append = message(MessageType::MsgAppend);
        for (entries, sound) in [
            (vec![], true),
            (vec![entry(6, 2), entry(7, 3)], true),
            (vec![entry(7, 2)], false),
            (vec![entry(6, 2), entry(8, 2)], false),
            (vec![entry(6, 3), entry(7, 2)], false),
            (vec![entry(6, 1)], false),
            (vec![entry(6, 4)], false),
        ] {
            append.entries = entries;
            assert_eq!(is_sound(&append), sound, "{:?}", append.entries);
        }
    }

    #[test]
    fn messages_that_would_make_raft_index_into_nothing_or_wrap_are_refused() {
        let mut read = message(MessageType::MsgReadIndex);
        assert!(!is_sound(&read));
        read.entries = vec![entry(0, 0)];
        assert!(is_sound(&read));
        let huge = eraftpb::Message { reject_hint: u64::MAX, ..message(MessageType::MsgAppendResponse) };
        assert!(!is_sound(&huge));
        let local = eraftpb::Message { term: 0, ..message(MessageType::MsgHeartbeat) };
        assert!(!is_sound(&local));
    }
}
