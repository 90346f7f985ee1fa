//! The nemesis: crashes, partitions, disk faults, clocks, transfers, replacements, and when they strike.
//!
//! Owns the draws of faults; what they do is in `acts`. Never more than the promises allow: at most one member's store is lost
//! for good, and never the only copy. Called by the world at the moments that this file schedules.

use super::acts::Act;
use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::world::{Step, World};
use quorate_core::id::RaftId;

impl World {
    /// One fault, and the time of the next.
    pub(super) fn strike(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.nemesis.between(self.config.fault_every / 5, self.config.fault_every * 9 / 5);
        self.schedule(next, Event::Nemesis);
        let draw = self.nemesis.between(0, 11);
        let Some(target) = self.somebody_unlucky() else { return Ok(()) };
        if let Some(act) = self.draw_fault(draw, target) {
            self.perform_act(act)?;
        }
        if !self.unrecorded.is_empty() {
            self.perform_act(Act::Record)?;
        }
        Ok(())
    }

    fn draw_fault(&mut self, draw: u64, target: RaftId) -> Option<Act> {
        let id = target.0;
        Some(match draw {
            0..=2 if self.config.crashes => self.draw_crash(target),
            // Between two effects of one of the next steps.
            3 if self.config.crashes => Act::Doom { id, effects: self.nemesis.between(0, 12) },
            4..=6 if self.config.partitions => self.draw_partition(target),
            7 if self.config.disk_faults => Act::FailSync { id, full: !self.nemesis.chance(500) },
            8 if self.config.transfers => {
                self.leader()?;
                Act::Transfer { to: if self.nemesis.chance(500) { None } else { Some(id) } }
            }
            9 if self.config.pauses => Act::Pause { id, lasts: self.nemesis.between(MILLIS, 4 * ELECTION) },
            10 => {
                let factor = self.nemesis.between(2, 30);
                Act::Slow { id, factor, lasts: self.nemesis.between(ELECTION / 4, 3 * ELECTION) }
            }
            11 if self.config.replacements && !self.damaged && (!self.config.churn || self.is_whole()) => {
                Act::Replace { id }
            }
            _ => return None,
        })
    }

    /// A clock that drifts or jumps, or links that hold messages back; and the time of the next. Draws of its own.
    pub(super) fn bend_time(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.bending.between(self.config.fault_every, self.config.fault_every * 4);
        self.schedule(next, Event::Bend);
        let ids: Vec<RaftId> = self.members.iter().filter(|(_, m)| !m.retired).map(|(id, _)| *id).collect();
        let anybody = self.bending.pick(&ids);
        let target = if self.bending.chance(400) { self.leader().or(anybody) } else { anybody };
        let Some(target) = target else { return Ok(()) };
        let id = target.0;
        let act = match self.bending.between(0, 3) {
            0 if self.config.clocks => {
                let ppm = i64::try_from(self.bending.between(0, 400_000)).unwrap_or(0) - 200_000;
                Act::Drift { id, ppm }
            }
            1 if self.config.clocks => Act::Jump { id, nanos: self.bending.between(MILLIS, 30 * ELECTION) },
            2 | 3 if self.config.clogs => {
                let links = ids.iter().filter(|other| **other != target && self.bending.chance(600));
                let links: Vec<(u64, u64)> = links.map(|other| (id, other.0)).collect();
                Act::Clog { links, lasts: self.bending.between(ELECTION / 10, 4 * ELECTION) }
            }
            _ => return Ok(()),
        };
        self.perform_act(act)
    }

    /// The operator gives a majority up and founds the cluster anew from one disk; two managers join it then, so that it can lose
    /// one again.
    pub(super) fn disaster(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let newest = self.incarnations.len() - 1;
        let done = self.report.recoveries;
        if done < self.config.recoveries && (self.after_disaster == 0 || self.after_disaster > 3) {
            let of_it = |id: &RaftId| {
                self.incarnation(*id) == newest && self.members.get(id).is_some_and(|member| !member.retired)
            };
            let ids: Vec<RaftId> = self.ids().into_iter().filter(of_it).collect();
            let survivor = if self.bending.chance(300) { self.leader_of(newest) } else { None };
            if let Some(RaftId(id)) = survivor.or_else(|| self.bending.pick(&ids)) {
                self.after_disaster = 0;
                let alive = self.bending.chance(400);
                self.perform_act(Act::Recover { id, alive })?;
            }
        } else {
            self.perform_act(Act::AddManager)?;
        }
        self.after_disaster += 1;
        let next = self.now + self.bending.between(2 * ELECTION, 6 * ELECTION);
        if self.after_disaster < 3 || self.report.recoveries < self.config.recoveries {
            self.schedule(next, Event::Disaster);
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
        let Some(RaftId(id)) = target else { return Ok(()) };
        let hangs = self.trouble.chance(500);
        let lasts = self.trouble.between(ELECTION, 20 * ELECTION);
        if hangs && self.config.disk_hangs {
            let apply = self.trouble.chance(500);
            return self.perform_act(Act::Hang { id, apply, lasts });
        }
        if self.config.shortages {
            return self.perform_act(Act::Shortage { id, lasts });
        }
        Ok(())
    }

    /// The leader half of the time: most of what can go wrong goes wrong there.
    fn somebody_unlucky(&mut self) -> Option<RaftId> {
        let ids: Vec<RaftId> = self.members.iter().filter(|(_, m)| !m.retired).map(|(id, _)| *id).collect();
        match self.leader() {
            Some(leader) if self.nemesis.chance(500) => Some(leader),
            _ => self.nemesis.pick(&ids),
        }
    }

    fn draw_crash(&mut self, target: RaftId) -> Act {
        let unsynced = self.members.get(&target).map_or(0, |member| member.disk.unsynced());
        // A killed process loses nothing, a power cut what was not synced.
        let keep = if self.nemesis.chance(300) { None } else { Some(self.nemesis.index(unsynced + 1) as u64) };
        let down = if self.nemesis.chance(500) { ELECTION / 4 } else { 4 * ELECTION };
        Act::Crash { id: target.0, keep, down: Some(self.nemesis.between(MILLIS, down)) }
    }

    fn draw_partition(&mut self, target: RaftId) -> Act {
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
                    links.push((a.0, b.0));
                }
            }
        }
        Act::Cut { links, lasts: self.nemesis.between(ELECTION / 10, 5 * ELECTION) }
    }

    /// No more faults: everything works, everybody is up.
    pub(super) fn make_peace(&mut self) -> Step {
        self.faults = false;
        self.core = None;
        self.clogged.clear();
        self.doom = None;
        self.config.loss = 0;
        self.config.duplicates = 0;
        self.config.snapshot_failures = 0;
        self.config.snapshot_byte = 20;
        // Impatient clients whose every retry is one more entry could keep the slowest settings behind for ever.
        self.config.patience = 10 * ELECTION;
        self.cut.clear();
        self.look_for_rot()?;
        let ids = self.ids();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.paused_until = 0;
                member.slow = 1;
                // Ordered for a sync that has not come yet: after peace it would be a fault.
                member.disk.fail_no_more();
            }
            if self.config.upgrades {
                self.reinstall(id, super::upgrades::NEW).map_err(|violation| violation.broken())?;
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
