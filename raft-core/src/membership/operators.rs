//! Operators' identities: who may administer the cluster, or only look.
//!
//! Owns their records, what becomes of them, and the rules for making and taking back one. A certificate proves a key; what
//! the key may do is said by its record alone, so that taking it back counts at once, whatever certificates are about. Pure: the
//! time is given. Called by the managers' handlers and wherever somebody shows an operator's certificate.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::id::NodeId;
use crate::keyspace::Section;
use crate::limits::{NAME_BYTES_MAX, OPERATORS_MAX};

/// Where they lie in [`Section::Identity`].
const PLACE: &[u8] = b"operator/";

/// One operator, under its id. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperatorRecord {
    /// 16 bytes: the id in its certificate.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The name people gave it; unique among those that stand.
    #[prost(string, tag = "2")]
    pub name: String,
    /// It may look, and change nothing.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    #[prost(bytes = "bytes", tag = "4")]
    pub key_digest: Bytes,
    /// When it was made, seconds since 1970.
    #[prost(uint64, tag = "5")]
    pub created: u64,
    /// When it ends, seconds since 1970; 0: when it is taken back.
    #[prost(uint64, tag = "6")]
    pub ends: u64,
    /// Until when its newest certificate holds, seconds since 1970.
    #[prost(uint64, tag = "7")]
    pub certificate_ends: u64,
    /// When it was taken back, seconds since 1970; 0: it was not.
    #[prost(uint64, tag = "8")]
    pub revoked: u64,
    /// Which CA key signed the certificate that it was last seen with in a rotation, see [`super::trust`]; empty: not known.
    #[prost(bytes = "bytes", tag = "9")]
    pub issuer: Bytes,
}

/// Whether an operator still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Stands,
    /// Its time is over.
    Ended,
    /// It was taken back.
    Revoked,
}

impl OperatorRecord {
    /// The id; `None` when the record is malformed.
    pub fn node_id(&self) -> Option<NodeId> {
        NodeId::from_slice(&self.id)
    }

    /// Where the record of `id` lives.
    pub fn key(id: NodeId) -> Bytes {
        Section::Identity.key(&[PLACE, id.as_bytes()].concat())
    }

    /// The operator whose record lives at this full key.
    pub fn parse(full: &Bytes) -> Option<NodeId> {
        NodeId::from_slice(Section::Identity.strip(full)?.strip_prefix(PLACE)?)
    }

    /// The first full key of all of them; they end at its [`crate::keyspace::prefix_end`].
    pub fn first_key() -> Bytes {
        Section::Identity.key(PLACE)
    }

    /// Whether it counts at this time, seconds since 1970.
    pub const fn standing(&self, now: u64) -> Standing {
        if self.revoked != 0 {
            Standing::Revoked
        } else if self.ends != 0 && now >= self.ends {
            Standing::Ended
        } else {
            Standing::Stands
        }
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Why an operator is not made, or not taken back. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorRefused {
    /// The name is empty, or holds what no terminal should be sent.
    #[error("the name of an operator has at least one byte, and no control characters or others that cannot be seen")]
    BadName,
    /// The name is too long.
    #[error("the name has {0} bytes, the limit `NAME_BYTES_MAX` is {NAME_BYTES_MAX}")]
    NameTooLong(usize),
    /// Somebody has it.
    #[error("there is an operator `{0}` already; choose another name, or take that one back first")]
    NameTaken(String),
    /// They are all in use.
    #[error(
        "there are {OPERATORS_MAX} operators that stand, as many as there may be (`OPERATORS_MAX`); take some back first"
    )]
    TooMany,
    /// Nobody has this name.
    #[error("there is no operator `{0}` that stands")]
    Unknown(String),
}

/// All operators.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Operators(BTreeMap<NodeId, OperatorRecord>);

impl FromIterator<OperatorRecord> for Operators {
    fn from_iter<I: IntoIterator<Item = OperatorRecord>>(records: I) -> Self {
        Self(records.into_iter().filter_map(|record| Some((record.node_id()?, record))).collect())
    }
}

impl Operators {
    /// One of them.
    pub fn get(&self, id: NodeId) -> Option<&OperatorRecord> {
        self.0.get(&id)
    }

    /// All of them, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &OperatorRecord)> {
        self.0.iter().map(|(id, record)| (*id, record))
    }

    /// The record of `id` is this from now on; `None`: there is none.
    pub fn set(&mut self, id: NodeId, record: Option<OperatorRecord>) {
        match record {
            Some(record) => self.0.insert(id, record),
            None => self.0.remove(&id),
        };
    }

    /// Whether one with this id and name may be made; answers with those whose records make room for it, the oldest first.
    ///
    /// # Errors
    /// Why not.
    pub fn room_for(&self, id: NodeId, name: &str, now: u64) -> Result<Vec<NodeId>, OperatorRefused> {
        if name.len() > NAME_BYTES_MAX {
            return Err(OperatorRefused::NameTooLong(name.len()));
        }
        if name.is_empty() || name.chars().any(super::naming::hides) {
            return Err(OperatorRefused::BadName);
        }
        let stands = |record: &OperatorRecord| record.standing(now) == Standing::Stands;
        if self.iter().any(|(other, record)| other != id && record.name == name && stands(record)) {
            return Err(OperatorRefused::NameTaken(name.to_owned()));
        }
        let others: Vec<_> = self.iter().filter(|(other, _)| *other != id).collect();
        let over = (others.len() + 1).saturating_sub(OPERATORS_MAX);
        let mut over_and_done: Vec<_> = others.into_iter().filter(|(_, record)| !stands(record)).collect();
        if over_and_done.len() < over {
            return Err(OperatorRefused::TooMany);
        }
        over_and_done.sort_by_key(|(id, record)| (record.created, *id));
        Ok(over_and_done.into_iter().take(over).map(|(id, _)| id).collect())
    }

    /// The one that stands by this name, or by the id as it is shown.
    ///
    /// # Errors
    /// There is none.
    pub fn named(&self, name: &str, now: u64) -> Result<&OperatorRecord, OperatorRefused> {
        let is_it = |(id, record): &(NodeId, &OperatorRecord)| record.name == name || id.to_string() == name;
        let mut standing = self.iter().filter(|(_, record)| record.standing(now) == Standing::Stands);
        let found = standing.find(is_it).map(|(_, record)| record);
        found.ok_or_else(|| OperatorRefused::Unknown(name.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NodeId {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn operator(n: u16, name: &str) -> OperatorRecord {
        OperatorRecord {
            id: Bytes::copy_from_slice(id(n).as_bytes()),
            name: name.into(),
            created: u64::from(n),
            ..OperatorRecord::default()
        }
    }

    #[test]
    fn one_that_was_taken_back_or_has_ended_does_not_count() {
        let stands = operator(1, "ann");
        let ends = OperatorRecord { ends: 100, ..stands.clone() };
        let revoked = OperatorRecord { revoked: 50, ..ends.clone() };
        assert_eq!((stands.standing(u64::MAX), ends.standing(99)), (Standing::Stands, Standing::Stands));
        assert_eq!((ends.standing(100), revoked.standing(1)), (Standing::Ended, Standing::Revoked));
    }

    #[test]
    fn a_name_is_free_again_once_nobody_stands_by_it() {
        let ann = operator(1, "ann");
        let operators: Operators = [ann.clone()].into_iter().collect();
        assert_eq!(operators.room_for(id(2), "ann", 5), Err(OperatorRefused::NameTaken("ann".into())));
        assert_eq!(operators.room_for(id(1), "ann", 5), Ok(vec![]), "a copy of the request is no second one");
        assert_eq!(operators.named("ann", 5), Ok(&ann));
        let gone: Operators = [OperatorRecord { revoked: 4, ..ann }].into_iter().collect();
        assert_eq!(gone.room_for(id(2), "ann", 5), Ok(vec![]));
        assert_eq!(gone.named("ann", 5), Err(OperatorRefused::Unknown("ann".into())));
        for name in ["", "a\nb"] {
            assert_eq!(operators.room_for(id(2), name, 5), Err(OperatorRefused::BadName), "{name:?}");
        }
        let longest = "x".repeat(NAME_BYTES_MAX);
        assert_eq!(operators.room_for(id(2), &longest, 5), Ok(vec![]));
        let refused = operators.room_for(id(2), &(longest + "x"), 5).unwrap_err();
        assert_eq!(refused, OperatorRefused::NameTooLong(NAME_BYTES_MAX + 1));
        assert!(refused.to_string().contains("`NAME_BYTES_MAX` is 255"), "{refused}");
    }

    #[test]
    fn those_that_count_no_more_make_room_the_oldest_first() {
        let most = u16::try_from(OPERATORS_MAX).unwrap();
        let mut records: Vec<_> = (0..most).map(|n| operator(n, &format!("o{n}"))).collect();
        let full: Operators = records.iter().cloned().collect();
        assert_eq!(full.room_for(id(most), "one more", 5), Err(OperatorRefused::TooMany));
        let but_one: Operators = records[1..].iter().cloned().collect();
        assert_eq!(but_one.room_for(id(most), "one more", 5), Ok(vec![]));
        records[9].revoked = 4;
        records[7].ends = 5;
        let some: Operators = records.into_iter().collect();
        assert_eq!(some.room_for(id(most), "one more", 5), Ok(vec![id(7)]));
    }

    #[test]
    fn a_record_is_found_by_its_key() {
        assert_eq!(OperatorRecord::parse(&OperatorRecord::key(id(7))), Some(id(7)));
        assert_eq!(OperatorRecord::parse(&Section::Identity.key(b"ca")), None);
        assert!(OperatorRecord::key(id(7)).starts_with(&OperatorRecord::first_key()));
    }
}
