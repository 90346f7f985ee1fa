//! A manager quorum for orchestrators: Raft with an odd number of voters, membership, and a replicated store, over QUIC.
//!
//! Owns the node that wires core, storage and transport together, and the one type of client. See [`Node`] and
//! [`Client`]. No type of raft, prost, quinn, rustls or rocksdb is public.

mod client;
pub mod config;
mod error;
pub mod membership;
#[cfg(feature = "manager")]
mod node;
pub mod status;

pub use client::{
    Client, Entry, Identity, Kv, NodeChange, NodeUpdate, Nodes, Policy, PolicyChange, RangeBuilder, RangePage,
    TokenBuilder, Tokens, TxnBuilder, TxnOutcome, WriteBuilder, compare, operation,
};
pub use error::{Error, Outcome, Result};
#[cfg(feature = "manager")]
pub use node::{Inspection, Lead, Node, NodeBuilder, Prepared, Start, StartError, StopReason, inspect};

/// The example of the README is compiled like any other.
#[cfg(all(doctest, feature = "manager"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
