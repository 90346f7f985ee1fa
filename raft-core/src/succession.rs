//! Who ended an incarnation of the cluster, in a form that those who were left behind can check.
//!
//! Owns what is signed, and what the signatures are worth to an old manager: it steps aside for good, so that nobody may make it who
//! only has, or had, a manager's certificate. Never signs and never verifies: the caller does, and says what held. Called by
//! recoveries, by restores, and by whoever meets a longer lineage.
//!
//! # What proves that a newer incarnation is one
//! - *A recovery* is signed with the node key of the manager that it goes on from. To an old manager it counts when that node is a
//!   member by its own records, with that very key, and was not removed: the survivor of a recovery always was one.
//! - *A restore* goes on from no manager's disk. Its backup was told by a manager, which vouched with its node key for a key that is
//!   nowhere but in that sealed file; with that key the restore is signed. The voucher counts as the signature of a recovery does.
//! - What is signed by neither may still be true: the old manager was cut off before the survivor, or the backup's teller, came to be
//!   known to it. Who follows a leader hears of every member there is. So a *claim*, which the cluster's CA has signed, counts for those
//!   only that have had no leader for long ([`CLAIM_TICKS`]); a manager that belongs to a quorum never believes it.

use bytes::Bytes;

use crate::id::{ClusterId, Lineage, NodeId};
use crate::membership::nodes::Nodes;
use crate::membership::removed::Removed;

/// Without a leader for so many ticks in a row, a manager believes a claim: fifty election timeouts, far longer than an election
/// takes, and than a restart of everything.
pub const CLAIM_TICKS: u64 = 1_000;
/// Of so many recoveries in a row the words are kept, the newest ones.
pub const SUCCESSIONS_MAX: usize = 16;

/// What each signature is over, first of all: nothing that was signed for one purpose serves another.
const OF_A_LINEAGE: &[u8] = b"quorate succession 1\0";
const OF_A_BACKUP: &[u8] = b"quorate backup 1\0";

/// The word of who began an incarnation. Field numbers are for ever.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Succession {
    /// [`Lineage::to_bytes`] of the incarnation that began.
    #[prost(bytes = "bytes", tag = "1")]
    pub lineage: Bytes,
    /// The manager of the incarnation that ended who stands for it: the survivor, or who told the backup.
    #[prost(bytes = "bytes", tag = "2")]
    pub member: Bytes,
    /// That one's public key.
    #[prost(bytes = "bytes", tag = "3")]
    pub member_key: Bytes,
    /// Of a restore: the public key that lies in the backup only; empty of a recovery.
    #[prost(bytes = "bytes", tag = "4")]
    pub backup_key: Bytes,
    /// Of a restore: the member's signature over [`voucher`].
    #[prost(bytes = "bytes", tag = "5")]
    pub voucher: Bytes,
    /// Over [`Succession::signed`], by the member's key, or the backup's.
    #[prost(bytes = "bytes", tag = "6")]
    pub signature: Bytes,
    /// Over the same, by the cluster's CA; empty where the survivor could not open its key.
    #[prost(bytes = "bytes", tag = "7")]
    pub ca_signature: Bytes,
}

/// What a manager signs that tells a backup: that the backup's key stands for what it told.
pub fn voucher(cluster: ClusterId, member: NodeId, backup_key: &[u8]) -> Vec<u8> {
    [OF_A_BACKUP, cluster.as_bytes(), member.as_bytes(), backup_key].concat()
}

impl Succession {
    /// What is signed of it: all that it says, for this cluster.
    pub fn signed(&self, cluster: ClusterId) -> Vec<u8> {
        let mut signed = [OF_A_LINEAGE, cluster.as_bytes()].concat();
        for part in [&self.member, &self.member_key, &self.backup_key, &self.lineage] {
            signed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            signed.extend_from_slice(part);
        }
        signed
    }
}

/// The word on the very step that ends `ours`, among those that come with `shown`; what followed on it does not matter.
pub fn step<'a>(ours: &Lineage, shown: &Lineage, words: &'a [Succession]) -> Option<&'a Succession> {
    let ended = shown.0.get(..=ours.0.len()).filter(|ended| ended.starts_with(&ours.0))?;
    words.iter().find(|word| Lineage::from_slice(&word.lineage).is_some_and(|lineage| lineage.0 == ended))
}

/// What held of a word when its signatures were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Who stands for it.
    pub member: NodeId,
    /// The digest of that one's key, as node records have it.
    pub key_digest: [u8; 32],
    /// That key signed it, or the voucher for the key that did.
    pub by_member: bool,
    /// A CA of the cluster signed it that is trusted here.
    pub by_ca: bool,
}

/// What a longer lineage is worth to an old manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A member of this incarnation ended it: step aside.
    Proven,
    /// Only the CA's key stands for it: step aside after [`CLAIM_TICKS`] without a leader.
    Claimed,
    /// Nothing stands for it.
    Unfounded,
}

/// Weighs what was checked by the records of the incarnation that it says to end: its nodes, and who was removed.
pub fn weigh(nodes: &Nodes, removed: &Removed, checked: &Checked) -> Weight {
    let member = nodes.get(checked.member).is_some_and(|node| {
        node.raft().is_some_and(|raft| !removed.contains(&raft))
            && !node.lost
            && !node.compromised
            && node.key_digest == checked.key_digest.as_slice()
    });
    if member && checked.by_member {
        Weight::Proven
    } else if checked.by_ca {
        Weight::Claimed
    } else {
        Weight::Unfounded
    }
}

impl Weight {
    /// Whether a manager that has had no leader for so many ticks steps aside.
    pub const fn fences(self, leaderless_ticks: u64) -> bool {
        match self {
            Self::Proven => true,
            Self::Claimed => leaderless_ticks >= CLAIM_TICKS,
            Self::Unfounded => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{LineageId, RaftId};
    use crate::membership::record::{NodeRecord, Role};
    use crate::membership::removed::{self, Gone};

    fn lineage(ids: &[u8]) -> Lineage {
        Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
    }

    fn manager(id: u8) -> NodeRecord {
        NodeRecord {
            id: Bytes::copy_from_slice(&[id; 16]),
            role: Role::Manager.into(),
            raft_id: id.into(),
            key_digest: Bytes::copy_from_slice(&[id; 32]),
            ..NodeRecord::default()
        }
    }

    fn weight(nodes: impl IntoIterator<Item = NodeRecord>, checked: &Checked) -> Weight {
        weigh(&nodes.into_iter().collect(), &Removed::default(), checked)
    }

    fn by_member(id: u8) -> Checked {
        Checked { member: NodeId::from_bytes([id; 16]), key_digest: [id; 32], by_member: true, by_ca: false }
    }

    #[test]
    fn only_who_is_a_member_by_the_old_managers_own_records_ends_its_incarnation() {
        let known = || [manager(1), manager(2)];
        assert_eq!(weight(known(), &by_member(2)), Weight::Proven);
        // One that was removed, one that nobody has heard of, another key, no signature: nothing of it.
        let mut gone = Removed::default();
        gone.set(RaftId(2), Some(&removed::mark(Gone::Removed, NodeId::from_bytes([2; 16]))));
        for nodes in [&known()[..1], &known()] {
            assert_eq!(weigh(&nodes.iter().cloned().collect(), &gone, &by_member(2)), Weight::Unfounded);
        }
        // Unless it came back with a token since, under another raft id: then it is a member again.
        let back = NodeRecord { raft_id: 9, ..manager(2) };
        assert_eq!(weigh(&[manager(1), back].into_iter().collect(), &gone, &by_member(2)), Weight::Proven);
        assert_eq!(weight(known(), &by_member(3)), Weight::Unfounded);
        assert_eq!(weight(known(), &Checked { key_digest: [9; 32], ..by_member(2) }), Weight::Unfounded);
        assert_eq!(weight(known(), &Checked { by_member: false, ..by_member(2) }), Weight::Unfounded);
        // Nor one who is a worker by now, or was lost in an earlier recovery.
        let worker = NodeRecord { raft_id: 0, role: Role::Worker.into(), ..manager(2) };
        let lost = NodeRecord { lost: true, ..manager(2) };
        let compromised = NodeRecord { compromised: true, ..manager(2) };
        for gone in [worker, lost, compromised] {
            assert_eq!(weight([manager(1), gone], &by_member(2)), Weight::Unfounded);
        }
    }

    #[test]
    fn what_only_the_ca_stands_for_counts_for_those_who_have_had_no_leader_for_long() {
        // Given a manager that was cut off before the survivor joined: it knows nothing of that one.
        let checked = Checked { by_ca: true, ..by_member(7) };
        let weight = weight([manager(1)], &checked);
        assert_eq!(weight, Weight::Claimed);
        // A manager with a leader is not stopped by it, however often it is said; one that is alone is.
        assert!(!weight.fences(0) && !weight.fences(CLAIM_TICKS - 1) && weight.fences(CLAIM_TICKS));
        assert!(Weight::Proven.fences(0) && !Weight::Unfounded.fences(u64::MAX));
    }

    #[test]
    fn the_word_that_counts_is_the_one_on_the_step_that_ends_the_own_incarnation() {
        let word = |ids: &[u8]| Succession { lineage: lineage(ids).to_bytes().into(), ..Succession::default() };
        let words = [word(&[1, 2]), word(&[1, 2, 3]), word(&[1, 9])];
        let found = |ours: &[u8], shown: &[u8]| step(&lineage(ours), &lineage(shown), &words).cloned();
        assert_eq!(found(&[1], &[1, 2, 3]), Some(words[0].clone()));
        assert_eq!(found(&[1, 2], &[1, 2, 3]), Some(words[1].clone()));
        // Of another fork, of the own incarnation, of none that is shown.
        for (ours, shown) in [(&[1][..], &[1, 4][..]), (&[1, 2], &[1, 2]), (&[1, 9], &[1, 2, 3]), (&[1], &[1])] {
            assert_eq!(found(ours, shown), None, "{ours:?} {shown:?}");
        }
    }

    #[test]
    fn what_was_signed_for_one_purpose_cluster_or_manager_serves_no_other() {
        let cluster = |n: u8| ClusterId::from_bytes([n; 16]);
        let member = |n: u8| NodeId::from_bytes([n; 16]);
        let stands = voucher(cluster(1), member(1), b"key");
        // Whoever may choose what is signed for the one cannot make it say the other.
        assert!(stands.starts_with(b"quorate backup 1\0"));
        assert!(Succession::default().signed(cluster(1)).starts_with(b"quorate succession 1\0"));
        assert!(![OF_A_BACKUP, OF_A_LINEAGE].iter().any(|purpose| purpose[..purpose.len() - 1].contains(&0)));
        for other in [
            voucher(cluster(2), member(1), b"key"),
            voucher(cluster(1), member(2), b"key"),
            voucher(cluster(1), member(1), b"yek"),
        ] {
            assert_ne!(stands, other);
        }
    }

    #[test]
    fn what_is_signed_holds_every_part_and_its_length() {
        let cluster = ClusterId::from_bytes([1; 16]);
        let word = |member: &'static [u8], key: &'static [u8]| Succession {
            member: Bytes::from_static(member),
            member_key: Bytes::from_static(key),
            ..Succession::default()
        };
        assert_ne!(word(b"ab", b"c").signed(cluster), word(b"a", b"bc").signed(cluster));
        assert_ne!(word(b"ab", b"c").signed(cluster), word(b"ab", b"c").signed(ClusterId::from_bytes([2; 16])));
        // Each part, and neither signature.
        let part = Bytes::from_static(b"x");
        let none = Succession::default().signed(cluster);
        for other in [
            Succession { lineage: part.clone(), ..Succession::default() },
            Succession { member: part.clone(), ..Succession::default() },
            Succession { member_key: part.clone(), ..Succession::default() },
            Succession { backup_key: part.clone(), ..Succession::default() },
        ] {
            assert_ne!(other.signed(cluster), none, "{other:?}");
        }
        let signed = Succession { signature: part.clone(), ca_signature: part, ..Succession::default() };
        assert_eq!(signed.signed(cluster), none);
    }
}
