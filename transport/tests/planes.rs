//! Who may come in: certificates, planes, and what garbage does.
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
    let told = error.to_string();
    assert_eq!(told.matches("Z; the clock").count() + told.matches("Z: renew it").count(), 2, "{error}");
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
async fn who_does_not_count_any_more_loses_its_connections_and_is_told_why() {
    let cluster = TestCluster::new(1);
    let (one, _two) = pair(&cluster).await;
    let stays = client(&cluster, &one).await;
    let goes = connect_as(&one, cluster.identity(2, CertRole::Worker), cluster.client_hello(2)).await.unwrap();
    // An answer shows that the node has taken the connection in.
    goes.request(Bytes::from_static(b"ok"), PATIENCE).await.unwrap();
    // When callers are looked at again, each as its certificate has it
    one.endpoint
        .review(|caller| (caller.role == CertRole::Worker && caller.node_id == node_id(2)).then_some(Refused::Removed));
    // Then who is refused is gone, and nobody else.
    assert_eq!(within("the end", goes.closed()).await, Down::Refused(Refused::Removed));
    assert!(stays.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

/// What is trusted while roots follow each other: the newest signs, and each was signed across by the one before.
fn chained(roots: &[ClusterCa]) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    let mut authorities = Vec::new();
    for pair in roots.windows(2).rev() {
        authorities.push(pair[1].certificate().clone());
        authorities.push(pair[0].cross_sign(&pair[1], SystemTime::now()).unwrap());
    }
    authorities.push(roots[0].certificate().clone());
    authorities
}

#[tokio::test]
async fn roots_that_follow_each_other_are_found_from_the_oldest_and_the_oldest_by_all() {
    // Given a first root, and four that followed it within each other
    let first = TestCluster::new(1);
    let old = first.identity(9, CertRole::Operator);
    let mut manager = Setup::new(&first, 1);
    let mut roots = vec![first.ca];
    for _ in 0..4 {
        roots.push(ClusterCa::create(first.id, SystemTime::now()).unwrap());
    }
    let newest = roots.last().unwrap();
    let csr = manager.identity.key().csr().unwrap();
    let certificate = newest.issue(&csr, &manager.identity.subject().named(), DAY, SystemTime::now()).unwrap();
    let authorities = chained(&roots);
    manager.identity = Arc::new(manager.identity.renewed_under(certificate, authorities.clone()).unwrap());
    let hello = Hello::client(first.id, node_id(9), lineage(&[1]), "test");
    let node = manager.start();
    // When who knows only the first root meets a manager of the newest, then each finds the way to the other.
    let connection = connect_as(&node, Arc::clone(&old), hello.clone()).await.unwrap();
    assert_eq!(connection.remote_issuer(), Some(newest.issuer_id()));
    assert_eq!(connection.remote_authorities().len(), authorities.len());
    assert!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
    // And who has renewed is taken by a manager that has not.
    let newer = newest.issue(&old.key().csr().unwrap(), &old.subject().named(), DAY, SystemTime::now()).unwrap();
    let newer = Arc::new(old.renewed_under(newer, authorities).unwrap());
    let first = TestCluster { id: first.id, ca: roots.swap_remove(0) };
    let behind = Setup::new(&first, 2).start();
    assert!(connect_as(&behind, newer, hello).await.is_ok());
}

#[tokio::test]
async fn connections_are_cut_by_what_their_certificates_say_and_no_others() {
    // Given two clients that stand
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let one = connect_as(&node, cluster.identity(8, CertRole::Operator), cluster.client_hello(8)).await.unwrap();
    let other = connect_as(&node, cluster.identity(9, CertRole::Worker), cluster.client_hello(9)).await.unwrap();
    for client in [&one, &other] {
        assert!(client.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
    }
    // When those of operators are cut, then no other is.
    node.endpoint.disconnect_where(|of| of.role == CertRole::Operator, &Refused::Other("come back".into()));
    assert!(within("it is cut", one.request(Bytes::from_static(b"ok"), PATIENCE)).await.is_err());
    assert!(other.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

/// Replaces the roots of the node with this setup, once, as soon as somebody's handshake with it is done: after the last look at who
/// is connected, and before that connection is anywhere to be found. To be given the endpoint.
fn replaces_its_roots(cluster: &TestCluster, setup: &mut Setup) -> Arc<std::sync::Mutex<Option<Endpoint>>> {
    let (old, next) = (cluster.ca.issuer_id(), ClusterCa::create(cluster.id, SystemTime::now()).unwrap());
    let csr = setup.identity.key().csr().unwrap();
    let certificate = next.issue(&csr, &setup.identity.subject().named(), DAY, SystemTime::now()).unwrap();
    let renewed = setup.identity.renewed_under(certificate, vec![next.certificate().clone()]).unwrap();
    let (renewed, endpoint) = (Arc::new(renewed), Arc::new(std::sync::Mutex::new(None::<Endpoint>)));
    let replaced = Arc::clone(&endpoint);
    setup.admit = Box::new(move |_, _, _| {
        if let Some(endpoint) = replaced.lock().unwrap().take() {
            endpoint.set_identity(Arc::clone(&renewed)).unwrap();
            endpoint.disconnect_where(|of| of.issuer == old, &Refused::Other("its CA was replaced".into()));
        }
        Ok(())
    });
    endpoint
}

#[tokio::test]
async fn who_is_greeted_while_the_roots_are_replaced_does_not_stay_by_the_old_ones() {
    // Given a manager whose roots are replaced between a caller's handshake and its entry among those who are connected
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    let slot = replaces_its_roots(&cluster, &mut setup);
    let node = setup.start();
    *slot.lock().unwrap() = Some(node.endpoint.clone());
    // When an operator comes by the old root, then it is told, though nobody found it when the roots were replaced,
    let old = cluster.identity(9, CertRole::Operator);
    let connection = connect_as(&node, Arc::clone(&old), cluster.client_hello(9)).await.unwrap();
    let told = within("it is told", connection.closed()).await;
    assert!(matches!(&told, Down::Refused(Refused::Other(why)) if why.contains("come back")), "{told}");
    // and where it comes back, it finds that nobody trusts that root any more.
    let refused = connect_as(&node, old, cluster.client_hello(9)).await.unwrap_err();
    assert!(matches!(refused.root(), ConnectError::NotAccepted { .. } | ConnectError::Certificate { .. }), "{refused}");
}

#[tokio::test]
async fn managers_who_meet_while_the_roots_are_replaced_do_not_stay_connected_by_the_old_ones() {
    // Given two managers of which one replaces its roots while they meet: who is dialled, or who dials
    for replaces in [2, 1] {
        let cluster = TestCluster::new(1);
        let (mut one, mut two) = (Setup::new(&cluster, 1), Setup::new(&cluster, 2));
        let slot = replaces_its_roots(&cluster, if replaces == 1 { &mut one } else { &mut two });
        let (one, mut two) = (one.start(), two.start());
        let replacing = if replaces == 1 { &one } else { &two };
        *slot.lock().unwrap() = Some(replacing.endpoint.clone());
        two.endpoint.set_peers(vec![one.peer()]);
        // When they meet, then they part again, by the word of the one that has replaced them, and do not come together.
        one.endpoint.set_peers(vec![two.peer()]);
        if replaces == 2 {
            two.up(one.id).await;
            let why = two.down(one.id).await;
            assert!(matches!(why, Down::Ours(_)), "{why}");
        }
        let mut why = None;
        within("the dial is refused by certificates", async {
            while !matches!(&why, Some(ConnectError::NotAccepted { .. } | ConnectError::Certificate { .. })) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                why = one.peers.last_failure(two.id).map(|error| error.root().clone());
            }
        })
        .await;
        assert!(two.peers.connected().is_empty() && one.peers.connected().is_empty());
    }
}

#[tokio::test]
async fn who_is_removed_between_its_hello_and_its_entry_does_not_stay() {
    // Given a node that is removed as soon as a manager has let it in, once
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    let asked = std::sync::atomic::AtomicUsize::new(0);
    setup.admit = Box::new(move |_, caller, _| {
        let removed = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
        if caller.role == CertRole::Worker && removed { Err(Refused::Removed) } else { Ok(()) }
    });
    let node = setup.start();
    // When it comes, then it is told so, and stays for nothing.
    let connection = connect_as(&node, cluster.identity(9, CertRole::Worker), cluster.client_hello(9)).await.unwrap();
    assert_eq!(within("it is told", connection.closed()).await, Down::Refused(Refused::Removed));
}
