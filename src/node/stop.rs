//! How a node ends, and why it does not start.
//!
//! Owns the two enums with their words and exit codes (design section 13). The library itself never exits.

#[cfg(feature = "manager")]
use quorate_core::consensus::io::StopCause;
use quorate_core::ports::StoreError;
#[cfg(feature = "manager")]
use quorate_core::state::contract::ApplyError;

use crate::error::Outcome;

/// Why a node stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// Somebody asked for it.
    Asked,
    /// The node was removed from the cluster.
    Removed,
    /// A newer incarnation of the cluster exists.
    Superseded(String),
    /// The store is damaged. Says how that was found, what was not harmed, and the way back.
    Damaged(String),
    /// The disk refused a write or a sync. The only reason worth a restart.
    DiskFailed(String),
    /// The other managers do not take this node's identity.
    IdentityRefused(String),
    /// A manager's directory was put back to an older state: this node's own, which never runs again, or that of one that took the
    /// lead with it. Says whose, what was not harmed, and the way back.
    RolledBack(String),
    /// The log holds a command that is newer than this binary.
    NeedsVersion(String),
    /// A defect of quorate; the node stopped before it could do harm.
    Bug(String),
}

impl StopReason {
    /// The exit code of `quorate run`.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Removed => 10,
            Self::Superseded(_) => 11,
            Self::Damaged(_) | Self::RolledBack(_) | Self::NeedsVersion(_) | Self::Bug(_) => 12,
            Self::DiskFailed(_) => 13,
            Self::IdentityRefused(_) => 14,
        }
    }

    #[cfg(feature = "manager")]
    pub(crate) fn of(cause: &StopCause) -> Self {
        match cause {
            StopCause::Store(error) => Self::of_store(error),
            StopCause::Apply(ApplyError::Store(error)) => Self::of_store(error),
            StopCause::Apply(error @ (ApplyError::NeedsVersion { .. } | ApplyError::ClusterNeedsVersion { .. })) => {
                Self::NeedsVersion(error.to_string())
            }
            StopCause::Apply(error @ ApplyError::Broken { .. }) => Self::damaged(error),
            StopCause::RolledBack { .. } | StopCause::Overruled { .. } => Self::RolledBack(cause.to_string()),
            StopCause::Invariant { .. } => Self::Bug(cause.to_string()),
        }
    }

    /// Met by a manager that runs: nothing is marked, and another start may come as far again.
    #[cfg(feature = "manager")]
    fn damaged(found: &impl std::fmt::Display) -> Self {
        Self::Damaged(format!(
            "the store is damaged: {found}. The manager stopped before that could do harm, and nothing in it was changed. Next, where other managers vote and hold the data: move its `store` aside, and join again with a fresh one, quorate join --replace --data-dir DIR --manager HOST:PORT. An only voter comes back from a backup: quorate restore"
        ))
    }

    #[cfg(feature = "manager")]
    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } | StoreError::NotFound { .. } | StoreError::FormatTooOld { .. } => {
                Self::damaged(error)
            }
            StoreError::FormatTooNew { .. } | StoreError::NeedsVersion { .. } => Self::NeedsVersion(error.to_string()),
            StoreError::Io { .. }
            | StoreError::Full { .. }
            | StoreError::Locked { .. }
            | StoreError::KeyWanted { .. }
            | StoreError::Poisoned(_) => Self::DiskFailed(error.to_string()),
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked => f.write_str("stopped as asked"),
            Self::Removed => f.write_str("this node was removed from the cluster, and its directory stays as it is. To come back it joins anew: `quorate join` into another directory, or `quorate join --replace --token TOKEN --manager HOST:PORT` from this one"),
            Self::Superseded(why) => f.write_str(why),
            Self::DiskFailed(why) => write!(
                f,
                "the disk failed: {why}. What was acknowledged is safe on a majority. Check space and disk, then start the node again"
            ),
            Self::IdentityRefused(why) => write!(f, "the cluster does not take this node's identity: {why}"),
            Self::Damaged(why) | Self::RolledBack(why) | Self::NeedsVersion(why) => f.write_str(why),
            Self::Bug(why) => {
                write!(f, "a defect of quorate: {why}. The node stopped before it could do harm; please report this")
            }
        }
    }
}

/// Why a node does not start, or a directory is not prepared. Nothing was changed unless the message says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An argument is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The directory is not what was expected.
    #[error("{0}")]
    Directory(String),
    /// The directory holds a node that was prepared with other settings than those asked for.
    #[error("{0}")]
    Contradiction(String),
    /// The directory is in use by a running node.
    #[error("{0}")]
    InUse(String),
    /// The store is damaged, or was found damaged by a manager that ran from it.
    #[error("{0}")]
    Damaged(String),
    /// The directory is of a cluster that has gone on to a version which this quorate does not know, or is not yet as far as
    /// this quorate begins.
    #[error("{0}")]
    NeedsVersion(String),
    /// The store is sealed, and the key that opens it was not given. Says which one does.
    #[error("{0}")]
    Locked(String),
    /// The disk refused.
    #[error("{0}")]
    Disk(String),
    /// The address cannot be used.
    #[error("{0}")]
    Address(String),
    /// A newer incarnation of the cluster exists: this directory is never run again.
    #[error("{0}")]
    Superseded(String),
    /// The identity file is that of another node, or of a node of another cluster, than what lies beside it.
    #[error("{0}")]
    Identity(String),
    /// The directory was put back to an older state, or is a copy: it is never run again.
    #[error("{0}")]
    RolledBack(String),
    /// A recovery was asked for, and the cluster is alive, or another manager holds more.
    #[error("{0}")]
    ClusterAlive(String),
    /// A recovery was asked for, and the cluster was recovered twice already.
    #[error("{0}")]
    Forked(String),
    /// The file is no backup, was altered or cut off, or is sealed for another key.
    #[error("{0}")]
    Backup(String),
    /// The cluster did not take the newcomer.
    #[error("{0}")]
    Refused(String),
    /// The directory, or the role that was asked for, needs a program that was built with the `manager` feature.
    #[error("{0}")]
    NotBuiltAsManager(String),
    /// No manager could be reached.
    #[error("{0}")]
    Unavailable(String),
    /// A manager was asked and did not answer: it may have taken the node. The same call again is safe.
    #[error("{0}")]
    Unknown(String),
    /// A defect of quorate.
    #[error("{0}")]
    Internal(String),
}

impl StartError {
    /// Whether the same call may succeed later without anything being changed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }

    /// Whether what was asked for may have been done.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Unknown(_) | Self::Internal(_) => Outcome::Unknown,
            Self::Invalid(_)
            | Self::Directory(_)
            | Self::Contradiction(_)
            | Self::InUse(_)
            | Self::Locked(_)
            | Self::Damaged(_)
            | Self::NeedsVersion(_)
            | Self::Disk(_)
            | Self::Backup(_)
            | Self::Address(_)
            | Self::Superseded(_)
            | Self::RolledBack(_)
            | Self::Identity(_)
            | Self::ClusterAlive(_)
            | Self::Forked(_)
            | Self::Refused(_)
            | Self::NotBuiltAsManager(_)
            | Self::Unavailable(_) => Outcome::NotDone,
        }
    }

    /// The exit code of `quorate run` that met it: 11 to 14 as of a running node, else as of any command.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Superseded(_) => 11,
            Self::Damaged(_) | Self::RolledBack(_) | Self::NeedsVersion(_) => 12,
            Self::Disk(_) => 13,
            Self::Identity(_) => 14,
            Self::Invalid(_)
            | Self::Directory(_)
            | Self::Contradiction(_)
            | Self::InUse(_)
            | Self::Locked(_)
            | Self::Backup(_)
            | Self::Address(_)
            | Self::Refused(_)
            | Self::NotBuiltAsManager(_)
            | Self::Unavailable(_)
            | Self::Unknown(_)
            | Self::ClusterAlive(_)
            | Self::Forked(_)
            | Self::Internal(_) => self.command_exit_code(),
        }
    }

    /// The exit code of any command but `run` that met it: 1 refused, 2 usage, 3 unavailable, 4 unknown outcome.
    pub const fn command_exit_code(&self) -> u8 {
        match self {
            Self::Directory(_)
            | Self::Contradiction(_)
            | Self::InUse(_)
            | Self::Damaged(_)
            | Self::NeedsVersion(_)
            | Self::Locked(_)
            | Self::Disk(_)
            | Self::Backup(_)
            | Self::Address(_)
            | Self::Refused(_)
            | Self::NotBuiltAsManager(_)
            | Self::ClusterAlive(_)
            | Self::Superseded(_)
            | Self::RolledBack(_)
            | Self::Identity(_)
            | Self::Forked(_)
            | Self::Internal(_) => 1,
            Self::Invalid(_) => 2,
            Self::Unavailable(_) => 3,
            Self::Unknown(_) => 4,
        }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Corrupt { .. } | StoreError::NotFound { .. } => Self::Damaged(format!(
                "the store is damaged: {message}. Nothing was changed. Next, where other managers vote and hold the data: join again with a fresh store (this one is moved aside, not deleted), quorate join --replace --data-dir DIR --manager HOST:PORT. An only voter comes back from a backup: quorate restore"
            )),
            StoreError::FormatTooNew { .. } | StoreError::NeedsVersion { .. } => {
                Self::NeedsVersion(format!("{message}. Nothing was changed; start it with the newer quorate"))
            }
            StoreError::FormatTooOld { .. } => Self::Damaged(message),
            StoreError::KeyWanted { .. } => Self::Locked(format!("{message}. Nothing was changed")),
            StoreError::Locked { .. } => Self::InUse(format!(
                "{message}. Nothing was changed; stop the running node first, or talk to it with --data-dir"
            )),
            StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Poisoned(_) => Self::Disk(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Whether a service manager is to start it again by itself.
    fn is_worth_a_restart(reason: &StopReason) -> bool {
        match reason {
            StopReason::DiskFailed(_) => true,
            StopReason::Asked
            | StopReason::Removed
            | StopReason::Superseded(_)
            | StopReason::Damaged(_)
            | StopReason::IdentityRefused(_)
            | StopReason::RolledBack(_)
            | StopReason::NeedsVersion(_)
            | StopReason::Bug(_) => false,
        }
    }

    #[test]
    fn the_unit_of_systemd_restarts_what_is_worth_it_and_nothing_else() {
        let why = String::new;
        let stopped = [
            StopReason::Asked,
            StopReason::Removed,
            StopReason::Superseded(why()),
            StopReason::Damaged(why()),
            StopReason::DiskFailed(why()),
            StopReason::IdentityRefused(why()),
            StopReason::RolledBack(why()),
            StopReason::NeedsVersion(why()),
            StopReason::Bug(why()),
        ];
        // A start that was refused, or was asked for wrongly, comes to the same again; one that reached nobody may not.
        let not_started = [
            StartError::Invalid(why()),
            StartError::Refused(why()),
            StartError::Superseded(why()),
            StartError::Damaged(why()),
            StartError::RolledBack(why()),
            StartError::Identity(why()),
            StartError::NeedsVersion(why()),
        ];
        let codes = stopped.iter().filter(|reason| !is_worth_a_restart(reason)).map(StopReason::exit_code);
        let codes = codes.chain(not_started.iter().map(StartError::exit_code)).filter(|code| *code != 0);
        let wanted: BTreeSet<u8> = codes.collect();
        for error in [StartError::Disk(why()), StartError::Unavailable(why()), StartError::Unknown(why())] {
            assert!(!wanted.contains(&error.exit_code()), "{error:?} may pass by itself");
        }
        let unit = include_str!("../../contrib/quorate.service");
        assert!(unit.lines().any(|line| line == "Restart=on-failure"));
        let listed = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
        let listed: BTreeSet<u8> = listed.split(' ').map(|code| code.parse().unwrap()).collect();
        assert_eq!(listed, wanted);
        assert!(!wanted.contains(&StopReason::DiskFailed(why()).exit_code()));
    }
}
