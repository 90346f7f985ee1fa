//! The way to the manager in this very process.
//!
//! Owns nothing but the hop onto the node's own runtime: an embedder that blocks its runtime does not block the node.

use std::sync::Arc;
use std::time::Duration;

use quorate_transport::api;
use tokio::sync::watch;

use super::{CallError, Reply, Way};
use crate::node::{Asker, Service};

/// The service of the node in this process, with an operator's rights.
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
    fn call(&self, request: api::Request, _patience: Duration) -> Reply<'_> {
        if self.service.is_closed() {
            let message = "this manager has stopped. Nothing was done; ask another one".to_owned();
            return Box::pin(async move { Err(CallError { unknown: false, message }) });
        }
        let service = Arc::clone(&self.service);
        let asked = self.runtime.spawn(async move { service.call(&Asker::Operator, request).await });
        Box::pin(async move {
            asked.await.map_err(|error| CallError { unknown: true, message: format!("the node stopped: {error}") })
        })
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}
