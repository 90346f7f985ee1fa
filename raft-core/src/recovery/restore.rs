//! A backup on an empty disk: the recovery that makes a cluster of one new manager out of it.
//!
//! Owns what is decided there beyond a recovery: the raft id that nobody had or can be given by those who went on after the
//! backup, and whose record the new manager takes. Everything else is as after a force-new-cluster: the same entry, the same jump of the
//! counters, the same fencing. Reads through the ports, writes nothing. Called by `restore`, once the backup's state is in
//! an empty store.

use std::sync::Arc;

use crate::consensus::io::Records;
use crate::id::{LogIndex, RaftId};
use crate::keyring::KeyringRecord;
use crate::log::{HardState, LogStart};
use crate::membership::record::{NodeRecord, Role};
use crate::ports::{LogReset, StateRead};
use crate::state::contract::StateStatus;
use crate::state::{read, scan_hash};

use super::{Ending, Incarnation, Outcome, RecoveryError, damaged};

/// A backup's state in an otherwise empty store, and who is to go on with it.
#[derive(Clone)]
pub struct Restored {
    /// The state.
    pub state: Arc<dyn StateRead>,
    /// The new manager: node id, name, store id, addresses, key digest, versions. Where its node id is one of the backup, that
    /// node's labels and availability stay.
    pub node: NodeRecord,
    /// What the caller has drawn for the new incarnation.
    pub incarnation: Incarnation,
    /// Every key of the state's keyring, with a copy for the new manager; the counts in it do not matter.
    pub keyring: KeyringRecord,
}

/// What is to be written for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Restoration {
    /// The raft id of the new manager.
    pub raft_id: RaftId,
    /// The batch; the caller adds its facts.
    pub outcome: Outcome,
}

/// The log that goes with the state of a backup: empty, after the entry up to which the state was applied.
pub const fn log_of(status: &StateStatus) -> LogReset {
    let start = LogStart { index: status.applied, term: status.applied_term };
    LogReset { start, hard_state: HardState { term: start.term, vote: RaftId(0), commit: start.index } }
}

/// Works out what makes the new manager the only one.
///
/// # Errors
/// Why it cannot be; nothing was changed.
pub fn restore(restored: &Restored) -> Result<Restoration, RecoveryError> {
    let Restored { state, node, incarnation, keyring } = restored;
    let status = read::status(&**state)?;
    if status.applied == LogIndex(0) {
        return Err(RecoveryError::NoState);
    }
    if scan_hash(&**state)? != status.hash {
        return damaged("the state does not have the hash that it says of itself");
    }
    let records = Records::read(&**state)?;
    // Above all that the managers who went on after the backup can have given out, and another than in any other restore of it.
    let own = RaftId(incarnation.jump.counter(records.cluster.next_raft_id));
    let id = node.node_id().unwrap_or_default();
    let before = records.nodes.get(id);
    let record = NodeRecord {
        role: Role::Manager.into(),
        raft_id: own.0,
        labels: before.map(|before| before.labels.clone()).unwrap_or_default(),
        availability: before.map(|before| before.availability).unwrap_or_default(),
        ..node.clone()
    };
    let outcome = Ending {
        state,
        status: &status,
        own,
        node: record,
        addresses: &node.addresses,
        lineage: records.lineage(),
        incarnation,
        term: status.applied_term,
        last: status.applied,
        tail: Vec::new(),
        keyring: copied(read::keyring(&**state)?, keyring)?,
    }
    .work_out()?;
    Ok(Restoration { raft_id: own, outcome })
}

/// The keyring of the state with the copies of the new manager only; what seals is due to be replaced, since whoever had copies
/// then is not to open what comes.
fn copied(state: KeyringRecord, given: &KeyringRecord) -> Result<Option<KeyringRecord>, RecoveryError> {
    if state.is_none() {
        return Ok(None);
    }
    let mut keyring = KeyringRecord { serial: state.serial + 1, due: true, ..state };
    for key in &mut keyring.keys {
        let Some(given) = given.key(key.id).filter(|given| !given.copies.is_empty()) else {
            return damaged(format!("there is no copy of barrier key {} for the new manager", key.id));
        };
        key.copies.clone_from(&given.copies);
    }
    Ok(Some(keyring))
}
