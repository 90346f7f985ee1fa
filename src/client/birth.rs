//! When a client was born, and under which id it therefore asks.
//!
//! Owns that no request goes under an id whose birth no manager has told. A birth is a log index that was committed before the
//! id was drawn: with it the replay table tells a client that it has forgotten from a new one, for good
//! ([`quorate_core::state`]), so that a request is never done by a copy that comes late. Log indexes are counted anew after a
//! recovery, from the survivor's, and whoever was born before it is born again. Never decides which generation is the newer: the
//! way to the managers does. Called before each request that changes something.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::ClientId;
use quorate_transport::api;
use tokio::time::Instant;

use super::asking::Failed;
use super::{Answered, Client, Way, unexpected};
use crate::config;
use crate::error::{Error, Result};

/// How long a new client waits to learn its birth, before anybody needs it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Before a manager that knows neither of a log nor of a leader yet is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Every manager tells everybody how much of the log it knows to be committed, without a quorum; one that knows of nothing yet asks
/// the leader.
const fn question() -> api::request::Kind {
    api::request::Kind::Standing(api::Standing { birth: true })
}

impl Client {
    /// A client over this way. It learns its birth if that is told at once: whoever cannot be told it now, or never, may read.
    pub(super) async fn born_over(way: Box<dyn Way>) -> Result<Self> {
        let client = Self::over(way, config::random_id(ClientId::from_bytes)?, 0);
        let met = client.met();
        let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
        let request = api::Request { deadline_ms, kind: Some(question()) };
        let told = client.shared.way.call(request, PATIENCE, &BTreeSet::new()).await;
        if let Ok(Answered { response: api::Response { kind: Some(api::response::Kind::Standing(done)) }, .. }) = told {
            client.shared.sequences.settle(config::random_id(ClientId::from_bytes)?, done.commit, met);
        }
        Ok(client)
    }

    /// The generation met last; 0 where the way knows of none.
    fn met(&self) -> u64 {
        self.shared.way.generation().map_or(0, |generation| *generation.borrow())
    }

    /// Sees to it that the id in use is of the generation met last, was not forgotten, and has a birth; learns one and goes on under
    /// a fresh id where it is not so. Many who ask at once come to one id.
    ///
    /// Cancel safe: whoever is dropped on the way has changed nothing, and nobody goes on under the old id.
    ///
    /// # Errors
    /// What the managers answered, when none has told a birth by `until`: nothing was sent.
    pub(super) async fn settle(&self, until: Instant) -> Result<()> {
        let met = self.met();
        if self.shared.sequences.is_settled(met) {
            return Ok(());
        }
        loop {
            let answer = self.ask_noting(question(), until).await.map_err(Failed::into_error)?;
            let api::response::Kind::Standing(done) = answer else { return Err(unexpected()) };
            if done.commit > 0 {
                self.shared.sequences.settle(config::random_id(ClientId::from_bytes)?, done.commit, met);
                return Ok(());
            }
            // A manager that has just joined: it will have heard of something in a moment.
            if Instant::now() + PAUSE >= until {
                let why = "the manager that was asked has no log yet, and has not heard who leads. Nothing was done; try again, or ask another one";
                return Err(Error::Unavailable(why.into()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use prost::Message as _;
    use quorate_core::command::Request;
    use tokio::sync::watch;

    use super::*;
    use crate::client::{Answered, CallError, Fed, Reply};
    use crate::error::Outcome;

    /// A manager that tells how much is committed once it may, and does every write.
    struct Manager {
        generation: watch::Receiver<u64>,
        /// 0 is not at all.
        tells: watch::Receiver<u64>,
        /// So often it says that it has no log.
        empty: AtomicUsize,
        done: Arc<Mutex<Vec<Request>>>,
    }

    impl Way for Manager {
        fn managers(&self) -> usize {
            1
        }

        fn call<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
            let mut tells = self.tells.clone();
            Box::pin(async move {
                let kind = if let Some(api::request::Kind::Write(write)) = request.kind {
                    self.done.lock().unwrap().push(Request::decode(write.request).unwrap());
                    api::response::Kind::Write(api::WriteDone::default())
                } else {
                    let told = tokio::time::timeout(patience, tells.wait_for(|index| *index > 0)).await;
                    let Ok(index) = told else { return Err(CallError::unanswered("it does not answer")) };
                    let commit = if self.empty.load(Ordering::Relaxed) > 0 { 0 } else { *index.unwrap() };
                    self.empty.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok();
                    api::response::Kind::Standing(api::StandingDone { commit, ..api::StandingDone::default() })
                };
                Ok(Answered { by: 0, response: api::Response { kind: Some(kind) } })
            })
        }

        fn feed<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
            unreachable!("nobody watches here")
        }

        fn attempt(&self) -> Option<Duration> {
            None
        }

        fn generation(&self) -> Option<watch::Receiver<u64>> {
            Some(self.generation.clone())
        }
    }

    /// The generation, and what the manager tells.
    struct Cluster {
        generation: watch::Sender<u64>,
        tells: watch::Sender<u64>,
        done: Arc<Mutex<Vec<Request>>>,
    }

    fn cluster(tells: u64, empty: usize) -> (Cluster, Box<dyn Way>) {
        let (generation, met) = watch::channel(1);
        let (tells, told) = watch::channel(tells);
        let done = Arc::<Mutex<Vec<Request>>>::default();
        let empty = AtomicUsize::new(empty);
        let way = Manager { generation: met, tells: told, empty, done: Arc::clone(&done) };
        (Cluster { generation, tells, done }, Box::new(way))
    }

    const SOON: Duration = Duration::from_millis(20);
    const PATIENT: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn nothing_goes_under_an_id_whose_birth_nobody_has_told() {
        // Given a client that is made while nobody tells it anything, then it is there,
        let (cluster, way) = cluster(0, 0);
        let client = tokio::time::timeout(PATIENT, Client::born_over(way)).await.unwrap().unwrap();
        // and when it is to write, then nothing is sent, and it is told so.
        let refused = client.with_deadline(SOON).kv().put("k", "v").await.unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotDone, "{refused}");
        assert!(cluster.done.lock().unwrap().is_empty());
        // When it is told, then it writes with its birth.
        cluster.tells.send_replace(4_010);
        client.kv().put("k", "v").await.unwrap();
        // After a recovery it is the same, with an index of the new generation,
        cluster.tells.send_replace(0);
        cluster.generation.send_replace(2);
        let refused = client.with_deadline(SOON).kv().put("k", "v").await.unwrap_err();
        assert_eq!(refused.outcome(), Outcome::NotDone, "{refused}");
        cluster.tells.send_replace(3_005);
        client.kv().put("k", "v").await.unwrap();
        // and once the managers have forgotten it.
        let born = |at: usize| {
            let done = cluster.done.lock().unwrap();
            (done[at].client.clone(), done[at].sequence, done[at].born)
        };
        let forgotten = client.shared.sequences.open().await.id.client;
        client.shared.sequences.forget(forgotten);
        cluster.tells.send_replace(3_100);
        client.kv().put("k", "v").await.unwrap();
        assert_eq!(cluster.done.lock().unwrap().len(), 3);
        assert_eq!([0, 1, 2].map(|at| (born(at).1, born(at).2)), [(1, 4_010), (1, 3_005), (1, 3_100)]);
        assert!(born(0).0 != born(1).0 && born(1).0 != born(2).0);
    }

    #[tokio::test]
    async fn a_birth_that_is_given_up_is_learnt_by_the_next_request_and_no_request_goes_before_it() {
        // Given a client that was born late in a log of which the survivor had less
        let (cluster, way) = cluster(0, 0);
        let old = ClientId::from_bytes([1; 16]);
        let client = Client::over(way, old, 5_000);
        let settle = || client.settle(Instant::now() + PATIENT);
        settle().await.unwrap();
        assert_eq!(client.shared.sequences.open().await.id.client, old);
        cluster.generation.send_replace(2);
        // when the first request after the recovery is dropped before the managers have told an index,
        assert!(tokio::time::timeout(SOON, settle()).await.is_err());
        // then the next ones wait for it as well, however many there are,
        let both = async { tokio::try_join!(settle(), settle()) };
        let mut both = std::pin::pin!(both);
        assert!(tokio::time::timeout(SOON, &mut both).await.is_err());
        cluster.tells.send_replace(4_010);
        both.await.unwrap();
        // and go on under another id, which stays.
        let open = client.shared.sequences.open().await;
        assert_ne!(open.id.client, old);
        assert_eq!(open.born, 4_010);
        settle().await.unwrap();
        assert_eq!(client.shared.sequences.open().await.id.client, open.id.client);
    }
    #[tokio::test]
    async fn a_manager_that_has_just_joined_is_asked_again_until_it_knows_of_a_log() {
        let (cluster, way) = cluster(7, 3);
        let client = Client::over(way, ClientId::from_bytes([1; 16]), 0).with_deadline(PATIENT);
        client.kv().put("k", "v").await.unwrap();
        assert_eq!(cluster.done.lock().unwrap()[0].born, 7);
    }
}
