//! A disk that does not answer, and one that is nearly full: what this member may still do.
//!
//! Owns the clock of unanswered work, the marks of free space, and what follows from both: such a member neither
//! campaigns nor votes, hands leadership to a voter that can write, and goes on by itself when it can write again. Never
//! touches a disk: the reports of the log writer and the applier, and the driver's looks at the free space, are inputs.
//!
//! A disk that has nothing to do is given the hard state that it has already now and then, so that one that hangs is noticed before
//! something is to be written: a sync alone may never leave the kernel. The log stays as it is, and nothing waits for such a
//! probe, so that on a disk that is only slow an idle cluster is as quick as ever.
//!
//! A failed write is final and somebody else's business; here nothing has failed. A sync that does not return is counted
//! in ticks, from the last sign of life: of those that a process slept through only a few count, so that it blames no disk
//! for its own sleep. Nothing is said by a follower before what it wrote is on disk, so a voter that is heard has a disk that answers. Whoever is
//! low on space tells the leader with every heartbeat answer, in a field that raft leaves unused there.

use std::collections::BTreeSet;

use raft::eraftpb::{self, MessageType};

use super::Consensus;
use super::config::{DISK_PATIENCE_TICKS_MIN, ELECTION_TICKS};
use super::io::{Answer, Effect, Rejection};
use super::pace::Rescale;
use crate::id::RaftId;
use crate::log::HardState;
use crate::membership::quorum::Quorum;
use crate::mutants::{Mutant, on};
use crate::ports::LogBatch;

/// Stands in the priority of a heartbeat answer, where raft itself writes and reads nothing: no entries, please.
const LOW_ON_SPACE: i64 = -1;
/// Ticks between two attempts of a leader low on space to hand leadership over.
const OFFER_EVERY_TICKS: u64 = 2 * ELECTION_TICKS as u64;

/// What is known of the disks.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// The tick since which the log writer has had work and not reported.
    log_since: Option<u64>,
    /// The same of the applier, which installs snapshots too.
    apply_since: Option<u64>,
    /// The tick of the log writer's last report,
    answered: u64,
    /// and the number that it told.
    reached: u64,
    /// What it was given last: written once more, it changes nothing.
    written: HardState,
    /// It was given that once more, and has not said that it is done.
    probing: bool,
    stalled: bool,
    /// Free bytes, while they are too few.
    low: Option<u64>,
    /// On the leader: who said that it is low on space.
    others_low: BTreeSet<RaftId>,
    next_offer: u64,
}

impl Disk {
    /// One on which this is written.
    pub(super) fn with(written: HardState) -> Self {
        Self { written, ..Self::default() }
    }

    /// Another leader, or none: whoever is low on space tells the next one.
    pub(super) fn leadership_changed(&mut self) {
        self.others_low.clear();
        self.next_offer = 0;
    }

    /// Silence that was counted in ticks of another length.
    pub(super) fn rescale(&mut self, to: Rescale) {
        self.log_since = self.log_since.map(|since| to.past(since));
        self.apply_since = self.apply_since.map(|since| to.past(since));
        self.answered = to.past(self.answered);
    }

    pub(super) const fn low_space(&self) -> Option<u64> {
        self.low
    }

    /// This is on its way to the log writer.
    pub(super) fn note_written(&mut self, batch: &LogBatch) {
        self.written = batch.hard_state.unwrap_or(self.written);
    }

    /// A snapshot is on its way, and this with it.
    pub(super) const fn note_installed(&mut self, hard_state: HardState) {
        self.written = hard_state;
    }

    /// Whether the log writer is at a probe.
    pub(super) const fn is_probed(&self) -> bool {
        self.probing
    }

    fn silent_ticks(&self, tick: u64) -> u64 {
        [self.log_since, self.apply_since].into_iter().flatten().min().map_or(0, |since| tick - since)
    }
}

impl Consensus {
    /// Ticks for which the disk has not answered, once they are too many; else 0.
    pub(super) fn disk_silent_ticks(&self) -> u64 {
        if self.disk.stalled { self.disk.silent_ticks(self.tick) } else { 0 }
    }

    /// Whether this member may append, vote and lead, as far as its disk goes.
    pub(super) const fn may_write(&self) -> bool {
        !self.disk.stalled && self.disk.low.is_none()
    }

    /// Whether `id` has said that it takes no entries.
    pub(super) fn is_low_on_space(&self, id: RaftId) -> bool {
        if id == self.config.id { self.disk.low.is_some() } else { self.disk.others_low.contains(&id) }
    }

    /// Why a leader appends nothing now: it is low on space itself, or so many voters are that nothing would commit.
    pub(super) fn read_only(&self) -> Option<Rejection> {
        let alone = self.disk.low.is_some();
        if !alone && self.disk.others_low.is_empty() {
            return None;
        }
        let mut low = self.configuration.all_voters();
        low.retain(|id| self.is_low_on_space(*id));
        let commits = Quorum::of(&self.configuration).is_alive(|id| !self.is_low_on_space(id));
        (alone || !commits).then_some(Rejection::ReadOnly { low })
    }

    /// Counts how long the disk has been silent.
    pub(super) fn tick_disk(&mut self) {
        self.probe_disk();
        let count = |since: Option<u64>, waits: bool| if waits { since.or(Some(self.tick)) } else { None };
        self.disk.log_since = count(self.disk.log_since, self.disk.probing || !self.unpersisted.is_empty());
        let applies = !self.backlog.is_empty() || self.installing.is_some();
        self.disk.apply_since = count(self.disk.apply_since, applies);
        self.judge_disk();
    }

    /// Asks a disk that has had nothing to do whether it is there. Not while a snapshot is about to replace the log and with it what
    /// is written, and not without space: a write that fails for want of it is final.
    fn probe_disk(&mut self) {
        let busy = self.disk.probing || !self.unpersisted.is_empty() || self.installing.is_some();
        let every = self.config.disk_probe_nanos.div_ceil(self.tick_nanos().max(1));
        if !busy && self.disk.low.is_none() && self.tick - self.disk.answered >= every {
            self.disk.probing = true;
            let batch = LogBatch { hard_state: Some(self.disk.written), ..LogBatch::default() };
            self.effects.push(Effect::Persist { number: self.disk.reached, batch });
        }
    }

    pub(super) fn log_answered(&mut self, number: u64) {
        self.disk.probing = false;
        self.disk.answered = self.tick;
        self.disk.reached = self.disk.reached.max(number);
        self.disk.log_since = None;
        self.judge_disk();
    }

    pub(super) fn applier_answered(&mut self) {
        self.disk.apply_since = None;
        self.judge_disk();
    }

    fn judge_disk(&mut self) {
        let silent = self.disk.silent_ticks(self.tick);
        let patience = self.config.disk_patience_nanos.div_ceil(self.tick_nanos().max(1));
        let stalled = silent >= patience.max(DISK_PATIENCE_TICKS_MIN) && !on(Mutant::StuckDiskLeads);
        if stalled != std::mem::replace(&mut self.disk.stalled, stalled) {
            if stalled {
                tracing::warn!(
                    ticks = silent,
                    "the disk does not answer: this manager neither leads nor votes until it does"
                );
            } else {
                tracing::info!("the disk answers again");
            }
        }
    }

    /// The driver has looked at the free space.
    pub(super) fn on_space(&mut self, free: u64) {
        let before = self.disk.low;
        let enough = free >= if before.is_some() { self.config.space_enough } else { self.config.space_low };
        self.disk.low = if enough { None } else { Some(free) };
        match (before, self.disk.low) {
            (None, Some(_)) => tracing::warn!(
                free,
                needed = self.config.space_enough,
                "low on disk space: this manager appends nothing and neither leads nor votes until there is space again"
            ),
            (Some(_), None) => tracing::info!(free, "there is disk space again: this manager appends and votes"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.make_room();
    }

    /// Leadership is of no use to a member that cannot write: it goes to a voter that can. Where there is none, a leader
    /// with a silent disk steps down, for it would let callers wait for nothing; one low on space stays, and serves reads.
    pub(super) fn make_room(&mut self) {
        if self.stopped || self.may_write() {
            return;
        }
        if !self.is_leader() {
            self.release_waiters();
            return;
        }
        if self.is_transferring() {
            return;
        }
        let successor = if self.tick >= self.disk.next_offer { self.successor() } else { None };
        if let Some(to) = successor {
            self.disk.next_offer = self.tick + OFFER_EVERY_TICKS;
            self.start_transfer(None, to);
        } else if self.disk.stalled {
            self.step_down();
        }
    }

    /// A voter that can lead, of a majority that can write without this member.
    fn successor(&self) -> Option<RaftId> {
        let able = |id: RaftId| id != self.config.id && self.is_heard(id) && !self.is_low_on_space(id);
        if Quorum::of(&self.configuration).is_alive(able) { self.furthest_voter() } else { None }
    }

    /// What waits for a silent disk may be done elsewhere: with the request id the leader of now tells.
    fn release_waiters(&mut self) {
        if self.disk.stalled && self.leader().is_some() {
            for ticket in self.waiters.all() {
                self.effects.push(Effect::Answer { ticket, answer: Answer::Unknown });
            }
        }
    }

    /// Says on the way out, and hears on the way in, who is low on space.
    pub(super) fn stamp_space(&self, message: &mut eraftpb::Message) {
        let kind = message.msg_type();
        if kind == MessageType::MsgHeartbeatResponse && self.disk.low.is_some() {
            message.priority = LOW_ON_SPACE;
        }
        // Without its entries an append still tells where the leader stands.
        if kind == MessageType::MsgAppend && self.is_low_on_space(RaftId(message.to)) {
            message.entries.clear();
        }
    }

    /// See [`stamp_space`](Self::stamp_space).
    pub(super) fn hear_of_space(&mut self, from: RaftId, message: &mut eraftpb::Message) {
        let kind = message.msg_type();
        if kind == MessageType::MsgAppend && self.disk.low.is_some() {
            message.entries.clear();
        }
        if kind == MessageType::MsgHeartbeatResponse && self.is_leader() {
            if message.priority == LOW_ON_SPACE {
                self.disk.others_low.insert(from);
            } else {
                self.disk.others_low.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests;
