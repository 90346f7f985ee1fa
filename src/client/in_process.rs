//! The way to the manager in this very process.
//!
//! Owns nothing but the hop onto the node's own runtime: an embedder that blocks its runtime does not block the node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quorate_transport::api;
use tokio::sync::watch;

use super::{Answered, CallError, Reply, Way};
use crate::node::Service;

/// The service of the node in this process, with the rights of its local socket.
pub(crate) struct InProcess {
    service: Arc<Service>,
    runtime: tokio::runtime::Handle,
}

impl InProcess {
    pub(crate) const fn new(service: Arc<Service>, runtime: tokio::runtime::Handle) -> Self {
        Self { service, runtime }
    }
}

impl Way for InProcess {
    fn managers(&self) -> usize {
        1
    }

    fn call<'a>(&'a self, request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
        if self.service.is_closed() {
            let message = "this manager has stopped. Nothing was done; ask another one".to_owned();
            return Box::pin(async move { Err(CallError { unknown: false, message, unreachable: vec![0] }) });
        }
        let service = Arc::clone(&self.service);
        let asked = self.runtime.spawn(async move { service.call(&service.local_asker(&request), request).await });
        Box::pin(async move {
            let response = asked.await.map_err(|error| {
                let message = format!("the node stopped: {error}");
                CallError { unknown: true, message, unreachable: Vec::new() }
            })?;
            Ok(Answered { by: 0, response })
        })
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}
