//! Who was removed: what it had ends, and it gets nothing new.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate::{Client, Error, Identity};
use quorate_core::id::RaftId;
use quorate_transport::api::{self, request::Kind};
use quorate_transport::{ConnectError, Down, IdentityFile, Refused};

use crate::doors::{Door, client, knock, peer, verdict};
use crate::support::{Cluster, eventually, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_and_an_operator_of_another_cluster_get_no_connection() {
    let cluster = Cluster::founded().await;
    let other = Cluster::founded().await;
    let address = cluster.any().address().to_string();
    // An operator of another cluster is told so,
    let refused = Client::connect([address.clone()], other.operator()).await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    // and a node that was removed.
    let worker = cluster.worker("w1").await;
    let identity = Identity::load(&cluster.path("w1").join("node.id")).unwrap();
    assert!(client(Identity::load(&cluster.path("w1").join("node.id")).unwrap(), &address).await.is_ok());
    cluster.any().client().nodes().remove("w1").forced().await.unwrap();
    eventually("it is gone", || async {
        let gone = client(Identity::load(&cluster.path("w1").join("node.id")).ok()?, &address).await.err()?;
        says(&gone, &["no such member"]);
        Some(())
    })
    .await;
    drop(identity);
    worker.stopped().await;
    other.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_worker_loses_the_connections_that_it_has() {
    // Given a worker, and somebody who has connected with its identity to each of the managers
    let cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    let identity = || Identity::load(&cluster.path("w1").join("node.id")).unwrap();
    let mut held = Vec::new();
    for index in 0..3 {
        let connection = client(identity(), &cluster.node(index).address().to_string()).await.unwrap();
        // An answer shows that it was taken in.
        assert_eq!(verdict(&Door::Client(connection.clone()).ask(Kind::Status(api::Status {})).await), 'y');
        held.push(connection);
    }
    // and an operator, whom it does not concern
    let operator = client(cluster.operator(), &cluster.node(0).address().to_string()).await.unwrap();
    // When the worker is removed
    cluster.any().client().nodes().remove("w1").forced().await.unwrap();
    // Then each of them is cut, and says why.
    for connection in held {
        let why = tokio::time::timeout(crate::support::BUDGET, connection.closed()).await.expect("it is cut");
        assert_eq!(why, Down::Refused(Refused::Removed));
    }
    assert_eq!(verdict(&Door::Client(operator).ask(Kind::Status(api::Status {})).await), 'y');
    worker.stopped().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_manager_speaks_for_nobody_and_gets_in_under_no_raft_id() {
    // Given the identity of a manager, which may pass on what an operator asks,
    let mut cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let address = cluster.node(0).address().to_string();
    cluster.kill(2).await;
    let directory = cluster.members[2].directory.clone();
    let operator = Bytes::copy_from_slice(cluster.operator().subject().node_id.as_bytes());
    let inner = api::Request { deadline_ms: 5_000, kind: Some(Kind::TokenList(api::TokenList {})) };
    let passed = || {
        let behalf = api::Behalf { role: "operator".into(), id: operator.clone(), of: "token_list".into() };
        Kind::PassedOn(api::PassedOn { behalf: Some(behalf), request: inner.encode_to_vec().into() })
    };
    let door = Door::Peer(peer(&directory, &address).await, RaftId(1));
    assert_eq!(verdict(&door.ask(passed()).await), 'y');
    // when that manager is removed
    cluster.any().client().nodes().remove("m3").forced().await.unwrap();
    // then nothing of it is taken on the connection that it had,
    let denied = || async { door.try_ask(passed()).await.is_none_or(|answer| verdict(&answer) == '.').then_some(()) };
    eventually("its record is gone", denied).await;
    // and no other one is accepted: not under a raft id that is still to be given to somebody, nor under its old one.
    let own = quorate::inspect(&directory).unwrap().raft_id;
    for raft_id in [u64::MAX, 4, own] {
        let endpoint = knock(&directory, &address, RaftId(raft_id));
        let refused = || async { endpoint.peers().last_failure(RaftId(1)) };
        let why = eventually("it is refused", refused).await;
        // (One that came back with a token may be told so by a member that lags: it is to try again, not to give up.)
        let expected = if raft_id == own { Refused::Removed } else { Refused::NotAMember };
        assert!(matches!(&why, ConnectError::Refused { refused, .. } if *refused == expected), "as {raft_id}: {why:?}");
        assert!(endpoint.peers().connected().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_demoted_before_it_was_removed_gets_in_under_no_raft_id_either() {
    // Given the identity of a manager that was demoted first, so that its record named no raft id when it was removed
    let mut cluster = Cluster::of(4).await;
    let address = cluster.node(0).address().to_string();
    cluster.kill(3).await;
    let directory = cluster.members[3].directory.clone();
    let nodes = cluster.any().client().nodes();
    nodes.demote("m4").await.unwrap();
    nodes.remove("m4").forced().await.unwrap();
    // when it calls a manager under a raft id that nobody has had yet, then it is refused: nobody who is known vouches for it.
    for raft_id in [u64::MAX, 9] {
        let endpoint = knock(&directory, &address, RaftId(raft_id));
        let why = eventually("it is refused", || async { endpoint.peers().last_failure(RaftId(1)) }).await;
        assert!(matches!(why, ConnectError::Refused { refused: Refused::NotAMember, .. }), "as {raft_id}: {why:?}");
        assert!(endpoint.peers().connected().is_empty());
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_voters_of_which_one_has_missed_that_the_other_came_back_are_a_majority() {
    // Given three voters and a standby, of which m3 is off for a while
    let mut cluster = Cluster::of(3).await;
    cluster.join().await;
    cluster.settled(3).await;
    cluster.lead_by(0).await;
    let nodes = cluster.node(0).client().nodes();
    nodes.update("m3").pause_replacement(Duration::from_secs(3_600)).await.unwrap();
    cluster.kill(2).await;
    // and m2 goes on as a worker, then as a manager again with a raft id that m3 has never heard of, in the place of m4
    eventually("m4 takes the seat of m2", || async { nodes.demote("m2").await.ok() }).await;
    nodes.promote("m2").await.unwrap();
    eventually("m2 takes the seat of m4", || async { nodes.demote("m4").await.ok() }).await;
    let seated = || async {
        let status = cluster.node(0).client().status().await.ok()?;
        let own = status.managers.iter().find(|manager| manager.name == "m2")?;
        (own.seat == "voter" && status.voters == 3).then_some(())
    };
    eventually("m2 has a seat again", seated).await;
    // When the one that could tell m3 is gone for good
    cluster.kill(3).await;
    cluster.kill(0).await;
    cluster.restart(2).await;
    // Then the certificate of m2 is word enough, and the two go on.
    let client = cluster.node(1).client();
    eventually("a write", || async { client.kv().put("k", "v").await.ok() }).await;
    assert_eq!(cluster.node(2).client().kv().get("k").await.unwrap().unwrap().value, "v");
    let enrolled = |index: usize| {
        let file = IdentityFile::load(&cluster.members[index].directory.join("node.id")).unwrap();
        file.shown.subject().enrolled.map(|enrolled| enrolled.raft_id)
    };
    assert_eq!((enrolled(2), enrolled(1)), (Some(RaftId(3)), Some(RaftId(5))));
    cluster.stop().await;
}
