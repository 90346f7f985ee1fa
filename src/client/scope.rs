//! A client that sees only what is below a prefix.
//!
//! Owns the border: the prefix is put in front of every key on the way out and taken off every key on the way back, and no
//! range goes beyond it. Nothing else in the client knows of prefixes. It is a border within this program, against mistakes:
//! the managers are asked with the rights of the client that it was made of. Called by all that names user keys.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::limits::KEY_BYTES_MAX;
use quorate_core::state::contract::Refusal;
use quorate_core::txn::{KeyValue, Range, RangeResult, Txn, TxnResult};
use quorate_core::user::{each_entry, each_span};
use quorate_core::watch::WatchStart;

use super::{Client, Election, Kv, Lease, LockBuilder, Table};
use crate::error::{Error, Result};

/// What every key of a client begins with; empty: all keys are its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope(Bytes);

impl Scope {
    fn below(&self, prefix: &[u8]) -> Self {
        Self([&self.0[..], prefix].concat().into())
    }

    pub(super) fn enter_txn(&self, txn: &mut Txn) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { each_span(txn, |key, end| self.enter(key, end)) }
    }

    pub(super) fn enter_range(&self, range: &mut Range) -> Result<()> {
        self.enter(&mut range.key, &mut range.end)
    }

    pub(super) fn enter_watch(&self, start: &mut WatchStart) -> Result<()> {
        self.enter(&mut start.key, &mut start.end)
    }

    pub(super) fn leave_result(&self, result: &mut TxnResult) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { each_entry(result, |entry| self.leave_entry(entry)) }
    }

    pub(super) fn leave_range(&self, result: &mut RangeResult) -> Result<()> {
        result.entries.iter_mut().try_for_each(|entry| self.leave_entry(entry))
    }

    pub(super) fn leave_entry(&self, entry: &mut KeyValue) -> Result<()> {
        if !self.0.is_empty() {
            let below = entry.key.starts_with(&self.0);
            entry.key = if below { entry.key.slice(self.0.len()..) } else { return Err(self.broken(&entry.key)) };
        }
        Ok(())
    }

    /// One key, or a range that has an end. The prefix stands in front of both, so neither lies outside.
    fn enter(&self, key: &mut Bytes, end: &mut Bytes) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if end.is_empty() {
            if key.is_empty() {
                return Err(Error::Invalid(Refusal::EmptyKey.to_string()));
            }
            *key = [&self.0[..], key].concat().into();
            return Ok(());
        }
        // The prefix itself is no key below it, as the empty key is none of the whole.
        let first: &[u8] = if key.is_empty() { &[0] } else { key };
        *key = self.bound(first);
        *end = self.bound(end);
        Ok(())
    }

    /// Cut where no key can differ any more: between a bound and what it is cut to, longest key and one byte, there is none.
    fn bound(&self, bound: &[u8]) -> Bytes {
        let mut full = [&self.0[..], bound].concat();
        full.truncate((KEY_BYTES_MAX + 1).max(self.0.len()));
        full.into()
    }

    fn broken(&self, key: &[u8]) -> Error {
        Error::Internal(format!(
            "a manager answered with `{}`, which is not below `{}`",
            key.escape_ascii(),
            self.0.escape_ascii()
        ))
    }
}

/// A client of what is below a prefix: its keys are named without the prefix, and it reaches no others.
///
/// Reads, writes, ranges of every kind, transactions, watches, mirrors, tables, locks and elections all stay below it, also where
/// they ask for "everything". Scopes nest. A fencing token of the client that it was made of goes with every write. The limit
/// for keys counts the prefix.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let tenant = client.scoped("tenants/acme/");
/// tenant.kv().put("plan", "large").await?; // tenants/acme/plan
/// let all = tenant.kv().prefix("").all().await?; // of this tenant, and named without its prefix
/// assert_eq!(all[0].key, "plan");
/// let backups = tenant.scoped("backups/"); // tenants/acme/backups/
/// let lock = backups.lock("nightly").await?;
/// backups.kv().put("last", "today").when(lock.fence()).await?;
/// # Ok(())
/// # }
/// ```
///
/// A condition from a lock or an election names a key, so it holds only in writes of the scope that it came from; in others it
/// never does.
///
/// It is a border for programs that are not to get into each other's way, and not one of rights: whoever holds the client that
/// it was made of can reach everything.
#[derive(Debug, Clone)]
pub struct ScopedClient {
    client: Client,
}

impl ScopedClient {
    pub(super) fn new(client: &Client, prefix: &[u8]) -> Self {
        let scope = client.scope.below(prefix);
        Self { client: Client { scope, ..client.clone() } }
    }

    /// What stands in front of all its keys.
    pub const fn prefix(&self) -> &Bytes {
        &self.client.scope.0
    }

    /// The part of it that is below a further prefix.
    #[must_use]
    pub fn scoped(&self, prefix: impl AsRef<[u8]>) -> Self {
        Self::new(&self.client, prefix.as_ref())
    }

    /// The same with another deadline for each request.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { client: self.client.with_deadline(deadline) }
    }

    /// The same with a fencing token on every write; see [`Client::with_fence`].
    #[must_use]
    pub fn with_fence(&self, term: u64) -> Self {
        Self { client: self.client.with_fence(term) }
    }

    /// The keys and values below the prefix.
    pub fn kv(&self) -> Kv {
        self.client.kv()
    }

    /// A typed table below the prefix; see [`Client::table`].
    pub fn table<T>(&self, prefix: impl Into<Bytes>) -> Table<T> {
        self.client.table(prefix)
    }

    /// A lock by its name below the prefix; see [`Client::lock`].
    pub fn lock(&self, name: impl Into<Bytes>) -> LockBuilder {
        self.client.lock(name)
    }

    /// An election by its name below the prefix; see [`Client::election`].
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        self.client.election(name)
    }

    /// A lease for keys below the prefix. Leases belong to no prefix, so they are not listed here; a key may be attached to any of
    /// them by its id. Done once however often it must be sent; see [`Leases::grant`](super::Leases::grant).
    ///
    /// Cancel safe: dropped before the answer, a lease may have been granted that nobody knows; it runs out by itself.
    ///
    /// # Errors
    /// `Invalid` when `ttl` is out of range or there are too many leases; see [`Error`].
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.client.leases().grant(ttl).await
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::txn::{Compare, Delete, OpResult, OpResultKind, Put};

    use super::*;

    fn scope(prefix: &[u8]) -> Scope {
        Scope::default().below(prefix)
    }

    fn span(scope: &Scope, key: &[u8], end: &[u8]) -> Result<(Bytes, Bytes)> {
        let (mut key, mut end) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(end));
        scope.enter(&mut key, &mut end)?;
        Ok((key, end))
    }

    #[test]
    fn every_range_stays_below_the_prefix_whatever_is_asked_for() {
        let all_there_is = [0xff; KEY_BYTES_MAX];
        for prefix in [&b"t/"[..], b"\xff", b"\xff\xff/", b"x\x00"] {
            let scope = scope(prefix);
            let after = quorate_core::keyspace::prefix_end(prefix);
            for (key, end) in [
                (&b""[..], &b"m"[..]),
                (b"\0", &all_there_is),
                (b"", &all_there_is),
                (&all_there_is, &all_there_is),
                (b"z", b"a"),
                (b"a", b"\0"),
            ] {
                let (key, end) = span(&scope, key, end).unwrap();
                for bound in [&key, &end] {
                    assert!(bound.starts_with(prefix) && bound.len() > prefix.len(), "{bound:?}");
                    assert!(bound.len() <= KEY_BYTES_MAX + 1, "a manager would refuse it");
                    assert!(after.is_empty() || *bound < after);
                }
            }
        }
    }

    #[test]
    fn a_bound_that_is_cut_leaves_the_same_keys_on_each_side() {
        let scope = scope(b"t/");
        let longest = |fill: u8| Bytes::from([&b"t/"[..], &vec![fill; KEY_BYTES_MAX - 2]].concat());
        let end = scope.bound(&[b'm'; KEY_BYTES_MAX]);
        assert_eq!(end.len(), KEY_BYTES_MAX + 1);
        // The longest key below, all of `m`, is before a bound of still more of them; one of `n` is not.
        assert!(longest(b'm') < end && longest(b'l') < end && longest(b'n') > end);
    }

    #[test]
    fn the_prefix_is_no_key_below_itself() {
        let scope = scope(b"t/");
        assert!(matches!(span(&scope, b"", b""), Err(Error::Invalid(_))));
        let (first, _) = span(&scope, b"", b"b").unwrap();
        assert!(first > Bytes::from_static(b"t/") && first <= Bytes::from_static(b"t/\0"));
    }

    #[test]
    fn every_key_of_a_transaction_goes_in_and_every_key_of_its_answer_comes_out() {
        let scope = scope(b"t/").below(b"deep/");
        let mut txn = Txn {
            compares: vec![Compare::absent("a")],
            then: vec![
                Put { key: "b".into(), ..Put::default() }.into(),
                Delete { key: "c".into(), end: "d".into(), previous: true }.into(),
            ],
            or_else: vec![Range { key: "e".into(), end: "f".into(), ..Range::default() }.into()],
            fence: None,
        };
        scope.enter_txn(&mut txn).unwrap();
        let mut seen = Vec::new();
        let Ok(()) = each_span(&mut txn, |key, end| {
            seen.push((key.clone(), end.clone()));
            Ok::<(), std::convert::Infallible>(())
        });
        let expected = [("t/deep/a", ""), ("t/deep/b", ""), ("t/deep/c", "t/deep/d"), ("t/deep/e", "t/deep/f")];
        assert_eq!(seen, expected.map(|(key, end)| (Bytes::from(key), Bytes::from(end))));

        let entry = |key: &'static str| KeyValue { key: key.into(), ..KeyValue::default() };
        let kind = |entries| OpResultKind::Range(RangeResult { entries, ..RangeResult::default() });
        let mut result = TxnResult::default();
        result.results.push(OpResult { kind: Some(kind(vec![entry("t/deep/a"), entry("t/deep/b")])) });
        scope.leave_result(&mut result).unwrap();
        assert_eq!(result.results[0].kind, Some(kind(vec![entry("a"), entry("b")])));
        // An answer that is not of this scope is never passed on under another name
        assert!(matches!(scope.leave_entry(&mut entry("t/other")), Err(Error::Internal(_))));
    }
}
