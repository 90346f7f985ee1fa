//! Writers that remember on their own disk what was acknowledged to them.
//!
//! Owns the list of acknowledgements: one synced line each, written after the answer and before the next request.
//! Never lists a write that was not acknowledged. Called by the chapters of load and reading.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate::{Client, Identity, Outcome};
use tokio::task::JoinHandle;

use crate::processes::Told;

/// Everything that writers write begins with this.
pub(crate) const PREFIX: &str = "load/";

/// The lists are called so, each with the number of its writer.
const LIST: &str = "acknowledged-by-writer-";

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) revision: u64,
}

impl Acknowledged {
    fn line(&self) -> String {
        format!("{}\t{}\t{}\n", self.key, self.value, self.revision)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (key, value, revision) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { key: key.to_owned(), value: value.to_owned(), revision: revision.parse().ok()? })
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// When each acknowledgement came, over all writers.
    times: Mutex<Vec<Instant>>,
    refused: AtomicU64,
    unknown: AtomicU64,
}

/// How the writers write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) writers: usize,
    /// After each acknowledgement.
    pub(crate) pause: Duration,
}

/// Running writers.
#[derive(Debug)]
pub(crate) struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Told<()>>>,
    lists: Vec<PathBuf>,
}

/// What the writers say at the end.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) lists: Vec<PathBuf>,
    /// Answered with "not done".
    pub(crate) refused: u64,
    /// Without an answer in time: they may be there or not, and are on no list.
    pub(crate) unknown: u64,
    times: Vec<Instant>,
}

impl Writers {
    /// Starts writers, each with a client of its own over QUIC. No two rounds write the same keys; all go on with the same
    /// lists.
    pub(crate) async fn start(
        Round { number: round, writers: count, pause }: Round,
        managers: &[String],
        identity: &Path,
        lists: &Path,
    ) -> Told<Self> {
        let shared = Arc::new(Shared::default());
        let mut writers = Self { shared, tasks: Vec::new(), lists: Vec::new() };
        for number in 1..=count {
            let identity = Identity::load(identity).map_err(|error| error.to_string())?;
            let client = Client::connect(managers.to_vec(), identity)
                .await
                .map_err(|error| format!("writer {number} cannot connect: {error}"))?;
            let path = lists.join(format!("{LIST}{number}"));
            let list = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
            writers.lists.push(path);
            writers.tasks.push(tokio::spawn(write(
                format!("{PREFIX}round-{round}/writer-{number}"),
                pause,
                client,
                list,
                Arc::clone(&writers.shared),
            )));
        }
        Ok(writers)
    }

    /// How many were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.times.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Lets them finish their last request and stop.
    pub(crate) async fn stop(self) -> Told<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.map_err(|error| format!("a writer failed: {error}"))??;
        }
        let times = std::mem::take(&mut *self.shared.times.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Report {
            lists: self.lists,
            refused: self.shared.refused.load(Ordering::Relaxed),
            unknown: self.shared.unknown.load(Ordering::Relaxed),
            times,
        })
    }

    /// The longest time without any acknowledgement that ended after `since`; none when there was none after it yet.
    pub(crate) fn stopped_for(&self, since: Instant) -> Option<Duration> {
        let times = self.shared.times.lock().unwrap_or_else(PoisonError::into_inner);
        longest_gap(&times, since)
    }
}

impl Report {
    /// How many were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.times.len()
    }

    /// Acknowledgements per second, over all writers.
    pub(crate) fn rate(&self) -> f64 {
        match (self.times.iter().min(), self.times.iter().max()) {
            (Some(first), Some(last)) if last > first => {
                let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
                f64::from(count) / last.duration_since(*first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

async fn write(below: String, pause: Duration, client: Client, mut list: File, shared: Arc<Shared>) -> Told<()> {
    let kv = client.kv();
    let mut sequence: u64 = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        sequence += 1;
        let key = format!("{below}/{sequence:07}");
        let value = format!("write {sequence}");
        match kv.put(key.clone(), value.clone()).await {
            Ok(done) => {
                let acknowledged = Acknowledged { key, value, revision: done.revision };
                let kept = list.write_all(acknowledged.line().as_bytes()).and_then(|()| list.sync_data());
                kept.map_err(|error| format!("{below} cannot keep its list: {error}"))?;
                shared.times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            Err(error) => {
                let counter = match error.outcome() {
                    Outcome::Unknown => &shared.unknown,
                    Outcome::NotDone => &shared.refused,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    Ok(())
}

fn longest_gap(times: &[Instant], since: Instant) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times
        .windows(2)
        .filter_map(|pair| match pair {
            [before, after] if *after > since => Some(after.duration_since(*before)),
            _ => None,
        })
        .max()
}

/// Reads all lists from disk, as a writer that was restarted would.
pub(crate) fn read_lists(lists: &Path) -> Told<Vec<Acknowledged>> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", lists.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(lists).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIST)) {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for line in text.lines() {
            let entry = Acknowledged::parse(line);
            all.push(entry.ok_or_else(|| format!("{} has a line that is no acknowledgement: {line}", path.display()))?);
        }
    }
    Ok(all)
}

/// Puts a write on the list that was never sent, to see that the reading finds it missing.
pub(crate) fn forge(lists: &[PathBuf]) -> Told<Acknowledged> {
    let forged = Acknowledged { key: format!("{PREFIX}never-sent"), value: "this was never sent".into(), revision: 1 };
    let path = lists.first().ok_or("there is no list")?;
    let added =
        OpenOptions::new().append(true).open(path).and_then(|mut list| list.write_all(forged.line().as_bytes()));
    added.map_err(|error| format!("cannot add to {}: {error}", path.display()))?;
    Ok(forged)
}
