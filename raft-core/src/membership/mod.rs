//! Membership: node records, who gets a seat, who is there.
//!
//! Owns the records of nodes, the seat planner and the judgement on workers' liveness, all pure. Never changes a configuration: the consensus
//! machine proposes what the planner decided. Called by the leader's consensus machine and by the managers' handlers.

pub mod assign;
pub mod liveness;
pub mod nodes;
pub mod plan;
pub mod quorum;
pub mod record;
pub mod work;
