//! Deliberate bugs, one switch each, for the chaos harness to find.
//!
//! Owns the list and the switch. Without the feature `chaos-mutants` every question is answered with a constant `false`, and the
//! bugs are not even compiled. With it at most one is on in a process, for all its threads. Asked where the bug lies; switched by
//! `chaos mutants` only.

/// The bugs, by their numbers in the catalogue of the harness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[rustfmt::skip]
pub enum Mutant {
    /// A sync that does nothing.
    SkipFsync = 1,
    /// The leader counts what it has appended as committed.
    AckBeforeCommit = 2,
    /// Votes and acknowledgements leave before what they promise is on disk.
    SendBeforeDurable = 3,
    /// The vote is not in the hard state on disk.
    VoteNotPersisted = 4,
    /// A message of an older term is taken for one of this term.
    TermIgnored = 5,
    /// Half of the voters is a quorum, rounded down.
    HalfIsAQuorum = 6,
    /// Learners count towards a commit.
    LearnersCount = 7,
    /// Entries of older terms are committed by counting.
    OldTermsCommit = 8,
    /// The applied index is written after the data, in a batch of its own.
    AppliedApart = 9,
    /// The applied index of a restart is an older one.
    AppliedForgotten = 10,
    /// A snapshot is installed without the replay table.
    SnapshotWithoutReplay = 11,
    /// A leader answers reads from its own state, without a quorum.
    LocalReads = 12,
    /// A read round that is tried again has the context of the one before.
    ReadContextAgain = 13,
    /// A new leader answers reads before an entry of its own term is committed.
    ReadsBeforeNoOp = 14,
    /// A snapshot is installed without the configuration.
    SnapshotWithoutConfiguration = 15,
    /// What a new leader's entries replace stays on the disk behind them.
    SuffixStays = 16,
    /// A single standby is seated, and nobody counts the voters.
    EvenVoters = 17,
    /// No pre-vote, no check of the quorum.
    NoPreVote = 18,
    /// Lineages are not compared.
    NoLineage = 19,
    /// A recovery keeps nothing above the commit index.
    RecoveryDropsTail = 20,
    /// A wiped disk comes back under its old raft id.
    WipedComesBack = 21,
    /// Votes of removed managers are asked for, and counted.
    RemovedVote = 22,
    /// A watch whose queue is full loses what comes next.
    WatchDrops = 23,
    /// A watch that comes back begins anew.
    WatchFromTheStart = 24,
    /// A failed sync is tried again, and the second time it says that all is well.
    FailedSyncRetried = 26,
    /// The end of a log that cannot be read is dropped in silence.
    SilentTruncation = 27,
    /// All election timeouts are equal.
    FixedTimeout = 28,
    /// A disk that hangs is no reason to step down.
    StuckDiskLeads = 29,
    /// A choice depends on the order of a hash map.
    HashOrder = 30,
    /// One seed in a hundred fails.
    Canary = 32,
    /// The commit index is written before its entries, apart from them.
    CommitApart = 33,
    /// Log and state lose what is not synced independently of each other.
    TwoJournals = 34,
    /// An incarnation is a number and no lineage.
    IncarnationIsACounter = 35,
    /// A damaged store is emptied and goes on under its old raft id.
    DamagedRefilled = 36,
    /// Whoever leads a joint configuration leaves it, also from outside of the incoming half.
    LeaveFromOutside = 37,
    /// A command that is not known is skipped.
    UnknownSkipped = 38,
    /// A renewal of a lease is answered without a quorum round.
    RenewalWithoutQuorum = 39,
    /// Of a client only the outcome of its newest request is kept.
    ReplayKeepsNewest = 40,
    /// A worker takes what a manager tells that is behind it.
    OlderSetTaken = 41,
    /// Of a batch that the power cut in two what can be read is taken.
    TornIsTaken = 42,
    /// What is read is not compared with its checksum.
    RotIsRead = 43,
    /// A damaged entry is taken for the torn end of the log.
    RotIsATear = 44,
    /// Of a worker that a new leader has not been told of yet it says that it is down.
    SilenceIsAbsence = 45,
    /// A read is told as one of the leadership there is when it is answered, not of the one whose quorum confirmed it.
    ReadOfThisTerm = 46,
    /// Who claims a newer raft id gets in without anybody's word.
    NoWordNeeded = 47,
    /// What somebody says about a manager is believed at once.
    LiarIsBelieved = 48,
    /// The record of a node that is gone stays among those that decisions are made from.
    GoneStaysKnown = 49,
    /// A manager's certificate counts as a word for any raft id that it claims.
    AnyCertificate = 50,
}

impl Mutant {
    /// All of them.
    #[rustfmt::skip]
    pub const ALL: &'static [Self] = &[
        Self::SkipFsync, Self::AckBeforeCommit, Self::SendBeforeDurable, Self::VoteNotPersisted, Self::TermIgnored,
        Self::HalfIsAQuorum, Self::LearnersCount, Self::OldTermsCommit, Self::AppliedApart, Self::AppliedForgotten,
        Self::SnapshotWithoutReplay, Self::LocalReads, Self::ReadContextAgain, Self::ReadsBeforeNoOp,
        Self::SnapshotWithoutConfiguration, Self::SuffixStays, Self::EvenVoters, Self::NoPreVote, Self::NoLineage,
        Self::RecoveryDropsTail, Self::WipedComesBack, Self::RemovedVote, Self::WatchDrops, Self::WatchFromTheStart,
        Self::FailedSyncRetried, Self::SilentTruncation, Self::FixedTimeout, Self::StuckDiskLeads, Self::HashOrder,
        Self::Canary, Self::CommitApart, Self::TwoJournals, Self::IncarnationIsACounter, Self::DamagedRefilled,
        Self::LeaveFromOutside, Self::UnknownSkipped, Self::RenewalWithoutQuorum, Self::ReplayKeepsNewest,
        Self::OlderSetTaken, Self::TornIsTaken, Self::RotIsRead, Self::RotIsATear, Self::SilenceIsAbsence,
        Self::ReadOfThisTerm, Self::NoWordNeeded, Self::LiarIsBelieved, Self::GoneStaysKnown,
        Self::AnyCertificate,
    ];

    /// Its number in the catalogue.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(feature = "chaos-mutants")]
static ON: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants this bug from now on, in place of any other; `None` plants none.
#[cfg(feature = "chaos-mutants")]
pub fn plant(mutant: Option<Mutant>) {
    ON.store(mutant.map_or(0, Mutant::number), std::sync::atomic::Ordering::Relaxed);
}

/// Whether the bug is planted.
#[cfg(feature = "chaos-mutants")]
#[must_use]
pub fn on(mutant: Mutant) -> bool {
    ON.load(std::sync::atomic::Ordering::Relaxed) == mutant.number()
}

/// Never, in this build.
#[cfg(not(feature = "chaos-mutants"))]
#[must_use]
pub const fn on(_mutant: Mutant) -> bool {
    false
}
