//! Which program a worker runs, as its record says it.
//!
//! Owns that one change of a record: a worker that was started with another program says so when its session begins, and
//! may be promoted or not by what that program can. Managers announce themselves. Called when a session begins.

use std::time::Duration;

use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Origin;
use quorate_core::id::NodeId;
use quorate_core::membership::record::NodeRecord;
use quorate_core::txn::{Compare, Put, Txn};
use tokio::time::Instant;

use super::is_manager;
use crate::node::records;
use crate::node::service::{Service, blocking, broken};

/// How long the cluster may take; the worker's next session asks again.
const PATIENCE: Duration = Duration::from_secs(8);

/// The record with this program in it; `None` where it says so already, or is for the node itself to write.
fn with_program(node: &NodeRecord, command_version: u32, software: &str) -> Option<NodeRecord> {
    let updated = NodeRecord { command_version, software: software.to_owned(), ..node.clone() };
    (!is_manager(node) && updated != *node).then_some(updated)
}

impl Service {
    /// Keeps what a worker says of its program, unless its record says so already.
    pub(in crate::node) async fn note_program(&self, node: NodeId, command_version: u32, software: &str) {
        let known = self.records.borrow().nodes.get(node).cloned();
        if known.and_then(|known| with_program(&known, command_version, software)).is_none() {
            return;
        }
        let Ok(store) = self.store() else { return };
        let (reader, key) = (store.reader, NodeRecord::key(node));
        let current = key.clone();
        let found = blocking(move || records::value(&*reader.view(), current).map_err(|error| broken(&error))).await;
        let Ok(Some((bytes, revision))) = found else { return };
        let record = NodeRecord::decode(bytes).ok();
        let Some(updated) = record.and_then(|record| with_program(&record, command_version, software)) else { return };
        let txn = Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            then: vec![Put { key, value: updated.to_bytes(), ..Put::default() }.into()],
            ..Txn::default()
        };
        let command = Command::from(CommandKind::System(txn));
        if let Err(error) = self.router.execute(command, Origin::Here, Instant::now() + PATIENCE).await {
            tracing::debug!(%node, error = error.message, "the program of a worker is not noted yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_another_program_is_noted_and_a_manager_never() {
        let worker = NodeRecord { command_version: 0, software: "quorate 0.1.0".into(), ..NodeRecord::default() };
        let noted = with_program(&worker, 1, "quorate 0.2.0").unwrap();
        assert_eq!((noted.command_version, noted.software.as_str()), (1, "quorate 0.2.0"));
        assert_eq!(with_program(&noted, 1, "quorate 0.2.0"), None);
        let manager = NodeRecord { raft_id: 3, ..worker };
        assert_eq!(with_program(&manager, 1, "quorate 0.2.0"), None);
    }
}
