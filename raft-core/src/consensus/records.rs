//! How the records that decisions need are read, and kept up to date change by change.
//!
//! Owns both ways, which must come to the same (a property test compares them). Never writes. Called by the applier after a
//! round that changed one, and when a state is opened or installed.

use bytes::Bytes;

use super::io::Records;
use crate::id::{NodeId, RaftId};
use crate::keyspace::Section;
use crate::membership::operators::OperatorRecord;
use crate::membership::record::ClusterRecord;
use crate::membership::trust::{TrustRecord, TrustTime};
use crate::mutants::{Mutant, on};
use crate::ports::{StateRead, StoreResult};
use crate::state::read;

impl Records {
    /// Reads all of them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(view: &dyn StateRead) -> StoreResult<Self> {
        Ok(Self {
            cluster: read::cluster(view)?.unwrap_or_default(),
            nodes: read::nodes(view)?.into(),
            removed: read::removed(view)?,
            operators: read::operators(view)?,
            trust: read::trust(view)?.unwrap_or_default(),
            trust_time: read::trust_time(view)?,
            recovery: read::recovery(view)?,
            keyring: read::keyring(view)?.into(),
            revision: read::status(view)?.revision,
        })
    }

    /// The records after a round that changed the records of these full keys; `view` is the state after it. Costs what
    /// changed, not what is there.
    ///
    /// # Errors
    /// Those of the store.
    pub fn follow(&self, view: &dyn StateRead, changed: &[Bytes]) -> StoreResult<Self> {
        let mut records = self.clone();
        records.revision = read::status(view)?.revision;
        // No record under a key of its own: a recovery begins before any command, and ends with one.
        records.recovery = read::recovery(view)?;
        // Nor this: it changes with records, and by orders of its own.
        let keyring = read::keyring(view)?;
        if *records.keyring != keyring {
            records.keyring = keyring.into();
        }
        for key in changed {
            if *key == ClusterRecord::key() {
                records.cluster = read::cluster(view)?.unwrap_or_default();
            } else if let Some(id) = Section::Node.strip(key).and_then(|id| NodeId::from_slice(&id)) {
                match read::node(view, id)? {
                    Some(record) => records.nodes.set(record),
                    None if on(Mutant::GoneStaysKnown) => {}
                    None => records.nodes.remove(id),
                }
            } else if *key == TrustRecord::key() {
                records.trust = read::trust(view)?.unwrap_or_default();
            } else if *key == TrustTime::key() {
                records.trust_time = read::trust_time(view)?;
            } else if let Some(id) = OperatorRecord::parse(key) {
                records.operators.set(id, read::operator(view, id)?);
            } else if let Some(id) = Section::Removed.strip(key).and_then(|id| <[u8; 8]>::try_from(&id[..]).ok()) {
                let id = RaftId(u64::from_be_bytes(id));
                records.removed.set(id, read::removed_mark(view, id)?.as_deref());
            }
        }
        Ok(records)
    }
}
