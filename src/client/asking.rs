//! One request, until there is an answer, a refusal, or the deadline.
//!
//! Owns the attempts: which errors are worth another one, how long each may take, and what may be said of the outcome
//! when there is none. With an attempt open nobody is told "not done". Called by the client.

use std::time::Duration;

use quorate_transport::api;
use tokio::time::Instant;

use super::round::Round;
use super::{Answered, Client, Unanswered};
use crate::config;
use crate::error::{Error, Result};

/// Before the second attempt; it doubles, up to
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// so much,
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// or so much where managers say that they have too much to do.
const PAUSE_BUSY: Duration = Duration::from_secs(1);

/// How a request failed, as far as the client itself must know.
pub(super) enum Failed {
    /// The managers no longer know the client, and this client has no other copy of the request on its way: nothing was done. A copy
    /// that managers passed among themselves is no exception: the client has told its birth, which only falls ever further
    /// below what the managers have forgotten, so that no copy of a request is taken in after one was refused for that.
    Forgotten(Error),
    /// What the request was to change has changed meanwhile: nothing was done, and no copy of it ever will be.
    Overtaken(Error),
    Final(Error),
}

impl Failed {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Forgotten(error) | Self::Overtaken(error) | Self::Final(error) => error,
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Whether a request can leave something behind that nobody has heard of.
pub(crate) const fn changes_something(kind: &api::request::Kind) -> bool {
    use api::request::Kind;
    match kind {
        Kind::Write(_)
        | Kind::AssignmentsWrite(_)
        | Kind::Enrol(_)
        | Kind::Transfer(_)
        | Kind::Command(_)
        | Kind::Rejoin(_)
        | Kind::NodeRole(_)
        | Kind::NodeUpdate(_)
        | Kind::NodeRemove(_)
        | Kind::NodeLeave(_)
        | Kind::TokenRotate(_)
        | Kind::TokenCreate(_)
        | Kind::TokenRevoke(_)
        | Kind::PolicySet(_)
        | Kind::KeyOrder(_)
        | Kind::CaRotate(_)
        | Kind::OperatorIssue(_)
        | Kind::OperatorRevoke(_)
        | Kind::PassedOn(_)
        | Kind::LeaseWrite(_)
        | Kind::KeyringRotate(_)
        | Kind::ObjectCreate(_)
        | Kind::ObjectUpdate(_)
        | Kind::ObjectRemove(_)
        | Kind::UpgradeFinish(_) => true,
        Kind::Read(_)
        | Kind::Watch(_)
        | Kind::Backup(_)
        | Kind::AssignmentsRead(_)
        | Kind::ReportRead(_)
        | Kind::NodeReport(_)
        | Kind::Sessions(_)
        | Kind::Addresses(_)
        | Kind::Status(_)
        | Kind::Standing(_)
        | Kind::Check(_)
        | Kind::Unlock(_)
        | Kind::MemberStatus(_)
        | Kind::NodeList(_)
        | Kind::NodeInspect(_)
        | Kind::TokenShow(_)
        | Kind::TokenList(_)
        | Kind::PolicyShow(_)
        | Kind::CaStatus(_)
        | Kind::OperatorList(_)
        // One more renewal does no harm, whoever hears of it.
        | Kind::LeaseKeepAlive(_)
        | Kind::LeaseList(_)
        | Kind::LeaseShow(_)
        | Kind::KeyringShow(_)
        | Kind::ObjectList(_)
        | Kind::ObjectInspect(_)
        | Kind::SecretReveal(_)
        | Kind::ConfigRead(_)
        | Kind::UpgradeStatus(_) => false,
    }
}

impl Client {
    /// Asks until there is an answer, a refusal, or the deadline. A lost quorum is told once a [`Round`] agrees on it,
    /// unless an attempt is open: only the managers can tell what became of that, and they may be back in time.
    pub(super) async fn ask_noting(
        &self,
        kind: api::request::Kind,
        until: Instant,
    ) -> Result<api::response::Kind, Failed> {
        let way = &self.shared.way;
        let changes = changes_something(&kind);
        let mut open = false;
        let mut round = Round::default();
        let mut last: Option<Error> = None;
        let mut busy;
        let mut pause = PAUSE_MIN;
        // A hand-over cannot be sent twice without harm; everything else is exactly-once or only reads.
        let repeatable = !matches!(kind, api::request::Kind::Transfer(_));
        let mut attempt = way.attempt().filter(|_| repeatable);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.given_up(open, last).into());
            }
            let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            let request = api::Request { deadline_ms, kind: Some(kind.clone()) };
            let patience = left.min(attempt.unwrap_or(left));
            let began = Instant::now();
            match way.call(request, patience, round.asked()).await {
                Ok(Answered { by, response: api::Response { kind: Some(api::response::Kind::Error(error)) } }) => {
                    let may_be_done = matches!(error.code(), api::Code::Unknown);
                    if matches!(error.code(), api::Code::Expired) {
                        return Err(if open {
                            expired(&error.message).into()
                        } else {
                            Failed::Forgotten(Error::from_wire(error))
                        });
                    }
                    if matches!(error.code(), api::Code::Conflict) {
                        return Err(Failed::Overtaken(Error::from_wire(error)));
                    }
                    let settled = error.settled;
                    let error = Error::from_wire(error);
                    if !(repeatable && (error.is_retryable() || may_be_done)) {
                        if open && !settled {
                            // It speaks of this attempt only.
                            return Err(Error::Unknown(format!(
                                "an attempt before may have been done, and the one after it was refused. Read to find out. Last: {error}"
                            ))
                            .into());
                        }
                        return Err(error.into());
                    }
                    open |= may_be_done && changes;
                    if matches!(error, Error::QuorumLost { .. }) {
                        round.lost(by, error.clone());
                    } else {
                        round.restart();
                    }
                    busy = matches!(error, Error::Overloaded { .. });
                    last = Some(error);
                }
                Ok(Answered { response: api::Response { kind: Some(kind) }, .. }) => return Ok(kind),
                Ok(Answered { response: api::Response { kind: None }, .. }) => {
                    let what = "the manager answered with a kind this client does not know";
                    return Err(Error::Internal(what.into()).into());
                }
                Err(error) => {
                    open |= error.left == Unanswered::Unknown && changes;
                    if open && !repeatable {
                        return Err(Error::Unknown(format!(
                            "{}: whether it was done is unknown, ask for the status",
                            error.message
                        ))
                        .into());
                    }
                    if error.left == Unanswered::Revoked {
                        return Err(if open {
                            Error::Unknown(format!(
                                "an attempt before may have been done, and no manager answers this identity any more. Read with another one to find out. Last: {}",
                                error.message
                            ))
                        } else {
                            Error::Denied(format!("{}. Nothing was done", error.message))
                        }
                        .into());
                    }
                    busy = error.left == Unanswered::Busy;
                    if busy {
                        round.restart();
                        last = Some(Error::overloaded(error.message));
                    } else {
                        round.unreachable(&error.unreachable);
                        let says_more = last.is_some() && error.left == Unanswered::OutOfTime;
                        if !round.is_grave() && !says_more {
                            last = Some(Error::Unavailable(error.message));
                        }
                    }
                }
            }
            if let Some(lost) = round.end(way.managers()).filter(|_| !open) {
                return Err(lost.into());
            }
            // An attempt lasts as long as the manager that took it lives. The next one waits for longer than that, and not
            // for as long as everybody else's, or a cluster with too much to do would get it again, all at once.
            attempt = attempt
                .map(|attempt| config::longer(attempt.max(began.elapsed())).mul_f64(0.75 + config::chance() / 2.0));
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.mul_f64(0.5 + config::chance() / 2.0).min(left)).await;
            pause = (pause * 2).min(if busy { PAUSE_BUSY } else { PAUSE_MAX });
        }
    }

    fn given_up(&self, open: bool, last: Option<Error>) -> Error {
        let seconds = self.deadline.as_secs_f32();
        let why = last.as_ref().map_or_else(|| "no answer".to_owned(), ToString::to_string);
        if open {
            return Error::Unknown(format!(
                "no answer within {seconds} s: the request may or may not have been done. Read to find out, or send it again if that is harmless. Last: {why}"
            ));
        }
        match last {
            Some(
                error @ (Error::NoLeader(_) | Error::QuorumLost { .. } | Error::ReadOnly(_) | Error::Overloaded { .. }),
            ) => error,
            _ => Error::Unavailable(format!("not done within {seconds} s: {why}")),
        }
    }
}

/// An attempt may have been done, and nobody can say any more.
fn expired(last: &str) -> Error {
    Error::Expired(format!(
        "an attempt before may have been done, and the managers no longer keep what came of it: they forget a client that they have not heard from for {} min. It is not done from now on. Read what it was to change, and send it anew if it is not there. Last: {last}",
        config::CLIENT_SILENCE.as_secs() / 60
    ))
}

#[cfg(test)]
mod tests;
