//! What nodes are to run, how they say it goes, and whether they are there: the records beside a node's own.
//!
//! Owns their keys and encoding; field numbers are for ever. An item's payload and a status are opaque. Called by
//! the managers' handlers, and by whoever removes a node, which takes all of them with it.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::id::{Lineage, LineageOrder, NodeId};
use crate::keyspace::{Section, prefix_end};
use crate::mutants::{Mutant, on};
use crate::txn::{Delete, Op};

pub use crate::limits::{
    ITEM_BYTES_MAX, ITEM_ID_BYTES_MAX, ITEM_REFERENCES_MAX, ITEMS_MAX, REPORT_BYTES_MAX, STATUS_BYTES_MAX,
};

/// One item of work, under its node and its id in [`Section::Assignment`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct AssignmentRecord {
    /// What the orchestrator wrote; opaque.
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
    /// Secrets it refers to, by name.
    #[prost(string, repeated, tag = "2")]
    pub secrets: Vec<String>,
    /// Configs it refers to, by name.
    #[prost(string, repeated, tag = "3")]
    pub configs: Vec<String>,
}

/// Whether `id` can name an item.
pub fn is_item_id(id: &[u8]) -> bool {
    (1..=ITEM_ID_BYTES_MAX).contains(&id.len())
        && std::str::from_utf8(id).is_ok_and(|id| !id.chars().any(super::naming::hides))
}

impl AssignmentRecord {
    /// Where the item `item` of `node` lives.
    pub fn key(node: NodeId, item: &str) -> Bytes {
        let mut key = BytesMut::with_capacity(1 + 16 + item.len());
        key.put_u8(Section::Assignment as u8);
        key.put_slice(node.as_bytes());
        key.put_slice(item.as_bytes());
        key.freeze()
    }

    /// The range of all items of `node`.
    pub fn range(node: NodeId) -> (Bytes, Bytes) {
        let from = Section::Assignment.key(node.as_bytes());
        let to = prefix_end(&from);
        (from, to)
    }

    /// Where it is kept how many items `node` has, for as long as it has any: 8 bytes, big endian. Beside the references of its items,
    /// none of which begins so.
    pub fn count_key(node: NodeId) -> Bytes {
        let mut key = BytesMut::with_capacity(18);
        key.put_u8(Section::Reference as u8);
        key.put_u8(Section::Assignment as u8);
        key.put_slice(node.as_bytes());
        key.freeze()
    }

    /// The node and the item that a full key names; `None` when it is no key of an item.
    pub fn parse(full: &Bytes) -> Option<(NodeId, Bytes)> {
        let key = Section::Assignment.strip(full)?;
        let node = NodeId::from_slice(key.get(..16)?)?;
        Some((node, key.slice(16..)))
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Whether a worker takes a set of items told by an incarnation as of a revision of its state, given where the one stands that it
/// has: never anything older, nor what another recovery of the cluster says. A newer incarnation counts from wherever it stands.
pub fn takes(have: Option<(&Lineage, u64)>, told: (&Lineage, u64)) -> bool {
    let (Some((ours, at)), (theirs, revision)) = (have, told) else { return true };
    match ours.compare(theirs) {
        LineageOrder::Equal => revision >= at || on(Mutant::OlderSetTaken),
        LineageOrder::Older => true,
        LineageOrder::Newer | LineageOrder::Forked => false,
    }
}

/// Whether a worker is there, as the leader last wrote it. Whatever is not written is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Presence {
    /// It has a session with some manager.
    Ready = 1,
    /// It has had none for longer than the grace.
    Down = 2,
}

impl Presence {
    /// The word people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

/// Under a node's id in [`Section::Liveness`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LivenessRecord {
    /// A [`Presence`].
    #[prost(enumeration = "Presence", tag = "1")]
    pub presence: i32,
    /// When it changed by the clock of the leader that wrote it, milliseconds since 1970; for people.
    #[prost(uint64, tag = "2")]
    pub since_ms: u64,
}

impl LivenessRecord {
    /// Where the record of `node` lives.
    pub fn key(node: NodeId) -> Bytes {
        Section::Liveness.key(node.as_bytes())
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// What it says; `None` when a newer quorate wrote something else.
    pub fn state(&self) -> Option<Presence> {
        Presence::try_from(self.presence).ok()
    }
}

/// What a node says of its items, under its id in [`Section::Report`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReportRecord {
    /// Rises with every start of the node: with the sequence it orders what two managers were told.
    #[prost(uint64, tag = "1")]
    pub instance: u64,
    /// Within the instance, from 1.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Ascending by id, each once.
    #[prost(message, repeated, tag = "3")]
    pub items: Vec<ItemStatus>,
}

/// The status of one item.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ItemStatus {
    /// The item.
    #[prost(string, tag = "1")]
    pub id: String,
    /// What the node said; opaque.
    #[prost(bytes = "bytes", tag = "2")]
    pub status: Bytes,
}

impl ReportRecord {
    /// Where the report of `node` lives.
    pub fn key(node: NodeId) -> Bytes {
        Section::Report.key(node.as_bytes())
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Its place in the order of all reports of its node.
    pub const fn order(&self) -> (u64, u64) {
        (self.instance, self.sequence)
    }
}

/// The operations that take everything with them that is kept for a node beside its own record.
pub fn forget(node: NodeId) -> Vec<Op> {
    let (key, end) = AssignmentRecord::range(node);
    let one = |key: Bytes| Delete { key, ..Delete::default() }.into();
    vec![Delete { key, end, previous: false }.into(), one(LivenessRecord::key(node)), one(ReportRecord::key(node))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_found_by_its_key_and_by_its_nodes_range() {
        let node = NodeId::from_bytes([0xff; 16]);
        let key = AssignmentRecord::key(node, "web.1");
        assert_eq!(AssignmentRecord::parse(&key), Some((node, Bytes::from_static(b"web.1"))));
        let (from, to) = AssignmentRecord::range(node);
        assert!(from < key && key < to && to <= Section::Assignment.end());
        assert_eq!(AssignmentRecord::parse(&Section::Assignment.key(b"short")), None);
        assert_eq!(AssignmentRecord::parse(&Section::User.key(&[0; 20])), None);
    }

    #[test]
    fn an_item_has_a_name_that_people_can_read() {
        for good in ["a", "web.1", "größe", &"x".repeat(ITEM_ID_BYTES_MAX)] {
            assert!(is_item_id(good.as_bytes()), "{good}");
        }
        for bad in [&b""[..], b"a\nb", b"\xff", &[b'x'; ITEM_ID_BYTES_MAX + 1]] {
            assert!(!is_item_id(bad), "{bad:?}");
        }
    }
}
