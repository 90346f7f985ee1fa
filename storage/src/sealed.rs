//! A secret that lies beside a store and is opened by the same key-encryption keys.
//!
//! Owns its form: a key record of its own ([`KeyRecord`]) whose one data key has sealed this one secret. A data key is drawn for each
//! sealing, so no nonce meets its key twice, and what is sealed for other keys shares nothing with what was before. Needs no store:
//! one that is damaged or gone takes nothing from it. Never touches the disk. Called by the node, for its TLS key.

use prost::Message as _;
use quorate_core::ports::{StoreError, StoreResult};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::keeper::unix_seconds;
use crate::key::{Key, KeyProvider, KeySlot};
use crate::key_record::KeyRecord;
use crate::keyring::DataKey;

/// What the seal is bound to: what it is.
const BOUND: &[u8] = b"quorate sealed secret 1";

/// Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(bytes = "vec", tag = "1")]
    record: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    sealed: Vec<u8>,
}

fn corrupt(detail: &str) -> StoreError {
    StoreError::Corrupt { record: "sealed secret".to_owned(), detail: detail.to_owned() }
}

/// The cipher of one data key, which is used once.
fn cipher(data: &DataKey) -> StoreResult<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, data.secret.as_slice());
    key.map(LessSafeKey::new).map_err(|_unspecified| corrupt("the cipher refused the key"))
}

fn decode(sealed: &[u8]) -> StoreResult<(KeyRecord, Vec<u8>)> {
    let damaged = || corrupt("it is not what was written");
    let stored = Stored::decode(sealed).map_err(|_undecodable| damaged())?;
    let record = KeyRecord::decode(&stored.record).ok_or_else(damaged)?;
    Ok((record, stored.sealed))
}

/// Seals it, so that each of `keys` opens it.
///
/// # Errors
/// The system gives no entropy, or there is no key.
pub fn seal_secret(secret: &[u8], keys: &[(Key, KeySlot)]) -> StoreResult<Vec<u8>> {
    let (record, data) = KeyRecord::make(keys, unix_seconds())?;
    let mut sealed = Zeroizing::new(secret.to_vec());
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let done = cipher(&data)?.seal_in_place_append_tag(nonce, Aad::from(BOUND), &mut *sealed);
    done.map_err(|_unspecified| corrupt("it cannot be sealed"))?;
    Ok(Stored { record: record.encode(), sealed: sealed.to_vec() }.encode_to_vec())
}

/// Opens what [`seal_secret`] gave, with whichever of the provider's keys fits.
///
/// # Errors
/// `KeyWanted` when none does, which says which one would; `Corrupt` when it is not what was sealed.
pub fn open_secret(sealed: &[u8], keys: &dyn KeyProvider) -> StoreResult<Zeroizing<Vec<u8>>> {
    let (record, sealed) = decode(sealed)?;
    let opened = record.open(keys)?;
    let data = opened.data.first().ok_or_else(|| corrupt("it has no key"))?;
    let mut secret = Zeroizing::new(sealed);
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let length = cipher(data)?.open_in_place(nonce, Aad::from(BOUND), &mut secret).map(|plain| plain.len());
    let length = length.map_err(|_unspecified| corrupt("its seal is broken: it was changed on the disk"))?;
    secret.truncate(length);
    Ok(secret)
}

/// Which keys open it, as it says itself; needs none of them.
///
/// # Errors
/// `Corrupt` when it is not what was written.
pub fn secret_slots(sealed: &[u8]) -> StoreResult<Vec<KeySlot>> {
    Ok(decode(sealed)?.0.slots())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{GivenKey, KeyKind};

    fn key(place: &str) -> (Key, KeySlot) {
        let key = Key::generate().unwrap();
        let slot = KeySlot::new(&key, KeyKind::File, place);
        (key, slot)
    }

    #[test]
    fn a_secret_comes_back_with_each_of_its_keys_and_with_no_other() {
        let (one, two, other) = (key("one"), key("two"), key("other"));
        let sealed = seal_secret(b"swordfish", &[one.clone(), two.clone()]).unwrap();
        assert!(!sealed.windows(9).any(|bytes| bytes == b"swordfish"));
        for (key, _) in [&one, &two] {
            assert_eq!(&open_secret(&sealed, &GivenKey(key.clone())).unwrap()[..], b"swordfish");
        }
        let ids: Vec<_> = secret_slots(&sealed).unwrap().into_iter().map(|slot| slot.id).collect();
        assert_eq!(ids, [one.0.id(), two.0.id()]);
        let told = open_secret(&sealed, &GivenKey(other.0.clone())).map(drop).unwrap_err();
        assert!(matches!(told, StoreError::KeyWanted { .. }));
        let told = told.to_string();
        for word in [one.0.id().to_string(), two.0.id().to_string(), other.0.id().to_string(), "one".into()] {
            assert!(told.contains(&word), "{told}");
        }
        // Sealed for another key, it is nothing to the one before.
        let again = seal_secret(b"swordfish", &[other]).unwrap();
        assert!(matches!(open_secret(&again, &GivenKey(one.0)), Err(StoreError::KeyWanted { .. })));
    }

    #[test]
    fn what_was_changed_on_the_disk_opens_to_nothing() {
        let (key, slot) = key("one");
        let sealed = seal_secret(b"swordfish", &[(key.clone(), slot)]).unwrap();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            // (What says where the key is found, and when it was made, is bound to nothing, and changes nothing.)
            if let Ok(secret) = open_secret(&flipped, &GivenKey(key.clone())) {
                assert_eq!(&secret[..], b"swordfish", "byte {at}");
            }
            assert!(open_secret(&sealed[..at], &GivenKey(key.clone())).is_err(), "cut at {at}");
        }
        let last = sealed.len() - 1;
        let mut flipped = sealed;
        flipped[last] ^= 1;
        assert!(matches!(open_secret(&flipped, &GivenKey(key)), Err(StoreError::Corrupt { .. })));
    }
}
