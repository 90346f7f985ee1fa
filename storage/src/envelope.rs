//! The one place where a record becomes bytes on the disk and bytes become a record again.
//!
//! Owns the envelope of every log entry, state value, fact and snapshot record: a header that says how the payload is
//! sealed, the sealed payload, and the tag. What the tag is over, besides: the record's key (as associated data), its family,
//! the store and the header (in the derivation of the key), so that a record that was flipped, cut, or moved to another key,
//! family or store is refused. Keys of records are not sealed: RocksDB orders by them. Never interprets a payload. Called by
//! every other module that reads or writes.
//!
//! The layout is that of [`quorate_core::envelope`], with the id of the data key in it.

use bytes::Bytes;
use quorate_core::envelope::{ALGORITHM_AES_256_GCM, HEADER_BYTES, Header, TAG_BYTES, Unreadable, VERSION};
use quorate_core::ports::{StoreError, StoreResult};

use crate::families::Family;
use crate::keyring::{Keyring, Place, Sealer, Unopened};

/// Payloads are kept as they are, with a checksum for a tag: only to measure what sealing costs.
#[cfg(feature = "testing")]
const ALGORITHM_NONE: u8 = 0;

/// Makes `record` the record at `key` of `family`; `fill` appends the payload, which is sealed where it lies.
pub(crate) fn encode(
    sealer: &Sealer,
    family: Family,
    key: &[u8],
    record: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>),
) -> StoreResult<()> {
    let number = sealer.number();
    record.clear();
    let Place { key: id, epoch } = sealer.place;
    Header { algorithm: algorithm(sealer), key: id, epoch, number }.write(record);
    fill(record);
    let (_, payload) = record.split_at_mut(HEADER_BYTES);
    #[cfg(feature = "testing")]
    if sealer.plain {
        let sum = sum(family, key, payload);
        record.extend_from_slice(&sum);
        return Ok(());
    }
    let tag = sealer.seal(family, key, number, payload)?;
    record.extend_from_slice(tag.as_ref());
    Ok(())
}

#[cfg(feature = "testing")]
const fn algorithm(sealer: &Sealer) -> u8 {
    if sealer.plain { ALGORITHM_NONE } else { ALGORITHM_AES_256_GCM }
}

#[cfg(not(feature = "testing"))]
const fn algorithm(_sealer: &Sealer) -> u8 {
    ALGORITHM_AES_256_GCM
}

/// Opens the record found at `key` of `family`, in place.
///
/// # Errors
/// `Corrupt` when it is not what was written there.
pub(crate) fn decode(ring: &Keyring, family: Family, key: &[u8], mut record: Vec<u8>) -> StoreResult<Bytes> {
    let length = open(ring, family, key, &mut record)?;
    record.truncate(HEADER_BYTES + length);
    Ok(Bytes::from(record).slice(HEADER_BYTES..))
}

/// The payload inside a borrowed record, opened in `room`.
///
/// # Errors
/// `Corrupt` when it is not what was written at `key` of `family`.
pub(crate) fn check<'a>(
    ring: &Keyring,
    family: Family,
    key: &[u8],
    record: &[u8],
    room: &'a mut Vec<u8>,
) -> StoreResult<&'a [u8]> {
    room.clear();
    room.extend_from_slice(record);
    let length = open(ring, family, key, room)?;
    Ok(room.get(HEADER_BYTES..HEADER_BYTES + length).unwrap_or_default())
}

/// Which data key a record was sealed with, as its header says.
pub(crate) fn key_of(record: &[u8]) -> Option<u32> {
    record.get(2..6).and_then(|id| id.try_into().ok()).map(u32::from_be_bytes)
}

fn refuse<T>(family: Family, key: &[u8], detail: String) -> StoreResult<T> {
    Err(StoreError::Corrupt { record: family.describe(key), detail })
}

/// Opens a whole record in place; the length of what is inside, behind the header.
fn open(ring: &Keyring, family: Family, key: &[u8], record: &mut [u8]) -> StoreResult<usize> {
    let length = record.len();
    let Header { algorithm, key: id, epoch, number } = match Header::parse(record) {
        Ok(header) => header,
        Err(Unreadable::Short) => {
            return refuse(family, key, format!("{length} bytes are fewer than a record's header and tag"));
        }
        Err(Unreadable::Version(version)) => {
            return refuse(family, key, format!("envelope version {version}, this binary reads version {VERSION}"));
        }
    };
    let (_, sealed) = record.split_at_mut(HEADER_BYTES);
    match algorithm {
        ALGORITHM_AES_256_GCM => {}
        #[cfg(feature = "testing")]
        ALGORITHM_NONE if ring.sealer()?.plain => return open_plain(family, key, sealed),
        algorithm => {
            return refuse(family, key, format!("sealed by algorithm {algorithm}, which this binary does not know"));
        }
    }
    match ring.open((Place { key: id, epoch }, number), family, key, sealed) {
        Ok(length) => Ok(length),
        Err(Unopened::NoKey) => {
            refuse(family, key, format!("it names data key {id}, which is not in the store's key record"))
        }
        Err(Unopened::Tag) => refuse(
            family,
            key,
            "its seal is broken: it was changed on the disk, or belongs to another place or another store".to_owned(),
        ),
        Err(Unopened::Failed(error)) => Err(error),
    }
}

#[cfg(feature = "testing")]
fn open_plain(family: Family, key: &[u8], sealed: &[u8]) -> StoreResult<usize> {
    let length = sealed.len() - TAG_BYTES;
    let (payload, tag) = sealed.split_at(length);
    if sum(family, key, payload) != tag {
        return refuse(family, key, "its checksum does not fit".to_owned());
    }
    Ok(length)
}

/// What stands in the place of a tag where nothing is sealed.
#[cfg(feature = "testing")]
fn sum(family: Family, key: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(family.name().as_bytes()), key), payload);
    u128::from(sum).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::DataKey;

    fn ring() -> Keyring {
        Keyring::new([1; 16], vec![DataKey::generate(1).unwrap()], 1).unwrap()
    }

    fn sealed(ring: &Keyring, family: Family, key: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        let sealer = ring.sealer().unwrap();
        encode(&sealer, family, key, &mut record, |into| into.extend_from_slice(payload)).unwrap();
        record
    }

    fn opened(ring: &Keyring, family: Family, key: &[u8], record: &[u8]) -> StoreResult<Vec<u8>> {
        check(ring, family, key, record, &mut Vec::new()).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_record_comes_back_from_its_own_place_and_is_not_readable_there() {
        let ring = ring();
        for payload in [&b"value"[..], b"", &[7; 100_000]] {
            let record = sealed(&ring, Family::StateA, b"key", payload);
            assert_eq!(record.len(), HEADER_BYTES + payload.len() + TAG_BYTES);
            assert!(payload.is_empty() || !record.windows(payload.len()).any(|window| window == payload));
            assert_eq!(opened(&ring, Family::StateA, b"key", &record).unwrap(), payload);
            assert_eq!(&decode(&ring, Family::StateA, b"key", record).unwrap()[..], payload);
        }
    }

    #[test]
    fn the_same_record_is_never_sealed_the_same_way() {
        let ring = ring();
        let (one, two) = (sealed(&ring, Family::Log, b"k", b"payload"), sealed(&ring, Family::Log, b"k", b"payload"));
        assert_ne!(one[HEADER_BYTES..], two[HEADER_BYTES..]);
    }

    #[test]
    fn a_record_in_another_place_is_refused() {
        let ring = ring();
        let record = sealed(&ring, Family::StateA, b"key", b"value");
        for (family, key) in [(Family::StateB, &b"key"[..]), (Family::StateA, b"yek"), (Family::StateA, b"")] {
            let error = opened(&ring, family, key, &record).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
        let error = opened(&self::ring(), Family::StateA, b"key", &record).unwrap_err();
        assert!(error.to_string().contains("seal is broken"), "{error}");
    }

    #[test]
    fn a_record_under_a_data_key_that_is_not_there_names_it() {
        let record = sealed(&ring(), Family::StateA, b"key", b"value");
        let other = Keyring::new([1; 16], vec![DataKey::generate(2).unwrap()], 2).unwrap();
        let error = opened(&other, Family::StateA, b"key", &record).unwrap_err();
        assert!(error.to_string().contains("data key 1"), "{error}");
        assert_eq!(key_of(&record), Some(1));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let ring = ring();
        let key = 7_u64.to_be_bytes();
        let record = sealed(&ring, Family::Log, &key, b"payload");
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut flipped = record.clone();
                flipped[at] ^= 1 << bit;
                assert!(opened(&ring, Family::Log, &key, &flipped).is_err(), "byte {at} bit {bit}");
            }
        }
        for short in 0..record.len() {
            assert!(opened(&ring, Family::Log, &key, &record[..short]).is_err(), "cut to {short}");
        }
    }
}
