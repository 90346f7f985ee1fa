//! A directory that was put back to an older state: by a backup of its files, a snapshot of its disk, or a copy that was started.
//!
//! Owns the mark of it and the words. What such a manager had promised since is forgotten there, so it never votes or serves
//! from that store again, and comes back as one whose store is damaged does. Whether a directory was rolled back decides the machine,
//! which has the leader's word for it. Called by [`super::spent`], which keeps the mark, and where a manager stops.

use std::path::Path;

use quorate_core::consensus::io::StopCause;
use quorate_core::id::RaftId;

use super::facts::Facts;
use super::spent::{End, Mark, MarkRecord, another};
use super::stop::StopReason;

/// That this store holds less than it once held. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RollbackRecord {
    /// The last entry that a leader knows this manager to have had on its disk.
    #[prost(uint64, tag = "1")]
    pub(super) acknowledged: u64,
    /// Where its log ended.
    #[prost(uint64, tag = "2")]
    pub(super) last: u64,
    /// How many incarnations the cluster had had.
    #[prost(uint64, tag = "3")]
    pub(super) generation: u64,
}

impl MarkRecord for RollbackRecord {
    const NAME: &'static str = "rolled_back";

    fn generation(&self) -> u64 {
        self.generation
    }
}

impl RollbackRecord {
    /// What happened, what was not harmed, what to do.
    pub(super) fn words(&self, facts: &Facts, directory: &Path) -> String {
        let (name, directory, manager) = (facts.display_name(), directory.display(), another(facts));
        format!(
            "{directory} is older than what the cluster knows that {name} held: entry {} was on its disk, and its log ends at {}. The directory was put back from a backup of files or of a disk, or it is a copy of one that is used elsewhere. What {name} had promised since is forgotten here, so it never votes or serves from this store again, and it stopped before that could do harm. The other managers go on, nothing acknowledged is lost, and nothing in the directory was changed. Next, if this is the directory of {name}: it comes back with a fresh store, under a new raft id (this store is moved aside, not deleted): quorate join --replace --data-dir {directory} --manager {manager}, then quorate run --data-dir {directory}. If it is a copy, and {name} runs elsewhere: remove the copy",
            self.acknowledged, self.last
        )
    }
}

/// How a manager ends for what its machine has found.
pub(super) fn end_for(cause: &StopCause, facts: &Facts, directory: &Path, name_of: impl Fn(RaftId) -> String) -> End {
    match cause {
        StopCause::RolledBack { asked, last } => {
            let generation = facts.lineage_list().generation();
            End::Marked(Mark::RolledBack(RollbackRecord { acknowledged: asked.0, last: last.0, generation }))
        }
        StopCause::Overruled { leader, index, term } => {
            let (own, leader, directory) = (facts.display_name(), name_of(*leader), directory.display());
            End::For(StopReason::RolledBack(format!(
                "entry {index} is acknowledged and on this disk, and {leader}, which leads, sends another one of term {term} in its place: the directory of {leader}, or of a manager that voted for it, was put back to an older state (from a backup of files or of a disk, or a copy was started). {own} stopped so that it keeps what it has; nothing in {directory} was changed. Next: stop every manager, keep every directory, wipe nothing, and compare `quorate recover --dry-run` on all of them. To go on from what {own} holds: quorate recover --data-dir {directory}; the others then come back with quorate join --replace --token"
            )))
        }
        StopCause::Store(_) | StopCause::Apply(_) | StopCause::Invariant { .. } => End::For(StopReason::of(cause)),
    }
}
