//! Messages that no sound member sends: the machine drops them or stops with a reason, and never panics.
#![cfg(feature = "consensus")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![cfg(feature = "testing")]

use std::sync::Arc;

use bytes::Bytes;
use prost011::Message as _;
use quorate_core::command::{Batch, Command};
use quorate_core::consensus::config::Config;
use quorate_core::consensus::io::{Effect, Input, Nanos, Origin, Records, StopCause, Ticket};
use quorate_core::consensus::{Consensus, Start};
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{Configuration, HardState, LogStart};
use quorate_core::membership::record::ClusterRecord;
use quorate_core::ports::{Boot, StagedId};
use quorate_core::state::contract::StateStatus;
use quorate_core::testing::Rng;
use raft::eraftpb::{self, EntryType, MessageType};

/// A voter of three with an empty log, and what its owner would feed back at once.
struct Alone {
    machine: Consensus,
    now: u64,
    status: StateStatus,
    stopped: Option<StopCause>,
    last: u64,
    term: u64,
}

fn member() -> Alone {
    let ids = |ids: &[u64]| ids.iter().copied().map(RaftId).collect();
    let configuration = Configuration { voters: ids(&[1, 2, 3]), learners: ids(&[4]), ..Configuration::default() };
    let start = LogStart { index: LogIndex(5), term: Term(1) };
    let hard_state = HardState { term: Term(1), vote: RaftId(0), commit: LogIndex(5) };
    let boot = Boot { hard_state, start, last: LogIndex(5), ..Boot::default() };
    let status = StateStatus { applied: LogIndex(5), applied_term: Term(1), configuration, ..StateStatus::default() };
    let records = Records {
        cluster: ClusterRecord { version: 1, max_voters: 5, ..ClusterRecord::default() },
        ..Records::default()
    };
    let config =
        Config { cache_bytes: 64, log_window_entries: 20, space_low: 1, space_enough: 2, ..Config::new(RaftId(1), 9) };
    let machine = Consensus::new(
        config,
        Start { boot, state: status.clone(), records: Arc::new(records), tail: Vec::new(), leases: Vec::new() },
    );
    Alone { machine: machine.unwrap(), now: 0, status, stopped: None, last: 5, term: 1 }
}

impl Alone {
    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while !inputs.is_empty() && self.stopped.is_none() {
            self.now += 1000;
            let effects = self.machine.step(Nanos(self.now), std::mem::take(&mut inputs));
            for effect in effects {
                match effect {
                    Effect::Persist { number, .. } => inputs.push(Input::Persisted { number }),
                    Effect::Apply { entries, .. } => {
                        let last = entries.last().unwrap();
                        self.status.applied = last.index;
                        self.status.applied_term = last.term;
                        inputs.push(Input::Applied { index: last.index, records: None, leases: Vec::new() });
                    }
                    Effect::Install { reset, .. } => {
                        self.status.applied = reset.start.index;
                        self.status.applied_term = reset.start.term;
                        inputs.push(Input::Installed {
                            status: self.status.clone(),
                            records: Arc::default(),
                            leases: Vec::new(),
                        });
                    }
                    Effect::BuildSnapshot { .. } => {
                        inputs.push(Input::SnapshotBuilt { status: self.status.clone(), view: 1 });
                    }
                    Effect::SendSnapshot { to, .. } => inputs.push(Input::SnapshotSent { to, delivered: false }),
                    Effect::Fetch { number, .. } => inputs.push(Input::Fetched { number, entries: Vec::new() }),
                    Effect::Status(status) => {
                        self.last = status.last.0;
                        self.term = status.term.0;
                        self.status.configuration = status.configuration.clone();
                        self.status.configuration_number = status.configuration_number;
                    }
                    Effect::Stop(cause) => self.stopped = Some(cause),
                    Effect::Send { .. } | Effect::Discard(_) | Effect::DropSnapshot { .. } | Effect::Answer { .. } => {}
                }
            }
        }
    }
}

/// A number near what the member has, or anything.
fn number(rng: &mut Rng, near: u64) -> u64 {
    match rng.between(0, 9) {
        0 => rng.next(),
        1 => 0,
        2 => u64::MAX,
        _ => (near + rng.between(0, 6)).saturating_sub(3),
    }
}

fn message(rng: &mut Rng, from: u64, last: u64, term: u64) -> eraftpb::Message {
    let kind = i32::try_from(rng.between(0, 18)).unwrap();
    let index = number(rng, last);
    let entries = (0..rng.between(0, 3))
        .map(|n| {
            let loose = rng.chance(100);
            let mut entry = eraftpb::Entry {
                index: if loose { number(rng, last) } else { index.wrapping_add(n + 1) },
                term: if loose { number(rng, term) } else { term },
                data: match rng.between(0, 2) {
                    0 => Vec::new(),
                    1 => Batch::new(vec![Command::default()]).to_bytes().to_vec(),
                    _ => vec![u8::try_from(rng.between(0, 255)).unwrap(); 5],
                },
                ..eraftpb::Entry::default()
            };
            if rng.chance(100) {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
            }
            if rng.chance(20) {
                entry.set_entry_type(EntryType::EntryConfChange);
            }
            entry
        })
        .collect();
    let mut message = eraftpb::Message {
        from: if rng.chance(20) { rng.between(0, 9) } else { from },
        to: if rng.chance(20) { rng.between(0, 9) } else { 1 },
        term: number(rng, term),
        log_term: number(rng, term),
        index,
        entries,
        commit: number(rng, last),
        commit_term: number(rng, term),
        reject: rng.chance(300),
        reject_hint: number(rng, last),
        request_snapshot: if rng.chance(50) { number(rng, last) } else { 0 },
        context: match rng.between(0, 3) {
            0 => b"CampaignTransfer".to_vec(),
            1 => vec![0; 24],
            _ => Vec::new(),
        },
        priority: if rng.chance(50) { i64::MAX } else { -i64::from(rng.chance(50)) },
        ..eraftpb::Message::default()
    };
    message.set_msg_type(MessageType::from_i32(kind).unwrap());
    let mut ids = |count: u64| (0..rng.between(0, count)).map(|_| rng.between(0, 6)).collect::<Vec<_>>();
    let state = eraftpb::ConfState {
        voters: ids(3),
        learners: ids(2),
        voters_outgoing: ids(1),
        learners_next: ids(1),
        auto_leave: false,
    };
    let sound = eraftpb::ConfState { voters: vec![1, 2, 3], learners: vec![4], ..eraftpb::ConfState::default() };
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = number(rng, last);
    snapshot.mut_metadata().term = number(rng, term);
    snapshot.mut_metadata().conf_state = Some(if rng.chance(500) { sound } else { state });
    message.snapshot = Some(snapshot);
    message
}

#[test]
fn no_message_makes_the_machine_panic() {
    let (mut stops, mut led) = (0, 0);
    for seed in 0..600 {
        let mut rng = Rng::stream(seed, 77);
        let mut member = member();
        member.input(Input::PeerUp(RaftId(2)));
        for ticket in 0..250 {
            let from = rng.between(2, 4);
            let (last, term) = (member.last, member.term);
            let input = match rng.between(0, 19) {
                0..=3 => Input::Tick(u32::try_from(rng.between(1, 20)).unwrap()),
                4 => Input::Propose { ticket: Ticket(ticket), command: Command::default(), origin: Origin::Here },
                5 => Input::Read { ticket: Ticket(ticket) },
                6 => Input::Transfer { ticket: Ticket(ticket), to: Some(RaftId(rng.between(0, 5))) },
                7 => {
                    let mut message = message(&mut rng, from, last, term);
                    message.set_msg_type(MessageType::MsgSnapshot);
                    Input::Staged {
                        from: RaftId(from),
                        message: message.encode_to_vec().into(),
                        staged: StagedId(ticket),
                    }
                }
                12 if rng.chance(200) => Input::Space { free: rng.between(0, 3) },
                8 => Input::Message { from: RaftId(from), body: Bytes::from(rng.next().to_be_bytes().to_vec()) },
                // Votes that it would win with, so that it leads now and then.
                9..=11 => {
                    let mut vote =
                        eraftpb::Message { from, to: 1, term: term + rng.between(0, 1), ..Default::default() };
                    vote.set_msg_type(if rng.chance(500) {
                        MessageType::MsgRequestPreVoteResponse
                    } else {
                        MessageType::MsgRequestVoteResponse
                    });
                    Input::Message { from: RaftId(from), body: vote.encode_to_vec().into() }
                }
                _ => {
                    let body = message(&mut rng, from, last, term).encode_to_vec().into();
                    Input::Message { from: RaftId(from), body }
                }
            };
            member.input(input);
            led += u64::from(member.machine.status().role == Some(quorate_core::consensus::io::RaftRole::Leader));
            if let Some(cause) = &member.stopped {
                assert!(!cause.to_string().is_empty());
                stops += 1;
                break;
            }
        }
    }
    assert!(stops > 0, "some of these must be recognised as damage");
    assert!(led > 0, "it must have led now and then");
}

#[test]
fn a_directory_that_was_put_back_is_told_from_a_defect() {
    let from = |leader: u64, term: u64, kind: MessageType| {
        let mut message = eraftpb::Message { from: leader, to: 1, term, ..eraftpb::Message::default() };
        message.set_msg_type(kind);
        message
    };
    let said = |message: &eraftpb::Message| Input::Message {
        from: RaftId(message.from),
        body: message.encode_to_vec().into(),
    };
    // Given a log that ends at 5, when a leader has it on record that 9 was there, then it was put back,
    let mut put_back = member();
    put_back.input(said(&eraftpb::Message { commit: 9, ..from(2, 2, MessageType::MsgHeartbeat) }));
    assert_eq!(put_back.stopped, Some(StopCause::RolledBack { asked: LogIndex(9), last: LogIndex(5) }));
    // and one that only commits what is there is followed.
    let mut sound = member();
    let entry = |term| vec![eraftpb::Entry { index: 6, term, ..eraftpb::Entry::default() }];
    let append =
        eraftpb::Message { index: 5, log_term: 1, commit: 6, entries: entry(2), ..from(2, 2, MessageType::MsgAppend) };
    sound.input(said(&append));
    assert_eq!((sound.stopped.clone(), sound.last), (None, 6));
    // When a later leader has another entry in the place of one that is committed, then somebody else was put back.
    let other = eraftpb::Message { entries: entry(3), ..eraftpb::Message { from: 3, term: 3, ..append } };
    sound.input(said(&other));
    let overruled = StopCause::Overruled { leader: RaftId(3), index: LogIndex(6), term: Term(3) };
    assert_eq!(sound.stopped, Some(overruled));
}
