//! Snapshots and founding: what is restored is what was, and nothing else is ever accepted.
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
use quorate_core::command::COMMAND_VERSION;
use quorate_core::id::{LogIndex, RaftId, Revision, Term};
use quorate_core::keyspace::Section;
use quorate_core::limits::*;
use quorate_core::log::{HardState, LogStart};
use quorate_core::ports::LogReset;
use quorate_core::state::contract::{ApplyError, Refusal};
use quorate_core::state::{
    FOUNDED, SNAPSHOT_VERSION, SnapshotError, SnapshotReader, SnapshotWriter, found, read, scan_hash,
};
use quorate_core::txn::*;

/// A member with something in every table.
fn lived() -> Member {
    let mut member = Member::founded();
    for n in 0..10 {
        member.done(request(1, n + 1, n / 2, txn([put("a", n.to_string()), put(format!("k{n}"), "v")])));
    }
    member.done(request(2, 1, 0, txn([delete("k3")])));
    member.done(request(3, 1, 0, txn([put("c", "c")])));
    let seen = member.machine.status().applied.0;
    member.done(expire([(3, seen)]));
    member.done(compact(5));
    let index = member.next();
    member.machine.apply(&[configuration_entry(index, &[1, 2, 3], 1)]).unwrap();
    member
}

#[test]
fn a_restored_member_is_the_same_in_everything() {
    let mut live = lived();
    let mut other = restored(&live.store);
    assert_eq!(other.store.map(), live.store.map());
    assert_eq!(other.machine.status(), live.machine.status());
    assert_eq!(scan_hash(&*other.store.view()).unwrap(), live.hash());
    let newest = live.machine.hashes().next_back();
    assert_eq!(other.machine.hashes().next_back(), newest);
    // Also in what follows: the past and the retries.
    for member in [&mut live, &mut other] {
        assert!(member.done(request(2, 1, 0, txn([]))).replayed);
        assert_eq!(member.contents(5).unwrap().len(), 5);
        member.check();
    }
    assert_eq!(other.store.map(), live.store.map());
}

#[test]
fn records_larger_than_a_chunk_and_state_of_many_chunks_pass() {
    let mut live = lived();
    let key = "k".repeat(KEY_BYTES_MAX);
    for n in 0..4 {
        live.done(system(txn([put(format!("{}{n}", &key[1..]), "v".repeat(VALUE_BYTES_MAX))])));
    }
    for n in 0..300 {
        live.done(system(txn([put(format!("m{n}"), "v".repeat(8_000))])));
    }
    let sent = chunks(&live.store);
    assert!(sent.len() > 6, "{}", sent.len());
    assert!(sent.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= SNAPSHOT_CHUNK_BYTES));
    assert_eq!(restored(&live.store).store.map(), live.store.map());
    // Cut otherwise on its way, the stream is the same.
    let whole = sent.concat();
    for size in [1_000, 65_537] {
        let target = Store::default();
        let (status, _) = receive(&target, whole.chunks(size)).unwrap();
        assert_eq!(&status, live.machine.status());
    }
}

#[test]
fn the_writer_says_what_it_is_of_and_later_writes_do_not_reach_it() {
    let mut live = lived();
    let status = live.machine.status().clone();
    let mut writer = SnapshotWriter::new(live.store.view()).unwrap();
    live.done(system(txn([put("later", "1")])));
    assert_eq!(writer.status(), &status);
    let target = Store::default();
    let mut reader = SnapshotReader::new(target.staging());
    assert_eq!(reader.status(), None);
    while let Some(chunk) = writer.next_chunk().unwrap() {
        reader.chunk(&chunk).unwrap();
    }
    assert_eq!(writer.next_chunk().unwrap(), None);
    assert_eq!(reader.status(), Some(&status));
    assert_eq!(reader.finish().unwrap().0, status);
}

#[test]
fn a_stream_cut_short_anywhere_is_never_accepted() {
    let whole = chunks(&lived().store).concat();
    let target = Store::default();
    for end in 0..whole.len() {
        let error = receive(&target, [&whole[..end]]).unwrap_err();
        assert!(matches!(error, SnapshotError::Short { .. }), "cut at {end}: {error}");
    }
    let error = receive(&target, [&whole[..], b"\0"]).unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    assert_eq!(target.staged(), 0, "nothing was finished");
}

#[test]
fn a_stream_with_any_byte_altered_is_never_accepted() {
    let whole = chunks(&lived().store).concat();
    let target = Store::default();
    for at in 0..whole.len() {
        for bit in [1u8, 0x80] {
            let mut altered = whole.clone();
            altered[at] ^= bit;
            let mut reader = SnapshotReader::new(target.staging());
            let first = reader.chunk(&altered);
            if let Err(error) = &first {
                assert_eq!(reader.chunk(b"more").as_ref(), Err(error), "it stays refused");
            }
            assert!(reader.finish().is_err(), "byte {at}, bit {bit}");
        }
    }
    assert_eq!(target.staged(), 0, "nothing was finished");
}

#[test]
fn parts_that_are_swapped_missing_or_doubled_are_never_accepted() {
    let whole = chunks(&lived().store).concat();
    let parts: Vec<&[u8]> = whole.chunks(97).collect();
    let target = Store::default();
    for at in 1..parts.len() {
        let mut swapped = parts.clone();
        swapped.swap(at - 1, at);
        let mut missing = parts.clone();
        missing.remove(at);
        let mut doubled = parts.clone();
        doubled.insert(at, parts[at]);
        for wrong in [swapped, missing, doubled] {
            receive(&target, wrong).unwrap_err();
        }
    }
    assert_eq!(target.staged(), 0, "nothing was finished");
}

#[test]
fn what_is_no_snapshot_or_a_newer_one_is_named_as_such() {
    let target = Store::default();
    assert_eq!(receive(&target, ["GET / HTTP/1.1"]).unwrap_err(), SnapshotError::NotASnapshot);
    let mut newer = chunks(&lived().store).concat();
    newer[11] += 1;
    let too_new = SnapshotError::TooNew { found: SNAPSHOT_VERSION + 1, supported: SNAPSHOT_VERSION };
    assert_eq!(receive(&target, [newer]).unwrap_err(), too_new);
    // Nor is one taken of a cluster that has gone on to a version that is not known here.
    let mut beyond = chunks(&lived().store).concat();
    beyond[15] = u8::try_from(COMMAND_VERSION).unwrap() + 1;
    let needed = SnapshotError::NeedsVersion { needed: COMMAND_VERSION + 1, known: COMMAND_VERSION };
    assert_eq!(receive(&target, [beyond]).unwrap_err(), needed);
    assert_eq!(target.staged(), 0);
    // A length that would fill memory is refused before anything of it is kept.
    let mut huge = b"quorsnap\0\0\0\x01\0\0\0\x01".to_vec();
    huge.extend([0xff; 4]);
    assert!(matches!(receive(&target, [huge]).unwrap_err(), SnapshotError::Damaged { .. }));
}

#[test]
fn a_sender_whose_state_is_damaged_spreads_nothing() {
    // Given a member in whose store a byte of a value has flipped, so that the stream itself is sound.
    let live = lived();
    let stored: Bytes = [&b"\x11"[..], &key("a")].concat().into();
    live.store.tamper(|map| {
        let mut value = map[&stored].to_vec();
        *value.last_mut().unwrap() ^= 1;
        map.insert(stored.clone(), value.into());
    });
    let error = receive(&Store::default(), chunks(&live.store)).unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { detail } if detail.contains("state hash")), "{error}");
}

#[test]
fn a_header_that_says_other_than_its_records_is_refused_though_the_digest_fits() {
    let mut stream = chunks(&lived().store).concat();
    // The header's first field is the applied index; the digest is made anew over the change.
    assert_eq!(stream[20], 0x08);
    stream[21] += 1;
    let body = stream.len() - 32;
    let digest = blake3::hash(&stream[..body]);
    stream[body..].copy_from_slice(digest.as_bytes());
    let error = receive(&Store::default(), [stream]).unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { detail } if detail.contains("header")), "{error}");
}

#[test]
fn an_install_that_would_take_the_state_back_is_refused_before_anything_is_touched() {
    let mut live = lived();
    let (status, staged) = receive(&live.store, chunks(&live.store)).unwrap();
    live.done(system(txn([put("later", "1")])));
    let before = live.store.map();
    let start = LogStart { index: status.applied, term: status.applied_term };
    let error = live.machine.install(staged, LogReset { start, hard_state: HardState::default() }).unwrap_err();
    assert!(matches!(error, ApplyError::Broken { .. }), "{error}");
    assert_eq!(live.store.map(), before);
    live.done(system(txn([put("later", "2")])));
    live.check();
}

#[test]
fn an_install_that_does_not_stand_where_the_log_begins_is_refused_and_final() {
    let live = lived();
    let mut member = Member::on(Store::default());
    assert_eq!(member.machine.status().applied, LogIndex(0));
    let (status, staged) = receive(&member.store, chunks(&live.store)).unwrap();
    let start = LogStart { index: status.applied.next(), term: status.applied_term };
    let error = member.machine.install(staged, LogReset { start, hard_state: HardState::default() }).unwrap_err();
    assert!(matches!(error, ApplyError::Broken { .. }), "{error}");
    assert!(member.machine.apply(&[]).is_err());
}

#[test]
fn an_install_over_a_lived_state_replaces_all_of_it() {
    let mut old = Member::founded();
    old.done(request(9, 1, 0, txn([put("old", "1")])));
    let live = lived();
    let (status, staged) = receive(&old.store, chunks(&live.store)).unwrap();
    let start = LogStart { index: status.applied, term: status.applied_term };
    old.machine.install(staged, LogReset { start, hard_state: HardState::default() }).unwrap();
    assert_eq!(old.store.map(), live.store.map());
    assert!(!old.done(request(9, 1, 0, txn([put("old", "1")]))).replayed, "its replay table went too");
    old.check();
}

#[test]
fn a_founded_cluster_has_its_records_one_voter_and_a_log_that_begins_after_one() {
    let mut member = Member::founded();
    let status = member.machine.status().clone();
    assert_eq!((status.applied, status.applied_term), (FOUNDED.index, FOUNDED.term));
    assert_eq!((FOUNDED.index, FOUNDED.term), (LogIndex(1), Term(1)));
    assert_eq!((status.configuration.voters, status.configuration_number), (vec![RaftId(1)], 0));
    assert_eq!(status.revision, Revision(1));
    member.check();
    let view = member.store.view();
    assert_eq!(read::cluster(&*view).unwrap(), Some(founding().cluster));
    assert_eq!(read::nodes(&*view).unwrap(), [founding().node]);
    let token = Range { key: Section::Identity.key(b"token"), ..Range::default() };
    assert_eq!(read::range(&*view, &token).unwrap().entries[0].value, "sealed");
    let reset = found(&founding()).unwrap().reset;
    assert_eq!((reset.start, reset.hard_state.commit, reset.hard_state.term), (FOUNDED, LogIndex(1), Term(1)));
    // Founding records are records like others: they can change, and their past is there.
    member.done(system(txn([Put { key: token.key.clone(), value: Bytes::from("new"), ..Put::default() }.into()])));
    let then = Range { revision: 1, ..token };
    assert_eq!(read::range(&*member.store.view(), &then).unwrap().entries[0].value, "sealed");
    member.check();
}

#[test]
fn a_founding_that_contradicts_itself_is_refused() {
    let with = |change: fn(&mut quorate_core::state::Founding)| {
        let mut founding = founding();
        change(&mut founding);
        found(&founding).unwrap_err()
    };
    let malformed = [
        with(|f| f.node.raft_id = 0),
        with(|f| f.node.id = Bytes::new()),
        with(|f| f.node.role = 0),
        with(|f| f.cluster.next_raft_id = 1),
        with(|f| f.cluster.lineage = Bytes::new()),
        with(|f| f.cluster.cluster_id = Bytes::new()),
    ];
    assert!(malformed.iter().all(|refusal| matches!(refusal, Refusal::Malformed { .. })), "{malformed:?}");
    let duplicate = with(|f| f.records = vec![(key("a"), Bytes::new()), (key("a"), Bytes::new())]);
    assert!(matches!(duplicate, Refusal::DuplicateKey { .. }));
    let large = with(|f| f.records[0].1 = vec![0; RECORD_BYTES_MAX + 1].into());
    let Refusal::Limit { limit: "RECORD_BYTES_MAX", max, actual, .. } = large else { panic!("{large}") };
    assert_eq!((max, actual), (RECORD_BYTES_MAX as u64, RECORD_BYTES_MAX as u64 + 1));
    let mut just = founding();
    just.records[0].1 = vec![0; RECORD_BYTES_MAX].into();
    found(&just).unwrap();
}
