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
//!   What a request of a client that is not in the table is taken for depends on what it says of its birth (`born`: a log
//!   index that a manager had applied before the client id was made). The state keeps the *expiry floor*, the highest
//!   index at which any forgotten client was first seen. Born above the floor: the client is new, for every forgotten
//!   one was born below it. Born at or below: it may be one that was forgotten, and is refused with `RequestExpired`.
//!   No birth told: refused when it carries a mark above 0, for then it says that it had been here before; else new.
//! - So a client that does not tell its birth must not raise its mark before one of its requests was answered from the
//!   state, not merely refused before it entered the log.
//!
//! What that guarantees: within the time of silence, exactly once. After it, a client that tells its birth, or that had
//! raised its mark, is never applied twice; only one that did neither can be, and only by a retry sent after the expiry.
//! A client refused for its age makes itself a new id.
//!
//! # Revisions and history
//! A transaction that changes something makes one revision, whatever the number of keys. Reads at older revisions work
//! down to the compact revision, which is replicated; what it releases is removed in the round that sets it.
//!
//! # Leases
//! A lease is granted and revoked by requests, so exactly once, and ends by a command of the leader that counted its time
//! ([`crate::consensus`]). A put may attach its key to one lease, a put without one detaches it, and so does a delete. A lease
//! takes at most [`LEASE_KEYS_MAX`](crate::limits::LEASE_KEYS_MAX) keys, so that when it ends, however that comes, all of
//! them go in one revision. Only users' keys can be attached. When a lease was last renewed is not in the state.
//!
//! # Recovery
//! A force-new-cluster ([`crate::recovery`]) writes a *recovery* record and the longer lineage in it before the rest of the
//! log is applied: from then on configuration entries of the older lineage are void. Its last entry, `Recovered`, moves the
//! lineage into the cluster's record, marks the other managers lost, burns their raft ids, and lets the counters jump, that of
//! leases too. The
//! history window begins there.
//!
//! # State hash
//! A sum over all live records, the replay table and the system records; see [`scan_hash`]. The digest right after each
//! revision's command is the same on every member however it got there ([`Machine::hashes`]).

#[cfg(feature = "consensus")]
mod beginning;
mod check;
pub mod contract;
mod execute;
mod extract;
mod found;
mod hash;
pub(crate) mod layout;
mod leases;
mod machine;
mod page;
pub mod ranges;
pub mod read;
mod recovered;
mod references;
mod replay;
mod snapshot;
pub(crate) mod stored;
mod usage;

#[cfg(feature = "consensus")]
pub(crate) use beginning::{beginning, found_record};
pub use check::{check_range, check_txn};
pub use extract::{Amount, Extract, Sealed};
pub use found::{FOUNDED, Founded, Founding, found};
pub use hash::{scan_hash, scan_hash_while};
pub use layout::live_range;
pub use leases::LeaseRecord;
pub use machine::Machine;
pub use recovered::{COUNTER_JUMP, Jump, REVISION_JUMP};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError, SnapshotReader, SnapshotWriter};
