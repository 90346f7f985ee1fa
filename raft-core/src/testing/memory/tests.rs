//! The memory store passes the suite, and its faults are what they say.

use super::*;
use crate::id::Term;
use crate::log::HardState;
use crate::testing::conformance::StoreUnderTest;

impl StoreUnderTest for MemoryStore {
    fn open(&mut self) -> StoreResult<OpenStore> {
        Self::open(self)
    }

    fn lose_unsynced(&mut self) -> bool {
        self.crash(0);
        true
    }
}

mod suite {
    use crate::testing::MemoryStore;

    store_conformance!(MemoryStore::new());
}

fn put(key: &str, value: &str) -> WriteSet {
    let mut writes = WriteSet::default();
    writes.put(key.to_owned().into_bytes(), value.to_owned().into_bytes());
    writes
}

fn entry(index: u64) -> LogBatch {
    let entry = LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: crate::log::EntryKind::Normal,
        data: Bytes::from_static(b"x"),
        context: Bytes::new(),
    };
    LogBatch { entries: vec![entry], hard_state: Some(HardState { term: Term(1), ..HardState::default() }), cut: None }
}

#[test]
fn a_crash_keeps_exactly_the_prefix_that_was_asked_for() {
    for keep in 0..=4 {
        let disk = MemoryStore::new();
        let mut open = disk.open().unwrap();
        open.log.write(&[entry(1)], true).unwrap();
        open.state.commit(put("a", "1")).unwrap();
        open.log.write(&[entry(2)], false).unwrap();
        open.state.commit(put("b", "1")).unwrap();
        assert_eq!((disk.unsynced(), disk.syncs()), (3, 1));
        disk.crash(keep);
        let open = disk.open().unwrap();
        assert_eq!(open.state.get(b"a").unwrap().is_some(), keep >= 1);
        assert_eq!(open.boot.last, LogIndex(if keep >= 2 { 2 } else { 1 }));
        assert_eq!(open.state.get(b"b").unwrap().is_some(), keep >= 3);
        assert_eq!(disk.unsynced(), 0, "what survived a crash is on the disk");
    }
}

#[test]
fn handles_of_before_a_crash_can_write_and_read_nothing() {
    let disk = MemoryStore::new();
    let mut dead = disk.open().unwrap();
    let staged = dead.staging.begin().unwrap();
    let view = dead.state.reader().view();
    disk.crash(0);
    let open = disk.open().unwrap();
    let poisoned = |result: StoreResult<()>| assert!(matches!(result, Err(StoreError::Poisoned(_))), "{result:?}");
    poisoned(dead.log.write(&[entry(1)], true));
    poisoned(dead.state.commit(put("a", "1")));
    poisoned(dead.meta.put(&[("fact", Bytes::new())]));
    poisoned(staged.finish().map(drop));
    poisoned(dead.staging.begin().map(drop));
    poisoned(dead.state.reader().view().get(b"a").map(drop));
    poisoned(view.get(b"a").map(drop));
    assert_eq!(open.state.get(b"a").unwrap(), None);
    assert_eq!(disk.unsynced(), 0);
}

#[test]
fn a_failed_write_changes_nothing_and_is_final_until_the_next_opening() {
    for (fault, full) in [(Fault::Io, false), (Fault::Full, true)] {
        let disk = MemoryStore::new();
        let mut open = disk.open().unwrap();
        disk.fail_next_write(fault);
        let error = open.log.write(&[entry(1)], true).unwrap_err();
        assert_eq!(matches!(error, StoreError::Full { .. }), full, "{error}");
        assert!(matches!(open.state.commit(put("a", "1")), Err(StoreError::Poisoned(_))));
        assert!(matches!(open.meta.put(&[("fact", Bytes::new())]), Err(StoreError::Poisoned(_))));
        let mut open = disk.open().unwrap();
        assert_eq!(open.boot.last, LogIndex(0));
        open.log.write(&[entry(1)], true).unwrap();
    }
}

#[test]
fn what_a_failed_sync_should_have_kept_may_be_lost() {
    let disk = MemoryStore::new();
    let mut open = disk.open().unwrap();
    disk.fail_next_sync(Fault::Io);
    assert!(matches!(open.log.write(&[entry(1)], true), Err(StoreError::Io { .. })));
    assert!(matches!(open.log.write(&[], true), Err(StoreError::Poisoned(_))));
    assert_eq!(disk.unsynced(), 1);
    disk.crash(0);
    assert_eq!(disk.open().unwrap().boot.last, LogIndex(0));
}

#[test]
fn a_damaged_value_is_an_error_and_never_an_absence() {
    let disk = MemoryStore::new();
    let mut open = disk.open().unwrap();
    open.state.commit(put("a", "1")).unwrap();
    assert!(disk.corrupt_state(b"a") && !disk.corrupt_state(b"none"));
    let view = open.state.reader().view();
    assert!(matches!(open.state.get(b"a"), Err(StoreError::Corrupt { .. })));
    assert!(matches!(view.scan(b"", b"", &mut |_, _| Visit::More), Err(StoreError::Corrupt { .. })));
    open.state.commit(put("a", "2")).unwrap();
    assert_eq!(open.state.get(b"a").unwrap().as_deref(), Some(&b"2"[..]));
}

#[test]
fn a_silent_flip_shows_only_in_the_value() {
    let disk = MemoryStore::new();
    let mut open = disk.open().unwrap();
    open.state.commit(put("a", "1")).unwrap();
    assert!(disk.flip_state(b"a"));
    assert_eq!(open.state.get(b"a").unwrap().as_deref(), Some(&b"0"[..]));
}

#[test]
fn a_damaged_log_record_keeps_the_store_from_opening() {
    let disk = MemoryStore::new();
    let mut open = disk.open().unwrap();
    open.log.write(&[entry(1), entry(2)], true).unwrap();
    assert!(disk.corrupt_log(LogIndex(2)) && !disk.corrupt_log(LogIndex(3)));
    let read = open.log_reader.entries(LogIndex(1), LogIndex(3), u64::MAX);
    assert!(matches!(read, Err(StoreError::Corrupt { .. })));
    let error = disk.open().map(drop).unwrap_err();
    assert!(error.to_string().contains("log entry 2"), "{error}");
}
