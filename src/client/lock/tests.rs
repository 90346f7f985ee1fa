//! Who no longer waits for a lock while it still gets in line: what is left of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use quorate_core::command::{LeaseOrderKind, Request};
use quorate_core::id::ClientId;
use quorate_core::txn::TxnResult;
use quorate_transport::api::{self, request, response};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::{Answered, CallError, Client, Fed, Reply, Way};
use crate::error::Error;

const LEASE: u64 = 7;
/// Longer than anybody should have to wait.
const PATIENT: Duration = Duration::from_secs(600);

/// A manager that does what it is asked to, slowly, and writes down what.
#[derive(Clone, Default)]
struct Manager {
    /// It has no quorum: nothing is ever done.
    stuck: bool,
    /// It says nothing of writes: nobody knows what becomes of them.
    mute: bool,
    done: Arc<Mutex<Vec<&'static str>>>,
    /// Told when the write of a place has been asked for.
    writes: Arc<Notify>,
}

impl Manager {
    fn client(&self) -> Client {
        Client::over(Box::new(self.clone()), ClientId::from_bytes([1; 16]), 1).with_deadline(PATIENT)
    }

    fn done(&self) -> Vec<&'static str> {
        self.done.lock().unwrap().clone()
    }

    fn did(&self, what: &'static str) {
        self.done.lock().unwrap().push(what);
    }

    async fn answer(&self, request: api::Request) -> response::Kind {
        let result = TxnResult { succeeded: true, lease: LEASE, revision: 3, ..TxnResult::default() };
        let result = result.encode_to_vec().into();
        match request.kind {
            Some(request::Kind::LeaseWrite(write)) => {
                let order = Request::decode(write.request).unwrap().lease.unwrap();
                match order.kind.unwrap() {
                    LeaseOrderKind::Grant(_) => self.did("grant"),
                    LeaseOrderKind::Revoke(lease) => {
                        assert_eq!(lease, LEASE);
                        self.did("revoke");
                    }
                }
                response::Kind::LeaseWrite(api::LeaseWriteDone { result })
            }
            Some(request::Kind::Write(_)) => {
                self.writes.notify_one();
                tokio::time::sleep(Duration::from_millis(100)).await;
                self.did("put");
                response::Kind::Write(api::WriteDone { result })
            }
            other => panic!("nobody asks for that here: {other:?}"),
        }
    }
}

impl Way for Manager {
    fn generation(&self) -> Option<tokio::sync::watch::Receiver<u64>> {
        None
    }

    fn managers(&self) -> usize {
        1
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
        Box::pin(async move {
            if self.stuck {
                tokio::time::sleep(patience).await;
                let message = "no answer".to_owned();
                return Err(CallError::unanswered(message));
            }
            let is_write = matches!(request.kind, Some(request::Kind::Write(_)));
            let kind = Some(self.answer(request).await);
            if self.mute && is_write {
                return Err(CallError::unanswered("no answer"));
            }
            Ok(Answered { by: 0, response: api::Response { kind } })
        })
    }

    fn feed<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
        unreachable!("nobody gets so far")
    }

    fn attempt(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_while_the_place_is_being_taken_has_left_the_line_when_that_is_said() {
    // Given a place whose write is on its way, when it is given up then,
    let manager = Manager::default();
    let held = manager.client().lock("job").unless(manager.writes.notified()).await.unwrap();
    // then nothing of it is left: a process that ends now leaves nobody in line.
    assert!(held.is_none());
    assert_eq!(manager.done(), ["grant", "put", "revoke"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_told_whether_it_is_in_line_has_left_it_when_that_is_said() {
    let manager = Manager { mute: true, ..Manager::default() };
    let client = manager.client().with_deadline(Duration::from_secs(1));
    let unknown = client.lock("job").await.unwrap_err();
    assert!(matches!(unknown, Error::Unknown(_)), "{unknown}");
    let done = manager.done();
    assert!(done.first() == Some(&"grant") && done.last() == Some(&"revoke"), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn the_wait_covers_getting_in_line_too() {
    // Given managers that do nothing, then nobody waits for as long as a request may take.
    let manager = Manager { stuck: true, ..Manager::default() };
    let began = Instant::now();
    let refused = manager.client().lock("job").wait_at_most(Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    assert!(began.elapsed() < PATIENT / 10);
    // Nor does who is interrupted.
    let held = manager.client().lock("job").unless(std::future::ready(())).await.unwrap();
    assert!(held.is_none() && began.elapsed() < PATIENT / 10);
}
