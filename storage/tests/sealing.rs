//! What lies on the disk is sealed: nobody reads it there, nothing is moved, put back or mixed up, and keys change under load and
//! through crashes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]
#![allow(clippy::print_stdout, reason = "the second process answers over its standard output")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use common::{
    Disk, assert_corrupt, assert_filled, batch, entries, entry, filled, hard, key, options, reset, set, state,
};
use data_encoding::{BASE64, HEXLOWER};
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry, LogStart};
use quorate_core::ports::{LogBatch, OpenStore, StoreError};
use quorate_storage::{GivenKey, Key, KeyKind, KeySlot, Options};

const WORK: &str = "QUORATE_SEALING_TEST_WORK";
const DIR: &str = "QUORATE_SEALING_TEST_DIR";
const FAMILIES: [&str; 4] = ["raft_log", "raft_meta", "state_a", "state_b"];

/// The database without any of our checks.
fn raw(disk: &Disk) -> rocksdb::DB {
    let families = ["default"].into_iter().chain(FAMILIES);
    rocksdb::DB::open_cf(&rocksdb::Options::default(), disk.dir.join("db"), families).unwrap()
}

/// Every record of a stopped store as it lies there, by family and key.
fn records(disk: &Disk) -> BTreeMap<(&'static str, Vec<u8>), Vec<u8>> {
    let copy = disk.copy();
    let db = raw(&copy);
    let mut all = BTreeMap::new();
    for family in FAMILIES {
        let handle = db.cf_handle(family).unwrap();
        for record in db.iterator_cf(handle, rocksdb::IteratorMode::Start) {
            let (key, value) = record.unwrap();
            all.insert((family, key.to_vec()), value.to_vec());
        }
    }
    all
}

/// Data key ids that records name.
fn named(disk: &Disk) -> Vec<u32> {
    let id = |record: &Vec<u8>| u32::from_be_bytes(record[2..6].try_into().unwrap());
    let mut all: Vec<u32> = records(disk).values().map(id).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn canary() -> (Vec<u8>, Vec<Vec<u8>>) {
    let random = Key::generate().unwrap().to_text();
    let canary = random.as_bytes()[6..54].to_vec();
    let json = format!("{canary:?}").replace(' ', "");
    let reversed: Vec<u8> = canary.iter().rev().copied().collect();
    let forms = vec![
        canary.clone(),
        HEXLOWER.encode(&canary).into_bytes(),
        BASE64.encode(&canary).trim_end_matches('=').as_bytes().to_vec(),
        json.into_bytes(),
        reversed,
    ];
    (canary, forms)
}

fn found_in(disk: &Disk, form: &[u8]) -> Vec<PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(form.len()).any(|window| window == form);
    disk.contents().into_iter().filter(|(_, bytes)| holds(bytes)).map(|(path, _)| path).collect()
}

#[test]
fn nothing_that_was_put_is_in_any_file_and_a_plain_file_beside_it_is_found() {
    let (canary, forms) = canary();
    let disk = Disk::new();
    let mut small = options();
    small.wal_bytes_max = 64 * 1024;
    // Given every form of the canary as entry, context, state value, fact and received snapshot, installed and not
    let mut open = quorate_storage::open(&disk.dir, small).unwrap();
    let mut value = Vec::new();
    for form in &forms {
        value.extend_from_slice(form);
        value.push(b' ');
    }
    let value = Bytes::from(value);
    let mut writes = set(&[("a", "1")]);
    writes.put(Bytes::from_static(b"secret name"), value.clone());
    open.state.found(writes, reset(1)).unwrap();
    for index in 2..60 {
        let entry = LogEntry {
            index: LogIndex(index),
            term: Term(1),
            kind: EntryKind::Normal,
            data: value.clone(),
            context: value.clone(),
        };
        open.log.write(&[LogBatch { entries: vec![entry], hard_state: Some(hard(index)), cut: None }], true).unwrap();
        let mut writes = set(&[("filler", &"f".repeat(4_000))]);
        writes.put(Bytes::from(format!("name {index}")), value.clone());
        open.state.commit(writes).unwrap();
    }
    open.meta.put(&[("fact", value.clone())]).unwrap();
    for install in [true, false] {
        let mut staged = open.staging.begin().unwrap();
        staged.write(&[(Bytes::from_static(b"a name in clear"), value.clone())]).unwrap();
        let staged = staged.finish().unwrap();
        if install {
            open.state.install(staged, reset(100)).unwrap();
        }
    }
    // When the directory is searched while it is in use and after it was closed
    let mut searches = 0;
    let mut search = || {
        for form in &forms {
            assert_eq!(found_in(&disk, form), Vec::<PathBuf>::new());
            searches += 1;
        }
    };
    search();
    drop(open);
    search();
    drop(disk.open().unwrap());
    search();
    assert_eq!(searches, 15);
    // Then only the control is found, in each form, and the name of a key is: names are not sealed
    fs::write(disk.dir.join("control"), &value).unwrap();
    for form in &forms {
        assert_eq!(found_in(&disk, form), [disk.dir.join("control")]);
    }
    assert!(!found_in(&disk, b"a name in clear").is_empty());
    assert_eq!(canary.len(), 48);
    // And with the key it is all there
    let open = disk.open().unwrap();
    assert_eq!(open.meta.get("fact").unwrap().as_deref(), Some(&value[..]));
    assert_eq!(open.state.get(b"a name in clear").unwrap().as_deref(), Some(&value[..]));
}

fn put_raw(disk: &Disk, family: &str, key: &[u8], record: &[u8]) {
    let db = raw(disk);
    db.put_cf(db.cf_handle(family).unwrap(), key, record).unwrap();
}

#[test]
fn a_record_of_another_store_under_the_same_key_is_refused() {
    // Given two stores that one key opens
    let (one, other) = (filled(6), filled(6));
    let theirs = records(&other);
    // When a record of one is put into the same place of the other
    put_raw(&one, "state_a", b"ka", &theirs[&("state_a", b"ka".to_vec())]);
    let open = one.open().unwrap();
    assert_corrupt(&open.state.get(b"a").unwrap_err(), &["state key `a`", "another store"]);
    drop(open);
    let log = 3_u64.to_be_bytes();
    let one = filled(6);
    put_raw(&one, "raft_log", &log, &theirs[&("raft_log", log.to_vec())]);
    assert_corrupt(&one.refusal(), &["log entry 3", "seal is broken"]);
}

#[test]
fn a_record_of_the_other_state_is_refused() {
    let disk = filled(3);
    let mine = records(&disk);
    let mut open = disk.open().unwrap();
    let mut staged = open.staging.begin().unwrap();
    staged.write(&[(Bytes::from_static(b"a"), Bytes::from_static(b"newer"))]).unwrap();
    let staged = staged.finish().unwrap();
    open.state.install(staged, reset(50)).unwrap();
    drop(open);
    // Given a new state that was installed, when a value of the old one is put back
    put_raw(&disk, "state_b", b"ka", &mine[&("state_a", b"ka".to_vec())]);
    assert_corrupt(&disk.open().unwrap().state.get(b"a").unwrap_err(), &["state key `a`"]);
}

fn delete_raw(disk: &Disk, family: &str, key: &[u8]) {
    let db = raw(disk);
    db.delete_cf(db.cf_handle(family).unwrap(), key).unwrap();
}

/// Whether the hash over the state is what has to notice: a record of it, its witness apart.
fn is_state(family: &str, key: &[u8]) -> bool {
    family.starts_with("state_") && !key.is_empty()
}

/// A store that was in use for a while, with a fact.
fn used() -> Disk {
    let disk = filled(6);
    let open = disk.open().unwrap();
    open.meta.put(&[("identity", Bytes::from_static(b"older")), ("fence", Bytes::from_static(b"none"))]).unwrap();
    drop(open);
    disk
}

/// A write, and what it is.
type Write = (&'static str, fn(&mut OpenStore));

/// One of each kind.
const WRITES: [Write; 5] = [
    ("an entry over others", |open| {
        let hard_state = Some(HardState { term: Term(2), vote: RaftId(3), commit: LogIndex(4) });
        let entries = vec![LogEntry { term: Term(2), ..entry(5) }, LogEntry { term: Term(2), ..entry(6) }];
        open.log.write(&[LogBatch { entries, hard_state, cut: None }], true).unwrap();
    }),
    ("a vote", |open| {
        let hard_state = Some(HardState { term: Term(2), vote: RaftId(3), commit: LogIndex(6) });
        open.log.write(&[LogBatch { hard_state, ..LogBatch::default() }], true).unwrap();
    }),
    ("a fact", |open| open.meta.put(&[("fence", Bytes::from_static(b"fenced"))]).unwrap()),
    ("a cut", |open| {
        let cut = Some(LogStart { index: LogIndex(4), term: Term(1) });
        open.log.write(&[LogBatch { cut, ..LogBatch::default() }], true).unwrap();
    }),
    ("a change of the state", |open| {
        open.state.commit(set(&[("a", "newer")])).unwrap();
        open.log.write(&[], true).unwrap();
    }),
];

#[test]
fn no_record_but_those_of_the_state_is_put_back_or_taken_away_unnoticed() {
    let disk = used();
    let before = records(&disk);
    for (what, write) in WRITES {
        // Given a store after one more write, of each kind
        let disk = disk.copy();
        let mut open = disk.open().unwrap();
        write(&mut open);
        drop(open);
        let after = records(&disk);
        let start = disk.open().unwrap().boot.start.index.0;
        let (mut refused, mut unnoticed) = (0, Vec::new());
        // When one whole record is put back as it was before it, by somebody who can write RocksDB's files
        for ((family, key), old) in before.iter().filter(|(place, old)| after.get(*place) != Some(*old)) {
            let copy = disk.copy();
            put_raw(&copy, family, key, old);
            match copy.open() {
                Ok(_) => unnoticed.push((*family, key.clone())),
                Err(error) => {
                    assert_corrupt(&error, &[]);
                    refused += 1;
                }
            }
        }
        // Then it is noticed of all but records of the state, and of entries that were cut, which say nothing any more.
        let harmless = |(family, key): &(&str, Vec<u8>)| {
            is_state(family, key)
                || (*family == "raft_log"
                    && key.as_slice().try_into().is_ok_and(|key| u64::from_be_bytes(key) <= start))
        };
        assert!(unnoticed.iter().all(harmless), "{what}: {unnoticed:?}");
        assert!(refused >= 2, "{what}: {refused}");
        // And when one is taken away, it is noticed of every one of them.
        for (family, key) in after.keys().filter(|(family, key)| !is_state(family, key)) {
            let copy = disk.copy();
            delete_raw(&copy, family, key);
            assert_corrupt(&copy.refusal(), &[]);
        }
    }
}

#[test]
fn records_that_were_put_back_together_are_noticed_unless_all_of_them_and_the_marker_were() {
    let disk = used();
    let (before, marker) = (records(&disk), fs::read(disk.dir.join("durable")).unwrap());
    let mut open = disk.open().unwrap();
    let (_, vote) = WRITES[1];
    vote(&mut open);
    let given = HardState { term: Term(2), vote: RaftId(3), commit: LogIndex(6) };
    drop(open);
    assert_eq!(disk.open().unwrap().boot.hard_state, given);
    // Given a vote, and everything that knows of it: the head, the log's witness, the marker
    let all = [("raft_meta", &b"head"[..]), ("raft_log", b"")];
    for some in 1..8_u32 {
        let copy = disk.copy();
        for (bit, (family, key)) in all.iter().enumerate().filter(|(bit, _)| some & (1 << bit) != 0) {
            assert!(bit < 2);
            put_raw(&copy, family, key, &before[&(*family, key.to_vec())]);
        }
        if some & 4 != 0 {
            fs::write(copy.dir.join("durable"), &marker).unwrap();
        }
        let opened = copy.open().map(|open| open.boot.hard_state);
        match some {
            // All of it at once is the store of before, whole: a rollback like that of a directory, which nobody sees from inside.
            7 => assert_eq!(opened.unwrap(), hard(6)),
            // The marker alone may lag behind, as after a power cut.
            4 => assert_eq!(opened.unwrap(), given),
            _ => assert_corrupt(&opened.unwrap_err(), &[]),
        }
    }
}

#[test]
fn an_entry_that_was_written_over_is_noticed_by_the_one_that_follows_it() {
    let disk = filled(6);
    let before = records(&disk);
    let mut open = disk.open().unwrap();
    let (_, over) = WRITES[0];
    over(&mut open);
    // Given an older entry in its place, which fits by its term, before whoever reads it was started again
    let fifth = 5_u64.to_be_bytes();
    let old = &before[&("raft_log", fifth.to_vec())];
    drop(open);
    let copy = disk.copy();
    put_raw(&copy, "raft_log", &fifth, old);
    assert_corrupt(&copy.refusal(), &["log entry 6", "term 2", "term 1", "as it was before"]);
    // The last one has none after it, but the head knows it.
    let sixth = 6_u64.to_be_bytes();
    put_raw(&disk, "raft_log", &sixth, &before[&("raft_log", sixth.to_vec())]);
    assert_corrupt(&disk.refusal(), &["log entry 6", "as it was before"]);
}

#[test]
fn a_copied_directory_that_is_started_again_and_again_repeats_no_nonce() {
    // Given one directory, copied, and both started and written to, in turns
    let mut disks = vec![filled(4)];
    for round in 0..4_u64 {
        let copy = disks[0].copy();
        disks.push(copy);
        for (number, disk) in disks.iter().enumerate() {
            let mut open = disk.open().unwrap();
            let last = open.boot.last.0;
            open.log.write(&[batch(last + 1, last + 20)], true).unwrap();
            open.state.commit(set(&[("a", &format!("{round} {number}")), (&format!("k{round}"), "v")])).unwrap();
        }
    }
    // Then whatever shares family, data key, epoch and number is one and the same record
    let mut seen = BTreeMap::new();
    let (mut records_seen, mut shared) = (0, 0);
    for disk in &disks {
        for ((family, key), record) in records(disk) {
            records_seen += 1;
            let header = record[..30].to_vec();
            if let Some(before) = seen.insert((family, header), (key.clone(), record.clone())) {
                shared += 1;
                assert_eq!(before, (key, record));
            }
        }
    }
    assert!(records_seen > 300 && shared > 10 && shared < records_seen, "{shared} of {records_seen}");
}

#[test]
fn a_wrong_key_a_missing_record_and_a_damaged_one_are_told_apart_and_nothing_is_changed() {
    let disk = filled(4);
    let before = disk.contents();
    // Given another key, then it is said which one is wanted
    let other = GivenKey(Key::from_bytes(&[1; 32]));
    let Err(error) = quorate_storage::open(&disk.dir, Options::new(Arc::new(other.clone()))) else { panic!("opened") };
    assert!(matches!(error, StoreError::KeyWanted { .. }), "{error}");
    for word in [key().0.id().to_string(), other.0.id().to_string()] {
        assert!(error.to_string().contains(&word), "{error}");
    }
    assert_eq!(quorate_storage::open_read_only(&disk.dir, &other).map(drop), Err(error));
    // Given no key at all, then the store still says which keys open it
    let slots = quorate_storage::key_slots(&disk.dir).unwrap();
    assert_eq!((slots.len(), slots[0].id, slots[0].kind), (1, key().0.id(), KeyKind::Custom));
    assert_eq!(disk.contents(), before);
    // Given a record that was cut or is gone, then that is damage
    let whole = fs::read(disk.dir.join("keys")).unwrap();
    fs::write(disk.dir.join("keys"), &whole[..whole.len() - 1]).unwrap();
    assert_corrupt(&disk.refusal(), &["key record"]);
    fs::remove_file(disk.dir.join("keys")).unwrap();
    assert_corrupt(&disk.refusal(), &["key record", "missing"]);
    fs::write(disk.dir.join("keys"), whole).unwrap();
    assert_filled(&disk.open().unwrap(), 4);
}

#[test]
fn a_key_that_opened_the_store_before_is_told_which_one_does_now() {
    // Given a store whose key was changed
    let disk = filled(4);
    let (open, keys) = quorate_storage::open_with_keys(&disk.dir, options()).unwrap();
    keys.change(&second_key(), KeySlot::new(&second_key(), KeyKind::File, "/mnt/key")).unwrap();
    drop((open, keys));
    let before = disk.contents();
    // When it is opened with the one of before, then both are named, and where the right one lies; nothing is changed.
    let error = disk.refusal();
    assert!(matches!(error, StoreError::KeyWanted { .. }), "{error}");
    for word in [&second_key().id().to_string(), &key().0.id().to_string(), "/mnt/key"] {
        assert!(error.to_string().contains(word), "`{word}`: {error}");
    }
    assert_eq!(disk.contents(), before);
    let with = Options::new(Arc::new(GivenKey(second_key())));
    assert_filled(&quorate_storage::open(&disk.dir, with).unwrap(), 4);
}

#[test]
fn a_store_without_format_and_key_record_is_not_buried_under_a_new_key() {
    let disk = filled(4);
    let kept = fs::read(disk.dir.join("keys")).unwrap();
    fs::remove_file(disk.dir.join("format")).unwrap();
    fs::remove_file(disk.dir.join("keys")).unwrap();
    assert_corrupt(&disk.refusal(), &["format", "key record"]);
    assert!(!disk.dir.join("keys").exists());
    fs::write(disk.dir.join("keys"), kept).unwrap();
    fs::write(disk.dir.join("format"), "quorate store format 4\nneeds version 0\n").unwrap();
    assert_filled(&disk.open().unwrap(), 4);
}

#[test]
fn a_directory_of_before_is_refused_and_left_as_it_is() {
    let disk = filled(2);
    fs::write(disk.dir.join("format"), "quorate store format 1\n").unwrap();
    let before = disk.contents();
    let error = disk.refusal();
    assert_eq!(error, StoreError::FormatTooOld { found: 1, supported: 4 });
    assert!(error.to_string().contains("no release"), "{error}");
    assert_eq!(disk.contents(), before);
}

#[test]
fn a_store_that_is_not_sealed_opens_only_where_that_was_asked_for() {
    let disk = Disk::new();
    let mut plain = options();
    plain.unsealed = true;
    let mut open = quorate_storage::open(&disk.dir, plain.clone()).unwrap();
    open.state.found(set(&[("a", "in clear")]), reset(1)).unwrap();
    drop(open);
    assert!(!found_in(&disk, b"in clear").is_empty());
    assert_corrupt(&disk.refusal(), &["algorithm 0"]);
    assert_eq!(quorate_storage::open(&disk.dir, plain).unwrap().state.get(b"a").unwrap().unwrap(), "in clear");
}

/// Rotates until nothing names an old data key.
fn rotated(open_with: Options, disk: &Disk) -> u32 {
    let (open, keys) = quorate_storage::open_with_keys(&disk.dir, open_with).unwrap();
    let id = keys.rotate_data_key().unwrap();
    while keys.reseal_step().unwrap() {}
    assert_eq!((keys.status().data_key, keys.status().older), (id, Vec::new()));
    drop(open);
    id
}

#[test]
fn a_new_data_key_seals_everything_anew_and_the_old_one_goes() {
    let disk = filled(40);
    let staged = disk.open().unwrap();
    staged.meta.put(&[("fact", Bytes::from_static(b"value"))]).unwrap();
    drop(staged);
    assert_eq!(named(&disk), [1]);
    assert_eq!(rotated(options(), &disk), 2);
    assert_eq!(named(&disk), [2]);
    let open = disk.open().unwrap();
    assert_filled(&open, 40);
    assert_eq!(open.meta.get("fact").unwrap().unwrap(), "value");
    drop(open);
    assert_eq!(rotated(options(), &disk), 3);
    assert_filled(&disk.open().unwrap(), 40);
}

#[test]
fn data_keys_change_while_everybody_writes_and_reads() {
    let disk = Disk::new();
    let mut small = options();
    small.wal_bytes_max = 256 * 1024;
    let (mut open, keys) = quorate_storage::open_with_keys(&disk.dir, small).unwrap();
    open.state.found(set(&[("x", "0"), ("y", "0")]), reset(1)).unwrap();
    for n in 0..3_000 {
        open.state.commit(set(&[(&format!("key {n:04}"), &"v".repeat(300))])).unwrap();
    }
    let (done, synced, committed) = (AtomicBool::new(false), AtomicU64::new(1), AtomicU64::new(0));
    let reader = open.state.reader();
    std::thread::scope(|threads| {
        let (mut log, mut applier) = (open.log, open.state);
        let (log_reader, staging, keys) = (&open.log_reader, &open.staging, &keys);
        let (done, synced, committed, reader) = (&done, &synced, &committed, &reader);
        threads.spawn(move || {
            for index in 2.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                log.write(&[batch(index, index)], index % 2 == 0).unwrap();
                synced.store(index, Ordering::Release);
            }
        });
        threads.spawn(move || {
            for n in 1_u64.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                let text = n.to_string();
                let churned = format!("key {:04}", n % 3_000);
                applier.commit(set(&[("x", &text), ("y", &text), (&churned, &text)])).unwrap();
                committed.store(n, Ordering::Release);
            }
        });
        threads.spawn(move || {
            while !done.load(Ordering::Acquire) {
                let seen = state(&*reader.view()).unwrap();
                let at = |key: &str| seen.iter().find(|(found, _)| found == key).unwrap().1.clone();
                assert_eq!(at("x"), at("y"));
                let last = synced.load(Ordering::Acquire);
                let found = log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX);
                assert!(found.is_ok_and(|found| found == entries(2, last)) || last == 1);
            }
        });
        threads.spawn(move || {
            while !done.load(Ordering::Acquire) {
                let mut staged = staging.begin().unwrap();
                for n in 0..50 {
                    staged.write(&[(Bytes::from(format!("{n:04}")), Bytes::from_static(b"staged"))]).unwrap();
                }
                staging.discard(staged.finish().unwrap()).unwrap();
            }
        });
        for _ in 0..4 {
            let before = committed.load(Ordering::Acquire);
            keys.rotate_data_key().unwrap();
            while keys.reseal_step().unwrap() {
                std::thread::yield_now();
            }
            assert_eq!(keys.status().older, Vec::<u32>::new());
            while committed.load(Ordering::Acquire) <= before {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
    });
    drop((open.log_reader, open.staging, open.meta, reader, keys));
    assert_eq!(named(&disk), [5]);
    let open = disk.open().unwrap();
    let (n, last) = (committed.into_inner().to_string(), synced.into_inner());
    assert_eq!(open.state.get(b"x").unwrap().unwrap(), n);
    assert_eq!(open.boot.last, LogIndex(last));
    assert_eq!(open.log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX).unwrap(), entries(2, last));
}

fn second_key() -> Key {
    Key::from_bytes(&[77; 32])
}

/// No test of its own: with nothing to do it does nothing.
#[test]
fn what_the_second_process_does() {
    let (Ok(work), Ok(dir)) = (std::env::var(WORK), std::env::var(DIR)) else { return };
    let (what, at) = work.split_once(':').unwrap();
    let at: usize = at.parse().unwrap();
    let reached = AtomicUsize::new(0);
    let mut options = options();
    options.probe = Some(Arc::new(move |point| {
        if point.starts_with("keys:") && reached.fetch_add(1, Ordering::Relaxed) + 1 == at {
            println!("DIES {point}");
            std::process::abort();
        }
    }));
    let (open, keys) = quorate_storage::open_with_keys(&PathBuf::from(dir), options).unwrap();
    match what {
        "rotate" => {
            keys.rotate_data_key().unwrap();
            while keys.reseal_step().unwrap() {}
        }
        "change" => {
            let key = second_key();
            keys.begin_change(&key, KeySlot::new(&key, KeyKind::Unlock, "")).unwrap();
            assert!(keys.finish_change().unwrap());
        }
        "make" => {}
        other => panic!("{other}"),
    }
    drop(open);
    println!("DONE");
}

/// Lets another process do `work` on this disk and die at its point `at`; what it said, unless it came to its end before.
fn killed_at(work: &str, at: usize, disk: &Disk) -> Option<String> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_the_second_process_does", "--nocapture", "--test-threads=1"])
        .env(WORK, format!("{work}:{at}"))
        .env(DIR, &disk.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
    (!said.contains("DONE")).then_some(said)
}

/// Lets another process do `work` on a copy of `disk`, and die at each point of it in turn. How many there were.
fn killed_at_each_point(work: &str, disk: &Disk, check: impl Fn(&Disk, &str)) -> usize {
    for at in 1.. {
        let copy = disk.copy();
        let Some(said) = killed_at(work, at, &copy) else { return at - 1 };
        let point = said.lines().find_map(|line| line.split_once("DIES ")).expect("it dies where it is told to").1;
        // What was not synced may be gone as well
        let cut = copy.copy();
        quorate_storage::testing::lose_unsynced(&cut.dir).unwrap();
        check(&copy, point);
        check(&cut, point);
    }
    0
}

#[test]
fn a_rotation_of_the_data_key_that_is_killed_at_any_point_loses_nothing_and_is_finished_later() {
    let disk = filled(4_000);
    let points = killed_at_each_point("rotate", &disk, |disk, point| {
        let (open, keys) = quorate_storage::open_with_keys(&disk.dir, options()).unwrap();
        assert_filled(&open, 4_000);
        assert!(!keys.settle().unwrap(), "{point}");
        while keys.reseal_step().unwrap() {}
        let status = keys.status();
        assert_eq!(status.older, Vec::<u32>::new(), "{point}");
        drop((open, keys));
        assert_eq!(named(disk), [status.data_key], "{point}");
        assert_filled(&disk.open().unwrap(), 4_000);
    });
    println!("a rotation of the data key was killed at {points} points");
    assert!(points >= 12, "{points}");
}

#[test]
fn a_change_of_the_key_that_is_killed_at_any_point_leaves_a_store_that_one_of_the_two_opens() {
    let disk = filled(10);
    let mut opened = [0, 0];
    let counts = std::cell::RefCell::new(&mut opened);
    let points = killed_at_each_point("change", &disk, |disk, point| {
        let by = |key: Key| quorate_storage::open_with_keys(&disk.dir, Options::new(Arc::new(GivenKey(key))));
        let mut fitting = 0;
        for (which, key) in [key().0, second_key()].into_iter().enumerate() {
            let copy = disk.copy();
            let open = quorate_storage::open_with_keys(&copy.dir, Options::new(Arc::new(GivenKey(key.clone()))));
            let Ok((open, keys)) = open else { continue };
            fitting += 1;
            counts.borrow_mut()[which] += 1;
            // Whoever has a key that opens it stays with that one
            keys.settle().unwrap();
            assert_eq!(keys.status().slots.iter().map(|slot| slot.id).collect::<Vec<_>>(), [key.id()], "{point}");
            assert_filled(&open, 10);
        }
        assert!(fitting > 0, "{point}");
        assert!(by(Key::from_bytes(&[5; 32])).is_err());
    });
    println!(
        "a change of the key was killed at {points} points; the old one opened {}, the new one {}",
        opened[0], opened[1]
    );
    assert_eq!(points, 10);
    assert!(opened[0] > 5 && opened[1] > 5, "{opened:?}");
}

#[test]
fn a_store_whose_making_is_killed_at_any_point_is_made_to_the_end() {
    let disk = Disk::new();
    fs::create_dir_all(&disk.dir).unwrap();
    let points = killed_at_each_point_of_making(&disk);
    assert_eq!(points, 5);
}

fn killed_at_each_point_of_making(disk: &Disk) -> usize {
    for at in 1.. {
        let copy = disk.copy();
        if killed_at("make", at, &copy).is_none() {
            return at - 1;
        }
        assert!(!quorate_storage::exists(&copy.dir));
        assert_eq!(copy.open().unwrap().boot, quorate_core::ports::Boot::default());
    }
    0
}
