//! The key-value store as a caller sees it: builders that are futures.
//!
//! Owns the friendly shape of puts, deletes and transactions; reads are in `ranges`. Never retries and never names sections:
//! the client does the first, the manager the second.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::keyspace::prefix_end;
use quorate_core::txn::{Compare, Delete, KeyValue, Op, OpResultKind, Operand, Put, Range, Relation, Txn};

use super::ranges::{GetBuilder, RangeBuilder};
use super::{Client, MirrorBuilder, WatchBuilder};
use crate::error::{Error, Result};

pub(super) type Sent<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// The key-value store. Keys and values are bytes; keys are ordered as bytes.
#[derive(Debug, Clone)]
pub struct Kv {
    client: Client,
}

/// One key with everything known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: u64,
    /// The revision that last wrote it.
    pub mod_revision: u64,
    /// Writes since it was created, from 1.
    pub version: u64,
    /// The lease it is attached to; 0 is none.
    pub lease: u64,
}

impl From<KeyValue> for Entry {
    fn from(from: KeyValue) -> Self {
        Self {
            key: from.key,
            value: from.value,
            create_revision: from.create_revision,
            mod_revision: from.mod_revision,
            version: from.version,
            lease: from.lease,
        }
    }
}

/// What a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TxnOutcome {
    /// Whether all comparisons held, so that the `then` branch was done.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
    /// What each operation of the branch answered: what was there before, or what a range found.
    pub results: Vec<Vec<Entry>>,
    /// The answers had no room for all that was found (`RANGE_BYTES_MAX` for all of them together): some entry is not in
    /// `results`, as if it were not there. Read such keys on their own.
    pub more: bool,
    /// How many keys the deletes of the branch removed.
    pub deleted: u64,
    /// An earlier copy of this request had been applied; this is its outcome.
    pub replayed: bool,
}

impl Kv {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// How long each request waits.
    pub(super) const fn deadline(&self) -> Duration {
        self.client.deadline
    }

    /// The same with another deadline for each request.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { client: self.client.with_deadline(deadline) }
    }

    /// Writes one key.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> WriteBuilder {
        let put = Put { key: key.into(), value: value.into(), ..Put::default() };
        WriteBuilder::new(self.client.clone(), Txn::of(put))
    }

    /// Removes one key.
    pub fn delete(&self, key: impl Into<Bytes>) -> WriteBuilder {
        let delete = Delete { key: key.into(), ..Delete::default() };
        WriteBuilder::new(self.client.clone(), Txn::of(delete))
    }

    /// Removes every key that begins with `prefix`.
    pub fn delete_prefix(&self, prefix: impl Into<Bytes>) -> WriteBuilder {
        let (key, end) = prefix_bounds(&prefix.into());
        WriteBuilder::new(self.client.clone(), Txn::of(Delete { key, end, previous: false }))
    }

    /// Removes `from..to` (`to` excluded). More than `DELETE_KEYS_MAX` keys or `DELETE_BYTES_MAX` bytes are refused: remove them
    /// a part at a time, such as up to the last key of a page of them.
    pub fn delete_range(&self, from: impl Into<Bytes>, to: impl Into<Bytes>) -> WriteBuilder {
        let delete = Delete { key: from.into(), end: to.into(), previous: false };
        WriteBuilder::new(self.client.clone(), Txn::of(delete))
    }

    /// Reads one key, linearizably; `None` when it is not there.
    pub fn get(&self, key: impl Into<Bytes>) -> GetBuilder {
        GetBuilder::new(self.one(key))
    }

    /// Reads one key as a range of one, which says its revision and how old it is.
    pub fn one(&self, key: impl Into<Bytes>) -> RangeBuilder {
        self.range_of(Range { key: key.into(), ..Range::default() })
    }

    /// Reads every key that begins with `prefix` (empty: all), a page at a time.
    pub fn prefix(&self, prefix: impl Into<Bytes>) -> RangeBuilder {
        let (key, end) = prefix_bounds(&prefix.into());
        self.range_of(Range { key, end, ..Range::default() })
    }

    /// Reads `from..to` (`to` excluded), a page at a time.
    pub fn range(&self, from: impl Into<Bytes>, to: impl Into<Bytes>) -> RangeBuilder {
        self.range_of(Range { key: from.into(), end: to.into(), ..Range::default() })
    }

    /// Watches one key; [`prefix`](WatchBuilder::prefix) makes it all keys that begin so.
    pub fn watch(&self, key: impl Into<Bytes>) -> WatchBuilder {
        WatchBuilder::new(self.client.clone(), key.into())
    }

    /// A local copy of all keys that begin with `prefix`, which follows what becomes of them.
    pub fn mirror(&self, prefix: impl Into<Bytes>) -> MirrorBuilder {
        MirrorBuilder::new(self.clone(), prefix.into())
    }

    fn range_of(&self, range: Range) -> RangeBuilder {
        RangeBuilder::new(self.client.clone(), range)
    }

    /// Compare, then do one list of operations or the other, all at one revision.
    pub fn txn(&self) -> TxnBuilder {
        TxnBuilder { client: self.client.clone(), txn: Txn::default() }
    }

    /// Writes `value` if the key was last written at `expected` (0: if it does not exist). `succeeded` says whether.
    pub fn compare_and_set(&self, key: impl Into<Bytes>, expected: u64, value: impl Into<Bytes>) -> TxnBuilder {
        let key = key.into();
        self.txn().when(compare::mod_revision(key.clone(), expected)).then(operation::put(key, value))
    }
}

/// The bounds of a prefix. The wire's "end" of nothing would mean one key, so everything ends at the longest key there
/// can be.
pub(super) fn prefix_bounds(prefix: &Bytes) -> (Bytes, Bytes) {
    let key = if prefix.is_empty() { Bytes::from_static(&[0]) } else { prefix.clone() };
    let end = prefix_end(prefix);
    let end = if end.is_empty() { Bytes::from_static(&[0xff; quorate_core::limits::KEY_BYTES_MAX]) } else { end };
    (key, end)
}

/// Conditions of a transaction, each on a key as it is before the transaction.
pub mod compare {
    use super::{Bytes, Compare, Operand, Relation};

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Compare {
        Compare::absent(key)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Compare {
        Compare::new(key, Relation::NotEqual, Operand::Version(0))
    }

    /// The key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Compare {
        Compare::new(key, Relation::Equal, Operand::Value(value.into()))
    }

    /// The key was last written at this revision (0: does not exist).
    pub fn mod_revision(key: impl Into<Bytes>, revision: u64) -> Compare {
        Compare::mod_revision(key, revision)
    }

    /// The key was created at this revision (0: does not exist).
    pub fn create_revision(key: impl Into<Bytes>, revision: u64) -> Compare {
        Compare::new(key, Relation::Equal, Operand::CreateRevision(revision))
    }

    /// The key is attached to this lease (0: to none, or it does not exist).
    pub fn lease(key: impl Into<Bytes>, lease: u64) -> Compare {
        Compare::new(key, Relation::Equal, Operand::Lease(lease))
    }

    /// The same comparison turned round: it holds where the property differs.
    pub fn not_equal(compare: Compare) -> Compare {
        Compare { relation: Relation::NotEqual.into(), ..compare }
    }

    /// The same comparison, but the property is less than what it is compared with.
    pub fn less(compare: Compare) -> Compare {
        Compare { relation: Relation::Less.into(), ..compare }
    }

    /// The same comparison, but the property is greater than what it is compared with.
    pub fn greater(compare: Compare) -> Compare {
        Compare { relation: Relation::Greater.into(), ..compare }
    }

    /// The key was written so often since its creation (0: does not exist).
    pub fn version(key: impl Into<Bytes>, version: u64) -> Compare {
        Compare::new(key, Relation::Equal, Operand::Version(version))
    }
}

/// Operations of a transaction.
pub mod operation {
    use super::{Bytes, Delete, Op, Put, Range, prefix_bounds};

    /// Write one key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
        Put { key: key.into(), value: value.into(), ..Put::default() }.into()
    }

    /// Write one key that goes when this lease ends.
    pub fn put_with_lease(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: u64) -> Op {
        Put { key: key.into(), value: value.into(), lease, ..Put::default() }.into()
    }

    /// Remove one key.
    pub fn delete(key: impl Into<Bytes>) -> Op {
        Delete { key: key.into(), ..Delete::default() }.into()
    }

    /// Remove every key that begins with `prefix`.
    pub fn delete_prefix(prefix: impl Into<Bytes>) -> Op {
        let (key, end) = prefix_bounds(&prefix.into());
        Delete { key, end, previous: false }.into()
    }

    /// Remove `from..to` (`to` excluded).
    pub fn delete_range(from: impl Into<Bytes>, to: impl Into<Bytes>) -> Op {
        Delete { key: from.into(), end: to.into(), previous: false }.into()
    }

    /// Read one key.
    pub fn get(key: impl Into<Bytes>) -> Op {
        Range { key: key.into(), ..Range::default() }.into()
    }

    /// Read every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Op {
        let (key, end) = prefix_bounds(&prefix.into());
        Range { key, end, ..Range::default() }.into()
    }
}

/// A put or a delete on its way; await it for the outcome.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct WriteBuilder {
    client: Client,
    txn: Txn,
    /// It cannot be sent as it is.
    refused: Option<Error>,
}

impl WriteBuilder {
    const fn new(client: Client, txn: Txn) -> Self {
        Self { client, txn, refused: None }
    }

    /// The same, to be answered with this error without being sent.
    pub(super) fn refused(self, error: Error) -> Self {
        Self { refused: Some(error), ..self }
    }

    /// Within this time instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.client.deadline = deadline;
        self
    }

    /// Answer with what was there before.
    pub fn previous(mut self) -> Self {
        for op in &mut self.txn.then {
            match &mut op.kind {
                Some(quorate_core::txn::OpKind::Put(put)) => put.previous = true,
                Some(quorate_core::txn::OpKind::Delete(delete)) => delete.previous = true,
                Some(quorate_core::txn::OpKind::Range(_)) | None => {}
            }
        }
        self
    }

    /// The key that is written goes when this lease ends. A later write without a lease takes it off again. Refused as
    /// [`Error::LeaseNotFound`] when there is no such lease.
    pub fn lease(mut self, lease: u64) -> Self {
        for op in &mut self.txn.then {
            if let Some(quorate_core::txn::OpKind::Put(put)) = &mut op.kind {
                put.lease = lease;
            }
        }
        self
    }

    /// Only if all these hold; `succeeded` says whether.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn.compares.push(compare);
        self
    }
}

impl IntoFuture for WriteBuilder {
    type Output = Result<TxnOutcome>;
    type IntoFuture = Sent<TxnOutcome>;

    fn into_future(self) -> Self::IntoFuture {
        match self.refused {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => TxnBuilder { client: self.client, txn: self.txn }.into_future(),
        }
    }
}

/// A transaction being put together; await it to send it.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct TxnBuilder {
    client: Client,
    txn: Txn,
}

impl TxnBuilder {
    /// Within this time instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.client.deadline = deadline;
        self
    }

    /// One more condition; all must hold for `then`.
    pub fn when(mut self, compare: Compare) -> Self {
        self.txn.compares.push(compare);
        self
    }

    /// One more operation for when all conditions hold.
    pub fn then(mut self, op: Op) -> Self {
        self.txn.then.push(op);
        self
    }

    /// One more operation for when a condition does not hold.
    pub fn or_else(mut self, op: Op) -> Self {
        self.txn.or_else.push(op);
        self
    }
}

impl IntoFuture for TxnBuilder {
    type Output = Result<TxnOutcome>;
    type IntoFuture = Sent<TxnOutcome>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let result = self.client.transact(self.txn).await?;
            let mut outcome = TxnOutcome {
                succeeded: result.succeeded,
                revision: result.revision,
                results: Vec::with_capacity(result.results.len()),
                more: false,
                deleted: 0,
                replayed: result.replayed,
            };
            for result in result.results {
                let entries = match result.kind {
                    Some(OpResultKind::Put(put)) => put.previous.into_iter().collect(),
                    Some(OpResultKind::Delete(delete)) => {
                        outcome.deleted += delete.deleted;
                        delete.previous
                    }
                    Some(OpResultKind::Range(range)) => {
                        outcome.more |= range.more;
                        range.entries
                    }
                    None => Vec::new(),
                };
                outcome.results.push(entries.into_iter().map(Entry::from).collect());
            }
            Ok(outcome)
        })
    }
}
