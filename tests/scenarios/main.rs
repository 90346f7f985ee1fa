//! Scenarios against real nodes: real QUIC on loopback, real RocksDB, temporary directories.
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test says what it expects and fails loudly"
)]

mod assignments;
mod data;
mod disks;
mod leadership;
mod membership;
mod pressure;
mod quorum;
mod refusals;
mod support;
mod transitions;
mod workers;
