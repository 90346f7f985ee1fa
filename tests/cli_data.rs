//! Keys and values out of a store and into another one, also from etcd; completions and man pages.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use cli_support::{Node, eventually, full, on, quorate, quorate_into, quorate_with_stdin};

fn lone(place: &Path, name: &str) -> Node {
    let mut node = Node::init(place, name);
    node.run();
    node
}

fn revision(node: &Node) -> u64 {
    on(node, &["kv", "ls", "--count", "--json"]).exits(0).json()["revision"].as_u64().unwrap()
}

#[test]
fn what_is_exported_is_imported_elsewhere_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let from = lone(place.path(), "n1");
    // Given a store with text, bytes, an empty value and more keys than a page, a transaction's worth or a batch hold
    let mut lines = String::new();
    for n in 0..2_500 {
        writeln!(lines, "{{\"key\":\"many/{n:05}\",\"value\":\"value {n}\"}}").unwrap();
    }
    let said = quorate_with_stdin(&["kv", "import", "-", "--json", "--data-dir", from.dir()], lines.as_bytes());
    assert_eq!(said.exits(0).json()["written"], 2_500);
    quorate_with_stdin(&["kv", "put", "app/binary", "-", "--data-dir", from.dir()], b"\xff\x00\n").exits(0);
    on(&from, &["kv", "put", "app/empty", ""]).exits(0);
    on(&from, &["kv", "put", "app/grüße", "äöü"]).exits(0);
    quorate_with_stdin(&["kv", "put", "app/big", "-", "--data-dir", from.dir()], &vec![b'x'; 1 << 20]).exits(0);
    // When it is exported
    let file = place.path().join("store.jsonl");
    let path = file.to_str().unwrap();
    let told = on(&from, &["kv", "export", "--output", path, "--json"]).exits(0).json();
    assert_eq!((told["exported"].as_u64(), told["revision"].as_u64()), (Some(2_504), Some(revision(&from))));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "values are nobody else's");
    let exported = std::fs::read_to_string(&file).unwrap();
    assert_eq!(on(&from, &["kv", "export"]).exits(0).stdout, exported, "to stdout it is the same");
    // Then a dry run writes nothing and says what it would
    let to = lone(place.path(), "n2");
    let before = revision(&to);
    let dry = on(&to, &["kv", "import", path, "--dry-run", "--json"]).exits(0).json();
    assert_eq!((dry["keys"].as_u64(), dry["written"].as_u64(), revision(&to)), (Some(2_504), Some(2_504), before));
    // And an import brings all of it, and once more changes nothing
    assert_eq!(on(&to, &["kv", "import", path, "--json"]).exits(0).json()["written"], 2_504);
    let after = revision(&to);
    let again = on(&to, &["kv", "import", path, "--json"]).exits(0).json();
    assert_eq!((again["written"].as_u64(), again["unchanged"].as_u64()), (Some(0), Some(2_504)));
    assert_eq!(revision(&to), after, "what has its value is not written again");
    let body = |exported: &str| exported.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(body(&on(&to, &["kv", "export"]).exits(0).stdout), body(&exported));
    // And one that was cut off goes on: a key that is missing and one that is different are all that is written
    on(&to, &["kv", "del", "many/00042"]).exits(0);
    on(&to, &["kv", "put", "many/00043", "other"]).exits(0);
    let kept = on(&to, &["kv", "import", path, "--json", "--keep"]).exits(0).json();
    assert_eq!(
        (kept["written"].as_u64(), kept["kept"].as_u64(), kept["overwritten"].as_u64()),
        (Some(1), Some(1), Some(0))
    );
    assert_eq!(on(&to, &["kv", "get", "many/00043"]).exits(0).stdout, "other");
    let went_on = on(&to, &["kv", "import", path]).exits(0).stdout;
    assert!(went_on.contains("1 overwritten, 2503 unchanged"), "{went_on}");
    assert_eq!(on(&to, &["kv", "get", "many/00043"]).exits(0).stdout, "value 43");
}

#[test]
fn an_import_that_loses_its_manager_goes_on_with_the_same_command() {
    let place = tempfile::tempdir().unwrap();
    let mut node = lone(place.path(), "n1");
    let many = 40_000;
    let file = place.path().join("many.jsonl");
    let lines: String = (0..many).map(|n| format!("{{\"key\":\"k{n:06}\",\"value\":\"v\"}}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    let import = ["kv", "import", file.to_str().unwrap(), "--json", "--timeout", "2s", "--data-dir", node.dir()];
    let import: Vec<String> = import.into_iter().map(str::to_owned).collect();
    // Given an import in the middle of its work
    let child = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(&import)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = |node: &Node| on(node, &["kv", "ls", "--count", "--json"]).exits(0).json()["count"].as_u64().unwrap();
    eventually("some are written", || (count(&node) > 0).then_some(()));
    // When the manager dies
    node.kill();
    let ended = child.wait_with_output().unwrap();
    // Then it says how far it came, and what to do
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(matches!(ended.status.code(), Some(3 | 4)), "{:?}: {told}", ended.status);
    assert!(told.contains("run the same command again"), "{told}");
    let document: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let written = document["written"].as_u64().unwrap();
    assert!(written < many, "{document}");
    // And the same command does the rest, and only the rest
    node.run();
    let there = count(&node);
    assert!(there >= written, "what was told as written is there: {there} of {written}");
    let arguments: Vec<&str> = import.iter().map(String::as_str).collect();
    let rest = quorate(&arguments).exits(0).json();
    assert_eq!((rest["unchanged"].as_u64(), rest["written"].as_u64()), (Some(there), Some(many - there)));
    assert_eq!(count(&node), many);
}

#[test]
fn nothing_is_written_of_an_input_that_cannot_be_imported_whole() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path(), "n1");
    let before = revision(&node);
    let import =
        |input: &str| quorate_with_stdin(&["kv", "import", "-", "--data-dir", node.dir()], input.as_bytes()).exits(1);
    let good = "{\"key\":\"a\",\"value\":\"1\"}\n";
    let long = "k".repeat(4_097);
    let large = "v".repeat((1 << 20) + 1);
    import(&format!("{good}{{\"key\":\"{long}\",\"value\":\"\"}}")).complains(&[
        "KEY_BYTES_MAX",
        "4097",
        "Nothing was written",
    ]);
    import(&format!("{good}{{\"key\":\"b\",\"value\":\"{large}\"}}")).complains(&["VALUE_BYTES_MAX", "1048577", "`b`"]);
    import(&format!("{good}{{\"key\":\"\",\"value\":\"\"}}")).complains(&["a key is empty"]);
    import(&format!("{good}nonsense")).complains(&[
        "not what an export or etcdctl writes",
        "line 2",
        "Nothing was written",
    ]);
    let cut = on(&node, &["kv", "export"]).exits(0).stdout.lines().next().unwrap().to_owned();
    import(&format!("{cut}\n{good}")).complains(&["the export was cut off", "Nothing was written"]);
    import("").complains(&["there is no key in it", "--allow-empty", "Nothing was written"]);
    // What is too long only under the prefix, too: the good key before it is not written
    let nearly = "k".repeat(4_090);
    let under = ["kv", "import", "-", "--under", "etcd-long/", "--data-dir", node.dir()];
    let input = format!("{good}{{\"key\":\"{nearly}\",\"value\":\"\"}}");
    let refused = quorate_with_stdin(&under, input.as_bytes()).exits(1);
    refused.complains(&["KEY_BYTES_MAX", "4100 bytes with the 10 of --under", "Nothing was written"]);
    assert_eq!(revision(&node), before);
    quorate_with_stdin(&["kv", "import", "-", "--allow-empty", "--data-dir", node.dir()], b"").exits(0);
    // At the limit it is taken
    let most = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", "k".repeat(4_096), "v".repeat(1 << 20));
    quorate_with_stdin(&["kv", "import", "-", "--data-dir", node.dir()], most.as_bytes()).exits(0);
    on(&node, &["kv", "import", "/no/such/file"]).exits(2).complains(&["/no/such/file"]);
    let directory = place.path().to_str().unwrap();
    on(&node, &["kv", "import", directory]).exits(2).complains(&["cannot be read", "directory", "Nothing was written"]);
    // What is no file is not replaced by one
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let socket = place.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for to in [place.path(), &link, &socket] {
        let export = ["kv", "export", "--output", to.to_str().unwrap()];
        on(&node, &export).exits(2).complains(&["is no file", "Nothing was read"]);
        assert!(!to.symlink_metadata().unwrap().is_file(), "{to:?}");
    }
    // nor is a file that is there, unless that is said; and what a cut off one has left is no file that is there.
    let (file, left) = (file.to_str().unwrap(), place.path().join("file.part"));
    std::fs::write(file, "precious").unwrap();
    std::fs::write(&left, "{").unwrap();
    let export = ["kv", "export", "--output", file];
    on(&node, &export).exits(1).complains(&[file, "is there already", "left as it is", "--force"]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
    on(&node, &[&export[..], &["--force"]].concat()).exits(0);
    assert!(std::fs::read_to_string(file).unwrap().contains("\"quorate_export\""));
    assert!(!left.exists());
    on(&node, &["kv", "export", "--force"]).exits(2);
    // An export is JSON lines, whether they are asked for or not
    let plain = on(&node, &["kv", "export"]).exits(0).stdout;
    assert_eq!(on(&node, &["kv", "export", "--json"]).exits(0).stdout, plain);
}

#[test]
fn a_write_whose_answer_cannot_be_written_is_said_to_be_done() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path(), "n1");
    // When there is no room for the answer
    let put = quorate_into(&["kv", "put", "k", "v", "--data-dir", node.dir()], full());
    // Then it says that the write is done, which it is
    put.exits(4).complains(&["what was asked for is done", "instead of asking"]);
    assert_eq!(on(&node, &["kv", "get", "k"]).exits(0).stdout, "v");
    // And of what is only read, that it cannot be shown
    let get = quorate_into(&["kv", "get", "k", "--data-dir", node.dir()], full()).exits(1);
    assert!(get.stderr.contains("cannot be written to stdout") && !get.stderr.contains("is done"), "{get:?}");
}

#[test]
fn a_dry_run_asks_no_more_often_than_an_import() {
    let place = tempfile::tempdir().unwrap();
    let mut node = Node::init(place.path(), "n1");
    node.run_with(&["run", "--http", "127.0.0.1:0", "--json"]);
    let ready: serde_json::Value = serde_json::from_str(&node.ready).unwrap();
    let http = ready["ready"]["http"].as_str().unwrap().to_owned();
    let asked = || cli_support::metric_sum(&http, "quorate_requests_total");
    // Given 840 keys, of which half are there, with values that one answer has no room for
    let value = "v".repeat(200_000);
    let line = |n: u32, value: &str| format!("{{\"key\":\"k{n:04}\",\"value\":\"{value}\"}}\n");
    let large: String = (0..60).map(|n| line(n, &value)).collect();
    let half: String = (60..420).map(|n| line(n, "small")).collect();
    let import = |input: &str, more: &[&str]| {
        let words = [&["kv", "import", "-", "--json", "--data-dir", node.dir()][..], more].concat();
        quorate_with_stdin(&words, input.as_bytes()).exits(0).json()
    };
    import(&(large + &half), &[]);
    let input: String = (0..840).map(|n| line(n, "new")).collect();
    let before = asked();
    let dry = import(&input, &["--dry-run"]);
    let cost = asked() - before;
    // Then a dry run says exactly what there is, in a request for each 42 keys, and one for each that has no room
    assert_eq!((dry["written"].as_u64(), dry["overwritten"].as_u64()), (Some(420), Some(420)), "{dry}");
    assert!(cost <= 20 + 60 + 5, "{cost} requests for 840 keys");
    let kept = import(&input, &["--dry-run", "--keep"]);
    assert_eq!((kept["written"].as_u64(), kept["kept"].as_u64()), (Some(420), Some(420)), "{kept}");
    // And what is to be kept is kept, also where an answer has no room to tell of it
    let kept = import(&input, &["--keep"]);
    assert_eq!((kept["written"].as_u64(), kept["kept"].as_u64()), (Some(420), Some(420)), "{kept}");
    assert_eq!(on(&node, &["kv", "get", "k0059"]).exits(0).stdout, value);
    assert_eq!(on(&node, &["kv", "get", "k0419"]).exits(0).stdout, "small");
    assert_eq!(on(&node, &["kv", "get", "k0839"]).exits(0).stdout, "new");
}

#[test]
fn more_keys_than_may_go_at_once_go_in_parts() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path(), "n1");
    // Given more keys below a prefix than one revision may remove, some of them large, and others beside them
    let many = 10_500;
    let mut lines: String = (0..many).map(|n| format!("{{\"key\":\"many/{n:06}\",\"value\":\"v\"}}\n")).collect();
    let large = "v".repeat(1 << 20);
    for n in 0..70 {
        writeln!(lines, "{{\"key\":\"many/large/{n:02}\",\"value\":\"{large}\"}}").unwrap();
    }
    writeln!(lines, "{{\"key\":\"many0\",\"value\":\"stays\"}}").unwrap();
    quorate_with_stdin(&["kv", "import", "-", "--data-dir", node.dir()], lines.as_bytes()).exits(0);
    let count = || on(&node, &["kv", "ls", "--count", "--json"]).exits(0).json()["count"].as_u64().unwrap();
    let all = many + 70;
    // When they are to go at once, then none goes, and the way is named
    let refused = on(&node, &["kv", "del", "--prefix", "many/", "--json"]).exits(1);
    assert_eq!(refused.json()["limit"]["name"], "DELETE_KEYS_MAX");
    refused.complains(&["Nothing was removed", "--in-parts"]);
    assert_eq!(count(), all + 1);
    // And in parts all of them go, and no other
    let gone = on(&node, &["kv", "del", "--prefix", "many/", "--in-parts", "--json"]).exits(0).json();
    assert_eq!(gone["deleted"].as_u64(), Some(all), "{gone}");
    assert!(gone["parts"].as_u64().unwrap() > 5, "{gone}");
    assert_eq!(gone["revision"].as_u64(), Some(revision(&node)));
    assert_eq!((count(), on(&node, &["kv", "get", "many0"]).exits(0).stdout.as_str()), (1, "stays"));
    // Once more there is nothing to do
    let none = on(&node, &["kv", "del", "--prefix", "many/", "--in-parts"]).exits(0).stdout;
    assert!(none.starts_with("0 keys deleted in 0 parts"), "{none}");
    on(&node, &["kv", "del", "k", "--in-parts"]).exits(2);
}

/// Printed by `etcdctl get "" --prefix -w json` of etcd 3.4.23, after puts of text, bytes, an empty value and a leased key.
const ETCD: &str = "tests/fixtures/etcdctl-get.json";

#[test]
fn what_etcdctl_prints_is_imported() {
    let place = tempfile::tempdir().unwrap();
    let node = lone(place.path(), "n1");
    let printed = Path::new(env!("CARGO_MANIFEST_DIR")).join(ETCD);
    let told = on(&node, &["kv", "import", printed.to_str().unwrap(), "--under", "etcd/", "--json"]).exits(0).json();
    assert_eq!((told["keys"].as_u64(), told["written"].as_u64()), (Some(5), Some(5)));
    for (key, value) in [
        ("etcd/app/config", &b"hello two"[..]),
        ("etcd/app/binary", b"\xff\x00\x01"),
        ("etcd/app/empty", b""),
        ("etcd/app/leased", b"x"),
        ("etcd/grüße", "äöü".as_bytes()),
    ] {
        assert_eq!(on(&node, &["kv", "get", key]).exits(0).bytes, value, "{key}");
    }
    // What has no values is taken for a list of keys
    let keys_only = "{\"header\":{},\"kvs\":[{\"key\":\"YQ==\"},{\"key\":\"Yg==\"}],\"count\":2}";
    let import = ["kv", "import", "-", "--data-dir", node.dir()];
    quorate_with_stdin(&import, keys_only.as_bytes()).exits(1).complains(&["--keys-only", "--empty-values"]);
    quorate_with_stdin(&[&import[..], &["--empty-values"]].concat(), keys_only.as_bytes()).exits(0);
    // And a part is said to be one
    let part = "{\"header\":{},\"kvs\":[{\"key\":\"Yw==\",\"value\":\"MQ==\"}],\"more\":true,\"count\":4}";
    quorate_with_stdin(&import, part.as_bytes()).exits(0).complains(&["there is more"]);
}

#[test]
fn shells_and_man_know_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = quorate(&["completions", shell]).exits(0).stdout;
        for word in ["export", "promote", "data-dir", "force-new-cluster"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    quorate(&["completions", "tcsh"]).exits(2);
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("man1");
    let told = quorate(&["man", directory.to_str().unwrap(), "--json"]).exits(0).json();
    let pages: Vec<&str> = told["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap()).collect();
    for page in ["quorate.1", "quorate-run.1", "quorate-kv-import.1", "quorate-node-promote.1"] {
        assert!(pages.contains(&page), "{page} is not among {pages:?}");
    }
    let page = std::fs::read_to_string(directory.join("quorate-kv-get.1")).unwrap();
    for word in [".TH quorate-kv-get 1", "Example", "serializable"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    quorate(&["man", "/proc/no/such"]).exits(1).complains(&["man pages"]);
}
