//! The data keys of an open store, as the envelope uses them.
//!
//! Owns how a record's own key follows from a data key, and the nonces. Every process start (and every 2^32 records) draws
//! a fresh random *epoch* of 128 bits; the keys that seal are derived from data key and epoch, one for each family, and
//! number their records from 0. So no nonce is ever used twice under one key, also where a directory was copied, restored
//! or rolled back and is started again: the next start has another epoch. Keys are wiped when they are dropped, as far as
//! they are ours: the expanded form that the cipher works with is the library's, and goes with the process. Nothing here
//! has a `Debug`. Never touches the disk. Called by the envelope for every record.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use quorate_core::envelope::EPOCH_BYTES;
use quorate_core::ports::{StoreError, StoreResult};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::families::Family;

/// Records sealed under one epoch. Far below what AES-GCM bears of records numbered one by one.
const EPOCH_RECORDS: u64 = 1 << 32;
/// Derived keys of other epochs that are kept at hand; one more start of the node is one more epoch.
const KEPT: usize = 1_024;

/// A random key that wraps no other: records are sealed with what is derived from it.
#[derive(Clone)]
pub(crate) struct DataKey {
    pub(crate) id: u32,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

impl DataKey {
    pub(crate) fn generate(id: u32) -> StoreResult<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        random(secret.as_mut_slice())?;
        Ok(Self { id, secret })
    }
}

/// Bytes from the system.
pub(crate) fn random(bytes: &mut [u8]) -> StoreResult<()> {
    getrandom::fill(bytes).map_err(|error| StoreError::Io { doing: "drawing random bytes", detail: error.to_string() })
}

/// The keys of one epoch, one for each family: a record that was moved to another family does not open there.
struct FamilyKeys([LessSafeKey; Family::ALL.len()]);

impl FamilyKeys {
    fn derive(store: &[u8; 16], key: &DataKey, epoch: &[u8; EPOCH_BYTES]) -> StoreResult<Self> {
        let secret = Salt::new(HKDF_SHA256, epoch).extract(&*key.secret);
        let derive = |family: Family| {
            let id = key.id.to_be_bytes();
            let info = [b"quorate record 1 aes-256-gcm".as_slice(), store, &id, family.name().as_bytes()];
            let key = secret.expand(&info, &AES_256_GCM).map(|derived| LessSafeKey::new(UnboundKey::from(derived)));
            key.map_err(|_unspecified| StoreError::Io {
                doing: "deriving a key",
                detail: "the cipher refused it".to_owned(),
            })
        };
        let [a, b, c, d] = Family::ALL;
        Ok(Self([derive(a)?, derive(b)?, derive(c)?, derive(d)?]))
    }

    fn of(&self, family: Family) -> &LessSafeKey {
        let [log, meta, state_a, state_b] = &self.0;
        match family {
            Family::Log => log,
            Family::Meta => meta,
            Family::StateA => state_a,
            Family::StateB => state_b,
        }
    }
}

/// Where a record's key comes from, and its number: what the header says of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) key: u32,
    pub(crate) epoch: [u8; EPOCH_BYTES],
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    let (_, end) = bytes.split_at_mut(4);
    end.copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Seals records under the active data key, in the epoch of this process.
pub(crate) struct Sealer {
    pub(crate) place: Place,
    keys: Arc<FamilyKeys>,
    next: AtomicU64,
    /// Records are kept as they are: only to measure what sealing costs.
    #[cfg(feature = "testing")]
    pub(crate) plain: bool,
}

impl Sealer {
    fn new(store: &[u8; 16], key: &DataKey) -> StoreResult<Self> {
        let mut epoch = [0; EPOCH_BYTES];
        random(&mut epoch)?;
        Ok(Self {
            place: Place { key: key.id, epoch },
            keys: Arc::new(FamilyKeys::derive(store, key, &epoch)?),
            next: AtomicU64::new(0),
            #[cfg(feature = "testing")]
            plain: false,
        })
    }

    /// The number of the next record.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Seals `payload` in place, bound to `key` of `family`; what it gives back belongs behind it.
    pub(crate) fn seal(&self, family: Family, key: &[u8], number: u64, payload: &mut [u8]) -> StoreResult<Tag> {
        let sealed = self.keys.of(family).seal_in_place_separate_tag(nonce(number), Aad::from(key), payload);
        sealed.map_err(|_unspecified| StoreError::Io {
            doing: "sealing a record",
            detail: format!("the cipher refused {} bytes", payload.len()),
        })
    }
}

/// All data keys of one open store.
pub(crate) struct Keyring {
    store: [u8; 16],
    inner: RwLock<Inner>,
}

struct Inner {
    data: Vec<DataKey>,
    active: Arc<Sealer>,
    others: HashMap<Place, Arc<FamilyKeys>>,
    /// What sealed before, as long as somebody may still write with it.
    before: Vec<Weak<Sealer>>,
}

impl Inner {
    fn seal_with(&mut self, next: Sealer) {
        let before = std::mem::replace(&mut self.active, Arc::new(next));
        self.others.insert(before.place, Arc::clone(&before.keys));
        self.before.retain(|sealer| sealer.strong_count() > 0);
        self.before.push(Arc::downgrade(&before));
    }
}

/// Why a record does not open.
pub(crate) enum Unopened {
    /// No such data key.
    NoKey,
    /// The tag does not fit.
    Tag,
    /// Something else failed.
    Failed(StoreError),
}

impl Keyring {
    /// `data` as it lies in the key record; the one with id `active` seals.
    pub(crate) fn new(store: [u8; 16], data: Vec<DataKey>, active: u32) -> StoreResult<Self> {
        let key = data.iter().find(|key| key.id == active).ok_or_else(|| StoreError::Corrupt {
            record: "key record".to_owned(),
            detail: format!("data key {active} is to be used, and is not among those it holds"),
        })?;
        let active = Arc::new(Sealer::new(&store, key)?);
        Ok(Self { store, inner: RwLock::new(Inner { data, active, others: HashMap::new(), before: Vec::new() }) })
    }

    /// Keeps records as they are from now on.
    #[cfg(feature = "testing")]
    pub(crate) fn plain(self) -> StoreResult<Self> {
        let inner = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Place { key, .. } = inner.active.place;
        let key = inner.data.iter().find(|data| data.id == key);
        let key = key.ok_or_else(|| StoreError::Poisoned("the active data key is gone".to_owned()))?;
        let active = Arc::new(Sealer { plain: true, ..Sealer::new(&self.store, key)? });
        Ok(Self { store: self.store, inner: RwLock::new(Inner { active, ..inner }) })
    }

    /// What seals now. Whoever holds it keeps its data key in use.
    pub(crate) fn sealer(&self) -> StoreResult<Arc<Sealer>> {
        let active = Arc::clone(&self.inner.read().unwrap_or_else(PoisonError::into_inner).active);
        if active.next.load(Ordering::Relaxed) < EPOCH_RECORDS {
            return Ok(active);
        }
        self.renew(active.place)
    }

    fn renew(&self, worn: Place) -> StoreResult<Arc<Sealer>> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.active.place == worn {
            let key = inner.data.iter().find(|key| key.id == worn.key).ok_or_else(|| StoreError::Corrupt {
                record: "key record".to_owned(),
                detail: format!("data key {} is in use, and is not there any more", worn.key),
            })?;
            let next = Sealer::new(&self.store, key)?;
            inner.seal_with(next);
        }
        Ok(Arc::clone(&inner.active))
    }

    /// Seals with `key` from now on. What older keys have sealed opens as before.
    pub(crate) fn activate(&self, key: DataKey) -> StoreResult<()> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        #[cfg(feature = "testing")]
        let next = Sealer { plain: inner.active.plain, ..Sealer::new(&self.store, &key)? };
        #[cfg(not(feature = "testing"))]
        let next = Sealer::new(&self.store, &key)?;
        inner.data.push(key);
        inner.seal_with(next);
        Ok(())
    }

    /// Whether nobody can write any more what an earlier sealer has sealed.
    pub(crate) fn is_quiet(&self) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.before.iter().all(|sealer| sealer.strong_count() == 0)
    }

    /// Opens a sealed payload with its tag, in place; the length of what is inside.
    pub(crate) fn open(
        &self,
        (place, number): (Place, u64),
        family: Family,
        key: &[u8],
        sealed: &mut [u8],
    ) -> Result<usize, Unopened> {
        let open = |keys: &FamilyKeys, sealed: &mut [u8]| {
            let opened = keys.of(family).open_in_place(nonce(number), Aad::from(key), sealed);
            opened.map(|payload| payload.len()).map_err(|_unspecified| Unopened::Tag)
        };
        {
            let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
            if inner.active.place == place {
                return open(&inner.active.keys, sealed);
            }
            if let Some(keys) = inner.others.get(&place) {
                return open(keys, sealed);
            }
        }
        let keys = Arc::new(self.derived(place)?);
        let length = open(&keys, sealed)?;
        // Kept only once it has opened something: what damage made up is not worth a place.
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if inner.others.len() >= KEPT {
            inner.others.clear();
        }
        inner.others.insert(place, keys);
        Ok(length)
    }

    fn derived(&self, place: Place) -> Result<FamilyKeys, Unopened> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let key = inner.data.iter().find(|key| key.id == place.key).ok_or(Unopened::NoKey)?;
        FamilyKeys::derive(&self.store, key, &place.epoch).map_err(Unopened::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> (Keyring, DataKey) {
        let key = DataKey { id: 1, secret: Zeroizing::new([9; 32]) };
        (Keyring::new([3; 16], vec![key.clone()], 1).unwrap(), key)
    }

    #[test]
    fn no_two_records_share_a_key_and_a_number() {
        // Given one data key that is used by many processes, as of a directory that was copied
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            let (ring, _) = ring();
            let sealer = ring.sealer().unwrap();
            for _ in 0..100 {
                // Then whatever they seal is under another key, or has another number
                assert!(seen.insert((sealer.place, sealer.number())));
            }
        }
    }

    #[test]
    fn an_epoch_ends_before_its_numbers_do_and_its_records_open_all_the_same() {
        let (ring, _) = ring();
        let first = ring.sealer().unwrap();
        let mut payload = b"payload".to_vec();
        let number = first.number();
        let tag = first.seal(Family::Log, b"key", number, &mut payload).unwrap();
        payload.extend_from_slice(tag.as_ref());
        first.next.store(EPOCH_RECORDS, Ordering::Relaxed);
        let second = ring.sealer().unwrap();
        assert!(second.place != first.place && second.place.key == first.place.key);
        assert_eq!(second.number(), 0);
        assert!(ring.open((first.place, number), Family::Log, b"key", &mut payload).is_ok_and(|length| length == 7));
        assert_eq!(&payload[..7], b"payload");
    }

    #[test]
    fn what_another_store_sealed_with_the_same_data_key_does_not_open() {
        let (ring, key) = ring();
        let other = Keyring::new([4; 16], vec![key], 1).unwrap();
        let sealer = other.sealer().unwrap();
        let mut payload = b"payload".to_vec();
        let tag = sealer.seal(Family::Log, b"key", 0, &mut payload).unwrap();
        payload.extend_from_slice(tag.as_ref());
        let opened = ring.open((sealer.place, 0), Family::Log, b"key", &mut payload.clone());
        assert!(matches!(opened, Err(Unopened::Tag)));
        assert!(other.open((sealer.place, 0), Family::Log, b"key", &mut payload).is_ok());
    }
}
