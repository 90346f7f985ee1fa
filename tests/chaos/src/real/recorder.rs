//! The history of a run, as it comes.
//!
//! Owns the file of operations, one a line, and what the run must know of it at once: how much was acknowledged, and when.
//! Never judges.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::history::{self, Operation, Outcome};

use super::timeline::Clock;
use super::{Done, Trouble};

/// Operations that may wait to be written.
const WAITING: usize = 8_192;

#[derive(Debug, Default)]
struct Seen {
    acknowledged: u64,
    asked: u64,
    unknown: u64,
    /// When the newest acknowledged write was asked for.
    newest_begun: u64,
    /// When the newest acknowledgement came, and the longest time without one since a moment.
    newest: u64,
    gap: u64,
    /// The newest acknowledged unique key.
    newest_key: Option<String>,
    /// Counter values whose increment was acknowledged, and how often.
    counted: BTreeMap<u64, u64>,
    count_unknown: u64,
    /// The newest counter value that anybody was told.
    floor: u64,
    violations: Vec<String>,
}

/// Where operations are recorded.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    pub(super) clock: Clock,
    seen: Arc<Mutex<Seen>>,
    lines: mpsc::Sender<Line>,
    path: PathBuf,
}

/// What the writer of the file gets.
#[derive(Debug)]
enum Line {
    Of(Box<Operation>),
    Sync(oneshot::Sender<()>),
}

/// Ends when nobody records any more, or when the file cannot be written: whoever records is told then.
fn keep(path: &Path, mut lines: mpsc::Receiver<Line>) -> std::io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    while let Some(line) = lines.blocking_recv() {
        match line {
            Line::Of(operation) => history::write(&mut file, &operation)?,
            Line::Sync(done) => {
                file.flush()?;
                let _nobody_waits = done.send(());
            }
        }
    }
    file.flush()
}

impl Recorder {
    pub(super) fn create(path: &Path, clock: Clock) -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        let into = path.to_owned();
        std::thread::spawn(move || {
            // (Its end is noticed by whoever records next: nobody takes the line.)
            let _ended = keep(&into, waiting);
        });
        Self { clock, seen: Arc::default(), lines, path: path.to_owned() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation, as it ended.
    pub(super) async fn record(&self, operation: Operation) {
        {
            let mut seen = self.seen();
            seen.asked += 1;
            seen.unknown += u64::from(operation.outcome == Outcome::Unknown);
            if operation.outcome == Outcome::Ok {
                seen.acknowledged += 1;
                if operation.wrote() {
                    seen.newest_begun = seen.newest_begun.max(operation.call_ns);
                    let now = operation.return_ns.unwrap_or(operation.call_ns);
                    seen.gap = seen.gap.max(now.saturating_sub(seen.newest));
                    seen.newest = seen.newest.max(now);
                }
            }
        }
        if self.lines.send(Line::Of(Box::new(operation))).await.is_err() {
            self.violation("the history cannot be written any more");
        }
    }

    pub(super) fn key_is_there(&self, key: String) {
        self.seen().newest_key = Some(key);
    }

    pub(super) fn newest_key(&self) -> Option<String> {
        self.seen().newest_key.clone()
    }

    pub(super) fn counted(&self, value: u64) {
        let mut seen = self.seen();
        seen.floor = seen.floor.max(value);
        *seen.counted.entry(value).or_default() += 1;
    }

    pub(super) fn count_unknown(&self) {
        self.seen().count_unknown += 1;
    }

    /// What a linearizable read of the counter that begins now must not go below.
    pub(super) fn floor(&self) -> u64 {
        self.seen().floor
    }

    pub(super) fn told(&self, value: u64) {
        let mut seen = self.seen();
        seen.floor = seen.floor.max(value);
    }

    /// Counter values acknowledged, and attempts whose outcome is unknown.
    pub(super) fn counts(&self) -> (BTreeMap<u64, u64>, u64) {
        let seen = self.seen();
        (seen.counted.clone(), seen.count_unknown)
    }

    /// Something that must not be was seen.
    pub(super) fn violation(&self, why: impl Into<String>) {
        let mut seen = self.seen();
        if seen.violations.len() < 100 {
            seen.violations.push(why.into());
        }
    }

    /// Nothing of the kind was seen so far.
    pub(super) fn clean(&self) -> Done {
        match self.seen().violations.first() {
            None => Ok(()),
            Some(first) => Err(Trouble::Violation(first.clone())),
        }
    }

    /// Operations answered as done.
    pub(super) fn acknowledged(&self) -> u64 {
        self.seen().acknowledged
    }

    /// Operations of which nobody knows whether they were done.
    pub(super) fn unknown(&self) -> u64 {
        self.seen().unknown
    }

    pub(super) fn asked(&self) -> u64 {
        self.seen().asked
    }

    /// Whether a write that began after this moment was acknowledged.
    pub(super) fn acknowledged_since(&self, then: u64) -> bool {
        self.seen().newest_begun > then
    }

    /// From now on the longest time without an acknowledged write is counted anew.
    pub(super) fn begin_gap(&self) {
        let now = self.clock.now();
        let mut seen = self.seen();
        (seen.newest, seen.gap) = (seen.newest.max(now), 0);
    }

    /// The longest time without an acknowledged write since then, nanoseconds.
    pub(super) fn gap(&self) -> u64 {
        let now = self.clock.now();
        let seen = self.seen();
        seen.gap.max(now.saturating_sub(seen.newest))
    }

    /// Waits until everything that was recorded so far is in the file.
    pub(super) async fn sync(&self) -> Done {
        let (done, wait) = oneshot::channel();
        if self.lines.send(Line::Sync(done)).await.is_err() {
            return Err(Trouble::Harness("the history is not written any more".to_owned()));
        }
        wait.await.map_err(|_gone| Trouble::Harness("the history could not be written".to_owned()))
    }

    /// The history as it is in the file.
    pub(super) async fn so_far(&self) -> Done<Vec<Operation>> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || -> Done<Vec<Operation>> {
            let file = std::fs::File::open(&path)?;
            history::read(std::io::BufReader::new(file)).map_err(|why| Trouble::Harness(why.to_string()))
        });
        read.await.map_err(|why| Trouble::Harness(why.to_string()))?
    }
}
