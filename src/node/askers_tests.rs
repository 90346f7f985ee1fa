//! Who somebody is that calls, on a real manager: by the records, and within the request's time.

use std::time::Duration;

use quorate_core::id::{NodeId, RaftId};
use quorate_transport::api::request::Kind;
use quorate_transport::api::response;
use quorate_transport::{Identity, Place};

use super::super::service::tests::manager;
use super::*;
use crate::{Node, Start};

fn caller(plane: Plane, role: CertRole, node_id: NodeId, raft_id: Option<RaftId>, key_digest: [u8; 32]) -> Caller {
    Caller { plane, role, node_id, raft_id, address: None, key_digest, enrolled: None, issuer: [0; 8] }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_plane_of_peers_only_a_manager_by_its_record_is_answered() {
    let root = tempfile::tempdir().unwrap();
    let (node, service) = manager(&root.path().join("m1")).await;
    // Given a worker beside the manager: it has a record, and no raft id
    let token = node.client().join_token("worker").await.unwrap();
    let start = Start::OpenOrJoin { token, managers: vec![node.address().to_string()] };
    let worker = Node::builder(root.path().join("w1")).listen("127.0.0.1:0").name("w1").start(start).await.unwrap();
    worker.ready().await.unwrap();
    let (own, raft, key) = (service.facts.node(), service.facts.raft(), service.identity().subject().key_digest);
    let identity = Identity::load(&root.path().join("w1").join("node.id")).unwrap();
    let (workers, workers_key) = (identity.subject().node_id, identity.subject().key_digest);
    let kind = Kind::MemberStatus(api::MemberStatus {});
    let peer = |id, raft_id, key| caller(Plane::Peer, CertRole::Manager, id, raft_id, key);
    // When a manager calls as its record has it, then it is one
    let known = service.identify(&peer(own, Some(raft), key), &kind, soon()).await.unwrap();
    assert_eq!(known.who, Who::Manager);
    // When it claims another raft id or none, has another key, is a worker by its record, or has none: it is nobody.
    let none = NodeId::from_bytes([9; 16]);
    for (what, caller) in [
        ("another raft id", peer(own, Some(RaftId(raft.0 + 1)), key)),
        ("no raft id", peer(own, None, key)),
        ("another key", peer(own, Some(raft), [7; 32])),
        ("a worker", peer(workers, Some(raft), workers_key)),
        ("a worker without a raft id", peer(workers, None, workers_key)),
        ("nobody that there is", peer(none, Some(raft), key)),
    ] {
        let denied = service.identify(&caller, &kind, soon()).await.unwrap_err();
        assert_eq!(denied.code(), api::Code::Denied, "{what}");
        assert!(denied.message.contains("removed or demoted") && denied.message.contains("Nothing was done"), "{what}");
    }
    worker.shutdown().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_look_for_an_operator_is_a_part_of_its_request() {
    // Given an operator that this manager has no record of: the cluster has to be asked
    let root = tempfile::tempdir().unwrap();
    let (node, service) = manager(&root.path().join("m1")).await;
    let stranger = caller(Plane::Client, CertRole::Operator, NodeId::from_bytes([9; 16]), None, [9; 32]);
    let ask = async |deadline_ms| {
        let request = api::Request { deadline_ms, kind: Some(Kind::NodeList(api::NodeList {})) };
        let answer = service.called(&stranger, request, &mut Place::default()).await;
        let Some(response::Kind::Error(error)) = answer.kind else { panic!("nobody is answered") };
        error
    };
    // When there is time, then it is known that there is none
    assert_eq!(ask(10_000).await.code(), api::Code::Denied);
    // When the time of the request is over, then nobody waits for that. (The answer may just be there at once.)
    let (over, kind) = (Instant::now() - Duration::from_secs(1), Kind::NodeList(api::NodeList {}));
    let mut hurried = Vec::new();
    while hurried.len() < 50 && !hurried.contains(&api::Code::Deadline) {
        hurried.push(service.identify(&stranger, &kind, over).await.unwrap_err().code());
    }
    assert!(hurried.contains(&api::Code::Deadline), "{hurried:?}");
    // When the manager takes no more requests, then it looks for nobody either.
    service.drain(Duration::ZERO).await;
    assert_eq!(ask(10_000).await.code(), api::Code::Stopping);
    node.shutdown().await;
}

#[test]
fn a_request_is_answered_although_the_disk_answers_nobody() {
    // (All reads of the disk on one thread.)
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        // Given a manager of which a read hangs
        let root = tempfile::tempdir().unwrap();
        let (node, service) = manager(&root.path().join("m1")).await;
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hangs = tokio::task::spawn_blocking(move || held.recv());
        // when it is asked something that has to be read, then that is said once the deadline is over;
        let create = api::ObjectCreate { kind: "config".into(), name: "c".into(), ..api::ObjectCreate::default() };
        for (kind, code) in [
            (Kind::PolicyShow(api::PolicyShow {}), api::Code::Deadline),
            // of what may have been done, that it may have been.
            (Kind::ObjectCreate(create), api::Code::Unknown),
        ] {
            let request = api::Request { deadline_ms: 100, kind: Some(kind) };
            let mut place = Place::default();
            let answer = service.call(Asker::here(Who::Local), request, &mut place);
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await.expect("an answer");
            let Some(response::Kind::Error(error)) = answer.kind else { panic!("nothing was read") };
            assert_eq!(error.code(), code, "{}", error.message);
        }
        drop(release);
        let _released = hangs.await.unwrap();
        node.shutdown().await;
    });
}
