//! Majorities, also of two halves at once, and the invariant ODD.
//!
//! Owns the arithmetic. Never decides who votes: [`super::plan`] does. Called by the planner, by the consensus machine
//! before it proposes a configuration, and by `status`.

use crate::id::RaftId;
use crate::log::Configuration;

/// The majorities that a configuration needs: one of each half that is in force.
#[derive(Debug, Clone, Copy)]
pub struct Quorum<'a> {
    configuration: &'a Configuration,
}

impl<'a> Quorum<'a> {
    /// The quorum of a configuration.
    pub const fn of(configuration: &'a Configuration) -> Self {
        Self { configuration }
    }

    /// How many of `voters` are a majority; 0 of none.
    pub const fn majority(voters: usize) -> usize {
        if voters == 0 { 0 } else { voters / 2 + 1 }
    }

    fn halves(self) -> impl Iterator<Item = &'a [RaftId]> {
        let Configuration { voters, voters_outgoing, .. } = self.configuration;
        [voters.as_slice(), voters_outgoing.as_slice()].into_iter().filter(|half| !half.is_empty())
    }

    /// Voters alive less the majority needed, in the half where that is least: how many more may be lost. Negative:
    /// so many must come back. A configuration without voters has none to lose.
    pub fn fault_tolerance(self, alive: impl Fn(RaftId) -> bool) -> i64 {
        let spare = |half: &[RaftId]| {
            let living = half.iter().filter(|id| alive(**id)).count();
            signed(living) - signed(Self::majority(half.len()))
        };
        self.halves().map(spare).min().unwrap_or(0)
    }

    /// Voters alive and voters needed, in the half where the least can be lost; (0, 0) without voters.
    pub fn reach(self, alive: impl Fn(RaftId) -> bool) -> (usize, usize) {
        let counted = |half: &[RaftId]| {
            let living = half.iter().filter(|id| alive(**id)).count();
            (living, Self::majority(half.len()))
        };
        self.halves().map(counted).min_by_key(|(living, needed)| signed(*living) - signed(*needed)).unwrap_or((0, 0))
    }

    /// Whether every half has a majority alive. Never without voters.
    pub fn is_alive(self, alive: impl Fn(RaftId) -> bool) -> bool {
        self.halves().next().is_some() && self.fault_tolerance(alive) >= 0
    }
}

/// A number of voters is far below what an `i64` holds.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A configuration that breaks the invariant ODD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a configuration with {voters} voters{} breaks the rule of odd numbers and was not proposed; this is a fault of quorate, please report it",
    if *outgoing > 0 { format!(" after {outgoing}") } else { String::new() }
)]
pub struct NotOdd {
    /// Voters in it; in a joint one those of the incoming half.
    pub voters: usize,
    /// Voters of the outgoing half, 0 unless joint.
    pub outgoing: usize,
}

/// The invariant ODD: an odd number of voters in each half in force.
///
/// # Errors
/// `NotOdd` with the numbers.
pub fn check_odd(configuration: &Configuration) -> Result<(), NotOdd> {
    if configuration.is_odd() {
        return Ok(());
    }
    Err(NotOdd { voters: configuration.voters.len(), outgoing: configuration.voters_outgoing.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<RaftId> {
        range.map(RaftId).collect()
    }

    #[test]
    fn a_majority_is_more_than_half() {
        for voters in 1..20 {
            let majority = Quorum::majority(voters);
            assert!(2 * majority > voters && 2 * (majority - 1) <= voters, "{voters}");
        }
        assert_eq!(Quorum::majority(0), 0);
    }

    #[test]
    fn tolerance_counts_the_voters_alive_now() {
        let three = Configuration { voters: ids(1..=3), ..Configuration::default() };
        let tolerance = |dead: &[u64]| Quorum::of(&three).fault_tolerance(|id| !dead.contains(&id.0));
        assert_eq!((tolerance(&[]), tolerance(&[1]), tolerance(&[1, 2])), (1, 0, -1));
        assert!(!Quorum::of(&Configuration::default()).is_alive(|_| true));
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        // Given 1 -> 3: the one old voter is needed, and two of the three new ones.
        let joint = Configuration { voters: ids(1..=3), voters_outgoing: ids(1..=1), ..Configuration::default() };
        for dead in 0..8u8 {
            let alive: BTreeSet<u64> = (1..=3).filter(|id| dead & (1 << (id - 1)) == 0).collect();
            let expected = alive.contains(&1) && alive.len() >= 2;
            assert_eq!(Quorum::of(&joint).is_alive(|id| alive.contains(&id.0)), expected, "alive {alive:?}");
        }
    }

    #[test]
    fn an_even_half_is_refused_with_its_numbers() {
        for (incoming, outgoing, odd) in
            [(1, 0, true), (2, 0, false), (3, 1, true), (3, 2, false), (4, 3, false), (0, 0, false)]
        {
            let configuration = Configuration {
                voters: (1..=incoming).map(RaftId).collect(),
                voters_outgoing: (1..=outgoing).map(RaftId).collect(),
                ..Configuration::default()
            };
            assert_eq!(check_odd(&configuration).is_ok(), odd, "{incoming} after {outgoing}");
        }
        let error = NotOdd { voters: 2, outgoing: 3 };
        assert!(error.to_string().starts_with("a configuration with 2 voters after 3 breaks"), "{error}");
    }
}
