//! Scenarios of what goes on while managers die: snapshots, keys, workers, versions, and more load than is good.

use super::{grown, loaded};
use crate::sim::{Act, ELECTION, MILLIS, NEWER, Report, Run, SimConfig, World};
use quorate_core::id::RaftId;
use quorate_core::testing::Rng;

fn followers(world: &World) -> Vec<RaftId> {
    let leader = world.leader();
    world.ids().into_iter().filter(|id| Some(*id) != leader).collect()
}

pub(super) fn snapshot_crash(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { log_window: 12, ..loaded(seed, 3) })?;
    let mut rng = Rng::stream(seed, 45);
    let before = world.report().snapshots_sent;
    for _ in 0..8 {
        let Some(behind) = rng.pick(&followers(&world)) else { continue };
        world.crash(behind, 0);
        world.run_for(3_000 * MILLIS)?;
        // It dies again somewhere on the way from the stream to the state, and so do two snapshots shortly after each other.
        world.restart(behind)?;
        world.doom(behind, rng.between(0, 30));
        world.run_for(1_500 * MILLIS)?;
        world.spare();
        world.restart(behind)?;
        world.run_for(500 * MILLIS)?;
    }
    let sent = world.report().snapshots_sent - before;
    world.expect(sent > 0, "snapshots_were_sent", || "nobody needed one".to_owned())?;
    world.play_out()
}

pub(super) fn keys_under_kills(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { secrets: true, ..loaded(seed, 3) })?;
    let mut rng = Rng::stream(seed, 46);
    for turn in 0..12_u64 {
        let ids = world.ids();
        let leader = world.leader().filter(|_| turn % 2 == 0);
        let Some(victim) = leader.or_else(|| rng.pick(&ids)) else { continue };
        world.doom(victim, rng.between(0, 20));
        world.run_for(1_500 * MILLIS)?;
        world.spare();
        world.restart(victim)?;
    }
    let keys = world.report().barrier_keys;
    world.expect(keys > 3, "keys_were_replaced", || format!("the newest key is number {keys}"))?;
    world.play_out()
}

pub(super) fn overload(seed: u64) -> Run<Report> {
    let config = SimConfig { clients: 6, slots: 3, think: 12 * MILLIS, value_bytes: 4_000, ..loaded(seed, 3) };
    let mut world = grown(config)?;
    let window = 3_000 * MILLIS;
    let done_in_it = |world: &mut World| -> Run<u64> {
        let before = world.report().acks;
        world.run_for(window)?;
        Ok(world.report().acks - before)
    };
    let before = done_in_it(&mut world)?;
    // When a follower's disk is fifty times as slow for a while
    let Some(RaftId(id)) = followers(&world).first().copied() else { return world.play_out() };
    world.act(Act::Slow { id, factor: 50, lasts: 8_000 * MILLIS })?;
    world.run_for(8_000 * MILLIS + 10 * ELECTION)?;
    // Then ten elections later as much is done as before: nothing feeds on itself
    let after = done_in_it(&mut world)?;
    world.expect(after * 10 >= before * 8, "load_recovers", || format!("{before} before, {after} afterwards"))?;
    world.play_out()
}

pub(super) fn worker_churn(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { sessions: 16, ..loaded(seed, 3) })?;
    for _ in 0..6 {
        world.run_for(5_000 * MILLIS)?;
        let Some(leader) = world.leader() else { continue };
        world.crash(leader, usize::MAX);
        world.run_for(2_000 * MILLIS)?;
        world.restart(leader)?;
    }
    let down = world.report().workers_down;
    world.expect(down > 0, "workers_died", || "no worker was ever down".to_owned())?;
    world.play_out()
}

pub(super) fn mixed_version(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { upgrades: true, ..loaded(seed, 3) })?;
    let mut rng = Rng::stream(seed, 47);
    let mut order = followers(&world);
    order.extend(world.leader());
    for id in order {
        world.reinstall(id, NEWER)?;
        world.run_for(1_500 * MILLIS)?;
        world.announce()?;
        // Whoever leads dies between two of them, so that leaders of both versions come about.
        let Some(leader) = world.leader() else { continue };
        world.crash(leader, rng.index(4));
        world.run_for(1_500 * MILLIS)?;
        world.restart(leader)?;
        world.run_for(1_000 * MILLIS)?;
    }
    world.play_out()
}
