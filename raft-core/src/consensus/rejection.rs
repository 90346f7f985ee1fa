//! Why the consensus machine did not take a request.
//!
//! Owns the reasons and their words for people. Called by the machine, and by whoever tells a caller.

use crate::id::RaftId;
use crate::limits::Met;

/// Why the machine did not take a request. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No leader is known for two base election timeouts.
    #[error("{}", no_leader(*reachable, *voters, missing, &numbered))]
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
    #[error("{}", quorum_lost((*reachable, *voters, *needed), missing, &numbered))]
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
    #[error("{}", read_only(low, &numbered))]
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
    /// The same in words, with managers by the names that people know.
    pub fn told(&self, name: &dyn Fn(RaftId) -> String) -> String {
        match self {
            Self::NoLeader { reachable, voters, missing, .. } => no_leader(*reachable, *voters, missing, name),
            Self::QuorumLost { reachable, voters, needed, missing, .. } => {
                quorum_lost((*reachable, *voters, *needed), missing, name)
            }
            Self::ReadOnly { low } => read_only(low, name),
            Self::NotLeader { .. }
            | Self::Replaced
            | Self::Overloaded { .. }
            | Self::OverloadedBytes { .. }
            | Self::VersionNotEnabled { .. }
            | Self::Transfer(_)
            | Self::Stopping => self.to_string(),
        }
    }

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

/// What a manager is called.
type Name<'a> = &'a dyn Fn(RaftId) -> String;

/// What this file calls one, whose name is not known here.
fn numbered(id: RaftId) -> String {
    format!("manager {id}")
}

fn managers(ids: &[RaftId], name: Name<'_>) -> String {
    ids.iter().copied().map(name).collect::<Vec<_>>().join(", ")
}

fn not_heard_from(missing: &[RaftId], name: Name<'_>) -> String {
    if missing.is_empty() { String::new() } else { format!("; not heard from: {}", managers(missing, name)) }
}

fn no_leader(reachable: usize, voters: usize, missing: &[RaftId], name: Name<'_>) -> String {
    let silent = not_heard_from(missing, name);
    format!(
        "no manager leads right now, {reachable} of {voters} voters are connected to this one{silent}. Nothing was changed; try again"
    )
}

fn quorum_lost((reachable, voters, needed): (usize, usize, usize), missing: &[RaftId], name: Name<'_>) -> String {
    let silent = not_heard_from(missing, name);
    format!(
        "quorum lost: {reachable} of {voters} voters reachable, {needed} needed{silent}. Nothing was changed, nothing acknowledged is lost. Next: `quorate status --data-dir DIR` on the machine of a manager that runs says which to start again; only when the disks of so many are gone for good: stop those that are left, then `quorate recover --dry-run --data-dir DIR` on each (docs/when-managers-are-lost.md)"
    )
}

fn read_only(low: &[RaftId], name: Name<'_>) -> String {
    format!(
        "no writes for lack of disk space on {}. Nothing was changed, and reads go on; free space there or enlarge the disk, writes then go on by themselves (`status` shows who is short of it)",
        managers(low, name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_or_short_of_space_is_called_by_the_name_that_people_know() {
        let missing = vec![RaftId(1), RaftId(12)];
        let lost = Rejection::QuorumLost { leaderless_ticks: 9, reachable: 1, voters: 3, needed: 2, missing };
        assert!(lost.to_string().contains("2 needed; not heard from: manager 1, manager 12. "), "{lost}");
        for next in ["quorate status --data-dir", "to start again", "gone for good", "quorate recover --dry-run"] {
            assert!(lost.to_string().contains(next), "{lost}");
        }
        let name = |id: RaftId| if id == RaftId(1) { "n1".to_owned() } else { "n12".to_owned() };
        let told = lost.told(&name);
        assert!(told.contains("2 needed; not heard from: n1, n12. "), "{told}");
        let alone =
            Rejection::NoLeader { leaderless_ticks: 9, reachable: 3, voters: 3, missing: Vec::new() }.told(&name);
        assert!(alone.contains("connected to this one. Nothing"), "{alone}");
        let low = Rejection::ReadOnly { low: vec![RaftId(12), RaftId(1)] }.told(&name);
        assert!(low.contains("disk space on n12, n1. "), "{low}");
    }
}
