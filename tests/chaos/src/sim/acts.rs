//! What is done to a cluster: every fault and every wish, as a value.
//!
//! Owns the list of acts and how each is performed. Whoever draws (the nemesis, the churn) decides on an act and hands it over
//! here; here it is written down with its time. So a run can be repeated from the list of its acts alone, without those that
//! do not matter ([`crate::shrink`]), and a named scenario is such a list. Never draws. Called by the world.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::{SPACE_ENOUGH, SPACE_LOW};
use super::event::Event;
use super::world::{Run, Step, World};
use quorate_core::consensus::io::Ticket;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{LABEL_LEADER, LABEL_ZONE};
use quorate_core::membership::wish::Wish;
use quorate_core::testing::Fault;

/// One thing that is done. Members are named by raft id, times are nanoseconds of virtual time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it; units are above")]
pub enum Act {
    /// The power of `id` goes: so many unsynced batches survive, all of them where it says nothing. It is started again after
    /// `down`; never, where it says nothing.
    Crash { id: u64, keep: Option<u64>, down: Option<u64> },
    /// It dies after so many more effects, and loses some of what is not synced.
    Doom { id: u64, effects: u64 },
    /// Links are cut, each in one direction, and heal again after a while.
    Cut { links: Vec<(u64, u64)>, lasts: u64 },
    /// Messages on these links wait, and all come at once after a while.
    Clog { links: Vec<(u64, u64)>, lasts: u64 },
    /// The next log sync fails.
    FailSync { id: u64, full: bool },
    /// The leader of that moment hands over, to whom it is said or to whom it likes.
    Transfer { to: Option<u64> },
    /// The process sleeps.
    Pause { id: u64, lasts: u64 },
    /// Syncs take so many times as long.
    Slow { id: u64, factor: u64, lasts: u64 },
    /// Its store is damaged: its node comes back with an empty one, under a new raft id.
    Replace { id: u64 },
    /// A bit turns in one of its synced records: of the log, or else among what users have written.
    Rot { id: u64, log: bool, nth: u64 },
    /// The next node record that is still missing is written.
    Record,
    /// Syncs begin and do not end; with `apply` the applier hangs too.
    Hang { id: u64, apply: bool, lasts: u64 },
    /// There is hardly any space.
    Shortage { id: u64, lasts: u64 },
    /// Its monotonic clock runs from now on by so many parts per million too fast.
    Drift { id: u64, ppm: i64 },
    /// Its monotonic clock jumps forward.
    Jump { id: u64, nanos: u64 },
    /// A manager joins.
    AddManager,
    /// A worker joins.
    AddWorker { eligible: bool },
    /// A worker is to be a manager.
    Promote { node: u64 },
    /// A manager is to be none, or no node at all.
    Wish { id: u64, remove: bool, forced: bool },
    /// The policy allows so many voters.
    MaxVoters { max: u32 },
    /// It is away for so long.
    Away { id: u64, lasts: u64 },
    /// It is lost for good.
    Destroy { id: u64 },
    /// Labels of its node.
    Label { id: u64, zone: String, leader: bool },
    /// It says that it will be away.
    Hold { id: u64, millis: u64 },
    /// Its binary is replaced.
    Reinstall { id: u64, knows: u32, down: u64 },
    /// The operator says that the upgrade is finished.
    Finish,
    /// Something that only the newer version knows is proposed.
    Note { at: u64 },
    /// The operator gives the others up: they are lost, all of them, and `id` is recovered from its disk and founds the cluster
    /// anew. Their processes run on where `alive`.
    Recover { id: u64, alive: bool },
}

impl Act {
    /// Its name in lists of marks.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Doom { .. } => "doom",
            Self::Cut { .. } => "cut",
            Self::Clog { .. } => "clog",
            Self::FailSync { .. } => "fail_sync",
            Self::Transfer { .. } => "transfer",
            Self::Pause { .. } => "pause",
            Self::Slow { .. } => "slow",
            Self::Replace { .. } => "replace",
            Self::Rot { .. } => "rot",
            Self::Record => "record",
            Self::Hang { .. } => "hang",
            Self::Shortage { .. } => "shortage",
            Self::Drift { .. } => "drift",
            Self::Jump { .. } => "jump",
            Self::AddManager => "add_manager",
            Self::AddWorker { .. } => "add_worker",
            Self::Promote { .. } => "promote",
            Self::Wish { .. } => "wish",
            Self::MaxVoters { .. } => "max_voters",
            Self::Away { .. } => "away",
            Self::Destroy { .. } => "destroy",
            Self::Label { .. } => "label",
            Self::Hold { .. } => "hold",
            Self::Reinstall { .. } => "reinstall",
            Self::Finish => "finish",
            Self::Note { .. } => "note",
            Self::Recover { .. } => "recover",
        }
    }
}

/// An act and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Nanoseconds of virtual time.
    pub at: u64,
    /// What.
    pub act: Act,
}

impl World {
    /// Writes an act down and performs it.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn act(&mut self, act: Act) -> Run {
        let done = self.perform_act(act);
        done.map_err(|broken| self.violation(broken))
    }

    /// The acts of this run so far, in order.
    pub fn acts(&self) -> &[Timed] {
        &self.acts
    }

    pub(super) fn perform_act(&mut self, act: Act) -> Step {
        self.trace.line(self.now, || format!("fault: {act:?}"));
        self.acts.push(Timed { at: self.now, act: act.clone() });
        self.mark_act(&act);
        let plain = |done: Run| done.map_err(|violation| violation.broken());
        match act {
            Act::Crash { id, keep, down } => {
                let keep = keep.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
                self.crash(RaftId(id), keep);
                if let Some(down) = down {
                    self.schedule(self.now + down, Event::Restart { id: RaftId(id) });
                }
            }
            Act::Doom { id, effects } => self.doom(RaftId(id), effects),
            Act::Cut { links, lasts } => {
                self.report.partitions += 1;
                let links: Vec<(RaftId, RaftId)> = links.iter().map(|(a, b)| (RaftId(*a), RaftId(*b))).collect();
                self.cut.extend(links.iter().copied());
                self.connections_changed();
                self.schedule(self.now + lasts, Event::Heal { links });
            }
            Act::Clog { links, lasts } => {
                let until = self.now + lasts;
                self.clogged.extend(links.iter().map(|(a, b)| ((RaftId(*a), RaftId(*b)), until)));
            }
            Act::FailSync { id, full } => {
                self.report.disk_faults += 1;
                if let Some(member) = self.members.get(&RaftId(id)) {
                    member.disk.fail_next_sync(if full { Fault::Full } else { Fault::Io });
                }
            }
            Act::Transfer { to } => {
                if let Some(leader) = self.leader() {
                    return plain(self.transfer(leader, to.map(RaftId)).map(|_: Ticket| ()));
                }
            }
            Act::Pause { id, lasts } => {
                self.report.pauses += 1;
                self.pause(RaftId(id), lasts);
            }
            Act::Slow { id, factor, lasts } => {
                self.schedule(self.now, Event::Slow { id: RaftId(id), factor });
                self.schedule(self.now + lasts, Event::Slow { id: RaftId(id), factor: 1 });
            }
            Act::Replace { id } => {
                self.damaged = true;
                return self.replace(RaftId(id));
            }
            Act::Rot { id, log, nth } => self.rot(RaftId(id), log, nth),
            Act::Record => return plain(self.record_somebody()),
            Act::Hang { id, apply, lasts } => {
                self.report.disk_hangs += 1;
                self.schedule(self.now + lasts, Event::DiskWell { id: RaftId(id) });
                self.hold_sync(RaftId(id), true);
                self.hold_apply(RaftId(id), apply);
            }
            Act::Shortage { id, lasts } => {
                self.report.shortages += 1;
                self.schedule(self.now + lasts, Event::DiskWell { id: RaftId(id) });
                return self.notice_space(RaftId(id), SPACE_LOW - 1);
            }
            Act::Drift { id, ppm } => self.change_clock(RaftId(id), ppm, 0),
            Act::Jump { id, nanos } => {
                let ppm = self.members.get(&RaftId(id)).map_or(0, |member| member.clock.ppm());
                self.change_clock(RaftId(id), ppm, nanos);
            }
            Act::AddManager if self.incarnations.len() > 1 => {
                let newest = self.incarnations.len() - 1;
                let fresh = self.leader_of(newest).and_then(|leader| Some((leader, self.records(leader)?)));
                // An id is given out once: the request before may still be on its way.
                if let Some((leader, records)) = fresh
                    && !self.members.contains_key(&RaftId(records.cluster.next_raft_id))
                {
                    return plain(self.join(leader).map(|_| ()));
                }
            }
            Act::AddManager => return plain(self.add_manager().map(|_: RaftId| ())),
            Act::AddWorker { eligible } => return plain(self.add_worker(eligible).map(|_: u64| ())),
            Act::Promote { node } => return plain(self.promote(node).map(|_| ())),
            Act::Wish { id, remove, forced } => return plain(self.wish(RaftId(id), remove, forced)),
            Act::MaxVoters { max } => return plain(self.edit_cluster(|cluster| cluster.max_voters = max).map(|_| ())),
            Act::Away { id, lasts } => {
                self.crash(RaftId(id), usize::MAX);
                self.schedule(self.now + lasts, Event::Restart { id: RaftId(id) });
            }
            Act::Destroy { id } => {
                self.report.killed += 1;
                self.destroy(RaftId(id));
            }
            Act::Label { id, zone, leader } => {
                if let Some(node) = self.node_of(RaftId(id)) {
                    let leader = leader.then(|| LABEL_LEADER.1.to_owned());
                    let labelled = self.edit(node, |record| {
                        record.set_label(LABEL_ZONE, Some(zone));
                        record.set_label(LABEL_LEADER.0, leader);
                    });
                    return plain(labelled.map(|_| ()));
                }
            }
            Act::Hold { id, millis } => {
                if let Some(node) = self.node_of(RaftId(id)) {
                    let held = self.edit(node, |record| {
                        (record.hold_ms, record.hold_serial) = (millis, record.hold_serial + 1);
                    });
                    return plain(held.map(|_| ()));
                }
            }
            Act::Reinstall { id, knows, down } => {
                self.announce().map_err(|violation| violation.broken())?;
                self.report.reinstalled += 1;
                self.crash(RaftId(id), usize::MAX);
                self.replace_binary(RaftId(id), knows);
                self.schedule(self.now + down, Event::Restart { id: RaftId(id) });
            }
            Act::Finish => {
                self.announce().map_err(|violation| violation.broken())?;
                return match self.finish_upgrade() {
                    Ok(done) => {
                        self.report.finishes_refused += u64::from(done.is_err());
                        Ok(())
                    }
                    Err(violation) => Err(violation.broken()),
                };
            }
            Act::Note { at } => {
                self.announce().map_err(|violation| violation.broken())?;
                if self.is_up(RaftId(at)) {
                    return plain(self.note(RaftId(at), "noted").map(|_: Ticket| ()));
                }
            }
            Act::Recover { id, alive } => return self.found_anew(RaftId(id), alive),
        }
        Ok(())
    }

    /// As an operator does it: what is refused is not written.
    fn wish(&mut self, target: RaftId, remove: bool, forced: bool) -> Run {
        let wish = if remove { Wish::Remove { forced } } else { Wish::Demote { forced } };
        if self.may(target, wish).is_err() {
            self.report.wishes_refused += 1;
            return Ok(());
        }
        self.report.wishes += 1;
        let asked = if remove { self.remove(target, forced) } else { self.demote(target, forced) };
        asked.map(|_| ())
    }

    pub(super) fn mend_disk(&mut self, id: RaftId) -> Step {
        self.hold_sync(id, false);
        self.hold_apply(id, false);
        self.notice_space(id, SPACE_ENOUGH)
    }

    fn notice_space(&mut self, id: RaftId, free: u64) -> Step {
        self.set_space(id, free).map_err(|violation| violation.broken())
    }

    /// From now on the clock of `id` runs so fast, after it has jumped.
    fn change_clock(&mut self, id: RaftId, ppm: i64, jump: u64) {
        let now = self.now;
        // Whoever slept or jumped may hold a lease for longer than it counts: only the token is exclusive then.
        self.checks.iter_mut().for_each(|checks| checks.exact_clocks = false);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.clock.change(now, ppm, jump);
        if let Some(process) = &mut member.process {
            // Its ticker has jumped with it.
            process.last_tick = process.last_tick.saturating_sub(jump);
        }
    }

    /// Force-new-cluster: see [`Act::Recover`].
    fn found_anew(&mut self, id: RaftId, alive: bool) -> Step {
        let newest = self.incarnations.len() - 1;
        if self.incarnation(id) != newest || self.members.get(&id).is_none_or(|member| member.retired) {
            return Ok(());
        }
        self.crash(id, usize::MAX);
        if let Some(member) = self.members.get(&id) {
            // The operator tries until it is written.
            member.disk.fail_no_more();
        }
        let recovered = self.recover(id).map_err(|violation| violation.broken())?;
        if matches!(recovered, super::Recovering::Written { .. }) {
            self.report.recoveries += 1;
            let others: BTreeSet<RaftId> = self.ids().into_iter().filter(|other| *other != id).collect();
            for other in others.into_iter().filter(|_| !alive) {
                self.destroy(other);
            }
            // Whoever was asked to join before is no member of this one.
            self.unrecorded.clear();
        }
        self.start(id)
    }
}
