//! The cluster as one manager sees it: the documented JSON of `quorate status --json`.
//!
//! Owns the one definition that the wire, the library and scripts share. Fields are only ever added.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::membership::NodeState;
use crate::upgrade::UpgradeStatus;

/// What `status` answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster, base32.
    pub cluster_id: String,
    /// Incarnations so far, from 1.
    pub generation: u64,
    /// The term that the asked manager is in.
    pub term: u64,
    /// The leader's name (its node id when it has none); null without one.
    pub leader: Option<String>,
    /// The store's revision at the asked manager.
    pub revision: u64,
    /// Seats in force.
    pub voters: usize,
    /// Voters that can write now (reachable, with a disk that answers and has space) minus a majority; negative: no writes.
    pub fault_tolerance: i64,
    /// How many voters may still be lost, and what would raise that, in words; empty when the quorum is lost.
    #[serde(default)]
    pub tolerance: String,
    /// One of ok, degraded, single_copy, read_only, quorum_lost, locked, fenced, removed, rolled_back, damaged.
    pub health: Health,
    /// What to do, line by line; empty when nothing is.
    pub advice: Vec<String>,
    /// The name of the manager that answered.
    pub answered_by: String,
    /// How old its view of the store may be, milliseconds: every write that was acknowledged longer ago is in it. Null when
    /// it does not know, because it has not heard from a quorum since it was started.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// Milliseconds since that manager last knew of a leader.
    pub leaderless_ms: u64,
    /// Every manager.
    pub managers: Vec<ManagerStatus>,
    /// Every worker.
    pub workers: Vec<WorkerStatus>,
    /// The version that the cluster is at: features of later ones are refused.
    pub cluster_version: u32,
    /// How far a rolling upgrade is.
    #[serde(default)]
    pub upgrade: UpgradeStatus,
    /// The manager that answered is being demoted or removed and gets no answers from the others any more: in words, what
    /// becomes of it. Empty for every other manager.
    #[serde(default)]
    pub leaving: String,
    /// Managers of another recovery of this cluster that were met: keep one of the two, wipe the other.
    #[serde(default)]
    pub forks: Vec<ForkStatus>,
    /// After a recovery: what it kept of the generation before.
    #[serde(default)]
    pub recovered: Option<RecoveredStatus>,
    /// How much the store holds, at the manager that answered; null when its disk does not say.
    #[serde(default)]
    pub store: Option<StoreStatus>,
}

/// How much the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Bytes of live records.
    pub live_bytes: u64,
    /// Bytes of history that can still be read.
    pub history_bytes: u64,
    /// What the two together may come to.
    pub quota_bytes: u64,
    /// Writes are refused until nine tenths of the quota are left; deletes go on.
    pub full: bool,
}

/// What a recovery kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecoveredStatus {
    /// The newest revision of the generation before that was kept.
    pub kept_revision: u64,
    /// The first revision of this generation.
    pub first_revision: u64,
}

/// A manager of another recovery.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForkStatus {
    /// Node id, base32.
    pub id: String,
    /// Its name, when it is known; else its id.
    pub name: String,
    /// Where it was met.
    pub address: String,
    /// Its generation.
    pub generation: u64,
}

/// How the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is as it should be.
    Ok,
    /// It works, with less tolerance than its seats could give.
    #[default]
    Degraded,
    /// One voter, and no standby that has every acknowledged write: a lost disk is a lost cluster.
    SingleCopy,
    /// No writes for lack of disk space, or because the store holds all that the policy lets it; reads go on, and writes by
    /// themselves once there is space.
    ReadOnly,
    /// No writes until managers come back, or until one of them leads.
    QuorumLost,
    /// The store is sealed, and the manager waits for its key: `quorate unlock`. It does nothing else.
    Locked,
    /// A stopped directory of a generation that a recovery has ended: it is never run again.
    Fenced,
    /// A stopped directory of a node that was removed from its cluster.
    Removed,
    /// A stopped directory that was put back to an older state, or is a copy: it is never run again.
    RolledBack,
    /// A stopped directory whose state a manager that ran from it found damaged: it is never run again.
    Damaged,
}

impl Health {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::SingleCopy => "single_copy",
            Self::ReadOnly => "read_only",
            Self::QuorumLost => "quorum_lost",
            Self::Locked => "locked",
            Self::Fenced => "fenced",
            Self::Removed => "removed",
            Self::RolledBack => "rolled_back",
            Self::Damaged => "damaged",
        }
    }
}

/// One manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// Node id, base32.
    pub id: String,
    /// The name people gave it; its id when they gave none.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its number in the Raft configuration.
    pub raft_id: u64,
    /// "voter" or "standby"; "joining" before it is in the configuration; "lost" when a recovery left it behind.
    pub seat: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answered just now.
    pub reachable: bool,
    /// Whether it says that it is locked: it waits for its key (`quorate unlock`), and does nothing else meanwhile.
    #[serde(default)]
    pub locked: bool,
    /// What it said when it stopped, where that was that starting it again does not bring it back; null where it said nothing of the
    /// kind, and for a manager that is reachable.
    #[serde(default)]
    pub last_word: Option<LastWord>,
    /// How long the manager that answered has heard nothing from it, milliseconds; 0 when it is reachable. Null when
    /// nothing came from it since that manager was started.
    #[serde(default)]
    pub silent_ms: Option<u64>,
    /// Its applied index; 0 when it did not answer.
    pub applied: u64,
    /// Log entries it is behind the newest known commit.
    pub lag: u64,
    /// Its software version.
    pub version: String,
    /// The oldest and the newest cluster version that its program supports, as it reported last.
    #[serde(default)]
    pub supports: (u32, u32),
    /// Digest of its applied state at `hash_revision`, hex.
    pub state_hash: Option<String>,
    /// The newest revision that every reachable manager has applied.
    pub hash_revision: Option<u64>,
    /// Snapshots sent, failed, installed and refused by this process.
    pub snapshots: SnapshotStatus,
    /// Milliseconds for which its disk has not answered, once that is too long: it neither leads nor votes. Else 0.
    #[serde(default)]
    pub disk_silent_ms: u64,
    /// Free bytes beside its store, while they are too few: it takes no writes and neither leads nor votes.
    #[serde(default)]
    pub low_space: Option<u64>,
    /// Workers that have their session with it; 0 when it did not answer.
    #[serde(default)]
    pub sessions: u64,
}

/// Why a manager stopped that starting it again does not bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LastWord {
    /// Its directory was put back to an older state, or is a copy: it comes back with a fresh store.
    RolledBack,
    /// The leader contradicts what it had acknowledged: the directory of another one was put back. It keeps what it has.
    Overruled,
    /// Its store is damaged: it comes back with a fresh one.
    Damaged,
}

impl LastWord {
    /// The words on the screen.
    pub const fn words(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled back",
            Self::Overruled => "overruled",
            Self::Damaged => "damaged",
        }
    }
}

/// Snapshots in this process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Sent to their end.
    pub sent: u64,
    /// Failed on the way.
    pub failed: u64,
    /// Installed.
    pub installed: u64,
    /// Received and not wanted.
    pub refused: u64,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Node id, base32.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it would be reached as a manager.
    pub address: String,
    /// Whether it is there, as the leader recorded it; unknown when no leader judges it now.
    #[serde(default)]
    pub state: NodeState,
    /// Since when it is ready or down, milliseconds since 1970; 0 when that is not known.
    #[serde(default)]
    pub since_ms: u64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// Holds a session with the managers, gets assignments, holds no log.
    #[default]
    Worker,
    /// Holds the replicated log and state.
    Manager,
}

impl NodeRole {
    /// The word on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// What one node says of itself: the documented JSON of `quorate status --json` on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// Node id, base32.
    pub id: String,
    /// Its name; its id when it has none.
    pub name: String,
    /// The cluster, base32.
    pub cluster_id: String,
    /// What it is at the moment.
    pub role: NodeRole,
    /// Of a worker: its session; null without one.
    pub session: Option<SessionReport>,
    /// The store's revision that its assignments were read at; null when it has never been told any.
    pub assignments_revision: Option<u64>,
    /// They are what it had when it last ran; no manager has confirmed them since.
    pub assignments_stale: bool,
    /// The ids of its items, ascending.
    pub items: Vec<String>,
    /// What is in its way; empty when nothing is.
    pub trouble: String,
    /// Of a manager: the keys that open its store.
    #[serde(default)]
    pub key: Option<KeyReport>,
}

/// What a manager says of the keys that open its store; no secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyReport {
    /// Where the key comes from: "key file", "unlock key", "passphrase", "command" or "custom".
    pub kind: String,
    /// Names the key and tells nothing about it.
    pub id: String,
    /// Of a key file: where it lies.
    pub place: String,
    /// The key file lies in the data directory: who takes the disk has both.
    pub beside_data: bool,
    /// Where this start had the key from, where that is not what the store says; else empty.
    #[serde(default)]
    pub given: String,
    /// A new unlock key was shown and not confirmed yet.
    pub pending: bool,
    /// The data key that seals, counted from 1; 0 where the store is not open.
    pub data_key: u32,
    /// When it was made, seconds since 1970.
    pub data_key_made: u64,
    /// Records that an older data key has sealed are being sealed anew.
    pub sealing_anew: bool,
    /// Why the next start will fail, as far as this can be told: its key file is not there, or holds another key. Empty when
    /// nothing is in its way.
    pub trouble: String,
    /// What to do; empty when there is nothing.
    pub advice: String,
}

/// A worker's session, seen from the worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionReport {
    /// The manager's name.
    pub manager: String,
    /// Its address.
    pub address: String,
    /// For how long, milliseconds.
    pub for_ms: u64,
}

/// Whether a node can serve now: the documented JSON of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Readiness {
    /// All checks hold.
    pub ready: bool,
    /// Each of them, in the order in which to look after them.
    pub checks: Vec<Check>,
}

impl Readiness {
    /// Ready when all of these hold.
    pub fn of(checks: Vec<Check>) -> Self {
        Self { ready: checks.iter().all(|check| check.ok), checks }
    }
}

/// One of the things that a node needs to serve.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Check {
    /// One word.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What is, in words.
    pub detail: String,
}

/// Whether a node is at work at all: the documented JSON of `/livez`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Liveness {
    /// It is.
    pub alive: bool,
    /// Why not; empty when it is.
    pub detail: String,
}

/// What one manager says about itself to another.
#[cfg(feature = "manager")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct MemberReport {
    pub(crate) applied: u64,
    pub(crate) commit: u64,
    pub(crate) term: u64,
    pub(crate) version: String,
    pub(crate) revision: u64,
    /// Newest last.
    pub(crate) hashes: Vec<(u64, String)>,
    pub(crate) snapshots: SnapshotStatus,
    #[serde(default)]
    pub(crate) disk_silent_ms: u64,
    #[serde(default)]
    pub(crate) low_space: Option<u64>,
    /// It leads, and what it acknowledges is on more disks than its own.
    #[serde(default)]
    pub(crate) copied: bool,
    /// Workers with a session here.
    #[serde(default)]
    pub(crate) sessions: u64,
    /// It leads, and every live manager has reported its sessions to it.
    #[serde(default)]
    pub(crate) judged: bool,
    /// Managers, by raft id, that said when they went that starting them again does not bring them back.
    #[serde(default)]
    pub(crate) parted: Vec<(u64, LastWord)>,
}

/// A duration as people say it: `400ms`, `2.5s`, `30s`, `4m 12s`, `5m`, `2h 05m`, `7d`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let two = |first: u64, unit: &str, second: u64, smaller: &str| {
        if second == 0 { format!("{first}{unit}") } else { format!("{first}{unit} {second:02}{smaller}") }
    };
    match (days, hours, minutes) {
        _ if seconds == 0 => format!("{}ms", time.as_millis()),
        (0, 0, 0) if time.subsec_millis() < 100 => format!("{seconds}s"),
        (0, 0, 0) => format!("{seconds}.{}s", time.subsec_millis() / 100),
        (0, 0, minutes) => two(minutes, "m", seconds % 60, "s"),
        (0, hours, minutes) => two(hours, "h", minutes, "m"),
        (days, hours, _) => two(days, "d", hours, "h"),
    }
}

/// Bytes as people say them: `512B`, `1.5KiB`, `16MiB`, `8GiB`.
pub fn size(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x400 => return format!("{bytes}B"),
        0x400..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        0x4000_0000..0x100_0000_0000 => ("GiB", 30),
        _ => ("TiB", 40),
    };
    let (whole, tenths) = (bytes >> shift, ((bytes >> (shift - 10)) % 0x400) * 10 / 0x400);
    if tenths == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tenths}{unit}") }
}

/// How many of something, as people say it: `1 key`, `2 keys`, `3 entries`.
pub fn counted<N: std::fmt::Display + PartialEq + From<u8>>(count: N, one: &str) -> String {
    if count == N::from(1) {
        return format!("1 {one}");
    }
    match one.strip_suffix("ry") {
        Some(stem) => format!("{count} {stem}ries"),
        None => format!("{count} {one}s"),
    }
}

/// How long something has lasted: as [`span`], in whole seconds from the first on.
pub fn ago(time: Duration) -> String {
    span(if time.as_secs() > 0 { Duration::from_secs(time.as_secs()) } else { time })
}

/// How old something may be, as people say it: a promise, so it is rounded up.
pub fn at_most(age: Option<Duration>) -> String {
    let Some(age) = age else {
        return "of unknown age: the manager asked has not heard from a quorum since it was started".to_owned();
    };
    let whole = if age.subsec_nanos() > 0 && age.as_secs() > 0 { age.as_secs() + 1 } else { age.as_secs() };
    format!("at most {} old", ago(if age.as_secs() > 0 { Duration::from_secs(whole) } else { age }))
}

/// An instant, seconds since 1970, as people read it: RFC 3339 in UTC, `2026-03-01T09:30:00Z`.
pub fn date(unix_seconds: u64) -> String {
    quorate_transport::utc(unix_seconds)
}

/// Whether a character is a control character, or shows a line in another order than it is in, or shows nothing: a terminal takes it
/// for a command, and a person for something else. No name has one.
pub fn hides(c: char) -> bool {
    quorate_core::membership::naming::hides(c)
}

/// A manager's silence as the runbook says it: `silent 4m 12s`.
pub fn silence(silent_ms: Option<u64>) -> String {
    silent_ms.map_or_else(
        || "not heard of yet".to_owned(),
        |silent| format!("silent {}", ago(Duration::from_millis(silent))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_something_is_not_several() {
        assert_eq!(counted(0_usize, "secret"), "0 secrets");
        assert_eq!(counted(1_u64, "secret"), "1 secret");
        assert_eq!((counted(1_u64, "entry"), counted(2_u64, "entry")), ("1 entry".into(), "2 entries".into()));
        assert_eq!(counted(2_u32, "standby manager"), "2 standby managers");
    }

    #[test]
    fn a_time_is_said_as_people_say_it() {
        for (ms, said, lasted) in [
            (80, "80ms", "80ms"),
            (2_000, "2s", "2s"),
            (2_500, "2.5s", "2s"),
            (60_000, "1m", "1m"),
            (252_900, "4m 12s", "4m 12s"),
            (7_500_000, "2h 05m", "2h 05m"),
            (97_200_000, "1d 03h", "1d 03h"),
            (604_800_000, "7d", "7d"),
        ] {
            let time = Duration::from_millis(ms);
            assert_eq!((span(time).as_str(), ago(time).as_str()), (said, lasted));
        }
        for (bytes, said) in
            [(0, "0B"), (1_023, "1023B"), (1_536, "1.5KiB"), (16 << 20, "16MiB"), ((8 << 30) - 1, "7.9GiB")]
        {
            assert_eq!(size(bytes), said);
        }
        let old = |ms| at_most(Some(Duration::from_millis(ms)));
        assert_eq!(
            (old(80).as_str(), old(4_001).as_str(), old(5_000).as_str()),
            ("at most 80ms old", "at most 5s old", "at most 5s old")
        );
        assert!(at_most(None).contains("unknown age"));
        assert_eq!((silence(Some(249_000)), silence(None)), ("silent 4m 09s".into(), "not heard of yet".into()));
    }
}
