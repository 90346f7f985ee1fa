//! Nodes, tokens and policy on the command line: exit codes, words, JSON contracts, one refusal of each kind.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use cli_support::{Node, eventually, managers, on, quorate};
use serde_json::json;

#[test]
fn nodes_are_listed_as_a_table_and_for_scripts_also_without_a_quorum() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 2);
    let table = on(&nodes[1], &["node", "ls"]).exits(0).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[0].contains("AVAILABILITY"), "{table}");
    assert!(lines[1].starts_with("n1") && lines[1].contains("voter, leads") && lines[1].contains("ready"), "{table}");
    assert!(lines[2].starts_with("n2") && lines[2].contains("standby") && lines[2].contains("active"), "{table}");
    assert!(table.contains("as n2 knows it at revision "), "{table}");
    let list = on(&nodes[0], &["node", "ls", "--json"]).exits(0).json();
    let second = &list["nodes"][1];
    for field in
        ["name", "id", "address", "labels", "availability", "desired_role", "observed_role", "seat", "state", "raft_id"]
    {
        assert!(!second[field].is_null(), "{field}: {second}");
    }
    assert_eq!((second["seat"].as_str(), second["desired_role"].as_str()), (Some("standby"), Some("manager")));
    assert!(list["revision"].is_u64() && list["age_ms"].is_u64());
    // The only voter is gone: the standby answers all the same, marked with its age.
    nodes[0].kill();
    let list = eventually("the voter is down", || {
        let list = on(&nodes[1], &["node", "ls", "--json"]).exits(0).json();
        (list["nodes"][0]["state"] == "down" && list["age_ms"].as_u64() > Some(0)).then_some(list)
    });
    assert_eq!(list["answered_by"], "n2");
    assert!(on(&nodes[1], &["node", "ls"]).exits(0).stdout.trim_end().ends_with(" old"));
    on(&nodes[1], &["node", "inspect", "n1", "--timeout", "1s"]).exits(3);
}

#[test]
fn one_node_is_shown_by_any_of_its_names_and_an_unknown_one_exits_1() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let shown = on(&nodes[0], &["node", "inspect", "n1"]).exits(0).stdout;
    assert!(shown.contains("seat          voter, leads") && shown.contains("now           voter"), "{shown}");
    let node = on(&nodes[0], &["node", "inspect", "1", "--json"]).exits(0).json();
    assert_eq!((node["name"].as_str(), node["settled"].as_bool()), (Some("n1"), Some(true)));
    let id = node["id"].as_str().unwrap();
    on(&nodes[0], &["node", "inspect", &id[..6]]).exits(0);
    let said = on(&nodes[0], &["node", "inspect", "n9", "--json"]).exits(1).complains(&["n9", "quorate node ls"]);
    assert_eq!(said.json()["error"]["kind"], "not_found");
}

#[test]
fn a_promotion_says_what_was_decided_and_a_repeated_one_exits_0() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 2);
    let said = on(&nodes[1], &["node", "promote", "n2"]).exits(0).stdout;
    assert_eq!(said, "n2 is a manager already: standby until one more manager joins; 1 voter, 1 standby\n");
    let said = on(&nodes[0], &["node", "promote", "n1", "n2", "--json"]).exits(0).json();
    let outcomes = said["nodes"].as_array().unwrap();
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        assert_eq!((outcome["changed"].as_bool(), outcome["done"].as_bool()), (Some(false), Some(true)), "{outcome}");
    }
    assert_eq!(outcomes[0]["node"]["seat"], "voter");
    let said = on(&nodes[0], &["node", "promote", "n2", "--detach"]).exits(0).stdout;
    assert!(said.starts_with("n2: promotion recorded already"), "{said}");
    // One that is unknown does not keep the others from being promoted, and the exit code says that something is wrong.
    let said = on(&nodes[0], &["node", "promote", "n9", "n2", "--json"]).exits(1).complains(&["n9"]);
    let document = said.json();
    assert_eq!(document["error"]["kind"], "not_found");
    assert_eq!(document["nodes"][0]["node"]["name"], "n2");
    assert_eq!(
        (&document["failed"][0]["node"], &document["failed"][0]["error"]["kind"]),
        (&json!("n9"), &json!("not_found"))
    );
}

#[test]
fn of_several_it_is_said_whom_a_refusal_is_about_and_what_was_done_to_the_others() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    let mut worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    worker.run();
    // When several are demoted, of which one must not be and one is none any more
    let said = on(&nodes[0], &["node", "demote", "w1", "n3", "w1"]).exits(1);
    // Then each line begins with the node that it is about, in the order in which they were named
    assert_eq!(said.stdout.lines().filter(|line| line.starts_with("w1 is a worker already; ")).count(), 2, "{said:?}");
    assert!(said.stderr.contains("n3: "), "{said:?}");
    let document = on(&nodes[0], &["node", "demote", "w1", "n3", "--json"]).exits(1).json();
    let failed = document["failed"].as_array().unwrap();
    assert_eq!((failed.len(), &failed[0]["node"]), (1, &json!("n3")), "{document}");
    assert_eq!(
        (&failed[0]["rule"], &document["nodes"][0]["node"]["name"]),
        (&document["rule"], &json!("w1")),
        "{document}"
    );
    // Of one alone the words are as they were.
    let said = on(&nodes[0], &["node", "demote", "n3"]).exits(1);
    assert!(!said.stderr.contains("n3: "), "{said:?}");
}

#[test]
fn what_would_end_the_cluster_exits_1_and_names_the_rule_and_the_way_out() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    for arguments in [
        &["node", "demote", "n1", "--json"][..],
        &["node", "demote", "n1", "--force", "--json"],
        &["node", "rm", "n1", "--force", "--json"],
        &["leave", "--json"],
        &["leave", "--force", "--json"],
    ] {
        let said = on(&nodes[0], arguments).exits(1).complains(&["n1 is the last voter", "Nothing was changed"]).json();
        assert_eq!((said["rule"].as_str(), said["error"]["outcome"].as_str()), (Some("last_voter"), Some("not_done")));
    }
    // A node that is there is not taken away by accident.
    let said = on(&nodes[0], &["node", "rm", "n1", "--json"]).exits(1).complains(&["n1 is ready", "--force"]).json();
    assert_eq!(said["rule"], "node_ready");
    // Three voters: no loss would be survived any more.
    for name in ["n2", "n3"] {
        let mut node = Node::join(place.path(), name, &nodes[0]);
        node.run();
        nodes.push(node);
    }
    eventually("three voters", || (nodes[0].status()["voters"] == 3).then_some(()));
    let said =
        on(&nodes[1], &["node", "demote", "n3", "--json"]).exits(1).complains(&["1 of 3 voters", "--force"]).json();
    assert_eq!(said["rule"], "ends_fault_tolerance");
    assert_eq!(on(&nodes[2], &["leave", "--json"]).exits(1).json()["rule"], "ends_fault_tolerance");
    // What it comes to is said also where it is insisted on.
    let said = on(&nodes[1], &["node", "demote", "n3", "--force", "--detach"])
        .exits(0)
        .complains(&["warning: one voter is left"])
        .stdout;
    assert!(said.starts_with("n3: demotion recorded;"), "{said}");
    let node = on(&nodes[0], &["node", "ls", "--json"]).exits(0).json()["nodes"][2].clone();
    assert_eq!((node["name"].as_str(), node["desired_role"].as_str()), (Some("n3"), Some("worker")), "{node}");
}

#[test]
fn a_removal_and_a_leave_are_recorded_and_what_is_elsewhere_does_not_leave() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 4);
    let standby = nodes.pop().unwrap();
    let said = on(&standby, &["leave", "--detach"]).exits(0).stdout;
    assert!(said.starts_with("n4: leaving is recorded"), "{said}");
    // (It may be gone already: then it is not known any more.)
    let seen = on(&nodes[0], &["node", "inspect", "n4", "--json"]);
    assert!(seen.exit == Some(1) || seen.json()["removing"] == true, "{seen:?}");
    let remote = ["--connect", &nodes[0].address, "--identity", &nodes[0].operator()];
    quorate(&[&["leave"], &remote[..]].concat()).exits(2).complains(&["--data-dir", "quorate node rm"]);
}

#[test]
fn labels_availability_and_pauses_are_set_and_wrong_ones_refused() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let update = |arguments: &[&str]| on(&nodes[0], &[&["node", "update", "n1"], arguments].concat());
    let said = update(&["--label-add", "zone=b", "--label-add", "rack=7", "--availability", "drain"]).exits(0).stdout;
    assert_eq!(said, "n1 updated: drain, rack=7,zone=b\n");
    assert_eq!(update(&["--label-add", "zone=b"]).exits(0).stdout, "n1 as it was: drain, rack=7,zone=b\n");
    let said =
        update(&["--label-rm", "rack", "--availability", "active", "--pause-replacement", "15m"]).exits(0).stdout;
    assert_eq!(said, "n1 updated: active, zone=b, not replaced for 15m\n");
    let said = update(&["--pause-replacement", "0", "--json"]).exits(0).json();
    assert_eq!((said["changed"].as_bool(), said["node"]["replacement_paused_ms"].as_u64()), (Some(true), Some(0)));
    assert_eq!(said["node"]["labels"], serde_json::json!({ "zone": "b" }));
    let said = update(&["--label-add", "quorate.x=1", "--json"]).exits(1).complains(&["quorate.manager=yes"]).json();
    assert_eq!(said["rule"], "reserved_label");
    update(&["--label-add", "quorate.manager=true"]).exits(1).complains(&["quorate.manager=yes"]);
    update(&["--label-add", "zone"]).exits(2).complains(&["KEY=VALUE"]);
    update(&["--availability", "gone"]).exits(2).complains(&["drain"]);
    update(&["--pause-replacement", "25h"]).exits(2).complains(&["from 1ms to 1d"]);
    update(&[]).exits(2).complains(&["--label-add"]);
}

#[test]
fn tokens_are_made_listed_used_and_taken_back() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let join = |name: &str, token: &str| {
        let dir = place.path().join(name);
        let base = ["join", "--data-dir", dir.to_str().unwrap(), "--listen", "127.0.0.1:0", "--name", name];
        quorate(&[&base[..], &["--token", token, "--manager", &nodes[0].address]].concat())
    };
    let said = on(&nodes[0], &["token", "create", "--role", "manager", "--ttl", "1h"]).exits(0).stdout;
    assert!(said.contains("lets one node in as a manager, for 1h. It is shown this once."), "{said}");
    let token = said.lines().next_back().unwrap();
    assert!(token.starts_with("QRT-1-"), "{said}");
    let list = on(&nodes[0], &["token", "ls"]).exits(0).stdout;
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(list.contains("1 of 1") && list.contains("  in ") && !list.contains(token), "{list}");
    join("n2", token).exits(0);
    join("n3", token).exits(1).complains(&["used up"]);
    let made = on(&nodes[0], &["token", "create", "--role", "manager", "--ttl", "never", "--uses", "0", "--json"])
        .exits(0)
        .json();
    assert_eq!((made["uses"].as_u64(), made["expires_unix"].as_u64()), (Some(0), Some(0)));
    let id = made["id"].as_str().unwrap();
    let tokens = on(&nodes[0], &["token", "ls", "--json"]).exits(0).json();
    // Two that were made within one second come in any order.
    let dead: Vec<_> =
        tokens["tokens"].as_array().unwrap().iter().filter(|token| !token["valid"].as_bool().unwrap()).collect();
    assert!(dead.len() == 1 && dead[0]["id"].as_str() != Some(id), "{tokens}");
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 4);
    on(&nodes[0], &["token", "revoke", id]).exits(0);
    join("n3", made["token"].as_str().unwrap()).exits(1).complains(&["revoked"]);
    on(&nodes[0], &["token", "revoke", id]).exits(1).complains(&[id, "quorate token ls"]);
    // The standing one.
    let old = on(&nodes[0], &["token", "show", "manager", "--json"]).exits(0).json();
    let new = on(&nodes[0], &["token", "rotate", "manager"]).exits(0).stdout;
    assert_ne!(new.lines().next_back(), old["token"].as_str());
    join("n3", old["token"].as_str().unwrap()).exits(1).complains(&["rotated"]);
    join("n3", new.lines().next_back().unwrap()).exits(0);
    // What cannot be.
    on(&nodes[0], &["token", "create", "--role", "king"]).exits(2).complains(&["manager"]);
    on(&nodes[0], &["token", "create", "--role", "worker", "--ttl", "400d"]).exits(2).complains(&["from 1s to 365d"]);
    on(&nodes[0], &["token", "create", "--role", "worker", "--uses", "1000000"]).exits(1).complains(&["100000"]);
}

#[test]
fn a_newcomer_that_cannot_be_reached_is_refused_and_nothing_is_changed() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let token = on(&nodes[0], &["token", "show", "manager", "--json"]).exits(0).json();
    let token = token["token"].as_str().unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let dir = place.path().join("n2");
    let base = ["join", "--data-dir", dir.to_str().unwrap(), "--name", "n2", "--token", token];
    let join = |more: &[&str]| quorate(&[&base[..], &["--manager", &nodes[0].address], more].concat());
    join(&["--listen", "127.0.0.1:0", "--advertise", &closed]).exits(1).complains(&[
        &closed,
        "--advertise",
        "Nothing was changed",
    ]);
    let list = on(&nodes[0], &["node", "ls", "--json"]).exits(0).json();
    assert_eq!(list["nodes"].as_array().unwrap().len(), 1);
    join(&["--listen", &closed]).exits(0);
}

#[test]
fn a_worker_whose_disk_is_gone_gets_another_and_its_promotion_says_what_it_waits_for() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let token = on(&nodes[0], &["token", "show", "worker"]).exits(0).stdout;
    let token = token.lines().next_back().unwrap();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let join = |directory: &str, more: &[&str]| {
        let base = ["join", "--data-dir", directory, "--listen", "127.0.0.1:0", "--token", token];
        quorate(&[&base[..], &["--manager", &nodes[0].address], more].concat())
    };
    // Given a worker that was promoted and cannot be reached.
    join(&at("w1"), &["--name", "w1", "--advertise", &closed]).exits(0);
    let mut worker = Node::of(place.path().join("w1"));
    worker.run();
    on(&nodes[0], &["node", "promote", "w1", "--wait", "3s"]).exits(4).complains(&["w1", "is recorded and not done"]);
    eventually("why it waits", || {
        let shown = on(&nodes[0], &["node", "inspect", "w1"]).exits(0).stdout;
        (shown.contains("waits: n1 could not reach this node") && shown.contains("--advertise")).then_some(())
    });
    on(&nodes[0], &["node", "demote", "w1"]).exits(0);
    // When its disk is gone: its name is taken, and taken over only on request, with the right token.
    worker.kill();
    join(&at("new"), &["--name", "w1"]).exits(1).complains(&["w1", "taken", "join --replace --name"]);
    eventually("it is down", || {
        let node = on(&nodes[0], &["node", "inspect", "w1", "--json"]).exits(0).json();
        (node["state"] == "down").then_some(())
    });
    let replace = ["join", "--data-dir", &at("new"), "--replace", "--name", "w1", "--manager", &nodes[0].address];
    quorate(&replace).exits(2).complains(&["--token"]);
    let said = join(&at("new"), &["--replace", "--name", "w1"]).exits(0).stdout;
    assert!(said.contains("took the place of w1") && said.contains("quorate run --data-dir"), "{said}");
    let mut again = Node::of(place.path().join("new"));
    again.run();
    assert!(again.ready.contains("w1"), "{}", again.ready);
    let list = on(&nodes[0], &["node", "ls", "--json"]).exits(0).json();
    assert_eq!(list["nodes"].as_array().unwrap().len(), 2);
    // Then the old disk is refused: exit code 14.
    worker.start(&["run"]);
    assert_eq!(worker.ends(), Some(14));
}

#[test]
fn the_policy_is_shown_and_set_and_wrong_settings_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let policy = |arguments: &[&str]| on(&nodes[0], &[&["policy"], arguments].concat());
    let shown = policy(&["show"]).exits(0).stdout;
    let settings: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    for setting in [
        ["max-voters", "5"],
        ["lost-after", "30s"],
        ["promote-after", "5m"],
        ["stable", "2s"],
        ["auto-replace", "on"],
        ["store-quota", "8GiB"],
        ["history-revisions", "100000"],
        ["history", "1h"],
    ] {
        assert!(settings.contains(&setting.to_vec()), "{setting:?}: {shown}");
    }
    assert!(shown.contains("tick 20ms, base election timeout 400ms"), "{shown}");
    let set =
        policy(&["set", "--lost-after", "5s", "--auto-replace", "off", "--max-voters", "7", "--json"]).exits(0).json();
    assert_eq!((set["lost_after_ms"].as_u64(), set["auto_replace"].as_bool()), (Some(5_000), Some(false)));
    assert_eq!((set["max_voters"].as_u64(), set["timing"].as_str()), (Some(7), Some("lan")));
    let said = policy(&["set", "--max-voters", "4", "--json"]).exits(1).complains(&["3, 5, 7 or 9"]).json();
    assert_eq!(said["rule"], "even_max_voters");
    let said = policy(&["set", "--timing", "wan", "--json"]).exits(1).complains(&["--lost-after 30s"]).json();
    assert_eq!(said["rule"], "times_do_not_fit");
    let set = policy(&["set", "--timing", "wan", "--lost-after", "1m"]).exits(0).stdout;
    assert!(set.contains("tick 150ms, base election timeout 3s"), "{set}");
    assert_eq!(policy(&["set", "--timing", "50ms", "--json"]).exits(0).json()["timing"], "custom");
    policy(&["set", "--timing", "fast"]).exits(2).complains(&["lan, wan"]);
    policy(&["set"]).exits(2).complains(&["--max-voters"]);
    on(&nodes[0], &["kv", "put", "k", "v"]).exits(0);
}
