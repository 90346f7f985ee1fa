//! How a node comes to life: found, join, open.
//!
//! Owns the settings and the choice between founding, joining and opening. A directory is prepared so that a half-made one
//! is finished rather than begun anew: [`super::founding`] and [`super::newcomer`] do it. Never runs a node: the supervisor
//! does.

use std::path::{Path, PathBuf};
#[cfg(feature = "manager")]
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
#[cfg(feature = "manager")]
use quorate_core::limits::{WAITING_MAX, WATCHES_MAX};
use zeroize::Zeroizing;

use super::directory::check_access;
use super::facts::{Layout, wiped};
use super::ground::Ground;
#[cfg(feature = "manager")]
use super::recover::Recover;
use super::renewal::Terms;
use super::stop::StartError;
use super::worker::Times;
use super::{Node, supervisor};
use crate::config;
#[cfg(feature = "manager")]
use crate::keys::Keys;
use crate::status::NodeRole;

/// What to do with the directory; the same line serves at every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Run what was prepared; an empty directory is an error.
    Open,
    /// Found a cluster in an empty directory; run a known one; finish a half-made one.
    #[cfg(feature = "manager")]
    OpenOrInit,
    /// Join a cluster from an empty directory; run a known one; finish a half-made one.
    OpenOrJoin {
        /// The token of a role: it says whether the node joins as a manager or as a worker.
        token: String,
        /// Managers to ask, `host:port`.
        managers: Vec<String>,
    },
}

/// A directory that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// The cluster, base32.
    pub cluster_id: String,
    /// The node, base32.
    pub node_id: String,
    /// Its name; its id when it has none.
    pub name: String,
    /// Where others reach it.
    pub advertise: String,
    /// What it is to be run as.
    pub role: NodeRole,
    /// Its number in the Raft configuration; 0 for a worker.
    pub raft_id: u64,
    /// The operator's identity file; only `init` writes one.
    pub operator_identity: Option<PathBuf>,
    /// Only its certificate is another one: it was away while the CA was replaced, and keeps all that it has.
    pub certificate_only: bool,
}

/// Settings of a node.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    pub(super) directory: PathBuf,
    pub(super) listen: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) name: String,
    pub(super) hints: Vec<String>,
    pub(super) tick: Duration,
    pub(super) log_window: u64,
    pub(super) log_window_bytes: u64,
    #[cfg(feature = "manager")]
    pub(super) waiting_max: usize,
    #[cfg(feature = "manager")]
    pub(super) watches_max: usize,
    pub(super) stable: Duration,
    pub(super) times: Times,
    pub(super) patience: Duration,
    /// A given address that is not the one before is where the node has moved to.
    pub(super) moves: bool,
    #[cfg(feature = "manager")]
    force_new_cluster: Option<u64>,
    #[cfg(feature = "manager")]
    despite_peers: bool,
    /// Nobody has the key of the store any more.
    #[cfg(feature = "manager")]
    pub(super) key_lost: bool,
    pub(super) disk_patience: Duration,
    pub(super) space_low: u64,
    pub(super) space_enough: u64,
    #[cfg(feature = "manager")]
    pub(super) probe: Probe,
    #[cfg(feature = "manager")]
    keys: Keys,
    #[cfg(feature = "testing")]
    pub(super) unsealed: bool,
    pub(super) certificates: Terms,
    pub(super) ground: Ground,
}

/// Called at named points of what the store does; tests hold it up there.
#[cfg(feature = "manager")]
#[derive(Clone, Default)]
pub(super) struct Probe(pub(super) Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

#[cfg(feature = "manager")]
impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Probe").field(&self.0.is_some()).finish()
    }
}

impl NodeBuilder {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            listen: None,
            advertise: None,
            name: String::new(),
            hints: Vec::new(),
            tick: config::TICK_LAN,
            log_window: config::LOG_WINDOW_ENTRIES,
            log_window_bytes: config::LOG_WINDOW_BYTES,
            #[cfg(feature = "manager")]
            waiting_max: WAITING_MAX,
            #[cfg(feature = "manager")]
            watches_max: WATCHES_MAX,
            stable: config::STABLE,
            times: Times::default(),
            patience: config::REQUEST_DEADLINE,
            moves: false,
            #[cfg(feature = "manager")]
            force_new_cluster: None,
            #[cfg(feature = "manager")]
            despite_peers: false,
            #[cfg(feature = "manager")]
            key_lost: false,
            disk_patience: config::DISK_PATIENCE,
            space_low: config::SPACE_LOW,
            space_enough: config::SPACE_ENOUGH,
            #[cfg(feature = "manager")]
            probe: Probe::default(),
            #[cfg(feature = "manager")]
            keys: Keys::default(),
            #[cfg(feature = "testing")]
            unsealed: false,
            certificates: Terms::default(),
            ground: Ground::default(),
        }
    }

    /// Ends the incarnation of this generation (the one that `status` says) before the node starts: from this directory a
    /// cluster of one goes on with everything that is on its disk, and the other managers are lost. See [`crate::Recover`].
    /// A directory that is beyond this generation just starts, so that the call may stay in the program for ever.
    /// [`advertise`](Self::advertise) says where the survivor is reached from then on.
    #[cfg(feature = "manager")]
    pub const fn force_new_cluster(mut self, generation: u64) -> Self {
        self.force_new_cluster = Some(generation);
        self
    }

    /// With [`force_new_cluster`](Self::force_new_cluster): also when other managers are alive or hold more.
    #[cfg(feature = "manager")]
    pub const fn despite_peers(mut self, despite: bool) -> Self {
        self.despite_peers = despite;
        self
    }

    /// With [`rejoin`](Self::rejoin) and [`replace`](Self::replace): the key of the store is lost for good, so that a store which
    /// cannot be opened for want of it is moved aside (never deleted), as a damaged one is. Without this it is refused: a key
    /// that was only not given must not cost a raft id. The node's own key is sealed with it: `replace`, with a manager's token,
    /// gives it another one, and `rejoin` is refused.
    #[cfg(feature = "manager")]
    pub const fn key_lost(mut self, lost: bool) -> Self {
        self.key_lost = lost;
        self
    }

    /// Where the key comes from that opens this node's store. Default: a key file, see [`Keys`]. A store whose key people
    /// keep (autolock, or a passphrase that was not given here) makes [`start`](Self::start) wait: it answers on the local
    /// socket that it is locked, until somebody has unlocked it there.
    #[cfg(feature = "manager")]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// The directory, with what opens its store.
    pub(super) fn layout(&self) -> Layout {
        #[cfg(feature = "manager")]
        return Layout::with_keys(&self.directory, &self.keys).on(&self.ground);
        #[cfg(not(feature = "manager"))]
        Layout::new(&self.directory)
    }

    /// Keeps the records of the store as they are, to measure what sealing costs.
    #[cfg(feature = "testing")]
    pub const fn unsealed(mut self) -> Self {
        self.unsealed = true;
        self
    }

    /// The UDP address to listen on, `host:port`. Default `[::]:4701`; port 0 takes a free one when the directory is
    /// prepared, and keeps it.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// The address that others reach this node at, `host:port`. Default: where it listens.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertise = Some(address.into());
        self
    }

    /// A name for people, unique in the cluster. Default: the node id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// A further address at which to look for managers.
    pub fn manager(mut self, address: impl Into<String>) -> Self {
        self.hints.push(address.into());
        self
    }

    /// The length of a tick in a cluster that this node founds. Default 20 ms (`lan`). Afterwards the cluster's policy says
    /// it, for every manager alike ([`Policy::set`](crate::Policy::set)); a node that joins counts with this one until it has
    /// heard of that. Longer ticks bear slower networks and make failover slower in proportion.
    pub const fn tick(mut self, tick: Duration) -> Self {
        self.tick = tick;
        self
    }

    /// Log entries kept for members that lag. Default 10,000. More costs disk and memory; less means snapshots more
    /// often.
    pub const fn log_window(mut self, entries: u64) -> Self {
        self.log_window = entries;
        self
    }

    /// Bytes of log entries kept for members that lag. Default 256 MiB. Whichever window is full first, this one or
    /// [`log_window`](Self::log_window), the oldest entries go. More costs disk and memory; less means snapshots more often.
    pub const fn log_window_bytes(mut self, bytes: u64) -> Self {
        self.log_window_bytes = bytes;
        self
    }

    /// How many requests may wait at this manager before it refuses more of them as `WAITING_MAX`.
    #[cfg(feature = "testing")]
    pub const fn waiting_max(mut self, most: usize) -> Self {
        self.waiting_max = most;
        self
    }

    /// How many watches this manager serves before it refuses more of them as `WATCHES_MAX`.
    #[cfg(feature = "testing")]
    pub const fn watches_max(mut self, most: usize) -> Self {
        self.watches_max = most;
        self
    }

    /// How long a standby must be connected and caught up before it gets a seat, where the cluster's policy says nothing.
    /// Default 2 s.
    pub const fn stable(mut self, stable: Duration) -> Self {
        self.stable = stable;
        self
    }

    /// How long joining a cluster, or coming back to one, may take. Default 10 s.
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How long the disk may leave a write unanswered before this node hands leadership on and neither leads nor votes,
    /// until it answers. Default 3 s; at least two base election timeouts. Longer bears slower disks, and leaves writes
    /// waiting for longer where one hangs.
    pub const fn disk_patience(mut self, patience: Duration) -> Self {
        self.disk_patience = patience;
        self
    }

    /// Free bytes beside the store below which this node takes no more writes and neither leads nor votes, and from which
    /// it goes on. Default 256 MiB and 384 MiB. 0 is no such mark: then a full disk stops the node.
    pub const fn space_marks(mut self, low: u64, enough: u64) -> Self {
        self.space_low = low;
        self.space_enough = enough;
        self
    }

    /// Calls `probe` at named points of what the store does, on the thread that does it: where it does not return, the
    /// disk does not answer.
    #[cfg(feature = "testing")]
    pub fn store_probe(mut self, probe: Arc<dyn Fn(&'static str) + Send + Sync>) -> Self {
        self.probe = Probe(Some(probe));
        self
    }

    /// What the node stands on, where it is not the machine.
    #[cfg(feature = "testing")]
    pub(crate) fn ground(mut self, ground: Ground) -> Self {
        self.ground = ground;
        self
    }

    /// How long the certificates hold that this node makes as a manager: its own, and those of nodes that join or renew
    /// through it.
    #[cfg(feature = "testing")]
    pub const fn certificate_life(mut self, life: Duration) -> Self {
        self.certificates.life = life;
        self
    }

    /// By how much this node's clock is ahead of the system's, where certificates are made and checked; negative is behind.
    #[cfg(feature = "testing")]
    pub const fn clock_ahead(mut self, seconds: i64) -> Self {
        self.certificates.clock = quorate_transport::Clock::ahead(seconds);
        self
    }

    /// Prepares and runs the node. It answers once a manager's endpoint listens, or a worker has begun to look for managers;
    /// [`Node::ready`] waits for a leader, or a session. With [`Start::Open`] a listen or advertised address that is not the
    /// one before says that the node has moved; the others are told.
    ///
    /// Cancel safe: dropped half-way, what was started is stopped, and the directory can be started again with the same
    /// call.
    ///
    /// # Errors
    /// See [`StartError`]; `Contradiction` when the directory holds a node with another name or address than asked for.
    pub async fn start(mut self, start: Start) -> Result<Node, StartError> {
        self.check().await?;
        #[cfg(feature = "manager")]
        if let Some(keys) = Box::pin(super::locked::unlocked(&self)).await? {
            self.keys = keys;
        }
        self.moves = start == Start::Open;
        match start {
            Start::Open => {}
            #[cfg(feature = "manager")]
            Start::OpenOrInit => {
                self.clone().prepare_init().await?;
            }
            Start::OpenOrJoin { token, managers } => {
                self.clone().prepare_join(token, managers).await?;
            }
        }
        #[cfg(feature = "manager")]
        if let Some(generation) = self.force_new_cluster {
            let recover = Recover::from(&self.directory).keys(self.keys.clone()).despite_peers(self.despite_peers);
            let recover = match &self.advertise {
                Some(address) => recover.address(address),
                None => recover,
            };
            if let Some(report) = Box::pin(recover.run_at(generation)).await? {
                report.log();
            }
        }
        supervisor::start(self).await
    }

    /// Founds a cluster in the directory and returns; a directory that holds a founded node is refused.
    ///
    /// Cancel safe: dropped half-way, the same call, or [`start`](Self::start), finishes it; where it was done already, the same
    /// call is refused as `Directory`.
    ///
    /// # Errors
    /// `Directory` when a node is there already; `Address` when another process listens where this node is to.
    #[cfg(feature = "manager")]
    pub async fn init(self) -> Result<Prepared, StartError> {
        self.check().await?;
        self.refuse_ready().await?;
        self.prepare_init().await
    }

    /// Joins a cluster with the token of a role and returns; a directory that holds a node is refused.
    ///
    /// Cancel safe, as [`init`](Self::init) is: the same call again does not take the node in twice.
    ///
    /// # Errors
    /// `Refused` with the manager's reason; `Unavailable` when none could be reached; `Unknown` when one did not answer;
    /// `Directory` when a node is there.
    pub async fn join(self, token: &str, managers: Vec<String>) -> Result<Prepared, StartError> {
        self.check().await?;
        self.refuse_ready().await?;
        self.prepare_join(token.to_owned(), managers).await
    }

    /// What can be wrong is told before anything is made.
    pub(super) async fn check(&self) -> Result<(), StartError> {
        let builder = self.clone();
        off_thread(move || {
            builder.validate()?;
            check_access(&builder.directory)?;
            #[cfg(feature = "manager")]
            builder.not_half_restored()?;
            Ok(())
        })
        .await
    }
}

pub(super) fn random<T>(wrap: impl FnOnce([u8; 16]) -> T) -> Result<T, StartError> {
    config::random_id(wrap).map_err(|error| StartError::Internal(error.to_string()))
}

/// 32 random bytes that something secret is made from.
pub(super) fn random_seed() -> Result<Bytes, StartError> {
    let mut seed = Zeroizing::new(Vec::with_capacity(32));
    for _ in 0..2 {
        seed.extend_from_slice(&*random(Zeroizing::new)?);
    }
    Ok(wiped(seed))
}

/// Disk and name resolution stay off the caller's runtime.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StartError::Internal(format!("a helper thread failed: {error}"))))
}
