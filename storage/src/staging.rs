//! Where a received snapshot waits: the state family that is not in force.
//!
//! Owns which snapshot is being received or is finished; there is at most one. Records go through the journal like every
//! other write, in batches as they come, so memory stays bounded; they become part of the state only by the installation.
//! Whatever was not installed is cleared when the next one begins, when it is dropped or discarded, and when the store is
//! opened. Clearing takes as long as there is much to clear, and the place is held for so long: that is nobody's wait, since the node
//! receives one snapshot at a time, from its beginning to its installation or its end, and discards it on a thread of its own. Never
//! switches anything. Called by the receiver of a snapshot and by the applier's installation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_core::ports::{StagedId, StagedSnapshot, Staging, StoreError, StoreResult};

use crate::db::{Store, Touch};
use crate::families::{Family, state_key};

/// The place for one snapshot.
pub(crate) struct Stage {
    store: Arc<Store>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// The newest snapshot begun.
    current: u64,
    finished: bool,
}

impl Stage {
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, place: Mutex::default() })
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the installation of the finished snapshot `staged`; it is gone from here then. Nobody begins another one
    /// meanwhile: that would clear the family which is being switched to.
    pub(crate) fn install(&self, staged: StagedId, install: impl FnOnce() -> StoreResult<()>) -> StoreResult<()> {
        let mut place = self.place();
        if place.current != staged.0 || !place.finished {
            return Err(gone(staged.0));
        }
        place.finished = false;
        place.current += 1;
        install()
    }

    fn family(&self) -> Family {
        self.store.active().other()
    }

    /// Forgets what was written under `id`, when it is still what lies here.
    fn forget(&self, id: u64) -> StoreResult<()> {
        let mut place = self.place();
        if place.current == id {
            place.current += 1;
            place.finished = false;
            self.store.clear(self.family())?;
        }
        Ok(())
    }
}

fn gone(id: u64) -> StoreError {
    StoreError::Corrupt {
        record: format!("staged snapshot {id}"),
        detail: "it was discarded, replaced by a later one, or installed before; nothing was changed".to_owned(),
    }
}

/// The receiver's port.
pub(crate) struct Stager(pub(crate) Arc<Stage>);

impl Staging for Stager {
    fn begin(&self) -> StoreResult<Box<dyn StagedSnapshot>> {
        let stage = &self.0;
        stage.store.alive()?;
        let mut place = stage.place();
        stage.store.clear(stage.family())?;
        place.current += 1;
        place.finished = false;
        Ok(Box::new(Receiving { stage: Arc::clone(stage), id: place.current, last: None, done: false }))
    }

    fn discard(&self, staged: StagedId) -> StoreResult<()> {
        self.0.store.alive()?;
        self.0.forget(staged.0)
    }
}

/// A snapshot while its records come in.
struct Receiving {
    stage: Arc<Stage>,
    id: u64,
    last: Option<Bytes>,
    done: bool,
}

impl StagedSnapshot for Receiving {
    fn write(&mut self, records: &[(Bytes, Bytes)]) -> StoreResult<()> {
        let store = &self.stage.store;
        store.alive()?;
        // Held while writing: nobody may begin another one in between.
        let place = self.stage.place();
        if place.current != self.id {
            return Err(gone(self.id));
        }
        let family = self.stage.family();
        let mut batch = store.batch()?;
        for (key, value) in records {
            if let Some(last) = self.last.as_ref().filter(|last| *last >= key) {
                return Err(StoreError::Corrupt {
                    record: format!("snapshot record `{}`", key.escape_ascii()),
                    detail: format!("it does not come after `{}`", last.escape_ascii()),
                });
            }
            batch.put(family, &state_key(key), value)?;
            self.last = Some(key.clone());
        }
        store.write(&mut store.journal(), "writing a received snapshot", batch, Touch::Aside, false)?;
        store.reached("staging: after a write");
        drop(place);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> StoreResult<StagedId> {
        let store = &self.stage.store;
        store.alive()?;
        let mut place = self.stage.place();
        if place.current != self.id {
            return Err(gone(self.id));
        }
        store.write(&mut store.journal(), "syncing a received snapshot", store.batch()?, Touch::Aside, true)?;
        store.reached("staging: finished");
        place.finished = true;
        drop(place);
        self.done = true;
        Ok(StagedId(self.id))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // A failure here is remembered by the store itself; the next call of anybody meets it.
        if !self.done
            && let Err(error) = self.stage.forget(self.id)
        {
            tracing::debug!(%error, "a snapshot that was given up could not be cleared");
        }
    }
}
