//! Here, else at the leader, and again: the way of everything that only the leader can do.
//!
//! Owns the loop, and how long a question to the leader is waited for: as long as the leader is heard of and leads, since a
//! second copy would only be more work for a leader that is slow. Never knows what is asked: that is an [`Errand`]. Called
//! by the router and by the requests about leases.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::config::ELECTION_TICKS_MIN;
use quorate_core::consensus::io::{Answer, Origin, Rejection, Status};
use quorate_core::id::RaftId;
use quorate_transport::api::{request, response};
use quorate_transport::{RequestError, api};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::reach::Reach;
use super::router::{Failure, Router, fail};
use super::tasks::{Call, Reply};
use super::trace;

/// Between two attempts while leadership moves.
const PAUSE: Duration = Duration::from_millis(10);

/// What is to be done by whoever leads.
pub(super) trait Errand: Sync {
    /// What comes of it.
    type Done;

    /// In words: "a write".
    const WHAT: &'static str;

    /// Whether it may be sent again when nobody knows whether it was done.
    fn repeatable(&self) -> bool;

    /// Asked of the machine here.
    fn call(&self, reply: oneshot::Sender<Reply>) -> Call;

    /// What the machine's own word means; `None` for a word that is no answer to this.
    fn done_here(&self, reply: Reply) -> Option<Result<Self::Done, Failure>>;

    /// Asked of another manager.
    fn request(&self) -> request::Kind;

    /// What its answer means; `None` for one that is no answer to this.
    fn done_there(&self, answer: response::Kind) -> Option<Result<Self::Done, Failure>>;
}

/// One attempt that came to nothing.
enum Missed {
    /// That is the answer.
    Final(Failure),
    /// It was not done, and may be elsewhere.
    Again(Failure),
    /// It may have been done.
    Open(Failure),
}

impl Router {
    /// Has it done, as often as it takes. `open` is the last attempt of which nobody knows whether it was done.
    pub(super) async fn run<E: Errand>(
        &self,
        errand: &E,
        origin: Origin,
        until: Instant,
        open: &mut Option<Failure>,
    ) -> Result<E::Done, Failure> {
        loop {
            let reply = match self.led_elsewhere() {
                // What the machine would answer, without a turn of its thread for each: it is asked where there is no leader
                // to send to. A leader that is none any more says so.
                Some(leader) if origin == Origin::Here => Reply::Answer(Answer::Forward(leader)),
                Some(_) | None => {
                    trace::attempted();
                    self.ask(until, |reply| errand.call(reply)).await?
                }
            };
            let missed = match reply {
                Reply::Answer(Answer::Forward(leader)) if origin == Origin::Here => {
                    trace::forwarded(leader);
                    match self.at_the_leader(errand, leader, until).await {
                        Ok(done) => return Ok(done),
                        Err(error) if matches!(error.code(), api::Code::Unknown) => Missed::Open(error),
                        Err(error) if matches!(error.code(), api::Code::NotLeader | api::Code::Stopping) => {
                            Missed::Again(error)
                        }
                        Err(error) => Missed::Final(error),
                    }
                }
                Reply::Answer(Answer::Refused(Rejection::Replaced)) => {
                    Missed::Again(fail(api::Code::NoLeader, Rejection::Replaced.to_string()))
                }
                Reply::Answer(Answer::Refused(rejection)) => Missed::Final(self.rejected(&rejection)),
                Reply::Answer(Answer::Unknown) => {
                    let why = "a snapshot covered the entry, or this manager's disk does not answer: it may or may not be done";
                    Missed::Open(fail(api::Code::Unknown, why))
                }
                other @ (Reply::Outcome { .. } | Reply::Answer(_)) => match errand.done_here(other) {
                    Some(answer) => return answer,
                    None => Missed::Final(internal(format!("{} was answered as something else", E::WHAT))),
                },
            };
            let again = match missed {
                Missed::Final(error) => return Err(error),
                Missed::Open(error) if !errand.repeatable() => return Err(error),
                Missed::Open(error) => {
                    *open = Some(error.clone());
                    error
                }
                Missed::Again(error) => error,
            };
            if Instant::now() + PAUSE >= until {
                return Err(again);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn at_the_leader<E: Errand>(&self, errand: &E, leader: RaftId, until: Instant) -> Result<E::Done, Failure> {
        let patience = until.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let body = api::Request { deadline_ms, kind: Some(errand.request()) }.encode_to_vec().into();
        let answered = tokio::select! {
            biased;
            answered = self.peers.call(leader, body, patience) => answered,
            // A leader that died does not answer, and its successor need not wait until that is certain.
            () = deposed(self.status.clone(), leader), if errand.repeatable() => {
                Err(RequestError::Unknown("it does not lead any more".into()))
            }
            () = silent(&self.peers, leader, self.election()), if errand.repeatable() => {
                Err(RequestError::Unknown("nothing is heard from it".into()))
            }
        };
        errand
            .done_there(read(answered, "the leader")?)
            .unwrap_or_else(|| Err(internal("the leader answered something else than was asked".into())))
    }

    /// Who leads, as this manager knows, when it is another one.
    fn led_elsewhere(&self) -> Option<RaftId> {
        let status = self.status.borrow();
        status.leader.filter(|leader| *leader != status.id)
    }

    /// The shortest election timeout.
    pub(super) fn election(&self) -> Duration {
        Duration::from_nanos(self.status.borrow().tick.0) * ELECTION_TICKS_MIN
    }
}

fn internal(message: String) -> Failure {
    fail(api::Code::Internal, message)
}

/// What another manager's answer says; `who` it is, for people.
pub(super) fn read(answered: Result<bytes::Bytes, RequestError>, who: &str) -> Result<response::Kind, Failure> {
    match answered {
        Ok(body) => match api::Response::decode(body).map(|response| response.kind) {
            Ok(Some(response::Kind::Error(error))) => Err(error),
            Ok(Some(kind)) => Ok(kind),
            Ok(None) => Err(fail(api::Code::Unknown, format!("{who} answered in a way this manager does not know"))),
            Err(error) => Err(fail(api::Code::Unknown, format!("the answer of {who} cannot be read: {error}"))),
        },
        Err(RequestError::NotSent(why)) => Err(fail(api::Code::NotLeader, format!("{who} cannot be reached: {why}"))),
        Err(RequestError::Busy) => Err(fail(
            api::Code::Overloaded,
            format!("{who} has too much under way. Nothing was changed; try again a little later"),
        )),
        Err(RequestError::Unknown(why)) => Err(fail(api::Code::Unknown, format!("{who} did not answer: {why}"))),
        Err(error @ RequestError::Unread) => Err(fail(api::Code::Unknown, format!("{who} did answer: {error}"))),
    }
}

/// Waits until this manager takes another one for the leader, or nobody.
async fn deposed(mut status: watch::Receiver<Arc<Status>>, leader: RaftId) {
    if status.wait_for(|status| status.leader != Some(leader)).await.is_err() {
        // This manager stops. Whoever waits for an answer has a deadline.
        std::future::pending::<()>().await;
    }
}

/// Waits until nothing has come from the leader for an election timeout.
async fn silent(peers: &Reach, leader: RaftId, election: Duration) {
    loop {
        tokio::time::sleep(election).await;
        if peers.silence(leader).is_none_or(|silence| silence >= election) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::id::LogIndex;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_leader_is_told_when_it_does_not_lead_any_more() {
        let led_by = |leader| Arc::new(Status { leader, ..Status::default() });
        let (sender, status) = watch::channel(led_by(Some(RaftId(2))));
        let mut waiting = std::pin::pin!(deposed(status, RaftId(2)));
        // As long as it leads, whatever else changes, there is nothing to tell
        sender.send_replace(Arc::new(Status { commit: LogIndex(7), ..(*led_by(Some(RaftId(2)))).clone() }));
        tokio::select! {
            biased;
            () = &mut waiting => panic!("2 leads"),
            () = std::future::ready(()) => {}
        }
        // And then at once, also when nobody leads yet
        sender.send_replace(led_by(None));
        waiting.await;
    }
}
