//! Torn tails are repaired and told; every other damage to the directory is refused, and never read as an absence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]

mod common;

use std::fs;

use common::{Disk, append, assert_corrupt, assert_filled, batch, cut, entries, filled, flip, reset, set, state};
use quorate_core::command::COMMAND_VERSION;
use quorate_core::id::LogIndex;
use quorate_core::ports::StoreError;

#[test]
fn any_flipped_byte_of_a_synced_journal_is_refused_and_nothing_is_changed() {
    let disk = filled(6);
    let wal = disk.wal();
    let before = disk.contents();
    let length = fs::read(&wal).unwrap().len();
    for at in 0..length {
        flip(&wal, at);
        assert_corrupt(&disk.refusal(), &["write-ahead log", ".log"]);
        flip(&wal, at);
    }
    // the pid in the lock is the same process's: not even that changed
    assert_eq!(disk.contents(), before);
    let open = disk.open().unwrap();
    assert_eq!(open.boot.repaired, None);
    assert_filled(&open, 6);
}

#[test]
fn any_cut_of_a_synced_journal_is_refused_and_nothing_is_changed() {
    let disk = filled(6);
    let wal = disk.wal();
    let whole = fs::read(&wal).unwrap();
    let before = disk.contents();
    for keep in 0..whole.len() {
        cut(&wal, keep as u64);
        assert_corrupt(&disk.refusal(), &["write-ahead log"]);
        fs::write(&wal, &whole).unwrap();
    }
    assert_eq!(disk.contents(), before);
    assert_filled(&disk.open().unwrap(), 6);
}

#[test]
fn a_torn_unsynced_record_is_cut_off_and_told() {
    let disk = filled(4);
    let synced = fs::metadata(disk.wal()).unwrap().len();
    let mut open = disk.open().unwrap();
    assert_eq!(open.boot.repaired, None);
    open.log.write(&[batch(5, 5)], true).unwrap();
    let synced_now = fs::metadata(disk.wal()).unwrap().len();
    open.state.commit(set(&[("a", "never synced"), ("c", "never synced")])).unwrap();
    drop(open);
    assert!(synced > 0);
    let length = fs::metadata(disk.wal()).unwrap().len();
    for keep in (synced_now + 1..length).step_by(5) {
        let copy = disk.copy();
        cut(&copy.wal(), keep);
        let open = copy.open().unwrap();
        let told = open.boot.repaired.clone().unwrap();
        assert!(told.contains(&format!("torn after byte {synced_now}")), "{told}");
        assert_filled(&open, 5);
        assert_eq!(open.state.get(b"c").unwrap(), None);
        drop(open);
        let open = copy.open().unwrap();
        assert_eq!(open.boot.repaired, None, "a repair is told once");
        assert_filled(&open, 5);
    }
    // a flip in it cannot be told from a torn write
    let at = usize::try_from(length).unwrap() - 3;
    flip(&disk.wal(), at);
    let open = disk.open().unwrap();
    assert!(open.boot.repaired.is_some());
    assert_filled(&open, 5);
}

#[test]
fn garbage_and_zeros_behind_the_journal_are_cut_off_and_told() {
    let noise: Vec<u8> = (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for more in [&b"x"[..], b"some garbage that is longer than a header", &[0; 3], &[0; 70_000], &noise] {
        let disk = filled(4);
        append(&disk.wal(), more);
        let open = disk.open().unwrap();
        let told = open.boot.repaired.clone().unwrap();
        assert!(told.contains(&format!("last {} bytes", more.len())), "{told}");
        assert_filled(&open, 4);
    }
}

#[test]
fn a_lost_journal_file_is_noticed() {
    let disk = filled(4);
    fs::remove_file(disk.wal()).unwrap();
    assert_corrupt(&disk.refusal(), &["synced"]);
    assert_corrupt(&disk.refusal(), &["synced"]);
}

/// A store whose records are all in table files: opening it again moves them there.
fn in_tables() -> Disk {
    let disk = filled(40);
    drop(disk.open().unwrap());
    assert!(disk.files(".sst").len() >= 2);
    disk
}

/// The sealed record at `key` of `family`, as it lies on the disk.
fn sealed(disk: &Disk, family: &str, key: &[u8]) -> Vec<u8> {
    let copy = disk.copy();
    let db = raw(&copy);
    db.get_cf(db.cf_handle(family).unwrap(), key).unwrap().unwrap()
}

fn table_with(disk: &Disk, bytes: &[u8]) -> (std::path::PathBuf, usize) {
    disk.files(".sst")
        .into_iter()
        .find_map(|path| {
            let whole = fs::read(&path).unwrap();
            let at = whole.windows(bytes.len()).position(|window| window == bytes)?;
            Some((path, at))
        })
        .expect("a table with these bytes")
}

fn table_of(disk: &Disk, family: &str, key: &[u8]) -> (std::path::PathBuf, usize) {
    table_with(disk, &sealed(disk, family, key))
}

#[test]
fn a_flipped_byte_of_a_log_entry_in_a_table_is_refused() {
    let disk = in_tables();
    let (table, at) = table_of(&disk, "raft_log", &2_u64.to_be_bytes());
    flip(&table, at + 4);
    let name = table.file_name().unwrap().to_str().unwrap();
    assert_corrupt(&disk.refusal(), &[name]);
}

#[test]
fn no_flipped_byte_of_a_table_ever_gives_a_wrong_answer() {
    let disk = in_tables();
    let mut refused = 0;
    for (family, key) in [("raft_log", &2_u64.to_be_bytes()[..]), ("state_a", b"ka"), ("raft_meta", b"head")] {
        let (table, _) = table_of(&disk, family, key);
        let length = fs::read(&table).unwrap().len();
        for at in (0..length).step_by(37) {
            let copy = disk.copy();
            flip(&copy.dir.join("db").join(table.file_name().unwrap()), at);
            let answer = copy.open().and_then(|open| {
                let log = open.log_reader.entries(LogIndex(2), LogIndex(41), u64::MAX)?;
                Ok((open.boot.clone(), log, state(&*open.state)?))
            });
            match answer {
                Ok((boot, log, state)) => {
                    assert_eq!((boot.last, boot.hard_state), (LogIndex(40), common::hard(40)), "{family} {at}");
                    assert_eq!(log, entries(2, 40), "{family} {at}");
                    assert_eq!(state.len(), 2, "{family} {at}");
                }
                Err(error) => {
                    assert_corrupt(&error, &[]);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_flipped_state_value_is_an_error_where_it_is_read_and_final() {
    // enough of it that the value lies in another block than what an opening reads
    let disk = filled(40);
    let mut open = disk.open().unwrap();
    let big = "v".repeat(1_000);
    for n in 0..50 {
        open.state.commit(set(&[(&format!("key {n}"), &big)])).unwrap();
    }
    open.state.commit(set(&[("z", "value of z")])).unwrap();
    open.log.write(&[], true).unwrap();
    drop(open);
    drop(disk.open().unwrap());
    let (table, at) = table_of(&disk, "state_a", b"kz");
    flip(&table, at + 4);
    let mut open = disk.open().unwrap();
    assert_eq!(open.state.get(b"key 7").unwrap().unwrap().len(), 1_000);
    assert_corrupt(&open.state.get(b"z").unwrap_err(), &[]);
    assert!(matches!(open.state.get(b"b"), Err(StoreError::Poisoned(_))));
    assert!(matches!(open.log.write(&[batch(41, 41)], true), Err(StoreError::Poisoned(_))));
    assert!(matches!(open.meta.require(COMMAND_VERSION + 1), Err(StoreError::Poisoned(_))));
    assert!(matches!(open.staging.begin().map(drop), Err(StoreError::Poisoned(_))));
    assert!(matches!(open.state.reader().view().get(b"b"), Err(StoreError::Poisoned(_))));
    // But for what says so.
    open.meta.put(&[("damaged", "z".into())]).unwrap();
    drop(open);
    let open = disk.open().unwrap();
    assert_eq!(open.meta.get("damaged").unwrap(), Some("z".into()));
}

#[test]
fn missing_and_shortened_files_are_refused_by_name() {
    let whole = in_tables();
    let tables = whole.files(".sst").len();
    for which in 0..tables {
        for shorten in [false, true] {
            let disk = whole.copy();
            let table = disk.files(".sst")[which].clone();
            if shorten {
                cut(&table, fs::metadata(&table).unwrap().len() / 2);
            } else {
                fs::remove_file(&table).unwrap();
            }
            assert_corrupt(&disk.refusal(), &[table.file_name().unwrap().to_str().unwrap()]);
        }
    }
    for name in ["db/CURRENT", "durable"] {
        let disk = whole.copy();
        fs::remove_file(disk.dir.join(name)).unwrap();
        assert_corrupt(&disk.refusal(), &[name, "missing"]);
    }
    let disk = whole.copy();
    for manifest in fs::read_dir(disk.dir.join("db")).unwrap().map(|entry| entry.unwrap().path()) {
        if manifest.to_string_lossy().contains("MANIFEST-") {
            fs::remove_file(manifest).unwrap();
        }
    }
    assert_corrupt(&disk.refusal(), &["MANIFEST-"]);
    let disk = whole.copy();
    fs::remove_dir_all(disk.dir.join("db")).unwrap();
    assert_corrupt(&disk.refusal(), &["missing"]);
    assert!(!disk.dir.join("db").exists(), "no empty database in its place");
}

#[test]
fn a_store_without_its_format_is_not_taken_for_a_new_one() {
    let disk = filled(4);
    fs::remove_file(disk.dir.join("format")).unwrap();
    assert!(!quorate_storage::exists(&disk.dir));
    assert_corrupt(&disk.refusal(), &["format", "missing"]);
    assert_corrupt(&disk.refusal(), &["format", "missing"]);
}

#[test]
fn a_store_whose_making_was_stopped_is_made_to_the_end() {
    let disk = Disk::new();
    drop(disk.open().unwrap());
    for unmade in [&["format"][..], &["format", "durable"], &["format", "durable", "db"]] {
        for name in unmade {
            let path = disk.dir.join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        assert!(!quorate_storage::exists(&disk.dir));
        let open = disk.open().unwrap();
        assert_eq!(open.boot, quorate_core::ports::Boot::default());
        assert!(quorate_storage::exists(&disk.dir));
    }
}

#[test]
fn no_flipped_byte_and_no_cut_of_a_manifest_ever_gives_a_wrong_answer() {
    let whole = in_tables();
    let manifest = fs::read_to_string(whole.dir.join("db/CURRENT")).unwrap();
    let manifest = std::path::Path::new("db").join(manifest.trim());
    let length = fs::read(whole.dir.join(&manifest)).unwrap().len();
    let mut refused = 0;
    for at in (0..length).step_by(5) {
        for shorten in [false, true] {
            let disk = whole.copy();
            let path = disk.dir.join(&manifest);
            if shorten {
                cut(&path, at as u64)
            } else {
                flip(&path, at)
            }
            match disk.open() {
                Ok(open) => {
                    assert_filled(&open, 40);
                    assert_eq!(state(&*open.state).unwrap().len(), 2);
                }
                Err(error) => {
                    assert_corrupt(&error, &[]);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn what_was_received_and_not_installed_takes_no_room_after_a_restart() {
    let waiting = |disk: &Disk| {
        let db = raw(disk);
        db.iterator_cf(db.cf_handle("state_b").unwrap(), rocksdb::IteratorMode::Start).count()
    };
    let disk = filled(4);
    let open = disk.open().unwrap();
    let mut staged = open.staging.begin().unwrap();
    staged.write(&[(bytes::Bytes::from_static(b"x"), bytes::Bytes::from_static(b"y"))]).unwrap();
    staged.finish().unwrap();
    drop(open);
    assert_eq!(waiting(&disk), 1);
    drop(disk.open().unwrap());
    assert_eq!(waiting(&disk), 0);
    assert_filled(&disk.open().unwrap(), 4);
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_changed() {
    let disk = filled(4);
    fs::write(disk.dir.join("format"), "quorate store format 5\n").unwrap();
    let before = disk.contents();
    let expected = StoreError::FormatTooNew { found: 5, supported: 4 };
    assert_eq!(disk.refusal(), expected);
    assert_eq!(quorate_storage::open_read_only(&disk.dir, &common::key()).map(drop), Err(expected));
    assert_eq!(disk.contents(), before);
    for nonsense in ["nonsense", "quorate store format 4\n", "quorate store format 4\nneeds version x\n", ""] {
        fs::write(disk.dir.join("format"), nonsense).unwrap();
        assert_corrupt(&disk.refusal(), &["format"]);
    }
}

#[test]
fn a_store_that_needs_a_newer_version_is_refused_and_nothing_is_changed() {
    let disk = filled(4);
    // Given a store in use that is marked to need a version, and not a lower one after it
    let open = disk.open().unwrap();
    open.meta.require(COMMAND_VERSION + 1).unwrap();
    open.meta.require(COMMAND_VERSION).unwrap();
    drop(open);
    // Then a binary that does not know that version leaves it as it is,
    let before = disk.contents();
    let expected = StoreError::NeedsVersion { needed: COMMAND_VERSION + 1, supported: COMMAND_VERSION };
    assert_eq!(disk.refusal(), expected);
    assert_eq!(quorate_storage::open_read_only(&disk.dir, &common::key()).map(drop), Err(expected));
    assert_eq!(disk.contents(), before);
    // and one that does opens it.
    let mut newer = common::options();
    newer.version = COMMAND_VERSION + 1;
    assert_filled(&quorate_storage::open(&disk.dir, newer).unwrap(), 4);
}

/// The database without any of our checks.
fn raw(disk: &Disk) -> rocksdb::DB {
    let families = ["default", "raft_log", "raft_meta", "state_a", "state_b"];
    rocksdb::DB::open_cf(&rocksdb::Options::default(), disk.dir.join("db"), families).unwrap()
}

#[test]
fn records_that_were_swapped_are_refused() {
    let disk = filled(6);
    let db = raw(&disk);
    let state = db.cf_handle("state_a").unwrap();
    let (a, b) = (db.get_cf(state, b"ka").unwrap().unwrap(), db.get_cf(state, b"kb").unwrap().unwrap());
    db.put_cf(state, b"ka", b).unwrap();
    db.put_cf(state, b"kb", a).unwrap();
    drop(db);
    let open = disk.open().unwrap();
    assert_corrupt(&open.state.get(b"a").unwrap_err(), &["state key `a`"]);
    drop(open);

    let disk = filled(6);
    let db = raw(&disk);
    let log = db.cf_handle("raft_log").unwrap();
    let third = db.get_cf(log, 3_u64.to_be_bytes()).unwrap().unwrap();
    db.put_cf(log, 4_u64.to_be_bytes(), third).unwrap();
    drop(db);
    assert_corrupt(&disk.refusal(), &["log entry 4"]);
}

#[test]
fn a_log_that_contradicts_itself_is_refused() {
    for (missing, words) in [(3_u64, "log entry 3"), (6, "log entry 6")] {
        let disk = filled(6);
        let db = raw(&disk);
        db.delete_cf(db.cf_handle("raft_log").unwrap(), missing.to_be_bytes()).unwrap();
        drop(db);
        assert_corrupt(&disk.refusal(), &[words]);
    }
}

#[test]
fn looking_at_a_stopped_store_changes_nothing() {
    let disk = filled(4);
    let mut open = disk.open().unwrap();
    open.meta.put(&[("identity", bytes::Bytes::from_static(b"me"))]).unwrap();
    open.log.write(&[batch(5, 6)], true).unwrap();
    assert!(matches!(
        quorate_storage::open_read_only(&disk.dir, &common::key()).map(drop),
        Err(StoreError::Locked { holder: Some(_) })
    ));
    drop(open);
    append(&disk.wal(), b"a torn end");
    let before = disk.contents();
    for _ in 0..2 {
        let look = quorate_storage::open_read_only(&disk.dir, &common::key()).unwrap();
        assert!(look.boot.repaired.as_ref().unwrap().contains("not cut"));
        assert_eq!((look.boot.start.index, look.boot.last), (LogIndex(1), LogIndex(6)));
        assert_eq!(look.log.entries(LogIndex(2), LogIndex(7), u64::MAX).unwrap(), entries(2, 6));
        assert_eq!(state(&*look.state).unwrap().len(), 2);
        assert_eq!(look.fact("identity").unwrap().as_deref(), Some(&b"me"[..]));
        assert!(matches!(disk.refusal(), StoreError::Locked { .. }));
    }
    assert_eq!(disk.contents(), before);
    let absent = Disk::new();
    assert!(quorate_storage::open_read_only(&absent.dir, &common::key()).is_err());
    assert!(!absent.dir.exists());
}

#[test]
fn a_directory_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let disk = Disk::new();
    assert!(!quorate_storage::exists(&disk.dir));
    drop(disk.open().unwrap());
    assert!(quorate_storage::exists(&disk.dir));
    for dir in [disk.dir.clone(), disk.dir.join("db")] {
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert!(quorate_storage::free_space(&disk.dir).unwrap() > 0);
    assert!(disk.files("LOG").is_empty(), "RocksDB writes no log of its own");
}

#[test]
fn small_tables_and_many_journal_files_change_nothing_about_recovery() {
    let disk = Disk::new();
    let mut options = common::options();
    options.wal_bytes_max = 64 * 1024;
    let big = "v".repeat(1_000);
    let mut open = quorate_storage::open(&disk.dir, options.clone()).unwrap();
    open.state.found(set(&[("a", "value of a"), ("b", "value of b")]), reset(1)).unwrap();
    for index in 2..=400 {
        open.log.write(&[batch(index, index)], true).unwrap();
        open.state.commit(set(&[(&format!("key {}", index % 50), &big)])).unwrap();
        if index % 100 == 0 {
            drop(open);
            open = quorate_storage::open(&disk.dir, options.clone()).unwrap();
            assert_filled(&open, index);
            assert_eq!(open.boot.repaired, None);
        }
    }
}
