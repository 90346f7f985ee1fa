//! What a manager believes of what others say about it.
//!
//! Owns when a manager is none any more: by its own records at once, by what another one says only where nobody who is known could
//! say otherwise. Somebody who was removed while this manager was away is in its records still, and may say anything; so whoever of
//! the records is connected outweighs it. Owns who needs more than a word for it. Never asks anybody, and never stops anything. Time is an input. Called by the node, which
//! reports whom it is connected to and what its dials came to.

use crate::consensus::io::{Nanos, Records};
use crate::id::{RaftId, StoreId};
use crate::membership::record::Role;
use crate::membership::upgrade::{Support, Unfit};
use crate::mutants::{Mutant, on};

/// For so long nobody of whom there is a record may be connected before what others say is believed.
const ALONE: Nanos = Nanos(3_000_000_000);

/// Who this manager is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Its raft id.
    pub raft_id: RaftId,
    /// Its store.
    pub store_id: StoreId,
    /// The cluster versions that its program supports.
    pub support: Support,
}

/// What another manager says about this one by not talking to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Its raft id was taken from it.
    Removed,
    /// Its program does not fit a cluster at this version.
    Version(u32),
    /// Its raft id is bound to another store.
    StoreReplaced,
}

/// Why this manager is none any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMore {
    /// Its raft id was taken from it, or it was thrown out.
    Removed,
    /// The cluster is at a version that its program does not support.
    Unfit(Unfit),
    /// Its store came into being after what it had promised.
    StoreReplaced,
}

/// What others say of one manager, and for how long nobody could contradict them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hearsay {
    own: Own,
    alone_since: Nanos,
}

impl Hearsay {
    /// Of a manager that starts now, and is alone so far.
    pub const fn new(own: Own, now: Nanos) -> Self {
        Self { own, alone_since: now }
    }

    /// What its own records say.
    pub fn by_the_records(&self, records: &Records) -> Option<NoMore> {
        // What the log burnt before a recovery from this very store is taken back by the end of that recovery.
        if records.recovery.begun.is_some() {
            return None;
        }
        // Thrown out: nobody talks to it any more, nor says that its raft id is gone.
        let thrown_out = records.by_raft_id(self.own.raft_id).is_some_and(|own| own.compromised);
        (records.removed.contains(&self.own.raft_id) || thrown_out).then_some(NoMore::Removed)
    }

    /// Whether its own records say already that it is to be no manager any more: that its raft id is gone then only tells it that
    /// this was done, and need not wait for a quorum, which may be lost by then. Whoever was recovered meanwhile would be met first,
    /// and this store be fenced for what an orderly demotion has left of it.
    pub fn is_leaving(&self, records: &Records) -> bool {
        let own = records.by_raft_id(self.own.raft_id);
        records.recovery.begun.is_none() && own.is_some_and(|own| own.removing || own.role == i32::from(Role::Worker))
    }

    /// These managers are connected now.
    pub fn connected(&mut self, now: Nanos, records: &Records, connected: impl IntoIterator<Item = RaftId>) {
        if connected.into_iter().any(|id| records.by_raft_id(id).is_some()) {
            self.alone_since = now;
        }
    }

    /// What follows from what somebody says; nothing as long as others could say otherwise, or where it cannot be.
    pub fn believe(&self, now: Nanos, records: &Records, said: Said) -> Option<NoMore> {
        if now.0.saturating_sub(self.alone_since.0) < ALONE.0 && !on(Mutant::LiarIsBelieved) {
            return None;
        }
        match said {
            // Taken for ever, whatever this store has heard of it so far.
            Said::Removed => Some(NoMore::Removed),
            // Both have to find that it does not fit.
            Said::Version(cluster) => self.own.support.check(cluster).err().map(NoMore::Unfit),
            // The state that is read here came to this very store: whoever was refused, it was not this node.
            Said::StoreReplaced => (!self.is_bound(records)).then_some(NoMore::StoreReplaced),
        }
    }

    /// Whether this store's own records bind this raft id to this store.
    fn is_bound(&self, records: &Records) -> bool {
        records.by_raft_id(self.own.raft_id).is_some_and(|node| node.store() == Some(self.own.store_id))
    }
}

/// What a node is, whose raft id somebody has called gone, by what a quorum says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// A worker.
    Worker,
    /// The manager that it was: whoever said otherwise was wrong, or lied.
    Manager,
    /// A manager under another raft id: this directory is a copy, or one of before.
    Elsewhere,
}

/// `told` is the raft id that the cluster knows the node under, with the store that it has; 0 for a worker.
pub fn after_removal(own: RaftId, told: RaftId) -> After {
    match told {
        RaftId(0) => After::Worker,
        told if told == own => After::Manager,
        _ => After::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{Lineage, NodeId};
    use crate::membership::record::NodeRecord;
    use crate::membership::removed::{self, Gone};

    const SUPPORT: Support = Support { oldest: 2, newest: 3 };

    fn own() -> Own {
        Own { raft_id: RaftId(1), store_id: StoreId::from_bytes([1; 16]), support: SUPPORT }
    }

    fn manager(n: u8) -> NodeRecord {
        NodeRecord {
            id: Bytes::copy_from_slice(NodeId::from_bytes([n; 16]).as_bytes()),
            role: Role::Manager.into(),
            raft_id: n.into(),
            store_id: vec![n; 16].into(),
            ..NodeRecord::default()
        }
    }

    fn records() -> Records {
        Records { nodes: [manager(1), manager(2), manager(3)].into_iter().collect(), ..Records::default() }
    }

    fn at(milliseconds: u64) -> Nanos {
        Nanos(milliseconds * 1_000_000)
    }

    #[test]
    fn a_liar_is_not_believed_while_anybody_is_there_who_knows_better() {
        // Given a manager that was away, while 3 was removed: by its records 3 is one of them, and says what it likes
        let (records, said) = (records(), Said::Removed);
        let mut hearsay = Hearsay::new(own(), at(0));
        assert_eq!(hearsay.believe(at(0), &records, said), None);
        assert_eq!(hearsay.believe(at(2_999), &records, said), None, "2 may be on its way");
        // When 2 is connected, now and then, nothing of it counts; somebody of whom there is no record is nobody
        for now in (2_999..20_000).step_by(2_500) {
            hearsay.connected(at(now), &records, [RaftId(9), RaftId(2)]);
            assert_eq!(hearsay.believe(at(now + 2_499), &records, said), None, "{now}");
        }
        hearsay.connected(at(20_499), &records, [RaftId(9)]);
        assert_eq!(hearsay.believe(at(22_499), &records, said), Some(NoMore::Removed));
        // When nobody is for three seconds, it does: 3 may be right.
        let alone = Hearsay::new(own(), at(1_000));
        assert_eq!(alone.believe(at(3_999), &records, said), None);
        assert_eq!(alone.believe(at(4_000), &records, said), Some(NoMore::Removed));
    }

    #[test]
    fn what_cannot_be_is_not_believed_however_long_it_is_said() {
        let hearsay = Hearsay::new(own(), at(0));
        let later = at(1_000_000);
        // Both have to find that the versions do not fit,
        for (cluster, fits) in [(1, false), (2, true), (3, true), (4, false)] {
            let believed = hearsay.believe(later, &records(), Said::Version(cluster));
            assert_eq!(believed, SUPPORT.check(cluster).err().map(NoMore::Unfit));
            assert_eq!(believed.is_none(), fits, "{cluster}");
        }
        // and a state that binds the raft id to this store came to this store.
        assert_eq!(hearsay.believe(later, &records(), Said::StoreReplaced), None);
        let other = NodeRecord { store_id: vec![8; 16].into(), ..manager(1) };
        for nodes in [vec![manager(2)], vec![other, manager(2)]] {
            let records = Records { nodes: nodes.into(), ..Records::default() };
            assert_eq!(hearsay.believe(later, &records, Said::StoreReplaced), Some(NoMore::StoreReplaced));
        }
    }

    #[test]
    fn its_own_records_are_believed_at_once_unless_a_recovery_takes_them_back() {
        let hearsay = Hearsay::new(own(), at(0));
        assert_eq!(hearsay.by_the_records(&records()), None);
        let mut gone = records();
        gone.removed.set(RaftId(1), Some(&removed::mark(Gone::Demoted, NodeId::from_bytes([1; 16]))));
        let thrown_out = NodeRecord { compromised: true, ..manager(1) };
        let thrown_out = Records { nodes: vec![thrown_out, manager(2)].into(), ..Records::default() };
        for mut records in [gone, thrown_out] {
            assert_eq!(hearsay.by_the_records(&records), Some(NoMore::Removed));
            records.recovery.begun = Some(Lineage::default());
            assert_eq!(hearsay.by_the_records(&records), None);
        }
        // What became of others is nothing to it.
        let mut other = records();
        other.removed.set(RaftId(2), Some(b"lost"));
        assert_eq!(hearsay.by_the_records(&other), None);
    }

    #[test]
    fn only_who_is_to_be_a_manager_asks_a_quorum_before_it_takes_its_raft_id_for_gone() {
        let hearsay = Hearsay::new(own(), at(0));
        let with = |node: NodeRecord| Records { nodes: vec![node, manager(2)].into(), ..Records::default() };
        assert!(!hearsay.is_leaving(&records()));
        assert!(!hearsay.is_leaving(&Records::default()));
        // Given one that is being demoted, and one that is being removed
        let demoted = NodeRecord { role: Role::Worker.into(), ..manager(1) };
        let removing = NodeRecord { removing: true, ..manager(1) };
        for node in [demoted, removing] {
            let mut records = with(node);
            assert!(hearsay.is_leaving(&records));
            // That may be taken back by a recovery from this very store.
            records.recovery.begun = Some(Lineage::default());
            assert!(!hearsay.is_leaving(&records));
        }
        // What is to become of others is nothing to it.
        let other = NodeRecord { removing: true, ..manager(2) };
        assert!(!hearsay.is_leaving(&Records { nodes: vec![manager(1), other].into(), ..Records::default() }));
    }

    #[test]
    fn a_manager_that_the_cluster_still_counts_on_is_no_copy_of_itself() {
        assert_eq!(after_removal(RaftId(4), RaftId(0)), After::Worker);
        assert_eq!(after_removal(RaftId(4), RaftId(4)), After::Manager);
        assert_eq!(after_removal(RaftId(4), RaftId(5)), After::Elsewhere);
    }
}
