//! What the node gives to the transport, and what it gets from it.
//!
//! Owns the two traits at the border and the small types in their signatures. Never blocks: every method is called on
//! a task of the endpoint and must return at once. Implemented by the node.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use quorate_core::id::{Enrolled, NodeId, RaftId};
use tokio::sync::{mpsc, oneshot};

use crate::answers::Place;
use crate::ca::{CertRole, IssuerId};
use crate::calls::LaneAnswer;
use crate::feed::Feed;
use crate::hello::{Hello, Refused};
use crate::join::{JoinReply, JoinRequest};
use crate::session::Session;

/// What a connection is for. The ALPN decides, inside the TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plane {
    /// Managers among themselves.
    Peer,
    /// Requests of clients, operators, workers and managers.
    Client,
    /// Newcomers without a certificate.
    Join,
    /// The Unix socket in the data directory.
    Local,
}

impl Plane {
    /// The ALPN; none for the local socket.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Peer => b"quorate-peer/1",
            Self::Client => b"quorate-client/1",
            Self::Join => b"quorate-join/1",
            Self::Local => b"",
        }
    }

    pub(crate) fn from_alpn(alpn: &[u8]) -> Option<Self> {
        [Self::Peer, Self::Client, Self::Join].into_iter().find(|plane| plane.alpn() == alpn)
    }
}

/// Which of a peer's long-lived streams a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Votes, heartbeats, acknowledgements, reads: small and urgent.
    Control,
    /// Log entries.
    Append,
}

/// Who is at the other end, as proven by the certificate, or by the socket's credentials on [`Plane::Local`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// How it came in.
    pub plane: Plane,
    /// What its certificate lets it be. On [`Plane::Local`] this is [`CertRole::Operator`]; the node decides what that means.
    pub role: CertRole,
    /// The node in its certificate; all zero on [`Plane::Local`].
    pub node_id: NodeId,
    /// Its raft id as its hello says it, for managers only; `None` when it has none. That it is the node's own is for the
    /// gate to check, which has the records.
    pub raft_id: Option<RaftId>,
    /// Where it sends from; `None` on [`Plane::Local`].
    pub address: Option<SocketAddr>,
    /// SHA-256 of its public key; all zero on [`Plane::Local`].
    pub key_digest: [u8; 32],
    /// The raft id that its certificate says it was given.
    pub enrolled: Option<Enrolled>,
    /// Which root signed its certificate; all zero on [`Plane::Local`].
    pub issuer: IssuerId,
}

/// Why a peer is no longer connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Down {
    /// It no longer knows the connection: its process was restarted.
    #[error("it was restarted")]
    Reset,
    /// Nothing was heard for the idle timeout.
    #[error("nothing was heard from it for the idle timeout")]
    TimedOut,
    /// It closed the connection on purpose.
    #[error("it closed the connection: {0}")]
    Closed(String),
    /// It, or this side, refused the other.
    #[error("refused: {0}")]
    Refused(Refused),
    /// A newer connection to the same peer took over.
    #[error("a newer connection took over")]
    Replaced,
    /// This side closed: the peer left the set, or the endpoint stops.
    #[error("closed by this side: {0}")]
    Ours(String),
    /// It did not read what was sent for too long.
    #[error("it stopped reading")]
    Stalled,
    /// It broke the protocol, or the connection did.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// A piece of a snapshot. A channel of pieces that closes without [`SnapshotPiece::End`] was given up: what came before must not be used.
#[derive(Clone, PartialEq, Eq)]
pub enum SnapshotPiece {
    /// The next bytes; any length, cut to 1 MiB on the wire.
    Data(Bytes),
    /// All bytes were given; on the receiving side length and digest have been checked.
    End,
}

impl fmt::Debug for SnapshotPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(bytes) => write!(f, "Data({} bytes)", bytes.len()),
            Self::End => f.write_str("End"),
        }
    }
}

/// A snapshot on its way in. Slow reading slows the sender down; memory stays bounded.
#[derive(Debug)]
pub struct IncomingSnapshot {
    /// What the sender gave as header.
    pub header: Bytes,
    /// The pieces in order, a bounded queue; see [`SnapshotPiece`].
    pub chunks: mpsc::Receiver<SnapshotPiece>,
    /// To be answered when everything is on disk (or why not); dropping it counts as a failure.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Where the answer to a request goes. Dropped, it tells the caller that the outcome is unknown.
#[derive(Debug)]
pub struct Answer {
    to: Option<To>,
    place: Place,
}

/// An answer with the room that it takes.
pub(crate) type Placed = (Bytes, Place);

#[derive(Debug)]
enum To {
    Alone(oneshot::Sender<Placed>),
    Lane(LaneAnswer),
}

impl To {
    async fn closed(&mut self) {
        match self {
            Self::Alone(sender) => sender.closed().await,
            Self::Lane(lane) => lane.closed().await,
        }
    }
}

impl Answer {
    pub(crate) const fn alone(sender: oneshot::Sender<Placed>, place: Place) -> Self {
        Self { to: Some(To::Alone(sender)), place }
    }

    pub(crate) const fn on_lane(lane: LaneAnswer, place: Place) -> Self {
        Self { to: Some(To::Lane(lane)), place }
    }

    /// Where the answer finds room, for who makes it: what it holds of that goes with the answer.
    pub const fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Waits for room for an answer that is made: false when nobody waits for it any more, or too many wait for room; it is
    /// then to be thrown away.
    ///
    /// Cancel safe: it leaves the line.
    pub async fn fits(&mut self, bytes: usize) -> bool {
        let Some(to) = &mut self.to else { return false };
        tokio::select! {
            biased;
            () = to.closed() => false,
            room = self.place.queue(bytes) => room.is_ok(),
        }
    }

    /// Answers; nothing happens when nobody waits any more. What is larger than the place that it has, and finds none now, is
    /// thrown away: [`fits`](Self::fits) waits for it.
    pub fn send(mut self, body: Bytes) {
        if !self.place.take_now(body.len()) {
            return;
        }
        let place = std::mem::take(&mut self.place);
        match self.to.take() {
            Some(To::Alone(sender)) => drop(sender.send((body, place))),
            Some(To::Lane(lane)) => lane.send(Some((body, place))),
            None => {}
        }
    }

    /// Resolves when nobody waits any more: at once for a request with a stream of its own, for one of many on a stream
    /// when that ends.
    ///
    /// Cancel safe.
    pub async fn closed(&mut self) {
        if let Some(to) = &mut self.to {
            to.closed().await;
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(To::Lane(lane)) = self.to.take() {
            lane.send(None);
        }
    }
}

/// Record-based checks, and this node's own hello.
pub trait Gate: Send + Sync + 'static {
    /// Whether this caller may connect. Role for the plane is checked before, cluster, lineage and protocol version beside it
    /// (the stricter answer counts); asked on both sides of a peer connection, and not by clients. It has to compare node id,
    /// raft id, store id and key digest with the node's record: the transport has none.
    ///
    /// # Errors
    /// The reason, which is also told to the caller.
    fn admit(&self, plane: Plane, caller: &Caller, hello: &Hello) -> Result<(), Refused>;

    /// The hello of now; asked for each connection.
    fn hello(&self) -> Hello;
}

/// Everything that comes in. All methods are called on tasks of the endpoint: they must not block. They may call
/// [`crate::Peers`] and [`crate::Endpoint`].
pub trait Handler: Send + Sync + 'static {
    /// A message of a peer. `from` is the raft id bound to the connection. Messages of one lane arrive in order.
    fn message(&self, from: RaftId, lane: Lane, body: Bytes);
    /// A peer is connected; messages follow. Ups and downs of one peer alternate.
    fn peer_up(&self, peer: RaftId);
    /// It is not connected any more.
    fn peer_down(&self, peer: RaftId, reason: Down);
    /// A peer sends a snapshot.
    fn snapshot(&self, from: RaftId, incoming: IncomingSnapshot);
    /// A request.
    fn request(&self, caller: Caller, body: Bytes, reply: Answer);
    /// A worker opens a session. Dropping it ends it. The default takes none.
    fn session(&self, caller: Caller, session: Session) {
        drop((caller, session));
    }
    /// A question that is answered for as long as the asker listens. Dropping the feed ends it.
    fn feed(&self, caller: Caller, body: Bytes, feed: Feed);
    /// A newcomer asks to join, or a node to have its certificate renewed ([`JoinRequest::renewal`]); of who it is only the
    /// signature of its request is proven. Compare its secret in constant time ([`crate::TokenSecret::matches`]).
    fn join(&self, source: SocketAddr, request: JoinRequest, reply: oneshot::Sender<JoinReply>);
    /// Who has a manager's certificate of this cluster showed a lineage that continues ours: if what stands for it counts
    /// ([`crate::word`]), this node is of an older incarnation.
    fn lineage_newer(&self, hello: &Hello);
    /// A task without which the endpoint is of no use has panicked; `task` says what it did, in words after "that".
    fn failed(&self, task: &'static str) {
        tracing::error!(task, "a task of the endpoint failed");
    }
}
