//! Rolling upgrades: one manager after the other, back before the finish, and what an old binary does after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use quorate_chaos::sim::{ELECTION, MILLIS, Profile, Reply, Report, SimConfig, World, run};
use quorate_core::command::CommandKind;
use quorate_core::consensus::io::Rejection;
use quorate_core::id::RaftId;
use quorate_core::membership::upgrade::finish;
use quorate_core::state::contract::Outcome;
use sim_common::{Test, followers, grown, is_done, quiet};

const OLD: u32 = 1;
const NEW: u32 = 2;

/// Three voters, all of the older version.
fn old_cluster() -> World {
    grown(SimConfig { upgrades: true, ..quiet(3) }, 3)
}

fn settle(world: &mut World) -> Test {
    let settled = world.run_until(20_000 * MILLIS, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    Ok(())
}

/// Everybody gets the newer binary, one after the other, the leader last; each says so.
fn roll(world: &mut World) -> Test {
    let mut order = followers(world);
    order.extend(world.leader());
    for id in order {
        world.reinstall(id, NEW)?;
        settle(world)?;
        world.announce()?;
        settle(world)?;
    }
    Ok(())
}

fn version(world: &World) -> u32 {
    world.leader_records().unwrap().cluster.version
}

fn finish_it(world: &mut World) -> Test {
    let ticket = world.finish_upgrade()?.unwrap().unwrap();
    assert!(world.run_until(2_000 * MILLIS, |world| is_done(world.reply(ticket)))?);
    Ok(())
}

fn write(world: &mut World, sequence: u64) -> Test {
    let leader = world.leader().unwrap();
    let ticket = world.propose(leader, sequence)?;
    assert!(world.run_until(2_000 * MILLIS, |world| is_done(world.reply(ticket)))?);
    Ok(())
}

fn names(world: &World, ids: &[RaftId]) -> Vec<String> {
    ids.iter().filter_map(|id| world.node_of(*id)).map(|node| format!("n{node}")).collect()
}

fn held_back(world: &mut World) -> Vec<String> {
    let held = world.finish_upgrade().unwrap().unwrap_err().0;
    let records = world.leader_records().unwrap();
    held.behind.iter().map(|node| records.nodes.get(*node).unwrap().name.clone()).collect()
}

#[test]
fn what_is_new_waits_until_all_are_upgraded_and_somebody_says_so() -> Test {
    let mut world = old_cluster();
    // Given a cluster that goes up one by one, then each says it, and who is left is named
    let followers = followers(&world);
    assert_eq!(world.finish_upgrade()?.unwrap(), None, "there is nothing to finish yet");
    world.reinstall(followers[0], NEW)?;
    settle(&mut world)?;
    world.announce()?;
    settle(&mut world)?;
    let mut left = names(&world, &[followers[1], world.leader().unwrap()]);
    left.sort();
    assert_eq!(held_back(&mut world), left);
    roll(&mut world)?;
    // And what is new is refused by whoever is asked, with nothing done
    for at in world.ids() {
        let ticket = world.note(at, "too early")?;
        world.run_until(2_000 * MILLIS, |world| world.reply(ticket).is_some())?;
        let refused = Reply::Refused(Rejection::VersionNotEnabled { needed: NEW, current: OLD });
        assert_eq!(world.reply(ticket), Some(&refused));
    }
    // When the operator says that it is finished, then everybody can do it at once, also a follower that has not heard yet.
    let slow = sim_common::followers(&world)[0];
    world.hold_apply(slow, true);
    finish_it(&mut world)?;
    let ticket = world.note(slow, "in time")?;
    world.run_until(2_000 * MILLIS, |world| world.reply(ticket).is_some())?;
    assert!(is_done(world.reply(ticket)), "{:?}", world.reply(ticket));
    world.hold_apply(slow, false);
    settle(&mut world)?;
    assert_eq!(version(&world), NEW);
    assert_eq!(world.finish_upgrade()?.unwrap(), None, "twice is once");
    Ok(())
}

#[test]
fn before_the_finish_everybody_may_go_back() -> Test {
    let mut world = old_cluster();
    roll(&mut world)?;
    // Given all of the newer version, when two go back, then they go on, and hold the finish back
    let back = followers(&world);
    for id in back.clone() {
        world.reinstall(id, OLD)?;
        settle(&mut world)?;
        world.announce()?;
        settle(&mut world)?;
    }
    write(&mut world, 1)?;
    assert_eq!(held_back(&mut world), names(&world, &back));
    assert!(!back.iter().any(|id| world.is_outdated(*id)));
    Ok(())
}

#[test]
fn a_finish_is_void_when_a_manager_went_back_between_the_judgement_and_the_apply() -> Test {
    let mut world = old_cluster();
    roll(&mut world)?;
    // Given a finish that was judged while everybody was new
    let records = world.leader_records().unwrap();
    let judged = finish(&records.cluster, &records.nodes).unwrap().unwrap();
    // When one goes back, and says so, before it is proposed
    let back = followers(&world)[0];
    world.reinstall(back, OLD)?;
    settle(&mut world)?;
    world.announce()?;
    settle(&mut world)?;
    let leader = world.leader().unwrap();
    let ticket = world.command(leader, CommandKind::System(judged.txn()).into())?;
    world.run_until(2_000 * MILLIS, |world| world.reply(ticket).is_some())?;
    // Then it changes nothing.
    assert!(matches!(world.reply(ticket), Some(Reply::Outcome(Outcome::Done(done))) if !done.succeeded));
    settle(&mut world)?;
    assert_eq!(version(&world), OLD);
    Ok(())
}

#[test]
fn a_member_that_meets_an_unknown_command_stops_right_before_it_and_goes_on_once_it_is_upgraded() -> Test {
    let mut world = old_cluster();
    roll(&mut world)?;
    // Given a manager that went back to the older binary and has not got to say so, and that is slow to apply
    let old = followers(&world)[0];
    world.reinstall(old, OLD)?;
    settle(&mut world)?;
    world.hold_apply(old, true);
    // When the upgrade is finished, and what is new is used
    finish_it(&mut world)?;
    let finished = world.status(world.leader().unwrap()).unwrap().last;
    let leader = world.leader().unwrap();
    let note = world.note(leader, "for the newer ones")?;
    assert!(world.run_until(2_000 * MILLIS, |world| is_done(world.reply(note)))?);
    world.keep_lines();
    world.hold_apply(old, false);
    world.run_for(ELECTION)?;
    // Then it has stopped, typed, with everything applied up to that command and nothing of it,
    assert!(world.is_outdated(old));
    let lines = world.take_lines().join("\n");
    let next = finished.next();
    assert!(
        lines.contains(&format!("entry {next} of the log needs version {NEW}, this binary knows versions up to {OLD}")),
        "{lines}"
    );
    // the others go on,
    write(&mut world, 1)?;
    write(&mut world, 2)?;
    // the older binary does not start again, and the newer one goes on from there to where the others are.
    world.restart(old)?;
    assert!(world.status(old).is_none());
    world.reinstall(old, NEW)?;
    settle(&mut world)?;
    assert_eq!(world.status(old).unwrap().applied, world.status(leader).unwrap().last);
    world.audit_newest()
}

#[test]
fn a_member_that_applies_the_finish_with_an_old_binary_applies_nothing_after_it() -> Test {
    let mut world = old_cluster();
    roll(&mut world)?;
    let old = followers(&world)[0];
    world.reinstall(old, OLD)?;
    settle(&mut world)?;
    // When the upgrade is finished, and nothing new is used after it
    finish_it(&mut world)?;
    write(&mut world, 1)?;
    world.run_for(ELECTION)?;
    // Then it has stopped all the same; a start is refused, and the newer binary goes on.
    assert!(world.is_outdated(old));
    world.replace_binary(old, OLD);
    world.restart(old)?;
    assert!(world.status(old).is_none());
    world.reinstall(old, NEW)?;
    settle(&mut world)
}

#[test]
fn a_snapshot_of_a_cluster_that_has_gone_on_is_not_installed_by_an_old_member() -> Test {
    let mut world = grown(SimConfig { upgrades: true, log_window: 8, ..quiet(3) }, 3);
    roll(&mut world)?;
    let old = followers(&world)[0];
    world.reinstall(old, OLD)?;
    settle(&mut world)?;
    // Given one that went back and was away while the others finished the upgrade and cut their logs
    world.isolate(old);
    let before = (world.report().snapshots_installed, world.status(old).unwrap().applied);
    finish_it(&mut world)?;
    for sequence in 1..=60 {
        write(&mut world, sequence)?;
    }
    // When it is there again, then the snapshot that it would need is refused and nothing of it is there
    let failed = world.report().snapshots_failed;
    world.heal();
    world.run_for(10 * ELECTION)?;
    assert!(world.report().snapshots_failed > failed);
    assert_eq!((world.report().snapshots_installed, world.status(old).unwrap().applied), before);
    // And the newer binary takes it.
    world.reinstall(old, NEW)?;
    settle(&mut world)?;
    assert_eq!(world.status(old).unwrap().applied, world.status(world.leader().unwrap()).unwrap().last);
    Ok(())
}

/// A round of seeds, in which each of these must have happened.
fn seeds(seeds: impl Iterator<Item = u64>) -> Report {
    let mut sum = Report::default();
    for seed in seeds {
        match run(seed, Profile::Upgrade) {
            Ok(report) => sum.add(&report),
            Err(violation) => panic!("QUORATE_SIM_PROFILE=upgrade: {violation}"),
        }
    }
    sum
}

#[test]
fn members_of_two_versions_keep_every_invariant_under_faults() {
    let sum = seeds(1..=24);
    for (what, count) in [
        ("acknowledged writes", sum.acks),
        ("binaries replaced", sum.reinstalled),
        ("finishes held back", sum.finishes_refused),
        ("members that stopped because of what they do not know", sum.outdated),
        ("snapshots installed", sum.snapshots_installed),
    ] {
        assert!(count > 0, "no {what}: {sum:?}");
    }
}
