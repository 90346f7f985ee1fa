//! The encoded records of the state besides the live ones. Field numbers are for ever.
//!
//! Owns the encoding of progress, configuration, events and outcomes. Never decides anything. Called by the machine,
//! the readers and the snapshot.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::id::{Lineage, LogIndex, RaftId, Revision, Term};
use crate::limits::NAMES;
use crate::log::Configuration;
use crate::ports::{StateRead, StoreResult, Visit, WriteSet};
use crate::state::contract::{Outcome, RecoveryStatus, Refusal, StateStatus};
use crate::state::layout::{self, Record, corrupt};
use crate::succession::Succession;
use crate::txn::TxnResult;

/// Reads a record, or says which one is damaged.
pub(crate) fn decode<M: Message + Default>(stored: &[u8], value: &[u8]) -> StoreResult<M> {
    M::decode(value).map_err(|error| corrupt(stored, error.to_string()))
}

/// Where a member stands, written with every round.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Progress {
    #[prost(uint64, tag = "1")]
    pub(crate) applied: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) applied_term: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) revision: u64,
    /// 32 bytes: the state hash at `applied`.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) hash: Bytes,
    /// 32 bytes: the state hash right after the command that made `revision`.
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) revision_hash: Bytes,
}

/// A 32-byte digest in a record.
pub(crate) fn digest(stored: &[u8], bytes: &[u8]) -> StoreResult<[u8; 32]> {
    bytes.try_into().map_err(|error| corrupt(stored, format!("digest of {} bytes: {error}", bytes.len())))
}

/// The Raft configuration with its number.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredConfiguration {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    voters_outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    learners: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    learners_next: Vec<u64>,
    #[prost(uint64, tag = "5")]
    pub(crate) number: u64,
}

impl StoredConfiguration {
    pub(crate) fn new(configuration: &Configuration, number: u64) -> Self {
        let plain = |ids: &[RaftId]| ids.iter().map(|id| id.0).collect();
        Self {
            voters: plain(&configuration.voters),
            voters_outgoing: plain(&configuration.voters_outgoing),
            learners: plain(&configuration.learners),
            learners_next: plain(&configuration.learners_next),
            number,
        }
    }

    pub(crate) fn configuration(&self) -> Configuration {
        let typed = |ids: &[u64]| ids.iter().copied().map(RaftId).collect();
        Configuration {
            voters: typed(&self.voters),
            voters_outgoing: typed(&self.voters_outgoing),
            learners: typed(&self.learners),
            learners_next: typed(&self.learners_next),
        }
    }
}

/// The last force-new-cluster of this state.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredRecovery {
    /// The lineage of the recovery that was begun and whose `Recovered` is not applied yet; empty when it is.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) begun: Bytes,
    /// Of the last one that is done: the newest revision that it kept.
    #[prost(uint64, tag = "2")]
    pub(crate) kept_revision: u64,
    /// The revision that it made: the first of its incarnation.
    #[prost(uint64, tag = "3")]
    pub(crate) first_revision: u64,
    /// The log index of its `Recovered`.
    #[prost(uint64, tag = "4")]
    pub(crate) index: u64,
    /// The number of the configuration that the last recovery, begun or done, put in force without an entry.
    #[prost(uint64, tag = "5")]
    pub(crate) configuration_number: u64,
    /// Who began each of the newest incarnations, oldest first.
    #[prost(message, repeated, tag = "6")]
    pub(crate) successions: Vec<Succession>,
}

impl StoredRecovery {
    /// As it is read by others.
    pub(crate) fn status(&self) -> StoreResult<RecoveryStatus> {
        let unreadable = || corrupt(layout::SYSTEM_RECOVERY, format!("lineage of {} bytes", self.begun.len()));
        let begun = match self.begun.is_empty() {
            true => None,
            false => Some(Lineage::from_slice(&self.begun).ok_or_else(unreadable)?),
        };
        Ok(RecoveryStatus {
            begun,
            kept_revision: Revision(self.kept_revision),
            first_revision: Revision(self.first_revision),
            index: LogIndex(self.index),
            configuration_number: self.configuration_number,
            successions: self.successions.clone(),
        })
    }
}

/// A counter as a record of table `system` or `meta`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Counter {
    #[prost(uint64, tag = "1")]
    pub(crate) value: u64,
}

/// [`StateStatus`] as it travels with a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredStatus {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    applied_term: u64,
    #[prost(message, optional, tag = "3")]
    configuration: Option<StoredConfiguration>,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(uint64, tag = "5")]
    compact_revision: u64,
    #[prost(bytes = "bytes", tag = "6")]
    hash: Bytes,
}

impl StoredStatus {
    pub(crate) fn new(status: &StateStatus) -> Self {
        Self {
            applied: status.applied.0,
            applied_term: status.applied_term.0,
            configuration: Some(StoredConfiguration::new(&status.configuration, status.configuration_number)),
            revision: status.revision.0,
            compact_revision: status.compact_revision.0,
            hash: Bytes::copy_from_slice(&status.hash),
        }
    }

    /// `None` when the hash is not 32 bytes.
    pub(crate) fn status(&self) -> Option<StateStatus> {
        let configuration = self.configuration.clone().unwrap_or_default();
        Some(StateStatus {
            applied: LogIndex(self.applied),
            applied_term: Term(self.applied_term),
            configuration: configuration.configuration(),
            configuration_number: configuration.number,
            revision: Revision(self.revision),
            compact_revision: Revision(self.compact_revision),
            hash: self.hash.as_ref().try_into().ok()?,
        })
    }
}

/// What one revision did, or a part of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Event {
    #[prost(message, repeated, tag = "1")]
    pub(crate) changes: Vec<EventChange>,
    /// Bytes of all history that was made before it (see [`super::usage`]); only in the first part.
    #[prost(uint64, tag = "2")]
    pub(crate) history_before: u64,
}

impl Event {
    /// Writes the event of `revision`, in as many parts as it takes.
    pub(crate) fn write(self, revision: u64, writes: &mut WriteSet) {
        let Self { changes, history_before } = self;
        let mut part = Self { changes: Vec::with_capacity(changes.len()), history_before };
        let (mut number, mut bytes) = (0, 0);
        for change in changes {
            if bytes >= layout::EVENT_PART_BYTES {
                writes.put(layout::event_part_key(revision, number), part.encode_to_vec());
                (part, bytes) = (Self::default(), 0);
                number += 1;
            }
            bytes += change.key.len() + change.old.len();
            part.changes.push(change);
        }
        writes.put(layout::event_part_key(revision, number), part.encode_to_vec());
    }

    /// Visits the events of the revisions `from..to`, part by part, until it is enough; what the visitor says is the result.
    pub(crate) fn scan(
        view: &dyn StateRead,
        (from, to): (u64, u64),
        visit: &mut dyn FnMut(u64, Self) -> StoreResult<Visit>,
    ) -> StoreResult<()> {
        let mut failed = None;
        view.scan(&layout::event_key(from), &layout::event_key(to), &mut |key, value| {
            let revision = layout::parse_event_key(key).ok_or_else(|| corrupt(key, "no key of an event"));
            // One copy for all that is in it: the records are taken out of it as they are.
            let event = || Self::decode(Bytes::copy_from_slice(value)).map_err(|error| corrupt(key, error.to_string()));
            let visited = revision.and_then(|revision| visit(revision, event()?));
            visited.unwrap_or_else(|error| {
                failed = Some(error);
                Visit::Enough
            })
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// What a revision did to one key.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EventChange {
    /// The full key.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    /// Removed; else written.
    #[prost(bool, tag = "2")]
    pub(crate) deleted: bool,
    /// The record that this ended, as it was stored; empty when there was none.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) old: Bytes,
}

impl EventChange {
    /// The record that this ended.
    pub(crate) fn old(&self) -> StoreResult<Option<Record>> {
        if self.old.is_empty() { Ok(None) } else { Record::parse(&self.key, self.old.clone()).map(Some) }
    }
}

/// What the requests of one entry of the log left in the replay table.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReplayPage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) requests: Vec<ReplayedRequest>,
}

/// One request that was applied.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReplayedRequest {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) client: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) sequence: u64,
    /// The client's mark from then on.
    #[prost(uint64, tag = "3")]
    pub(crate) low_water: u64,
    /// What it came to, a [`StoredOutcome`].
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) outcome: Bytes,
}

/// An outcome in the replay table.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredOutcome {
    #[prost(oneof = "StoredOutcomeKind", tags = "1, 2")]
    kind: Option<StoredOutcomeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum StoredOutcomeKind {
    #[prost(message, tag = "1")]
    Done(TxnResult),
    #[prost(message, tag = "2")]
    Refused(StoredRefusal),
}

/// [`Refusal`] as stored: its kind, two texts and three numbers, whatever they mean in it.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredRefusal {
    #[prost(enumeration = "RefusalKind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    what: String,
    #[prost(string, tag = "3")]
    limit: String,
    #[prost(uint64, tag = "4")]
    first: u64,
    #[prost(uint64, tag = "5")]
    second: u64,
    #[prost(uint64, tag = "6")]
    third: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum RefusalKind {
    Limit = 0,
    EmptyKey = 1,
    DuplicateKey = 2,
    Compacted = 3,
    FutureRevision = 4,
    Fenced = 5,
    RequestExpired = 6,
    ReplayFull = 7,
    Malformed = 8,
    StoreFull = 80,
    LeaseNotFound = 75,
    LeaseTtl = 76,
    NewGeneration = 60,
    StaleKey = 130,
    InUse = 131,
    NoSuchObject = 132,
}

impl StoredOutcome {
    /// What a transaction did, encoded without copying its answers into a message first: every request comes here.
    pub(crate) fn encode_done(result: &TxnResult) -> Bytes {
        // Field 1, length-delimited.
        const DONE: u8 = 1 << 3 | 2;
        let length = result.encoded_len();
        let mut bytes = BytesMut::with_capacity(1 + prost::length_delimiter_len(length) + length);
        bytes.put_u8(DONE);
        // Growing memory has no end that encoding could meet.
        let _ = result.encode_length_delimited(&mut bytes);
        bytes.freeze()
    }

    pub(crate) fn encode_refused(refusal: &Refusal) -> Bytes {
        Self { kind: Some(StoredOutcomeKind::Refused(StoredRefusal::new(refusal))) }.encode_to_vec().into()
    }

    /// `None` when it is of no known kind.
    pub(crate) fn outcome(self) -> Option<Outcome> {
        Some(match self.kind? {
            StoredOutcomeKind::Done(result) => Outcome::Done(result),
            StoredOutcomeKind::Refused(refusal) => Outcome::Refused(refusal.refusal()?),
        })
    }
}

impl StoredRefusal {
    fn new(refusal: &Refusal) -> Self {
        let of = |kind: RefusalKind, what: &str, limit: &str, first: u64, second: u64| Self {
            kind: kind.into(),
            what: what.to_owned(),
            limit: limit.to_owned(),
            first,
            second,
            third: 0,
        };
        match refusal {
            Refusal::Limit { what, limit, max, actual } => of(RefusalKind::Limit, what, limit, *max, *actual),
            Refusal::EmptyKey => of(RefusalKind::EmptyKey, "", "", 0, 0),
            Refusal::DuplicateKey { key } => of(RefusalKind::DuplicateKey, key, "", 0, 0),
            Refusal::Compacted { asked, oldest } => of(RefusalKind::Compacted, "", "", *asked, *oldest),
            Refusal::FutureRevision { asked, current } => of(RefusalKind::FutureRevision, "", "", *asked, *current),
            Refusal::NewGeneration { asked, kept_revision } => {
                of(RefusalKind::NewGeneration, "", "", *asked, *kept_revision)
            }
            Refusal::Fenced { token, term } => of(RefusalKind::Fenced, "", "", *token, *term),
            Refusal::RequestExpired { sequence, low_water } => {
                of(RefusalKind::RequestExpired, "", "", *sequence, *low_water)
            }
            Refusal::ReplayFull { kept, max } => of(RefusalKind::ReplayFull, "", "", *kept, *max),
            Refusal::LeaseNotFound { lease } => of(RefusalKind::LeaseNotFound, "", "", *lease, 0),
            Refusal::LeaseTtl { asked_ms } => of(RefusalKind::LeaseTtl, "", "", *asked_ms, 0),
            Refusal::StaleKey { key } => of(RefusalKind::StaleKey, "", "", u64::from(*key), 0),
            Refusal::InUse { what, users } => of(RefusalKind::InUse, what, users, 0, 0),
            Refusal::NoSuchObject { what } => of(RefusalKind::NoSuchObject, what, "", 0, 0),
            Refusal::Malformed { what } => of(RefusalKind::Malformed, what, "", 0, 0),
            Refusal::StoreFull { used, quota, wanted } => {
                Self { third: *wanted, ..of(RefusalKind::StoreFull, "", "", *used, *quota) }
            }
        }
    }

    fn refusal(self) -> Option<Refusal> {
        let Self { what, limit, first, second, third, .. } = self;
        Some(match RefusalKind::try_from(self.kind).ok()? {
            RefusalKind::Limit => Refusal::Limit {
                what,
                // A name that only another version knows is still a refusal, and no reason to stop.
                limit: NAMES.into_iter().find(|name| *name == limit).unwrap_or("limit of another version"),
                max: first,
                actual: second,
            },
            RefusalKind::EmptyKey => Refusal::EmptyKey,
            RefusalKind::DuplicateKey => Refusal::DuplicateKey { key: what },
            RefusalKind::Compacted => Refusal::Compacted { asked: first, oldest: second },
            RefusalKind::FutureRevision => Refusal::FutureRevision { asked: first, current: second },
            RefusalKind::NewGeneration => Refusal::NewGeneration { asked: first, kept_revision: second },
            RefusalKind::Fenced => Refusal::Fenced { token: first, term: second },
            RefusalKind::RequestExpired => Refusal::RequestExpired { sequence: first, low_water: second },
            RefusalKind::ReplayFull => Refusal::ReplayFull { kept: first, max: second },
            RefusalKind::LeaseNotFound => Refusal::LeaseNotFound { lease: first },
            RefusalKind::LeaseTtl => Refusal::LeaseTtl { asked_ms: first },
            RefusalKind::StaleKey => Refusal::StaleKey { key: u32::try_from(first).unwrap_or(u32::MAX) },
            RefusalKind::InUse => Refusal::InUse { what, users: limit },
            RefusalKind::NoSuchObject => Refusal::NoSuchObject { what },
            RefusalKind::Malformed => Refusal::Malformed { what },
            RefusalKind::StoreFull => Refusal::StoreFull { used: first, quota: second, wanted: third },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_reads_back() {
        let text = || "text".to_owned();
        let mut all = vec![
            Refusal::EmptyKey,
            Refusal::DuplicateKey { key: text() },
            Refusal::Compacted { asked: 1, oldest: 2 },
            Refusal::FutureRevision { asked: 1, current: 2 },
            Refusal::NewGeneration { asked: 1, kept_revision: 2 },
            Refusal::Fenced { token: 1, term: 2 },
            Refusal::RequestExpired { sequence: 1, low_water: 2 },
            Refusal::ReplayFull { kept: 1, max: 2 },
            Refusal::LeaseNotFound { lease: 1 },
            Refusal::LeaseTtl { asked_ms: 1 },
            Refusal::StaleKey { key: 3 },
            Refusal::InUse { what: text(), users: "others".to_owned() },
            Refusal::NoSuchObject { what: text() },
            Refusal::Malformed { what: text() },
            Refusal::StoreFull { used: 1, quota: 2, wanted: 3 },
        ];
        all.extend(NAMES.map(|limit| Refusal::Limit { what: text(), limit, max: 1, actual: 2 }));
        for refusal in all {
            let read: StoredOutcome = decode(b"test", &StoredOutcome::encode_refused(&refusal)).unwrap();
            assert_eq!(read.outcome(), Some(Outcome::Refused(refusal)));
        }
    }

    #[test]
    fn what_was_done_reads_back_as_the_message_that_it_is() {
        for count in [0, 1, 200] {
            let result = TxnResult {
                succeeded: count == 1,
                revision: 300,
                results: vec![crate::txn::OpResult::default(); count],
                replayed: false,
                lease: count as u64,
            };
            let bytes = StoredOutcome::encode_done(&result);
            let whole = StoredOutcome { kind: Some(StoredOutcomeKind::Done(result.clone())) };
            assert_eq!(bytes, whole.encode_to_vec());
            let read: StoredOutcome = decode(b"test", &bytes).unwrap();
            assert_eq!(read.outcome(), Some(Outcome::Done(result)));
        }
    }
}
