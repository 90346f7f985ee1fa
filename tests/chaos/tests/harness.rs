//! The harness itself: runs from files, shrinking, the command line, and what may not be in the simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod page_common;

use std::path::Path;
use std::process::Command;

use quorate_chaos::repro::Repro;
use quorate_chaos::scenarios;
use quorate_chaos::shrink::shrink;
use quorate_chaos::sim::{Act, Profile, SimConfig, WatchBug, World, run, run_config};

/// Files of failures of the past, run before anything else is.
#[test]
fn every_failure_of_the_past_stays_mended() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("repros");
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let repro = Repro::from_toml(&std::fs::read_to_string(&path).unwrap()).unwrap();
            if let Err(violation) = repro.run() {
                panic!("{}: {violation}", path.display());
            }
        }
    }
}

#[test]
fn a_run_from_the_list_of_its_acts_is_the_same_run() {
    for (seed, profile) in
        [(3, Profile::Swarm), (5, Profile::Membership), (2, Profile::Recovery), (4, Profile::Upgrade)]
    {
        // Given a run in which faults are drawn
        let config = SimConfig::draw(seed, profile);
        let mut world = World::new(config.clone()).unwrap();
        world.play().unwrap();
        let (acts, drawn) = (world.acts().to_vec(), world.report());
        assert!(!acts.is_empty());
        // When the same is done from the list
        let scripted = run_config(SimConfig { script: Some(acts), ..config }).unwrap();
        // Then it is the same run, to every message
        assert_eq!(scripted.trace_hash, drawn.trace_hash, "seed {seed} of {profile:?}");
    }
}

#[test]
fn a_failing_run_becomes_small_and_goes_through_a_file() {
    // Given a planted bug that a seed finds
    let bug = Some(WatchBug::BookmarksTheFuture);
    let violation = (1..)
        .find_map(|seed| run_config(SimConfig { watch_bug: bug, ..SimConfig::draw(seed, Profile::Watch) }).err())
        .unwrap();
    let repro = Repro::of(&violation);
    assert!(repro.still_fails().is_some());
    // When it is made small and written
    let before = (repro.acts.len(), repro.config.clients);
    let (small, _) = shrink(repro, 60, |_| {});
    let text = small.to_toml().unwrap();
    // Then the file fails as the seed did, with no more than it needs
    let read = Repro::from_toml(&text).unwrap();
    assert_eq!(read, small);
    assert_eq!(read.still_fails().unwrap().invariant, violation.invariant);
    assert!(small.acts.len() <= before.0 && small.config.clients < before.1, "{small:?}");
}

#[test]
fn every_scenario_holds() {
    for scenario in scenarios::ALL {
        if let Err(violation) = scenario.run(1) {
            panic!("{} {}: {violation}", scenario.id, scenario.name);
        }
    }
}

#[test]
fn an_act_that_is_done_by_hand_is_written_down() {
    let mut world = World::new(SimConfig::quiet(1, 3)).unwrap();
    world.act(Act::Pause { id: 2, lasts: 5 }).unwrap();
    assert_eq!(world.acts().len(), 1);
    assert_eq!(world.report().marks.reached().get(&("pause", "any")), Some(&1));
}

#[test]
fn without_words_a_run_is_the_same() {
    let config = SimConfig::draw(9, Profile::Swarm);
    let silent = run(9, Profile::Swarm).unwrap();
    let mut told = World::new(config).unwrap();
    told.keep_lines();
    told.play().unwrap();
    assert_eq!(silent, told.report());
    assert!(told.take_lines().len() > 100);
}

/// The core's clippy.toml forbids them there; here the real tier needs them, and the simulator must not have them.
#[test]
fn the_simulator_reads_no_clock_and_no_random_source() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sim");
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["HashMap", "HashSet", "Instant::", "SystemTime", "thread::", "std::env", "std::fs", "RandomState"]
        {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

fn chaos(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chaos")).args(words).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn the_exit_code_says_what_came_of_it() {
    // Passing seeds, a seed twice, a scenario
    let (code, text) = chaos(&["sim", "--seeds", "1..4", "--jobs", "2", "--check-determinism"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("seeds=3") && text.contains("PASS"), "{text}");
    assert_eq!(chaos(&["run", "S06", "--seeds", "1..2"]).0, Some(0));
    // A history that is not linearizable, one that is, and what is none
    let directory = std::env::temp_dir().join(format!("chaos-harness-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let line = |process, op: &str, result: &str, revision, call, end| {
        format!(
            "{{\"process\":{process},{op},\"key\":\"k\",\"result\":{result},\"revision\":{revision},\"node\":1,\"call_ns\":{call},\"return_ns\":{end},\"outcome\":\"ok\"}}\n"
        )
    };
    let write = line(1, "\"op\":\"put\",\"arg\":\"a\"", "null", 2, 0, 5);
    for (name, read, expected) in [("good", "\"a\"", 0), ("bad", "null", 1)] {
        let file = directory.join(name);
        std::fs::write(&file, format!("{write}{}", line(2, "\"op\":\"get\"", read, 2, 10, 12))).unwrap();
        let (code, text) = chaos(&["check", file.to_str().unwrap()]);
        assert_eq!(code, Some(expected), "{text}");
    }
    std::fs::write(directory.join("none"), "nonsense\n").unwrap();
    let (code, text) = chaos(&["check", directory.join("none").to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("line 1"), "{text}");
    std::fs::remove_dir_all(&directory).unwrap();
    // What is not known, and bugs that this build does not have
    assert_eq!(chaos(&["sim", "--profile", "nonsense"]).0, Some(3));
    assert_eq!(chaos(&["mutants"]).0, Some(3));
}

#[test]
fn seeds_and_a_single_one_are_shown_on_a_page_that_needs_no_network() {
    let temp = tempfile::tempdir().unwrap();
    let page = temp.path().join("sim.html");
    let written = chaos(&["sim", "--profile", "membership", "--seeds", "1..3", "--report", page.to_str().unwrap()]);
    assert_eq!(written.0, Some(0), "{}", written.1);
    let text = std::fs::read_to_string(&page).unwrap();
    for part in ["all seeds", "per CPU-hour", "every invariant, at every step", "fault"] {
        assert!(text.contains(part), "{part} is not on the page");
    }
    page_common::drawn(&page);
}

#[test]
fn seeds_that_once_failed_come_first() {
    let (code, text) = chaos(&["sim", "--kept", "--seeds", "1..2", "--jobs", "2"]);
    let kept = quorate_chaos::kept::all().len();
    assert!(code == Some(0) && text.contains(&format!("seeds={}", kept + 1)), "{text}");
}

#[test]
fn a_replay_tells_what_happened_and_stops_where_it_is_told() {
    let (code, short) = chaos(&["replay", "--seed", "3", "--trace", "short"]);
    let (_, full) = chaos(&["replay", "--seed", "3", "--trace", "full"]);
    let (_, early) = chaos(&["replay", "--seed", "3", "--trace", "full", "--stop-at", "1000"]);
    assert_eq!(code, Some(0));
    assert!(short.contains("Leader term") && short.contains("fault: "), "{short}");
    assert!(
        full.len() > 2 * short.len() && early.len() * 2 < full.len(),
        "{} {} {}",
        full.len(),
        short.len(),
        early.len()
    );
}
