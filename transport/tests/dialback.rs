//! Whether a newcomer is reached where it says that it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::net::{SocketAddr, UdpSocket};

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
