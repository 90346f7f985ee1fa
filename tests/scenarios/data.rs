//! Reads and writes.

use quorate::config::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use quorate::{Error, Outcome, compare, operation};
use quorate_core::limits::{TXN_BYTES_MAX, TXN_OPERATIONS_MAX};

use crate::support::{BUDGET, Cluster};

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
async fn the_largest_transaction_goes_through_a_follower() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let kv = cluster.outside(&[follower]).await.with_deadline(BUDGET).kv();
    // Given three of the largest values and a fourth that leaves a KiB for keys and encoding
    let writes = |spare: usize| {
        (0..4).fold(kv.txn(), |txn, number| {
            let bytes = VALUE_BYTES_MAX - if number == 3 { spare } else { 0 };
            txn.then(operation::put(format!("large/{number}"), vec![7; bytes]))
        })
    };
    assert!(writes(1_024).await.unwrap().succeeded);
    let sizes = |entries: Vec<quorate::Entry>| entries.iter().map(|entry| entry.value.len()).sum::<usize>();
    assert_eq!(sizes(kv.prefix("large/").all().await.unwrap()), 4 * VALUE_BYTES_MAX - 1_024);
    // With four of the largest it is too large, and the limit says so
    let before = kv.get("large/0").await.unwrap();
    let refused = writes(0).await.unwrap_err();
    let limit = refused.limit().unwrap_or_else(|| panic!("{refused}"));
    assert_eq!((limit.name.as_str(), limit.bound), ("TXN_BYTES_MAX", TXN_BYTES_MAX as u64), "{refused}");
    assert!(limit.actual > limit.bound && refused.outcome() == Outcome::NotDone, "{refused}");
    assert_eq!(kv.get("large/0").await.unwrap(), before);
    cluster.stop().await;
}

/// One more than this limit, said by its name, and by nobody asked to be sent again.
fn over(error: &Error, name: &str, bound: usize) {
    let limit = error.limit().map(|limit| (limit.name.as_str(), limit.bound, limit.actual));
    assert_eq!(limit, Some((name, bound as u64, bound as u64 + 1)), "{error}");
    assert!(matches!(error, Error::Limit { .. }) && error.to_string().contains(name), "{error}");
    assert!(!error.is_retryable() && error.outcome() == Outcome::NotDone, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_by_its_name() {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    // Given what is just at each limit, which is taken
    let (key, value) = (vec![b'k'; KEY_BYTES_MAX], vec![0; VALUE_BYTES_MAX]);
    let writes =
        |count: usize| (0..count).fold(kv.txn(), |txn, number| txn.then(operation::put(format!("k{number}"), "v")));
    kv.put(key.clone(), value.clone()).await.unwrap();
    assert!(writes(TXN_OPERATIONS_MAX).await.unwrap().succeeded);
    let before = kv.get("k0").await.unwrap();
    // Then one more of anything is refused with name, limit and number, and nothing is done
    let longer = kv.put([&key[..], b"k"].concat(), "v").await.unwrap_err();
    over(&longer, "KEY_BYTES_MAX", KEY_BYTES_MAX);
    over(&kv.get([&key[..], b"k"].concat()).await.unwrap_err(), "KEY_BYTES_MAX", KEY_BYTES_MAX);
    let larger = kv.put("k0", [&value[..], b"v"].concat()).await.unwrap_err();
    over(&larger, "VALUE_BYTES_MAX", VALUE_BYTES_MAX);
    over(&writes(TXN_OPERATIONS_MAX + 1).await.unwrap_err(), "TXN_OPERATIONS_MAX", TXN_OPERATIONS_MAX);
    assert_eq!(kv.get("k0").await.unwrap(), before);
    cluster.stop().await;
}
