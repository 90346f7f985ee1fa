//! A seeded, deterministic cluster that drives the consensus machine.
//!
//! Owns virtual time, a network, disks that forget, clients and faults, all drawn from one seed, and the invariants held
//! against every event. It runs the very code that a node runs: [`quorate_core::consensus`], [`quorate_core::state`] and
//! the memory store. Single-threaded; never reads a clock, a random source or a hash order, so the same seed gives the same
//! trace in any process. Called by the tests of this crate and by the binary `chaos`.
//!
//! ```
//! use quorate_chaos::sim::{Profile, run};
//!
//! let report = run(1, Profile::Swarm)?;
//! assert!(report.acks > 0);
//! # Ok::<(), Box<quorate_chaos::sim::Violation>>(())
//! ```

mod acts;
mod asks;
mod check;
mod churn;
mod clients;
mod config;
mod controllers;
mod damage;
mod disk;
mod drive;
mod durable;
mod event;
mod founding;
mod gates;
mod holders;
mod life;
mod liveness;
mod marks;
mod member;
mod nemesis;
mod network;
mod operator;
mod queue;
mod recovery;
mod registers;
mod rotations;
mod secrets;
mod sessions;
mod stream;
mod trace;
mod upgrades;
mod watcher;
mod watchers;
mod wire;
mod world;

pub use acts::{Act, Timed};
pub use asks::Reply;
pub use config::{ELECTION, MILLIS, Profile, SPACE_ENOUGH, SPACE_LOW, SimConfig, TICK};
pub use controllers::{Controller, Embedded, Everything, Promise, Seat, Told, Wish, run_controllers};
pub use marks::{Mark, Marks, REQUIRED};
pub use recovery::Recovering;
pub use rotations::{Rotated, run_rotations};

pub use network::{Hold, Passing};
pub use trace::{Report, Violation};
pub use upgrades::NEW as NEWER;
pub use watchers::WatchBug;
pub use world::{Run, World};

use std::collections::BTreeSet;
use std::sync::Arc;

use check::{broken, keys};
use quorate_core::consensus::io::{RaftRole, Records};
use quorate_core::id::RaftId;
use quorate_core::mutants::{Mutant, on};
use quorate_core::ports::{StateRead, Visit};
use quorate_core::state::read;
use quorate_core::succession::CLAIM_TICKS;
use quorate_core::txn::Range;
use trace::{Trace, Words};
use world::Step;

/// Runs a seed: growth and faults under load, then peace, then the audit.
///
/// # Errors
/// The first broken invariant, with the line that replays it.
pub fn run(seed: u64, profile: Profile) -> Run<Report> {
    run_config(SimConfig::draw(seed, profile))
}

/// Runs exactly these knobs. What breaks is run once more, for the last events in words.
///
/// # Errors
/// The first broken invariant.
pub fn run_config(config: SimConfig) -> Run<Report> {
    let silent = World::new(config.clone()).and_then(|mut world| {
        world.be_silent();
        world.play()?;
        Ok(world.report())
    });
    let Err(violation) = silent else { return silent };
    let again = World::new(config).and_then(|mut world| world.play());
    match again {
        Err(told) if told.invariant == violation.invariant && told.at == violation.at => Err(told),
        Err(_) | Ok(()) => Err(Box::new(Violation {
            invariant: "a_seed_is_a_run",
            detail: format!("`{}` did not come again when the run was repeated", violation.invariant),
            ..*violation
        })),
    }
}

impl World {
    /// What a scenario expects.
    ///
    /// # Errors
    /// The violation, when it does not hold.
    pub fn expect(&self, holds: bool, invariant: &'static str, detail: impl FnOnce() -> String) -> Run {
        if holds { Ok(()) } else { Err(self.violation(check::Broken { invariant, detail: detail() })) }
    }

    /// Peace, and the audit: what a scenario ends with.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn play_out(mut self) -> Run<Report> {
        self.config.duration = 0;
        self.play()?;
        Ok(self.report())
    }

    /// All phases one after the other.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn play(&mut self) -> Run {
        if on(Mutant::Canary) && self.config.seed.is_multiple_of(100) {
            let detail = "one seed in a hundred".to_owned();
            return Err(self.violation(check::Broken { invariant: "canary", detail }));
        }
        self.run_for(self.config.duration)?;
        self.only_a_core_lives()?;
        self.make_peace().map_err(|broken| self.violation(broken))?;
        let settled =
            self.run_until_seen(60_000 * MILLIS, |world| world.is_settled().is_none() && world.clients_are_idle())?;
        if !settled {
            let why = self.is_settled().unwrap_or_else(|| "a client still waits".to_owned());
            return Err(self.violation(check::Broken { invariant: "converges_after_peace", detail: why }));
        }
        self.old_incarnations_are_fenced()?;
        if self.config.churn {
            self.come_to_rest()?;
        }
        if self.config.upgrades {
            self.finish_in_peace()?;
        }
        let kept = self.run_until_seen(60_000 * MILLIS, |world| world.keys_at_rest().is_none())?;
        if !kept {
            let detail = self.keys_at_rest().unwrap_or_default();
            return Err(self.violation(check::Broken { invariant: "keys_come_to_rest", detail }));
        }
        self.workers_are_known()?;
        self.leases_end()?;
        self.use_it()?;
        let told = self.run_until_seen(60_000 * MILLIS, |world| world.watchers_wait().is_none())?;
        if !told {
            let detail = self.watchers_wait().unwrap_or_default();
            return Err(self.violation(check::Broken { invariant: "watch_is_told_in_the_end", detail }));
        }
        self.mirrors_are_right().map_err(|broken| self.violation(broken))?;
        self.judge_registers().map_err(|broken| self.violation(broken))?;
        self.audit().map_err(|broken| self.violation(broken))
    }

    /// What is still missing to a healthy cluster; `None` when nothing is.
    pub fn is_settled(&self) -> Option<String> {
        let up = || self.members.iter().filter_map(|(id, member)| Some((*id, member.process.as_ref()?)));
        let Some(leader) = self.leader() else { return Some("nobody leads".to_owned()) };
        let status = self.status(leader)?;
        if status.configuration.is_joint() {
            return Some("the configuration is joint".to_owned());
        }
        if status.lease.is_none() {
            return Some(format!("{leader} leads without a lease"));
        }
        for (id, process) in up() {
            let other = &process.status;
            if !status.configuration.contains(id) {
                // Its node record was not written, or not yet taken up.
                continue;
            }
            if other.leader != Some(leader) || (other.role == Some(RaftRole::Leader)) != (id == leader) {
                return Some(format!("{id} follows {:?}, {leader} leads", other.leader.map(|leader| leader.0)));
            }
            if other.applied != status.last {
                return Some(format!("{id} has applied {} of {}", other.applied, status.last));
            }
        }
        None
    }

    /// The seats become what they are to be, and then stay so.
    fn come_to_rest(&mut self) -> Run {
        let rested = self
            .run_until_seen(120_000 * MILLIS, |world| world.is_settled().is_none() && world.is_at_rest().is_none())?;
        if !rested {
            let detail = format!("{:?}, {:?}", self.is_settled(), self.is_at_rest());
            return Err(self.violation(check::Broken { invariant: "comes_to_rest", detail }));
        }
        let before = self.report().configurations;
        self.run_for(5000 * MILLIS)?;
        let after = self.report().configurations;
        if before != after {
            let detail = format!("{} configurations more, after the planner had nothing to do", after - before);
            return Err(self.violation(check::Broken { invariant: "comes_to_rest", detail }));
        }
        let Some((view, policy)) = self.seats() else { return Ok(()) };
        let leaving = view.managers.iter().any(quorate_core::membership::plan::ManagerView::is_leaving);
        let alive = view.managers.iter().filter(|manager| manager.is_ready()).count();
        let most = alive.min(policy.max_voters());
        let voters = view.configuration.voters.len();
        if voters > policy.max_voters() || (!leaving && voters < most - (most + 1) % 2) {
            let detail = format!("{voters} voters of {alive} managers, {} allowed", policy.max_voters());
            return Err(self.violation(check::Broken { invariant: "as_many_voters_as_can_be", detail }));
        }
        Ok(())
    }

    /// Whoever is of an incarnation that was ended, and reaches the newer one, has stopped for good.
    fn old_incarnations_are_fenced(&mut self) -> Run {
        let newest = self.incarnations.len() - 1;
        if newest == 0 {
            return Ok(());
        }
        let old = |world: &Self| world.ids().into_iter().find(|id| world.is_up(*id) && world.incarnation(*id) < newest);
        // Who has never heard of the survivor believes it once it has had no leader for long.
        self.run_until_seen(2 * CLAIM_TICKS * TICK, |world| old(world).is_none())?;
        let old = old(self);
        self.expect(old.is_none(), "old_incarnations_are_fenced", || format!("{old:?} goes on beside the newer one"))
    }

    /// Ten writes and ten reads, each the first time it is asked.
    fn use_it(&mut self) -> Run {
        let ids: Vec<RaftId> = self.ids().into_iter().filter(|id| self.is_member(*id)).collect();
        for round in 0..10_u64 {
            let Some(at) = ids.get(usize::try_from(round).unwrap_or(0) % ids.len().max(1)).copied() else { continue };
            let write = self.propose(at, 1_000_000 + round)?;
            let read = self.read(at)?;
            let answered =
                self.run_until(10_000 * MILLIS, |world| world.reply(write).is_some() && world.reply(read).is_some())?;
            let done = matches!(self.reply(write), Some(Reply::Outcome(_)))
                && matches!(self.reply(read), Some(Reply::ReadAt { .. }));
            if !answered || !done {
                let detail = format!("{at} answered {:?} and {:?}", self.reply(write), self.reply(read));
                return Err(self.violation(check::Broken { invariant: "works_after_peace", detail }));
            }
        }
        let quiet = self.run_until(10_000 * MILLIS, |world| world.is_settled().is_none() && world.unanswered() == 0)?;
        if !quiet {
            let detail = format!("{} tickets open, {:?}", self.unanswered(), self.is_settled());
            return Err(self.violation(check::Broken { invariant: "nothing_hangs", detail }));
        }
        Ok(())
    }

    fn is_member(&self, id: RaftId) -> bool {
        self.is_up(id)
            && self.leader().and_then(|leader| self.status(leader)).is_some_and(|s| s.configuration.contains(id))
    }

    /// What a member decides from, kept up change by change, is what its state says. How often keys were used, and up to which
    /// revision they were read, may be a moment old.
    fn records_are_followed(&self, id: RaftId) -> bool {
        let Some((followed, view)) = self.records(id).zip(self.view(id)) else { return true };
        Records::read(&*view).is_ok_and(|read| {
            let (revision, keyring) = (followed.revision, Arc::clone(&followed.keyring));
            *followed == Records { revision, keyring, ..read }
        })
    }

    /// Every acknowledged write is everywhere, exactly once; every member has the same state.
    ///
    /// What an incarnation must still have of the one that it ended is what its survivor held.
    fn audit(&self) -> Step {
        let mut hash = None;
        let mut searched = BTreeSet::new();
        for id in self.ids().into_iter().filter(|id| self.is_member(*id)) {
            let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) else { continue };
            let view = process.reader.view();
            let Ok(status) = read::status(&*view) else { return broken("a_view_can_be_read", id.to_string()) };
            let first = *hash.get_or_insert((status.applied, status.hash));
            if first != (status.applied, status.hash) {
                return broken("equal_state", format!("{id} differs at the end, applied {}", status.applied));
            }
            // What holds of one store holds of all that are equal to it, record by record.
            if !searched.insert((self.incarnation(id), print_of(&*view))) {
                continue;
            }
            if !self.records_are_followed(id) {
                return broken("records_are_followed", format!("{id} decides from other records than its state has"));
            }
            if quorate_core::state::scan_hash(&*view).ok() != Some(status.hash) {
                return broken("equal_state", format!("the hash that {id} keeps is not that of its state"));
            }
            if read::usage(&*view).ok() != read::recounted_usage(&*view).ok() {
                return broken("equal_state", format!("what {id} says that it holds is not what it holds"));
            }
            let found = |key| {
                read::key_now(&*view, &Range { key, ..Range::default() }, status.revision)
                    .ok()
                    .and_then(|range| range.entries.first().map(|entry| (entry.version, entry.mod_revision)))
            };
            let mut applied = std::collections::BTreeMap::<u64, u64>::new();
            let Some(checks) = self.checks.get(self.incarnation(id)) else { continue };
            for (client, sequence) in &checks.attempted {
                let there = found(keys(*client, *sequence).1);
                if there.is_some_and(|(version, _)| version != 1) {
                    return broken("exactly_once", format!("{id} has write {client}/{sequence} {there:?}"));
                }
                if let Some(revision) = checks.acked.get(&(*client, *sequence))
                    && there != Some((1, *revision))
                {
                    return broken(
                        "no_acknowledged_write_is_lost",
                        format!("{id} has {there:?} for write {client}/{sequence}, acknowledged at {revision}"),
                    );
                }
                *applied.entry(*client).or_default() += u64::from(there.is_some());
            }
            for (client, count) in applied {
                let counted = found(keys(client, 0).0).map_or(0, |(version, _)| version);
                if counted != count {
                    return broken("exactly_once", format!("client {client} counts {counted}, {count} were applied"));
                }
            }
        }
        Ok(())
    }
}

/// All records of a store in one number; of one that cannot be read, those up to there.
fn print_of(view: &dyn StateRead) -> u64 {
    let mut print = Trace::new(Words::None);
    let _unreadable_is_found_by_who_searches_it = view.scan(&[], &[], &mut |key, value| {
        print.bytes(key);
        print.bytes(value);
        Visit::More
    });
    print.hash()
}
