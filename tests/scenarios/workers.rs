//! Workers: joining, sessions, who is there, and what a worker does without managers.

use std::time::Duration;

use quorate::status::{ClusterStatus, NodeRole};
use quorate::testing::{SharedSocket, WorkerSession};
use quorate::{Error, Node, Start, StopReason};
use tokio::task::JoinSet;

use crate::support::{Cluster, eventually, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_joins_holds_a_session_and_is_seen() {
    let cluster = Cluster::of(3).await;
    // When a node joins with the worker token.
    let worker = cluster.worker("w1").await;
    // Then it is a worker, has a session with one of the managers, and they all know that it is there.
    assert_eq!(worker.role(), NodeRole::Worker);
    let report = worker.report_of_itself();
    let session = report.session.expect("a session");
    assert!(["m1", "m2", "m3"].contains(&session.manager.as_str()), "{session:?}");
    assert_eq!((report.name.as_str(), report.assignments_stale, report.trouble.as_str()), ("w1", false, ""));
    cluster.sees_worker("w1", "ready").await;
    let status = cluster.any().status().await;
    assert_eq!(status.managers.iter().map(|manager| manager.sessions).sum::<u64>(), 1);
    // It holds no seat, no raft id and no log.
    assert_eq!((status.voters, status.managers.len()), (3, 3));
    assert!(!cluster.path("w1").join("store").exists());
    // Its client asks with a worker's rights: the status yes, the store no.
    assert_eq!(worker.client().status().await.unwrap().voters, 3);
    let refused = worker.client().kv().put("k", "v").await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    assert_eq!(worker.shutdown().await, StopReason::Asked);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_says_itself_how_it_is_over_its_local_socket() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let local = quorate::Client::local(cluster.path("w1")).await.unwrap();
    let report = local.node_report().await.unwrap();
    assert_eq!((report.role, report.session.unwrap().manager.as_str()), (NodeRole::Worker, "m1"));
    // What else is asked there goes to its manager with the worker's own rights.
    assert_eq!(local.status().await.unwrap().answered_by, "m1");
    let refused = local.join_token("manager").await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    // A manager answers the same question for itself.
    let local = quorate::Client::local(&cluster.members[0].directory).await.unwrap();
    assert_eq!(local.node_report().await.unwrap().role, NodeRole::Manager);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_moves_on_when_its_manager_goes_and_nobody_calls_it_down() {
    let mut cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    cluster.sees_worker("w1", "ready").await;
    let since = |status: &ClusterStatus| status.workers[0].since_ms;
    let before = since(&cluster.any().status().await);
    // When the manager that it has its session with is gone, twice over.
    for _ in 0..2 {
        let held = worker.report_of_itself().session.unwrap().manager;
        let index = cluster.running().into_iter().find(|index| cluster.node(*index).name() == held).unwrap();
        cluster.kill(index).await;
        eventually("a session with another manager", || async {
            let session = worker.report_of_itself().session?;
            (session.manager != held).then_some(())
        })
        .await;
        cluster.restart(index).await;
        cluster.settled(3).await;
    }
    // Then it was never written down: what is recorded is as old as before.
    cluster.sees_worker("w1", "ready").await;
    assert_eq!(since(&cluster.any().status().await), before);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_is_told_down_and_ready_again_when_it_returns() {
    let cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    let other = cluster.worker("w2").await;
    cluster.sees_worker("w1", "ready").await;
    worker.shutdown().await;
    cluster.sees_worker("w1", "down").await;
    cluster.sees_worker("w2", "ready").await;
    let again = cluster.worker_again("w1").await;
    again.ready().await.unwrap();
    cluster.sees_worker("w1", "ready").await;
    again.shutdown().await;
    other.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_cost_the_log_nothing_while_they_are_idle() {
    let cluster = Cluster::of(3).await;
    let mut workers = Vec::new();
    for number in 0..5 {
        workers.push(cluster.worker(&format!("w{number}")).await);
    }
    for number in 0..5 {
        cluster.sees_worker(&format!("w{number}"), "ready").await;
    }
    // When nothing happens for several keep-alives and reports.
    let applied =
        |status: ClusterStatus| -> Vec<u64> { status.managers.iter().map(|manager| manager.applied).collect() };
    let before = applied(cluster.any().status().await);
    tokio::time::sleep(Duration::from_secs(8)).await;
    // Then no entry came into the log.
    assert_eq!(applied(cluster.any().status().await), before);
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.stop().await;
}

/// Many workers join, and hold their sessions over a few sockets.
async fn many(cluster: &Cluster, count: usize) -> Vec<WorkerSession> {
    let Start::OpenOrJoin { token, managers } = cluster.joining_as_worker().await else { panic!("a join") };
    let mut joining = JoinSet::new();
    for number in 0..count {
        let name = format!("w{number}");
        let builder = cluster.builder(&cluster.path(&name), &name).patience(crate::support::BUDGET);
        let (token, managers) = (token.clone(), managers.clone());
        joining.spawn(async move { builder.join(&token, managers).await.unwrap() });
        if joining.len() >= 8 {
            joining.join_next().await.unwrap().unwrap();
        }
    }
    joining.join_all().await;
    let socket = SharedSocket::open(cluster.node(0).address()).unwrap();
    let mut sessions = Vec::new();
    for number in 0..count {
        let session = WorkerSession::start(Node::builder(cluster.path(&format!("w{number}"))), &socket).await.unwrap();
        sessions.push(session);
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_workers_renew_for_nothing_and_survive_the_leader_and_none_is_told_down() {
    const COUNT: usize = 200;
    // Given many workers with sessions, whose certificates hold for a while.
    let mut cluster = Cluster::with_certificates(3, Duration::from_secs(40)).await;
    let sessions = many(&cluster, COUNT).await;
    let presence = |status: &ClusterStatus| -> Vec<(String, &'static str, u64)> {
        status.workers.iter().map(|worker| (worker.id.clone(), worker.state.word(), worker.since_ms)).collect()
    };
    let log = |status: &ClusterStatus| -> Vec<u64> { status.managers.iter().map(|manager| manager.applied).collect() };
    let before = eventually("all are ready, everywhere", || async {
        let status = cluster.any().status().await;
        let ready = status.workers.iter().filter(|worker| worker.state.word() == "ready").count();
        let held: u64 = status.managers.iter().map(|manager| manager.sessions).sum();
        let level = log(&status).windows(2).all(|pair| pair[0] == pair[1]);
        (ready == COUNT && held == COUNT as u64 && level).then_some(status)
    })
    .await;
    // When all of them have renewed their certificates.
    let first = |number: usize| std::fs::read(cluster.path(&format!("w{number}")).join("node.id")).unwrap();
    let certificates: Vec<Vec<u8>> = (0..COUNT).map(first).collect();
    eventually("all have another certificate", || async {
        (0..COUNT).all(|number| first(number) != certificates[number]).then_some(())
    })
    .await;
    // Then the log is as it was, every session is the first one, and nothing else was written down.
    let after = cluster.any().status().await;
    assert_eq!((log(&after), presence(&after)), (log(&before), presence(&before)));
    assert_eq!(sessions.iter().map(WorkerSession::begun).sum::<u64>(), COUNT as u64);
    // When the leader dies with its share of the sessions.
    let leader = cluster.leader().await;
    let name = cluster.node(leader).name();
    assert!(sessions.iter().any(|session| session.manager().as_deref() == Some(&name)), "nobody was with {name}");
    cluster.kill(leader).await;
    // Then they all find another manager, and all the while nobody was told down or recorded anew.
    eventually("all have sessions with the others", || async {
        let elsewhere = |session: &WorkerSession| session.manager().is_some_and(|manager| manager != name);
        sessions.iter().all(elsewhere).then_some(())
    })
    .await;
    eventually("the new leader has heard of all of them", || async {
        let status = cluster.any().status().await;
        let known = status.workers.iter().all(|worker| worker.state.word() != "unknown");
        (status.leader.is_some() && known).then_some(())
    })
    .await;
    assert_eq!(presence(&cluster.any().status().await), presence(&before));
    for session in sessions {
        assert_eq!(session.shutdown().await, StopReason::Asked);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_joins_again_as_the_same_node_and_the_token_of_the_other_role_is_refused() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let id = worker.id();
    worker.shutdown().await;
    // The same line serves at every boot, whichever token it carries.
    for start in [cluster.joining_as_worker().await, cluster.joining().await, Start::OpenOrInit] {
        let again = cluster.builder(&cluster.path("w1"), "").start(start).await.unwrap();
        assert_eq!((again.id(), again.role()), (id.clone(), NodeRole::Worker));
        again.ready().await.unwrap();
        again.shutdown().await;
    }
    // Two processes in one directory are refused.
    let worker = cluster.worker_again("w1").await;
    let refused = cluster.builder(&cluster.path("w1"), "").start(Start::Open).await.unwrap_err();
    says(&refused, &["in use", "stop the running node"]);
    // A name is unique among all nodes.
    let start = cluster.joining_as_worker().await;
    let refused = cluster.builder(&cluster.path("w2"), "w1").start(start).await.unwrap_err();
    says(&refused, &["w1", "taken", "--name"]);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_managers_all_moved_finds_them_by_one_hint() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    worker.shutdown().await;
    // Given a worker that knows no address that still holds.
    let path = cluster.path("w1");
    let closed = crate::support::closed_port();
    let other = Cluster::founded().await;
    let lost = cluster.builder(&path, "").manager(closed).start(Start::Open).await.unwrap();
    lost.ready().await.unwrap();
    lost.shutdown().await;
    other.stop().await;
    cluster.stop().await;
}
