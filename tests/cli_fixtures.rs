//! Data directories of every version that was ever in use: today's binary opens them, and so does that of the next version.
//!
//! `make bless-fixture` writes today's anew; tests/fixtures/README.md says when that may be done.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use cli_support::{Node, PROGRAM, eventually, on, quorate_of};
use serde_json::Value;

/// What the directory is of: the cluster's version, and what was written for that version.
const TODAY: &str = "directory-1.tar.gz";
/// Keys that live, with their values; each was written twice.
const KEYS: usize = 40;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn value(number: usize) -> String {
    format!("value {number} {}", "v".repeat(number * 7))
}

/// One that is kept apart from the small ones.
fn large() -> String {
    "large value ".repeat(1_000)
}

/// A manager with what the checks below look for, stopped in order.
fn bless() {
    let place = tempfile::Builder::new().prefix("quorate-fixture").tempdir().unwrap();
    let mut first = Node::init(place.path(), "n1");
    first.run();
    let mut second = Node::join(place.path(), "n2", &first);
    second.run();
    Node::join_as("worker", place.path(), "w1", &first);
    eventually("the second manager stands by", || {
        let status = first.status();
        let seats: Vec<&Value> = status["managers"].as_array().unwrap().iter().map(|m| &m["seat"]).collect();
        (seats.contains(&&"standby".into()) && status["health"] == "ok").then_some(())
    });
    for number in 0..KEYS {
        let key = format!("key/{number:03}");
        on(&first, &["kv", "put", &key, "before"]).exits(0);
        on(&first, &["kv", "put", &key, &value(number)]).exits(0);
    }
    on(&first, &["kv", "put", "gone", "1"]).exits(0);
    on(&first, &["kv", "del", "gone"]).exits(0);
    let lease = on(&first, &["lease", "grant", "--ttl", "300d", "--json"]).exits(0).json();
    on(&first, &["kv", "put", "leased", "1", "--lease", &lease["lease"].to_string()]).exits(0);
    on(&first, &["node", "update", "w1", "--label-add", "zone=b"]).exits(0);
    on(&first, &["policy", "set", "--lost-after", "45s", "--max-voters", "7"]).exits(0);
    on(&first, &["assign", "set", "w1", "web.1", "an item"]).exits(0);
    on(&first, &["kv", "put", "large", &large()]).exits(0);
    let data = place.path().join("data");
    std::fs::write(&data, "data of an object").unwrap();
    for kind in ["config", "secret"] {
        on(&first, &[kind, "create", &format!("a-{kind}"), data.to_str().unwrap()]).exits(0);
    }
    let identity = place.path().join("ann.id");
    on(&first, &["operator", "issue", "--name", "ann", "--read-only", "--out", identity.to_str().unwrap()]).exits(0);
    on(&first, &["token", "create", "--role", "worker", "--ttl", "never", "--uses", "3"]).exits(0);
    on(&first, &["keyring", "rotate"]).exits(0);
    assert_eq!((second.terminate(), first.terminate()), (Some(0), Some(0)));
    let packed = Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--exclude=quorate.sock*", "-czf"])
        .arg(fixtures().join(TODAY))
        .args(["--directory", place.path().to_str().unwrap(), "n1"])
        .status();
    assert!(packed.unwrap().success());
}

/// The directory in this archive, as a node that can be run here.
fn unpacked(archive: &Path, place: &Path) -> Node {
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).args(["--directory", place.to_str().unwrap()]).status();
    assert!(unpacked.unwrap().success(), "{}", archive.display());
    Node::of(place.join("n1"))
}

/// Everything that was written into it is there, and it works.
fn check(node: &Node, marker: &str) {
    let all = on(node, &["kv", "ls", "--prefix", "key/", "--json"]).exits(0).json();
    let entries = all["entries"].as_array().unwrap();
    assert_eq!(entries.len(), KEYS);
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!((&entry["key"], &entry["version"]), (&format!("key/{number:03}").into(), &2.into()), "{entry}");
        assert_eq!(entry["value"], value(number).as_str());
    }
    // History,
    let created = entries[7]["create_revision"].to_string();
    assert_eq!(on(node, &["kv", "get", "key/007", "--revision", &created]).exits(0).stdout, "before");
    on(node, &["kv", "get", "gone"]).exits(1);
    // leases with their keys,
    let leases = on(node, &["lease", "list", "--json"]).exits(0).json();
    let lease = leases["leases"][0]["lease"].to_string();
    let shown = on(node, &["lease", "show", &lease, "--json"]).exits(0).stdout;
    assert!(shown.contains("leased"), "{shown}");
    // members,
    let status = node.status();
    let members: Vec<(&str, &str)> = status["managers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manager| (manager["name"].as_str().unwrap(), manager["seat"].as_str().unwrap()))
        .collect();
    assert_eq!((members.len(), status["voters"].as_u64()), (2, Some(1)), "{status}");
    assert!(members.contains(&("n1", "voter")) && members.contains(&("n2", "standby")), "{status}");
    let nodes = on(node, &["node", "ls", "--json"]).exits(0).json();
    let worker = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "w1").unwrap().clone();
    assert_eq!(worker["labels"]["zone"], "b", "{worker}");
    let items = on(node, &["assign", "ls", "w1", "--json"]).exits(0).stdout;
    assert!(items.contains("web.1"), "{items}");
    // what is large,
    assert_eq!(on(node, &["kv", "get", "large"]).exits(0).stdout, large());
    // configs and secrets, which the keyring opens,
    let config = on(node, &["config", "inspect", "a-config"]).exits(0).stdout;
    assert!(config.contains("data of an object"), "{config}");
    assert_eq!(on(node, &["secret", "inspect", "a-secret", "--reveal"]).exits(0).stdout, "data of an object");
    // who may come in,
    let operators = on(node, &["operator", "ls", "--json"]).exits(0).json();
    let ann = operators["operators"].as_array().unwrap().iter().find(|one| one["name"] == "ann").unwrap().clone();
    assert_eq!(ann["read_only"], true, "{ann}");
    let tokens = on(node, &["token", "ls", "--json"]).exits(0).json();
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 3, "{tokens}");
    // and settings are there, and writes are taken and kept.
    let policy = on(node, &["policy", "show", "--json"]).exits(0).json();
    assert_eq!((&policy["lost_after_ms"], &policy["max_voters"]), (&45_000.into(), &7.into()), "{policy}");
    on(node, &["kv", "put", "opened", marker]).exits(0);
    assert_eq!(on(node, &["kv", "get", "opened"]).exits(0).stdout, marker);
}

fn start(node: &mut Node, program: &str) {
    // The port that it was made with may be taken here.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    program.clone_into(&mut node.program);
    node.run_with(&["run", "--listen", &format!("127.0.0.1:{port}")]);
}

fn next_program() -> String {
    let next = Path::new(PROGRAM).with_file_name("quorate-next");
    assert!(next.is_file(), "{} is missing: `make next-binary` builds it", next.display());
    next.to_str().unwrap().to_owned()
}

#[test]
fn a_directory_of_every_version_is_opened_by_the_binary_of_today_and_by_the_next_one() {
    if std::env::var_os("BLESS").is_some() {
        bless();
    }
    let next = next_program();
    let mut archives: Vec<PathBuf> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".tar.gz"))
        .collect();
    archives.sort();
    assert!(archives.contains(&fixtures().join(TODAY)));
    for archive in archives {
        // Given a directory as it was left, when the binary of today runs it, and that of the next version after it, then
        // nothing is missing,
        let place = tempfile::tempdir().unwrap();
        let mut node = unpacked(&archive, place.path());
        for (program, marker) in [(PROGRAM, "today"), (next.as_str(), "next")] {
            start(&mut node, program);
            check(&node, marker);
            assert_eq!(node.terminate(), Some(0));
        }
        // nor is it when the one of today comes back to it,
        start(&mut node, PROGRAM);
        assert_eq!(on(&node, &["kv", "get", "opened"]).exits(0).stdout, "next");
        check(&node, "today again");
        assert_eq!(node.terminate(), Some(0));
        // or when the next one is the first.
        let place = tempfile::tempdir().unwrap();
        let mut node = unpacked(&archive, place.path());
        start(&mut node, &next);
        check(&node, "next at once");
        let status = quorate_of(&next, &["upgrade", "status", "--json", "--data-dir", node.dir()]).exits(0).json();
        assert_eq!(status["cluster_version"], 1, "{status}");
    }
}
