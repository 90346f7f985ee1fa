//! The state hash: a digest of a set of records that follows each change in O(change).
//!
//! Owns the arithmetic: each record adds blake3(key, value) as four wrapping 64-bit lanes, so that adding and removing
//! commute and the digest depends on the set alone, not on the way to it. It tells members apart that should be equal;
//! it is no signature. Called by the machine for each change and by the full scan that checks it.

use crate::ports::{StateRead, StoreResult, Visit};
use crate::state::layout;

/// The sum over a set of records, or the part of one record in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lanes([u64; 4]);

/// Records up to this size are hashed from the stack in one piece.
const SMALL: usize = 512;

impl Lanes {
    /// What one stored record adds.
    pub(crate) fn of(key: &[u8], value: &[u8]) -> Self {
        // The length stands in front: no two records have the same bytes one after the other.
        let length = (key.len() as u64).to_le_bytes();
        let total = length.len() + key.len() + value.len();
        let mut small = [0u8; SMALL];
        let digest = match small.get_mut(..total) {
            Some(whole) => {
                let (head, rest) = whole.split_at_mut(length.len());
                let (middle, tail) = rest.split_at_mut(key.len());
                head.copy_from_slice(&length);
                middle.copy_from_slice(key);
                tail.copy_from_slice(value);
                blake3::hash(whole)
            }
            None => blake3::Hasher::new().update(&length).update(key).update(value).finalize(),
        };
        Self::from_digest(digest.as_bytes())
    }

    /// Takes a record in.
    pub(crate) fn add(&mut self, record: Self) {
        for (lane, part) in self.0.iter_mut().zip(record.0) {
            *lane = lane.wrapping_add(part);
        }
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, record: Self) {
        for (lane, part) in self.0.iter_mut().zip(record.0) {
            *lane = lane.wrapping_sub(part);
        }
    }

    /// As told and stored.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        for (bytes, lane) in digest.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        digest
    }

    /// Reads [`Lanes::digest`] back.
    pub(crate) fn from_digest(digest: &[u8; 32]) -> Self {
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(digest.chunks_exact(8)) {
            *lane = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        Self(lanes)
    }
}

/// The state hash computed anew from every record that it covers. Equal to [`StateStatus::hash`] of the same view,
/// unless a store or the machine has a fault.
///
/// [`StateStatus::hash`]: crate::state::contract::StateStatus::hash
///
/// # Errors
/// Those of the store.
pub fn scan_hash(view: &dyn StateRead) -> StoreResult<[u8; 32]> {
    let lanes = scan(view, &mut |_| Visit::More)?;
    Ok(lanes.unwrap_or_default().digest())
}

/// As [`scan_hash`], asked after each record, with its size, whether to go on; `None` where not.
///
/// # Errors
/// Those of the store.
pub fn scan_hash_while(view: &dyn StateRead, go_on: &mut dyn FnMut(usize) -> Visit) -> StoreResult<Option<[u8; 32]>> {
    Ok(scan(view, go_on)?.map(|lanes| lanes.digest()))
}

fn scan(view: &dyn StateRead, go_on: &mut dyn FnMut(usize) -> Visit) -> StoreResult<Option<Lanes>> {
    let (mut lanes, mut whole) = (Lanes::default(), true);
    view.scan(&[layout::SYSTEM], &[layout::HASHED_END], &mut |key, value| {
        lanes.add(Lanes::of(key, value));
        let next = go_on(key.len() + value.len());
        whole = next == Visit::More;
        next
    })?;
    Ok(whole.then_some(lanes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_taken_in_and_out_again_leaves_no_trace(
            base in any::<[u8; 32]>(), key in proptest::collection::vec(any::<u8>(), 0..600), value in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut lanes = Lanes::from_digest(&base);
            prop_assert_eq!(lanes.digest(), base);
            lanes.add(Lanes::of(&key, &value));
            prop_assert_ne!(lanes.digest(), base);
            lanes.remove(Lanes::of(&key, &value));
            prop_assert_eq!(lanes.digest(), base);
        }
    }

    #[test]
    fn the_border_between_key_and_value_counts() {
        assert_ne!(Lanes::of(b"ab", b"c"), Lanes::of(b"a", b"bc"));
        // Also on both sides of the size that is hashed in one piece.
        let long = [7u8; SMALL];
        assert_ne!(Lanes::of(&long, b""), Lanes::of(&long[1..], &long[..1]));
    }
}
