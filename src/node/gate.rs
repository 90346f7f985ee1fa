//! Who may connect, by the replicated records, and what comes in.
//!
//! Owns the node's answers to the transport's two traits. Never blocks: messages that find the consensus task's inbox
//! full are dropped, raft sends them again. Called on the endpoint's tasks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::consensus::io::{Input, Records};
use quorate_core::id::{Lineage, NodeId, RaftId};
use quorate_core::membership::admission::{Calling, Strangers, TurnedAway, admit};
use quorate_core::membership::operators::Standing;
use quorate_core::membership::upgrade::Support;
use quorate_transport::{
    Answer, Caller, CertRole, Clock, Down, Feed, Gate, Handler, Hello, IncomingSnapshot, JoinRefused, JoinReply,
    JoinRequest, Lane, PROTOCOL_MAX, PROTOCOL_MIN, Plane, Refused, Session, api,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::facts::Facts;
use super::fence::{Fencing, Incarnations};
use super::ground::Tasks;
use super::service::{Service, until};
use super::tasks::Call;
use super::{authorize, sessions, snapshots, trace};
use crate::client::SOFTWARE;
use crate::metrics::Ended;

/// The node's word on connections.
pub(super) struct NodeGate {
    pub(super) facts: Facts,
    pub(super) records: watch::Receiver<Arc<Records>>,
    pub(super) incarnations: Arc<Incarnations>,
    /// Those who have called and are not known here yet.
    pub(super) strangers: Arc<Mutex<Strangers>>,
    /// What operators' times are judged by.
    pub(super) clock: Clock,
}

impl NodeGate {
    /// The lineage in force.
    fn lineage(&self) -> Lineage {
        let lineage = self.records.borrow().lineage();
        if lineage.generation() == 0 { self.facts.lineage_list() } else { lineage }
    }

    fn admit_peer(&self, records: &Records, caller: &Caller, hello: &Hello) -> Result<(), Refused> {
        let calling = Calling {
            node: caller.node_id,
            key_digest: caller.key_digest,
            raft_id: hello.raft_id,
            store_id: hello.store_id,
            enrolled: caller.enrolled,
            support: hello.support,
        };
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        admit(records, &mut strangers, &calling).map_err(|turned_away| match turned_away {
            TurnedAway::NotAMember => Refused::NotAMember,
            TurnedAway::Removed => Refused::Removed,
            TurnedAway::Unfit(unfit) => Refused::ClusterVersion(unfit),
            TurnedAway::OtherKey => Refused::WrongNode("its key is not the one that it joined with".into()),
            TurnedAway::StoreReplaced => Refused::StoreReplaced,
        })
    }

    /// One that was issued a moment ago may not be known here yet: it is looked for when it asks for something.
    fn admit_operator(&self, records: &Records, caller: &Caller) -> Result<(), Refused> {
        let Some(record) = records.operators.get(caller.node_id) else { return Ok(()) };
        let now = self.clock.now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if record.standing(now) != Standing::Stands {
            return Err(Refused::Revoked);
        }
        if record.key_digest == caller.key_digest.as_slice() {
            return Ok(());
        }
        Err(Refused::WrongNode("its key is not the one that this operator was issued with".into()))
    }
}

impl Gate for NodeGate {
    fn admit(&self, plane: Plane, caller: &Caller, hello: &Hello) -> Result<(), Refused> {
        if self.incarnations.is_superseded() {
            return Err(Refused::Fenced);
        }
        if caller.role == CertRole::Manager && hello.cluster_id == self.facts.cluster() {
            let seen = caller.address.map(|address| address.to_string()).unwrap_or_default();
            let address = if hello.advertise.is_empty() { &seen } else { &hello.advertise };
            self.incarnations.note_fork(&self.lineage(), caller.node_id, &hello.lineage, address);
        }
        let records = self.records.borrow();
        match plane {
            Plane::Peer => self.admit_peer(&records, caller, hello),
            Plane::Client if caller.role == CertRole::Operator => self.admit_operator(&records, caller),
            Plane::Client => {
                let Some(record) = records.nodes.get(caller.node_id) else { return Err(Refused::NotAMember) };
                if record.compromised {
                    return Err(Refused::Removed);
                }
                if record.key_digest == caller.key_digest.as_slice() {
                    return Ok(());
                }
                Err(Refused::WrongNode("its key is not the one that it joined with".into()))
            }
            Plane::Join | Plane::Local => Ok(()),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            cluster_id: self.facts.cluster(),
            lineage: self.lineage(),
            node_id: self.facts.node(),
            raft_id: self.facts.raft(),
            store_id: Some(self.facts.store()),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            support: Support::THIS,
            software: SOFTWARE.to_owned(),
            advertise: self.facts.advertise.clone(),
            successions: self.records.borrow().recovery.successions.clone(),
        }
    }
}

/// Where everything goes that comes in.
pub(super) struct NodeHandler {
    pub(super) inbox: mpsc::Sender<Call>,
    /// Weak: the endpoint holds this handler, and the service holds the endpoint's peers.
    pub(super) service: Weak<Service>,
    /// One snapshot is received at a time, until it is installed or discarded.
    pub(super) staging_slot: Arc<Semaphore>,
    pub(super) runtime: Tasks,
    pub(super) fencing: Fencing,
}

impl NodeHandler {
    fn tell(&self, input: Input) {
        // Full: the message is lost, as on any network.
        let _ = self.inbox.try_send(Call::Input(input));
    }

    /// Ups and downs must not be lost.
    fn tell_surely(&self, input: Input) {
        let inbox = self.inbox.clone();
        match inbox.try_send(Call::Input(input)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(call)) => {
                self.runtime.spawn(async move {
                    let _ = inbox.send(call).await;
                });
            }
        }
    }
}

impl Handler for NodeHandler {
    fn message(&self, from: RaftId, _lane: Lane, body: Bytes) {
        self.tell(Input::Message { from, body });
    }

    fn peer_up(&self, peer: RaftId) {
        tracing::debug!(%peer, "connected");
        self.tell_surely(Input::PeerUp(peer));
    }

    fn peer_down(&self, peer: RaftId, reason: Down) {
        let name = self.service.upgrade().map_or_else(|| format!("raft id {peer}"), |service| service.name_of(peer));
        tracing::info!(peer = name, %reason, "not connected any more");
        self.tell_surely(Input::PeerDown(peer));
    }

    fn snapshot(&self, from: RaftId, incoming: IncomingSnapshot) {
        let Some(service) = self.service.upgrade() else { return };
        let Ok(store) = service.store() else { return };
        if service.status.borrow().low_space.is_some() {
            let _ = incoming.done.send(Err("there is too little disk space for it".into()));
            return;
        }
        let Ok(slot) = Arc::clone(&self.staging_slot).try_acquire_owned() else {
            let _ = incoming.done.send(Err("another snapshot is being received".into()));
            return;
        };
        self.runtime.spawn(snapshots::receive(from, incoming, store.staging, self.inbox.clone(), slot));
    }

    fn request(&self, caller: Caller, body: Bytes, mut reply: Answer) {
        let Some(service) = self.service.upgrade() else { return };
        self.runtime.spawn(async move {
            let response = match api::Request::decode(body) {
                Ok(request) => {
                    // A read may take long, and is nothing to anybody once its caller is gone.
                    let is_read = matches!(request.kind, Some(api::request::Kind::Read(_)));
                    let mut place = std::mem::take(reply.place());
                    let response = tokio::select! {
                        biased;
                        response = service.called(&caller, request, &mut place) => response,
                        () = reply.closed(), if is_read => return,
                    };
                    *reply.place() = place;
                    response
                }
                Err(error) => super::service::failure(
                    api::Code::Invalid,
                    format!("the request cannot be read: {error}. Nothing was done"),
                ),
            };
            let body = Bytes::from(response.encode_to_vec());
            if reply.fits(body.len()).await {
                reply.send(body);
            }
        });
    }

    fn join(&self, source: SocketAddr, request: JoinRequest, reply: oneshot::Sender<JoinReply>) {
        let Some(service) = self.service.upgrade() else { return };
        self.runtime.spawn(async move {
            // Without an answer the newcomer knows that nothing is known.
            if let Some(answer) = joined(&service, source, request).await {
                let _ = reply.send(answer);
            }
        });
    }

    fn session(&self, caller: Caller, session: Session) {
        let Some(service) = self.service.upgrade() else { return };
        let (span, began) = (trace::request(&service.facts.name, "session", "node"), Instant::now());
        self.runtime.spawn(async move {
            sessions::serve(service, caller, session).instrument(span.clone()).await;
            trace::answered(&span, Ended::Done, began.elapsed());
        });
    }

    fn feed(&self, caller: Caller, body: Bytes, feed: Feed) {
        let Some(service) = self.service.upgrade() else { return };
        self.runtime.spawn(async move {
            match api::Request::decode(body) {
                Ok(request) => {
                    let asker = match &request.kind {
                        Some(kind) => service.identify(&caller, kind, until(&request)).await,
                        // What is wrong with it is said there.
                        None => Ok(Asker::here(Who::Node(caller.node_id))),
                    };
                    service.feed(asker, request, feed).await;
                }
                Err(error) => {
                    let why = format!("the question cannot be read: {error}. Nothing was done");
                    let word = super::service::failure(api::Code::Invalid, why).encode_to_vec();
                    let _ = feed.sender.finish(word.into()).await;
                }
            }
        });
    }

    fn lineage_newer(&self, hello: &Hello) {
        if let Some(service) = self.service.upgrade() {
            self.fencing.shown(&service, hello, &self.runtime);
        }
    }
}

/// What a stranger, or a node whose certificate may have run out, is answered on the join plane.
async fn joined(service: &Service, source: SocketAddr, request: JoinRequest) -> Option<JoinReply> {
    let kind = match (request.renewal, request.standing) {
        (true, _) => "renewal",
        (false, true) => "standing",
        (false, false) => "join",
    };
    let (span, began) = (trace::request(&service.facts.name, kind, trace::NEWCOMER), Instant::now());
    let answer = service.join(source, request).instrument(span.clone()).await;
    let ended = match &answer {
        Some(JoinReply::Joined(_) | JoinReply::Standing(_)) => Ended::Done,
        Some(JoinReply::Refused(JoinRefused::NoLeader)) => Ended::Unavailable,
        Some(JoinReply::Refused(_)) => Ended::Refused,
        None => Ended::Unknown,
    };
    trace::answered(&span, ended, began.elapsed());
    answer
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// An operator, by certificate and record.
    Operator(NodeId),
    /// An operator that may only look.
    Reader(NodeId),
    /// On the manager's own machine: its local socket, or the embedder itself.
    Local,
    /// Another manager on the peer plane.
    Manager,
    /// A node's own certificate on the client plane.
    Node(NodeId),
}

impl Who {
    /// The word in the log, and between managers.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Operator(_) => "operator",
            Self::Reader(_) => "reader",
            Self::Local => "local",
            Self::Manager => "manager",
            Self::Node(_) => "node",
        }
    }
}

/// Who asks, and what, as the authorisation table sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(super) who: Who,
    /// Another manager was asked, and passes it on: it is not passed on again.
    pub(super) passed_on: bool,
    /// The word of the request, from the table.
    pub(super) of: &'static str,
}

/// Who asks, for the lines that say what was done on whose behalf.
impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.who {
            Who::Operator(id) | Who::Reader(id) | Who::Node(id) => write!(f, "{} {id}", self.who.word()),
            Who::Local if self.passed_on => f.write_str("the machine of another manager"),
            Who::Local => f.write_str("this machine"),
            Who::Manager => f.write_str("a manager"),
        }
    }
}

impl Asker {
    /// Asked here.
    pub(super) const fn here(who: Who) -> Self {
        Self { who, passed_on: false, of: "" }
    }

    /// As the leader is told who asked.
    pub(super) fn behalf(&self) -> api::Behalf {
        let id = match self.who {
            Who::Operator(id) | Who::Reader(id) | Who::Node(id) => Bytes::copy_from_slice(id.as_bytes()),
            Who::Local | Who::Manager => Bytes::new(),
        };
        api::Behalf { role: self.who.word().into(), id, of: self.of.into() }
    }

    /// Whom another manager speaks for; `None` for what makes no sense.
    pub(super) fn spoken_for(behalf: &api::Behalf) -> Option<Self> {
        let id = || NodeId::from_slice(&behalf.id);
        let who = match behalf.role.as_str() {
            "operator" => Who::Operator(id()?),
            "reader" => Who::Reader(id()?),
            "node" => Who::Node(id()?),
            "local" => Who::Local,
            _ => return None,
        };
        let of = authorize::KINDS.iter().find(|word| **word == behalf.of)?;
        Some(Self { who, passed_on: true, of })
    }

    /// The request as it is passed on to the leader.
    pub(super) fn pass_on(&self, kind: api::request::Kind, deadline_ms: u64) -> api::request::Kind {
        let request = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
        api::request::Kind::PassedOn(api::PassedOn { behalf: Some(self.behalf()), request })
    }
}
