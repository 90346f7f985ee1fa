//! A lone voter, entry by entry: what its applier gets, and when.

use std::sync::Arc;

use raft::eraftpb::MessageType;

use super::super::config::Config;
use super::super::io::{Answer, Effect, Input, Nanos, Origin, Records, Rejection, Ticket};
use super::super::{Start, convert};
use super::*;
use crate::command::{COMMAND_VERSION, CommandKind};
use crate::id::Term;
use crate::log::{Configuration, HardState, LogStart};
use crate::membership::plan::{SeatChange, SeatStep};
use crate::ports::Boot;
use crate::state::contract::StateStatus;
use crate::txn::Txn;

const START: LogStart = LogStart { index: LogIndex(1), term: Term(1) };

/// Member 1, the only voter, with a disk that answers at once.
struct Voter {
    machine: Consensus,
    /// The indexes handed to the applier.
    handed: Vec<u64>,
    /// Those with somebody to be answered by the applier.
    owed: Vec<u64>,
    /// Who was told that nobody knows.
    unknown: Vec<u64>,
    /// Who was told that it is not done, another entry is there.
    replaced: Vec<u64>,
}

impl Voter {
    /// It leads, and its standbys have all of the log, up to index 2.
    fn leading(standbys: &[u64]) -> Self {
        let learners = standbys.iter().copied().map(RaftId).collect();
        let configuration = Configuration { voters: vec![RaftId(1)], learners, ..Configuration::default() };
        let hard_state = HardState { term: Term(1), vote: RaftId(0), commit: LogIndex(1) };
        let boot = Boot { hard_state, start: START, last: LogIndex(1), terms: Vec::new(), repaired: None };
        let state =
            StateStatus { applied: LogIndex(1), applied_term: Term(1), configuration, ..StateStatus::default() };
        // Nothing is planned: the record has no number of voters.
        let mut records = Records::default();
        records.cluster.version = COMMAND_VERSION;
        let start = Start { boot, state, records: Arc::new(records), tail: Vec::new(), leases: Vec::new() };
        let machine = Consensus::new(Config::new(RaftId(1), 7), start).unwrap();
        let mut voter =
            Self { machine, handed: Vec::new(), owed: Vec::new(), unknown: Vec::new(), replaced: Vec::new() };
        voter.step([Input::LineagesAsked]);
        for _ in 0..100 {
            if !voter.machine.is_leader() {
                voter.ticks(1);
            }
        }
        assert!(voter.machine.is_leader());
        assert_eq!(voter.handed, [], "its own first entry waits for a standby");
        for standby in standbys {
            voter.acknowledges(*standby, 2);
        }
        assert_eq!(voter.handed, [2]);
        voter
    }

    fn step(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let mut effects = self.machine.step(Nanos(0), inputs);
        let mut done = 0;
        while done < effects.len() {
            if let Effect::Persist { number, .. } = &effects[done] {
                let number = *number;
                effects.extend(self.machine.step(Nanos(0), [Input::Persisted { number }]));
            } else if let Effect::Apply { entries, waiters } = &effects[done] {
                self.handed.extend(entries.iter().map(|entry| entry.index.0));
                self.owed.extend(waiters.iter().map(|(index, _)| index.0));
            } else if let Effect::Answer { ticket, answer: Answer::Unknown } = &effects[done] {
                self.unknown.push(ticket.0);
            } else if let Effect::Answer { ticket, answer: Answer::Refused(Rejection::Replaced) } = &effects[done] {
                self.replaced.push(ticket.0);
            }
            done += 1;
        }
    }

    fn ticks(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.step([Input::Tick(1)]);
        }
    }

    /// A write, committed at once on this voter's own disk; its ticket is its index, which is answered.
    fn writes(&mut self) -> u64 {
        let index = self.machine.raw.raft.raft_log.last_index() + 1;
        let command = CommandKind::System(Txn::default()).into();
        self.step([Input::Propose { ticket: Ticket(index), command, origin: Origin::Here }]);
        assert_eq!(self.machine.raw.raft.raft_log.committed, index);
        index
    }

    fn hears(&mut self, from: u64, kind: MessageType, index: u64, term: u64) {
        let mut message = eraftpb::Message { from, to: 1, term, index, ..eraftpb::Message::default() };
        message.set_msg_type(kind);
        self.step([Input::Message { from: RaftId(from), body: convert::message_bytes(&message) }]);
    }

    /// A standby has everything up to `index` on disk.
    fn acknowledges(&mut self, from: u64, index: u64) {
        self.hears(from, MessageType::MsgAppendResponse, index, self.machine.raw.raft.term);
    }

    /// A standby is there, and says nothing of the log.
    fn is_there(&mut self, from: u64) {
        self.hears(from, MessageType::MsgHeartbeatResponse, 0, self.machine.raw.raft.term);
    }

    /// Standbys 2 and 3 get seats, by an entry that is followed by one more write. All of it is committed on this voter's
    /// disk; answers the index of that write.
    fn grows_and_writes(&mut self) -> u64 {
        let steps = vec![SeatStep::AddVoter(RaftId(2)), SeatStep::AddVoter(RaftId(3))];
        let before = self.machine.raw.raft.raft_log.last_index();
        self.machine.change_to(&SeatChange::Joint { steps });
        self.step([]);
        assert_eq!(self.machine.raw.raft.raft_log.committed, before + 1);
        self.writes()
    }
}

#[test]
fn an_entry_is_handed_over_when_a_standby_has_that_very_entry_on_disk() {
    let mut voter = Voter::leading(&[2]);
    let (first, second) = (voter.writes(), voter.writes());
    assert_eq!((first, second), (3, 4));
    voter.acknowledges(2, 2);
    assert_eq!(voter.handed, [2]);
    voter.acknowledges(2, 3);
    assert_eq!(voter.handed, [2, 3]);
    voter.acknowledges(2, 4);
    assert_eq!((voter.handed.clone(), voter.owed.clone()), (vec![2, 3, 4], vec![3, 4]));
    assert!(!voter.machine.is_single_copy());
}

#[test]
fn of_two_standbys_one_copy_is_enough() {
    let mut voter = Voter::leading(&[2, 3]);
    voter.writes();
    voter.acknowledges(3, 3);
    assert_eq!(voter.handed, [2, 3]);
}

#[test]
fn a_standby_is_waited_for_one_election_timeout_and_again_from_what_was_committed_when_it_was_given_up() {
    // Given a write that its standby does not acknowledge
    let mut voter = Voter::leading(&[2]);
    voter.writes();
    voter.ticks(ELECTION_TICKS);
    assert_eq!(voter.handed, [2], "for one election timeout it is waited for");
    voter.ticks(1);
    assert_eq!(voter.handed, [2, 3]);
    assert!(voter.machine.is_single_copy());
    // Then later writes do not wait,
    voter.writes();
    assert_eq!(voter.handed, [2, 3, 4]);
    // nor when it is back without what was committed by then: the write that it was given up for
    voter.acknowledges(2, 2);
    voter.writes();
    assert_eq!(voter.handed, [2, 3, 4, 5]);
    assert!(voter.machine.is_single_copy());
    // When it has that, it is waited for again, while what was handed over since is on one disk only
    voter.acknowledges(2, 3);
    voter.writes();
    assert_eq!(voter.handed, [2, 3, 4, 5]);
    assert!(voter.machine.is_single_copy());
    voter.acknowledges(2, 5);
    assert!(!voter.machine.is_single_copy(), "everything that was handed over has two copies");
    assert_eq!(voter.handed, [2, 3, 4, 5]);
    voter.acknowledges(2, 6);
    assert_eq!(voter.handed, [2, 3, 4, 5, 6]);
}

#[test]
fn a_standby_that_answers_and_takes_no_entry_is_given_up_as_well() {
    let mut voter = Voter::leading(&[2]);
    voter.writes();
    for _ in 0..ELECTION_TICKS {
        voter.is_there(2);
        voter.ticks(1);
    }
    assert_eq!(voter.handed, [2]);
    voter.is_there(2);
    voter.ticks(1);
    assert_eq!(voter.handed, [2, 3]);
    assert!(voter.machine.is_single_copy());
}

#[test]
fn what_was_committed_alone_waits_for_a_second_copy_also_when_there_are_more_voters() {
    // Given a write behind the entry that gives two standbys their seats, all of it committed by the only voter there was
    let mut voter = Voter::leading(&[2, 3]);
    let last = voter.grows_and_writes();
    assert_eq!((last, voter.handed.clone()), (4, vec![2]));
    // When a standby has that entry, and not the write
    voter.acknowledges(2, 3);
    // Then the three are voters, and the write still waits
    assert!(voter.machine.configuration.is_joint());
    assert_eq!(voter.handed, [2, 3]);
    // Until one of them has it, too
    voter.acknowledges(3, 4);
    assert_eq!((voter.handed.clone(), voter.owed.clone()), (vec![2, 3, 4], vec![4]));
    assert!(!voter.machine.is_single_copy());
}

#[test]
fn what_was_committed_alone_and_given_up_is_a_single_copy_until_another_voter_has_it() {
    let mut voter = Voter::leading(&[2, 3]);
    let last = voter.grows_and_writes();
    voter.acknowledges(2, 3);
    for _ in 0..=ELECTION_TICKS {
        assert_eq!(voter.handed, [2, 3]);
        voter.is_there(2);
        voter.is_there(3);
        voter.ticks(1);
    }
    assert_eq!(voter.handed, [2, 3, last]);
    assert!(voter.machine.is_single_copy());
    voter.acknowledges(3, last);
    assert!(!voter.machine.is_single_copy());
}

#[test]
fn what_waits_for_a_standby_when_leadership_ends_is_told_to_nobody_as_done() {
    // Given a write that is committed alone and on no standby's disk: of the only voter, and of one of three by now
    for seats in [1, 3] {
        let mut voter = Voter::leading(&[2, 3]);
        let last = if seats == 1 { voter.writes() } else { voter.grows_and_writes() };
        voter.acknowledges(2, last - 1);
        assert_eq!(voter.machine.configuration.voters.len(), seats);
        assert_eq!((voter.machine.copies.len(), voter.machine.waiters.len()), (1, 1));
        // When it hears of a newer term
        voter.hears(2, MessageType::MsgHeartbeatResponse, 0, voter.machine.raw.raft.term + 1);
        // Then the write is applied, and whoever asked for it is told that its outcome is not known
        assert!(!voter.machine.is_leader());
        assert_eq!((voter.unknown.clone(), voter.owed.clone()), (vec![last], vec![]));
        assert_eq!((voter.handed.last(), voter.machine.copies.len()), (Some(&last), 0));
    }
}

#[test]
fn whose_entry_another_one_has_replaced_is_told_so_also_by_a_voter_that_leads_no_more() {
    // Given an entry that is committed alone, and a caller at its index whose own entry was of an older term
    let mut voter = Voter::leading(&[2]);
    let term = voter.machine.raw.raft.term;
    let index = voter.machine.raw.raft.raft_log.last_index() + 1;
    assert_eq!(voter.writes(), index);
    let _ = voter.machine.waiters.register(LogIndex(index), Term(term - 1), vec![Ticket(70)]);
    // When leadership ends, then the caller is told
    voter.hears(2, MessageType::MsgHeartbeatResponse, 0, term + 1);
    assert_eq!((voter.replaced.clone(), voter.machine.waiters.len()), (vec![70], 0));
}
