//! The time of a rotation of the CA, on the machine and the state as they are: counted by who leads, over restarts, whatever clocks say.
#![cfg(feature = "consensus")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Member, system, txn};
use quorate_core::consensus::config::Config;
use quorate_core::consensus::io::{Effect, Input, Nanos, Origin, RaftRole, Records, Ticket};
use quorate_core::consensus::{Consensus, Start};
use quorate_core::id::{RaftId, Term};
use quorate_core::log::{HardState, LogStart};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::trust::{TrustRecord, TrustTime};
use quorate_core::ports::Boot;
use quorate_core::state::read;
use quorate_core::txn::Put;

fn root(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[n; 8])
}

fn old() -> Bytes {
    root(1)
}

fn new() -> Bytes {
    root(2)
}

/// The only voter, on a state that outlives its process.
struct Lone {
    member: Member,
    machine: Consensus,
    term: u64,
    asked: u64,
}

impl Lone {
    fn founded() -> Self {
        Self::starts(Member::founded(), 1)
    }

    /// It leads, in a term after `term`, with nothing but what is in its state.
    fn starts(member: Member, term: u64) -> Self {
        let state = member.machine.status().clone();
        let start = LogStart { index: state.applied, term: state.applied_term };
        let hard_state = HardState { term: Term(term), vote: RaftId(0), commit: state.applied };
        let boot = Boot { hard_state, start, last: state.applied, ..Boot::default() };
        let records = Arc::new(Records::read(&*member.store.view()).unwrap());
        let start = Start { boot, state, records, tail: Vec::new(), leases: Vec::new() };
        let machine = Consensus::new(Config::new(RaftId(1), 7), start).unwrap();
        let mut lone = Self { member, machine, term, asked: 0 };
        lone.step(vec![Input::LineagesAsked]);
        for _ in 0..200 {
            if lone.machine.status().role != Some(RaftRole::Leader) {
                lone.step(vec![Input::Tick(1)]);
            }
        }
        assert_eq!(lone.machine.status().role, Some(RaftRole::Leader));
        lone.term = lone.machine.status().term.0;
        lone
    }

    /// Its process ends, and another one begins.
    fn restarts(self) -> Self {
        Self::starts(self.member, self.term)
    }

    fn step(&mut self, mut inputs: Vec<Input>) {
        while !inputs.is_empty() {
            for effect in self.machine.step(Nanos(0), std::mem::take(&mut inputs)) {
                match effect {
                    Effect::Persist { number, .. } => inputs.push(Input::Persisted { number }),
                    Effect::Apply { entries, .. } => {
                        let applied = self.member.machine.apply(&entries).unwrap();
                        let read = || Arc::new(Records::read(&*self.member.store.view()).unwrap());
                        let records = applied.records_changed.then(read);
                        inputs.push(Input::Applied { index: applied.index, records, leases: applied.leases });
                    }
                    Effect::Stop(cause) => panic!("{cause}"),
                    _ => {}
                }
            }
        }
    }

    fn write(&mut self, key: Bytes, value: Bytes) {
        self.asked += 1;
        let command = system(txn([Put { key, value, ..Put::default() }.into()]));
        self.step(vec![Input::Propose { ticket: Ticket(self.asked), command, origin: Origin::Here }]);
    }

    fn seconds(&mut self, seconds: u64) {
        for _ in 0..seconds * 1_000_000_000 / self.machine.tick_nanos() {
            self.step(vec![Input::Tick(1)]);
        }
    }

    fn trust(&self) -> TrustRecord {
        read::trust(&*self.member.store.view()).unwrap().unwrap()
    }

    fn time(&self) -> TrustTime {
        read::trust_time(&*self.member.store.view()).unwrap()
    }

    /// This manager, or a worker, was seen with a certificate of this root.
    fn shows(&mut self, id: u8, issuer: Bytes) {
        let role = if id == 1 { Role::Manager } else { Role::Worker };
        let record = NodeRecord {
            id: Bytes::copy_from_slice(&[id; 16]),
            role: role.into(),
            raft_id: u64::from(id == 1),
            issuer,
            ..NodeRecord::default()
        };
        self.write(NodeRecord::key(record.node_id().unwrap()), record.to_bytes());
    }

    /// A rotation begins, and this manager has renewed; a worker is away.
    fn rotates(&mut self, deadline_s: u64) {
        self.shows(1, new());
        self.shows(2, old());
        let begun = TrustRecord::first(old(), old()).rotated((new(), new()), new(), 2, 1_000, deadline_s).unwrap();
        self.write(TrustRecord::key(), begun.to_bytes());
        assert!(self.trust().is_rotating());
    }
}

#[test]
fn the_deadline_comes_after_so_much_time_and_not_by_a_clock() {
    // Given a rotation that began by a clock of 1970, for a manager whose own is at the end of time
    let mut lone = Lone::founded();
    lone.rotates(128);
    lone.step(vec![Input::Clock { unix_s: u64::MAX }]);
    // When less time has passed than it has, then it goes on, and what has passed is written down,
    lone.seconds(127);
    assert!(lone.trust().is_rotating());
    let time = lone.time();
    assert!(time.serial == 1 && (120..=127).contains(&time.passed_s), "{time:?}");
    // and once all of it has, with what the writes took, it is over, and nothing is left of its time.
    lone.seconds(4);
    assert_eq!((lone.trust().is_rotating(), lone.trust().authorities), (false, vec![new()]));
    assert_eq!(lone.time(), TrustTime::default());
}

#[test]
fn whoever_takes_over_goes_on_from_what_was_written_down_and_never_ends_it_early() {
    let mut lone = Lone::founded();
    lone.rotates(128);
    // When a leader follows another one again and again, each after less time than the rotation has
    let mut led = 0;
    while lone.trust().is_rotating() {
        lone = lone.restarts();
        let noted = lone.time().passed_s;
        lone.seconds(10);
        led += 10;
        assert!(led < 300, "it gets on whoever leads: {:?}", lone.time());
        let now = lone.time().passed_s;
        assert!(!lone.trust().is_rotating() || now >= noted + 5, "{noted} {now}");
    }
    // Then it was over when all of its time had been led, and not before.
    assert!(led >= 128, "{led}");
}

#[test]
fn it_is_over_as_soon_as_all_have_renewed() {
    let mut lone = Lone::founded();
    lone.rotates(365 * 86_400);
    lone.seconds(3);
    assert!(lone.trust().is_rotating());
    lone.shows(2, new());
    lone.seconds(1);
    assert_eq!((lone.trust().is_rotating(), lone.trust().authorities), (false, vec![new()]));
}

#[test]
fn no_deadline_takes_the_quorum_and_one_that_waits_for_it_comes_at_once_then() {
    let mut lone = Lone::founded();
    lone.rotates(2);
    lone.shows(1, old());
    lone.seconds(20);
    assert!(lone.trust().is_rotating(), "the only voter would be shut out");
    lone.shows(1, new());
    lone.seconds(1);
    assert!(!lone.trust().is_rotating());
}

#[test]
fn a_rotation_within_another_has_all_of_its_time() {
    let mut lone = Lone::founded();
    lone.rotates(64);
    lone.seconds(60);
    let third = root(3);
    lone.shows(1, third.clone());
    let nested = lone.trust().rotated((third.clone(), third.clone()), third, 2, 1_000, 64).unwrap();
    lone.write(TrustRecord::key(), nested.to_bytes());
    lone.seconds(63);
    assert!(lone.trust().is_rotating() && lone.trust().serial == 2, "{:?}", lone.time());
    lone.seconds(5);
    assert!(!lone.trust().is_rotating());
}

#[test]
fn what_a_machine_sleeps_through_in_the_middle_of_a_rotation_is_no_time() {
    // Given the only voter in the middle of a rotation that waits for a worker, which is asleep as it is
    let mut lone = Lone::founded();
    lone.rotates(64);
    lone.seconds(10);
    // When it wakes up after 120 days, by its clock and by the ticks that it has missed, as often as that may be
    for days in 1..=3 {
        lone.step(vec![Input::Clock { unix_s: 1_000 + days * 120 * 86_400 }, Input::Tick(u32::MAX)]);
    }
    // Then whoever sleeps with it has the rest of the time,
    lone.seconds(45);
    assert!(lone.trust().is_rotating(), "{:?}", lone.time());
    // and no more.
    lone.seconds(10);
    assert!(!lone.trust().is_rotating());
}
