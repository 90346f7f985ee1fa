//! Who may come in: certificates, planes, hellos, joins, and what garbage does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quorate_core::id::{Lineage, RaftId};
use quorate_transport::*;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use support::*;

async fn connect_as(node: &TestNode, identity: Arc<Identity>, hello: Hello) -> Result<Connection, ConnectError> {
    Connector::connect(std::slice::from_ref(&node.address), identity, hello, PATIENCE).await
}

// ---- requests -------------------------------------------------------------------------------------------------

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

// ---- addresses ------------------------------------------------------------------------------------------------

fn closed_port() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
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

// ---- certificates ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_manager_of_another_cluster_is_not_trusted_and_gets_nothing() {
    let (ours, theirs) = (TestCluster::new(1), TestCluster::new(2));
    let node = Setup::new(&theirs, 1).start();
    let error = connect_as(&node, ours.identity(9, CertRole::Operator), ours.client_hello(9)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { problem: CertificateProblem::OtherCa, .. }), "{error:?}");
}

#[tokio::test]
async fn the_same_cluster_id_under_another_ca_is_another_cluster() {
    let (ours, theirs) = (TestCluster::new(1), TestCluster::new(1));
    let node = Setup::new(&theirs, 1).start();
    let error = connect_as(&node, ours.identity(9, CertRole::Operator), ours.client_hello(9)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificate { problem: CertificateProblem::OtherCa, .. }), "{error:?}");
}

/// An identity that trusts `trusted` but shows a certificate of `shown`.
fn mixed(trusted: &TestCluster, shown: &Identity) -> Arc<Identity> {
    let key = KeyPair::from_pkcs8(shown.key().pkcs8_der()).unwrap();
    Arc::new(Identity::new(trusted.ca.certificate().clone(), shown.certificate().clone(), key).unwrap())
}

#[tokio::test]
async fn a_caller_with_a_certificate_of_another_cluster_is_told_so() {
    let (ours, theirs) = (TestCluster::new(1), TestCluster::new(2));
    let node = Setup::new(&theirs, 1).start();
    // Given a client that would trust the manager; its certificate is still of another cluster and names it,
    let identity = mixed(&theirs, &ours.identity(9, CertRole::Operator));
    let error = connect_as(&node, identity, theirs.client_hello(9)).await.unwrap_err();
    // then whichever of the two notices first, it is about the certificate and not a time-out.
    assert!(matches!(error, ConnectError::NotAccepted { .. } | ConnectError::Certificate { .. }), "{error:?}");
    let good = client(&theirs, &node).await;
    assert!(good.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

#[tokio::test]
async fn an_expired_certificate_of_a_manager_names_both_clocks() {
    let cluster = TestCluster::new(1);
    let long_ago = SystemTime::now() - 10 * DAY;
    let mut setup = Setup::new(&cluster, 1);
    setup.identity = cluster.identity_at(1, CertRole::Manager, DAY, long_ago);
    let node = setup.start();
    let error = connect_as(&node, cluster.identity(9, CertRole::Operator), cluster.client_hello(9)).await.unwrap_err();
    let ConnectError::Certificate { problem: CertificateProblem::Expired { not_after, now }, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(not_after < now);
    assert_eq!(error.to_string().matches("UTC").count(), 2, "{error}");
}

#[tokio::test]
async fn the_own_expired_or_future_certificate_is_found_before_anything_is_sent() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let expired = cluster.identity_at(9, CertRole::Operator, DAY, SystemTime::now() - 10 * DAY);
    let error = connect_as(&node, expired, cluster.client_hello(9)).await.unwrap_err();
    assert!(matches!(error, ConnectError::OwnCertificate(CertificateProblem::Expired { .. })), "{error:?}");
    let future = cluster.identity_at(9, CertRole::Operator, DAY, SystemTime::now() + 10 * DAY);
    let error = connect_as(&node, future, cluster.client_hello(9)).await.unwrap_err();
    assert!(matches!(error, ConnectError::OwnCertificate(CertificateProblem::NotYetValid { .. })), "{error:?}");
}

#[tokio::test]
async fn a_worker_cannot_stand_for_a_manager() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.identity = cluster.identity(1, CertRole::Worker);
    let node = setup.start();
    let error = connect_as(&node, cluster.identity(9, CertRole::Operator), cluster.client_hello(9)).await.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::Certificate {
                problem: CertificateProblem::WrongRole { needed: CertRole::Manager, found: CertRole::Worker },
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_replaced_identity_serves_new_connections() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let before = client(&cluster, &node).await;
    node.endpoint.set_identity(cluster.identity(1, CertRole::Worker)).unwrap();
    let refused = connect_as(&node, cluster.identity(9, CertRole::Operator), cluster.client_hello(9)).await;
    assert!(matches!(refused, Err(ConnectError::Certificate { .. })), "{refused:?}");
    node.endpoint.set_identity(cluster.identity(1, CertRole::Manager)).unwrap();
    client(&cluster, &node).await;
    assert!(before.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok(), "existing connections stay");
}

// ---- a stranger with its own QUIC stack -----------------------------------------------------------------------

struct Raw {
    endpoint: quinn::Endpoint,
    config: Arc<rustls::ClientConfig>,
    address: SocketAddr,
}

/// A client of our own making: no certificate checks on its side, any ALPN, with or without a certificate.
fn raw(node: &TestNode, identity: Option<&Identity>, alpn: &[u8]) -> Raw {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind));
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(
                vec![identity.certificate().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().pkcs8_der().to_vec())),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    // Resumption stays on at this client: it is the server that must not offer it.
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    Raw {
        endpoint: quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
        config: Arc::new(config),
        address: node.address.parse().unwrap(),
    }
}

impl Raw {
    fn connecting(&self) -> quinn::Connecting {
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(self.config.clone()).unwrap();
        self.endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), self.address, "quorate.invalid").unwrap()
    }
}

#[derive(Debug)]
struct Blind;

impl rustls::client::danger::ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// How a connection that should not live ended: in the handshake or after it.
async fn end_of(connecting: quinn::Connecting) -> quinn::ConnectionError {
    match within("the handshake", connecting).await {
        Ok(connection) => within("the end", connection.closed()).await,
        Err(error) => error,
    }
}

fn close_code(error: &quinn::ConnectionError) -> u64 {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_unknown_plane_is_refused_in_the_handshake() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let identity = cluster.identity(9, CertRole::Manager);
    let error = end_of(raw(&node, Some(&identity), b"quorate-peer/2").connecting()).await;
    // 0x178: TLS alert no_application_protocol.
    assert_eq!(close_code(&error), 0x178, "{error}");
}

#[tokio::test]
async fn without_a_certificate_only_the_join_plane_answers() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    for alpn in [Plane::Peer.alpn(), Plane::Client.alpn()] {
        let error = end_of(raw(&node, None, alpn).connecting()).await;
        assert_eq!(close_code(&error), 0x100 + 12, "refused for the missing certificate: {error}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_cluster_or_an_expired_one_fails_in_the_handshake() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let foreign = TestCluster::new(2).identity(9, CertRole::Manager);
    let expired = cluster.identity_at(9, CertRole::Manager, DAY, SystemTime::now() - 10 * DAY);
    for (identity, alert) in [(foreign, 48), (expired, 45)] {
        for plane in [Plane::Peer, Plane::Client, Plane::Join] {
            let error = end_of(raw(&node, Some(&identity), plane.alpn()).connecting()).await;
            assert_eq!(close_code(&error), 0x100 + alert, "{error}");
            assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "by TLS itself: {error}");
        }
    }
}

#[tokio::test]
async fn workers_and_operators_are_refused_on_the_peer_plane() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    for role in [CertRole::Worker, CertRole::Operator] {
        let error = end_of(raw(&node, Some(&cluster.identity(9, role)), Plane::Peer.alpn()).connecting()).await;
        assert_eq!(close_code(&error), 0x100 + 6, "refused for its role: {error}");
    }
}

#[tokio::test]
async fn nothing_is_resumed_and_no_early_data_is_possible() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let identity = cluster.identity(9, CertRole::Operator);
    let stranger = raw(&node, Some(&identity), Plane::Client.alpn());
    for _ in 0..3 {
        let connecting = stranger.connecting();
        // A client with a ticket could send at once; there is none, so 0-RTT is not on offer.
        let connection = match connecting.into_0rtt() {
            Ok(_) => panic!("early data was possible"),
            Err(connecting) => within("the handshake", connecting).await.unwrap(),
        };
        // The whole chain was shown again: the handshake was a full one.
        let chain = connection.peer_identity().unwrap();
        assert_eq!(chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap().len(), 2);
        connection.close(0u32.into(), b"");
    }
}

#[tokio::test]
async fn garbage_on_every_plane_disturbs_nobody_else() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let good = client(&cluster, &one).await;
    let mut seed = 12_345u32;
    let mut garbage = |length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            })
            .collect()
    };
    let manager = cluster.identity(9, CertRole::Manager);
    // On the port itself,
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in [0, 1, 20, 100, 1_200, 1_400] {
        socket.send_to(&garbage(length), &one.address).unwrap();
    }
    // and inside each plane, on both kinds of stream, also as an oversize frame.
    let oversize = [&u32::MAX.to_be_bytes()[..], &[1, 0, 0, 0, 0, 0]].concat();
    for plane in [Plane::Peer, Plane::Client, Plane::Join] {
        for bytes in [garbage(5_000), oversize.clone(), vec![], vec![0x11]] {
            let stranger = raw(&one, Some(&manager), plane.alpn());
            let connection = within("the handshake", stranger.connecting()).await.unwrap();
            if let Ok(mut uni) = connection.open_uni().await {
                let _ = uni.write_all(&bytes).await;
                let _ = uni.finish();
            }
            if let Ok((mut send, _receive)) = connection.open_bi().await {
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                // An empty stream is a stream; the node closes what is no hello.
                let _ = within("the node ends it", connection.closed()).await;
            }
        }
    }
    // Both the client and the peers have the connections that they had.
    assert_eq!(good.request(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
    one.peers.send(two.id, Lane::Control, Bytes::from_static(b"still here")).unwrap();
    match two.event("a message").await {
        Event::Message(_, _, body) => assert_eq!(body, Bytes::from_static(b"still here")),
        other => panic!("the peer's connection was disturbed: {other:?}"),
    }
}

/// Manager 7 of a cluster, played by hand up to a good hello.
async fn greeted_by_hand(cluster: &TestCluster, node: &TestNode, plane: Plane) -> (Raw, quinn::Connection) {
    let stranger = raw(node, Some(&cluster.identity(7, CertRole::Manager)), plane.alpn());
    let connection = within("the handshake", stranger.connecting()).await.unwrap();
    // Fields 1 cluster, 2 lineage, 3 node, 4 raft id, 6 and 7 versions, 11 instance.
    let mut hello = vec![0x0a, 16];
    hello.extend([1; 16]);
    hello.extend([0x12, 16]);
    hello.extend([1; 16]);
    hello.extend([0x1a, 16]);
    hello.extend([7; 16]);
    hello.extend([0x20, 7, 0x30, 1, 0x38, 1, 0x58, 5]);
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::Hello, &hello).unwrap()).await.unwrap();
    frame::read_kind(&mut receive, frame::FrameKind::HelloReply, frame::HELLO_BYTES_MAX).await.unwrap();
    send.write_all(&frame::encode(frame::FrameKind::HelloConfirm, &[]).unwrap()).await.unwrap();
    (stranger, connection)
}

#[tokio::test]
async fn a_snapshot_whose_digest_or_length_is_wrong_has_no_end_and_the_sender_is_told() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let (_stranger, connection) = greeted_by_hand(&cluster, &node, Plane::Peer).await;
    let good = [&4u64.to_be_bytes()[..], blake3::hash(b"data").as_bytes()].concat();
    let other = [&4u64.to_be_bytes()[..], blake3::hash(b"dat_").as_bytes()].concat();
    let longer = [&5u64.to_be_bytes()[..], blake3::hash(b"data").as_bytes()].concat();
    for (end, taken) in [(other, false), (longer, false), (Vec::new(), false), (good, true)] {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0x13]).await.unwrap();
        for (kind, body) in [
            (frame::FrameKind::SnapshotHeader, b"h".as_slice()),
            (frame::FrameKind::SnapshotChunk, b"data"),
            (frame::FrameKind::SnapshotEnd, &end),
        ] {
            send.write_all(&frame::encode(kind, body).unwrap()).await.unwrap();
        }
        let (_, mut incoming) = node.incoming_snapshot().await;
        let mut pieces = Vec::new();
        while let Some(piece) = within("a piece", incoming.chunks.recv()).await {
            pieces.push(piece);
        }
        assert_eq!(pieces[0], SnapshotPiece::Data(Bytes::from_static(b"data")));
        assert_eq!(pieces.get(1), taken.then_some(&SnapshotPiece::End));
        let _ = incoming.done.send(Ok(()));
        let verdict = frame::read_kind(&mut receive, frame::FrameKind::SnapshotVerdict, 10_000).await.unwrap();
        assert_eq!(verdict.is_empty(), taken, "{verdict:?}");
    }
}

#[tokio::test]
async fn garbage_after_a_good_hello_costs_a_client_its_stream_and_a_peer_its_connection() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    for (plane, lives) in [(Plane::Client, true), (Plane::Peer, false)] {
        let (_stranger, connection) = greeted_by_hand(&cluster, &node, plane).await;
        let (mut bad, mut answer) = connection.open_bi().await.unwrap();
        bad.write_all(b"\x14garbage that is no frame at all").await.unwrap();
        let refused = within("the stream is refused", answer.read_to_end(100)).await;
        assert!(refused.is_err(), "{refused:?}");
        if lives {
            let (mut good, mut answer) = connection.open_bi().await.unwrap();
            let request = frame::encode(frame::FrameKind::Request, b"ok").unwrap();
            good.write_all(&[&[0x14], &request[..]].concat()).await.unwrap();
            let body = frame::read_kind(&mut answer, frame::FrameKind::Response, 100).await.unwrap();
            assert_eq!(body, Bytes::from_static(b"ok"));
        } else {
            node.up(RaftId(7)).await;
            let mut lane = connection.open_uni().await.unwrap();
            lane.write_all(b"\x11garbage that is no frame at all").await.unwrap();
            within("the connection ends", connection.closed()).await;
            assert!(matches!(node.down(RaftId(7)).await, Down::Broken(_)));
        }
    }
}

#[tokio::test]
async fn handshakes_under_way_are_capped_and_who_comes_too_many_is_told_to_wait() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.handshakes_max = 2;
    let node = setup.start();
    // Given two callers that never say hello,
    let operator = cluster.identity(9, CertRole::Operator);
    let idle = raw(&node, Some(&operator), Plane::Client.alpn());
    let first = within("the handshake", idle.connecting()).await.unwrap();
    let second = within("the handshake", idle.connecting()).await.unwrap();
    // then a third is turned away at once, after it has proven its address,
    let error = connect_as(&node, operator.clone(), cluster.client_hello(9)).await.unwrap_err();
    assert!(matches!(error.root(), ConnectError::Refused { refused: Refused::Busy(_), .. }), "{error:?}");
    assert!(error.is_retryable());
    // and taken as soon as they are gone.
    first.close(0u32.into(), b"");
    second.close(0u32.into(), b"");
    within("a place is free", async {
        while connect_as(&node, operator.clone(), cluster.client_hello(9)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_never_says_hello_is_cut_off() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.handshake_deadline = Duration::from_millis(500);
    let node = setup.start();
    let silent = raw(&node, Some(&cluster.identity(9, CertRole::Operator)), Plane::Client.alpn());
    let error = end_of(silent.connecting()).await;
    assert!(error.to_string().contains("no hello in time"), "{error}");
}

#[tokio::test]
async fn a_removed_node_loses_its_connections_and_is_told_why() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    let stays = client(&cluster, &one).await;
    let goes = connect_as(&one, cluster.identity(2, CertRole::Worker), cluster.client_hello(2)).await.unwrap();
    // An answer shows that the node has taken the connection in.
    goes.request(Bytes::from_static(b"ok"), PATIENCE).await.unwrap();
    one.endpoint.disconnect(node_id(2), &Refused::Removed);
    assert_eq!(within("the end", goes.closed()).await, Down::Refused(Refused::Removed));
    assert_eq!(two.down(RaftId(1)).await, Down::Refused(Refused::Removed));
    assert!(matches!(one.down(RaftId(2)).await, Down::Ours(_)));
    assert!(stays.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

// ---- hellos ---------------------------------------------------------------------------------------------------

async fn refused_peers(change: impl Fn(&mut Setup)) -> (Refused, Vec<Event>, Vec<Event>) {
    let cluster = TestCluster::new(1);
    let mut one = Setup::new(&cluster, 1).start();
    let mut setup = Setup::new(&cluster, 2);
    change(&mut setup);
    let mut two = setup.start();
    one.endpoint.set_peers(vec![PeerAddress { raft_id: RaftId(2), ..two.peer() }]);
    let refused = within("a refusal", async {
        loop {
            match one.peers.last_failure(RaftId(2)) {
                Some(ConnectError::Refused { refused, .. }) => break refused,
                Some(error) => panic!("{error}"),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    one.endpoint.close("done").await;
    two.endpoint.close("done").await;
    let mut events = (Vec::new(), Vec::new());
    while let Ok(event) = one.events.try_recv() {
        events.0.push(event);
    }
    while let Ok(event) = two.events.try_recv() {
        events.1.push(event);
    }
    for event in events.0.iter().chain(&events.1) {
        assert!(!matches!(event, Event::Up(_)), "a refused peer came up");
    }
    (refused, events.0, events.1)
}

#[tokio::test]
async fn a_peer_of_an_older_incarnation_is_refused_and_only_the_older_one_is_told_of_a_newer() {
    let (refused, dialler, acceptor) = refused_peers(|setup| setup.hello.lineage = lineage(&[1, 2])).await;
    assert_eq!(refused, Refused::Superseded { ours: lineage(&[1, 2]), theirs: lineage(&[1]) });
    assert!(dialler.iter().any(|event| matches!(event, Event::Newer(hello) if hello.lineage == lineage(&[1, 2]))));
    assert!(!acceptor.iter().any(|event| matches!(event, Event::Newer(_))));
}

#[tokio::test]
async fn a_peer_of_a_newer_incarnation_that_dials_is_refused_and_makes_the_older_one_step_aside() {
    let (refused, dialler, acceptor) = refused_peers(|setup| setup.hello.lineage = Lineage::default()).await;
    assert!(matches!(refused, Refused::Superseded { .. }), "{refused}");
    assert!(acceptor.iter().any(|event| matches!(event, Event::Newer(hello) if hello.lineage == lineage(&[1]))));
    assert!(!dialler.iter().any(|event| matches!(event, Event::Newer(_))));
}

#[tokio::test]
async fn forked_peers_refuse_each_other_and_neither_is_newer() {
    let (refused, dialler, acceptor) = refused_peers(|setup| setup.hello.lineage = lineage(&[2])).await;
    assert_eq!(refused, Refused::Forked { ours: lineage(&[2]), theirs: lineage(&[1]) });
    assert!(!dialler.iter().chain(&acceptor).any(|event| matches!(event, Event::Newer(_))));
}

#[tokio::test]
async fn protocol_versions_that_do_not_meet_are_refused_by_direction() {
    let (refused, ..) = refused_peers(|setup| {
        setup.hello.protocol_min = 5;
        setup.hello.protocol_max = 6;
    })
    .await;
    assert_eq!(refused, Refused::VersionTooOld { ours: 5, theirs: PROTOCOL_MAX });
    let (refused, ..) = refused_peers(|setup| {
        setup.hello.protocol_min = 0;
        setup.hello.protocol_max = 0;
    })
    .await;
    assert_eq!(refused, Refused::VersionTooNew { ours: 0, theirs: PROTOCOL_MIN });
}

#[tokio::test]
async fn the_gate_refuses_from_its_records_and_the_dialler_learns_why() {
    for reason in [Refused::StoreReplaced, Refused::Removed, Refused::NotAMember, Refused::Locked] {
        let told = reason.clone();
        let (refused, ..) = refused_peers(move |setup| {
            let reason = reason.clone();
            setup.admit = Box::new(move |plane, caller, hello| {
                assert_eq!((plane, caller.raft_id), (Plane::Peer, Some(RaftId(1))));
                assert_eq!(hello.node_id, caller.node_id);
                Err(reason.clone())
            });
        })
        .await;
        assert_eq!(refused, told);
    }
}

#[tokio::test]
async fn another_raft_id_or_node_id_than_the_one_dialled_is_not_taken() {
    let (refused, ..) = refused_peers(|setup| setup.hello.raft_id = RaftId(3)).await;
    assert!(matches!(refused, Refused::WrongNode(_)), "{refused}");
    let (refused, ..) = refused_peers(|setup| setup.hello.node_id = node_id(9)).await;
    assert!(matches!(refused, Refused::WrongNode(_)), "the hello must name the certificate's node: {refused}");
}

#[tokio::test]
async fn a_client_adopts_a_longer_lineage_and_never_goes_back() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.hello.lineage = lineage(&[1, 2]);
    let mut node = setup.start();
    let hello = |ids: &[u8]| Hello { lineage: lineage(ids), ..cluster.client_hello(9) };
    let operator = cluster.identity(9, CertRole::Operator);
    for behind in [&[][..], &[1], &[1, 2]] {
        let connection = connect_as(&node, operator.clone(), hello(behind)).await.unwrap();
        assert_eq!(connection.remote_hello().lineage, lineage(&[1, 2]));
    }
    let error = connect_as(&node, operator.clone(), hello(&[1, 2, 3])).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { refused: Refused::Superseded { .. }, .. }), "{error:?}");
    let error = connect_as(&node, operator, hello(&[1, 3])).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { refused: Refused::Forked { .. }, .. }), "{error:?}");
    // The longer lineage of an operator proves nothing to the manager.
    while let Ok(event) = node.events.try_recv() {
        assert!(!matches!(event, Event::Newer(_)));
    }
}

#[tokio::test]
async fn a_hello_of_another_cluster_under_a_good_certificate_is_refused() {
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let other = TestCluster::new(2);
    let hello = Hello { cluster_id: other.id, ..cluster.client_hello(9) };
    let error = connect_as(&node, cluster.identity(9, CertRole::Operator), hello).await.unwrap_err();
    assert_eq!(
        error,
        ConnectError::Refused {
            address: node.address.parse().unwrap(),
            refused: Refused::WrongCluster { ours: cluster.id, theirs: other.id }
        }
    );
}

// ---- joining --------------------------------------------------------------------------------------------------

fn join_request(token: &JoinToken, key: &KeyPair) -> JoinRequest {
    JoinRequest {
        name: "n5".into(),
        advertise: "0.0.0.0:4701".into(),
        ..JoinRequest::new(token, key.csr().unwrap(), node_id(5))
    }
}

#[tokio::test]
async fn a_newcomer_with_the_token_gets_a_certificate_that_works() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let (token, key) = (cluster.token(), KeyPair::generate().unwrap());
    let addresses = [closed_port().to_string(), node.address.clone()];
    let joining = join(&addresses, &token, join_request(&token, &key), PATIENCE);
    let serving = async {
        let (source, request, reply) = node.newcomer().await;
        assert!(source.ip().is_loopback());
        assert!(request.secret.matches(token.secret().expose()), "the secret is passed through to the node");
        assert_eq!((request.name.as_str(), request.advertise.as_str()), ("n5", "0.0.0.0:4701"));
        let subject = CertSubject { cluster: cluster.id, node_id: request.node_id, role: CertRole::Worker };
        let certificate = cluster.ca.issue(&request.csr, &subject, DAY, SystemTime::now()).unwrap();
        reply
            .send(JoinReply::Joined(Box::new(Joined {
                certificate: certificate.to_vec(),
                ca_certificate: cluster.ca.certificate().to_vec(),
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
    let error =
        join(std::slice::from_ref(&node.address), &token, join_request(&token, &key), PATIENCE).await.unwrap_err();
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
    let joining = join(&addresses, &wrong, join_request(&wrong, &key), PATIENCE);
    let serving = async {
        let (_, request, reply) = node.newcomer().await;
        assert!(!request.secret.matches(cluster.token().secret().expose()));
        reply.send(JoinReply::Refused(JoinRefused::BadToken)).unwrap();
    };
    let (refused, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
    assert_eq!(refused, Err(JoinError::Refused(JoinRefused::BadToken)));
    let joining = join(&addresses, &wrong, join_request(&wrong, &key), PATIENCE);
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
        let joining = join(&addresses, &token, join_request(&token, &key), PATIENCE);
        let serving = async {
            let (_, request, reply) = node.newcomer().await;
            let subject = CertSubject { cluster: cluster.id, node_id: node_id(named), role: CertRole::Worker };
            let certificate = cluster.ca.issue(&request.csr, &subject, DAY, SystemTime::now()).unwrap();
            reply
                .send(JoinReply::Joined(Box::new(Joined {
                    certificate: certificate.to_vec(),
                    ca_certificate: ca.certificate().to_vec(),
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
        let joining = join(&addresses, &token, join_request(&token, &key), PATIENCE);
        let serving = async {
            let (_, _, reply) = node.newcomer().await;
            reply.send(JoinReply::Refused(JoinRefused::BadToken)).unwrap();
        };
        let (refused, ()) = within("the join", async { tokio::join!(joining, serving) }).await;
        assert_eq!(refused, Err(JoinError::Refused(JoinRefused::BadToken)));
    }
    let third = join(&addresses, &token, join_request(&token, &key), PATIENCE).await;
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
