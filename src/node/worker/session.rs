//! The worker's session: find a manager, stay with it, move on when it goes.
//!
//! Owns the connection and the list of managers of a worker. It takes what its manager tells, never anything older than what
//! it has ([`super::items`]), and keeps on disk what it needs to find the managers again. Whatever makes it doubt that it is
//! still of the cluster (a refusal, a certificate that ran out) is settled by [`super::standing`]. Runs as one task until it
//! is stopped, removed or promoted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder};
use quorate_core::membership::record::Role;
use quorate_transport::session_api::{Down as ToWorker, Open, Up, Welcome, down, up};
use quorate_transport::{
    ClientSocket, ConnectError, Connection, Connector, Down, Hello, Identity, SessionReceiver, SessionSender,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::items::{Parts, report};
use super::standing::{Answer, Papers, Standing, is_doubt};
use super::{End, Link};
use crate::client::SOFTWARE;
use crate::config::{self, chance};
use crate::node::builder::{NodeBuilder, off_thread};
use crate::node::facts::{KnownManager, Layout};
use crate::node::newcomer::SUPPORT;
use crate::node::state_file::StateFile;
use crate::node::stop::{StartError, StopReason};
use crate::node::work::Work;

/// How long one round over all managers may take.
const DIAL: Duration = Duration::from_secs(6);
/// How long a manager has for itself before the next one is dialled beside it. One that thousands come to at once takes its time,
/// and asking all of them would make it three times as many; the one that was just lost is asked last in any case.
const STAGGER: Duration = Duration::from_secs(2);
/// How long a manager may take to say who it is.
const WELCOME: Duration = Duration::from_secs(10);
/// Between two attempts to become a manager.
const AGAIN: Duration = Duration::from_secs(10);
/// A session that lasted so long was a good one: the next failure begins with a short pause.
const GOOD: Duration = Duration::from_secs(10);
/// How often it is looked whether the manager is still heard.
const LOOK: Duration = Duration::from_secs(1);

/// The times of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Times {
    /// Something is sent at least so often.
    pub(in crate::node) keep_alive: Duration,
    /// Nothing heard for so long: the manager is given up.
    pub(in crate::node) silence: Duration,
    /// Nothing heard for so long: the other side gives this one up.
    pub(in crate::node) idle: Duration,
    /// First and longest pause between attempts.
    pub(in crate::node) pause: (Duration, Duration),
}

impl Default for Times {
    fn default() -> Self {
        Self {
            keep_alive: config::WORKER_KEEP_ALIVE,
            // Two keep-alives unanswered, with all their repeats: a worker that moves on early is missed by nobody.
            silence: config::WORKER_KEEP_ALIVE * 2,
            idle: config::WORKER_IDLE,
            pause: (Duration::from_millis(200), Duration::from_secs(5)),
        }
    }
}

/// How one session, or one attempt at one, ended.
enum Ended {
    /// Try again, perhaps elsewhere.
    Lost(String),
    /// Whether this node is still of the cluster is to be asked.
    Doubt(String),
    /// It is a manager now.
    Promoted,
}

pub(super) struct Driver {
    layout: Layout,
    file: StateFile,
    papers: Papers,
    hints: Vec<String>,
    work: Work,
    link: watch::Sender<Link>,
    times: Times,
    /// The manager that was lost last is asked last.
    avoid: Option<u64>,
    /// The socket for its connections; one of its own for each where nothing is said.
    socket: Option<ClientSocket>,
}

impl Driver {
    pub(super) fn new(
        builder: &NodeBuilder,
        file: StateFile,
        identity: Arc<Identity>,
        work: Work,
        link: watch::Sender<Link>,
    ) -> Self {
        let layout = builder.layout();
        let papers = Papers::new(layout.clone(), identity, builder.certificates.clock, builder.ground.network.clone());
        Self {
            layout,
            file,
            papers,
            hints: builder.hints.clone(),
            work,
            link,
            times: builder.times,
            avoid: None,
            socket: None,
        }
    }

    /// Its connections share this socket with others.
    #[cfg(feature = "testing")]
    pub(super) fn over(mut self, socket: ClientSocket) -> Self {
        self.socket = Some(socket);
        self
    }

    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> End {
        let stopped = async {
            // A sender that is gone asks for the end, too.
            let _ = stopping.wait_for(|stop| *stop).await.is_ok();
        };
        tokio::select! {
            end = self.sessions() => end,
            () = stopped => {
                let connection = self.link.borrow().connection.clone();
                if let Some(connection) = connection {
                    connection.close().await;
                }
                End::Stopped(StopReason::Asked)
            }
        }
    }

    async fn sessions(&mut self) -> End {
        let mut pause = self.times.pause.0;
        loop {
            let began = Instant::now();
            let ended = match self.connect().await {
                Ok(connection) => Box::pin(self.session(connection)).await,
                Err(ended) => ended,
            };
            let why = match &ended {
                Ended::Promoted => return End::Promoted,
                Ended::Lost(why) | Ended::Doubt(why) => why.clone(),
            };
            tracing::info!(why, "no session with a manager");
            self.link.send_modify(|link| *link = Link { trouble: why, begun: link.begun, ..Link::default() });
            if matches!(ended, Ended::Doubt(_)) {
                let answer = self.papers.question(&self.file, self.addresses()).await;
                match self.papers.take(&self.file, answer).await {
                    Standing::Stands => {}
                    Standing::Manager => return End::Promoted,
                    Standing::Removed => return End::Stopped(StopReason::Removed),
                    Standing::Replaced(why) => return End::Stopped(StopReason::IdentityRefused(why)),
                    Standing::Unknown(why) => {
                        self.link.send_modify(|link| link.trouble = why);
                    }
                }
            }
            if began.elapsed() >= GOOD {
                pause = self.times.pause.0;
            }
            // From nearly nothing to all of it, at random: whoever lost the same manager does not come at once.
            tokio::time::sleep(pause.mul_f64(chance())).await;
            pause = (pause * 2).min(self.times.pause.1);
        }
    }

    /// Where managers may be: all that are known, in an order of this attempt's own, then the hints.
    fn addresses(&self) -> Vec<String> {
        let mut managers: Vec<(bool, f64, &KnownManager)> =
            self.file.facts.managers.iter().map(|known| (self.avoid == Some(known.raft_id), chance(), known)).collect();
        managers.sort_by(|(a, x, _), (b, y, _)| a.cmp(b).then(x.total_cmp(y)));
        let known = managers.into_iter().flat_map(|(_, _, known)| known.addresses.iter());
        known.chain(&self.hints).cloned().collect()
    }

    fn hello(&self) -> Hello {
        let subject = self.papers.identity().subject();
        Hello::client(subject.cluster, subject.node_id, self.file.facts.lineage_list(), SOFTWARE)
    }

    async fn connect(&self) -> Result<Connection, Ended> {
        let connector = Connector {
            keep_alive: self.times.keep_alive,
            idle: self.times.idle,
            stagger: STAGGER,
            socket: self.socket.clone(),
            clock: self.papers.clock(),
            network: self.papers.network().clone(),
            ..Connector::default()
        };
        let identity = Arc::clone(self.papers.identity());
        let dialled = connector.connect_to(&self.addresses(), identity, self.hello(), DIAL).await;
        let error = match dialled {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let doubt = match error.root() {
            ConnectError::OwnCertificate(_) | ConnectError::NotAccepted { .. } => true,
            ConnectError::Refused { refused, .. } => is_doubt(refused),
            ConnectError::NoAddress
            | ConnectError::Resolve { .. }
            | ConnectError::PortClosed(_)
            | ConnectError::Unreachable { .. }
            | ConnectError::Timeout { .. }
            | ConnectError::Certificate { .. }
            | ConnectError::WrongProtocol(_)
            | ConnectError::Broken { .. }
            | ConnectError::Local(_)
            | ConnectError::All(_) => false,
        };
        Err(if doubt { Ended::Doubt(error.to_string()) } else { Ended::Lost(error.to_string()) })
    }

    /// One session, until it ends.
    async fn session(&mut self, connection: Connection) -> Ended {
        let (mut sender, mut receiver) = match connection.session().await {
            Ok(session) => (session.sender, session.receiver),
            Err(down) => return lost(&down),
        };
        let have = self.work.current();
        let open = Open {
            lineage: have.lineage.to_bytes().into(),
            revision: if have.known { have.revision } else { 0 },
            digest: Bytes::copy_from_slice(&have.digest()),
            instance: 0,
            command_version: SUPPORT.newest,
            software: SOFTWARE.to_owned(),
            advertise: self.file.facts.advertise.clone(),
        };
        if let Err(down) = send(&mut sender, up::Kind::Open(open)).await {
            return lost(&down);
        }
        let welcome = match tokio::time::timeout(WELCOME, self.welcomed(&mut receiver)).await {
            Ok(Ok(welcome)) => welcome,
            Ok(Err(ended)) => return ended,
            Err(_elapsed) => return Ended::Lost(format!("{} gave no welcome in time", connection.address())),
        };
        self.avoid = Some(welcome.raft_id);
        tracing::info!(manager = welcome.manager, address = %connection.address(), "session");
        self.link.send_modify(|link| {
            *link = Link {
                connection: Some(connection.clone()),
                manager: welcome.manager.clone(),
                begun: link.begun + 1,
                since: Some(Instant::now()),
                trouble: String::new(),
            };
        });
        let instance = watch::Sender::new(self.work.instance(welcome.reported_instance));
        // Sending waits for the other side, and so does receiving: each has its own task, and neither the other's wait.
        let reporting = tokio::spawn(report(sender, self.work.clone(), instance.subscribe()));
        let ended = self.listen(&connection, receiver, welcome, &instance).await;
        reporting.abort();
        ended
    }

    async fn welcomed(&self, receiver: &mut SessionReceiver) -> Result<Welcome, Ended> {
        let message = receiver.next().await.map_err(|down| lost(&down))?;
        match ToWorker::decode(message).map(|message| message.kind) {
            Ok(Some(down::Kind::Welcome(welcome))) => Ok(welcome),
            Ok(_) => Err(Ended::Lost("the manager began with something else than a welcome".into())),
            Err(error) => Err(Ended::Lost(format!("the manager's welcome cannot be read: {error}"))),
        }
    }

    async fn listen(
        &mut self,
        connection: &Connection,
        mut receiver: SessionReceiver,
        welcome: Welcome,
        instance: &watch::Sender<u64>,
    ) -> Ended {
        let mut parts = Parts::default();
        let mut wanted = Role::try_from(welcome.role).unwrap_or(Role::Worker);
        self.note(&welcome).await;
        let mut heard = (connection.heard(), Instant::now());
        let mut look = tokio::time::interval(LOOK);
        let mut next_try = Instant::now();
        // Beside the session: what the manager tells meanwhile does not wait for it.
        let mut asking: JoinSet<Answer> = JoinSet::new();
        loop {
            tokio::select! {
                Some(answer) = asking.join_next() => {
                    let Ok(answer) = answer else { continue };
                    let shown = self.papers.identity().subject().issuer;
                    match self.papers.take(&self.file, answer).await {
                        // That it has a certificate of the new root is seen where it shows it: in another session.
                        Standing::Stands if self.papers.identity().subject().issuer != shown => {
                            return Ended::Lost("it goes on with a certificate of the cluster's new CA".into());
                        }
                        Standing::Stands => {}
                        Standing::Manager => return Ended::Promoted,
                        Standing::Removed => return Ended::Doubt("this node was removed".into()),
                        Standing::Replaced(why) => return Ended::Doubt(why),
                        Standing::Unknown(why) => {
                            tracing::warn!(why, "the certificate was not renewed; it is tried again");
                        }
                    }
                }
                message = receiver.next() => {
                    let message = match message {
                        Ok(message) => message,
                        Err(down) => return lost(&down),
                    };
                    match ToWorker::decode(message).map(|message| message.kind) {
                        Ok(Some(down::Kind::Welcome(welcome))) => {
                            let before = wanted;
                            wanted = Role::try_from(welcome.role).unwrap_or(Role::Worker);
                            if wanted != before {
                                next_try = Instant::now();
                            }
                            self.note(&welcome).await;
                        }
                        Ok(Some(down::Kind::Part(part))) => {
                            if let Err(why) = parts.take(&self.work, part).await {
                                return Ended::Lost(why);
                            }
                        }
                        Ok(Some(down::Kind::Behind(behind))) => {
                            instance.send_replace(self.work.overtake(behind.instance));
                        }
                        Ok(Some(down::Kind::Taken(_))) => {}
                        // From a newer manager: whatever it is, this version can do without.
                        Ok(None) => {}
                        Err(error) => return Ended::Lost(format!("a message of the manager cannot be read: {error}")),
                    }
                }
                _ = look.tick() => {
                    let now = connection.heard();
                    if now != heard.0 {
                        heard = (now, Instant::now());
                    } else if heard.1.elapsed() >= self.times.silence {
                        return Ended::Lost(format!("nothing heard from {} for {} s", connection.address(), heard.1.elapsed().as_secs()));
                    }
                }
            }
            if asking.is_empty() && self.papers.is_due() {
                let managers = self.addresses();
                asking.spawn(self.papers.question(&self.file, managers));
            }
            if wanted == Role::Manager && Instant::now() >= next_try {
                next_try = Instant::now() + AGAIN;
                match self.enrol(connection).await {
                    Ok(()) => return Ended::Promoted,
                    Err(why) => {
                        tracing::warn!(why, "this node is asked to be a manager and is none yet");
                        self.link.send_modify(|link| link.trouble = why);
                    }
                }
            }
        }
    }

    /// Keeps what a manager says of the cluster: a worker must find its managers again, whichever of them is left.
    async fn note(&mut self, welcome: &Welcome) {
        self.papers.compare_trust(&welcome.trust, Duration::from_millis(welcome.trust_spread_ms));
        let mut file = self.file.clone();
        if let Some(lineage) = Lineage::from_slice(&welcome.lineage)
            && file.facts.lineage_list().compare(&lineage) == LineageOrder::Older
        {
            let (from, to) = (file.facts.lineage_list().generation(), lineage.generation());
            tracing::warn!(from, to, "the cluster was recovered: this worker goes on with the new incarnation");
            file.facts.lineage = lineage.to_bytes().into();
        }
        let managers: Vec<KnownManager> = welcome
            .managers
            .iter()
            .map(|manager| KnownManager {
                raft_id: manager.raft_id,
                node_id: manager.node_id.clone(),
                addresses: manager.addresses.clone(),
            })
            .collect();
        if !managers.is_empty() {
            file.facts.managers = managers;
        }
        if file != self.file {
            if let Err(error) = self.keep(file.clone()).await {
                tracing::warn!(%error, "what the manager said could not be kept");
            }
            self.file = file;
        }
        self.link
            .send_if_modified(|link| std::mem::replace(&mut link.manager, welcome.manager.clone()) != welcome.manager);
    }

    async fn keep(&self, file: StateFile) -> Result<(), StartError> {
        let layout = self.layout.clone();
        off_thread(move || file.save(&layout)).await
    }

    #[cfg(feature = "manager")]
    async fn enrol(&mut self, connection: &Connection) -> Result<(), String> {
        let file = crate::node::transition::enrol(&self.layout, &self.file, self.papers.identity(), connection).await?;
        self.file = file;
        Ok(())
    }

    #[cfg(not(feature = "manager"))]
    #[expect(clippy::unused_async, reason = "the same call as where it can be done")]
    async fn enrol(&self, _connection: &Connection) -> Result<(), String> {
        Err("NotBuiltAsManager: this program was built without the `manager` feature; it stays a worker. Take the promotion back, or run this node with a program that has it".into())
    }
}

fn lost(down: &Down) -> Ended {
    match down {
        Down::Refused(refused) if is_doubt(refused) => Ended::Doubt(refused.to_string()),
        Down::Refused(_)
        | Down::Reset
        | Down::TimedOut
        | Down::Closed(_)
        | Down::Replaced
        | Down::Ours(_)
        | Down::Stalled
        | Down::Broken(_) => Ended::Lost(down.to_string()),
    }
}

pub(super) async fn send(sender: &mut SessionSender, kind: up::Kind) -> Result<(), Down> {
    sender.send(Up { kind: Some(kind) }.encode_to_vec().into()).await
}
