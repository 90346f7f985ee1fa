//! What the scenarios on the simulated cluster share.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]

pub mod seats;
pub mod survivors;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, SimConfig, Violation, World};
use quorate_core::id::RaftId;
use quorate_core::state::contract::Outcome;

pub type Test = Result<(), Box<Violation>>;

pub fn quiet(members: u64) -> SimConfig {
    SimConfig::quiet(7, members)
}

/// A cluster that has grown to this many voters and rests.
pub fn grown(config: SimConfig, voters: usize) -> World {
    let mut world = World::new(config).unwrap();
    let grown = world
        .run_until(30_000 * MILLIS, |world| {
            let leader = world.leader().and_then(|leader| world.status(leader));
            leader.is_some_and(|status| status.configuration.voters.len() == voters) && world.is_settled().is_none()
        })
        .unwrap_or_else(|violation| panic!("{violation}"));
    assert!(grown, "{:?}", world.is_settled());
    // Nobody is fresh any more.
    world.run_for(2 * ELECTION).unwrap();
    world
}

pub fn followers(world: &World) -> Vec<RaftId> {
    let leader = world.leader();
    world.ids().into_iter().filter(|id| Some(*id) != leader).collect()
}

pub fn is_done(reply: Option<&Reply>) -> bool {
    matches!(reply, Some(Reply::Outcome(Outcome::Done(_))))
}
