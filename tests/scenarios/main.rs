//! Scenarios against real nodes: real QUIC on loopback, real RocksDB, temporary directories.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "a test says what it expects and fails loudly"
)]
#![allow(clippy::duplicate_mod, reason = "each example is a program of its own, and all of them have the same support")]

mod assignments;
mod audit;
mod authorisation;
mod authorities;
mod backups;
mod between;
mod borders;
mod certificates;
mod crashes;
mod data;
mod delivery;
mod disks;
mod doors;
mod examples;
mod growth;
mod handles;
mod health;
mod killed;
mod killed_ca;
mod leadership;
mod leases;
mod lifecycle;
mod limits;
mod load;
mod membership;
mod nodes;
mod operators;
mod overload;
mod own_keys;
mod partition;
mod policy;
mod pressure;
mod quorum;
mod reads;
mod recovery;
mod refusals;
mod removed;
mod requests;
mod roles;
mod rotations;
mod scopes;
mod sealing;
mod secrets;
mod stalls;
mod support;
mod tables;
mod tails;
mod textbook;
mod tokens;
mod transitions;
mod watch;
mod wires;
mod workers;
