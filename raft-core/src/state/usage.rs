//! How much the store holds, and whether there is room for more.
//!
//! Owns the count of bytes that the quota is compared with, and the alarm. The count is of what is replicated: live
//! records, leases and what is attached to them, and the history above the compact revision; what a member still has on disk beyond that is its own affair and
//! no outcome depends on it. Kept as a system record, in the state hash. Called by the machine, for each revision.
//!
//! History is counted without looking at it: `history` only grows, each event says what it was before that event, and
//! what it was at the compact revision is kept beside it. The difference is what can still be read of the past.

use bytes::Bytes;
use prost::Message;

use crate::id::LeaseId;
use crate::keyspace::Section;
use crate::limits::STORE_QUOTA_BYTES;
use crate::membership::record::ClusterRecord;
use crate::ports::{StateRead, StoreError, StoreResult, Visit};
use crate::state::contract::Refusal;
use crate::state::execute::Change;
use crate::state::hash::Lanes;
use crate::state::layout::{self, Record, RecordView};
use crate::state::stored::{Event, EventChange, decode};
use crate::state::{leases, read};

/// What the alarm waits for once it is up, in hundredths of the quota: a little cleared away does not send it to and fro.
const CLEARED_PERCENT: u64 = 90;
/// What a record is counted with besides its bytes: its place in an index, and in the tables that hold it.
const RECORD_BYTES: u64 = 32;

/// The record.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Usage {
    /// Bytes of the live records.
    #[prost(uint64, tag = "1")]
    pub(crate) live: u64,
    /// Bytes of all history that was ever made.
    #[prost(uint64, tag = "2")]
    pub(crate) history: u64,
    /// `history` as it was right after the compact revision.
    #[prost(uint64, tag = "3")]
    pub(crate) compacted: u64,
    /// The alarm: a write was refused for lack of room, and not enough has been cleared away since.
    #[prost(bool, tag = "4")]
    pub(crate) full: bool,
}

/// What a lease is counted with: a byte and its number as the key, and what is stored under it.
const LEASE_BYTES: u64 = RECORD_BYTES + 9 + leases::BYTES as u64;

/// What a record is counted with.
fn record_bytes(key: &[u8], raw: &[u8]) -> u64 {
    RECORD_BYTES + (key.len() + raw.len()) as u64
}

/// What a live record is counted with: one that is attached to a lease has a place in the lease's index too.
fn live_bytes(key: &[u8], raw: &[u8], record: RecordView<'_>) -> u64 {
    let index = if record.lease == 0 { 0 } else { RECORD_BYTES + (9 + key.len()) as u64 };
    record_bytes(key, raw) + index
}

/// What one change of a key is counted with in the event of its revision.
const fn event_bytes(key: &Bytes) -> u64 {
    RECORD_BYTES + key.len() as u64
}

impl Usage {
    /// The record of a state, as found; all zero when there is none.
    pub(crate) fn load(view: &dyn StateRead) -> StoreResult<Self> {
        Ok(view
            .get(layout::SYSTEM_USAGE)?
            .map(|bytes| decode(layout::SYSTEM_USAGE, &bytes))
            .transpose()?
            .unwrap_or_default())
    }

    /// What the quota is compared with.
    pub(crate) const fn used(&self) -> u64 {
        self.live.saturating_add(self.history.saturating_sub(self.compacted))
    }

    /// One key goes from one record to another.
    pub(crate) fn change(&mut self, key: &Bytes, old: Option<&Record>, new: Option<&Record>) {
        if let Some(new) = new {
            self.live = self.live.saturating_add(live_bytes(key, new.raw(), new.view()));
        }
        self.history = self.history.saturating_add(event_bytes(key));
        if let Some(old) = old {
            self.live = self.live.saturating_sub(live_bytes(key, old.raw(), old.view()));
            self.history = self.history.saturating_add(record_bytes(key, old.raw()));
        }
    }

    /// A live record is replaced by one that says the same: no history comes of it.
    pub(crate) fn reseal(&mut self, key: &Bytes, old: &Record, new: &Record) {
        self.live = self.live.saturating_add(live_bytes(key, new.raw(), new.view()));
        self.live = self.live.saturating_sub(live_bytes(key, old.raw(), old.view()));
    }

    /// A lease is granted, if there is room for one.
    pub(crate) fn grant(&mut self, quota: u64) -> Result<(), Refusal> {
        let used = self.used();
        if self.full || used.saturating_add(LEASE_BYTES) > quota {
            return Err(Refusal::StoreFull { used, quota, wanted: LEASE_BYTES });
        }
        self.live = self.live.saturating_add(LEASE_BYTES);
        Ok(())
    }

    /// A lease has ended.
    pub(crate) const fn end_lease(&mut self) {
        self.live = self.live.saturating_sub(LEASE_BYTES);
    }

    /// Whether these changes may be made. What only deletes may always; so may what is not the users': a cluster whose
    /// store is full must still be able to change its members.
    pub(crate) fn admit(&self, changes: &[Change], quota: u64) -> Result<(), Refusal> {
        let users =
            [Section::User, Section::Assignment, Section::Config, Section::Secret].map(|section| Some(section as u8));
        if !changes.iter().any(|change| change.new.is_some() && users.contains(&change.key.first().copied())) {
            return Ok(());
        }
        let mut after = *self;
        for Change { key, old, new, .. } in changes {
            after.change(key, old.as_ref(), new.as_ref());
        }
        let (used, wanted) = (self.used(), after.used().saturating_sub(self.used()));
        if self.full || after.used() > quota { Err(Refusal::StoreFull { used, quota, wanted }) } else { Ok(()) }
    }

    /// Takes the alarm down once enough has been cleared away.
    pub(crate) fn settle(&mut self, quota: u64) {
        if self.full && self.used() <= quota / 100 * CLEARED_PERCENT {
            self.full = false;
        }
    }

    /// The record as stored, and what it adds to the hash.
    pub(crate) fn stored(&self) -> (Bytes, Lanes) {
        let bytes: Bytes = self.encode_to_vec().into();
        let lanes = Lanes::of(layout::SYSTEM_USAGE, &bytes);
        (bytes, lanes)
    }

    /// All of it counted anew from the records and events themselves: what the kept count must be. Only the alarm, and
    /// how much history there was before the compact revision, are taken from the record.
    pub(crate) fn recount(view: &dyn StateRead) -> StoreResult<Self> {
        let kept = Self::load(view)?;
        let leases = leases::scan(view, LeaseId(0), usize::MAX)?.len() as u64;
        let mut counted = Self { live: leases * LEASE_BYTES, history: kept.compacted, ..kept };
        let mut failed: Option<StoreError> = None;
        view.scan(
            &[layout::CURRENT],
            &[layout::CURRENT + 1],
            &mut |stored, raw| match RecordView::parse(stored, raw) {
                Ok(record) => {
                    counted.live += live_bytes(stored.get(1..).unwrap_or_default(), raw, record);
                    Visit::More
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Enough
                }
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        let oldest = read::status(view)?.compact_revision.0 + 1;
        let mut last = 0;
        Event::scan(view, (oldest, u64::MAX), &mut |revision, event| {
            if revision != last && event.history_before != counted.history {
                let detail =
                    format!("{} bytes of history before it, {} counted", event.history_before, counted.history);
                return Err(layout::corrupt(&layout::event_key(revision), detail));
            }
            last = revision;
            for EventChange { key, old, .. } in &event.changes {
                counted.history += event_bytes(key) + if old.is_empty() { 0 } else { record_bytes(key, old) };
            }
            Ok(Visit::More)
        })?;
        Ok(counted)
    }
}

/// The quota in force, by the cluster's record.
pub(crate) const fn quota_of(cluster: &ClusterRecord) -> u64 {
    if cluster.store_quota_bytes == 0 { STORE_QUOTA_BYTES } else { cluster.store_quota_bytes }
}

/// Bytes of all history up to and including `revision`, as the first event after it says; `made` are the revisions of the
/// round at work, which the store does not have yet. `None` when there is no event after it.
pub(crate) fn history_up_to(store: &dyn StateRead, revision: u64, made: &[(u64, u64)]) -> StoreResult<Option<u64>> {
    let mut next = None;
    Event::scan(store, (revision.saturating_add(1), u64::MAX), &mut |_, event| {
        next = Some(event.history_before);
        Ok(Visit::Enough)
    })?;
    let in_round = || made.iter().find(|(made, _)| *made > revision).map(|(_, before)| *before);
    Ok(next.or_else(in_round))
}
