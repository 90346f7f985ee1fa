//! S01 to S32 and what each asks for: a set-up, faults, and the faults that must have been reached for the run to count.
//!
//! Owns the table. What a scenario does is in the files beside this one. Called by `run`, and by `chaos list`.

mod churn;
mod disks;
mod hostile;
mod kills;
mod large;
mod links;
mod processes;

use std::time::Duration;

pub(super) use hostile::{CANARY, CANARY_KEY};

use super::Done;
use super::disk::Kind;
use super::load::Mix;
use super::world::{Setup, World};

/// One scenario of the real tier.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `S01` to `S32`, or a name alone.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// What is done.
    pub about: &'static str,
    /// What must come of it, beside what must always hold.
    pub expects: &'static str,
    /// Faults of which at least one must have been seen to take effect, each.
    pub requires: &'static [&'static str],
    /// How long it runs when nothing else is said.
    pub seconds: u64,
}

const fn row(
    id: &'static str,
    name: &'static str,
    about: &'static str,
    expects: &'static str,
    requires: &'static [&'static str],
    seconds: u64,
) -> Scenario {
    Scenario { id, name, about, expects, requires, seconds }
}

const ALL: [Scenario; 38] = [
    row("S01", "calm-baseline", "nothing is done", "one leadership, no unknown outcome", &[], 60),
    row(
        "S02",
        "leader-kill-loop",
        "SIGKILL of the leader, again and again",
        "acknowledged writes stay; writes go on",
        &["kill"],
        120,
    ),
    row(
        "S03",
        "leader-pause",
        "the leader stands still for 0.5 to 10 elections",
        "nothing stale is served or acknowledged",
        &["pause"],
        120,
    ),
    row(
        "S04",
        "minority-leader",
        "the leader is cut off, its clients are not",
        "the majority goes on; the cut-off one acknowledges nothing",
        &["cut-leader"],
        120,
    ),
    row(
        "S05",
        "rings-and-halves",
        "5 managers: halves, a ring, a bridge, in turn",
        "a majority that sees itself goes on",
        &["cut-halves", "cut-ring", "cut-bridge"],
        120,
    ),
    row("S06", "leader-mute", "the leader hears, and is not heard", "another leads", &["leader-mute"], 120),
    row("S07", "lossy-wan", "30 % lost, 50 % twice, up to 100 ms late", "nothing is applied twice", &["lossy"], 120),
    row(
        "S08",
        "swizzle",
        "5 managers: links of some stop one by one, and come back in another order",
        "writes go on after each",
        &["swizzle"],
        120,
    ),
    row("S09", "flap", "a follower is cut off every other second", "leadership stays", &["flap"], 60),
    row(
        "S10",
        "all-kill",
        "all managers are killed at once under load",
        "every acknowledged write is there",
        &["kill"],
        120,
    ),
    row(
        "S11",
        "crash-at-syscall-N",
        "SIGKILL before the Nth change of a file",
        "the store opens, and holds what it acknowledged",
        &["crash-at-call"],
        120,
    ),
    row(
        "S12",
        "grow-shrink",
        "1 to 3 to 5 and back, while managers are killed",
        "voters are odd; each wish ends",
        &["promote", "demote", "kill"],
        180,
    ),
    row(
        "S13",
        "even-refused",
        "wishes that would make voters even, at once, with a leader killed in between",
        "refused in words, or parked as standby",
        &["even-wish", "kill"],
        120,
    ),
    row(
        "S14",
        "joint-crash",
        "the leader is killed in the middle of changes of the voters",
        "no joint configuration stays",
        &["kill-in-change"],
        180,
    ),
    row(
        "S15",
        "promote-storm",
        "4 workers are promoted at once, one of them is off",
        "odd all the way; who is off gets no seat",
        &["promote-storm"],
        120,
    ),
    row(
        "S16",
        "demote-leader",
        "the leader is demoted, asked for at a follower",
        "leadership moves first; the caller is answered",
        &["demote"],
        120,
    ),
    row(
        "S17",
        "demote-downed",
        "5 managers, two of them killed, are demoted",
        "done, and odd",
        &["kill", "demote"],
        150,
    ),
    row(
        "S18",
        "dark-learner",
        "a manager joins, is cut off at once, and the log goes on without it",
        "it catches up by a snapshot",
        &["dark-learner"],
        120,
    ),
    row(
        "S19",
        "snapshot-crash",
        "killed while it receives a snapshot",
        "equal state; no panic",
        &["kill", "snapshot"],
        150,
    ),
    row(
        "S20",
        "exactly-once",
        "counters with short deadlines, the leader killed every few seconds",
        "the counter counts each once",
        &["kill"],
        120,
    ),
    row("S21", "cas-contention", "many clients, few keys, the leader paused", "linearizable", &["pause"], 90),
    row(
        "S22",
        "enospc",
        "the disk of a follower, then of the leader, is full, and empty again",
        "the others go on; with space it is back",
        &["disk-full"],
        150,
    ),
    row(
        "S23",
        "fsync-eio",
        "the leader's disk fails a sync, and says that the next one is done",
        "it stops, and does not try again",
        &["fsync-eio"],
        90,
    ),
    row(
        "S24",
        "slow-disk",
        "syncs of followers, then of the leader, take up to half a second longer",
        "no election by it",
        &["slow-disk"],
        120,
    ),
    row(
        "S25",
        "clock-chaos",
        "wall clocks jump by an hour, there and back",
        "no stale read, no storm",
        &["clock-jump"],
        90,
    ),
    row(
        "S26",
        "secrecy",
        "marked values, kills, a snapshot, the wire captured",
        "no value in clear anywhere; keys, which lie in clear, are found",
        &["kill", "capture"],
        90,
    ),
    row(
        "S27",
        "key-rotation-kill",
        "keys are rotated, and the manager is killed in the middle",
        "its store opens",
        &["rotate", "kill"],
        120,
    ),
    row(
        "S28",
        "overload",
        "many clients with large values, and a slow follower",
        "refused in words at most; full speed afterwards",
        &["slow-disk", "overload"],
        120,
    ),
    row(
        "S29",
        "worker-churn",
        "workers join, are killed, come back",
        "the managers' log does not grow with them",
        &["worker-kill"],
        120,
    ),
    row(
        "S30",
        "quic-hostile",
        "other ports, no large datagrams, damage, another cluster's certificate",
        "connected again; refused",
        &["rebinding", "black-hole", "corruption", "wrong-cluster"],
        120,
    ),
    row(
        "S31",
        "mixed-version",
        "managers of the next version among those of this one",
        "equal state",
        &["mixed-version"],
        120,
    ),
    row(
        "S32",
        "wiped-follower",
        "the store of a follower is gone",
        "refused as it was; back under another raft id",
        &["wiped-disk"],
        120,
    ),
    row(
        "kills",
        "two-hundred-kills",
        "SIGKILL in every combination: the leader, a follower, one just back, two, all; pauses; snapshots",
        "every acknowledged write is there, each once",
        &["kill", "pause", "snapshot"],
        180,
    ),
    row(
        "large",
        "large-values",
        "values of 12 KiB, which lie in files of their own: the leader, all, a follower are killed, or lose power",
        "every acknowledged value is there, whole",
        &["kill", "large-values"],
        120,
    ),
    row(
        "power",
        "power-cut",
        "the power of one or all goes: unsynced writes are lost",
        "every acknowledged write is there",
        &["power-cut"],
        120,
    ),
    row(
        "lie",
        "lying-disk",
        "a control: all disks say that they synced and did not, and then the power goes",
        "this must be found: the run ends with 1, or the harness is blind",
        &["lying-sync", "power-cut"],
        10,
    ),
    row(
        "fnc",
        "force-new-cluster",
        "all are killed; the one whose log is furthest goes on alone, the others join it anew",
        "every acknowledged write is there; the old generation is fenced",
        &["force-new-cluster", "kill"],
        120,
    ),
    row(
        "mix",
        "everything-at-once",
        "kills, pauses, cuts, loss, stalls and power cuts, whatever this machine can",
        "all that must always hold",
        &["kill", "pause", "cut-leader", "lossy"],
        120,
    ),
];

/// All of them, in order.
#[must_use]
pub fn list() -> &'static [Scenario] {
    &ALL
}

/// By its id or its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.id.eq_ignore_ascii_case(name) || scenario.name == name)
}

impl Scenario {
    /// What is needed before it begins; managers as asked for, where it does not matter.
    pub(super) fn setup(&self, nodes: usize) -> Setup {
        let common = Setup { managers: nodes, managers_most: nodes, ..Setup::COMMON };
        let five = Setup { managers: 5, managers_most: 5, ..common };
        match self.id {
            "S01" => Setup { mix: Mix { deadline: Some(10_000), ..Mix::COMMON }, ..common },
            "S05" | "S08" => five,
            "S11" | "S24" => Setup { told: true, ..common },
            "S12" => Setup { managers: 1, managers_most: 5, ..common },
            "S13" => Setup { managers: 3, managers_most: 6, ..common },
            "S14" | "S18" => Setup { managers_most: nodes + 2, ..common },
            "S15" => Setup { managers: 3, workers: 4, managers_most: 7, ..common },
            "S17" => Setup { lost_after: Duration::from_secs(3_600), ..five },
            "S16" => Setup { managers_most: nodes + 1, ..common },
            // Wide enough that a manager whose snapshot is on its way finds the entries after it still there.
            "kills" => Setup { log_window: 400, ..common },
            // Every store has several tables' worth of them after a few seconds; and a snapshot carries them, too.
            "large" => {
                let mix = Mix { writers: 6, registers: 6, padding: 12 << 10, ..Mix::COMMON };
                Setup { mix, log_window: 400, disk: if is_root() { Kind::Ext4 } else { Kind::Plain }, ..common }
            }
            "S19" => Setup { log_window: 100, mix: Mix { padding: 2_000, ..Mix::COMMON }, ..common },
            "S20" => {
                let mix = Mix { counters: 8, writers: 4, registers: 2, deadline: Some(400), ..Mix::COMMON };
                Setup { mix, log_window: 100, ..common }
            }
            "S21" => Setup { mix: Mix { registers: 20, writers: 2, deadline: Some(1_500), ..Mix::COMMON }, ..common },
            "lie" => Setup { disk: Kind::Ext4, told: true, ..common },
            "S22" | "power" => Setup { disk: Kind::Ext4, ..common },
            "mix" => Setup { disk: if is_root() { Kind::Ext4 } else { Kind::Plain }, ..common },
            "S23" => Setup { disk: Kind::Starving, ..common },
            "S25" => Setup { clock: true, ..common },
            "S28" => {
                let mix = Mix { writers: 40, padding: 128 << 10, pace: Duration::ZERO, ..Mix::COMMON };
                Setup { told: true, mix, ..common }
            }
            "S29" => Setup { workers: 6, ..common },
            "S31" => Setup { next_version: true, ..common },
            _ => common,
        }
    }

    /// Does it, until its time is over.
    pub(super) async fn play(&self, world: &mut World) -> Done {
        match self.id {
            "S01" => Box::pin(processes::calm(world)).await,
            "S02" => Box::pin(processes::leader_kills(world)).await,
            "S03" => Box::pin(processes::leader_pauses(world)).await,
            "S04" => Box::pin(links::minority_leader(world)).await,
            "S05" => Box::pin(links::rings_and_halves(world)).await,
            "S06" => Box::pin(links::leader_mute(world)).await,
            "S07" => Box::pin(links::lossy(world)).await,
            "S08" => Box::pin(links::swizzle(world)).await,
            "S09" => Box::pin(links::flap(world)).await,
            "S10" => Box::pin(processes::all_killed(world)).await,
            "S11" => Box::pin(disks::crash_at_call(world)).await,
            "S12" => Box::pin(churn::grow_and_shrink(world)).await,
            "S13" => Box::pin(churn::even_refused(world)).await,
            "S14" => Box::pin(churn::crash_in_change(world)).await,
            "S15" => Box::pin(churn::promote_storm(world)).await,
            "S16" => Box::pin(churn::demote_leader(world)).await,
            "S17" => Box::pin(churn::demote_downed(world)).await,
            "S18" => Box::pin(churn::dark_learner(world)).await,
            "S19" => Box::pin(processes::snapshot_crashes(world)).await,
            "S20" => Box::pin(processes::exactly_once(world)).await,
            "S21" => Box::pin(processes::contention(world)).await,
            "S22" => Box::pin(disks::full(world)).await,
            "S23" => Box::pin(disks::fsync_fails(world)).await,
            "S24" => Box::pin(disks::slow(world)).await,
            "S25" => Box::pin(hostile::clocks(world)).await,
            "S26" => Box::pin(hostile::secrecy(world)).await,
            "S27" => Box::pin(hostile::rotation(world)).await,
            "S28" => Box::pin(hostile::overload(world)).await,
            "S29" => Box::pin(churn::workers(world)).await,
            "S30" => Box::pin(hostile::quic(world)).await,
            "S31" => Box::pin(churn::mixed_versions(world)).await,
            "S32" => Box::pin(disks::wiped(world)).await,
            "kills" => Box::pin(kills::all(world)).await,
            "large" => Box::pin(large::all(world)).await,
            "power" => Box::pin(disks::power(world)).await,
            "lie" => Box::pin(disks::lies(world)).await,
            "fnc" => Box::pin(disks::recovery(world)).await,
            _ => Box::pin(processes::mixture(world)).await,
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_thirty_two_by_number_and_none_twice() {
        for number in 1..=32 {
            assert!(find(&format!("S{number:02}")).is_some(), "S{number:02}");
        }
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(find("leader-kill-loop").is_some_and(|scenario| scenario.id == "S02"));
    }
}
