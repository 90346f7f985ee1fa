//! The length of a tick changes while the cluster works: no election because of it, and no two leases at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use bytes::Bytes;
use quorate_chaos::sim::{ELECTION, MILLIS, SimConfig, TICK, Violation, World};
use quorate_core::command::{COMMAND_VERSION, Command, CommandKind};
use quorate_core::id::{ClusterId, Lineage, LineageId, RaftId};
use quorate_core::membership::record::ClusterRecord;
use quorate_core::testing::Rng;
use quorate_core::txn::{Put, Txn};

type Test = Result<(), Box<Violation>>;

const LAN: u64 = 20;
const WAN: u64 = 150;

/// The cluster's record as the simulator founds it, with another length of a tick.
fn timing(tick_ms: u64, members: u64) -> Command {
    let record = ClusterRecord {
        cluster_id: Bytes::copy_from_slice(ClusterId::from_bytes([1; 16]).as_bytes()),
        lineage: Lineage(vec![LineageId::from_bytes([2; 16])]).to_bytes().into(),
        next_raft_id: members + 1,
        version: COMMAND_VERSION,
        max_voters: 5,
        tick_micros: tick_ms * 1_000,
        ..ClusterRecord::default()
    };
    let put = Put { key: ClusterRecord::key(), value: record.to_bytes(), ..Put::default() };
    CommandKind::System(Txn::of(put)).into()
}

fn grown(config: SimConfig, voters: usize) -> World {
    let mut world = World::new(config).unwrap();
    let grown = world.run_until(60_000 * MILLIS, |world| {
        let leader = world.leader().and_then(|leader| world.status(leader));
        leader.is_some_and(|status| status.configuration.voters.len() == voters) && world.is_settled().is_none()
    });
    assert!(grown.unwrap_or_else(|violation| panic!("{violation}")), "{:?}", world.is_settled());
    world.run_for(2 * ELECTION).unwrap();
    world
}

fn paces(world: &World) -> Vec<u64> {
    world.ids().into_iter().filter_map(|id| world.status(id)).map(|status| status.tick.0 / MILLIS).collect()
}

#[test]
fn a_change_of_the_timing_is_followed_by_all_without_an_election_and_without_a_gap_in_the_lease() -> Test {
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    let before = world.report();
    let leader = world.leader().unwrap();
    for (wanted, most) in [(WAN, 2_000), (LAN, 10_000), (WAN, 2_000), (LAN, 10_000)] {
        // When the one setting is changed, then every member follows it in time
        world.command(leader, timing(wanted, 3))?;
        let mut gap = false;
        let followed = world.run_until(most * MILLIS, |world| {
            gap |= !world.has_lease(leader);
            paces(world) == [wanted; 3]
        })?;
        assert!(followed, "{:?}, not {wanted}", paces(&world));
        world.run_until(8_000 * MILLIS, |world| {
            gap |= !world.has_lease(leader);
            false
        })?;
        assert!(!gap, "the leader lost its lease on the way to {wanted} ms");
    }
    // And nobody has called an election
    assert_eq!(world.report().elections, before.elections);
    assert_eq!(world.report().terms, before.terms);
    Ok(())
}

#[test]
fn a_follower_that_was_away_while_the_cluster_became_slower_comes_back_without_an_election() -> Test {
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    let (before, leader) = (world.report(), world.leader().unwrap());
    let away = world.ids().into_iter().find(|id| *id != leader).unwrap();
    // Given one that is cut off, and still counts in short ticks, while the others change to long ones
    world.isolate(away);
    world.command(leader, timing(WAN, 3))?;
    world.run_for(10_000 * MILLIS)?;
    assert_eq!(world.status(away).unwrap().tick.0, LAN * MILLIS);
    assert_eq!(world.status(leader).unwrap().tick.0, WAN * MILLIS);
    // When it comes back
    world.heal();
    world.run_for(20_000 * MILLIS)?;
    // Then it counts as the others do, and the leader still leads in its term.
    assert_eq!(paces(&world), [WAN; 3]);
    assert_eq!(world.report().terms, before.terms);
    Ok(())
}

#[test]
fn a_follower_counts_as_its_leader_says_from_the_first_heartbeat_it_answers() -> Test {
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    let leader = world.leader().unwrap();
    let away = world.ids().into_iter().find(|id| *id != leader).unwrap();
    // Given one that was cut off while the others changed to long ticks, and that does not get to apply the new record
    world.isolate(away);
    world.hold_apply(away, true);
    world.command(leader, timing(WAN, 3))?;
    world.run_for(10_000 * MILLIS)?;
    assert_eq!(world.status(away).unwrap().leader, None);
    // When it hears its leader again, by the one heartbeat that ends its silence
    world.heal();
    let hears = world.run_until(10_000 * MILLIS, |world| world.status(away).unwrap().leader == Some(leader))?;
    assert!(hears);
    // Then the lease that rests on its answer rests on long ticks, with its next short one, long before the next heartbeat.
    world.run_for(2 * LAN * MILLIS)?;
    assert_eq!(world.status(away).unwrap().tick.0, WAN * MILLIS);
    Ok(())
}

#[test]
fn a_silent_voter_is_lost_after_the_same_time_whatever_the_timing_becomes_meanwhile() -> Test {
    for (from, to) in [(LAN, WAN), (WAN, LAN)] {
        // Given three voters and a standby, and a voter that has been silent for half of the time after which it is lost
        let mut world = grown(SimConfig::quiet(7, 4), 3);
        let leader = world.leader().unwrap();
        world.command(leader, timing(from, 4))?;
        world.run_for(200_000 * MILLIS)?;
        let seated = |world: &World| world.status(leader).unwrap().configuration.voters.clone();
        let silent = seated(&world).into_iter().find(|id| *id != leader).unwrap();
        world.crash(silent, usize::MAX);
        let began = world.now();
        world.run_for(15_000 * MILLIS)?;
        // When the timing changes
        world.command(leader, timing(to, 4))?;
        let replaced = world.run_until(60_000 * MILLIS, |world| !seated(world).contains(&silent))?;
        // Then its seat goes to the standby when its time is over, no sooner and not much later.
        let after = (world.now() - began) / MILLIS;
        assert!(replaced && (29_000..35_000).contains(&after), "{from} to {to}: after {after} ms");
    }
    Ok(())
}

#[test]
fn a_disk_is_waited_for_and_lineages_are_asked_for_as_long_with_long_ticks_as_with_short_ones() -> Test {
    // Given a cluster whose record asks for ticks far longer than its members start with
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    let leader = world.leader().unwrap();
    world.command(leader, timing(WAN, 3))?;
    world.run_for(10_000 * MILLIS)?;
    // When a disk hangs, then its member is patient for two elections in the long ticks, and not for as many ticks as before
    world.hold_sync(leader, true);
    world.propose(leader, 1)?;
    let began = world.now();
    let stalled = world.run_until(60_000 * MILLIS, |world| world.status(leader).unwrap().disk_silent_ticks > 0)?;
    let after = (world.now() - began) / MILLIS;
    assert!(stalled && (40 * WAN..45 * WAN).contains(&after), "after {after} ms");
    world.hold_sync(leader, false);
    // And when one of them is never reached, then those that start again wait for it no longer than two seconds.
    let away = world.ids().into_iter().find(|id| *id != leader).unwrap();
    for id in world.ids() {
        world.crash(id, usize::MAX);
    }
    world.isolate(away);
    for id in world.ids().into_iter().filter(|id| *id != away) {
        world.restart(id)?;
    }
    let led = world.run_until(12_000 * MILLIS, |world| world.leader().is_some())?;
    assert!(led);
    Ok(())
}

#[test]
fn a_leader_slows_down_only_when_its_followers_know() -> Test {
    // Given a leader that alone has learnt that the timing is slower: what it sends is lost for less than a timeout
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    let (before, leader) = (world.report(), world.leader().unwrap());
    world.command(leader, timing(WAN, 3))?;
    world.run_for(2 * MILLIS)?;
    let others: Vec<RaftId> = world.ids().into_iter().filter(|id| *id != leader).collect();
    for id in &others {
        world.cut(leader, *id);
    }
    let applied = world.status(leader).unwrap().last;
    let alone = world.run_until(50 * MILLIS, |world| world.status(leader).unwrap().applied == applied)?;
    assert!(alone && others.iter().all(|id| world.status(*id).unwrap().applied < applied));
    world.run_for(250 * MILLIS)?;
    assert_eq!(paces(&world), [LAN; 3]);
    // When the link works again
    world.heal();
    world.run_for(10_000 * MILLIS)?;
    // Then its heartbeats still came often enough, and all slow down together.
    assert_eq!(world.report().terms, before.terms);
    assert_eq!(paces(&world), [WAN; 3]);
    Ok(())
}

#[test]
fn whoever_is_cut_off_at_any_moment_of_a_change_no_two_leases_overlap() -> Test {
    // (That leases exclude each other is held against every event.)
    for (from, to) in [(LAN, WAN), (WAN, LAN)] {
        for step in 0..60 {
            let mut world = grown(SimConfig::quiet(step, 3), 3);
            let leader = world.leader().unwrap();
            if from != LAN {
                world.command(leader, timing(from, 3))?;
                world.run_for(5_000 * MILLIS)?;
            }
            world.command(leader, timing(to, 3))?;
            // The first steps are where the members learn of it, the later ones where the faster pace is taken up.
            world.run_for(if step < 20 { step * MILLIS } else { (step - 20) * 200 * MILLIS })?;
            world.isolate(leader);
            let led = world.run_until(30_000 * MILLIS, |world| {
                world.leader().is_some_and(|id| id != leader && world.has_lease(id))
            })?;
            assert!(led, "{from} to {to}, step {step}");
            world.heal();
            let settled = world.run_until(60_000 * MILLIS, |world| world.is_settled().is_none())?;
            assert!(settled, "{:?}", world.is_settled());
        }
    }
    Ok(())
}

#[test]
fn partitions_and_lost_messages_while_the_timing_changes_again_and_again_break_nothing() -> Test {
    for seed in 1..=200 {
        let mut rng = Rng::stream(seed, 77);
        let config = SimConfig {
            loss: rng.between(0, 60),
            duplicates: rng.between(0, 100),
            delay_max: rng.between(2, 60) * MILLIS,
            apply_max: rng.between(1, 300) * MILLIS,
            fault_every: 400 * MILLIS,
            partitions: true,
            transfers: true,
            clients: 2,
            // Few retries: what a deposed leader still has in its log is answered when the others' logs have come so far.
            patience: 10 * ELECTION,
            ..SimConfig::quiet(seed, 3)
        };
        let mut world = World::new(config)?;
        for _ in 0..12 {
            world.run_for(rng.between(50, 4_000) * MILLIS)?;
            let at = RaftId(rng.between(1, 3));
            let tick = *[LAN, WAN, 60, 10].get(rng.index(4)).unwrap();
            world.command(at, timing(tick, 3))?;
        }
        world.play()?;
    }
    Ok(())
}

#[test]
fn the_timing_that_is_asked_for_is_the_one_in_use_after_a_restart() -> Test {
    let mut world = grown(SimConfig::quiet(7, 3), 3);
    assert_eq!(paces(&world), [TICK / MILLIS; 3]);
    let leader = world.leader().unwrap();
    world.command(leader, timing(WAN, 3))?;
    world.run_for(5_000 * MILLIS)?;
    let id = world.ids().into_iter().find(|id| *id != leader).unwrap();
    world.crash(id, usize::MAX);
    world.restart(id)?;
    assert_eq!(world.status(id).unwrap().tick.0, WAN * MILLIS);
    let settled = world.run_until(20_000 * MILLIS, |world| world.is_settled().is_none())?;
    assert!(settled, "{:?}", world.is_settled());
    Ok(())
}
