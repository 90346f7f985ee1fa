//! Leadership: handed over, fenced, exclusive, and not the embedder's to lose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate::{Error, Lead};
use tokio::sync::mpsc;

use crate::support::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_of_the_leader_fails_no_request() {
    let mut cluster = Cluster::of(3).await;
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let leader = cluster.leader().await;
    // Given writers at every member that stays, and one from outside that may be at the leader.
    let mut writers = Vec::new();
    let mut clients: Vec<_> = cluster.others(leader).into_iter().map(|index| cluster.node(index).client()).collect();
    clients.push(cluster.outside(&[leader, (leader + 1) % 3, (leader + 2) % 3]).await);
    for (writer, client) in clients.into_iter().enumerate() {
        let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                client.kv().put(format!("w{writer}/{number}"), "x").await.unwrap();
                number += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            number
        }));
    }
    let more = async |count: usize| {
        let until = done.load(Ordering::Relaxed) + count;
        eventually("writes go on", || async { (done.load(Ordering::Relaxed) >= until).then_some(()) }).await;
    };
    more(30).await;
    // When the leader is asked to stop.
    let node = cluster.members[leader].node.take().unwrap();
    assert_eq!(node.shutdown().await, quorate::StopReason::Asked);
    more(30).await;
    stop.store(true, Ordering::Relaxed);
    // Then no write failed, and each is there, once.
    let kv = cluster.any().client().kv();
    for (writer, task) in writers.into_iter().enumerate() {
        let written = task.await.unwrap();
        let found = kv.prefix(format!("w{writer}/")).all().await.unwrap();
        assert_eq!(found.len(), written);
        assert!(found.iter().all(|entry| entry.version == 1));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leaders_writes_are_fenced_off() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.leader().await;
    // Given the client of a leadership, kept by somebody for longer than the leadership.
    let kept: Lead = cluster.node(first).lead(async |lead| lead).await.unwrap();
    kept.client().kv().put("owner", "first").await.unwrap();
    // When another leads.
    let second = (first + 1) % 3;
    cluster.lead_by(second).await;
    let newer: Lead = cluster.node(second).lead(async |lead| lead).await.unwrap();
    assert!(newer.fencing_token() > kept.fencing_token());
    newer.client().kv().put("owner", "second").await.unwrap();
    // Then the old one's write is refused by its token, wherever it goes.
    let refused = kept.client().kv().put("owner", "first again").await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    let outside = cluster.outside(&[(first + 2) % 3]).await.with_fence(kept.fencing_token());
    let refused = outside.kv().put("owner", "first again").await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    assert_eq!(cluster.any().client().kv().get("owner").await.unwrap().unwrap().value, "second");
    // And so it is when a leader dies.
    cluster.kill(second).await;
    let outside = cluster.outside(&cluster.running()).await;
    let refused = outside.with_fence(newer.fencing_token()).kv().put("owner", "second again").await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    outside.kv().put("owner", "anybody").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leadership_is_handed_over_by_who_holds_it_and_only_while_it_lasts() {
    let cluster = Cluster::of(3).await;
    // When its work hands it over to a member of its choice. (Members that have just started take no part in an election for
    // one base election timeout, and a hand-over that failed half-way ends the leadership: then the next one does it.)
    let (first, to, kept) = eventually("it is handed over", || async {
        let leader = cluster.leader().await;
        let to = cluster.node((leader + 1) % 3).name();
        let leading = cluster.node(leader).lead(async |lead| lead);
        let kept: Lead = tokio::time::timeout(Duration::from_secs(2), leading).await.ok()?.unwrap();
        let leads = kept.hand_over(Some(&to)).await.ok()?;
        assert_eq!(leads, to);
        Some((leader, to, kept))
    })
    .await;
    // Then the leadership that is over hands nothing over any more, though its node may lead again.
    cluster.lead_by(first).await;
    let before = cluster.settled(3).await;
    let refused = kept.hand_over(Some(&to)).await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    let outside = cluster.outside(&[(first + 2) % 3]).await.with_fence(kept.fencing_token());
    let refused = outside.transfer_leadership(None).await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    let after = cluster.settled(3).await;
    assert_eq!((after.term, after.leader), (before.term, before.leader));
    cluster.stop().await;
}

/// Counts who is inside, also when the future is dropped.
struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_a_leader_runs_on_one_node_and_moves_with_leadership() {
    let mut cluster = Cluster::of(3).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let (began, mut begins) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for index in 0..3 {
        let (node, inside, began) = (cluster.node(index).clone(), Arc::clone(&inside), began.clone());
        tasks.push(tokio::spawn(async move {
            let _: Result<(), Error> = node
                .lead(|lead| {
                    let (inside, began) = (Arc::clone(&inside), began.clone());
                    async move {
                        let before = inside.fetch_add(1, Ordering::SeqCst);
                        let _inside = Inside(inside);
                        began.send((index, lead.fencing_token(), before)).unwrap();
                        std::future::pending().await
                    }
                })
                .await;
        }));
    }
    // Then the work has begun at the leader, alone.
    let mut last = 0;
    let mut expect = async |leads: usize| {
        loop {
            let (index, token, before) = begins.recv().await.unwrap();
            assert_eq!(before, 0, "two led at the same time");
            assert!(token > last);
            last = token;
            if index == leads {
                return;
            }
        }
    };
    expect(cluster.leader().await).await;
    // When leadership is sent round, the work is dropped at the one and begins at the next.
    for _ in 0..3 {
        let next = (cluster.leader().await + 1) % 3;
        cluster.lead_by(next).await;
        expect(next).await;
    }
    assert_eq!(inside.load(Ordering::SeqCst), 1);
    // When the node is stopped, the work ends there and begins elsewhere.
    let leader = cluster.leader().await;
    let node = cluster.members[leader].node.take().unwrap();
    assert_eq!(node.shutdown().await, quorate::StopReason::Asked);
    expect(cluster.leader().await).await;
    assert_eq!(inside.load(Ordering::SeqCst), 1);
    for index in cluster.running() {
        cluster.members[index].node.take().unwrap().shutdown().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(inside.load(Ordering::SeqCst), 0);
}

/// The ticks are long, so that what decides is the blocking (10 s), not how busy the machine is.
#[test]
fn an_embedder_that_blocks_every_thread_causes_no_election() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (embedder, observer) = (runtime(), runtime());
    let cluster = embedder.block_on(Cluster::unhurried(3, Duration::from_millis(100)));
    let before = embedder.block_on(cluster.settled(3));
    // When every thread of the embedder's runtime is blocked for 10 s.
    let blocked = Arc::new(AtomicUsize::new(0));
    let blockers: Vec<_> = (0..2)
        .map(|_| {
            let blocked = Arc::clone(&blocked);
            embedder.spawn(async move {
                blocked.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_secs(10));
                blocked.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    // Then the cluster serves others meanwhile, in the same term.
    let served = observer.block_on(async {
        eventually("all threads are blocked", || async { (blocked.load(Ordering::SeqCst) == 2).then_some(()) }).await;
        let client = cluster.outside(&[0, 1, 2]).await;
        let (began, mut served) = (Instant::now(), 0);
        while blocked.load(Ordering::SeqCst) == 2 {
            client.kv().put(format!("n/{served}"), "x").await.unwrap();
            assert_eq!(client.status().await.unwrap().term, before.term);
            served += 1;
        }
        assert!(began.elapsed() > Duration::from_secs(5));
        served
    });
    assert!(served > 0);
    embedder.block_on(async {
        for blocker in blockers {
            blocker.await.unwrap();
        }
        let after = cluster.settled(3).await;
        assert_eq!((after.term, &after.leader), (before.term, &before.leader));
        cluster.stop().await;
    });
}
