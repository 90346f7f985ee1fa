//! Disks that do not answer, and disks that are nearly full, on the simulated cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use std::cell::Cell;
use std::rc::Rc;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, SPACE_ENOUGH, SPACE_LOW, TICK, World};
use quorate_core::consensus::config::Config;
use quorate_core::consensus::io::{RaftRole, Rejection};
use quorate_core::id::RaftId;
use sim_common::{Test, followers, grown, is_done, quiet};

/// How long a disk may be silent.
fn patience() -> u64 {
    Config::new(RaftId(1), 0).disk_patience_nanos
}

/// How long a disk may have nothing to do.
fn probe() -> u64 {
    Config::new(RaftId(1), 0).disk_probe_nanos
}

fn silent(world: &World, id: RaftId) -> bool {
    world.status(id).is_some_and(|status| status.disk_silent_ticks > 0)
}

/// Who leads with a lease, and is not `old`.
fn led_by_another(world: &World, old: RaftId) -> bool {
    world.leader().is_some_and(|id| id != old && world.has_lease(id))
}

fn is_read_only(reply: Option<&Reply>, who: &[RaftId]) -> bool {
    matches!(reply, Some(Reply::Refused(Rejection::ReadOnly { low })) if low == who)
}

#[test]
fn a_leader_whose_disk_hangs_hands_leadership_to_a_voter_whose_disk_answers() -> Test {
    for applier_too in [false, true] {
        // Given a leader whose disk takes a write and never says that it has it
        let mut world = grown(quiet(3), 3);
        let old = world.leader().unwrap();
        world.hold_sync(old, true);
        world.hold_apply(old, applier_too);
        let written = world.propose(old, 1)?;
        world.run_for(MILLIS)?;
        let waiting: Vec<_> = (2..20).map(|sequence| world.propose(old, sequence)).collect::<Result<_, _>>()?;
        // When it has been patient with its disk
        let led = world.run_until(patience() + 2 * ELECTION, |world| led_by_another(world, old))?;
        // Then another one leads; what waited in the queue goes there, and what may be done is said to be unknown
        assert!(led && !world.has_lease(old) && silent(&world, old));
        world.run_for(10 * TICK)?;
        assert_eq!(world.reply(written), Some(&Reply::Unknown));
        for ticket in waiting {
            assert!(
                matches!(world.reply(ticket), Some(Reply::Unknown)) || is_done(world.reply(ticket)),
                "{:?}",
                world.reply(ticket)
            );
        }
        let new = world.leader().unwrap();
        let term = world.status(new).unwrap().term;
        let next = world.propose(new, 100)?;
        let done = world.run_until(ELECTION, |world| is_done(world.reply(next)))?;
        assert!(done);
        // And stays so, however long it takes
        world.run_for(10 * ELECTION)?;
        assert_eq!((world.leader(), world.status(new).unwrap().term), (Some(new), term));
        // When the disk answers again, then it is a follower like any other
        world.hold_sync(old, false);
        world.hold_apply(old, false);
        let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
        assert!(settled && !silent(&world, old), "{:?}", world.is_settled());
        assert_eq!(world.status(new).unwrap().term, term);
        let back = world.transfer(new, Some(old))?;
        let led = world.run_until(2 * ELECTION, |world| world.reply(back).is_some())?;
        assert!(led);
        assert_eq!(world.reply(back), Some(&Reply::Transferred(old)));
    }
    Ok(())
}

#[test]
fn a_leader_whose_applier_hangs_hands_leadership_over_too() -> Test {
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    world.hold_apply(old, true);
    let written = world.propose(old, 1)?;
    let led = world.run_until(patience() + 2 * ELECTION, |world| led_by_another(world, old))?;
    assert!(led && silent(&world, old));
    assert!(!is_done(world.reply(written)));
    world.hold_apply(old, false);
    let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled && !silent(&world, old), "{:?}", world.is_settled());
    Ok(())
}

#[test]
fn a_disk_that_is_only_slow_moves_no_leadership() -> Test {
    // Given a leader whose every sync takes almost as long as it is patient, one after the other
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let term = world.status(leader).unwrap().term;
    for sequence in 1..=6 {
        world.hold_sync(leader, true);
        let ticket = world.propose(leader, sequence)?;
        let _: bool = world.run_until(patience() - 5 * TICK, |world| silent(world, leader))?;
        assert!(!silent(&world, leader) && world.has_lease(leader));
        world.hold_sync(leader, false);
        let done = world.run_until(ELECTION, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    // Then it led all the time
    assert_eq!((world.leader(), world.status(leader).unwrap().term), (Some(leader), term));
    Ok(())
}

#[test]
fn a_voter_whose_disk_hangs_does_not_campaign_until_it_answers() -> Test {
    // Given a follower whose disk hangs over a write, and no other voter left to lead
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let [hung, other] = followers(&world)[..] else { panic!("three members") };
    world.hold_sync(hung, true);
    let ticket = world.propose(leader, 1)?;
    let known = world.run_until(patience() + ELECTION, |world| silent(world, hung))?;
    assert!(known && is_done(world.reply(ticket)));
    world.crash(other, 0);
    world.crash(leader, 0);
    // When it would have campaigned many times
    let campaigned = world.run_until(20 * ELECTION, |world| {
        world.status(hung).is_some_and(|status| status.role != Some(RaftRole::Follower))
    })?;
    // Then it did not, and callers hear that nobody leads
    assert!(!campaigned);
    let refused = world.propose(hung, 2)?;
    assert!(matches!(world.reply(refused), Some(Reply::Refused(Rejection::QuorumLost { .. }))));
    // When its disk answers, it does, and with a second voter it leads
    world.hold_sync(hung, false);
    world.restart(other)?;
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| world.has_lease(id)))?;
    assert!(led);
    Ok(())
}

#[test]
fn a_leader_whose_disk_hangs_like_all_others_steps_down_and_leads_again_when_they_answer() -> Test {
    for members in [1, 3] {
        // Given a cluster in which no disk answers
        let mut world = grown(quiet(members), usize::try_from(members).unwrap());
        let leader = world.leader().unwrap();
        for id in world.ids() {
            world.hold_sync(id, true);
        }
        let written = world.propose(leader, 1)?;
        // When the leader has been patient
        let over = world.run_until(patience() + ELECTION, |world| silent(world, leader) && !world.has_lease(leader))?;
        assert!(over);
        world.run_for(3 * ELECTION)?;
        // Then nobody claims to lead, and callers hear so at once instead of waiting for nothing
        assert_eq!(world.leader(), None);
        let late = world.propose(leader, 2)?;
        assert!(
            matches!(world.reply(late), Some(Reply::Refused(Rejection::NoLeader { .. }))),
            "{:?}",
            world.reply(late)
        );
        assert!(!is_done(world.reply(written)));
        // When the disks answer, then somebody leads again and what was written is there
        for id in world.ids() {
            world.hold_sync(id, false);
        }
        let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
        assert!(settled, "{members}: {:?}", world.is_settled());
        let leader = world.leader().unwrap();
        let again = world.propose(leader, 1)?;
        let done = world.run_until(ELECTION, |world| is_done(world.reply(again)))?;
        assert!(done);
    }
    Ok(())
}

#[test]
fn a_disk_that_hangs_is_noticed_while_nobody_writes() -> Test {
    for leads in [true, false] {
        // Given a cluster in which nothing is to be written, and a member whose disk stops answering
        let mut world = grown(quiet(3), 3);
        world.run_for(patience())?;
        let (leader, follower) = (world.leader().unwrap(), followers(&world)[0]);
        let hung = if leads { leader } else { follower };
        world.hold_sync(hung, true);
        // When its disk has been given what it has already, and has left that unanswered for long enough
        let known = world.run_until(probe() + patience() + ELECTION, |world| silent(world, hung))?;
        // Then it says so, and does not lead
        assert!(known, "{hung} takes its disk for sound");
        let led = world.run_until(3 * ELECTION, |world| world.leader().is_some_and(|id| id != hung))?;
        assert!(led && !world.has_lease(hung));
        // When the disk answers, then it is a member as before
        world.hold_sync(hung, false);
        let settled = world.run_until(2 * ELECTION, |world| !silent(world, hung) && world.is_settled().is_none())?;
        assert!(settled, "{:?}", world.is_settled());
    }
    Ok(())
}

#[test]
fn an_idle_disk_is_probed_now_and_then_and_not_while_it_has_too_little_space() -> Test {
    // Given a cluster in which nothing is to be written
    let mut world = grown(quiet(3), 3);
    world.run_for(patience())?;
    let (leader, follower) = (world.leader().unwrap(), followers(&world)[0]);
    let syncs = |world: &World| (world.syncs(leader), world.syncs(follower));
    let (before, last) = (syncs(&world), world.status(leader).unwrap().commit);
    // Then each disk is asked for a sync now and then, and the log does not grow
    world.run_for(10 * probe())?;
    let after = syncs(&world);
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert!((8..=10).contains(&(after - before)), "{} syncs", after - before);
    }
    assert_eq!(world.status(leader).unwrap().commit, last);
    // When a disk is nearly full, then nothing at all is written to it: a write that fails is final
    world.set_space(follower, SPACE_LOW - 1)?;
    world.run_for(10 * TICK)?;
    let before = world.syncs(follower);
    world.run_for(10 * probe())?;
    assert_eq!(world.syncs(follower), before);
    world.set_space(follower, SPACE_ENOUGH)?;
    world.run_for(2 * probe())?;
    assert!(world.syncs(follower) > before);
    Ok(())
}

#[test]
fn a_process_that_slept_blames_no_disk() -> Test {
    // Given a lone manager that sleeps in the middle of a sync
    let mut world = grown(quiet(1), 1);
    let only = world.leader().unwrap();
    let term = world.status(only).unwrap().term;
    world.hold_sync(only, true);
    let ticket = world.propose(only, 1)?;
    world.pause(only, 2 * patience());
    // When it wakes up and the disk answers a moment later
    world.run_for(2 * patience() + 10 * TICK)?;
    assert!(!silent(&world, only));
    world.hold_sync(only, false);
    let done = world.run_until(ELECTION, |world| is_done(world.reply(ticket)))?;
    // Then it has led all the time
    assert!(done);
    assert_eq!(world.status(only).unwrap().term, term);
    Ok(())
}

#[test]
fn a_leader_low_on_space_hands_over_what_waits_with_it_and_takes_no_entry_until_there_is_space() -> Test {
    // Given a leader under load
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let mut tickets = world.propose_many(old, 1..50)?;
    // When its disk is nearly full
    world.set_space(old, SPACE_LOW - 1)?;
    assert!(!world.has_lease(old));
    tickets.extend(world.propose_many(old, 50..100)?);
    // Then another one leads at once, and every write is done there
    let led = world.run_until(ELECTION / 2, |world| led_by_another(world, old))?;
    assert!(led);
    let done = world.run_until(ELECTION, |world| tickets.iter().all(|ticket| is_done(world.reply(*ticket))))?;
    assert!(done, "{:?}", tickets.iter().map(|ticket| world.reply(*ticket)).collect::<Vec<_>>());
    // And it takes no entry
    let new = world.leader().unwrap();
    let last = world.status(old).unwrap().last;
    for sequence in 100..110 {
        let ticket = world.propose(new, sequence)?;
        let done = world.run_until(ELECTION, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    assert_eq!(world.status(old).unwrap().last, last);
    assert_eq!(world.status(old).unwrap().low_space, Some(SPACE_LOW - 1));
    // Nor between the marks
    world.set_space(old, SPACE_ENOUGH - 1)?;
    world.run_for(2 * ELECTION)?;
    assert_eq!(world.status(old).unwrap().last, last);
    // When there is space again, it catches up, and nothing more moves
    let term = world.status(new).unwrap().term;
    world.set_space(old, SPACE_ENOUGH)?;
    let settled = world.run_until(5 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    world.set_space(old, SPACE_LOW)?;
    assert_eq!(world.status(old).unwrap().low_space, None);
    assert_eq!((world.leader(), world.status(new).unwrap().term), (Some(new), term));
    Ok(())
}

#[test]
fn a_voter_low_on_space_gives_no_vote_until_there_is_space() -> Test {
    // Given three voters: the leader dead, one of the others low on space
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let [low, other] = followers(&world)[..] else { panic!("three members") };
    world.set_space(low, 0)?;
    let (asked, spoken) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (asks, says) = (Rc::clone(&asked), Rc::clone(&spoken));
    world.hold(Box::new(move |message| {
        asks.set(asks.get() + u64::from(message.to == low && message.kind == "MsgRequestPreVote"));
        says.set(says.get() + u64::from(message.from == low && message.kind.contains("Vote")));
        false
    }));
    world.crash(leader, 0);
    // When the third one asks for its vote again and again
    world.run_for(20 * ELECTION)?;
    // Then it neither votes nor campaigns, and says why nothing is written
    assert!(asked.get() > 2);
    assert_eq!((spoken.get(), world.leader()), (0, None));
    let late = world.propose(low, 1)?;
    assert!(is_read_only(world.reply(late), &[low]), "{:?}", world.reply(late));
    // When there is space, there is a leader
    world.set_space(low, SPACE_ENOUGH)?;
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| world.has_lease(id)))?;
    assert!(led && world.leader().is_some_and(|id| id == low || id == other));
    Ok(())
}

#[test]
fn where_nobody_can_take_over_a_leader_low_on_space_serves_reads_and_says_why_it_does_not_write() -> Test {
    // Given leaders low on space: alone, with one voter dead, with all voters low
    for (members, dead, all) in [(1, 0, false), (3, 1, false), (3, 0, true)] {
        let mut world = grown(quiet(members), usize::try_from(members).unwrap());
        let leader = world.leader().unwrap();
        let others = followers(&world);
        let mut low = vec![leader];
        for id in others.iter().take(dead) {
            world.crash(*id, 0);
        }
        if all {
            for id in &others {
                world.set_space(*id, 1)?;
            }
            low.extend(&others);
        }
        low.sort_unstable();
        world.run_for(2 * ELECTION)?;
        world.set_space(leader, 1)?;
        world.run_for(2 * ELECTION)?;
        // When it is asked to write and to read
        let last = world.status(leader).unwrap().last;
        let (write, read) = (world.propose(leader, 1)?, world.read(leader)?);
        let answered = world.run_until(ELECTION, |world| world.reply(read).is_some())?;
        // Then it reads, refuses to write at once, and appends nothing
        assert!(answered && matches!(world.reply(read), Some(Reply::ReadAt { .. })), "{:?}", world.reply(read));
        assert!(is_read_only(world.reply(write), &low), "{:?}", world.reply(write));
        world.run_for(5 * ELECTION)?;
        assert!(world.has_lease(leader) && world.leader() == Some(leader));
        assert_eq!(world.status(leader).unwrap().last, last);
        // When there is space, it writes
        for id in world.ids() {
            world.set_space(id, SPACE_ENOUGH)?;
        }
        world.run_for(ELECTION)?;
        let again = world.propose(leader, 2)?;
        let done = world.run_until(2 * ELECTION, |world| is_done(world.reply(again)))?;
        assert!(done, "{members} {dead} {all}: {:?}", world.reply(again));
    }
    Ok(())
}

#[test]
fn a_leader_with_space_refuses_what_voters_low_on_space_would_hold_up() -> Test {
    // Given a leader with space, and two of three voters without
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let others = followers(&world);
    for id in &others {
        world.set_space(*id, 1)?;
    }
    world.run_for(ELECTION)?;
    // When it is asked to write, then it says so, instead of letting the caller wait
    let refused = world.propose(leader, 1)?;
    assert!(is_read_only(world.reply(refused), &others), "{:?}", world.reply(refused));
    // And leadership does not go where there is no space
    let transfer = world.transfer(leader, others.first().copied())?;
    assert!(matches!(world.reply(transfer), Some(Reply::Refused(Rejection::Transfer(why))) if why.contains("space")));
    // When one of the two has space again, a majority has
    world.set_space(others[0], SPACE_ENOUGH)?;
    world.run_for(ELECTION)?;
    let again = world.propose(leader, 2)?;
    let done = world.run_until(ELECTION, |world| is_done(world.reply(again)))?;
    assert!(done);
    Ok(())
}

#[test]
fn a_follower_low_on_space_takes_no_entry_not_even_before_its_leader_knows() -> Test {
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let low = followers(&world)[0];
    let last = world.status(low).unwrap().last;
    world.set_space(low, 1)?;
    for sequence in 1..=100 {
        let ticket = world.propose(leader, sequence)?;
        let done = world.run_until(ELECTION, |world| is_done(world.reply(ticket)))?;
        assert!(done);
        assert_eq!(world.status(low).unwrap().last, last);
    }
    world.set_space(low, SPACE_ENOUGH)?;
    let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    Ok(())
}

#[test]
fn a_standby_low_on_space_gets_no_seat() -> Test {
    // Given two standbys about to be seated, one of them low on space
    let mut world = World::new(quiet(3))?;
    world.set_space(RaftId(3), 1)?;
    world.run_for(8000 * MILLIS)?;
    let voters = world.status(RaftId(1)).unwrap().configuration.voters.len();
    assert_eq!(voters, 1);
    // When it has space
    world.set_space(RaftId(3), SPACE_ENOUGH)?;
    let seated = world.run_until(8000 * MILLIS, |world| {
        world.status(RaftId(1)).is_some_and(|status| status.configuration.voters.len() == 3)
    })?;
    assert!(seated);
    Ok(())
}
