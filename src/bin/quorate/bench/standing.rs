//! The loads that rest on something that stands: watches that are told, leases that are renewed.
//!
//! Owns the watchers and the leases of a load, from before its first request to after its last. Called by the verbs of `bench`.

use std::sync::Arc;
use std::time::Duration;

use quorate::{Client, Error, Watched};
use tokio::task::JoinSet;

use super::board::Board;
use super::load::{Draw, Store};
use super::requests::failed;
use super::tally::Failed;
use crate::failure::Failure;

/// Puts that watchers are told of.
pub(super) struct Telling {
    connections: Vec<Client>,
    board: Board,
    /// Ended with the load.
    _watchers: JoinSet<()>,
}

fn of(connections: &[Client], number: usize) -> Result<&Client, Error> {
    let number = number.checked_rem(connections.len()).unwrap_or(0);
    connections.get(number).ok_or_else(|| Error::Unavailable("there is no connection".into()))
}

impl Telling {
    /// Opens the watches of everything below `prefix`; they stand when this is done.
    pub(super) async fn start(connections: Vec<Client>, prefix: &str, watchers: usize) -> Result<Self, Failure> {
        let board = Board::new(watchers);
        let mut running = JoinSet::new();
        for number in 0..watchers {
            let mut watch = of(&connections, number)?.kv().watch(prefix.to_owned()).prefix().await?;
            let board = board.clone();
            running.spawn(async move {
                loop {
                    match watch.next().await {
                        Ok(Watched::Changes(changes)) => {
                            for entry in changes.changes.into_iter().filter_map(|change| change.entry) {
                                board.seen(&entry.value);
                            }
                        }
                        Ok(_) => {}
                        Err(error) => return board.ended(format!("watcher {number}: {error}")),
                    }
                }
            });
        }
        Ok(Self { connections, board, _watchers: running })
    }

    /// One put, told to all.
    pub(super) async fn attempt(&self, client: usize, draw: &mut Draw) -> Result<usize, Error> {
        let (announced, value) = self.board.announce(&draw.value());
        of(&self.connections, client)?.kv().put(draw.key(), value).await?;
        announced.told().await.map_err(Error::Unavailable)?;
        Ok(0)
    }
}

impl Store for Telling {
    async fn request(&self, client: usize, draw: &mut Draw) -> Result<usize, Failed> {
        self.attempt(client, draw).await.map_err(failed)
    }
}

/// Renewals of leases.
pub(super) struct Renewing {
    connections: Vec<Client>,
    leases: Arc<[u64]>,
}

impl Renewing {
    /// Grants each client a lease.
    pub(super) async fn start(connections: Vec<Client>, clients: usize, ttl: Duration) -> Result<Self, Failure> {
        let mut granting = JoinSet::new();
        for number in 0..clients {
            let client = of(&connections, number)?.clone();
            granting.spawn(async move { client.leases().grant(ttl).await.map(|lease| lease.id()) });
        }
        let mut leases = Vec::with_capacity(clients);
        while let Some(granted) = granting.join_next().await {
            leases.push(granted.map_err(|defect| Failure::local(format!("a grant ended by a defect: {defect}")))??);
        }
        Ok(Self { connections, leases: leases.into() })
    }

    /// One renewal.
    pub(super) async fn attempt(&self, client: usize) -> Result<usize, Error> {
        let Some(lease) = self.leases.get(client) else {
            return Err(Error::NotFound("this client has no lease".into()));
        };
        of(&self.connections, client)?.leases().keep_alive(*lease).await?;
        Ok(0)
    }

    /// Gives the leases back; what cannot be revoked runs out by itself.
    pub(super) async fn end(self) {
        let mut revoking = JoinSet::new();
        for (number, lease) in self.leases.iter().copied().enumerate() {
            let Ok(client) = of(&self.connections, number).cloned() else { continue };
            revoking.spawn(async move { client.leases().revoke(lease).await });
        }
        while revoking.join_next().await.is_some() {}
    }
}

impl Store for Renewing {
    async fn request(&self, client: usize, _draw: &mut Draw) -> Result<usize, Failed> {
        self.attempt(client).await.map_err(failed)
    }
}
