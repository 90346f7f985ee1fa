//! The seeded cluster: fixed seeds, fresh seeds, and that a seed is a run.
#![cfg(all(feature = "testing", feature = "consensus"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use quorate_core::testing::sim::{Profile, SimConfig, World, run};

/// `QUORATE_SIM_SEED=n` runs one seed; with `QUORATE_SIM_TRACE=1` it prints every line of it.
#[test]
fn one_seed() {
    let seed = std::env::var("QUORATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut world = World::new(SimConfig::draw(seed, Profile::Swarm)).unwrap();
    world.keep_lines();
    let played = world.play();
    if std::env::var_os("QUORATE_SIM_TRACE").is_some() {
        for line in world.take_lines() {
            println!("{line}");
        }
    }
    match played {
        Ok(()) => println!("{:?}", world.report()),
        Err(violation) => panic!("{violation}"),
    }
}

/// `QUORATE_SIM_RANGE=from..to` runs these seeds and prints those that fail: for hunting.
#[test]
fn a_range_of_seeds() {
    let Ok(range) = std::env::var("QUORATE_SIM_RANGE") else { return };
    let (from, to) = range.split_once("..").unwrap();
    let mut failed = std::collections::BTreeMap::<&str, Vec<u64>>::new();
    for seed in from.parse::<u64>().unwrap()..to.parse::<u64>().unwrap() {
        if let Err(violation) = run(seed, Profile::Swarm) {
            println!("{seed} {} {}", violation.invariant, violation.detail);
            failed.entry(violation.invariant).or_default().push(seed);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
