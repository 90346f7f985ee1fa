//! A recovery played through on a copy: what is not applied yet, applied before anything is written.
//!
//! Owns the copy: the disk's state, and over it in memory what the rehearsal wrote. Never writes to the disk. Called by
//! the plan of a recovery.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::RecoveryError;
use crate::consensus::io::Records;
use crate::log::{EntryKind, LogEntry};
use crate::ports::{
    LogReset, RecoveryWrite, StagedId, StateRead, StateReader, StateStore, StoreError, StoreResult, Visit, WriteSet,
};
use crate::state::Machine;
use crate::state::contract::{Committed, Outcome, Payload, StateStatus};

/// Entries applied at once.
const ROUND: usize = 256;

/// Where a rehearsal ends.
pub(super) struct Rehearsed {
    pub(super) status: StateStatus,
    pub(super) records: Records,
}

/// Applies `writes` and then `tail` to a copy of `state`. Configuration entries are void in it: they are of an older
/// lineage.
pub(super) fn rehearse(
    state: Arc<dyn StateRead>,
    writes: WriteSet,
    tail: &[LogEntry],
) -> Result<Rehearsed, RecoveryError> {
    let mut copy = Copy { base: state, over: Arc::default() };
    copy.commit(writes)?;
    let mut machine = Machine::open(Box::new(copy.clone()))?;
    let number = machine.status().configuration_number;
    let mut last = Vec::new();
    for round in tail.chunks(ROUND) {
        let round: Vec<Committed> = round.iter().map(|entry| committed(entry, number)).collect();
        last = machine.apply(&round)?.outcomes;
    }
    if let Some(Outcome::Refused(refusal)) = last.pop().and_then(|(_, outcomes)| outcomes.into_iter().next_back()) {
        return Err(RecoveryError::Damaged(format!("applied to a copy, the recovery itself is refused: {refusal}")));
    }
    Ok(Rehearsed { status: machine.status().clone(), records: Records::read(&copy)? })
}

fn committed(entry: &LogEntry, number: u64) -> Committed {
    let payload = match entry.kind {
        EntryKind::Config => Payload::Configuration { result: None, number },
        EntryKind::Normal if entry.data.is_empty() => Payload::Empty,
        EntryKind::Normal => Payload::Commands { data: entry.data.clone(), wanted: true },
    };
    Committed { index: entry.index, term: entry.term, payload }
}

/// The state on disk with changes over it; `None` is removed.
#[derive(Clone)]
struct Copy {
    base: Arc<dyn StateRead>,
    over: Arc<Mutex<BTreeMap<Bytes, Option<Bytes>>>>,
}

impl Copy {
    fn over(&self) -> MutexGuard<'_, BTreeMap<Bytes, Option<Bytes>>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unplayed<T>() -> StoreResult<T> {
        Err(StoreError::Poisoned("a rehearsal only applies".to_owned()))
    }
}

impl StateRead for Copy {
    fn get(&self, key: &[u8]) -> StoreResult<Option<Bytes>> {
        match self.over().get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let span = (Bound::Included(from), end);
        let over: Vec<(Bytes, Option<Bytes>)> =
            self.over().range::<[u8], _>(span).map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut over = over.into_iter().peekable();
        let mut enough = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((above, changed)) = over.next_if(|(above, _)| above[..] <= *key) {
                if let Some(changed) = changed
                    && visit(&above, &changed) == Visit::Enough
                {
                    enough = true;
                    return Visit::Enough;
                }
                if above[..] == *key {
                    return Visit::More;
                }
            }
            let wish = visit(key, value);
            enough = wish == Visit::Enough;
            wish
        })?;
        for (key, changed) in over {
            if enough {
                break;
            }
            if let Some(changed) = changed {
                enough = visit(&key, &changed) == Visit::Enough;
            }
        }
        Ok(())
    }
}

impl StateReader for Copy {
    fn view(&self) -> Arc<dyn StateRead> {
        Arc::new(self.clone())
    }
}

impl StateStore for Copy {
    fn commit(&mut self, writes: WriteSet) -> StoreResult<()> {
        for (from, to) in writes.ranges {
            let mut gone = Vec::new();
            self.scan(&from, &to, &mut |key, _| {
                gone.push((Bytes::copy_from_slice(key), None));
                Visit::More
            })?;
            self.over().extend(gone);
        }
        self.over().extend(writes.writes);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }

    fn install(&mut self, _: StagedId, _: LogReset) -> StoreResult<()> {
        Self::unplayed()
    }

    fn found(&mut self, _: WriteSet, _: LogReset) -> StoreResult<()> {
        Self::unplayed()
    }

    fn recover(&mut self, _: RecoveryWrite) -> StoreResult<()> {
        Self::unplayed()
    }
}
