//! What waits for the log is bounded in bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::super::config::Config;
use super::super::io::{Input, Nanos, Records};
use super::super::{Consensus, Start};
use super::*;
use crate::command::{COMMAND_VERSION, CommandKind};
use crate::id::RaftId;
use crate::limits::Met;
use crate::log::{Configuration, HardState, LogStart};
use crate::ports::Boot;
use crate::state::contract::StateStatus;
use crate::txn::{Put, Txn};

/// A member that knows of no leader, so that everything waits.
fn leaderless(waiting_bytes_max: usize) -> Consensus {
    let configuration = Configuration { voters: vec![RaftId(1), RaftId(2), RaftId(3)], ..Configuration::default() };
    let start = LogStart { index: LogIndex(1), term: Term(1) };
    let hard_state = HardState { term: Term(1), vote: RaftId(0), commit: LogIndex(1) };
    let boot = Boot { hard_state, start, last: LogIndex(1), terms: Vec::new(), repaired: None };
    let state = StateStatus { applied: LogIndex(1), applied_term: Term(1), configuration, ..StateStatus::default() };
    let mut records = Records::default();
    records.cluster.version = COMMAND_VERSION;
    let start = Start { boot, state, records: Arc::new(records), tail: Vec::new(), leases: Vec::new() };
    Consensus::new(Config { waiting_bytes_max, ..Config::new(RaftId(1), 7) }, start).unwrap()
}

fn propose(machine: &mut Consensus, number: u64, bytes: usize) -> Vec<Effect> {
    let put = Put { key: Bytes::from_static(b"k"), value: vec![0; bytes].into(), ..Put::default() };
    let command: Command = CommandKind::System(Txn { then: vec![put.into()], ..Txn::default() }).into();
    machine.step(Nanos(0), [Input::Propose { ticket: Ticket(number), command, origin: Origin::Here }])
}

fn refused(effects: &[Effect]) -> Vec<(u64, Rejection)> {
    let refused = effects.iter().filter_map(|effect| {
        let Effect::Answer { ticket, answer: Answer::Refused(rejection) } = effect else { return None };
        Some((ticket.0, rejection.clone()))
    });
    refused.collect()
}

#[test]
fn more_bytes_than_may_wait_are_refused_by_name_and_one_that_is_larger_waits_alone() {
    // Given a member at which a kilobyte may wait
    let mut machine = leaderless(1_000);
    // When one that is larger comes first, then it waits,
    assert_eq!(refused(&propose(&mut machine, 1, 5_000)), []);
    // and nothing else does.
    let turned_away = refused(&propose(&mut machine, 2, 1));
    assert!(
        matches!(turned_away.as_slice(), [(2, Rejection::OverloadedBytes { waiting, max: 1_000 })] if *waiting > 5_000),
        "{turned_away:?}"
    );
    // When those who wait are told that there is no leader, then others may wait
    let mut told = Vec::new();
    for _ in 0..200 {
        told.extend(refused(&machine.step(Nanos(0), [Input::Tick(1)])));
    }
    assert!(matches!(told.as_slice(), [(1, Rejection::NoLeader { .. } | Rejection::QuorumLost { .. })]), "{told:?}");
    assert_eq!(machine.queue.bytes, 0);
}

#[test]
fn as_many_bytes_as_may_wait_do_and_one_more_is_refused_by_the_limits_name() {
    // Given what two commands weigh together
    let mut machine = leaderless(1_000_000);
    for number in 1..=2 {
        propose(&mut machine, number, 500);
    }
    let both = machine.queue.bytes;
    // When just so much may wait, then both do
    let mut machine = leaderless(both);
    for number in 1..=2 {
        assert_eq!(refused(&propose(&mut machine, number, 500)), []);
    }
    // When it is a byte less, then the second one does not
    let mut machine = leaderless(both - 1);
    assert_eq!(refused(&propose(&mut machine, 1, 500)), []);
    let turned_away = refused(&propose(&mut machine, 2, 500));
    let [(2, rejection)] = turned_away.as_slice() else { panic!("{turned_away:?}") };
    let (bound, actual) = (both as u64 - 1, both as u64);
    assert_eq!(rejection.limit(), Some(Met { name: "WAITING_BYTES_MAX", bound, actual }));
    assert_eq!(machine.queue.commands.len(), 1);
}
