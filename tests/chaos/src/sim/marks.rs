//! Coverage marks: what a run has met, so that a fault which never happened is not taken for one that was survived.
//!
//! Owns the list of marks that many seeds must reach together. Never influences a run. Called by the world.

use std::collections::BTreeMap;

use super::acts::Act;
use super::world::World;
use quorate_core::consensus::io::RaftRole;
use quorate_core::id::RaftId;

/// What happened, and to whom or when.
pub type Mark = (&'static str, &'static str);

/// Marks that the profile `mixed` must reach within 2,000 seeds.
pub const REQUIRED: &[Mark] = &[
    ("crash", "leader"),
    ("crash", "follower"),
    ("crash", "standby"),
    ("crash", "candidate"),
    ("crash", "joint"),
    ("crash", "single voter"),
    ("crash", "loses unsynced"),
    ("crash", "tears a batch"),
    ("rot", "leader"),
    ("rot", "follower"),
    ("rot", "found"),
    ("frozen faults", "in the liveness phase"),
    ("doom", "leader"),
    ("doom", "follower"),
    ("doom", "joint"),
    ("cut", "leader"),
    ("cut", "follower"),
    ("cut", "joint"),
    ("clog", "leader"),
    ("fail_sync", "leader"),
    ("fail_sync", "follower"),
    ("pause", "leader"),
    ("pause", "follower"),
    ("slow", "leader"),
    ("slow", "follower"),
    ("hang", "leader"),
    ("hang", "follower"),
    ("shortage", "leader"),
    ("shortage", "follower"),
    ("drift", "leader"),
    ("jump", "leader"),
    ("replace", "follower"),
    ("transfer", "any"),
    ("add_manager", "any"),
    ("add_worker", "any"),
    ("promote", "any"),
    ("wish", "leader"),
    ("wish", "follower"),
    ("max_voters", "any"),
    ("away", "leader"),
    ("away", "follower"),
    ("destroy", "leader"),
    ("destroy", "follower"),
    ("reinstall", "leader"),
    ("reinstall", "follower"),
    ("finish", "any"),
    ("note", "leader"),
    ("recover", "follower"),
    ("recover", "leader"),
    ("recover", "others live"),
    ("snapshot installed", "any"),
    ("snapshot installed", "joint"),
    ("snapshot refused", "any"),
    ("entry replaced", "any"),
    ("old entries fetched", "any"),
    ("retry answered from the replay table", "any"),
    ("joint change", "begun"),
    ("configuration", "one voter"),
    ("configuration", "three voters"),
    ("configuration", "five voters"),
    ("configuration", "seven voters"),
    ("lease", "expired"),
    ("lease", "revoked"),
    ("worker", "down"),
    ("worker", "told what is older"),
    ("watch", "cut"),
    ("watch", "compacted"),
    ("door", "a manager was turned away"),
    ("door", "let in on a word"),
    ("door", "a claim was turned away"),
    ("hearsay", "a lie was told"),
    ("hearsay", "is none any more"),
    ("hearsay", "goes on as the manager that it is"),
];

/// The marks reached, with how often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    pub(super) fn hit(&mut self, what: &'static str, whom: &'static str) {
        *self.0.entry((what, whom)).or_default() += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(*mark).or_default() += count;
        }
    }

    /// How often each was reached.
    #[must_use]
    pub const fn reached(&self) -> &BTreeMap<Mark, u64> {
        &self.0
    }

    /// The required ones that were not reached.
    #[must_use]
    pub fn missed(&self) -> Vec<Mark> {
        REQUIRED.iter().copied().filter(|mark| !self.0.contains_key(mark)).collect()
    }
}

impl World {
    /// An act is about to be performed: on whom, in which role, and whether voters are changing.
    pub(super) fn mark_act(&mut self, act: &Act) {
        let name = act.name();
        let whom: Vec<u64> = match act {
            Act::Crash { id, .. }
            | Act::Doom { id, .. }
            | Act::FailSync { id, .. }
            | Act::Pause { id, .. }
            | Act::Slow { id, .. }
            | Act::Replace { id }
            | Act::Rot { id, .. }
            | Act::Hang { id, .. }
            | Act::Shortage { id, .. }
            | Act::Drift { id, .. }
            | Act::Jump { id, .. }
            | Act::Wish { id, .. }
            | Act::Away { id, .. }
            | Act::Destroy { id }
            | Act::Label { id, .. }
            | Act::Hold { id, .. }
            | Act::Reinstall { id, .. }
            | Act::Recover { id, .. }
            | Act::Note { at: id } => vec![*id],
            Act::Cut { links, .. } | Act::Clog { links, .. } => links.iter().map(|(from, _)| *from).collect(),
            Act::Transfer { .. }
            | Act::Record
            | Act::AddManager
            | Act::AddWorker { .. }
            | Act::Promote { .. }
            | Act::MaxVoters { .. }
            | Act::Finish => Vec::new(),
        };
        self.marks.hit(name, "any");
        for id in whom {
            let Some(status) = self.status(RaftId(id)) else { continue };
            let role = match status.role {
                Some(RaftRole::Leader) => "leader",
                Some(RaftRole::Candidate) => "candidate",
                Some(RaftRole::Follower) | None if !status.configuration.is_voter(RaftId(id)) => "standby",
                Some(RaftRole::Follower) | None => "follower",
            };
            let (joint, single) = (status.configuration.is_joint(), status.configuration.voters == [RaftId(id)]);
            self.marks.hit(name, role);
            if joint {
                self.marks.hit(name, "joint");
            }
            if single {
                self.marks.hit(name, "single voter");
            }
        }
        if let Act::Recover { alive: true, .. } = act {
            self.marks.hit(name, "others live");
        }
    }
}

impl World {
    /// The marks of acts, and those that the counts say.
    pub(super) fn all_marks(&self) -> Marks {
        let mut marks = self.marks.clone();
        let report = &self.report;
        for (what, whom, count) in [
            ("snapshot installed", "any", report.snapshots_installed),
            ("snapshot refused", "any", report.snapshots_refused),
            ("entry replaced", "any", report.replaced),
            ("old entries fetched", "any", report.fetches),
            ("lease", "expired", report.expired),
            ("lease", "revoked", report.revoked),
            ("worker", "down", report.workers_down),
            ("worker", "told what is older", report.workers_ahead),
            ("watch", "cut", report.watches_cut),
            ("watch", "compacted", report.watches_compacted),
            ("crash", "loses unsynced", report.lost_batches),
            ("crash", "tears a batch", report.torn),
            ("rot", "found", report.damage_found),
        ] {
            if count > 0 {
                marks.hit(what, whom);
            }
        }
        for configuration in self.checks.iter().flat_map(super::check::Checks::all_configurations) {
            let whom = match (configuration.is_joint(), configuration.voters.len()) {
                (true, _) => {
                    marks.hit("joint change", "begun");
                    continue;
                }
                (false, 1) => "one voter",
                (false, 3) => "three voters",
                (false, 5) => "five voters",
                (false, 7) => "seven voters",
                (false, _) => continue,
            };
            marks.hit("configuration", whom);
        }
        marks
    }
}
