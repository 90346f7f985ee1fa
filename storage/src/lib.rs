//! quorate's disk: the log, the replicated state and the node's own facts in ONE RocksDB with ONE write-ahead log.
//!
//! Owns how records lie on the disk, what is durable when, and what a store that comes back from a crash is worth. Never
//! decides anything about consensus, and never starts a thread of its own. Called by the node through the ports of
//! `quorate_core::ports`; every call blocks.
//!
//! # What is durable when
//! Every write is one batch appended to one journal. A crash leaves a prefix of the batches, ending at or after the last
//! synced one. Log writes sync when asked to; commits of the state never do, the log makes them reproducible; facts,
//! founding, the end of a received snapshot and its installation always do.
//!
//! # What is noticed when a store is opened, and what is not
//! | what happened to the directory | answer |
//! |---|---|
//! | the end of the journal is torn, nothing synced is missing | opened; the torn bytes are cut; `Boot::repaired` says so |
//! | a record is damaged and a whole one follows it | `Corrupt`, names file and byte |
//! | the last synced record is damaged or cut off | `Corrupt`, by the durable marker, see below |
//! | a journal file is missing, cut in the middle, or emptied | `Corrupt`, by the sequence numbers and the marker |
//! | a table file is missing or has another length | `Corrupt`, names the file |
//! | a file of large log entries is missing, cut or changed | `Corrupt`, names the file or the entry |
//! | RocksDB's manifest is cut or damaged, and tables are forgotten | `Corrupt`: every family keeps a witness of the last batch that touched it, and these must agree with each other and with the marker |
//! | the key record is missing, cut or changed | `Corrupt`; a key that does not open it is `KeyWanted`, which says which one does |
//! | a byte of a log entry, of the head (hard state, where the log begins and ends) or of the facts changed | `Corrupt`, names the record or the file |
//! | the log has a hole, or does not end where the head says | `Corrupt`, names both |
//! | a byte of a state value changed in a table file, or a file of large state values is missing, cut or changed | NOT at opening: the read that meets it answers `Corrupt` |
//! | one record was put back as it was before, at its own place, by somebody who mends RocksDB's checksums: head, facts, a witness, a log entry | `Corrupt`: all of them know of each other (`head.rs`, `log.rs`) |
//! | the same with a record of the state | NOT at opening: the hash over the state notices (`recover`, `inspect`, and a manager soon after its start) |
//! | head, both witnesses, the facts and the marker were put back together, or the whole directory was | NOT: it is whole; the store id and Raft must notice |
//!
//! The durable marker is a side file, written after every sync but not synced itself. It is exact after the kill of a
//! process. After a power cut it may be behind by what the kernel had not yet written back: within that window a flip in
//! the very last synced record cannot be told from a torn tail, by anybody. It is never ahead of the truth.
//!
//! A journal file whose end is torn while the next file already holds a whole record is refused too, although a power
//! cut right after RocksDB changed files could leave that: opened, it would have a hole in the middle.

mod barrier;
mod db;
mod dir;
mod envelope;
mod error;
mod families;
mod head;
mod keeper;
mod key;
mod key_record;
mod keyring;
mod log;
mod marker;
mod meta;
mod open;
mod sealed;
mod staging;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod wal;

pub use barrier::{BarrierKey, SealingPair, takes_copies};
pub use dir::{exists, free_space, is_in_memory};
pub use keeper::{KeyKeeper, KeyStatus};
pub use key::{GivenKey, Key, KeyError, KeyId, KeyKind, KeyProvider, KeySlot};
pub use open::{Inspection, Options, key_slots, open, open_read_only, open_with_keys, opens};
pub use sealed::{open_secret, seal_secret, secret_slots};
