//! What becomes of answers: those that nobody takes, those for scripts, of every command there is, and the help.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use cli_support::{
    Node, eventually, full, gone, managers, on, quorate, quorate_closed, quorate_into, quorate_with_env,
    quorate_with_stdin,
};
use serde_json::Value;

fn lone(place: &Path) -> Node {
    let mut node = Node::init(place, "n1");
    node.run();
    node
}

#[test]
fn a_listing_that_nobody_reads_to_its_end_ends_quietly() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path());
    on(&node, &["kv", "put", "k", "v"]).exits(0);
    for verb in [
        &["kv", "ls"][..],
        &["kv", "get", "k"],
        &["kv", "watch", "--prefix", "", "--from-revision", "1"],
        &["node", "ls"],
        &["status"],
        &["token", "show", "worker"],
        &["token", "ls"],
        &["completions", "bash"],
        &["policy", "show", "--json"],
        // What was done is done.
        &["kv", "put", "k", "w"],
        &["kv", "del", "k"],
    ] {
        let said = quorate_into(&[verb, &["--data-dir", node.dir()]].concat(), gone()).exits(0);
        assert_eq!(said.stderr.lines().filter(|line| line.starts_with("error")).count(), 0, "{verb:?}: {said:?}");
    }
}

#[test]
fn the_only_copy_of_something_is_not_lost_without_a_word() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path());
    on(&node, &["kv", "put", "k", "v"]).exits(0);
    let made = || {
        let listed = on(&node, &["token", "ls", "--json"]).exits(0).json()["tokens"].clone();
        let standing = |token: &&Value| token["standing"] != true && token["valid"] == true;
        let made =
            listed.as_array().unwrap().iter().filter(standing).map(|token| token["id"].as_str().unwrap().to_owned());
        made.collect::<BTreeSet<String>>()
    };
    // A key that nobody has is worth nothing, and nothing counts on it
    for key in
        [&["key", "new"][..], &["key", "new", "--json"], &["backup", "new-key"], &["backup", "new-key", "--json"]]
    {
        for stdout in [gone(), full()] {
            quorate_into(key, stdout).exits(1).complains(&["the key could not be written", "give the command again"]);
        }
        for said in [quorate_into(key, Stdio::null()), quorate_closed(key)] {
            said.exits(1).complains(&["nobody would see the key", "Nothing was done"]);
        }
    }
    // A token that nobody would have is not made, where that is known before
    let create = ["token", "create", "--role", "worker", "--data-dir", node.dir()];
    for said in [quorate_into(&create, Stdio::null()), quorate_closed(&create)] {
        said.exits(1).complains(&["nobody would see the token", "Nothing was done"]);
    }
    assert!(made().is_empty());
    // And where it was made, it is said what to do about it, which works
    for (stdout, more) in [(gone(), None), (full(), None), (gone(), Some("--json"))] {
        let words: Vec<&str> = create.into_iter().chain(more).collect();
        let said = quorate_into(&words, stdout).exits(4).complains(&["the token could not be written", "make another"]);
        let (_, command) = said.stderr.split_once("`quorate ").unwrap();
        let (command, _) = command.split_once('`').unwrap();
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(made(), BTreeSet::from([words[2].to_owned()]), "{said:?}");
        on(&node, &words).exits(0);
        assert!(made().is_empty());
    }
    // A part of an export is none
    for stdout in [gone(), full()] {
        let said = quorate_into(&["kv", "export", "--data-dir", node.dir()], stdout).exits(1);
        said.complains(&["the export could not be written", "The cluster was only read"]);
    }
    // (Into nothing, it is only tried.)
    quorate_into(&["kv", "export", "--data-dir", node.dir()], Stdio::null()).exits(0);
}

// ---- every command

/// The verbs below these words, as their help lists them.
fn verbs(words: &[String]) -> Vec<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).chain(["-h"]).collect();
    let help = quorate(&words).exits(0).stdout;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = listed.lines().take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").map(str::to_owned).collect()
}

/// Every command there is, by its words; one with further ones below it is among them where it does something by itself.
fn every_command() -> BTreeSet<String> {
    let (mut all, mut open) = (BTreeSet::new(), vec![Vec::new()]);
    while let Some(words) = open.pop() {
        let below = verbs(&words);
        if below.is_empty() || words == ["backup"] {
            all.insert(words.join(" "));
        }
        open.extend(below.into_iter().map(|verb| [&words[..], &[verb]].concat()));
    }
    all
}

/// What a command with `--json` may write to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// One document.
    One,
    /// As many as there are, a line each.
    Lines,
}

/// The words of a command, its arguments, where it goes, what it writes, and how it ends.
type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Writes, i32);

#[test]
fn with_json_every_command_writes_one_document_a_line_and_an_error_last() {
    use Writes::{Lines, One};
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path());
    let stopped = Node::init(place.path(), "stopped");
    let file = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(file("data"), "data").unwrap();
    let (operator, man, backup, key) = (file("ann.id"), file("man"), file("b.quorate"), file("backup.key"));
    std::fs::write(&key, quorate(&["backup", "new-key"]).exits(0).stdout).unwrap();
    let made = quorate(&["backup", "new-key", "--json"]).exits(0).json();
    let recipient = made["recipient"].as_str().unwrap().to_owned();
    let data = file("data");
    let lease = on(&node, &["lease", "grant", "--ttl", "1h"]).exits(0).stdout.trim().to_owned();
    let (here, there) = (["--data-dir", node.dir()], ["--data-dir", stopped.dir()]);
    let identity = node.operator();
    let network =
        ["--connect", node.address.as_str(), "--identity", identity.as_str(), "--warm-up", "0", "--total", "5"];
    let nowhere = ["--connect", "127.0.0.1:1", "--identity", identity.as_str(), "--timeout", "300ms"];
    let (none, restored) = ([].as_slice(), file("restored"));
    let new = ["--data-dir", restored.as_str()];
    let rows: &[Row<'_>] = &[
        ("init", &[], &there, One, 1),
        ("join", &["--token", "x", "--manager", "127.0.0.1:1"], &there, One, 1),
        ("run", &[], &here, Lines, 1),
        ("status", &[], &here, One, 0),
        ("kv put", &["k", "v"], &here, One, 0),
        ("kv get", &["k"], &here, One, 0),
        ("kv get", &["absent"], &here, One, 1),
        ("kv ls", &[], &here, One, 0),
        ("kv ls", &["--count"], &here, One, 0),
        ("kv cas", &["k", "w", "--expect-value", "v"], &here, One, 0),
        ("kv cas", &["k", "w", "--expect-absent"], &here, One, 1),
        ("kv txn", &["--then", "put k x"], &here, One, 0),
        ("kv txn", &["--if", "absent k", "--then", "put k x", "--else", "get k"], &here, One, 1),
        ("kv watch", &["--prefix", "", "--from-revision", "1", "--count", "2"], &here, Lines, 0),
        ("kv watch", &["k"], &nowhere, Lines, 3),
        ("kv export", &[], &here, Lines, 0),
        ("kv export", &["--output", "/no/such/place"], &here, One, 1),
        ("kv export", &[], &nowhere, Lines, 3),
        ("kv import", &[&data], &here, One, 1),
        ("kv import", &[&data, "--allow-empty"], &here, One, 1),
        ("kv del", &["--prefix", "many/", "--in-parts"], &here, One, 0),
        ("kv del", &["absent"], &here, One, 0),
        ("lease grant", &["--ttl", "1m"], &here, One, 0),
        ("lease list", &[], &here, One, 0),
        ("lease show", &[&lease], &here, One, 0),
        ("lease keep-alive", &[&lease, "--once"], &here, Lines, 0),
        ("lease keep-alive", &["4711"], &here, Lines, 1),
        ("lease revoke", &[&lease], &here, One, 0),
        // What is behind `--` writes to stdout; of `lock` itself is the error alone.
        ("lock", &["l", "--wait", "1ms", "--", "true"], &nowhere, One, 3),
        ("node ls", &[], &here, One, 0),
        ("node inspect", &["n1"], &here, One, 0),
        ("node promote", &["n1"], &here, One, 0),
        ("node demote", &["n1"], &here, One, 1),
        ("node update", &["n1", "--label-add", "zone=b"], &here, One, 0),
        ("node rm", &["nobody"], &here, One, 1),
        ("leave", &[], &here, One, 1),
        ("assign set", &["n1", "web.1", "text"], &here, One, 0),
        ("assign ls", &["n1"], &here, One, 0),
        ("assign rm", &["n1", "web.1"], &here, One, 0),
        ("assign rm", &["n1", "web.1"], &here, One, 0),
        ("ca status", &[], &here, One, 0),
        ("ca rotate", &["--wait", "1ms"], &here, One, 0),
        ("operator issue", &["--name", "ann", "--out", &operator], &here, One, 0),
        ("operator ls", &[], &here, One, 0),
        ("operator revoke", &["ann"], &here, One, 0),
        ("token show", &["worker"], &here, One, 0),
        ("token rotate", &["worker"], &here, One, 0),
        ("token create", &["--role", "worker"], &here, One, 0),
        ("token ls", &[], &here, One, 0),
        ("token revoke", &["abcdefgh"], &here, One, 1),
        ("config create", &["c", &data], &here, One, 0),
        ("config ls", &[], &here, One, 0),
        ("config inspect", &["c"], &here, One, 0),
        ("config update", &["c", "--label-add", "a=b"], &here, One, 0),
        ("config rm", &["c"], &here, One, 0),
        ("secret create", &["s", &data], &here, One, 0),
        ("secret ls", &[], &here, One, 0),
        ("secret inspect", &["s"], &here, One, 0),
        ("secret inspect", &["s", "--reveal"], &here, One, 0),
        ("secret update", &["s", "--label-add", "a=b"], &here, One, 0),
        ("secret rotate", &["s", &data], &here, One, 0),
        ("secret rm", &["s"], &here, One, 0),
        ("keyring show", &[], &here, One, 0),
        ("keyring rotate", &[], &here, One, 0),
        ("policy show", &[], &here, One, 0),
        ("policy set", &["--lost-after", "20s"], &here, One, 0),
        ("upgrade status", &[], &here, One, 0),
        ("upgrade finish", &[], &here, One, 0),
        ("leader transfer", &["--to", "n1"], &here, One, 0),
        ("inspect", &[], &there, One, 0),
        ("inspect", &["--configurations"], &there, One, 0),
        ("inspect", &["--dump"], &there, Lines, 0),
        ("inspect", &["--dump"], &here, Lines, 1),
        ("bench put", &["--key-space-size", "5"], &network, One, 0),
        ("bench get", &["--key-space-size", "5"], &network, One, 0),
        ("bench txn", &["--key-space-size", "5"], &network, One, 0),
        ("bench watch", &["--watchers", "2"], &network, One, 0),
        ("bench lease", &[], &network, One, 0),
        ("backup", &[&backup, "--recipient", &recipient], &here, One, 0),
        ("backup new-key", &[], none, One, 0),
        ("backup verify", &[&backup, "--backup-key", &key], none, One, 1),
        ("restore", &[&backup, "--backup-key", &key], &new, One, 1),
        ("recover", &["--dry-run"], &there, One, 0),
        ("recover", &["--dry-run"], &here, One, 1),
        ("key show", &[], &there, One, 0),
        ("key new", &[], none, One, 0),
        ("key rotate", &[], &there, One, 0),
        ("key move", &["/proc/none/here"], &there, One, 1),
        ("key passphrase", &[], &there, One, 2),
        ("autolock off", &[], &there, One, 1),
        ("autolock on", &[], &there, One, 0),
        ("unlock", &[], &here, One, 0),
        ("unlock-key show", &[], &here, One, 1),
        ("unlock-key rotate", &[], &here, One, 1),
        ("check", &[], &there, One, 1),
        ("completions", &["fish"], none, One, 0),
        ("man", &[&man], none, One, 0),
    ];
    for &(words, arguments, to, writes, exit) in rows {
        // Options before the words that end with a command of somebody else's
        let line: Vec<&str> = ["--json"].into_iter().chain(words.split(' ')).chain(arguments.iter().copied()).collect();
        let line = match line.iter().position(|word| *word == "--") {
            Some(end) => [&line[..end], to, &line[end..]].concat(),
            None => [&line[..], to].concat(),
        };
        let said = quorate(&line);
        assert_eq!(said.exit, Some(exit), "{line:?}: {said:?}");
        let documents: Vec<Value> = said
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{words}: {error}: {said:?}")))
            .collect();
        assert!(writes == Lines || documents.len() == 1, "{line:?}: {said:?}");
        let errors = documents.iter().filter(|document| document.get("error").is_some()).count();
        assert_eq!(errors, usize::from(exit != 0), "{line:?}: {said:?}");
        if exit != 0 {
            let error = &documents.last().unwrap()["error"];
            for field in ["kind", "message", "outcome"] {
                assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{line:?}: {error}");
            }
            assert!(error["retryable"].is_boolean(), "{line:?}: {error}");
            assert!(said.stderr.starts_with("error: ") || said.stderr.contains("\nerror: "), "{line:?}: {said:?}");
        }
    }
    // And that is all of them
    let tried: BTreeSet<String> = rows.iter().map(|(words, ..)| (*words).to_owned()).collect();
    let all = every_command();
    assert!(all.len() > 80, "{all:?}");
    assert_eq!(tried, all);
}

#[test]
fn what_is_no_text_is_told_exactly() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path());
    quorate_with_stdin(&["assign", "set", "n1", "bytes", "-", "--data-dir", node.dir()], b"\xff\x00").exits(0);
    on(&node, &["assign", "set", "n1", "text", "grüße"]).exits(0);
    let items = on(&node, &["assign", "ls", "n1", "--json"]).exits(0).json()["items"].clone();
    assert_eq!((&items[0]["payload_base64"], items[0].get("payload")), (&"/wA=".into(), None), "{items}");
    assert_eq!((&items[1]["payload"], &items[1]["status"]), (&"grüße".into(), &Value::Null), "{items}");
}

#[test]
fn what_stands_behind_two_hyphens_is_not_ours() {
    // Given a command that is run under a lock and has an option of its own that we have, too, and a mistake of ours
    let said = quorate(&["lock", "l", "--wait", "soon", "--", "true", "--json"]).exits(2);
    assert!(said.stdout.is_empty() && said.stderr.contains("`soon` is no time"), "{said:?}");
}

// ---- help

#[test]
fn no_example_is_broken_where_help_is_shown_or_printed_by_man() {
    let place = tempfile::tempdir().unwrap();
    let man = place.path().join("man1");
    quorate(&["man", man.to_str().unwrap()]).exits(0);
    let examples = |help: &str| -> Vec<String> {
        let (_, examples) = help.rsplit_once("Example:\n").unwrap_or_else(|| panic!("no example: {help}"));
        examples.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    };
    for words in every_command() {
        let line: Vec<&str> = words.split(' ').chain(["--help"]).collect();
        let [wide, narrow, narrower] = ["1000", "100", "80"]
            .map(|columns| examples(&quorate_with_env(&line, &[("COLUMNS", columns)]).exits(0).stdout));
        assert!(!wide.is_empty() && wide.iter().all(|line| line.starts_with("  ")), "{words}: {wide:?}");
        assert_eq!((&narrow, &narrower), (&wide, &wide), "{words}");
        assert!(!wide.iter().any(|line| line.contains('\u{a0}')), "{words}");
        // A man page: they stand between the signs that no line is filled or broken
        let page = std::fs::read_to_string(man.join(format!("quorate-{}.1", words.replace(' ', "-")))).unwrap();
        let (_, shown) = page.split_once("Example:\n.nf\n").unwrap_or_else(|| panic!("{words}: {page}"));
        let (shown, _) = shown.split_once(".fi\n").unwrap();
        assert_eq!(shown.lines().count(), wide.len(), "{words}: {shown}");
    }
}

#[test]
fn a_second_signal_stops_a_manager_at_once_and_says_so() {
    // Given a manager that leads, and that nobody can take the lead from: the others stand still
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    on(&nodes[0], &["kv", "put", "k", "v"]).exits(0);
    let mut told = false;
    for _ in 0..10 {
        eventually("n1 leads", || {
            on(&nodes[1], &["leader", "transfer", "--to", "n1"]);
            (nodes[1].status()["leader"] == "n1").then_some(())
        });
        for other in &nodes[1..] {
            signal(other, "STOP");
        }
        // When it is told to stop, and told again while it still tries to hand over
        signal(&nodes[0], "TERM");
        eventually("it stops", || nodes[0].log().contains("a second signal stops at once").then_some(()));
        signal(&nodes[0], "TERM");
        let exit = nodes[0].ends();
        for other in &nodes[1..] {
            signal(other, "CONT");
        }
        // Then it has stopped as asked
        assert_eq!(exit, Some(0));
        told = nodes[0].log().contains("came twice: stopping at once");
        nodes[0].run();
        if told {
            break;
        }
    }
    assert!(told, "it was never told twice in time");
    // And nothing is lost
    assert_eq!(on(&nodes[0], &["kv", "get", "k"]).exits(0).stdout, "v");
}

fn signal(node: &Node, name: &str) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &node.pid().to_string()]).status();
    assert!(sent.unwrap().success());
}
