//! How long the disk took over the newest syncs of the log.
//!
//! Owns these times, as many as say what the disk is like now: what was slow an hour ago says nothing any more. Never decides
//! anything. The log writer notes them, and `quorate check` asks for them.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::check::SyncTimes;

/// So many are kept: one in a hundred of them is ten.
const KEPT: usize = 1_024;

/// The newest syncs, the oldest of them first.
#[derive(Debug, Default)]
pub(super) struct Syncs(Mutex<VecDeque<Duration>>);

impl Syncs {
    /// One more.
    pub(super) fn note(&self, took: Duration) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() == KEPT {
            times.pop_front();
        }
        times.push_back(took);
    }

    /// What they come to; none before the first.
    pub(super) fn times(&self) -> Option<SyncTimes> {
        let times: Vec<Duration> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        (!times.is_empty()).then(|| SyncTimes::of(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_syncs_count() {
        let syncs = Syncs::default();
        assert_eq!(syncs.times(), None);
        // Given slow ones, and then as many quick ones as are kept
        for _ in 0..100 {
            syncs.note(Duration::from_secs(1));
        }
        syncs.note(Duration::from_millis(2));
        assert_eq!(syncs.times().unwrap().p50_ms, 1_000.0);
        for _ in 1..KEPT {
            syncs.note(Duration::from_millis(2));
        }
        // then the slow ones are forgotten.
        assert_eq!(syncs.times(), Some(SyncTimes { syncs: KEPT, p50_ms: 2.0, p99_ms: 2.0, max_ms: 2.0 }));
        // One in a hundred may be slower.
        for _ in 0..KEPT / 100 {
            syncs.note(Duration::from_millis(50));
        }
        let times = syncs.times().unwrap();
        assert_eq!((times.p99_ms, times.max_ms), (2.0, 50.0));
        for _ in 0..2 {
            syncs.note(Duration::from_millis(50));
        }
        assert_eq!(syncs.times().unwrap().p99_ms, 50.0);
    }
}
