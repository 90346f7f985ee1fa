//! The endpoint's thread: a runtime of its own, on which everything of the network runs.
//!
//! Owns how the endpoint and the local socket come up, meet the node's handler, and go. Never looks at what passes.
//! Called by [`super::running`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_transport::{
    Answer, BindError, Caller, Clock, Down, Endpoint, EndpointConfig, EndpointOptions, Feed, Gate, Handler, Hello,
    Identity, IncomingSnapshot, JoinReply, JoinRequest, Lane, LocalListener, Parting, Session,
};
use tokio::sync::{oneshot, watch};

use super::ending::Ending;
use super::gate::NodeHandler;
use super::ground::{Ground, Tasks};
use super::stop::{StartError, StopReason};

/// What the endpoint's thread hands back once it listens.
pub(super) struct Listening {
    pub(super) endpoint: Endpoint,
    pub(super) handle: Tasks,
}

/// What whoever is connected is told at the end.
const WORDS: &str = "the node stops";

/// What it is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    Stop,
    /// The same, and the others are told that starting this manager again does not bring it back.
    Part(Parting),
}

/// What it is started with.
pub(super) struct Net {
    pub(super) gate: Arc<dyn Gate>,
    pub(super) handler: oneshot::Receiver<Arc<NodeHandler>>,
    pub(super) identity: Arc<Identity>,
    pub(super) listen: SocketAddr,
    pub(super) seed: [u8; 32],
    pub(super) directory: PathBuf,
    pub(super) ending: Ending,
    pub(super) clock: Clock,
    pub(super) ground: Ground,
}

/// Handlers need the endpoint and the endpoint needs its handler: what arrives before they meet is lost, as on a network.
struct Switchboard {
    handler: OnceLock<Arc<NodeHandler>>,
    ending: Ending,
}

impl Handler for Switchboard {
    fn message(&self, from: RaftId, lane: Lane, body: Bytes) {
        if let Some(handler) = self.handler.get() {
            handler.message(from, lane, body);
        }
    }
    fn peer_up(&self, peer: RaftId) {
        if let Some(handler) = self.handler.get() {
            handler.peer_up(peer);
        }
    }
    fn peer_down(&self, peer: RaftId, reason: Down) {
        if let Some(handler) = self.handler.get() {
            handler.peer_down(peer, reason);
        }
    }
    fn snapshot(&self, from: RaftId, incoming: IncomingSnapshot) {
        if let Some(handler) = self.handler.get() {
            handler.snapshot(from, incoming);
        }
    }
    fn request(&self, caller: Caller, body: Bytes, reply: Answer) {
        if let Some(handler) = self.handler.get() {
            handler.request(caller, body, reply);
        }
    }
    fn join(&self, source: SocketAddr, request: JoinRequest, reply: oneshot::Sender<JoinReply>) {
        if let Some(handler) = self.handler.get() {
            handler.join(source, request, reply);
        }
    }
    fn session(&self, caller: Caller, session: Session) {
        if let Some(handler) = self.handler.get() {
            handler.session(caller, session);
        }
    }
    fn feed(&self, caller: Caller, body: Bytes, feed: Feed) {
        if let Some(handler) = self.handler.get() {
            handler.feed(caller, body, feed);
        }
    }
    fn lineage_newer(&self, hello: &Hello) {
        if let Some(handler) = self.handler.get() {
            handler.lineage_newer(hello);
        }
    }
    fn failed(&self, task: &'static str) {
        self.ending.stop(StopReason::Bug(format!("the task that {task} failed")));
    }
}

/// Another process has the port; what is not to be done about it, where this directory is a copy, comes first.
fn taken(address: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "UDP port {address} is in use: another process listens there, with another directory than {directory}. Nothing was changed. If {directory} is a copy of the directory of the node that runs there, remove the copy: a copy is never started, on no other port and no other machine either. Else stop that process, or start this node elsewhere: quorate run --data-dir {directory} --listen HOST:PORT"
    )
}

/// Everything of the network, until `stop`.
pub(super) async fn serve(
    net: Net,
    listening: oneshot::Sender<Result<Listening, StartError>>,
    mut stop: watch::Receiver<Order>,
) {
    let tasks = net.ground.tasks();
    let switchboard = Arc::new(Switchboard { handler: OnceLock::new(), ending: net.ending });
    let bound = Endpoint::bind(EndpointConfig {
        listen: net.listen,
        identity: net.identity,
        seed: net.seed,
        gate: Arc::clone(&net.gate),
        handler: Arc::clone(&switchboard) as Arc<dyn Handler>,
        options: EndpointOptions {
            clock: net.clock,
            network: net.ground.network.clone(),
            ..EndpointOptions::default()
        },
    });
    let endpoint = match bound {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let failed = match error {
                // Whoever has the port has another directory: this one is ours alone.
                BindError::Busy(address) => StartError::Address(taken(address, &net.directory)),
                BindError::Address { .. } => StartError::Address(error.to_string()),
                BindError::Tls(_) | BindError::NoRuntime | BindError::NoEntropy => {
                    StartError::Internal(error.to_string())
                }
            };
            let _ = listening.send(Err(failed));
            return;
        }
    };
    let local = match LocalListener::bind(&net.directory) {
        Ok(local) => local,
        Err(error) => {
            let _ = listening.send(Err(StartError::InUse(error.to_string())));
            return;
        }
    };
    if listening.send(Ok(Listening { endpoint: endpoint.clone(), handle: tasks.handle() })).is_err() {
        return;
    }
    let Ok(handler) = net.handler.await else { return };
    let _ = switchboard.handler.set(Arc::clone(&handler));
    // Whoever connected before the handler was there: told again, twice does no harm.
    for (peer, _) in endpoint.peers().connected() {
        handler.peer_up(peer);
    }
    tokio::select! {
        () = local.serve(net.gate, switchboard) => {}
        _ = stop.wait_for(|order| *order != Order::Serve) => {}
    }
    let order = *stop.borrow();
    match order {
        Order::Part(parting) => endpoint.part(parting, WORDS).await,
        Order::Serve | Order::Stop => endpoint.close(WORDS).await,
    }
}
