//! Stores that are lost: a bit that turns in a record which was synced, a disk that is gone, and what becomes of their nodes.
//!
//! Owns the draw of the record, and the operator's answer: from a damaged store no node is started again; it comes back with an
//! empty one, under a new raft id. At most one store in a run, and only while losing it is survived. Called by the world.

use super::acts::Act;
use super::check::broken;
use super::config::ELECTION;
use super::event::Event;
use super::world::{Step, World};
use quorate_core::consensus::io::Input;
use quorate_core::id::RaftId;
use quorate_core::keyspace::Section;
use quorate_core::membership::record::NodeRecord;
use quorate_core::mutants::{Mutant, on};
use quorate_core::ports::StoreError;
use quorate_core::state::live_range;
use quorate_core::testing::MemoryStore;

impl World {
    /// The one of this run, as soon as it may be.
    pub(super) fn rot_somewhere(&mut self) -> Step {
        if !self.faults || self.damaged {
            return Ok(());
        }
        let voters: Vec<RaftId> = self
            .leader()
            .and_then(|leader| self.status(leader))
            .map(|status| status.configuration.voters.clone())
            .unwrap_or_default();
        let anybody = self.rotting.pick(&voters);
        let target = if self.rotting.chance(400) { self.leader().or(anybody) } else { anybody };
        let (log, nth) = (self.rotting.chance(600), self.rotting.between(0, 1_000_000));
        match target {
            Some(RaftId(id)) if self.is_whole() => self.perform_act(Act::Rot { id, log, nth })?,
            Some(_) | None => {}
        }
        if !self.damaged {
            let again = self.now + self.rotting.between(ELECTION, 4 * ELECTION);
            self.schedule(again, Event::Rot);
        }
        Ok(())
    }

    /// See [`Act::Rot`].
    pub(super) fn rot(&mut self, id: RaftId, log: bool, nth: u64) {
        let Some(member) = self.members.get(&id) else { return };
        let record = if log {
            member.disk.rot_log(nth).map(|index| format!("entry {index}"))
        } else {
            let (from, to) = live_range(Section::User);
            let key = member.disk.rot_state(nth, &from, &to);
            key.map(|key| format!("key {}", key.escape_ascii()))
        };
        let Some(record) = record else { return };
        self.damaged = true;
        self.report.rotten += 1;
        self.trace.line(self.now, || format!("{id}: {record} is rotten"));
    }

    pub(super) fn is_rotten(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|member| member.disk.is_rotten())
    }

    /// What `id` reads it cannot read: of a damaged store its process stops, of any other nobody knows why.
    pub(super) fn unreadable(&mut self, id: RaftId, invariant: &'static str, error: StoreError) -> Step {
        if matches!(error, StoreError::Corrupt { .. }) && self.is_rotten(id) {
            return self.input(id, [Input::StoreFailed(error)]);
        }
        broken(invariant, format!("{id}: {error}"))
    }

    /// The node refuses to start from its store: rightly, when that is damaged.
    pub(super) fn does_not_start(&mut self, id: RaftId, error: &StoreError) -> Step {
        if matches!(error, StoreError::Corrupt { .. }) && self.is_rotten(id) {
            return self.refuse(id);
        }
        broken("a_crash_is_survived", format!("{id} cannot open its store: {error}"))
    }

    /// Damage was found before anything was told that rests on it: the operator gives the store up.
    pub(super) fn refuse(&mut self, id: RaftId) -> Step {
        self.report.damage_found += 1;
        self.trace.line(self.now, || format!("{id} is damaged, and is not started from again"));
        self.come_back_empty(id, on(Mutant::DamagedRefilled))
    }

    /// Operators have every store checked: what nobody has read yet is found now.
    pub(super) fn look_for_rot(&mut self) -> Step {
        let rotten: Vec<RaftId> = self
            .members
            .iter()
            .filter(|(_, member)| !member.retired && member.disk.is_rotten())
            .map(|(id, _)| *id)
            .collect();
        rotten.into_iter().try_for_each(|id| self.refuse(id))
    }

    /// The disk of `target` is lost, which does not lead: its node comes back with a fresh one under a new raft id.
    pub(super) fn replace(&mut self, target: RaftId) -> Step {
        if self.leader() == Some(target) || self.leader().is_none() {
            return Ok(());
        }
        self.come_back_empty(target, on(Mutant::WipedComesBack))
    }

    /// The node of `target` comes back with an empty store under a new raft id, or, by mistake, under the same.
    fn come_back_empty(&mut self, target: RaftId, under_the_same: bool) -> Step {
        let Some(node) = self.members.get(&target).map(|member| member.node) else { return Ok(()) };
        if under_the_same {
            self.crash(target, usize::MAX);
            if let Some(member) = self.members.get_mut(&target) {
                member.disk = MemoryStore::new();
            }
            return self.start(target);
        }
        let fresh = RaftId(self.next_raft_id);
        let record = NodeRecord { replaces: target.0, ..self.node_record(node, fresh) };
        self.next_raft_id += 1;
        self.crash(target, usize::MAX);
        if let Some(member) = self.members.get_mut(&target) {
            member.retired = true;
        }
        let newcomer = self.newcomer(node, fresh);
        self.members.insert(fresh, newcomer);
        self.start(fresh)?;
        // Whoever leads when the record is written takes it from here.
        self.unrecorded.retain(|waiting| waiting.id != record.id);
        self.unrecorded.insert(0, record);
        Ok(())
    }
}
