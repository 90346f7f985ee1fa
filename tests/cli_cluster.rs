//! The binary with managers that run: values, documents for scripts, addresses, joins, a lost quorum.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::net::UdpSocket;

use cli_support::{Node, eventually, quorate, quorate_with_env, quorate_with_stdin};

fn place() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

// ---- one manager

#[test]
fn values_go_in_and_come_out_as_they_are() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let local = ["--data-dir", node.dir()];
    let kv = |arguments: &[&str]| quorate(&[&["kv"], arguments, &local].concat());

    // Text, one byte, stdin, file, literal.
    kv(&["put", "greeting", "hello"]).exits(0);
    assert_eq!(kv(&["get", "greeting"]).exits(0).stdout, "hello", "nothing but the value when piped");
    kv(&["put", "a", "-1"]).exits(0);
    assert_eq!(kv(&["get", "a"]).exits(0).stdout, "-1");
    quorate_with_stdin(&["kv", "put", "bin", "-", "--data-dir", node.dir()], b"\xff\x00\n").exits(0);
    assert_eq!(kv(&["get", "bin"]).exits(0).bytes, b"\xff\x00\n");
    let file = place.path().join("value");
    std::fs::write(&file, "from a file\n").unwrap();
    kv(&["put", "file", &format!("@{}", file.display())]).exits(0);
    assert_eq!(kv(&["get", "file"]).exits(0).stdout, "from a file\n");
    kv(&["put", "literal", "@home", "--literal"]).exits(0);
    assert_eq!(kv(&["get", "literal"]).exits(0).stdout, "@home");
    kv(&["put", "empty", ""]).exits(0);
    assert_eq!(kv(&["get", "empty"]).exits(0).stdout, "");

    // Absent, and over a limit.
    kv(&["get", "absent"]).exits(1).complains(&["there is no key `absent`"]);
    kv(&["get", "gree"]).exits(1).complains(&["there is no key `gree`"]);
    let at_the_limit = vec![b'v'; 1024 * 1024];
    quorate_with_stdin(&["kv", "put", "big", "-", "--data-dir", node.dir()], &at_the_limit).exits(0);
    assert_eq!(kv(&["get", "big"]).exits(0).bytes, at_the_limit);
    quorate_with_stdin(&["kv", "put", "big", "-", "--data-dir", node.dir()], &[at_the_limit, vec![b'v']].concat())
        .exits(1)
        .complains(&["VALUE_BYTES_MAX", "1048577"]);
    let key = "k".repeat(4096);
    kv(&["put", &key, "v"]).exits(0);
    assert_eq!(kv(&["get", &key]).exits(0).stdout, "v");
    kv(&["put", &format!("{key}k"), "v"]).exits(1).complains(&["KEY_BYTES_MAX", "4097"]);
}

#[test]
fn the_documents_for_scripts_have_what_their_contract_says() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let kv = |arguments: &[&str]| quorate(&[&["--json", "--data-dir", node.dir(), "kv"], arguments].concat());

    let put = kv(&["put", "app/a", "1"]).exits(0).json();
    let first = put["revision"].as_u64().unwrap();
    let second = kv(&["put", "app/a", "2"]).exits(0).json()["revision"].as_u64().unwrap();
    assert_eq!(second, first + 1);

    let got = kv(&["get", "app/a"]).exits(0).json();
    assert_eq!((got["key"].as_str(), got["value"].as_str()), (Some("app/a"), Some("2")));
    assert_eq!((got["create_revision"].as_u64(), got["mod_revision"].as_u64()), (Some(first), Some(second)));
    assert_eq!((got["version"].as_u64(), got["revision"].as_u64()), (Some(2), Some(second)));
    assert_eq!(kv(&["get", "app/a", "--revision", &first.to_string()]).exits(0).json()["value"], "1");
    let stale = kv(&["get", "app/a", "--serializable"]).exits(0).json();
    assert!(stale["applied"].is_u64() && stale["age_ms"].is_u64(), "{stale}");

    quorate_with_stdin(&["kv", "put", "app/b", "-", "--data-dir", node.dir()], b"\xff\x00").exits(0);
    let binary = kv(&["get", "app/b"]).exits(0).json();
    assert_eq!((binary["value_base64"].as_str(), binary.get("value")), (Some("/wA="), None));

    let absent = kv(&["get", "absent"]).exits(1).json()["error"].clone();
    assert_eq!((absent["kind"].as_str(), absent["outcome"].as_str()), (Some("not_found"), Some("not_done")));

    // A cas that does not match says what is there, and writes nothing.
    let refused = kv(&["cas", "app/a", "3", "--expect-revision", &first.to_string()]).exits(1).json();
    assert_eq!((refused["succeeded"].as_bool(), refused["error"]["kind"].as_str()), (Some(false), Some("mismatch")));
    assert_eq!(refused["current"]["mod_revision"].as_u64(), Some(second));
    assert!(refused["error"]["message"].as_str().unwrap().contains(&format!("current revision is {second}")));
    assert_eq!(kv(&["cas", "absent", "3", "--expect-value", "x"]).exits(1).json()["current"], serde_json::Value::Null);
    let done = kv(&["cas", "app/a", "3", "--expect-revision", &second.to_string()]).exits(0).json();
    assert_eq!(done["succeeded"], true);
    kv(&["cas", "app/a", "4", "--expect-value", "3"]).exits(0);
    kv(&["cas", "app/a", "5", "--expect-absent"]).exits(1);
    kv(&["cas", "app/c", "5", "--expect-absent"]).exits(0);

    // Pages at one revision.
    let page = kv(&["ls", "--prefix", "app/", "--limit", "2"]).exits(0).json();
    assert_eq!((page["count"].as_u64(), page["more"].as_bool()), (Some(2), Some(true)));
    let revision = page["revision"].as_u64().unwrap();
    kv(&["put", "app/z", "later"]).exits(0);
    let go_on = ["ls", "--prefix", "app/", "--after", "app/b", "--revision", &revision.to_string(), "--keys-only"];
    let rest = kv(&go_on).exits(0).json();
    let keys: Vec<&str> =
        rest["entries"].as_array().unwrap().iter().filter_map(|entry| entry["key"].as_str()).collect();
    assert_eq!((keys, rest["more"].as_bool()), (vec!["app/c"], Some(false)), "what came later is not in it");
    assert_eq!(rest["entries"][0].get("value"), None);
    assert_eq!(kv(&["ls", "--prefix", "app/", "--count"]).exits(0).json()["count"], 4);

    // A key may hold what a terminal takes for a command: it is shown, and obeyed only where that was asked for.
    let evil = "evil/\u{1b}[2J\\\n";
    kv(&["put", evil, "v"]).exits(0);
    let plain = |more: &[&str]| {
        let ls = ["kv", "ls", "--prefix", "evil/", "--keys-only", "--data-dir", node.dir()];
        quorate(&[&ls[..], more].concat()).exits(0).stdout
    };
    assert_eq!(plain(&[]), "evil/\\u{1b}[2J\\\\\\n\n");
    assert_eq!(plain(&["--raw"]), format!("{evil}\n"));
    assert_eq!(kv(&["ls", "--prefix", "evil/", "--keys-only"]).exits(0).json()["entries"][0]["key"], evil);

    assert_eq!(kv(&["del", "app/z"]).exits(0).json()["deleted"], 1);
    assert_eq!(kv(&["del", "app/z"]).exits(0).json()["deleted"], 0);
    assert_eq!(kv(&["del", "--prefix", "app/"]).exits(0).json()["deleted"], 3);

    let status = node.status();
    for field in
        ["cluster_id", "generation", "term", "leader", "revision", "voters", "fault_tolerance", "health", "age_ms"]
    {
        assert!(!status[field].is_null(), "{field}: {status}");
    }
    assert!(status["workers"].as_array().unwrap().is_empty());
    assert_eq!((status["health"].as_str(), status["voters"].as_u64()), (Some("single_copy"), Some(1)));
    assert_eq!(status["tolerance"], "tolerates no loss: join two more managers to tolerate one");
    let own = &status["managers"][0];
    for field in
        ["id", "name", "address", "raft_id", "seat", "leader", "reachable", "silent_ms", "applied", "lag", "version"]
    {
        assert!(!own[field].is_null(), "{field}: {own}");
    }
    assert_eq!((own["seat"].as_str(), own["leader"].as_bool()), (Some("voter"), Some(true)));
    assert_eq!(own["state_hash"].as_str().unwrap().len(), 64, "{own}");
    assert_eq!(own["hash_revision"], status["revision"]);
}

#[test]
fn a_cluster_is_addressed_from_elsewhere_by_option_or_environment_before_or_after_the_verb() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let identity = node.operator();
    let to = ["--connect", &node.address, "--identity", &identity];
    quorate(&[&to[..], &["kv", "put", "k", "v"]].concat()).exits(0);
    assert_eq!(quorate(&[&["kv", "get"], &to[..], &["k"]].concat()).exits(0).stdout, "v");
    let env = [("QUORATE_CONNECT", node.address.as_str()), ("QUORATE_IDENTITY", identity.as_str())];
    assert_eq!(quorate_with_env(&["kv", "get", "k"], &env).exits(0).stdout, "v");
    // One of several managers is enough.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let several = format!("{closed},{}", node.address);
    assert_eq!(quorate(&["kv", "get", "k", "--connect", &several, "--identity", &identity]).exits(0).stdout, "v");
}

#[test]
fn an_identity_of_another_cluster_is_refused() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let other = Node::init(place.path(), "other");
    let said = quorate(&["kv", "get", "k", "--connect", &node.address, "--identity", &other.operator(), "--json"]);
    let said = said.exits(1).complains(&[&node.address]);
    assert_eq!(said.json()["error"]["kind"], "denied");
}

#[test]
fn a_node_says_one_line_when_ready_and_stops_as_asked_with_0() {
    let place = place();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    assert_eq!(node.ready, format!("ready: n1 {} raft id 1 voter, leader n1", node.address));
    quorate(&["kv", "put", "k", "v", "--data-dir", node.dir()]).exits(0);

    // A second process on the same directory, and a look at a store that is in use, are refused.
    for verb in ["run", "inspect", "init"] {
        let said = quorate(&[verb, "--data-dir", node.dir()]).exits(1);
        said.complains(&["in use", node.dir(), &node.pid().to_string()]);
    }
    // Another node on the same port.
    let busy = place.path().join("busy");
    let busy = busy.to_str().unwrap();
    let said = quorate(&["init", "--data-dir", busy, "--listen", &node.address]).exits(1);
    said.complains(&[&node.address, "in use", "Nothing was written"]);
    assert!(!std::path::Path::new(busy).exists());
    quorate(&["init", "--data-dir", busy, "--listen", "127.0.0.1:0"]).exits(0);
    quorate(&["run", "--data-dir", busy, "--listen", &node.address]).exits(1).complains(&[&node.address, "in use"]);
    // A node at an address that is not this machine's is prepared with a warning, and does not run.
    let away = place.path().join("away");
    let away = away.to_str().unwrap();
    quorate(&["init", "--data-dir", away, "--listen", "203.0.113.7:4701"]).exits(0).complains(&["no address of this"]);
    quorate(&["run", "--data-dir", away]).exits(1).complains(&["203.0.113.7:4701", "another --listen"]);
    // And one that listens everywhere is told what the others would be told.
    let all = place.path().join("all");
    let all = all.to_str().unwrap();
    quorate(&["init", "--data-dir", all, "--listen", "0.0.0.0:4701"]).exits(0).complains(&["--advertise"]);

    assert_eq!(node.terminate(), Some(0));
    let inspection = quorate(&["inspect", "--data-dir", node.dir(), "--json"]).exits(0).json();
    assert_eq!((inspection["name"].as_str(), inspection["raft_id"].as_u64()), (Some("n1"), Some(1)));
    assert_eq!(inspection["voters"], serde_json::json!([1]));
    assert!(quorate(&["inspect", "--data-dir", node.dir()]).exits(0).stdout.contains("state hash"));

    // What was acknowledged is there after a clean stop, and after a kill.
    node.run();
    node.kill();
    node.run();
    assert_eq!(quorate(&["kv", "get", "k", "--data-dir", node.dir()]).exits(0).stdout, "v");
}

#[test]
fn a_wrong_filter_for_the_log_exits_2() {
    let place = place();
    let node = Node::init(place.path(), "n1");
    quorate(&["run", "--data-dir", node.dir(), "--log", "quorate=loud"]).exits(2).complains(&["--log", "quorate=loud"]);
}

// ---- several managers

#[test]
fn a_join_that_cannot_be_is_refused_typed() {
    let place = place();
    let mut first = Node::init(place.path(), "n1");
    first.run();
    let mut other = Node::init(place.path(), "other");
    other.run();
    let token = quorate(&["token", "show", "manager", "--data-dir", first.dir(), "--json"]).exits(0).json();
    let token = token["token"].as_str().unwrap().to_owned();
    let join = |name: &str, token: &str, manager: &str| {
        let dir = place.path().join(name);
        let base = ["join", "--data-dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        quorate(&[&base[..], &["--token", token, "--manager", manager]].concat())
    };
    join("a", "swordfish", &first.address).exits(2).complains(&["token"]);
    let (head, _) = token.rsplit_once('-').unwrap();
    join("b", &format!("{head}-{}", "a".repeat(26)), &first.address).exits(1).complains(&["token"]);
    // The right token and the wrong cluster: its CA is not the one that the token pins.
    join("c", &token, &other.address).exits(1);
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    join("d", &token, &closed).exits(3).complains(&[&closed]);
    assert_eq!(first.status()["managers"].as_array().unwrap().len(), 1, "nobody was taken in");
    // Nothing of it is left, and the same command with what was wrong put right is a join like any other.
    for name in ["a", "b", "c", "d"] {
        assert!(!place.path().join(name).exists(), "{name}");
    }
    join("b", &token, &first.address).exits(0);
}

#[test]
fn a_refused_join_leaves_nothing_behind_and_the_next_one_goes_by_its_own_options() {
    let place = place();
    let mut first = Node::init(place.path(), "n1");
    first.run();
    let token = first.token("worker");
    // Given a place where the operator has made one directory, and none below it
    let given = place.path().join("given");
    std::fs::create_dir(&given).unwrap();
    let dir = given.join("a/b");
    let join = |options: &[&str]| {
        let base = ["join", "--data-dir", dir.to_str().unwrap(), "--token", &token, "--manager", &first.address];
        quorate(&[&base[..], options, &["--json"]].concat())
    };
    // When a join is refused
    join(&["--name", "n1", "--listen", "127.0.0.1:1"]).exits(1).complains(&["the name n1 is taken"]);
    // Then everything that it made is gone, and nothing else
    assert_eq!(std::fs::read_dir(&given).unwrap().count(), 0);
    // And the next one remembers nothing of it
    let joined = join(&["--name", "w1", "--listen", "127.0.0.1:0"]).exits(0).json();
    assert_eq!(joined["name"], "w1");
    assert!(!joined["address"].as_str().unwrap().ends_with(":1"), "{joined}");
    // One that was made before stays, with what is in it.
    let kept = place.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("notes"), "mine").unwrap();
    let refused = ["join", "--data-dir", kept.to_str().unwrap(), "--token", &token, "--name", "n1"];
    quorate(&[&refused[..], &["--listen", "127.0.0.1:0", "--manager", &first.address]].concat()).exits(1);
    let left: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes"]);
}

#[test]
fn a_lone_second_stands_by_and_a_third_makes_three() {
    let place = place();
    let mut first = Node::init(place.path(), "n1");
    first.run();
    let mut second = Node::join(place.path(), "n2", &first);
    second.run();
    assert_eq!(second.ready, format!("ready: n2 {} raft id 2 standby, leader n1", second.address));
    assert_eq!(first.status()["voters"], 1);
    let standby = ["leader", "transfer", "--to", "n2", "--data-dir", first.dir()];
    quorate(&standby).exits(1).complains(&["n2 holds no seat"]);
    let mut third = Node::join(place.path(), "n3", &second);
    third.run();
    let status = eventually("three voters", || Some(first.status()).filter(|status| status["voters"] == 3));
    assert_eq!(status["managers"].as_array().unwrap().len(), 3);
    eventually("health is ok", || Some(third.status()).filter(|status| status["health"] == "ok"));

    // Leadership moves where it is asked to.
    // (On a machine that is very busy a hand-over may miss its one election timeout: then it is asked again.)
    let moved = eventually("leadership moves to n3", || {
        let said = quorate(&["leader", "transfer", "--to", "n3", "--data-dir", second.dir(), "--json"]);
        (said.exit == Some(0)).then(|| said.json())
    });
    assert_eq!(moved["leader"], "n3");
    quorate(&["leader", "transfer", "--to", "n9", "--data-dir", first.dir()]).exits(1).complains(&["n9"]);

    // A clean stop of the leader hands over; the others go on.
    assert_eq!(third.terminate(), Some(0));
    quorate(&["kv", "put", "after", "the stop", "--data-dir", first.dir()]).exits(0);

    // One more is lost: the first lines are the runbook, writes are refused in time, stale reads go on.
    second.kill();
    let page = eventually("the quorum is lost", || {
        let said = quorate(&["status", "--data-dir", first.dir()]).exits(0).stdout;
        said.starts_with("QUORUM LOST for ").then_some(said)
    });
    let lines: Vec<&str> = page.lines().collect();
    assert!(
        lines[0].contains("1 of 3 voters reachable, 2 needed") && lines[0].contains("Nothing acknowledged"),
        "{page}"
    );
    // The layout of the runbook, with what this manager has not heard from each for.
    let silences: Vec<&str> = lines[1].split(" silent ").skip(1).collect();
    assert_eq!(silences.len(), 2, "{page}");
    let (n2, n3) = (&second.address, &third.address);
    let silent_n2 = silences[0].split("    ").next().unwrap();
    assert_eq!(lines[1], format!("  missing  n2 {n2} silent {silent_n2}    n3 {n3} silent {}", silences[1]));
    assert_eq!(lines[2], "  next     start n2 OR n3 again; either one is enough.");
    let status = first.status();
    let silent = |status: &serde_json::Value, name: &str| {
        let managers = status["managers"].as_array().unwrap();
        managers.iter().find(|manager| manager["name"] == name).unwrap()["silent_ms"].as_u64()
    };
    assert_eq!(silent(&status, "n1"), Some(0));
    assert!(silent(&status, "n3") > silent(&status, "n2"), "n3 went first: {status}");
    assert_eq!((status["health"].as_str(), status["fault_tolerance"].as_i64()), (Some("quorum_lost"), Some(-1)));
    let put = quorate(&["kv", "put", "k", "v", "--timeout", "2s", "--json", "--data-dir", first.dir()]).exits(3).json();
    assert_eq!(put["error"]["outcome"], "not_done");
    quorate(&["kv", "get", "after", "--timeout", "2s", "--data-dir", first.dir()]).exits(3);
    let transfer = ["leader", "transfer", "--data-dir", first.dir()];
    quorate(&transfer).exits(3).complains(&["no manager leads", "Nothing was changed"]);
    // The log says in quorate's words what happened, and nothing of the library below.
    let log = eventually("the log tells of the lost quorum", || {
        let log = std::fs::read_to_string(first.directory.with_extension("log")).unwrap();
        log.contains("quorum lost").then_some(log)
    });
    assert!(log.contains("missing=\"n2, n3\"") && !log.contains(" raft: "), "{log}");
    let stale = quorate(&["kv", "get", "after", "--serializable", "--data-dir", first.dir()]).exits(0);
    assert_eq!(stale.stdout, "the stop");
    stale.complains(&["as of revision", "at most", "old"]);

    // A manager that is started anew never heard of those that are gone.
    first.kill();
    let log = first.start(&["run"]);
    let status = eventually("it answers", || {
        let said = quorate(&["status", "--json", "--data-dir", first.dir()]);
        (said.exit == Some(0)).then(|| said.json()).filter(|status| status["health"] == "quorum_lost")
    });
    assert_eq!((silent(&status, "n1"), silent(&status, "n2"), silent(&status, "n3")), (Some(0), None, None));
    assert_eq!(status["age_ms"], serde_json::Value::Null, "nor from a quorum");
    let page = quorate(&["status", "--data-dir", first.dir()]).exits(0).stdout;
    assert!(page.contains("n2 ") && page.contains("not heard of yet") && page.contains("of unknown age"), "{page}");

    // Either one is enough.
    second.run();
    first.wait_ready(&log);
    quorate(&["kv", "put", "k", "v", "--data-dir", first.dir()]).exits(0);
    assert_eq!(quorate(&["kv", "get", "k", "--data-dir", second.dir()]).exits(0).stdout, "v");
}

#[test]
fn a_manager_whose_store_is_gone_comes_back_by_its_certificate_under_a_new_raft_id() {
    let place = place();
    let mut first = Node::init(place.path(), "n1");
    first.run();
    let mut second = Node::join(place.path(), "n2", &first);
    second.run();
    assert_eq!(second.terminate(), Some(0));

    // A sound store is not replaced.
    let replace = ["join", "--replace", "--data-dir", second.dir(), "--manager", &first.address];
    quorate(&replace).exits(1).complains(&["sound", "Nothing was changed"]);

    // Without its identity file it does not run, and is told which file that is.
    let (identity, aside) = (second.directory.join("node.id"), second.directory.join("aside"));
    std::fs::rename(&identity, &aside).unwrap();
    quorate(&["run", "--data-dir", second.dir()]).exits(1).complains(&["node.id", "bring the file back"]);
    std::fs::rename(&aside, &identity).unwrap();

    std::fs::remove_dir_all(second.directory.join("store")).unwrap();
    quorate(&["run", "--data-dir", second.dir()]).exits(1).complains(&["store is gone", "quorate join --replace"]);
    quorate(&replace).exits(0);
    second.run();
    assert_eq!(second.ready, format!("ready: n2 {} raft id 3 standby, leader n1", second.address));
}
