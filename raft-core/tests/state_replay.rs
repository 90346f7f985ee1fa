//! Exactly once: the replay table.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::id::LogIndex;
use quorate_core::limits::*;
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::read;
use quorate_core::txn::*;

/// A transaction that shows how often it was applied: the version of the key counts.
fn count(name: &str) -> Txn {
    txn([put(name, "x")])
}

fn version(member: &Member, name: &str) -> u64 {
    let range = Range { key: key(name), ..Range::default() };
    let result = read::range(&*member.store.view(), &range).unwrap();
    result.entries.first().map_or(0, |kv| kv.version)
}

#[test]
fn a_retry_after_later_writes_of_the_same_client_gets_its_first_outcome() {
    let mut member = Member::founded();
    let first = member.done(request(1, 1, 0, count("a")));
    member.done(request(1, 3, 0, count("a")));
    member.done(request(1, 2, 0, count("b")));
    let again = member.done(request(1, 1, 0, count("a")));
    assert_eq!(again, TxnResult { replayed: true, ..first });
    assert_eq!((version(&member, "a"), version(&member, "b")), (2, 1));
    member.check();
}

#[test]
fn a_wish_worked_out_anew_for_what_somebody_else_wished_meanwhile_is_not_applied_again() {
    // Given a promotion that was applied, its answer lost, and a demotion by somebody else after it
    let mut member = Member::founded();
    let now = |member: &Member| member.machine.status().revision.0;
    let becomes = |role: &str, revision: u64| {
        let compares = vec![Compare::mod_revision(key("node"), revision)];
        Txn { compares, ..txn([put("node", role), Range { key: key("node"), ..Range::default() }.into()]) }
    };
    let promoted = member.done(request(1, 1, 0, becomes("manager", 0)));
    let at = now(&member);
    assert!(member.done(request(2, 1, 0, becomes("worker", at))).succeeded);
    // When the promotion comes once more, worked out by another leader from what is there now
    let at = now(&member);
    let again = member.done(request(1, 1, 0, becomes("manager", at)));
    // Then it is answered with what it wrote the first time, and the demotion stands
    assert_eq!(again, TxnResult { replayed: true, ..promoted });
    assert_eq!(version(&member, "node"), 2);
    let read = Range { key: key("node"), ..Range::default() };
    assert_eq!(&read::range(&*member.store.view(), &read).unwrap().entries[0].value[..], b"worker");
    member.check();
}

#[test]
fn a_wish_that_was_settled_as_not_done_is_not_done_by_a_copy_that_comes_late() {
    // Given a wish that was refused, and settled so before that was said
    let mut member = Member::founded();
    let nothing = Txn { compares: vec![Compare::mod_revision(key("node"), u64::MAX)], ..Txn::default() };
    let before = member.machine.status().revision;
    assert!(!member.done(request(1, 1, 0, nothing)).succeeded);
    assert_eq!(member.machine.status().revision, before, "it makes no revision");
    // When an earlier copy of it, which would have been done, comes out of the network
    let late = member.done(request(1, 1, 0, count("node")));
    // Then it does nothing
    assert!(late.replayed && !late.succeeded);
    assert_eq!(version(&member, "node"), 0);
    member.check();
}

#[test]
fn a_retry_in_the_same_entry_and_in_the_same_round_is_seen() {
    let mut member = Member::founded();
    let same = vec![request(1, 1, 0, count("a")), request(1, 1, 0, count("a"))];
    let round = [entry(2, same), entry(3, vec![request(1, 1, 0, count("a"))])];
    let applied = member.machine.apply(&round).unwrap();
    let replayed: Vec<bool> = applied
        .outcomes
        .iter()
        .flat_map(|(_, outcomes)| outcomes)
        .map(|outcome| matches!(outcome, Outcome::Done(result) if result.replayed))
        .collect();
    assert_eq!((replayed, version(&member, "a")), (vec![false, true, true], 1));
    member.check();
}

#[test]
fn a_refusal_is_kept_like_any_outcome() {
    // Given a fenced write that came too late.
    let mut member = Member::founded();
    let late = || request(1, 1, 0, Txn { fence: Some(9), ..count("a") });
    let refusal = member.refused(late());
    assert!(refusal.is_kept());
    // When a copy of it arrives in the term of its token, then it is still refused, with the same words.
    let mut copy = entry(member.next(), vec![late()]);
    copy.term = quorate_core::id::Term(9);
    let applied = member.machine.apply(&[copy]).unwrap();
    assert_eq!(applied.outcomes[0].1, [Outcome::Refused(refusal)]);
    assert_eq!(version(&member, "a"), 0);
}

#[test]
fn a_retry_after_reopen_or_snapshot_gets_the_same_outcome() {
    let mut member = Member::founded();
    let read = Range { key: key("a"), ..Range::default() };
    let first = member.done(request(1, 1, 0, txn([put("a", "1"), read.into()])));
    let refused = member.refused(request(1, 2, 0, txn([put("", "1")])));
    member.done(request(1, 3, 0, count("a")));
    member.reopen();
    let mut other = restored(&member.store);
    for member in [&mut member, &mut other] {
        assert_eq!(member.done(request(1, 1, 0, count("a"))), TxnResult { replayed: true, ..first.clone() });
        assert_eq!(member.refused(request(1, 2, 0, count("a"))), refused);
        assert_eq!(version(member, "a"), 2);
        member.check();
    }
    assert_eq!(member.hash(), other.hash());
}

#[test]
fn the_mark_only_rises_and_what_is_at_or_below_it_is_refused_as_unknown() {
    let mut member = Member::founded();
    for sequence in 1..=3 {
        member.done(request(1, sequence, 0, count("a")));
    }
    let hash_of_three = member.hash();
    member.done(request(1, 4, 2, count("a")));
    for sequence in [1, 2] {
        // Also with the old mark of its first attempt.
        let refusal = member.refused(request(1, sequence, 0, count("a")));
        assert_eq!(refusal, Refusal::RequestExpired { sequence, low_water: 2 });
        assert!(refusal.is_unknown() && !refusal.is_kept());
    }
    assert!(member.done(request(1, 3, 0, count("a"))).replayed);
    assert_eq!(version(&member, "a"), 4);
    assert_ne!(member.hash(), hash_of_three);
    // A client that contradicts itself is refused, and the highest mark there is harms nobody.
    let refusal = member.refused(request(1, 5, u64::MAX, count("a")));
    assert_eq!(refusal, Refusal::RequestExpired { sequence: 5, low_water: u64::MAX });
    assert_eq!(version(&member, "a"), 4);
    member.check();
    member.reopen();
    member.check();
}

#[test]
fn a_large_answer_is_kept_as_what_it_did() {
    let mut member = Member::founded();
    member.done(system(txn([put("big", "v".repeat(REPLAY_OUTCOME_BYTES_MAX))])));
    let read = || txn([put("a", "1"), Range { key: key("big"), ..Range::default() }.into()]);
    let first = member.done(request(1, 1, 0, read()));
    assert_eq!(first.results.len(), 2);
    let again = member.done(request(1, 1, 0, read()));
    assert_eq!(again, TxnResult { results: vec![], replayed: true, ..first });
    // Given one that is just as large as may be, and one that is a byte larger
    let length = prost::Message::encoded_len(&first);
    let mut bytes = 2 * REPLAY_OUTCOME_BYTES_MAX - length;
    for (sequence, over) in [(2, 0), (3, 1)] {
        loop {
            member.done(system(txn([put("big", "v".repeat(bytes))])));
            let result = member.done(request(2, 1, 0, read()));
            let length = prost::Message::encoded_len(&result);
            member.done(expire([(2, member.next() - 1)]));
            if length == REPLAY_OUTCOME_BYTES_MAX + over {
                break;
            }
            bytes = bytes + REPLAY_OUTCOME_BYTES_MAX + over - length;
        }
        // Then the first is kept whole, and the other one is not.
        let first = member.done(request(1, sequence, 0, read()));
        let again = member.done(request(1, sequence, 0, read()));
        let results = if over == 0 { first.results.clone() } else { vec![] };
        assert_eq!(again, TxnResult { results, replayed: true, ..first });
    }
}

#[test]
fn a_client_with_too_much_open_is_refused_until_it_raises_its_mark() {
    let mut member = Member::founded();
    let max = REPLAY_PER_CLIENT_MAX as u64;
    let commands = (1..=max).map(|sequence| request(1, sequence, 0, txn([])));
    member.try_run(commands.collect()).unwrap();
    let refusal = member.refused(request(1, max + 1, 0, count("a")));
    assert_eq!(refusal, Refusal::ReplayFull { kept: max, max });
    assert!(!refusal.is_kept());
    // Kept ones are still answered, other clients go on, and a raised mark makes room.
    assert!(member.done(request(1, max, 0, count("a"))).replayed);
    member.done(request(2, 1, 0, count("b")));
    member.done(request(1, max + 1, 1, count("a")));
    assert_eq!((version(&member, "a"), version(&member, "b")), (1, 1));
    member.check();
}

#[test]
fn the_oldest_open_request_is_let_in_also_when_the_table_is_full() {
    // Given a client whose first request is late, with as many others answered as are kept
    let mut member = Member::founded();
    let max = REPLAY_PER_CLIENT_MAX as u64;
    let commands = (2..=max + 1).map(|sequence| request(1, sequence, 0, txn([])));
    member.try_run(commands.collect()).unwrap();
    assert!(matches!(member.refused(request(1, max + 2, 0, count("a"))), Refusal::ReplayFull { .. }));

    // When the first one arrives, then it is done, since without its answer the mark could never be raised
    assert!(!member.done(request(1, 1, 0, count("a"))).replayed);
    // And nobody else gets in by that, until the mark is raised
    assert!(matches!(member.refused(request(1, max + 2, 0, count("a"))), Refusal::ReplayFull { .. }));
    member.done(request(1, max + 2, max + 1, count("a")));
    assert_eq!(version(&member, "a"), 2);
    member.check();
}

#[test]
fn more_clients_than_the_table_holds_are_refused_by_the_limits_name() {
    let mut member = Member::founded();
    let from = |n: u64, sequence| -> Command {
        let client = Bytes::from([n.to_be_bytes(), [0; 8]].concat());
        CommandKind::Request(Request { client, sequence, txn: Some(txn([])), ..Request::default() }).into()
    };
    let max = REPLAY_CLIENTS_MAX as u64;
    let outcomes = member.try_run((0..max).map(|n| from(n, 1)).collect()).unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))));
    let refusal = member.refused(from(max, 1));
    assert!(matches!(refusal, Refusal::Limit { limit: "REPLAY_CLIENTS_MAX", .. }) && !refusal.is_kept(), "{refusal}");
    member.done(from(0, 2));
    // When the silent ones are forgotten there is room again.
    let silent = read::silent_clients(&*member.store.view(), LogIndex(2), 10).unwrap();
    assert_eq!(silent.len(), 10);
    let forget = quorate_core::command::ExpireClients { clients: silent };
    member.done(CommandKind::ExpireClients(forget).into());
    member.done(from(max, 1));
    member.check();
}

#[test]
fn the_table_is_bounded_in_bytes() {
    // Given clients that each keep as many outcomes of the largest size as they may.
    let mut member = Member::founded();
    let value = "v".repeat(REPLAY_OUTCOME_BYTES_MAX - 64);
    member.done(system(txn([put("big", &value)])));
    let read = || txn([Range { key: key("big"), ..Range::default() }.into()]);
    let mut refusal = None;
    for n in 0..=255u8 {
        let commands = (1..=REPLAY_PER_CLIENT_MAX as u64).map(|sequence| request(n, sequence, 0, read()));
        let outcomes = member.try_run(commands.collect()).unwrap();
        refusal = outcomes.into_iter().find_map(|outcome| match outcome {
            Outcome::Refused(refusal) => Some((n, refusal)),
            Outcome::Done(_) => None,
        });
        if refusal.is_some() {
            break;
        }
    }
    // Then the table is full at its bound, by name; and a client that raises its mark gets on.
    let (n, refusal) = refusal.unwrap();
    assert!(matches!(refusal, Refusal::Limit { limit: "REPLAY_BYTES_MAX", .. }) && !refusal.is_kept(), "{refusal}");
    let outcomes: usize =
        member.store.map().iter().filter(|(key, _)| key[0] == 0x13).map(|(_, value)| value.len()).sum();
    let bound = usize::try_from(REPLAY_BYTES_MAX).unwrap();
    assert!(outcomes < bound && outcomes > bound / 2, "{outcomes}");
    assert!(matches!(member.refused(request(n + 1, 1, 0, count("a"))), Refusal::Limit { .. }));
    member.done(request(0, 5000, 4000, count("a")));
}

#[test]
fn a_client_and_each_of_its_outcomes_count_more_than_their_bytes() {
    let mut member = Member::founded();
    let mut before = member.machine.replay();
    for (sequence, records) in [(1, 2), (2, 1), (3, 1)] {
        member.done(request(1, sequence, 0, count("a")));
        let after = member.machine.replay();
        let bytes = after.1 - before.1 - records * REPLAY_RECORD_BYTES;
        assert!((1..64).contains(&bytes) && after.0 == 1, "{after:?} after {before:?}");
        before = after;
    }
    member.done(expire([(1, member.next() - 1)]));
    assert_eq!(member.machine.replay(), (0, 0));
}

#[test]
fn expiry_is_void_for_a_client_that_has_spoken_since() {
    let mut member = Member::founded();
    member.done(request(1, 1, 0, count("a")));
    member.done(request(2, 1, 0, count("b")));
    let seen = read::silent_clients(&*member.store.view(), LogIndex(u64::MAX), 10).unwrap();
    assert_eq!(seen.iter().map(|silent| silent.last_index).collect::<Vec<_>>(), [2, 3]);
    // A mere retry is a sign of life too.
    assert!(member.done(request(1, 1, 0, count("a"))).replayed);
    assert!(member.done(expire([(1, 2), (2, 3)])).succeeded);
    assert!(member.done(request(1, 1, 0, count("a"))).replayed, "client 1 was not forgotten");
    member.check();
    assert!(!member.done(expire([(2, 3)])).succeeded, "there is nothing left to forget");
}

#[test]
fn a_forgotten_client_that_comes_back_is_recognised_by_its_mark_or_by_its_birth() {
    let mut member = Member::founded();
    let born = |n, sequence, born| -> Command {
        let txn = Some(count("a"));
        CommandKind::Request(Request { client: bytes_of(n), sequence, txn, born, ..Request::default() }).into()
    };
    member.done(request(1, 1, 0, count("a")));
    member.done(request(1, 2, 1, count("a"))); // index 3
    member.done(born(2, 1, 3)); // index 4
    assert!(member.done(expire([(1, 3), (2, 4)])).succeeded); // index 5
    for reopened in [false, true] {
        if reopened {
            member.reopen();
        }
        let refusal = member.refused(request(1, 2, 1, count("a")));
        assert_eq!(refusal, Refusal::RequestExpired { sequence: 2, low_water: 1 });
        assert!(matches!(member.refused(born(2, 1, 3)), Refusal::RequestExpired { .. }));
        assert!(matches!(member.refused(born(6, 1, 4)), Refusal::RequestExpired { .. }), "at the floor");
        assert_eq!(version(&member, "a"), 3);
        member.check();
    }
    // One that was born since is new, whatever its mark; and so is one that cannot say and has none.
    let marked = Request {
        client: bytes_of(3),
        sequence: 9,
        low_water: 8,
        txn: Some(count("a")),
        born: 5,
        ..Request::default()
    };
    member.done(CommandKind::Request(marked.clone()).into());
    let below = Request { sequence: 8, ..marked.clone() };
    assert!(matches!(member.refused(CommandKind::Request(below).into()), Refusal::RequestExpired { low_water: 8, .. }));
    let contradicts = Request { client: bytes_of(5), sequence: 8, ..marked };
    assert!(matches!(member.refused(CommandKind::Request(contradicts).into()), Refusal::RequestExpired { .. }));
    member.check();
    member.done(request(4, 7, 0, count("a")));
    assert_eq!(version(&member, "a"), 5);
}

#[test]
fn a_request_without_a_readable_id_or_transaction_is_refused() {
    let mut member = Member::founded();
    let with = |client: &'static [u8], sequence| {
        let client = Bytes::from_static(client);
        CommandKind::Request(Request { client, sequence, txn: Some(count("a")), ..Request::default() }).into()
    };
    for command in [with(b"short", 1), with(&[1; 16], 0)] {
        assert!(matches!(member.refused(command), Refusal::Malformed { .. }));
    }
    let nothing = || CommandKind::Request(Request { client: bytes_of(1), sequence: 1, ..Request::default() }).into();
    assert!(matches!(member.refused(nothing()), Refusal::Malformed { .. }));
    assert_eq!(version(&member, "a"), 0);
    member.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 150 } else { 600 }))]

    /// Copies in any order, marks that rise in between, stops and snapshots anywhere: nothing is applied twice, every
    /// copy above the mark gets the first answer, every copy at or below it is refused.
    #[test]
    fn in_whatever_order_copies_arrive_nothing_is_applied_twice(
        steps in proptest::collection::vec((1u8..4, 1u64..8, 0u64..5, 0u8..12), 1..80),
    ) {
        let mut member = Member::founded();
        let mut marks: BTreeMap<u8, u64> = BTreeMap::new();
        let mut first: BTreeMap<(u8, u64), TxnResult> = BTreeMap::new();
        for (n, sequence, low_water, disturb) in steps {
            match disturb {
                0 => member.reopen(),
                1 => member = restored(&member.store),
                _ => {}
            }
            let name = format!("{n}-{sequence}");
            let known = marks.contains_key(&n);
            let outcome = member.run(request(n, sequence, low_water, count(&name)));
            if !known && low_water > 0 {
                prop_assert_eq!(outcome, Outcome::Refused(Refusal::RequestExpired { sequence, low_water }));
                continue;
            }
            let mark = marks.entry(n).or_default();
            *mark = low_water.max(*mark);
            let applied = version(&member, &name);
            match first.get(&(n, sequence)) {
                _ if sequence <= *mark => {
                    prop_assert_eq!(outcome, Outcome::Refused(Refusal::RequestExpired { sequence, low_water: *mark }));
                    prop_assert!(applied <= 1);
                }
                Some(result) => prop_assert_eq!(outcome, Outcome::Done(TxnResult { replayed: true, ..result.clone() })),
                None => {
                    let Outcome::Done(result) = outcome else { panic!("refused") };
                    prop_assert!(!result.replayed);
                    prop_assert_eq!(applied, 1);
                    first.insert((n, sequence), result);
                }
            }
            member.check();
        }
    }
}

#[test]
fn a_page_of_which_little_counts_is_thinned_and_clients_that_only_had_the_last_word_in_it_keep_it() {
    // Given an entry with the requests of many clients, of whom one stays silent, one confirms what it got, and the others
    // go on
    let mut member = Member::founded();
    let first = member.next();
    let all = (1..=20).map(|client| request(client, 1, 0, txn([put(format!("k{client}"), "v".repeat(200))])));
    member.try_run(all.collect()).unwrap();
    let page = |member: &Member, index: u64| {
        let key = [&[0x13][..], &index.to_be_bytes()].concat();
        member.store.map().get(&key[..]).map(|bytes| bytes.len())
    };
    let whole = page(&member, first).unwrap();
    // What raises a mark and is refused leaves no page of its own.
    assert!(matches!(member.run(request(2, 1, 1, txn([]))), Outcome::Refused(Refusal::RequestExpired { .. })));
    for client in 3..=20 {
        member.done(request(client, 2, 1, txn([put("k", "v")])));
    }
    // When a thousand entries have passed, also on a member that was opened anew in between
    let mut again = restored(&member.store);
    for n in 0..1_010_u64 {
        for member in [&mut member, &mut again] {
            member.done(request(99, n + 1, n, txn([put("n", n.to_string())])));
        }
        if n % 300 == 0 {
            again.reopen();
        }
    }
    // Then the page holds the silent one alone, and both members are the same
    let left = page(&member, first).unwrap();
    assert!(left < whole / 10, "{left} of {whole} bytes");
    assert_eq!(member.store.map(), again.store.map());
    for member in [&mut member, &mut again] {
        member.check();
        member.reopen();
        // And retries find what they found before.
        assert!(member.done(request(1, 1, 0, txn([]))).replayed);
        let expired = member.run(request(2, 1, 0, txn([])));
        assert_eq!(expired, Outcome::Refused(Refusal::RequestExpired { sequence: 1, low_water: 1 }));
        assert!(member.done(request(7, 2, 1, txn([]))).replayed);
        assert!(!member.done(request(2, 2, 1, txn([]))).replayed);
        let silent = read::silent_clients(&*member.store.view(), LogIndex(first), 10).unwrap();
        assert_eq!(silent.len(), 0, "the silent one has spoken again");
        member.check();
    }
    assert_eq!(member.store.map(), again.store.map());
}

/// One entry with the first requests of nine clients: the first one's outcome counts, the second one has confirmed its own, and
/// the others have gone on.
fn fills_a_page_that_little_counts_of(member: &mut Member) {
    let all = (1..=9).map(|client| request(client, 1, 0, txn([put("k", "v")])));
    member.try_run(all.collect()).unwrap();
    member.run(request(2, 1, 1, txn([])));
    for client in 3..=9 {
        member.done(request(client, 2, 1, txn([put("k", "v")])));
    }
}

/// Lets the pages until now be thinned; a member that is opened with what the first one has then.
fn thinned_and_opened_anew(member: &mut Member) -> Member {
    for n in 0..1_010_u64 {
        member.done(request(99, n + 1, n, txn([put("n", n.to_string())])));
    }
    restored(&member.store)
}

#[test]
fn a_client_whose_last_word_left_with_a_thinned_page_does_not_fall_back_on_an_older_one() {
    // Given a client with an outcome of an older entry that counts, and in a later one of many requests one that does not
    let mut member = Member::founded();
    member
        .try_run(vec![request(2, 2, 0, txn([put("older", "v")])), request(20, 1, 0, txn([put("older", "v")]))])
        .unwrap();
    fills_a_page_that_little_counts_of(&mut member);
    // When the later entry's page is thinned, on one member that goes on and on one that is opened anew afterwards,
    let mut again = thinned_and_opened_anew(&mut member);
    // then both thin the older entry's page, once another client has gone on,
    for member in [&mut member, &mut again] {
        member.done(request(20, 2, 1, txn([put("k", "v")])));
        for n in 1_010..2_030_u64 {
            member.done(request(99, n + 1, n, txn([put("n", n.to_string())])));
        }
    }
    assert_eq!(member.store.map(), again.store.map());
    // and let go of it at the same time.
    for member in [&mut member, &mut again] {
        assert!(member.done(request(2, 2, 1, txn([]))).replayed);
        member.run(request(2, 2, 2, txn([])));
        member.check();
    }
    assert_eq!(member.store.map(), again.store.map());
}

#[test]
fn a_client_whose_last_word_left_with_a_thinned_page_uses_that_page_no_more() {
    // Given an entry of which one client's outcome still counts, and of another client only the last word
    let mut member = Member::founded();
    fills_a_page_that_little_counts_of(&mut member);
    // When its page is thinned, on one member that goes on and on one that is opened anew afterwards
    let mut again = thinned_and_opened_anew(&mut member);
    // Then what both of them do next counts alike: the one goes on, and the other one raises its mark over its outcome
    for member in [&mut member, &mut again] {
        member.done(request(2, 2, 1, txn([put("k", "v")])));
        member.run(request(1, 1, 1, txn([])));
        member.check();
    }
    assert_eq!(member.store.map(), again.store.map());
}

#[test]
fn a_client_that_asked_again_in_the_entry_of_its_request_has_its_last_word_in_that_page() {
    // Given an entry with a request and its own retry, and those of two others who go on, on a member that is opened anew afterwards
    let mut member = Member::founded();
    let first = |client| request(client, 1, 0, txn([put("k", "v")]));
    member.try_run(vec![first(1), first(1), first(2), first(3)]).unwrap();
    let mut again = restored(&member.store);
    for member in [&mut member, &mut again] {
        for client in 2..=3 {
            member.done(request(client, 2, 1, txn([put("k", "v")])));
        }
        // When so many entries have passed that a page of which little counts is thinned
        for n in 0..1_010_u64 {
            member.done(request(99, n + 1, n, txn([put("n", n.to_string())])));
        }
        member.check();
    }
    // Then it counts for both alike.
    assert_eq!(member.store.map(), again.store.map());
}
