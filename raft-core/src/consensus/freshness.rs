//! How old the state of this member may be.
//!
//! Owns one claim: everything that was acknowledged anywhere before a moment on this member's own clock is applied
//! here. It comes from read rounds alone: a round that began at that moment came back with the leader's commit index, a
//! quorum behind it, and that index is applied. What a leader merely says would not do: one that was deposed does not
//! know it, and a message may have been on its way for long, or waited for a process that stood still. So a follower asks
//! for a round of its own now and then; the leader answers it with the next round of its lease.

use std::collections::VecDeque;

use super::config::{ELECTION_TICKS, HEARTBEAT_TICKS};
use super::io::Nanos;
use crate::id::LogIndex;

/// Ticks between two rounds that a follower asks for on its own.
pub(super) const ASK_TICKS: u64 = ELECTION_TICKS as u64;
/// The same while it knows of no moment yet.
const FIRST_TICKS: u64 = 2 * HEARTBEAT_TICKS as u64;
/// Rounds that wait for the applier; beyond it the newer ones are forgotten, which makes the state look older.
const WAITING_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Freshness {
    as_of: Option<Nanos>,
    /// Rounds that came back, with what must be applied for them; both ascend.
    waiting: VecDeque<(LogIndex, Nanos)>,
    /// When a follower last asked, in ticks.
    asked: u64,
}

impl Freshness {
    /// The moment; `None` until a round came back in this process.
    pub(super) const fn as_of(&self) -> Option<Nanos> {
        self.as_of
    }

    /// Whether a follower should ask now.
    pub(super) const fn is_due(&self, tick: u64) -> bool {
        tick >= self.asked + if self.as_of.is_none() { FIRST_TICKS } else { ASK_TICKS }
    }

    /// A round of this member leaves now.
    pub(super) const fn asks(&mut self, tick: u64) {
        self.asked = tick;
    }

    /// A round that was sent at `sent` came back with this commit index.
    pub(super) fn confirmed(&mut self, index: LogIndex, sent: Nanos) {
        let room = self.waiting.len() < WAITING_MAX;
        match self.waiting.back_mut() {
            // Nothing newer is asked for: what is applied for the last one serves this one as well.
            Some(last) if last.0 >= index => last.1 = last.1.max(sent),
            _ if room => self.waiting.push_back((index, sent)),
            _ => {}
        }
    }

    /// Everything up to here is applied.
    pub(super) fn applied(&mut self, applied: LogIndex) {
        while let Some((_, sent)) = self.waiting.front().filter(|(index, _)| *index <= applied) {
            self.as_of = self.as_of.max(Some(*sent));
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_counts_once_what_it_asks_for_is_applied() {
        let mut fresh = Freshness::default();
        fresh.confirmed(LogIndex(5), Nanos(100));
        fresh.applied(LogIndex(4));
        assert_eq!(fresh.as_of(), None);
        fresh.confirmed(LogIndex(7), Nanos(200));
        fresh.applied(LogIndex(6));
        assert_eq!(fresh.as_of(), Some(Nanos(100)));
        fresh.applied(LogIndex(7));
        assert_eq!(fresh.as_of(), Some(Nanos(200)));
        // An old round that comes back late takes nothing back.
        fresh.confirmed(LogIndex(7), Nanos(150));
        fresh.applied(LogIndex(7));
        assert_eq!(fresh.as_of(), Some(Nanos(200)));
    }

    #[test]
    fn while_the_applier_lags_the_state_only_looks_older() {
        let mut fresh = Freshness::default();
        for round in 1..1_000 {
            fresh.confirmed(LogIndex(round), Nanos(round));
        }
        assert_eq!(fresh.waiting.len(), WAITING_MAX);
        fresh.applied(LogIndex(10));
        assert_eq!(fresh.as_of(), Some(Nanos(10)));
        fresh.applied(LogIndex(10_000));
        assert_eq!(fresh.as_of(), Some(Nanos(WAITING_MAX as u64)));
    }
}
