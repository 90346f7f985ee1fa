//! The cluster's CA: replaced while everything goes on, with nodes away, over the death of leaders, and refused requests to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::membership::{CaInfo, Role};
use quorate::{Client, Identity, Start, StartError};

use crate::support::{Cluster, eventually, says};

fn held(directory: &Path) -> Identity {
    Identity::load(&directory.join("node.id")).expect("an identity")
}

/// The roots that an identity trusts, and cross certificates, counted.
fn authorities(identity: &Identity) -> usize {
    identity.authorities().count()
}

async fn status(cluster: &Cluster) -> CaInfo {
    cluster.any().client().ca().status().await.unwrap()
}

async fn ended(cluster: &Cluster) -> CaInfo {
    let until = tokio::time::Instant::now() + crate::support::BUDGET;
    loop {
        let info = status(cluster).await;
        if !info.rotating {
            return info;
        }
        assert!(tokio::time::Instant::now() < until, "the rotation does not end: {info:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The operator that founding made is used by nobody here: it would be waited for.
async fn without_the_first_operator(cluster: &Cluster) {
    cluster.any().client().operators().revoke("operator").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_is_replaced_while_everything_goes_on_and_ends_when_all_have_renewed() {
    // Given three managers, two workers, an operator, and somebody who writes all the time.
    let cluster = Cluster::of(3).await;
    let workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    let file = cluster.members[0].directory.join("operator.id");
    let before = Identity::load(&file).unwrap();
    let old_token = cluster.token().await;
    let (stop, client) = (Arc::new(AtomicBool::new(false)), cluster.any().client());
    let stopped = Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        let mut count = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            client.kv().put("count", count.to_string()).await.expect("it is written whatever becomes of the CA");
            count += 1;
        }
        count
    });
    // When the CA is replaced
    let first = status(&cluster).await;
    assert!(!first.rotating && first.serial == 0 && first.trusted == [first.root.clone()]);
    let begun = cluster.any().client().ca().rotate(Duration::from_secs(3_600)).await.unwrap();
    assert!(begun.rotating && begun.root != first.root && begun.serial == 1, "{begun:?}");
    assert_eq!((begun.all, begun.trusted.len()), (6, 2));
    // Then all nodes renew by themselves, and the operator, who has not come by, is waited for.
    let waiting = eventually("only the operator is waited for", || async {
        let info = status(&cluster).await;
        (info.renewed == 5).then_some(info)
    })
    .await;
    assert_eq!(waiting.waits_for.iter().map(|waits| waits.kind.as_str()).collect::<Vec<_>>(), ["operator"]);
    // Tokens of both roots let nodes in meanwhile.
    let new_token = cluster.token().await;
    assert_ne!(old_token, new_token);
    let address = vec![cluster.any().address().to_string()];
    for (name, token) in [("old", &old_token), ("new", &new_token)] {
        let directory = cluster.path(name);
        cluster.builder(&directory, name).join(token, address.clone()).await.unwrap();
        assert_eq!(authorities(&held(&directory)), 3, "both roots, and the way from one to the other");
        cluster.any().client().nodes().remove(name).forced().await.unwrap();
    }
    // When the operator comes by with the certificate of the old root, it is given one of the new,
    let operator = Client::connect(address.clone(), cluster.operator()).await.unwrap();
    let renewed = operator.identity().unwrap();
    assert_ne!(renewed.subject().issuer, before.subject().issuer);
    renewed.write(&file).unwrap();
    // and it is over: nothing of the old root is trusted any more, anywhere.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted), (1, vec![over.root.clone()]));
    let directories: Vec<_> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    for directory in directories.iter().chain(&[cluster.path("w1"), cluster.path("w2")]) {
        eventually("only the new root is trusted", || async {
            let held = held(directory);
            (authorities(&held) == 1 && held.subject().issuer != before.subject().issuer).then_some(())
        })
        .await;
    }
    let late = Client::connect(address.clone(), before).await.unwrap_err();
    says(&late, &["CA"]);
    let refused = cluster.builder(&cluster.path("late"), "late").join(&old_token, address.clone()).await.unwrap_err();
    says(&refused, &["CA"]);
    cluster.builder(&cluster.path("in-time"), "in-time").join(&new_token, address).await.unwrap();
    // And all the while everybody was there.
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0);
    cluster.outside(&[0, 1, 2]).await.kv().put("k", "v").await.unwrap();
    for name in ["w1", "w2"] {
        cluster.sees_worker(name, "ready").await;
    }
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_back_in_time_renews_and_one_that_is_not_joins_anew() {
    // Given a manager and two workers that are off
    let mut cluster = Cluster::of(3).await;
    let workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    for worker in workers {
        worker.shutdown().await;
    }
    without_the_first_operator(&cluster).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    cluster.kill(away).await;
    // When the CA is replaced meanwhile
    cluster.any().client().ca().rotate(Duration::from_secs(3_600)).await.unwrap();
    eventually("those who are there have renewed", || async { (status(&cluster).await.renewed == 2).then_some(()) })
        .await;
    // Then whoever comes back finds the way, and renews: the manager, and a worker,
    cluster.restart(away).await;
    let back = cluster.worker_again("w1").await;
    back.ready().await.unwrap();
    let waiting = eventually("one is waited for", || async {
        let info = status(&cluster).await;
        (info.waits_for.len() == 1).then_some(info)
    })
    .await;
    assert_eq!(waiting.waits_for[0].name, "w2");
    // and the leader may die, and all managers at once: the next one goes on where it was.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    cluster.restart(leader).await;
    cluster.settled(3).await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        let node = cluster.builder_of_as_recorded(index).start(Start::Open).await.unwrap();
        cluster.members[index].node = Some(node);
    }
    cluster.settled(3).await;
    assert!(status(&cluster).await.rotating);
    // When its deadline comes without the other one (another rotation within this one brings one that is near)
    cluster.any().client().ca().rotate(Duration::from_secs(4)).await.unwrap();
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (2, 1));
    // Then that one is not taken any more
    let late = cluster.worker_again("w2").await;
    let trouble = eventually("it has no session, and says why", || async {
        let report = late.report_of_itself();
        report.trouble.contains("CA").then_some(report.trouble)
    })
    .await;
    assert!(!trouble.is_empty());
    late.shutdown().await;
    // until it joins anew.
    let token = cluster.any().client().tokens().show(Role::Worker).await.unwrap();
    let again = cluster.path("w2-again");
    let start = Start::OpenOrJoin { token, managers: cluster.addresses() };
    let again = cluster.builder(&again, "w2-again").start(start).await.unwrap();
    again.ready().await.unwrap();
    // The one that was in time is there.
    cluster.sees_worker("w1", "ready").await;
    again.shutdown().await;
    back.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_makes_no_sense_and_rotations_without_an_end_are_refused() {
    let cluster = Cluster::founded().await;
    let ca = cluster.any().client().ca();
    says(&ca.rotate(Duration::ZERO).await.unwrap_err(), &["1 s", "Nothing was changed"]);
    assert_eq!(status(&cluster).await.serial, 0);
    for serial in 1..=4 {
        assert_eq!(ca.rotate(Duration::from_secs(3_600)).await.unwrap().serial, serial);
    }
    says(&ca.rotate(Duration::from_secs(3_600)).await.unwrap_err(), &["within each other", "ca status"]);
    // All of it ends with the last one, once the operator has come by.
    cluster.outside(&[0]).await;
    assert_eq!(ended(&cluster).await.trusted.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_token_of_a_role_that_was_rotated_lets_nobody_in_again() {
    // Given a worker that has joined with a token for one
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let made = tokens.create(Role::Worker).await.unwrap();
    let managers = cluster.addresses();
    let join = |name: &'static str| cluster.builder(&cluster.path(name), name).join(&made.token, managers.clone());
    join("w1").await.unwrap();
    // When somebody comes with the same token, it is used up.
    let refused = join("w2").await.unwrap_err();
    assert!(matches!(refused, StartError::Refused(_)), "{refused}");
    says(&refused, &["used up"]);
    // A standing one that was rotated is worth nothing, in whatever case it is written.
    let old = tokens.show(Role::Worker).await.unwrap();
    tokens.rotate(Role::Worker).await.unwrap();
    let refused = cluster.builder(&cluster.path("w3"), "w3").join(&old, managers.clone()).await.unwrap_err();
    says(&refused, &["rotated"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_other_hands_is_thrown_out_with_everything_that_it_knew() {
    // Given three managers and two workers, and somebody who has copied the identity of one
    let cluster = Cluster::of(3).await;
    let (taken, safe) = (cluster.worker("w1").await, cluster.worker("w2").await);
    without_the_first_operator(&cluster).await;
    let client = cluster.any().client();
    let tokens = [
        client.tokens().show(Role::Worker).await.unwrap(),
        cluster.token().await,
        client.tokens().create(Role::Worker).uses(0).await.unwrap().token,
    ];
    let stolen = held(&cluster.path("w1"));
    // When the worker is thrown out, though it is there
    let gone = client.nodes().remove_compromised("w1", Duration::from_secs(3_600)).await.unwrap();
    assert!(gone.done, "{gone:?}");
    // Then neither it nor who has copied it gets in,
    assert_eq!(taken.stopped().await, quorate::StopReason::Removed);
    let address = cluster.any().address().to_string();
    Client::connect([address.clone()], stolen).await.unwrap_err();
    // no token that there was lets anybody in,
    for token in &tokens {
        cluster.builder(&cluster.path("x"), "x").join(token, vec![address.clone()]).await.unwrap_err();
    }
    // and the root is another one, which everybody else has come to.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    cluster.sees_worker("w2", "ready").await;
    client.kv().put("k", "v").await.unwrap();
    let token = client.tokens().show(Role::Worker).await.unwrap();
    cluster.builder(&cluster.path("w3"), "w3").join(&token, vec![address]).await.unwrap();
    safe.shutdown().await;
    cluster.stop().await;
}
