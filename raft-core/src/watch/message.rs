//! What a watch asks, and what it is told, as encoded. Field numbers are for ever.
//!
//! Owns the two shapes. Never decides. Called by both ends; [`super::unit`] writes the second one without copying values.

use bytes::Bytes;

use crate::txn::KeyValue;

/// What is watched, and from where on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchStart {
    /// The key, or the first of the range.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Empty for the one key, else the end of the range (excluded).
    #[prost(bytes = "bytes", tag = "2")]
    pub end: Bytes,
    /// The first revision told; 0: what comes after everything that was acknowledged before the question.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Leave puts out.
    #[prost(bool, tag = "4")]
    pub no_puts: bool,
    /// Leave deletes out.
    #[prost(bool, tag = "5")]
    pub no_deletes: bool,
    /// Tell what was there before.
    #[prost(bool, tag = "6")]
    pub previous: bool,
    /// Leave values out, also of what was there before.
    #[prost(bool, tag = "7")]
    pub keys_only: bool,
}

/// A piece of what a watch is told. The pieces of a revision follow each other; it counts when the last one is there.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchPart {
    /// Which revision: of the changes, up to which everything was told, or from which on something will be.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// What the piece is.
    #[prost(enumeration = "PartKind", tag = "2")]
    pub kind: i32,
    /// The last piece of its revision.
    #[prost(bool, tag = "3")]
    pub last: bool,
    /// The changes, in the order in which the transaction made them.
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<WatchChange>,
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PartKind {
    /// Changes of a revision.
    Changes = 0,
    /// Everything up to and including the revision was told.
    Bookmark = 1,
    /// The watch stands, and tells what is at or above the revision. First, once.
    Opened = 2,
}

/// What a revision did to one key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchChange {
    /// As written; of a delete the key alone, and in `mod_revision` the revision.
    #[prost(message, optional, tag = "1")]
    pub entry: Option<KeyValue>,
    /// Removed; else written.
    #[prost(bool, tag = "2")]
    pub deleted: bool,
    /// What was there before, when that was asked for and there was something.
    #[prost(message, optional, tag = "3")]
    pub previous: Option<KeyValue>,
    /// There was something, and it was asked for, and it is left out: what was there before all the keys of one revision
    /// is told up to [`WATCH_PREVIOUS_BYTES_MAX`](crate::limits::WATCH_PREVIOUS_BYTES_MAX). It can be read at the revision before.
    #[prost(bool, tag = "4")]
    pub previous_omitted: bool,
}
