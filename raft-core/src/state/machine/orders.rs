//! What orders for leases do to the state, and how a lease ends.
//!
//! Owns the one way in which a lease and its keys go: together, in one revision. Never decides that a time is over. Called by
//! the machine at apply.

use super::{Memory, Round, malformed};
use crate::command::{ExpireLeases, LeaseOrder, LeaseOrderKind};
use crate::id::LeaseId;
use crate::limits::{LEASE_BYTES_MAX, LEASE_KEYS_MAX};
use crate::ports::{StateRead, StoreResult};
use crate::state::contract::{Committed, LeaseChange, LeaseEvent, Outcome, Refusal};
use crate::state::execute::Present;
use crate::state::layout::{self, corrupt};
use crate::state::leases::Leases;
use crate::state::usage::Usage;
use crate::txn::{DeleteResult, OpResult, OpResultKind, TxnResult};

impl Memory {
    pub(super) fn order_lease(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        order: &LeaseOrder,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        if let Some(token) = order.fence.filter(|token| *token != entry.term.0) {
            return Ok(Outcome::Refused(Refusal::Fenced { token, term: entry.term.0 }));
        }
        match order.kind {
            Some(LeaseOrderKind::Grant(ttl_ms)) => {
                let mut usage = self.usage;
                if let Err(refusal) = usage.grant(self.quota) {
                    self.use_as(Usage { full: true, ..self.usage });
                    return Ok(Outcome::Refused(refusal));
                }
                let lease = match self.leases.grant(ttl_ms, &mut self.lanes) {
                    Ok(lease) => lease,
                    Err(refusal) => return Ok(Outcome::Refused(refusal)),
                };
                self.use_as(usage);
                round.leases.push(LeaseChange { lease, event: LeaseEvent::Granted { ttl_ms } });
                let revision = self.status.revision.0;
                Ok(Outcome::Done(TxnResult { succeeded: true, revision, lease: lease.0, ..TxnResult::default() }))
            }
            Some(LeaseOrderKind::Revoke(lease)) => {
                if self.leases.get(LeaseId(lease)).is_none() {
                    return Ok(Outcome::Refused(Refusal::LeaseNotFound { lease }));
                }
                let deleted = self.end_lease(store, LeaseId(lease), LeaseEvent::Revoked, round)?;
                let result = DeleteResult { deleted, previous: Vec::new() };
                Ok(self.done(true, vec![OpResult { kind: Some(OpResultKind::Delete(result)) }]))
            }
            None => Ok(malformed("order of no known kind for a lease")),
        }
    }

    pub(super) fn expire_leases(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        expire: &ExpireLeases,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        // Who counted the time leads no more: another leader has begun to count anew, and may have renewed them.
        if expire.term != entry.term.0 {
            return Ok(Outcome::Refused(Refusal::Fenced { token: expire.term, term: entry.term.0 }));
        }
        let (mut room, mut bytes) = (LEASE_KEYS_MAX, LEASE_BYTES_MAX);
        let mut ended = false;
        for lease in expire.leases.iter().copied().map(LeaseId) {
            let Some(record) = self.leases.get(lease) else { continue };
            if record.keys > room || record.bytes > bytes {
                break;
            }
            (room, bytes) = (room - record.keys, bytes - record.bytes);
            let before = self.status.revision;
            self.end_lease(store, lease, LeaseEvent::Expired, round)?;
            self.note_hash(before);
            ended = true;
        }
        Ok(self.done(ended, Vec::new()))
    }

    /// Ends a lease that there is: all its keys go in one revision, and then the lease. How many keys there were.
    fn end_lease(
        &mut self,
        store: &dyn StateRead,
        lease: LeaseId,
        event: LeaseEvent,
        round: &mut Round,
    ) -> StoreResult<u64> {
        let revision = self.status.revision.next();
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let mut changes = Vec::new();
        for key in Leases::keys(store, &round.attached, lease)? {
            let change = present.change(key, None, revision.0)?;
            if change.old.as_ref().is_none_or(|old| old.view().lease != lease.0) {
                let key = layout::attached_key(lease, &change.key);
                return Err(corrupt(&key, "the key that it names is not attached to that lease"));
            }
            changes.push(change);
        }
        let deleted = changes.len() as u64;
        if deleted > 0 {
            self.status.revision = revision;
            self.record(revision, changes, round);
        }
        self.leases.remove(lease, &mut self.lanes);
        let mut usage = self.usage;
        usage.end_lease();
        self.use_as(usage);
        round.leases.push(LeaseChange { lease, event });
        Ok(deleted)
    }
}
