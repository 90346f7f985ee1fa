//! Who lets whom in on the simulated cluster, where nobody is left who could give a word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{MILLIS, SimConfig, World};
use quorate_core::id::RaftId;
use sim_common::Test;
use sim_common::seats::{configuration, grown, ids, is_burnt, quiet};

/// Managers that ask each other at the door who they are.
fn with_doors(members: u64, max_voters: u32) -> World {
    let mut world = grown(SimConfig { max_voters, gates: true, ..quiet(members) });
    world.let_workers_enrol();
    world
}

/// Nobody hears from these, whatever they hear from each other, and none of them loses its seat for that.
fn are_away(world: &mut World, away: &[u64]) -> Test {
    for node in away {
        world.edit(*node, |record| (record.hold_ms, record.hold_serial) = (600_000, 1))?;
        world.run_for(500 * MILLIS)?;
    }
    for other in world.ids().into_iter().filter(|id| !away.contains(&id.0)) {
        for id in away {
            world.cut(RaftId(*id), other);
            world.cut(other, RaftId(*id));
        }
    }
    Ok(())
}

/// A manager gives its seat to a standby and becomes a worker.
fn demoted(world: &mut World, id: u64, voters: &[u64]) -> Test {
    world.demote(RaftId(id), false)?;
    let done = |world: &World| configuration(world).voters == ids(voters) && is_burnt(world, id);
    let done = world
        .run_until(20_000 * MILLIS, |world| done(world) && world.raft_ids_of(id).iter().all(|id| !up(world, id)))?;
    assert!(done, "{:?}, {:?}", configuration(world), world.is_at_rest());
    Ok(())
}

fn up(world: &World, id: &RaftId) -> bool {
    world.status(*id).is_some()
}

/// A worker becomes a manager again, under this raft id.
fn promoted(world: &mut World, node: u64, id: u64, away: &[u64]) -> Test {
    world.promote(node)?;
    let known = world.run_until(20_000 * MILLIS, |world| world.ids().contains(&RaftId(id)))?;
    assert!(known, "{:?}", world.ids());
    for other in away {
        world.cut(RaftId(*other), RaftId(id));
        world.cut(RaftId(id), RaftId(*other));
    }
    let done = |world: &World| configuration(world).learners.contains(&RaftId(id));
    assert!(world.run_until(20_000 * MILLIS, done)?, "{:?}", configuration(world));
    Ok(())
}

/// They do writes again, under one of them.
fn go_on(world: &mut World, managers: &[u64]) -> Test {
    let led = world.run_until(40_000 * MILLIS, |world| {
        let leader = world.leader().filter(|leader| managers.contains(&leader.0));
        leader.is_some_and(|leader| {
            let known = |id: &u64| world.status(RaftId(*id)).is_some_and(|status| status.leader == Some(leader));
            managers.iter().all(known) && world.status(leader).is_some_and(|status| status.lease.is_some())
        })
    })?;
    let leaders: Vec<_> = managers.iter().map(|id| world.status(RaftId(*id)).map(|status| status.leader)).collect();
    assert!(led, "{leaders:?}");
    Ok(())
}

#[test]
fn two_voters_of_which_one_has_missed_that_the_other_came_back_are_a_majority() -> Test {
    // Given three voters, of which 3 is away
    let mut world = with_doors(4, 3);
    are_away(&mut world, &[3])?;
    // And node 2 goes on as a worker, and then as a manager again, under raft id 5, with a seat
    demoted(&mut world, 2, &[1, 3, 4])?;
    promoted(&mut world, 2, 5, &[3])?;
    demoted(&mut world, 4, &[1, 3, 5])?;
    // When 1 is lost for good, and 3 is back: by its records raft id 5 is nobody's, and whoever could tell it otherwise is gone
    world.destroy(RaftId(1));
    world.heal();
    // Then the two go on.
    go_on(&mut world, &[3, 5])?;
    world.play_out().map(drop)
}

#[test]
fn three_voters_of_five_of_which_two_have_missed_that_the_third_came_back_are_a_majority() -> Test {
    // Given five voters, of which 3 and 4 are away, together
    let mut world = with_doors(6, 5);
    are_away(&mut world, &[3, 4])?;
    demoted(&mut world, 2, &[1, 3, 4, 5, 6])?;
    promoted(&mut world, 2, 7, &[3, 4])?;
    demoted(&mut world, 6, &[1, 3, 4, 5, 7])?;
    // When the others are lost for good: 3 and 4 can ask each other, and neither knows
    world.destroy(RaftId(1));
    world.destroy(RaftId(5));
    world.heal();
    go_on(&mut world, &[3, 4, 7])?;
    world.play_out().map(drop)
}

#[test]
fn two_managers_that_are_told_that_they_are_none_any_more_go_on_when_they_meet() -> Test {
    // Given two voters of three that are left, and do not reach each other
    let mut world = with_doors(3, 3);
    world.destroy(RaftId(1));
    world.isolate(RaftId(2));
    world.run_for(4_000 * MILLIS)?;
    // When somebody in the place of the third one tells both that their raft ids were taken from them
    world.lie_to(RaftId(2), RaftId(1));
    world.lie_to(RaftId(3), RaftId(1));
    world.run_for(4_000 * MILLIS)?;
    // Then neither believes it as long as no quorum says so, and together they are one.
    world.heal();
    go_on(&mut world, &[2, 3])?;
    world.play_out().map(drop)
}
