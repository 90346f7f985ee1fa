//! One voter of three, for tests of single rules: its disk, its applier and both of its peers are in the test's hands.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{self, MessageType};

use super::config::Config;
use super::io::{Answer, Effect, Input, Nanos, Origin, Records, Ticket};
use super::{Consensus, Start, convert};
use crate::command::{COMMAND_VERSION, CommandKind};
use crate::id::{LogIndex, RaftId, Term};
use crate::log::{Configuration, HardState, LogStart};
use crate::ports::{Boot, LogBatch};
use crate::state::contract::StateStatus;
use crate::txn::Txn;

/// Member 1 of 1, 2 and 3, with a log that begins behind index 1 of term 1.
pub(super) struct Member {
    pub(super) machine: Consensus,
    now: u64,
    /// The disk does not answer.
    pub(super) disk_hangs: bool,
    /// Numbers of writes that it has not answered.
    pub(super) writes: VecDeque<u64>,
    /// All that it was given.
    pub(super) written: Vec<(u64, LogBatch)>,
    /// The applier does not answer.
    pub(super) applier_hangs: bool,
    /// The last index of each round that it has not answered.
    pub(super) rounds: VecDeque<LogIndex>,
    /// The indexes handed to the applier.
    pub(super) handed: Vec<u64>,
    /// Peers that take no entries; for the rest they do what this member asks of them.
    pub(super) lagging: BTreeSet<u64>,
    pub(super) sent: Vec<eraftpb::Message>,
    pub(super) told: Vec<(u64, Answer)>,
}

impl Member {
    /// It has just started.
    pub(super) fn started() -> Self {
        let voters = [1, 2, 3].map(RaftId).to_vec();
        let configuration = Configuration { voters, ..Configuration::default() };
        let hard_state = HardState { term: Term(1), vote: RaftId(0), commit: LogIndex(1) };
        let start = LogStart { index: LogIndex(1), term: Term(1) };
        let boot = Boot { hard_state, start, last: LogIndex(1), terms: Vec::new(), repaired: None };
        let state =
            StateStatus { applied: LogIndex(1), applied_term: Term(1), configuration, ..StateStatus::default() };
        // Nothing is planned: the record has no number of voters.
        let mut records = Records::default();
        records.cluster.version = COMMAND_VERSION;
        let start = Start { boot, state, records: Arc::new(records), tail: Vec::new(), leases: Vec::new() };
        let mut member = Self {
            machine: Consensus::new(Config::new(RaftId(1), 7), start).unwrap(),
            now: 0,
            disk_hangs: false,
            writes: VecDeque::new(),
            written: Vec::new(),
            applier_hangs: false,
            rounds: VecDeque::new(),
            handed: Vec::new(),
            lagging: BTreeSet::new(),
            sent: Vec::new(),
            told: Vec::new(),
        };
        member.step([Input::LineagesAsked]);
        member
    }

    /// It leads, with a lease, and both others have all of its log.
    pub(super) fn leading() -> Self {
        let mut member = Self::started();
        member.leads();
        member
    }

    /// Nobody else does, and it comes to lead.
    pub(super) fn leads(&mut self) {
        for _ in 0..100 {
            if self.machine.lease().is_none() {
                self.ticks(1);
            }
        }
        assert!(self.machine.lease().is_some());
    }

    pub(super) fn step(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let mut inputs: Vec<Input> = inputs.into_iter().collect();
        while !inputs.is_empty() {
            let effects = self.machine.step(Nanos(self.now), std::mem::take(&mut inputs));
            for effect in effects {
                if let Effect::Persist { number, batch } = effect {
                    self.writes.push_back(number);
                    self.written.push((number, batch));
                } else if let Effect::Apply { entries, .. } = effect {
                    self.handed.extend(entries.iter().map(|entry| entry.index.0));
                    self.rounds.extend(entries.last().map(|entry| entry.index));
                } else if let Effect::Answer { ticket, answer } = effect {
                    self.told.push((ticket.0, answer));
                } else if let Effect::Send { body, .. } = effect {
                    let message = convert::message(&body).unwrap();
                    inputs.extend(self.peer_says(&message));
                    self.sent.push(message);
                } else if let Effect::Stop(cause) = effect {
                    panic!("{cause}");
                }
            }
            if !self.disk_hangs {
                inputs.extend(self.writes.drain(..).next_back().map(|number| Input::Persisted { number }));
            }
            if !self.applier_hangs {
                let applied = self.rounds.drain(..).next_back();
                inputs.extend(applied.map(|index| Input::Applied { index, records: None, leases: Vec::new() }));
            }
        }
    }

    /// What the one says to whom this was sent.
    #[expect(clippy::wildcard_enum_match_arm, reason = "raft's, and all others are answered by nobody")]
    fn peer_says(&self, message: &eraftpb::Message) -> Option<Input> {
        let kind = match message.msg_type() {
            MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
            MessageType::MsgRequestVote => MessageType::MsgRequestVoteResponse,
            MessageType::MsgHeartbeat => MessageType::MsgHeartbeatResponse,
            MessageType::MsgAppend if !self.lagging.contains(&message.to) => MessageType::MsgAppendResponse,
            _ => return None,
        };
        let index = message.index + message.entries.len() as u64;
        let context = message.context.clone();
        Some(from(message.to, kind, |said| (said.term, said.index, said.context) = (message.term, index, context)))
    }

    pub(super) fn ticks(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.ticks_after([]);
        }
    }

    /// One tick, in one step with what came before it.
    pub(super) fn ticks_after(&mut self, inputs: impl IntoIterator<Item = Input>) {
        self.now += self.machine.tick_nanos();
        self.step(inputs.into_iter().chain([Input::Tick(1)]));
    }

    /// A write of the caller with this ticket; the last index of the log with it.
    pub(super) fn writes(&mut self, ticket: u64) -> u64 {
        let command = CommandKind::System(Txn::default()).into();
        self.step([Input::Propose { ticket: Ticket(ticket), command, origin: Origin::Here }]);
        self.machine.raw.raft.raft_log.last_index()
    }
}

/// A message to member 1.
pub(super) fn from(id: u64, kind: MessageType, fill: impl FnOnce(&mut eraftpb::Message)) -> Input {
    let mut message = eraftpb::Message { from: id, to: 1, ..eraftpb::Message::default() };
    message.set_msg_type(kind);
    fill(&mut message);
    Input::Message { from: RaftId(id), body: convert::message_bytes(&message) }
}
