//! Who gets in: over random records, words and callers, and the ways that were found to be misused.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::id::LineageId;
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
    let (raft_id, store_id) = (RaftId(raft_id), Some(store(n)));
    Calling { node: node(n), key_digest: [n; 32], raft_id, store_id, enrolled: None, support }
}

/// The incarnation of the cluster.
const LINEAGE: LineageId = LineageId::from_bytes([9; 16]);

/// The same, with a certificate that says that this raft id was given to it.
fn enrolled(calling: Calling, raft_id: u64) -> Calling {
    let store_id = calling.store_id.unwrap();
    Calling { enrolled: Some(Enrolled { raft_id: RaftId(raft_id), store_id, lineage: LINEAGE }), ..calling }
}

/// Raft ids below this one were given out, as far as these records know.
const NEXT: u64 = 5;

fn records(nodes: impl IntoIterator<Item = NodeRecord>, gone: &[(u64, Gone, u8)]) -> Records {
    let mut removed = Removed::default();
    for (raft_id, why, n) in gone {
        removed.set(RaftId(*raft_id), Some(&removed::mark(*why, node(*n))));
    }
    let lineage = Bytes::copy_from_slice(LINEAGE.as_bytes());
    let cluster = ClusterRecord { next_raft_id: NEXT, version: 1, lineage, ..ClusterRecord::default() };
    Records { cluster, nodes: nodes.into_iter().collect(), removed, ..Records::default() }
}

#[test]
fn a_word_holds_for_one_node_under_one_raft_id_and_only_of_those_who_have_called() {
    // Given a manager that is in company, and a word about somebody who has not called: it is not kept
    let records = records([manager(1)], &[]);
    let mut strangers = Strangers::default();
    strangers.look_around(true, 0);
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

#[test]
fn a_certificate_speaks_for_the_raft_id_that_it_names_where_nobody_else_could() {
    // Given a manager that was away while 2 was demoted and became a manager again, and can ask nobody
    let worker = NodeRecord { role: Role::Worker.into(), raft_id: 0, store_id: Bytes::new(), ..manager(2) };
    let mut strangers = Strangers::default();
    for known in [manager(2), worker.clone()] {
        let records = records([manager(1), known], &[(3, Gone::Demoted, 2)]);
        let calls = calling(2, NEXT + 1);
        // Then its certificate of before proves nothing of that, nor one of another store or incarnation, nor of another raft id.
        let given = enrolled(calls, NEXT + 1).enrolled.unwrap();
        let others = [
            Enrolled { raft_id: RaftId(NEXT), ..given },
            Enrolled { raft_id: RaftId(NEXT + 2), ..given },
            Enrolled { store_id: store(8), ..given },
            Enrolled { lineage: LineageId::from_bytes([8; 16]), ..given },
        ];
        for other in others.into_iter().map(Some).chain([None]) {
            let calls = Calling { enrolled: other, ..calls };
            assert_eq!(admit(&records, &mut strangers, &calls), Err(TurnedAway::NotAMember), "{other:?}");
        }
        // One that names it does, also with another key than the node had: that one, too, is what the CA has signed.
        assert_eq!(admit(&records, &mut strangers, &enrolled(calls, NEXT + 1)), Ok(()));
        let other_key = Calling { key_digest: [7; 32], ..calls };
        assert_eq!(admit(&records, &mut strangers, &enrolled(other_key, NEXT + 1)), Ok(()));
    }
    // A raft id that this manager has heard of is none that it could have missed.
    let known = records([manager(1), worker], &[(3, Gone::Demoted, 2)]);
    assert_eq!(admit(&known, &mut strangers, &enrolled(calling(2, 3), 3)), Err(TurnedAway::Removed));
    assert_eq!(admit(&known, &mut strangers, &enrolled(calling(2, 4), 4)), Err(TurnedAway::NotAMember));
    // Nor does a certificate bring back who was thrown out.
    let thrown_out = NodeRecord { compromised: true, ..manager(2) };
    let thrown_out = records([manager(1), thrown_out], &[]);
    assert_eq!(admit(&thrown_out, &mut strangers, &enrolled(calling(2, NEXT), NEXT)), Err(TurnedAway::NotAMember));
}

#[test]
fn a_certificate_is_not_enough_for_who_can_ask_somebody_unless_nobody_leads_for_long() {
    // Given a manager that is connected to another one which it knows, and a certificate that says all
    let records = records([manager(1), manager(2)], &[]);
    let calls = enrolled(calling(2, NEXT), NEXT);
    let mut strangers = Strangers::default();
    for leaderless in [0, CLAIM_TICKS - 1] {
        strangers.look_around(true, leaderless);
        assert_eq!(admit(&records, &mut strangers, &calls), Err(TurnedAway::NotAMember));
        assert!(strangers.wait(), "that one is asked");
    }
    // When there has been no leader for long, both may have missed the same
    strangers.look_around(true, CLAIM_TICKS);
    assert_eq!(admit(&records, &mut strangers, &calls), Ok(()));
    // What no certificate says still takes a word.
    assert_eq!(admit(&records, &mut strangers, &calling(2, NEXT)), Err(TurnedAway::NotAMember));
    strangers.look_around(true, 0);
    assert_eq!(admit(&records, &mut strangers, &calls), Err(TurnedAway::NotAMember));
    strangers.vouch(RaftId(NEXT), node(2));
    assert_eq!(admit(&records, &mut strangers, &calls), Ok(()));
}

proptest! {
    #[test]
    fn nobody_gets_in_but_members_newcomers_with_a_word_or_certificate_and_strangers_to_who_is_alone(
        known in prop::collection::vec((1u8..5, 0u64..8, any::<bool>()), 1..4),
        gone in prop::collection::vec((1u64..8, 1u8..5), 0..3),
        words in prop::collection::vec((1u8..5, 1u64..8), 0..3),
        (company, leaderless) in (any::<bool>(), any::<bool>()),
        certified in prop::option::of((1u64..8, 1u8..6, 8u8..10)),
        (n, raft_id, key, held, version) in (1u8..6, 0u64..8, 1u8..6, 1u8..6, 1u32..3),
    ) {
        let nodes = known.into_iter().map(|(n, raft_id, compromised)| NodeRecord { raft_id, compromised, ..manager(n) });
        let gone: Vec<_> = gone.into_iter().map(|(raft_id, n)| (raft_id, Gone::Removed, n)).collect();
        let records = records(nodes, &gone);
        let mut strangers = Strangers::default();
        strangers.look_around(company, if leaderless { CLAIM_TICKS } else { 0 });
        for (n, raft_id) in &words {
            let _called = admit(&records, &mut strangers, &calling(*n, *raft_id));
            strangers.vouch(RaftId(*raft_id), node(*n));
        }
        let calls = Calling {
            key_digest: [key; 32],
            store_id: Some(store(held)),
            support: Support { oldest: 1, newest: version },
            enrolled: certified.map(|(raft_id, bound, lineage)| Enrolled {
                raft_id: RaftId(raft_id),
                store_id: store(bound),
                lineage: LineageId::from_bytes([lineage; 16]),
            }),
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
        let given = (!company || leaderless) && !known_so && certified == Some((raft_id, held, 9));
        let may = !banned && (member || newer && (vouched && !known_so || stranger || given));
        prop_assert_eq!(answer.is_ok(), may, "{:?}: {:?}", calls, answer);
        // And who is turned away for want of a word is asked about, nobody else.
        let wanted = strangers.called.iter().any(|one| (one.raft_id, one.node) == (RaftId(raft_id), node(n)));
        prop_assert!(!wanted || newer);
        prop_assert!(wanted || banned || !newer || known_so || stranger || given);
    }
}
