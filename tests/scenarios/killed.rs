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
use crate::sealing::{Change, essence, killed_at_each, looked, run, stopped};
use crate::support::{BUDGET, Cluster, copy, eventually};

/// Secrets in the cluster: more than one order seals anew.
const SECRETS: usize = 70;

/// A node in a process of its own, whose disk is told when the process is to end.
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

    /// What is asked for meanwhile; nothing when the process has ended first.
    async fn unless_over<T>(&mut self, asked: impl Future<Output = T>) -> Option<T> {
        let over = async {
            while !self.is_over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            biased;
            done = asked => Some(done),
            () = over => None,
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A rotation of something that the whole cluster has: how it is asked for, and when it is over. Each node has the directory of its
/// name in `place`.
pub trait Rotation {
    /// Asks for it; whether that was acknowledged.
    async fn ask(&self, client: &Client) -> bool;
    /// How often it was done, once none is under way.
    async fn done(&self, client: &Client, place: &Path) -> Option<u64>;
    /// What must be, whatever was done.
    async fn holds(&self, client: &Client);
}

struct Barrier;

impl Rotation for Barrier {
    async fn ask(&self, client: &Client) -> bool {
        client.keyring().rotate().await.is_ok()
    }

    async fn done(&self, client: &Client, _place: &Path) -> Option<u64> {
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

async fn opened(cluster: &Cluster, directory: &Path) -> Node {
    let node = cluster.builder(directory, "").start(Start::Open).await.unwrap();
    tokio::time::timeout(BUDGET, node.ready()).await.expect("it is ready").unwrap();
    node
}

/// A cluster whose nodes are stopped, a rotation, and the node that is killed in the middle of it.
pub struct Killing<'a, R> {
    pub cluster: &'a Cluster,
    /// The directory of each node, by its name, is in here.
    pub pristine: PathBuf,
    /// The first one leads, whoever else runs.
    pub names: &'a [&'a str],
    pub victim: &'a str,
    pub rotation: R,
}

/// All of them run, the victim in a process of its own.
struct Running {
    told: Told,
    others: Vec<Node>,
    client: Client,
}

impl Running {
    /// None of them runs any more, and none has said a word.
    async fn die(self) {
        let Self { told, others, client } = self;
        drop((client, told));
        for node in others {
            let waiting = node.clone();
            drop(node);
            waiting.abandon();
            waiting.stopped().await;
        }
    }
}

impl<R: Rotation> Killing<'_, R> {
    /// A copy of them runs in this place.
    async fn run(&self, library: &Path, place: &Path) -> Running {
        copy(&self.pristine, place);
        let (mut told, mut others) = (None, Vec::new());
        for name in self.names {
            let directory = place.join(name);
            if *name == self.victim {
                told = Some(Told::run(library, &directory));
            } else {
                others.push(opened(self.cluster, &directory).await);
            }
        }
        let client = Client::local(place.join(self.names[0])).await.unwrap();
        Running { told: told.expect("the victim is one of them"), others, client }
    }

    /// Waits until the rotation is over, once more than before; or the process is.
    async fn over_or_dead(&self, running: &mut Running, place: &Path) -> bool {
        let Running { told, client, .. } = running;
        let over = async {
            while self.rotation.done(client, place).await != Some(1) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(BUDGET, told.unless_over(over)).await;
        ended.expect("neither over nor dead").is_some()
    }

    /// What directories are worth that were left in the middle of it: all nodes start, and what was begun ends; asked for once more,
    /// it is done. Whether it had been begun.
    async fn goes_on(&self, place: &Path, acknowledged: bool, at: u64) -> bool {
        let mut nodes = Vec::new();
        for name in self.names {
            nodes.push(opened(self.cluster, &place.join(name)).await);
        }
        let client = nodes[0].client();
        let done = || async { self.rotation.done(&client, place).await };
        let found = eventually(&format!("died at {at}: whatever was begun is over"), done).await;
        assert!(found == 1 || found == 0 && !acknowledged, "died at {at}: acknowledged, and done {found} times");
        self.rotation.holds(&client).await;
        if found == 0 {
            assert!(self.rotation.ask(&client).await);
            eventually("asked for once more, it is done", || async { done().await.filter(|done| *done == 1) }).await;
            self.rotation.holds(&client).await;
        }
        for node in nodes.into_iter().rev() {
            node.shutdown().await;
        }
        let found_on_disk = inspect(&place.join(self.names[0])).unwrap();
        assert_eq!(found_on_disk.state_hash, found_on_disk.recorded_hash, "died at {at}");
        found == 1
    }

    /// How many changes of files the victim makes, which leads, as a pass tells in which it dies nowhere.
    async fn counted(&self, library: &Path) -> u64 {
        let place = self.cluster.path("dry");
        let mut running = self.run(library, &place).await;
        running.told.end_at(0);
        assert!(self.rotation.ask(&running.client).await);
        assert!(self.over_or_dead(&mut running, &place).await);
        running.told.end_at(0);
        running.client.kv().put("k", "v").await.unwrap();
        let counted = running.told.counted();
        running.die().await;
        counted
    }

    /// Kills the victim at each change of a file that it makes from when the rotation is asked for until it is over. How many there
    /// were, and after how many the rotation had been begun, and not been over.
    pub async fn at_each_change(&self) -> (u64, u64) {
        let library = shim(&self.cluster.path(""));
        let begun = AtomicU64::new(0);
        let killed_at = async |at: u64| {
            let place = self.cluster.path(&format!("killed-{at}"));
            let mut running = self.run(&library, &place).await;
            running.told.end_at(at);
            let asked = self.rotation.ask(&running.client);
            let acknowledged = running.told.unless_over(asked).await == Some(true);
            let ended = self.over_or_dead(&mut running, &place).await;
            running.die().await;
            // Then its directory is worth what it should be, and so it is where a power cut took what was not synced.
            let cut = self.cluster.path(&format!("cut-{at}"));
            copy(&place, &cut);
            let went_on = self.goes_on(&place, acknowledged, at).await;
            let store = cut.join(self.victim).join("store");
            if store.exists() {
                quorate_storage::testing::lose_unsynced(&store).unwrap();
                self.goes_on(&cut, acknowledged, at).await;
            }
            begun.fetch_add(u64::from(went_on && !ended), Ordering::Relaxed);
            for used in [place, cut] {
                std::fs::remove_dir_all(used).unwrap();
            }
            ended
        };
        // (One at a time: they listen where the first one did.)
        let mut points = 0;
        while !killed_at(points + 1).await {
            points += 1;
            assert!(points < 2_000, "it never ends");
        }
        (points, begun.into_inner())
    }

    /// The same for one that leads: as many as a pass has counted that dies nowhere.
    pub async fn at_each_counted_change(&self) -> (u64, u64) {
        let counted = self.counted(&shim(&self.cluster.path(""))).await;
        let (points, begun) = self.at_each_change().await;
        // (What a leader does besides, and RocksDB's own threads, may be a few more or less from run to run.)
        assert!(counted > 0 && points.abs_diff(counted) <= 2 + counted / 5, "killed at {points}, counted {counted}");
        (points, begun)
    }
}

/// The directories of all members of a cluster, which are killed, in one place.
pub async fn pristine(cluster: &mut Cluster, names: &[&str]) -> PathBuf {
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    let pristine = cluster.path("pristine");
    for (member, name) in cluster.members.iter().zip(names) {
        let directory = pristine.join(name);
        copy(&member.directory, &directory);
        let store = directory.join("store");
        if store.exists() {
            quorate_storage::testing::lose_unsynced(&store).unwrap();
        }
    }
    pristine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_barriers_key_killed_at_every_write_of_a_leader_goes_on_or_was_never_begun() {
    let mut cluster = Cluster::founded().await;
    without_the_first_operator(&cluster).await;
    for n in 0..SECRETS {
        cluster.any().client().secrets().create(format!("s{n}"), format!("value {n}")).await.unwrap();
    }
    let pristine = pristine(&mut cluster, &["m1"]).await;
    let killing = Killing { cluster: &cluster, pristine, names: &["m1"], victim: "m1", rotation: Barrier };
    let (points, begun) = killing.at_each_counted_change().await;
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
        let opened = looked(directory, &Keys::key(old.clone()));
        by.note(opened.is_ok());
        let found = opened.unwrap_or_else(|_other_key| {
            let shown = said.lines().last().and_then(|line| Key::from_text(line).ok());
            let shown = shown.unwrap_or_else(|| panic!("died at {at}, and nobody has the key: {said}"));
            looked(directory, &Keys::key(shown)).unwrap()
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
        let opened = looked(directory, &Keys::default());
        by.note(opened.is_err());
        let locked = opened.is_err();
        let found = opened.unwrap_or_else(|_locked| looked(directory, &Keys::key(old.clone())).unwrap());
        assert_eq!(essence(found), before, "died at {at}");
        if locked {
            assert!(run(&library, directory, Change::of(&words), 0, None).1, "died at {at}: a second call");
        }
        assert_eq!(essence(looked(directory, &Keys::default()).unwrap()), before, "died at {at}");
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
        let opened = looked(directory, &Keys::default());
        by.note(opened.is_ok());
        let found = opened.unwrap_or_else(|_locked| {
            looked(directory, &Keys::passphrase_file(&phrase)).unwrap_or_else(|why| panic!("died at {at}: {why}"))
        });
        assert_eq!(essence(found), before, "died at {at}");
    });
    println!(
        "`key passphrase` was killed at {points} writes, syncs and renames; opened by old and new: {:?}",
        by.both()
    );
}
