//! Rounds: however entries are grouped, stopped at or interrupted, the state is the same; and faults stop typed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use prost::Message;
use quorate_core::command::{Batch, COMMAND_VERSION, Command};
use quorate_core::id::{LogIndex, Revision, Term};
use quorate_core::keyspace::Section;
use quorate_core::limits::{ENTRY_BYTES_MAX, HASHES_KEPT, VALUE_BYTES_MAX};
use quorate_core::log::Configuration;
use quorate_core::ports::StoreError;
use quorate_core::state::contract::{ApplyError, Committed, Outcome, Payload, Refusal};
use quorate_core::state::{read, scan_hash};
use quorate_core::txn::*;

fn command() -> impl Strategy<Value = Command> {
    let name = || proptest::sample::select(vec!["a", "b", "c"]);
    let small = move || {
        prop_oneof![
            4 => (name(), 0u8..4).prop_map(|(name, value)| txn([put(name, [value])])),
            2 => name().prop_map(|name| txn([delete(name)])),
            1 => Just(txn([Delete { key: key("a"), end: key("c"), previous: true }.into()])),
            1 => Just(txn([Range { key: key("a"), end: key("z"), ..Range::default() }.into()])),
            1 => (0u8..3).prop_map(|n| txn([Put { key: Section::Node.key(&[n]), value: Bytes::new(), ..Put::default() }.into()])),
        ]
    };
    prop_oneof![
        4 => small().prop_map(system),
        6 => (1u8..4, 1u64..9, 0u64..4, small()).prop_map(|(n, sequence, low_water, txn)| request(n, sequence, low_water, txn)),
        1 => (0u64..12).prop_map(compact),
        1 => (1u8..4, 2u64..20).prop_map(|(n, index)| expire([(n, index)])),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        1 => Just(Payload::Empty),
        1 => proptest::collection::vec(1u64..5, 1..3).prop_map(|voters| {
            let voters = voters.into_iter().map(quorate_core::id::RaftId).collect();
            Payload::Configuration { result: Some(Configuration { voters, ..Configuration::default() }), number: 1 }
        }),
        8 => proptest::collection::vec(command(), 0..4)
            .prop_map(|commands| Payload::Commands { data: Batch::new(commands).to_bytes(), wanted: true }),
    ]
}

fn log(payloads: Vec<Payload>) -> Vec<Committed> {
    let mut number = 0;
    (2u64..)
        .zip(payloads)
        .map(|(index, mut payload)| {
            if let Payload::Configuration { number: own, result } = &mut payload {
                // Every other one is void: its number does not move.
                number += index % 2;
                *own = number;
                if index % 2 == 0 {
                    *result = None;
                }
            }
            Committed { index: LogIndex(index), term: Term(1 + index / 7), payload }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 600 }))]

    #[test]
    fn the_same_entries_in_any_rounds_give_the_same_bytes_outcomes_and_hashes(
        payloads in proptest::collection::vec(payload(), 1..40),
        sizes in proptest::collection::vec((1usize..7, any::<bool>()), 1..40),
    ) {
        let log = log(payloads);
        // Given one member that applies one entry after the other and is never stopped.
        let mut single = Member::founded();
        let mut outcomes = Vec::new();
        for entry in &log {
            outcomes.extend(single.machine.apply(std::slice::from_ref(entry)).unwrap().outcomes);
            single.check();
        }
        // When another gets them in rounds of any size, and is restarted between some of them.
        let mut other = Member::founded();
        let mut others = Vec::new();
        let mut rest = log.as_slice();
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (size, restart) = sizes.next().unwrap();
            let (round, after) = rest.split_at((*size).min(rest.len()));
            rest = after;
            let commits = other.store.commits();
            others.extend(other.machine.apply(round).unwrap().outcomes);
            prop_assert_eq!(other.store.commits(), commits + 1, "one batch per round");
            if *restart {
                let newest = other.machine.hashes().next_back();
                other.reopen();
                prop_assert_eq!(other.machine.hashes().collect::<Vec<_>>(), newest.into_iter().collect::<Vec<_>>());
            }
            other.check();
            // Also the digest at each revision is the same, wherever both know it.
            for (revision, hash) in other.machine.hashes() {
                prop_assert_eq!(single.machine.hash_at(revision), Some(hash), "at {}", revision);
            }
        }
        // Then nothing tells them apart.
        prop_assert_eq!(others, outcomes);
        prop_assert_eq!(other.machine.status(), single.machine.status());
        prop_assert_eq!(other.store.map(), single.store.map());
    }

    #[test]
    fn a_state_that_a_crash_threw_back_to_any_batch_is_brought_forward_again_by_the_log(
        payloads in proptest::collection::vec(payload(), 1..20), size in 1usize..5,
    ) {
        let log = log(payloads);
        let mut member = Member::founded();
        // Given what a crash may leave: the store as it was after any of its batches.
        let mut left = vec![member.store.fork()];
        for round in log.chunks(size) {
            member.machine.apply(round).unwrap();
            left.push(member.store.fork());
        }
        for store in left {
            // When the member starts from there and is given the rest of the log at once.
            let mut again = Member::on(store);
            let applied = usize::try_from(again.machine.status().applied.0).unwrap();
            again.machine.apply(&log[applied - 1..]).unwrap();
            // Then nothing tells it from one that never stopped.
            prop_assert_eq!(again.store.map(), member.store.map());
            prop_assert_eq!(again.machine.status(), member.machine.status());
            again.check();
        }
    }
}

#[test]
fn a_put_over_a_key_is_two_writes_beside_the_one_of_its_entry_and_the_rounds_two() {
    let mut member = Member::founded();
    member.done(request(1, 1, 0, txn([put("a", "1")])));
    member.done(request(1, 2, 0, txn([put("a", "2")])));
    // Record and event; the requests of the entry; progress and usage.
    assert_eq!(member.store.last_writes(), 5);
    // Ten puts of one entry share the last three; the page of the first entry goes, because nothing of it counts any more.
    let ten = (3..13).map(|n| request(1, n, 1, txn([put(format!("k{n}"), "v")]))).collect();
    member.try_run(ten).unwrap();
    assert_eq!(member.store.last_writes(), 10 * 2 + 3 + 1);
}

fn unknown(how: u8) -> Bytes {
    match how {
        // A whole batch of a newer version.
        0 => Batch { version: COMMAND_VERSION + 1, commands: vec![system(txn([put("z", "1")]))] }.to_bytes(),
        // A command of a kind that this build does not have: field 77 of a command, length 0, after one it has.
        1 => {
            let mut bytes = Batch::new(vec![system(txn([put("z", "1")]))]).encode_to_vec();
            bytes.extend([0x12, 0x03, 0xea, 0x04, 0x00]);
            bytes.into()
        }
        // No batch at all.
        _ => Bytes::from_static(b"\xff\xff\xff"),
    }
}

#[test]
fn an_entry_that_cannot_be_applied_stops_typed_with_everything_before_it_committed() {
    for how in 0..3 {
        let mut member = Member::founded();
        let good = entry(2, vec![system(txn([put("a", "1")]))]);
        let after = entry(4, vec![system(txn([put("b", "1")]))]);
        let error = member.machine.apply(&[good, raw_entry(3, unknown(how)), after]).unwrap_err();
        match (how, error) {
            (0 | 1, ApplyError::NeedsVersion { index: LogIndex(3), needed, known: COMMAND_VERSION })
                if needed > COMMAND_VERSION => {}
            (2, ApplyError::Broken { index: LogIndex(3), .. }) => {}
            (_, other) => panic!("{other}"),
        }
        // The entry before counts, its outcome is not lost, and nothing of the bad one is there.
        let salvaged = member.machine.salvage();
        assert_eq!((salvaged.index, salvaged.outcomes.len()), (LogIndex(2), 1));
        assert!(member.machine.salvage().outcomes.is_empty(), "handed out once");
        assert_eq!(member.machine.status().applied, LogIndex(2));
        assert_eq!(member.contents(0).unwrap(), [(Bytes::from("a"), Bytes::from("1"))]);
        member.check();
        // Alone it stops again without a write, also after a restart.
        let commits = member.store.commits();
        member.reopen();
        member.machine.apply(&[raw_entry(3, unknown(how))]).unwrap_err();
        assert_eq!(member.store.commits(), commits);
        // A build that knew it would go on from there.
        member.done(system(txn([put("c", "1")])));
        member.check();
    }
}

#[test]
fn entries_with_a_gap_or_from_before_are_refused() {
    let mut member = Member::founded();
    member.done(system(txn([put("a", "1")])));
    for index in [1, 2, 4] {
        let error = member.machine.apply(&[entry(index, vec![])]).unwrap_err();
        assert!(matches!(error, ApplyError::Broken { index: LogIndex(at), .. } if at == index), "{error}");
    }
    let mut older = entry(3, vec![]);
    older.term = Term(0);
    assert!(matches!(member.machine.apply(&[older]).unwrap_err(), ApplyError::Broken { .. }));
    member.machine.apply(&[configuration_entry(3, &[1, 2, 3], 5)]).unwrap();
    let back = member.machine.apply(&[configuration_entry(4, &[1], 4)]).unwrap_err();
    assert!(matches!(back, ApplyError::Broken { .. }));
    assert_eq!(member.machine.status().applied, LogIndex(3));
    member.check();
}

#[test]
fn a_store_that_fails_once_is_final_and_nothing_of_the_round_counts() {
    let mut member = Member::founded();
    member.done(request(1, 1, 0, txn([put("a", "1")])));
    let before = member.store.map();
    member.store.fail_commits();
    let failing = entry(member.next(), vec![request(1, 2, 0, txn([put("a", "2")]))]);
    let error = member.machine.apply(std::slice::from_ref(&failing)).unwrap_err();
    assert!(matches!(error, ApplyError::Store(StoreError::Io { .. })), "{error}");
    assert_eq!(member.store.map(), before);
    // It never tries again by itself: what is in memory is no longer what is in the store.
    let poisoned = |error| matches!(error, ApplyError::Store(StoreError::Poisoned(_)));
    assert!(poisoned(member.machine.apply(&[failing]).unwrap_err()));
}

#[test]
fn one_flipped_byte_in_any_hashed_record_shows_in_the_full_scan() {
    let mut member = Member::founded();
    member.done(request(1, 1, 0, txn([put("a", "value")])));
    member.done(compact(2));
    member.done(request(2, 1, 0, txn([put("a", "value")])));
    member.done(expire([(2, 4)]));
    member.check();
    let mut flipped = 0;
    for (stored, value) in member.store.map().iter().filter(|(key, _)| key[0] >= 0x10) {
        for at in 0..value.len() {
            let broken = member.store.fork();
            let mut bytes = value.to_vec();
            bytes[at] ^= 1;
            broken.tamper(|map| drop(map.insert(stored.clone(), bytes.into())));
            assert_ne!(scan_hash(&*broken.view()).unwrap(), member.hash(), "{} at {at}", stored.escape_ascii());
            flipped += 1;
        }
        let broken = member.store.fork();
        broken.tamper(|map| drop(map.remove(stored)));
        assert_ne!(scan_hash(&*broken.view()).unwrap(), member.hash());
    }
    assert!(flipped > 200, "records were there to flip: {flipped}");
}

#[test]
fn a_damaged_record_is_told_as_damage_and_not_read_as_something_else() {
    let mut member = Member::founded();
    member.done(system(txn([put("a", "1")])));
    let stored = [&b"\x11"[..], &key("a")].concat();
    member.store.tamper(|map| drop(map.insert(stored.into(), Bytes::from_static(b"\x07"))));
    let range = Range { key: key("a"), ..Range::default() };
    let error = read::range(&*member.store.view(), &range).unwrap_err();
    assert!(matches!(error, read::ReadError::Store(StoreError::Corrupt { .. })), "{error}");
    let error = member.try_run(vec![system(txn([put("a", "2")]))]).unwrap_err();
    assert!(matches!(error, ApplyError::Store(StoreError::Corrupt { .. })), "{error}");
}

#[test]
fn only_as_many_digests_are_kept_as_promised() {
    let mut member = Member::founded();
    let commands = (0..HASHES_KEPT).map(|n| system(txn([put("a", n.to_string())]))).collect();
    member.try_run(commands).unwrap();
    assert_eq!(member.machine.hashes().count(), HASHES_KEPT);
    assert_eq!(member.machine.hash_at(Revision(1)), None);
    assert!(member.machine.hash_at(Revision(2)).is_some());
    assert_eq!(member.machine.hash_at(Revision(HASHES_KEPT as u64 + 1)), Some(member.hash()));
    assert_eq!(member.machine.hash_at(Revision(HASHES_KEPT as u64 + 2)), None);
}

#[test]
fn records_and_configurations_that_change_are_told() {
    let mut member = Member::founded();
    let changed = |member: &mut Member, entry| member.machine.apply(&[entry]).unwrap().records_changed;
    assert!(!changed(&mut member, entry(2, vec![system(txn([put("a", "1")]))])));
    let record = Put { key: Section::Removed.key(&3u64.to_be_bytes()), ..Put::default() };
    assert!(changed(&mut member, entry(3, vec![system(txn([record.into()]))])));
    assert!(changed(&mut member, configuration_entry(4, &[2, 1, 3], 1)));
    let void =
        Committed { index: LogIndex(5), term: Term(1), payload: Payload::Configuration { result: None, number: 1 } };
    assert!(!changed(&mut member, void));
    let status = member.machine.status().clone();
    assert_eq!(status.configuration.voters.iter().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 3], "sorted");
    assert_eq!(read::removed(&*member.store.view()).unwrap().ids().map(|id| id.0).collect::<Vec<_>>(), [3]);
    member.check();
}

#[test]
fn outcomes_are_collected_only_for_entries_that_somebody_waits_for() {
    let mut member = Member::founded();
    let commands = || vec![system(txn([put("a", "1")])), compact(1), system(txn([put("", "")]))];
    let mut unwanted = entry(2, commands());
    if let Payload::Commands { wanted, .. } = &mut unwanted.payload {
        *wanted = false;
    }
    let applied = member.machine.apply(&[unwanted, entry(3, commands()), entry(4, vec![])]).unwrap();
    let told: Vec<(u64, usize)> = applied.outcomes.iter().map(|(index, outcomes)| (index.0, outcomes.len())).collect();
    assert_eq!(told, [(3, 3), (4, 0)]);
    assert!(matches!(&applied.outcomes[0].1[..], [Outcome::Done(_), Outcome::Done(_), Outcome::Refused(_)]));
}

#[test]
fn small_writes_over_large_values_are_refused_before_one_entry_holds_all_of_these_in_memory() {
    // Given more large values than may be in memory at once
    const VALUES: u64 = 80;
    let mut member = Member::founded();
    for n in 0..VALUES {
        member.done(system(txn([put(n.to_string(), vec![1; VALUE_BYTES_MAX])])));
    }
    // When one entry replaces and removes all of them by small writes
    let write = |n: u64| {
        let name = n.to_string();
        request(1, n + 1, 0, if n.is_multiple_of(2) { txn([put(name, "small")]) } else { txn([delete(name)]) })
    };
    let outcomes = member.try_run((0..VALUES).map(write).collect()).unwrap();
    // Then it takes as many as fit, with what a record has besides its value, and the others are told so
    let done = outcomes.iter().take_while(|outcome| matches!(outcome, Outcome::Done(_))).count();
    let replaced = |count: usize| (count * VALUE_BYTES_MAX) as u64;
    assert!(replaced(done - 1) <= ENTRY_BYTES_MAX && replaced(done) >= ENTRY_BYTES_MAX, "{done}");
    for refused in &outcomes[done..] {
        assert!(matches!(refused, Outcome::Refused(Refusal::Limit { limit: "ENTRY_BYTES_MAX", .. })), "{refused:?}");
    }
    // And they count when they come again under the same ids, and once
    for _ in 0..2 {
        let again = member.try_run((done as u64..VALUES).map(write).collect()).unwrap();
        assert!(again.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    }
    assert_eq!(member.revision(), 1 + 2 * VALUES);
    // And what managers write of themselves is not held up
    let small = |n: u64| system(txn([put(n.to_string(), vec![2; VALUE_BYTES_MAX])]));
    assert!(
        member.try_run((0..VALUES).map(small).collect()).unwrap().iter().all(|one| matches!(one, Outcome::Done(_)))
    );
    assert_eq!(scan_hash(&*member.store.view()).unwrap(), member.machine.status().hash);
}
