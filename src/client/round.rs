//! What the managers say of the quorum, once round.
//!
//! Owns the rule when a caller is told `QuorumLost` before its deadline: every manager that the client knows has said so
//! or cannot be reached, and at least one has said so. One manager alone may only be cut off from a majority that goes
//! on without it; managers that cannot be reached may only be out of the client's own reach. Called by the client for
//! each request.

use std::collections::BTreeSet;

use crate::error::Error;

/// The managers asked in this round, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Round {
    asked: BTreeSet<usize>,
    lost: Option<Error>,
}

impl Round {
    /// Who need not be asked again in this round.
    pub(super) const fn asked(&self) -> &BTreeSet<usize> {
        &self.asked
    }

    /// This manager says that the quorum is lost.
    pub(super) fn lost(&mut self, manager: usize, error: Error) {
        self.asked.insert(manager);
        self.lost = Some(error);
    }

    /// These managers could not be reached. The reason matters to the caller unless somebody has said more.
    pub(super) fn unreachable(&mut self, managers: &[usize]) {
        self.asked.extend(managers);
    }

    /// Somebody has said that the quorum is lost.
    pub(super) const fn is_grave(&self) -> bool {
        self.lost.is_some()
    }

    /// Somebody says something else: a new round begins.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Once all `managers` were asked: what they agree on, if it is that the quorum is lost. A new round begins.
    pub(super) fn end(&mut self, managers: usize) -> Option<Error> {
        if self.asked.len() < managers {
            return None;
        }
        std::mem::take(self).lost
    }
}
