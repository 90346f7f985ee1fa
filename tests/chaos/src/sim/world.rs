//! The world: virtual time, the event queue, and what may be done to members and links.
//!
//! Owns the clock and who is in the world; in which order things happen is in `queue`. Never decides what a member does. Called by
//! [`super::run`], by directed scenarios, and by whoever brings faults of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::acts::Timed;
use super::asks::Ask;
use super::check::{Broken, Checks};
use super::clients::Client;
use super::config::{MILLIS, SimConfig, TICK};
use super::controllers::Controllers;
use super::event::Event;
use super::gates::Gates;
use super::holders::Holder;
use super::marks::Marks;
use super::member::Member;
use super::network::Hold;
use super::operator::Operator;
use super::queue::Queue;
use super::registers::Register;
use super::sessions::Sessions;
use super::trace::{Report, Trace, Violation, Words};
use super::watcher::Watcher;
use crate::history::Operation;
use quorate_core::consensus::io::{Status, Ticket};
use quorate_core::id::{Lineage, LineageId, NodeId, RaftId};
use quorate_core::membership::record::NodeRecord;
use quorate_core::testing::Rng;

/// A run that went on, or the promise that it broke.
pub type Run<T = ()> = Result<T, Box<Violation>>;

/// Inside the world the seed and the time are added last.
pub(super) type Step<T = ()> = Result<T, Broken>;

/// Counts effects of a member and kills it between two of them.
pub(super) struct Doom {
    pub(super) id: RaftId,
    pub(super) effects: u64,
}

/// A cluster under virtual time.
pub struct World {
    pub(super) config: SimConfig,
    pub(super) now: u64,
    events: Queue,
    pub(super) members: BTreeMap<RaftId, Member>,
    pub(super) cut: BTreeSet<(RaftId, RaftId)>,
    pub(super) clients: Vec<Client>,
    pub(super) holders: Vec<Holder>,
    pub(super) asks: BTreeMap<Ticket, Ask>,
    pub(super) next_ticket: u64,
    /// The incarnations of the cluster in the order in which they were made, each with what is known of it.
    pub(super) incarnations: Vec<Lineage>,
    pub(super) checks: Vec<Checks>,
    pub(super) trace: Trace,
    pub(super) report: Report,
    /// When members notice who can be reached.
    pub(super) noticing: Rng,
    /// One stream for each directed link.
    pub(super) links: BTreeMap<(RaftId, RaftId), Rng>,
    /// Links on which everything waits until a moment.
    pub(super) clogged: BTreeMap<(RaftId, RaftId), u64>,
    /// What was done.
    pub(super) acts: Vec<Timed>,
    pub(super) marks: Marks,
    pub(super) bending: Rng,
    pub(super) rotting: Rng,
    pub(super) hearing: Rng,
    /// Steps since the cluster was founded anew.
    pub(super) after_disaster: u64,
    pub(super) registering: Rng,
    /// In the liveness phase: who is healed; what happened to all others stays as it is.
    pub(super) core: Option<BTreeSet<RaftId>>,
    pub(super) registers: Vec<Register>,
    /// An embedder's own.
    pub(super) controllers: Option<Controllers>,
    /// Processes of the history so far.
    pub(super) processes: u64,
    /// What was seen last in each register.
    pub(super) last_seen: [Option<String>; 4],
    pub(super) history: Vec<Operation>,
    pub(super) work: Rng,
    pub(super) nemesis: Rng,
    pub(super) trouble: Rng,
    pub(super) churn: Rng,
    pub(super) holding: Rng,
    pub(super) watching: Rng,
    pub(super) upgrading: Rng,
    pub(super) sealing: Rng,
    /// The newest cluster version that any member has seen in force.
    pub(super) enabled: u32,
    /// Each is taken out while it looks.
    pub(super) watchers: Vec<Option<Box<Watcher>>>,
    pub(super) sessions: Sessions,
    pub(super) gates: Gates,
    pub(super) operator: Operator,
    pub(super) doom: Option<Doom>,
    pub(super) faults: bool,
    pub(super) hold: Option<Hold>,
    pub(super) held: Vec<Event>,
    pub(super) report_delay: u64,
    pub(super) unrecorded: Vec<NodeRecord>,
    pub(super) next_raft_id: u64,
    /// The one store that is damaged in a run is.
    pub(super) damaged: bool,
}

/// How often it is looked at what is seen from all members at once.
const LOOK: u64 = TICK;

impl World {
    /// Founds a cluster of one, starts it, and starts the other members with empty stores.
    ///
    /// # Errors
    /// A `Violation` when the founding itself fails.
    pub fn new(config: SimConfig) -> Run<Self> {
        let seed = config.seed;
        let mut clock = Rng::stream(seed, 2);
        let mut members = BTreeMap::new();
        for node in 1..=config.members {
            let drift = i64::try_from(clock.between(0, 2 * config.drift)).unwrap_or(0)
                - i64::try_from(config.drift).unwrap_or(0);
            let mut member = Member::new(node, RaftId(node), seed, drift);
            member.knows = config.version();
            members.insert(RaftId(node), member);
        }
        let clients = (0..config.clients).map(|id| Client::new(id, config.slots)).collect();
        let mut world = Self {
            incarnations: vec![Lineage(vec![LineageId::from_bytes([2; 16])])],
            checks: vec![Checks::new(config.drift == 0 && !config.pauses && !config.clocks)],
            next_raft_id: config.members + 1,
            damaged: false,
            now: MILLIS,
            events: Queue::default(),
            members,
            cut: BTreeSet::new(),
            clients,
            holders: (0..config.holders).map(Holder::new).collect(),
            asks: BTreeMap::new(),
            next_ticket: 1,
            trace: Trace::new(Words::Last),
            report: Report { seed, ..Report::default() },
            noticing: Rng::stream(seed, 3),
            links: BTreeMap::new(),
            clogged: BTreeMap::new(),
            acts: Vec::new(),
            marks: Marks::default(),
            bending: Rng::stream(seed, 14),
            rotting: Rng::stream(seed, 22),
            hearing: Rng::stream(seed, 15),
            after_disaster: 0,
            registering: Rng::stream(seed, 17),
            registers: (0..config.registers).map(Register::new).collect(),
            controllers: None,
            core: None,
            processes: config.registers,
            last_seen: [const { None }; 4],
            history: Vec::new(),
            work: Rng::stream(seed, 5),
            nemesis: Rng::stream(seed, 6),
            trouble: Rng::stream(seed, 7),
            churn: Rng::stream(seed, 8),
            holding: Rng::stream(seed, 9),
            watching: Rng::stream(seed, 11),
            upgrading: Rng::stream(seed, 13),
            sealing: Rng::stream(seed, 14),
            enabled: config.version(),
            watchers: (0..config.watchers).map(|_| Some(Box::new(Watcher::new()))).collect(),
            sessions: Sessions::new(seed),
            gates: Gates::new(seed),
            operator: Operator::after(config.members),
            doom: None,
            faults: config.fault_every > 0,
            hold: None,
            held: Vec::new(),
            report_delay: 0,
            unrecorded: Vec::new(),
            config,
        };
        world.found().map_err(|broken| world.violation(broken))?;
        Ok(world)
    }

    pub(super) fn violation(&self, broken: Broken) -> Box<Violation> {
        broken.at(&self.config, self.now, self.trace.last(), &self.acts)
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.events.push(at.max(self.now), event);
    }

    /// Virtual time, nanoseconds.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_for(&mut self, nanos: u64) -> Run {
        let end = self.now + nanos;
        while self.step_until(end)? {}
        self.now = end;
        Ok(())
    }

    /// Lets time pass until `done` holds, at most `nanos`; says whether it did.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_until(&mut self, nanos: u64, mut done: impl FnMut(&Self) -> bool) -> Run<bool> {
        let end = self.now + nanos;
        loop {
            if done(self) {
                return Ok(true);
            }
            if !self.step_until(end)? {
                self.now = end;
                return Ok(done(self));
            }
        }
    }

    /// As [`World::run_until`], for what costs more to see than an event does: it is looked at every tick.
    ///
    /// # Errors
    /// The first broken invariant.
    pub fn run_until_seen(&mut self, nanos: u64, mut done: impl FnMut(&Self) -> bool) -> Run<bool> {
        let end = self.now + nanos;
        loop {
            if done(self) {
                return Ok(true);
            }
            if self.now >= end {
                return Ok(false);
            }
            self.run_for(LOOK.min(end - self.now))?;
        }
    }

    /// Until when clients that have nothing open are quiet now; `None` while they are busy.
    pub(super) const fn quiet_until(&self) -> Option<u64> {
        let lull = self.config.lull;
        let quiet = lull > 0 && self.faults && !(self.now / lull).is_multiple_of(2);
        if quiet { Some((self.now / lull + 1) * lull) } else { None }
    }

    /// The next event, if it is due by `end`.
    fn step_until(&mut self, end: u64) -> Run<bool> {
        let Some((at, event)) = self.events.pop_due(end) else { return Ok(false) };
        self.now = at;
        let paused = event.target().and_then(|id| self.members.get(&id)).map_or(0, |member| member.paused_until);
        if paused > self.now {
            self.schedule(paused, event);
            return Ok(true);
        }
        self.happen(event).map_err(|broken| self.violation(broken))?;
        Ok(true)
    }

    pub(super) fn is_up(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|member| member.process.is_some())
    }

    /// Begins, or ends, to hold back the end of every log sync of `id`.
    pub fn hold_sync(&mut self, id: RaftId, hold: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let was = std::mem::replace(&mut member.hold_sync, hold);
        let boot = member.boot;
        let writing = member.process.as_ref().is_some_and(|process| !process.writing.is_empty());
        if was && !hold && writing {
            self.schedule(self.now, Event::Synced { id, boot });
        }
    }

    /// Begins, or ends, to hold back the end of everything that the applier of `id` does.
    pub fn hold_apply(&mut self, id: RaftId, hold: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let was = std::mem::replace(&mut member.hold_apply, hold);
        let boot = member.boot;
        let applying = member.process.as_ref().is_some_and(|process| process.applying);
        if was && !hold && applying {
            self.schedule(self.now, Event::Applied { id, boot });
        }
    }

    /// The process of `id` sleeps for so long: nothing that concerns it happens before.
    pub fn pause(&mut self, id: RaftId, nanos: u64) {
        let until = self.now + nanos;
        if let Some(member) = self.members.get_mut(&id) {
            member.paused_until = until;
        }
    }

    /// The file system of `id` has so much free space from now on, and its process sees it.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn set_space(&mut self, id: RaftId, free: u64) -> Run {
        if let Some(member) = self.members.get_mut(&id) {
            member.space = Some(free);
        }
        self.look_at_space(id).map_err(|broken| self.violation(broken))
    }

    /// The next log sync of `id` fails.
    pub fn fail_sync(&mut self, id: RaftId) {
        if let Some(member) = self.members.get(&id) {
            member.disk.fail_next_sync(quorate_core::testing::Fault::Io);
        }
    }

    /// Kills `id` after it has performed this many more effects.
    pub fn doom(&mut self, id: RaftId, effects: u64) {
        self.doom = Some(Doom { id, effects });
    }

    /// Nobody is to die any more.
    pub fn spare(&mut self) {
        self.doom = None;
    }

    /// All raft ids, ascending.
    pub fn ids(&self) -> Vec<RaftId> {
        self.members.keys().copied().collect()
    }

    /// What the member last published; `None` while it is down.
    pub fn status(&self, id: RaftId) -> Option<&Status> {
        self.members.get(&id)?.process.as_ref().map(|process| &*process.status)
    }

    /// Whether the member holds a lease now, on its own word.
    pub fn has_lease(&self, id: RaftId) -> bool {
        self.checks.get(self.incarnation(id)).is_some_and(|checks| checks.has_lease(self.now, id))
    }

    /// The member that leads the highest term, among those that are up.
    pub fn leader(&self) -> Option<RaftId> {
        self.members
            .iter()
            .filter_map(|(id, member)| Some((member.process.as_ref()?.status.as_ref(), *id)))
            .filter(|(status, _)| status.role == Some(quorate_core::consensus::io::RaftRole::Leader))
            .max_by_key(|(status, _)| status.term)
            .map(|(_, id)| id)
    }

    /// Log syncs of the member so far.
    pub fn syncs(&self, id: RaftId) -> u64 {
        self.members.get(&id).map_or(0, |member| member.disk.syncs())
    }

    /// Whether the member has stopped by itself.
    pub fn has_stopped(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|member| member.stopped || member.outdated.is_some())
    }

    /// Whether an entry of this term at this index is on the member's disk, synced.
    pub fn is_durable(&self, id: RaftId, index: u64, term: u64) -> bool {
        self.members.get(&id).is_some_and(|member| member.durable.holds(index, term))
    }

    /// Puts nothing into words: much faster. A run that breaks something is to be repeated with words.
    pub const fn be_silent(&mut self) {
        self.trace.keep(Words::None);
    }

    /// Keeps every line of the trace, for [`World::take_lines`].
    pub fn keep_lines(&mut self) {
        self.trace.keep(Words::All);
    }

    /// The lines kept.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.trace.take_full()
    }

    /// The counts so far.
    pub fn report(&self) -> Report {
        let mut report = self.report.clone();
        report.trace_hash = self.trace.hash();
        report.events = self.trace.events;
        report.simulated = self.now;
        report.acts = self.acts.len() as u64;
        report.marks = self.all_marks();
        // Of the newest incarnation, which has taken over what was counted in the one that it ended.
        if let Some(checks) = self.checks.last() {
            report.elections = checks.elections;
            report.terms = checks.terms();
            report.leases = checks.leases_seen;
            report.configurations = checks.configuration_count();
        }
        report.syncs = self.members.values().map(|member| member.disk.syncs()).sum();
        report
    }
}

/// The node id of a simulated node.
pub(super) fn node_id(node: u64) -> NodeId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&node.to_be_bytes());
    NodeId::from_bytes(bytes)
}
