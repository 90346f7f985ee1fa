//! `quorate check`: machine and network, one line each.
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

use cli_support::{Said, managers, on, quorate};
use serde_json::Value;

/// The checks about something.
fn about(said: &Said, about: &str) -> Vec<Value> {
    let document = said.json();
    let checks = document["checks"].as_array().unwrap_or_else(|| panic!("{document}"));
    checks.iter().filter(|check| check["about"] == about).cloned().collect()
}

fn what(check: &Value) -> &str {
    check["what"].as_str().unwrap()
}

/// 0 or 1, and no other: what this machine's disk and kernel give is not the test's to say.
fn agrees(said: Said) -> Said {
    let document = said.json();
    let wrong = document["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false).count();
    assert_eq!(said.exit, Some(i32::from(wrong > 0)), "{document}");
    assert_eq!(document["ok"], wrong == 0);
    for check in document["checks"].as_array().unwrap() {
        assert_eq!(check["next"].is_null(), check["ok"] == true, "{check}");
    }
    if wrong > 0 {
        assert_eq!(document["error"]["kind"], "attention");
    }
    said
}

#[test]
fn a_manager_looks_at_its_machine_and_at_the_ways_to_and_from_the_others() {
    // Given three managers
    let place = tempfile::tempdir().unwrap();
    let mut nodes = managers(place.path(), 3);
    // When one is looked at on its machine
    let said = agrees(on(&nodes[0], &["check", "--json"]));
    // Then disk and space are measured, and nothing is left of it
    assert!(what(&about(&said, "disk")[0]).contains("p99"), "{said:?}");
    // as are the newest syncs of the manager's own log,
    let own = &about(&said, "disk")[1];
    assert!(what(own).contains("newest syncs of n1's log: p50 ") && what(own).contains("p99"), "{own}");
    assert!(about(&said, "space").len() == 2 && about(&said, "udp buffers").len() == 1);
    assert!(
        !std::fs::read_dir(&nodes[0].directory)
            .unwrap()
            .any(|file| { file.unwrap().file_name().to_string_lossy().starts_with("check.") })
    );
    let certificate = &about(&said, "certificate")[0];
    assert!(certificate["ok"] == true && what(certificate).contains("89d"), "{certificate}");
    // And all four ways are open, with what they carry; the clocks of one machine agree
    let paths = about(&said, "path");
    assert_eq!(paths.len(), 4, "{paths:?}");
    for between in ["from n1 to n2", "from n2 back to n1", "from n1 to n3", "from n3 back to n1"] {
        let path = paths.iter().find(|path| what(path).contains(between)).unwrap_or_else(|| panic!("{paths:?}"));
        let carried = what(path).split_once("packets of ").and_then(|(_, rest)| rest.split_once(' '));
        let bytes: u32 = carried.unwrap_or_else(|| panic!("{path}")).0.parse().unwrap();
        assert!(path["ok"] == true && bytes >= 1_200, "{path}");
    }
    let clocks = about(&said, "clock");
    assert!(clocks.len() == 2 && clocks.iter().all(|clock| clock["ok"] == true), "{clocks:?}");
    assert_eq!(about(&said, "version")[0]["ok"], true);
    // When one is gone, then the way to it is not open, and it is said what to do
    nodes[2].kill();
    let said = on(&nodes[0], &["check", "--json"]).exits(1);
    let said = agrees(said);
    let paths = about(&said, "path");
    let closed = paths.iter().find(|path| what(path).contains("from n1 to n3")).unwrap();
    assert!(closed["ok"] == false && closed["next"].as_str().unwrap().contains("let UDP through"), "{closed}");
    let open = paths.iter().find(|path| what(path).contains("from n2 back to n1")).unwrap();
    assert_eq!(open["ok"], true);
    // From elsewhere each manager is looked at, also the one that is not there
    let all = nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",");
    let operator = nodes[0].operator();
    let said = agrees(quorate(&["check", "--json", "--connect", &all, "--identity", &operator]));
    let paths = about(&said, "path");
    let from_here: Vec<&Value> = paths.iter().filter(|path| what(path).starts_with("from here")).collect();
    assert_eq!(from_here.iter().filter(|path| path["ok"] == true).count(), 2, "{from_here:?}");
    assert_eq!(from_here.iter().filter(|path| path["ok"] == false).count(), 1, "{from_here:?}");
    // and what its own log's disk does, which cannot be measured from elsewhere.
    for name in ["n1", "n2"] {
        let words = format!("newest syncs of {name}'s log: p50 ");
        let disks = about(&said, "disk");
        let disk = disks.iter().find(|disk| what(disk).contains(&words)).unwrap_or_else(|| panic!("{disks:?}"));
        let syncs: u64 = what(disk).split(' ').next().unwrap().parse().unwrap();
        assert!(syncs > 0, "{disk}");
    }
    // For people it is a line each
    let said = on(&nodes[0], &["check"]).exits(1).complains(&["attention"]);
    assert!(said.stdout.lines().all(|line| line.starts_with("ok    ") || line.starts_with("look  ")), "{said:?}");
    assert!(said.stdout.lines().any(|line| line.starts_with("look  path") && line.contains("; next: ")), "{said:?}");
}

#[test]
fn a_directory_whose_node_does_not_run_is_looked_at_too() {
    let place = tempfile::tempdir().unwrap();
    let node = cli_support::Node::init(place.path(), "n1");
    let said = agrees(on(&node, &["check", "--json"]));
    assert_eq!(about(&said, "certificate")[0]["ok"], true, "{said:?}");
    let stopped = &about(&said, "node")[0];
    assert!(stopped["ok"] == false && what(stopped).contains("not running"), "{stopped}");
    assert!(stopped["next"].as_str().unwrap().contains("quorate run"), "{stopped}");
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = agrees(quorate(&["check", "--json", "--data-dir", empty.to_str().unwrap()]));
    assert!(what(&about(&said, "node")[0]).contains("none was prepared"));
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "nothing is left");
    quorate(&["check", "--data-dir", "/no/such"]).exits(2).complains(&["/no/such"]);
    quorate(&["check"]).exits(2).complains(&["--data-dir", "--connect"]);
}
