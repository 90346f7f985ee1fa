//! Force-new-cluster in the simulated cluster: from any survivor, at any step of a change, beside old managers that go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the counts are for people")]

mod sim_common;

use std::collections::BTreeSet;

use quorate_chaos::sim::{ELECTION, MILLIS, Recovering, Reply, SimConfig, Violation, World};
use quorate_core::command::CommandKind;
use quorate_core::consensus::config::Config;
use quorate_core::consensus::configurations::Standing;
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::log::Configuration;
use quorate_core::recovery::{Findings, RecoveryError};
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::read::{self, ReadError};
use quorate_core::state::{COUNTER_JUMP, REVISION_JUMP};
use quorate_core::txn::{Put, Range, Txn};

use sim_common::{Test, grown, is_done, quiet};

fn revision(reply: Option<&Reply>) -> u64 {
    match reply {
        Some(Reply::Outcome(Outcome::Done(done))) => done.revision,
        other => panic!("{other:?}"),
    }
}

/// Writes at `at` and waits for the acknowledgement; answers its revision.
fn write(world: &mut World, at: RaftId, sequence: u64) -> Result<u64, Box<Violation>> {
    let ticket = world.propose(at, sequence)?;
    let done = world.run_until(5_000 * MILLIS, |world| is_done(world.reply(ticket)))?;
    assert!(done, "{:?}", world.reply(ticket));
    Ok(revision(world.reply(ticket)))
}

fn written(recovering: Recovering) -> (Findings, u64, u64) {
    match recovering {
        Recovering::Written { findings, kept_revision, first_revision } => (*findings, kept_revision, first_revision),
        other @ (Recovering::Alone | Recovering::Begun | Recovering::Refused(_)) => panic!("{other:?}"),
    }
}

fn others(world: &World, id: RaftId) -> Vec<RaftId> {
    world.ids().into_iter().filter(|other| *other != id).collect()
}

/// The survivor leads its incarnation alone, with a lease, and what was before is cut from its log.
fn alone(world: &mut World, survivor: RaftId) -> Test {
    let incarnation = world.incarnation(survivor);
    let led = world.run_until(20 * ELECTION, |world| {
        world.leader_of(incarnation) == Some(survivor)
            && world.has_lease(survivor)
            && world.records(survivor).is_some_and(|records| {
                records.recovery.begun.is_none() && world.log_start(survivor) >= records.recovery.index.0
            })
    })?;
    assert!(led, "{:?}, log from {}", world.status(survivor), world.log_start(survivor));
    let status = world.status(survivor).unwrap();
    let expected = Configuration { voters: vec![survivor], ..Configuration::default() };
    assert_eq!(status.configuration, expected);
    let records = world.records(survivor).unwrap();
    for node in records.nodes.iter().filter(|node| node.raft() != Some(survivor)) {
        assert!(node.raft_id == 0 || node.raft_id > COUNTER_JUMP, "{node:?}");
    }
    Ok(())
}

/// Two more join; three voters again.
fn grow_again(world: &mut World, survivor: RaftId) -> Test {
    for _ in 0..2 {
        let (_, ticket) = world.join(survivor)?;
        let done = world.run_until(5_000 * MILLIS, |world| is_done(world.reply(ticket)))?;
        assert!(done);
    }
    let incarnation = world.incarnation(survivor);
    let three = world.run_until(30_000 * MILLIS, |world| {
        let leader = world.leader_of(incarnation).and_then(|leader| world.status(leader));
        leader.is_some_and(|status| {
            status.configuration.voters.len() == 3
                && !status.configuration.is_joint()
                && status.configuration.voters.iter().all(|id| *id == survivor || id.0 > COUNTER_JUMP)
        }) && world.is_settled().is_none()
    })?;
    assert!(three, "{:?}", world.is_settled());
    Ok(())
}

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
fn old_managers_that_go_on_and_the_new_incarnation_accept_nothing_of_each_other() -> Test {
    // Given three managers, one of which is cut off and taken for the only survivor
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    write(&mut world, old, 1)?;
    world.run_for(ELECTION)?;
    let survivor = others(&world, old)[0];
    let left: Vec<RaftId> = others(&world, survivor);
    world.isolate(survivor);
    world.crash(survivor, usize::MAX);
    written(world.recover(survivor)?);
    world.restart(survivor)?;
    alone(&mut world, survivor)?;
    // when both sides write, under leaderships of their own
    let mut theirs = BTreeSet::new();
    let mut ours = BTreeSet::new();
    for sequence in 2..=30 {
        let leader = world.leader_of(0).unwrap();
        if sequence == 15 {
            world.transfer(leader, None)?;
            world.run_for(5 * ELECTION)?;
        }
        let leader = world.leader_of(0).unwrap();
        theirs.insert(write(&mut world, leader, 1_000 + sequence)?);
        ours.insert(write(&mut world, survivor, 2_000 + sequence)?);
    }
    let token = *world.tokens(0).last().unwrap();
    assert!(world.tokens(0).len() >= 2 && world.tokens(0).is_disjoint(&world.tokens(1)));
    assert!(theirs.is_disjoint(&ours));
    assert!(theirs.last() < ours.first());
    // and the network is whole again, the old managers alive all the time
    world.heal();
    world.run_for(10 * ELECTION)?;
    // then the old ones are fenced: down, and not to be started again, ever
    for id in &left {
        assert!(world.status(*id).is_none() && world.is_fenced(*id), "{id} goes on");
        for _ in 0..3 {
            world.restart(*id)?;
            assert!(world.status(*id).is_none());
        }
    }
    assert!(world.status(survivor).is_some() && !world.is_fenced(survivor));
    // nothing of theirs is known here,
    world.audit_newest()?;
    let keys: BTreeSet<(u64, u64)> = world.acknowledged(1).into_keys().collect();
    assert!(keys.contains(&(1_000_000, 1)) && keys.contains(&(1_000_000, 2_005)));
    assert!(!keys.contains(&(1_000_000, 1_005)));
    // a write bound to a leadership of theirs is refused,
    let fenced = Txn {
        fence: Some(token),
        ..Txn::of(Put { key: Section::User.key(b"late"), value: "x".into(), ..Put::default() })
    };
    let ticket = world.command(survivor, CommandKind::System(fenced).into())?;
    world.run_until(ELECTION, |world| world.reply(ticket).is_some())?;
    let refused = world.reply(ticket);
    assert!(matches!(refused, Some(Reply::Outcome(Outcome::Refused(Refusal::Fenced { .. })))), "{refused:?}");
    // and a request that only they had done counts here as a new one: its outcome there is nobody's.
    let again = write(&mut world, survivor, 1_005)?;
    assert!(again > *ours.last().unwrap());
    grow_again(&mut world, survivor)?;
    world.audit_newest()
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
fn two_recoveries_of_one_cluster_do_not_talk_and_nothing_is_fenced() -> Test {
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    write(&mut world, leader, 1)?;
    world.run_for(ELECTION)?;
    let [first, second] = others(&world, leader)[..] else { panic!("three managers") };
    for id in world.ids() {
        world.crash(id, usize::MAX);
    }
    for id in [first, second] {
        written(world.recover(id)?);
    }
    for id in [first, second] {
        world.restart(id)?;
        alone(&mut world, id)?;
    }
    // Both go on, each for itself, and the third, which is of neither, is fenced by the one that it meets first.
    let (one, two) = (write(&mut world, first, 10)?, write(&mut world, second, 10)?);
    assert_eq!(one, two, "they count alike: that is why they must not talk");
    world.run_for(10 * ELECTION)?;
    for id in [first, second] {
        assert!(world.status(id).is_some() && !world.is_fenced(id));
        assert!(world.status(id).unwrap().connected.is_empty());
    }
    world.restart(leader)?;
    world.run_for(ELECTION)?;
    assert!(world.status(leader).is_none() && world.is_fenced(leader));
    Ok(())
}

#[test]
fn old_managers_started_together_ask_before_they_elect() -> Test {
    // Given a cluster recovered from one of three
    let mut world = grown(quiet(3), 3);
    let survivor = others(&world, world.leader().unwrap())[0];
    for id in world.ids() {
        world.crash(id, usize::MAX);
    }
    written(world.recover(survivor)?);
    world.restart(survivor)?;
    alone(&mut world, survivor)?;
    // when both old ones, a majority of what was, are started at the same moment
    let old = others(&world, survivor);
    for id in &old {
        world.restart(*id)?;
    }
    // then neither ever leads
    let led = world.run_until(20 * ELECTION, |world| world.leader_of(0).is_some())?;
    assert!(!led);
    assert!(old.iter().all(|id| world.is_fenced(*id)));
    Ok(())
}

#[test]
fn old_managers_that_reach_nobody_wait_the_whole_patience_and_then_go_on() -> Test {
    // Given the same, but the new incarnation out of reach
    let mut world = grown(quiet(3), 3);
    let survivor = others(&world, world.leader().unwrap())[0];
    for id in world.ids() {
        world.crash(id, usize::MAX);
    }
    let old = others(&world, survivor);
    world.isolate(survivor);
    for id in &old {
        world.restart(*id)?;
    }
    let began = world.now();
    let patience = Config::new(RaftId(1), 0).ask_nanos;
    let led = world.run_until(patience + 20 * ELECTION, |world| world.leader_of(0).is_some())?;
    // Then they elect one of themselves, and not before they have waited
    assert!(led && world.now() - began > patience, "after {} ms", (world.now() - began) / MILLIS);
    Ok(())
}

#[test]
fn a_manager_that_has_not_asked_for_lineages_yet_gives_no_vote_either() -> Test {
    // Given three that start again, of which two do not reach each other, and so cannot ask each other
    let mut world = grown(quiet(3), 3);
    let asks_all = world.leader().unwrap();
    let [one, other] = others(&world, asks_all)[..] else { panic!("three members") };
    for id in world.ids() {
        world.crash(id, usize::MAX);
    }
    world.cut(one, other);
    for id in world.ids() {
        world.restart(id)?;
    }
    let began = world.now();
    // When the third one, which has asked both, campaigns
    let patience = Config::new(RaftId(1), 0).ask_nanos;
    let led = world.run_until(patience + 20 * ELECTION, |world| world.leader().is_some())?;
    // Then it wins only when one of them has waited for as long as it has to
    assert!(led && world.now() - began > patience, "after {} ms", (world.now() - began) / MILLIS);
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
