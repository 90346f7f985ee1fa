//! Writers that never stop, and the list of what was acknowledged to them.
//!
//! Owns the requests and the list. A write that was not acknowledged may be there or not; one that was must be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::Client;
use tokio::task::JoinHandle;

use crate::support::BUDGET;

/// Between two writes of one writer: the scenarios are about faults, not about throughput.
const PACE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Ledger {
    /// Key, to the revision that was answered.
    acknowledged: Mutex<BTreeMap<String, u64>>,
    count: AtomicUsize,
    stop: AtomicBool,
}

pub struct Load {
    ledger: Arc<Ledger>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// One writer for each client; all their keys begin with `prefix`.
    pub fn start(prefix: &str, clients: Vec<Client>) -> Self {
        let ledger = Arc::new(Ledger::default());
        let writers = clients.into_iter().enumerate().map(|(writer, client)| {
            let (ledger, prefix) = (Arc::clone(&ledger), prefix.to_owned());
            tokio::spawn(async move {
                for number in 0.. {
                    if ledger.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("{prefix}{writer}/{number}");
                    if let Ok(done) = client.kv().put(key.clone(), prefix.clone()).await {
                        ledger.acknowledged.lock().unwrap().insert(key, done.revision);
                        ledger.count.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(PACE).await;
                }
            })
        });
        Self { writers: writers.collect(), ledger }
    }

    pub fn acknowledged(&self) -> usize {
        self.ledger.count.load(Ordering::Relaxed)
    }

    /// Ends the writers; the list is theirs.
    pub async fn stop(self) -> BTreeMap<String, u64> {
        self.ledger.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        std::mem::take(&mut self.ledger.acknowledged.lock().unwrap())
    }
}

/// Everything on the list is there, written once, at the revision that was acknowledged.
pub async fn all_there(client: &Client, prefix: &str, acknowledged: &BTreeMap<String, u64>) {
    let found = client.with_deadline(BUDGET).kv().prefix(prefix.to_owned()).all().await.unwrap();
    let found: BTreeMap<_, _> = found.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for (key, revision) in acknowledged {
        let entry = found.get(key.as_bytes()).unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        assert_eq!((entry.create_revision, entry.version), (*revision, 1), "{key}");
    }
}
