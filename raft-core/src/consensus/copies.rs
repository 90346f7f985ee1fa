//! Two copies of everything that is acknowledged, also with one voter.
//!
//! Owns the last sentence of the rule *Grow* (design section 5): while there is one voter and a connected, caught-up
//! standby, an entry goes to the applier only when the standby has it on disk too. What is not applied is neither
//! acknowledged nor read. After one election timeout of the standby's silence this is dropped, and the status says
//! `single_copy`, until a standby has everything again that was handed over meanwhile.
//!
//! Only a leader waits: what a voter applies before it leads it answers to nobody, because every answer and every
//! linearizable read waits for an entry of its own term.

use std::collections::VecDeque;

use raft::{ProgressState, eraftpb};

use super::config::ELECTION_TICKS;
use super::{Consensus, view};
use crate::id::{LogIndex, RaftId};

/// Committed entries that wait for a standby's disk.
#[derive(Debug)]
pub(super) struct Copies {
    /// With the tick at which each came.
    held: VecDeque<(u64, eraftpb::Entry)>,
    bytes: u64,
    /// A standby is waited for.
    waits: bool,
    /// Given up: a standby must have this index before one is waited for again.
    again_at: u64,
    /// Entries up to here were committed by the one voter there was, whatever is in force now.
    alone_until: u64,
}

impl Copies {
    pub(super) const fn new() -> Self {
        Self { held: VecDeque::new(), bytes: 0, waits: true, again_at: 0, alone_until: 0 }
    }

    pub(super) fn push(&mut self, tick: u64, entries: Vec<eraftpb::Entry>) {
        self.bytes += entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        self.held.extend(entries.into_iter().map(|entry| (tick, entry)));
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A leadership begins: whether a standby answers is not known yet.
    pub(super) const fn begin(&mut self) {
        (self.waits, self.again_at, self.alone_until) = (true, 0, 0);
    }

    /// The entries up to `limit`, about so many bytes of them at most; no further than the first configuration entry, because it
    /// may change the limit.
    fn pop(&mut self, limit: u64, bytes_max: u64) -> Vec<eraftpb::Entry> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        while self.held.front().is_some_and(|(_, entry)| entry.index <= limit)
            && let Some((_, entry)) = self.held.pop_front()
        {
            bytes += entry.data.len() as u64;
            self.bytes -= entry.data.len() as u64;
            let last = entry.entry_type() != eraftpb::EntryType::EntryNormal || bytes >= bytes_max;
            entries.push(entry);
            if last {
                break;
            }
        }
        entries
    }
}

impl Consensus {
    /// Hands over what may be handed over, and what the applier takes: the rest waits here, in few rounds once it goes on.
    pub(super) fn release(&mut self) {
        while !self.stopped && !self.applier_is_behind() {
            let limit = self.copied_up_to();
            let entries = self.copies.pop(limit, self.config.apply_bytes_max);
            if entries.is_empty() {
                break;
            }
            self.hand_over(entries);
        }
    }

    /// What this one voter committed alone and no standby is waited for, because it leads no more, is told to nobody as done:
    /// whoever wrote it hears from the next leader whether it stands.
    pub(super) fn is_disowned(&self, index: LogIndex) -> bool {
        let alone = || view::is_alone(&self.configuration, self.config.id);
        !self.is_leader() && (index.0 <= self.copies.alone_until || alone())
    }

    /// Up to where entries may be handed over.
    fn copied_up_to(&mut self) -> u64 {
        let alone = view::is_alone(&self.configuration, self.config.id);
        let front = self.copies.held.front().map(|(came, entry)| (*came, entry.index));
        let committed_alone = front.is_some_and(|(_, index)| index <= self.copies.alone_until);
        if !self.is_leader() || !(alone || committed_alone) {
            return u64::MAX;
        }
        let best = self.second_copy();
        if !self.copies.waits {
            let again = best.is_some_and(|matched| matched >= self.copies.again_at);
            if !again {
                return u64::MAX;
            }
            self.copies.waits = true;
        }
        // (One that has its copy waits for the applier.)
        let too_late = front.is_some_and(|(came, index)| {
            best.is_none_or(|best| index > best) && self.tick - came > u64::from(ELECTION_TICKS)
        });
        let (Some(best), false) = (best, too_late) else {
            self.copies.waits = false;
            self.copies.again_at = self.raw.raft.raft_log.committed;
            let standbys = self.configuration.learners.len();
            if standbys > 0 && front.is_some() {
                tracing::warn!(standbys, "no standby answers: from now on what is acknowledged is on one disk only");
            }
            return u64::MAX;
        };
        if !alone && best >= self.copies.alone_until { u64::MAX } else { best }
    }

    /// What the furthest standby has on disk, of those that can be waited for; `None` when there is none.
    fn second_copy(&self) -> Option<u64> {
        let timeout = u64::from(ELECTION_TICKS);
        let begins = self.tick - self.members.watching() <= timeout;
        let (progress, committed) = (self.raw.raft.prs(), self.raw.raft.raft_log.committed);
        let can_be_waited_for = |id: RaftId| {
            // Whether raft streams to it or probes it does not matter: a single message that is lost makes the difference.
            // A new leader does not know yet what the others have.
            let near = |matched: u64| matched > 0 && matched + self.config.caught_up_entries >= committed;
            let follows = progress.get(id.0).is_some_and(|progress| {
                progress.state != ProgressState::Snapshot && (begins || near(progress.matched))
            });
            follows && self.silent_ticks(id) <= timeout
        };
        let others = self.configuration.members().into_iter().filter(|id| *id != self.config.id);
        let matched = |id: RaftId| progress.get(id.0).map_or(0, |progress| progress.matched);
        others.filter(|id| can_be_waited_for(*id)).map(matched).max()
    }

    /// Called before a configuration entry takes effect.
    pub(super) fn note_committed_alone(&mut self) {
        if self.is_leader() && view::is_alone(&self.configuration, self.config.id) {
            self.copies.alone_until = self.raw.raft.raft_log.committed;
        }
    }

    /// Whether something that this leader has acknowledged may be on its own disk only.
    pub(super) fn is_single_copy(&self) -> bool {
        if !self.is_leader() {
            return false;
        }
        if view::is_alone(&self.configuration, self.config.id) {
            let copied = || self.second_copy().is_some_and(|matched| matched >= self.handed.0);
            return !(self.copies.waits && copied());
        }
        // There are more voters now; what was committed before has to reach one of them.
        let others = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.config.id.0);
        let matched = others.map(|(_, progress)| progress.matched).max().unwrap_or(0);
        matched < self.copies.alone_until.min(self.handed.0)
    }

    /// Proposals wait while a standby lags: else it would fall behind so far that it is no longer waited for.
    pub(super) fn copies_are_behind(&self) -> bool {
        self.copies.len() as u64 * 2 > self.config.caught_up_entries
    }
}

#[cfg(test)]
mod tests;
