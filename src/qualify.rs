//! User keys and their section: nothing that a user writes can name a record.
//!
//! Owns how a request of a user is put into the user's section. Never looks at values. Called by the managers' service
//! before anything is proposed or read, and by the client, which checks limits on the same full keys before it sends.

use quorate_core::keyspace::Section;
use quorate_core::txn::{Op, OpKind, Range, Txn};

/// The same for a range.
pub(crate) fn qualify_range(range: &mut Range) {
    range.key = Section::User.key(&range.key);
    if !range.end.is_empty() {
        range.end = Section::User.key(&range.end);
    }
}

/// User keys get their section: nothing that a user writes can name a record.
pub(crate) fn qualify(txn: &mut Txn) {
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
