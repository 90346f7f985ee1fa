//! Test clusters inside one process, for the tests of programs that embed quorate; only with the feature `testing`.
//!
//! Owns [`Cluster`]: several managers on the runtime of the test, with their stores and their network in memory, whose
//! machines lose power, whose links are cut and whose disks fill up on the test's word. Never decides anything of its own:
//! everything from the client to the consensus machine is what runs in production, over real QUIC with real certificates;
//! only what lies below it is swapped, the disk and the wire. Called by tests.

mod cluster;
mod faults;
mod waits;

pub use cluster::{Cluster, ClusterBuilder};

pub use crate::node::{SharedSocket, WorkerSession, node_identity};
