//! Nodes of the cluster whose role changes: the managers' side.
//!
//! Owns two answers. A worker that is asked to be a manager gets a raft id for its store and a manager's certificate
//! (`Enrol`), once a manager has reached it at the address that it will have; until then it is written down what hinders it. A node that asks on the join plane who it is gets a certificate for the role it has now, proven by the key in
//! its record; without a record it is told that it was removed. Asked twice, both answer twice the same.

use bytes::Bytes;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Records;
use quorate_core::id::{Enrolled, Lineage, LineageOrder, NodeId, RaftId, StoreId};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::upgrade::Support;
use quorate_core::txn::Txn;
use quorate_storage::takes_copies;
use quorate_transport::{CertRole, CertSubject, ClusterCa, JoinRefused, JoinReply, JoinRequest, Subject, api};
use tokio::time::Instant;

use super::joining::{DIAL_BACK, Seen, UNUSABLE, words};
use super::raft_ids::{self, Attempts};
use super::renewal::Terms;
use super::router::{Failure, fail};
use super::service::{Service, display_name};

/// What a certificate says of the raft id in this record; nothing of a worker, nor where no store is bound to it yet.
pub(super) fn enrolled(record: &NodeRecord, records: &Records) -> Option<Enrolled> {
    let lineage = records.lineage().current()?;
    Some(Enrolled { raft_id: record.raft()?, store_id: record.store()?, lineage })
}

/// A certificate for this role, with the raft id that a manager was given, and the digest of its key.
pub(super) fn certify(
    ca: &ClusterCa,
    csr: &[u8],
    node: NodeId,
    (role, enrolled): (CertRole, Option<Enrolled>),
    terms: Terms,
) -> Result<(Vec<u8>, [u8; 32]), String> {
    let subject = CertSubject { cluster: ca.cluster_id(), node_id: node, role, enrolled };
    let certificate = ca.issue(csr, &subject, terms.life, terms.clock.now()).map_err(|error| error.to_string())?;
    let digest = Subject::of(&certificate).map_err(|problem| problem.to_string())?.key_digest;
    Ok((certificate.to_vec(), digest))
}

/// The manager that has this address, other than `node`.
pub(super) fn manager_at<'a>(records: &'a Records, address: &str, node: NodeId) -> Option<&'a NodeRecord> {
    let mut managers = records.nodes.members().filter(|other| other.raft_id != 0 && other.node_id() != Some(node));
    managers.find(|other| other.addresses.iter().any(|known| known == address))
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
        if !takes_copies(&enrol.sealing_key).unwrap_or(false) {
            return Err(fail(api::Code::Invalid, format!("{UNUSABLE}. Nothing was changed")));
        }
        let mut reached = false;
        let mut attempts = Attempts::until(until);
        while attempts.another().await {
            self.router.read_index(until).await?;
            let seen = self.seen(node).await?;
            let Some((record, revision)) = &seen.node else {
                return Err(fail(api::Code::NotFound, "the cluster has no record of this node; join with a token"));
            };
            let ca = seen.ca.as_ref().ok_or_else(|| fail(api::Code::Internal, "the cluster has no CA"))?;
            let as_of = |record: &NodeRecord| {
                let manager = (CertRole::Manager, enrolled(record, &seen.records));
                certify(ca, &enrol.csr, node, manager, self.certificates)
                    .map_err(|why| fail(api::Code::Invalid, format!("{why}. Nothing was changed")))
            };
            let (certificate, digest) = as_of(record)?;
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
                    command_version_min: enrol.command_version_min,
                    software: enrol.software.clone(),
                    sealing_key: enrol.sealing_key.clone(),
                };
                self.rejoin(node, rejoin, until).await?;
                continue;
            }
            let known = record.addresses.first().map_or("", String::as_str);
            let address = if enrol.advertise.is_empty() { known } else { &enrol.advertise };
            let support = Support { oldest: enrol.command_version_min, newest: enrol.command_version };
            let unfit = support.check(seen.records.cluster.version).err().map(|unfit| unfit.to_string());
            let hindrance = match manager_at(&seen.records, address, node) {
                _ if unfit.is_some() => unfit,
                Some(other) => Some(format!(
                    "{} already has the address {address}; start this node with another --listen or --advertise",
                    display_name(other)
                )),
                // A manager that nobody can dial would hold a seat without being any good for it. What was seen before is
                // old then.
                None if reached => None,
                None => match self.peers.dial_back(address, digest, DIAL_BACK).await {
                    Ok(()) => {
                        reached = true;
                        continue;
                    }
                    Err(why) => Some(format!(
                        "{} could not reach this node: {why}; start it with the right --advertise (or --listen) address, and open its UDP port",
                        self.own_name()
                    )),
                },
            };
            if let Some(hindrance) = hindrance {
                self.note_hindrance(node, record, *revision, &hindrance, until).await;
                return Err(fail(api::Code::Refused, format!("{hindrance}. It stays a worker, nothing was changed")));
            }
            let mut txn = Txn { compares: vec![seen.same_ca()], ..Txn::default() };
            let raft_id = raft_ids::draw(&mut txn, &seen.records, seen.cluster_revision);
            let mut updated = record.clone();
            updated.raft_id = raft_id.0;
            updated.store_id = enrol.store_id.clone();
            updated.sealing_key = enrol.sealing_key.clone();
            (updated.command_version_min, updated.command_version) = (support.oldest, support.newest);
            updated.software.clone_from(&enrol.software);
            updated.addresses = vec![address.to_owned()];
            updated.hindrance.clear();
            let (certificate, _) = as_of(&updated)?;
            raft_ids::write(&mut txn, node, &updated, *revision);
            let done = self.router.execute(Command::from(CommandKind::System(txn)), until).await?;
            if done.succeeded {
                tracing::info!(node = display_name(&updated), %raft_id, "a worker becomes a manager");
                return Ok(answer(&seen, &updated, certificate));
            }
        }
        Err(fail(api::Code::Overloaded, "too many membership changes at the same time. Nothing was changed; try again"))
    }

    /// Writes down why a promotion waits, for whoever asks any manager about it. The node asks again and again: written is
    /// only what is new.
    async fn note_hindrance(&self, node: NodeId, record: &NodeRecord, revision: u64, why: &str, until: Instant) {
        if record.hindrance == why {
            return;
        }
        let mut txn = Txn::default();
        raft_ids::write(&mut txn, node, &NodeRecord { hindrance: why.to_owned(), ..record.clone() }, revision);
        if let Err(error) = self.router.execute(Command::from(CommandKind::System(txn)), until).await {
            tracing::debug!(error = error.message, "why a promotion waits is written down later");
        }
    }

    /// Says who a node of the cluster is now, with a certificate that says so. Writes nothing of a node.
    pub(super) async fn renew(&self, request: &JoinRequest, until: Instant) -> Result<JoinReply, JoinRefused> {
        self.of_its_generation(&request.lineage)?;
        self.router.read_index(until).await.map_err(words)?;
        let seen = self.seen(request.node_id).await.map_err(words)?;
        let Some((record, _)) = &seen.node else { return self.renew_operator(request, &seen, until).await };
        if record.compromised {
            return Err(JoinRefused::NotAMember);
        }
        if record.lost {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{} was left behind by a recovery of the cluster, and what only its store holds is kept; it comes back with `quorate join --replace --token TOKEN`",
                display_name(record)
            )));
        }
        let ca = seen.ca.as_ref().ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
        let role = if record.raft_id == 0 { CertRole::Worker } else { CertRole::Manager };
        let role = (role, enrolled(record, &seen.records));
        let (certificate, digest) =
            certify(ca, &request.csr, request.node_id, role, self.certificates).map_err(JoinRefused::Malformed)?;
        if record.key_digest != digest.as_slice() {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{} is known with another key; move the directory aside and join again",
                display_name(record)
            )));
        }
        if record.raft_id != 0 && record.store().is_some() && record.store() != request.store_id {
            return Err(JoinRefused::AlreadyKnown(format!(
                "{name} is a manager with another store (raft id {}): this directory was put back to what it was before that, or it is a copy. Nothing was harmed. Next: if {name} runs elsewhere, remove this copy; else come back with a fresh store (this one is moved aside, not deleted): quorate join --replace --token TOKEN --manager HOST:PORT",
                record.raft_id,
                name = display_name(record)
            )));
        }
        let address = record.addresses.first().cloned().unwrap_or_default();
        Ok(self.joined(&seen, (request.node_id, RaftId(record.raft_id)), &certificate, &address))
    }

    /// Whether this manager is of the incarnation of the cluster that a node knows, or of a later one: else it may not have heard of the
    /// node, and "it is no member" would stop it.
    fn of_its_generation(&self, theirs: &Lineage) -> Result<(), JoinRefused> {
        let ours = self.lineage();
        let what = match ours.compare(theirs) {
            LineageOrder::Equal | LineageOrder::Newer => return Ok(()),
            LineageOrder::Older => "that one has ended this one",
            LineageOrder::Forked => "the two are of different recoveries",
        };
        Err(JoinRefused::Superseded(format!(
            "this manager is of generation {}, the node of generation {}: {what}",
            ours.generation(),
            theirs.generation()
        )))
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
        // Nobody is vouched for who is being thrown out.
        let managers =
            records.nodes.members().filter(|node| node.raft_id != 0 && !node.compromised).map(known).collect();
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
        authorities: seen.other_authorities().cloned().collect(),
        managers: others.map(known).collect(),
    }
}
