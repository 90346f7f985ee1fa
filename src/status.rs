//! The cluster as one manager sees it: the documented JSON of `quorate status --json`.
//!
//! Owns the one definition that the wire, the library and scripts share. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// What `status` answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster, base32.
    pub cluster_id: String,
    /// Incarnations so far, from 1.
    pub generation: u64,
    /// The term that the asked manager is in.
    pub term: u64,
    /// The leader's name (its node id when it has none); null without one.
    pub leader: Option<String>,
    /// The store's revision at the asked manager.
    pub revision: u64,
    /// Seats in force.
    pub voters: usize,
    /// Voters reachable now minus a majority; negative: the quorum is lost.
    pub fault_tolerance: i64,
    /// One of ok, degraded, single_copy, quorum_lost.
    pub health: Health,
    /// What to do, line by line; empty when nothing is.
    pub advice: Vec<String>,
    /// The name of the manager that answered.
    pub answered_by: String,
    /// Milliseconds since that manager last knew of a leader.
    pub leaderless_ms: u64,
    /// Every manager.
    pub managers: Vec<ManagerStatus>,
    /// Every worker.
    pub workers: Vec<WorkerStatus>,
    /// The enabled command version.
    pub cluster_version: u32,
}

/// How the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is as it should be.
    Ok,
    /// It works, with less tolerance than its seats could give.
    #[default]
    Degraded,
    /// One voter, and no standby that has every acknowledged write: a lost disk is a lost cluster.
    SingleCopy,
    /// No writes until managers come back.
    QuorumLost,
}

impl Health {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::SingleCopy => "single_copy",
            Self::QuorumLost => "quorum_lost",
        }
    }
}

/// One manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// Node id, base32.
    pub id: String,
    /// The name people gave it; its id when they gave none.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// "voter" or "standby"; "joining" before it is in the configuration.
    pub seat: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answered just now.
    pub reachable: bool,
    /// Its applied index; 0 when it did not answer.
    pub applied: u64,
    /// Log entries it is behind the newest known commit.
    pub lag: u64,
    /// Its software version.
    pub version: String,
    /// Digest of its applied state at `hash_revision`, hex.
    pub state_hash: Option<String>,
    /// The newest revision that every reachable manager has applied.
    pub hash_revision: Option<u64>,
    /// Snapshots sent, failed, installed and refused by this process.
    pub snapshots: SnapshotStatus,
}

/// Snapshots in this process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Sent to their end.
    pub sent: u64,
    /// Failed on the way.
    pub failed: u64,
    /// Installed.
    pub installed: u64,
    /// Received and not wanted.
    pub refused: u64,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Node id, base32.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// What one manager says about itself to another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    pub(crate) applied: u64,
    pub(crate) commit: u64,
    pub(crate) term: u64,
    pub(crate) version: String,
    pub(crate) revision: u64,
    /// Newest last.
    pub(crate) hashes: Vec<(u64, String)>,
    pub(crate) snapshots: SnapshotStatus,
    /// It leads, and what it acknowledges is on more disks than its own.
    #[serde(default)]
    pub(crate) copied: bool,
}
