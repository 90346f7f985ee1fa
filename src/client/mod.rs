//! The client: one type, in process or over QUIC.
//!
//! Owns request ids, retries within the deadline, and the choice of manager. Never decides an outcome: a write that
//! was not answered is sent again with the same request id, and the replay table makes it count once. Called by
//! embedders, the command line and the managers' own leadership tasks.

#[cfg(feature = "worker")]
mod in_process;
mod assignments;
mod kv;
mod remote;
mod sequence;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::Request;
use quorate_core::id::{ClientId, Term};
use quorate_core::state::check_txn;
use quorate_core::txn::{Range, Txn, TxnResult};
use quorate_core::user;
use quorate_transport::api;
use tokio::time::Instant;

pub use assignments::{AssignedItem, AssignmentApi, AssignmentOutcome, AssignmentTxn, ItemReport};
pub use kv::{Entry, Kv, RangeBuilder, RangePage, TxnBuilder, TxnOutcome, WriteBuilder, compare, operation};
pub use quorate_transport::Identity;

use crate::config;
use crate::error::{Error, Result};
use crate::status::{ClusterStatus, NodeReport};
#[cfg(feature = "worker")]
pub(crate) use in_process::NodeWay;
#[cfg(feature = "worker")]
pub(crate) use remote::SOFTWARE;
use sequence::Sequences;

/// How long a new client waits to learn its birth.
const BORN_PATIENCE: Duration = Duration::from_secs(1);

type Reply<'a> = Pin<Box<dyn Future<Output = Result<api::Response, CallError>> + Send + 'a>>;

/// Why a single attempt has no answer.
#[derive(Debug, Clone)]
pub(crate) struct CallError {
    /// The request may have reached a manager.
    pub(crate) unknown: bool,
    pub(crate) message: String,
}

/// How a request gets to a manager.
pub(crate) trait Way: Send + Sync + 'static {
    /// One attempt, with at most `patience` for the answer. Another attempt may go to another manager.
    fn call(&self, request: api::Request, patience: Duration) -> Reply<'_>;

    /// How long an attempt may take before another manager is tried; none in process.
    fn attempt(&self) -> Option<Duration>;
}

struct Shared {
    way: Box<dyn Way>,
    sequences: Sequences,
}

/// A client of the cluster. Cheap to clone; all clones share one set of request ids.
///
/// Every request has a deadline (10 s unless set). Futures of requests may be dropped at any time: a write may then
/// have been done or not.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
    fence: Option<Term>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("deadline", &self.deadline).field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn over(way: Box<dyn Way>, client: ClientId, born: u64) -> Self {
        let shared = Shared { way, sequences: Sequences::new(client, born) };
        Self { shared: Arc::new(shared), deadline: config::REQUEST_DEADLINE, fence: None }
    }

    /// Connects from outside, over QUIC, to whichever of the managers answers first.
    ///
    /// `managers` are `host:port`; the identity is what `init` wrote as `operator.id`. Works on any tokio runtime.
    ///
    /// # Errors
    /// `Unavailable` when no manager could be reached, naming each one and why; `Denied` when one refuses the identity.
    pub async fn connect<S: Into<String>>(managers: impl IntoIterator<Item = S>, identity: Identity) -> Result<Self> {
        Self::connect_within(managers, identity, config::REQUEST_DEADLINE).await
    }

    /// As [`connect`](Self::connect), with a deadline for connecting and for each request.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_within<S: Into<String>>(
        managers: impl IntoIterator<Item = S>,
        identity: Identity,
        deadline: Duration,
    ) -> Result<Self> {
        let managers = managers.into_iter().map(Into::into).collect();
        let way = remote::Remote::connect(managers, identity, deadline).await?;
        Ok(Self::born_over(Box::new(way)).await?.with_deadline(deadline))
    }

    /// Connects to the node that runs on `directory` of this machine, over its local socket. Needs no certificate.
    ///
    /// # Errors
    /// `Unavailable` when no node runs there.
    pub async fn local(directory: impl AsRef<std::path::Path>) -> Result<Self> {
        let way = remote::Local::connect(directory.as_ref()).await?;
        Self::born_over(Box::new(way)).await
    }

    /// The node behind this client has another role from now on, and has applied `born`: what was asked before was asked
    /// of others.
    #[cfg(feature = "worker")]
    pub(crate) fn renew(&self, born: u64) -> Result<()> {
        self.shared.sequences.renew(config::random_id(ClientId::from_bytes)?, born);
        Ok(())
    }

    /// What the node that is asked says of itself: which role it has, and with whom a worker has its session.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within the deadline.
    pub async fn node_report(&self) -> Result<NodeReport> {
        let kind = api::request::Kind::NodeReport(api::NodeReport {});
        let api::response::Kind::NodeReport(done) = self.ask(kind).await? else { return Err(unexpected()) };
        serde_json::from_slice(&done.json)
            .map_err(|error| Error::Internal(format!("the node's report cannot be read: {error}")))
    }

    /// A client that knows an index applied before its id was drawn: with it the replay table tells a client that it
    /// has forgotten from one that is new.
    async fn born_over(way: Box<dyn Way>) -> Result<Self> {
        let born = born(&*way).await;
        Ok(Self::over(way, config::random_id(ClientId::from_bytes)?, born))
    }

    /// The same client with another deadline for each request.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client with a fencing token on every write: it is refused unless the log entry that carries it has
    /// this term.
    #[must_use]
    pub fn with_fence(&self, term: u64) -> Self {
        Self { fence: Some(Term(term)), ..self.clone() }
    }

    /// The key-value store.
    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    /// What nodes are to run, and how they say it goes.
    pub fn assignments(&self) -> AssignmentApi {
        AssignmentApi::new(self.clone())
    }

    /// The cluster as the manager that answers sees it; needs no quorum.
    ///
    /// # Errors
    /// `Unavailable` when no manager answers within the deadline.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let kind = api::request::Kind::Status(api::Status {});
        let api::response::Kind::Status(done) = self.ask(kind).await? else { return Err(unexpected()) };
        serde_json::from_slice(&done.json)
            .map_err(|error| Error::Internal(format!("the status answer cannot be read: {error}")))
    }

    /// The join token for `role` ("manager" or "worker").
    ///
    /// # Errors
    /// `Denied` unless the identity is an operator's.
    pub async fn join_token(&self, role: &str) -> Result<String> {
        let kind = api::request::Kind::TokenShow(api::TokenShow { role: role.to_owned() });
        let api::response::Kind::Token(done) = self.ask(kind).await? else { return Err(unexpected()) };
        Ok(done.token)
    }

    /// Hands leadership to `to` (name, node id or raft id), or to the voter that is furthest. Answers the name of who
    /// leads then.
    ///
    /// # Errors
    /// `Refused` with the reason: no seat, not reachable, not taken over within one election timeout.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<String> {
        let kind = api::request::Kind::Transfer(api::Transfer { to: to.unwrap_or_default().to_owned() });
        let api::response::Kind::Transfer(done) = self.ask(kind).await? else { return Err(unexpected()) };
        Ok(done.name)
    }

    /// Sends a transaction with user keys; applied once, however often it must be sent.
    pub(crate) async fn transact(&self, mut txn: Txn) -> Result<TxnResult> {
        txn.fence = txn.fence.or(self.fence.map(|term| term.0));
        let mut full = txn.clone();
        user::qualify(&mut full);
        check_txn(&full).map_err(|refusal| Error::Invalid(refusal.to_string()))?;
        self.once(txn, |request| api::request::Kind::Write(api::Write { request })).await
    }

    /// Sends a transaction over assignments, its keys with their sections; applied once, however often it must be sent.
    pub(crate) async fn transact_work(&self, mut txn: Txn) -> Result<TxnResult> {
        txn.fence = txn.fence.or(self.fence.map(|term| term.0));
        let refused = |refusal: quorate_core::state::contract::Refusal| Error::Invalid(refusal.to_string());
        quorate_core::membership::assign::check(&txn).map_err(refused)?;
        check_txn(&txn).map_err(refused)?;
        self.once(txn, |request| api::request::Kind::AssignmentsWrite(api::AssignmentsWrite { request })).await
    }

    async fn once(&self, txn: Txn, wrap: impl Fn(Bytes) -> api::request::Kind) -> Result<TxnResult> {
        let mut forgotten = false;
        loop {
            let open = self.shared.sequences.open();
            let request = Request {
                client: Bytes::copy_from_slice(open.id.client.as_bytes()),
                sequence: open.id.sequence,
                low_water: open.low_water,
                txn: Some(txn.clone()),
                born: open.born,
            };
            let read = |result: Bytes| {
                TxnResult::decode(result)
                    .map_err(|error| Error::Internal(format!("the answer cannot be read: {error}")))
            };
            match self.ask_noting(wrap(request.encode_to_vec().into())).await {
                Ok(api::response::Kind::Write(done)) => return read(done.result),
                Ok(api::response::Kind::AssignmentsWrite(done)) => return read(done.result),
                Ok(_) => return Err(unexpected()),
                // The managers had forgotten this client, and no earlier copy of this request is on its way: nothing was
                // done, and it goes again under a fresh id. Once.
                Err(Failed::Forgotten(_)) if !std::mem::replace(&mut forgotten, true) => {
                    let born = born(&*self.shared.way).await;
                    self.shared.sequences.renew(config::random_id(ClientId::from_bytes)?, born);
                }
                Err(Failed::Forgotten(error) | Failed::Final(error)) => return Err(error),
            }
        }
    }

    pub(crate) async fn ask(&self, kind: api::request::Kind) -> Result<api::response::Kind> {
        self.ask_noting(kind).await.map_err(Failed::into_error)
    }

    /// Asks until there is an answer, a refusal, or the deadline.
    async fn ask_noting(&self, kind: api::request::Kind) -> Result<api::response::Kind, Failed> {
        let until = Instant::now() + self.deadline;
        let mut unknown = false;
        let mut last: Option<Error> = None;
        let mut pause = Duration::from_millis(10);
        // A hand-over cannot be sent twice without harm; everything else is exactly-once or only reads.
        let repeatable = !matches!(kind, api::request::Kind::Transfer(_));
        let mut attempt = self.shared.way.attempt().filter(|_| repeatable);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.given_up(unknown, last).into());
            }
            let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let request = api::Request { deadline_ms, kind: Some(kind.clone()) };
            let patience = left.min(attempt.unwrap_or(left));
            // A cluster that is only slow must not drown in repeats of what it is still working on.
            attempt = attempt.map(|attempt| attempt * 2);
            match self.shared.way.call(request, patience).await {
                Ok(api::Response { kind: Some(api::response::Kind::Error(error)) }) => {
                    let may_be_done = matches!(error.code(), api::Code::Unknown);
                    if matches!(error.code(), api::Code::Expired) && !unknown {
                        return Err(Failed::Forgotten(Error::from_wire(error)));
                    }
                    let error = Error::from_wire(error);
                    if !(repeatable && (error.is_retryable() || may_be_done)) {
                        return Err(error.into());
                    }
                    unknown |= may_be_done;
                    last = Some(error);
                }
                Ok(api::Response { kind: Some(kind) }) => return Ok(kind),
                Ok(api::Response { kind: None }) => {
                    let what = "the manager answered with a kind this client does not know";
                    return Err(Error::Internal(what.into()).into());
                }
                Err(error) => {
                    unknown |= error.unknown;
                    if unknown && !repeatable {
                        return Err(Error::Unknown(format!(
                            "{}: whether it was done is unknown, ask for the status",
                            error.message
                        ))
                        .into());
                    }
                    last = Some(Error::Unavailable(error.message));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn given_up(&self, unknown: bool, last: Option<Error>) -> Error {
        let seconds = self.deadline.as_secs_f32();
        let why = last.as_ref().map_or_else(|| "no answer".to_owned(), ToString::to_string);
        if unknown {
            return Error::Unknown(format!(
                "no answer within {seconds} s: the request may or may not have been done. Read to find out, or send it again if that is harmless. Last: {why}"
            ));
        }
        match last {
            Some(error @ (Error::NoLeader(_) | Error::QuorumLost(_) | Error::Overloaded(_))) => error,
            _ => Error::Unavailable(format!("not done within {seconds} s: {why}")),
        }
    }
}

/// How a request failed, as far as the client itself must know.
enum Failed {
    /// The managers no longer know the client, and no other copy of the request is on its way: nothing was done.
    Forgotten(Error),
    Final(Error),
}

impl Failed {
    fn into_error(self) -> Error {
        match self {
            Self::Forgotten(error) | Self::Final(error) => error,
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// An index that some manager has applied by now; 0 when none tells.
async fn born(way: &dyn Way) -> u64 {
    let range = Range { key: Bytes::from_static(&[0]), ..Range::default() }.encode_to_vec().into();
    let kind = Some(api::request::Kind::Read(api::Read { range, serializable: true }));
    let deadline_ms = u64::try_from(BORN_PATIENCE.as_millis()).unwrap_or(u64::MAX);
    match way.call(api::Request { deadline_ms, kind }, BORN_PATIENCE).await {
        Ok(api::Response { kind: Some(api::response::Kind::Read(done)) }) => done.applied,
        // Who may not read, or gets no answer now, is told so by what it asks next.
        Ok(_) | Err(_) => 0,
    }
}

fn unexpected() -> Error {
    Error::Internal("the manager answered something else than was asked".into())
}
