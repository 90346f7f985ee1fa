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
    /// One voter: a lost disk is a lost cluster.
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
    /// Workers that have their session with it; 0 when it did not answer.
    pub sessions: u64,
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
    /// Where it would be reached as a manager.
    pub address: String,
    /// "ready" or "down"; "unknown" when the leader has not been told of it, or cannot be asked.
    pub state: String,
    /// Since when it is ready or down, milliseconds since 1970; 0 when that is not known.
    pub since_ms: u64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Holds a session with the managers, gets assignments, holds no log.
    #[default]
    Worker,
    /// Holds the replicated log and state.
    Manager,
}

impl NodeRole {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// What one node says of itself: the documented JSON of `quorate status --json` on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node id, base32.
    pub id: String,
    /// Its name; its id when it has none.
    pub name: String,
    /// The cluster, base32.
    pub cluster_id: String,
    /// What it is at the moment.
    pub role: NodeRole,
    /// Of a worker: its session; null without one.
    pub session: Option<SessionReport>,
    /// The store's revision that its assignments were read at; null when it has never been told any.
    pub assignments_revision: Option<u64>,
    /// They are what it had when it last ran; no manager has confirmed them since.
    pub assignments_stale: bool,
    /// The ids of its items, ascending.
    pub items: Vec<String>,
    /// What is in its way; empty when nothing is.
    pub trouble: String,
}

/// A worker's session, seen from the worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionReport {
    /// The manager's name.
    pub manager: String,
    /// Its address.
    pub address: String,
    /// For how long, milliseconds.
    pub for_ms: u64,
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
    /// Workers with a session here.
    #[serde(default)]
    pub(crate) sessions: u64,
    /// It leads, and every live manager has reported its sessions to it.
    #[serde(default)]
    pub(crate) judged: bool,
}
