//! A backup made a cluster again: one new manager in an empty directory, with everything that was in the file.
//!
//! Owns the order: the whole file is read and judged before anything is written; the managers of then are asked whether they
//! live; then everything is written behind a mark (`restore.part`) that goes last, so that a restore that was killed counts for
//! nothing and is begun anew by the same call. What becomes of the state, [`quorate_core::recovery`] decides. Never overwrites a
//! node. Called by the command line and by embedders.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::command::{COMMAND_VERSION, COMMAND_VERSION_MIN};
use quorate_core::consensus::io::Records;
use quorate_core::id::{ClusterId, LineageId, NodeId, StoreId};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::ports::{OpenStore, RecoveryWrite, StoreError};
use quorate_core::recovery::{Incarnation, RecoveryError, Restored, log_of};
use quorate_core::state::SnapshotReader;
use quorate_transport::{CertRole, word};
use serde::{Deserialize, Serialize};

use super::asking::{self, Answer};
use super::barrier::Barrier;
use super::builder::{NodeBuilder, off_thread, random, random_seed};
use super::directory::options;
use super::facts::{Facts, Layout, Stage};
use super::files;
use super::founding::issue;
use super::lock::lock;
use super::own_identity;
use super::recover::jump;
use super::service::display_name;
use super::stop::StartError;
use crate::backup::{BackupError, BackupInfo, BackupKey, Opened, Verified};
use crate::client::SOFTWARE;
use crate::keys::{BESIDE, Keys};
use crate::recovery::AskedManager;

/// What may lie in a directory that counts as empty: a key that was put there, the lock of an attempt, what a file system has.
const NOTHING: &[&str] = &[BESIDE, "node.lock", "restore.part.new", "lost+found"];

/// Makes a cluster of what is in a backup, see [`Restore`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::backup::BackupKey;
///
/// let key = BackupKey::file("/secure/backup.key")?;
/// let report = quorate::restore("/backup/monday.quorate", key, "/var/lib/app").listen("10.0.0.1:4701").name("n1").await?;
/// println!("generation {} begins with revision {}", report.new_generation, report.first_revision);
/// # Ok(())
/// # }
/// ```
pub fn restore(file: impl AsRef<Path>, key: BackupKey, directory: impl AsRef<Path>) -> Restore {
    let directory = directory.as_ref().to_owned();
    Restore {
        file: file.as_ref().to_owned(),
        key,
        builder: NodeBuilder::new(&directory),
        keys: Keys::default(),
        despite: false,
    }
}

/// A restore being put together; await it to do it.
///
/// The directory holds a manager then, the only one of the cluster in a new generation: run it, and let further ones join. The
/// cluster keeps its id, its CA, tokens, keys and values, workers and assignments. Everything is as of the backup's revision;
/// the managers of then are lost, their raft ids burnt, and fenced where they meet the new one.
///
/// Not cancel safe: dropped or killed half-way, the directory counts for nothing, and the same call begins anew.
#[derive(Debug, Clone)]
#[must_use = "nothing is done until it is awaited"]
pub struct Restore {
    file: PathBuf,
    key: BackupKey,
    builder: NodeBuilder,
    keys: Keys,
    despite: bool,
}

impl Restore {
    /// The UDP address to listen on, `host:port`. Default `[::]:4701`; port 0 takes a free one, and keeps it.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.builder = self.builder.listen(address);
        self
    }

    /// The address that others reach the manager at, `host:port`. Default: where it listens.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.builder = self.builder.advertise(address);
        self
    }

    /// A name for people. That of a manager in the backup: the new one takes its record, with its labels. Default: the node id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.builder = self.builder.name(name);
        self
    }

    /// Where the key comes from that will open the new store. Default: a key file, see [`Keys`].
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// Also when managers of the cluster are alive: they are fenced as soon as they hear of the new one.
    pub const fn despite_peers(mut self, despite: bool) -> Self {
        self.despite = despite;
        self
    }
}

/// What a restore did: the documented JSON of `quorate restore --json`. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Whose backup it was, and as of when.
    pub backup: BackupInfo,
    /// The new manager, base32.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// Where it is reached.
    pub address: String,
    /// The generation that begins.
    pub new_generation: u64,
    /// The newest revision that is kept.
    pub kept_revision: u64,
    /// The first revision of the new generation.
    pub first_revision: u64,
    /// The managers of then, and what was heard of them.
    pub managers: Vec<AskedManager>,
    /// How many workers there are: they are to be told of the new manager's address.
    pub workers: u64,
}

impl IntoFuture for Restore {
    type Output = Result<RestoreReport, StartError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    /// # Errors
    /// `Backup` when the file is none, was altered or cut off, or the key is another one's; `Directory` when there is something in
    /// the directory; `ClusterAlive` when a manager of the cluster runs; `NeedsVersion`. Whatever it is, nothing is left behind.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// What is known before anything is written.
struct Judged {
    verified: Verified,
    cluster: ClusterId,
}

/// What was written.
struct Made {
    facts: Facts,
    new_generation: u64,
    kept_revision: u64,
    first_revision: u64,
}

impl Restore {
    async fn run(self) -> Result<RestoreReport, StartError> {
        off_thread({
            let builder = self.builder.clone();
            move || builder.validate()
        })
        .await?;
        let this = self.clone();
        let judged = off_thread(move || this.judge()).await?;
        let managers = self.ask(&judged).await?;
        off_thread(move || self.write(&judged, managers)).await
    }

    fn layout(&self) -> Layout {
        Layout::with_keys(&self.builder.directory, &self.keys)
    }

    fn refused(&self, error: BackupError) -> StartError {
        let file = self.file.display();
        match error {
            BackupError::NeedsVersion(why) => StartError::NeedsVersion(format!("{file}: {why}. Nothing was written")),
            error @ (BackupError::NotABackup(_)
            | BackupError::WrongKey(_)
            | BackupError::OtherCa { .. }
            | BackupError::Short { .. }
            | BackupError::Damaged(_)
            | BackupError::Key(_)
            | BackupError::File(_)
            | BackupError::Cluster(_)) => StartError::Backup(format!("{file}: {error}. Nothing was written")),
        }
    }

    /// Reads everything there is to read, and writes nothing.
    fn judge(&self) -> Result<Judged, StartError> {
        self.check_empty()?;
        let nowhere = |advertise: &String| advertise.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_unspecified());
        if let Some(advertise) = self.builder.advertise.as_ref().filter(|advertise| nowhere(advertise)) {
            return Err(StartError::Invalid(format!(
                "nobody can reach a manager at {advertise}: advertise an address that the others can use. Nothing was written"
            )));
        }
        let verified = Verified::read(&self.file, &self.key).map_err(|error| self.refused(error))?;
        let unsound = |why: &str| self.refused(BackupError::Damaged(why.to_owned()));
        let cluster = verified.records.cluster.cluster().ok_or_else(|| unsound("there is no cluster in it"))?;
        self.record_taken(&verified.records)?;
        Ok(Judged { verified, cluster })
    }

    /// The record of then that goes on under the name that was asked for.
    fn record_taken<'a>(&self, records: &'a Records) -> Result<Option<&'a NodeRecord>, StartError> {
        let name = &self.builder.name;
        let Some(found) = records.nodes.iter().find(|node| !name.is_empty() && node.name == *name) else {
            return Ok(None);
        };
        if found.role == i32::from(Role::Manager) || found.lost || found.raft_id != 0 {
            return Ok(Some(found));
        }
        Err(StartError::Invalid(format!(
            "{name} is a worker of the cluster in the backup: give the new manager another --name. Nothing was written"
        )))
    }

    /// A directory that holds anything else than a restore that was cut off is left alone.
    fn check_empty(&self) -> Result<(), StartError> {
        let directory = &self.builder.directory;
        let shown = directory.display();
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(StartError::Directory(format!("{shown} cannot be used: {error}. Nothing was written")));
            }
        };
        if mark(&self.layout()).exists() {
            return Ok(());
        }
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let found: Vec<String> = names.filter(|name| !NOTHING.contains(&name.as_str())).take(3).collect();
        if found.is_empty() {
            return Ok(());
        }
        Err(StartError::Directory(format!(
            "{shown} is not empty, it holds {}: a backup is restored into an empty directory. Nothing was written; choose another --data-dir, or move what is there away",
            found.join(", ")
        )))
    }

    /// A cluster that is alive is not given a second one that fences it.
    async fn ask(&self, judged: &Judged) -> Result<Vec<AskedManager>, StartError> {
        let nodes: BTreeMap<NodeId, &NodeRecord> = judged
            .verified
            .records
            .nodes
            .iter()
            .filter(|node| node.role == i32::from(Role::Manager) && !node.addresses.is_empty())
            .map(|node| (node.node_id().unwrap_or_default(), node))
            .collect();
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        // For this question only: it is written nowhere.
        let terms = self.builder.certificates;
        let asker = issue(&judged.verified.ca, random(NodeId::from_bytes)?, (CertRole::Operator, None), terms)?;
        let managers = nodes.iter().map(|(id, node)| (*id, node.addresses.clone())).collect();
        let answers = asking::standings(Arc::new(asker), managers).await;
        let mut asked = Vec::new();
        for (id, answer) in answers {
            let Some(node) = nodes.get(&id) else { continue };
            let (answers, words) = match answer {
                Answer::Standing(standing, _) if standing.leader != 0 => {
                    (true, "runs, and follows a leader".to_owned())
                }
                Answer::Standing(..) => (true, "runs, without a leader".to_owned()),
                Answer::Runs(_) => (true, "runs".to_owned()),
                Answer::Disowned(why) => (true, format!("runs: {why}")),
                Answer::Silent(why) => (false, why),
            };
            asked.push(AskedManager {
                id: id.to_string(),
                name: display_name(node),
                address: node.addresses.first().cloned().unwrap_or_default(),
                raft_id: node.raft_id,
                answers,
                answer: words,
                ..AskedManager::default()
            });
        }
        if let Some(alive) = asked.iter().find(|manager| manager.answers) {
            let error = StartError::ClusterAlive(format!(
                "manager {} at {} {}: the cluster of this backup is not gone, and a restored one would fence it. Nothing was written. If a majority of its managers is lost, one that is left holds more than the backup: `quorate recover` on it. To restore all the same: --despite-peers, and keep the two from meeting unless the old one is to end",
                alive.name, alive.address, alive.answer
            ));
            if !self.despite {
                return Err(error);
            }
            tracing::warn!(%error, "restored despite the other managers, as asked");
        }
        Ok(asked)
    }

    fn write(&self, judged: &Judged, managers: Vec<AskedManager>) -> Result<RestoreReport, StartError> {
        let layout = self.layout();
        let disk = |error: std::io::Error| {
            StartError::Disk(format!("{}: {error}. Nothing counts of what was written", layout.root().display()))
        };
        let new_key = !layout.root().join(BESIDE).exists();
        let new_directories = files::make_directory(layout.root()).map_err(disk)?;
        let held = lock(&layout)?;
        self.check_empty()?;
        begin(&layout).map_err(disk)?;
        let made = self.fill(&layout, judged).and_then(|made| {
            end(&layout).map_err(disk)?;
            Ok(made)
        });
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                // As it was before; where that fails the mark stays, and says that nothing here counts.
                let key = new_key.then(|| layout.root().join(BESIDE));
                let cleared = clear(&layout).and_then(|()| key.map_or(Ok(()), |key| files::remove(&key)));
                if cleared.and_then(|()| end(&layout)).is_ok() {
                    let _others = std::fs::remove_file(layout.root().join("node.lock"));
                    for made in new_directories.iter().rev() {
                        let _not_empty = std::fs::remove_dir(made);
                    }
                }
                return Err(error);
            }
        };
        drop(held);
        Ok(RestoreReport {
            backup: judged.verified.info.clone(),
            node_id: made.facts.node().to_string(),
            name: made.facts.display_name(),
            raft_id: made.facts.raft_id,
            address: made.facts.advertise,
            new_generation: made.new_generation,
            kept_revision: made.kept_revision,
            first_revision: made.first_revision,
            managers,
            workers: judged.verified.contents().workers,
        })
    }

    /// Everything but the mark.
    fn fill(&self, layout: &Layout, judged: &Judged) -> Result<Made, StartError> {
        let Judged { verified, cluster } = judged;
        let taken = self.record_taken(&verified.records)?;
        let node_id = match taken.and_then(NodeRecord::node_id) {
            Some(id) => id,
            None => random(NodeId::from_bytes)?,
        };
        // Its raft id is not known yet: it signs itself a certificate that names it when it starts.
        let identity = issue(&verified.ca, node_id, (CertRole::Manager, None), self.builder.certificates)?;
        let (listen, advertise) = self.builder.addresses()?;
        let store_id = random(StoreId::from_bytes)?;
        let drawn = Facts {
            cluster_id: Bytes::copy_from_slice(cluster.as_bytes()),
            seed: random_seed()?,
            sealing: random_seed()?,
            ..Facts::default()
        };
        let (_, keyring) = Barrier::import(&drawn, &verified.barrier.export(&verified.extract)?)?;
        let node = NodeRecord {
            id: Bytes::copy_from_slice(node_id.as_bytes()),
            name: self.builder.name.clone(),
            role: Role::Manager.into(),
            addresses: vec![advertise.clone()],
            store_id: Bytes::copy_from_slice(store_id.as_bytes()),
            command_version: COMMAND_VERSION,
            command_version_min: COMMAND_VERSION_MIN,
            software: SOFTWARE.to_owned(),
            key_digest: Bytes::copy_from_slice(&identity.subject().key_digest),
            sealing_key: drawn.sealing_key(),
            ..NodeRecord::default()
        };
        let opened = layout.open_store(options(layout)).map_err(|error| super::explained(layout, error))?;
        let (OpenStore { mut state, staging, .. }, keys) = opened;
        let mut reader = SnapshotReader::new(staging.begin()?);
        let mut file = Opened::open(&self.file, &self.key).map_err(|error| self.refused(error))?;
        let unsound = |error| self.refused(crate::backup::unsound(error));
        while let Some(piece) = file.next().map_err(|error| self.refused(error))? {
            reader.chunk(&piece).map_err(unsound)?;
        }
        let (status, staged) = reader.finish().map_err(unsound)?;
        if status != verified.status {
            return Err(self.refused(BackupError::Damaged("it was changed while it was read".to_owned())));
        }
        state.install(staged, log_of(&status))?;
        let incarnation = begun(verified)?;
        let restored = Restored { state: state.reader().view(), node, incarnation, keyring };
        let worked = quorate_core::recovery::restore(&restored).map_err(|error| self.unfit(error))?;
        let outcome = worked.outcome;
        let facts = Facts {
            stage: Stage::Ready.into(),
            lineage: outcome.lineage.to_bytes().into(),
            node_id: restored.node.id.clone(),
            raft_id: worked.raft_id.0,
            store_id: restored.node.store_id.clone(),
            name: self.builder.name.clone(),
            listen,
            advertise,
            ..drawn
        };
        drop(restored);
        let told = vec![(Facts::NAME.to_owned(), facts.encoded())];
        state.recover(RecoveryWrite { facts: told, ..outcome.write })?;
        own_identity::write_sealed(layout, &identity, keys.as_ref())?;
        Ok(Made {
            facts,
            new_generation: outcome.lineage.generation(),
            kept_revision: outcome.kept_revision.0,
            first_revision: outcome.first_revision.0,
        })
    }

    fn unfit(&self, error: RecoveryError) -> StartError {
        match error {
            RecoveryError::NeedsVersion(why) => self.refused(BackupError::NeedsVersion(why)),
            RecoveryError::Store(error @ (StoreError::Io { .. } | StoreError::Full { .. })) => error.into(),
            error @ (RecoveryError::NoState
            | RecoveryError::Damaged(_)
            | RecoveryError::Removed(_)
            | RecoveryError::ThrownOut
            | RecoveryError::Store(_)) => self.refused(BackupError::Damaged(error.to_string())),
        }
    }
}

/// What tells the new incarnation from all others, also of the same backup, with the backup's own word for it.
fn begun(verified: &Verified) -> Result<Incarnation, StartError> {
    let id = random(LineageId::from_bytes)?;
    let mut lineage = verified.records.lineage();
    lineage.0.push(id);
    let succession = word::of_restore(&verified.pair, &verified.witness, &lineage, &verified.ca)
        .map_err(|error| StartError::Internal(format!("the restore cannot be signed: {error}")))?;
    Ok(Incarnation { id, jump: jump()?, succession })
}

/// The mark: while it is there, nothing in the directory counts.
fn mark(layout: &Layout) -> PathBuf {
    layout.root().join("restore.part")
}

/// The refusal to use what a restore that was cut off has left; nothing of any other directory.
pub(super) fn cut_off(layout: &Layout) -> Result<(), StartError> {
    if !mark(layout).exists() {
        return Ok(());
    }
    Err(StartError::Directory(format!(
        "a restore into {} was cut off, and nothing in it counts. Nothing was changed; give the same `quorate restore` again, it begins anew",
        layout.root().display()
    )))
}

/// From now on nothing counts here; what an earlier attempt left goes.
fn begin(layout: &Layout) -> std::io::Result<()> {
    files::replace(&mark(layout), b"")?;
    clear(layout)
}

fn clear(layout: &Layout) -> std::io::Result<()> {
    if layout.store().exists() {
        std::fs::remove_dir_all(layout.store())?;
    }
    files::remove(&layout.identity())
}

/// From now on everything counts.
fn end(layout: &Layout) -> std::io::Result<()> {
    files::remove(&mark(layout))
}

impl NodeBuilder {
    /// What a restore that was cut off has left is not run, founded or joined upon.
    pub(super) fn not_half_restored(&self) -> Result<(), StartError> {
        cut_off(&self.layout())
    }
}
