//! What each command does to the state in memory, and to the round at work.
//!
//! Owns the way of a command: what a retry is answered with, what is refused, and the revision that a change makes, with its
//! history, its event, its place in the hash and in the count of bytes. Never commits anything. Called by the machine, entry by entry.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{Memory, Round, malformed, replace};
use crate::command::{CommandKind, Compact, Recovered, Request};
use crate::id::Revision;
use crate::keyspace::Section;
use crate::limits::{ENTRY_BYTES_MAX, HASHES_KEPT};
use crate::membership::record::ClusterRecord;
use crate::ports::{StateRead, StoreResult};
use crate::state::contract::{Committed, Outcome, Refusal, StateStatus};
use crate::state::execute::{Change, Executed, Present, execute};
use crate::state::hash::Lanes;
use crate::state::layout;
use crate::state::recovered::{self, Jump};
use crate::state::references;
use crate::state::replay::{Ledger, Standing};
use crate::state::stored::{Counter, Event, EventChange, StoredRecovery};
use crate::state::usage::{self, Usage, quota_of};
use crate::txn::{OpResult, Txn, TxnResult};
use crate::watch::{Changed, Unit};

impl Memory {
    pub(super) fn apply_command(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        kind: CommandKind,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let before = self.status.revision;
        let outcome = match kind {
            CommandKind::Request(request) => self.request(store, entry, &request, round)?,
            CommandKind::System(txn) => self.transact(store, entry, &txn, round)?,
            CommandKind::Compact(compact) => self.compact(store, &compact, round)?,
            CommandKind::ExpireClients(expire) => {
                let floor = self.replay.floor();
                let mut ledger = Ledger { lanes: &mut self.lanes, writes: &mut round.writes };
                let expired = self.replay.expire(&expire.clients, entry.index, &mut ledger);
                if self.replay.floor() > floor {
                    let record = Counter { value: self.replay.floor() }.encode_to_vec().into();
                    replace(&mut self.lanes, &mut self.floor_lanes, layout::SYSTEM_FLOOR, record, round);
                }
                self.done(expired > 0, Vec::new())
            }
            CommandKind::Recovered(recovered) => self.recovered(store, entry, &recovered, round)?,
            CommandKind::ExpireLeases(expire) => self.expire_leases(store, entry, &expire, round)?,
            CommandKind::Keyring(order) => self.order_keyring(store, &order, round)?,
        };
        // What the replay table keeps of the command joins the hash with the page of its entry.
        self.note_hash(before);
        Ok(outcome)
    }

    /// Keeps the digest of a revision that was made after `before`.
    pub(super) fn note_hash(&mut self, before: Revision) {
        let known = self.hashes.back().map_or(before, |(revision, _)| before.max(*revision));
        if self.status.revision <= known {
            return;
        }
        self.revision_hash = self.lanes.digest();
        if self.hashes.len() >= HASHES_KEPT {
            self.hashes.pop_front();
        }
        self.hashes.push_back((self.status.revision, self.revision_hash));
    }

    fn request(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        request: &Request,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let mut ledger = Ledger { lanes: &mut self.lanes, writes: &mut round.writes };
        let id = match self.replay.admit(request, entry.index, &mut ledger)? {
            Standing::Settled(outcome) => return Ok(outcome),
            Standing::New(id) => id,
        };
        let beyond = request.beyond_version_1();
        let outcome = if round.entry_bytes as u64 > ENTRY_BYTES_MAX {
            // Whatever it is: it comes again, in an entry of its own, and not with all of this in memory.
            Outcome::Refused(Refusal::Limit {
                what: "what the writes before it in one entry of the log have replaced".to_owned(),
                limit: "ENTRY_BYTES_MAX",
                max: ENTRY_BYTES_MAX,
                actual: round.entry_bytes as u64,
            })
        } else {
            match (&request.txn, &request.lease, &beyond) {
                (Some(txn), None, None) | (None, None, Some(txn)) => self.transact(store, entry, txn, round)?,
                (None, Some(order), None) => self.order_lease(store, entry, order, round)?,
                (None, None, None) => malformed("request without a transaction"),
                (Some(_), Some(_), _) => malformed("request with both a transaction and an order for a lease"),
                (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => malformed("request for two things at once"),
            }
        };
        let mut ledger = Ledger { lanes: &mut self.lanes, writes: &mut round.writes };
        match &outcome {
            Outcome::Refused(refusal) if !refusal.is_kept() => self.replay.let_pass(id, &mut ledger),
            Outcome::Done(_) | Outcome::Refused(_) => self.replay.keep(id, entry.index, &outcome, &mut ledger),
        }
        Ok(outcome)
    }

    pub(super) fn transact(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        txn: &Txn,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let revision = self.status.revision.next();
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let Executed { succeeded, results, mut changes } = match execute(present, txn, entry.term.0, revision.0)? {
            Ok(executed) => executed,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        if let Err(refusal) = self.admit_sealed(&changes) {
            return Ok(Outcome::Refused(refusal));
        }
        match references::follow(present, &changes, revision.0)? {
            Ok(followed) => changes.extend(followed),
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        }
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
        self.follow_keyring(&changes, round);
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
            let bytes = [&old, &new].into_iter().flatten().map(|record| record.raw().len()).sum::<usize>();
            (round.bytes, round.entry_bytes) = (round.bytes + bytes, round.entry_bytes + bytes);
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

    fn compact(&mut self, store: &dyn StateRead, compact: &Compact, round: &mut Round) -> StoreResult<Outcome> {
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
    fn recovered(
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
        let jump = Jump::of(command);
        let revision = Revision(jump.revision(kept.0));
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let changes = match recovered::changes(present, command, revision.0)? {
            Ok(changes) => changes,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        self.status.revision = revision;
        self.record(revision, changes, round);
        self.rotate_keyring(round);
        self.leases.jump(jump, &mut self.lanes);
        round.recovered = true;
        self.compact(store, &Compact { revision: revision.0 }, round)?;
        self.recovery = StoredRecovery {
            begun: Bytes::new(),
            kept_revision: kept.0,
            first_revision: revision.0,
            index: entry.index.0,
            ..std::mem::take(&mut self.recovery)
        };
        let record = self.recovery.encode_to_vec().into();
        replace(&mut self.lanes, &mut self.recovery_lanes, layout::SYSTEM_RECOVERY, record, round);
        Ok(self.done(true, Vec::new()))
    }

    pub(super) fn done(&self, succeeded: bool, results: Vec<OpResult>) -> Outcome {
        Outcome::Done(TxnResult { succeeded, revision: self.status.revision.0, results, ..TxnResult::default() })
    }
}

/// Whether the record of this full key is one that decisions are made from: everything but what users store, and what
/// is kept for workers by the thousand.
fn decides(key: &[u8]) -> bool {
    let beside = [
        Section::User,
        Section::Assignment,
        Section::Liveness,
        Section::Report,
        Section::Config,
        Section::Secret,
        Section::Reference,
    ];
    !beside.iter().any(|section| key.first() == Some(&(*section as u8)))
}
