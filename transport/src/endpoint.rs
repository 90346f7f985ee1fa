//! The node's one UDP port: who may come in, on which plane, and how it ends.
//!
//! Owns the QUIC endpoint, the accept loop and every task of it. Never executes a request and never decides from records.
//! Lives on the runtime it was bound on; its handles may be used from any thread.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quorate_core::id::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::answers::{ANSWER_BYTES, ANSWER_DEADLINE, Answers};
use crate::ca::CertRole;
use crate::clock::Clock;
use crate::codes;
use crate::greet::{self, GreetError};
use crate::handler::{Caller, Gate, Handler, Plane};
use crate::hello::{self, Hello, Refused};
use crate::holds::Holds;
use crate::identity::{Identity, Subject};
use crate::join;
use crate::lanes::QueueLimit;
use crate::network::Network;
use crate::parting::Parting;
use crate::peers::{self, PeerAddress, Peers, Registry};
use crate::rate::RateLimit;
use crate::room::Room;
use crate::socket::{self, BindError, UdpBuffers};
use crate::streams;
use crate::tls::{CredentialSlot, Credentials, TlsError, Verdict};

/// How long the tasks of an endpoint may take to end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How long the word that a connection is closed may take to leave, for all of them and for each. QUIC would keep a closed
/// connection for three times its probe timeout, about 80 ms, to say so again to whoever missed it; such a one notices by
/// the silence, or by the next start's stateless reset.
const FAREWELL: Duration = Duration::from_millis(10);
const FAREWELL_EACH: Duration = Duration::from_micros(50);

/// What a connection is told whose handshake shows and trusts what nobody does any more.
const OTHER_ROOTS: &str = "the cluster's CA was replaced while the connection was made; come back at once";

/// Times and limits of an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// How often a manager is sent something at least, default 1 s.
    pub peer_keep_alive: Duration,
    /// Silence after which a manager's connection is given up, default 5 s.
    pub peer_idle: Duration,
    /// Silence after which a client's or worker's connection is given up, default 15 s.
    pub client_idle: Duration,
    /// How long handshake and hello may take, default 3 s.
    pub handshake_deadline: Duration,
    /// How long a join may take, default 30 s: it waits for a commit.
    pub join_deadline: Duration,
    /// How long a manager may not read before its connection is given up, default 10 s.
    pub stall_deadline: Duration,
    /// First pause between dials, default 50 ms; it doubles.
    pub backoff_min: Duration,
    /// Longest pause between dials, default 2 s.
    pub backoff_max: Duration,
    /// How long the manager with the higher raft id waits to be dialled before it dials itself, default 1 s.
    pub dial_grace: Duration,
    /// Handshakes under way at once, default 256; above half of it strangers have to prove their address first.
    pub handshakes_max: usize,
    /// Connections served at once on the client plane, default 16384.
    pub clients_max: usize,
    /// Join attempts one source may make at once, default 10.
    pub join_burst: u32,
    /// How often a source gains one more attempt, default 1 s.
    pub join_refill: Duration,
    /// Control messages waiting per peer, default 4096 or 4 MiB.
    pub control_queue: QueueLimit,
    /// Append messages waiting per peer, default 1024 or 32 MiB.
    pub append_queue: QueueLimit,
    /// Bytes of requests that are read and not answered yet, of clients and of managers each, default 64 MiB; as much
    /// again may wait, unread, and what comes on top is turned away.
    pub request_bytes: usize,
    /// Bytes of answers that are made and not taken yet, to clients and to managers each, default 64 MiB; for what comes on
    /// top there is no room before some of them is taken.
    pub answer_bytes: usize,
    /// Of these on one client's connection, default 16 MiB: two of the largest.
    pub answer_bytes_each: usize,
    /// How long a caller may take to take an answer before it is cut, default 30 s.
    pub answer_deadline: Duration,
    /// How long the receiver of a snapshot may take nothing of it before the sender gives it up, default 60 s; ten times as long for
    /// its word, once it has all of it, that it is on disk.
    pub snapshot_patience: Duration,
    /// The clock that certificates are checked by, default the system's.
    pub clock: Clock,
    /// What carries its datagrams, default the machine's UDP.
    pub network: Network,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            peer_keep_alive: Duration::from_secs(1),
            peer_idle: Duration::from_secs(5),
            client_idle: Duration::from_secs(15),
            handshake_deadline: Duration::from_secs(3),
            join_deadline: Duration::from_secs(30),
            stall_deadline: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            dial_grace: Duration::from_secs(1),
            handshakes_max: 256,
            clients_max: 16_384,
            join_burst: 10,
            join_refill: Duration::from_secs(1),
            control_queue: QueueLimit { messages: 4_096, bytes: 4 * 1024 * 1024 },
            append_queue: QueueLimit { messages: 1_024, bytes: 32 * 1024 * 1024 },
            request_bytes: 64 * 1024 * 1024,
            answer_bytes: ANSWER_BYTES,
            answer_bytes_each: ANSWER_BYTES / 4,
            answer_deadline: ANSWER_DEADLINE,
            snapshot_patience: crate::snapshot::SILENCE_MAX,
            clock: Clock::default(),
            network: Network::default(),
        }
    }
}

/// What an endpoint is made from.
pub struct EndpointConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// 32 random bytes that the node keeps over restarts: what lets others notice a restart at once.
    pub seed: [u8; 32],
    /// The checks from records, and the own hello.
    pub gate: Arc<dyn Gate>,
    /// Where everything goes that comes in.
    pub handler: Arc<dyn Handler>,
    /// Times and limits.
    pub options: EndpointOptions,
}

pub(crate) struct Shared {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) credentials: CredentialSlot,
    pub(crate) options: EndpointOptions,
    udp_buffers: UdpBuffers,
    /// Of every connection that is taken.
    accept_transport: Arc<quinn::TransportConfig>,
    pub(crate) instance: u64,
    pub(crate) registry: Registry,
    pub(crate) join_limit: RateLimit,
    handshakes: Arc<Semaphore>,
    clients: Arc<Semaphore>,
    /// For the requests of clients,
    client_room: Room,
    /// and for what other managers pass on.
    peer_room: Room,
    /// For the answers of both.
    client_answers: Arc<Answers>,
    peer_answers: Arc<Answers>,
    /// Who is connected on the client plane, by quinn's number of the connection.
    callers: Mutex<HashMap<usize, (Caller, quinn::Connection)>>,
    pub(crate) holds: Arc<Holds>,
    pub(crate) runtime: tokio::runtime::Handle,
    tasks: Mutex<Option<JoinSet<()>>>,
    closed: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Starts a task that ends with the endpoint; `None` when that has ended already.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = tasks.as_mut()?;
        while tasks.try_join_next().is_some() {}
        Some(tasks.spawn_on(task, &self.runtime))
    }

    /// As [`spawn`](Self::spawn), for a task without which the endpoint is of no use: its panic is not passed over.
    pub(crate) fn spawn_vital(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let vital = Vital { what, handler: self.handler.clone() };
        self.spawn(async move {
            let _vital = vital;
            task.await;
        })
    }

    /// Where the requests of a connection find room.
    pub(crate) const fn room(&self, of_a_peer: bool) -> &Room {
        if of_a_peer { &self.peer_room } else { &self.client_room }
    }

    /// Where its answers do.
    pub(crate) const fn answers(&self, of_a_peer: bool) -> &Arc<Answers> {
        if of_a_peer { &self.peer_answers } else { &self.client_answers }
    }

    /// The gate's word, and what is said of a newer incarnation where something is.
    pub(crate) fn judge(&self, ours: &Hello, caller: &Caller, theirs: &Hello) -> Result<(), Refused> {
        if hello::tells_newer(ours, caller.role, theirs) {
            self.handler.lineage_newer(theirs);
        }
        let mut caller = caller.clone();
        caller.raft_id = greet::raft_id_of(&caller, theirs);
        self.gate.admit(caller.plane, &caller, theirs)
    }

    /// Whether a connection stays that has just been entered where changes look for it. `shaken` is what its handshake was made
    /// with. Whatever was gone through between the two, because other roots are trusted or somebody was removed, has missed it,
    /// and nobody else would ever tell it. To be asked after it was entered: then either this finds the change, or the change
    /// finds the connection.
    pub(crate) fn stays(&self, caller: &Caller, hello: &Hello, shaken: &Arc<Credentials>) -> Result<(), Refused> {
        let current = self.credentials.current();
        if !Arc::ptr_eq(&current, shaken) && current.identity.trust_id() != shaken.identity.trust_id() {
            return Err(Refused::Other(OTHER_ROOTS.to_owned()));
        }
        self.gate.admit(caller.plane, caller, hello)
    }

    fn stop(&self, code: u32, reason: &str) {
        self.closed.send_replace(true);
        self.registry.stop();
        self.quinn.close(code.into(), reason.as_bytes());
    }
}

/// Tells the handler when its task panics.
struct Vital {
    what: &'static str,
    handler: Arc<dyn Handler>,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.handler.failed(self.what);
        }
    }
}

/// Stops everything when the last handle goes.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop(codes::SHUTDOWN, "the node stopped");
        drop(self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A bound endpoint. Clone it; it stops when [`Endpoint::close`] is called or the last clone is dropped.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.local_address()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Binds the port and begins to accept. To be called on the runtime that shall carry the endpoint.
    ///
    /// # Errors
    /// The port is in use or may not be used, or the identity is unusable.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_none| BindError::NoRuntime)?;
        let credentials = CredentialSlot::new(config.identity, config.options.clock)?;
        let mut server = quinn::ServerConfig::with_crypto(credentials.current().server(&Verdict::default())?);
        let accept_transport = socket::accept_transport(&config.options);
        server.transport_config(Arc::clone(&accept_transport));
        let options = config.options;
        let (quinn, udp_buffers) =
            options.network.listen(config.listen, socket::endpoint_config(&config.seed), server)?;
        let shared = Arc::new(Shared {
            quinn,
            gate: config.gate,
            handler: config.handler,
            credentials,
            instance: getrandom::u64().map_err(|_no_detail| BindError::NoEntropy)?,
            registry: Registry::default(),
            join_limit: RateLimit::new(options.join_burst, options.join_refill),
            handshakes: Arc::new(Semaphore::new(options.handshakes_max.max(2))),
            clients: Arc::new(Semaphore::new(options.clients_max.max(1))),
            client_room: Room::of(options.request_bytes),
            peer_room: Room::of(options.request_bytes),
            client_answers: Answers::of(options.answer_bytes, options.answer_bytes_each, options.answer_deadline),
            // Managers are few, and one asks for all of its clients.
            peer_answers: Answers::of(options.answer_bytes, options.answer_bytes, options.answer_deadline),
            callers: Mutex::default(),
            holds: Arc::default(),
            runtime,
            tasks: Mutex::new(Some(JoinSet::new())),
            closed: watch::Sender::new(false),
            accept_transport,
            options,
            udp_buffers,
        });
        shared.spawn_vital("takes incoming connections", accept_loop(shared.clone()));
        let guard = Arc::new(Guard(shared.clone()));
        Ok(Self { shared, _guard: guard })
    }

    /// Where it listens.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.shared.quinn.local_addr().ok()
    }

    /// The buffers that the kernel gave to its socket.
    pub fn udp_buffers(&self) -> UdpBuffers {
        self.shared.udp_buffers
    }

    /// The peers.
    pub fn peers(&self) -> Peers {
        Peers { shared: self.shared.clone() }
    }

    /// Replaces the set of peers: new ones are dialled, connections to those that left are closed.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        self.peers().set(peers);
    }

    /// Uses another certificate (and CA) for connections from now on; those that exist stay. Of those that are being made, who was
    /// greeted with other roots comes back: no connection is entered whose handshake trusted what is trusted no more, so that
    /// whoever is gone through after this call ([`disconnect_where`](Self::disconnect_where)) is everybody.
    ///
    /// # Errors
    /// The identity is unusable; the old one stays in use.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<(), TlsError> {
        self.shared.credentials.replace(identity)
    }

    /// Closes every connection of a node, on all planes, and tells it why: for nodes that were removed or demoted. The
    /// gate has to refuse it by then, or it comes back.
    pub fn disconnect(&self, node: NodeId, reason: &Refused) {
        let callers = self.shared.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, connection) in callers.values().filter(|(caller, _)| caller.node_id == node) {
            greet::close(connection, reason);
        }
        drop(callers);
        self.peers().disconnect_node(node, reason);
    }

    /// Closes every connection of the client plane whose caller `judge` refuses, and tells it why: connections outlive the records that
    /// they were taken by. The gate has to refuse it by then, or it comes back. `judge` must not wait.
    pub fn review(&self, judge: impl Fn(&Caller) -> Option<Refused>) {
        let callers = self.shared.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for (caller, connection) in callers.values() {
            if let Some(reason) = judge(caller) {
                greet::close(connection, &reason);
            }
        }
    }

    /// Closes every connection whose other end has shown a certificate that `concerns` says yes to. Who may come back does so at
    /// once. Strangers on the join plane, who show none, are left alone.
    pub fn disconnect_where(&self, concerns: impl Fn(&Subject) -> bool, reason: &Refused) {
        let concerns = |connection: &quinn::Connection| greet::subject_of(connection).is_some_and(|of| concerns(&of));
        for connection in self.callers(|_| true).iter().filter(|connection| concerns(connection)) {
            greet::close(connection, reason);
        }
        self.peers().disconnect_where(concerns, reason);
    }

    /// Connections on the client plane, of those callers to whom `which` says yes. Certificates of thousands are not parsed while
    /// others wait to get in.
    pub(crate) fn callers(&self, which: impl Fn(&Caller) -> bool) -> Vec<quinn::Connection> {
        let callers = self.shared.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.values().filter(|(caller, _)| which(caller)).map(|(_, connection)| connection.clone()).collect()
    }

    /// Who this endpoint is right now.
    pub fn identity(&self) -> Arc<Identity> {
        self.shared.credentials.current().identity.clone()
    }

    /// Closes all connections with this reason and ends all tasks; takes at most 5 s. Later calls of any handle fail as
    /// "not connected".
    pub async fn close(&self, reason: &str) {
        self.end(codes::SHUTDOWN, reason).await;
    }

    /// As [`Endpoint::close`], of a manager that starting it again does not bring back: the others are told.
    pub async fn part(&self, parting: Parting, reason: &str) {
        self.end(parting.code(), reason).await;
    }

    async fn end(&self, code: u32, reason: &str) {
        self.shared.stop(code, reason);
        let tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = async {
            if let Some(mut tasks) = tasks {
                while tasks.join_next().await.is_some() {}
            }
        };
        let open = u32::try_from(self.shared.quinn.open_connections()).unwrap_or(u32::MAX);
        let farewell = FAREWELL + FAREWELL_EACH.saturating_mul(open);
        if tokio::time::timeout(SHUTDOWN, ended).await.is_err() {
            tracing::warn!("closing the endpoint took over 5 s; what was left of its tasks was cut off");
        }
        let _ = tokio::time::timeout(farewell.min(SHUTDOWN), self.shared.quinn.wait_idle()).await;
    }
}

async fn accept_loop(shared: Arc<Shared>) {
    while let Some(incoming) = shared.quinn.accept().await {
        let free = shared.handshakes.available_permits();
        if !incoming.remote_address_validated() && incoming.may_retry() && free < shared.options.handshakes_max / 2 {
            // Under load a stranger first proves that its address is its own.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = shared.handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let task = serve(shared.clone(), incoming, permit);
        if shared.spawn(task).is_none() {
            break;
        }
    }
}

/// One incoming connection, from its first packet to its end.
async fn serve(shared: Arc<Shared>, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    let source = incoming.remote_address();
    let source = SocketAddr::new(source.ip().to_canonical(), source.port());
    let deadline = tokio::time::Instant::now() + shared.options.handshake_deadline;
    let verdict = Verdict::default();
    let shaken = shared.credentials.current();
    let crypto = match shaken.server(&verdict) {
        Ok(crypto) => crypto,
        Err(error) => {
            tracing::warn!(%error, "no TLS set-up for an incoming connection");
            incoming.refuse();
            return;
        }
    };
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.transport_config(Arc::clone(&shared.accept_transport));
    let Ok(connecting) = incoming.accept_with(Arc::new(config)) else { return };
    let connection = match tokio::time::timeout_at(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            match verdict.take() {
                Some(problem) => tracing::info!(%source, %problem, "a caller's certificate was not accepted"),
                None => tracing::debug!(%source, %error, "a handshake failed"),
            }
            return;
        }
        Err(_elapsed) => return,
    };
    let plane = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol)
        .and_then(|alpn| Plane::from_alpn(&alpn));
    let Some(plane) = plane else {
        greet::close(&connection, &Refused::Malformed);
        return;
    };
    if plane == Plane::Join {
        // The permit stays: joins count as handshakes for as long as they last.
        join::serve(&shared, &connection, source).await;
        drop(permit);
        return;
    }
    // From here on only who showed a certificate of this cluster; TLS has verified it.
    let Some(caller) = greet::caller_of(&connection, plane) else {
        greet::close(&connection, &Refused::NoCertificate);
        return;
    };
    if plane == Plane::Peer && caller.role != CertRole::Manager {
        greet::close(&connection, &Refused::WrongRole { needed: CertRole::Manager, found: caller.role });
        return;
    }
    let ours = shared.gate.hello();
    let judge = |caller: &Caller, theirs: &Hello| shared.judge(&ours, caller, theirs);
    let answered =
        tokio::time::timeout_at(deadline, greet::answer(&connection, caller, &ours, shared.instance, judge)).await;
    let greeted = match answered {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(GreetError::Refused(refused) | GreetError::Ours(refused))) => {
            tracing::info!(%source, %refused, "a caller was refused");
            return;
        }
        Ok(Err(GreetError::Lost(error))) => {
            tracing::debug!(%source, %error, "a caller left during the hello");
            return;
        }
        Err(_elapsed) => {
            connection.close(codes::PROTOCOL.into(), b"no hello in time");
            return;
        }
    };
    drop(permit);
    if greeted.caller.role != CertRole::Worker {
        socket::allow_many_requests(&connection);
    }
    if plane == Plane::Peer {
        // Whether it was taken or a better connection was kept: nothing is left to do here.
        let _ = peers::start(&shared, connection, greeted, &shaken, false);
        return;
    }
    let Ok(_client) = shared.clients.clone().try_acquire_owned() else {
        greet::close(&connection, &Refused::Busy("it serves as many clients as it can".to_owned()));
        return;
    };
    let (number, caller) = (connection.stable_id(), (greeted.caller.clone(), connection.clone()));
    shared.callers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, caller);
    let _forget = Forget { shared: &shared, number };
    if let Err(refused) = shared.stays(&greeted.caller, &greeted.hello, &shaken) {
        tracing::info!(%source, %refused, "a caller was refused");
        greet::close(&connection, &refused);
        return;
    }
    streams::accept_streams(shared.clone(), connection, greeted, None).await;
}

/// Takes a client connection off the list, however its task ends.
struct Forget<'a> {
    shared: &'a Shared,
    number: usize,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.callers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
