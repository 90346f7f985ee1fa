//! What becomes of rows: watches and mirrors of a table.
//!
//! Owns what is done with a value that cannot be read: it ends the watch or the mirror, because whoever acts on rows must not
//! take one for gone that is there; who knows better has such rows set aside. How things are followed is [`Watch`]'s and
//! [`Mirror`]'s. Called by embedders, through [`Table`].

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;

use super::super::codec::{Codec, Json};
use super::super::kv::Sent;
use super::super::mirror::{Mirror, MirrorBuilder};
use super::super::stream::WatchStream;
use super::super::watching::{Change, Changes, Watch, WatchBuilder, Watched};
use super::{Row, Table};
use crate::error::{Error, Result};

/// What one revision did to the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowChanges<T> {
    /// The revision.
    pub revision: u64,
    /// One for each row, in the order in which the transaction made them.
    pub changes: Vec<RowChange<T>>,
}

/// What a revision did to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowChange<T> {
    /// The key without the table's prefix.
    pub key: Bytes,
    /// As it is since; `None`: it was removed, or it cannot be read.
    pub row: Option<Arc<Row<T>>>,
    /// As it was, where that is known and can be read.
    pub previous: Option<Arc<Row<T>>>,
    /// It is there, and its value cannot be read: told only where such rows are set aside.
    pub unreadable: Option<Error>,
}

impl<T> RowChange<T> {
    /// Whether the row was removed.
    pub const fn is_delete(&self) -> bool {
        self.row.is_none() && self.unreadable.is_none()
    }
}

impl<T, C: Codec<T>> Table<T, C> {
    fn changed(&self, change: Change, set_aside: bool) -> Result<RowChange<T>> {
        let (row, unreadable) = match change.entry.as_ref().map(|entry| self.decode(entry)).transpose() {
            Ok(row) => (row.map(Arc::new), None),
            Err(error) if set_aside => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let previous = change.previous.as_ref().and_then(|entry| self.decode(entry).ok()).map(Arc::new);
        let key = change.key.slice(self.prefix.len().min(change.key.len())..);
        Ok(RowChange { key, row, previous, unreadable })
    }
}

/// A watch of rows being put together; await it to begin. See [`WatchBuilder`].
#[derive(Debug)]
#[must_use = "nothing is watched until it is awaited"]
pub struct TableWatchBuilder<T, C = Json> {
    table: Table<T, C>,
    watch: WatchBuilder,
    set_aside: bool,
}

impl<T, C: Codec<T>> TableWatchBuilder<T, C> {
    pub(super) fn new(table: Table<T, C>) -> Self {
        let watch = table.kv().watch(table.prefix.clone()).prefix();
        Self { table, watch, set_aside: false }
    }

    /// Only this row.
    pub fn row(self, row: impl AsRef<[u8]>) -> Self {
        let watch = self.watch.only(self.table.key(row));
        Self { watch, ..self }
    }

    /// From this revision on; see [`WatchBuilder::from_revision`].
    pub fn from_revision(self, revision: u64) -> Self {
        Self { watch: self.watch.from_revision(revision), ..self }
    }

    /// Deliver what was there before, too.
    pub fn previous(self) -> Self {
        Self { watch: self.watch.previous(), ..self }
    }

    /// Tell of values that cannot be read as [`RowChange::unreadable`], and go on.
    pub const fn set_aside(mut self) -> Self {
        self.set_aside = true;
        self
    }

    /// How long it looks for a manager before it says that there is none, instead of the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { watch: self.watch.deadline(deadline), ..self }
    }
}

impl<T: Send + 'static, C: Codec<T>> IntoFuture for TableWatchBuilder<T, C> {
    type Output = Result<TableWatch<T, C>>;
    type IntoFuture = Sent<TableWatch<T, C>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let watch = self.watch.await?;
            Ok(TableWatch { table: self.table, watch, set_aside: self.set_aside, over: None })
        })
    }
}

/// What a watch of rows delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowsWatched<T> {
    /// What one revision did to the rows watched: all of it at once.
    Changes(RowChanges<T>),
    /// Everything up to and including this revision was delivered.
    Bookmark(u64),
}

/// A watch of rows. Dropping it ends it. See [`Watch`].
#[derive(Debug)]
pub struct TableWatch<T, C = Json> {
    table: Table<T, C>,
    watch: Watch,
    set_aside: bool,
    /// What could not be read, and from which revision on.
    over: Option<(Error, u64)>,
}

impl<T, C: Codec<T>> TableWatch<T, C> {
    /// The first revision that was not delivered yet.
    pub fn next_revision(&self) -> u64 {
        self.over.as_ref().map_or_else(|| self.watch.next_revision(), |(_, revision)| *revision)
    }

    /// The next revision that concerns the rows watched, or a bookmark. Waits for as long as there is none.
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As [`Watch::next`]; and [`Error::Decode`], naming the key, unless such rows are [set aside](TableWatchBuilder::set_aside). That
    /// is final, and [`next_revision`](Self::next_revision) stays at the revision that could not be told.
    pub async fn next(&mut self) -> Result<RowsWatched<T>> {
        if let Some((error, _)) = &self.over {
            return Err(error.clone());
        }
        let Changes { revision, changes } = match self.watch.next().await? {
            Watched::Bookmark(revision) => return Ok(RowsWatched::Bookmark(revision)),
            Watched::Changes(changes) => changes,
        };
        let told: Result<_> = changes.into_iter().map(|change| self.table.changed(change, self.set_aside)).collect();
        match told {
            Ok(changes) => Ok(RowsWatched::Changes(RowChanges { revision, changes })),
            Err(error) => {
                self.over = Some((error.clone(), revision));
                Err(error)
            }
        }
    }

    /// The same as a stream; see [`Watch::into_stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<RowsWatched<T>>> + Send + Unpin
    where
        T: Send + Sync + 'static,
    {
        WatchStream::new(self, |mut watch| {
            Box::pin(async move {
                let told = watch.next().await;
                (watch, told)
            })
        })
    }
}

/// A mirror of a table being made; await it to have it filled.
#[derive(Debug)]
#[must_use = "nothing is read until it is awaited"]
pub struct TableMirrorBuilder<T, C = Json> {
    table: Table<T, C>,
    mirror: MirrorBuilder,
    set_aside: bool,
}

impl<T, C: Codec<T>> TableMirrorBuilder<T, C> {
    pub(super) fn new(table: Table<T, C>) -> Self {
        let mirror = table.kv().mirror(table.prefix.clone());
        Self { table, mirror, set_aside: false }
    }

    /// Keep rows whose values cannot be read out of the view, in [`unreadable`](TableMirror::unreadable), and go on. Without it one of
    /// them ends the mirror: a controller that took it for gone might make it anew.
    pub const fn set_aside(mut self) -> Self {
        self.set_aside = true;
        self
    }

    /// How long it looks for a manager before it says that there is none, instead of the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { mirror: self.mirror.deadline(deadline), ..self }
    }
}

impl<T: Send + Sync + 'static, C: Codec<T>> IntoFuture for TableMirrorBuilder<T, C> {
    type Output = Result<TableMirror<T, C>>;
    type IntoFuture = Sent<TableMirror<T, C>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { table, mirror, set_aside } = self;
            let mut mirror = mirror.await?;
            let Changes { revision, changes } = mirror.begin();
            let changes: Vec<_> =
                changes.into_iter().map(|change| table.changed(change, set_aside)).collect::<Result<_>>()?;
            let (rows, unreadable, over) = (BTreeMap::new(), BTreeMap::new(), None);
            let mut made = TableMirror { table, mirror, set_aside, rows, unreadable, first: None, over };
            let first = made.take(RowChanges { revision, changes });
            made.first = Some(first);
            Ok(made)
        })
    }
}

/// A local copy of all rows of a table, as they were at [one revision](Self::revision).
///
/// It moves on when [`next`](Self::next) is called, and only then: between two calls what [`view`](Self::view) shows stays as it
/// is. Where history was compacted meanwhile it reads everything anew, and tells the difference. Rows are shared: to keep one
/// costs no copy. Dropping it ends its watch.
///
/// ```no_run
/// # type Pod = String;
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// let mut mirror = client.table::<Pod>("pods/").mirror().await?;
/// while let Some(changes) = mirror.next().await {
///     for change in changes?.changes {
///         println!("{}: {:?}, of {} in all", change.key.escape_ascii(), change.row, mirror.view().len());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TableMirror<T, C = Json> {
    table: Table<T, C>,
    mirror: Mirror,
    set_aside: bool,
    rows: BTreeMap<Bytes, Arc<Row<T>>>,
    unreadable: BTreeMap<Bytes, Error>,
    /// What is there from the beginning, until it is told.
    first: Option<RowChanges<T>>,
    /// A row could not be read: the view stays as of this revision.
    over: Option<u64>,
}

impl<T, C: Codec<T>> TableMirror<T, C> {
    /// The rows by their keys, as they were at [`revision`](Self::revision).
    pub const fn view(&self) -> &BTreeMap<Bytes, Arc<Row<T>>> {
        &self.rows
    }

    /// One row of the view.
    pub fn get(&self, row: impl AsRef<[u8]>) -> Option<&Arc<Row<T>>> {
        self.rows.get(row.as_ref())
    }

    /// The rows that are there and cannot be read, with why: only where they are [set aside](TableMirrorBuilder::set_aside).
    pub const fn unreadable(&self) -> &BTreeMap<Bytes, Error> {
        &self.unreadable
    }

    /// The revision that the view is of: every change up to it is in the view, and none after it.
    pub fn revision(&self) -> u64 {
        self.over.unwrap_or_else(|| self.mirror.revision())
    }

    /// At first says what is there already, all of it or nothing, at once: who reconciles after each change has begun with everything
    /// then. After that waits until something has changed, takes it into the view and says what it was, with what was there before:
    /// usually what one revision did, or the difference where everything had to be read anew. `None` after an error that was final.
    ///
    /// Cancel safe: what was not said is not in the view.
    ///
    /// # Errors
    /// Where [`Error::is_retryable`] holds, no manager answered for the deadline: ask again. All else is final:
    /// [`Error::Decode`], naming the key, unless such rows are set aside; and as [`Mirror::next`].
    pub async fn next(&mut self) -> Option<Result<RowChanges<T>>> {
        if self.over.is_some() {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let before = self.mirror.revision();
        let Changes { revision, changes } = match self.mirror.next().await? {
            Ok(changes) => changes,
            Err(error) => return Some(Err(error)),
        };
        let told: Result<Vec<_>> =
            changes.into_iter().map(|change| self.table.changed(change.without_previous(), self.set_aside)).collect();
        match told {
            Ok(changes) => Some(Ok(self.take(RowChanges { revision, changes }))),
            Err(error) => {
                self.over = Some(before);
                Some(Err(error))
            }
        }
    }
}

impl<T, C> TableMirror<T, C> {
    /// Takes changes into the view; with what was there before.
    fn take(&mut self, mut changes: RowChanges<T>) -> RowChanges<T> {
        for change in &mut changes.changes {
            self.unreadable.remove(&change.key);
            change.previous = match &change.row {
                Some(row) => self.rows.insert(change.key.clone(), row.clone()),
                None => self.rows.remove(&change.key),
            };
            if let Some(why) = &change.unreadable {
                self.unreadable.insert(change.key.clone(), why.clone());
            }
        }
        changes
    }
}
