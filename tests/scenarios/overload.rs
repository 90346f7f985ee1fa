//! More than the cluster can do at once: it goes on at its own rate, keeps its leader, and says no in time.

use std::time::Duration;

use quorate::{Client, Error, NodeBuilder, Outcome};

use crate::stalls::Hanging;
use crate::support::{BUDGET, Cluster, eventually};
use crate::watch::changes;

/// Who leads, and in which term.
async fn leadership(cluster: &Cluster) -> (String, u64) {
    let status = eventually("a leader", || async {
        let status = cluster.any().status().await;
        status.leader.is_some().then_some(status)
    })
    .await;
    (status.leader.unwrap(), status.term)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_with_values_of_a_mebibyte_are_all_served_under_one_leader() {
    // Given three managers with ticks that a busy machine does not miss, and a hundred clients
    let cluster = Cluster::unhurried(3, Duration::from_millis(100)).await;
    let before = leadership(&cluster).await;
    let mut clients = Vec::new();
    for number in 0..100 {
        let order = [number % 3, (number + 1) % 3, (number + 2) % 3];
        clients.push(cluster.outside(&order).await.with_deadline(BUDGET));
    }
    // When each of them writes a value as large as may be, all at once
    let value = bytes::Bytes::from(vec![7; 1 << 20]);
    let writers: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let (client, value) = (client.clone(), value.clone());
            tokio::spawn(async move { client.kv().put(format!("big/{number:03}"), value).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    // Then each is there, written once, under the same leader.
    let found = cluster.any().client().kv().prefix("big/").keys_only().all().await.unwrap();
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|entry| entry.version == 1));
    assert_eq!(leadership(&cluster).await, before);
    cluster.agrees().await;
    cluster.stop().await;
}

/// Adds one to a counter: the version of a key counts its puts.
async fn add(client: &Client) -> Result<(), Error> {
    client.kv().put("counter", "x").await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_finds_no_place_to_wait_is_refused_by_the_limits_name_and_done_once_there_is_room() {
    // Given a manager at which two writes may wait, and whose disk lets none of them be done
    let mut cluster = Cluster::founded().await;
    let disk = Hanging::default();
    let held = |builder: NodeBuilder| builder.waiting_max(2).store_probe(disk.probe()).disk_patience(BUDGET);
    cluster.restart_as(0, held).await;
    cluster.settled(1).await;
    let client = cluster.outside(&[0]).await;
    add(&client).await.unwrap();
    disk.hold(true);
    // When more are asked of it at once
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let client = client.with_deadline(Duration::from_millis(500));
        tasks.spawn(async move { client.kv().put(format!("refused/{number}"), "x").await });
    }
    let mut refused = 0;
    while let Some(ended) = tasks.join_next().await {
        let error = ended.unwrap().unwrap_err();
        if let Error::Overloaded { limit: Some(limit), .. } = &error {
            // Then those that find no place are told which limit it was, that nothing was done, and that another try is worth it,
            assert_eq!((limit.name.as_str(), limit.bound, limit.actual), ("WAITING_MAX", 2, 3), "{error}");
            assert!(error.is_retryable() && error.outcome() == Outcome::NotDone, "{error}");
            assert!(error.to_string().contains("WAITING_MAX"), "{error}");
            refused += 1;
        }
    }
    assert!(refused > 0, "nobody was refused for want of room");
    // and once the disk answers all goes on.
    disk.hold(false);
    add(&client.with_deadline(BUDGET)).await.unwrap();
    assert_eq!(client.kv().get("counter").await.unwrap().unwrap().version, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_writes_than_may_wait_cost_no_leader_and_none_is_lost_or_done_twice() {
    let cluster = Cluster::unhurried(3, Duration::from_millis(100)).await;
    let before = leadership(&cluster).await;
    // Given clients that together have more open at once than may wait for a leader, whatever its rate
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(cluster.outside(&[number % 3, (number + 1) % 3, (number + 2) % 3]).await.with_deadline(BUDGET));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20_000 {
        let client = clients[number % clients.len()].clone();
        tasks.spawn(async move { add(&client).await });
    }
    // When all of it has come to an end
    let (mut done, mut unknown, mut refused) = (0, 0, 0);
    while let Some(ended) = tasks.join_next().await {
        match ended.unwrap() {
            Ok(()) => done += 1,
            Err(error) if error.outcome() == Outcome::Unknown => unknown += 1,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                refused += 1;
            }
        }
    }
    // Then what was acknowledged is there and nothing twice,
    let counter = clients[0].kv().get("counter").await.unwrap().unwrap();
    assert!(counter.version >= done && counter.version <= done + unknown, "{done} {unknown} {refused}");
    // nobody took over, and the next write is done as if nothing had been.
    assert_eq!(leadership(&cluster).await, before);
    add(&clients[0].with_deadline(quorate::config::REQUEST_DEADLINE)).await.unwrap();
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_manager_and_a_watcher_that_does_not_read_hold_up_nothing() {
    // Given three managers that keep 64 entries for others, one of them dead, and a watcher that reads nothing
    let mut cluster = Cluster::grown(3, 64).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let client = cluster.outside(&[leader]).await;
    let mut stuck = cluster.outside(&[leader]).await.kv().watch("fill/").prefix().await.unwrap();
    let installed = |status: &quorate::status::ClusterStatus, name: &str| {
        let own = status.managers.iter().find(|manager| manager.name == name);
        own.map_or(0, |manager| manager.snapshots.installed)
    };
    cluster.kill(away).await;
    // When much more is written than any queue, window or log may hold for the two of them
    let mut revisions = Vec::new();
    for number in 0..400 {
        let value = vec![b'x'; 64 << 10];
        revisions.push(client.kv().put(format!("fill/{:02}", number % 50), value).await.unwrap().revision);
    }
    // Then the log has not waited for the dead one: it is brought back by a snapshot,
    cluster.restart(away).await;
    cluster.settled(3).await;
    let name = cluster.node(away).name();
    eventually("it was brought back by a snapshot", || async {
        (installed(&cluster.node(away).status().await, &name) > 0).then_some(())
    })
    .await;
    // and the watcher is told everything in order and once, from where it was cut.
    for revision in revisions {
        assert_eq!(changes(&mut stuck).await.revision, revision);
    }
    client.kv().put("fill/last", "x").await.unwrap();
    let last = changes(&mut stuck).await;
    assert_eq!(last.changes.len(), 1);
    cluster.agrees().await;
    cluster.stop().await;
}
