//! The seeded cluster: fixed seeds, fresh seeds, and that a seed is a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "seeds come from the environment, reports go to people"
)]

use quorate_chaos::kept;
use quorate_chaos::sim::{Profile, Report, SimConfig, run, run_config};

/// Kept regressions of one profile.
fn kept_seeds(of: Profile) -> Vec<u64> {
    kept::all().into_iter().filter(|kept| kept.profile == of).map(|kept| kept.seed).collect()
}

/// What a seed draws; a kept one that says so, without what was not drawn yet when it was found.
fn drawn(seed: u64, profile: Profile) -> SimConfig {
    let kept = kept::all().into_iter().find(|kept| (kept.seed, kept.profile) == (seed, profile));
    kept.map_or_else(|| SimConfig::draw(seed, profile), |kept| kept.config())
}

/// Kept regressions and the first seeds after them, in [`Profile::Swarm`].
fn fixed_seeds() -> Vec<u64> {
    kept_seeds(Profile::Swarm).into_iter().chain(1..=58).collect()
}

fn run_all(seeds: &[u64], profile: Profile) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        match run_config(drawn(*seed, profile)) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{} seeds of {profile:?}: {sum:?}", seeds.len());
    sum
}

#[test]
fn fixed_seeds_keep_every_invariant_and_meet_every_fault() {
    let sum = run_all(&fixed_seeds(), Profile::Swarm);
    // A fault that never happened was never survived.
    for (what, count) in [
        ("acknowledged writes", sum.acks),
        ("reads", sum.reads),
        ("retries", sum.retries),
        ("elections", sum.elections),
        ("configurations", sum.configurations),
        ("snapshots sent", sum.snapshots_sent),
        ("snapshots broken on the way", sum.snapshots_failed),
        ("snapshots installed", sum.snapshots_installed),
        ("snapshots refused", sum.snapshots_refused),
        ("fetches", sum.fetches),
        ("crashes", sum.crashes),
        ("batches lost", sum.lost_batches),
        ("partitions", sum.partitions),
        ("disk faults", sum.disk_faults),
        ("disks that hang", sum.disk_hangs),
        ("disks without space", sum.shortages),
        ("transfers", sum.transfers),
        ("leases", sum.leases),
        ("forwarded requests", sum.forwarded),
    ] {
        assert!(count > 0, "no {what} in {} events", sum.events);
    }
}

#[test]
fn every_profile_keeps_every_invariant() {
    for profile in [Profile::Network, Profile::Disk, Profile::Membership] {
        let seeds: Vec<u64> = kept_seeds(profile).into_iter().chain(1..=6).collect();
        let sum = run_all(&seeds, profile);
        assert!(sum.acks > 0);
    }
}

#[test]
fn what_the_mixture_found_stays_mended() {
    let seeds = kept_seeds(Profile::Mixed);
    assert!(!seeds.is_empty());
    run_all(&seeds, Profile::Mixed);
}

#[test]
fn secrets_are_sealed_and_keys_replaced_under_every_fault() {
    let seeds: Vec<u64> = kept_seeds(Profile::Secrets).into_iter().chain(1..=12).collect();
    let sum = run_all(&seeds, Profile::Secrets);
    // What never happened was never survived.
    assert!(sum.acks > 0 && sum.replaced > 0 && sum.snapshots_installed > 0, "{sum:?}");
    assert!(sum.barrier_keys > 3 * seeds.len() as u64, "keys were replaced: {sum:?}");
    assert!(sum.stale_keys > 0, "somebody sealed with a key that had gone: {sum:?}");
}

#[test]
fn workers_are_known_and_never_go_back_under_every_fault() {
    let mut sum = Report::default();
    // Given seeds in which nobody becomes a manager, and workers that die, come back and move on
    let seeds: Vec<u64> = (1..).filter(|seed| !SimConfig::draw(*seed, Profile::Swarm).churn).take(12).collect();
    for seed in seeds {
        let config = SimConfig { sessions: 4, ..SimConfig::draw(seed, Profile::Swarm) };
        match run_config(config) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    // Then what is held against every seed was there to be broken.
    for (what, count) in [
        ("workers down", sum.workers_down),
        ("workers that were told what is older", sum.workers_ahead),
        ("elections", sum.elections),
    ] {
        assert!(count > 0, "no {what}: {sum:?}");
    }
}

#[test]
fn a_calm_cluster_elects_once_and_loses_nobody() {
    for seed in 1..=4 {
        let report = run(seed, Profile::Calm).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!((report.elections, report.crashes), (1, 0), "{report:?}");
        // Only what was asked before the first election may have waited too long.
        assert!(report.unknown <= 16, "{report:?}");
        assert!(report.acks > 0);
    }
}

/// `QUORATE_SIM_SEEDS=n` runs more of them.
#[test]
fn fresh_seeds_keep_every_invariant() {
    use std::hash::{BuildHasher, RandomState};
    let count = std::env::var("QUORATE_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(5);
    let seeds: Vec<u64> = (0..count).map(|n: u64| RandomState::new().hash_one(n) >> 16).collect();
    println!("fresh seeds: {seeds:?}");
    run_all(&seeds, Profile::Swarm);
}

#[test]
fn a_seed_is_the_same_run_in_another_process_and_another_seed_is_not() {
    // Given this very program, asked for the trace hash of a seed in a process of its own
    let hash_of = |seed: u64| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["prints_a_trace_hash", "--exact", "--nocapture"])
            .env("QUORATE_SIM_HASH_OF", seed.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("trace hash")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no hash in {text}"))
    };
    // When seeds are run twice
    for seed in [3, 19, 133] {
        let (first, second) = (hash_of(seed), hash_of(seed));
        // Then the runs are equal, down to every event and effect
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first, hash_of(seed + 1));
    }
}

#[test]
fn prints_a_trace_hash() {
    let Some(seed) = std::env::var("QUORATE_SIM_HASH_OF").ok().and_then(|seed| seed.parse().ok()) else { return };
    let report = run(seed, Profile::Swarm).unwrap_or_else(|violation| panic!("{violation}"));
    println!("trace hash of seed {seed}: {:016x}", report.trace_hash);
}
