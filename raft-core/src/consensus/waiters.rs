//! Who waits for which entry.
//!
//! Owns the map from (term, index, position) to tickets; it outlives leadership (design section 4, rule 9). Never
//! answers anybody: it says who is owed what. Called by the machine.

use std::collections::BTreeMap;

use super::io::Ticket;
use crate::id::{LogIndex, Term};

#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_index: BTreeMap<u64, (Term, Vec<Ticket>)>,
    count: usize,
}

/// What a committed entry means for those who wait at its index.
pub(super) enum Owed {
    /// It is theirs: the applier answers.
    Outcome(Vec<Ticket>),
    /// Another leader's entry stands there: theirs was never committed and never will be.
    Replaced(Vec<Ticket>),
    /// Nobody waits.
    Nothing,
}

impl Waiters {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Registers the callers of the commands in one entry, in order. Those of an older term at the same index are
    /// given back: their entry is overwritten here, but may live on elsewhere, so their outcome is unknown.
    pub(super) fn register(&mut self, index: LogIndex, term: Term, tickets: Vec<Ticket>) -> Vec<Ticket> {
        self.count += tickets.len();
        match self.by_index.insert(index.0, (term, tickets)) {
            Some((_, displaced)) => {
                self.count -= displaced.len();
                displaced
            }
            None => Vec::new(),
        }
    }

    pub(super) fn committed(&mut self, index: LogIndex, term: Term) -> Owed {
        match self.by_index.remove(&index.0) {
            Some((expected, tickets)) => {
                self.count -= tickets.len();
                if expected == term { Owed::Outcome(tickets) } else { Owed::Replaced(tickets) }
            }
            None => Owed::Nothing,
        }
    }

    /// Everybody, to be told that the outcome has to be asked for elsewhere.
    pub(super) fn all(&mut self) -> Vec<Ticket> {
        self.count = 0;
        std::mem::take(&mut self.by_index).into_values().flat_map(|(_, tickets)| tickets).collect()
    }

    /// The log ends at `last`: what stood above was another leader's to replace, though it may live on elsewhere. Nobody
    /// may wait until the log has grown back to where it was.
    pub(super) fn above(&mut self, last: LogIndex) -> Vec<Ticket> {
        let above = self.by_index.split_off(&(last.0 + 1));
        let tickets: Vec<Ticket> = above.into_values().flat_map(|(_, tickets)| tickets).collect();
        self.count -= tickets.len();
        tickets
    }

    /// A snapshot covers everything up to `index`: whatever happened there is no longer visible.
    pub(super) fn covered(&mut self, index: LogIndex) -> Vec<Ticket> {
        let later = self.by_index.split_off(&(index.0 + 1));
        let covered = std::mem::replace(&mut self.by_index, later);
        let tickets: Vec<Ticket> = covered.into_values().flat_map(|(_, tickets)| tickets).collect();
        self.count -= tickets.len();
        tickets
    }
}
