//! Joining, seats, transfer.

use quorate::status::Health;

use crate::support::{Cluster, eventually, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_stay_odd_while_managers_join() {
    // Given one manager.
    let mut cluster = Cluster::founded().await;
    cluster.settled(1).await;
    // When a second joins, it stays a standby.
    cluster.join().await;
    eventually("the second is a standby", || async {
        let status = cluster.any().status().await;
        (status.managers.len() == 2 && status.managers.iter().any(|m| m.seat == "standby")).then_some(())
    })
    .await;
    assert_eq!(cluster.any().status().await.voters, 1);
    // When a third joins, both get their seats in one change; and so on.
    cluster.join().await;
    cluster.settled(3).await;
    cluster.join().await;
    cluster.join().await;
    let status = cluster.settled(5).await;
    assert_eq!(status.fault_tolerance, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let name = cluster.node(target).name();
    // When a manager that does not lead is asked to hand it over.
    let asked = cluster.outside(&[target]).await;
    // (Members that have just started take no part in an election for one base election timeout: then it is asked again.)
    let leads =
        eventually("leadership goes where it is sent", || async { asked.transfer_leadership(Some(&name)).await.ok() })
            .await;
    // Then that one leads, and says so.
    assert_eq!(leads, name);
    assert_eq!(cluster.leader().await, target);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_catches_up_by_snapshot() {
    // Given a small log window and a member that is away.
    let mut cluster = Cluster::grown(3, 32).await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.kill(away).await;
    let kv = cluster.any().client().kv();
    for number in 0..400 {
        kv.put(format!("n/{number}"), vec![b'x'; 512]).await.unwrap();
    }
    // When it comes back, it gets a snapshot, and then the same state.
    cluster.restart(away).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    let status = cluster.any().status().await;
    assert!(status.managers.iter().map(|manager| manager.snapshots.sent).sum::<u64>() > 0);
    let name = cluster.node(away).name();
    let back = status.managers.iter().find(|manager| manager.name == name).unwrap();
    assert!(back.snapshots.installed > 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_with_a_damaged_store_comes_back_under_a_new_raft_id() {
    // Given three managers, one of which stops and has its journal damaged in the middle.
    let mut cluster = Cluster::of(3).await;
    let kv = cluster.any().client().kv();
    for number in 0..50 {
        kv.put(format!("n/{number}"), vec![b'x'; 256]).await.unwrap();
    }
    let hurt = (cluster.leader().await + 1) % 3;
    let name = cluster.node(hurt).name();
    let old = cluster.any().status().await.managers.into_iter().find(|m| m.name == name).unwrap().raft_id;
    cluster.kill(hurt).await;
    cluster.damage_journal(hurt);
    // When it is started, it refuses: it would have forgotten what it promised.
    let refused = cluster.try_restart(hurt).await.unwrap_err();
    assert!(matches!(&refused, quorate::StartError::Damaged(why) if why.contains("damaged")), "{refused}");
    // When it rejoins by its certificate, it gets a fresh store and a new raft id,
    let others: Vec<String> = cluster.running().iter().map(|i| cluster.node(*i).address().to_string()).collect();
    let prepared = cluster.builder_of(hurt).rejoin(others).await.unwrap();
    assert!(prepared.raft_id > 3);
    assert_eq!(prepared.name, name);
    // (Until it runs, the seat is there, and nobody in it: that is seen, and it is not taken away with the node by mistake.)
    let nodes = cluster.any().client().nodes();
    for refused in [nodes.remove(&name).await.unwrap_err(), nodes.demote(&name).await.unwrap_err()] {
        says(&refused, &["has not taken the seat of its old store yet", "Nothing was changed"]);
    }
    let status = cluster.any().status().await;
    assert_eq!((status.health, status.voters, status.fault_tolerance), (Health::Degraded, 3, 0), "{status:?}");
    says(&status.advice.join("\n"), &["a voter whose store is gone", "the seat that nobody holds"]);
    cluster.restart(hurt).await;
    // and then the old id's seat, in one change.
    let status = cluster.settled(3).await;
    let seats: Vec<u64> = status.managers.iter().filter(|m| m.seat == "voter").map(|m| m.raft_id).collect();
    assert!(seats.contains(&prepared.raft_id) && !seats.contains(&old), "{seats:?}");
    cluster.agrees().await;
    assert_eq!(cluster.node(hurt).client().kv().prefix("n/").all().await.unwrap().len(), 50);
    cluster.stop().await;
}
