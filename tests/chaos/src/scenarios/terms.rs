//! Scenarios of one rule of terms, votes or incarnations each, in the situation that it is for.

use super::{another_leads, grown, loaded};
use crate::sim::{ELECTION, MILLIS, Report, Run, SimConfig, World};
use quorate_core::id::RaftId;

pub(super) fn vote_once(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { clients: 0, registers: 0, ..loaded(seed, 3) })?;
    let Some(old) = world.leader() else { return world.play_out() };
    // Given a leader of a newer term of whom the old one has not heard, and who has told its voter nothing yet
    world.hold(Box::new(|passing| passing.kind == "MsgAppend"));
    world.isolate(old);
    another_leads_at_all(&mut world, old)?;
    let Some(new) = world.leader().filter(|leader| *leader != old) else { return world.play_out() };
    let Some(voter) = world.ids().into_iter().find(|id| *id != old && *id != new) else { return world.play_out() };
    // When it is cut off, its voter dies and comes back, and the old leader asks for that vote
    world.isolate(new);
    world.crash(voter, usize::MAX);
    world.restart(voter)?;
    world.heal();
    world.isolate(new);
    world.run_for(10 * ELECTION)?;
    // Then no term has two leaders: the invariants see to that
    world.drop_held();
    world.heal();
    world.play_out()
}

pub(super) fn two_recoveries(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { clients: 0, registers: 0, watchers: 0, ..loaded(seed, 3) })?;
    let ids = world.ids();
    for id in &ids {
        world.crash(*id, usize::MAX);
    }
    for id in ids.iter().take(2) {
        world.recover(*id)?;
        world.restart(*id)?;
    }
    world.run_for(20 * ELECTION)?;
    for id in ids.iter().take(2) {
        let alone = world.status(*id).is_some_and(|status| status.connected.is_empty());
        world.expect(alone && world.leader_of(world.incarnation(*id)) == Some(*id), "forks_do_not_talk", || {
            format!("{id}: {:?}", world.status(*id))
        })?;
    }
    Ok(world.report())
}

pub(super) fn figure_eight(seed: u64) -> Run<Report> {
    // One entry at a time goes over a link
    let mut world = grown(SimConfig { clients: 0, registers: 0, watchers: 0, message_bytes: 1, ..loaded(seed, 3) })?;
    let Some(first) = world.leader() else { return world.play_out() };
    // Given an entry that only its leader has
    world.isolate(first);
    world.propose(first, 1)?;
    world.run_for(ELECTION / 4)?;
    let Some((index, term)) = world.status(first).map(|status| (status.last.0, status.term.0)) else {
        return world.play_out();
    };
    // And another one of a newer term in its place, that only the next leader has
    world.hold(Box::new(move |passing| passing.kind == "MsgAppend" && passing.from != first));
    another_leads_at_all(&mut world, first)?;
    let Some(second) = world.leader().filter(|leader| *leader != first) else { return world.play_out() };
    let Some(third) = world.ids().into_iter().find(|id| *id != first && *id != second) else { return world.play_out() };
    world.run_for(ELECTION / 4)?;
    world.crash(second, usize::MAX);
    world.drop_held();
    // When the first one leads again, and its old entry reaches a majority, but nothing of its new term does
    world.heal();
    let led = world.run_until(40 * ELECTION, |world| world.leader() == Some(first))?;
    world.expect(led, "another_one_leads_soon", || format!("{first} was to lead again"))?;
    let there = world.run_until(20 * ELECTION, |world| world.is_durable(third, index, term))?;
    world.expect(there, "a_follower_catches_up", || format!("{third} was to get entry {index} of term {term}"))?;
    world.hold(Box::new(move |passing| passing.kind == "MsgAppend" && passing.from == first));
    world.run_for(ELECTION / 4)?;
    world.crash(first, usize::MAX);
    world.drop_held();
    // Then the second one may lead, and replace it: that it was never committed the invariants see
    world.restart(second)?;
    let led = world.run_until(40 * ELECTION, |world| world.leader() == Some(second))?;
    world.expect(led, "another_one_leads_soon", || format!("{second} has the newest entry, and was to lead"))?;
    world.run_for(2 * ELECTION)?;
    world.restart(first)?;
    world.play_out()
}

/// Somebody else leads; whether anybody hears it does not matter.
fn another_leads_at_all(world: &mut World, old: RaftId) -> Run {
    let led = world.run_until(20 * ELECTION, |world| world.leader().is_some_and(|leader| leader != old))?;
    world.expect(led, "another_one_leads_soon", || format!("nobody but {old} led"))
}

pub(super) fn two_left(seed: u64) -> Run<Report> {
    let (delay_min, delay_max) = (30 * MILLIS, 32 * MILLIS);
    let mut world = grown(SimConfig { delay_min, delay_max, ..loaded(seed, 3) })?;
    // Three times, because those who are left may be lucky
    for _ in 0..3 {
        let Some(leader) = world.leader() else { return world.play_out() };
        world.crash(leader, usize::MAX);
        another_leads(&mut world, leader, 30 * ELECTION)?;
        world.restart(leader)?;
        world.run_for(10 * ELECTION)?;
    }
    world.play_out()
}
