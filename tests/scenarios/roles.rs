//! Wishes of operators, from the request to the seats.

use std::future::IntoFuture as _;
use std::time::Duration;

use quorate::membership::{NodeState, Role, Rule, Seat};
use quorate::{Error, status::ClusterStatus};

use crate::support::{Cluster, eventually};

fn voters(status: &ClusterStatus) -> Vec<String> {
    status.managers.iter().filter(|manager| manager.seat == "voter").map(|manager| manager.name.clone()).collect()
}

async fn end(mut cluster: Cluster) {
    for index in cluster.running() {
        cluster.members[index].node.take().unwrap().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_voters_seat_goes_to_the_standby_and_its_raft_id_is_never_used_again() {
    let cluster = Cluster::of(4).await;
    let leader = cluster.leader().await;
    let before = cluster.settled(3).await;
    let standby = before.managers.iter().find(|manager| manager.seat == "standby").unwrap().name.clone();
    let target = voters(&before).into_iter().find(|name| *name != cluster.node(leader).name()).unwrap();
    // When a voter is demoted, without force: the standby takes its seat.
    let asked = cluster.running().into_iter().find(|index| cluster.node(*index).name() == standby).unwrap();
    let outcome = cluster.node(asked).client().nodes().demote(&target).await.unwrap();
    assert!(outcome.changed && outcome.done);
    assert_eq!((outcome.voters_before, outcome.voters, outcome.standbys), (3, 3, 0));
    assert_eq!((outcome.node.desired_role, outcome.node.observed_role), (Role::Worker, Role::Worker));
    assert_eq!((outcome.node.seat, outcome.node.raft_id), (Seat::None, 0));
    let seats = voters(&cluster.node(asked).status().await);
    assert!(seats.contains(&standby) && !seats.contains(&target), "{seats:?}");
    // Asked once more, it is a worker already.
    let again = cluster.node(asked).client().nodes().demote(&target).await.unwrap();
    assert!(!again.changed && again.done);
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_standby_two_seats_go_at_once_and_the_answer_says_so() {
    let cluster = Cluster::of(5).await;
    let leader = cluster.leader().await;
    let target = cluster.node(cluster.others(leader)[0]).name();
    let outcome = cluster.node(leader).client().nodes().demote(&target).await.unwrap();
    assert_eq!((outcome.voters_before, outcome.voters, outcome.standbys), (5, 3, 1));
    // From three and a standby one more may go; then no loss would be survived any more.
    let nodes = cluster.node(leader).client().nodes();
    let next = cluster.node(cluster.others(leader)[1]).name();
    assert_eq!(nodes.demote(&next).await.unwrap().voters, 3);
    let last = cluster.node(cluster.others(leader)[2]).name();
    let refused = nodes.demote(&last).await.unwrap_err();
    assert!(matches!(refused, Error::Membership { rule: Rule::EndsFaultTolerance, .. }), "{refused}");
    // Forced, it is done: one voter, and a standby that has everything on disk, too.
    let outcome = nodes.demote(&last).forced().await.unwrap();
    assert_eq!((outcome.done, outcome.voters), (true, 1));
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_demoted_through_a_follower_and_another_one_leads() {
    let cluster = Cluster::of(4).await;
    let leader = cluster.leader().await;
    let (name, asked) = (cluster.node(leader).name(), cluster.others(leader)[0]);
    let outcome = cluster.node(asked).client().nodes().demote(&name).await.unwrap();
    assert!(outcome.done && !outcome.node.leader);
    let status = cluster.node(asked).status().await;
    assert_eq!(status.voters, 3);
    assert!(!voters(&status).contains(&name) && status.leader.as_ref() != Some(&name), "{status:?}");
    cluster.node(asked).client().kv().put("k", "v").await.unwrap();
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_gone_is_demoted_and_removed() {
    let mut cluster = Cluster::of(4).await;
    let leader = cluster.leader().await;
    let status = cluster.settled(3).await;
    let gone = voters(&status).into_iter().find(|name| *name != cluster.node(leader).name()).unwrap();
    let index = cluster.running().into_iter().find(|index| cluster.node(*index).name() == gone).unwrap();
    cluster.kill(index).await;
    let nodes = cluster.node(leader).client().nodes();
    let outcome = nodes.demote(&gone).await.unwrap();
    assert_eq!((outcome.done, outcome.voters, outcome.node.raft_id), (true, 3, 0));
    // As a worker that never had a session it is not known to be down: it is removed by force.
    let refused = nodes.remove(&gone).await.unwrap_err();
    assert!(matches!(refused, Error::Membership { rule: Rule::NodeReady, .. }), "{refused}");
    let outcome = nodes.remove(&gone).forced().await.unwrap();
    assert!(outcome.done);
    assert!(matches!(nodes.inspect(&gone).await.unwrap_err(), Error::NotFound(_)));
    assert!(nodes.list().await.unwrap().nodes.iter().all(|node| node.name != gone));
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_down_is_removed_in_one_step() {
    let mut cluster = Cluster::of(5).await;
    let leader = cluster.leader().await;
    let target = cluster.others(leader)[0];
    let name = cluster.node(target).name();
    cluster.kill(target).await;
    let nodes = cluster.node(leader).client().nodes();
    eventually("it is seen to be down", || async {
        (nodes.inspect(&name).await.unwrap().state == NodeState::Down).then_some(())
    })
    .await;
    let outcome = nodes.remove(&name).await.unwrap();
    assert!(outcome.done && outcome.changed);
    let status = cluster.node(leader).status().await;
    assert_eq!((status.voters, status.managers.len()), (3, 4));
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_leaves_by_itself() {
    let cluster = Cluster::of(4).await;
    let leader = cluster.leader().await;
    let target = cluster.others(leader)[0];
    let name = cluster.node(target).name();
    // (Once it has left, the others do not answer it any more: then that is what the answer says.)
    let own = cluster.node(target).client().with_deadline(Duration::from_secs(2));
    let outcome = own.nodes().leave().await.unwrap();
    assert!(outcome.changed);
    let nodes = cluster.node(leader).client().nodes();
    eventually("it is gone", || async {
        let list = nodes.list().await.unwrap();
        list.nodes.iter().all(|node| node.name != name).then_some(())
    })
    .await;
    assert_eq!(cluster.node(leader).status().await.voters, 3);
    end(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_demotions_at_the_same_time_are_both_done() {
    let cluster = Cluster::of(5).await;
    let leader = cluster.leader().await;
    let [a, b] = [cluster.others(leader)[0], cluster.others(leader)[1]].map(|index| cluster.node(index).name());
    let nodes = cluster.node(leader).client().nodes();
    let (one, other) = tokio::join!(nodes.demote(&a).into_future(), nodes.demote(&b).into_future());
    assert!(one.unwrap().done && other.unwrap().done);
    let status = cluster.node(leader).status().await;
    let seats = voters(&status);
    assert_eq!(seats.len(), 3, "{seats:?}");
    assert!(!seats.contains(&a) && !seats.contains(&b), "{seats:?}");
    end(cluster).await;
}
