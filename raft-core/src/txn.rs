//! Transactions and ranges: the one shape of every request to the store, and its answers.
//!
//! Owns the request and answer types and their encoding (prost; field numbers are for ever, they are in the log).
//! Keys here are *full* keys: the section byte of [`crate::keyspace`] stands in front. The manager adds and strips
//! it; a client never names a section. Never decides: [`crate::state`] does.

use bytes::Bytes;

/// Compare all; if all hold do `then`, else do `or_else`. Put, delete, range and compare-and-set are small cases of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Txn {
    /// All must hold for `then`.
    #[prost(message, repeated, tag = "1")]
    pub compares: Vec<Compare>,
    /// Done in order when all comparisons hold.
    #[prost(message, repeated, tag = "2")]
    pub then: Vec<Op>,
    /// Done in order when one does not.
    #[prost(message, repeated, tag = "3")]
    pub or_else: Vec<Op>,
    /// Fencing token: when set, the whole transaction is refused unless the log entry that carries it has this term.
    #[prost(uint64, optional, tag = "4")]
    pub fence: Option<u64>,
}

/// One condition on one key, as the key is before the transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Compare {
    /// The full key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// How the key's property stands to the operand.
    #[prost(enumeration = "Relation", tag = "2")]
    pub relation: i32,
    /// The property and the operand. An absent key has version, revisions and lease 0, and no value: a value
    /// comparison with an absent key never holds.
    #[prost(oneof = "Operand", tags = "3, 4, 5, 6, 7")]
    pub operand: Option<Operand>,
}

/// How a comparison compares: property `relation` operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Relation {
    /// Equal.
    Equal = 0,
    /// Not equal.
    NotEqual = 1,
    /// Less than the operand.
    Less = 2,
    /// Greater than the operand.
    Greater = 3,
}

/// The property compared, with the operand.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operand {
    /// The value.
    #[prost(bytes = "bytes", tag = "3")]
    Value(Bytes),
    /// The number of writes since the key was created; 0 is absent.
    #[prost(uint64, tag = "4")]
    Version(u64),
    /// The revision that created the key; 0 is absent.
    #[prost(uint64, tag = "5")]
    CreateRevision(u64),
    /// The revision that last wrote the key; 0 is absent.
    #[prost(uint64, tag = "6")]
    ModRevision(u64),
    /// The lease the key is attached to; 0 is none.
    #[prost(uint64, tag = "7")]
    Lease(u64),
}

/// One operation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// Which one; absent is refused.
    #[prost(oneof = "OpKind", tags = "1, 2, 3")]
    pub kind: Option<OpKind>,
}

/// The operations there are.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OpKind {
    /// Write one key.
    #[prost(message, tag = "1")]
    Put(Put),
    /// Remove keys.
    #[prost(message, tag = "2")]
    Delete(Delete),
    /// Read keys, after the operations before it in the same branch.
    #[prost(message, tag = "3")]
    Range(Range),
}

/// Write one key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Put {
    /// The full key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The lease to attach to; 0 is none.
    #[prost(uint64, tag = "3")]
    pub lease: u64,
    /// Answer with what was there.
    #[prost(bool, tag = "4")]
    pub previous: bool,
}

/// Remove one key or a range of keys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Delete {
    /// The full key, or the first of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Empty for the one key, else the end of the range (excluded).
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Answer with what was there.
    #[prost(bool, tag = "3")]
    pub previous: bool,
}

/// Read one key or a range of keys in ascending order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Range {
    /// The full key, or the first of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Empty for the one key, else the end of the range (excluded).
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// Most entries to answer; 0 is as many as one answer holds.
    #[prost(uint64, tag = "3")]
    pub limit: u64,
    /// Leave the values out.
    #[prost(bool, tag = "4")]
    pub keys_only: bool,
    /// Answer only how many there are.
    #[prost(bool, tag = "5")]
    pub count_only: bool,
    /// Read as of this revision; 0 is now. Inside a transaction only 0 is allowed: a transaction reads the present.
    #[prost(uint64, tag = "6")]
    pub revision: u64,
}

/// One key with everything known about it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The full key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
    /// The revision that created it.
    #[prost(uint64, tag = "3")]
    pub create_revision: u64,
    /// The revision that last wrote it.
    #[prost(uint64, tag = "4")]
    pub mod_revision: u64,
    /// Writes since it was created, from 1.
    #[prost(uint64, tag = "5")]
    pub version: u64,
    /// The lease it is attached to; 0 is none.
    #[prost(uint64, tag = "6")]
    pub lease: u64,
}

/// What a range found.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeResult {
    /// The entries, ascending; empty when only the count was asked for.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<KeyValue>,
    /// How many keys the whole range has at that revision, also beyond the limit. Only filled when `count_only` was
    /// asked; else the number of entries in this answer.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// There is more: ask again from the last key's successor at `revision`.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// The revision at which the range was read.
    #[prost(uint64, tag = "4")]
    pub revision: u64,
}

/// What one operation answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpResult {
    /// Which kind.
    #[prost(oneof = "OpResultKind", tags = "1, 2, 3")]
    pub kind: Option<OpResultKind>,
}

/// Answers by kind of operation.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OpResultKind {
    /// Of a put.
    #[prost(message, tag = "1")]
    Put(PutResult),
    /// Of a delete.
    #[prost(message, tag = "2")]
    Delete(DeleteResult),
    /// Of a range.
    #[prost(message, tag = "3")]
    Range(RangeResult),
}

/// What a put answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutResult {
    /// What was there, when it was asked for and there was something.
    #[prost(message, optional, tag = "1")]
    pub previous: Option<KeyValue>,
}

/// What a delete answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteResult {
    /// How many keys went.
    #[prost(uint64, tag = "1")]
    pub deleted: u64,
    /// What was there, when it was asked for.
    #[prost(message, repeated, tag = "2")]
    pub previous: Vec<KeyValue>,
}

/// What a transaction did.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnResult {
    /// Whether all comparisons held.
    #[prost(bool, tag = "1")]
    pub succeeded: bool,
    /// The store's revision after it; its own one when it changed something.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// One answer per operation of the branch done.
    #[prost(message, repeated, tag = "3")]
    pub results: Vec<OpResult>,
    /// The answer comes from the replay table: the transaction had been applied before.
    #[prost(bool, tag = "4")]
    pub replayed: bool,
    /// The lease that was granted; 0 when none was asked for.
    #[prost(uint64, tag = "8")]
    pub lease: u64,
}

impl From<Put> for Op {
    fn from(put: Put) -> Self {
        Self { kind: Some(OpKind::Put(put)) }
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Self {
        Self { kind: Some(OpKind::Delete(delete)) }
    }
}

impl From<Range> for Op {
    fn from(range: Range) -> Self {
        Self { kind: Some(OpKind::Range(range)) }
    }
}

impl Txn {
    /// A transaction without conditions.
    pub fn of(op: impl Into<Op>) -> Self {
        Self { then: vec![op.into()], ..Self::default() }
    }

    /// Whether nothing of it can write, whichever way its comparisons turn out: it is a read, and takes no place in the log.
    pub fn only_reads(&self) -> bool {
        let reads = |op: &Op| matches!(op.kind, Some(OpKind::Range(_)));
        self.then.iter().chain(&self.or_else).all(reads)
    }
}

impl Compare {
    /// Holds while `key` does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::new(key, Relation::Equal, Operand::Version(0))
    }

    /// Holds while `key` was last written at `revision` (0: does not exist).
    pub fn mod_revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::new(key, Relation::Equal, Operand::ModRevision(revision))
    }

    /// Any comparison.
    pub fn new(key: impl Into<Bytes>, relation: Relation, operand: Operand) -> Self {
        Self { key: key.into(), relation: relation.into(), operand: Some(operand) }
    }
}
