//! Scenarios of whoever embeds quorate, on a test cluster: managers, network and disks in one process, on a clock that
//! stands still while there is work to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate::status::NodeRole;
use quorate::testing::Cluster;
use quorate::{AssignmentEvent, Error, StopReason, Watched};

const MINUTE: Duration = Duration::from_secs(60);

async fn read(cluster: &Cluster, key: &str) -> Option<String> {
    let entry = cluster.client().kv().get(key.to_owned()).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// What this manager's own state has, however old that is.
async fn has(cluster: &Cluster, manager: usize, key: &str) -> Option<String> {
    let page = cluster.client_of(manager).unwrap().kv().one(key.to_owned()).serializable().await.unwrap();
    page.entries.first().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

fn others(cluster: &Cluster, than: usize) -> Vec<usize> {
    (1..=cluster.managers()).filter(|manager| *manager != than).collect()
}

#[tokio::test(start_paused = true)]
async fn three_managers_are_up_at_once() {
    // When three managers are started
    let began = Instant::now();
    let cluster = Cluster::start(3).await.unwrap();
    let up = began.elapsed();
    // Then each has a seat, and all serve
    cluster.client().kv().put("a", "1").await.unwrap();
    for manager in 1..=3 {
        assert_eq!(cluster.client_of(manager).unwrap().kv().get("a").await.unwrap().unwrap().value, "1");
    }
    let status = cluster.client().status().await.unwrap();
    assert_eq!((status.voters, status.fault_tolerance, status.managers.len()), (3, 1, 3));
    // And ten minutes of theirs are over in seconds of ours
    let (began, virtually) = (Instant::now(), tokio::time::Instant::now());
    tokio::time::sleep(10 * MINUTE).await;
    assert!(virtually.elapsed() >= 10 * MINUTE);
    assert_eq!(read(&cluster, "a").await.as_deref(), Some("1"));
    measured(up, began.elapsed());
}

#[expect(clippy::print_stdout, reason = "a measurement is told, and decides nothing")]
fn measured(up: Duration, minutes: Duration) {
    println!("three managers were up after {up:?}; ten minutes of theirs took {minutes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_the_leader() {
    // Given a write that was acknowledged
    let cluster = Cluster::start(3).await.unwrap();
    let kv = cluster.client().kv();
    for n in 0..20_u32 {
        kv.put(format!("k{n}"), n.to_string()).await.unwrap();
    }
    // When the leader's machine loses power
    let leader = cluster.leader().await.unwrap();
    let lost = cluster.lose_the_leader().await.unwrap();
    assert_eq!(lost, leader);
    assert_ne!(cluster.leader_now(), Some(lost));
    // Then it is there, and writes go on
    for n in 0..20_u32 {
        assert_eq!(read(&cluster, &format!("k{n}")).await, Some(n.to_string()));
    }
    kv.put("after", "1").await.unwrap();
    assert!(matches!(cluster.node(lost).unwrap_err(), Error::Unavailable(_)));
    // And who was lost comes back to all of it
    cluster.restart(lost).await.unwrap();
    cluster.caught_up(lost).await.unwrap();
    assert_eq!(has(&cluster, lost, "after").await.as_deref(), Some("1"));
    cluster.settled().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_minority_refuses_and_catches_up() {
    // Given a leader that is cut off from the others
    let cluster = Cluster::start(3).await.unwrap();
    let kv = cluster.client().kv();
    kv.put("k", "before").await.unwrap();
    let old = cluster.leader().await.unwrap();
    let majority = others(&cluster, old);
    cluster.partition(&[&[old], &majority]).unwrap();
    // Then it refuses what it cannot promise
    let alone = cluster.client_of(old).unwrap().with_deadline(Duration::from_secs(5)).kv();
    let refused = alone.put("k", "alone").await.unwrap_err();
    assert!(matches!(refused, Error::NoLeader(_) | Error::QuorumLost { .. } | Error::Unknown { .. }), "{refused:?}");
    let refused = alone.get("k").await.unwrap_err();
    assert!(matches!(refused, Error::NoLeader(_) | Error::QuorumLost { .. }), "{refused:?}");
    // And the others go on, with one of them as the leader
    let new = cluster.leader().await.unwrap();
    assert!(majority.contains(&new));
    let inside = cluster.client_of(new).unwrap().kv();
    inside.put("k", "majority").await.unwrap();
    assert_eq!(has(&cluster, old, "k").await.as_deref(), Some("before"));
    // When the cut is healed, it has what the others have
    cluster.heal();
    cluster.settled().await.unwrap();
    assert_eq!(has(&cluster, old, "k").await.as_deref(), Some("majority"));
    cluster.client_of(old).unwrap().kv().put("k", "whole").await.unwrap();
    assert_eq!(read(&cluster, "k").await.as_deref(), Some("whole"));
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_in_no_group_is_alone() {
    let cluster = Cluster::start(3).await.unwrap();
    let follower = others(&cluster, cluster.leader().await.unwrap())[0];
    let rest = others(&cluster, follower);
    cluster.partition(&[&rest]).unwrap();
    let alone = cluster.client_of(follower).unwrap().with_deadline(Duration::from_secs(5)).kv();
    assert!(matches!(alone.get("k").await.unwrap_err(), Error::NoLeader(_) | Error::QuorumLost { .. }));
    cluster.client().kv().put("k", "1").await.unwrap();
    // What makes no sense cuts nothing.
    assert!(matches!(cluster.partition(&[&[1, 2], &[2, 3]]).unwrap_err(), Error::Invalid(_)));
    assert!(matches!(cluster.partition(&[&[1, 4]]).unwrap_err(), Error::Invalid(_)));
    cluster.heal();
    cluster.settled().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_has_no_space_steps_aside_and_returns() {
    // Given a leader whose disk is full
    let cluster = Cluster::start(3).await.unwrap();
    let kv = cluster.client().kv();
    let full = cluster.leader().await.unwrap();
    cluster.fill_the_disk(full).unwrap();
    // Then somebody with space leads, and writes go on
    cluster.until("somebody else leads", async || cluster.leader_now().is_some_and(|now| now != full)).await.unwrap();
    kv.put("k", "1").await.unwrap();
    assert!(!cluster.node(full).unwrap().readiness().ready);
    // And when there is space again, it has what it missed
    cluster.free_the_disk(full).unwrap();
    cluster.until("it is ready", async || cluster.node(full).unwrap().readiness().ready).await.unwrap();
    cluster.settled().await.unwrap();
    assert_eq!(has(&cluster, full, "k").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn without_space_anywhere_there_are_reads_only() {
    let cluster = Cluster::start(3).await.unwrap();
    let kv = cluster.client().with_deadline(Duration::from_secs(5)).kv();
    kv.put("k", "1").await.unwrap();
    cluster.fill_the_disk(1).unwrap();
    cluster.fill_the_disk(2).unwrap();
    cluster.fill_the_disk(3).unwrap();
    let refused = async || matches!(kv.put("tried", "1").await, Err(Error::ReadOnly(_) | Error::NoLeader(_)));
    cluster.until("writes are refused", refused).await.unwrap();
    for manager in 1..=3 {
        assert_eq!(has(&cluster, manager, "k").await.as_deref(), Some("1"));
        cluster.free_the_disk(manager).unwrap();
    }
    cluster.until("writes are taken", async || kv.put("k", "3").await.is_ok()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_stops_its_manager_for_good() {
    // Given a follower whose disk is broken
    let cluster = Cluster::start(3).await.unwrap();
    let broken = others(&cluster, cluster.leader().await.unwrap())[0];
    let node = cluster.node(broken).unwrap();
    cluster.break_the_disk(broken).unwrap();
    // When something is to be written to it
    cluster.client().kv().put("k", "1").await.unwrap();
    // Then it stops, says so, and is restarted with a disk that works
    let reason = node.stopped().await;
    assert!(matches!(reason, StopReason::DiskFailed(_)), "{reason:?}");
    cluster.kill(broken).await.unwrap();
    cluster.restart(broken).await.unwrap();
    cluster.caught_up(broken).await.unwrap();
    assert_eq!(has(&cluster, broken, "k").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_after_its_time_to_live() {
    // Given a key that lives by a lease of a minute
    let cluster = Cluster::start(3).await.unwrap();
    let client = cluster.client();
    let lease = client.leases().grant(MINUTE).await.unwrap();
    client.kv().put("here", "1").lease(lease.id()).await.unwrap();
    // While it is not over, the key is there, also when the leader is lost meanwhile
    tokio::time::sleep(MINUTE / 2).await;
    cluster.lose_the_leader().await.unwrap();
    tokio::time::sleep(MINUTE / 2 - Duration::from_secs(1)).await;
    assert_eq!(read(&cluster, "here").await.as_deref(), Some("1"));
    // When nobody renews it, it goes
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(read(&cluster, "here").await, None);
    assert!(client.leases().list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_lasts() {
    let cluster = Cluster::start(3).await.unwrap();
    let client = cluster.client();
    let keeper = client.leases().grant(Duration::from_secs(10)).await.unwrap().keep();
    client.kv().put("here", "1").lease(keeper.id()).await.unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    assert!(keeper.is_held());
    assert_eq!(read(&cluster, "here").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn work_that_leads_is_dropped_with_its_leadership() {
    // Given work that runs on whoever leads
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let cluster = Cluster::start(3).await.unwrap();
    let running: Vec<_> = (1..=3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let tokens = Arc::new(std::sync::Mutex::new(Vec::new()));
    for manager in 1..=3 {
        let (node, counter, tokens) =
            (cluster.node(manager).unwrap(), Arc::clone(&running[manager - 1]), Arc::clone(&tokens));
        tokio::spawn(async move {
            let work = |lead: quorate::Lead| {
                counter.fetch_add(1, Ordering::SeqCst);
                tokens.lock().unwrap().push(lead.fencing_token());
                let running = Running(Arc::clone(&counter));
                async move {
                    lead.client().kv().put("leads", lead.fencing_token().to_string()).await.unwrap();
                    std::future::pending::<()>().await;
                    drop(running);
                }
            };
            node.lead(work).await
        });
    }
    let runs = |manager: usize| running[manager - 1].load(Ordering::SeqCst);
    let first = cluster.leader().await.unwrap();
    cluster.until("it runs on the leader", async || runs(first) == 1).await.unwrap();
    // When the leader is cut off
    cluster.partition(&[&others(&cluster, first)]).unwrap();
    cluster.until("somebody else leads", async || cluster.leader_now().is_some_and(|now| now != first)).await.unwrap();
    // Then it runs there no more, and on the next leader
    let second = cluster.leader().await.unwrap();
    cluster.until("it runs on the next leader", async || runs(second) == 1).await.unwrap();
    assert_eq!(runs(first), 0);
    cluster.heal();
    // Also when that one hands over in order, and when its machine is gone
    cluster.settled().await.unwrap();
    let (second, third) = (cluster.leader().await.unwrap(), others(&cluster, cluster.leader().await.unwrap())[0]);
    cluster.client().transfer_leadership(Some(&format!("m{third}"))).await.unwrap();
    cluster.until("it runs on the third", async || runs(third) == 1 && runs(second) == 0).await.unwrap();
    cluster.kill(third).await.unwrap();
    cluster.until("it runs there no more", async || runs(third) == 0).await.unwrap();
    // And no two leaderships had one token
    let tokens = tokens.lock().unwrap().clone();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_away_for_long_comes_back_by_a_snapshot() {
    // Given a cluster that keeps little of its log, and a manager that is away
    let cluster = Cluster::builder().configure(|node| node.log_window(16)).start().await.unwrap();
    let away = others(&cluster, cluster.leader().await.unwrap())[0];
    cluster.kill(away).await.unwrap();
    let kv = cluster.client().kv();
    let value = vec![7_u8; 100_000];
    for n in 0..200_u32 {
        kv.put(format!("k{n}"), value.clone()).await.unwrap();
    }
    // When it comes back
    cluster.restart(away).await.unwrap();
    cluster.caught_up(away).await.unwrap();
    // Then it has everything
    let page = cluster.client_of(away).unwrap().kv().prefix("k").count_only().serializable().await.unwrap();
    assert_eq!(page.count, 200);
    cluster.settled().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_log_is_kept_for_who_is_away_up_to_so_many_bytes() {
    const WINDOW: u64 = 1 << 20;
    // Given managers that keep a mebibyte of the log, whatever the number of entries, and one that is away
    let cluster = Cluster::builder().configure(|node| node.log_window_bytes(WINDOW)).start().await.unwrap();
    let away = others(&cluster, cluster.leader().await.unwrap())[0];
    let kv = cluster.client().kv();
    let installed = async || {
        let status = cluster.node(away).unwrap().status().await;
        let own = status.managers.iter().find(|manager| manager.name == format!("m{away}"));
        own.unwrap().snapshots.installed
    };
    for (values, snapshots) in [(8, 0), (64, 1)] {
        // When a few values of 64 KiB are written meanwhile that have room in that, then they are still there for it;
        // when they have not, it is brought back by a snapshot: the log has not waited
        cluster.kill(away).await.unwrap();
        for n in 0..values {
            kv.put(format!("k{n}"), vec![7_u8; 64 << 10]).await.unwrap();
        }
        cluster.restart(away).await.unwrap();
        cluster.caught_up(away).await.unwrap();
        assert_eq!(installed().await, snapshots, "{values}");
        assert!(has(&cluster, away, &format!("k{}", values - 1)).await.is_some());
        cluster.settled().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_everywhere_loses_nothing_acknowledged() {
    let cluster = Cluster::start(3).await.unwrap();
    let kv = cluster.client().kv();
    for round in 0..5_u32 {
        kv.put("round", round.to_string()).await.unwrap();
        for manager in 1..=3 {
            cluster.kill(manager).await.unwrap();
        }
        assert_eq!(cluster.leader_now(), None);
        for manager in 1..=3 {
            cluster.restart(manager).await.unwrap();
        }
        assert_eq!(read(&cluster, "round").await, Some(round.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_moves_on_when_its_manager_is_gone() {
    let cluster = Cluster::start(3).await.unwrap();
    let client = cluster.client();
    let mut watch = client.kv().watch("k").prefix().await.unwrap();
    let mut told = Vec::new();
    for manager in [1, 2, 3] {
        client.kv().put(format!("k{manager}"), "1").await.unwrap();
        while told.len() < manager {
            if let Watched::Changes(changes) = watch.next().await.unwrap() {
                told.extend(changes.changes.into_iter().map(|change| change.key));
            }
        }
        cluster.kill(manager).await.unwrap();
        cluster.restart(manager).await.unwrap();
        cluster.settled().await.unwrap();
    }
    assert_eq!(told, ["k1", "k2", "k3"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_hears_within_seconds_up_to_where_it_was_told_everything() {
    // Given a watch of a key that nobody writes, on each manager
    let cluster = Cluster::start(3).await.unwrap();
    let mut quiet = Vec::new();
    for manager in 1..=3 {
        quiet.push(cluster.client_of(manager).unwrap().kv().watch("quiet").await.unwrap());
    }
    // When others are written
    let revision = cluster.client().kv().put("other", "x").await.unwrap().revision;
    cluster.settled().await.unwrap();
    // Then it is told, between changes of its own, that there was nothing for it
    let until = tokio::time::Instant::now() + Duration::from_secs(6);
    for watch in &mut quiet {
        loop {
            let told = tokio::time::timeout_at(until, watch.next()).await.expect("a bookmark comes").unwrap();
            assert!(matches!(told, Watched::Bookmark(_)), "{told:?}");
            if watch.next_revision() > revision {
                break;
            }
        }
    }
    // and that vouches for nothing that is still to come: what is written next is told.
    let next = cluster.client().kv().put("quiet", "x").await.unwrap().revision;
    for watch in &mut quiet {
        loop {
            let told = tokio::time::timeout(MINUTE, watch.next()).await.expect("it is told").unwrap();
            if let Watched::Changes(changes) = &told {
                break assert_eq!(changes.revision, next);
            }
            assert!(matches!(told, Watched::Bookmark(upto) if upto < next), "{told:?}, not {next}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_goes_to_who_waits_when_its_holder_is_gone() {
    let cluster = Cluster::start(3).await.unwrap();
    let holder = others(&cluster, cluster.leader().await.unwrap())[0];
    let held = cluster.client_of(holder).unwrap().lock("l").await.unwrap();
    let waiting = cluster.client();
    let waits = tokio::spawn(async move { waiting.lock("l").await });
    tokio::time::sleep(MINUTE).await;
    assert!(held.is_held() && !waits.is_finished());
    // The program that holds it goes with its machine: nobody renews it any more.
    cluster.kill(holder).await.unwrap();
    let now = waits.await.unwrap().unwrap();
    assert!(now.is_held());
    held.lost().await;
}

#[tokio::test(start_paused = true)]
async fn who_stops_in_order_hands_over_first() {
    let cluster = Cluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let node = cluster.node(leader).unwrap();
    cluster.stop(leader).await.unwrap();
    assert_eq!(node.stopped().await, StopReason::Asked);
    assert!(cluster.leader_now().is_some_and(|now| now != leader), "somebody was told to lead");
    assert!(matches!(cluster.restart(4).await.unwrap_err(), Error::Invalid(_)));
    cluster.restart(leader).await.unwrap();
    assert!(matches!(cluster.restart(leader).await.unwrap_err(), Error::Invalid(_)), "it runs");
    cluster.settled().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_number_of_managers_has_as_many_seats_as_it_can() {
    for (managers, voters) in [(1, 1), (2, 1), (4, 3), (5, 5), (7, 5)] {
        let cluster = Cluster::start(managers).await.unwrap();
        cluster.client().kv().put("k", "1").await.unwrap();
        let status = cluster.client().status().await.unwrap();
        assert_eq!((status.managers.len(), status.voters), (managers, voters));
    }
    assert!(matches!(Cluster::start(0).await.unwrap_err(), Error::Invalid(_)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_runs_what_it_is_assigned_and_may_become_a_manager() {
    // Given a worker and something for it to do
    let cluster = Cluster::start(3).await.unwrap();
    let client = cluster.client();
    let worker = cluster.worker("w1").await.unwrap();
    client.assignments().set("w1", "web", "v1").await.unwrap();
    let mut events = worker.assignments();
    let has = async |payload: &str, events: &mut quorate::Assignments| loop {
        let items = match events.next().await.unwrap() {
            AssignmentEvent::Complete { items, .. } => items,
            AssignmentEvent::Changed { added, .. } => added,
            other => panic!("{other:?}"),
        };
        if items.iter().any(|item| item.payload == payload) {
            return;
        }
    };
    has("v1", &mut events).await;
    // When the leader is lost, it is told what comes next all the same, and what it says of it arrives
    let lost = cluster.lose_the_leader().await.unwrap();
    client.assignments().set("w1", "web", "v2").await.unwrap();
    has("v2", &mut events).await;
    worker.report("web", "up").unwrap();
    let told =
        async || client.assignments().reports("w1").await.unwrap().statuses.get("web").is_some_and(|s| s == "up");
    cluster.until("its report has arrived", told).await.unwrap();
    // And promoted, it goes on as a manager in the same process, on a disk in memory
    cluster.restart(lost).await.unwrap();
    cluster.settled().await.unwrap();
    client.nodes().promote("w1").await.unwrap();
    cluster.until("it is a manager", async || worker.role() == NodeRole::Manager).await.unwrap();
    worker.ready().await.unwrap();
    assert_eq!(client.status().await.unwrap().managers.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn dropped_it_stops() {
    let cluster = Cluster::start(3).await.unwrap();
    let (node, client) = (cluster.node(1).unwrap(), cluster.client());
    drop(cluster);
    assert_eq!(node.stopped().await, StopReason::Asked);
    let gone = client.with_deadline(Duration::from_secs(5)).kv().put("k", "1").await.unwrap_err();
    assert!(gone.is_retryable() || matches!(gone, Error::Unknown { .. }), "{gone:?}");
}

#[tokio::test]
async fn it_also_runs_on_a_clock_that_goes() {
    let cluster = Cluster::start(3).await.unwrap();
    cluster.client().kv().put("k", "1").await.unwrap();
    cluster.lose_the_leader().await.unwrap();
    assert_eq!(read(&cluster, "k").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_also_runs_on_several_threads() {
    let cluster = Cluster::start(3).await.unwrap();
    let lost = cluster.lose_the_leader().await.unwrap();
    cluster.client().kv().put("k", "1").await.unwrap();
    cluster.restart(lost).await.unwrap();
    cluster.caught_up(lost).await.unwrap();
    assert_eq!(has(&cluster, lost, "k").await.as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn secrets_and_their_keys_work_on_a_test_cluster_as_on_a_real_one() {
    // Given a secret, and a worker whose item refers to it
    let cluster = Cluster::start(3).await.unwrap();
    let client = cluster.client();
    let worker = cluster.worker("w1").await.unwrap();
    client.secrets().create("db", "hunter2").await.unwrap();
    client.assignments().set("w1", "web", "run").secret("db").await.unwrap();
    let mut work = worker.assignments();
    let delivered = loop {
        match work.next().await.unwrap() {
            AssignmentEvent::Complete { items, .. } | AssignmentEvent::Changed { added: items, .. } => {
                if let Some(item) = items.into_iter().find(quorate::Item::is_complete) {
                    break item;
                }
            }
            _ => {}
        }
    };
    assert_eq!(delivered.secret("db").unwrap().expose(), b"hunter2");
    // When the key is replaced, and the leader is lost meanwhile
    client.keyring().rotate().await.unwrap();
    let lost = cluster.lose_the_leader().await.unwrap();
    // Then whoever leads finishes it, and everything opens
    cluster
        .until("one key is left", async || {
            let report = client.keyring().show().await;
            report.is_ok_and(|report| report.active == 2 && report.keys.len() == 1)
        })
        .await
        .unwrap();
    assert_eq!(client.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
    cluster.restart(lost).await.unwrap();
    cluster.caught_up(lost).await.unwrap();
    let shown = cluster.client_of(lost).unwrap().secrets().reveal("db").await.unwrap();
    assert_eq!(shown.expose(), b"hunter2");
}
