//! Ways to a manager from outside: QUIC with an identity, or the local socket of a node on this machine.
//!
//! Owns the choice of manager: it stays with one that answers, and tries the next when one does not. Never retries a
//! request by itself: the client decides.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::Lineage;
use quorate_transport::{ConnectError, Connection, Connector, Hello, Identity, LocalConnection, RequestError, api};
use tokio::sync::Mutex;

use super::{CallError, Reply, Way};
use crate::config;
use crate::error::{Error, Result};

/// The version told in hellos.
pub(crate) const SOFTWARE: &str = concat!("quorate ", env!("CARGO_PKG_VERSION"));

struct Current {
    /// Bumped with every new connection, so that of many callers that fail together one replaces it.
    number: u64,
    connection: Connection,
}

/// Over QUIC.
pub(super) struct Remote {
    managers: Vec<String>,
    identity: Arc<Identity>,
    current: Mutex<Option<Current>>,
}

impl Remote {
    pub(super) async fn connect(managers: Vec<String>, identity: Identity, timeout: Duration) -> Result<Self> {
        let remote = Self { managers, identity: Arc::new(identity), current: Mutex::new(None) };
        let connection = remote.dial(&remote.managers, timeout).await.map_err(|error| refused(&error))?;
        *remote.current.lock().await = Some(Current { number: 1, connection });
        Ok(remote)
    }

    async fn dial(&self, managers: &[String], timeout: Duration) -> std::result::Result<Connection, ConnectError> {
        let subject = self.identity.subject();
        let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), SOFTWARE);
        Connector::connect(managers, Arc::clone(&self.identity), hello, timeout).await
    }

    async fn connection(&self, patience: Duration) -> std::result::Result<(u64, Connection), CallError> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|current| !current.connection.is_closed()) {
            return Ok((current.number, current.connection.clone()));
        }
        let number = current.as_ref().map_or(0, |current| current.number) + 1;
        // Whoever answered last is tried last: it is the one that just failed.
        let mut managers = self.managers.clone();
        let turn = usize::try_from(number).unwrap_or(0) % managers.len().max(1);
        managers.rotate_left(turn);
        let connection = self
            .dial(&managers, patience)
            .await
            .map_err(|error| CallError { unknown: false, message: error.to_string() })?;
        *current = Some(Current { number, connection: connection.clone() });
        Ok((number, connection))
    }

    /// The connection with this number did not serve: the next call dials another.
    async fn leave(&self, number: u64) {
        let mut current = self.current.lock().await;
        if let Some(failed) = current.take_if(|current| current.number == number) {
            drop(current);
            failed.connection.close().await;
        }
    }
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
            let (number, connection) = self.connection(patience.max(config::ATTEMPT * 4)).await?;
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
}
