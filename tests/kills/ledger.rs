//! The list of what was acknowledged, in memory and as synced lines, and what the run saw go wrong.
//!
//! Owns the truth that the cluster is held against: nothing gets on it before its acknowledgement has come, and the
//! writer goes on only when its line is on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::Outcome;

/// What became of a write of a unique key.
#[derive(Clone, PartialEq, Eq)]
pub enum Fate {
    Acknowledged,
    Unknown,
    /// The client said that it was not done, and will not be.
    NotDone(String),
}

#[derive(Default)]
struct Seen {
    writes: BTreeMap<String, Fate>,
    /// When each acknowledgement came.
    times: Vec<Instant>,
    newest_begun: Option<Instant>,
    newest_key: Option<String>,
    /// Counter values whose increment was acknowledged, and how often.
    counted: BTreeMap<u64, u64>,
    count_unknown: u64,
    reads: u64,
    reads_failed: u64,
    longest_overstay: std::time::Duration,
    violations: Vec<String>,
}

pub struct Ledger {
    seen: Mutex<Seen>,
    /// The newest counter value that anybody has been told, by an acknowledgement or by a read.
    floor: AtomicU64,
    lines: mpsc::UnboundedSender<(String, oneshot::Sender<()>)>,
    path: PathBuf,
}

/// One thread writes all lines: as many as wait share a sync.
fn keep(mut file: File, mut lines: mpsc::UnboundedReceiver<(String, oneshot::Sender<()>)>) {
    let mut waiting = Vec::new();
    while let Some(first) = lines.blocking_recv() {
        let mut batch = String::new();
        let mut next = Some(first);
        while let Some((line, written)) = next {
            batch.push_str(&line);
            batch.push('\n');
            waiting.push(written);
            next = lines.try_recv().ok();
        }
        file.write_all(batch.as_bytes()).expect("the list can be written");
        file.sync_data().expect("the list can be synced");
        for written in waiting.drain(..) {
            let _ = written.send(());
        }
    }
}

impl Ledger {
    pub fn create(path: &Path) -> Outcome<Self> {
        let file = File::create(path).map_err(|error| format!("the list cannot be made: {error}"))?;
        let (lines, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || keep(file, receiver));
        Ok(Self { seen: Mutex::default(), floor: AtomicU64::new(0), lines, path: path.to_owned() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn line(&self, line: String) {
        let (written, wait) = oneshot::channel();
        if self.lines.send((line, written)).is_err() || wait.await.is_err() {
            self.violation("the list of acknowledgements cannot be written any more".to_owned());
        }
    }

    pub async fn acknowledged(&self, key: String, begun: Instant) {
        {
            let mut seen = self.seen();
            seen.times.push(Instant::now());
            seen.newest_begun = seen.newest_begun.max(Some(begun));
        }
        self.line(format!("w {key}")).await;
        let mut seen = self.seen();
        seen.newest_key = Some(key.clone());
        seen.writes.insert(key, Fate::Acknowledged);
    }

    pub fn failed(&self, key: String, error: &quorate::Error) {
        let fate = match error.outcome() {
            quorate::Outcome::Unknown => Fate::Unknown,
            quorate::Outcome::NotDone => Fate::NotDone(error.to_string()),
        };
        self.seen().writes.insert(key, fate);
    }

    pub async fn counted(&self, value: u64) {
        self.floor.fetch_max(value, Ordering::SeqCst);
        self.line(format!("c {value}")).await;
        *self.seen().counted.entry(value).or_default() += 1;
    }

    pub fn count_unknown(&self) {
        self.seen().count_unknown += 1;
    }

    /// What a linearizable read that begins now must not go below: a counter value, and a key.
    pub fn floor(&self) -> (u64, Option<String>) {
        let key = self.seen().newest_key.clone();
        (self.floor.load(Ordering::SeqCst), key)
    }

    pub fn read(&self, value: u64) {
        self.floor.fetch_max(value, Ordering::SeqCst);
        self.seen().reads += 1;
    }

    pub fn read_failed(&self) {
        self.seen().reads_failed += 1;
    }

    /// How far beyond its deadline a request was answered.
    pub fn answered_late(&self, by: std::time::Duration) {
        let mut seen = self.seen();
        seen.longest_overstay = seen.longest_overstay.max(by);
    }

    pub fn violation(&self, what: String) {
        println!("! {what}");
        self.seen().violations.push(what);
    }

    pub fn clean(&self) -> Outcome {
        let seen = self.seen();
        match seen.violations.first() {
            None => Ok(()),
            Some(first) => Err(format!("{first} ({} violations in all)", seen.violations.len())),
        }
    }

    /// Whether a write that was begun after this was acknowledged.
    pub fn acknowledged_since(&self, then: Instant) -> bool {
        self.seen().newest_begun.is_some_and(|begun| begun > then)
    }

    pub fn acknowledged_count(&self) -> usize {
        self.seen().times.len()
    }

    /// The longest time without an acknowledgement from `then` until now.
    pub fn longest_gap_since(&self, then: Instant) -> std::time::Duration {
        let seen = self.seen();
        let after = seen.times.partition_point(|time| *time < then);
        let mut longest = std::time::Duration::ZERO;
        let mut last = then;
        for time in seen.times.iter().skip(after) {
            longest = longest.max(time.saturating_duration_since(last));
            last = *time;
        }
        longest
    }

    pub fn writes(&self) -> BTreeMap<String, Fate> {
        self.seen().writes.clone()
    }

    /// Counter values acknowledged, and attempts whose outcome is unknown.
    pub fn counts(&self) -> (BTreeMap<u64, u64>, u64) {
        let seen = self.seen();
        (seen.counted.clone(), seen.count_unknown)
    }

    /// The synced lines, as somebody would find them after a crash of the test itself.
    pub fn on_disk(&self) -> Outcome<Vec<String>> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| format!("the list cannot be read: {error}"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub fn print(&self) {
        let seen = self.seen();
        let of = |wanted: fn(&Fate) -> bool| seen.writes.values().filter(|fate| wanted(fate)).count();
        println!(
            "writes: {} acknowledged, {} unknown, {} refused; counter: {} acknowledged, {} unknown; linearizable reads: {} answered, {} refused or late; longest answer beyond a deadline: {} ms",
            of(|fate| matches!(fate, Fate::Acknowledged)),
            of(|fate| matches!(fate, Fate::Unknown)),
            of(|fate| matches!(fate, Fate::NotDone(_))),
            seen.counted.len(),
            seen.count_unknown,
            seen.reads,
            seen.reads_failed,
            seen.longest_overstay.as_millis(),
        );
    }
}
