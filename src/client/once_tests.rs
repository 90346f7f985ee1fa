//! Wishes whose answer is lost, on real nodes: sent again by the client, while somebody else wishes otherwise.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_core::id::ClientId;
use quorate_transport::api;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Answered, CallError, Client, Fed, Reply, Way};
use crate::config::random_id;
use crate::error::Error;
use crate::membership::Role;
use crate::{Node, Start};

type Meanwhile = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A way to these nodes, one after the other. The answer to the first wish is lost, after this has been done; who it is that answers
/// may be asked before.
struct Lossy {
    nodes: Vec<Client>,
    turn: AtomicUsize,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl Way for Lossy {
    fn managers(&self) -> usize {
        self.nodes.len()
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
        Box::pin(async move {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
            let who = matches!(request.kind, Some(api::request::Kind::NodeReport(_)));
            let meanwhile =
                if who { None } else { self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner).take() };
            let answered = self.nodes[by].shared.way.call(request, patience, &BTreeSet::new()).await;
            if let Some(meanwhile) = meanwhile {
                let answered = answered.expect("it is done");
                let kind = answered.response.kind.expect("an answer");
                assert!(!matches!(kind, api::response::Kind::Error(_)), "{kind:?}");
                meanwhile().await;
                return Err(CallError::unanswered("the answer was lost on its way"));
            }
            // Numbered as here, not as there.
            let unreachable = |error: CallError| CallError { unreachable: vec![by], ..error };
            answered.map(|answered| Answered { by, ..answered }).map_err(unreachable)
        })
    }

    fn feed<'a>(&'a self, _request: api::Request, _patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
        unreachable!("nobody watches here")
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// A client whose first request loses its answer; `meanwhile` is done before the request is sent again.
fn losing<F>(nodes: &[&Node], meanwhile: impl FnOnce() -> F + Send + 'static) -> Client
where
    F: Future<Output = ()> + Send + 'static,
{
    let meanwhile: Meanwhile = Box::new(move || Box::pin(meanwhile()));
    let way = Lossy {
        nodes: nodes.iter().map(|node| node.client()).collect(),
        turn: AtomicUsize::new(0),
        meanwhile: Mutex::new(Some(meanwhile)),
    };
    Client::over(Box::new(way), random_id(ClientId::from_bytes).unwrap(), 1).with_deadline(Duration::from_secs(60))
}

async fn started(directory: &Path, name: &str, start: Start) -> Node {
    let builder = Node::builder(directory.join(name)).listen("127.0.0.1:0").name(name);
    let node = builder.stable(Duration::from_millis(200)).start(start).await.unwrap();
    node.ready().await.unwrap();
    node
}

/// A record of a worker that does not run.
async fn worker(directory: &Path, name: &str, manager: &Node) {
    let token = manager.client().join_token("worker").await.unwrap();
    let builder = Node::builder(directory.join(name)).listen("127.0.0.1:0").name(name);
    builder.join(&token, vec![manager.address().to_string()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_about_a_node_that_is_sent_again_after_a_contrary_one_is_not_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path(), "m1", Start::OpenOrInit).await;
    worker(directory.path(), "w1", &node).await;
    let others = node.client();
    // Given a promotion whose answer is lost, and a demotion by somebody else before it is sent again
    let other = others.clone();
    let client = losing(&[&node], async move || drop(other.nodes().demote("w1").detached().await.unwrap()));
    let done = client.nodes().promote("w1").detached().await.unwrap();
    // Then it is answered as done, and the demotion stands
    assert!(done.changed && done.node.name == "w1");
    assert_eq!(others.nodes().inspect("w1").await.unwrap().desired_role, Role::Worker);
    // A label in the same way
    let other = others.clone();
    let client = losing(&[&node], async move || drop(other.nodes().update("w1").label("zone", "b").await.unwrap()));
    assert!(client.nodes().update("w1").label("zone", "a").await.unwrap().changed);
    let zone = others.nodes().inspect("w1").await.unwrap().labels.get("zone").cloned();
    assert_eq!(zone.as_deref(), Some("b"));
    // When a removal is done before it is sent again, then it is done, also where the name belongs to somebody else by then
    let (other, path, manager) = (others.clone(), directory.path().to_owned(), node.clone());
    let before = others.nodes().inspect("w1").await.unwrap().id;
    let client = losing(&[&node], async move || {
        let until = Instant::now() + Duration::from_secs(60);
        while !matches!(other.nodes().inspect("w1").await, Err(Error::NotFound(_))) {
            assert!(Instant::now() < until, "it is removed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::rename(path.join("w1"), path.join("gone")).unwrap();
        worker(&path, "w1", &manager).await;
    });
    let done = client.nodes().remove("w1").forced().await.unwrap();
    assert!(done.changed && done.done && done.node.id == before);
    let after = others.nodes().inspect("w1").await.unwrap();
    assert!(after.id != before && !after.removing);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_is_sent_again_to_the_next_leader_is_not_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = started(directory.path(), "m1", Start::OpenOrInit).await;
    worker(directory.path(), "w1", &first).await;
    let mut nodes = vec![first];
    for name in ["m2", "m3"] {
        let token = nodes[0].client().join_token("manager").await.unwrap();
        let managers = vec![nodes[0].address().to_string()];
        nodes.push(started(directory.path(), name, Start::OpenOrJoin { token, managers }).await);
    }
    let until = Instant::now() + Duration::from_secs(60);
    while nodes[0].status().await.fault_tolerance != 1 {
        assert!(Instant::now() < until, "three voters");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Given a promotion that the leader has done, and whose answer died with it; somebody demotes the node under the next
    let (leader, other) = (nodes[0].clone(), nodes[1].client().with_deadline(Duration::from_secs(60)));
    other.transfer_leadership(Some("m1")).await.unwrap();
    let client = losing(&[&nodes[0], &nodes[1], &nodes[2]], async move || {
        leader.abandon();
        leader.stopped().await;
        drop(other.nodes().demote("w1").detached().await.unwrap());
    });
    // When the client asks the others
    let done = client.nodes().promote("w1").detached().await.unwrap();
    // Then it is answered as done, and the demotion stands
    assert!(done.changed);
    let client = nodes[2].client().with_deadline(Duration::from_secs(60));
    assert_eq!(client.nodes().inspect("w1").await.unwrap().desired_role, Role::Worker);
    for node in &nodes[1..] {
        node.abandon();
        node.stopped().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_about_tokens_and_policy_that_are_sent_again_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path(), "m1", Start::OpenOrInit).await;
    let others = node.client();
    let managers = vec![node.address().to_string()];
    // Given a token that was made, its answer lost, when it is asked for again, then there is one, and it lets in
    let made = losing(&[&node], async || ()).tokens().create(Role::Worker).uses(2).await.unwrap();
    let list = others.tokens().list().await.unwrap();
    let [token] = list.iter().filter(|token| !token.standing).collect::<Vec<_>>()[..] else { panic!("{list:?}") };
    assert_eq!((&token.id, token.uses_left), (&made.info.id, Some(2)));
    let builder = Node::builder(directory.path().join("w1")).listen("127.0.0.1:0").name("w1");
    builder.join(&made.token, managers).await.unwrap();
    // One that is taken back twice is taken back
    losing(&[&node], async || ()).tokens().revoke(&made.info.id).await.unwrap();
    assert!(matches!(others.tokens().revoke(&made.info.id).await, Err(Error::NotFound(_))));
    // One that was made and taken back before it is asked for again is not made anew
    let other = others.clone();
    let client = losing(&[&node], async move || {
        let list = other.tokens().list().await.unwrap();
        let made = list.iter().find(|token| !token.standing).unwrap();
        other.tokens().revoke(&made.id).await.unwrap();
    });
    client.tokens().create(Role::Worker).await.unwrap();
    assert!(others.tokens().list().await.unwrap().iter().all(|token| token.standing));
    // A rotation does not undo the one that came after it
    let (other, (told, newer)) = (others.clone(), tokio::sync::oneshot::channel());
    let client = losing(&[&node], async move || {
        told.send(other.tokens().rotate(Role::Manager).await.unwrap()).unwrap();
    });
    let older = client.tokens().rotate(Role::Manager).await.unwrap();
    let newer = newer.await.unwrap();
    assert!(older != newer && others.tokens().show(Role::Manager).await.unwrap() == newer);
    // Nor does a setting of the policy; it is answered with what it set
    let other = others.clone();
    let client = losing(&[&node], async move || drop(other.policy().set().max_voters(7).await.unwrap()));
    assert_eq!(client.policy().set().max_voters(3).await.unwrap().max_voters, 3);
    assert_eq!(others.policy().show().await.unwrap().max_voters, 7);
    node.shutdown().await;
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn a_write_that_is_sent_again_after_its_client_was_forgotten_is_not_done_again_and_says_that_nobody_knows() {
    use crate::config::CLIENT_SILENCE;
    use crate::error::Outcome;
    // Given a manager that nothing hurries, and writes whose first answer is lost
    let cluster =
        crate::testing::Cluster::builder().managers(1).configure(|node| node.tick(Duration::from_millis(200)));
    let cluster = cluster.start().await.unwrap();
    let (node, others) = (cluster.node(1).unwrap(), cluster.client_of(1).unwrap().kv());
    let silent = |silence: Duration| {
        losing(&[&node], async move || tokio::time::sleep(silence).await).with_deadline(3 * CLIENT_SILENCE).kv()
    };
    let version = async || others.get("counter").await.unwrap().unwrap().version;
    // When its client is heard of again while it is remembered, then it is told what came of the first copy
    let done = silent(CLIENT_SILENCE / 2).put("counter", "x").await.unwrap();
    assert!(done.replayed && version().await == 1);
    // When it was silent for longer than managers remember, then that is what it is told, and what to do
    let forgotten = silent(2 * CLIENT_SILENCE);
    let expired = forgotten.put("counter", "x").await.unwrap_err();
    assert!(matches!(expired, Error::Expired(_)), "{expired}");
    assert!(expired.outcome() == Outcome::Unknown && !expired.is_retryable(), "{expired}");
    for words in ["may have been done", "for 60 min", "Read what it was to change", "anew if it is not there"] {
        assert!(expired.to_string().contains(words), "`{words}` is not in: {expired}");
    }
    // It was done once, and the client goes on, under another id, as if nothing had been
    assert_eq!(version().await, 2);
    assert!(!forgotten.put("counter", "x").await.unwrap().replayed);
    assert_eq!(version().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_that_was_refused_stays_refused_and_one_that_somebody_was_faster_with_goes_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = started(directory.path(), "m1", Start::OpenOrInit).await;
    let others = node.client();
    // Given many who change one record at the same time, then all of it is done
    let changes = (0..16).map(|n| {
        let client = others.clone();
        tokio::spawn(async move { client.nodes().update("m1").label(format!("l{n}"), "x").await })
    });
    for change in changes.collect::<Vec<_>>() {
        assert!(change.await.unwrap().unwrap().changed);
    }
    assert_eq!(others.nodes().inspect("m1").await.unwrap().labels.len(), 16);
    // And what has a leadership's fence is refused once that is over
    let fenced = others.with_fence(1 << 40).nodes().update("m1").label("fenced", "x").await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced(_)), "{fenced}");
    let refused = others.nodes().demote("m1").forced().await.unwrap_err();
    assert!(matches!(refused, Error::Membership { .. }), "{refused}");
    assert_eq!(others.nodes().inspect("m1").await.unwrap().labels.len(), 16);
    node.shutdown().await;
}
