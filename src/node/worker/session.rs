//! The worker's session: find a manager, stay with it, move on when it goes.
//!
//! Owns the connection, the list of managers and the certificate of a worker. It takes what its manager tells, never
//! anything older than what it has, and keeps on disk what it needs to find the managers again. Whatever makes it doubt
//! that it is still of the cluster (a refusal, a certificate that ran out) it settles by one question on the join plane,
//! answered from a linearizable read. Runs as one task until it is stopped, removed or promoted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder, StoreId};
use quorate_core::membership::record::Role;
use quorate_transport::session_api::{Down as ToWorker, Open, Part, Up, Welcome, down, up};
use quorate_transport::{
    ConnectError, Connection, Connector, Down, Hello, Identity, JoinError, JoinRefused, JoinRequest, KeyPair, Refused,
    SessionReceiver, SessionSender,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{End, Link};
use crate::client::SOFTWARE;
use crate::config;
use crate::node::builder::{NodeBuilder, off_thread};
use crate::node::facts::{KnownManager, Layout};
use crate::node::newcomer::{SUPPORTED, take_over};
use crate::node::state_file::StateFile;
use crate::node::stop::{StartError, StopReason};
use crate::node::work::{Item, Set, Work};

/// How long one round over all managers may take.
const DIAL: Duration = Duration::from_secs(4);
/// How long a manager may take to say who it is.
const WELCOME: Duration = Duration::from_secs(10);
/// How long the question on the join plane may take.
const RENEW: Duration = Duration::from_secs(10);
/// Between two attempts to renew, or to become a manager.
const AGAIN: Duration = Duration::from_secs(10);
/// Statuses are sent at most so often.
const STATUSES_EVERY: Duration = Duration::from_millis(200);
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

/// The answer to whether this node is still of the cluster.
enum Standing {
    /// It is; the certificate is a new one.
    Stands,
    /// It is, as a manager: the file says so.
    Manager,
    /// It was removed.
    Removed,
    /// Nobody could tell.
    Unknown(String),
}

pub(super) struct Driver {
    layout: Layout,
    file: StateFile,
    identity: Arc<Identity>,
    hints: Vec<String>,
    work: Work,
    link: watch::Sender<Link>,
    times: Times,
    /// The manager that was lost last is asked last.
    avoid: Option<u64>,
    renew_at: SystemTime,
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    let drawn = getrandom::fill(&mut bytes).map(|()| u32::from_be_bytes(bytes));
    f64::from(drawn.unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

/// Half of a certificate's life after it began, and up to a tenth later: ten thousand do not come at once.
fn half_life(identity: &Identity) -> SystemTime {
    let subject = identity.subject();
    let life = Duration::from_secs(subject.not_after.saturating_sub(subject.not_before));
    UNIX_EPOCH + Duration::from_secs(subject.not_before) + life.mul_f64(0.5 + chance() / 10.0)
}

impl Driver {
    pub(super) fn new(
        builder: &NodeBuilder,
        file: StateFile,
        identity: Arc<Identity>,
        work: Work,
        link: watch::Sender<Link>,
    ) -> Self {
        let renew_at = half_life(&identity);
        Self {
            layout: Layout::new(&builder.directory),
            file,
            identity,
            hints: builder.hints.clone(),
            work,
            link,
            times: builder.times,
            avoid: None,
            renew_at,
        }
    }

    pub(super) async fn run(mut self, mut stopping: watch::Receiver<bool>) -> End {
        tokio::select! {
            end = self.sessions() => end,
            _ = stopping.wait_for(|stop| *stop) => {
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
            self.link.send_replace(Link { trouble: why, ..Link::default() });
            if matches!(ended, Ended::Doubt(_)) {
                match self.renew().await {
                    Standing::Stands => {}
                    Standing::Manager => return End::Promoted,
                    Standing::Removed => return End::Stopped(StopReason::Removed),
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
            self.file.managers.iter().map(|known| (self.avoid == Some(known.raft_id), chance(), known)).collect();
        managers.sort_by(|(a, x, _), (b, y, _)| a.cmp(b).then(x.total_cmp(y)));
        let known = managers.into_iter().flat_map(|(_, _, known)| known.addresses.iter());
        known.chain(&self.hints).cloned().collect()
    }

    fn hello(&self) -> Hello {
        let subject = self.identity.subject();
        Hello::client(subject.cluster, subject.node_id, self.file.lineage_list(), SOFTWARE)
    }

    async fn connect(&self) -> Result<Connection, Ended> {
        let connector = Connector {
            keep_alive: self.times.keep_alive,
            idle: self.times.idle,
            // A manager that thousands come to at once takes its time; asking the next one beside it would be no help.
            stagger: Duration::from_secs(1),
            socket: None,
        };
        let dialled = connector.connect_to(&self.addresses(), Arc::clone(&self.identity), self.hello(), DIAL).await;
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
            command_version: SUPPORTED,
            software: SOFTWARE.to_owned(),
            advertise: self.file.advertise.clone(),
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
        self.link.send_replace(Link {
            connection: Some(connection.clone()),
            manager: welcome.manager.clone(),
            since: Some(Instant::now()),
            trouble: String::new(),
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
        loop {
            tokio::select! {
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
            if Instant::now() < next_try {
                continue;
            }
            if SystemTime::now() >= self.renew_at {
                next_try = Instant::now() + AGAIN;
                match self.renew().await {
                    Standing::Stands => {}
                    Standing::Manager => return Ended::Promoted,
                    Standing::Removed => return Ended::Doubt("this node was removed".into()),
                    Standing::Unknown(why) => tracing::warn!(why, "the certificate was not renewed; it is tried again"),
                }
            }
            if wanted == Role::Manager {
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
        let mut file = self.file.clone();
        if let Some(lineage) = Lineage::from_slice(&welcome.lineage)
            && file.lineage_list().compare(&lineage) == LineageOrder::Older
        {
            let (from, to) = (file.lineage_list().generation(), lineage.generation());
            tracing::warn!(from, to, "the cluster was recovered: this worker goes on with the new incarnation");
            file.lineage = lineage.to_bytes().into();
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
            file.managers = managers;
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

    /// Asks on the join plane who this node is to the cluster, and takes the certificate that says so.
    async fn renew(&mut self) -> Standing {
        match ask_standing(&self.identity, self.file.store(), &self.addresses()).await {
            Ok(joined) => {
                let manager = joined.raft_id.0 != 0;
                let certificate = joined.certificate.clone();
                let mut file = self.file.clone();
                if manager {
                    take_over(&mut file, *joined);
                    return match self.keep(file).await {
                        Ok(()) => Standing::Manager,
                        Err(error) => Standing::Unknown(error.to_string()),
                    };
                }
                let renewed = self.identity.renewed(certificate.into());
                let identity = match renewed {
                    Ok(identity) => Arc::new(identity),
                    Err(error) => return Standing::Unknown(error.to_string()),
                };
                let (path, written) = (self.layout.identity(), Arc::clone(&identity));
                let kept =
                    off_thread(move || written.write(&path).map_err(|error| StartError::Disk(error.to_string()))).await;
                if let Err(error) = kept {
                    tracing::warn!(%error, "the renewed certificate could not be kept");
                }
                self.renew_at = half_life(&identity);
                self.identity = identity;
                tracing::info!("the certificate was renewed");
                Standing::Stands
            }
            Err(JoinError::Refused(JoinRefused::NotAMember)) => Standing::Removed,
            Err(error) => Standing::Unknown(error.to_string()),
        }
    }

    #[cfg(feature = "manager")]
    async fn enrol(&mut self, connection: &Connection) -> Result<(), String> {
        let file = crate::node::transition::enrol(&self.layout, &self.file, &self.identity, connection).await?;
        self.file = file;
        Ok(())
    }

    #[cfg(not(feature = "manager"))]
    #[expect(clippy::unused_async, reason = "the same call as where it can be done")]
    async fn enrol(&self, _connection: &Connection) -> Result<(), String> {
        Err("NotBuiltAsManager: this program was built without the `manager` feature; it stays a worker. Take the promotion back, or run this node with a program that has it".into())
    }
}

/// What the managers say of the node whose key this is; `store` is the one it has or will have as a manager.
pub(in crate::node) async fn ask_standing(
    identity: &Identity,
    store: Option<StoreId>,
    managers: &[String],
) -> Result<Box<quorate_transport::Joined>, JoinError> {
    let bad = |why: String| JoinError::BadReply(why);
    let key = KeyPair::from_pkcs8(identity.key().pkcs8_der()).map_err(|error| bad(error.to_string()))?;
    let csr = key.csr().map_err(|error| bad(error.to_string()))?;
    let mut request = JoinRequest::renewal(csr, identity.subject().node_id);
    request.store_id = store;
    request.command_version = SUPPORTED;
    request.software = SOFTWARE.to_owned();
    quorate_transport::renew(managers, identity.ca_hash(), request, RENEW).await.map(Box::new)
}

/// Whether a refusal may mean that this node is of the cluster no more, or not with this certificate.
fn is_doubt(refused: &Refused) -> bool {
    match refused {
        Refused::Removed
        | Refused::NotAMember
        | Refused::WrongNode(_)
        | Refused::NoCertificate
        | Refused::WrongRole { .. } => true,
        Refused::WrongCluster { .. }
        | Refused::Superseded { .. }
        | Refused::Forked { .. }
        | Refused::StoreReplaced
        | Refused::VersionTooOld { .. }
        | Refused::VersionTooNew { .. }
        | Refused::Locked
        | Refused::Fenced
        | Refused::Duplicate
        | Refused::Busy(_)
        | Refused::Malformed
        | Refused::Other(_) => false,
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

async fn send(sender: &mut SessionSender, kind: up::Kind) -> Result<(), Down> {
    sender.send(Up { kind: Some(kind) }.encode_to_vec().into()).await
}

/// Sends what the embedder says of its items, all of it each time, and again when an earlier process turns out to have said
/// more.
async fn report(mut sender: SessionSender, work: Work, mut instance: watch::Receiver<u64>) {
    let mut statuses = work.statuses();
    let mut sent = (0, 0);
    loop {
        let (now, instance_now) = (statuses.borrow_and_update().clone(), *instance.borrow_and_update());
        let order = (instance_now, now.sequence);
        // Nothing said yet in this process: what an earlier one said stands.
        if now.sequence > 0 && order != sent {
            if send(&mut sender, up::Kind::Report(now.to_report(instance_now))).await.is_err() {
                return;
            }
            sent = order;
        }
        tokio::time::sleep(STATUSES_EVERY).await;
        let changed = tokio::select! {
            changed = statuses.changed() => changed,
            changed = instance.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A set or a difference on its way, part by part.
#[derive(Default)]
struct Parts {
    /// What has come of it, by id; `None` until the first part.
    coming: Option<BTreeMap<String, Item>>,
}

impl Parts {
    async fn take(&mut self, work: &Work, part: Part) -> Result<(), String> {
        let Some(lineage) = Lineage::from_slice(&part.lineage) else {
            return Err("a set came with a malformed lineage".into());
        };
        let have = work.current();
        if !have.admits(&lineage, part.revision) {
            return Err(format!(
                "the manager told a set of revision {} in generation {}, this worker has one of revision {} in generation {}: it is behind",
                part.revision,
                lineage.generation(),
                have.revision,
                have.lineage.generation()
            ));
        }
        if part.unchanged {
            work.put(Set { known: true, stale: false, lineage, revision: part.revision, items: have.items.clone() })
                .await;
            return Ok(());
        }
        let mut items = match self.coming.take() {
            Some(items) => items,
            None if part.complete => BTreeMap::new(),
            None => have.items.clone(),
        };
        for id in &part.removed {
            items.remove(id);
        }
        items.extend(part.items.into_iter().map(|item| (item.id.clone(), Item::from(item))));
        if part.last {
            work.put(Set { known: true, stale: false, lineage, revision: part.revision, items }).await;
        } else {
            self.coming = Some(items);
        }
        Ok(())
    }
}
