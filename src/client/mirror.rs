//! A local copy of keys, always as they were at one revision.
//!
//! Owns the copy and how it is renewed: by a watch, and by a list where the watch cannot go on (compacted, or the cluster was
//! recovered). Never shows half a revision, and never goes back. Called by embedders.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::watching::{Change, Changes, Watch, Watched};
use super::{Entry, Kv};
use crate::error::{Error, Result};

/// A mirror being made; await it to have it filled.
#[derive(Debug, Clone)]
#[must_use = "nothing is read until it is awaited"]
pub struct MirrorBuilder {
    kv: Kv,
    prefix: Bytes,
}

impl MirrorBuilder {
    pub(super) const fn new(kv: Kv, prefix: Bytes) -> Self {
        Self { kv, prefix }
    }

    /// How long it looks for a manager before it says that there is none, instead of the client's deadline: now, and whenever it
    /// has lost one.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { kv: self.kv.with_deadline(deadline), ..self }
    }
}

impl IntoFuture for MirrorBuilder {
    type Output = Result<Mirror>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Mirror>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let listed = list(&self.kv, &self.prefix).await?;
            Ok(Mirror {
                kv: self.kv,
                prefix: self.prefix,
                entries: listed.entries,
                revision: listed.revision,
                watch: Some(listed.watch),
                begun: false,
                over: false,
            })
        })
    }
}

/// A local copy of all keys that begin with a prefix, as they were at [one revision](Self::revision).
///
/// It moves on when [`next`](Self::next) is called, and only then: between two calls what [`view`](Self::view) shows stays as it
/// is. Dropping it ends its watch.
#[derive(Debug)]
pub struct Mirror {
    kv: Kv,
    prefix: Bytes,
    entries: BTreeMap<Bytes, Entry>,
    revision: u64,
    /// None while it has to be listed anew.
    watch: Option<Watch>,
    /// What was there from the beginning was told.
    begun: bool,
    /// An error that was final was told.
    over: bool,
}

/// All keys of one revision, and a watch from the one after it.
struct Listed {
    entries: BTreeMap<Bytes, Entry>,
    revision: u64,
    watch: Watch,
}

impl Mirror {
    /// The keys, as they were at [`revision`](Self::revision).
    pub const fn view(&self) -> &BTreeMap<Bytes, Entry> {
        &self.entries
    }

    /// The revision that the view is of: every change up to it is in the view, and none after it.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// At first says what is there already, all of it or nothing, at once: who does something about each change has begun with
    /// everything then. After that waits until something has changed, takes it into the view and says what it was, with what was
    /// there before.
    ///
    /// Usually that is what one revision did. Where history was compacted, or the cluster was recovered, in between, the keys are
    /// read anew, and it is the difference to what was there: then the revision may be far ahead. `None` after an error that was
    /// final.
    ///
    /// Cancel safe: what was not said is not in the view.
    ///
    /// # Errors
    /// Where [`Error::is_retryable`] holds, no manager answered for the client's deadline: ask again. All else is final.
    pub async fn next(&mut self) -> Option<Result<Changes>> {
        if self.over {
            return None;
        }
        if !self.begun {
            return Some(Ok(self.begin()));
        }
        let next = self.follow().await;
        self.over = next.as_ref().is_err_and(|error| !error.is_retryable());
        Some(next)
    }

    /// What is there from the beginning, as changes.
    pub(super) fn begin(&mut self) -> Changes {
        self.begun = true;
        let all = self.entries.iter().map(|(key, entry)| Change::to(key.clone(), Some(entry.clone())));
        Changes { revision: self.revision, changes: all.collect() }
    }

    /// The next changes. Cancel safe.
    async fn follow(&mut self) -> Result<Changes> {
        loop {
            let Some(watch) = &mut self.watch else {
                if let Some(changes) = self.list_anew().await? {
                    return Ok(changes);
                }
                continue;
            };
            match watch.next().await {
                Ok(Watched::Changes(changes)) => return Ok(self.take(changes)),
                Ok(Watched::Bookmark(revision)) => self.revision = self.revision.max(revision),
                Err(Error::Compacted { .. } | Error::NewGeneration { .. }) => self.watch = None,
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, mut changes: Changes) -> Changes {
        for change in &mut changes.changes {
            change.previous = match &change.entry {
                Some(entry) => self.entries.insert(change.key.clone(), entry.clone()),
                None => self.entries.remove(&change.key),
            };
        }
        self.revision = changes.revision;
        changes
    }

    /// Reads everything anew; what is different, if anything is.
    async fn list_anew(&mut self) -> Result<Option<Changes>> {
        let Listed { entries, revision, watch } = list(&self.kv, &self.prefix).await?;
        let gone = self.entries.keys().filter(|key| !entries.contains_key(*key));
        let mut changes: Vec<Change> = gone.map(|key| Change::to(key.clone(), None)).collect();
        for (key, entry) in &entries {
            // A key that was removed and made again by a lost manager may have its revision, so the whole entry counts.
            if self.entries.get(key) != Some(entry) {
                changes.push(Change::to(key.clone(), Some(entry.clone())));
            }
        }
        let changes = self.take(Changes { revision, changes });
        self.watch = Some(watch);
        Ok((!changes.changes.is_empty()).then_some(changes))
    }
}

/// Everything there is, and a watch from there; once more when it was compacted before the watch had begun.
async fn list(kv: &Kv, prefix: &Bytes) -> Result<Listed> {
    let until = Instant::now() + kv.deadline();
    loop {
        match list_once(kv, prefix).await {
            Err(Error::Compacted { .. } | Error::NewGeneration { .. }) if Instant::now() < until => {}
            listed => return listed,
        }
    }
}

async fn list_once(kv: &Kv, prefix: &Bytes) -> Result<Listed> {
    let (entries, revision) = kv.prefix(prefix.clone()).pages().await?;
    let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let watch = kv.watch(prefix.clone()).prefix().from_revision(revision + 1).await?;
    Ok(Listed { entries, revision, watch })
}
