//! The key record of a store: its data keys, each wrapped by the key-encryption keys that may open it.
//!
//! Owns the file `keys` in the store's directory. It is replaced as a whole: written aside, synced, renamed, and the
//! directory synced, so that a crash leaves the old one or the new one. Without it a store is lost, with it and without the
//! key that it names it says nothing. A wrapped data key is bound to the store and to its own id. Never touches a record of
//! the database. Called when a store is opened or made, and by the keeper when a key changes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use quorate_core::ports::{StoreError, StoreResult};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::error::io_error;
use crate::families::Probe;
use crate::key::{Key, KeyError, KeyId, KeyKind, KeyProvider, KeySlot};
use crate::keyring::{DataKey, random};

const FILE: &str = "keys";
const DRAFT: &str = "keys.new";
/// First bytes of the file; the number is the form's version.
const MAGIC: &[u8; 8] = b"qkeys\0\0\x01";
const NAME: &str = "key record";

/// The file, field by field. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    /// 16 random bytes, drawn with the store: what its records are bound to.
    #[prost(bytes = "vec", tag = "1")]
    store: Vec<u8>,
    /// The data key that seals.
    #[prost(uint32, tag = "2")]
    active: u32,
    #[prost(message, repeated, tag = "3")]
    slots: Vec<StoredSlot>,
    #[prost(message, repeated, tag = "4")]
    made: Vec<StoredMade>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredSlot {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(enumeration = "KeyKind", tag = "2")]
    kind: i32,
    #[prost(string, tag = "3")]
    place: String,
    #[prost(bytes = "vec", tag = "4")]
    salt: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    wrapped: Vec<StoredWrap>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredWrap {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bytes = "vec", tag = "2")]
    salt: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    sealed: Vec<u8>,
}

/// When a data key was made.
#[derive(Clone, PartialEq, prost::Message)]
struct StoredMade {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint64, tag = "2")]
    unix_seconds: u64,
}

/// Says which points of a change were reached; tests stop the process there.
pub(crate) fn reached(probe: Option<&Probe>, point: &'static str) {
    if let Some(probe) = probe {
        probe(point);
    }
}

fn corrupt(detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt { record: NAME.to_owned(), detail: detail.into() }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What is on disk.
#[derive(Clone, PartialEq)]
pub(crate) struct KeyRecord(Stored);

/// An opened key record: the data keys in clear.
pub(crate) struct Opened {
    pub(crate) store: [u8; 16],
    pub(crate) active: u32,
    pub(crate) data: Vec<DataKey>,
    /// The key that opened it.
    pub(crate) by: Key,
}

impl KeyRecord {
    /// Whether there is one.
    pub(crate) fn exists(dir: &Path) -> bool {
        path(dir).exists()
    }

    /// Makes the record of a new store: one data key, wrapped by each of `keys`. It comes with that data key.
    pub(crate) fn make(keys: &[(Key, KeySlot)], now: u64) -> StoreResult<(Self, DataKey)> {
        let mut store = [0; 16];
        random(&mut store)?;
        let data = DataKey::generate(1)?;
        let empty = Self(Stored { store: store.to_vec(), active: 1, slots: Vec::new(), made: Vec::new() });
        let keys: Vec<(&Key, KeySlot)> = keys.iter().map(|(key, slot)| (key, slot.clone())).collect();
        let record = empty.rewrapped(&keys, std::slice::from_ref(&data), 1, now)?;
        Ok((record, data))
    }

    /// Reads it.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or not what was written.
    pub(crate) fn load(dir: &Path) -> StoreResult<Self> {
        let whole = match fs::read(path(dir)) {
            Ok(whole) => whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(format!(
                    "the file `{FILE}` is missing from the store: without it nothing in it can be read; nothing was changed"
                )));
            }
            Err(error) => return Err(io_error("reading the key record", &error)),
        };
        let damaged = || corrupt(format!("the file `{FILE}` is not what was written; nothing was changed"));
        let body = whole.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<4>());
        let (sum, body) = body.ok_or_else(damaged)?;
        if crc32c::crc32c(body).to_be_bytes() != *sum {
            return Err(damaged());
        }
        Self::decode(body).ok_or_else(damaged)
    }

    /// Reads what [`encode`](Self::encode) gave; none where it is anything else.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let record = Self(Stored::decode(body).ok()?);
        let whole = record.0.store.len() == 16
            && record.0.slots.iter().all(|slot| KeyId::from_slice(&slot.id).is_some())
            && KeyKind::try_from(record.0.slots.first().map_or(-1, |slot| slot.kind)).is_ok();
        whole.then_some(record)
    }

    /// As it is kept.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Replaces it on disk.
    pub(crate) fn save(&self, dir: &Path, probe: Option<&Probe>) -> StoreResult<()> {
        let doing = "writing the key record";
        let io = |error: io::Error| io_error(doing, &error);
        let body = self.encode();
        let draft = dir.join(DRAFT);
        reached(probe, "keys: before the draft");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
        file.write_all(&[MAGIC.as_slice(), &crc32c::crc32c(&body).to_be_bytes(), &body].concat()).map_err(io)?;
        reached(probe, "keys: the draft is written");
        file.sync_all().map_err(io)?;
        reached(probe, "keys: the draft is synced");
        fs::rename(&draft, path(dir)).map_err(io)?;
        reached(probe, "keys: the record is replaced");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        reached(probe, "keys: the record is durable");
        Ok(())
    }

    fn store(&self) -> [u8; 16] {
        self.0.store.as_slice().try_into().unwrap_or_default()
    }

    /// Which keys open it.
    pub(crate) fn slots(&self) -> Vec<KeySlot> {
        let slot = |slot: &StoredSlot| {
            let id = KeyId::from_slice(&slot.id)?;
            Some(KeySlot { id, kind: slot.kind(), place: slot.place.clone(), salt: slot.salt.clone() })
        };
        self.0.slots.iter().filter_map(slot).collect()
    }

    /// The data key that seals.
    pub(crate) fn active(&self) -> u32 {
        self.0.active
    }

    /// All data keys, with when they were made.
    pub(crate) fn made(&self) -> Vec<(u32, u64)> {
        self.0.made.iter().map(|made| (made.id, made.unix_seconds)).collect()
    }

    /// Which key is wanted, in words.
    pub(crate) fn wanted(&self) -> String {
        self.slots().iter().map(ToString::to_string).collect::<Vec<_>>().join(", or ")
    }

    /// Opens it with whichever of the provider's keys fits.
    ///
    /// # Errors
    /// `KeyWanted` when none does, `Corrupt` when one fits and does not open.
    pub(crate) fn open(&self, provider: &dyn KeyProvider) -> StoreResult<Opened> {
        let refuse = |found: String| Err(StoreError::KeyWanted { wanted: self.wanted(), found });
        let keys = match provider.keys(&self.slots()) {
            Ok(keys) => keys,
            Err(KeyError::Missing(why) | KeyError::Failed(why)) => return refuse(why),
        };
        for key in &keys {
            let id = key.id();
            if let Some(slot) = self.0.slots.iter().find(|slot| slot.id == id.as_bytes()) {
                let data: StoreResult<Vec<DataKey>> = slot.wrapped.iter().map(|wrap| self.unwrap(key, wrap)).collect();
                return Ok(Opened { store: self.store(), active: self.0.active, data: data?, by: key.clone() });
            }
        }
        let ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
        refuse(if ids.is_empty() {
            "no key was given".to_owned()
        } else {
            format!("what was given is key {}, another one", ids.join(" and "))
        })
    }

    /// With another set of data keys, each wrapped by each of `keys`, in place of what there was.
    pub(crate) fn rewrapped(
        &self,
        keys: &[(&Key, KeySlot)],
        data: &[DataKey],
        active: u32,
        now: u64,
    ) -> StoreResult<Self> {
        let mut next = self.clone();
        next.0.active = active;
        next.0.made.retain(|made| data.iter().any(|key| key.id == made.id));
        for key in data {
            if !next.0.made.iter().any(|made| made.id == key.id) {
                next.0.made.push(StoredMade { id: key.id, unix_seconds: now });
            }
        }
        next.0.slots = keys.iter().map(|(key, slot)| self.slot(key, slot, data)).collect::<StoreResult<_>>()?;
        Ok(next)
    }

    fn slot(&self, key: &Key, slot: &KeySlot, data: &[DataKey]) -> StoreResult<StoredSlot> {
        Ok(StoredSlot {
            id: key.id().as_bytes().to_vec(),
            kind: slot.kind.into(),
            place: slot.place.clone(),
            salt: slot.salt.clone(),
            wrapped: data.iter().map(|data| self.wrap(key, data)).collect::<StoreResult<_>>()?,
        })
    }

    /// A key of its own for each wrap: the number that the cipher wants may then be the same.
    fn wrapping(&self, key: &Key, salt: &[u8], id: u32) -> StoreResult<LessSafeKey> {
        let info = [b"quorate data key 1".as_slice(), &self.0.store, &id.to_be_bytes()];
        let secret = Salt::new(HKDF_SHA256, salt).extract(key.bytes());
        let derived = secret.expand(&info, &AES_256_GCM).map(|derived| LessSafeKey::new(UnboundKey::from(derived)));
        derived.map_err(|_unspecified| corrupt("the key that wraps a data key cannot be derived"))
    }

    fn wrap(&self, key: &Key, data: &DataKey) -> StoreResult<StoredWrap> {
        let mut salt = [0; 16];
        random(&mut salt)?;
        let wrapping = self.wrapping(key, &salt, data.id)?;
        let mut sealed = data.secret.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let done = wrapping.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed);
        done.map_err(|_unspecified| corrupt("a data key cannot be wrapped"))?;
        Ok(StoredWrap { id: data.id, salt: salt.to_vec(), sealed })
    }

    fn unwrap(&self, key: &Key, wrap: &StoredWrap) -> StoreResult<DataKey> {
        let wrapping = self.wrapping(key, &wrap.salt, wrap.id)?;
        let mut sealed = Zeroizing::new(wrap.sealed.clone());
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let opened = wrapping.open_in_place(nonce, Aad::empty(), &mut sealed);
        let secret = opened.ok().and_then(|secret| <[u8; 32]>::try_from(&*secret).ok());
        let secret = secret.map(Zeroizing::new).ok_or_else(|| {
            corrupt(format!("the right key does not open data key {}: the record was changed on the disk", wrap.id))
        })?;
        Ok(DataKey { id: wrap.id, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::GivenKey;

    fn made() -> (Key, KeyRecord) {
        let key = Key::generate().unwrap();
        let slot = KeySlot::new(&key, KeyKind::File, "/somewhere/key");
        let (record, _data) = KeyRecord::make(&[(key.clone(), slot)], 7).unwrap();
        (key, record)
    }

    #[test]
    fn a_data_key_comes_back_with_the_right_key_only_and_the_wrong_one_is_told_which_is_wanted() {
        let (key, record) = made();
        let dir = tempfile::tempdir().unwrap();
        record.save(dir.path(), None).unwrap();
        let record = KeyRecord::load(dir.path()).unwrap();
        let opened = record.open(&GivenKey(key.clone())).map_err(|error| error.to_string()).unwrap();
        assert_eq!((opened.active, opened.data.len(), opened.data[0].id), (1, 1, 1));
        let other = Key::generate().unwrap();
        let Err(error) = record.open(&GivenKey(other.clone())) else { panic!("another key opened it") };
        let told = error.to_string();
        assert!(matches!(error, StoreError::KeyWanted { .. }), "{told}");
        for word in [&key.id().to_string(), &other.id().to_string(), "/somewhere/key"] {
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_the_file_is_refused() {
        let (key, record) = made();
        let dir = tempfile::tempdir().unwrap();
        record.save(dir.path(), None).unwrap();
        let whole = fs::read(path(dir.path())).unwrap();
        let opens = || KeyRecord::load(dir.path()).and_then(|record| record.open(&GivenKey(key.clone())).map(drop));
        opens().unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            fs::write(path(dir.path()), &flipped).unwrap();
            assert!(matches!(opens(), Err(StoreError::Corrupt { .. })), "byte {at}");
            fs::write(path(dir.path()), &whole[..at]).unwrap();
            assert!(matches!(opens(), Err(StoreError::Corrupt { .. })), "cut at {at}");
        }
        fs::remove_file(path(dir.path())).unwrap();
        assert!(opens().unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_wrapped_key_of_another_store_or_under_another_id_is_refused() {
        let (key, record) = made();
        let (_, other) = made();
        // Given a record whose checksum was made to fit again
        let mut swapped = record.clone();
        swapped.0.store = other.0.store;
        assert!(matches!(swapped.open(&GivenKey(key.clone())), Err(StoreError::Corrupt { .. })));
        let mut renamed = record;
        renamed.0.slots[0].wrapped[0].id = 2;
        assert!(matches!(renamed.open(&GivenKey(key)), Err(StoreError::Corrupt { .. })));
    }
}
