//! Rows about a leader that goes: killed, and stopped as asked.
//!
//! Owns the writers: one for each member, each of which begins at its own member and goes on to the next one when that does not
//! answer. Both sides are written to by the same loop. Called by `main`.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client as Etcd;
use quorate::{Client, Identity};
use tokio::task::JoinSet;

use crate::etcd::{self, Members};
use crate::figures::{Measured, quantile};
use crate::loads::seated;
use crate::machine::say;
use crate::managers::Managers;
use crate::{Options, Told, told};

/// An attempt at one member of etcd: as long as quorate's client gives a manager, one election timeout of `lan`.
const ATTEMPT: Duration = Duration::from_millis(440);
/// Longer than any election.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two rounds, so that everybody has settled.
const REST: Duration = Duration::from_secs(1);

/// A put that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    sent: Instant,
    answered: Instant,
}

/// What the writers have seen, shared with them.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: Mutex<Vec<Acknowledged>>,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn since(&self, instant: Instant) -> Vec<Acknowledged> {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|put| put.answered >= instant).copied().collect()
    }

    fn forget(&self) {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.failed.store(0, Ordering::Relaxed);
    }

    /// When the first put that was sent after `instant` was acknowledged.
    async fn next_after(&self, instant: Instant) -> Told<Duration> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let answered = self.since(instant).iter().filter(|put| put.sent >= instant).map(|put| put.answered).min();
            if let Some(answered) = answered {
                return Ok(answered - instant);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Err(format!("no write was acknowledged for {} s", PATIENCE.as_secs()))
    }

    /// The longest time between two acknowledgements since `instant`.
    fn gap(&self, instant: Instant) -> Duration {
        let mut answered: Vec<Instant> = self.since(instant).iter().map(|put| put.answered).collect();
        answered.sort();
        answered
            .windows(2)
            .map(|pair| if let [one, next] = pair { *next - *one } else { Duration::ZERO })
            .max()
            .unwrap_or_default()
    }
}

/// Writes one key after the other until it is told to stop.
async fn write<F: Future<Output = Told<()>>>(seen: Arc<Seen>, number: usize, mut put: impl FnMut(String) -> F) {
    let mut count = 0_u64;
    while !seen.stop.load(Ordering::Relaxed) {
        count += 1;
        let sent = Instant::now();
        match put(format!("failover/{number}/{}", count % 1_000)).await {
            Ok(()) => {
                let put = Acknowledged { sent, answered: Instant::now() };
                seen.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(put);
            }
            Err(why) => {
                if seen.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    say(&format!("  a put failed: {why}"));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

/// One side, as this needs it.
trait Side {
    const NAME: &'static str;
    async fn leader(&self) -> Told<String>;
    fn kill(&mut self, name: &str) -> Told<Instant>;
    fn stop(&mut self, name: &str) -> Told<Instant>;
    /// Starts it again and waits until nobody is missed.
    async fn back(&mut self, name: &str) -> Told<()>;
    /// A writer for each member.
    async fn writers(&self, seen: &Arc<Seen>) -> Told<JoinSet<()>>;
}

struct Quorate {
    managers: Managers,
    client: Client,
}

impl Side for Quorate {
    const NAME: &'static str = "quorate";

    async fn leader(&self) -> Told<String> {
        self.client.status().await.map_err(told)?.leader.ok_or_else(|| "no manager leads".into())
    }

    fn kill(&mut self, name: &str) -> Told<Instant> {
        self.managers.kill(name)
    }

    fn stop(&mut self, name: &str) -> Told<Instant> {
        self.managers.stop(name)
    }

    async fn back(&mut self, name: &str) -> Told<()> {
        self.managers.run(name)?;
        let until = Instant::now() + PATIENCE;
        // Every voter reachable, and told so by somebody who knows: one may be lost again.
        while self.client.status().await.map_err(told)?.fault_tolerance < 1 {
            if Instant::now() > until {
                return Err(format!("{name} is not back after {} s", PATIENCE.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn writers(&self, seen: &Arc<Seen>) -> Told<JoinSet<()>> {
        let mut writers = JoinSet::new();
        let addresses = self.managers.addresses();
        for number in 0..addresses.len() {
            let mut addresses = addresses.clone();
            addresses.rotate_left(number);
            let identity = Identity::load(&self.managers.operator()).map_err(told)?;
            let kv = Client::connect(addresses, identity).await.map_err(told)?.kv();
            let put = move |key: String| {
                let put = kv.put(key, "value");
                async move { put.await.map(|_| ()).map_err(told) }
            };
            writers.spawn(write(Arc::clone(seen), number, put));
        }
        Ok(writers)
    }
}

impl Side for Members {
    const NAME: &'static str = "etcd";

    async fn leader(&self) -> Told<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Self::leader(self).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                leader => return leader,
            }
        }
    }

    fn kill(&mut self, name: &str) -> Told<Instant> {
        Self::kill(self, name)
    }

    fn stop(&mut self, name: &str) -> Told<Instant> {
        Self::stop(self, name)
    }

    async fn back(&mut self, name: &str) -> Told<()> {
        self.run(name).await
    }

    async fn writers(&self, seen: &Arc<Seen>) -> Told<JoinSet<()>> {
        let mut writers = JoinSet::new();
        let urls = self.urls().await?;
        for number in 0..urls.len() {
            let mut clients: Vec<Etcd> = Vec::new();
            for url in urls.iter().cycle().skip(number).take(urls.len()) {
                clients.push(etcd::connect(url).await?);
            }
            let (clients, at) = (Arc::new(clients), Arc::new(AtomicU64::new(0)));
            let put = move |key: String| {
                let (clients, at) = (Arc::clone(&clients), Arc::clone(&at));
                async move {
                    let place = usize::try_from(at.load(Ordering::Relaxed)).unwrap_or(0) % clients.len();
                    let client = clients.get(place).ok_or("no client")?;
                    let mut kv = client.kv_client();
                    let done = match tokio::time::timeout(ATTEMPT, kv.put(key, "value", None)).await {
                        Ok(done) => done.map(|_| ()).map_err(told),
                        Err(_) => Err("no answer in time".to_owned()),
                    };
                    if done.is_err() {
                        at.fetch_add(1, Ordering::Relaxed);
                    }
                    done
                }
            };
            writers.spawn(write(Arc::clone(seen), number, put));
        }
        Ok(writers)
    }
}

/// What a leader's end cost, in milliseconds, once for each round.
#[derive(Debug, Default)]
struct Costs {
    times: Vec<f64>,
    failed: Vec<f64>,
}

async fn rounds<S: Side>(side: &mut S, count: usize, kills: bool) -> Told<Costs> {
    let seen = Arc::new(Seen::default());
    let mut writers = side.writers(&seen).await?;
    let mut costs = Costs::default();
    for round in 1..=count {
        tokio::time::sleep(REST).await;
        let leader = side.leader().await?;
        seen.forget();
        // Enough before, so that a gap has a beginning.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = Instant::now();
        let took = if kills {
            let killed = side.kill(&leader)?;
            seen.next_after(killed).await?
        } else {
            let stopped = side.stop(&leader)?;
            seen.next_after(stopped).await?;
            // What the leader's end holds up comes up to a timeout later.
            tokio::time::sleep(Duration::from_secs(3)).await;
            seen.gap(before)
        };
        let failed = seen.failed.load(Ordering::Relaxed);
        costs.times.push(took.as_secs_f64() * 1e3);
        costs.failed.push(failed as f64);
        if round % 10 == 1 || !kills {
            say(&format!(
                "{:<8} round {round}: {leader} ended, {:.0} ms, {failed} puts failed",
                S::NAME,
                took.as_secs_f64() * 1e3
            ));
        }
        side.back(&leader).await?;
    }
    seen.stop.store(true, Ordering::Relaxed);
    while writers.join_next().await.is_some() {}
    Ok(costs)
}

/// So many leaders are killed, or stopped, on each side.
pub(crate) async fn measure(options: &Options, count: usize, kills: bool) -> Told<Vec<Measured>> {
    let managers = Managers::start(Some(&options.binary), 3, None)?;
    let client = seated(&managers, 3).await?;
    let ours = rounds(&mut Quorate { managers, client }, count, kills).await?;
    let theirs = rounds(&mut Members::start(&options.etcd, 3).await?, count, kills).await?;
    let name = if kills { "leader killed" } else { "leader stopped" };
    let rows = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)].map(|(word, share)| {
        let of = |costs: &Costs| quantile(&costs.times, share);
        Measured::new(&format!("{name} {word}"), of(&ours), Some(of(&theirs)), "ms")
            .with("times_ms", serde_json::json!({ "quorate": ours.times, "etcd": theirs.times }))
            .with("failed_puts", serde_json::json!({ "quorate": ours.failed, "etcd": theirs.failed }))
    });
    Ok(rows.into())
}
