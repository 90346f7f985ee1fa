//! What operators wish for: what can never be done is refused at once, and what has to wait says for what.
//!
//! Owns the typed refusals and the words for what the planner does next with a manager. Pure. Called by the managers'
//! handlers, before a wish is written into the records and while it waits.

use std::fmt;

use super::plan::{EvenMaxVoters, ManagerView, SeatPolicy, SeatView};
use super::quorum::Quorum;
use crate::id::RaftId;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The manager is to be a worker.
    Demote {
        /// It may end the cluster's fault tolerance.
        forced: bool,
    },
    /// The node is to be removed.
    Remove {
        /// It may end the cluster's fault tolerance.
        forced: bool,
    },
    /// So many voters at most.
    MaxVoters(u32),
}

/// Why a wish is refused at once. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WishRefused {
    /// The most voters must be odd.
    #[error(transparent)]
    EvenMaxVoters(#[from] EvenMaxVoters),
    /// There is nobody to hand the last seat to.
    #[error(
        "manager {voter} is the last voter: without it there is no cluster, and --force does not change that. Join or promote another manager, or start one that is down; once it has caught up, ask again. Nothing was changed"
    )]
    LastVoter {
        /// Its raft id.
        voter: RaftId,
    },
    /// From three voters to one: no loss would be survived any more.
    #[error(
        "this would leave {to} of {from} voters, and no loss would be survived any more. Join or promote another manager first (or label a worker quorate.manager=yes), it takes the seat; or ask again with --force. Nothing was changed"
    )]
    EndsFaultTolerance {
        /// Voters now.
        from: usize,
        /// Voters then.
        to: usize,
    },
    /// A majority, before the change or after it, would not be alive.
    #[error(
        "{reachable} of the voters are reachable and {needed} are needed: seats cannot be changed now, and --force does not change that. Start managers that are down, then ask again. Nothing was changed"
    )]
    QuorumAtRisk {
        /// Voters reachable.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
}

/// Whether a wish can be fulfilled, now or once those on the way have arrived.
///
/// # Errors
/// What can never be done, with the way out.
pub fn check(view: &SeatView, _policy: &SeatPolicy, target: RaftId, wish: Wish) -> Result<(), WishRefused> {
    let forced = match wish {
        Wish::MaxVoters(max) => return SeatPolicy::new(max).map(drop).map_err(WishRefused::from),
        Wish::Demote { forced } | Wish::Remove { forced } => forced,
    };
    let voters = &view.configuration.voters;
    if !voters.contains(&target) {
        return Ok(());
    }
    let alive = |id: RaftId| view.managers.iter().any(|manager| manager.raft_id == id && is_alive(manager));
    let reachable = voters.iter().filter(|id| alive(**id)).count();
    let needed = Quorum::majority(voters.len());
    if reachable < needed {
        return Err(WishRefused::QuorumAtRisk { reachable, needed });
    }
    let others = view.managers.iter().filter(|manager| manager.raft_id != target && is_alive(manager));
    let successors = others.filter(|manager| !voters.contains(&manager.raft_id)).count();
    match voters.len() {
        _ if successors > 0 => Ok(()),
        1 => Err(WishRefused::LastVoter { voter: target }),
        3 if !forced => Err(WishRefused::EndsFaultTolerance { from: 3, to: 1 }),
        _ => Ok(()),
    }
}

const fn is_alive(manager: &ManagerView) -> bool {
    manager.connected || manager.leader
}

/// What the planner does with a manager next, or waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// It is to be a manager and has no raft id yet.
    Enrolling,
    /// It is no member yet.
    Joins,
    /// It holds a seat.
    Voter,
    /// A standby of which nothing arrives.
    Unreachable,
    /// A standby that has not been caught up for long enough.
    CatchesUp,
    /// A ready standby; a seat for it alone would make the number even.
    OneMoreNeeded,
    /// A ready standby; there are as many voters as are allowed.
    Full {
        /// The most voters.
        max: usize,
    },
    /// A change is in flight, or due.
    InFlight,
}

/// What the planner does with `target` next, or waits for: for people to read. `RaftId(0)` is a node without one.
pub fn outlook(view: &SeatView, policy: &SeatPolicy, target: RaftId) -> Outlook {
    let configuration = &view.configuration;
    if target == RaftId(0) {
        return Outlook::Enrolling;
    }
    if !configuration.contains(target) {
        return Outlook::Joins;
    }
    if configuration.is_voter(target) {
        return Outlook::Voter;
    }
    let ready = |manager: &ManagerView| manager.connected && manager.caught_up && manager.stable;
    match view.managers.iter().find(|manager| manager.raft_id == target) {
        Some(manager) if !manager.connected => return Outlook::Unreachable,
        Some(manager) if !ready(manager) => return Outlook::CatchesUp,
        Some(_) | None => {}
    }
    // Who is connected and no voter is on its way to a seat, or there.
    let coming = |manager: &&ManagerView| manager.connected && !configuration.is_voter(manager.raft_id);
    let standbys = view.managers.iter().filter(coming).count();
    if view.pending || configuration.is_joint() {
        Outlook::InFlight
    } else if configuration.voters.len() + 2 > policy.max_voters() {
        Outlook::Full { max: policy.max_voters() }
    } else if standbys < 2 {
        Outlook::OneMoreNeeded
    } else {
        Outlook::InFlight
    }
}

impl Outlook {
    /// In words, with names for raft ids.
    pub fn text(&self, _name: impl Fn(RaftId) -> String) -> String {
        match self {
            Self::Enrolling => "waits until the node has asked for its raft id".to_owned(),
            Self::Joins => "becomes a standby with one of the next changes".to_owned(),
            Self::Voter => "voter".to_owned(),
            Self::Unreachable => "standby, not reachable from the leader".to_owned(),
            Self::CatchesUp => "standby, catching up".to_owned(),
            Self::OneMoreNeeded => "standby until one more manager joins".to_owned(),
            Self::Full { max } => {
                format!("standby: all {max} seats are taken; it gets the seat of a voter that is lost or leaves")
            }
            Self::InFlight => "waits for the change in flight".to_owned(),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|id| format!("manager {id}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Configuration;

    fn view(voters: u64, standbys: u64, silent: &[u64]) -> SeatView {
        let manager = |id: u64| {
            let alive = !silent.contains(&id);
            let raft_id = RaftId(id);
            ManagerView { raft_id, connected: alive, caught_up: alive, stable: alive, ..ManagerView::default() }
        };
        let configuration = Configuration {
            voters: (1..=voters).map(RaftId).collect(),
            learners: (voters + 1..=voters + standbys).map(RaftId).collect(),
            ..Configuration::default()
        };
        SeatView { configuration, managers: (1..=voters + standbys).map(manager).collect(), ..SeatView::default() }
    }

    fn refused(view: &SeatView, target: u64, forced: bool) -> Option<WishRefused> {
        let policy = SeatPolicy::new(5).unwrap();
        check(view, &policy, RaftId(target), Wish::Demote { forced }).err()
    }

    #[test]
    fn what_can_never_be_done_is_refused_and_force_lifts_one_refusal_only() {
        let last = Some(WishRefused::LastVoter { voter: RaftId(1) });
        assert_eq!((refused(&view(1, 0, &[]), 1, false), refused(&view(1, 0, &[]), 1, true)), (last, last));
        let ends = Some(WishRefused::EndsFaultTolerance { from: 3, to: 1 });
        assert_eq!((refused(&view(3, 0, &[]), 2, false), refused(&view(3, 0, &[]), 2, true)), (ends, None));
        let risk = Some(WishRefused::QuorumAtRisk { reachable: 1, needed: 2 });
        assert_eq!((refused(&view(3, 0, &[2, 3]), 1, false), refused(&view(3, 0, &[2, 3]), 1, true)), (risk, risk));
    }

    #[test]
    fn a_standby_or_a_pair_of_seats_makes_a_demotion_possible() {
        for (view, target) in [(view(3, 1, &[]), 2), (view(1, 1, &[]), 1), (view(5, 0, &[]), 2), (view(3, 1, &[]), 4)] {
            assert_eq!(refused(&view, target, false), None);
        }
        // A standby that is gone takes nobody's seat.
        assert!(refused(&view(3, 1, &[4]), 2, false).is_some());
    }

    #[test]
    fn the_outlook_of_a_standby_says_what_it_waits_for() {
        let says = |view: &SeatView, max, target| outlook(view, &SeatPolicy::new(max).unwrap(), RaftId(target));
        assert_eq!(says(&view(3, 1, &[]), 5, 4), Outlook::OneMoreNeeded);
        assert_eq!(says(&view(3, 1, &[]), 3, 4), Outlook::Full { max: 3 });
        assert_eq!(says(&view(3, 2, &[]), 5, 4), Outlook::InFlight);
        assert_eq!(says(&view(3, 1, &[4]), 5, 4), Outlook::Unreachable);
        assert_eq!(says(&view(3, 1, &[]), 5, 2), Outlook::Voter);
        assert_eq!(says(&view(3, 1, &[]), 5, 9), Outlook::Joins);
        assert_eq!(says(&view(3, 1, &[]), 5, 0), Outlook::Enrolling);
    }
}
