//! The client: one type, in process or over QUIC.
//!
//! Owns request ids (`sending`), retries within the deadline (`asking`), and the choice of manager. Never decides an outcome: a write or a wish that
//! was not answered is sent again with the same request id, and the replay table makes it count once. Called by
//! embedders, the command line and the managers' own leadership tasks.

mod asking;
mod assignments;
#[cfg(feature = "manager")]
mod backup;
mod birth;
mod ca;
mod codec;
mod dials;
mod election;
#[cfg(feature = "worker")]
mod in_process;
mod keys;
mod kv;
mod leases;
mod lock;
mod mirror;
mod nodes;
mod objects;
#[cfg(test)]
#[cfg(feature = "manager")]
mod once_tests;
mod operators;
mod papers;
mod policy;
mod queue;
mod ranges;
mod recovered;
mod remote;
mod round;
mod scope;
mod sending;
mod sequence;
mod stream;
mod table;
mod tokens;
mod upgrade;
mod watching;
mod way;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{ClientId, Term};
use quorate_transport::{Network, api};

#[cfg(feature = "manager")]
pub(crate) use asking::changes_something;
pub use assignments::{AssignedItem, AssignmentApi, AssignmentOutcome, AssignmentTxn, ItemReport};
#[cfg(feature = "manager")]
pub use backup::{Backup, BackupBuilder};
pub use ca::Ca;
pub use codec::{Codec, CodecError, Json};
pub use election::{Election, Leader, Leading, Observer};
pub use keys::{KeysChanged, NodeKeys};
pub use kv::{Entry, Kv, TxnBuilder, TxnOutcome, WriteBuilder, compare, operation};
pub use leases::{Lease, LeaseInfo, LeaseKeeper, Leases};
pub use lock::{LockBuilder, LockGuard};
pub use mirror::{Mirror, MirrorBuilder};
pub use nodes::{NodeChange, NodeUpdate, Nodes};
pub use objects::{Configs, CreateObject, Keyring, ListObjects, Secrets, UpdateObject};
pub use operators::{NewOperator, OperatorBuilder, Operators};
pub use policy::{Policy, PolicyChange};
pub use queue::Place;
pub use quorate_transport::Identity;
pub use ranges::{GetBuilder, RangeBuilder, RangePage};
pub use recovered::Recovered;
pub use scope::ScopedClient;
pub use table::{
    ModifyBuilder, Row, RowBuilder, RowChange, RowChanges, RowWriteBuilder, Rows, RowsBuilder, RowsWatched, Table,
    TableMirror, TableMirrorBuilder, TableWatch, TableWatchBuilder,
};
pub use tokens::{TokenBuilder, Tokens};
pub use upgrade::Upgrade;
pub use watching::{Change, Changes, Watch, WatchBuilder, Watched};

use crate::check::ManagerCheck;
use crate::config;
use crate::error::{Error, Result};
use crate::status::{ClusterStatus, NodeReport};
#[cfg(feature = "worker")]
pub(crate) use in_process::NodeWay;
#[cfg(feature = "worker")]
pub(crate) use remote::REMOVED_MARK;
pub(crate) use remote::SOFTWARE;
use scope::Scope;
use sequence::Sequences;
pub(crate) use way::{Answered, CallError, Feeding, Unanswered, Way};
use way::{Fed, Reply};

struct Shared {
    way: Box<dyn Way>,
    sequences: Sequences,
}

/// A client of the cluster. Cheap to clone; all clones share one set of request ids.
///
/// Every request has a deadline (10 s unless set). Within it, an election is waited out; a lost quorum is told at once,
/// as [`Error::QuorumLost`], when every manager that the client knows says so or cannot be reached, and at least one says
/// so.
///
/// **Cancel safety**: the future of any request may be dropped at any time, also that of a builder. A read has then done nothing. A
/// write, a wish about a node, a token or the policy, a grant or a hand-over may have been done or not, and at most once; nothing
/// goes on sending it. Where dropping a future means more than that (a place in line, a lease), its documentation says so.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
    fence: Option<Term>,
    /// Where its user keys are.
    scope: Scope,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("deadline", &self.deadline).field("fence", &self.fence).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that was born with this index, 0 where it is not known yet.
    pub(crate) fn over(way: Box<dyn Way>, client: ClientId, born: u64) -> Self {
        let generation = way.generation().map_or(0, |generation| *generation.borrow());
        let shared = Shared { way, sequences: Sequences::new(client, born, generation) };
        Self { shared: Arc::new(shared), deadline: config::REQUEST_DEADLINE, fence: None, scope: Scope::default() }
    }

    /// Connects from outside, over QUIC, to whichever of the managers answers first.
    ///
    /// `managers` are `host:port`; the identity is what `init` wrote as `operator.id`. Works on any tokio runtime.
    ///
    /// Cancel safe: dropped half-way, it leaves no connection behind.
    ///
    /// # Errors
    /// `Unavailable` when no manager could be reached, naming each one and why; `Denied` when one refuses the identity.
    pub async fn connect<S: Into<String>>(managers: impl IntoIterator<Item = S>, identity: Identity) -> Result<Self> {
        Self::connect_within(managers, identity, config::REQUEST_DEADLINE).await
    }

    /// As [`connect`](Self::connect), with a deadline for connecting and for each request.
    ///
    /// Cancel safe: dropped half-way, it leaves no connection behind.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_within<S: Into<String>>(
        managers: impl IntoIterator<Item = S>,
        identity: Identity,
        deadline: Duration,
    ) -> Result<Self> {
        let managers = managers.into_iter().map(Into::into).collect();
        Self::connect_over(Network::default(), managers, identity, deadline).await
    }

    /// As [`connect_within`](Self::connect_within), over this network.
    pub(crate) async fn connect_over(
        network: Network,
        managers: Vec<String>,
        identity: Identity,
        deadline: Duration,
    ) -> Result<Self> {
        let way = remote::Remote::connect(managers, identity, deadline, network).await?;
        Ok(Self::born_over(Box::new(way)).await?.with_deadline(deadline))
    }

    /// Connects to the node that runs on `directory` of this machine, over its local socket. Needs no certificate.
    ///
    /// Cancel safe: dropped half-way, it leaves no connection behind.
    ///
    /// # Errors
    /// `Unavailable` when no node runs there; `Denied` when it belongs to another user.
    pub async fn local(directory: impl AsRef<std::path::Path>) -> Result<Self> {
        let way = remote::Local::connect(directory.as_ref()).await?;
        Self::born_over(Box::new(way)).await
    }

    /// The node behind this client has another role from now on, and has applied `born` (0 where it applies nothing): what was
    /// asked before was asked of others.
    #[cfg(feature = "worker")]
    pub(crate) fn renew(&self, born: u64) -> Result<()> {
        self.shared.sequences.renew(config::random_id(ClientId::from_bytes)?, born);
        Ok(())
    }

    /// What the node that is asked says of itself: which role it has, and with whom a worker has its session.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within the deadline.
    pub async fn node_report(&self) -> Result<NodeReport> {
        let kind = api::request::Kind::NodeReport(api::NodeReport {});
        let api::response::Kind::NodeReport(done) = self.ask(kind).await? else { return Err(unexpected()) };
        serde_json::from_slice(&done.json)
            .map_err(|error| Error::Internal(format!("the node's report cannot be read: {error}")))
    }

    /// Whether the node that this client belongs to was removed from its cluster, and has stopped.
    fn has_left(&self) -> bool {
        self.shared.way.has_left()
    }

    /// The same client with another deadline for each request.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client with a fencing token on every write: it is refused unless the log entry that carries it has
    /// this term.
    #[must_use]
    pub fn with_fence(&self, term: u64) -> Self {
        Self { fence: Some(Term(term)), ..self.clone() }
    }

    /// The key-value store.
    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    /// A typed table: every key that begins with `prefix` is a row of it. Its values are JSON, or what
    /// [another codec](Table::with_codec) makes of them.
    pub fn table<T>(&self, prefix: impl Into<Bytes>) -> Table<T> {
        Table::new(self.clone(), prefix.into())
    }

    /// A client of the keys below `prefix` only, which are named without it. A prefix usually ends with a slash: without one,
    /// `team-1` is also where the keys of `team-10` are.
    pub fn scoped(&self, prefix: impl AsRef<[u8]>) -> ScopedClient {
        ScopedClient::new(self, prefix.as_ref())
    }

    /// Leases: what keys live by as long as somebody renews it.
    pub fn leases(&self) -> Leases {
        Leases::new(self.clone())
    }

    /// A lock by its name: await it to hold it. Those who wait are keys that begin with the name and a slash; nothing else
    /// should be written there. Read [`LockGuard`] on what a lock is worth.
    pub fn lock(&self, name: impl Into<Bytes>) -> LockBuilder {
        LockBuilder::new(self.clone(), name.into())
    }

    /// An election by its name, among whoever campaigns; its candidates are keys as with [`lock`](Self::lock).
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election::new(self.clone(), name.into())
    }

    /// What nodes are to run, and how they say it goes.
    pub fn assignments(&self) -> AssignmentApi {
        AssignmentApi::new(self.clone())
    }

    /// The nodes: what there is, promotion, demotion, labels, removal.
    pub fn nodes(&self) -> Nodes {
        Nodes::new(self.clone())
    }

    /// The keys that open the store of the manager on this machine.
    pub fn node_keys(&self) -> NodeKeys {
        NodeKeys::new(self.clone())
    }

    /// Operators' identities: made, taken back, listed.
    pub fn operators(&self) -> Operators {
        Operators::new(self.clone())
    }

    /// The cluster's CA: its replacement, and how far that is.
    pub fn ca(&self) -> Ca {
        Ca::new(self.clone())
    }

    /// The identity that this client shows; none in process and over the local socket. An operator's certificate is renewed once
    /// it is half over: to keep the new one for the next program, write it where the old one was read ([`Identity::write`]).
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.shared.way.identity()
    }

    /// Join tokens.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.clone())
    }

    /// The settings of the whole cluster.
    pub fn policy(&self) -> Policy {
        Policy::new(self.clone())
    }

    /// A backup of the whole cluster, sealed: everything at one revision, from whichever manager answers. For operators.
    #[cfg(feature = "manager")]
    pub fn backup(&self, seal: &crate::backup::BackupSeal) -> BackupBuilder {
        BackupBuilder::new(self.clone(), seal.clone())
    }

    /// Configs: data that nodes get with the items that refer to it.
    pub fn configs(&self) -> Configs {
        Configs::new(self.clone())
    }

    /// Secrets: the same, sealed everywhere but at the node that needs it.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.clone())
    }

    /// The keys that secrets are sealed with in the log.
    pub fn keyring(&self) -> Keyring {
        Keyring::new(self.clone())
    }

    /// The rolling upgrade to a newer version.
    pub fn upgrade(&self) -> Upgrade {
        Upgrade::new(self.clone())
    }

    /// Asks for a documented JSON document.
    async fn document<T: serde::de::DeserializeOwned>(&self, kind: api::request::Kind) -> Result<T> {
        document(self.ask(kind).await?)
    }

    /// Sends a wish that is answered with a documented JSON document.
    async fn wished<T: serde::de::DeserializeOwned>(
        &self,
        wrap: impl Fn(Option<api::Once>) -> api::request::Kind,
    ) -> Result<T> {
        document(self.wish(wrap).await?)
    }

    /// The cluster as the manager that answers sees it; needs no quorum.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Unavailable` when no manager answers within the deadline.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let kind = api::request::Kind::Status(api::Status {});
        let api::response::Kind::Status(done) = self.ask(kind).await? else { return Err(unexpected()) };
        serde_json::from_slice(&done.json)
            .map_err(|error| Error::Internal(format!("the status answer cannot be read: {error}")))
    }

    /// What the manager that answers says of its machine, and of the ways to the other managers. For a node of this machine
    /// or process; from elsewhere [`look_at`](crate::check::look_at) asks one manager that is named, and looks at the way there.
    ///
    /// Cancel safe: it changes nothing that stays.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer within the deadline; `Denied` unless the identity is an operator's.
    pub async fn check(&self) -> Result<ManagerCheck> {
        self.document(api::request::Kind::Check(api::Check { paths: true, back: false })).await
    }

    /// The join token for `role` ("manager" or "worker").
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Denied` unless the identity is an operator's.
    pub async fn join_token(&self, role: &str) -> Result<String> {
        let kind = api::request::Kind::TokenShow(api::TokenShow { role: role.to_owned() });
        let api::response::Kind::Token(done) = self.ask(kind).await? else { return Err(unexpected()) };
        Ok(done.token)
    }

    /// Hands leadership to `to` (name, node id or raft id), or to the voter that is furthest. Answers the name of who
    /// leads then.
    ///
    /// Through a client that comes with a leadership (`Lead::client`) only that leadership is handed
    /// over: once it has ended, that is refused as `Fenced`.
    ///
    /// Cancel safe: dropped before the answer, it may have been handed over or not.
    ///
    /// # Errors
    /// `Refused` with the reason: no seat, not reachable, not taken over within one election timeout.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<String> {
        let term = self.fence.map_or(0, |term| term.0);
        let kind = api::request::Kind::Transfer(api::Transfer { to: to.unwrap_or_default().to_owned(), term });
        let api::response::Kind::Transfer(done) = self.ask(kind).await? else { return Err(unexpected()) };
        Ok(done.name)
    }
}

fn document<T: serde::de::DeserializeOwned>(answer: api::response::Kind) -> Result<T> {
    let api::response::Kind::Document(done) = answer else { return Err(unexpected()) };
    serde_json::from_slice(&done.json).map_err(|error| Error::Internal(format!("the answer cannot be read: {error}")))
}

/// A time to live as it is sent: 0 is for ever, and what is under a second is refused with these words.
fn whole_seconds(ttl: Option<Duration>, too_short: &str) -> Result<u64> {
    match ttl.map(|ttl| ttl.as_secs()) {
        None => Ok(0),
        Some(0) => Err(Error::Invalid(too_short.into())),
        Some(seconds) => Ok(seconds),
    }
}

fn unexpected() -> Error {
    Error::Internal("the manager answered something else than was asked".into())
}
