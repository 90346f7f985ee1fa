//! Transactions: what they do, what they answer, and what is refused, against a naive model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use quorate_core::id::Term;
use quorate_core::limits::*;
use quorate_core::state::check_txn;
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::*;

/// The model: every revision's whole content.
#[derive(Clone, Default)]
struct Model {
    now: BTreeMap<Bytes, KeyValue>,
    past: BTreeMap<u64, BTreeMap<Bytes, KeyValue>>,
    revision: u64,
}

impl Model {
    fn holds(&self, compare: &Compare) -> bool {
        let there = self.now.get(&compare.key);
        let number = |field: fn(&KeyValue) -> u64| there.map_or(0, field);
        let ordering = match compare.operand.as_ref().unwrap() {
            Operand::Value(value) => match there {
                None => return false,
                Some(kv) => kv.value.cmp(value),
            },
            Operand::Version(n) => number(|kv| kv.version).cmp(n),
            Operand::CreateRevision(n) => number(|kv| kv.create_revision).cmp(n),
            Operand::ModRevision(n) => number(|kv| kv.mod_revision).cmp(n),
            Operand::Lease(n) => number(|kv| kv.lease).cmp(n),
        };
        match compare.relation() {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Less => ordering.is_lt(),
            Relation::Greater => ordering.is_gt(),
        }
    }

    fn matching<'a>(
        of: &'a BTreeMap<Bytes, KeyValue>,
        key: &'a Bytes,
        end: &'a Bytes,
    ) -> impl Iterator<Item = &'a KeyValue> {
        of.values().filter(move |kv| if end.is_empty() { kv.key == key } else { kv.key >= key && kv.key < end })
    }

    fn range(of: &BTreeMap<Bytes, KeyValue>, range: &Range, revision: u64) -> RangeResult {
        let all: Vec<KeyValue> = Self::matching(of, &range.key, &range.end).cloned().collect();
        if range.count_only {
            return RangeResult { count: all.len() as u64, revision, ..RangeResult::default() };
        }
        let limit = if range.limit == 0 { usize::MAX } else { usize::try_from(range.limit).unwrap() };
        let more = all.len() > limit;
        let mut entries: Vec<KeyValue> = all.into_iter().take(limit).collect();
        if range.keys_only {
            entries.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        RangeResult { count: entries.len() as u64, entries, more, revision }
    }

    fn apply(&mut self, txn: &Txn) -> TxnResult {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let next = self.revision + 1;
        let mut changed = false;
        let mut results = Vec::new();
        for op in if succeeded { &txn.then } else { &txn.or_else } {
            let kind = match op.kind.as_ref().unwrap() {
                OpKind::Put(put) => {
                    let old = self.now.get(&put.key).cloned();
                    changed = true;
                    let new = KeyValue {
                        key: put.key.clone(),
                        value: put.value.clone(),
                        create_revision: old.as_ref().map_or(next, |kv| kv.create_revision),
                        mod_revision: next,
                        version: old.as_ref().map_or(1, |kv| kv.version + 1),
                        lease: put.lease,
                    };
                    self.now.insert(put.key.clone(), new);
                    OpResultKind::Put(PutResult { previous: old.filter(|_| put.previous) })
                }
                OpKind::Delete(delete) => {
                    let gone: Vec<KeyValue> = Self::matching(&self.now, &delete.key, &delete.end).cloned().collect();
                    for kv in &gone {
                        changed = true;
                        self.now.remove(&kv.key);
                    }
                    let deleted = gone.len() as u64;
                    OpResultKind::Delete(DeleteResult {
                        deleted,
                        previous: if delete.previous { gone } else { vec![] },
                    })
                }
                OpKind::Range(range) => {
                    OpResultKind::Range(Self::range(&self.now, range, if changed { next } else { self.revision }))
                }
            };
            results.push(OpResult { kind: Some(kind) });
        }
        if changed {
            self.revision = next;
            self.past.insert(next, self.now.clone());
        }
        TxnResult { succeeded, revision: self.revision, results, ..TxnResult::default() }
    }
}

/// Names that are prefixes of each other and hold the bytes at both ends.
const POOL: [&[u8]; 8] = [b"a", b"a\0", b"a\0\0", b"a\xff", b"ab", b"b", b"\0", b"\xff\xff"];

fn name() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(POOL.to_vec()).prop_map(key)
}

fn span() -> impl Strategy<Value = (Bytes, Bytes)> {
    (name(), prop_oneof![3 => Just(None), 2 => name().prop_map(Some)])
        .prop_map(|(key, end)| (key, end.unwrap_or_default()))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"x")), Just(Bytes::from_static(b"y\0"))]
}

fn range() -> impl Strategy<Value = Range> {
    (span(), 0u64..4, any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
        |((key, end), limit, keys_only, count_only)| Range { key, end, limit, keys_only, count_only, revision: 0 },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (name(), value(), 0u64..2, any::<bool>()).prop_map(|(key, value, lease, previous)| Put { key, value, lease, previous }.into()),
        2 => (span(), any::<bool>()).prop_map(|((key, end), previous)| Delete { key, end, previous }.into()),
        2 => range().prop_map(Op::from),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        value().prop_map(Operand::Value),
        (0u64..3).prop_map(Operand::Version),
        (0u64..8).prop_map(Operand::CreateRevision),
        (0u64..8).prop_map(Operand::ModRevision),
        (0u64..2).prop_map(Operand::Lease),
    ];
    (name(), 0i32..4, operand).prop_map(|(key, relation, operand)| Compare { key, relation, operand: Some(operand) })
}

fn transaction() -> impl Strategy<Value = Txn> {
    let ops = || proptest::collection::vec(op(), 0..4);
    (proptest::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compares, then, or_else)| Txn {
        compares,
        then,
        or_else,
        fence: None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 1500 }))]

    /// Every answer is the model's, and so is every range at every revision, before and after a compaction.
    #[test]
    fn transactions_and_reads_of_the_past_are_those_of_the_model(
        txns in proptest::collection::vec(transaction(), 1..30),
        ranges in proptest::collection::vec(range(), 1..6),
        rounds in 1usize..6,
        kept in any::<prop::sample::Index>(),
    ) {
        let mut member = Member::founded();
        // The lease that keys are attached to; it makes no revision.
        assert_eq!(member.done(grant(1, 1)).lease, 1);
        let founding: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        let mut model = Model { revision: 1, ..Model::default() };
        model.past.insert(1, founding);
        for round in txns.chunks(rounds) {
            let commands = round.iter().cloned().map(system).collect();
            let outcomes = member.try_run(commands).unwrap();
            for (txn, outcome) in round.iter().zip(outcomes) {
                match check_txn(txn) {
                    Err(refusal) => prop_assert_eq!(outcome, Outcome::Refused(refusal)),
                    Ok(()) => prop_assert_eq!(outcome, Outcome::Done(model.apply(txn))),
                }
            }
            prop_assert_eq!(member.revision(), model.revision);
        }
        member.check();
        let revisions: Vec<u64> = model.past.keys().copied().collect();
        let oldest = revisions[kept.index(revisions.len())];
        for compacted in [false, true] {
            if compacted {
                member.done(compact(oldest));
                member.check();
            }
            let view = member.store.view();
            for (revision, content) in &model.past {
                for range in &ranges {
                    let asked = Range { revision: *revision, ..range.clone() };
                    let found = read::range(&*view, &asked);
                    if compacted && *revision < oldest && *revision != model.revision {
                        let refusal = Refusal::Compacted { asked: *revision, oldest };
                        prop_assert_eq!(found, Err(ReadError::Refused(refusal)));
                    } else {
                        prop_assert_eq!(found.unwrap(), Model::range(content, range, *revision));
                    }
                }
            }
        }
    }

    /// Writes of one branch are disjoint, or the transaction is refused: compared with looking at every key there is.
    #[test]
    fn a_branch_that_could_write_a_key_twice_is_refused(ops in proptest::collection::vec(op(), 0..5)) {
        // Candidates: every key of the pool and its successor, which between them meet every overlap of such spans.
        let candidates = POOL.iter().flat_map(|name| [key(name), key([name, &b"\0"[..]].concat())]);
        let writes = |op: &Op, at: &Bytes| match op.kind.as_ref().unwrap() {
            OpKind::Put(put) => put.key == at,
            OpKind::Delete(delete) if delete.end.is_empty() => delete.key == at,
            OpKind::Delete(delete) => delete.key <= *at && *at < delete.end,
            OpKind::Range(_) => false,
        };
        let twice = candidates.into_iter().any(|at| ops.iter().filter(|op| writes(op, &at)).count() > 1);
        let checked = check_txn(&txn(ops));
        prop_assert_eq!(matches!(checked, Err(Refusal::DuplicateKey { .. })), twice, "{:?}", checked);
    }
}

#[test]
fn a_transaction_that_changes_nothing_makes_no_revision() {
    let mut member = Member::founded();
    let before = member.done(system(txn([put("a", "1")]))).revision;
    let read = Range { key: key("a"), ..Range::default() };
    let failed = Txn {
        compares: vec![Compare::absent(key("a"))],
        then: vec![put("a", "2")],
        or_else: vec![read.into()],
        ..Txn::default()
    };
    for harmless in [txn([delete("b")]), failed, txn([])] {
        assert_eq!(member.done(system(harmless)).revision, before);
    }
    assert_eq!(member.get("a").unwrap(), "1");
}

#[test]
fn a_transaction_of_many_changes_makes_one_revision() {
    let mut member = Member::founded();
    let before = member.revision();
    member.done(system(txn((0..100).map(|n| put(format!("k{n:03}"), "v")))));
    assert_eq!(member.revision(), before + 1);
    let all = Delete { key: key("k"), end: key("l"), previous: true };
    let result = member.done(system(txn([all.into()])));
    assert_eq!(member.revision(), before + 2);
    assert!(
        matches!(&result.results[0].kind, Some(OpResultKind::Delete(gone)) if gone.deleted == 100 && gone.previous.len() == 100)
    );
}

#[test]
fn a_fence_holds_only_in_the_term_of_the_entry_that_carries_it() {
    let mut member = Member::founded();
    let fenced = |token| system(Txn { fence: Some(token), ..txn([put("a", "1")]) });
    let at = |index, term, command| {
        let mut entry = entry(index, vec![command]);
        entry.term = Term(term);
        entry
    };
    let outcomes = member
        .machine
        .apply(&[at(2, 4, fenced(4)), at(3, 5, fenced(4)), at(4, 5, fenced(5)), at(5, 5, fenced(6))])
        .unwrap()
        .outcomes;
    let refused: Vec<Option<Refusal>> = outcomes
        .into_iter()
        .map(|(_, mut outcomes)| match outcomes.pop().unwrap() {
            Outcome::Done(_) => None,
            Outcome::Refused(refusal) => Some(refusal),
        })
        .collect();
    let fenced = |token, term| Some(Refusal::Fenced { token, term });
    assert_eq!(refused, [None, fenced(4, 5), None, fenced(6, 5)]);
}

#[test]
fn a_transaction_refused_in_its_middle_leaves_nothing_behind() {
    // Given more keys than one delete may remove.
    let mut member = Member::founded();
    let many = usize::try_from(DELETE_KEYS_MAX).unwrap() + 1;
    let names: Vec<String> = (0..many).map(|n| format!("k{n:06}")).collect();
    for part in names.chunks(100) {
        member.done(system(txn(part.iter().map(|name| put(name, "v")))));
    }
    let (hash, revision) = (member.hash(), member.revision());
    // When a transaction puts a key and then deletes them all, then it is refused by name, and the put is not there.
    let all = Delete { key: key("k"), end: key("l"), ..Delete::default() };
    let refusal = member.refused(system(txn([put("a", "1"), all.clone().into()])));
    assert!(matches!(refusal, Refusal::Limit { limit: "DELETE_KEYS_MAX", actual: 10_001, .. }), "{refusal}");
    let words = "has at least 10001 keys, the limit `DELETE_KEYS_MAX` is 10000 keys; nothing was changed";
    assert!(refusal.to_string().contains(words), "{refusal}");
    assert_eq!((member.get("a"), member.hash(), member.revision()), (None, hash, revision));
    // Also in parts: what counts is the transaction.
    let part = |from: &str, to: &str| Delete { key: key(from), end: key(to), ..Delete::default() }.into();
    let refusal = member.refused(system(txn([part("k", "k005"), part("k005", "l")])));
    assert!(matches!(refusal, Refusal::Limit { limit: "DELETE_KEYS_MAX", actual: 10_001, .. }), "{refusal}");
    assert_eq!((member.hash(), member.revision()), (hash, revision));
    // One key fewer, and it is done.
    member.done(system(txn([delete("k000000")])));
    let result = member.done(system(txn([all.into()])));
    assert!(matches!(&result.results[0].kind, Some(OpResultKind::Delete(gone)) if gone.deleted == DELETE_KEYS_MAX));
    member.check();
}

#[test]
fn a_delete_of_too_many_bytes_is_refused_with_the_way_to_do_it_in_parts() {
    // Given as many values of a mebibyte as one delete may remove, and one more
    let mut member = Member::founded();
    let large = "x".repeat(1 << 20);
    for number in 0..DELETE_BYTES_MAX >> 20 {
        member.done(system(txn([put(format!("k{number:02}"), &large)])));
    }
    // When all are deleted at once, as a range or one by one, then nothing is, and the refusal says what to do
    let (hash, revision) = (member.hash(), member.revision());
    let all = Delete { key: key("k"), end: key("l"), ..Delete::default() };
    let one_by_one: Vec<Op> = (0..DELETE_BYTES_MAX >> 20).map(|number| delete(format!("k{number:02}"))).collect();
    for ops in [vec![all.clone().into()], one_by_one] {
        let refusal = member.refused(system(txn(ops)));
        assert!(matches!(refusal, Refusal::Limit { limit: "DELETE_BYTES_MAX", .. }), "{refusal}");
        assert!(refusal.to_string().contains("in parts"), "{refusal}");
        assert_eq!((member.hash(), member.revision()), (hash, revision));
    }
    // When the last value is so much smaller that there is one byte too many, then it still is refused
    let last = format!("k{:02}", (DELETE_BYTES_MAX >> 20) - 1);
    let mut bytes = 1 << 20;
    loop {
        let refusal = member.refused(system(txn([all.clone().into()])));
        let Refusal::Limit { limit: "DELETE_BYTES_MAX", actual, max, .. } = refusal else { panic!("{refusal}") };
        assert_eq!(max, DELETE_BYTES_MAX);
        if actual == max + 1 {
            break;
        }
        bytes -= usize::try_from(actual - max - 1).unwrap();
        member.done(system(txn([put(&last, &large[..bytes])])));
    }
    // And with just as many as may go they go
    member.done(system(txn([put(&last, &large[..bytes - 1])])));
    member.done(system(txn([all.into()])));
    assert_eq!(member.contents(0).unwrap(), []);
    // And in two parts all of it goes, also in one round of entries
    for number in 0..DELETE_BYTES_MAX >> 20 {
        member.done(system(txn([put(format!("k{number:02}"), &large)])));
    }
    let part =
        |from: &str, to: &str| system(txn([Delete { key: key(from), end: key(to), ..Delete::default() }.into()]));
    member.try_run(vec![part("k", "k32"), part("k32", "l")]).unwrap();
    assert_eq!(member.contents(0).unwrap(), []);
    member.check();
}

fn limit_of(member: &mut Member, txn: Txn) -> &'static str {
    let expected = check_txn(&txn).unwrap_err();
    let refusal = member.refused(system(txn));
    assert_eq!(refusal, expected, "what the client is told is what apply says");
    let Refusal::Limit { limit, actual, max, .. } = refusal else { panic!("{refusal}") };
    assert!(actual > max);
    let unit = if limit == "TXN_OPERATIONS_MAX" { "operations" } else { "bytes" };
    assert!(
        refusal.to_string().contains(&format!(" {actual} {unit}, the limit `{limit}` is {max} {unit};")),
        "{refusal}"
    );
    limit
}

#[test]
fn each_limit_is_refused_by_its_name_and_the_limit_itself_is_allowed() {
    let mut member = Member::founded();
    let big = |bytes: usize| "v".repeat(bytes);
    let long = |bytes: usize| "k".repeat(bytes);

    member.done(system(txn([put(long(KEY_BYTES_MAX), "v")])));
    assert_eq!(limit_of(&mut member, txn([put(long(KEY_BYTES_MAX + 1), "v")])), "KEY_BYTES_MAX");
    assert_eq!(limit_of(&mut member, txn([delete(long(KEY_BYTES_MAX + 1))])), "KEY_BYTES_MAX");
    let compare = Compare::absent(key(long(KEY_BYTES_MAX + 1)));
    assert_eq!(limit_of(&mut member, Txn { compares: vec![compare], ..Txn::default() }), "KEY_BYTES_MAX");
    // A page may begin right after the longest key.
    let after = Range { key: key(long(KEY_BYTES_MAX) + "\0"), end: key("z"), ..Range::default() };
    member.done(system(txn([after.into()])));
    let over = Range { key: key(long(KEY_BYTES_MAX) + "\0\0"), end: key("z"), ..Range::default() };
    assert_eq!(limit_of(&mut member, txn([over.into()])), "KEY_BYTES_MAX");

    member.done(system(txn([put("v", big(VALUE_BYTES_MAX))])));
    assert_eq!(limit_of(&mut member, txn([put("v", big(VALUE_BYTES_MAX + 1))])), "VALUE_BYTES_MAX");
    let compare = Compare::new(key("v"), Relation::Equal, Operand::Value(big(VALUE_BYTES_MAX + 1).into()));
    assert_eq!(limit_of(&mut member, Txn { compares: vec![compare], ..Txn::default() }), "VALUE_BYTES_MAX");

    let puts = |count: usize| (0..count).map(|n| put(format!("k{n}"), "v")).collect::<Vec<_>>();
    member.done(system(txn(puts(TXN_OPERATIONS_MAX))));
    assert_eq!(limit_of(&mut member, txn(puts(TXN_OPERATIONS_MAX + 1))), "TXN_OPERATIONS_MAX");
    let spread = Txn { compares: vec![Compare::absent(key("x"))], then: puts(64), or_else: puts(64), fence: None };
    assert_eq!(limit_of(&mut member, spread), "TXN_OPERATIONS_MAX");

    // Three of the largest values, and a fourth so large that the whole is just as large as may be
    let whole = |fourth: usize| {
        let sizes = [VALUE_BYTES_MAX, VALUE_BYTES_MAX, VALUE_BYTES_MAX, fourth];
        txn(sizes.into_iter().enumerate().map(|(n, bytes)| put(format!("v{n}"), big(bytes))))
    };
    let beside = prost::Message::encoded_len(&whole(VALUE_BYTES_MAX)) - TXN_BYTES_MAX;
    let fourth = VALUE_BYTES_MAX - beside;
    assert_eq!(prost::Message::encoded_len(&whole(fourth)), TXN_BYTES_MAX);
    member.done(system(whole(fourth)));
    let (hash, revision) = (member.hash(), member.revision());
    assert_eq!(limit_of(&mut member, whole(fourth + 1)), "TXN_BYTES_MAX");
    assert_eq!((member.hash(), member.revision()), (hash, revision));
    let four = (0..4).map(|n| put(format!("v{n}"), big(VALUE_BYTES_MAX)));
    assert_eq!(limit_of(&mut member, txn(four)), "TXN_BYTES_MAX");
    member.check();
}

#[test]
fn requests_without_sense_are_refused_typed() {
    let mut member = Member::founded();
    let read_old = Range { key: key("a"), revision: 1, ..Range::default() };
    let malformed = [
        txn([Op { kind: None }]),
        txn([read_old.into()]),
        Txn {
            compares: vec![Compare { key: key("a"), relation: 9, operand: Some(Operand::Version(0)) }],
            ..Txn::default()
        },
        Txn { compares: vec![Compare { key: key("a"), relation: 0, operand: None }], ..Txn::default() },
    ];
    for txn in malformed {
        assert!(matches!(member.refused(system(txn)), Refusal::Malformed { .. }));
    }
    let nothing = Range { key: Bytes::new(), end: key("z"), ..Range::default() };
    for empty in [txn([put("", "v")]), txn([delete("")]), txn([nothing.into()])] {
        assert_eq!(member.refused(system(empty)), Refusal::EmptyKey);
    }
    let duplicate = member.refused(system(txn([put("a\0b", "1"), put("a\0b", "2")])));
    assert_eq!(duplicate, Refusal::DuplicateKey { key: "a\\x00b".to_owned() });
    assert_eq!(member.contents(0).unwrap(), []);
}

#[test]
fn the_answers_of_a_transaction_share_one_bound_of_bytes() {
    let mut member = Member::founded();
    let value = "v".repeat(VALUE_BYTES_MAX);
    for name in ["a", "b", "c"] {
        member.done(system(txn([put(name, &value)])));
    }
    // Reads page, with more to come.
    let all = || Range { key: key("a"), end: key("z"), ..Range::default() };
    let result = member.done(system(txn([all().into(), all().into()])));
    let counts: Vec<(usize, bool)> = result
        .results
        .iter()
        .map(|result| match &result.kind {
            Some(OpResultKind::Range(range)) => (range.entries.len(), range.more),
            _ => panic!("not a range"),
        })
        .collect();
    assert_eq!(counts, [(3, false), (0, true)]);
    // Previous values cannot page: refused by name.
    member.done(system(txn([put("d", &value)])));
    let all_of_it = Delete { key: key("a"), end: key("z"), previous: true };
    let refusal = member.refused(system(txn([all_of_it.clone().into()])));
    assert!(matches!(refusal, Refusal::Limit { limit: "RANGE_BYTES_MAX", .. }), "{refusal}");
    // With one byte too many it is refused as well, and with just as many as may be told it is done.
    let mut bytes = VALUE_BYTES_MAX;
    loop {
        let refusal = member.refused(system(txn([all_of_it.clone().into()])));
        let Refusal::Limit { limit: "RANGE_BYTES_MAX", max, actual, .. } = refusal else { panic!("{refusal}") };
        if actual == max + 1 {
            break;
        }
        bytes -= usize::try_from(actual - max - 1).unwrap();
        member.done(system(txn([put("d", &value[..bytes])])));
    }
    let count = Range { key: key("a"), end: key("z"), count_only: true, ..Range::default() };
    assert_eq!(read::range(&*member.store.view(), &count).unwrap().count, 4);
    member.done(system(txn([put("d", &value[..bytes - 1])])));
    member.done(system(txn([all_of_it.into()])));
    assert_eq!(member.contents(0).unwrap(), []);
}
