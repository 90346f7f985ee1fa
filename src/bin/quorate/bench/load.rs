//! A load: so many clients, each of which sends its next request when its last one has been answered.
//!
//! Owns the closed loop, the limiter of its rate, and what keys and values are drawn. Knows no store: whoever measures one
//! implements [`Store`], so that two stores are driven by the very same loop (`benches/beside` does that). One request is one
//! call of it; nothing is batched here. Called by the verbs of `bench`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::tally::{Failed, Tally};

/// Clients count what they have seen in one of so many places: one for each would be megabytes, one for all a queue.
const TALLIES: usize = 16;
/// Bytes from which values are cut, beside their own size: more than any cache or compressor looks back.
const NOISE: usize = 1 << 20;

/// What is measured.
pub(crate) trait Store: Send + Sync + 'static {
    /// One request of the client with this number, from 0; answers which kind of request it was (its number in the tally).
    fn request(&self, client: usize, draw: &mut Draw) -> impl Future<Output = Result<usize, Failed>> + Send;
}

/// When it is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// After so many requests.
    Requests(u64),
    /// After so long.
    Time(Duration),
}

/// How much is asked at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests under way at once.
    pub(crate) clients: usize,
    pub(crate) length: Length,
    /// Requests a second at most; `None` is as many as are answered.
    pub(crate) rate: Option<f64>,
}

/// The keys there are: a prefix and a number of fixed width.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) prefix: String,
    /// Digits of the number.
    pub(crate) width: usize,
    pub(crate) count: u64,
    /// One after the other instead of any.
    pub(crate) sequential: bool,
    pub(crate) next: AtomicU64,
}

impl Keys {
    /// The key with this number.
    pub(crate) fn key(&self, number: u64) -> String {
        format!("{}{number:0width$}", self.prefix, width = self.width)
    }
}

/// What clients draw keys and values from; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    pub(crate) keys: Arc<Keys>,
    noise: Bytes,
    size: usize,
}

impl Draws {
    /// Values of `size` random bytes each.
    pub(crate) fn new(keys: Keys, size: usize) -> Self {
        let mut random = fastrand::Rng::new();
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(NOISE + size).collect();
        Self { keys: Arc::new(keys), noise: noise.into(), size }
    }

    /// For one client.
    pub(crate) fn draw(&self) -> Draw {
        Draw { draws: self.clone(), random: fastrand::Rng::new() }
    }
}

/// One client's draws.
#[derive(Debug)]
pub(crate) struct Draw {
    draws: Draws,
    random: fastrand::Rng,
}

impl Draw {
    /// A key of the key space.
    pub(crate) fn key(&mut self) -> String {
        let keys = &self.draws.keys;
        let count = keys.count.max(1);
        let number =
            if keys.sequential { keys.next.fetch_add(1, Ordering::Relaxed) % count } else { self.random.u64(..count) };
        keys.key(number)
    }

    /// Random bytes.
    pub(crate) fn value(&mut self) -> Bytes {
        let from = self.random.usize(..=NOISE);
        self.draws.noise.slice(from..from + self.draws.size)
    }

    /// True `yes` times for each time that it is not, by chance.
    pub(crate) fn odds(&mut self, yes: f64) -> bool {
        self.random.f64() * (yes + 1.0) < yes
    }
}

/// How far it has come, for whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Requests that were answered, or failed.
    pub(crate) ended: AtomicU64,
    /// Set to have no further request sent.
    pub(crate) stop: AtomicBool,
}

struct Shared<S> {
    store: S,
    load: Load,
    begun: Instant,
    taken: AtomicU64,
    progress: Arc<Progress>,
    tallies: Vec<Mutex<Tally>>,
}

impl<S> Shared<S> {
    /// When the next request is due; `None` when there is none.
    fn next(&self) -> Option<Instant> {
        if self.progress.stop.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let due = match self.load.rate {
            Some(rate) => Duration::from_secs_f64(number as f64 / rate),
            None => Duration::ZERO,
        };
        match self.load.length {
            Length::Requests(most) if number >= most => None,
            Length::Time(time) if due >= time || self.begun.elapsed() >= time => None,
            Length::Requests(_) | Length::Time(_) => Some(self.begun + due),
        }
    }
}

/// When a request counts as sent. One that could not be sent when it was due, because every client was waiting for an
/// answer, has waited since then; that the timer of this machine is late is not the store's fault.
async fn sent(due: Instant, limited: bool) -> Instant {
    let now = Instant::now();
    if !limited {
        return now;
    }
    if due <= now {
        return due;
    }
    tokio::time::sleep_until(due.into()).await;
    Instant::now()
}

/// Runs the load to its end; answers what was seen, of `kinds` kinds of requests.
///
/// # Errors
/// A sentence: a client's task ended by a defect.
pub(crate) async fn run<S: Store>(
    store: S,
    draws: &Draws,
    load: Load,
    kinds: usize,
    progress: Arc<Progress>,
) -> Result<(S, Tally), String> {
    let tallies = (0..TALLIES.min(load.clients)).map(|_| Tally::new(kinds).map(Mutex::new));
    let tallies = tallies.collect::<Result<_, _>>()?;
    let shared = Arc::new(Shared { store, load, begun: Instant::now(), taken: AtomicU64::new(0), progress, tallies });
    let mut clients = JoinSet::new();
    for client in 0..load.clients {
        let (shared, mut draw) = (Arc::clone(&shared), draws.draw());
        clients.spawn(async move {
            while let Some(due) = shared.next() {
                let sent = sent(due, shared.load.rate.is_some()).await;
                let answer = shared.store.request(client, &mut draw).await;
                if let Some(tally) = shared.tallies.get(client % shared.tallies.len()) {
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    match answer {
                        Ok(kind) => tally.answered(kind, sent.elapsed()),
                        Err(failed) => tally.failed(failed),
                    }
                }
                shared.progress.ended.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|defect| format!("a client of the load ended by a defect: {defect}"))?;
    }
    let took = shared.begun.elapsed();
    let shared = Arc::into_inner(shared).ok_or("a client of the load has not ended")?;
    let mut total = Tally::new(kinds)?;
    for tally in shared.tallies {
        total.add(&tally.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    total.took = took;
    Ok((shared.store, total))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts what is under way, and refuses every request whose number is divisible by `refuses`.
    #[derive(Default)]
    struct Counting {
        now: AtomicUsize,
        most: AtomicUsize,
        seen: AtomicU64,
        refuses: u64,
        takes: Duration,
    }

    impl Store for Counting {
        async fn request(&self, _client: usize, draw: &mut Draw) -> Result<usize, Failed> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            let number = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
            if self.refuses > 0 && number.is_multiple_of(self.refuses) {
                return Err(Failed { kind: "refused", unknown: false, message: format!("number {number}") });
            }
            Ok(usize::from(draw.odds(4.0)))
        }
    }

    fn draws(count: u64, sequential: bool) -> Draws {
        Draws::new(Keys { prefix: "b/".into(), width: 4, count, sequential, next: AtomicU64::new(0) }, 16)
    }

    #[tokio::test]
    async fn every_client_has_one_request_under_way_and_the_total_is_exact() {
        let store = Counting { refuses: 10, takes: Duration::from_millis(1), ..Counting::default() };
        let load = Load { clients: 7, length: Length::Requests(500), rate: None };
        let progress = Arc::new(Progress::default());
        let (store, tally) = run(store, &draws(10, false), load, 2, Arc::clone(&progress)).await.unwrap();
        assert_eq!(store.most.into_inner(), 7);
        assert_eq!((store.seen.into_inner(), progress.ended.load(Ordering::Relaxed)), (500, 500));
        let summary = tally.summary(&["read", "write"]);
        assert_eq!((summary.requests, summary.failed.refused, summary.failed.unknown), (450, 50, 0));
        let [reads, writes] = &summary.kinds[..] else { panic!("{:?}", summary.kinds) };
        assert!(reads.requests > 0 && writes.requests > reads.requests, "{reads:?} {writes:?}");
        assert_eq!(reads.requests + writes.requests, 450);
    }

    #[tokio::test]
    async fn what_could_not_be_sent_in_time_has_waited_since_it_was_due() {
        // Given a store that answers 2 requests in 20 ms, and is to get 10
        let store = Counting { takes: Duration::from_millis(20), ..Counting::default() };
        let load = Load { clients: 2, length: Length::Requests(40), rate: Some(1_000.0) };
        let (_, tally) = run(store, &draws(10, false), load, 2, Arc::default()).await.unwrap();
        // Then the last ones are told as late as they were: due after 40 ms, answered after 400
        let summary = tally.summary(&["a", "b"]);
        assert!(summary.latency_us.max > 300_000.0, "{summary:?}");
    }

    #[tokio::test]
    async fn a_limited_rate_is_never_exceeded_and_a_time_ends() {
        let load = |length| Load { clients: 4, length, rate: Some(100.0) };
        let thirty = load(Length::Requests(30));
        let (_, tally) = run(Counting::default(), &draws(10, false), thirty, 2, Arc::default()).await.unwrap();
        assert!(tally.took >= Duration::from_millis(290), "{:?}", tally.took);
        let timed = load(Length::Time(Duration::from_millis(300)));
        let (store, _) = run(Counting::default(), &draws(10, false), timed, 2, Arc::default()).await.unwrap();
        let seen = store.seen.into_inner();
        assert!((1..=30).contains(&seen), "{seen}");
    }

    #[tokio::test]
    async fn it_can_be_stopped() {
        let progress = Arc::new(Progress::default());
        progress.stop.store(true, Ordering::Relaxed);
        let load = Load { clients: 4, length: Length::Requests(u64::MAX), rate: None };
        let (store, _) = run(Counting::default(), &draws(10, false), load, 2, progress).await.unwrap();
        assert_eq!(store.seen.into_inner(), 0);
    }

    #[test]
    fn keys_are_of_the_key_space_and_values_differ() {
        let mut draw = draws(100, false).draw();
        let keys: std::collections::BTreeSet<String> = (0..5_000).map(|_| draw.key()).collect();
        assert_eq!(keys.len(), 100);
        assert!(keys.iter().all(|key| key.len() == 6 && key.as_str() <= "b/0099"), "{keys:?}");
        let values: std::collections::BTreeSet<Bytes> = (0..100).map(|_| draw.value()).collect();
        assert!(values.len() > 90 && values.iter().all(|value| value.len() == 16));
        let mut draw = draws(3, true).draw();
        assert_eq!([draw.key(), draw.key(), draw.key(), draw.key()], ["b/0000", "b/0001", "b/0002", "b/0000"]);
    }
}
