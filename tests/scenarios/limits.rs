//! What the store may hold: its quota, and how much of the past.

use std::time::Duration;

use quorate::Error;
use quorate::status::Health;

use crate::support::{BUDGET, Cluster, eventually};
use crate::watch::changes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_is_read_only_on_every_manager_until_room_is_made() {
    // Given three managers whose store may hold 16 MiB.
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let kv = client.kv();
    client.policy().set().store_quota(16 << 20).await.unwrap();
    // When it is filled, the write that does not fit is refused by the name of the limit.
    let big = vec![7u8; 1 << 20];
    let mut taken = 0;
    let refused = loop {
        match kv.put(format!("fill/{taken:02}"), big.clone()).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 20, "more fits than may be held");
    };
    assert!(matches!(refused, Error::StoreFull { .. }) && !refused.is_retryable(), "{refused}");
    assert!(refused.to_string().contains("STORE_QUOTA_BYTES"), "{refused}");
    let limit = refused.limit().unwrap();
    assert!(limit.name == "STORE_QUOTA_BYTES" && limit.bound == 16 << 20 && limit.actual > limit.bound, "{limit:?}");
    assert_eq!(taken, 15, "fifteen values of 1 MiB and their history fit, sixteen do not");
    // Then every manager says so, and what to do.
    for index in 0..3 {
        let status = eventually("the manager knows that the store is full", || async {
            let status = cluster.node(index).status().await;
            (status.health == Health::ReadOnly).then_some(status)
        })
        .await;
        let store = status.store.unwrap();
        assert!(store.full && store.live_bytes > 15 << 20 && store.quota_bytes == 16 << 20, "{store:?}");
        let advice = status.advice.join("\n");
        assert!(advice.contains("it is full") && advice.contains("policy set --store-quota 32MiB"), "{advice}");
    }
    // And reads go on, also of what was refused, and the cluster's own records can be changed.
    assert_eq!(kv.get("fill/00").await.unwrap().unwrap().value.len(), 1 << 20);
    assert!(kv.get("fill/15").await.unwrap().is_none());
    client.policy().set().lost_after(Duration::from_secs(20)).await.unwrap();
    // When something is deleted, then writes go on by themselves: the history of it is compacted away.
    for number in 0..4 {
        kv.delete(format!("fill/{number:02}")).await.unwrap();
    }
    eventually("writes are taken again", || async { kv.put("small", "value").await.ok() }).await;
    eventually("health is back", || async {
        let status = cluster.node(0).status().await;
        (status.health == Health::Ok && status.store.is_some_and(|store| !store.full)).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_serves_so_many_watches_and_names_the_limit_to_one_more() {
    // Given three managers, of which one serves two watches
    let mut cluster = Cluster::of(3).await;
    cluster.kill(0).await;
    let builder = cluster.builder_of(0).watches_max(2);
    cluster.members[0].node = Some(builder.start(quorate::Start::Open).await.unwrap());
    cluster.settled(3).await;
    let client = cluster.outside(&[0]).await.with_deadline(Duration::from_secs(2));
    let watch = |client: &quorate::Client| client.kv().watch("k").prefix();
    let served = [watch(&client).await.unwrap(), watch(&client).await.unwrap()];
    // When one more is asked of it, then it is told which limit that is, and that nothing was done
    let refused = watch(&client).await.unwrap_err();
    assert!(matches!(refused, Error::Overloaded { .. }) && refused.is_retryable(), "{refused}");
    assert_eq!(refused.outcome(), quorate::Outcome::NotDone);
    let limit = refused.limit().map(|limit| (limit.name.as_str(), limit.bound, limit.actual));
    assert_eq!(limit, Some(("WATCHES_MAX", 2, 3)), "{refused}");
    assert!(refused.to_string().contains("WATCHES_MAX") && cluster.node(0).watches() == 2, "{refused}");
    // A client that knows others has it there
    let mut elsewhere = watch(&cluster.outside(&[0, 1]).await).await.unwrap();
    assert_eq!(cluster.node(1).watches(), 1);
    // And where one has gone there is room
    drop(served);
    let mut again = watch(&client.with_deadline(BUDGET)).await.unwrap();
    let revision = client.kv().put("k", "v").await.unwrap().revision;
    for watch in [&mut elsewhere, &mut again] {
        assert_eq!(changes(watch).await.revision, revision);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted_by_age() {
    // Given a manager that keeps the past for a second, and a past of a few revisions.
    let cluster = Cluster::of(1).await;
    let client = cluster.node(0).client();
    let kv = client.kv();
    let first = kv.put("k", "0").await.unwrap().revision;
    for number in 1..10 {
        kv.put("k", number.to_string()).await.unwrap();
    }
    assert_eq!(kv.prefix("k").revision(first).await.unwrap().entries[0].value, "0");
    // When the policy says so,
    client.policy().set().history_age(Duration::from_secs(1)).await.unwrap();
    // then it goes by itself, and the present stays.
    eventually("the first revision is compacted", || async {
        match kv.prefix("k").revision(first).await {
            Err(Error::Compacted { .. }) => Some(()),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    assert_eq!(kv.get("k").await.unwrap().unwrap().value, "9");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_history_is_compacted_by_itself() {
    // Given a manager that keeps fifty revisions.
    let root = tempfile::tempdir().unwrap();
    let builder = quorate::Node::builder(root.path().join("m1")).listen("127.0.0.1:0");
    let node = builder.start(quorate::Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    node.client().policy().set().history_revisions(50).await.unwrap();
    let kv = node.client().kv();
    let first = kv.put("k", "0").await.unwrap().revision;
    let past = || kv.prefix("k").revision(first);
    assert_eq!(past().await.unwrap().entries[0].value, "0");
    // When many more are written.
    for number in 1..200 {
        kv.put("k", number.to_string()).await.unwrap();
    }
    // Then the oldest goes by itself, says which is the oldest kept, and the newest ones stay.
    let oldest = eventually("the first revision is compacted", || async {
        match past().await {
            Err(Error::Compacted { oldest, .. }) => Some(oldest),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    assert!(oldest > first && oldest <= first + 150, "{oldest}");
    assert_eq!(kv.prefix("k").revision(first + 190).await.unwrap().entries[0].value, "190");
    // And once it is at rest, what is at the edge and above it is told as it was, and what is below it or is not yet is not
    let newest = first + 199;
    let edge = eventually("as little is kept as is to be", || async {
        match past().await {
            Err(Error::Compacted { oldest, .. }) => (oldest + 56 >= newest).then_some(oldest),
            other => panic!("{other:?}"),
        }
    })
    .await;
    for revision in [edge, edge + 1, newest] {
        let then = kv.prefix("k").revision(revision).await.unwrap();
        assert_eq!(then.entries[0].value, (revision - first).to_string());
    }
    let below = kv.prefix("k").revision(edge - 1).await.unwrap_err();
    assert!(matches!(below, Error::Compacted { oldest, .. } if oldest == edge), "{below}");
    let not_yet = kv.prefix("k").revision(newest + 1).await.unwrap_err();
    assert!(matches!(not_yet, Error::Invalid(_)) && !not_yet.is_retryable(), "{not_yet}");
    node.shutdown().await;
}
