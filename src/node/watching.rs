//! Watches, the manager's end: the hub under its lock, and the task of each watch.
//!
//! Owns when a watch is taken in and how it ends on the wire. What is told, and to whom, the hub decides
//! ([`quorate_core::watch`]); it is locked for a look-up, never across a wait. A watch that is behind reads from the store, off
//! the async threads, and only so many at once: each holds its turn for a chunk's reading, and no longer; one that does not
//! take its chunks competes for memory with its like only. Called by the applier after each round, and by whoever brings a feed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::Revision;
use quorate_core::limits::Met;
use quorate_core::state::contract::{Applied, Refusal};
use quorate_core::state::read::ReadError;
use quorate_core::user;
use quorate_core::watch::{self, End, Filter, Hub, HubLimits, Round, Taken, Told, WatchId, WatchStart};
use quorate_transport::api::{request, response};
use quorate_transport::{Down, Feed, FeedSender, api};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::gate::Asker;
use super::router::{Failure, fail, limited, refused};
use super::service::{Service, blocking, broken};
use super::{asked, authorize, trace};
use crate::metrics::Ended;

/// How often it is looked whether this manager is still in touch with a quorum.
const LOOK: Duration = Duration::from_secs(1);
/// Every so many looks, whoever has not heard of the present gets a bookmark.
const BOOKMARK: u32 = 5;
/// A manager that has heard from no quorum for so long, and for ten elections, sends its watches elsewhere: shorter, and
/// every election would.
const BEHIND: Duration = Duration::from_secs(5);
/// Base election timeouts that [`BEHIND`] is at least.
const BEHIND_ELECTIONS: u32 = 10;
/// Chunks of history that are read at once: half of the threads that may wait for the disk, the others are for requests.
const READERS: usize = super::ground::BLOCKING_THREADS / 2;
/// Chunks of history in memory that are being sent to watches which take them in time, and as many to those that do not.
const CHUNKS: usize = 256;
/// Whoever has not taken a chunk for so long is slow: what it is being told is kept in memory among the slow ones' only.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// A chunk below this does not count once it is read.
const SMALL_CHUNK: usize = 16 * 1024;
/// How long a watch that was cut while it did not read has for what was begun and for the last word.
const LAST_WORD: Duration = Duration::from_secs(1);

/// All watches of this manager.
pub(crate) struct Watches {
    inner: Mutex<Inner>,
    count: AtomicUsize,
    readers: Arc<Semaphore>,
    /// Places for chunks, of watches that take them in time,
    prompt: Semaphore,
    /// and of those that do not.
    slow: Semaphore,
    /// Rings when one has gone.
    gone: Notify,
}

struct Inner {
    hub: Hub,
    bells: BTreeMap<WatchId, Arc<Notify>>,
    /// None is taken in, and why.
    closed: Option<End>,
}

impl Watches {
    /// Of a state at this revision; as many as `most` are served.
    pub(super) fn new(revision: Revision, most: usize) -> Self {
        let hub = Hub::new(revision.0, HubLimits { watches: most, ..HubLimits::default() });
        let inner = Inner { hub, bells: BTreeMap::new(), closed: None };
        let (inner, count) = (Mutex::new(inner), AtomicUsize::new(0));
        let (readers, prompt, slow) =
            (Arc::new(Semaphore::new(READERS)), Semaphore::new(CHUNKS), Semaphore::new(CHUNKS));
        Self { inner, count, readers, prompt, slow, gone: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the hub, and wakes whom it concerns.
    fn with<T>(&self, act: impl FnOnce(&mut Hub) -> T) -> T {
        let mut inner = self.inner();
        let done = act(&mut inner.hub);
        for id in inner.hub.woken() {
            if let Some(bell) = inner.bells.get(&id) {
                bell.notify_one();
            }
        }
        done
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How many were cut because they did not take what they were told.
    pub(super) fn cuts(&self) -> u64 {
        self.inner().hub.cuts()
    }

    /// Whether anybody watches: only then what is applied need be gathered.
    pub(super) fn are_any(&self) -> bool {
        self.count() > 0
    }

    /// A round was applied; `gathered` says whether it holds what its revisions did. Told by the applier only.
    pub(super) fn applied(&self, applied: &Applied, gathered: bool) {
        let units = (gathered && !applied.recovered).then_some(&applied.units[..]);
        self.with(|hub| hub.applied(Round { revision: applied.revision.0, units }));
    }

    /// A snapshot was installed. Told by the applier only.
    pub(super) fn installed(&self, revision: Revision) {
        self.with(|hub| hub.installed(revision.0));
    }

    /// Every watch ends, and none is taken in any more: the manager stops.
    pub(super) fn stop(&self) {
        self.close(Some(End::Stopping));
    }

    fn close(&self, end: Option<End>) {
        {
            let mut inner = self.inner();
            if inner.closed != Some(End::Stopping) {
                inner.closed = end;
            }
        }
        if let Some(end) = end {
            self.with(|hub| hub.end_all(end));
        }
    }

    /// Waits until there is none.
    pub(super) async fn gone(&self) {
        loop {
            let gone = self.gone.notified();
            if !self.are_any() {
                return;
            }
            gone.await;
        }
    }

    fn open(&self, filter: Filter, from: Option<u64>) -> Result<(WatchId, Arc<Notify>), Failure> {
        let mut inner = self.inner();
        if let Some(end) = inner.closed {
            return Err(last_word(end));
        }
        let id = inner.hub.open(filter, from).map_err(|full| {
            let max = full.max as u64;
            let why = format!(
                "this manager serves {max} watches, the limit `WATCHES_MAX`; ask another one. Nothing was done"
            );
            limited(api::Code::Overloaded, Met { name: "WATCHES_MAX", bound: max, actual: max + 1 }, why)
        })?;
        let bell = Arc::new(Notify::new());
        inner.bells.insert(id, Arc::clone(&bell));
        self.count.store(inner.hub.len(), Ordering::Release);
        Ok((id, bell))
    }

    fn forget(&self, id: WatchId) {
        let mut inner = self.inner();
        inner.hub.close(id);
        inner.bells.remove(&id);
        self.count.store(inner.hub.len(), Ordering::Release);
        drop(inner);
        self.gone.notify_waiters();
    }
}

/// Takes a watch off the hub, however its task ends.
struct Registration<'a> {
    watches: &'a Watches,
    id: WatchId,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.watches.forget(self.id);
    }
}

/// Why a watch is over.
enum Over {
    /// Its feed is: nobody hears a last word.
    Gone,
    Said(Failure),
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

impl From<Down> for Over {
    fn from(down: Down) -> Self {
        tracing::debug!(%down, "a watch is over");
        Self::Gone
    }
}

/// What a watch hears last.
fn last_word(end: End) -> Failure {
    match end {
        End::Cut { resume } => {
            let why = format!(
                "more waited for this watch than may (`WATCH_QUEUE_BYTES_MAX`, `WATCH_QUEUE_CHANGES_MAX`): it reads too slowly. Nothing is lost; go on from revision {resume}"
            );
            api::Error { resume, ..fail(api::Code::Cut, why) }
        }
        End::Stopping => fail(api::Code::Stopping, "this manager stops; go on watching at another one"),
        End::Behind => {
            let why = "this manager has heard from no quorum for some time and knows nothing new; go on watching at another one";
            fail(api::Code::NoLeader, why)
        }
    }
}

/// Serves one watch until it ends; how it did.
pub(super) async fn serve(
    service: &Service,
    asker: Result<Asker, Failure>,
    request: api::Request,
    feed: Feed,
) -> Ended {
    let Feed { mut sender, asker: mut listening } = feed;
    let over = tokio::select! {
        over = watch(service, asker, request, &mut sender) => over,
        () = listening.gone() => Over::Gone,
    };
    // A watch is over when its asker has heard enough: nothing is missing then.
    let Over::Said(mut error) = over else { return Ended::Done };
    let missing = service.status.borrow().missing();
    if matches!(error.code(), api::Code::NoLeader) && !missing.is_empty() {
        let names: Vec<String> = missing.into_iter().map(|id| service.name_of(id)).collect();
        error.message = format!("{}. Not heard from: {}", error.message, names.join(", "));
    }
    tracing::debug!(why = error.message, "a watch ends");
    let ended = asked::ended(error.code());
    let word = api::Response { kind: Some(response::Kind::Error(error)) }.encode_to_vec();
    let _ = timeout(LAST_WORD, sender.finish(word.into())).await;
    ended
}

async fn watch(
    service: &Service,
    asker: Result<Asker, Failure>,
    request: api::Request,
    sender: &mut FeedSender,
) -> Over {
    match begin(service, asker, request).await {
        Ok((registration, bell, filter)) => {
            trace::opened();
            let told = tell(service, registration.id, &bell, &filter, sender).await;
            told.err().unwrap_or(Over::Gone)
        }
        Err(failure) => Over::Said(failure),
    }
}

async fn begin(
    service: &Service,
    asker: Result<Asker, Failure>,
    request: api::Request,
) -> Result<(Registration<'_>, Arc<Notify>, Filter), Failure> {
    let Some(kind) = request.kind else {
        return Err(fail(api::Code::Invalid, "this manager does not know the question. Nothing was done"));
    };
    let asker = asker?;
    authorize::check(&asker, &kind)?;
    let request::Kind::Watch(asked) = kind else {
        return Err(fail(api::Code::Invalid, "only a watch is answered by a feed. Nothing was done"));
    };
    let mut start = WatchStart::decode(asked.start)
        .map_err(|error| fail(api::Code::Invalid, format!("the watch cannot be read: {error}")))?;
    user::qualify_watch(&mut start);
    let start = authorize::within(&asker, start)?;
    let filter = Filter::new(&start).map_err(|refusal| refused(&refusal))?;
    if start.from == 0 {
        let patience = Duration::from_millis(request.deadline_ms).min(Duration::from_secs(600));
        service.router.read_index(Instant::now() + patience).await?;
    }
    let (id, bell) = service.watches.open(filter.clone(), (start.from > 0).then_some(start.from))?;
    Ok((Registration { watches: &service.watches, id }, bell, filter))
}

/// Tells, reads and waits, as the hub says.
async fn tell(
    service: &Service,
    id: WatchId,
    bell: &Notify,
    filter: &Filter,
    sender: &mut FeedSender,
) -> Result<(), Over> {
    let watches = &service.watches;
    loop {
        match watches.with(|hub| hub.take(id)) {
            Taken::Tell(told) => send(watches, id, bell, sender, messages(&told, filter)).await?,
            Taken::Read { from, upto } => {
                // A disk that hangs must not keep it from being told that it is over.
                let mut place = until_over(watches, id, bell, watches.prompt.acquire()).await?.ok();
                let turn = until_over(watches, id, bell, Arc::clone(&watches.readers).acquire_owned()).await?;
                let (reader, asked) = (service.store()?.reader, filter.clone());
                let reading = blocking(move || {
                    // Held while the thread is, also where nobody waits for it any more, and not while somebody does not read.
                    let _turn = turn;
                    watch::read(&*reader.view(), &asked, from, upto).map_err(|error| unreadable(&error))
                });
                let chunk = until_over(watches, id, bell, reading).await??;
                if chunk.bytes < SMALL_CHUNK {
                    place = None;
                }
                let mut sending = pin!(send(watches, id, bell, sender, messages(&chunk.told, filter)));
                match timeout(SLOW_AFTER, &mut sending).await {
                    Ok(sent) => sent?,
                    Err(_elapsed) => {
                        if place.is_some() {
                            // With too many of them it goes: what it is being told is in the store, and it may come again.
                            let Ok(among_the_slow) = watches.slow.try_acquire() else {
                                watches.with(|hub| hub.cut_off(id));
                                return Err(Over::Gone);
                            };
                            place = Some(among_the_slow);
                        }
                        sending.await?;
                    }
                }
                drop(place);
                watches.with(|hub| hub.read(id, chunk.next));
            }
            Taken::Wait => bell.notified().await,
            Taken::Ended(end) => return Err(last_word(end).into()),
        }
    }
}

/// Waits for something, at most until the watch is over.
async fn until_over<T>(
    watches: &Watches,
    id: WatchId,
    bell: &Notify,
    waited: impl Future<Output = T>,
) -> Result<T, Over> {
    let mut waited = pin!(waited);
    loop {
        tokio::select! {
            done = &mut waited => return Ok(done),
            () = bell.notified() => {
                if watches.with(|hub| hub.has_ended(id))
                    && let Taken::Ended(end) = watches.with(|hub| hub.take(id))
                {
                    return Err(last_word(end).into());
                }
            }
        }
    }
}

fn messages(told: &[Told], filter: &Filter) -> Vec<Vec<Bytes>> {
    told.iter().flat_map(|told| told.messages(filter)).map(|message| message.pieces).collect()
}

/// Sends; a watch that is cut meanwhile has a moment for what was begun.
async fn send(
    watches: &Watches,
    id: WatchId,
    bell: &Notify,
    sender: &mut FeedSender,
    messages: Vec<Vec<Bytes>>,
) -> Result<(), Over> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut sending = pin!(sender.send(messages));
    loop {
        tokio::select! {
            sent = &mut sending => return Ok(sent?),
            // It rings for what is told as well: that waits until this is sent.
            () = bell.notified() => {
                if watches.with(|hub| hub.has_ended(id)) {
                    return match timeout(LAST_WORD, sending).await {
                        Ok(sent) => Ok(sent?),
                        Err(_elapsed) => Err(Over::Gone),
                    };
                }
            }
        }
    }
}

/// What a watch is told when the store does not have what it asks for.
fn unreadable(error: &ReadError) -> Failure {
    match error {
        ReadError::Refused(refusal @ Refusal::Compacted { asked, oldest }) => {
            let message = format!(
                "what revision {asked} did is compacted, watches can begin at {oldest}; read the keys anew and watch from the revision after that answer's. No key is lost"
            );
            api::Error { message, ..refused(refusal) }
        }
        ReadError::Refused(refusal) => refused(refusal),
        ReadError::Store(error) => broken(error),
    }
}

/// Sends bookmarks, and watches elsewhere while this manager is out of touch with a quorum. Runs until the node stops.
pub(super) async fn keep(service: Arc<Service>) {
    let mut looks = 0u32;
    loop {
        tokio::time::sleep(LOOK).await;
        let age = service.age_ms().map_or_else(|| service.clock.elapsed(), Duration::from_millis);
        let tick = Duration::from_nanos(service.status.borrow().tick.0);
        let patience = BEHIND.max(tick * quorate_core::consensus::config::ELECTION_TICKS * BEHIND_ELECTIONS);
        service.watches.close((age > patience).then_some(End::Behind));
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(BOOKMARK) {
            service.watches.with(Hub::bookmark);
        }
    }
}
