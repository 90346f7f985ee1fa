//! Performs what a member's machine wants done, and feeds it what came of it.
//!
//! Owns the way of every effect: a member can die between any two of them. How a process begins and ends is in `life`, what takes
//! time in `disk` and `stream`. Called by the world.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::asks::Reply;
use super::check::broken;
use super::config::MILLIS;
use super::event::Event;
use super::life::words;
use super::member::{Job, Process};
use super::world::{Step, World};
use quorate_core::consensus::io::{Answer, Effect, Input, Nanos, RaftRole, Status, Ticket};
use quorate_core::id::RaftId;
use quorate_core::log::EntryKind;
use quorate_core::ports::{LogBatch, StoreError};

impl World {
    pub(super) fn is_current(&self, id: RaftId, boot: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.boot == boot && member.process.is_some())
    }

    pub(super) fn process(&mut self, id: RaftId) -> Option<&mut Process> {
        self.members.get_mut(&id)?.process.as_mut()
    }

    /// Gives inputs to a member and performs what it wants done.
    pub(super) fn input(&mut self, id: RaftId, inputs: impl IntoIterator<Item = Input>) -> Step {
        let now = self.now;
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let local = Nanos(member.clock(now));
        let (boot, incarnation) = (member.boot, member.incarnation);
        let Some(process) = &mut member.process else { return Ok(()) };
        if let Some(checks) = self.checks.get_mut(incarnation) {
            checks.steps(id, local.0);
        }
        let stepped = catch_unwind(AssertUnwindSafe(|| process.consensus.step(local, inputs)));
        match stepped {
            Ok(effects) => self.perform_all(id, boot, effects),
            Err(panic) => broken("no_panic", format!("{id}: {}", words(&*panic))),
        }
    }

    fn perform_all(&mut self, id: RaftId, boot: u64, effects: Vec<Effect>) -> Step {
        for effect in effects {
            if self.meets_its_doom(id) {
                let unsynced = self.members.get(&id).map_or(0, |member| member.disk.unsynced());
                let keep = self.kept(id, unsynced);
                self.crash(id, keep);
                let at = self.now + self.disk_takes(id, MILLIS, 2000 * MILLIS);
                if self.config.fault_every > 0 {
                    self.schedule(at, Event::Restart { id });
                }
            }
            if !self.is_current(id, boot) {
                return Ok(());
            }
            self.perform(id, boot, effect)?;
        }
        Ok(())
    }

    /// How many of so many unsynced batches a power cut leaves.
    pub(super) fn kept(&mut self, id: RaftId, unsynced: usize) -> usize {
        self.members.get_mut(&id).map_or(0, |member| member.disk_rng.index(unsynced + 1))
    }

    /// Whether the network loses what is sent now.
    pub(super) fn loses(&mut self, from: RaftId, to: RaftId) -> bool {
        let loss = self.config.loss;
        self.link(from, to).chance(loss)
    }

    fn meets_its_doom(&mut self, id: RaftId) -> bool {
        let Some(doom) = self.doom.as_mut().filter(|doom| doom.id == id) else { return false };
        if doom.effects > 0 {
            doom.effects -= 1;
            return false;
        }
        self.doom = None;
        true
    }

    fn perform(&mut self, id: RaftId, boot: u64, effect: Effect) -> Step {
        match effect {
            Effect::Send { to, lane, body } => {
                self.checks_of(id).sends(id, &body)?;
                self.trace.bytes(&body);
                self.trace.line(self.now, || format!("{id} -> {to} {}", super::network::kind(&body)));
                self.send(id, to, lane, body);
            }
            Effect::Persist { number, batch } => {
                self.trace.line(self.now, || {
                    format!(
                        "{id} persists {number}: {:?} {:?} {:?}",
                        batch.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect::<Vec<_>>(),
                        batch.hard_state.map(|hard| (hard.term.0, hard.vote.0, hard.commit.0)),
                        batch.cut.map(|cut| cut.index.0)
                    )
                });
                self.leaves_from_inside(id, &batch)?;
                if let Some(process) = self.process(id) {
                    process.to_write.push_back((number, batch));
                }
                self.begin_write(id)?;
            }
            Effect::Apply { entries, waiters } => {
                let span = (entries.first().map(|entry| entry.index.0), entries.last().map(|entry| entry.index.0));
                self.trace.line(self.now, || format!("{id} hands over {span:?} waiters {}", waiters.len()));
                let term = self.process(id).map_or(0, |process| process.consensus.term().0);
                for entry in &entries {
                    self.checks_of(id).committed(id, term, entry)?;
                }
                self.apply_later(id, boot, Job::Apply { entries, waiters });
            }
            Effect::Install { staged, reset } => {
                self.trace.line(self.now, || format!("{id} installs {}", reset.start.index));
                let busy = self.process(id).is_some_and(|process| {
                    !process.to_write.is_empty() || !process.writing.is_empty() || process.applying
                });
                if busy {
                    return broken("both_threads_drain_first", format!("{id} installs while something is written"));
                }
                self.apply_later(id, boot, Job::Install { staged, reset });
            }
            Effect::Discard(staged) => {
                self.report.snapshots_refused += 1;
                self.trace.line(self.now, || format!("{id} discards a snapshot"));
                let Some(process) = self.process(id) else { return Ok(()) };
                process.staged = false;
                match process.staging.discard(staged) {
                    Ok(()) => {}
                    Err(error @ (StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Poisoned(_))) => {
                        return self.input(id, [Input::StoreFailed(error)]);
                    }
                    Err(error) => return broken("staged_is_discarded", error.to_string()),
                }
            }
            Effect::BuildSnapshot { .. } => self.apply_later(id, boot, Job::Build),
            Effect::SendSnapshot { to, message, view } => self.stream(id, boot, to, message, view)?,
            Effect::DropSnapshot { view } => {
                if let Some(process) = self.process(id) {
                    process.views.remove(&view);
                }
            }
            Effect::Fetch { number, from, to, max_bytes } => {
                self.report.fetches += 1;
                self.trace.line(self.now, || format!("{id} fetches {from}..{to}"));
                let Some(process) = self.process(id) else { return Ok(()) };
                let entries = match process.log_reader.entries(from, to, max_bytes) {
                    Ok(entries) => entries,
                    Err(StoreError::NotFound { .. }) => Vec::new(),
                    Err(error) => return self.unreadable(id, "old_entries_can_be_read", error),
                };
                let at = self.now + self.disk_takes(id, 0, self.config.fetch_max);
                self.schedule(at, Event::Fetched { id, boot, number, entries });
            }
            Effect::Answer { ticket, answer } => self.answer(id, ticket, answer)?,
            Effect::Status(status) => self.publish(id, status)?,
            Effect::Stop(cause) => self.stop(id, &cause)?,
        }
        Ok(())
    }

    /// Whoever proposes to leave a joint configuration keeps a seat in it.
    fn leaves_from_inside(&self, id: RaftId, batch: &LogBatch) -> Step {
        let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) else { return Ok(()) };
        for entry in batch.entries.iter().filter(|entry| entry.kind == EntryKind::Config) {
            let status = process.consensus.status();
            let proposes = status.role == Some(RaftRole::Leader) && status.term == entry.term;
            let leaves = status.configuration.is_joint() && is_leave(&entry.data);
            if proposes && leaves && !status.configuration.voters.contains(&id) {
                return broken("the_leave_is_proposed_from_inside", format!("{id} in {:?}", status.configuration));
            }
        }
        Ok(())
    }

    fn publish(&mut self, id: RaftId, status: Arc<Status>) -> Step {
        let changed = self.process(id).is_some_and(|process| {
            (process.status.role, process.status.term, process.status.leader)
                != (status.role, status.term, status.leader)
                || process.status.lease.is_some() != status.lease.is_some()
                || process.status.configuration != status.configuration
        });
        if changed {
            self.trace.line(self.now, || {
                let role = status.role.map_or_else(|| "nothing".to_owned(), |role| format!("{role:?}"));
                format!(
                    "{id} is {role} term {} leader {:?} commit {} lease {:?} voters {:?} after {:?} learners {:?}",
                    status.term,
                    status.leader.map(|leader| leader.0),
                    status.commit,
                    status.lease.map(|lease| lease.until.0),
                    status.configuration.voters.iter().map(|id| id.0).collect::<Vec<_>>(),
                    status.configuration.voters_outgoing.iter().map(|id| id.0).collect::<Vec<_>>(),
                    status.configuration.learners.iter().map(|id| id.0).collect::<Vec<_>>(),
                )
            });
        }
        let now = self.now;
        self.checks_of(id).status(now, id, &status)?;
        if let Some(process) = self.process(id) {
            process.status = status;
        }
        Ok(())
    }

    fn connections(&mut self, id: RaftId) -> Step {
        let mut now: BTreeSet<RaftId> = self
            .members
            .keys()
            .copied()
            .filter(|other| *other != id && self.is_up(*other) && self.link_is_up(id, *other))
            .filter(|other| self.may_talk(self.incarnation(*other), self.incarnation(id)))
            .collect();
        if self.config.gates {
            now.retain(|other| self.greet(id, *other));
        }
        self.meet(id);
        let heard_of_all = self.members.keys().all(|other| *other == id || self.link_is_up(id, *other));
        let Some(process) = self.process(id) else { return Ok(()) };
        let before = std::mem::replace(&mut process.connected, now.clone());
        let mut inputs: Vec<Input> = now.difference(&before).copied().map(Input::PeerUp).collect();
        inputs.extend(before.difference(&now).copied().map(Input::PeerDown));
        if heard_of_all && !std::mem::replace(&mut process.asked, true) {
            inputs.push(Input::LineagesAsked);
        }
        if inputs.is_empty() {
            return Ok(());
        }
        self.input(id, inputs)
    }

    fn tick(&mut self, id: RaftId, boot: u64) -> Step {
        let now = self.now;
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let length = member.tick();
        let Some(process) = &mut member.process else { return Ok(()) };
        let ticks = now.saturating_sub(process.last_tick) / length.max(1);
        process.last_tick += ticks * length;
        let next = process.last_tick + length;
        self.schedule(next, Event::Tick { id, boot });
        self.weigh_claim(id);
        self.input(id, [Input::Tick(u32::try_from(ticks).unwrap_or(u32::MAX))])
    }

    fn answer(&mut self, id: RaftId, ticket: Ticket, answer: Answer) -> Step {
        match answer {
            Answer::Forward(to) => {
                self.report.forwarded += 1;
                let known = self.process(id).is_some_and(|process| process.tickets.remove(&ticket).is_some());
                if !known {
                    return broken("answered_once", format!("{id} forwards ticket {}", ticket.0));
                }
                if !self.cut.contains(&(id, to)) && !self.loses(id, to) {
                    let at = self.now + self.link_takes(id, to);
                    self.schedule(at, Event::Forwarded { from: id, to, ticket });
                }
                Ok(())
            }
            Answer::ReadAt { index, term } => self.settle(id, ticket, Reply::ReadAt { index, term }),
            Answer::Renewed { ttl_ms } => self.settle(id, ticket, Reply::Renewed { ttl_ms }),
            Answer::LeaseGone => self.settle(id, ticket, Reply::LeaseGone),
            Answer::LeaseTimes(left) => self.settle(id, ticket, Reply::LeaseTimes(left)),
            Answer::Transferred(to) => self.settle(id, ticket, Reply::Transferred(to)),
            Answer::Refused(rejection) => self.settle(id, ticket, Reply::Refused(rejection)),
            Answer::Unknown => self.settle(id, ticket, Reply::Unknown),
        }
    }

    /// A ticket is used up: its reply goes to whoever waits, here or at the manager that forwarded it.
    pub(super) fn settle(&mut self, id: RaftId, ticket: Ticket, reply: Reply) -> Step {
        let Some(waiting) = self.process(id).and_then(|process| process.tickets.remove(&ticket)) else {
            return broken("answered_once", format!("{id} answers ticket {} again", ticket.0));
        };
        match waiting {
            None => self.replied(id, ticket, reply),
            Some(to) => {
                if !self.cut.contains(&(id, to)) && !self.loses(id, to) {
                    let at = self.now + self.link_takes(id, to);
                    self.schedule(at, Event::Reply { from: id, to, ticket, reply });
                }
                Ok(())
            }
        }
    }

    fn forwarded(&mut self, from: RaftId, to: RaftId, ticket: Ticket) -> Step {
        if self.cut.contains(&(from, to)) {
            return Ok(());
        }
        let Some(input) = self.asks.get(&ticket).and_then(|ask| ask.forwarded(ticket)) else { return Ok(()) };
        if !self.may_talk(self.incarnation(from), self.incarnation(to)) || !self.talk(from, to) {
            return Ok(());
        }
        let Some(process) = self.process(to) else { return Ok(()) };
        process.tickets.insert(ticket, Some(from));
        self.input(to, [input])
    }

    /// Makes one event happen.
    pub(super) fn happen(&mut self, event: Event) -> Step {
        match event {
            Event::Tick { id, boot } if self.is_current(id, boot) => self.tick(id, boot),
            Event::Deliver { from, to, body, incarnation }
                if !self.cut.contains(&(from, to))
                    && self.may_talk(self.incarnation(to), incarnation)
                    && self.talk(from, to) =>
            {
                self.input(to, [Input::Message { from, body }])
            }
            Event::Snapshot { from, to, boot, message, chunks, breaks } => {
                self.receive(from, to, boot, message, &chunks, breaks)
            }
            Event::Staged { from, to, boot, message, staged } if self.is_current(to, boot) => {
                self.trace.line(self.now, || format!("{to} has staged a snapshot of {from}"));
                self.input(to, [Input::Staged { from, message, staged }])
            }
            Event::SnapshotReport { at, boot, to, delivered } if self.is_current(at, boot) => {
                self.input(at, [Input::SnapshotSent { to, delivered }])
            }
            Event::Synced { id, boot } if self.is_current(id, boot) => self.synced(id),
            Event::Applied { id, boot } if self.is_current(id, boot) => self.applied(id, boot),
            Event::Fetched { id, boot, number, entries } if self.is_current(id, boot) => {
                self.input(id, [Input::Fetched { number, entries }])
            }
            Event::Connections { id, boot } if self.is_current(id, boot) => self.connections(id),
            Event::Unreachable { id, boot, to } if self.is_current(id, boot) => {
                self.input(id, [Input::Unreachable(to)])
            }
            Event::Restart { id } if self.core.as_ref().is_some_and(|core| !core.contains(&id)) => Ok(()),
            Event::Restart { id } => self.start(id),
            Event::Forwarded { from, to, ticket } => self.forwarded(from, to, ticket),
            Event::Reply { from, to, ticket, reply }
                if self.is_up(to)
                    && !self.cut.contains(&(from, to))
                    && self.may_talk(self.incarnation(from), self.incarnation(to))
                    && self.talk(from, to) =>
            {
                self.replied(to, ticket, reply)
            }
            Event::Timeout { ticket } => self.timed_out(ticket),
            Event::Client { client, slot } => self.client(client, slot),
            Event::Holder { holder } => self.holder(holder),
            Event::Register { index } => self.register(index),
            Event::Agent { index } => self.agent_looks(index),
            Event::Tells { id, boot } if self.is_current(id, boot) => self.tells(id, boot),
            Event::Told { from, to, boot, report }
                if !self.cut.contains(&(from, to)) && self.may_talk(self.incarnation(from), self.incarnation(to)) =>
            {
                self.told(from, to, boot, *report)
            }
            Event::Noted { id, boot, serial, noted } if self.is_current(id, boot) => {
                self.noted(id, boot, serial, noted);
                Ok(())
            }
            Event::Judges { id, boot } if self.is_current(id, boot) => self.judges(id, boot),
            Event::Door { id, boot } if self.is_current(id, boot) => self.at_the_door(id, boot),
            Event::Asks { id, boot } => self.asks_what_it_is(id, boot),
            Event::Liar => self.somebody_lies(),
            Event::Nemesis => self.strike(),
            Event::DiskTrouble => self.trouble_a_disk(),
            Event::Rot => self.rot_somewhere(),
            Event::DiskWell { id } => self.mend_disk(id),
            Event::Churn => self.churn_somehow(),
            Event::Workers => self.workers_look(),
            Event::Watcher { index } => self.watcher_looks(index),
            Event::Scribble => self.scribble(),
            Event::Controllers => self.controllers_step(),
            Event::Care => self.care_for_keys(),
            Event::Seal => self.seal_something(),
            Event::Upgrade => self.upgrade_somehow(),
            Event::Bend => self.bend_time(),
            Event::Disaster => self.disaster(),
            Event::Scripted { index } => self.scripted(index),
            // In the liveness phase nothing heals any more.
            Event::Heal { .. } if self.core.is_some() => Ok(()),
            Event::Heal { links } => {
                for link in links {
                    self.cut.remove(&link);
                }
                self.connections_changed();
                Ok(())
            }
            Event::Slow { id, factor } => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.slow = factor;
                }
                Ok(())
            }
            // For a process that is no more, or over a link that is cut.
            Event::Tick { .. }
            | Event::Deliver { .. }
            | Event::Staged { .. }
            | Event::SnapshotReport { .. }
            | Event::Synced { .. }
            | Event::Applied { .. }
            | Event::Fetched { .. }
            | Event::Connections { .. }
            | Event::Unreachable { .. }
            | Event::Tells { .. }
            | Event::Told { .. }
            | Event::Noted { .. }
            | Event::Judges { .. }
            | Event::Door { .. }
            | Event::Reply { .. } => Ok(()),
        }
    }
}

fn is_leave(data: &[u8]) -> bool {
    use prost011::Message as _;
    raft::eraftpb::ConfChangeV2::decode(data).is_ok_and(|change| change.changes.is_empty())
}
