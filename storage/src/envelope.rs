//! The one place where a record becomes bytes on the disk and bytes become a record again.
//!
//! Owns the envelope of every log entry, state value, fact and snapshot record: a header that says how the payload is
//! kept, and a checksum over the record's identity (family and key) together with the payload, so that a flipped record
//! and one that was moved to another place are both refused. Sealing at rest will live here: the algorithm and the key id
//! are already in the header. Never interprets a payload. Called by every other module that reads or writes.

use bytes::Bytes;
use quorate_core::ports::{StoreError, StoreResult};

use crate::families::Family;

/// The layout of the header that this binary writes.
const VERSION: u8 = 1;
/// Payloads are kept as they are.
const ALGORITHM_NONE: u8 = 0;
/// No key is named.
const KEY_NONE: u32 = 0;
/// Version, algorithm, key id.
const PREFIX_BYTES: usize = 6;
/// The whole header: prefix and checksum.
pub(crate) const HEADER_BYTES: usize = PREFIX_BYTES + 4;

/// Wraps `payload` as the record at `key` of `family`.
pub(crate) fn encode(family: Family, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
    record.push(VERSION);
    record.push(ALGORITHM_NONE);
    record.extend_from_slice(&KEY_NONE.to_be_bytes());
    let checksum = checksum(family, key, &record, payload);
    record.extend_from_slice(&checksum.to_be_bytes());
    record.extend_from_slice(payload);
    record
}

/// Unwraps the record found at `key` of `family`.
///
/// # Errors
/// `Corrupt` when it is not what was written there.
pub(crate) fn decode(family: Family, key: &[u8], record: Vec<u8>) -> StoreResult<Bytes> {
    check(family, key, &record)?;
    Ok(Bytes::from(record).slice(HEADER_BYTES..))
}

/// The payload inside a borrowed record, checked.
///
/// # Errors
/// `Corrupt` when it is not what was written at `key` of `family`.
pub(crate) fn check<'a>(family: Family, key: &[u8], record: &'a [u8]) -> StoreResult<&'a [u8]> {
    let refuse = |detail: String| Err(StoreError::Corrupt { record: family.describe(key), detail });
    let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else {
        return refuse(format!("{} bytes are fewer than a record's header", record.len()));
    };
    let (prefix, stored) = header.split_at(PREFIX_BYTES);
    let found = checksum(family, key, prefix, payload).to_be_bytes();
    if stored != found {
        return refuse("its checksum does not fit: it was changed on the disk, or belongs to another place".to_owned());
    }
    match prefix {
        [VERSION, ALGORITHM_NONE, ..] => Ok(payload),
        [VERSION, algorithm, ..] => refuse(format!("sealed by algorithm {algorithm}, which this binary does not know")),
        [version, ..] => refuse(format!("envelope version {version}, this binary reads version {VERSION}")),
        [] => refuse("it has no header".to_owned()),
    }
}

/// Over identity, header and payload; lengths keep neighbours apart.
fn checksum(family: Family, key: &[u8], prefix: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(family.name().as_bytes());
    sum = crc32c::crc32c_append(sum, &(key.len() as u64).to_be_bytes());
    sum = crc32c::crc32c_append(sum, key);
    sum = crc32c::crc32c_append(sum, prefix);
    crc32c::crc32c_append(sum, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_its_own_place() {
        let record = encode(Family::StateA, b"key", b"value");
        assert_eq!(&decode(Family::StateA, b"key", record).unwrap()[..], b"value");
    }

    #[test]
    fn a_record_in_another_place_is_refused() {
        let record = encode(Family::StateA, b"key", b"value");
        for (family, key) in [(Family::StateB, &b"key"[..]), (Family::StateA, b"yek"), (Family::StateA, b"")] {
            let error = check(family, key, &record).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let record = encode(Family::Log, &7_u64.to_be_bytes(), b"payload");
        for at in 0..record.len() {
            for bit in 0..8 {
                let mut flipped = record.clone();
                flipped[at] ^= 1 << bit;
                assert!(check(Family::Log, &7_u64.to_be_bytes(), &flipped).is_err(), "byte {at} bit {bit}");
            }
        }
        for short in 0..record.len() {
            assert!(check(Family::Log, &7_u64.to_be_bytes(), &record[..short]).is_err(), "cut to {short}");
        }
    }
}
