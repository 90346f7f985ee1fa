//! Nodes as an operator sees them: what there is, and builders of wishes that are futures.
//!
//! Owns the waiting: a wish is recorded in one request, and then the leader is asked until it is fulfilled. Never decides
//! what follows from a wish. Called by embedders and the command line.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use quorate_transport::api::{self, request};
use tokio::time::Instant;

use super::Client;
use crate::config;
use crate::error::{Error, Result};
use crate::membership::{Availability, NodeInfo, NodeList, NodeOutcome, Role};

type Sent<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;
type Seen = Box<dyn FnMut(&NodeInfo) + Send>;

/// How long a node that leaves is asked about itself at most.
const LOOK_AT_ONESELF: Duration = Duration::from_millis(500);
/// Between two looks at a node whose wish is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// The nodes of the cluster. A node is named by its name, its node id or a unique beginning of it, or its raft id.
#[derive(Debug, Clone)]
pub struct Nodes {
    client: Client,
}

impl Nodes {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// Every node, as the manager that answers knows them; needs no quorum.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Unavailable` when no manager answers within the deadline.
    pub async fn list(&self) -> Result<NodeList> {
        self.client.document(request::Kind::NodeList(api::NodeList {})).await
    }

    /// One node, as the leader knows it: with what is done with it next.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `NotFound`; `Membership` when several nodes answer to the name.
    pub async fn inspect(&self, node: impl Into<String>) -> Result<NodeInfo> {
        self.look(&node.into()).await.map(|outcome| outcome.node)
    }

    /// `gone` with the seats as they are without that node, where the leader tells them.
    async fn without(&self, gone: NodeOutcome) -> NodeOutcome {
        let Ok(Some(leader)) = self.client.status().await.map(|status| status.leader) else { return gone };
        match self.look(&leader).await {
            Ok(leader) => NodeOutcome { voters: leader.voters, standbys: leader.standbys, ..gone },
            Err(_) => gone,
        }
    }

    /// The node that answers, by its id; none where it does not say at once.
    async fn asked(&self) -> Option<String> {
        let client = self.client.with_deadline(self.client.deadline.min(LOOK_AT_ONESELF));
        client.node_report().await.ok().map(|report| report.id)
    }

    async fn look(&self, node: &str) -> Result<NodeOutcome> {
        self.client.document(request::Kind::NodeInspect(api::NodeInspect { node: node.to_owned() })).await
    }

    /// Makes a node a manager. Always accepted; whether it gets a seat or stands by is said in the answer
    /// ([`NodeInfo::seat`], [`NodeInfo::outlook`]).
    pub fn promote(&self, node: impl Into<String>) -> NodeChange {
        NodeChange::new(self, Wish::Role(Role::Manager), node.into())
    }

    /// Makes a manager a worker, also one that is gone.
    ///
    /// Refused as `Membership` with `LastVoter`, `QuorumAtRisk` or `EndsFaultTolerance`; the last may be
    /// [`forced`](NodeChange::forced).
    pub fn demote(&self, node: impl Into<String>) -> NodeChange {
        NodeChange::new(self, Wish::Role(Role::Worker), node.into())
    }

    /// Takes a node out of the cluster for ever. A manager is demoted first. One that is not known to be down needs to be
    /// [`forced`](NodeChange::forced).
    pub fn remove(&self, node: impl Into<String>) -> NodeChange {
        NodeChange::new(self, Wish::Remove, node.into())
    }

    /// Takes a node out of the cluster that somebody else may have the keys of, whether it is there or not: no manager talks to it
    /// from then on, and that is not taken back. In the same write every join token is replaced, a manager loses its copies of
    /// the barrier's keys, of which the active one is then replaced, and a rotation of the CA begins ([`super::Ca::rotate`]),
    /// which ends at `deadline` at the latest. Never refused for rotations that are under way: where no further one fits into those,
    /// they end at `deadline` at the latest, and it begins then ([`CaInfo::another_follows`]).
    ///
    /// [`CaInfo::another_follows`]: crate::membership::CaInfo::another_follows
    pub fn remove_compromised(&self, node: impl Into<String>, deadline: Duration) -> NodeChange {
        NodeChange { compromised: Some(deadline), ..NodeChange::new(self, Wish::Remove, node.into()).forced() }
    }

    /// Takes the very node out of the cluster whose process, or local socket, this client talks to.
    ///
    /// Refused as `Denied` for a client that is connected over QUIC.
    pub fn leave(&self) -> NodeChange {
        NodeChange::new(self, Wish::Leave, String::new())
    }

    /// Changes what people say about a node: labels, availability, whether it is replaced.
    pub fn update(&self, node: impl Into<String>) -> NodeUpdate {
        NodeUpdate { client: self.client.clone(), update: api::NodeUpdate { node: node.into(), ..Default::default() } }
    }

    /// Hands leadership to a voter; answers the name of who leads then. See [`Client::transfer_leadership`].
    ///
    /// Cancel safe: dropped before the answer, it may have been handed over or not.
    ///
    /// # Errors
    /// As there.
    pub async fn transfer_leadership(&self, to: impl Into<String>) -> Result<String> {
        self.client.transfer_leadership(Some(&to.into())).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Role(Role),
    Remove,
    Leave,
}

impl Wish {
    fn request(self, node: String, forced: bool, once: Option<api::Once>) -> request::Kind {
        match self {
            Self::Role(role) => {
                request::Kind::NodeRole(api::NodeRole { node, role: role.word().to_owned(), forced, once })
            }
            Self::Remove => request::Kind::NodeRemove(api::NodeRemove { node, forced, once, compromised: None }),
            Self::Leave => request::Kind::NodeLeave(api::NodeLeave { forced, once }),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Role(Role::Manager) => "promotion",
            Self::Role(Role::Worker) => "demotion",
            Self::Remove | Self::Leave => "removal",
        }
    }
}

/// A wish about a node, on its way; await it until it is fulfilled.
///
/// A wish that is recorded stays, whether it is waited for or not, also when the future is dropped: whoever leads fulfils it as
/// soon as that can be done.
#[must_use = "nothing is sent until it is awaited"]
pub struct NodeChange {
    nodes: Nodes,
    wish: Wish,
    node: String,
    forced: bool,
    /// The deadline of the CA's rotation.
    compromised: Option<Duration>,
    within: Duration,
    detached: bool,
    seen: Option<Seen>,
}

impl std::fmt::Debug for NodeChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeChange")
            .field("wish", &self.wish)
            .field("node", &self.node)
            .field("forced", &self.forced)
            .finish_non_exhaustive()
    }
}

impl NodeChange {
    fn new(nodes: &Nodes, wish: Wish, node: String) -> Self {
        let within = config::CHANGE_PATIENCE;
        Self { nodes: nodes.clone(), wish, node, forced: false, compromised: None, within, detached: false, seen: None }
    }

    /// Also if it ends the cluster's fault tolerance, and for a removal also if the node is there. Nothing else is
    /// overridden by it.
    pub fn forced(mut self) -> Self {
        self.forced = true;
        self
    }

    /// Answer as soon as the wish is recorded.
    pub fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Wait at most so long. Default 2 minutes.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Calls `seen` with the node whenever it was looked at while it is waited for.
    pub fn watch(mut self, seen: impl FnMut(&NodeInfo) + Send + 'static) -> Self {
        self.seen = Some(Box::new(seen));
        self
    }

    async fn send(self) -> Result<NodeOutcome> {
        let (wish, node, forced) = (self.wish, self.node.clone(), self.forced);
        let compromised = match self.compromised {
            Some(deadline) => Some(api::Compromised {
                manager_secret: super::tokens::drawn()?,
                worker_secret: super::tokens::drawn()?,
                deadline_s: deadline.as_secs(),
            }),
            None => None,
        };
        let request = |once: Option<api::Once>| match &compromised {
            Some(_) => request::Kind::NodeRemove(api::NodeRemove {
                node: node.clone(),
                forced,
                once,
                compromised: compromised.clone(),
            }),
            None => wish.request(node.clone(), forced, once),
        };
        // Asked before: who removes itself answers soon no more.
        let asked = if wish == Wish::Remove && !self.detached { self.nodes.asked().await } else { None };
        let first: NodeOutcome = self.nodes.client.wished(request).await?;
        if self.detached || first.done {
            return Ok(first);
        }
        let oneself = wish == Wish::Leave || asked.is_some_and(|asked| asked == first.node.id);
        self.wait(first, oneself).await
    }

    /// Waits for a wish that was recorded with this answer, without sending it again: what was wished since counts.
    ///
    /// Cancel safe: the wish stays recorded.
    ///
    /// # Errors
    /// As awaiting it. `Unknown` when it is not fulfilled in time: it stays recorded.
    pub async fn follow(self, recorded: NodeOutcome) -> Result<NodeOutcome> {
        let oneself = self.wish == Wish::Leave;
        self.wait(recorded, oneself).await
    }

    /// Until nothing is left to do, as the leader sees it. `oneself`: it is the node that is asked that goes.
    async fn wait(mut self, first: NodeOutcome, oneself: bool) -> Result<NodeOutcome> {
        let until = Instant::now() + self.within;
        let id = first.node.id.clone();
        let mut last = first.clone();
        let client = self.nodes.client.clone();
        loop {
            if oneself && client.has_left() {
                return Ok(NodeOutcome { done: true, ..last });
            }
            if self.is_fulfilled(&last.node)? {
                return Ok(NodeOutcome { done: true, ..last });
            }
            if let Some(seen) = &mut self.seen {
                seen(&last.node);
            }
            if Instant::now() + LOOK >= until {
                return Err(self.given_up(&last));
            }
            tokio::time::sleep(LOOK).await;
            // Who has left gets no answers from the others any more, and stops: it is not asked for long.
            let most = if oneself { LOOK_AT_ONESELF } else { client.deadline };
            let left = until.saturating_duration_since(Instant::now());
            let nodes = Nodes::new(client.with_deadline(most.min(left).max(LOOK)));
            match nodes.look(&id).await {
                Ok(now) => {
                    let NodeOutcome { changed, voters_before, ref warnings, .. } = first;
                    last = NodeOutcome { changed, voters_before, warnings: warnings.clone(), ..now };
                }
                Err(Error::NotFound(_)) if matches!(self.wish, Wish::Remove | Wish::Leave) => {
                    return Ok(NodeOutcome { done: true, ..nodes.without(last).await });
                }
                Err(error) if error.is_retryable() => {}
                Err(Error::Denied(_)) if oneself => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_fulfilled(&self, node: &NodeInfo) -> Result<bool> {
        match self.wish {
            Wish::Role(role) if node.removing || node.desired_role != role => Err(Error::Refused(format!(
                "the {} of {} was overtaken: it is to be a {}{} now",
                self.wish.name(),
                node.name,
                node.desired_role.word(),
                if node.removing { " and is being removed" } else { "" }
            ))),
            Wish::Role(_) => Ok(node.settled),
            Wish::Remove | Wish::Leave if !node.removing => Err(Error::Refused(format!(
                "the removal of {} was taken back: it is to be a {} now",
                node.name,
                node.desired_role.word()
            ))),
            Wish::Remove | Wish::Leave => Ok(false),
        }
    }

    fn given_up(&self, last: &NodeOutcome) -> Error {
        let outlook = last.node.outlook.as_deref().unwrap_or("it has not been taken up yet");
        Error::Unknown(format!(
            "the {} of {} is recorded and not done after {} s; it goes on without anybody waiting. Now: {outlook}. See `quorate node inspect {}`",
            self.wish.name(),
            last.node.name,
            self.within.as_secs(),
            last.node.name
        ))
    }
}

impl IntoFuture for NodeChange {
    type Output = Result<NodeOutcome>;
    type IntoFuture = Sent<NodeOutcome>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Changes of what people say about a node, being put together; await it to send them.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct NodeUpdate {
    client: Client,
    update: api::NodeUpdate,
}

impl NodeUpdate {
    /// Sets a label. `quorate.manager=yes` lets a worker be promoted in place of a lost voter, `quorate.leader=preferred`
    /// makes a voter the preferred leader, `zone` says where a node stands; other keys that begin with `quorate.` are
    /// reserved.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.update.label_add.push(api::Label { key: key.into(), value: value.into() });
        self
    }

    /// Takes a label off.
    pub fn remove_label(mut self, key: impl Into<String>) -> Self {
        self.update.label_rm.push(key.into());
        self
    }

    /// Whether it takes new work. A drained manager may still lead.
    pub fn availability(mut self, availability: Availability) -> Self {
        availability.word().clone_into(&mut self.update.availability);
        self
    }

    /// A manager is not replaced for so long, however silent: for maintenance. Zero ends the pause.
    pub fn pause_replacement(mut self, pause: Duration) -> Self {
        self.update.hold_ms = Some(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl IntoFuture for NodeUpdate {
    type Output = Result<NodeOutcome>;
    type IntoFuture = Sent<NodeOutcome>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let wrap = |once| request::Kind::NodeUpdate(api::NodeUpdate { once, ..self.update.clone() });
            let outcome: NodeOutcome = self.client.wished(wrap).await?;
            Ok(NodeOutcome { done: true, ..outcome })
        })
    }
}
