//! The ports: what the core needs of a disk, as traits.
//!
//! Owns the contract between the deciding code and a store. Log and state are ONE journal: a crash leaves a prefix
//! of all batches in the order they were written, ending at or after the last sync. The memory store
//! ([`crate::testing`]) models exactly that; `quorate-storage` keeps it with one RocksDB and one WAL; one conformance
//! suite runs on both. Nothing here is async: the owner of a port calls it on a thread that may block.
//!
//! Who holds what: the *log writer* holds [`LogWriter`], the *applier* holds [`StateStore`], readers hold
//! [`StateReader`] and [`LogReader`], the receiver of a snapshot holds [`Staging`].

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{LogIndex, Term};
use crate::log::{HardState, LogEntry, LogStart};

/// Why a store could not do what it was asked.
///
/// Every variant but `NotFound` is final for the store (design section 4, rule 4): the node stops acknowledging and
/// stops; it never retries a failed sync, because the kernel forgets the failure and the second one lies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk refused a read, a write or a sync.
    #[error("{doing} failed: {detail}")]
    Io {
        /// What was being done, in words.
        doing: &'static str,
        /// What the system said.
        detail: String,
    },
    /// No space is left on the device.
    #[error("{doing} failed, no space left on the device: {detail}")]
    Full {
        /// What was being done, in words.
        doing: &'static str,
        /// What the system said.
        detail: String,
    },
    /// A record is not what was written.
    #[error("damaged record {record}: {detail}")]
    Corrupt {
        /// Which record.
        record: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store was written by a newer quorate.
    #[error("the store has format {found}, this binary reads up to {supported}")]
    FormatTooNew {
        /// The format found.
        found: u32,
        /// The newest format this binary knows.
        supported: u32,
    },
    /// The store is of a cluster whose upgrade beyond what this binary knows was finished.
    #[error("the store needs version {needed}, this binary knows versions up to {supported}")]
    NeedsVersion {
        /// The version that was enabled.
        needed: u32,
        /// The newest that this binary supports.
        supported: u32,
    },
    /// The store has a layout from before any release.
    #[error(
        "the store has format {found}, this binary reads format {supported}: no release ever wrote the older one. Nothing was \
         changed; export what it holds with the quorate that wrote it, and make the node \
         anew in another directory"
    )]
    FormatTooOld {
        /// The format found.
        found: u32,
        /// The oldest format this binary knows.
        supported: u32,
    },
    /// The store is sealed, and the key that opens it was not given. Nothing was changed.
    #[error("the store is sealed with {wanted}: {found}")]
    KeyWanted {
        /// Which key, in words; no secret in it.
        wanted: String,
        /// What was given instead, in words.
        found: String,
    },
    /// Another process has the store open.
    #[error("the store is in use by another process{}", holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The other process, when it could be told.
        holder: Option<u32>,
    },
    /// A log entry that was asked for is not there: it was cut.
    #[error("log entry {index} is not in the store")]
    NotFound {
        /// The entry.
        index: LogIndex,
    },
    /// An earlier failure made this store final.
    #[error("the store stopped after an earlier failure: {0}")]
    Poisoned(String),
}

/// What a store says.
pub type StoreResult<T> = Result<T, StoreError>;

/// What one Ready wants on disk. Entries replace everything at or above the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogBatch {
    /// Contiguous entries; all old entries from the first of these on disappear in the same batch.
    pub entries: Vec<LogEntry>,
    /// The new hard state; never written before its entries.
    pub hard_state: Option<HardState>,
    /// Forget the log up to and including this position. Never above the applied index reported.
    pub cut: Option<LogStart>,
}

/// The synced half of the journal; held by the log writer alone.
pub trait LogWriter: Send {
    /// Writes a group of batches in order as one atomic write. With `sync` it returns only when they, and everything
    /// written to this journal before them by anybody, are durable.
    ///
    /// # Errors
    /// Final, see [`StoreError`]. Nothing of the group may be acknowledged.
    fn write(&mut self, group: &[LogBatch], sync: bool) -> StoreResult<()>;
}

/// Reads of old log entries, off the consensus thread.
pub trait LogReader: Send + Sync {
    /// Entries `from..to` (at least one, at most about `max_bytes` of payload).
    ///
    /// # Errors
    /// `NotFound` when `from` is not in the log any more; else final.
    fn entries(&self, from: LogIndex, to: LogIndex, max_bytes: u64) -> StoreResult<Vec<LogEntry>>;
}

/// What a visitor wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// Go on.
    More,
    /// Stop here, successfully.
    Enough,
}

/// Ordered read access to state: keys and values are bytes, order is that of the keys.
pub trait StateRead: Send + Sync {
    /// The value at `key`.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>>;

    /// Visits `from..to` in ascending order of keys (`to` excluded; empty `to` is the end of the keyspace).
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()>;
}

/// Hands out views of the state that do not change while they are held.
pub trait StateReader: Send + Sync {
    /// A view of everything committed so far, frozen; cheap to make, and to be dropped soon.
    fn view(&self) -> Arc<dyn StateRead>;
}

/// Changes of one apply round: later writes of a key win. `None` deletes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteSet {
    /// Whole ranges that are removed first, the end excluded, each of them not empty.
    pub ranges: Vec<(Bytes, Bytes)>,
    /// The changes in order.
    pub writes: Vec<(Bytes, Option<Bytes>)>,
}

impl WriteSet {
    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push((key.into(), None));
    }

    /// Removes everything in `from..to`, also what this set wrote there before; what it writes there from now on stays.
    pub fn delete_range(&mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        let (from, to) = (from.into(), to.into());
        if from < to {
            self.writes.retain(|(key, _)| *key < from || *key >= to);
            self.ranges.push((from, to));
        }
    }
}

/// Names a complete, verified, synced snapshot that waits aside for its installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StagedId(pub u64);

/// Where the log begins and what is remembered after the state was replaced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogReset {
    /// The last position that the new state contains; the log after it is empty.
    pub start: LogStart,
    /// The hard state that goes with it.
    pub hard_state: HardState,
}

/// What a force-new-cluster writes (design section 6, point 2): all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoveryWrite {
    /// The state's records that change.
    pub state: WriteSet,
    /// The entry behind the log's last one, and the hard state that goes with it.
    pub log: LogBatch,
    /// Facts about the node.
    pub facts: Vec<(String, Bytes)>,
}

/// The unsynced half of the journal; held by the applier alone. Reads see every committed write.
pub trait StateStore: StateRead {
    /// Writes all changes as one atomic batch, not synced: the log makes it reproducible.
    ///
    /// # Errors
    /// Final, see [`StoreError`]; nothing of the set is visible then.
    fn commit(&mut self, writes: WriteSet) -> StoreResult<()>;

    /// For readers on other threads.
    fn reader(&self) -> Arc<dyn StateReader>;

    /// Replaces the whole state by a staged snapshot and the whole log by an empty one at `reset`, in ONE synced batch.
    /// The caller has made sure that the log writer is idle.
    ///
    /// # Errors
    /// Final, see [`StoreError`]: afterwards either everything is old or everything is new.
    fn install(&mut self, staged: StagedId, reset: LogReset) -> StoreResult<()>;

    /// Founds a store: first state and log start in ONE synced batch. Only on an empty store.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn found(&mut self, writes: WriteSet, reset: LogReset) -> StoreResult<()>;

    /// Writes log, state and facts of a recovery in ONE synced batch. The caller has made sure that the log writer is idle.
    ///
    /// # Errors
    /// Final, see [`StoreError`]: afterwards either everything is old or everything is new.
    fn recover(&mut self, recovery: RecoveryWrite) -> StoreResult<()>;
}

/// One snapshot being received; dropping it forgets what was written.
pub trait StagedSnapshot: Send {
    /// Writes records aside, in ascending order of keys.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn write(&mut self, records: &[(Bytes, Bytes)]) -> StoreResult<()>;

    /// Makes everything durable and returns the name under which it can be installed.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn finish(self: Box<Self>) -> StoreResult<StagedId>;
}

/// Where received snapshots wait.
pub trait Staging: Send + Sync {
    /// Starts one; an earlier one that was not installed is forgotten.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn begin(&self) -> StoreResult<Box<dyn StagedSnapshot>>;

    /// Forgets a finished one that will not be installed.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn discard(&self, staged: StagedId) -> StoreResult<()>;
}

/// What a store holds when it is opened, checked for contradictions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Boot {
    /// The hard state on disk.
    pub hard_state: HardState,
    /// Where the log begins.
    pub start: LogStart,
    /// Index of the last entry; `start.index` when the log is empty.
    pub last: LogIndex,
    /// Where each run of equal terms begins, ascending, entries after `start` only.
    pub terms: Vec<(LogIndex, Term)>,
    /// What was mended while opening, in words: a torn tail after a power cut.
    pub repaired: Option<String>,
}

/// An open store: all its ports at once. Taking it apart gives each owner its own.
pub struct OpenStore {
    /// What is on disk.
    pub boot: Boot,
    /// For the log writer.
    pub log: Box<dyn LogWriter>,
    /// For fetching old entries.
    pub log_reader: Arc<dyn LogReader>,
    /// For the applier.
    pub state: Box<dyn StateStore>,
    /// For received snapshots.
    pub staging: Arc<dyn Staging>,
    /// For small facts about the node, each write synced.
    pub meta: Arc<dyn MetaStore>,
}

/// Small named facts about this node that are not replicated: identity, fence record. Every write is synced. A store that is
/// final because a record of it is damaged still takes facts, that it is among them; after a write has failed it takes nothing.
pub trait MetaStore: Send + Sync {
    /// The value under `name`.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn get(&self, name: &str) -> StoreResult<Option<Bytes>>;

    /// Sets several names in one synced, atomic write.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn put(&self, facts: &[(&str, Bytes)]) -> StoreResult<()>;

    /// From now on only a binary that knows this version opens the store (`NeedsVersion` tells every other one, before
    /// anything is changed). Lower than before, or the same, does nothing.
    ///
    /// # Errors
    /// Final, see [`StoreError`].
    fn require(&self, version: u32) -> StoreResult<()>;
}
