//! The world: virtual time, the event queue, and what may be done to members and links.
//!
//! Owns the order of events: (virtual time, sequence number), nothing else. Never decides what a member does. Called by
//! [`super::run`], by directed scenarios, and by whoever brings faults of their own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::acts::{Act, Timed};
use super::check::{Broken, Checks, broken};
use super::clients::{Ask, Client};
use super::config::{ELECTION, MILLIS, SimConfig};
use super::controllers::Controllers;
use super::holders::Holder;
use super::marks::Marks;
use super::member::Member;
use super::operator::Operator;
use super::registers::Register;
use super::secrets;
use super::trace::{Report, Trace, Violation, Words};
use super::watchers::Watcher;
use crate::history::Operation;
use quorate_core::consensus::io::{Lane, Status, Ticket};
use quorate_core::id::{ClusterId, Lineage, LineageId, NodeId, RaftId};
use quorate_core::keyring::KeyringRecord;
use quorate_core::log::LogEntry;
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::ports::StagedId;
use quorate_core::state::{Founding, found};
use quorate_core::testing::Rng;

/// A run that went on, or the promise that it broke.
pub type Run<T = ()> = Result<T, Box<Violation>>;

/// Inside the world the seed and the time are added last.
pub(super) type Step<T = ()> = Result<T, Broken>;

/// Something that happens at a moment. `boot` names the process it was scheduled for.
pub(super) enum Event {
    Tick { id: RaftId, boot: u64 },
    Deliver { from: RaftId, to: RaftId, body: Bytes, incarnation: usize },
    Snapshot { from: RaftId, to: RaftId, boot: u64, message: Bytes, chunks: Vec<Bytes>, breaks: bool },
    Staged { from: RaftId, to: RaftId, boot: u64, message: Bytes, staged: StagedId },
    SnapshotReport { at: RaftId, boot: u64, to: RaftId, delivered: bool },
    Synced { id: RaftId, boot: u64 },
    Applied { id: RaftId, boot: u64 },
    Fetched { id: RaftId, boot: u64, number: u64, entries: Vec<LogEntry> },
    Connections { id: RaftId, boot: u64 },
    Unreachable { id: RaftId, boot: u64, to: RaftId },
    Restart { id: RaftId },
    Forwarded { from: RaftId, to: RaftId, ticket: Ticket },
    Reply { from: RaftId, to: RaftId, ticket: Ticket, reply: super::clients::Reply },
    Timeout { ticket: Ticket },
    Client { client: u64, slot: u64 },
    Holder { holder: u64 },
    Register { index: usize },
    Nemesis,
    DiskTrouble,
    DiskWell { id: RaftId },
    Churn,
    Workers,
    Watcher { index: usize },
    Scribble,
    Controllers,
    Care,
    Seal,
    Upgrade,
    Bend,
    Disaster,
    Scripted { index: usize },
    Heal { links: Vec<(RaftId, RaftId)> },
    Slow { id: RaftId, factor: u64 },
}

impl Event {
    /// The member that must be awake for it.
    const fn target(&self) -> Option<RaftId> {
        match self {
            Self::Tick { id, .. }
            | Self::Synced { id, .. }
            | Self::Applied { id, .. }
            | Self::Fetched { id, .. }
            | Self::Connections { id, .. }
            | Self::DiskWell { id }
            | Self::Unreachable { id, .. } => Some(*id),
            Self::Deliver { to, .. }
            | Self::Snapshot { to, .. }
            | Self::Staged { to, .. }
            | Self::Forwarded { to, .. }
            | Self::Reply { to, .. } => Some(*to),
            Self::SnapshotReport { at, .. } => Some(*at),
            Self::Restart { .. }
            | Self::Timeout { .. }
            | Self::Client { .. }
            | Self::Holder { .. }
            | Self::Register { .. }
            | Self::Nemesis
            | Self::DiskTrouble
            | Self::Churn
            | Self::Workers
            | Self::Watcher { .. }
            | Self::Scribble
            | Self::Controllers
            | Self::Care
            | Self::Seal
            | Self::Upgrade
            | Self::Bend
            | Self::Disaster
            | Self::Scripted { .. }
            | Self::Heal { .. }
            | Self::Slow { .. } => None,
        }
    }
}

/// A message as a scenario sees it before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// The sender.
    pub from: RaftId,
    /// The receiver.
    pub to: RaftId,
    /// Raft's name of its kind, such as `MsgTimeoutNow`.
    pub kind: &'static str,
}

/// Decides which messages are held back.
pub type Hold = Box<dyn FnMut(Passing) -> bool>;

/// Counts effects of a member and kills it between two of them.
pub(super) struct Doom {
    pub(super) id: RaftId,
    pub(super) effects: u64,
}

/// A cluster under virtual time.
pub struct World {
    pub(super) config: SimConfig,
    pub(super) now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
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
    pub(super) watchers: Vec<Watcher>,
    pub(super) operator: Operator,
    pub(super) doom: Option<Doom>,
    pub(super) faults: bool,
    pub(super) hold: Option<Hold>,
    held: Vec<Event>,
    pub(super) report_delay: u64,
    pub(super) unrecorded: Vec<NodeRecord>,
    pub(super) next_raft_id: u64,
    /// The one store that is damaged in a run is.
    pub(super) damaged: bool,
}

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
            sequence: 0,
            events: BTreeMap::new(),
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
            watchers: (0..config.watchers).map(|_| Watcher::new()).collect(),
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

    fn found(&mut self) -> Step {
        let record = |node: u64| NodeRecord {
            id: Bytes::copy_from_slice(node_id(node).as_bytes()),
            name: format!("n{node}"),
            role: Role::Manager.into(),
            raft_id: node,
            command_version: self.config.version(),
            sealing_key: if self.config.secrets { secrets::sealing_key(node) } else { Bytes::new() },
            ..NodeRecord::default()
        };
        let recorded = self.config.recorded.clamp(1, self.config.members);
        let founding = Founding {
            cluster: ClusterRecord {
                cluster_id: Bytes::copy_from_slice(ClusterId::from_bytes([1; 16]).as_bytes()),
                lineage: self.incarnations.first().map(Lineage::to_bytes).unwrap_or_default().into(),
                next_raft_id: self.next_raft_id,
                version: self.config.version(),
                max_voters: self.config.max_voters,
                lost_after_ms: self.config.lost_after / MILLIS,
                promote_after_ms: self.config.promote_after / MILLIS,
                tick_micros: super::config::TICK / 1000,
                ..ClusterRecord::default()
            },
            node: record(1),
            records: (2..=recorded).map(|node| (NodeRecord::key(node_id(node)), record(node).to_bytes())).collect(),
            keyring: if self.config.secrets { secrets::founded() } else { KeyringRecord::default() },
        };
        self.unrecorded = (recorded + 1..=self.config.members).map(record).collect();
        let founded = match found(&founding) {
            Ok(founded) => founded,
            Err(refusal) => return broken("founding", refusal.to_string()),
        };
        if let Some(first) = self.members.get(&RaftId(1)) {
            let opened = first.disk.open().and_then(|mut open| open.state.found(founded.writes, founded.reset));
            if let Err(error) = opened {
                return broken("founding", error.to_string());
            }
        }
        let ids: Vec<RaftId> = self.members.keys().copied().collect();
        for id in ids {
            self.start(id)?;
        }
        for client in 0..self.config.clients {
            for slot in 0..self.config.slots {
                let at = self.now + self.work.between(ELECTION, 3 * ELECTION);
                self.schedule(at, Event::Client { client, slot });
            }
        }
        for holder in 0..self.config.holders {
            let at = self.now + self.holding.between(ELECTION, 3 * ELECTION);
            self.schedule(at, Event::Holder { holder });
        }
        for index in 0..self.registers.len() {
            let at = self.now + self.registering.between(ELECTION, 3 * ELECTION);
            self.schedule(at, Event::Register { index });
        }
        self.schedule_faults();
        for index in 0..self.watchers.len() {
            let at = self.now + self.watching.between(ELECTION, 6 * ELECTION);
            self.schedule(at, Event::Watcher { index });
        }
        if self.config.scribble_every > 0 {
            self.schedule(self.now + 2 * ELECTION, Event::Scribble);
        }
        if self.config.secrets {
            self.begin_secrets();
        }
        if self.config.churn {
            self.let_workers_enrol();
        }
        Ok(())
    }

    /// What goes wrong, and when: drawn, or from a list.
    fn schedule_faults(&mut self) {
        if let Some(script) = &self.config.script {
            let times: Vec<u64> = script.iter().map(|timed| timed.at).collect();
            for (index, at) in times.into_iter().enumerate() {
                self.schedule(at, Event::Scripted { index });
            }
            return;
        }
        if !self.faults {
            return;
        }
        self.schedule(self.now + 2 * ELECTION, Event::Nemesis);
        if self.config.disk_hangs || self.config.shortages {
            self.schedule(self.now + 4 * ELECTION, Event::DiskTrouble);
        }
        if self.config.clocks || self.config.clogs {
            self.schedule(self.now + 3 * ELECTION, Event::Bend);
        }
        if self.config.upgrades {
            self.schedule(self.now + 4 * ELECTION, Event::Upgrade);
        }
        if self.config.churn {
            self.schedule(self.now + 3 * ELECTION, Event::Churn);
        }
        if self.config.recoveries > 0 {
            let first = self.bending.between(self.config.duration / 4, self.config.duration / 2);
            self.schedule(first, Event::Disaster);
        }
    }

    /// One act of the list.
    pub(super) fn scripted(&mut self, index: usize) -> Step {
        let act: Option<Act> =
            self.config.script.as_ref().and_then(|script| script.get(index)).map(|timed| timed.act.clone());
        match act {
            Some(act) if self.faults => self.perform_act(act),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn violation(&self, broken: Broken) -> Box<Violation> {
        broken.at(&self.config, self.now, self.trace.last(), &self.acts)
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
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

    /// The next event, if it is due by `end`.
    fn step_until(&mut self, end: u64) -> Run<bool> {
        let due = self.events.first_key_value().is_some_and(|((at, _), _)| *at <= end);
        if !due {
            return Ok(false);
        }
        let Some(((at, _), event)) = self.events.pop_first() else { return Ok(false) };
        self.now = at;
        let paused = event.target().and_then(|id| self.members.get(&id)).map_or(0, |member| member.paused_until);
        if paused > self.now {
            self.schedule(paused, event);
            return Ok(true);
        }
        self.happen(event).map_err(|broken| self.violation(broken))?;
        Ok(true)
    }

    /// Sends over a link, as the network pleases.
    pub(super) fn send(&mut self, from: RaftId, to: RaftId, lane: Lane, body: Bytes) {
        if let Some(hold) = &mut self.hold
            && hold(Passing { from, to, kind: kind(&body) })
        {
            let incarnation = self.incarnation(from);
            self.held.push(Event::Deliver { from, to, body, incarnation });
            return;
        }
        let (now, loss, duplicates) = (self.now, self.config.loss, self.config.duplicates);
        let (low, high) = (self.config.delay_min, self.config.delay_max);
        let cut = self.cut.contains(&(from, to));
        let clogged = self.clogged.get(&(from, to)).copied().filter(|until| *until > now);
        let link = self.link(from, to);
        if cut || link.chance(loss) {
            if link.chance(300) {
                let at = now + link.between(0, 5 * MILLIS);
                if let Some(boot) = self.members.get(&from).map(|member| member.boot) {
                    self.schedule(at, Event::Unreachable { id: from, boot, to });
                }
            }
            return;
        }
        let copies = if link.chance(duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let link = self.link(from, to);
            let mut delay = link.between(low, high);
            if duplicates > 0 && link.chance(20) {
                // A straggler: it arrives in another time.
                delay += link.between(0, 2 * ELECTION);
            }
            if lane == Lane::Append {
                delay += (body.len() as u64).saturating_mul(10);
            }
            let (body, incarnation) = (body.clone(), self.incarnation(from));
            let at = clogged.unwrap_or(now) + delay;
            self.schedule(at, Event::Deliver { from, to, body, incarnation });
        }
    }

    /// Holds back every message for which `hold` says so, until [`World::release`].
    pub fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// Delivers what was held back, and holds nothing more.
    pub fn release(&mut self) {
        self.hold = None;
        for event in std::mem::take(&mut self.held) {
            self.schedule(self.now + MILLIS, event);
        }
    }

    /// What was held back is lost; nothing more is held.
    pub fn drop_held(&mut self) {
        self.hold = None;
        self.held.clear();
    }

    /// From now on the word that a snapshot was delivered takes so much longer to reach the sender, in nanoseconds.
    pub const fn delay_reports(&mut self, nanos: u64) {
        self.report_delay = nanos;
    }

    /// How many messages are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn link_is_up(&self, a: RaftId, b: RaftId) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    pub(super) fn is_up(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|member| member.process.is_some())
    }

    /// Everybody notices after a while who can be reached now.
    pub(super) fn connections_changed(&mut self) {
        let all: Vec<(RaftId, u64)> = self.members.iter().map(|(id, member)| (*id, member.boot)).collect();
        for (id, boot) in all {
            let at = self.now + self.noticing.between(MILLIS, 40 * MILLIS);
            self.schedule(at, Event::Connections { id, boot });
        }
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn cut(&mut self, from: RaftId, to: RaftId) {
        self.cut.insert((from, to));
        self.connections_changed();
    }

    /// Nothing passes to or from `id` any more.
    pub fn isolate(&mut self, id: RaftId) {
        let others: Vec<RaftId> = self.members.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
        self.connections_changed();
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.connections_changed();
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

/// Raft's name of a message's kind.
pub(super) fn kind(body: &[u8]) -> &'static str {
    use prost011::Message as _;
    raft::eraftpb::Message::decode(body).map_or("garbage", |message| message.msg_type().as_str_name())
}
