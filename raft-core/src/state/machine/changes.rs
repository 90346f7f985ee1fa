//! What transactions, compactions and the end of a recovery do to the state.
//!
//! Owns the one way in which changes of keys become part of a round: live records, event, leases, usage and hash together.
//! Never decides whether a request counts. Called by the machine at apply.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{Memory, Round, replace};
use crate::command::{Compact, Recovered};
use crate::id::Revision;
use crate::keyspace::Section;
use crate::membership::record::ClusterRecord;
use crate::ports::{StateRead, StoreResult};
use crate::state::contract::{Committed, Outcome, Refusal, StateStatus};
use crate::state::execute::{Change, Executed, Present, execute};
use crate::state::hash::Lanes;
use crate::state::layout;
use crate::state::recovered::{self, COUNTER_JUMP, REVISION_JUMP};
use crate::state::stored::{Counter, Event, EventChange, StoredRecovery};
use crate::state::usage::{self, Usage, quota_of};
use crate::txn::Txn;
use crate::watch::{Changed, Unit};

impl Memory {
    pub(super) fn transact(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        txn: &Txn,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let revision = self.status.revision.next();
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let Executed { succeeded, results, changes } = match execute(present, txn, entry.term.0, revision.0)? {
            Ok(executed) => executed,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        if let Err(refusal) = self.usage.admit(&changes, self.quota) {
            self.use_as(Usage { full: true, ..self.usage });
            return Ok(Outcome::Refused(refusal));
        }
        if !changes.is_empty() {
            self.status.revision = revision;
            self.record(revision, changes, round);
        }
        Ok(self.done(succeeded, results))
    }

    /// Takes the changes of one revision into the round: live records, history, event, hash.
    pub(super) fn record(&mut self, revision: Revision, changes: Vec<Change>, round: &mut Round) {
        let mut usage = self.usage;
        round.made.push((revision.0, usage.history));
        let mut event = Event { changes: Vec::with_capacity(changes.len()), history_before: usage.history };
        let mut watched = Vec::new();
        for Change { key, stored, old, new } in changes {
            if round.gathers && key.first() == Some(&(Section::User as u8)) {
                let (new, old) = (new.clone(), old.clone());
                watched.push(Changed { key: key.clone(), new, old, old_omitted: false });
            }
            round.records_changed |= decides(&key);
            if key.first() != Some(&(Section::User as u8)) {
                round.changed.push(key.clone());
            }
            usage.change(&key, old.as_ref(), new.as_ref());
            if key.first() == Some(&(Section::Cluster as u8))
                && let Some(new) = &new
                && key == ClusterRecord::key()
                && let Ok(cluster) = ClusterRecord::decode(new.view().value)
            {
                self.quota = quota_of(&cluster);
                self.version = cluster.version;
            }
            self.leases.moves(&key, old.as_ref(), new.as_ref(), &mut self.lanes, &mut round.attached);
            round.bytes += [&old, &new].into_iter().flatten().map(|record| record.raw().len()).sum::<usize>();
            if let Some(old) = &old {
                self.lanes.remove(Lanes::of(&stored, old.raw()));
            }
            if let Some(new) = &new {
                self.lanes.add(Lanes::of(&stored, new.raw()));
            }
            let old = old.map(|old| old.raw().clone()).unwrap_or_default();
            event.changes.push(EventChange { key, deleted: new.is_none(), old });
            round.overlay.insert(stored, new);
        }
        if !watched.is_empty() {
            round.units.push(Arc::new(Unit::new(revision.0, watched)));
        }
        event.write(revision.0, &mut round.writes);
        self.use_as(usage);
    }

    /// What the store holds from now on, in the hash at once; it is written with the round.
    pub(super) fn use_as(&mut self, mut usage: Usage) {
        usage.settle(self.quota);
        if usage == self.usage {
            return;
        }
        self.usage = usage;
        self.lanes.remove(self.usage_lanes);
        self.usage_lanes = usage.stored().1;
        self.lanes.add(self.usage_lanes);
    }

    pub(super) fn compact(
        &mut self,
        store: &dyn StateRead,
        compact: &Compact,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let StateStatus { revision, compact_revision, .. } = self.status;
        if compact.revision > revision.0 {
            return Ok(Outcome::Refused(Refusal::FutureRevision { asked: compact.revision, current: revision.0 }));
        }
        let moves = compact.revision > compact_revision.0;
        if moves {
            self.status.compact_revision = Revision(compact.revision);
            let record = Counter { value: compact.revision }.encode_to_vec().into();
            replace(&mut self.lanes, &mut self.compact_lanes, layout::SYSTEM_COMPACT, record, round);
            let compacted = usage::history_up_to(store, compact.revision, &round.made)?.unwrap_or(self.usage.history);
            self.use_as(Usage { compacted, ..self.usage });
            // Nothing can be read of it any more: a view from before keeps it for whoever has begun to.
            let edge = layout::event_key(compact.revision.saturating_add(1));
            round.writes.delete_range(layout::event_key(0), edge);
        }
        Ok(self.done(moves, Vec::new()))
    }

    /// The last act of a force-new-cluster: counts once, and only in the state that was prepared for it.
    pub(super) fn recovered(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        command: &Recovered,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        if command.lineage.is_empty() || self.recovery.begun != command.lineage {
            let what = "end of a recovery that was not begun here".to_owned();
            return Ok(Outcome::Refused(Refusal::Malformed { what }));
        }
        let kept = self.status.revision;
        let revision = Revision(kept.0.saturating_add(REVISION_JUMP));
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let changes = match recovered::changes(present, command, revision.0)? {
            Ok(changes) => changes,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        self.status.revision = revision;
        self.record(revision, changes, round);
        self.leases.jump(COUNTER_JUMP, &mut self.lanes);
        round.recovered = true;
        self.compact(store, &Compact { revision: revision.0 }, round)?;
        self.recovery = StoredRecovery {
            begun: Bytes::new(),
            kept_revision: kept.0,
            first_revision: revision.0,
            index: entry.index.0,
            configuration_number: self.recovery.configuration_number,
        };
        let record = self.recovery.encode_to_vec().into();
        replace(&mut self.lanes, &mut self.recovery_lanes, layout::SYSTEM_RECOVERY, record, round);
        Ok(self.done(true, Vec::new()))
    }
}

/// Whether the record of this full key is one that decisions are made from: everything but what users store, and what
/// is kept for workers by the thousand.
fn decides(key: &[u8]) -> bool {
    let beside = [Section::User, Section::Assignment, Section::Liveness, Section::Report];
    !beside.iter().any(|section| key.first() == Some(&(*section as u8)))
}
