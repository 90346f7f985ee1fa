//! Nothing that was put lies readable on any manager's disk, and the keys of a store change whole or not at all, wherever the
//! process is killed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use quorate::keys::{Key, KeyKind, KeyProvider, KeySlot, Keys};
use quorate::status::Health;
use quorate::{Client, Inspection, StartError, StopReason, inspect, inspect_with};
use quorate_core::keyspace::Section;
use quorate_core::ports::WriteSet;
use quorate_core::state::live_range;
use quorate_storage::KeyError;

use crate::crashes::shim;
use crate::support::{BUDGET, Cluster, closed_port, copy, eventually, says, store_options};

/// A random word, and the forms in which it could lie somewhere.
fn canary() -> (String, Vec<Vec<u8>>) {
    let word = Key::generate().unwrap().to_text()[6..54].to_owned();
    let json = format!("{:?}", word.as_bytes()).replace(' ', "");
    let forms = [word.clone(), HEXLOWER.encode(word.as_bytes()), BASE64.encode(word.as_bytes()), json];
    (word, forms.into_iter().map(String::into_bytes).collect())
}

/// Files below `directory` that hold these bytes.
pub fn found_in(directory: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_in(&path, bytes));
        } else if std::fs::read(&path).is_ok_and(|whole| whole.windows(bytes.len()).any(|window| window == bytes)) {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_put_is_readable_on_any_managers_disk() {
    let (word, forms) = canary();
    let mut cluster = Cluster::grown(3, 64).await;
    let put = |client: Client, from: u32, to: u32| {
        let forms = forms.clone();
        async move {
            for n in from..to {
                for (form, bytes) in forms.iter().enumerate() {
                    client.kv().put(format!("k/{form}/{n}"), bytes.clone()).await.unwrap();
                }
            }
        }
    };
    put(cluster.any().client(), 0, 20).await;
    // Given a manager that gets a snapshot, because its log ends before that of the others begins
    let away = 2;
    cluster.kill(away).await;
    put(cluster.any().client(), 20, 60).await;
    cluster.restart(away).await;
    cluster.settled(3).await;
    let client = cluster.node(away).client();
    eventually("the snapshot is there", || async {
        let read = client.kv().get("k/0/59").serializable().await.ok().flatten()?;
        (read.value == word.as_bytes()).then_some(())
    })
    .await;
    let directories: Vec<PathBuf> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    let search = |control: bool| {
        for directory in &directories {
            for form in &forms {
                let found = found_in(directory, form);
                assert_eq!(found.len(), usize::from(control), "{found:?}");
            }
        }
    };
    // When the disks are searched while the managers run, after they were killed, and after they were started again
    search(false);
    for index in 0..3 {
        cluster.kill(index).await;
    }
    search(false);
    for index in 0..3 {
        cluster.restart(index).await;
    }
    cluster.settled(3).await;
    search(false);
    // Then only the control is found, on each of them and in each form
    for directory in &directories {
        let all: Vec<u8> = forms.iter().flat_map(|form| [form.as_slice(), b"\n"].concat()).collect();
        std::fs::write(directory.join("control"), all).unwrap();
    }
    search(true);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_put_back_as_it_was_before_is_noticed_by_its_hash() {
    let mut cluster = Cluster::founded().await;
    cluster.any().client().kv().put("k", "old").await.unwrap();
    cluster.kill(0).await;
    let directory = cluster.members[0].directory.clone();
    let store = || quorate_storage::open(&directory.join("store"), store_options(&directory)).unwrap();
    let (mut key, mut old) = (Vec::new(), Vec::new());
    let opened = store();
    let visit = &mut |found: &[u8], value: &[u8]| {
        if value.windows(3).any(|window| window == b"old") && key.is_empty() {
            (key, old) = (found.to_vec(), value.to_vec());
        }
        quorate_core::ports::Visit::More
    };
    opened.state.scan(b"", b"", visit).unwrap();
    drop(opened);
    cluster.restart(0).await;
    cluster.any().client().kv().put("k", "new").await.unwrap();
    cluster.kill(0).await;
    let before = inspect(&directory).unwrap();
    assert_eq!(before.state_hash, before.recorded_hash);
    // Given a record as it was before, with a seal that holds
    let mut opened = store();
    let mut writes = WriteSet::default();
    writes.put(key, old);
    opened.state.commit(writes).unwrap();
    drop(opened);
    let after = inspect(&directory).unwrap();
    assert_ne!(after.state_hash, after.recorded_hash);
    let refused = quorate::Recover::from(&directory).dry_run().await.unwrap_err();
    assert!(matches!(refused, StartError::Damaged(_)), "{refused}");
    // And a manager that is started on it finds it out by itself, and stops.
    let node = cluster.try_restart(0).await.unwrap();
    let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("it stops");
    assert!(matches!(reason, StopReason::Damaged(_)), "{reason}");
    // As the only voter it is sent to no other manager,
    says(&reason, &["put back as it was before", "never votes or serves", "only voter", "quorate restore"]);
    assert!(!reason.to_string().contains("other managers"), "{reason}");
    drop(node);
    // and no start runs it for a moment again.
    is_spent(&cluster, 0, &reason).await;
    assert!(inspect(&directory).unwrap().damaged.unwrap().contains("put back as it was before"));
}

/// A stopped member that stopped for this is not run again, and says so to whoever asks.
async fn is_spent(cluster: &Cluster, index: usize, reason: &StopReason) {
    let refused = cluster.try_restart(index).await.unwrap_err();
    assert!(matches!(&refused, StartError::Damaged(why) if *why == reason.to_string()), "{refused}");
    assert_eq!((refused.exit_code(), reason.exit_code()), (12, 12));
    let said = quorate::spent(&cluster.members[index].directory).unwrap().expect("it is marked");
    assert_eq!((said.health, said.message), (Health::Damaged, reason.to_string()));
}

/// A member that stopped for damage comes back as it says.
async fn comes_back(cluster: &mut Cluster, index: usize, reason: &StopReason) {
    says(reason, &["The other managers go on", "quorate join --replace --data-dir"]);
    is_spent(cluster, index, reason).await;
    let others = cluster.running().iter().map(|other| cluster.node(*other).address().to_string()).collect();
    let prepared = cluster.builder_of(index).rejoin(others).await.unwrap();
    assert!(prepared.raft_id > 3, "{prepared:?}");
    assert!(cluster.members[index].directory.join("store.old-1").is_dir());
    cluster.restart(index).await;
    cluster.settled(3).await;
    cluster.agrees().await;
}

/// What lies in the state of a stopped member at a live record of a section.
fn raw_record(directory: &Path, section: Section) -> (Vec<u8>, Vec<u8>) {
    let store = quorate_storage::open(&directory.join("store"), store_options(directory)).unwrap();
    let (from, to) = live_range(section);
    let mut found = None;
    let visit = &mut |key: &[u8], value: &[u8]| {
        found = Some((key.to_vec(), value.to_vec()));
        quorate_core::ports::Visit::More
    };
    store.state.scan(&from, &to, visit).unwrap();
    found.expect("a record")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_secret_of_the_same_name_that_is_put_back_stops_the_manager_and_no_other() {
    // Given a secret that was removed, and made again under the same name: its seal of before opens in the same place
    let mut cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    client.secrets().create("db", "hunter2").await.unwrap();
    cluster.agrees().await;
    let follower = cluster.others(cluster.leader().await)[0];
    cluster.kill(follower).await;
    let directory = cluster.members[follower].directory.clone();
    let (key, old) = raw_record(&directory, Section::Secret);
    cluster.restart(follower).await;
    cluster.settled(3).await;
    let client = cluster.node(follower).client();
    client.secrets().remove("db").await.unwrap();
    client.secrets().create("db", "swordfish").await.unwrap();
    cluster.agrees().await;
    cluster.kill(follower).await;
    // When it is put back on one disk, its seal at rest holding, too
    let mut opened = quorate_storage::open(&directory.join("store"), store_options(&directory)).unwrap();
    let mut writes = WriteSet::default();
    writes.put(key, old);
    opened.state.commit(writes).unwrap();
    drop(opened);
    // Then that manager stops as damaged,
    let node = cluster.try_restart(follower).await.unwrap();
    let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("it stops");
    assert!(matches!(reason, StopReason::Damaged(_)), "{reason}");
    drop(node);
    // comes back with a fresh store and no other one,
    comes_back(&mut cluster, follower, &reason).await;
    // and all have what there is.
    for index in cluster.running() {
        let shown = cluster.node(index).client().secrets().reveal("db").await.unwrap();
        assert_eq!(shown.expose(), b"swordfish");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_whose_seal_is_broken_is_not_run_on_again_either() {
    // Given a manager in whose tables a value is not what was written; no opening reads it
    let mut cluster = Cluster::of(3).await;
    let kv = cluster.any().client().kv();
    for n in 0..60 {
        let key = if n == 30 { "canary/30".to_owned() } else { format!("{}/{n}", if n < 30 { 'b' } else { 'd' }) };
        kv.put(key, vec![b'x'; 1_200]).await.unwrap();
    }
    cluster.agrees().await;
    let follower = cluster.others(cluster.leader().await)[0];
    // (Larger ones lie apart from their keys. What was in the journal is in tables after a start.)
    cluster.kill(follower).await;
    cluster.restart(follower).await;
    cluster.settled(3).await;
    cluster.kill(follower).await;
    let tables = found_in(&cluster.members[follower].directory, b"canary/30");
    let tables: Vec<_> = tables.iter().filter(|file| file.extension().is_some_and(|kind| kind == "sst")).collect();
    assert!(!tables.is_empty());
    for table in tables {
        let mut bytes = std::fs::read(table).unwrap();
        for at in 0..bytes.len() - 9 {
            if &bytes[at..at + 9] == b"canary/30" && at + 600 < bytes.len() {
                bytes[at + 600] ^= 1;
            }
        }
        std::fs::write(table, bytes).unwrap();
    }
    // When it runs, and its state is read as a whole, then it stops, though the store takes nothing else from then on
    let node = cluster.try_restart(follower).await.unwrap();
    let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("it stops");
    assert!(matches!(reason, StopReason::Damaged(_)), "{reason}");
    drop(node);
    comes_back(&mut cluster, follower, &reason).await;
    cluster.stop().await;
}

/// A stopped manager with some keys in its store.
pub async fn stopped() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::founded().await;
    for n in 0..30 {
        cluster.any().client().kv().put(format!("k{n}"), format!("value {n}")).await.unwrap();
    }
    cluster.kill(0).await;
    let directory = cluster.members[0].directory.clone();
    // Everything that is there is synced: what a power cut takes is what the command under test did not sync.
    quorate_storage::testing::lose_unsynced(&directory.join("store")).unwrap();
    (cluster, directory)
}

/// Looks into a stopped manager with these keys, which must open the node's own key, too, if they open its store.
pub fn looked(directory: &Path, keys: &Keys) -> Result<Inspection, StartError> {
    let found = inspect_with(directory, keys)?;
    let own = quorate::testing::node_identity(directory, keys);
    assert_eq!(own.unwrap().subject().node_id.to_string(), found.node_id);
    Ok(found)
}

/// What counts of an inspection here.
pub fn essence(found: Inspection) -> (String, u64, u64, String) {
    assert_eq!(found.state_hash, found.recorded_hash);
    (found.node_id, found.last_index, found.term, found.state_hash)
}

/// Something to be done to a directory: the words, and what is typed.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    pub words: &'a [&'a str],
    pub typed: &'a str,
}

impl<'a> Change<'a> {
    pub const fn of(words: &'a [&'a str]) -> Self {
        Self { words, typed: "" }
    }
}

/// Runs `quorate` on a directory with the library in front. What it said, and whether it came to its end.
pub fn run(library: &Path, directory: &Path, change: Change<'_>, die_at: u64, counts: Option<&Path>) -> (String, bool) {
    let arguments = change.words;
    let noted = std::fs::read(directory.join("node.listen")).unwrap_or_default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .env("LD_PRELOAD", library)
        .env("QUORATE_DIE_AT", die_at.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(counts) = counts {
        command.env("QUORATE_COUNT_TO", counts);
    }
    let mut child = command.spawn().unwrap();
    // (It may have died before it read it.)
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), change.typed.as_bytes());
    if arguments.first() == Some(&"run") {
        stop_once_noted(&mut child, directory, &noted);
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code().is_none() {
        return (said, false);
    }
    assert!(output.status.success(), "died at {die_at}: {}", String::from_utf8_lossy(&output.stderr));
    (said, true)
}

/// Tells a manager to stop at once when it has noted another address than `before`; it may die earlier.
fn stop_once_noted(child: &mut std::process::Child, directory: &Path, before: &[u8]) {
    let mut pause = std::time::Duration::from_millis(5);
    while child.try_wait().unwrap().is_none() {
        if std::fs::read(directory.join("node.listen")).unwrap() != before {
            // (The first asks for an orderly stop, which waits for a leader; the next ones are in a hurry.)
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
            pause = std::time::Duration::from_millis(100);
        }
        std::thread::sleep(pause);
    }
}

/// Kills a change at each of its writes, syncs and renames, each time on a fresh copy; as a killed process leaves it, and
/// as a power cut does. How many there were: as many as a pass that dies nowhere has counted, within what RocksDB's own
/// threads may do more or less from run to run.
pub fn killed_at_each(cluster: &Cluster, pristine: &Path, change: Change<'_>, check: impl Fn(&Path, &str, u64)) -> u64 {
    let library = shim(&cluster.path(""));
    let (dry, counts) = (cluster.path("counted"), cluster.path("counts"));
    copy(pristine, &dry);
    let (said, ended) = run(&library, &dry, change, 0, Some(&counts));
    assert!(ended);
    check(&dry, &said, 0);
    std::fs::remove_dir_all(&dry).unwrap();
    let counted = std::fs::read_to_string(&counts).unwrap();
    let counted: u64 = counted.split_whitespace().map(|count| count.parse::<u64>().unwrap()).sum();
    let points = killed_until_it_ends(cluster, pristine, change, check, &library);
    assert!(counted > 0 && points.abs_diff(counted) <= 2 + counted / 10, "killed at {points}, counted {counted}");
    points
}

fn killed_until_it_ends(
    cluster: &Cluster,
    pristine: &Path,
    change: Change<'_>,
    check: impl Fn(&Path, &str, u64),
    library: &Path,
) -> u64 {
    for at in 1.. {
        let directory = cluster.path(&format!("killed-{at}"));
        copy(pristine, &directory);
        let (said, ended) = run(library, &directory, change, at, None);
        let cut = cluster.path(&format!("cut-{at}"));
        copy(&directory, &cut);
        check(&directory, &said, at);
        if quorate_storage::testing::lose_unsynced(&cut.join("store")).is_ok() {
            check(&cut, &said, at);
        }
        for used in [directory, cut] {
            std::fs::remove_dir_all(used).unwrap();
        }
        if ended {
            return at - 1;
        }
        assert!(at < 2_000, "it never ends");
    }
    0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_all_keys_killed_at_every_write_opens_with_the_key_file_and_is_done_by_a_second_call() {
    let (cluster, pristine) = stopped().await;
    let before = essence(inspect(&pristine).unwrap());
    let library = shim(&cluster.path(""));
    let points = killed_at_each(&cluster, &pristine, Change::of(&["key", "rotate"]), |directory, _, at| {
        let found = looked(directory, &Keys::default()).unwrap_or_else(|error| panic!("died at {at}: {error}"));
        assert_eq!(essence(found), before, "died at {at}");
        assert!(run(&library, directory, Change::of(&["key", "rotate"]), 0, None).1);
        assert_eq!(essence(looked(directory, &Keys::default()).unwrap()), before, "died at {at}");
        let text = std::fs::read_to_string(directory.join("key")).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("QRK-")).count(), 1, "died at {at}");
    });
    println!("a rotation of all keys was killed at {points} writes, syncs and renames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_that_moves_is_never_gone_wherever_the_move_is_killed() {
    let (cluster, pristine) = stopped().await;
    let before = essence(inspect(&pristine).unwrap());
    let target = cluster.path("elsewhere").join("node.key");
    std::fs::create_dir(cluster.path("elsewhere")).unwrap();
    let to = target.to_str().unwrap().to_owned();
    let library = shim(&cluster.path(""));
    let points = killed_at_each(&cluster, &pristine, Change::of(&["key", "move", &to]), |directory, _, at| {
        let found = looked(directory, &Keys::default()).unwrap_or_else(|error| panic!("died at {at}: {error}"));
        assert_eq!(essence(found), before, "died at {at}");
        let moved = quorate::keys::status(directory).unwrap().unwrap();
        if moved.beside_data {
            assert!(run(&library, directory, Change::of(&["key", "move", &to]), 0, None).1);
        }
        assert_eq!(quorate::keys::status(directory).unwrap().unwrap().place, to, "died at {at}");
        assert_eq!(essence(looked(directory, &Keys::default()).unwrap()), before, "died at {at}");
    });
    println!("a move of the key file was killed at {points} writes, syncs and renames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_killed_at_every_write_keeps_a_whole_word_of_where_the_manager_listens() {
    // Given one of three, the others being off: it starts, and changes nothing, for it cannot lead
    let mut cluster = Cluster::of(3).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    let pristine = cluster.members[0].directory.clone();
    quorate_storage::testing::lose_unsynced(&pristine.join("store")).unwrap();
    let before = essence(inspect(&pristine).unwrap());
    let noted = |directory: &Path| std::fs::read(directory.join("node.listen")).unwrap();
    let old = noted(&pristine);
    // When it is started at another address, and told to stop as soon as that is noted
    let address = closed_port().replace("127.0.0.1", "127.0.0.2");
    let seen = std::cell::RefCell::new((0, 0));
    let library = shim(&cluster.path(""));
    let words = ["run", "--listen", &address];
    let start = Change::of(&words);
    let check = |directory: &Path, _: &str, at: u64| {
        // Then what a locked manager would listen at is the old address or the new one, whole, and nothing else has suffered
        let now = noted(directory);
        if now == old {
            seen.borrow_mut().0 += 1;
        } else {
            let said = String::from_utf8_lossy(now.get(8 + 32..).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = said.lines().collect();
            assert!(now.starts_with(b"quorate1"), "died at {at}: {now:?}");
            assert_eq!((lines.len(), lines[0], lines[1]), (3, &*address, &*address), "died at {at}");
            seen.borrow_mut().1 += 1;
        }
        let found = looked(directory, &Keys::default()).unwrap_or_else(|error| panic!("died at {at}: {error}"));
        assert_eq!(essence(found), before, "died at {at}");
    };
    let points = killed_until_it_ends(&cluster, &pristine, start, check, &library);
    println!("a start was killed at {points} writes, syncs and renames: {:?}", seen.borrow());
    let (old, new) = *seen.borrow();
    assert!(old > 3 && new > 2, "{points}: {old} {new}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autolock_killed_at_every_write_leaves_a_store_whose_key_somebody_has() {
    let (cluster, pristine) = stopped().await;
    let before = essence(inspect(&pristine).unwrap());
    let count = |by: &str| (by.to_owned(), 0);
    let by = std::cell::RefCell::new(std::collections::BTreeMap::from([count("file"), count("shown")]));
    let points = killed_at_each(&cluster, &pristine, Change::of(&["autolock", "on"]), |directory, said, at| {
        let found = match looked(directory, &Keys::default()) {
            Ok(found) => {
                *by.borrow_mut().get_mut("file").unwrap() += 1;
                found
            }
            // The key file opens it no more: then the key was shown before
            Err(error) => {
                assert!(matches!(error, StartError::Locked(_)), "died at {at}: {error}");
                let shown = said.lines().last().and_then(|line| Key::from_text(line).ok());
                let keys = Keys::key(shown.unwrap_or_else(|| panic!("died at {at}, and nobody has the key: {said}")));
                *by.borrow_mut().get_mut("shown").unwrap() += 1;
                looked(directory, &keys).unwrap()
            }
        };
        assert_eq!(essence(found), before, "died at {at}");
    });
    println!("`autolock on` was killed at {points} writes, syncs and renames; opened by {:?}", by.borrow());
    assert!(by.borrow().values().all(|count| *count > 3), "{:?}", by.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_while_a_cluster_is_written_to() {
    let cluster = Cluster::of(3).await;
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, done) = (cluster.any().client(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut count = 0_u32;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    client.kv().put(format!("w{writer}/{}", count % 200), count.to_string()).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    // When every manager rotates its keys twice, under load
    for round in 0..2 {
        for index in cluster.running() {
            let keys = cluster.node(index).client().node_keys();
            let made = keys.rotate().await.unwrap().report.data_key;
            assert_eq!(made, round + 2);
            eventually("everything is sealed anew", || async {
                let report = keys.show().await.unwrap();
                (report.data_key == made && !report.sealing_anew).then_some(())
            })
            .await;
        }
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut counts = Vec::new();
    for writer in writers {
        counts.push(writer.await.unwrap());
    }
    // Then nothing was lost or refused
    for (writer, count) in counts.iter().enumerate() {
        assert!(*count > 10, "{counts:?}");
        let last = count - 1;
        let read = cluster.any().client().kv().get(format!("w{writer}/{}", last % 200)).await.unwrap().unwrap();
        assert_eq!(read.value, last.to_string().as_bytes());
    }
    assert_eq!(cluster.any().status().await.health, Health::Ok);
    cluster.stop().await;
}

/// The embedder's own: a key that a service would unwrap.
struct Service(Key, std::sync::atomic::AtomicBool);

impl KeyProvider for Service {
    fn keys(&self, _slots: &[KeySlot]) -> Result<Vec<Key>, KeyError> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(KeyError::Failed("the key service does not answer".into()));
        }
        Ok(vec![self.0.clone()])
    }

    fn make(&self) -> Result<(Key, KeySlot), KeyError> {
        Ok((self.0.clone(), KeySlot::new(&self.0, KeyKind::Custom, "the key service of the tests")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedder_brings_its_own_keys_and_without_them_nothing_starts_and_nothing_is_harmed() {
    let mut cluster = Cluster::empty();
    let directory = cluster.path("m1");
    let service = Arc::new(Service(Key::generate().unwrap(), false.into()));
    let provider = || Keys::custom(Arc::clone(&service) as Arc<dyn KeyProvider>);
    let node = cluster.builder(&directory, "m1").keys(provider()).start(quorate::Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    node.client().kv().put("k", "v").await.unwrap();
    assert!(!directory.join("key").exists());
    cluster.add(directory.clone(), node);
    cluster.kill(0).await;
    // Given a service that is down, or a start without it
    service.1.store(true, std::sync::atomic::Ordering::Relaxed);
    for builder in [cluster.builder(&directory, "").keys(provider()), cluster.builder(&directory, "")] {
        let Err(error) = builder.start(quorate::Start::Open).await else { panic!("it started") };
        assert!(matches!(error, StartError::Locked(_)), "{error}");
        says(&error, &["the key service of the tests", "Nothing was changed"]);
    }
    says(&inspect(&directory).unwrap_err(), &["the key service of the tests"]);
    // When it answers again, then everything is there
    service.1.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(inspect_with(&directory, &provider()).unwrap().ready);
    let node = cluster.builder(&directory, "").keys(provider()).start(quorate::Start::Open).await.unwrap();
    node.ready().await.unwrap();
    assert_eq!(node.client().kv().get("k").await.unwrap().unwrap().value, "v");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_anew_waits_as_long_as_the_disk_is_low_on_space_and_then_goes_on() {
    let mut cluster = Cluster::founded().await;
    cluster.any().client().kv().put("k", "v").await.unwrap();
    cluster.kill(0).await;
    // Given a manager that is low on space
    cluster.space_marks = Some((u64::MAX - 1, u64::MAX));
    cluster.restart(0).await;
    eventually("it says so", || async { (cluster.any().status().await.health == Health::ReadOnly).then_some(()) })
        .await;
    // When its keys are rotated, then nothing is sealed anew
    let keys = cluster.any().client().node_keys();
    assert_eq!(keys.rotate().await.unwrap().report.data_key, 2);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(keys.show().await.unwrap().sealing_anew);
    // And with space it goes on by itself
    cluster.kill(0).await;
    cluster.space_marks = None;
    cluster.restart(0).await;
    let keys = cluster.any().client().node_keys();
    eventually("everything is sealed anew", || async { (!keys.show().await.unwrap().sealing_anew).then_some(()) })
        .await;
    assert_eq!(cluster.any().client().kv().get("k").await.unwrap().unwrap().value, "v");
    cluster.stop().await;
}
