//! The life of a process: started on what a crash has left, and ended.
//!
//! Owns what a node does between opening its store and its first step, and what an operator does with a process that stopped.
//! Called by the world.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::check::broken;
use super::config::{MILLIS, SPACE_ENOUGH, SPACE_LOW};
use super::durable::DurableLog;
use super::event::Event;
use super::member::Process;
use super::recovery::FENCE;
use super::world::{Step, World};
use quorate_core::consensus::config::Config;
use quorate_core::consensus::io::{Input, Records, StopCause};
use quorate_core::consensus::{Consensus, Start};
use quorate_core::id::RaftId;
use quorate_core::ports::StoreError;
use quorate_core::state::Machine;
use quorate_core::state::contract::ApplyError;

impl World {
    /// Starts a process on the member's disk, as it is.
    pub(super) fn start(&mut self, id: RaftId) -> Step {
        let (config, seat_times) = (&self.config, self.seat_times());
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if member.process.is_some() || member.retired || member.stopped || member.outdated.is_some() {
            return Ok(());
        }
        member.boot += 1;
        let boot = member.boot;
        let opened = match member.disk.open() {
            Ok(opened) => opened,
            Err(error) => return self.does_not_start(id, &error),
        };
        if opened.meta.get(FENCE).is_ok_and(|fence| fence.is_some()) {
            // A fenced directory is not started from, over every restart.
            return Ok(());
        }
        let mut machine = match Machine::open_knowing(opened.state, member.knows) {
            Ok(machine) => machine,
            Err(ApplyError::ClusterNeedsVersion { needed, .. }) => {
                // Refused at the door.
                member.outdated = Some(needed);
                self.report.outdated += 1;
                self.trace.line(self.now, || format!("{id} is not started: it needs version {needed}"));
                return Ok(());
            }
            Err(ApplyError::Store(error)) => return self.does_not_start(id, &error),
            Err(error) => return broken("a_crash_is_survived", format!("{id} cannot open its state: {error}")),
        };
        machine.gather(true);
        let reader = machine.reader();
        let state = machine.status().clone();
        let read = Records::read(&*reader.view());
        let tail = opened.log_reader.entries(state.applied.next(), opened.boot.last.next(), u64::MAX);
        let (Ok(records), Ok(tail)) = (read, tail) else {
            return broken("a_crash_is_survived", format!("{id} cannot read its store"));
        };
        let before = member.durable.hard;
        member.durable = DurableLog { start: opened.boot.start, hard: opened.boot.hard_state, terms: BTreeMap::new() };
        let terms = member.disk.log_terms();
        let mut newest = opened.boot.start.term.0;
        for (index, term) in &terms {
            if *term < newest {
                let detail = format!("{id}: entry {index} of term {term} after one of {newest}");
                return broken("terms_never_fall_in_a_log", detail);
            }
            newest = *term;
        }
        member.durable.terms = terms.into_iter().collect();
        let incarnation = member.incarnation;
        if let Some(checks) = self.checks.get_mut(incarnation) {
            checks.newest_revision = checks.newest_revision.max(state.revision.0);
            checks.restarted(id, &before, &opened.boot.hard_state, state.applied.0)?;
        }
        let settings = Config {
            log_window_entries: config.log_window,
            cache_bytes: config.cache_bytes,
            message_bytes_max: config.message_bytes,
            inflight_messages_max: usize::try_from(config.inflight).unwrap_or(1),
            seat_times,
            caught_up_entries: 64,
            space_low: SPACE_LOW,
            space_enough: SPACE_ENOUGH,
            ..Config::new(id, member.rng.next())
        };
        let revision = state.revision.0;
        let records = Arc::new(records);
        let start = Start { boot: opened.boot, state, records: Arc::clone(&records), tail, leases: machine.leases() };
        let made = catch_unwind(AssertUnwindSafe(|| Consensus::new(settings, start)));
        let consensus = match made {
            Ok(Ok(consensus)) => consensus,
            Ok(Err(cause)) => return broken("a_crash_is_survived", format!("{id} does not start: {cause}")),
            Err(panic) => return broken("no_panic", format!("{id} at its start: {}", words(&*panic))),
        };
        let phase = member.rng.between(0, member.tick());
        let status = Arc::new(consensus.status());
        member.process = Some(Process {
            last_tick: self.now + phase,
            consensus,
            status,
            machine,
            reader,
            records,
            log: opened.log,
            log_reader: opened.log_reader,
            staging: opened.staging,
            meta: opened.meta,
            to_write: VecDeque::new(),
            writing: Vec::new(),
            to_apply: VecDeque::new(),
            applying: false,
            views: BTreeMap::new(),
            next_view: 1,
            tickets: BTreeMap::new(),
            connected: BTreeSet::new(),
            staged: false,
            asked: false,
            claim: None,
            hub: super::watchers::hub(revision),
            woken: BTreeSet::new(),
        });
        let first_tick = self.now + phase + member.tick();
        self.trace.line(self.now, || format!("{id} starts, boot {boot}"));
        self.schedule(first_tick, Event::Tick { id, boot });
        self.sessions_start(id, boot);
        self.opens_its_door(id, boot);
        self.connections_changed();
        // A node looks at its disk before it does anything else.
        self.look_at_space(id)
    }

    /// The power of `id` goes: of what it wrote and did not sync the first `keep` batches survive.
    ///
    /// # Errors
    /// `Violation` when the disk it leaves cannot be read.
    pub fn crash(&mut self, id: RaftId, keep: usize) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.process.take().is_none() {
            return;
        }
        self.report.crashes += 1;
        let keep = keep.min(member.disk.unsynced());
        self.report.lost_batches += (member.disk.unsynced() - keep) as u64;
        let share = member.torn_share(self.config.torn, self.config.seed);
        let torn = member.disk.crash_torn(keep, share);
        self.report.torn += u64::from(torn);
        member.boot += 1;
        self.checks_of(id).crashed(id);
        self.trace.line(self.now, || format!("{id} crashes, keeps {keep} unsynced batches"));
        self.read_durable(id);
        self.connections_changed();
    }

    /// What the crash left is what the disk holds.
    pub(super) fn read_durable(&mut self, id: RaftId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Ok(opened) = member.disk.open() else { return };
        member.durable.start = opened.boot.start;
        member.durable.terms = member.disk.log_terms().into_iter().collect();
    }

    /// Starts `id` again.
    ///
    /// # Errors
    /// The broken invariant, when its store does not let it start.
    pub fn restart(&mut self, id: RaftId) -> super::Run {
        self.start(id).map_err(|broken| self.violation(broken))
    }

    pub(super) fn look_at_space(&mut self, id: RaftId) -> Step {
        match self.members.get(&id).and_then(|member| member.space) {
            Some(free) => self.input(id, [Input::Space { free }]),
            None => Ok(()),
        }
    }

    pub(super) fn stop(&mut self, id: RaftId, cause: &StopCause) -> Step {
        self.trace.line(self.now, || format!("{id} stops: {cause}"));
        match cause {
            StopCause::Invariant { name, detail } => return broken(name, format!("{id} stopped itself: {detail}")),
            StopCause::RolledBack { .. } => {
                return broken("log_holds_what_it_acknowledged", format!("{id} stopped itself: {cause}"));
            }
            StopCause::Overruled { .. } => {
                return broken("committed_entries_stay", format!("{id} stopped itself: {cause}"));
            }
            StopCause::Store(StoreError::Corrupt { .. }) if self.is_rotten(id) => {
                self.crash(id, usize::MAX);
                return self.refuse(id);
            }
            StopCause::Store(_) => {
                // A failed sync: the operator starts the process again; the disk may have lost what was not synced.
                let unsynced = self.members.get(&id).map_or(0, |member| member.disk.unsynced());
                let keep = self.kept(id, unsynced);
                self.crash(id, keep);
                if self.config.fault_every > 0 {
                    let at = self.now + self.disk_takes(id, MILLIS, 2000 * MILLIS);
                    self.schedule(at, Event::Restart { id });
                } else if let Some(member) = self.members.get_mut(&id) {
                    member.stopped = true;
                }
            }
            StopCause::Apply(
                ApplyError::NeedsVersion { needed, .. } | ApplyError::ClusterNeedsVersion { needed, .. },
            ) => {
                self.crash(id, usize::MAX);
                if let Some(member) = self.members.get_mut(&id) {
                    member.outdated = Some(*needed);
                }
            }
            StopCause::Apply(ApplyError::Store(_) | ApplyError::Broken { .. }) => {
                self.crash(id, usize::MAX);
                if let Some(member) = self.members.get_mut(&id) {
                    member.stopped = true;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}
