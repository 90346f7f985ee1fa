//! What the leader writes into the records itself, so that they follow what the configuration has become.
//!
//! Owns the changes that follow from a wish once the seats have changed: raft ids burnt, records deleted, marks cleared;
//! and a worker promoted or taken back. Pure: each change is a transaction that holds only while the record still is
//! what it was, so that a late one, or one of two leaders, does nothing.

use std::fmt;

use bytes::Bytes;

use crate::id::{NodeId, RaftId};
use crate::keyspace::Section;
use crate::log::Configuration;
use crate::membership::record::{NodeRecord, Role};
use crate::membership::removed::{self, Gone};
use crate::membership::work::AssignmentRecord;
use crate::state::read::removed_key;
use crate::txn::{Compare, Delete, Op, Operand, Put, Relation, Txn};

/// Why a record is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// A demoted manager is no member any more: a worker, its raft id burnt.
    Demoted,
    /// A removed node is no member any more: it has no record, its raft id is burnt.
    Removed,
    /// What it replaced is no member any more, and who stood in has a seat: neither needs a mark.
    Done,
    /// A worker is promoted for a seat that nobody else can take.
    StandsIn,
    /// It did not catch up in time.
    TakenBack,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demoted => "demoted: it is a worker now",
            Self::Removed => "removed",
            Self::Done => "its seat is in order",
            Self::StandsIn => "promoted for a seat that nobody else can take",
            Self::TakenBack => "taken back: it did not catch up in time",
        })
    }
}

/// One change of one node's record.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordChange {
    /// Whose.
    pub node: NodeId,
    /// Why.
    pub why: Settled,
    /// Void unless the record is what it was.
    pub txn: Txn,
}

/// What has to be written into the records now that this configuration is in force; nothing when they fit it. Not for a
/// joint configuration, and not while a change of it is on its way.
pub fn settle<'a>(
    nodes: impl IntoIterator<Item = &'a NodeRecord>,
    configuration: &Configuration,
) -> impl Iterator<Item = RecordChange> {
    nodes.into_iter().filter_map(|node| settle_one(node, configuration))
}

fn settle_one(node: &NodeRecord, configuration: &Configuration) -> Option<RecordChange> {
    let member = node.raft().is_some_and(|id| configuration.contains(id));
    if node.removing && !member {
        return remove(node);
    }
    if node.lost {
        return None;
    }
    let is_worker = node.role == i32::from(Role::Worker);
    if is_worker && node.raft_id != 0 && !member {
        return change(node, Settled::Demoted, &node.without_raft_id(), node.raft());
    }
    let replaced = node.replaces != 0 && !configuration.contains(RaftId(node.replaces));
    let seated = node.stands_in && node.raft().is_some_and(|id| configuration.voters.contains(&id));
    if replaced || seated {
        let record = NodeRecord {
            replaces: if replaced { 0 } else { node.replaces },
            stands_in: node.stands_in && !seated,
            ..node.clone()
        };
        return change(node, Settled::Done, &record, None);
    }
    None
}

/// Promotes an eligible worker for a seat that nobody else can take.
pub fn promote(node: &NodeRecord) -> Option<RecordChange> {
    let record = NodeRecord { role: Role::Manager.into(), stands_in: true, forced: false, ..node.clone() };
    change(node, Settled::StandsIn, &record, None)
}

/// Takes a promoted worker back.
pub fn take_back(node: &NodeRecord) -> Option<RecordChange> {
    let record = NodeRecord { role: Role::Worker.into(), stands_in: false, ..node.clone() };
    change(node, Settled::TakenBack, &record, None)
}

fn unchanged(node: &NodeRecord, id: NodeId) -> Compare {
    Compare::new(NodeRecord::key(id), Relation::Equal, Operand::Value(node.to_bytes()))
}

fn burn(id: RaftId, mark: Bytes) -> Op {
    Put { key: removed_key(id), value: mark, ..Put::default() }.into()
}

fn change(node: &NodeRecord, why: Settled, record: &NodeRecord, burnt: Option<RaftId>) -> Option<RecordChange> {
    let id = node.node_id()?;
    let put = Put { key: NodeRecord::key(id), value: record.to_bytes(), ..Put::default() }.into();
    let burn = burnt.map(|raft_id| burn(raft_id, removed::mark(Gone::Demoted, id)));
    let then = std::iter::once(put).chain(burn).collect();
    Some(RecordChange { node: id, why, txn: Txn { compares: vec![unchanged(node, id)], then, ..Txn::default() } })
}

/// The record goes, with everything that is said of the node elsewhere.
fn remove(node: &NodeRecord) -> Option<RecordChange> {
    let id = node.node_id()?;
    let sections = [Section::Node, Section::Liveness, Section::Report];
    let deletes = sections.map(|section| Delete { key: section.key(id.as_bytes()), ..Delete::default() }.into());
    // What its items refer to must not be in use for ever.
    let (key, end) = AssignmentRecord::range(id);
    let deletes = deletes.into_iter().chain([Delete { key, end, previous: false }.into()]);
    let burn = node.raft().map(|raft_id| burn(raft_id, removed::mark(Gone::Removed, id)));
    let then = deletes.into_iter().chain(burn).collect();
    let txn = Txn { compares: vec![unchanged(node, id)], then, ..Txn::default() };
    Some(RecordChange { node: id, why: Settled::Removed, txn })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(node: u8, raft_id: u64) -> NodeRecord {
        NodeRecord {
            id: Bytes::copy_from_slice(&[node; 16]),
            role: Role::Manager.into(),
            raft_id,
            store_id: Bytes::from_static(&[9; 16]),
            ..NodeRecord::default()
        }
    }

    fn settled(node: &NodeRecord, members: &[u64]) -> Option<(Settled, Txn)> {
        let configuration = Configuration {
            voters: members.iter().copied().map(RaftId).take(1).collect(),
            learners: members.iter().copied().map(RaftId).skip(1).collect(),
            ..Configuration::default()
        };
        settle([node], &configuration).next().map(|change| (change.why, change.txn))
    }

    #[test]
    fn a_demoted_manager_becomes_a_worker_once_it_is_no_member() {
        let node = NodeRecord { role: Role::Worker.into(), forced: true, stands_in: true, ..manager(2, 2) };
        // Given it is still a member, nothing is written
        assert_eq!(settled(&node, &[1, 2]), None);
        // When it is none, its raft id is burnt in the transaction that takes it from the record
        let (why, txn) = settled(&node, &[1]).unwrap();
        assert_eq!(why, Settled::Demoted);
        let record = NodeRecord { role: Role::Worker.into(), raft_id: 0, store_id: Bytes::new(), ..manager(2, 0) };
        let expected: [Op; 2] = [
            Put { key: NodeRecord::key(node.node_id().unwrap()), value: record.to_bytes(), ..Put::default() }.into(),
            burn(RaftId(2), removed::mark(Gone::Demoted, node.node_id().unwrap())),
        ];
        assert_eq!(txn.then, expected);
        assert_eq!(txn.compares, [unchanged(&node, node.node_id().unwrap())]);
        // And what is in order stays as it is
        assert_eq!(settled(&record, &[1]), None);
        assert_eq!(settled(&manager(2, 2), &[1]), None, "it is about to become a member");
    }

    #[test]
    fn a_removed_node_leaves_nothing_behind_but_its_burnt_raft_id() {
        let node = NodeRecord { removing: true, ..manager(2, 7) };
        assert_eq!(settled(&node, &[1, 7]), None);
        let (why, txn) = settled(&node, &[1]).unwrap();
        assert_eq!((why, txn.then.len()), (Settled::Removed, 5));
        assert_eq!(txn.then.last(), Some(&burn(RaftId(7), removed::mark(Gone::Removed, node.node_id().unwrap()))));
        // A worker has none to burn
        let worker = NodeRecord { role: Role::Worker.into(), raft_id: 0, ..node };
        assert_eq!(settled(&worker, &[1]).map(|(why, txn)| (why, txn.then.len())), Some((Settled::Removed, 4)));
    }

    #[test]
    fn marks_go_when_they_have_served() {
        let node = NodeRecord { replaces: 3, stands_in: true, ..manager(2, 4) };
        assert_eq!(settled(&node, &[1, 3, 4]), None);
        let value = |(why, txn): (Settled, Txn)| {
            let Some(crate::txn::OpKind::Put(put)) = txn.then[0].kind.clone() else { panic!("no put") };
            (why, <NodeRecord as prost::Message>::decode(put.value).unwrap())
        };
        let replaced = settled(&node, &[1, 4]).map(value);
        assert_eq!(replaced, Some((Settled::Done, NodeRecord { replaces: 0, ..node.clone() })));
        let seated = settled(&node, &[4, 3]).map(value);
        assert_eq!(seated, Some((Settled::Done, NodeRecord { stands_in: false, ..node })));
    }
}
