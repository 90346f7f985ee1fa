//! Disks: damaged, wiped, newer, full. The member that has one stops with a word; the others go on.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use quorate::{Start, StartError, StopReason, inspect};
use quorate_core::id::StoreId;
use quorate_storage::testing::SmallDisk;

use crate::support::{BUDGET, Cluster, eventually, says, store_options};

/// The journal file of a stopped node that was written last.
fn journal(directory: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = walk(&directory.join("store"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter(|path| std::fs::metadata(path).unwrap().len() > 0)
        .collect();
    found.sort();
    found.pop().expect("a journal with something in it")
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(walk(&path)) } else { all.push(path) }
    }
    all
}

async fn three_with_a_stopped_follower() -> (Cluster, usize) {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    for number in 0..50 {
        client.kv().put(format!("n/{number}"), vec![b'x'; 256]).await.unwrap();
    }
    cluster.agrees().await;
    let follower = (cluster.leader().await + 1) % 3;
    cluster.kill(follower).await;
    (cluster, follower)
}

/// The others serve reads and writes, and miss nothing.
async fn goes_on(cluster: &Cluster) {
    let client = cluster.outside(&cluster.running()).await;
    client.kv().put("still", "here").await.unwrap();
    assert_eq!(client.kv().prefix("n/").all().await.unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_damaged_journal_does_not_start_and_the_others_go_on() {
    let (mut cluster, follower) = three_with_a_stopped_follower().await;
    let file = journal(&cluster.members[follower].directory);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    let cut = whole[..whole.len() / 2].to_vec();
    for damaged in [flipped, cut] {
        std::fs::write(&file, damaged).unwrap();
        let refused = cluster.try_restart(follower).await.unwrap_err();
        assert!(matches!(refused, StartError::Damaged(_)), "{refused}");
        says(&refused, &["damaged", "Nothing was changed", "join again"]);
        assert_eq!(refused.exit_code(), 12);
        goes_on(&cluster).await;
    }
    // Nothing was changed: with the bytes as they were it comes back.
    std::fs::write(&file, whole).unwrap();
    cluster.restart(follower).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_newer_format_is_not_touched() {
    let (mut cluster, follower) = three_with_a_stopped_follower().await;
    let file = cluster.members[follower].directory.join("store/format");
    let ours = std::fs::read(&file).unwrap();
    std::fs::write(&file, "quorate store format 5\n").unwrap();
    let refused = cluster.try_restart(follower).await.unwrap_err();
    assert!(matches!(refused, StartError::NeedsVersion(_)), "{refused}");
    says(&refused, &["newer", "Nothing was changed"]);
    goes_on(&cluster).await;
    std::fs::write(&file, ours).unwrap();
    cluster.restart(follower).await;
    cluster.settled(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_directory_with_its_old_certificate_is_not_run() {
    let (cluster, follower) = three_with_a_stopped_follower().await;
    let directory = &cluster.members[follower].directory;
    std::fs::remove_dir_all(directory.join("store")).unwrap();
    assert!(directory.join("node.id").exists());
    let refused = cluster.try_restart(follower).await.unwrap_err();
    assert!(matches!(refused, StartError::Directory(_)), "{refused}");
    says(&refused, &["store is gone", "quorate join --replace"]);
    // Nor does it become a second node of the same cluster, or a cluster of its own.
    for start in [cluster.joining().await, Start::OpenOrInit] {
        let refused = cluster.builder(directory, "").start(start).await.unwrap_err();
        says(&refused, &["store is gone", "quorate join --replace"]);
    }
    assert!(!directory.join("store").exists());
    goes_on(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_store_under_its_old_identity_gets_no_vote() {
    let (mut cluster, follower) = three_with_a_stopped_follower().await;
    let directory = cluster.members[follower].directory.clone();
    // Given the facts of the old node in a store that was made anew: its log is gone, so is every vote it gave.
    let old: StoreId = inspect(&directory).unwrap().store_id.parse().unwrap();
    let opened = quorate_storage::open(&directory.join("store"), store_options(&directory)).unwrap();
    let facts = opened.meta.get("node").unwrap().unwrap();
    drop(opened);
    std::fs::remove_dir_all(directory.join("store")).unwrap();
    let at = facts.windows(16).position(|window| window == old.as_bytes()).unwrap();
    let mut forged = facts.to_vec();
    forged[at..at + 16].copy_from_slice(&[7; 16]);
    let opened = quorate_storage::open(&directory.join("store"), store_options(&directory)).unwrap();
    opened.meta.put(&[("node", Bytes::from(forged))]).unwrap();
    drop(opened);
    // When it runs while the cluster needs it for a quorum.
    let wiped = cluster.try_restart(follower).await.unwrap();
    let gone = cluster.others(follower)[0];
    cluster.kill(gone).await;
    // Then it stops by itself, and says what to do.
    let reason = tokio::time::timeout(BUDGET, wiped.stopped()).await.expect("it stops");
    assert!(matches!(reason, StopReason::IdentityRefused(_)), "{reason}");
    says(&reason, &["store", "join"]);
    assert_eq!(reason.exit_code(), 14);
    // And no leader was made with its help: nothing is written without a true majority.
    let left = cluster.running()[0];
    let client = cluster.node(left).client().with_deadline(std::time::Duration::from_secs(2));
    client.kv().put("without", "majority").await.unwrap_err();
    // The true second member gives the quorum back.
    cluster.restart(gone).await;
    eventually("a leader is back", || async { cluster.node(gone).ready().await.ok() }).await;
    goes_on(&cluster).await;
    cluster.stop().await;
}

/// Three members, the last of them on a small disk.
async fn three_with_a_small_disk(small: &SmallDisk) -> Cluster {
    let mut cluster = Cluster::of(1).await;
    cluster.join().await;
    // Without marks of free space: here writes are to fail.
    cluster.space_marks = Some((0, 0));
    cluster.join_in(small.path().join("m3")).await;
    cluster.settled(3).await;
    cluster
}

/// Writes until the member on the small disk has stopped; answers how many writes were acknowledged.
async fn fill(cluster: &Cluster, full: usize) -> (usize, StopReason) {
    let client = cluster.outside(&cluster.running()).await;
    let (mut written, node) = (0, cluster.node(full).clone());
    let stopped = async { node.stopped().await };
    tokio::pin!(stopped);
    loop {
        assert!(written < 500, "the disk never fills");
        tokio::select! {
            biased;
            reason = &mut stopped => return (written, reason),
            done = client.kv().put(format!("big/{written:04}"), vec![b'x'; 256 << 10]) => {
                done.unwrap();
                written += 1;
            }
        }
    }
}

async fn full_disk_of(leads: bool) {
    let temp = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(temp.path().join("small"), "32m").unwrap() else { return };
    let mut cluster = three_with_a_small_disk(&small).await;
    cluster.lead_by(if leads { 2 } else { 0 }).await;
    // When its disk is full, it stops and says so.
    let (written, reason) = fill(&cluster, 2).await;
    assert!(matches!(reason, StopReason::DiskFailed(_)), "{reason}");
    says(&reason, &["disk", "space", "start the node again"]);
    assert_eq!(reason.exit_code(), 13);
    cluster.members[2].node = None;
    // Then the others go on, and everything acknowledged is there.
    let client = cluster.outside(&[0, 1]).await;
    client.kv().put("still", "here").await.unwrap();
    let keys = client.kv().prefix("big/").keys_only().all().await.unwrap();
    let expected: Vec<String> = (0..written).map(|number| format!("big/{number:04}")).collect();
    for key in &expected {
        assert!(keys.iter().any(|entry| entry.key == key.as_bytes()), "{key} was acknowledged and is gone");
    }
    // As long as there is no space it says so again.
    match cluster.try_restart(2).await {
        Ok(node) => {
            let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("no space, no running");
            assert!(matches!(reason, StopReason::DiskFailed(_)), "{reason}");
        }
        Err(error) => assert!(matches!(error, StartError::Disk(_)), "{error}"),
    }
    // When there is space again, it starts and catches up.
    small.resize("512m").unwrap();
    cluster.restart(2).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_full_disk_stops_and_comes_back_with_space() {
    full_disk_of(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_full_disk_loses_leadership_and_nothing_acknowledged() {
    full_disk_of(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_joins_anew_under_another_name() {
    let (mut cluster, follower) = three_with_a_stopped_follower().await;
    let directory = cluster.members[follower].directory.clone();
    std::fs::remove_dir_all(&directory).unwrap();
    let before = cluster.any().status().await;
    let start = cluster.joining().await;
    let node = cluster.builder(&directory, "anew").start(start).await.unwrap();
    node.ready().await.unwrap();
    // Then it is another node under another raft id.
    let after = node.status().await;
    let anew = after.managers.iter().find(|manager| manager.name == "anew").unwrap();
    assert!(before.managers.iter().all(|manager| manager.raft_id != anew.raft_id && manager.id != anew.id));
    cluster.members[follower].node = Some(node);
    goes_on(&cluster).await;
    // And the start that made it serves at every boot.
    cluster.kill(follower).await;
    let again = cluster.builder(&directory, "anew").start(Start::OpenOrInit).await.unwrap();
    again.ready().await.unwrap();
    cluster.members[follower].node = Some(again);
    cluster.stop().await;
}
