//! Records followed change by change are the ones that a full read finds.
#![cfg(feature = "consensus")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quorate_core::consensus::io::Records;
use quorate_core::id::{NodeId, RaftId};
use quorate_core::limits::TXN_OPERATIONS_MAX;
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::membership::removed::{self, Gone};
use quorate_core::membership::trust::{TrustRecord, TrustTime};
use quorate_core::membership::work::{AssignmentRecord, ITEMS_MAX, LivenessRecord, ReportRecord, forget};
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::read;
use quorate_core::txn::{Delete, Op, Put, Range};

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn written(key: Bytes, value: Bytes) -> Op {
    Put { key, value, ..Put::default() }.into()
}

fn deleted(key: Bytes) -> Op {
    Delete { key, ..Delete::default() }.into()
}

fn operation() -> impl Strategy<Value = Op> {
    (0u8..7, 0u8..4, any::<u8>()).prop_map(|(what, n, value)| match what {
        0 => deleted(NodeRecord::key(node(n))),
        1 => written(
            read::removed_key(RaftId(u64::from(n))),
            if value.is_multiple_of(2) { removed::mark(Gone::Removed, node(n)) } else { Bytes::from_static(b"why") },
        ),
        2 => deleted(read::removed_key(RaftId(u64::from(n)))),
        3 => {
            let cluster = ClusterRecord { next_raft_id: u64::from(value), ..ClusterRecord::default() };
            written(ClusterRecord::key(), cluster.to_bytes())
        }
        6 => match n {
            0 => deleted(TrustRecord::key()),
            1 => written(TrustTime::key(), TrustTime { serial: 1, passed_s: value.into() }.to_bytes()),
            2 => deleted(TrustTime::key()),
            _ => {
                let trust = TrustRecord { serial: value.into(), ..TrustRecord::default() };
                written(TrustRecord::key(), trust.to_bytes())
            }
        },
        4 => written(LivenessRecord::key(node(n)), LivenessRecord { presence: 1, since_ms: 5 }.to_bytes()),
        _ => {
            let role = if value.is_multiple_of(2) { Role::Manager } else { Role::Worker };
            let record = NodeRecord {
                id: Bytes::copy_from_slice(node(n).as_bytes()),
                name: value.to_string(),
                role: role.into(),
                ..NodeRecord::default()
            };
            written(NodeRecord::key(node(n)), record.to_bytes())
        }
    })
}

proptest! {
    #[test]
    fn following_each_round_comes_to_what_a_full_read_finds(rounds in prop::collection::vec(prop::collection::vec(operation(), 1..5), 1..30)) {
        let mut member = Member::founded();
        let mut followed = Records::read(&*member.store.view()).unwrap();
        for (index, operations) in (2..).zip(rounds) {
            let commands = operations.into_iter().map(|operation| system(txn([operation]))).collect();
            let applied = member.machine.apply(&[entry(index, commands)]).unwrap();
            let view = member.store.view();
            if applied.records_changed {
                followed = followed.follow(&*view, &applied.changed).unwrap();
                prop_assert_eq!(&followed, &Records::read(&*view).unwrap());
            } else {
                let fresh = Records::read(&*view).unwrap();
                prop_assert_eq!(&followed.nodes, &fresh.nodes);
                prop_assert_eq!(&followed.removed, &fresh.removed);
                prop_assert_eq!(&followed.cluster, &fresh.cluster);
                prop_assert_eq!(&followed.trust, &fresh.trust);
                prop_assert_eq!(&followed.trust_time, &fresh.trust_time);
            }
        }
    }
}

#[test]
fn what_is_kept_for_workers_is_told_and_is_no_record_to_decide_from() {
    let mut member = Member::founded();
    let mut index = 1;
    let mut changed = |member: &mut Member, operations: Vec<Op>| {
        index += 1;
        let applied = member.machine.apply(&[entry(index, vec![system(txn(operations))])]).unwrap();
        (applied.records_changed, applied.changed)
    };
    let item = |id: &str| AssignmentRecord::key(node(1), id);
    let payload = AssignmentRecord { payload: Bytes::from_static(b"run"), ..AssignmentRecord::default() };
    let both = vec![written(item("a"), payload.to_bytes()), written(item("b"), payload.to_bytes())];
    let count = AssignmentRecord::count_key(node(1));
    assert_eq!(changed(&mut member, both), (false, vec![item("a"), item("b"), count.clone()]));
    let report = ReportRecord { instance: 1, sequence: 2, items: Vec::new() };
    assert_eq!(
        changed(&mut member, vec![written(ReportRecord::key(node(1)), report.to_bytes())]),
        (false, vec![ReportRecord::key(node(1))])
    );
    assert_eq!(changed(&mut member, vec![put("user", "1")]), (false, vec![]));
    // Reads see it as it is.
    let view = member.store.view();
    let items = read::assignments(&*view, node(1)).unwrap();
    assert_eq!(items.iter().map(|item| &item.id[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    assert!(items.iter().all(|item| item.record == payload && item.revision == 2));
    assert_eq!(read::report(&*view, node(1)).unwrap().unwrap().0, report);
    assert_eq!(read::report(&*view, node(2)).unwrap(), None);
    // All of it goes with its node, and nothing of another one's.
    let others = AssignmentRecord::key(node(2), "a");
    changed(&mut member, vec![written(others, payload.to_bytes())]);
    let (_, gone) = changed(&mut member, forget(node(1)));
    assert_eq!(gone, [item("a"), item("b"), ReportRecord::key(node(1)), count]);
    assert_eq!(read::assignments(&*member.store.view(), node(1)).unwrap(), []);
    assert_eq!(read::assignments(&*member.store.view(), node(2)).unwrap().len(), 1);
}

#[test]
fn no_two_writes_together_give_a_node_more_items_than_it_may_have() {
    let item =
        |n: u64| written(AssignmentRecord::key(node(1), &format!("item.{n}")), AssignmentRecord::default().to_bytes());
    let counted = |member: &Member, n: u8| {
        let range = Range { key: AssignmentRecord::count_key(node(n)), ..Range::default() };
        let found = read::range(&*member.store.view(), &range).unwrap().entries.pop();
        found.map(|count| u64::from_be_bytes(count.value[..].try_into().unwrap()))
    };
    // Given a node with one item less than it may have, and another one that has none
    let mut member = Member::founded();
    for some in (1..ITEMS_MAX).collect::<Vec<_>>().chunks(TXN_OPERATIONS_MAX) {
        member.done(system(txn(some.iter().map(|n| item(*n)))));
    }
    assert_eq!((counted(&member, 1), counted(&member, 2)), (Some(ITEMS_MAX - 1), None));
    // When two are written at the same time, each by somebody who has seen that there is room
    let outcomes = member.try_run(vec![system(txn([item(5_000)])), system(txn([item(5_001)]))]).unwrap();
    // Then one of them is.
    let [Outcome::Done(_), Outcome::Refused(Refusal::Limit { what, limit: "ITEMS_MAX", max: ITEMS_MAX, actual })] =
        &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert!(what.contains(&node(1).to_string()) && *actual == ITEMS_MAX + 1, "{what} {actual}");
    // Those that are there are written anew, and one goes in place of another.
    let gone = |n: u64| deleted(AssignmentRecord::key(node(1), &format!("item.{n}")));
    member.done(system(txn([item(1), item(5_000)])));
    member.done(system(txn([gone(1), item(5_001)])));
    assert!(matches!(member.refused(system(txn([gone(2), item(1), item(2_000_000)]))), Refusal::Limit { .. }));
    assert_eq!(counted(&member, 1), Some(ITEMS_MAX));
    member.check();
    // A build that did not count has left nothing but the items: they are counted then.
    member.store.tamper(|map| map.retain(|key, _| !key.ends_with(&AssignmentRecord::count_key(node(1)))));
    member.reopen();
    assert!(matches!(member.refused(system(txn([item(1)]))), Refusal::Limit { actual, .. } if actual == ITEMS_MAX + 1));
    member.done(system(txn([gone(2), gone(3)])));
    assert_eq!(counted(&member, 1), Some(ITEMS_MAX - 2));
    // With the last one the count goes.
    let (key, end) = AssignmentRecord::range(node(1));
    member.done(system(txn([Delete { key, end, previous: false }.into()])));
    assert_eq!(counted(&member, 1), None);
}
