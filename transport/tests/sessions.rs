//! Sessions of workers: one stream, messages both ways, bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use bytes::Bytes;
use quorate_transport::*;
use support::*;

async fn worker(cluster: &TestCluster, node: &TestNode) -> Connection {
    connect_as(node, cluster.identity(7, CertRole::Worker), cluster.client_hello(7)).await.unwrap()
}

#[tokio::test]
async fn messages_go_both_ways_in_order_and_large_ones_too() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = worker(&cluster, &node).await;
    let mut ours = connection.session().await.unwrap();
    ours.sender.send(Bytes::from_static(b"first")).await.unwrap();
    let (caller, mut theirs) = node.session().await;
    assert_eq!((caller.node_id, caller.role), (node_id(7), CertRole::Worker));
    assert_eq!(theirs.receiver.next().await.unwrap(), "first");
    let large = Bytes::from(vec![9; frame::SESSION_BYTES_MAX]);
    let (sent, got) = tokio::join!(theirs.sender.send(large.clone()), ours.receiver.next());
    sent.unwrap();
    assert!(got.unwrap() == large);
    for number in 0..100u8 {
        theirs.sender.send(Bytes::from(vec![number])).await.unwrap();
    }
    for number in 0..100u8 {
        assert_eq!(ours.receiver.next().await.unwrap(), vec![number]);
    }
    // A message over the limit is not sent, and says so.
    let refused = ours.sender.send(Bytes::from(vec![0; frame::SESSION_BYTES_MAX + 1])).await.unwrap_err();
    assert!(refused.to_string().contains("limit"), "{refused}");
    // Requests go on beside it.
    assert_eq!(connection.request(Bytes::from_static(b"beside"), PATIENCE).await.unwrap(), "beside");
}

#[tokio::test]
async fn a_wait_for_a_message_may_be_cut_short_without_losing_one() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = worker(&cluster, &node).await;
    let mut ours = connection.session().await.unwrap();
    ours.sender.send(Bytes::from_static(b"open")).await.unwrap();
    let (_, mut theirs) = node.session().await;
    theirs.receiver.next().await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..20u8 {
            theirs.sender.send(Bytes::from(vec![number; 300_000])).await.unwrap();
        }
        theirs
    });
    let mut next = 0u8;
    while next < 20 {
        tokio::select! {
            biased;
            // Ready at once: it cuts the wait below short again and again.
            () = tokio::task::yield_now() => {}
            message = ours.receiver.next() => {
                assert!(message.unwrap() == vec![next; 300_000]);
                next += 1;
            }
        }
        if let Ok(message) = tokio::time::timeout(std::time::Duration::from_millis(1), ours.receiver.next()).await {
            assert!(message.unwrap() == vec![next; 300_000]);
            next += 1;
        }
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn only_workers_have_sessions_and_one_per_connection() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    // An operator's stream is refused, its requests are not.
    let operator = client(&cluster, &node).await;
    let mut session = operator.session().await.unwrap();
    within("the operator is refused", session.receiver.next()).await.unwrap_err();
    assert_eq!(operator.request(Bytes::from_static(b"still"), PATIENCE).await.unwrap(), "still");
    // A worker's second one is refused, its first is not.
    let connection = worker(&cluster, &node).await;
    let mut first = connection.session().await.unwrap();
    let (_, mut theirs) = node.session().await;
    let mut second = connection.session().await.unwrap();
    within("the second is refused", second.receiver.next()).await.unwrap_err();
    theirs.sender.send(Bytes::from_static(b"here")).await.unwrap();
    assert_eq!(first.receiver.next().await.unwrap(), "here");
}

#[tokio::test]
async fn a_session_ends_with_the_managers_reason() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = worker(&cluster, &node).await;
    let mut ours = connection.session().await.unwrap();
    let (_, theirs) = node.session().await;
    theirs.sender.refuse(&Refused::Removed);
    let down = within("the session ends", ours.receiver.next()).await.unwrap_err();
    assert_eq!(down, Down::Refused(Refused::Removed));
}

#[tokio::test]
async fn a_session_ends_for_the_manager_when_the_worker_goes() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = worker(&cluster, &node).await;
    let ours = connection.session().await.unwrap();
    let (_, mut theirs) = node.session().await;
    drop(ours);
    connection.close().await;
    within("the session ends", theirs.receiver.next()).await.unwrap_err();
}

#[tokio::test]
async fn many_connections_share_one_socket_and_end_one_by_one() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let address = node.address.parse().unwrap();
    let connector = Connector { socket: Some(ClientSocket::open(address).unwrap()), ..Connector::default() };
    let mut sessions = Vec::new();
    for n in 10..20 {
        let (identity, hello) = (cluster.identity(n, CertRole::Worker), cluster.client_hello(n));
        let addresses = std::slice::from_ref(&node.address);
        let connection = connector.connect_to(addresses, identity, hello, PATIENCE).await.unwrap();
        let session = connection.session().await.unwrap();
        let (caller, theirs) = node.session().await;
        assert_eq!(caller.node_id, node_id(n));
        sessions.push((connection, session, theirs));
    }
    let (first, _, mut gone) = sessions.remove(0);
    first.close().await;
    drop(first);
    within("the first ends", gone.receiver.next()).await.unwrap_err();
    let (_, ours, theirs) = &mut sessions[8];
    theirs.sender.send(Bytes::from_static(b"on")).await.unwrap();
    assert_eq!(ours.receiver.next().await.unwrap(), "on");
}
