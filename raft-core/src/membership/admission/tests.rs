//! Who gets in: over random records, words and callers, and the ways that were found to be misused.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::membership::record::{ClusterRecord, NodeRecord, Role};
use crate::membership::removed::{self, Gone, Removed};

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn store(n: u8) -> StoreId {
    StoreId::from_bytes([n; 16])
}

/// A manager with the raft id of its number, its own key and its own store.
fn manager(n: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::copy_from_slice(node(n).as_bytes()),
        role: Role::Manager.into(),
        raft_id: u64::from(n),
        key_digest: vec![n; 32].into(),
        store_id: Bytes::copy_from_slice(store(n).as_bytes()),
        ..NodeRecord::default()
    }
}

/// Who calls as its record has it.
fn calling(n: u8, raft_id: u64) -> Calling {
    let support = Support { oldest: 1, newest: 1 };
    Calling { node: node(n), key_digest: [n; 32], raft_id: RaftId(raft_id), store_id: Some(store(n)), support }
}

/// Raft ids below this one were given out, as far as these records know.
const NEXT: u64 = 5;

fn records(nodes: impl IntoIterator<Item = NodeRecord>, gone: &[(u64, Gone, u8)]) -> Records {
    let mut removed = Removed::default();
    for (raft_id, why, n) in gone {
        removed.set(RaftId(*raft_id), Some(&removed::mark(*why, node(*n))));
    }
    let cluster = ClusterRecord { next_raft_id: NEXT, version: 1, ..ClusterRecord::default() };
    Records { cluster, nodes: nodes.into_iter().collect(), removed, ..Records::default() }
}

#[test]
fn a_word_holds_for_one_node_under_one_raft_id_and_only_of_those_who_have_called() {
    // Given a manager that is in company, and a word about somebody who has not called: it is not kept
    let records = records([manager(1)], &[]);
    let mut strangers = Strangers::default();
    strangers.set_company(true);
    strangers.vouch(RaftId(7), node(3));
    assert_eq!(admit(&records, &mut strangers, &calling(3, 7)), Err(TurnedAway::NotAMember));
    assert!(strangers.wait());
    // When there is a word about the one who has, then it gets in, under this raft id and as this node only.
    strangers.vouch(RaftId(7), node(3));
    assert!(!strangers.wait());
    assert_eq!(admit(&records, &mut strangers, &calling(3, 7)), Ok(()));
    assert_eq!(admit(&records, &mut strangers, &calling(4, 7)), Err(TurnedAway::NotAMember));
    // Whoever calls under many raft ids pushes out nobody else.
    for raft_id in NEXT..100 {
        assert!(admit(&records, &mut strangers, &calling(4, raft_id)).is_err());
    }
    assert_eq!(admit(&records, &mut strangers, &calling(3, 7)), Ok(()));
    // Who is in the records by now is forgotten, and a crowd pushes out the oldest.
    let known = self::records([manager(1), NodeRecord { raft_id: 7, ..manager(3) }], &[]);
    strangers.forget_known(&known);
    assert!(!strangers.is_vouched_for(RaftId(7), node(3)));
    for n in 100..200 {
        assert!(admit(&records, &mut strangers, &calling(n, 7)).is_err());
    }
    assert_eq!(strangers.called.len(), REMEMBERED);
}

#[test]
fn who_is_alone_takes_a_node_of_which_it_has_never_heard_and_nobody_who_was_removed() {
    // Given a manager that can ask nobody, and knows of one that was demoted and removed
    let records = records([manager(1)], &[(2, Gone::Removed, 2)]);
    let mut strangers = Strangers::default();
    assert_eq!(admit(&records, &mut strangers, &calling(3, NEXT)), Ok(()));
    assert_eq!(admit(&records, &mut strangers, &calling(2, NEXT)), Err(TurnedAway::NotAMember));
    assert_eq!(admit(&records, &mut strangers, &calling(2, 2)), Err(TurnedAway::Removed));
    // An older raft id that is nobody's is no new one.
    assert_eq!(admit(&records, &mut strangers, &calling(3, NEXT - 1)), Err(TurnedAway::NotAMember));
}

proptest! {
    #[test]
    fn nobody_gets_in_but_members_newcomers_with_a_word_and_strangers_to_who_is_alone(
        known in prop::collection::vec((1u8..5, 0u64..8, any::<bool>()), 1..4),
        gone in prop::collection::vec((1u64..8, 1u8..5), 0..3),
        words in prop::collection::vec((1u8..5, 1u64..8), 0..3),
        company in any::<bool>(),
        (n, raft_id, key, held, version) in (1u8..6, 0u64..8, 1u8..6, 1u8..6, 1u32..3),
    ) {
        let nodes = known.into_iter().map(|(n, raft_id, compromised)| NodeRecord { raft_id, compromised, ..manager(n) });
        let gone: Vec<_> = gone.into_iter().map(|(raft_id, n)| (raft_id, Gone::Removed, n)).collect();
        let records = records(nodes, &gone);
        let mut strangers = Strangers::default();
        strangers.set_company(company);
        for (n, raft_id) in &words {
            let _called = admit(&records, &mut strangers, &calling(*n, *raft_id));
            strangers.vouch(RaftId(*raft_id), node(*n));
        }
        let calls = Calling {
            key_digest: [key; 32],
            store_id: Some(store(held)),
            support: Support { oldest: 1, newest: version },
            ..calling(n, raft_id)
        };
        let vouched = strangers.is_vouched_for(RaftId(raft_id), node(n));
        let record = records.nodes.get(node(n)).cloned();
        let answer = admit(&records, &mut strangers, &calls);
        let banned = raft_id == 0
            || records.removed.contains(&RaftId(raft_id))
            || record.as_ref().is_some_and(|record| record.compromised);
        let member = record.as_ref().is_some_and(|record| {
            record.raft() == Some(RaftId(raft_id)) && key == n && held == n
        });
        let newer = raft_id >= NEXT;
        let stranger = record.is_none() && !company && !records.removed.contains_node(node(n));
        let known_so = record.as_ref().is_some_and(|record| record.raft() == Some(RaftId(raft_id)));
        let may = !banned && (member || newer && (vouched && !known_so || stranger));
        prop_assert_eq!(answer.is_ok(), may, "{:?}: {:?}", calls, answer);
        // And who is turned away for want of a word is asked about, nobody else.
        let wanted = strangers.called.iter().any(|one| (one.raft_id, one.node) == (RaftId(raft_id), node(n)));
        prop_assert!(!wanted || newer);
        prop_assert!(wanted || banned || !newer || known_so || stranger);
    }
}
