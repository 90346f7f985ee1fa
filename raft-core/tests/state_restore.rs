//! A backup on an empty disk: what is decided, and what becomes of the state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![cfg(feature = "consensus")]

mod common;

use bytes::Bytes;
use common::{Member, Store, chunks, founded, grant, put, receive, request, restored, system, txn};
use prost::Message as _;
use quorate_core::consensus::io::Records;
use quorate_core::envelope::{EPOCH_BYTES, Header, TAG_BYTES};
use quorate_core::id::{LineageId, NodeId, RaftId, StoreId, Term};
use quorate_core::keyring::{BarrierKey, KeyCopy, KeyringRecord, SealedRecord};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{Label, NodeRecord, Role};
use quorate_core::membership::trust::{Moment, TrustRecord, TrustTime, Waited};
use quorate_core::ports::StateStore as _;
use quorate_core::recovery::{Incarnation, RecoveryError, Restoration, Restored, log_of, restore};
use quorate_core::state::{COUNTER_JUMP, Extract, Founding, Jump, REVISION_JUMP, SnapshotReader, found};
use quorate_core::txn::Put;

const INCARNATION: LineageId = LineageId::from_bytes([77; 16]);

fn incarnation() -> Incarnation {
    Incarnation { id: INCARNATION, ..Incarnation::default() }
}

fn node(n: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::copy_from_slice(NodeId::from_bytes([n; 16]).as_bytes()),
        name: format!("n{n}"),
        role: Role::Manager.into(),
        raft_id: u64::from(n),
        addresses: vec![format!("10.0.0.{n}:4701")],
        key_digest: Bytes::copy_from_slice(&[n; 32]),
        labels: vec![Label { key: "zone".to_owned(), value: format!("z{n}") }],
        ..NodeRecord::default()
    }
}

/// Three managers, the first of them with a record of its own, and some writes.
fn three() -> Member {
    let mut member = Member::on(founded());
    for n in 1..=3 {
        let node = node(n);
        let put = Put { key: NodeRecord::key(node.node_id().unwrap()), value: node.to_bytes(), ..Put::default() };
        member.done(system(txn([put.into()])));
    }
    member.machine.apply(&[common::configuration_entry(member.next(), &[1, 2, 3], 1)]).unwrap();
    for n in 1..=5 {
        member.done(request(7, n, 0, txn([put(format!("k{n}"), format!("v{n}"))])));
    }
    member.done(grant(8, 1));
    member
}

/// The manager that is to be, on another disk, with another key.
fn newcomer(id: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::copy_from_slice(NodeId::from_bytes([id; 16]).as_bytes()),
        name: format!("n{id}"),
        addresses: vec!["10.9.9.9:4701".to_owned()],
        store_id: Bytes::copy_from_slice(StoreId::from_bytes([50; 16]).as_bytes()),
        key_digest: Bytes::copy_from_slice(&[99; 32]),
        ..NodeRecord::default()
    }
}

fn worked_out(member: &Member, id: u8) -> Restoration {
    restore(&Restored {
        keyring: KeyringRecord::default(),
        state: member.store.view(),
        node: newcomer(id),
        incarnation: incarnation(),
    })
    .unwrap()
}

/// Writes it and applies its entry, as the first start does.
fn started(member: &mut Member, worked: &Restoration) {
    let mut store = member.store.clone();
    store.recover(worked.outcome.write.clone()).unwrap();
    member.reopen();
    let entry = worked.outcome.write.log.entries.first().unwrap();
    let mut committed = common::raw_entry(member.next(), entry.data.clone());
    committed.term = entry.term;
    assert_eq!(entry.index, committed.index);
    member.machine.apply(&[committed]).unwrap();
    member.check();
}

fn records(member: &Member) -> Records {
    Records::read(&*member.store.view()).unwrap()
}

#[test]
fn a_backup_becomes_a_cluster_of_one_new_manager_with_everything_that_was_there() {
    // Given a cluster, and its state on an empty disk
    let before = three();
    let mut member = restored(&before.store);
    let kept = member.revision();
    let (contents, given_out) = (before.contents(0).unwrap(), records(&before).cluster.next_raft_id);
    // When it is restored under a node id that nobody had
    let worked = worked_out(&member, 9);
    started(&mut member, &worked);
    // Then everything is there,
    assert_eq!(member.contents(0).unwrap(), contents);
    assert_eq!(member.machine.leases(), before.machine.leases());
    assert!(member.done(request(7, 5, 0, txn([put("k5", "v5")]))).replayed);
    // one manager is, under a raft id that nobody can have been given who went on after the backup,
    let records = records(&member);
    let own = records.by_raft_id(worked.raft_id).unwrap();
    assert_eq!((own.name.as_str(), own.addresses.join(",")), ("n9", "10.9.9.9:4701".to_owned()));
    assert_eq!(member.machine.status().configuration.voters, [worked.raft_id]);
    assert_eq!(worked.raft_id.0, given_out + COUNTER_JUMP);
    assert!(records.cluster.next_raft_id > worked.raft_id.0 + COUNTER_JUMP);
    // the others are lost and their ids burnt,
    for n in 1..=3_u8 {
        let lost = records.nodes.get(NodeId::from_bytes([n; 16])).unwrap();
        assert!(lost.lost && lost.raft().is_none(), "{lost:?}");
        assert!(records.removed.contains(&RaftId(u64::from(n))));
    }
    // and it is a new incarnation: lineage, revision and term have jumped.
    assert_eq!(records.lineage().0.last(), Some(&INCARNATION));
    assert_eq!(records.lineage().generation(), 2);
    assert_eq!(member.revision(), kept + REVISION_JUMP);
    assert_eq!(worked.outcome.write.log.hard_state.unwrap().term, Term(1 + COUNTER_JUMP));
    assert_eq!(worked.outcome.records, records);
}

#[test]
fn under_the_name_of_a_manager_of_then_its_record_goes_on_with_another_key() {
    let mut member = restored(&three().store);
    // When the new manager has the node id of the second one
    let worked = worked_out(&member, 2);
    started(&mut member, &worked);
    // Then labels stay, and everything that is of its disk is new
    let records = records(&member);
    let own = records.nodes.get(NodeId::from_bytes([2; 16])).unwrap();
    assert_eq!((own.raft(), own.lost), (Some(worked.raft_id), false));
    assert_eq!(own.key_digest, Bytes::copy_from_slice(&[99; 32]));
    assert_eq!((own.label("zone"), own.addresses.join(",")), (Some("z2"), "10.9.9.9:4701".to_owned()));
    assert!(records.removed.contains(&RaftId(2)), "the raft id of its old disk is burnt");
    // and where that disk was reached is remembered: it may be alive, and is to hear of this.
    assert_eq!(own.left_at, ["10.0.0.2:4701"]);
    assert!(records.nodes.get(NodeId::from_bytes([1; 16])).unwrap().lost);
}

/// Everything that an incarnation hands out: where it begins.
fn counters(before: &Member, jump: Jump) -> [u64; 5] {
    let mut member = restored(&before.store);
    let restored = Restored {
        keyring: KeyringRecord::default(),
        state: member.store.view(),
        node: newcomer(9),
        incarnation: Incarnation { jump, ..incarnation() },
    };
    let worked = restore(&restored).unwrap();
    started(&mut member, &worked);
    let term = worked.outcome.write.log.hard_state.unwrap().term.0;
    let lease = member.done(grant(8, 2)).lease;
    [term, worked.raft_id.0, records(&member).cluster.next_raft_id, member.revision(), lease]
}

#[test]
fn a_later_restore_of_one_backup_begins_above_all_that_the_earlier_one_can_have_handed_out() {
    let before = three();
    const NOW: u64 = 1_800_000_000;
    let first = counters(&before, Jump::drawn(NOW, 5));
    // An hour later, whatever the entropy: above a million numbers for each second of it.
    let later = counters(&before, Jump::drawn(NOW + 3_600, 0));
    for (first, later) in first.iter().zip(later) {
        assert!(later > first + 3_500_000_000, "{first} {later}");
    }
    // In one second, and by a clock that stands: the entropy tells them apart.
    for now in [NOW, 0] {
        let (one, other) =
            (counters(&before, Jump::drawn(now, 1_000_000)), counters(&before, Jump::drawn(now, 9_000_000)));
        for (one, other) in one.iter().zip(other) {
            assert!(one.abs_diff(other) >= 8_000_000, "{one} {other}");
        }
    }
    // A clock that is far ahead makes no number that a JSON reader cannot hold, and a restore of the restored goes on above it.
    for number in counters(&before, Jump::drawn(u64::MAX, u64::MAX)) {
        assert!(number < 1 << 53, "{number}");
    }
}

#[test]
fn two_restores_of_one_backup_are_two_incarnations() {
    let before = three();
    let lineage = |incarnation: u8| {
        let member = restored(&before.store);
        let incarnation = Incarnation { id: LineageId::from_bytes([incarnation; 16]), ..Incarnation::default() };
        restore(&Restored {
            keyring: KeyringRecord::default(),
            state: member.store.view(),
            node: newcomer(9),
            incarnation,
        })
        .unwrap()
        .outcome
        .lineage
    };
    let (one, other) = (lineage(1), lineage(2));
    assert_eq!(one.compare(&other), quorate_core::id::LineageOrder::Forked);
    assert_eq!(one.compare(&records(&before).lineage()), quorate_core::id::LineageOrder::Newer);
}

#[test]
fn a_state_that_is_not_what_it_says_is_refused() {
    let member = restored(&three().store);
    let asked = || Restored {
        keyring: KeyringRecord::default(),
        state: member.store.view(),
        node: newcomer(9),
        incarnation: incarnation(),
    };
    member.store.tamper(|map| {
        let (key, mut value) =
            map.iter().find(|(key, _)| key[..] == *b"\x11uk3").map(|(k, v)| (k.clone(), v.to_vec())).unwrap();
        *value.last_mut().unwrap() ^= 1;
        map.insert(key, value.into());
    });
    assert!(matches!(restore(&asked()), Err(RecoveryError::Damaged(_))));
    let empty = Restored { state: Store::default().view(), ..asked() };
    assert_eq!(restore(&empty), Err(RecoveryError::NoState));
}

#[test]
fn the_log_begins_after_what_was_applied() {
    let before = three();
    let status = before.machine.status();
    let reset = log_of(status);
    assert_eq!((reset.start.index, reset.start.term), (status.applied, status.applied_term));
    assert_eq!((reset.hard_state.commit, reset.hard_state.vote), (status.applied, RaftId(0)));
}

#[test]
fn an_extract_keeps_who_is_there_and_counts_what_is_stored() {
    let before = three();
    let extract = Extract::new();
    let mut reader = SnapshotReader::new(extract.stage());
    for chunk in chunks(&before.store) {
        reader.chunk(&chunk).unwrap();
    }
    assert!(!extract.is_complete());
    let (status, _) = reader.finish().unwrap();
    assert!(extract.is_complete());
    assert_eq!(&status, before.machine.status());
    let expected = records(&before);
    assert_eq!(Records::read(&extract).unwrap(), expected);
    let users = extract.amount(Section::User);
    assert_eq!((users.records, users.bytes), (5, 10));
    assert_eq!(extract.amount(Section::Node).records, expected.nodes.len() as u64);
    // Nothing that users store is kept.
    let mut kept = 0;
    let visit = &mut |_: &[u8], value: &[u8]| {
        kept += 1;
        assert!(!value.windows(2).any(|part| part == b"v3"));
        quorate_core::ports::Visit::More
    };
    quorate_core::ports::StateRead::scan(&extract, b"", b"", visit).unwrap();
    assert!(kept > 3);
    // A stream that was cut is not complete.
    let cut = Extract::new();
    let mut reader = SnapshotReader::new(cut.stage());
    reader.chunk(&chunks(&before.store)[0][..100]).unwrap();
    assert!(reader.finish().is_err() && !cut.is_complete());
    assert!(receive(&Store::default(), chunks(&before.store)).is_ok());
}

#[test]
fn every_key_of_the_keyring_gets_a_copy_for_the_new_manager_and_the_active_one_is_due() {
    // Given a cluster whose keyring has two keys, each with a record, with copies for managers that are gone
    let copy = |to: u8| KeyCopy { to: Bytes::copy_from_slice(&[to; 32]), sealed: Bytes::copy_from_slice(&[to; 48]) };
    let key = |id, to| BarrierKey { id, copies: vec![copy(to)], ..BarrierKey::default() };
    let named = |id: u32| (Section::Secret.key(&id.to_be_bytes()), sealed(id));
    let keyring = KeyringRecord { serial: 7, active: 2, keys: vec![key(1, 1), key(2, 1)], due: false };
    let found = found(&Founding { records: vec![named(1), named(2)], keyring, ..common::founding() }).unwrap();
    let mut store = Store::default();
    store.found(found.writes, found.reset).unwrap();
    let mut member = restored(&store);
    // When it is restored with a copy of only one of them, then of both
    let node = NodeRecord { sealing_key: Bytes::copy_from_slice(&[9; 32]), ..newcomer(9) };
    let asked = |keys| Restored {
        state: member.store.view(),
        node: node.clone(),
        incarnation: incarnation(),
        keyring: KeyringRecord { active: 2, keys, ..KeyringRecord::default() },
    };
    let refused = restore(&asked(vec![key(2, 9)]));
    assert!(matches!(&refused, Err(RecoveryError::Damaged(why)) if why.contains("barrier key 1")), "{refused:?}");
    let worked = restore(&asked(vec![key(1, 9), key(2, 9)])).unwrap();
    started(&mut member, &worked);
    // Then the new manager, and nobody else, opens both, the counts are as they were, and the active one is to be replaced
    let records = records(&member);
    let keyring = &records.keyring;
    assert!(keyring.keys.iter().all(|key| key.copies == [copy(9)] && (key.records, key.uses) == (1, 1)), "{keyring:?}");
    assert_eq!((keyring.active, keyring.due, keyring.keys.len()), (2, true, 2));
    assert!(keyring.opens(records.by_raft_id(worked.raft_id).unwrap()));
}

/// A record as it looks when it was sealed with this key.
fn sealed(key: u32) -> Bytes {
    let mut envelope = Vec::new();
    Header { algorithm: 1, key, epoch: [7; EPOCH_BYTES], number: 0 }.write(&mut envelope);
    envelope.extend_from_slice(&[0; TAG_BYTES]);
    SealedRecord { clear: Bytes::new(), sealed: envelope.into() }.encode_to_vec().into()
}

#[test]
fn a_rotation_that_was_under_way_in_a_backup_waits_for_the_restored_manager_alone() {
    // Given a backup in the middle of a rotation, for which none of the managers of then has renewed
    let mut before = three();
    let root = |n: u8| Bytes::copy_from_slice(&[n; 8]);
    let trust = TrustRecord::first(root(1), root(1)).rotated((root(2), root(2)), root(3), 3, 1_000, 100).unwrap();
    let time = TrustTime { serial: trust.serial, passed_s: 99 };
    for (key, value) in [(TrustRecord::key(), trust.to_bytes()), (TrustTime::key(), time.to_bytes())] {
        before.done(system(txn([Put { key, value, ..Put::default() }.into()])));
    }
    // When it is restored, then everything is trusted that was,
    let mut member = restored(&before.store);
    let worked = worked_out(&member, 9);
    started(&mut member, &worked);
    let known = records(&member);
    assert_eq!((&known.trust, known.trust.left_s(&known.trust_time)), (&trust, 1));
    // the one manager that there is is waited for, and no deadline shuts it out,
    let configuration = member.machine.status().configuration.clone();
    let waited = known.trust.progress(known.nodes.iter(), [], 2_000).waited;
    assert!(matches!(waited[..], [Waited::Node(node)] if node.raft() == Some(worked.raft_id)), "{waited:?}");
    let over = Moment { passed_s: u64::MAX, unix_s: 2_000 };
    assert_eq!(known.trust.ended(known.nodes.iter(), [], &configuration, over), None);
    // and when it has shown the new root, it is over.
    let own = NodeRecord { issuer: root(2), ..known.by_raft_id(worked.raft_id).unwrap().clone() };
    let put = Put { key: NodeRecord::key(own.node_id().unwrap()), value: own.to_bytes(), ..Put::default() };
    member.done(system(txn([put.into()])));
    let known = records(&member);
    let ended = known.trust.ended(known.nodes.iter(), [], &configuration, Moment::default()).unwrap();
    assert_eq!(ended.authorities, [root(2)]);
}
