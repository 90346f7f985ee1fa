//! Workers: each has a session with some manager, loses it, finds another one, dies and comes back.
//!
//! Owns both ends of the sessions, what a worker is told to run and takes ([`quorate_core::membership::work::takes`]), the managers'
//! reports to the leader, which the network may lose, and the leader's judgement ([`quorate_core::membership::liveness`]): both by the
//! very code of a node, the latter written as a node writes it, with the token of its leadership. What lies between a worker and its
//! manager is not played: a worker notices after a while that it is gone. Draws of its own. Called by the world.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::check::broken;
use super::config::MILLIS;
use super::event::Event;
use super::world::{Run, Step, World, node_id};
use quorate_core::command::{Command, CommandKind};
use quorate_core::id::{Lineage, NodeId, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::membership::liveness::{Candidate, Change, Ledger, Report, Timing};
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::work::{AssignmentRecord, LivenessRecord, Presence, takes};
use quorate_core::ports::StateRead;
use quorate_core::state::read;
use quorate_core::testing::Rng;
use quorate_core::txn::{Compare, Delete, Op, Operand, Put, Range, Relation, Txn};

/// Shorter than a node's, so that a run sees many ends of them.
const TIMING: Timing = Timing { grace: 3_000, notice: 2_000, fresh: 1_500, patience: 3_000, step: 1_000 };
/// A manager waits so long for the leader's word on a report.
const PATIENCE: u64 = 2_000 * MILLIS;
/// After so long without faults every manager has reported, and what was decided before is written.
const CALM: u64 = 6_000 * MILLIS;

/// A worker.
#[derive(Debug, Clone)]
struct Agent {
    node: u64,
    alive: bool,
    /// Its manager, and that one's start.
    at: Option<(RaftId, u64)>,
    since: u64,
    /// What it runs: the incarnation that told it, the revision it was told at, and the one that wrote its item.
    runs: Option<(Lineage, u64, u64)>,
}

/// The sessions of one start of a manager, and how far it has told of them.
#[derive(Debug, Default)]
struct Table {
    boot: u64,
    serial: u64,
    base: u64,
    told: Option<(RaftId, u64)>,
    /// A report whose answer has not come, and when it left.
    asked: Option<(u64, u64)>,
    nodes: BTreeSet<NodeId>,
    came: Vec<NodeId>,
    gone: Vec<(NodeId, u64)>,
}

/// All of it.
pub(super) struct Sessions {
    rng: Rng,
    agents: Vec<Agent>,
    tables: BTreeMap<RaftId, Table>,
    /// By member: the term that it leads, and what it was told in it.
    ledgers: BTreeMap<RaftId, (u64, Ledger)>,
    /// Since when there are no faults.
    calm_since: Option<u64>,
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::stream(seed, 23),
            agents: Vec::new(),
            tables: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            calm_since: None,
        }
    }

    fn table(&mut self, id: RaftId, boot: u64) -> &mut Table {
        let table = self.tables.entry(id).or_default();
        if table.boot != boot {
            *table = Table { boot, ..Table::default() };
        }
        table
    }

    fn agent(&self, node: NodeId) -> Option<&Agent> {
        self.agents.iter().find(|agent| node_id(agent.node) == node)
    }
}

/// The worker that the record under this key assigns something to, if it does.
fn assigned(key: &Bytes) -> Option<NodeId> {
    NodeId::from_slice(Section::Assignment.strip(key)?.get(..16)?)
}

/// The revision that wrote the newest item of a worker; 0: it has none.
fn written(view: &dyn StateRead, node: u64) -> Option<u64> {
    let (key, end) = AssignmentRecord::range(node_id(node));
    let found = read::range(view, &Range { key, end, keys_only: true, ..Range::default() }).ok()?;
    Some(found.entries.iter().map(|item| item.mod_revision).max().unwrap_or(0))
}

impl World {
    pub(super) fn begin_sessions(&mut self) {
        for index in 0..usize::try_from(self.config.sessions).unwrap_or(0) {
            self.operator.next_node += 1;
            let node = self.operator.next_node;
            self.sessions.agents.push(Agent { node, alive: true, at: None, since: 0, runs: None });
            let at = self.now + self.sessions.rng.between(1_000 * MILLIS, 4_000 * MILLIS);
            self.schedule(at, Event::Agent { index });
        }
    }

    /// A process has started: it tells of its sessions, and judges while it leads.
    pub(super) fn sessions_start(&mut self, id: RaftId, boot: u64) {
        if self.config.sessions > 0 {
            self.sessions.ledgers.remove(&id);
            let (tells, judges) =
                (self.sessions.rng.between(0, 500 * MILLIS), self.sessions.rng.between(0, 500 * MILLIS));
            self.schedule(self.now + tells, Event::Tells { id, boot });
            self.schedule(self.now + judges, Event::Judges { id, boot });
        }
    }

    /// A worker does its next thing.
    pub(super) fn agent_looks(&mut self, index: usize) -> Step {
        let next = self.now + self.sessions.rng.between(100 * MILLIS, 900 * MILLIS);
        self.schedule(next, Event::Agent { index });
        let Some(mut agent) = self.sessions.agents.get(index).cloned() else { return Ok(()) };
        if self.faults && self.sessions.rng.chance(30) {
            agent.alive = !agent.alive;
        }
        let moves = self.faults && self.sessions.rng.chance(60);
        if let Some((manager, boot)) = agent.at {
            if !self.is_current(manager, boot) {
                agent.at = None;
            } else if moves || !agent.alive || !self.takes_items(&mut agent, manager)? {
                self.session_ends(&mut agent);
            }
        }
        let known = self.leader_records().is_some_and(|records| records.nodes.get(node_id(agent.node)).is_some());
        if !known {
            self.edit(agent.node, |_record| {}).map_err(|violation| violation.broken())?;
        } else {
            self.finds_a_manager(&mut agent)?;
        }
        if self.faults && known && self.sessions.rng.chance(200) {
            self.assign(agent.node)?;
        }
        if let Some(place) = self.sessions.agents.get_mut(index) {
            *place = agent;
        }
        Ok(())
    }

    fn session_ends(&mut self, agent: &mut Agent) {
        let Some((manager, boot)) = agent.at.take() else { return };
        let (now, node) = (self.now, node_id(agent.node));
        let table = self.sessions.table(manager, boot);
        table.nodes.remove(&node);
        table.gone.push((node, now));
    }

    /// Who is alive and has no session tries one manager. What a session begins with is what that one has.
    fn finds_a_manager(&mut self, agent: &mut Agent) -> Step {
        if !agent.alive || agent.at.is_some() {
            return Ok(());
        }
        let of_it = |id: &RaftId| self.status(*id).is_some_and(|status| status.leader.is_some());
        let up: Vec<RaftId> = self.ids().into_iter().filter(of_it).collect();
        if let Some(manager) = self.sessions.rng.pick(&up)
            && self.takes_items(agent, manager)?
        {
            let boot = self.members.get(&manager).map_or(0, |member| member.boot);
            let table = self.sessions.table(manager, boot);
            table.nodes.insert(node_id(agent.node));
            table.came.push(node_id(agent.node));
            (agent.at, agent.since) = (Some((manager, boot)), self.now);
        }
        Ok(())
    }

    /// A manager has applied something about these keys: it tells the workers that have their session with it at once, as a node
    /// does. One in two loses it right then, and finds another manager, which has not heard of it yet.
    pub(super) fn sessions_told(&mut self, manager: RaftId, changed: &[Bytes]) -> Step {
        if self.sessions.agents.is_empty() {
            return Ok(());
        }
        let told: BTreeSet<NodeId> = changed.iter().filter_map(assigned).collect();
        for index in 0..self.sessions.agents.len() {
            let Some(mut agent) = self.sessions.agents.get(index).cloned() else { continue };
            let here = agent.at.is_some_and(|(at, boot)| at == manager && self.is_current(manager, boot));
            if !here || !told.contains(&node_id(agent.node)) {
                continue;
            }
            let takes = self.takes_items(&mut agent, manager)?;
            if !takes || (self.faults && self.sessions.rng.chance(500)) {
                self.session_ends(&mut agent);
                self.finds_a_manager(&mut agent)?;
            }
            if let Some(place) = self.sessions.agents.get_mut(index) {
                *place = agent;
            }
        }
        Ok(())
    }

    /// Somebody writes what a worker is to run.
    fn assign(&mut self, node: u64) -> Step {
        let Some(leader) = self.leader() else { return Ok(()) };
        let value = AssignmentRecord { payload: Bytes::from_static(b"run"), ..AssignmentRecord::default() }.to_bytes();
        let put = Put { key: AssignmentRecord::key(node_id(node), "item"), value, ..Put::default() };
        let asked = self.command(leader, Command::from(CommandKind::System(Txn::of(put))));
        asked.map(|_ticket| ()).map_err(|violation| violation.broken())
    }

    /// A manager tells a worker what it is to run, as its state is now; false: it is behind the worker, which looks for another one.
    fn takes_items(&mut self, agent: &mut Agent, manager: RaftId) -> Step<bool> {
        let (lineage, Some(view)) = (self.lineage(manager), self.view(manager)) else { return Ok(true) };
        let (Ok(status), Some(written)) = (read::status(&*view), written(&*view, agent.node)) else { return Ok(true) };
        let revision = status.revision.0;
        let have = agent.runs.as_ref();
        if !takes(have.map(|(lineage, revision, _)| (lineage, *revision)), (&lineage, revision)) {
            self.report.workers_ahead += 1;
            return Ok(false);
        }
        if have.is_some_and(|(of, _, before)| *of == lineage && written < *before) {
            let (_, at, before) = have.cloned().unwrap_or_default();
            let detail = format!(
                "worker {} ran an item of revision {before}, told at {at}, and takes one of {written}, told by {manager} at {revision}",
                agent.node
            );
            return broken("a_worker_never_goes_back", detail);
        }
        agent.runs = Some((lineage, revision, written));
        Ok(true)
    }

    /// A manager tells the leader of its sessions: what is new, or all of it to one that may not know the rest.
    pub(super) fn tells(&mut self, id: RaftId, boot: u64) -> Step {
        let next = self.now + self.sessions.rng.between(100 * MILLIS, 1_000 * MILLIS);
        self.schedule(next, Event::Tells { id, boot });
        let (now, leads) = (self.now, self.status(id).and_then(|status| Some((status.leader?, status.term.0))));
        let table = self.sessions.table(id, boot);
        if table.asked.is_some_and(|(_, at)| now - at < PATIENCE) {
            return Ok(());
        }
        let Some((leader, term)) = leads else {
            table.base = 0;
            return Ok(());
        };
        if table.asked.take().is_some() || table.told.replace((leader, term)) != Some((leader, term)) {
            table.base = 0;
        }
        table.serial += 1;
        let (came, gone) = (std::mem::take(&mut table.came), std::mem::take(&mut table.gone));
        let (present, gone) = if table.base == 0 {
            (table.nodes.iter().copied().collect(), Vec::new())
        } else {
            (came, gone.into_iter().map(|(node, at)| (node, (now - at) / MILLIS)).collect())
        };
        let report = Report { instance: boot, serial: table.serial, base: table.base, present, gone };
        table.asked = Some((table.serial, now));
        if leader == id {
            return self.told(id, id, boot, report);
        }
        if !self.cut.contains(&(id, leader)) && !self.loses(id, leader) {
            let at = self.now + self.link_takes(id, leader);
            self.schedule(at, Event::Told { from: id, to: leader, boot, report: Box::new(report) });
        }
        Ok(())
    }

    /// A report has reached a member: whoever leads notes it, and says whether it followed on what was known.
    pub(super) fn told(&mut self, from: RaftId, to: RaftId, boot: u64, report: Report) -> Step {
        let Some(member) = self.members.get(&to).filter(|member| member.process.is_some()) else { return Ok(()) };
        let (serial, now) = (report.serial, member.clock(self.now) / MILLIS);
        let noted = self.sessions.ledgers.get_mut(&to).is_some_and(|(_, ledger)| ledger.report(now, from, report));
        if from == to {
            self.noted(from, boot, serial, noted);
        } else if !self.cut.contains(&(to, from)) && !self.loses(to, from) {
            let at = self.now + self.link_takes(to, from);
            self.schedule(at, Event::Noted { id: from, boot, serial, noted });
        }
        Ok(())
    }

    pub(super) fn noted(&mut self, id: RaftId, boot: u64, serial: u64, noted: bool) {
        let table = self.sessions.table(id, boot);
        if table.asked.is_some_and(|(asked, _)| asked == serial) {
            table.asked = None;
            table.base = if noted { serial } else { 0 };
        }
    }

    /// A member judges, if it leads and has the lease to show for it.
    pub(super) fn judges(&mut self, id: RaftId, boot: u64) -> Step {
        let next = self.now + self.sessions.rng.between(100 * MILLIS, 1_000 * MILLIS);
        self.schedule(next, Event::Judges { id, boot });
        self.sessions.calm_since =
            if self.faults || self.core.is_some() { None } else { self.sessions.calm_since.or(Some(self.now)) };
        let now = self.members.get(&id).map_or(0, |member| member.clock(self.now) / MILLIS);
        let lease = self.status(id).filter(|status| status.role.is_some()).and_then(|status| status.lease);
        let Some(term) = lease.map(|lease| lease.term.0) else {
            self.sessions.ledgers.remove(&id);
            return Ok(());
        };
        let (Some(records), Some(view), Some(status)) = (self.records(id), self.view(id), self.status(id)) else {
            return Ok(());
        };
        let connected = |other: RaftId| other == id || status.connected.binary_search(&other).is_ok();
        let managers: Vec<(RaftId, bool)> = records
            .nodes
            .members()
            .filter(|node| !node.lost)
            .filter_map(NodeRecord::raft)
            .map(|other| (other, connected(other)))
            .collect();
        let Ok(recorded) = read::liveness(&*view) else { return Ok(()) };
        let recorded: BTreeMap<NodeId, LivenessRecord> = recorded.into_iter().collect();
        let candidates = records.nodes.iter().filter_map(|node| {
            let id = node.node_id()?;
            Some(Candidate {
                node: id,
                worker: node.raft_id == 0,
                recorded: recorded.get(&id).and_then(LivenessRecord::state),
            })
        });
        let known = self.sessions.ledgers.entry(id).or_insert_with(|| (term, Ledger::new(TIMING, now)));
        if known.0 != term {
            *known = (term, Ledger::new(TIMING, now));
        }
        let decision = known.1.decide(now, &managers, candidates);
        self.down_is_true(id, &decision.changes)?;
        if decision.changes.is_empty() {
            return Ok(());
        }
        let mut txn = Txn { fence: Some(term), ..Txn::default() };
        for change in decision.changes {
            let op: Op = match change {
                Change::Is(node, presence) => {
                    txn.compares.push(Compare::new(NodeRecord::key(node), Relation::NotEqual, Operand::Version(0)));
                    let value = LivenessRecord { presence: presence.into(), since_ms: now }.to_bytes();
                    Put { key: LivenessRecord::key(node), value, ..Put::default() }.into()
                }
                Change::Forget(node) => Delete { key: LivenessRecord::key(node), ..Delete::default() }.into(),
            };
            txn.then.push(op);
        }
        let asked = self.command(id, Command::from(CommandKind::System(txn)));
        asked.map(|_ticket| ()).map_err(|violation| violation.broken())
    }

    /// Who has had a session for a while, with the leader itself or, once nothing goes wrong, with anybody, is not down.
    fn down_is_true(&mut self, leader: RaftId, changes: &[Change]) -> Step {
        let calm = self.sessions.calm_since.is_some_and(|since| self.now - since > CALM);
        for change in changes {
            let Change::Is(node, Presence::Down) = change else { continue };
            self.report.workers_down += 1;
            let Some(agent) = self.sessions.agent(*node) else { continue };
            let Some((manager, boot)) = agent.at.filter(|_| agent.alive) else { continue };
            let steady = self.now - agent.since > PATIENCE && self.is_current(manager, boot);
            if steady && (calm || (manager == leader && !self.config.pauses && !self.config.clocks)) {
                let detail =
                    format!("{leader} writes that worker {} is down, which has a session with {manager}", agent.node);
                return broken("who_has_a_session_is_not_down", detail);
            }
        }
        Ok(())
    }

    /// After peace, over two changes of the leader: everybody who is there is known to be, and runs what was written last; nobody
    /// else is.
    pub(super) fn workers_are_known(&mut self) -> Run {
        if self.config.sessions == 0 {
            return Ok(());
        }
        for _ in 0..2 {
            if let Some(leader) = self.leader() {
                self.transfer(leader, None)?;
            }
            self.run_for(CALM + 2_000 * MILLIS)?;
        }
        let right = self.run_until_seen(60_000 * MILLIS, |world| {
            world.is_settled().is_none() && world.worker_misjudged().is_none()
        })?;
        let detail = self.worker_misjudged().or_else(|| self.is_settled());
        self.expect(right, "workers_are_known", || detail.unwrap_or_default())
    }

    fn worker_misjudged(&self) -> Option<String> {
        let Some(view) = self.leader().and_then(|leader| self.view(leader)) else {
            return Some("nobody leads".to_owned());
        };
        let recorded: BTreeMap<NodeId, LivenessRecord> =
            read::liveness(&*view).unwrap_or_default().into_iter().collect();
        self.sessions.agents.iter().find_map(|agent| {
            let state = recorded.get(&node_id(agent.node)).and_then(LivenessRecord::state);
            let runs = agent.runs.as_ref().map(|(_, _, written)| *written);
            let right = match state {
                Some(Presence::Ready) => agent.alive && runs == written(&*view, agent.node),
                Some(Presence::Down) => !agent.alive,
                // Who was never there is not down.
                None => !agent.alive,
            };
            (!right).then(|| {
                format!("worker {} is {state:?}, alive: {}, runs what {runs:?} wrote", agent.node, agent.alive)
            })
        })
    }
}
