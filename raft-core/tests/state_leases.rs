//! Leases in the state: granted once, attached to, ended with all their keys in one revision.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

mod common;

use bytes::Bytes;
use common::{Member, bytes_of, entry, grant, key, order, request, restored, system, txn};
use proptest::prelude::*;
use quorate_core::command::{Command, CommandKind, ExpireLeases, LeaseOrder, LeaseOrderKind, Request};
use quorate_core::id::{LeaseId, Term};
use quorate_core::keyspace::Section;
use quorate_core::limits::{LEASE_BYTES_MAX, LEASE_KEYS_MAX, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LEASES_MAX};
use quorate_core::state::contract::{LeaseChange, LeaseEvent, Outcome, Refusal};
use quorate_core::state::{LeaseRecord, read};
use quorate_core::txn::{Compare, Delete, Op, OpResultKind, Operand, Put, Relation, Txn, TxnResult};

fn revoke(n: u8, sequence: u64, lease: u64) -> Command {
    order(n, sequence, LeaseOrderKind::Revoke(lease))
}

fn expire(term: u64, leases: impl IntoIterator<Item = u64>) -> Command {
    CommandKind::ExpireLeases(ExpireLeases { term, leases: leases.into_iter().collect() }).into()
}

fn put(name: &str, lease: u64) -> Op {
    Put { key: key(name.as_bytes()), value: Bytes::from_static(b"v"), lease, ..Put::default() }.into()
}

fn lease_of(member: &Member, lease: u64) -> Option<LeaseRecord> {
    read::lease(&*member.store.view(), LeaseId(lease)).unwrap()
}

fn keys_of(member: &Member, lease: u64) -> Vec<String> {
    let keys = read::lease_keys(&*member.store.view(), LeaseId(lease), b"", usize::MAX).unwrap();
    keys.iter().map(|key| String::from_utf8(Section::User.strip(key).unwrap().to_vec()).unwrap()).collect()
}

fn deleted(result: &TxnResult) -> u64 {
    match &result.results[0].kind {
        Some(OpResultKind::Delete(delete)) => delete.deleted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_retried_grant_gives_one_lease_and_a_new_one_another() {
    // Given a lease granted by a request
    let mut member = Member::founded();
    let before = member.revision();
    let first = member.done(grant(1, 1));
    // When a copy of the request comes, also after a restart and to a member filled by a snapshot
    let again = member.done(grant(1, 1));
    member.reopen();
    let after_restart = member.done(grant(1, 1));
    let mut other = restored(&member.store);
    let elsewhere = other.done(grant(1, 1));
    // Then it is the same lease, and there is one
    for copy in [again, after_restart, elsewhere] {
        assert_eq!(copy, TxnResult { replayed: true, ..first.clone() });
    }
    assert_eq!(read::leases(&*member.store.view(), LeaseId(0), 10).unwrap().len(), 1);
    // And another request gets another one; none of it makes a revision
    let second = member.done(grant(1, 2));
    assert_eq!((first.lease, second.lease), (1, 2));
    assert_eq!(member.revision(), before);
    member.check();
}

#[test]
fn an_id_is_never_given_out_again() {
    // Given leases that were all revoked
    let mut member = Member::founded();
    for sequence in 1..=3 {
        let lease = member.done(grant(1, 2 * sequence)).lease;
        member.done(revoke(1, 2 * sequence + 1, lease));
    }
    // When the member starts again, then the next one still has a new id
    member.reopen();
    assert_eq!(member.done(grant(1, 9)).lease, 4);
    member.check();
}

#[test]
fn a_time_to_live_is_within_its_limits() {
    let mut member = Member::founded();
    for (sequence, ttl) in [LEASE_TTL_MS_MIN, LEASE_TTL_MS_MAX].into_iter().enumerate() {
        member.done(order(1, sequence as u64 + 1, LeaseOrderKind::Grant(ttl)));
    }
    for (sequence, ttl) in [0, LEASE_TTL_MS_MIN - 1, LEASE_TTL_MS_MAX + 1, u64::MAX].into_iter().enumerate() {
        let refusal = member.refused(order(2, sequence as u64 + 1, LeaseOrderKind::Grant(ttl)));
        assert_eq!(refusal, Refusal::LeaseTtl { asked_ms: ttl });
        assert!(refusal.to_string().contains("LEASE_TTL_MS_MIN"), "{refusal}");
    }
    member.check();
}

#[test]
fn a_key_is_attached_moved_and_detached_by_the_puts_and_deletes_that_write_it() {
    let mut member = Member::founded();
    let (a, b) = (member.done(grant(1, 1)).lease, member.done(grant(1, 2)).lease);
    member.done(system(txn([put("x", a), put("y", a), put("z", b)])));
    assert_eq!((keys_of(&member, a), keys_of(&member, b)), (vec!["x".into(), "y".into()], vec!["z".to_owned()]));
    // A put with another lease moves it, one without takes it off, and so does a delete.
    member.done(system(txn([put("x", b), put("y", 0)])));
    assert_eq!((keys_of(&member, a), keys_of(&member, b)), (vec![], vec!["x".into(), "z".to_owned()]));
    member.done(system(Txn::of(Delete { key: key(b"x"), ..Delete::default() })));
    assert_eq!(keys_of(&member, b), ["z"]);
    assert_eq!(lease_of(&member, a), Some(LeaseRecord { ttl_ms: 5_000, keys: 0, bytes: 0 }));
    let of_b = lease_of(&member, b).unwrap();
    assert!(of_b.ttl_ms == 5_000 && of_b.keys == 1 && of_b.bytes > 0, "{of_b:?}");
    // What was moved or taken off stays when the lease ends.
    member.done(revoke(1, 3, a));
    assert!(member.get("y").is_some());
    member.check();
}

#[test]
fn a_put_with_a_lease_that_does_not_exist_is_refused_and_so_is_its_whole_transaction() {
    let mut member = Member::founded();
    let lease = member.done(grant(1, 1)).lease;
    member.done(revoke(1, 2, lease));
    let before = member.revision();
    for gone in [lease, 77, u64::MAX] {
        let refusal = member.refused(system(txn([put("x", 0), put("y", gone)])));
        assert_eq!(refusal, Refusal::LeaseNotFound { lease: gone });
    }
    assert_eq!(member.revision(), before);
    assert_eq!(member.get("x"), None);
    // It is the outcome of the request, whatever is granted later.
    assert_eq!(member.refused(request(2, 1, 0, txn([put("y", 3)]))), Refusal::LeaseNotFound { lease: 3 });
    member.done(grant(1, 3));
    member.done(grant(1, 4));
    assert_eq!(member.refused(request(2, 1, 0, txn([put("y", 3)]))), Refusal::LeaseNotFound { lease: 3 });
    member.check();
}

#[test]
fn no_record_goes_with_a_lease() {
    let mut member = Member::founded();
    let lease = member.done(grant(1, 1)).lease;
    let record = Put { key: Section::Node.key(b"n"), value: Bytes::from_static(b"v"), lease, ..Put::default() };
    assert!(matches!(member.refused(system(Txn::of(record))), Refusal::Malformed { .. }));
}

#[test]
fn a_transaction_compares_the_lease_of_a_key() {
    let mut member = Member::founded();
    let lease = member.done(grant(1, 1)).lease;
    member.done(system(txn([put("x", lease)])));
    let when = |operand| Txn {
        compares: vec![Compare::new(key(b"x"), Relation::Equal, Operand::Lease(operand))],
        then: vec![put("y", 0)],
        ..Txn::default()
    };
    assert!(!member.done(system(when(0))).succeeded);
    assert!(member.done(system(when(lease))).succeeded);
}

#[test]
fn a_revoked_lease_takes_its_keys_in_one_revision_once() {
    // Given a lease with keys, one of them attached in the entry that ends it
    let mut member = Member::founded();
    let lease = member.done(grant(1, 1)).lease;
    member.done(system(txn([put("a", lease), put("b", lease), put("other", 0)])));
    let before = member.revision();
    let outcomes =
        member.try_run(vec![system(txn([put("c", lease)])), revoke(1, 2, lease), system(txn([put("after", 0)]))]);
    // Then they are gone at one revision, and what is not its own is there
    let Outcome::Done(revoked) = &outcomes.unwrap()[1] else { panic!("refused") };
    assert_eq!((deleted(revoked), revoked.revision), (3, before + 2));
    let names = |revision| {
        let contents = member.contents(revision).unwrap();
        contents.into_iter().map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(before + 1), ["a", "b", "c", "other"]);
    assert_eq!(names(before + 2), ["other"]);
    // A copy is told the same, another revocation that there is none.
    let copy = member.done(revoke(1, 2, lease));
    assert!(copy.replayed && deleted(&copy) == 3);
    assert_eq!(member.refused(revoke(1, 3, lease)), Refusal::LeaseNotFound { lease });
    assert_eq!(lease_of(&member, lease), None);
    member.check();
}

#[test]
fn an_expiry_counts_only_in_an_entry_of_the_term_that_counted_the_time() {
    let mut member = Member::founded();
    let lease = member.done(grant(1, 1)).lease;
    member.done(system(txn([put("x", lease)])));
    // Given an expiry that was proposed in term 1 and comes in an entry of term 2
    let mut late = entry(member.next(), vec![expire(1, [lease])]);
    late.term = Term(2);
    let applied = member.machine.apply(&[late]).unwrap();
    // Then it does nothing
    assert_eq!(applied.outcomes[0].1, [Outcome::Refused(Refusal::Fenced { token: 1, term: 2 })]);
    assert!(applied.leases.is_empty());
    assert!(member.get("x").is_some());
    // And one of term 2 in its own counts
    let mut current = entry(member.next(), vec![expire(2, [lease, 99])]);
    current.term = Term(2);
    let applied = member.machine.apply(&[current]).unwrap();
    assert_eq!(applied.leases, [LeaseChange { lease: LeaseId(lease), event: LeaseEvent::Expired }]);
    assert_eq!(member.get("x"), None);
    member.check();
}

#[test]
fn a_fenced_order_counts_only_in_its_own_term() {
    let mut member = Member::founded();
    let fenced = |sequence, token| {
        let lease = Some(LeaseOrder { kind: Some(LeaseOrderKind::Grant(5_000)), fence: Some(token) });
        CommandKind::Request(Request { client: bytes_of(1), sequence, lease, ..Request::default() }).into()
    };
    assert_eq!(member.refused(fenced(1, 7)), Refusal::Fenced { token: 7, term: 1 });
    assert_eq!(member.done(fenced(2, 1)).lease, 1);
}

#[test]
fn each_of_many_leases_that_expire_together_has_a_revision_of_its_own() {
    let mut member = Member::founded();
    let leases: Vec<u64> = (1..=4).map(|sequence| member.done(grant(1, sequence)).lease).collect();
    for (at, lease) in leases.iter().enumerate().take(3) {
        member.done(system(txn([put(&format!("{at}/a"), *lease), put(&format!("{at}/b"), *lease)])));
    }
    let before = member.revision();
    member.done(expire(1, leases));
    // The fourth had no keys.
    assert_eq!(member.revision(), before + 3);
    for (at, left) in [(1, 4), (2, 2), (3, 0)] {
        assert_eq!(member.contents(before + at).unwrap().len(), left);
    }
    // And each has its digest, as after any other command.
    for revision in before..=before + 3 {
        assert!(member.machine.hash_at(quorate_core::id::Revision(revision)).is_some());
    }
    member.check();
}

#[test]
fn a_lease_takes_so_many_keys_and_an_expiry_as_many_at_once() {
    // Given a lease as full as it may be, filled in transactions of 100 keys
    let mut member = Member::founded();
    let (full, small) = (member.done(grant(1, 1)).lease, member.done(grant(1, 2)).lease);
    let entries = (0..LEASE_KEYS_MAX / 100).map(|part| {
        let keys = (0..100).map(|n| put(&format!("k{part:03}/{n:03}"), full));
        system(txn(keys))
    });
    member.try_run(entries.collect()).unwrap();
    assert_eq!(lease_of(&member, full).unwrap().keys, LEASE_KEYS_MAX);
    // Then one more is refused by the limit's name, and one that it has already is not
    let refusal = member.refused(system(txn([put("one more", full)])));
    let Refusal::Limit { limit: "LEASE_KEYS_MAX", max, actual, .. } = refusal else { panic!("{refusal}") };
    assert_eq!((max, actual), (LEASE_KEYS_MAX, LEASE_KEYS_MAX + 1));
    member.done(system(txn([put("k000/000", full)])));
    member.done(system(txn([put("small", small)])));
    // When both expire in one command, then the full one goes whole, and the other is left for the next one
    let before = member.revision();
    member.done(expire(1, [full, small]));
    assert_eq!(member.revision(), before + 1);
    assert_eq!((lease_of(&member, full), lease_of(&member, small).unwrap().keys), (None, 1));
    member.done(expire(1, [full, small]));
    assert_eq!(member.contents(0).unwrap(), []);
    member.check();
}

#[test]
fn a_lease_takes_so_many_bytes_and_an_expiry_as_many_at_once() {
    // Given two leases, one with as much on it as may be
    let mut member = Member::founded();
    let (full, small) = (member.done(grant(1, 1)).lease, member.done(grant(1, 2)).lease);
    let large = |name: &str, lease: u64, bytes: usize| -> Op {
        Put { key: key(name), value: vec![b'x'; bytes].into(), lease, ..Put::default() }.into()
    };
    let mut count = 0;
    let refusal = loop {
        match member.run(system(txn([large(&format!("k{count:02}"), full, 1 << 20)]))) {
            Outcome::Done(_) => count += 1,
            Outcome::Refused(refusal) => break refusal,
        }
    };
    // Then what is over it is refused by the limit's name, while the record says how much there is,
    assert!(matches!(refusal, Refusal::Limit { limit: "LEASE_BYTES_MAX", .. }), "{refusal}");
    let record = lease_of(&member, full).unwrap();
    assert_eq!((record.keys, count), ((LEASE_BYTES_MAX >> 20) - 1, (LEASE_BYTES_MAX >> 20) - 1));
    assert!(record.bytes > count << 20 && record.bytes <= LEASE_BYTES_MAX, "{record:?}");
    // what is left is taken to the byte, and not one more is,
    let besides = record.bytes / count - (1 << 20);
    let left = usize::try_from(LEASE_BYTES_MAX - record.bytes - besides).unwrap();
    member.done(system(txn([large("kzz", full, left)])));
    assert_eq!(lease_of(&member, full).unwrap().bytes, LEASE_BYTES_MAX);
    let refusal = member.refused(system(txn([large("kzz", full, left + 1)])));
    let Refusal::Limit { limit: "LEASE_BYTES_MAX", max, actual, .. } = refusal else { panic!("{refusal}") };
    assert_eq!((max, actual), (LEASE_BYTES_MAX, LEASE_BYTES_MAX + 1));
    member.done(system(txn([Delete { key: key("kzz"), ..Delete::default() }.into()])));
    // a value in the place of one of the same size fits, and a smaller one makes room,
    member.done(system(txn([large("k00", full, 1 << 20)])));
    assert_eq!(lease_of(&member, full).unwrap(), record);
    member.done(system(txn([large("k00", full, 1)])));
    assert_eq!(lease_of(&member, full).unwrap().bytes, record.bytes - (1 << 20) + 1);
    member.done(system(txn([large("k00", small, 1 << 20)])));
    member.done(system(txn([large("k99", full, 1 << 20)])));
    // and of two that expire together the second is left for the next command.
    member.done(expire(1, [full, small]));
    assert_eq!((lease_of(&member, full), lease_of(&member, small).unwrap().keys), (None, 1));
    member.done(expire(1, [small]));
    assert_eq!(member.contents(0).unwrap(), []);
    member.check();
}

#[test]
fn there_are_so_many_leases() {
    let mut member = Member::founded();
    let grants = (1..=LEASES_MAX).map(|sequence| {
        let lease = Some(LeaseOrder { kind: Some(LeaseOrderKind::Grant(5_000)), fence: None });
        let request = Request { client: bytes_of(1), sequence, low_water: sequence - 1, lease, ..Request::default() };
        Command::from(CommandKind::Request(request))
    });
    member.try_run(grants.collect()).unwrap();
    let refusal = member.refused(grant(2, 1));
    let Refusal::Limit { limit: "LEASES_MAX", max, actual, .. } = refusal else { panic!("{refusal}") };
    assert_eq!((max, actual), (LEASES_MAX, LEASES_MAX + 1));
    member.done(expire(1, [1]));
    assert_eq!(member.done(grant(2, 2)).lease, LEASES_MAX + 1);
    member.check();
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Grant,
    Put(u8, u8),
    Delete(u8),
    DeleteAll,
    Revoke(u8),
    Expire(u8, u8),
    Reopen,
    Install,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Grant),
        6 => (0..6u8, 0..6u8).prop_map(|(key, lease)| Step::Put(key, lease)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::DeleteAll),
        1 => (1..6u8).prop_map(Step::Revoke),
        1 => (1..6u8, 1..6u8).prop_map(|(a, b)| Step::Expire(a, b)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Install),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_history_keeps_index_counts_records_and_hash_together(
        steps in proptest::collection::vec((step(), any::<bool>()), 1..60),
    ) {
        let mut member = Member::founded();
        let mut sequence = 0;
        let mut waiting: Vec<Command> = Vec::new();
        for (step, goes_on) in steps {
            sequence += 1;
            let command = match step {
                Step::Grant => grant(1, sequence),
                Step::Put(name, lease) => system(txn([put(&format!("k{name}"), u64::from(lease))])),
                Step::Delete(name) => {
                    system(Txn::of(Delete { key: key(format!("k{name}").as_bytes()), ..Delete::default() }))
                }
                Step::DeleteAll => system(Txn::of(Delete { key: key(b"k"), end: key(b"l"), previous: false })),
                Step::Revoke(lease) => revoke(1, sequence, u64::from(lease)),
                Step::Expire(a, b) => expire(1, [u64::from(a), u64::from(b)]),
                Step::Reopen | Step::Install => {
                    member.try_run(std::mem::take(&mut waiting)).unwrap();
                    if matches!(step, Step::Reopen) { member.reopen() } else { member = restored(&member.store) }
                    continue;
                }
            };
            // Several commands go in one entry, so that later ones see what earlier ones of the round did.
            waiting.push(command);
            if !goes_on {
                member.try_run(std::mem::take(&mut waiting)).unwrap();
            }
        }
        member.try_run(waiting).unwrap();
        member.check();
        let view = member.store.view();
        let mut attached = 0;
        for (lease, record) in read::leases(&*view, LeaseId(0), usize::MAX).unwrap() {
            let keys = read::lease_keys(&*view, lease, b"", usize::MAX).unwrap();
            prop_assert_eq!(record.keys, keys.len() as u64);
            attached += keys.len();
            for key in keys {
                let range = quorate_core::txn::Range { key, ..Default::default() };
                let found = read::range(&*view, &range).unwrap();
                prop_assert_eq!(found.entries.first().map(|entry| entry.lease), Some(lease.0));
            }
        }
        // No key is attached to a lease that is not there.
        let all = quorate_core::txn::Range { key: key(b"\0"), end: Section::User.end(), ..Default::default() };
        let leased = read::range(&*view, &all).unwrap().entries.iter().filter(|entry| entry.lease != 0).count();
        prop_assert_eq!(leased, attached);
        prop_assert_eq!(member.machine.leases().len(), read::leases(&*view, LeaseId(0), usize::MAX).unwrap().len());
    }
}
