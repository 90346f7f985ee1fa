//! The chaos harness: proves what quorate promises under faults, and proves the proof.
//!
//! Owns the simulator of whole clusters ([`sim`]), the runs of real ones ([`real`]), the histories that both record
//! ([`history`]), the checkers that judge them ([`check`]) and the page that shows it ([`report`]). Never part of a program that people run. Called by the binary `chaos`, by the tests of this
//! package, and by embedders who test a controller of their own.

pub mod check;
pub mod history;
pub mod hunt;
pub mod kept;
pub mod real;
pub mod report;
pub mod repro;
pub mod runner;
pub mod scenarios;
pub mod shrink;
pub mod sim;
