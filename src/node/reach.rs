//! The way to the other managers, for as long as the node runs.
//!
//! Owns the letting go: a client that outlives its node holds neither the endpoint nor its UDP port. Called by the service
//! and the router.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_transport::{Network, Parting, Peers, RequestError};

/// The peers, until the node stops. Clones let go together.
#[derive(Clone)]
pub(super) struct Reach(Arc<RwLock<Option<Peers>>>);

impl Reach {
    pub(super) fn new(peers: Peers) -> Self {
        Self(Arc::new(RwLock::new(Some(peers))))
    }

    /// Asks a peer.
    pub(super) async fn request(&self, peer: RaftId, body: Bytes, patience: Duration) -> Result<Bytes, RequestError> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match peers {
            Some(peers) => peers.request(peer, body, patience).await,
            None => Err(RequestError::NotSent("this manager has stopped".into())),
        }
    }

    /// Asks a peer something short with a short answer.
    pub(super) async fn call(&self, peer: RaftId, body: Bytes, patience: Duration) -> Result<Bytes, RequestError> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match peers {
            Some(peers) => peers.call(peer, body, patience).await,
            None => Err(RequestError::NotSent("this manager has stopped".into())),
        }
    }

    /// Whether the newcomer with this key answers at the address that it gave.
    pub(super) async fn dial_back(&self, address: &str, key: [u8; 32], patience: Duration) -> Result<(), String> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match peers {
            Some(peers) => peers.dial_back(address, key, patience).await.map_err(|error| error.to_string()),
            None => Err("this manager has stopped".into()),
        }
    }

    /// What carries this node's datagrams; the machine's UDP once it has stopped.
    pub(super) fn network(&self) -> Network {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(Peers::network).unwrap_or_default()
    }

    /// How long nothing has come from a peer; `None` when nothing ever came in this process's life.
    pub(super) fn silence(&self, peer: RaftId) -> Option<Duration> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.silence(peer)
    }

    /// Whether a peer says that it is locked.
    pub(super) fn is_locked(&self, peer: RaftId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|peers| peers.is_locked(peer))
    }

    /// Whether a peer said, when it went, that starting it again does not bring it back.
    pub(super) fn parted(&self, peer: RaftId) -> Option<Parting> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.parted(peer)
    }

    /// Bytes of the requests that were read here and are not answered yet.
    pub(super) fn request_bytes(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Peers::request_bytes)
    }

    /// Requests that were turned away here because too much was under way.
    pub(super) fn requests_turned_away(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Peers::requests_turned_away)
    }

    /// Bytes of the answers that were made here and are not taken yet.
    pub(super) fn answer_bytes(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Peers::answer_bytes)
    }

    /// Callers that were cut here because they did not take their answers in time.
    pub(super) fn answers_cut(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Peers::answers_cut)
    }

    /// Where the connected peers want to be reached, by their own word.
    pub(super) fn advertised(&self) -> Vec<(RaftId, String)> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connected = peers.map(|peers| peers.connected()).unwrap_or_default();
        let told = connected.into_iter().map(|(id, peer)| (id, peer.hello.advertise));
        told.filter(|(_, address)| !address.is_empty()).collect()
    }

    /// The round-trip times to the connected peers.
    pub(super) fn round_trips(&self) -> Vec<(RaftId, Duration)> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connected = peers.map(|peers| peers.connected()).unwrap_or_default();
        connected.into_iter().map(|(id, peer)| (id, peer.rtt)).collect()
    }

    /// Who is connected.
    pub(super) fn connected(&self) -> Vec<RaftId> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        peers.map(|peers| peers.connected().into_iter().map(|(id, _)| id).collect()).unwrap_or_default()
    }

    /// The node has stopped.
    pub(super) fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}
