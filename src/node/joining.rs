//! Newcomers, and a manager's own record.
//!
//! Owns what a join does: check the token, give out a raft id from the replicated counter, sign the newcomer's key. A
//! newcomer that asks twice gets the same answer twice. Every change is one transaction on the cluster's record, so two
//! joins never get one raft id or one name. Any manager does it; the log decides.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{COMMAND_VERSION, Command, CommandKind};
use quorate_core::consensus::io::{Origin, Records};
use quorate_core::id::RaftId;
use quorate_core::limits::NAME_BYTES_MAX;
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::txn::{Compare, Put, Txn};
use quorate_transport::{
    CertRole, CertSubject, ClusterCa, JoinRefused, JoinReply, JoinRequest, Joined, ManagerAddress, TokenSecret, api,
};
use tokio::time::Instant;

use super::router::Failure;
use super::service::{Service, blocking, broken, display_name};
use super::records;
use crate::client::SOFTWARE;
use crate::config;

/// How long the cluster may take to decide about a newcomer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Attempts when somebody else changes the cluster's record at the same time.
const ATTEMPTS: usize = 16;

/// What a join reads, from one view.
struct Seen {
    records: Records,
    cluster_revision: u64,
    node: Option<(NodeRecord, u64)>,
    manager: Option<TokenSecret>,
    worker: Option<TokenSecret>,
    ca: Option<ClusterCa>,
}

fn words(error: Failure) -> JoinRefused {
    if matches!(error.code(), api::Code::NoLeader | api::Code::QuorumLost) {
        JoinRefused::NoLeader
    } else {
        JoinRefused::Other(error.message)
    }
}

impl Service {
    async fn seen(&self, request: &JoinRequest) -> Result<Seen, Failure> {
        let (reader, node_id) = (self.store()?.reader, request.node_id);
        blocking(move || {
            let view = reader.view();
            let seen = || -> quorate_core::ports::StoreResult<Seen> {
                let node = records::value(&*view, NodeRecord::key(node_id))?
                    .and_then(|(bytes, revision)| Some((NodeRecord::decode(bytes).ok()?, revision)));
                Ok(Seen {
                    records: Records::read(&*view)?,
                    cluster_revision: records::value(&*view, ClusterRecord::key())?.map_or(0, |(_, revision)| revision),
                    node,
                    manager: records::token(&*view, Role::Manager)?,
                    worker: records::token(&*view, Role::Worker)?,
                    ca: records::ca(&*view)?,
                })
            };
            seen().map_err(|error| broken(&error))
        })
        .await
    }

    /// Takes a newcomer in, or says why not.
    pub(super) async fn join(&self, source: SocketAddr, request: JoinRequest) -> Result<JoinReply, JoinRefused> {
        let until = Instant::now() + PATIENCE;
        let address = reachable_address(&request.advertise, source)?;
        if request.name.len() > NAME_BYTES_MAX {
            return Err(JoinRefused::Malformed(format!(
                "the name has {} bytes, at most {NAME_BYTES_MAX}",
                request.name.len()
            )));
        }
        for _ in 0..ATTEMPTS {
            self.router.read_index(until).await.map_err(words)?;
            let seen = self.seen(&request).await.map_err(words)?;
            let role = role_of(&seen, &request.secret)?;
            if role == Role::Worker {
                return Err(JoinRefused::Other("this version takes managers only; join with the manager token".into()));
            }
            let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
            // Signing first: a malformed request must not leave a record behind.
            let subject =
                CertSubject { cluster: self.facts.cluster(), node_id: request.node_id, role: CertRole::Manager };
            let certificate = ca
                .issue(&request.csr, &subject, config::CERTIFICATE, SystemTime::now())
                .map_err(|error| JoinRefused::Malformed(error.to_string()))?;
            let digest = quorate_transport::Subject::of(&certificate)
                .map_err(|problem| JoinRefused::Malformed(problem.to_string()))?
                .key_digest;
            if let Some((record, _)) = &seen.node {
                if record.key_digest != digest.as_slice() {
                    return Err(JoinRefused::AlreadyKnown(request.node_id.to_string()));
                }
                return Ok(self.joined(&seen, RaftId(record.raft_id), &certificate, &request, &address));
            }
            if !request.name.is_empty() && seen.records.nodes.iter().any(|node| node.name == request.name) {
                return Err(JoinRefused::AlreadyKnown(format!(
                    "the name {} is taken; choose another with --name",
                    request.name
                )));
            }
            if let Some(other) = seen.records.nodes.iter().find(|node| node.addresses.contains(&address)) {
                return Err(JoinRefused::Other(format!(
                    "{} already has the address {address}; choose another --listen or --advertise. Nothing was changed",
                    display_name(other)
                )));
            }
            let raft_id = RaftId(seen.records.cluster.next_raft_id);
            let txn = admission(&seen, &request, &address, raft_id, &digest);
            let command = Command::from(CommandKind::System(txn));
            let done = self.router.execute(command, Origin::Here, until).await.map_err(words)?;
            if done.succeeded {
                tracing::info!(node = %request.node_id, name = request.name, address, %raft_id, "a manager joined");
                return Ok(self.joined(&seen, raft_id, &certificate, &request, &address));
            }
        }
        Err(JoinRefused::Other("too many nodes join at the same time; try again".into()))
    }

    fn joined(
        &self,
        seen: &Seen,
        raft_id: RaftId,
        certificate: &[u8],
        request: &JoinRequest,
        address: &str,
    ) -> JoinReply {
        let managers = seen
            .records
            .nodes
            .iter()
            .filter_map(|node| {
                Some(ManagerAddress {
                    raft_id: node.raft()?,
                    node_id: node.node_id()?,
                    addresses: node.addresses.clone(),
                })
            })
            .filter(|manager| manager.raft_id != raft_id)
            .collect();
        JoinReply::Joined(Box::new(Joined {
            certificate: certificate.to_vec(),
            ca_certificate: seen.ca.as_ref().map(|ca| ca.certificate().to_vec()).unwrap_or_default(),
            cluster_id: self.facts.cluster(),
            lineage: seen.records.lineage(),
            node_id: request.node_id,
            raft_id,
            managers,
            extra: Bytes::copy_from_slice(address.as_bytes()),
        }))
    }

    /// Brings this manager's own record up to date: address, store, versions. Level-triggered; called after a start and
    /// whenever the records change.
    pub(super) async fn announce(&self) {
        let wanted = |node: &NodeRecord| NodeRecord {
            addresses: vec![self.facts.advertise.clone()],
            // A raft id is bound to one store for ever: another one is not taken over, it is refused.
            store_id: if node.store_id.is_empty() { self.facts.store_id.clone() } else { node.store_id.clone() },
            command_version: COMMAND_VERSION,
            software: SOFTWARE.to_owned(),
            ..node.clone()
        };
        let stale = |records: &Records| records.by_raft_id(self.facts.raft()).is_some_and(|node| wanted(node) != *node);
        if !stale(&self.records.borrow()) {
            return;
        }
        let Ok(store) = self.store() else { return };
        let (reader, key) = (store.reader, NodeRecord::key(self.facts.node()));
        let current_key = key.clone();
        let Ok(Some((bytes, revision))) =
            blocking(move || records::value(&*reader.view(), current_key).map_err(|error| broken(&error))).await
        else {
            return;
        };
        let Ok(record) = NodeRecord::decode(bytes) else { return };
        let value = wanted(&record).to_bytes();
        let txn = Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            then: vec![Put { key, value, ..Put::default() }.into()],
            ..Txn::default()
        };
        let until = Instant::now() + PATIENCE;
        match self.router.execute(Command::from(CommandKind::System(txn)), Origin::Here, until).await {
            Ok(_) => {}
            Err(error) => tracing::debug!(error = error.message, "own record not updated yet"),
        }
    }
}

fn role_of(seen: &Seen, secret: &TokenSecret) -> Result<Role, JoinRefused> {
    let matches = |token: &Option<TokenSecret>| token.as_ref().is_some_and(|token| token.matches(secret.expose()));
    // Both comparisons are always made: the time says nothing about which one held.
    match (matches(&seen.manager), matches(&seen.worker)) {
        (true, _) => Ok(Role::Manager),
        (false, true) => Ok(Role::Worker),
        (false, false) => Err(JoinRefused::BadToken),
    }
}

/// `host:port`, with an unspecified host replaced by where the request came from.
fn reachable_address(advertise: &str, source: SocketAddr) -> Result<String, JoinRefused> {
    if let Ok(address) = advertise.parse::<SocketAddr>() {
        let ip = if address.ip().is_unspecified() { source.ip() } else { address.ip() };
        return Ok(SocketAddr::new(ip, address.port()).to_string());
    }
    match advertise.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(advertise.to_owned())
        }
        _ => Err(JoinRefused::Malformed(format!("`{advertise}` is no host:port to reach this node at"))),
    }
}

/// The transaction that makes the newcomer a member of the records.
fn admission(seen: &Seen, request: &JoinRequest, address: &str, raft_id: RaftId, digest: &[u8; 32]) -> Txn {
    let mut cluster = seen.records.cluster.clone();
    cluster.next_raft_id = raft_id.0 + 1;
    let node = NodeRecord {
        id: Bytes::copy_from_slice(request.node_id.as_bytes()),
        name: request.name.clone(),
        role: Role::Manager.into(),
        addresses: vec![address.to_owned()],
        raft_id: raft_id.0,
        store_id: request.store_id.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        command_version: request.command_version,
        software: request.software.clone(),
        key_digest: Bytes::copy_from_slice(digest),
        ..NodeRecord::default()
    };
    let key = NodeRecord::key(request.node_id);
    Txn {
        compares: vec![
            Compare::mod_revision(ClusterRecord::key(), seen.cluster_revision),
            Compare::absent(key.clone()),
        ],
        then: vec![
            Put { key: ClusterRecord::key(), value: cluster.to_bytes(), ..Put::default() }.into(),
            Put { key, value: node.to_bytes(), ..Put::default() }.into(),
        ],
        ..Txn::default()
    }
}
