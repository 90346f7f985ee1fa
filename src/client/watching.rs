//! A watch as a caller sees it: what becomes of keys, in order, whichever manager tells it.
//!
//! Owns the choice of manager and the way back: after whatever ends a feed, the next one is asked for from the revision
//! after the last one delivered. What may follow on what, [`Follower`] decides. Never delivers twice, never skips, and
//! tells the caller only what the caller must decide. Called by embedders and the command line.

use std::collections::BTreeSet;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use prost::Message as _;
use quorate_core::user;
use quorate_core::watch::{Filter, Followed, Follower, WatchChange, WatchPart, WatchStart};
use quorate_transport::{Fed, api};
use tokio::time::Instant;

use super::kv::prefix_bounds;
use super::round::Round;
use super::scope::Scope;
use super::stream::WatchStream;
use super::{Client, Entry, Feeding, unexpected};
use crate::config;
use crate::error::{Error, Result};

/// Between two attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A feed that lasted so long had no part in what goes wrong afterwards.
const LASTED: Duration = Duration::from_secs(5);

/// A watch being put together; await it to begin.
///
/// ```no_run
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// use quorate::Watched;
///
/// // What is there now, and then whatever becomes of it, without a gap:
/// let page = client.kv().prefix("jobs/").await?;
/// let mut jobs = client.kv().watch("jobs/").prefix().from_revision(page.revision + 1).await?;
/// loop {
///     match jobs.next().await {
///         Ok(Watched::Changes(changes)) => println!("revision {}: {} keys", changes.revision, changes.changes.len()),
///         // A bookmark: everything up to there was told.
///         Ok(_) => {}
///         // No manager for now; the watch goes on where it was.
///         Err(error) if error.is_retryable() => eprintln!("{error}"),
///         // `Compacted`, `NewGeneration`: read the keys anew and begin again.
///         Err(error) => return Err(error),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is watched until it is awaited"]
pub struct WatchBuilder {
    client: Client,
    start: WatchStart,
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watched {
    /// What one revision did to the keys watched: all of it at once.
    Changes(Changes),
    /// Everything up to and including this revision was delivered. Comes after what was read from the past, and now and
    /// then where other keys change: a good place to go on from.
    Bookmark(u64),
}

/// What one revision did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// The revision.
    pub revision: u64,
    /// One for each key, in the order in which the transaction made them.
    pub changes: Vec<Change>,
}

/// What a revision did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// As it is since; `None`: it was removed.
    pub entry: Option<Entry>,
    /// As it was, if that was asked for and it was there.
    pub previous: Option<Entry>,
    /// It was there and was asked for, and is left out: one revision tells up to 4 MiB of previous values. It can be read
    /// at the revision before.
    pub previous_omitted: bool,
}

impl Change {
    fn of(mut change: WatchChange, scope: &Scope) -> Result<Self> {
        for entry in change.entry.iter_mut().chain(&mut change.previous) {
            scope.leave_entry(entry)?;
        }
        let entry = Entry::from(change.entry.ok_or_else(unexpected)?);
        Ok(Self {
            key: entry.key.clone(),
            entry: (!change.deleted).then_some(entry),
            previous: change.previous.map(Entry::from),
            previous_omitted: change.previous_omitted,
        })
    }

    /// The same, and nothing said of what was there before.
    pub(super) fn without_previous(self) -> Self {
        Self { previous: None, ..self }
    }

    /// The key is this from now on.
    pub(super) const fn to(key: Bytes, entry: Option<Entry>) -> Self {
        Self { key, entry, previous: None, previous_omitted: false }
    }

    /// Whether the key was removed.
    pub const fn is_delete(&self) -> bool {
        self.entry.is_none()
    }
}

impl WatchBuilder {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, start: WatchStart { key, ..WatchStart::default() } }
    }

    /// All keys that begin so (empty: all keys).
    pub fn prefix(mut self) -> Self {
        (self.start.key, self.start.end) = prefix_bounds(&self.start.key);
        self
    }

    /// All keys from this one to `end` (excluded).
    pub fn range_to(mut self, end: impl Into<Bytes>) -> Self {
        self.start.end = end.into();
        self
    }

    /// From this revision on; 0, the default: what comes after everything that was acknowledged before the watch began.
    ///
    /// It may lie in the past, down to the oldest that is not compacted; to go on from a read at revision R, it is R + 1.
    /// It may lie in the future: nothing comes before that revision is made, not even a bookmark. One that was made before a recovery
    /// by managers that are lost is not waited for: the watch is told `NewGeneration`.
    pub const fn from_revision(mut self, revision: u64) -> Self {
        self.start.from = revision;
        self
    }

    /// Deliver what was there before, too.
    pub const fn previous(mut self) -> Self {
        self.start.previous = true;
        self
    }

    /// Only writes.
    pub const fn puts_only(mut self) -> Self {
        (self.start.no_puts, self.start.no_deletes) = (false, true);
        self
    }

    /// Only removals.
    pub const fn deletes_only(mut self) -> Self {
        (self.start.no_puts, self.start.no_deletes) = (true, false);
        self
    }

    /// Leave the values out.
    pub const fn keys_only(mut self) -> Self {
        self.start.keys_only = true;
        self
    }

    /// How long it looks for a manager before it says that there is none, instead of the client's deadline: now, and whenever it
    /// has lost one.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.client.deadline = deadline;
        self
    }

    /// This key, instead of what was asked for.
    pub(super) fn only(mut self, key: Bytes) -> Self {
        (self.start.key, self.start.end) = (key, Bytes::new());
        self
    }
}

impl IntoFuture for WatchBuilder {
    type Output = Result<Watch>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Watch>> + Send>>;

    /// Resolves once a manager has taken the watch: what is written from then on is delivered. A lost quorum is told at
    /// once, as for any request, where the watch begins at the present.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut start = self.start;
            self.client.scope.enter_watch(&mut start)?;
            let mut full = start.clone();
            user::qualify_watch(&mut full);
            Filter::new(&full).map_err(|refusal| Error::before_sending(&refusal))?;
            let follower = Follower::new(start.from);
            let mut watch = Watch {
                client: self.client,
                start,
                follower,
                feed: None,
                avoid: BTreeSet::new(),
                pause: Duration::ZERO,
                patience: config::ATTEMPT * 4,
                trouble: None,
                round: Round::default(),
                over: None,
            };
            watch.open().await?;
            Ok(watch)
        })
    }
}

/// The feed in use.
struct Open {
    feeding: Feeding,
    /// When the manager said that the watch stands.
    stands: Option<Instant>,
    asked: Instant,
}

/// What has gone wrong since something was delivered last.
struct Trouble {
    since: Instant,
    last: Error,
}

/// A watch. Dropping it ends it.
///
/// It survives the loss of its manager, elections and its own slowness: it goes on, here or at another manager, after the last
/// revision that it delivered. Nothing is read ahead: a caller that does not ask slows its feed down, and one that does not
/// ask for long is cut by its manager, which costs it a way back to the store and nothing else, unless what it missed is
/// compacted meanwhile.
pub struct Watch {
    client: Client,
    start: WatchStart,
    follower: Follower,
    feed: Option<Open>,
    /// Managers that did not serve.
    avoid: BTreeSet<usize>,
    pause: Duration,
    patience: Duration,
    trouble: Option<Trouble>,
    /// What the managers say of the quorum, until the watch stands.
    round: Round,
    over: Option<Error>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("next_revision", &self.next_revision()).finish_non_exhaustive()
    }
}

impl Watch {
    /// The first revision that was not delivered yet. A watch [from](WatchBuilder::from_revision) it goes on where this one is.
    pub const fn next_revision(&self) -> u64 {
        self.follower.next()
    }

    /// The next revision that concerns the keys watched, or a bookmark. Waits for as long as there is none.
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// Where [`Error::is_retryable`] holds, no manager served the watch for the client's deadline: ask again, and it goes on where
    /// it was. All else is final, and answered again to every later call:
    /// - `Compacted`: what is next is compacted, watches can begin at `oldest`. Read the keys anew, and watch from the revision
    ///   after that answer's.
    /// - `NewGeneration`: the cluster was recovered meanwhile. The same way on.
    /// - `Denied`, `Invalid`, `Version`.
    pub async fn next(&mut self) -> Result<Watched> {
        loop {
            let fed = self.fed().await?;
            if let Some(watched) = self.take(fed)? {
                return Ok(watched);
            }
        }
    }

    /// The same as a stream, of what [`next`](Self::next) would answer; it ends after an error that is final. One that is retryable
    /// is told, and the stream goes on.
    pub fn into_stream(self) -> impl Stream<Item = Result<Watched>> + Send + Unpin {
        WatchStream::new(self, |mut watch| {
            Box::pin(async move {
                let told = watch.next().await;
                (watch, told)
            })
        })
    }

    /// Until the watch stands.
    async fn open(&mut self) -> Result<()> {
        while self.feed.as_ref().is_none_or(|open| open.stands.is_none()) {
            let fed = self.fed().await?;
            self.take(fed)?;
            if let Some(lost) = self.round.end(self.client.shared.way.managers()) {
                return Err(lost);
            }
        }
        Ok(())
    }

    /// What comes next from a manager; nothing when the feed has ended. Cancel safe.
    async fn fed(&mut self) -> Result<Option<Fed>> {
        if let Some(error) = &self.over {
            return Err(error.clone());
        }
        if self.feed.is_none() {
            self.ask().await?;
        }
        let Some(open) = &mut self.feed else { return Ok(None) };
        let next = open.feeding.receiver.next();
        let fed = if open.stands.is_some() {
            Ok(next.await)
        } else {
            // A manager that hangs must not hold the watch up: that it stands is told at once.
            tokio::time::timeout_at(open.asked + self.patience, next).await
        };
        match fed {
            Ok(Ok(fed)) => Ok(Some(fed)),
            Ok(Err(down)) => {
                self.lost(Error::Unavailable(format!(
                    "the watch was interrupted: {down}. It goes on at another manager"
                )));
                Ok(None)
            }
            Err(_elapsed) => {
                self.patience = config::longer(self.patience);
                self.lost(Error::Unavailable("the manager did not take the watch in time".into()));
                Ok(None)
            }
        }
    }

    /// Asks a manager to go on from where this watch is.
    async fn ask(&mut self) -> Result<()> {
        let (deadline, asked) = (self.client.deadline, Instant::now());
        let mut left = deadline;
        if let Some(trouble) = &self.trouble {
            left = deadline.saturating_sub(trouble.since.elapsed());
            if left.is_zero() {
                // The caller knows from now on; who asks again has as long again.
                let last = self.trouble.take().map(|trouble| trouble.last);
                return Err(last.unwrap_or_else(unexpected));
            }
            tokio::time::sleep(self.pause.min(left)).await;
        }
        let start = WatchStart { from: self.follower.next(), ..self.start.clone() };
        let kind = Some(api::request::Kind::Watch(api::Watch { start: start.encode_to_vec().into() }));
        let patience = self.patience.min(left);
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let request = api::Request { deadline_ms, kind };
        if self.avoid.len() >= self.client.shared.way.managers() {
            self.avoid.clear();
        }
        let feed = self.client.shared.way.feed(request, patience, &self.avoid);
        // Others may be dialling before it: each of them takes its time, and this one has no more than its own.
        let Ok(fed) = tokio::time::timeout(left, feed).await else {
            self.in_trouble(asked, Error::Unavailable(format!("no manager answered within {} s", left.as_secs_f32())));
            return Ok(());
        };
        match fed {
            Ok(feeding) => self.feed = Some(Open { feeding, stands: None, asked: Instant::now() }),
            Err(error) => {
                self.round.unreachable(&error.unreachable);
                self.avoid.extend(error.unreachable);
                self.in_trouble(asked, Error::Unavailable(error.message));
            }
        }
        Ok(())
    }

    fn take(&mut self, fed: Option<Fed>) -> Result<Option<Watched>> {
        match fed {
            None => Ok(None),
            Some(Fed::Message(body)) => self.told(body),
            Some(Fed::End(word)) => self.ended(word).map(|()| None),
        }
    }

    fn told(&mut self, body: Bytes) -> Result<Option<Watched>> {
        let followed = WatchPart::decode(body)
            .map_err(|error| format!("the manager's word cannot be read: {error}"))
            .and_then(|part| self.follower.take(part).map_err(|error| error.to_string()));
        let watched = match followed {
            Ok(Followed::Nothing) => return Ok(None),
            Ok(Followed::Opened) => {
                if let Some(open) = &mut self.feed {
                    open.stands = Some(Instant::now());
                }
                self.patience = config::ATTEMPT * 4;
                return Ok(None);
            }
            Ok(Followed::Bookmark(revision)) => Watched::Bookmark(revision),
            Ok(Followed::Changes(revision, changes)) => {
                let scope = &self.client.scope;
                let changes: Result<_> = changes.into_iter().map(|change| Change::of(change, scope)).collect();
                match changes {
                    Ok(changes) => Watched::Changes(Changes { revision, changes }),
                    // What this revision did cannot be told, so nothing after it can.
                    Err(error) => return Err(self.end(error)),
                }
            }
            Err(why) => {
                self.lost(Error::Internal(why));
                return Ok(None);
            }
        };
        self.trouble = None;
        self.pause = Duration::ZERO;
        self.avoid.clear();
        Ok(Some(watched))
    }

    /// The manager has said its last word.
    fn ended(&mut self, word: Bytes) -> Result<()> {
        let response = api::Response::decode(word).ok().and_then(|response| response.kind);
        let Some(api::response::Kind::Error(error)) = response else {
            self.lost(unexpected());
            return Ok(());
        };
        if matches!(error.code(), api::Code::Cut) {
            tracing::debug!(resume = error.resume, "a watch read too slowly and goes on from the store");
            self.follower.ended();
            self.feed = None;
            return Ok(());
        }
        let error = Error::from_wire(error);
        // What one manager's store, or its way to a quorum, says nothing of the others.
        if error.is_retryable() || matches!(error, Error::Internal(_) | Error::Unknown(_)) {
            match (&error, &self.feed) {
                (Error::QuorumLost { .. }, Some(open)) => self.round.lost(open.feeding.by, error.clone()),
                (_, _) => self.round.restart(),
            }
            self.lost(error);
            return Ok(());
        }
        Err(self.end(error))
    }

    /// It is over, for this reason.
    fn end(&mut self, error: Error) -> Error {
        self.follower.ended();
        self.feed = None;
        self.over = Some(error.clone());
        error
    }

    /// The feed is of no further use; its manager is tried last.
    fn lost(&mut self, error: Error) {
        self.follower.ended();
        let mut since = Instant::now();
        if let Some(open) = self.feed.take() {
            if open.stands.is_none() {
                since = open.asked;
            }
            self.avoid.insert(open.feeding.by);
            if open.stands.is_some_and(|since| since.elapsed() >= LASTED) {
                self.trouble = None;
                self.pause = Duration::ZERO;
            }
        }
        self.in_trouble(since, error);
    }

    /// What was begun at `since` came to nothing; the first of such beginnings counts.
    fn in_trouble(&mut self, since: Instant, last: Error) {
        let since = self.trouble.take().map_or(since, |trouble| trouble.since);
        self.trouble = Some(Trouble { since, last });
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests;
