//! A cluster's identities, a recording node, and waiting for what must happen.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "the events that are not waited for")]

pub mod raw;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_core::id::{ClusterId, Lineage, LineageId, NodeId, RaftId, StoreId};
use quorate_core::membership::upgrade::Support;
use quorate_transport::*;
use tokio::sync::{mpsc, oneshot};

/// Longer than anything takes: a test that waits this long has failed. No test's outcome depends on its value.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DAY: Duration = Duration::from_secs(86_400);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

pub fn lineage(ids: &[u8]) -> Lineage {
    Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
}

pub fn node_id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

pub struct TestCluster {
    pub id: ClusterId,
    pub ca: ClusterCa,
}

impl TestCluster {
    pub fn new(n: u8) -> Self {
        let id = ClusterId::from_bytes([n; 16]);
        Self { id, ca: ClusterCa::create(id, SystemTime::now()).unwrap() }
    }

    pub fn identity(&self, node: u8, role: CertRole) -> Arc<Identity> {
        self.identity_at(node, role, 30 * DAY, SystemTime::now())
    }

    pub fn identity_at(&self, node: u8, role: CertRole, validity: Duration, now: SystemTime) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let subject = CertSubject { cluster: self.id, node_id: node_id(node), role, enrolled: None };
        let certificate = self.ca.issue(&key.csr().unwrap(), &subject, validity, now).unwrap();
        Arc::new(Identity::new(self.ca.certificate().clone(), certificate, key).unwrap())
    }

    pub fn token(&self) -> JoinToken {
        JoinToken::new(self.ca.hash(), TokenSecret::from_bytes([42; 16]))
    }

    pub fn manager_hello(&self, n: u8) -> Hello {
        Hello {
            cluster_id: self.id,
            lineage: lineage(&[1]),
            node_id: node_id(n),
            raft_id: RaftId(u64::from(n)),
            store_id: Some(StoreId::from_bytes([n; 16])),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            support: Support { oldest: 1, newest: 1 },
            software: "test".into(),
            advertise: String::new(),
            successions: Vec::new(),
        }
    }

    pub fn client_hello(&self, n: u8) -> Hello {
        Hello::client(self.id, node_id(n), lineage(&[1]), "test")
    }
}

#[derive(Debug)]
pub enum Event {
    Message(RaftId, Lane, Bytes),
    Up(RaftId),
    Down(RaftId, Down),
    Newer(Hello),
    Snapshot(RaftId, IncomingSnapshot),
    Request(Caller, Bytes, Answer),
    Join(SocketAddr, JoinRequest, oneshot::Sender<JoinReply>),
    Session(Caller, Session),
    Feed(Caller, Bytes, Feed),
}

/// A node that writes down everything; requests are echoed at once unless they begin with `hold`.
pub struct Recorder {
    pub events: mpsc::UnboundedSender<Event>,
}

impl Handler for Recorder {
    fn message(&self, from: RaftId, lane: Lane, body: Bytes) {
        let _ = self.events.send(Event::Message(from, lane, body));
    }
    fn peer_up(&self, peer: RaftId) {
        let _ = self.events.send(Event::Up(peer));
    }
    fn peer_down(&self, peer: RaftId, reason: Down) {
        let _ = self.events.send(Event::Down(peer, reason));
    }
    fn snapshot(&self, from: RaftId, incoming: IncomingSnapshot) {
        let _ = self.events.send(Event::Snapshot(from, incoming));
    }
    fn request(&self, caller: Caller, body: Bytes, reply: Answer) {
        if body.starts_with(b"hold") {
            let _ = self.events.send(Event::Request(caller, body, reply));
        } else {
            reply.send(body);
        }
    }
    fn join(&self, source: SocketAddr, request: JoinRequest, reply: oneshot::Sender<JoinReply>) {
        let _ = self.events.send(Event::Join(source, request, reply));
    }
    fn session(&self, caller: Caller, session: Session) {
        let _ = self.events.send(Event::Session(caller, session));
    }
    fn feed(&self, caller: Caller, body: Bytes, feed: Feed) {
        let _ = self.events.send(Event::Feed(caller, body, feed));
    }
    fn lineage_newer(&self, hello: &Hello) {
        let _ = self.events.send(Event::Newer(hello.clone()));
    }
}

pub type Admit = Box<dyn Fn(Plane, &Caller, &Hello) -> Result<(), Refused> + Send + Sync>;

pub struct TestGate {
    pub hello: Mutex<Hello>,
    pub admit: Admit,
}

impl Gate for TestGate {
    fn admit(&self, plane: Plane, caller: &Caller, hello: &Hello) -> Result<(), Refused> {
        (self.admit)(plane, caller, hello)
    }
    fn hello(&self) -> Hello {
        self.hello.lock().unwrap().clone()
    }
}

pub struct TestNode {
    pub endpoint: Endpoint,
    pub peers: Peers,
    pub address: String,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub id: RaftId,
    pub gate: Arc<TestGate>,
}

pub struct Setup {
    pub n: u8,
    pub hello: Hello,
    pub identity: Arc<Identity>,
    pub listen: SocketAddr,
    pub options: EndpointOptions,
    pub admit: Admit,
}

impl Setup {
    pub fn new(cluster: &TestCluster, n: u8) -> Self {
        Self {
            n,
            hello: cluster.manager_hello(n),
            identity: cluster.identity(n, CertRole::Manager),
            listen: "127.0.0.1:0".parse().unwrap(),
            // Slow machines must not change who dials or when silence counts; tests of these set their own.
            options: EndpointOptions {
                peer_idle: PATIENCE * 5,
                handshake_deadline: PATIENCE,
                dial_grace: PATIENCE * 60,
                ..EndpointOptions::default()
            },
            admit: Box::new(|_, _, _| Ok(())),
        }
    }

    pub fn try_start(self) -> Result<TestNode, BindError> {
        let (sender, events) = mpsc::unbounded_channel();
        let id = self.hello.raft_id;
        let gate = Arc::new(TestGate { hello: Mutex::new(self.hello), admit: self.admit });
        let endpoint = Endpoint::bind(EndpointConfig {
            listen: self.listen,
            identity: self.identity,
            seed: [self.n; 32],
            gate: gate.clone(),
            handler: Arc::new(Recorder { events: sender }),
            options: self.options,
        })?;
        let address = endpoint.local_address().unwrap().to_string();
        Ok(TestNode { peers: endpoint.peers(), endpoint, address, events, id, gate })
    }

    pub fn start(self) -> TestNode {
        self.try_start().unwrap()
    }
}

impl TestNode {
    pub fn peer(&self) -> PeerAddress {
        PeerAddress { raft_id: self.id, node_id: None, addresses: vec![self.address.clone()] }
    }

    pub async fn event(&mut self, what: &str) -> Event {
        within(what, self.events.recv()).await.expect("the node lives")
    }

    /// The next event that fits; others before it are dropped.
    pub async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.event(what).await) {
                return found;
            }
        }
    }

    pub async fn up(&mut self, peer: RaftId) {
        self.until("a peer comes up", |event| matches!(event, Event::Up(id) if id == peer).then_some(())).await;
    }

    pub async fn down(&mut self, peer: RaftId) -> Down {
        self.until("a peer goes down", |event| match event {
            Event::Down(id, reason) if id == peer => Some(reason),
            _ => None,
        })
        .await
    }

    pub async fn message(&mut self) -> (RaftId, Lane, Bytes) {
        self.until("a message comes", |event| match event {
            Event::Message(from, lane, body) => Some((from, lane, body)),
            _ => None,
        })
        .await
    }

    pub async fn incoming_snapshot(&mut self) -> (RaftId, IncomingSnapshot) {
        self.until("a snapshot comes", |event| match event {
            Event::Snapshot(from, incoming) => Some((from, incoming)),
            _ => None,
        })
        .await
    }

    pub async fn held_request(&mut self) -> (Caller, Bytes, Answer) {
        self.until("a request comes", |event| match event {
            Event::Request(caller, body, reply) => Some((caller, body, reply)),
            _ => None,
        })
        .await
    }

    pub async fn session(&mut self) -> (Caller, Session) {
        self.until("a session comes", |event| match event {
            Event::Session(caller, session) => Some((caller, session)),
            _ => None,
        })
        .await
    }

    pub async fn feed(&mut self) -> (Caller, Bytes, Feed) {
        self.until("a feed is asked for", |event| match event {
            Event::Feed(caller, body, feed) => Some((caller, body, feed)),
            _ => None,
        })
        .await
    }

    pub async fn newcomer(&mut self) -> (SocketAddr, JoinRequest, oneshot::Sender<JoinReply>) {
        self.until("a newcomer comes", |event| match event {
            Event::Join(source, request, reply) => Some((source, request, reply)),
            _ => None,
        })
        .await
    }
}

/// Two connected managers, 1 and 2.
pub async fn pair(cluster: &TestCluster) -> (TestNode, TestNode) {
    pair_of(Setup::new(cluster, 1), Setup::new(cluster, 2)).await
}

/// As [`pair`], of these.
pub async fn pair_of(one: Setup, two: Setup) -> (TestNode, TestNode) {
    let (mut one, mut two) = (one.start(), two.start());
    one.endpoint.set_peers(vec![two.peer()]);
    two.endpoint.set_peers(vec![one.peer()]);
    one.up(two.id).await;
    two.up(one.id).await;
    (one, two)
}

pub async fn client(cluster: &TestCluster, node: &TestNode) -> Connection {
    Connector::connect(
        std::slice::from_ref(&node.address),
        cluster.identity(99, CertRole::Operator),
        cluster.client_hello(99),
        PATIENCE,
    )
    .await
    .unwrap()
}

pub async fn connect_as(node: &TestNode, identity: Arc<Identity>, hello: Hello) -> Result<Connection, ConnectError> {
    Connector::connect(std::slice::from_ref(&node.address), identity, hello, PATIENCE).await
}

/// A port that nobody has.
pub fn closed_port() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
