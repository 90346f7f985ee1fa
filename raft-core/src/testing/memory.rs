//! A store in memory that forgets what was not synced when it crashes.
//!
//! Owns ONE journal of batches over a durable image, the very model that the ports promise: reads see every batch at
//! once; a sync makes the journal so far durable; a crash keeps a prefix of the batches written since the last sync,
//! and its caller says how long that prefix is, from its seed. The batch after it may be torn: its first part is on the disk, and
//! the next opening must find that it is not whole. Also the faults a disk has: a write or a sync that fails, a bit that turns. Never draws a number, reads a clock or looks at a hash order, so a run repeats exactly. Called by
//! the simulator, by in-process test clusters and by the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::id::LogIndex;
use crate::log::LogEntry;
use crate::mutants::{Mutant, on};
use crate::ports::{
    Boot, LogBatch, LogReader, LogReset, LogWriter, MetaStore, OpenStore, RecoveryWrite, StagedId, StagedSnapshot,
    Staging, StateRead, StateReader, StateStore, StoreError, StoreResult, Visit, WriteSet,
};

mod disk;
mod faults;

use disk::{Batch, Disk, State, check_reset};

/// How an injected fault looks to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device refuses.
    Io,
    /// No space is left.
    Full,
}

impl Fault {
    fn error(self, doing: &'static str) -> StoreError {
        let detail = "injected fault".to_owned();
        match self {
            Self::Io => StoreError::Io { doing, detail },
            Self::Full => StoreError::Full { doing, detail },
        }
    }
}

/// The disk of one simulated node: clones are handles to the same disk.
///
/// ```
/// use quorate_core::ports::WriteSet;
/// use quorate_core::testing::MemoryStore;
///
/// let disk = MemoryStore::new();
/// let mut open = disk.open()?;
/// let mut writes = WriteSet::default();
/// writes.put(&b"key"[..], &b"value"[..]);
/// open.state.commit(writes)?;
/// assert_eq!(disk.unsynced(), 1);
/// disk.crash(0); // the power goes before anything was synced
/// assert_eq!(disk.open()?.state.get(b"key")?, None);
/// # Ok::<(), quorate_core::ports::StoreError>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let disk = lock(&self.disk);
        f.debug_struct("MemoryStore")
            .field("opening", &disk.opening)
            .field("unsynced", &disk.unsynced.len())
            .field("last", &disk.current.last())
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the store as a starting node does. Every handle of an earlier opening is dead from now on: what a killed
    /// node left running gets `Poisoned` and can write nothing.
    ///
    /// # Errors
    /// `Corrupt` when a record of the log was damaged.
    pub fn open(&self) -> StoreResult<OpenStore> {
        let mut disk = lock(&self.disk);
        disk.begin_opening();
        let repaired = disk.cut_torn();
        if let Some(index) = disk.first_rotten() {
            if !on(Mutant::RotIsATear) {
                return Err(damaged(format!("log entry {index}")));
            }
            disk.cut_from(index);
        }
        let boot = Boot { repaired, ..disk.current.boot() };
        let handle = Handle { disk: Arc::clone(&self.disk), opening: disk.opening };
        Ok(OpenStore {
            boot,
            log: Box::new(handle.clone()),
            log_reader: Arc::new(handle.clone()),
            state: Box::new(handle.clone()),
            staging: Arc::new(handle.clone()),
            meta: Arc::new(handle),
        })
    }

    /// Index and term of every entry of the log, ascending, as reads see them: what an observer needs of a log that it does not
    /// look into.
    #[must_use]
    pub fn log_terms(&self) -> Vec<(u64, u64)> {
        lock(&self.disk).current.log.iter().map(|(index, entry)| (*index, entry.term.0)).collect()
    }

    /// Batches written since the last sync: what a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        lock(&self.disk).unsynced.len()
    }

    /// Syncs of the log asked for so far, over all openings.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        lock(&self.disk).log_syncs
    }

    /// Syncs of every kind so far: log, facts, founding, snapshots.
    #[must_use]
    pub fn all_syncs(&self) -> u64 {
        lock(&self.disk).all_syncs
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged(record: String) -> StoreError {
    StoreError::Corrupt { record, detail: "the checksum does not fit the bytes read".to_owned() }
}

fn printed(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

/// One opening's handle; all ports of the memory store are this.
#[derive(Clone)]
struct Handle {
    disk: Arc<Mutex<Disk>>,
    opening: u64,
}

impl Handle {
    /// The disk, as long as this opening is the current one and nothing failed.
    fn alive(&self) -> StoreResult<MutexGuard<'_, Disk>> {
        self.alive_but_for(|_disk| false)
    }

    /// The same for the facts, which are told of damage.
    fn takes_facts(&self) -> StoreResult<MutexGuard<'_, Disk>> {
        self.alive_but_for(|disk| !disk.failed)
    }

    fn alive_but_for(&self, bearable: impl FnOnce(&Disk) -> bool) -> StoreResult<MutexGuard<'_, Disk>> {
        let disk = lock(&self.disk);
        if disk.opening != self.opening {
            return Err(StoreError::Poisoned(
                "the store was opened again after a crash; this handle is of before".to_owned(),
            ));
        }
        if let Some(why) = &disk.poisoned
            && !bearable(&disk)
        {
            return Err(StoreError::Poisoned(why.clone()));
        }
        Ok(disk)
    }

    fn frozen(&self) -> StoreResult<View> {
        let state = Arc::clone(&self.alive()?.current.state);
        Ok(View { handle: self.clone(), state })
    }
}

impl LogWriter for Handle {
    fn write(&mut self, group: &[LogBatch], sync: bool) -> StoreResult<()> {
        let mut disk = self.alive()?;
        if let Err(error) = disk.check_group(group) {
            return disk.poison(error);
        }
        if !group.is_empty() {
            disk.write("writing to the log", Batch::Log(group.to_vec()))?;
        }
        if sync {
            disk.log_syncs += 1;
            disk.sync("syncing the log")?;
        }
        Ok(())
    }
}

impl LogReader for Handle {
    fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> StoreResult<Vec<LogEntry>> {
        let disk = self.alive()?;
        if from >= to {
            return Ok(Vec::new());
        }
        if !disk.current.log.contains_key(&from.0) {
            return Err(StoreError::NotFound { index: from });
        }
        let mut found = Vec::new();
        let mut bytes = 0_u64;
        for (index, entry) in disk.current.log.range(from.0..to.0) {
            if disk.rotten_log.contains(index) {
                return Err(damaged(format!("log entry {index}")));
            }
            bytes = bytes.saturating_add((entry.data.len() + entry.context.len()) as u64);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }
}

/// A frozen view: it shares the map until the next commit copies it.
struct View {
    handle: Handle,
    state: State,
}

impl View {
    /// Whether the store lives, and which of the keys in it cannot be read.
    fn rotten(&self) -> StoreResult<BTreeSet<Bytes>> {
        Ok(self.handle.alive()?.rotten_state.clone())
    }
}

impl StateRead for View {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        let value = self.state.get(key);
        if self.rotten()?.contains(key) && value.is_some() {
            return Err(damaged(format!("state key `{}`", printed(key))));
        }
        Ok(value.cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        let rotten = self.rotten()?;
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        for (key, value) in self.state.range::<[u8], _>((Bound::Included(from), end)) {
            if rotten.contains(key) {
                return Err(damaged(format!("state key `{}`", printed(key))));
            }
            if visit(key, value) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }
}

/// The view of a store that cannot be read any more.
struct Dead(StoreError);

impl StateRead for Dead {
    fn get(&self, _: &[u8]) -> StoreResult<Option<Bytes>> {
        Err(self.0.clone())
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        Err(self.0.clone())
    }
}

impl StateRead for Handle {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        self.frozen()?.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        self.frozen()?.scan(from, to, visit)
    }
}

impl StateReader for Handle {
    fn view(&self) -> Arc<dyn StateRead> {
        match self.frozen() {
            Ok(view) => Arc::new(view),
            Err(error) => Arc::new(Dead(error)),
        }
    }
}

impl StateStore for Handle {
    fn commit(&mut self, writes: WriteSet) -> StoreResult<()> {
        self.alive()?.write("writing the state", Batch::Commit(writes))
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }

    fn install(&mut self, staged: StagedId, reset: LogReset) -> StoreResult<()> {
        let mut disk = self.alive()?;
        check_reset(reset)?;
        let Some(state) = disk.staged.remove(&staged.0) else {
            return Err(StoreError::Corrupt {
                record: format!("staged snapshot {}", staged.0),
                detail: "it was discarded, replaced by a later one, or installed before".to_owned(),
            });
        };
        disk.write_synced("installing a snapshot", Batch::Replace { state, reset })
    }

    fn found(&mut self, writes: WriteSet, reset: LogReset) -> StoreResult<()> {
        let mut disk = self.alive()?;
        check_reset(reset)?;
        if !disk.current.is_empty() {
            return Err(StoreError::Corrupt {
                record: "store".to_owned(),
                detail: "it already holds a log or state, and only an empty one can be founded; nothing was changed"
                    .to_owned(),
            });
        }
        disk.write_synced("founding the store", Batch::Found { writes, reset })
    }

    fn recover(&mut self, recovery: RecoveryWrite) -> StoreResult<()> {
        let mut disk = self.alive()?;
        if let Err(error) = disk.check_group(std::slice::from_ref(&recovery.log)) {
            return disk.poison(error);
        }
        disk.write_synced("recovering the store", Batch::Recover(recovery))
    }
}

impl MetaStore for Handle {
    fn get(&self, name: &str) -> StoreResult<Option<Bytes>> {
        Ok(self.takes_facts()?.current.facts.get(name).cloned())
    }

    fn put(&self, facts: &[(&str, Bytes)]) -> StoreResult<()> {
        let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.takes_facts()?.write_synced("writing facts about the node", Batch::Facts(facts))
    }

    /// A memory store is gone with the process: no other binary ever opens it.
    fn require(&self, _version: u32) -> StoreResult<()> {
        self.alive().map(|_disk| ())
    }
}

impl Staging for Handle {
    fn begin(&self) -> StoreResult<Box<dyn StagedSnapshot>> {
        let mut disk = self.alive()?;
        disk.staged.clear();
        disk.last_staged += 1;
        Ok(Box::new(Receiving { handle: self.clone(), id: disk.last_staged, records: BTreeMap::new() }))
    }

    fn discard(&self, staged: StagedId) -> StoreResult<()> {
        self.alive()?.staged.remove(&staged.0);
        Ok(())
    }
}

/// A snapshot while its records come in.
struct Receiving {
    handle: Handle,
    id: u64,
    records: BTreeMap<Bytes, Bytes>,
}

impl Receiving {
    /// The disk, as long as no later snapshot was begun.
    fn current(handle: &Handle, id: u64) -> StoreResult<MutexGuard<'_, Disk>> {
        let disk = handle.alive()?;
        if disk.last_staged != id {
            return Err(StoreError::Corrupt {
                record: format!("staged snapshot {id}"),
                detail: "a later one was begun, which forgets it".to_owned(),
            });
        }
        Ok(disk)
    }
}

impl StagedSnapshot for Receiving {
    fn write(&mut self, records: &[(Bytes, Bytes)]) -> StoreResult<()> {
        let mut disk = Self::current(&self.handle, self.id)?;
        if let Some(fault) = disk.fail_write.take() {
            return disk.poison(fault.error("writing a received snapshot"));
        }
        for (key, value) in records {
            if let Some((last, _)) = self.records.last_key_value()
                && last >= key
            {
                return Err(StoreError::Corrupt {
                    record: format!("snapshot record `{}`", printed(key)),
                    detail: format!("it does not come after `{}`", printed(last)),
                });
            }
            self.records.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> StoreResult<StagedId> {
        let Self { handle, id, records } = *self;
        let mut disk = Self::current(&handle, id)?;
        disk.sync("syncing a received snapshot")?;
        disk.staged.insert(id, Arc::new(records));
        Ok(StagedId(id))
    }
}

#[cfg(test)]
mod tests;
