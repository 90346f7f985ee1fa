//! Writers, counters and readers that never stop.
//!
//! Owns the requests. Every one has a deadline, and one that overstays it is a violation of its own. Never decides
//! what must hold at the end: the ledger and the verdict do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::{Client, Entry};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fleet::{Fleet, MANAGERS};
use crate::ledger::Ledger;
use crate::{Outcome, broken, number};

pub const COUNTER: &str = "counter";
/// Common beginning of all unique keys.
pub const KEYS: &str = "k/";
/// Between two requests of one task: the run is about faults, not about throughput.
const PACE: Duration = Duration::from_millis(15);
/// What a request may take beyond its deadline before it counts as hung.
const HUNG: Duration = Duration::from_secs(10);
/// Short deadlines give up in the middle of an election: what they were told must be true all the same.
const DEADLINES: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(10), Duration::from_secs(2), Duration::from_millis(600)];

/// Large values written before anything happens, so that a snapshot takes long enough to be cut off in the middle.
const BULK: u64 = 64;

/// What is written under a unique key: every now and then a large one.
pub fn value_of(key: &str) -> String {
    let times = if key.contains("bulk") {
        20_000
    } else if key.ends_with("00") {
        800
    } else {
        4
    };
    key.repeat(times)
}

/// The counter's value.
pub fn value_in(entry: &Entry) -> Outcome<u64> {
    std::str::from_utf8(&entry.value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("the counter holds something that nobody wrote: {:?}", entry.value))
}

pub struct Load {
    tasks: JoinSet<Outcome>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub async fn start(fleet: &Fleet, ledger: &Arc<Ledger>) -> Outcome<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let bulk = fleet.client(&[0, 1, 2]).await?;
        for number in 0..BULK {
            let key = format!("{KEYS}bulk/{number:07}");
            let begun = Instant::now();
            bulk.kv().put(key.clone(), value_of(&key)).await.map_err(|error| format!("no bulk: {error}"))?;
            ledger.acknowledged(key, begun).await;
        }
        let clients = number("QUORATE_KILLS_WRITERS", 4);
        for writer in 0..clients * 3 {
            let turn = usize::try_from(writer).unwrap() % MANAGERS;
            let client = fleet.client(&[turn, (turn + 1) % MANAGERS, (turn + 2) % MANAGERS]).await?;
            let deadline = DEADLINES[usize::try_from(writer).unwrap() % DEADLINES.len()];
            let client = client.with_deadline(deadline);
            tasks.spawn(write(client, deadline, writer, Arc::clone(ledger), stopped.clone()));
        }
        for turn in 0..MANAGERS {
            let client = fleet.client(&[turn, (turn + 1) % MANAGERS, (turn + 2) % MANAGERS]).await?;
            tasks.spawn(count(client, Arc::clone(ledger), stopped.clone()));
        }
        for index in (0..MANAGERS).cycle().take(MANAGERS * 2) {
            let client = fleet.client(&[index]).await?;
            let name = fleet.members[index].name.clone();
            tasks.spawn(read(client, name, Arc::clone(ledger), stopped.clone()));
        }
        Ok(Self { tasks, stop })
    }

    /// Lets every task finish what it is at.
    pub async fn stop(mut self) -> Outcome {
        let _ = self.stop.send(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| format!("a writer or reader failed: {error}"))??;
        }
        Ok(())
    }
}

async fn in_time<T>(
    what: &str,
    deadline: Duration,
    ledger: &Ledger,
    request: impl IntoFuture<Output = quorate::Result<T>>,
) -> Outcome<quorate::Result<T>> {
    let begun = Instant::now();
    match tokio::time::timeout(deadline + HUNG, request).await {
        Ok(answer) => {
            ledger.answered_late(begun.elapsed().saturating_sub(deadline));
            Ok(answer)
        }
        Err(_) => {
            let why = format!("{what} with a deadline of {deadline:?} hung for {HUNG:?} beyond it");
            ledger.violation(why.clone());
            Err(why)
        }
    }
}

async fn write(
    client: Client,
    deadline: Duration,
    writer: u64,
    ledger: Arc<Ledger>,
    stop: watch::Receiver<bool>,
) -> Outcome {
    let kv = client.kv();
    let mut sequence = 0_u64;
    while !*stop.borrow() {
        sequence += 1;
        let key = format!("{KEYS}{writer:02}/{sequence:07}");
        let begun = Instant::now();
        let put = kv.put(key.clone(), value_of(&key)).into_future();
        match in_time("a put", deadline, &ledger, put).await? {
            Ok(_) => ledger.acknowledged(key, begun).await,
            Err(error) => ledger.failed(key, &error),
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

/// Reads the counter and sets it one higher, if it is still what was read.
async fn count(client: Client, ledger: Arc<Ledger>, stop: watch::Receiver<bool>) -> Outcome {
    let deadline = Duration::from_secs(5);
    let client = client.with_deadline(deadline);
    let kv = client.kv();
    while !*stop.borrow() {
        if let Ok(found) = in_time("a get", deadline, &ledger, kv.get(COUNTER)).await? {
            let (old, revision) = match &found {
                Some(entry) => (value_in(entry)?, entry.mod_revision),
                None => (0, 0),
            };
            let set = kv.compare_and_set(COUNTER, revision, (old + 1).to_string()).into_future();
            match in_time("a compare-and-set", deadline, &ledger, set).await? {
                Ok(done) if done.succeeded => ledger.counted(old + 1).await,
                Ok(_) => {}
                Err(error) if error.outcome() == quorate::Outcome::Unknown => ledger.count_unknown(),
                Err(_) => {}
            }
        }
        tokio::time::sleep(PACE * 2).await;
    }
    Ok(())
}

/// Linearizable reads at one manager, never below what was known when the read began.
async fn read(client: Client, name: String, ledger: Arc<Ledger>, stop: watch::Receiver<bool>) -> Outcome {
    let deadline = Duration::from_secs(3);
    let client = client.with_deadline(deadline);
    let kv = client.kv();
    let stale = broken("reads");
    while !*stop.borrow() {
        let (floor, key) = ledger.floor();
        let counter = async {
            if stale {
                Ok(kv.prefix(COUNTER).serializable().await?.entries.into_iter().next())
            } else {
                kv.get(COUNTER).await
            }
        };
        match in_time("a linearizable get", deadline, &ledger, counter).await? {
            Ok(found) => {
                let value = found.as_ref().map_or(Ok(0), value_in)?;
                if value < floor {
                    ledger.violation(format!(
                        "stale read at {name}: the counter was {value}, and {floor} was known before the read began"
                    ));
                }
                ledger.read(value);
            }
            Err(_) => ledger.read_failed(),
        }
        if let Some(key) = key {
            match in_time("a linearizable get", deadline, &ledger, kv.get(key.clone())).await? {
                Ok(Some(_)) => {}
                Ok(None) => ledger.violation(format!(
                    "stale read at {name}: {key} was not there, and was acknowledged before the read began"
                )),
                Err(_) => ledger.read_failed(),
            }
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}
