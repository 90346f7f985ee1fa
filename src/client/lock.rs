//! Locks: one holder at a time, for as long as its lease lasts.
//!
//! Owns the shape of locks as callers see it; who waits for whom is in `queue`. Called by embedders and the command line.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::txn::Compare;
use tokio::time::Instant;

use super::Client;
use super::queue::Place;
use crate::config;
use crate::error::{Error, Result};

/// A lock being put together; await it to wait until it is held.
///
/// Dropping the future gives the place in the line up, in the background.
#[derive(Debug, Clone)]
#[must_use = "nothing is locked until it is awaited"]
pub struct LockBuilder {
    client: Client,
    name: Bytes,
    ttl: Duration,
    patience: Option<Duration>,
}

impl LockBuilder {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        Self { client, name, ttl: config::LOCK_TTL, patience: None }
    }

    /// So long after its holder died without a word the lock is free (15 s unless set): the time to live of its lease.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waits at most so long, and is then `Refused`; without it, as long as it takes.
    pub const fn wait_at_most(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

impl IntoFuture for LockBuilder {
    type Output = Result<LockGuard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { client, name, ttl, patience } = self;
            let until = patience.and_then(|patience| Instant::now().checked_add(patience));
            let place = Place::take(&client, &name, Bytes::new(), ttl).await?;
            let waited = match until {
                None => Some(place.first().await),
                Some(until) => tokio::time::timeout_at(until, place.first()).await.ok(),
            };
            if let Some(first) = waited {
                return first.map(|()| LockGuard { place });
            }
            // Given up before that is said: a process that ends now leaves nobody in line. Else its lease runs out.
            let _ = place.leave().await;
            Err(Error::Refused(format!(
                "the lock `{}` is held by somebody else. Nothing was changed; try again later",
                name.escape_ascii()
            )))
        })
    }
}

/// A lock that is held, as long as its lease lasts. It is renewed in the background.
///
/// **A lock is advisory.** Its holder may lose it without noticing at once: a process that sleeps, a network that is cut. Until
/// it notices, two hold it in their own view. So whatever must be done by the holder only has to carry a condition: writes to
/// this store [`fence()`](Self::fence), others the [`token`](Self::token), which their receiver compares with the highest it
/// has seen.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let lock = client.lock("nightly-backup").await?;
/// let done = client.kv().put("last-backup", "today").when(lock.fence()).await?;
/// assert!(done.succeeded, "the lock was lost meanwhile: nothing was written");
/// lock.unlock().await?;
/// # Ok(())
/// # }
/// ```
///
/// Dropped, it is let go in the background; [`unlock`](Self::unlock) tells when it is.
#[derive(Debug)]
#[must_use = "dropped, the lock is let go"]
pub struct LockGuard {
    place: Place,
}

impl LockGuard {
    /// The fencing token: the revision at which this holder got in line. Unique, and higher than that of every earlier holder,
    /// also over a force-new-cluster.
    pub const fn token(&self) -> u64 {
        self.place.token()
    }

    /// Holds exactly as long as the lock is held by this holder: as a condition of a transaction it makes the transaction void
    /// once the lock is lost.
    pub fn fence(&self) -> Compare {
        self.place.fence()
    }

    /// The key that stands for this holder.
    pub const fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// Whether it is held now, as far as this process can know; a moment later it may not be.
    pub fn is_held(&self) -> bool {
        self.place.keeper().is_held()
    }

    /// Waits until the lock is lost: its lease has ended, or may have because it could not be renewed.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        self.place.keeper().lost().await;
    }

    /// Lets it go; the next in line has it then.
    ///
    /// When the future is dropped it is let go in the background.
    ///
    /// # Errors
    /// `LeaseNotFound` when it was lost before. See [`Error`].
    pub async fn unlock(self) -> Result<()> {
        self.place.leave().await
    }
}
