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

/// Whether a node takes new work. A drained manager may still lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Availability {
    /// Takes work.
    Active = 0,
    /// Keeps what it has, takes nothing new.
    Pause = 1,
    /// What it has is to be moved away.
    Drain = 2,
}

impl Availability {
    /// The word people use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }

    /// Reads [`Availability::name`] back.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Pause, Self::Drain].into_iter().find(|availability| availability.name() == name)
    }
}

/// A label: what people say about a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Label {
    /// Unique within its node.
    #[prost(string, tag = "1")]
    pub key: String,
    /// May be empty.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The label that lets a worker be promoted by itself when a voter is lost; set by operators only.
pub const LABEL_MANAGER: (&str, &str) = ("quorate.manager", "yes");
/// The label that says where a node stands: standbys of another zone fill a seat first.
pub const LABEL_ZONE: &str = "zone";
/// The label that makes a voter the preferred leader.
pub const LABEL_LEADER: (&str, &str) = ("quorate.leader", "preferred");

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
    /// The newest cluster version that it reported to support.
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
    /// Ascending by key, each key once.
    #[prost(message, repeated, tag = "11")]
    pub labels: Vec<Label>,
    /// Whether it takes new work.
    #[prost(enumeration = "Availability", tag = "12")]
    pub availability: i32,
    /// It is to be removed: once it holds no seat, its raft id is burnt and the record goes.
    #[prost(bool, tag = "13")]
    pub removing: bool,
    /// The wish to demote or remove it may end the cluster's fault tolerance; nothing else is overridden by it.
    #[prost(bool, tag = "14")]
    pub forced: bool,
    /// It is not replaced for so long, milliseconds, however silent; 0 is not held. Counted by each leader from when it
    /// first sees this `hold_serial`.
    #[prost(uint64, tag = "15")]
    pub hold_ms: u64,
    /// Rises whenever `hold_ms` is set.
    #[prost(uint64, tag = "16")]
    pub hold_serial: u64,
    /// Left behind by a force-new-cluster: no member, its raft id is burnt; only kept to be shown.
    #[prost(bool, tag = "17")]
    pub lost: bool,
    /// Promoted by the leader in place of a lost voter: taken back when it does not catch up.
    #[prost(bool, tag = "18")]
    pub stands_in: bool,
    /// Why it is no manager yet though it is asked to be one, as the manager said that refused it; for people.
    #[prost(string, tag = "19")]
    pub hindrance: String,
    /// The oldest cluster version that it reported to support; 0: any.
    #[prost(uint32, tag = "110")]
    pub command_version_min: u32,
    /// The public half of its sealing key pair: barrier keys are sealed to it. Empty while it has no store.
    #[prost(bytes = "bytes", tag = "130")]
    pub sealing_key: Bytes,
    /// Which CA key signed the certificate that it was last seen with in a rotation, see [`super::trust`]; empty: not known.
    #[prost(bytes = "bytes", tag = "140")]
    pub issuer: Bytes,
    /// Somebody else may have its keys: it is being removed, no manager talks to it, and its copies of the barrier's keys are
    /// gone. Never taken back.
    #[prost(bool, tag = "141")]
    pub compromised: bool,
    /// Where the disk was reached that had this record before a restore gave it to another one: should it be there still, it is to
    /// hear of the restore.
    #[prost(string, repeated, tag = "165")]
    pub left_at: Vec<String>,
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

    /// As it is once it holds no raft id any more: nothing of its time as a manager stays. What people said of it does.
    #[must_use]
    pub fn without_raft_id(&self) -> Self {
        Self {
            raft_id: 0,
            store_id: Bytes::new(),
            sealing_key: Bytes::new(),
            replaces: 0,
            stands_in: false,
            forced: false,
            hold_ms: 0,
            ..self.clone()
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|label| label.key == key).map(|label| label.value.as_str())
    }

    /// Whether it carries exactly this label.
    pub fn is_labelled(&self, (key, value): (&str, &str)) -> bool {
        self.label(key) == Some(value)
    }

    /// Sets a label, keeping their order; `None` removes it.
    pub fn set_label(&mut self, key: &str, value: Option<String>) {
        self.labels.retain(|label| label.key != key);
        if let Some(value) = value {
            self.labels.push(Label { key: key.to_owned(), value });
            self.labels.sort_unstable();
        }
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
    /// The cluster version: the newest command version that may be proposed.
    #[prost(uint32, tag = "4")]
    pub version: u32,
    /// Most voters: 3, 5, 7 or 9.
    #[prost(uint32, tag = "5")]
    pub max_voters: u32,
    /// Length of a tick, microseconds.
    #[prost(uint64, tag = "6")]
    pub tick_micros: u64,
    /// Silence after which a voter is replaced, milliseconds; 0 is the default.
    #[prost(uint64, tag = "7")]
    pub lost_after_ms: u64,
    /// Time without a standby after which an eligible worker is promoted, milliseconds; 0 is the default.
    #[prost(uint64, tag = "8")]
    pub promote_after_ms: u64,
    /// How long a standby must be connected and caught up before it gets a seat, milliseconds; 0 is the default.
    #[prost(uint64, tag = "9")]
    pub stable_ms: u64,
    /// Lost voters are not replaced.
    #[prost(bool, tag = "10")]
    pub keep_lost: bool,
    /// What the store may hold, bytes; 0 is the default.
    #[prost(uint64, tag = "11")]
    pub store_quota_bytes: u64,
    /// Revisions that can still be read when they are no longer the newest; 0 is the default.
    #[prost(uint64, tag = "12")]
    pub history_revisions: u64,
    /// For how long they can, milliseconds; 0 is the default.
    #[prost(uint64, tag = "13")]
    pub history_ms: u64,
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
