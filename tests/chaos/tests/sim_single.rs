//! One voter and its standby on the simulated cluster: what is promised while there is only one vote.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, Profile, SimConfig, TICK, World, run_config};
use quorate_core::id::RaftId;
use sim_common::Test;
use sim_common::seats::{grown, is_done, quiet};

#[test]
fn with_one_voter_a_write_waits_for_the_standbys_disk_until_that_is_silent_for_one_election_timeout() -> Test {
    // Given one voter and its standby
    let mut world = grown(quiet(2));
    let (voter, standby) = (RaftId(1), RaftId(2));
    let single = |world: &World| world.status(voter).unwrap().single_copy;
    assert!(!single(&world));
    // When the standby's disk hangs, a write is committed, and neither acknowledged nor seen
    world.hold_sync(standby, true);
    let before = world.status(voter).unwrap().applied;
    let (write, read) = (world.propose(voter, 1)?, world.read(voter)?);
    world.run_for(100 * MILLIS)?;
    let status = world.status(voter).unwrap();
    assert!(status.commit > before && status.applied == before);
    assert_eq!((world.reply(write), single(&world)), (None, false));
    // Until it is on the standby's disk, too
    world.hold_sync(standby, false);
    let done = world.run_until(100 * MILLIS, |world| is_done(world, write) && world.reply(read).is_some())?;
    assert!(done && !single(&world));
    let last = world.status(voter).map(|s| (s.applied.0, s.term.0)).unwrap();
    assert!(world.is_durable(standby, last.0, last.1));
    // When the standby is gone, a write waits for one election timeout, and from then on there is one copy
    world.isolate(standby);
    let write = world.propose(voter, 2)?;
    world.run_for(ELECTION / 2)?;
    assert_eq!((world.reply(write), single(&world)), (None, false));
    world.run_for(ELECTION)?;
    assert!(is_done(&world, write) && single(&world));
    let write = world.propose(voter, 3)?;
    let done = world.run_until(20 * MILLIS, |world| is_done(world, write))?;
    assert!(done, "later ones do not wait");
    // When it is back and has everything, there are two again
    world.heal();
    let copied = world.run_until(5000 * MILLIS, |world| !single(world))?;
    assert!(copied);
    // When it answers and gets no entries, one write waits for as long, and later ones do not
    world.hold(Box::new(move |m| m.to == standby && m.kind == "MsgAppend"));
    let write = world.propose(voter, 4)?;
    world.run_for(ELECTION)?;
    assert_eq!((world.reply(write), single(&world)), (None, false));
    world.run_for(2 * TICK)?;
    assert!(is_done(&world, write) && single(&world));
    let write = world.propose(voter, 5)?;
    let done = world.run_until(20 * MILLIS, |world| is_done(world, write))?;
    assert!(done);
    world.release();
    let copied = world.run_until(5000 * MILLIS, |world| !single(world))?;
    let last = world.status(voter).map(|s| (s.applied.0, s.term.0)).unwrap();
    assert!(copied && world.is_durable(standby, last.0, last.1));
    Ok(())
}

#[test]
fn an_only_voters_destroyed_disk_takes_nothing_acknowledged_along_outside_single_copy() -> Test {
    for writes in (10..200).step_by(7) {
        // Given one voter and its standby, with many writes on their way
        let mut world = grown(SimConfig { sync_max: 20 * MILLIS, ..quiet(2) });
        let (voter, standby) = (RaftId(1), RaftId(2));
        for sequence in 1..=writes {
            world.propose(voter, sequence)?;
            world.run_for(MILLIS / 2)?;
        }
        // When the voter's disk is destroyed in the midst of it
        let status = world.status(voter).unwrap();
        assert!(!status.single_copy);
        let (applied, term) = (status.applied.0, status.term.0);
        world.destroy(voter);
        // Then everything that it acknowledged, all of which it had applied, is on the standby's disk
        assert!(world.is_durable(standby, applied, term), "{applied} of {writes}");
    }
    Ok(())
}

#[test]
fn one_voter_and_its_standby_survive_every_fault_without_a_false_promise() -> Test {
    let (mut copied, mut acks) = (0, 0);
    for seed in 1..=40 {
        let drawn = SimConfig::draw(seed, Profile::Swarm);
        let config = SimConfig { members: 2, recorded: 2, churn: false, replacements: false, ..drawn };
        let report = run_config(config)?;
        copied += report.copied;
        acks += report.acks;
    }
    assert!(copied * 2 > acks, "{copied} entries on two disks for {acks} acknowledged writes");
    Ok(())
}
