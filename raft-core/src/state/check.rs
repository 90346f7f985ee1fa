//! What a request may be, whatever the state is: limits and shape.
//!
//! Owns the checks that depend on the request alone. The client runs them before it sends, the manager before it
//! proposes, and apply runs them again, because an entry in the log counts however it came there. Never reads state.

use bytes::Bytes;
use prost::Message;

use crate::keyspace::Section;
use crate::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX, TXN_BYTES_MAX, TXN_OPERATIONS_MAX, VALUE_BYTES_MAX};
use crate::state::contract::Refusal;
use crate::txn::{Compare, Delete, Op, OpKind, Operand, Put, Range, Relation, Txn};

/// The section byte in front of a user's key.
const SECTION: usize = 1;
/// The zero byte that makes a page begin after the last key of the page before.
const SUCCESSOR: usize = 1;

/// Checks a transaction against [`crate::limits`] and for contradictions in itself.
///
/// In one branch no key may be written twice. Deletes of ranges count with all that they could remove, so a put into a
/// range deleted in the same branch is refused in either order, and so are two deletes that overlap: a revision has one
/// event per key, and what it is must not depend on what the store holds. The branches do not see each other.
///
/// # Errors
/// The refusal that a member would answer at apply.
pub fn check_txn(txn: &Txn) -> Result<(), Refusal> {
    let operations = txn.compares.len() + txn.then.len() + txn.or_else.len();
    within("the transaction", operations, "TXN_OPERATIONS_MAX", TXN_OPERATIONS_MAX)?;
    txn.compares.iter().try_for_each(check_compare)?;
    check_branch(&txn.then)?;
    check_branch(&txn.or_else)?;
    within("the transaction", txn.encoded_len(), "TXN_BYTES_MAX", TXN_BYTES_MAX)
}

/// Checks a range read on its own. Its revision is checked against the state when it is read.
///
/// # Errors
/// The refusal that a member would answer.
pub fn check_range(range: &Range) -> Result<(), Refusal> {
    check_span(&range.key, &range.end)
}

fn check_compare(compare: &Compare) -> Result<(), Refusal> {
    check_key(&compare.key)?;
    if Relation::try_from(compare.relation).is_err() {
        return Err(malformed(format!("comparison has the unknown relation {}", compare.relation)));
    }
    match &compare.operand {
        None => Err(malformed("comparison without an operand")),
        Some(Operand::Value(value)) => {
            within("the value compared with", value.len(), "VALUE_BYTES_MAX", VALUE_BYTES_MAX)
        }
        Some(Operand::Version(_) | Operand::CreateRevision(_) | Operand::ModRevision(_) | Operand::Lease(_)) => Ok(()),
    }
}

fn check_branch(ops: &[Op]) -> Result<(), Refusal> {
    for op in ops {
        match &op.kind {
            None => return Err(malformed("operation of no known kind")),
            Some(OpKind::Put(Put { key, value, lease, .. })) => {
                check_key(key)?;
                if *lease != 0 && key.first() != Some(&(Section::User as u8)) {
                    return Err(malformed("a record attached to a lease; only users' keys may go with one"));
                }
                if key.first() == Some(&(Section::User as u8)) {
                    within("the value", value.len(), "VALUE_BYTES_MAX", VALUE_BYTES_MAX)?;
                } else {
                    within("the record", value.len(), "RECORD_BYTES_MAX", RECORD_BYTES_MAX)?;
                }
            }
            Some(OpKind::Delete(Delete { key, end, .. })) => check_span(key, end)?,
            Some(OpKind::Range(range)) => {
                check_range(range)?;
                if range.revision != 0 {
                    return Err(malformed(format!(
                        "range at revision {} inside a transaction, which reads only the present",
                        range.revision
                    )));
                }
            }
        }
    }
    if ops.len() > 1 { check_disjoint(ops) } else { Ok(()) }
}

/// Every key is written by at most one operation.
fn check_disjoint(ops: &[Op]) -> Result<(), Refusal> {
    let mut spans: Vec<(&Bytes, &Bytes)> = ops
        .iter()
        .filter_map(|op| match &op.kind {
            Some(OpKind::Put(put)) => Some((&put.key, &EMPTY)),
            Some(OpKind::Delete(delete)) => Some((&delete.key, &delete.end)),
            Some(OpKind::Range(_)) | None => None,
        })
        .filter(|(key, end)| end.is_empty() || key < end)
        .collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [(key, end), (next, _)] = pair else { continue };
        if next == key || (!end.is_empty() && next < end) {
            return Err(Refusal::DuplicateKey { key: printable(next) });
        }
    }
    Ok(())
}

static EMPTY: Bytes = Bytes::new();

/// One key, or the keys from one to another.
fn check_span(key: &Bytes, end: &Bytes) -> Result<(), Refusal> {
    if end.is_empty() {
        return check_key(key);
    }
    if key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    for bound in [key, end] {
        check_key_bytes(bound, SUCCESSOR)?;
    }
    Ok(())
}

fn check_key(key: &Bytes) -> Result<(), Refusal> {
    if key.len() <= SECTION {
        return Err(Refusal::EmptyKey);
    }
    check_key_bytes(key, 0)
}

fn check_key_bytes(key: &Bytes, slack: usize) -> Result<(), Refusal> {
    if key.len() <= KEY_BYTES_MAX + SECTION + slack {
        return Ok(());
    }
    within("the key", key.len() - SECTION, "KEY_BYTES_MAX", KEY_BYTES_MAX)
}

/// Refuses what is over a limit, by the limit's name.
pub(crate) fn within(what: &str, actual: usize, limit: &'static str, max: usize) -> Result<(), Refusal> {
    if actual <= max {
        return Ok(());
    }
    Err(Refusal::Limit { what: what.to_owned(), limit, max: max as u64, actual: actual as u64 })
}

pub(crate) fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::Malformed { what: what.into() }
}

/// A full key as people see it: without its section, other than printable bytes escaped, and cut where it is long,
/// because refusals are kept in the replay table.
fn printable(full: &[u8]) -> String {
    const SHOWN: usize = 128;
    let key = full.get(SECTION..).unwrap_or_default();
    match key.get(..SHOWN) {
        Some(shown) if key.len() > SHOWN => format!("{}...", shown.escape_ascii()),
        _ => key.escape_ascii().to_string(),
    }
}
