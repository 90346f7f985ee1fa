//! Assignments: from the orchestrator to the worker, and what it says of them back.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate::{AssignmentEvent, Assignments, Client, Error, Node, compare, operation};

use crate::support::{BUDGET, Cluster, eventually, says};

async fn next(stream: &mut Assignments) -> AssignmentEvent {
    tokio::time::timeout(BUDGET, stream.next()).await.expect("an event").expect("the node runs")
}

/// The ids of a complete set, and whether it is stale.
async fn complete(stream: &mut Assignments) -> (Vec<String>, bool) {
    match next(stream).await {
        AssignmentEvent::Complete { items, stale, .. } => (items.into_iter().map(|item| item.id).collect(), stale),
        other => panic!("a complete set was due: {other:?}"),
    }
}

/// Ids with payloads that came, ids that went.
async fn changed(stream: &mut Assignments) -> (Vec<(String, Bytes)>, Vec<String>) {
    match next(stream).await {
        AssignmentEvent::Changed { added, removed, .. } => {
            (added.into_iter().map(|item| (item.id, item.payload)).collect(), removed)
        }
        other => panic!("a change was due: {other:?}"),
    }
}

async fn reported(client: &Client, node: &Node, item: &str, status: &str) {
    eventually("the status arrives", || async {
        let report = client.assignments().reports(&node.id()).await.unwrap();
        (report.statuses.get(item).map(|found| &found[..]) == Some(status.as_bytes())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_gets_a_complete_set_and_then_differences() {
    let cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    let mut stream = worker.assignments();
    assert_eq!(complete(&mut stream).await, (vec![], false));
    // When items are given, by name and by id, with what they refer to.
    let work = cluster.any().client().assignments();
    assert!(work.set("w1", "web.1", "nginx").await.unwrap().succeeded);
    assert_eq!(changed(&mut stream).await, (vec![("web.1".into(), "nginx".into())], vec![]));
    // Several in one transaction come as one change.
    let id = worker.id();
    work.txn().set(&id, "web.2", "nginx").set(&id, "db.1", "pg").remove(&id, "web.1").await.unwrap();
    let (added, removed) = changed(&mut stream).await;
    assert_eq!(added, [("db.1".into(), "pg".into()), ("web.2".into(), "nginx".into())]);
    assert_eq!(removed, ["web.1"]);
    // Written anew, an item comes again.
    work.set(&id, "db.1", "pg17").await.unwrap();
    assert_eq!(changed(&mut stream).await, (vec![("db.1".into(), "pg17".into())], vec![]));
    // A second stream begins with all of it.
    let mut second = worker.assignments();
    assert_eq!(complete(&mut second).await, (vec!["db.1".into(), "web.2".into()], false));
    // The orchestrator reads what it has given, through any manager.
    let items = cluster.outside(&[1]).await.assignments().get("w1").await.unwrap();
    let names: Vec<_> = items.iter().map(|item| (item.id.as_str(), &item.payload[..])).collect();
    assert_eq!(names, [("db.1", &b"pg17"[..]), ("web.2", &b"nginx"[..])]);
    work.clear(&id).await.unwrap();
    assert_eq!(changed(&mut stream).await.1, ["db.1", "web.2"]);
    worker.shutdown().await;
    let ended = tokio::time::timeout(BUDGET, stream.next()).await.expect("the stream ends with its node");
    assert_eq!(ended, None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_over_items_is_conditional_fenced_and_may_hold_user_keys() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let id = worker.id();
    let client = cluster.any().client();
    let work = client.assignments();
    work.set(&id, "a", "1").await.unwrap();
    let revision = work.get(&id).await.unwrap()[0].revision;
    // On the item's own revision.
    assert!(!work.set(&id, "a", "2").when_revision(&id, "a", revision + 1).await.unwrap().succeeded);
    assert!(work.set(&id, "a", "2").when_revision(&id, "a", revision).await.unwrap().succeeded);
    assert!(!work.set(&id, "a", "3").when_revision(&id, "a", 0).await.unwrap().succeeded);
    assert!(work.set(&id, "b", "1").when_revision(&id, "b", 0).await.unwrap().succeeded);
    // Together with user keys, all or nothing.
    let both =
        || work.set(&id, "c", "1").when(compare::absent("placed/c")).then(operation::put("placed/c", id.clone()));
    assert!(both().await.unwrap().succeeded);
    assert!(!both().await.unwrap().succeeded);
    assert_eq!(client.kv().get("placed/c").await.unwrap().unwrap().value, id);
    // A leader that was deposed gives nobody anything.
    let term = client.status().await.unwrap().term;
    let fenced = client.with_fence(term + 1).assignments().set(&id, "d", "1").await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced(_)), "{fenced}");
    client.with_fence(term).assignments().set(&id, "d", "1").await.unwrap();
    // A node that the cluster does not know gets nothing, and it is said.
    let stranger = quorate_core::id::NodeId::from_bytes([9; 16]).to_string();
    for node in [stranger.as_str(), "nobody"] {
        let refused = work.set(node, "a", "1").await.unwrap_err();
        assert!(matches!(refused, Error::NotFound(_)), "{refused}");
        says(&refused, &[node, "Nothing was changed"]);
    }
    // What could not be told to a worker is refused before it is sent.
    let refused = work.set(&id, "", "1").await.unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_each_item_comes_back_also_after_a_restart_and_through_another_manager() {
    let mut cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let work = client.assignments();
    let id = worker.id();
    work.txn().set(&id, "a", "1").set(&id, "b", "1").await.unwrap();
    let mut stream = worker.assignments();
    eventually("both items", || async { worker.report("b", "starting").ok() }).await;
    worker.report("a", "running").unwrap();
    worker.report("b", "running").unwrap();
    reported(&client, &worker, "a", "running").await;
    reported(&client, &worker, "b", "running").await;
    // An item that is not its own has no status.
    assert!(matches!(worker.report("c", "?"), Err(Error::NotFound(_))));
    // With the item goes its status.
    work.remove(&id, "b").await.unwrap();
    eventually("the status of b goes", || async {
        let statuses = work.reports(&id).await.unwrap().statuses;
        (statuses == BTreeMap::from([("a".to_owned(), Bytes::from_static(b"running"))])).then_some(())
    })
    .await;
    // When its manager dies, what it says goes through another one.
    let held = worker.report_of_itself().session.unwrap().manager;
    let index = cluster.running().into_iter().find(|index| cluster.node(*index).name() == held).unwrap();
    cluster.kill(index).await;
    worker.report("a", "degraded").unwrap();
    reported(&client, &worker, "a", "degraded").await;
    cluster.restart(index).await;
    // When the worker itself restarts, what it said stands until it says something else, and then that.
    worker.shutdown().await;
    drop(stream);
    let worker = cluster.worker_again("w1").await;
    worker.ready().await.unwrap();
    reported(&client, &worker, "a", "degraded").await;
    stream = worker.assignments();
    assert_eq!(complete(&mut stream).await, (vec!["a".into()], false));
    worker.report("a", "running again").unwrap();
    reported(&client, &worker, "a", "running again").await;
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_without_managers_also_over_a_reboot() {
    let mut cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let id = worker.id();
    cluster.any().client().assignments().txn().set(&id, "a", "1").set(&id, "b", "2").await.unwrap();
    let mut stream = worker.assignments();
    eventually("both items", || async { worker.report("b", "up").ok() }).await;
    // When no manager is left, nothing is taken from it.
    cluster.kill(0).await;
    eventually("no session", || async { worker.report_of_itself().session.is_none().then_some(()) }).await;
    loop {
        match next(&mut stream).await {
            AssignmentEvent::Changed { added, removed, .. } => {
                assert!(removed.is_empty());
                if added.iter().any(|item| item.id == "b") {
                    break;
                }
            }
            AssignmentEvent::Complete { items, .. } if items.len() == 2 => break,
            _ => {}
        }
    }
    // And when it reboots meanwhile, it has them at once, marked stale.
    worker.shutdown().await;
    let worker = cluster.worker_again("w1").await;
    let mut stream = worker.assignments();
    assert_eq!(complete(&mut stream).await, (vec!["a".into(), "b".into()], true));
    let report = worker.report_of_itself();
    assert!(report.assignments_stale && report.session.is_none());
    // When the manager is back, the set is confirmed, and work given meanwhile comes.
    cluster.restart(0).await;
    assert_eq!(complete(&mut stream).await, (vec!["a".into(), "b".into()], false));
    cluster.any().client().assignments().set(&id, "c", "3").await.unwrap();
    assert_eq!(changed(&mut stream).await.0, [("c".into(), "3".into())]);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_larger_than_one_message_arrives_whole() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let id = worker.id();
    let work = cluster.any().client().assignments();
    let payload = |n: usize| Bytes::from(vec![u8::try_from(n).unwrap(); 900_000]);
    for n in 0..6 {
        work.set(&id, format!("big.{n}"), payload(n)).await.unwrap();
    }
    eventually("all six", || async { (worker.report_of_itself().items.len() == 6).then_some(()) }).await;
    worker.shutdown().await;
    // Gone from its disk, all of it is told again.
    std::fs::remove_file(cluster.path("w1").join("assignments")).unwrap();
    let worker = cluster.worker_again("w1").await;
    let AssignmentEvent::Complete { items, stale, .. } = next(&mut worker.assignments()).await else {
        panic!("a complete set was due")
    };
    assert!(!stale && items.len() == 6);
    assert!(items.iter().enumerate().all(|(n, item)| item.payload == payload(n)));
    // And read back, in more than one page.
    assert_eq!(work.get(&id).await.unwrap().len(), 6);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_has_items_too() {
    let cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    let node = cluster.node(2);
    let mut stream = node.assignments();
    assert_eq!(complete(&mut stream).await, (vec![], false));
    client.assignments().set("m3", "a", "1").await.unwrap();
    assert_eq!(changed(&mut stream).await.0, [("a".into(), "1".into())]);
    node.report("a", "running").unwrap();
    reported(&client, node, "a", "running").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_all_the_items_it_may_have_gets_them_anew_and_no_more() {
    // Given a worker with as many items as there may be,
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let (work, id) = (cluster.any().client().assignments(), worker.id());
    let all: Vec<String> = (0..4096).map(|n| format!("item.{n}")).collect();
    for some in all.chunks(100) {
        let txn = some.iter().fold(work.txn(), |txn, item| txn.set(&id, item, "v"));
        assert!(txn.await.unwrap().succeeded);
    }
    // then each can be written anew,
    assert!(work.set(&id, "item.7", "v2").await.unwrap().succeeded);
    // one more is refused,
    let refused = work.set(&id, "one more", "v").await.unwrap_err();
    let limit = refused.limit().map(|limit| (limit.name.as_str(), limit.bound, limit.actual));
    assert_eq!(limit, Some(("ITEMS_MAX", 4_096, 4_097)), "{refused}");
    says(&refused, &["ITEMS_MAX", "4096", "nothing was changed", &format!("items of node {id}")]);
    // and finds room once one has gone.
    work.remove(&id, "item.7").await.unwrap();
    assert!(work.set(&id, "one more", "v").await.unwrap().succeeded);
    worker.shutdown().await;
    cluster.stop().await;
}
