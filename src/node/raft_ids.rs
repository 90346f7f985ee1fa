//! Raft ids, drawn and burnt: the parts of a transaction that every way to a seat shares.
//!
//! Owns that no raft id is given out twice (the counter is compared and raised in the transaction that gives one out), that one
//! whose store is gone is never heard again, and how long it is tried where somebody else was faster. Called by joining,
//! enrolling and rejoining.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::io::Records;
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::state::read;
use quorate_core::txn::{Compare, Op, Put, Txn};
use tokio::time::Instant;

use crate::config;

/// Longest pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// Attempts at a transaction that somebody else may be faster with: as many as the deadline leaves time for, the second and
/// later ones after a random moment, so that managers that let many in at the same time do not stay in step.
pub(super) struct Attempts {
    until: Instant,
    begun: bool,
}

impl Attempts {
    pub(super) const fn until(until: Instant) -> Self {
        Self { until, begun: false }
    }

    /// Whether there is another one; waits for its moment.
    pub(super) async fn another(&mut self) -> bool {
        if std::mem::replace(&mut self.begun, true) {
            tokio::time::sleep(PAUSE.mul_f64(config::chance())).await;
        }
        Instant::now() < self.until
    }
}

fn put(key: Bytes, value: Bytes) -> Op {
    Put { key, value, ..Put::default() }.into()
}

/// Adds to `txn` that the cluster's record is as it was read at `revision`, and is written: of two joins that claim one raft id
/// or one name, one sees the other.
pub(super) fn claim(txn: &mut Txn, cluster: &ClusterRecord, revision: u64) {
    txn.compares.push(Compare::mod_revision(ClusterRecord::key(), revision));
    txn.then.push(put(ClusterRecord::key(), cluster.to_bytes()));
}

/// The next raft id; `txn` takes it off the counter.
pub(super) fn draw(txn: &mut Txn, records: &Records, revision: u64) -> RaftId {
    let mut cluster = records.cluster.clone();
    let raft_id = RaftId(cluster.next_raft_id);
    cluster.next_raft_id += 1;
    claim(txn, &cluster, revision);
    raft_id
}

/// Adds to `txn` that this raft id is nobody's any more.
pub(super) fn burn(txn: &mut Txn, raft_id: RaftId) {
    txn.then.push(put(read::removed_key(raft_id), Bytes::from_static(b"replaced")));
}

/// Adds to `txn` what becomes of a node's record; `revision` is that of the record it was made from, 0 for a new one.
pub(super) fn write(txn: &mut Txn, node: NodeId, record: &NodeRecord, revision: u64) {
    let key = NodeRecord::key(node);
    let unchanged =
        if revision == 0 { Compare::absent(key.clone()) } else { Compare::mod_revision(key.clone(), revision) };
    txn.compares.push(unchanged);
    txn.then.push(put(key, record.to_bytes()));
}
