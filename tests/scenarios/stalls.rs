//! Disks that hang and disks that are nearly full: nothing has failed, and the member still must not stand in the way.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use quorate::status::{ClusterStatus, Health, ManagerStatus};
use quorate::{Error, Node, Start, StopReason};
use quorate_storage::testing::SmallDisk;

use crate::support::{BUDGET, Cluster, eventually, says};

/// A disk that does not get past one point while it is held.
#[derive(Clone)]
pub struct Hanging {
    at: &'static str,
    held: Arc<(Mutex<bool>, Condvar)>,
}

/// Its syncs do not return.
impl Default for Hanging {
    fn default() -> Self {
        Self::at("journal: before a sync")
    }
}

impl Hanging {
    pub fn at(at: &'static str) -> Self {
        Self { at, held: Arc::default() }
    }

    pub fn probe(&self) -> Arc<dyn Fn(&'static str) + Send + Sync> {
        let this = self.clone();
        Arc::new(move |point| {
            if point == this.at {
                let (held, changed) = &*this.held;
                drop(changed.wait_while(held.lock().unwrap(), |held| *held).unwrap());
            }
        })
    }

    pub fn hold(&self, hold: bool) {
        *self.held.0.lock().unwrap() = hold;
        self.held.1.notify_all();
    }
}

fn of<'a>(status: &'a ClusterStatus, name: &str) -> &'a ManagerStatus {
    status.managers.iter().find(|manager| manager.name == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_first_snapshot_hangs_writes_through_its_own_process_all_the_same() {
    // Given a manager that has just joined, and whose disk hangs with its first snapshot: it knows of no log and no state yet
    let mut cluster = Cluster::founded().await;
    let disk = Hanging::at("staging: finished");
    disk.hold(true);
    let (directory, start) = (cluster.path("m2"), cluster.joining().await);
    let builder = cluster.builder(&directory, "m2").store_probe(disk.probe());
    let newcomer = builder.start(start).await.unwrap();
    // When its own program writes
    let here = newcomer.client();
    let written = here.with_deadline(BUDGET).kv().put("k", "v").await.unwrap();
    // Then that is done, once, while there still is nothing on its disk
    let there = cluster.node(0).client().kv().get("k").await.unwrap().unwrap();
    assert_eq!((there.mod_revision, there.version), (written.revision, 1));
    assert_eq!(newcomer.status().await.revision, 0);
    // And when the disk answers again, it is one of two, and its program writes on
    disk.hold(false);
    cluster.add(directory, newcomer);
    cluster.settled(1).await;
    assert_eq!(here.kv().put("k", "w").await.unwrap().revision, written.revision + 1);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_hands_leadership_on_and_comes_back_when_it_answers() {
    // Given a leader on a disk that can hang
    let mut cluster = Cluster::of(3).await;
    let (disk, hung) = (Hanging::default(), 2);
    cluster.restart_as(hung, |builder| builder.store_probe(disk.probe())).await;
    let name = cluster.node(hung).name();
    cluster.settled(3).await;
    cluster.lead_by(hung).await;
    let (here, outside) = (cluster.node(hung).client(), cluster.outside(&[0, 1, 2]).await);
    here.kv().put("before", "x").await.unwrap();
    // When it does, in the middle of writes
    disk.hold(true);
    let writes: Vec<_> = [here.clone(), outside.clone()]
        .into_iter()
        .enumerate()
        .map(|(at, client)| tokio::spawn(async move { client.kv().put(format!("meanwhile/{at}"), "x").await }))
        .collect();
    // Then another one leads, and every write is done there, also those that were asked of the hung one
    eventually("another one leads", || async {
        let status = cluster.node(0).status().await;
        status.leader.is_some_and(|leader| leader != name).then_some(())
    })
    .await;
    for write in writes {
        write.await.unwrap().unwrap();
    }
    here.kv().put("through the hung one", "x").await.unwrap();
    // And everybody is told, by the hung one too
    for index in [0, hung] {
        let status = eventually("the status tells of the disk", || async {
            let status = cluster.node(index).status().await;
            (of(&status, &name).disk_silent_ms > 0).then_some(status)
        })
        .await;
        assert_eq!(status.health, Health::Degraded);
        assert_eq!(status.fault_tolerance, 0);
        assert!(of(&status, &name).disk_silent_ms >= 3_000);
        says(&status.advice.join("\n"), &[&name, "has not answered for", "next:"]);
    }
    // When the disk answers again, then the member is one of three, and can lead
    disk.hold(false);
    cluster.settled(3).await;
    cluster.agrees().await;
    assert_eq!(cluster.any().status().await.health, Health::Ok);
    cluster.lead_by(hung).await;
    assert_eq!(outside.kv().prefix("meanwhile/").all().await.unwrap().len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_low_on_space_hands_over_before_its_disk_is_full_and_catches_up_with_space() {
    let temp = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(temp.path().join("small"), "480m").unwrap() else { return };
    // Given a leader on a small disk
    let mut cluster = Cluster::of(1).await;
    cluster.join().await;
    // A reserve as they have in life: above what RocksDB writes anew when its write-ahead log is full.
    cluster.space_marks = Some((224 << 20, 256 << 20));
    let low = cluster.join_in(small.path().join("m3")).await;
    cluster.settled(3).await;
    cluster.lead_by(low).await;
    let (name, client) = (cluster.node(low).name(), cluster.outside(&[0, 1, 2]).await);
    // When something else takes the space there, then no write fails
    let ballast = small.path().join("ballast");
    std::fs::write(&ballast, vec![7; 340 << 20]).unwrap();
    let mut written = 0;
    let mut write = async |count: usize| {
        for _ in 0..count {
            client.kv().put(format!("big/{written:04}"), vec![b'x'; 256 << 10]).await.unwrap();
            written += 1;
        }
        written
    };
    let mut status = cluster.any().status().await;
    while of(&status, &name).low_space.is_none() {
        assert!(write(8).await < 1_000, "the lack of space is never noticed");
        status = cluster.any().status().await;
    }
    eventually("another one leads", || async {
        let status = cluster.any().status().await;
        status.leader.is_some_and(|leader| leader != name).then_some(())
    })
    .await;
    let written = write(200).await;
    // And the member runs, with its reserve, and says what keeps it back
    let free = quorate_storage::free_space(small.path()).unwrap();
    assert!(free > 4 << 20, "{free} bytes are left");
    let status = cluster.node(low).status().await;
    assert!(of(&status, &name).lag > 0);
    assert_eq!(status.health, Health::Degraded);
    says(&status.advice.join("\n"), &[&name, "low on space", "MiB free", "next:"]);
    // When there is space, it catches up by itself
    std::fs::remove_file(&ballast).unwrap();
    cluster.settled(3).await;
    cluster.agrees().await;
    let status = cluster.any().status().await;
    assert_eq!((of(&status, &name).low_space, status.health), (None, Health::Ok));
    assert_eq!(client.kv().prefix("big/").count_only().await.unwrap().count, u64::try_from(written).unwrap());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_alone_and_low_on_space_reads_and_refuses_to_write_until_there_is_space() {
    let temp = tempfile::tempdir().unwrap();
    let Some(small) = SmallDisk::mount(temp.path().join("small"), "64m").unwrap() else { return };
    let directory = small.path().join("m1");
    let builder = || Node::builder(&directory).listen("127.0.0.1:0").name("m1").space_marks(63 << 20, 80 << 20);
    // Given a lone manager with little space, in the middle of its life and from its start on
    let node = builder().space_marks(0, 0).start(Start::OpenOrInit).await.unwrap();
    node.client().kv().put("k", "v").await.unwrap();
    assert_eq!(node.shutdown().await, StopReason::Asked);
    std::fs::write(small.path().join("ballast"), vec![0; 8 << 20]).unwrap();
    let node = builder().start(Start::Open).await.unwrap();
    let status = eventually("it says that it only reads", || async {
        let status = node.status().await;
        (status.health == Health::ReadOnly).then_some(status)
    })
    .await;
    says(&status.advice.join("\n"), &["m1", "low on space", "reads go on"]);
    // When it is asked to write, then it says what is the matter and what to do
    let client = node.client().with_deadline(Duration::from_secs(1));
    let refused = client.kv().put("k", "w").await.unwrap_err();
    assert!(matches!(refused, Error::ReadOnly(_)) && refused.is_retryable(), "{refused}");
    says(&refused, &["disk space", "Nothing was changed", "by themselves"]);
    assert_eq!(client.kv().prefix("k").serializable().all().await.unwrap().first().unwrap().value, "v");
    // When there is space, then it writes by itself, and within its deadline a caller does not even notice
    let patient = node.client();
    let waiting = tokio::spawn(async move { patient.kv().put("k", "w").await });
    std::fs::remove_file(small.path().join("ballast")).unwrap();
    small.resize("128m").unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(node.status().await.health, Health::SingleCopy);
    // When it is short of it again, it still leads, and reads are linearizable
    small.resize("64m").unwrap();
    eventually("it says that it only reads", || async {
        (node.status().await.health == Health::ReadOnly).then_some(())
    })
    .await;
    assert_eq!(client.kv().get("k").await.unwrap().unwrap().value, "w");
    let refused = client.kv().put("k", "z").await.unwrap_err();
    assert!(matches!(refused, Error::ReadOnly(_)), "{refused}");
    assert_eq!(node.shutdown().await, StopReason::Asked);
}
