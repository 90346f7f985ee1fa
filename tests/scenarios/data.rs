//! Reads and writes.

use quorate::{Error, compare, operation};

use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_at_any_manager_is_read_at_every_other() {
    // Given three managers in their seats.
    let cluster = Cluster::of(3).await;
    // When each of them is asked to write, from outside.
    for index in 0..3 {
        let client = cluster.outside(&[index]).await;
        let done = client.kv().put(format!("key/{index}"), format!("value {index}")).await.unwrap();
        assert!(done.succeeded);
    }
    // Then each of them reads every write, linearizably.
    for index in 0..3 {
        let client = cluster.outside(&[index]).await;
        let found = client.kv().prefix("key/").all().await.unwrap();
        let values: Vec<_> = found.iter().map(|entry| entry.value.clone()).collect();
        assert_eq!(values, ["value 0", "value 1", "value 2"]);
    }
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_outlive_the_leader() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    for number in 0..50 {
        client.kv().put(format!("n/{number:03}"), "x").await.unwrap();
    }
    // When the leader dies without a farewell.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    // Then the client goes on at the others, and nothing is missing.
    for number in 50..100 {
        client.kv().put(format!("n/{number:03}"), "x").await.unwrap();
    }
    assert_eq!(client.kv().prefix("n/").all().await.unwrap().len(), 100);
    // And the dead one catches up when it is back.
    cluster.restart(leader).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_set_happens_once() {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    let created = kv.compare_and_set("lock", 0, "a").await.unwrap();
    assert!(created.succeeded);
    assert!(!kv.compare_and_set("lock", 0, "b").await.unwrap().succeeded);
    let swapped = kv
        .txn()
        .when(compare::value("lock", "a"))
        .then(operation::put("lock", "c"))
        .or_else(operation::get("lock"))
        .await
        .unwrap();
    assert!(swapped.succeeded);
    assert_eq!(kv.get("lock").await.unwrap().unwrap().version, 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_by_its_name() {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    let long = vec![b'k'; 5_000];
    let refused = kv.put(long, "v").await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid(why) if why.contains("KEY_BYTES_MAX")), "{refused}");
    let refused = kv.put("k", vec![0; 2 << 20]).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid(why) if why.contains("VALUE_BYTES_MAX")), "{refused}");
    let mut txn = kv.txn();
    for number in 0..129 {
        txn = txn.then(operation::put(format!("k{number}"), "v"));
    }
    let refused = txn.await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid(why) if why.contains("TXN_OPERATIONS_MAX")), "{refused}");
    cluster.stop().await;
}
