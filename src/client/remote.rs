//! Ways to a manager from outside: QUIC with an identity, or the local socket of a node on this machine.
//!
//! Owns the choice of manager: it stays with one that answers, and tries the next when one does not. Never retries a
//! request by itself: the client decides.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder};
use quorate_transport::{ConnectError, Connection, Connector, Hello, Identity, LocalConnection, RequestError, api};
use tokio::sync::{Mutex, watch};

use super::{CallError, Reply, Way};
use crate::config;
use crate::error::{Error, Result};

/// The version told in hellos.
pub(crate) const SOFTWARE: &str = concat!("quorate ", env!("CARGO_PKG_VERSION"));

/// The connection in use.
struct Current {
    /// Bumped with every new connection and kept when one is left: of many callers that fail together one replaces it,
    /// and the next dial begins at the next manager.
    number: u64,
    connection: Option<Connection>,
}

/// Over QUIC.
pub(super) struct Remote {
    managers: Vec<String>,
    identity: Arc<Identity>,
    current: Mutex<Current>,
    /// The longest lineage that a manager has shown: managers of a shorter one are refused from then on.
    lineage: std::sync::Mutex<Lineage>,
    generation: watch::Sender<u64>,
}

impl Remote {
    pub(super) async fn connect(managers: Vec<String>, identity: Identity, timeout: Duration) -> Result<Self> {
        let current = Mutex::new(Current { number: 0, connection: None });
        let (lineage, generation) = (std::sync::Mutex::default(), watch::Sender::new(0));
        let remote = Self { managers, identity: Arc::new(identity), current, lineage, generation };
        let connection = remote.dial(&remote.managers, timeout).await.map_err(|error| refused(&error))?;
        remote.current.lock().await.connection = Some(connection);
        Ok(remote)
    }

    async fn dial(&self, managers: &[String], timeout: Duration) -> std::result::Result<Connection, ConnectError> {
        let subject = self.identity.subject();
        let known = self.known().clone();
        let hello = Hello::client(subject.cluster, subject.node_id, known, SOFTWARE);
        let connection = Connector::connect(managers, Arc::clone(&self.identity), hello, timeout).await?;
        self.adopt(&connection.remote_hello().lineage);
        Ok(connection)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Lineage> {
        self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lineage that continues what this client knows counts from now on, and it never goes back.
    fn adopt(&self, theirs: &Lineage) {
        let mut known = self.known();
        if known.compare(theirs) != LineageOrder::Older {
            return;
        }
        let (from, to) = (known.generation(), theirs.generation());
        known.clone_from(theirs);
        drop(known);
        self.generation.send_replace(to);
        if from > 0 {
            tracing::warn!(from, to, "the cluster was recovered: this client keeps to the new generation");
        }
    }

    async fn connection(&self, patience: Duration) -> std::result::Result<(u64, Connection), CallError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((current.number, connection.clone()));
        }
        let number = current.number + 1;
        let connection = self
            .dial(&in_turn(&self.managers, number), patience)
            .await
            .map_err(|error| CallError { unknown: false, message: error.to_string() })?;
        *current = Current { number, connection: Some(connection.clone()) };
        Ok((number, connection))
    }

    /// The connection with this number did not serve: the next call dials another. Requests that are still under way on
    /// it may end there: it closes with the last of them.
    async fn leave(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.connection = None;
        }
    }
}

/// The managers in the order in which they are tried for the connection with this number: each begins at another.
fn in_turn(managers: &[String], number: u64) -> Vec<String> {
    let mut managers = managers.to_vec();
    let count = u64::try_from(managers.len().max(1)).unwrap_or(1);
    managers.rotate_left(usize::try_from(number % count).unwrap_or(0));
    managers
}

fn refused(error: &ConnectError) -> Error {
    let message = error.to_string();
    let identity = matches!(
        error.root(),
        ConnectError::OwnCertificate(_) | ConnectError::Certificate { .. } | ConnectError::NotAccepted { .. }
    );
    if identity { Error::Denied(message) } else { Error::Unavailable(message) }
}

fn decode(body: Bytes) -> std::result::Result<api::Response, CallError> {
    api::Response::decode(body)
        .map_err(|error| CallError { unknown: true, message: format!("the manager's answer cannot be read: {error}") })
}

impl From<RequestError> for CallError {
    fn from(error: RequestError) -> Self {
        Self { unknown: error.may_have_executed(), message: error.to_string() }
    }
}

impl Way for Remote {
    fn call(&self, request: api::Request, patience: Duration) -> Reply<'_> {
        Box::pin(async move {
            // A dial may take longer than an attempt, and never longer than the caller waits; others may be dialling.
            let left = Duration::from_millis(request.deadline_ms);
            let dialled = tokio::time::timeout(left, self.connection(patience.max(config::ATTEMPT * 4)));
            let (number, connection) = dialled.await.map_err(|_elapsed| CallError {
                unknown: false,
                message: format!("no manager could be reached within {} ms", left.as_millis()),
            })??;
            match connection.request(request.encode_to_vec().into(), patience).await {
                Ok(body) => decode(body),
                Err(error) => {
                    if self.managers.len() > 1 || connection.is_closed() {
                        self.leave(number).await;
                    }
                    Err(error.into())
                }
            }
        })
    }

    fn attempt(&self) -> Option<Duration> {
        Some(config::ATTEMPT)
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        Some(self.generation.subscribe())
    }
}

/// Over the Unix socket in a node's directory.
pub(super) struct Local {
    connection: LocalConnection,
}

impl Local {
    pub(super) async fn connect(directory: &Path) -> Result<Self> {
        let connection =
            LocalConnection::connect(directory).await.map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self { connection })
    }
}

impl Way for Local {
    fn call(&self, request: api::Request, patience: Duration) -> Reply<'_> {
        Box::pin(async move { decode(self.connection.request(request.encode_to_vec().into(), patience).await?) })
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_new_connection_begins_at_the_next_manager() {
        let managers = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let first: Vec<_> = (0..4).filter_map(|number| in_turn(&managers, number).into_iter().next()).collect();
        assert_eq!(first, ["a:1", "b:1", "c:1", "a:1"]);
    }
}
