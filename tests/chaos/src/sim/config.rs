//! What a run is made of: sizes, latencies, faults.
//!
//! Owns the knobs and how a seed draws them; some are off in some seeds, because disks that always fail hide the paths
//! that need long health. Never reads an environment. Called by [`super::run`] and by directed scenarios.

use super::acts::Timed;
use super::watchers::WatchBug;
use quorate_core::testing::Rng;
use serde::{Deserialize, Serialize};

/// One millisecond of virtual time.
pub const MILLIS: u64 = 1_000_000;
/// Length of a tick, nanoseconds.
pub const TICK: u64 = 20 * MILLIS;
/// The base election timeout, nanoseconds.
pub const ELECTION: u64 = TICK * quorate_core::consensus::config::ELECTION_TICKS as u64;

/// Free space below which a simulated member takes no entries, and from which it takes them again; a scenario's unit.
pub const SPACE_LOW: u64 = 100;
/// See [`SPACE_LOW`].
pub const SPACE_ENOUGH: u64 = 200;

/// Which faults a run may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// One of the others, by seed.
    Mixed,
    /// Everything, some of it off per seed.
    Swarm,
    /// Links only.
    Network,
    /// Crashes, lost writes, slow and failing disks only.
    Disk,
    /// Growth and replacement of members under crashes.
    Membership,
    /// Everything, and leases that are granted, renewed, forgotten and revoked.
    Leases,
    /// As the swarm, with keys that are written, removed and made again, and with a history that is compacted all the time.
    Watch,
    /// As the swarm, while secrets are sealed, and managers that come and go get and lose the keys.
    Secrets,
    /// As the swarm, while members' binaries are replaced by newer and older ones.
    Upgrade,
    /// As the swarm, and more than once a majority is given up and the cluster is founded anew from one disk.
    Recovery,
    /// No faults at all: the control that false alarms would show in.
    Calm,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mixed,
        Self::Swarm,
        Self::Network,
        Self::Disk,
        Self::Membership,
        Self::Leases,
        Self::Watch,
        Self::Secrets,
        Self::Upgrade,
        Self::Recovery,
        Self::Calm,
    ];

    /// Its name on the command line and in lists of seeds.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Swarm => "swarm",
            Self::Recovery => "recovery",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Membership => "membership",
            Self::Leases => "leases",
            Self::Watch => "watch",
            Self::Secrets => "secrets",
            Self::Upgrade => "upgrade",
            Self::Calm => "calm",
        }
    }

    /// What it is, in a line.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Mixed => "one of the others, by seed",
            Self::Swarm => "everything, some of it off in each seed",
            Self::Recovery => "everything, and clusters that are founded anew from one disk",
            Self::Network => "links: cut, one-way, partial, slow, lossy, duplicating",
            Self::Disk => "crashes, lost writes, disks that are slow, hang, fail or are full",
            Self::Membership => "managers come, go, are lost, promoted, demoted and replaced",
            Self::Leases => "everything, and leases that are granted, renewed, forgotten and revoked",
            Self::Watch => "everything, and keys that come and go under watches, with a history that is compacted",
            Self::Secrets => "everything, while secrets are sealed and keys replaced, and managers come and go",
            Self::Upgrade => "everything, while binaries are replaced, forwards and back",
            Self::Calm => "no faults: what false alarms would show in",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// All knobs of one run. Times are nanoseconds, shares are per mille.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it; the units are above")]
pub struct SimConfig {
    pub seed: u64,
    /// What the seed drew from; none when a program set the knobs.
    pub drawn: Option<Profile>,
    /// Managers in all; the first founds the cluster, the others join empty.
    pub members: u64,
    pub max_voters: u32,
    /// Managers whose node records are there from the founding on; the others' are written later.
    pub recorded: u64,
    /// Length of the phase with faults.
    pub duration: u64,
    pub clients: u64,
    /// Requests a client has open at most.
    pub slots: u64,
    pub think: u64,
    /// Clients are quiet for so long, and then busy for so long, by turns; 0: always busy.
    pub lull: u64,
    /// After this an attempt counts as unknown and goes to another manager.
    pub patience: u64,
    pub delay_min: u64,
    pub delay_max: u64,
    pub loss: u64,
    pub duplicates: u64,
    pub sync_min: u64,
    pub sync_max: u64,
    pub apply_max: u64,
    pub fetch_max: u64,
    /// Mean time between faults; 0 is none.
    pub fault_every: u64,
    pub crashes: bool,
    pub partitions: bool,
    pub disk_faults: bool,
    pub transfers: bool,
    pub pauses: bool,
    /// Clock drift, parts per million in either direction.
    pub drift: u64,
    /// Snapshot streams that break.
    pub snapshot_failures: u64,
    pub log_window: u64,
    pub cache_bytes: u64,
    pub message_bytes: u64,
    pub inflight: u64,
    pub stable_ticks: u64,
    pub value_bytes: u64,
    /// A voter's store is damaged and comes back under a new raft id that takes its seat.
    pub replacements: bool,
    /// Disks that do not answer for a while.
    pub disk_hangs: bool,
    /// Disks that are nearly full for a while.
    pub shortages: bool,
    /// How long a silent voter is waited for.
    pub lost_after: u64,
    /// How long a seat waits before an eligible worker is promoted.
    pub promote_after: u64,
    /// How long somebody on the way to a seat is waited for.
    pub patience_after: u64,
    /// Managers are promoted, demoted and removed, and are away for long.
    pub churn: bool,
    /// Of them some are lost for good; else some wishes are forced.
    pub kills: bool,
    /// Holders of leases, each with one at a time.
    pub holders: u64,
    pub watchers: u64,
    /// Mean time between writes and removals of a few keys, and compactions; 0 is none.
    pub scribble_every: u64,
    pub watch_bug: Option<WatchBug>,
    /// There is a keyring, members seal secrets, and keys are replaced.
    pub secrets: bool,
    /// Longest time between two secrets that are sealed.
    pub seal_every: u64,
    /// The cluster begins in the older of two versions, and members' binaries are replaced, forwards and back.
    pub upgrades: bool,
    /// Monotonic clocks that drift and jump.
    pub clocks: bool,
    /// Links that hold everything back for a while.
    pub clogs: bool,
    /// How often the operator gives a majority up and founds the cluster anew from one disk.
    pub recoveries: u64,
    /// Clients that read, write, swap and remove a few keys, one operation at a time; what they are told is judged.
    pub registers: u64,
    /// Workers with sessions.
    pub sessions: u64,
    /// Managers let each other in by what they know, and some lie.
    pub gates: bool,
    /// At a power cut the batch after those that survive may be on the disk in part.
    pub torn: bool,
    /// A bit turns in a record that was synced: at most one in a run, while losing that store is survived.
    pub rot: bool,
    /// After the faults a core is healed and all else stays broken for ever, before everything is healed.
    pub frozen: bool,
    /// What is done, in place of what would be drawn.
    pub script: Option<Vec<Timed>>,
}

impl SimConfig {
    /// No faults, no clients: what a directed scenario starts from.
    #[must_use]
    pub const fn quiet(seed: u64, members: u64) -> Self {
        Self {
            seed,
            drawn: None,
            members,
            max_voters: 5,
            recorded: members,
            duration: 0,
            clients: 0,
            slots: 1,
            think: 20 * MILLIS,
            lull: 0,
            patience: ELECTION,
            delay_min: MILLIS / 2,
            delay_max: MILLIS,
            loss: 0,
            duplicates: 0,
            sync_min: MILLIS,
            sync_max: 2 * MILLIS,
            apply_max: MILLIS / 2,
            fetch_max: MILLIS,
            fault_every: 0,
            crashes: false,
            partitions: false,
            disk_faults: false,
            transfers: false,
            pauses: false,
            drift: 0,
            snapshot_failures: 0,
            log_window: 10_000,
            cache_bytes: 1 << 20,
            message_bytes: 64 << 10,
            inflight: 64,
            stable_ticks: 10,
            value_bytes: 16,
            replacements: false,
            disk_hangs: false,
            shortages: false,
            lost_after: 30_000 * MILLIS,
            promote_after: 300_000 * MILLIS,
            patience_after: 300_000 * MILLIS,
            churn: false,
            kills: false,
            holders: 0,
            watchers: 0,
            scribble_every: 0,
            secrets: false,
            seal_every: 80 * MILLIS,
            watch_bug: None,
            upgrades: false,
            clocks: false,
            clogs: false,
            recoveries: 0,
            registers: 0,
            sessions: 0,
            gates: false,
            torn: false,
            rot: false,
            frozen: false,
            script: None,
        }
    }

    /// The cluster version at the founding, and what the first members' binaries know.
    #[must_use]
    pub const fn version(&self) -> u32 {
        if self.upgrades { super::upgrades::OLD } else { quorate_core::command::COMMAND_VERSION }
    }

    /// The command that runs it again.
    #[must_use]
    pub fn replay(&self) -> Option<String> {
        let profile = self.drawn?.name();
        Some(format!("chaos replay --seed {} --profile {profile} --nodes {} --trace short", self.seed, self.members))
    }

    /// The knobs of a seed.
    #[must_use]
    pub fn draw(seed: u64, profile: Profile) -> Self {
        if profile == Profile::Mixed {
            // All but itself, the swarm more often than each of the others.
            let all = Profile::ALL.get(1..).unwrap_or_default();
            let mut rng = Rng::stream(seed, 20);
            let of = if rng.chance(300) { Profile::Swarm } else { rng.pick(all).unwrap_or(Profile::Swarm) };
            let drawn = Self { drawn: Some(Profile::Mixed), ..Self::draw(seed, of) };
            // Some are long and thinly used: what only comes to pass in long health would be hidden else. Of these some have clients
            // that all fall silent for a while: leases, reads of how old a state is and elections go on without a single write.
            if !rng.chance(300) {
                return drawn;
            }
            let thinner = *[20, 60, 150].get(rng.index(3)).unwrap_or(&20);
            let lull = if rng.chance(600) { rng.between(5, 40) * 1000 * MILLIS } else { 0 };
            return Self {
                duration: drawn.duration * 12,
                think: drawn.think * thinner,
                lull,
                fault_every: drawn.fault_every * 4,
                scribble_every: drawn.scribble_every * thinner,
                seal_every: drawn.seal_every * thinner,
                watchers: drawn.watchers.min(2),
                ..drawn
            };
        }
        let mut rng = Rng::stream(seed, 1);
        let rng = &mut rng;
        let members = *[3, 3, 5, 5, 4, 7].get(rng.index(6)).unwrap_or(&3);
        let calm = matches!(profile, Profile::Calm);
        let swarm = matches!(
            profile,
            Profile::Swarm | Profile::Leases | Profile::Watch | Profile::Secrets | Profile::Upgrade | Profile::Recovery
        );
        let net = swarm || matches!(profile, Profile::Network);
        let disk = swarm || matches!(profile, Profile::Disk);
        let member = swarm || matches!(profile, Profile::Membership);
        let small = rng.chance(600);
        let drawn = Self {
            drawn: Some(profile),
            max_voters: *[3, 5, 5, 7].get(rng.index(4)).unwrap_or(&5),
            recorded: if rng.chance(500) { members } else { rng.between(1, members) },
            duration: rng.between(6, 20) * 1000 * MILLIS,
            clients: rng.between(2, 5),
            slots: rng.between(1, 3),
            think: rng.between(1, 60) * MILLIS,
            patience: rng.between(10, 40) * TICK,
            delay_min: rng.between(1, 20) * MILLIS / 10,
            delay_max: if net && rng.chance(400) { rng.between(20, 120) } else { rng.between(2, 15) } * MILLIS,
            loss: if net && rng.chance(600) { rng.between(1, 200) } else { 0 },
            duplicates: if net && rng.chance(600) { rng.between(1, 300) } else { 0 },
            sync_min: MILLIS / 5,
            sync_max: if disk && rng.chance(400) { rng.between(10, 150) } else { rng.between(1, 8) } * MILLIS,
            apply_max: if rng.chance(200) { rng.between(10, 60) } else { rng.between(1, 4) } * MILLIS,
            fetch_max: rng.between(1, 40) * MILLIS,
            fault_every: if calm { 0 } else { rng.between(100, 2500) * MILLIS },
            crashes: (disk || member) && rng.chance(850),
            partitions: net && rng.chance(800),
            disk_faults: disk && rng.chance(300),
            transfers: !calm && rng.chance(500),
            pauses: net && rng.chance(200),
            drift: if net && rng.chance(300) { rng.between(100, 20_000) } else { 0 },
            snapshot_failures: if calm { 0 } else { rng.between(0, 400) },
            log_window: if small { rng.between(4, 40) } else { 10_000 },
            cache_bytes: if rng.chance(500) { rng.between(0, 2000) } else { 1 << 20 },
            message_bytes: if rng.chance(500) { rng.between(100, 4000) } else { 64 << 10 },
            inflight: rng.between(1, 32),
            stable_ticks: rng.between(1, 30),
            value_bytes: rng.between(1, 200),
            replacements: member && rng.chance(300),
            // Drawn last: what a seed drew before these were known it draws still.
            disk_hangs: disk && rng.chance(300),
            shortages: disk && rng.chance(300),
            // They only look: of them nothing is drawn here.
            watchers: 4,
            ..Self::quiet(seed, members)
        };
        // Leases draw of their own: what a seed draws without them it draws still.
        let mut held = Rng::stream(seed, 10);
        let drawn = match profile {
            Profile::Leases => Self { holders: held.between(3, 8), pauses: held.chance(700), ..drawn },
            Profile::Watch => {
                let mut rng = Rng::stream(seed, 12);
                Self { watchers: rng.between(3, 10), scribble_every: rng.between(4, 60) * MILLIS, ..drawn }
            }
            Profile::Secrets => Self { secrets: true, replacements: true, ..drawn },
            Profile::Upgrade => Self { upgrades: true, duration: drawn.duration + 10_000 * MILLIS, ..drawn },
            Profile::Recovery => Self { recoveries: 1 + held.between(0, 1), ..drawn },
            Profile::Mixed
            | Profile::Swarm
            | Profile::Network
            | Profile::Disk
            | Profile::Membership
            | Profile::Calm => drawn,
        };
        let mut bent = Rng::stream(seed, 16);
        let drawn = Self {
            // Leases of keys are promised for clocks that run apart by 3 % and do not jump.
            clocks: net && drawn.holders == 0 && bent.chance(250),
            clogs: net && bent.chance(500),
            // What only lost managers acknowledged is lost then, and no register is linearizable.
            registers: if drawn.recoveries == 0 && bent.chance(600) { bent.between(2, 6) } else { 0 },
            ..drawn
        };
        let churn = matches!(profile, Profile::Membership | Profile::Secrets) || (member && rng.chance(400));
        // Whoever founds anew has nobody left to come and go.
        let churn = churn && profile != Profile::Recovery;
        let mut worn = Rng::stream(seed, 21);
        let drawn = Self {
            torn: worn.chance(700) && (disk || member),
            // The disk that everything is founded anew from must not be the damaged one.
            rot: worn.chance(300) && disk && drawn.recoveries == 0,
            // Which core can live is only known while nobody comes or goes.
            frozen: worn.chance(250) && !calm && !churn && !drawn.upgrades,
            // Who is a worker does not change with them.
            sessions: if worn.chance(400) && swarm && !churn && !drawn.upgrades && drawn.recoveries == 0 {
                worn.between(2, 6)
            } else {
                0
            },
            ..drawn
        };
        if !churn {
            return drawn;
        }
        let kills = rng.chance(500);
        let mut doors = Rng::stream(seed, 24);
        Self {
            churn,
            // Versions and incarnations have gates of their own.
            gates: doors.chance(500) && !drawn.upgrades && drawn.recoveries == 0,
            kills,
            lost_after: rng.between(4, 6) * 1000 * MILLIS,
            promote_after: rng.between(1, 3) * 1000 * MILLIS,
            patience_after: rng.between(6, 12) * 1000 * MILLIS,
            duration: drawn.duration + rng.between(0, 30) * 1000 * MILLIS,
            // A damaged store is one that is lost for good.
            replacements: drawn.replacements && kills,
            rot: drawn.rot && kills,
            ..drawn
        }
    }
}
