//! Real processes: short runs that must pass, and runs that are broken on purpose and must not.
//!
//! Owns its runs' directories. The `quorate` under test is the one that was built beside `chaos`. Settings, for long runs:
//! `QUORATE_CHAOS_KILLS` (kills, default 200) and `QUORATE_CHAOS_SEED`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails loudly")]

mod page_common;

use std::path::Path;
use std::process::{Command, Output};

fn chaos(words: &[&str], out: &Path, broken: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.arg("real").args(words).arg("--out").arg(out).env("QUORATE_CHAOS_BREAK", broken);
    let output = command.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

fn setting(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_unset| default.to_owned())
}

/// What the run wrote of itself.
fn told(out: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap()
}

fn verdict_of(run: &serde_json::Value, checker: &str) -> String {
    let findings = run["findings"].as_array().unwrap();
    let found = findings.iter().find(|found| found[0] == checker).unwrap_or_else(|| panic!("no {checker} in {run}"));
    found[1].as_str().unwrap().to_owned()
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (kills, seed) = (setting("QUORATE_CHAOS_KILLS", "200"), setting("QUORATE_CHAOS_SEED", "11"));
    // Fast elections: here it is the kills that count, and every wait is for a condition.
    let words = ["--scenario", "kills", "--kills", &kills, "--seed", &seed, "--tick", "20ms"];
    let output = chaos(&words, temp.path(), "");
    assert!(output.status.success(), "{output:?}");
    let run = told(temp.path());
    for checker in ["durable", "exactly once (keys)", "exactly once (counter)", "watch", "equal state", "stores"] {
        assert_eq!(verdict_of(&run, checker), "pass");
    }
}

#[test]
fn managers_that_die_with_large_values_have_each_of_them_whole() {
    let temp = tempfile::tempdir().unwrap();
    let words = ["--scenario", "large", "--duration", "12s", "--seed", "5", "--pace", "500ms", "--tick", "20ms"];
    let output = chaos(&words, temp.path(), "");
    assert!(output.status.success(), "{output:?}");
    let run = told(temp.path());
    for checker in ["durable", "exactly once (keys)", "equal state", "stores"] {
        assert_eq!(verdict_of(&run, checker), "pass");
    }
}

#[test]
fn a_cut_leader_answers_nothing_and_the_page_of_the_run_tells_of_it() {
    let temp = tempfile::tempdir().unwrap();
    let words = ["--scenario", "S04", "--duration", "8s", "--seed", "5", "--pace", "1s"];
    let output = chaos(&words, temp.path(), "");
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(temp.path().join("report.html")).unwrap();
    for part in ["cut-leader", "datagrams", "one leader per term", "linearizable (revisions)", "id=\"data\""] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    page_common::drawn(&temp.path().join("report.html"));
}

#[test]
fn a_run_whose_list_holds_a_write_that_was_never_sent_fails() {
    let temp = tempfile::tempdir().unwrap();
    let words = ["--scenario", "S02", "--duration", "1s", "--seed", "5", "--pace", "1s", "--tick", "20ms"];
    let output = chaos(&words, temp.path(), "list");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let run = told(temp.path());
    assert_eq!(verdict_of(&run, "durable"), "fail");
    assert!(run["verdict"].as_str().unwrap().contains("never/sent"), "{run}");
}

#[test]
fn a_run_whose_readers_take_what_may_be_stale_fails() {
    let temp = tempfile::tempdir().unwrap();
    // A leader that is cut off knows nothing of what the majority does: who asks it without a quorum reads the past.
    let output = chaos(&["--scenario", "S04", "--duration", "8s", "--seed", "5", "--pace", "1s"], temp.path(), "reads");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(told(temp.path())["verdict"].as_str().unwrap().contains("stale read"));
}

/// The control of the whole tier: a disk that lies is a bug that nobody can hide, and it has to be found.
#[test]
fn disks_that_lie_about_their_syncs_are_found_out() {
    let temp = tempfile::tempdir().unwrap();
    let output = chaos(&["--scenario", "lying-disk", "--duration", "1s", "--seed", "3"], temp.path(), "");
    let run = told(temp.path());
    if output.status.code() == Some(4) {
        // Never taken for a pass: on a machine that cannot mount there is no control.
        assert!(run["verdict"].as_str().unwrap().contains("skipped"), "{run}");
        println!("SKIP: {}", run["verdict"]);
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{run}");
}

#[test]
fn what_was_not_reached_is_not_passed() {
    let temp = tempfile::tempdir().unwrap();
    // The kernel's filter cannot lose some of the datagrams; nobody but root may even try.
    let words = ["--scenario", "S07", "--duration", "1s", "--net", "nft", "--tick", "20ms"];
    let output = chaos(&words, temp.path(), "");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(told(temp.path())["verdict"].as_str().unwrap().contains("skipped"));
}
