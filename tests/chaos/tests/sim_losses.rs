//! Voters that are away or gone, with the times that a cluster has by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, Recovering, Reply, SimConfig, World};
use quorate_core::consensus::io::Rejection;
use quorate_core::id::RaftId;
use quorate_core::membership::record::Role;
use quorate_core::membership::wish::Wish;
use sim_common::{Test, grown, is_done, quiet};

const SECOND: u64 = 1_000 * MILLIS;
const REBOOT: u64 = 180 * SECOND;

fn seats(world: &World) -> (Vec<RaftId>, Vec<RaftId>) {
    let status = world.status(world.leader().unwrap()).unwrap();
    assert!(!status.configuration.is_joint());
    (status.configuration.voters.clone(), status.configuration.learners.clone())
}

fn ids<const N: usize>(ids: [u64; N]) -> Vec<RaftId> {
    ids.map(RaftId).to_vec()
}

/// A write at the leader is done within a second.
fn writes(world: &mut World, sequence: u64) -> Test {
    let ticket = world.propose(world.leader().unwrap(), sequence)?;
    let done = world.run_until(SECOND, |world| is_done(world.reply(ticket)))?;
    assert!(done, "{:?}", world.reply(ticket));
    Ok(())
}

/// 3 is away for so long, with a write every ten seconds.
fn reboots(world: &mut World, away: u64) -> Test {
    world.crash(RaftId(3), 0);
    for ten in 0..away / (10 * SECOND) {
        world.run_for(10 * SECOND)?;
        writes(world, 1 + ten)?;
    }
    world.restart(RaftId(3))?;
    world.run_for(20 * SECOND)?;
    assert_eq!(world.is_settled(), None);
    writes(world, 100)
}

#[test]
fn a_voter_that_reboots_for_three_minutes_finds_its_seat_taken_and_stands_by_without_a_token() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) }, 3);
    assert_eq!(seats(&world), (ids([1, 2, 3]), ids([4])));
    let (term, before) = (world.status(world.leader().unwrap()).unwrap().term, world.report().configurations);
    reboots(&mut world, REBOOT)?;
    assert_eq!(seats(&world), (ids([1, 2, 4]), ids([3])));
    // One joint change and its leave, and nobody was asked to lead anew
    assert_eq!(world.report().configurations, before + 2);
    assert_eq!(world.status(world.leader().unwrap()).unwrap().term, term);
    Ok(())
}

#[test]
fn where_nobody_can_take_its_seat_it_keeps_it() -> Test {
    let mut world = grown(quiet(3), 3);
    let before = world.report().configurations;
    reboots(&mut world, REBOOT)?;
    assert_eq!(seats(&world), (ids([1, 2, 3]), ids([])));
    assert_eq!(world.report().configurations, before);
    Ok(())
}

#[test]
fn whoever_says_that_it_will_be_away_keeps_its_seat_beside_a_standby() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) }, 3);
    let before = world.report().configurations;
    world.edit(3, |record| (record.hold_ms, record.hold_serial) = (300_000, 1))?;
    world.run_for(SECOND)?;
    reboots(&mut world, REBOOT)?;
    assert_eq!(seats(&world), (ids([1, 2, 3]), ids([4])));
    assert_eq!(world.report().configurations, before);
    Ok(())
}

#[test]
fn a_manager_that_is_gone_is_demoted_and_its_raft_id_burnt() -> Test {
    // Given three voters and a standby, and a voter that will not come back
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) }, 3);
    world.destroy(RaftId(3));
    world.run_for(SECOND)?;
    // When it is demoted, long before it would be taken for lost
    assert_eq!(world.may(RaftId(3), Wish::Demote { forced: false }), Ok(()));
    world.demote(RaftId(3), false)?;
    world.run_for(10 * SECOND)?;
    // Then the standby has its seat, and its raft id is nobody's any more
    assert_eq!(seats(&world), (ids([1, 2, 4]), ids([])));
    let records = world.leader_records().unwrap();
    assert!(records.removed.contains(&RaftId(3)));
    let record = records.nodes.iter().find(|node| node.name == "n3").unwrap();
    assert_eq!((record.role, record.raft_id), (i32::from(Role::Worker), 0));
    writes(&mut world, 1)
}

#[test]
fn an_only_voter_that_is_destroyed_is_recovered_from_its_standby_with_everything_acknowledged() -> Test {
    for count in (10..120).step_by(11) {
        // Given one voter and its standby, many writes on their way, and the voter's disk destroyed in the midst of it
        let mut world = grown(SimConfig { sync_max: 20 * MILLIS, ..quiet(2) }, 1);
        let (voter, standby) = (RaftId(1), RaftId(2));
        for sequence in 1..=count {
            world.propose(voter, sequence)?;
            world.run_for(MILLIS / 2)?;
        }
        assert!(!world.status(voter).unwrap().single_copy);
        world.destroy(voter);
        let acknowledged = world.acknowledged(0);
        // When the standby is recovered, which loses what it had not synced
        world.crash(standby, 0);
        let recovering = world.recover(standby)?;
        assert!(matches!(recovering, Recovering::Written { .. }), "{recovering:?}");
        world.restart(standby)?;
        let led = world.run_until(20 * ELECTION, |world| world.has_lease(standby) && world.is_settled().is_none())?;
        // Then it leads, and every write that anybody was told of is there
        assert!(led, "{:?}", world.is_settled());
        world.audit_newest()?;
        let kept = world.acknowledged(1);
        assert!(acknowledged.iter().all(|(write, revision)| kept.get(write) == Some(revision)), "of {count}");
    }
    Ok(())
}

#[test]
fn without_a_majority_of_one_half_of_a_joint_configuration_callers_hear_of_that_half() -> Test {
    // Given an only voter that dies in the joint configuration that seats two more
    let mut world = World::new(quiet(3))?;
    let joint = world.run_until(10_000 * MILLIS, |world| {
        let is_joint = |id| world.status(RaftId(id)).is_some_and(|status| status.configuration.is_joint());
        is_joint(2) && is_joint(3)
    })?;
    assert!(joint);
    let configuration = world.status(RaftId(2)).unwrap().configuration.clone();
    assert_eq!((configuration.voters.len(), configuration.voters_outgoing), (3, vec![RaftId(1)]));
    world.crash(RaftId(1), 0);
    // When nobody can be elected, though two of three are there
    world.run_for(2 * ELECTION)?;
    let ticket = world.propose(RaftId(2), 1)?;
    let answered = world.run_until(2 * ELECTION, |world| world.reply(ticket).is_some())?;
    // Then it is said who is missing
    assert!(answered);
    assert!(
        matches!(
            world.reply(ticket),
            Some(Reply::Refused(Rejection::QuorumLost { reachable: 0, voters: 1, needed: 1, missing, .. }))
                if *missing == [RaftId(1)]
        ),
        "{:?}",
        world.reply(ticket)
    );
    Ok(())
}
