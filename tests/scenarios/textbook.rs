//! Managers that go, one way or another, and who takes their seats: with the log as the proof.

use std::process::{Child, Command};
use std::time::Duration;

use quorate::membership::Availability;
use quorate::status::{ClusterStatus, Health};
use quorate::{AssignmentEvent, Assignments, Node, Start, inspect_configurations};

use crate::load::{Load, all_there};
use crate::recovery::{WRITES, alone, holds, odd_everywhere, recover, three_voters, write};
use crate::support::{BUDGET, Cluster, eventually};

/// A voter is taken for lost after the shortest time that the timing allows.
const LOST_AFTER: Duration = Duration::from_secs(4);

fn named(status: &ClusterStatus, seat: &str) -> Vec<String> {
    status.managers.iter().filter(|manager| manager.seat == seat).map(|manager| manager.name.clone()).collect()
}

fn index_of(cluster: &Cluster, name: &str) -> usize {
    cluster.running().into_iter().find(|index| cluster.node(*index).name() == name).expect("it runs")
}

/// One voter and one standby.
async fn one_and_a_standby() -> (Cluster, usize, usize) {
    let cluster = Cluster::of(2).await;
    let status = eventually("a voter and a standby", || async {
        let status = cluster.any().status().await;
        (named(&status, "standby").len() == 1 && status.health == Health::Ok).then_some(status)
    })
    .await;
    let voter = index_of(&cluster, &named(&status, "voter")[0]);
    let standby = index_of(&cluster, &named(&status, "standby")[0]);
    (cluster, voter, standby)
}

/// The configuration changes of voters above an index, in a stopped directory: what changes, and whether it is joint.
fn seats_changed_above(cluster: &Cluster, index: usize, above: u64) -> Vec<(String, bool)> {
    let found = inspect_configurations(&cluster.members[index].directory).unwrap();
    let rows = found.entries.iter().filter(|row| row.index > above && row.standing != "void");
    // (A change of standbys alone is a simple one.)
    rows.filter(|row| !row.voters_outgoing.is_empty() || row.change == "leave")
        .map(|row| (row.change.clone(), !row.voters_outgoing.is_empty()))
        .collect()
}

async fn next(stream: &mut Assignments) -> AssignmentEvent {
    tokio::time::timeout(BUDGET, stream.next()).await.expect("an event").expect("the node runs")
}

/// What an item stands for: a process that only its owner ends.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("sleep").arg("3600").spawn().unwrap())
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_drained_the_leader_leaves_by_force_and_a_promoted_worker_makes_three_voters_again() {
    // Given three managers, two workers, and writers.
    let mut cluster = Cluster::of(3).await;
    for number in 1..=2 {
        let node = cluster.worker(&format!("w{number}")).await;
        cluster.add(cluster.path(&format!("w{number}")), node);
    }
    let client = cluster.outside(&[0, 1, 2]).await.with_deadline(BUDGET);
    let load = Load::start("load/", vec![client.clone()]);
    // When a worker and the managers that do not lead are drained,
    let leader = cluster.leader().await;
    let leaving = cluster.node(leader).name();
    let nodes = client.nodes();
    let drained: Vec<String> =
        cluster.others(leader).into_iter().filter(|index| *index < 3).map(|index| cluster.node(index).name()).collect();
    for name in drained.iter().map(String::as_str).chain(["w1"]) {
        assert_eq!(
            nodes.update(name).availability(Availability::Drain).await.unwrap().node.availability,
            Availability::Drain
        );
    }
    // and the leader leaves by force,
    let own = cluster.node(leader).client();
    let outcome = own.nodes().leave().forced().detached().await.unwrap();
    assert!(outcome.changed, "{outcome:?}");
    let stopped = tokio::time::timeout(BUDGET, cluster.node(leader).stopped()).await.expect("it stops");
    assert_eq!(stopped, quorate::StopReason::Removed);
    let gone = cluster.members[leader].node.take().unwrap();
    drop(gone);
    // then a drained manager leads, the only voter,
    let status = eventually("one voter leads", || async {
        let status = client.status().await.ok()?;
        (status.voters == 1 && status.leader.is_some()).then_some(status)
    })
    .await;
    assert!(
        drained.contains(status.leader.as_ref().unwrap()) && !named(&status, "voter").contains(&leaving),
        "{status:?}"
    );
    // and when the worker is active again and promoted, there are three voters.
    nodes.update("w1").availability(Availability::Active).await.unwrap();
    let outcome = nodes.promote("w1").await.unwrap();
    assert!(outcome.done, "{outcome:?}");
    let status = eventually("three voters", || async {
        let status = client.status().await.ok()?;
        (status.voters == 3 && status.fault_tolerance == 1).then_some(status)
    })
    .await;
    let mut seats = named(&status, "voter");
    seats.sort();
    let mut expected = [drained, vec!["w1".to_owned()]].concat();
    expected.sort();
    assert_eq!(seats, expected);
    // All the while writes went on, and every configuration was odd.
    let acknowledged = load.stop().await;
    all_there(&client, "load/", &acknowledged).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_managers_are_killed_the_items_go_on_and_are_the_same_processes_after_force_new_cluster() {
    // Given three managers and two workers, each with an item that is a process.
    let mut cluster = Cluster::of(3).await;
    write(&cluster.any().client(), 0..WRITES).await;
    let (one, two) = (cluster.worker("w1").await, cluster.worker("w2").await);
    let work = cluster.any().client().assignments();
    let mut streams = [one.assignments(), two.assignments()];
    let mut processes = Vec::new();
    for (worker, stream) in [&one, &two].into_iter().zip(&mut streams) {
        work.set(worker.id(), "web", "1").await.unwrap();
        let mut set = 0;
        while set == 0 {
            set = match next(stream).await {
                AssignmentEvent::Complete { items, .. } => items.len(),
                AssignmentEvent::Changed { added, .. } => added.len(),
                other => panic!("a set was due: {other:?}"),
            };
        }
        let process = Process::start();
        worker.report("web", process.0.id().to_string()).unwrap();
        processes.push(process);
    }
    cluster.agrees().await;
    let survivor = cluster.others(cluster.leader().await)[0];
    // When all managers are killed, and one worker restarts meanwhile,
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    two.shutdown().await;
    let two: Node = cluster.worker_again("w2").await;
    let mut again = two.assignments();
    // then the items go on, from what the worker has on its own disk,
    let AssignmentEvent::Complete { items, stale, .. } = next(&mut again).await else {
        panic!("a complete set was due")
    };
    assert_eq!((items.len(), items[0].id.as_str(), stale), (1, "web", true));
    // (What was said of an item that nobody heard is said again by who restarted; the other worker remembers it.)
    two.report("web", processes[1].0.id().to_string()).unwrap();
    // and when one manager comes back by force-new-cluster, the workers are its workers, with the same items.
    let node = cluster.builder_of(survivor).force_new_cluster(1).start(Start::Open).await.unwrap();
    cluster.members[survivor].node = Some(node);
    alone(&cluster, survivor).await;
    let client = cluster.node(survivor).client();
    for worker in [&one, &two] {
        eventually("its session", || async { worker.report_of_itself().session.map(|_| ()) }).await;
        client.assignments().set(worker.id(), "db", "2").await.unwrap();
    }
    for stream in [&mut streams[0], &mut again] {
        let mut added = Vec::new();
        while !added.contains(&"db".to_owned()) {
            match next(stream).await {
                AssignmentEvent::Complete { items, .. } => {
                    assert!(items.iter().any(|item| item.id == "web"), "web was taken away");
                    added.extend(items.into_iter().map(|item| item.id));
                }
                AssignmentEvent::Changed { added: new, removed, .. } => {
                    assert!(removed.is_empty(), "{removed:?}");
                    added.extend(new.into_iter().map(|item| item.id));
                }
                other => panic!("a set was due: {other:?}"),
            }
        }
    }
    for (worker, process) in [&one, &two].into_iter().zip(&mut processes) {
        assert!(process.runs());
        // What a worker said of its item while nobody listened is known at last.
        let expected = process.0.id().to_string();
        eventually("the process that its item is", || async {
            let report = client.assignments().reports(&worker.id()).await.ok()?;
            (report.statuses.get("web").map(|status| &status[..]) == Some(expected.as_bytes())).then_some(())
        })
        .await;
    }
    holds(&client, WRITES).await;
    // Promotion brings three voters again, and the processes are still the same.
    for name in ["w1", "w2"] {
        client.nodes().promote(name).await.unwrap();
    }
    three_voters(&cluster).await;
    assert!(processes.iter_mut().all(Process::runs));
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_dies_is_replaced_by_the_standby_in_one_joint_change_and_returns_as_a_standby() {
    let mut cluster = Cluster::of(4).await;
    let client = cluster.outside(&[0, 1, 2, 3]).await.with_deadline(BUDGET);
    client.policy().set().lost_after(LOST_AFTER).await.unwrap();
    let load = Load::start("load/", vec![client.clone()]);
    let status = cluster.settled(3).await;
    let (leader, standby) = (cluster.leader().await, named(&status, "standby").remove(0));
    let lost = named(&status, "voter").into_iter().find(|name| *name != cluster.node(leader).name()).unwrap();
    let before = status.managers.iter().map(|manager| manager.applied).max().unwrap();
    // When a voter dies for good
    let index = index_of(&cluster, &lost);
    cluster.kill(index).await;
    let status = eventually("the standby is seated", || async {
        let status = client.status().await.ok()?;
        (named(&status, "voter").contains(&standby) && status.fault_tolerance == 1).then_some(status)
    })
    .await;
    // then three voters are alive again; and the one that returns is a standby, under its old raft id, without a token.
    assert_eq!(status.voters, 3);
    let raft_id = |status: &ClusterStatus| status.managers.iter().find(|manager| manager.name == lost).unwrap().raft_id;
    let before_its_return = raft_id(&status);
    cluster.restart(index).await;
    let status = eventually("it is a standby", || async {
        let status = client.status().await.ok()?;
        let back = status.managers.iter().any(|manager| manager.name == lost && manager.reachable && manager.lag == 0);
        (back && status.health == Health::Ok).then_some(status)
    })
    .await;
    assert_eq!((named(&status, "standby"), raft_id(&status)), (vec![lost.clone()], before_its_return));
    all_there(&client, "load/", &load.stop().await).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
    // The log of whoever led says it: one joint entry and its leave.
    let changes = seats_changed_above(&cluster, leader, before);
    assert!(matches!(changes.as_slice(), [(_, true), (leave, false)] if leave == "leave"), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_away_for_a_moment_again_and_again_keeps_its_seat() {
    let mut cluster = Cluster::of(4).await;
    let client = cluster.outside(&[0, 1, 2, 3]).await.with_deadline(BUDGET);
    client.policy().set().lost_after(LOST_AFTER).await.unwrap();
    let before = cluster.settled(3).await;
    let leader = cluster.leader().await;
    let flapping = named(&before, "voter").into_iter().find(|name| *name != cluster.node(leader).name()).unwrap();
    let index = index_of(&cluster, &flapping);
    let since = before.managers.iter().map(|manager| manager.applied).max().unwrap();
    // When it is away for a part of the time, several times, and for longer than that time in all
    for _ in 0..4 {
        cluster.kill(index).await;
        tokio::time::sleep(LOST_AFTER / 3).await;
        cluster.restart(index).await;
        cluster.settled(3).await;
    }
    // then nobody took its seat.
    assert!(named(&client.status().await.unwrap(), "voter").contains(&flapping));
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    assert_eq!(seats_changed_above(&cluster, leader, since), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_changes_places_with_its_standby_under_load() {
    // Given one voter, one standby, and writers.
    let (mut cluster, voter, standby) = one_and_a_standby().await;
    let client = cluster.outside(&[0, 1]).await.with_deadline(BUDGET);
    let load = Load::start("load/", vec![client.clone(), client.clone()]);
    eventually("writes", || async { (load.acknowledged() > 20).then_some(()) }).await;
    let before = cluster.any().status().await.managers.iter().map(|manager| manager.applied).max().unwrap();
    // When the voter is demoted, it is its standby's turn.
    let name = cluster.node(voter).name();
    let outcome = client.nodes().demote(&name).await.unwrap();
    assert!(outcome.done && outcome.voters == 1, "{outcome:?}");
    let (acknowledged, status) = (load.acknowledged(), client.status().await.unwrap());
    assert_eq!((status.leader, status.voters), (Some(cluster.node(standby).name()), 1));
    eventually("writes go on", || async { (load.acknowledged() > acknowledged + 20).then_some(()) }).await;
    // And back again.
    assert!(client.nodes().promote(&name).await.unwrap().done);
    all_there(&client, "load/", &load.stop().await).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
    let changes = seats_changed_above(&cluster, standby, before);
    assert!(matches!(changes.as_slice(), [(_, true), (leave, false)] if leave == "leave"), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_voter_and_a_standby_the_voters_disk_may_be_destroyed_and_no_acknowledged_write_is_gone() {
    // Given one voter and one standby: a write is acknowledged when both have it.
    let (mut cluster, voter, standby) = one_and_a_standby().await;
    let client = cluster.outside(&[voter]).await.with_deadline(Duration::from_secs(2));
    let load = Load::start("load/", (0..4).map(|_| client.clone()).collect());
    eventually("writes", || async { (load.acknowledged() > 100).then_some(()) }).await;
    // When the voter's disk is destroyed in the middle of the writes,
    cluster.kill(voter).await;
    std::fs::remove_dir_all(&cluster.members[voter].directory).unwrap();
    let acknowledged = load.stop().await;
    // and the standby is made the new cluster,
    cluster.kill(standby).await;
    let report = recover(&cluster, standby).run().await.unwrap();
    assert!(report.written, "{report:?}");
    cluster.restart(standby).await;
    alone(&cluster, standby).await;
    // then nothing that was acknowledged is missing.
    all_there(&cluster.node(standby).client(), "load/", &acknowledged).await;
    cluster.stop().await;
}
