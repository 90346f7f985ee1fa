//! Workers on the command line: what their directories answer for, what they do not, and items of work by hand.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use cli_support::{Node, managers, on};

#[test]
fn through_a_workers_directory_only_that_worker_is_seen_and_others_are_pointed_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let mut worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    worker.run();
    // It may look at itself, by any of its names.
    let own = on(&worker, &["node", "inspect", "w1", "--json"]).exits(0).json();
    assert_eq!(own["name"], "w1");
    let id = own["id"].as_str().unwrap();
    assert_eq!(on(&worker, &["node", "inspect", id, "--json"]).exits(0).json()["name"], "w1");
    // Everybody else is refused, known or not, and so is what only operators may do.
    let elsewhere = ["worker's directory", "--data-dir", "--connect", "--identity operator.id", "Nothing was done"];
    for arguments in [
        &["node", "inspect", "n1"][..],
        &["node", "inspect", "nobody"],
        &["node", "ls"],
        &["node", "promote", "w1"],
        &["kv", "get", "k"],
        &["kv", "put", "k", "v"],
        &["token", "show", "worker"],
        &["policy", "show"],
        &["assign", "ls", "w1"],
    ] {
        let said = on(&worker, &[arguments, &["--json"]].concat()).exits(1).complains(&elsewhere);
        assert_eq!(said.json()["error"]["kind"], "denied", "{arguments:?}");
    }
}

#[test]
fn what_only_reads_is_never_said_to_have_perhaps_been_done() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    let mut worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    worker.run();
    // Given a worker whose manager is gone without a word
    nodes[0].kill();
    let said = on(&worker, &["node", "inspect", "w1", "--timeout", "1s"]).exits(3);
    assert!(said.stderr.contains("not done within 1 s"), "{said:?}");
    assert!(!said.stderr.contains("may or may not"), "{said:?}");
}

#[test]
fn a_stopped_workers_directory_says_what_it_is_and_what_it_is_not() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    let inspected = on(&worker, &["inspect"]).exits(0).stdout;
    assert!(inspected.contains("w1") && inspected.contains("worker"), "{inspected}");
    for word in ["raft id", "vote", "commit", "state hash"] {
        assert!(!inspected.contains(word), "{word}: {inspected}");
    }
    on(&worker, &["recover", "--dry-run"]).exits(1).complains(&["is a worker's", "only a manager", "survived"]);
    on(&worker, &["recover"]).exits(1).complains(&["is a worker's", "Nothing was changed"]);
    on(&worker, &["inspect", "--configurations"]).exits(1).complains(&["is a worker's"]);
    on(&worker, &["status"]).exits(3).complains(&["no node is running", "quorate run"]);
}

#[test]
fn an_item_is_given_listed_and_taken_and_one_that_is_not_there_is_said_so() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    on(&nodes[0], &["assign", "set", "w1", "web.1", "run it"]).exits(0);
    let listed = on(&nodes[0], &["assign", "ls", "w1", "--json"]).exits(0).json();
    assert_eq!(listed["items"][0]["id"], "web.1");
    let said = on(&nodes[0], &["assign", "rm", "w1", "web.1"]).exits(0).stdout;
    assert!(said.starts_with("web.1 taken from w1 at revision "), "{said}");
    // As with a key that is not there: it is said, and is no error.
    let said = on(&nodes[0], &["assign", "rm", "w1", "web.1"]).exits(0).stdout;
    assert_eq!(said, "w1 has no item web.1: nothing to take from it\n");
    assert_eq!(on(&nodes[0], &["assign", "rm", "w1", "web.1", "--json"]).exits(0).json()["removed"], 0);
    on(&nodes[0], &["assign", "rm", "w9", "web.1"]).exits(1).complains(&["w9"]);
    drop(worker);
}
