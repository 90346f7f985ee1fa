//! Locks: one holder at a time, for as long as its lease lasts.
//!
//! Owns the shape of locks as callers see it; who waits for whom is in `queue`. Called by embedders and the command line.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::Client;
use super::queue::{FAREWELL, Place};
use crate::config;
use crate::error::{Error, Result};

/// Why a lock is no longer waited for.
#[derive(Debug, Clone, Copy)]
enum Ended {
    GivenUp,
    Late,
}

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

    /// Waits at most so long for those before it, and is then `Refused`, or `Unavailable` when it was not even let in line;
    /// without it, as long as it takes. A lock that is free is had, however short this is: getting in line, and giving the
    /// place up, may take some seconds more, each where no manager serves.
    pub const fn wait_at_most(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

impl LockBuilder {
    /// Waits as awaiting it does, until `given_up`: then the place in the line is given up before this says `None`, so that
    /// who comes next need not wait for a lease to run out.
    ///
    /// Cancel safe: dropping the future gives the place up in the background.
    ///
    /// # Errors
    /// As awaiting it: `Refused` when the lock is not had within [`wait_at_most`](Self::wait_at_most), `Unavailable` when no
    /// manager let it in line by then. See [`Error`].
    pub async fn unless(self, given_up: impl Future<Output = ()> + Send) -> Result<Option<LockGuard>> {
        let Self { client, name, ttl, patience } = self;
        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let (mut given_up, mut late) = (std::pin::pin!(given_up), std::pin::pin!(late));
        let mut taking = std::pin::pin!(Place::take(&client, &name, Bytes::new(), ttl));
        let taken = tokio::select! {
            biased;
            taken = &mut taking => Ok(taken?),
            () = &mut given_up => Err(Ended::GivenUp),
            () = &mut late => Err(Ended::Late),
        };
        let (place, ended) = match taken {
            Ok(place) => {
                let ended = tokio::select! {
                    biased;
                    first = place.first() => return first.map(|()| Some(LockGuard { place })),
                    () = given_up => Ended::GivenUp,
                    () = late => Ended::Late,
                };
                (Ok(place), ended)
            }
            // What was asked for may be done by now: only its end tells what there is to be given up.
            Err(ended) => {
                let taken = timeout(FAREWELL, taking).await;
                let taken = taken.unwrap_or_else(|_elapsed| Err(not_in_line(&name)));
                (taken, ended)
            }
        };
        let place = match (place, ended) {
            (Ok(place), _) => place,
            (Err(_), Ended::GivenUp) => return Ok(None),
            (Err(error), Ended::Late) => return Err(error),
        };
        let mut left = Ok(None);
        if matches!(ended, Ended::Late) {
            // Who was late in asking is not late for a lock that nobody has.
            let before = timeout(FAREWELL, place.before()).await;
            let name = name.escape_ascii();
            left = Err(match before {
                Ok(Ok(None)) if place.is_held() => return Ok(Some(LockGuard { place })),
                Ok(Ok(_)) => Error::Refused(format!(
                    "the lock `{name}` is held by somebody else. Nothing was changed; try again later"
                )),
                Ok(Err(error)) => error,
                Err(_elapsed) => Error::Unavailable(format!(
                    "whether somebody else has the lock `{name}` could not be found out in time. It is not held; try again later"
                )),
            });
        }
        // Given up before that is said: a process that ends now leaves nobody in line. Else its lease runs out.
        let _ = timeout(FAREWELL, place.leave()).await;
        left
    }
}

fn not_in_line(name: &Bytes) -> Error {
    Error::Unavailable(format!(
        "no manager let this one in line for the lock `{}` in time. It is not held; a place that was taken all the same ends with \
         its lease. Try again later",
        name.escape_ascii()
    ))
}

impl IntoFuture for LockBuilder {
    type Output = Result<LockGuard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let held = self.unless(std::future::pending()).await?;
            held.ok_or_else(|| Error::Internal("a lock was given up by nobody".into()))
        })
    }
}

/// A lock that is held, as long as its lease lasts. It is renewed in the background.
///
/// **A lock is advisory.** Its holder may lose it without noticing at once: a process that sleeps, a network that is cut. Until
/// it notices, two hold it in their own view. So whatever must be done by the holder only has to carry a condition: writes to
/// this store [`fence()`](Place::fence), others the [`token`](Place::token), which their receiver compares with the highest it
/// has seen. It answers what its [`Place`] in the line answers.
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

impl std::ops::Deref for LockGuard {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl LockGuard {
    /// Lets it go; the next in line has it then.
    ///
    /// Cancel safe: when the future is dropped it is let go in the background.
    ///
    /// # Errors
    /// `LeaseNotFound` when it was lost before. See [`Error`].
    pub async fn unlock(self) -> Result<()> {
        self.place.leave().await
    }
}

#[cfg(test)]
mod tests;
