//! One page of a range answer.
//!
//! Owns limit, byte bound and count. Never reads. Called by transactions and by reads on their own, so that both page
//! alike.

use bytes::Bytes;

use crate::limits::{KEY_BYTES_MAX, RANGE_BYTES_MAX, RANGE_LIMIT_MAX, VALUE_BYTES_MAX};
use crate::ports::Visit;
use crate::state::layout::RecordView;
use crate::txn::{KeyValue, Range, RangeResult};

const _: () = assert!(KEY_BYTES_MAX + 1 + VALUE_BYTES_MAX <= RANGE_BYTES_MAX, "the largest record fits one page");

/// Collects live records in ascending order until the page is full.
#[derive(Debug)]
pub(crate) struct Page {
    entries: Vec<KeyValue>,
    count: u64,
    bytes: usize,
    budget: usize,
    limit: u64,
    keys_only: bool,
    count_only: bool,
    more: bool,
}

impl Page {
    /// A page of a read on its own: it has at least one entry when there is one, because the largest record fits, so
    /// paging always gets on.
    pub(crate) fn new(range: &Range) -> Self {
        let limit = if range.limit == 0 { RANGE_LIMIT_MAX } else { range.limit.min(RANGE_LIMIT_MAX) };
        Self {
            entries: Vec::new(),
            count: 0,
            bytes: 0,
            budget: RANGE_BYTES_MAX,
            limit,
            keys_only: range.keys_only,
            count_only: range.count_only,
            more: false,
        }
    }

    /// A page of one range of a transaction, whose answers share `budget` bytes; it may be empty with more to come.
    pub(crate) fn within_transaction(range: &Range, budget: usize) -> Self {
        Self { budget, ..Self::new(range) }
    }

    /// Takes the next record, unless the page is full.
    pub(crate) fn offer(&mut self, full: &[u8], record: RecordView<'_>) -> Visit {
        if self.count_only {
            self.count += 1;
            return Visit::More;
        }
        let bytes = full.len() + if self.keys_only { 0 } else { record.value.len() };
        if self.count >= self.limit || self.bytes + bytes > self.budget {
            self.more = true;
            return Visit::Enough;
        }
        self.count += 1;
        self.bytes += bytes;
        self.entries.push(record.to_key_value(Bytes::copy_from_slice(full), !self.keys_only));
        Visit::More
    }

    /// Whether values are of no interest.
    pub(crate) const fn without_values(&self) -> bool {
        self.keys_only || self.count_only
    }

    /// Bytes of keys and values in it.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The answer.
    pub(crate) fn result(self, revision: u64) -> RangeResult {
        RangeResult { entries: self.entries, count: self.count, more: self.more, revision }
    }
}
