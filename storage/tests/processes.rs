//! Two processes on one directory, and processes that die in the middle of things.
//!
//! The second process is this very test binary, told by the environment what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]
#![allow(clippy::print_stdout, reason = "the second process answers over its standard output")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use common::{Disk, assert_filled, batch, entries, filled, reset, set, state};
use quorate_core::id::{LogIndex, Term};
use quorate_core::log::LogStart;
use quorate_core::ports::{OpenStore, StoreError};

const WORK: &str = "QUORATE_STORAGE_TEST_WORK";
const DIR: &str = "QUORATE_STORAGE_TEST_DIR";

fn second_process(work: &str, disk: &Disk) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_the_second_process_does", "--nocapture", "--test-threads=1"])
        .env(WORK, work)
        .env(DIR, &disk.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn said(child: Child) -> String {
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

/// No test of its own: with nothing to do it does nothing.
#[test]
fn what_the_second_process_does() {
    let (Ok(work), Ok(dir)) = (std::env::var(WORK), std::env::var(DIR)) else { return };
    let dir = PathBuf::from(dir);
    match work.split_once(':').unwrap_or((&work, "")) {
        ("open", _) => match quorate_storage::open(&dir, common::options()) {
            Ok(_) => println!("OPENED"),
            Err(error) => println!("REFUSED {error}"),
        },
        ("hold", _) => {
            let _open = quorate_storage::open(&dir, common::options()).unwrap();
            println!("HOLDING");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            loop {
                std::thread::park();
            }
        }
        ("die", point) => {
            let point = point.to_owned();
            let mut options = common::options();
            options.probe = Some(Arc::new(move |reached| {
                if reached == point {
                    std::process::abort();
                }
            }));
            install(&mut quorate_storage::open(&dir, options).unwrap(), &NEW);
        }
        ("write", from) => {
            let mut open = quorate_storage::open(&dir, common::options()).unwrap();
            let mut index: u64 = from.parse().unwrap();
            loop {
                open.state.commit(set(&[("applied", &index.to_string())])).unwrap();
                open.log.write(&[batch(index, index)], true).unwrap();
                println!("SYNCED {index}");
                std::io::stdout().flush().unwrap();
                index += 1;
            }
        }
        ("churn", from) => {
            // Small write-ahead logs: tables are written and merged all the time, beside the cuts of the log.
            let mut options = common::options();
            options.wal_bytes_max = 64 * 1024;
            let mut open = quorate_storage::open(&dir, options).unwrap();
            let mut index: u64 = from.parse().unwrap();
            let big = "v".repeat(4_000);
            loop {
                let mut writes = set(&[("applied", &index.to_string()), (&format!("key {}", index % 50), &big)]);
                writes.delete(Bytes::from(format!("key {}", (index + 25) % 50)));
                open.state.commit(writes).unwrap();
                let mut batch = batch(index, index);
                if index.is_multiple_of(5) && index > KEPT {
                    batch.cut = Some(LogStart { index: LogIndex(index - KEPT), term: Term(1) });
                }
                open.log.write(&[batch], true).unwrap();
                println!("SYNCED {index}");
                std::io::stdout().flush().unwrap();
                index += 1;
            }
        }
        ("snapshot", _) => {
            let mut open = quorate_storage::open(&dir, common::options()).unwrap();
            let before = peak_kib();
            let mut staged = open.staging.begin().unwrap();
            let value = Bytes::from(vec![7_u8; VALUE_BYTES]);
            for chunk in 0..RECORDS / 250 {
                let records: Vec<_> =
                    (0..250).map(|n| (Bytes::from(format!("key {:08}", chunk * 250 + n)), value.clone())).collect();
                staged.write(&records).unwrap();
            }
            let staged = staged.finish().unwrap();
            open.state.install(staged, reset(100)).unwrap();
            println!("GREW {}", peak_kib() - before);
        }
        (other, _) => panic!("{other}"),
    }
}

/// Entries that the churning writer leaves in its log.
const KEPT: u64 = 20;
const RECORDS: usize = 50_000;
const VALUE_BYTES: usize = 8 * 1024;

/// The most memory this process ever had resident.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const NEW: [(&str, &str); 3] = [("b", "new"), ("c", "new"), ("d", "new")];

fn install(open: &mut OpenStore, new: &[(&'static str, &'static str)]) {
    let mut staged = open.staging.begin().unwrap();
    for (key, value) in new {
        staged.write(&[(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))]).unwrap();
    }
    let staged = staged.finish().unwrap();
    open.state.install(staged, reset(50)).unwrap();
}

#[test]
fn a_second_opening_in_this_process_is_refused() {
    let disk = filled(3);
    let open = disk.open().unwrap();
    let error = disk.refusal();
    assert_eq!(error, StoreError::Locked { holder: Some(std::process::id()) });
    // a view alone keeps the store open: it reads from it
    let view = open.state.reader().view();
    drop(open);
    assert!(matches!(disk.refusal(), StoreError::Locked { .. }));
    drop(view);
    assert_filled(&disk.open().unwrap(), 3);
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_store() {
    let disk = filled(3);
    let open = disk.open().unwrap();
    let answer = said(second_process("open", &disk));
    assert!(
        answer.contains(&format!("REFUSED the store is in use by another process (pid {})", std::process::id())),
        "{answer}"
    );
    drop(open);
    let answer = said(second_process("open", &disk));
    assert!(answer.contains("OPENED"), "{answer}");
    assert_filled(&disk.open().unwrap(), 3);
}

#[test]
fn the_lock_of_a_killed_process_is_free() {
    let disk = filled(3);
    let mut child = second_process("hold", &disk);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("HOLDING")));
    assert_eq!(disk.refusal(), StoreError::Locked { holder: Some(child.id()) });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_filled(&disk.open().unwrap(), 3);
}

#[test]
fn dying_at_any_point_of_an_installation_leaves_the_old_or_the_new() {
    let points = [
        ("staging: after a write", false),
        ("staging: finished", false),
        ("install: before the switch", false),
        ("install: after the switch", true),
        ("install: after the clearing", true),
    ];
    for (point, new) in points {
        let disk = filled(9);
        let status = second_process(&format!("die:{point}"), &disk).wait_with_output().unwrap().status;
        assert!(status.code().is_none(), "`{point}` was never reached: {status}");
        for again in 0..2 {
            let mut open = disk.open().unwrap();
            assert_eq!(open.boot.repaired, None, "{point}");
            if new {
                let found: Vec<_> = state(&*open.state).unwrap();
                assert_eq!(found, NEW.map(|(key, value)| (key.to_owned(), value.to_owned())), "{point}");
                assert_eq!((open.boot.start, open.boot.last), (reset(50).start, LogIndex(50)), "{point}");
                assert_eq!(open.boot.hard_state, reset(50).hard_state, "{point}");
            } else {
                assert_filled(&open, 9);
                assert_eq!(state(&*open.state).unwrap().len(), 2, "{point}");
            }
            // and whatever it was, the next installation is whole
            if again == 1 {
                install(&mut open, &[("e", "later")]);
                assert_eq!(state(&*open.state).unwrap(), vec![("e".to_owned(), "later".to_owned())], "{point}");
            }
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_it_said_was_synced() {
    let disk = filled(2);
    let mut next = 3;
    for round in 1..=8 {
        let mut child = second_process(&format!("write:{next}"), &disk);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let synced = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split_once("SYNCED ").map(|(_, index)| index.parse::<u64>().unwrap()))
            .nth(round * 3)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let open = disk.open().unwrap();
        assert!(open.boot.last.0 >= synced, "round {round}: {} after {synced} was synced", open.boot.last);
        let last = open.boot.last.0;
        assert_eq!(open.log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX).unwrap(), entries(2, last));
        // one journal: the state is never behind a log entry that was written after it
        let applied = open.state.get(b"applied").unwrap().unwrap();
        let applied: u64 = std::str::from_utf8(&applied).unwrap().parse().unwrap();
        assert!(applied == last || applied == last + 1, "applied {applied}, last {last}");
        next = last + 1;
    }
}

#[test]
fn a_writer_killed_while_it_cuts_and_compacts_loses_nothing_that_it_keeps() {
    // Given a process that writes, cuts its log and has its tables merged without a pause.
    let disk = filled(2);
    let (mut next, mut cuts) = (3, 0);
    for round in 1..=8_usize {
        let mut child = second_process(&format!("churn:{next}"), &disk);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let synced = lines
            .map_while(Result::ok)
            .filter_map(|line| line.split_once("SYNCED ").map(|(_, index)| index.parse::<u64>().unwrap()))
            .nth(round * 37)
            .unwrap();
        // When it is killed wherever it happens to be.
        child.kill().unwrap();
        child.wait().unwrap();
        // Then the log is whole from where it was last cut, and the state goes with it.
        let open = disk.open().unwrap();
        let (start, last) = (open.boot.start.index.0, open.boot.last.0);
        assert!(last >= synced, "round {round}: {last} after {synced} was synced");
        assert!(synced < KEPT + 5 || start + KEPT + 5 > synced, "round {round}: cut to {start} only");
        assert!(start + KEPT <= last || start == 1, "round {round}: {start} was cut, {last} is the last");
        cuts += usize::from(start > 1);
        assert_eq!(
            open.log_reader.entries(LogIndex(start + 1), LogIndex(last + 1), u64::MAX).unwrap(),
            entries(start + 1, last)
        );
        let applied = open.state.get(b"applied").unwrap().unwrap();
        let applied: u64 = std::str::from_utf8(&applied).unwrap().parse().unwrap();
        assert!(applied == last || applied == last + 1, "applied {applied}, last {last}");
        let kept = state(&*open.state).unwrap().iter().filter(|(key, _)| key.starts_with("key ")).count();
        assert!(kept <= 50 && kept + 1 >= usize::try_from(applied).unwrap().min(25), "round {round}: {kept} keys");
        next = last + 1;
    }
    assert!(cuts > 4, "the log was cut in {cuts} rounds of 8 only");
}

#[test]
fn a_large_snapshot_is_received_and_installed_in_bounded_memory() {
    let disk = filled(9);
    let answer = said(second_process("snapshot", &disk));
    let grew: u64 = answer.split("GREW ").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let received = (RECORDS * VALUE_BYTES / 1024) as u64;
    println!("received {received} KiB, resident memory grew by {grew} KiB");
    assert!(grew < received / 2, "memory grew by {grew} KiB for a snapshot of {received} KiB");
    let open = disk.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last), (reset(100).start, LogIndex(100)));
    let mut count = 0;
    open.state
        .scan(b"", b"", &mut |_, value| {
            assert_eq!(value.len(), VALUE_BYTES);
            count += 1;
            quorate_core::ports::Visit::More
        })
        .unwrap();
    assert_eq!(count, RECORDS);
}
