//! The head of a store: one record that says what all others must go with.
//!
//! Owns the form of two records. The *head* has everything of which an older one would be taken for the newest: which batches were the
//! last, the hard state, where the log begins and ends, which state is in force. It is written whole with every batch that touches
//! any of it, and each family keeps the number of its last batch besides, so that nothing of it is put back alone. The *facts* are
//! one record, too, and have the number of the batch that wrote them, which the head knows. Never reads or writes. Called by the
//! journal, and when a store is opened.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{HardState, LogStart};
use quorate_core::ports::{StoreError, StoreResult};
use zeroize::Zeroizing;

use crate::families::{Family, meta_key};
use crate::log::Shape;

/// Which batches were the last that touched the log (or facts), the state, and the facts, counted from 1.
///
/// Kept in the head and, as a witness, in the family itself: a family that lost its newest table, because the database forgot
/// that there was one, no longer agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Serials {
    pub(crate) log: u64,
    pub(crate) state: u64,
    /// The one that the facts are of; none of them were ever written where it is 0.
    pub(crate) facts: u64,
}

impl Serials {
    /// The last batch of any kind.
    pub(crate) fn last(self) -> u64 {
        self.log.max(self.state)
    }
}

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) serials: Serials,
    pub(crate) hard: HardState,
    pub(crate) start: LogStart,
    /// The log's last entry, or what is in its place in an empty log.
    pub(crate) end: LogStart,
    /// The state family in force; none in a store that was never founded.
    pub(crate) state: Option<Family>,
}

const NUMBERS: usize = 11;

impl Head {
    pub(crate) fn of(serials: Serials, shape: &Shape, state: Option<Family>) -> Self {
        Self { serials, hard: shape.hard, start: shape.start, end: shape.end(), state }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { serials, hard, start, end, state } = self;
        let state = match state {
            None => 0,
            Some(Family::StateA) => 1,
            Some(Family::StateB) => 2,
            // Neither is ever in force as state; such a head is refused when it is read.
            Some(Family::Log | Family::Meta) => u64::MAX,
        };
        let numbers: [u64; NUMBERS] = [
            serials.log,
            serials.state,
            serials.facts,
            hard.term.0,
            hard.vote.0,
            hard.commit.0,
            start.index.0,
            start.term.0,
            end.index.0,
            end.term.0,
            state,
        ];
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    pub(crate) fn decode(payload: &[u8]) -> StoreResult<Self> {
        let [log, state, facts, term, vote, commit, start, start_term, end, end_term, family] =
            numbers::<NUMBERS>(meta_key::HEAD, payload)?;
        let place = |index, term| LogStart { index: LogIndex(index), term: Term(term) };
        Ok(Self {
            serials: Serials { log, state, facts },
            hard: HardState { term: Term(term), vote: RaftId(vote), commit: LogIndex(commit) },
            start: place(start, start_term),
            end: place(end, end_term),
            state: match family {
                0 => None,
                1 => Some(Family::StateA),
                2 => Some(Family::StateB),
                _ => return Err(unreadable(meta_key::HEAD)),
            },
        })
    }
}

/// What a family's own witness says.
pub(crate) fn decode_witness(payload: &[u8]) -> StoreResult<u64> {
    let [serial] = numbers(meta_key::HEAD, payload)?;
    Ok(serial)
}

fn numbers<const N: usize>(key: &[u8], payload: &[u8]) -> StoreResult<[u64; N]> {
    let (chunks, rest) = payload.as_chunks::<8>();
    let all: Vec<u64> = chunks.iter().map(|chunk| u64::from_be_bytes(*chunk)).collect();
    let all = <[u64; N]>::try_from(all).ok().filter(|_| rest.is_empty());
    all.ok_or_else(|| unreadable(key))
}

fn unreadable(key: &[u8]) -> StoreError {
    StoreError::Corrupt {
        record: Family::Meta.describe(key),
        detail: "its seal is whole, but it does not have the form of such a record".to_owned(),
    }
}

/// The facts about the node, all of them, by name. Wiped when they are dropped: one of them is a secret.
#[derive(Clone, Default)]
pub(crate) struct FactTable(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl FactTable {
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) {
        self.0.insert(name.to_owned(), Zeroizing::new(value.to_vec()));
    }

    pub(crate) fn get(&self, name: &str) -> Option<Bytes> {
        self.0.get(name).map(|value| Bytes::copy_from_slice(value))
    }

    /// Bytes of the record.
    pub(crate) fn encoded_len(&self) -> usize {
        8 + self.0.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>()
    }

    /// The record of the batch `serial`: the number, then name and value of each, their lengths before them.
    pub(crate) fn encode(&self, serial: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&serial.to_be_bytes());
        for (name, value) in &self.0 {
            for part in [name.as_bytes(), value.as_slice()] {
                // A record that is longer than 4 GiB is none that RocksDB takes.
                into.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                into.extend_from_slice(part);
            }
        }
    }

    /// The record read back, and of which batch it is. The caller wipes `payload`.
    pub(crate) fn decode(payload: &[u8]) -> StoreResult<(u64, Self)> {
        fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            *rest = after;
            Some(part)
        }
        let parts = || {
            let (serial, mut rest) = payload.split_first_chunk::<8>()?;
            let mut table = Self::default();
            while !rest.is_empty() {
                let name = std::str::from_utf8(part(&mut rest)?).ok()?;
                table.set(name, part(&mut rest)?);
            }
            Some((u64::from_be_bytes(*serial), table))
        };
        parts().ok_or_else(|| unreadable(meta_key::FACTS))
    }
}

/// The facts must be those that the head knows of.
///
/// # Errors
/// `Corrupt` when they are of another batch, or there are none.
pub(crate) fn check_facts(known: u64, found: u64) -> StoreResult<()> {
    if known == found {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        record: Family::Meta.describe(meta_key::FACTS),
        detail: format!(
            "they were last written by batch {known}, and what is there is of batch {found}: they were put back as they were \
             before, or the node's record `head` was"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_another_form_does_not() {
        let head = Head {
            serials: Serials { log: 1, state: 2, facts: 3 },
            hard: HardState { term: Term(4), vote: RaftId(5), commit: LogIndex(6) },
            start: LogStart { index: LogIndex(7), term: Term(8) },
            end: LogStart { index: LogIndex(9), term: Term(10) },
            state: Some(Family::StateB),
        };
        let encoded = head.encode();
        assert_eq!(Head::decode(&encoded).unwrap(), head);
        for cut in 0..encoded.len() {
            assert!(Head::decode(&encoded[..cut]).is_err(), "{cut}");
        }
        assert!(Head::decode(&Head { state: Some(Family::Log), ..head }.encode()).is_err());
    }

    #[test]
    fn facts_read_back_with_the_number_of_their_batch_and_a_cut_record_does_not() {
        let mut table = FactTable::default();
        table.set("a", b"");
        table.set("node", &[7; 300]);
        let mut encoded = Vec::new();
        table.encode(9, &mut encoded);
        assert_eq!(encoded.len(), table.encoded_len());
        let (serial, read) = FactTable::decode(&encoded).unwrap();
        assert_eq!((serial, read.get("node").unwrap().len(), read.get("a").unwrap().len()), (9, 300, 0));
        assert!(read.get("other").is_none());
        let whole = |cut: usize| FactTable::decode(&encoded[..cut]).map(|(_, table)| table.0.len());
        // A cut between two of them has the form of a shorter record; the seal is what tells.
        let fine: Vec<usize> = (0..encoded.len()).filter(|cut| whole(*cut).is_ok()).collect();
        assert_eq!(fine, [8, 8 + 8 + 1]);
    }
}
