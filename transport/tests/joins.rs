//! How a newcomer gets in, and how it does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_transport::*;
use support::raw::*;
use support::*;

fn join_request(token: &JoinToken, key: &KeyPair) -> JoinRequest {
    JoinRequest {
        name: "n5".into(),
        advertise: "0.0.0.0:4701".into(),
        ..JoinRequest::new(token, key.csr().unwrap(), node_id(5), Clock::default())
    }
}

async fn ask(addresses: &[String], token: &JoinToken, key: &KeyPair) -> Result<Joined, JoinError> {
    join(addresses, token, join_request(token, key), PATIENCE, Clock::default(), &Network::default()).await
}

#[tokio::test]
async fn a_newcomer_with_the_token_gets_a_certificate_that_works() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let (token, key) = (cluster.token(), KeyPair::generate().unwrap());
    let addresses = [closed_port().to_string(), node.address.clone()];
    let joining = ask(&addresses, &token, &key);
    let serving = async {
        let (source, request, reply) = node.newcomer().await;
        assert!(source.ip().is_loopback());
        assert!(request.secret.matches(token.secret().expose()), "the secret is passed through to the node");
        assert_eq!((request.name.as_str(), request.advertise.as_str()), ("n5", "0.0.0.0:4701"));
        let subject =
            CertSubject { cluster: cluster.id, node_id: request.node_id, role: CertRole::Worker, enrolled: None };
        let certificate = cluster.ca.issue(&request.csr, &subject, DAY, SystemTime::now()).unwrap();
        reply
            .send(JoinReply::Joined(Box::new(Joined {
                certificate: certificate.to_vec(),
                ca_certificate: cluster.ca.certificate().to_vec(),
                authorities: Vec::new(),
                cluster_id: cluster.id,
                lineage: lineage(&[1]),
                node_id: request.node_id,
                raft_id: RaftId(0),
                managers: vec![ManagerAddress {
                    raft_id: RaftId(1),
                    node_id: node_id(1),
                    addresses: vec![node.address.clone()],
                }],
                extra: Bytes::from_static(b"policy"),
            })))
            .unwrap();
    };
    let (joined, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
    let joined = joined.unwrap();
    let identity = Identity::new(joined.ca_certificate.into(), joined.certificate.into(), key).unwrap();
    let hello = Hello::client(joined.cluster_id, joined.node_id, joined.lineage, "test");
    let connection =
        Connector::connect(&joined.managers[0].addresses, Arc::new(identity), hello, PATIENCE).await.unwrap();
    assert_eq!(connection.request(Bytes::from_static(b"in"), PATIENCE).await, Ok(Bytes::from_static(b"in")));
}

#[tokio::test]
async fn a_token_of_another_ca_sends_nothing_to_the_manager() {
    let (cluster, other) = (TestCluster::new(1), TestCluster::new(1));
    let mut node = Setup::new(&cluster, 1).start();
    let (token, key) = (other.token(), KeyPair::generate().unwrap());
    let error = ask(std::slice::from_ref(&node.address), &token, &key).await.unwrap_err();
    assert!(
        matches!(&error, JoinError::Connect(ConnectError::Certificate { problem: CertificateProblem::NotPinned, .. })),
        "{error:?}"
    );
    node.endpoint.close("done").await;
    assert!(node.events.try_recv().is_err(), "no request arrived");
}

#[tokio::test]
async fn a_refused_token_is_told_as_such_and_a_silent_manager_leaves_it_unknown() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let key = KeyPair::generate().unwrap();
    let wrong = JoinToken::new(cluster.ca.hash(), TokenSecret::from_bytes([1; 16]));
    let addresses = [node.address.clone()];
    let joining = ask(&addresses, &wrong, &key);
    let serving = async {
        let (_, request, reply) = node.newcomer().await;
        assert!(!request.secret.matches(cluster.token().secret().expose()));
        reply.send(JoinReply::Refused(JoinRefused::BadToken)).unwrap();
    };
    let (refused, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
    assert_eq!(refused, Err(JoinError::Refused(JoinRefused::BadToken)));
    let joining = ask(&addresses, &wrong, &key);
    let dropping = async { drop(node.newcomer().await) };
    let (unknown, ()) = within("the join", async { tokio::join!(joining, dropping) }).await;
    assert!(matches!(unknown, Err(JoinError::Unknown(_))), "{unknown:?}");
}

#[tokio::test]
async fn a_reply_with_another_ca_or_for_another_node_is_not_accepted() {
    let (cluster, other) = (TestCluster::new(1), TestCluster::new(1));
    let mut node = Setup::new(&cluster, 1).start();
    let (token, key) = (cluster.token(), KeyPair::generate().unwrap());
    for (ca, named) in [(&other.ca, 5), (&cluster.ca, 6)] {
        let addresses = [node.address.clone()];
        let joining = ask(&addresses, &token, &key);
        let serving = async {
            let (_, request, reply) = node.newcomer().await;
            let subject =
                CertSubject { cluster: cluster.id, node_id: node_id(named), role: CertRole::Worker, enrolled: None };
            let certificate = cluster.ca.issue(&request.csr, &subject, DAY, SystemTime::now()).unwrap();
            reply
                .send(JoinReply::Joined(Box::new(Joined {
                    certificate: certificate.to_vec(),
                    ca_certificate: ca.certificate().to_vec(),
                    authorities: Vec::new(),
                    cluster_id: cluster.id,
                    lineage: lineage(&[1]),
                    node_id: node_id(5),
                    raft_id: RaftId(0),
                    managers: Vec::new(),
                    extra: Bytes::new(),
                })))
                .unwrap();
        };
        let (joined, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
        assert!(matches!(joined, Err(JoinError::BadReply(_))), "{joined:?}");
    }
}

#[tokio::test]
async fn one_source_may_not_try_tokens_without_end() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.join_burst = 2;
    setup.options.join_refill = Duration::from_secs(100_000);
    let mut node = setup.start();
    let (token, key) = (cluster.token(), KeyPair::generate().unwrap());
    let addresses = [node.address.clone()];
    for _ in 0..2 {
        let joining = ask(&addresses, &token, &key);
        let serving = async {
            let (_, _, reply) = node.newcomer().await;
            reply.send(JoinReply::Refused(JoinRefused::BadToken)).unwrap();
        };
        let (refused, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
        assert_eq!(refused, Err(JoinError::Refused(JoinRefused::BadToken)));
    }
    let third = ask(&addresses, &token, &key).await;
    assert_eq!(third, Err(JoinError::Refused(JoinRefused::RateLimited)));
    assert!(node.events.try_recv().is_err(), "the handler was not asked");
}

#[tokio::test]
async fn the_join_plane_takes_no_requests_and_one_attempt_per_connection() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let stranger = raw(&node, None, Plane::Join.alpn());
    let connection = within("the handshake", stranger.connecting()).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let request = frame::encode(frame::FrameKind::Request, b"hold").unwrap();
    send.write_all(&[&[0x14], &request[..]].concat()).await.unwrap();
    send.finish().unwrap();
    let body = frame::read_kind(&mut receive, frame::FrameKind::JoinReply, 1_000).await.unwrap();
    assert!(body.windows(12).any(|window| window == b"join request"), "it is told that this is no join request");
    // A second stream on the same connection is nobody's.
    let (mut again, mut silence) = connection.open_bi().await.unwrap();
    again.write_all(&frame::encode(frame::FrameKind::Join, b"").unwrap()).await.unwrap();
    connection.close(0u32.into(), b"");
    assert!(silence.read_to_end(10).await.is_err());
    node.endpoint.close("done").await;
    assert!(node.events.try_recv().is_err(), "the handler was never asked");
}
