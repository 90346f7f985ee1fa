//! Leadership that is handed over, let pass, or lost: the next attempt goes to somebody else, and nobody waits for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use std::cell::RefCell;
use std::rc::Rc;

use quorate_chaos::sim::{ELECTION, MILLIS, Reply, SimConfig, TICK, World};
use quorate_core::consensus::io::RaftRole;
use quorate_core::id::RaftId;
use quorate_core::membership::record::LABEL_LEADER;
use sim_common::{Test, grown};

/// Whom the leader called upon to take over, one after the other.
type Called = Rc<RefCell<Vec<RaftId>>>;

/// The first whom `old` calls upon never hears of it, and only `leads_next` asks for votes.
fn first_call_is_lost(world: &mut World, old: RaftId, leads_next: RaftId) -> Called {
    let called = Called::default();
    let calls = Rc::clone(&called);
    world.hold(Box::new(move |message| {
        if message.kind == "MsgRequestPreVote" {
            return message.from != leads_next;
        }
        if message.from != old || message.kind != "MsgTimeoutNow" {
            return false;
        }
        calls.borrow_mut().push(message.to);
        calls.borrow().first() == Some(&message.to)
    }));
    called
}

fn is_leader(world: &World, id: RaftId) -> bool {
    world.status(id).is_some_and(|status| status.role == Some(RaftRole::Leader))
}

fn led_by_another(world: &World, than: RaftId) -> bool {
    world.leader().is_some_and(|leader| leader != than && is_leader(world, leader))
}

/// That many voters and, with `standby`, one more member, at this length of a tick; 1 leads.
fn resting(voters: u64, standby: bool, tick_ms: u64) -> World {
    let members = voters + u64::from(standby);
    let config = SimConfig { max_voters: u32::try_from(voters).unwrap(), ..SimConfig::quiet(7, members) };
    let mut world = grown(config, usize::try_from(voters).unwrap());
    assert_eq!(world.leader(), Some(RaftId(1)));
    world.edit_cluster(|cluster| cluster.tick_micros = tick_ms * 1_000).unwrap();
    let followed = world.run_until(10_000 * MILLIS, |world| {
        let ticks = world.ids().into_iter().filter_map(|id| world.status(id)).map(|status| status.tick.0);
        ticks.collect::<Vec<_>>().iter().all(|tick| *tick == tick_ms * MILLIS)
    });
    assert!(followed.unwrap());
    world.run_for(2 * election(tick_ms)).unwrap();
    world
}

const fn election(tick_ms: u64) -> u64 {
    ELECTION / TICK * tick_ms * MILLIS
}

#[test]
fn a_second_attempt_to_hand_leadership_over_goes_to_another_voter_with_any_timing() -> Test {
    for tick_ms in [20, 150] {
        // Given a transfer whose target is cut off in the very moment
        let mut world = resting(3, false, tick_ms);
        let old = RaftId(1);
        let called = first_call_is_lost(&mut world, old, old);
        let first = world.transfer(old, None)?;
        let answered = world.run_until(3 * election(tick_ms), |world| world.reply(first).is_some())?;
        assert!(answered && world.reply(first) == Some(&Reply::Unknown), "{:?}", world.reply(first));
        // When the old leader leads again, and is to hand over once more
        let again = world.run_until(6 * election(tick_ms), |world| world.has_lease(old))?;
        assert!(again, "{:?}", world.leader());
        let second = world.transfer(old, None)?;
        let answered = world.run_until(election(tick_ms), |world| world.reply(second).is_some())?;
        // Then it goes to the other one
        let [lost, taken] = called.borrow()[..] else { panic!("{called:?}") };
        assert_ne!(lost, taken);
        assert!(answered && world.reply(second) == Some(&Reply::Transferred(taken)), "{:?}", world.reply(second));
    }
    Ok(())
}

#[test]
fn a_demoted_leader_asks_another_voter_when_the_first_lets_leadership_pass() -> Test {
    for tick_ms in [20, 150] {
        // Given three voters and a standby, and a leader that is demoted
        let mut world = resting(3, true, tick_ms);
        let old = RaftId(1);
        let called = first_call_is_lost(&mut world, old, old);
        world.demote(old, false)?;
        // When the first whom it calls upon does not hear of it, then another one leads
        let handed = world.run_until(60 * election(tick_ms), |world| led_by_another(world, old))?;
        let [lost, taken] = called.borrow()[..] else { panic!("{called:?}, led by {:?}", world.leader()) };
        assert!(handed && lost != taken && world.leader() == Some(taken));
        // And takes the seat of the one before
        world.drop_held();
        let gone = world.run_until(60 * election(tick_ms), |world| {
            let status = world.status(taken).unwrap();
            !status.configuration.is_joint() && !status.configuration.contains(old)
        })?;
        assert!(gone && world.leader() == Some(taken));
    }
    Ok(())
}

#[test]
fn who_leads_a_joint_configuration_from_outside_asks_another_incoming_voter_when_the_first_lets_it_pass() -> Test {
    // Given a joint configuration on whose way out 3 is, and that 3 leads
    let mut world = resting(3, true, 20);
    let out = RaftId(3);
    world.demote(out, false)?;
    let joint =
        world.run_until(20_000 * MILLIS, |world| world.status(out).is_some_and(|s| s.configuration.is_joint()))?;
    assert!(joint);
    let called = first_call_is_lost(&mut world, out, out);
    world.crash(RaftId(1), 0);
    let led = world.run_until(20 * ELECTION, |world| is_leader(world, out))?;
    assert!(led && world.status(out).unwrap().configuration.is_joint());
    world.restart(RaftId(1))?;
    // When the first of the incoming half lets leadership pass
    let handed = world.run_until(60 * ELECTION, |world| led_by_another(world, out))?;
    // Then another one of it leads, and leaves the joint configuration
    let [lost, taken] = called.borrow()[..] else { panic!("{called:?}, led by {:?}", world.leader()) };
    assert!(handed && lost != taken && world.leader() == Some(taken));
    world.drop_held();
    let left = world.run_until(20 * ELECTION, |world| world.is_settled().is_none())?;
    assert!(left && !world.status(taken).unwrap().configuration.all_voters().contains(&out));
    Ok(())
}

#[test]
fn another_preferred_leader_is_asked_when_the_first_lets_it_pass() -> Test {
    // Given two preferred leaders, and a leader that is none
    let mut world = resting(5, false, 20);
    let old = RaftId(1);
    let called = first_call_is_lost(&mut world, old, old);
    for node in [2, 4] {
        world.edit(node, |record| record.set_label(LABEL_LEADER.0, Some(LABEL_LEADER.1.into())))?;
    }
    // When the first does not hear that it is to lead, then the second one does
    let handed = world.run_until(60 * ELECTION, |world| led_by_another(world, old))?;
    let [lost, taken] = called.borrow()[..] else { panic!("{called:?}, led by {:?}", world.leader()) };
    assert!(handed && world.leader() == Some(taken));
    assert!([lost, taken] == [RaftId(2), RaftId(4)] || [lost, taken] == [RaftId(4), RaftId(2)]);
    Ok(())
}

#[test]
fn who_let_leadership_pass_is_asked_again_when_all_others_have() -> Test {
    // Given two others, both of whom never hear that they are to lead
    let mut world = resting(3, false, 20);
    let old = RaftId(1);
    let called = Called::default();
    let calls = Rc::clone(&called);
    world.hold(Box::new(move |message| {
        if message.kind == "MsgTimeoutNow" {
            calls.borrow_mut().push(message.to);
        }
        message.kind == "MsgTimeoutNow" || (message.kind == "MsgRequestPreVote" && message.from != old)
    }));
    for _ in 0..4 {
        let transfer = world.transfer(old, None)?;
        let answered = world.run_until(3 * ELECTION, |world| world.reply(transfer).is_some())?;
        let again = world.run_until(6 * ELECTION, |world| world.has_lease(old))?;
        assert!(answered && again);
    }
    // Then they are asked in turn
    let [first, second, third, fourth] = called.borrow()[..] else { panic!("{called:?}") };
    assert!(first != second && first == third && second == fourth, "{called:?}");
    Ok(())
}

#[test]
fn who_waits_on_a_deposed_leader_for_an_entry_that_is_cut_off_is_told_without_further_writes() -> Test {
    // Given a leader that is cut off with five entries of its own
    let mut world = resting(3, false, 20);
    let old = RaftId(1);
    world.isolate(old);
    let mut waiting = Vec::new();
    for sequence in 1..=5 {
        waiting.push(world.propose(old, sequence)?);
        world.run_for(2 * MILLIS)?;
    }
    // When another leads, whose log is shorter, and the old one hears of it
    assert!(world.run_until(6 * ELECTION, |world| led_by_another(world, old))?);
    world.heal();
    // Then everybody who waits is told, though nobody writes anything any more
    let told = world.run_until(6 * ELECTION, |world| waiting.iter().all(|ticket| world.reply(*ticket).is_some()))?;
    let replies: Vec<_> = waiting.iter().map(|ticket| world.reply(*ticket)).collect();
    assert!(told, "{replies:?}");
    assert!(replies.iter().all(|reply| !matches!(reply, Some(Reply::Outcome(_)))), "{replies:?}");
    Ok(())
}
