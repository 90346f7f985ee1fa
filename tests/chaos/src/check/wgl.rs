//! Linearizability by search: is there any order of the operations of a key that explains every answer?
//!
//! Owns the search of Wing and Gong with Lowe's cache (as porcupine does it): operations are lifted out of a list in every
//! order that real time allows, what was tried is remembered as (set of operations, value). It knows nothing of revisions.
//! Writes of which nothing is known may take effect at any time after they were asked for, also never; reads of which
//! nothing is known say nothing. Never decides beyond its limit. Called by [`super::check`].

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::{Finding, Limit, Verdict};
use crate::history::{Action, Answer, Operation, Outcome};

/// The name of this checker.
pub const NAME: &str = "linearizable (search)";

/// A register's operation with values as numbers; 0 is absent.
#[derive(Debug, Clone, Copy)]
enum Do {
    Write(u32),
    Read(u32),
    /// Expected, new, and what was answered.
    Swap(u32, u32, Option<bool>),
}

#[derive(Debug, Clone, Copy)]
struct Item {
    what: Do,
    call: u64,
    end: u64,
    /// Where it is in the history that was given.
    origin: usize,
}

/// Judges every key by itself.
#[must_use]
pub fn check(history: &[Operation], limit: Limit) -> Finding {
    let mut keys = BTreeMap::<&str, Vec<usize>>::new();
    for (index, operation) in history.iter().enumerate() {
        keys.entry(&operation.key).or_default().push(index);
    }
    let (mut judged, mut open) = (0, Vec::new());
    for (key, indices) in &keys {
        let (verdict, stuck) = one_key(history, indices, limit);
        match verdict {
            Verdict::Pass => judged += 1,
            Verdict::Inconclusive => open.push(*key),
            Verdict::Fail => {
                let shown = stuck.and_then(|index| history.get(index)).map(|op| format!("{op:?}")).unwrap_or_default();
                return Finding::fail(NAME, format!("no order of the operations on `{key}` explains {shown}"));
            }
        }
    }
    if open.is_empty() {
        Finding::pass(NAME, format!("{judged} keys, {} operations", history.len()))
    } else {
        Finding::inconclusive(NAME, format!("{judged} keys hold; the limit was reached for {}", open.join(", ")))
    }
}

/// Every value of a key gets a number; 0 is absent.
fn numbers<'a>(operations: impl Iterator<Item = &'a Operation>) -> BTreeMap<&'a str, u32> {
    let mut names = BTreeMap::new();
    for operation in operations {
        let read = match &operation.result {
            Answer::Value(value) => value.as_deref(),
            Answer::Swapped(_) => None,
        };
        let (first, second) = match &operation.action {
            Action::Put(value) => (Some(value.as_str()), None),
            Action::Cas(from, to) => (from.as_deref(), Some(to.as_str())),
            Action::Get | Action::Delete => (None, None),
        };
        for value in [read, first, second].into_iter().flatten() {
            let next = u32::try_from(names.len() + 1).unwrap_or(u32::MAX - 1);
            names.entry(value).or_insert(next);
        }
    }
    names
}

/// What the search has to explain; what certainly was not done, and reads without an answer, are left out.
fn items(history: &[Operation], indices: &[usize]) -> Vec<Item> {
    let operations = || indices.iter().filter_map(|index| Some((*index, history.get(*index)?)));
    let names = numbers(operations().map(|(_, operation)| operation));
    let number = |value: Option<&str>| value.map_or(0, |value| names.get(value).copied().unwrap_or(u32::MAX));
    let mut items = Vec::new();
    for (origin, operation) in operations() {
        let what = match (&operation.action, &operation.result) {
            _ if operation.outcome == Outcome::Fail => continue,
            (Action::Get, _) if operation.outcome == Outcome::Unknown => continue,
            (Action::Get, Answer::Value(value)) => Do::Read(number(value.as_deref())),
            // A read that answers whether it swapped is explained by nothing.
            (Action::Get, Answer::Swapped(_)) => Do::Read(u32::MAX),
            (Action::Put(value), _) => Do::Write(number(Some(value))),
            (Action::Delete, _) => Do::Write(0),
            (Action::Cas(from, to), answer) => {
                let told = match answer {
                    Answer::Swapped(done) if operation.outcome == Outcome::Ok => Some(*done),
                    Answer::Swapped(_) | Answer::Value(_) => None,
                };
                Do::Swap(number(from.as_deref()), number(Some(to)), told)
            }
        };
        items.push(Item { what, call: operation.call_ns, end: operation.ends(), origin });
    }
    items
}

/// What an operation makes of a value; `None` when it could not have been answered so.
fn apply(what: Do, value: u32) -> Option<u32> {
    match what {
        Do::Write(new) => Some(new),
        Do::Read(seen) => (seen == value).then_some(value),
        Do::Swap(from, to, told) => {
            let done = from == value;
            if told.is_some_and(|told| told != done) {
                return None;
            }
            Some(if done { to } else { value })
        }
    }
}

/// The list of calls and returns in the order of time, linked, so that an operation can be lifted out and put back.
struct List {
    /// (item, whether it is the return), by place; place 0 is the head.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Where the return of an item is.
    returns: Vec<usize>,
}

const END: usize = usize::MAX;

impl List {
    fn new(items: &[Item]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            events.push((item.call, false, index));
            events.push((item.end, true, index));
        }
        // At one moment calls come first: operations that touch may be in either order.
        events.sort_unstable();
        let places: Vec<(usize, bool)> = std::iter::once((END, false))
            .chain(events.iter().map(|(_, is_return, index)| (*index, *is_return)))
            .collect();
        let mut returns = vec![0; items.len()];
        for (place, (index, is_return)) in places.iter().enumerate().skip(1) {
            if *is_return && let Some(known) = returns.get_mut(*index) {
                *known = place;
            }
        }
        let len = places.len();
        let next = (1..=len).map(|place| if place < len { place } else { END }).collect();
        let before = (0..len).map(|place| place.saturating_sub(1)).collect();
        Self { events: places, next, before, returns }
    }

    fn after(&self, place: usize) -> usize {
        self.next.get(place).copied().unwrap_or(END)
    }

    fn unlink(&mut self, place: usize) {
        let (before, after) = (self.before.get(place).copied().unwrap_or(0), self.after(place));
        if let Some(next) = self.next.get_mut(before) {
            *next = after;
        }
        if let Some(back) = self.before.get_mut(after) {
            *back = before;
        }
    }

    fn relink(&mut self, place: usize) {
        let (before, after) = (self.before.get(place).copied().unwrap_or(0), self.after(place));
        if let Some(next) = self.next.get_mut(before) {
            *next = place;
        }
        if let Some(back) = self.before.get_mut(after) {
            *back = place;
        }
    }

    fn lift(&mut self, call: usize, item: usize) {
        self.unlink(call);
        self.unlink(self.returns.get(item).copied().unwrap_or(0));
    }

    fn put_back(&mut self, call: usize, item: usize) {
        self.relink(self.returns.get(item).copied().unwrap_or(0));
        self.relink(call);
    }
}

/// A quick hash for sets of numbers that nobody chooses with ill intent.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn finish(&self) -> u64 {
        // The table looks at the highest bits and at the lowest.
        self.0 ^ (self.0 >> 32)
    }
}

/// Judges one key; of a failure the operation whose answer could not be explained.
fn one_key(history: &[Operation], indices: &[usize], limit: Limit) -> (Verdict, Option<usize>) {
    let items = items(history, indices);
    let mut must = items.iter().filter(|item| item.end != u64::MAX).count();
    let mut list = List::new(&items);
    let mut taken = vec![0_u64; items.len().div_ceil(64)];
    let mut tried = HashSet::<(Vec<u64>, u32), BuildHasherDefault<Mix>>::default();
    let mut lifted: Vec<(usize, usize, u32)> = Vec::new();
    let (mut value, mut place, mut steps) = (0, list.after(0), 0_u64);
    // The furthest return that the search came to.
    let mut stuck = (0, None);
    while must > 0 && place != END {
        steps += 1;
        let late = steps.is_multiple_of(4096) && limit.until.is_some_and(|until| std::time::Instant::now() > until);
        if steps > limit.steps || late {
            return (Verdict::Inconclusive, None);
        }
        let Some((index, is_return)) = list.events.get(place).copied() else { break };
        let Some(item) = items.get(index).copied() else { break };
        if is_return {
            if item.end >= stuck.0 {
                stuck = (item.end, Some(item.origin));
            }
            // Its answer has come, and in no order that was tried so far it was done: another choice before it.
            let Some((call, index, before)) = lifted.pop() else { return (Verdict::Fail, stuck.1) };
            value = before;
            set(&mut taken, index, false);
            must += usize::from(items.get(index).is_some_and(|item| item.end != u64::MAX));
            list.put_back(call, index);
            place = list.after(call);
            continue;
        }
        let made = apply(item.what, value).filter(|made| {
            set(&mut taken, index, true);
            let fresh = tried.insert((taken.clone(), *made));
            set(&mut taken, index, fresh);
            fresh
        });
        if let Some(made) = made {
            lifted.push((place, index, value));
            value = made;
            must -= usize::from(item.end != u64::MAX);
            list.lift(place, index);
            place = list.after(0);
        } else {
            place = list.after(place);
        }
    }
    (Verdict::Pass, None)
}

fn set(taken: &mut [u64], index: usize, on: bool) {
    if let Some(word) = taken.get_mut(index / 64) {
        let bit = 1 << (index % 64);
        if on {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }
}
