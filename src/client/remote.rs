//! Ways to a manager from outside: QUIC with an identity, or the local socket of a node on this machine.
//!
//! Owns the choice of manager: it stays with one that answers, and tries the next when one does not. Never retries a
//! request by itself: the client decides.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder};
use quorate_transport::{
    ConnectError, Connection, Connector, Hello, Identity, LocalConnection, LocalError, Network, RequestError, api,
};
use tokio::sync::watch;

use super::dials::{Dial, Dials, Looked, Waiting};
use super::papers::Papers;
use super::{Answered, CallError, Fed, Feeding, Reply, Unanswered, Way};
use crate::config;
use crate::error::{Error, Result};

/// The version told in hellos.
pub(crate) const SOFTWARE: &str = if cfg!(feature = "next-version") {
    concat!("quorate ", env!("CARGO_PKG_VERSION"), "-next")
} else {
    concat!("quorate ", env!("CARGO_PKG_VERSION"))
};

/// The connection in use.
#[derive(Default)]
struct Current {
    /// Bumped with every new connection and kept when one is left: of many callers that fail together one replaces it,
    /// and the next dial begins at the next manager.
    number: u64,
    connection: Option<InUse>,
}

/// The connections that feeds travel on, for as long as there are feeds on them.
#[derive(Default)]
struct Feeds {
    open: Vec<Weak<InUse>>,
    /// Bumped with every dial: each begins at another manager, since what is watched is told by all alike.
    dialled: u64,
}

#[derive(Clone)]
struct InUse {
    /// Where in the list of managers it leads.
    manager: usize,
    connection: Connection,
}

/// Over QUIC.
pub(super) struct Remote {
    managers: Vec<String>,
    papers: Papers,
    network: Network,
    current: Dials<Current>,
    /// The longest lineage that a manager has shown: managers of a shorter one are refused from then on.
    lineage: Mutex<Lineage>,
    generation: watch::Sender<u64>,
    feeds: Dials<Feeds>,
}

/// Feeds on one connection at most: a manager lets a client open 1,024 streams at once.
const FEEDS_PER_CONNECTION: usize = 128;
/// Unread bytes of one feed: all feeds of a connection may be left unread and none keeps the others waiting.
const FEED_WINDOW: u32 = 256 * 1024;

impl Remote {
    pub(super) async fn connect(
        managers: Vec<String>,
        identity: Identity,
        timeout: Duration,
        network: Network,
    ) -> Result<Self> {
        for manager in &managers {
            config::check_address(manager).map_err(Error::Invalid)?;
        }
        let remote = Self {
            managers,
            papers: Papers::new(identity),
            network,
            current: Dials::new(Current::default()),
            lineage: Mutex::default(),
            generation: watch::Sender::new(0),
            feeds: Dials::new(Feeds::default()),
        };
        let everybody: Vec<usize> = (0..remote.managers.len()).collect();
        let first = remote.dial(&everybody, timeout, &remote.connector()).await.map_err(|error| refused(&error))?;
        remote.current.note(|current| current.connection = Some(first));
        Ok(remote)
    }

    fn connector(&self) -> Connector {
        Connector { network: self.network.clone(), ..Connector::default() }
    }

    /// Dials these managers, in this order.
    async fn dial(
        &self,
        wanted: &[usize],
        timeout: Duration,
        connector: &Connector,
    ) -> std::result::Result<InUse, ConnectError> {
        let addresses: Vec<String> = wanted.iter().filter_map(|manager| self.managers.get(*manager).cloned()).collect();
        let identity = self.papers.fresh(&addresses, &self.network, timeout).await;
        let mut connection = self.dial_as(identity, &addresses, timeout, connector).await?;
        if self.papers.met(&connection, &addresses, &self.network, timeout).await
            && let Ok(again) = self.dial_as(self.papers.current(), &addresses, timeout, connector).await
        {
            connection = again;
        }
        let manager = wanted.get(connection.place()).copied().unwrap_or_default();
        Ok(InUse { manager, connection })
    }

    async fn dial_as(
        &self,
        identity: Arc<Identity>,
        addresses: &[String],
        timeout: Duration,
        connector: &Connector,
    ) -> std::result::Result<Connection, ConnectError> {
        let known = self.known().clone();
        let hello = Hello::client(identity.subject().cluster, identity.subject().node_id, known, SOFTWARE);
        let connection = connector.connect_to(addresses, identity, hello, timeout).await?;
        self.adopt(&connection.remote_hello().lineage);
        Ok(connection)
    }

    fn known(&self) -> MutexGuard<'_, Lineage> {
        self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lineage that continues what this client knows counts from now on, and it never goes back.
    fn adopt(&self, theirs: &Lineage) {
        let mut known = self.known();
        if known.compare(theirs) != LineageOrder::Older {
            return;
        }
        let (from, to) = (known.generation(), theirs.generation());
        known.clone_from(theirs);
        drop(known);
        self.generation.send_replace(to);
        if from > 0 {
            tracing::warn!(from, to, "the cluster was recovered: this client keeps to the new generation");
        }
    }

    /// The managers that may be dialled, in the order for the connection with this number.
    fn allowed(&self, number: u64, without: &BTreeSet<usize>) -> Vec<usize> {
        in_turn(self.managers.len(), number).into_iter().filter(|manager| !without.contains(manager)).collect()
    }

    /// The connection that requests share, with its number.
    async fn connection(
        &self,
        patience: Duration,
        without: &BTreeSet<usize>,
    ) -> std::result::Result<(u64, InUse), CallError> {
        let usable = |known: &&InUse| !known.connection.is_closed() && !without.contains(&known.manager);
        loop {
            let looked = self.current.look(
                |current| Some((current.number, current.connection.as_ref().filter(usable)?.clone())),
                |to| to.iter().all(|manager| !without.contains(manager)),
                |current| self.allowed(current.number + 1, without),
            );
            let dial = match looked {
                Looked::Found(found) => return Ok(found),
                Looked::Wait(waiting) => {
                    self.outwaited(waiting, without).await?;
                    continue;
                }
                Looked::Dial(dial) => dial,
            };
            return match self.dial(dial.to(), patience, &self.connector()).await {
                Ok(made) => Ok(dial.done(|current| {
                    *current = Current { number: current.number + 1, connection: Some(made.clone()) };
                    (current.number, made)
                })),
                Err(error) => Err(self.came_to_nothing(dial, &error)),
            };
        }
    }

    /// A connection with room for one more feed.
    async fn room_for_a_feed(
        &self,
        patience: Duration,
        without: &BTreeSet<usize>,
    ) -> std::result::Result<Arc<InUse>, CallError> {
        let usable = |known: Arc<InUse>| (!without.contains(&known.manager)).then_some(known);
        loop {
            let looked = self.feeds.look(
                |Feeds { open, .. }| {
                    open.retain(|known| known.upgrade().is_some_and(|known| !known.connection.is_closed()));
                    let roomy = open.iter().filter(|known| known.strong_count() < FEEDS_PER_CONNECTION);
                    roomy.filter_map(Weak::upgrade).find_map(usable)
                },
                |to| to.iter().all(|manager| !without.contains(manager)),
                |feeds| {
                    let to = self.allowed(feeds.dialled, without);
                    feeds.dialled += 1;
                    to
                },
            );
            let dial = match looked {
                Looked::Found(known) => return Ok(known),
                Looked::Wait(waiting) => {
                    self.outwaited(waiting, without).await?;
                    continue;
                }
                Looked::Dial(dial) => dial,
            };
            let connector =
                Connector { stream_window: FEED_WINDOW, keep_alive: FEED_ALIVE, idle: FEED_IDLE, ..self.connector() };
            return match self.dial(dial.to(), patience, &connector).await {
                Ok(made) => {
                    let made = Arc::new(made);
                    dial.done(|feeds| feeds.open.push(Arc::downgrade(&made)));
                    Ok(made)
                }
                Err(error) => Err(self.came_to_nothing(dial, &error)),
            };
        }
    }

    /// Somebody else's dial has ended: it is looked again, unless it has tried everybody that this caller would dial.
    async fn outwaited(&self, waiting: Waiting, without: &BTreeSet<usize>) -> std::result::Result<(), CallError> {
        match waiting.failure().await {
            Some(error) if self.allowed(0, without).iter().all(|manager| error.unreachable.contains(manager)) => {
                Err(error)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What the caller of a dial is told, and all who waited for it.
    fn came_to_nothing<S>(&self, dial: Dial<'_, S>, error: &ConnectError) -> CallError {
        let all = dial.to().len() == self.managers.len();
        let left = if all && error.is_revoked() { Unanswered::Revoked } else { Unanswered::NotTaken };
        let error = CallError { unreachable: dial.to().to_vec(), ..CallError::new(left, error.to_string()) };
        dial.failed(&error);
        error
    }

    /// The connection with this number did not serve: the next call dials another. Requests that are still under way on
    /// it may end there: it closes with the last of them.
    fn leave(&self, number: u64) {
        self.current.note(|current| {
            if current.number == number {
                current.connection = None;
            }
        });
    }
}

/// The managers in the order in which they are tried for the connection with this number: each begins at another.
fn in_turn(managers: usize, number: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..managers).collect();
    let count = u64::try_from(managers.max(1)).unwrap_or(1);
    order.rotate_left(usize::try_from(number % count).unwrap_or(0));
    order
}

fn refused(error: &ConnectError) -> Error {
    let message = error.to_string();
    match error.root() {
        ConnectError::OwnCertificate(_) | ConnectError::Certificate { .. } | ConnectError::NotAccepted { .. } => {
            Error::Denied(message)
        }
        // As what it would ask is refused: nobody ever takes that back.
        _ if error.is_revoked() => Error::Denied(format!("{message}. Nothing was done")),
        ConnectError::NoAddress
        | ConnectError::Resolve { .. }
        | ConnectError::PortClosed(_)
        | ConnectError::Unreachable { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::WrongProtocol(_)
        | ConnectError::Refused { .. }
        | ConnectError::Broken { .. }
        | ConnectError::Local(_)
        | ConnectError::All(_) => Error::Unavailable(message),
    }
}

fn decode(by: usize, body: Bytes) -> std::result::Result<Answered, CallError> {
    let response = api::Response::decode(body)
        .map_err(|error| CallError::unanswered(format!("the manager's answer cannot be read: {error}")))?;
    Ok(Answered { by, response })
}

impl From<RequestError> for CallError {
    fn from(error: RequestError) -> Self {
        // What it means for the outcome depends on the request: the client says it.
        match error {
            RequestError::NotSent(message) => Self::not_taken(message),
            RequestError::Unknown(message) => Self::unanswered(message),
            RequestError::Unread => Self::unanswered(error.to_string()),
            RequestError::Busy => Self::busy(),
        }
    }
}

/// A manager that has taken the request has so long for the answer: a second copy would only be more work for managers
/// that have too much of it. After that another one is tried.
const SLOW: Duration = config::ATTEMPT.saturating_mul(4);

/// Who only listens finds out by silence alone that its manager died: it is asked for a word so often,
const FEED_ALIVE: Duration = Duration::from_secs(1);
/// and given up after so long without one.
const FEED_IDLE: Duration = Duration::from_secs(3);

/// Whether its answer is short for sure, so that it may go with others on one stream. What is not known here is not.
const fn is_short(request: &api::Request) -> bool {
    matches!(&request.kind, Some(api::request::Kind::Write(api::Write { reads: false, .. })))
}

/// Whether this manager cannot serve now and another one may.
fn is_better_elsewhere(response: &api::Response) -> bool {
    matches!(&response.kind, Some(api::response::Kind::Error(error))
        if matches!(error.code(), api::Code::NoLeader | api::Code::NotLeader | api::Code::Stopping))
}

impl Way for Remote {
    fn managers(&self) -> usize {
        self.managers.len()
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, without: &'a BTreeSet<usize>) -> Reply<'a> {
        Box::pin(async move {
            // A dial may take longer than an attempt, and never longer than the caller waits; others may be dialling.
            let left = Duration::from_millis(request.deadline_ms);
            let dialled = tokio::time::timeout(left, self.connection(patience.max(config::ATTEMPT * 4), without));
            let (number, InUse { manager, connection }) = dialled.await.map_err(|_elapsed| {
                let message = format!("no manager could be reached within {} ms", left.as_millis());
                CallError::new(Unanswered::OutOfTime, message)
            })??;
            let several = self.managers.len() > 1;
            let (short, body) = (is_short(&request), request.encode_to_vec().into());
            let heard = connection.heard();
            let most = patience.max(SLOW).min(left);
            let asking =
                async { if short { connection.call(body, most).await } else { connection.request(body, most).await } };
            let mut asking = std::pin::pin!(asking);
            let answered = match tokio::time::timeout(patience, &mut asking).await {
                Ok(answered) => answered,
                // It has taken it, or at least a part: it lives.
                Err(_elapsed) if connection.heard() > heard => asking.await,
                Err(_elapsed) => {
                    let why = format!("nothing was heard from the manager for {} ms", patience.as_millis());
                    Err(RequestError::Unknown(why))
                }
            };
            match answered {
                Ok(body) => {
                    let answered = decode(manager, body)?;
                    if several && is_better_elsewhere(&answered.response) {
                        self.leave(number);
                    }
                    Ok(answered)
                }
                Err(error) => {
                    // One that only has too much to do is not left: dialling another one, with everybody else who
                    // waits, would make the cluster still slower.
                    let busy = match &error {
                        RequestError::Busy => true,
                        RequestError::NotSent(_) => connection.heard() > heard,
                        RequestError::Unknown(_) | RequestError::Unread => false,
                    };
                    if connection.is_closed() || (several && !busy) {
                        self.leave(number);
                    }
                    Err(error.into())
                }
            }
        })
    }

    fn feed<'a>(&'a self, request: api::Request, patience: Duration, without: &'a BTreeSet<usize>) -> Fed<'a> {
        Box::pin(async move {
            let over = self.room_for_a_feed(patience, without).await?;
            let lost = |message: String| CallError { unreachable: vec![over.manager], ..CallError::not_taken(message) };
            // Opening waits without a word when as many streams are open as may be.
            match tokio::time::timeout(patience, over.connection.feed(request.encode_to_vec().into())).await {
                Ok(Ok(receiver)) => Ok(Feeding { by: over.manager, receiver, _over: Some(over) }),
                Ok(Err(down)) => Err(lost(down.to_string())),
                Err(_elapsed) => Err(lost("the manager did not take the watch in time".into())),
            }
        })
    }

    fn attempt(&self) -> Option<Duration> {
        Some(config::ATTEMPT)
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        Some(self.generation.subscribe())
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        Some(self.papers.current())
    }
}

/// The file in a node's directory that says that the node was removed from its cluster. The node itself writes it, when it
/// stops for that reason.
pub(crate) const REMOVED_MARK: &str = "node.removed";

/// Over the Unix socket in a node's directory.
pub(super) struct Local {
    connection: LocalConnection,
    directory: PathBuf,
}

impl Local {
    pub(super) async fn connect(directory: &Path) -> Result<Self> {
        let connection = LocalConnection::connect(directory).await.map_err(|error| {
            let message = error.to_string();
            match error {
                LocalError::NotAllowed { .. } => Error::Denied(message),
                LocalError::Version { .. } => Error::Version(message),
                LocalError::NotRunning(_)
                | LocalError::AlreadyRunning(_)
                | LocalError::NoAnswer { .. }
                | LocalError::Io { .. } => Error::Unavailable(message),
            }
        })?;
        Ok(Self { connection, directory: directory.to_owned() })
    }
}

impl Way for Local {
    fn managers(&self) -> usize {
        1
    }

    fn call<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Reply<'a> {
        Box::pin(async move { decode(0, self.connection.request(request.encode_to_vec().into(), patience).await?) })
    }

    fn feed<'a>(&'a self, request: api::Request, patience: Duration, _without: &'a BTreeSet<usize>) -> Fed<'a> {
        Box::pin(async move {
            let asked = self.connection.feed(request.encode_to_vec().into());
            let lost = |message: String| CallError { unreachable: vec![0], ..CallError::not_taken(message) };
            match tokio::time::timeout(patience, asked).await {
                Ok(Ok(receiver)) => Ok(Feeding { by: 0, receiver, _over: None }),
                Ok(Err(down)) => Err(lost(down.to_string())),
                Err(_elapsed) => Err(lost("the node did not take the watch in time".into())),
            }
        })
    }

    fn has_left(&self) -> bool {
        self.directory.join(REMOVED_MARK).exists()
    }

    fn attempt(&self) -> Option<Duration> {
        None
    }

    fn generation(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_new_connection_begins_at_the_next_manager() {
        let first: Vec<_> = (0..4).filter_map(|number| in_turn(3, number).into_iter().next()).collect();
        assert_eq!(first, [0, 1, 2, 0]);
    }
}
