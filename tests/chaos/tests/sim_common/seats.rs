//! What the scenarios about seats share: who has one, and what the records and the log say of it.

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, SimConfig, World};
use quorate_core::consensus::io::{Status, Ticket};
use quorate_core::id::RaftId;
use quorate_core::log::Configuration;
use quorate_core::membership::record::NodeRecord;
use quorate_core::state::contract::Outcome;

/// A voter is lost after 4 s, a worker is promoted 2 s later, and nobody is waited for longer than 6 s.
pub fn quiet(members: u64) -> SimConfig {
    SimConfig {
        lost_after: 4000 * MILLIS,
        promote_after: 2000 * MILLIS,
        patience_after: 6000 * MILLIS,
        ..SimConfig::quiet(11, members)
    }
}

pub fn ids(ids: &[u64]) -> Vec<RaftId> {
    ids.iter().copied().map(RaftId).collect()
}

pub fn leader(world: &World) -> Option<&Status> {
    world.leader().and_then(|leader| world.status(leader))
}

pub fn configuration(world: &World) -> Configuration {
    leader(world).map(|status| status.configuration.clone()).unwrap_or_default()
}

pub fn seats(world: &World) -> (Vec<RaftId>, Vec<RaftId>) {
    let Configuration { voters, learners, .. } = configuration(world);
    (voters, learners)
}

/// At rest with these voters and standbys.
pub fn is_seated(world: &World, voters: &[u64], standbys: &[u64]) -> bool {
    world.is_settled().is_none()
        && world.is_at_rest().is_none()
        && !configuration(world).is_joint()
        && seats(world) == (ids(voters), ids(standbys))
}

#[track_caller]
pub fn seated(world: &mut World, voters: &[u64], standbys: &[u64]) {
    let done = world.run_until(60_000 * MILLIS, |world| is_seated(world, voters, standbys));
    let done = done.unwrap_or_else(|violation| panic!("{violation}"));
    let (settled, rest) = (world.is_settled(), world.is_at_rest());
    assert!(done, "{:?} is led by {:?}; {settled:?}, {rest:?}", configuration(world), world.leader());
}

/// Managers 1..=members, all of them in their seats; nobody is fresh any more, and 1 leads.
pub fn grown(config: SimConfig) -> World {
    let members: Vec<u64> = (1..=config.members).collect();
    let most = members.len().min(config.max_voters as usize);
    let (voters, standbys) = members.split_at(most - (most + 1) % 2);
    let mut world = World::new(config).unwrap();
    seated(&mut world, voters, standbys);
    world.run_for(2 * ELECTION).unwrap();
    assert_eq!(world.leader(), Some(RaftId(1)));
    world
}

pub fn is_done(world: &World, ticket: Ticket) -> bool {
    matches!(world.reply(ticket), Some(Reply::Outcome(Outcome::Done(_))))
}

pub fn record(world: &World, node: u64) -> Option<NodeRecord> {
    world.leader_records()?.nodes.into_iter().find(|record| record.name == format!("n{node}")).cloned()
}

pub fn is_burnt(world: &World, id: u64) -> bool {
    world.leader_records().is_some_and(|records| records.removed.contains(&RaftId(id)))
}

/// Changes of voters in the leader's log: how many after, without the leaves.
pub fn changes(world: &World) -> Vec<Vec<u64>> {
    let entries = world.configuration_entries(world.leader().unwrap());
    entries.into_iter().filter(|(_, before, after)| before != after).map(|(_, _, after)| after).collect()
}
