//! Managers that have called and that this manager's records do not have yet.
//!
//! A manager that was away while another one was promoted, joined anew or came back knows it as what it was before, and if that one
//! leads now, nobody else sends the entries that say otherwise. Its certificate proves which node it is, and it may prove no more
//! than what the node once was: so a manager whose records it knows is asked for its word about the raft id. Owns who has called, and
//! whom somebody vouched for. Never lets anybody in that was removed under the raft id it claims. Written by the gate, asked by
//! [`super::meeting`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use quorate_core::id::{NodeId, RaftId};

/// So many are remembered, newest last: more managers than a cluster has.
const REMEMBERED: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    called: Mutex<VecDeque<Stranger>>,
    /// Whether a manager that is known is connected, and so can be asked.
    company: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stranger {
    raft_id: RaftId,
    node: NodeId,
    vouched: bool,
}

impl Strangers {
    fn locked(&self) -> std::sync::MutexGuard<'_, VecDeque<Stranger>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a manager of the cluster has said that this raft id is that node's. Who is not vouched for is asked about.
    pub(super) fn is_vouched_for(&self, raft_id: RaftId, node: NodeId) -> bool {
        let mut all = self.locked();
        if let Some(known) = all.iter().find(|known| (known.raft_id, known.node) == (raft_id, node)) {
            return known.vouched;
        }
        // One place for each node: whoever calls under many raft ids pushes out nobody else.
        all.retain(|known| known.node != node);
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back(Stranger { raft_id, node, vouched: false });
        false
    }

    /// Whether there is a known manager that can be asked for a word.
    pub(super) fn may_be_asked_for(&self) -> bool {
        self.company.load(Ordering::Relaxed)
    }

    /// Whether a manager that is known is connected now.
    pub(super) fn set_company(&self, company: bool) {
        self.company.store(company, Ordering::Relaxed);
    }

    /// Whether somebody waits for a word.
    pub(super) fn wait(&self) -> bool {
        self.locked().iter().any(|known| !known.vouched)
    }

    /// A manager says that this raft id is that node's.
    pub(super) fn vouch(&self, raft_id: RaftId, node: NodeId) {
        for known in self.locked().iter_mut().filter(|known| (known.raft_id, known.node) == (raft_id, node)) {
            known.vouched = true;
        }
    }

    /// Nobody who is known to the records by now needs a word.
    pub(super) fn forget(&self, is_known: impl Fn(RaftId, NodeId) -> bool) {
        self.locked().retain(|known| !is_known(known.raft_id, known.node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_for_one_node_under_one_raft_id_and_only_of_those_who_have_called() {
        let (node, other) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let strangers = Strangers::default();
        // Given a word about somebody who has not called: it is not kept
        strangers.vouch(RaftId(5), node);
        assert!(!strangers.is_vouched_for(RaftId(5), node) && strangers.wait());
        // When there is a word about the one who has, then it holds for no other raft id and no other node.
        strangers.vouch(RaftId(5), node);
        assert!(strangers.is_vouched_for(RaftId(5), node) && !strangers.wait());
        assert!(!strangers.is_vouched_for(RaftId(5), other));
        // Whoever calls under many raft ids pushes out nobody else.
        for id in 0..100 {
            assert!(!strangers.is_vouched_for(RaftId(id), other));
        }
        assert!(strangers.is_vouched_for(RaftId(5), node));
        assert!(!strangers.is_vouched_for(RaftId(6), node), "a word holds for one raft id");
        // Those whose record is here are forgotten.
        strangers.forget(|_, known| known == node);
        assert_eq!(strangers.locked().len(), 1);
        // A crowd pushes out the oldest.
        for id in 0..100 {
            strangers.is_vouched_for(RaftId(5), NodeId::from_bytes([id; 16]));
        }
        assert_eq!(strangers.locked().len(), REMEMBERED);
    }
}
