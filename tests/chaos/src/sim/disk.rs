//! A member's log writer and applier: one job at work each, the next one takes everything that waits.
//!
//! Owns the latencies of the disk, and what is synced when. Called by the world when a job ends, and for each effect that
//! brings a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::asks::Reply;
use super::check::{Broken, broken};
use super::config::MILLIS;
use super::event::Event;
use super::member::Job;
use super::world::{Step, World};
use quorate_core::consensus::io::{Input, Records, Ticket};
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::ports::{LogReset, StagedId, StoreError, Visit};
use quorate_core::state::contract::{ApplyError, Committed, Outcome, Refusal};
use quorate_core::state::read;
use quorate_core::testing::Rng;

impl World {
    /// How long the disk of `id` takes for something, from a stream of its own.
    pub(super) fn disk_takes(&mut self, id: RaftId, low: u64, high: u64) -> u64 {
        self.members.get_mut(&id).map_or(low, |member| member.disk_rng.between(low, high))
    }

    /// How long something takes over the link from `from` to `to`, from a stream of its own.
    pub(super) fn link_takes(&mut self, from: RaftId, to: RaftId) -> u64 {
        let (low, high) = (self.config.delay_min, self.config.delay_max);
        self.link(from, to).between(low, high)
    }

    /// The stream of one directed link.
    pub(super) fn link(&mut self, from: RaftId, to: RaftId) -> &mut Rng {
        let seed = self.config.seed;
        let purpose = (3 << 56) ^ (from.0.wrapping_mul(0x1_0001) << 16) ^ to.0;
        self.links.entry((from, to)).or_insert_with(|| Rng::stream(seed, purpose))
    }

    /// The log writer takes everything that waits as one group.
    pub(super) fn begin_write(&mut self, id: RaftId) -> Step {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let (boot, hold, slow) = (member.boot, member.hold_sync, member.slow);
        let Some(process) = &mut member.process else { return Ok(()) };
        if !process.writing.is_empty() || process.to_write.is_empty() {
            return Ok(());
        }
        process.writing = process.to_write.drain(..).collect();
        let group: Vec<_> = process.writing.iter().map(|(_, batch)| batch.clone()).collect();
        match process.log.write(&group, false) {
            Ok(()) => {}
            Err(error @ (StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Poisoned(_))) => {
                return self.input(id, [Input::StoreFailed(error)]);
            }
            Err(error) => return broken("the_log_is_whole", format!("{id}: {error}")),
        }
        if !hold {
            let took = member.disk_rng.between(self.config.sync_min, self.config.sync_max).saturating_mul(slow);
            self.schedule(self.now + took, Event::Synced { id, boot });
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, id: RaftId) -> Step {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if member.hold_sync {
            return Ok(());
        }
        let Some(process) = &mut member.process else { return Ok(()) };
        let Some(number) = process.writing.last().map(|(number, _)| *number) else { return Ok(()) };
        if let Err(error) = process.log.write(&[], true) {
            return self.input(id, [Input::StoreFailed(error)]);
        }
        for (_, batch) in std::mem::take(&mut process.writing) {
            member.durable.write(&batch);
            if let Some(hard) = &batch.hard_state
                && let Some(checks) = self.checks.get_mut(member.incarnation)
            {
                checks.voted(id, hard)?;
            }
        }
        self.trace.line(self.now, || format!("{id} synced {number}"));
        self.input(id, [Input::Persisted { number }])?;
        self.begin_write(id)
    }

    pub(super) fn apply_later(&mut self, id: RaftId, boot: u64, job: Job) {
        let Some(process) = self.process(id) else { return };
        process.to_apply.push_back(job);
        if !process.applying {
            process.applying = true;
            let at = self.now + self.disk_takes(id, MILLIS / 10, self.config.apply_max);
            self.schedule(at, Event::Applied { id, boot });
        }
    }

    /// The applier's next job is done.
    pub(super) fn applied(&mut self, id: RaftId, boot: u64) -> Step {
        if self.members.get(&id).is_none_or(|member| member.hold_apply) {
            return Ok(());
        }
        let Some(process) = self.process(id) else { return Ok(()) };
        let Some(mut job) = process.to_apply.pop_front() else { return Ok(()) };
        // Everything that has come meanwhile is one round.
        if let Job::Apply { entries, waiters } = &mut job {
            while matches!(process.to_apply.front(), Some(Job::Apply { .. })) {
                let Some(Job::Apply { entries: more, waiters: theirs }) = process.to_apply.pop_front() else { break };
                entries.extend(more);
                waiters.extend(theirs);
            }
        }
        process.applying = !process.to_apply.is_empty();
        if process.applying {
            let at = self.now + self.disk_takes(id, MILLIS / 10, self.config.apply_max);
            self.schedule(at, Event::Applied { id, boot });
        }
        match job {
            Job::Apply { entries, waiters } => self.apply(id, &entries, waiters),
            Job::Install { staged, reset } => self.install(id, staged, reset),
            Job::Build => {
                let Some(process) = self.process(id) else { return Ok(()) };
                let view = process.reader.view();
                let (Ok(status), Ok(usage)) = (read::status(&*view), read::usage(&*view)) else {
                    return broken("a_view_can_be_read", id.to_string());
                };
                let bytes = usage.used();
                let number = process.next_view;
                process.next_view += 1;
                process.views.insert(number, view);
                self.report.snapshots_built += 1;
                self.input(id, [Input::SnapshotBuilt { status, bytes, view: number }])
            }
        }
    }

    pub(super) fn apply(&mut self, id: RaftId, entries: &[Committed], waiters: Vec<(LogIndex, Vec<Ticket>)>) -> Step {
        let Some(process) = self.process(id) else { return Ok(()) };
        let before = process.machine.status().applied;
        let applied = match process.machine.apply(entries) {
            Ok(applied) => applied,
            Err(ApplyError::Store(error)) => return self.input(id, [Input::StoreFailed(error)]),
            Err(error) => {
                // What came before the entry that stopped it is applied, and watchers of its store may read it.
                let salvaged = process.machine.salvage();
                self.watched(id, &salvaged)?;
                self.version_missing(id, &error, before)?;
                return self.input(id, [Input::ApplyFailed(error)]);
            }
        };
        let status = process.machine.status().clone();
        // Beside the keys of users nothing names a key, and nobody has a seat.
        let system_changed = applied.records_changed || !applied.changed.is_empty();
        self.watched(id, &applied)?;
        self.controllers_watch(&applied)?;
        let Some(process) = self.process(id) else { return Ok(()) };
        let records = if applied.records_changed {
            match process.records.follow(&*process.reader.view(), &applied.changed) {
                Ok(records) => process.records = Arc::new(records),
                Err(error) => return broken("records_can_be_read", error.to_string()),
            }
            Some(Arc::clone(&process.records))
        } else {
            None
        };
        self.checks_of(id).applied(id, &status).map_err(|broken| self.with_differences(id, broken))?;
        if system_changed {
            self.keys_are_right(id)?;
        }
        self.versions_applied(id, entries, records.as_deref())?;
        self.sessions_told(id, &applied.changed)?;
        self.leases_changed(id, &applied.leases)?;
        self.trace.line(self.now, || format!("{id} applied {}", status.applied));
        self.trace.bytes(&status.hash);
        let mut outcomes: BTreeMap<LogIndex, Vec<Outcome>> = applied.outcomes.into_iter().collect();
        for (index, tickets) in waiters {
            let theirs = outcomes.remove(&index).unwrap_or_default();
            if theirs.len() != tickets.len() {
                return broken(
                    "every_waiter_has_an_outcome",
                    format!("{} wait for entry {index}, it has {} outcomes", tickets.len(), theirs.len()),
                );
            }
            let members = &self.members;
            let holds = |id: RaftId, index: u64, term: u64| {
                members.get(&id).is_some_and(|member| member.durable.holds(index, term))
            };
            let Some(checks) = members.get(&id).and_then(|member| self.checks.get_mut(member.incarnation)) else {
                break;
            };
            checks.acknowledged(index.0, holds)?;
            if let Some(process) = members.get(&id).and_then(|member| member.process.as_ref()) {
                self.report.copied += u64::from(checks.copied(id, &process.status, index.0, holds)?);
            }
            for (ticket, outcome) in tickets.into_iter().zip(theirs) {
                self.report.stale_keys += u64::from(matches!(outcome, Outcome::Refused(Refusal::StaleKey { .. })));
                self.settle(id, ticket, Reply::Outcome(outcome))?;
            }
        }
        self.input(id, [Input::Applied { index: status.applied, records, leases: applied.leases }])
    }

    pub(super) fn install(&mut self, id: RaftId, staged: StagedId, reset: LogReset) -> Step {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let Some(process) = &mut member.process else { return Ok(()) };
        if let Err(error) = process.machine.install(staged, reset) {
            return match error {
                // Only an injected fault may fail here.
                ApplyError::Store(
                    error @ (StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Poisoned(_)),
                ) => self.input(id, [Input::StoreFailed(error)]),
                error @ (ApplyError::Store(_)
                | ApplyError::NeedsVersion { .. }
                | ApplyError::ClusterNeedsVersion { .. }
                | ApplyError::Broken { .. }) => broken("a_snapshot_is_installed", format!("{id}: {error}")),
            };
        }
        process.staged = false;
        member.durable.reset(reset);
        let (status, leases) = (process.machine.status().clone(), process.machine.leases());
        let records = match Records::read(&*process.reader.view()) {
            Ok(records) => Arc::new(records),
            Err(error) => return broken("records_can_be_read", error.to_string()),
        };
        process.records = Arc::clone(&records);
        self.report.snapshots_installed += 1;
        if status.configuration.is_joint() {
            self.marks.hit("snapshot installed", "joint");
        }
        self.watched_install(id, status.revision.0);
        self.checks_of(id).applied(id, &status).map_err(|broken| self.with_differences(id, broken))?;
        self.keys_are_right(id)?;
        self.trace.line(self.now, || format!("{id} installed {}", status.applied));
        self.input(id, [Input::Installed { status, records, leases }])
    }

    /// Where the state of `id` differs from that of whoever is closest to it, for people: some of it may have come since.
    fn with_differences(&self, id: RaftId, broken: Broken) -> Broken {
        let applied = |id: &RaftId| Some(self.members.get(id)?.process.as_ref()?.machine.status().applied.0);
        let Some(own) = applied(&id) else { return broken };
        let others =
            self.ids().into_iter().filter(|other| *other != id && self.incarnation(*other) == self.incarnation(id));
        let nearest = others.filter_map(|other| Some((applied(&other)?.abs_diff(own), other))).min();
        let Some((_, other)) = nearest else { return broken };
        let (ours, theirs) = (self.records_of(id), self.records_of(other));
        let keys: BTreeSet<&Vec<u8>> = ours.keys().chain(theirs.keys()).collect();
        let differ = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)).take(8);
        let words: Vec<String> = differ
            .map(|key| {
                let value = |of: &BTreeMap<Vec<u8>, Vec<u8>>| {
                    of.get(key).map_or_else(|| "nothing".to_owned(), |value| value.escape_ascii().to_string())
                };
                format!("{}: {} and {}", key.escape_ascii(), value(&ours), value(&theirs))
            })
            .collect();
        let at = applied(&other).unwrap_or(0);
        Broken {
            detail: format!("{}; beside {other}, which has applied {at}: {}", broken.detail, words.join(", ")),
            ..broken
        }
    }

    fn records_of(&self, id: RaftId) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut records = BTreeMap::new();
        if let Some(view) = self.view(id) {
            let _what_can_be_read = view.scan(&[], &[], &mut |key, value| {
                records.insert(key.to_vec(), value.to_vec());
                Visit::More
            });
        }
        records
    }
}
