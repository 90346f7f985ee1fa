//! The replicated log in plain types: entries, hard state, Raft configurations.
//!
//! Owns what crosses the ports between the core and a store. Knows nothing of tikv raft (the consensus module
//! converts) and never does I/O. Called by the consensus machine, the state machine and every store.

use bytes::Bytes;

use crate::id::{LogIndex, RaftId, Term};

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A batch of commands; empty data is a leader's first entry of its term.
    Normal,
    /// A change of the Raft configuration.
    Config,
}

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log.
    pub index: LogIndex,
    /// Term of the leader that appended it.
    pub term: Term,
    /// How to read `data` and `context`.
    pub kind: EntryKind,
    /// The payload, opaque to a store.
    pub data: Bytes,
    /// What travels beside the payload (a configuration entry's guard), opaque to a store.
    pub context: Bytes,
}

/// What a member must remember over a restart besides its log (Raft paper, figure 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Who got this member's vote in `term`; zero is nobody.
    pub vote: RaftId,
    /// Newest index known to be committed.
    pub commit: LogIndex,
}

/// The last position that is no longer in the log: what a snapshot or a cut replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStart {
    /// Index of the last entry before the log.
    pub index: LogIndex,
    /// Its term, still needed to match the entry that follows.
    pub term: Term,
}

/// A Raft configuration; a joint one has voters in both halves. Ids are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The voters; in a joint configuration the incoming half.
    pub voters: Vec<RaftId>,
    /// The outgoing half; empty unless joint.
    pub voters_outgoing: Vec<RaftId>,
    /// Members without a vote.
    pub learners: Vec<RaftId>,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: Vec<RaftId>,
}

impl Configuration {
    /// Brings every set into ascending order: raft's own sets have none, and stored state is hashed.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.voters.sort_unstable();
        self.voters_outgoing.sort_unstable();
        self.learners.sort_unstable();
        self.learners_next.sort_unstable();
        self
    }

    /// Whether both halves are in force.
    pub const fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// The invariant ODD: an odd number of voters in each half that is in force.
    pub const fn is_odd(&self) -> bool {
        self.voters.len() % 2 == 1 && (self.voters_outgoing.is_empty() || self.voters_outgoing.len() % 2 == 1)
    }

    /// Whether `id` votes in either half.
    pub fn is_voter(&self, id: RaftId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// The voters of both halves once, ascending.
    pub fn all_voters(&self) -> Vec<RaftId> {
        let mut all: Vec<RaftId> = self.voters.iter().chain(&self.voters_outgoing).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether `id` is a member at all.
    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.learners.contains(&id) || self.learners_next.contains(&id)
    }

    /// Every member once, ascending.
    pub fn members(&self) -> Vec<RaftId> {
        let mut all: Vec<RaftId> = [&self.voters, &self.voters_outgoing, &self.learners, &self.learners_next]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
