//! A manager that runs: its threads, what connects them, and how they end.
//!
//! Owns the start-up order (store, machine, threads, endpoint, local socket) and the shutdown order (hand leadership
//! over, stop taking requests, stop consensus, drain the writers). Each owner of something has one thread and one
//! inbox; nobody shares a lock. Started by the supervisor, whenever the node is a manager.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use quorate_core::consensus::config::{Config, ROUNDS_HANDED_MAX, WRITES_HANDED_MAX};
use quorate_core::consensus::io::{Input, Records, StopCause};
use quorate_core::consensus::pace::TICK_NANOS_MIN;
use quorate_core::consensus::{Consensus, Start as MachineStart};
use quorate_core::membership::admission::Strangers;
use quorate_core::membership::plan::SeatTimes;
use quorate_core::membership::upgrade::Support;
use quorate_core::ports::{LogReader, LogWriter, MetaStore, OpenStore, Staging, StateReader, StoreResult};
use quorate_core::state::Machine;
use quorate_core::state::contract::ApplyError;
use quorate_storage::KeyKeeper;
use quorate_transport::{Gate, Identity};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::applier::Applier;
use super::barrier::Barrier;
use super::builder::{NodeBuilder, off_thread};
use super::changes::Changes;
use super::damaged::DamageRecord;
use super::directory::{self, check_access, check_identity, open_store_with, resolve};
use super::ending::{Ending, Parts, Unfinished, contained};
use super::facts::{Facts, Layout};
use super::fence::{self, FenceRecord, Fencing, Incarnations};
use super::founding::prepared;
use super::gate::{NodeGate, NodeHandler};
use super::ground::Drives;
use super::hand_over::hand_over;
use super::keepers::Space;
use super::lead::LeaseWatch;
use super::looking::Looking;
pub(super) use super::manager::Manager;
use super::meeting;
use super::net::{self, Listening, Net};
use super::noted::Noted;
use super::own_identity;
use super::reach::Reach;
use super::readiness::Pulse;
use super::reading::Past;
use super::report::Digests;
use super::rolled_back;
use super::router::Router;
use super::service::{self, Service, StoreAccess};
use super::spent::{self, End, Mark};
use super::stop::{StartError, StopReason};
use super::syncs::Syncs;
use super::tasks::{Call, ConsensusTask, Hands};
use super::watching::{self, Watches};
use super::work::Work;
use super::workers::{self, Workers};
use super::{
    asking, backups, barrier, ca, housekeeping, identity, keepers, log_writer, metering, operators, proving, sealing,
};
use crate::config;
use crate::keys::{Desk, Keys};
use crate::metrics::Meters;

/// Calls that wait for the consensus task.
const INBOX: usize = 8_192;
/// Jobs that wait for a writer, and reports that wait for the consensus task: there are at most as many reports as
/// jobs, so a writer can always report, and the consensus task never waits for one that waits for it.
const JOBS: usize = 1_024;
const _: () = assert!(JOBS >= 2 * ROUNDS_HANDED_MAX && JOBS >= 2 * WRITES_HANDED_MAX);
const REPORTS: usize = 2 * JOBS + 16;
/// How long an orderly stop, leadership handed over, waits at most for the requests under way, most of them on their way to
/// the successor and back: a few milliseconds, unless the cluster is not well.
const LINGER: Duration = Duration::from_millis(250);

struct Opened {
    facts: Facts,
    identity: Identity,
    machine: Consensus,
    seat_times: SeatTimes,
    store: OpenStoreParts,
    state: Machine,
    records: Arc<Records>,
    changes: Arc<Changes>,
    listen: SocketAddr,
    /// The facts name another address than those on the disk.
    moved: bool,
    /// Bytes free beside the store; nothing where that cannot be told.
    free: Option<u64>,
}

struct OpenStoreParts {
    log: Box<dyn LogWriter>,
    log_reader: Arc<dyn LogReader>,
    staging: Arc<dyn Staging>,
    meta: Arc<dyn MetaStore>,
    keys: Option<Desk>,
}

fn open(builder: &NodeBuilder) -> Result<Opened, StartError> {
    let layout = builder.layout();
    check_access(&builder.directory)?;
    if !layout.holds_store() {
        if layout.identity().exists() {
            return Err(builder.store_is_gone());
        }
        return Err(StartError::Directory(format!(
            "{} holds no node; prepare it with `quorate init` or `quorate join`",
            builder.directory.display()
        )));
    }
    let (OpenStore { boot, log, log_reader, state, staging, meta }, keys) = open_watched(builder, &layout)?;
    let mut facts = Facts::load(&*meta)?.filter(Facts::is_ready).ok_or_else(|| {
        StartError::Directory(format!(
            "{} was prepared only half; run the same `quorate init` or `quorate join` again, it goes on where it stopped",
            builder.directory.display()
        ))
    })?;
    builder.contradicts(&facts.name, &facts.listen, &facts.advertise)?;
    if let Some(repaired) = &boot.repaired {
        tracing::warn!(
            repaired,
            "the end of the journal was torn by a crash and was mended; nothing synced is missing"
        );
    }
    fence::check(meta.get(FenceRecord::NAME)?, facts.lineage_list().generation(), &builder.directory)?;
    spent::check(&*meta, &facts, &builder.directory)?;
    check_identity(&layout, &facts)?;
    let held = keys.as_ref().and_then(KeyKeeper::held);
    let keys = keys.map(|keys| Desk::new(keys, &layout));
    if let Some(keys) = &keys {
        sealing::settle(keys)?;
    }
    // Kept once it is known that the address can be had: a mistyped one is not to stay.
    let moved = builder.moved(&mut facts.listen, &mut facts.advertise)?;
    if keys.is_some() && !moved {
        Noted::of(&facts).keep(&layout);
    }
    // By the key that has opened the store: it need not be asked for, or stretched, once more.
    let by_held = held.map(|(key, _)| Layout::with_keys(layout.root(), &Keys::key(key)));
    let identity = own_identity::load(by_held.as_ref().unwrap_or(&layout))?;
    let state = Machine::open(state).map_err(|error| match error {
        ApplyError::Store(error) => StartError::from(error),
        error @ (ApplyError::NeedsVersion { .. } | ApplyError::ClusterNeedsVersion { .. }) => {
            StartError::NeedsVersion(format!("{}: {error}", builder.directory.display()))
        }
        ApplyError::Broken { .. } => StartError::Damaged(error.to_string()),
    })?;
    let view = state.reader().view();
    let records = Arc::new(Records::read(&*view)?);
    Support::THIS.check(records.cluster.version).map_err(|unfit| {
        StartError::NeedsVersion(format!("{} cannot be run with this quorate: {unfit}", builder.directory.display()))
    })?;
    // What was applied in the round that finished an upgrade may be there without the mark, when the process was killed.
    meta.require(records.cluster.version)?;
    let changes = Arc::new(Changes::new(&*view)?);
    let identity = match identity::renewed(&identity, &facts, &records, &*view, builder.certificates)? {
        Some(renewed) => {
            own_identity::write(&layout, &renewed)?;
            match identity.subject().check_time(builder.certificates.clock.now()) {
                Ok(()) => tracing::info!("the node has signed itself a certificate that says which raft id it has"),
                Err(_over) => {
                    tracing::warn!(
                        "the node's certificate had run out while it was off: it has signed itself a new one"
                    );
                }
            }
            renewed
        }
        None => identity,
    };
    drop(view);
    let tail = read_entries(&*log_reader, state.status().applied.0 + 1, boot.last.0 + 1)?;
    let settings = settings(builder, &facts)?;
    let seat_times = settings.seat_times;
    let start = MachineStart {
        boot,
        state: state.status().clone(),
        records: Arc::clone(&records),
        tail,
        leases: state.leases(),
    };
    let machine = Consensus::new(settings, start).map_err(|cause| ill_fitting(&cause, &layout))?;
    let store = OpenStoreParts { log, log_reader, staging, meta, keys };
    let listen = resolve(&facts.listen)?;
    let free = layout.free_space().ok();
    Ok(Opened { facts, identity, machine, seat_times, store, state, records, changes, listen, moved, free })
}

/// Log and state contradict each other, though each is whole.
fn ill_fitting(cause: &StopCause, layout: &Layout) -> StartError {
    let what = match cause {
        StopCause::Invariant { detail, .. } => detail.clone(),
        StopCause::Store(_) | StopCause::Apply(_) | StopCause::RolledBack { .. } | StopCause::Overruled { .. } => {
            cause.to_string()
        }
    };
    let (store, directory) = (layout.store(), layout.root().display());
    StartError::Damaged(format!(
        "the store in {} is damaged: its log and its state do not fit together ({what}), as in a copy of files that was made while the node ran. Nothing was changed. Next, where other managers vote and hold the data: move that store aside, and come back with a fresh one: quorate join --replace --data-dir {directory} --manager HOST:PORT. An only voter comes back from a backup: quorate restore",
        store.display()
    ))
}

fn open_watched(builder: &NodeBuilder, layout: &Layout) -> Result<(OpenStore, Option<KeyKeeper>), StartError> {
    let mut options = directory::options(layout);
    options.probe.clone_from(&builder.probe.0);
    #[cfg(feature = "testing")]
    {
        options.unsealed = builder.unsealed;
    }
    open_store_with(layout, options)
}

/// What the machine is to keep to.
fn settings(builder: &NodeBuilder, facts: &Facts) -> Result<Config, StartError> {
    let mut settings = Config::new(facts.raft(), config::random_u64().map_err(internal)?);
    settings.tick_nanos = u64::try_from(builder.tick.as_nanos()).unwrap_or(settings.tick_nanos).max(TICK_NANOS_MIN);
    settings.log_window_entries = builder.log_window.max(16);
    settings.log_window_bytes = builder.log_window_bytes;
    settings.waiting_max = builder.waiting_max;
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    settings.ask_nanos = nanos(asking::PATIENCE);
    settings.seat_times.stable_ms = u64::try_from(builder.stable.as_millis()).unwrap_or(u64::MAX);
    settings.disk_patience_nanos = nanos(builder.disk_patience);
    settings.disk_probe_nanos = nanos(config::DISK_PROBE);
    settings.space_low = builder.space_low;
    settings.space_enough = builder.space_enough.max(builder.space_low);
    Ok(settings)
}

fn internal(error: crate::Error) -> StartError {
    StartError::Internal(error.to_string())
}

/// Every entry `from..to`. At a start: what is above the applied index is bounded by what was not yet applied at the end.
pub(super) fn read_entries(
    reader: &dyn LogReader,
    from: u64,
    to: u64,
) -> StoreResult<Vec<quorate_core::log::LogEntry>> {
    let mut tail: Vec<quorate_core::log::LogEntry> = Vec::new();
    let mut next = from;
    while next < to {
        let part = reader.entries(quorate_core::id::LogIndex(next), quorate_core::id::LogIndex(to), 16 << 20)?;
        next += part.len() as u64;
        tail.extend(part);
    }
    Ok(tail)
}

/// Starts everything.
///
/// Cancel safe: what was started by then is stopped.
pub(super) async fn start(builder: NodeBuilder, work: Work) -> Result<Manager, StartError> {
    let (began, hints) = (Instant::now(), builder.hints.clone());
    let opened = off_thread(move || open(&builder).map(|opened| (opened, builder))).await?;
    let (Opened { facts, identity, machine, seat_times, store, state, records, changes, listen, moved, free }, builder) =
        opened;
    let ending = Ending::new();
    let unfinished = Unfinished::new(ending.clone());
    let mut parts = Parts::new(&builder.ground, ending.clone());
    let initial = Arc::new(machine.status());
    let (status_out, status) = watch::channel(initial);
    let (records_out, records) = watch::channel(records);
    let (stop_net, stopping_net) = watch::channel(net::Order::Serve);
    let (stopped_out, stopped) = watch::channel(None);
    let (inbox, calls) = mpsc::channel(INBOX);
    let (log, log_jobs) = mpsc::channel(JOBS);
    let (applier_jobs_in, applier_jobs) = mpsc::channel(JOBS);
    let (reports_in, reports) = mpsc::channel(REPORTS);
    let reader: Arc<dyn StateReader> = state.reader();
    let claimed = proving::Claimed { view: reader.view(), hash: state.status().hash };
    let watches = Arc::new(Watches::new(state.status().revision, builder.watches_max));

    let incarnations = Arc::new(Incarnations::default());
    let strangers = Arc::new(Mutex::new(Strangers::default()));
    let gate: Arc<dyn Gate> = Arc::new(NodeGate {
        facts: facts.clone(),
        records: records.clone(),
        incarnations: Arc::clone(&incarnations),
        strangers: Arc::clone(&strangers),
        clock: builder.certificates.clock,
    });
    let (handler_in, handler) = oneshot::channel();
    let (listening_in, listening) = oneshot::channel();
    let net = Net {
        gate,
        handler,
        identity: Arc::new(identity),
        listen,
        seed: facts.seed_array(),
        directory: builder.directory.clone(),
        ending: ending.clone(),
        clock: builder.certificates.clock,
        ground: builder.ground.clone(),
    };
    parts.start("quorate-net-main", Drives::Tasks, net::serve(net, listening_in, stopping_net))?;
    let Listening { endpoint, handle } =
        listening.await.unwrap_or_else(|_| Err(StartError::Internal("the network thread ended at once".into())))?;
    let address = endpoint.local_address().unwrap_or(listen);
    if moved {
        let (facts, meta, layout) = (facts.clone(), Arc::clone(&store.meta), builder.layout());
        let noted = store.keys.is_some().then(|| Noted::of(&facts));
        off_thread(move || {
            facts.save(&*meta)?;
            if let Some(noted) = noted {
                noted.keep(&layout);
            }
            Ok(())
        })
        .await?;
    }

    let meters = Arc::new(Meters::new(&facts.display_name()));
    let space = Arc::new(Space::default());
    let syncs = Arc::new(Syncs::default());
    let (log_reports, measures) = (reports_in.clone(), (Arc::clone(&meters), Arc::clone(&syncs)));
    parts.start("quorate-log", Drives::Nothing, log_writer::run(store.log, log_jobs, log_reports, measures))?;
    let full = Arc::new(AtomicBool::new(false));
    let applier = Applier {
        machine: state,
        reports: reports_in,
        records: records.borrow().clone(),
        meta: Arc::clone(&store.meta),
        changes: Arc::clone(&changes),
        meters: Arc::clone(&meters),
        watches: Arc::clone(&watches),
        full: Arc::clone(&full),
    };
    parts.start("quorate-apply", Drives::Nothing, applier.run(applier_jobs))?;

    let peers = endpoint.peers();
    let reach = Reach::new(peers.clone());
    let (workers, worker_inboxes) = Workers::new(changes, work);
    let (shown, newly_shown) = ca::shown();
    let service = Arc::new(Service {
        facts: facts.clone(),
        barrier: Arc::new(Barrier::of(&facts)),
        router: Router {
            inbox: inbox.clone(),
            peers: reach.clone(),
            status: status.clone(),
            records: records.clone(),
            meters: Arc::clone(&meters),
        },
        peers: reach,
        store: RwLock::new(Some(StoreAccess {
            reader,
            staging: Arc::clone(&store.staging),
            keys: store.keys.map(Arc::new),
        })),
        status: status.clone(),
        records: records.clone(),
        applier: applier_jobs_in.downgrade(),
        incarnations: Arc::clone(&incarnations),
        digests: Digests::new(),
        workers,
        watches,
        joins: Semaphore::new(1),
        shown,
        parting: operators::Partings::default(),
        certificates: builder.certificates,
        under_way: service::under_way(),
        past: Past::default(),
        looking: Looking::default(),
        backups: backups::at_once(),
        meters: Arc::clone(&meters),
        pulse: Pulse::new(),
        full,
        who: Mutex::new(endpoint.identity()),
        udp_buffers: endpoint.udp_buffers(),
        space: Arc::clone(&space),
        syncs,
        clock: began,
        seat_times,
    });
    let fencing = Fencing {
        incarnations: Arc::clone(&incarnations),
        meta: Arc::clone(&store.meta),
        ending: ending.clone(),
        directory: builder.directory.clone(),
    };
    let handler = NodeHandler {
        fencing: fencing.clone(),
        inbox: inbox.clone(),
        service: Arc::downgrade(&service),
        staging_slot: Arc::new(Semaphore::new(1)),
        runtime: handle.clone(),
    };
    let _ = handler_in.send(Arc::new(handler));

    if let Some(free) = free {
        // Before anything else is decided.
        let _ = inbox.try_send(Call::Input(Input::Space { free }));
    }
    let hands = Hands {
        peers: peers.clone(),
        log,
        applier: applier_jobs_in,
        log_reader: store.log_reader,
        staging: store.staging,
        runtime: handle.clone(),
        inbox: inbox.clone(),
        status: status_out,
        records: records_out,
        meters: Arc::clone(&meters),
    };
    let draw = config::random_u64().map_err(internal)?;
    let phase = Duration::from_nanos(machine.tick_nanos()).mul_f64((draw % 1_000) as f64 / 1_000.0);
    let task = ConsensusTask::new(machine, hands, phase, began);
    let (ends, closing) = (ending.clone(), Arc::clone(&service));
    let (marks, naming, directory) = (Arc::clone(&store.meta), Arc::clone(&service), builder.directory.clone());
    let work = async move {
        let came = contained(task.run(&ends, calls, reports)).await;
        let end = match (came, ends.reason()) {
            // Also where the machine meets first that the store is final for it.
            (_, Some(StopReason::Damaged(what))) => {
                let status = Arc::clone(&naming.status.borrow());
                End::Marked(Mark::Damaged(DamageRecord::of(what, &naming.facts, &status.configuration)))
            }
            (Ok(None), reason) => End::For(reason.unwrap_or(StopReason::Asked)),
            (Ok(Some(cause)), _) => rolled_back::end_for(&cause, &naming.facts, &directory, |id| naming.name_of(id)),
            (Err(why), _) => End::For(StopReason::Bug(why)),
        };
        if matches!(end, End::Marked(_)) {
            // Nothing is read from such a store while the disk takes its time for the mark.
            naming.close();
        }
        let facts = naming.facts.clone();
        drop(naming);
        stop_net.send_replace(end.parting().map_or(net::Order::Stop, net::Order::Part));
        // The writers end with their inboxes; only then is everything given back.
        end.told(parts, marks, &facts, &directory).await
    };
    builder.ground.start("quorate-raft", Drives::Time, work, move |reason| {
        if reason == StopReason::Asked {
            tracing::debug!("consensus stopped as asked");
        } else if reason == StopReason::Removed {
            // Demoted or removed: what the node is now it asks next, and says then.
            tracing::info!("the raft id of this manager was taken from it: it is a manager no more");
        } else {
            tracing::error!(%reason, "the node stops");
        }
        closing.close();
        drop(closing);
        stopped_out.send_replace(Some(reason));
    })?;

    let (met_out, met) = watch::channel(Arc::default());
    ending.keep(&handle, "looks for managers that are missing", meeting::run(Arc::clone(&service), met_out, strangers));
    ending.keep(
        &handle,
        "dials the other managers",
        keepers::keep_peers(endpoint.clone(), facts.clone(), hints, met, records.clone(), store.meta),
    );
    ending.keep(&handle, "looks after workers", workers::run(Arc::clone(&service), worker_inboxes));
    ending.keep(&handle, "looks after watches", watching::keep(Arc::clone(&service)));
    ending.keep(
        &handle,
        "asks for lineages",
        asking::lineages(endpoint.clone(), facts.clone(), records.clone(), incarnations, inbox.clone()),
    );
    ending.keep(&handle, "weighs what is claimed", fencing.keep_claims(Arc::clone(&service), handle.clone()));
    ending.keep(
        &handle,
        "tells lost managers that they are",
        asking::tell_the_lost(Arc::clone(&service), endpoint.clone(), status.clone()),
    );
    ending.keep(
        &handle,
        "watches whether the others know this node",
        identity::keep_identity(Arc::clone(&service), peers, records, ending.clone(), builder.ground.network.clone()),
    );
    ending.keep(
        &handle,
        "renews the certificate",
        identity::keep_certificate(Arc::clone(&service), endpoint.clone(), builder.directory.clone()),
    );
    ending.keep(&handle, "follows a rotation of the CA", ca::keep_rotation(Arc::clone(&service), inbox.clone()));
    ending.keep(&handle, "notes who has renewed", ca::keep_shown(Arc::clone(&service), endpoint.clone(), newly_shown));
    ending.keep(
        &handle,
        "disconnects who was revoked or removed",
        operators::keep_out(Arc::clone(&service), endpoint.clone()),
    );
    ending.keep(&handle, "notes who is connected", keepers::keep_connected(endpoint, status.clone(), inbox.clone()));
    ending.keep(&handle, "tells the log who leads", keepers::narrate(Arc::clone(&service), status.clone()));
    ending.keep(&handle, "clears away old history", housekeeping::run(Arc::clone(&service)));
    ending.keep(&handle, "seals records anew", sealing::keep(Arc::clone(&service)));
    ending.keep(&handle, "compares the state with its hash", proving::run(claimed, status.clone(), ending.clone()));
    ending.keep(&handle, "keeps the barrier's keyring", barrier::keep(Arc::clone(&service)));
    ending.keep(&handle, "announces this node", keepers::keep_announced(Arc::clone(&service), status.clone()));
    ending.keep(
        &handle,
        "looks at the free space",
        keepers::keep_space(builder.layout(), inbox.clone(), space, meters),
    );
    ending.keep(&handle, "measures", metering::run(Arc::clone(&service), service.status.clone()));

    unfinished.finished();
    Ok(Manager {
        prepared: prepared(&facts, None),
        address,
        service,
        runtime: handle,
        inbox,
        ending,
        lease: LeaseWatch { status, began },
        stopped,
    })
}

/// An orderly stop: leadership first, then what is under way.
pub(super) async fn shutdown(manager: &Manager) {
    hand_over(&manager.inbox, &manager.service.status).await;
    manager.service.drain(LINGER).await;
    manager.ending.stop(StopReason::Asked);
}
