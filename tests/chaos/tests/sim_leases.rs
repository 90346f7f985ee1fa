//! Leases in the simulated cluster: never early, and gone when nobody renews them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, reason = "tests")]

mod sim_common;

use bytes::Bytes;
use quorate_chaos::sim::{ELECTION, MILLIS, Profile, Reply, Report, World, run};
use quorate_core::command::{Command, CommandKind, LeaseOrder, LeaseOrderKind, Request};
use quorate_core::consensus::io::{RaftRole, Rejection};
use quorate_core::id::{LeaseId, RaftId};
use quorate_core::state::contract::Outcome;
use sim_common::{Test, followers, grown, quiet};

/// The time to live of every lease here, and by when one that is not renewed is gone: a little slack, a tick, a round.
const TTL: u64 = 2_000 * MILLIS;
const OVER: u64 = TTL + TTL / 32 + 100 * MILLIS;

fn grant(world: &mut World, at: RaftId, sequence: u64) -> LeaseId {
    let lease = Some(LeaseOrder { kind: Some(LeaseOrderKind::Grant(TTL / MILLIS)), fence: None });
    let request = Request { client: Bytes::from_static(&[5; 16]), sequence, lease, ..Request::default() };
    let ticket = world.command(at, Command::from(CommandKind::Request(request))).unwrap();
    assert!(world.run_until(5_000 * MILLIS, |world| world.reply(ticket).is_some()).unwrap());
    match world.reply(ticket) {
        Some(Reply::Outcome(Outcome::Done(done))) => LeaseId(done.lease),
        other => panic!("{other:?}"),
    }
}

/// What `at` answers to a renewal within this time.
fn renewed(world: &mut World, at: RaftId, lease: LeaseId, within: u64) -> Option<Reply> {
    let ticket = world.renew(at, lease).unwrap();
    world.run_until(within, |world| world.reply(ticket).is_some()).unwrap();
    world.reply(ticket).cloned()
}

const fn is_renewed(reply: Option<&Reply>) -> bool {
    matches!(reply, Some(Reply::Renewed { .. }))
}

fn is_gone(reply: Option<&Reply>) -> bool {
    reply == Some(&Reply::LeaseGone)
}

#[test]
fn seeds_with_leases_keep_every_invariant() {
    let mut sum = Report::default();
    for seed in 1..=40 {
        let report = run(seed, Profile::Leases).unwrap_or_else(|violation| panic!("{violation}"));
        sum.add(&report);
    }
    println!("{sum:?}");
    for (what, count) in [
        ("granted", sum.granted),
        ("renewed", sum.renewed),
        ("expired", sum.expired),
        ("revoked", sum.revoked),
        ("elections", sum.elections),
        ("crashes", sum.crashes),
        ("partitions", sum.partitions),
        ("snapshots installed", sum.snapshots_installed),
    ] {
        assert!(count > 40, "{what}: {count}");
    }
}

#[test]
fn a_lease_lasts_as_long_as_it_is_renewed_and_ends_when_it_is_not() -> Test {
    // Given a lease
    let mut world = grown(quiet(3), 3);
    let (leader, other) = (world.leader().unwrap(), followers(&world)[0]);
    let lease = grant(&mut world, other, 1);
    // When it is renewed, at the leader or elsewhere, it goes on for long
    for at in [leader, other, leader, other] {
        world.run_for(TTL - 200 * MILLIS)?;
        assert_eq!(renewed(&mut world, at, lease, ELECTION), Some(Reply::Renewed { ttl_ms: TTL / MILLIS }));
    }
    // When it is not, then it is there right until its time is over, and soon after it is gone
    world.run_for(TTL - 50 * MILLIS)?;
    let last = renewed(&mut world, leader, lease, ELECTION);
    assert!(is_renewed(last.as_ref()));
    world.run_for(OVER)?;
    let gone = renewed(&mut world, other, lease, ELECTION);
    assert!(is_gone(gone.as_ref()));
    Ok(())
}

#[test]
fn a_new_leader_begins_every_lease_anew() -> Test {
    // Given a lease whose time is nearly over when its leader dies
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let lease = grant(&mut world, old, 1);
    world.run_for(TTL - 50 * MILLIS)?;
    world.crash(old, usize::MAX);
    // When another one leads
    assert!(world.run_until(5_000 * MILLIS, |world| world.leader().is_some_and(|leader| leader != old))?);
    let began = world.now();
    let leader = world.leader().unwrap();
    // Then the lease has its whole time from there
    world.run_for(TTL - 50 * MILLIS - (world.now() - began))?;
    let there = renewed(&mut world, leader, lease, ELECTION);
    assert!(is_renewed(there.as_ref()), "{there:?}");
    world.run_for(OVER)?;
    let gone = renewed(&mut world, leader, lease, ELECTION);
    assert!(is_gone(gone.as_ref()), "{gone:?}");
    Ok(())
}

#[test]
fn a_leader_that_is_cut_off_renews_nothing() -> Test {
    // Given a leader that does not know yet that it is cut off
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let lease = grant(&mut world, old, 1);
    world.isolate(old);
    // When a holder asks it, then it says nothing until it knows, and then that it does not lead
    let ticket = world.renew(old, lease)?;
    let mut answered = None;
    world.run_until(3 * ELECTION, |world| {
        answered = world.reply(ticket).cloned();
        answered.is_some()
    })?;
    assert!(
        matches!(answered, None | Some(Reply::Refused(Rejection::NotLeader { .. } | Rejection::QuorumLost { .. }))),
        "{answered:?}"
    );
    Ok(())
}

#[test]
fn a_leader_that_slept_lets_holders_renew_before_it_ends_anything() -> Test {
    // Given a cluster of one, whose leader nobody can replace, and a lease
    let mut world = grown(quiet(1), 1);
    let leader = world.leader().unwrap();
    let lease = grant(&mut world, leader, 1);
    // When it sleeps for longer than the lease, and its holder asked meanwhile
    world.pause(leader, 3 * TTL);
    world.run_for(3 * TTL + 50 * MILLIS)?;
    let there = renewed(&mut world, leader, lease, ELECTION);
    assert!(is_renewed(there.as_ref()), "{there:?}");
    Ok(())
}

#[test]
fn a_renewal_during_an_expiry_waits_for_what_comes_of_it() -> Test {
    // Given an expiry in the leader's log that no follower has
    let mut world = grown(quiet(3), 3);
    let leader = world.leader().unwrap();
    let lease = grant(&mut world, leader, 1);
    world.run_for(OVER - 300 * MILLIS)?;
    world.hold(Box::new(|message| message.kind == "MsgAppend"));
    world.run_for(500 * MILLIS)?;
    assert!(world.held() > 0);
    // When its holder asks, and a quorum confirms the leader
    let ticket = world.renew(leader, lease)?;
    world.run_for(200 * MILLIS)?;
    // Then nobody says that it goes on,
    assert_eq!(world.reply(ticket), None);
    assert!(world.status(leader).is_some_and(|status| status.role == Some(RaftRole::Leader)));
    // and once the expiry is applied it is gone.
    world.release();
    assert!(world.run_until(ELECTION, |world| world.reply(ticket).is_some())?);
    assert!(is_gone(world.reply(ticket)), "{:?}", world.reply(ticket));
    Ok(())
}

#[test]
fn an_expiry_that_is_lost_with_its_leader_ends_nothing() -> Test {
    // Given an expiry that is only in the log of a leader that is cut off, and a holder that waits for it there
    let mut world = grown(quiet(3), 3);
    let old = world.leader().unwrap();
    let lease = grant(&mut world, old, 1);
    world.run_for(OVER - 300 * MILLIS)?;
    world.hold(Box::new(|message| message.kind == "MsgAppend"));
    world.run_for(500 * MILLIS)?;
    let waiting = world.renew(old, lease)?;
    world.run_for(100 * MILLIS)?;
    world.drop_held();
    world.isolate(old);
    // When another one leads
    assert!(world.run_until(10_000 * MILLIS, |world| world.leader().is_some_and(|leader| leader != old))?);
    let leader = world.leader().unwrap();
    // Then the lease is there, and the one that waited is told to ask elsewhere
    let there = renewed(&mut world, leader, lease, 2 * ELECTION);
    assert!(is_renewed(there.as_ref()), "{there:?}");
    assert!(
        matches!(world.reply(waiting), Some(Reply::Refused(Rejection::NotLeader { .. }))),
        "{:?}",
        world.reply(waiting)
    );
    // And also when the old one is back.
    world.heal();
    world.run_for(ELECTION)?;
    let there = renewed(&mut world, old, lease, 2 * ELECTION);
    assert!(is_renewed(there.as_ref()), "{there:?}");
    Ok(())
}

#[test]
fn a_renewal_without_a_leader_is_refused_and_does_not_hang() -> Test {
    let mut world = grown(quiet(3), 3);
    let (leader, others) = (world.leader().unwrap(), followers(&world));
    let lease = grant(&mut world, leader, 1);
    for id in [leader, others[1]] {
        world.crash(id, usize::MAX);
    }
    // Asked as soon as nobody is known to lead, and again when that is old news
    let left = others[0];
    assert!(world.run_until(5 * ELECTION, |world| world.status(left).is_some_and(|status| status.leader.is_none()))?);
    for _ in 0..2 {
        let answer = renewed(&mut world, left, lease, 10 * ELECTION);
        assert!(matches!(answer, Some(Reply::Refused(Rejection::QuorumLost { .. }))), "{answer:?}");
    }
    assert_eq!(world.unanswered(), 0);
    Ok(())
}
