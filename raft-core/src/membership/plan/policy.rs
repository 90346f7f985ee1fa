//! The settings that the planner follows, in ticks.
//!
//! Owns the defaults of the odd rule's times and how the cluster's record overrides them: the record is the one source,
//! a zero in it means the default. Pure.

use crate::membership::record::ClusterRecord;

/// The times of the odd rule that hold where the cluster's record says nothing, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatTimes {
    /// Silence after which a voter is replaced: longer than a reboot of a process, shorter than a second loss is likely.
    pub lost_after_ms: u64,
    /// How long a seat waits for a manager before an eligible worker is promoted: longer than a reboot of a machine.
    pub promote_after_ms: u64,
    /// How long a standby must be connected and caught up before it gets a seat: one that flaps never does.
    pub stable_ms: u64,
    /// How long somebody on the way to a seat is waited for: a promoted worker that has not caught up by then is taken
    /// back.
    pub patience_ms: u64,
}

impl SeatTimes {
    /// The defaults.
    pub const DEFAULT: Self =
        Self { lost_after_ms: 30_000, promote_after_ms: 300_000, stable_ms: 2_000, patience_ms: 300_000 };
}

impl Default for SeatTimes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The least silence after which a voter counts as lost, ticks: ten base election timeouts. Shorter, and an election or
/// a slow disk would cost a seat.
pub const LOST_AFTER_TICKS_MIN: u64 = 200;

/// A wrong setting of the most voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "max_voters is {given}, it must be 3, 5, 7 or 9: an even number of voters survives no more losses than one voter less. Nothing was changed"
)]
pub struct EvenMaxVoters {
    /// What was asked for.
    pub given: u32,
}

/// The settings that the planner follows. Times are ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatPolicy {
    max_voters: usize,
    /// Silence after which a voter is lost.
    pub lost_after: u64,
    /// How long a seat waits for a manager before an eligible worker is promoted.
    pub promote_after: u64,
    /// How long a standby must be connected and caught up before it gets a seat.
    pub stable: u64,
    /// How long somebody on the way to a seat is waited for.
    pub patience: u64,
    /// Lost voters are not replaced.
    pub keep_lost: bool,
}

impl SeatPolicy {
    /// With at most so many voters, and the default times at a tick of 20 ms.
    ///
    /// # Errors
    /// `EvenMaxVoters` for anything but 3, 5, 7 and 9.
    pub const fn new(max_voters: u32) -> Result<Self, EvenMaxVoters> {
        let max_voters = match max_voters {
            3 => 3,
            5 => 5,
            7 => 7,
            9 => 9,
            given => return Err(EvenMaxVoters { given }),
        };
        let times = SeatTimes::DEFAULT;
        Ok(Self {
            max_voters,
            lost_after: times.lost_after_ms / 20,
            promote_after: times.promote_after_ms / 20,
            stable: times.stable_ms / 20,
            patience: times.patience_ms / 20,
            keep_lost: false,
        })
    }

    /// What the cluster's record says, at this length of a tick; `times` where it says nothing.
    ///
    /// # Errors
    /// `EvenMaxVoters` when the record's number of voters is none that may be.
    pub fn of(cluster: &ClusterRecord, times: &SeatTimes, tick_nanos: u64) -> Result<Self, EvenMaxVoters> {
        let ticks = |set: u64, default: u64| {
            let nanos = if set == 0 { default } else { set }.saturating_mul(1_000_000);
            nanos.div_ceil(tick_nanos.max(1))
        };
        Ok(Self {
            lost_after: ticks(cluster.lost_after_ms, times.lost_after_ms).max(LOST_AFTER_TICKS_MIN),
            promote_after: ticks(cluster.promote_after_ms, times.promote_after_ms),
            stable: ticks(cluster.stable_ms, times.stable_ms),
            patience: ticks(0, times.patience_ms),
            keep_lost: cluster.keep_lost,
            ..Self::new(cluster.max_voters)?
        })
    }

    /// Most voters.
    pub const fn max_voters(&self) -> usize {
        self.max_voters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_overrides_the_defaults_and_nobody_is_lost_before_ten_election_timeouts() {
        let times = SeatTimes::default();
        let mut cluster = ClusterRecord { max_voters: 5, ..ClusterRecord::default() };
        let policy = |cluster: &ClusterRecord, tick_ms: u64| SeatPolicy::of(cluster, &times, tick_ms * 1_000_000);
        // Given a record that says nothing: the defaults, in ticks of the length in force
        assert_eq!(policy(&cluster, 20), SeatPolicy::new(5));
        assert_eq!(policy(&cluster, 100).map(|policy| (policy.lost_after, policy.stable)), Ok((300, 20)));
        // When it says something, that holds, rounded up, but never fewer ticks than ten election timeouts
        (cluster.lost_after_ms, cluster.stable_ms, cluster.promote_after_ms) = (5_000, 1, 60_000);
        let set = policy(&cluster, 20).map(|policy| (policy.lost_after, policy.stable, policy.promote_after));
        assert_eq!(set, Ok((250, 1, 3_000)));
        assert_eq!(policy(&cluster, 150).map(|policy| policy.lost_after), Ok(LOST_AFTER_TICKS_MIN));
        // And a number of voters that may not be is refused
        cluster.max_voters = 4;
        assert_eq!(policy(&cluster, 20), Err(EvenMaxVoters { given: 4 }));
    }

    #[test]
    fn only_odd_numbers_of_voters_are_taken_for_the_most() {
        for max in 0..=12u32 {
            let expected =
                if [3, 5, 7, 9].contains(&max) { Ok(max as usize) } else { Err(EvenMaxVoters { given: max }) };
            assert_eq!(SeatPolicy::new(max).map(|policy| policy.max_voters()), expected);
        }
    }
}
