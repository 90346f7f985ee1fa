//! A backup is one revision of everything, opens with its key alone, and becomes a cluster again; what was cut off, altered or
//! interrupted never does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate::backup::{BackupContents, BackupError, BackupKey, BackupSeal, KeyPair, verify};
use quorate::{Client, Error, Identity, Node, Restore, Start, StartError, inspect, operation, restore};

use crate::crashes::shim;
use crate::recovery::{is_fenced, three_voters};
use crate::support::{Cluster, copy, eventually, says};

/// A key pair: for whom a backup is sealed, and what opens it.
fn keys() -> (BackupSeal, BackupKey) {
    let pair = KeyPair::generate();
    (BackupSeal::recipients([pair.recipient()]).unwrap(), BackupKey::from_text(&pair.to_text()).unwrap())
}

async fn take(client: &Client, seal: &BackupSeal, to: &Path) {
    client.backup(seal).await.unwrap().save(to, false).await.unwrap();
}

/// What is below a directory; nothing where there is none.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn restoring(file: &Path, key: &BackupKey, directory: &Path) -> Restore {
    restore(file, key.clone(), directory).listen("127.0.0.1:0")
}

/// The restored manager runs and leads.
async fn started(cluster: &Cluster, directory: &Path) -> Node {
    let node = cluster.builder(directory, "").start(Start::Open).await.unwrap();
    node.ready().await.unwrap();
    node
}

async fn count(client: &Client, prefix: &'static str) -> usize {
    client.kv().prefix(prefix).all().await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_a_follower_under_load_is_one_revision_and_grows_to_a_cluster_again() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    for n in 0..200 {
        client.kv().put(format!("before/{n}"), format!("{n}").repeat(500)).await.unwrap();
    }
    // Secrets of two barrier keys, the first of which is on its way out
    let old = client.secrets().create("old", "sealed with the first key").await.unwrap();
    client.keyring().rotate().await.unwrap();
    client.secrets().create("db-password", "hunter2").label("env", "prod").await.unwrap();
    client.configs().create("motd", "welcome").await.unwrap();
    assert_eq!(old.barrier_key, Some(1));
    let worker = cluster.worker("w1").await;
    let token = client.join_token("worker").await.unwrap();
    let operator = cluster.members[0].directory.join("operator.id");
    let operator = std::fs::read(&operator).unwrap();
    // Given writers that change two keys together
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (client, done) = (cluster.any().client(), Arc::clone(&done));
            tokio::spawn(async move {
                for n in 0_u32.. {
                    let put = |key: &str| operation::put(format!("{key}/{writer}"), n.to_string());
                    client.kv().txn().then(put("left")).then(put("right")).await.unwrap();
                    if done.load(Ordering::Relaxed) {
                        return n;
                    }
                }
                0
            })
        })
        .collect();
    eventually("they have begun", || async { (count(&client, "left/").await == 3).then_some(()) }).await;
    // When a follower is asked for a backup, over QUIC
    let follower = (cluster.leader().await + 1) % 3;
    let (seal, key) = keys();
    let file = cluster.path("monday.quorate");
    let outside = cluster.outside(&[follower]).await;
    let before = client.kv().put("before/last", "x").await.unwrap().revision;
    let mut backup = outside.backup(&seal).await.unwrap();
    let info = backup.info().clone();
    assert_eq!(info.manager, cluster.node(follower).name());
    assert!(info.revision >= before && info.generation == 1 && info.age_ms == Some(0), "{info:?}");
    let mut bytes = Vec::new();
    while let Some(more) = backup.next().await.unwrap() {
        bytes.extend_from_slice(&more);
    }
    std::fs::write(&file, &bytes).unwrap();
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 3);
    }
    // Then the file says what is in it, and nothing of it can be read without the key
    let contents = verify(&file, &key).unwrap();
    assert_eq!((&contents.info, contents.keys, contents.workers), (&info, 207, 1));
    // every barrier key opens, and all that they seal: two secrets, the CA's key, a token of each role
    assert_eq!((contents.secrets, contents.configs, contents.opened), (2, 1, 5));
    assert!(contents.managers.len() == 3 && contents.barrier_keys >= 1, "{contents:?}");
    for plain in [&b"hunter2"[..], b"welcome", b"before/", b"monday", info.cluster_id.as_bytes(), b"quorsnap"] {
        assert!(!bytes.windows(plain.len()).any(|part| part == plain), "{}", plain.escape_ascii());
    }
    // Given that every directory is gone
    worker.shutdown().await;
    for index in 0..3 {
        cluster.kill(index).await;
        std::fs::remove_dir_all(&cluster.members[index].directory).unwrap();
    }
    // When it is restored from the file and the key alone
    let directory = cluster.path("restored");
    let report = restoring(&file, &key, &directory).name("n9").await.unwrap();
    assert_eq!((report.new_generation, report.kept_revision, report.workers), (2, info.revision, 1));
    assert!(report.managers.len() == 3 && report.managers.iter().all(|manager| !manager.answers));
    let found = inspect(&directory).unwrap();
    assert_eq!((found.state_hash, found.generation, found.raft_id), (found.recorded_hash, 2, report.raft_id));
    let node = started(&cluster, &directory).await;
    // Then everything is there as of that one revision,
    let client = node.client();
    assert_eq!(count(&client, "before/").await, 201);
    assert_eq!(client.kv().get("before/7").await.unwrap().unwrap().value, "7".repeat(500));
    for writer in 0..3 {
        let value = |key: String| {
            let client = client.clone();
            async move { client.kv().get(key).await.unwrap().unwrap().value }
        };
        assert_eq!(value(format!("left/{writer}")).await, value(format!("right/{writer}")).await);
    }
    assert_eq!(client.join_token("worker").await.unwrap(), token);
    let secrets = client.secrets();
    assert_eq!(secrets.reveal("old").await.unwrap().expose(), b"sealed with the first key");
    assert_eq!(secrets.reveal("db-password").await.unwrap().expose(), b"hunter2");
    assert_eq!(secrets.inspect("db-password").await.unwrap().labels["env"], "prod");
    assert_eq!(client.configs().read("motd").await.unwrap(), "welcome");
    // whoever had copies of the barrier's keys then opens nothing that comes: another key is the only one, and the new manager's,
    let keyring = eventually("the barrier's key is replaced", || async {
        let keyring = client.keyring().show().await.ok()?;
        (keyring.keys.len() == 1 && !keyring.due && keyring.keys[0].id > 2).then_some(keyring)
    })
    .await;
    assert_eq!(keyring.keys[0].managers.len(), 1, "{keyring:?}");
    assert_eq!(secrets.reveal("old").await.unwrap().expose(), b"sealed with the first key");
    // an operator comes in with what it had,
    let path = cluster.path("some.id");
    std::fs::write(&path, operator).unwrap();
    let outside = Client::connect([node.address().to_string()], Identity::load(&path).unwrap()).await.unwrap();
    outside.kv().put("after", "x").await.unwrap();
    // the worker comes back by its certificate,
    let again =
        cluster.builder(&cluster.path("w1"), "").manager(node.address().to_string()).start(Start::Open).await.unwrap();
    again.ready().await.unwrap();
    again.shutdown().await;
    // and two managers join: three voters.
    cluster.members.clear();
    cluster.add(directory, node);
    for name in ["x1", "x2"] {
        let (place, start) = (cluster.path(name), cluster.joining().await);
        let joined = cluster.builder(&place, name).start(start).await.unwrap();
        cluster.add(place, joined);
    }
    three_voters(&cluster).await;
    cluster.agrees().await;
    assert_eq!(count(&cluster.node(2).client(), "before/").await, 201);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_managers_of_then_are_asked_first_and_fenced_when_they_meet_the_restored_one() {
    let mut cluster = Cluster::of(3).await;
    let (seal, key) = keys();
    let file = cluster.path("b");
    cluster.any().client().kv().put("k", "v").await.unwrap();
    take(&cluster.any().client(), &seal, &file).await;
    cluster.any().client().kv().put("k", "written after the backup").await.unwrap();
    // Given that the cluster is alive, then that one manager is left of three: a restore is refused, and leaves nothing
    let directory = cluster.path("restored");
    for left in [3, 1] {
        while cluster.running().len() > left {
            cluster.kill(cluster.running()[0]).await;
        }
        let refused = restoring(&file, &key, &directory).await.unwrap_err();
        assert!(matches!(refused, StartError::ClusterAlive(_)), "{refused}");
        says(&refused, &["127.0.0.1:", "Nothing was written", "quorate recover", "--despite-peers"]);
        assert!(!directory.exists());
    }
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    // When it is restored under the name of one of them, and the old ones come back
    let report = restoring(&file, &key, &directory).name("m2").await.unwrap();
    let node = started(&cluster, &directory).await;
    assert_eq!(node.client().kv().get("k").await.unwrap().unwrap().value, "v");
    let status = node.status().await;
    assert_eq!((status.voters, status.managers.len(), status.generation), (1, 3, 2), "{status:?}");
    assert!(status.managers.iter().any(|manager| manager.name == "m2" && manager.seat == "voter"), "{status:?}");
    assert_eq!(report.name, "m2");
    // The old m2 among them: its record is another one's now, and where it was is not forgotten.
    for index in [0, 1, 2] {
        meets_its_end(&cluster, index).await;
        is_fenced(&mut cluster, index).await;
    }
    node.shutdown().await;
    // A restore over their heads is possible when it is asked for
    let mut alive = Cluster::founded().await;
    let file = alive.path("b");
    take(&alive.any().client(), &seal, &file).await;
    let directory = alive.path("restored");
    restoring(&file, &key, &directory).despite_peers(true).await.unwrap();
    let node = started(&alive, &directory).await;
    alive.members[0].node.take().unwrap().stopped().await;
    meets_its_end(&alive, 0).await;
    is_fenced(&mut alive, 0).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_restores_of_one_backup_have_no_number_in_common() {
    let cluster = Cluster::founded().await;
    let (seal, key) = keys();
    let file = cluster.path("b");
    take(&cluster.any().client(), &seal, &file).await;
    // When one backup is restored twice
    let mut begun = Vec::new();
    for name in ["one", "other"] {
        let directory = cluster.path(name);
        let report = restoring(&file, &key, &directory).despite_peers(true).await.unwrap();
        let found = inspect(&directory).unwrap();
        begun.push((report.raft_id, report.first_revision, found.term));
    }
    // Then raft ids, revisions and fencing tokens of the two are far apart: by the clock, and by what was drawn.
    let ((raft, revision, term), (raft2, revision2, term2)) = (begun[0], begun[1]);
    for (one, other) in [(raft, raft2), (revision, revision2), (term, term2)] {
        assert!(one != other && one > 1 << 50 && other > 1 << 50, "{one} {other}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_somebody_else_made_for_the_same_recipient_is_refused_by_its_ca() {
    // Given a backup for a recipient, and what it said of the cluster's CA
    let ours = Cluster::founded().await;
    let (seal, key) = keys();
    let file = ours.path("b");
    let taken = ours.any().client().backup(&seal).await.unwrap().save(&file, false).await.unwrap();
    assert_eq!(verify(&file, &key).unwrap().info.ca, taken.ca);
    let pinned = key.clone().of_ca(&taken.ca.to_uppercase()).unwrap();
    assert_eq!(verify(&file, &pinned).unwrap().info.ca, taken.ca);
    // When somebody who knows the recipient puts a cluster of their own in its place
    let theirs = Cluster::founded().await;
    let forged = ours.path("forged");
    take(&theirs.any().client(), &seal, &forged).await;
    assert!(verify(&forged, &key).is_ok(), "the key alone does not tell");
    // Then it is refused, looked at and restored
    let refused = verify(&forged, &pinned).unwrap_err();
    assert!(matches!(refused, BackupError::OtherCa { .. }), "{refused}");
    says(&refused, &[&taken.ca, "somebody else made it"]);
    let directory = ours.path("restored");
    let refused = restoring(&forged, &pinned, &directory).await.unwrap_err();
    assert!(matches!(refused, StartError::Backup(_)), "{refused}");
    says(&refused, &[&taken.ca, "Nothing was written"]);
    assert!(!directory.exists());
    // and what is no hash at all is said to be none.
    assert!(matches!(key.of_ca("QRT-1"), Err(BackupError::Key(_))));
    theirs.stop().await;
    restoring(&file, &pinned, &directory).despite_peers(true).await.unwrap();
    ours.stop().await;
}

/// A manager of then is started until it has met the restored one.
async fn meets_its_end(cluster: &Cluster, index: usize) {
    eventually("it has met the restored one", || async {
        match cluster.try_restart(index).await {
            Ok(node) => {
                node.stopped().await;
                None
            }
            Err(StartError::Superseded(_)) => Some(()),
            // What was begun is given back a moment later.
            Err(StartError::InUse(_)) => None,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
}

/// A file with so many bytes of values in it, and what opens it.
async fn file_of(cluster: &Cluster, name: &str, values: usize) -> (PathBuf, BackupKey) {
    let client = cluster.any().client();
    for n in 0..values {
        client.kv().put(format!("v/{n}"), vec![u8::try_from(n % 251).unwrap(); 50_000]).await.unwrap();
    }
    let (seal, key) = keys();
    let file = cluster.path(name);
    take(&client, &seal, &file).await;
    (file, key)
}

/// Neither looked at nor restored, and nothing was written.
async fn never_accepted(cluster: &Cluster, bytes: &[u8], key: &BackupKey, what: &str) -> String {
    let (file, directory) = (cluster.path("hurt"), cluster.path("never"));
    std::fs::write(&file, bytes).unwrap();
    let looked = verify(&file, key);
    let error = looked.map(|contents| format!("{contents:?}")).expect_err(what);
    let refused = restoring(&file, key, &directory).await.expect_err(what);
    assert!(matches!(refused, StartError::Backup(_) | StartError::NeedsVersion(_)), "{what}: {refused}");
    says(&refused, &["hurt", "Nothing was written"]);
    assert!(!directory.exists(), "{what}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_altered_or_is_another_ones_is_never_accepted() {
    let cluster = Cluster::founded().await;
    let (file, key) = file_of(&cluster, "b", 8).await;
    let whole = std::fs::read(&file).unwrap();
    let contents: BackupContents = verify(&file, &key).unwrap();
    assert_eq!((contents.keys, contents.file_bytes), (8, whole.len() as u64));
    let directory = cluster.path("elsewhere");
    // Given the file cut at each boundary of what is sealed by itself, and beside it
    let sealed = 64 * 1024 + 16;
    let header = whole.windows(5).position(|part| part == b"\n--- ").unwrap() + 5 + 43 + 1 + 16;
    let chunks: Vec<usize> = (header..=whole.len()).step_by(sealed).collect();
    assert!(chunks.len() > 5, "{chunks:?}");
    for boundary in chunks {
        for at in [boundary.saturating_sub(1), boundary, boundary + 1] {
            if at < whole.len() {
                never_accepted(&cluster, &whole[..at], &key, &format!("cut at {at}")).await;
            }
        }
    }
    for at in [0, 1, 20, 100, whole.len() - 1] {
        never_accepted(&cluster, &whole[..at], &key, &format!("cut at {at}")).await;
    }
    // with each bit of its first lines flipped, and many behind them,
    let places = (0..header + 40).chain((header..whole.len()).step_by(9_973)).chain(whole.len() - 40..whole.len());
    for (count, at) in places.enumerate() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (count % 8);
        let hurt = cluster.path("hurt");
        std::fs::write(&hurt, &flipped).unwrap();
        let error = verify(&hurt, &key).map(|found| format!("{found:?}")).expect_err(&format!("byte {at}"));
        if count % 97 == 0 {
            never_accepted(&cluster, &flipped, &key, &format!("byte {at}")).await;
        }
        assert!(!matches!(error, BackupError::Key(_) | BackupError::File(_)), "byte {at}: {error}");
    }
    // with something behind it, twice over, or two chunks in each other's place,
    let behind = [&whole[..], b"x"].concat();
    says(&never_accepted(&cluster, &behind, &key, "more").await, &["altered"]);
    never_accepted(&cluster, &[&whole[..], &whole[..]].concat(), &key, "twice").await;
    let mut swapped = whole.clone();
    swapped[header..header + 2 * sealed].rotate_left(sealed);
    never_accepted(&cluster, &swapped, &key, "swapped").await;
    // or another file,
    says(&never_accepted(&cluster, b"", &key, "empty").await, &["ends too early"]);
    says(&never_accepted(&cluster, b"{\"quorate_export\":1}\n", &key, "an export").await, &["no backup"]);
    // or another one's key:
    let (other, passphrase) = (keys().1, BackupKey::passphrase("guess").unwrap());
    says(&never_accepted(&cluster, &whole, &other, "another key").await, &["another key"]);
    says(&never_accepted(&cluster, &whole, &passphrase, "a passphrase").await, &["sealed for a key"]);
    // none of them, and the file as it is, is
    restoring(&file, &key, &directory).await.unwrap_err();
    cluster.any().client().kv().put("still", "here").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_seals_and_opens_and_another_one_does_not() {
    let mut cluster = Cluster::founded().await;
    cluster.any().client().kv().put("k", "v").await.unwrap();
    let file = cluster.path("b");
    take(&cluster.any().client(), &BackupSeal::passphrase("correct horse").unwrap(), &file).await;
    for (key, word) in [(BackupKey::passphrase("wrong").unwrap(), "another"), (keys().1, "with a passphrase")] {
        let refused = verify(&file, &key).unwrap_err();
        assert!(matches!(refused, BackupError::WrongKey(_)), "{refused}");
        says(&refused, &[word]);
    }
    cluster.kill(0).await;
    let key = BackupKey::passphrase("correct horse").unwrap();
    let directory = cluster.path("restored");
    restoring(&file, &key, &directory).await.unwrap();
    let node = started(&cluster, &directory).await;
    assert_eq!(node.client().kv().get("k").await.unwrap().unwrap().value, "v");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_nobody_reads_holds_nobody_up_and_one_whose_manager_goes_leaves_nothing() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    for n in 0..30 {
        client.kv().put(format!("v/{n}"), vec![7; 200_000]).await.unwrap();
    }
    // Given two backups of one manager that are not read
    let (seal, _) = keys();
    let outside = cluster.outside(&[1]).await;
    let mut held = vec![outside.backup(&seal).await.unwrap(), outside.backup(&seal).await.unwrap()];
    assert!(held[0].next().await.unwrap().is_some());
    // Then writes go on, a third one is sent elsewhere, and both are of what was there
    for n in 0..50 {
        client.kv().put(format!("after/{n}"), "x").await.unwrap();
    }
    let busy = outside.backup(&seal).deadline(std::time::Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(busy, Error::Overloaded { .. }) && busy.is_retryable(), "{busy}");
    assert_eq!(busy.limit().map(|limit| (limit.name.as_str(), limit.bound)), Some(("BACKUPS_MAX", 2)));
    let elsewhere = cluster.outside(&[1, 2]).await.backup(&seal).await.unwrap();
    assert_eq!(elsewhere.info().manager, cluster.node(2).name());
    drop(elsewhere);
    let mut bytes = 0;
    while let Some(more) = held[0].next().await.unwrap() {
        bytes += more.len();
    }
    assert!(bytes > 6_000_000, "{bytes}");
    // When the manager of the other one stops
    let half = held.pop().unwrap();
    let file = cluster.path("half");
    let saving = tokio::spawn({
        let file = file.clone();
        async move { half.save(&file, false).await }
    });
    // It may be through by then: what counts is that there is a whole file, or none
    cluster.kill(1).await;
    match saving.await.unwrap() {
        Ok(_) => assert!(file.exists()),
        Err(error) => {
            assert!(matches!(&error, BackupError::Cluster(error) if error.is_retryable()), "{error}");
            assert!(!names(&cluster.path("")).iter().any(|name| name.starts_with("half")));
        }
    }
    // One that is certainly not through
    let outside = cluster.outside(&[2]).await;
    let mut unread = outside.backup(&seal).await.unwrap();
    assert!(unread.next().await.unwrap().is_some());
    cluster.kill(2).await;
    let error = loop {
        match unread.next().await {
            Ok(more) => assert!(more.is_some(), "a part of it is told to be the whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(unread.next().await, Ok(None));
    // Without a quorum only what the manager has, when that is asked for
    let alone = cluster.any().client();
    let lost = alone.backup(&seal).await.unwrap_err();
    assert!(lost.is_retryable(), "{lost}");
    let info = alone.backup(&seal).serializable().await.unwrap().info().clone();
    assert!(info.age_ms.is_none_or(|age| age > 0), "{info:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_identity_takes_no_backup() {
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let (seal, _) = keys();
    let denied = worker.client().backup(&seal).await.unwrap_err();
    assert!(matches!(denied, Error::Denied(_)), "{denied}");
    worker.shutdown().await;
    cluster.stop().await;
}

/// Runs `quorate` with the library in front.
fn quorate(library: &Path, arguments: &[&str], die_at: u64) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(arguments)
        .env("LD_PRELOAD", library)
        .env("QUORATE_DIE_AT", die_at.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_killed_at_any_write_counts_for_nothing_and_is_done_by_a_second_call() {
    let mut cluster = Cluster::founded().await;
    let pair = KeyPair::generate();
    let (seal, key_file) = (BackupSeal::recipients([pair.recipient()]).unwrap(), cluster.path("backup.key"));
    std::fs::write(&key_file, pair.to_text().as_bytes()).unwrap();
    for n in 0..20 {
        cluster.any().client().kv().put(format!("k{n}"), format!("value {n}")).await.unwrap();
    }
    let file = cluster.path("b");
    take(&cluster.any().client(), &seal, &file).await;
    cluster.kill(0).await;
    let library = shim(&cluster.path(""));
    let (mut whole, mut nothing) = (0, 0);
    let mut points = 0;
    for at in 1..2_000 {
        let directory = cluster.path(&format!("killed-{at}"));
        let place = directory.to_str().unwrap().to_owned();
        let arguments = [
            "restore",
            file.to_str().unwrap(),
            "--backup-key",
            key_file.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &place,
        ];
        let output = quorate(&library, &arguments, at);
        if output.status.code().is_some() {
            assert!(output.status.success(), "died at {at}: {}", String::from_utf8_lossy(&output.stderr));
            points = at - 1;
            break;
        }
        // As the process left it, and as a power cut that takes what was not synced
        let cut = cluster.path(&format!("cut-{at}"));
        if directory.exists() {
            copy(&directory, &cut);
            if cut.join("store").exists() {
                let _not_made_yet = quorate_storage::testing::lose_unsynced(&cut.join("store"));
            }
        }
        for place in [&directory, &cut] {
            match inspect(place) {
                // Nothing but the last step, the mark's, makes it count
                Ok(found) => {
                    assert_eq!((found.state_hash, found.generation), (found.recorded_hash, 2), "died at {at}");
                    assert!(place.join("node.id").exists(), "died at {at}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(matches!(error, StartError::Directory(_)), "died at {at}: {error}");
                    nothing += 1;
                    if place.join("restore.part").exists() {
                        says(&error, &["was cut off", "quorate restore"]);
                        let refused =
                            Node::builder(place).listen("127.0.0.1:0").start(Start::OpenOrInit).await.unwrap_err();
                        assert!(matches!(refused, StartError::Directory(_)), "died at {at}: {refused}");
                    }
                    let place = place.to_str().unwrap();
                    let again = [&arguments[..arguments.len() - 1], &[place]].concat();
                    let done = quorate(&library, &again, 0);
                    assert!(done.status.success(), "died at {at}: {}", String::from_utf8_lossy(&done.stderr));
                    let found = inspect(Path::new(place)).unwrap();
                    assert_eq!((found.state_hash, found.generation), (found.recorded_hash, 2), "died at {at}");
                }
            }
        }
        for used in [directory, cut] {
            let _none = std::fs::remove_dir_all(used);
        }
    }
    println!("a restore was killed at {points} writes, syncs and renames: {whole} counted, {nothing} did not");
    assert!(points > 30 && nothing > 50, "{points} {whole} {nothing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_killed_at_any_write_has_no_name_or_is_whole_and_nothing_is_overwritten_unasked() {
    let cluster = Cluster::founded().await;
    for n in 0..10 {
        cluster.any().client().kv().put(format!("k{n}"), vec![3; 100_000]).await.unwrap();
    }
    let pair = KeyPair::generate();
    let key = BackupKey::from_text(&pair.to_text()).unwrap();
    let library = shim(&cluster.path(""));
    let place = cluster.path("backups");
    std::fs::create_dir(&place).unwrap();
    let file = place.join("b");
    let (recipient, data) = (pair.recipient(), cluster.members[0].directory.clone());
    let arguments =
        ["backup", file.to_str().unwrap(), "--recipient", &recipient, "--json", "--data-dir", data.to_str().unwrap()];
    let mut points = 0;
    for at in 1..2_000 {
        let output = quorate(&library, &arguments, at);
        if output.status.code().is_some() {
            assert!(output.status.success(), "died at {at}: {}", String::from_utf8_lossy(&output.stderr));
            points = at - 1;
            break;
        }
        if file.exists() {
            assert_eq!(verify(&file, &key).unwrap().keys, 10, "died at {at}");
            std::fs::remove_file(&file).unwrap();
        }
        assert!(names(&place).iter().all(|name| name == "b.part"), "died at {at}: {:?}", names(&place));
    }
    println!("a backup was killed at {points} writes, syncs and renames");
    assert!(points > 5, "{points}");
    // What the killed ones left is no obstacle, and is gone
    assert_eq!(names(&place), ["b"]);
    let before = std::fs::read(&file).unwrap();
    let refused = quorate(&library, &arguments, 0);
    assert_eq!(refused.status.code(), Some(1));
    says(&String::from_utf8_lossy(&refused.stderr), &["is there already", "--force"]);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let forced = quorate(&library, &[&arguments[..], &["--force"]].concat(), 0);
    assert!(forced.status.success());
    assert!(std::fs::read(&file).unwrap() != before && names(&place) == ["b"]);
    cluster.any().client().kv().put("still", "here").await.unwrap();
    // Words on the command line: wrong keys are told apart from wrong usage, and a secret is not repeated
    let secret = pair.to_text().lines().last().unwrap().to_owned();
    for (arguments, code, words) in [
        (vec!["backup", "x"], 2, "--recipient"),
        (vec!["backup", "x", "--recipient", "age1nonsense", "--data-dir", "d"], 2, "no recipient"),
        (vec!["backup", "x", "--recipient", secret.as_str(), "--data-dir", "d"], 2, "a secret one"),
        (vec!["backup", "verify", file.to_str().unwrap()], 2, "--backup-key"),
        (vec!["restore", file.to_str().unwrap(), "--data-dir", "d"], 2, "--backup-key"),
    ] {
        let output = quorate(&library, &arguments, 0);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        says(&said, &[words]);
        assert!(!said.contains(&secret[20..40]), "{said}");
    }
    cluster.stop().await;
}
