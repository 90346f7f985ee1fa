//! What a manager takes, and what it says of others, on a real one.

use std::path::Path;

use quorate_core::id::{Lineage, LineageId, NodeId};
use quorate_transport::api::request::Kind;
use quorate_transport::{Clock, JoinRefused, JoinReply, JoinRequest, KeyPair};

use super::super::{Node, Runtime};
use super::*;
use crate::Start;

/// One that leads a cluster of its own.
pub(in crate::node) async fn manager(directory: &Path) -> (Node, Arc<Service>) {
    let node = Node::builder(directory).listen("127.0.0.1:0").name("m1").start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    let Some(Runtime::Manager(manager)) = node.inner.current.borrow().clone() else { panic!("it is a manager") };
    let service = Arc::clone(&manager.service);
    (node, service)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_of_an_ended_generation_tells_nobody_that_it_is_no_member() {
    let root = tempfile::tempdir().unwrap();
    let (node, service) = manager(&root.path().join("m1")).await;
    let ask = async |lineage: Lineage| {
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        let renewal = JoinRequest::renewal(csr, NodeId::from_bytes([9; 16]), Clock::default());
        match service.join(([127, 0, 0, 1], 1).into(), JoinRequest { lineage, ..renewal }).await {
            Some(JoinReply::Refused(refused)) => refused,
            other => panic!("{other:?}"),
        }
    };
    // Given a node of which this manager has no record: where it knows the same generation or an earlier one, it was removed
    let ours = service.lineage();
    for known in [ours.clone(), Lineage::default()] {
        assert_eq!(ask(known).await, JoinRefused::NotAMember);
    }
    // When it knows one that has ended this manager's, or one of another recovery, then it may have joined there.
    let later = [&ours.0[..], &[LineageId::from_bytes([99; 16])]].concat();
    for unknown in [later, vec![LineageId::from_bytes([98; 16])]] {
        let refused = ask(Lineage(unknown)).await;
        assert!(matches!(&refused, JoinRefused::Superseded(why) if why.contains("of generation 1")), "{refused}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_takes_nothing_into_its_log_of_which_it_would_drop_a_part() {
    // Given a manager that leads, in a cluster in which others run a newer program
    let root = tempfile::tempdir().unwrap();
    let (node, service) = manager(&root.path().join("m1")).await;
    let put = quorate_core::txn::Put { key: "uk".into(), value: "v".into(), ..Default::default() };
    let request = Request { client: vec![7; 16].into(), sequence: 1, txn: Some(Txn::of(put)), ..Request::default() };
    // a field of a later version: number 2000, with the value 1
    let newer = |bytes: Vec<u8>| Bytes::from([bytes, vec![0x80, 0x7d, 1]].concat());
    let command = newer(Command::from(CommandKind::Request(request.clone())).encode_to_vec());
    let user = Request { txn: request.txn.clone().map(|txn| Txn { then: Vec::new(), ..txn }), ..request };
    let behalf = Some(Asker { of: "write", ..Asker::here(Who::Local) }.behalf());
    // When one of them passes such a command on, or a newer client sends such a transaction or such an order for a lease
    for (who, kind) in [
        (Who::Manager, Kind::Command(api::Command { command, behalf })),
        (Who::Local, Kind::Write(api::Write { request: newer(user.encode_to_vec()), reads: false })),
        (Who::Local, Kind::LeaseWrite(api::LeaseWrite { request: newer(user.encode_to_vec()) })),
    ] {
        let request = api::Request { deadline_ms: 10_000, kind: Some(kind) };
        let answer = service.call(Asker::here(who), request, &mut Place::default()).await;
        // Then it is refused, and says why: done in part it would be another write
        let Some(response::Kind::Error(error)) = answer.kind else { panic!("it was taken: {:?}", answer.kind) };
        assert_eq!(error.code(), api::Code::Version, "{}", error.message);
        for words in ["newer quorate", "Nothing was changed", "upgrade status"] {
            assert!(error.message.contains(words), "{}", error.message);
        }
    }
    // And nothing of it was done.
    assert!(node.client().kv().get("k").await.unwrap().is_none());
    node.shutdown().await;
}
