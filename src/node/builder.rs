//! How a node comes to life: found, join, open.
//!
//! Owns the preparation of a directory, resumable at every step: ids are drawn and synced first, so that a half-made
//! directory is finished rather than begun anew. Never runs a node: [`super::running`] does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::COMMAND_VERSION;
use quorate_core::id::{ClusterId, Lineage, LineageId, NodeId, RaftId, StoreId};
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::ports::OpenStore;
use quorate_core::state::{Founding, found};
use quorate_transport::{
    CertRole, CertSubject, ClusterCa, Identity, JoinError, JoinRefused, JoinRequest, JoinToken, Joined, KeyPair,
};

use super::Node;
use super::dialback::ListenWhileJoining;
use super::directory::{check_access, check_address, open_store, resolve};
use super::facts::{Facts, KnownManager, Layout, Stage};
use super::records::{CaRecord, TokenRecord, ca_key, token_key};
use super::recover::Recover;
use super::running;
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::config;

/// What to do with the directory; the same line serves at every boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Run what was prepared; an empty directory is an error.
    Open,
    /// Found a cluster in an empty directory; run a known one; finish a half-made one.
    OpenOrInit,
    /// Join a cluster from an empty directory; run a known one; finish a half-made one.
    OpenOrJoin {
        /// The manager token.
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
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// The operator's identity file; only `init` writes one.
    pub operator_identity: Option<PathBuf>,
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
    pub(super) history: u64,
    pub(super) stable: Duration,
    pub(super) patience: Duration,
    force_new_cluster: Option<u64>,
    despite_peers: bool,
    pub(super) disk_patience: Duration,
    pub(super) space_low: u64,
    pub(super) space_enough: u64,
    pub(super) probe: Probe,
}

/// Called at named points of what the store does; tests hold it up there.
#[derive(Clone, Default)]
pub(super) struct Probe(pub(super) Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

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
            history: config::HISTORY_REVISIONS,
            stable: config::STABLE,
            patience: config::REQUEST_DEADLINE,
            force_new_cluster: None,
            despite_peers: false,
            disk_patience: config::DISK_PATIENCE,
            space_low: config::SPACE_LOW,
            space_enough: config::SPACE_ENOUGH,
            probe: Probe::default(),
        }
    }

    /// Ends the incarnation of this generation (the one that `status` says) before the node starts: from this directory a
    /// cluster of one goes on with everything that is on its disk, and the other managers are lost. See [`crate::Recover`].
    /// A directory that is beyond this generation just starts, so that the call may stay in the program for ever.
    /// [`advertise`](Self::advertise) says where the survivor is reached from then on.
    pub const fn force_new_cluster(mut self, generation: u64) -> Self {
        self.force_new_cluster = Some(generation);
        self
    }

    /// With [`force_new_cluster`](Self::force_new_cluster): also when other managers are alive or hold more.
    pub const fn despite_peers(mut self, despite: bool) -> Self {
        self.despite_peers = despite;
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

    /// Old revisions kept for reads of the past, at least. Default 100,000; the same on every manager. More costs disk.
    pub const fn history(mut self, revisions: u64) -> Self {
        self.history = revisions;
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

    /// Prepares and runs the node. It answers once the endpoint listens; [`Node::ready`] waits for a leader.
    ///
    /// Cancel safe: dropped half-way, what was started is stopped, and the directory can be started again with the same
    /// call.
    ///
    /// # Errors
    /// See [`StartError`]; `Contradiction` when the directory holds a node with another name or address than asked for.
    pub async fn start(self, start: Start) -> Result<Node, StartError> {
        self.check().await?;
        match start {
            Start::Open => {}
            Start::OpenOrInit => {
                self.clone().prepare_init().await?;
            }
            Start::OpenOrJoin { token, managers } => {
                self.clone().prepare_join(token, managers).await?;
            }
        }
        if let Some(generation) = self.force_new_cluster {
            let recover = Recover::from(&self.directory).despite_peers(self.despite_peers);
            let recover = match &self.advertise {
                Some(address) => recover.address(address),
                None => recover,
            };
            if let Some(report) = Box::pin(recover.run_at(generation)).await? {
                report.log();
            }
        }
        running::start(self).await
    }

    /// Founds a cluster in the directory and returns; a directory that holds a founded node is refused.
    ///
    /// # Errors
    /// `Directory` when a node is there already.
    pub async fn init(self) -> Result<Prepared, StartError> {
        self.check().await?;
        self.refuse_ready().await?;
        self.prepare_init().await
    }

    /// Joins a cluster with the manager token and returns; a directory that holds a node is refused.
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
            check_access(&builder.directory)
        })
        .await
    }

    async fn refuse_ready(&self) -> Result<(), StartError> {
        if !quorate_storage::exists(&Layout::new(&self.directory).store()) {
            return Ok(());
        }
        let directory = self.directory.clone();
        let facts = off_thread(move || {
            let store = open_store(&Layout::new(&directory))?;
            Ok(Facts::load(&*store.meta)?)
        })
        .await?;
        match facts {
            Some(facts) if facts.is_ready() => Err(StartError::Directory(format!(
                "{} already holds a node of cluster {}. Nothing was changed; run it with `quorate run --data-dir {}`, or choose another directory",
                self.directory.display(),
                facts.cluster(),
                self.directory.display()
            ))),
            Some(_) | None => Ok(()),
        }
    }

    async fn prepare_init(self) -> Result<Prepared, StartError> {
        off_thread(move || self.init_blocking()).await
    }

    /// Ids and addresses, synced before anything is founded or asked.
    fn begin(&self, store: &OpenStore) -> Result<Facts, StartError> {
        if let Some(mut facts) = Facts::load(&*store.meta)? {
            // Until somebody else knows the node, what is asked for now counts: a taken name or a bad address is mended
            // by the next attempt.
            if !facts.is_ready() && facts.raft_id == 0 && self.adopt(&mut facts)? {
                facts.save(&*store.meta)?;
            }
            return Ok(facts);
        }
        let (listen, advertise) = self.addresses()?;
        let seed = [random(|bytes| bytes)?, random(|bytes| bytes)?].concat();
        let facts = Facts {
            stage: Stage::Begun.into(),
            node_id: Bytes::copy_from_slice(random(NodeId::from_bytes)?.as_bytes()),
            store_id: Bytes::copy_from_slice(random(StoreId::from_bytes)?.as_bytes()),
            name: self.name.clone(),
            listen,
            advertise,
            seed: seed.into(),
            ..Facts::default()
        };
        facts.save(&*store.meta)?;
        Ok(facts)
    }

    /// A directory that belongs to an existing cluster must never become a new, empty one: what is written there would
    /// be acknowledged by nobody else, and the certificate that could bring the node back would be gone.
    fn refuse_to_found(&self, facts: &Facts) -> Result<(), StartError> {
        let directory = self.directory.display();
        if !facts.joining_key.is_empty() {
            return Err(StartError::Directory(format!(
                "{directory} was prepared half to join a cluster. Nothing was changed; run the same join again, or choose another directory"
            )));
        }
        if !facts.cluster_id.is_empty() && facts.raft_id == 0 {
            return Err(self.store_is_gone());
        }
        Ok(())
    }

    pub(super) fn store_is_gone(&self) -> StartError {
        let directory = self.directory.display();
        StartError::Directory(format!(
            "{directory} holds the identity of a node, but its store is gone. Nothing was changed; bring the store back, or let the node come back with a fresh one: quorate join --replace --data-dir {directory} --manager HOST:PORT"
        ))
    }

    fn init_blocking(self) -> Result<Prepared, StartError> {
        let layout = Layout::new(&self.directory);
        // Of a newcomer the managers see where it is; of the first one nobody does.
        let nowhere = |advertise: &String| advertise.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_unspecified());
        if let Some(advertise) = self.advertise.as_ref().filter(|advertise| nowhere(advertise)) {
            return Err(StartError::Invalid(format!(
                "nobody can reach a node at {advertise}: advertise an address that the other managers can use. Nothing was changed"
            )));
        }
        if layout.identity().exists() && !quorate_storage::exists(&layout.store()) {
            return Err(self.store_is_gone());
        }
        let mut store = open_store(&layout)?;
        let mut facts = self.begin(&store)?;
        if facts.is_ready() {
            return Ok(prepared(&facts, None));
        }
        if store.boot.start.index.0 == 0 {
            self.refuse_to_found(&facts)?;
            let internal = |error: &dyn std::fmt::Display| StartError::Internal(error.to_string());
            let cluster = random(ClusterId::from_bytes)?;
            let now = SystemTime::now();
            let ca = ClusterCa::create(cluster, now).map_err(|error| internal(&error))?;
            let identity = issue(&ca, cluster, facts.node(), CertRole::Manager, now)?;
            let operator = issue(&ca, cluster, random(NodeId::from_bytes)?, CertRole::Operator, now)?;
            // Files first: they are nobody's until the store says so, and are written anew by the next attempt.
            identity.write(&layout.identity()).map_err(|error| StartError::Disk(error.to_string()))?;
            operator.write(&layout.operator()).map_err(|error| StartError::Disk(error.to_string()))?;
            let lineage = Lineage(vec![random(LineageId::from_bytes)?]);
            facts.cluster_id = Bytes::copy_from_slice(cluster.as_bytes());
            facts.lineage = lineage.to_bytes().into();
            facts.raft_id = 1;
            facts.save(&*store.meta)?;
            let founding = founding(&facts, &ca, &identity, self.tick)?;
            let founded = found(&founding).map_err(|refusal| StartError::Invalid(refusal.to_string()))?;
            store.state.found(founded.writes, founded.reset)?;
        }
        facts.stage = Stage::Ready.into();
        facts.save(&*store.meta)?;
        Ok(prepared(&facts, Some(layout.operator())))
    }

    async fn prepare_join(self, token: String, managers: Vec<String>) -> Result<Prepared, StartError> {
        let token: JoinToken =
            token.trim().parse().map_err(|error| StartError::Invalid(format!("{error}. Nothing was changed")))?;
        if managers.is_empty() {
            return Err(StartError::Invalid("name at least one manager to join through, as host:port".into()));
        }
        for manager in &managers {
            check_address(manager)?;
        }
        let builder = self.clone();
        let (facts, key) = off_thread(move || {
            let layout = Layout::new(&builder.directory);
            // The cluster knows this node: as a newcomer it would be there twice, and nobody could be it any more.
            if layout.identity().exists() && !quorate_storage::exists(&layout.store()) {
                return Err(builder.store_is_gone());
            }
            let store = open_store(&layout)?;
            if store.boot.start.index.0 != 0 && !Facts::load(&*store.meta)?.is_some_and(|facts| facts.is_ready()) {
                return Err(StartError::Directory(format!(
                    "{} was prepared half to found a cluster. Nothing was changed; run the same init again, or choose another directory",
                    builder.directory.display()
                )));
            }
            let mut facts = builder.begin(&store)?;
            if !facts.is_ready() && facts.joining_key.is_empty() {
                // The key is kept before it is shown to anybody: a join that was cut off is asked again as the same node.
                let key = KeyPair::generate().map_err(|error| StartError::Internal(error.to_string()))?;
                facts.joining_key = Bytes::copy_from_slice(key.pkcs8_der());
                facts.save(&*store.meta)?;
            }
            let key = if facts.is_ready() { None } else { Some(key_of(&facts)?) };
            Ok((facts, key))
        })
        .await?;
        let Some(key) = key else {
            self.contradicts_token(&token)?;
            return Ok(prepared(&facts, None));
        };
        let joined = ask_to_join(&facts, &key, &token, &managers, self.patience).await?;
        off_thread(move || finish_join(&Layout::new(&self.directory), joined)).await
    }
}

/// Asks to be taken in, and listens meanwhile where the node will listen: the managers dial back.
pub(super) async fn ask_to_join(
    facts: &Facts,
    key: &KeyPair,
    token: &JoinToken,
    managers: &[String],
    patience: Duration,
) -> Result<Joined, StartError> {
    let listening = ListenWhileJoining::begin(resolve(&facts.listen)?, key_of(facts)?).await?;
    let joined = ask(facts, key, token, managers, patience, listening.failed()).await;
    // The port is free again before anybody runs the node on it.
    listening.end().await;
    joined
}

async fn ask(
    facts: &Facts,
    key: &KeyPair,
    token: &JoinToken,
    managers: &[String],
    patience: Duration,
    deaf: Option<&str>,
) -> Result<Joined, StartError> {
    let csr = key.csr().map_err(|error| StartError::Internal(error.to_string()))?;
    let mut request = JoinRequest::new(token, csr, facts.node());
    request.name.clone_from(&facts.name);
    request.advertise.clone_from(&facts.advertise);
    request.store_id = Some(facts.store());
    request.command_version = COMMAND_VERSION;
    request.software = SOFTWARE.to_owned();
    quorate_transport::join(managers, token, request, patience).await.map_err(|error| match error {
        JoinError::Refused(refused @ (JoinRefused::NoLeader | JoinRefused::RateLimited | JoinRefused::Locked)) => {
            StartError::Unavailable(refused.to_string())
        }
        JoinError::Refused(refused @ JoinRefused::Unreachable(_)) => match deaf {
            Some(why) => StartError::Address(format!("{why}; and so {refused}")),
            None => StartError::Refused(refused.to_string()),
        },
        JoinError::Refused(refused) => StartError::Refused(refused.to_string()),
        // Whoever was reached and is not of the token's cluster stays so, however often it is asked.
        JoinError::Connect(error) if !error.is_retryable() => StartError::Refused(error.to_string()),
        JoinError::Connect(error) => StartError::Unavailable(error.to_string()),
        JoinError::Unknown(_) => StartError::Unknown(error.to_string()),
        JoinError::BadReply(_) => StartError::Refused(error.to_string()),
    })
}

pub(super) fn finish_join(layout: &Layout, joined: Joined) -> Result<Prepared, StartError> {
    let store = open_store(layout)?;
    let Some(mut facts) = Facts::load(&*store.meta)? else {
        return Err(StartError::Directory(format!("{} was emptied while joining", layout.root().display())));
    };
    let identity = Identity::new(joined.ca_certificate.into(), joined.certificate.into(), key_of(&facts)?)
        .map_err(|error| StartError::Refused(error.to_string()))?;
    identity.write(&layout.identity()).map_err(|error| StartError::Disk(error.to_string()))?;
    facts.cluster_id = Bytes::copy_from_slice(joined.cluster_id.as_bytes());
    facts.lineage = joined.lineage.to_bytes().into();
    facts.raft_id = joined.raft_id.0;
    if let Ok(address) = std::str::from_utf8(&joined.extra)
        && !address.is_empty()
    {
        facts.advertise = address.to_owned();
    }
    facts.managers = joined
        .managers
        .into_iter()
        .map(|manager| KnownManager {
            raft_id: manager.raft_id.0,
            node_id: Bytes::copy_from_slice(manager.node_id.as_bytes()),
            addresses: manager.addresses,
        })
        .collect();
    facts.joining_key = Bytes::new();
    facts.stage = Stage::Ready.into();
    facts.save(&*store.meta)?;
    Ok(prepared(&facts, None))
}

pub(super) fn random<T>(wrap: impl FnOnce([u8; 16]) -> T) -> Result<T, StartError> {
    config::random_id(wrap).map_err(|error| StartError::Internal(error.to_string()))
}

fn key_of(facts: &Facts) -> Result<KeyPair, StartError> {
    KeyPair::from_pkcs8(&facts.joining_key)
        .map_err(|error| StartError::Damaged(format!("the key kept for joining cannot be read: {error}")))
}

fn issue(
    ca: &ClusterCa,
    cluster: ClusterId,
    node_id: NodeId,
    role: CertRole,
    now: SystemTime,
) -> Result<Identity, StartError> {
    let internal = |error: String| StartError::Internal(error);
    let key = KeyPair::generate().map_err(|error| internal(error.to_string()))?;
    let csr = key.csr().map_err(|error| internal(error.to_string()))?;
    let certificate = ca
        .issue(&csr, &CertSubject { cluster, node_id, role }, config::CERTIFICATE, now)
        .map_err(|error| internal(error.to_string()))?;
    Identity::new(ca.certificate().clone(), certificate, key).map_err(|error| internal(error.to_string()))
}

fn founding(facts: &Facts, ca: &ClusterCa, identity: &Identity, tick: Duration) -> Result<Founding, StartError> {
    let token = || -> Result<Bytes, StartError> {
        let secret = Bytes::copy_from_slice(&random(|bytes| bytes)?);
        Ok(TokenRecord { secret }.encode_to_vec().into())
    };
    let (certificate, key) = ca.to_parts();
    let ca = CaRecord { certificate: certificate.into(), key: Bytes::copy_from_slice(&key) };
    Ok(Founding {
        cluster: ClusterRecord {
            cluster_id: facts.cluster_id.clone(),
            lineage: facts.lineage.clone(),
            next_raft_id: 2,
            version: COMMAND_VERSION,
            max_voters: config::MAX_VOTERS,
            tick_micros: u64::try_from(tick.as_micros()).unwrap_or(u64::MAX).clamp(1_000, 10_000_000),
            ..ClusterRecord::default()
        },
        node: NodeRecord {
            id: facts.node_id.clone(),
            name: facts.name.clone(),
            role: Role::Manager.into(),
            addresses: vec![facts.advertise.clone()],
            raft_id: RaftId(1).0,
            store_id: facts.store_id.clone(),
            command_version: COMMAND_VERSION,
            software: SOFTWARE.to_owned(),
            key_digest: Bytes::copy_from_slice(&identity.subject().key_digest),
            ..NodeRecord::default()
        },
        records: vec![
            (token_key(Role::Manager), token()?),
            (token_key(Role::Worker), token()?),
            (ca_key(), ca.encode_to_vec().into()),
        ],
    })
}

pub(super) fn prepared(facts: &Facts, operator_identity: Option<PathBuf>) -> Prepared {
    let node_id = facts.node().to_string();
    Prepared {
        cluster_id: facts.cluster().to_string(),
        name: if facts.name.is_empty() { node_id.clone() } else { facts.name.clone() },
        node_id,
        advertise: facts.advertise.clone(),
        raft_id: facts.raft_id,
        operator_identity,
    }
}

/// Disk and name resolution stay off the caller's runtime.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StartError::Internal(format!("a helper thread failed: {error}"))))
}
