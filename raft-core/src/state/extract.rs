//! The few records of a snapshot that say whose it is, and a count of the rest.
//!
//! Owns what of a stream is kept in memory while it is only looked at: where the state stands, the cluster, its nodes, its
//! identity; never what users store. Called by whoever checks a backup or reads it through before anything is written.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message as _;

use crate::keyring::{KeyringRecord, is_sealed_section};
use crate::keyspace::Section;
use crate::ports::{StagedId, StagedSnapshot, StateRead, StoreResult, Visit};
use crate::state::layout;

/// How many records of a kind, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

#[derive(Default)]
struct Kept {
    records: BTreeMap<Bytes, Bytes>,
    amounts: BTreeMap<u8, Amount>,
    complete: bool,
}

/// Hears of each live record that may have a sealed part: its full key, and its value.
pub type Sealed = Box<dyn FnMut(&Bytes, &Bytes) -> StoreResult<()> + Send>;

/// What is kept of a stream; clones are handles to the same.
#[derive(Clone, Default)]
pub struct Extract(Arc<Mutex<Kept>>);

impl std::fmt::Debug for Extract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extract").field("records", &self.kept().records.len()).finish_non_exhaustive()
    }
}

impl Extract {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that a [`SnapshotReader`](super::SnapshotReader) writes to.
    #[must_use]
    pub fn stage(&self) -> Box<dyn StagedSnapshot> {
        self.stage_telling(Box::new(|_key, _value| Ok(())))
    }

    /// The same, and `sealed` hears of what may be sealed, once the keyring before it is kept. What it refuses refuses the stream.
    #[must_use]
    pub fn stage_telling(&self, sealed: Sealed) -> Box<dyn StagedSnapshot> {
        Box::new(Stage { extract: self.clone(), sealed })
    }

    /// The keyring is this one from now on: with copies for whoever reads here.
    pub fn set_keyring(&self, keyring: &KeyringRecord) {
        let stored = Bytes::from_static(layout::SYSTEM_KEYRING);
        self.kept().records.insert(stored, keyring.encode_to_vec().into());
    }

    /// Whether a whole stream was accepted.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.kept().complete
    }

    /// How much there is of the live records of a section.
    #[must_use]
    pub fn amount(&self, section: Section) -> Amount {
        self.kept().amounts.get(&(section as u8)).copied().unwrap_or_default()
    }
}

/// Whether a record is one that is kept.
fn is_kept(stored: &[u8]) -> bool {
    match stored.split_first() {
        Some((&layout::META | &layout::SYSTEM, _)) => true,
        Some((&layout::CURRENT, full)) => {
            let told = [Section::Cluster, Section::Node, Section::Removed, Section::Identity];
            told.iter().any(|section| full.first() == Some(&(*section as u8)))
        }
        Some(_) | None => false,
    }
}

struct Stage {
    extract: Extract,
    sealed: Sealed,
}

impl StagedSnapshot for Stage {
    fn write(&mut self, records: &[(Bytes, Bytes)]) -> StoreResult<()> {
        let mut kept = self.extract.kept();
        let mut sealed = Vec::new();
        for (stored, value) in records {
            if let [layout::CURRENT, section, ..] = stored[..] {
                let live = layout::Record::parse(stored, value.clone())?.to_key_value(layout::full_key(stored));
                let amount = kept.amounts.entry(section).or_default();
                amount.records += 1;
                amount.bytes += live.value.len() as u64;
                if is_sealed_section(&live.key) {
                    sealed.push((live.key, live.value));
                }
            }
            if is_kept(stored) {
                // Copied: a slice would hold the whole chunk in memory.
                kept.records.insert(Bytes::copy_from_slice(stored), Bytes::copy_from_slice(value));
            }
        }
        drop(kept);
        sealed.iter().try_for_each(|(key, value)| (self.sealed)(key, value))
    }

    fn finish(self: Box<Self>) -> StoreResult<StagedId> {
        self.extract.kept().complete = true;
        Ok(StagedId(0))
    }
}

impl StateRead for Extract {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        Ok(self.kept().records.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let kept = self.kept();
        for (key, value) in kept.records.range::<[u8], _>((Bound::Included(from), end)) {
            if visit(key, value) == Visit::Enough {
                break;
            }
        }
        Ok(())
    }
}
