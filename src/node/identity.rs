//! Whether the other managers still take this node for who it says it is.
//!
//! Owns the stop of a node whose store was replaced under its old identity (design section 4, rule 4): its votes and its
//! log are gone, so it may never act under that raft id again. Never stops a node for what it refuses others. Called by
//! the running node.

use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::io::Records;
use quorate_core::id::RaftId;
use quorate_transport::{ConnectError, Peers, Refused};
use tokio::sync::watch;

use super::ending::Ending;
use super::facts::Facts;
use super::stop::StopReason;

/// Between two looks; dialling itself is paced by the transport.
const EVERY: Duration = Duration::from_millis(500);

/// Watches what the dials of this node came to; stops it once a manager says that its store is another one.
pub(super) async fn keep_identity(facts: Facts, peers: Peers, records: watch::Receiver<Arc<Records>>, ending: Ending) {
    loop {
        tokio::time::sleep(EVERY).await;
        if bound(&facts, &records.borrow()) {
            // The state that is read here came to this very store: whoever was refused, it was not this node.
            return;
        }
        let known = facts.managers.iter().map(|manager| RaftId(manager.raft_id));
        let refused = known.filter_map(|peer| peers.last_failure(peer)).find_map(|error| {
            let ConnectError::Refused { address, refused: Refused::StoreReplaced } = error.root() else { return None };
            Some(address.to_string())
        });
        if let Some(address) = refused {
            let why = format!(
                "the manager at {address} knows raft id {} with another store: this directory was wiped, and what this node had promised is gone with it. It never votes again under that identity. Nothing was harmed. Next: move the directory aside and join again with `quorate join`",
                facts.raft_id
            );
            ending.stop(StopReason::IdentityRefused(why));
            return;
        }
    }
}

/// Whether this store's own records bind this raft id to this store.
fn bound(facts: &Facts, records: &Records) -> bool {
    records.by_raft_id(facts.raft()).is_some_and(|node| node.store() == Some(facts.store()))
}
