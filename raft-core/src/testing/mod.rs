//! What tests and the simulator put in the place of a disk.
//!
//! Owns the [`MemoryStore`], which loses what was not synced whenever its owner says so, and the [`conformance`] suite
//! that every store must pass. Never part of a node that people run: it is behind the feature `testing`. Called by the
//! seeded cluster, by in-process clusters of embedders' tests, and by the tests of `quorate-storage`.

#[macro_use]
pub mod conformance;
pub mod memory;
mod rng;

pub use memory::{Fault, MemoryStore};
pub use rng::Rng;
