//! Upgrades: members whose binaries are replaced, forwards and back, while everything else goes wrong.
//!
//! Owns which versions each member's binary knows, what members report of it, and the draws of all that, from a stream of its
//! own. Here no hello keeps an old member away from a cluster that has gone on: it meets what it does not know, and must
//! stop there. Called by the world at the moments that this file schedules, and by scenarios.

use bytes::Bytes;

use super::acts::Act;
use super::check::{Broken, broken};
use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::member::Member;
use super::world::{Run, Step, World};
use prost::Message as _;
use quorate_core::command::{Batch, Command, CommandKind, Request};
use quorate_core::consensus::io::{Records, Ticket};
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::membership::nodes::Nodes;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::membership::upgrade::{HeldBack, Support, counts, finish};
use quorate_core::state::contract::{ApplyError, Committed, Payload};
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::Range;

/// The older version of a run with upgrades.
pub(super) const OLD: u32 = 1;
/// The newer one.
pub const NEW: u32 = 2;

impl World {
    /// A node with an empty disk. In a run with upgrades it comes with the newer binary: with an older one it might not be let
    /// in.
    pub(super) fn newcomer(&self, node: u64, id: RaftId) -> Member {
        let mut member = Member::new(node, id, self.config.seed, 0);
        if self.config.upgrades {
            member.knows = NEW;
        }
        member
    }

    /// The newest version that the binary of `id` knows; of a node without a raft id, what it would come with.
    pub(super) fn knows(&self, id: RaftId) -> u32 {
        let otherwise = if self.config.upgrades { NEW } else { self.config.version() };
        self.members.get(&id).map_or(otherwise, |member| member.knows)
    }

    /// The binary of `id` is replaced by one that knows versions up to `knows`: in force when its process starts again.
    pub fn replace_binary(&mut self, id: RaftId, knows: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.knows = knows;
            member.outdated = member.outdated.filter(|needed| *needed > knows);
        }
    }

    /// The process of `id` is killed, and started again with a binary that knows versions up to `knows`.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn reinstall(&mut self, id: RaftId, knows: u32) -> Run {
        self.crash(id, usize::MAX);
        self.replace_binary(id, knows);
        self.restart(id)
    }

    /// Whether `id` has stopped because its binary does not know what its cluster has gone on to.
    pub fn is_outdated(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|member| member.outdated.is_some())
    }

    /// Every member that is up reports which versions its binary knows.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn announce(&mut self) -> Run {
        let Some(records) = self.leader_records() else { return Ok(()) };
        let up: Vec<(RaftId, u64, u32)> =
            self.members.iter().filter(|(_, m)| m.process.is_some()).map(|(id, m)| (*id, m.node, m.knows)).collect();
        for (id, node, knows) in up {
            let said = records.by_raft_id(id).map(|record| record.command_version);
            if said.is_some_and(|said| said != knows) {
                self.edit(node, |record| record.command_version = knows)?;
            }
        }
        Ok(())
    }

    /// The operator says that the upgrade is finished; `None` when there is nothing to finish.
    ///
    /// # Errors
    /// A broken invariant; inside it who holds the upgrade back.
    pub fn finish_upgrade(&mut self) -> Run<Result<Option<Ticket>, HeldBack>> {
        let (Some(records), Some(leader)) = (self.leader_records(), self.leader()) else { return Ok(Ok(None)) };
        match finish(&records.cluster, &records.nodes) {
            Ok(Some(finish)) => Ok(Ok(Some(self.command(leader, CommandKind::System(finish.txn()).into())?))),
            Ok(None) => Ok(Ok(None)),
            Err(held) => Ok(Err(held)),
        }
    }

    /// Proposes what only the newer version knows: a note on the cluster.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn note(&mut self, at: RaftId, text: &str) -> Run<Ticket> {
        self.operator.notes += 1;
        let request = Request {
            client: Bytes::from_static(&[8; 16]),
            sequence: self.operator.notes,
            note: Some(text.to_owned()),
            ..Request::default()
        };
        self.command(at, Command::from(CommandKind::Request(request)))
    }

    /// One event of a rolling upgrade, and the time of the next.
    pub(super) fn upgrade_somehow(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.upgrading.between(ELECTION / 2, 2 * ELECTION);
        self.schedule(next, Event::Upgrade);
        self.draw_upgrade().map_err(|violation| violation.broken())
    }

    fn draw_upgrade(&mut self) -> Run {
        let ids: Vec<RaftId> = self.members.iter().filter(|(_, m)| !m.retired).map(|(id, _)| *id).collect();
        let old: Vec<RaftId> =
            ids.iter().copied().filter(|id| self.members.get(id).is_some_and(|member| member.knows == OLD)).collect();
        // Somebody works through the list of those that are left, most of the time.
        let next = self.upgrading.pick(&old).filter(|_| self.upgrading.chance(800));
        let Some(target) = next.or_else(|| self.upgrading.pick(&ids)) else { return Ok(()) };
        let id = target.0;
        let act = match self.upgrading.between(0, 9) {
            0..=3 => {
                // Forwards most of the time, and back now and then, also when there is no way back any more.
                let onwards = if self.enabled == NEW { 700 } else { 900 };
                let knows = if self.upgrading.chance(onwards) { NEW } else { OLD };
                Act::Reinstall { id, knows, down: self.upgrading.between(MILLIS, ELECTION) }
            }
            4..=6 => Act::Finish,
            _ => Act::Note { at: id },
        };
        self.act(act)
    }

    /// After peace: everybody has the newer binary, and unless somebody who never comes back holds it back, the upgrade is
    /// finished and what it brings works.
    pub(super) fn finish_in_peace(&mut self) -> Run {
        let at_new = |world: &Self| world.leader_records().is_some_and(|records| records.cluster.version == NEW);
        let held = |world: &Self| {
            let records = world.leader_records();
            records.is_some_and(|records| {
                records.nodes.members().any(|node| {
                    let up = node.raft().is_some_and(|id| world.is_up(id));
                    counts(node) && node.command_version < NEW && !up
                })
            })
        };
        for _attempt in 0..20 {
            if held(self) {
                return Ok(());
            }
            if at_new(self) {
                break;
            }
            self.announce()?;
            self.run_for(2 * ELECTION)?;
            let _held_back_until_announced = self.finish_upgrade()?;
            self.run_for(2 * ELECTION)?;
        }
        let Some(leader) = self.leader().filter(|_| at_new(self)) else {
            let detail = format!("{:?}", self.leader_records().map(|records| records.cluster.version));
            return Err(self.violation(Broken { invariant: "upgrade_finishes_after_peace", detail }));
        };
        let ticket = self.note(leader, "after peace")?;
        let done = self.run_until(10 * ELECTION, |world| world.reply(ticket).is_some())?;
        if !done || !matches!(self.reply(ticket), Some(super::Reply::Outcome(_))) {
            let detail = format!("a note was answered with {:?}", self.reply(ticket));
            return Err(self.violation(Broken { invariant: "upgrade_finishes_after_peace", detail }));
        }
        Ok(())
    }

    /// The format that each entry needs; only what carries commands needs any.
    fn needs(entry: &Committed) -> u32 {
        match &entry.payload {
            Payload::Commands { data, .. } => Batch::decode(data.clone()).map_or(0, |batch| batch.needs(u32::MAX - 1)),
            Payload::Empty | Payload::Configuration { .. } => 0,
        }
    }

    /// `id` has applied these entries.
    pub(super) fn versions_applied(&mut self, id: RaftId, entries: &[Committed], records: Option<&Records>) -> Step {
        if !self.config.upgrades {
            return Ok(());
        }
        let knows = self.members.get(&id).map_or(0, |member| member.knows);
        let newest = entries.iter().map(Self::needs).max().unwrap_or(0);
        if newest > knows {
            return broken(
                "unknown_commands_stop_there",
                format!("{id} knows {knows} and applied what needs {newest}"),
            );
        }
        if newest > self.enabled.max(records.map_or(0, |records| records.cluster.version)) {
            return broken("newer_commands_wait_for_the_finish", format!("{id} applied what needs {newest}"));
        }
        let Some(records) = records else { return Ok(()) };
        if records.cluster.version > self.enabled {
            let version = records.cluster.version;
            let lacks = |node: &&NodeRecord| counts(node) && Support::of(node).check(version).is_err();
            match self.nodes_at_the_rise(id, version) {
                Ok((raised, nodes)) => {
                    if let Some(node) = nodes.members().find(lacks) {
                        let supports = node.command_version;
                        let detail =
                            format!("version {version} since revision {raised}, and {} supports {supports}", node.name);
                        return broken("version_rises_when_all_support_it", detail);
                    }
                }
                Err(error) => return broken("records_can_be_read", format!("{id}: {error}")),
            }
            self.enabled = version;
        }
        Ok(())
    }

    /// The revision that raised the cluster's version to `version`, and the nodes as they were at it: who writes later in the same
    /// round, as a manager does that has just gone back to its older binary, took part in nothing that was judged.
    fn nodes_at_the_rise(&self, id: RaftId, version: u32) -> Result<(u64, Nodes), ReadError> {
        let Some(view) = self.view(id) else { return Ok((0, Nodes::default())) };
        let mut raised = 0;
        loop {
            let key = ClusterRecord::key();
            let found = read::range(&*view, &Range { key, revision: raised, ..Range::default() })?;
            let Some(entry) = found.entries.first() else { break };
            if ClusterRecord::decode(entry.value.clone()).is_ok_and(|cluster| cluster.version < version) {
                break;
            }
            // It may have been written again since.
            raised = entry.mod_revision - 1;
        }
        let (key, end) = (Section::Node.key(b""), Section::Node.end());
        let found = read::range(&*view, &Range { key, end, revision: raised + 1, ..Range::default() })?;
        Ok((raised + 1, found.entries.into_iter().filter_map(|entry| NodeRecord::decode(entry.value).ok()).collect()))
    }

    /// `id` did not go on: it stands right before what it does not know, and what it had of the round counts.
    pub(super) fn version_missing(&mut self, id: RaftId, error: &ApplyError, before: LogIndex) -> Step {
        let Some(process) = self.process(id) else { return Ok(()) };
        let applied = process.machine.status().applied;
        let stands = match error {
            ApplyError::NeedsVersion { index, .. } => applied.next() == *index,
            ApplyError::ClusterNeedsVersion { .. } => applied >= before,
            ApplyError::Store(_) | ApplyError::Broken { .. } => return Ok(()),
        };
        let stored = read::status(&*process.reader.view()).map(|status| status.applied);
        if !stands || stored != Ok(applied) {
            return broken(
                "unknown_commands_stop_there",
                format!("{id} stands at {applied}, {stored:?} stored: {error}"),
            );
        }
        self.report.outdated += 1;
        Ok(())
    }
}
