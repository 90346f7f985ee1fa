//! A rolling upgrade with real processes: today's binary, and the one of the version after it (`quorate-next`).
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cli_support::{Node, PATIENCE, PROGRAM, Said, eventually, managers, on, quorate, quorate_of};
use quorate_core::membership::record::NodeRecord;
use quorate_core::txn::{Put, Txn};
use serde_json::Value;

/// The binary of the version after this one, which lies beside today's.
fn next_program() -> String {
    let next = Path::new(PROGRAM).with_file_name("quorate-next");
    assert!(
        next.is_file(),
        "{} is missing: `make next-binary` builds it (`make test` does so by itself)",
        next.display()
    );
    next.to_str().unwrap().to_owned()
}

/// A command of the newer binary on a node's own machine.
fn newly(node: &Node, arguments: &[&str]) -> Said {
    quorate_of(&next_program(), &[arguments, &["--data-dir", node.dir()]].concat())
}

fn upgrade(node: &Node) -> Value {
    on(node, &["upgrade", "status", "--json"]).exits(0).json()
}

/// Stops a manager in order, and starts it with another binary; waits until the cluster is well again.
fn replace_binary(nodes: &mut [Node], which: usize, program: &str) {
    assert_eq!(nodes[which].terminate(), Some(0));
    nodes[which].program = program.to_owned();
    nodes[which].run();
    well(nodes);
}

fn well(nodes: &[Node]) {
    eventually("the cluster is well", || {
        let status = nodes[0].status();
        let managers = status["managers"].as_array().unwrap();
        let there = managers.iter().all(|manager| manager["reachable"] == true && manager["lag"] == 0);
        (status["health"] == "ok" && there).then_some(())
    });
}

/// Waits until every manager has said which versions it supports.
fn reported(node: &Node, newest: &[u64]) -> Value {
    eventually("every manager has reported its program", || {
        let status = upgrade(node);
        let mut managers: Vec<&Value> = status["managers"].as_array().unwrap().iter().collect();
        managers.sort_by_key(|manager| manager["raft_id"].as_u64());
        let said: Vec<u64> = managers.iter().map(|manager| manager["newest"].as_u64().unwrap()).collect();
        (said == newest).then(|| status.clone())
    })
}

/// One client that writes key after key for as long as the test goes on.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<BTreeMap<String, u64>>>,
}

impl Load {
    fn on(nodes: &[Node]) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
        let identity = quorate::Identity::load(Path::new(&nodes[0].operator())).unwrap();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let client = quorate::Client::connect(&addresses, identity).await.unwrap();
                let client = client.with_deadline(Duration::from_secs(30));
                let mut acknowledged = BTreeMap::new();
                for number in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("load/{number:06}");
                    let written = client.kv().put(key.clone(), format!("value {number}")).await.unwrap();
                    acknowledged.insert(key, written.revision);
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                acknowledged
            })
        });
        Self { stop, written, thread: Some(thread) }
    }

    /// It goes on: so many more writes are acknowledged.
    fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        eventually("writes go on", || (self.written.load(Ordering::Relaxed) > before + 5).then_some(()));
    }

    /// Every write that was acknowledged, by key, with its revision.
    fn end(mut self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

#[test]
fn managers_go_up_one_by_one_and_back_and_up_again_under_load_and_no_write_is_lost() {
    let place = tempfile::tempdir().unwrap();
    let next = next_program();
    let mut nodes = managers(place.path(), 3);
    let load = Load::on(&nodes);
    let before = upgrade(&nodes[0]);
    assert_eq!((&before["state"], &before["cluster_version"]), (&"up_to_date".into(), &1.into()), "{before}");

    // Given a cluster in which one manager after the other gets the newer binary, then each says so at once,
    replace_binary(&mut nodes, 2, &next);
    let rolling = reported(&nodes[0], &[1, 1, 2]);
    assert_eq!((&rolling["state"], &rolling["target_version"]), (&"rolling".into(), &2.into()), "{rolling}");
    assert_eq!(rolling["held_back_by"], serde_json::json!(["n1", "n2"]), "{rolling}");
    let page = on(&nodes[2], &["status"]).exits(0).stdout;
    assert!(page.contains("upgrade rolling: version 2 is held back by n1, n2"), "{page}");
    assert!(
        page.lines().any(|line| line.starts_with("n3") && line.contains("-next") && line.contains("1-2")),
        "{page}"
    );
    replace_binary(&mut nodes, 1, &next);
    reported(&nodes[0], &[1, 2, 2]);
    // the finish is refused with the name of who is left, by whomever it is asked,
    for node in &nodes {
        let refused = on(node, &["upgrade", "finish", "--json"]).exits(1).json();
        assert_eq!(refused["rule"], "upgrade_held_back", "{refused}");
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("held back by n1 (quorate") && message.contains("Nothing was changed"), "{message}");
    }
    // and what is new is refused, typed, on the old manager and on the new ones.
    for node in &nodes {
        newly(node, &["upgrade", "note", "too early"]).exits(1).complains(&["Nothing was changed"]);
    }
    let refused = newly(&nodes[2], &["upgrade", "note", "too early", "--json"]).exits(1).json();
    assert_eq!(refused["error"]["kind"], "version", "{refused}");
    load.goes_on();

    // When all have it, then nothing has changed yet, and one goes back as it came.
    replace_binary(&mut nodes, 0, &next);
    assert_eq!(reported(&nodes[0], &[2, 2, 2])["state"], "ready");
    newly(&nodes[0], &["upgrade", "note", "too early"]).exits(1).complains(&["quorate upgrade finish"]);
    replace_binary(&mut nodes, 1, PROGRAM);
    assert_eq!(reported(&nodes[0], &[2, 1, 2])["held_back_by"], serde_json::json!(["n2"]));
    load.goes_on();
    replace_binary(&mut nodes, 1, &next);
    reported(&nodes[1], &[2, 2, 2]);

    // When the operator says that it is finished, then what is new works at once, on every manager.
    let finished = on(&nodes[1], &["upgrade", "finish", "--json"]).exits(0).json();
    assert_eq!((&finished["state"], &finished["cluster_version"]), (&"up_to_date".into(), &2.into()), "{finished}");
    for (number, node) in nodes.iter().enumerate() {
        let text = format!("note {number}");
        newly(node, &["upgrade", "note", &text]).exits(0);
        eventually("the note is there", || {
            let status = newly(node, &["upgrade", "status", "--json"]).exits(0).json();
            (status["note"] == text.as_str()).then_some(())
        });
    }
    let twice = on(&nodes[0], &["upgrade", "finish"]).exits(0).stdout;
    assert!(twice.starts_with("UP TO DATE") && twice.contains("Nothing was changed"), "{twice}");
    load.goes_on();

    // And every write that was acknowledged is there, as it was written, on managers that agree.
    let written = load.end();
    assert!(written.len() > 100, "{}", written.len());
    let all = on(&nodes[0], &["kv", "ls", "--prefix", "load/", "--json"]).exits(0).json();
    let found: BTreeMap<String, u64> = all["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["mod_revision"].as_u64().unwrap()))
        .collect();
    for (key, revision) in &written {
        assert_eq!(found.get(key), Some(revision), "{key}");
    }
    well(&nodes);
    let status = nodes[0].status();
    let hashes: Vec<&Value> = status["managers"].as_array().unwrap().iter().map(|m| &m["state_hash"]).collect();
    assert!(hashes.iter().all(|hash| hash.is_string() && *hash == hashes[0]), "{status}");
}

/// Every file below a directory, with its content; not the one that says which process was there last.
fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() && path.file_name().unwrap() != "node.lock" {
                all.insert(path.display().to_string(), std::fs::read(path).unwrap());
            }
        }
    }
    all
}

#[test]
fn after_the_finish_the_old_binary_is_refused_by_its_directory_by_the_others_and_as_a_newcomer() {
    let place = tempfile::tempdir().unwrap();
    let next = next_program();
    let mut nodes = managers(place.path(), 3);
    for which in 0..3 {
        replace_binary(&mut nodes, which, &next);
    }
    reported(&nodes[0], &[2, 2, 2]);
    // Given a manager that is away when the upgrade is finished: it had said that it supports the newer version
    assert_eq!(nodes[2].terminate(), Some(0));
    on(&nodes[0], &["upgrade", "finish"]).exits(0);
    on(&nodes[0], &["kv", "put", "after", "the finish"]).exits(0);

    // When somebody starts that one with the old binary, which its directory knows nothing against
    nodes[2].program = PROGRAM.to_owned();
    nodes[2].start(&["run"]);
    // Then the others do not take it, and it stops, and says what to do.
    assert_eq!(nodes[2].ends(), Some(12));
    let log = nodes[2].log();
    assert!(log.contains("the cluster is at version 2") && log.contains("install the newer quorate"), "{log}");

    // When one that has taken part in the finish is started with the old binary, then its directory is refused as it is,
    assert_eq!(nodes[1].terminate(), Some(0));
    let before = contents(&nodes[1].directory);
    let refused = on(&nodes[1], &["run"]).exits(12);
    refused.complains(&["needs version 2", "knows versions up to 1", "Nothing was changed"]);
    on(&nodes[1], &["inspect"]).exits(1).complains(&["needs version 2"]);
    let after = contents(&nodes[1].directory);
    let changed: Vec<&String> = after
        .iter()
        .filter(|(file, content)| before.get(*file) != Some(*content))
        .map(|(file, _)| file)
        .chain(before.keys().filter(|file| !after.contains_key(*file)))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    // and both go on with the newer one, from where they were.
    for node in &mut nodes[1..] {
        node.program.clone_from(&next);
        node.run();
    }
    well(&nodes);
    assert_eq!(on(&nodes[2], &["kv", "get", "after"]).exits(0).stdout, "the finish");

    // A newcomer with the old binary is not let in, and leaves nothing behind.
    let token = nodes[0].token("manager");
    let fresh = place.path().join("n4");
    let join = |program: &str| {
        let join =
            ["join", "--listen", "127.0.0.1:0", "--name", "n4", "--token", &token, "--manager", &nodes[0].address];
        quorate_of(program, &[&join[..], &["--data-dir", fresh.to_str().unwrap()]].concat())
    };
    join(PROGRAM).exits(1).complains(&["the cluster is at version 2", "install the newer quorate"]);
    assert_eq!(nodes[0].status()["managers"].as_array().unwrap().len(), 3);
    join(&next).exits(0);
    let joined = quorate(&["status", "--json", "--data-dir", nodes[0].dir()]).exits(0).json();
    assert_eq!(joined["managers"].as_array().unwrap().len(), 4);
}

/// Rounds of the state wait while this is held.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn probe(&self) -> Arc<dyn Fn(&'static str) + Send + Sync> {
        let this = self.clone();
        Arc::new(move |point| {
            if point == "state: before a round" {
                let (held, changed) = &*this.0;
                drop(changed.wait_while(held.lock().unwrap(), |held| *held).unwrap());
            }
        })
    }

    fn hold(&self, hold: bool) {
        *self.0.0.lock().unwrap() = hold;
        self.0.1.notify_all();
    }
}

#[test]
fn a_manager_that_meets_an_entry_which_it_does_not_know_stops_right_before_it_and_the_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let next = next_program();
    // Given three voters with the newer binary, and a standby with today's, which runs in this process: all of it is in step
    let mut nodes = managers(place.path(), 4);
    assert_eq!(nodes[3].terminate(), Some(0));
    for node in &mut nodes[..3] {
        assert_eq!(node.terminate(), Some(0));
        node.program.clone_from(&next);
        node.run();
        eventually("it is back", || (node.status()["leader"].is_string()).then_some(()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let gate = Gate::default();
    let builder = quorate::Node::builder(&nodes[3].directory).store_probe(gate.probe());
    let old = runtime.block_on(builder.start(quorate::Start::Open)).unwrap();
    runtime.block_on(old.ready()).unwrap();
    reported(&nodes[0], &[2, 2, 2, 1]);
    well(&nodes[..3]);
    let standby = old.records().into_iter().find(|node| node.name == "n4").unwrap();
    // when it has not heard yet that it is taken for one that knows the newer version (somebody else has said so of it), nor of
    // the finish that this lets through, nor of an entry of the newer version after that,
    gate.hold(true);
    let lie = NodeRecord { command_version: 2, ..standby.clone() };
    let put = Put { key: NodeRecord::key(standby.node_id().unwrap()), value: lie.to_bytes(), ..Put::default() };
    assert!(runtime.block_on(old.system(Txn { then: vec![put.into()], ..Txn::default() })).unwrap());
    reported(&nodes[0], &[2, 2, 2, 2]);
    on(&nodes[0], &["upgrade", "finish"]).exits(0);
    newly(&nodes[0], &["upgrade", "note", "of the newer version"]).exits(0);
    // then it stops when it comes to that entry, and says what to do;
    gate.hold(false);
    let stopped = async { tokio::time::timeout(PATIENCE, old.stopped()).await };
    let reason = runtime.block_on(stopped).expect("it stops");
    assert_eq!(reason.exit_code(), 12, "{reason}");
    let why = reason.to_string();
    assert!(why.contains("this binary knows versions up to 1") && why.contains("install the newer quorate"), "{why}");
    drop(old);
    // what it has applied ends right before the entry, nothing of which is there,
    let inspected = newly(&nodes[3], &["inspect", "--json"]).exits(0).json();
    match why.strip_prefix("entry ").and_then(|rest| rest.split_once(" of the log needs version 2")) {
        Some((entry, _)) => {
            let entry: u64 = entry.parse().unwrap();
            assert_eq!(inspected["applied"].as_u64(), Some(entry - 1), "{inspected}");
        }
        // Another entry came between the two, of a new leader: it is no less beyond what the binary may do.
        None => assert!(why.contains("the cluster is at version 2"), "{why}"),
    }
    // and the others go on, as it does with the newer binary, from where it was.
    on(&nodes[1], &["kv", "put", "after", "it stopped"]).exits(0);
    nodes[3].program.clone_from(&next);
    nodes[3].run();
    well(&nodes);
    eventually("it has the note", || {
        let status = newly(&nodes[3], &["upgrade", "status", "--json"]).exits(0).json();
        (status["note"] == "of the newer version").then_some(())
    });
}
