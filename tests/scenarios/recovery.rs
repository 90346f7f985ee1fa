//! Force-new-cluster: managers lost for good, and what becomes of those that come back.

use std::collections::BTreeMap;

use quorate::recovery::RecoveryReport;
use quorate::status::{ClusterStatus, Health};
use quorate::{Client, Recover, StartError, StopReason, fenced, inspect, inspect_configurations};

use crate::support::{BUDGET, Cluster, eventually, says};

/// Writes acknowledged before the managers are lost.
pub const WRITES: usize = 30;

/// What lies at `n/NUMBER`; some of it is large.
fn value(number: usize) -> String {
    format!("v{number}").repeat(if number.is_multiple_of(10) { 2_000 } else { 1 })
}

pub async fn write(client: &Client, keys: std::ops::Range<usize>) {
    for number in keys {
        client.kv().put(format!("n/{number}"), value(number)).await.unwrap();
    }
}

pub async fn holds(client: &Client, count: usize) {
    let client = client.with_deadline(BUDGET);
    let entries = client.kv().prefix("n/").all().await.unwrap();
    let found: BTreeMap<Vec<u8>, Vec<u8>> =
        entries.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec())).collect();
    for number in 0..count {
        let there = found.get(format!("n/{number}").as_bytes());
        let there = there.unwrap_or_else(|| panic!("n/{number} was acknowledged and is gone"));
        assert_eq!(there.as_slice(), value(number).as_bytes(), "n/{number}");
    }
}

/// So many managers with acknowledged writes on all of them, then all killed; which of them is taken for the survivor.
pub async fn all_killed(managers: usize) -> (Cluster, usize) {
    let mut cluster = Cluster::of(managers).await;
    write(&cluster.any().client(), 0..WRITES).await;
    cluster.agrees().await;
    let survivor = (cluster.leader().await + 1) % managers;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    (cluster, survivor)
}

pub fn recover(cluster: &Cluster, index: usize) -> Recover {
    Recover::from(&cluster.members[index].directory)
}

/// Recovers from one member and starts it; it leads alone.
pub async fn recovered(cluster: &mut Cluster, survivor: usize) -> RecoveryReport {
    let report = recover(cluster, survivor).run().await.unwrap();
    assert!(report.written, "{report:?}");
    cluster.restart(survivor).await;
    alone(cluster, survivor).await;
    report
}

/// It leads, the only voter, everybody else lost.
pub async fn alone(cluster: &Cluster, survivor: usize) -> ClusterStatus {
    let node = cluster.node(survivor);
    eventually("the survivor leads alone", || async {
        let status = node.status().await;
        let lost = status.managers.iter().filter(|manager| manager.seat == "lost").count();
        let led = status.leader == Some(node.name()) && status.voters == 1 && status.recovered.is_some();
        (led && lost + 1 == status.managers.len()).then_some(status)
    })
    .await
}

/// It stops by itself, fenced; its directory is never run again and says so.
pub async fn is_fenced(cluster: &mut Cluster, index: usize) {
    if let Some(node) = cluster.members[index].node.take() {
        let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("it stops");
        assert!(matches!(reason, StopReason::Superseded(_)), "{reason}");
        assert_eq!(reason.exit_code(), 11);
        says(&reason, &["fenced", "join --replace", "--token"]);
    }
    for _ in 0..3 {
        let refused = cluster.try_restart(index).await.unwrap_err();
        assert!(matches!(refused, StartError::Superseded(_)), "{refused}");
        assert_eq!(refused.exit_code(), 11);
        says(&refused, &["of generation 1", "fenced", "Nothing in it was changed", "join --replace"]);
    }
    let directory = &cluster.members[index].directory;
    assert!(fenced(directory).unwrap().is_some());
    // It cannot be recovered from either, and its data stays.
    let refused = recover(cluster, index).despite_peers(true).run().await.unwrap_err();
    assert!(matches!(refused, StartError::Superseded(_)), "{refused}");
    assert!(inspect(directory).unwrap().applied > 0);
}

/// Every configuration in every stopped manager's directory is odd in both halves.
pub fn odd_everywhere(cluster: &Cluster) {
    let stopped = cluster.members.iter().filter(|member| member.node.is_none());
    for member in stopped.filter(|member| member.directory.join("store").exists()) {
        let found = inspect_configurations(&member.directory).unwrap();
        for row in found.entries.iter().chain([&found.in_force]) {
            assert!(row.is_odd(), "{}: {row:?}", found.name);
        }
    }
}

/// There are three voters, all of them reachable.
pub async fn three_voters(cluster: &Cluster) -> ClusterStatus {
    eventually("three voters again", || async {
        let status = cluster.any().status().await;
        let voters = status.managers.iter().filter(|manager| manager.seat == "voter" && manager.reachable).count();
        (status.voters == 3 && voters == 3 && status.health == Health::Ok).then_some(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_goes_on_alone_with_everything_and_the_cluster_grows_again() {
    let (mut cluster, survivor) = all_killed(3).await;
    // Given a look at what there is,
    let before = inspect(&cluster.members[survivor].directory).unwrap();
    let looked = recover(&cluster, survivor).dry_run().await.unwrap();
    assert_eq!((looked.generation, looked.new_generation, looked.verdict.as_str()), (1, 2, "recover"));
    assert_eq!((looked.last_term, looked.last_index), (before.last_term, before.last_index));
    assert_eq!((looked.commit, looked.applied), (before.commit.max(before.applied), before.applied));
    assert_eq!(looked.refusal, None);
    assert!(!looked.written && looked.managers.len() == 2 && looked.managers.iter().all(|manager| !manager.answers));
    // which changes nothing,
    assert_eq!(inspect(&cluster.members[survivor].directory).unwrap(), before);
    // when it is recovered,
    let report = recovered(&mut cluster, survivor).await;
    assert_eq!((report.kept_revision, report.generation), (looked.kept_revision, 1));
    // then it has everything, is at generation 2, and says what was kept.
    let client = cluster.node(survivor).client();
    holds(&client, WRITES).await;
    let status = cluster.node(survivor).status().await;
    assert_eq!((status.generation, status.health), (2, Health::SingleCopy));
    assert_eq!(status.recovered.unwrap().kept_revision, report.kept_revision.unwrap());
    let done = client.kv().put("after", "x").await.unwrap();
    assert!(done.revision > report.first_revision.unwrap());
    // An old revision is told to be of another generation.
    let kept = report.kept_revision.unwrap();
    let old = client.kv().prefix("n/").revision(kept).await.unwrap_err();
    assert!(matches!(old, quorate::Error::NewGeneration { kept_revision, .. } if kept_revision == kept), "{old}");
    // So is a watch that was there, or beyond what was kept, and one from the new one's first revision on goes on.
    for from in [kept, kept + 1, kept + 100] {
        let mut watch = client.kv().watch("n/").prefix().from_revision(from).await.unwrap();
        let old = watch.next().await.unwrap_err();
        assert!(matches!(old, quorate::Error::NewGeneration { kept_revision, .. } if kept_revision == kept), "{old}");
    }
    let first = report.first_revision.unwrap();
    let mut watch = client.kv().watch("after").from_revision(first + 1).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), quorate::Watched::Changes(told) if told.revision == done.revision));
    // Two more join, with the token there always was, and hold what it holds.
    cluster.join().await;
    cluster.join().await;
    three_voters(&cluster).await;
    let newest = cluster.node(cluster.members.len() - 1).client();
    holds(&newest, WRITES).await;
    // And the log is the proof: it begins with the recovery.
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
    let proof = inspect_configurations(&cluster.members[survivor].directory).unwrap();
    assert!(proof.entries.iter().all(|row| row.generation == 2), "{proof:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_as_good_a_survivor_as_a_voter() {
    // Given four managers, one of them a standby, which alone is left
    let (mut cluster, _) = all_killed(4).await;
    let standby = (0..4)
        .find(|index| {
            let found = inspect(&cluster.members[*index].directory).unwrap();
            found.learners.contains(&found.raft_id)
        })
        .expect("one standby");
    let report = recovered(&mut cluster, standby).await;
    assert!(report.learners.contains(&report.raft_id) && report.voters.len() == 3);
    holds(&cluster.node(standby).client(), WRITES).await;
    odd_everywhere(&cluster);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_whose_node_runs_is_refused() {
    let cluster = Cluster::of(1).await;
    for refused in [recover(&cluster, 0).dry_run().await.unwrap_err(), recover(&cluster, 0).run().await.unwrap_err()] {
        assert!(matches!(refused, StartError::InUse(_)), "{refused}");
        says(&refused, &["in use", "Nothing was changed", "stop the running node"]);
    }
    cluster.any().client().kv().put("still", "here").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_alone_has_nothing_to_recover() {
    let mut cluster = Cluster::of(1).await;
    write(&cluster.any().client(), 0..5).await;
    cluster.kill(0).await;
    let before = inspect(&cluster.members[0].directory).unwrap();
    let report = recover(&cluster, 0).run().await.unwrap();
    assert_eq!((report.verdict.as_str(), report.written, report.new_generation), ("alone", false, 1));
    let after = inspect(&cluster.members[0].directory).unwrap();
    assert_eq!((after.last_index, after.term, after.lineage), (before.last_index, before.term, before.lineage));
    cluster.restart(0).await;
    holds(&cluster.node(0).client(), 5).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_can_be_recovered_again_and_again() {
    let (mut cluster, first) = all_killed(3).await;
    recovered(&mut cluster, first).await;
    for generation in 3..=4 {
        // Given a cluster that has grown again, and is lost again
        let newest = cluster.join().await;
        cluster.join().await;
        three_voters(&cluster).await;
        write(&cluster.any().client(), WRITES..WRITES + 10).await;
        cluster.agrees().await;
        for index in cluster.running() {
            cluster.kill(index).await;
        }
        let report = recover(&cluster, newest).run().await.unwrap();
        assert_eq!((report.generation, report.new_generation), (generation - 1, generation));
        // (A second call says that it is done.)
        let again = recover(&cluster, newest).run().await.unwrap();
        assert_eq!((again.verdict.as_str(), again.written), ("begun", false));
        cluster.restart(newest).await;
        let status = alone(&cluster, newest).await;
        assert_eq!(status.generation, generation);
        holds(&cluster.node(newest).client(), WRITES + 10).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_healthy_majority_it_is_refused_and_by_force_the_majority_is_fenced() {
    // Given three managers of which one is stopped, and somebody who takes it for the only survivor
    let mut cluster = Cluster::of(3).await;
    write(&cluster.any().client(), 0..WRITES).await;
    cluster.agrees().await;
    let mistaken = (cluster.leader().await + 1) % 3;
    cluster.kill(mistaken).await;
    let before = inspect(&cluster.members[mistaken].directory).unwrap();
    let looked = recover(&cluster, mistaken).dry_run().await.unwrap();
    assert!(looked.managers.iter().all(|manager| manager.answers && manager.last_index.is_some()), "{looked:?}");
    says(&looked.refusal.unwrap(), &["alive"]);
    let refused = recover(&cluster, mistaken).run().await.unwrap_err();
    assert!(matches!(refused, StartError::ClusterAlive(_)), "{refused}");
    says(&refused, &["the cluster is alive", "Nothing was changed", "--despite-peers"]);
    // (Opening the store to write may note what it found durable; what it holds is as it was.)
    let after = inspect(&cluster.members[mistaken].directory).unwrap();
    assert_eq!((after.last_index, after.term, &after.lineage), (before.last_index, before.term, &before.lineage));
    // The majority goes on meanwhile.
    write(&cluster.any().client(), WRITES..WRITES + 5).await;
    let majority = cluster.running();
    let theirs = cluster.any().client().kv().get(format!("n/{}", WRITES + 4)).await.unwrap().unwrap().mod_revision;
    // When it is done by force
    let report = recover(&cluster, mistaken).despite_peers(true).run().await.unwrap();
    assert!(report.written && report.refusal.is_some());
    cluster.restart(mistaken).await;
    // then the majority is fenced, for good, and no revision of theirs is one of the new incarnation.
    for index in majority {
        is_fenced(&mut cluster, index).await;
    }
    alone(&cluster, mistaken).await;
    let client = cluster.node(mistaken).client().with_deadline(BUDGET);
    holds(&client, WRITES).await;
    assert_eq!(client.kv().get(format!("n/{}", WRITES + 4)).await.unwrap(), None);
    assert!(client.kv().put("k", "v").await.unwrap().revision > theirs + 1_000_000);
    odd_everywhere(&cluster);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_other_manager_that_makes_a_majority_it_is_told_to_start_instead() {
    let (mut cluster, survivor) = all_killed(3).await;
    let other = (survivor + 1) % 3;
    cluster.restart(other).await;
    let refused = recover(&cluster, survivor).run().await.unwrap_err();
    assert!(matches!(refused, StartError::ClusterAlive(_)), "{refused}");
    says(&refused, &["majority", "start it", "Nothing was changed"]);
    // That is the better advice: nothing is lost, and it stays generation 1.
    cluster.restart(survivor).await;
    holds(&cluster.node(survivor).client(), WRITES).await;
    assert_eq!(cluster.node(survivor).status().await.generation, 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresher_log_on_a_manager_that_runs_is_not_left_behind() {
    // Given five managers, and one that missed the last writes
    let mut cluster = Cluster::of(5).await;
    write(&cluster.any().client(), 0..WRITES).await;
    cluster.agrees().await;
    let behind = (cluster.leader().await + 1) % 5;
    cluster.kill(behind).await;
    write(&cluster.any().client(), WRITES..WRITES + 5).await;
    cluster.agrees().await;
    let fresher = cluster.running()[0];
    for index in cluster.others(fresher) {
        cluster.kill(index).await;
    }
    eventually("it knows that there is no leader", || async {
        cluster.node(fresher).status().await.leader.is_none().then_some(())
    })
    .await;
    // When the one that is behind is to be the survivor, then the fresher one is named.
    let refused = recover(&cluster, behind).run().await.unwrap_err();
    assert!(matches!(refused, StartError::ClusterAlive(_)), "{refused}");
    let name = cluster.node(fresher).name();
    says(&refused, &["fresher", &format!("recover from {name} instead")]);
    // And it is the better survivor.
    cluster.kill(fresher).await;
    recovered(&mut cluster, fresher).await;
    holds(&cluster.node(fresher).client(), WRITES + 5).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_that_was_left_behind_does_nothing_over_three_restarts() {
    let (mut cluster, survivor) = all_killed(3).await;
    // Given a start that was told to end generation 1
    let start = |cluster: &Cluster| cluster.builder_of(survivor).force_new_cluster(1).start(quorate::Start::Open);
    let node = start(&cluster).await.unwrap();
    cluster.members[survivor].node = Some(node);
    alone(&cluster, survivor).await;
    cluster.join().await;
    cluster.join().await;
    three_voters(&cluster).await;
    // when the flag stays
    for _ in 0..3 {
        cluster.kill(survivor).await;
        let node = start(&cluster).await.unwrap();
        cluster.members[survivor].node = Some(node);
        // then it does nothing: the same generation, the same managers.
        let status = three_voters(&cluster).await;
        assert_eq!(status.generation, 2);
    }
    holds(&cluster.node(survivor).client(), WRITES).await;
    // One that names a generation that is not yet is a mistake, and said to be.
    cluster.kill(survivor).await;
    let refused = cluster.builder_of(survivor).force_new_cluster(3).start(quorate::Start::Open).await.unwrap_err();
    says(&refused, &["of generation 2", "Nothing was changed"]);
    assert_eq!(refused.exit_code(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_managers_started_together_are_fenced_and_come_back_with_a_token() {
    let (mut cluster, survivor) = all_killed(3).await;
    recovered(&mut cluster, survivor).await;
    let old: Vec<usize> = (0..3).filter(|index| *index != survivor).collect();
    // When both old managers, a majority of what was, are started at the same time
    let started = [cluster.try_restart(old[0]), cluster.try_restart(old[1])];
    for (index, node) in old.iter().zip(Box::pin(futures(started)).await) {
        cluster.members[*index].node = Some(node.unwrap());
    }
    // then neither serves, and both are fenced.
    for index in &old {
        is_fenced(&mut cluster, *index).await;
    }
    // With a token they come back: under new raft ids, with what they had moved aside.
    let token = cluster.token().await;
    let managers = cluster.addresses();
    for index in &old {
        let before = inspect(&cluster.members[*index].directory).unwrap();
        let without = cluster.builder_of(*index).rejoin(managers.clone()).await.unwrap_err();
        says(&without, &["is fenced", "--token", "Nothing in it was changed"]);
        // (Refused, it is as it was.)
        let worker = cluster.any().client().join_token("worker").await.unwrap();
        let refused = cluster.builder_of_as_recorded(*index).replace(&worker, managers.clone()).await.unwrap_err();
        says(&refused, &["token", "Nothing was changed"]);
        let nobody = vec![crate::support::closed_port()];
        cluster.builder_of_as_recorded(*index).replace(&token, nobody).await.unwrap_err();
        assert!(!cluster.members[*index].directory.join("store.old-1").exists());
        assert!(fenced(&cluster.members[*index].directory).unwrap().is_some());
        assert_eq!(inspect(&cluster.members[*index].directory).unwrap(), before);
        let prepared = cluster.builder_of_as_recorded(*index).replace(&token, managers.clone()).await.unwrap();
        assert!(prepared.raft_id > 1 << 32, "{prepared:?}");
        assert_eq!((prepared.node_id, prepared.name), (before.node_id, before.name));
        let aside = cluster.members[*index].directory.join("store.old-1");
        assert!(aside.is_dir(), "the old store was moved aside");
        cluster.restart(*index).await;
    }
    let status = three_voters(&cluster).await;
    assert!(status.managers.iter().all(|manager| manager.seat == "voter"), "{status:?}");
    for index in &old {
        holds(&cluster.node(*index).client(), WRITES).await;
    }
    // One in good standing is not replaced.
    cluster.kill(old[0]).await;
    let managers = cluster.addresses();
    let refused = cluster.builder_of_as_recorded(old[0]).replace(&token, managers).await.unwrap_err();
    says(&refused, &["sound", "the cluster counts on it", "Nothing was changed"]);
    cluster.restart(old[0]).await;
    three_voters(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_moved_on_the_word_of_a_manager_without_a_quorum() {
    // Given a manager of three that stands alone: what it knows may be old
    let mut cluster = Cluster::of(3).await;
    let token = cluster.token().await;
    for index in [1, 2] {
        cluster.kill(index).await;
    }
    let managers = cluster.addresses();
    // When another one is to be replaced through it
    let refused = cluster.builder_of_as_recorded(1).replace(&token, managers).await.unwrap_err();
    // Then it is refused, with what to do, and its data is where it was
    assert!(matches!(refused, StartError::Unavailable(_)), "{refused:?}");
    says(&refused, &["is not known", "nothing was changed", "when the cluster has a leader"]);
    assert!(!cluster.members[1].directory.join("store.old-1").exists());
    for index in [1, 2] {
        cluster.restart(index).await;
    }
    three_voters(&cluster).await;
    cluster.stop().await;
}

/// Awaits both at once.
async fn futures<F: Future<Output = T>, T>([one, two]: [F; 2]) -> [T; 2] {
    let (one, two) = tokio::join!(one, two);
    [one, two]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recoveries_of_one_cluster_name_each_other_and_talk_no_more() {
    let (mut cluster, first) = all_killed(3).await;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    for index in [first, second] {
        assert!(recover(&cluster, index).run().await.unwrap().written);
    }
    for index in [first, second] {
        cluster.restart(index).await;
    }
    // Then both lead, alone, and each names the other in its status.
    for (index, other) in [(first, second), (second, first)] {
        let other = format!("m{}", other + 1);
        let status = eventually("the fork is told", || async {
            let status = cluster.node(index).status().await;
            (!status.forks.is_empty() && status.voters == 1 && status.leader.is_some()).then_some(status)
        })
        .await;
        assert_eq!(status.forks.iter().map(|fork| fork.name.clone()).collect::<Vec<_>>(), std::slice::from_ref(&other));
        assert_eq!(status.health, Health::Degraded);
        says(&status.advice.join("\n"), &["FORKED", &other, "wipe"]);
        holds(&cluster.node(index).client(), WRITES).await;
        cluster.node(index).client().kv().put("mine", other).await.unwrap();
    }
    // A client that knows one of them does not go over to the other.
    let client = cluster.outside(&[first, second]).await;
    let met = client.kv().get("mine").await.unwrap().unwrap().value;
    let mine = if met == format!("m{}", second + 1) { first } else { second };
    cluster.kill(mine).await;
    client.with_deadline(std::time::Duration::from_secs(2)).kv().get("mine").await.unwrap_err();
    cluster.restart(mine).await;
    let again = client.with_deadline(BUDGET).kv().get("mine").await.unwrap().unwrap().value;
    assert_eq!(again, met);
    // The third is of neither: it is fenced by whichever it meets.
    cluster.members[third].node = Some(cluster.try_restart(third).await.unwrap());
    is_fenced(&mut cluster, third).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_recovers_from_a_removed_manager_beside_the_cluster_that_went_on() {
    // Given a manager that was removed while it was off, and one that ran and was told; the cluster goes on
    let mut cluster = Cluster::of(5).await;
    write(&cluster.any().client(), 0..WRITES).await;
    let leader = cluster.leader().await;
    let (off, told) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    let names = [off, told].map(|index| cluster.node(index).name());
    cluster.kill(off).await;
    let nodes = cluster.node(leader).client().nodes();
    for name in &names {
        nodes.remove(name).forced().await.unwrap();
    }
    let stopped = cluster.members[told].node.take().unwrap();
    let reason = tokio::time::timeout(BUDGET, stopped.stopped()).await.expect("it stops");
    assert_eq!(reason, StopReason::Removed);
    drop(stopped);
    cluster.node(leader).client().kv().put("after", "x").await.unwrap();
    // When somebody takes their directories for survivors, then the managers that run are named, and nothing is changed.
    for index in [off, told] {
        let looked = recover(&cluster, index).dry_run().await.unwrap();
        assert!(looked.managers.iter().any(|manager| manager.answers), "{looked:?}");
        says(&looked.refusal.unwrap(), &["does not know this node", "Nothing was changed"]);
        let refused = recover(&cluster, index).run().await.unwrap_err();
        assert!(matches!(refused, StartError::ClusterAlive(_)), "{refused}");
    }
    // Nor from the one that was told, when nobody answers.
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    let refused = recover(&cluster, told).run().await.unwrap_err();
    says(&refused, &["was removed", "--despite-peers", "Nothing was changed"]);
}
