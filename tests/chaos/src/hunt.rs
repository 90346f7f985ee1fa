//! The hunt for mutants: every deliberate bug is planted, and seeds are run until something breaks.
//!
//! Owns the catalogue: what each bug is, where it is looked for, and how many seeds that may take. A bug that is not caught is a
//! hole in the harness. Works in a build with the feature `chaos-mutants` only. Called by `chaos mutants`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_core::mutants::Mutant;

use crate::scenarios::Scenario;
use crate::sim::{Profile, Run, SimConfig, Violation, World, run_config};

/// Where a bug is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Where {
    /// In seeds of a profile.
    Seeds(Profile),
    /// In seeds of a named scenario.
    Scenario(&'static str),
    /// In a seed that is run twice.
    Twice(Profile),
    /// In the checkers themselves: histories are broken on purpose (tests/checkers.rs).
    Checkers,
    /// Nowhere here, for this reason.
    NotApplicable(&'static str),
}

/// One line of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its number in the catalogue.
    pub number: u8,
    /// What the bug is.
    pub about: &'static str,
    /// Where it is looked for.
    pub place: Where,
    /// Seeds that it may take.
    pub budget: u64,
    mutant: Option<Mutant>,
}

/// What came of the hunt for one bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hunted {
    /// After so many seeds, by this invariant.
    Caught {
        /// Seeds until then, that one included.
        seeds: u64,
        /// The invariant, or what else showed it.
        by: String,
        /// The numbers.
        detail: String,
    },
    /// Not within so many seeds.
    Missed(u64),
    /// It does not apply here.
    Skipped(&'static str),
    /// It is tested elsewhere, on its own.
    Elsewhere(&'static str),
}

const fn of(number: u8, mutant: Mutant, place: Where, budget: u64, about: &'static str) -> Entry {
    Entry { number, about, place, budget, mutant: Some(mutant) }
}

const fn without(number: u8, place: Where, about: &'static str) -> Entry {
    Entry { number, about, place, budget: 0, mutant: None }
}

const SWARM: Where = Where::Seeds(Profile::Swarm);
const DISK: Where = Where::Seeds(Profile::Disk);
const RECOVERY: Where = Where::Seeds(Profile::Recovery);
const MEMBERSHIP: Where = Where::Seeds(Profile::Membership);
const WATCH: Where = Where::Seeds(Profile::Watch);

/// M01 to M41 are those that were asked for; those after them belong to faults that came later.
#[rustfmt::skip]
pub const CATALOGUE: &[Entry] = &[
    of(1, Mutant::SkipFsync, DISK, 50, "a sync does nothing"),
    of(2, Mutant::AckBeforeCommit, SWARM, 20, "the leader counts what it has appended as committed"),
    of(3, Mutant::SendBeforeDurable, SWARM, 200, "votes and acknowledgements leave before they are durable"),
    of(4, Mutant::VoteNotPersisted, Where::Scenario("vote-once"), 20, "the vote is not on disk"),
    of(5, Mutant::TermIgnored, Where::Seeds(Profile::Network), 2_000, "messages of an older term are taken"),
    of(6, Mutant::HalfIsAQuorum, SWARM, 50, "half of the voters is a quorum"),
    of(7, Mutant::LearnersCount, SWARM, 100, "learners count towards a commit"),
    of(8, Mutant::OldTermsCommit, Where::Scenario("figure-eight"), 20, "entries of older terms are committed by counting"),
    of(9, Mutant::AppliedApart, SWARM, 200, "the applied index is written in a batch of its own"),
    of(10, Mutant::AppliedForgotten, SWARM, 10, "a restart applies from an older index"),
    of(11, Mutant::SnapshotWithoutReplay, SWARM, 100, "a snapshot comes without the replay table"),
    of(12, Mutant::LocalReads, SWARM, 50, "the leader answers reads alone"),
    of(13, Mutant::ReadContextAgain, SWARM, 5_000, "a read round is tried again with its old context"),
    of(14, Mutant::ReadsBeforeNoOp, SWARM, 500, "a new leader answers reads before its first entry is committed"),
    of(15, Mutant::SnapshotWithoutConfiguration, SWARM, 200, "a snapshot comes without the configuration"),
    of(16, Mutant::SuffixStays, SWARM, 200, "a replaced suffix stays on the disk"),
    of(17, Mutant::EvenVoters, SWARM, 5, "a single standby is seated"),
    of(18, Mutant::NoPreVote, Where::Scenario("flap"), 5, "no pre-vote and no check of the quorum"),
    of(19, Mutant::NoLineage, RECOVERY, 20, "lineages are not compared"),
    of(20, Mutant::RecoveryDropsTail, RECOVERY, 50, "a recovery drops the tail above the commit index"),
    of(21, Mutant::WipedComesBack, SWARM, 100, "a wiped disk comes back under its old raft id"),
    of(22, Mutant::RemovedVote, Where::Scenario("removed-vote"), 20, "votes of removed managers count"),
    of(23, Mutant::WatchDrops, WATCH, 50, "a full watch loses events"),
    of(24, Mutant::WatchFromTheStart, WATCH, 10, "a watch that comes back begins anew"),
    without(25, Where::NotApplicable("sealing lies below the ports of the store, which the simulator replaces: canary scans of real data directories look for it"), "a secret in the clear, a nonce twice"),
    of(26, Mutant::FailedSyncRetried, Where::Scenario("fsync-eio"), 20, "a failed sync is tried again"),
    of(27, Mutant::SilentTruncation, SWARM, 20, "the end of a log is dropped in silence"),
    of(28, Mutant::FixedTimeout, Where::Scenario("two-left"), 20, "all election timeouts are equal"),
    of(29, Mutant::StuckDiskLeads, Where::Scenario("stuck-disk"), 5, "a disk that hangs goes on leading"),
    of(30, Mutant::HashOrder, Where::Twice(Profile::Swarm), 10, "a choice depends on hash order"),
    without(31, Where::Checkers, "checkers that are told a broken history"),
    of(32, Mutant::Canary, SWARM, 100, "one seed in a hundred fails"),
    of(33, Mutant::CommitApart, DISK, 500, "the commit index is written apart from its entries"),
    of(34, Mutant::TwoJournals, DISK, 200, "log and state lose unsynced writes independently"),
    of(35, Mutant::IncarnationIsACounter, Where::Scenario("two-recoveries"), 5, "an incarnation is a number only"),
    of(36, Mutant::DamagedRefilled, SWARM, 200, "a damaged store is refilled under its old raft id"),
    of(37, Mutant::LeaveFromOutside, MEMBERSHIP, 100, "a leader outside of the incoming half leaves the joint configuration"),
    of(38, Mutant::UnknownSkipped, Where::Seeds(Profile::Upgrade), 20, "an unknown command is skipped"),
    of(39, Mutant::RenewalWithoutQuorum, Where::Seeds(Profile::Leases), 400, "a renewal is answered without a quorum"),
    of(40, Mutant::ReplayKeepsNewest, SWARM, 50, "of a client only the newest outcome is kept"),
    of(41, Mutant::OlderSetTaken, SWARM, 100, "a worker takes an older set"),
    of(42, Mutant::TornIsTaken, DISK, 200, "of a batch that the power cut in two what can be read is taken"),
    of(43, Mutant::RotIsRead, DISK, 200, "what is read is not compared with its checksum"),
    of(44, Mutant::RotIsATear, DISK, 200, "a damaged entry is taken for the torn end of the log"),
    of(45, Mutant::SilenceIsAbsence, SWARM, 100, "a worker that a new leader has not been told of yet is taken for gone"),
    of(46, Mutant::ReadOfThisTerm, SWARM, 200, "a read is told as one of a leadership that did not confirm it"),
    of(47, Mutant::NoWordNeeded, MEMBERSHIP, 20, "who claims a newer raft id gets in without a word"),
    of(48, Mutant::LiarIsBelieved, MEMBERSHIP, 20, "what somebody says about a manager is believed at once"),
    of(49, Mutant::GoneStaysKnown, MEMBERSHIP, 20, "the record of a node that is gone goes on being decided from"),
    of(50, Mutant::AnyCertificate, MEMBERSHIP, 50, "a certificate counts for any raft id that is claimed with it"),
];

impl Entry {
    /// By its number, as `M07` or `7`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let digits = name.trim_start_matches(['M', 'm']);
        let number: u8 = digits.parse().ok()?;
        CATALOGUE.iter().copied().find(|entry| entry.number == number)
    }

    /// Plants the bug and runs seeds until something breaks, at most `max`. Nothing is planted afterwards.
    #[must_use]
    pub fn hunt(&self, first: u64, max: u64) -> Hunted {
        let Some(mutant) = self.mutant else {
            return match self.place {
                Where::NotApplicable(why) => Hunted::Skipped(why),
                Where::Seeds(_) | Where::Scenario(_) | Where::Twice(_) | Where::Checkers => {
                    Hunted::Elsewhere("tests/chaos/tests/checkers.rs breaks histories in seven ways")
                }
            };
        };
        plant(Some(mutant));
        let mut hunted = Hunted::Missed(max);
        for (count, seed) in (first..).take(usize::try_from(max).unwrap_or(usize::MAX)).enumerate() {
            let broken = catch_unwind(AssertUnwindSafe(|| self.place.breaks(seed)));
            let found = broken.unwrap_or_else(|_panic| Some(("no_panic", "outside of a step".to_owned())));
            if let Some((by, detail)) = found {
                hunted = Hunted::Caught { seeds: count as u64 + 1, by: by.to_owned(), detail };
                break;
            }
        }
        plant(None);
        hunted
    }
}

impl Where {
    /// What breaks in one seed, and how.
    fn breaks(self, seed: u64) -> Option<(&'static str, String)> {
        let told = |violation: Box<Violation>| (violation.invariant, violation.detail);
        match self {
            Self::Seeds(profile) => silently(SimConfig::draw(seed, profile)).err().map(told),
            Self::Scenario(name) => Scenario::named(name)?.run(seed).err().map(told),
            Self::Twice(profile) => {
                let config = SimConfig { duration: 5_000_000_000, ..SimConfig::draw(seed, profile) };
                let (first, again) = (run_config(config.clone()).ok()?, run_config(config).ok()?);
                let (hash, other) = (first.trace_hash, again.trace_hash);
                (hash != other).then(|| ("a_seed_is_a_run", format!("{hash:016x} and {other:016x}")))
            }
            Self::Checkers | Self::NotApplicable(_) => None,
        }
    }
}

/// One run, in which what breaks is not repeated for its last words.
fn silently(config: SimConfig) -> Run {
    let mut world = World::new(config)?;
    world.be_silent();
    world.play()
}

#[cfg(feature = "chaos-mutants")]
fn plant(mutant: Option<Mutant>) {
    quorate_core::mutants::plant(mutant);
}

/// Nothing can be planted in this build.
#[cfg(not(feature = "chaos-mutants"))]
const fn plant(_mutant: Option<Mutant>) {}

/// Whether bugs can be planted in this build.
pub const CAN_PLANT: bool = cfg!(feature = "chaos-mutants");
