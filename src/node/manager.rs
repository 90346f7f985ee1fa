//! A manager's runtime as the handle and the supervisor see it.
//!
//! Owns the ways to end it. What it consists of, [`super::running`] starts.

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_transport::{Feed, FeedReceiver, Place, api};
use tokio::sync::{mpsc, watch};

use super::builder::Prepared;
use super::ending::Ending;
use super::ground::Tasks;
use super::lead::LeaseWatch;
use super::running;
use super::service::Service;
use super::stop::StopReason;
use super::tasks::Call;
use crate::client::CallError;
use crate::status::ClusterStatus;

/// A manager that runs.
pub(crate) struct Manager {
    pub(super) prepared: Prepared,
    pub(super) address: SocketAddr,
    pub(super) service: Arc<Service>,
    pub(super) runtime: Tasks,
    pub(super) inbox: mpsc::Sender<Call>,
    pub(super) ending: Ending,
    pub(super) lease: LeaseWatch,
    pub(super) stopped: watch::Receiver<Option<StopReason>>,
}

impl Manager {
    /// Ends it at once.
    pub(super) fn stop_now(&self) {
        self.ending.stop(StopReason::Asked);
    }

    /// Hands leadership over and ends it.
    pub(super) async fn shutdown(&self) {
        running::shutdown(self).await;
    }

    /// Waits for its end; everything it held is given back then.
    pub(super) async fn stopped(&self) -> StopReason {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(StopReason::Asked),
            Err(_) => StopReason::Bug("the node's threads ended without a word".into()),
        }
    }

    /// Answers a request of this very process, with the rights of the local socket, on the node's own runtime: an embedder that blocks
    /// its runtime does not block the node.
    pub(crate) async fn call(&self, request: api::Request) -> Result<api::Response, CallError> {
        if self.service.is_closed() {
            return Err(CallError::not_sent("this manager has stopped. Nothing was done; ask another one"));
        }
        let service = Arc::clone(&self.service);
        let asker = service.local_asker(request.kind.as_ref());
        let asked = self.runtime.spawn(async move { service.call(asker, request, &mut Place::default()).await });
        asked.await.map_err(|error| CallError::unanswered(format!("the node stopped: {error}")))
    }

    /// A feed within this very process, served on the node's own runtime, with the rights of the local socket.
    pub(crate) fn feed(&self, request: api::Request) -> Result<FeedReceiver, CallError> {
        if self.service.is_closed() {
            return Err(CallError::not_sent("this manager has stopped. Nothing was done; ask another one"));
        }
        let (feed, receiver) = Feed::here();
        let service = Arc::clone(&self.service);
        self.runtime.spawn(async move {
            let asker = service.local_asker(request.kind.as_ref());
            service.feed(Ok(asker), request, feed).await;
        });
        Ok(receiver)
    }

    /// A log index that is applied here.
    pub(crate) fn applied(&self) -> u64 {
        self.service.status.borrow().applied.0
    }

    /// The cluster as this manager sees it.
    pub(super) async fn status(&self) -> ClusterStatus {
        let service = Arc::clone(&self.service);
        let asked = self.runtime.spawn(async move { service.cluster_status().await });
        asked.await.unwrap_or_default()
    }

    /// Writes records as the managers themselves do; whether its conditions held.
    #[cfg(feature = "testing")]
    pub(super) async fn system(&self, txn: quorate_core::txn::Txn) -> Result<bool, CallError> {
        use quorate_core::command::{Command, CommandKind};

        let service = Arc::clone(&self.service);
        let until = tokio::time::Instant::now() + crate::config::REQUEST_DEADLINE;
        let command = Command::from(CommandKind::System(txn));
        let asked = self.runtime.spawn(async move { service.router.execute(command, until).await });
        match asked.await {
            Ok(Ok(done)) => Ok(done.succeeded),
            Ok(Err(error)) => Err(CallError::not_taken(error.message)),
            Err(error) => Err(CallError::unanswered(error.to_string())),
        }
    }

    /// Its leaderships.
    pub(super) fn lease(&self) -> LeaseWatch {
        LeaseWatch { status: self.lease.status.clone(), began: self.lease.began }
    }
}
