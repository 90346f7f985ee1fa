//! When what was done to the cluster, and whether it took effect.
//!
//! Owns the one clock of a run and the list of its faults. Never does anything itself. Called by whoever does, and read by
//! the judgement and the report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// The one monotonic clock of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the run began.
    pub(super) fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whether a fault took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "effect", content = "proof", rename_all = "snake_case")]
pub enum Effect {
    /// It was seen to: how.
    Installed(String),
    /// This machine cannot do it: why.
    Skipped(String),
    /// It was done, and nothing showed that it took effect: what was looked at.
    Indeterminate(String),
}

/// One fault, from when to when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What was done.
    pub name: String,
    /// To which nodes, counted from 0.
    pub nodes: Vec<usize>,
    /// Nanoseconds since the run began.
    pub from_ns: u64,
    /// When it was over.
    pub to_ns: u64,
    /// Whether it took effect.
    #[serde(flatten)]
    pub effect: Effect,
}

/// The list, shared by all who write on it.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    pub(super) clock: Clock,
    faults: Arc<Mutex<Vec<Fault>>>,
    notes: Arc<Mutex<Vec<(u64, String)>>>,
}

impl Timeline {
    pub(super) fn new() -> Self {
        Self { clock: Clock::new(), faults: Arc::default(), notes: Arc::default() }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fault(&self, name: &str, nodes: &[usize], from_ns: u64, effect: Effect) {
        let to_ns = self.clock.now();
        if let Effect::Skipped(_) = &effect {
            // Once is enough: what a machine cannot do it cannot do a hundred times either.
            if self.list().iter().any(|fault| fault.name == name && fault.effect == effect) {
                return;
            }
        }
        self.list().push(Fault { name: name.to_owned(), nodes: nodes.to_vec(), from_ns, to_ns, effect });
    }

    /// Something worth reading that is no fault.
    pub(super) fn note(&self, text: impl Into<String>) {
        let at = self.clock.now();
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push((at, text.into()));
    }

    pub(super) fn notes(&self) -> Vec<(u64, String)> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        self.list().clone()
    }

    /// Whether each of these was tried, whatever came of it.
    pub(super) fn tried(&self, names: &[&str]) -> bool {
        let list = self.list();
        names.iter().all(|name| list.iter().any(|fault| fault.name == *name))
    }

    /// How often a fault of this name was seen to take effect.
    pub(super) fn installed(&self, name: &str) -> usize {
        let is = |fault: &&Fault| fault.name == name && matches!(fault.effect, Effect::Installed(_));
        self.list().iter().filter(is).count()
    }
}
