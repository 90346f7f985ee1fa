//! Requests: authorise, do, answer.
//!
//! Owns what each request means on a manager, and the one place where user keys get their section and lose it again.
//! Called by the endpoint, the local socket and the in-process client alike.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{self, Command, CommandKind, Request, Unread};
use quorate_core::consensus::io::{Records, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::plan::SeatTimes;
use quorate_core::membership::record::NodeRecord;
use quorate_core::ports::{Staging, StateReader, StoreError};
use quorate_core::state::{check_txn, read};
use quorate_core::txn::{Txn, TxnResult};
use quorate_core::user;
use quorate_transport::api::{self, request, response};
use quorate_transport::{Caller, Identity, Place, UdpBuffers};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::authorize::Allowed;
use super::barrier::Barrier;
use super::ca::ShownBy;
use super::facts::Facts;
use super::fence::Incarnations;
use super::gate::{Asker, Who};
use super::keepers::Space;
use super::looking::Looking;
use super::operators::Partings;
use super::reach::Reach;
use super::readiness::Pulse;
use super::reading::{Past, in_time};
use super::renewal::Terms;
use super::report::Digests;
use super::router::{Failure, Router, fail, refused};
use super::syncs::Syncs;
use super::watching::Watches;
use super::workers::Workers;
use super::{applier, asked, authorize, trace};
use crate::client::{SOFTWARE, changes_something};
use crate::keys::Desk;
use crate::metrics::{Ended, Meters};

/// The store as requests see it.
#[derive(Clone)]
pub(super) struct StoreAccess {
    pub(super) reader: Arc<dyn StateReader>,
    pub(super) staging: Arc<dyn Staging>,
    /// None of a store that is not sealed, as one in memory is.
    pub(super) keys: Option<Arc<Desk>>,
}

/// What requests need of the node.
pub(crate) struct Service {
    pub(super) facts: Facts,
    /// What opens and seals secrets.
    pub(super) barrier: Arc<Barrier>,
    pub(super) router: Router,
    pub(super) peers: Reach,
    /// What of the store requests may touch; given back when the node stops, whoever still holds a client.
    pub(super) store: RwLock<Option<StoreAccess>>,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) records: watch::Receiver<Arc<Records>>,
    pub(super) incarnations: Arc<Incarnations>,
    /// Weak: the applier ends when the consensus task lets go of it, whoever still holds a client.
    pub(super) applier: mpsc::WeakSender<applier::Job>,
    pub(super) digests: Digests,
    pub(super) workers: Workers,
    pub(super) watches: Arc<Watches>,
    /// One newcomer is let in at a time.
    pub(super) joins: Semaphore,
    /// Operators with a certificate of another root than before.
    pub(super) shown: mpsc::Sender<ShownBy>,
    /// Operators that take themselves back.
    pub(super) parting: Partings,
    /// The start of the consensus task's clock.
    pub(super) clock: Instant,
    /// The odd rule's times where the cluster's record says nothing.
    pub(super) seat_times: SeatTimes,
    /// What certificates are made with here.
    pub(super) certificates: Terms,
    /// A permit for each request under way; all of them once the node stops.
    pub(super) under_way: Semaphore,
    /// Reads of the past may look at all of the history, and must not take every thread.
    pub(super) past: Past,
    pub(super) looking: Looking,
    /// A permit for each backup that is being told.
    pub(super) backups: Semaphore,
    pub(super) meters: Arc<Meters>,
    pub(super) pulse: Pulse,
    /// The store is full, as the applier found it last.
    pub(super) full: Arc<AtomicBool>,
    /// Who this node is right now: its certificate is renewed.
    pub(super) who: Mutex<Arc<Identity>>,
    pub(super) udp_buffers: UdpBuffers,
    pub(super) space: Arc<Space>,
    pub(super) syncs: Arc<Syncs>,
}

/// Requests under way at most; far beyond what connections can bring.
const UNDER_WAY_MAX: u32 = 1 << 24;
/// What comes of a request is known by its deadline, as far as it can be: whoever is not done so much later is held up by the disk.
const OVERDUE: Duration = Duration::from_millis(500);

pub(super) const fn under_way() -> Semaphore {
    Semaphore::const_new(UNDER_WAY_MAX as usize)
}

/// What is to go into the log, as it was sent: nothing of it is dropped.
pub(super) fn whole<M: prost::Message + Default>(bytes: Bytes, what: &str) -> Result<M, Failure> {
    command::whole(bytes).map_err(|unread| match unread {
        Unread::Malformed(why) => {
            fail(api::Code::Invalid, format!("{what} cannot be read: {why}. Nothing was changed"))
        }
        Unread::Newer => fail(
            api::Code::Version,
            format!(
                "{what} holds what this manager ({SOFTWARE}) does not know: whoever sent it runs a newer quorate. Nothing was changed; finish the upgrade first (`quorate upgrade status` says what is left to do)"
            ),
        ),
    })
}

/// A client's request with a request id, and the transaction out of it.
pub(super) fn requested(request: Bytes) -> Result<(Request, Txn), Failure> {
    let mut request: Request = whole(request, "the transaction")?;
    if request.id().is_none() || request.sequence == 0 {
        return Err(fail(api::Code::Invalid, "the transaction carries no request id. Nothing was changed"));
    }
    match request.txn.take() {
        Some(txn) => Ok((request, txn)),
        None => Err(fail(api::Code::Invalid, "the request carries no transaction. Nothing was changed")),
    }
}

fn unknown_kind() -> api::Response {
    failure(
        api::Code::Invalid,
        "this manager does not know the request: it may be older than the client. Nothing was done",
    )
}

fn stopping() -> api::Response {
    failure(api::Code::Stopping, "this manager is stopping. Nothing was done; ask another one")
}

/// Until when a request that came just now is answered.
pub(super) fn until(request: &api::Request) -> Instant {
    Instant::now() + Duration::from_millis(request.deadline_ms).min(Duration::from_secs(600))
}

/// A failed response.
pub(super) fn failure(code: api::Code, message: impl Into<String>) -> api::Response {
    api::Response { kind: Some(response::Kind::Error(fail(code, message))) }
}

impl Service {
    /// The store, while the node runs.
    pub(super) fn store(&self) -> Result<StoreAccess, Failure> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store
            .clone()
            .ok_or_else(|| fail(api::Code::Stopping, "this manager has stopped. Nothing was done; ask another one"))
    }

    /// Takes no more requests, and waits at most `patience` for those under way, and for watches to hear that they end.
    pub(super) async fn drain(&self, patience: Duration) {
        self.watches.stop();
        let _ = tokio::time::timeout(patience, self.watches.gone()).await;
        if let Ok(Ok(all)) = tokio::time::timeout(patience, self.under_way.acquire_many(UNDER_WAY_MAX)).await {
            all.forget();
        }
    }

    /// The node has stopped: the store and the UDP port are given back.
    pub(super) fn close(&self) {
        self.peers.close();
        self.meters.ended();
        self.watches.stop();
        self.store.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the node has stopped.
    pub(crate) fn is_closed(&self) -> bool {
        self.store.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Answers one request of whoever has called; always within its deadline.
    pub(super) async fn called(&self, caller: &Caller, request: api::Request, place: &mut Place) -> api::Response {
        let Some(kind) = &request.kind else { return unknown_kind() };
        let Ok(_under_way) = self.under_way.try_acquire() else { return stopping() };
        // Who it is may have to be looked for in the cluster: that is a part of the request, and of its time.
        let until = until(&request);
        match self.identify(caller, kind, until).await {
            Ok(asker) => self.call_until(asker, request, until, place).await,
            Err(error) => api::Response { kind: Some(response::Kind::Error(error)) },
        }
    }

    /// What another manager passes on is answered as if whoever asked it had asked here. Nobody else passes on.
    async fn taken_out(
        &self,
        asker: Asker,
        request: api::Request,
        until: Instant,
    ) -> Result<(Asker, api::Request), Failure> {
        let Some(request::Kind::PassedOn(passed)) = request.kind else { return Ok((asker, request)) };
        authorize::check(&asker, &request::Kind::PassedOn(api::PassedOn::default()))?;
        let malformed = || fail(api::Code::Invalid, "what was passed on cannot be read. Nothing was done");
        let spoken_for = passed.behalf.as_ref().and_then(Asker::spoken_for).ok_or_else(malformed)?;
        let inner = api::Request::decode(passed.request).map_err(|_error| malformed())?;
        self.stands(spoken_for.who, until).await?;
        // A deadline of its own would be by another clock.
        Ok((spoken_for, api::Request { deadline_ms: request.deadline_ms, ..inner }))
    }

    /// Answers one request; always within its deadline. A read's answer has found its place when this returns.
    pub(crate) async fn call(&self, asker: Asker, request: api::Request, place: &mut Place) -> api::Response {
        let Ok(_under_way) = self.under_way.try_acquire() else { return stopping() };
        let until = until(&request);
        self.call_until(asker, request, until, place).await
    }

    /// The same for one that is counted as under way.
    async fn call_until(
        &self,
        asker: Asker,
        request: api::Request,
        until: Instant,
        place: &mut Place,
    ) -> api::Response {
        let (asker, request) = match self.taken_out(asker, request, until).await {
            Ok(taken_out) => taken_out,
            Err(error) => return api::Response { kind: Some(response::Kind::Error(error)) },
        };
        let Some(kind) = request.kind else { return unknown_kind() };
        let (row, began) = (authorize::row(&kind), Instant::now());
        let asker = Asker { of: authorize::KINDS.get(row).copied().unwrap_or_default(), ..asker };
        let span = trace::request(&self.facts.name, asker.of, asker.who.word());
        let answer = match authorize::check(&asker, &kind) {
            Ok(()) => {
                let changes = changes_something(&kind);
                let answer = self.answer(&asker, kind, until, place).instrument(span.clone());
                tokio::time::timeout_at(until + OVERDUE, answer).await.unwrap_or_else(|_elapsed| Err(overdue(changes)))
            }
            Err(denied) => Err(denied),
        };
        let ended = answer.as_ref().map_or_else(|error| asked::ended(error.code()), |_done| Ended::Done);
        self.meters.answered(row, authorize::KINDS, began.elapsed(), ended);
        trace::answered(&span, ended, began.elapsed());
        match answer {
            Ok(kind) => api::Response { kind: Some(kind) },
            Err(error) => api::Response { kind: Some(response::Kind::Error(error)) },
        }
    }

    /// Requests without an answer yet.
    pub(super) fn requests_under_way(&self) -> usize {
        (UNDER_WAY_MAX as usize).saturating_sub(self.under_way.available_permits())
    }

    /// Who this node is right now.
    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.who.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its certificate was renewed.
    pub(super) fn is_now(&self, identity: &Arc<Identity>) {
        *self.who.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(identity);
    }

    /// Seconds until the node's certificate runs out; negative: since when it has.
    pub(super) fn certificate_seconds(&self) -> f64 {
        let now = self.certificates.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.identity().subject().not_after as f64 - now.as_secs_f64()
    }

    /// How long the node's certificate still holds; `None` when it has run out.
    pub(super) fn certificate_left(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.certificate_seconds()).ok()
    }

    async fn answer(
        &self,
        asker: &Asker,
        kind: request::Kind,
        until: Instant,
        place: &mut Place,
    ) -> Result<response::Kind, Failure> {
        match kind {
            request::Kind::Rejoin(rejoin) => {
                let Who::Node(node) = asker.who else {
                    return Err(fail(api::Code::Denied, "only a node's own certificate can rejoin it"));
                };
                self.rejoin(node, rejoin, until).await.map(response::Kind::Rejoin)
            }
            request::Kind::Enrol(enrol) => {
                let Who::Node(node) = asker.who else {
                    return Err(fail(api::Code::Denied, "only a node's own certificate can make it a manager"));
                };
                self.enrol(node, enrol, until).await.map(response::Kind::Enrol)
            }
            request::Kind::NodeReport(_) => {
                Ok(response::Kind::NodeReport(api::NodeReportDone { json: json(&self.node_report(asker.who))? }))
            }
            request::Kind::AssignmentsWrite(write) => {
                self.assign(asker, write.request, until).await.map(response::Kind::AssignmentsWrite)
            }
            request::Kind::AssignmentsRead(read) => {
                self.assigned(asker, read, until).await.map(response::Kind::AssignmentsRead)
            }
            request::Kind::ReportRead(read) => self.reported(asker, read, until).await.map(response::Kind::ReportRead),
            request::Kind::Sessions(told) => self.sessions(told).await.map(response::Kind::Sessions),
            request::Kind::Addresses(_) => Ok(response::Kind::Addresses(self.addresses_met())),
            request::Kind::Write(write) => {
                let result = self.write(asker, write.request, until).await?.encode_to_vec().into();
                Ok(response::Kind::Write(api::WriteDone { result }))
            }
            request::Kind::Watch(_) | request::Kind::Backup(_) => Err(fail(
                api::Code::Invalid,
                "this is asked for as a feed, not as a request: the client is of another version. Nothing was done",
            )),
            request::Kind::Read(read) => self.read(asker, read, until, place).await.map(response::Kind::Read),
            request::Kind::Status(_) => {
                Ok(response::Kind::Status(api::StatusDone { json: json(&self.cluster_status().await)? }))
            }
            request::Kind::MemberStatus(_) => {
                Ok(response::Kind::Status(api::StatusDone { json: json(&self.member_report().await?)? }))
            }
            request::Kind::TokenShow(show) => self.token_show(asker, &show.role, until).await,
            request::Kind::TokenRotate(rotate) => self.token_rotate(asker, rotate, until).await,
            request::Kind::TokenCreate(create) => self.token_create(asker, create, until).await,
            request::Kind::TokenList(_) => self.token_list(until).await,
            request::Kind::TokenRevoke(revoke) => self.token_revoke(asker, revoke, until).await,
            request::Kind::KeyringShow(_) => self.keyring_show(until).await,
            request::Kind::KeyringRotate(rotate) => self.keyring_rotate(asker, rotate.active, until).await,
            request::Kind::ObjectCreate(create) => self.object_create(asker, create, until).await,
            request::Kind::ObjectList(list) => self.object_list(list, until).await,
            request::Kind::ObjectInspect(inspect) => self.object_inspect(&inspect.kind, &inspect.name, until).await,
            request::Kind::ObjectUpdate(update) => self.object_update(asker, update, until).await,
            request::Kind::ObjectRemove(remove) => self.object_remove(asker, remove, until).await,
            request::Kind::SecretReveal(reveal) => self.secret_reveal(asker, &reveal.name, until).await,
            request::Kind::ConfigRead(read) => self.config_read(&read.name, until).await,
            request::Kind::NodeList(_) => document(&self.node_list().await?),
            request::Kind::NodeInspect(inspect) => self.node_inspect(asker, &inspect.node, until).await,
            request::Kind::NodeRole(role) => self.node_role(asker, role, until).await,
            request::Kind::NodeUpdate(update) => self.node_update(asker, update, until).await,
            request::Kind::NodeRemove(remove) => self.node_remove(asker, remove, until).await,
            request::Kind::NodeLeave(leave) => self.node_leave(asker, leave, until).await,
            request::Kind::PolicyShow(_) => self.policy_show(until).await,
            request::Kind::PolicySet(set) => self.policy_set(asker, set, until).await,
            request::Kind::UpgradeStatus(_) => document(&self.upgrade_status().await?),
            request::Kind::UpgradeFinish(finish) => self.upgrade_finish(asker, finish, until).await,
            request::Kind::Transfer(transfer) => {
                self.transfer(asker, transfer, until).await.map(response::Kind::Transfer)
            }
            request::Kind::KeyOrder(order) => self.key_order(asker, order).await,
            request::Kind::Unlock(_) => Err(fail(api::Code::Refused, "this manager is not locked. Nothing was done")),
            request::Kind::Check(asked) => document(&self.check(asker, asked).await),
            request::Kind::Standing(asked) => {
                self.standing_for(asker, asked, until).await.map(response::Kind::Standing)
            }
            request::Kind::LeaseWrite(write) => self.lease_write(asker, write.request, until).await,
            request::Kind::LeaseKeepAlive(renewal) => self.lease_keep_alive(asker, renewal.lease, until).await,
            request::Kind::LeaseList(list) => self.lease_list(asker, list, until).await,
            request::Kind::LeaseShow(show) => self.lease_show(asker, show, until).await,
            request::Kind::OperatorIssue(issue) => self.operator_issue(asker, issue, until).await,
            request::Kind::OperatorRevoke(revoke) => self.operator_revoke(asker, revoke, until).await,
            request::Kind::OperatorList(_) => self.operator_list(until).await,
            request::Kind::CaRotate(rotate) => self.ca_rotate(asker, rotate, until).await,
            request::Kind::CaStatus(_) => self.ca_status(until).await,
            request::Kind::PassedOn(_) => {
                Err(fail(api::Code::Invalid, "what was passed on is passed on no further. Nothing was done"))
            }
            request::Kind::Command(api::Command { command, behalf }) => {
                let command: Command = whole(command, "the command that was passed on")?;
                let behalf = match &behalf {
                    Some(behalf) => Some(Asker::spoken_for(behalf).ok_or_else(|| {
                        fail(api::Code::Invalid, "a command was passed on for nobody that there is. Nothing was done")
                    })?),
                    None => None,
                };
                if let Some(asker) = &behalf {
                    self.stands(asker.who, until).await?;
                }
                let result = self.router.execute_passed_on(behalf.as_ref(), command, until).await?;
                Ok(response::Kind::Command(api::CommandDone { result: result.encode_to_vec().into() }))
            }
        }
    }

    async fn write(&self, asker: &Asker, request: Bytes, until: Instant) -> Result<TxnResult, Failure> {
        #[cfg(feature = "next-version")]
        if let Some(request) = Request::decode(request.clone()).ok().filter(|request| request.note.is_some()) {
            let put = quorate_core::txn::Put {
                key: quorate_core::keyspace::Section::User.key(b"note"),
                ..Default::default()
            };
            authorize::within(asker, Txn::of(put))?;
            return self.write_note(asker, request, until).await;
        }
        let (request, mut txn) = requested(request)?;
        user::qualify(&mut txn);
        let txn = authorize::within(asker, txn)?;
        check_txn(&txn).map_err(|refusal| refused(&refusal))?;
        if txn.only_reads() {
            let mut result = self.look(txn, until).await?;
            user::strip_result(&mut result);
            return Ok(result);
        }
        let command = Command::from(CommandKind::Request(Request { txn: Some(txn.into_inner()), ..request }));
        let mut result = self.router.execute_for(asker, command, until).await?;
        user::strip_result(&mut result);
        Ok(result)
    }

    /// A transaction that cannot write is a read: linearizable, and no entry of the log, so that who may only look adds nothing to it.
    async fn look(&self, txn: Allowed<Txn>, until: Instant) -> Result<TxnResult, Failure> {
        let term = self.router.read_index(until).await?;
        let reader = self.store()?.reader;
        let looking = blocking(move || {
            let looked = read::transaction(&*reader.view(), &txn, term).map_err(|error| broken(&error))?;
            looked.map_err(|refusal| refused(&refusal))
        });
        in_time(until, looking).await
    }

    /// How old this manager's state may be: every write that was acknowledged longer ago is in it. `None` while nothing is
    /// known, because no quorum has confirmed anything to this process yet.
    pub(super) fn age_ms(&self) -> Option<u64> {
        let as_of = Duration::from_nanos(self.status.borrow().as_of?.0);
        let age = self.clock.elapsed().saturating_sub(as_of);
        // Rounded up: it is a promise.
        Some(u64::try_from(age.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
    }

    /// Milliseconds since this manager last knew of a leader.
    pub(super) fn leaderless_ms(&self) -> u64 {
        let ticks = self.status.borrow().leaderless_ticks;
        self.milliseconds(ticks)
    }

    pub(super) fn milliseconds(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(self.status.borrow().tick.0) / 1_000_000
    }

    /// What people call the manager with this raft id.
    pub(super) fn name_of(&self, id: RaftId) -> String {
        name_of(&self.records.borrow(), id)
    }
}

/// Of a request that something of this machine holds up, the disk most likely.
fn overdue(changes: bool) -> Failure {
    if changes {
        return fail(api::Code::Unknown, "no outcome within the deadline: it may or may not be done");
    }
    fail(api::Code::Deadline, "this manager could not read within the deadline: look at its disk, or ask another one")
}

/// What people call the manager with this raft id, by these records.
pub(super) fn name_of(records: &Records, id: RaftId) -> String {
    records.by_raft_id(id).map_or_else(|| format!("raft id {id}"), display_name)
}

/// A node's name, or its id when it has none.
pub(crate) fn display_name(node: &NodeRecord) -> String {
    if node.name.is_empty() { node.node_id().unwrap_or_default().to_string() } else { node.name.clone() }
}

/// An answer that is a documented JSON document.
pub(super) fn document(value: &impl serde::Serialize) -> Result<response::Kind, Failure> {
    Ok(response::Kind::Document(api::DocumentDone { json: json(value)? }))
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<Bytes, Failure> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| fail(api::Code::Internal, error.to_string()))
}

pub(super) fn broken(error: &StoreError) -> Failure {
    fail(api::Code::Internal, format!("this manager's store failed: {error}; ask another manager"))
}

/// Runs what may wait for the disk away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(fail(api::Code::Internal, format!("a reader failed: {error}"))))
}

#[cfg(test)]
#[path = "service_tests.rs"]
pub(super) mod tests;
