//! How the cluster counts on a node, asked over the join plane: with a certificate that has run out, or none at all.
//!
//! Owns the question and the shape of its answer. Never decides what follows from it. Called by a node that is to be
//! replaced, before anything of it is moved.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{Lineage, NodeId, RaftId, StoreId};

use crate::clock::Clock;
use crate::join::{self, JoinError, JoinReply, JoinRequest};
use crate::network::Network;
use crate::proto;
use crate::token::CaHash;

/// How the cluster counts on a node, by everything that was acknowledged before it asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStanding {
    /// The lineage of the cluster that answers.
    pub lineage: Lineage,
    /// Its record of the node, if there is one.
    pub record: Option<StandingRecord>,
}

/// What counts of a node's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandingRecord {
    /// Its raft id; [`RaftId`] 0 for a worker.
    pub raft_id: RaftId,
    /// The store that the raft id is bound to.
    pub store_id: Option<StoreId>,
    /// It was left behind by a recovery.
    pub lost: bool,
}

impl NodeStanding {
    pub(crate) fn to_wire(&self) -> proto::NodeStanding {
        let record = self.record.as_ref();
        let store = record.and_then(|record| record.store_id);
        proto::NodeStanding {
            lineage: self.lineage.to_bytes().into(),
            known: record.is_some(),
            raft_id: record.map_or(0, |record| record.raft_id.0),
            store_id: store.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            lost: record.is_some_and(|record| record.lost),
        }
    }

    pub(crate) fn from_wire(wire: proto::NodeStanding) -> Option<Self> {
        let lineage = Lineage::from_slice(&wire.lineage)?;
        let store_id = if wire.store_id.is_empty() { None } else { Some(StoreId::from_slice(&wire.store_id)?) };
        let record = StandingRecord { raft_id: RaftId(wire.raft_id), store_id, lost: wire.lost };
        Some(Self { lineage, record: wire.known.then_some(record) })
    }
}

/// Asks how the cluster counts on `node`, by a request that the key in its record has signed. Nothing is changed anywhere.
///
/// Cancel safe.
///
/// # Errors
/// See [`JoinError`].
pub async fn standing(
    addresses: &[String],
    ca: CaHash,
    csr: Vec<u8>,
    node: NodeId,
    timeout: Duration,
    clock: Clock,
    network: &Network,
) -> Result<NodeStanding, JoinError> {
    let request = JoinRequest { renewal: false, standing: true, ..JoinRequest::renewal(csr, node, clock) };
    match join::ask(addresses, &[ca], &request, timeout, clock, network).await? {
        (_, JoinReply::Standing(standing)) => Ok(standing),
        (_, JoinReply::Refused(refused)) => Err(JoinError::Refused(refused)),
        (_, JoinReply::Joined(_)) => Err(JoinError::BadReply("it takes in who only asked".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_survives_the_wire() {
        let record = StandingRecord { raft_id: RaftId(3), store_id: Some(StoreId::from_bytes([1; 16])), lost: true };
        let unbound = StandingRecord { raft_id: RaftId(0), store_id: None, lost: false };
        for record in [None, Some(record), Some(unbound)] {
            let standing = NodeStanding { lineage: Lineage::default(), record };
            assert_eq!(NodeStanding::from_wire(standing.to_wire()), Some(standing));
        }
    }
}
