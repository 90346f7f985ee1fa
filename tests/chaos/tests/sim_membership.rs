//! Membership on the simulated cluster: losses, wishes and workers, each in the situation that a rule is for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, SimConfig, TICK, World};
use quorate_core::consensus::io::RaftRole;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{LABEL_LEADER, Role};
use quorate_core::membership::wish::{Wish, WishRefused};
use sim_common::Test;
use sim_common::seats::{changes, configuration, grown, ids, is_burnt, is_done, leader, quiet, record, seated, seats};

#[test]
fn standbys_that_entries_reach_out_of_order_are_seated_under_load() -> Test {
    // Given links on which messages overtake each other, and writes all the time
    let load = SimConfig { duration: 60_000 * MILLIS, clients: 4, slots: 6, think: 4 * MILLIS, ..quiet(5) };
    let mut world = World::new(SimConfig { delay_max: 20 * MILLIS, ..load })?;
    // When five managers join
    let full = world.run_until(20_000 * MILLIS, |world| seats(world).0.len() == 5)?;
    // Then all of them vote: that raft has to ask now and then where they are does not make them slow
    assert!(full, "{:?}, and the members are {:?}", seats(&world), leader(&world).map(|status| &status.progress));
    Ok(())
}

#[test]
fn a_lost_voter_is_replaced_by_exactly_one_joint_entry_and_its_leave() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    let before = world.configuration_entries(RaftId(1)).len();
    // Given a voter that is gone
    world.destroy(RaftId(3));
    // When it has not been silent for long enough, nothing happens
    world.run_for(3800 * MILLIS)?;
    assert_eq!(seats(&world), (ids(&[1, 2, 3]), ids(&[4])));
    // Then its seat goes to the standby, and it stays a manager
    seated(&mut world, &[1, 2, 4], &[3]);
    let entries = world.configuration_entries(RaftId(1)).split_off(before);
    let steps: Vec<_> = entries.iter().map(|(_, before, after)| (before.as_slice(), after.as_slice())).collect();
    assert_eq!(steps, [(&[1, 2, 3][..], &[1, 2, 4][..]), (&[1, 2, 4], &[1, 2, 4])]);
    for id in [2, 4] {
        let theirs = world.configuration_entries(RaftId(id));
        assert!(theirs.ends_with(&entries), "the log of {id}: {theirs:?}");
    }
    assert_eq!(record(&world, 3).unwrap().role, i32::from(Role::Manager));
    Ok(())
}

#[test]
fn a_voter_that_comes_and_goes_or_is_held_is_not_replaced_and_one_that_returns_is_a_standby() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    // Given a voter that is away again and again, each time almost for too long
    for _ in 0..4 {
        world.crash(RaftId(3), 0);
        world.run_for(3500 * MILLIS)?;
        world.restart(RaftId(3))?;
        world.run_for(200 * MILLIS)?;
        assert_eq!(configuration(&world).voters, ids(&[1, 2, 3]));
    }
    // And one whose replacement is held up while its machine reboots
    world.edit(2, |record| (record.hold_ms, record.hold_serial) = (9000, 1))?;
    world.run_for(200 * MILLIS)?;
    world.crash(RaftId(2), 0);
    world.run_for(8500 * MILLIS)?;
    assert_eq!(configuration(&world).voters, ids(&[1, 2, 3]));
    // When the time is up, it is replaced
    seated(&mut world, &[1, 3, 4], &[2]);
    // And when it is back it is a standby like any other
    world.restart(RaftId(2))?;
    seated(&mut world, &[1, 3, 4], &[2]);
    // that takes the next lost one's seat
    world.destroy(RaftId(4));
    seated(&mut world, &[1, 2, 3], &[4]);
    Ok(())
}

#[test]
fn two_lost_voters_and_nobody_to_seat_lose_both_seats_in_one_change_and_three_never_become_one() -> Test {
    let mut world = grown(quiet(5));
    let before = changes(&world).len();
    world.destroy(RaftId(4));
    world.destroy(RaftId(5));
    seated(&mut world, &[1, 2, 3], &[4, 5]);
    assert_eq!(changes(&world).len(), before + 1);
    // A third one is lost: nobody is left to take its seat, and it keeps it
    world.destroy(RaftId(3));
    world.run_for(20_000 * MILLIS)?;
    seated(&mut world, &[1, 2, 3], &[4, 5]);
    // Until a manager joins
    let new = world.add_manager()?;
    seated(&mut world, &[1, 2, new.0], &[3, 4, 5]);
    Ok(())
}

#[test]
fn a_new_leader_counts_silence_from_zero() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    // Given a voter that has been silent for nearly long enough when leadership changes
    world.destroy(RaftId(3));
    world.run_for(3600 * MILLIS)?;
    world.transfer(RaftId(1), Some(RaftId(2)))?;
    world.run_until(ELECTION, |world| world.leader() == Some(RaftId(2)))?;
    // Then it has its time once more
    world.run_for(3800 * MILLIS)?;
    assert_eq!(configuration(&world).voters, ids(&[1, 2, 3]));
    seated(&mut world, &[1, 2, 4], &[3]);
    Ok(())
}

/// When the leader dies, in the course of a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Proposed,
    Appended,
    Committed,
    Applied,
    LeaveProposed,
    LeaveCommitted,
}

#[test]
fn a_leader_that_dies_in_any_step_of_a_replacement_leaves_it_to_the_next_one() -> Test {
    use Moment::{Appended, Applied, Committed, LeaveCommitted, LeaveProposed, Proposed};
    for moment in [Proposed, Appended, Committed, Applied, LeaveProposed, LeaveCommitted] {
        // Given five voters, one of them lost, and a standby
        let mut world = grown(quiet(6));
        let one = RaftId(1);
        let before = world.configuration_entries(one).len();
        world.destroy(RaftId(5));
        let wanted = before + if matches!(moment, LeaveProposed | LeaveCommitted) { 2 } else { 1 };
        let appended = move |world: &World| world.configuration_entries(one).len() >= wanted;
        world.run_for(3900 * MILLIS)?;
        match moment {
            Proposed => world.hold(Box::new(move |m| m.from == one && m.kind == "MsgAppend")),
            Appended => world.hold(Box::new(move |m| m.to == one && m.kind == "MsgAppendResponse")),
            // Committed by the others, and not yet in force here, where it is not on disk.
            Committed => world.hold_sync(one, true),
            Applied => {}
            LeaveProposed | LeaveCommitted => {
                let joint = world.run_until(5000 * MILLIS, |world| configuration(world).is_joint())?;
                assert!(joint, "{moment:?}");
                if moment == LeaveProposed {
                    world.hold(Box::new(move |m| m.from == one && m.kind == "MsgAppend"));
                } else {
                    world.hold_sync(one, true);
                }
            }
        }
        let is_there = world.run_until(5000 * MILLIS, appended)?;
        assert!(is_there, "{moment:?}");
        let index = world.configuration_entries(one)[wanted - 1].0;
        let reached = world.run_until(ELECTION / 2, |world| match moment {
            Proposed | LeaveProposed => true,
            Appended => [2, 3, 4].iter().all(|id| world.status(RaftId(*id)).is_some_and(|s| s.last.0 >= index)),
            Committed | LeaveCommitted => world.status(one).is_some_and(|s| s.commit.0 >= index),
            Applied => world.status(one).is_some_and(|s| s.configuration.is_joint()),
        })?;
        assert!(reached, "{moment:?}");
        let state = world.status(one).map(|s| (s.commit.0 >= index, s.configuration.is_joint())).unwrap();
        let expected = match moment {
            Proposed | Appended => (false, false),
            Committed => (true, false),
            Applied => (true, true),
            LeaveProposed => (false, true),
            LeaveCommitted => (true, true),
        };
        assert_eq!(state, expected, "{moment:?}");
        // When it dies there, and what it had not synced is gone
        world.crash(one, 0);
        world.drop_held();
        world.hold_sync(one, false);
        let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|id| id != one))?;
        assert!(led, "{moment:?}");
        // Then the next one does what is left to do, and with the old one back everybody agrees
        world.restart(one)?;
        seated(&mut world, &[1, 2, 3, 4, 6], &[5]);
        let replaced = changes(&world).into_iter().filter(|after| *after == [1, 2, 3, 4, 6]).count();
        assert_eq!(replaced, 1, "{moment:?}: one joint entry, whoever proposed it");
    }
    Ok(())
}

#[test]
fn a_demoted_leader_hands_leadership_over_before_its_seat_goes() -> Test {
    // Given three voters and a standby, under load
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    let tickets = world.propose_many(RaftId(1), 1..20)?;
    // When the leader is demoted
    assert_eq!(world.may(RaftId(1), Wish::Demote { forced: false }), Ok(()));
    world.demote(RaftId(1), false)?;
    let handed = world.run_until(20_000 * MILLIS, |world| world.leader().is_some_and(|id| id != RaftId(1)))?;
    // Then another one leads before a change of its seat is even proposed
    let led = world.leader().unwrap();
    assert!(handed && seats(&world) == (ids(&[1, 2, 3]), ids(&[4])) && !leader(&world).unwrap().changing);
    seated(&mut world, &[2, 3, 4], &[]);
    assert_eq!(world.leader(), Some(led));
    assert!(tickets.iter().all(|ticket| is_done(&world, *ticket)));
    // And it is a worker, its raft id burnt
    let record = record(&world, 1).unwrap();
    assert_eq!((record.role, record.raft_id, record.store_id.len()), (i32::from(Role::Worker), 0, 0));
    assert!(is_burnt(&world, 1));
    Ok(())
}

#[test]
fn who_led_and_handed_leadership_over_is_demoted_by_the_successor() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    // Given a wish written in the moment in which leadership is handed over
    world.demote(RaftId(1), false)?;
    world.transfer(RaftId(1), Some(RaftId(3)))?;
    seated(&mut world, &[2, 3, 4], &[]);
    assert_eq!(changes(&world).into_iter().filter(|after| *after == [2, 3, 4]).count(), 1);
    Ok(())
}

#[test]
fn the_only_voter_is_swapped_with_its_standby_and_nothing_acknowledged_is_missing() -> Test {
    // Given one voter and a standby
    let mut world = grown(quiet(2));
    let before = world.propose(RaftId(1), 1)?;
    world.run_until(ELECTION, |world| is_done(world, before))?;
    // When the voter is demoted
    world.demote(RaftId(1), false)?;
    // Then leadership goes over inside the joint configuration, and the standby is the only voter
    seated(&mut world, &[2], &[]);
    assert_eq!(world.leader(), Some(RaftId(2)));
    assert!(is_done(&world, before) && is_burnt(&world, 1));
    // And that one is the last: it is refused, and if the wish is there all the same, it stays
    let refused = world.may(RaftId(2), Wish::Demote { forced: true });
    assert_eq!(refused, Err(WishRefused::LastVoter { voter: RaftId(2) }));
    world.demote(RaftId(2), true)?;
    world.run_for(10_000 * MILLIS)?;
    seated(&mut world, &[2], &[]);
    let after = world.propose(RaftId(2), 2)?;
    let done = world.run_until(ELECTION, |world| is_done(world, after))?;
    assert!(done);
    Ok(())
}

#[test]
fn a_demoted_voter_that_is_elected_inside_the_joint_state_hands_leadership_on() -> Test {
    // Given a joint configuration in which 3 is on its way out
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    world.demote(RaftId(3), false)?;
    let joint = world
        .run_until(20_000 * MILLIS, |world| world.status(RaftId(3)).is_some_and(|s| s.configuration.is_joint()))?;
    assert!(joint);
    // When the leader dies, and only 3 asks for votes
    world.crash(RaftId(1), 0);
    world.hold(Box::new(|m| m.from != RaftId(3) && m.kind == "MsgRequestPreVote"));
    let led = world.run_until(20 * ELECTION, |world| {
        world.status(RaftId(3)).is_some_and(|s| s.role == Some(RaftRole::Leader) && s.configuration.is_joint())
    })?;
    assert!(led, "{:?}", world.leader());
    world.drop_held();
    // Then it leads until somebody who keeps a seat can, and loses its own
    world.restart(RaftId(1))?;
    seated(&mut world, &[1, 2, 4], &[]);
    assert_ne!(world.leader(), Some(RaftId(3)));
    assert!(is_burnt(&world, 3));
    Ok(())
}

#[test]
fn two_concurrent_demotions_share_one_change() -> Test {
    let mut world = grown(quiet(5));
    let before = changes(&world).len();
    world.demote(RaftId(4), false)?;
    world.demote(RaftId(5), false)?;
    seated(&mut world, &[1, 2, 3], &[]);
    assert_eq!(changes(&world).len(), before + 1);
    // Of five one alone takes another one along, which becomes a standby
    let (a, b) = (world.add_manager()?.0, world.add_manager()?.0);
    seated(&mut world, &[1, 2, 3, a, b], &[]);
    assert_eq!(world.may(RaftId(2), Wish::Demote { forced: false }), Ok(()));
    world.demote(RaftId(2), false)?;
    seated(&mut world, &[1, 3, a], &[b]);
    Ok(())
}

#[test]
fn three_voters_become_one_only_by_force() -> Test {
    let mut world = grown(quiet(3));
    let wish = |forced| Wish::Remove { forced };
    let refused = world.may(RaftId(3), wish(false));
    assert_eq!(refused, Err(WishRefused::EndsFaultTolerance { from: 3, to: 1 }));
    // Given the wish is there all the same, it waits
    world.remove(RaftId(3), false)?;
    world.run_for(10_000 * MILLIS)?;
    assert_eq!(seats(&world), (ids(&[1, 2, 3]), vec![]));
    // When it is forced, two seats go: one node is removed, the other one becomes a standby
    assert_eq!(world.may(RaftId(3), wish(true)), Ok(()));
    world.remove(RaftId(3), true)?;
    seated(&mut world, &[1], &[2]);
    // And nothing is left of what was removed but its burnt raft id
    assert!(record(&world, 3).is_none() && is_burnt(&world, 3) && !world.mentions(3));
    // Force does not lift anything else: without a majority nothing is proposed
    world.add_manager()?;
    seated(&mut world, &[1, 2, 4], &[]);
    world.destroy(RaftId(2));
    world.destroy(RaftId(4));
    world.run_for(200 * MILLIS)?;
    let refused = world.may(RaftId(4), wish(true));
    assert_eq!(refused, Err(WishRefused::QuorumAtRisk { reachable: 1, needed: 2 }));
    Ok(())
}

#[test]
fn four_managers_join_at_once_and_one_of_them_is_unreachable() -> Test {
    let mut world = grown(quiet(1));
    let new: Vec<RaftId> = (0..4).map(|_| world.add_manager()).collect::<Result<_, _>>()?;
    world.isolate(new[1]);
    world.run_for(20_000 * MILLIS)?;
    // Three of the five have seats, one is a ready standby, and the one that is missing blocks nobody
    let (voters, standbys) = seats(&world);
    assert_eq!((voters.len(), standbys.len()), (3, 2));
    assert!(standbys.contains(&new[1]) && !configuration(&world).is_joint());
    let write = world.propose(world.leader().unwrap(), 1)?;
    let done = world.run_until(ELECTION, |world| is_done(world, write))?;
    assert!(done);
    // When it is reachable, all five have
    world.heal();
    seated(&mut world, &[1, 2, 3, 4, 5], &[]);
    Ok(())
}

#[test]
fn a_standby_that_was_cut_off_while_the_log_was_compacted_catches_up_by_a_snapshot_and_can_be_seated() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, log_window: 8, ..quiet(4) });
    world.isolate(RaftId(4));
    for sequence in 1..80 {
        let ticket = world.propose(RaftId(1), sequence)?;
        let done = world.run_until(1000 * MILLIS, |world| is_done(world, ticket))?;
        assert!(done);
    }
    let before = world.report().snapshots_installed;
    // A voter is lost meanwhile: the standby is not ready, and does not get its seat
    world.destroy(RaftId(3));
    world.run_for(6000 * MILLIS)?;
    assert_eq!(configuration(&world).voters, ids(&[1, 2, 3]));
    world.heal();
    seated(&mut world, &[1, 2, 4], &[3]);
    assert!(world.report().snapshots_installed > before);
    Ok(())
}

#[test]
fn an_eligible_worker_is_promoted_for_a_lost_voter_and_taken_back_when_it_does_not_come() -> Test {
    let mut world = grown(quiet(3));
    world.let_workers_enrol();
    // Given two workers, one of which operators have labelled, and a voter that is lost
    let plain = world.add_worker(false)?;
    let eligible = world.add_worker(true)?;
    world.destroy(RaftId(3));
    // When nobody else can take the seat for long enough
    world.run_for(5900 * MILLIS)?;
    assert_eq!(record(&world, eligible).unwrap().role, i32::from(Role::Worker), "too early");
    let promoted = world.run_until(2000 * MILLIS, |world| world.raft_ids_of(eligible).len() == 1)?;
    assert!(promoted);
    // Then the labelled one is promoted; but it cannot be reached, and is taken back
    let first = world.raft_ids_of(eligible)[0];
    world.isolate(first);
    let taken_back = world.run_until(20_000 * MILLIS, |world| {
        record(world, eligible).is_some_and(|r| r.role == i32::from(Role::Worker) && r.raft_id == 0)
    })?;
    assert!(taken_back && is_burnt(&world, first.0));
    assert!(!record(&world, eligible).unwrap().stands_in);
    world.heal();
    // And tried again, because there is nobody else: now under a new raft id
    let second = first.0 + 1;
    seated(&mut world, &[1, 2, second], &[3]);
    let standing_in = record(&world, eligible).unwrap();
    assert!(!standing_in.stands_in && standing_in.raft_id == second);
    assert_eq!(record(&world, plain).unwrap().role, i32::from(Role::Worker));
    // A wish does not wait for a worker's time: nobody gives up two seats while one can be promoted
    let other = world.add_worker(true)?;
    world.run_for(500 * MILLIS)?;
    world.remove(RaftId(3), false)?;
    world.demote(RaftId(2), false)?;
    world.run_for(200 * MILLIS)?;
    seated(&mut world, &[1, second, second + 1], &[]);
    assert_eq!(record(&world, other).unwrap().raft_id, second + 1);
    Ok(())
}

#[test]
fn a_worker_that_did_not_come_for_a_voter_that_leaves_is_tried_again_where_no_two_seats_can_go() -> Test {
    let mut world = grown(quiet(3));
    world.let_workers_enrol();
    // Given three voters, one of which is to leave, and a worker that is promoted for its seat and cannot be reached
    let worker = world.add_worker(true)?;
    world.run_for(500 * MILLIS)?;
    world.demote(RaftId(3), false)?;
    assert!(world.run_until(2000 * MILLIS, |world| world.raft_ids_of(worker).len() == 1)?);
    let first = world.raft_ids_of(worker)[0];
    world.isolate(first);
    let taken_back = world.run_until(20_000 * MILLIS, |world| is_burnt(world, first.0))?;
    assert!(taken_back);
    assert!(configuration(&world).voters.contains(&RaftId(3)), "three voters never become one without force");
    // When it can be reached again
    world.heal();
    // Then it is tried again, and takes the seat
    let second = first.0 + 1;
    seated(&mut world, &[1, 2, second], &[]);
    assert_eq!(record(&world, worker).unwrap().raft_id, second);
    Ok(())
}

#[test]
fn fewer_voters_are_allowed_and_more_again() -> Test {
    let mut world = grown(SimConfig { max_voters: 7, ..quiet(7) });
    let before = changes(&world).len();
    world.edit_cluster(|cluster| cluster.max_voters = 3)?;
    let small = world.run_until(30_000 * MILLIS, |world| seats(world).0.len() == 3 && world.is_at_rest().is_none())?;
    assert!(small && changes(&world).len() <= before + 2);
    assert_eq!(seats(&world).1.len(), 4, "nobody is a manager no more");
    world.edit_cluster(|cluster| cluster.max_voters = 5)?;
    let large = world.run_until(30_000 * MILLIS, |world| seats(world).0.len() == 5 && world.is_at_rest().is_none())?;
    assert!(large);
    Ok(())
}

#[test]
fn a_seat_whose_raft_id_no_record_stands_behind_goes_to_whoever_is_ready() -> Test {
    let mut world = grown(quiet(3));
    // Given a store that was damaged twice in short order: the record of node 3 was written for the seat that its first
    // raft id held, when its second one had just got it
    let new = world.add_manager()?;
    world.run_for(2000 * MILLIS)?;
    world.edit(3, |record| (record.raft_id, record.replaces) = (99, 77))?;
    // Then the seat of raft id 3 goes to a standby at once, without waiting until it is silent: nobody stands behind it
    world.run_for(1000 * MILLIS)?;
    assert_eq!(configuration(&world).voters, ids(&[1, 2, new.0]));
    assert!(!configuration(&world).contains(RaftId(3)));
    // And the claim on a seat that is not there is struck out
    assert_eq!(record(&world, 3).unwrap().replaces, 0);
    Ok(())
}

#[test]
fn a_removed_manager_that_goes_on_running_disturbs_nobody() -> Test {
    let mut world = grown(SimConfig { max_voters: 3, ..quiet(4) });
    // Given a voter that is removed while it is cut off, and believes that it still votes
    world.isolate(RaftId(3));
    world.remove(RaftId(3), false)?;
    seated(&mut world, &[1, 2, 4], &[]);
    let (term, leader) = (leader(&world).unwrap().term, world.leader());
    // When it is back, and asks for votes again and again
    world.heal();
    world.run_for(20_000 * MILLIS)?;
    // Then nobody listens
    assert_eq!((world.status(RaftId(1)).unwrap().term, world.leader()), (term, leader));
    assert!(world.status(RaftId(3)).unwrap().configuration.voters.contains(&RaftId(3)));
    Ok(())
}

#[test]
fn a_preferred_leader_gets_leadership_once_it_is_stable_and_keeps_it() -> Test {
    let mut world = grown(quiet(3));
    world.edit(3, |record| record.set_label(LABEL_LEADER.0, Some(LABEL_LEADER.1.into())))?;
    let led = world.run_until(5000 * MILLIS, |world| world.leader() == Some(RaftId(3)))?;
    assert!(led);
    // When it restarts, another one leads for a while, and hands leadership back only when it is stable again
    world.crash(RaftId(3), 0);
    world.run_for(3 * ELECTION)?;
    world.restart(RaftId(3))?;
    let back = world.run_until(10 * TICK, |world| world.leader() == Some(RaftId(3)))?;
    assert!(!back);
    let back = world.run_until(5000 * MILLIS, |world| world.leader() == Some(RaftId(3)))?;
    assert!(back);
    let term = leader(&world).unwrap().term;
    world.run_for(10_000 * MILLIS)?;
    assert_eq!(leader(&world).unwrap().term, term);
    Ok(())
}
