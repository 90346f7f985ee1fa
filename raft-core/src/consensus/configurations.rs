//! Every configuration that a stopped member's disk tells of, in order: the proof in the log.
//!
//! Owns the reading of configuration entries outside of the machine: what each one changes, and whether it took effect.
//! Never touches raft: the planner's arithmetic computes what raft itself computes. Called by `inspect` and by a recovery.

use raft::eraftpb::{self, ConfChangeTransition, ConfChangeType};

use super::convert;
use super::guard::Guard;
use crate::id::{Lineage, LogIndex, RaftId, Term};
use crate::log::{Configuration, EntryKind, LogEntry};
use crate::membership::plan::{self, SeatChange, SeatStep};
use crate::state::contract::{RecoveryStatus, StateStatus};

/// What became of a configuration entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It took effect; a later one has since, or this one is in force.
    Took,
    /// It did not take effect, on any member: made for another configuration or another incarnation.
    Void,
    /// Not applied here yet: with what lies before it in this log it would take effect.
    Pending,
}

/// One configuration entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationEntry {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The incarnation in which it was proposed, from 1; 0 when this member does not know it.
    pub generation: u64,
    /// The number of the configuration that it changes.
    pub number: u64,
    /// What it does; empty leaves a joint configuration.
    pub steps: Vec<SeatStep>,
    /// The voters that it makes; in a joint configuration the incoming half.
    pub voters: Vec<RaftId>,
    /// The outgoing half; empty unless joint.
    pub voters_outgoing: Vec<RaftId>,
    /// What became of it.
    pub standing: Standing,
}

/// A configuration entry taken apart; `None` for one that cannot be read.
struct Change {
    guard: Guard,
    steps: Vec<SeatStep>,
    joint: bool,
}

impl Change {
    fn of(entry: &LogEntry) -> Option<Self> {
        let change = convert::conf_change(&entry.data)?;
        let guard = Guard::of(&change)?;
        let steps = change.changes.iter().map(step).collect();
        Some(Self { guard, steps, joint: change.transition() != ConfChangeTransition::Auto })
    }

    /// The configuration that follows from `from`.
    fn apply_to(&self, from: &Configuration) -> Configuration {
        if self.steps.is_empty() {
            return plan::leave(from);
        }
        let joint = SeatChange::Joint { steps: self.steps.clone() };
        let mut to = joint.apply_to(from);
        if !self.joint {
            to.voters_outgoing.clear();
            to = plan::leave(&to);
        }
        to
    }
}

fn step(single: &eraftpb::ConfChangeSingle) -> SeatStep {
    let id = RaftId(single.node_id);
    match single.change_type() {
        ConfChangeType::AddNode => SeatStep::AddVoter(id),
        ConfChangeType::AddLearnerNode => SeatStep::AddLearner(id),
        ConfChangeType::RemoveNode => SeatStep::Remove(id),
    }
}

/// Every raft id that a configuration entry names; none for another kind of entry.
pub fn raft_ids(entry: &LogEntry) -> Vec<RaftId> {
    if entry.kind != EntryKind::Config {
        return Vec::new();
    }
    let Some(Change { guard, steps, .. }) = Change::of(entry) else { return Vec::new() };
    let of_step = |step: &SeatStep| match *step {
        SeatStep::AddVoter(id) | SeatStep::AddLearner(id) | SeatStep::Remove(id) => id,
    };
    guard.before.iter().chain(&guard.after).copied().map(RaftId).chain(steps.iter().map(of_step)).collect()
}

/// The configuration entries among `entries` (a whole log, in order), judged by the state that stands at `state.applied`.
///
/// Of an entry that cannot be read nothing is told but its place; it is void.
pub fn list(
    state: &StateStatus,
    recovery: &RecoveryStatus,
    lineage: &Lineage,
    entries: &[LogEntry],
) -> Vec<ConfigurationEntry> {
    let mut in_force = (state.configuration.clone(), state.configuration_number);
    let mut told: Vec<ConfigurationEntry> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Config) {
        let Some(change) = Change::of(entry) else {
            told.push(unreadable(entry));
            continue;
        };
        let Change { guard, steps, joint } = &change;
        let of = lineage.0.iter().position(|id| guard.lineage == id.as_bytes().as_slice());
        let generation = of.map_or(0, |at| at as u64 + 1);
        let current = generation == lineage.generation();
        let ids = |raw: &[u64]| raw.iter().copied().map(RaftId).collect::<Vec<_>>();
        let mut voters = ids(&guard.after);
        let mut voters_outgoing = if *joint && !steps.is_empty() { ids(&guard.before) } else { Vec::new() };
        let standing = if entry.index <= state.applied {
            // Each number was made by one entry: the first with it, unless a recovery made that number.
            let mine = if current {
                guard.number >= recovery.configuration_number
            } else {
                guard.number + 1 < recovery.configuration_number
            };
            let first = !told.iter().any(|other| other.standing == Standing::Took && other.number == guard.number);
            if mine && first && guard.number < state.configuration_number { Standing::Took } else { Standing::Void }
        } else if current && lineage.current().is_some_and(|id| guard.is_current(id, in_force.1, &in_force.0)) {
            let next = change.apply_to(&in_force.0);
            voters.clone_from(&next.voters);
            voters_outgoing.clone_from(&next.voters_outgoing);
            in_force = (next, in_force.1 + 1);
            Standing::Pending
        } else {
            Standing::Void
        };
        let steps = steps.clone();
        let (index, term, number) = (entry.index, entry.term, guard.number);
        told.push(ConfigurationEntry { index, term, generation, number, steps, voters, voters_outgoing, standing });
    }
    told
}

fn unreadable(entry: &LogEntry) -> ConfigurationEntry {
    ConfigurationEntry {
        index: entry.index,
        term: entry.term,
        generation: 0,
        number: 0,
        steps: Vec::new(),
        voters: Vec::new(),
        voters_outgoing: Vec::new(),
        standing: Standing::Void,
    }
}
