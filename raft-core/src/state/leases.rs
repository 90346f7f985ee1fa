//! Leases in the state: which there are, and which keys go with each.
//!
//! Owns the lease records, the counter that ids come from, and the index from a lease to its keys; all three are system
//! records (no revision, no watch, no history) and covered by the state hash. What they hold is counted with the quota
//! ([`super::usage`]). Never knows a time: what is stored is for how
//! long a lease was granted, when it was last renewed is the leader's business ([`crate::consensus`]). Called by the machine,
//! which ends leases, and by the transactions that attach to them.
//!
//! An id is given out once and never again, also not after a force-new-cluster: who holds a lease that is gone can never
//! renew, or attach to, somebody else's.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::id::LeaseId;
use crate::limits::{LEASE_BYTES_MAX, LEASE_KEYS_MAX, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, LEASES_MAX};
use crate::ports::{StateRead, StoreError, StoreResult, Visit, WriteSet};
use crate::state::contract::Refusal;
use crate::state::hash::Lanes;
use crate::state::layout::{self, Record, be64, corrupt};
use crate::state::recovered::Jump;
use crate::state::stored::{Counter, decode};

/// The format byte in front of a lease.
const FORMAT: u8 = 1;
/// Format byte and three numbers.
pub(crate) const BYTES: usize = 1 + 3 * 8;

/// A lease as the state knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseRecord {
    /// It ends so long after its last renewal, milliseconds, and not before.
    pub ttl_ms: u64,
    /// How many keys are attached to it.
    pub keys: u64,
    /// Bytes of these keys and what is stored under them.
    pub bytes: u64,
}

/// What a key counts on the lease that it is attached to.
pub(crate) fn attached_bytes(full: &[u8], record: &Record) -> u64 {
    (full.len() + record.raw().len()) as u64
}

impl LeaseRecord {
    fn to_bytes(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.ttl_ms);
        bytes.put_u64(self.keys);
        bytes.put_u64(self.bytes);
        bytes.freeze()
    }

    /// Reads a stored lease.
    pub(crate) fn parse(stored: &[u8], bytes: &[u8]) -> StoreResult<Self> {
        let read = || {
            if bytes.len() != BYTES || bytes.first() != Some(&FORMAT) {
                return None;
            }
            Some(Self { ttl_ms: be64(bytes, 1)?, keys: be64(bytes, 9)?, bytes: be64(bytes, 17)? })
        };
        read().ok_or_else(|| corrupt(stored, "no lease of a known format"))
    }
}

#[derive(Debug)]
struct Held {
    record: LeaseRecord,
    /// What the record adds to the state hash as it is now.
    lanes: Lanes,
}

/// Keys attached (true) and no longer attached by the round at work, by their stored key.
pub(crate) type Attached = BTreeMap<Bytes, bool>;

/// All leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<LeaseId, Held>,
    /// The last id given out.
    last: LeaseId,
    last_lanes: Lanes,
    last_changed: bool,
    /// Changed since the last round was written.
    dirty: BTreeSet<LeaseId>,
}

impl Leases {
    /// Reads all of them from a store; their keys are looked at only when they are wanted.
    pub(crate) fn load(view: &dyn StateRead) -> StoreResult<Self> {
        let mut leases = Self::default();
        if let Some(bytes) = view.get(layout::SYSTEM_LEASES)? {
            leases.last = LeaseId(decode::<Counter>(layout::SYSTEM_LEASES, &bytes)?.value);
            leases.last_lanes = Lanes::of(layout::SYSTEM_LEASES, &bytes);
        }
        for (lease, record) in scan(view, LeaseId(0), usize::MAX)? {
            let lanes = Lanes::of(&layout::lease_key(lease), &record.to_bytes());
            leases.held.insert(lease, Held { record, lanes });
        }
        Ok(leases)
    }

    /// Each with its time to live, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, u64)> + '_ {
        self.held.iter().map(|(lease, held)| (*lease, held.record.ttl_ms))
    }

    pub(crate) fn get(&self, lease: LeaseId) -> Option<LeaseRecord> {
        self.held.get(&lease).map(|held| held.record)
    }

    /// Whether so many more keys, of so many more bytes with their values, can be attached to it.
    pub(crate) fn takes(&self, lease: LeaseId, keys: u64, bytes: u64) -> Result<(), Refusal> {
        let record = self.get(lease).ok_or(Refusal::LeaseNotFound { lease: lease.0 })?;
        let actual = record.keys + keys;
        if actual > LEASE_KEYS_MAX {
            let what = format!("the set of keys attached to lease {lease}");
            return Err(Refusal::Limit { what, limit: "LEASE_KEYS_MAX", max: LEASE_KEYS_MAX, actual });
        }
        let actual = record.bytes + bytes;
        if bytes > 0 && actual > LEASE_BYTES_MAX {
            let what = format!("what is attached to lease {lease} (spread it over several leases)");
            return Err(Refusal::Limit { what, limit: "LEASE_BYTES_MAX", max: LEASE_BYTES_MAX, actual });
        }
        Ok(())
    }

    pub(crate) fn grant(&mut self, ttl_ms: u64, lanes: &mut Lanes) -> Result<LeaseId, Refusal> {
        if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ttl_ms) {
            return Err(Refusal::LeaseTtl { asked_ms: ttl_ms });
        }
        let actual = self.held.len() as u64 + 1;
        if actual > LEASES_MAX {
            let what = "the set of leases".to_owned();
            return Err(Refusal::Limit { what, limit: "LEASES_MAX", max: LEASES_MAX, actual });
        }
        let lease = self.last.next();
        self.give_out(lease, lanes);
        self.put(lease, LeaseRecord { ttl_ms, keys: 0, bytes: 0 }, lanes);
        Ok(lease)
    }

    /// Ids up to where the counter goes on are as good as given out: somebody who is lost may have given them.
    pub(crate) fn jump(&mut self, jump: Jump, lanes: &mut Lanes) {
        self.give_out(LeaseId(jump.counter(self.last.0)), lanes);
    }

    fn give_out(&mut self, last: LeaseId, lanes: &mut Lanes) {
        lanes.remove(self.last_lanes);
        self.last = last;
        self.last_lanes = Lanes::of(layout::SYSTEM_LEASES, &self.counter());
        lanes.add(self.last_lanes);
        self.last_changed = true;
    }

    fn counter(&self) -> Bytes {
        Counter { value: self.last.0 }.encode_to_vec().into()
    }

    fn put(&mut self, lease: LeaseId, record: LeaseRecord, lanes: &mut Lanes) {
        let part = Lanes::of(&layout::lease_key(lease), &record.to_bytes());
        if let Some(before) = self.held.insert(lease, Held { record, lanes: part }) {
            lanes.remove(before.lanes);
        }
        lanes.add(part);
        self.dirty.insert(lease);
    }

    /// The key `full` goes from one record to another, and from one lease to another with them.
    pub(crate) fn moves(
        &mut self,
        full: &[u8],
        old: Option<&Record>,
        new: Option<&Record>,
        lanes: &mut Lanes,
        attached: &mut Attached,
    ) {
        let lease = |record: Option<&Record>| LeaseId(record.map_or(0, |record| record.view().lease));
        let (from, to) = (lease(old), lease(new));
        for (lease, record, there) in [(from, old, false), (to, new, true)] {
            let Some(held) = self.get(lease) else { continue };
            let bytes = record.map_or(0, |record| attached_bytes(full, record));
            let after = if there {
                LeaseRecord { keys: held.keys + 1, bytes: held.bytes + bytes, ..held }
            } else {
                LeaseRecord { keys: held.keys.saturating_sub(1), bytes: held.bytes.saturating_sub(bytes), ..held }
            };
            if from != to {
                let key = layout::attached_key(lease, full);
                let part = Lanes::of(&key, &[]);
                if there {
                    lanes.add(part)
                } else {
                    lanes.remove(part)
                }
                attached.insert(key, there);
            }
            self.put(lease, after, lanes);
        }
    }

    /// Its time, or its holder, has come to an end; its keys have gone before.
    pub(crate) fn remove(&mut self, lease: LeaseId, lanes: &mut Lanes) {
        if let Some(held) = self.held.remove(&lease) {
            lanes.remove(held.lanes);
            self.dirty.insert(lease);
        }
    }

    /// The full keys attached to a lease: those of the store, and what the round at work has made of them.
    pub(crate) fn keys(store: &dyn StateRead, attached: &Attached, lease: LeaseId) -> StoreResult<BTreeSet<Bytes>> {
        let (from, to) =
            (layout::attached_key(lease, &[]), layout::attached_key(LeaseId(lease.0.saturating_add(1)), &[]));
        let mut keys = BTreeSet::new();
        store.scan(&from, &to, &mut |stored, _nothing| {
            keys.extend(layout::parse_attached_key(stored));
            Visit::More
        })?;
        for (stored, there) in attached.range(from..to) {
            let Some(full) = layout::parse_attached_key(stored) else { continue };
            if *there {
                keys.insert(full);
            } else {
                keys.remove(&full);
            }
        }
        Ok(keys)
    }

    /// Writes what changed in this round, each record once.
    pub(crate) fn flush(&mut self, attached: Attached, writes: &mut WriteSet) {
        for lease in std::mem::take(&mut self.dirty) {
            match self.get(lease) {
                Some(record) => writes.put(layout::lease_key(lease), record.to_bytes()),
                None => writes.delete(layout::lease_key(lease)),
            }
        }
        for (key, there) in attached {
            if there {
                writes.put(key, Bytes::new());
            } else {
                writes.delete(key);
            }
        }
        if std::mem::take(&mut self.last_changed) {
            writes.put(layout::SYSTEM_LEASES, self.counter());
        }
    }
}

/// The leases after `after`, ascending, at most `limit`.
pub(crate) fn scan(view: &dyn StateRead, after: LeaseId, limit: usize) -> StoreResult<Vec<(LeaseId, LeaseRecord)>> {
    let mut leases = Vec::new();
    let mut failed: Option<StoreError> = None;
    if limit == 0 || after.0 == u64::MAX {
        return Ok(leases);
    }
    view.scan(&layout::lease_key(after.next()), &[layout::ATTACHED], &mut |stored, bytes| {
        let read = layout::parse_lease_key(stored).ok_or_else(|| corrupt(stored, "no key of a lease"));
        match read.and_then(|lease| Ok((lease, LeaseRecord::parse(stored, bytes)?))) {
            Ok(found) => {
                leases.push(found);
                if leases.len() < limit { Visit::More } else { Visit::Enough }
            }
            Err(error) => {
                failed = Some(error);
                Visit::Enough
            }
        }
    })?;
    failed.map_or(Ok(leases), Err)
}
