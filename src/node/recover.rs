//! Force-new-cluster on this machine: from one stopped manager's directory to a cluster of one that has everything it had.
//!
//! Owns design section 6 around the pure part in [`quorate_core::recovery`]: the lock, the question to the other managers,
//! the refusals, the write, and the report. Changes nothing but by one synced batch; what follows it is done by the next
//! start, level-triggered. Called by the command line, and by a start that was told to recover.

mod against;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::command::{COMMAND_VERSION, COMMAND_VERSION_MIN};
use quorate_core::consensus::io::Records;
use quorate_core::id::{LineageId, NodeId, RaftId};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::ports::{Boot, LogReader, RecoveryWrite, StateRead, StateStore};
use quorate_core::recovery::{Incarnation, Recovery, RecoveryError, Survivor, Verdict, plan};
use quorate_core::state::Jump;
use quorate_transport::{Clock, Identity, word};

use against::{Against, against};

use super::asking::{self, Answer};
use super::barrier::Barrier;
use super::builder::{off_thread, random};
use super::departed::departed;
use super::directory::{explained, identity_of, look_into, open_store, resolve};
use super::facts::{Facts, Layout};
use super::fence::{self, FenceRecord};
use super::identity;
use super::own_identity;
use super::records;
use super::renewal::Terms;
use super::spent::Mark;
use super::state_file::StateFile;
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::config;
use crate::keys::Keys;
use crate::recovery::RecoveryReport;

/// A recovery of the cluster from the stopped manager in one directory.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let report = quorate::Recover::from("/var/lib/app").dry_run().await?;
/// println!("{} entries above the commit index would be kept", report.uncommitted);
/// quorate::Recover::from("/var/lib/app").run().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is done until it is run"]
pub struct Recover {
    directory: PathBuf,
    address: Option<String>,
    despite_peers: bool,
    keys: Keys,
}

/// Everything read from the directory, and what holds it.
struct Opened {
    facts: Facts,
    identity: Identity,
    recovery: Recovery,
    state: Option<Box<dyn StateStore>>,
    meta: Option<Arc<dyn quorate_core::ports::MetaStore>>,
    mark: Option<Mark>,
}

impl Recover {
    /// From the manager that is stopped in `directory`.
    pub fn from(directory: impl AsRef<Path>) -> Self {
        Self { directory: directory.as_ref().to_owned(), address: None, despite_peers: false, keys: Keys::default() }
    }

    /// Where the key comes from that opens the store. Default: a key file, see [`Keys`].
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    fn layout(&self) -> Layout {
        Layout::with_keys(&self.directory, &self.keys)
    }

    /// The address, `host:port`, at which the survivor is reached from now on. Default: as before.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Recovers although other managers are alive or hold more: they are fenced as soon as they hear of it.
    pub const fn despite_peers(mut self, despite: bool) -> Self {
        self.despite_peers = despite;
        self
    }

    /// Says what a recovery would keep and what speaks against it. Reads only; cancel safe.
    ///
    /// # Errors
    /// `Directory` when there is no manager, `InUse` when it runs, `Damaged` when it cannot be recovered from,
    /// `Superseded` when it is fenced.
    pub async fn dry_run(self) -> Result<RecoveryReport, StartError> {
        let this = self.clone();
        let opened = off_thread(move || this.look()).await?;
        let answers = ask(&opened).await;
        Ok(self.judge(&opened, &answers).0)
    }

    /// Recovers. The directory is held from before the other managers are asked until everything is written.
    ///
    /// Not cancel safe; dropped or killed at any moment, it has changed nothing or everything.
    ///
    /// # Errors
    /// As [`dry_run`](Self::dry_run); `ClusterAlive` when another manager follows a leader or holds more; `Forked` when one
    /// is of another recovery.
    pub async fn run(self) -> Result<RecoveryReport, StartError> {
        let this = self.clone();
        let opened = off_thread(move || this.hold()).await?;
        self.finish(opened).await
    }

    /// [`run`](Self::run), when the directory is of exactly this generation; of a later one it is left as it is.
    pub(super) async fn run_at(self, generation: u64) -> Result<Option<RecoveryReport>, StartError> {
        let this = self.clone();
        let opened = off_thread(move || {
            let found = this.generation()?;
            if found > generation {
                tracing::warn!(
                    generation, found,
                    "already recovered, remove the flag: it names the generation to end, and this directory is beyond it"
                );
                return Ok(None);
            }
            if found < generation {
                return Err(StartError::Invalid(format!(
                    "--force-new-cluster={generation} names the generation to end, and {} is of generation {found}. Nothing was changed; `quorate recover --dry-run` shows it",
                    this.directory.display()
                )));
            }
            this.hold().map(Some)
        })
        .await?;
        match opened {
            Some(opened) => self.finish(opened).await.map(Some),
            None => Ok(None),
        }
    }

    async fn finish(self, mut opened: Opened) -> Result<RecoveryReport, StartError> {
        if !matches!(opened.recovery.verdict, Verdict::Write(_)) {
            return Ok(self.judge(&opened, &BTreeMap::new()).0);
        }
        let answers = ask(&opened).await;
        let (report, refusal) = self.judge(&opened, &answers);
        if let Some(Against { error, fence, final_ }) = refusal {
            if let (Some(fence), Some(meta)) = (fence, opened.meta.take()) {
                off_thread(move || Ok(fence.save(&*meta)?)).await?;
            }
            if final_ || !self.despite_peers {
                return Err(error);
            }
            tracing::warn!(%error, "recovered despite the other managers, as asked");
        }
        off_thread(move || self.write(opened)).await?;
        Ok(RecoveryReport { written: true, ..report })
    }

    /// The length of the lineage in the directory.
    fn generation(&self) -> Result<u64, StartError> {
        let store = self.read_only()?;
        let facts = self.facts(store.fact(Facts::NAME)?)?;
        Ok(super::inspect::lineage(&facts, &*store.state)?.generation())
    }

    fn read_only(&self) -> Result<quorate_storage::Inspection, StartError> {
        let layout = self.layout();
        let (store, directory) = (layout.store(), self.directory.display());
        super::restore::cut_off(&layout)?;
        if !quorate_storage::exists(&store) {
            let what = if StateFile::load(&layout)?.is_some() {
                "is a worker's: it holds no log, and only a manager can be recovered from"
            } else {
                "holds no node"
            };
            return Err(StartError::Directory(format!(
                "{directory} {what}. Nothing was changed; give the directory of a manager that has survived, on its machine"
            )));
        }
        look_into(&layout, &store).map_err(|error| explained(&layout, error))
    }

    fn facts(&self, stored: Option<Bytes>) -> Result<Facts, StartError> {
        let ready = |facts: &Facts| facts.is_ready() && facts.raft_id != 0;
        Facts::read(stored)?.filter(ready).ok_or_else(|| {
            StartError::Directory(format!(
                "{} holds no manager that was ever part of a cluster. Nothing was changed",
                self.directory.display()
            ))
        })
    }

    fn look(&self) -> Result<Opened, StartError> {
        let store = self.read_only()?;
        let facts = self.facts(store.fact(Facts::NAME)?)?;
        let generation = super::inspect::lineage(&facts, &*store.state)?.generation();
        fence::check(store.fact(FenceRecord::NAME)?, generation, &self.directory)?;
        let mark = Mark::read(|name| store.fact(name), &facts)?;
        let opened = self.open(facts, &store.boot, Arc::clone(&store.state), &*store.log)?;
        Ok(Opened { mark, ..opened })
    }

    fn hold(&self) -> Result<Opened, StartError> {
        // Looked at first: a directory that holds no manager is not made one by opening it.
        drop(self.read_only()?);
        let store = open_store(&self.layout())?;
        let facts = self.facts(store.meta.get(Facts::NAME)?)?;
        let view = store.state.reader().view();
        let generation = super::inspect::lineage(&facts, &*view)?.generation();
        fence::check(store.meta.get(FenceRecord::NAME)?, generation, &self.directory)?;
        let mark = Mark::read(|name| store.meta.get(name), &facts)?;
        let opened = self.open(facts, &store.boot, view, &*store.log_reader)?;
        Ok(Opened { state: Some(store.state), meta: Some(store.meta), mark, ..opened })
    }

    fn open(
        &self,
        facts: Facts,
        boot: &Boot,
        state: Arc<dyn StateRead>,
        log: &dyn LogReader,
    ) -> Result<Opened, StartError> {
        let directory = self.directory.display();
        if self.address.as_ref().is_some_and(|address| !is_address(address)) {
            return Err(StartError::Invalid(format!(
                "`{}` is no host:port at which others could reach this manager. Nothing was changed",
                self.address.as_deref().unwrap_or_default()
            )));
        }
        let layout = self.layout();
        let identity = identity_of(&layout, &facts)?;
        // One that ran out while the cluster was down is no obstacle: it is renewed from the CA in the state.
        let known = Records::read(&*state)?;
        let identity = identity::renewed(&identity, &facts, &known, &*state, Terms::default())?.unwrap_or(identity);
        let incarnation = begun(&identity, &facts, &known, &*state)?;
        let survivor = Survivor {
            boot,
            state,
            log,
            node: own_record(&facts, &identity),
            addresses: self.address.iter().cloned().collect(),
            incarnation,
        };
        let recovery = plan(&survivor).map_err(|error| match error {
            RecoveryError::Store(error) => StartError::from(error),
            RecoveryError::NeedsVersion(_) | RecoveryError::Damaged(_) => StartError::Damaged(format!(
                "{directory} cannot be recovered from: {error}. Nothing was changed; look for a better survivor with `quorate recover --dry-run` on the other machines, and keep every directory. Where there is none: quorate restore of a backup"
            )),
            RecoveryError::NoState | RecoveryError::Removed(_) => StartError::Directory(format!(
                "{directory} cannot be recovered from: {error}. Nothing was changed; choose the directory of another manager"
            )),
            RecoveryError::ThrownOut => StartError::Directory(format!(
                "{directory} cannot be recovered from: {error}. Nothing was changed; recover from a manager that stayed. If all their disks are gone for good, restore a backup (`quorate restore`); what this directory holds besides secrets can still be read with `quorate inspect --dump`"
            )),
        })?;
        Ok(Opened { facts, identity, recovery, state: None, meta: None, mark: None })
    }

    /// The one batch, and the certificate.
    fn write(&self, opened: Opened) -> Result<(), StartError> {
        let Opened { mut facts, identity, recovery, state, .. } = opened;
        let (Verdict::Write(outcome), Some(mut state)) = (recovery.verdict, state) else { return Ok(()) };
        facts.lineage = outcome.lineage.to_bytes().into();
        facts.managers.clear();
        if let Some(address) = &self.address {
            facts.listen = listen_for(&facts.listen, address);
            facts.advertise.clone_from(address);
        }
        let write = RecoveryWrite { facts: vec![(Facts::NAME.to_owned(), facts.encoded())], ..outcome.write };
        state.recover(write)?;
        tracing::warn!(generation = outcome.lineage.generation(), "a new generation of the cluster was begun here");
        own_identity::write(&self.layout(), &identity).map_err(|error| {
            StartError::Disk(format!("{error}. The recovery is written; the next start goes on from here"))
        })
    }

    /// The directory of a node that was told to go holds less than those who told it.
    fn was_removed(&self, opened: &Opened) -> Option<Against> {
        let mark = departed(&self.directory).filter(|_| matches!(opened.recovery.verdict, Verdict::Write(_)))?;
        let error = StartError::ClusterAlive(format!(
            "{} was removed from the cluster, which went on without what this directory holds. Nothing was changed; recover from one of the managers that stayed. If all their disks are gone for good: --despite-peers",
            mark.name
        ));
        Some(Against { error, fence: None, final_: false })
    }

    /// What there is to say, and what speaks against it.
    fn judge(&self, opened: &Opened, answers: &BTreeMap<NodeId, Answer>) -> (RecoveryReport, Option<Against>) {
        let mut report = described(opened, self.address.as_deref());
        let against = against(opened, answers, &mut report).or_else(|| self.was_removed(opened));
        report.refusal = against.as_ref().map(|against| against.error.to_string());
        (report, against)
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Where to listen so that `address` reaches us: as before where that is every address of the machine, with its port.
fn listen_for(before: &str, address: &str) -> String {
    let port = address.rsplit_once(':').map_or("", |(_, port)| port);
    let everywhere = resolve(before).is_ok_and(|before| before.ip().is_unspecified());
    if everywhere || address.parse::<std::net::SocketAddr>().is_err() {
        let host = before.rsplit_once(':').map_or("[::]", |(host, _)| host);
        return format!("{}:{port}", if everywhere { host } else { "[::]" });
    }
    address.to_owned()
}

/// What tells the new incarnation from all others, with the survivor's word for it.
fn begun(
    identity: &Identity,
    facts: &Facts,
    known: &Records,
    state: &dyn StateRead,
) -> Result<Incarnation, StartError> {
    let id = random(LineageId::from_bytes)?;
    let mut lineage = known.lineage();
    lineage.0.push(id);
    // One who cannot open it (any more) signs alone; those who know it believe that.
    let ca = records::ca(state, &Barrier::of(facts)).ok().flatten();
    let succession = word::of_recovery(identity, &lineage, ca.as_ref()).map_err(|error| {
        StartError::Internal(format!("the recovery cannot be signed: {error}. Nothing was changed"))
    })?;
    Ok(Incarnation { id, jump: jump()?, succession })
}

/// Where the counters of an incarnation begin that begins now.
pub(in crate::node) fn jump() -> Result<Jump, StartError> {
    let now = Clock::default().now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let entropy = config::random_u64().map_err(|error| StartError::Internal(error.to_string()))?;
    Ok(Jump::drawn(now, entropy))
}

/// Its record as its own files have it.
fn own_record(facts: &Facts, identity: &Identity) -> NodeRecord {
    NodeRecord {
        id: facts.node_id.clone(),
        name: facts.name.clone(),
        role: Role::Manager.into(),
        addresses: vec![facts.advertise.clone()],
        raft_id: facts.raft_id,
        store_id: facts.store_id.clone(),
        sealing_key: facts.sealing_key(),
        command_version: COMMAND_VERSION,
        command_version_min: COMMAND_VERSION_MIN,
        software: SOFTWARE.to_owned(),
        key_digest: Bytes::copy_from_slice(&identity.subject().key_digest),
        ..NodeRecord::default()
    }
}

/// The other managers of the incarnation that is to end.
fn others(opened: &Opened) -> Vec<&NodeRecord> {
    let own = opened.facts.node();
    let records = &opened.recovery.records;
    records.nodes.iter().filter(|node| node.raft_id != 0 && node.node_id() != Some(own)).collect()
}

async fn ask(opened: &Opened) -> BTreeMap<NodeId, Answer> {
    let mut managers: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for node in others(opened) {
        managers.entry(node.node_id().unwrap_or_default()).or_default().extend(node.addresses.iter().cloned());
    }
    // What the files remember may be newer, or name one that the state at hand has not heard of.
    for known in &opened.facts.managers {
        let Some(id) = NodeId::from_slice(&known.node_id) else { continue };
        let addresses = managers.entry(id).or_default();
        addresses
            .extend(known.addresses.iter().filter(|address| !addresses.contains(address)).cloned().collect::<Vec<_>>());
    }
    if managers.is_empty() {
        return BTreeMap::new();
    }
    let pem = opened.identity.to_pem();
    let Ok(identity) = Identity::from_pem(pem.as_bytes(), Path::new("node.id")) else { return BTreeMap::new() };
    asking::standings(Arc::new(identity), managers.into_iter().collect()).await
}

fn described(opened: &Opened, address: Option<&str>) -> RecoveryReport {
    let Opened { facts, recovery, .. } = opened;
    let found = &recovery.findings;
    let ids = |ids: &[RaftId]| ids.iter().map(|id| id.0).collect();
    let (verdict, next, kept, first) = match &recovery.verdict {
        Verdict::Alone => ("alone", found.lineage.generation(), None, None),
        Verdict::Begun => ("begun", found.lineage.generation(), None, None),
        Verdict::Write(outcome) => {
            ("recover", outcome.lineage.generation(), Some(outcome.kept_revision.0), Some(outcome.first_revision.0))
        }
    };
    RecoveryReport {
        cluster_id: facts.cluster().to_string(),
        node_id: facts.node().to_string(),
        name: facts.display_name(),
        raft_id: facts.raft_id,
        address: address.unwrap_or(&facts.advertise).to_owned(),
        generation: found.lineage.generation(),
        lineage: found.lineage.0.iter().map(ToString::to_string).collect(),
        term: found.term.0,
        last_term: found.last_term.0,
        last_index: found.last.0,
        commit: found.commit.0,
        applied: found.applied.0,
        revision: found.revision.0,
        unapplied: found.last.0 - found.applied.0,
        uncommitted: found.last.0 - found.commit.0,
        voters: ids(&found.configuration.voters),
        voters_outgoing: ids(&found.configuration.voters_outgoing),
        learners: ids(&found.configuration.learners),
        void_configurations: found.pending.iter().map(|entry| entry.index.0).collect(),
        managers: Vec::new(),
        verdict: verdict.to_owned(),
        new_generation: next,
        kept_revision: kept,
        first_revision: first,
        rolled_back: opened.mark.as_ref().and_then(Mark::acknowledged),
        damaged: opened.mark.as_ref().and_then(Mark::damage).map(str::to_owned),
        refusal: None,
        written: false,
    }
}
