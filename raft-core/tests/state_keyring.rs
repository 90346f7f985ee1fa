//! The keyring in the state: which keys records may name, who has copies, and what goes when.
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

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{Member, Store, founding, request, restored, system, txn};
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::envelope::{EPOCH_BYTES, Header, TAG_BYTES};
use quorate_core::id::NodeId;
use quorate_core::keyring::{
    Ask, BarrierKey, Care, Cipher, Due, GivenCopy, KeyCopy, KeyringOrder, KeyringOrderKind, KeyringRecord, Reseal,
    Resealed, Rotate, SEALING_KEY_BYTES, SealedRecord, SearchFrom, Share, care, due, named_key,
};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::ports::{StateRead, StateStore as _, StoreResult, Visit};
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::{Founding, found, read, scan_hash};
use quorate_core::txn::{Delete, Op, Put, Range};

fn public(n: u8) -> Bytes {
    Bytes::from(vec![n; SEALING_KEY_BYTES])
}

fn manager(n: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::from(vec![n; 16]),
        role: Role::Manager.into(),
        raft_id: u64::from(n),
        sealing_key: public(n),
        ..NodeRecord::default()
    }
}

/// A record as it looks when it was sealed with this key: nobody in the core can tell it from a real one.
fn sealed(key: u32, clear: &str) -> Bytes {
    let mut envelope = Vec::new();
    Header { algorithm: 1, key, epoch: [7; EPOCH_BYTES], number: 0 }.write(&mut envelope);
    envelope.extend_from_slice(&[0; TAG_BYTES]);
    SealedRecord { clear: Bytes::copy_from_slice(clear.as_bytes()), sealed: envelope.into() }.encode_to_vec().into()
}

fn secret(name: &str) -> Bytes {
    Section::Secret.key(name.as_bytes())
}

fn put(key: Bytes, value: Bytes) -> Op {
    Put { key, value, ..Put::default() }.into()
}

fn write(key: Bytes, value: Bytes) -> Command {
    system(txn([put(key, value)]))
}

fn remove(key: Bytes) -> Command {
    system(txn([Delete { key, ..Delete::default() }.into()]))
}

fn copy(n: u8) -> KeyCopy {
    KeyCopy { to: public(n), sealed: Bytes::from(format!("copy for {n}")) }
}

fn given(n: u8, key: u32) -> GivenCopy {
    GivenCopy { node: Bytes::from(vec![n; 16]), key, copy: Some(copy(n)) }
}

fn command(kind: KeyringOrderKind) -> Command {
    CommandKind::Keyring(KeyringOrder { kind: Some(kind) }).into()
}

fn share(serial: u64, copies: Vec<GivenCopy>) -> Command {
    command(KeyringOrderKind::Share(Share { serial, copies }))
}

fn rotate(serial: u64, id: u32, holders: &[u8]) -> Command {
    let copies = holders.iter().map(|n| given(*n, id)).collect();
    command(KeyringOrderKind::Rotate(Rotate { serial, id, copies }))
}

/// A cluster of one manager, whose CA is sealed with the first key.
fn founded() -> Member {
    let founding = Founding {
        node: manager(1),
        records: vec![(Section::Identity.key(b"ca"), sealed(1, "certificate"))],
        keyring: KeyringRecord {
            serial: 1,
            active: 1,
            keys: vec![BarrierKey { id: 1, copies: vec![copy(1)], ..BarrierKey::default() }],
            due: false,
        },
        ..founding()
    };
    let first = found(&founding).unwrap();
    let mut store = Store::default();
    store.found(first.writes, first.reset).unwrap();
    Member::on(store)
}

fn keyring(member: &Member) -> KeyringRecord {
    read::keyring(&*member.store.view()).unwrap()
}

/// Ids with how many records name each.
fn keys(member: &Member) -> Vec<(u32, u64)> {
    keyring(member).keys.iter().map(|key| (key.id, key.records)).collect()
}

fn holders(member: &Member, id: u32) -> Vec<u8> {
    let ring = keyring(member);
    ring.key(id).unwrap().copies.iter().map(|copy| copy.to[0]).collect()
}

fn value(member: &Member, key: Bytes) -> Bytes {
    let found = read::range(&*member.store.view(), &Range { key, ..Range::default() }).unwrap();
    found.entries[0].value.clone()
}

/// The kept hash is that of all there is, and no record names a key that is not in the keyring.
fn sound(member: &Member) {
    let view = member.store.view();
    assert_eq!(scan_hash(&*view).unwrap(), member.machine.status().hash);
    let (kept, counted) = (read::usage(&*view).unwrap(), read::recounted_usage(&*view).unwrap());
    assert_eq!(kept, counted);
    let ring = keyring(member);
    let mut named = std::collections::BTreeMap::new();
    for section in [Section::Identity, Section::Secret] {
        read::live_records(&*view, section, &mut |record| {
            if let Some(id) = named_key(&record.key, &record.value).unwrap() {
                assert!(ring.key(id).is_some(), "{:?} names key {id}", record.key);
                *named.entry(id).or_insert(0) += 1;
            }
            true
        })
        .unwrap();
    }
    for key in &ring.keys {
        assert_eq!(named.get(&key.id).copied().unwrap_or(0), key.records, "key {}", key.id);
    }
}

#[test]
fn a_record_that_names_a_key_which_is_not_there_is_refused_and_may_be_sent_again_under_its_id() {
    // Given a cluster with one barrier key
    let mut member = founded();
    assert_eq!(keys(&member), [(1, 1)]);
    // When a secret comes that was sealed with another one, then it is refused by that name, and nothing is kept of it
    let stale = request(1, 1, 0, txn([put(secret("db"), sealed(9, ""))]));
    assert_eq!(member.run(stale), Outcome::Refused(Refusal::StaleKey { key: 9 }));
    // And sealed again it counts, under the same request id
    let again = request(1, 1, 0, txn([put(secret("db"), sealed(1, ""))]));
    assert!(member.done(again).succeeded);
    assert_eq!(keys(&member), [(1, 2)]);
    // What is no envelope at all cannot come in
    let broken = SealedRecord { clear: Bytes::new(), sealed: Bytes::from_static(b"short") }.encode_to_vec();
    assert!(matches!(member.run(write(secret("x"), broken.into())), Outcome::Refused(Refusal::Malformed { .. })));
    sound(&member);
}

#[test]
fn a_newcomer_gets_copies_by_an_order_that_is_void_when_it_comes_late() {
    // Given a second manager's record
    let mut member = founded();
    member.done(write(NodeRecord::key(NodeId::from_bytes([2; 16])), manager(2).to_bytes()));
    let ring = keyring(&member);
    assert_eq!(
        due(&ring, [manager(1), manager(2)].iter()),
        Some(Due::Share(vec![(NodeId::from_bytes([2; 16]), public(2))]))
    );
    // When its copy comes, then it can open the active key; a copy of the order changes nothing
    let revision = member.revision();
    assert!(member.done(share(ring.serial, vec![given(2, 1)])).succeeded);
    assert_eq!(holders(&member, 1), [1, 2]);
    assert!(!member.done(share(ring.serial, vec![given(2, 1)])).succeeded);
    assert_eq!(member.revision(), revision, "no order makes a revision");
    // Nobody gets one who has no record with that key: not a stranger, and not a node under another's key
    let serial = keyring(&member).serial;
    let foreign = GivenCopy { node: Bytes::from(vec![2; 16]), key: 1, copy: Some(copy(3)) };
    assert!(!member.done(share(serial, vec![given(3, 1), foreign])).succeeded);
    assert_eq!(holders(&member, 1), [1, 2]);
    sound(&member);
}

#[test]
fn a_manager_that_goes_loses_its_copies_with_its_record_and_the_key_is_due() {
    let two = NodeRecord::key(NodeId::from_bytes([2; 16]));
    let gone = [
        ("removed", None),
        ("demoted", Some(manager(2).without_raft_id())),
        ("lost", Some(NodeRecord { lost: true, ..manager(2) })),
        ("thrown out", Some(NodeRecord { removing: true, compromised: true, ..manager(2) })),
        ("another store", Some(NodeRecord { raft_id: 5, sealing_key: public(5), ..manager(2) })),
    ];
    for (what, after) in gone {
        // Given two managers that can open the key
        let mut member = founded();
        member.done(write(two.clone(), manager(2).to_bytes()));
        member.done(share(1, vec![given(2, 1)]));
        // When one goes
        let ring = keyring(&member);
        member.done(match after {
            None => remove(two.clone()),
            Some(record) => write(two.clone(), record.to_bytes()),
        });
        // Then its copy is gone in the same command, and another key is due
        assert_eq!(holders(&member, 1), [1], "{what}");
        assert!(keyring(&member).due && keyring(&member).serial > ring.serial, "{what}");
        // And an order from before, with a copy for it, is void
        assert!(!member.done(share(ring.serial, vec![given(2, 1)])).succeeded, "{what}");
        assert!(!member.done(rotate(ring.serial, 2, &[1, 2])).succeeded, "{what}");
        sound(&member);
    }
}

#[test]
fn a_new_key_is_for_everybody_who_could_open_the_one_before() {
    let mut member = founded();
    member.done(write(NodeRecord::key(NodeId::from_bytes([2; 16])), manager(2).to_bytes()));
    member.done(share(1, vec![given(2, 1)]));
    let serial = keyring(&member).serial;
    assert!(!member.done(rotate(serial, 2, &[1])).succeeded, "2 would be shut out");
    assert!(!member.done(rotate(serial, 3, &[1, 2])).succeeded, "a number is left out");
    assert!(!member.done(rotate(serial, 1, &[1, 2])).succeeded, "a number that was given");
    assert_eq!(keyring(&member).active, 1);
    assert!(member.done(rotate(serial, 2, &[1, 2])).succeeded);
    assert_eq!((keyring(&member).active, keys(&member)), (2, vec![(1, 1), (2, 0)]));
    assert!(!member.done(rotate(serial, 2, &[1, 2])).succeeded, "once");
    sound(&member);
}

#[test]
fn asked_for_twice_a_rotation_is_done_once() {
    let mut member = founded();
    let ask = |active| command(KeyringOrderKind::Ask(Ask { active }));
    assert!(member.done(ask(1)).succeeded);
    assert!(keyring(&member).due);
    assert!(member.done(rotate(1, 2, &[1])).succeeded);
    assert!(!keyring(&member).due);
    assert!(!member.done(ask(1)).succeeded);
    assert!(!keyring(&member).due);
}

/// A public key that nothing can be sealed to.
const UNUSABLE: u8 = 9;

/// A cipher that seals by writing the name of the key.
struct Model;

impl Cipher for Model {
    type Error = ();

    fn draw(&mut self, _id: u32) -> Result<(), ()> {
        Ok(())
    }

    fn copy(&mut self, _keyring: &KeyringRecord, _key: u32, to: &Bytes) -> Result<Option<Bytes>, ()> {
        Ok((to[0] != UNUSABLE).then(|| Bytes::from(format!("copy for {}", to[0]))))
    }

    fn reseal(&mut self, keyring: &KeyringRecord, _key: &Bytes, value: &Bytes) -> Result<Bytes, ()> {
        let record = SealedRecord::decode(value.clone()).map_err(|_undecodable| ())?;
        Ok(sealed(keyring.active, std::str::from_utf8(&record.clear).unwrap()))
    }
}

#[test]
fn after_a_rotation_everything_is_sealed_anew_without_a_revision_and_the_old_key_goes() {
    // Given more secrets than one order takes, some written twice, and one removed
    let mut member = founded();
    for n in 0..150 {
        member.done(write(secret(&format!("s{n}")), sealed(1, &format!("labels of {n}"))));
    }
    member.done(write(secret("s7"), sealed(1, "other labels")));
    member.done(remove(secret("s9")));
    assert_eq!(keys(&member), [(1, 150)]);
    assert_eq!(keyring(&member).keys[0].uses, 152);
    member.done(command(KeyringOrderKind::Ask(Ask { active: 1 })));
    let (revision, before) = (member.revision(), value(&member, secret("s7")));
    // When whoever leads does what is due until nothing is
    let mut orders = 0;
    let mut from = SearchFrom::default();
    loop {
        let (view, ring) = (member.store.view(), keyring(&member));
        let care = care(&*view, &ring, [manager(1)].iter(), &mut Model, &mut from).unwrap();
        let Care { order: Some(order), unusable } = care else { break };
        assert!(unusable.is_empty());
        assert!(member.done(CommandKind::Keyring(order.clone()).into()).succeeded);
        // A late copy does nothing, and a member that starts in between goes on.
        assert!(!member.done(CommandKind::Keyring(order).into()).succeeded);
        member.reopen();
        sound(&member);
        orders += 1;
    }
    // Then every record names the new key, says what it said, and has the revision that it had
    assert_eq!(orders, 4, "the new key, and three lots of records");
    assert_eq!(keys(&member), [(2, 150)]);
    assert_eq!(member.revision(), revision);
    let after = value(&member, secret("s7"));
    assert_ne!(before, after);
    assert_eq!(SealedRecord::decode(after).unwrap().clear, "other labels");
    // And a member that is filled by a snapshot has the same
    let other = restored(&member.store);
    assert_eq!(keyring(&other), keyring(&member));
    sound(&other);
}

#[test]
fn a_record_that_was_written_meanwhile_is_not_put_back() {
    let mut member = founded();
    let made = member.done(write(secret("db"), sealed(1, "old"))).revision;
    member.done(rotate(1, 2, &[1]));
    let reseal = |from: u32, revision: u64, to: u32| {
        let record = Resealed { key: secret("db"), revision, from, value: sealed(to, "old") };
        command(KeyringOrderKind::Reseal(Reseal { records: vec![record] }))
    };
    // Its labels change; then the order that was made before comes
    member.done(write(secret("db"), sealed(1, "new")));
    assert!(!member.done(reseal(1, made, 2)).succeeded);
    assert_eq!(SealedRecord::decode(value(&member, secret("db"))).unwrap().clear, "new");
    // Nor does an order name a key that is not there
    let revision = member.revision();
    assert_eq!(member.run(reseal(1, revision, 7)), Outcome::Refused(Refusal::StaleKey { key: 7 }));
    sound(&member);
}

#[test]
fn a_key_stays_as_long_as_a_record_names_it_and_no_longer() {
    let mut member = founded();
    member.done(write(secret("db"), sealed(1, "")));
    member.done(rotate(1, 2, &[1]));
    // A write that was sealed before the rotation still counts.
    member.done(write(secret("late"), sealed(1, "")));
    assert_eq!(keys(&member), [(1, 3), (2, 0)]);
    member.done(write(Section::Identity.key(b"ca"), sealed(2, "")));
    member.done(remove(secret("db")));
    assert_eq!(keys(&member), [(1, 1), (2, 1)]);
    // One transaction that removes the last one and writes another
    member.done(system(txn([
        Delete { key: secret("late"), ..Delete::default() }.into(),
        put(secret("db"), sealed(2, "")),
    ])));
    assert_eq!(keys(&member), [(2, 2)]);
    assert_eq!(member.run(write(secret("x"), sealed(1, ""))), Outcome::Refused(Refusal::StaleKey { key: 1 }));
    sound(&member);
}

#[test]
fn a_key_stays_where_its_last_record_goes_and_another_comes_in_one_transaction() {
    // Given an older key that one record names
    let mut member = founded();
    member.done(write(secret("db"), sealed(1, "")));
    member.done(rotate(1, 2, &[1]));
    member.done(write(Section::Identity.key(b"ca"), sealed(2, "")));
    assert_eq!(keys(&member), [(1, 1), (2, 1)]);
    // When a transaction that was sealed before the rotation takes that record away and writes another one
    member.done(system(txn([
        Delete { key: secret("db"), ..Delete::default() }.into(),
        put(secret("other"), sealed(1, "")),
    ])));
    // Then the key is there, or nobody could ever open the new record
    assert_eq!(keys(&member), [(1, 1), (2, 1)]);
    sound(&member);
}

#[test]
fn a_manager_that_no_key_can_be_sealed_to_holds_up_nobody() {
    // Given a cluster with a secret, a second manager, and one whose public sealing key is none
    let mut member = founded();
    let nodes = [manager(1), manager(2), manager(UNUSABLE)];
    for node in &nodes[1..] {
        member.done(write(NodeRecord::key(node.node_id().unwrap()), node.to_bytes()));
    }
    member.done(write(secret("db"), sealed(1, "labels")));
    member.done(command(KeyringOrderKind::Ask(Ask { active: 1 })));
    // When whoever leads does what is due until nothing is
    let mut from = SearchFrom::default();
    for _ in 0..10 {
        let (view, ring) = (member.store.view(), keyring(&member));
        let Care { order, unusable } = care(&*view, &ring, nodes.iter(), &mut Model, &mut from).unwrap();
        // Then it is named each time,
        assert_eq!(unusable, [NodeId::from_bytes([UNUSABLE; 16])], "{order:?}");
        let Some(order) = order else { break };
        assert!(member.done(CommandKind::Keyring(order).into()).succeeded);
    }
    // and the others have their copies, the key is replaced, and everything is sealed anew
    assert_eq!(keys(&member), [(2, 2)]);
    assert_eq!(holders(&member, 2), [1, 2]);
    assert!(!keyring(&member).due);
    sound(&member);
}

/// A view that counts the records it shows.
struct Counting<'a>(&'a dyn StateRead, AtomicUsize);

impl StateRead for Counting<'_> {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        self.0.scan(from, to, &mut |key, value| {
            self.1.fetch_add(1, Ordering::Relaxed);
            visit(key, value)
        })
    }
}

#[test]
fn many_secrets_are_sealed_anew_without_looking_through_all_of_them_for_each_order() {
    // Given more secrets than many orders take, and another active key
    const SECRETS: usize = 1_000;
    let mut member = founded();
    for n in 0..SECRETS {
        member.done(write(secret(&format!("s{n:04}")), sealed(1, "labels")));
    }
    member.done(rotate(1, 2, &[1]));
    // When they are sealed anew, and one is written with the old key behind the search
    let (mut from, mut looked, mut orders) = (SearchFrom::default(), 0, 0);
    loop {
        let (view, ring) = (member.store.view(), keyring(&member));
        let counting = Counting(&*view, AtomicUsize::new(0));
        let Care { order, .. } = care(&counting, &ring, [manager(1)].iter(), &mut Model, &mut from).unwrap();
        looked += counting.1.into_inner();
        let Some(order) = order else { break };
        assert!(member.done(CommandKind::Keyring(order).into()).succeeded);
        orders += 1;
        if orders == 5 {
            member.done(write(secret("s0001"), sealed(1, "written late")));
        }
    }
    // Then all of them are, and each was looked at a few times at most
    assert_eq!(keys(&member), [(2, SECRETS as u64 + 1)]);
    assert!(looked < 4 * SECRETS, "{looked} looks at {SECRETS} secrets in {orders} orders");
    sound(&member);
}
