//! The settings of the whole cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate::Error;
use quorate::membership::{Rule, Timing};

use crate::support::{Cluster, eventually, says};

fn rule(error: &Error) -> Option<Rule> {
    if let Error::Membership { rule, .. } = error { Some(*rule) } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_changed_one_by_one_through_any_manager() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let policy = cluster.outside(&[follower]).await.policy();
    let before = policy.show().await.unwrap();
    assert_eq!((before.max_voters, before.lost_after_ms, before.promote_after_ms), (5, 30_000, 300_000));
    assert_eq!((before.stable_ms, before.auto_replace, before.timing.as_str()), (2_000, true, "lan"));
    let set = policy.set().lost_after(Duration::from_secs(5)).max_voters(7).await.unwrap();
    assert_eq!((set.lost_after_ms, set.max_voters, set.promote_after_ms), (5_000, 7, 300_000));
    let set = policy.set().auto_replace(false).promote_after(Duration::from_secs(60)).await.unwrap();
    assert_eq!((set.auto_replace, set.promote_after_ms, set.lost_after_ms), (false, 60_000, 5_000));
    assert_eq!(policy.set().stable(Duration::from_secs(3)).await.unwrap().stable_ms, 3_000);
    assert_eq!(cluster.any().client().policy().show().await.unwrap().stable_ms, 3_000);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_do_no_good_are_refused_by_name_and_nothing_is_changed() {
    let cluster = Cluster::of(3).await;
    let policy = cluster.any().client().policy();
    let before = policy.show().await.unwrap();
    for even in [0, 1, 2, 4, 6, 8, 11] {
        let refused = policy.set().max_voters(even).await.unwrap_err();
        assert_eq!(rule(&refused), Some(Rule::EvenMaxVoters), "{even}: {refused}");
        says(&refused, &["3, 5, 7 or 9", "Nothing was changed"]);
    }
    let refused = policy.set().lost_after(Duration::from_millis(3_999)).await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::TimesDoNotFit), "{refused}");
    says(&refused, &["10 election timeouts", "--lost-after 4s"]);
    // Both at once are looked at together, and both or none are set.
    let refused = policy.set().max_voters(7).lost_after(Duration::from_secs(20)).timing(Timing::Wan).await.unwrap_err();
    assert_eq!(rule(&refused), Some(Rule::TimesDoNotFit), "{refused}");
    for tick in [Duration::from_millis(1), Duration::from_secs(5)] {
        let refused = policy.set().timing(Timing::Tick(tick)).await.unwrap_err();
        assert_eq!(rule(&refused), Some(Rule::TimesDoNotFit), "{refused}");
    }
    assert_eq!(policy.show().await.unwrap(), before);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timing_changes_under_load_without_an_election_and_without_an_end_of_the_leaders_work() {
    let cluster = Cluster::of(3).await;
    let before = cluster.settled(3).await;
    let leader = cluster.leader().await;
    // Given work that runs while the leader leads, and writers.
    let (begun, stop, written) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let work = {
        let (node, begun) = (cluster.node(leader).clone(), Arc::clone(&begun));
        tokio::spawn(async move {
            let _: Result<(), Error> = node
                .lead(|_lead| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    std::future::pending()
                })
                .await;
        })
    };
    let mut writers = Vec::new();
    for index in 0..3 {
        let (kv, stop, written) = (cluster.node(index).client().kv(), Arc::clone(&stop), Arc::clone(&written));
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                kv.put(format!("w{index}"), "x").await.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    eventually("the work has begun", || async { (begun.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    // When the one setting changes, back and forth.
    let policy = cluster.any().client().policy();
    for timing in [Timing::Tick(Duration::from_millis(200)), Timing::Wan, Timing::Tick(Duration::from_millis(100))] {
        policy.set().timing(timing).lost_after(Duration::from_secs(60)).await.unwrap();
        let until = written.load(Ordering::Relaxed) + 60;
        eventually("writes go on", || async { (written.load(Ordering::Relaxed) >= until).then_some(()) }).await;
    }
    // Then the same leader leads in the same term, and its work was never dropped.
    let after = cluster.settled(3).await;
    assert_eq!((after.term, &after.leader), (before.term, &before.leader));
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    work.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timing_that_was_set_is_the_one_in_use_and_outlives_restarts_whatever_the_builder_says() {
    // Given a cluster founded with short ticks and set to long ones.
    let mut cluster = Cluster::of(3).await;
    cluster.any().client().policy().set().timing(Timing::Wan).await.unwrap();
    let leader = cluster.leader().await;
    let restarted = cluster.others(leader)[0];
    // (Every builder of these scenarios says 20 ms.)
    cluster.kill(restarted).await;
    cluster.restart(restarted).await;
    cluster.settled(3).await;
    assert_eq!(cluster.node(restarted).client().policy().show().await.unwrap().timing, "wan");
    let leader = cluster.leader().await;
    let client = cluster.node(cluster.others(leader)[0]).client().with_deadline(Duration::from_secs(60));
    client.kv().put("before", "x").await.unwrap();
    // When the leader dies, nobody else leads for a base election timeout of the long ticks (3 s).
    let heard = Instant::now();
    cluster.kill(leader).await;
    client.kv().put("after", "x").await.unwrap();
    // (The last heartbeat may have left four ticks before the death, and a few went by before that was noticed here.)
    assert!(heard.elapsed() > Duration::from_millis(3_000 - 5 * 150), "{:?}", heard.elapsed());
    cluster.stop().await;
}
