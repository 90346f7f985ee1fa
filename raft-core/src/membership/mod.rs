//! Membership: node records, who gets a seat, who is there, and what follows from it.
//!
//! Owns the records of nodes, the seat planner, what operators may wish for, what the records become, and the judgements on
//! workers' liveness, on who gets in among the managers, and on what others say of a manager: pure functions all of them. Never changes a configuration or a record: the consensus machine proposes
//! what they decide. Called by the leader's consensus machine and by the managers' handlers.

#[cfg(feature = "consensus")]
pub mod admission;
pub mod assign;
#[cfg(feature = "consensus")]
pub mod hearsay;
pub mod liveness;
pub mod naming;
pub mod nodes;
pub mod operators;
pub mod plan;
pub mod quorum;
pub mod record;
pub mod removed;
pub mod settle;
pub mod trust;
pub mod upgrade;
pub mod wish;
pub mod work;
