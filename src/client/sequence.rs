//! The client's side of exactly-once: request ids and the low-water mark.
//!
//! Owns the client id and which of its requests are still open, and keeps the newest from running away from the oldest:
//! the managers keep so many outcomes of a client and no more. Never sends. Called by the client for each write.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::id::{ClientId, RequestId};
use quorate_core::limits::REPLAY_PER_CLIENT_MAX;
use tokio::sync::Notify;

/// Sequences from the oldest open request to the newest: with that many the managers never have to refuse one.
const WINDOW: u64 = REPLAY_PER_CLIENT_MAX as u64;

#[derive(Debug)]
struct State {
    client: ClientId,
    born: u64,
    /// Of the cluster, when the client was born; log indexes are counted anew in each.
    generation: u64,
    /// The managers have said that they know this client no more.
    forgotten: bool,
    next: u64,
    open: BTreeSet<u64>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The oldest open request has ended.
    moved: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands out request ids; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sequences(Arc<Shared>);

/// One open request; when it is dropped, its outcome will not be asked for any more.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) id: RequestId,
    /// Everything at and below it is answered or given up.
    pub(crate) low_water: u64,
    pub(crate) born: u64,
    sequences: Sequences,
}

impl Sequences {
    /// `client` is 128 random bits; `born` is a log index that was committed in this generation before, 0 when unknown.
    pub(crate) fn new(client: ClientId, born: u64, generation: u64) -> Self {
        let state = Mutex::new(State::of(client, born, generation));
        Self(Arc::new(Shared { state, moved: Notify::new() }))
    }

    /// Whether requests may go under the id in use, in this generation.
    pub(crate) fn is_settled(&self, generation: u64) -> bool {
        self.0.state().is_settled(generation)
    }

    /// The next request id; waits while the oldest open request is too far behind.
    ///
    /// Cancel safe.
    pub(crate) async fn open(&self) -> OpenRequest {
        loop {
            let moved = self.0.moved.notified();
            tokio::pin!(moved);
            // From here on no end of a request is missed.
            moved.as_mut().enable();
            if let Some(open) = self.open_within_window() {
                return open;
            }
            moved.await;
        }
    }

    fn open_within_window(&self) -> Option<OpenRequest> {
        let mut state = self.0.state();
        let sequence = state.next;
        if state.open.first().is_some_and(|oldest| sequence - oldest >= WINDOW) {
            return None;
        }
        state.next += 1;
        state.open.insert(sequence);
        let low_water = state.open.first().map_or(0, |first| first - 1);
        let id = RequestId { client: state.client, sequence };
        Some(OpenRequest { id, low_water, born: state.born, sequences: self.clone() })
    }

    /// The managers no longer know this client: another one is to be born before anything more is asked.
    pub(crate) fn forget(&self, client: ClientId) {
        let mut state = self.0.state();
        state.forgotten |= state.client == client;
    }

    /// Goes on under a new id, unless somebody else has seen to it meanwhile. Requests that are open keep theirs.
    pub(crate) fn settle(&self, client: ClientId, born: u64, generation: u64) {
        let mut state = self.0.state();
        if !state.is_settled(generation) {
            *state = State::of(client, born, generation);
            drop(state);
            self.0.moved.notify_waiters();
        }
    }

    /// Goes on under a new id, in any case.
    #[cfg(feature = "worker")]
    pub(crate) fn renew(&self, client: ClientId, born: u64) {
        let mut state = self.0.state();
        *state = State::of(client, born, state.generation);
        drop(state);
        self.0.moved.notify_waiters();
    }
}

impl State {
    const fn of(client: ClientId, born: u64, generation: u64) -> Self {
        Self { client, born, generation, forgotten: false, next: 1, open: BTreeSet::new() }
    }

    const fn is_settled(&self, generation: u64) -> bool {
        self.born > 0 && !self.forgotten && self.generation >= generation
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let shared = &self.sequences.0;
        let mut state = shared.state();
        if state.client != self.id.client {
            return;
        }
        let was_oldest = state.open.first() == Some(&self.id.sequence);
        state.open.remove(&self.id.sequence);
        drop(state);
        if was_oldest {
            shared.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_mark_stays_below_the_oldest_open_request() {
        let sequences = Sequences::new(ClientId::from_bytes([1; 16]), 1, 0);
        let first = sequences.open().await;
        let second = sequences.open().await;
        assert_eq!((first.low_water, second.low_water), (0, 0));
        drop(first);
        assert_eq!(sequences.open().await.low_water, 1);
        drop(second);
        assert_eq!(sequences.open().await.low_water, 3);
    }

    #[tokio::test]
    async fn the_newest_waits_for_the_oldest_when_the_managers_could_not_keep_what_is_between() {
        // Given an oldest request that is open, while others come and go
        let sequences = Sequences::new(ClientId::from_bytes([1; 16]), 1, 0);
        let oldest = sequences.open().await;
        for _ in 1..WINDOW {
            drop(sequences.open().await);
        }
        // When the window is used up, then the next one waits, and two more with it
        assert!(sequences.open_within_window().is_none());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let sequences = sequences.clone();
                tokio::spawn(async move { sequences.open().await.id.sequence })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        // Until the oldest ends
        drop(oldest);
        let mut got = Vec::new();
        for task in waiting {
            got.push(task.await.unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, [WINDOW + 1, WINDOW + 2, WINDOW + 3]);
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_under_a_new_id() {
        let sequences = Sequences::new(ClientId::from_bytes([1; 16]), 1, 0);
        let _oldest = sequences.open().await;
        for _ in 1..WINDOW {
            drop(sequences.open().await);
        }
        let again = sequences.clone();
        let waiting = tokio::spawn(async move { again.open().await.id });
        tokio::task::yield_now().await;
        let client = ClientId::from_bytes([2; 16]);
        sequences.forget(ClientId::from_bytes([1; 16]));
        sequences.settle(client, 7, 0);
        assert_eq!(waiting.await.unwrap(), RequestId { client, sequence: 1 });
        // Whoever hears late that the old one is forgotten changes nothing any more.
        sequences.forget(ClientId::from_bytes([1; 16]));
        sequences.settle(ClientId::from_bytes([3; 16]), 8, 0);
        assert_eq!(sequences.open().await.id.client, client);
    }
}
