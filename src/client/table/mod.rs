//! Typed tables: the keys below a prefix as rows, their values as a type of the embedder's.
//!
//! Owns the way from values to bytes and back, and says whose value cannot be read. Never keeps anything between two calls,
//! never retries what the client does not, and has no requests of its own: a table is a prefix and a codec on [`Kv`]. Called by
//! embedders.

mod follow;
mod write;

use std::borrow::Cow;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::txn::{Compare, Op};

pub use follow::{RowChange, RowChanges, RowsWatched, TableMirror, TableMirrorBuilder, TableWatch, TableWatchBuilder};
pub use write::{ModifyBuilder, RowWriteBuilder};

use super::Client;
use super::codec::{Codec, Json};
use super::kv::{Entry, Kv, Sent, WriteBuilder, compare, operation};
use super::ranges::{GetBuilder, RangeBuilder};
use crate::error::{Error, Result};

/// A typed table: every key that begins with a prefix is a row, named by what follows the prefix.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
/// struct Pod {
///     image: String,
///     ready: bool,
/// }
///
/// let pods = client.table::<Pod>("pods/");
/// pods.create("web-1", Pod { image: "web:1".into(), ready: false }).await?; // `Conflict` when it is there
/// pods.modify("web-1", |pod| pod.ready = true).await?; // whoever else writes it meanwhile
/// for row in pods.list().await?.rows {
///     println!("{}: {:?}, written at revision {}", row.name(), row.value, row.mod_revision);
/// }
/// # Ok(())
/// # }
/// ```
///
/// In transactions rows go with everything else, also rows of several tables: [`put_op`](Self::put_op),
/// [`delete_op`](Self::delete_op), [`unchanged`](Self::unchanged), and [`decode`](Self::decode) for what comes back.
///
/// Writes through a table of a leadership's client carry its fencing token. Cheap to clone; nothing is sent before a builder is
/// awaited, and each of the futures may be dropped: a write may then have been done or not.
pub struct Table<T, C = Json> {
    client: Client,
    prefix: Bytes,
    codec: C,
    of: PhantomData<fn() -> T>,
}

impl<T, C: Clone> Clone for Table<T, C> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), prefix: self.prefix.clone(), codec: self.codec.clone(), of: PhantomData }
    }
}

impl<T, C> std::fmt::Debug for Table<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("prefix", &self.prefix)
            .field("of", &std::any::type_name::<T>())
            .finish_non_exhaustive()
    }
}

/// One row: its value with everything known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row<T> {
    /// The key without the table's prefix.
    pub key: Bytes,
    /// The value.
    pub value: T,
    /// The revision that created it.
    pub create_revision: u64,
    /// The revision that last wrote it.
    pub mod_revision: u64,
    /// Writes since it was created, from 1.
    pub version: u64,
    /// The lease it is attached to; 0 is none.
    pub lease: u64,
}

impl<T> Row<T> {
    /// The key as text; what is no UTF-8 is replaced.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

/// Rows, all as they were at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rows<T> {
    /// In ascending order of keys.
    pub rows: Vec<Row<T>>,
    /// The revision that all of it was read at. A watch from the one after it goes on without a gap.
    pub revision: u64,
}

impl<T> Table<T> {
    pub(super) const fn new(client: Client, prefix: Bytes) -> Self {
        Self { client, prefix, codec: Json, of: PhantomData }
    }
}

impl<T, C> Table<T, C> {
    /// The same table with another codec.
    pub fn with_codec<D: Codec<T>>(&self, codec: D) -> Table<T, D> {
        Table { client: self.client.clone(), prefix: self.prefix.clone(), codec, of: PhantomData }
    }

    /// What stands in front of the keys of all rows.
    pub const fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// The key of a row as [`Kv`] names it: for [`compare`](crate::compare), [`operation`](crate::operation) and untyped requests.
    pub fn key(&self, row: impl AsRef<[u8]>) -> Bytes {
        [&self.prefix[..], row.as_ref()].concat().into()
    }

    fn kv(&self) -> Kv {
        self.client.kv()
    }
}

impl<T, C: Codec<T>> Table<T, C> {
    /// The same table with another deadline for each request.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { client: self.client.with_deadline(deadline), ..self.clone() }
    }

    /// Reads one row, linearizably; `None` when there is none.
    ///
    /// Fails as [`Error::Decode`] when its value cannot be read.
    pub fn get(&self, row: impl AsRef<[u8]>) -> RowBuilder<T, C> {
        RowBuilder { get: self.kv().get(self.key(row)), table: self.clone() }
    }

    /// Reads every row, all as of one revision.
    ///
    /// Fails as [`Error::Decode`], naming the first one whose value cannot be read; [`mirror`](Self::mirror) can set such rows aside.
    pub fn list(&self) -> RowsBuilder<T, C> {
        RowsBuilder { range: self.kv().prefix(self.prefix.clone()), table: self.clone() }
    }

    /// Writes a row, whatever was there.
    ///
    /// Fails as [`Error::Invalid`], before anything is sent, when the value cannot be encoded.
    pub fn put(&self, row: impl AsRef<[u8]>, value: &T) -> WriteBuilder {
        let key = self.key(row);
        match self.encoded(&key, value) {
            Ok(bytes) => self.kv().put(key, bytes),
            Err(error) => self.kv().put(key, Bytes::new()).refused(error),
        }
    }

    /// Writes a row that is not there yet; answers it as it is then. [`Error::Conflict`] when it is there.
    pub fn create(&self, row: impl Into<Bytes>, value: T) -> RowWriteBuilder<T, C> {
        let row = Row { key: row.into(), value, create_revision: 0, mod_revision: 0, version: 0, lease: 0 };
        RowWriteBuilder::new(self.clone(), row)
    }

    /// Writes a row that was read and changed, if nobody has written it since; answers it as it is then. [`Error::Conflict`] when
    /// somebody has, or it is gone. It stays attached to its lease.
    pub fn update(&self, row: Row<T>) -> RowWriteBuilder<T, C> {
        RowWriteBuilder::new(self.clone(), row)
    }

    /// Reads a row, changes it and writes it if nobody else has meanwhile; else once more from the beginning, within the
    /// deadline. Answers the row as it is then.
    ///
    /// `change` may be called several times, each time with what is there now. Where it changes nothing, nothing is written.
    /// [`Error::NotFound`] when there is no such row, unless [`or_insert_with`](ModifyBuilder::or_insert_with) says what it is then.
    pub fn modify<'f>(&self, row: impl Into<Bytes>, change: impl FnMut(&mut T) + Send + 'f) -> ModifyBuilder<'f, T, C> {
        ModifyBuilder::new(self.clone(), row.into(), Box::new(change))
    }

    /// Removes a row; `deleted` says whether it was there. With [`unchanged`](Self::unchanged) as its condition only as it was read.
    pub fn delete(&self, row: impl AsRef<[u8]>) -> WriteBuilder {
        self.kv().delete(self.key(row))
    }

    /// Watches all rows; [`row`](TableWatchBuilder::row) makes it one.
    pub fn watch(&self) -> TableWatchBuilder<T, C> {
        TableWatchBuilder::new(self.clone())
    }

    /// A local copy of all rows, as they were at one revision, that follows what becomes of them.
    pub fn mirror(&self) -> TableMirrorBuilder<T, C> {
        TableMirrorBuilder::new(self.clone())
    }

    /// Write a row, as an operation of a transaction of the client that the table is of.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value cannot be encoded.
    pub fn put_op(&self, row: impl AsRef<[u8]>, value: &T) -> Result<Op> {
        let key = self.key(row);
        let bytes = self.encoded(&key, value)?;
        Ok(operation::put(key, bytes))
    }

    /// Remove a row, as an operation of a transaction.
    pub fn delete_op(&self, row: impl AsRef<[u8]>) -> Op {
        operation::delete(self.key(row))
    }

    /// Read a row, as an operation of a transaction; [`decode`](Self::decode) its result.
    pub fn get_op(&self, row: impl AsRef<[u8]>) -> Op {
        operation::get(self.key(row))
    }

    /// There is no such row, as a condition.
    pub fn absent(&self, row: impl AsRef<[u8]>) -> Compare {
        compare::absent(self.key(row))
    }

    /// The row is as it was read, as a condition.
    pub fn unchanged(&self, row: &Row<T>) -> Compare {
        compare::mod_revision(self.key(&row.key), row.mod_revision)
    }

    /// The row that an entry of this client's is: from the results of a transaction, or an untyped read.
    ///
    /// # Errors
    /// [`Error::Decode`] when its value cannot be read; [`Error::Invalid`] when its key is none of this table.
    pub fn decode(&self, entry: &Entry) -> Result<Row<T>> {
        if !entry.key.starts_with(&self.prefix) {
            return Err(Error::Invalid(format!(
                "`{}` is no row of the table `{}`",
                entry.key.escape_ascii(),
                self.prefix.escape_ascii()
            )));
        }
        let value = self.codec.decode(&entry.value).map_err(|why| Error::Decode {
            key: entry.key.clone(),
            message: format!(
                "the value of `{}`, written at revision {}, cannot be read as {}: {why}. Nothing was changed; write it anew or remove it",
                entry.key.escape_ascii(),
                entry.mod_revision,
                std::any::type_name::<T>()
            ),
        })?;
        Ok(Row {
            key: entry.key.slice(self.prefix.len()..),
            value,
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            version: entry.version,
            lease: entry.lease,
        })
    }

    fn encoded(&self, key: &Bytes, value: &T) -> Result<Bytes> {
        self.codec.encode(value).map_err(|why| {
            Error::Invalid(format!("the value for `{}` cannot be encoded: {why}. Nothing was sent", key.escape_ascii()))
        })
    }
}

/// A row being read; await it.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct RowBuilder<T, C = Json> {
    get: GetBuilder,
    table: Table<T, C>,
}

impl<T, C> RowBuilder<T, C> {
    /// Let the asked manager answer from what it has; see [`RangeBuilder::serializable`].
    pub fn serializable(mut self) -> Self {
        self.get = self.get.serializable();
        self
    }

    /// As of this revision.
    pub fn revision(mut self, revision: u64) -> Self {
        self.get = self.get.revision(revision);
        self
    }

    /// Within this time instead of the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.get = self.get.deadline(deadline);
        self
    }
}

impl<T: Send + 'static, C: Codec<T>> IntoFuture for RowBuilder<T, C> {
    type Output = Result<Option<Row<T>>>;
    type IntoFuture = Sent<Option<Row<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let entry = self.get.await?;
            entry.map(|entry| self.table.decode(&entry)).transpose()
        })
    }
}

/// Rows being read; await it for all of them.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct RowsBuilder<T, C = Json> {
    range: RangeBuilder,
    table: Table<T, C>,
}

impl<T, C> RowsBuilder<T, C> {
    /// Only rows whose keys begin so.
    pub fn starting_with(mut self, beginning: impl AsRef<[u8]>) -> Self {
        self.range = self.range.only_prefix(&self.table.key(beginning));
        self
    }

    /// Let the asked manager answer from what it has; see [`RangeBuilder::serializable`].
    pub fn serializable(mut self) -> Self {
        self.range = self.range.serializable();
        self
    }

    /// As of this revision.
    pub fn revision(mut self, revision: u64) -> Self {
        self.range = self.range.revision(revision);
        self
    }

    /// Each page within this time instead of the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.range = self.range.deadline(deadline);
        self
    }
}

impl<T: Send + 'static, C: Codec<T>> IntoFuture for RowsBuilder<T, C> {
    type Output = Result<Rows<T>>;
    type IntoFuture = Sent<Rows<T>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (entries, revision) = self.range.all_at().await?;
            let rows = entries.iter().map(|entry| self.table.decode(entry)).collect::<Result<_>>()?;
            Ok(Rows { rows, revision })
        })
    }
}
