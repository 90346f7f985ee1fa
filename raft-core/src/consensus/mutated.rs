//! The bugs of [`crate::mutants`] that lie in raft's own arithmetic, done from outside of it.
//!
//! Owns commits that are counted wrongly. Compiled with the feature `chaos-mutants` only. Called by the machine after raft was
//! asked for what is ready.

use raft::eraftpb::{self, MessageType};

use super::Consensus;
use crate::id::RaftId;
use crate::mutants::{Mutant, on};

impl Consensus {
    /// Commits what the planted bug takes for committed.
    pub(super) fn commit_wrongly(&mut self) {
        if !self.is_leader() {
            return;
        }
        let log = &self.raw.raft.raft_log;
        let (term, last, committed) = (self.raw.raft.term, log.last_index(), log.committed);
        let voters: Vec<u64> = self.configuration.voters.iter().map(|id| id.0).collect();
        let matched_of = |ids: &[u64]| {
            let progress = self.raw.raft.prs();
            let mut matched: Vec<u64> =
                ids.iter().map(|id| progress.get(*id).map_or(0, |progress| progress.matched)).collect();
            matched.sort_unstable_by_key(|index| std::cmp::Reverse(*index));
            matched
        };
        let majority = voters.len() / 2 + 1;
        let at = |matched: Vec<u64>, quorum: usize| matched.get(quorum.max(1) - 1).copied().unwrap_or(0);
        let target = if on(Mutant::AckBeforeCommit) {
            last
        } else if on(Mutant::HalfIsAQuorum) {
            at(matched_of(&voters), voters.len() / 2)
        } else if on(Mutant::LearnersCount) {
            let all: Vec<u64> = self.configuration.members().into_iter().map(|id| id.0).collect();
            at(matched_of(&all), majority)
        } else if on(Mutant::OldTermsCommit) && self.configuration.voters_outgoing.is_empty() {
            at(matched_of(&voters), majority)
        } else {
            return;
        };
        let own_term = self.raw.raft.raft_log.term(target).is_ok_and(|of| of == term);
        if target > committed && target <= last && (own_term || on(Mutant::OldTermsCommit)) {
            self.raw.raft.raft_log.commit_to(target);
        }
    }

    /// Asks removed managers for their votes, too.
    pub(super) fn ask_the_removed(&self, message: &eraftpb::Message) -> Vec<eraftpb::Message> {
        let asks = matches!(message.msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let first = self.configuration.voters.iter().find(|id| **id != self.config.id);
        if !asks || first.is_none_or(|id| id.0 != message.to) {
            return Vec::new();
        }
        let to = |id: &RaftId| eraftpb::Message { to: id.0, ..message.clone() };
        self.records.removed.ids().map(|id| to(&id)).collect()
    }

    /// Takes the vote of a removed manager for that of another one.
    pub(super) fn take_for_another(&self, message: &mut eraftpb::Message) {
        let vote =
            matches!(message.msg_type(), MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse);
        let removed = self.records.removed.contains(&RaftId(message.from));
        if let Some(other) = self.configuration.voters.iter().rfind(|id| **id != self.config.id)
            && vote
            && removed
        {
            message.from = other.0;
        }
    }
}
