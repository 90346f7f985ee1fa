//! A store that no manager runs on again: it was put back to an older state, or what it holds is damaged.
//!
//! Owns how that is marked among its facts, and who is refused for it. The mark is on the disk before anybody hears of it. It binds the
//! generation that it was made in: a recovery from this very store, which reads and judges all of it first, ends what was promised
//! before. What a mark says is with each kind of it, in [`super::rolled_back`] and [`super::damaged`]. Called where a manager stops, and
//! by every way into its directory.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_core::ports::{MetaStore, StoreError, StoreResult};
use quorate_transport::Parting;

use super::damaged::DamageRecord;
use super::directory;
use super::ending::Parts;
use super::facts::{Facts, Layout};
use super::rolled_back::RollbackRecord;
use super::stop::{StartError, StopReason};
use crate::keys::Keys;
use crate::status::Health;

/// A record that is a mark.
pub(super) trait MarkRecord: Message + Default {
    /// Under which name it lies among the facts.
    const NAME: &'static str;

    /// How many incarnations the cluster had had when it was made.
    fn generation(&self) -> u64;
}

/// The mark of one kind, where it binds what these facts say.
fn binding<R: MarkRecord>(fact: &impl Fn(&str) -> StoreResult<Option<Bytes>>, facts: &Facts) -> StoreResult<Option<R>> {
    let Some(bytes) = fact(R::NAME)? else { return Ok(None) };
    let corrupt = |detail: String| StoreError::Corrupt { record: format!("meta {}", R::NAME), detail };
    let mark = R::decode(bytes).map_err(|error| corrupt(error.to_string()))?;
    Ok((facts.lineage_list().generation() <= mark.generation()).then_some(mark))
}

/// Why a store is never run on again.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    /// It holds less than it once held.
    RolledBack(RollbackRecord),
    /// What it holds is not what was written.
    Damaged(DamageRecord),
}

impl Mark {
    /// The mark that binds the store with these facts.
    pub(super) fn read(fact: impl Fn(&str) -> StoreResult<Option<Bytes>>, facts: &Facts) -> StoreResult<Option<Self>> {
        match binding(&fact, facts)? {
            Some(mark) => Ok(Some(Self::RolledBack(mark))),
            None => Ok(binding(&fact, facts)?.map(Self::Damaged)),
        }
    }

    /// Writes it down. Blocks.
    pub(super) fn put(&self, meta: &dyn MetaStore) -> StoreResult<()> {
        fn named<R: MarkRecord>(mark: &R) -> (&'static str, Bytes) {
            (R::NAME, mark.encode_to_vec().into())
        }
        meta.put(&[match self {
            Self::RolledBack(mark) => named(mark),
            Self::Damaged(mark) => named(mark),
        }])
    }

    /// The last entry that is known to have been on this disk, where it was put back.
    pub(super) const fn acknowledged(&self) -> Option<u64> {
        match self {
            Self::RolledBack(mark) => Some(mark.acknowledged),
            Self::Damaged(_) => None,
        }
    }

    /// What was found, where it is damaged.
    pub(super) fn damage(&self) -> Option<&str> {
        match self {
            Self::RolledBack(_) => None,
            Self::Damaged(mark) => Some(&mark.what),
        }
    }

    /// What happened, what was not harmed, what to do.
    fn words(&self, facts: &Facts, directory: &Path) -> String {
        match self {
            Self::RolledBack(mark) => mark.words(facts, directory),
            Self::Damaged(mark) => mark.words(facts, directory),
        }
    }

    fn reason(&self, words: String) -> StopReason {
        match self {
            Self::RolledBack(_) => StopReason::RolledBack(words),
            Self::Damaged(_) => StopReason::Damaged(words),
        }
    }
}

/// Where another manager is, for a command that is to be typed.
pub(super) fn another(facts: &Facts) -> &str {
    facts.managers.iter().find_map(|manager| manager.addresses.first()).map_or("HOST:PORT", String::as_str)
}

/// The refusal to start from a store that is marked; nothing for any other.
pub(super) fn check(meta: &dyn MetaStore, facts: &Facts, directory: &Path) -> Result<(), StartError> {
    match Mark::read(|name| meta.get(name), facts)? {
        Some(mark @ Mark::RolledBack(_)) => Err(StartError::RolledBack(mark.words(facts, directory))),
        Some(mark @ Mark::Damaged(_)) => Err(StartError::Damaged(mark.words(facts, directory))),
        None => Ok(()),
    }
}

/// How a manager ends.
pub(super) enum End {
    /// For this reason.
    For(StopReason),
    /// For what its store is to be marked with first.
    Marked(Mark),
}

impl End {
    /// What the other managers are told of it: that starting this one again does not help.
    pub(super) const fn parting(&self) -> Option<Parting> {
        match self {
            Self::Marked(Mark::RolledBack(_)) => Some(Parting::RolledBack),
            Self::Marked(Mark::Damaged(_)) | Self::For(StopReason::Damaged(_)) => Some(Parting::Damaged),
            // Without a mark there is nothing wrong with its own store.
            Self::For(StopReason::RolledBack(_)) => Some(Parting::Overruled),
            Self::For(_) => None,
        }
    }

    /// Waits for the parts of the manager, and for the mark, but for no disk that does not answer. Why the manager has stopped: of
    /// a mark that is on the disk; or, where the disk has not taken it, with a word that nobody but who reads it knows.
    ///
    /// Not cancel safe: nobody is told.
    pub(super) async fn told(
        self,
        parts: Parts,
        meta: Arc<dyn MetaStore>,
        facts: &Facts,
        directory: &Path,
    ) -> StopReason {
        let mark = match self {
            Self::For(reason) => {
                drop(meta);
                return match parts.ended().await {
                    Err(left) if reason == StopReason::Asked => StopReason::DiskFailed(left),
                    Ok(()) | Err(_) => reason,
                };
            }
            Self::Marked(mark) => mark,
        };
        let to_write = mark.clone();
        let write = move || {
            // What is on disk names managers that came later, too.
            let known = Facts::load(&*meta).ok().flatten();
            (to_write.put(&*meta), known)
        };
        let (written, known) = match parts.ended_with("quorate-mark", write).await {
            Ok((written, known)) => (written.map_err(|error| error.to_string()), known),
            Err(left) => (Err(left), None),
        };
        let words = mark.words(known.as_ref().unwrap_or(facts), directory);
        mark.reason(match written {
            Ok(()) => words,
            Err(why) => format!(
                "{words}. But the disk did not take the mark of that ({why}), so that a start would not know of it: do not start it from this directory again. Before `quorate join --replace`, move {} aside by hand",
                Layout::new(directory).store().display()
            ),
        })
    }
}

/// A stopped directory that is never run again, because it was put back to an older state or is damaged, in words; none for any other
/// directory, also one whose node runs. Blocks.
///
/// # Errors
/// As [`crate::inspect()`].
pub fn spent(directory: &Path) -> Result<Option<Spent>, StartError> {
    spent_with(directory, &Keys::default())
}

/// As [`spent`], with the key that opens the store.
///
/// # Errors
/// As [`crate::inspect()`].
pub fn spent_with(directory: &Path, keys: &Keys) -> Result<Option<Spent>, StartError> {
    let Some((store, facts)) = directory::stopped(directory, keys)? else { return Ok(None) };
    let Some(mark) = Mark::read(|name| store.fact(name), &facts)? else { return Ok(None) };
    Ok(Some(Spent {
        cluster_id: facts.cluster().to_string(),
        name: facts.display_name(),
        generation: facts.lineage_list().generation(),
        health: match mark {
            Mark::RolledBack(_) => Health::RolledBack,
            Mark::Damaged(_) => Health::Damaged,
        },
        message: mark.words(&facts, directory),
    }))
}

/// What a directory that is never run again says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spent {
    /// Base32.
    pub cluster_id: String,
    /// The node's name.
    pub name: String,
    /// The incarnation that the directory is of.
    pub generation: u64,
    /// Rolled back, or damaged.
    pub health: Health,
    /// What happened and what to do.
    pub message: String,
}

#[cfg(test)]
#[path = "spent_tests.rs"]
mod tests;
