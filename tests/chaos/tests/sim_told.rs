//! What members and callers are told on the simulated cluster: how old a state is, and that nobody leads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, TICK, World};
use quorate_core::consensus::io::Rejection;
use quorate_core::id::RaftId;
use sim_common::{Test, followers, grown, is_done, quiet};

#[test]
fn without_a_majority_callers_hear_quorum_lost_within_two_timeouts_and_later_ones_at_once() -> Test {
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let [left, other] = followers(&world)[..] else { panic!("three members") };
    world.crash(leader, 0);
    world.crash(other, 0);
    let (write, read) = (world.propose(left, 1)?, world.read(left)?);
    // It forwarded the write to a leader that it believed in; one asked when it no longer does waits here.
    world.run_for(31 * TICK)?;
    let waiting = world.propose(left, 2)?;
    assert_eq!(world.reply(waiting), None);
    let answered =
        world.run_until(2 * ELECTION + TICK, |world| world.reply(waiting).is_some() && world.reply(read).is_some())?;
    assert!(answered);
    for ticket in [waiting, read] {
        assert!(
            matches!(world.reply(ticket), Some(Reply::Refused(Rejection::QuorumLost { reachable: 1, needed: 2, .. }))),
            "{:?}",
            world.reply(ticket)
        );
    }
    let later = world.propose(left, 3)?;
    assert!(matches!(world.reply(later), Some(Reply::Refused(Rejection::QuorumLost { .. }))));
    assert_eq!(world.reply(write), None, "lost with the connection: its client's deadline answers");
    Ok(())
}

/// How old a member's state may be, by its own word; clocks do not drift here.
fn age(world: &World, id: RaftId) -> Option<u64> {
    Some(world.now() - world.status(id)?.as_of?.0)
}

#[test]
fn a_member_in_touch_with_a_quorum_is_never_old_and_one_that_is_not_grows_older() -> Test {
    // Given a cluster at rest, a standby among its members
    let mut world = grown(quiet(4), 3);
    world.run_until(10 * ELECTION, |world| world.ids().into_iter().all(|id| age(world, id).is_some()))?;
    // Then nobody is older than a round and its pause, however long nothing happens
    for _ in 0..200 {
        world.run_for(TICK)?;
        for id in world.ids() {
            assert!(age(&world, id).unwrap() <= 2 * ELECTION, "{id}: {:?}", age(&world, id));
        }
    }
    // When the leader is cut off, though it goes on to believe in itself for a while
    let old = world.leader().unwrap();
    world.isolate(old);
    let before = world.status(old).unwrap().as_of;
    world.run_for(10 * ELECTION)?;
    // Then it does not make itself younger, and the others do not miss it
    let after = world.status(old).unwrap().as_of;
    assert!(after.unwrap().0 <= before.unwrap().0 + ELECTION, "{before:?} {after:?}");
    assert!(age(&world, old).unwrap() >= 9 * ELECTION);
    let new = world.leader().unwrap();
    assert!(new != old && age(&world, new).unwrap() <= 2 * ELECTION);
    // And a process that starts without anybody knows of no age at all
    world.crash(old, usize::MAX);
    world.restart(old)?;
    world.run_for(5 * ELECTION)?;
    assert_eq!(world.status(old).unwrap().as_of, None);
    Ok(())
}

#[test]
fn a_follower_that_hears_its_leader_but_gets_no_entries_says_how_far_behind_it_is() -> Test {
    // Given a follower whose heartbeats arrive and whose entries do not
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let behind = followers(&world)[0];
    world.run_until(10 * ELECTION, |world| age(world, behind).is_some())?;
    world.hold(Box::new(move |message| message.to == behind && message.kind == "MsgAppend"));
    // When a write is acknowledged without it
    let ticket = world.propose(leader, 1)?;
    assert!(world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?);
    let written = world.now();
    world.run_for(10 * ELECTION)?;
    // Then it knows a leader, and that it is not up to date since
    let status = world.status(behind).unwrap();
    assert_eq!((status.leader, status.leaderless_ticks), (Some(leader), 0));
    assert!(status.as_of.unwrap().0 <= written);
    assert!(age(&world, behind).unwrap() >= 9 * ELECTION);
    // Until it has the write
    world.release();
    let young = world.run_until(10 * ELECTION, |world| age(world, behind).is_some_and(|age| age <= ELECTION))?;
    assert!(young);
    Ok(())
}

#[test]
fn with_a_majority_that_cannot_elect_callers_hear_no_leader() -> Test {
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let left = followers(&world)[0];
    world.hold(Box::new(|message| message.kind == "MsgRequestPreVote"));
    world.crash(leader, 0);
    world.run_for(31 * TICK + 2 * ELECTION + TICK)?;
    let late = world.read(left)?;
    let refused = world.reply(late).cloned();
    assert!(
        matches!(&refused, Some(Reply::Refused(Rejection::NoLeader { reachable: 2, missing, .. })) if *missing == [leader]),
        "{refused:?}"
    );
    world.release();
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some())?;
    assert!(led);
    Ok(())
}

#[test]
fn a_standby_does_not_believe_in_a_dead_leader_for_ever() -> Test {
    let mut world = World::new(quiet(2))?;
    world.run_for(5000 * MILLIS)?;
    world.crash(RaftId(1), 0);
    world.run_for(31 * TICK + 2 * ELECTION + TICK)?;
    let write = world.propose(RaftId(2), 1)?;
    assert!(
        matches!(world.reply(write), Some(Reply::Refused(Rejection::QuorumLost { .. }))),
        "{:?}",
        world.reply(write)
    );
    Ok(())
}
