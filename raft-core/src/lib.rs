//! quorate's pure core: everything that decides, nothing that acts.
//!
//! Owns consensus, membership and replicated state. Never touches a clock, a random number, a disk, a socket or an
//! async runtime: time, entropy, disk and network come in as inputs and go out as effects or over the [`ports`].
//! Called by the node in the root crate, and by the simulator, which runs this very code.
//!
//! One stated hole: tikv raft draws its own election timeout; the consensus machine pins it after every call.
//!
//! Features: `consensus` (default) brings tikv raft and the consensus machine; without it the crate is the vocabulary
//! that clients need. `testing` brings the memory store and the seeded cluster.

pub mod access;
pub mod command;
#[cfg(feature = "consensus")]
pub mod consensus;
pub mod envelope;
pub mod id;
pub mod keyring;
pub mod keyspace;
pub mod limits;
pub mod log;
pub mod membership;
pub mod mutants;
pub mod objects;
pub mod ports;
#[cfg(feature = "consensus")]
pub mod recovery;
pub mod state;
pub mod succession;
#[cfg(feature = "testing")]
pub mod testing;
pub mod txn;
pub mod user;
pub mod watch;
