//! Many workers in one process: their sessions alone, for measuring and for tests with more workers than threads.
//!
//! Owns one task for each on the caller's runtime: the very session that a node holds, with its certificate and its files, but
//! without its threads, its local socket and its supervisor. Never in a build without `testing`. Called by benches and tests.

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_transport::ClientSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::session::Driver;
use super::{End, Link};
use crate::node::builder::{NodeBuilder, off_thread};
use crate::node::own_identity;
use crate::node::state_file::{Settled, settle};
use crate::node::stop::{StartError, StopReason};
use crate::node::work::Work;

/// A UDP socket that the sessions of many workers share.
#[derive(Debug, Clone)]
pub struct SharedSocket(ClientSocket);

impl SharedSocket {
    /// One that reaches addresses of the same family as `towards`; carried by the caller's runtime.
    ///
    /// # Errors
    /// The machine gave none.
    pub fn open(towards: SocketAddr) -> Result<Self, StartError> {
        ClientSocket::open(towards).map(Self).map_err(|error| StartError::Address(error.to_string()))
    }
}

/// A worker that is nothing but its session. Dropped, it closes its connection and is gone.
pub struct WorkerSession {
    link: watch::Receiver<Link>,
    stop: watch::Sender<bool>,
    task: JoinHandle<End>,
}

impl std::fmt::Debug for WorkerSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerSession").field("manager", &self.manager()).finish_non_exhaustive()
    }
}

impl WorkerSession {
    /// Runs the session of the worker whose directory was prepared by [`NodeBuilder::join`], on the caller's runtime, and goes on
    /// looking for managers for as long as it lives.
    ///
    /// Cancel safe: dropped half-way, nothing of it goes on.
    ///
    /// # Errors
    /// `Directory` when no worker lies there.
    pub async fn start(builder: NodeBuilder, socket: &SharedSocket) -> Result<Self, StartError> {
        let layout = builder.layout();
        let opened = off_thread(move || match settle(&layout)? {
            Settled::Worker(file) => Ok((*file, own_identity::load(&layout)?, Work::open(&layout))),
            Settled::Store | Settled::HalfJoined => {
                Err(StartError::Directory(format!("{} holds no worker", layout.root().display())))
            }
        });
        let (file, identity, work) = opened.await?;
        let (link_out, link) = watch::channel(Link::default());
        let (stop, stopping) = watch::channel(false);
        let driver = Driver::new(&builder, file, Arc::new(identity), work, link_out).over(socket.0.clone());
        let task = tokio::spawn(driver.run(stopping));
        Ok(Self { link, stop, task })
    }

    /// The manager that it has its session with, once that has welcomed it.
    pub fn manager(&self) -> Option<String> {
        let link = self.link.borrow();
        link.connection.as_ref().filter(|connection| !connection.is_closed() && !link.manager.is_empty())?;
        Some(link.manager.clone())
    }

    /// Sessions that it has had so far.
    pub fn begun(&self) -> u64 {
        self.link.borrow().begun
    }

    /// Waits for a session.
    ///
    /// Cancel safe.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut link = self.link.clone();
        async move {
            let welcomed = link.wait_for(|link| link.connection.is_some() && !link.manager.is_empty());
            let _ = welcomed.await.is_ok();
        }
    }

    /// Why it has none, in words; empty while it has one.
    pub fn trouble(&self) -> String {
        self.link.borrow().trouble.clone()
    }

    /// Says goodbye and ends.
    ///
    /// Cancel safe once polled: it ends all the same.
    pub async fn shutdown(self) -> StopReason {
        self.stop.send_replace(true);
        match self.task.await {
            Ok(End::Stopped(reason)) => reason,
            Ok(End::Promoted) => StopReason::Asked,
            Err(error) => StopReason::Bug(format!("the session's task failed: {error}")),
        }
    }
}
