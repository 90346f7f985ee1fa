//! `kv watch` and `kv txn` as a script meets them.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use cli_support::{Beside, Node, on, quorate, quorate_with_stdin};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_transaction_does_one_thing_or_the_other() {
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let txn = |words: &[&str]| on(&node, &[&["kv", "txn"], words].concat());
    // Given a lock that nobody has
    let said = txn(&["--if", "absent lock", "--then", "put lock 'me and you'", "--then", "put log/1 taken"]).exits(0);
    assert!(said.stdout.starts_with("revision "), "{said:?}");
    assert_eq!(on(&node, &["kv", "get", "lock"]).exits(0).stdout, "me and you");
    // Whoever comes second is told so, and what is there
    let second = ["--if", "absent lock", "--then", "put lock other", "--else", "get lock"];
    let said = txn(&second).exits(1).complains(&["do not hold", "--else operations were done"]);
    assert!(said.stdout.contains("lock me and you"), "{said:?}");
    let said = txn(&[&second[..], &["--json"]].concat()).exits(1).json();
    assert_eq!((&said["succeeded"], &said["results"][0][0]["value"]), (&json!(false), &json!("me and you")));
    assert_eq!(said["error"]["outcome"], "not_done", "what is done otherwise only reads: {said}");
    // And a branch that writes is not said to be undone
    let count = ["--if", "absent lock", "--then", "put lock other", "--else", "put log/2 refused", "--json"];
    let said = txn(&count).exits(1).json();
    assert_eq!((&said["error"]["kind"], &said["error"]["outcome"]), (&json!("mismatch"), &json!("done")), "{said}");
    assert_eq!(on(&node, &["kv", "get", "log/2"]).exits(0).stdout, "refused");
    let said = txn(&["--if", "absent lock", "--then", "put lock other", "--json"]).exits(1).json();
    assert_eq!((&said["error"]["outcome"], &said["results"]), (&json!("not_done"), &json!([])), "{said}");
    txn(&["--if", "value lock != me", "--if", "version lock < 2", "--then", "del lock"]).exits(0);
    txn(&["--if", "exists lock", "--then", "put a b"]).exits(1).complains(&["nothing was done"]);
    // From a file
    let file = b"# both or none\nif\nabsent a\nthen\nput a 1\nput \"b c\" 'two words'\nelse\nget-prefix a\n";
    let arguments = ["kv", "txn", "--file", "-", "--json", "--data-dir", node.dir()];
    assert_eq!(quorate_with_stdin(&arguments, file).exits(0).json()["succeeded"], true);
    assert_eq!(on(&node, &["kv", "get", "b c"]).exits(0).stdout, "two words");
    // And what cannot be read is not sent
    txn(&["--then", "put a"]).exits(2).complains(&["put KEY TEXT", "Nothing was sent"]);
    txn(&[]).exits(2);
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_watch_prints_what_becomes_of_keys() {
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    node.run();
    let revision = |said: cli_support::Said| said.exits(0).json()["revision"].as_u64().unwrap();
    let first = revision(on(&node, &["kv", "put", "app/a", "one", "--json"]));
    on(&node, &["kv", "put", "other", "x"]).exits(0);
    on(&node, &["kv", "put", "app/b", "two\nlines"]).exits(0);
    on(&node, &["kv", "txn", "--then", "put app/a three", "--then", "del app/b"]).exits(0);
    let from = first.to_string();
    let watch = |words: &[&str]| on(&node, &[&["kv", "watch", "--from-revision", &from], words].concat());
    // Of all keys
    let all = watch(&["--prefix", "", "--count", "1"]).exits(0);
    assert_eq!(all.stdout, format!("{first} put app/a one\n"));
    // Past changes, as many as asked for
    let said = watch(&["--prefix", "app/", "--count", "3"]).exits(0);
    let expected = format!(
        "{first} put app/a one\n{} put app/b two\\nlines\n{} put app/a three\n{} delete app/b\n",
        first + 2,
        first + 3,
        first + 3
    );
    assert_eq!(said.stdout, expected);
    // For scripts: one document a revision
    let said = watch(&["--prefix", "app/", "--count", "3", "--previous", "--json"]).exits(0);
    let documents = lines(&said.stdout);
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[2]["revision"], first + 3);
    let changes = &documents[2]["changes"];
    assert_eq!((&changes[0]["type"], &changes[0]["value"]), (&json!("put"), &json!("three")));
    assert_eq!((&changes[1]["type"], &changes[1]["key"]), (&json!("delete"), &json!("app/b")));
    assert_eq!(changes[0]["previous"]["value"], "one");
    assert_eq!(changes[1]["previous"]["value"], "two\nlines");
    assert_eq!(documents[0]["changes"][0]["previous"], Value::Null);
    // One key, removals, and from elsewhere
    let from_elsewhere = ["--connect", &node.address, "--identity", &node.operator()];
    let words = ["kv", "watch", "app/b", "--from-revision", &from, "--deletes-only", "--count", "1", "--json"];
    let said = quorate(&[&words[..], &from_elsewhere].concat()).exits(0);
    assert_eq!(lines(&said.stdout)[0]["changes"][0]["type"], "delete");
    // It ends by itself after a time, and tells how far it is
    let said = watch(&["app/none", "--bookmarks", "--for", "500ms"]).exits(0);
    assert_eq!(said.stdout, format!("{} bookmark\n", first + 3));
    // From the future, it says what it waits for
    let waits = ["kv", "watch", "app/a", "--from-revision", "999999", "--for", "300ms"];
    on(&node, &waits).exits(0).complains(&["999999 is not reached yet", &format!("the newest is {}", first + 3)]);
    // That it is told to stop is no failure
    for signal in ["INT", "TERM"] {
        let mut beside =
            Beside::start(&["kv", "watch", "--prefix", "", "--from-revision", &from, "--data-dir", node.dir()]);
        beside.says();
        beside.signal(signal);
        assert_eq!(beside.ends(), Some(0), "{signal}");
    }
    // And what makes no sense is usage
    on(&node, &["kv", "watch"]).exits(2);
    on(&node, &["kv", "watch", ""]).exits(2).complains(&["empty"]);
    on(&node, &["kv", "watch", "a", "--prefix", "b"]).exits(2);
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn a_watch_without_a_quorum_says_so_at_once() {
    // Given one manager of three that runs
    let place = tempfile::tempdir().unwrap();
    let mut nodes = cli_support::managers(place.path(), 3);
    nodes[1].kill();
    nodes[2].kill();
    cli_support::eventually("the quorum is lost", || (nodes[0].status()["health"] == "quorum_lost").then_some(()));
    // When a watch of the present is asked for, then it is told long before what it might have waited
    let began = std::time::Instant::now();
    let said = on(&nodes[0], &["kv", "watch", "k", "--timeout", "1h", "--for", "1h"]).exits(3);
    said.complains(&["voters"]);
    assert!(began.elapsed() < cli_support::PATIENCE);
}
