//! Records that the leader changes itself, so that they follow what the seats have become.
//!
//! Owns when: nothing of it while a configuration change is on its way, one entry at a time, and again whenever records
//! or configuration have changed. What is written is decided by [`crate::membership::settle`]; each change is void
//! unless the record still is what it was, so that two leaders, or a late one, do no harm.

use prost::Message as _;

use super::Consensus;
use crate::command::{Batch, Command, CommandKind};
use crate::id::LogIndex;
use crate::membership::plan::{self, SeatPolicy, SeatView, Short};
use crate::membership::record::NodeRecord;
use crate::membership::settle::{self, RecordChange};
use crate::txn::Txn;

/// Records changed by one entry.
const CHANGES_AT_ONCE: usize = 32;

impl Consensus {
    /// Whether what was written last is applied, so that the records can be looked at again.
    fn records_are_current(&self) -> bool {
        self.applied >= self.members.written
    }

    pub(super) fn settle_records(&mut self) {
        if !self.members.unsettled || !self.records_are_current() {
            return;
        }
        let changes: Vec<RecordChange> =
            settle::settle(self.records.nodes.members(), &self.configuration).take(CHANGES_AT_ONCE).collect();
        // What is left is found when these are applied: they change the records.
        self.members.unsettled = !changes.is_empty() && !self.write_records(changes);
    }

    /// A worker is promoted for a seat that has nobody else to go to, and taken back when it does not arrive.
    pub(super) fn stand_in(&mut self, view: &SeatView, policy: &SeatPolicy) {
        if !self.records_are_current() {
            return;
        }
        let late = |node: &&NodeRecord| node.stands_in && self.waiting_ticks(node) >= policy.patience;
        let roster = &self.members.roster;
        let late = roster.managers(&self.records).chain(roster.enrolling(&self.records)).find(late);
        if let Some(change) = late.and_then(settle::take_back) {
            self.members.taken_back.insert(change.node, self.tick);
            self.write_records(vec![change]);
            return;
        }
        let Some(wanted) = plan::stand_in(view, policy) else {
            self.members.short_since = None;
            return;
        };
        let since = *self.members.short_since.get_or_insert(self.tick);
        if wanted.why == Short::Loss && self.tick - since < policy.promote_after {
            return;
        }
        let node = roster.eligible(&self.records).find(|node| node.node_id() == Some(wanted.node));
        if let Some(change) = node.and_then(settle::promote) {
            self.write_records(vec![change]);
        }
    }

    /// Appends the changes as one entry; says whether it was taken.
    fn write_records(&mut self, changes: Vec<RecordChange>) -> bool {
        for change in &changes {
            tracing::info!(node = %change.node, why = %change.why, "node record changes");
        }
        let Some(written) = self.append_own(changes.into_iter().map(|change| change.txn)) else { return false };
        self.members.written = written;
        true
    }

    /// Appends what the leader writes by itself as one entry, and says where it is; `None` where raft does not take it now.
    pub(super) fn append_own(&mut self, txns: impl IntoIterator<Item = Txn>) -> Option<LogIndex> {
        let commands = txns.into_iter().map(|txn| Command::from(CommandKind::System(txn))).collect();
        let taken = self.raw.propose(Vec::new(), Batch::new(commands).encode_to_vec()).is_ok();
        self.pin_timeout();
        taken.then(|| LogIndex(self.raw.raft.raft_log.last_index()))
    }
}
