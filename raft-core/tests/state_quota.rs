//! The store's quota: what is counted, who is refused, and how it ends.
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
use quorate_core::command::{Command, LeaseOrderKind};
use quorate_core::keyspace::Section;
use quorate_core::limits::STORE_QUOTA_BYTES;
use quorate_core::membership::record::ClusterRecord;
use quorate_core::state::contract::{Outcome, Refusal, StoreUsage};
use quorate_core::state::read;
use quorate_core::txn::{Delete, Op, Put};

fn usage(member: &Member) -> StoreUsage {
    read::usage(&*member.store.view()).unwrap()
}

fn with_quota(bytes: u64) -> Command {
    let cluster = ClusterRecord { store_quota_bytes: bytes, ..founding().cluster };
    system(txn([Put { key: ClusterRecord::key(), value: cluster.to_bytes(), ..Put::default() }.into()]))
}

/// A member whose store takes so many bytes more.
fn with_room(bytes: u64) -> Member {
    let mut member = Member::founded();
    member.done(with_quota(u64::MAX));
    let held = usage(&member).used();
    member.done(with_quota(held + bytes + 200));
    let quota = usage(&member).used() + bytes;
    member.done(with_quota(quota));
    member
}

fn fill(member: &mut Member) -> u64 {
    for number in 0.. {
        match member.run(system(txn([put(format!("fill/{number:04}"), [7; 100])]))) {
            Outcome::Done(_) => {}
            Outcome::Refused(Refusal::StoreFull { .. }) => return number,
            Outcome::Refused(other) => panic!("{other}"),
        }
    }
    unreachable!()
}

#[test]
fn what_is_held_is_live_records_and_the_history_that_can_be_read() {
    // Given a new store
    let mut member = Member::founded();
    let before = usage(&member);
    assert_eq!((before.quota, before.full), (STORE_QUOTA_BYTES, false));
    // When a key is written, it is counted with its name and its value
    member.done(system(txn([put("k", [1; 1_000])])));
    let written = usage(&member);
    assert!((1_001..1_200).contains(&(written.live - before.live)), "{written:?}");
    // When it is written again, the old version is history
    member.done(system(txn([put("k", [2; 1_000])])));
    let again = usage(&member);
    assert_eq!(again.live, written.live);
    assert!((1_001..1_300).contains(&(again.history - written.history)), "{again:?}");
    // When it is deleted, all of it is
    member.done(system(txn([delete("k")])));
    let deleted = usage(&member);
    assert_eq!(deleted.live, before.live);
    assert!(deleted.history > again.history + 1_000);
    // When history is compacted up to the second write, what that ended is gone, and what the delete ended is not
    let second = member.revision() - 1;
    member.done(compact(second));
    member.check();
    let compacted = usage(&member);
    assert!(compacted.history > 1_000 && compacted.history < 1_400, "{compacted:?}");
    // When all of it is, nothing is left but what lives
    member.done(compact(second + 1));
    assert_eq!(usage(&member).history, 0);
    member.check();
}

#[test]
fn what_fills_the_quota_to_the_byte_is_taken_and_what_is_a_byte_larger_is_not() {
    // Given a store with room for a few thousand bytes, and what a write takes besides its value
    let member = with_room(10_000);
    let fork = || Member::on(member.store.fork());
    let write = |bytes: u64| system(txn([put("k", vec![1; usize::try_from(bytes).unwrap()])]));
    let StoreUsage { quota, .. } = usage(&member);
    let room = quota - usage(&member).used();
    let mut some = fork();
    some.done(write(5_000));
    let most = room - (usage(&some).used() - usage(&member).used() - 5_000);
    // When it takes just as much as there is, then it is done
    let mut just = fork();
    just.done(write(most));
    assert_eq!(usage(&just).used(), quota);
    // When it is a byte larger, then it is refused, and nothing is changed
    let mut over = fork();
    let refusal = over.refused(write(most + 1));
    let met = refusal.limit().unwrap();
    assert_eq!((met.name, met.bound, met.actual), ("STORE_QUOTA_BYTES", quota, quota + 1), "{refusal}");
    assert_eq!((over.get("k"), over.revision(), over.hash()), (None, member.revision(), member.hash()));
}

#[test]
fn a_full_store_refuses_what_adds_and_takes_what_removes() {
    // Given a store that takes some forty writes
    let mut member = with_room(10_000);
    let taken = fill(&mut member);
    assert!((20..60).contains(&taken), "{taken}");
    assert!(usage(&member).full);
    member.check();
    // Then also the smallest write is refused, and says how to go on; nothing of it is there
    let revision = member.revision();
    let refusal = member.refused(system(txn([put("small", b"")])));
    assert!(matches!(refusal, Refusal::StoreFull { .. }), "{refusal}");
    for word in ["STORE_QUOTA_BYTES", "Nothing was changed", "delete", "policy set --store-quota"] {
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    assert_eq!((member.get("small"), member.revision()), (None, revision));
    // Also the items of a worker, which users write, and a transaction that deletes more than it adds
    let item = Put { key: Section::Assignment.key(b"0123456789abcdefitem"), ..Put::default() };
    assert!(matches!(member.refused(system(txn([item.into()]))), Refusal::StoreFull { .. }));
    let mixed = txn([delete("fill/0000"), delete("fill/0001"), put("x", b"x")]);
    assert!(matches!(member.refused(system(mixed)), Refusal::StoreFull { .. }));
    // But what managers write of themselves is taken, and deletes are
    let node = Put { key: Section::Node.key(&[5; 16]), value: Bytes::from_static(b"node"), ..Put::default() };
    member.done(system(txn([node.into()])));
    let all = Delete { key: key("fill/"), end: key("fill0"), ..Delete::default() };
    member.done(system(txn([all.into()])));
    // A delete alone makes no room yet: what it ended can still be read
    assert!(usage(&member).full);
    assert!(matches!(member.refused(system(txn([put("small", b"")]))), Refusal::StoreFull { .. }));
    // When that is compacted away, writes go on
    member.done(compact(member.revision()));
    assert!(!usage(&member).full);
    member.done(system(txn([put("small", b"")])));
    member.check();
}

#[test]
fn the_alarm_stays_until_nine_tenths_of_the_quota_are_left_or_the_quota_is_raised() {
    let mut member = with_room(10_000);
    let quota = usage(&member).quota;
    let taken = fill(&mut member);
    // Given a full store from which so little goes that more than nine tenths stay
    member.done(system(txn([delete("fill/0000")])));
    member.done(compact(member.revision()));
    while usage(&member).used() > quota / 100 * 90 {
        assert!(matches!(member.refused(system(txn([put("small", b"")]))), Refusal::StoreFull { .. }));
        let next = usage(&member).live;
        let name = (1..taken).map(|n| format!("fill/{n:04}")).find(|name| member.get(name).is_some()).unwrap();
        member.done(system(txn([delete(name)])));
        member.done(compact(member.revision()));
        assert!(usage(&member).live < next);
    }
    member.done(system(txn([put("small", b"")])));
    // Given a full store, when the quota is raised, then writes go on at once
    fill(&mut member);
    member.done(with_quota(2 * quota));
    member.done(system(txn([put("small", b"more")])));
    member.check();
}

#[test]
fn leases_and_what_is_attached_to_them_are_counted_and_a_full_store_grants_none() {
    let mut member = with_room(3_000);
    // When a lease is granted, and a key is attached to it, then both take room, and give it back
    let before = usage(&member).live;
    let lease = member.done(grant(7, 1)).lease;
    let granted = usage(&member).live;
    assert!(granted > before);
    let attached = |lease| Op::from(Put { key: key("k"), value: Bytes::from_static(b"v"), lease, ..Put::default() });
    member.done(system(txn([attached(0)])));
    let alone = usage(&member).live;
    member.done(system(txn([attached(lease)])));
    assert!(usage(&member).live > alone, "its place in the lease's index counts");
    member.check();
    // and once the store is full no more are granted.
    fill(&mut member);
    let refused = member.refused(grant(7, 2));
    assert!(matches!(refused, Refusal::StoreFull { .. }), "{refused}");
    let full = usage(&member).live;
    member.done(order(7, 3, LeaseOrderKind::Revoke(lease)));
    assert!(usage(&member).live < full);
    member.check();
}

#[test]
fn a_refusal_for_lack_of_room_is_kept_and_the_alarm_travels() {
    let mut member = with_room(4_000);
    fill(&mut member);
    // Given a request that was refused
    let wish = || request(1, 1, 0, txn([put("k", [1; 200])]));
    let first = member.refused(wish());
    // When there is room again, a copy of it is answered alike, and a new one is done
    member.done(with_quota(1 << 30));
    assert_eq!(member.refused(wish()), first);
    member.done(request(1, 2, 0, txn([put("k", [1; 200])])));
    // Given a full store, when it goes to another member by a snapshot, or is opened again, then it is full there, too
    member.done(with_quota(usage(&member).used()));
    assert!(matches!(member.refused(system(txn([put("k2", b"")]))), Refusal::StoreFull { .. }));
    let mut other = restored(&member.store);
    other.check();
    assert_eq!(usage(&other), usage(&member));
    member.reopen();
    for full in [&mut member, &mut other] {
        assert!(matches!(full.refused(system(txn([put("k3", b"")]))), Refusal::StoreFull { .. }));
    }
    assert_eq!(member.hash(), other.hash());
}

#[test]
fn compaction_counts_what_the_same_round_has_made() {
    // Given writes and a compaction between them in one round
    let mut member = Member::founded();
    let base = member.revision();
    let mut commands: Vec<_> = (0..10).map(|n| system(txn([put("k", [n; 500])]))).collect();
    commands.push(compact(base + 4));
    commands.push(system(txn([delete("k")])));
    member.try_run(commands).unwrap();
    // Then what is counted is what is there
    member.check();
    assert!(usage(&member).history > 6 * 500);
}

#[test]
fn once_a_write_did_not_fit_those_that_would_wait_too() {
    // Given a store that is nearly full, with room for a small write and not for a large one
    let mut member = with_room(10_000);
    let quota = usage(&member).quota;
    for number in 0.. {
        if usage(&member).used() > quota / 100 * 92 {
            break;
        }
        member.done(system(txn([put(format!("fill/{number:04}"), [7; 100])])));
    }
    let small = || system(txn([put("small", b"")]));
    assert!(quota - usage(&member).used() > 300 && !usage(&member).full);
    // When the large one is refused, then the small one is too: nobody gets in by being small
    let refusal = member.refused(system(txn([put("large", [7; 2_000])])));
    assert!(matches!(refusal, Refusal::StoreFull { .. }), "{refusal}");
    assert!(usage(&member).full);
    assert!(matches!(member.refused(small()), Refusal::StoreFull { .. }));
    // And once nine tenths are left it is taken
    let some = Delete { key: key("fill/"), end: key("fill/0005"), ..Delete::default() };
    member.done(system(txn([some.into()])));
    member.done(compact(member.revision()));
    member.done(small());
    member.check();
}
