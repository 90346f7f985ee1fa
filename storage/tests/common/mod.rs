//! What the tests of the disk share: a directory to harm, and records to find again.
#![allow(dead_code, reason = "every test file uses some of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry, LogStart};
use quorate_core::ports::{LogBatch, LogReset, OpenStore, StateRead, StoreError, StoreResult, Visit, WriteSet};
use quorate_storage::{GivenKey, Key, Options};
use tempfile::TempDir;

/// The key of every store in these tests.
pub(crate) fn key() -> GivenKey {
    GivenKey(Key::from_bytes(&[42; 32]))
}

pub(crate) fn options() -> Options {
    Options::new(Arc::new(key()))
}

/// A store's directory inside a temporary one.
pub(crate) struct Disk {
    _temp: TempDir,
    pub(crate) dir: PathBuf,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("store");
        Self { _temp: temp, dir }
    }

    pub(crate) fn open(&self) -> StoreResult<OpenStore> {
        quorate_storage::open(&self.dir, options())
    }

    /// The refusal of a damaged store.
    pub(crate) fn refusal(&self) -> StoreError {
        match self.open() {
            Ok(open) => panic!("a damaged store opened: {:?}", open.boot),
            Err(error) => error,
        }
    }

    /// A copy of the whole directory, to be harmed on its own.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        copy_dir(&self.dir, &copy.dir);
        copy
    }

    /// Files of the database with this ending, in the order of their numbers.
    pub(crate) fn files(&self, ending: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.dir.join("db"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().ends_with(ending))
            .collect();
        found.sort();
        found
    }

    /// The one journal file that holds records.
    pub(crate) fn wal(&self) -> PathBuf {
        let mut full: Vec<PathBuf> =
            self.files(".log").into_iter().filter(|path| fs::metadata(path).unwrap().len() > 0).collect();
        assert_eq!(full.len(), 1, "{full:?}");
        full.pop().unwrap()
    }

    /// Every file with its bytes.
    pub(crate) fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        walk(&self.dir, &mut all);
        all.sort();
        all
    }
}

fn walk(dir: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, all) } else { all.push((path.clone(), fs::read(&path).unwrap())) }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

pub(crate) fn entry(index: u64) -> LogEntry {
    LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from(format!("payload of entry {index}")),
        context: Bytes::new(),
    }
}

pub(crate) fn entries(from: u64, to: u64) -> Vec<LogEntry> {
    (from..=to).map(entry).collect()
}

pub(crate) fn hard(commit: u64) -> HardState {
    HardState { term: Term(1), vote: RaftId(1), commit: LogIndex(commit) }
}

/// Entries `from..=to`, all committed.
pub(crate) fn batch(from: u64, to: u64) -> LogBatch {
    LogBatch { entries: entries(from, to), hard_state: Some(hard(to)), cut: None }
}

pub(crate) fn reset(index: u64) -> LogReset {
    LogReset { start: LogStart { index: LogIndex(index), term: Term(1) }, hard_state: hard(index) }
}

pub(crate) fn set(pairs: &[(&str, &str)]) -> WriteSet {
    let mut writes = WriteSet::default();
    for (key, value) in pairs {
        writes.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    }
    writes
}

pub(crate) fn state(of: &dyn StateRead) -> StoreResult<Vec<(String, String)>> {
    let mut found = Vec::new();
    of.scan(b"", b"", &mut |key, value| {
        found.push((String::from_utf8_lossy(key).into_owned(), String::from_utf8_lossy(value).into_owned()));
        Visit::More
    })?;
    Ok(found)
}

/// A founded store whose log holds entries 2..=last, each written and synced on its own, and state that was synced.
pub(crate) fn filled(last: u64) -> Disk {
    let disk = Disk::new();
    let mut open = disk.open().unwrap();
    open.state.found(set(&[("a", "value of a"), ("b", "value of b")]), reset(1)).unwrap();
    for index in 2..=last {
        open.log.write(&[batch(index, index)], true).unwrap();
    }
    disk
}

pub(crate) fn assert_filled(open: &OpenStore, last: u64) {
    assert_eq!(open.boot.last, LogIndex(last));
    assert_eq!(open.log_reader.entries(LogIndex(2), LogIndex(last + 1), u64::MAX).unwrap(), entries(2, last));
    assert_eq!(open.state.get(b"a").unwrap().as_deref(), Some(&b"value of a"[..]));
    assert_eq!(open.state.get(b"b").unwrap().as_deref(), Some(&b"value of b"[..]));
}

pub(crate) fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

pub(crate) fn cut(file: &Path, keep: u64) {
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(keep).unwrap();
}

pub(crate) fn append(file: &Path, more: &[u8]) {
    let mut bytes = fs::read(file).unwrap();
    bytes.extend_from_slice(more);
    fs::write(file, bytes).unwrap();
}

pub(crate) fn assert_corrupt(error: &StoreError, words: &[&str]) {
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
}
