//! Who leads and who has which seat, as the managers themselves say, all the time.
//!
//! Owns the clients that ask and what they were told. A leader counts by its own word only. Never hurts anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate::Client;
use quorate::status::ClusterStatus;
use serde::Serialize;
use tokio::task::JoinSet;

use super::timeline::Clock;

/// Between two looks at one manager.
const LOOK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1);

/// What one manager said, when it was not what it had said before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Sample {
    pub(super) at_ns: u64,
    pub(super) node: usize,
    pub(super) generation: u64,
    pub(super) term: u64,
    pub(super) leader: Option<String>,
    /// By its own word.
    pub(super) leads: bool,
    pub(super) health: String,
    /// The seat of each manager, by name.
    pub(super) seats: BTreeMap<String, String>,
}

impl Sample {
    fn is_like(&self, other: &Self) -> bool {
        Self { at_ns: 0, ..self.clone() } == Self { at_ns: 0, ..other.clone() }
    }
}

/// Sent and installed.
type Snapshots = (u64, u64);

#[derive(Debug, Default)]
struct Seen {
    samples: Vec<Sample>,
    newest: BTreeMap<usize, Sample>,
    leaders: BTreeMap<(u64, u64), String>,
    violations: Vec<String>,
    /// Sent and installed by each manager: in lives before, and in this one.
    snapshots: BTreeMap<String, [Snapshots; 2]>,
    answered: u64,
}

/// The observer of a run.
#[derive(Debug)]
pub(super) struct Observer {
    clock: Clock,
    seen: Arc<Mutex<Seen>>,
    tasks: JoinSet<()>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    fn take(&mut self, at_ns: u64, node: usize, status: &ClusterStatus) {
        self.answered += 1;
        let leads = status.leader.as_ref() == Some(&status.answered_by);
        if let (true, Some(leader)) = (leads, &status.leader) {
            let first = self.leaders.entry((status.generation, status.term)).or_insert_with(|| leader.clone());
            if first != leader {
                let why = format!(
                    "{first} and {leader} both led in term {} of generation {}",
                    status.term, status.generation
                );
                self.violations.push(why);
            }
        }
        if status.voters.is_multiple_of(2) && status.voters > 0 {
            self.violations.push(format!("{} said that there are {} voters", status.answered_by, status.voters));
        }
        // (Of itself only: what it says of others may be of a life before.)
        for manager in status.managers.iter().filter(|manager| manager.name == status.answered_by) {
            // Counters die with each process: what lives before this one came to is kept.
            let [before, last] = self.snapshots.entry(manager.name.clone()).or_default();
            let now = (manager.snapshots.sent, manager.snapshots.installed);
            if now.0 < last.0 || now.1 < last.1 {
                *before = (before.0 + last.0, before.1 + last.1);
            }
            *last = now;
        }
        let sample = Sample {
            at_ns,
            node,
            generation: status.generation,
            term: status.term,
            leader: status.leader.clone(),
            leads,
            health: status.health.word().to_owned(),
            seats: status.managers.iter().map(|manager| (manager.name.clone(), manager.seat.clone())).collect(),
        };
        if self.newest.get(&node).is_none_or(|newest| !newest.is_like(&sample)) {
            self.newest.insert(node, sample.clone());
            self.samples.push(sample);
        }
    }
}

impl Observer {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, seen: Arc::default(), tasks: JoinSet::new() }
    }

    /// Looks at this manager from now on.
    pub(super) fn follow(&mut self, node: usize, client: Client) {
        let (clock, seen, client) = (self.clock, Arc::clone(&self.seen), client.with_deadline(PATIENCE));
        self.tasks.spawn(async move {
            loop {
                if let Ok(status) = client.status().await {
                    lock(&seen).take(clock.now(), node, &status);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    pub(super) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(super) fn samples(&self) -> Vec<Sample> {
        lock(&self.seen).samples.clone()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        lock(&self.seen).violations.clone()
    }

    /// Leaderships seen: one for each term of a generation.
    pub(super) fn leaderships(&self) -> Vec<((u64, u64), String)> {
        lock(&self.seen).leaders.iter().map(|(term, name)| (*term, name.clone())).collect()
    }

    /// Answers that were looked at.
    pub(super) fn answered(&self) -> u64 {
        lock(&self.seen).answered
    }

    /// Snapshots sent and installed, as far as that was seen.
    pub(super) fn snapshots(&self) -> (u64, u64) {
        let seen = lock(&self.seen);
        seen.snapshots
            .values()
            .fold((0, 0), |sum, [before, last]| (sum.0 + before.0 + last.0, sum.1 + before.1 + last.1))
    }
}
