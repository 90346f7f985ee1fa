//! The seeded cluster: fixed seeds, fresh seeds, and that a seed is a run.
#![cfg(all(feature = "testing", feature = "consensus"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use quorate_core::testing::sim::{Profile, run};

#[test]
fn one_seed() {
    let seed = std::env::var("QUORATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match run(seed, Profile::Swarm) {
        Ok(report) => println!("{report:?}"),
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
