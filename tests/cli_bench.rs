//! `quorate bench` against real managers: what it says must be what was done.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::process::Stdio;

use cli_support::{Node, Said, managers, on, quorate};
use serde_json::Value;

/// A load over the network, with the operator's identity.
fn bench(nodes: &[Node], arguments: &[&str]) -> Said {
    let addresses: Vec<&str> = nodes.iter().map(|node| node.address.as_str()).collect();
    let operator = nodes[0].operator();
    let to = ["--warm-up", "0", "--connect", &addresses.join(","), "--identity", &operator];
    quorate(&[&["bench"], arguments, &to].concat())
}

/// Keys below a prefix, as a manager counts them, and the store's revision.
fn keys(node: &Node, prefix: &str) -> (u64, u64) {
    let said = on(node, &["kv", "ls", "--prefix", prefix, "--count", "--json"]).exits(0).json();
    (said["count"].as_u64().unwrap(), said["revision"].as_u64().unwrap())
}

fn quantiles_rise(latency: &Value) {
    let at = |name: &str| latency[name].as_f64().unwrap();
    let rising = ["p50", "p90", "p99", "p99.9", "max"].map(at);
    assert!(rising.is_sorted() && rising[0] > 0.0 && at("average") > 0.0, "{latency}");
}

#[test]
fn one_request_is_one_put_and_all_of_them_are_done() {
    // Given three managers
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    let (_, before) = keys(&nodes[0], "mine/");

    // When 20 clients on 4 connections put 500 values over 50 keys, one of which is not there before
    let shape = ["--clients", "20", "--conns", "4", "--total", "500", "--key-space-size", "50", "--prefix", "mine/"];
    let said = bench(&nodes, &[&["put"], &shape[..], &["--val-size", "100", "--json"]].concat()).exits(0);

    // Then the store has 501 revisions more (one put shows beforehand that it works), below the prefix and nowhere else
    let figures = said.json();
    assert_eq!((&figures["requests"], &figures["failed"]["refused"]), (&500.into(), &0.into()), "{figures}");
    assert_eq!((&figures["asked"]["connections"], &figures["asked"]["managers"]), (&4.into(), &3.into()), "{figures}");
    assert!(figures["rate"].as_f64().unwrap() > 0.0, "{figures}");
    quantiles_rise(&figures["latency_us"]);
    said.complains(&["`mine/`", "quorate kv del --prefix mine/"]);
    let (count, after) = keys(&nodes[0], "mine/");
    assert!((40..=50).contains(&count), "{count} of 50 keys were drawn in 501 draws");
    assert_eq!(after - before, 501);
    assert_eq!(keys(&nodes[0], "").0, count);
    let value = on(&nodes[0], &["kv", "ls", "--prefix", "mine/", "--limit", "1", "--json"]).exits(0).json();
    let entry = &value["entries"][0];
    assert!(entry["key"].as_str().unwrap().len() == "mine/".len() + 8, "{entry}");
}

#[test]
fn what_is_read_was_written_before_and_reads_write_nothing() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let shape = ["--clients", "5", "--total", "300", "--key-space-size", "30", "--json"];

    // When keys are read that are not there
    let first = bench(&nodes, &[&["get", "--consistency", "l"], &shape[..]].concat()).exits(0).json();
    // Then they are written before, in a few transactions, and all 300 reads find theirs
    assert_eq!((&first["requests"], &first["asked"]["filled"]), (&300.into(), &30.into()), "{first}");
    let (count, revision) = keys(&nodes[0], "bench/");
    assert_eq!(count, 30);

    // And serializable reads find them, and nothing is written any more
    let again = bench(&nodes, &[&["get", "--consistency", "s"], &shape[..]].concat()).exits(0).json();
    assert_eq!((&again["requests"], &again["asked"]["filled"]), (&300.into(), &0.into()), "{again}");
    assert_eq!(keys(&nodes[0], "bench/"), (30, revision));

    // And a mixed load writes as often as it says
    let mixed = bench(&nodes, &[&["txn", "--rw-ratio", "4"], &shape[..]].concat()).exits(0).json();
    let [reads, writes] = [0, 1].map(|kind| mixed["kinds"][kind]["requests"].as_u64().unwrap());
    assert!(reads + writes == 300 && writes > 20 && reads > 150, "{mixed}");
    let (_, after) = keys(&nodes[0], "bench/");
    let tried = after - revision - writes;
    assert!(tried <= 1, "{tried} writes beside the one request that shows that it works");
}

#[test]
fn what_is_read_is_all_there_also_where_other_keys_were_before() {
    // Given as many keys below the prefix as are to be read, of another shape
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    for number in 0..3 {
        on(&nodes[0], &["kv", "put", &format!("mine/other{number}"), "x"]).exits(0);
    }
    // When they are read, then each key is found: what was missing was written before
    let shape = ["--clients", "2", "--total", "20", "--key-space-size", "3", "--prefix", "mine/", "--json"];
    let figures = bench(&nodes, &[&["get"], &shape[..]].concat()).exits(0).json();
    assert_eq!(figures["requests"], 20, "{figures}");
    assert_eq!(keys(&nodes[0], "mine/").0, 6);
}

#[test]
fn a_page_for_people_names_the_quantiles_and_no_more() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let said = bench(&nodes, &["put", "--clients", "2", "--total", "30", "--rate", "100"]).exits(0);
    for word in ["2 clients on 1 connection to 1 manager", "rate ", "30 requests answered", "P99.9", "MAX"] {
        assert!(said.stdout.contains(word), "`{word}` is not in {said:?}");
    }
    assert!(!said.stdout.contains("FAILED"), "{said:?}");
}

#[test]
fn a_load_goes_over_the_network_only_and_says_what_it_needs() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    quorate(&["bench", "put", "--data-dir", directory]).exits(2).complains(&["--connect", "--identity"]);
    quorate(&["bench", "put"]).exits(2).complains(&["--connect"]);
    quorate(&["bench"]).exits(2);
    let to = ["--connect", "127.0.0.1:1", "--identity", "none"];
    quorate(&[&["bench", "put", "--conns", "3"], &to[..]].concat()).exits(2).complains(&["--conns", "--clients"]);
    quorate(&[&["bench", "get", "--key-size", "2", "--key-space-size", "101"], &to[..]].concat())
        .exits(2)
        .complains(&["--key-size 3"]);
}

#[test]
fn requests_without_an_answer_are_counted_and_make_it_fail() {
    // Given a manager under load
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    let operator = nodes[0].operator();
    let load = ["bench", "put", "--clients", "4", "--total", "10000000", "--warm-up", "0", "--timeout", "1s", "--json"];
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args([&load[..], &["--connect", &nodes[0].address, "--identity", &operator]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let node = &nodes[0];
    cli_support::eventually("the load writes", || (keys(node, "bench/").0 > 100).then_some(()));

    // When the only manager is killed, and the load is told to end a while after its requests have run out of time
    nodes[0].kill();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let told = std::process::Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(told.unwrap().success());
    let output = child.wait_with_output().unwrap();

    // Then it says what was answered, and that the outcome of some is unknown, by exit code, too
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(4), "{figures}");
    assert!(figures["requests"].as_u64().unwrap() > 100, "{figures}");
    assert!(figures["failed"]["unknown"].as_u64().unwrap() > 0, "{figures}");
    let unknown = figures["errors"].as_array().unwrap().iter().find(|error| error["kind"] == "unknown").unwrap();
    assert_eq!(unknown["outcome"], "unknown");
    assert_eq!(figures["error"]["kind"], "requests_failed", "{figures}");
}

#[test]
fn a_put_counts_when_the_last_of_its_watches_was_told() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    let (_, before) = keys(&nodes[0], "");
    // When 40 watches over 4 connections wait for 60 puts, three at a time, of values too short for any mark
    let shape = ["--clients", "8", "--conns", "4", "--total", "60", "--key-space-size", "5", "--val-size", "0"];
    let said = bench(&nodes, &[&["watch", "--watchers", "40", "--json"], &shape[..]].concat()).exits(0);
    // Then each of them counts once, after all have been told, and each was one revision
    let figures = said.json();
    assert_eq!((&figures["requests"], &figures["kinds"][0]["name"]), (&60.into(), &"told".into()), "{figures}");
    quantiles_rise(&figures["latency_us"]);
    assert_eq!(keys(&nodes[0], "").1 - before, 61);
}

#[test]
fn renewals_write_nothing_and_the_leases_are_given_back() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let (_, before) = keys(&nodes[0], "");
    let said = bench(&nodes, &["lease", "--clients", "7", "--total", "100", "--ttl", "30s", "--json"]).exits(0);
    let figures = said.json();
    assert_eq!((&figures["requests"], &figures["kinds"][0]["name"]), (&100.into(), &"renewal".into()), "{figures}");
    quantiles_rise(&figures["latency_us"]);
    // No key was made, no revision, and no lease is left
    assert_eq!(keys(&nodes[0], ""), (0, before));
    let left = on(&nodes[0], &["lease", "list", "--json"]).exits(0).json();
    assert_eq!(left["leases"].as_array().map(Vec::len), Some(0), "{left}");
}
