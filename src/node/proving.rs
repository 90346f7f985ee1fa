//! The state, read once as a whole after each start, and compared with its hash.
//!
//! Owns the look for what no seal of a single record tells: one that was put back as it was before, at its own place, or taken away.
//! Never holds anybody up: it goes on beside everything else, on one thread, for a quarter of the time, and reads a frozen view of
//! what was there at the start. A manager whose state is not what its hash says stops, and its store is marked ([`super::damaged`]).
//! Started by [`super::running`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_core::consensus::io::{Status, StopCause};
use quorate_core::ports::{StateRead, StoreError, StoreResult, Visit};
use quorate_core::state::scan_hash_while;
use tokio::sync::watch;

use super::ending::Ending;
use super::stop::StopReason;

/// After so many bytes of records it rests,
const STRETCH_BYTES: usize = 4 << 20;
/// for so many times as long as they took,
const REST: u32 = 3;
/// and no longer than this, so that a stop is not held up.
const REST_MAX: Duration = Duration::from_millis(200);

/// What was there at the start: a view, and the hash that goes with it.
pub(super) struct Claimed {
    pub(super) view: Arc<dyn StateRead>,
    pub(super) hash: [u8; 32],
}

/// Ends the reading when it is dropped.
struct Given(Arc<AtomicBool>);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Reads it, and stops the node if it is not what its hash says. Ends with that, or with the node.
pub(super) async fn run(claimed: Claimed, mut status: watch::Receiver<Arc<Status>>, ending: Ending) {
    let up = Given(Arc::default());
    let over = Arc::clone(&up.0);
    let mut reading = tokio::task::spawn_blocking(move || prove(&claimed, &over));
    let read = tokio::select! {
        read = &mut reading => read,
        // The store is given back with everything else.
        () = async { while status.changed().await.is_ok() {} } => {
            drop(up);
            reading.await
        }
    };
    match read {
        Ok(Ok(())) => {}
        // Whoever met the fault first says what it was.
        Ok(Err(StoreError::Poisoned(_))) | Err(_) => {}
        // Where the manager ends, its store is marked, and these words are made whole.
        Ok(Err(error @ StoreError::Corrupt { .. })) => ending.stop(StopReason::Damaged(error.to_string())),
        Ok(Err(error)) => ending.stop(StopReason::of(&StopCause::Store(error))),
    }
}

fn prove(claimed: &Claimed, over: &AtomicBool) -> StoreResult<()> {
    let (began, mut since, mut bytes, mut all) = (Instant::now(), Instant::now(), 0, 0_u64);
    let found = scan_hash_while(&*claimed.view, &mut |size| {
        bytes += size;
        all += size as u64;
        if bytes >= STRETCH_BYTES {
            std::thread::sleep((since.elapsed() * REST).min(REST_MAX));
            (since, bytes) = (Instant::now(), 0);
        }
        if over.load(Ordering::Acquire) { Visit::Enough } else { Visit::More }
    })?;
    match found {
        None => Ok(()),
        Some(hash) if hash == claimed.hash => {
            tracing::debug!(bytes = all, took = ?began.elapsed(), "the state is what its hash says");
            Ok(())
        }
        Some(_) => Err(StoreError::Corrupt {
            record: "state".to_owned(),
            detail: "its records are not those that its hash was taken over, although the seal of each of them holds: one was put \
                     back as it was before, or taken away, while this manager was stopped"
                .to_owned(),
        }),
    }
}
