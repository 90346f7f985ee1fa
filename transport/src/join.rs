//! The join plane: how a node without a certificate gets one, or is told how it stands.
//!
//! Owns both ends of the one exchange there is. The newcomer sends nothing before it has seen the CA that its token names.
//! Nothing else can be reached on this plane: one connection, one request, one answer. Never compares a secret: the
//! node does, which knows the tokens. Called by the endpoint (serving) and by `join` in the newcomer.

mod serving;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_core::id::{ClusterId, Lineage, LineageOrder, NodeId, RaftId, StoreId};
use quorate_core::membership::upgrade::Support;
use rustls_pki_types::CertificateDer;

use crate::clock::Clock;
use crate::dial::{self, ConnectError};
use crate::frame::{self, FrameKind};
use crate::hello::{PROTOCOL_MAX, PROTOCOL_MIN, Refused};
use crate::network::Network;
use crate::proto;
use crate::standing::NodeStanding;
use crate::text::unix_seconds;
use crate::tls;
use crate::token::{CaHash, JoinToken, TokenSecret};
pub(crate) use serving::serve;

/// What a newcomer tells. The secret is not part of it on the newcomer's side: it comes from the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// The secret half of its token; filled in by [`join`].
    pub secret: TokenSecret,
    /// Signing request, DER; only its public key counts.
    pub csr: Vec<u8>,
    /// The id it made for itself.
    pub node_id: NodeId,
    /// The name people gave it; may be empty.
    pub name: String,
    /// Where it can be reached, `host:port`; an unspecified host means the source address.
    pub advertise: String,
    /// Its store, if it has one.
    pub store_id: Option<StoreId>,
    /// The public half of its store's sealing key pair, if it has one.
    pub sealing_key: Bytes,
    /// Oldest wire protocol it speaks.
    pub protocol_min: u32,
    /// Newest wire protocol it speaks.
    pub protocol_max: u32,
    /// The cluster versions it supports as a manager.
    pub support: Support,
    /// Version of its binary.
    pub software: String,
    /// Its clock, seconds since 1970: for a refusal that names both clocks.
    pub unix_seconds: u64,
    /// Not a newcomer: a node of the cluster that wants a certificate for the role it has now. What counts is that its
    /// request is signed by the key in its record; there is no secret.
    pub renewal: bool,
    /// A newcomer that takes over the name, and everything that goes by it, of a worker whose disk is gone.
    pub in_place: bool,
    /// A manager whose own key is lost, and comes back as itself with another: a manager's token says that it may.
    pub key_lost: bool,
    /// It only asks how the cluster counts on it, with the same proof; see [`crate::standing()`].
    pub standing: bool,
    /// Of a renewal: the incarnations of the cluster that the node knows. A manager of one that was ended says nothing of it.
    pub lineage: Lineage,
}

impl JoinRequest {
    /// A request with the versions of this build and what the clock says now.
    pub fn new(token: &JoinToken, csr: Vec<u8>, node_id: NodeId, clock: Clock) -> Self {
        Self {
            secret: token.secret().clone(),
            csr,
            node_id,
            name: String::new(),
            advertise: String::new(),
            store_id: None,
            sealing_key: Bytes::new(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            support: Support { oldest: 0, newest: 0 },
            software: String::new(),
            unix_seconds: unix_seconds(clock.now()),
            renewal: false,
            in_place: false,
            key_lost: false,
            standing: false,
            lineage: Lineage::default(),
        }
    }

    /// A request of a node of the cluster for a new certificate, see [`JoinRequest::renewal`].
    pub fn renewal(csr: Vec<u8>, node_id: NodeId, clock: Clock) -> Self {
        let nothing = JoinToken::new(CaHash::of(&CertificateDer::from(&[][..])), TokenSecret::from_bytes([0; 16]));
        Self { renewal: true, ..Self::new(&nothing, csr, node_id, clock) }
    }

    fn to_wire(&self) -> proto::JoinRequest {
        proto::JoinRequest {
            secret: Bytes::copy_from_slice(self.secret.expose()),
            csr: self.csr.clone().into(),
            node_id: Bytes::copy_from_slice(self.node_id.as_bytes()),
            name: self.name.clone(),
            advertise: self.advertise.clone(),
            store_id: self.store_id.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            sealing_key: self.sealing_key.clone(),
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            command_version: self.support.newest,
            command_version_min: self.support.oldest,
            software: self.software.clone(),
            unix_seconds: self.unix_seconds,
            renewal: self.renewal,
            in_place: self.in_place,
            key_lost: self.key_lost,
            standing: self.standing,
            lineage: self.lineage.to_bytes().into(),
        }
    }

    fn from_wire(wire: proto::JoinRequest) -> Option<Self> {
        let store_id = if wire.store_id.is_empty() { None } else { Some(StoreId::from_slice(&wire.store_id)?) };
        Some(Self {
            secret: TokenSecret::from_bytes(wire.secret.as_ref().try_into().ok()?),
            csr: wire.csr.to_vec(),
            node_id: NodeId::from_slice(&wire.node_id)?,
            name: wire.name,
            advertise: wire.advertise,
            store_id,
            sealing_key: wire.sealing_key,
            protocol_min: wire.protocol_min,
            protocol_max: wire.protocol_max,
            support: Support { oldest: wire.command_version_min, newest: wire.command_version },
            software: wire.software,
            unix_seconds: wire.unix_seconds,
            renewal: wire.renewal,
            in_place: wire.in_place,
            key_lost: wire.key_lost,
            standing: wire.standing,
            lineage: Lineage::from_slice(&wire.lineage)?,
        })
    }
}

/// A manager that a newcomer may talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerAddress {
    /// Its raft id.
    pub raft_id: RaftId,
    /// Its node id.
    pub node_id: NodeId,
    /// Where to reach it, best first.
    pub addresses: Vec<String>,
}

/// What a newcomer that was taken gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The cluster's root that signed the certificate, DER.
    pub ca_certificate: Vec<u8>,
    /// Other roots that are trusted, and cross certificates, DER. What was pinned is among these or is that root.
    pub authorities: Vec<Vec<u8>>,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// Its incarnation.
    pub lineage: Lineage,
    /// The id the node has: its own, or the one it had before.
    pub node_id: NodeId,
    /// Its raft id; [`RaftId`] 0 for a worker.
    pub raft_id: RaftId,
    /// The managers.
    pub managers: Vec<ManagerAddress>,
    /// What the node on the other side hands over besides; opaque to the wire.
    pub extra: Bytes,
}

/// Why a newcomer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// No token of this cluster has this secret.
    #[error(
        "the join token is not valid: its secret is wrong, or it was rotated or revoked. Nothing was changed; print a current one with `quorate token show`"
    )]
    BadToken,
    /// Its time is over.
    #[error("the join token has expired; make a new one with `quorate token create`")]
    TokenExpired,
    /// It was used as often as it may be.
    #[error("the join token is used up; make a new one with `quorate token create`")]
    TokenUsedUp,
    /// The manager is locked.
    #[error("the manager is locked: unlock it, or ask another one")]
    Locked,
    /// The manager could not reach the newcomer at the address it gave.
    #[error("the manager could not reach this node: {0}; give the right --advertise address and open its UDP port")]
    Unreachable(String),
    /// The clocks differ too much.
    #[error("the clocks differ: {0}; set the one that is wrong")]
    Clock(String),
    /// The versions do not fit.
    #[error("the versions do not fit: {0}")]
    Version(String),
    /// There is no leader right now; nothing was changed.
    #[error("the cluster has no leader right now; nothing was changed, try again")]
    NoLeader,
    /// The node id is taken.
    #[error("a node with this id is already in the cluster: {0}")]
    AlreadyKnown(String),
    /// No record of this node, though it says that it is one of the cluster.
    #[error("the cluster has no record of this node: it was removed; to come back it joins with a token")]
    NotAMember,
    /// The manager is of an incarnation of the cluster that was ended, or of another recovery: it says nothing of who is a member.
    #[error("the manager is of another generation of the cluster: {0}")]
    Superseded(String),
    /// Too many attempts from this source.
    #[error("too many attempts from this address; wait a few seconds")]
    RateLimited,
    /// The request is malformed.
    #[error("the manager could not read the request: {0}")]
    Malformed(String),
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

impl JoinRefused {
    fn to_wire(&self) -> proto::JoinRefused {
        use proto::JoinRefusedKind as Kind;
        let (kind, text) = match self {
            Self::BadToken => (Kind::JoinRefusedBadToken, ""),
            Self::TokenExpired => (Kind::JoinRefusedTokenExpired, ""),
            Self::TokenUsedUp => (Kind::JoinRefusedTokenUsedUp, ""),
            Self::Locked => (Kind::JoinRefusedLocked, ""),
            Self::Unreachable(text) => (Kind::JoinRefusedUnreachable, text.as_str()),
            Self::Clock(text) => (Kind::JoinRefusedClock, text.as_str()),
            Self::Version(text) => (Kind::JoinRefusedVersion, text.as_str()),
            Self::NoLeader => (Kind::JoinRefusedNoLeader, ""),
            Self::AlreadyKnown(text) => (Kind::JoinRefusedAlreadyKnown, text.as_str()),
            Self::NotAMember => (Kind::JoinRefusedNotAMember, ""),
            Self::Superseded(text) => (Kind::JoinRefusedSuperseded, text.as_str()),
            Self::RateLimited => (Kind::JoinRefusedRateLimited, ""),
            Self::Malformed(text) => (Kind::JoinRefusedMalformed, text.as_str()),
            Self::Other(text) => (Kind::JoinRefusedOther, text.as_str()),
        };
        proto::JoinRefused { kind: kind.into(), text: text.chars().take(2_000).collect() }
    }

    fn from_wire(wire: proto::JoinRefused) -> Self {
        use proto::JoinRefusedKind as Kind;
        match Kind::try_from(wire.kind).unwrap_or(Kind::JoinRefusedOther) {
            Kind::JoinRefusedBadToken => Self::BadToken,
            Kind::JoinRefusedTokenExpired => Self::TokenExpired,
            Kind::JoinRefusedTokenUsedUp => Self::TokenUsedUp,
            Kind::JoinRefusedLocked => Self::Locked,
            Kind::JoinRefusedUnreachable => Self::Unreachable(wire.text),
            Kind::JoinRefusedClock => Self::Clock(wire.text),
            Kind::JoinRefusedVersion => Self::Version(wire.text),
            Kind::JoinRefusedNoLeader => Self::NoLeader,
            Kind::JoinRefusedAlreadyKnown => Self::AlreadyKnown(wire.text),
            Kind::JoinRefusedNotAMember => Self::NotAMember,
            Kind::JoinRefusedSuperseded => Self::Superseded(wire.text),
            Kind::JoinRefusedRateLimited => Self::RateLimited,
            Kind::JoinRefusedMalformed => Self::Malformed(wire.text),
            Kind::JoinRefusedOther => Self::Other(wire.text),
        }
    }
}

/// The answer to a [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinReply {
    /// Taken.
    Joined(Box<Joined>),
    /// Not taken; nothing was changed.
    Refused(JoinRefused),
    /// It only asked.
    Standing(NodeStanding),
}

impl JoinReply {
    pub(crate) fn to_wire(&self) -> proto::JoinReply {
        use proto::join_reply::Outcome;
        let outcome = match self {
            Self::Joined(joined) => Outcome::Joined(proto::Joined {
                certificate: joined.certificate.clone().into(),
                ca_certificate: joined.ca_certificate.clone().into(),
                authorities: joined.authorities.iter().cloned().map(Bytes::from).collect(),
                cluster_id: Bytes::copy_from_slice(joined.cluster_id.as_bytes()),
                lineage: joined.lineage.to_bytes().into(),
                node_id: Bytes::copy_from_slice(joined.node_id.as_bytes()),
                raft_id: joined.raft_id.0,
                managers: joined
                    .managers
                    .iter()
                    .map(|manager| proto::Manager {
                        raft_id: manager.raft_id.0,
                        node_id: Bytes::copy_from_slice(manager.node_id.as_bytes()),
                        addresses: manager.addresses.clone(),
                    })
                    .collect(),
                extra: joined.extra.clone(),
            }),
            Self::Refused(refused) => Outcome::Refused(refused.to_wire()),
            Self::Standing(standing) => Outcome::Standing(standing.to_wire()),
        };
        proto::JoinReply { outcome: Some(outcome) }
    }

    fn from_wire(wire: proto::JoinReply) -> Option<Self> {
        use proto::join_reply::Outcome;
        Some(match wire.outcome? {
            Outcome::Refused(refused) => Self::Refused(JoinRefused::from_wire(refused)),
            Outcome::Standing(standing) => Self::Standing(NodeStanding::from_wire(standing)?),
            Outcome::Joined(joined) => Self::Joined(Box::new(Joined {
                certificate: joined.certificate.to_vec(),
                ca_certificate: joined.ca_certificate.to_vec(),
                authorities: joined.authorities.iter().map(|authority| authority.to_vec()).collect(),
                cluster_id: ClusterId::from_slice(&joined.cluster_id)?,
                lineage: Lineage::from_slice(&joined.lineage)?,
                node_id: NodeId::from_slice(&joined.node_id)?,
                raft_id: RaftId(joined.raft_id),
                managers: joined
                    .managers
                    .into_iter()
                    .map(|manager| {
                        Some(ManagerAddress {
                            raft_id: RaftId(manager.raft_id),
                            node_id: NodeId::from_slice(&manager.node_id)?,
                            addresses: manager.addresses,
                        })
                    })
                    .collect::<Option<_>>()?,
                extra: joined.extra,
            })),
        })
    }
}

/// Why joining failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// No manager could be reached, or the one reached does not hold the CA of the token. Nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The manager said no. Nothing was changed.
    #[error("the cluster did not take this node: {0}")]
    Refused(JoinRefused),
    /// The connection broke or the deadline passed after the request was sent: the manager may have taken the node.
    /// Joining again with the same node id and key is safe.
    #[error(
        "no answer to the join request ({0}); the cluster may have taken this node: run the same join again, that is safe"
    )]
    Unknown(String),
    /// The answer does not fit the token or the request.
    #[error("the manager's answer was not accepted: {0}; this node is unchanged")]
    BadReply(String),
}

/// Joins a cluster: connects to the first of `addresses` that answers, checks that it holds the CA that `token` names,
/// and only then sends the request. On success certificate and CA have been checked against token, request and each other.
///
/// Cancel safe in that this node is unchanged; the cluster may already have taken it (see [`JoinError::Unknown`]).
///
/// # Errors
/// See [`JoinError`].
pub async fn join(
    addresses: &[String],
    token: &JoinToken,
    request: JoinRequest,
    timeout: Duration,
    clock: Clock,
    network: &Network,
) -> Result<Joined, JoinError> {
    let request = JoinRequest { secret: token.secret().clone(), ..request };
    joined(addresses, &[*token.ca_hash()], request, timeout, clock, network).await
}

/// Asks for a new certificate for the role that the node has now, by a request that the key in its record has signed. A manager that
/// holds one of `cas` is asked: any that the node trusts, for a manager may be behind the node, and a recovery may have taken the
/// cluster back to before a replacement of its CA. Works
/// when the node's certificate has expired, and when its role has changed. Checks as [`join`] does, and takes no word of a manager
/// that is of an older incarnation than the request's lineage, or of another recovery: it asks the next.
///
/// Cancel safe.
///
/// # Errors
/// See [`JoinError`]; [`JoinRefused::NotAMember`] when the cluster has no record of the node.
pub async fn renew(
    addresses: &[String],
    cas: &[CaHash],
    request: JoinRequest,
    timeout: Duration,
    clock: Clock,
    network: &Network,
) -> Result<Joined, JoinError> {
    joined(addresses, cas, request, timeout, clock, network).await
}

async fn joined(
    addresses: &[String],
    pinned: &[CaHash],
    request: JoinRequest,
    timeout: Duration,
    clock: Clock,
    network: &Network,
) -> Result<Joined, JoinError> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut left = addresses.to_vec();
    loop {
        let patience = deadline.saturating_duration_since(tokio::time::Instant::now());
        let (place, reply) = ask(&left, pinned, &request, patience, clock, network).await?;
        let error = match reply {
            JoinReply::Joined(joined) => match is_current(&request.lineage, &joined.lineage) {
                Ok(()) => return accept_reply(pinned, *joined, clock),
                Err(error) => error,
            },
            JoinReply::Refused(refused @ JoinRefused::Superseded(_)) => JoinError::Refused(refused),
            JoinReply::Refused(refused) => return Err(JoinError::Refused(refused)),
            JoinReply::Standing(_) => {
                return Err(JoinError::BadReply("it says how the node stands, which was not asked".to_owned()));
            }
        };
        // That one cannot tell; the others may.
        if place < left.len() {
            left.remove(place);
        }
        if left.is_empty() {
            return Err(error);
        }
    }
}

/// Whether what a manager of `theirs` says counts for who knows `ours`.
fn is_current(ours: &Lineage, theirs: &Lineage) -> Result<(), JoinError> {
    let what = match ours.compare(theirs) {
        LineageOrder::Equal | LineageOrder::Older => return Ok(()),
        LineageOrder::Newer => "of a generation of the cluster that was ended",
        LineageOrder::Forked => "of another recovery of the cluster",
    };
    let (ours, theirs) = (ours.generation(), theirs.generation());
    Err(JoinError::BadReply(format!("it is {what}: it is of generation {theirs}, this node of generation {ours}")))
}

/// Connects to the first that answers and holds one of these CAs, and asks; with the answer comes the place of its address.
pub(crate) async fn ask(
    addresses: &[String],
    pinned: &[CaHash],
    request: &JoinRequest,
    timeout: Duration,
    clock: Clock,
    network: &Network,
) -> Result<(usize, JoinReply), JoinError> {
    let deadline = tokio::time::Instant::now() + timeout;
    let (place, dialled) = dial::race(addresses, timeout, dial::STAGGER, |address| {
        let (network, pinned) = (network.clone(), pinned.to_vec());
        async move { dial::fresh(&network, address, timeout, |verdict| tls::join_client(&pinned, clock, verdict)).await }
    })
    .await?;
    let (endpoint, connection) = (dialled.endpoint, dialled.connection);
    let exchange = async {
        let (mut send, mut receive) =
            connection.open_bi().await.map_err(|error| join_failure(&error, dialled.address))?;
        let body = request.to_wire().encode_to_vec();
        let frame = frame::encode(FrameKind::Join, &body).ok_or_else(|| JoinError::BadReply("too long".to_owned()))?;
        let sent = send.write_chunk(frame).await;
        let finished = send.finish();
        if sent.is_err() || finished.is_err() {
            let error = connection.closed().await;
            return Err(join_failure(&error, dialled.address));
        }
        match frame::read_kind(&mut receive, FrameKind::JoinReply, frame::JOIN_BYTES_MAX).await {
            Ok(body) => proto::JoinReply::decode(body)
                .ok()
                .and_then(JoinReply::from_wire)
                .ok_or_else(|| JoinError::BadReply("it does not decode".to_owned())),
            Err(error) => Err(match connection.close_reason() {
                Some(reason) => join_failure(&reason, dialled.address),
                None => JoinError::Unknown(error.to_string()),
            }),
        }
    };
    let reply = tokio::time::timeout_at(deadline, exchange)
        .await
        .unwrap_or_else(|_elapsed| Err(JoinError::Unknown(format!("{} did not answer in time", dialled.address))));
    connection.close(crate::codes::DONE.into(), b"");
    // The close frame is on its way; waiting for its three round trips would only delay the caller.
    drop(endpoint);
    reply.map(|reply| (place, reply))
}

fn join_failure(error: &quinn::ConnectionError, address: SocketAddr) -> JoinError {
    match dial::refusal(error) {
        Some(Refused::Busy(_)) => JoinError::Refused(JoinRefused::RateLimited),
        Some(refused) => JoinError::Connect(ConnectError::Refused { address, refused, ours: false }),
        None => JoinError::Unknown(error.to_string()),
    }
}

fn accept_reply(pinned: &[CaHash], joined: Joined, clock: Clock) -> Result<Joined, JoinError> {
    let mut authorities = std::iter::once(&joined.ca_certificate).chain(&joined.authorities);
    if !authorities.any(|authority| pinned.contains(&CaHash::of(&authority.as_slice().into()))) {
        return Err(JoinError::BadReply("the CA that was pinned is not among those it names".to_owned()));
    }
    let ca = CertificateDer::from(joined.ca_certificate.as_slice());
    let subject = crate::identity::Subject::of(&CertificateDer::from(joined.certificate.as_slice()))
        .map_err(|problem| JoinError::BadReply(problem.to_string()))?;
    if subject.cluster != joined.cluster_id || subject.node_id != joined.node_id {
        return Err(JoinError::BadReply("its certificate names another cluster or node".to_owned()));
    }
    if subject.issuer != crate::ca::subject_id(&ca) {
        return Err(JoinError::BadReply("its certificate is not of the CA that it names".to_owned()));
    }
    subject.check_time(clock.now()).map_err(|problem| JoinError::BadReply(problem.to_string()))?;
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use quorate_core::id::LineageId;

    use super::*;

    #[test]
    fn only_a_manager_of_the_same_or_a_later_incarnation_is_taken_at_its_word() {
        let lineage = |ids: &[u8]| Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect());
        let ours = lineage(&[1, 2]);
        for theirs in [lineage(&[1, 2]), lineage(&[1, 2, 3])] {
            assert_eq!(is_current(&ours, &theirs), Ok(()));
        }
        for (theirs, what) in [(lineage(&[1]), "was ended"), (lineage(&[1, 3, 4]), "another recovery")] {
            let refused = is_current(&ours, &theirs).unwrap_err();
            assert!(matches!(&refused, JoinError::BadReply(why) if why.contains(what)), "{refused}");
        }
        // Who is new knows none yet.
        assert_eq!(is_current(&Lineage::default(), &ours), Ok(()));
    }

    #[test]
    fn replies_survive_the_wire() {
        let joined = Joined {
            certificate: vec![1],
            ca_certificate: vec![2],
            authorities: vec![vec![3], vec![4]],
            cluster_id: ClusterId::from_bytes([3; 16]),
            lineage: Lineage::default(),
            node_id: NodeId::from_bytes([4; 16]),
            raft_id: RaftId(5),
            managers: vec![ManagerAddress {
                raft_id: RaftId(1),
                node_id: NodeId::from_bytes([6; 16]),
                addresses: vec!["a:1".into()],
            }],
            extra: Bytes::from_static(b"policy"),
        };
        for reply in [
            JoinReply::Joined(Box::new(joined)),
            JoinReply::Refused(JoinRefused::BadToken),
            JoinReply::Refused(JoinRefused::Unreachable("10.0.0.9:4701".into())),
            JoinReply::Refused(JoinRefused::NoLeader),
            JoinReply::Refused(JoinRefused::NotAMember),
            JoinReply::Refused(JoinRefused::Superseded("generation 1 was ended".into())),
            JoinReply::Standing(NodeStanding { lineage: Lineage::default(), record: None }),
        ] {
            assert_eq!(JoinReply::from_wire(reply.to_wire()), Some(reply));
        }
    }
}
