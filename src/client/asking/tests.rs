//! Scripted managers: what a caller is told, at once or at its deadline.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::id::ClientId;
use quorate_transport::api;
use tokio::time::Instant;

use crate::client::{Answered, CallError, Client, Fed, Reply, Unanswered, Way};
use crate::error::{Error, Outcome};

/// What a manager does with one attempt.
#[derive(Debug, Clone, Copy)]
enum Does {
    Say(api::Code),
    /// The same, as the state machine's word.
    Settle(api::Code),
    /// A write or a read is done.
    Serve,
    /// No connection comes about.
    Refuse,
    /// It takes the request and does not answer.
    Swallow,
    /// Its connection is not there yet when the caller's time ends.
    Linger,
    /// It says, as all the others do, that the caller's identity was taken back.
    Disown,
}
use Does::{Disown, Linger, Refuse, Say, Serve, Settle, Swallow};

/// Managers that do what is written for them, attempt by attempt, and the last of it for ever.
struct Script {
    managers: Vec<VecDeque<Does>>,
    asked: Arc<Mutex<Vec<usize>>>,
    turn: Mutex<usize>,
    does: Vec<Mutex<VecDeque<Does>>>,
}

impl Script {
    fn next(&self, manager: usize) -> Does {
        let mut does = self.does[manager].lock().unwrap();
        if does.len() > 1 { does.pop_front().unwrap() } else { *does.front().unwrap() }
    }

    /// As over QUIC: whoever cannot be reached is passed over, and the next call begins at the next manager.
    fn answer(&self, without: &BTreeSet<usize>, writes: bool) -> Result<Answered, CallError> {
        let count = self.managers.len();
        let begin = {
            let mut turn = self.turn.lock().unwrap();
            *turn += 1;
            *turn - 1
        };
        let wanted: Vec<usize> = (0..count).map(|n| (begin + n) % count).filter(|m| !without.contains(m)).collect();
        for manager in wanted.iter().copied() {
            let does = self.next(manager);
            if matches!(does, Refuse) {
                continue;
            }
            self.asked.lock().unwrap().push(manager);
            let kind = match does {
                Say(code) | Settle(code) => api::response::Kind::Error(api::Error {
                    code: code.into(),
                    message: format!("manager {manager}: {}", code.as_str_name()),
                    settled: matches!(does, Settle(_)),
                    ..api::Error::default()
                }),
                Serve if writes => api::response::Kind::Write(api::WriteDone::default()),
                Serve | Refuse => api::response::Kind::Read(api::ReadDone::default()),
                Swallow => {
                    let message = format!("manager {manager} did not answer");
                    return Err(CallError::unanswered(message));
                }
                Disown => return Err(CallError::new(Unanswered::Revoked, "the identity was revoked")),
                Linger => {
                    return Err(CallError::new(Unanswered::OutOfTime, "nobody could be reached in the time left"));
                }
            };
            return Ok(Answered { by: manager, response: api::Response { kind: Some(kind) } });
        }
        Err(CallError { unreachable: wanted, ..CallError::not_taken("nobody can be reached") })
    }
}

impl Way for Script {
    fn generation(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }

    fn managers(&self) -> usize {
        self.managers.len()
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, without: &'a BTreeSet<usize>) -> Reply<'a> {
        assert!(without.len() < self.managers.len(), "nobody is left to ask");
        let writes = matches!(request.kind, Some(api::request::Kind::Write(_)));
        let answer = self.answer(without, writes);
        Box::pin(async move {
            match answer.as_ref().map_err(|error| error.left) {
                Err(Unanswered::Unknown) => tokio::time::sleep(patience).await,
                Err(Unanswered::OutOfTime) => tokio::time::sleep(Duration::from_millis(request.deadline_ms)).await,
                Err(Unanswered::NotTaken | Unanswered::Busy | Unanswered::Revoked) | Ok(_) => {}
            }
            answer
        })
    }

    fn feed<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
        unreachable!("nobody watches here")
    }

    fn attempt(&self) -> Option<Duration> {
        Some(Duration::from_millis(440))
    }
}

struct Managers {
    client: Client,
    asked: Arc<Mutex<Vec<usize>>>,
    began: Instant,
}

/// Longer than any test may take: who is told within it was told at once.
const PATIENT: Duration = Duration::from_secs(600);
/// For those who are told nothing before.
const HASTY: Duration = Duration::from_millis(300);

fn managers(scripts: &[&[Does]]) -> Managers {
    let asked = Arc::<Mutex<Vec<usize>>>::default();
    let does: Vec<VecDeque<Does>> = scripts.iter().map(|script| script.iter().copied().collect()).collect();
    let way = Script {
        does: does.iter().cloned().map(Mutex::new).collect(),
        managers: does,
        asked: Arc::clone(&asked),
        turn: Mutex::new(0),
    };
    let client = Client::over(Box::new(way), ClientId::from_bytes([1; 16]), 1).with_deadline(PATIENT);
    Managers { client, asked, began: Instant::now() }
}

impl Managers {
    fn hasty(self) -> Self {
        Self { client: self.client.with_deadline(HASTY), ..self }
    }

    async fn put(&self) -> Result<(), Error> {
        self.client.kv().put("k", "v").await.map(|_done| ())
    }

    async fn get(&self) -> Result<(), Error> {
        self.client.kv().get("k").await.map(|_found| ())
    }

    fn at_once(&self) -> bool {
        self.began.elapsed() < PATIENT / 10
    }

    fn at_the_deadline(&self) -> bool {
        self.began.elapsed() >= HASTY
    }
}

const LOST: Does = Say(api::Code::QuorumLost);

#[tokio::test]
async fn a_lost_quorum_is_told_at_once_when_every_manager_says_so() {
    for reads in [false, true] {
        let cluster = managers(&[&[LOST], &[LOST], &[LOST]]);
        let refused = if reads { cluster.get().await } else { cluster.put().await }.unwrap_err();
        assert!(matches!(refused, Error::QuorumLost { .. }), "{refused}");
        assert_eq!(refused.outcome(), Outcome::NotDone);
        assert!(cluster.at_once());
        let asked = cluster.asked.lock().unwrap().clone();
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 3, "each was asked: {asked:?}");
        assert_eq!(asked.len(), 3, "and once: {asked:?}");
    }
}

#[tokio::test]
async fn who_cannot_be_reached_counts_once_somebody_has_said_so() {
    let cluster = managers(&[&[Refuse], &[LOST], &[Refuse]]);
    let refused = cluster.put().await.unwrap_err();
    assert!(matches!(&refused, Error::QuorumLost { message, .. } if message.contains("manager 1")), "{refused}");
    assert!(cluster.at_once());
    // Nobody has said so: they may all be out of this client's reach, and come back.
    let cluster = managers(&[&[Refuse], &[Refuse], &[Refuse]]).hasty();
    let refused = cluster.put().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    assert!(cluster.at_the_deadline());
}

#[tokio::test]
async fn who_runs_out_of_time_is_told_what_the_attempts_before_met() {
    let cluster = managers(&[&[Refuse, Linger]]).hasty();
    let refused = cluster.put().await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(why) if why.contains("nobody can be reached")), "{refused}");
    // With nothing before it, the last one's is all there is.
    let cluster = managers(&[&[Linger]]).hasty();
    let refused = cluster.put().await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable(why) if why.contains("in the time left")), "{refused}");
}

#[tokio::test]
async fn whose_identity_was_taken_back_is_told_at_once() {
    let cluster = managers(&[&[Disown]]);
    let denied = cluster.put().await.unwrap_err();
    assert!(matches!(&denied, Error::Denied(why) if why.contains("revoked")), "{denied}");
    assert!(cluster.at_once());
    // What was sent before that may be done.
    let cluster = managers(&[&[Swallow, Disown]]);
    let unknown = cluster.put().await.unwrap_err();
    assert!(matches!(&unknown, Error::Unknown(why) if why.contains("revoked")), "{unknown}");
    assert!(cluster.at_once());
}

#[tokio::test]
async fn a_manager_that_is_cut_off_does_not_speak_for_the_others() {
    for rest in [&[Serve][..], &[Say(api::Code::NoLeader), Say(api::Code::NoLeader), Serve]] {
        let cluster = managers(&[&[LOST], &[Refuse], rest]);
        cluster.put().await.unwrap();
    }
}

#[tokio::test]
async fn an_election_is_waited_out_and_told_at_the_deadline() {
    let no_leader = Say(api::Code::NoLeader);
    let cluster = managers(&[&[no_leader, no_leader, no_leader, Serve]]);
    cluster.put().await.unwrap();
    let cluster = managers(&[&[no_leader], &[LOST], &[Refuse]]).hasty();
    let refused = cluster.put().await.unwrap_err();
    assert!(matches!(refused, Error::NoLeader(_) | Error::QuorumLost { .. }), "{refused}");
    assert!(cluster.at_the_deadline());
}

#[tokio::test]
async fn with_an_attempt_open_nobody_says_that_a_write_was_not_done() {
    // Given a manager that took the write and died, and others that have lost the quorum since.
    let cluster = managers(&[&[Swallow, Refuse], &[LOST], &[LOST]]).hasty();
    let unknown = cluster.put().await.unwrap_err();
    assert!(matches!(unknown, Error::Unknown(_)), "{unknown}");
    // Then it was looked for until the deadline: the quorum may be back in time, and tell.
    assert!(cluster.at_the_deadline());
    let cluster = managers(&[&[Swallow, Refuse], &[LOST, LOST, LOST, Serve], &[LOST]]);
    cluster.put().await.unwrap();
    // A manager itself may not know what came of an attempt.
    let cluster = managers(&[&[Say(api::Code::Unknown), LOST]]).hasty();
    let unknown = cluster.put().await.unwrap_err();
    assert_eq!(unknown.outcome(), Outcome::Unknown, "{unknown}");
}

#[tokio::test]
async fn a_refusal_of_one_attempt_says_nothing_of_an_attempt_before() {
    use api::Code::{Denied, Fenced, Invalid, NotFound, Refused, Version};
    for code in [Version, Denied, Invalid, NotFound, Refused, Fenced] {
        // Given a manager that took the write and died, then what another one refuses does not settle what became of it.
        let cluster = managers(&[&[Swallow, Refuse], &[Say(code)], &[Say(code)]]);
        let unknown = cluster.put().await.unwrap_err();
        assert_eq!(unknown.outcome(), Outcome::Unknown, "{unknown}");
        // With nothing open it was not done,
        let refused = managers(&[&[Say(code)]]).put().await.unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotDone, "{refused}");
        // nor was it when the state machine says so.
        let settled = managers(&[&[Swallow, Refuse], &[Settle(code)], &[Settle(code)]]).put().await.unwrap_err();
        assert_eq!(settled.outcome(), Outcome::NotDone, "{settled}");
    }
}

#[tokio::test]
async fn a_write_whose_client_was_forgotten_says_so_where_an_attempt_of_it_may_have_been_done() {
    for says in [Say, Settle] {
        let cluster = managers(&[&[Swallow, Refuse], &[says(api::Code::Expired)]]);
        let expired = cluster.put().await.unwrap_err();
        assert!(matches!(expired, Error::Expired(_)) && expired.outcome() == Outcome::Unknown, "{expired}");
        assert!(cluster.at_once());
    }
}

#[tokio::test]
async fn a_read_leaves_nothing_open() {
    let cluster = managers(&[&[Swallow, Refuse], &[LOST], &[LOST]]);
    let refused = cluster.get().await.unwrap_err();
    assert!(matches!(refused, Error::QuorumLost { .. }), "{refused}");
    assert!(cluster.at_once());
    let cluster = managers(&[&[Swallow]]).hasty();
    let refused = cluster.get().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    assert_eq!(refused.outcome(), Outcome::NotDone);
}
