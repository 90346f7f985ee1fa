//! What is sealed, by hand: a locked directory recovered with its key, stores run with keys from elsewhere, a backup under a
//! passphrase, and configs and secrets with their labels.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use cli_support::{Node, eventually, managers, on, quorate, quorate_with_stdin};

fn create(node: &Node, kind: &str, name: &str, data: &[u8]) {
    quorate_with_stdin(&[kind, "create", name, "-", "--data-dir", node.dir()], data).exits(0);
}

fn revealed(node: &Node, name: &str) -> String {
    on(node, &["secret", "inspect", name, "--reveal"]).stdout
}

#[test]
fn a_locked_directory_is_recovered_with_its_unlock_key_and_with_no_other() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    create(&nodes[0], "secret", "db", b"hunter2");
    let key = on(&nodes[0], &["autolock", "on"]).exits(0).stdout.lines().last().unwrap().to_owned();
    eventually("n1 has it", || (revealed(&nodes[0], "db") == "hunter2").then_some(()));
    // Given a survivor that is locked, when it is recovered without its key, or with another one, then nothing is changed
    for node in &mut nodes {
        node.kill();
    }
    let survivor = &mut nodes[0];
    let dry = |key: &str| {
        std::fs::write(place.path().join("unlock"), key).unwrap();
        place.path().join("unlock").to_str().unwrap().to_owned()
    };
    on(survivor, &["recover"]).exits(1).complains(&["the unlock key", "--unlock-key-file", "Nothing was changed"]);
    let other = quorate(&["key", "new"]).exits(0).stdout;
    on(survivor, &["recover", "--unlock-key-file", &dry(&other)]).exits(1).complains(&["another one"]);
    let with = dry(&key);
    let option = ["--unlock-key-file", with.as_str()];
    let before = on(survivor, &[&["inspect", "--json"], &option[..]].concat()).exits(0).json();
    assert_eq!(before["lineage"].as_array().unwrap().len(), 1);
    // With it, it is done, and the manager is locked as it was before
    on(survivor, &[&["recover"], &option[..]].concat()).exits(0);
    let after = on(survivor, &[&["inspect", "--json"], &option[..]].concat()).exits(0).json();
    assert_eq!(after["lineage"].as_array().unwrap().len(), 2);
    let _lines = survivor.start(&["run"]);
    eventually("it is locked", || (on(survivor, &["status", "--json"]).json()["health"] == "locked").then_some(()));
    quorate_with_stdin(&["unlock", "--data-dir", survivor.dir()], key.as_bytes()).exits(0);
    eventually("it serves, alone", || (revealed(survivor, "db") == "hunter2").then_some(()));
    assert_eq!(survivor.status()["voters"], 1);
}

#[test]
fn a_manager_runs_with_a_key_from_a_command_and_with_a_passphrase_from_a_file() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (service, path) = (at("service.key"), at("n1"));
    std::fs::write(&service, quorate(&["key", "new"]).exits(0).stdout).unwrap();
    let command = format!("cat {service}");
    let by_command = ["--key-command", &command];
    let init = ["init", "--data-dir", &path, "--listen", "127.0.0.1:0", "--name", "n1"];
    quorate(&[&init[..], &by_command].concat()).exits(0);
    // Given a store whose key a command gives, then it runs with it, and its data key is rotated while it does
    let mut node = Node::of(path.into());
    node.run_with(&[&["run"], &by_command[..]].concat());
    create(&node, "secret", "db", b"hunter2");
    let shown = || on(&node, &["key", "show", "--json"]).exits(0).json();
    let before = shown();
    on(&node, &["key", "rotate"]).exits(0);
    assert_ne!(shown()["key"]["data_key"], before["key"]["data_key"], "{before}");
    // and when it is to be a passphrase, a file gives it.
    quorate_with_stdin(&["key", "passphrase", "--data-dir", node.dir()], b"correct horse battery\n").exits(0);
    assert_eq!(node.terminate(), Some(0));
    std::fs::write(at("phrase"), "correct horse battery\n").unwrap();
    node.run_with(&["run", "--passphrase-file", &at("phrase")]);
    assert_eq!(revealed(&node, "db"), "hunter2");
    assert_eq!(node.terminate(), Some(0));
    std::fs::write(at("phrase"), "wrong horse\n").unwrap();
    on(&node, &["inspect", "--passphrase-file", &at("phrase")]).exits(1).complains(&["passphrase"]);
}

#[test]
fn a_backup_under_a_passphrase_is_verified_and_restored_with_it_alone() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut nodes = managers(place.path(), 1);
    create(&nodes[0], "secret", "db", b"hunter2");
    std::fs::write(at("phrase"), "correct horse battery\n").unwrap();
    std::fs::write(at("wrong"), "wrong horse\n").unwrap();
    // (One that is short opens what it opens, and seals nothing any more.)
    let said = on(&nodes[0], &["backup", &at("file"), "--backup-passphrase-file", &at("wrong")]).exits(2);
    said.complains(&["12 characters", "There is no backup"]);
    on(&nodes[0], &["backup", &at("file"), "--backup-passphrase-file", &at("phrase")]).exits(0);
    nodes[0].kill();
    // Given the file and the passphrase, and nothing else
    quorate(&["backup", "verify", &at("file"), "--backup-passphrase-file", &at("wrong")]).exits(1);
    quorate(&["backup", "verify", &at("file"), "--backup-passphrase-file", &at("phrase")]).exits(0);
    let (backup, directory) = (at("file"), at("n9"));
    let base =
        ["restore", backup.as_str(), "--data-dir", directory.as_str(), "--listen", "127.0.0.1:0", "--name", "n9"];
    quorate(&[&base[..], &["--backup-passphrase-file", &at("wrong")]].concat()).exits(1);
    quorate(&[&base[..], &["--backup-passphrase-file", &at("phrase")]].concat()).exits(0);
    // Then the secret is there again
    let mut restored = Node::of(place.path().join("n9"));
    restored.run();
    assert_eq!(revealed(&restored, "db"), "hunter2");
}

#[test]
fn configs_and_secrets_are_found_by_their_labels_and_a_successor_has_the_name_it_is_given() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let file = place.path().join("data");
    // Given some with labels, one of them as large as any may be
    let large: Vec<u8> = (0..1024 * 1024_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    std::fs::write(&file, &large).unwrap();
    let file = file.to_str().unwrap();
    for (kind, name, label) in [
        ("config", "large", "env=prod"),
        ("config", "other", "env=test"),
        ("secret", "db", "env=prod"),
        ("secret", "s", "a=b"),
    ] {
        on(node, &[kind, "create", name, file, "--label", label]).exits(0);
    }
    let listed = |kind: &str, labels: &[&str]| {
        let said = on(node, &[&[kind, "ls", "--json"], labels].concat()).exits(0).json();
        let all = said[format!("{kind}s")].as_array().unwrap().clone();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Then a label finds those that have it,
    assert_eq!(listed("config", &[]), ["large", "other"]);
    assert_eq!(listed("config", &["--label", "env=prod"]), ["large"]);
    assert_eq!(listed("config", &["--label", "env"]), ["large", "other"]);
    assert_eq!(listed("secret", &["--label", "env"]), ["db"]);
    assert_eq!(listed("secret", &["--label", "env=prod", "--label", "a"]), [""; 0]);
    // also once it was changed,
    on(node, &["config", "update", "other", "--label-add", "env=prod", "--label-add", "x=y"]).exits(0);
    on(node, &["config", "update", "large", "--label-rm", "env"]).exits(0);
    assert_eq!(listed("config", &["--label", "env=prod", "--label", "x=y"]), ["other"]);
    assert_eq!(listed("config", &["--label", "env"]), ["other"]);
    // and the data is what it was, to the last byte.
    let shown = on(node, &["config", "inspect", "large"]).exits(0);
    assert!(shown.bytes.windows(large.len()).any(|part| part == large.as_slice()));
    on(node, &["config", "create", "larger", "/dev/zero"]).exits(1);
    // A successor has the name that it is given, and the labels of the one before
    let rotated =
        quorate_with_stdin(&["secret", "rotate", "db", "-", "--as", "db-new", "--data-dir", node.dir()], b"two");
    assert!(rotated.exits(0).stdout.starts_with("secret db-new stands beside db"));
    assert_eq!(listed("secret", &["--label", "env=prod"]), ["db", "db-new"]);
    assert_eq!(revealed(node, "db-new"), "two");
}
