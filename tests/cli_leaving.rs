//! Nodes that go: what their operator is told while they do, what their directories say then, and the way back.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use cli_support::{Node, eventually, managers, on, quorate};

fn back(node: &Node, token: Option<&str>, manager: &str) -> cli_support::Said {
    let token: Vec<&str> = token.map(|token| vec!["--token", token]).unwrap_or_default();
    on(node, &[&["join", "--replace", "--manager", manager], &token[..]].concat())
}

#[test]
fn a_leave_that_has_to_wait_is_given_up_in_time_says_for_what_and_is_taken_back() {
    // Given the only voter, and a manager that has joined and never run
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let _standby = Node::join(place.path(), "n2", &nodes[0]);
    // When the voter is to leave, its operator waits for no longer than asked, and is told what it waits for
    let said = on(&nodes[0], &["leave", "--timeout", "1s"]).exits(4);
    said.complains(&["recorded and not done after 1 s", "waits until n2", "quorate node promote n1"]);
    let shown = on(&nodes[0], &["node", "inspect", "n1"]).exits(0).stdout;
    assert!(shown.contains("manager, leaving") && shown.contains("waits until n2 has caught up"), "{shown}");
    assert!(!shown.contains("Nothing was changed"), "{shown}");
    on(&nodes[0], &["node", "update", "n1", "--label-add", "a=b"]).exits(1).complains(&["node promote n1"]);
    // Then the wish can be taken back, and everything is as before
    let said = on(&nodes[0], &["node", "promote", "n1"]).exits(0).stdout;
    assert!(said.starts_with("n1 is a manager: voter"), "{said}");
    let node = on(&nodes[0], &["node", "inspect", "n1", "--json"]).exits(0).json();
    assert_eq!((node["removing"].as_bool(), node["seat"].as_str()), (Some(false), Some("voter")), "{node}");
    on(&nodes[0], &["kv", "put", "k", "v"]).exits(0);
}

#[test]
fn whoever_waits_for_a_leave_is_told_that_it_was_taken_back() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let _standby = Node::join(place.path(), "n2", &nodes[0]);
    let directory = nodes[0].dir().to_owned();
    let leaves = std::thread::spawn(move || quorate(&["leave", "--wait", "1m", "--data-dir", &directory]));
    eventually("the leave is recorded", || {
        let node = on(&nodes[0], &["node", "inspect", "n1", "--json"]).exits(0).json();
        (node["removing"] == true).then_some(())
    });
    on(&nodes[0], &["node", "promote", "n1"]).exits(0);
    leaves.join().unwrap().exits(1).complains(&["the removal of n1 was taken back"]);
}

#[test]
fn a_worker_that_left_says_so_in_its_directory_and_comes_back_as_that_says() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let mut worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    worker.run();
    // A worker in good standing has nothing to come back from.
    let token = nodes[0].token("worker");
    assert_eq!(worker.terminate(), Some(0));
    back(&worker, Some(&token), &nodes[0].address).exits(1).complains(&["good standing", "quorate run"]);
    worker.run();
    // When it leaves
    let said = on(&worker, &["leave"]).exits(0).stdout;
    assert_eq!(said, "w1 has left the cluster, and its node stops; the directory stays as it is\n");
    assert_eq!(worker.ends(), Some(10));
    // Then its directory says what it is, whatever is asked of it, and never points to what does not help
    let page = on(&worker, &["status"]).exits(0).stdout;
    assert!(page.starts_with("REMOVED: w1 ") && page.contains("quorate join --replace --token"), "{page}");
    assert_eq!(on(&worker, &["status", "--json"]).exits(0).json()["health"], "removed");
    let way_out = ["another directory", "quorate join --replace --token"];
    on(&worker, &["run"]).exits(10).complains(&way_out);
    let join = ["join", "--token", &token, "--manager", &nodes[0].address];
    assert!(!on(&worker, &join).exits(1).complains(&way_out).stderr.contains("quorate run"));
    assert!(!back(&worker, None, &nodes[0].address).exits(1).complains(&way_out).stderr.contains("quorate run"));
    // And what it says works
    let said = back(&worker, Some(&token), &nodes[0].address).exits(0).stdout;
    assert!(said.starts_with("came back as a worker; this node is w1 "), "{said}");
    worker.run();
    assert!(worker.ready.starts_with("ready: w1 worker, session with n1"), "{}", worker.ready);
}

#[test]
fn a_manager_that_left_is_told_at_once_and_comes_back_with_a_token() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 4);
    let mut standby = nodes.pop().unwrap();
    let said = on(&standby, &["leave"]).exits(0).stdout;
    assert!(said.starts_with("n4 has left the cluster, and its node stops"), "{said}");
    assert_eq!(standby.ends(), Some(10));
    assert!(!standby.log().contains(" ERROR "), "{}", standby.log());
    assert!(on(&standby, &["status"]).exits(0).stdout.starts_with("REMOVED: n4 "));
    back(&standby, None, &nodes[0].address).exits(1).complains(&["removed", "--token"]);
    let token = nodes[0].token("manager");
    back(&standby, Some(&token), &nodes[0].address).exits(0);
    standby.run();
    assert!(standby.ready.contains("raft id 5 standby"), "{}", standby.ready);
}

#[test]
fn a_demoted_manager_never_calls_the_quorum_lost() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 4);
    let demoted = nodes.pop().unwrap();
    let said = on(&nodes[0], &["node", "demote", "n4"]).exits(0).complains(&["warning: no standby is left"]).stdout;
    assert!(said.starts_with("n4 is a worker; 3 voters"), "{said}");
    eventually("it goes on as a worker", || {
        let said = on(&demoted, &["status"]);
        assert!(!said.stdout.contains("QUORUM LOST") && !said.stdout.contains("recover"), "{said:?}");
        said.stdout.starts_with("WORKER: session with").then_some(())
    });
    // What it was is over without an error of its own.
    assert!(!demoted.log().contains(" ERROR "), "{}", demoted.log());
}

#[test]
fn a_removal_by_force_says_which_seats_are_left() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    nodes[2].kill();
    let said = on(&nodes[0], &["node", "rm", "n3", "--force"]).exits(0).stdout;
    assert!(said.starts_with("n3 is removed; 1 voter"), "{said}");
    assert_eq!(nodes[0].status()["voters"], 1);
    let page = on(&nodes[0], &["status"]).exits(0).stdout;
    assert!(page.contains("join one more manager to tolerate one"), "{page}");
}

#[test]
fn a_fenced_manager_is_pointed_to_a_token_and_to_the_right_one() {
    // Given two managers of which the standby was recovered from while the voter was away
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 2);
    let mut survivor = nodes.pop().unwrap();
    let mut old = nodes.pop().unwrap();
    eventually("the standby has everything", || (old.status()["health"] == "ok").then_some(()));
    assert_eq!(survivor.terminate(), Some(0));
    // (As long as the other one leads, that is refused; a dry run ends as the recovery would.)
    let said =
        on(&survivor, &["recover", "--dry-run"]).exits(1).complains(&["would be refused", "Nothing was changed"]);
    assert!(said.stdout.starts_with("WOULD BE REFUSED: manager n1 "), "{said:?}");
    let document = on(&survivor, &["recover", "--dry-run", "--json"]).exits(1).json();
    assert_eq!((document["error"]["kind"].as_str(), document["name"].as_str()), (Some("would_be_refused"), Some("n2")));
    assert_eq!(old.terminate(), Some(0));
    on(&survivor, &["recover", "--dry-run"]).exits(0);
    on(&survivor, &["recover"]).exits(0);
    survivor.run();
    let lines = old.start(&["run"]);
    assert_eq!(old.ends(), Some(11));
    drop(lines);
    // When it is to come back, it is never told to run as it is
    let said = back(&old, None, &survivor.address).exits(1).complains(&["is fenced", "--token"]);
    assert!(!said.stderr.contains("quorate run"), "{said:?}");
    let (worker, manager) = (survivor.token("worker"), survivor.token("manager"));
    back(&old, Some(&worker), &survivor.address).exits(1).complains(&["manager token", "quorate token show manager"]);
    // Then the manager token brings it back
    back(&old, Some(&manager), &survivor.address).exits(0);
    old.run();
    assert!(old.ready.contains("standby, leader n2"), "{}", old.ready);
}

#[test]
fn a_manager_that_is_removed_through_itself_says_that_it_is_and_is_not_waited_for() {
    // Given three managers, of which the last leads nobody
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    // When it is asked to take itself out for good, then that is answered though it is gone by then
    let said = on(&nodes[2], &["node", "rm", "n3", "--force", "--wait", "20s"]).exits(0).stdout;
    assert!(said.starts_with("n3 is removed"), "{said}");
    assert_eq!(nodes[2].ends(), Some(10));
    // And of another one as ever.
    let said = on(&nodes[0], &["node", "rm", "n2", "--force", "--wait", "20s"]).exits(0).stdout;
    assert!(said.starts_with("n2 is removed; 1 voter"), "{said}");
}
