//! Configs, secrets and the keyring from the command line, on a real process.
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

use cli_support::{managers, on, quorate_with_stdin};

#[test]
fn a_secret_is_made_from_a_file_and_comes_back_only_by_reveal() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let file = place.path().join("password");
    std::fs::write(&file, b"hunter2\n\x00\xff").unwrap();
    let file = file.to_str().unwrap();
    // Given a secret out of a file, and one out of stdin
    let made = on(node, &["secret", "create", "db", file, "--label", "env=prod", "--json"]).exits(0).json();
    assert_eq!(
        (made["name"].as_str(), made["size"].as_u64(), made["barrier_key"].as_u64()),
        (Some("db"), Some(10), Some(1))
    );
    quorate_with_stdin(&["secret", "create", "other", "-", "--data-dir", node.dir()], b"swordfish").exits(0);
    // Then no answer but one holds its data
    let mut all = String::new();
    for words in [
        &["secret", "ls"][..],
        &["secret", "ls", "--json"],
        &["secret", "inspect", "db"],
        &["secret", "inspect", "db", "--json"],
        &["secret", "update", "db", "--label-add", "a=b", "--label-rm", "env"],
        &["keyring", "show"],
        &["keyring", "show", "--json"],
    ] {
        let said = on(node, words).exits(0);
        all.push_str(&format!("{said:?}"));
    }
    assert!(all.contains("db") && all.contains("a=b"), "{all}");
    assert!(!all.contains("hunter2") && !all.contains("aHVudGVyM"), "{all}");
    assert!(!node.log().contains("hunter2"));
    let shown = on(node, &["secret", "inspect", "db", "--reveal", "--json"]).exits(0).json();
    assert_eq!(shown["data_base64"], "aHVudGVyMgoA/w==");
    assert_eq!(on(node, &["secret", "inspect", "other", "--reveal"]).exits(0).stdout, "swordfish");
    // A value is no argument: what stands there is the name of a file
    on(node, &["secret", "create", "third", "hunter3"]).exits(2).complains(&["give a file, or - for stdin"]);
    // And nothing is no secret: what should have printed it has failed
    let empty = ["secret", "create", "empty", "-", "--data-dir", node.dir()];
    quorate_with_stdin(&empty, b"").exits(2).complains(&["nothing in stdin", "Nothing was sent"]);
    on(node, &["secret", "rotate", "db", "/dev/null"]).exits(2).complains(&["nothing in /dev/null"]);
    on(node, &["secret", "inspect", "empty"]).exits(1);
    on(node, &["secret", "create", "db", file]).exits(1).complains(&["already", "Nothing was changed"]);
    on(node, &["secret", "inspect", "none"]).exits(1).complains(&["no secret `none`"]);
}

#[test]
fn what_items_refer_to_stays_and_a_rotation_says_who_uses_the_old_one() {
    let place = tempfile::tempdir().unwrap();
    let node = &managers(place.path(), 1)[0];
    let name = node.status()["managers"][0]["name"].as_str().unwrap().to_owned();
    let create = |kind: &str, of: &str, data: &[u8]| {
        quorate_with_stdin(&[kind, "create", of, "-", "--data-dir", node.dir()], data).exits(0);
    };
    create("secret", "db", b"one");
    create("config", "conf", b"listen 80\n");
    // Given an item that refers to both
    let missing = on(node, &["assign", "set", &name, "web", "run", "--secret", "none"]).exits(1);
    missing.complains(&["secret `none`", "create it first"]);
    on(node, &["assign", "set", &name, "web", "run", "--secret", "db", "--config", "conf"]).exits(0);
    // Then neither can be removed, and the answer names the item
    let named = format!("item `web` of {name}");
    on(node, &["secret", "rm", "db"]).exits(1).complains(&[&named]);
    on(node, &["config", "rm", "conf"]).exits(1).complains(&[&named]);
    let shown = on(node, &["config", "inspect", "conf"]).exits(0).stdout;
    assert!(shown.contains(&format!("used by    web of {name}")) && shown.ends_with("\n\nlisten 80\n"), "{shown}");
    let rotated = quorate_with_stdin(&["secret", "rotate", "db", "-", "--data-dir", node.dir()], b"two").exits(0);
    assert_eq!(rotated.stdout, format!("secret db.2 stands beside db\ndb is still used by\n  web of {name}\n"));
    // Written anew without it, the item lets it go
    on(node, &["assign", "set", &name, "web", "run", "--secret", "db.2"]).exits(0);
    on(node, &["secret", "rm", "db"]).exits(0);
    on(node, &["config", "rm", "conf", "--json"]).exits(0);
    let listed = on(node, &["secret", "ls", "--json"]).exits(0).json();
    assert_eq!(listed["secrets"].as_array().unwrap().len(), 1);
    assert_eq!(listed["secrets"][0]["succeeds"], "db");
}

#[test]
fn the_keyring_is_rotated_and_everything_opens_with_the_new_key() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let node = &nodes[0];
    quorate_with_stdin(&["secret", "create", "db", "-", "--data-dir", node.dir()], b"one").exits(0);
    let token = on(node, &["token", "show", "worker"]).exits(0).stdout;
    let rotated = on(node, &["keyring", "rotate", "--json"]).exits(0).json();
    assert_eq!((rotated["active"].as_u64(), rotated["keys"].as_array().unwrap().len()), (Some(2), 1));
    // The CA, two tokens and the secret.
    assert_eq!((rotated["keys"][0]["id"].as_u64(), rotated["keys"][0]["records"].as_u64()), (Some(2), Some(4)));
    assert_eq!(on(node, &["secret", "inspect", "db", "--reveal"]).exits(0).stdout, "one");
    assert_eq!(on(node, &["token", "show", "worker"]).exits(0).stdout, token);
    let shown = on(node, &["keyring", "show"]).exits(0).stdout;
    assert!(shown.starts_with("KEY") && shown.contains("active"), "{shown}");
}
