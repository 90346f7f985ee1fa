//! What a transaction over assignments may hold, before it meets any state.
//!
//! Owns the one border between an orchestrator's transaction and the records: it names items of work and user keys, and
//! nothing else can be reached through it. Its keys carry the byte of their section. Never reads state. Called by the
//! client before it sends, and by the manager before it proposes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use crate::id::NodeId;
use crate::keyspace::Section;
use crate::membership::work::{AssignmentRecord, ITEM_BYTES_MAX, ITEM_ID_BYTES_MAX, ITEM_REFERENCES_MAX, is_item_id};
use crate::state::contract::Refusal;
use crate::txn::{Op, OpKind, Range, Txn};

/// The nodes that a transaction gives items to.
pub type Given = BTreeSet<NodeId>;

fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::Malformed { what: what.into() }
}

fn over(what: &str, limit: &'static str, max: usize, actual: usize) -> Refusal {
    Refusal::Limit { what: what.to_owned(), limit, max: max as u64, actual: actual as u64 }
}

fn is_user(key: &Bytes) -> bool {
    key.first() == Some(&(Section::User as u8)) && key.len() > 1
}

/// The node of an item's key.
fn item(key: &Bytes) -> Result<NodeId, Refusal> {
    match AssignmentRecord::parse(key) {
        Some((node, id)) if is_item_id(&id) => Ok(node),
        Some((_, id)) if id.len() > ITEM_ID_BYTES_MAX => {
            Err(over("the id of an item", "ITEM_ID_BYTES_MAX", ITEM_ID_BYTES_MAX, id.len()))
        }
        Some(_) => Err(malformed("the id of an item must have 1 to 255 bytes of text without control characters")),
        None => Err(malformed("a key that is neither a user's nor one of an item of work")),
    }
}

/// Checks that every key is a user's or an item's, and every item one that can be told to a worker.
///
/// # Errors
/// The refusal, with what is wrong.
pub fn check(txn: &Txn) -> Result<Given, Refusal> {
    let mut given = Given::new();
    for compare in &txn.compares {
        if !is_user(&compare.key) {
            item(&compare.key)?;
        }
    }
    for op in txn.then.iter().chain(&txn.or_else) {
        check_op(op, &mut given)?;
    }
    Ok(given)
}

fn check_op(op: &Op, given: &mut Given) -> Result<(), Refusal> {
    match &op.kind {
        Some(OpKind::Put(put)) if is_user(&put.key) => Ok(()),
        Some(OpKind::Put(put)) => {
            let node = item(&put.key)?;
            check_record(&put.value)?;
            given.insert(node);
            Ok(())
        }
        Some(OpKind::Delete(delete)) if is_user(&delete.key) => check_user_end(&delete.end),
        Some(OpKind::Delete(delete)) if delete.end.is_empty() => item(&delete.key).map(|_| ()),
        Some(OpKind::Delete(delete)) => {
            // All items of one node, and no other range.
            let node = Section::Assignment.strip(&delete.key).and_then(|id| NodeId::from_slice(&id));
            let whole = node.map(AssignmentRecord::range) == Some((delete.key.clone(), delete.end.clone()));
            if whole { Ok(()) } else { Err(malformed("a range of items that is not all of one node")) }
        }
        Some(OpKind::Range(Range { key, end, .. })) if is_user(key) => check_user_end(end),
        Some(OpKind::Range(_)) => Err(malformed("items are not read in a transaction")),
        None => Err(malformed("operation of no known kind")),
    }
}

/// The end of a range of user keys lies among them, too.
fn check_user_end(end: &Bytes) -> Result<(), Refusal> {
    if end.is_empty() || is_user(end) { Ok(()) } else { Err(malformed("a range that leaves the user keys")) }
}

fn check_record(value: &Bytes) -> Result<(), Refusal> {
    let record =
        AssignmentRecord::decode(value.clone()).map_err(|error| malformed(format!("no item of work: {error}")))?;
    if record.payload.len() > ITEM_BYTES_MAX {
        return Err(over("the item's payload", "ITEM_BYTES_MAX", ITEM_BYTES_MAX, record.payload.len()));
    }
    let references = record.secrets.len() + record.configs.len();
    if references > ITEM_REFERENCES_MAX {
        return Err(over(
            "the item's list of secrets and configs",
            "ITEM_REFERENCES_MAX",
            ITEM_REFERENCES_MAX,
            references,
        ));
    }
    let named = record.secrets.iter().chain(&record.configs).all(|name| is_item_id(name.as_bytes()));
    if named { Ok(()) } else { Err(malformed("the name of a secret or config must have 1 to 255 bytes of text")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::record::{ClusterRecord, NodeRecord};
    use crate::state::read;
    use crate::txn::{Compare, Delete, Put};

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    fn put(key: Bytes, value: Bytes) -> Op {
        Put { key, value, ..Put::default() }.into()
    }

    fn record(payload: usize) -> Bytes {
        AssignmentRecord { payload: vec![0; payload].into(), ..AssignmentRecord::default() }.to_bytes()
    }

    fn one(op: impl Into<Op>) -> Result<Given, Refusal> {
        check(&Txn::of(op))
    }

    #[test]
    fn items_and_user_keys_are_taken_together() {
        let (key, end) = AssignmentRecord::range(node(2));
        let txn = Txn {
            compares: vec![
                Compare::absent(AssignmentRecord::key(node(1), "a")),
                Compare::absent(Section::User.key(b"app")),
            ],
            then: vec![
                put(AssignmentRecord::key(node(1), "a"), record(10)),
                put(AssignmentRecord::key(node(1), "b"), record(10)),
                Delete { key: AssignmentRecord::key(node(3), "a"), ..Delete::default() }.into(),
                Delete { key, end, previous: false }.into(),
                put(Section::User.key(b"app"), Bytes::from_static(b"v")),
                Range { key: Section::User.key(b"app"), ..Range::default() }.into(),
            ],
            ..Txn::default()
        };
        assert_eq!(check(&txn), Ok([node(1)].into()));
    }

    #[test]
    fn no_other_record_can_be_reached() {
        let others = [
            NodeRecord::key(node(1)),
            ClusterRecord::key(),
            read::removed_key(crate::id::RaftId(1)),
            Section::Identity.key(b"ca"),
            Section::Liveness.key(node(1).as_bytes()),
            Section::Report.key(node(1).as_bytes()),
            Section::Assignment.key(b"short"),
            Section::User.key(b""),
            Bytes::new(),
        ];
        for key in others {
            assert!(one(put(key.clone(), record(1))).is_err(), "{key:?}");
            assert!(one(Delete { key: key.clone(), ..Delete::default() }).is_err(), "{key:?}");
            assert!(one(Range { key: key.clone(), ..Range::default() }).is_err(), "{key:?}");
            assert!(check(&Txn { compares: vec![Compare::absent(key.clone())], ..Txn::default() }).is_err(), "{key:?}");
        }
        // Nor by a range that begins where it may.
        let end = Bytes::from_static(b"\xff");
        for key in [Section::User.key(b"a"), AssignmentRecord::key(node(1), "a"), AssignmentRecord::range(node(1)).0] {
            assert!(one(Delete { key: key.clone(), end: end.clone(), previous: false }).is_err(), "{key:?}");
            assert!(one(Range { key, end: end.clone(), ..Range::default() }).is_err());
        }
    }

    #[test]
    fn what_no_worker_could_be_told_is_refused() {
        let key = AssignmentRecord::key(node(1), "a");
        let over = |refused: Result<Given, Refusal>, name: &str, most: usize| {
            let Err(Refusal::Limit { limit, max, actual, .. }) = refused else { panic!("{name}: {refused:?}") };
            assert_eq!((limit, max, actual), (name, most as u64, most as u64 + 1));
        };
        assert!(one(put(key.clone(), record(ITEM_BYTES_MAX))).is_ok());
        over(one(put(key.clone(), record(ITEM_BYTES_MAX + 1))), "ITEM_BYTES_MAX", ITEM_BYTES_MAX);
        let named = |bytes: usize| put(AssignmentRecord::key(node(1), &"x".repeat(bytes)), record(1));
        assert!(one(named(ITEM_ID_BYTES_MAX)).is_ok());
        over(one(named(ITEM_ID_BYTES_MAX + 1)), "ITEM_ID_BYTES_MAX", ITEM_ID_BYTES_MAX);
        assert!(one(put(key.clone(), Bytes::from_static(b"\xff\xff"))).is_err());
        assert!(one(put(AssignmentRecord::key(node(1), "a\n"), record(1))).is_err());
        // Secrets and configs count together
        let many = |secrets: usize| {
            let record = AssignmentRecord {
                secrets: vec!["s".into(); secrets],
                configs: vec!["c".into()],
                ..AssignmentRecord::default()
            };
            one(put(key.clone(), record.to_bytes()))
        };
        assert!(many(ITEM_REFERENCES_MAX - 1).is_ok());
        over(many(ITEM_REFERENCES_MAX), "ITEM_REFERENCES_MAX", ITEM_REFERENCES_MAX);
        let nameless = AssignmentRecord { configs: vec![String::new()], ..AssignmentRecord::default() };
        assert!(one(put(key, nameless.to_bytes())).is_err());
    }
}
