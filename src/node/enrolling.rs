//! Nodes of the cluster whose role changes: the managers' side.
//!
//! Owns two answers. A worker that is asked to be a manager gets a raft id for its store and a manager's certificate
//! (`Enrol`). A node that asks on the join plane who it is gets a certificate for the role it has now, proven by the key in
//! its record; without a record it is told that it was removed. Asked twice, both answer twice the same.

use std::time::SystemTime;

use bytes::Bytes;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Origin, Records};
use quorate_core::id::{NodeId, RaftId, StoreId};
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::txn::{Compare, Put, Txn};
use quorate_transport::{CertRole, CertSubject, ClusterCa, JoinRefused, JoinReply, JoinRequest, Subject, api};
use tokio::time::Instant;

use super::joining::{ATTEMPTS, Seen, words};
use super::router::{Failure, fail};
use super::service::{Service, display_name};
use crate::config;

/// A certificate for this role, and the digest of its key.
pub(super) fn certify(ca: &ClusterCa, csr: &[u8], node: NodeId, role: CertRole) -> Result<(Vec<u8>, [u8; 32]), String> {
    let subject = CertSubject { cluster: ca.cluster_id(), node_id: node, role };
    let certificate =
        ca.issue(csr, &subject, config::CERTIFICATE, SystemTime::now()).map_err(|error| error.to_string())?;
    let digest = Subject::of(&certificate).map_err(|problem| problem.to_string())?.key_digest;
    Ok((certificate.to_vec(), digest))
}

/// The manager that has this address, other than `node`.
pub(super) fn manager_at<'a>(records: &'a Records, address: &String, node: NodeId) -> Option<&'a NodeRecord> {
    let mut managers = records.nodes.members().filter(|other| other.raft_id != 0 && other.node_id() != Some(node));
    managers.find(|other| other.addresses.contains(address))
}

impl Service {
    /// Makes the node that asks a manager, if that is what it is asked to be.
    pub(super) async fn enrol(
        &self,
        node: NodeId,
        enrol: api::Enrol,
        until: Instant,
    ) -> Result<api::EnrolDone, Failure> {
        let Some(store) = StoreId::from_slice(&enrol.store_id) else {
            return Err(fail(api::Code::Invalid, "the store id must be 16 bytes. Nothing was changed"));
        };
        for _ in 0..ATTEMPTS {
            self.router.read_index(until).await?;
            let seen = self.seen(node).await?;
            let Some((record, revision)) = &seen.node else {
                return Err(fail(api::Code::NotFound, "the cluster has no record of this node; join with a token"));
            };
            let ca = seen.ca.as_ref().ok_or_else(|| fail(api::Code::Internal, "the cluster has no CA"))?;
            let (certificate, digest) = certify(ca, &enrol.csr, node, CertRole::Manager)
                .map_err(|why| fail(api::Code::Invalid, format!("{why}. Nothing was changed")))?;
            if record.key_digest != digest.as_slice() {
                return Err(fail(api::Code::Denied, "the key is not the one that this node joined with"));
            }
            if record.lost || record.role != i32::from(Role::Manager) {
                let why = "the node is not asked to be a manager; promote it first. Nothing was changed";
                return Err(fail(api::Code::Refused, why));
            }
            if record.raft_id != 0 && record.store() == Some(store) {
                return Ok(answer(&seen, record, certificate));
            }
            if record.raft_id != 0 {
                // It has lost the store that it had asked for: that raft id is burnt, as for any manager.
                let rejoin = api::Rejoin {
                    store_id: enrol.store_id.clone(),
                    advertise: enrol.advertise.clone(),
                    command_version: enrol.command_version,
                    software: enrol.software.clone(),
                };
                self.rejoin(node, rejoin, until).await?;
                continue;
            }
            if let Some(other) = manager_at(&seen.records, &enrol.advertise, node) {
                return Err(fail(
                    api::Code::Refused,
                    format!(
                        "{} already has the address {}; start this node with another --listen or --advertise. It stays a worker, nothing was changed",
                        display_name(other),
                        enrol.advertise
                    ),
                ));
            }
            let mut cluster = seen.records.cluster.clone();
            let raft_id = RaftId(cluster.next_raft_id);
            cluster.next_raft_id += 1;
            let mut updated = record.clone();
            updated.raft_id = raft_id.0;
            updated.store_id = enrol.store_id.clone();
            updated.command_version = enrol.command_version;
            updated.software.clone_from(&enrol.software);
            if !enrol.advertise.is_empty() {
                updated.addresses = vec![enrol.advertise.clone()];
            }
            let put = |key: Bytes, value: Bytes| Put { key, value, ..Put::default() }.into();
            let txn = Txn {
                compares: vec![
                    Compare::mod_revision(ClusterRecord::key(), seen.cluster_revision),
                    Compare::mod_revision(NodeRecord::key(node), *revision),
                ],
                then: vec![
                    put(ClusterRecord::key(), cluster.to_bytes()),
                    put(NodeRecord::key(node), updated.to_bytes()),
                ],
                ..Txn::default()
            };
            let done = self.router.execute(Command::from(CommandKind::System(txn)), Origin::Here, until).await?;
            if done.succeeded {
                tracing::info!(node = display_name(&updated), %raft_id, "a worker becomes a manager");
                return Ok(answer(&seen, &updated, certificate));
            }
        }
        Err(fail(api::Code::Overloaded, "too many membership changes at the same time. Nothing was changed; try again"))
    }

    /// Says who a node of the cluster is now, with a certificate that says so. Writes nothing.
    pub(super) async fn renew(&self, request: &JoinRequest, until: Instant) -> Result<JoinReply, JoinRefused> {
        self.router.read_index(until).await.map_err(words)?;
        let seen = self.seen(request.node_id).await.map_err(words)?;
        let Some((record, _)) = &seen.node else { return Err(JoinRefused::NotAMember) };
        if record.lost {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{} was left behind by a recovery of the cluster, and what only its store holds is kept; it comes back with `quorate join --replace --token TOKEN`",
                display_name(record)
            )));
        }
        let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
        let role = if record.raft_id == 0 { CertRole::Worker } else { CertRole::Manager };
        let (certificate, digest) = certify(ca, &request.csr, request.node_id, role).map_err(JoinRefused::Malformed)?;
        if record.key_digest != digest.as_slice() {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{} is known with another key; move the directory aside and join again",
                display_name(record)
            )));
        }
        if record.raft_id != 0 && record.store().is_some() && record.store() != request.store_id {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{} is a manager with another store (raft id {}): this directory is a copy, or an older one. Move it aside",
                display_name(record),
                record.raft_id
            )));
        }
        let address = record.addresses.first().cloned().unwrap_or_default();
        Ok(self.joined(&seen, RaftId(record.raft_id), &certificate, request, &address))
    }

    /// Where this manager has met others: what their hellos said over connections that stand, else their records.
    pub(super) fn addresses_met(&self) -> api::AddressesDone {
        let met = self.peers.advertised();
        let records = self.records.borrow();
        let known = |node: &NodeRecord| {
            let told = met.iter().find(|(id, _)| id.0 == node.raft_id).map(|(_, address)| address.clone());
            let mut addresses: Vec<String> = told.into_iter().collect();
            addresses
                .extend(node.addresses.iter().filter(|address| !met.iter().any(|(_, told)| told == *address)).cloned());
            api::Known { raft_id: node.raft_id, node_id: node.id.clone(), addresses }
        };
        let managers = records.nodes.members().filter(|node| node.raft_id != 0).map(known).collect();
        api::AddressesDone { managers }
    }
}

fn answer(seen: &Seen, record: &NodeRecord, certificate: Vec<u8>) -> api::EnrolDone {
    let known = |node: &NodeRecord| api::Known {
        raft_id: node.raft_id,
        node_id: node.id.clone(),
        addresses: node.addresses.clone(),
    };
    let others = seen.records.nodes.members().filter(|node| node.raft_id != 0 && node.id != record.id);
    api::EnrolDone {
        raft_id: record.raft_id,
        certificate: certificate.into(),
        ca: seen.ca.as_ref().map(|ca| Bytes::copy_from_slice(ca.certificate())).unwrap_or_default(),
        lineage: seen.records.cluster.lineage.clone(),
        advertise: record.addresses.first().cloned().unwrap_or_default(),
        managers: others.map(known).collect(),
    }
}
