//! The checkers: histories that hold pass, and histories that are broken on purpose do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use quorate_chaos::check::{self, Limit, Verdict, chain, wgl};
use quorate_chaos::history::{Action, Answer, Operation, Outcome};
use quorate_core::testing::Rng;

/// Operations on a few registers by processes that overlap, as a server does them that is right: each takes effect at one
/// moment between its call and its return. Some answers are lost.
fn right(seed: u64, operations: usize) -> Vec<Operation> {
    let mut rng = Rng::stream(seed, 1);
    let mut free = [0_u64; 8];
    // (moment of effect, operation without its result)
    let mut asked = Vec::new();
    for number in 0..operations {
        let process = rng.index(free.len());
        let call = free[process] + rng.between(1, 50);
        let effect = call + rng.between(0, 40);
        let end = effect + rng.between(0, 40);
        free[process] = end + 1;
        let action = match rng.between(0, 9) {
            0..=3 => Action::Get,
            4..=6 => Action::Put(format!("v{number}")),
            7 | 8 => Action::Cas(None, format!("v{number}")),
            _ => Action::Delete,
        };
        let lost = rng.chance(80);
        asked.push((
            effect,
            lost && rng.chance(500),
            Operation {
                process: process as u64,
                action,
                key: format!("k{}", rng.between(0, 3)),
                result: Answer::Value(None),
                revision: None,
                node: Some(1),
                call_ns: call,
                return_ns: (!lost).then_some(end),
                outcome: if lost { Outcome::Unknown } else { Outcome::Ok },
            },
        ));
    }
    asked.sort_by_key(|(effect, _, operation)| (*effect, operation.call_ns, operation.process));
    let mut state = std::collections::BTreeMap::<String, String>::new();
    let mut revision = 1;
    for (_, never, operation) in &mut asked {
        if *never {
            continue;
        }
        let there = state.get(&operation.key).cloned();
        // Half of the swaps expect what is there.
        if let Action::Cas(expected, _) = &mut operation.action
            && rng.chance(500)
        {
            *expected = there.clone();
        }
        let (writes, result) = match &operation.action {
            Action::Get => (None, Answer::Value(there)),
            Action::Put(value) => (Some(Some(value.clone())), Answer::Value(None)),
            Action::Delete => (Some(None), Answer::Value(None)),
            Action::Cas(expected, value) if *expected == there => (Some(Some(value.clone())), Answer::Swapped(true)),
            Action::Cas(..) => (None, Answer::Swapped(false)),
        };
        if let Some(value) = writes {
            revision += 1;
            match value {
                Some(value) => state.insert(operation.key.clone(), value),
                None => state.remove(&operation.key),
            };
        }
        if operation.outcome == Outcome::Ok {
            (operation.result, operation.revision) = (result, Some(revision));
        }
    }
    asked.into_iter().map(|(_, _, operation)| operation).collect()
}

fn verdicts(history: &[Operation]) -> (Verdict, Verdict) {
    (chain::check(history).verdict, wgl::check(history, Limit::steps(200_000)).verdict)
}

#[test]
fn what_a_right_server_answers_holds_for_both_checkers() {
    for seed in 0..200 {
        let history = right(seed, 300);
        let findings = check::check(&history, Limit::steps(2_000_000));
        assert_eq!(check::worst(&findings), Verdict::Pass, "seed {seed}: {findings:?}");
    }
}

/// Breaks histories until both checkers have seen it, and says in how many of 40 they did.
fn seen(mut breaks: impl FnMut(&mut Vec<Operation>, &mut Rng) -> bool) -> (usize, usize, usize) {
    let (mut broken, mut by_chain, mut by_wgl) = (0, 0, 0);
    for seed in 0..40 {
        let mut history = right(1000 + seed, 300);
        let mut rng = Rng::stream(seed, 2);
        if !breaks(&mut history, &mut rng) {
            continue;
        }
        broken += 1;
        let (chain, wgl) = verdicts(&history);
        by_chain += usize::from(chain == Verdict::Fail);
        by_wgl += usize::from(wgl == Verdict::Fail);
    }
    (broken, by_chain, by_wgl)
}

/// A read that returned a value: its place.
fn reads(history: &[Operation]) -> Vec<usize> {
    let of =
        |operation: &Operation| matches!((&operation.action, &operation.result), (Action::Get, Answer::Value(Some(_))));
    (0..history.len()).filter(|index| of(&history[*index])).collect()
}

#[test]
fn an_acknowledged_write_that_is_dropped_is_seen() {
    // Given reads of a value that was written and acknowledged, when the write was never there
    let (broken, by_chain, by_wgl) = seen(|history, rng| {
        let all = reads(history);
        let Some(read) = rng.pick(&all) else { return false };
        let Answer::Value(Some(value)) = history[read].result.clone() else { return false };
        let writes = |operation: &Operation| match &operation.action {
            Action::Put(new) | Action::Cas(_, new) => *new == value,
            Action::Get | Action::Delete => false,
        };
        let Some(write) = history.iter().position(writes) else { return false };
        history.remove(write);
        true
    });
    // Then it is seen every time
    assert!(broken > 30);
    assert_eq!((by_chain, by_wgl), (broken, broken));
}

#[test]
fn answers_of_two_reads_that_are_swapped_are_seen() {
    let (broken, by_chain, by_wgl) = seen(|history, rng| {
        let all = reads(history);
        let Some(a) = rng.pick(&all) else { return false };
        // Of one key, another value, and one over before the other begins
        let other = |b: &&usize| {
            history[a].key == history[**b].key
                && history[a].result != history[**b].result
                && history[**b].call_ns > history[a].ends() + 200
        };
        let Some(b) = all.iter().find(other).copied() else { return false };
        let result = history[a].result.clone();
        history[a].result = std::mem::replace(&mut history[b].result, result);
        true
    });
    assert!(broken > 20, "{broken}");
    assert_eq!((by_chain, by_wgl), (broken, broken));
}

#[test]
fn a_key_that_comes_back_is_seen() {
    // Given a read long after a value was overwritten, when it returns that value
    let (broken, by_chain, by_wgl) = seen(|history, rng| {
        let all = reads(history);
        let Some(late) = rng.pick(&all) else { return false };
        let (begins, key) = (history[late].call_ns, history[late].key.clone());
        let older = |op: &&Operation| op.key == key && op.outcome == Outcome::Ok && op.wrote() && op.ends() < begins;
        let mut before: Vec<&Operation> = history.iter().filter(older).collect();
        before.sort_by_key(|operation| operation.revision);
        let value = before.iter().rev().skip(2).find_map(|op| match &op.action {
            Action::Put(value) | Action::Cas(_, value) => Some(value.clone()),
            Action::Get | Action::Delete => None,
        });
        let Some(value) = value else { return false };
        history[late].result = Answer::Value(Some(value));
        true
    });
    assert!(broken > 20, "{broken}");
    assert_eq!((by_chain, by_wgl), (broken, broken));
}

#[test]
fn a_return_that_is_moved_is_seen() {
    // Given a write, when it is said to have been over before what it came after had begun
    let (broken, by_chain, _) = seen(|history, rng| {
        let writes: Vec<usize> =
            (0..history.len()).filter(|index| history[*index].wrote() && history[*index].call_ns > 2000).collect();
        let Some(write) = rng.pick(&writes) else { return false };
        (history[write].call_ns, history[write].return_ns) = (1, Some(2));
        true
    });
    assert!(broken > 30);
    assert_eq!(by_chain, broken);
}

#[test]
fn two_writes_with_one_revision_are_seen() {
    let (broken, by_chain, _) = seen(|history, rng| {
        let writes: Vec<usize> = (0..history.len()).filter(|index| history[*index].wrote()).collect();
        let (Some(a), Some(b)) = (rng.pick(&writes), rng.pick(&writes)) else { return false };
        history[b].revision = history[a].revision;
        a != b
    });
    assert!(broken > 30);
    assert_eq!(by_chain, broken);
}

#[test]
fn a_swap_that_says_the_opposite_is_seen() {
    let (broken, by_chain, by_wgl) = seen(|history, rng| {
        let swaps: Vec<usize> =
            (0..history.len()).filter(|index| history[*index].result == Answer::Swapped(false)).collect();
        let Some(swap) = rng.pick(&swaps) else { return false };
        history[swap].result = Answer::Swapped(true);
        true
    });
    assert!(broken > 30);
    // The chain sees that its revision is somebody else's, or that what it expected was not there.
    assert!(by_chain == broken && by_wgl * 2 > broken, "{broken} {by_chain} {by_wgl}");
}

#[test]
fn a_search_that_is_not_over_is_no_pass() {
    let history = right(3, 300);
    assert_eq!(wgl::check(&history, Limit::steps(10)).verdict, Verdict::Inconclusive);
    let until = std::time::Duration::ZERO;
    // Enough operations at once that it has to look at the clock
    let many = right(4, 20_000);
    assert_eq!(wgl::check(&many, Limit::time(until)).verdict, Verdict::Inconclusive);
}

/// Known histories, as in the papers: what is linearizable and what is not.
#[test]
fn histories_of_the_textbooks_are_judged_as_there() {
    let of = |process, action, result, call, end: u64| Operation {
        process,
        action,
        key: "x".into(),
        result,
        revision: None,
        node: None,
        call_ns: call,
        return_ns: (end != u64::MAX).then_some(end),
        outcome: if end == u64::MAX { Outcome::Unknown } else { Outcome::Ok },
    };
    let put = |process, value: &str, call, end| of(process, Action::Put(value.into()), Answer::Value(None), call, end);
    let get = |process, value: Option<&str>, call, end| {
        of(process, Action::Get, Answer::Value(value.map(str::to_owned)), call, end)
    };
    let judge = |history: &[Operation]| wgl::check(history, Limit::steps(10_000)).verdict;
    // A read that overlaps a write sees it or not; two reads in a row may not see it and then not.
    assert_eq!(judge(&[put(1, "a", 0, 10), get(2, None, 2, 4), get(2, Some("a"), 5, 7)]), Verdict::Pass);
    assert_eq!(judge(&[put(1, "a", 0, 10), get(2, Some("a"), 2, 4), get(2, None, 5, 7)]), Verdict::Fail);
    // Herlihy and Wing: concurrent writes, readers that must agree.
    let both = [put(1, "a", 0, 10), put(2, "b", 0, 10)];
    let agree = [get(3, Some("b"), 11, 12), get(4, Some("b"), 13, 14)];
    let differ = [get(3, Some("b"), 11, 12), get(4, Some("a"), 13, 14)];
    assert_eq!(judge(&[&both[..], &agree[..]].concat()), Verdict::Pass);
    assert_eq!(judge(&[&both[..], &differ[..]].concat()), Verdict::Fail);
    // A write that was never answered may be seen late, and may not vanish again.
    let open = put(1, "a", 0, u64::MAX);
    assert_eq!(judge(&[open.clone(), get(2, None, 5, 6), get(2, Some("a"), 50, 60)]), Verdict::Pass);
    assert_eq!(judge(&[open, get(2, Some("a"), 5, 6), get(2, None, 50, 60)]), Verdict::Fail);
}
