//! `recover`, killed at every write, sync and rename that it makes.
//!
//! The binary runs with a small library in front of libc that counts the calls which change files, RocksDB's own among them.
//! A dry pass counts; then one run dies before each of them, once as a killed process does, once as after a power cut that
//! takes what was not synced.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use quorate::{Inspection, inspect};

use crate::recovery::{WRITES, all_killed, alone, holds};
use crate::support::{Cluster, copy};

/// Builds the library that counts and kills.
pub(crate) fn shim(place: &Path) -> PathBuf {
    let library = place.join("disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/helpers/disk.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let built =
        Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    let built = built.expect("a C compiler: the build of RocksDB needs one, too");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library
}

/// Runs `quorate` on a directory with the library in front; true when it ended by itself, done.
fn quorate(library: &Path, directory: &Path, die_at: u64, counts: Option<&Path>) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(["recover", "--json", "--data-dir"]).arg(directory).env("LD_PRELOAD", library);
    command.env("QUORATE_DIE_AT", die_at.to_string()).stdin(Stdio::null());
    if let Some(counts) = counts {
        command.env("QUORATE_COUNT_TO", counts);
    }
    let output = command.output().unwrap();
    if output.status.code().is_none() {
        return false;
    }
    assert!(output.status.success(), "died at {die_at}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Whether the directory holds all of the recovery; else it must be as it was: with what was applied and not synced, or
/// without it, which is in the log in either case.
fn is_whole(before: &[Inspection; 2], directory: &Path, at: u64) -> bool {
    let now = inspect(directory).unwrap_or_else(|error| panic!("died at {at}: {error}"));
    assert_eq!(now.state_hash, now.recorded_hash, "died at {at}");
    let [first, _] = before;
    if now.generation == first.generation {
        let is_as_it_was = |before: &Inspection| {
            let mut before = before.clone();
            before.repaired.clone_from(&now.repaired);
            before == now
        };
        assert!(before.iter().any(is_as_it_was), "died at {at}: {now:?}");
        return false;
    }
    let before = first;
    assert_eq!((now.generation, now.last_index), (before.generation + 1, before.last_index + 1), "died at {at}");
    assert_eq!((now.commit, now.vote), (now.last_index, now.raft_id), "died at {at}");
    assert!(now.term >= before.term + (1 << 32), "died at {at}: {} after {}", now.term, before.term);
    assert_eq!((now.voters.as_slice(), now.voters_outgoing.len(), now.learners.len()), (&[now.raft_id][..], 0, 0));
    assert!(now.applied <= before.applied, "nothing is applied before the next start");
    true
}

/// The directory is started, and has everything.
async fn starts(cluster: &mut Cluster, index: usize, directory: &Path) {
    let own = std::mem::replace(&mut cluster.members[index].directory, directory.to_owned());
    cluster.restart(index).await;
    alone(cluster, index).await;
    holds(&cluster.node(index).client(), WRITES).await;
    cluster.kill(index).await;
    cluster.members[index].directory = own;
}

/// One run that dies at the `at`th call: the directory it leaves, the same after a power cut, and whether each held all of the
/// recovery before a second call completed it. And whether the run came to its end.
fn killed_at(
    library: &Path,
    pristine: &Path,
    place: &Path,
    before: &[Inspection; 2],
    at: u64,
) -> (Vec<(PathBuf, bool)>, bool) {
    let (killed, cut) = (place.join(format!("killed-{at}")), place.join(format!("cut-{at}")));
    copy(pristine, &killed);
    let ended = quorate(library, &killed, at, None);
    copy(&killed, &cut);
    let mut left = vec![killed];
    // (Where the store is not even half opened there is no journal to cut.)
    if quorate_storage::testing::lose_unsynced(&cut.join("store")).is_ok() {
        left.push(cut);
    }
    let judged = left.into_iter().map(|directory| {
        let whole = is_whole(before, &directory, at);
        assert!(whole || !ended, "a recovery that was reported as done is durable");
        assert!(quorate(library, &directory, 0, None));
        assert!(is_whole(before, &directory, at));
        (directory, whole)
    });
    (judged.collect(), ended)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_killed_at_every_write_sync_and_rename_changes_nothing_or_everything() {
    let (mut cluster, survivor) = all_killed(3).await;
    let pristine = cluster.members[survivor].directory.clone();
    let unsynced = cluster.path("unsynced");
    copy(&pristine, &unsynced);
    quorate_storage::testing::lose_unsynced(&unsynced.join("store")).unwrap();
    let before = [inspect(&pristine).unwrap(), inspect(&unsynced).unwrap()];
    let library = shim(&cluster.path(""));
    // Given a pass that dies nowhere, and counts
    let (dry, counts) = (cluster.path("dry"), cluster.path("counts"));
    copy(&pristine, &dry);
    assert!(quorate(&library, &dry, 0, Some(&counts)));
    assert!(is_whole(&before, &dry, 0));
    let counted = std::fs::read_to_string(&counts).unwrap();
    let [writes, syncs, renames] =
        counted.split_whitespace().map(|n| n.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{counted}")
    };
    let total = writes + syncs + renames;
    // when it dies at each of them (RocksDB's threads may need a few more or less from run to run)
    let next = AtomicU64::new(1);
    let place = cluster.path("");
    let killed = |_| {
        let mut kept = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (directories, ended) = killed_at(&library, &pristine, &place, &before, at);
            kept.extend(directories);
            if ended {
                return kept;
            }
            assert!(at < 2 * total + 100, "it never ends");
        }
    };
    let kept: Vec<(PathBuf, bool)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || killed(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    // then there is nothing of it or all of it, and a start finishes what a second call completed.
    let everything = kept.iter().filter(|(_, whole)| *whole).count();
    let nothing = kept.len() - everything;
    for whole in [false, true] {
        let mut some = kept.iter().filter(|(_, was)| *was == whole).map(|(directory, _)| directory);
        for directory in [some.next(), some.next_back()].into_iter().flatten() {
            starts(&mut cluster, survivor, directory).await;
        }
    }
    println!(
        "recover makes {writes} writes, {syncs} syncs and {renames} renames; killed at each of {total}: {nothing} directories as before, {everything} recovered, all of them whole and completed by a second call"
    );
    assert!(nothing > 10 && everything > 1, "{nothing} and {everything}");
}
