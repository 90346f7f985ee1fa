//! Managers in processes of their own under more than they can do: overload, starvation, members and watchers that stand
//! still, large values. Each runs alone (`.config/nextest.toml`). `make test-long` gives each its full length, and compares rates and
//! room on disk, which a few seconds say nothing about; without it what must hold at any length is judged all the same.
//!
//! No assertion depends on how fast the machine is: what it can do is measured first, in the same run.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]
#![allow(clippy::print_stderr, reason = "the figures of a long run are what it is for")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{Beside, Node, managers, on, quorate};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// The longest election timeout on the `wan` timing: 30 ticks of 150 ms.
const ELECTION: Duration = Duration::from_millis(4_500);

/// Whether each has its full length.
fn long() -> bool {
    std::env::var_os("QUORATE_LONG_LOADS").is_some()
}

fn bench(nodes: &[Node], arguments: &[&str]) -> Value {
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    // Whichever leads: it is the first one's directory that has it.
    let operator = nodes[0].directory.with_file_name("n1").join("operator.id");
    let operator = operator.to_str().unwrap();
    let to = ["--json", "--connect", &addresses.join(","), "--identity", operator];
    // Overloaded on purpose, some requests may fail; what was done is in the figures all the same.
    let said = quorate(&[&["bench", "put"], arguments, &to].concat());
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn nothing_failed() -> Value {
    serde_json::json!({ "refused": 0, "unknown": 0 })
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

/// Who leads in which term.
fn leadership(nodes: &[Node]) -> (String, u64) {
    cli_support::eventually("somebody leads", || {
        let status = nodes[0].status();
        Some((status["leader"].as_str()?.to_owned(), status["term"].as_u64()?))
    })
}

/// A line of `/proc/PID/status`, bytes.
fn memory(node: &Node, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let found = status.lines().find(|found| found.starts_with(line)).unwrap();
    found.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn on_disk(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map_while(Result::ok);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => on_disk(&entry.path()),
        Ok(found) => found.len(),
        // A file that was there a moment ago.
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// Processes that do nothing else than compute.
struct Busy(Vec<Child>);

impl Busy {
    fn loops(count: usize) -> Self {
        let one = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..count).map(|_| one()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn five_times_too_much_costs_no_leader_and_the_rate_is_back_within_ten_election_timeouts() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    // (Clients and managers share this machine's cores, and nothing says who gets them: elections take seconds here.)
    on(&nodes[0], &["policy", "set", "--timing", "wan"]).exits(0);
    // Given what three managers can do on this machine
    let served = |time: u64| {
        let shape = ["--clients", "200", "--warm-up", "0", "--duration", &seconds(Duration::from_secs(time))];
        let figures = bench(&nodes, &shape);
        assert_eq!(figures["failed"], nothing_failed(), "{figures}");
        figures["rate"].as_f64().unwrap()
    };
    let before = served(if long() { 15 } else { 4 });
    let led = leadership(&nodes);
    // when five times that is asked of them, without waiting for answers,
    let overload = Duration::from_secs(if long() { 60 } else { 8 });
    let (time, wanted) = (seconds(overload), (before * 5.0).to_string());
    let shape = ["--clients", "20000", "--conns", "40", "--warm-up", "0", "--duration", &time, "--rate", &wanted];
    let flood = bench(&nodes, &shape);
    // then they serve again, all that they are asked, and within ten election timeouts as much as they could before,
    let until = Instant::now() + ELECTION * 10;
    let after = loop {
        let after = served(4);
        if !long() || after >= before * 0.9 || Instant::now() >= until {
            break after;
        }
    };
    eprintln!(
        "served {before:.0}/s before and {after:.0}/s after {overload:?} at {wanted}/s, of which {}/s were served, failed {}",
        flood["rate"], flood["failed"]
    );
    assert!(!long() || after >= before * 0.9, "{after} a second after it, {before} before");
    // under the same leader.
    assert_eq!(leadership(&nodes), led);
}

#[test]
fn two_busy_loops_for_each_core_cost_no_leader() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    // Given a leader, on a machine that has more to do than it can
    let cores = std::thread::available_parallelism().unwrap().get();
    let led = leadership(&nodes);
    let _busy = Busy::loops(cores * 2);
    // when managers serve a little beside it,
    let time = Duration::from_secs(if long() { 600 } else { 15 });
    let shape = ["--clients", "10", "--rate", "20", "--warm-up", "0", "--duration", &seconds(time)];
    let figures = bench(&nodes, &shape);
    // then nobody else leads, and all of it is done.
    eprintln!("{time:?} beside {} busy loops: {} done, {}", cores * 2, figures["requests"], figures["latency_us"]);
    assert_eq!(leadership(&nodes), led);
    assert_eq!(figures["failed"], nothing_failed(), "{figures}");
}

#[test]
fn a_dead_manager_and_a_watcher_that_stands_still_cost_neither_memory_nor_disk() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    on(&nodes[0], &["policy", "set", "--history-revisions", "100"]).exits(0);
    let (leader, _) = leadership(&nodes);
    let at = nodes.iter().position(|node| node.dir().ends_with(&leader)).unwrap();
    nodes.swap(0, at);
    // Given a watcher in a process that is stopped, and a manager that is dead
    let watcher =
        Beside::start(&["kv", "watch", "--prefix", "bench/", "--from-revision", "1", "--data-dir", nodes[0].dir()]);
    bench(&nodes, &["--clients", "1", "--total", "1", "--warm-up", "0"]);
    watcher.says();
    watcher.signal("STOP");
    nodes[2].kill();
    // when far more is written than any queue, window or log may hold for the two of them,
    let load = |nodes: &[Node], total: &str| {
        let shape = ["--clients", "20", "--val-size", "65536", "--key-space-size", "200", "--warm-up", "0", "--total"];
        let figures = bench(&nodes[..2], &[&shape[..], &[total]].concat());
        (figures["requests"].as_u64().unwrap(), memory(&nodes[0], "VmRSS"), on_disk(&nodes[0].directory))
    };
    let total = if long() { "40000" } else { "6000" };
    let (first, memory_before, disk_before) = load(&nodes, total);
    let (second, memory_after, disk_after) = load(&nodes, total);
    eprintln!(
        "{first} and {second} puts of 64 KiB: memory {} and {} MiB, on disk {} and {} MiB",
        memory_before / MIB,
        memory_after / MIB,
        disk_before / MIB,
        disk_after / MIB
    );
    // then the second half of it takes no more room than the first: of the short form's 375 MiB, too, the watcher's share or the
    // dead manager's would show in memory. (On the disk the first half may leave the window of the log still to be filled.)
    assert!(memory_after <= memory_before + 128 * MIB, "{memory_before} and {memory_after} bytes");
    assert!(!long() || disk_after <= disk_before + 512 * MIB, "{disk_before} and {disk_after} bytes");
    watcher.signal("CONT");
}

#[test]
fn a_hundred_clients_with_values_of_a_mebibyte_take_bounded_memory() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    // (As above: what is judged here is memory, and that the leader is not lost for want of a core.)
    on(&nodes[0], &["policy", "set", "--history-revisions", "20", "--timing", "wan"]).exits(0);
    let led = leadership(&nodes);
    let total = if long() { "3000" } else { "400" };
    let shape = ["--clients", "100", "--conns", "100", "--val-size", "1048576", "--key-space-size", "50"];
    let figures = bench(&nodes, &[&shape[..], &["--warm-up", "0", "--timeout", "120s", "--total", total]].concat());
    let most: Vec<u64> = nodes.iter().map(|node| memory(node, "VmHWM") / MIB).collect();
    eprintln!("{} puts of 1 MiB by 100 clients: {most:?} MiB at most, {}", figures["requests"], figures["failed"]);
    // 64 MiB of requests of clients and as much of managers, the same again that waits, log and queues beside it.
    assert!(most.iter().all(|most| *most < 1_024), "{most:?} MiB");
    assert_eq!(leadership(&nodes), led);
}
