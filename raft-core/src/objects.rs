//! Configs and secrets: data that is written once and given to the nodes whose items refer to it.
//!
//! Owns their names, keys, limits and encoding, and the index from each to the items that refer to it; field numbers are for
//! ever. The data of a secret is sealed by the barrier ([`crate::keyring`]) before it is in any record. Never reads state.
//! Called by the managers' handlers, by sessions, and at apply, which keeps the index.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::id::NodeId;
use crate::keyring::SealedRecord;
use crate::keyspace::{Section, prefix_end};
use crate::limits::{OBJECT_BYTES_MAX, OBJECT_LABEL_BYTES_MAX, OBJECT_NAME_BYTES_MAX};
use crate::membership::naming::hides;
use crate::membership::record::Label;
use crate::state::contract::Refusal;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Data that people may read.
    Config,
    /// Data that only operators, and the nodes that need it, may read.
    Secret,
}

impl ObjectKind {
    /// The word people use.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }

    /// Reads [`ObjectKind::word`] back.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Config, Self::Secret].into_iter().find(|kind| kind.word() == word)
    }

    /// Where its records lie.
    pub const fn section(self) -> Section {
        match self {
            Self::Config => Section::Config,
            Self::Secret => Section::Secret,
        }
    }

    /// Where the record of this name lies.
    pub fn key(self, name: &str) -> Bytes {
        self.section().key(name.as_bytes())
    }

    /// The kind and the name that a full key stands for.
    pub fn parse(full: &Bytes) -> Option<(Self, String)> {
        let kind =
            [Self::Config, Self::Secret].into_iter().find(|kind| full.first() == Some(&(kind.section() as u8)))?;
        let name = kind.section().strip(full)?;
        Some((kind, std::str::from_utf8(&name).ok()?.to_owned()))
    }
}

/// What may be known of a config or a secret without its data.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ObjectRecord {
    /// Ascending by key, each key once.
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    /// Bytes of the data.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// The one in whose place this one was made; empty: none.
    #[prost(string, tag = "3")]
    pub succeeds: String,
    /// When it was made, by the clock of the manager that took it, milliseconds since 1970; for people.
    #[prost(uint64, tag = "4")]
    pub created_ms: u64,
    /// The data of a config.
    #[prost(bytes = "bytes", tag = "5")]
    pub data: Bytes,
}

impl ObjectRecord {
    /// Reads the record of either kind; the data of a secret stays where it is.
    ///
    /// # Errors
    /// It is none.
    pub fn read(kind: ObjectKind, value: &Bytes) -> Result<Self, prost::DecodeError> {
        match kind {
            ObjectKind::Config => Self::decode(value.clone()),
            ObjectKind::Secret => Self::decode(SealedRecord::decode(value.clone())?.clear),
        }
    }
}

/// Whether a secret or a config can be called so: 1 to 128 letters, digits, `.`, `_` and `-` (it may become the name of a file),
/// the first one a letter or a digit.
pub fn is_object_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=OBJECT_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(fits)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// Checks the name.
///
/// # Errors
/// `Malformed`, `Limit`.
pub fn check_name(kind: ObjectKind, name: &str) -> Result<(), Refusal> {
    within(|| format!("the name of the {}", kind.word()), "OBJECT_NAME_BYTES_MAX", OBJECT_NAME_BYTES_MAX, name.len())?;
    if is_object_name(name) {
        return Ok(());
    }
    let what = format!(
        "the name of a {} has 1 to {OBJECT_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, the first one a letter or a digit",
        kind.word()
    );
    Err(Refusal::Malformed { what })
}

/// Checks the size of the data.
///
/// # Errors
/// `Limit`.
pub fn check_data(kind: ObjectKind, bytes: usize) -> Result<(), Refusal> {
    within(|| format!("the data of the {}", kind.word()), "OBJECT_BYTES_MAX", OBJECT_BYTES_MAX, bytes)
}

/// Refuses what is over a limit, by the limit's name.
fn within(what: impl FnOnce() -> String, limit: &'static str, max: usize, actual: usize) -> Result<(), Refusal> {
    if actual <= max {
        return Ok(());
    }
    Err(Refusal::Limit { what: what(), limit, max: max as u64, actual: actual as u64 })
}

/// Checks labels.
///
/// # Errors
/// `Malformed`, `Limit`.
pub fn check_labels(labels: &[Label]) -> Result<(), Refusal> {
    let unfit = |label: &Label| {
        label.key.is_empty() || label.key.contains('=') || label.key.chars().chain(label.value.chars()).any(hides)
    };
    if labels.iter().any(unfit) {
        let what = "a label has a key without `=`, and no control characters or others that cannot be seen".to_owned();
        return Err(Refusal::Malformed { what });
    }
    let actual: usize = labels.iter().map(|label| label.key.len() + label.value.len() + 8).sum();
    within(|| "the set of labels".to_owned(), "OBJECT_LABEL_BYTES_MAX", OBJECT_LABEL_BYTES_MAX, actual)
}

/// One item refers to one secret or config. In the state it is a key without a value in [`Section::Reference`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// To which kind.
    pub kind: ObjectKind,
    /// To which one.
    pub name: String,
    /// Whose item.
    pub node: NodeId,
    /// The item.
    pub item: Bytes,
}

impl Reference {
    /// Where it lies.
    pub fn key(&self) -> Bytes {
        let (prefix, _) = Self::range(self.kind, &self.name);
        let mut key = BytesMut::with_capacity(prefix.len() + 16 + self.item.len());
        key.put_slice(&prefix);
        key.put_slice(self.node.as_bytes());
        key.put_slice(&self.item);
        key.freeze()
    }

    /// All references to one secret or config. A zero byte ends the name, which has none.
    pub fn range(kind: ObjectKind, name: &str) -> (Bytes, Bytes) {
        let mut from = BytesMut::with_capacity(3 + name.len());
        from.put_u8(Section::Reference as u8);
        from.put_u8(kind.section() as u8);
        from.put_slice(name.as_bytes());
        from.put_u8(0);
        let from = from.freeze();
        let to = prefix_end(&from);
        (from, to)
    }

    /// The node and the item of a key of one reference to this secret or config.
    pub fn user(kind: ObjectKind, name: &str, full: &Bytes) -> Option<(NodeId, Bytes)> {
        let rest = full.strip_prefix(&Self::range(kind, name).0[..])?;
        let (node, item) = rest.split_at_checked(16)?;
        Some((NodeId::from_slice(node)?, Bytes::copy_from_slice(item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_file_can_have() {
        for name in ["a", "db-password", "A.b_c-9", &"x".repeat(OBJECT_NAME_BYTES_MAX)] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", ".hidden", "-x", "a/b", "a b", "a\0", "..", "ä", &"x".repeat(OBJECT_NAME_BYTES_MAX + 1)] {
            assert!(!is_object_name(name), "{name}");
        }
    }

    #[test]
    fn each_limit_is_told_by_its_name_and_holds_from_both_sides() {
        let over = |checked: Result<(), Refusal>, name: &str, most: usize| {
            let Err(Refusal::Limit { limit, max, actual, .. }) = checked else { panic!("{name}: {checked:?}") };
            assert_eq!((limit, max, actual), (name, most as u64, most as u64 + 1));
        };
        let kind = ObjectKind::Secret;
        assert_eq!(check_name(kind, &"x".repeat(OBJECT_NAME_BYTES_MAX)), Ok(()));
        let long = "x".repeat(OBJECT_NAME_BYTES_MAX + 1);
        over(check_name(kind, &long), "OBJECT_NAME_BYTES_MAX", OBJECT_NAME_BYTES_MAX);
        assert_eq!(check_data(kind, OBJECT_BYTES_MAX), Ok(()));
        over(check_data(kind, OBJECT_BYTES_MAX + 1), "OBJECT_BYTES_MAX", OBJECT_BYTES_MAX);
        // Of two labels, each with 8 bytes besides
        let labels = |bytes: usize| {
            let label = |key: &str, value: usize| Label { key: key.into(), value: "v".repeat(value) };
            [label("a", 100), label("b", bytes - 100 - 2 - 16)]
        };
        assert_eq!(check_labels(&labels(OBJECT_LABEL_BYTES_MAX)), Ok(()));
        let checked = check_labels(&labels(OBJECT_LABEL_BYTES_MAX + 1));
        over(checked, "OBJECT_LABEL_BYTES_MAX", OBJECT_LABEL_BYTES_MAX);
    }

    #[test]
    fn references_to_one_name_lie_together_and_those_to_a_longer_one_elsewhere() {
        let node = NodeId::from_bytes([7; 16]);
        let of = |name: &str| Reference { kind: ObjectKind::Secret, name: name.into(), node, item: "web".into() };
        let (from, to) = Reference::range(ObjectKind::Secret, "db");
        assert!((from.clone()..to.clone()).contains(&of("db").key()));
        for other in ["db-2", "d", "dc"] {
            assert!(!(from.clone()..to.clone()).contains(&of(other).key()), "{other}");
        }
        assert_eq!(Reference::user(ObjectKind::Secret, "db", &of("db").key()), Some((node, "web".into())));
        assert_eq!(Reference::user(ObjectKind::Config, "db", &of("db").key()), None);
    }
}
