//! Callers of every kind, without a program of quorate around them: by the client's door, by a session's, and as a manager that does nothing
//! but ask.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate::Identity;
use quorate_core::id::{Lineage, RaftId, StoreId};
use quorate_core::membership::upgrade::Support;
use quorate_transport::api::{self, request::Kind, response};
use quorate_transport::{
    Answer, Caller, ConnectError, Connection, Connector, Down, Endpoint, EndpointConfig, EndpointOptions, Feed, Gate,
    Handler, Hello, IncomingSnapshot, JoinReply, JoinRequest, Lane, LocalConnection, PROTOCOL_MAX, PROTOCOL_MIN,
    PeerAddress, Plane, Refused,
};

use crate::support::eventually;

/// A way to ask.
pub(crate) enum Door {
    Client(Connection),
    Local(LocalConnection),
    Peer(Endpoint, RaftId),
}

impl Door {
    pub(crate) async fn ask(&self, kind: Kind) -> response::Kind {
        self.try_ask(kind).await.expect("an answer")
    }

    /// None when the connection is not there any more.
    pub(crate) async fn try_ask(&self, kind: Kind) -> Option<response::Kind> {
        let patience = Duration::from_secs(20);
        let request = api::Request { deadline_ms: 10_000, kind: Some(kind) };
        let body: Bytes = request.encode_to_vec().into();
        let answer = match self {
            Self::Client(connection) => connection.request(body, patience).await,
            Self::Local(connection) => connection.request(body, patience).await,
            Self::Peer(endpoint, peer) => endpoint.peers().request(*peer, body, patience).await,
        };
        let answer = api::Response::decode(answer.ok()?).unwrap();
        Some(answer.kind.expect("a kind that is known here"))
    }
}

pub(crate) async fn client(identity: Identity, address: &str) -> Result<Connection, ConnectError> {
    let subject = *identity.subject();
    let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), "test");
    let timeout = Duration::from_secs(10);
    Connector::default().connect_to(&[address.to_owned()], Arc::new(identity), hello, timeout).await
}

/// A manager that does nothing but ask.
struct Mute(Hello);

impl Gate for Mute {
    fn admit(&self, _plane: Plane, _caller: &Caller, _hello: &Hello) -> Result<(), Refused> {
        Ok(())
    }

    fn hello(&self) -> Hello {
        self.0.clone()
    }
}

impl Handler for Mute {
    fn message(&self, _from: RaftId, _lane: Lane, _body: Bytes) {}
    fn peer_up(&self, _peer: RaftId) {}
    fn peer_down(&self, _peer: RaftId, _reason: Down) {}
    fn snapshot(&self, _from: RaftId, incoming: IncomingSnapshot) {
        let _ = incoming.done.send(Err("not here".into()));
    }
    fn request(&self, _caller: Caller, _body: Bytes, _reply: Answer) {}
    fn feed(&self, _caller: Caller, _body: Bytes, _feed: Feed) {}
    fn join(&self, _source: SocketAddr, _request: JoinRequest, _reply: tokio::sync::oneshot::Sender<JoinReply>) {}
    fn lineage_newer(&self, _hello: &Hello) {}
}

/// The peer plane, with the identity of a manager that is not running, to the manager with raft id 1.
pub(crate) async fn peer(directory: &Path, address: &str) -> Endpoint {
    let endpoint = knock(directory, address, RaftId(quorate::inspect(directory).unwrap().raft_id));
    eventually("the peer plane is there", || async { (!endpoint.peers().connected().is_empty()).then_some(()) }).await;
    endpoint
}

/// The same on its way, claiming this raft id.
pub(crate) fn knock(directory: &Path, address: &str, raft_id: RaftId) -> Endpoint {
    let inspected = quorate::inspect(directory).unwrap();
    let identity = quorate::testing::node_identity(directory, &quorate::keys::Keys::default());
    let identity = Arc::new(identity.unwrap());
    let lineage = inspected.lineage.iter().map(|id| id.parse().unwrap()).collect();
    let hello = Hello {
        cluster_id: identity.subject().cluster,
        lineage: Lineage(lineage),
        node_id: identity.subject().node_id,
        raft_id,
        store_id: Some(inspected.store_id.parse::<StoreId>().unwrap()),
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        support: Support::THIS,
        software: "test".into(),
        advertise: inspected.advertise,
        successions: Vec::new(),
    };
    let mute = Arc::new(Mute(hello));
    let config = EndpointConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        identity,
        seed: [7; 32],
        gate: mute.clone(),
        handler: mute,
        options: EndpointOptions::default(),
    };
    let endpoint = Endpoint::bind(config).unwrap();
    endpoint.set_peers(vec![PeerAddress { raft_id: RaftId(1), node_id: None, addresses: vec![address.to_owned()] }]);
    endpoint
}

pub(crate) fn verdict(answer: &response::Kind) -> char {
    match answer {
        response::Kind::Error(error) if error.code() == api::Code::Denied => '.',
        response::Kind::Error(error) if error.message.contains("a worker keeps no sealed store") => 'r',
        _ => 'y',
    }
}
