//! Backups: the whole cluster in one sealed file.
//!
//! Owns the file: its form ([`parts`]), who can open it ([`seal`]), how it gets its name ([`draft`]), and what is in it
//! (`verify`). A file is taken by [`Client::backup`](crate::Client::backup) and made a cluster again by `quorate::restore`.
//! Never reads a store and never writes to one.
//!
//! # The file
//! An [age](https://age-encryption.org/v1) file, for recipients or a passphrase; nothing of it can be read without the key, and
//! not one bit of it changed or cut off unnoticed. In it:
//! - `quorback`, u32 format;
//! - parts, each behind its length in four bytes: the head (whose it is, which revision, when, which versions), the state's own
//!   stream in pieces, the end with the digest of everything before.
//!
//! Numbers are big-endian. The stream is what one manager sends another as a snapshot, and is checked as that is: order, counts,
//! digest, state hash.

mod draft;
mod parts;
mod seal;
mod verify;

use quorate_core::id::{ClusterId, Lineage};
use quorate_transport::{CaHash, api};
use serde::{Deserialize, Serialize};

pub use seal::{BackupKey, BackupSeal, KeyPair};
pub use verify::{BackupContents, BackupNode, verify};

use crate::error::Error;

pub(crate) use draft::Draft;
pub(crate) use parts::PartReader;
pub(crate) use parts::PartWriter;
pub(crate) use seal::Sealer;
pub(crate) use verify::{Opened, Verified, unsound};

/// Why there is no backup, or a file is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// It is no age file, or one that holds something else.
    #[error("it is no backup of quorate: {0}")]
    NotABackup(String),
    /// It is sealed for somebody else.
    #[error("{0}")]
    WrongKey(String),
    /// It is sound, and of another cluster than the one whose CA was named.
    #[error(
        "its CA is {found}, and {asked} was asked for: the CA was replaced between the two (`quorate ca rotate`), or it is the file of another cluster, or somebody else made it. Compare with what `quorate backup` said when this file was taken, and do not restore it unless that is the same"
    )]
    OtherCa {
        /// The hash of the CA in it.
        found: String,
        /// The hash that was given.
        asked: String,
    },
    /// It ends before its end.
    #[error(
        "it is not whole: it ends too early, after {bytes} bytes of what is sealed in it. It was cut off on the way, or the backup was not finished; take another copy of it"
    )]
    Short {
        /// How far it could be read.
        bytes: u64,
    },
    /// It is not what was written.
    #[error("it was altered or damaged: {0}. Take another copy of it")]
    Damaged(String),
    /// A newer quorate wrote it.
    #[error("{0}")]
    NeedsVersion(String),
    /// The key, the recipient or the passphrase makes no sense.
    #[error("{0}")]
    Key(String),
    /// A file of this machine does not serve.
    #[error("{0}")]
    File(String),
    /// The cluster did not give it.
    #[error(transparent)]
    Cluster(#[from] Error),
}

/// Whose backup it is, and as of when: documented JSON. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BackupInfo {
    /// Base32.
    pub cluster_id: String,
    /// How many incarnations the cluster had had.
    pub generation: u64,
    /// They, oldest first, base32.
    pub lineage: Vec<String>,
    /// The one revision that it is of.
    pub revision: u64,
    /// The log index that had been applied.
    pub applied: u64,
    /// The cluster version.
    pub cluster_version: u32,
    /// When it was taken: seconds since 1970, by the manager's clock.
    pub taken_unix: u64,
    /// The manager that told it.
    pub manager: String,
    /// That manager's program.
    pub software: String,
    /// Bytes of the state, by the manager's estimate.
    pub about_bytes: u64,
    /// What was acknowledged this much earlier is in it, milliseconds: 0 unless it was asked for without a quorum; none where
    /// the manager did not know.
    pub age_ms: Option<u64>,
    /// The hash of the cluster's CA, base32, as in its join tokens: who made a file that has it had the CA's key.
    pub ca: String,
}

impl BackupInfo {
    /// As it was told; `None` when it makes no sense.
    pub(crate) fn of(head: api::BackupHead) -> Option<Self> {
        let lineage = Lineage::from_slice(&head.lineage).filter(|lineage| lineage.generation() > 0)?;
        Some(Self {
            cluster_id: ClusterId::from_slice(&head.cluster_id)?.to_string(),
            generation: lineage.generation(),
            lineage: lineage.0.iter().map(ToString::to_string).collect(),
            revision: head.revision,
            applied: head.applied,
            cluster_version: head.cluster_version,
            taken_unix: head.taken,
            manager: head.manager,
            software: head.software,
            about_bytes: head.about_bytes,
            age_ms: head.age_ms,
            ca: CaHash::from_bytes(head.ca.as_ref().try_into().ok()?).to_string(),
        })
    }
}
