//! The named scenarios that run in the simulator: directed clusters with an expectation of their own.
//!
//! Owns one function for each, over the engine of [`crate::sim`] with all its invariants on. What is drawn comes from the seed. Never
//! asserts by panicking: what is expected and does not come is a violation like any other. Called by `chaos sim --scenario`, by the
//! hunt for mutants, and by the tests.

use quorate_core::id::RaftId;

use crate::sim::{Act, ELECTION, MILLIS, Report, Run, SimConfig, Timed, World};

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its number in the catalogue.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What is done, and what is expected, in a line.
    pub about: &'static str,
    run: fn(u64) -> Run<Report>,
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// The first invariant that breaks, the scenario's own among them.
    pub fn run(&self, seed: u64) -> Run<Report> {
        (self.run)(seed)
    }

    /// By its number or its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().copied().find(|scenario| scenario.name == name || scenario.id.eq_ignore_ascii_case(name))
    }
}

/// All that run in the simulator.
pub const ALL: &[Scenario] = &[
    of("S01", "calm-baseline", "3 or 5 managers, 10 minutes, no fault: one election, nothing unknown", calm),
    of(
        "S03",
        "leader-pause",
        "the leader sleeps 0.5 to 100 election timeouts: nothing stale, it follows at once",
        leader_pause,
    ),
    of(
        "S04",
        "minority-leader",
        "the leader is alone for 30 s: the majority goes on, no storm when it comes back",
        minority_leader,
    ),
    of("S05", "rings-and-halves", "5 managers, partitions in turn", rings),
    of("S06", "leader-mute", "the leader hears and is not heard: another one leads", leader_mute),
    of("S07", "lossy-wan", "loss 30 %, duplicates 50 %, delays to 100 ms", lossy),
    of("S08", "swizzle", "links of some stop one by one and come back in another order", swizzle),
    of("S09", "flap", "one follower comes and goes every second: the leader stays", flap),
    of("S10", "all-kill", "all managers lose power at once: everything acknowledged is there", all_kill),
    of(
        "F16",
        "two-recoveries",
        "two managers are recovered from one cluster: neither talks to the other",
        two_recoveries,
    ),
    of(
        "F15",
        "removed-vote",
        "a removed manager goes on running, reachable by a voter that is cut off: its vote counts nowhere",
        removed_vote,
    ),
    of(
        "F04",
        "vote-once",
        "a voter votes, dies and comes back while another asks for its vote in that term",
        vote_once,
    ),
    of(
        "S20",
        "exactly-once",
        "leaders are killed every 2 s while clients retry: every write counts once",
        exactly_once,
    ),
    of("S21", "cas-contention", "twelve processes fight for four keys: linearizable", contention),
    of("S22", "enospc", "a follower, the leader, a majority without space: read-only, and back by itself", enospc),
    of("S23", "fsync-eio", "the leader's sync fails: it stops, the cluster goes on", fsync_eio),
    of("S24", "stuck-disk", "the leader's disk hangs for 20 s: leadership moves", stuck_disk),
    of("S25", "clock-chaos", "clocks jump and drift: no stale read, no storm", clock_chaos),
    of("S32", "wiped-follower", "a follower loses its disk: it comes back under a new raft id", wiped),
];

const fn of(id: &'static str, name: &'static str, about: &'static str, run: fn(u64) -> Run<Report>) -> Scenario {
    Scenario { id, name, about, run }
}

/// A loaded cluster without faults of its own.
fn loaded(seed: u64, members: u64) -> SimConfig {
    SimConfig {
        duration: 30_000 * MILLIS,
        fault_every: 3_600_000 * MILLIS,
        clients: 3,
        slots: 2,
        think: 30 * MILLIS,
        patience: ELECTION,
        registers: 3,
        watchers: 2,
        delay_max: 5 * MILLIS,
        recorded: members,
        script: Some(Vec::new()),
        ..SimConfig::quiet(seed, members)
    }
}

/// Runs a list of acts under load, with peace and audit at the end.
fn scripted(config: SimConfig, acts: Vec<Timed>) -> Run<Report> {
    let duration = config.duration.max(acts.last().map_or(0, |timed| timed.at + 2_000 * MILLIS));
    crate::sim::run_config(SimConfig { duration, script: Some(acts), ..config })
}

fn at(millis: u64, act: Act) -> Timed {
    Timed { at: millis * MILLIS, act }
}

/// A cluster that has all its voters and rests.
fn grown(config: SimConfig) -> Run<World> {
    let voters = usize::try_from(config.members).unwrap_or(3);
    let mut world = World::new(config)?;
    let full = world.run_until(60_000 * MILLIS, |world| {
        let leader = world.leader().and_then(|leader| world.status(leader));
        leader.is_some_and(|status| status.configuration.voters.len() == voters && !status.configuration.is_joint())
    })?;
    world.expect(full, "grows_to_all_its_voters", || format!("{voters} voters were to be seated"))?;
    world.run_for(2 * ELECTION)?;
    Ok(world)
}

/// Somebody else leads, and has the lease to show for it, within this time.
fn another_leads(world: &mut World, old: RaftId, within: u64) -> Run<u64> {
    let begun = world.now();
    let led = world
        .run_until(within, |world| world.leader().is_some_and(|leader| leader != old && world.has_lease(leader)))?;
    world.expect(led, "another_one_leads_soon", || format!("nobody but {old} led within {} ms", within / MILLIS))?;
    Ok(world.now() - begun)
}

fn calm(seed: u64) -> Run<Report> {
    let members = if seed.is_multiple_of(2) { 3 } else { 5 };
    let config = SimConfig { duration: 600_000 * MILLIS, fault_every: 0, think: 300 * MILLIS, ..loaded(seed, members) };
    let mut world = World::new(config)?;
    world.be_silent();
    world.play()?;
    let report = world.report();
    world.expect(report.elections == 1, "a_calm_cluster_elects_once", || format!("{} elections", report.elections))?;
    Ok(report)
}

fn leader_pause(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    for halves in [1, 4, 20, 200] {
        let Some(leader) = world.leader() else { continue };
        let sleeps = halves * ELECTION / 2;
        world.pause(leader, sleeps);
        world.run_for(sleeps + 3 * ELECTION)?;
        let leads = world.leader().is_some();
        world.expect(leads, "somebody_leads_after_a_pause", || format!("nobody leads after {halves} half timeouts"))?;
    }
    world.play_out()
}

fn minority_leader(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(old) = world.leader() else { return world.play_out() };
    world.isolate(old);
    another_leads(&mut world, old, 5 * ELECTION)?;
    world.run_for(30_000 * MILLIS)?;
    let before = world.report();
    let leader = world.leader();
    world.heal();
    world.run_for(10 * ELECTION)?;
    let after = world.report();
    // Who was alone has not raised its term, and disturbs nobody.
    world.expect(after.elections == before.elections && world.leader() == leader, "no_storm_on_return", || {
        format!("{} elections when the isolated member came back", after.elections - before.elections)
    })?;
    world.play_out()
}

fn rings(seed: u64) -> Run<Report> {
    let mut acts = Vec::new();
    for turn in 0..8_u64 {
        let links = (1..=5_u64).flat_map(|a| (1..=5_u64).map(move |b| (a, b))).filter(|(a, b)| match turn % 3 {
            0 => (*a <= 2) != (*b <= 2),
            1 => a != b && (a + 5 - b) % 5 > 2,
            _ => (a + turn) % 2 != (b + turn) % 2,
        });
        acts.push(at(4_000 + turn * 5_000, Act::Cut { links: links.collect(), lasts: 4_500 * MILLIS }));
    }
    scripted(loaded(seed, 5), acts)
}

fn leader_mute(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(old) = world.leader() else { return world.play_out() };
    let before = world.status(old).map_or(0, |status| status.term.0);
    for other in world.ids().into_iter().filter(|id| *id != old) {
        world.cut(old, other);
    }
    another_leads(&mut world, old, 5 * ELECTION)?;
    let term = world.leader().and_then(|leader| world.status(leader)).map_or(0, |status| status.term.0);
    world.expect(term <= before + 3, "no_term_jump", || format!("from term {before} to {term}"))?;
    world.play_out()
}

fn lossy(seed: u64) -> Run<Report> {
    let config = SimConfig { loss: 300, duplicates: 500, delay_max: 100 * MILLIS, ..loaded(seed, 3) };
    scripted(SimConfig { duration: 60_000 * MILLIS, ..config }, Vec::new())
}

fn swizzle(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 40);
    let mut acts = Vec::new();
    for turn in 0..6_u64 {
        for id in 1..=5_u64 {
            if rng.chance(500) {
                let links = (1..=5).filter(|other| *other != id).flat_map(|other| [(id, other), (other, id)]).collect();
                let begins = 4_000 + turn * 6_000 + rng.between(0, 1_500);
                acts.push(at(begins, Act::Cut { links, lasts: rng.between(500, 4_000) * MILLIS }));
            }
        }
    }
    acts.sort_by_key(|timed| timed.at);
    scripted(loaded(seed, 5), acts)
}

fn flap(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let leader = world.leader();
    let before = world.report().elections;
    let Some(flaps) = world.ids().into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    for _ in 0..30 {
        world.isolate(flaps);
        world.run_for(1_000 * MILLIS)?;
        world.heal();
        world.run_for(1_000 * MILLIS)?;
    }
    let after = world.report().elections;
    world.expect(after == before && world.leader() == leader, "no_storm_on_return", || {
        format!("{} elections while a follower came and went", after - before)
    })?;
    world.play_out()
}

fn all_kill(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 41);
    let mut acts = Vec::new();
    for turn in 0..5_u64 {
        for id in 1..=3_u64 {
            let down = if turn % 2 == 0 { 200 } else { rng.between(1, 2_000) };
            let keep = Some(rng.between(0, 6));
            acts.push(at(3_000 + turn * 5_000, Act::Crash { id, keep, down: Some(down * MILLIS) }));
        }
    }
    scripted(loaded(seed, 3), acts)
}

fn removed_vote(seed: u64) -> Run<Report> {
    let config = SimConfig { max_voters: 3, watchers: 0, ..loaded(seed, 4) };
    let mut world = World::new(config)?;
    let seated = world.run_until(60_000 * MILLIS, |world| {
        let leader = world.leader().and_then(|leader| world.status(leader));
        leader.is_some_and(|status| status.configuration.voters.len() == 3 && status.configuration.learners.len() == 1)
    })?;
    world.expect(seated, "grows_to_all_its_voters", || "three voters and a standby".to_owned())?;
    world.run_for(5_000 * MILLIS)?;
    // Given a voter that was removed, and runs on
    let voters = |world: &World| {
        let status = world.leader().and_then(|leader| world.status(leader));
        status.map(|status| status.configuration.voters.clone()).unwrap_or_default()
    };
    let leader = world.leader();
    let Some(gone) = voters(&world).into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    world.remove(gone, false)?;
    let burnt = world.run_until(60_000 * MILLIS, |world| {
        world.leader_records().is_some_and(|records| records.removed.contains(&gone))
    })?;
    world.expect(burnt, "a_removed_manager_is_burnt", || format!("{gone} was to be removed"))?;
    world.run_for(2_000 * MILLIS)?;
    // When a voter is cut off with it, while the others write on
    let leader = world.leader();
    let Some(lonely) = voters(&world).into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    for other in world.ids().into_iter().filter(|id| *id != lonely && *id != gone) {
        for here in [lonely, gone] {
            world.cut(here, other);
            world.cut(other, here);
        }
    }
    world.run_for(20 * ELECTION)?;
    // Then it has not won: the invariants see to that
    world.heal();
    world.play_out()
}

fn vote_once(seed: u64) -> Run<Report> {
    let mut world = grown(SimConfig { clients: 0, registers: 0, ..loaded(seed, 3) })?;
    let Some(old) = world.leader() else { return world.play_out() };
    // Given a leader of a newer term of whom the old one has not heard, and who has told its voter nothing yet
    world.hold(Box::new(|passing| passing.kind == "MsgAppend"));
    world.isolate(old);
    let led = world.run_until(10 * ELECTION, |world| world.leader().is_some_and(|leader| leader != old))?;
    world.expect(led, "another_one_leads_soon", || format!("nobody but {old} led"))?;
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

fn two_recoveries(seed: u64) -> Run<Report> {
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

fn exactly_once(seed: u64) -> Run<Report> {
    let config = SimConfig { log_window: 20, patience: 200 * MILLIS, slots: 3, ..loaded(seed, 3) };
    let mut world = grown(config)?;
    for _ in 0..12 {
        world.run_for(1_000 * MILLIS)?;
        let Some(leader) = world.leader() else { continue };
        world.crash(leader, 0);
        world.run_for(1_000 * MILLIS)?;
        world.restart(leader)?;
    }
    world.play_out()
}

fn contention(seed: u64) -> Run<Report> {
    let config = SimConfig { registers: 12, think: 10 * MILLIS, loss: 50, crashes: true, ..loaded(seed, 3) };
    let kills = (0..6).map(|turn| {
        let id = 1 + (seed + turn) % 3;
        at(4_000 + turn * 4_000, Act::Crash { id, keep: Some(1), down: Some(500 * MILLIS) })
    });
    scripted(config, kills.collect())
}

fn enospc(seed: u64) -> Run<Report> {
    let lasts = 5_000 * MILLIS;
    let mut acts: Vec<Timed> = (1..=3).map(|id| at(2_000 + id * 7_000, Act::Shortage { id, lasts })).collect();
    acts.extend([1, 2].map(|id| at(32_000, Act::Shortage { id, lasts })));
    scripted(loaded(seed, 3), acts)
}

fn fsync_eio(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(leader) = world.leader() else { return world.play_out() };
    world.fail_sync(leader);
    another_leads(&mut world, leader, 10 * ELECTION)?;
    world.run_for(5 * ELECTION)?;
    // Everybody loses power: what the failed sync did not write may be missed by nobody.
    for id in world.ids() {
        world.crash(id, 0);
    }
    for id in world.ids() {
        world.restart(id)?;
    }
    world.play_out()
}

fn stuck_disk(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(leader) = world.leader() else { return world.play_out() };
    world.hold_sync(leader, true);
    world.hold_apply(leader, true);
    let moved = world.run_until(10_000 * MILLIS, |world| world.leader().is_some_and(|now| now != leader))?;
    world.expect(moved, "a_stuck_disk_does_not_lead", || format!("{leader} still leads after 10 s"))?;
    world.run_for(10_000 * MILLIS)?;
    world.hold_sync(leader, false);
    world.hold_apply(leader, false);
    world.play_out()
}

fn clock_chaos(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 42);
    let acts = (0..12_u64).map(|turn| {
        let id = rng.between(1, 3);
        let act = if rng.chance(500) {
            Act::Jump { id, nanos: rng.between(100, 3_600_000) * MILLIS }
        } else {
            Act::Drift { id, ppm: i64::try_from(rng.between(0, 400_000)).unwrap_or(0) - 200_000 }
        };
        at(4_000 + turn * 2_000, act)
    });
    let acts = acts.collect();
    scripted(SimConfig { clocks: true, ..loaded(seed, 3) }, acts)
}

fn wiped(seed: u64) -> Run<Report> {
    let config = SimConfig { replacements: true, ..loaded(seed, 3) };
    scripted(config, vec![at(6_000, Act::Replace { id: 2 + seed % 2 })])
}
