//! The replicated state: what committed entries do to the store.
//!
//! Owns the meaning of every command: transactions, revisions, history, the replay table, the state hash. Never decides
//! when; the consensus machine hands over what is committed. Called by the applier, and by readers with a view.
//!
//! # Exactly once
//! A request carries the client's id, its sequence and its low-water mark. For every sequence above the mark the *replay
//! table* keeps the outcome, done or refused alike, and every further copy of the request gets that outcome back
//! (`replayed`), in whatever order sequences arrive and whatever the client wrote in between. The rules:
//! - The mark only rises, with any request that carries a higher one; what lies at or below it is dropped. A copy of such
//!   a request is refused with `RequestExpired`: it does nothing now, and whether it was applied before is not known.
//! - An outcome over [`REPLAY_OUTCOME_BYTES_MAX`](crate::limits::REPLAY_OUTCOME_BYTES_MAX) is kept without the answers of
//!   its operations: a retry learns whether it succeeded and its revision, with `replayed` set and `results` empty.
//! - The table is bounded, per client (`ReplayFull`), in clients and in bytes (`Limit` by name). These refusals and
//!   `RequestExpired` are not kept themselves ([`Refusal::is_kept`](contract::Refusal::is_kept)): *this* copy did
//!   nothing, but a copy that is still on its way may yet be applied. To give such a request up for good, a client
//!   raises its mark over it.
//! - Silent clients are forgotten by a replicated command, each only if it has sent nothing since the leader looked.
//!   A client that is not known and carries a mark above 0 had been here before: it is refused with `RequestExpired`.
//!   One with mark 0 is taken as new, unless it says when it was `born` (a log index that a manager had applied before
//!   the client id was made) and some client first seen at or after that index has been expired: then it may be that
//!   client, and is refused too.
//!
//! So: within the time of silence, always exactly once. After it, a client that tells its birth, or that has raised
//! its mark once, is never applied twice; only one that never did either can be, and only by a retry sent after the
//! expiry. A refused client makes itself a new id.
//!
//! # Revisions and history
//! A transaction that changes something makes one revision, whatever the number of keys. Reads at older revisions work
//! down to the compact revision, which is replicated; what it releases is removed by each member when it has time.
//!
//! # State hash
//! A sum over all live records, the replay table and the system records; see [`scan_hash`]. The digest right after each
//! revision's command is the same on every member however it got there ([`Machine::hashes`]).

mod check;
pub mod contract;
mod execute;
mod found;
mod hash;
mod layout;
mod machine;
mod page;
pub mod read;
mod replay;
mod snapshot;
mod stored;
mod trim;

pub use check::{check_range, check_txn};
pub use found::{FOUNDED, Founded, Founding, found};
pub use hash::scan_hash;
pub use machine::Machine;
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError, SnapshotReader, SnapshotWriter};
pub use trim::Trimmed;
