//! Elections: of all who campaign one leads, for as long as its lease lasts.
//!
//! Owns the shape of elections as callers see it; who is before whom is in `queue`. Among the embedder's own processes, and
//! apart from who leads the managers: that is `Node::lead`. Called by embedders.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::txn::Compare;

use super::kv::Entry;
use super::queue::{self, Place};
use super::{Client, operation};
use crate::config;
use crate::error::{Error, Result};

/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(200);

/// An election by its name.
#[derive(Debug, Clone)]
pub struct Election {
    client: Client,
    name: Bytes,
    ttl: Duration,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it says of itself.
    pub value: Bytes,
    /// Its fencing token: unique, and higher than that of every leader before it.
    pub token: u64,
    /// The key that stands for it.
    pub key: Bytes,
}

impl From<Entry> for Leader {
    fn from(entry: Entry) -> Self {
        Self { value: entry.value, token: entry.create_revision, key: entry.key }
    }
}

impl Election {
    pub(super) const fn new(client: Client, name: Bytes) -> Self {
        Self { client, name, ttl: config::LOCK_TTL }
    }

    /// So long after a leader died without a word another one leads (15 s unless set): the time to live of its lease.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Campaigns with this value, and waits until elected, however long it takes.
    ///
    /// Dropping the future ends the candidacy, in the background.
    ///
    /// # Errors
    /// `LeaseNotFound` when its lease could not be kept alive meanwhile: campaign again. See [`Error`].
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leading> {
        let place = Place::take(&self.client, &self.name, value.into(), self.ttl).await?;
        place.first().await?;
        Ok(Leading { place })
    }

    /// Who leads now, read linearizably; `None` while nobody does.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leader(&self) -> Result<Option<Leader>> {
        Ok(queue::line(&self.client, &self.name, true).await?.into_iter().next().map(Leader::from))
    }

    /// Follows who leads, from who leads now on.
    pub fn observe(&self) -> Observer {
        Observer { election: self.clone(), known: None }
    }
}

/// Tells who leads, each time that it is another one.
#[derive(Debug)]
pub struct Observer {
    election: Election,
    /// Who led when it was last told, with what it said; nobody asked yet.
    known: Option<Option<Leader>>,
}

impl Observer {
    /// Waits until somebody else leads, or nobody does, or the leader says something else of itself; at first it tells at
    /// once. Who led for a moment between two looks may be left out; a token never goes back.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; it can be asked again after one.
    pub async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            let leader = self.election.leader().await?;
            if self.known.as_ref() != Some(&leader) {
                self.known = Some(leader.clone());
                return Ok(leader);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// An election that is won, for as long as the lease lasts. It is renewed in the background.
///
/// **Leading is advisory**, as holding a lock is: whatever only the leader may do carries a condition, the
/// [`fence()`](Self::fence) on writes to this store, or the [`token`](Self::token) towards others.
///
/// Dropped, it resigns in the background; [`resign`](Self::resign) tells when it has.
#[derive(Debug)]
#[must_use = "dropped, it resigns"]
pub struct Leading {
    place: Place,
}

impl Leading {
    /// The fencing token: unique, and higher than that of every leader before, also over a force-new-cluster.
    pub const fn token(&self) -> u64 {
        self.place.token()
    }

    /// Holds exactly as long as this one leads: as a condition of a transaction it makes the transaction void afterwards.
    pub fn fence(&self) -> Compare {
        self.place.fence()
    }

    /// The key that stands for this leader.
    pub const fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// Whether it leads now, as far as this process can know; a moment later it may not.
    pub fn is_held(&self) -> bool {
        self.place.keeper().is_held()
    }

    /// Waits until leadership is lost: its lease has ended, or may have because it could not be renewed.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        self.place.keeper().lost().await;
    }

    /// Says something else of itself, without an election.
    ///
    /// # Errors
    /// `Refused` when it leads no more. See [`Error`].
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<()> {
        let (key, lease) = (self.place.key().clone(), self.place.keeper().id());
        let put = operation::put_with_lease(key, value, lease);
        match self.place.client().kv().txn().when(self.fence()).then(put).await {
            Ok(done) if done.succeeded => Ok(()),
            Ok(_) | Err(Error::LeaseNotFound { .. }) => {
                Err(Error::Refused("leadership was lost before. Nothing was changed; campaign again".into()))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends it; the next candidate leads then.
    ///
    /// When the future is dropped it ends in the background.
    ///
    /// # Errors
    /// `LeaseNotFound` when it was lost before. See [`Error`].
    pub async fn resign(self) -> Result<()> {
        self.place.leave().await
    }
}
