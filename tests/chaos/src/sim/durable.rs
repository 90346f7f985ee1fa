//! The synced part of a member's log, as an observer follows it.
//!
//! Owns which entries a power cut cannot take any more. Never reads a disk: whoever looks at one tells it. Called where something is
//! synced, where a process starts, and by the checks.

use std::collections::BTreeMap;

use quorate_core::log::{HardState, LogStart};
use quorate_core::ports::{LogBatch, LogReset};

/// The synced part of one member's log.
#[derive(Debug, Clone, Default)]
pub(super) struct DurableLog {
    pub(super) start: LogStart,
    pub(super) terms: BTreeMap<u64, u64>,
    pub(super) hard: HardState,
}

impl DurableLog {
    pub(super) fn write(&mut self, batch: &LogBatch) {
        if let Some(first) = batch.entries.first() {
            self.terms.split_off(&first.index.0);
            self.terms.extend(batch.entries.iter().map(|entry| (entry.index.0, entry.term.0)));
        }
        if let Some(hard) = batch.hard_state {
            self.hard = hard;
        }
        if let Some(cut) = batch.cut {
            self.terms = self.terms.split_off(&(cut.index.0 + 1));
            self.start = cut;
        }
    }

    pub(super) fn reset(&mut self, reset: LogReset) {
        self.terms.clear();
        self.start = reset.start;
        self.hard = reset.hard_state;
    }

    /// What was cut or came as a snapshot was committed, and so the same everywhere.
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.start.index.0 || self.terms.get(&index) == Some(&term)
    }
}
