//! What a request touches, flattened, and whether all of it lies within somebody's rights.
//!
//! Owns the one list of (access, keys) that a transaction comes to, however it is composed: comparisons, both branches, what
//! was there before, whole ranges, keys that are attached to a lease. A part that is not on the list cannot be asked for, and one
//! part that is not allowed forbids the whole. Never knows who asks: rights are given. Pure. Called by managers before anything
//! is proposed, read or watched, and again by the leader for whoever asked another manager.

use crate::txn::{Compare, Delete, Op, OpKind, Put, Range, Txn};

/// What is done to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Their values, or anything else about them, can be learnt.
    Read,
    /// They are written or removed.
    Write,
    /// They are attached to a lease, and end with it.
    Attach,
}

/// One access to one key, or to a range of keys. Full keys, with the byte of their section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch<'a> {
    /// What is done.
    pub access: Access,
    /// The key, or the first one of the range.
    pub key: &'a [u8],
    /// Empty for the one key, else the end of the range (excluded).
    pub end: &'a [u8],
}

impl<'a> Touch<'a> {
    /// One key.
    pub const fn one(access: Access, key: &'a [u8]) -> Self {
        Self { access, key, end: &[] }
    }
}

impl<'a> From<&'a Range> for Touch<'a> {
    fn from(range: &'a Range) -> Self {
        Self { access: Access::Read, key: &range.key, end: &range.end }
    }
}

/// Everything that a transaction may come to, whichever branch is done.
pub fn touches(txn: &Txn) -> impl Iterator<Item = Touch<'_>> {
    // A comparison tells of its key, also when only whether it held is answered.
    let compared = txn.compares.iter().map(|Compare { key, relation: _, operand: _ }| Touch::one(Access::Read, key));
    compared.chain(txn.then.iter().chain(&txn.or_else).flat_map(of_op))
}

/// Taken apart without a rest, so that a new field of an operation is not overlooked here.
fn of_op(op: &Op) -> impl Iterator<Item = Touch<'_>> {
    let parts = match &op.kind {
        Some(OpKind::Put(Put { key, value: _, lease, previous })) => [
            Some(Touch::one(Access::Write, key)),
            (*lease != 0).then_some(Touch::one(Access::Attach, key)),
            previous.then_some(Touch::one(Access::Read, key)),
        ],
        Some(OpKind::Delete(Delete { key, end, previous })) => [
            Some(Touch { access: Access::Write, key, end }),
            previous.then_some(Touch { access: Access::Read, key, end }),
            None,
        ],
        Some(OpKind::Range(range)) => [Some(Touch::from(range)), None, None],
        // No operation at all: refused as malformed wherever it is checked.
        None => [None, None, None],
    };
    parts.into_iter().flatten()
}

/// One right: an access to all keys of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right<'a> {
    /// What may be done.
    pub access: Access,
    /// The first key.
    pub from: &'a [u8],
    /// The end (excluded).
    pub end: &'a [u8],
}

/// Whether every key of the touch lies within the rights; several of them may cover one range together. A range that ends
/// before it begins counts as its first key.
pub fn allows(rights: &[Right<'_>], touch: &Touch<'_>) -> bool {
    // Everything from the touch's first key up to here is allowed.
    let mut at = touch.key;
    loop {
        let reaching = rights.iter().filter(|right| right.access == touch.access && right.from <= at && at < right.end);
        let Some(end) = reaching.map(|right| right.end).max() else { return false };
        if touch.end.is_empty() || end >= touch.end {
            return true;
        }
        at = end;
    }
}

/// The first part of a transaction that is not allowed; `None`: the whole of it is.
pub fn forbidden<'t>(rights: &[Right<'_>], txn: &'t Txn) -> Option<Touch<'t>> {
    touches(txn).find(|touch| !allows(rights, touch))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::txn::{Operand, Relation};

    /// Keys are strings of up to two of these letters: few enough that all of them can be asked about.
    const LETTERS: [u8; 4] = *b"abyz";

    fn all_keys() -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = LETTERS.iter().map(|letter| vec![*letter]).collect();
        for first in LETTERS {
            keys.extend(LETTERS.iter().map(|second| vec![first, *second]));
        }
        keys
    }

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(&LETTERS[..]), 1..=2).prop_map(Bytes::from)
    }

    fn end() -> impl Strategy<Value = Bytes> {
        prop_oneof![Just(Bytes::new()), key()]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (key(), 0..2u64, any::<bool>()).prop_map(|(key, lease, previous)| Put {
                key,
                lease,
                previous,
                ..Put::default()
            }
            .into()),
            (key(), end(), any::<bool>()).prop_map(|(key, end, previous)| Delete { key, end, previous }.into()),
            (key(), end(), any::<bool>(), any::<bool>()).prop_map(|(key, end, keys_only, count_only)| {
                Range { key, end, keys_only, count_only, ..Range::default() }.into()
            }),
        ]
    }

    fn txn() -> impl Strategy<Value = Txn> {
        let compare = key().prop_map(|key| Compare::new(key, Relation::Equal, Operand::Version(0)));
        let ops = || prop::collection::vec(op(), 0..4);
        (prop::collection::vec(compare, 0..3), ops(), ops()).prop_map(|(compares, then, or_else)| Txn {
            compares,
            then,
            or_else,
            fence: None,
        })
    }

    type Policy = Vec<(Access, Bytes, Bytes)>;

    fn policy() -> impl Strategy<Value = Policy> {
        let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Attach)];
        let end = prop_oneof![3 => key(), 1 => Just(Bytes::from_static(b"\xff"))];
        prop::collection::vec((access, key(), end), 0..8)
    }

    fn rights(policy: &Policy) -> Vec<Right<'_>> {
        policy.iter().map(|(access, from, end)| Right { access: *access, from, end }).collect()
    }

    /// What the state machine would look at or change, key by key, without a notion of ranges of rights.
    fn oracle(policy: &Policy, txn: &Txn) -> bool {
        let may = |access: Access, key: &[u8]| {
            policy.iter().any(|(of, from, end)| *of == access && from[..] <= *key && *key < end[..])
        };
        let in_range = |from: &Bytes, end: &Bytes| -> Vec<Vec<u8>> {
            // Between any two of the keys that there are lies another one that may come to be.
            let mut keys: Vec<Vec<u8>> = all_keys();
            keys.extend(all_keys().into_iter().map(|key| [&key[..], b"\0"].concat()));
            keys.extend(all_keys().into_iter().map(|key| [&key[..], b"~~"].concat()));
            keys.retain(|key| *key >= from.to_vec() && (*key < end.to_vec() || *key == from.to_vec()));
            keys.retain(|key| !end.is_empty() || *key == from.to_vec());
            keys
        };
        for compare in &txn.compares {
            if !may(Access::Read, &compare.key) {
                return false;
            }
        }
        for op in txn.then.iter().chain(&txn.or_else) {
            let fine = match op.kind.as_ref().expect("every operation is of a kind") {
                OpKind::Put(put) => {
                    may(Access::Write, &put.key)
                        && (!put.previous || may(Access::Read, &put.key))
                        && (put.lease == 0 || may(Access::Attach, &put.key))
                }
                OpKind::Delete(delete) => in_range(&delete.key, &delete.end)
                    .iter()
                    .all(|key| may(Access::Write, key) && (!delete.previous || may(Access::Read, key))),
                OpKind::Range(range) => in_range(&range.key, &range.end).iter().all(|key| may(Access::Read, key)),
            };
            if !fine {
                return false;
            }
        }
        true
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_composed_transaction_is_allowed_exactly_where_each_key_of_each_part_is(policy in policy(), txn in txn()) {
            let ours = forbidden(&rights(&policy), &txn).is_none();
            prop_assert_eq!(ours, oracle(&policy, &txn), "{:?} {:?}", policy, txn);
        }

        #[test]
        fn a_watch_is_allowed_exactly_where_a_read_of_the_same_range_is(policy in policy(), key in key(), end in end()) {
            let range = Range { key, end, ..Range::default() };
            let ours = allows(&rights(&policy), &Touch::from(&range));
            prop_assert_eq!(ours, oracle(&policy, &Txn::of(range)));
        }
    }

    #[test]
    fn what_a_put_nests_is_on_the_list() {
        let put = Put { key: Bytes::from_static(b"k"), lease: 7, previous: true, ..Put::default() };
        let found: Vec<Access> = touches(&Txn::of(put)).map(|touch| touch.access).collect();
        assert_eq!(found, [Access::Write, Access::Attach, Access::Read]);
    }

    #[test]
    fn a_range_over_a_gap_between_two_rights_is_forbidden() {
        let right = |from, end| Right { access: Access::Read, from, end };
        let touch = Touch { access: Access::Read, key: b"a", end: b"z" };
        assert!(allows(&[right(b"a", b"m"), right(b"m", b"z")], &touch), "side by side they are one");
        assert!(!allows(&[right(b"a", b"m"), right(b"m\0", b"z")], &touch), "m itself is in nobody's");
        assert!(!allows(&[right(b"a", b"y")], &touch), "nor is y");
    }
}
