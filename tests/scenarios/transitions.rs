//! A node changes its role, moves, or is no node of the cluster any more: in one process, and over restarts.

use bytes::Bytes;
use quorate::status::NodeRole;
use quorate::{AssignmentEvent, Assignments, Error, Node, Start, StartError, StopReason, inspect};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::work::forget;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Delete, Op, Put, Txn};

use crate::recovery::recovered;
use crate::support::{BUDGET, Cluster, closed_port, eventually, says};

fn put(record: &NodeRecord) -> Op {
    Put { key: NodeRecord::key(record.node_id().unwrap()), value: record.to_bytes(), ..Put::default() }.into()
}

fn burn(raft_id: u64) -> Op {
    Put { key: read::removed_key(RaftId(raft_id)), value: Bytes::from_static(b"test"), ..Put::default() }.into()
}

fn record(cluster: &Cluster, name: &str) -> NodeRecord {
    cluster.any().records().into_iter().find(|record| record.name == name).expect("a record of that name")
}

/// Changes a node's record as a manager would: again when somebody else was faster.
async fn change(cluster: &Cluster, name: &str, more: &[Op], change: impl Fn(&mut NodeRecord)) {
    eventually("the record is changed", || async {
        let before = record(cluster, name);
        let mut after = before.clone();
        change(&mut after);
        let unchanged = Compare::new(
            NodeRecord::key(before.node_id()?),
            quorate_core::txn::Relation::Equal,
            quorate_core::txn::Operand::Value(before.to_bytes()),
        );
        let then = [&[put(&after)], more].concat();
        let txn = Txn { compares: vec![unchanged], then, ..Txn::default() };
        cluster.any().system(txn).await.ok()?.then_some(())
    })
    .await;
}

async fn promote(cluster: &Cluster, name: &str) {
    change(cluster, name, &[], |record| record.role = Role::Manager.into()).await;
}

/// What the leader writes once a demoted manager is in the configuration no more.
async fn demote(cluster: &Cluster, name: &str) {
    let raft_id = record(cluster, name).raft_id;
    change(cluster, name, &[burn(raft_id)], |record| {
        record.role = Role::Worker.into();
        record.raft_id = 0;
        record.store_id = Bytes::new();
    })
    .await;
}

/// What the leader writes once a removed node is in the configuration no more.
async fn remove(cluster: &Cluster, name: &str) {
    let gone = record(cluster, name);
    let id: NodeId = gone.node_id().unwrap();
    let mut then = vec![Delete { key: NodeRecord::key(id), ..Delete::default() }.into()];
    then.extend(forget(id));
    if gone.raft_id != 0 {
        then.push(burn(gone.raft_id));
    }
    assert!(cluster.any().system(Txn { then, ..Txn::default() }).await.unwrap());
}

async fn becomes(node: &Node, role: NodeRole) {
    eventually(&format!("{} becomes a {}", node.name(), role.word()), || async {
        (node.role() == role && node.ready().await.is_ok()).then_some(())
    })
    .await;
}

async fn next(stream: &mut Assignments) -> AssignmentEvent {
    tokio::time::timeout(BUDGET, stream.next()).await.expect("an event").expect("the node runs")
}

async fn stopped(node: &Node) -> StopReason {
    tokio::time::timeout(BUDGET, node.stopped()).await.expect("the node stops")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_workers_become_managers_in_the_same_process_and_keep_their_items() {
    let mut cluster = Cluster::founded().await;
    let (one, two) = (cluster.worker("w1").await, cluster.worker("w2").await);
    let client = cluster.any().client();
    client.assignments().set("w1", "a", "1").await.unwrap();
    let mut stream = one.assignments();
    eventually("the item", || async { one.report("a", "up").ok() }).await;
    let own = one.client();
    assert!(matches!(own.kv().put("k", "v").await, Err(Error::Denied(_))));
    // When both are promoted.
    promote(&cluster, "w1").await;
    promote(&cluster, "w2").await;
    becomes(&one, NodeRole::Manager).await;
    becomes(&two, NodeRole::Manager).await;
    // Then they are managers with seats of their own, in the same processes, and the handles that were held serve on.
    let status = eventually("three voters", || async {
        let status = cluster.any().status().await;
        (status.voters == 3).then_some(status)
    })
    .await;
    assert_eq!((status.managers.len(), status.workers.len()), (3, 0));
    own.kv().put("k", "v").await.unwrap();
    assert_eq!(one.client().kv().get("k").await.unwrap().unwrap().value, "v");
    // Its items are the same, and what changes reaches it as before.
    let AssignmentEvent::Complete { items, .. } = next(&mut stream).await else { panic!("a complete set was due") };
    let mut ids: Vec<String> = items.into_iter().map(|item| item.id).collect();
    client.assignments().set("w1", "b", "2").await.unwrap();
    while !ids.contains(&"b".to_owned()) {
        let AssignmentEvent::Changed { added, removed, .. } = next(&mut stream).await else {
            panic!("a change was due")
        };
        assert!(removed.is_empty(), "{removed:?}");
        ids.extend(added.into_iter().map(|item| item.id));
    }
    one.report("b", "up").unwrap();
    eventually("its status", || async {
        client.assignments().reports("w1").await.unwrap().statuses.get("b").map(|_| ())
    })
    .await;
    // The one that founded the cluster may go: the two others are a majority, and a manager they stay over a restart.
    cluster.kill(0).await;
    eventually("a leader among the promoted", || async { one.client().kv().put("k", "w").await.ok() }).await;
    one.shutdown().await;
    let one = cluster.builder(&cluster.path("w1"), "").start(Start::Open).await.unwrap();
    assert_eq!(one.role(), NodeRole::Manager);
    one.ready().await.unwrap();
    assert_eq!(one.client().kv().get("k").await.unwrap().unwrap().value, "w");
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_off_is_promoted_when_it_returns_and_one_that_died_in_the_middle_goes_on() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    worker.shutdown().await;
    promote(&cluster, "w1").await;
    // Dying again and again on the way, it asks as the same store each time.
    let mut tries = 0;
    let node = loop {
        let node = cluster.builder(&cluster.path("w1"), "").start(Start::Open).await.unwrap();
        if tries == 6 {
            break node;
        }
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20 * tries)).await;
        node.abandon();
        stopped(&node).await;
    };
    becomes(&node, NodeRole::Manager).await;
    eventually("it is a standby", || async {
        let status = cluster.any().status().await;
        status.managers.iter().any(|manager| manager.name == "w1" && manager.seat == "standby").then_some(())
    })
    .await;
    // One raft id was given out for it.
    assert_eq!(record(&cluster, "w1").raft_id, 2);
    assert!(!cluster.path("w1").join("node.state").exists());
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_cannot_be_carried_out_says_why_and_the_worker_goes_on() {
    let cluster = Cluster::founded().await;
    // Given a worker that would listen where a manager is.
    let start = cluster.joining_as_worker().await;
    let taken = cluster.node(0).address().to_string();
    let worker = cluster.builder(&cluster.path("w1"), "w1").listen(&taken).start(start).await.unwrap();
    worker.ready().await.unwrap();
    promote(&cluster, "w1").await;
    let trouble = eventually("the reason", || async {
        let trouble = worker.report_of_itself().trouble;
        (!trouble.is_empty()).then_some(trouble)
    })
    .await;
    says(&trouble, &["m1", &taken, "--listen", "stays a worker"]);
    assert_eq!(worker.role(), NodeRole::Worker);
    // It is still there and still works; restarted elsewhere it is promoted.
    cluster.any().client().assignments().set("w1", "a", "1").await.unwrap();
    eventually("the item", || async { worker.report("a", "up").ok() }).await;
    worker.shutdown().await;
    let free = closed_port();
    let worker = cluster.builder(&cluster.path("w1"), "").listen(&free).start(Start::Open).await.unwrap();
    becomes(&worker, NodeRole::Manager).await;
    assert_eq!(worker.address().to_string(), free);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_nobody_can_reach_gets_no_raft_id_and_whoever_asks_is_told_why() {
    let cluster = Cluster::founded().await;
    // Given a worker that says of itself that it is where it is not.
    let nowhere = closed_port();
    let start = cluster.joining_as_worker().await;
    let builder = cluster.builder(&cluster.path("w1"), "w1").advertise(&nowhere);
    let worker = builder.start(start).await.unwrap();
    cluster.sees_worker("w1", "ready").await;
    // When it is promoted.
    let client = cluster.any().client();
    client.nodes().promote("w1").detached().await.unwrap();
    // Then it is told what hinders it, and so is everybody who asks about it.
    let hindered = eventually("why it waits", || async {
        let node = client.nodes().inspect("w1").await.ok()?;
        node.outlook.clone().filter(|outlook| outlook.contains("could not reach")).map(|_| node)
    })
    .await;
    says(hindered.outlook.as_ref().unwrap(), &["waits", "m1", "could not reach", &nowhere, "--advertise"]);
    assert!(!hindered.settled && hindered.raft_id == 0);
    let trouble = eventually("its own word", || async {
        let trouble = worker.report_of_itself().trouble;
        (!trouble.is_empty()).then_some(trouble)
    })
    .await;
    says(&trouble, &["could not reach", &nowhere, "stays a worker", "nothing was changed"]);
    // Nothing was given out for it, however often it asked, and what hinders it is written down once.
    let before = cluster.any().status().await.revision;
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    assert_eq!(cluster.any().status().await.revision, before);
    assert_eq!((worker.role(), record(&cluster, "w1").raft_id), (NodeRole::Worker, 0));
    // Opened with the right address it becomes a manager, under the first raft id that is given out.
    worker.shutdown().await;
    let free = closed_port();
    let builder = cluster.builder(&cluster.path("w1"), "").listen(&free).advertise(&free);
    let worker = builder.start(Start::Open).await.unwrap();
    becomes(&worker, NodeRole::Manager).await;
    let record = record(&cluster, "w1");
    assert_eq!((record.raft_id, record.hindrance.as_str(), record.addresses.as_slice()), (2, "", &[free][..]));
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_manager_goes_on_as_a_worker_without_its_log_and_may_be_promoted_again() {
    let mut cluster = Cluster::founded().await;
    cluster.join().await;
    let standby = |cluster: &Cluster| {
        let node = cluster.any().clone();
        async move {
            let status = node.status().await;
            status.managers.iter().any(|manager| manager.name == "m2" && manager.seat == "standby").then_some(())
        }
    };
    eventually("a standby", || standby(&cluster)).await;
    let node = cluster.node(1).clone();
    let before = record(&cluster, "m2").raft_id;
    // When it is demoted.
    demote(&cluster, "m2").await;
    becomes(&node, NodeRole::Worker).await;
    // Then it is a worker: no log, no token was needed, a session and items.
    let directory = cluster.members[1].directory.clone();
    assert!(!directory.join("store").exists());
    assert!(node.report_of_itself().session.is_some());
    cluster.any().client().assignments().set("m2", "a", "1").await.unwrap();
    eventually("an item", || async { node.report("a", "up").ok() }).await;
    cluster.sees_worker("m2", "ready").await;
    let status = cluster.any().status().await;
    assert_eq!((status.managers.len(), status.voters), (1, 1));
    // It stays one over a restart.
    node.shutdown().await;
    drop(node);
    cluster.members[1].node = None;
    cluster.restart(1).await;
    becomes(cluster.node(1), NodeRole::Worker).await;
    // Promoted again it gets a new raft id and a new store.
    promote(&cluster, "m2").await;
    becomes(cluster.node(1), NodeRole::Manager).await;
    eventually("a standby again", || standby(&cluster)).await;
    assert!(record(&cluster, "m2").raft_id > before);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_whose_demotion_was_done_right_before_the_quorum_was_lost_is_a_worker_of_the_recovered_cluster() {
    // Given a standby that an operator has demoted, and that the leader has just let go
    let mut cluster = Cluster::of(4).await;
    cluster.agrees().await;
    let leader = cluster.leader().await;
    let managers = cluster.any().status().await.managers;
    let name = managers.into_iter().find(|manager| manager.seat == "standby").expect("a standby").name;
    let named = |index: &usize| cluster.node(*index).name() == name;
    let standby = cluster.running().into_iter().find(named).unwrap();
    let node = cluster.node(standby).clone();
    let leading = cluster.node(leader).clone();
    leading.client().nodes().demote(&name).await.unwrap();
    let gone = || leading.records().iter().any(|record| record.name == name && record.raft_id == 0).then_some(());
    eventually("its raft id is gone", || async { gone() }).await;
    drop(leading);
    // When the others are lost, so that nobody can say what it is now, and the cluster is recovered from the one that led
    for index in cluster.others(standby).into_iter().filter(|index| *index != leader) {
        cluster.kill(index).await;
    }
    eventually("it is a manager no more", || async { node.records().is_empty().then_some(()) }).await;
    cluster.kill(leader).await;
    recovered(&mut cluster, leader).await;
    // Then it is a worker of that one: nobody had fenced it for what it was before.
    becomes(&node, NodeRole::Worker).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_demoted_while_it_was_off_learns_it_when_it_returns() {
    let mut cluster = Cluster::founded().await;
    cluster.join().await;
    eventually("a standby", || async { (cluster.any().status().await.managers.len() == 2).then_some(()) }).await;
    cluster.kill(1).await;
    demote(&cluster, "m2").await;
    cluster.restart(1).await;
    becomes(cluster.node(1), NodeRole::Worker).await;
    assert!(!cluster.members[1].directory.join("store").exists());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_nodes_stop_and_say_so_also_when_they_were_off() {
    let mut cluster = Cluster::founded().await;
    let running = cluster.worker("w1").await;
    let off = cluster.worker("w2").await;
    off.shutdown().await;
    cluster.join().await;
    cluster.join().await;
    cluster.settled(3).await;
    // A standby that runs, and one that is off.
    cluster.join().await;
    eventually("a standby", || async {
        let status = cluster.any().status().await;
        status.managers.iter().any(|manager| manager.name == "m4" && manager.seat == "standby").then_some(())
    })
    .await;
    for name in ["w1", "w2", "m4"] {
        remove(&cluster, name).await;
    }
    assert_eq!(stopped(&running).await, StopReason::Removed);
    assert_eq!(stopped(cluster.node(3)).await, StopReason::Removed);
    assert_eq!(StopReason::Removed.exit_code(), 10);
    // Off meanwhile, or started once more, they learn it then.
    for directory in [cluster.path("w1"), cluster.path("w2"), cluster.members[3].directory.clone()] {
        let again = cluster.builder(&directory, "").start(Start::Open).await.unwrap();
        assert_eq!(stopped(&again).await, StopReason::Removed);
        // What was there stays there.
        assert!(inspect(&directory).unwrap().ready);
    }
    cluster.members[3].node = None;
    // Their names are free, and the cluster goes on.
    let start = cluster.joining_as_worker().await;
    let anew = cluster.builder(&cluster.path("anew"), "w1").start(start).await.unwrap();
    anew.ready().await.unwrap();
    assert_eq!(cluster.any().status().await.workers.len(), 1);
    anew.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_moved_is_found_again_and_so_are_all_of_them_with_one_hint() {
    let mut cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    cluster.any().client().kv().put("k", "v").await.unwrap();
    // When one manager comes back at another address.
    cluster.kill(1).await;
    let moved = closed_port();
    let node = cluster.builder_of(1).listen(&moved).start(Start::Open).await.unwrap();
    cluster.members[1].node = Some(node);
    cluster.settled(3).await;
    eventually("the others know where it is", || async {
        let status = cluster.node(0).status().await;
        status.managers.iter().any(|manager| manager.name == "m2" && manager.address == moved).then_some(())
    })
    .await;
    // When all of them move at once, and two are told where the first one is.
    for index in 0..3 {
        cluster.kill(index).await;
    }
    let first = closed_port();
    for index in 0..3 {
        let builder = cluster.builder_of(index);
        let builder = match index {
            0 => builder.listen(&first),
            _ => builder.listen(closed_port()).manager(&first),
        };
        cluster.members[index].node = Some(builder.start(Start::Open).await.unwrap());
    }
    cluster.settled(3).await;
    assert_eq!(cluster.any().client().kv().get("k").await.unwrap().unwrap().value, "v");
    // Then everybody knows everybody's new address, without any hint.
    let addresses = cluster.addresses();
    eventually("the records say where they are", || async {
        let status = cluster.any().status().await;
        status.managers.iter().all(|manager| addresses.contains(&manager.address)).then_some(())
    })
    .await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    cluster.settled(3).await;
    // A worker, too, needs one hint.
    worker.shutdown().await;
    let hint = cluster.node(2).address().to_string();
    let worker = cluster.builder(&cluster.path("w1"), "").manager(hint).start(Start::Open).await.unwrap();
    worker.ready().await.unwrap();
    worker.shutdown().await;
    let worker = cluster.worker_again("w1").await;
    worker.ready().await.unwrap();
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_disk_was_wiped_takes_its_old_name_only_when_it_is_asked_to() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let client = cluster.any().client();
    client.nodes().update("w1").label("zone", "east").label("quorate.manager", "yes").await.unwrap();
    client.assignments().set("w1", "a", "1").await.unwrap();
    eventually("the item", || async { worker.report("a", "up").ok() }).await;
    eventually("its status", || async { client.assignments().reports("w1").await.ok()?.statuses.get("a").cloned() })
        .await;
    cluster.sees_worker("w1", "ready").await;
    let Start::OpenOrJoin { token, managers } = cluster.joining_as_worker().await else { panic!("a join") };
    let anew = |name: &str| cluster.builder(&cluster.path("anew"), name);
    // The name stands for a node that the cluster knows: a newcomer does not take it by itself.
    let refused = anew("w1").join(&token, managers.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Refused(_)), "{refused}");
    says(&refused, &["w1", "taken", "--name", "join --replace --name", "Nothing was changed"]);
    // Nor is it taken from a node that runs.
    let refused = anew("w1").join_in_place(&token, managers.clone()).await.unwrap_err();
    says(&refused, &["w1", "running", "stop it", "Nothing was changed"]);
    // When its disk is gone, and another one is told to take its place.
    worker.shutdown().await;
    std::fs::rename(cluster.path("w1"), cluster.path("old")).unwrap();
    cluster.sees_worker("w1", "down").await;
    let manager_token = cluster.token().await;
    let refused = anew("w1").join_in_place(&manager_token, managers.clone()).await.unwrap_err();
    says(&refused, &["w1", "worker", "token show worker"]);
    let id = record(&cluster, "w1").node_id();
    let prepared = anew("w1").join_in_place(&token, managers.clone()).await.unwrap();
    assert_eq!((prepared.name.as_str(), prepared.node_id), ("w1", id.unwrap().to_string()));
    // Asked again the directory is there already, and is not taken for another's.
    let refused = anew("w1").join_in_place(&token, managers.clone()).await.unwrap_err();
    says(&refused, &["already holds a node", "quorate run"]);
    let node = anew("").start(Start::Open).await.unwrap();
    node.ready().await.unwrap();
    // Then it is that node: labels, items and what was reported of them are as they were, and work goes on.
    assert_eq!(record(&cluster, "w1").label("zone"), Some("east"));
    // (But an operator never said of the new disk's key that it may become a manager's.)
    assert_eq!(record(&cluster, "w1").label("quorate.manager"), None);
    assert_eq!(cluster.any().status().await.workers.len(), 1);
    let mut stream = node.assignments();
    let AssignmentEvent::Complete { items, stale, .. } = next(&mut stream).await else {
        panic!("a complete set was due")
    };
    assert_eq!((items.len(), items[0].id.as_str(), stale), (1, "a", false));
    node.report("a", "up again").unwrap();
    eventually("the new status", || async {
        let reports = client.assignments().reports("w1").await.ok()?;
        (reports.statuses.get("a")? == "up again").then_some(())
    })
    .await;
    cluster.sees_worker("w1", "ready").await;
    // The old disk is nobody's any more, and stops by itself.
    let old = cluster.builder(&cluster.path("old"), "").start(Start::Open).await.unwrap();
    let StopReason::IdentityRefused(why) = stopped(&old).await else { panic!("it goes on") };
    says(&why, &["another key", "move the directory aside"]);
    cluster.sees_worker("w1", "ready").await;
    // What is no worker's place is not taken: a name that nobody has, and a manager's.
    let none = cluster.builder(&cluster.path("none"), "w9").join_in_place(&token, managers.clone()).await.unwrap_err();
    says(&none, &["w9", "without --replace"]);
    let manager = cluster.builder(&cluster.path("none"), "m1").join_in_place(&token, managers).await.unwrap_err();
    says(&manager, &["m1", "manager", "quorate node rm m1"]);
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_away_takes_its_entries_from_one_that_it_knows_as_a_worker() {
    // Given a standby that is away while a worker that it knows becomes a manager, is seated, and leads
    let mut cluster = Cluster::of(4).await;
    let worker = cluster.worker("w1").await;
    cluster.agrees().await;
    cluster.kill(3).await;
    promote(&cluster, "w1").await;
    becomes(&worker, NodeRole::Manager).await;
    let client = cluster.any().client();
    client.nodes().demote("m3").await.unwrap();
    let leads = || async { (cluster.node(0).status().await.leader.as_deref() == Some("w1")).then_some(()) };
    eventually("it leads", || async {
        let _not_seated_yet = client.transfer_leadership(Some("w1")).await;
        leads().await
    })
    .await;
    client.kv().put("k", "v").await.unwrap();
    // when the standby comes back,
    let returned = cluster.try_restart(3).await.unwrap();
    // then it has what was written meanwhile, and the same one leads.
    eventually("the standby follows", || async {
        let found = returned.client().kv().get("k").serializable().await.ok()??;
        (found.value == "v").then_some(())
    })
    .await;
    assert!(leads().await.is_some());
    assert_eq!(returned.status().await.leader.as_deref(), Some("w1"));
    returned.shutdown().await;
    worker.shutdown().await;
    cluster.stop().await;
}
