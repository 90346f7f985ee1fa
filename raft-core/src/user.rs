//! User keys and full keys: the section is added here and stripped here, and nowhere else.
//!
//! Owns the one border between what a user writes and what the state holds: nothing that a user names can be a record.
//! Called by managers on the way in and out, and by clients that check a request before they send it.

use std::convert::Infallible;

use bytes::Bytes;

use crate::keyspace::Section;
use crate::txn::{KeyValue, OpKind, OpResultKind, Range, RangeResult, Txn, TxnResult};
use crate::watch::WatchStart;

/// Puts a range's keys into the user section.
pub fn qualify_range(range: &mut Range) {
    qualify_span(&mut range.key, &mut range.end);
}

/// Puts every key of a transaction into the user section.
pub fn qualify(txn: &mut Txn) {
    let Ok(()) = each_span(txn, |key, end| {
        qualify_span(key, end);
        Ok::<(), Infallible>(())
    });
}

/// Puts a watch's keys into the user section.
pub fn qualify_watch(start: &mut WatchStart) {
    qualify_span(&mut start.key, &mut start.end);
}

fn qualify_span(key: &mut Bytes, end: &mut Bytes) {
    *key = Section::User.key(key);
    if !end.is_empty() {
        *end = Section::User.key(end);
    }
}

/// Visits all that a transaction names: keys, each with the end of its range, which is empty where it is the one key.
///
/// # Errors
/// The first one of a visit; what was visited before stays as the visits made it.
pub fn each_span<E>(txn: &mut Txn, mut visit: impl FnMut(&mut Bytes, &mut Bytes) -> Result<(), E>) -> Result<(), E> {
    for compare in &mut txn.compares {
        visit(&mut compare.key, &mut Bytes::new())?;
    }
    for op in txn.then.iter_mut().chain(&mut txn.or_else) {
        match &mut op.kind {
            Some(OpKind::Put(put)) => visit(&mut put.key, &mut Bytes::new())?,
            Some(OpKind::Delete(delete)) => visit(&mut delete.key, &mut delete.end)?,
            Some(OpKind::Range(range)) => visit(&mut range.key, &mut range.end)?,
            None => {}
        }
    }
    Ok(())
}

/// Takes the section off one entry.
pub fn strip(entry: &mut KeyValue) {
    entry.key = Section::User.strip(&entry.key).unwrap_or_default();
}

/// Takes the section off a range's answer.
pub fn strip_range(result: &mut RangeResult) {
    result.entries.iter_mut().for_each(strip);
}

/// Takes the section off a transaction's answer.
pub fn strip_result(result: &mut TxnResult) {
    let Ok(()) = each_entry(result, |entry| {
        strip(entry);
        Ok::<(), Infallible>(())
    });
}

/// Visits every entry of a transaction's answer.
///
/// # Errors
/// The first one of a visit; what was visited before stays as the visits made it.
pub fn each_entry<E>(result: &mut TxnResult, mut visit: impl FnMut(&mut KeyValue) -> Result<(), E>) -> Result<(), E> {
    for result in &mut result.results {
        match &mut result.kind {
            Some(OpResultKind::Put(put)) => put.previous.iter_mut().try_for_each(&mut visit)?,
            Some(OpResultKind::Delete(delete)) => delete.previous.iter_mut().try_for_each(&mut visit)?,
            Some(OpResultKind::Range(range)) => range.entries.iter_mut().try_for_each(&mut visit)?,
            None => {}
        }
    }
    Ok(())
}
