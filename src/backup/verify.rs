//! Whether a file is a backup, whole and sound, and what is in it.
//!
//! Owns the reading of a file from its first byte to its last. Writes nothing anywhere. Blocks. Called by people who want to be
//! sure of their backup, and by a restore before it changes anything.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use age::stream::StreamReader;
use bytes::Bytes;
use quorate_core::consensus::io::Records;
use quorate_core::id::{ClusterId, NodeId};
use quorate_core::keyring::{KeyCopy, KeyringRecord, named_key};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::ports::{StoreError, StoreResult};
use quorate_core::state::contract::StateStatus;
use quorate_core::state::read;
use quorate_core::state::{Extract, SnapshotError, SnapshotReader};
use quorate_storage::SealingPair;
use quorate_transport::ClusterCa;
use quorate_transport::api::{self, backup_part::Part};
use quorate_transport::word::{BackupPair, Witness};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{BackupError, BackupInfo, BackupKey, PartReader};
use crate::node::{Barrier, cluster_ca, display_name};

/// What is in a backup: documented JSON. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupContents {
    /// Whose it is, and as of when.
    pub info: BackupInfo,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// User keys.
    pub keys: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Nodes that were managers, in the order of their node ids.
    pub managers: Vec<BackupNode>,
    /// How many workers there were.
    pub workers: u64,
    /// Items of work on nodes.
    pub assignments: u64,
    /// Configs.
    pub configs: u64,
    /// Secrets.
    pub secrets: u64,
    /// Keys of the barrier, each of which the backup's key opens.
    pub barrier_keys: u64,
    /// Records that are sealed with them (secrets, the CA's key, tokens), each of which was opened.
    pub opened: u64,
}

/// A manager of then.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupNode {
    /// Base32.
    pub id: String,
    /// Its name; its id where it had none.
    pub name: String,
    /// Where it was reached, best first.
    pub addresses: Vec<String>,
}

/// A file whose key fits, and of which everything before the state was read.
pub(crate) struct Opened {
    pub(crate) info: BackupInfo,
    keys: Keys,
    /// What a restore is signed with, and who stands for that.
    pair: BackupPair,
    witness: Witness,
    file_bytes: u64,
    parts: PartReader<StreamReader<BufReader<File>>>,
}

impl Opened {
    pub(crate) fn open(path: &Path, key: &BackupKey) -> Result<Self, BackupError> {
        let failed = |error: std::io::Error| BackupError::File(format!("it cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.is_dir() {
            return Err(BackupError::NotABackup("it is a directory".to_owned()));
        }
        let mut parts = PartReader::new(key.open(file)?)?;
        let malformed = || BackupError::Damaged("it does not begin with a head that makes sense".to_owned());
        let Some(Part::Head(head)) = parts.next()? else { return Err(malformed()) };
        let cluster = ClusterId::from_slice(&head.cluster_id).ok_or_else(malformed)?;
        let witness = head.witness.clone().unwrap_or_default();
        let witness = Witness {
            member: NodeId::from_slice(&witness.member).ok_or_else(malformed)?,
            member_key: witness.member_key,
            voucher: witness.voucher,
        };
        let info = BackupInfo::of(head).ok_or_else(malformed)?;
        let Some(Part::Opener(seed)) = parts.next()? else { return Err(malformed()) };
        let seed = Zeroizing::new(<[u8; 32]>::try_from(&seed[..]).map_err(|_length| malformed())?);
        let Some(Part::Keyring(keyring)) = parts.next()? else { return Err(malformed()) };
        let signs = BackupPair::from_seed(&seed).map_err(|_error| malformed())?;
        let pair = SealingPair::from_seed(&seed);
        let to = Bytes::copy_from_slice(pair.public());
        let keys = Keys { barrier: Arc::new(Barrier::of_backup(cluster, pair)), to, keyring: Arc::new(keyring) };
        Ok(Self { info, keys, pair: signs, witness, file_bytes: found.len(), parts })
    }

    /// The next piece of the state's stream; `None` behind the last, once the file is known to be whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, BackupError> {
        match self.parts.next()? {
            None => Ok(None),
            Some(Part::State(piece)) => Ok(Some(piece)),
            Some(Part::Head(_) | Part::End(_) | Part::Keyring(_) | Part::Opener(_)) => {
                Err(BackupError::Damaged("its parts are not in their order".to_owned()))
            }
        }
    }
}

/// The keyring of a backup, and what opens its copies.
#[derive(Clone)]
struct Keys {
    barrier: Arc<Barrier>,
    to: Bytes,
    keyring: Arc<api::BackupKeyring>,
}

impl Keys {
    /// The keyring of the state with the copies of the backup, which this backup's own key opens.
    fn in_place(&self, state: &Extract) -> StoreResult<KeyringRecord> {
        let mut keyring = read::keyring(state)?;
        for key in &mut keyring.keys {
            let given = self.keyring.copies.iter().find(|copy| copy.key == key.id);
            key.copies =
                given.map(|given| KeyCopy { to: self.to.clone(), sealed: given.sealed.clone() }).into_iter().collect();
        }
        Ok(keyring)
    }
}

/// A file that was read to its end.
pub(crate) struct Verified {
    /// Opens what is sealed in the extract.
    pub(crate) barrier: Arc<Barrier>,
    /// How many barrier keys there are, and how many secrets and the like they opened.
    keys: u64,
    opened: u64,
    pub(crate) info: BackupInfo,
    pub(crate) status: StateStatus,
    /// The records that say whose it is.
    pub(crate) extract: Extract,
    pub(crate) records: Records,
    /// The cluster's CA, with its key.
    pub(crate) ca: ClusterCa,
    pub(crate) pair: BackupPair,
    pub(crate) witness: Witness,
    file_bytes: u64,
}

/// What is wrong with the stream in it.
pub(crate) fn unsound(error: SnapshotError) -> BackupError {
    match error {
        error @ (SnapshotError::TooNew { .. } | SnapshotError::NeedsVersion { .. }) => {
            BackupError::NeedsVersion(error.to_string())
        }
        SnapshotError::NotASnapshot => BackupError::Damaged("what is in it is no state of quorate".to_owned()),
        SnapshotError::Short { records } => {
            BackupError::Damaged(format!("the state in it ends after {records} records"))
        }
        SnapshotError::Damaged { detail } => BackupError::Damaged(detail),
        SnapshotError::Store(error) => BackupError::Damaged(error.to_string()),
    }
}

impl Verified {
    pub(crate) fn read(path: &Path, key: &BackupKey) -> Result<Self, BackupError> {
        let mut opened = Opened::open(path, key)?;
        let extract = Extract::new();
        let opened_records = Arc::new(AtomicU64::new(0));
        let sealed = {
            let (keys, extract, opened_records) = (opened.keys.clone(), extract.clone(), Arc::clone(&opened_records));
            let mut keyring = None;
            move |key: &Bytes, value: &Bytes| {
                if !matches!(named_key(key, value), Ok(None)) {
                    let keyring = match &keyring {
                        Some(keyring) => keyring,
                        None => keyring.insert(keys.in_place(&extract)?),
                    };
                    keys.barrier.open_with(keyring, key, value)?;
                    opened_records.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        };
        let mut reader = SnapshotReader::new(extract.stage_telling(Box::new(sealed)));
        while let Some(piece) = opened.next()? {
            reader.chunk(&piece).map_err(unsound)?;
        }
        let (status, _) = reader.finish().map_err(unsound)?;
        let Opened { info, keys, pair, witness, file_bytes, .. } = opened;
        let damaged = |error: StoreError| BackupError::Damaged(error.to_string());
        let keyring = keys.in_place(&extract).map_err(damaged)?;
        extract.set_keyring(&keyring);
        let barrier = keys.barrier;
        let keys = barrier.export(&extract).map_err(damaged)?.keys.len() as u64;
        let opened = opened_records.load(Ordering::Relaxed);
        let records = Records::read(&extract).map_err(|error| BackupError::Damaged(error.to_string()))?;
        let cluster = records.cluster.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
        let said = (&info.cluster_id, info.revision, info.applied);
        if said != (&cluster, status.revision.0, status.applied.0) {
            return Err(BackupError::Damaged("its head does not go with the state in it".to_owned()));
        }
        // Its key goes with the certificate: who only knows that one cannot have made this.
        let ca = cluster_ca(&extract, &barrier).map_err(damaged)?;
        let ca = ca.ok_or_else(|| BackupError::Damaged("there is no CA in it".to_owned()))?;
        if info.ca != ca.hash().to_string() {
            return Err(BackupError::Damaged("its head does not go with the CA in it".to_owned()));
        }
        key.check_ca(ca.hash())?;
        Ok(Self { barrier, keys, opened, info, status, extract, records, ca, pair, witness, file_bytes })
    }

    pub(crate) fn contents(&self) -> BackupContents {
        let amount = |section| self.extract.amount(section);
        let was_manager = |node: &&NodeRecord| node.role == i32::from(Role::Manager) || node.raft_id != 0;
        let managers = self.records.nodes.iter().filter(was_manager).map(|node| BackupNode {
            id: node.node_id().unwrap_or_default().to_string(),
            name: display_name(node),
            addresses: node.addresses.clone(),
        });
        let managers: Vec<_> = managers.collect();
        BackupContents {
            info: self.info.clone(),
            file_bytes: self.file_bytes,
            keys: amount(Section::User).records,
            value_bytes: amount(Section::User).bytes,
            workers: (self.records.nodes.len() - managers.len()) as u64,
            managers,
            assignments: amount(Section::Assignment).records,
            configs: amount(Section::Config).records,
            secrets: amount(Section::Secret).records,
            barrier_keys: self.keys,
            opened: self.opened,
        }
    }
}

/// Reads a backup from its first byte to its last, and says what is in it: the key fits, nothing was altered or cut off, and the
/// state is what the manager had. Blocks, for as long as it takes to read the file once.
///
/// # Errors
/// See [`BackupError`]; whatever it is, nothing was written.
pub fn verify(path: impl AsRef<Path>, key: &BackupKey) -> Result<BackupContents, BackupError> {
    Verified::read(path.as_ref(), key).map(|verified| verified.contents())
}
