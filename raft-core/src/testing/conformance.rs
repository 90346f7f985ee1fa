//! One suite of scenarios that every store must pass.
//!
//! Owns what "keeps the contract of the ports" means, as scenarios over any store that can be opened, opened again and,
//! where it can be done, robbed of what it had not synced. Knows no store. Called by the tests of the memory store and of
//! `quorate-storage` through the macro [`store_conformance`](crate::store_conformance), one test per scenario.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this module is a test suite that lives in a library so that two crates can run it"
)]

use bytes::Bytes;

use crate::id::{LogIndex, RaftId, Term};
use crate::log::{EntryKind, HardState, LogEntry, LogStart};
use crate::ports::{
    Boot, LogBatch, LogReset, OpenStore, RecoveryWrite, StateRead, StoreError, StoreResult, Visit, WriteSet,
};

mod log;
mod random;
mod state;

/// A store that a scenario drives; new and empty when it is handed over.
pub trait StoreUnderTest {
    /// Opens it, the first time or again. The scenario has dropped every handle of before.
    ///
    /// # Errors
    /// As the store's own opening.
    fn open(&mut self) -> StoreResult<OpenStore>;

    /// Takes away everything that was not synced, as a power cut may; the scenario has dropped every handle. `false`
    /// where this store cannot do so.
    fn lose_unsynced(&mut self) -> bool;
}

macro_rules! scenarios {
    ($d:tt $($module:ident :: $name:ident,)+) => {
        $(#[doc(hidden)] pub use $module::$name;)+

        /// Runs the whole conformance suite as tests of the calling module, one per scenario. Takes an expression that
        /// makes a new, empty [`StoreUnderTest`](crate::testing::conformance::StoreUnderTest).
        #[macro_export]
        macro_rules! store_conformance {
            ($d fresh:expr) => {
                $(
                    #[test]
                    fn $name() {
                        $d crate::testing::conformance::$name(&mut $d fresh);
                    }
                )+
            };
        }
    };
}

scenarios! { $
    log::an_empty_store_boots_with_nothing,
    log::appended_entries_come_back_after_a_reopen,
    log::an_overwrite_removes_every_later_entry_in_the_same_batch,
    log::a_truncated_index_written_again_in_one_group_holds_the_last_write,
    log::a_hard_state_never_comes_back_ahead_of_its_entries,
    log::a_group_that_would_tear_the_log_is_refused,
    log::a_cut_moves_the_start_and_hides_what_lies_below,
    log::a_large_cut_comes_back_whole,
    log::boot_names_the_runs_of_equal_terms,
    log::a_range_is_limited_by_bytes_but_gives_at_least_one,
    log::entries_that_are_not_there_are_not_found,
    state::a_commit_is_visible_at_once_and_as_a_whole,
    state::a_later_write_of_a_key_in_one_set_wins,
    state::a_range_is_removed_before_the_writes_of_its_set,
    state::a_scan_keeps_order_and_bounds_and_stops_when_told,
    state::a_view_does_not_change_while_writes_go_on,
    state::only_an_empty_store_can_be_founded,
    state::a_foundation_comes_back,
    state::an_installation_replaces_state_and_log,
    state::an_installation_inside_a_longer_log_empties_it,
    state::a_second_installation_replaces_the_first,
    state::a_view_from_before_an_installation_keeps_the_old_state,
    state::a_snapshot_that_was_not_installed_leaves_the_old_state,
    state::a_discarded_snapshot_cannot_be_installed,
    state::a_later_snapshot_forgets_the_one_before,
    state::snapshot_records_out_of_order_are_refused,
    state::a_recovery_is_durable_as_a_whole_and_takes_nothing_from_the_log,
    state::a_recovery_that_would_tear_the_log_changes_nothing,
    state::facts_come_back_and_are_no_state,
    state::a_power_cut_leaves_what_was_synced_and_what_came_before_it,
    state::a_fact_makes_everything_before_it_durable,
    random::random_work_equals_the_model,
}

/// Entry `index` of `term` with a payload that tells them apart.
fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        index: LogIndex(index),
        term: Term(term),
        kind: if index.is_multiple_of(7) { EntryKind::Config } else { EntryKind::Normal },
        data: Bytes::from(format!("data {index}/{term}")),
        context: if index.is_multiple_of(3) { Bytes::from_static(b"context") } else { Bytes::new() },
    }
}

fn entries(from: u64, to: u64, term: u64) -> Vec<LogEntry> {
    (from..=to).map(|index| entry(index, term)).collect()
}

fn hard(term: u64, commit: u64) -> HardState {
    HardState { term: Term(term), vote: RaftId(term), commit: LogIndex(commit) }
}

fn start(index: u64, term: u64) -> LogStart {
    LogStart { index: LogIndex(index), term: Term(term) }
}

fn reset(index: u64, term: u64) -> LogReset {
    LogReset { start: start(index, term), hard_state: hard(term, index) }
}

/// Entries with the hard state that goes with them.
fn batch(entries: Vec<LogEntry>, commit: u64) -> LogBatch {
    let term = entries.last().expect("a batch with entries").term.0;
    LogBatch { entries, hard_state: Some(hard(term, commit)), cut: None }
}

fn cut(index: u64, term: u64) -> LogBatch {
    LogBatch { cut: Some(start(index, term)), ..LogBatch::default() }
}

fn set(pairs: &[(&str, &str)]) -> WriteSet {
    let mut writes = WriteSet::default();
    for (key, value) in pairs {
        writes.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    }
    writes
}

fn records(pairs: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    pairs
        .iter()
        .map(|(key, value)| (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes())))
        .collect()
}

/// Everything a reader sees, in order.
fn all(state: &dyn StateRead) -> Vec<(Vec<u8>, Vec<u8>)> {
    range(state, b"", b"")
}

fn range(state: &dyn StateRead, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    state
        .scan(from, to, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Visit::More
        })
        .unwrap();
    found
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// The whole log as the reader sees it.
fn whole_log(open: &OpenStore, boot: &Boot) -> Vec<LogEntry> {
    if boot.last == boot.start.index {
        return Vec::new();
    }
    open.log_reader.entries(boot.start.index.next(), boot.last.next(), u64::MAX).unwrap()
}

fn assert_not_found(open: &OpenStore, index: u64) {
    let found = open.log_reader.entries(LogIndex(index), LogIndex(index + 1), u64::MAX);
    assert_eq!(found, Err(StoreError::NotFound { index: LogIndex(index) }));
}
