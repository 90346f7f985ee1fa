//! Operators' identities on a manager: made, taken back, renewed, and asked about with each request.
//!
//! Owns that an operator counts by its record, at every request, and that one that was taken back, or whose time is over, is
//! disconnected at once, on every manager; so are nodes that were removed. What may be made is decided by [`quorate_core::membership::operators`]. A private key
//! is never seen here: who is to be an operator draws it, and sends a signing request. Called by the service, by the join plane
//! and by the running node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Records;
use quorate_core::id::NodeId;
use quorate_core::limits::{Met, NAME_BYTES_MAX, OPERATORS_MAX};
use quorate_core::membership::operators::{OperatorRecord, OperatorRefused, Operators, Standing};
use quorate_core::membership::trust::TrustRecord;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Delete, Put, Txn};
use quorate_transport::api::{self, request, response};
use quorate_transport::{Caller, CertRole, ClusterCa, Endpoint, JoinRefused, JoinReply, JoinRequest, Refused, Subject};
use tokio::time::Instant;

use super::enrolling::certify;
use super::gate::{Asker, Who};
use super::joining::{Seen, words};
use super::once::{self, already_settled};
use super::records;
use super::renewal::Terms;
use super::router::{Failure, fail, limited, over, refused_by};
use super::service::{Service, blocking, broken, document, json};
use crate::config;
use crate::membership::{OperatorInfo, RevokedOperator, Rule};

/// How long one that is not known here is looked for among what others have acknowledged.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at whose time is over.
const LOOK: Duration = Duration::from_secs(1);
/// For so long one that has taken itself back keeps its connection, to hear the answer; nothing else that it asks is done.
const FAREWELL: Duration = Duration::from_secs(1);
/// Longest life of an operator that ends by itself, seconds.
const TTL_S_MAX: u64 = 10 * 365 * 86_400;

fn info(record: &OperatorRecord, now: u64) -> OperatorInfo {
    let fingerprint = record.key_digest.get(..8).unwrap_or_default();
    OperatorInfo {
        id: record.node_id().unwrap_or_default().to_string(),
        name: record.name.clone(),
        read_only: record.read_only,
        fingerprint: data_encoding::HEXLOWER.encode(fingerprint),
        created_unix: record.created,
        ends_unix: record.ends,
        certificate_ends_unix: record.certificate_ends,
        revoked_unix: record.revoked,
        stands: record.standing(now) == Standing::Stands,
    }
}

fn refused(refused: &OperatorRefused) -> Failure {
    let message = format!("{refused}. Nothing was changed; `quorate operator ls` lists them");
    match refused {
        OperatorRefused::BadName => fail(api::Code::Invalid, message),
        OperatorRefused::NameTooLong(bytes) => {
            let met = Met { name: "NAME_BYTES_MAX", bound: NAME_BYTES_MAX as u64, actual: *bytes as u64 };
            limited(api::Code::Invalid, met, message)
        }
        OperatorRefused::NameTaken(_) => refused_by(Rule::OperatorNameTaken, message),
        OperatorRefused::TooMany => {
            let most = OPERATORS_MAX as u64;
            let met = Met { name: "OPERATORS_MAX", bound: most, actual: most + 1 };
            over(met, refused_by(Rule::TooManyOperators, message))
        }
        OperatorRefused::Unknown(_) => fail(api::Code::NotFound, message),
    }
}

/// What every answer to an operator that does not count says.
fn does_not_count(record: &OperatorRecord, standing: Standing) -> Failure {
    let what = match standing {
        Standing::Revoked => "was revoked",
        Standing::Ended => "has ended",
        Standing::Stands => "stands, but not with this key or role",
    };
    let message = format!(
        "the operator's identity `{}` {what}. Nothing was done; `quorate operator issue` on a manager's machine makes another one",
        record.name
    );
    fail(api::Code::Denied, message)
}

/// What signing takes, from one view.
struct Signing {
    operators: Operators,
    ca: Option<ClusterCa>,
    /// The revision of the CA's record.
    ca_revision: u64,
    trust: TrustRecord,
}

impl Service {
    pub(super) fn operators_now(&self) -> u64 {
        self.certificates.clock.now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// What `judge` says of an operator's record, as it is known here, or else as it was acknowledged anywhere.
    async fn judged<T>(
        &self,
        id: NodeId,
        until: Instant,
        judge: impl Fn(&OperatorRecord, Standing) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let now = self.operators_now();
        // With each request: nothing is copied.
        if let Some(record) = self.records.borrow().operators.get(id) {
            return judge(record, record.standing(now));
        }
        self.router.read_index(until.min(Instant::now() + PATIENCE)).await?;
        let reader = self.store()?.reader;
        let found = blocking(move || read::operator(&*reader.view(), id).map_err(|error| broken(&error))).await?;
        let record = found.ok_or_else(|| {
            let why = "the cluster has no record of this operator's identity. Nothing was done; `quorate operator issue` on a manager's machine makes one";
            fail(api::Code::Denied, why)
        })?;
        judge(&record, record.standing(now))
    }

    /// Who shows an operator's certificate with this key.
    pub(super) async fn operator_asker(
        &self,
        id: NodeId,
        key_digest: &[u8; 32],
        until: Instant,
    ) -> Result<Who, Failure> {
        self.judged(id, until, |record, standing| {
            if standing != Standing::Stands || record.key_digest != key_digest.as_slice() {
                return Err(does_not_count(record, standing));
            }
            Ok(if record.read_only { Who::Reader(id) } else { Who::Operator(id) })
        })
        .await
    }

    /// How long this manager has heard from no quorum: since its start, where it never has.
    fn unheard(&self) -> Duration {
        self.age_ms().map_or_else(|| self.clock.elapsed(), Duration::from_millis)
    }

    /// Whether an operator who counts by what is known here may be shown what is asked for, although that may be long ago.
    ///
    /// # Errors
    /// It is data, and this manager has been cut off for too long.
    pub(super) fn heard_lately(&self, kind: &request::Kind) -> Result<(), Failure> {
        heard(self.unheard(), kind)
    }

    /// Whether whoever another manager speaks for still counts, by what is known here.
    pub(super) async fn stands(&self, who: Who, until: Instant) -> Result<(), Failure> {
        let (id, read_only) = match who {
            Who::Operator(id) => (id, false),
            Who::Reader(id) => (id, true),
            Who::Local | Who::Manager | Who::Node(_) => return Ok(()),
        };
        self.judged(id, until, |record, standing| {
            let stands = standing == Standing::Stands && record.read_only == read_only;
            if stands { Ok(()) } else { Err(does_not_count(record, standing)) }
        })
        .await
    }

    async fn operators(&self, until: Instant) -> Result<Signing, Failure> {
        self.router.read_index(until).await?;
        let (reader, barrier) = (self.store()?.reader, Arc::clone(&self.barrier));
        blocking(move || {
            let view = reader.view();
            let seen = || {
                let (operators, ca) = (read::operators(&*view)?, records::ca(&*view, &barrier)?);
                let ca_revision = records::value(&*view, records::ca_key())?.map_or(0, |(_, revision)| revision);
                Ok(Signing { operators, ca, ca_revision, trust: records::trust(&*view)? })
            };
            seen().map_err(|error| broken(&error))
        })
        .await
    }

    /// Makes an operator, or says again what was made of the same request.
    pub(super) async fn operator_issue(
        &self,
        asker: &Asker,
        asked: api::OperatorIssue,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let Some(id) = NodeId::from_slice(&asked.id) else {
            return Err(fail(api::Code::Invalid, "an operator's id has 16 bytes. Nothing was changed"));
        };
        if asked.ttl_s > TTL_S_MAX {
            return Err(fail(api::Code::Invalid, "an operator that ends lasts 10 years at most. Nothing was changed"));
        }
        let (Signing { operators, ca, ca_revision, trust }, now) = (self.operators(until).await?, self.operators_now());
        let ca = ca.ok_or_else(|| fail(api::Code::Internal, "the cluster has no CA"))?;
        let ends = if asked.ttl_s == 0 { 0 } else { now + asked.ttl_s };
        let certified = certified(&ca, &asked.csr, id, ends, now, self.certificates)
            .map_err(|why| fail(api::Code::Invalid, format!("{why}. Nothing was changed")))?;
        let record = OperatorRecord {
            id: asked.id.clone(),
            name: asked.name.clone(),
            read_only: asked.read_only,
            key_digest: Bytes::copy_from_slice(&certified.subject.key_digest),
            created: now,
            ends,
            certificate_ends: certified.subject.not_after,
            // Whoever gets the answer has a certificate of this root, and who does not has none.
            issuer: Bytes::copy_from_slice(&ca.issuer_id()),
            ..OperatorRecord::default()
        };
        let planned = match operators.room_for(id, &asked.name, now) {
            Ok(gone) => Ok(Some(issuing(id, &record, ca_revision, gone))),
            Err(why) => Err(refused(&why)),
        };
        let wished = self.once(asker, asked.once, planned, until).await?;
        // As the first copy of the request made it.
        let record = match wished.written().map(|written| OperatorRecord::decode(written.value.clone())) {
            Some(Ok(made)) => made,
            Some(Err(error)) => return Err(broken(&records::corrupt("operator", error))),
            None => record,
        };
        tracing::info!(by = %asker, name = record.name, read_only = record.read_only, "an operator's identity was issued");
        Ok(response::Kind::OperatorIssue(api::OperatorIssueDone {
            json: json(&info(&record, now)).map_err(already_settled)?,
            certificate: certified.certificate.into(),
            ca: Bytes::copy_from_slice(ca.certificate()),
            authorities: trust.authorities.into_iter().skip(1).collect(),
        }))
    }

    /// Takes an operator's identity back: it counts nowhere any more, and is disconnected.
    pub(super) async fn operator_revoke(
        &self,
        asker: &Asker,
        asked: api::OperatorRevoke,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let (Signing { operators, .. }, now) = (self.operators(until).await?, self.operators_now());
        let own = |record: &OperatorRecord| matches!(asker.who, Who::Operator(id) if record.node_id() == Some(id));
        let named = operators.named(&asked.name, now).map_err(|why| refused(&why));
        // Until the answer is on its way, however long that takes: the record may come here long before it.
        let itself = named.as_ref().ok().filter(|record| own(record)).and_then(|record| record.node_id());
        let _parting = itself.map(|id| self.parting.begin(id));
        let planned = named.map(|record| {
            let revoked = OperatorRecord { revoked: now.max(1), ..record.clone() };
            let key = OperatorRecord::key(record.node_id().unwrap_or_default());
            let mut txn = once::write(key.clone(), revoked.to_bytes(), false);
            txn.compares.push(Compare::new(
                key,
                quorate_core::txn::Relation::Equal,
                quorate_core::txn::Operand::Value(record.to_bytes()),
            ));
            Some(txn)
        });
        let wished = self.once(asker, asked.once, planned, until).await?;
        let record = wished.written().and_then(|written| OperatorRecord::decode(written.value.clone()).ok());
        let record = record.unwrap_or_default();
        tracing::info!(by = %asker, name = record.name, "an operator's identity was revoked");
        let others = operators.iter().filter(|(id, _)| Some(*id) != record.node_id());
        let left = others.filter(|(_, other)| !other.read_only && other.standing(now) == Standing::Stands).count();
        let revoked = RevokedOperator { operator: info(&record, now), own: own(&record), left: left as u64 };
        document(&revoked).map_err(already_settled)
    }

    /// Every operator, those that count no more among them.
    pub(super) async fn operator_list(&self, until: Instant) -> Result<response::Kind, Failure> {
        let (Signing { operators, .. }, now) = (self.operators(until).await?, self.operators_now());
        let mut records: Vec<&OperatorRecord> = operators.iter().map(|(_, record)| record).collect();
        records.sort_by_key(|record| record.created);
        document(&records.into_iter().map(|record| info(record, now)).collect::<Vec<_>>())
    }

    /// A new certificate for an operator, proven by the key in its record, while that stands. The answer is given once the
    /// record says until when it holds.
    pub(super) async fn renew_operator(
        &self,
        request: &JoinRequest,
        seen: &Seen,
        until: Instant,
    ) -> Result<JoinReply, JoinRefused> {
        let (id, now) = (request.node_id, self.operators_now());
        let Signing { operators, ca, .. } = self.operators(until).await.map_err(words)?;
        let Some(record) = operators.get(id) else { return Err(JoinRefused::NotAMember) };
        let standing = record.standing(now);
        if standing != Standing::Stands {
            return Err(JoinRefused::Other(does_not_count(record, standing).message));
        }
        let ca = ca.ok_or_else(|| JoinRefused::Other("the cluster has no CA".into()))?;
        let certified = certified(&ca, &request.csr, id, record.ends, now, self.certificates);
        let certified = certified.map_err(JoinRefused::Malformed)?;
        if record.key_digest != certified.subject.key_digest.as_slice() {
            return Err(JoinRefused::AlreadyKnown(format!("the operator `{}` has another key", record.name)));
        }
        let renewed = OperatorRecord { certificate_ends: certified.subject.not_after, ..record.clone() };
        let key = OperatorRecord::key(id);
        let is_same = quorate_core::txn::Operand::Value(record.to_bytes());
        let txn = Txn {
            compares: vec![Compare::new(key.clone(), quorate_core::txn::Relation::Equal, is_same)],
            then: vec![Put { key, value: renewed.to_bytes(), ..Put::default() }.into()],
            ..Txn::default()
        };
        let done = self.router.execute(Command::from(CommandKind::System(txn)), until).await;
        if !done.map_err(words)?.succeeded {
            let why = "the operator's record has changed meanwhile; try again";
            return Err(JoinRefused::Other(why.into()));
        }
        tracing::info!(name = record.name, "an operator's certificate was renewed");
        Ok(self.joined(seen, (id, quorate_core::id::RaftId(0)), &certified.certificate, ""))
    }
}

/// What makes an operator: with this id for the first time, and with a certificate of the root that still signs when it is written.
/// Nobody is made who has one of the root before it only: it might be trusted no more by the time it is shown.
fn issuing(id: NodeId, record: &OperatorRecord, ca_revision: u64, gone: Vec<NodeId>) -> Txn {
    let key = OperatorRecord::key(id);
    let mut txn = once::write(key.clone(), record.to_bytes(), false);
    txn.compares.extend([Compare::absent(key), Compare::mod_revision(records::ca_key(), ca_revision)]);
    let gone = gone.into_iter().map(OperatorRecord::key);
    txn.then.extend(gone.map(|key| Delete { key, ..Delete::default() }.into()));
    txn
}

/// Operators that take themselves back: each keeps its connection until it has had time to hear the answer, while nothing else that it
/// asks is done.
#[derive(Debug, Default)]
pub(super) struct Partings(Mutex<BTreeMap<NodeId, Parting>>);

#[derive(Debug)]
struct Parting {
    /// Its requests to be taken back that have no answer yet.
    under_way: usize,
    /// Since when it has had the last one.
    answered: Instant,
}

impl Parting {
    fn is_over(&self) -> bool {
        self.under_way == 0 && self.answered.elapsed() >= FAREWELL
    }
}

/// A request of an operator to be taken back, until it is answered, or nobody waits for that.
#[derive(Debug)]
struct Answering<'a>(&'a Partings, NodeId);

impl Partings {
    fn all(&self) -> MutexGuard<'_, BTreeMap<NodeId, Parting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, id: NodeId) -> Answering<'_> {
        let mut all = self.all();
        all.entry(id).or_insert_with(|| Parting { under_way: 0, answered: Instant::now() }).under_way += 1;
        Answering(self, id)
    }

    fn holds(&self, id: NodeId) -> bool {
        let mut all = self.all();
        all.retain(|_, parting| !parting.is_over());
        all.contains_key(&id)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        if let Some(parting) = self.0.all().get_mut(&self.1) {
            parting.under_way -= 1;
            parting.answered = Instant::now();
        }
    }
}

/// A certificate for an operator.
struct Certified {
    certificate: Vec<u8>,
    subject: Subject,
}

/// Never one that holds longer than the operator.
fn certified(ca: &ClusterCa, csr: &[u8], id: NodeId, ends: u64, now: u64, terms: Terms) -> Result<Certified, String> {
    let left = if ends == 0 { config::CERTIFICATE } else { Duration::from_secs(ends.saturating_sub(now)) };
    let terms = Terms { life: config::CERTIFICATE.min(left), ..terms };
    let (certificate, _digest) = certify(ca, csr, id, (CertRole::Operator, None), terms)?;
    let subject = Subject::of(&certificate.as_slice().into()).map_err(|problem| problem.to_string())?;
    Ok(Certified { certificate, subject })
}

/// Status and the like stay: they are what is needed to mend it.
fn heard(unheard: Duration, kind: &request::Kind) -> Result<(), Failure> {
    use request::Kind;
    let data = matches!(
        kind,
        Kind::Read(_) | Kind::Watch(_) | Kind::Backup(_) | Kind::AssignmentsRead(_) | Kind::ReportRead(_)
    );
    if !data || unheard < config::OPERATOR_UNHEARD {
        return Ok(());
    }
    let why = format!(
        "this manager has heard from no quorum for {} min, and cannot know whether this operator's identity was revoked meanwhile: it shows no data over the network. Nothing was done; ask another manager, or on its own machine with --data-dir",
        unheard.as_secs() / 60
    );
    Err(fail(api::Code::QuorumLost, why))
}

/// Disconnects who does not count any more, as soon as it is known here: operators that were revoked or have ended, nodes that
/// were removed or came back with another key, and nodes that somebody else may be.
pub(super) async fn keep_out(service: Arc<Service>, endpoint: Endpoint) {
    let mut records = service.records.clone();
    let mut changed = true;
    loop {
        let (now, known) = (service.operators_now(), Arc::clone(&records.borrow_and_update()));
        endpoint.review(|caller| match caller.role {
            CertRole::Operator => counts_not(&known, caller, now).filter(|_| !service.parting.holds(caller.node_id)),
            // Nothing ends by itself for them.
            CertRole::Manager | CertRole::Worker if changed => is_gone(&known, caller),
            CertRole::Manager | CertRole::Worker => None,
        });
        // On the plane of peers, too. Whoever got in while this was on its way is found at the next look.
        for id in known.nodes.iter().filter(|node| node.compromised).filter_map(|node| node.node_id()) {
            endpoint.disconnect(id, &Refused::Removed);
        }
        changed = match tokio::time::timeout(LOOK, records.changed()).await {
            Ok(Ok(())) => true,
            Ok(Err(_stopped)) => return,
            Err(_elapsed) => false,
        };
    }
}

fn counts_not(known: &Records, caller: &Caller, now: u64) -> Option<Refused> {
    let record = known.operators.get(caller.node_id)?;
    (record.standing(now) != Standing::Stands).then_some(Refused::Revoked)
}

/// It had a record when it was let in.
fn is_gone(known: &Records, caller: &Caller) -> Option<Refused> {
    match known.nodes.get(caller.node_id) {
        None => Some(Refused::Removed),
        Some(record) if record.key_digest == caller.key_digest.as_slice() => None,
        Some(_) => Some(Refused::WrongNode("its record has another key by now".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_made_under_the_root_that_signs_when_it_is_written_or_not_at_all() {
        let id = NodeId::from_bytes([7; 16]);
        let txn = issuing(id, &OperatorRecord::default(), 42, vec![NodeId::from_bytes([8; 16])]);
        let same_root = Compare::mod_revision(records::ca_key(), 42);
        assert_eq!(txn.compares, [Compare::absent(OperatorRecord::key(id)), same_root]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_itself_back_keeps_its_connection_until_it_is_answered_however_long_that_takes() {
        let (partings, id) = (Partings::default(), NodeId::from_bytes([7; 16]));
        assert!(!partings.holds(id));
        // Given that it asks, as another manager begins to lead, and asks again
        let first = partings.begin(id);
        tokio::time::advance(FAREWELL * 5).await;
        assert!(partings.holds(id), "it has no answer yet");
        let again = partings.begin(id);
        drop(first);
        tokio::time::advance(FAREWELL * 5).await;
        assert!(partings.holds(id), "nor has it this one");
        // When it is answered, then it has a moment to hear it, and no longer.
        drop(again);
        assert!(partings.holds(id));
        tokio::time::advance(FAREWELL).await;
        assert!(!partings.holds(id));
    }

    #[test]
    fn what_is_over_a_limit_is_refused_with_it() {
        for (why, code, name, bound) in [
            (OperatorRefused::TooMany, api::Code::Refused, "OPERATORS_MAX", 256),
            (OperatorRefused::NameTooLong(256), api::Code::Invalid, "NAME_BYTES_MAX", 255),
        ] {
            let failure = refused(&why);
            let limit = api::Limit { name: name.into(), bound, actual: bound + 1 };
            assert_eq!((failure.code(), failure.limit.as_deref()), (code, Some(&limit)));
            assert!(failure.message.contains(name), "{}", failure.message);
        }
    }

    #[test]
    fn a_manager_that_was_cut_off_for_long_shows_no_data_to_operators_and_says_how_it_stands() {
        let read = request::Kind::Read(api::Read { serializable: true, ..api::Read::default() });
        let backup = request::Kind::Backup(api::Backup { serializable: true, ..api::Backup::default() });
        let status = request::Kind::Status(api::Status {});
        let long = config::OPERATOR_UNHEARD;
        for data in [&read, &backup] {
            assert!(heard(long - Duration::from_secs(1), data).is_ok());
            let refused = heard(long, data).unwrap_err();
            assert_eq!(refused.code(), api::Code::QuorumLost);
            assert!(
                refused.message.contains("60 min") && refused.message.contains("--data-dir"),
                "{}",
                refused.message
            );
        }
        assert!(heard(10 * long, &status).is_ok());
    }
}
