//! Operators' identities and the CA on the command line: exit codes, words, JSON contracts, one refusal of each kind.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod cli_support;

use std::os::unix::fs::PermissionsExt as _;

use cli_support::{Node, managers, on, quorate};

fn address(node: &Node) -> String {
    node.status()["managers"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn an_identity_is_issued_used_listed_and_taken_back() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let file = |name: &str| place.path().join(name).display().to_string();
    let (ann, viewer) = (file("ann.id"), file("viewer.id"));
    // When two are issued, on the machine and from elsewhere
    let made = on(&nodes[0], &["operator", "issue", "--name", "ann", "--out", &ann, "--json"]).exits(0).json();
    assert_eq!((made["name"].as_str(), made["stands"].as_bool()), (Some("ann"), Some(true)));
    assert_eq!(made["file"].as_str(), Some(ann.as_str()));
    assert_eq!(std::fs::metadata(&ann).unwrap().permissions().mode() & 0o777, 0o600);
    let connect = address(&nodes[0]);
    let from = |identity: &str, verb: &[&str]| {
        let global = ["--connect", &connect, "--identity", identity];
        quorate(&[verb, &global[..]].concat())
    };
    let issue = ["operator", "issue", "--name", "viewer", "--read-only", "--ttl", "8h", "--out", &viewer];
    let said = from(&ann, &issue).exits(0).stdout;
    assert!(said.contains("may look and change nothing, for 8h"), "{said}");
    // Then the one does everything and the other looks.
    from(&ann, &["kv", "put", "k", "v"]).exits(0);
    assert_eq!(from(&viewer, &["kv", "get", "k"]).exits(0).stdout, "v");
    from(&viewer, &["status"]).exits(0);
    from(&viewer, &["node", "ls"]).exits(0);
    for verb in [&["kv", "put", "k", "w"][..], &["token", "show", "worker"], &["operator", "revoke", "ann"]] {
        let said = from(&viewer, verb).exits(1).complains(&["may only look", "Nothing was done"]);
        assert!(!said.stdout.contains("QRT-"), "{said:?}");
    }
    // Nothing is overwritten, and a name is given once.
    from(&ann, &["operator", "issue", "--name", "bob", "--out", &ann]).exits(2).complains(&["not overwritten"]);
    let taken = from(&ann, &["operator", "issue", "--name", "ann", "--out", &file("x.id"), "--json"]).exits(1).json();
    assert_eq!(
        (taken["error"]["kind"].as_str(), taken["rule"].as_str()),
        (Some("refused"), Some("operator_name_taken"))
    );
    // When one is taken back
    on(&nodes[0], &["operator", "revoke", "ann"]).exits(0);
    // Then it is refused, as what it asks would be, and is told the way back.
    let refused = from(&ann, &["kv", "get", "k", "--json"]).exits(1);
    assert_eq!(refused.json()["error"]["kind"], "denied");
    refused.complains(&["revoked", "operator issue"]);
    let two = [&*connect, "127.0.0.1:9"].join(",");
    quorate(&["kv", "get", "k", "--connect", &two, "--identity", &ann]).exits(1).complains(&["revoked"]);
    // Then the list says so.
    let list = on(&nodes[0], &["operator", "ls", "--json"]).exits(0).json();
    for (name, stands) in [("operator", true), ("ann", false), ("viewer", true)] {
        let mut operators = list["operators"].as_array().unwrap().iter();
        assert_eq!(operators.find(|one| one["name"] == name).unwrap()["stands"], stands, "{list}");
    }
    let table = on(&nodes[0], &["operator", "ls"]).exits(0).stdout;
    assert!(table.contains("revoked") && table.contains("read-only"), "{table}");
    // None is for ever, and its certificate less so
    assert!(table.contains("when revoked") && !table.contains("never"), "{table}");
    let said = on(&nodes[0], &["operator", "issue", "--name", "eve", "--out", &file("eve.id")]).exits(0).stdout;
    assert!(said.contains("its certificate ends on 20") && said.contains("renew it there"), "{said}");
    on(&nodes[0], &["operator", "revoke", "nobody"]).exits(1).complains(&["nobody", "operator ls"]);
}

#[test]
fn who_takes_its_own_identity_back_hears_so_and_the_way_in_again() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    let connect = nodes.iter().map(|node| node.address.as_str()).collect::<Vec<_>>().join(",");
    let file = |name: &str| place.path().join(name).display().to_string();
    let (ann, bob) = (file("ann.id"), file("bob.id"));
    let issue = |name: &str, out: &str| {
        on(&nodes[0], &["operator", "issue", "--name", name, "--out", out]).exits(0);
    };
    let from =
        |identity: &str, verb: &[&str]| quorate(&[verb, &["--connect", &connect, "--identity", identity]].concat());
    issue("ann", &ann);
    issue("bob", &bob);
    // When somebody takes back the identity that it shows, the answer comes all the same, and says what that means
    let said = from(&ann, &["operator", "revoke", "ann"]).exits(0).stdout;
    assert!(said.contains("the identity of this command") && said.contains("quorate operator issue"), "{said}");
    assert!(!said.contains("no identity is left"), "{said}");
    from(&ann, &["kv", "get", "k"]).exits(1).complains(&["revoked"]);
    // Another's is taken back without that, the last but one
    let said = from(&bob, &["operator", "revoke", "operator"]).exits(0).stdout;
    assert_eq!(said.lines().count(), 1, "{said}");
    // When it is the last, that is said, too
    let said = from(&bob, &["operator", "revoke", "bob", "--json"]).exits(0).json();
    assert_eq!(
        (said["own"].as_bool(), said["left"].as_u64(), said["name"].as_str()),
        (Some(true), Some(0), Some("bob"))
    );
    // and what is named as the way in again is one.
    issue("eve", &file("eve.id"));
    from(&file("eve.id"), &["kv", "put", "k", "v"]).exits(0);
}

#[test]
fn the_ca_is_replaced_and_shows_how_far_it_is() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 1);
    let before = on(&nodes[0], &["ca", "status", "--json"]).exits(0).json();
    assert_eq!((before["rotating"].as_bool(), before["serial"].as_u64()), (Some(false), Some(0)));
    on(&nodes[0], &["ca", "rotate", "--deadline", "0s"]).exits(2);
    let near =
        on(&nodes[0], &["ca", "rotate", "--deadline", "1s", "--json"]).exits(1).complains(&["10 s at least"]).json();
    assert_eq!((&near["limit"]["name"], &near["limit"]["bound"]), (&"ROTATION_S_MIN".into(), &10.into()), "{near}");
    let begun = on(&nodes[0], &["ca", "rotate"]).exits(0).stdout;
    assert!(begun.contains("replaced once") && begun.contains("operator"), "{begun}");
    // Asked again, it is the same one that is followed.
    let again = on(&nodes[0], &["ca", "rotate"]).exits(0).complains(&["under way already", "--another"]).stdout;
    assert!(again.contains("replaced once"), "{again}");
    cli_support::eventually("only the operator is waited for", || {
        on(&nodes[0], &["ca", "status"]).exits(0).stdout.contains("1 of 2 have renewed").then_some(())
    });
    // The operator's file is renewed when it is used, and is the file of the new root from then on.
    let (connect, identity) = (address(&nodes[0]), nodes[0].operator());
    let old = std::fs::read(&identity).unwrap();
    let global = ["--connect", &connect, "--identity", &identity];
    quorate(&[&["status"][..], &global].concat()).exits(0);
    assert_ne!(std::fs::read(&identity).unwrap(), old);
    let over = cli_support::eventually("the rotation is over", || {
        let info = on(&nodes[0], &["ca", "status", "--json"]).exits(0).json();
        (info["rotating"] == false).then_some(info)
    });
    assert_eq!(over["serial"].as_u64(), Some(1));
    assert_ne!(over["root"], before["root"]);
    quorate(&[&["kv", "put", "k", "v"][..], &global].concat()).exits(0);
    let said = on(&nodes[0], &["ca", "status"]).exits(0).stdout;
    assert!(said.contains("no rotation is under way"), "{said}");
}

#[test]
fn a_node_in_other_hands_is_removed_with_all_that_it_knew_or_nothing_is_changed() {
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 2);
    let word = |args: &[&str], field: &str| on(&nodes[0], args).exits(0).json()[field].clone();
    let now = || {
        let token = word(&["token", "show", "worker", "--json"], "token");
        [word(&["ca", "status", "--json"], "root"), token, word(&["keyring", "show", "--json"], "active")]
    };
    let before = now();
    // What can never be done changes nothing at all.
    on(&nodes[0], &["node", "rm", "n1", "--compromised"]).exits(1).complains(&["Nothing was changed"]);
    on(&nodes[0], &["node", "rm", "n2", "--deadline", "1d"]).exits(2);
    assert_eq!(now(), before);
    // What can be done replaces all of it.
    let done = on(&nodes[0], &["node", "rm", "n2", "--compromised", "--detach", "--json"]).exits(0).json();
    assert!(done["node"].is_object() && done["ca"]["serial"] == 1, "{done}");
    // Where the keyring is is said, too: it is about to be replaced, or is by now.
    let keyring = &done["keyring"];
    let begun = keyring["due"] == true || keyring["active"].as_u64() > before[2].as_u64();
    assert!(begun && keyring["keys"].is_array(), "{done}");
    cli_support::eventually("everything is another one", || {
        now().iter().zip(&before).all(|(now, before)| now != before).then_some(())
    });
}

#[test]
fn a_removal_of_a_node_in_other_hands_is_followed_until_everything_is_sealed_anew() {
    // Given a secret that a manager could open which somebody else may have
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 2);
    cli_support::quorate_with_stdin(&["secret", "create", "db", "-", "--data-dir", nodes[0].dir()], b"x").exits(0);
    let active = || on(&nodes[0], &["keyring", "show", "--json"]).exits(0).json()["active"].as_u64().unwrap();
    let before = active();
    // When it is thrown out, from elsewhere, and that is waited for
    let words = ["node", "rm", "n2", "--compromised", "--wait", "60s", "--connect", &nodes[0].address];
    let said = quorate(&[&words[..], &["--identity", &nodes[0].operator()]].concat()).exits(0);
    // Then it is told of the keyring that one other key is left, which the manager that is left has alone.
    assert!(active() > before);
    let (_, keyring) = said.stdout.split_once("the barrier's keyring:\n").unwrap_or_else(|| panic!("{said:?}"));
    let rows: Vec<Vec<&str>> = keyring.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["KEY", "STATE", "USES", "RECORDS", "MANAGERS"], "{said:?}");
    assert_eq!((rows.len(), rows[1][0], rows[1][1]), (2, active().to_string().as_str(), "active"), "{said:?}");
    assert_eq!(rows[1].last(), Some(&"n1"), "{said:?}");
    assert!(rows[1][3].parse::<u64>().unwrap() >= 4, "the secret, the CA's key and two tokens: {said:?}");
    for word in ["every join token was replaced", "no rotation is under way"] {
        assert!(said.stdout.contains(word), "{word}: {said:?}");
    }
}

#[test]
fn a_backup_of_another_ca_than_the_one_that_was_named_is_neither_verified_nor_restored() {
    // Given a backup, and one that was taken after the CA was replaced
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 1);
    let path = |name: &str| place.path().join(name).display().to_string();
    let made = quorate(&["backup", "new-key", "--json"]).exits(0).json();
    std::fs::write(path("key"), made["key_file"].as_str().unwrap()).unwrap();
    let take = |name: &str| {
        let recipient = made["recipient"].as_str().unwrap();
        let said = on(&nodes[0], &["backup", &path(name), "--recipient", recipient, "--json"]).exits(0).json();
        let ca = said["info"]["ca"].as_str().unwrap().to_owned();
        assert_eq!(on(&nodes[0], &["ca", "status", "--json"]).exits(0).json()["root"].as_str(), Some(ca.as_str()));
        ca
    };
    let first = take("first");
    on(&nodes[0], &["ca", "rotate"]).exits(0);
    let second = take("second");
    assert_ne!(first, second);
    nodes[0].kill();
    let verify = |file: &str, more: &[&str]| {
        quorate(&[&["backup", "verify", &path(file), "--backup-key", &path("key")], more].concat())
    };
    let restore = |file: &str, to: &str, ca: &str| {
        let (file, to, key) = (path(file), path(to), path("key"));
        let words = ["restore", &file, "--backup-key", &key, "--data-dir", &to, "--listen", "127.0.0.1:0", "--ca", ca];
        quorate(&words)
    };
    // When the CA of the other one is named, then it is refused, looked at and restored, and nothing is written
    for (file, found, asked) in [("first", &first, &second), ("second", &second, &first)] {
        let said = verify(file, &["--ca", asked, "--json"]).exits(1).json();
        assert_eq!(said["error"]["kind"].as_str(), Some("backup"), "{said}");
        verify(file, &["--ca", asked]).exits(1).complains(&[
            found,
            asked,
            "`quorate ca rotate`",
            "somebody else made it",
        ]);
        restore(file, "never", asked).exits(1).complains(&[found, asked, "Nothing was written"]);
        assert!(!place.path().join("never").exists());
    }
    // With none it is taken for what it is, and what is no hash is a usage error.
    assert_eq!(verify("second", &["--json"]).exits(0).json()["info"]["ca"].as_str(), Some(second.as_str()));
    let token = format!("QRT-1-{second}-swordfish");
    for none in ["QRT-1", &second[1..], &token] {
        let said = verify("second", &["--ca", none]).exits(2).complains(&["no hash of a CA", "52", "`quorate backup`"]);
        assert!(!said.stderr.contains("quorate token") && !said.stderr.contains("swordfish"), "{said:?}");
        restore("second", "never", none).exits(2);
    }
    assert!(!place.path().join("never").exists());
    // Its own is taken, in whatever case it is written.
    assert!(verify("second", &["--ca", &second.to_uppercase()]).exits(0).stdout.contains(&second));
    restore("second", "restored", &second).exits(0);
    assert!(place.path().join("restored").join("store").is_dir());
}

#[test]
fn a_removal_is_told_before_what_follows_from_it_is_waited_for() {
    // Given an operator whose identity nobody uses: the CA is not replaced before its time
    let place = tempfile::tempdir().unwrap();
    let nodes = managers(place.path(), 3);
    // When a node is thrown out, and the command waits for the rest
    let words = ["node", "rm", "n3", "--compromised", "--wait", "10m", "--data-dir", nodes[0].dir()];
    let command = cli_support::Beside::start(&words);
    // Then it has told by then what is done
    assert!(command.says().starts_with("n3 is removed"));
    assert_eq!(on(&nodes[0], &["ca", "status", "--json"]).exits(0).json()["rotating"], true);
}
