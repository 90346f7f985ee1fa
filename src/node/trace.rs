//! The way of one request through the cluster, as `tracing` tells it.
//!
//! Owns the span `request` with its fields, and the names of both: docs/tracing.md lists them. The client's request id is in
//! the span on every manager that the request passes, so that one search over all their logs shows its way. At level
//! `debug`: where nobody listens, a request pays for a branch. Never decides anything. Called by the service, the gate and the router.

use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::state::contract::Outcome;
use tracing::Span;
use tracing::field::{Empty, display};

use crate::metrics::Ended;

/// Who asks, of a node that the cluster does not know yet, or takes for a stranger until it has shown who it is.
pub(super) const NEWCOMER: &str = "newcomer";

/// The span of a request that has just come to this manager; what is learned of it later is filled in.
pub(super) fn request(node: &str, kind: &'static str, asker: &'static str) -> Span {
    tracing::debug_span!(
        "request",
        node,
        kind,
        asker,
        client = Empty,
        sequence = Empty,
        leader = Empty,
        read_index = Empty,
        index = Empty,
        revision = Empty,
        outcome = Empty,
        micros = Empty,
    )
}

/// Which request of which client the command is; a command of the managers themselves is none.
pub(super) fn asked(command: &Command) {
    if let Some(CommandKind::Request(request)) = &command.kind {
        identified(request);
    }
}

fn identified(request: &Request) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    if let Some(id) = request.id() {
        span.record("client", display(id.client));
        span.record("sequence", id.sequence);
    }
}

/// It goes to the consensus task: into the log here, or to wait for a leader.
pub(super) fn attempted() {
    tracing::debug!("handed to consensus");
}

/// It goes to the manager that leads.
pub(super) fn forwarded(leader: RaftId) {
    Span::current().record("leader", leader.0);
    tracing::debug!(%leader, "forwarded to the leader");
}

/// A quorum has confirmed the read.
pub(super) fn confirmed(index: LogIndex) {
    Span::current().record("read_index", index.0);
}

/// The leader has answered with what it came to there.
pub(super) fn done_there(revision: u64) {
    Span::current().record("revision", revision);
}

/// It was applied here, as part of this entry of the log.
pub(super) fn applied(index: LogIndex, outcome: &Outcome) {
    let span = Span::current();
    span.record("index", index.0);
    if let Outcome::Done(done) = outcome {
        span.record("revision", done.revision);
    }
    tracing::debug!(%index, "applied");
}

/// It is answered for as long as the asker listens: it was taken in.
pub(super) fn opened() {
    tracing::debug!("opened");
}

/// It is answered, or, where the answer goes on for as long as the asker listens, over.
pub(super) fn answered(span: &Span, ended: Ended, took: std::time::Duration) {
    if span.is_disabled() {
        return;
    }
    span.record("outcome", ended.word());
    span.record("micros", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    span.in_scope(|| tracing::debug!("answered"));
}
