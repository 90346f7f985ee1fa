//! What who watches is told when no manager takes the watch.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::ClientId;
use quorate_transport::api;
use tokio::time::Instant;

use crate::client::way::{Fed, Reply};
use crate::client::{Client, Way};
use crate::error::Error;

/// A way on which a feed never comes about: somebody else dials before it, for ever.
struct Queue;

impl Way for Queue {
    fn managers(&self) -> usize {
        3
    }

    fn call<'a>(&'a self, _: api::Request, _: Duration, _: &'a BTreeSet<usize>) -> Reply<'a> {
        unreachable!("who watches asks for a feed")
    }

    fn feed<'a>(&'a self, _: api::Request, _: Duration, _: &'a BTreeSet<usize>) -> Fed<'a> {
        Box::pin(std::future::pending())
    }

    fn attempt(&self) -> Option<Duration> {
        Some(Duration::from_millis(440))
    }

    fn generation(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_no_manager_takes_says_so_at_its_deadline() {
    let client = Client::over(Box::new(Queue), ClientId::from_bytes([7; 16]), 0);
    for deadline in [Duration::from_millis(100), Duration::from_secs(30)] {
        let began = Instant::now();
        let watching = client.kv().watch("k").deadline(deadline).into_future();
        let watched = tokio::time::timeout(Duration::from_secs(600), watching).await.expect("an answer");
        let error = watched.map(drop).unwrap_err();
        assert!(matches!(&error, Error::Unavailable(why) if why.contains("no manager answered")), "{error}");
        assert!(error.is_retryable());
        // (The clock is virtual: a pause before the word is no slow machine.)
        let took = began.elapsed();
        assert!(took >= deadline && took < deadline + Duration::from_millis(50), "{took:?} of {deadline:?}");
    }
}
