//! The cluster's CA on a manager: what is trusted, and the replacement of the root by another.
//!
//! Owns how a rotation begins (one transaction, from any manager), that one which stands in line begins when its turn has come, and
//! that nobody stays connected by a certificate that nobody trusts any more. When it is over is decided by
//! [`quorate_core::membership::trust`], by records alone, and the consensus machine ends it: a leader that dies leaves nothing behind. Who has renewed is noted where the new certificate is shown, so that nobody is left with an
//! old one because an answer was lost: by the manager of a worker's session, by a manager of itself, and for an operator by
//! whom it asks. The new root's key is sealed before it is in any command. Called by the service and by the running node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Input, RaftRole, Records};
use quorate_core::id::NodeId;
use quorate_core::membership::operators::OperatorRecord;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::trust::{RotationRefused, TrustRecord, TrustTime, Waited};
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::{Compare, Operand, Put, Relation, Txn};
use quorate_transport::api::{self, response};
use quorate_transport::{CaHash, CertRole, ClusterCa, Endpoint, IssuerId, Refused};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::barrier::Barrier;
use super::gate::Asker;
use super::once::already_settled;
use super::records;
use super::router::{Failure, fail, limited, refused_by};
use super::service::{Service, blocking, broken, display_name, document};
use super::tasks::Call;
use crate::membership::{CaInfo, CaWaits, Rule};

/// How often the machine is told what the clock says while a rotation goes on.
const LOOK: Duration = Duration::from_millis(500);
/// How often operators are sent away who have not renewed and stay: so often they may try.
const AWAY_AGAIN: Duration = Duration::from_secs(20);
/// How long what is written about a rotation may take; it is looked at again anyway.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long an answer waits for what it began to be known here.
const FOLLOW: Duration = Duration::from_secs(2);
/// Those whom a rotation waits for that are named in an answer.
const NAMED_MAX: usize = 200;

/// The root that signs, and what is trusted, as one view has them.
struct Seen {
    root: Bytes,
    trust: TrustRecord,
    time: TrustTime,
}

fn refused(refused: RotationRefused) -> Failure {
    let message = format!("{refused}. Nothing was changed");
    match refused {
        RotationRefused::Deadline => fail(api::Code::Invalid, message),
        RotationRefused::TooSoon(met) => limited(api::Code::Invalid, met, message),
        RotationRefused::TooMany => refused_by(Rule::TooManyRotations, message),
    }
}

/// How a rotation is begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    /// Nodes there are: their renewals are spread.
    pub(super) nodes: usize,
    /// This manager's clock.
    pub(super) now: SystemTime,
    pub(super) deadline_s: u64,
}

impl Begin {
    /// Refuses a deadline that nobody could keep.
    pub(super) fn check(&self) -> Result<(), Failure> {
        TrustRecord::check_deadline(self.nodes, self.deadline_s).map_err(refused)
    }
}

/// The same for what bears no refusal: where no further rotation fits into those that are under way, it stands in line.
pub(super) fn rotation_in_any_case(view: &dyn StateRead, barrier: &Barrier, begin: Begin) -> Result<Txn, Failure> {
    let seen = || -> StoreResult<_> {
        let revision = records::value(view, TrustRecord::key())?.map_or(0, |(_, revision)| revision);
        Ok((records::trust(view)?, read::trust_time(view)?, revision))
    };
    let (trust, time, revision) = seen().map_err(|error| broken(&error))?;
    if trust.has_room() {
        return rotation(view, barrier, begin);
    }
    let line = trust.with_next(&time, begin.deadline_s).map_err(refused)?;
    Ok(Txn {
        compares: vec![Compare::mod_revision(TrustRecord::key(), revision)],
        then: vec![Put { key: TrustRecord::key(), value: line.to_bytes(), ..Put::default() }.into()],
        ..Txn::default()
    })
}

/// What makes another root the one that signs, and both trusted: its key sealed with the active key of `view`.
pub(super) fn rotation(view: &dyn StateRead, barrier: &Barrier, begin: Begin) -> Result<Txn, Failure> {
    let internal = |error: &dyn std::fmt::Display| fail(api::Code::Internal, format!("{error}. Nothing was changed"));
    let Begin { nodes, now, deadline_s } = begin;
    let seen = || -> StoreResult<_> {
        let revision = |key| Ok(records::value(view, key)?.map_or(0, |(_, revision)| revision));
        let revisions: [u64; 2] = [revision(records::ca_key())?, revision(TrustRecord::key())?];
        Ok((records::ca(view, barrier)?, records::trust(view)?, revisions))
    };
    let (ca, trust, [ca_revision, trust_revision]) = seen().map_err(|error| broken(&error))?;
    let ca = ca.ok_or_else(no_ca)?;
    let next = ClusterCa::create(ca.cluster_id(), now).map_err(|error| internal(&error))?;
    let cross = ca.cross_sign(&next, now).map_err(|error| internal(&error))?;
    let root = (Bytes::copy_from_slice(next.certificate()), Bytes::copy_from_slice(&next.issuer_id()));
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let cross = Bytes::copy_from_slice(&cross);
    let rotated = trust.rotated(root, cross, nodes, seconds, deadline_s).map_err(refused)?;
    let (certificate, key) = next.to_parts();
    let ca_key = records::ca_key();
    let sealed = barrier.seal(view, &ca_key, certificate.into(), &key).map_err(|error| broken(&error))?;
    Ok(Txn {
        compares: vec![
            Compare::mod_revision(ca_key.clone(), ca_revision),
            Compare::mod_revision(TrustRecord::key(), trust_revision),
        ],
        then: vec![
            Put { key: ca_key, value: sealed, ..Put::default() }.into(),
            Put { key: TrustRecord::key(), value: rotated.to_bytes(), ..Put::default() }.into(),
        ],
        ..Txn::default()
    })
}

fn no_ca() -> Failure {
    fail(api::Code::Internal, "the cluster has no CA")
}

impl Service {
    async fn ca_seen(&self, until: Instant) -> Result<Seen, Failure> {
        self.router.read_index(until).await?;
        let reader = self.store()?.reader;
        let seen = blocking(move || {
            let view = reader.view();
            let seen = || -> StoreResult<_> {
                let Some(root) = records::ca_certificate(&*view)? else { return Ok(None) };
                Ok(Some(Seen { root, trust: records::trust(&*view)?, time: read::trust_time(&*view)? }))
            };
            seen().map_err(|error| broken(&error))
        })
        .await?;
        seen.ok_or_else(no_ca)
    }

    /// How a rotation that begins now is begun.
    pub(super) fn begin_rotation(&self, deadline_s: u64) -> Begin {
        let nodes = self.records.borrow().nodes.iter().count();
        Begin { nodes, now: self.certificates.clock.now(), deadline_s }
    }

    /// Replaces the root by another; where one is being replaced already, only if another one is asked for.
    pub(super) async fn ca_rotate(
        &self,
        asker: &Asker,
        asked: api::CaRotate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let (serial, begin) = (self.records.borrow().trust.serial, self.begin_rotation(asked.deadline_s));
        let plan = move |view: &dyn StateRead, barrier: &Barrier| {
            begin.check()?;
            let trust = records::trust(view).map_err(|error| broken(&error))?;
            if !asked.another && (trust.is_rotating() || trust.next_due().is_some()) {
                return Ok(None);
            }
            rotation(view, barrier, begin).map(Some)
        };
        let wished = self.once_planned(asker, asked.once, Arc::new(plan), until).await?;
        if wished.is_done() {
            tracing::info!("the cluster's CA is being replaced");
            let mut following = self.records.clone();
            let _followed = tokio::time::timeout(FOLLOW, following.wait_for(|now| now.trust.serial > serial)).await;
        }
        let now = self.ca_now(until).await.map_err(already_settled)?;
        document(&CaInfo { begun: wished.is_done(), ..now })
    }

    /// Which root signs, and how far a rotation is.
    pub(super) async fn ca_status(&self, until: Instant) -> Result<response::Kind, Failure> {
        document(&self.ca_now(until).await?)
    }

    async fn ca_now(&self, until: Instant) -> Result<CaInfo, Failure> {
        let seen = self.ca_seen(until).await?;
        let records = self.records.borrow().clone();
        Ok(info(&seen, &records, self.operators_now()))
    }

    /// An operator has shown a certificate of this root: that is noted while it is waited for. Nobody is kept waiting by it; where
    /// it comes to nothing, the next request does it.
    pub(super) fn operator_shows(&self, id: NodeId, issuer: IssuerId) {
        if self.noted(id, issuer).is_some() {
            let _full = self.shown.try_send((id, issuer));
        }
    }

    /// An operator's record as it is, and with this issuer, where that is news for a rotation.
    fn noted(&self, id: NodeId, issuer: IssuerId) -> Option<(OperatorRecord, OperatorRecord)> {
        let records = self.records.borrow();
        let record = records.operators.get(id)?;
        let noted = || OperatorRecord { issuer: Bytes::copy_from_slice(&issuer), ..record.clone() };
        is_waited(&records.trust, &record.issuer, &issuer).then(|| (record.clone(), noted()))
    }

    /// Begins the rotation that stood in line, where its turn has come; whether it did.
    async fn begin_next(&self) -> Result<bool, Failure> {
        let (reader, barrier) = (self.store()?.reader, Arc::clone(&self.barrier));
        let begin = self.begin_rotation(0);
        let planned = blocking(move || {
            let view = reader.view();
            // A view that is older or newer than what was seen: the plan holds for that one alone.
            let due = records::trust(&*view).map_err(|error| broken(&error))?.next_due();
            due.map(|deadline_s| rotation(&*view, &barrier, Begin { deadline_s, ..begin })).transpose()
        })
        .await?;
        let Some(txn) = planned else { return Ok(false) };
        let command = Command::from(CommandKind::System(txn));
        Ok(self.router.execute(command, Instant::now() + PATIENCE).await?.succeeded)
    }

    /// Writes a record in the place of what it was; says in the log only that it is not done yet.
    async fn replace_record(&self, key: Bytes, was: Bytes, is: Bytes) -> bool {
        let same = Compare::new(key.clone(), Relation::Equal, Operand::Value(was));
        let then = vec![Put { key, value: is, ..Put::default() }.into()];
        let command = Command::from(CommandKind::System(Txn { compares: vec![same], then, ..Txn::default() }));
        match self.router.execute(command, Instant::now() + PATIENCE).await {
            Ok(done) => done.succeeded,
            Err(error) => {
                tracing::debug!(error = error.message, "how far the CA's rotation is, is written down later");
                false
            }
        }
    }
}

fn info(seen: &Seen, records: &Records, now: u64) -> CaInfo {
    let trust = &seen.trust;
    let nodes = records.nodes.iter();
    let progress = trust.progress(nodes, records.operators.iter().map(|(_, operator)| operator), now);
    let waiting = if trust.is_rotating() { progress.waited.len() } else { 0 };
    let waits_for = progress.waited.iter().take(if trust.is_rotating() { NAMED_MAX } else { 0 }).map(waits);
    CaInfo {
        root: hash(&seen.root),
        serial: trust.serial,
        rotating: trust.is_rotating(),
        begun: false,
        started_unix: trust.started,
        deadline_in_s: trust.is_rotating().then(|| trust.left_s(&seen.time)),
        another_follows: trust.next_s != 0,
        trusted: trust.authorities.iter().filter(|der| is_root(der)).map(hash).collect(),
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

/// What operators have shown, on its way to their records.
pub(super) type ShownBy = (NodeId, IssuerId);

/// Operators' certificates that may wait to be noted.
const SHOWN_WAITING: usize = 64;

pub(super) fn shown() -> (mpsc::Sender<ShownBy>, mpsc::Receiver<ShownBy>) {
    mpsc::channel(SHOWN_WAITING)
}

/// Notes which operators have a certificate of the new root, and sends away those that have not, again and again while their connections
/// stand: a renewal may come to nothing, and who is waited for is to try once more.
pub(super) async fn keep_shown(service: Arc<Service>, endpoint: Endpoint, mut shown: mpsc::Receiver<ShownBy>) {
    let mut records = service.records.clone();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent_away = Instant::now();
    loop {
        let (id, issuer) = tokio::select! {
            Some(shown) = shown.recv() => shown,
            _ = look.tick() => {
                let trust = records.borrow_and_update().trust.clone();
                // Before this manager shows the new root nobody would come back to it.
                if !trust.is_rotating() || service.identity().subject().issuer != trust.issuer[..] {
                    sent_away = Instant::now();
                    continue;
                }
                // Who asks for nothing is seen, too: it may have come before the rotation was known here.
                endpoint.review(|caller| {
                    if caller.role == CertRole::Operator {
                        service.operator_shows(caller.node_id, caller.issuer);
                    }
                    None
                });
                if sent_away.elapsed() >= AWAY_AGAIN {
                    sent_away = Instant::now();
                    call_back(&endpoint, &trust);
                }
                continue;
            }
            changed = records.changed() => match changed {
                Ok(()) => continue,
                Err(_stopped) => return,
            },
        };
        // Each look says it until it is known here.
        if let Some((was, is)) = service.noted(id, issuer) {
            service.replace_record(OperatorRecord::key(id), was.to_bytes(), is.to_bytes()).await;
        }
    }
}

/// Tells the machine what the clock says while a rotation goes on, which it ends where it leads; and begins the one that stands in
/// line, where this manager leads.
pub(super) async fn keep_rotation(service: Arc<Service>, inbox: mpsc::Sender<Call>) {
    let mut records = service.records.clone();
    loop {
        let trust = records.borrow_and_update().trust.clone();
        if trust.is_rotating() {
            let clock = Input::Clock { unix_s: service.operators_now() };
            if inbox.send(Call::Input(clock)).await.is_err() {
                return;
            }
        }
        let leads = service.status.borrow().role == Some(RaftRole::Leader);
        if leads && trust.next_due().is_some() {
            match service.begin_next().await {
                Ok(true) => tracing::info!("the rotation of the cluster's CA that stood in line has begun"),
                // Somebody was faster.
                Ok(false) => {}
                Err(error) => tracing::debug!(error = error.message, "the next rotation of the CA begins later"),
            }
        }
        let waits = if trust.is_rotating() || trust.next_s != 0 { LOOK } else { PATIENCE };
        if let Ok(Err(_stopped)) = tokio::time::timeout(waits, records.changed()).await {
            return;
        }
    }
}

/// Whether this issuer of a certificate is news for a rotation.
fn is_waited(trust: &TrustRecord, noted: &[u8], shown: &[u8]) -> bool {
    trust.is_rotating() && noted != shown && trust.issuer == shown
}

/// Sends operators away who have no certificate of the new root yet.
fn call_back(endpoint: &Endpoint, trust: &TrustRecord) {
    let reason = Refused::Other("the cluster's CA is being replaced; come back at once".into());
    endpoint.send_away(|of| of.role == CertRole::Operator && trust.issuer != of.issuer.as_slice(), &reason);
}

/// This manager shows a certificate of another root from now on, or trusts other roots. Operators that came before a rotation
/// began do not know of it, and ask anew for nothing while their connections stand: they are sent away, come back, and meet the new
/// root; who takes a backup, once that is done. When it is over, whoever has not renewed has no business here any more; everybody else stays connected, also by an
/// older connection: that has shown the key which its record names.
pub(super) fn send_away(endpoint: &Endpoint, records: &Records) {
    let trust = &records.trust;
    if trust.is_rotating() {
        return call_back(endpoint, trust);
    }
    let nodes = records.nodes.iter().filter(|node| node.issuer == trust.issuer).filter_map(NodeRecord::node_id);
    let operators = records.operators.iter().filter(|(_, record)| record.issuer == trust.issuer).map(|(id, _)| id);
    let renewed: BTreeSet<NodeId> = nodes.chain(operators).collect();
    let reason = "its certificate is of a CA that was replaced; who has a newer one may come back at once";
    endpoint.disconnect_where(
        |of| trust.issuer != of.issuer.as_slice() && !renewed.contains(&of.node_id),
        &Refused::Other(reason.into()),
    );
}

/// The record with the issuer of the certificate that its node has shown; `None` where nobody waits for it.
pub(super) fn with_issuer(trust: &TrustRecord, node: &NodeRecord, issuer: &[u8]) -> Option<NodeRecord> {
    is_waited(trust, &node.issuer, issuer)
        .then(|| NodeRecord { issuer: Bytes::copy_from_slice(issuer), ..node.clone() })
}

#[cfg(test)]
mod tests;
