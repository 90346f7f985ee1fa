//! Why the consensus machine did not take a request.
//!
//! Owns the reasons and their words for people. Called by the machine, and by whoever tells a caller.

use crate::id::RaftId;
use crate::limits::Met;

/// Why the machine did not take a request. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No leader is known for two base election timeouts.
    #[error(
        "no manager leads right now, {reachable} of {voters} voters are connected to this one. Nothing was changed; try again"
    )]
    NoLeader {
        /// How long, in ticks.
        leaderless_ticks: u64,
        /// Voters this member is connected to, itself included.
        reachable: usize,
        /// Voters there are.
        voters: usize,
        /// Voters it is not connected to.
        missing: Vec<RaftId>,
    },
    /// No leader, and fewer voters reachable than a majority.
    #[error(
        "quorum lost: {reachable} of {voters} voters reachable, {needed} needed. Nothing was changed, nothing acknowledged is lost; start missing managers again"
    )]
    QuorumLost {
        /// How long, in ticks.
        leaderless_ticks: u64,
        /// Voters this member is connected to, itself included.
        reachable: usize,
        /// Voters there are.
        voters: usize,
        /// How many make a majority.
        needed: usize,
        /// Voters it is not connected to.
        missing: Vec<RaftId>,
    },
    /// It was forwarded to a manager that does not lead.
    #[error("this manager does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<RaftId>,
    },
    /// The entry that carried it was replaced by another leader's.
    #[error("leadership changed before the write was replicated. Nothing was changed; try again")]
    Replaced,
    /// Too much waits already.
    #[error(
        "{waiting} requests wait at this manager, the limit `WAITING_MAX` is {max}. Nothing was changed; try again a little later"
    )]
    Overloaded {
        /// How many wait.
        waiting: usize,
        /// The limit.
        max: usize,
    },
    /// Too many bytes would wait.
    #[error(
        "requests of {waiting} bytes would wait at this manager, the limit `WAITING_BYTES_MAX` is {max}. Nothing was changed; try again a little later"
    )]
    OverloadedBytes {
        /// How many would.
        waiting: usize,
        /// The limit.
        max: usize,
    },
    /// Managers low on disk space hold up every write.
    #[error(
        "no writes for lack of disk space on {}. Nothing was changed, and reads go on; free space there or enlarge the disk, writes then go on by themselves (`status` shows who is short of it)",
        managers(low)
    )]
    ReadOnly {
        /// Voters that are low on space, ascending.
        low: Vec<RaftId>,
    },
    /// The command is newer than the cluster version allows.
    #[error(
        "this needs cluster version {needed}, the cluster is at {current}. Nothing was changed. `quorate upgrade status` says what is left to do; once every manager runs the newer quorate, `quorate upgrade finish` enables it"
    )]
    VersionNotEnabled {
        /// What it needs.
        needed: u32,
        /// What is enabled.
        current: u32,
    },
    /// Leadership cannot go there.
    #[error("leadership cannot be handed over: {0}. The leader stays")]
    Transfer(String),
    /// The member is stopping.
    #[error("this manager is stopping. Nothing was changed; ask another one")]
    Stopping,
}

impl Rejection {
    /// The limit that was met, where it is one.
    pub const fn limit(&self) -> Option<Met> {
        match self {
            Self::Overloaded { waiting, max } => {
                Some(Met { name: "WAITING_MAX", bound: *max as u64, actual: *waiting as u64 + 1 })
            }
            Self::OverloadedBytes { waiting, max } => {
                Some(Met { name: "WAITING_BYTES_MAX", bound: *max as u64, actual: *waiting as u64 })
            }
            Self::NoLeader { .. }
            | Self::QuorumLost { .. }
            | Self::NotLeader { .. }
            | Self::Replaced
            | Self::ReadOnly { .. }
            | Self::VersionNotEnabled { .. }
            | Self::Transfer(_)
            | Self::Stopping => None,
        }
    }
}

fn managers(ids: &[RaftId]) -> String {
    let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("manager {ids}")
}
