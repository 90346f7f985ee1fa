//! A node as a worker: one session with one of the managers, and what it needs besides.
//!
//! Owns the worker's thread with its small runtime, and how it ends. The session itself is [`session`], its certificate [`standing`], the local
//! socket [`local`]. Started and ended by the supervisor.

#[cfg(feature = "testing")]
mod fleet;
mod items;
mod local;
mod session;
mod standing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_transport::{Connection, FeedReceiver, Identity, LocalListener, RequestError, api};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use prost::Message as _;

use super::builder::NodeBuilder;
use super::ground::{Drives, Part, Tasks};
use super::state_file::StateFile;
use super::stop::{StartError, StopReason};
use super::work::Work;
use crate::client::CallError;
use crate::status::{Check, NodeReport, NodeRole, Readiness, SessionReport};

#[cfg(feature = "testing")]
pub use fleet::{SharedSocket, WorkerSession};
pub(super) use session::Times;
#[cfg(feature = "manager")]
pub(super) use standing::ask_standing;

/// Why a worker's runtime ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The node stops.
    Stopped(StopReason),
    /// It was given a raft id: it goes on as a manager.
    Promoted,
}

/// What the session's task publishes of itself.
#[derive(Clone, Default)]
pub(super) struct Link {
    /// While there is a session.
    pub(super) connection: Option<Connection>,
    /// The manager at the other end, by name; empty until it has said who it is.
    pub(super) manager: String,
    /// Sessions that have begun in this process.
    pub(super) begun: u64,
    /// Since when.
    pub(super) since: Option<Instant>,
    /// Why there is none, or what keeps it from becoming a manager.
    pub(super) trouble: String,
}

/// A worker that runs.
pub(crate) struct Worker {
    pub(super) file: StateFile,
    handle: Tasks,
    pub(super) link: watch::Receiver<Link>,
    pub(super) work: Work,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<Option<End>>,
    part: Mutex<Option<Part>>,
}

impl Worker {
    /// Starts it: answers once the local socket is there; the session comes when a manager answers.
    pub(super) async fn start(
        builder: &NodeBuilder,
        file: StateFile,
        identity: Identity,
        work: Work,
    ) -> Result<Self, StartError> {
        let (stop, stopping) = watch::channel(false);
        let (link_out, link) = watch::channel(Link::default());
        let (ended_out, ended) = watch::channel(None);
        let (started_in, started) = oneshot::channel();
        let driver = session::Driver::new(builder, file.clone(), Arc::new(identity), work.clone(), link_out);
        let (directory, socket) = (builder.directory.clone(), local::Socket::new(&file, link.clone(), work.clone()));
        let ground = builder.ground.clone();
        let run = async move {
            let tasks = ground.tasks();
            let listener = match LocalListener::bind(&directory) {
                Ok(listener) => listener,
                Err(error) => {
                    let _ = started_in.send(Err(StartError::InUse(error.to_string())));
                    return End::Stopped(StopReason::Asked);
                }
            };
            let _ = started_in.send(Ok(tasks.handle()));
            let socket = Arc::new(socket);
            tokio::select! {
                end = driver.run(stopping) => end,
                () = listener.serve(Arc::clone(&socket) as Arc<_>, socket) => End::Stopped(StopReason::Asked),
            }
        };
        let part = builder.ground.start("quorate-net", Drives::Network, run, move |end| {
            ended_out.send_replace(Some(end));
        })?;
        let handle = started.await.unwrap_or_else(|_| Err(StartError::Internal("the worker ended at once".into())))?;
        Ok(Self { file, handle, link, work, stop, ended, part: Mutex::new(Some(part)) })
    }

    /// Asks it to end; the session is closed.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end; everything it held is given back then.
    pub(super) async fn ended(&self) -> End {
        let mut ended = self.ended.clone();
        let end = match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(End::Stopped(StopReason::Asked)),
            Err(_) => End::Stopped(StopReason::Bug("the worker's thread ended without a word".into())),
        };
        // It has nothing left to do; joined so that its memory is back, too.
        let part = self.part.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            part.join().await;
        }
        end
    }

    /// Where tasks beside it are spawned.
    pub(super) fn handle(&self) -> Tasks {
        self.handle.clone()
    }

    /// Whether it can serve.
    pub(super) fn readiness(&self) -> Readiness {
        let report = self.report();
        let session = match &report.session {
            Some(session) => Check { name: "session".into(), ok: true, detail: format!("with {}", session.manager) },
            None => Check { name: "session".into(), ok: false, detail: format!("none: {}", report.trouble) },
        };
        let confirmed = report.assignments_revision.is_some() && !report.assignments_stale;
        let detail = if confirmed { "confirmed by a manager" } else { "no manager has confirmed them since the start" };
        let assignments = Check { name: "assignments".into(), ok: confirmed, detail: detail.into() };
        Readiness::of(vec![session, assignments])
    }

    /// What it says of itself.
    pub(super) fn report(&self) -> NodeReport {
        report(&self.file, &self.link.borrow(), &self.work)
    }
}

/// Asks a manager for a feed, as [`ask`].
pub(super) async fn feed(
    link: watch::Receiver<Link>,
    request: api::Request,
    patience: Duration,
) -> Result<FeedReceiver, CallError> {
    let connection = connected(link, Instant::now() + patience).await?;
    connection.feed(request.encode_to_vec().into()).await.map_err(|down| CallError::not_sent(down.to_string()))
}

/// The connection of the session, once there is one.
async fn connected(mut link: watch::Receiver<Link>, until: Instant) -> Result<Connection, CallError> {
    let waited = timeout_at(until, link.wait_for(|link| link.connection.is_some())).await;
    let waited = waited.map(|link| link.map(|link| link.connection.clone()));
    let connection = match waited {
        Ok(Ok(connection)) => connection,
        Ok(Err(_stopped)) => None,
        Err(_elapsed) => {
            let trouble = link.borrow().trouble.clone();
            return Err(CallError::not_sent(format!(
                "this worker has no session with a manager: {trouble}. Nothing was done"
            )));
        }
    };
    connection.ok_or_else(|| CallError::not_sent("this worker has stopped. Nothing was done"))
}

/// Asks a manager, over the connection of the session, with this node's own rights; waits for a session, at most for
/// `patience`.
pub(super) async fn ask(
    link: watch::Receiver<Link>,
    request: api::Request,
    patience: Duration,
) -> Result<api::Response, CallError> {
    let until = Instant::now() + patience;
    let connection = connected(link, until).await?;
    let left = until.saturating_duration_since(Instant::now());
    let answer = connection.request(request.encode_to_vec().into(), left).await;
    // What it means for the outcome depends on the request: the client says it.
    let body = answer.map_err(|error| match error {
        RequestError::Unknown(why) => CallError::unanswered(why),
        RequestError::Unread => CallError::unanswered(RequestError::Unread.to_string()),
        RequestError::NotSent(why) => CallError::not_sent(why),
        RequestError::Busy => CallError::busy(),
    })?;
    api::Response::decode(body)
        .map_err(|error| CallError::unanswered(format!("the manager's answer cannot be read: {error}")))
}

fn report(file: &StateFile, link: &Link, work: &Work) -> NodeReport {
    let set = work.current();
    let session = link.connection.as_ref().filter(|_| !link.manager.is_empty()).map(|connection| SessionReport {
        manager: link.manager.clone(),
        address: connection.address().to_string(),
        for_ms: link.since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
    });
    NodeReport {
        id: file.facts.node().to_string(),
        name: file.facts.display_name(),
        cluster_id: file.facts.cluster().to_string(),
        role: NodeRole::Worker,
        session,
        assignments_revision: set.known.then_some(set.revision),
        assignments_stale: set.stale,
        items: set.items.keys().cloned().collect(),
        trouble: link.trouble.clone(),
        key: None,
    }
}
