//! The keys of a manager's store by hand: what is said of them, autolock and unlocking, moving and rotating, wrong and missing keys.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use cli_support::{
    Node, Said, eventually, full, gone, managers, on, quorate, quorate_closed, quorate_into, quorate_with_stdin,
};

fn unlock(node: &Node, typed: &str) -> Said {
    quorate_with_stdin(&["unlock", "--data-dir", node.dir()], typed.as_bytes())
}

fn health(node: &Node) -> String {
    on(node, &["status", "--json"]).json()["health"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_key_beside_the_data_is_told_and_moved_away() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("n1").to_str().unwrap().to_owned();
    let beside = "key beside data: no protection against a stolen disk";
    quorate(&["init", "--data-dir", &path, "--listen", "127.0.0.1:0", "--name", "n1"])
        .exits(0)
        .complains(&[beside, "quorate key move"]);
    let mut nodes = managers(&place.path().join("more"), 1);
    let node = &mut nodes[0];
    on(node, &["kv", "put", "k", "v"]).exits(0);
    let status = on(node, &["status"]).exits(0).stdout;
    assert!(status.contains(beside) && status.contains("quorate key move"), "{status}");
    // When it is moved, then nothing of it is left, and nobody warns any more
    let target = place.path().join("elsewhere/n1.key");
    let words = ["key", "move", target.to_str().unwrap()];
    // (Not to a directory that is not there: the path is mistyped, or a disk not mounted.)
    on(node, &words).exits(1).complains(&["there is no directory", "elsewhere", "mounted", "Nothing was changed"]);
    assert!(!place.path().join("elsewhere").exists() && node.directory.join("key").exists());
    std::fs::create_dir(place.path().join("elsewhere")).unwrap();
    on(node, &words).exits(0);
    assert!(target.exists() && !node.directory.join("key").exists());
    assert!(!on(node, &["status"]).exits(0).stdout.contains(beside));
    assert_eq!(node.terminate(), Some(0));
    // And the next start finds it without being told
    node.run();
    assert_eq!(on(node, &["kv", "get", "k"]).exits(0).stdout, "v");
    // Without it the directory says which key it wants, whoever asks, and is not harmed
    assert_eq!(node.terminate(), Some(0));
    let away = place.path().join("away.key");
    std::fs::rename(&target, &away).unwrap();
    let next = "the next start will fail";
    let shown = on(node, &["key", "show"]).exits(0).stdout;
    assert!(shown.contains(next) && shown.contains("n1.key") && shown.contains("join --replace"), "{shown}");
    let checked = on(node, &["check"]).exits(1).stdout;
    assert!(checked.lines().any(|line| line.starts_with("look  key") && line.contains(next)), "{checked}");
    for verb in [&["inspect"][..], &["recover", "--dry-run"], &["recover"], &["run"], &["key", "rotate"]] {
        on(node, verb).exits(1).complains(&["sealed with key", "n1.key", "Nothing was changed"]);
    }
    let kind = on(node, &["inspect", "--json"]).exits(1).json()["error"]["kind"].clone();
    assert_eq!(kind, "locked");
    // With another key it says both
    let other = place.path().join("other.key");
    std::fs::write(&other, quorate(&["key", "new"]).exits(0).stdout).unwrap();
    on(node, &["inspect", "--key-file", other.to_str().unwrap()]).exits(1).complains(&["another one", "n1.key"]);
    std::fs::copy(&other, &target).unwrap();
    let shown = on(node, &["key", "show"]).exits(0).stdout;
    assert!(shown.contains(next) && shown.contains("another key"), "{shown}");
    std::fs::remove_file(&target).unwrap();
    on(node, &["inspect", "--key-file", away.to_str().unwrap()]).exits(0);
    on(node, &["recover", "--dry-run", "--key-file", away.to_str().unwrap()]).exits(0);
    on(node, &["key", "show"]).exits(0);
}

#[test]
fn a_locked_manager_says_so_waits_and_is_unlocked() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    let node = &mut nodes[0];
    on(node, &["kv", "put", "k", "v"]).exits(0);
    on(node, &["unlock-key", "show"]).exits(1).complains(&["no unlock key", "quorate autolock on"]);
    unlock(node, "x").exits(0);
    // Given autolock: the key is shown and lies nowhere
    let key = on(node, &["autolock", "on"]).exits(0).stdout.lines().last().unwrap().to_owned();
    assert!(key.starts_with("QRK-1-") && !node.directory.join("key").exists());
    assert_eq!(on(node, &["unlock-key", "show"]).exits(0).stdout.lines().last().unwrap(), key);
    on(node, &["autolock", "on"]).exits(1).complains(&["on already"]);
    assert_eq!(node.terminate(), Some(0));
    // When it is started, then it is locked, says what to do, and does nothing else
    let _lines = node.start(&["run"]);
    eventually("it is locked", || (health(node) == "locked").then_some(()));
    let status = on(node, &["status"]).exits(0).stdout;
    assert!(status.starts_with("LOCKED") && status.contains("quorate unlock --data-dir"), "{status}");
    for verb in
        [&["kv", "get", "k"][..], &["kv", "put", "k", "w"], &["node", "ls"], &["key", "rotate"], &["kv", "watch", "k"]]
    {
        on(node, verb).exits(1).complains(&["locked", "Nothing was done"]);
    }
    on(node, &["key", "show"]).exits(0);
    on(node, &["check"]).exits(1).complains(&["attention"]);
    let said = on(node, &["check"]).stdout;
    assert!(said.contains("is locked") && said.contains("quorate unlock"), "{said}");
    // A wrong key changes nothing, and the answer says which one is wanted
    unlock(node, &key[..key.len() - 1]).exits(1).complains(&["mistyped", "stays locked"]);
    let other = quorate(&["key", "new"]).exits(0).stdout;
    unlock(node, &other).exits(1).complains(&["the unlock key", "another one", "stays locked"]);
    unlock(node, "").exits(1);
    assert_eq!(health(node), "locked");
    // The right one starts it
    assert_eq!(unlock(node, &format!("{key}\n")).exits(0).stdout, "unlocked: the manager starts\n");
    assert_eq!(
        eventually("it serves", || Some(on(node, &["kv", "get", "k"]).stdout).filter(|value| value == "v")),
        "v"
    );
    // Another unlock key, and the one before is worth nothing
    let newer = on(node, &["unlock-key", "rotate"]).exits(0).stdout.lines().last().unwrap().to_owned();
    assert_ne!(newer, key);
    assert_eq!(node.terminate(), Some(0));
    let file = place.path().join("unlock");
    std::fs::write(&file, &key).unwrap();
    let given = ["inspect", "--unlock-key-file", file.to_str().unwrap()];
    on(node, &given).exits(1).complains(&["another one"]);
    std::fs::write(&file, &newer).unwrap();
    on(node, &given).exits(0);
    on(node, &["inspect"]).exits(1).complains(&["the unlock key", "--unlock-key-file"]);
    // What a store that nobody can read says of its node is not taken for nothing
    on(node, &["status"]).exits(3).complains(&[
        "no node is running",
        "it may have been fenced",
        "--unlock-key-file FILE",
    ]);
    assert!(on(node, &["check"]).stdout.contains("opened by the unlock key"));
    let option = ["--unlock-key-file", file.to_str().unwrap()];
    on(node, &[&["recover", "--dry-run"], &option[..]].concat()).exits(0);
    // A key file would end that, and is never made by the way
    let target = place.path().join("n1.key");
    let moved = ["key", "move", target.to_str().unwrap()];
    on(node, &[&moved[..], &option].concat()).exits(1).complains(&["waits after each start", "autolock off --to"]);
    assert!(!target.exists());
    on(node, &given).exits(0);
    // And back to a key file, of a stopped manager
    on(node, &[&["autolock", "off", "--to", target.to_str().unwrap()], &option[..]].concat()).exits(0);
    node.run();
    assert_eq!(on(node, &["kv", "get", "k"]).exits(0).stdout, "v");
}

#[test]
fn a_locked_manager_of_three_is_missed_by_the_others_and_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    let key = on(&nodes[2], &["autolock", "on"]).exits(0).stdout.lines().last().unwrap().to_owned();
    assert_eq!(nodes[2].terminate(), Some(0));
    let _lines = nodes[2].start(&["run"]);
    eventually("it is locked", || (health(&nodes[2]) == "locked").then_some(()));
    on(&nodes[0], &["kv", "put", "k", "v"]).exits(0);
    assert_eq!(health(&nodes[0]), "degraded");
    // Then the others tell it from one that is gone, wherever an operator looks
    for other in &nodes[..2] {
        let status = || on(other, &["status", "--json"]).exits(0).json()["managers"].clone();
        let locked = || status().as_array().unwrap().iter().filter(|manager| manager["locked"] == true).count();
        eventually("it is known as locked", || (locked() == 1).then_some(()));
        let said = on(other, &["status"]).exits(0).stdout;
        assert!(said.contains("locked   n3") && said.contains("unlock n3 to tolerate one"), "{said}");
        assert!(said.contains("quorate unlock --data-dir DIR") && said.contains("NO, LOCKED"), "{said}");
        let listed = on(other, &["node", "ls", "--json"]).exits(0).json();
        let states = listed["nodes"].as_array().unwrap().iter().map(|node| node["state"].as_str().unwrap().to_owned());
        assert_eq!(states.filter(|state| state == "locked").count(), 1, "{listed}");
    }
    unlock(&nodes[2], &key).exits(0);
    eventually("all are well", || (health(&nodes[0]) == "ok").then_some(()));
    assert!(!on(&nodes[0], &["status"]).exits(0).stdout.to_lowercase().contains("locked"));
    assert_eq!(on(&nodes[2], &["kv", "get", "k"]).exits(0).stdout, "v");
}

#[test]
fn a_passphrase_opens_a_store_by_hand_and_by_a_file() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    let node = &mut nodes[0];
    on(node, &["kv", "put", "k", "v"]).exits(0);
    let set = |phrase: &str| quorate_with_stdin(&["key", "passphrase", "--data-dir", node.dir()], phrase.as_bytes());
    set("\n").exits(2);
    let short = |said: Said| said.exits(1).complains(&["12 characters", "PASSPHRASE_CHARS_MIN", "Nothing was changed"]);
    short(set("abc\n"));
    set("correct horse battery\n").exits(0);
    assert!(!node.directory.join("key").exists());
    assert_eq!(node.terminate(), Some(0));
    let _lines = node.start(&["run"]);
    eventually("it is locked", || (health(node) == "locked").then_some(()));
    unlock(node, "wrong horse\n").exits(1).complains(&["stays locked"]);
    unlock(node, "correct horse battery\n").exits(0);
    eventually("it serves", || (on(node, &["kv", "get", "k"]).stdout == "v").then_some(()));
    assert_eq!(node.terminate(), Some(0));
    let file = place.path().join("phrase");
    std::fs::write(&file, "correct horse battery\n").unwrap();
    on(node, &["inspect", "--passphrase-file", file.to_str().unwrap()]).exits(0);
    on(node, &["inspect"]).exits(1).complains(&["passphrase"]);
}

#[test]
fn a_passphrase_in_place_of_an_unlock_key_is_said_to_be_that() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let node = &nodes[0];
    let set = |phrase: &str| quorate_with_stdin(&["key", "passphrase", "--data-dir", node.dir()], phrase.as_bytes());
    // Given autolock, when a passphrase is set, then what it ends is named, and another one later ends nothing
    on(node, &["autolock", "on"]).exits(0);
    set("correct horse battery\n").exits(0).complains(&["the unlock key", "opens the store no more", "in its place"]);
    let said = set("another horse\n").exits(0);
    assert!(!said.stderr.contains("unlock key"), "{said:?}");
    // A key file is not made by the way from there, either.
    let target = place.path().join("n1.key");
    let moved = on(node, &["key", "move", target.to_str().unwrap()]).exits(1);
    moved.complains(&["the passphrase", "autolock off --to"]);
    on(node, &["autolock", "off", "--to", target.to_str().unwrap()]).exits(0);
    assert!(target.exists());
}

#[test]
fn whoever_ends_autolock_is_told_that_the_key_lies_beside_the_data_again() {
    // Given a manager whose key lay elsewhere before autolock
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let node = &nodes[0];
    let elsewhere = place.path().join("n1.key");
    on(node, &["key", "move", elsewhere.to_str().unwrap()]).exits(0);
    on(node, &["autolock", "on"]).exits(0);
    // When autolock is ended without a place for the key, then it is said what that protects, and where it lies, as a path
    on(node, &["autolock", "off"]).exits(0).complains(&["key beside data", "quorate key move PATH"]);
    let beside = node.directory.join("key");
    on(node, &["autolock", "off"]).exits(1).complains(&[&format!("the key file {}", beside.display())]);
}

#[test]
fn keys_from_a_command_and_from_the_service_manager() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("service.key");
    std::fs::write(&key, quorate(&["key", "new"]).exits(0).stdout).unwrap();
    let command = format!("cat {}", key.display());
    let path = place.path().join("n1").to_str().unwrap().to_owned();
    let init = ["init", "--data-dir", &path, "--listen", "127.0.0.1:0", "--name", "n1"];
    quorate(&[&init[..], &["--key-command", &command]].concat()).exits(0);
    assert!(!place.path().join("n1/key").exists());
    quorate(&["inspect", "--data-dir", &path, "--key-command", &command]).exits(0);
    quorate(&["inspect", "--data-dir", &path, "--key-command", "echo down >&2; false"]).exits(1).complains(&["down"]);
    quorate(&["inspect", "--data-dir", &path]).exits(1).complains(&["--key-command"]);
    // The service manager's file is used where there is one
    let credentials = place.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::copy(&key, credentials.join("quorate.key")).unwrap();
    let environment = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    let path = place.path().join("n2").to_str().unwrap().to_owned();
    let init = ["init", "--data-dir", &path, "--listen", "127.0.0.1:0", "--name", "n2"];
    let said = cli_support::quorate_with_env(&init, &environment).exits(0);
    assert!(!said.stderr.contains("beside"), "{said:?}");
    assert!(!place.path().join("n2/key").exists());
    cli_support::quorate_with_env(&["inspect", "--data-dir", &path], &environment).exits(0);
    let said = quorate(&["key", "show", "--data-dir", &path, "--json"]).exits(0).json();
    assert_eq!(said["key"]["place"].as_str().unwrap(), credentials.join("quorate.key").display().to_string());
}

#[test]
fn keys_are_changed_on_the_managers_own_machine_only() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let mut worker = Node::join_as("worker", place.path(), "w1", &nodes[0]);
    worker.run();
    on(&worker, &["key", "rotate"]).exits(1).complains(&["worker", "no sealed store"]);
    on(&worker, &["key", "show"]).exits(1);
    let identity = nodes[0].directory.join("operator.id");
    quorate(&["key", "rotate", "--connect", &nodes[0].address, "--identity", identity.to_str().unwrap()])
        .exits(2)
        .complains(&["--data-dir"]);
}

/// A stopped manager with a store of its own.
fn founded(directory: &std::path::Path, more: &[&str]) {
    let path = directory.to_str().unwrap();
    let name = directory.file_name().unwrap().to_str().unwrap();
    let init = ["init", "--data-dir", path, "--listen", "127.0.0.1:0", "--name", name];
    quorate(&[&init[..], more].concat()).exits(0);
}

/// Says something to a directory.
fn at(directory: &std::path::Path, words: &[&str]) -> Said {
    quorate(&[words, &["--data-dir", directory.to_str().unwrap()]].concat())
}

fn key_of(directory: &std::path::Path) -> String {
    at(directory, &["key", "show", "--json"]).exits(0).json()["key"]["id"].as_str().unwrap().to_owned()
}

/// Opens the store with what can be found, as a start does, and ends what a crash would have left.
fn starts(directory: &std::path::Path) {
    at(directory, &["inspect"]).exits(0);
    at(directory, &["unlock-key", "show"]).exits(1).complains(&["no unlock key"]);
    at(directory, &["inspect"]).exits(0);
}

fn lines(file: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter(|line| line.starts_with("QRK-")).map(str::to_owned).collect()
}

#[test]
fn stores_that_share_a_key_file_are_rotated_one_after_the_other_and_none_loses_its_key() {
    let place = tempfile::tempdir().unwrap();
    let [one, two] = ["n1", "n2"].map(|name| place.path().join(name));
    let shared = place.path().join("shared.key");
    for directory in [&one, &two] {
        founded(directory, &["--key-file", shared.to_str().unwrap()]);
    }
    let before = key_of(&one);
    assert_eq!(key_of(&two), before);
    // When one is rotated, then the other still finds its key, and people are told of the old one
    at(&one, &["key", "rotate"]).exits(0).complains(&[&before, "shared.key", "by hand"]);
    starts(&one);
    starts(&two);
    assert_eq!((key_of(&two), lines(&shared).len()), (before.clone(), 2));
    starts(&one);
    // When the other follows, then it takes the key that the first has put there
    at(&two, &["key", "rotate"]).exits(0);
    assert_ne!(key_of(&two), before);
    assert_eq!((key_of(&two), lines(&shared).len()), (key_of(&one), 2));
    // And without the old line, as people are told, both start
    std::fs::write(&shared, &lines(&shared)[0]).unwrap();
    starts(&one);
    starts(&two);
    // A key that was prepared is taken by whoever rotates, and no start of another loses it
    let prepared = quorate(&["key", "new"]).exits(0).stdout;
    std::fs::write(&shared, format!("{prepared}{}\n", lines(&shared)[0])).unwrap();
    at(&one, &["key", "rotate"]).exits(0);
    assert_ne!(key_of(&one), key_of(&two));
    starts(&two);
    starts(&one);
    assert_eq!(lines(&shared)[0], prepared.trim());
}

#[test]
fn the_key_of_a_store_that_was_moved_aside_stays_beside_the_data_as_long_as_that_store() {
    for change in [&["key", "rotate"][..], &["autolock", "on"], &["key", "move", "elsewhere.key"]] {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("n1");
        founded(&directory, &[]);
        let before = key_of(&directory);
        let elsewhere = place.path().join("elsewhere.key");
        let words: Vec<&str> = change
            .iter()
            .map(|word| if *word == "elsewhere.key" { elsewhere.to_str().unwrap() } else { word })
            .collect();
        // Given another store aside that is sealed with the same key, and a key that somebody has prepared
        let file = directory.join("key");
        let other = place.path().join("n2");
        founded(&other, &["--key-file", file.to_str().unwrap()]);
        std::fs::rename(other.join("store"), directory.join("store.old-1")).unwrap();
        let prepared = quorate(&["key", "new"]).exits(0).stdout;
        let old = lines(&file)[0].clone();
        std::fs::write(&file, format!("{old}\n{prepared}")).unwrap();
        starts(&directory);
        assert_eq!(lines(&file), [old.clone(), prepared.trim().to_owned()], "{change:?}");
        // When the key of the store in use changes
        at(&directory, &words).exits(0).complains(&[&before, "store.old-1", "by hand"]);
        // Then what is aside can still be opened
        assert!(lines(&file).contains(&old) && lines(&file).contains(&prepared.trim().to_owned()), "{change:?}");
        std::fs::rename(directory.join("store.old-1"), other.join("store")).unwrap();
        at(&other, &["inspect", "--key-file", file.to_str().unwrap()]).exits(0);
    }
}

#[test]
fn a_key_file_that_is_moved_onto_itself_under_another_name_stays() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("n1");
    founded(&directory, &[]);
    let link = place.path().join("link");
    std::os::unix::fs::symlink(&directory, &link).unwrap();
    let file_link = place.path().join("link.key");
    std::os::unix::fs::symlink(directory.join("key"), &file_link).unwrap();
    for target in [link.join("key"), directory.join("../n1/key"), file_link] {
        at(&directory, &["key", "move", target.to_str().unwrap()])
            .exits(1)
            .complains(&["already", "Nothing was changed"]);
        starts(&directory);
    }
    at(&link, &["key", "move", directory.join("key").to_str().unwrap()]).exits(1);
    starts(&directory);
}

#[test]
fn a_key_file_that_is_named_as_before_a_move_may_be_gone() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("n1");
    let [old, new] = ["old.key", "new.key"].map(|name| place.path().join(name));
    let option = ["--key-file", old.to_str().unwrap()];
    founded(&directory, &option);
    at(&directory, &["key", "move", new.to_str().unwrap()]).exits(0);
    std::fs::remove_file(&old).unwrap();
    // A unit that still names the old one starts
    at(&directory, &[&["inspect"], &option[..]].concat()).exits(0);
    at(&directory, &[&["key", "rotate"], &option[..]].concat()).exits(0);
    // And where neither is there, the one that was named is missed
    std::fs::remove_file(&new).unwrap();
    at(&directory, &[&["inspect"], &option[..]].concat()).exits(1).complains(&["old.key", "Nothing was changed"]);
}

/// The command, with a stdout on which nobody can read its answer, once for each way there is.
fn unread(node: &Node, arguments: &[&str]) -> Vec<(&'static str, Said)> {
    let arguments = [arguments, &["--data-dir", node.dir()]].concat();
    vec![
        ("a pipe whose reader went away", quorate_into(&arguments, gone())),
        ("a full disk", quorate_into(&arguments, full())),
        ("nothing", quorate_closed(&arguments)),
        ("/dev/null", quorate_into(&arguments, Stdio::null())),
    ]
}

#[test]
fn a_key_that_nobody_could_read_does_not_count() {
    let place = tempfile::tempdir().unwrap();
    let node = Node::init(place.path(), "n1");
    let shown = || on(&node, &["key", "show", "--json"]).exits(0).json();
    // Given a stopped manager, when its unlock key is written to where nobody can read it, then nothing has changed
    let before = shown();
    for verb in [&["autolock", "on"][..], &["autolock", "on", "--json"]] {
        for (stdout, said) in unread(&node, verb) {
            assert_eq!(said.exit, Some(1), "{stdout}: {said:?}");
            assert!(said.stderr.contains("where its answer can be read"), "{stdout}: {said:?}");
            assert!(!said.stderr.contains("is done"), "{stdout}: {said:?}");
            assert_eq!(shown(), before, "{stdout}");
            assert!(node.directory.join("key").exists(), "{stdout}");
        }
    }
    // When it can be read, then the answer says what there is afterwards
    let made = on(&node, &["autolock", "on", "--json"]).exits(0).json();
    let (after, told) = (shown(), &made["key"]);
    for field in ["kind", "id", "place", "pending", "beside_data", "advice"] {
        assert_eq!(told[field], after["key"][field], "{field}: {made}");
    }
    // And the same holds for another unlock key
    let file = place.path().join("unlock");
    std::fs::write(&file, made["unlock_key"].as_str().unwrap()).unwrap();
    let option = ["--unlock-key-file", file.to_str().unwrap()];
    for (stdout, said) in unread(&node, &[&["unlock-key", "rotate"], &option[..]].concat()) {
        assert_eq!(said.exit, Some(1), "{stdout}: {said:?}");
        assert_eq!(shown(), after, "{stdout}");
        on(&node, &[&["inspect"], &option[..]].concat()).exits(0);
    }
    // What goes to stdout is the key alone: whatever cuts the answer off leaves the key or nothing
    let said = on(&node, &[&["unlock-key", "rotate"], &option[..]].concat()).exits(0);
    assert!(said.stdout.lines().count() == 1 && said.stdout.starts_with("QRK-1-"), "{said:?}");
    // Of a running manager the key before opens the next start as well
    let mut running = Node::init(place.path(), "n2");
    running.run();
    for (stdout, said) in unread(&running, &["autolock", "on"]) {
        assert_eq!(said.exit, Some(1), "{stdout}: {said:?}");
        assert!(running.directory.join("key").exists(), "{stdout}");
    }
    assert_eq!(running.terminate(), Some(0));
    running.run();
    assert_eq!(on(&running, &["key", "show", "--json"]).exits(0).json()["key"]["pending"], false);
}

#[test]
fn a_key_file_that_is_gone_is_told_before_the_restart_and_a_lost_one_has_a_way_out() {
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    on(&nodes[0], &["kv", "put", "k", "v"]).exits(0);
    let told = |node: &Node| [&["key", "show"][..], &["status"], &["check"]].map(|verb| (verb, on(node, verb).stdout));
    for (verb, said) in told(&nodes[2]) {
        assert!(!said.contains("will fail"), "{verb:?}: {said}");
    }
    // Given a manager that runs, when its key file goes, then it says that it will not start again
    std::fs::remove_file(nodes[2].directory.join("key")).unwrap();
    for (verb, said) in told(&nodes[2]) {
        let line = said.lines().find(|line| line.contains("the next start will fail")).unwrap_or_default();
        assert!(line.contains("there is no key file") && line.contains("put key"), "{verb:?}: {said}");
        // Its store is not lost while it runs
        assert!(line.contains("quorate key move PATH") && !line.contains("nothing in this store"), "{verb:?}: {said}");
    }
    // And what it says works
    std::fs::remove_file(nodes[1].directory.join("key")).unwrap();
    on(&nodes[1], &["key", "move", place.path().join("n2.key").to_str().unwrap()]).exits(0);
    for (verb, said) in told(&nodes[1]) {
        assert!(!said.contains("will fail"), "{verb:?}: {said}");
    }
    // When it was stopped all the same, then what every refusal names as the way out is one
    assert_eq!(nodes[2].terminate(), Some(0));
    let way_out = ["nothing in this store can be read again", "quorate join --replace --key-lost", "never deletes it"];
    on(&nodes[2], &["run"]).exits(1).complains(&way_out);
    let token = on(&nodes[0], &["token", "show", "manager"]).stdout.lines().last().unwrap().to_owned();
    let replace = ["join", "--replace", "--manager", &nodes[0].address];
    let (store, aside) = (nodes[2].directory.join("store"), nodes[2].directory.join("store.old-1"));
    let held = std::fs::read(store.join("keys")).unwrap();
    for with in [&[][..], &["--token", &token]] {
        on(&nodes[2], &[&replace[..], with].concat()).exits(1).complains(&way_out);
        assert!(store.is_dir() && !aside.exists(), "{with:?}: nothing is moved unasked");
    }
    // Nor before a manager has answered: where none does, the key that is found again opens what there was.
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    on(&nodes[2], &["join", "--replace", "--key-lost", "--token", &token, "--manager", &closed]).exits(3);
    assert!(store.is_dir() && !aside.exists() && !nodes[2].directory.join("key").exists(), "nobody was asked");
    // And the store is moved aside by it as it was, and not from under a manager whose key is there
    on(&nodes[1], &[&replace[..], &["--key-lost"]].concat()).exits(1);
    // By its certificate it does not come back: its own key is sealed with the key that is lost.
    on(&nodes[2], &[&replace[..], &["--key-lost"]].concat()).exits(1).complains(&["sealed with key", "--token TOKEN"]);
    assert!(store.is_dir() && !aside.exists() && !nodes[2].directory.join("key").exists(), "nobody was asked");
    on(&nodes[2], &[&replace[..], &["--key-lost", "--token", &token]].concat()).exits(0);
    assert_eq!(std::fs::read(aside.join("keys")).unwrap(), held);
    nodes[2].run();
    eventually("it is back", || (on(&nodes[2], &["kv", "get", "k"]).stdout == "v").then_some(()));
}

#[test]
fn a_directory_that_another_user_owns_is_not_guessed_about() {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    let place = tempfile::tempdir().unwrap();
    let node = Node::init(place.path(), "n1");
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    // Only root may look into everything: it goes as nobody, with a copy of the program where nobody finds it.
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("quorate");
    std::fs::copy(cli_support::PROGRAM, &program).unwrap();
    let mode = |path: &std::path::Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(bin.path(), 0o755);
    if !is_root {
        mode(&node.directory, 0);
    }
    for verb in [&["key", "show"][..], &["key", "rotate"], &["check"]] {
        let mut command = Command::new(&program);
        command.args(verb).args(["--data-dir", node.dir()]).stdin(Stdio::null());
        if is_root {
            command.uid(65_534).gid(65_534);
        }
        Said::of(command.output().unwrap()).exits(1).complains(&["Permission denied", "the user who owns it"]);
    }
    mode(&node.directory, 0o700);
}

#[test]
fn a_secret_given_as_an_argument_is_not_repeated() {
    for verb in [&["unlock"][..], &["key", "passphrase"]] {
        for secret in ["QRK-1-hunter2", "hunter2", "--key=hunter2"] {
            for json in [&[][..], &["--json"]] {
                let said = quorate(&[verb, &[secret, "--data-dir", "nowhere"], json].concat()).exits(2);
                assert!(!format!("{said:?}").contains("hunter2"), "{said:?}");
                said.complains(&["never an argument", "stdin"]);
            }
        }
    }
}

#[test]
fn a_prompt_that_is_interrupted_leaves_the_terminal_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let node = Node::init(place.path(), "n1");
    let ask = place.path().join("ask.sh");
    let (program, directory) = (cli_support::PROGRAM, node.dir());
    let inner = format!("sh -c 'echo pid $$ is; exec {program} key passphrase --data-dir {directory}'");
    std::fs::write(&ask, format!("trap : INT\n{inner}\necho exit $? is\nstty -a\n")).unwrap();
    for signal in ["INT", "TERM"] {
        // Given a terminal at which a passphrase is asked for
        let mut terminal = Command::new("script")
            .args(["-qec", &format!("sh {}", ask.display()), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(b"new passphrase: ") && output.read(&mut byte).unwrap() == 1 {
            seen.extend(byte);
        }
        let seen = String::from_utf8_lossy(&seen).into_owned();
        // When it is interrupted there, by Ctrl-C or from elsewhere
        if signal == "INT" {
            input.write_all(b"\x03").unwrap();
        } else {
            let pid = seen.split_whitespace().nth(1).unwrap();
            assert!(Command::new("kill").args([&format!("-{signal}"), pid]).status().unwrap().success());
        }
        // Then it says so, and what is typed afterwards can be seen
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        terminal.wait().unwrap();
        assert!(rest.contains("interrupted. Nothing was changed") && rest.contains("exit 1 is"), "{signal}: {rest}");
        let words: Vec<&str> = rest.split_whitespace().collect();
        assert!(words.contains(&"echo") && !words.contains(&"-echo"), "{signal}: {rest}");
    }
}
