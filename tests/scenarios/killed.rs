//! Rotations that are killed at each of their writes: of the barrier's key in a manager that leads, and of the keys that
//! people keep in a stopped directory. Every write, sync and rename is counted by a pass that dies nowhere.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::keys::{Key, KeyKind, Keys};
use quorate::{Client, Node, Start, inspect, inspect_with};

use crate::authorities::without_the_first_operator;
use crate::crashes::shim;
use crate::sealing::{Change, essence, killed_at_each, run, stopped};
use crate::support::{BUDGET, Cluster, copy, eventually};

/// Secrets in the cluster: more than one order seals anew.
const SECRETS: usize = 70;

/// A manager in a process of its own, whose disk is told when the process is to end.
struct Told {
    child: Child,
    orders: PathBuf,
}

impl Told {
    /// Runs it, until it is ready.
    fn run(library: &Path, directory: &Path) -> Self {
        let orders = directory.with_extension("orders");
        let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["run", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .env("LD_PRELOAD", library)
            .env("QUORATE_DISK_ORDERS", &orders)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = Self { child, orders };
        assert!(line.starts_with("ready"), "{line}");
        told
    }

    /// It ends before so many more changes of files; 0: never. What was counted so far is told by the next change.
    fn end_at(&self, count: u64) {
        let draft = self.orders.with_extension("draft");
        std::fs::write(&draft, format!("0 0 0 {count}\n")).unwrap();
        std::fs::rename(&draft, &self.orders).unwrap();
    }

    /// How many changes of files there were between the last two orders that it has met.
    fn counted(&self) -> u64 {
        let file = self.orders.with_extension("orders.counted");
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A rotation of something that the whole cluster has: how it is asked for, and when it is over.
trait Rotation {
    /// Asks for it; whether that was acknowledged.
    async fn ask(&self, client: &Client) -> bool;
    /// How often it was done, once none is under way.
    async fn done(&self, client: &Client) -> Option<u64>;
    /// What must be, whatever was done.
    async fn holds(&self, client: &Client);
}

struct Barrier;

impl Rotation for Barrier {
    async fn ask(&self, client: &Client) -> bool {
        client.keyring().rotate().await.is_ok()
    }

    async fn done(&self, client: &Client) -> Option<u64> {
        let report = client.keyring().show().await.ok()?;
        let rests = !report.due && report.keys.len() == 1 && report.lacking.is_empty();
        rests.then(|| u64::from(report.active) - 1)
    }

    async fn holds(&self, client: &Client) {
        let report = client.keyring().show().await.unwrap();
        assert_eq!(report.keys[0].records, SECRETS as u64 + 3, "the secrets, the CA's key and two tokens: {report:?}");
        for n in 0..SECRETS {
            let shown = client.secrets().reveal(&format!("s{n}")).await.unwrap();
            assert_eq!(shown.expose(), format!("value {n}").as_bytes());
        }
    }
}

/// Waits until the rotation is over, once more than before; or the process is.
async fn over_or_dead(told: &mut Told, client: &Client, rotation: &impl Rotation) -> bool {
    let until = tokio::time::Instant::now() + BUDGET;
    loop {
        if told.is_over() {
            return false;
        }
        if rotation.done(client).await == Some(1) {
            return true;
        }
        assert!(tokio::time::Instant::now() < until, "neither over nor dead");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn opened(cluster: &Cluster, directory: &Path) -> Node {
    let node = cluster.builder(directory, "").start(Start::Open).await.unwrap();
    node.ready().await.unwrap();
    node
}

/// What a directory is worth that was left in the middle of it: the manager starts, and what was begun ends; asked for once more, it
/// is done. Whether it had been begun.
async fn goes_on(cluster: &Cluster, directory: &Path, rotation: &impl Rotation, acknowledged: bool, at: u64) -> bool {
    let node = opened(cluster, directory).await;
    let client = node.client();
    let done = || async { rotation.done(&client).await };
    let found = eventually("whatever was begun is over", done).await;
    assert!(found == 1 || found == 0 && !acknowledged, "died at {at}: acknowledged, and done {found} times");
    rotation.holds(&client).await;
    if found == 0 {
        assert!(rotation.ask(&client).await);
        eventually("asked for once more, it is done", || async { done().await.filter(|done| *done == 1) }).await;
        rotation.holds(&client).await;
    }
    node.shutdown().await;
    let found_on_disk = inspect(directory).unwrap();
    assert_eq!(found_on_disk.state_hash, found_on_disk.recorded_hash, "died at {at}");
    found == 1
}

/// Kills a leader at each change of a file that it makes from when a rotation is asked for until it is over. How many there were, and
/// after how many the rotation went on by itself.
async fn killed_leader(rotation: &impl Rotation) -> (u64, u64) {
    let mut cluster = Cluster::founded().await;
    without_the_first_operator(&cluster).await;
    for n in 0..SECRETS {
        cluster.any().client().secrets().create(format!("s{n}"), format!("value {n}")).await.unwrap();
    }
    cluster.kill(0).await;
    let pristine = cluster.members[0].directory.clone();
    quorate_storage::testing::lose_unsynced(&pristine.join("store")).unwrap();
    let library = shim(&cluster.path(""));
    // Given a pass that dies nowhere, and counts
    let dry = cluster.path("dry");
    copy(&pristine, &dry);
    let mut told = Told::run(&library, &dry);
    let client = Client::local(&dry).await.unwrap();
    told.end_at(0);
    assert!(rotation.ask(&client).await);
    assert!(over_or_dead(&mut told, &client, rotation).await);
    told.end_at(0);
    client.kv().put("k", "v").await.unwrap();
    let counted = told.counted();
    drop((client, told));
    // When it dies at each of them
    let begun = AtomicU64::new(0);
    let killed_at = async |at: u64| {
        let directory = cluster.path(&format!("killed-{at}"));
        copy(&pristine, &directory);
        let mut told = Told::run(&library, &directory);
        let client = Client::local(&directory).await.unwrap();
        told.end_at(at);
        let acknowledged = rotation.ask(&client).await;
        let ended = over_or_dead(&mut told, &client, rotation).await;
        drop((client, told));
        // Then its directory is worth what it should be, and so it is where a power cut took what was not synced.
        let cut = cluster.path(&format!("cut-{at}"));
        copy(&directory, &cut);
        quorate_storage::testing::lose_unsynced(&cut.join("store")).unwrap();
        let went_on = goes_on(&cluster, &directory, rotation, acknowledged, at).await;
        goes_on(&cluster, &cut, rotation, acknowledged, at).await;
        begun.fetch_add(u64::from(went_on && !ended), Ordering::Relaxed);
        for used in [directory, cut] {
            std::fs::remove_dir_all(used).unwrap();
        }
        ended
    };
    // (One at a time: they listen where the first one did.)
    let mut points = 0;
    while !killed_at(points + 1).await {
        points += 1;
        assert!(points < 10 * counted, "it never ends");
    }
    // (What a leader does besides, and RocksDB's own threads, may be a few more or less from run to run.)
    assert!(counted > 0 && points.abs_diff(counted) <= 2 + counted / 5, "killed at {points}, counted {counted}");
    (points, begun.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_barriers_key_killed_at_every_write_of_a_leader_goes_on_or_was_never_begun() {
    let (points, begun) = killed_leader(&Barrier).await;
    println!(
        "a rotation of the barrier's key was killed at {points} writes, syncs and renames; it went on after {begun}"
    );
    assert!(begun > 0 && begun < points, "{begun} of {points}");
}

/// A stopped manager whose unlock key is in a file: the directory, the file, the key.
async fn locked() -> (Cluster, PathBuf, PathBuf, Key) {
    let (cluster, pristine) = stopped().await;
    let library = shim(&cluster.path(""));
    let (said, ended) = run(&library, &pristine, Change::of(&["autolock", "on"]), 0, None);
    assert!(ended);
    let file = cluster.path("unlock.key");
    let key = said.lines().last().unwrap();
    std::fs::write(&file, key).unwrap();
    (cluster, pristine, file, Key::from_text(key).unwrap())
}

/// Counts by which key a directory was opened.
#[derive(Default)]
struct By {
    old: std::cell::Cell<u64>,
    new: std::cell::Cell<u64>,
}

impl By {
    fn note(&self, old: bool) {
        let counter = if old { &self.old } else { &self.new };
        counter.set(counter.get() + 1);
    }

    fn both(&self) -> (u64, u64) {
        let both = (self.old.get(), self.new.get());
        assert!(both.0 > 3 && both.1 > 3, "{both:?}");
        both
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_unlock_key_killed_at_every_write_leaves_a_store_that_the_old_one_or_the_one_shown_opens() {
    let (cluster, pristine, file, old) = locked().await;
    let before = essence(inspect_with(&pristine, &Keys::key(old.clone())).unwrap());
    let (by, words) = (By::default(), ["unlock-key", "rotate", "--unlock-key-file", file.to_str().unwrap()]);
    let points = killed_at_each(&cluster, &pristine, Change::of(&words), |directory, said, at| {
        let opened = inspect_with(directory, &Keys::key(old.clone()));
        by.note(opened.is_ok());
        let found = opened.unwrap_or_else(|_other_key| {
            let shown = said.lines().last().and_then(|line| Key::from_text(line).ok());
            let shown = shown.unwrap_or_else(|| panic!("died at {at}, and nobody has the key: {said}"));
            inspect_with(directory, &Keys::key(shown)).unwrap()
        });
        assert_eq!(essence(found), before, "died at {at}");
        let slots = quorate_storage::key_slots(&directory.join("store")).unwrap();
        assert!(slots.iter().all(|slot| slot.kind == KeyKind::Unlock), "died at {at}");
    });
    println!(
        "`unlock-key rotate` was killed at {points} writes, syncs and renames; opened by old and new: {:?}",
        by.both()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_autolock_killed_at_every_write_leaves_a_store_that_the_unlock_key_or_the_key_file_opens() {
    let (cluster, pristine, file, old) = locked().await;
    let before = essence(inspect_with(&pristine, &Keys::key(old.clone())).unwrap());
    let library = shim(&cluster.path(""));
    let (by, words) = (By::default(), ["autolock", "off", "--unlock-key-file", file.to_str().unwrap()]);
    let points = killed_at_each(&cluster, &pristine, Change::of(&words), |directory, _, at| {
        let opened = inspect(directory);
        by.note(opened.is_err());
        let locked = opened.is_err();
        let found = opened.unwrap_or_else(|_locked| inspect_with(directory, &Keys::key(old.clone())).unwrap());
        assert_eq!(essence(found), before, "died at {at}");
        if locked {
            assert!(run(&library, directory, Change::of(&words), 0, None).1, "died at {at}: a second call");
        }
        assert_eq!(essence(inspect(directory).unwrap()), before, "died at {at}");
    });
    println!("`autolock off` was killed at {points} writes, syncs and renames; opened by old and new: {:?}", by.both());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_that_is_set_killed_at_every_write_leaves_a_store_that_the_key_file_or_the_passphrase_opens() {
    let (cluster, pristine) = stopped().await;
    let before = essence(inspect(&pristine).unwrap());
    let (by, phrase) = (By::default(), cluster.path("phrase"));
    std::fs::write(&phrase, "correct horse battery\n").unwrap();
    let change = Change { words: &["key", "passphrase"], typed: "correct horse battery\n" };
    let points = killed_at_each(&cluster, &pristine, change, |directory, _, at| {
        let opened = inspect(directory);
        by.note(opened.is_ok());
        let found = opened.unwrap_or_else(|_locked| {
            inspect_with(directory, &Keys::passphrase_file(&phrase)).unwrap_or_else(|why| panic!("died at {at}: {why}"))
        });
        assert_eq!(essence(found), before, "died at {at}");
    });
    println!(
        "`key passphrase` was killed at {points} writes, syncs and renames; opened by old and new: {:?}",
        by.both()
    );
}
