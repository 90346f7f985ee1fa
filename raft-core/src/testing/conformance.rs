//! One suite of scenarios that every store must pass.
