//! What one transaction does to the present.
//!
//! Owns comparisons, operations and the round's overlay. A transaction is worked out completely before any of it counts:
//! a refusal in its middle leaves nothing behind. Never writes: it returns the changes. Called by the machine.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::LeaseId;
use crate::limits::{DELETE_BYTES_MAX, DELETE_KEYS_MAX, RANGE_BYTES_MAX};
use crate::ports::{StateRead, StoreError, StoreResult, Visit};
use crate::state::check::check_txn;
use crate::state::contract::Refusal;
use crate::state::layout::{self, Record, RecordView};
use crate::state::leases::{Leases, attached_bytes};
use crate::state::page::Page;
use crate::txn::{
    Compare, Delete, DeleteResult, Op, OpKind, OpResult, OpResultKind, Operand, Put, PutResult, Range, RangeResult,
    Relation, Txn,
};

/// Live records that differ from the store's, by stored key; `None` is removed.
pub(crate) type Pending = BTreeMap<Bytes, Option<Record>>;

/// The present: what the store holds and what this round has done since.
#[derive(Clone, Copy)]
pub(crate) struct Present<'a> {
    /// The state before the round.
    pub(crate) store: &'a dyn StateRead,
    /// What the round did.
    pub(crate) overlay: &'a Pending,
    /// The leases as they are now.
    pub(crate) leases: &'a Leases,
}

/// One key's change.
#[derive(Debug)]
pub(crate) struct Change {
    /// The full key.
    pub(crate) key: Bytes,
    /// The stored key.
    pub(crate) stored: Bytes,
    /// What was there.
    pub(crate) old: Option<Record>,
    /// What is there now.
    pub(crate) new: Option<Record>,
}

/// What a transaction comes to.
#[derive(Debug)]
pub(crate) struct Executed {
    /// Whether all comparisons held.
    pub(crate) succeeded: bool,
    /// One answer per operation.
    pub(crate) results: Vec<OpResult>,
    /// Each key at most once; empty: the transaction makes no revision.
    pub(crate) changes: Vec<Change>,
}

/// Works a transaction out at `revision`, the one it will have if it changes anything.
pub(crate) fn execute(
    present: Present<'_>,
    txn: &Txn,
    term: u64,
    revision: u64,
) -> StoreResult<Result<Executed, Refusal>> {
    if let Some(token) = txn.fence
        && token != term
    {
        return Ok(Err(Refusal::Fenced { token, term }));
    }
    if let Err(refusal) = check_txn(txn) {
        return Ok(Err(refusal));
    }
    let mut succeeded = true;
    for compare in &txn.compares {
        if !holds(present, compare)? {
            succeeded = false;
            break;
        }
    }
    let ops = if succeeded { &txn.then } else { &txn.or_else };
    let mut branch = Branch {
        present,
        revision,
        local: Pending::new(),
        alone: ops.len() <= 1,
        budget: RANGE_BYTES_MAX,
        deleted: 0,
        deleted_bytes: 0,
        attached: BTreeMap::new(),
        changes: Vec::with_capacity(ops.len()),
    };
    let mut results = Vec::with_capacity(ops.len());
    for op in ops {
        match branch.operate(op)? {
            Ok(kind) => results.push(OpResult { kind: Some(kind) }),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(Executed { succeeded, results, changes: branch.changes }))
}

impl Present<'_> {
    pub(crate) fn get(self, stored: &Bytes) -> StoreResult<Option<Record>> {
        if let Some(pending) = self.overlay.get(stored) {
            return Ok(pending.clone());
        }
        self.store.get(stored)?.map(|raw| Record::parse(stored, raw)).transpose()
    }

    /// What writing `value` (or removing the key) comes to at `revision`.
    pub(crate) fn change(self, key: Bytes, value: Option<&[u8]>, revision: u64) -> StoreResult<Change> {
        let stored = layout::current_key(&key);
        let old = self.get(&stored)?;
        let new = value.map(|value| written(old.as_ref(), revision, 0, value));
        Ok(Change { key, stored, old, new })
    }

    /// Visits the live records from one stored key to another, `extra` on top of the round's.
    pub(crate) fn scan(
        self,
        from: &Bytes,
        to: &Bytes,
        extra: &Pending,
        visit: &mut dyn FnMut(&[u8], RecordView<'_>) -> Visit,
    ) -> StoreResult<()> {
        if from >= to {
            return Ok(());
        }
        let span = || from.clone()..to.clone();
        let mut above: Pending =
            self.overlay.range(span()).map(|(key, record)| (key.clone(), record.clone())).collect();
        above.extend(extra.range(span()).map(|(key, record)| (key.clone(), record.clone())));
        let mut above = above.iter().peekable();
        let mut failed: Option<StoreError> = None;
        let mut enough = false;
        self.store.scan(from, to, &mut |stored, raw| {
            while let Some((key, pending)) = above.next_if(|(key, _)| key[..] <= *stored) {
                if let Some(record) = pending
                    && visit(key, record.view()) == Visit::Enough
                {
                    enough = true;
                    return Visit::Enough;
                }
                if key[..] == *stored {
                    return Visit::More;
                }
            }
            match RecordView::parse(stored, raw) {
                Ok(record) => {
                    let wish = visit(stored, record);
                    enough = wish == Visit::Enough;
                    wish
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Enough
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        for (key, pending) in above {
            if enough {
                break;
            }
            if let Some(record) = pending {
                enough = visit(key, record.view()) == Visit::Enough;
            }
        }
        Ok(())
    }
}

/// The next version of a key.
fn written(old: Option<&Record>, revision: u64, lease: u64, value: &[u8]) -> Record {
    let (created, version) = match old.map(Record::view) {
        Some(view) => (view.created, view.version + 1),
        None => (revision, 1),
    };
    Record::new(RecordView { created, modified: revision, version, lease, value })
}

fn holds(present: Present<'_>, compare: &Compare) -> StoreResult<bool> {
    let record = present.get(&layout::current_key(&compare.key))?;
    let view = record.as_ref().map(Record::view);
    let number = |field: fn(RecordView<'_>) -> u64| view.map_or(0, field);
    let ordering = match &compare.operand {
        Some(Operand::Value(value)) => match view {
            Some(view) => view.value.cmp(value),
            None => return Ok(false),
        },
        Some(Operand::Version(operand)) => number(|view| view.version).cmp(operand),
        Some(Operand::CreateRevision(operand)) => number(|view| view.created).cmp(operand),
        Some(Operand::ModRevision(operand)) => number(|view| view.modified).cmp(operand),
        Some(Operand::Lease(operand)) => number(|view| view.lease).cmp(operand),
        None => return Ok(false),
    };
    Ok(match Relation::try_from(compare.relation) {
        Ok(Relation::Equal) => ordering.is_eq(),
        Ok(Relation::NotEqual) => ordering.is_ne(),
        Ok(Relation::Less) => ordering.is_lt(),
        Ok(Relation::Greater) => ordering.is_gt(),
        Err(_) => false,
    })
}

/// A branch at work.
struct Branch<'a> {
    present: Present<'a>,
    revision: u64,
    /// The branch's own changes, for the ranges after them. Writes of one branch are disjoint (checked before), so
    /// puts and deletes never need to look here.
    local: Pending,
    /// One operation only: nobody comes after it.
    alone: bool,
    /// Bytes that all answers of the transaction together may still carry.
    budget: usize,
    /// Keys deleted so far.
    deleted: u64,
    /// Bytes of their keys and values.
    deleted_bytes: u64,
    /// Keys attached so far, and their bytes, by lease.
    attached: BTreeMap<LeaseId, (u64, u64)>,
    changes: Vec<Change>,
}

impl Branch<'_> {
    fn operate(&mut self, op: &Op) -> StoreResult<Result<OpResultKind, Refusal>> {
        Ok(match &op.kind {
            Some(OpKind::Put(put)) => self.put(put)?.map(OpResultKind::Put),
            Some(OpKind::Delete(delete)) => self.delete(delete)?.map(OpResultKind::Delete),
            Some(OpKind::Range(range)) => Ok(OpResultKind::Range(self.range(range)?)),
            None => Err(Refusal::Malformed { what: "operation of no known kind".to_owned() }),
        })
    }

    fn put(&mut self, put: &Put) -> StoreResult<Result<PutResult, Refusal>> {
        let stored = layout::current_key(&put.key);
        let old = self.present.get(&stored)?;
        let lease = LeaseId(put.lease);
        let new = written(old.as_ref(), self.revision, put.lease, &put.value);
        if lease != LeaseId(0) {
            // What it has on that lease already makes room for itself.
            let there = old.as_ref().filter(|old| old.view().lease == put.lease);
            let less = there.map_or(0, |old| attached_bytes(&put.key, old));
            let (keys, bytes) = self.attached.entry(lease).or_default();
            *keys += u64::from(there.is_none());
            *bytes += attached_bytes(&put.key, &new).saturating_sub(less);
            if let Err(refusal) = self.present.leases.takes(lease, *keys, *bytes) {
                return Ok(Err(refusal));
            }
        }
        let new = Some(new);
        let mut previous = None;
        if put.previous
            && let Some(old) = &old
        {
            if let Err(refusal) = self.spend(put.key.len() + old.view().value.len()) {
                return Ok(Err(refusal));
            }
            previous = Some(old.to_key_value(put.key.clone()));
        }
        self.change(Change { key: put.key.clone(), stored, old, new });
        Ok(Ok(PutResult { previous }))
    }

    fn delete(&mut self, delete: &Delete) -> StoreResult<Result<DeleteResult, Refusal>> {
        let from = layout::current_key(&delete.key);
        let mut gone = Vec::new();
        let room = DELETE_KEYS_MAX - self.deleted;
        let mut bytes = self.deleted_bytes;
        if delete.end.is_empty() {
            if let Some(record) = self.present.get(&from)? {
                bytes += (from.len() + record.view().value.len()) as u64;
                gone.push((from, record));
            }
        } else {
            let to = layout::current_key(&delete.end);
            // Only the present before this branch matters: no other operation of it writes in this range.
            self.present.scan(&from, &to, &Pending::new(), &mut |key, record| {
                bytes += (key.len() + record.value.len()) as u64;
                gone.push((Bytes::copy_from_slice(key), Record::new(record)));
                if gone.len() as u64 > room || bytes > DELETE_BYTES_MAX { Visit::Enough } else { Visit::More }
            })?;
        }
        let deleted = gone.len() as u64;
        if deleted > room {
            return Ok(Err(Refusal::Limit {
                what: "the set of keys to delete".to_owned(),
                limit: "DELETE_KEYS_MAX",
                max: DELETE_KEYS_MAX,
                actual: self.deleted + deleted,
            }));
        }
        if bytes > DELETE_BYTES_MAX {
            return Ok(Err(Refusal::Limit {
                what: "what is to be deleted at once (delete it in parts: a smaller range each time, such as up to the last key of a page of its keys)".to_owned(),
                limit: "DELETE_BYTES_MAX",
                max: DELETE_BYTES_MAX,
                actual: bytes,
            }));
        }
        self.deleted += deleted;
        self.deleted_bytes = bytes;
        let mut previous = Vec::new();
        for (stored, old) in gone {
            let key = layout::full_key(&stored);
            if delete.previous {
                if let Err(refusal) = self.spend(key.len() + old.view().value.len()) {
                    return Ok(Err(refusal));
                }
                previous.push(old.to_key_value(key.clone()));
            }
            self.change(Change { key, stored, old: Some(old), new: None });
        }
        Ok(Ok(DeleteResult { deleted, previous }))
    }

    fn range(&mut self, range: &Range) -> StoreResult<RangeResult> {
        let mut page = Page::within_transaction(range, self.budget);
        let from = layout::current_key(&range.key);
        let to =
            layout::current_key(&if range.end.is_empty() { layout::successor(&range.key) } else { range.end.clone() });
        self.present
            .scan(&from, &to, &self.local, &mut |key, record| page.offer(key.get(1..).unwrap_or_default(), record))?;
        self.budget = self.budget.saturating_sub(page.bytes());
        // What this branch has changed before stands at the revision that the branch is about to make.
        let revision = if self.changes.is_empty() { self.revision - 1 } else { self.revision };
        Ok(page.result(revision))
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(Refusal::Limit {
                what: "the answer with the previous values".to_owned(),
                limit: "RANGE_BYTES_MAX",
                max: RANGE_BYTES_MAX as u64,
                actual: (RANGE_BYTES_MAX - self.budget + bytes) as u64,
            }),
        }
    }

    fn change(&mut self, change: Change) {
        if !self.alone {
            self.local.insert(change.stored.clone(), change.new.clone());
        }
        self.changes.push(change);
    }
}
