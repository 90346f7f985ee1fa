//! The records membership lives in, and their encoding. Field numbers are for ever.

use bytes::Bytes;
use prost::Message;

use crate::id::{ClusterId, Lineage, NodeId, RaftId, StoreId};
use crate::keyspace::Section;

/// What a node is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Role {
    /// Holds a session, gets assignments, holds no log.
    Worker = 0,
    /// Holds the replicated log and state.
    Manager = 1,
}

impl Role {
    /// The word people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// One node of the cluster, under its node id in [`Section::Node`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeRecord {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The name people gave it; unique among nodes when not empty.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The desired role.
    #[prost(enumeration = "Role", tag = "3")]
    pub role: i32,
    /// Where to reach it, `host:port`, best first.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// Its raft id; 0 while it is no manager.
    #[prost(uint64, tag = "5")]
    pub raft_id: u64,
    /// 16 bytes: the store bound to the raft id; empty until its first hello.
    #[prost(bytes = "bytes", tag = "6")]
    pub store_id: Bytes,
    /// The newest command version that it reported to support.
    #[prost(uint32, tag = "7")]
    pub command_version: u32,
    /// The version of its binary, for people.
    #[prost(string, tag = "8")]
    pub software: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo): who it is on the wire.
    #[prost(bytes = "bytes", tag = "9")]
    pub key_digest: Bytes,
    /// The raft id this manager replaces (a damaged store came back fresh); 0 is none. Cleared when it is done.
    #[prost(uint64, tag = "10")]
    pub replaces: u64,
}

impl NodeRecord {
    /// The node id; `None` when the record is malformed.
    pub fn node_id(&self) -> Option<NodeId> {
        NodeId::from_slice(&self.id)
    }

    /// The raft id, if it has one.
    pub const fn raft(&self) -> Option<RaftId> {
        match self.raft_id {
            0 => None,
            id => Some(RaftId(id)),
        }
    }

    /// The store its raft id is bound to.
    pub fn store(&self) -> Option<StoreId> {
        StoreId::from_slice(&self.store_id)
    }

    /// Where the record of `id` lives.
    pub fn key(id: NodeId) -> Bytes {
        Section::Node.key(id.as_bytes())
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// The one record about the cluster as a whole.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterRecord {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: Bytes,
    /// [`Lineage::to_bytes`].
    #[prost(bytes = "bytes", tag = "2")]
    pub lineage: Bytes,
    /// The raft id that the next manager gets.
    #[prost(uint64, tag = "3")]
    pub next_raft_id: u64,
    /// The newest command version that may be proposed.
    #[prost(uint32, tag = "4")]
    pub version: u32,
    /// Most voters: 3, 5, 7 or 9.
    #[prost(uint32, tag = "5")]
    pub max_voters: u32,
    /// Length of a tick, microseconds.
    #[prost(uint64, tag = "6")]
    pub tick_micros: u64,
}

impl ClusterRecord {
    /// Where it lives.
    pub fn key() -> Bytes {
        Section::Cluster.key(b"cluster")
    }

    /// The cluster id; `None` when malformed.
    pub fn cluster(&self) -> Option<ClusterId> {
        ClusterId::from_slice(&self.cluster_id)
    }

    /// The lineage; `None` when malformed.
    pub fn lineage_list(&self) -> Option<Lineage> {
        Lineage::from_slice(&self.lineage)
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}
