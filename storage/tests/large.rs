//! Large records lie in files of their own: they come back whole, damage to them is refused, and what does not count any more
//! gives its space back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Disk, assert_corrupt, cut, flip, hard, reset, set};
use quorate_core::id::{LogIndex, Term};
use quorate_core::log::{EntryKind, LogEntry, LogStart};
use quorate_core::ports::{LogBatch, OpenStore, StoreError};

const BYTES: usize = 60_000;

fn large(index: u64) -> LogEntry {
    LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![u8::try_from(index % 251).unwrap(); BYTES]),
        context: Bytes::new(),
    }
}

fn write(open: &mut OpenStore, from: u64, to: u64, cut: Option<LogStart>) {
    let batch = LogBatch { entries: (from..=to).map(large).collect(), hard_state: Some(hard(to)), cut };
    open.log.write(&[batch], true).unwrap();
}

/// Entries 2..=21, out of memory: opening a store writes what its journal holds to its files.
fn filled() -> Disk {
    let disk = Disk::new();
    let mut open = disk.open().unwrap();
    open.state.found(set(&[("a", "1")]), reset(1)).unwrap();
    write(&mut open, 2, 21, None);
    drop(open);
    drop(disk.open().unwrap());
    disk
}

fn bytes_in(disk: &Disk, ending: &str) -> u64 {
    // One that is removed just now takes nothing.
    disk.files(ending).iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).sum()
}

/// Compactions do their work beside whoever has the store open: until the files take no more than `most` bytes.
fn shrinks_to(disk: &Disk, most: u64) {
    let begun = Instant::now();
    while bytes_in(disk, ".blob") > most {
        let left = bytes_in(disk, ".blob");
        assert!(begun.elapsed() < Duration::from_secs(60), "{left} bytes are left, and {most} are due");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn large_entries_come_back_whole_and_no_table_holds_them() {
    let disk = filled();
    let open = disk.open().unwrap();
    assert_eq!(open.boot.last, LogIndex(21));
    let found = open.log_reader.entries(LogIndex(2), LogIndex(22), u64::MAX).unwrap();
    assert_eq!(found, (2..=21).map(large).collect::<Vec<_>>());
    drop(open);
    assert!(bytes_in(&disk, ".blob") >= 20 * BYTES as u64, "{}", bytes_in(&disk, ".blob"));
    assert!(bytes_in(&disk, ".sst") < BYTES as u64, "{}", bytes_in(&disk, ".sst"));
}

#[test]
fn a_missing_or_shortened_file_of_large_entries_is_refused() {
    let whole = filled();
    let count = whole.files(".blob").len();
    assert!(count > 0);
    for which in 0..count {
        let disk = whole.copy();
        let file = disk.files(".blob")[which].clone();
        cut(&file, fs::metadata(&file).unwrap().len() / 2);
        assert_corrupt(&disk.refusal(), &[]);
        fs::remove_file(&file).unwrap();
        assert_corrupt(&disk.refusal(), &[file.file_name().unwrap().to_str().unwrap()]);
    }
}

#[test]
fn no_flipped_byte_among_large_entries_ever_gives_a_wrong_answer() {
    let whole = filled();
    let file = whole.files(".blob")[0].clone();
    let length = fs::metadata(&file).unwrap().len();
    let mut refused = 0;
    for at in (0..usize::try_from(length).unwrap()).step_by(19_997) {
        let disk = whole.copy();
        flip(&disk.files(".blob")[0], at);
        match disk.open() {
            // What is at the very edges of the file nobody needs.
            Ok(open) => {
                let found = open.log_reader.entries(LogIndex(2), LogIndex(22), u64::MAX).unwrap();
                assert_eq!(found, (2..=21).map(large).collect::<Vec<_>>(), "byte {at}");
            }
            Err(error) => {
                assert_corrupt(&error, &[]);
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_log_that_is_cut_gives_the_space_of_its_large_entries_back() {
    let disk = filled();
    let mut last = 21;
    for _ in 0..12 {
        // Given a log of which only the last entry is kept each time
        let mut open = disk.open().unwrap();
        let start = LogStart { index: LogIndex(last), term: Term(1) };
        write(&mut open, last + 1, last + 20, Some(start));
        last += 20;
    }
    // Then of 12 times 20 large entries not all stay on the disk.
    let open = disk.open().unwrap();
    let found = open.log_reader.entries(LogIndex(last - 19), LogIndex(last + 1), u64::MAX).unwrap();
    assert_eq!(found, (last - 19..=last).map(large).collect::<Vec<_>>());
    shrinks_to(&disk, 7 * 20 * BYTES as u64);
}

/// Keys 0 to 19 have a value of `bytes` bytes that says in which round it was written.
fn put(open: &mut OpenStore, round: usize, bytes: usize) {
    for n in 0..20 {
        open.state.commit(set(&[(&format!("key {n}"), &format!("{round:>bytes$}"))])).unwrap();
    }
}

#[test]
fn a_large_state_value_comes_back_and_its_missing_file_is_an_error_where_it_is_read_and_final() {
    let disk = filled();
    let before = disk.files(".blob");
    let mut open = disk.open().unwrap();
    put(&mut open, 1, BYTES);
    open.log.write(&[], true).unwrap();
    drop(open);
    let open = disk.open().unwrap();
    assert_eq!(open.state.get(b"key 7").unwrap().unwrap(), format!("{:>BYTES$}", 1));
    drop(open);
    for file in disk.files(".blob").into_iter().filter(|file| !before.contains(file)) {
        fs::remove_file(file).unwrap();
    }
    let mut open = disk.open().unwrap();
    assert_eq!(open.state.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_corrupt(&open.state.get(b"key 7").unwrap_err(), &[".blob"]);
    assert!(matches!(open.state.get(b"a"), Err(StoreError::Poisoned(_))));
    assert!(matches!(open.state.commit(set(&[("a", "2")])), Err(StoreError::Poisoned(_))));
}

#[test]
fn large_values_that_were_written_over_give_their_space_back_though_one_beside_them_stays() {
    let disk = filled();
    let log = bytes_in(&disk, ".blob");
    let (rounds, round) = (24, 21 * BYTES as u64);
    for number in 1..=rounds {
        let mut open = disk.open().unwrap();
        put(&mut open, number, BYTES);
        open.state.commit(set(&[(&format!("stays {number}"), &format!("{number:>BYTES$}"))])).unwrap();
        open.log.write(&[], true).unwrap();
    }
    let open = disk.open().unwrap();
    assert_eq!(open.state.get(b"key 19").unwrap().unwrap(), format!("{rounds:>BYTES$}"));
    for number in 1..=rounds {
        let key = format!("stays {number}");
        assert_eq!(open.state.get(key.as_bytes()).unwrap().unwrap(), format!("{number:>BYTES$}"));
    }
    // Of 24 times 21 large values 44 count, and there is one among them in the file of each round.
    shrinks_to(&disk, log + 16 * round);
}
