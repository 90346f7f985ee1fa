//! The replicated state: what committed entries do to the store.
//!
//! Owns the meaning of every command: transactions, revisions, history, the replay table, the state hash. Never decides
//! when; the consensus machine hands over what is committed. Called by the applier, and by readers with a view.

pub mod contract;
