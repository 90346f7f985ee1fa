//! A wish whose leader dies with the answer: sent again to the next leader, it counts once, whatever was wished meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use bytes::Bytes;
use quorate_chaos::sim::{ELECTION, MILLIS, Reply, World};
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::consensus::io::Ticket;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::state::contract::Outcome;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Operand, Put, Range, Relation, Txn, TxnResult};
use sim_common::{Test, grown, quiet};

/// A node that does not run.
const NODE: u64 = 9;

fn record(world: &World) -> NodeRecord {
    let records = world.leader_records().unwrap();
    records.nodes.iter().find(|node| node.name == "n9").cloned().unwrap()
}

/// A wish for this role, worked out from what the leader has now, as a manager does it.
fn wish(world: &World, client: u8, sequence: u64, role: Role) -> Command {
    let now = record(world);
    let key = NodeRecord::key(now.node_id().unwrap());
    let becomes = NodeRecord { role: role.into(), ..now.clone() }.to_bytes();
    let read = Range { key: key.clone(), keys_only: true, ..Range::default() };
    let txn = Txn {
        compares: vec![Compare::new(key.clone(), Relation::Equal, Operand::Value(now.to_bytes()))],
        then: vec![Put { key, value: becomes, ..Put::default() }.into(), read.into()],
        ..Txn::default()
    };
    let client = Bytes::copy_from_slice(&[client; 16]);
    CommandKind::Request(Request { client, sequence, low_water: 0, txn: Some(txn), ..Request::default() }).into()
}

fn done(world: &mut World, ticket: Ticket) -> TxnResult {
    world.run_until(5_000 * MILLIS, |world| world.reply(ticket).is_some()).unwrap();
    match world.reply(ticket) {
        Some(Reply::Outcome(Outcome::Done(done))) => done.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_promotion_sent_again_to_the_next_leader_after_a_demotion_by_somebody_else_is_not_done_again() -> Test {
    // Given a promotion, at whichever effect its leader dies of it
    let (mut applied_before, mut applied_after) = (0, 0);
    for effects in 0..30 {
        let mut world = grown(quiet(3), 3);
        let added = world.edit(NODE, |record| record.role = Role::Worker.into())?.unwrap();
        done(&mut world, added);
        world.run_for(ELECTION)?;
        let old = world.leader().unwrap();
        world.doom(old, effects);
        let promotion = wish(&world, 1, 1, Role::Manager);
        world.command(old, promotion)?;
        world.run_for(20 * MILLIS)?;
        world.spare();
        world.crash(old, 0);
        let led = world.run_until(20 * ELECTION, |world| {
            world.leader().is_some_and(|id| world.has_lease(id) && world.is_settled().is_none())
        })?;
        assert!(led, "{:?}", world.is_settled());
        let next: RaftId = world.leader().unwrap();
        let was_applied = record(&world).role == i32::from(Role::Manager);
        // When somebody else demotes the node, if it was promoted,
        if was_applied {
            let demotion = wish(&world, 2, 1, Role::Worker);
            let ticket = world.command(next, demotion)?;
            assert!(done(&mut world, ticket).succeeded);
        }
        // and the promotion is worked out anew for what is there now, under the same request id
        let again = wish(&world, 1, 1, Role::Manager);
        let ticket = world.command(next, again)?;
        let outcome = done(&mut world, ticket);
        // Then it was done once: before the demotion, which stands, or else now
        assert!(outcome.succeeded && outcome.results.len() == 2);
        assert_eq!(outcome.replayed, was_applied);
        let expected = if was_applied { Role::Worker } else { Role::Manager };
        assert_eq!(record(&world).role, i32::from(expected), "the leader died after {effects} effects");
        applied_before += u32::from(was_applied);
        applied_after += u32::from(!was_applied);
        // On every member alike
        world.run_for(ELECTION)?;
        for id in world.ids().into_iter().filter(|id| *id != old) {
            let view = world.view(id).unwrap();
            let node = read::node(&*view, record(&world).node_id().unwrap()).unwrap().unwrap();
            assert_eq!(node.role, i32::from(expected));
        }
    }
    assert!(applied_before > 3 && applied_after > 0, "{applied_before} survived their leader, {applied_after} did not");
    Ok(())
}
