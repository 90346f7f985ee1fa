//! A disk that does not answer, and one that is nearly full: what this member may still do.
//!
//! Owns the clock of unanswered work, the marks of free space, and what follows from both: such a member neither
//! campaigns nor votes, hands leadership to a voter that can write, and goes on by itself when it can write again. Never
//! touches a disk: the reports of the log writer and the applier, and the driver's looks at the free space, are inputs.
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
use crate::membership::quorum::Quorum;
use crate::mutants::{Mutant, on};

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
    stalled: bool,
    /// Free bytes, while they are too few.
    low: Option<u64>,
    /// On the leader: who said that it is low on space.
    others_low: BTreeSet<RaftId>,
    next_offer: u64,
}

impl Disk {
    /// Another leader, or none: whoever is low on space tells the next one.
    pub(super) fn leadership_changed(&mut self) {
        self.others_low.clear();
        self.next_offer = 0;
    }

    /// Silence that was counted in ticks of another length.
    pub(super) fn rescale(&mut self, to: Rescale) {
        self.log_since = self.log_since.map(|since| to.past(since));
        self.apply_since = self.apply_since.map(|since| to.past(since));
    }

    pub(super) const fn low_space(&self) -> Option<u64> {
        self.low
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
        let count = |since: Option<u64>, waits: bool| if waits { since.or(Some(self.tick)) } else { None };
        self.disk.log_since = count(self.disk.log_since, !self.unpersisted.is_empty());
        let applies = !self.backlog.is_empty() || self.installing.is_some();
        self.disk.apply_since = count(self.disk.apply_since, applies);
        self.judge_disk();
    }

    pub(super) fn log_answered(&mut self) {
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
