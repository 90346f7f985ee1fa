//! What a run leaves behind: the trace hash, the last events, the report, the violation.
//!
//! Owns the record of a run. Never decides. Called by the world at every event and effect.

use std::collections::VecDeque;
use std::fmt;

use super::acts::Timed;
use super::check::Broken;
use super::config::SimConfig;
use super::marks::Marks;

/// Lines kept for a violation.
const KEPT: usize = 60;

/// How much is put into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// Nothing: a run that breaks something is repeated with words.
    None,
    /// The last lines.
    Last,
    /// All of them.
    All,
}

/// A hash over every event and effect, and, where that is wanted, what happened in words.
pub(super) struct Trace {
    hash: u64,
    words: Words,
    last: VecDeque<String>,
    pub(super) events: u64,
    full: Vec<String>,
}

/// From the digits of pi, as in other hashes of this kind.
const MIX: u64 = 0x517c_c1b7_2722_0a95;

impl Trace {
    pub(super) const fn new(words: Words) -> Self {
        Self { hash: 0, words, last: VecDeque::new(), events: 0, full: Vec::new() }
    }

    pub(super) const fn keep(&mut self, words: Words) {
        self.words = words;
    }

    const fn mix(&mut self, word: u64) {
        self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(MIX);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.mix(u64::from(*byte));
        }
        self.mix(bytes.len() as u64);
    }

    /// A moment, and what happened then.
    pub(super) fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(now);
        if self.words == Words::None {
            return;
        }
        let text = format!("{:>6}.{:06} {}", now / 1_000_000, now % 1_000_000, line());
        if self.words == Words::All {
            self.full.push(text.clone());
        }
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    pub(super) fn take_full(&mut self) -> Vec<String> {
        std::mem::take(&mut self.full)
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "counts, named by what is counted")]
pub struct Report {
    pub seed: u64,
    /// Over every event and effect: equal for equal seeds, in any process.
    pub trace_hash: u64,
    pub events: u64,
    /// Virtual time, nanoseconds.
    pub simulated: u64,
    pub acks: u64,
    pub reads: u64,
    pub refused: u64,
    pub unknown: u64,
    pub retries: u64,
    pub elections: u64,
    pub terms: u64,
    pub configurations: u64,
    pub snapshots_built: u64,
    pub snapshots_sent: u64,
    pub snapshots_failed: u64,
    pub snapshots_installed: u64,
    pub snapshots_refused: u64,
    pub fetches: u64,
    pub crashes: u64,
    pub lost_batches: u64,
    /// Batches that a power cut left in part, records that rotted, and stores that were found damaged.
    pub torn: u64,
    pub rotten: u64,
    pub damage_found: u64,
    pub partitions: u64,
    pub transfers: u64,
    pub replaced: u64,
    pub syncs: u64,
    pub leases: u64,
    pub forwarded: u64,
    pub disk_faults: u64,
    pub disk_hangs: u64,
    pub shortages: u64,
    /// Wishes of operators, and those that were refused.
    pub wishes: u64,
    pub wishes_refused: u64,
    /// Members lost for good.
    pub killed: u64,
    /// Entries acknowledged by an only voter because a standby had them too.
    pub copied: u64,
    /// Leases of keys: granted, renewed, expired, revoked.
    pub granted: u64,
    pub renewed: u64,
    pub expired: u64,
    pub revoked: u64,
    /// Watches opened, also again.
    pub watches: u64,
    pub watch_messages: u64,
    /// Chunks of history read for watches.
    pub watch_reads: u64,
    pub watches_cut: u64,
    pub watches_compacted: u64,
    /// Binaries replaced, finishes that were held back, and members that stopped because of what they do not know.
    pub reinstalled: u64,
    pub finishes_refused: u64,
    pub outdated: u64,
    /// Processes that slept, and clusters that were founded anew from one disk.
    pub pauses: u64,
    pub recoveries: u64,
    /// Operations on registers that were recorded and judged, and those that the search could not judge.
    pub judged: u64,
    pub unjudged: u64,
    /// Workers that a leader took for gone, and sessions that ended because the manager was behind its worker.
    pub workers_down: u64,
    pub workers_ahead: u64,
    /// Members that stopped for a newer incarnation which only the CA's key stands for.
    pub claimed: u64,
    /// Faults, wishes and everything else that was done.
    pub acts: u64,
    /// What was met.
    pub marks: Marks,
    /// The newest barrier key, and what was refused because it was sealed with one that had gone.
    pub barrier_keys: u64,
    pub stale_keys: u64,
}

impl Report {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.events, other.events),
            (&mut self.simulated, other.simulated),
            (&mut self.acks, other.acks),
            (&mut self.reads, other.reads),
            (&mut self.refused, other.refused),
            (&mut self.unknown, other.unknown),
            (&mut self.retries, other.retries),
            (&mut self.elections, other.elections),
            (&mut self.terms, other.terms),
            (&mut self.configurations, other.configurations),
            (&mut self.snapshots_built, other.snapshots_built),
            (&mut self.snapshots_sent, other.snapshots_sent),
            (&mut self.snapshots_failed, other.snapshots_failed),
            (&mut self.snapshots_installed, other.snapshots_installed),
            (&mut self.snapshots_refused, other.snapshots_refused),
            (&mut self.fetches, other.fetches),
            (&mut self.crashes, other.crashes),
            (&mut self.lost_batches, other.lost_batches),
            (&mut self.workers_down, other.workers_down),
            (&mut self.workers_ahead, other.workers_ahead),
            (&mut self.claimed, other.claimed),
            (&mut self.torn, other.torn),
            (&mut self.rotten, other.rotten),
            (&mut self.damage_found, other.damage_found),
            (&mut self.partitions, other.partitions),
            (&mut self.transfers, other.transfers),
            (&mut self.replaced, other.replaced),
            (&mut self.syncs, other.syncs),
            (&mut self.leases, other.leases),
            (&mut self.forwarded, other.forwarded),
            (&mut self.disk_faults, other.disk_faults),
            (&mut self.disk_hangs, other.disk_hangs),
            (&mut self.shortages, other.shortages),
            (&mut self.wishes, other.wishes),
            (&mut self.wishes_refused, other.wishes_refused),
            (&mut self.killed, other.killed),
            (&mut self.copied, other.copied),
            (&mut self.granted, other.granted),
            (&mut self.renewed, other.renewed),
            (&mut self.expired, other.expired),
            (&mut self.revoked, other.revoked),
            (&mut self.watches, other.watches),
            (&mut self.watch_messages, other.watch_messages),
            (&mut self.watch_reads, other.watch_reads),
            (&mut self.watches_cut, other.watches_cut),
            (&mut self.watches_compacted, other.watches_compacted),
            (&mut self.reinstalled, other.reinstalled),
            (&mut self.finishes_refused, other.finishes_refused),
            (&mut self.outdated, other.outdated),
            (&mut self.pauses, other.pauses),
            (&mut self.recoveries, other.recoveries),
            (&mut self.judged, other.judged),
            (&mut self.unjudged, other.unjudged),
            (&mut self.acts, other.acts),
            (&mut self.barrier_keys, other.barrier_keys),
            (&mut self.stale_keys, other.stale_keys),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
        self.marks.add(&other.marks);
    }
}

/// A promise that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// The numbers.
    pub detail: String,
    /// Replays it.
    pub seed: u64,
    /// When, nanoseconds of virtual time.
    pub at: u64,
    /// What happened last.
    pub last: Vec<String>,
    /// The one line that runs it again; none for a scenario that is directed by a program.
    pub replay: Option<String>,
    /// What was done until then: enough to run it again ([`crate::repro`]).
    pub acts: Vec<Timed>,
    /// The knobs.
    pub config: SimConfig,
}

impl Violation {
    /// Inside the world the seed and the time are added last.
    pub(super) fn broken(self) -> Broken {
        Broken { invariant: self.invariant, detail: self.detail }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "`{}` broken at {} ms of seed {}: {}",
            self.invariant,
            self.at / 1_000_000,
            self.seed,
            self.detail
        )?;
        for line in &self.last {
            writeln!(f, "  {line}")?;
        }
        match &self.replay {
            Some(replay) => write!(f, "replay: {replay}"),
            None => write!(f, "a directed scenario: the test that ran it replays it"),
        }
    }
}

impl std::error::Error for Violation {}
