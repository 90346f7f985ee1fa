//! Which program a worker runs, as its record says it.
//!
//! Owns that one change of a record: a worker that was started with another program says so when its session begins, and
//! may be promoted or not by what that program can. Managers announce themselves. Called when a session begins.

use std::time::Duration;

use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::id::NodeId;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::trust::TrustRecord;
use quorate_core::txn::{Compare, Put, Txn};
use quorate_transport::IssuerId;
use tokio::time::Instant;

use super::is_manager;
use crate::node::ca::with_issuer;
use crate::node::records;
use crate::node::service::{Service, blocking, broken};

/// How long the cluster may take; it is tried again while the worker's session lasts.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a worker shows and says when its session begins.
#[derive(Debug, Clone)]
pub(in crate::node) struct Shown {
    pub(in crate::node) command_version: u32,
    pub(in crate::node) software: String,
    /// Of its certificate.
    pub(in crate::node) issuer: IssuerId,
}

/// The record with this in it; `None` where it says so already, or is for the node itself to write.
fn with_shown(trust: &TrustRecord, node: &NodeRecord, shown: &Shown) -> Option<NodeRecord> {
    let noted = with_issuer(trust, node, &shown.issuer).unwrap_or_else(|| node.clone());
    let updated = NodeRecord { command_version: shown.command_version, software: shown.software.clone(), ..noted };
    (!is_manager(node) && updated != *node).then_some(updated)
}

impl Service {
    /// Keeps what a worker says of its program, and which CA signed its certificate while that is waited for, unless its
    /// record says so already. Whether that is settled: else it is to be tried again.
    pub(in crate::node) async fn note_shown(&self, node: NodeId, shown: &Shown) -> bool {
        let records = self.records.borrow().clone();
        if records.nodes.get(node).and_then(|known| with_shown(&records.trust, known, shown)).is_none() {
            return true;
        }
        let Ok(store) = self.store() else { return false };
        let (reader, key) = (store.reader, NodeRecord::key(node));
        let current = key.clone();
        let found = blocking(move || records::value(&*reader.view(), current).map_err(|error| broken(&error))).await;
        let Ok(Some((bytes, revision))) = found else { return false };
        let record = NodeRecord::decode(bytes).ok();
        let Some(updated) = record.and_then(|record| with_shown(&records.trust, &record, shown)) else { return true };
        let txn = Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            then: vec![Put { key, value: updated.to_bytes(), ..Put::default() }.into()],
            ..Txn::default()
        };
        let command = Command::from(CommandKind::System(txn));
        match self.router.execute(command, Instant::now() + PATIENCE).await {
            // Else its record has changed meanwhile.
            Ok(done) => done.succeeded,
            Err(error) => {
                tracing::debug!(%node, error = error.message, "the program of a worker is not noted yet");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_worker_with_another_program_is_noted_and_a_manager_never() {
        let worker = NodeRecord { command_version: 0, software: "quorate 0.1.0".into(), ..NodeRecord::default() };
        let shown = Shown { command_version: 1, software: "quorate 0.2.0".into(), issuer: [2; 8] };
        let calm = TrustRecord { issuer: Bytes::from_static(&[2; 8]), ..TrustRecord::default() };
        let noted = with_shown(&calm, &worker, &shown).unwrap();
        assert_eq!((noted.command_version, noted.software.as_str()), (1, "quorate 0.2.0"));
        assert_eq!(with_shown(&calm, &noted, &shown), None, "nobody waits for its issuer");
        let manager = NodeRecord { raft_id: 3, ..worker };
        assert_eq!(with_shown(&calm, &manager, &shown), None);
        // While the CA is being replaced, the new issuer is noted, and no other.
        let rotating = TrustRecord { started: 1, ..calm };
        let renewed = with_shown(&rotating, &noted, &shown).unwrap();
        assert_eq!(renewed.issuer[..], [2; 8]);
        assert_eq!(with_shown(&rotating, &renewed, &shown), None);
        assert_eq!(with_shown(&rotating, &noted, &Shown { issuer: [1; 8], ..shown }), None);
    }
}
