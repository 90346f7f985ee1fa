//! A directory that was put back to an older state: by a backup of its files, a snapshot of its disk, or a copy that was started.
//!
//! Owns the mark in its store and the words. What such a manager had promised since is forgotten there, so it never votes or serves
//! from that store again, and comes back as one whose store is damaged does. The mark binds the generation that it was made in: a
//! recovery from this very store ends what was promised before. Whether a directory was rolled back decides the machine, which has
//! the leader's word for it. Called where a manager stops, and by every way into its directory.

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::consensus::io::StopCause;
use quorate_core::ports::{MetaStore, StoreError, StoreResult};
use quorate_transport::Parting;

use super::directory;
use super::facts::Facts;
use super::stop::{StartError, StopReason};
use crate::keys::Keys;

/// Under which name the mark lies among the facts.
const NAME: &str = "rolled_back";

/// That this store holds less than it once held. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RollbackRecord {
    /// The last entry that a leader knows this manager to have had on its disk.
    #[prost(uint64, tag = "1")]
    acknowledged: u64,
    /// Where its log ended.
    #[prost(uint64, tag = "2")]
    last: u64,
    /// How many incarnations the cluster had had.
    #[prost(uint64, tag = "3")]
    generation: u64,
}

impl RollbackRecord {
    /// Under which name [`RollbackRecord::read`]'s argument lies.
    pub(crate) const NAME: &'static str = NAME;

    /// The mark, where it binds what these facts say.
    pub(crate) fn read(stored: Option<Bytes>, facts: &Facts) -> StoreResult<Option<Self>> {
        let Some(bytes) = stored else { return Ok(None) };
        let corrupt = |detail: String| StoreError::Corrupt { record: format!("meta {NAME}"), detail };
        let mark = Self::decode(bytes).map_err(|error| corrupt(error.to_string()))?;
        Ok((facts.lineage_list().generation() <= mark.generation).then_some(mark))
    }

    /// The last entry that is known to have been on this disk.
    pub(crate) const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What happened, what was not harmed, what to do.
    fn words(&self, facts: &Facts, directory: &Path) -> String {
        let (name, directory) = (facts.display_name(), directory.display());
        let manager = facts.managers.iter().find_map(|manager| manager.addresses.first());
        let manager = manager.map_or("HOST:PORT", String::as_str);
        format!(
            "{directory} is older than what the cluster knows that {name} held: entry {} was on its disk, and its log ends at {}. The directory was put back from a backup of files or of a disk, or it is a copy of one that is used elsewhere. What {name} had promised since is forgotten here, so it never votes or serves from this store again, and it stopped before that could do harm. The other managers go on, nothing acknowledged is lost, and nothing in the directory was changed. Next, if this is the directory of {name}: it comes back with a fresh store, under a new raft id (this store is moved aside, not deleted): quorate join --replace --data-dir {directory} --manager {manager}, then quorate run --data-dir {directory}. If it is a copy, and {name} runs elsewhere: remove the copy",
            self.acknowledged, self.last
        )
    }
}

/// The refusal to start from a directory that was rolled back; nothing for any other.
pub(super) fn check(stored: Option<Bytes>, facts: &Facts, directory: &Path) -> Result<(), StartError> {
    match RollbackRecord::read(stored, facts)? {
        Some(mark) => Err(StartError::RolledBack(mark.words(facts, directory))),
        None => Ok(()),
    }
}

/// Why a manager stops for what its machine has found. What binds the store for good is on its disk before anybody hears of it.
/// Blocks.
pub(super) fn stopped(
    cause: &StopCause,
    meta: &dyn MetaStore,
    facts: &Facts,
    directory: &Path,
    name_of: impl Fn(quorate_core::id::RaftId) -> String,
) -> StopReason {
    match cause {
        StopCause::RolledBack { asked, last } => {
            let generation = facts.lineage_list().generation();
            let mark = RollbackRecord { acknowledged: asked.0, last: last.0, generation };
            // What is on disk names managers that came later, too.
            let facts = &Facts::load(meta).ok().flatten().unwrap_or_else(|| facts.clone());
            match meta.put(&[(NAME, mark.encode_to_vec().into())]) {
                Ok(()) => StopReason::RolledBack(mark.words(facts, directory)),
                Err(error) => StopReason::DiskFailed(error.to_string()),
            }
        }
        StopCause::Overruled { leader, index, term } => {
            let (own, leader, directory) = (facts.display_name(), name_of(*leader), directory.display());
            StopReason::RolledBack(format!(
                "entry {index} is acknowledged and on this disk, and {leader}, which leads, sends another one of term {term} in its place: the directory of {leader}, or of a manager that voted for it, was put back to an older state (from a backup of files or of a disk, or a copy was started). {own} stopped so that it keeps what it has; nothing in {directory} was changed. Next: stop every manager, keep every directory, wipe nothing, and compare `quorate recover --dry-run` on all of them. To go on from what {own} holds: quorate recover --data-dir {directory}; the others then come back with quorate join --replace --token"
            ))
        }
        StopCause::Store(_) | StopCause::Apply(_) | StopCause::Invariant { .. } => StopReason::of(cause),
    }
}

/// What the other managers are told of such a stop, and of one for a damaged store: that starting this one again does not help.
pub(super) const fn parting(cause: &StopCause, reason: &StopReason) -> Option<Parting> {
    match (cause, reason) {
        (StopCause::Overruled { .. }, StopReason::RolledBack(_)) => Some(Parting::Overruled),
        (_, StopReason::RolledBack(_)) => Some(Parting::RolledBack),
        (_, StopReason::Damaged(_)) => Some(Parting::Damaged),
        _ => None,
    }
}

/// A stopped directory that was rolled back, in words; none for any other directory, also one whose node runs. Blocks.
///
/// # Errors
/// As [`crate::inspect()`].
pub fn rolled_back(directory: &Path) -> Result<Option<RolledBack>, StartError> {
    rolled_back_with(directory, &Keys::default())
}

/// As [`rolled_back`], with the key that opens the store.
///
/// # Errors
/// As [`crate::inspect()`].
pub fn rolled_back_with(directory: &Path, keys: &Keys) -> Result<Option<RolledBack>, StartError> {
    let Some((store, facts)) = directory::stopped(directory, keys)? else { return Ok(None) };
    let Some(mark) = RollbackRecord::read(store.fact(NAME)?, &facts)? else { return Ok(None) };
    Ok(Some(RolledBack {
        cluster_id: facts.cluster().to_string(),
        name: facts.display_name(),
        generation: facts.lineage_list().generation(),
        message: mark.words(&facts, directory),
    }))
}

/// What a directory that was rolled back says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolledBack {
    /// Base32.
    pub cluster_id: String,
    /// The node's name.
    pub name: String,
    /// The incarnation that the directory is of.
    pub generation: u64,
    /// What happened and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use quorate_core::id::{Lineage, LineageId};

    use super::*;

    #[test]
    fn the_mark_binds_its_generation_and_a_recovery_from_the_same_store_ends_it() {
        let facts = |incarnations: u8| {
            let lineage = Lineage((1..=incarnations).map(|n| LineageId::from_bytes([n; 16])).collect());
            Facts { name: "n2".into(), lineage: lineage.to_bytes().into(), ..Facts::default() }
        };
        let mark = RollbackRecord { acknowledged: 90, last: 40, generation: 1 };
        let stored = || Some(Bytes::from(mark.encode_to_vec()));
        let error = check(stored(), &facts(1), Path::new("/d")).unwrap_err();
        assert_eq!((error.exit_code(), error.command_exit_code()), (12, 1));
        let said = error.to_string();
        for words in ["entry 90", "ends at 40", "nothing acknowledged is lost", "quorate join --replace --data-dir /d"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(check(stored(), &facts(2), Path::new("/d")).is_ok(), "recovered from");
        assert!(check(None, &facts(1), Path::new("/d")).is_ok());
    }
}
