//! The node: core, storage and transport wired together.
//!
//! Owns the handle that embedders hold, which stays the same while the node is a worker, is promoted and is demoted.
//! Everything behind it runs on threads of its own (`quorate-node`; of a manager `quorate-raft`, `quorate-log`,
//! `quorate-apply`, `quorate-net`; of a worker `quorate-net`): nothing an embedder does to its runtime can cause an election.

#[cfg(feature = "manager")]
mod advice;
#[cfg(feature = "manager")]
mod applier;
#[cfg(feature = "manager")]
mod asked;
#[cfg(feature = "manager")]
mod askers;
#[cfg(feature = "manager")]
mod asking;
#[cfg(feature = "manager")]
mod assigning;
#[cfg(feature = "manager")]
mod authorize;
#[cfg(feature = "manager")]
mod backups;
#[cfg(feature = "manager")]
mod barrier;
mod builder;
#[cfg(feature = "manager")]
mod ca;
#[cfg(feature = "manager")]
mod changes;
#[cfg(feature = "manager")]
mod checking;
#[cfg(feature = "manager")]
mod configurations;
#[cfg(feature = "manager")]
mod damaged;
mod departed;
mod dialback;
mod directory;
#[cfg(feature = "manager")]
mod dump;
#[cfg(feature = "manager")]
mod ending;
#[cfg(feature = "manager")]
mod enrolling;
mod facts;
#[cfg(feature = "manager")]
mod fence;
pub(crate) mod files;
#[cfg(feature = "manager")]
mod forwarding;
#[cfg(feature = "manager")]
mod founding;
#[cfg(feature = "manager")]
mod gate;
mod ground;
#[cfg(feature = "manager")]
mod hand_over;
#[cfg(feature = "manager")]
mod housekeeping;
#[cfg(feature = "manager")]
mod identity;
#[cfg(feature = "manager")]
mod inspect;
mod items;
#[cfg(feature = "manager")]
mod joining;
#[cfg(feature = "manager")]
mod keepers;
#[cfg(feature = "manager")]
mod lead;
#[cfg(feature = "manager")]
mod leading;
#[cfg(feature = "manager")]
mod leases;
mod lock;
#[cfg(feature = "manager")]
mod locked;
#[cfg(feature = "manager")]
mod log_writer;
#[cfg(feature = "manager")]
mod looking;
#[cfg(feature = "manager")]
mod manager;
#[cfg(feature = "manager")]
mod meeting;
#[cfg(feature = "testing")]
mod memory_disk;
#[cfg(feature = "manager")]
mod metering;
#[cfg(feature = "manager")]
mod net;
mod newcomer;
#[cfg(feature = "manager")]
mod nodes;
#[cfg(feature = "manager")]
mod noted;
#[cfg(feature = "manager")]
mod objects;
#[cfg(feature = "manager")]
mod once;
#[cfg(feature = "manager")]
mod operators;
mod own_identity;
#[cfg(feature = "manager")]
mod policy;
#[cfg(feature = "manager")]
mod presence;
#[cfg(feature = "manager")]
mod proving;
#[cfg(feature = "manager")]
mod raft_ids;
#[cfg(feature = "manager")]
mod reach;
#[cfg(feature = "manager")]
mod readiness;
#[cfg(feature = "manager")]
mod reading;
#[cfg(feature = "manager")]
mod records;
#[cfg(feature = "manager")]
mod recover;
#[cfg(feature = "manager")]
mod rejoin;
mod renewal;
#[cfg(feature = "manager")]
mod replace;
#[cfg(feature = "manager")]
mod replacing;
#[cfg(feature = "manager")]
mod report;
#[cfg(feature = "manager")]
mod reports;
#[cfg(feature = "manager")]
mod restore;
#[cfg(feature = "manager")]
mod rolled_back;
#[cfg(feature = "manager")]
mod router;
#[cfg(feature = "manager")]
mod running;
#[cfg(feature = "manager")]
mod sealing;
#[cfg(feature = "manager")]
mod service;
#[cfg(feature = "manager")]
mod session_table;
#[cfg(feature = "manager")]
mod sessions;
#[cfg(feature = "manager")]
mod snapshots;
#[cfg(feature = "manager")]
mod spent;
mod state_file;
mod stop;
mod supervisor;
#[cfg(feature = "manager")]
mod syncs;
#[cfg(feature = "manager")]
mod tasks;
#[cfg(feature = "manager")]
mod tokens;
#[cfg(feature = "manager")]
mod trace;
#[cfg(feature = "manager")]
mod transfers;
#[cfg(feature = "manager")]
mod transition;
#[cfg(feature = "manager")]
mod upgrade;
#[cfg(feature = "manager")]
mod watching;
mod work;
mod worker;
#[cfg(feature = "manager")]
mod workers;

#[cfg(feature = "manager")]
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

pub use builder::{NodeBuilder, Prepared, Start};
#[cfg(feature = "manager")]
pub use configurations::{Configurations, inspect_configurations, inspect_configurations_with};
pub use departed::{Departed, departed};
#[cfg(feature = "manager")]
pub use dump::{DumpedRecord, dump};
#[cfg(feature = "manager")]
pub use fence::{Fenced, fenced, fenced_with};
#[cfg(feature = "manager")]
pub use inspect::{Inspection, inspect, inspect_with};
pub use items::Item;
#[cfg(feature = "manager")]
pub use lead::Lead;
pub use lock::runner;
#[cfg(feature = "testing")]
pub use own_identity::of_node as node_identity;
#[cfg(feature = "manager")]
pub use recover::Recover;
#[cfg(feature = "manager")]
pub use restore::{Restore, RestoreReport, restore};
#[cfg(feature = "manager")]
pub use spent::{Spent, spent, spent_with};
pub use stop::{StartError, StopReason};
pub use work::{AssignmentEvent, Assignments};
#[cfg(feature = "testing")]
pub use worker::{SharedSocket, WorkerSession};

#[cfg(feature = "manager")]
pub(crate) use barrier::Barrier;
#[cfg(feature = "manager")]
pub(crate) use directory::explained;
#[cfg(feature = "manager")]
pub(crate) use facts::Layout;
#[cfg(feature = "testing")]
pub(crate) use ground::Ground;
#[cfg(feature = "testing")]
pub(crate) use memory_disk::MemoryDisk;
#[cfg(feature = "manager")]
pub(crate) use metering::size as size_of;
#[cfg(feature = "manager")]
pub(crate) use own_identity::{certificate_ends, seal as seal_identity};
#[cfg(feature = "manager")]
pub(crate) use records::ca as cluster_ca;
#[cfg(feature = "manager")]
pub(crate) use service::display_name;
pub(crate) use supervisor::{Current, Runtime};

use crate::client::Client;
use crate::config;
use crate::error::{Error, Result};
use crate::status::{Check, ClusterStatus, Liveness, NodeReport, NodeRole, Readiness};
use supervisor::Stop;
use work::Work;

struct Inner {
    prepared: Prepared,
    client: Client,
    current: watch::Receiver<Current>,
    work: Work,
    /// Dropped with the last handle: a stop without handing leadership over. Nothing acknowledged is lost.
    stop: watch::Sender<Stop>,
    stopped: watch::Receiver<Option<StopReason>>,
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

    /// A client in this process: on a manager with an operator's rights, on a worker with that node's own. It stays valid
    /// when the node changes its role.
    pub fn client(&self) -> Client {
        self.inner.client.clone()
    }

    /// What this node is at the moment; while it changes its role, what it was prepared as.
    pub fn role(&self) -> NodeRole {
        self.inner.current.borrow().as_ref().map_or(self.inner.prepared.role, Runtime::role)
    }

    /// The cluster as this manager sees it, or, on a worker, as its manager does; needs no quorum. Empty when nobody answers.
    /// Cancel safe.
    pub async fn status(&self) -> ClusterStatus {
        let current = self.inner.current.borrow().clone();
        match current {
            #[cfg(feature = "manager")]
            Some(Runtime::Manager(manager)) => manager.status().await,
            Some(Runtime::Worker(_)) | None => self.inner.client.status().await.unwrap_or_default(),
        }
    }

    /// What this node says of itself; asks nobody.
    pub fn report_of_itself(&self) -> NodeReport {
        let current = self.inner.current.borrow().clone();
        match current {
            #[cfg(feature = "manager")]
            Some(Runtime::Manager(manager)) => manager.service.node_report(gate::Who::Local),
            Some(Runtime::Worker(worker)) => worker.report(),
            None => NodeReport {
                id: self.inner.prepared.node_id.clone(),
                name: self.inner.prepared.name.clone(),
                cluster_id: self.inner.prepared.cluster_id.clone(),
                role: self.inner.prepared.role,
                trouble: "the node is changing its role, or has stopped".into(),
                ..NodeReport::default()
            },
        }
    }

    /// Whether this node can serve now, and why not. Of a manager: it is in the configuration, knows a leader, a majority of
    /// the voters is connected, its state was confirmed within five base election timeouts, its disk answers and has space,
    /// its certificate holds, and no recovery has left it behind. Of a worker: it has a session and its assignments are
    /// confirmed. Asks nobody and answers at once; an orchestrator takes a node that is not ready off its load balancer, and
    /// restarts nothing.
    pub fn readiness(&self) -> Readiness {
        let current = self.inner.current.borrow().clone();
        match current {
            #[cfg(feature = "manager")]
            Some(Runtime::Manager(manager)) => manager.service.readiness(),
            Some(Runtime::Worker(worker)) => worker.readiness(),
            None => Readiness::of(vec![Check {
                name: "running".into(),
                ok: false,
                detail: "the node is changing its role, or has stopped".into(),
            }]),
        }
    }

    /// Whether this node is at work at all. It needs neither a quorum nor a disk that answers: only one that is not alive is
    /// worth a restart.
    pub fn liveness(&self) -> Liveness {
        if let Some(reason) = &*self.inner.stopped.borrow() {
            return Liveness { alive: false, detail: format!("the node has stopped: {reason}") };
        }
        let current = self.inner.current.borrow().clone();
        match current {
            #[cfg(feature = "manager")]
            Some(Runtime::Manager(manager)) => manager.service.liveness(),
            Some(Runtime::Worker(_)) | None => Liveness { alive: true, detail: String::new() },
        }
    }

    /// Waits until a manager knows a leader and a linearizable read succeeds on it, or a worker has a session and its
    /// assignments are confirmed; at most the client's deadline.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoLeader`, `QuorumLost` or `Unavailable` after the deadline; the node goes on trying to reach the others.
    pub async fn ready(&self) -> Result<()> {
        let until = Instant::now() + config::REQUEST_DEADLINE;
        loop {
            let current = self.inner.current.borrow().clone();
            let error = match current {
                #[cfg(feature = "manager")]
                Some(Runtime::Manager(_)) => match self.inner.client.kv().prefix("").count_only().await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
                Some(Runtime::Worker(worker)) => {
                    let report = worker.report();
                    if report.session.is_some() && !report.assignments_stale && report.assignments_revision.is_some() {
                        return Ok(());
                    }
                    Error::Unavailable(format!("this worker has no session with a manager yet: {}", report.trouble))
                }
                None => Error::Unavailable("the node is changing its role, or has stopped".into()),
            };
            if !error.is_retryable() || Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What this node is to run: the complete set first, then what changes, whatever role the node has meanwhile. After a
    /// restart without any manager it gives what the node had, marked stale.
    pub fn assignments(&self) -> Assignments {
        self.inner.work.events()
    }

    /// Notes how an item goes. The newest status of each item reaches the managers as soon as there is a way to one; it
    /// goes with its item.
    ///
    /// # Errors
    /// `NotFound` when this node has no such item now; `Invalid` when the status is too long.
    pub fn report(&self, item: &str, status: impl Into<Bytes>) -> Result<()> {
        self.inner.work.report(item, status.into())
    }

    /// Runs `work` whenever this node leads, until it returns a value or the node stops. A worker waits for its promotion.
    ///
    /// It begins once everything committed before is applied here. Its future is dropped when the leadership lease
    /// ends, and started again in the next leadership. Every write of [`Lead::client`] carries the fencing token.
    ///
    /// Cancel safe: dropping the future drops the work.
    ///
    /// # Errors
    /// `Unavailable` when the node stopped before the work returned.
    #[cfg(feature = "manager")]
    pub async fn lead<F, Fut, T>(&self, mut work: F) -> Result<T>
    where
        F: FnMut(Lead) -> Fut,
        Fut: Future<Output = T>,
    {
        let mut current = self.inner.current.clone();
        loop {
            let runtime = current.borrow_and_update().clone();
            if let Some(Runtime::Manager(manager)) = runtime
                && let Some(done) = lead::lead(manager.lease(), self.client(), &mut work).await
            {
                return Ok(done);
            }
            if current.changed().await.is_err() {
                let why = "the node stopped while the work waited for leadership";
                return Err(Error::Unavailable(why.into()));
            }
        }
    }

    /// For tests of what this version has no request for: a transaction on the managers' own records, on a manager. Whether
    /// its conditions held.
    ///
    /// # Errors
    /// `Unavailable` on a worker, or without a leader.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub async fn system(&self, txn: quorate_core::txn::Txn) -> Result<bool> {
        let current = self.inner.current.borrow().clone();
        match current {
            Some(Runtime::Manager(manager)) => {
                manager.system(txn).await.map_err(|error| Error::Unavailable(error.message))
            }
            Some(Runtime::Worker(_)) | None => Err(Error::Unavailable("this node is no manager".into())),
        }
    }

    /// For tests: the records of all nodes as this manager has them; empty on a worker.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn records(&self) -> Vec<quorate_core::membership::record::NodeRecord> {
        let current = self.inner.current.borrow().clone();
        match current {
            Some(Runtime::Manager(manager)) => manager.service.records.borrow().nodes.iter().cloned().collect(),
            Some(Runtime::Worker(_)) | None => Vec::new(),
        }
    }

    /// For tests: how many watches a manager serves; none on a worker.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn watches(&self) -> usize {
        match &*self.inner.current.borrow() {
            Some(Runtime::Manager(manager)) => manager.service.watches.count(),
            Some(Runtime::Worker(_)) | None => 0,
        }
    }

    /// For test clusters: what the consensus machine of a manager last said of itself.
    #[cfg(feature = "testing")]
    pub(crate) fn seen(&self) -> Option<Arc<quorate_core::consensus::io::Status>> {
        match &*self.inner.current.borrow() {
            Some(Runtime::Manager(manager)) => Some(manager.service.status.borrow().clone()),
            Some(Runtime::Worker(_)) | None => None,
        }
    }

    /// For test clusters: the term of the leadership that this node may act on now.
    #[cfg(feature = "testing")]
    pub(crate) fn leads(&self) -> Option<u64> {
        match &*self.inner.current.borrow() {
            Some(Runtime::Manager(manager)) => manager.lease().term(),
            Some(Runtime::Worker(_)) | None => None,
        }
    }

    /// Waits until the node has stopped; everything it held is given back then. A change of its role is no stop.
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
        self.inner.stop.send_if_modified(|stop| std::mem::replace(stop, Stop::Orderly.max(*stop)) != *stop);
        self.stopped().await
    }

    /// Stops at once, without handing leadership over, as a crash of the process would. Nothing acknowledged is lost; the others
    /// elect another leader. Does not wait: [`stopped`](Self::stopped) does. For tests, and for who asks twice.
    pub fn abandon(&self) {
        self.inner.stop.send_replace(Stop::Now);
    }

    /// The UDP address it listens on; of a worker, the one it would listen on as a manager.
    pub fn address(&self) -> SocketAddr {
        let current = self.inner.current.borrow();
        let prepared = || directory::resolve(&self.inner.prepared.advertise).ok();
        let address = current.as_ref().and_then(Runtime::address).or_else(prepared);
        address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
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
