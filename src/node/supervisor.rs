//! What the node is at the moment, and what it is next.
//!
//! Owns the one thread that starts a role's runtime, waits for its end and starts the next one: the handle that embedders
//! hold stays the same while the node is promoted or demoted. Never decides a role: the cluster does, and the directory
//! says what was decided.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_transport::{FeedReceiver, api};
use tokio::sync::watch;

use super::builder::{NodeBuilder, Prepared, off_thread};
use super::departed;
use super::directory::{check_access, identity_of, resolve};
use super::ground::Drives;
use super::lock::lock;
use super::newcomer::prepared_of;
#[cfg(feature = "manager")]
use super::running::Manager;
use super::state_file::{Settled, settle};
use super::stop::{StartError, StopReason};
use super::work::Work;
use super::worker::{End, Worker};
use super::{Inner, Node};
use crate::client::{CallError, NodeWay};
use crate::status::NodeRole;

/// A role's runtime.
#[derive(Clone)]
pub(crate) enum Runtime {
    #[cfg(feature = "manager")]
    Manager(Arc<Manager>),
    Worker(Arc<Worker>),
}

/// What of it the handle and its clients follow; `None` while the node changes roles, and once it has stopped.
pub(crate) type Current = Option<Runtime>;

impl Runtime {
    pub(crate) fn role(&self) -> NodeRole {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(_) => NodeRole::Manager,
            Self::Worker(_) => NodeRole::Worker,
        }
    }

    /// A log index that is applied here; 0 on a worker.
    pub(crate) fn applied(&self) -> u64 {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(manager) => manager.applied(),
            Self::Worker(_) => 0,
        }
    }

    /// Asks for a feed on behalf of the embedder.
    pub(crate) async fn feed(&self, request: api::Request, patience: Duration) -> Result<FeedReceiver, CallError> {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(manager) => manager.feed(request),
            Self::Worker(worker) => super::worker::feed(worker.link.clone(), request, patience).await,
        }
    }

    /// Asks on behalf of the embedder.
    pub(crate) async fn call(&self, request: api::Request, patience: Duration) -> Result<api::Response, CallError> {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(manager) => {
                let _ = patience;
                manager.call(request).await
            }
            Self::Worker(worker) => {
                let asked = worker.handle().spawn(super::worker::ask(worker.link.clone(), request, patience));
                asked.await.map_err(|error| CallError::unanswered(format!("the node stopped: {error}")))?
            }
        }
    }

    fn prepared(&self) -> Prepared {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(manager) => manager.prepared.clone(),
            Self::Worker(worker) => prepared_of(&worker.file),
        }
    }

    /// Where it listens, or would as a manager.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            #[cfg(feature = "manager")]
            Self::Manager(manager) => Some(manager.address),
            Self::Worker(worker) => resolve(&worker.file.facts.listen).ok(),
        }
    }
}

/// How the node is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    No,
    /// Hand leadership over, say goodbye.
    Orderly,
    /// As if the process had died.
    Now,
}

/// Checks and settles the directory; the lock is held until the node ends.
fn open(builder: &NodeBuilder) -> Result<(Option<File>, Settled, Work), StartError> {
    let layout = builder.layout();
    check_access(layout.root())?;
    if !layout.root().exists() {
        // Opening what is not there says so itself, and makes nothing.
        return Ok((None, Settled::Store, Work::open(&layout)));
    }
    let known = layout.root().join("node.state").exists() || layout.has_store();
    let held = if known { Some(lock(&layout)?) } else { None };
    if held.is_some() {
        // Whether it still is one that was removed, it is told anew.
        departed::forget(&layout);
    }
    let settled = settle(&layout)?;
    if let Settled::HalfJoined = settled {
        return Err(StartError::Directory(format!(
            "{} was prepared only half; run the same `quorate join` again, it goes on where it stopped",
            layout.root().display()
        )));
    }
    Ok((held, settled, Work::open(&layout)))
}

/// Starts the runtime that the directory asks for.
async fn start_role(builder: &NodeBuilder, settled: Settled, work: &Work) -> Result<Runtime, StartError> {
    match settled {
        Settled::Worker(mut file) => {
            let layout = builder.layout();
            let moving = builder.clone();
            let (file, identity) = off_thread(move || {
                moving.contradicts(&file.facts.name, &file.facts.listen, &file.facts.advertise)?;
                if moving.moved(&mut file.facts.listen, &mut file.facts.advertise)? {
                    file.save(&layout)?;
                }
                let identity = identity_of(&layout, &file.facts)?;
                Ok((file, identity))
            })
            .await?;
            let worker = Worker::start(builder, *file, identity, work.clone()).await?;
            Ok(Runtime::Worker(Arc::new(worker)))
        }
        #[cfg(feature = "manager")]
        Settled::Store | Settled::HalfJoined => {
            let manager = super::running::start(builder.clone(), work.clone()).await?;
            Ok(Runtime::Manager(Arc::new(manager)))
        }
        #[cfg(not(feature = "manager"))]
        Settled::Store | Settled::HalfJoined => {
            let layout = builder.layout();
            if layout.store().exists() {
                return Err(super::state_file::not_a_manager(&layout));
            }
            Err(StartError::Directory(format!(
                "{} holds no node; prepare it with `quorate join`",
                builder.directory.display()
            )))
        }
    }
}

/// Starts the node as what its directory says.
pub(super) async fn start(builder: NodeBuilder) -> Result<Node, StartError> {
    let opening = builder.clone();
    let (held, settled, work) = off_thread(move || open(&opening)).await?;
    // A start holds much at a time, and those who embed a node hold it in theirs.
    let runtime = Box::pin(start_role(&builder, settled, &work)).await?;
    let prepared = runtime.prepared();
    let current = watch::Sender::new(Some(runtime));
    let (stop, stopping) = watch::channel(Stop::No);
    let (stopped_out, stopped) = watch::channel(None);
    let way = NodeWay::new(current.subscribe(), stopped.clone());
    let client = way.client()?;
    let (named, layout) = (prepared.clone(), builder.layout());
    let inner =
        Inner { prepared, client: client.clone(), current: current.subscribe(), work: work.clone(), stop, stopped };
    let ending = work.clone();
    let ground = builder.ground.clone();
    let supervisor = Supervisor { builder, work, current, stopping, client };
    ground.start("quorate-node", Drives::Network, supervisor.run(), move |reason| {
        if reason == StopReason::Removed {
            departed::note(&layout, &named);
        }
        drop(held);
        ending.end();
        stopped_out.send_replace(Some(reason));
    })?;
    Ok(Node { inner: Arc::new(inner) })
}

struct Supervisor {
    builder: NodeBuilder,
    work: Work,
    current: watch::Sender<Current>,
    stopping: watch::Receiver<Stop>,
    client: crate::client::Client,
}

impl Supervisor {
    async fn run(mut self) -> StopReason {
        loop {
            let Some(runtime) = self.current.borrow().clone() else { return StopReason::Asked };
            let end = self.until_it_ends(&runtime).await;
            // Whoever follows it now waits for the next one.
            self.current.send_replace(None);
            drop(runtime);
            let next = match end {
                End::Stopped(reason) => match self.after(reason).await {
                    None => self.next().await,
                    Some(reason) => return reason,
                },
                End::Promoted => self.next().await,
            };
            match next {
                Ok(next) => {
                    if let Err(error) = self.client.renew(next.applied()) {
                        return StopReason::Bug(error.to_string());
                    }
                    self.current.send_replace(Some(next));
                }
                Err(reason) => return reason,
            }
        }
    }

    /// Waits for the runtime's end, and brings it about when the node is asked to stop.
    async fn until_it_ends(&self, runtime: &Runtime) -> End {
        let mut stopping = self.stopping.clone();
        let asked = async {
            // A handle that is gone asks for the end, too.
            let orderly = stopping.wait_for(|stop| *stop != Stop::No).await.is_ok_and(|stop| *stop == Stop::Orderly);
            match runtime {
                #[cfg(feature = "manager")]
                Runtime::Manager(manager) if orderly => {
                    tokio::select! {
                        () = manager.shutdown() => {}
                        _ = stopping.wait_for(|stop| *stop == Stop::Now) => manager.stop_now(),
                    }
                }
                #[cfg(feature = "manager")]
                Runtime::Manager(manager) => manager.stop_now(),
                Runtime::Worker(worker) => {
                    let _ = orderly;
                    worker.stop();
                }
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            match runtime {
                #[cfg(feature = "manager")]
                Runtime::Manager(manager) => End::Stopped(manager.stopped().await),
                Runtime::Worker(worker) => worker.ended().await,
            }
        };
        tokio::select! {
            end = ended => end,
            () = asked => End::Stopped(StopReason::Asked),
        }
    }

    /// Why the node ends, now that a role of it has ended for this reason; none when it goes on in another one.
    #[cfg_attr(not(feature = "manager"), expect(clippy::unused_async, reason = "a worker's role ends with the node"))]
    async fn after(&self, reason: StopReason) -> Option<StopReason> {
        #[cfg(feature = "manager")]
        if reason == StopReason::Removed && !self.builder.layout().root().join("node.state").exists() {
            // Said of a manager's raft id; what the node is now is another question.
            let mut stopping = self.stopping.clone();
            return tokio::select! {
                told = super::transition::after_removal(&self.builder) => told,
                _ = stopping.wait_for(|stop| *stop != Stop::No) => Some(StopReason::Asked),
            };
        }
        Some(reason)
    }

    /// The runtime that the directory asks for now; tried again where that may help.
    async fn next(&mut self) -> Result<Runtime, StopReason> {
        let mut pause = Duration::from_millis(500);
        loop {
            let layout = self.builder.layout();
            let settled = off_thread(move || settle(&layout)).await;
            let started = match settled {
                Ok(settled) => start_role(&self.builder, settled, &self.work).await,
                Err(error) => Err(error),
            };
            let error = match started {
                Ok(runtime) => return Ok(runtime),
                Err(error) => error,
            };
            if let StartError::Damaged(why) = error {
                return Err(StopReason::Damaged(why));
            } else if let StartError::Disk(why) = error {
                return Err(StopReason::DiskFailed(why));
            } else if let StartError::Superseded(why) = error {
                return Err(StopReason::Superseded(why));
            } else if let StartError::RolledBack(why) = error {
                return Err(StopReason::RolledBack(why));
            } else if let StartError::Identity(why) = error {
                return Err(StopReason::IdentityRefused(why));
            }
            tracing::error!(%error, "the node's next role cannot be started yet; it is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopping.wait_for(|stop| *stop != Stop::No) => return Err(StopReason::Asked),
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }
}
