//! Watches in the seeded cluster: every promise under every fault, and that a promise that is broken is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![allow(clippy::print_stdout, reason = "reports go to people")]

use quorate_chaos::sim::{Profile, Report, SimConfig, WatchBug, run, run_config};

#[test]
fn watches_keep_every_promise_under_every_fault() {
    let mut sum = Report::default();
    for seed in 1..=40 {
        match run(seed, Profile::Watch) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{sum:?}");
    // What never happened was never survived.
    for (what, count) in [
        ("watches", sum.watches),
        ("messages", sum.watch_messages),
        ("chunks of history", sum.watch_reads),
        ("watches that were cut", sum.watches_cut),
        ("watches whose start was compacted", sum.watches_compacted),
        ("snapshots installed", sum.snapshots_installed),
        ("crashes", sum.crashes),
        ("elections", sum.elections),
    ] {
        assert!(count > 0, "no {what} in {} events", sum.events);
    }
}

/// The promise that a planted bug breaks first, in any of some seeds.
fn caught(bug: WatchBug) -> Vec<&'static str> {
    let mut caught = Vec::new();
    for seed in 1..=20 {
        let config = SimConfig { watch_bug: Some(bug), ..SimConfig::draw(seed, Profile::Watch) };
        if let Err(violation) = run_config(config) {
            caught.push(violation.invariant);
        }
    }
    println!("{bug:?}: {caught:?}");
    caught
}

#[test]
fn a_revision_told_twice_is_noticed() {
    let caught = caught(WatchBug::ResumesOneEarly);
    assert!(caught.contains(&"watch_ordered_unique"), "{caught:?}");
}

#[test]
fn a_revision_that_is_skipped_after_a_cut_is_noticed() {
    let caught = caught(WatchBug::SkipsOnCut);
    assert!(caught.contains(&"watch_reliable"), "{caught:?}");
}

#[test]
fn a_snapshot_that_watches_do_not_notice_is_noticed() {
    let caught = caught(WatchBug::InstallsUnnoticed);
    assert!(caught.iter().any(|name| ["watch_reliable", "watch_bookmarks_hold"].contains(name)), "{caught:?}");
}

#[test]
fn a_bookmark_for_the_future_is_noticed() {
    let caught = caught(WatchBug::BookmarksTheFuture);
    assert!(caught.contains(&"watch_bookmarks_hold"), "{caught:?}");
}
