//! The column families: what lies where, under which keys, and how RocksDB is told to keep it.
//!
//! Owns names, keys and options. Never reads or writes. Called when the store is opened and wherever a key is made.

use std::fmt;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel,
    Options as RocksOptions, WriteOptions,
};

/// A column family. The names are on disk and in every checksum: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Entries by index, 8 bytes big-endian.
    Log,
    /// The head, and the facts about the node.
    Meta,
    /// Replicated state, one of two.
    StateA,
    /// Replicated state, the other: a snapshot is received into the one that is not in force.
    StateB,
}

impl Family {
    pub(crate) const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::StateA, Self::StateB];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Log => "raft_log",
            Self::Meta => "raft_meta",
            Self::StateA => "state_a",
            Self::StateB => "state_b",
        }
    }

    /// The other state family; the log and meta have none.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::StateA => Self::StateB,
            Self::StateB => Self::StateA,
            Self::Log | Self::Meta => self,
        }
    }

    /// Names a record for people.
    pub(crate) fn describe(self, key: &[u8]) -> String {
        match self {
            Self::Log => match <[u8; 8]>::try_from(key) {
                Ok(index) => format!("log entry {}", u64::from_be_bytes(index)),
                Err(_) => format!("log key `{}`", key.escape_ascii()),
            },
            Self::Meta => format!("node record `{}`", key.escape_ascii()),
            Self::StateA | Self::StateB => {
                let key = key.strip_prefix(&[STATE_PREFIX]).unwrap_or(key);
                format!("state key `{}` ({})", key.escape_ascii(), self.name())
            }
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The key of a family's witness: which batch was the last that touched it. Below every other key.
pub(crate) const WITNESS: &[u8] = b"";

/// Before every key of the state, so that none is the witness.
const STATE_PREFIX: u8 = b'k';
/// After every key of the state.
pub(crate) const STATE_END: [u8; 1] = [STATE_PREFIX + 1];

/// A state key as it lies on the disk.
pub(crate) fn state_key(key: &[u8]) -> Vec<u8> {
    [&[STATE_PREFIX], key].concat()
}

/// Keys of [`Family::Meta`].
pub(crate) mod meta_key {
    /// What every other record must go with ([`crate::head`]).
    pub(crate) const HEAD: &[u8] = b"head";
    /// All facts about the node.
    pub(crate) const FACTS: &[u8] = b"facts";
}

/// RocksDB's own messages go to tracing; without this it would write files of its own, with keys in them.
fn logger() -> InfoLogger {
    InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "quorate::rocksdb", "{}", message.trim_end()),
        LogLevel::Warn => tracing::warn!(target: "quorate::rocksdb", "{}", message.trim_end()),
        LogLevel::Debug | LogLevel::Info | LogLevel::Header => {
            tracing::debug!(target: "quorate::rocksdb", "{}", message.trim_end());
        }
    })
}

/// How the database as a whole is opened.
pub(crate) fn database(create: bool, wal_bytes_max: u64, recovery: DBRecoveryMode) -> RocksOptions {
    let mut options = RocksOptions::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_info_logger(logger());
    options.set_wal_recovery_mode(recovery);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_recycle_log_file_num(0);
    options.set_max_total_wal_size(wal_bytes_max);
    options.set_max_background_jobs(2);
    options.set_max_open_files(-1);
    options.set_keep_log_file_num(1);
    options.set_bytes_per_sync(1024 * 1024);
    options.set_wal_bytes_per_sync(512 * 1024);
    options
}

/// Blocks of tables kept in memory; the kernel's page cache has them besides.
const BLOCK_CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Records from this size on go to files of their own when they leave memory, and the tables only hold where they are: a
/// compaction writes its tables anew, and those of the log all of them each time, since each reaches from the log's beginning to
/// its end. What is in such a file stays as it is.
const APART_BYTES: u64 = 2 * 1024;
/// Of the files of large state records, oldest first, this part is cleared by compactions: what still counts in them is written
/// anew, so that the file can go. (Those of the log go by themselves, when it is cut.)
const APART_CLEARED: f64 = 0.25;
/// Compactions for that alone begin when more than this part of the bytes in them does not count any more.
const APART_GARBAGE_MAX: f64 = 0.5;

/// How each family is kept.
pub(crate) fn descriptors() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
    let mut all: Vec<_> =
        Family::ALL.iter().map(|family| ColumnFamilyDescriptor::new(family.name(), options(*family, &cache))).collect();
    all.push(ColumnFamilyDescriptor::new("default", options(Family::Meta, &cache)));
    all
}

fn options(family: Family, cache: &Cache) -> RocksOptions {
    let mut options = RocksOptions::default();
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // What is sealed does not compress, and nearly all of it is.
    options.set_compression_type(DBCompressionType::None);
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_level_compaction_dynamic_level_bytes(true);
    match family {
        Family::Log => {
            options.set_write_buffer_size(16 * 1024 * 1024);
            options.set_max_write_buffer_number(3);
            keep_apart(&mut options);
            blocks.set_block_size(64 * 1024);
        }
        Family::Meta => {
            options.set_write_buffer_size(1024 * 1024);
        }
        Family::StateA | Family::StateB => {
            options.set_write_buffer_size(16 * 1024 * 1024);
            blocks.set_bloom_filter(10.0, false);
            // A write looks for the record that it ends, and most often that is not in the table in memory.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(0.1);
            keep_apart(&mut options);
            options.set_enable_blob_gc(true);
            options.set_blob_gc_age_cutoff(APART_CLEARED);
            options.set_blob_gc_force_threshold(APART_GARBAGE_MAX);
        }
    }
    options.set_block_based_table_factory(&blocks);
    options
}

fn keep_apart(options: &mut RocksOptions) {
    options.set_enable_blob_files(true);
    options.set_min_blob_size(APART_BYTES);
}

/// How a batch is written.
pub(crate) fn write_options(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

/// Called at named points of multi-step work.
pub(crate) type Probe = Arc<dyn Fn(&'static str) + Send + Sync>;
