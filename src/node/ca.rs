//! The cluster's CA on a manager: what is trusted, and the replacement of the root by another.
//!
//! Owns how a rotation begins (one transaction, from any manager), that the leader ends it, and that nobody stays connected by a
//! certificate that nobody trusts any more. When it is over is decided by [`quorate_core::membership::trust`], by records alone: a leader
//! that dies leaves nothing behind. Who has renewed is noted where a certificate is shown: by the manager of a worker's session, by
//! a manager of itself, and for operators where one is signed. Called by the service and by the running node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Origin, RaftRole, Records};
use quorate_core::membership::operators::OperatorRecord;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::trust::{RotationRefused, TrustRecord, Waited};
use quorate_core::txn::{Compare, Operand, Put, Relation, Txn};
use quorate_transport::api::{self, response};
use quorate_transport::{CaHash, ClusterCa};
use tokio::time::Instant;

use super::gate::Asker;
use super::once::already_settled;
use super::records::{self, CaRecord};
use super::router::{Failure, fail, refused_by};
use super::service::{Service, blocking, broken, display_name, document};
use crate::membership::{CaInfo, CaWaits, Rule};

/// Between two looks of the leader at a rotation.
const LOOK: Duration = Duration::from_millis(500);
/// How long the end of a rotation may take to be written; it is looked at again anyway.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long an answer waits for what it began to be known here.
const FOLLOW: Duration = Duration::from_secs(2);
/// Those whom a rotation waits for that are named in an answer.
const NAMED_MAX: usize = 200;

/// The CA and what is trusted, as one view has them, each with the revision of its record.
struct Seen {
    ca: ClusterCa,
    ca_revision: u64,
    trust: TrustRecord,
    trust_revision: u64,
}

fn refused(refused: RotationRefused) -> Failure {
    let message = format!("{refused}. Nothing was changed");
    match refused {
        RotationRefused::Deadline => fail(api::Code::Invalid, message),
        RotationRefused::TooMany => refused_by(Rule::TooManyRotations, message),
    }
}

impl Service {
    async fn ca_seen(&self, until: Instant) -> Result<Seen, Failure> {
        self.router.read_index(until).await?;
        let reader = self.store()?.reader;
        let seen = blocking(move || {
            let view = reader.view();
            let seen = || {
                let Some(ca) = records::ca(&*view)? else { return Ok(None) };
                let ca_revision = records::value(&*view, records::ca_key())?.map_or(0, |(_, revision)| revision);
                let trust_revision = records::value(&*view, TrustRecord::key())?.map_or(0, |(_, revision)| revision);
                Ok(Some(Seen { ca, ca_revision, trust: records::trust(&*view)?, trust_revision }))
            };
            seen().map_err(|error| broken(&error))
        })
        .await?;
        seen.ok_or_else(|| fail(api::Code::Internal, "the cluster has no CA"))
    }

    /// What makes another root the one that signs, and both trusted.
    pub(super) async fn rotation(&self, deadline_s: u64, until: Instant) -> Result<Txn, Failure> {
        let Seen { ca, ca_revision, trust, trust_revision } = self.ca_seen(until).await?;
        let internal =
            |error: &dyn std::fmt::Display| fail(api::Code::Internal, format!("{error}. Nothing was changed"));
        let now = self.certificates.clock.now();
        let next = ClusterCa::create(ca.cluster_id(), now).map_err(|error| internal(&error))?;
        let cross = ca.cross_sign(&next, now).map_err(|error| internal(&error))?;
        let root = (Bytes::copy_from_slice(next.certificate()), Bytes::copy_from_slice(&next.issuer_id()));
        let cross = Bytes::copy_from_slice(&cross);
        let nodes = self.records.borrow().nodes.iter().count();
        let rotated = trust.rotated(root, cross, nodes, self.operators_now(), deadline_s).map_err(refused)?;
        let (certificate, key) = next.to_parts();
        let record = CaRecord { certificate: certificate.into(), key: Bytes::copy_from_slice(&key) };
        Ok(Txn {
            compares: vec![
                Compare::mod_revision(records::ca_key(), ca_revision),
                Compare::mod_revision(TrustRecord::key(), trust_revision),
            ],
            then: vec![
                Put { key: records::ca_key(), value: record.encode_to_vec().into(), ..Put::default() }.into(),
                Put { key: TrustRecord::key(), value: rotated.to_bytes(), ..Put::default() }.into(),
            ],
            ..Txn::default()
        })
    }

    /// Replaces the root by another.
    pub(super) async fn ca_rotate(
        &self,
        asker: &Asker,
        asked: api::CaRotate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let serial = self.records.borrow().trust.serial;
        let planned = self.rotation(asked.deadline_s, until).await.map(Some);
        let wished = self.once(asker, asked.once, planned, until).await?;
        if wished.is_done() {
            tracing::info!("the cluster's CA is being replaced");
            let mut following = self.records.clone();
            let _followed = tokio::time::timeout(FOLLOW, following.wait_for(|now| now.trust.serial > serial)).await;
        }
        self.ca_status(until).await.map_err(already_settled)
    }

    /// Which root signs, and how far a rotation is.
    pub(super) async fn ca_status(&self, until: Instant) -> Result<response::Kind, Failure> {
        let seen = self.ca_seen(until).await?;
        let records = self.records.borrow().clone();
        document(&info(&seen, &records, self.operators_now()))
    }
}

fn info(seen: &Seen, records: &Records, now: u64) -> CaInfo {
    let trust = &seen.trust;
    let nodes = records.nodes.iter();
    let progress = trust.progress(nodes, records.operators.iter().map(|(_, operator)| operator), now);
    let waiting = if trust.is_rotating() { progress.waited.len() } else { 0 };
    let waits_for = progress.waited.iter().take(if trust.is_rotating() { NAMED_MAX } else { 0 }).map(waits);
    CaInfo {
        root: seen.ca.hash().to_string(),
        serial: trust.serial,
        rotating: trust.is_rotating(),
        started_unix: trust.started,
        deadline_unix: trust.deadline,
        deadline_in_s: trust.is_rotating().then(|| trust.deadline.saturating_sub(now)),
        trusted: trust.authorities.iter().filter(|der| is_root(der)).map(|der| hash(der)).collect(),
        all: progress.all,
        renewed: progress.all - waiting,
        waits_for: waits_for.collect(),
    }
}

fn hash(der: &Bytes) -> String {
    CaHash::of(&der[..].into()).to_string()
}

fn is_root(der: &Bytes) -> bool {
    quorate_transport::is_root(&der[..].into())
}

fn waits(waited: &Waited<'_>) -> CaWaits {
    match waited {
        Waited::Node(node) => {
            let kind = if node.raft_id == 0 { "worker" } else { "manager" };
            CaWaits { name: display_name(node), kind: kind.into() }
        }
        Waited::Operator(operator) => CaWaits { name: operator.name.clone(), kind: "operator".into() },
    }
}

/// The leader ends a rotation when it is over.
pub(super) async fn keep_rotation(service: Arc<Service>) {
    let mut records = service.records.clone();
    loop {
        let leads = service.status.borrow().role == Some(RaftRole::Leader);
        let current = records.borrow_and_update().clone();
        if leads
            && let Some(ended) = current.trust.ended(
                current.nodes.iter(),
                current.operators.iter().map(|(_, operator)| operator),
                service.operators_now(),
            )
        {
            end(&service, &current.trust, &ended).await;
        }
        let waits = if current.trust.is_rotating() { LOOK } else { PATIENCE };
        if let Ok(Err(_stopped)) = tokio::time::timeout(waits, records.changed()).await {
            return;
        }
    }
}

async fn end(service: &Service, rotating: &TrustRecord, ended: &TrustRecord) {
    let key = TrustRecord::key();
    let is_same = Compare::new(key.clone(), Relation::Equal, Operand::Value(rotating.to_bytes()));
    let txn = Txn {
        compares: vec![is_same],
        then: vec![Put { key, value: ended.to_bytes(), ..Put::default() }.into()],
        ..Txn::default()
    };
    let command = Command::from(CommandKind::System(txn));
    match service.router.execute(command, Origin::Here, Instant::now() + PATIENCE).await {
        Ok(done) if done.succeeded => tracing::info!("the cluster's CA was replaced: the old one is trusted no more"),
        Ok(_) => {}
        Err(error) => tracing::debug!(error = error.message, "the end of the CA's rotation is not written yet"),
    }
}

/// The record with the issuer of the certificate that its node has shown; `None` where nobody waits for it.
pub(super) fn with_issuer(trust: &TrustRecord, node: &NodeRecord, issuer: &[u8]) -> Option<NodeRecord> {
    let waited = trust.is_rotating() && node.issuer != issuer && trust.issuer == issuer;
    waited.then(|| NodeRecord { issuer: Bytes::copy_from_slice(issuer), ..node.clone() })
}

/// What an operator's record says of the certificate that is signed for it.
pub(super) fn signed_by(ca: &ClusterCa, record: OperatorRecord) -> OperatorRecord {
    OperatorRecord { issuer: Bytes::copy_from_slice(&ca.issuer_id()), ..record }
}
