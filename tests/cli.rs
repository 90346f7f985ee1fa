//! The binary as a script and as a clumsy person meet it, without a cluster: exit codes, words, JSON contracts.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::net::UdpSocket;

use cli_support::{Node, quorate, quorate_with_env};

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_ends_with_an_example_and_exits_0() {
    for verb in [
        &[][..],
        &["init"],
        &["join"],
        &["run"],
        &["status"],
        &["kv"],
        &["kv", "put"],
        &["kv", "get"],
        &["kv", "ls"],
        &["kv", "del"],
        &["kv", "cas"],
        &["kv", "export"],
        &["kv", "import"],
        &["lease"],
        &["lease", "grant"],
        &["lease", "keep-alive"],
        &["lease", "revoke"],
        &["lease", "list"],
        &["lease", "show"],
        &["lock"],
        &["kv", "txn"],
        &["kv", "watch"],
        &["node"],
        &["node", "ls"],
        &["node", "inspect"],
        &["node", "promote"],
        &["node", "demote"],
        &["node", "update"],
        &["node", "rm"],
        &["leave"],
        &["token", "show"],
        &["token", "rotate"],
        &["token", "create"],
        &["token", "ls"],
        &["token", "revoke"],
        &["policy", "show"],
        &["policy", "set"],
        &["leader", "transfer"],
        &["inspect"],
        &["recover"],
        &["check"],
        &["completions"],
        &["man"],
        &["bench"],
        &["bench", "put"],
        &["bench", "get"],
        &["bench", "txn"],
    ] {
        let said = quorate(&[verb, &["--help"]].concat()).exits(0);
        let (_, example) = said.stdout.rsplit_once("Example:").unwrap_or_else(|| panic!("{verb:?} has no example"));
        assert!(example.contains("  quorate "), "{verb:?}: {example}");
    }
}

#[test]
fn a_command_line_that_says_too_little_exits_2_and_says_what_is_missing() {
    quorate(&[]).exits(2);
    quorate(&["frobnicate"]).exits(2).complains(&["frobnicate"]);
    quorate(&["statsu"]).exits(2).complains(&["status"]);
    quorate(&["status"]).exits(2).complains(&["--data-dir", "--connect", "--identity"]);
    quorate(&["run"]).exits(2).complains(&["--data-dir"]);
    quorate(&["init"]).exits(2).complains(&["--data-dir"]);
    quorate(&["kv", "get", "a", "--connect", "127.0.0.1:1"]).exits(2).complains(&["--identity", "operator.id"]);
    quorate(&["kv", "cas", "a", "b"]).exits(2).complains(&["--expect-revision"]);
    quorate(&["kv", "del"]).exits(2).complains(&["--prefix"]);
    quorate(&["status", "--timeout", "soon", "--data-dir", "."]).exits(2).complains(&["soon", "500ms"]);
    quorate(&["status", "--data-dir", "/no/such/directory"]).exits(2).complains(&["/no/such/directory"]);
    quorate(&["kv", "put", "", "v", "--data-dir", "."]).exits(2).complains(&["empty"]);
}

#[test]
fn words_of_swarm_and_etcd_are_answered_with_ours_and_exit_2() {
    for (theirs, ours) in [
        (&["swarm", "init"][..], "quorate init"),
        (&["swarm", "join-token", "manager"], "quorate token show manager"),
        (&["join-token", "manager"], "quorate token show manager"),
        (&["node", "list"], "quorate node ls"),
        (&["member", "list"], "quorate node ls"),
        (&["endpoint", "health"], "quorate status"),
        (&["get", "foo"], "quorate kv get"),
        (&["put", "foo", "bar"], "quorate kv put"),
        (&["move-leader", "abc"], "quorate leader transfer"),
        (&["kv", "delete", "foo"], "quorate kv del"),
        (&["status", "--endpoints", "a:1"], "--connect"),
        (&["init", "--advertise-addr", "a:1"], "--advertise"),
        (&["init", "--force-new-cluster"], "quorate recover --dry-run"),
    ] {
        quorate(theirs).exits(2).complains(&[ours]);
    }
}

#[test]
fn a_usage_error_is_a_json_document_too() {
    for wrong in [&["status", "--json"][..], &["member", "list", "--json"], &["kv", "cas", "a", "b", "--json"]] {
        let error = quorate(wrong).exits(2).json()["error"].clone();
        assert_eq!((error["kind"].as_str(), error["retryable"].as_bool()), (Some("usage"), Some(false)), "{wrong:?}");
        assert_eq!(error["outcome"], "not_done");
    }
}

#[test]
fn a_directory_without_a_node_is_refused_with_what_to_do() {
    let place = place();
    let dir = place.path().to_str().unwrap();
    quorate(&["run", "--data-dir", dir]).exits(1).complains(&["quorate init", "quorate join"]);
    quorate(&["inspect", "--data-dir", dir]).exits(1);
    quorate(&["status", "--data-dir", dir]).exits(3).complains(&[
        "no node is running",
        "none was prepared",
        "quorate run",
    ]);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing was written");
}

#[test]
fn a_directory_that_holds_a_node_is_not_founded_or_joined_again() {
    let place = place();
    let node = Node::init(place.path(), "n1");
    let operator = std::fs::read(node.operator()).unwrap();
    quorate(&["init", "--data-dir", node.dir(), "--listen", "127.0.0.1:0"])
        .exits(1)
        .complains(&["already holds a node", "Nothing was changed"]);
    assert_eq!(std::fs::read(node.operator()).unwrap(), operator, "the operator's identity is as it was");
}

#[test]
fn a_directory_that_cannot_serve_is_refused_with_1_and_named() {
    let place = place();
    let file = place.path().join("file");
    std::fs::write(&file, "x").unwrap();
    // A file, a path through a file, a place where nobody may make anything: nothing of that is worth a restart.
    for dir in [file.clone(), file.join("below"), "/proc/none/here".into()] {
        let dir = dir.to_str().unwrap();
        let init = ["init", "--data-dir", dir, "--listen", "127.0.0.1:0"];
        quorate(&init).exits(1).complains(&[dir]);
        quorate(&[&init[..], &["--run"]].concat()).exits(1).complains(&[dir]);
        let error = quorate(&[&init[..], &["--json"]].concat()).exits(1).json()["error"].clone();
        assert_eq!((error["kind"].as_str(), error["retryable"].as_bool()), (Some("directory"), Some(false)));
        quorate(&["run", "--data-dir", dir]).exits(1).complains(&[dir]);
        quorate(&["inspect", "--data-dir", dir]).exits(1).complains(&[dir]);
        quorate(&["join", "--replace", "--data-dir", dir, "--manager", "127.0.0.1:1"]).exits(1).complains(&[dir]);
    }
    // So is damage that only `run` may call by its own code.
    let node = Node::init(place.path(), "n1");
    std::fs::write(node.directory.join("store/format"), "nonsense").unwrap();
    quorate(&["inspect", "--data-dir", node.dir()]).exits(1).complains(&["damaged"]);
    quorate(&["init", "--data-dir", node.dir(), "--listen", "127.0.0.1:0"]).exits(1).complains(&["damaged"]);
    quorate(&["run", "--data-dir", node.dir()]).exits(12).complains(&["damaged"]);
}

#[test]
fn an_argument_that_makes_no_sense_exits_2_and_leaves_nothing_behind() {
    let place = place();
    let dir = place.path().join("n1");
    let dir = dir.to_str().unwrap();
    let token = format!("QRT-1-{}-{}", "a".repeat(52), "a".repeat(26));
    for (wrong, why) in [
        (&["--listen", "127.0.0.1"][..], "127.0.0.1"),
        (&["--listen", "nosuch.invalid:4701"], "nosuch.invalid"),
        (&["--listen", "127.0.0.1:0", "--advertise", "n1"], "port is missing"),
        (&["--listen", "127.0.0.1:0", "--advertise", "https://n1:4701"], "scheme"),
        (&["--listen", "127.0.0.1:0", "--name", "two\nlines"], "control characters"),
        (&["--listen", "127.0.0.1:0", "--name", "\u{202e}n1"], "turn the order"),
        (&["--listen", "127.0.0.1:0", "--name", "7"], "taken for a raft id"),
    ] {
        quorate(&[&["init", "--data-dir", dir], wrong].concat()).exits(2).complains(&[why]);
        let join = ["join", "--data-dir", dir, "--token", &token, "--manager", "127.0.0.1:1"];
        quorate(&[&join[..], wrong].concat()).exits(2).complains(&[why]);
        assert!(!place.path().join("n1").exists(), "{wrong:?} left something behind");
    }
    let nowhere = ["init", "--data-dir", dir, "--listen", "127.0.0.1:0", "--advertise", "0.0.0.0:4701"];
    quorate(&nowhere).exits(2).complains(&["nobody can reach"]);
    let join = ["join", "--data-dir", dir, "--listen", "127.0.0.1:0", "--token", &token, "--manager", "n1"];
    quorate(&join).exits(2).complains(&["n1", "port is missing"]);
    assert!(!place.path().join("n1").exists());
}

#[test]
fn an_address_without_a_port_exits_2_wherever_it_is_given() {
    let place = place();
    let node = Node::init(place.path(), "n1");
    let identity = node.operator();
    let wrong = ["status", "--connect", "127.0.0.1", "--identity", &identity];
    quorate(&wrong).exits(2).complains(&["127.0.0.1", "port is missing", "Nothing was sent"]);
    let several = ["status", "--connect", "127.0.0.1:1,n2", "--identity", &identity];
    quorate(&several).exits(2).complains(&["`n2`", "port is missing"]);
    let env = [("QUORATE_CONNECT", "n1"), ("QUORATE_IDENTITY", identity.as_str())];
    quorate_with_env(&["status"], &env).exits(2).complains(&["`n1`", "port is missing"]);
    quorate(&["run", "--data-dir", node.dir(), "--manager", "n2"]).exits(2).complains(&["`n2`", "port is missing"]);
    let replace = ["join", "--replace", "--data-dir", node.dir(), "--manager", "n2"];
    quorate(&replace).exits(2).complains(&["`n2`", "port is missing"]);
}

#[test]
fn options_that_contradict_a_prepared_directory_are_refused_and_nothing_runs() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    let dir = node.dir().to_owned();
    let run = ["init", "--run", "--data-dir", &dir];
    for (option, has) in [
        (["--name", "other"], "n1"),
        (["--listen", "127.0.0.1:1"], node.address.as_str()),
        (["--advertise", "10.0.0.1:4701"], node.address.as_str()),
    ] {
        let said = quorate(&[&run[..], &option[..], &["--json"]].concat()).exits(1);
        assert_eq!(said.json()["error"]["kind"], "contradiction");
        said.complains(&[option[1], has, "Nothing was changed"]);
    }
    // A token of another cluster: the node would run, in a cluster that nobody asked for.
    let token = format!("QRT-1-{}-{}", "a".repeat(52), "a".repeat(26));
    let join = ["join", "--run", "--data-dir", node.dir(), "--token", &token, "--manager", "127.0.0.1:1"];
    quorate(&join).exits(1).complains(&["token is of another", "Nothing was changed"]);
    // What says the same as the directory is no contradiction.
    let address = node.address.clone();
    node.run_with(&["init", "--run", "--name", "n1", "--listen", &address, "--advertise", &address]);
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_closed_port_is_named_as_such_and_exits_3() {
    let place = place();
    let node = Node::init(place.path(), "n1");
    // Given: an identity, and a port that nobody listens on.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let to = ["--connect", &closed, "--identity", &node.operator(), "--timeout", "2s"];
    quorate(&[&["status"], &to[..]].concat()).exits(3).complains(&[&closed, "port closed"]);
    let error = quorate(&[&["kv", "put", "a", "b", "--json"], &to[..]].concat()).exits(3).json()["error"].clone();
    assert_eq!((error["kind"].as_str(), error["retryable"].as_bool()), (Some("unavailable"), Some(true)));
    assert_eq!(error["outcome"], "not_done");
}

#[test]
fn an_identity_file_that_is_none_exits_2() {
    let place = place();
    let file = place.path().join("operator.id");
    std::fs::write(&file, "this is no identity").unwrap();
    let path = file.to_str().unwrap();
    quorate(&["status", "--connect", "127.0.0.1:1", "--identity", path]).exits(2).complains(&["is no identity file"]);
    quorate(&["status", "--connect", "127.0.0.1:1", "--identity", "/no/such.id"]).exits(2).complains(&["/no/such.id"]);
}
