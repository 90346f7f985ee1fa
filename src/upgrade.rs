//! How far a rolling upgrade is: the documented JSON of `quorate upgrade status --json`.
//!
//! Owns the one definition that the wire, the library and scripts share. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// The cluster's version, and which versions the managers' programs support, by what each has reported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeStatus {
    /// How far it is.
    pub state: UpgradeState,
    /// What the cluster is at: features of later versions are refused.
    pub cluster_version: u32,
    /// The newest version that any manager supports: what `upgrade finish` raises the cluster to.
    pub target_version: u32,
    /// The managers that hold that back, by name, ascending.
    pub held_back_by: Vec<String>,
    /// What to do, line by line; empty when nothing is.
    pub next: Vec<String>,
    /// Every manager that counts: also the absent ones, and not those that a recovery has left behind.
    pub managers: Vec<ManagerVersion>,
    /// The note that people have left on the cluster.
    #[cfg(feature = "next-version")]
    pub note: Option<String>,
}

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeState {
    /// The cluster is at the newest version that any manager supports.
    #[default]
    UpToDate,
    /// Some managers support a newer version, and others hold it back.
    Rolling,
    /// All managers support a newer version: `upgrade finish` raises the cluster to it. Until then every manager may go
    /// back to the older program.
    Ready,
}

impl UpgradeState {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::UpToDate => "up_to_date",
            Self::Rolling => "rolling",
            Self::Ready => "ready",
        }
    }
}

/// The program of one manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagerVersion {
    /// Node id, base32.
    pub id: String,
    /// The name people gave it; its id when they gave none.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// Its software version.
    pub software: String,
    /// The oldest cluster version that it supports.
    pub oldest: u32,
    /// The newest cluster version that it supports.
    pub newest: u32,
    /// Whether it answered just now.
    pub reachable: bool,
    /// Whether it holds the upgrade back.
    pub holds_back: bool,
}
