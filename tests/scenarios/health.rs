//! Whether a node can serve, by its own word: it says no when it cannot, and why; and it says that it lives all the while.

use std::time::Duration;

use quorate::Node;
use quorate::status::Readiness;

use crate::stalls::Hanging;
use crate::support::{Cluster, eventually, says};

/// The names of the checks that do not hold.
fn failing(readiness: &Readiness) -> Vec<&str> {
    readiness.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect()
}

fn detail<'a>(readiness: &'a Readiness, name: &str) -> &'a str {
    &readiness.checks.iter().find(|check| check.name == name).unwrap().detail
}

/// Waits until the node is not ready for (at least) this reason; it lives all the while.
async fn not_ready_for(node: &Node, name: &str) -> Readiness {
    eventually(&format!("not ready: {name}"), || async {
        assert!(node.liveness().alive, "{:?}", node.liveness());
        let readiness = node.readiness();
        assert_eq!(readiness.ready, failing(&readiness).is_empty());
        failing(&readiness).contains(&name).then_some(readiness)
    })
    .await
}

async fn ready_again(node: &Node) {
    eventually("ready", || async { node.readiness().ready.then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_without_a_quorum_is_not_ready_and_lives() {
    // Given three managers, all ready
    let mut cluster = Cluster::of(3).await;
    for index in [0, 1, 2] {
        ready_again(cluster.node(index)).await;
    }
    // When two are gone
    cluster.kill(1).await;
    cluster.kill(2).await;
    // Then the third is not ready, says what is missing, and lives
    let readiness = not_ready_for(cluster.node(0), "leader").await;
    says(&detail(&readiness, "leader"), &["no leader for"]);
    let readiness = not_ready_for(cluster.node(0), "quorum").await;
    says(&detail(&readiness, "quorum"), &["1 of 3 voters connected, 2 needed"]);
    let readiness = not_ready_for(cluster.node(0), "state").await;
    says(&detail(&readiness, "state"), &["at most", "old", "more than 2s"]);
    // When one comes back, then it is ready without a restart of its own
    cluster.restart(1).await;
    ready_again(cluster.node(0)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_whose_disk_is_frozen_is_not_ready_and_lives() {
    // Given a follower on a disk that can freeze
    let mut cluster = Cluster::of(3).await;
    let (disk, frozen) = (Hanging::default(), 2);
    cluster.restart_as(frozen, |builder| builder.store_probe(disk.probe())).await;
    cluster.settled(3).await;
    cluster.lead_by(0).await;
    ready_again(cluster.node(frozen)).await;
    // When it does, and nobody writes anything
    disk.hold(true);
    // Then it is not ready, says that it is the disk, and lives; the others are ready
    let readiness = not_ready_for(cluster.node(frozen), "disk").await;
    says(&detail(&readiness, "disk"), &["has not answered for"]);
    ready_again(cluster.node(0)).await;
    ready_again(cluster.node(1)).await;
    // and what is written meanwhile is done by them. When the disk answers again, it is ready, too
    cluster.node(0).client().kv().put("k", "v").await.unwrap();
    disk.hold(false);
    ready_again(cluster.node(frozen)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_freezes_while_nobody_writes_hands_leadership_on() {
    // Given a leader on a disk that can freeze, and nothing to be written
    let mut cluster = Cluster::of(3).await;
    let (disk, frozen) = (Hanging::default(), 2);
    cluster.restart_as(frozen, |builder| builder.store_probe(disk.probe())).await;
    cluster.settled(3).await;
    cluster.lead_by(frozen).await;
    let name = cluster.node(frozen).name();
    // When it does
    disk.hold(true);
    // Then another one leads, before anybody's write had to wait for it
    eventually("another one leads", || async {
        let leader = cluster.node(0).status().await.leader;
        leader.is_some_and(|leader| leader != name).then_some(())
    })
    .await;
    not_ready_for(cluster.node(frozen), "disk").await;
    disk.hold(false);
    ready_again(cluster.node(frozen)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lags_is_not_ready_and_lives() {
    // Given a standby whose disk is slow beyond measure, and a judgement of disks that is far away
    let mut cluster = Cluster::of(2).await;
    let (disk, slow) = (Hanging::default(), 1);
    cluster.lead_by(0).await;
    let unjudged = Duration::from_secs(3_600);
    cluster.restart_as(slow, |builder| builder.store_probe(disk.probe()).disk_patience(unjudged)).await;
    ready_again(cluster.node(slow)).await;
    // When it no longer follows what is written
    disk.hold(true);
    let client = cluster.node(0).client();
    for n in 0..10 {
        client.kv().put("k", format!("{n}")).await.unwrap();
    }
    // Then it is not ready for the age of its state, knows a leader, and lives
    let readiness = not_ready_for(cluster.node(slow), "state").await;
    assert_eq!(failing(&readiness), ["state"]);
    says(&detail(&readiness, "state"), &["more than 2s", "committed entries are not applied here"]);
    // When it has caught up, it is ready
    disk.hold(false);
    ready_again(cluster.node(slow)).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_ready_while_it_has_a_session_and_its_assignments_are_confirmed() {
    // Given a worker that runs
    let mut cluster = Cluster::of(1).await;
    let worker = cluster.worker("w1").await;
    ready_again(&worker).await;
    assert_eq!(worker.shutdown().await, quorate::StopReason::Asked);
    assert!(!worker.liveness().alive);
    // When it comes up while no manager does
    cluster.kill(0).await;
    let worker = cluster.worker_again("w1").await;
    // Then it is not ready, and lives
    let readiness = not_ready_for(&worker, "session").await;
    assert_eq!(failing(&readiness), ["session", "assignments"]);
    cluster.restart(0).await;
    ready_again(&worker).await;
    assert_eq!(worker.shutdown().await, quorate::StopReason::Asked);
    cluster.stop().await;
}
