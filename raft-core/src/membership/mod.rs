//! Membership: node records, who gets a seat, and what follows from it.
//!
//! Owns the records of nodes, the seat planner, what operators may wish for and what the records become: pure functions
//! all of them. Never changes a configuration or a record: the consensus machine proposes what they decide. Called by the
//! leader's consensus machine and by the managers' handlers.

pub mod plan;
pub mod quorum;
pub mod record;
pub mod settle;
pub mod wish;
