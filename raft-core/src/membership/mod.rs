//! Membership: node records, and who gets a seat.
//!
//! Owns the records of nodes and the seat planner, a pure function. Never changes a configuration: the consensus
//! machine proposes what the planner decided. Called by the leader's consensus machine and by the managers' handlers.

pub mod plan;
pub mod quorum;
pub mod record;
pub mod wish;
