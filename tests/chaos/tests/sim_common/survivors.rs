//! What the scenarios share in which a cluster is recovered from one of its managers.

use quorate_chaos::sim::{ELECTION, MILLIS, Recovering, Reply, Violation, World};
use quorate_core::id::RaftId;
use quorate_core::log::Configuration;
use quorate_core::recovery::Findings;
use quorate_core::state::COUNTER_JUMP;
use quorate_core::state::contract::Outcome;

use super::{Test, is_done};

fn revision(reply: Option<&Reply>) -> u64 {
    match reply {
        Some(Reply::Outcome(Outcome::Done(done))) => done.revision,
        other => panic!("{other:?}"),
    }
}

/// Writes at `at` and waits for the acknowledgement; answers its revision.
pub fn write(world: &mut World, at: RaftId, sequence: u64) -> Result<u64, Box<Violation>> {
    let ticket = world.propose(at, sequence)?;
    let done = world.run_until(5_000 * MILLIS, |world| is_done(world.reply(ticket)))?;
    assert!(done, "{:?}", world.reply(ticket));
    Ok(revision(world.reply(ticket)))
}

pub fn written(recovering: Recovering) -> (Findings, u64, u64) {
    match recovering {
        Recovering::Written { findings, kept_revision, first_revision } => (*findings, kept_revision, first_revision),
        other @ (Recovering::Alone | Recovering::Begun | Recovering::Refused(_)) => panic!("{other:?}"),
    }
}

pub fn others(world: &World, id: RaftId) -> Vec<RaftId> {
    world.ids().into_iter().filter(|other| *other != id).collect()
}

/// The survivor leads its incarnation alone, with a lease, and what was before is cut from its log.
pub fn alone(world: &mut World, survivor: RaftId) -> Test {
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
pub fn grow_again(world: &mut World, survivor: RaftId) -> Test {
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
