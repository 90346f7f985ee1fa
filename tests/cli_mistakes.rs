//! What people do by mistake: each is told as what it is, with what was not harmed and the way back.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::path::Path;
use std::sync::Arc;

use cli_support::{Node, eventually, managers, on, quorate};
use quorate_core::ports::WriteSet;

/// The directory as a backup of files would keep it.
fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copied(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Three managers, of which n1 leads; then n3 was put back to where it was before it acknowledged what the others hold.
fn with_a_rolled_back_directory(place: &Path) -> Vec<Node> {
    let mut nodes = managers(place, 3);
    on(&nodes[0], &["kv", "put", "k", "before"]).exits(0);
    eventually("n3 has it", || (on(&nodes[2], &["kv", "get", "k"]).stdout == "before").then_some(()));
    assert_eq!(nodes[2].terminate(), Some(0));
    let kept = place.join("kept");
    copied(&nodes[2].directory, &kept);
    nodes[2].run();
    eventually("n1 leads", || {
        on(&nodes[0], &["leader", "transfer", "--to", "n1"]);
        (nodes[0].status()["leader"] == "n1").then_some(())
    });
    on(&nodes[0], &["kv", "put", "k", "after"]).exits(0);
    eventually("n3 has it", || {
        let status = nodes[0].status();
        let all = status["managers"].as_array().unwrap();
        all.iter().all(|manager| manager["reachable"] == true && manager["lag"] == 0).then_some(())
    });
    nodes[2].kill();
    std::fs::remove_dir_all(&nodes[2].directory).unwrap();
    copied(&kept, &nodes[2].directory);
    nodes
}

#[test]
fn a_directory_that_was_put_back_says_so_is_never_run_again_and_comes_back_as_it_says() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = with_a_rolled_back_directory(place.path());
    // When it is started, then it stops, and calls it what it is
    let lines = nodes[2].start(&["run"]);
    assert_eq!(nodes[2].ends(), Some(12));
    drop(lines);
    let way_back = [
        "older than what the cluster knows that n3 held",
        "nothing acknowledged is lost",
        "quorate join --replace --data-dir",
        "remove the copy",
    ];
    let log = nodes[2].log();
    for words in way_back {
        assert!(log.contains(words), "`{words}` is not in {log}");
    }
    assert!(!log.contains("defect") && !log.contains("report this"), "{log}");
    // It says so whatever is asked of it, and is not run again
    on(&nodes[2], &["run"]).exits(12).complains(&way_back);
    let page = on(&nodes[2], &["status"]).exits(0).stdout;
    assert!(page.starts_with("ROLLED BACK: n3 ") && page.contains("quorate join --replace"), "{page}");
    assert_eq!(on(&nodes[2], &["status", "--json"]).exits(0).json()["health"], "rolled_back");
    assert!(on(&nodes[2], &["inspect", "--json"]).exits(0).json()["rolled_back"].is_u64());
    // Nothing was harmed
    assert_eq!(on(&nodes[0], &["kv", "get", "k"]).exits(0).stdout, "after");
    // The others know it from its last word, also who was not the one to find out, and do not say that it is to be started
    for other in &nodes[..2] {
        let status = eventually("it is known", || {
            let status = other.status();
            let own = status["managers"].as_array().unwrap().iter().find(|manager| manager["name"] == "n3").cloned();
            (own.unwrap()["last_word"] == "rolled_back").then_some(status)
        });
        let tolerance = status["tolerance"].as_str().unwrap();
        assert!(tolerance.contains("bring n3 back with a fresh store"), "{tolerance}");
        let page = on(other, &["status"]).exits(0).stdout;
        let way_back =
            ["rolled back  n3 ", "quorate join --replace --data-dir DIR --manager 127.0.0.1:", "ROLLED BACK"];
        assert!(way_back.iter().all(|words| page.contains(words)) && !page.contains("start n3 again"), "{page}");
    }
    // And what it says works: under another raft id, with everything
    on(&nodes[2], &["join", "--replace", "--manager", &nodes[0].address]).exits(0);
    nodes[2].run();
    assert!(nodes[2].ready.contains("raft id 4"), "{}", nodes[2].ready);
    let status = eventually("it is back", || {
        let status = nodes[0].status();
        (status["health"] == "ok").then_some(status)
    });
    assert!(status["managers"].as_array().unwrap().iter().all(|manager| manager["last_word"].is_null()), "{status}");
    eventually("it has everything", || (on(&nodes[2], &["kv", "get", "k"]).stdout == "after").then_some(()));
    // Then the store that was moved aside can be read where it lies, with everything that it had.
    let aside = nodes[2].directory.join("store.old-1");
    let said = quorate(&["inspect", "--json", "--data-dir", aside.to_str().unwrap()]).exits(0).json();
    assert_eq!((said["name"].as_str(), said["raft_id"].as_u64()), (Some("n3"), Some(3)), "{said}");
    let dumped = quorate(&["inspect", "--dump", "--data-dir", aside.to_str().unwrap()]).exits(0).stdout;
    assert!(dumped.contains("before") && !dumped.contains("after"), "{dumped}");
    quorate(&["inspect", "--configurations", "--data-dir", aside.to_str().unwrap()]).exits(0);
}

/// Takes a record of a stopped manager's state away. No seal tells of it.
fn with_a_record_less(directory: &Path) {
    let text = std::fs::read_to_string(directory.join("key")).unwrap();
    let key = quorate_storage::Key::from_text(text.lines().last().unwrap()).unwrap();
    let options = quorate_storage::Options::new(Arc::new(quorate_storage::GivenKey(key)));
    let mut store = quorate_storage::open(&directory.join("store"), options).unwrap();
    let (from, to) = quorate_core::state::live_range(quorate_core::keyspace::Section::User);
    let mut writes = WriteSet::default();
    let visit = &mut |key: &[u8], _value: &[u8]| {
        writes.delete(key.to_vec());
        quorate_core::ports::Visit::Enough
    };
    store.state.scan(&from, &to, visit).unwrap();
    assert_eq!(writes.writes.len(), 1);
    store.state.commit(writes).unwrap();
}

#[test]
fn a_manager_alone_whose_state_is_damaged_says_so_and_is_never_run_again() {
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    on(&node, &["kv", "put", "k", "v"]).exits(0);
    assert_eq!(node.terminate(), Some(0));
    with_a_record_less(&node.directory);
    // When it is started, then it stops, and sends nobody to managers that there are not
    let lines = node.start(&["run"]);
    assert_eq!(node.ends(), Some(12));
    drop(lines);
    let way_back = ["the state in", "taken away", "n1 is the only voter", "quorate restore", "quorate inspect --dump"];
    let log = node.log();
    for words in way_back {
        assert!(log.contains(words), "`{words}` is not in {log}");
    }
    assert!(!log.contains("other managers"), "{log}");
    // It says so whatever is asked of it, and is not run again
    on(&node, &["run"]).exits(12).complains(&way_back);
    assert_eq!(on(&node, &["run", "--json"]).exits(12).json()["error"]["kind"], "damaged");
    let page = on(&node, &["status"]).exits(0).stdout;
    assert!(page.starts_with("DAMAGED: n1 ") && page.contains("quorate restore"), "{page}");
    assert_eq!(on(&node, &["status", "--json"]).exits(0).json()["health"], "damaged");
    let found = on(&node, &["inspect", "--json"]).exits(0).json();
    assert!(found["damaged"].as_str().unwrap().contains("taken away"), "{found}");
    // Nothing goes on from it, and what it holds is shown.
    on(&node, &["recover"]).exits(1).complains(&["does not have the hash", "quorate restore"]);
    on(&node, &["inspect", "--dump"]).exits(0);
}

#[test]
fn a_copy_of_a_directory_whose_node_runs_takes_nothing_from_it() {
    // Given a copy of a directory that stopped as one that was put back does
    let place = tempfile::tempdir().unwrap();
    let mut nodes = with_a_rolled_back_directory(place.path());
    let lines = nodes[2].start(&["run"]);
    assert_eq!(nodes[2].ends(), Some(12));
    drop(lines);
    let copy = Node::of(place.path().join("copy"));
    copied(&nodes[2].directory, &copy.directory);
    // and the node itself, which runs again
    on(&nodes[2], &["join", "--replace", "--manager", &nodes[0].address]).exits(0);
    nodes[2].run();
    // When a fresh store is asked for from the copy, by certificate or by token, then it is refused
    let token = nodes[0].token("manager");
    for with in [&[][..], &["--token", &token, "--listen", "127.0.0.1:0"]] {
        let replace = ["join", "--replace", "--manager", &nodes[0].address];
        on(&copy, &[&replace[..], with].concat()).exits(1).complains(&["runs at this moment", "remove the copy"]);
    }
    // And the node goes on as it did.
    let status = nodes[2].status();
    let own = status["managers"].as_array().unwrap().iter().find(|manager| manager["name"] == "n3").unwrap();
    assert_eq!((own["raft_id"].as_u64(), own["reachable"].as_bool()), (Some(4), Some(true)), "{status}");
}

#[test]
fn a_removed_manager_whose_key_is_lost_comes_back_under_its_name_and_at_its_address() {
    // Given a manager that was removed while its key was lost
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    nodes[2].kill();
    on(&nodes[0], &["node", "rm", "n3", "--force"]).exits(0);
    std::fs::remove_file(nodes[2].directory.join("key")).unwrap();
    // When it comes back with a token, then nothing is asked of its operator that its directory says
    let token = nodes[0].token("manager");
    let back = ["join", "--replace", "--key-lost", "--token", &token, "--manager", &nodes[0].address, "--json"];
    let said = on(&nodes[2], &back).exits(0).json();
    assert_eq!((said["name"].as_str(), said["address"].as_str()), (Some("n3"), Some(&*nodes[2].address)), "{said}");
    nodes[2].run();
    assert!(nodes[2].ready.starts_with(&format!("ready: n3 {} ", nodes[2].address)), "{}", nodes[2].ready);
}

#[test]
fn what_a_directory_does_not_say_any_more_is_named() {
    // Given the same, and nothing in clear of where it listened
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    nodes[2].kill();
    on(&nodes[0], &["node", "rm", "n3", "--force"]).exits(0);
    std::fs::remove_file(nodes[2].directory.join("key")).unwrap();
    std::fs::remove_file(nodes[2].directory.join("node.listen")).unwrap();
    let token = nodes[0].token("manager");
    let back = ["join", "--replace", "--key-lost", "--token", &token, "--manager", &nodes[0].address];
    // When it is to come back, then it says what is missing, and moves nothing
    on(&nodes[2], &back).exits(2).complains(&["node.listen is not there", "--listen HOST:PORT"]);
    assert!(nodes[2].directory.join("store").is_dir());
    let address = nodes[2].address.clone();
    on(&nodes[2], &[&back[..], &["--listen", &address]].concat()).exits(0);
}

#[test]
fn the_identity_of_another_cluster_is_refused_before_anybody_is_asked() {
    // Given the managers of two clusters, and a worker of the one
    let place = tempfile::tempdir().unwrap();
    let mut ours = managers(&place.path().join("ours"), 1);
    let theirs = Node::init(&place.path().join("theirs"), "n1");
    let mut worker = Node::join_as("worker", place.path(), "w1", &ours[0]);
    worker.run();
    assert_eq!((worker.terminate(), ours[0].terminate()), (Some(0), Some(0)));
    for node in [&mut ours[0], &mut worker] {
        // When the identity of the other cluster's lies in its directory
        let own = std::fs::read(node.directory.join("node.id")).unwrap();
        std::fs::copy(theirs.directory.join("node.id"), node.directory.join("node.id")).unwrap();
        // Then it does not start, as whoever is refused for its identity, and says whose it is
        let why = ["is the identity of node", "another directory was put there", "Nothing was changed"];
        on(node, &["run"]).exits(14).complains(&why);
        assert_eq!(on(node, &["run", "--json"]).exits(14).json()["error"]["kind"], "identity");
        // and starts once its own is back.
        std::fs::write(node.directory.join("node.id"), own).unwrap();
    }
    let others = std::fs::read(theirs.directory.join("node.id")).unwrap();
    let own = std::fs::read(ours[0].directory.join("node.id")).unwrap();
    std::fs::write(ours[0].directory.join("node.id"), others).unwrap();
    on(&ours[0], &["recover", "--dry-run"]).exits(1).complains(&["is the identity of node"]);
    std::fs::write(ours[0].directory.join("node.id"), own).unwrap();
    ours[0].run();
    worker.run();
}

#[test]
fn a_directory_of_before_the_node_had_another_store_is_told_what_it_is_and_comes_back() {
    // Given a manager that has a fresh store since a copy of its directory was taken
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    assert_eq!(nodes[2].terminate(), Some(0));
    let kept = place.path().join("kept");
    copied(&nodes[2].directory, &kept);
    std::fs::remove_dir_all(nodes[2].directory.join("store")).unwrap();
    on(&nodes[2], &["join", "--replace", "--manager", &nodes[0].address]).exits(0);
    nodes[2].run();
    eventually("it has its seat", || (nodes[0].status()["voters"] == 3).then_some(()));
    assert_eq!(nodes[2].terminate(), Some(0));
    // When the directory of then is put back in its place, then it stops as one whose identity is refused
    std::fs::remove_dir_all(&nodes[2].directory).unwrap();
    copied(&kept, &nodes[2].directory);
    let lines = nodes[2].start(&["run"]);
    assert_eq!(nodes[2].ends(), Some(14));
    drop(lines);
    let log = nodes[2].log();
    for words in ["put back", "Nothing was harmed", "quorate join --replace --token TOKEN", "remove this copy"] {
        assert!(log.contains(words), "`{words}` is not in {log}");
    }
    // and comes back as it says.
    let token = nodes[0].token("manager");
    on(&nodes[2], &["join", "--replace", "--token", &token, "--manager", &nodes[0].address]).exits(0);
    nodes[2].run();
    assert!(nodes[2].ready.contains("raft id 5"), "{}", nodes[2].ready);
}

#[test]
fn a_copy_beside_its_original_is_not_told_to_go_elsewhere_first() {
    // Given a manager, and a copy of its directory on the same machine
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    let copy = Node::of(place.path().join("copy"));
    copied(&node.directory, &copy.directory);
    node.run();
    // When the copy is started, then what it may be is said before another port is
    let said =
        on(&copy, &["run"]).exits(1).complains(&["is in use", "with another directory", "remove the copy"]).stderr;
    assert!(said.find("remove the copy") < said.find("--listen"), "{said}");
    assert_eq!(node.status()["health"], "single_copy");
}

#[test]
fn an_address_that_cannot_be_had_is_not_kept() {
    // Given two managers' directories, of which one runs
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    let mut other = Node::init(place.path(), "n2");
    node.run();
    // When the other one is started at the address of the first, then it does not start,
    on(&other, &["run", "--listen", &node.address]).exits(1).complains(&["is in use", "Nothing was changed"]);
    // and the next time it is where it was.
    other.run();
    assert!(other.ready.contains(&other.address), "{}", other.ready);
    assert_eq!(other.terminate(), Some(0));
    // One that can be had is kept.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    other.run_with(&["run", "--listen", &free]);
    assert_eq!(other.terminate(), Some(0));
    other.run();
    assert!(other.ready.contains(&free), "{}", other.ready);
}
