//! Linearizability by revisions: the primary checker, in time O(n log n).
//!
//! Owns one argument: every write has a revision of its own, so their order is known and need not be searched for. It has to
//! respect real time, and a read at a revision must return what the last write at or below it left. A write whose answer
//! never came has no revision; what reads say of it bounds where it can be, and the bounds must not contradict each other.
//! Called by [`super::check`].

use std::collections::BTreeMap;

use super::Finding;
use crate::history::{Action, Answer, Operation, Outcome};

/// The name of this checker.
pub const NAME: &str = "linearizable (revisions)";

/// What the writes of one key left behind.
#[derive(Default)]
struct Key<'a> {
    /// By revision; `None` is absent.
    known: BTreeMap<u64, Option<&'a str>>,
    /// Values whose write was not answered, with the bounds of their revision: above the first, at most the second.
    open: BTreeMap<&'a str, (u64, u64)>,
    /// A removal that was not answered, asked for at this time: from then on absence is explained.
    removed: Option<u64>,
}

/// What an operation that was done left, if it wrote.
fn left(operation: &Operation) -> Option<Option<&str>> {
    match (&operation.action, &operation.result) {
        (Action::Put(value), _) => Some(Some(value)),
        (Action::Delete, _) => Some(None),
        (Action::Cas(_, to), Answer::Swapped(true)) => Some(Some(to)),
        (Action::Cas(..) | Action::Get, _) => None,
    }
}

/// Judges a whole history.
#[must_use]
pub fn check(history: &[Operation]) -> Finding {
    match judge(history) {
        Ok(judged) => Finding::pass(NAME, format!("{judged} operations with a revision")),
        Err(detail) => Finding::fail(NAME, detail),
    }
}

fn judge(history: &[Operation]) -> Result<usize, String> {
    let floors = real_time(history)?;
    let mut keys = BTreeMap::<&str, Key<'_>>::new();
    let mut owners = BTreeMap::<u64, &Operation>::new();
    for (operation, floor) in history.iter().zip(&floors) {
        let key = keys.entry(&operation.key).or_default();
        match operation.outcome {
            Outcome::Fail => {}
            Outcome::Unknown => match &operation.action {
                Action::Put(value) | Action::Cas(_, value) => {
                    key.open.insert(value, (*floor, u64::MAX));
                }
                Action::Delete => {
                    key.removed = Some(key.removed.unwrap_or(u64::MAX).min(operation.call_ns));
                }
                Action::Get => {}
            },
            Outcome::Ok => {
                let (Some(left), Some(revision)) = (left(operation), operation.revision) else { continue };
                if let Some(other) = owners.insert(revision, operation) {
                    return Err(format!("revision {revision} was given to {other:?} and to {operation:?}"));
                }
                key.known.insert(revision, left);
            }
        }
    }
    let mut judged = owners.len();
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(revision) = operation.revision else { continue };
        let Some(key) = keys.get_mut(operation.key.as_str()) else { continue };
        match (&operation.action, &operation.result) {
            (Action::Get, Answer::Value(value)) => {
                key.explains(operation, revision, value.as_deref())?;
                judged += 1;
            }
            (Action::Get, Answer::Swapped(_)) => return Err(format!("a read answers as if it swapped: {operation:?}")),
            (Action::Cas(from, _), Answer::Swapped(true)) => {
                key.explains(operation, revision.saturating_sub(1), from.as_deref())?;
            }
            (Action::Cas(from, _), Answer::Swapped(false)) => key.excludes(operation, revision, from.as_deref())?,
            (Action::Put(_) | Action::Delete | Action::Cas(..), _) => {}
        }
    }
    Ok(judged)
}

/// The order of revisions respects real time. Answers for each operation the newest revision that was known before it.
fn real_time(history: &[Operation]) -> Result<Vec<u64>, String> {
    let mut ends: Vec<(u64, u64)> = Vec::new();
    for operation in history {
        if let (Outcome::Ok, Some(end), Some(revision)) = (operation.outcome, operation.return_ns, operation.revision) {
            if end < operation.call_ns {
                return Err(format!("it was answered before it was asked: {operation:?}"));
            }
            ends.push((end, revision));
        }
    }
    ends.sort_unstable();
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|index| history.get(*index).map_or(0, |operation| operation.call_ns));
    let mut floors = vec![0; history.len()];
    let (mut ends, mut floor) = (ends.into_iter().peekable(), 0);
    for index in order {
        let (Some(operation), Some(place)) = (history.get(index), floors.get_mut(index)) else { continue };
        while let Some((_, revision)) = ends.next_if(|(end, _)| *end < operation.call_ns) {
            floor = floor.max(revision);
        }
        *place = floor;
        let Some(revision) = operation.revision.filter(|_| operation.outcome == Outcome::Ok) else { continue };
        let early = if operation.wrote() { revision <= floor } else { revision < floor };
        if early {
            return Err(format!("revision {floor} was known before {operation:?} began"));
        }
    }
    Ok(floors)
}

impl<'a> Key<'a> {
    /// The newest write that is known at or below a revision.
    fn last(&self, revision: u64) -> (u64, Option<&'a str>) {
        self.known.range(..=revision).next_back().map_or((0, None), |(revision, value)| (*revision, *value))
    }

    /// What was seen at `revision` is what was there.
    fn explains(&mut self, by: &Operation, revision: u64, seen: Option<&str>) -> Result<(), String> {
        let (at, there) = self.last(revision);
        if there == seen {
            return Ok(());
        }
        let Some(seen) = seen else {
            let asked = self.removed.is_some_and(|asked| asked <= by.ends());
            return if asked {
                Ok(())
            } else {
                Err(format!("`{there:?}` of revision {at} was there, and not seen by {by:?}"))
            };
        };
        let Some((low, high)) = self.open.get_mut(seen) else {
            return Err(format!("`{there:?}` of revision {at} was there, something else was seen by {by:?}"));
        };
        // It lies above the last write that is known, and not above what was seen.
        (*low, *high) = ((*low).max(at), (*high).min(revision));
        if low >= high {
            return Err(format!("the write of `{seen}` was never answered, and has no place that explains {by:?}"));
        }
        Ok(())
    }

    /// What was not seen at `revision` was not there, as far as that is known.
    fn excludes(&self, by: &Operation, revision: u64, expected: Option<&str>) -> Result<(), String> {
        let (at, there) = self.last(revision);
        // Whatever was never answered may have come between.
        let certain = self.open.is_empty() && self.removed.is_none();
        if certain && there == expected {
            return Err(format!("`{there:?}` of revision {at} was there, and not taken by {by:?}"));
        }
        Ok(())
    }
}
