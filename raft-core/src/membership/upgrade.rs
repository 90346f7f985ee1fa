//! The rolling upgrade: which cluster versions a build supports, who may take part, and when the cluster's version rises.
//!
//! Owns three judgements (design section 4, rule 12): whether a build fits a cluster, what holds an upgrade back, and what
//! finishing it writes. Pure: what is written is void unless every record it was judged by still says the same. Called by
//! the managers' gate and handlers, and by the simulator.

use crate::command::{COMMAND_VERSION, COMMAND_VERSION_MIN};
use crate::id::NodeId;
use crate::membership::nodes::Nodes;
use crate::membership::record::{ClusterRecord, NodeRecord};
use crate::txn::{Compare, Operand, Put, Relation, Txn};

/// The cluster versions that a build supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// The oldest.
    pub oldest: u32,
    /// The newest; 0: it cannot be a manager.
    pub newest: u32,
}

/// Why a build may not take part in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The upgrade beyond what it knows was finished.
    #[error(
        "the cluster is at version {cluster} since `quorate upgrade finish`, and this node's program knows versions up to {newest} only: install the newer quorate on this node. Nothing on it was harmed"
    )]
    TooOld {
        /// The cluster's version.
        cluster: u32,
        /// The newest that the build supports.
        newest: u32,
    },
    /// It has left versions as old as the cluster's behind.
    #[error(
        "the cluster is at version {cluster}, and this node's program begins at version {oldest}: run an older quorate on this node, finish the upgrade to version {oldest} with it (`quorate upgrade finish`), and install this one then. Nothing on it was harmed"
    )]
    TooNew {
        /// The cluster's version.
        cluster: u32,
        /// The oldest that the build supports.
        oldest: u32,
    },
}

impl Support {
    /// Of this build.
    pub const THIS: Self = Self { oldest: COMMAND_VERSION_MIN, newest: COMMAND_VERSION };

    /// What a node has reported.
    pub const fn of(node: &NodeRecord) -> Self {
        Self { oldest: node.command_version_min, newest: node.command_version }
    }

    /// Whether a build with this support may be a manager of a cluster that is at `cluster`.
    ///
    /// # Errors
    /// Why not, with what to do.
    pub const fn check(self, cluster: u32) -> Result<(), Unfit> {
        if self.newest < cluster {
            return Err(Unfit::TooOld { cluster, newest: self.newest });
        }
        // A node that knows of no cluster version yet has nothing to judge by.
        if cluster != 0 && self.oldest > cluster {
            return Err(Unfit::TooNew { cluster, oldest: self.oldest });
        }
        Ok(())
    }
}

/// Whether a node counts: every manager that has a raft id, also one that is absent or on its way out; not one that a
/// recovery has left behind.
pub const fn counts(node: &NodeRecord) -> bool {
    node.raft_id != 0 && !node.lost
}

fn managers(nodes: &Nodes) -> impl Iterator<Item = &NodeRecord> {
    nodes.members().filter(|node| counts(node))
}

/// How far an upgrade is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The cluster's version.
    pub cluster: u32,
    /// The newest that any manager supports: what finishing would raise it to.
    pub target: u32,
    /// Managers that have not reported to support `target`, or support it no more.
    pub behind: Vec<NodeId>,
}

/// Why an upgrade cannot be finished yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack(pub Progress);

/// What finishing writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Every record that it was judged by is still as it was: another manager that joins, or one that has gone back to the
    /// older binary, makes it void.
    pub compares: Vec<Compare>,
    /// The cluster's record with its new version.
    pub cluster: ClusterRecord,
}

impl Finish {
    /// As one transaction.
    #[must_use]
    pub fn txn(self) -> Txn {
        let put = Put { key: ClusterRecord::key(), value: self.cluster.to_bytes(), ..Put::default() };
        Txn { compares: self.compares, ..Txn::of(put) }
    }
}

/// How far the upgrade of these managers is.
pub fn progress(cluster: &ClusterRecord, nodes: &Nodes) -> Progress {
    let newest = managers(nodes).map(|node| node.command_version).max();
    let target = newest.unwrap_or(cluster.version).max(cluster.version);
    let lacks = |node: &&NodeRecord| Support::of(node).check(target).is_err();
    let behind = managers(nodes).filter(lacks).map(|node| node.node_id().unwrap_or_default()).collect();
    Progress { cluster: cluster.version, target, behind }
}

/// What is to be written so that the cluster's version rises to the newest that any manager supports; `None` when it is
/// there already.
///
/// # Errors
/// Who has to be upgraded first.
pub fn finish(cluster: &ClusterRecord, nodes: &Nodes) -> Result<Option<Finish>, HeldBack> {
    let progress = progress(cluster, nodes);
    if progress.target == progress.cluster {
        return Ok(None);
    }
    if !progress.behind.is_empty() {
        return Err(HeldBack(progress));
    }
    let unchanged = |key, value| Compare::new(key, Relation::Equal, Operand::Value(value));
    let mut compares = vec![unchanged(ClusterRecord::key(), cluster.to_bytes())];
    let each = |node: &NodeRecord| Some(unchanged(NodeRecord::key(node.node_id()?), node.to_bytes()));
    compares.extend(managers(nodes).filter_map(each));
    let cluster = ClusterRecord { version: progress.target, ..cluster.clone() };
    Ok(Some(Finish { compares, cluster }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn manager(number: u8, newest: u32) -> NodeRecord {
        NodeRecord {
            id: Bytes::copy_from_slice(&[number; 16]),
            raft_id: number.into(),
            command_version: newest,
            command_version_min: 1,
            ..NodeRecord::default()
        }
    }

    fn at(version: u32) -> ClusterRecord {
        ClusterRecord { version, ..ClusterRecord::default() }
    }

    fn nodes_of(nodes: &[NodeRecord]) -> Nodes {
        nodes.to_vec().into()
    }

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn a_version_rises_once_every_manager_supports_it_and_not_before() {
        // Given a cluster whose managers are all of its own version, then there is nothing to finish.
        let mut managers = [manager(1, 1), manager(2, 1), manager(3, 1)];
        assert_eq!(finish(&at(1), &nodes_of(&managers)), Ok(None));
        // When the first and the second are upgraded, then the third holds it back, by name,
        managers[0].command_version = 2;
        managers[1].command_version = 2;
        let held = Progress { cluster: 1, target: 2, behind: vec![id(3)] };
        assert_eq!(finish(&at(1), &nodes_of(&managers)), Err(HeldBack(held)));
        // and when it is upgraded, too, everything that was judged is a condition of the rise.
        managers[2].command_version = 2;
        let finished = finish(&at(1), &nodes_of(&managers)).unwrap().unwrap();
        assert_eq!((finished.cluster.version, finished.compares.len()), (2, 4));
        assert_eq!(finish(&at(2), &nodes_of(&managers)), Ok(None), "twice is once");
    }

    #[test]
    fn workers_and_lost_managers_hold_nothing_back_and_one_on_its_way_out_does() {
        let worker = NodeRecord { raft_id: 0, ..manager(2, 1) };
        let lost = NodeRecord { lost: true, ..manager(3, 1) };
        let leaving = NodeRecord { removing: true, ..manager(4, 1) };
        let nodes = [manager(1, 2), worker, lost];
        assert!(finish(&at(1), &nodes_of(&nodes)).unwrap().is_some());
        // It may still have to apply what is written meanwhile.
        let nodes = [manager(1, 2), leaving];
        assert_eq!(finish(&at(1), &nodes_of(&nodes)).unwrap_err().0.behind, [id(4)]);
    }

    #[test]
    fn versions_are_not_skipped_over_a_build_that_would_not_take_part() {
        // A build that has left version 1 behind may not join it, and one that ends at 1 not the next.
        let newer = Support { oldest: 2, newest: 3 };
        assert_eq!(newer.check(1), Err(Unfit::TooNew { cluster: 1, oldest: 2 }));
        assert_eq!(Support { oldest: 1, newest: 1 }.check(2), Err(Unfit::TooOld { cluster: 2, newest: 1 }));
        assert_eq!((newer.check(2), newer.check(3), newer.check(0)), (Ok(()), Ok(()), Ok(())));
    }
}
