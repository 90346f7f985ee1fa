//! The line that locks and elections are made of: whoever came first is first, as long as its lease lasts.
//!
//! Owns the keys of a line: one for each who waits, below the line's name, attached to its lease. The order is that of their
//! create revisions. Each waits for the one before it only, so that one who leaves wakes one. Called by locks and elections.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::txn::Compare;

use super::kv::Entry;
use super::leases::LeaseKeeper;
use super::watching::Watched;
use super::{Client, compare, operation};
use crate::error::{Error, Result};

/// Between two attempts while no manager serves.
const PAUSE: Duration = Duration::from_millis(200);
/// How long giving a place up may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// Digits of a lease at the end of a key.
const DIGITS: usize = 16;

/// The key of whoever waits in the line with this lease.
fn key_of(name: &[u8], lease: u64) -> Bytes {
    [name, format!("/{lease:0DIGITS$x}").as_bytes()].concat().into()
}

/// What all keys of a line begin with.
pub(super) fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Who is in the line, the first one first. Other keys below its name are none of its business.
pub(super) async fn line(client: &Client, name: &[u8], with_values: bool) -> Result<Vec<Entry>> {
    let range = client.kv().prefix(prefix_of(name));
    let mut entries = if with_values { range } else { range.keys_only() }.all().await?;
    entries.retain(|entry| entry.lease != 0 && entry.key == key_of(name, entry.lease));
    entries.sort_unstable_by_key(|entry| entry.create_revision);
    Ok(entries)
}

/// Waits until this version of a key is gone: as a watch tells it, and as it is read whenever a watch begins.
async fn wait_gone(client: &Client, key: &Bytes, create_revision: u64) -> Result<()> {
    loop {
        match gone(client, key, create_revision).await {
            // No manager served for as long as a request may take, or the watch has to begin anew.
            Err(error) if begins_anew(&error) => tokio::time::sleep(PAUSE).await,
            ended => return ended,
        }
    }
}

/// Whether a watch that ended so only has to be begun anew, with a read.
pub(super) const fn begins_anew(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::Compacted { .. } | Error::NewGeneration { .. })
}

async fn gone(client: &Client, key: &Bytes, create_revision: u64) -> Result<()> {
    // The watch first: whatever happens after the read is told.
    let mut watch = client.kv().watch(key.clone()).deletes_only().keys_only().await?;
    let there = client.kv().get(key.clone()).await?;
    if there.is_none_or(|entry| entry.create_revision != create_revision) {
        return Ok(());
    }
    loop {
        if let Watched::Changes(_) = watch.next().await? {
            return Ok(());
        }
    }
}

/// A place in a line, which is what a [lock](super::LockGuard) or a [leadership](super::Leading) is once nobody is before it.
/// It is kept for as long as its lease is renewed, in the background. Dropped, it is given up in the background.
#[derive(Debug)]
pub struct Place {
    client: Client,
    name: Bytes,
    key: Bytes,
    token: u64,
    keeper: LeaseKeeper,
}

impl Place {
    /// Gets in line, with a value for the others to see.
    pub(super) async fn take(client: &Client, name: &Bytes, value: Bytes, ttl: Duration) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::Invalid("the name is empty; give one of at least one byte. Nothing was changed".into()));
        }
        let keeper = client.leases().grant(ttl).await?.keep();
        keeper.revoke_when_dropped();
        let key = key_of(name, keeper.id());
        // Nobody else has this lease, and the write counts once: the key is new.
        let write = client.kv().txn().when(compare::absent(key.clone())).then(operation::put_with_lease(
            key.clone(),
            value,
            keeper.id(),
        ));
        let written = match write.await {
            Ok(written) if written.succeeded => written,
            failed => {
                // Before it is said: it may have been done, and a process that ends now leaves nobody in line. Else its
                // lease runs out.
                if let Ok(Ok(_deleted)) = tokio::time::timeout(FAREWELL, client.leases().revoke(keeper.id())).await {
                    keeper.has_ended();
                }
                failed?;
                let key = key.escape_ascii();
                return Err(Error::Refused(format!(
                    "the key `{key}` was written by somebody else; use another name. Nothing was changed"
                )));
            }
        };
        Ok(Self { client: client.clone(), name: name.clone(), key, token: written.revision, keeper })
    }

    /// Waits until nobody is before this one.
    pub(super) async fn first(&self) -> Result<()> {
        tokio::select! {
            first = self.move_up() => first,
            () = self.keeper.lost() => Err(self.is_lost()),
        }
    }

    async fn move_up(&self) -> Result<()> {
        loop {
            match self.before().await {
                Ok(Some(before)) => wait_gone(&self.client, &before.key, before.create_revision).await?,
                Ok(None) => return Ok(()),
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Who is right before this one; nobody when it is the first.
    pub(super) async fn before(&self) -> Result<Option<Entry>> {
        let mut line = line(&self.client, &self.name, false).await?;
        let Some(own) = line.iter().position(|entry| entry.create_revision == self.token) else {
            return Err(self.is_lost());
        };
        Ok(own.checked_sub(1).map(|before| line.swap_remove(before)))
    }

    fn is_lost(&self) -> Error {
        let lease = self.keeper.id();
        Error::LeaseNotFound {
            lease,
            message: format!(
                "the place in line for `{}` is lost: its lease {lease} has ended, or could not be renewed in time; get in line again",
                self.name.escape_ascii()
            ),
        }
    }

    /// The fencing token: the revision at which this one got in line. Unique, and higher than that of everybody before, also
    /// over a force-new-cluster.
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// Holds exactly as long as the place does: as a condition of a transaction it makes the transaction void afterwards.
    pub fn fence(&self) -> Compare {
        // Nobody else makes a key with this create revision, and it goes with the lease.
        compare::create_revision(self.key.clone(), self.token)
    }

    /// The key that stands for it.
    pub const fn key(&self) -> &Bytes {
        &self.key
    }

    /// Whether its lease lasts, as far as this process can know; a moment later it may not.
    pub fn is_held(&self) -> bool {
        self.keeper.is_held()
    }

    /// How long it holds at least from now on, unless its key is deleted; zero once its lease is lost.
    pub fn remaining(&self) -> Duration {
        self.keeper.remaining()
    }

    /// Waits until it is lost: its lease has ended, or may have because it could not be renewed, or somebody has deleted
    /// its key.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        let deleted = async {
            if wait_gone(&self.client, &self.key, self.token).await.is_err() {
                // It cannot be watched: the lease tells in time.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.keeper.lost() => {}
            () = deleted => {}
        }
    }

    pub(super) const fn keeper(&self) -> &LeaseKeeper {
        &self.keeper
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Gives it up.
    pub(super) async fn leave(self) -> Result<()> {
        let left = self.client.leases().revoke(self.keeper.id()).await.map(|_deleted| ());
        if matches!(left, Ok(()) | Err(Error::LeaseNotFound { .. })) {
            self.keeper.has_ended();
        }
        left
    }
}
