//! How the state lies in the store's flat keyspace: one byte names the table, then the table's own key.
//!
//! Owns the stored keys and the record of a live key. Order of stored keys is order of keys, also where keys hold any
//! bytes or are prefixes of each other. Never reads or writes. Called by everything in [`crate::state`].
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | where this member stands |
//! | event | revision, part | the keys it changed, and the records that it ended |
//! | system | name | configuration, compact revision, expiry floor, recovery, the keyring, the last lease given out |
//! | current | full key | the live record |
//! | client | client id | low-water mark, first and last index, as of when that was last written |
//! | replay | log index | the requests of that entry, with their marks and what they came to |
//! | lease | lease | time to live, number of keys |
//! | attached | lease, full key | nothing: the key is attached to the lease |
//!
//! A superseded version lies in the event of the revision that *ended* it: the version in force at revision R is in the first
//! event after R that names its key, or the live record when there is none. So a put is one write to a place of its own, and one
//! behind the last one; and compaction removes one range, whatever was in it. A delete needs no tombstone: it ends a version
//! and leaves no current record. An event that holds more than [`EVENT_PART_BYTES`] of old records goes on in further parts.
//! The tables from `system` on are those that the state hash covers; they follow each other.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{ClientId, LeaseId};
use crate::keyspace::Section;
use crate::ports::{StoreError, StoreResult};
use crate::txn::KeyValue;

/// Where a member stands; not hashed.
pub(crate) const META: u8 = 0x01;
/// Keys changed and records ended, by revision.
pub(crate) const EVENT: u8 = 0x03;
/// Replicated facts without revision; the first hashed table.
pub(crate) const SYSTEM: u8 = 0x10;
/// Live records.
pub(crate) const CURRENT: u8 = 0x11;
/// Clients of the replay table.
pub(crate) const CLIENT: u8 = 0x12;
/// Requests of the replay table and what they came to, by log index.
pub(crate) const REPLAY: u8 = 0x13;
/// Leases.
pub(crate) const LEASE: u8 = 0x14;
/// Keys by lease.
pub(crate) const ATTACHED: u8 = 0x15;
/// The first byte after the hashed tables.
pub(crate) const HASHED_END: u8 = 0x20;

/// Where the live records of a section lie in the store, the end excluded: for harnesses that damage some.
pub fn live_range(section: Section) -> (Bytes, Bytes) {
    let stored = |key: Bytes| [&[CURRENT], &key[..]].concat().into();
    (stored(section.key(b"")), stored(section.end()))
}

/// `meta`: applied index and what belongs to it.
pub(crate) const META_PROGRESS: &[u8] = &[META, b'p'];
/// `system`: the Raft configuration and its number.
pub(crate) const SYSTEM_CONFIGURATION: &[u8] = b"\x10configuration";
/// `system`: the compact revision.
pub(crate) const SYSTEM_COMPACT: &[u8] = b"\x10compact";
/// `system`: the expiry floor of the replay table.
pub(crate) const SYSTEM_FLOOR: &[u8] = b"\x10floor";
/// `system`: the last force-new-cluster, begun or done.
pub(crate) const SYSTEM_RECOVERY: &[u8] = b"\x10recovery";

/// `system`: how much the store holds.
pub(crate) const SYSTEM_USAGE: &[u8] = b"\x10usage";
/// `system`: the barrier's keyring.
pub(crate) const SYSTEM_KEYRING: &[u8] = b"\x10keyring";
/// `system`: the last lease id given out.
pub(crate) const SYSTEM_LEASES: &[u8] = b"\x10leases";

/// Bytes of old records in one part of an event after which another part begins.
pub(crate) const EVENT_PART_BYTES: usize = 1024 * 1024;

/// The format byte in front of every live record.
const RECORD_FORMAT: u8 = 1;
/// Format byte and four counters.
const RECORD_HEADER: usize = 1 + 4 * 8;

/// Whether the state hash covers a stored key.
pub(crate) fn is_hashed(stored: &[u8]) -> bool {
    stored.first().is_some_and(|table| (SYSTEM..HASHED_END).contains(table))
}

/// The stored key of a live record.
pub(crate) fn current_key(full: &[u8]) -> Bytes {
    tabled(CURRENT, full)
}

/// The full key of a stored key of table `current`.
pub(crate) fn full_key(stored: &Bytes) -> Bytes {
    stored.slice(stored.len().min(1)..)
}

/// The stored key of a client.
pub(crate) fn client_key(client: ClientId) -> Bytes {
    tabled(CLIENT, client.as_bytes())
}

/// The stored key of the requests of one entry of the log.
pub(crate) fn replay_key(index: u64) -> Bytes {
    tabled(REPLAY, &index.to_be_bytes())
}

/// Reads [`client_key`] back.
pub(crate) fn parse_client_key(stored: &[u8]) -> Option<ClientId> {
    match stored.split_first() {
        Some((&CLIENT, rest)) => ClientId::from_slice(rest),
        _ => None,
    }
}

/// Reads [`replay_key`] back.
pub(crate) fn parse_replay_key(stored: &[u8]) -> Option<u64> {
    match stored.split_first() {
        Some((&REPLAY, rest)) if rest.len() == 8 => be64(rest, 0),
        _ => None,
    }
}

/// The stored key of a lease.
pub(crate) fn lease_key(lease: LeaseId) -> Bytes {
    tabled(LEASE, &lease.0.to_be_bytes())
}

/// Reads [`lease_key`] back.
pub(crate) fn parse_lease_key(stored: &[u8]) -> Option<LeaseId> {
    match stored.split_first() {
        Some((&LEASE, rest)) if rest.len() == 8 => be64(rest, 0).map(LeaseId),
        _ => None,
    }
}

/// The stored key that says that `full` is attached to `lease`; with an empty key what stands before all of them.
pub(crate) fn attached_key(lease: LeaseId, full: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + 8 + full.len());
    key.put_u8(ATTACHED);
    key.put_u64(lease.0);
    key.put_slice(full);
    key.freeze()
}

/// The full key of [`attached_key`].
pub(crate) fn parse_attached_key(stored: &[u8]) -> Option<Bytes> {
    match stored.split_first() {
        Some((&ATTACHED, rest)) => rest.get(8..).map(Bytes::copy_from_slice),
        _ => None,
    }
}

/// Where the event of `revision` begins: before each of its parts, after everything of the revision before.
pub(crate) fn event_key(revision: u64) -> Bytes {
    tabled(EVENT, &revision.to_be_bytes())
}

/// The stored key of one part of the event of `revision`.
pub(crate) fn event_part_key(revision: u64, part: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + 8 + 4);
    key.put_u8(EVENT);
    key.put_u64(revision);
    key.put_u32(part);
    key.freeze()
}

/// The revision of [`event_part_key`].
pub(crate) fn parse_event_key(stored: &[u8]) -> Option<u64> {
    match stored.split_first() {
        Some((&EVENT, rest)) if rest.len() == 12 => be64(rest, 0),
        _ => None,
    }
}

/// The smallest key after `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn tabled(table: u8, key: &[u8]) -> Bytes {
    let mut stored = BytesMut::with_capacity(1 + key.len());
    stored.put_u8(table);
    stored.put_slice(key);
    stored.freeze()
}

/// The big-endian number at `at`, if the bytes reach that far.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}

/// A stored record that cannot be read.
pub(crate) fn corrupt(stored: &[u8], detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt { record: stored.escape_ascii().to_string(), detail: detail.into() }
}

/// A live or superseded record, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordView<'a> {
    /// The revision that created the key.
    pub(crate) created: u64,
    /// The revision that wrote this version.
    pub(crate) modified: u64,
    /// Writes since creation.
    pub(crate) version: u64,
    /// The lease, 0 is none.
    pub(crate) lease: u64,
    /// The value.
    pub(crate) value: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads a stored record; `stored` only names it in the error.
    pub(crate) fn parse(stored: &[u8], raw: &'a [u8]) -> StoreResult<Self> {
        Self::read(raw).ok_or_else(|| corrupt(stored, "no record of a known format"))
    }

    fn read(raw: &'a [u8]) -> Option<Self> {
        if raw.first() != Some(&RECORD_FORMAT) {
            return None;
        }
        Some(Self {
            created: be64(raw, 1)?,
            modified: be64(raw, 9)?,
            version: be64(raw, 17)?,
            lease: be64(raw, 25)?,
            value: raw.get(RECORD_HEADER..)?,
        })
    }

    /// As stored.
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut raw = BytesMut::with_capacity(RECORD_HEADER + self.value.len());
        raw.put_u8(RECORD_FORMAT);
        raw.put_u64(self.created);
        raw.put_u64(self.modified);
        raw.put_u64(self.version);
        raw.put_u64(self.lease);
        raw.put_slice(self.value);
        raw.freeze()
    }

    /// As answered; the value only when it is wanted.
    pub(crate) fn to_key_value(self, full: Bytes, with_value: bool) -> KeyValue {
        KeyValue {
            key: full,
            value: if with_value { Bytes::copy_from_slice(self.value) } else { Bytes::new() },
            create_revision: self.created,
            mod_revision: self.modified,
            version: self.version,
            lease: self.lease,
        }
    }
}

/// A record with its bytes as stored, so that superseding it moves and never copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    raw: Bytes,
    created: u64,
    modified: u64,
    version: u64,
    lease: u64,
}

impl Record {
    /// Makes a record.
    pub(crate) fn new(view: RecordView<'_>) -> Self {
        let RecordView { created, modified, version, lease, .. } = view;
        Self { raw: view.to_bytes(), created, modified, version, lease }
    }

    /// Reads a stored record.
    pub(crate) fn parse(stored: &[u8], raw: Bytes) -> StoreResult<Self> {
        let RecordView { created, modified, version, lease, .. } = RecordView::parse(stored, &raw)?;
        Ok(Self { raw, created, modified, version, lease })
    }

    /// As stored.
    pub(crate) const fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The fields.
    pub(crate) fn view(&self) -> RecordView<'_> {
        RecordView {
            created: self.created,
            modified: self.modified,
            version: self.version,
            lease: self.lease,
            value: self.raw.get(RECORD_HEADER..).unwrap_or_default(),
        }
    }

    /// As answered, sharing the value's bytes.
    pub(crate) fn to_key_value(&self, full: Bytes) -> KeyValue {
        KeyValue { value: self.raw.slice(RECORD_HEADER.min(self.raw.len())..), ..self.view().to_key_value(full, false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that are made to hurt: few letters, among them 0x00 and 0xff, so that prefixes and escapes meet.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff), any::<u8>()], 0..6),
            proptest::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn every_kind_of_key_reads_back_and_sorts_as_its_parts(
            a: [u8; 16], b: [u8; 16], x: u64, y: u64,
        ) {
            let client = ClientId::from_bytes(a);
            prop_assert_eq!(parse_replay_key(&replay_key(x)), Some(x));
            prop_assert_eq!(parse_client_key(&client_key(client)), Some(client));
            prop_assert_eq!(parse_event_key(&event_part_key(x, 7)), Some(x));
            prop_assert_eq!(parse_lease_key(&lease_key(LeaseId(x))), Some(LeaseId(x)));
            let attached = attached_key(LeaseId(x), &a);
            prop_assert_eq!(parse_attached_key(&attached), Some(Bytes::copy_from_slice(&a)));
            prop_assert_eq!(attached_key(LeaseId(x), &a).cmp(&attached_key(LeaseId(y), &b)), (x, a).cmp(&(y, b)));
            prop_assert_eq!(replay_key(x).cmp(&replay_key(y)), x.cmp(&y));
            let (part, other) = (u32::from(a[0]), u32::from(b[0]));
            let order = event_part_key(x, part).cmp(&event_part_key(y, other));
            prop_assert_eq!(order, (x, part).cmp(&(y, other)));
            prop_assert_eq!(event_part_key(x, part) >= event_key(y), x >= y);
        }

        #[test]
        fn a_record_reads_back(created: u64, modified: u64, version: u64, lease: u64, value in key()) {
            let view = RecordView { created, modified, version, lease, value: &value };
            let raw = view.to_bytes();
            prop_assert_eq!(RecordView::parse(b"k", &raw).unwrap(), view);
            let record = Record::parse(b"k", raw.clone()).unwrap();
            prop_assert_eq!(record.view(), view);
            prop_assert_eq!(record.to_key_value(Bytes::new()), view.to_key_value(Bytes::new(), true));
            // Cut anywhere in the header, or of another format, it is damage and not a shorter record.
            for cut in 0..RECORD_HEADER {
                prop_assert!(RecordView::parse(b"k", &raw[..cut]).is_err());
            }
            let mut other = raw.to_vec();
            other[0] = 2;
            prop_assert!(RecordView::parse(b"k", &other).is_err());
        }
    }

    #[test]
    fn the_hashed_tables_are_those_without_local_progress() {
        for stored in [
            SYSTEM_CONFIGURATION,
            SYSTEM_COMPACT,
            SYSTEM_FLOOR,
            SYSTEM_RECOVERY,
            SYSTEM_LEASES,
            SYSTEM_KEYRING,
            &current_key(b"uk"),
            &client_key(ClientId::default()),
            &replay_key(1),
            &lease_key(LeaseId(1)),
            &attached_key(LeaseId(1), b"uk"),
        ] {
            assert!(is_hashed(stored), "{}", stored.escape_ascii());
            assert_eq!(
                stored[0] == SYSTEM,
                stored[1..].first().is_some_and(u8::is_ascii_lowercase) && stored[0] != CURRENT
            );
        }
        for stored in [META_PROGRESS, &event_key(3), &event_part_key(3, 0)] {
            assert!(!is_hashed(stored), "{}", stored.escape_ascii());
        }
    }
}
