//! Who has a session here.
//!
//! Owns the table of the sessions that this manager has, one for each node, and what came and went since it was last asked. Never
//! speaks to a worker, and never decides who is down. Called by the session of each worker, and by whoever tells the leader of
//! them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_core::id::NodeId;
use tokio::sync::Notify;

struct Entry {
    number: u64,
    kick: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    live: BTreeMap<NodeId, Entry>,
    next: u64,
    came: Vec<NodeId>,
    gone: BTreeMap<NodeId, u64>,
}

/// Who has a session here.
#[derive(Default)]
pub(crate) struct SessionTable {
    inner: Mutex<Inner>,
    dirty: Notify,
}

/// What has changed since it was last asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) came: Vec<NodeId>,
    /// With how long it had not been heard of, milliseconds.
    pub(super) gone: Vec<(NodeId, u64)>,
}

impl SessionTable {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session has begun; one that this node had before is told to end.
    pub(super) fn begin(&self, node: NodeId) -> (u64, Arc<Notify>) {
        let mut inner = self.inner();
        inner.next += 1;
        let (number, kick) = (inner.next, Arc::new(Notify::new()));
        if let Some(old) = inner.live.insert(node, Entry { number, kick: Arc::clone(&kick) }) {
            old.kick.notify_one();
        }
        inner.gone.remove(&node);
        inner.came.push(node);
        drop(inner);
        self.dirty.notify_one();
        (number, kick)
    }

    pub(super) fn end(&self, node: NodeId, number: u64, silent: Duration) {
        let mut inner = self.inner();
        if inner.live.get(&node).is_none_or(|entry| entry.number != number) {
            return;
        }
        inner.live.remove(&node);
        inner.gone.insert(node, u64::try_from(silent.as_millis()).unwrap_or(u64::MAX));
        drop(inner);
        self.dirty.notify_one();
    }

    /// Everybody, and nothing is outstanding any more.
    pub(super) fn all(&self) -> Vec<NodeId> {
        let mut inner = self.inner();
        inner.came.clear();
        inner.gone.clear();
        inner.live.keys().copied().collect()
    }

    /// What has changed since the last of these two questions.
    pub(super) fn delta(&self) -> Delta {
        let mut inner = self.inner();
        let came = std::mem::take(&mut inner.came);
        let gone = std::mem::take(&mut inner.gone);
        let mut came: Vec<NodeId> = came.into_iter().filter(|node| inner.live.contains_key(node)).collect();
        came.sort_unstable();
        came.dedup();
        Delta { came, gone: gone.into_iter().collect() }
    }

    /// Wakes when something has changed.
    pub(super) async fn changed(&self) {
        self.dirty.notified().await;
    }

    /// How many sessions there are.
    pub(super) fn count(&self) -> usize {
        self.inner().live.len()
    }
}

/// Takes a session off the table, however its task ends.
pub(super) struct Registration<'a> {
    pub(super) table: &'a SessionTable,
    pub(super) node: NodeId,
    pub(super) number: u64,
    pub(super) silent: Duration,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.table.end(self.node, self.number, self.silent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 16])
    }

    #[test]
    fn what_came_and_went_is_told_once() {
        let table = SessionTable::default();
        let (first, _) = table.begin(node(1));
        let (second, _) = table.begin(node(2));
        assert_eq!(table.delta(), Delta { came: vec![node(1), node(2)], gone: vec![] });
        table.end(node(1), first, Duration::from_secs(15));
        assert_eq!(table.delta(), Delta { came: vec![], gone: vec![(node(1), 15_000)] });
        // Gone and back before anybody asked: it is there.
        table.end(node(2), second, Duration::ZERO);
        let (third, _) = table.begin(node(2));
        assert_eq!(table.delta(), Delta { came: vec![node(2)], gone: vec![] });
        // The end of a session that was replaced is no end.
        table.end(node(2), second, Duration::ZERO);
        assert_eq!((table.delta(), table.count()), (Delta::default(), 1));
        table.end(node(2), third, Duration::ZERO);
        assert_eq!(table.all(), vec![]);
        assert_eq!(table.delta(), Delta::default());
    }

    #[tokio::test]
    async fn a_second_session_of_a_node_ends_the_first() {
        let table = SessionTable::default();
        let (_, first) = table.begin(node(1));
        let (_, second) = table.begin(node(1));
        first.notified().await;
        assert_eq!(table.count(), 1);
        let waited = tokio::time::timeout(Duration::from_millis(1), second.notified()).await;
        assert!(waited.is_err(), "the second goes on");
    }
}
