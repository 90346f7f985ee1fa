//! Scenarios of processes that die, disks that fail and clocks that run as they like.

use super::{another_leads, at, grown, loaded, scripted};
use crate::sim::{Act, ELECTION, MILLIS, Report, Run, SimConfig, Timed};

pub(super) fn leader_kill_loop(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 5))?;
    for _ in 0..20 {
        let Some(leader) = world.leader() else { return world.play_out() };
        world.crash(leader, usize::MAX);
        another_leads(&mut world, leader, 5 * ELECTION)?;
        world.run_for(2_000 * MILLIS)?;
        world.restart(leader)?;
        world.run_for(1_000 * MILLIS)?;
    }
    world.play_out()
}

pub(super) fn all_kill(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 41);
    let mut acts = Vec::new();
    for turn in 0..5_u64 {
        for id in 1..=3_u64 {
            let down = if turn % 2 == 0 { 200 } else { rng.between(1, 2_000) };
            let keep = Some(rng.between(0, 6));
            acts.push(at(3_000 + turn * 5_000, Act::Crash { id, keep, down: Some(down * MILLIS) }));
        }
    }
    scripted(loaded(seed, 3), acts)
}

pub(super) fn exactly_once(seed: u64) -> Run<Report> {
    let config = SimConfig { log_window: 20, patience: 200 * MILLIS, slots: 3, ..loaded(seed, 3) };
    let mut world = grown(config)?;
    for _ in 0..12 {
        world.run_for(1_000 * MILLIS)?;
        let Some(leader) = world.leader() else { continue };
        world.crash(leader, 0);
        world.run_for(1_000 * MILLIS)?;
        world.restart(leader)?;
    }
    world.play_out()
}

pub(super) fn contention(seed: u64) -> Run<Report> {
    let config = SimConfig { registers: 12, think: 10 * MILLIS, loss: 50, crashes: true, ..loaded(seed, 3) };
    let kills = (0..6).map(|turn| {
        let id = 1 + (seed + turn) % 3;
        at(4_000 + turn * 4_000, Act::Crash { id, keep: Some(1), down: Some(500 * MILLIS) })
    });
    scripted(config, kills.collect())
}

pub(super) fn enospc(seed: u64) -> Run<Report> {
    let lasts = 5_000 * MILLIS;
    let mut acts: Vec<Timed> = (1..=3).map(|id| at(2_000 + id * 7_000, Act::Shortage { id, lasts })).collect();
    acts.extend([1, 2].map(|id| at(32_000, Act::Shortage { id, lasts })));
    scripted(loaded(seed, 3), acts)
}

pub(super) fn fsync_eio(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(leader) = world.leader() else { return world.play_out() };
    world.fail_sync(leader);
    another_leads(&mut world, leader, 10 * ELECTION)?;
    world.run_for(5 * ELECTION)?;
    // Everybody loses power: what the failed sync did not write may be missed by nobody.
    for id in world.ids() {
        world.crash(id, 0);
    }
    for id in world.ids() {
        world.restart(id)?;
    }
    world.play_out()
}

pub(super) fn stuck_disk(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(leader) = world.leader() else { return world.play_out() };
    world.hold_sync(leader, true);
    world.hold_apply(leader, true);
    let moved = world.run_until(10_000 * MILLIS, |world| world.leader().is_some_and(|now| now != leader))?;
    world.expect(moved, "a_stuck_disk_does_not_lead", || format!("{leader} still leads after 10 s"))?;
    world.run_for(10_000 * MILLIS)?;
    world.hold_sync(leader, false);
    world.hold_apply(leader, false);
    world.play_out()
}

pub(super) fn clock_chaos(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 42);
    let acts = (0..12_u64).map(|turn| {
        let id = rng.between(1, 3);
        let act = if rng.chance(500) {
            Act::Jump { id, nanos: rng.between(100, 3_600_000) * MILLIS }
        } else {
            Act::Drift { id, ppm: i64::try_from(rng.between(0, 400_000)).unwrap_or(0) - 200_000 }
        };
        at(4_000 + turn * 2_000, act)
    });
    let acts = acts.collect();
    scripted(SimConfig { clocks: true, ..loaded(seed, 3) }, acts)
}

pub(super) fn wiped(seed: u64) -> Run<Report> {
    let config = SimConfig { replacements: true, ..loaded(seed, 3) };
    scripted(config, vec![at(6_000, Act::Replace { id: 2 + seed % 2 })])
}
