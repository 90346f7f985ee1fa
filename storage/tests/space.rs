//! A full disk, on a small file system of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests may fail loudly")]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{hard, reset, set};
use quorate_core::id::{LogIndex, Term};
use quorate_core::log::{EntryKind, LogEntry};
use quorate_core::ports::{LogBatch, StoreError};
use quorate_storage::testing::SmallDisk;

fn large(index: u64) -> LogEntry {
    LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![u8::try_from(index % 251).unwrap(); 60_000]),
        context: Bytes::new(),
    }
}

fn fill(dir: &Path) -> (u64, StoreError) {
    let mut open = quorate_storage::open(dir, common::options()).unwrap();
    open.state.found(set(&[("a", "1")]), reset(1)).unwrap();
    let mut synced = 1;
    let error = loop {
        let index = synced + 1;
        let batch = LogBatch { entries: vec![large(index)], hard_state: Some(hard(index)), cut: None };
        match open.log.write(&[batch], true) {
            Ok(()) => synced = index,
            Err(error) => break error,
        }
        assert!(index < 2_000, "the disk never fills");
    };
    // given the failure, when anything else is asked, then nothing is done
    let poisoned =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Poisoned(_))), "{result:?}");
    poisoned(open.log.write(&[], true));
    poisoned(open.state.commit(set(&[("b", "1")])));
    poisoned(open.meta.put(&[("fact", Bytes::new())]));
    poisoned(open.state.get(b"a").map(drop));
    (synced, error)
}

#[test]
fn a_full_disk_is_a_typed_failure_and_every_synced_record_is_there_when_space_is_back() {
    for size in ["3m", "8m", "9500k"] {
        let temp = tempfile::tempdir().unwrap();
        let Some(small) = SmallDisk::mount(temp.path().join("small"), size).unwrap() else { return };
        let dir = small.path().join("store");
        let (synced, error) = fill(&dir);
        assert!(matches!(error, StoreError::Full { .. }), "{size}: {error}");
        assert!(synced > 10, "{size}: {synced}");
        // RocksDB gives back a few MiB that it had set aside for its manifest
        assert!(quorate_storage::free_space(&dir).unwrap() < 5 * 1024 * 1024);
        small.resize("64m").unwrap();
        for _ in 0..2 {
            let mut open = quorate_storage::open(&dir, common::options()).unwrap();
            // the last write failed: it may be there or not, nobody was told
            let last = open.boot.last.0;
            assert!(last == synced || last == synced + 1, "{size}: {last} after {synced}");
            let found = open.log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX).unwrap();
            assert_eq!(found, (2..=last).map(large).collect::<Vec<_>>());
            assert_eq!(open.state.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
            open.log.write(&[], true).unwrap();
        }
    }
}
