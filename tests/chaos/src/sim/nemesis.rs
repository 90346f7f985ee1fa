//! The nemesis: what goes wrong, and when.
//!
//! Owns the draws of faults. Never more than the promises allow for: one store damaged for good per run. Called by the
//! world at the moments that this file schedules.

use bytes::Bytes;

use super::config::{ELECTION, MILLIS, SPACE_ENOUGH, SPACE_LOW};
use super::world::{Event, Step, World, node_id};
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Ticket;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::testing::Fault;
use quorate_core::txn::{Put, Txn};

impl World {
    /// One fault, and the time of the next.
    pub(super) fn strike(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.nemesis.between(self.config.fault_every / 5, self.config.fault_every * 9 / 5);
        self.schedule(next, Event::Nemesis);
        let draw = self.nemesis.between(0, 11);
        let target = self.somebody_unlucky();
        let Some(target) = target else { return Ok(()) };
        match draw {
            0..=2 if self.config.crashes => self.crash_somehow(target),
            3 if self.config.crashes => {
                // Between two effects of one of the next steps.
                let effects = self.nemesis.between(0, 12);
                self.doom(target, effects);
            }
            4..=6 if self.config.partitions => self.partition(target),
            7 if self.config.disk_faults => {
                self.report.disk_faults += 1;
                let fault = if self.nemesis.chance(500) { Fault::Io } else { Fault::Full };
                if let Some(member) = self.members.get(&target) {
                    member.disk.fail_next_sync(fault);
                }
            }
            8 if self.config.transfers => {
                if let Some(leader) = self.leader() {
                    let to = if self.nemesis.chance(500) { None } else { Some(target) };
                    self.hand_over(leader, to)?;
                }
            }
            9 if self.config.pauses => {
                let until = self.now + self.nemesis.between(MILLIS, 4 * ELECTION);
                if let Some(member) = self.members.get_mut(&target) {
                    member.paused_until = until;
                }
            }
            10 => {
                let factor = self.nemesis.between(2, 30);
                let until = self.now + self.nemesis.between(ELECTION / 4, 3 * ELECTION);
                self.schedule(self.now, Event::Slow { id: target, factor });
                self.schedule(until, Event::Slow { id: target, factor: 1 });
            }
            11 if self.config.replacements && !self.damaged && (!self.config.churn || self.is_whole()) => {
                self.damaged = true;
                self.replace(target)?;
            }
            _ => {}
        }
        if let Some(record) = self.unrecorded.first().cloned()
            && self.write_record(&record)?
        {
            self.unrecorded.remove(0);
        }
        Ok(())
    }

    /// A disk that does not answer, or is nearly full, for a while; and the time of the next. Draws of its own: those of
    /// the other faults stay what they were.
    pub(super) fn trouble_a_disk(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.trouble.between(self.config.fault_every, self.config.fault_every * 5);
        self.schedule(next, Event::DiskTrouble);
        let ids: Vec<RaftId> = self.members.iter().filter(|(_, m)| !m.retired).map(|(id, _)| *id).collect();
        let anybody = self.trouble.pick(&ids);
        let target = if self.trouble.chance(500) { self.leader().or(anybody) } else { anybody };
        let Some(id) = target else { return Ok(()) };
        let hangs = self.trouble.chance(500);
        let until = self.now + self.trouble.between(ELECTION, 20 * ELECTION);
        self.schedule(until, Event::DiskWell { id });
        if hangs && self.config.disk_hangs {
            self.report.disk_hangs += 1;
            self.hold_sync(id, true);
            let both = self.trouble.chance(500);
            self.hold_apply(id, both);
        } else if self.config.shortages {
            self.report.shortages += 1;
            return self.notice_space(id, SPACE_LOW - 1);
        }
        Ok(())
    }

    pub(super) fn mend_disk(&mut self, id: RaftId) -> Step {
        self.hold_sync(id, false);
        self.hold_apply(id, false);
        self.notice_space(id, SPACE_ENOUGH)
    }

    fn notice_space(&mut self, id: RaftId, free: u64) -> Step {
        self.set_space(id, free)
            .map_err(|violation| super::check::Broken { invariant: violation.invariant, detail: violation.detail })
    }

    /// The leader half of the time: most of what can go wrong goes wrong there.
    fn somebody_unlucky(&mut self) -> Option<RaftId> {
        let ids: Vec<RaftId> = self.members.iter().filter(|(_, m)| !m.retired).map(|(id, _)| *id).collect();
        match self.leader() {
            Some(leader) if self.nemesis.chance(500) => Some(leader),
            _ => self.nemesis.pick(&ids),
        }
    }

    fn crash_somehow(&mut self, target: RaftId) {
        let unsynced = self.members.get(&target).map_or(0, |member| member.disk.unsynced());
        // A killed process loses nothing, a power cut what was not synced.
        let keep = if self.nemesis.chance(300) { usize::MAX } else { self.nemesis.index(unsynced + 1) };
        self.crash(target, keep);
        let down = if self.nemesis.chance(500) { ELECTION / 4 } else { 4 * ELECTION };
        let at = self.now + self.nemesis.between(MILLIS, down);
        self.schedule(at, Event::Restart { id: target });
    }

    fn partition(&mut self, target: RaftId) {
        self.report.partitions += 1;
        let ids = self.ids();
        let mut links = Vec::new();
        let shape = self.nemesis.between(0, 4);
        for a in &ids {
            for b in &ids {
                let cut = match shape {
                    // One is alone.
                    0 => (*a == target) != (*b == target),
                    // One is mute, or deaf.
                    1 => *a == target && a != b,
                    2 => *b == target && a != b,
                    // Two sides.
                    3 => (a.0 ^ target.0) % 2 != (b.0 ^ target.0) % 2,
                    // Any link, in one direction.
                    _ => a != b && self.nemesis.chance(250),
                };
                if cut {
                    links.push((*a, *b));
                }
            }
        }
        self.cut.extend(links.iter().copied());
        self.connections_changed();
        let at = self.now + self.nemesis.between(ELECTION / 10, 5 * ELECTION);
        self.schedule(at, Event::Heal { links });
    }

    fn hand_over(&mut self, leader: RaftId, to: Option<RaftId>) -> Step {
        self.transfer(leader, to)
            .map(|_: Ticket| ())
            .map_err(|violation| super::check::Broken { invariant: violation.invariant, detail: violation.detail })
    }

    /// Asks the leader for a node record; says whether there was one to ask.
    fn write_record(&mut self, record: &NodeRecord) -> Step<bool> {
        let (Some(leader), Some(id)) = (self.leader(), record.node_id()) else { return Ok(false) };
        let txn = Txn::of(Put { key: NodeRecord::key(id), value: record.to_bytes(), ..Put::default() });
        let command: Command = CommandKind::System(txn).into();
        let asked = self.command(leader, command);
        asked
            .map(|_: Ticket| true)
            .map_err(|violation| super::check::Broken { invariant: violation.invariant, detail: violation.detail })
    }

    /// The store of `target` is damaged: its node comes back with a fresh one under a new raft id.
    fn replace(&mut self, target: RaftId) -> Step {
        if self.leader() == Some(target) || self.leader().is_none() {
            return Ok(());
        }
        let Some(node) = self.members.get(&target).map(|member| member.node) else { return Ok(()) };
        let fresh = RaftId(self.next_raft_id);
        let record = NodeRecord {
            id: Bytes::copy_from_slice(node_id(node).as_bytes()),
            name: format!("n{node}"),
            role: Role::Manager.into(),
            raft_id: fresh.0,
            replaces: target.0,
            command_version: quorate_core::command::COMMAND_VERSION,
            ..NodeRecord::default()
        };
        let record = self.with_sealing_key(record);
        self.next_raft_id += 1;
        self.crash(target, usize::MAX);
        if let Some(member) = self.members.get_mut(&target) {
            member.retired = true;
        }
        let newcomer = self.newcomer(node, fresh);
        self.members.insert(fresh, newcomer);
        self.start(fresh)?;
        // Whoever leads when the record is written takes it from here.
        self.unrecorded.retain(|waiting| waiting.id != record.id);
        self.unrecorded.insert(0, record);
        Ok(())
    }

    /// No more faults: everything works, everybody is up.
    pub(super) fn make_peace(&mut self) -> Step {
        self.faults = false;
        self.doom = None;
        self.config.loss = 0;
        self.config.duplicates = 0;
        self.config.snapshot_failures = 0;
        // Impatient clients whose every retry is one more entry could keep the slowest settings behind for ever.
        self.config.patience = 10 * ELECTION;
        self.cut.clear();
        let ids = self.ids();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.paused_until = 0;
                member.slow = 1;
                // Ordered for a sync that has not come yet: after peace it would be a fault.
                member.disk.fail_no_more();
            }
            if self.config.upgrades {
                self.reinstall(id, super::upgrades::NEW).map_err(|violation| super::check::Broken {
                    invariant: violation.invariant,
                    detail: violation.detail,
                })?;
            }
            self.start(id)?;
        }
        let ids: Vec<RaftId> = self.ids();
        for id in ids {
            self.mend_disk(id)?;
        }
        self.connections_changed();
        Ok(())
    }
}
