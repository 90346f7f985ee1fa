//! Writes of rows that say what they expect.
//!
//! Owns the loop that reads, changes and writes until nobody was in between. A conflict is not an unknown outcome: what may
//! have been done is never done once more. Called by embedders, through [`Table`].

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::txn::Compare;
use tokio::time::Instant;

use super::super::codec::{Codec, Json};
use super::super::kv::{Sent, compare, operation};
use super::{Row, Table};
use crate::error::{Error, Result};

/// After a conflict: at first not at all, then so long, then twice as long each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A row on its way, which is written only over what was expected; await it for the row as it is then.
#[must_use = "nothing is sent until it is awaited"]
pub struct RowWriteBuilder<T, C = Json> {
    table: Table<T, C>,
    row: Row<T>,
    conditions: Vec<Compare>,
}

impl<T, C> std::fmt::Debug for RowWriteBuilder<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowWriteBuilder")
            .field("table", &self.table)
            .field("key", &self.row.key)
            .finish_non_exhaustive()
    }
}

impl<T, C> RowWriteBuilder<T, C> {
    pub(super) const fn new(table: Table<T, C>, row: Row<T>) -> Self {
        Self { table, row, conditions: Vec::new() }
    }

    /// The row goes when this lease ends; 0 takes it off its lease. Refused as [`Error::LeaseNotFound`] when there is no such
    /// lease.
    pub const fn lease(mut self, lease: u64) -> Self {
        self.row.lease = lease;
        self
    }

    /// Only if this holds, too; [`Error::Conflict`] otherwise. For a lock's fence, say.
    pub fn when(mut self, compare: Compare) -> Self {
        self.conditions.push(compare);
        self
    }

    /// Within this time instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.table.client.deadline = deadline;
        self
    }
}

impl<T: Send + 'static, C: Codec<T>> IntoFuture for RowWriteBuilder<T, C> {
    type Output = Result<Row<T>>;
    type IntoFuture = Sent<Row<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { table, mut row, conditions } = self;
            let bytes = table.encoded(&table.key(&row.key), &row.value)?;
            write(&table, &mut row, bytes, &conditions).await?;
            Ok(row)
        })
    }
}

/// Writes `bytes` over the row as it was read; it is then as it was written.
async fn write<T, C>(table: &Table<T, C>, row: &mut Row<T>, bytes: Bytes, conditions: &[Compare]) -> Result<()> {
    let key = table.key(&row.key);
    let txn = table.kv().txn().when(compare::mod_revision(key.clone(), row.mod_revision));
    let txn = conditions.iter().cloned().fold(txn, |txn, compare| txn.when(compare));
    let done = txn.then(operation::put_with_lease(key.clone(), bytes, row.lease)).await?;
    if done.succeeded {
        if row.version == 0 {
            row.create_revision = done.revision;
        }
        row.mod_revision = done.revision;
        row.version += 1;
        return Ok(());
    }
    let expected = match row.mod_revision {
        0 => "it was to be new".to_owned(),
        revision => format!("it was to be as revision {revision} left it"),
    };
    let also = if conditions.is_empty() { "" } else { ", and other conditions were to hold" };
    Err(Error::Conflict {
        key: key.clone(),
        message: format!(
            "`{}` is not as expected: {expected}{also}. Nothing was changed; read it again and decide anew",
            key.escape_ascii()
        ),
    })
}

/// A change of a row that is repeated until nobody was in between; await it for the row as it is then.
///
/// When the future is dropped, or fails as [`Error::Unknown`], the change may have been written, once, or not.
#[must_use = "nothing is sent until it is awaited"]
pub struct ModifyBuilder<'f, T, C = Json> {
    table: Table<T, C>,
    key: Bytes,
    change: Box<dyn FnMut(&mut T) + Send + 'f>,
    fresh: Option<Box<dyn FnMut() -> T + Send + 'f>>,
    conditions: Vec<Compare>,
}

impl<T, C> std::fmt::Debug for ModifyBuilder<'_, T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModifyBuilder").field("table", &self.table).field("key", &self.key).finish_non_exhaustive()
    }
}

impl<'f, T, C> ModifyBuilder<'f, T, C> {
    pub(super) const fn new(table: Table<T, C>, key: Bytes, change: Box<dyn FnMut(&mut T) + Send + 'f>) -> Self {
        Self { table, key, change, fresh: None, conditions: Vec::new() }
    }

    /// What the row is before the change when there is none: it is created then.
    pub fn or_insert_with(mut self, fresh: impl FnMut() -> T + Send + 'f) -> Self {
        self.fresh = Some(Box::new(fresh));
        self
    }

    /// Only if this holds, too; [`Error::Conflict`] otherwise. For a lock's fence, say.
    pub fn when(mut self, compare: Compare) -> Self {
        self.conditions.push(compare);
        self
    }

    /// All of it within this time instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.table.client.deadline = deadline;
        self
    }
}

impl<T: Send + 'static, C: Codec<T>> ModifyBuilder<'_, T, C> {
    async fn run(mut self) -> Result<Row<T>> {
        let until = Instant::now() + self.table.client.deadline;
        let mut pause = Duration::ZERO;
        // The revision of the row at which a write of it was refused.
        let mut refused_at: Option<u64> = None;
        let mut overtaken: Option<Error> = None;
        loop {
            let mut row = match self.read().await {
                Ok(row) => row,
                // Out of time on the way to another attempt: what matters is why there had to be one.
                Err(error) if error.is_retryable() && Instant::now() >= until => return Err(overtaken.unwrap_or(error)),
                Err(error) => return Err(error),
            };
            let before = row.mod_revision;
            let key = self.table.key(&row.key);
            let unchanged = if before == 0 { None } else { Some(self.table.encoded(&key, &row.value)?) };
            (self.change)(&mut row.value);
            let bytes = self.table.encoded(&key, &row.value)?;
            if self.conditions.is_empty() && unchanged.as_ref() == Some(&bytes) {
                return Ok(row);
            }
            let conflict = match write(&self.table, &mut row, bytes, &self.conditions).await {
                Ok(()) => return Ok(row),
                Err(error @ Error::Conflict { .. }) => error,
                Err(error) if error.is_retryable() && Instant::now() >= until => return Err(overtaken.unwrap_or(error)),
                Err(error) => return Err(error),
            };
            // Twice the same row: nobody was in between, so it is another condition that does not hold.
            let elsewhere = !self.conditions.is_empty() && refused_at == Some(before);
            refused_at = Some(before);
            let left = until.saturating_duration_since(Instant::now());
            if elsewhere || left.is_zero() {
                return Err(conflict);
            }
            overtaken = Some(conflict);
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).clamp(PAUSE.0, PAUSE.1);
            self.table.client.deadline = until.saturating_duration_since(Instant::now());
        }
    }

    async fn read(&mut self) -> Result<Row<T>> {
        if let Some(row) = self.table.get(&self.key).await? {
            return Ok(row);
        }
        let Some(fresh) = &mut self.fresh else {
            return Err(Error::NotFound(format!(
                "there is no `{}`. Nothing was changed; create it",
                self.table.key(&self.key).escape_ascii()
            )));
        };
        let (key, value) = (self.key.clone(), fresh());
        Ok(Row { key, value, create_revision: 0, mod_revision: 0, version: 0, lease: 0 })
    }
}

impl<'f, T: Send + 'static, C: Codec<T>> IntoFuture for ModifyBuilder<'f, T, C> {
    type Output = Result<Row<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Row<T>>> + Send + 'f>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
