//! Reads as a caller sees them: builders that are futures, of one key or of many.
//!
//! Owns the pages of a long range, all at one revision. Never retries and never names sections: the client does the first, the
//! manager the second. Called by embedders through [`Kv`](super::Kv), by mirrors and by tables.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::state::check_range;
use quorate_core::txn::{Range, RangeResult};
use quorate_core::user;
use quorate_transport::api;
use tokio::time::Instant;

use super::kv::{Entry, Sent, prefix_bounds};
use super::{Client, unexpected};
use crate::error::{Error, Result};

/// One answer to a range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangePage {
    /// The entries, in ascending order of keys.
    pub entries: Vec<Entry>,
    /// How many keys there are (only with `count_only`: in the whole range).
    pub count: u64,
    /// The answer is not everything: ask from the last key on, at `revision`.
    pub more: bool,
    /// The revision that was read.
    pub revision: u64,
    /// The log index of the manager that answered, when it answered.
    pub applied: u64,
    /// How old the answer may be: every write that was acknowledged longer ago, anywhere, is in it. A manager in touch
    /// with a quorum is a fraction of a second old at most; a linearizable answer has no age. `None` when the manager that
    /// answered does not know, because it has not heard from a quorum since it was started.
    pub age: Option<Duration>,
}

/// One key being read; await it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct GetBuilder {
    range: RangeBuilder,
}

impl GetBuilder {
    pub(super) const fn new(range: RangeBuilder) -> Self {
        Self { range }
    }

    /// Let the asked manager answer from what it has; see [`RangeBuilder::serializable`].
    pub const fn serializable(mut self) -> Self {
        self.range.serializable = true;
        self
    }

    /// As of this revision.
    pub const fn revision(mut self, revision: u64) -> Self {
        self.range.range.revision = revision;
        self
    }

    /// Within this time instead of the client's deadline.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.range.client.deadline = deadline;
        self
    }
}

impl IntoFuture for GetBuilder {
    type Output = Result<Option<Entry>>;
    type IntoFuture = Sent<Option<Entry>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.range.await?.entries.into_iter().next()) })
    }
}

/// A range being put together; await it for one page, or [`all`](Self::all) for everything.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct RangeBuilder {
    client: Client,
    range: Range,
    serializable: bool,
}

impl RangeBuilder {
    pub(super) const fn new(client: Client, range: Range) -> Self {
        Self { client, range, serializable: false }
    }

    /// At most so many entries.
    pub const fn limit(mut self, limit: u64) -> Self {
        self.range.limit = limit;
        self
    }

    /// Leave the values out.
    pub const fn keys_only(mut self) -> Self {
        self.range.keys_only = true;
        self
    }

    /// Only say how many keys there are.
    pub const fn count_only(mut self) -> Self {
        self.range.count_only = true;
        self
    }

    /// As of this revision.
    pub const fn revision(mut self, revision: u64) -> Self {
        self.range.revision = revision;
        self
    }

    /// Let the asked manager answer from what it has: no quorum needed, may be stale. [`RangePage::age`] says by how much
    /// at most.
    pub const fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }

    /// The next page: behind this key, at the revision of the page before.
    fn after(mut self, last: &Bytes, revision: u64) -> Self {
        self.range.revision = revision;
        // The successor of a key is the key with a zero byte behind it.
        self.range.key = [&last[..], &[0]].concat().into();
        self
    }

    /// Within this time instead of the client's deadline; each page, where there are several.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.client.deadline = deadline;
        self
    }

    /// All that begin so, instead of what was asked for.
    pub(super) fn only_prefix(mut self, prefix: &Bytes) -> Self {
        (self.range.key, self.range.end) = prefix_bounds(prefix);
        self
    }

    /// Every page, read at one revision.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Compacted` and `NewGeneration` for a revision that was asked for; without one it is read anew, within the deadline.
    pub async fn all(self) -> Result<Vec<Entry>> {
        self.all_at().await.map(|(entries, _revision)| entries)
    }

    /// As [`all`](Self::all), with the revision that all of it was read at.
    pub(super) async fn all_at(self) -> Result<(Vec<Entry>, u64)> {
        let until = Instant::now() + self.client.deadline;
        loop {
            match self.clone().pages().await {
                // What was read is compacted already: all of it once more, unless that very revision is asked for.
                Err(Error::Compacted { .. } | Error::NewGeneration { .. })
                    if self.range.revision == 0 && Instant::now() < until => {}
                read => return read,
            }
        }
    }

    /// The whole range, page by page, and the revision that all of it was read at.
    pub(super) async fn pages(mut self) -> Result<(Vec<Entry>, u64)> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let page = self.clone().await?;
            let (more, revision) = (page.more, page.revision);
            entries.extend(page.entries);
            match entries.last() {
                Some(last) if more => self = self.after(&last.key, revision),
                _ => return Ok((entries, revision)),
            }
        }
    }
}

impl IntoFuture for RangeBuilder {
    type Output = Result<RangePage>;
    type IntoFuture = Sent<RangePage>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut range = self.range;
            self.client.scope.enter_range(&mut range)?;
            let mut full = range.clone();
            user::qualify_range(&mut full);
            check_range(&full).map_err(|refusal| Error::before_sending(&refusal))?;
            let range = range.encode_to_vec().into();
            let kind = api::request::Kind::Read(api::Read { range, serializable: self.serializable });
            let api::response::Kind::Read(done) = self.client.ask(kind).await? else { return Err(unexpected()) };
            let mut result = RangeResult::decode(done.result)
                .map_err(|error| Error::Internal(format!("the answer cannot be read: {error}")))?;
            self.client.scope.leave_range(&mut result)?;
            Ok(RangePage {
                entries: result.entries.into_iter().map(Entry::from).collect(),
                count: result.count,
                more: result.more,
                revision: result.revision,
                applied: done.applied,
                age: done.age_ms.map(Duration::from_millis),
            })
        })
    }
}
