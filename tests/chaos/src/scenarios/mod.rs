//! The named scenarios that run in the simulator: directed clusters with an expectation of their own.
//!
//! Owns the list and what its files share: one function for each scenario, over the engine of [`crate::sim`] with all its invariants
//! on. What is drawn comes from the seed. Never asserts by panicking: what is expected and does not come is a violation like any
//! other. Called by `chaos run`, by the hunt for mutants, and by the tests.

mod changes;
mod disks;
mod links;
mod lives;
mod seats;
mod terms;

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
    of("S01", "calm-baseline", "3 or 5 managers, 10 minutes, no fault: one election, nothing unknown", links::calm),
    of(
        "S02",
        "leader-kill-loop",
        "of five managers the leader is killed again and again: another one leads soon, nothing is lost",
        disks::leader_kill_loop,
    ),
    of(
        "S03",
        "leader-pause",
        "the leader sleeps 0.5 to 100 election timeouts: nothing stale, it follows at once",
        links::leader_pause,
    ),
    of(
        "S04",
        "minority-leader",
        "the leader is alone for 30 s: the majority goes on, no storm when it comes back",
        links::minority_leader,
    ),
    of("S05", "rings-and-halves", "5 managers, partitions in turn", links::rings),
    of("S06", "leader-mute", "the leader hears and is not heard: another one leads", links::leader_mute),
    of("S07", "lossy-wan", "loss 30 %, duplicates 50 %, delays to 100 ms", links::lossy),
    of("S08", "swizzle", "links of some stop one by one and come back in another order", links::swizzle),
    of("S09", "flap", "one follower comes and goes every second: the leader stays", links::flap),
    of("S10", "all-kill", "all managers lose power at once: everything acknowledged is there", disks::all_kill),
    of(
        "F16",
        "two-recoveries",
        "two managers are recovered from one cluster: neither talks to the other",
        terms::two_recoveries,
    ),
    of(
        "F15",
        "removed-vote",
        "a removed manager goes on running, reachable by a voter that is cut off: its vote counts nowhere",
        seats::removed_vote,
    ),
    of(
        "F04",
        "vote-once",
        "a voter votes, dies and comes back while another asks for its vote in that term",
        terms::vote_once,
    ),
    of(
        "F08",
        "figure-eight",
        "an entry of an older term reaches a majority, and is replaced all the same: it was not committed",
        terms::figure_eight,
    ),
    of(
        "F28",
        "two-left",
        "two of three are left, each slower to hear of the other than a tick is long: one of them leads soon",
        terms::two_left,
    ),
    of(
        "S12",
        "grow-shrink",
        "five voters become three and five again, while managers are killed: odd, and as many as can be",
        changes::grow_shrink,
    ),
    of(
        "S13",
        "even-refused",
        "a fourth and a sixth manager stand by; wishes at once, the leader dies over them: all end, none even",
        changes::even_refused,
    ),
    of(
        "S14",
        "joint-crash",
        "the leader dies after so many effects of a change of the voters, more each time: no joint configuration stays",
        changes::joint_crash,
    ),
    of(
        "S15",
        "promote-storm",
        "four workers are promoted at once, one of them is off: five have seats, it has none",
        changes::promote_storm,
    ),
    of(
        "S16",
        "demote-leader",
        "of six managers the leader is demoted under load: leadership goes first, and is missed for a moment only",
        seats::demote_leader,
    ),
    of("S17", "demote-downed", "two of five die and are demoted; of three the next one is not", changes::demote_downed),
    of(
        "S18",
        "dark-learner",
        "a manager joins, is cut off at once, and the log goes on without it: it catches up by a snapshot",
        changes::dark_learner,
    ),
    of(
        "S19",
        "snapshot-crash",
        "a follower dies again and again while it takes a snapshot: equal state",
        lives::snapshot_crash,
    ),
    of(
        "S20",
        "exactly-once",
        "leaders are killed every 2 s while clients retry: every write counts once",
        disks::exactly_once,
    ),
    of("S21", "cas-contention", "twelve processes fight for four keys: linearizable", disks::contention),
    of(
        "S22",
        "enospc",
        "a follower, the leader, a majority without space: read-only, and back by itself",
        disks::enospc,
    ),
    of("S23", "fsync-eio", "the leader's sync fails: it stops, the cluster goes on", disks::fsync_eio),
    of("S24", "stuck-disk", "the leader's disk hangs for 20 s: leadership moves", disks::stuck_disk),
    of("S25", "clock-chaos", "clocks jump and drift: no stale read, no storm", disks::clock_chaos),
    of(
        "S27",
        "key-rotation-kill",
        "keys are replaced while managers die between two effects: every sealed record names a key that is there",
        lives::keys_under_kills,
    ),
    of(
        "S28",
        "overload",
        "large values, and a disk that is slow for a while: as fast as before afterwards",
        lives::overload,
    ),
    of(
        "S29",
        "worker-churn",
        "sixteen workers die and come back while leaders do: known for what they are",
        lives::worker_churn,
    ),
    of(
        "S31",
        "mixed-version",
        "managers are upgraded one by one while leaders of both versions die: equal state, and the upgrade is finished",
        lives::mixed_version,
    ),
    of("S32", "wiped-follower", "a follower loses its disk: it comes back under a new raft id", disks::wiped),
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
    let most = config.members.min(u64::from(config.max_voters));
    let voters = usize::try_from(most - (most + 1) % 2).unwrap_or(3);
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
