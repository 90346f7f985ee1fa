//! Directed scenarios on the simulated cluster: one rule each, in the situation that it is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use std::cell::Cell;
use std::rc::Rc;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, SimConfig, TICK, Violation, World};
use quorate_core::consensus::io::Rejection;
use quorate_core::id::{LogIndex, RaftId};
use sim_common::{Test, followers, grown, is_done, quiet};

#[test]
fn a_cluster_grows_one_three_five_and_a_lone_second_stays_standby() -> Test {
    for (members, voters, learners) in [(1, 1, 0), (2, 1, 1), (3, 3, 0), (4, 3, 1), (5, 5, 0), (6, 5, 1)] {
        let mut world = World::new(quiet(members))?;
        world.run_for(8000 * MILLIS)?;
        let status = world.status(world.leader().unwrap()).unwrap();
        let seats = (status.configuration.voters.len(), status.configuration.learners.len());
        assert_eq!((members, seats), (members, (voters, learners)));
        assert!(!status.configuration.is_joint());
        assert_eq!(world.is_settled(), None);
    }
    Ok(())
}

#[test]
fn standbys_whose_acknowledgement_overtakes_the_snapshots_report_are_seated_while_nobody_writes() -> Test {
    // Given a cluster in which the word that a snapshot was delivered comes late
    let mut world = World::new(quiet(3))?;
    world.delay_reports(2 * ELECTION);
    // When nobody writes after the two have joined
    world.run_for(10_000 * MILLIS)?;
    // Then both have their seats
    assert!(world.report().snapshots_sent > 0);
    let status = world.status(world.leader().unwrap()).unwrap();
    assert_eq!((status.configuration.voters.len(), status.configuration.learners.len()), (3, 0));
    assert_eq!(world.is_settled(), None);
    Ok(())
}

#[test]
fn a_leader_cut_off_holds_no_lease_when_the_next_one_leads() -> Test {
    // Given a leader with a lease
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    assert!(world.has_lease(old));
    // When nothing passes to or from it
    world.isolate(old);
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| id != old))?;
    // Then its lease is over before anybody else leads, though it may still believe in itself
    assert!(led);
    assert!(!world.has_lease(old));
    let leased = world.run_until(ELECTION, |world| world.has_lease(world.leader().unwrap()))?;
    assert!(leased);
    Ok(())
}

#[test]
fn a_transfer_ends_the_lease_before_the_successor_leads() -> Test {
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let to = followers(&world)[0];
    let ticket = world.transfer(old, Some(to))?;
    assert!(!world.has_lease(old), "the lease must be over before the call to take over leaves");
    let answered = world.run_until(2 * ELECTION, |world| world.reply(ticket).is_some())?;
    assert!(answered);
    assert_eq!(world.reply(ticket), Some(&Reply::Transferred(to)));
    assert_eq!(world.leader(), Some(to));
    Ok(())
}

#[test]
fn leadership_is_not_handed_to_a_member_that_has_just_started_and_would_not_take_it() -> Test {
    // Given a follower that has been started again, and caught up
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let [fresh, other] = followers(&world)[..] else { panic!("three members") };
    world.crash(fresh, 0);
    world.run_for(ELECTION)?;
    world.restart(fresh)?;
    world.run_for(10 * TICK)?;
    assert_eq!(world.is_settled(), None);
    // When leadership is sent there, then the leader stays and says why
    let refused = world.transfer(old, Some(fresh))?;
    assert!(
        matches!(world.reply(refused), Some(Reply::Refused(Rejection::Transfer(why))) if why.contains("just now")),
        "{:?}",
        world.reply(refused)
    );
    // And sent anywhere, it goes to the other one, at once
    let transfer = world.transfer(old, None)?;
    world.run_for(2 * TICK)?;
    assert_eq!(world.reply(transfer), Some(&Reply::Transferred(other)));
    Ok(())
}

#[test]
fn a_call_to_take_over_that_arrives_after_its_transfer_was_given_up_overlaps_no_lease() -> Test {
    // Given a transfer whose call is stuck in the network
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let to = followers(&world)[0];
    world.hold(Box::new(|message| message.kind == "MsgTimeoutNow"));
    let ticket = world.transfer(old, Some(to))?;
    // When one election timeout passes
    let answered = world.run_until(3 * ELECTION, |world| world.reply(ticket).is_some())?;
    // Then nobody knows who will lead, and the old leader promises nothing in its term any more
    assert!(answered && world.held() > 0);
    assert_eq!(world.reply(ticket), Some(&Reply::Unknown));
    assert!(!world.has_lease(old));
    // When the call arrives after all, at any moment of the election that follows, then no two leases overlap
    // (held against every event) and the cluster goes on
    world.release();
    let settled = world.run_until(20 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    Ok(())
}

#[test]
fn a_member_that_has_just_started_grants_no_vote_for_one_base_election_timeout() -> Test {
    // Given three voters, the leader dead, one of the others just restarted
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let fresh = followers(&world)[0];
    world.crash(fresh, 0);
    world.crash(old, 0);
    let granted = Rc::new(Cell::new(0));
    let asked = Rc::new(Cell::new(0));
    let (count, asks) = (Rc::clone(&granted), Rc::clone(&asked));
    world.hold(Box::new(move |message| {
        if message.from == fresh && message.kind.ends_with("VoteResponse") {
            count.set(count.get() + 1);
        }
        if message.to == fresh && message.kind == "MsgRequestPreVote" {
            asks.set(asks.get() + 1);
        }
        false
    }));
    // When the third one asks for its vote
    world.run_for(ELECTION - 2 * TICK)?;
    world.restart(fresh)?;
    world.run_for(19 * TICK)?;
    // Then it was asked and was silent, and grants it later
    assert!(asked.get() > 0, "nobody asked");
    assert_eq!(granted.get(), 0);
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some())?;
    assert!(led && granted.get() > 0);
    Ok(())
}

#[test]
fn two_hundred_concurrent_writes_cost_the_leader_at_most_forty_syncs() -> Test {
    let mut world = grown(SimConfig { sync_min: 2 * MILLIS, sync_max: 3 * MILLIS, ..quiet(3) }, 3);
    let leader = world.leader().unwrap();
    let before = world.syncs(leader);
    let mut tickets = Vec::new();
    for sequence in 1..=200 {
        tickets.push(world.propose(leader, sequence)?);
        world.run_for(MILLIS / 100)?;
    }
    let done = world.run_until(2000 * MILLIS, |world| tickets.iter().all(|ticket| is_done(world.reply(*ticket))))?;
    assert!(done);
    let syncs = world.syncs(leader) - before;
    assert!(syncs <= 40, "{syncs} syncs");
    Ok(())
}

#[test]
fn followers_hold_the_entry_while_the_leaders_own_sync_is_held_back() -> Test {
    // Given a leader whose disk hangs
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let others = followers(&world);
    world.hold_sync(leader, true);
    // When it is asked to write
    let ticket = world.propose(leader, 1)?;
    world.run_for(100 * MILLIS)?;
    // Then both followers have the entry synced, which commits it; the leader acknowledges only what it has itself
    let (last, term, commit) = world.status(leader).map(|s| (s.last, s.term, s.commit)).unwrap();
    assert!(others.iter().all(|id| world.is_durable(*id, last.0, term.0)));
    assert!(!world.is_durable(leader, last.0, term.0));
    assert_eq!(commit, last);
    assert_eq!(world.reply(ticket), None);
    world.hold_sync(leader, false);
    let done = world.run_until(500 * MILLIS, |world| is_done(world.reply(ticket)))?;
    assert!(done);
    Ok(())
}

#[test]
fn nothing_commits_while_a_majority_has_not_synced() -> Test {
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let others = followers(&world);
    for id in &others {
        world.hold_sync(*id, true);
    }
    let ticket = world.propose(leader, 1)?;
    world.run_for(100 * MILLIS)?;
    assert!(world.status(leader).is_some_and(|status| status.commit < status.last));
    assert_eq!(world.reply(ticket), None);
    world.hold_sync(others[0], false);
    let done = world.run_until(500 * MILLIS, |world| is_done(world.reply(ticket)))?;
    assert!(done);
    Ok(())
}

/// A leader cut off with one write that only it has, while the others go on.
fn stranded(
    config: SimConfig,
    writes: u64,
) -> Result<(World, RaftId, quorate_core::consensus::io::Ticket), Box<Violation>> {
    let mut world = grown(config, 3);
    let old = world.leader().unwrap();
    world.isolate(old);
    let stranded = world.propose(old, 1)?;
    let led =
        world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| id != old && world.has_lease(id)))?;
    assert!(led);
    let new = world.leader().unwrap();
    for sequence in 2..2 + writes {
        let ticket = world.propose(new, sequence)?;
        let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    assert_eq!(world.reply(stranded), None);
    Ok((world, old, stranded))
}

#[test]
fn a_write_whose_entry_was_replaced_is_refused_and_said_to_be() -> Test {
    let (mut world, _, ticket) = stranded(quiet(3), 3)?;
    world.heal();
    let answered = world.run_until(10 * ELECTION, |world| world.reply(ticket).is_some())?;
    assert!(answered);
    assert_eq!(world.reply(ticket), Some(&Reply::Refused(Rejection::Replaced)));
    Ok(())
}

#[test]
fn a_write_whose_place_is_covered_by_a_snapshot_is_unknown() -> Test {
    let (mut world, old, ticket) = stranded(SimConfig { log_window: 8, ..quiet(3) }, 60)?;
    let before = world.report().snapshots_installed;
    world.heal();
    let answered = world.run_until(10 * ELECTION, |world| world.reply(ticket).is_some())?;
    assert!(answered && world.report().snapshots_installed > before);
    assert_eq!(world.reply(ticket), Some(&Reply::Unknown));
    assert!(world.status(old).unwrap().snapshots.installed >= 1);
    Ok(())
}

#[test]
fn a_leader_that_dies_at_any_step_of_a_joint_change_leaves_no_joint_configuration_behind() -> Test {
    // Given 3 voters and two more about to be seated, when the leader dies after any number of effects
    let (mut before, mut joint, mut after) = (0, 0, 0);
    for effects in 0..160 {
        let mut world = World::new(SimConfig { stable_ticks: 25, ..quiet(5) })?;
        let three = world.run_until(30_000 * MILLIS, |world| {
            world.leader().and_then(|id| world.status(id)).is_some_and(|status| {
                status.configuration.voters.len() == 3 && status.configuration.learners.len() == 2
                    || status.configuration.voters.len() == 5
            })
        })?;
        assert!(three);
        let leader = world.leader().unwrap();
        // The change comes with the stabilisation time; long before it nothing is at stake.
        world.run_until(20_000 * MILLIS, |world| {
            world.status(leader).is_some_and(|status| {
                status.configuration.voters.len() == 5 || status.progress.iter().all(|other| other.stable_ticks >= 24)
            })
        })?;
        world.doom(leader, effects);
        world.run_until(ELECTION, |world| world.status(leader).is_none())?;
        let seen: Vec<_> = followers(&world).iter().filter_map(|id| world.status(*id)).collect();
        if seen.iter().any(|status| status.configuration.is_joint()) {
            joint += 1;
        } else if seen.iter().any(|status| status.configuration.voters.len() == 5) {
            after += 1;
        } else {
            before += 1;
        }
        // Then whoever leads next leaves it within ten election timeouts
        let left = world.run_until(10 * ELECTION, |world| {
            world.leader().filter(|id| *id != leader || world.status(leader).is_some()).is_some_and(|id| {
                world.status(id).is_some_and(|status| !status.configuration.is_joint() && status.lease.is_some())
            })
        })?;
        assert!(left, "after {effects} effects");
        // And with the dead one back everybody agrees on five
        world.restart(leader)?;
        let five = world.run_until(20_000 * MILLIS, |world| {
            world.is_settled().is_none()
                && world.leader().and_then(|id| world.status(id)).is_some_and(|s| s.configuration.voters.len() == 5)
        })?;
        assert!(five, "after {effects} effects: {:?}", world.is_settled());
    }
    assert!(before > 5 && joint > 5 && after > 5, "{before} died before it, {joint} in it, {after} after it");
    Ok(())
}

#[test]
fn a_follower_whose_sync_fails_stops_and_the_others_go_on() -> Test {
    let mut world = grown(quiet(3), 3);
    let broken = followers(&world)[0];
    world.fail_sync(broken);
    let leader = world.leader().unwrap();
    let ticket = world.propose(leader, 1)?;
    let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
    assert!(done && world.has_stopped(broken));
    Ok(())
}

#[test]
fn a_leader_whose_sync_fails_stops_and_another_one_leads() -> Test {
    let mut world = grown(quiet(3), 3);
    let broken = world.leader().unwrap();
    world.fail_sync(broken);
    let ticket = world.propose(broken, 1)?;
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| id != broken))?;
    assert!(led && world.has_stopped(broken));
    assert_eq!(world.reply(ticket), None, "nothing was acknowledged by it");
    Ok(())
}

#[test]
fn a_snapshot_waits_for_what_is_being_written_before_it() -> Test {
    // Given a follower whose disk hangs over an entry
    let mut world = grown(SimConfig { log_window: 6, ..quiet(3) }, 3);
    let leader = world.leader().unwrap();
    let slow = followers(&world)[0];
    let installed = world.status(slow).unwrap().snapshots.installed;
    world.hold_sync(slow, true);
    let first = world.propose(leader, 1)?;
    world.run_for(50 * MILLIS)?;
    assert!(is_done(world.reply(first)));
    // When it is cut off until only a snapshot helps
    world.isolate(slow);
    for sequence in 2..60 {
        let ticket = world.propose(leader, sequence)?;
        let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    world.heal();
    world.run_for(5 * ELECTION)?;
    // Then the snapshot waits for the disk
    assert_eq!(world.status(slow).unwrap().snapshots.installed, installed);
    world.hold_sync(slow, false);
    let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    assert_eq!(world.status(slow).unwrap().snapshots.installed, installed + 1);
    Ok(())
}

#[test]
fn one_snapshot_is_enough_for_a_follower_however_much_is_written_while_it_is_on_its_way() -> Test {
    // Given a follower that only a snapshot helps, which takes far longer than the log's window lasts
    let mut world = grown(SimConfig { log_window: 8, snapshot_byte: 50_000, ..quiet(3) }, 3);
    let leader = world.leader().unwrap();
    let behind = followers(&world)[0];
    world.isolate(behind);
    let mut sequence = 0;
    let mut write = |world: &mut World| -> Test {
        sequence += 1;
        let ticket = world.propose(leader, sequence)?;
        assert!(world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?);
        Ok(())
    };
    for _ in 0..60 {
        write(&mut world)?;
    }
    let sent = world.report().snapshots_sent;
    let installed = world.status(behind).unwrap().snapshots.installed;
    world.heal();
    // When writes go on without a pause
    let start = world.log_start(leader);
    let mut meanwhile = 0;
    while world.status(behind).unwrap().snapshots.installed == installed {
        write(&mut world)?;
        meanwhile += 1;
    }
    assert!(meanwhile > 4 * 8, "it has to take longer than the window lasts: {meanwhile} writes");
    for _ in 0..60 {
        write(&mut world)?;
    }
    // Then it needs no second one, and what was kept for it goes again
    assert_eq!(world.report().snapshots_sent, sent + 1);
    assert_eq!(world.status(behind).unwrap().snapshots.installed, installed + 1);
    assert!(world.status(behind).unwrap().applied.0 + 8 >= world.status(leader).unwrap().applied.0);
    let held = world.status(leader).unwrap().applied.0 - world.log_start(leader);
    assert!(held <= 2 * 8 + 1 && world.log_start(leader) > start, "{held} entries are held");
    Ok(())
}

#[test]
fn a_follower_far_behind_catches_up_from_the_leaders_disk() -> Test {
    let mut world = grown(SimConfig { cache_bytes: 0, ..quiet(3) }, 3);
    let leader = world.leader().unwrap();
    let behind = followers(&world)[0];
    let before = world.report();
    world.isolate(behind);
    for sequence in 1..60 {
        let ticket = world.propose(leader, sequence)?;
        let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    world.heal();
    let settled = world.run_until(10 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    let after = world.report();
    assert!(after.fetches > before.fetches);
    assert_eq!(after.snapshots_sent, before.snapshots_sent);
    assert!(world.status(behind).unwrap().applied > LogIndex(60));
    Ok(())
}

#[test]
fn a_member_whose_installation_hangs_names_no_dead_leader_and_takes_no_living_one_for_dead() -> Test {
    for dies in [false, true] {
        // Given a follower that was cut off until only a snapshot helps, and whose installation does not end
        let mut world = grown(SimConfig { log_window: 6, ..quiet(3) }, 3);
        let leader = world.leader().unwrap();
        let slow = followers(&world)[0];
        world.isolate(slow);
        for sequence in 1..60 {
            let ticket = world.propose(leader, sequence)?;
            let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
            assert!(done);
        }
        world.hold_apply(slow, true);
        let at = |world: &World| world.status(slow).cloned().unwrap();
        let before = at(&world).last;
        world.heal();
        let installs = world.run_until(10 * ELECTION, |world| at(world).last > before)?;
        assert!(installs);
        let (installed, term) = (at(&world).snapshots.installed, world.status(leader).unwrap().term);
        if dies {
            // When the leader dies
            world.crash(leader, usize::MAX);
        }
        // Then this one knows of it after an election timeout; and else it goes on naming the leader
        world.run_for(4 * ELECTION)?;
        assert_eq!(at(&world).snapshots.installed, installed, "it is still being installed");
        assert_eq!(at(&world).leader, (!dies).then_some(leader));
        // And it says that its disk does not answer, once it has been patient with it
        world.run_for(10 * ELECTION)?;
        assert!(at(&world).disk_silent_ticks > 0);
        // When the installation ends, then all is well, without an election that was not needed.
        world.hold_apply(slow, false);
        if dies {
            world.restart(leader)?;
        }
        let settled = world.run_until(30 * ELECTION, |world| world.is_settled().is_none())?;
        assert!(settled && at(&world).disk_silent_ticks == 0, "{:?}", world.is_settled());
        if !dies {
            assert_eq!(world.status(leader).unwrap().term, term);
        }
    }
    Ok(())
}
