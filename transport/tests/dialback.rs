//! Who answers handshakes and serves nothing: a newcomer, reached where it says that it is, and a manager that is locked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::net::{SocketAddr, UdpSocket};

use quorate_core::id::RaftId;
use quorate_transport::*;
use support::*;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn a_newcomer_that_listens_is_reached_and_its_port_is_free_afterwards() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let key = KeyPair::generate().unwrap();
    // Given a newcomer on a runtime of its own
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    let newcomer = DialBack::listen(anywhere(), &key, &Network::default()).unwrap();
    drop(entered);
    let address = newcomer.local_address().unwrap();
    runtime.spawn(newcomer.serve());
    // Then a manager reaches it, also twice,
    let peers = node.endpoint.peers();
    for _ in 0..2 {
        within("it is reached", peers.dial_back(&address.to_string(), key.digest(), PATIENCE)).await.unwrap();
    }
    // and nobody else at that address is taken for it.
    let other = KeyPair::generate().unwrap().digest();
    let error = within("it is refused", peers.dial_back(&address.to_string(), other, PATIENCE)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Certificate { problem: CertificateProblem::OtherKey, .. }), "{error:?}");
    // When its runtime has ended, the port is free.
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    UdpSocket::bind(address).unwrap();
}

#[tokio::test]
async fn who_does_not_listen_or_listens_as_something_else_is_told_apart() {
    let cluster = TestCluster::new(1);
    let (node, other) = (Setup::new(&cluster, 1).start(), Setup::new(&cluster, 2).start());
    let peers = node.endpoint.peers();
    let key = KeyPair::generate().unwrap().digest();
    let closed = closed_port();
    let error = within("the answer", peers.dial_back(&closed.to_string(), key, PATIENCE)).await.unwrap_err();
    assert_eq!(error, ConnectError::PortClosed(closed));
    // A manager of the cluster is no newcomer.
    let error = within("the answer", peers.dial_back(&other.address, key, PATIENCE)).await.unwrap_err();
    assert!(matches!(error, ConnectError::WrongProtocol(_)), "{error:?}");
    let silent = UdpSocket::bind(anywhere()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = peers.dial_back(&address, key, std::time::Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error:?}");
    let error = peers.dial_back("no.such.host.invalid:1", key, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ConnectError::Resolve { .. } | ConnectError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let busy = UdpSocket::bind(anywhere()).unwrap();
    let address = busy.local_addr().unwrap();
    let error = DialBack::listen(address, &KeyPair::generate().unwrap(), &Network::default()).unwrap_err();
    assert!(matches!(error, BindError::Busy(at) if at == address), "{error}");
}

#[tokio::test]
async fn a_manager_that_is_locked_is_told_from_one_that_is_gone_and_is_nobody_else() {
    // Given the port of a manager that waits for its key, and nothing of that node but its name
    let cluster = TestCluster::new(1);
    let address = closed_port();
    let door = LockedDoor::listen(address, (cluster.id, node_id(2)), &Network::default()).unwrap();
    let serving = tokio::spawn(door.serve());
    let locked = ConnectError::Refused { address, refused: Refused::Locked, ours: false };
    let node = Setup::new(&cluster, 1).start();
    let peer =
        |id| PeerAddress { raft_id: RaftId(2), node_id: Some(node_id(id)), addresses: vec![address.to_string()] };
    let failed = async || {
        within("the dial fails", async {
            loop {
                match node.endpoint.peers().last_failure(RaftId(2)) {
                    Some(error) => return error,
                    None => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                }
            }
        })
        .await
    };
    // When the others, an operator and a newcomer come, then each is told that it is locked,
    node.endpoint.set_peers(vec![peer(2)]);
    assert_eq!(failed().await.root(), &locked);
    assert!(node.endpoint.peers().is_locked(RaftId(2)));
    let managers = [address.to_string()];
    let operator = cluster.identity(9, CertRole::Operator);
    let told = Connector::connect(&managers, operator.clone(), cluster.client_hello(9), PATIENCE).await.unwrap_err();
    assert_eq!(told, locked);
    assert!(told.is_retryable());
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let request = JoinRequest::new(&cluster.token(), csr, node_id(7), Clock::default());
    let told = join(&managers, &cluster.token(), request, PATIENCE, Clock::default(), &Network::default()).await;
    assert!(matches!(&told, Err(JoinError::Connect(error)) if *error == locked), "{told:?}");
    // and of another node, or another cluster, it says nothing.
    let other = TestCluster::new(2);
    let stranger = other.identity(9, CertRole::Operator);
    let told = Connector::connect(&managers, stranger, other.client_hello(9), PATIENCE).await.unwrap_err();
    assert!(matches!(&told, ConnectError::Certificate { problem: CertificateProblem::OtherCa, .. }), "{told:?}");
    node.endpoint.set_peers(Vec::new());
    node.endpoint.set_peers(vec![peer(3)]);
    within("the other one is not taken for it", async {
        while !matches!(node.endpoint.peers().last_failure(RaftId(2)), Some(ConnectError::Certificate { .. })) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    serving.abort();
}
