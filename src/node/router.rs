//! From a command to its outcome: to the log here, or to the leader, until the deadline.
//!
//! Owns what a command's answers mean. One with a request id may be sent as often as it takes, the replay table makes it
//! count once; a system transaction is sent again only when it was certainly not appended. How it gets to the leader is
//! [`super::forwarding`]'s. Called by the service.

use std::sync::Arc;

use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Answer, Origin, Records, Rejection, Status};
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::limits::Met;
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::txn::TxnResult;
use quorate_transport::api::{self, request, response};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::authorize::{self, Allowed};
use super::forwarding::Errand;
use super::gate::Asker;
use super::reach::Reach;
use super::service::name_of;
use super::tasks::{Call, Reply};
use super::trace;
use crate::membership::Rule;
use crate::metrics::Meters;

/// A failure on its way to the wire.
pub(super) type Failure = api::Error;

pub(super) fn fail(code: api::Code, message: impl Into<String>) -> Failure {
    api::Error { code: code.into(), message: message.into(), ..api::Error::default() }
}

/// A refusal for a limit, told by its name in `message`, too.
pub(super) fn limited(code: api::Code, met: Met, message: impl Into<String>) -> Failure {
    over(met, fail(code, message))
}

/// The same failure, with the limit that was met.
pub(super) fn over(met: Met, failure: Failure) -> Failure {
    api::Error { limit: Some(to_wire(met)), ..failure }
}

fn to_wire(met: Met) -> Box<api::Limit> {
    Box::new(api::Limit { name: met.name.to_owned(), bound: met.bound, actual: met.actual })
}

/// A refusal by a rule of membership, told by its name.
pub(super) fn refused_by(rule: Rule, message: impl Into<String>) -> Failure {
    api::Error { rule: rule.word().to_owned(), ..fail(api::Code::Refused, message) }
}

pub(super) struct Router {
    pub(super) inbox: mpsc::Sender<Call>,
    pub(super) peers: Reach,
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) records: watch::Receiver<Arc<Records>>,
    pub(super) meters: Arc<Meters>,
}

/// A write without an outcome yet, however its future ends.
struct Pending<'a>(&'a Meters);

impl<'a> Pending<'a> {
    fn new(meters: &'a Meters) -> Self {
        meters.proposals_pending.increment(1.0);
        Self(meters)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.proposals_pending.decrement(1.0);
    }
}

/// A command on its way into the log, judged as a whole.
struct Proposal {
    command: Allowed<Command>,
    origin: Origin,
    /// Whose request it is; none of the managers' own.
    behalf: Option<api::Behalf>,
}

impl Errand for Proposal {
    type Done = TxnResult;

    const WHAT: &'static str = "a write";

    /// The replay table makes it count once.
    fn repeatable(&self) -> bool {
        matches!(self.command.kind, Some(CommandKind::Request(_)))
    }

    fn call(&self, reply: oneshot::Sender<Reply>) -> Call {
        Call::Propose { command: self.command.clone().into_inner(), origin: self.origin, reply }
    }

    fn done_here(&self, reply: Reply) -> Option<Result<TxnResult, Failure>> {
        match reply {
            Reply::Outcome { index, outcome } => {
                trace::applied(index, &outcome);
                Some(settle(*outcome))
            }
            Reply::Answer(_) => None,
        }
    }

    fn request(&self) -> request::Kind {
        let behalf = self.behalf.clone();
        request::Kind::Command(api::Command { command: self.command.encode_to_vec().into(), behalf })
    }

    fn done_there(&self, answer: response::Kind) -> Option<Result<TxnResult, Failure>> {
        let response::Kind::Command(done) = answer else { return None };
        let read = TxnResult::decode(done.result);
        let read =
            read.map_err(|error| fail(api::Code::Internal, format!("the leader's answer cannot be read: {error}")));
        Some(read.inspect(|done| trace::done_there(done.revision)))
    }
}

impl Router {
    pub(super) async fn ask(
        &self,
        until: Instant,
        call: impl FnOnce(oneshot::Sender<Reply>) -> Call,
    ) -> Result<Reply, Failure> {
        let (reply, answer) = oneshot::channel();
        let stopping = || fail(api::Code::Stopping, "this manager is stopping; ask another one. Nothing was done");
        match timeout_at(until, self.inbox.send(call(reply))).await {
            Err(_elapsed) => {
                return Err(fail(api::Code::Overloaded, "this manager is too busy. Nothing was done; try again"));
            }
            Ok(Err(_closed)) => return Err(stopping()),
            Ok(Ok(())) => {}
        }
        match timeout_at(until, answer).await {
            Err(_elapsed) => Err(fail(api::Code::Unknown, "no outcome within the deadline: it may or may not be done")),
            Ok(Err(_dropped)) => {
                Err(fail(api::Code::Unknown, "this manager stopped in the middle: it may or may not be done"))
            }
            Ok(Ok(reply)) => Ok(reply),
        }
    }

    /// Replicates a command of the managers' own; answers its outcome. "Not done" is said only when no attempt can have been done.
    pub(super) async fn execute(&self, command: Command, until: Instant) -> Result<TxnResult, Failure> {
        let command = authorize::command(None, command)?;
        self.replicate(Proposal { command, origin: Origin::Here, behalf: None }, until).await
    }

    /// The same for what somebody has asked for, as far as that one may: the leader is told who, and judges again.
    pub(super) async fn execute_for(
        &self,
        asker: &Asker,
        command: Command,
        until: Instant,
    ) -> Result<TxnResult, Failure> {
        let command = authorize::command(Some(asker), command)?;
        self.replicate(Proposal { command, origin: Origin::Here, behalf: Some(asker.behalf()) }, until).await
    }

    /// The same for what another manager has passed on, `behalf` of whoever asked it; it goes no further.
    pub(super) async fn execute_passed_on(
        &self,
        behalf: Option<&Asker>,
        command: Command,
        until: Instant,
    ) -> Result<TxnResult, Failure> {
        let command = authorize::command(behalf, command)?;
        self.replicate(Proposal { command, origin: Origin::Forwarded, behalf: None }, until).await
    }

    async fn replicate(&self, proposal: Proposal, until: Instant) -> Result<TxnResult, Failure> {
        let (began, _pending) = (Instant::now(), Pending::new(&self.meters));
        trace::asked(&proposal.command);
        let mut open = None;
        let answer = self.run(&proposal, proposal.origin, until, &mut open).await;
        let answer = answer.map_err(|error| overshadowed(error, open));
        match &answer {
            Ok(_) => self.meters.proposal_duration.record(began.elapsed()),
            Err(error)
                if not_made(error.code()) || matches!(error.code(), api::Code::Unknown | api::Code::Internal) =>
            {
                self.meters.proposals_failed.increment(1);
            }
            Err(_refused) => self.meters.proposal_duration.record(began.elapsed()),
        }
        answer
    }

    /// From here on a read of what is applied on this manager is linearizable; answers the term of the leadership whose quorum says
    /// so.
    pub(super) async fn read_index(&self, until: Instant) -> Result<Term, Failure> {
        let began = Instant::now();
        let answer = self.confirmed(until).await;
        if began.elapsed() > self.election() {
            self.meters.slow_read_indexes.increment(1);
        }
        match &answer {
            Ok((index, _)) => trace::confirmed(*index),
            Err(_) => self.meters.read_indexes_failed.increment(1),
        }
        answer.map(|(_, term)| term)
    }

    /// What the machine has not taken.
    pub(super) fn rejected(&self, rejection: &Rejection) -> Failure {
        rejected(rejection, &self.records.borrow())
    }

    async fn confirmed(&self, until: Instant) -> Result<(LogIndex, Term), Failure> {
        match self.ask(until, |reply| Call::Read { reply }).await {
            Ok(Reply::Answer(Answer::ReadAt { index, term })) => Ok((index, term)),
            Ok(Reply::Answer(Answer::Refused(rejection))) => Err(self.rejected(&rejection)),
            Ok(_) => Err(fail(api::Code::Internal, "a read was answered as something else")),
            // A read changes nothing: there is nothing unknown about it.
            Err(error) if matches!(error.code(), api::Code::Unknown) => {
                Err(fail(api::Code::Deadline, "no quorum confirmed the read within the deadline"))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn transfer(&self, to: Option<RaftId>, until: Instant) -> Result<RaftId, Failure> {
        match self.ask(until, |reply| Call::Transfer { to, reply }).await? {
            Reply::Answer(Answer::Transferred(leader)) => Ok(leader),
            Reply::Answer(Answer::Refused(rejection)) => Err(self.rejected(&rejection)),
            Reply::Answer(Answer::Unknown) => Err(fail(
                api::Code::Unknown,
                "the other manager did not take over in time; leadership may still move, there or elsewhere. Ask `status` who leads; nothing is lost",
            )),
            Reply::Answer(_) | Reply::Outcome { .. } => {
                Err(fail(api::Code::Internal, "a transfer was answered as something else"))
            }
        }
    }
}

/// Whether this says that the last attempt was not made.
const fn not_made(code: api::Code) -> bool {
    matches!(
        code,
        api::Code::NoLeader
            | api::Code::NotLeader
            | api::Code::QuorumLost
            | api::Code::ReadOnly
            | api::Code::Overloaded
            | api::Code::Stopping
            | api::Code::Deadline
            | api::Code::Version
            // A client that takes it for "nothing was done" sends the write again under a fresh id.
            | api::Code::Expired
    )
}

/// Why the last attempt was not even made says nothing about an earlier one that may be in a log: with such a one open
/// the outcome is unknown. What the state machine answered settles it, whichever attempt it was.
fn overshadowed(error: Failure, open: Option<Failure>) -> Failure {
    match open {
        Some(earlier) if !error.settled || not_made(error.code()) => {
            // The later reason promises that nothing was done: only the earlier one may be told.
            fail(api::Code::Unknown, format!("{}; the attempt after it found nobody who could tell", earlier.message))
        }
        Some(_) | None => error,
    }
}

fn settle(outcome: Outcome) -> Result<TxnResult, Failure> {
    match outcome {
        Outcome::Done(done) => Ok(done),
        Outcome::Refused(refusal) => Err(settled(refused(&refusal))),
    }
}

/// What the state machine has answered, or what was settled in it before it is told.
pub(super) fn settled(failure: Failure) -> Failure {
    api::Error { settled: true, ..failure }
}

pub(super) fn refused(refusal: &Refusal) -> Failure {
    let code = match refusal {
        // The cluster's limits, not the request's: they pass as silent clients are forgotten.
        Refusal::Limit { limit: "REPLAY_CLIENTS_MAX" | "REPLAY_BYTES_MAX", .. } => api::Code::Overloaded,
        // Nor this one: it is full of what came before it in one entry.
        Refusal::Limit { limit: "ENTRY_BYTES_MAX", .. } => api::Code::Overloaded,
        Refusal::Limit { .. } | Refusal::EmptyKey | Refusal::DuplicateKey { .. } | Refusal::Malformed { .. } => {
            api::Code::Invalid
        }
        Refusal::Compacted { .. } => api::Code::Compacted,
        Refusal::NewGeneration { .. } => api::Code::NewGeneration,
        Refusal::FutureRevision { .. } => api::Code::Invalid,
        Refusal::Fenced { .. } => api::Code::Fenced,
        Refusal::StoreFull { .. } => api::Code::StoreFull,
        Refusal::RequestExpired { .. } => api::Code::Expired,
        Refusal::ReplayFull { .. } => api::Code::Overloaded,
        Refusal::LeaseNotFound { .. } => api::Code::LeaseNotFound,
        Refusal::LeaseTtl { .. } => api::Code::Invalid,
        // Whoever sealed it seals it again; to others it is told as one more write that was overtaken.
        Refusal::StaleKey { .. } => api::Code::StaleKey,
        Refusal::InUse { .. } => api::Code::Refused,
        Refusal::NoSuchObject { .. } => api::Code::NotFound,
    };
    let oldest = if let Refusal::Compacted { oldest, .. } = refusal { *oldest } else { 0 };
    let kept_revision = if let Refusal::NewGeneration { kept_revision, .. } = refusal { *kept_revision } else { 0 };
    let lease = if let Refusal::LeaseNotFound { lease } = refusal { *lease } else { 0 };
    let limit = refusal.limit().map(to_wire);
    api::Error { oldest, kept_revision, lease, limit, ..fail(code, refusal.to_string()) }
}

/// What the machine has not taken, with managers by their names in `records`.
fn rejected(rejection: &Rejection, records: &Records) -> Failure {
    let name = |id: RaftId| name_of(records, id);
    let message = rejection.told(&name);
    match rejection {
        Rejection::NoLeader { .. } | Rejection::Replaced => fail(api::Code::NoLeader, message),
        Rejection::QuorumLost { missing, .. } => {
            let names = missing.iter().copied().map(name).collect();
            api::Error { missing: Some(Box::new(api::Missing { names })), ..fail(api::Code::QuorumLost, message) }
        }
        Rejection::NotLeader { leader } => {
            api::Error { leader: leader.map_or(0, |leader| leader.0), ..fail(api::Code::NotLeader, message) }
        }
        Rejection::Overloaded { .. } | Rejection::OverloadedBytes { .. } => {
            api::Error { limit: rejection.limit().map(to_wire), ..fail(api::Code::Overloaded, message) }
        }
        Rejection::ReadOnly { .. } => fail(api::Code::ReadOnly, message),
        Rejection::VersionNotEnabled { .. } => fail(api::Code::Version, message),
        Rejection::Transfer(_) => fail(api::Code::Refused, message),
        Rejection::Stopping => fail(api::Code::Stopping, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_attempt_makes_a_later_refusal_unknown() {
        // Given a leader that died with the command in its log, and no leader since.
        let open = || Some(fail(api::Code::Unknown, "the leader did not answer"));
        let no_leader = || fail(api::Code::NoLeader, "nobody leads; nothing was done");
        // Then nobody may say that nothing was done,
        assert_eq!(overshadowed(no_leader(), open()).code(), api::Code::Unknown);
        assert!(!overshadowed(no_leader(), open()).message.contains("nothing was done"));
        // unless no attempt was ever made, or the state machine itself has answered.
        assert_eq!(overshadowed(no_leader(), None).code(), api::Code::NoLeader);
        // A forgotten client must not take its word for it either: it would send the write again under a fresh id.
        let expired = || fail(api::Code::Expired, "the outcome is no longer kept");
        assert_eq!(overshadowed(expired(), open()).code(), api::Code::Unknown);
        assert_eq!(overshadowed(expired(), None).code(), api::Code::Expired);
        // A leader that may not take it into its log yet says nothing about a log before it.
        let version = || fail(api::Code::Version, "nothing was changed");
        assert_eq!(overshadowed(version(), open()).code(), api::Code::Unknown);
        assert_eq!(overshadowed(version(), None).code(), api::Code::Version);
        assert_eq!(overshadowed(settled(fail(api::Code::Fenced, "fenced")), open()).code(), api::Code::Fenced);
    }
}
