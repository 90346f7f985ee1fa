//! The state machine: applies committed entries, round by round, each round in one atomic batch.
//!
//! Owns the only way in which replicated state changes; what each command does is in `commands`. Never reads clocks, never decides what is committed, and no
//! outcome depends on how entries were grouped, on restarts or on local compaction. Called by the applier, which owns
//! it; readers use [`Machine::reader`].

mod barrier;
mod commands;
mod orders;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::command::{Batch, COMMAND_VERSION};
use crate::id::{LeaseId, LogIndex, Revision};
use crate::keyring::KeyringRecord;
use crate::log::Configuration;
use crate::mutants::{Mutant, on};
use crate::ports::{LogReset, StagedId, StateRead, StateReader, StateStore, StoreError, StoreResult, WriteSet};
use crate::state::check;
use crate::state::contract::{Applied, ApplyError, Committed, LeaseChange, Outcome, Payload, StateStatus, StoreUsage};
use crate::state::execute::Pending;
use crate::state::hash::Lanes;
use crate::state::layout::{self, Record};
use crate::state::leases::{Attached, Leases};
use crate::state::read;
use crate::state::replay::{Ledger, ReplayTable};
use crate::state::stored::{Progress, StoredConfiguration, StoredRecovery, decode, digest};
use crate::state::usage::{Usage, quota_of};
use crate::watch::Unit;

/// The replicated state machine over a store.
pub struct Machine {
    store: Box<dyn StateStore>,
    memory: Memory,
    /// Set when a store failed under a half-applied round: memory is ahead of the store, nothing may go on.
    stopped: Option<StoreError>,
    salvaged: Applied,
    /// What revisions do to user keys is gathered.
    gathers: bool,
    /// The newest format that is understood here.
    knows: u32,
}

/// What the machine holds in memory, all of it read from the store at open and install.
struct Memory {
    status: StateStatus,
    lanes: Lanes,
    replay: ReplayTable,
    leases: Leases,
    /// The recovery that was begun, or the last one that is done.
    recovery: StoredRecovery,
    /// What the system records add to the hash.
    configuration_lanes: Lanes,
    compact_lanes: Lanes,
    floor_lanes: Lanes,
    recovery_lanes: Lanes,
    usage: Usage,
    usage_lanes: Lanes,
    keyring: KeyringRecord,
    keyring_lanes: Lanes,
    /// What the store may hold, by the cluster's record.
    quota: u64,
    /// The cluster version, by the same.
    version: u32,
    /// The digest after each of the newest revisions, ascending.
    hashes: VecDeque<(Revision, [u8; 32])>,
    revision_hash: [u8; 32],
}

/// A round at work.
#[derive(Default)]
struct Round {
    overlay: Pending,
    writes: WriteSet,
    outcomes: Vec<(LogIndex, Vec<Outcome>)>,
    records_changed: bool,
    /// The keyring is to be written.
    keyring_changed: bool,
    changed: Vec<Bytes>,
    /// The revisions that the round made, ascending, with the bytes of history before each.
    made: Vec<(u64, u64)>,
    attached: Attached,
    leases: Vec<LeaseChange>,
    gathers: bool,
    units: Vec<Arc<Unit>>,
    recovered: bool,
    /// Bytes of the records that came and went since the last commit.
    bytes: usize,
    /// Of these, by the entry at work.
    entry_bytes: usize,
}

/// Bytes of records that came and went after which what was applied is committed before the next entry: an entry may
/// remove far more than it carries.
const ROUND_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Machine {
    /// Opens the state in a store. An empty store is one that waits for a snapshot: its applied index is 0.
    ///
    /// # Errors
    /// `Store` when the store fails or holds what cannot be read; `ClusterNeedsVersion` when it is of a cluster that has gone
    /// on to a version which this build does not know.
    pub fn open(store: Box<dyn StateStore>) -> Result<Self, ApplyError> {
        Self::open_knowing(store, COMMAND_VERSION)
    }

    /// As [`Machine::open`], for a member that understands formats up to `knows` only: so a simulated cluster is of several
    /// builds at once.
    ///
    /// # Errors
    /// As [`Machine::open`].
    pub fn open_knowing(store: Box<dyn StateStore>, knows: u32) -> Result<Self, ApplyError> {
        let mut memory = Memory::load(&*store)?;
        memory.check_version(knows)?;
        if on(Mutant::AppliedForgotten) && memory.status.applied.0 > 1 {
            memory.status.applied = memory.status.applied.prev();
        }
        let salvaged = memory.applied(Round::default());
        Ok(Self { store, memory, stopped: None, salvaged, gathers: false, knows })
    }

    /// Where the state stands.
    pub const fn status(&self) -> &StateStatus {
        &self.memory.status
    }

    /// Every lease with its time to live in milliseconds, ascending.
    pub fn leases(&self) -> Vec<(LeaseId, u64)> {
        self.memory.leases.iter().collect()
    }

    /// How much the state holds.
    pub const fn usage(&self) -> StoreUsage {
        let Usage { live, history, compacted, full } = self.memory.usage;
        StoreUsage { live, history: history.saturating_sub(compacted), quota: self.memory.quota, full }
    }

    /// For readers on other threads: everything applied in whole rounds.
    pub fn reader(&self) -> Arc<dyn StateReader> {
        self.store.reader()
    }

    /// Whether rounds from now on gather what they do to user keys ([`Applied::units`]): only while somebody watches.
    pub const fn gather(&mut self, gathers: bool) {
        self.gathers = gathers;
    }

    /// Applies a round of committed entries in one atomic batch, later commands seeing the earlier ones. A round that
    /// changes very many bytes is committed in parts, of whole entries each.
    ///
    /// # Errors
    /// - `NeedsVersion`, `ClusterNeedsVersion`, `Broken`: the entry named (of `ClusterNeedsVersion` the first one after the
    ///   upgrade was finished) did nothing, and every entry before it is applied and committed; the applied index stands
    ///   right before it. [`Machine::salvage`] has the outcomes of those entries.
    /// - `Store`: final. Nothing of the round counts, and the machine answers so from now on.
    pub fn apply(&mut self, entries: &[Committed]) -> Result<Applied, ApplyError> {
        if let Some(error) = &self.stopped {
            return Err(StoreError::Poisoned(error.to_string()).into());
        }
        let mut round = Round { gathers: self.gathers, ..Round::default() };
        let mut committed = self.memory.status.applied;
        let mut refused = None;
        for entry in entries {
            match self.memory.apply_entry(&*self.store, entry, self.knows, &mut round) {
                Ok(()) if round.bytes > ROUND_BYTES_MAX => {
                    round.bytes = 0;
                    committed = self.memory.status.applied;
                    let writes = self.memory.flush(&mut round);
                    if let Err(error) = self.store.commit(writes) {
                        return Err(self.stop(error));
                    }
                }
                Ok(()) => {}
                Err(ApplyError::Store(error)) => return Err(self.stop(error)),
                Err(other) => {
                    refused = Some(other);
                    break;
                }
            }
        }
        if self.memory.status.applied > committed {
            let mut writes = self.memory.flush(&mut round);
            if on(Mutant::AppliedApart) {
                let is_progress = |(key, _): &mut (Bytes, Option<Bytes>)| *key == layout::META_PROGRESS;
                let apart = writes.writes.extract_if(.., is_progress).collect();
                let data = std::mem::replace(&mut writes, WriteSet { writes: apart, ..WriteSet::default() });
                if let Err(error) = self.store.commit(data) {
                    return Err(self.stop(error));
                }
            }
            if let Err(error) = self.store.commit(writes) {
                return Err(self.stop(error));
            }
        }
        let applied = self.memory.applied(round);
        match refused {
            None => Ok(applied),
            Some(error) => {
                self.salvaged = applied;
                Err(error)
            }
        }
    }

    /// What the entries before the one that stopped the last round came to; handed out once.
    pub fn salvage(&mut self) -> Applied {
        std::mem::replace(&mut self.salvaged, self.memory.applied(Round::default()))
    }

    /// Replaces state and log by a staged snapshot and reads everything anew. What was prepared for waiters, readers or
    /// comparison before belongs to the old state.
    ///
    /// # Errors
    /// `Store` when the store fails: state and log are then both old or both new, and the machine is final. `Broken`
    /// when the snapshot does not stand where `reset` says, also final; or when it is older than the state, and then
    /// nothing was done.
    pub fn install(&mut self, staged: StagedId, reset: LogReset) -> Result<(), ApplyError> {
        if let Some(error) = &self.stopped {
            return Err(StoreError::Poisoned(error.to_string()).into());
        }
        let applied = self.memory.status.applied;
        if reset.start.index < applied {
            let detail = format!("a snapshot of it would take the state back from {applied}; nothing was installed");
            return Err(ApplyError::Broken { index: reset.start.index, detail });
        }
        let loaded = self.store.install(staged, reset).and_then(|()| Memory::load(&*self.store));
        self.memory = loaded.map_err(|error| self.stop(error))?;
        let StateStatus { applied, applied_term, .. } = self.memory.status;
        if (applied, applied_term) == (reset.start.index, reset.start.term) {
            return Ok(());
        }
        let detail = format!(
            "the snapshot installed stands at index {applied} of term {applied_term}, the log begins after index {} of term {}",
            reset.start.index, reset.start.term
        );
        self.stopped = Some(StoreError::Poisoned(detail.clone()));
        Err(ApplyError::Broken { index: reset.start.index, detail })
    }

    /// The state hash as it was right after the command that made each of the newest revisions, ascending: equal on
    /// every member that knows it. After a restart or an install it begins with the newest revision.
    pub fn hashes(&self) -> impl DoubleEndedIterator<Item = (Revision, [u8; 32])> + '_ {
        self.memory.hashes.iter().copied()
    }

    /// One of [`Machine::hashes`].
    pub fn hash_at(&self, revision: Revision) -> Option<[u8; 32]> {
        let at = self.memory.hashes.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        self.memory.hashes.get(at).map(|(_, hash)| *hash)
    }

    /// How large the replay table is: clients, and its cost as its limit counts it.
    pub fn replay(&self) -> (usize, u64) {
        self.memory.replay.size()
    }

    fn stop(&mut self, error: StoreError) -> ApplyError {
        self.stopped = Some(error.clone());
        error.into()
    }
}

impl Memory {
    fn load(view: &dyn StateRead) -> StoreResult<Self> {
        let status = read::status(view)?;
        let progress = read::progress(view)?;
        let cluster = read::cluster(view)?.unwrap_or_default();
        let lanes_of = |key: &[u8]| -> StoreResult<Lanes> {
            Ok(view.get(key)?.map(|value| Lanes::of(key, &value)).unwrap_or_default())
        };
        let recovery = view.get(layout::SYSTEM_RECOVERY)?.map(|bytes| decode(layout::SYSTEM_RECOVERY, &bytes));
        let mut memory = Self {
            recovery: recovery.transpose()?.unwrap_or_default(),
            recovery_lanes: lanes_of(layout::SYSTEM_RECOVERY)?,
            lanes: Lanes::from_digest(&status.hash),
            replay: ReplayTable::load(view)?,
            leases: Leases::load(view)?,
            configuration_lanes: lanes_of(layout::SYSTEM_CONFIGURATION)?,
            compact_lanes: lanes_of(layout::SYSTEM_COMPACT)?,
            floor_lanes: lanes_of(layout::SYSTEM_FLOOR)?,
            usage: Usage::load(view)?,
            usage_lanes: lanes_of(layout::SYSTEM_USAGE)?,
            keyring: read::keyring(view)?,
            keyring_lanes: lanes_of(layout::SYSTEM_KEYRING)?,
            quota: quota_of(&cluster),
            version: cluster.version,
            hashes: VecDeque::new(),
            revision_hash: [0; 32],
            status,
        };
        if let Some(progress) = progress
            && progress.revision > 0
        {
            memory.revision_hash = digest(layout::META_PROGRESS, &progress.revision_hash)?;
            memory.hashes.push_back((memory.status.revision, memory.revision_hash));
        }
        Ok(memory)
    }

    fn applied(&self, round: Round) -> Applied {
        Applied {
            index: self.status.applied,
            revision: self.status.revision,
            outcomes: round.outcomes,
            records_changed: round.records_changed,
            changed: round.changed,
            leases: round.leases,
            units: round.units,
            recovered: round.recovered,
        }
    }

    /// Whether a member that understands formats up to `knows` may apply anything in a cluster of this version.
    fn check_version(&self, knows: u32) -> Result<(), ApplyError> {
        if self.version > knows && !on(Mutant::UnknownSkipped) {
            return Err(ApplyError::ClusterNeedsVersion { needed: self.version, known: knows });
        }
        Ok(())
    }

    /// Applies one entry, or finds before anything is touched that it cannot be.
    fn apply_entry(
        &mut self,
        store: &dyn StateRead,
        entry: &Committed,
        knows: u32,
        round: &mut Round,
    ) -> Result<(), ApplyError> {
        let broken = |detail: String| ApplyError::Broken { index: entry.index, detail };
        let StateStatus { applied, applied_term, configuration_number, .. } = self.status;
        if entry.index != applied.next() {
            return Err(broken(format!("it does not follow the applied index {applied}")));
        }
        if entry.term < applied_term {
            return Err(broken(format!("its term {} is below the applied term {applied_term}", entry.term)));
        }
        match &entry.payload {
            Payload::Empty => self.check_version(knows)?,
            Payload::Configuration { result, number } => {
                self.check_version(knows)?;
                if *number < configuration_number {
                    return Err(broken(format!(
                        "its configuration number {number} is below the one in force, {configuration_number}"
                    )));
                }
                self.configure(result.as_ref(), *number, round);
            }
            Payload::Commands { data, wanted } => {
                let batch =
                    Batch::decode(data.clone()).map_err(|error| broken(format!("no batch of commands: {error}")))?;
                let needed = batch.needs(knows);
                if needed > knows && on(Mutant::UnknownSkipped) {
                    self.status.applied = entry.index;
                    self.status.applied_term = entry.term;
                    return Ok(());
                }
                if needed > knows {
                    return Err(ApplyError::NeedsVersion { index: entry.index, needed, known: knows });
                }
                self.check_version(knows)?;
                round.entry_bytes = 0;
                let mut outcomes = Vec::with_capacity(if *wanted { batch.commands.len() } else { 0 });
                for command in batch.commands {
                    let Some(kind) = command.kind else { continue };
                    let outcome = self.apply_command(store, entry, kind, round)?;
                    if *wanted {
                        outcomes.push(outcome);
                    }
                }
                let mut ledger = Ledger { lanes: &mut self.lanes, writes: &mut round.writes };
                self.replay.close_page(entry.index, &mut ledger);
                if *wanted {
                    round.outcomes.push((entry.index, outcomes));
                }
            }
        }
        self.status.applied = entry.index;
        self.status.applied_term = entry.term;
        Ok(())
    }

    fn configure(&mut self, result: Option<&Configuration>, number: u64, round: &mut Round) {
        if let Some(configuration) = result {
            self.status.configuration = configuration.clone().sorted();
        } else if number == self.status.configuration_number {
            return;
        }
        self.status.configuration_number = number;
        let record = StoredConfiguration::new(&self.status.configuration, number).encode_to_vec().into();
        replace(&mut self.lanes, &mut self.configuration_lanes, layout::SYSTEM_CONFIGURATION, record, round);
        round.records_changed = true;
    }

    /// Closes the round: everything it wrote, each live record and client once, and where it leaves the member.
    fn flush(&mut self, round: &mut Round) -> WriteSet {
        let mut writes = std::mem::take(&mut round.writes);
        for (stored, record) in std::mem::take(&mut round.overlay) {
            writes.writes.push((stored, record.as_ref().map(Record::raw).cloned()));
        }
        self.replay.flush(&mut writes);
        if self.usage_lanes != Lanes::default() {
            writes.put(layout::SYSTEM_USAGE, self.usage.stored().0);
        }
        if std::mem::take(&mut round.keyring_changed) {
            writes.put(layout::SYSTEM_KEYRING, self.keyring.encode_to_vec());
        }
        self.leases.flush(std::mem::take(&mut round.attached), &mut writes);
        self.status.hash = self.lanes.digest();
        let progress = Progress {
            applied: self.status.applied.0,
            applied_term: self.status.applied_term.0,
            revision: self.status.revision.0,
            hash: Bytes::copy_from_slice(&self.status.hash),
            revision_hash: Bytes::copy_from_slice(&self.revision_hash),
        };
        writes.put(layout::META_PROGRESS, progress.encode_to_vec());
        writes
    }
}

fn malformed(what: &str) -> Outcome {
    Outcome::Refused(check::malformed(what))
}

/// Replaces a system record, in the hash and in the store.
fn replace(lanes: &mut Lanes, part: &mut Lanes, key: &'static [u8], record: Bytes, round: &mut Round) {
    lanes.remove(*part);
    *part = Lanes::of(key, &record);
    lanes.add(*part);
    round.writes.put(key, record);
}
