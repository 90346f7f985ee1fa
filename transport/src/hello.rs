//! The hello: what two nodes tell each other before anything else, and why one refuses the other.
//!
//! Owns the checks that need no record: cluster, lineage, protocol version, certificate against hello. Never decides from
//! replicated state: that is the [`crate::Gate`]'s. Called by both ends of every connection.

use bytes::Bytes;
use prost::Message;
use quorate_core::id::{ClusterId, Lineage, LineageOrder, NodeId, RaftId, StoreId};
use quorate_core::membership::upgrade::{Support, Unfit};
use quorate_core::succession::{SUCCESSIONS_MAX, Succession};

use crate::ca::CertRole;
use crate::handler::{Caller, Plane};
use crate::proto;

/// Oldest wire protocol that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest wire protocol that this build speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// Who speaks, from which incarnation, in which versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The incarnation that the speaker knows; empty for a client that has met no manager yet.
    pub lineage: Lineage,
    /// The speaker; must be the one in its certificate.
    pub node_id: NodeId,
    /// Its number in the Raft configuration; [`RaftId`] 0 when it has none.
    pub raft_id: RaftId,
    /// The store behind the raft id.
    pub store_id: Option<StoreId>,
    /// Oldest wire protocol spoken, usually [`PROTOCOL_MIN`].
    pub protocol_min: u32,
    /// Newest wire protocol spoken, usually [`PROTOCOL_MAX`].
    pub protocol_max: u32,
    /// The cluster versions supported; of a client none.
    pub support: Support,
    /// Version of the binary, for people.
    pub software: String,
    /// Where the speaker wants to be reached, `host:port`; may be empty.
    pub advertise: String,
    /// Who began each of the newest incarnations of the lineage, for those who are of an older one.
    pub successions: Vec<Succession>,
}

impl Hello {
    /// The hello of a client or operator: no seat, no store, any lineage.
    pub fn client(cluster_id: ClusterId, node_id: NodeId, lineage: Lineage, software: &str) -> Self {
        Self {
            cluster_id,
            lineage,
            node_id,
            raft_id: RaftId(0),
            store_id: None,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            support: Support { oldest: 0, newest: 0 },
            software: software.to_owned(),
            advertise: String::new(),
            successions: Vec::new(),
        }
    }

    pub(crate) fn to_wire(&self, instance: u64) -> proto::Hello {
        proto::Hello {
            cluster_id: Bytes::copy_from_slice(self.cluster_id.as_bytes()),
            lineage: self.lineage.to_bytes().into(),
            node_id: Bytes::copy_from_slice(self.node_id.as_bytes()),
            raft_id: self.raft_id.0,
            store_id: self.store_id.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            command_version: self.support.newest,
            command_version_min: self.support.oldest,
            software: self.software.clone(),
            advertise: self.advertise.clone(),
            instance,
            successions: self.successions.iter().map(|word| word.encode_to_vec().into()).collect(),
        }
    }

    /// `None` when a field is malformed.
    pub(crate) fn from_wire(wire: proto::Hello) -> Option<Self> {
        let store_id = if wire.store_id.is_empty() { None } else { Some(StoreId::from_slice(&wire.store_id)?) };
        Some(Self {
            cluster_id: ClusterId::from_slice(&wire.cluster_id)?,
            lineage: Lineage::from_slice(&wire.lineage)?,
            node_id: NodeId::from_slice(&wire.node_id)?,
            raft_id: RaftId(wire.raft_id),
            store_id,
            protocol_min: wire.protocol_min,
            protocol_max: wire.protocol_max,
            support: Support { oldest: wire.command_version_min, newest: wire.command_version },
            software: wire.software,
            advertise: wire.advertise,
            // One that cannot be read stands for nothing; no more are kept than are ever made.
            successions: wire
                .successions
                .into_iter()
                .take(SUCCESSIONS_MAX)
                .filter_map(|word| Succession::decode(word).ok())
                .collect(),
        })
    }
}

/// Why one side does not talk to the other. "Ours" is always the side that refused, "theirs" the side that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another cluster.
    #[error("it belongs to cluster {ours}, not to {theirs}: use an address and an identity of the same cluster")]
    WrongCluster {
        /// Of the refusing side.
        ours: ClusterId,
        /// Of the refused side.
        theirs: ClusterId,
    },
    /// One of the two is of an older incarnation: the one with the shorter lineage.
    #[error("{}", superseded(.ours, .theirs))]
    Superseded {
        /// Of the refusing side.
        ours: Lineage,
        /// Of the refused side.
        theirs: Lineage,
    },
    /// Two recoveries of one cluster.
    #[error("the cluster was recovered twice: the two sides are generation {} and {} of different recoveries; keep one of them and wipe the other", .ours.generation(), .theirs.generation())]
    Forked {
        /// Of the refusing side.
        ours: Lineage,
        /// Of the refused side.
        theirs: Lineage,
    },
    /// A known raft id with another store: its disk was wiped or swapped.
    #[error(
        "its raft id is bound to another store: the disk was wiped or replaced; join again with a token to get a new raft id"
    )]
    StoreReplaced,
    /// The node was removed from the cluster.
    #[error("the node was removed from the cluster; join again with a token")]
    Removed,
    /// The operator's identity was taken back, or its time is over.
    #[error(
        "this operator's identity was revoked, or its time is over; `quorate operator issue` on a manager's machine makes another one"
    )]
    Revoked,
    /// The certificate's role does not allow this plane.
    #[error("a {}'s certificate is needed here, this one is a {}'s", .needed.name(), .found.name())]
    WrongRole {
        /// What it would take.
        needed: CertRole,
        /// What it is.
        found: CertRole,
    },
    /// The refused side is too old.
    #[error("it speaks wire protocol {ours} or newer, the refused side only up to {theirs}: upgrade the refused side")]
    VersionTooOld {
        /// The oldest that the refusing side speaks.
        ours: u32,
        /// The newest that the refused side speaks.
        theirs: u32,
    },
    /// The refused side is too new.
    #[error("it speaks wire protocol up to {ours}, the refused side only {theirs} or newer: upgrade the refusing side")]
    VersionTooNew {
        /// The newest that the refusing side speaks.
        ours: u32,
        /// The oldest that the refused side speaks.
        theirs: u32,
    },
    /// The refused side's program does not support the version that the refusing side knows the cluster to be at.
    #[error("{0}")]
    ClusterVersion(Unfit),
    /// No member with this identity is known here.
    #[error("it knows no such member; if the node has just joined, this passes as soon as the record arrives")]
    NotAMember,
    /// The node is locked.
    #[error("it is locked: run `quorate unlock` on it")]
    Locked,
    /// It stepped down for a newer incarnation and serves nothing any more.
    #[error("it is fenced: a newer incarnation of the cluster exists; use that one's managers")]
    Fenced,
    /// Not the node that was dialled, or not the one in the certificate.
    #[error("it is not the node that was expected: {0}")]
    WrongNode(String),
    /// The plane needs a certificate and none was shown.
    #[error("a client certificate is needed here; use an identity file of this cluster")]
    NoCertificate,
    /// A connection between these two exists already and was kept.
    #[error("the two are connected already; that connection was kept")]
    Duplicate,
    /// Too many connections or handshakes right now.
    #[error("it is busy: {0}; try again a little later")]
    Busy(String),
    /// Bytes that are no message of this protocol.
    #[error("it received bytes that are no message of this protocol")]
    Malformed,
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

fn superseded(ours: &Lineage, theirs: &Lineage) -> String {
    if ours.generation() > theirs.generation() {
        format!(
            "the cluster was recovered: it is at generation {}, the refused side is of generation {} and must not take part any more",
            ours.generation(),
            theirs.generation()
        )
    } else {
        format!(
            "the two are of different generations of the cluster: the refusing side is of generation {}, the refused side of generation {}; use that one's managers",
            ours.generation(),
            theirs.generation()
        )
    }
}

/// First application close code of refusals; the kind's number is added.
const REFUSED_CODE_BASE: u32 = 0x100;
/// What fits into a close frame next to its header at the smallest MTU.
const CLOSE_REASON_BYTES: usize = 900;

impl Refused {
    pub(crate) fn to_wire(&self) -> proto::Refused {
        use proto::RefusedKind as Kind;
        let id = |id: &ClusterId| Bytes::copy_from_slice(id.as_bytes());
        let mut wire = proto::Refused::default();
        let kind = match self {
            Self::WrongCluster { ours, theirs } => {
                wire.ours = id(ours);
                wire.theirs = id(theirs);
                Kind::RefusedWrongCluster
            }
            Self::Superseded { ours, theirs } | Self::Forked { ours, theirs } => {
                wire.ours = ours.to_bytes().into();
                wire.theirs = theirs.to_bytes().into();
                if matches!(self, Self::Forked { .. }) { Kind::RefusedForked } else { Kind::RefusedSuperseded }
            }
            Self::StoreReplaced => Kind::RefusedStoreReplaced,
            Self::Removed => Kind::RefusedRemoved,
            Self::Revoked => Kind::RefusedRevoked,
            Self::WrongRole { needed, found } => {
                wire.ours_version = role_number(*needed);
                wire.theirs_version = role_number(*found);
                Kind::RefusedWrongRole
            }
            Self::VersionTooOld { ours, theirs } | Self::VersionTooNew { ours, theirs } => {
                wire.ours_version = *ours;
                wire.theirs_version = *theirs;
                if matches!(self, Self::VersionTooOld { .. }) {
                    Kind::RefusedVersionTooOld
                } else {
                    Kind::RefusedVersionTooNew
                }
            }
            Self::ClusterVersion(Unfit::TooOld { cluster, newest }) => {
                (wire.ours_version, wire.theirs_version) = (*cluster, *newest);
                Kind::RefusedBelowClusterVersion
            }
            Self::ClusterVersion(Unfit::TooNew { cluster, oldest }) => {
                (wire.ours_version, wire.theirs_version) = (*cluster, *oldest);
                Kind::RefusedBeyondClusterVersion
            }
            Self::NotAMember => Kind::RefusedNotAMember,
            Self::Locked => Kind::RefusedLocked,
            Self::Fenced => Kind::RefusedFenced,
            Self::WrongNode(text) => {
                wire.text.clone_from(text);
                Kind::RefusedWrongNode
            }
            Self::NoCertificate => Kind::RefusedNoCertificate,
            Self::Duplicate => Kind::RefusedDuplicate,
            Self::Busy(text) => {
                wire.text.clone_from(text);
                Kind::RefusedBusy
            }
            Self::Malformed => Kind::RefusedMalformed,
            Self::Other(text) => {
                wire.text.clone_from(text);
                Kind::RefusedOther
            }
        };
        wire.kind = kind.into();
        wire
    }

    pub(crate) fn from_wire(wire: &proto::Refused) -> Self {
        use proto::RefusedKind as Kind;
        let lineages = || Some((Lineage::from_slice(&wire.ours)?, Lineage::from_slice(&wire.theirs)?));
        let other =
            || Self::Other(if wire.text.is_empty() { "no reason was given".to_owned() } else { wire.text.clone() });
        let Ok(kind) = Kind::try_from(wire.kind) else { return other() };
        match kind {
            Kind::RefusedWrongCluster => match (ClusterId::from_slice(&wire.ours), ClusterId::from_slice(&wire.theirs))
            {
                (Some(ours), Some(theirs)) => Self::WrongCluster { ours, theirs },
                _ => other(),
            },
            Kind::RefusedSuperseded => {
                lineages().map_or_else(other, |(ours, theirs)| Self::Superseded { ours, theirs })
            }
            Kind::RefusedForked => lineages().map_or_else(other, |(ours, theirs)| Self::Forked { ours, theirs }),
            Kind::RefusedStoreReplaced => Self::StoreReplaced,
            Kind::RefusedRemoved => Self::Removed,
            Kind::RefusedRevoked => Self::Revoked,
            Kind::RefusedWrongRole => match (number_role(wire.ours_version), number_role(wire.theirs_version)) {
                (Some(needed), Some(found)) => Self::WrongRole { needed, found },
                _ => other(),
            },
            Kind::RefusedVersionTooOld => Self::VersionTooOld { ours: wire.ours_version, theirs: wire.theirs_version },
            Kind::RefusedVersionTooNew => Self::VersionTooNew { ours: wire.ours_version, theirs: wire.theirs_version },
            Kind::RefusedBelowClusterVersion => {
                Self::ClusterVersion(Unfit::TooOld { cluster: wire.ours_version, newest: wire.theirs_version })
            }
            Kind::RefusedBeyondClusterVersion => {
                Self::ClusterVersion(Unfit::TooNew { cluster: wire.ours_version, oldest: wire.theirs_version })
            }
            Kind::RefusedNotAMember => Self::NotAMember,
            Kind::RefusedLocked => Self::Locked,
            Kind::RefusedFenced => Self::Fenced,
            Kind::RefusedWrongNode => Self::WrongNode(wire.text.clone()),
            Kind::RefusedNoCertificate => Self::NoCertificate,
            Kind::RefusedDuplicate => Self::Duplicate,
            Kind::RefusedBusy => Self::Busy(wire.text.clone()),
            Kind::RefusedMalformed => Self::Malformed,
            Kind::RefusedOther => other(),
        }
    }

    /// The application close code and reason that carry this refusal.
    pub(crate) fn to_close(&self) -> (u32, Vec<u8>) {
        let mut wire = self.to_wire();
        let kind = u32::try_from(wire.kind).unwrap_or(0);
        if wire.encoded_len() > CLOSE_REASON_BYTES {
            // A lineage of dozens of recoveries, or a very long text: the kind is what must arrive.
            wire = proto::Refused {
                kind: wire.kind,
                text: self.to_string().chars().take(200).collect(),
                ..Default::default()
            };
        }
        (REFUSED_CODE_BASE + kind, wire.encode_to_vec())
    }

    /// Reads [`Refused::to_close`] back; `None` when the code is no refusal's.
    pub(crate) fn from_close(code: u64, reason: &[u8]) -> Option<Self> {
        let kind = code.checked_sub(u64::from(REFUSED_CODE_BASE)).and_then(|kind| i32::try_from(kind).ok())?;
        if kind >= 0x100 {
            return None;
        }
        let wire = proto::Refused::decode(reason).unwrap_or_default();
        Some(Self::from_wire(&proto::Refused { kind, ..wire }))
    }
}

const fn role_number(role: CertRole) -> u32 {
    match role {
        CertRole::Manager => 1,
        CertRole::Worker => 2,
        CertRole::Operator => 3,
    }
}

const fn number_role(number: u32) -> Option<CertRole> {
    match number {
        1 => Some(CertRole::Manager),
        2 => Some(CertRole::Worker),
        3 => Some(CertRole::Operator),
        _ => None,
    }
}

/// Whether the hellos of two ends fit, before any record is looked at. `caller` is the other end as its certificate has it.
pub(crate) fn check(
    plane: Plane,
    ours: &Hello,
    caller: &Caller,
    theirs: &Hello,
    we_dialled: bool,
) -> Result<(), Refused> {
    if theirs.cluster_id != ours.cluster_id {
        return Err(Refused::WrongCluster { ours: ours.cluster_id, theirs: theirs.cluster_id });
    }
    if theirs.node_id != caller.node_id {
        return Err(Refused::WrongNode(format!(
            "the hello says {}, the certificate {}",
            theirs.node_id, caller.node_id
        )));
    }
    let lineages = || (ours.lineage.clone(), theirs.lineage.clone());
    match ours.lineage.compare(&theirs.lineage) {
        LineageOrder::Equal => {}
        LineageOrder::Forked => {
            let (ours, theirs) = lineages();
            return Err(Refused::Forked { ours, theirs });
        }
        // Theirs is longer. A client that dials adopts it; every manager has to step aside, whoever brings the news.
        LineageOrder::Older if plane == Plane::Client && we_dialled => {}
        // Theirs is shorter. A client or worker that is behind learns the longer one from our hello.
        LineageOrder::Newer if plane == Plane::Client && !we_dialled => {}
        LineageOrder::Older | LineageOrder::Newer => {
            let (ours, theirs) = lineages();
            return Err(Refused::Superseded { ours, theirs });
        }
    }
    if theirs.protocol_max < ours.protocol_min {
        return Err(Refused::VersionTooOld { ours: ours.protocol_min, theirs: theirs.protocol_max });
    }
    if theirs.protocol_min > ours.protocol_max {
        return Err(Refused::VersionTooNew { ours: ours.protocol_max, theirs: theirs.protocol_min });
    }
    if plane == Plane::Peer && (theirs.raft_id == RaftId(0) || theirs.raft_id == ours.raft_id) {
        return Err(Refused::NotAMember);
    }
    Ok(())
}

/// Whether this hello says that a newer incarnation exists. What that is worth, the node weighs by the words that come with it; of
/// others than managers it is not even heard.
pub(crate) fn tells_newer(ours: &Hello, role: CertRole, theirs: &Hello) -> bool {
    role == CertRole::Manager
        && theirs.cluster_id == ours.cluster_id
        && ours.lineage.compare(&theirs.lineage) == LineageOrder::Older
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_core::id::LineageId;

    use super::*;

    fn lineage(ids: &[u8]) -> Lineage {
        Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
    }

    fn all() -> Vec<Refused> {
        let cluster = |n| ClusterId::from_bytes([n; 16]);
        vec![
            Refused::WrongCluster { ours: cluster(1), theirs: cluster(2) },
            Refused::Superseded { ours: lineage(&[1, 2]), theirs: lineage(&[1]) },
            Refused::Forked { ours: lineage(&[1, 2]), theirs: lineage(&[1, 3]) },
            Refused::StoreReplaced,
            Refused::Removed,
            Refused::WrongRole { needed: CertRole::Manager, found: CertRole::Worker },
            Refused::VersionTooOld { ours: 3, theirs: 2 },
            Refused::VersionTooNew { ours: 3, theirs: 4 },
            Refused::NotAMember,
            Refused::Locked,
            Refused::Fenced,
            Refused::WrongNode("another".into()),
            Refused::NoCertificate,
            Refused::Duplicate,
            Refused::Busy("full".into()),
            Refused::Malformed,
            Refused::Other("words".into()),
        ]
    }

    #[test]
    fn every_refusal_survives_the_close_frame() {
        for refused in all() {
            let (code, reason) = refused.to_close();
            assert_eq!(Refused::from_close(u64::from(code), &reason), Some(refused));
        }
    }

    #[test]
    fn a_refusal_too_long_for_a_close_frame_keeps_its_kind_in_words() {
        let long = lineage(&[5; 100]);
        let (code, reason) = Refused::Superseded { ours: long, theirs: lineage(&[1]) }.to_close();
        assert!(reason.len() <= CLOSE_REASON_BYTES);
        let read = Refused::from_close(u64::from(code), &reason).unwrap();
        assert!(matches!(read, Refused::Superseded { .. } | Refused::Other(_)), "{read}");
    }

    proptest! {
        #[test]
        fn a_close_frame_of_garbage_is_read_without_a_panic(code in 0u64..0x400, reason in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(refused) = Refused::from_close(code, &reason) {
                prop_assert!(!refused.to_string().is_empty() || matches!(refused, Refused::Other(_)));
            }
        }
    }
}
