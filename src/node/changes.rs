//! What has changed in the state, told to whom it concerns: no one who waits for a record looks at all of them.
//!
//! Owns the list of who waits for which node, and the recorded presence of all workers. Told by the applier after each
//! round; asked by sessions, by the leader's liveness task and by status. Holds its lock for a look-up only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::id::{NodeId, Revision};
use quorate_core::keyspace::Section;
use quorate_core::membership::nodes::NodeMap;
use quorate_core::membership::work::{AssignmentRecord, LivenessRecord};
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::read;
use tokio::sync::watch;

/// Every so many subscriptions those are cleared away that nobody waits on.
const SWEEP: usize = 1_024;

/// What is recorded about every worker's presence.
pub(crate) type Presences = Arc<NodeMap<LivenessRecord>>;

#[derive(Default)]
struct Waiting {
    nodes: BTreeMap<NodeId, watch::Sender<u64>>,
    since_sweep: usize,
}

/// The hub. One per manager.
pub(crate) struct Changes {
    waiting: Mutex<Waiting>,
    /// The newest revision applied here.
    revision: watch::Sender<Revision>,
    presence: watch::Sender<Presences>,
}

/// Reads all of it.
fn read_presence(view: &dyn StateRead) -> StoreResult<Presences> {
    Ok(Arc::new(read::liveness(view)?.into_iter().collect()))
}

impl Changes {
    /// A hub for the state of `view`.
    pub(crate) fn new(view: &dyn StateRead) -> StoreResult<Self> {
        let presence = watch::Sender::new(read_presence(view)?);
        let revision = watch::Sender::new(read::status(view)?.revision);
        Ok(Self { waiting: Mutex::default(), revision, presence })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of these full keys changed; `view` is the state after it. Told by the applier only.
    pub(crate) fn told(&self, view: &dyn StateRead, revision: Revision, changed: &[Bytes]) -> StoreResult<()> {
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        let (mut touched, mut presence) = (Vec::new(), None);
        for key in changed {
            if let Some((node, _)) = AssignmentRecord::parse(key) {
                touched.push(node);
            } else if let Some(node) = Section::Node.strip(key).and_then(|id| NodeId::from_slice(&id)) {
                touched.push(node);
            } else if let Some(node) = Section::Liveness.strip(key).and_then(|id| NodeId::from_slice(&id)) {
                let map: &mut NodeMap<LivenessRecord> =
                    presence.get_or_insert_with(|| NodeMap::clone(&self.presence.borrow()));
                match read::presence(view, node)? {
                    Some(record) => map.set(node, record),
                    None => map.remove(node),
                };
            }
        }
        if let Some(map) = presence {
            self.presence.send_replace(Arc::new(map));
        }
        if !touched.is_empty() {
            touched.sort_unstable();
            touched.dedup();
            let waiting = self.waiting();
            for node in touched {
                if let Some(sender) = waiting.nodes.get(&node) {
                    sender.send_replace(revision.0);
                }
            }
        }
        Ok(())
    }

    /// A snapshot was installed: anything may have changed. Told by the applier only.
    pub(crate) fn installed(&self, view: &dyn StateRead, revision: Revision) -> StoreResult<()> {
        self.presence.send_replace(read_presence(view)?);
        self.revision.send_replace(revision);
        for sender in self.waiting().nodes.values() {
            sender.send_replace(revision.0);
        }
        Ok(())
    }

    /// Wakes whenever the record or the assignments of `node` change.
    pub(crate) fn of_node(&self, node: NodeId) -> watch::Receiver<u64> {
        let mut waiting = self.waiting();
        waiting.since_sweep += 1;
        if waiting.since_sweep >= SWEEP {
            waiting.since_sweep = 0;
            waiting.nodes.retain(|_, sender| sender.receiver_count() > 0);
        }
        waiting.nodes.entry(node).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// The newest revision applied here.
    pub(crate) fn revision(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// What is recorded about the presence of every worker.
    pub(crate) fn presence(&self) -> watch::Receiver<Presences> {
        self.presence.subscribe()
    }
}
