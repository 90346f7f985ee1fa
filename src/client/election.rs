//! Elections: of all who campaign one leads, for as long as its lease lasts.
//!
//! Owns the shape of elections as callers see it; who is before whom is in `queue`. Among the embedder's own processes, and
//! apart from who leads the managers: that is `Node::lead`. Called by embedders.

use std::time::Duration;

use bytes::Bytes;

use super::kv::Entry;
use super::queue::{self, Place};
use super::watching::{Watch, Watched};
use super::{Client, operation};
use crate::config;
use crate::error::{Error, Result};

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
    /// Cancel safe: dropping the future ends the candidacy, in the background; a lease of which its managers have not told yet
    /// ends after its time.
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
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn leader(&self) -> Result<Option<Leader>> {
        Ok(queue::line(&self.client, &self.name, true).await?.into_iter().next().map(Leader::from))
    }

    /// Follows who leads, from who leads now on.
    pub fn observe(&self) -> Observer {
        Observer { election: self.clone(), known: None, watch: None, stale: true }
    }
}

/// Tells who leads, each time that it is another one.
#[derive(Debug)]
pub struct Observer {
    election: Election,
    /// Who led when it was last told, with what it said; nobody asked yet.
    known: Option<Option<Leader>>,
    /// Of all keys of the line. It began before who leads was read last.
    watch: Option<Watch>,
    /// Something has happened in the line since then.
    stale: bool,
}

impl Observer {
    /// Waits until somebody else leads, or nobody does, or the leader says something else of itself; at first it tells at
    /// once. Who led for a moment only may be left out; a token never goes back.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`Error`]; it can be asked again after one.
    pub async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            let watch = match &mut self.watch {
                Some(watch) => watch,
                // The watch first: whatever happens after the read is told.
                None => {
                    self.stale = true;
                    let line = queue::prefix_of(&self.election.name);
                    self.watch.insert(self.election.client.kv().watch(line).prefix().keys_only().await?)
                }
            };
            if !self.stale {
                match watch.next().await {
                    Ok(Watched::Changes(_)) => self.stale = true,
                    Ok(Watched::Bookmark(_)) => continue,
                    // The watch goes on when it is asked again.
                    Err(error) if error.is_retryable() => return Err(error),
                    Err(error) => {
                        self.watch = None;
                        if queue::begins_anew(&error) {
                            continue;
                        }
                        return Err(error);
                    }
                }
            }
            let leader = self.election.leader().await?;
            self.stale = false;
            if self.known.as_ref() != Some(&leader) {
                self.known = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}

/// An election that is won, for as long as the lease lasts. It is renewed in the background.
///
/// **Leading is advisory**, as holding a lock is: whatever only the leader may do carries a condition, the
/// [`fence()`](Place::fence) on writes to this store, or the [`token`](Place::token) towards others. It answers what its
/// [`Place`] in the line answers.
///
/// Dropped, it resigns in the background; [`resign`](Self::resign) tells when it has.
#[derive(Debug)]
#[must_use = "dropped, it resigns"]
pub struct Leading {
    place: Place,
}

impl std::ops::Deref for Leading {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Leading {
    /// Says something else of itself, without an election.
    ///
    /// Cancel safe: dropped half-way, it may or may not have been said; [`Election::leader`] tells.
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
    /// Cancel safe: when the future is dropped it ends in the background.
    ///
    /// # Errors
    /// `LeaseNotFound` when it was lost before. See [`Error`].
    pub async fn resign(self) -> Result<()> {
        self.place.leave().await
    }
}
