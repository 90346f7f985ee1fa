//! Rotations of the CA under faults: whoever leads, whatever clocks say, none ends early, and nobody in time is shut out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use quorate_chaos::sim::{Profile, Rotated, run_rotations};

fn run(seed: u64, profile: Profile) -> Rotated {
    run_rotations(seed, profile).unwrap_or_else(|violation| panic!("{violation}"))
}

#[test]
fn rotations_follow_each_other_under_faults_and_none_ends_early_or_takes_the_quorum() {
    let mut sum = Rotated::default();
    for profile in [Profile::Network, Profile::Disk, Profile::Swarm] {
        for seed in 1..=6 {
            sum.add(&run(seed, profile));
        }
    }
    // What never happened was never survived.
    for (what, count) in [
        ("rotations", sum.begun),
        ("rotations within another one", sum.nested),
        ("rotations that stood in line", sum.in_line),
        ("rotations that ended when all had renewed", sum.ended_by_all),
        ("rotations that ended by their deadline", sum.ended_by_deadline),
        ("members that came back with a token", sum.left_behind),
        ("notes of the time", sum.noted),
    ] {
        assert!(count > 0, "no {what}: {sum:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(3, Profile::Swarm), run(3, Profile::Swarm));
}
