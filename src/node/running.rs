//! A node that runs: its threads, what connects them, and how they end.
//!
//! Owns the start-up order (store, machine, threads, endpoint, local socket) and the shutdown order (hand leadership
//! over, stop taking requests, stop consensus, drain the writers). Each owner of something has one thread and one
//! inbox; nobody shares a lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_core::consensus::config::{Config, ELECTION_TICKS};
use quorate_core::consensus::io::{Input, Records, Status, StopCause};
use quorate_core::consensus::{Consensus, Start as MachineStart};
use quorate_core::id::RaftId;
use quorate_core::ports::{LogReader, OpenStore, StateReader, StoreResult};
use quorate_core::state::contract::ApplyError;
use quorate_core::state::Machine;
use quorate_transport::{BindError, Endpoint, EndpointConfig, EndpointOptions, Gate, Handler, Identity, LocalListener};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::applier::Applier;
use super::builder::{NodeBuilder, off_thread, resolve};
use super::changes::Changes;
use super::facts::{Facts, KnownManager, Layout};
use super::founding::{open_store, prepared};
use super::gate::{NodeGate, NodeHandler};
use super::lead::LeaseWatch;
pub(super) use super::manager::Manager;
use super::reach::Reach;
use super::router::Router;
use super::service::{Service, StoreAccess};
use super::stop::{StartError, StopReason};
use super::tasks::{Call, ConsensusTask, Hands};
use super::work::Work;
use super::workers::Workers;
use super::meeting::{self, Met};
use super::{housekeeping, identity, log_writer, workers};
use crate::config;

/// Calls that wait for the consensus task.
const INBOX: usize = 8_192;
/// Jobs that wait for a writer, and reports that wait for the consensus task: there are at most as many reports as
/// jobs, so a writer can always report, and the consensus task never waits for one that waits for it.
const JOBS: usize = 1_024;
const REPORTS: usize = 2 * JOBS + 16;
/// Requests in process that may be answered at the same time by a blocking read.
const BLOCKING_THREADS: usize = 8;
/// How long an orderly stop waits for a successor.
const HAND_OVER: Duration = Duration::from_millis(1_500);

struct Opened {
    facts: Facts,
    identity: Identity,
    machine: Consensus,
    store: OpenStoreParts,
    state: Machine,
    records: Arc<Records>,
    changes: Arc<Changes>,
}

struct OpenStoreParts {
    log: Box<dyn quorate_core::ports::LogWriter>,
    log_reader: Arc<dyn LogReader>,
    staging: Arc<dyn quorate_core::ports::Staging>,
    meta: Arc<dyn quorate_core::ports::MetaStore>,
}

fn open(builder: &NodeBuilder) -> Result<Opened, StartError> {
    let layout = Layout::new(&builder.directory);
    if let Err(error) = std::fs::read_dir(&builder.directory)
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Err(StartError::Directory(format!(
            "{} cannot be read by this user ({error}); use the node's own user, or root. Nothing was changed",
            builder.directory.display()
        )));
    }
    if !quorate_storage::exists(&layout.store()) {
        return Err(StartError::Directory(format!(
            "{} holds no node; prepare it with `quorate init` or `quorate join`",
            builder.directory.display()
        )));
    }
    let OpenStore { boot, log, log_reader, state, staging, meta } = open_store(&layout)?;
    let mut facts = Facts::load(&*meta)?.filter(Facts::is_ready).ok_or_else(|| {
        StartError::Directory(format!(
            "{} was prepared only half; run the same `quorate init` or `quorate join` again, it goes on where it stopped",
            builder.directory.display()
        ))
    })?;
    if builder.moved(&mut facts.listen, &mut facts.advertise)? {
        facts.save(&*meta)?;
    }
    if let Some(repaired) = &boot.repaired {
        tracing::warn!(
            repaired,
            "the end of the journal was torn by a crash and was mended; nothing synced is missing"
        );
    }
    let identity = Identity::load(&layout.identity()).map_err(|error| StartError::Directory(error.to_string()))?;
    let state = Machine::open(state).map_err(|error| match error {
        ApplyError::Store(error) => StartError::from(error),
        ApplyError::NeedsVersion { .. } | ApplyError::Broken { .. } => StartError::Damaged(error.to_string()),
    })?;
    let records = Arc::new(Records::read(&*state.reader().view())?);
    let changes = Arc::new(Changes::new(&*state.reader().view())?);
    let tail = read_tail(&*log_reader, state.status().applied.0 + 1, boot.last.0 + 1)?;
    let mut settings = Config::new(facts.raft(), config::random_u64().map_err(internal)?);
    settings.tick_nanos = u64::try_from(builder.tick.as_nanos()).unwrap_or(settings.tick_nanos).max(1_000_000);
    settings.log_window_entries = builder.log_window.max(16);
    settings.log_window_bytes = config::LOG_WINDOW_BYTES;
    settings.stable_ticks =
        (builder.stable.as_nanos() / u128::from(settings.tick_nanos)).try_into().unwrap_or(u64::MAX);
    let start = MachineStart { boot, state: state.status().clone(), records: Arc::clone(&records), tail };
    let machine = Consensus::new(settings, start).map_err(|cause: StopCause| StartError::Damaged(cause.to_string()))?;
    let store = OpenStoreParts { log, log_reader, staging, meta };
    Ok(Opened { facts, identity, machine, store, state, records, changes })
}

fn internal(error: crate::Error) -> StartError {
    StartError::Internal(error.to_string())
}

/// Every entry `from..to`: what is above the applied index is bounded by what was not yet applied at the end.
fn read_tail(reader: &dyn LogReader, from: u64, to: u64) -> StoreResult<Vec<quorate_core::log::LogEntry>> {
    let mut tail: Vec<quorate_core::log::LogEntry> = Vec::new();
    let mut next = from;
    while next < to {
        let part = reader.entries(quorate_core::id::LogIndex(next), quorate_core::id::LogIndex(to), 16 << 20)?;
        next += part.len() as u64;
        tail.extend(part);
    }
    Ok(tail)
}

/// Runs a thread's work so that a panic becomes a reason instead of a silence.
fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into())
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| StartError::Internal(format!("cannot start a thread: {error}")))
}

/// What the endpoint's thread hands back once it listens.
struct Listening {
    endpoint: Endpoint,
    handle: tokio::runtime::Handle,
}

struct Late {
    gate: Arc<dyn Gate>,
    handler: oneshot::Receiver<Arc<NodeHandler>>,
    identity: Arc<Identity>,
    listen: std::net::SocketAddr,
    seed: [u8; 32],
    directory: std::path::PathBuf,
}

/// Handlers need the endpoint and the endpoint needs its handler: what arrives before they meet is lost, as on a network.
struct Switchboard(OnceLock<Arc<NodeHandler>>);

impl Handler for Switchboard {
    fn message(&self, from: RaftId, lane: quorate_transport::Lane, body: bytes::Bytes) {
        if let Some(handler) = self.0.get() {
            handler.message(from, lane, body);
        }
    }
    fn peer_up(&self, peer: RaftId) {
        if let Some(handler) = self.0.get() {
            handler.peer_up(peer);
        }
    }
    fn peer_down(&self, peer: RaftId, reason: quorate_transport::Down) {
        if let Some(handler) = self.0.get() {
            handler.peer_down(peer, reason);
        }
    }
    fn snapshot(&self, from: RaftId, incoming: quorate_transport::IncomingSnapshot) {
        if let Some(handler) = self.0.get() {
            handler.snapshot(from, incoming);
        }
    }
    fn request(&self, caller: quorate_transport::Caller, body: bytes::Bytes, reply: oneshot::Sender<bytes::Bytes>) {
        if let Some(handler) = self.0.get() {
            handler.request(caller, body, reply);
        }
    }
    fn join(
        &self,
        source: std::net::SocketAddr,
        request: quorate_transport::JoinRequest,
        reply: oneshot::Sender<quorate_transport::JoinReply>,
    ) {
        if let Some(handler) = self.0.get() {
            handler.join(source, request, reply);
        }
    }
    fn session(&self, caller: quorate_transport::Caller, session: quorate_transport::Session) {
        if let Some(handler) = self.0.get() {
            handler.session(caller, session);
        }
    }
    fn lineage_newer(&self, hello: &quorate_transport::Hello) {
        if let Some(handler) = self.0.get() {
            handler.lineage_newer(hello);
        }
    }
}

/// The endpoint's thread: a runtime of its own, until `stop`.
fn endpoint_thread(
    late: Late,
    listening: oneshot::Sender<Result<Listening, StartError>>,
    mut stop: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("quorate-net")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = listening.send(Err(StartError::Internal(format!("cannot start a runtime: {error}"))));
            return;
        }
    };
    runtime.block_on(async move {
        let switchboard = Arc::new(Switchboard(OnceLock::new()));
        let bound = Endpoint::bind(EndpointConfig {
            listen: late.listen,
            identity: late.identity,
            seed: late.seed,
            gate: Arc::clone(&late.gate),
            handler: Arc::clone(&switchboard) as Arc<dyn Handler>,
            options: EndpointOptions::default(),
        });
        let endpoint = match bound {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let failed = match error {
                    BindError::Busy(_) | BindError::Address { .. } => StartError::Address(error.to_string()),
                    BindError::Tls(_) | BindError::NoRuntime | BindError::NoEntropy => {
                        StartError::Internal(error.to_string())
                    }
                };
                let _ = listening.send(Err(failed));
                return;
            }
        };
        let local = match LocalListener::bind(&late.directory) {
            Ok(local) => local,
            Err(error) => {
                let _ = listening.send(Err(StartError::InUse(error.to_string())));
                return;
            }
        };
        let handle = tokio::runtime::Handle::current();
        if listening.send(Ok(Listening { endpoint: endpoint.clone(), handle })).is_err() {
            return;
        }
        let Ok(handler) = late.handler.await else { return };
        let _ = switchboard.0.set(Arc::clone(&handler));
        // Whoever connected before the handler was there: told again, twice does no harm.
        for (peer, _) in endpoint.peers().connected() {
            handler.peer_up(peer);
        }
        tokio::select! {
            () = local.serve(late.gate, switchboard) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        endpoint.close("the node stops").await;
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
}

/// Starts everything.
pub(super) async fn start(builder: NodeBuilder, work: Work) -> Result<Manager, StartError> {
    let (tick, stable_began, hints) = (builder.tick, Instant::now(), builder.hints.clone());
    let opened = off_thread(move || open(&builder).map(|opened| (opened, builder))).await?;
    let (Opened { facts, identity, machine, store, state, records, changes }, builder) = opened;
    let listen = resolve(&facts.listen)?;
    let initial = Arc::new(machine.status());
    let (status_out, status) = watch::channel(initial);
    let (records_out, records) = watch::channel(records);
    let (stop_net, stopping_net) = watch::channel(false);
    let (stopped_out, stopped) = watch::channel(None);
    let (inbox, calls) = mpsc::channel(INBOX);
    let (log, log_jobs) = mpsc::channel(JOBS);
    let (applier_jobs_in, applier_jobs) = mpsc::channel(JOBS);
    let (reports_in, reports) = mpsc::channel(REPORTS);
    let reader: Arc<dyn StateReader> = state.reader();

    let gate: Arc<dyn Gate> = Arc::new(NodeGate { facts: facts.clone(), records: records.clone() });
    let (handler_in, handler) = oneshot::channel();
    let (listening_in, listening) = oneshot::channel();
    let late = Late {
        gate,
        handler,
        identity: Arc::new(identity),
        listen,
        seed: facts.seed_array(),
        directory: builder.directory.clone(),
    };
    let net = spawn("quorate-net-main", move || endpoint_thread(late, listening_in, stopping_net))?;
    let Listening { endpoint, handle } =
        listening.await.unwrap_or_else(|_| Err(StartError::Internal("the network thread ended at once".into())))?;
    let address = endpoint.local_address().unwrap_or(listen);

    let writer = {
        let reports = reports_in.clone();
        spawn("quorate-log", move || {
            let failed = reports.clone();
            if let Err(why) = contained(|| log_writer::run(store.log, log_jobs, &reports)) {
                let _ = failed.blocking_send(Input::StoreFailed(quorate_core::ports::StoreError::Poisoned(why)));
            }
        })?
    };
    let applying = {
        let applier = Applier {
            machine: state,
            staging: Arc::clone(&store.staging),
            reports: reports_in.clone(),
            records: records.borrow().clone(),
            changes: Arc::clone(&changes),
        };
        let failed = reports_in;
        spawn("quorate-apply", move || {
            if let Err(why) = contained(|| applier.run(applier_jobs)) {
                let _ = failed.blocking_send(Input::StoreFailed(quorate_core::ports::StoreError::Poisoned(why)));
            }
        })?
    };

    let peers = endpoint.peers();
    let reach = Reach::new(peers.clone());
    let (workers, worker_inboxes) = Workers::new(changes, work);
    let service = Arc::new(Service {
        facts: facts.clone(),
        router: Router { inbox: inbox.clone(), peers: reach.clone(), attempt: tick * 22 },
        peers: reach,
        store: RwLock::new(Some(StoreAccess { reader: Arc::clone(&reader), staging: store.staging })),
        status: status.clone(),
        records: records.clone(),
        applier: applier_jobs_in.downgrade(),
        workers,
        joins: Semaphore::new(1),
        tick,
    });
    let handler = NodeHandler {
        inbox: inbox.clone(),
        service: Arc::downgrade(&service),
        staging_slot: Arc::new(Semaphore::new(1)),
        runtime: handle.clone(),
    };
    let _ = handler_in.send(Arc::new(handler));

    let hands = Hands {
        peers: peers.clone(),
        log,
        applier: applier_jobs_in,
        log_reader: store.log_reader,
        runtime: handle.clone(),
        inbox: inbox.clone(),
        status: status_out,
        records: records_out,
    };
    let draw = config::random_u64().map_err(internal)?;
    let phase = tick.mul_f64((draw % 1_000) as f64 / 1_000.0);
    let (began_in, began) = oneshot::channel();
    let stopping = Arc::new(OnceLock::new());
    let watching =
        identity::keep_identity(facts.clone(), peers.clone(), records.clone(), inbox.clone(), Arc::clone(&stopping));
    let consensus = {
        let (stop_net, service) = (stop_net.clone(), Arc::clone(&service));
        spawn("quorate-raft", move || {
            let outcome = contained(|| drive(machine, hands, tick, phase, began_in, calls, reports));
            let reason = match outcome {
                Ok(Ok(None)) => stopping.get().cloned().unwrap_or(StopReason::Asked),
                Ok(Ok(Some(cause))) => StopReason::of(&cause),
                Ok(Err(why)) | Err(why) => StopReason::Bug(why),
            };
            if reason == StopReason::Asked {
                tracing::debug!("consensus stopped as asked");
            } else {
                tracing::error!(%reason, "the node stops");
            }
            stop_net.send_replace(true);
            // The writers end with their inboxes; only then is everything given back.
            for thread in [writer, applying, net] {
                let _ = thread.join();
            }
            service.close();
            drop(service);
            stopped_out.send_replace(Some(reason));
        })?
    };
    drop(consensus);
    let began = began.await.unwrap_or(stable_began);

    let (met_out, met) = watch::channel(Arc::default());
    handle.spawn(meeting::run(Arc::clone(&service), met_out));
    handle.spawn(keep_peers(endpoint.clone(), facts.clone(), hints, met, records.clone(), Arc::clone(&store.meta)));
    handle.spawn(watching);
    handle.spawn(keep_connected(endpoint.clone(), status.clone(), inbox.clone()));
    handle.spawn(narrate(Arc::clone(&service), status.clone()));
    handle.spawn(housekeeping::run(Arc::clone(&service), builder.history));
    handle.spawn(workers::run(Arc::clone(&service), worker_inboxes));
    handle.spawn(keep_announced(Arc::clone(&service), status.clone()));

    drop(reader);
    Ok(Manager {
        prepared: prepared(&facts, None),
        address,
        service,
        runtime: handle,
        inbox,
        lease: LeaseWatch { status, began },
        stopped,
    })
}

fn drive(
    machine: Consensus,
    hands: Hands,
    tick: Duration,
    phase: Duration,
    began: oneshot::Sender<Instant>,
    calls: mpsc::Receiver<Call>,
    reports: mpsc::Receiver<Input>,
) -> Result<Option<StopCause>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))?;
    Ok(runtime.block_on(async move {
        let task = ConsensusTask::new(machine, hands, tick, phase);
        let _ = began.send(task.began);
        task.run(calls, reports).await
    }))
}

/// Keeps the endpoint's peers in step with the records, and remembers them for a start without any.
async fn keep_peers(
    endpoint: Endpoint,
    facts: Facts,
    hints: Vec<String>,
    mut met: watch::Receiver<Arc<Met>>,
    mut records: watch::Receiver<Arc<Records>>,
    meta: Arc<dyn quorate_core::ports::MetaStore>,
) {
    let mut known = facts.managers.clone();
    loop {
        let current = records.borrow_and_update().clone();
        let listed: Vec<KnownManager> = current
            .nodes
            .members()
            .filter(|node| node.raft_id != 0 && node.raft_id != facts.raft_id)
            .filter(|node| current.removed.binary_search(&RaftId(node.raft_id)).is_err())
            .map(|node| KnownManager {
                raft_id: node.raft_id,
                node_id: node.id.clone(),
                addresses: node.addresses.clone(),
            })
            .collect();
        if !current.nodes.is_empty() && listed != known {
            known = listed;
            let (updated, meta) = (Facts { managers: known.clone(), ..facts.clone() }, Arc::clone(&meta));
            let saved = tokio::task::spawn_blocking(move || updated.save(&*meta)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "the managers' addresses could not be remembered");
            }
        }
        endpoint.set_peers(meeting::peers(&known, &met.borrow_and_update(), &hints));
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = met.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps this manager's own record up to date.
async fn keep_announced(service: Arc<Service>, mut status: watch::Receiver<Arc<Status>>) {
    loop {
        if status.wait_for(|status| status.leader.is_some()).await.is_err() {
            return;
        }
        service.announce().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What an operator looks for in the log first: who leads, and whether a quorum is there.
async fn narrate(service: Arc<Service>, mut status: watch::Receiver<Arc<Status>>) {
    let (mut told, mut lost) = (None, false);
    loop {
        let current = status.borrow_and_update().clone();
        if let Some(leader) = current.leader {
            if told != Some((leader, current.term)) {
                told = Some((leader, current.term));
                tracing::info!(leader = service.name_of(leader), term = %current.term, "leader");
            }
            lost = false;
        } else if !lost
            && !current.configuration.voters.is_empty()
            && current.leaderless_ticks >= 2 * u64::from(ELECTION_TICKS)
        {
            lost = true;
            let seen = |id: RaftId| id == current.id || current.connected.contains(&id);
            let voters = current.configuration.all_voters();
            let missing: Vec<String> =
                voters.into_iter().filter(|id| !seen(*id)).map(|id| service.name_of(id)).collect();
            tracing::warn!(missing = missing.join(", "), "no leader: writes are refused until a quorum is back");
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Who is connected is told by events; should they have been reordered under pressure, this tells it anew.
async fn keep_connected(endpoint: Endpoint, status: watch::Receiver<Arc<Status>>, inbox: mpsc::Sender<Call>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let believed = status.borrow().connected.clone();
        let connected: Vec<RaftId> = endpoint.peers().connected().into_iter().map(|(id, _)| id).collect();
        let up = connected.iter().filter(|id| !believed.contains(id)).map(|id| Input::PeerUp(*id));
        let down = believed.iter().filter(|id| !connected.contains(id)).map(|id| Input::PeerDown(*id));
        for input in up.chain(down) {
            if inbox.send(Call::Input(input)).await.is_err() {
                return;
            }
        }
    }
}

/// An orderly stop: leadership first.
pub(super) async fn shutdown(manager: &Manager) {
    let (reply, handed) = oneshot::channel();
    let transfer = async {
        if manager.inbox.send(Call::Transfer { to: None, reply }).await.is_ok() {
            let _ = handed.await;
        }
    };
    let _ = tokio::time::timeout(HAND_OVER, transfer).await;
    let _ = manager.inbox.send(Call::Stop).await;
}
