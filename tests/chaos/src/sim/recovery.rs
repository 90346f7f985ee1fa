//! Force-new-cluster in the simulated cluster: a survivor's disk is recovered, and incarnations that meet fence the old one.
//!
//! Owns what a node's `recover` does to a disk, and what its hello does between incarnations: two members of different
//! lineages exchange nothing, and the one with the shorter lineage is shown the words for the longer one, which it weighs by the
//! very code of a node ([`quorate_core::succession`]); once they count it writes a fence record and stops for good. Called by directed
//! scenarios, and by the world when connections change and at each tick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::check::{Broken, Checks, broken, keys};
use super::world::{Run, World, node_id};
use quorate_core::command::{Batch, Command, CommandKind};
use quorate_core::consensus::configurations::{self, ConfigurationEntry};
use quorate_core::consensus::io::{RaftRole, Records, Ticket};
use quorate_core::id::{Lineage, LineageId, LineageOrder, NodeId, RaftId};
use quorate_core::log::LogEntry;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::ports::StateRead;
use quorate_core::recovery::{Findings, Incarnation, RecoveryError, Survivor, Verdict, plan};
use quorate_core::state::read;
use quorate_core::succession::{Checked, Succession, Weight, step, weigh};
use quorate_core::testing::Fault;
use quorate_core::txn::{Put, Range, Txn};

/// The fact that keeps a directory of an old incarnation from being started.
pub(super) const FENCE: &str = "fence";

/// What came of a recovery.
#[derive(Debug, Clone, PartialEq)]
pub enum Recovering {
    /// Nothing was to be done: it is alone already.
    Alone,
    /// It was begun before and is finished by the next start.
    Begun,
    /// It was written; a start finishes it.
    Written {
        /// What the disk held.
        findings: Box<Findings>,
        /// The newest revision that is kept.
        kept_revision: u64,
        /// The first revision of the new incarnation.
        first_revision: u64,
    },
    /// The disk cannot be recovered from.
    Refused(RecoveryError),
}

/// What a member was shown of a newer incarnation.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    checked: Checked,
    /// Of that incarnation.
    lineage: Bytes,
}

/// The key of a node. Its digest, which records have, is itself here: what is signed with a key is not played.
pub(super) fn key_of(node: u64) -> Bytes {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&node.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The survivor's word for what it begins, with its own signature and the CA's.
fn word(node: u64, lineage: &Lineage) -> Succession {
    Succession {
        lineage: lineage.to_bytes().into(),
        member: Bytes::copy_from_slice(node_id(node).as_bytes()),
        member_key: key_of(node),
        signature: Bytes::from_static(b"the node's"),
        ca_signature: Bytes::from_static(b"the CA's"),
        ..Succession::default()
    }
}

/// What holds of a word: whatever is signed holds.
fn checked(word: &Succession) -> Option<Checked> {
    Some(Checked {
        member: NodeId::from_slice(&word.member)?,
        key_digest: word.member_key.as_ref().try_into().ok()?,
        by_member: !word.signature.is_empty(),
        by_ca: !word.ca_signature.is_empty(),
    })
}

/// The writes of simulated clients that a disk holds: in its state, or in what is committed of the log above it.
fn held(view: &dyn StateRead, tail: &[&LogEntry], asked: &BTreeSet<(u64, u64)>) -> BTreeSet<(u64, u64)> {
    let there = |write: &(u64, u64)| {
        let key = keys(write.0, write.1).1;
        read::range(view, &Range { key, ..Range::default() }).is_ok_and(|found| !found.entries.is_empty())
    };
    let mut held: BTreeSet<(u64, u64)> = asked.iter().filter(|write| there(write)).copied().collect();
    for entry in tail {
        let Ok(batch) = Batch::decode(entry.data.clone()) else { continue };
        for command in batch.commands {
            let Some(CommandKind::Request(request)) = command.kind else { continue };
            let client = request.client.get(8..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            held.extend(client.map(|client| (client, request.sequence)));
        }
    }
    held
}

impl World {
    /// Which incarnation a member is of; 0 is the founding.
    pub fn incarnation(&self, id: RaftId) -> usize {
        self.members.get(&id).map_or(0, |member| member.incarnation)
    }

    /// What is known of the incarnation that this member is of.
    pub(super) fn checks_of(&mut self, id: RaftId) -> &mut Checks {
        let last = self.checks.len() - 1;
        let at = self.incarnation(id).min(last);
        &mut self.checks[at]
    }

    /// Whether the hellos of two members let them talk: their lineages are equal, by the very code of a node.
    pub(super) fn may_talk(&self, a: usize, b: usize) -> bool {
        a == b
            || match (self.incarnations.get(a), self.incarnations.get(b)) {
                (Some(a), Some(b)) => a.compare(b) == LineageOrder::Equal,
                (None, _) | (_, None) => false,
            }
    }

    pub(super) fn lineage(&self, id: RaftId) -> Lineage {
        self.incarnations.get(self.incarnation(id)).cloned().unwrap_or_default()
    }

    /// Hellos: of two members that reach each other, the one of an older incarnation is shown the newer one.
    pub(super) fn meet(&mut self, id: RaftId) {
        if !self.is_up(id) {
            return;
        }
        let ours = self.lineage(id);
        let others: Vec<RaftId> = self
            .ids()
            .into_iter()
            .filter(|other| *other != id && self.is_up(*other) && self.link_is_up(id, *other))
            .collect();
        for other in others {
            match ours.compare(&self.lineage(other)) {
                LineageOrder::Equal | LineageOrder::Forked => {}
                LineageOrder::Older => self.shown(id, other),
                LineageOrder::Newer => self.shown(other, id),
            }
            if !self.is_up(id) {
                return;
            }
        }
    }

    /// `old` hears of the incarnation of `newer`, with the words that stand for it.
    fn shown(&mut self, old: RaftId, newer: RaftId) {
        let words = self.records(newer).map(|records| records.recovery.successions.clone()).unwrap_or_default();
        let (ours, theirs) = (self.lineage(old), self.lineage(newer));
        let Some(checked) = step(&ours, &theirs, &words).and_then(checked) else { return };
        if let Some(process) = self.process(old) {
            process.claim = Some(Claim { checked, lineage: theirs.to_bytes().into() });
        }
        self.weigh_claim(old);
    }

    /// What `id` was shown is weighed, by its own records and by how long it has had no leader.
    pub(super) fn weigh_claim(&mut self, id: RaftId) {
        let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) else { return };
        let Some(Claim { checked, lineage }) = process.claim.clone() else { return };
        let weight = weigh(&process.records.nodes, &process.records.removed, &checked);
        if weight.fences(process.consensus.status().leaderless_ticks) {
            self.report.claimed += u64::from(weight == Weight::Claimed);
            self.fence(id, lineage);
        }
    }

    /// The record first, synced; then the end.
    fn fence(&mut self, old: RaftId, lineage: Bytes) {
        let Some(process) = self.process(old) else { return };
        if process.meta.put(&[(FENCE, lineage)]).is_ok() {
            self.trace.line(self.now, || format!("{old} is fenced"));
        }
        self.crash(old, usize::MAX);
    }

    /// Whether the member is down and its directory says that a newer incarnation exists.
    pub fn is_fenced(&self, id: RaftId) -> bool {
        let down = self.members.get(&id).filter(|member| member.process.is_none());
        down.and_then(|member| member.disk.open().ok()?.meta.get(FENCE).ok()?).is_some()
    }

    /// Recovers from the disk of `id`, which must be down, as an operator does.
    ///
    /// # Errors
    /// A `Violation` when the disk cannot be opened or written.
    pub fn recover(&mut self, id: RaftId) -> Run<Recovering> {
        self.try_recover(id).map_err(|broken| self.violation(broken))
    }

    fn try_recover(&mut self, id: RaftId) -> Result<Recovering, Broken> {
        let Some(member) = self.members.get(&id).filter(|member| member.process.is_none()) else {
            return broken("a_locked_directory_is_refused", format!("{id} runs"));
        };
        let mut open = match member.disk.open() {
            Ok(open) => open,
            Err(error) => return broken("a_crash_is_survived", error.to_string()),
        };
        let view = open.state.reader().view();
        let generation = u8::try_from(self.incarnations.len()).unwrap_or(u8::MAX);
        let begun = LineageId::from_bytes([100 + generation; 16]);
        let mut lineage = Records::read(&*view).map(|records| records.lineage()).unwrap_or_default();
        lineage.0.push(begun);
        let survivor = Survivor {
            boot: &open.boot,
            state: view.clone(),
            log: &*open.log_reader,
            node: self.node_record(member.node, id),
            addresses: Vec::new(),
            incarnation: Incarnation { id: begun, succession: word(member.node, &lineage), ..Incarnation::default() },
        };
        let recovery = match plan(&survivor) {
            Ok(recovery) => recovery,
            Err(error) => return Ok(Recovering::Refused(error)),
        };
        let findings = recovery.findings;
        let outcome = match recovery.verdict {
            Verdict::Alone => return Ok(Recovering::Alone),
            Verdict::Begun => return Ok(Recovering::Begun),
            Verdict::Write(outcome) => outcome,
        };
        let tail =
            open.log_reader.entries(findings.applied.next(), open.boot.last.next(), u64::MAX).unwrap_or_default();
        let checks = &self.checks[member.incarnation.min(self.checks.len() - 1)];
        // A tail that was never committed may hold an earlier attempt of what others acknowledged, in an order of its own.
        let committed: Vec<&LogEntry> =
            tail.iter().filter(|entry| checks.is_committed(entry.index.0, entry.term.0)).collect();
        let held = held(&*view, &committed, &checks.attempted);
        let revision = read::status(&*view).map_or(0, |status| status.revision.0);
        let mut next = checks.recovered(id, findings.applied.0, &held);
        next.forget_above(revision);
        if let Err(error) = open.state.recover(outcome.write) {
            return broken("a_recovery_is_written", error.to_string());
        }
        self.checks.push(next);
        self.incarnations.push(outcome.lineage);
        let incarnation = self.incarnations.len() - 1;
        if let Some(member) = self.members.get_mut(&id) {
            member.incarnation = incarnation;
        }
        self.trace.line(self.now, || format!("{id} is recovered, incarnation {incarnation}"));
        Ok(Recovering::Written {
            findings: Box::new(findings),
            kept_revision: outcome.kept_revision.0,
            first_revision: outcome.first_revision.0,
        })
    }

    /// A recovery whose write fails, or whose sync does and leaves `keep` batches on the disk; says whether it failed. What
    /// is known of the incarnation is taken over, should all of it have reached the disk.
    ///
    /// # Errors
    /// A `Violation` when the disk cannot be opened.
    pub fn recover_failing(&mut self, id: RaftId, sync: bool, keep: usize) -> Run<bool> {
        let before = (self.checks.len(), self.incarnation(id));
        let Some(disk) = self.members.get(&id).map(|member| member.disk.clone()) else { return Ok(false) };
        if sync {
            disk.fail_next_sync(Fault::Io);
        } else {
            disk.fail_next_write(Fault::Io);
        }
        let failed = self.try_recover(id).is_err();
        disk.crash(keep);
        let begun = disk.open().and_then(|open| read::recovery(&*open.state.reader().view()));
        if begun.is_ok_and(|recovery| recovery.begun.is_some()) {
            self.adopt(id);
        } else {
            debug_assert_eq!(before, (self.checks.len(), self.incarnation(id)));
        }
        Ok(failed)
    }

    /// The incarnation that the disk of `id` says it is of.
    fn adopt(&mut self, id: RaftId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let Ok(open) = member.disk.open() else { return };
        let view = open.state.reader().view();
        let Ok(records) = Records::read(&*view) else { return };
        let applied = read::status(&*view).map_or(0, |status| status.applied.0);
        let revision = read::status(&*view).map_or(0, |status| status.revision.0);
        let mut next = self.checks[member.incarnation].recovered(id, applied, &BTreeSet::new());
        next.forget_above(revision);
        self.checks.push(next);
        self.incarnations.push(records.lineage());
        member.incarnation = self.incarnations.len() - 1;
    }

    /// From now on appliers take up to so long for a round, nanoseconds.
    pub const fn slow_apply(&mut self, nanos: u64) {
        self.config.apply_max = nanos;
    }

    /// Who leads in an incarnation, among the members that are up.
    pub fn leader_of(&self, incarnation: usize) -> Option<RaftId> {
        let leads = |id: &RaftId| self.status(*id).is_some_and(|status| status.role == Some(RaftRole::Leader));
        let members = self.ids().into_iter().filter(|id| self.incarnation(*id) == incarnation).filter(leads);
        members.max_by_key(|id| self.status(*id).map(|status| status.term))
    }

    /// The state of a member that is up, as it is now.
    pub fn view(&self, id: RaftId) -> Option<Arc<dyn StateRead>> {
        Some(self.members.get(&id)?.process.as_ref()?.reader.view())
    }

    /// The records of a member that is up, as it has followed them.
    pub fn records(&self, id: RaftId) -> Option<Arc<Records>> {
        Some(Arc::clone(&self.members.get(&id)?.process.as_ref()?.records))
    }

    /// Where the log of a member that is up begins, as it is on its disk.
    pub fn log_start(&self, id: RaftId) -> u64 {
        self.members.get(&id).map_or(0, |member| member.durable.start.index.0)
    }

    /// Every configuration entry in the log of a member that is down, and what became of it.
    pub fn configurations(&self, id: RaftId) -> Vec<ConfigurationEntry> {
        let read = || {
            let open = self.members.get(&id)?.disk.open().ok()?;
            let view = open.state.reader().view();
            let log = open.log_reader.entries(open.boot.start.index.next(), open.boot.last.next(), u64::MAX);
            let records = Records::read(&*view).ok()?;
            let status = read::status(&*view).ok()?;
            Some(configurations::list(&status, &records.recovery, &records.lineage(), &log.unwrap_or_default()))
        };
        read().unwrap_or_default()
    }

    /// The writes acknowledged in an incarnation (or taken over into it) with their revisions.
    pub fn acknowledged(&self, incarnation: usize) -> BTreeMap<(u64, u64), u64> {
        self.checks.get(incarnation).map(|checks| checks.acked.clone()).unwrap_or_default()
    }

    /// The fencing tokens under which members of an incarnation acted.
    pub fn tokens(&self, incarnation: usize) -> BTreeSet<u64> {
        self.checks.get(incarnation).map(Checks::tokens).unwrap_or_default()
    }

    /// Every acknowledged write that must be there is there, on every member of the newest incarnation.
    ///
    /// # Errors
    /// What is missing.
    pub fn audit_newest(&self) -> Run {
        self.audit().map_err(|broken| self.violation(broken))
    }

    /// A new manager joins the incarnation of `leader` with an empty disk; answers its raft id and what was asked.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn join(&mut self, leader: RaftId) -> Run<(RaftId, Ticket)> {
        let records = self.records(leader).unwrap_or_default();
        let node = 1 + self.members.values().map(|member| member.node).max().unwrap_or(0);
        let fresh = RaftId(records.cluster.next_raft_id);
        let record = self.node_record(node, fresh);
        let cluster = ClusterRecord { next_raft_id: fresh.0 + 1, ..records.cluster.clone() };
        let put = |key, value| Put { key, value, ..Put::default() }.into();
        let txn = Txn {
            then: vec![
                put(ClusterRecord::key(), cluster.to_bytes()),
                put(NodeRecord::key(node_id(node)), record.to_bytes()),
            ],
            ..Txn::default()
        };
        let mut member = self.newcomer(node, fresh);
        member.incarnation = self.incarnation(leader);
        self.members.insert(fresh, member);
        let ticket = self.command(leader, Command::from(CommandKind::System(txn)))?;
        self.restart(fresh)?;
        Ok((fresh, ticket))
    }
}
