//! The node: core, storage and transport wired together.
//!
//! Owns the handle that embedders hold. Everything behind it runs on threads of its own (`quorate-raft`, `quorate-log`,
//! `quorate-apply`, `quorate-net`): nothing an embedder does to its runtime can cause an election.

mod applier;
mod authorize;
mod builder;
mod changes;
mod facts;
mod gate;
mod housekeeping;
mod identity;
mod inspect;
mod joining;
mod lead;
mod log_writer;
mod reach;
mod records;
mod rejoin;
mod report;
mod router;
mod running;
mod service;
mod snapshots;
mod stop;
mod tasks;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

pub use builder::{NodeBuilder, Prepared, Start};
pub use inspect::{Inspection, inspect};
pub use lead::Lead;
pub use stop::{StartError, StopReason};

pub(crate) use gate::Asker;
pub(crate) use service::Service;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::status::ClusterStatus;
use lead::LeaseWatch;
use tasks::Call;

struct Inner {
    prepared: Prepared,
    address: SocketAddr,
    client: Client,
    service: Arc<Service>,
    runtime: tokio::runtime::Handle,
    inbox: mpsc::Sender<Call>,
    lease: LeaseWatch,
    stopped: watch::Receiver<Option<StopReason>>,
}

impl Inner {
    fn stop_now(&self) {
        if self.inbox.try_send(Call::Stop).is_err() {
            let inbox = self.inbox.clone();
            self.runtime.spawn(async move {
                let _ = inbox.send(Call::Stop).await;
            });
        }
    }
}

impl Drop for Inner {
    /// Without [`Node::shutdown`]: a stop without handing leadership over. Nothing acknowledged is lost.
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// A running node. Cheap to clone; it stops when [`shutdown`](Self::shutdown) is called or the last clone is dropped.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::{Node, Start};
/// let node = Node::builder("/var/lib/app").listen("[::]:4701").start(Start::OpenOrInit).await?;
/// node.ready().await?;
/// node.client().kv().put("app/config", "v1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("prepared", &self.inner.prepared).finish_non_exhaustive()
    }
}

impl Node {
    /// Settings for a node that lives in `directory`.
    pub fn builder(directory: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder::new(directory.as_ref())
    }

    /// A client in this process. With an operator's rights.
    pub fn client(&self) -> Client {
        self.inner.client.clone()
    }

    /// The cluster as this manager sees it; needs no quorum.
    pub async fn status(&self) -> ClusterStatus {
        let service = Arc::clone(&self.inner.service);
        let asked = self.inner.runtime.spawn(async move { service.cluster_status().await });
        asked.await.unwrap_or_default()
    }

    /// Waits until a leader is known and a linearizable read succeeds here, at most the client's deadline.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoLeader`, `QuorumLost` or `Unavailable` after the deadline; the node goes on trying to reach the others.
    pub async fn ready(&self) -> Result<()> {
        let until = tokio::time::Instant::now() + crate::config::REQUEST_DEADLINE;
        loop {
            match self.inner.client.kv().prefix("").count_only().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs `work` whenever this node leads, until it returns a value or the node stops.
    ///
    /// It begins once everything committed before is applied here. Its future is dropped when the leadership lease
    /// ends, and started again in the next leadership. Every write of [`Lead::client`] carries the fencing token.
    ///
    /// Cancel safe: dropping the future drops the work.
    ///
    /// # Errors
    /// `Unavailable` when the node stopped before the work returned.
    pub async fn lead<F, Fut, T>(&self, work: F) -> Result<T>
    where
        F: FnMut(Lead) -> Fut,
        Fut: Future<Output = T>,
    {
        let watch = LeaseWatch { status: self.inner.lease.status.clone(), began: self.inner.lease.began };
        lead::lead(watch, self.client(), work)
            .await
            .ok_or_else(|| Error::Unavailable("the node stopped while the work waited for leadership".into()))
    }

    /// Waits until the node has stopped; everything it held is given back then.
    ///
    /// Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut stopped = self.inner.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(StopReason::Asked),
            Err(_) => StopReason::Bug("the node's threads ended without a word".into()),
        }
    }

    /// Hands leadership over, stops, and waits until everything is given back.
    ///
    /// Cancel safe once polled: the stop goes on.
    pub async fn shutdown(&self) -> StopReason {
        let inner = Arc::clone(&self.inner);
        let stopping = self.inner.runtime.spawn(async move { running::shutdown(&inner).await });
        let _ = stopping.await;
        self.stopped().await
    }

    /// Stops at once, without handing leadership over: what a crash of the process would do, for tests. Nothing
    /// acknowledged is lost.
    pub fn abandon(&self) {
        self.inner.stop_now();
    }

    /// The UDP address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// The node id, base32.
    pub fn id(&self) -> String {
        self.inner.prepared.node_id.clone()
    }

    /// Its name; its id when it has none.
    pub fn name(&self) -> String {
        self.inner.prepared.name.clone()
    }
}
