//! Requests and the addresses they go to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_transport::*;
use support::*;

#[tokio::test]
async fn requests_go_round_many_at_once_and_large_ones_too() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let mut asked = tokio::task::JoinSet::new();
    // More than the 1024 streams that the other side allows at once.
    for n in 0..1_500u32 {
        let connection = connection.clone();
        asked.spawn(async move {
            let body = Bytes::copy_from_slice(&n.to_be_bytes());
            assert_eq!(connection.request(body.clone(), PATIENCE).await, Ok(body));
        });
    }
    while let Some(ended) = within("answers", asked.join_next()).await {
        ended.unwrap();
    }
    let large = Bytes::from(vec![5; frame::REQUEST_BYTES_MAX]);
    assert!(connection.request(large.clone(), PATIENCE).await == Ok(large));
    let over = connection.request(vec![0; frame::REQUEST_BYTES_MAX + 1].into(), PATIENCE).await;
    assert!(matches!(over, Err(RequestError::NotSent(_))), "{over:?}");
    assert_eq!(connection.remote_hello().raft_id, RaftId(1));
}

#[tokio::test]
async fn what_a_way_carries_is_found_out_and_used() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    // Given a way that carries far more than an Ethernet does, as this machine's own does; when it is used for a while
    let found = async {
        while connection.mtu() < 4 * 1_452 {
            assert!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("larger datagrams", found).await;
    // then what fills many of them gets there and back.
    let large = Bytes::from(vec![5; frame::REQUEST_BYTES_MAX]);
    assert!(connection.request(large.clone(), PATIENCE).await == Ok(large));
}

#[tokio::test]
async fn a_request_without_an_answer_in_time_has_an_unknown_outcome_and_harms_no_other() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let asked = connection.request(Bytes::from_static(b"hold"), Duration::from_millis(50)).await;
    assert!(matches!(&asked, Err(error @ RequestError::Unknown(_)) if error.may_have_executed()), "{asked:?}");
    // The handler learns that nobody waits any more.
    let (caller, _, mut reply) = node.held_request().await;
    within("the handler learns of it", reply.closed()).await;
    assert_eq!((caller.plane, caller.role), (Plane::Client, CertRole::Operator));
    // A handler that drops the reply says "unknown" too.
    let asking = connection.request(Bytes::from_static(b"hold"), PATIENCE);
    let dropping = async { drop(node.held_request().await) };
    let (answer, ()) = within("an answer", async { tokio::join!(asking, dropping) }).await;
    assert!(matches!(&answer, Err(RequestError::Unknown(why)) if why.contains("no answer")), "{answer:?}");
    assert_eq!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
}

#[tokio::test]
async fn what_does_not_fit_waits_unread_and_what_is_over_that_is_turned_away_as_not_executed() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    // Given a node that takes 64 KiB of requests at a time
    setup.options.request_bytes = 64 * 1024;
    let mut node = setup.start();
    let connection = client(&cluster, &node).await;
    let held = || {
        let connection = connection.clone();
        let body = [&b"hold"[..], &[0; 64 * 1024]].concat();
        tokio::spawn(async move {
            let body = Bytes::from(body);
            loop {
                match connection.request(body.clone(), PATIENCE).await {
                    Err(RequestError::Busy) => tokio::time::sleep(Duration::from_millis(5)).await,
                    answered => return answered,
                }
            }
        })
    };
    // When one fills the room, and a second one waits
    let first = held();
    let (_, _, reply) = node.held_request().await;
    assert_eq!(node.peers.request_bytes(), 64 * 1024);
    let second = held();
    // Then the next ones are turned away, of which it is certain that nothing was done,
    let refused = within("one is turned away", async {
        loop {
            // Until the second one has got its place, this one may wait in it.
            let asked = connection.request(vec![0; 32 * 1024].into(), Duration::from_millis(50)).await;
            if asked == Err(RequestError::Busy) {
                return asked;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(matches!(refused, Err(error) if !error.may_have_executed()));
    assert!(node.peers.requests_turned_away() > 0);
    // small ones are served,
    assert_eq!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
    // and who waits is served when there is room.
    reply.send(Bytes::from_static(b"first"));
    assert_eq!(first.await.unwrap(), Ok(Bytes::from_static(b"first")));
    node.held_request().await.2.send(Bytes::from_static(b"second"));
    assert_eq!(second.await.unwrap(), Ok(Bytes::from_static(b"second")));
}

#[tokio::test]
async fn a_connection_that_is_cut_mid_request_leaves_unknown_and_after_it_not_sent() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let asking = connection.request(Bytes::from_static(b"hold"), PATIENCE);
    let cutting = async {
        let held = node.held_request().await;
        node.endpoint.close("cut").await;
        drop(held);
    };
    let (answer, ()) = within("an answer", async { tokio::join!(asking, cutting) }).await;
    assert!(matches!(answer, Err(RequestError::Unknown(_))), "{answer:?}");
    assert_eq!(within("the end", connection.closed()).await, Down::Closed("cut".into()));
    let after = connection.request(Bytes::from_static(b"x"), PATIENCE).await;
    assert!(matches!(after, Err(RequestError::NotSent(_))), "{after:?}");
}

#[tokio::test]
async fn a_closed_port_is_named_as_such() {
    let cluster = TestCluster::new(1);
    let address = closed_port();
    let error = Connector::connect(
        &[address.to_string()],
        cluster.identity(9, CertRole::Operator),
        cluster.client_hello(9),
        PATIENCE,
    )
    .await
    .unwrap_err();
    assert_eq!(error, ConnectError::PortClosed(address));
    assert!(error.to_string().starts_with(&format!("nothing listens on {address} (port closed)")), "{error}");
}

#[tokio::test]
async fn of_several_addresses_the_one_that_answers_is_used() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    // A socket that never answers, a closed port, and the node.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap().to_string(), closed_port().to_string(), node.address.clone()];
    let identity = cluster.identity(9, CertRole::Operator);
    let connection = Connector::connect(&addresses, identity.clone(), cluster.client_hello(9), PATIENCE).await.unwrap();
    assert_eq!(connection.address().to_string(), node.address);
    // None that answers: each reason is told, the most telling first.
    let error = Connector::connect(&addresses[..2], identity, cluster.client_hello(9), Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(matches!(error.root(), ConnectError::PortClosed(_)), "{error}");
    assert!(error.to_string().contains("no answer from"), "{error}");
    let none =
        Connector::connect(&[], cluster.identity(9, CertRole::Operator), cluster.client_hello(9), PATIENCE).await;
    assert_eq!(none.unwrap_err(), ConnectError::NoAddress);
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let cluster = TestCluster::new(1);
    let first = Setup::new(&cluster, 1).start();
    let listen: SocketAddr = first.address.parse().unwrap();
    let Err(error) = (Setup { listen, ..Setup::new(&cluster, 2) }).try_start() else { panic!("bound twice") };
    assert!(matches!(error, BindError::Busy(address) if address == listen), "{error}");
    assert!(error.to_string().contains(&first.address), "{error}");
}
