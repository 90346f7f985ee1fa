//! The connections to the other managers.
//!
//! Owns the set of peers, one dial task for each, and the one connection per pair. Never waits for a peer: what cannot be
//! queued is given back. The node with the lower raft id dials; the other one dials too when it was asked to, or when nobody
//! came for a while, and of two connections between the same two processes the one that the lower raft id dialled is
//! kept by both. Called by the node from any thread.

mod dialling;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{NodeId, RaftId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::calls::Calls;
use crate::codes;
use crate::dial::{self, ConnectError};
use crate::endpoint::Shared;
use crate::greet::{self, GreetError, Greeted};
use crate::handler::{Down, Lane, SnapshotPiece};
use crate::hello::{Hello, Refused};
use crate::lanes::{self, LaneQueue, SendError, StreamKind};
use crate::network::Network;
use crate::parting::Parting;
use crate::request::{self, RequestError};
use crate::snapshot::{self, SnapshotSendError};
use crate::streams;
use crate::tls::Credentials;

/// A manager that should be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its raft id.
    pub raft_id: RaftId,
    /// Its node id, which its certificate must name; `None` when it is not known yet.
    pub node_id: Option<NodeId>,
    /// Where to reach it, `host:port`, best first; resolved at every dial.
    pub addresses: Vec<String>,
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Where it is.
    pub address: SocketAddr,
    /// What it said of itself.
    pub hello: Hello,
    /// Messages that did not fit into its queues since it is connected.
    pub dropped: u64,
    /// The largest UDP payload that this way is known to carry, bytes.
    pub mtu: u16,
}

/// One established connection to a peer.
pub(crate) struct Live {
    connection: quinn::Connection,
    hello: Hello,
    instance: u64,
    dialled_by_us: bool,
    control: Arc<LaneQueue>,
    append: Arc<LaneQueue>,
    calls: Calls,
}

impl Live {
    fn close(&self, code: u32, reason: &[u8]) {
        self.control.close();
        self.append.close();
        self.connection.close(code.into(), reason);
    }
}

struct Dial {
    target: PeerAddress,
    wake: Arc<Notify>,
    nudged: Arc<AtomicBool>,
    task: tokio::task::AbortHandle,
}

#[derive(Default)]
pub(crate) struct Registry {
    live: RwLock<HashMap<RaftId, Arc<Live>>>,
    dials: Mutex<HashMap<RaftId, Dial>>,
    failures: Mutex<HashMap<RaftId, ConnectError>>,
    heard: Mutex<HashMap<RaftId, Arc<Heard>>>,
    /// Who said, when it went, that starting it again does not bring it back, and has not come back since.
    parted: Mutex<HashMap<RaftId, Parting>>,
    /// Held while a connection comes or goes, handler calls included: ups and downs of a peer alternate.
    events: Mutex<()>,
}

/// When something last came from a peer, over all its connections.
pub(crate) struct Heard {
    first: Instant,
    /// Of the last time, since the first.
    after_micros: AtomicU64,
}

impl Heard {
    fn now(&self) {
        let after = u64::try_from(self.first.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.after_micros.fetch_max(after, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.first.elapsed().saturating_sub(Duration::from_micros(self.after_micros.load(Ordering::Relaxed)))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn live(&self, peer: RaftId) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    fn is_live(&self, peer: RaftId) -> bool {
        self.live(peer).is_some_and(|live| live.connection.close_reason().is_none())
    }

    /// Something comes from this peer now, and later through what is returned.
    fn hear(&self, peer: RaftId) -> Arc<Heard> {
        let fresh = || Arc::new(Heard { first: Instant::now(), after_micros: AtomicU64::new(0) });
        let heard = Arc::clone(locked(&self.heard).entry(peer).or_insert_with(fresh));
        heard.now();
        heard
    }

    /// What a dial of this peer came to, told by whoever was woken by `by`. It counts for nothing where it was given up meanwhile (its
    /// task may be in the middle of a step when it is told to end), nor where the peer is connected by now.
    fn failed(&self, peer: RaftId, by: &Arc<Notify>, error: ConnectError) {
        let dials = locked(&self.dials);
        if dials.get(&peer).is_some_and(|dial| Arc::ptr_eq(&dial.wake, by)) {
            // Held while it is looked: a connection that comes is live before it takes the failure away.
            let mut failures = locked(&self.failures);
            if !self.is_live(peer) {
                failures.insert(peer, error);
            }
        }
    }

    fn wake(&self, peer: RaftId) {
        if let Some(dial) = locked(&self.dials).get(&peer) {
            dial.wake.notify_one();
        }
    }

    /// The endpoint stops: no more dials.
    pub(crate) fn stop(&self) {
        for (_, dial) in locked(&self.dials).drain() {
            dial.task.abort();
        }
    }
}

/// The peers of an endpoint. Clone it; use it from any thread, inside or outside a runtime.
#[derive(Clone)]
pub struct Peers {
    pub(crate) shared: Arc<Shared>,
}

impl Peers {
    /// What carries the datagrams to them.
    pub fn network(&self) -> Network {
        self.shared.options.network.clone()
    }

    /// Replaces the set: new peers are dialled, changed addresses are used from the next dial on, connections to peers
    /// that left are closed.
    pub(crate) fn set(&self, peers: Vec<PeerAddress>) {
        let registry = &self.shared.registry;
        let mut dials = locked(&registry.dials);
        let wanted: HashMap<RaftId, PeerAddress> = peers.into_iter().map(|peer| (peer.raft_id, peer)).collect();
        let left: Vec<RaftId> = dials.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in left {
            if let Some(dial) = dials.remove(&id) {
                dial.task.abort();
            }
            locked(&registry.failures).remove(&id);
            locked(&registry.heard).remove(&id);
            locked(&registry.parted).remove(&id);
            if let Some(live) = registry.live(id) {
                live.close(codes::LEFT, b"this manager is not in the set of peers any more");
            }
        }
        if self.shared.is_closed() {
            return;
        }
        for (id, target) in wanted {
            if let Some(dial) = dials.get_mut(&id) {
                if dial.target != target {
                    // The running attempt has the old addresses; a new task starts with the new ones. What was met at those says
                    // nothing of this peer any more.
                    dial.task.abort();
                    locked(&registry.failures).remove(&id);
                } else {
                    continue;
                }
            }
            let wake = Arc::new(Notify::new());
            let nudged = Arc::new(AtomicBool::new(false));
            let dialling = dialling::dial_loop(self.shared.clone(), target.clone(), wake.clone(), nudged.clone());
            let task = self.shared.spawn_vital("dials another manager", dialling);
            if let Some(task) = task {
                dials.insert(id, Dial { target, wake, nudged, task });
            }
        }
    }

    /// Dials this peer now, whatever backoff it is in and whoever's turn it is. Nothing happens when it is connected.
    pub fn nudge(&self, peer: RaftId) {
        if let Some(dial) = locked(&self.shared.registry.dials).get(&peer) {
            dial.nudged.store(true, Ordering::Release);
            dial.wake.notify_one();
        }
    }

    /// Queues a message. Never waits.
    ///
    /// # Errors
    /// Not connected, the queue is full, or the message is larger than its lane takes: tell raft that the peer is
    /// unreachable.
    pub fn send(&self, peer: RaftId, lane: Lane, body: Bytes) -> Result<(), SendError> {
        let live = self.shared.registry.live(peer).ok_or(SendError::NotConnected)?;
        match lane {
            Lane::Control => live.control.push(body),
            Lane::Append => live.append.push(body),
        }
    }

    /// Asks a peer and waits for its answer, at most until the deadline. To be awaited on a tokio runtime with time.
    ///
    /// Cancel safe for this side; the outcome of a cancelled request is unknown.
    ///
    /// # Errors
    /// [`RequestError::NotSent`]: not executed. [`RequestError::Unknown`]: may have been.
    pub async fn request(&self, peer: RaftId, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        let live = self
            .shared
            .registry
            .live(peer)
            .ok_or_else(|| RequestError::NotSent(format!("manager {peer} is not connected")))?;
        request::ask(&live.connection, body, deadline).await
    }

    /// As [`Peers::request`], for a short body with a short answer: it goes with others on one stream, and costs a fraction.
    ///
    /// Cancel safe for this side; the outcome of a cancelled request is unknown.
    ///
    /// # Errors
    /// As [`Peers::request`].
    pub async fn call(&self, peer: RaftId, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        let live = self
            .shared
            .registry
            .live(peer)
            .ok_or_else(|| RequestError::NotSent(format!("manager {peer} is not connected")))?;
        live.calls.ask(&live.connection, body, deadline).await
    }

    /// Sends a snapshot; resolves when the receiver has said that it has everything on disk. The channel must end with
    /// [`SnapshotPiece::End`]. Dropped half-way, the receiver drops what it has.
    ///
    /// # Errors
    /// See [`SnapshotSendError`]; in each case the receiver keeps nothing.
    pub async fn send_snapshot(
        &self,
        peer: RaftId,
        header: Bytes,
        pieces: mpsc::Receiver<SnapshotPiece>,
    ) -> Result<(), SnapshotSendError> {
        let live = self.shared.registry.live(peer).ok_or(SnapshotSendError::NotConnected)?;
        snapshot::send(&live.connection, header, pieces, self.shared.options.snapshot_patience).await
    }

    /// The connected peers, by raft id.
    pub fn connected(&self) -> Vec<(RaftId, PeerInfo)> {
        let live = self.shared.registry.live.read().unwrap_or_else(PoisonError::into_inner);
        let mut connected: Vec<_> = live
            .iter()
            .map(|(id, live)| {
                let address = live.connection.remote_address();
                let info = PeerInfo {
                    rtt: live.connection.rtt(),
                    address: SocketAddr::new(address.ip().to_canonical(), address.port()),
                    hello: live.hello.clone(),
                    dropped: live.control.dropped() + live.append.dropped(),
                    mtu: live.connection.stats().path.current_mtu,
                };
                (*id, info)
            })
            .collect();
        connected.sort_by_key(|(id, _)| *id);
        connected
    }

    /// How long nothing has come from this peer: a connected one that is idle says every second that it lives. `None` when
    /// nothing ever came since this endpoint was bound.
    pub fn silence(&self, peer: RaftId) -> Option<Duration> {
        locked(&self.shared.registry.heard).get(&peer).map(|heard| heard.silence())
    }

    /// Bytes of the requests, of clients and of peers, that were read here and are not answered yet; such below 4 KiB
    /// count nothing.
    pub fn request_bytes(&self) -> usize {
        self.shared.room(false).bytes() + self.shared.room(true).bytes()
    }

    /// Requests that were turned away here because too much was under way.
    pub fn requests_turned_away(&self) -> u64 {
        self.shared.room(false).turned_away() + self.shared.room(true).turned_away()
    }

    /// Bytes of the answers, to clients and to peers, that were made here and are not taken yet; such below 4 KiB count
    /// nothing.
    pub fn answer_bytes(&self) -> usize {
        self.shared.answers(false).bytes() + self.shared.answers(true).bytes()
    }

    /// Callers that were cut here because they did not take their answers in time.
    pub fn answers_cut(&self) -> u64 {
        self.shared.answers(false).cut() + self.shared.answers(true).cut()
    }

    /// Why the last dial of this peer failed; `None` when it did not, or the peer was connected since.
    pub fn last_failure(&self, peer: RaftId) -> Option<ConnectError> {
        locked(&self.shared.registry.failures).get(&peer).cloned()
    }

    /// Closes the connections to peers that `concerns` says yes to; the reason is told to them.
    pub(crate) fn disconnect_where(&self, concerns: impl Fn(&quinn::Connection) -> bool, reason: &Refused) {
        let live = self.shared.registry.live.read().unwrap_or_else(PoisonError::into_inner);
        let (code, text) = reason.to_close();
        for live in live.values().filter(|live| concerns(&live.connection)) {
            live.close(code, &text);
        }
    }

    /// Whether the last that was heard of this peer is that it is locked: it runs, and waits for its key.
    pub fn is_locked(&self, peer: RaftId) -> bool {
        let locked =
            |error: &ConnectError| matches!(error.root(), ConnectError::Refused { refused: Refused::Locked, .. });
        !self.shared.registry.is_live(peer) && self.last_failure(peer).is_some_and(|error| locked(&error))
    }

    /// What this peer said when it went, if that was that starting it again does not bring it back; `None` once it is connected.
    pub fn parted(&self, peer: RaftId) -> Option<Parting> {
        locked(&self.shared.registry.parted).get(&peer).copied()
    }

    /// Closes the connections to a manager; the reason is told to it.
    pub(crate) fn disconnect_node(&self, node: NodeId, reason: &Refused) {
        let live = self.shared.registry.live.read().unwrap_or_else(PoisonError::into_inner);
        let (code, text) = reason.to_close();
        for live in live.values().filter(|live| live.hello.node_id == node) {
            live.close(code, &text);
        }
    }
}

pub(crate) fn greet_error(error: GreetError, address: SocketAddr) -> ConnectError {
    match error {
        GreetError::Refused(refused) => ConnectError::Refused { address, refused, ours: false },
        GreetError::Ours(refused) => ConnectError::Refused { address, refused, ours: true },
        GreetError::Lost(error) => {
            dial::explain(&error, address, Duration::from_secs(0), &crate::tls::Verdict::default())
        }
    }
}

/// Takes a greeted connection in, or closes it when a better one exists.
pub(crate) fn start(
    shared: &Arc<Shared>,
    connection: quinn::Connection,
    greeted: Greeted,
    shaken: &Arc<Credentials>,
    dialled_by_us: bool,
) -> Result<(), Refused> {
    let id = greeted.hello.raft_id;
    let registry = &shared.registry;
    let live = Arc::new(Live {
        connection,
        hello: greeted.hello.clone(),
        instance: greeted.instance,
        dialled_by_us,
        control: Arc::new(LaneQueue::new(Lane::Control, shared.options.control_queue)),
        append: Arc::new(LaneQueue::new(Lane::Append, shared.options.append_queue)),
        calls: Calls::on(shared.runtime.clone()),
    });
    let _event = locked(&registry.events);
    if let Some(old) = registry.live(id) {
        let ours = shared.gate.hello().raft_id;
        let same_process = old.instance == live.instance && old.connection.close_reason().is_none();
        // Both ends apply this rule to the same two connections and so keep the same one.
        let lower_dialled = |dialled_by_us: bool| dialled_by_us == (ours < id);
        if same_process && old.dialled_by_us != dialled_by_us && lower_dialled(old.dialled_by_us) {
            greet::close(&live.connection, &Refused::Duplicate);
            return Err(Refused::Duplicate);
        }
        let reason = match old.connection.close_reason() {
            Some(error) => lanes::down(&error),
            None if !same_process => Down::Reset,
            None => Down::Replaced,
        };
        old.close(codes::REPLACED, b"a newer connection took over");
        registry.live.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        shared.handler.peer_down(id, reason);
    }
    let caller = greeted.caller.clone();
    // Spawned first: once the endpoint stops, nothing may become live that nobody watches.
    let run = run(shared.clone(), live.clone(), greeted);
    registry.live.write().unwrap_or_else(PoisonError::into_inner).insert(id, live.clone());
    if shared.spawn(run).is_none() {
        registry.live.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        live.close(codes::SHUTDOWN, b"the endpoint stops");
        return Err(Refused::Other("the endpoint stops".to_owned()));
    }
    // Whatever a dial came to before, it is there now.
    locked(&registry.failures).remove(&id);
    locked(&registry.parted).remove(&id);
    shared.handler.peer_up(id);
    registry.wake(id);
    if let Err(refused) = shared.stays(&caller, &live.hello, shaken) {
        greet::close(&live.connection, &refused);
    }
    Ok(())
}

/// Owns a connection until it ends.
async fn run(shared: Arc<Shared>, live: Arc<Live>, greeted: Greeted) {
    let id = live.hello.raft_id;
    {
        // `start` holds this until the handler knows that the peer is up.
        let _event = locked(&shared.registry.events);
    }
    let mut tasks = JoinSet::new();
    let (ping, stall) = (shared.options.peer_keep_alive, shared.options.stall_deadline);
    tasks.spawn(lanes::write_lane(live.connection.clone(), live.control.clone(), ping, stall));
    tasks.spawn(lanes::write_lane(live.connection.clone(), live.append.clone(), Duration::from_secs(3_600), stall));
    tasks.spawn(watch_address(live.connection.clone(), ping));
    tasks.spawn(accept_lanes(shared.clone(), live.connection.clone(), id));
    tasks.spawn(streams::accept_streams(shared.clone(), live.connection.clone(), greeted, Some(id)));
    // The first that ends makes the connection useless.
    let first = match tasks.join_next().await {
        Some(Ok(reason)) => reason,
        Some(Err(_)) | None => Down::Broken("a task of the connection failed".to_owned()),
    };
    // If the connection itself has ended, that is the reason; a stream's error is only its echo.
    let reason = match live.connection.close_reason().map(|error| lanes::down(&error)) {
        Some(told) if !matches!(told, Down::Ours(_)) => told,
        _ => first,
    };
    let parting = live.connection.close_reason().and_then(|closed| Parting::told(&closed));
    live.close(codes::PROTOCOL, reason.to_string().as_bytes());
    tasks.shutdown().await;
    let registry = &shared.registry;
    let _event = locked(&registry.events);
    let current = registry.live(id).is_some_and(|current| Arc::ptr_eq(&current, &live));
    if current {
        if let Some(parting) = parting {
            locked(&registry.parted).insert(id, parting);
        }
        registry.live.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        shared.handler.peer_down(id, reason);
        registry.wake(id);
    }
}

/// Managers do not move under a connection: a changed address means a rewritten path, and a new dial is the answer.
async fn watch_address(connection: quinn::Connection, every: Duration) -> Down {
    let began = connection.remote_address();
    loop {
        tokio::select! {
            error = connection.closed() => return lanes::down(&error),
            () = tokio::time::sleep(every) => {}
        }
        if connection.remote_address() != began {
            connection.close(codes::MOVED.into(), b"the address changed under the connection");
            return Down::Broken("its address changed under the connection".to_owned());
        }
    }
}

async fn accept_lanes(shared: Arc<Shared>, connection: quinn::Connection, from: RaftId) -> Down {
    let mut readers = JoinSet::new();
    let mut seen = [false; 2];
    let heard = shared.registry.hear(from);
    loop {
        let mut receive = tokio::select! {
            accepted = connection.accept_uni() => match accepted {
                Ok(receive) => receive,
                Err(error) => return lanes::down(&error),
            },
            Some(ended) = readers.join_next() => {
                let why: crate::frame::FrameError = ended.unwrap_or(crate::frame::FrameError::Truncated);
                return Down::Broken(format!("a lane ended: {why}"));
            }
        };
        // The opener writes the kind with its first packet, so this does not wait for long; the deadline is for the others.
        let mut first = [0; 1];
        let read = tokio::time::timeout(shared.options.handshake_deadline, receive.read_exact(&mut first)).await;
        let lane = match (read, StreamKind::from_byte(first[0])) {
            (Ok(Ok(())), Some(StreamKind::Control)) => Lane::Control,
            (Ok(Ok(())), Some(StreamKind::Append)) => Lane::Append,
            _ => return Down::Broken("a stream of no known kind came".to_owned()),
        };
        let slot = usize::from(lane == Lane::Append);
        if seen.get(slot).copied().unwrap_or(true) {
            return Down::Broken("a lane was opened twice".to_owned());
        }
        if let Some(slot) = seen.get_mut(slot) {
            *slot = true;
        }
        let (handler, heard) = (shared.handler.clone(), heard.clone());
        readers.spawn(lanes::read_lane(
            receive,
            lane,
            move || heard.now(),
            move |body| handler.message(from, lane, body),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dial_that_was_given_up_leaves_no_failure_behind() {
        let registry = Registry::default();
        let (peer, failed) = (RaftId(2), || ConnectError::NoAddress);
        let dial = |wake: &Arc<Notify>| Dial {
            target: PeerAddress { raft_id: peer, node_id: None, addresses: Vec::new() },
            wake: Arc::clone(wake),
            nudged: Arc::default(),
            task: tokio::spawn(std::future::pending::<()>()).abort_handle(),
        };
        let known = || locked(&registry.failures).contains_key(&peer);
        let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        // Given a peer that is dialled: what comes of it is known
        locked(&registry.dials).insert(peer, dial(&first));
        registry.failed(peer, &first, failed());
        assert!(known());
        // When its address changes while the dial ends, then what was met at the old one is not taken for the peer's word;
        locked(&registry.failures).clear();
        locked(&registry.dials).insert(peer, dial(&second));
        registry.failed(peer, &first, failed());
        assert!(!known());
        registry.failed(peer, &second, failed());
        assert!(known());
        // nor is anything when the peer has left.
        locked(&registry.failures).clear();
        registry.stop();
        registry.failed(peer, &second, failed());
        assert!(!known());
    }
}
