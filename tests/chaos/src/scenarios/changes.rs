//! Scenarios of changes of the voters: many of them, at once, with whoever leads dying in the middle, and members that are away.

use super::{another_leads, grown, loaded};
use crate::sim::{ELECTION, MILLIS, Report, Run, SimConfig, World};
use quorate_core::id::RaftId;
use quorate_core::membership::wish::Wish;
use quorate_core::testing::Rng;

/// A change that was asked for is made within this time, whoever dies in it.
const MADE_WITHIN: u64 = 60_000 * MILLIS;

/// A voter is lost after 4 s, and nobody is waited for longer than 6 s.
fn seats(seed: u64, members: u64) -> SimConfig {
    SimConfig {
        lost_after: 4_000 * MILLIS,
        promote_after: 2_000 * MILLIS,
        patience_after: 6_000 * MILLIS,
        ..loaded(seed, members)
    }
}

fn voters(world: &World) -> Vec<RaftId> {
    let status = world.leader().and_then(|leader| world.status(leader));
    status.filter(|status| !status.configuration.is_joint()).map_or_else(Vec::new, |s| s.configuration.voters.clone())
}

fn is_burnt(world: &World, id: RaftId) -> bool {
    world.leader_records().is_some_and(|records| records.removed.contains(&id))
}

/// There are to be so many voters at most: ordered again where the order was lost with a leader.
fn to_voters(world: &mut World, most: u32) -> Run {
    let (begun, wanted) = (world.now(), usize::try_from(most).unwrap_or(3));
    while world.now() - begun < MADE_WITHIN {
        world.edit_cluster(|cluster| cluster.max_voters = most)?;
        if world.run_until_seen(5_000 * MILLIS, |world| voters(world).len() == wanted)? {
            return Ok(());
        }
    }
    let detail = format!("{:?} where {wanted} voters are allowed", voters(world));
    world.expect(false, "as_many_voters_as_can_be", || detail)
}

/// Every wish has ended: there is nothing left to be done about seats.
fn wishes_end(world: &mut World) -> Run {
    let ended = world.run_until_seen(MADE_WITHIN, |world| world.is_at_rest().is_none())?;
    let detail = world.is_at_rest();
    world.expect(ended, "every_wish_ends", || detail.unwrap_or_default())
}

pub(super) fn grow_shrink(seed: u64) -> Run<Report> {
    let mut world = grown(seats(seed, 5))?;
    let mut rng = Rng::stream(seed, 43);
    for turn in 0..8_u64 {
        let most = if turn % 2 == 0 { 3 } else { 5 };
        world.edit_cluster(|cluster| cluster.max_voters = most)?;
        world.run_for(rng.between(0, 1_500) * MILLIS)?;
        let Some(victim) = rng.pick(&world.ids()) else { continue };
        world.crash(victim, rng.index(4));
        world.run_for(1_000 * MILLIS)?;
        world.restart(victim)?;
        to_voters(&mut world, most)?;
    }
    world.play_out()
}

pub(super) fn even_refused(seed: u64) -> Run<Report> {
    let mut world = grown(seats(seed, 3))?;
    world.let_workers_enrol();
    // A fourth, and a sixth manager are parked
    for (more, seated) in [(1, 3), (2, 5)] {
        for _ in 0..more {
            world.add_manager()?;
        }
        wishes_end(&mut world)?;
        let there = world.run_until_seen(MADE_WITHIN, |world| voters(world).len() == seated)?;
        let detail = format!("{:?}", voters(&world));
        world.expect(there, "an_even_one_stands_by", || detail)?;
    }
    // When two are demoted and one is promoted at once, and the leader dies over it
    let Some(leader) = world.leader() else { return world.play_out() };
    let others: Vec<RaftId> = voters(&world).into_iter().filter(|id| *id != leader).collect();
    for id in others.into_iter().take(2) {
        world.demote(id, false)?;
    }
    let node = world.add_worker(false)?;
    world.promote(node)?;
    world.run_for(20 * MILLIS)?;
    world.crash(leader, usize::MAX);
    another_leads(&mut world, leader, 10 * ELECTION)?;
    world.restart(leader)?;
    // Then whatever of it counts comes to its end, and the invariants have seen no even number on the way.
    wishes_end(&mut world)?;
    world.play_out()
}

pub(super) fn joint_crash(seed: u64) -> Run<Report> {
    let mut world = grown(seats(seed, 5))?;
    let mut rng = Rng::stream(seed, 44);
    for turn in 0..12_u64 {
        let most = if turn % 2 == 0 { 3 } else { 5 };
        world.edit_cluster(|cluster| cluster.max_voters = most)?;
        let Some(leader) = world.leader() else { continue };
        world.run_for(rng.between(0, 60) * MILLIS)?;
        world.doom(leader, turn * 4 + rng.between(0, 3));
        world.run_until(3_000 * MILLIS, |world| world.status(leader).is_none())?;
        world.spare();
        world.run_for(500 * MILLIS)?;
        world.restart(leader)?;
        to_voters(&mut world, most)?;
    }
    world.play_out()
}

pub(super) fn promote_storm(seed: u64) -> Run<Report> {
    let mut world = grown(seats(seed, 3))?;
    world.let_workers_enrol();
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(world.add_worker(false)?);
    }
    world.run_for(2_000 * MILLIS)?;
    // When all four are promoted at once, and one of them is off from its first moment on
    for node in &nodes {
        world.promote(*node)?;
    }
    let off = nodes.get(usize::try_from(seed % 4).unwrap_or(0)).copied().unwrap_or_default();
    let enrolled = world.run_until(20_000 * MILLIS, |world| !world.raft_ids_of(off).is_empty())?;
    world.expect(enrolled, "who_is_promoted_enrols", || format!("node {off}"))?;
    let Some(id) = world.raft_ids_of(off).last().copied() else { return world.play_out() };
    world.isolate(id);
    // Then five have seats, and it is none of them
    let seated = world.run_until_seen(MADE_WITHIN, |world| voters(world).len() == 5)?;
    let there = voters(&world);
    world
        .expect(seated && !there.contains(&id), "who_is_off_gets_no_seat", || format!("{id} is off, {there:?} vote"))?;
    world.heal();
    world.play_out()
}

pub(super) fn demote_downed(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { lost_after: 3_600_000 * MILLIS, ..seats(seed, 5) })?;
    world.let_workers_enrol();
    // Two of five die one after the other, and each is demoted: a majority of what is left is there
    for _ in 0..2 {
        let (leader, seated) = (world.leader(), voters(&world));
        let Some(dead) = seated.into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
        world.crash(dead, usize::MAX);
        world.run_for(2_000 * MILLIS)?;
        let refused = world.may(dead, Wish::Demote { forced: false }).err();
        world.expect(refused.is_none(), "who_is_down_can_be_demoted", || format!("{dead}: {refused:?}"))?;
        world.demote(dead, false)?;
        let burnt = world.run_until_seen(MADE_WITHIN, |world| is_burnt(world, dead))?;
        world.expect(burnt, "a_demoted_manager_is_burnt", || format!("{dead} was to be demoted"))?;
    }
    // Of three the last but one is not: that would end fault tolerance
    let (leader, seated) = (world.leader(), voters(&world));
    let Some(dead) = seated.into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    world.crash(dead, usize::MAX);
    world.run_for(2_000 * MILLIS)?;
    let allowed = world.may(dead, Wish::Demote { forced: false }).is_ok();
    world.expect(!allowed, "fault_tolerance_ends_only_by_force", || format!("{dead} may be demoted"))?;
    world.play_out()
}

pub(super) fn dark_learner(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { max_voters: 3, log_window: 8, ..seats(seed, 3) })?;
    let dark = world.add_manager()?;
    world.isolate(dark);
    world.run_for(10_000 * MILLIS)?;
    let before = world.report().snapshots_installed;
    world.heal();
    let near = |world: &World| {
        let last = world.leader().and_then(|leader| world.status(leader)).map_or(0, |status| status.last.0);
        last > 0 && world.status(dark).is_some_and(|status| status.applied.0 + 64 >= last)
    };
    let there = world.run_until_seen(MADE_WITHIN, near)?;
    let installed = world.report().snapshots_installed - before;
    world.expect(there && installed > 0, "who_was_dark_catches_up", || format!("{dark}, {installed} snapshots"))?;
    world.play_out()
}
