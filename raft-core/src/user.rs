//! User keys and full keys: the section is added here and stripped here, and nowhere else.
//!
//! Owns the one border between what a user writes and what the state holds: nothing that a user names can be a record.
//! Called by managers on the way in and out, and by clients that check a request before they send it.

use crate::keyspace::Section;
use crate::txn::{KeyValue, Op, OpKind, OpResultKind, Range, RangeResult, Txn, TxnResult};
use crate::watch::WatchStart;

/// Puts a range's keys into the user section.
pub fn qualify_range(range: &mut Range) {
    range.key = Section::User.key(&range.key);
    if !range.end.is_empty() {
        range.end = Section::User.key(&range.end);
    }
}

/// Puts every key of a transaction into the user section.
pub fn qualify(txn: &mut Txn) {
    for compare in &mut txn.compares {
        compare.key = Section::User.key(&compare.key);
    }
    for op in txn.then.iter_mut().chain(&mut txn.or_else) {
        qualify_op(op);
    }
}

fn qualify_op(op: &mut Op) {
    match &mut op.kind {
        Some(OpKind::Put(put)) => put.key = Section::User.key(&put.key),
        Some(OpKind::Delete(delete)) => {
            delete.key = Section::User.key(&delete.key);
            if !delete.end.is_empty() {
                delete.end = Section::User.key(&delete.end);
            }
        }
        Some(OpKind::Range(range)) => qualify_range(range),
        None => {}
    }
}

/// Puts a watch's keys into the user section.
pub fn qualify_watch(start: &mut WatchStart) {
    start.key = Section::User.key(&start.key);
    if !start.end.is_empty() {
        start.end = Section::User.key(&start.end);
    }
}

/// Takes the section off one entry.
pub(crate) fn strip(entry: &mut KeyValue) {
    entry.key = Section::User.strip(&entry.key).unwrap_or_default();
}

/// Takes the section off a range's answer.
pub fn strip_range(result: &mut RangeResult) {
    result.entries.iter_mut().for_each(strip);
}

/// Takes the section off a transaction's answer.
pub fn strip_result(result: &mut TxnResult) {
    for result in &mut result.results {
        match &mut result.kind {
            Some(OpResultKind::Put(put)) => put.previous.iter_mut().for_each(strip),
            Some(OpResultKind::Delete(delete)) => delete.previous.iter_mut().for_each(strip),
            Some(OpResultKind::Range(range)) => strip_range(range),
            None => {}
        }
    }
}
