//! What two ends must have in common.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{Lineage, RaftId};
use quorate_transport::*;
use support::*;

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
async fn a_worker_that_claims_a_raft_id_has_none() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.admit = Box::new(|_, caller, hello| {
        assert_eq!(hello.raft_id, RaftId(3));
        assert_eq!(caller.raft_id, (caller.role == CertRole::Manager).then_some(RaftId(3)));
        Ok(())
    });
    let mut node = setup.start();
    for role in [CertRole::Worker, CertRole::Operator, CertRole::Manager] {
        let hello = Hello { raft_id: RaftId(3), ..cluster.client_hello(9) };
        let connection = connect_as(&node, cluster.identity(9, role), hello).await.unwrap();
        let asking = connection.request(Bytes::from_static(b"hold"), PATIENCE);
        let (_, caller) = within("the request", async {
            tokio::join!(asking, async {
                let (caller, _, reply) = node.held_request().await;
                drop(reply);
                caller
            })
        })
        .await;
        assert_eq!(caller.raft_id, (role == CertRole::Manager).then_some(RaftId(3)));
    }
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

#[tokio::test]
async fn a_locked_peer_says_so_whatever_the_lineages_are() {
    // It does not know its own: that is in what is locked.
    let (refused, dialler, _) = refused_peers(|setup| {
        (setup.hello.lineage, setup.hello.raft_id) = (Lineage::default(), RaftId(0));
        setup.admit = Box::new(|_, _, _| Err(Refused::Locked));
    })
    .await;
    assert_eq!(refused, Refused::Locked);
    assert!(!dialler.iter().any(|event| matches!(event, Event::Newer(_))));
}
