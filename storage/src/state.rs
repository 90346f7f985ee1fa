//! The replicated state in the store: commits, reads, frozen views, installation and founding.
//!
//! Owns which of the two state families is in force. A commit is one unsynced batch; an installation is one synced batch
//! that switches the family, the log start and the hard state and empties the log, so that a crash leaves all of the old
//! or all of the new. Never interprets keys or values. Called by the applier, and through views by readers.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::ports::{
    LogReset, RecoveryWrite, StagedId, StateRead, StateReader, StateStore, StoreError, StoreResult, Visit, WriteSet,
};
use rocksdb::Snapshot;

use crate::db::{Batch, Store, Touch};
use crate::families::{Family, STATE_END, state_key};
use crate::log::Shape;
use crate::meta;
use crate::staging::Stage;

/// The applier's port.
pub(crate) struct State {
    pub(crate) store: Arc<Store>,
    pub(crate) stage: Arc<Stage>,
}

fn fill(batch: &mut Batch<'_>, family: Family, writes: &WriteSet) -> StoreResult<()> {
    for (from, to) in &writes.ranges {
        batch.delete_range(family, &state_key(from), &state_key(to))?;
    }
    for (key, value) in &writes.writes {
        match value {
            Some(value) => batch.put(family, &state_key(key), value)?,
            None => batch.delete(family, &state_key(key))?,
        }
    }
    Ok(())
}

/// A hard state that does not fit the start could not be opened again.
fn check_reset(reset: LogReset) -> StoreResult<()> {
    let (start, hard) = (reset.start, reset.hard_state);
    if hard.commit > start.index || hard.term < start.term {
        return Err(StoreError::Corrupt {
            record: "hard state".to_owned(),
            detail: format!(
                "term {} and commit {} do not go with an empty log after entry {} of term {}; nothing was changed",
                hard.term, hard.commit, start.index, start.term
            ),
        });
    }
    Ok(())
}

/// Puts the family that is not in force in force, with an empty log.
fn switch(store: &Store, reset: LogReset) -> StoreResult<()> {
    store.reached("install: before the switch");
    let mut journal = store.journal();
    let mut active = store.switching();
    let (old, new) = (*active, active.other());
    let mut batch = store.batch()?;
    batch.delete_all(Family::Log)?;
    let emptied = Touch::Both(new, Shape::reset(reset));
    store.write(&mut journal, "installing a snapshot", batch, emptied, true)?;
    store.reached("install: after the switch");
    *active = new;
    drop(active);
    // The old state goes; views that were taken of it keep it until they are dropped.
    let mut batch = store.batch()?;
    batch.delete_all(old)?;
    store.write(&mut journal, "clearing the old state", batch, Touch::Aside, false)?;
    store.reached("install: after the clearing");
    Ok(())
}

impl StateStore for State {
    fn commit(&mut self, writes: WriteSet) -> StoreResult<()> {
        let store = &self.store;
        store.alive()?;
        let family = *store.active();
        let bytes = |(key, value): &(Bytes, Option<Bytes>)| key.len() + value.as_ref().map_or(0, Bytes::len);
        let mut batch = store.batch_of(writes.writes.len(), writes.writes.iter().map(bytes).sum())?;
        fill(&mut batch, family, &writes)?;
        store.reached("state: before a round");
        store.write(&mut store.journal(), "writing the state", batch, Touch::State(family), false)
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(Reader(Arc::clone(&self.store)))
    }

    fn install(&mut self, staged: StagedId, reset: LogReset) -> StoreResult<()> {
        self.store.alive()?;
        check_reset(reset)?;
        self.stage.install(staged, || switch(&self.store, reset))
    }

    fn found(&mut self, writes: WriteSet, reset: LogReset) -> StoreResult<()> {
        let store = &self.store;
        store.alive()?;
        check_reset(reset)?;
        let family = *store.active();
        let mut journal = store.journal();
        let new = journal.shape.is_new() && journal.founded.is_none();
        if !new || !store.is_empty(family)? {
            return Err(StoreError::Corrupt {
                record: "store".to_owned(),
                detail: "it already holds a log or state, and only an empty one can be founded; nothing was changed"
                    .to_owned(),
            });
        }
        let mut batch = store.batch()?;
        fill(&mut batch, family, &writes)?;
        let empty = Touch::Both(family, Shape::reset(reset));
        store.write(&mut journal, "founding the store", batch, empty, true)
    }

    fn recover(&mut self, recovery: RecoveryWrite) -> StoreResult<()> {
        let store = &self.store;
        store.alive()?;
        let family = *store.active();
        let mut journal = store.journal();
        let mut shape = journal.shape.clone();
        let mut batch = store.batch()?;
        let filled = fill(&mut batch, family, &recovery.state).and_then(|()| shape.add(&mut batch, &recovery.log));
        store.guard(filled)?;
        let facts: Vec<(&str, Bytes)> =
            recovery.facts.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        batch.facts = meta::changed(store, &journal, &facts)?;
        store.reached("recover: before the batch");
        store.write(&mut journal, "recovering the store", batch, Touch::Both(family, shape), true)?;
        store.reached("recover: after the batch");
        Ok(())
    }
}

impl StateRead for State {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        let active = *self.store.active();
        self.store.get(active, &state_key(key), None)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        let active = *self.store.active();
        scan(&self.store, active, (from, to), None, visit)
    }
}

/// Visits state keys as the caller knows them.
fn scan(
    store: &Store,
    family: Family,
    (from, to): (&[u8], &[u8]),
    at: Option<&Snapshot<'_>>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
) -> StoreResult<()> {
    let end = if to.is_empty() { STATE_END.to_vec() } else { state_key(to) };
    store.scan(family, (&state_key(from), &end), at, &mut |key, value| {
        Ok(visit(key.get(1..).unwrap_or_default(), value) == Visit::More)
    })
}

/// Takes views.
pub(crate) struct Reader(pub(crate) Arc<Store>);

impl StateReader for Reader {
    fn view(&self) -> Arc<dyn StateRead> {
        // No installation may switch between the look at the family and the snapshot.
        let active = self.0.active();
        Arc::new(View { family: *active, frozen: Frozen::new(Arc::clone(&self.0), |store| store.snapshot()) })
    }
}

self_cell::self_cell!(
    /// A snapshot together with the store that it borrows: dropped in that order.
    struct Frozen {
        owner: Arc<Store>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// State as it was at one point of the journal.
struct View {
    family: Family,
    frozen: Frozen,
}

impl StateRead for View {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        self.frozen.borrow_owner().get(self.family, &state_key(key), Some(self.frozen.borrow_dependent()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        let snapshot = Some(self.frozen.borrow_dependent());
        scan(self.frozen.borrow_owner(), self.family, (from, to), snapshot, visit)
    }
}
