//! What operators and workers do: wishes written into the records, and workers that enrol when they are to be managers.
//!
//! Owns the part that request handlers and workers have in a real cluster, done by whoever looks at the leader's applied
//! records; so nothing is known before it is replicated. Never changes a seat. Called by scenarios and by the churn.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::config::{MILLIS, TICK};
use super::event::Event;
use super::world::{Run, Step, World, node_id};
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Records, Ticket};
use quorate_core::id::RaftId;
use quorate_core::keyspace::Section;
use quorate_core::membership::plan::{SeatPolicy, SeatTimes, SeatView, plan, stand_in};
use quorate_core::membership::record::{ClusterRecord, Label, NodeRecord, Role};
use quorate_core::membership::settle::settle;
use quorate_core::membership::upgrade::Support;
use quorate_core::membership::wish::{Wish, WishRefused, check};
use quorate_core::txn::{Compare, Op, Operand, Put, Relation, Txn};

/// How often workers look whether they are to be managers.
const WORKERS_LOOK: u64 = 200 * MILLIS;

/// Enrolments under way.
#[derive(Debug, Default)]
pub(super) struct Operator {
    /// Raft ids given out and not yet in the records, by node.
    enrolling: BTreeMap<u64, RaftId>,
    pub(super) next_node: u64,
    /// Notes on the cluster that were proposed.
    pub(super) notes: u64,
}

impl Operator {
    /// New nodes come after this one.
    pub(super) fn after(node: u64) -> Self {
        Self { next_node: node, ..Self::default() }
    }
}

impl World {
    /// The records as the leader has applied them.
    pub fn leader_records(&self) -> Option<Arc<Records>> {
        self.records(self.leader()?)
    }

    /// The times that hold where the cluster's record says nothing.
    pub(super) fn seat_times(&self) -> SeatTimes {
        SeatTimes {
            stable_ms: self.config.stable_ticks * TICK / MILLIS,
            patience_ms: self.config.patience_after / MILLIS,
            ..SeatTimes::DEFAULT
        }
    }

    /// What the leader shows the planner.
    pub fn seats(&self) -> Option<(SeatView, SeatPolicy)> {
        let (records, status) = (self.leader_records()?, self.status(self.leader()?)?);
        let policy = SeatPolicy::of(&records.cluster, &self.seat_times(), TICK).ok()?;
        Some((status.seat_view(&records, &policy), policy))
    }

    /// Whether a wish would be refused.
    ///
    /// # Errors
    /// Why it would.
    pub fn may(&self, target: RaftId, wish: Wish) -> Result<(), WishRefused> {
        self.seats().map_or(Ok(()), |(view, policy)| check(&view, &policy, target, wish))
    }

    /// Writes a node's record anew, if it still is what the leader has applied; `None` without a leader.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn edit(&mut self, node: u64, edit: impl FnOnce(&mut NodeRecord)) -> Run<Option<Ticket>> {
        let (Some(records), id) = (self.leader_records(), node_id(node)) else { return Ok(None) };
        let known = records.nodes.get(id);
        let mut record = known.cloned().unwrap_or_else(|| self.node_record(node, RaftId(0)));
        edit(&mut record);
        if self.config.gates {
            record.store_id = super::gates::store_of(record.raft_id);
        }
        if record.sealing_key.is_empty() {
            record = self.with_sealing_key(record);
        }
        if record.forced
            && let Some(leader) = self.leader()
        {
            self.checks_of(leader).forced = true;
        }
        if self.config.upgrades && record.raft_id != known.map_or(0, |known| known.raft_id) {
            // Whoever gets a raft id says what its binary knows.
            record.command_version = self.knows(RaftId(record.raft_id));
        }
        let was = known.map(NodeRecord::to_bytes);
        let mut txn = replacing(NodeRecord::key(id), was, record.to_bytes());
        self.claim(&mut txn, &records.cluster, known, &record);
        self.ask_leader(txn)
    }

    /// The record of a node that has just joined, with this raft id; 0 is a worker's.
    pub(super) fn node_record(&self, node: u64, id: RaftId) -> NodeRecord {
        let role = if id.0 == 0 { Role::Worker } else { Role::Manager };
        let record = NodeRecord {
            id: Bytes::copy_from_slice(node_id(node).as_bytes()),
            name: format!("n{node}"),
            role: role.into(),
            raft_id: id.0,
            command_version: self.knows(id),
            key_digest: super::recovery::key_of(node),
            store_id: if self.config.gates { super::gates::store_of(id.0) } else { Bytes::new() },
            ..NodeRecord::default()
        };
        self.with_sealing_key(record)
    }

    /// Adds what every transaction does that gives a raft id out: the counter rises, and is as it was when the node's binary was
    /// looked at. So it and the finish of an upgrade, which is judged by all who have a raft id, make each other void. Without
    /// upgrades nothing is judged so, and ids are the world's.
    fn claim(&self, txn: &mut Txn, cluster: &ClusterRecord, was: Option<&NodeRecord>, record: &NodeRecord) {
        if !self.config.upgrades || record.raft_id == 0 || was.is_some_and(|was| was.raft_id == record.raft_id) {
            return;
        }
        let raised = ClusterRecord { next_raft_id: cluster.next_raft_id.max(record.raft_id) + 1, ..cluster.clone() };
        let counter = replacing(ClusterRecord::key(), Some(cluster.to_bytes()), raised.to_bytes());
        txn.compares.extend(counter.compares);
        txn.then.extend(counter.then);
    }

    /// Writes the cluster's record anew.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn edit_cluster(&mut self, edit: impl FnOnce(&mut ClusterRecord)) -> Run<Option<Ticket>> {
        let Some(records) = self.leader_records() else { return Ok(None) };
        let mut record = records.cluster.clone();
        edit(&mut record);
        self.ask_leader(replacing(ClusterRecord::key(), Some(records.cluster.to_bytes()), record.to_bytes()))
    }

    fn ask_leader(&mut self, txn: Txn) -> Run<Option<Ticket>> {
        let Some(leader) = self.leader() else { return Ok(None) };
        self.command(leader, Command::from(CommandKind::System(txn))).map(Some)
    }

    /// Asks the leader for the record of a node that joins, or comes back; says whether there was one to ask, and the node may
    /// join.
    pub(super) fn write_record(&mut self, record: &NodeRecord) -> Run<bool> {
        let (Some(records), Some(id)) = (self.leader_records(), record.node_id()) else { return Ok(false) };
        let record = NodeRecord { command_version: self.knows(RaftId(record.raft_id)), ..record.clone() };
        if Support::of(&record).check(records.cluster.version).is_err() {
            return Ok(false);
        }
        let put: Op = Put { key: NodeRecord::key(id), value: record.to_bytes(), ..Put::default() }.into();
        let mut txn = Txn { then: vec![put], ..Txn::default() };
        self.claim(&mut txn, &records.cluster, records.nodes.get(id), &record);
        self.ask_leader(txn).map(|asked| asked.is_some())
    }

    /// One of the managers that run and have no record yet is asked for.
    pub(super) fn record_somebody(&mut self) -> Run {
        let Some(records) = self.leader_records() else { return Ok(()) };
        if self.config.upgrades {
            // Who was let in, or sent away again, since it was asked for.
            let settled = |id: RaftId| records.by_raft_id(id).is_some() || records.removed.contains(&id);
            self.unrecorded.retain(|waiting| !waiting.raft().is_some_and(settled));
        }
        let Some(record) = self.unrecorded.first().cloned() else { return Ok(()) };
        let asked = self.write_record(&record)?;
        if self.config.upgrades {
            // Somebody else may be faster with the counter, or its binary be too old: asked again after the others.
            self.unrecorded.rotate_left(1);
        } else if asked {
            self.unrecorded.remove(0);
        }
        Ok(())
    }

    /// A node joins as a worker; an eligible one may be promoted for a lost voter.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn add_worker(&mut self, eligible: bool) -> Run<u64> {
        self.operator.next_node += 1;
        let node = self.operator.next_node;
        self.edit(node, |record| {
            if eligible {
                record.labels = vec![Label { key: "quorate.manager".into(), value: "yes".into() }];
            }
        })?;
        Ok(node)
    }

    /// A node joins as a manager; its raft id.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn add_manager(&mut self) -> Run<RaftId> {
        self.operator.next_node += 1;
        let (node, id) = (self.operator.next_node, RaftId(self.next_raft_id));
        self.next_raft_id += 1;
        let newcomer = self.newcomer(node, id);
        self.members.insert(id, newcomer);
        self.edit(node, |record| (record.role, record.raft_id) = (Role::Manager.into(), id.0))?;
        if self.config.upgrades && self.faults {
            self.unrecorded.push(self.node_record(node, id));
        }
        self.start(id).map_err(|broken| self.violation(broken))?;
        Ok(id)
    }

    /// The node of a raft id.
    pub fn node_of(&self, id: RaftId) -> Option<u64> {
        self.members.get(&id).map(|member| member.node)
    }

    /// Raft ids of a node, ascending: the last one is the newest.
    pub fn raft_ids_of(&self, node: u64) -> Vec<RaftId> {
        self.members.iter().filter(|(_, member)| member.node == node).map(|(id, _)| *id).collect()
    }

    /// Asks for a manager to be demoted, without asking first whether that can be done.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn demote(&mut self, id: RaftId, forced: bool) -> Run<Option<Ticket>> {
        let Some(node) = self.node_of(id) else { return Ok(None) };
        self.edit(node, |record| (record.role, record.forced) = (Role::Worker.into(), forced))
    }

    /// Asks for a node to be removed, without asking first whether that can be done.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn remove(&mut self, id: RaftId, forced: bool) -> Run<Option<Ticket>> {
        let Some(node) = self.node_of(id) else { return Ok(None) };
        self.edit(node, |record| (record.removing, record.forced) = (true, forced))
    }

    /// Asks for a worker to be a manager: it enrols by itself.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn promote(&mut self, node: u64) -> Run<Option<Ticket>> {
        self.edit(node, |record| (record.role, record.forced) = (Role::Manager.into(), false))
    }

    /// The store of a member is gone for good, and with it the member.
    pub fn destroy(&mut self, id: RaftId) {
        self.crash(id, usize::MAX);
        if let Some(member) = self.members.get_mut(&id) {
            member.retired = true;
        }
    }

    /// From now on workers that are to be managers enrol, and managers that are none any more end.
    pub fn let_workers_enrol(&mut self) {
        self.schedule(self.now + WORKERS_LOOK, Event::Workers);
    }

    pub(super) fn workers_look(&mut self) -> Step {
        self.schedule(self.now + WORKERS_LOOK, Event::Workers);
        let Some(records) = self.leader_records() else { return Ok(()) };
        for record in &records.nodes {
            let Some(node) = record.node_id().map(number) else { continue };
            if record.raft_id != 0 {
                self.operator.enrolling.remove(&node);
            } else if record.role == i32::from(Role::Manager) && !record.removing {
                self.enrol(node)?;
            }
        }
        // Who is told that its raft id is burnt ends, or does not hear of it for a while.
        let burnt: Vec<RaftId> = records.removed.ids().filter(|id| self.is_up(*id)).collect();
        for id in burnt {
            if self.config.churn && self.hearing.chance(900) {
                continue;
            }
            self.destroy(id);
        }
        Ok(())
    }

    /// A node asks for a raft id, and starts as an empty member.
    fn enrol(&mut self, node: u64) -> Step {
        let fresh = RaftId(self.next_raft_id);
        let id = *self.operator.enrolling.entry(node).or_insert(fresh);
        if id == fresh {
            self.next_raft_id += 1;
        }
        if !self.members.contains_key(&id) {
            for old in self.raft_ids_of(node) {
                self.destroy(old);
            }
            let newcomer = self.newcomer(node, id);
            self.members.insert(id, newcomer);
            self.start(id)?;
        }
        self.edit(node, |record| record.raft_id = id.0)
            .map(|_: Option<Ticket>| ())
            .map_err(|violation| violation.broken())
    }

    /// What the leader would still do; `None` when the seats are as they are to be.
    pub fn is_at_rest(&self) -> Option<String> {
        let Some((view, policy)) = self.seats() else { return Some("nobody leads".to_owned()) };
        let down = self.members.iter().find(|(_, m)| m.process.is_none() && !m.retired && !m.stopped);
        if let Some((id, _)) = down.filter(|_| self.config.churn) {
            return Some(format!("{id} is down"));
        }
        if view.pending || view.configuration.is_joint() {
            return Some("a change is in flight".to_owned());
        }
        // Neither now nor once everybody who is silent or on the way has been so for longer than is waited for.
        let mut later = view.clone();
        for manager in later.managers.iter_mut().filter(|manager| !manager.is_ready()) {
            manager.waiting_ticks = u64::MAX;
            manager.silent_ticks = if manager.connected { 0 } else { u64::MAX };
        }
        for view in [&view, &later] {
            if let Some(change) = plan(view, &policy) {
                return Some(format!("the planner wants: {change}"));
            }
            if let Some(wanted) = stand_in(view, &policy) {
                return Some(format!("worker {} is to be promoted", number(wanted.node)));
            }
        }
        let coming = view.managers.iter().find(|manager| {
            let voter = view.configuration.voters.contains(&manager.raft_id);
            // The leader has not heard of one that has just been given its raft id, and will.
            let fresh = !view.configuration.contains(manager.raft_id) && self.is_up(manager.raft_id);
            !manager.is_ready() && (manager.connected || fresh || (manager.stands_in && !voter))
        });
        if let Some(coming) = coming {
            return Some(format!("{} is on its way", coming.raft_id));
        }
        let records = self.leader_records()?;
        if let Some(change) = settle(&records.nodes, &view.configuration).next() {
            return Some(format!("the record of {} is to follow: {}", number(change.node), change.why));
        }
        let enrolling = records
            .nodes
            .iter()
            .find(|node| node.role == i32::from(Role::Manager) && node.raft_id == 0 && !node.removing);
        enrolling.map(|node| format!("{} has no raft id yet", node.name))
    }

    /// What lies in the log of a member about changes of the configuration: index, voters before and after.
    pub fn configuration_entries(&self, id: RaftId) -> Vec<(u64, Vec<u64>, Vec<u64>)> {
        use prost011::Message as _;
        let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) else { return Vec::new() };
        let (Some(member), last) = (self.members.get(&id), process.status.last) else { return Vec::new() };
        let from = quorate_core::id::LogIndex(member.durable.start.index.0 + 1);
        let Ok(entries) = process.log_reader.entries(from, last.next(), u64::MAX) else { return Vec::new() };
        let changes = entries.into_iter().filter(|entry| entry.kind == quorate_core::log::EntryKind::Config);
        changes
            .filter_map(|entry| {
                let change = raft::eraftpb::ConfChangeV2::decode(entry.data).ok()?;
                let guard = quorate_core::consensus::guard::Guard::of(&change)?;
                Some((entry.index.0, guard.before, guard.after))
            })
            .collect()
    }

    /// Whether the records say anything of a node besides its own record.
    pub fn mentions(&self, node: u64) -> bool {
        let Some(process) = self.leader().and_then(|leader| self.members.get(&leader)?.process.as_ref()) else {
            return false;
        };
        let view = process.reader.view();
        [Section::Node, Section::Assignment, Section::Liveness, Section::Report].into_iter().any(|section| {
            let range = quorate_core::txn::Range { key: section.key(node_id(node).as_bytes()), ..Default::default() };
            quorate_core::state::read::range(&*view, &range).is_ok_and(|found| !found.entries.is_empty())
        })
    }
}

/// One record anew, if it is as it was; none: if it is not there.
fn replacing(key: Bytes, was: Option<Bytes>, value: Bytes) -> Txn {
    let unchanged = was.map_or_else(
        || Compare::absent(key.clone()),
        |was| Compare::new(key.clone(), Relation::Equal, Operand::Value(was)),
    );
    Txn { compares: vec![unchanged], ..Txn::of(Put { key, value, ..Put::default() }) }
}

/// The number of a simulated node.
pub(super) fn number(id: quorate_core::id::NodeId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *id.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
