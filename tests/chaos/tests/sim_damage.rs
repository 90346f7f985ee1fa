//! Records that rot and writes that are torn, on the simulated cluster: found, and never believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod sim_common;

use bytes::Bytes;
use quorate_chaos::sim::{Act, ELECTION, MILLIS, SimConfig, World};
use quorate_core::id::{LogIndex, RaftId, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry};
use quorate_core::ports::{LogBatch, StoreError, WriteSet};
use quorate_core::testing::MemoryStore;
use sim_common::{Test, followers, grown, is_done, quiet};

/// So many writes, each acknowledged.
fn write(world: &mut World, sequences: std::ops::Range<u64>) -> Test {
    for sequence in sequences {
        let leader = world.leader().unwrap();
        let ticket = world.propose(leader, sequence)?;
        let done = world.run_until(1000 * MILLIS, |world| is_done(world.reply(ticket)))?;
        assert!(done, "{:?}", world.reply(ticket));
    }
    Ok(())
}

/// The node of `id` has come back with an empty store, and votes again; its new raft id.
fn comes_back(world: &mut World, id: RaftId) -> Result<RaftId, Box<quorate_chaos::sim::Violation>> {
    let fresh = *world.raft_ids_of(world.node_of(id).unwrap()).last().unwrap();
    assert!(fresh > id, "{id} was not given up");
    assert_eq!(world.status(id), None, "it runs on");
    let led = world.run_until(20 * ELECTION, |world| world.leader().is_some())?;
    assert!(led);
    world.act(Act::Record)?;
    let votes = world.run_until(60_000 * MILLIS, |world| {
        let status = world.leader().and_then(|leader| world.status(leader));
        status.is_some_and(|status| status.configuration.voters.contains(&fresh)) && world.is_settled().is_none()
    })?;
    assert!(votes, "{:?}", world.is_settled());
    Ok(fresh)
}

#[test]
fn a_manager_is_not_started_from_a_log_that_rotted_and_its_node_comes_back_empty() -> Test {
    for leads in [false, true] {
        // Given a bit that turned in a synced entry of one of three managers
        let mut world = grown(quiet(3), 3);
        write(&mut world, 1..20)?;
        let id = if leads { world.leader().unwrap() } else { followers(&world)[0] };
        world.act(Act::Rot { id: id.0, log: true, nth: 3 })?;
        // Which does no harm while nobody reads it
        write(&mut world, 20..25)?;
        // When it is started again
        world.crash(id, usize::MAX);
        world.restart(id)?;
        // Then it refuses, and its node is replaced; nothing acknowledged is missing
        assert_eq!(world.report().damage_found, 1);
        comes_back(&mut world, id)?;
        world.play_out()?;
    }
    Ok(())
}

#[test]
fn a_leader_stops_over_a_state_that_rotted_rather_than_send_it_to_anybody() -> Test {
    // Given a follower that only a snapshot helps, and a leader in whose state a bit has turned
    let mut world = grown(SimConfig { log_window: 6, ..quiet(3) }, 3);
    let (leader, behind) = (world.leader().unwrap(), followers(&world)[0]);
    world.isolate(behind);
    write(&mut world, 1..60)?;
    world.act(Act::Rot { id: leader.0, log: false, nth: 5 })?;
    // When the follower is back
    world.heal();
    let stopped = world.run_until(20 * ELECTION, |world| world.report().damage_found == 1)?;
    // Then the leader gives up before it has sent a snapshot, and the follower gets one from the next
    assert!(stopped);
    comes_back(&mut world, leader)?;
    world.play_out()?;
    Ok(())
}

#[test]
fn of_a_write_that_the_power_cut_in_two_nothing_counts() -> Test {
    // Given leaders that lose power while their writes are on the way to the disk, again and again
    let mut world = grown(SimConfig { torn: true, ..quiet(3) }, 3);
    for round in 0..40 {
        let leader = world.leader().unwrap();
        world.propose_many(leader, 1 + round * 10..11 + round * 10)?;
        world.run_for(MILLIS / 2)?;
        world.crash(leader, 0);
        world.restart(leader)?;
        let led = world.run_until(20 * ELECTION, |world| world.is_settled().is_none())?;
        assert!(led, "{:?}", world.is_settled());
    }
    // Then some of them were torn, and no member started from what was left of one
    assert!(world.report().torn > 5, "{}", world.report().torn);
    world.play_out()?;
    Ok(())
}

/// One entry, as it is written to the log.
fn entry(index: u64) -> LogBatch {
    let entry = LogEntry {
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"x"),
        context: Bytes::new(),
    };
    LogBatch { entries: vec![entry], hard_state: Some(HardState { term: Term(1), ..HardState::default() }), cut: None }
}

fn put(key: &'static str, value: &'static str) -> WriteSet {
    let mut writes = WriteSet::default();
    writes.put(key.as_bytes(), value.as_bytes());
    writes
}

#[test]
fn of_a_torn_batch_nothing_counts_and_the_next_opening_says_that_it_was_there() {
    for share in [1, 400, 600, 999] {
        // Given a synced entry, and behind it a batch of two that was not synced
        let disk = MemoryStore::new();
        let mut open = disk.open().unwrap();
        open.log.write(&[entry(1)], true).unwrap();
        open.log.write(&[entry(2), entry(3)], false).unwrap();
        open.state.commit(put("a", "1")).unwrap();
        // When the power goes in the middle of it
        let torn = disk.crash_torn(0, share);
        let open = disk.open().unwrap();
        // Then it is cut off, and all that was synced is there
        assert_eq!((torn, open.boot.last), (share > 250, LogIndex(1)), "{share}");
        assert_eq!(open.boot.repaired.is_some(), torn);
        assert_eq!(open.state.get(b"a").unwrap(), None);
        assert_eq!(disk.open().unwrap().boot.repaired, None, "it is told once");
    }
}

#[test]
fn rot_in_the_log_is_found_when_it_is_read_and_when_the_store_is_opened() {
    let disk = MemoryStore::new();
    assert_eq!(disk.rot_log(0), None, "there is nothing on it");
    let mut open = disk.open().unwrap();
    open.log.write(&[entry(1), entry(2), entry(3)], true).unwrap();
    open.log.write(&[entry(4)], false).unwrap();
    // Given a bit that turned in a synced entry
    assert_eq!(disk.rot_log(4), Some(LogIndex(2)), "what is not synced does not count");
    assert!(disk.is_rotten());
    // Then nobody reads it as if nothing were, nor starts from it
    let read = open.log_reader.entries(LogIndex(1), LogIndex(4), u64::MAX);
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    disk.crash(0);
    assert!(matches!(disk.open(), Err(StoreError::Corrupt { .. })));
}

#[test]
fn rot_in_the_state_is_found_when_it_is_read() {
    let disk = MemoryStore::new();
    let mut open = disk.open().unwrap();
    open.state.commit(put("a", "1")).unwrap();
    assert_eq!(disk.rot_state(0, b"a", b"z"), None, "what is not synced does not count");
    open.log.write(&[], true).unwrap();
    assert_eq!(disk.rot_state(7, b"b", b"z"), None);
    assert_eq!(disk.rot_state(7, b"a", b"z"), Some(Bytes::from_static(b"a")));
    assert!(matches!(open.state.get(b"a"), Err(StoreError::Corrupt { .. })));
    // Until it is written over
    open.state.commit(put("a", "2")).unwrap();
    assert!(!disk.is_rotten());
    assert_eq!(open.state.get(b"a").unwrap(), Some(Bytes::from_static(b"2")));
}
