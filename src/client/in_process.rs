//! The way to the managers from within a node: the manager in this very process, or the manager that the worker in this
//! process has its session with.
//!
//! Owns nothing but the choice, made anew for each call: a client outlives the roles of its node.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::ClientId;
use quorate_transport::api;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Answered, CallError, Client, Fed, Feeding, Reply, Way};
use crate::config;
use crate::node::{Current, Runtime, StartError, StopReason};

/// The node of this process: as a manager with an operator's rights, as a worker with that node's own.
pub(crate) struct NodeWay {
    current: watch::Receiver<Current>,
    stopped: watch::Receiver<Option<StopReason>>,
}

impl NodeWay {
    pub(crate) const fn new(current: watch::Receiver<Current>, stopped: watch::Receiver<Option<StopReason>>) -> Self {
        Self { current, stopped }
    }

    /// What the node is now, or within `patience`.
    async fn runtime(&self, patience: Duration) -> Result<Runtime, CallError> {
        let mut current = self.current.clone();
        let runtime = match timeout_at(Instant::now() + patience, current.wait_for(Option::is_some)).await {
            Ok(Ok(current)) => current.clone(),
            Ok(Err(_stopped)) => {
                return Err(CallError::not_sent("this node has stopped. Nothing was done; ask another one"));
            }
            Err(_elapsed) => None,
        };
        runtime.ok_or_else(|| CallError::not_sent("this node is changing its role. Nothing was done; try again"))
    }

    /// A client over this way.
    pub(crate) fn client(self) -> Result<Client, StartError> {
        let born = self.current.borrow().as_ref().map_or(0, Runtime::applied);
        let id = config::random_id(ClientId::from_bytes).map_err(|error| StartError::Internal(error.to_string()))?;
        Ok(Client::over(Box::new(self), id, born))
    }
}

impl Way for NodeWay {
    fn managers(&self) -> usize {
        1
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
        Box::pin(async move {
            let runtime = self.runtime(Duration::from_millis(request.deadline_ms)).await?;
            Ok(Answered { by: 0, response: runtime.call(request, patience).await? })
        })
    }

    fn feed<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
        Box::pin(async move {
            let receiver = self.runtime(patience).await?.feed(request, patience).await?;
            Ok(Feeding { by: 0, receiver, _over: None })
        })
    }

    fn has_left(&self) -> bool {
        *self.stopped.borrow() == Some(StopReason::Removed)
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}
