//! Nodes as operators see them: listed without a quorum, found by every name, wished for and refused by name.

use std::time::Duration;

use quorate::membership::{Availability, NodeState, Role, Rule, Seat};
use quorate::{Client, Error};

use crate::support::{Cluster, eventually, says};

fn rule(error: &Error) -> Option<Rule> {
    if let Error::Membership { rule, .. } = error { Some(*rule) } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_listed_by_every_manager_also_without_a_quorum() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.node(cluster.leader().await).name();
    for index in 0..3 {
        let list = cluster.node(index).client().nodes().list().await.unwrap();
        let names: Vec<_> = list.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["m1", "m2", "m3"], "by raft id");
        assert_eq!(list.answered_by, cluster.node(index).name());
        assert!(list.revision > 0);
        for node in &list.nodes {
            assert_eq!((node.state, node.seat), (NodeState::Ready, Seat::Voter), "{node:?}");
            assert_eq!((node.desired_role, node.observed_role), (Role::Manager, Role::Manager));
            assert_eq!((node.availability, node.leader), (Availability::Active, node.name == leader));
            assert!(node.address.starts_with("127.0.0.1:") && node.version.starts_with("quorate "), "{node:?}");
        }
    }
    // When two are killed, the third still answers, and says how old that is.
    let left = cluster.others(cluster.leader().await)[0];
    for index in cluster.others(left) {
        cluster.kill(index).await;
    }
    let nodes = cluster.node(left).client().nodes();
    let list = eventually("the others are seen to be down", || async {
        let list = nodes.list().await.unwrap();
        let down = list.nodes.iter().filter(|node| node.state == NodeState::Down).count();
        (down == 2 && list.age_ms > 0).then_some(list)
    })
    .await;
    assert!(list.nodes.iter().all(|node| node.seat == Seat::Voter && node.outlook.is_none()));
    // What needs the leader says so.
    let hurried = cluster.node(left).client().with_deadline(Duration::from_secs(2)).nodes();
    let refused = hurried.inspect("m1").await.unwrap_err();
    assert!(matches!(refused, Error::QuorumLost { .. } | Error::NoLeader(_)), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_found_by_name_by_id_by_its_beginning_and_by_raft_id() {
    let mut cluster = Cluster::founded().await;
    cluster.join().await;
    let nodes = cluster.node(1).client().nodes();
    let second = eventually("the second is known", || async { nodes.inspect("m2").await.ok() }).await;
    assert_eq!((second.raft_id, second.id.len()), (2, 26));
    for wanted in ["2", &second.id, &second.id[..10]] {
        assert_eq!(nodes.inspect(wanted).await.unwrap().name, "m2", "{wanted}");
    }
    let refused = nodes.inspect("m3").await.unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused}");
    says(&refused, &["m3", "quorate node ls"]);
    assert!(matches!(nodes.inspect("").await.unwrap_err(), Error::Invalid(_)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_and_availability_are_changed_through_any_manager_and_seen_by_all() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let outside = cluster.outside(&[follower]).await;
    let done =
        outside.nodes().update("m2").label("zone", "b").label("rack", "7").availability(Availability::Drain).await;
    let done = done.unwrap();
    assert!(done.changed && done.done);
    assert_eq!(done.node.labels.get("zone").map(String::as_str), Some("b"));
    // The same once more changes nothing.
    assert!(!outside.nodes().update("m2").label("zone", "b").await.unwrap().changed);
    let done = outside.nodes().update("2").remove_label("rack").label("quorate.manager", "yes").await.unwrap();
    for index in 0..3 {
        let nodes = cluster.node(index).client().nodes();
        let seen = eventually("everybody sees it", || async {
            let list = nodes.list().await.unwrap();
            let node = list.nodes.into_iter().find(|node| node.name == "m2").unwrap();
            (node.labels == done.node.labels).then_some(node)
        })
        .await;
        assert_eq!(seen.availability, Availability::Drain);
        assert_eq!(seen.labels.len(), 2);
    }
    // Refused, and the label is named.
    let refused = outside.nodes().update("m2").label("quorate.version", "9").await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::ReservedLabel));
    says(&refused, &["quorate.manager=yes", "Nothing was changed"]);
    assert!(matches!(outside.nodes().update("m2").label("a b", "c").await.unwrap_err(), Error::Invalid(_)));
    // A drained manager may lead.
    let leads =
        eventually("leadership goes there", || async { outside.nodes().transfer_leadership("m2").await.ok() }).await;
    assert_eq!(leads, "m2");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_one_node_at_the_same_time_all_count() {
    let cluster = Cluster::of(3).await;
    let mut changes = Vec::new();
    for number in 0..12_usize {
        let nodes = cluster.node(number % 3).client().nodes();
        changes.push(tokio::spawn(async move { nodes.update("m3").label(format!("k{number}"), "v").await.unwrap() }));
    }
    for change in changes {
        assert!(change.await.unwrap().changed);
    }
    let node = cluster.any().client().nodes().inspect("m3").await.unwrap();
    assert_eq!(node.labels.len(), 12);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_is_held_from_being_replaced_for_a_time() {
    let cluster = Cluster::founded().await;
    let nodes = cluster.any().client().nodes();
    let held = nodes.update("m1").pause_replacement(Duration::from_secs(900)).await.unwrap();
    assert_eq!((held.changed, held.node.replacement_paused_ms), (true, 900_000));
    assert_eq!(nodes.inspect("m1").await.unwrap().replacement_paused_ms, 900_000);
    let refused = nodes.update("m1").pause_replacement(Duration::from_secs(25 * 3_600)).await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::TimesDoNotFit));
    let over = nodes.update("m1").pause_replacement(Duration::ZERO).await.unwrap();
    assert_eq!((over.changed, over.node.replacement_paused_ms), (true, 0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_answers_with_what_was_decided_about_the_seat() {
    let mut cluster = Cluster::founded().await;
    cluster.join().await;
    // A lone second stands by, and waits for a third: that is an answer, not something to wait for.
    let outcome = cluster.any().client().nodes().promote("m2").await.unwrap();
    assert_eq!((outcome.changed, outcome.done, outcome.node.seat), (false, true, Seat::Standby));
    assert_eq!((outcome.voters, outcome.standbys), (1, 1));
    says(outcome.node.outlook.as_ref().unwrap(), &["standby until one more manager joins"]);
    // The third and it get their seats together; asked through a manager that does not lead.
    cluster.join().await;
    let outcome = cluster.node(2).client().nodes().promote("m3").await.unwrap();
    assert_eq!((outcome.done, outcome.node.seat, outcome.voters), (true, Seat::Voter, 3));
    // All seats that are allowed are taken.
    cluster.any().client().policy().set().max_voters(3).await.unwrap();
    cluster.join().await;
    let outcome = cluster.node(1).client().nodes().promote("m4").await.unwrap();
    assert_eq!((outcome.done, outcome.node.seat, outcome.voters, outcome.standbys), (true, Seat::Standby, 3, 1));
    says(outcome.node.outlook.as_ref().unwrap(), &["all 3 seats are taken"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_takes_too_long_is_recorded_and_says_so() {
    let mut cluster = Cluster::founded().await;
    let second = cluster.join().await;
    cluster.any().client().nodes().promote("m2").await.unwrap();
    cluster.kill(second).await;
    // Given a manager that is gone, nothing can be said about its seat within the time.
    let nodes = cluster.any().client().nodes();
    eventually("it is seen to be gone", || async {
        (nodes.inspect("m2").await.unwrap().state == NodeState::Down).then_some(())
    })
    .await;
    let late = nodes.promote("m2").within(Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(late, Error::Unknown(_)), "{late}");
    says(&late, &["promotion of m2", "recorded", "quorate node inspect m2"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_end_the_cluster_is_refused_by_name_and_force_lifts_one_refusal_only() {
    let mut cluster = Cluster::founded().await;
    let nodes = cluster.any().client().nodes();
    // The last voter, forced or not, demoted or removed or by itself.
    for change in [
        nodes.demote("m1"),
        nodes.demote("m1").forced(),
        nodes.remove("m1").forced(),
        nodes.leave(),
        nodes.leave().forced(),
    ] {
        let refused = change.await.unwrap_err();
        assert_eq!(rule(&refused), Some(Rule::LastVoter), "{refused}");
        says(&refused, &["Nothing was changed", "promote another manager"]);
    }
    let first = nodes.inspect("m1").await.unwrap();
    assert_eq!((first.desired_role, first.removing), (Role::Manager, false));
    // From three to one no loss would be survived; asked through a manager that does not lead.
    cluster.join().await;
    cluster.join().await;
    cluster.settled(3).await;
    let leader = cluster.leader().await;
    let (follower, other) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let (asked, target) = (cluster.node(follower).client().nodes(), cluster.node(other).name());
    let refused = asked.demote(&target).await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::EndsFaultTolerance), "{refused}");
    says(&refused, &["1 of 3 voters", "--force", "quorate.manager=yes"]);
    let outcome = asked.demote(&target).forced().detached().await.unwrap();
    assert_eq!((outcome.changed, outcome.done, outcome.node.desired_role), (true, false, Role::Worker));
    assert_eq!(outcome.voters_before, 3);
    assert!(!outcome.node.settled || outcome.node.observed_role == Role::Worker);
    // Asked once more, it is as wished already.
    let again = asked.demote(&target).forced().detached().await.unwrap();
    assert!(!again.changed);
    for index in cluster.running() {
        let _ = cluster.members[index].node.take().unwrap().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_down_is_removed_without_force() {
    let mut cluster = Cluster::of(4).await;
    let nodes = cluster.any().client().nodes();
    let list = nodes.list().await.unwrap();
    let standby = list.nodes.iter().find(|node| node.seat == Seat::Standby).unwrap().clone();
    let refused = nodes.remove(&standby.name).await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::NodeReady), "{refused}");
    says(&refused, &[&standby.name, "is ready", "--force", "quorate leave", "Nothing was changed"]);
    // When it is gone, its removal is recorded, and no other wish but a promotion stands against it.
    let index = cluster.running().into_iter().find(|index| cluster.node(*index).name() == standby.name).unwrap();
    cluster.kill(index).await;
    let nodes = cluster.any().client().nodes();
    let outcome =
        eventually("it is seen to be down", || async { nodes.remove(&standby.name).detached().await.ok() }).await;
    assert!(outcome.changed);
    // (It may be gone by now: then there is nobody to demote.)
    let refused = nodes.demote(&standby.id).await.unwrap_err();
    assert!(rule(&refused) == Some(Rule::BeingRemoved) || matches!(refused, Error::NotFound(_)), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_leaves_by_itself_and_nobody_else_makes_it() {
    let cluster = Cluster::of(4).await;
    let list = cluster.any().client().nodes().list().await.unwrap();
    let standby = list.nodes.iter().find(|node| node.seat == Seat::Standby).unwrap().clone();
    let index = cluster.running().into_iter().find(|index| cluster.node(*index).name() == standby.name).unwrap();
    // Over QUIC an operator cannot mean "you": the client may be connected to anybody.
    let refused = cluster.outside(&[index]).await.nodes().leave().await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    assert!(!cluster.any().client().nodes().inspect(&standby.id).await.unwrap().removing);
    // By its own process it is the node itself, and being ready is no obstacle.
    let outcome = cluster.node(index).client().nodes().leave().await.unwrap();
    assert_eq!((&outcome.node.id, outcome.changed, outcome.done), (&standby.id, true, true));
    // It was the only standby: what the cluster bears without it is said.
    assert_eq!(outcome.warnings.len(), 1, "{outcome:?}");
    says(&outcome.warnings[0], &["no standby is left", "3 voters", "the loss of 1 at once"]);
    for index in cluster.running() {
        cluster.node(index).shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_own_certificate_shows_it_itself_and_nothing_else() {
    let cluster = Cluster::of(3).await;
    let own = quorate::testing::node_identity(&cluster.members[1].directory, &quorate::keys::Keys::default());
    let identity = own.unwrap();
    let client = Client::connect(cluster.addresses(), identity).await.unwrap();
    let itself = client.nodes().inspect("m2").await.unwrap();
    assert_eq!(client.nodes().inspect(&itself.id).await.unwrap().name, "m2");
    for refused in [
        client.nodes().inspect("m1").await.map(drop),
        client.nodes().inspect("nobody").await.map(drop),
        client.nodes().list().await.map(drop),
        client.nodes().promote("m1").await.map(drop),
        client.nodes().remove("m1").forced().detached().await.map(drop),
        client.nodes().update("m1").label("a", "b").await.map(drop),
        client.tokens().list().await.map(drop),
        client.tokens().rotate(Role::Manager).await.map(drop),
        client.policy().set().max_voters(3).await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Denied(_)), "{refused}");
    }
    cluster.stop().await;
}
