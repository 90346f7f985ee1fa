//! Force-new-cluster in the simulated cluster: from any survivor, at any step of a change, whatever fails on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the counts are for people")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, Recovering, SimConfig, World};
use quorate_core::consensus::configurations::Standing;
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::recovery::RecoveryError;
use quorate_core::state::contract::Refusal;
use quorate_core::state::read::{self, ReadError};
use quorate_core::state::{COUNTER_JUMP, REVISION_JUMP};
use quorate_core::txn::Range;

use sim_common::survivors::{alone, grow_again, others, write, written};
use sim_common::{Test, grown, quiet};

#[test]
fn every_manager_of_three_is_a_survivor_with_everything_acknowledged() -> Test {
    for survivor in 1..=3 {
        // Given writes that every manager has, when all lose power at once
        let mut world = grown(quiet(3), 3);
        let survivor = RaftId(survivor);
        let leader = world.leader().unwrap();
        let mut last = 0;
        for sequence in 1..=20 {
            last = write(&mut world, leader, sequence)?;
        }
        world.run_for(ELECTION)?;
        for id in world.ids() {
            world.crash(id, usize::MAX);
        }
        // and one of them is recovered
        let (findings, kept, first) = written(world.recover(survivor)?);
        assert_eq!((kept, first), (last, last + REVISION_JUMP));
        assert_eq!(world.recover(survivor)?, Recovering::Begun);
        world.restart(survivor)?;
        alone(&mut world, survivor)?;
        // then it has it all, counts further than anybody before, and grows again
        assert!(world.status(survivor).unwrap().term.0 > findings.term.0 + COUNTER_JUMP);
        let next = write(&mut world, survivor, 100)?;
        assert_eq!(next, first + 1);
        grow_again(&mut world, survivor)?;
        world.audit_newest()?;
        assert_eq!(world.acknowledged(1).len(), 21);
        // A second time there is nothing to do while it is not alone, and it can be done again.
        let leader = world.leader_of(1).unwrap();
        let again = others(&world, leader).into_iter().find(|id| id.0 > COUNTER_JUMP).unwrap();
        world.run_for(ELECTION)?;
        for id in world.ids() {
            world.crash(id, usize::MAX);
        }
        let (_, kept, _) = written(world.recover(again)?);
        assert_eq!(kept, next + 2, "two joins came after it");
        world.restart(again)?;
        alone(&mut world, again)?;
        assert_eq!(world.records(again).unwrap().lineage().generation(), 3);
        grow_again(&mut world, again)?;
        world.audit_newest()?;
    }
    Ok(())
}

#[test]
fn a_survivor_at_any_step_of_a_joint_change_leads_alone_and_keeps_every_write_on_its_disk() -> Test {
    // How often the survivor was in which situation: a situation that was never met was never survived.
    let (mut joint, mut standby, mut between, mut above, mut acknowledged_above, mut runs) = (0, 0, 0, 0, 0, 0);
    for effects in 0..150 {
        for survivor in 1..=5 {
            let survivor = RaftId(survivor);
            // Given five managers of which two are about to be seated, appliers that are slow, and writes under way
            let slow = if effects % 2 == 0 { 400 * MILLIS } else { MILLIS / 2 };
            let mut world = World::new(SimConfig { stable_ticks: 25, ..quiet(5) })?;
            let three = world.run_until(30_000 * MILLIS, |world| {
                world.leader().and_then(|id| world.status(id)).is_some_and(|status| {
                    status.configuration.voters.len() == 3 && status.configuration.learners.len() == 2
                })
            })?;
            assert!(three);
            let leader = world.leader().unwrap();
            world.run_until(20_000 * MILLIS, |world| {
                world.status(leader).is_some_and(|status| status.progress.iter().all(|other| other.stable_ticks >= 24))
            })?;
            world.slow_apply(slow);
            for sequence in 1..=3 {
                world.propose(leader, sequence)?;
            }
            // when the leader dies in the middle of the change, and everybody else with it, losing what was not synced
            world.doom(leader, effects);
            for sequence in 4..=30 {
                // Later entries bring the news of what is committed to the disks.
                if world.run_until(ELECTION / 25, |world| world.status(leader).is_none())? {
                    break;
                }
                world.propose(leader, sequence)?;
            }
            world.spare();
            for id in world.ids() {
                world.crash(id, 0);
            }
            runs += 1;
            let old = world.acknowledged(0);
            let (findings, ..) = written(world.recover(survivor)?);
            joint += usize::from(findings.configuration.is_joint());
            standby += usize::from(!findings.configuration.is_voter(survivor));
            between += usize::from(findings.pending.iter().any(|entry| entry.index <= findings.commit));
            above += usize::from(findings.pending.iter().any(|entry| entry.index > findings.commit));
            acknowledged_above += usize::from(findings.commit < findings.last && !old.is_empty());
            let pending = findings.pending.len();
            // then from its disk a cluster of one goes on,
            let listed = world.configurations(survivor);
            let void = listed.iter().filter(|entry| entry.standing == Standing::Void && entry.index > findings.applied);
            assert_eq!(void.count(), pending, "{listed:?}");
            world.restart(survivor)?;
            alone(&mut world, survivor)?;
            write(&mut world, survivor, 100)?;
            // with every acknowledged write that the disk held, none of the changes of the tail, and odd as ever.
            world.audit_newest()?;
            if effects % 30 == 0 {
                world.slow_apply(MILLIS / 2);
                grow_again(&mut world, survivor)?;
                world.audit_newest()?;
            }
        }
    }
    println!(
        "{runs} survivors: {joint} in a joint configuration, {standby} without a vote, {between} with a configuration entry between applied and commit, {above} with one above commit, {acknowledged_above} with a tail above commit"
    );
    for (what, count) in [
        ("joint", joint),
        ("standby", standby),
        ("between applied and commit", between),
        ("above commit", above),
        ("acknowledged above commit", acknowledged_above),
    ] {
        assert!(count > 3, "only {count} survivors were {what}");
    }
    Ok(())
}

#[test]
fn a_revision_that_a_reader_saw_and_that_was_lost_never_comes_again_with_another_value() -> Test {
    // Given a manager that is taken for the only survivor while the others went on: what they acknowledged since is lost
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let kept = write(&mut world, leader, 1)?;
    world.run_for(ELECTION)?;
    let survivor = others(&world, leader)[0];
    // It is killed without waiting for their last writes
    world.crash(survivor, 0);
    let mut seen = Vec::new();
    for sequence in 2..=12 {
        seen.push(write(&mut world, leader, sequence)?);
    }
    for id in others(&world, survivor) {
        world.crash(id, usize::MAX);
    }
    // Then the report claims what its disk has, and no more
    let (_, claimed, first) = written(world.recover(survivor)?);
    assert_eq!(claimed, kept);
    world.restart(survivor)?;
    alone(&mut world, survivor)?;
    // When the new incarnation writes more than was lost
    let written = (100..120).map(|sequence| write(&mut world, survivor, sequence)).collect::<Result<Vec<_>, _>>()?;
    // Then no revision that anybody saw is used again, and who asks for one is told what was kept
    assert!(written.iter().all(|revision| *revision > first) && seen.iter().all(|revision| *revision < first));
    let view = world.view(survivor).unwrap();
    for revision in seen {
        let range = Range { key: Section::User.key(b"any"), revision, ..Range::default() };
        let refused = read::range(&*view, &range);
        assert!(
            matches!(&refused, Err(ReadError::Refused(Refusal::NewGeneration { asked, kept_revision }))
                if (*asked, *kept_revision) == (revision, kept)),
            "{refused:?}"
        );
    }
    Ok(())
}

#[test]
fn a_manager_alone_has_nothing_to_recover_and_a_newcomer_without_state_cannot() -> Test {
    let mut world = grown(quiet(1), 1);
    write(&mut world, RaftId(1), 1)?;
    world.crash(RaftId(1), usize::MAX);
    assert_eq!(world.recover(RaftId(1))?, Recovering::Alone);
    world.restart(RaftId(1))?;
    let led = world.run_until(20 * ELECTION, |world| world.has_lease(RaftId(1)))?;
    assert!(led);
    assert_eq!((world.incarnation(RaftId(1)), world.records(RaftId(1)).unwrap().lineage().generation()), (0, 1));
    // Nor has one that was recovered, however often it is told to
    let mut left = grown(quiet(3), 3);
    for id in left.ids() {
        left.crash(id, usize::MAX);
    }
    written(left.recover(RaftId(2))?);
    left.restart(RaftId(2))?;
    alone(&mut left, RaftId(2))?;
    for _ in 0..3 {
        left.crash(RaftId(2), usize::MAX);
        assert_eq!(left.recover(RaftId(2))?, Recovering::Alone);
        left.restart(RaftId(2))?;
        alone(&mut left, RaftId(2))?;
        assert_eq!(left.records(RaftId(2)).unwrap().lineage().generation(), 2);
    }
    world.isolate(RaftId(1));
    let (fresh, _) = world.join(RaftId(1))?;
    world.crash(fresh, usize::MAX);
    assert_eq!(world.recover(fresh)?, Recovering::Refused(RecoveryError::NoState));
    Ok(())
}

#[test]
fn a_recovery_whose_write_or_sync_fails_has_changed_nothing_or_everything() -> Test {
    let mut begun = 0;
    for keep in [0, 1] {
        for fails in ["write", "sync"] {
            let mut world = grown(quiet(3), 3);
            let survivor = others(&world, world.leader().unwrap())[0];
            for id in world.ids() {
                world.crash(id, usize::MAX);
            }
            let failed = world.recover_failing(survivor, fails == "sync", keep)?;
            assert!(failed);
            // What is there afterwards is one of the two, and a second call completes it.
            match world.recover(survivor)? {
                Recovering::Begun => begun += 1,
                Recovering::Written { .. } => {}
                other @ (Recovering::Alone | Recovering::Refused(_)) => panic!("{other:?}"),
            }
            world.restart(survivor)?;
            alone(&mut world, survivor)?;
            world.audit_newest()?;
        }
    }
    assert_eq!(begun, 1, "only a sync that failed after the write had reached the disk leaves it all");
    Ok(())
}

#[test]
fn a_survivor_that_dies_at_any_step_of_its_first_start_finishes_in_a_later_one() -> Test {
    // Given a recovery that was written, when its first start dies after any number of effects, losing what was not synced
    let (mut unfinished, mut uncut) = (0, 0);
    for effects in 0..40 {
        let mut world = grown(SimConfig { apply_max: 30 * MILLIS, ..quiet(3) }, 3);
        let leader = world.leader().unwrap();
        for sequence in 1..=5 {
            write(&mut world, leader, sequence)?;
        }
        world.run_for(ELECTION)?;
        let survivor = others(&world, leader)[0];
        for id in world.ids() {
            world.crash(id, 0);
        }
        written(world.recover(survivor)?);
        world.doom(survivor, effects);
        world.restart(survivor)?;
        world.run_until(10 * ELECTION, |world| world.status(survivor).is_none())?;
        world.spare();
        world.crash(survivor, 0);
        // then what is left is finished by the next one.
        unfinished += usize::from(world.recover(survivor)? == Recovering::Begun);
        world.restart(survivor)?;
        let records = world.records(survivor).unwrap();
        uncut +=
            usize::from(records.recovery.index > LogIndex(0) && world.log_start(survivor) < records.recovery.index.0);
        alone(&mut world, survivor)?;
        grow_again(&mut world, survivor)?;
        world.audit_newest()?;
    }
    assert!(
        unfinished > 0 && uncut > 0,
        "{unfinished} before its last act was applied, {uncut} before the log was cut"
    );
    Ok(())
}
