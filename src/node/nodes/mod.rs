//! Requests about nodes: what there is, and what operators wish for.
//!
//! Owns the wishes: what is asked for is written into a node's record, in one transaction on the record as it was, and
//! refused at once when it can never be done. What follows from a wish is the leader's, which goes by the records and the
//! configuration. Every wish is applied once ([`super::once`]). Called by the service.

mod describe;
mod labels;
mod lookup;
mod program;
mod wished;

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{RaftRole, Status};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::membership::plan::{SeatPolicy, SeatView};
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::wish::{self, Outlook, Wish, WishRefused};
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_core::ports::StateRead;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Txn};
use quorate_transport::api::{self, request, response};
use tokio::time::Instant;

pub(super) use describe::{Met, Observed, info, is_manager, state};
pub(super) use lookup::find;

pub(super) use program::Shown;
use wished::{demoted, promoted, updated};

use super::barrier::Barrier;
use super::gate::{Asker, Who};
use super::once::{self, Wished, already_settled};
use super::records;
use super::router::{Failure, fail, refused_by};
use super::service::{Service, blocking, broken, display_name, document};
use super::{authorize, ca};
use crate::membership::{NodeInfo, NodeList, NodeOutcome, NodeState, Rule};

/// Longest time for which a manager is kept from being replaced: what takes longer is no maintenance.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What is to become of a record; `None` leaves it.
type Rewritten = Result<Option<NodeRecord>, Failure>;

fn refusal(refused: &WishRefused, name: impl Fn(RaftId) -> String) -> Failure {
    let rule = match refused {
        WishRefused::EvenMaxVoters(_) => Rule::EvenMaxVoters,
        WishRefused::LastVoter { .. } => Rule::LastVoter,
        WishRefused::EndsFaultTolerance { .. } => Rule::EndsFaultTolerance,
        WishRefused::QuorumAtRisk { .. } | WishRefused::MajorityWith { .. } => Rule::QuorumAtRisk,
    };
    refused_by(rule, refused.told(name))
}

impl Service {
    /// The record that `wanted` names, as this manager knows it.
    fn node_named(&self, wanted: &str) -> Result<NodeRecord, Failure> {
        find(self.records.borrow().nodes.iter(), wanted).cloned()
    }

    /// The raft id of the manager that `wanted` names.
    pub(super) fn manager_named(&self, wanted: &str) -> Result<RaftId, Failure> {
        let node = self.node_named(wanted)?;
        let name = display_name(&node);
        node.raft().ok_or_else(|| {
            fail(api::Code::NotFound, format!("{name} is no manager; `quorate status` lists them. Nothing was changed"))
        })
    }

    /// Every node, from what this manager has.
    pub(super) async fn node_list(&self) -> Result<NodeList, Failure> {
        let records = self.records.borrow().clone();
        let managers: Vec<RaftId> = records.nodes.members().filter_map(NodeRecord::raft).collect();
        let others: Vec<RaftId> = managers.into_iter().filter(|id| *id != self.facts.raft()).collect();
        let reports = self.reports(&others).await;
        let presence = self.workers.changes.presence().borrow().clone();
        let reader = self.store()?.reader;
        let revision = blocking(move || read::status(&*reader.view()).map_err(|error| broken(&error))).await?.revision;
        let status = self.status.borrow().clone();
        let judged = self.is_judged(status.leader, &reports);
        let recorded = |id: NodeId| presence.get(id).filter(|_| judged).and_then(LivenessRecord::state);
        let met = |id: RaftId| self.met(id, reports.contains_key(&id));
        let seats = self.seats(&status);
        let mut nodes: Vec<NodeInfo> = records
            .nodes
            .iter()
            .map(|node| {
                let observed = Observed {
                    configuration: &status.configuration,
                    leader: status.leader,
                    met: node.raft().map_or(Met::Silent, met),
                    presence: node.node_id().and_then(recorded),
                    outlook: self.outlook(seats.as_ref(), node),
                };
                info(node, &observed)
            })
            .collect();
        let last = |node: &NodeInfo| if node.raft_id == 0 { u64::MAX } else { node.raft_id };
        nodes.sort_by(|a, b| (last(a), &a.name).cmp(&(last(b), &b.name)));
        Ok(NodeList { nodes, answered_by: self.own_name(), revision: revision.0, age_ms: self.leaderless_ms() })
    }

    /// What the planner looks at, on the leader only.
    fn seats(&self, status: &Status) -> Option<(SeatView, SeatPolicy)> {
        let policy = self.seat_policy().ok().filter(|_| status.role == Some(RaftRole::Leader))?;
        Some((self.seat_view(status, &policy), policy))
    }

    fn outlook(&self, seats: Option<&(SeatView, SeatPolicy)>, node: &NodeRecord) -> Option<(Outlook, String)> {
        let (view, policy) = seats?;
        if !is_manager(node) && node.role != i32::from(Role::Manager) {
            return None;
        }
        let outlook = wish::outlook(view, policy, RaftId(node.raft_id));
        let mut words = outlook.text(|id| self.name_of(id));
        if outlook.waits_for_somebody() && (node.removing || node.role == i32::from(Role::Worker)) {
            words = format!("{words}; `quorate node promote {}` takes the wish back", display_name(node));
        } else if outlook == Outlook::Enrolling && !node.hindrance.is_empty() {
            words = format!("waits: {}", node.hindrance);
        } else if outlook == Outlook::Enrolling && self.presence_of(node.node_id()?) == Some(Presence::Down) {
            let name = display_name(node);
            words = format!("waits: {name} is down; start it, or take the wish back with `quorate node demote {name}`");
        }
        Some((outlook, words))
    }

    /// One node, as the leader knows it.
    pub(super) async fn node_inspect(
        &self,
        asker: &Asker,
        wanted: &str,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let wanted = match asker.who {
            Who::Node(own) => self.itself(asker, own, wanted)?,
            Who::Operator(_) | Who::Reader(_) | Who::Manager | Who::Local => wanted.to_owned(),
        };
        let kind = request::Kind::NodeInspect(api::NodeInspect { node: wanted.clone() });
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let node = self.node_named(&wanted)?;
        document(&self.outcome(node.node_id().unwrap_or_default(), false).await?)
    }

    /// The id of the node that asks, if it is itself that it names: it may look at nobody else, and is not told who there is.
    fn itself(&self, asker: &Asker, own: NodeId, wanted: &str) -> Result<String, Failure> {
        let id = own.to_string();
        if wanted == id || self.node_named(wanted).is_ok_and(|node| node.node_id() == Some(own)) {
            return Ok(id);
        }
        Err(authorize::denied(asker, &request::Kind::NodeList(api::NodeList {})))
    }

    /// The node as it is now, with the seats around it.
    async fn outcome(&self, id: NodeId, changed: bool) -> Result<NodeOutcome, Failure> {
        let reader = self.store()?.reader;
        let record = blocking(move || read::node(&*reader.view(), id).map_err(|error| broken(&error))).await?;
        let status = self.status.borrow().clone();
        let seats = (status.configuration.voters.len(), status.configuration.learners.len());
        let gone = || fail(api::Code::NotFound, format!("there is no node {id} any more"));
        let record = record.ok_or_else(gone)?;
        let observed = Observed {
            configuration: &status.configuration,
            leader: status.leader,
            met: self.meet(&record).await,
            presence: self.presence_of(id),
            outlook: self.outlook(self.seats(&status).as_ref(), &record),
        };
        let node = info(&record, &observed);
        let (voters, standbys) = seats;
        Ok(NodeOutcome { node, changed, voters_before: voters, voters, standbys, ..NodeOutcome::default() })
    }

    /// What comes of asking a manager now.
    async fn meet(&self, node: &NodeRecord) -> Met {
        match node.raft() {
            Some(id) if id == self.facts.raft() => Met::Answers,
            Some(id) => self.met(id, self.reports(&[id]).await.contains_key(&id)),
            None => Met::Silent,
        }
    }

    fn met(&self, id: RaftId, answers: bool) -> Met {
        if answers || id == self.facts.raft() {
            Met::Answers
        } else if self.peers.is_locked(id) {
            Met::Locked
        } else if self.leaving().is_some() {
            Met::Unheard
        } else {
            Met::Silent
        }
    }

    /// What `change` makes of the record that is named, as it is now.
    async fn rewritten(
        &self,
        node: &NodeRecord,
        change: impl Fn(&NodeRecord) -> Rewritten,
    ) -> Result<Option<Txn>, Failure> {
        let id = node.node_id().unwrap_or_default();
        let (reader, key) = (self.store()?.reader, NodeRecord::key(id));
        let current = key.clone();
        let found = blocking(move || records::value(&*reader.view(), current).map_err(|error| broken(&error))).await?;
        let Some((bytes, revision)) = found else {
            return Err(fail(api::Code::NotFound, format!("there is no node {id} any more. Nothing was changed")));
        };
        let record = NodeRecord::decode(bytes)
            .map_err(|error| fail(api::Code::Internal, format!("the record of node {id} cannot be read: {error}")))?;
        let Some(updated) = change(&record)?.filter(|updated| *updated != record) else { return Ok(None) };
        let compares = vec![Compare::mod_revision(key.clone(), revision)];
        Ok(Some(Txn { compares, ..once::write(key, updated.to_bytes(), true) }))
    }

    /// Writes what was planned for the node that is named. Answers which node it is, and whether anything was written.
    async fn settle(
        &self,
        asker: &Asker,
        wanted: &str,
        id: Option<api::Once>,
        planned: Result<Option<Txn>, Failure>,
        until: Instant,
    ) -> Result<(NodeId, bool), Failure> {
        let wished = self.once(asker, id, planned, until).await?;
        self.settled(&wished, wanted)
    }

    fn settled(&self, wished: &Wished, wanted: &str) -> Result<(NodeId, bool), Failure> {
        // A copy of the wish is answered with the node that was meant when the first one came.
        let written = wished.written().and_then(|record| NodeId::from_slice(&Section::Node.strip(&record.key)?));
        let node = match written {
            Some(id) => id,
            None => self.node_named(wanted).map_err(already_settled)?.node_id().unwrap_or_default(),
        };
        Ok((node, wished.is_done()))
    }

    /// Refuses what can never be done with a manager's seat.
    fn check_wish(&self, node: &NodeRecord, wish: Wish) -> Result<(), Failure> {
        let Some(target) = node.raft() else { return Ok(()) };
        let policy = self.seat_policy()?;
        let view = self.seat_view(&self.status.borrow().clone(), &policy);
        // People know a manager by its name.
        wish::check(&view, &policy, target, wish).map_err(|refused| refusal(&refused, |id| self.name_of(id)))
    }

    /// What the cluster bears less once this wish about a node is fulfilled.
    fn warnings(&self, node: &NodeRecord, wish: Wish) -> Result<Vec<String>, Failure> {
        let Some(target) = node.raft() else { return Ok(Vec::new()) };
        let policy = self.seat_policy()?;
        let view = self.seat_view(&self.status.borrow().clone(), &policy);
        Ok(wish::weakens(&view, &policy, target, wish).iter().map(ToString::to_string).collect())
    }

    /// Refuses a number of voters that may not be.
    pub(super) fn check_max_voters(&self, max: u32) -> Result<(), Failure> {
        let status = self.status.borrow().clone();
        let policy = self.seat_policy()?;
        wish::check(&self.seat_view(&status, &policy), &policy, status.id, Wish::MaxVoters(max))
            .map_err(|refused| refusal(&refused, |id| self.name_of(id)))
    }

    /// Promotes or demotes.
    pub(super) async fn node_role(
        &self,
        asker: &Asker,
        wanted: api::NodeRole,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let role = records::role_named(&wanted.role)?;
        if let Some(answered) = self.by_the_leader(asker, &request::Kind::NodeRole(wanted.clone()), until).await? {
            return Ok(answered);
        }
        let api::NodeRole { node, forced, once, .. } = wanted;
        let mut warnings = Vec::new();
        let planned = async {
            let record = self.node_named(&node)?;
            if role == Role::Worker {
                warnings = self.warnings(&record, Wish::Demote { forced })?;
            }
            self.rewritten(&record, |record| match role {
                Role::Manager => promoted(record),
                Role::Worker => {
                    self.refuse_between_seats(record, forced)?;
                    let updated = demoted(record, forced)?;
                    if updated.as_ref().is_some_and(|updated| updated != record) {
                        self.check_wish(record, Wish::Demote { forced })?;
                    }
                    Ok(updated)
                }
            })
            .await
        };
        let (id, changed) = self.settle(asker, &node, once, planned.await, until).await?;
        if changed {
            tracing::info!(by = %asker, node, role = role.name(), forced, "a node's desired role was changed");
        }
        let outcome = self.outcome(id, changed).await.map_err(already_settled)?;
        document(&NodeOutcome { warnings, ..outcome })
    }

    /// Changes what people say about a node.
    pub(super) async fn node_update(
        &self,
        asker: &Asker,
        update: api::NodeUpdate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let planned = async {
            let record = self.node_named(&update.node)?;
            self.rewritten(&record, |record| updated(record, &update)).await
        };
        let planned = planned.await;
        let (id, changed) = self.settle(asker, &update.node, update.once, planned, until).await?;
        if changed {
            tracing::info!(by = %asker, node = update.node, "what is said of a node was changed");
            // It was applied where the leader is: the answer shows it, too.
            self.router.read_index(until).await.map_err(already_settled)?;
        }
        document(&self.outcome(id, changed).await.map_err(already_settled)?)
    }

    /// The node that asks, or whose own socket is asked, leaves.
    pub(super) async fn node_leave(
        &self,
        asker: &Asker,
        leave: api::NodeLeave,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let Who::Node(own) = asker.who else {
            return Err(fail(
                api::Code::Denied,
                "a node leaves by itself: ask on its own machine, with --data-dir. Others are taken off with `quorate node rm`",
            ));
        };
        // Passed on as it is: to the leader, too, it is the node itself that leaves.
        let kind = request::Kind::NodeLeave(leave.clone());
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let api::NodeLeave { forced, once } = leave;
        self.remove(asker, api::NodeRemove { node: own.to_string(), forced, once, compromised: None }, true, until)
            .await
    }

    /// Removes a node, or rather wishes for it.
    pub(super) async fn node_remove(
        &self,
        asker: &Asker,
        wanted: api::NodeRemove,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        if let Some(answered) = self.by_the_leader(asker, &request::Kind::NodeRemove(wanted.clone()), until).await? {
            return Ok(answered);
        }
        self.remove(asker, wanted, false, until).await
    }

    /// On the leader. `leaving`: by the node's own wish.
    async fn remove(
        &self,
        asker: &Asker,
        wanted: api::NodeRemove,
        leaving: bool,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let api::NodeRemove { node, forced, once, compromised } = wanted;
        // What somebody else may be is not kept because it is there.
        let forced = forced || compromised.is_some();
        let mut warnings = Vec::new();
        let planned = async {
            let record = self.node_named(&node)?;
            warnings = self.warnings(&record, Wish::Remove { forced })?;
            if !(forced || leaving || record.removing || record.lost) {
                self.refuse_what_is_there(&record).await?;
            }
            self.rewritten(&record, |record| {
                self.refuse_between_seats(record, forced)?;
                let updated = NodeRecord {
                    removing: true,
                    forced: record.forced || forced,
                    compromised: record.compromised || compromised.is_some(),
                    ..record.clone()
                };
                if updated != *record && !record.lost {
                    let wish = if updated.compromised { Wish::CutOff } else { Wish::Remove { forced } };
                    self.check_wish(record, wish)?;
                }
                Ok(Some(updated))
            })
            .await
        };
        let wished = match (planned.await, compromised) {
            (Ok(Some(removal)), Some(asked)) => self.thrown_out(asker, once, removal, asked, until).await?,
            (planned, _) => self.once(asker, once, planned, until).await?,
        };
        let (id, changed) = self.settled(&wished, &node)?;
        if changed {
            tracing::info!(by = %asker, node, forced, leaving, "a node is being removed");
        }
        match self.outcome(id, changed).await {
            // What was wished for is done already.
            Err(error) if changed && matches!(error.code(), api::Code::NotFound) => {
                let node = NodeInfo { id: id.to_string(), name: node, ..NodeInfo::default() };
                document(&NodeOutcome { node, changed, done: true, warnings, ..NodeOutcome::default() })
            }
            outcome => document(&NodeOutcome { warnings, ..outcome.map_err(already_settled)? }),
        }
    }

    /// The removal of a node that somebody else may be, with the replacement of what it knew: all of it or nothing. Its copies of
    /// the barrier's keys go in the same command, by its record, and the active key is due to be replaced.
    async fn thrown_out(
        &self,
        asker: &Asker,
        id: Option<api::Once>,
        removal: Txn,
        asked: api::Compromised,
        until: Instant,
    ) -> Result<Wished, Failure> {
        let begin = self.begin_rotation(asked.deadline_s);
        let plan = move |view: &dyn StateRead, barrier: &Barrier| {
            begin.check()?;
            // Whoever is to be kept out is, however many rotations are under way.
            let (rotation, mut txn) = (ca::rotation_in_any_case(view, barrier, begin)?, removal.clone());
            txn.compares.extend(rotation.compares);
            txn.then.extend(rotation.then);
            txn.then.extend(Self::all_replaced(view, barrier, &asked)?);
            Ok(Some(txn))
        };
        self.once_planned(asker, id, Arc::new(plan), until).await
    }

    /// Whose fresh store has not taken the seat of the old one yet would leave a voter behind that no node stands for.
    fn refuse_between_seats(&self, node: &NodeRecord, forced: bool) -> Result<(), Failure> {
        if forced || !self.status.borrow().configuration.is_voter(RaftId(node.replaces)) {
            return Ok(());
        }
        let name = display_name(node);
        Err(fail(
            api::Code::Refused,
            format!(
                "{name} has not taken the seat of its old store yet: start it, and ask again once `quorate status` shows it as a voter; or ask again with --force, and the seat stays empty until another manager joins. Nothing was changed"
            ),
        ))
    }

    /// As in Swarm, only who is known to be down is removed without force.
    async fn refuse_what_is_there(&self, node: &NodeRecord) -> Result<(), Failure> {
        let presence = self.presence_of(node.node_id().unwrap_or_default());
        let (name, state) = (display_name(node), state(node, self.meet(node).await, presence));
        if matches!(state, NodeState::Down | NodeState::Locked | NodeState::Lost) {
            return Ok(());
        }
        let found = if state == NodeState::Ready { "is ready" } else { "is not known to be down" };
        let gently = if is_manager(node) {
            format!("demote it (`quorate node demote {name}`) and stop it")
        } else {
            "stop it there".to_owned()
        };
        // The same word waives both.
        let besides = match self.check_wish(node, Wish::Remove { forced: false }) {
            Err(refused) => {
                format!(" (which would also waive this: {})", refused.message.trim_end_matches(". Nothing was changed"))
            }
            Ok(()) => String::new(),
        };
        Err(refused_by(
            Rule::NodeReady,
            format!(
                "{name} {found}: {gently}, or let it go by itself (`quorate leave` on its machine), or ask again with --force{besides}. Nothing was changed"
            ),
        ))
    }
}
