//! The ports in the hands of their owners, each on a thread of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{Disk, batch, entries, reset, set, state};
use quorate_core::id::LogIndex;
use quorate_core::ports::StoreError;

#[test]
fn writer_applier_readers_and_receiver_work_side_by_side() {
    let disk = Disk::new();
    let mut open = disk.open().unwrap();
    open.state.found(set(&[("x", "0"), ("y", "0")]), reset(1)).unwrap();
    let (done, synced) = (AtomicBool::new(false), AtomicU64::new(1));
    let reader = open.state.reader();
    std::thread::scope(|threads| {
        let (mut log, mut applier) = (open.log, open.state);
        let (log_reader, staging, meta) = (&open.log_reader, &open.staging, &open.meta);
        let (done, synced, reader) = (&done, &synced, &reader);
        let writer = threads.spawn(move || {
            for index in 2..=300 {
                log.write(&[batch(index, index)], index % 2 == 0).unwrap();
                synced.store(index, Ordering::Release);
            }
        });
        let applying = threads.spawn(move || {
            for n in 1..=2_000 {
                let n = n.to_string();
                applier.commit(set(&[("x", &n), ("y", &n)])).unwrap();
            }
        });
        threads.spawn(move || {
            while !done.load(Ordering::Acquire) {
                // both keys are written in one batch: no view may ever see them differ
                let seen = state(&*reader.view()).unwrap();
                assert_eq!(seen[0].1, seen[1].1);
            }
        });
        threads.spawn(move || {
            while !done.load(Ordering::Acquire) {
                let last = synced.load(Ordering::Acquire);
                match log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX) {
                    Ok(found) => assert_eq!(found, entries(2, last)),
                    Err(error) => assert_eq!(error, StoreError::NotFound { index: LogIndex(2) }),
                }
            }
        });
        threads.spawn(move || {
            for round in 0..5_u64 {
                let mut staged = staging.begin().unwrap();
                for n in 0..20 {
                    let record = (bytes::Bytes::from(format!("{n:04}")), bytes::Bytes::from_static(b"staged"));
                    staged.write(&[record]).unwrap();
                }
                if round % 2 == 0 {
                    staging.discard(staged.finish().unwrap()).unwrap();
                }
                meta.put(&[("round", bytes::Bytes::from(round.to_string()))]).unwrap();
            }
        });
        writer.join().unwrap();
        applying.join().unwrap();
        done.store(true, Ordering::Release);
    });
    drop((open.log_reader, open.staging, open.meta, reader));
    let open = disk.open().unwrap();
    assert_eq!(open.boot.repaired, None);
    assert_eq!(open.boot.last, LogIndex(300));
    assert_eq!(state(&*open.state).unwrap(), [("x", "2000"), ("y", "2000")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(open.meta.get("round").unwrap().as_deref(), Some(&b"4"[..]));
}
