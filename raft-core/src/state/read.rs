//! Reads of a view: ranges now and in the past, status, and the records membership lives in.
//!
//! Owns what is read in one go. Never waits and never decides whether a view is fresh enough: the caller has made sure
//! (ReadIndex). A view is frozen, so everything read from one belongs together. Ranges are read in [`super::ranges`], which
//! can also be left half-way. Called by request handlers, the consensus machine and the planner's caller.

use bytes::Bytes;

use crate::command::SilentClient;
use crate::id::{LeaseId, LogIndex, NodeId, RaftId, Revision, Term};
use crate::keyring::KeyringRecord;
use crate::keyspace::{Section, prefix_end};
use crate::membership::operators::{OperatorRecord, Operators};
use crate::membership::record::{ClusterRecord, NodeRecord};
use crate::membership::removed::Removed;
use crate::membership::trust::{TrustRecord, TrustTime};
use crate::membership::work::{AssignmentRecord, LivenessRecord, ReportRecord};
use crate::ports::{StateRead, StoreError, StoreResult, Visit};
use crate::state::check::{check_range, malformed};
use crate::state::contract::{RecoveryStatus, Refusal, StateStatus, StoreUsage};
use crate::state::execute::{Executed, Pending, Present, execute};
use crate::state::layout::{self, Record, RecordView, corrupt};
use crate::state::leases::{LeaseRecord, Leases};
use crate::state::page::Page;
use crate::state::ranges::Reading;
use crate::state::replay::silent;
use crate::state::stored::{Counter, Event, Progress, StoredConfiguration, StoredRecovery, decode, digest};
use crate::state::usage::{Usage, quota_of};
use crate::txn::{KeyValue, Range, RangeResult, Txn, TxnResult};

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The request cannot be answered.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed; final for this node.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Versions of one key that are followed back one by one before the events are searched instead.
pub(crate) const STEPS: usize = 16;
/// Where the state of `view` stands; the default for an empty store.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn status(view: &dyn StateRead) -> StoreResult<StateStatus> {
    let mut status = StateStatus::default();
    if let Some(progress) = progress(view)? {
        status.applied = LogIndex(progress.applied);
        status.applied_term = Term(progress.applied_term);
        status.revision = Revision(progress.revision);
        status.hash = digest(layout::META_PROGRESS, &progress.hash)?;
    }
    if let Some(bytes) = view.get(layout::SYSTEM_CONFIGURATION)? {
        let stored: StoredConfiguration = decode(layout::SYSTEM_CONFIGURATION, &bytes)?;
        status.configuration = stored.configuration();
        status.configuration_number = stored.number;
    }
    status.compact_revision = Revision(compact_revision(view)?);
    Ok(status)
}

pub(crate) fn progress(view: &dyn StateRead) -> StoreResult<Option<Progress>> {
    view.get(layout::META_PROGRESS)?.map(|bytes| decode(layout::META_PROGRESS, &bytes)).transpose()
}

pub(crate) fn compact_revision(view: &dyn StateRead) -> StoreResult<u64> {
    Ok(match view.get(layout::SYSTEM_COMPACT)? {
        Some(bytes) => decode::<Counter>(layout::SYSTEM_COMPACT, &bytes)?.value,
        None => 0,
    })
}

/// How much the store holds.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn usage(view: &dyn StateRead) -> StoreResult<StoreUsage> {
    let usage = Usage::load(view)?;
    let quota = quota_of(&cluster(view)?.unwrap_or_default());
    let history = usage.history.saturating_sub(usage.compacted);
    Ok(StoreUsage { live: usage.live, history, quota, full: usage.full })
}

/// The same, counted anew from every record and event: what the kept count must be. For tests and checks; it reads
/// everything.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read, and for events that do not add up.
pub fn recounted_usage(view: &dyn StateRead) -> StoreResult<StoreUsage> {
    let usage = Usage::recount(view)?;
    let history = usage.history.saturating_sub(usage.compacted);
    Ok(StoreUsage { live: usage.live, history, ..self::usage(view)? })
}

/// What a transaction comes to on `view` that only reads ([`Txn::only_reads`]), as it would in an entry right behind it, of the term
/// whose quorum has confirmed the read ([`crate::consensus::io::Answer::ReadAt`]): a fencing token is that of this term, and no
/// leadership after it has written what the view shows. One that may write is refused.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn transaction(view: &dyn StateRead, txn: &Txn, term: Term) -> StoreResult<Result<TxnResult, Refusal>> {
    if !txn.only_reads() {
        return Ok(Err(malformed("transaction that writes, where one was asked for that only reads")));
    }
    let StateStatus { applied_term, revision: Revision(revision), .. } = status(view)?;
    let present = Present { store: view, overlay: &Pending::new(), leases: &Leases::default() };
    // The view may be younger than the confirmation: terms only rise in a log, and what stands behind this view has at least its own.
    let executed = execute(present, txn, term.max(applied_term).0, revision + 1)?;
    Ok(executed.map(|Executed { succeeded, results, .. }| TxnResult {
        succeeded,
        revision,
        results,
        ..TxnResult::default()
    }))
}

/// The last force-new-cluster of `view`.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn recovery(view: &dyn StateRead) -> StoreResult<RecoveryStatus> {
    match view.get(layout::SYSTEM_RECOVERY)? {
        Some(bytes) => decode::<StoredRecovery>(layout::SYSTEM_RECOVERY, &bytes)?.status(),
        None => Ok(RecoveryStatus::default()),
    }
}

/// The leases of `view` after `after`, ascending, at most `limit` of them.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn leases(view: &dyn StateRead, after: LeaseId, limit: usize) -> StoreResult<Vec<(LeaseId, LeaseRecord)>> {
    crate::state::leases::scan(view, after, limit)
}

/// One lease of `view`; `None` when it has ended, or never was.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn lease(view: &dyn StateRead, lease: LeaseId) -> StoreResult<Option<LeaseRecord>> {
    let stored = layout::lease_key(lease);
    view.get(&stored)?.map(|bytes| LeaseRecord::parse(&stored, &bytes)).transpose()
}

/// The full keys attached to a lease after the key `after` (empty: from the first), ascending, at most `limit` of them.
///
/// # Errors
/// Those of the store.
pub fn lease_keys(view: &dyn StateRead, lease: LeaseId, after: &[u8], limit: usize) -> StoreResult<Vec<Bytes>> {
    let first = if after.is_empty() { Bytes::new() } else { layout::successor(after) };
    let (from, to) =
        (layout::attached_key(lease, &first), layout::attached_key(LeaseId(lease.0.saturating_add(1)), &[]));
    let mut keys = Vec::new();
    view.scan(&from, &to, &mut |stored, _nothing| {
        if keys.len() >= limit {
            return Visit::Enough;
        }
        keys.extend(layout::parse_attached_key(stored));
        Visit::More
    })?;
    Ok(keys)
}

/// Reads a range now (revision 0) or as of an older revision that is not compacted.
///
/// An answer is one page: at most [`crate::limits::RANGE_LIMIT_MAX`] entries and about
/// [`crate::limits::RANGE_BYTES_MAX`] bytes, but at least one entry if there is one. With `more` set, ask again from the
/// last key with a zero byte behind it, at the revision of this answer: the pages then fit together whatever is written
/// meanwhile. A count is over the whole range.
///
/// # Errors
/// `Refused` with `Compacted` below the compact revision, `NewGeneration` before a recovery, `FutureRevision` above the newest, or a limit; `Store`.
pub fn range(view: &dyn StateRead, range: &Range) -> Result<RangeResult, ReadError> {
    let mut reading = Reading::begin(view, range.clone())?;
    loop {
        if let Some(result) = reading.step(view, usize::MAX)? {
            return Ok(result);
        }
    }
}

/// As [`range`] of the range's one key, as it is now, by whoever knows the `newest` revision of the view: many are read so
/// with one look at where it stands.
///
/// # Errors
/// `Refused` with a limit; `Store`.
pub fn key_now(view: &dyn StateRead, range: &Range, newest: Revision) -> Result<RangeResult, ReadError> {
    check_range(range)?;
    let mut page = Page::new(range);
    if let Some(record) = live(view, &range.key)? {
        let _ = page.offer(&range.key, record.view());
    }
    Ok(page.result(newest.0))
}

/// Live records from one full key to another.
pub(crate) fn scan_live(
    view: &dyn StateRead,
    from: &[u8],
    to: &[u8],
    visit: &mut dyn FnMut(&[u8], RecordView<'_>) -> StoreResult<Visit>,
) -> StoreResult<()> {
    if from >= to {
        return Ok(());
    }
    let mut failed = None;
    view.scan(&layout::current_key(from), &layout::current_key(to), &mut |stored, raw| {
        let visited =
            RecordView::parse(stored, raw).and_then(|record| visit(stored.get(1..).unwrap_or_default(), record));
        visited.unwrap_or_else(|error| {
            failed = Some(error);
            Visit::Enough
        })
    })?;
    failed.map_or(Ok(()), Err)
}

/// The live record of a full key.
pub(crate) fn live(view: &dyn StateRead, key: &[u8]) -> StoreResult<Option<Record>> {
    let stored = layout::current_key(key);
    view.get(&stored)?.map(|raw| Record::parse(&stored, raw)).transpose()
}

/// The record of `key` that `revision` ended; `None` when it ended none.
pub(crate) fn ended_by(view: &dyn StateRead, key: &[u8], revision: u64) -> StoreResult<Option<Record>> {
    let mut ended = None;
    Event::scan(view, (revision, revision.saturating_add(1)), &mut |_, event| match event
        .changes
        .iter()
        .find(|change| change.key == key)
    {
        Some(change) => {
            ended = change.old()?;
            Ok(Visit::Enough)
        }
        None => Ok(Visit::More),
    })?;
    Ok(ended)
}

/// The newest revision in the history that changed a full key. It reads all of the history: for tests and checks.
///
/// # Errors
/// Those of the store; `Corrupt` for an event that cannot be read.
#[cfg(feature = "testing")]
pub fn last_change(view: &dyn StateRead, key: &[u8]) -> StoreResult<Option<u64>> {
    let mut last = None;
    Event::scan(view, (0, u64::MAX), &mut |revision, event| {
        if event.changes.iter().any(|change| change.key == key) {
            last = Some(revision);
        }
        Ok(Visit::More)
    })?;
    Ok(last)
}

/// The value of one live record.
fn live_value(view: &dyn StateRead, full: &[u8]) -> StoreResult<Option<Bytes>> {
    Ok(live(view, full)?.map(|record| record.to_key_value(Bytes::new()).value))
}

/// The record about the cluster; `None` before it is founded or a snapshot is installed.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn cluster(view: &dyn StateRead) -> StoreResult<Option<ClusterRecord>> {
    let key = ClusterRecord::key();
    live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()
}

/// The barrier's keyring; empty where there is none.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn keyring(view: &dyn StateRead) -> StoreResult<KeyringRecord> {
    let stored = view.get(layout::SYSTEM_KEYRING)?;
    Ok(stored.map(|bytes| decode(layout::SYSTEM_KEYRING, &bytes)).transpose()?.unwrap_or_default())
}

/// Visits the live records of one section, full key and value, in ascending order, while the visitor wants more.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn live_records(
    view: &dyn StateRead,
    section: Section,
    visit: &mut dyn FnMut(KeyValue) -> bool,
) -> StoreResult<()> {
    live_records_from(view, section, None, visit)
}

/// As [`live_records`], from behind a key of the section on.
///
/// # Errors
/// As [`live_records`].
pub fn live_records_after(
    view: &dyn StateRead,
    section: Section,
    after: Option<&[u8]>,
    visit: &mut dyn FnMut(KeyValue) -> bool,
) -> StoreResult<()> {
    let from = after.map(|after| layout::successor(&section.key(after)));
    live_records_from(view, section, from.as_ref(), visit)
}

/// As [`live_records`], of those at and above a full key, of whichever section it is.
///
/// # Errors
/// As [`live_records`].
pub fn live_records_from(
    view: &dyn StateRead,
    section: Section,
    from: Option<&Bytes>,
    visit: &mut dyn FnMut(KeyValue) -> bool,
) -> StoreResult<()> {
    let first = section.key(b"");
    let from = from.filter(|from| **from > first).unwrap_or(&first);
    scan_live(view, from, &section.end(), &mut |key, record| {
        let more = visit(record.to_key_value(Bytes::copy_from_slice(key), true));
        Ok(if more { Visit::More } else { Visit::Enough })
    })
}

/// The record of one node.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn node(view: &dyn StateRead, id: NodeId) -> StoreResult<Option<NodeRecord>> {
    let key = NodeRecord::key(id);
    live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()
}

/// All nodes, ascending by node id.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn nodes(view: &dyn StateRead) -> StoreResult<Vec<NodeRecord>> {
    let mut nodes = Vec::new();
    scan_live(view, &Section::Node.key(b""), &Section::Node.end(), &mut |key, record| {
        nodes.push(decode(key, record.value)?);
        Ok(Visit::More)
    })?;
    Ok(nodes)
}

/// Which CA is trusted; `None` where no rotation ever was, and nothing was written at founding.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn trust(view: &dyn StateRead) -> StoreResult<Option<TrustRecord>> {
    let key = TrustRecord::key();
    live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()
}

/// How much of a rotation's time is over; that of none where nothing was written down.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn trust_time(view: &dyn StateRead) -> StoreResult<TrustTime> {
    let key = TrustTime::key();
    Ok(live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()?.unwrap_or_default())
}

/// One operator's record.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn operator(view: &dyn StateRead, id: NodeId) -> StoreResult<Option<OperatorRecord>> {
    let key = OperatorRecord::key(id);
    live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()
}

/// All operators.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn operators(view: &dyn StateRead) -> StoreResult<Operators> {
    let from = OperatorRecord::first_key();
    let mut operators = Vec::new();
    scan_live(view, &from, &prefix_end(&from), &mut |key, record| {
        operators.push(decode::<OperatorRecord>(key, record.value)?);
        Ok(Visit::More)
    })?;
    Ok(operators.into_iter().collect())
}

/// Where the mark lies that `id` was taken from its node for ever; the value says why, for people.
pub fn removed_key(id: RaftId) -> Bytes {
    Section::Removed.key(&id.0.to_be_bytes())
}

/// The mark of `id`, if it was taken from its node for ever.
///
/// # Errors
/// Those of the store.
pub fn removed_mark(view: &dyn StateRead, id: RaftId) -> StoreResult<Option<Bytes>> {
    live_value(view, &removed_key(id))
}

/// Every raft id that was taken from its node for ever.
///
/// # Errors
/// Those of the store; `Corrupt` for a key that is no raft id.
pub fn removed(view: &dyn StateRead) -> StoreResult<Removed> {
    let mut removed = Removed::default();
    scan_live(view, &Section::Removed.key(b""), &Section::Removed.end(), &mut |key, mark| {
        let id = key.get(1..).filter(|id| id.len() == 8).and_then(|id| layout::be64(id, 0));
        removed.set(RaftId(id.ok_or_else(|| corrupt(key, "no raft id"))?), Some(mark.value));
        Ok(Visit::More)
    })?;
    Ok(removed)
}

/// What is recorded about the presence of every worker, ascending by node id. A record that a newer quorate wrote in a
/// way that this one does not know is left out: unknown.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn liveness(view: &dyn StateRead) -> StoreResult<Vec<(NodeId, LivenessRecord)>> {
    let mut found = Vec::new();
    scan_live(view, &Section::Liveness.key(b""), &Section::Liveness.end(), &mut |key, record| {
        let id = key.get(1..).and_then(NodeId::from_slice).ok_or_else(|| corrupt(key, "no node id"))?;
        found.push((id, decode(key, record.value)?));
        Ok(Visit::More)
    })?;
    Ok(found)
}

/// What is recorded about the presence of one worker.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn presence(view: &dyn StateRead, id: NodeId) -> StoreResult<Option<LivenessRecord>> {
    let key = LivenessRecord::key(id);
    live_value(view, &key)?.map(|value| decode(&key, &value)).transpose()
}

/// One item of a node, as it lies in the state.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignedItem {
    /// Its id, as stored.
    pub id: Bytes,
    /// The revision of its last write.
    pub revision: u64,
    /// What was written.
    pub record: AssignmentRecord,
}

/// Every item of one node, ascending by id. They are bounded by the limits of [`crate::membership::work`].
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn assignments(view: &dyn StateRead, node: NodeId) -> StoreResult<Vec<AssignedItem>> {
    let (from, to) = AssignmentRecord::range(node);
    let mut items = Vec::new();
    scan_live(view, &from, &to, &mut |key, record| {
        let id = Bytes::copy_from_slice(key.get(17..).unwrap_or_default());
        items.push(AssignedItem { id, revision: record.modified, record: decode(key, record.value)? });
        Ok(Visit::More)
    })?;
    Ok(items)
}

/// What a node last said of its items, with the revision of that record; `None` when it has said nothing.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn report(view: &dyn StateRead, node: NodeId) -> StoreResult<Option<(ReportRecord, u64)>> {
    let key = ReportRecord::key(node);
    let Some(record) = live(view, &key)? else { return Ok(None) };
    let record = record.to_key_value(key.clone());
    Ok(Some((decode(&key, &record.value)?, record.mod_revision)))
}

/// Clients whose last request is at or below `until`, at most `max` of them: what a leader that saw no more of them for
/// the time of expiry proposes to forget.
///
/// # Errors
/// Those of the store; `Corrupt` for a record that cannot be read.
pub fn silent_clients(view: &dyn StateRead, until: LogIndex, max: usize) -> StoreResult<Vec<SilentClient>> {
    silent(view, until, max)
}
