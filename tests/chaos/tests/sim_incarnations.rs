//! Incarnations that meet: old managers that go on, or are started again, beside a cluster that was recovered from one of theirs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use std::collections::BTreeSet;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, TICK};
use quorate_core::command::CommandKind;
use quorate_core::consensus::config::Config;
use quorate_core::id::RaftId;
use quorate_core::keyspace::Section;
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::succession::CLAIM_TICKS;
use quorate_core::txn::{Put, Txn};

use sim_common::survivors::{alone, grow_again, others, write, written};
use sim_common::{Test, followers, grown, quiet};

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
fn who_never_heard_of_the_survivor_goes_on_until_it_has_had_no_leader_for_long() -> Test {
    // Given a manager that is cut off before another one joins, and a cluster that is recovered from that one
    let mut world = grown(quiet(3), 3);
    let cut_off = followers(&world)[0];
    world.isolate(cut_off);
    let survivor = world.add_manager()?;
    // All links to it are up but the one to who is cut off
    world.cut(survivor, cut_off);
    world.cut(cut_off, survivor);
    let there = world.run_until(10_000 * MILLIS, |world| {
        let last = world.leader().and_then(|leader| world.status(leader)).map(|status| status.last);
        world.status(survivor).is_some_and(|status| status.applied.0 > 0 && Some(status.applied) == last)
    })?;
    assert!(there);
    for id in others(&world, cut_off) {
        world.crash(id, usize::MAX);
    }
    written(world.recover(survivor)?);
    world.restart(survivor)?;
    alone(&mut world, survivor)?;
    assert!(world.records(cut_off).unwrap().by_raft_id(survivor).is_none());
    // When they meet, then the survivor's word proves nothing to it: nobody that it knows stands for it
    world.heal();
    world.run_for(2 * ELECTION)?;
    let leaderless = world.status(cut_off).unwrap().leaderless_ticks;
    assert!(!world.is_fenced(cut_off) && leaderless > 0 && leaderless < CLAIM_TICKS, "{leaderless}");
    // But the CA's key does, and nobody else is left that it could follow: so it stops after all, and not before its time.
    let left = (CLAIM_TICKS - leaderless) * TICK;
    world.run_for(left - 2 * ELECTION)?;
    assert!(!world.is_fenced(cut_off));
    world.run_for(4 * ELECTION)?;
    assert!(world.is_fenced(cut_off));
    assert_eq!(world.report().claimed, 1);
    Ok(())
}
