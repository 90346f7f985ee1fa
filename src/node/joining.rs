//! Newcomers, and a manager's own record.
//!
//! Owns what a join does: check the token, which says the role, dial a manager back and give it a raft id from the
//! replicated counter, sign the newcomer's key. A newcomer that asks twice gets the same answer twice. Every change is one
//! transaction on the cluster's record, so two joins never get one raft id or one name. Any manager does it; the log decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{COMMAND_VERSION, COMMAND_VERSION_MIN, Command, CommandKind};
use quorate_core::consensus::io::Records;
use quorate_core::id::{NodeId, RaftId, StoreId};
use quorate_core::membership::naming::check_name;
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::membership::trust::TrustRecord;
use quorate_core::txn::{Compare, Put, Txn};
use quorate_storage::takes_copies;
use quorate_transport::{CertRole, ClusterCa, JoinRefused, JoinReply, JoinRequest, Joined, ManagerAddress, api};
use tokio::time::{Instant, timeout_at};

use super::ca::with_issuer;
use super::enrolling::{certify, enrolled, manager_at};
use super::raft_ids::{self, Attempts};
use super::records;
use super::router::{Failure, fail};
use super::service::{Service, blocking, broken, display_name};
use super::tokens::{self, Tokens};
use crate::client::SOFTWARE;

/// How long the cluster may take to decide about a newcomer.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a newcomer may take to answer at its own address.
pub(super) const DIAL_BACK: Duration = Duration::from_secs(3);

/// What a join reads, from one view.
pub(super) struct Seen {
    /// They hold every change of the cluster's record up to `cluster_revision`, and so every join before it.
    pub(super) records: Arc<Records>,
    pub(super) cluster_revision: u64,
    pub(super) node: Option<(NodeRecord, u64)>,
    pub(super) tokens: Tokens,
    pub(super) ca: Option<ClusterCa>,
    pub(super) ca_revision: u64,
    pub(super) trust: TrustRecord,
}

impl Seen {
    /// That the root which signs here is still the one that signs: nobody is let in with a certificate of the one before.
    pub(super) fn same_ca(&self) -> Compare {
        Compare::mod_revision(records::ca_key(), self.ca_revision)
    }

    /// What is trusted besides the root that signs.
    pub(super) fn other_authorities(&self) -> impl Iterator<Item = &Bytes> {
        self.trust.authorities.iter().skip(1)
    }
}

/// Why a store is not taken in whose manager could never open what is sealed.
pub(super) const UNUSABLE: &str = "no barrier key can be sealed to the public sealing key that it comes with";

pub(super) fn words(error: Failure) -> JoinRefused {
    if matches!(error.code(), api::Code::NoLeader | api::Code::QuorumLost) {
        JoinRefused::NoLeader
    } else {
        JoinRefused::Other(error.message)
    }
}

impl Service {
    pub(super) async fn seen(&self, node_id: NodeId) -> Result<Seen, Failure> {
        let (reader, barrier) = (self.store()?.reader, Arc::clone(&self.barrier));
        let mut seen = blocking(move || {
            let view = reader.view();
            let seen = || -> quorate_core::ports::StoreResult<Seen> {
                let node = records::value(&*view, NodeRecord::key(node_id))?
                    .and_then(|(bytes, revision)| Some((NodeRecord::decode(bytes).ok()?, revision)));
                Ok(Seen {
                    records: Arc::default(),
                    cluster_revision: records::value(&*view, ClusterRecord::key())?.map_or(0, |(_, revision)| revision),
                    node,
                    tokens: Tokens::read(&*view, &barrier)?,
                    ca: records::ca(&*view, &barrier)?,
                    ca_revision: records::value(&*view, records::ca_key())?.map_or(0, |(_, revision)| revision),
                    trust: records::trust(&*view)?,
                })
            };
            seen().map_err(|error| broken(&error))
        })
        .await?;
        // Kept in memory change by change: reading ten thousand records for each newcomer would be the work of all of them
        // squared. They may be a moment behind the view.
        let mut records = self.records.clone();
        let revision = seen.cluster_revision;
        let reached = tokio::time::timeout(PATIENCE, records.wait_for(|records| records.revision.0 >= revision)).await;
        match reached {
            Ok(Ok(records)) => seen.records = Arc::clone(&records),
            Ok(Err(_)) => return Err(fail(api::Code::Stopping, "this manager is stopping; ask another one")),
            Err(_) => {
                return Err(fail(api::Code::Overloaded, "this manager is too busy. Nothing was changed; try again"));
            }
        }
        Ok(seen)
    }

    /// Takes a newcomer in, or says why not. No answer when that is not known: a refusal says that nothing was changed.
    pub(super) async fn join(&self, source: SocketAddr, request: JoinRequest) -> Option<JoinReply> {
        let mut open = false;
        match self.take_in(source, request, &mut open).await {
            Ok(reply) => Some(reply),
            Err(_) if open => None,
            Err(refused) => Some(JoinReply::Refused(refused)),
        }
    }

    /// `open`: something was proposed of which nobody can say what became of it.
    async fn take_in(
        &self,
        source: SocketAddr,
        request: JoinRequest,
        open: &mut bool,
    ) -> Result<JoinReply, JoinRefused> {
        let until = Instant::now() + PATIENCE;
        if request.renewal {
            return self.renew(&request, until).await;
        }
        if request.standing {
            return self.how_it_stands(&request, until).await;
        }
        let address = reachable_address(&request.advertise, source)?;
        check_name(&request.name).map_err(|why| JoinRefused::Malformed(why.to_string()))?;
        if request.store_id.is_some() && !takes_copies(&request.sealing_key).unwrap_or(false) {
            return Err(JoinRefused::Malformed(UNUSABLE.to_owned()));
        }
        if request.in_place {
            return self.join_in_place(&request, &address, until, open).await;
        }
        let mut reached = false;
        let mut turn = None;
        let mut attempts = Attempts::until(until);
        while attempts.another().await {
            // One at a time here: two at once would only make each other try again.
            if turn.is_none() {
                let Ok(Ok(permit)) = timeout_at(until, self.joins.acquire()).await else {
                    return Err(JoinRefused::NoLeader);
                };
                turn = Some(permit);
            }
            self.router.read_index(until).await.map_err(words)?;
            let seen = self.seen(request.node_id).await.map_err(words)?;
            let left = |(record, _): &(NodeRecord, u64)| left_behind(record, &seen.records, request.store_id);
            let admitted = seen.node.as_ref().is_some_and(|known| !left(known));
            let pass = seen.tokens.pass(&request.secret, admitted, tokens::unix_now())?;
            let role = pass.role;
            if role == Role::Manager && request.store_id.is_none() {
                return Err(JoinRefused::Other(
                    "NotBuiltAsManager: the node was built without the `manager` feature; join with the worker token, or with a program that has it. Nothing was changed".into(),
                ));
            }
            if role == Role::Manager {
                let version = seen.records.cluster.version;
                request.support.check(version).map_err(|unfit| JoinRefused::Version(unfit.to_string()))?;
            }
            let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
            // Signing first: a malformed request must not leave a record behind.
            let certified = if role == Role::Manager { CertRole::Manager } else { CertRole::Worker };
            let as_of = |record: Option<&NodeRecord>| {
                let role = (certified, record.and_then(|record| enrolled(record, &seen.records)));
                certify(ca, &request.csr, request.node_id, role, self.certificates).map_err(JoinRefused::Malformed)
            };
            let (certificate, digest) = as_of(seen.node.as_ref().map(|(record, _)| record))?;
            if let Some((record, _)) = &seen.node {
                if record.compromised {
                    return Err(JoinRefused::NotAMember);
                }
                // Whose key is lost cannot prove who it is: the manager's token stands for it, as for any newcomer.
                let vouched = request.key_lost && !admitted;
                if record.key_digest != digest.as_slice() && !vouched {
                    return Err(JoinRefused::AlreadyKnown(request.node_id.to_string()));
                }
                if !admitted && role != Role::Manager {
                    return Err(JoinRefused::Other(format!(
                        "{} comes back as the manager that it was, and the token is a worker's: give the manager token (`quorate token show manager`). Nothing was changed",
                        display_name(record)
                    )));
                }
                if (record.role == i32::from(Role::Manager)) != (role == Role::Manager) {
                    return Err(JoinRefused::AlreadyKnown(format!(
                        "{} has joined with the token of the other role already; run it as it is, and promote or demote it",
                        display_name(record)
                    )));
                }
                if admitted {
                    let is = (request.node_id, RaftId(record.raft_id));
                    return Ok(self.joined(&seen, is, &certificate, &address));
                }
            }
            let other = |node: &&NodeRecord| node.node_id() != Some(request.node_id);
            let named = |node: &NodeRecord| node.name == request.name;
            if !request.name.is_empty() && seen.records.nodes.iter().filter(other).any(named) {
                let way_out = if role == Role::Worker {
                    "; or, when that node is a worker whose disk is gone for good, take its place with `quorate join --replace --name NAME --token TOKEN`"
                } else {
                    ""
                };
                return Err(JoinRefused::Other(format!(
                    "the name {} is taken; choose another with --name{way_out}. Nothing was changed",
                    request.name
                )));
            }
            // A worker listens nowhere; what it would be reached at counts when it is promoted.
            let other = if role == Role::Manager { manager_at(&seen.records, &address, request.node_id) } else { None };
            if let Some(other) = other {
                return Err(JoinRefused::Other(format!(
                    "{} already has the address {address}; choose another --listen or --advertise. Nothing was changed",
                    display_name(other)
                )));
            }
            if role == Role::Manager && !reached {
                // A manager that nobody can dial would hold a seat without being any good for it. Others need not wait for
                // that; what was seen before is old then.
                drop(turn.take());
                if let Some((known, _)) = seen.node.as_ref().filter(|(known, _)| !known.lost)
                    && let Some(why) = self.runs_elsewhere(known, until).await
                {
                    return Err(JoinRefused::Other(why));
                }
                let dialled = self.peers.dial_back(&address, digest, DIAL_BACK).await;
                dialled.map_err(|why| JoinRefused::Unreachable(format!("{why}. Nothing was changed")))?;
                reached = true;
                continue;
            }
            let mut txn = Txn { compares: pass.compares, then: pass.then, ..Txn::default() };
            txn.compares.push(seen.same_ca());
            let raft_id = if role == Role::Manager {
                raft_ids::draw(&mut txn, &seen.records, seen.cluster_revision)
            } else {
                if !request.name.is_empty() {
                    raft_ids::claim(&mut txn, &seen.records.cluster, seen.cluster_revision);
                }
                RaftId(0)
            };
            let node = match &seen.node {
                Some((known, revision)) => {
                    let seated = self.status.borrow().configuration.clone();
                    let old = known.raft().unwrap_or_default();
                    let node = readmitted(known, &request, &address, (raft_id, &digest), seated.is_voter(old));
                    raft_ids::write(&mut txn, request.node_id, &node, *revision);
                    if old != RaftId(0) {
                        raft_ids::burn(&mut txn, old);
                    }
                    node
                }
                None => {
                    let node = admitted_as(role, &request, &address, raft_id, &digest);
                    raft_ids::write(&mut txn, request.node_id, &node, 0);
                    node
                }
            };
            // A manager's says the raft id that it is given only now; a worker's says none.
            let certificate = if role == Role::Manager { as_of(Some(&node))?.0 } else { certificate };
            if self.let_in(txn, until, open).await? {
                tracing::info!(node = %request.node_id, name = request.name, address, %raft_id, role = role.name(), "a node joined");
                return Ok(self.joined(&seen, (request.node_id, raft_id), &certificate, &address));
            }
        }
        Err(JoinRefused::Other("too many nodes join at the same time; try again".into()))
    }

    /// Proposes what lets a node in, and says whether that is done. If not, it is to be looked at again: somebody else was
    /// faster, or nobody can say what became of it (`open`), and if it was applied, the record says so by then.
    pub(super) async fn let_in(&self, txn: Txn, until: Instant, open: &mut bool) -> Result<bool, JoinRefused> {
        let command = Command::from(CommandKind::System(txn));
        match self.router.execute(command, until).await {
            Ok(done) => Ok(done.succeeded),
            Err(error) if matches!(error.code(), api::Code::Unknown) => {
                *open = true;
                Ok(false)
            }
            Err(error) => Err(words(error)),
        }
    }

    pub(super) fn joined(
        &self,
        seen: &Seen,
        (node_id, raft_id): (NodeId, RaftId),
        certificate: &[u8],
        address: &str,
    ) -> JoinReply {
        let managers = seen
            .records
            .nodes
            .members()
            .filter_map(|node| {
                Some(ManagerAddress {
                    raft_id: node.raft()?,
                    node_id: node.node_id()?,
                    addresses: node.addresses.clone(),
                })
            })
            .filter(|manager| manager.node_id != node_id)
            .collect();
        JoinReply::Joined(Box::new(Joined {
            certificate: certificate.to_vec(),
            ca_certificate: seen.ca.as_ref().map(|ca| ca.certificate().to_vec()).unwrap_or_default(),
            authorities: seen.other_authorities().map(|authority| authority.to_vec()).collect(),
            cluster_id: self.facts.cluster(),
            lineage: seen.records.lineage(),
            node_id,
            raft_id,
            managers,
            extra: Bytes::copy_from_slice(address.as_bytes()),
        }))
    }

    /// Brings this manager's own record up to date: address, store, versions. Level-triggered; called after a start and
    /// whenever the records change.
    pub(super) async fn announce(&self) {
        // That it shows a certificate of the new CA is said while that is waited for.
        let (trust, issuer) = (self.records.borrow().trust.clone(), self.identity().subject().issuer);
        let wanted = |node: &NodeRecord| NodeRecord {
            addresses: vec![self.facts.advertise.clone()],
            // A raft id is bound to one store for ever: another one is not taken over, it is refused.
            store_id: if node.store_id.is_empty() { self.facts.store_id.clone() } else { node.store_id.clone() },
            command_version: COMMAND_VERSION,
            command_version_min: COMMAND_VERSION_MIN,
            software: SOFTWARE.to_owned(),
            ..with_issuer(&trust, node, &issuer).unwrap_or_else(|| node.clone())
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
        match self.router.execute(Command::from(CommandKind::System(txn)), until).await {
            Ok(_) => {}
            Err(error) => tracing::debug!(error = error.message, "own record not updated yet"),
        }
    }
}

/// Whether a node that asks to join is known, but no longer with what it comes with: its raft id was taken from it by a
/// recovery or a removal, or its store is another one than the raft id is bound to. A worker has neither, and stands as long
/// as its record does.
fn left_behind(record: &NodeRecord, records: &Records, store: Option<StoreId>) -> bool {
    let Some(raft_id) = record.raft() else { return record.lost || record.role == i32::from(Role::Manager) };
    let burnt = records.removed.contains(&raft_id);
    let other_store = record.store().is_some() && record.store() != store;
    record.lost || burnt || other_store
}

/// A known node with a new raft id for its fresh store. A seat that the old one still holds is handed on, as for a damaged
/// store.
fn readmitted(
    known: &NodeRecord,
    request: &JoinRequest,
    address: &str,
    (raft_id, digest): (RaftId, &[u8; 32]),
    seated: bool,
) -> NodeRecord {
    NodeRecord {
        role: Role::Manager.into(),
        name: if request.name.is_empty() { known.name.clone() } else { request.name.clone() },
        addresses: vec![address.to_owned()],
        raft_id: raft_id.0,
        replaces: if seated { known.raft_id } else { 0 },
        store_id: request.store_id.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        sealing_key: request.sealing_key.clone(),
        command_version: request.support.newest,
        command_version_min: request.support.oldest,
        software: request.software.clone(),
        key_digest: Bytes::copy_from_slice(digest),
        removing: false,
        forced: false,
        lost: false,
        stands_in: false,
        ..known.clone()
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

/// The record of a newcomer. A worker has no store that anything could be bound to.
fn admitted_as(role: Role, request: &JoinRequest, address: &str, raft_id: RaftId, digest: &[u8; 32]) -> NodeRecord {
    let store = request.store_id.filter(|_| role == Role::Manager);
    NodeRecord {
        id: Bytes::copy_from_slice(request.node_id.as_bytes()),
        name: request.name.clone(),
        role: role.into(),
        addresses: vec![address.to_owned()],
        raft_id: raft_id.0,
        store_id: store.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
        sealing_key: if store.is_some() { request.sealing_key.clone() } else { Bytes::new() },
        command_version: request.support.newest,
        command_version_min: request.support.oldest,
        software: request.software.clone(),
        key_digest: Bytes::copy_from_slice(digest),
        ..NodeRecord::default()
    }
}
