//! The client's side of exactly-once: request ids and the low-water mark.
//!
//! Owns the client id and which of its requests are still open. Never sends. Called by the client for each write.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_core::id::{ClientId, RequestId};

#[derive(Debug)]
struct State {
    client: ClientId,
    born: u64,
    next: u64,
    open: BTreeSet<u64>,
}

/// Hands out request ids; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sequences(Arc<Mutex<State>>);

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
    /// `client` is 128 random bits; `born` is a log index that a manager had applied before, 0 when unknown.
    pub(crate) fn new(client: ClientId, born: u64) -> Self {
        Self(Arc::new(Mutex::new(State { client, born, next: 1, open: BTreeSet::new() })))
    }

    pub(crate) fn open(&self) -> OpenRequest {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = state.next;
        state.next += 1;
        state.open.insert(sequence);
        let low_water = state.open.first().map_or(0, |first| first - 1);
        let id = RequestId { client: state.client, sequence };
        OpenRequest { id, low_water, born: state.born, sequences: self.clone() }
    }

    /// The managers no longer know this client: go on under a new id. Requests that are open keep theirs.
    pub(crate) fn renew(&self, client: ClientId, born: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { client, born, next: 1, open: BTreeSet::new() };
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.sequences.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.client == self.id.client {
            state.open.remove(&self.id.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_below_the_oldest_open_request() {
        let sequences = Sequences::new(ClientId::from_bytes([1; 16]), 0);
        let first = sequences.open();
        let second = sequences.open();
        assert_eq!((first.low_water, second.low_water), (0, 0));
        drop(first);
        assert_eq!(sequences.open().low_water, 1);
        drop(second);
        assert_eq!(sequences.open().low_water, 3);
    }
}
