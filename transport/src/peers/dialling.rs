//! The dialling of one peer, again and again, for as long as it is in the set and not connected.
//!
//! Owns whose turn it is, the pauses, and the race of a peer's addresses. Never keeps a connection: [`super::start`] does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_core::id::RaftId;
use tokio::sync::Notify;

use super::{PeerAddress, greet_error, locked, start};
use crate::codes;
use crate::dial::{self, ConnectError};
use crate::endpoint::Shared;
use crate::greet::{self, Asked};
use crate::handler::Plane;
use crate::hello::{Hello, Refused};

/// Dials one peer for as long as it is in the set.
pub(super) async fn dial_loop(shared: Arc<Shared>, target: PeerAddress, wake: Arc<Notify>, nudged: Arc<AtomicBool>) {
    let id = target.raft_id;
    let options = shared.options.clone();
    let mut backoff = options.backoff_min;
    let mut waited = false;
    loop {
        if shared.registry.is_live(id) {
            nudged.store(false, Ordering::Release);
            waited = false;
            backoff = options.backoff_min;
            wake.notified().await;
            continue;
        }
        let ours = shared.gate.hello();
        if ours.raft_id == id {
            wake.notified().await;
            continue;
        }
        let asked = nudged.swap(false, Ordering::AcqRel);
        let our_turn = ours.raft_id != RaftId(0) && ours.raft_id < id;
        if !our_turn && !waited && !asked {
            // The other one dials. Only if it does not come, it may not know us, and we do.
            waited = tokio::time::timeout(options.dial_grace, wake.notified()).await.is_err();
            continue;
        }
        match dial_once(&shared, &target, ours).await {
            Ok(()) => {
                locked(&shared.registry.failures).remove(&id);
                backoff = options.backoff_min;
                continue;
            }
            Err(error) => {
                tracing::debug!(peer = %id, %error, "dialling a manager failed");
                shared.registry.failed(id, &wake, error);
            }
        }
        // Half to all of the time, at random: managers that lost each other do not come back in step.
        let jitter = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
        let pause = backoff.mul_f64(0.5 + jitter / 2.0);
        backoff = (backoff * 2).min(options.backoff_max);
        if tokio::time::timeout(pause, wake.notified()).await.is_ok() {
            backoff = options.backoff_min;
        }
    }
}

async fn dial_once(shared: &Arc<Shared>, target: &PeerAddress, ours: Hello) -> Result<(), ConnectError> {
    let credentials = shared.credentials.current();
    credentials.check_time().map_err(ConnectError::OwnCertificate)?;
    let timeout = shared.options.handshake_deadline;
    let (node, expected) = (target.node_id, target.raft_id);
    let ours = Arc::new(ours);
    let attempt = |address: SocketAddr| {
        let (shared, credentials, ours) = (shared.clone(), credentials.clone(), ours.clone());
        async move {
            let transport = crate::socket::peer_transport(&shared.options);
            let connection = dial::on(&shared.options.network, &shared.quinn, address, timeout, transport, |verdict| {
                credentials.client(Plane::Peer, node, verdict)
            })
            .await?;
            let asked = greet::ask(&connection, Plane::Peer, &ours, shared.instance, |caller, hello| {
                if hello.raft_id != expected {
                    return Err(Refused::WrongNode(format!(
                        "raft id {expected} was dialled, this is {}",
                        hello.raft_id
                    )));
                }
                shared.judge(&ours, caller, hello)
            });
            let asked = tokio::time::timeout(timeout, asked).await.map_err(|_elapsed| {
                connection.close(codes::PROTOCOL.into(), b"no hello in time");
                ConnectError::Timeout { address: address.to_string(), after: timeout }
            })?;
            let asked = asked.map_err(|error| greet_error(error, address))?;
            Ok(Candidate { connection: Some(connection), asked: Some(asked), address })
        }
    };
    let (_, mut candidate) = dial::race(&target.addresses, timeout * 2, dial::STAGGER, attempt).await?;
    let address = candidate.address;
    let (Some(connection), Some(asked)) = (candidate.connection.take(), candidate.asked.take()) else {
        return Err(ConnectError::NoAddress);
    };
    let greeted = asked.confirm(&connection).await.map_err(|error| greet_error(error, address))?;
    start(shared, connection, greeted, &credentials, true).map_err(|refused| ConnectError::Refused {
        address,
        refused,
        ours: true,
    })
}

/// A connection that has not won its race yet; dropping it closes it.
struct Candidate {
    connection: Option<quinn::Connection>,
    asked: Option<Asked>,
    address: SocketAddr,
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close(codes::REPLACED.into(), b"another address was faster");
        }
    }
}
