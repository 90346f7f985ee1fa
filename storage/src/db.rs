//! The open database, shared by all ports of one store.
//!
//! Owns the RocksDB handle, the lock of the directory, the poison flag and the one way to write: a batch goes to the
//! journal under [`Journal`]'s lock, so that the sequence number after a sync is exactly what became durable. Any failure
//! of a write or a sync, and any damaged record, makes the store final: nothing is retried, and RocksDB is never resumed. Only of
//! damage, on a disk that still writes, the facts may tell.
//! Never knows what a record means. Called by the ports' modules.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use quorate_core::id::LogIndex;
use quorate_core::ports::{StoreError, StoreResult};
use rocksdb::{ColumnFamily, DB, DBRawIterator, ReadOptions, Snapshot, WriteBatch};

use crate::envelope;
use crate::error::rocks_error;
use crate::families::{Family, Probe, WITNESS, meta_key, write_options};
use crate::head::{FactTable, Head, Serials};
use crate::keyring::{Keyring, Sealer};
use crate::log::Shape;
use crate::marker::{Marker, Synced};

/// Gets key and payload of one record after the other, and says whether to go on.
pub(crate) type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> StoreResult<bool> + 'a;

/// What is only touched while writing.
pub(crate) struct Journal {
    /// None where the store was opened to be read only.
    pub(crate) marker: Option<Marker>,
    /// What the log looks like after the last write.
    pub(crate) shape: Shape,
    /// The last batches.
    pub(crate) serials: Serials,
    /// The state family in force; none in a store that was never founded.
    pub(crate) founded: Option<Family>,
}

/// What a batch changes besides the records in it.
#[derive(Debug)]
pub(crate) enum Touch {
    /// The log or the hard state, which is this afterwards.
    Log(Shape),
    /// The facts.
    Facts,
    /// The state in this family.
    State(Family),
    /// Log and state, which is in force in this family afterwards.
    Both(Family, Shape),
    /// Only what is not in force.
    Aside,
}

/// One open store.
pub(crate) struct Store {
    db: DB,
    /// Seals what is written and opens what is read.
    pub(crate) keys: Arc<Keyring>,
    journal: Mutex<Journal>,
    /// The state family in force; held for reading while a view is taken, for writing while an installation switches.
    active: RwLock<Family>,
    /// Index of the last entry before the log, for readers on other threads.
    start: AtomicU64,
    poison: OnceLock<String>,
    /// Set besides, where it was more than a damaged record: the disk is not to be written to any more.
    failed: OnceLock<String>,
    probe: Option<Probe>,
    /// Dropped after the database: who waits for the lock finds it closed.
    _lock: Option<File>,
}

impl Store {
    pub(crate) fn new(
        (db, keys): (DB, Arc<Keyring>),
        journal: Journal,
        active: Family,
        probe: Option<Probe>,
        lock: Option<File>,
    ) -> Arc<Self> {
        let start = AtomicU64::new(journal.shape.start.index.0);
        Arc::new(Self {
            db,
            keys,
            journal: Mutex::new(journal),
            active: RwLock::new(active),
            start,
            poison: OnceLock::new(),
            failed: OnceLock::new(),
            probe,
            _lock: lock,
        })
    }

    /// Refuses everything after the first failure.
    pub(crate) fn alive(&self) -> StoreResult<()> {
        refused(&self.poison)
    }

    /// As [`alive`](Self::alive), for the facts: they are told that a record is damaged, but nothing after a write has failed.
    pub(crate) fn takes_facts(&self) -> StoreResult<()> {
        refused(&self.failed)
    }

    /// Passes `result` on; a failure that is final for the store is remembered.
    pub(crate) fn guard<T>(&self, result: StoreResult<T>) -> StoreResult<T> {
        if let Err(error) = &result
            && !matches!(error, StoreError::NotFound { .. } | StoreError::Poisoned(_))
        {
            if !matches!(error, StoreError::Corrupt { .. }) {
                let _ = self.failed.set(error.to_string());
            }
            if self.poison.set(error.to_string()).is_ok() {
                tracing::error!(%error, "the store stops");
            }
        }
        result
    }

    /// As [`guard`](Self::guard), of a write: whatever RocksDB says of it, there is no other one after it.
    fn written<T>(&self, result: StoreResult<T>) -> StoreResult<T> {
        if let Err(error) = &result {
            let _ = self.failed.set(error.to_string());
        }
        self.guard(result)
    }

    pub(crate) const fn probe(&self) -> Option<&Probe> {
        self.probe.as_ref()
    }

    /// A named point of multi-step work.
    pub(crate) fn reached(&self, point: &'static str) {
        if let Some(probe) = &self.probe {
            probe(point);
        }
    }

    /// The right to write.
    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn active(&self) -> RwLockReadGuard<'_, Family> {
        self.active.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn switching(&self) -> RwLockWriteGuard<'_, Family> {
        self.active.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Index of the last entry before the log.
    pub(crate) fn start(&self) -> LogIndex {
        LogIndex(self.start.load(Ordering::Acquire))
    }

    pub(crate) fn family(&self, family: Family) -> StoreResult<&ColumnFamily> {
        family_of(&self.db, family)
    }

    /// A batch to fill, for [`Store::write`].
    pub(crate) fn batch(&self) -> StoreResult<Batch<'_>> {
        self.batch_of(0, 0)
    }

    /// As [`Store::batch`], for about so many records with so many bytes of keys and payloads: a batch that grows step by step
    /// copies what is in it at each of them.
    pub(crate) fn batch_of(&self, records: usize, bytes: usize) -> StoreResult<Batch<'_>> {
        let sealer = self.guard(self.keys.sealer())?;
        let room = bytes + (records + WITNESSES) * RECORD_BYTES;
        Ok(Batch { store: self, sealer, batch: WriteBatch::with_capacity_bytes(room), record: Vec::new(), facts: None })
    }

    /// Appends one atomic batch to the journal; with `sync` it and everything before it is durable afterwards. What the batch says of
    /// the log counts from then on.
    pub(crate) fn write(
        &self,
        journal: &mut Journal,
        doing: &'static str,
        mut batch: Batch<'_>,
        touch: Touch,
        sync: bool,
    ) -> StoreResult<()> {
        if matches!(touch, Touch::Facts) {
            self.takes_facts()?
        } else {
            self.alive()?
        }
        let nothing = batch.batch.is_empty()
            && match &touch {
                Touch::Facts => batch.facts.is_none(),
                Touch::State(_) | Touch::Aside => true,
                Touch::Log(_) | Touch::Both(..) => false,
            };
        let after = if nothing { None } else { batch.witness(journal, touch)? };
        if sync {
            self.reached("journal: before a sync");
        }
        let result = if batch.batch.is_empty() {
            if sync { self.db.flush_wal(true) } else { Ok(()) }
        } else {
            self.db.write_opt(batch.batch, &write_options(sync))
        };
        self.written(result.map_err(|error| rocks_error(doing, &error)))?;
        if let Some(After { serials, founded, shape }) = after {
            (journal.serials, journal.founded) = (serials, founded);
            if let Some(shape) = shape {
                self.start.store(shape.start.index.0, Ordering::Release);
                journal.shape = shape;
            }
        }
        if sync && let Some(marker) = &mut journal.marker {
            let synced = Synced { sequence: self.db.latest_sequence_number(), serial: journal.serials.last() };
            self.written(marker.note(synced))?;
        }
        Ok(())
    }

    /// One record, as of now or as of a snapshot.
    pub(crate) fn get(&self, family: Family, key: &[u8], at: Option<&Snapshot<'_>>) -> StoreResult<Option<Bytes>> {
        if family == Family::Meta {
            self.takes_facts()?
        } else {
            self.alive()?
        }
        let mut options = ReadOptions::default();
        if let Some(snapshot) = at {
            options.set_snapshot(snapshot);
        }
        let found = self.db.get_cf_opt(self.family(family)?, key, &options);
        let found = self.guard(found.map_err(|error| rocks_error("reading a record", &error)))?;
        found.map(|record| self.guard(envelope::decode(&self.keys, family, key, record))).transpose()
    }

    /// Visits the payloads of `from..to` in order (empty `to`: to the end) until `visit` says `false`.
    pub(crate) fn scan(
        &self,
        family: Family,
        range: (&[u8], &[u8]),
        at: Option<&Snapshot<'_>>,
        visit: &mut Visitor<'_>,
    ) -> StoreResult<()> {
        self.alive()?;
        let mut options = ReadOptions::default();
        if let Some(snapshot) = at {
            options.set_snapshot(snapshot);
        }
        self.guard(scan((&self.db, &self.keys), family, range, options, visit))
    }

    /// Whether `family` holds nothing.
    pub(crate) fn is_empty(&self, family: Family) -> StoreResult<bool> {
        self.alive()?;
        self.guard(is_empty(&self.db, family))
    }

    /// Empties a state family that is not in force and gives its space back. A view of before keeps what it sees.
    pub(crate) fn clear(&self, family: Family) -> StoreResult<()> {
        if !self.is_empty(family)? {
            let mut batch = self.batch()?;
            batch.delete_all(family)?;
            self.write(&mut self.journal(), "clearing a state family", batch, Touch::Aside, false)?;
        }
        // Without a compaction the tombstone would slow every read of what is written over it.
        self.db.compact_range_cf::<&[u8], &[u8]>(self.family(family)?, None, None);
        Ok(())
    }

    /// Seals anew what another data key than `active` has sealed in `family`, from key `from` on, a bounded number of
    /// records. Where to go on; none at the end. Nobody else writes meanwhile, so nothing newer is written over.
    pub(crate) fn reseal(
        &self,
        family: Family,
        from: &[u8],
        active: u32,
        (records, bytes): (usize, usize),
    ) -> StoreResult<Option<Vec<u8>>> {
        let mut journal = self.journal();
        let mut batch = self.batch()?;
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family)?, options);
        iterator.seek(from);
        let (mut seen, mut size, mut room) = (0, 0, Vec::new());
        while let Some((key, record)) = iterator.item() {
            if seen >= records || size >= bytes {
                let next = key.to_vec();
                drop(iterator);
                self.write(&mut journal, "sealing records anew", batch, Touch::Aside, false)?;
                self.reached("keys: some records are sealed anew");
                return Ok(Some(next));
            }
            seen += 1;
            if envelope::key_of(record) != Some(active) {
                let payload = self.guard(envelope::check(&self.keys, family, key, record, &mut room))?;
                batch.put(family, key, payload)?;
                size += record.len();
            }
            iterator.next();
        }
        self.guard(status(&iterator, "reading a family"))?;
        drop(iterator);
        self.write(&mut journal, "sealing records anew", batch, Touch::Aside, false)?;
        Ok(None)
    }

    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        self.db.snapshot()
    }
}

/// The refusal of everything after what was found first.
fn refused(found: &OnceLock<String>) -> StoreResult<()> {
    found.get().map_or(Ok(()), |why| Err(StoreError::Poisoned(why.clone())))
}

/// What the envelope and RocksDB put around each record of a batch, bytes, rounded up.
const RECORD_BYTES: usize = 64;
/// The records that every batch has besides its own.
const WITNESSES: usize = 8;

/// Changes to be written at once; every value passes the envelope.
pub(crate) struct Batch<'a> {
    store: &'a Store,
    /// What seals all of it: held until it is written, so that its data key stays in use for so long.
    sealer: Arc<Sealer>,
    batch: WriteBatch,
    /// The record being sealed; RocksDB copies it, so one room serves for all.
    record: Vec<u8>,
    /// All facts, where some of them change.
    pub(crate) facts: Option<FactTable>,
}

/// What holds once a batch is written.
struct After {
    serials: Serials,
    founded: Option<Family>,
    /// None where the log stays as it is.
    shape: Option<Shape>,
}

impl Batch<'_> {
    pub(crate) fn put(&mut self, family: Family, key: &[u8], payload: &[u8]) -> StoreResult<()> {
        self.put_with(family, key, payload.len(), |into| into.extend_from_slice(payload))
    }

    /// As [`Batch::put`], the payload of `bytes` made where it is sealed.
    pub(crate) fn put_with(
        &mut self,
        family: Family,
        key: &[u8],
        bytes: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> StoreResult<()> {
        self.record.clear();
        self.record.reserve(bytes + RECORD_BYTES);
        envelope::encode(&self.sealer, family, key, &mut self.record, fill)?;
        self.batch.put_cf(self.store.family(family)?, key, &self.record);
        Ok(())
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) -> StoreResult<()> {
        self.batch.delete_cf(self.store.family(family)?, key);
        Ok(())
    }

    /// Everything from one key to another, the end excluded.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) -> StoreResult<()> {
        self.batch.delete_range_cf(self.store.family(family)?, from, to);
        Ok(())
    }

    /// Counts this batch, and leaves the count in what it touches and in the head. None where nothing that is in force changes.
    fn witness(&mut self, journal: &Journal, touch: Touch) -> StoreResult<Option<After>> {
        let serial = journal.serials.last() + 1;
        let (log, state, shape) = match touch {
            Touch::Aside => return Ok(None),
            Touch::Log(shape) => (true, None, Some(shape)),
            Touch::Facts => (true, None, None),
            Touch::State(family) => (false, Some(family), None),
            Touch::Both(family, shape) => (true, Some(family), Some(shape)),
        };
        let mut serials = journal.serials;
        if log {
            serials.log = serial;
            self.put(Family::Log, WITNESS, &serial.to_be_bytes())?;
        }
        if let Some(family) = state {
            serials.state = serial;
            self.put(family, WITNESS, &serial.to_be_bytes())?;
        }
        if let Some(facts) = self.facts.take() {
            serials.facts = serial;
            let bytes = facts.encoded_len();
            self.put_with(Family::Meta, meta_key::FACTS, bytes, |into| facts.encode(serial, into))?;
        }
        let founded = state.or(journal.founded);
        let head = Head::of(serials, shape.as_ref().unwrap_or(&journal.shape), founded);
        self.put(Family::Meta, meta_key::HEAD, &head.encode())?;
        Ok(Some(After { serials, founded, shape }))
    }

    /// Everything in the family. Leaves a tombstone over the whole range: only where a family is replaced.
    pub(crate) fn delete_all(&mut self, family: Family) -> StoreResult<()> {
        let Some(mut last) = last_key(&self.store.db, family)? else { return Ok(()) };
        last.push(0);
        self.delete_range(family, &[], &last)
    }
}

pub(crate) fn family_of(db: &DB, family: Family) -> StoreResult<&ColumnFamily> {
    db.cf_handle(family.name()).ok_or_else(|| StoreError::Corrupt {
        record: format!("column family {family}"),
        detail: "the database does not have it".to_owned(),
    })
}

fn status(iterator: &DBRawIterator<'_>, doing: &'static str) -> StoreResult<()> {
    iterator.status().map_err(|error| rocks_error(doing, &error))
}

pub(crate) fn is_empty(db: &DB, family: Family) -> StoreResult<bool> {
    let mut iterator = db.raw_iterator_cf(family_of(db, family)?);
    iterator.seek_to_first();
    status(&iterator, "reading a family")?;
    Ok(!iterator.valid())
}

fn last_key(db: &DB, family: Family) -> StoreResult<Option<Vec<u8>>> {
    let mut iterator = db.raw_iterator_cf(family_of(db, family)?);
    iterator.seek_to_last();
    status(&iterator, "reading a family")?;
    Ok(iterator.key().map(<[u8]>::to_vec))
}

/// Visits the checked payloads of a range, in order.
pub(crate) fn scan(
    (db, keys): (&DB, &Keyring),
    family: Family,
    (from, to): (&[u8], &[u8]),
    mut options: ReadOptions,
    visit: &mut Visitor<'_>,
) -> StoreResult<()> {
    if !to.is_empty() && from >= to {
        return Ok(());
    }
    // Bounds keep the iterator from walking over the tombstones beside the range.
    options.set_iterate_lower_bound(from);
    if !to.is_empty() {
        options.set_iterate_upper_bound(to);
    }
    let mut iterator = db.raw_iterator_cf_opt(family_of(db, family)?, options);
    iterator.seek(from);
    let mut room = Vec::new();
    while let Some((key, record)) = iterator.item() {
        if !visit(key, envelope::check(keys, family, key, record, &mut room)?)? {
            return Ok(());
        }
        iterator.next();
    }
    status(&iterator, "reading a range")
}
