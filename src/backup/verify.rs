//! Whether a file is a backup, whole and sound, and what is in it.
//!
//! Owns the reading of a file from its first byte to its last. Writes nothing anywhere. Blocks. Called by people who want to be
//! sure of their backup, and by a restore before it changes anything.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use age::stream::StreamReader;
use bytes::Bytes;
use quorate_core::consensus::io::Records;
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::state::contract::StateStatus;
use quorate_core::state::{Extract, SnapshotError, SnapshotReader};
use quorate_transport::api::backup_part::Part;
use serde::{Deserialize, Serialize};

use super::{BackupError, BackupInfo, BackupKey, PartReader};

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

/// A file whose key fits, and whose head was read.
pub(crate) struct Opened {
    pub(crate) info: BackupInfo,
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
        Ok(Self { info: BackupInfo::of(head).ok_or_else(malformed)?, file_bytes: found.len(), parts })
    }

    /// The next piece of the state's stream; `None` behind the last, once the file is known to be whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, BackupError> {
        match self.parts.next()? {
            None => Ok(None),
            Some(Part::State(piece)) => Ok(Some(piece)),
            Some(Part::Head(_) | Part::End(_)) => {
                Err(BackupError::Damaged("its parts are not in their order".to_owned()))
            }
        }
    }
}

/// A file that was read to its end.
pub(crate) struct Verified {
    pub(crate) info: BackupInfo,
    pub(crate) status: StateStatus,
    /// The records that say whose it is.
    pub(crate) extract: Extract,
    pub(crate) records: Records,
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
        let mut reader = SnapshotReader::new(extract.stage());
        while let Some(piece) = opened.next()? {
            reader.chunk(&piece).map_err(unsound)?;
        }
        let (status, _) = reader.finish().map_err(unsound)?;
        let Opened { info, file_bytes, .. } = opened;
        let records = Records::read(&extract).map_err(|error| BackupError::Damaged(error.to_string()))?;
        let cluster = records.cluster.cluster().map(|cluster| cluster.to_string()).unwrap_or_default();
        let said = (&info.cluster_id, info.revision, info.applied);
        if said != (&cluster, status.revision.0, status.applied.0) {
            return Err(BackupError::Damaged("its head does not go with the state in it".to_owned()));
        }
        Ok(Self { info, status, extract, records, file_bytes })
    }

    pub(crate) fn contents(&self) -> BackupContents {
        let amount = |section| self.extract.amount(section);
        let was_manager = |node: &&NodeRecord| node.role == i32::from(Role::Manager) || node.raft_id != 0;
        let managers = self.records.nodes.iter().filter(was_manager).map(|node| BackupNode {
            id: node.node_id().unwrap_or_default().to_string(),
            name: if node.name.is_empty() { node.node_id().unwrap_or_default().to_string() } else { node.name.clone() },
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
