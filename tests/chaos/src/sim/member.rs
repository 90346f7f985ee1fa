//! One simulated manager: its disk, and while it is up its process.
//!
//! Owns the models of the log writer and the applier as queues with at most one job at work. Never schedules: the world
//! does. Called by the world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::durable::DurableLog;
use super::recovery::Claim;
use quorate_core::consensus::Consensus;
use quorate_core::consensus::io::{Records, Status, Ticket};
use quorate_core::id::{LogIndex, RaftId};
use quorate_core::ports::{
    LogBatch, LogReader, LogReset, LogWriter, MetaStore, StagedId, Staging, StateRead, StateReader,
};
use quorate_core::state::Machine;
use quorate_core::state::contract::Committed;
use quorate_core::testing::MemoryStore;
use quorate_core::testing::Rng;
use quorate_core::watch::{Hub, WatchId};

/// A manager; it outlives its processes.
pub(super) struct Member {
    pub(super) node: u64,
    pub(super) disk: MemoryStore,
    /// Counts starts: what was scheduled for an earlier process is dropped.
    pub(super) boot: u64,
    pub(super) process: Option<Process>,
    /// Its store is damaged: it never comes back.
    pub(super) retired: bool,
    /// It stopped by itself and is not started again.
    pub(super) stopped: bool,
    /// Which incarnation it is of: an index into the world's list.
    pub(super) incarnation: usize,
    pub(super) durable: DurableLog,
    pub(super) paused_until: u64,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    /// How long its disk takes.
    pub(super) disk_rng: Rng,
    /// Syncs of the log begin but do not end while this is set.
    pub(super) hold_sync: bool,
    /// The applier's jobs do not end while this is set.
    pub(super) hold_apply: bool,
    /// Free space, once somebody has looked.
    pub(super) space: Option<u64>,
    /// Slow disk: sync latencies are multiplied.
    pub(super) slow: u64,
    /// The newest version that its binary knows.
    pub(super) knows: u32,
    /// It has stopped because its binary does not know this version.
    pub(super) outdated: Option<u32>,
}

/// A running process.
pub(super) struct Process {
    pub(super) last_tick: u64,
    pub(super) consensus: Consensus,
    pub(super) status: Arc<Status>,
    pub(super) machine: Machine,
    pub(super) reader: Arc<dyn StateReader>,
    /// As a node keeps them: read at the start and at an install, followed change by change else.
    pub(super) records: Arc<Records>,
    pub(super) log: Box<dyn LogWriter>,
    pub(super) log_reader: Arc<dyn LogReader>,
    pub(super) staging: Arc<dyn Staging>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) to_write: VecDeque<(u64, LogBatch)>,
    pub(super) writing: Vec<(u64, LogBatch)>,
    pub(super) to_apply: VecDeque<Job>,
    pub(super) applying: bool,
    pub(super) views: BTreeMap<u64, Arc<dyn StateRead>>,
    pub(super) next_view: u64,
    /// Who waits, and the manager that forwarded it here.
    pub(super) tickets: BTreeMap<Ticket, Option<RaftId>>,
    pub(super) connected: BTreeSet<RaftId>,
    /// A received snapshot waits to be installed or discarded.
    pub(super) staged: bool,
    /// Every manager it knows was asked for its lineage.
    pub(super) asked: bool,
    /// What it was shown of a newer incarnation and does not believe yet.
    pub(super) claim: Option<Claim>,
    pub(super) hub: Hub,
    /// Watches whose tasks are to look.
    pub(super) woken: BTreeSet<WatchId>,
}

/// The applier's work.
pub(super) enum Job {
    Apply { entries: Vec<Committed>, waiters: Vec<(LogIndex, Vec<Ticket>)> },
    Install { staged: StagedId, reset: LogReset },
    Build,
}

impl Member {
    pub(super) fn new(node: u64, id: RaftId, seed: u64, drift: i64) -> Self {
        Self {
            node,
            disk: MemoryStore::new(),
            boot: 0,
            process: None,
            retired: false,
            stopped: false,
            incarnation: 0,
            durable: DurableLog::default(),
            paused_until: 0,
            clock: Clock { true_base: 0, local_base: 0, ppm: drift },
            rng: Rng::stream(seed, 1000 + id.0),
            disk_rng: Rng::stream(seed, 2_000_000 + id.0),
            hold_sync: false,
            hold_apply: false,
            space: None,
            slow: 1,
            knows: quorate_core::command::COMMAND_VERSION,
            outdated: None,
        }
    }

    /// How much of the first lost batch a power cut now leaves on the disk, in parts of 1,000: it hangs on nothing but who it is,
    /// and how often it was started.
    pub(super) fn torn_share(&self, torn: bool, seed: u64) -> u64 {
        let mut rng = Rng::stream(seed, (21 << 56) ^ (self.node << 32) ^ self.boot);
        if torn && rng.chance(600) { rng.between(1, 999) } else { 0 }
    }

    /// This member's monotonic clock at the true time `now`.
    pub(super) fn clock(&self, now: u64) -> u64 {
        self.clock.at(now)
    }

    /// True length of this member's tick.
    pub(super) fn tick(&self) -> u64 {
        let asked = self.process.as_ref().map_or(super::config::TICK, |process| process.consensus.tick_nanos());
        let length = i128::from(asked) * 1_000_000 / i128::from(1_000_000 + self.clock.ppm);
        u64::try_from(length).unwrap_or(asked)
    }
}

/// A monotonic clock: it drifts and jumps, and never goes back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    true_base: u64,
    local_base: u64,
    /// Parts per million that it runs too fast.
    ppm: i64,
}

impl Clock {
    pub(super) const fn ppm(&self) -> i64 {
        self.ppm
    }

    fn at(&self, now: u64) -> u64 {
        let since = i128::from(now.saturating_sub(self.true_base));
        let local = i128::from(self.local_base) + since * i128::from(1_000_000 + self.ppm) / 1_000_000;
        u64::try_from(local).unwrap_or(now)
    }

    /// From `now` on it runs so fast, after a jump forward.
    pub(super) fn change(&mut self, now: u64, ppm: i64, jump: u64) {
        *self = Self { local_base: self.at(now) + jump, true_base: now, ppm };
    }
}
