//! How the state lies in the store's flat keyspace: one byte names the table, then the table's own key.
//!
//! Owns the stored keys and the record of a live key. Order of stored keys is order of keys, also where keys hold any
//! bytes or are prefixes of each other. Never reads or writes. Called by everything in [`crate::state`].
//!
//! | table | key | value |
//! |---|---|---|
//! | meta | name | where this member stands |
//! | history | escaped full key, revision that ended it | the record as it was |
//! | event | revision | the keys it changed |
//! | system | name | configuration, compact revision, expiry floor, recovery, the last lease given out |
//! | current | full key | the live record |
//! | client | client id | low-water mark, last index |
//! | outcome | client id, sequence | what the request came to |
//! | lease | lease | time to live, number of keys |
//! | attached | lease, full key | nothing: the key is attached to the lease |
//!
//! A superseded version lies under the revision that *ended* it: the version in force at revision R is the first one of
//! its key that ended after R, one seek away; and the event of a revision names exactly the versions that compaction
//! removes with it. A delete needs no tombstone: it ends a version and leaves no current record.
//! The tables from `system` on are those that the state hash covers; they follow each other.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::{ClientId, LeaseId};
use crate::ports::{StoreError, StoreResult};
use crate::txn::KeyValue;

/// Where a member stands; not hashed.
pub(crate) const META: u8 = 0x01;
/// Superseded versions.
pub(crate) const HISTORY: u8 = 0x02;
/// Keys changed, by revision.
pub(crate) const EVENT: u8 = 0x03;
/// Replicated facts without revision; the first hashed table.
pub(crate) const SYSTEM: u8 = 0x10;
/// Live records.
pub(crate) const CURRENT: u8 = 0x11;
/// Clients of the replay table.
pub(crate) const CLIENT: u8 = 0x12;
/// Outcomes of the replay table.
pub(crate) const OUTCOME: u8 = 0x13;
/// Leases.
pub(crate) const LEASE: u8 = 0x14;
/// Keys by lease.
pub(crate) const ATTACHED: u8 = 0x15;
/// The first byte after the hashed tables.
pub(crate) const HASHED_END: u8 = 0x20;

/// `meta`: applied index and what belongs to it.
pub(crate) const META_PROGRESS: &[u8] = &[META, b'p'];
/// `meta`: the revision up to which this member has removed compacted history.
pub(crate) const META_TRIMMED: &[u8] = &[META, b't'];
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
/// `system`: the last lease id given out.
pub(crate) const SYSTEM_LEASES: &[u8] = b"\x10leases";

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

/// The stored key of an outcome.
pub(crate) fn outcome_key(client: ClientId, sequence: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + 16 + 8);
    key.put_u8(OUTCOME);
    key.put_slice(client.as_bytes());
    key.put_u64(sequence);
    key.freeze()
}

/// Reads [`client_key`] back.
pub(crate) fn parse_client_key(stored: &[u8]) -> Option<ClientId> {
    match stored.split_first() {
        Some((&CLIENT, rest)) => ClientId::from_slice(rest),
        _ => None,
    }
}

/// Reads [`outcome_key`] back.
pub(crate) fn parse_outcome_key(stored: &[u8]) -> Option<(ClientId, u64)> {
    match stored.split_first() {
        Some((&OUTCOME, rest)) if rest.len() == 24 => Some((ClientId::from_slice(rest.get(..16)?)?, be64(rest, 16)?)),
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

/// The stored key of the event of `revision`.
pub(crate) fn event_key(revision: u64) -> Bytes {
    tabled(EVENT, &revision.to_be_bytes())
}

/// Reads [`event_key`] back.
pub(crate) fn parse_event_key(stored: &[u8]) -> Option<u64> {
    match stored.split_first() {
        Some((&EVENT, rest)) if rest.len() == 8 => be64(rest, 0),
        _ => None,
    }
}

/// The stored key of the version of `full` that `ended` superseded.
pub(crate) fn history_key(full: &[u8], ended: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + full.len() + 10);
    key.put_u8(HISTORY);
    escape(full, &mut key);
    key.put_slice(&[0, 0]);
    key.put_u64(ended);
    key.freeze()
}

/// The first stored key in `history` of any key at or after `full`.
pub(crate) fn history_from(full: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + full.len() + 2);
    key.put_u8(HISTORY);
    escape(full, &mut key);
    key.freeze()
}

/// The stored key and revision of a key of table `history`: (full key, ended).
pub(crate) fn parse_history_key(stored: &[u8]) -> Option<(Vec<u8>, u64)> {
    let Some((&HISTORY, mut rest)) = stored.split_first() else { return None };
    let mut full = Vec::with_capacity(rest.len());
    loop {
        let zero = rest.iter().position(|&byte| byte == 0)?;
        full.extend_from_slice(rest.get(..zero)?);
        let mark = *rest.get(zero + 1)?;
        rest = rest.get(zero + 2..)?;
        match mark {
            0 => break,
            u8::MAX => full.push(0),
            _ => return None,
        }
    }
    (rest.len() == 8).then(|| be64(rest, 0).map(|ended| (full, ended)))?
}

/// The smallest key after `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// A zero becomes 0x00 0xff; 0x00 0x00 then ends a key, below whatever a longer key goes on with.
fn escape(full: &[u8], into: &mut BytesMut) {
    let mut rest = full;
    while let Some(zero) = rest.iter().position(|&byte| byte == 0) {
        let (before, after) = rest.split_at(zero);
        into.put_slice(before);
        into.put_slice(&[0, u8::MAX]);
        rest = after.split_first().map_or(&[], |(_, after)| after);
    }
    into.put_slice(rest);
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
        fn history_keys_sort_as_key_then_revision(a in key(), b in key(), x: u64, y: u64) {
            let stored = history_key(&a, x).cmp(&history_key(&b, y));
            prop_assert_eq!(stored, (a, x).cmp(&(b, y)));
        }

        #[test]
        fn history_keys_read_back(a in key(), x: u64) {
            prop_assert_eq!(parse_history_key(&history_key(&a, x)), Some((a, x)));
        }

        #[test]
        fn a_range_bound_stands_between_the_keys_before_and_from_it(bound in key(), a in key(), x: u64) {
            let inside = history_key(&a, x)[..] >= history_from(&bound)[..];
            prop_assert_eq!(inside, a >= bound);
        }

        #[test]
        fn every_kind_of_key_reads_back_and_sorts_as_its_parts(
            a: [u8; 16], b: [u8; 16], x: u64, y: u64,
        ) {
            let (ca, cb) = (ClientId::from_bytes(a), ClientId::from_bytes(b));
            prop_assert_eq!(parse_outcome_key(&outcome_key(ca, x)), Some((ca, x)));
            prop_assert_eq!(parse_client_key(&client_key(ca)), Some(ca));
            prop_assert_eq!(parse_event_key(&event_key(x)), Some(x));
            prop_assert_eq!(parse_lease_key(&lease_key(LeaseId(x))), Some(LeaseId(x)));
            let attached = attached_key(LeaseId(x), &a);
            prop_assert_eq!(parse_attached_key(&attached), Some(Bytes::copy_from_slice(&a)));
            prop_assert_eq!(attached_key(LeaseId(x), &a).cmp(&attached_key(LeaseId(y), &b)), (x, a).cmp(&(y, b)));
            prop_assert_eq!(outcome_key(ca, x).cmp(&outcome_key(cb, y)), (ca, x).cmp(&(cb, y)));
            prop_assert_eq!(event_key(x).cmp(&event_key(y)), x.cmp(&y));
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

        #[test]
        fn garbage_is_never_a_history_key_of_another_shape(bytes in key()) {
            if let Some((full, ended)) = parse_history_key(&bytes) {
                prop_assert_eq!(&history_key(&full, ended)[..], &bytes[..]);
            }
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
            &current_key(b"uk"),
            &outcome_key(ClientId::default(), 1),
            &lease_key(LeaseId(1)),
            &attached_key(LeaseId(1), b"uk"),
        ] {
            assert!(is_hashed(stored), "{}", stored.escape_ascii());
            assert_eq!(
                stored[0] == SYSTEM,
                stored[1..].first().is_some_and(u8::is_ascii_lowercase) && stored[0] != CURRENT
            );
        }
        for stored in [META_PROGRESS, META_TRIMMED, &history_key(b"uk", 3), &event_key(3)] {
            assert!(!is_hashed(stored), "{}", stored.escape_ascii());
        }
    }
}
