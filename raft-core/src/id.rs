//! Names of things: nodes, clusters, stores, log positions, requests.
//!
//! Owns the newtypes that keep one kind of number from being passed as another, and their printed form.
//! Never makes an id: random bits come in as arguments. Called by everything.

use crate::mutants::{Mutant, on};
use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};

/// Base32, lower case, no padding: the printed form of every random id.
fn base32() -> &'static Encoding {
    use std::sync::OnceLock;
    static ENCODING: OnceLock<Encoding> = OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().unwrap_or(data_encoding::BASE32_NOPAD_NOCASE)
    })
}

/// A text that is not the printed form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected 26 characters of base32 (a-z, 2-7)")]
pub struct ParseIdError {
    /// What was expected, in words.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 128 random bits drawn by the caller.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The raw 128 bits.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Reads the raw form back; `None` unless it is exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32().encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                base32()
                    .decode(text.to_ascii_lowercase().as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError { kind: $kind, text: text.to_owned() })
            }
        }
    };
}

random_id!(
    /// One process with one identity in the cluster. Dies with the disk it was made on.
    NodeId,
    "node id"
);
random_id!(
    /// The cluster, for its whole life: it outlives every incarnation.
    ClusterId,
    "cluster id"
);
random_id!(
    /// Made with a node's store and bound to its raft id: a known raft id that comes with another store id was wiped.
    StoreId,
    "store id"
);
random_id!(
    /// One incarnation of the cluster.
    LineageId,
    "lineage id"
);
random_id!(
    /// The client half of a request id.
    ClientId,
    "client id"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl $name {
            /// The number after this one.
            ///
            /// # Panics
            /// Never in practice: 2^64 steps do not happen.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The number before this one; zero stays zero.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }
    };
}

counter!(
    /// A manager's number in the Raft configuration, from a replicated counter; never reused. Zero is nobody.
    RaftId
);
counter!(
    /// A Raft term; also the fencing token of the leadership that it names.
    Term
);
counter!(
    /// A position in the replicated log; the first entry is 1.
    LogIndex
);
counter!(
    /// A lease that keys are attached to, from a replicated counter; never given out twice. Zero is none.
    LeaseId
);
counter!(
    /// The store's one global counter: every transaction that changes something gets exactly one.
    Revision
);

/// The incarnations of a cluster in order; one id is appended at every force-new-cluster and restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage(pub Vec<LineageId>);

/// How two lineages relate (design section 6, point 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineageOrder {
    /// The same incarnation: talk.
    Equal,
    /// Ours is a proper prefix of theirs: we are the old incarnation.
    Older,
    /// Theirs is a proper prefix of ours: they are the old incarnation.
    Newer,
    /// Neither is a prefix of the other: two recoveries of one cluster.
    Forked,
}

impl Lineage {
    /// The lineage's length, as people count it.
    pub const fn generation(&self) -> u64 {
        self.0.len() as u64
    }

    /// The incarnation that is current; `None` only for an unfounded node.
    pub fn current(&self) -> Option<LineageId> {
        self.0.last().copied()
    }

    /// Compares this lineage (ours) with another (theirs).
    pub fn compare(&self, theirs: &Self) -> LineageOrder {
        if on(Mutant::NoLineage) {
            return LineageOrder::Equal;
        }
        let shared = self.0.len().min(theirs.0.len());
        if self.0[..shared] != theirs.0[..shared] && !on(Mutant::IncarnationIsACounter) {
            return LineageOrder::Forked;
        }
        match self.0.len().cmp(&theirs.0.len()) {
            std::cmp::Ordering::Equal => LineageOrder::Equal,
            std::cmp::Ordering::Less => LineageOrder::Older,
            std::cmp::Ordering::Greater => LineageOrder::Newer,
        }
    }

    /// The ids one after the other, 16 bytes each.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|id| *id.as_bytes()).collect()
    }

    /// Reads [`Lineage::to_bytes`] back; `None` when the length is no multiple of 16.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(16) {
            return None;
        }
        bytes.chunks(16).map(LineageId::from_slice).collect::<Option<Vec<_>>>().map(Self)
    }
}

/// A raft id as it was given out: to which store, and in which incarnation of the cluster. A manager's certificate says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enrolled {
    /// The raft id.
    pub raft_id: RaftId,
    /// The store that it is bound to.
    pub store_id: StoreId,
    /// The incarnation that gave it out.
    pub lineage: LineageId,
}

/// Three words: raft id, incarnation, store.
impl fmt::Display for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.raft_id, self.lineage, self.store_id)
    }
}

impl Enrolled {
    /// Reads the printed form back; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (raft_id, lineage, store_id) = (words.next()?, words.next()?, words.next()?);
        let read = Self {
            raft_id: RaftId(raft_id.parse().ok()?),
            store_id: store_id.parse().ok()?,
            lineage: lineage.parse().ok()?,
        };
        // One form for each: nothing after it, no sign, no leading zero.
        (read.to_string() == text).then_some(read)
    }
}

/// What makes a retried request recognisable: the client, and its own count of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    /// Who asks.
    pub client: ClientId,
    /// The client's count, from 1.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_printed_form() {
        let id = NodeId::from_bytes([7; 16]);
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse::<NodeId>(), Ok(id));
        assert_eq!(text.to_uppercase().parse::<NodeId>(), Ok(id));
    }

    #[test]
    fn a_raft_id_as_it_was_given_out_survives_its_printed_form() {
        let (store_id, lineage) = (StoreId::from_bytes([1; 16]), LineageId::from_bytes([2; 16]));
        let enrolled = Enrolled { raft_id: RaftId(12), store_id, lineage };
        assert_eq!(Enrolled::parse(&enrolled.to_string()), Some(enrolled));
        for other in ["", "12", &format!("0{enrolled}"), &format!("+{enrolled}"), &format!("{enrolled} x")] {
            assert_eq!(Enrolled::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_wrong_text_names_what_was_expected() {
        let error = "nonsense!".parse::<ClusterId>().unwrap_err();
        assert!(error.to_string().contains("not a cluster id"), "{error}");
    }

    #[test]
    fn lineages_compare_as_prefixes() {
        let id = |n| LineageId::from_bytes([n; 16]);
        let one = Lineage(vec![id(1)]);
        let two = Lineage(vec![id(1), id(2)]);
        let fork = Lineage(vec![id(1), id(3)]);
        assert_eq!(one.compare(&one), LineageOrder::Equal);
        assert_eq!(one.compare(&two), LineageOrder::Older);
        assert_eq!(two.compare(&one), LineageOrder::Newer);
        assert_eq!(two.compare(&fork), LineageOrder::Forked);
        assert_eq!(Lineage::from_slice(&two.to_bytes()), Some(two));
        assert_eq!(Lineage::from_slice(&[0; 17]), None);
    }
}
