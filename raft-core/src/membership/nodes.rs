//! Every node of the cluster, in a form of which one more version costs little: ten thousand workers join one by one.
//!
//! Owns two maps by node id whose copies share what did not change, and the short list of the nodes that seats are
//! decided from. Never reads or writes the state. Called by the applier, which keeps it up to date, and by everything that
//! decides from records.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::NodeId;
use crate::membership::record::{LABEL_MANAGER, NodeRecord, Role};

/// Node ids are random: their first byte spreads them evenly.
const BUCKETS: usize = 256;

/// A map by node id. A copy shares all buckets with its original; a change copies one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeMap<V> {
    buckets: Vec<Arc<BTreeMap<NodeId, V>>>,
    len: usize,
}

impl<V> Default for NodeMap<V> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { buckets: vec![empty; BUCKETS], len: 0 }
    }
}

impl<V: Clone> NodeMap<V> {
    fn bucket(id: NodeId) -> usize {
        usize::from(id.as_bytes()[0])
    }

    /// What is kept for this node.
    pub fn get(&self, id: NodeId) -> Option<&V> {
        self.buckets.get(Self::bucket(id))?.get(&id)
    }

    /// Everything, ascending by node id.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &V)> {
        self.buckets.iter().flat_map(|bucket| bucket.iter().map(|(id, value)| (*id, value)))
    }

    /// How many nodes there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds or replaces; answers what was there.
    pub fn set(&mut self, id: NodeId, value: V) -> Option<V> {
        let old = Arc::make_mut(self.buckets.get_mut(Self::bucket(id))?).insert(id, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes; answers what was there.
    pub fn remove(&mut self, id: NodeId) -> Option<V> {
        self.get(id)?;
        let old = Arc::make_mut(self.buckets.get_mut(Self::bucket(id))?).remove(&id);
        self.len -= usize::from(old.is_some());
        old
    }
}

impl<V: Clone> FromIterator<(NodeId, V)> for NodeMap<V> {
    fn from_iter<I: IntoIterator<Item = (NodeId, V)>>(nodes: I) -> Self {
        let mut map = Self::default();
        for (id, value) in nodes {
            map.set(id, value);
        }
        map
    }
}

/// The records of all nodes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Nodes {
    all: NodeMap<Arc<NodeRecord>>,
    /// Ascending by node id: whoever may hold a seat, now or soon. A handful beside ten thousand workers.
    members: Vec<Arc<NodeRecord>>,
}

/// Whether seats may have to do with this node: any manager, any node with a wish pending, any worker that may be promoted
/// by itself.
fn is_member(node: &NodeRecord) -> bool {
    node.role == i32::from(Role::Manager)
        || node.raft_id != 0
        || node.replaces != 0
        || node.removing
        || node.lost
        || node.stands_in
        || node.is_labelled(LABEL_MANAGER)
}

impl Nodes {
    /// The record of one node.
    pub fn get(&self, id: NodeId) -> Option<&NodeRecord> {
        self.all.get(id).map(AsRef::as_ref)
    }

    /// Every record, ascending by node id.
    pub fn iter(&self) -> impl Iterator<Item = &NodeRecord> {
        self.all.iter().map(|(_, node)| node.as_ref())
    }

    /// The records that seats may have to do with, ascending by node id: all managers, nodes with a wish pending, workers
    /// that may be promoted by themselves.
    pub fn members(&self) -> impl Iterator<Item = &NodeRecord> + Clone {
        self.members.iter().map(AsRef::as_ref)
    }

    /// One of [`members`](Self::members), by its place among them.
    pub fn member(&self, place: usize) -> Option<&NodeRecord> {
        self.members.get(place).map(AsRef::as_ref)
    }

    /// How many nodes there are.
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none: nothing has been founded, joined or installed yet.
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds or replaces a record. One without a whole node id is not taken: nothing could find it.
    pub fn set(&mut self, record: NodeRecord) {
        let Some(id) = record.node_id() else { return };
        self.leave_members(id);
        let record = Arc::new(record);
        if is_member(&record) {
            let at = self.members.partition_point(|other| other.node_id() < Some(id));
            self.members.insert(at, Arc::clone(&record));
        }
        self.all.set(id, record);
    }

    /// Removes a record.
    pub fn remove(&mut self, id: NodeId) {
        self.leave_members(id);
        self.all.remove(id);
    }

    fn leave_members(&mut self, id: NodeId) {
        if self.get(id).is_some_and(is_member) {
            self.members.retain(|node| node.node_id() != Some(id));
        }
    }
}

impl FromIterator<NodeRecord> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeRecord>>(records: I) -> Self {
        let mut nodes = Self::default();
        for record in records {
            nodes.set(record);
        }
        nodes
    }
}

impl From<Vec<NodeRecord>> for Nodes {
    fn from(records: Vec<NodeRecord>) -> Self {
        records.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Nodes {
    type Item = &'a NodeRecord;
    type IntoIter = Box<dyn Iterator<Item = &'a NodeRecord> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn record(first: u8, second: u8, role: Role) -> NodeRecord {
        let mut id = [0; 16];
        (id[0], id[1]) = (first, second);
        NodeRecord { id: Bytes::copy_from_slice(&id), role: role.into(), ..NodeRecord::default() }
    }

    proptest! {
        /// Whatever the order of changes, the map holds what a plain one would, and the members are those of it.
        #[test]
        fn changes_leave_what_a_plain_map_would_hold(changes in prop::collection::vec((0u8..4, 0u8..4, 0u8..4), 0..60)) {
            let mut nodes = Nodes::default();
            let mut plain = BTreeMap::new();
            let mut before = Vec::new();
            for (first, second, what) in changes {
                let mut changed = record(first, second, if what == 1 { Role::Manager } else { Role::Worker });
                changed.name = what.to_string();
                let id = changed.node_id().unwrap();
                before.push((nodes.clone(), plain.clone()));
                if what == 0 {
                    nodes.remove(id);
                    plain.remove(&id);
                } else {
                    nodes.set(changed.clone());
                    plain.insert(id, changed);
                }
            }
            before.push((nodes, plain));
            // Older copies too: what they share with newer ones was not changed under them.
            for (nodes, plain) in before {
                prop_assert_eq!(nodes.len(), plain.len());
                prop_assert!(nodes.iter().eq(plain.values()));
                prop_assert!(nodes.members().eq(plain.values().filter(|node| node.role == i32::from(Role::Manager))));
                prop_assert_eq!(&nodes, &plain.into_values().collect::<Nodes>());
            }
        }
    }

    #[test]
    fn a_worker_is_a_member_only_while_seats_may_have_to_do_with_it() {
        let mut worker = record(1, 1, Role::Worker);
        let seen = |worker: &NodeRecord| Nodes::from(vec![worker.clone()]).members().count();
        assert_eq!(seen(&worker), 0);
        worker.set_label(LABEL_MANAGER.0, Some(LABEL_MANAGER.1.to_owned()));
        assert_eq!(seen(&worker), 1);
        worker.set_label(LABEL_MANAGER.0, None);
        worker.raft_id = 7;
        assert_eq!(seen(&worker), 1);
    }
}
