//! Reads at older revisions, paging and compaction.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod common;

use bytes::Bytes;
use common::*;
use quorate_core::id::{NodeId, Term};
use quorate_core::keyspace::Section;
use quorate_core::limits::*;
use quorate_core::membership::record::NodeRecord;
use quorate_core::state::contract::Refusal;
use quorate_core::state::ranges::Reading;
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::*;

fn all(revision: u64) -> Range {
    Range { key: key(b""), end: Section::User.end(), revision, ..Range::default() }
}

fn one(name: &str, revision: u64) -> Range {
    Range { key: key(name), revision, ..Range::default() }
}

fn read(member: &Member, range: &Range) -> RangeResult {
    read::range(&*member.store.view(), range).unwrap()
}

fn refused(member: &Member, range: &Range) -> Refusal {
    match read::range(&*member.store.view(), range).unwrap_err() {
        ReadError::Refused(refusal) => refusal,
        ReadError::Store(error) => panic!("{error}"),
    }
}

#[test]
fn reads_just_below_at_and_above_the_compact_revision() {
    // Given a key written at 2, deleted at 3 and written again at 4, another written at 3 and a third at 5.
    let mut member = Member::founded();
    member.done(system(txn([put("a", "2")])));
    member.done(system(txn([delete("a"), put("b", "3")])));
    member.done(system(txn([put("a", "4")])));
    member.done(system(txn([put("c", "5")])));
    let at = |member: &Member, revision| -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        member.contents(revision).unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
    };
    let pair = |key: &str| (key[..1].to_owned(), key[1..].to_owned());
    let expected = [
        (1, vec![]),
        (2, vec![pair("a2")]),
        (3, vec![pair("b3")]),
        (4, vec![pair("a4"), pair("b3")]),
        (5, vec![pair("a4"), pair("b3"), pair("c5")]),
    ];
    // When it is compacted at each revision in turn, then what is at or above reads as before.
    for oldest in 1..=5 {
        member.done(compact(oldest));
        for (revision, content) in &expected {
            if *revision >= oldest {
                assert_eq!(&at(&member, *revision), content, "at {revision}, compacted at {oldest}");
            } else {
                assert_eq!(refused(&member, &all(*revision)), Refusal::Compacted { asked: *revision, oldest });
            }
        }
        member.check();
    }
    // All that is left are the live records: no events.
    assert_eq!(member.store.map().keys().filter(|key| key[0] == 3).count(), 0);
    assert_eq!(refused(&member, &all(6)), Refusal::FutureRevision { asked: 6, current: 5 });
}

#[test]
fn a_compaction_that_is_lower_changes_nothing_and_one_in_the_future_is_refused() {
    let mut member = Member::founded();
    member.done(system(txn([put("a", "1")])));
    assert!(member.done(compact(2)).succeeded);
    let hash = member.hash();
    assert!(!member.done(compact(1)).succeeded);
    assert_eq!(member.refused(compact(3)), Refusal::FutureRevision { asked: 3, current: 2 });
    assert_eq!((member.hash(), member.machine.status().compact_revision.0), (hash, 2));
}

#[test]
fn what_is_compacted_goes_with_the_command_and_a_view_from_before_keeps_it() {
    let mut member = Member::founded();
    for n in 0..20 {
        member.done(system(txn([put("a", n.to_string())])));
    }
    let before = member.store.view();
    member.done(compact(15));
    let events = |member: &Member| member.store.map().keys().filter(|key| key[0] == 3).count();
    assert_eq!(events(&member), 6, "revisions 16 to 21");
    assert_eq!(read(&member, &one("a", 15)).entries[0].value, "13");
    assert_eq!(read::range(&*before, &one("a", 3)).unwrap().entries[0].value, "1");
    // Also what the same round has written before.
    let commands = (0..4).map(|n| system(txn([put("b", n.to_string())]))).chain([compact(23)]);
    member.try_run(commands.collect()).unwrap();
    assert_eq!(events(&member), 2, "revisions 24 and 25");
    assert_eq!(read(&member, &one("b", 23)).entries[0].value, "1");
    member.check();
}

#[test]
fn a_key_written_often_since_reads_at_every_revision_and_so_do_deleted_ones() {
    let mut member = Member::founded();
    // Given one key with many versions, one that comes and goes, and one that is gone for good
    let first = member.revision();
    member.done(system(txn([put("gone", "once")])));
    for n in 0..60 {
        let change = if n % 3 == 0 { delete("flicker") } else { put("flicker", n.to_string()) };
        member.done(system(txn([put("hot", n.to_string()), change])));
    }
    member.done(system(txn([delete("gone")])));
    // Then every one of them reads at every revision as it was, alone and in a range
    for n in 0..60_u64 {
        let at = first + 2 + n;
        let mut expected = vec![("gone", "once".to_owned()), ("hot", n.to_string())];
        if n % 3 != 0 {
            expected.insert(0, ("flicker", n.to_string()));
        }
        let mut alone = Vec::new();
        for key in ["flicker", "gone", "hot"] {
            alone.extend(read(&member, &one(key, at)).entries.into_iter().map(|kv| (key, kv.value)));
        }
        let expected: Vec<_> = expected.into_iter().map(|(key, value)| (key, Bytes::from(value))).collect();
        assert_eq!(alone, expected, "at {at}");
        let whole: Vec<_> = read(&member, &all(at)).entries.into_iter().map(|kv| kv.value).collect();
        assert_eq!(whole, expected.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>(), "at {at}");
    }
}

#[test]
fn a_fenced_read_is_refused_where_the_view_is_of_a_later_leadership_than_the_one_that_confirmed_it() {
    // Given a state in which leadership 4 has written, and then leadership 5
    let mut member = Member::founded();
    let mut views = Vec::new();
    for (index, term) in [(2, 4), (3, 5)] {
        let mut entry = entry(index, vec![system(txn([put("a", term.to_string())]))]);
        entry.term = Term(term);
        member.machine.apply(&[entry]).unwrap();
        views.push(member.store.view());
    }
    let read = |view: usize, token, confirmed| {
        let looks = Txn { fence: Some(token), ..Txn::of(one("a", 0)) };
        let looked = read::transaction(&*views[view], &looks, Term(confirmed)).unwrap();
        looked.map(|done| done.results.len())
    };
    // When the holder of token 4 reads with a confirmation of its own leadership, then it sees what was written up to its end,
    assert_eq!(read(0, 4, 4), Ok(1));
    // and nothing of its successor, also where the confirmation is older than the view:
    assert_eq!(read(1, 4, 4), Err(Refusal::Fenced { token: 4, term: 5 }));
    // nor what a quorum of the successor has confirmed, though the view is of before.
    assert_eq!(read(0, 4, 5), Err(Refusal::Fenced { token: 4, term: 5 }));
    assert_eq!(read(1, 5, 5), Ok(1));
    // A token that is ahead of what has confirmed the read is refused as one of a write is.
    assert_eq!(read(1, 6, 5), Err(Refusal::Fenced { token: 6, term: 5 }));
}

#[test]
fn pages_at_one_revision_fit_together_whatever_is_written_meanwhile() {
    let mut member = Member::founded();
    let names: Vec<String> = (0..50).map(|n| format!("k{n:02}")).collect();
    member.done(system(txn(names.iter().map(|name| put(name, "old")))));
    let mut page = Range { limit: 7, ..all(0) };
    let mut seen = Vec::new();
    for round in 0.. {
        let result = read(&member, &page);
        seen.extend(result.entries.iter().map(|kv| (kv.key.clone(), kv.value.clone())));
        if !result.more {
            break;
        }
        assert_eq!(result.entries.len(), 7);
        page.revision = result.revision;
        page.key = [&result.entries.last().unwrap().key[..], b"\0"].concat().into();
        // Keys behind and before the page change, go and come.
        member.done(system(txn([
            put(&names[49 - round], "new"),
            delete(&names[48 - round * 2]),
            put(format!("k{round:02}x"), "new"),
        ])));
    }
    let expected: Vec<(Bytes, Bytes)> = names.iter().map(|name| (key(name), Bytes::from("old"))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_ends_at_its_bounds_and_counts_go_beyond_them() {
    let mut member = Member::founded();
    for part in 0..101 {
        member.done(system(txn((0..100).map(|n| put(format!("k{:05}", part * 100 + n), "v")))));
    }
    for limit in [0, RANGE_LIMIT_MAX + 1] {
        let result = read(&member, &Range { limit, ..all(0) });
        assert_eq!((result.entries.len() as u64, result.more), (RANGE_LIMIT_MAX, true));
    }
    let just = Range { end: key(format!("k{RANGE_LIMIT_MAX:05}")), ..all(0) };
    let result = read(&member, &just);
    assert_eq!((result.entries.len() as u64, result.more), (RANGE_LIMIT_MAX, false));
    let count = read(&member, &Range { limit: 3, count_only: true, ..all(0) });
    assert_eq!((count.count, count.entries.len(), count.more), (10_100, 0, false));
    // The same for the past, when all of it has been superseded: more than is merged at once.
    let then = member.revision();
    let gone = Delete { key: key("k"), end: key("k05000"), ..Delete::default() };
    member.done(system(txn([gone.into()])));
    let count = read(&member, &Range { count_only: true, ..all(then) });
    assert_eq!(count.count, 10_100);
    let result = read(&member, &Range { keys_only: true, ..all(then) });
    assert_eq!((result.entries.len() as u64, result.more), (RANGE_LIMIT_MAX, true));
    assert!(result.entries.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert!(result.entries.iter().all(|kv| kv.value.is_empty() && kv.mod_revision <= then));
    assert_eq!(read(&member, &all(0)).entries.len(), 5_100);
}

#[test]
fn a_page_of_large_values_ends_at_the_bound_of_bytes_but_always_gets_on() {
    let mut member = Member::founded();
    let value = "v".repeat(VALUE_BYTES_MAX);
    let longest = "k".repeat(KEY_BYTES_MAX);
    for n in 0..6 {
        member.done(system(txn([put(format!("{n}"), &value)])));
    }
    member.done(system(txn([put(&longest, &value)])));
    let then = member.revision();
    for revision in [0, then] {
        let result = read(&member, &all(revision));
        assert_eq!((result.entries.len(), result.more), (3, true));
        assert_eq!(read(&member, &Range { keys_only: true, ..all(revision) }).entries.len(), 7);
        assert_eq!(read(&member, &one(&longest, revision)).entries[0].value.len(), VALUE_BYTES_MAX);
        // The second time with a history that is all superseded.
        member.done(system(txn([Delete { key: key("0"), end: key("z"), ..Delete::default() }.into()])));
    }
}

#[test]
fn what_is_just_as_large_as_a_page_may_be_is_one_and_with_a_byte_more_it_is_two() {
    for over in [0, 1] {
        // Given four keys that have so many bytes together with their values, and a past of the same
        let mut member = Member::founded();
        let mut left = RANGE_BYTES_MAX + over;
        for name in ["a", "b", "c", "d"] {
            let bytes = (left - key(name).len()).min(VALUE_BYTES_MAX);
            left -= key(name).len() + bytes;
            member.done(system(txn([put(name, "v".repeat(bytes))])));
        }
        assert_eq!(left, 0);
        let then = member.revision();
        for revision in [0, then] {
            let page = read(&member, &all(revision));
            assert_eq!((page.entries.len(), page.more), if over == 0 { (4, false) } else { (3, true) });
            member.done(system(txn([Delete { key: key("a"), end: key("z"), ..Delete::default() }.into()])));
        }
    }
}

#[test]
fn a_key_with_a_long_past_is_found_at_every_revision() {
    // Given keys side by side, one of which is written very often, its neighbours as near as keys can be.
    let mut member = Member::founded();
    member.done(system(txn([put("a\0", "near"), put("b", "b")])));
    for n in 0..200 {
        member.done(system(txn([put("a", n.to_string())])));
    }
    member.done(system(txn([delete("b"), delete("a\0")])));
    // Then every revision has its own value, and the neighbours behind are not skipped over.
    for n in 0..200u64 {
        let revision = 3 + n;
        assert_eq!(read(&member, &one("a", revision)).entries[0].value, n.to_string());
        let all: Vec<Bytes> = read(&member, &all(revision)).entries.into_iter().map(|kv| kv.value).collect();
        assert_eq!(all, [Bytes::from(n.to_string()), Bytes::from("near"), Bytes::from("b")]);
    }
}

/// The answer, and in how many steps it came.
fn stepwise(member: &Member, range: &Range, budget: usize) -> (RangeResult, usize) {
    let view = member.store.view();
    let mut reading = Reading::begin(&*view, range.clone()).unwrap();
    for steps in 1.. {
        if let Some(result) = reading.step(&*view, budget).unwrap() {
            return (result, steps);
        }
    }
    unreachable!()
}

#[test]
fn a_range_that_is_read_step_by_step_is_what_it_is_in_one_go() {
    // Given keys that come, change and go, some of them together, one of them more often than is followed back
    let mut member = Member::founded();
    let first = member.revision();
    for n in 0..60_u64 {
        let name = format!("k{:02}", n * 7 % 30);
        let mut operations = vec![put(&name, n.to_string()), put(format!("m{n:02}"), "m"), put("often", n.to_string())];
        if n % 4 == 3 {
            operations.push(Delete { key: key("m"), end: key(format!("m{:02}", n - 1)), ..Delete::default() }.into());
        }
        member.done(system(txn(operations)));
    }
    let last = member.revision();
    let over = |from: &str, to: &str| Range { key: key(from), end: key(to), ..Range::default() };
    let ranges = [
        all(0),
        over("k05", "m3"),
        Range { limit: 5, ..all(0) },
        Range { keys_only: true, ..over("a", "z") },
        Range { count_only: true, ..all(0) },
        one("often", 0),
        one("k07", 0),
        one("never", 0),
    ];
    // Then at every revision, however little is looked at in one step, the answer is the same,
    let mut most = 0;
    for revision in first..=last {
        for range in &ranges {
            let range = Range { revision, ..range.clone() };
            let expected = read(&member, &range);
            for budget in [0, 1, 700, 5_000] {
                let (result, steps) = stepwise(&member, &range, budget);
                assert_eq!(result, expected, "{range:?} by {budget}");
                most = most.max(steps);
            }
        }
    }
    // and what looks at everything since takes as many steps as that asks for.
    assert!(most > 60, "{most}");
    assert!(stepwise(&member, &Range { revision: first, ..all(0) }, 5_000).1 > 2);
    assert_eq!(stepwise(&member, &all(0), usize::MAX).1, 1);
    assert_eq!(stepwise(&member, &one("often", 0), 0).1, 1);
}

#[test]
fn a_read_over_a_limit_is_refused_by_name() {
    let member = Member::founded();
    let long = one(&"k".repeat(KEY_BYTES_MAX + 1), 0);
    assert!(matches!(refused(&member, &long), Refusal::Limit { limit: "KEY_BYTES_MAX", .. }));
    assert_eq!(refused(&member, &one("", 0)), Refusal::EmptyKey);
    // From back to front there is nothing, now and then.
    for revision in [0, 1] {
        let backwards = Range { key: key("b"), end: key("a"), revision, ..Range::default() };
        assert_eq!(read(&member, &backwards).entries, []);
    }
}

#[test]
fn the_records_of_the_cluster_and_its_nodes_are_read_from_a_view() {
    let mut member = Member::founded();
    let second = NodeId::from_bytes([2; 16]);
    let record = NodeRecord { id: Bytes::copy_from_slice(second.as_bytes()), raft_id: 2, ..NodeRecord::default() };
    member.done(system(txn([Put { key: NodeRecord::key(second), value: record.to_bytes(), ..Put::default() }.into()])));
    let gone = read::removed_key(quorate_core::id::RaftId(7));
    member.done(system(txn([Put { key: gone, ..Put::default() }.into()])));
    let view = member.store.view();
    assert_eq!(read::cluster(&*view).unwrap().unwrap(), founding().cluster);
    assert_eq!(read::nodes(&*view).unwrap(), [founding().node, record.clone()]);
    assert_eq!(read::node(&*view, second).unwrap(), Some(record));
    assert_eq!(read::node(&*view, NodeId::from_bytes([3; 16])).unwrap(), None);
    assert_eq!(read::removed(&*view).unwrap().ids().count(), 1);
    assert_eq!(read::cluster(&Store::default()).unwrap(), None);
}
