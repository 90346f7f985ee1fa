//! Leases and locks from the command line, on real processes; a leader that is stopped and goes on is one of them.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use cli_support::{Beside, Node, Said, eventually, managers, on};

fn signal(node: &Node, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &node.pid().to_string()]).status().unwrap().success());
}

/// The manager that leads, and another one.
fn leader_and_other(nodes: &[Node]) -> (&Node, &Node) {
    let leads = eventually("somebody leads", || nodes[0].status()["leader"].as_str().map(str::to_owned));
    let is_leader = |node: &&Node| node.directory.ends_with(&leads);
    (nodes.iter().find(is_leader).unwrap(), nodes.iter().find(|node| !is_leader(node)).unwrap())
}

fn granted(said: &Said) -> String {
    said.stdout.trim().to_owned()
}

#[test]
fn a_lease_is_granted_shown_kept_and_revoked() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let lease = granted(&on(node, &["lease", "grant", "--ttl", "1m"]).exits(0));
    on(node, &["kv", "put", "w/1", "here", "--lease", &lease]).exits(0);
    on(node, &["kv", "put", "w/2", "here", "--lease", &lease]).exits(0);
    let shown = on(node, &["lease", "show", &lease, "--json"]).exits(0).json();
    assert_eq!((shown["ttl_ms"].as_u64(), shown["keys"].as_u64()), (Some(60_000), Some(2)));
    assert_eq!(shown["attached"][0]["key"], "w/1");
    assert!(shown["left_ms"].as_u64().unwrap() <= 60_000);
    let shown = on(node, &["lease", "show", &lease]).exits(0);
    assert!(shown.stdout.contains("ttl 1m") && shown.stdout.ends_with("w/1\nw/2\n"), "{shown:?}");
    let listed = on(node, &["lease", "list", "--json"]).exits(0).json();
    assert_eq!(listed["leases"][0]["lease"].as_u64().map(|id| id.to_string()), Some(lease.clone()));
    assert!(on(node, &["lease", "list"]).exits(0).stdout.starts_with("LEASE"));
    let got = on(node, &["kv", "get", "w/1", "--json"]).exits(0).json();
    assert_eq!(got["lease"].as_u64().map(|id| id.to_string()), Some(lease.clone()));
    let kept = on(node, &["lease", "keep-alive", &lease, "--once", "--json"]).exits(0).json();
    assert_eq!(kept["ttl_ms"], 60_000);
    let revoked = on(node, &["lease", "revoke", &lease]).exits(0);
    assert!(revoked.stdout.contains("2 keys deleted"), "{revoked:?}");
    on(node, &["kv", "get", "w/1"]).exits(1);
    for words in [&["lease", "keep-alive", &lease][..], &["lease", "revoke", &lease], &["lease", "show", &lease]] {
        let said = on(node, &[words, &["--json"]].concat()).exits(1);
        assert_eq!(said.json()["error"]["kind"], "lease_not_found");
        assert_eq!(said.json()["lease"].as_u64().map(|id| id.to_string()), Some(lease.clone()));
    }
    on(node, &["kv", "put", "w/3", "here", "--lease", &lease]).exits(1).complains(&["there is no lease"]);
    on(node, &["lease", "grant", "--ttl", "10ms"]).exits(2).complains(&["from 1s to 365d"]);
    on(node, &["lease", "grant"]).exits(2).complains(&["--ttl"]);
}

#[test]
fn a_command_runs_under_a_lock_with_its_fencing_token_and_exits_as_it_did() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let script = "echo $QUORATE_FENCING_TOKEN; echo $QUORATE_LOCK_KEY; exit 7";
    let ran = on(node, &["lock", "job", "--", "sh", "-c", script]).exits(2);
    // (What stands behind `--` is the command's, also --data-dir.)
    assert!(ran.stderr.contains("--data-dir"), "{ran:?}");
    let under = |words: &[&str]| cli_support::quorate(&[&["--data-dir", node.dir(), "lock", "job"], words].concat());
    let ran = under(&["--", "sh", "-c", script]).exits(7);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let first: u64 = lines[0].parse().unwrap();
    assert!(lines[1].starts_with("job/"), "{ran:?}");
    let second: u64 = under(&["--wait", "1ms", "--", "sh", "-c", "echo $QUORATE_FENCING_TOKEN"])
        .exits(0)
        .stdout
        .trim()
        .parse()
        .unwrap();
    assert!(second > first);
    under(&["--", "/no/such/program"]).exits(1).complains(&["does not start"]);
    // While one runs another one does not
    let nested = format!("{} --data-dir {} lock job --wait 1s -- true", env!("CARGO_BIN_EXE_quorate"), node.dir());
    under(&["--", "sh", "-c", &nested]).exits(1).complains(&["held by somebody else"]);
    // and nothing is left of any.
    assert_eq!(on(node, &["lease", "list", "--json"]).exits(0).json()["leases"].as_array().unwrap().len(), 0);
}

/// Says who it is, starts something that outlives it unless the whole group is ended, and waits.
const HOLDS: &str = "sleep 1000 & echo $$ $! $QUORATE_LOCK_KEY; wait";

fn is_alive(pid: &str) -> bool {
    // What has ended and was not waited for yet is not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_command_under_a_lock_ends_with_the_process_that_holds_it_and_with_the_lock() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let temporary = place.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let under = |script: &str| {
        // Nothing here waits for a lease to run out.
        let command = ["--data-dir", node.dir(), "lock", "job", "--ttl", "1h", "--", "sh", "-c", script];
        Beside::start_with_temporary(&temporary, &command)
    };
    let words = |line: String| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let all_gone = |pids: &[String]| {
        eventually("command and what it started are gone", || (!pids.iter().any(|pid| is_alive(pid))).then_some(()));
    };
    let leases = || on(node, &["lease", "list", "--json"]).exits(0).json()["leases"].as_array().unwrap().len();

    // When the lock's key is deleted, then it is noticed, and the whole group is ended
    let mut held = under(HOLDS);
    let said = words(held.says());
    assert!(said[..2].iter().all(|pid| is_alive(pid)), "{said:?}");
    on(node, &["kv", "del", &said[2]]).exits(0);
    assert_eq!(held.ends(), Some(1));
    all_gone(&said[..2]);
    assert_eq!(leases(), 0);

    // When it is told to end, then so is the command, whose exit code it is,
    for (signal, code) in [("TERM", 9), ("HUP", 10), ("INT", 11)] {
        let mut held =
            under("trap 'exit 9' TERM; trap 'exit 10' HUP; trap 'exit 11' INT; echo; while :; do sleep 0.1; done");
        held.says();
        held.signal(signal);
        assert_eq!(held.ends(), Some(code), "{signal}");
    }
    // and one that does not listen is killed.
    let mut deaf = under("trap '' TERM; echo; while :; do sleep 0.1; done");
    deaf.says();
    deaf.signal("TERM");
    assert_eq!(deaf.ends(), Some(128 + 9));

    // When one who waits is interrupted, then it leaves the line at once
    let mut held = under(HOLDS);
    let said = words(held.says());
    let mut waiting = under("echo never");
    eventually("it waits in line", || (leases() == 2).then_some(()));
    waiting.signal("INT");
    assert_eq!(waiting.ends(), Some(1));
    assert_eq!(leases(), 1);

    // When the process that holds it is killed, then the whole group ends all the same, and leaves nothing behind.
    held.signal("KILL");
    held.ends();
    all_gone(&said[..2]);
    eventually("its socket is gone", || std::fs::read_dir(&temporary).unwrap().next().is_none().then_some(()));
}

#[test]
fn a_command_that_does_not_listen_is_gone_before_the_next_one_has_the_lock() {
    // Given a command under a lock that does not end by itself, and somebody who waits for the lock
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let under = |script: &str| {
        Beside::start(&["--data-dir", node.dir(), "lock", "job", "--ttl", "4s", "--", "sh", "-c", script])
    };
    let mut deaf = under("trap '' TERM HUP INT; echo $$; while :; do sleep 0.1; done");
    let pid = deaf.says();
    let mut next = under(&format!("if kill -0 {pid}; then echo both; else echo alone; fi"));
    let leases = || on(node, &["lease", "list", "--json"]).exits(0).json()["leases"].as_array().unwrap().len();
    eventually("it waits in line", || (leases() == 2).then_some(()));
    // When the process that holds it is killed, then its command is, before its lease has run out.
    deaf.signal("KILL");
    deaf.ends();
    assert_eq!(next.says(), "alone");
    assert_eq!(next.ends(), Some(0));
}

#[test]
fn a_command_whose_holder_is_stopped_is_gone_before_the_next_one_has_the_lock() {
    // Given a command under a lock, one that listens and one that does not, and somebody who waits for the lock
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let under = |script: &str| {
        Beside::start(&["--data-dir", node.dir(), "lock", "job", "--ttl", "12s", "--", "sh", "-c", script])
    };
    let leases = || on(node, &["lease", "list", "--json"]).exits(0).json()["leases"].as_array().unwrap().len();
    for trap in ["", "trap '' TERM; "] {
        let mut held = under(&format!("{trap}echo $$; while :; do sleep 0.1; done"));
        let pid = held.says();
        // (What has ended and was not waited for yet does nothing any more.)
        let mut next = under(&format!(
            "case \"$(cat /proc/{pid}/stat 2>/dev/null)\" in ''|*') Z '*) echo alone;; *) echo both;; esac"
        ));
        eventually("it waits in line", || (leases() == 2).then_some(()));
        // When the process that holds it stands still, then the command is ended before its lease has run out,
        held.signal("STOP");
        assert_eq!(next.says(), "alone");
        assert_eq!(next.ends(), Some(0));
        // and when it goes on it says what has happened.
        held.signal("CONT");
        assert_eq!(held.ends(), Some(1));
        eventually("nothing is left", || (leases() == 0).then_some(()));
    }
}

#[test]
fn a_command_under_a_lock_does_not_begin_before_its_holder_has_said_for_how_long_it_holds() {
    // Given a holder that was asked and has not answered yet,
    let place = tempfile::tempdir().unwrap();
    let (telling, began) = (place.path().join("held"), place.path().join("began"));
    let holder = UnixListener::bind(&telling).unwrap();
    let mut under = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["under-lock", &std::process::id().to_string(), "2000"])
        .arg(&telling)
        .args(["--", "sh", "-c", "touch \"$0\"; sleep 1; exit 7"])
        .arg(&began)
        .spawn()
        .unwrap();
    let (mut asks, _) = holder.accept().unwrap();
    asks.read_exact(&mut [0]).unwrap();
    // (longer than a command that did not wait would need to begin)
    std::thread::sleep(Duration::from_millis(300));
    // then the command does not run: the holder may never answer, and its lease would run out unseen.
    assert!(!began.exists());
    // When it answers, then the command runs.
    asks.write_all(&60_000_u64.to_be_bytes()).unwrap();
    assert_eq!(under.wait().unwrap().code(), Some(7));
    assert!(began.exists());
}

#[test]
fn a_lease_never_ends_early_when_its_leader_is_stopped_for_longer_than_it_lasts() {
    // Given a leader of three that is stopped, and a lease of two seconds that was just renewed
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    let (leader, other) = leader_and_other(&nodes);
    let lease = granted(&on(other, &["lease", "grant", "--ttl", "2s"]).exits(0));
    on(other, &["kv", "put", "held", "x", "--lease", &lease]).exits(0);
    let sent = Instant::now();
    on(other, &["lease", "keep-alive", &lease, "--once"]).exits(0);
    signal(leader, "STOP");
    // Then the others end it, and not before its time
    eventually("the lease ends", || {
        let got = on(other, &["kv", "get", "held", "--timeout", "20s"]);
        (got.exit == Some(1)).then_some(())
    });
    let lasted = sent.elapsed();
    assert!(lasted >= Duration::from_secs(2), "{lasted:?}");
    // and the old leader, when it goes on, neither renews it nor ends another one.
    let next = granted(&on(other, &["lease", "grant", "--ttl", "1h"]).exits(0));
    signal(leader, "CONT");
    on(leader, &["lease", "keep-alive", &lease, "--once", "--timeout", "30s"]).exits(1);
    on(leader, &["lease", "keep-alive", &next, "--once", "--timeout", "30s"]).exits(0);
}

#[test]
fn a_lone_manager_that_was_stopped_lets_holders_renew_before_it_ends_anything() {
    // Given a cluster of one, stopped for longer than a lease lasts
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let lease = granted(&on(node, &["lease", "grant", "--ttl", "6s"]).exits(0));
    signal(node, "STOP");
    std::thread::sleep(Duration::from_secs(7));
    // When it goes on, then its holder, who could not renew it meanwhile, has its whole time to do so
    signal(node, "CONT");
    on(node, &["lease", "keep-alive", &lease, "--once"]).exits(0);
}

/// The library that stands before the wall clock, where it is installed.
fn clock_library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];
    let files = places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists())
}

/// Where it is read by how many seconds a node's wall clock is ahead; its monotonic clock is the machine's.
fn wall_clock(node: &Node) -> PathBuf {
    node.directory.with_extension("clock")
}

/// Sets a node's wall clock, and waits until the node says that it is so.
fn set_wall_clock(node: &Node, ahead: i64) {
    std::fs::write(wall_clock(node), format!("{ahead:+}\n")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(quorate::Client::local(&node.directory)).unwrap();
    eventually("the node's wall clock is set", || {
        let theirs = i64::try_from(runtime.block_on(client.check()).unwrap().unix_ms).unwrap();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let off = theirs - i64::try_from(since.as_millis()).unwrap() - ahead * 1_000;
        (off.abs() < 60_000).then_some(())
    });
}

#[test]
fn a_leader_whose_wall_clock_jumps_by_an_hour_ends_no_lease_early_and_each_in_its_time() {
    const HOUR: i64 = 3_600;
    let Some(library) = clock_library() else {
        eprintln!("skipped: libfaketime is not installed (apt-get install faketime)");
        return;
    };
    // Given managers whose wall clocks can be set
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    for node in &mut nodes {
        assert_eq!(node.terminate(), Some(0));
        let stamp = wall_clock(node);
        std::fs::write(&stamp, "+0\n").unwrap();
        node.environment = vec![
            ("LD_PRELOAD", library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", stamp),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
        ];
        node.run();
        eventually("all are well", || (node.status()["health"] == "ok").then_some(()));
    }
    for ahead in [HOUR, -HOUR] {
        // when that of the leader jumps just after a lease was renewed there,
        let (leader, other) = leader_and_other(&nodes);
        let lease = granted(&on(other, &["lease", "grant", "--ttl", "5s"]).exits(0));
        on(other, &["kv", "put", "held", "x", "--lease", &lease]).exits(0);
        let sent = Instant::now();
        on(other, &["lease", "keep-alive", &lease, "--once"]).exits(0);
        set_wall_clock(leader, ahead);
        // then the lease lasts as long as was said, and no hour more or less.
        eventually("the lease ends", || {
            let got = on(other, &["kv", "get", "held", "--timeout", "20s"]);
            (got.exit == Some(1)).then_some(())
        });
        let lasted = sent.elapsed();
        assert!(lasted >= Duration::from_secs(5), "{ahead:+} s: {lasted:?}");
        set_wall_clock(leader, 0);
    }
}
