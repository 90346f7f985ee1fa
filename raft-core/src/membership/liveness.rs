//! Which workers are there: the leader's judgement, from what the managers report of their sessions.
//!
//! Owns when a worker is ready and when it is down (design section 10). A worker is ready once a live manager reports it;
//! down when none has for the grace, counted from when it was last heard, and not before the leader has a full report from
//! every live manager. A worker whose manager died was not told: it first has to notice, and gets the time for that on
//! top. Whatever this leader has not been told about stays as it was recorded. Never reads a clock and never writes: time
//! comes in, changes go out. Called by the leader's liveness task only; another leader begins with an empty ledger.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{NodeId, RaftId};
use crate::membership::work::Presence;
use crate::mutants::{Mutant, on};

/// The times that count, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Without a session for so long, a worker is down.
    pub grace: u64,
    /// On top when its manager died: how long a worker may take to notice.
    pub notice: u64,
    /// A manager that has not reported for so long is not live.
    pub fresh: u64,
    /// A manager that is connected and has never reported is waited for so long, and then no longer.
    pub patience: u64,
    /// Most time that may pass between two calls; what is longer was a pause of the leader itself and does not count.
    pub step: u64,
}

impl Default for Timing {
    /// Those of design section 12: the transport finds out within 15 s, and that is the grace, too.
    fn default() -> Self {
        Self { grace: 15_000, notice: 15_000, fresh: 5_000, patience: 15_000, step: 2_000 }
    }
}

/// One manager's word on its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Random per start of the manager's process.
    pub instance: u64,
    /// Rises with every report of the instance, from 1.
    pub serial: u64,
    /// The serial of the report that this one follows on; 0: it is a full one.
    pub base: u64,
    /// Nodes with a session: all of them, or those that have come since.
    pub present: Vec<NodeId>,
    /// Nodes whose session has ended since, and for how long they had not been heard of by then.
    pub gone: Vec<(NodeId, u64)>,
}

/// A worker, or a node that no longer is one, with what is recorded about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Whether it is a worker: managers see each other.
    pub worker: bool,
    /// What the state says now.
    pub recorded: Option<Presence>,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there, or it is not.
    Is(NodeId, Presence),
    /// It is no worker any more: its record goes.
    Forget(NodeId),
}

/// What a look at everything came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Ascending by node.
    pub changes: Vec<Change>,
    /// After how many milliseconds the answer may be another one though nothing happened; `None`: not by time alone.
    pub wake: Option<u64>,
    /// Every live manager has reported: what is not `Down` and has no session has had one within the grace.
    pub complete: bool,
}

#[derive(Debug)]
struct Reporter {
    instance: u64,
    serial: u64,
    at: u64,
    sessions: BTreeSet<NodeId>,
}

/// What this leader has been told of one worker.
#[derive(Debug, Default)]
struct Trace {
    /// Managers that hold a session with it.
    held: usize,
    /// When it was last heard of, once nobody holds one.
    since: u64,
    /// Its manager died.
    orphan: bool,
}

/// Everything one leader has been told in one leadership.
#[derive(Debug)]
pub struct Ledger {
    timing: Timing,
    /// Time that counts, from 0.
    clock: u64,
    now: u64,
    managers: BTreeMap<RaftId, Reporter>,
    /// Connected managers without a report, and since when.
    awaited: BTreeMap<RaftId, u64>,
    workers: BTreeMap<NodeId, Trace>,
    complete_since: Option<u64>,
}

impl Ledger {
    /// An empty ledger for a leadership that begins now.
    pub const fn new(timing: Timing, now: u64) -> Self {
        Self {
            timing,
            clock: 0,
            now,
            managers: BTreeMap::new(),
            awaited: BTreeMap::new(),
            workers: BTreeMap::new(),
            complete_since: None,
        }
    }

    fn advance(&mut self, now: u64) {
        self.clock += now.saturating_sub(self.now).min(self.timing.step);
        self.now = self.now.max(now);
    }

    fn hold(&mut self, node: NodeId) {
        let trace = self.workers.entry(node).or_default();
        trace.held += 1;
        trace.orphan = false;
    }

    fn release(&mut self, node: NodeId, heard: u64, orphan: bool) {
        let Some(trace) = self.workers.get_mut(&node) else { return };
        trace.held = trace.held.saturating_sub(1);
        if heard >= trace.since {
            trace.since = heard;
            trace.orphan = orphan;
        }
    }

    /// Takes a report; false: it does not follow on what is known, a full one is needed.
    pub fn report(&mut self, now: u64, from: RaftId, report: Report) -> bool {
        self.advance(now);
        let known = self.managers.get(&from).map(|known| (known.instance, known.serial));
        if report.base == 0 {
            let restarted = known.is_some_and(|(instance, _)| instance != report.instance);
            let before = self.managers.remove(&from).map(|known| known.sessions).unwrap_or_default();
            let sessions: BTreeSet<NodeId> = report.present.into_iter().collect();
            for node in sessions.difference(&before) {
                self.hold(*node);
            }
            let clock = self.clock;
            for node in before.difference(&sessions) {
                self.release(*node, clock, restarted);
            }
            let Report { instance, serial, .. } = report;
            self.managers.insert(from, Reporter { instance, serial, at: clock, sessions });
            self.awaited.remove(&from);
            return true;
        }
        if known != Some((report.instance, report.base)) {
            return false;
        }
        let (clock, mut came, mut went) = (self.clock, Vec::new(), Vec::new());
        if let Some(reporter) = self.managers.get_mut(&from) {
            reporter.serial = report.serial;
            reporter.at = clock;
            went.extend(report.gone.into_iter().filter(|(node, _)| reporter.sessions.remove(node)));
            came.extend(report.present.into_iter().filter(|node| reporter.sessions.insert(*node)));
        }
        for (node, silent) in went {
            self.release(node, clock.saturating_sub(silent), false);
        }
        for node in came {
            self.hold(node);
        }
        true
    }

    /// Looks at everything. `managers` are all that have a record, each with whether the leader is connected to it (it is
    /// to itself); `candidates` are all nodes.
    pub fn decide(
        &mut self,
        now: u64,
        managers: &[(RaftId, bool)],
        candidates: impl IntoIterator<Item = Candidate>,
    ) -> Decision {
        self.advance(now);
        self.expire();
        let complete = self.is_complete(managers) || on(Mutant::SilenceIsAbsence);
        if complete {
            self.complete_since.get_or_insert(self.clock);
        }
        let everybody = managers.iter().all(|(id, _)| self.managers.contains_key(id));
        let mut decision = Decision { complete, ..Decision::default() };
        let mut due: Option<u64> = None;
        // While something is awaited, time alone may change the answer.
        if let Some(first) = self.managers.values().map(|reporter| reporter.at + self.timing.fresh + 1).min() {
            due = Some(first);
        }
        if let Some(first) = self.awaited.values().map(|since| since + self.timing.patience).min() {
            due = Some(due.map_or(first, |due| due.min(first)));
        }
        for Candidate { node, worker, recorded } in candidates {
            if !worker {
                if recorded.is_some() {
                    decision.changes.push(Change::Forget(node));
                }
                continue;
            }
            let trace = self.workers.get(&node);
            if trace.is_some_and(|trace| trace.held > 0) {
                if recorded != Some(Presence::Ready) {
                    decision.changes.push(Change::Is(node, Presence::Ready));
                }
                continue;
            }
            // Who was never there is not down: nobody knows.
            let ready = recorded == Some(Presence::Ready) || (recorded.is_none() && trace.is_some());
            let (true, true, Some(began)) = (ready, complete, self.complete_since) else { continue };
            let down_at = match trace {
                Some(trace) => {
                    let notice = if trace.orphan { self.timing.notice } else { 0 };
                    (trace.since + self.timing.grace + notice).max(began)
                }
                // Told by nobody so far: it may have been with a manager that died before this leader began.
                None if on(Mutant::SilenceIsAbsence) => began,
                None => began + self.timing.grace + if everybody { 0 } else { self.timing.notice },
            };
            if self.clock >= down_at {
                decision.changes.push(Change::Is(node, Presence::Down));
            } else {
                due = Some(due.map_or(down_at, |due| due.min(down_at)));
            }
        }
        decision.wake = due.map(|due| due.saturating_sub(self.clock).max(1));
        decision
    }

    /// Whether this leader has been told of a session with this node.
    pub fn is_present(&self, node: NodeId) -> bool {
        self.workers.get(&node).is_some_and(|trace| trace.held > 0)
    }

    /// Managers that have fallen silent hold nothing any more, and what is long settled is forgotten.
    fn expire(&mut self) {
        let silent: Vec<RaftId> = self
            .managers
            .iter()
            .filter(|(_, reporter)| self.clock - reporter.at > self.timing.fresh)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            if let Some(reporter) = self.managers.remove(&id) {
                for node in reporter.sessions {
                    self.release(node, reporter.at, true);
                }
            }
        }
        let settled = 4 * (self.timing.grace + self.timing.notice);
        let clock = self.clock;
        self.workers.retain(|_, trace| trace.held > 0 || trace.since + settled > clock);
    }

    /// Whether every connected manager has reported; one that never does is not waited for for ever.
    fn is_complete(&mut self, managers: &[(RaftId, bool)]) -> bool {
        let connected = |id: RaftId| managers.contains(&(id, true));
        self.awaited.retain(|id, _| connected(*id));
        let mut complete = !self.managers.is_empty();
        for (id, _) in managers.iter().filter(|(id, connected)| *connected && !self.managers.contains_key(id)) {
            let since = *self.awaited.entry(*id).or_insert(self.clock);
            complete &= self.clock - since >= self.timing.patience;
        }
        complete
    }
}

#[cfg(test)]
#[path = "liveness/tests.rs"]
mod tests;
