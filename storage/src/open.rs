//! Opening a store: who may, whether it is whole, what it holds.
//!
//! Owns the order of the checks. Nothing in the directory is changed before the format is known, the lock is held and the
//! journal was judged. Called once per start of a node, and by `inspect` for a stopped one.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_core::command::COMMAND_VERSION;
use quorate_core::id::LogIndex;
use quorate_core::ports::{Boot, LogReader, OpenStore, StateRead, StateReader, StoreError, StoreResult};
use rocksdb::{DB, DBRecoveryMode, ReadOptions};
use zeroize::Zeroize as _;

use crate::db::{Journal, Store, Touch, family_of, is_empty, scan};
use crate::error::{io_error, open_error, rocks_error};
use crate::families::{self, Family, WITNESS, meta_key};
use crate::head::{self, FactTable, Head, check_facts};
use crate::keeper::{KeyKeeper, unix_seconds};
use crate::key::{KeyProvider, KeySlot};
use crate::key_record::{KeyRecord, Opened};
use crate::keyring::Keyring;
use crate::log::{self, Shape};
use crate::marker::Marker;
use crate::staging::{Stage, Stager};
use crate::{dir, envelope, meta, state, wal};

/// How a store is opened.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where the key comes from that the store's data key is wrapped by.
    pub keys: Arc<dyn KeyProvider>,
    /// Bytes of write-ahead log after which RocksDB writes its tables out, so that old files of it can go.
    pub wal_bytes_max: u64,
    /// The newest cluster version that is known here: a store that needs a newer one is left as it is.
    pub version: u32,
    /// Called at named points of multi-step work, on the thread that does it. Tests stop the process there.
    pub probe: Option<Arc<dyn Fn(&'static str) + Send + Sync>>,
    /// Keeps records as they are, to measure what sealing costs. Such a store is opened with this option only.
    #[cfg(feature = "testing")]
    pub unsealed: bool,
}

impl Options {
    /// With the usual bounds.
    #[must_use]
    pub fn new(keys: Arc<dyn KeyProvider>) -> Self {
        Self {
            keys,
            wal_bytes_max: 64 * 1024 * 1024,
            version: COMMAND_VERSION,
            probe: None,
            #[cfg(feature = "testing")]
            unsealed: false,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("wal_bytes_max", &self.wal_bytes_max).finish_non_exhaustive()
    }
}

/// Opens the store in `dir`, and makes one when there is none. Blocks, and reads the whole log once.
///
/// # Errors
/// `Locked` when a process has it, `FormatTooNew` or `NeedsVersion` when it is for a newer quorate, `KeyWanted` when the
/// provider has not the key that opens it, `Corrupt` when it is damaged (the module's table says what is noticed), `Full`
/// and `Io` when the disk refuses.
pub fn open(dir: &Path, options: Options) -> StoreResult<OpenStore> {
    open_with_keys(dir, options).map(|(store, _)| store)
}

/// As [`open`], with the hand on the store's keys.
///
/// # Errors
/// As [`open`].
pub fn open_with_keys(dir: &Path, options: Options) -> StoreResult<(OpenStore, KeyKeeper)> {
    // Before the lock: a store of a newer format is left exactly as it is.
    dir::declared(dir, options.version)?;
    dir::make(dir)?;
    let lock = dir::lock(dir)?;
    let declared = dir::declared(dir, options.version)?;
    let fresh = declared.is_none();
    let database = dir::database(dir);
    // Before anything else: a key that does not fit harms nothing.
    let (record, opened) = keys_of(dir, fresh, &options)?;
    let keys = keyring(&opened, &options)?;
    if fresh {
        // Also where an earlier start was stopped in the middle of this: every step can be done again.
        dir::make(&database)?;
        Marker::ensure(dir)?;
    }
    check_present(&database, fresh)?;
    let marker = Marker::open(dir, false)?;
    let judged = wal::scan(&database)?;
    check_tail(&database, &judged, &marker)?;
    let repaired = if judged.cuts.is_empty() { None } else { Some(cut(&judged.cuts)?) };
    // The scan and the cuts left no unfinished end: whatever RocksDB still finds wrong is damage.
    let rocks = families::database(fresh, options.wal_bytes_max, DBRecoveryMode::AbsoluteConsistency);
    let db = DB::open_cf_descriptors(&rocks, &database, families::descriptors()).map_err(|error| open_error(&error))?;
    check_reached(&judged, &marker, db.latest_sequence_number())?;
    let head = checked_head(&db, &keys, &marker)?;
    let (boot, shape) = load(&db, &keys, &head)?;
    let active = head.state.unwrap_or(Family::StateA);
    if fresh {
        check_blank(&db)?;
        dir::declare(dir, 0)?;
    }
    if let Some(repaired) = &repaired {
        tracing::warn!(repaired, "the store was repaired");
    }
    let boot = Boot { repaired, ..boot };
    let journal = Journal { marker: Some(marker), shape, serials: head.serials, founded: head.state };
    let store = Store::new((db, Arc::new(keys)), journal, active, options.probe, Some(lock));
    // What was recovered is in tables already; the sync notes it, so that later openings expect it.
    store.write(&mut store.journal(), "syncing the opened store", store.batch()?, Touch::Aside, true)?;
    store.clear(active.other())?;
    let stage = Stage::new(Arc::clone(&store));
    let keeper = KeyKeeper::new(Arc::clone(&store), dir, record, opened);
    let store = OpenStore {
        boot,
        log: Box::new(log::Writer(Arc::clone(&store))),
        log_reader: Arc::new(log::Reader(Arc::clone(&store))),
        state: Box::new(state::State { store: Arc::clone(&store), stage: Arc::clone(&stage) }),
        staging: Arc::new(Stager(stage)),
        meta: Arc::new(meta::Meta { store, dir: dir.to_owned(), needs: Mutex::new(declared.unwrap_or(0)) }),
    };
    Ok((store, keeper))
}

/// The key record of a store, made when the store is, and what it opens to.
fn keys_of(dir: &Path, fresh: bool, options: &Options) -> StoreResult<(KeyRecord, Opened)> {
    if fresh && !KeyRecord::exists(dir) {
        if dir::database(dir).join("CURRENT").is_file() {
            // Somebody took both away: a new key would bury what is there.
            return Err(StoreError::Corrupt {
                record: "file `format`".to_owned(),
                detail: "it is missing, and the key record with it, but there is a database beside them; nothing was changed"
                    .to_owned(),
            });
        }
        let (key, slot) = options.keys.make().map_err(|error| StoreError::KeyWanted {
            wanted: "a key that is still to be made".to_owned(),
            found: error.to_string(),
        })?;
        KeyRecord::make(&[(key, slot)], unix_seconds())?.0.save(dir, options.probe.as_ref())?;
    }
    let record = KeyRecord::load(dir)?;
    let opened = record.open(&*options.keys)?;
    Ok((record, opened))
}

fn keyring(opened: &Opened, options: &Options) -> StoreResult<Keyring> {
    let ring = Keyring::new(opened.store, opened.data.clone(), opened.active)?;
    #[cfg(feature = "testing")]
    if options.unsealed {
        return ring.plain();
    }
    let _ = options;
    Ok(ring)
}

/// Which keys may open the store in `dir`, as it says itself; needs none of them.
///
/// # Errors
/// As [`open`].
pub fn key_slots(dir: &Path) -> StoreResult<Vec<KeySlot>> {
    dir::declared(dir, COMMAND_VERSION)?;
    Ok(KeyRecord::load(dir)?.slots())
}

/// Whether `keys` open the store in `dir`. Changes nothing, and needs no right to it but to read.
///
/// # Errors
/// `KeyWanted` when they do not; else as [`open`].
pub fn opens(dir: &Path, keys: &dyn KeyProvider) -> StoreResult<()> {
    dir::declared(dir, COMMAND_VERSION)?;
    KeyRecord::load(dir)?.open(keys).map(drop)
}

/// A stopped store, to be looked at only.
pub struct Inspection {
    /// What is on disk.
    pub boot: Boot,
    /// The log.
    pub log: Arc<dyn LogReader>,
    /// The state, frozen.
    pub state: Arc<dyn StateRead>,
    facts: Arc<Store>,
}

impl Inspection {
    /// A fact about the node.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    pub fn fact(&self, name: &str) -> StoreResult<Option<Bytes>> {
        meta::read(&self.facts, name)
    }
}

/// Opens the store in `dir` without changing anything in it. A torn end is read around and told in `Boot::repaired`.
///
/// # Errors
/// As [`open`]; `Locked` also when a node runs on it, and `Io` when there is no store.
pub fn open_read_only(dir: &Path, keys: &dyn KeyProvider) -> StoreResult<Inspection> {
    let absent =
        || StoreError::Io { doing: "opening the store", detail: format!("there is no store in {}", dir.display()) };
    if dir::declared(dir, COMMAND_VERSION)?.is_none() {
        return Err(absent());
    }
    let lock = dir::lock_shared(dir)?;
    let opened = KeyRecord::load(dir)?.open(keys)?;
    let keys = Keyring::new(opened.store, opened.data, opened.active)?;
    let database = dir::database(dir);
    check_present(&database, false)?;
    let marker = Marker::open(dir, true)?;
    let judged = wal::scan(&database)?;
    let repaired =
        (!judged.cuts.is_empty()).then(|| format!("{}; not cut, the store was only read", tell(&judged.cuts)));
    check_tail(&database, &judged, &marker)?;
    let db = look(&database)?;
    let head = checked_head(&db, &keys, &marker)?;
    let (boot, shape) = load(&db, &keys, &head)?;
    let journal = Journal { marker: None, shape, serials: head.serials, founded: head.state };
    let active = head.state.unwrap_or(Family::StateA);
    let store = Store::new((db, Arc::new(keys)), journal, active, None, lock);
    Ok(Inspection {
        boot: Boot { repaired, ..boot },
        log: Arc::new(log::Reader(Arc::clone(&store))),
        state: state::Reader(Arc::clone(&store)).view(),
        facts: store,
    })
}

/// The database without the right to write, up to where its journal is whole.
fn look(database: &Path) -> StoreResult<DB> {
    let rocks = families::database(false, 0, DBRecoveryMode::PointInTime);
    DB::open_cf_descriptors_read_only(&rocks, database, families::descriptors(), false)
        .map_err(|error| open_error(&error))
}

/// A store that was made has a database: a new one in its place would forget everything.
fn check_present(database: &Path, fresh: bool) -> StoreResult<()> {
    if fresh || database.join("CURRENT").is_file() {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        record: "database".to_owned(),
        detail: "the store's directory says that it has one, but its file `db/CURRENT` is missing; nothing was changed"
            .to_owned(),
    })
}

/// The journal must reach as far as the marker says that it was synced. Checked before anything is cut or opened for
/// writing, so that a refused store is as it was found.
fn check_tail(database: &Path, judged: &wal::Scan, marker: &Marker) -> StoreResult<()> {
    let reached = match judged.last_sequence {
        // A torn end that begins below the marker had synced records in it, whatever the tables say.
        Some(last) if last >= marker.sequence() || !judged.cuts.is_empty() => last,
        _ if marker.sequence() == 0 => return Ok(()),
        // What is not in the journal any more must be in the tables.
        _ => look(database)?.latest_sequence_number(),
    };
    check_reached(judged, marker, reached)
}

fn check_reached(judged: &wal::Scan, marker: &Marker, reached: u64) -> StoreResult<()> {
    if reached >= marker.sequence() {
        return Ok(());
    }
    let record = match judged.cuts.first() {
        Some(cut) => format!("write-ahead log {}, byte {}", name(&cut.file), cut.keep),
        None => "write-ahead log".to_owned(),
    };
    Err(StoreError::Corrupt {
        record,
        detail: format!(
            "changes up to {} were synced, but only those up to {reached} are there: the end of the journal is damaged or \
             was removed",
            marker.sequence()
        ),
    })
}

/// Cuts torn ends off, and says what was done.
fn cut(cuts: &[wal::Cut]) -> StoreResult<String> {
    let doing = "cutting a torn end off the write-ahead log";
    for cut in cuts {
        let file = OpenOptions::new().write(true).open(&cut.file).map_err(|error| io_error(doing, &error))?;
        file.set_len(cut.keep).and_then(|()| file.sync_all()).map_err(|error| io_error(doing, &error))?;
    }
    Ok(tell(cuts))
}

fn tell(cuts: &[wal::Cut]) -> String {
    let told: Vec<String> = cuts
        .iter()
        .map(|cut| {
            format!(
                "write-ahead log {} was torn after byte {}: its last {} bytes do not count",
                name(&cut.file),
                cut.keep,
                cut.lose
            )
        })
        .collect();
    told.join("; ")
}

fn name(file: &Path) -> String {
    file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A directory that was never declared a store holds nothing, or somebody removed its declaration.
fn check_blank(db: &DB) -> StoreResult<()> {
    for family in Family::ALL {
        if !is_empty(db, family)? {
            return Err(StoreError::Corrupt {
                record: "file `format`".to_owned(),
                detail: "it is missing, but the database beside it holds records; no record was changed".to_owned(),
            });
        }
    }
    Ok(())
}

fn record(db: &DB, keys: &Keyring, family: Family, key: &[u8]) -> StoreResult<Option<Bytes>> {
    let found = db.get_cf(family_of(db, family)?, key).map_err(|error| rocks_error("reading a record", &error))?;
    found.map(|record| envelope::decode(keys, family, key, record)).transpose()
}

/// What the head says. Every family must hold the last batch that touched it, and so must the facts: a database that forgot a
/// table does not, nor does one where one of these records was put back as it was before. Together they must reach as far as was synced.
fn checked_head(db: &DB, keys: &Keyring, marker: &Marker) -> StoreResult<Head> {
    let head = record(db, keys, Family::Meta, meta_key::HEAD)?;
    let head = head.map_or(Ok(Head::default()), |found| Head::decode(&found))?;
    let active = head.state.unwrap_or(Family::StateA);
    for (family, told) in [(Family::Log, head.serials.log), (active, head.serials.state)] {
        let own = record(db, keys, family, WITNESS)?.map_or(Ok(0), |found| head::decode_witness(&found))?;
        if own != told {
            return contradiction(
                format!("column family {family}"),
                format!(
                    "the last batch that touched it was {told}, but it holds those up to {own}: a table of it, or of {}, was \
                     forgotten, or a record was put back as it was before",
                    Family::Meta
                ),
            );
        }
    }
    let facts = match record(db, keys, Family::Meta, meta_key::FACTS)? {
        None => 0,
        Some(found) => {
            let serial = FactTable::decode(&found).map(|(serial, _)| serial);
            if let Ok(mut plain) = found.try_into_mut() {
                plain.as_mut().zeroize();
            }
            serial?
        }
    };
    check_facts(head.serials.facts, facts)?;
    let last = head.serials.last();
    if last < marker.serial() {
        return contradiction(
            "database".to_owned(),
            format!("batches up to {} were synced, but only those up to {last} are there", marker.serial()),
        );
    }
    Ok(head)
}

/// Reads what a starting node must know, and refuses what contradicts itself: a hole, an entry that does not follow the one before
/// it, a log that ends elsewhere than the head says.
fn load(db: &DB, keys: &Keyring, head: &Head) -> StoreResult<(Boot, Shape)> {
    let start = head.start;
    let mut shape = Shape::empty(start, head.hard);
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    scan((db, keys), Family::Log, (&log::key(LogIndex(0)), &[]), options, &mut |key, payload| {
        let (entry, before) = log::decode(key, payload)?;
        if entry.index <= start.index {
            // Cut, and still to be deleted.
            shape.purged = shape.purged.min(entry.index.prev());
            return Ok(true);
        }
        if entry.index != shape.last.next() {
            return contradiction(
                format!("log entry {}", shape.last.next()),
                format!("it is missing: the log goes on at {} after {}", entry.index, shape.last),
            );
        }
        let newest = shape.end().term;
        log::check_follows(entry.index, before, newest)?;
        if entry.term < newest {
            return contradiction(
                format!("log entry {}", entry.index),
                format!("its term {} is below term {newest} of the entry before it", entry.term),
            );
        }
        shape.push(entry.index, entry.term);
        Ok(true)
    })?;
    let (told, found) = (head.end, shape.end());
    if told != found {
        return contradiction(
            format!("log entry {}", told.index.max(found.index)),
            format!(
                "the log ends with entry {} of term {}, and the last one that was written is {} of term {}: the end is missing, or \
                 was put back as it was before",
                found.index, found.term, told.index, told.term
            ),
        );
    }
    let terms = shape.terms.clone();
    Ok((Boot { hard_state: head.hard, start, last: shape.last, terms, repaired: None }, shape))
}

fn contradiction<T>(record: String, detail: String) -> StoreResult<T> {
    Err(StoreError::Corrupt { record, detail })
}
