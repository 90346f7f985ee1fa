//! Requests about nodes: what there is, and what operators wish for.
//!
//! Owns the wishes: what is asked for is written into a node's record, in one transaction on the record as it was, and
//! refused at once when it can never be done. What follows from a wish is the leader's, which goes by the records and the
//! configuration. Every request may be made twice. Called by the service.

mod describe;
mod labels;
mod lookup;

use std::time::Duration;

use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::{Origin, RaftRole, Status};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::plan::{SeatPolicy, SeatView};
use quorate_core::membership::record::{Availability, NodeRecord, Role};
use quorate_core::membership::wish::{self, Outlook, Wish, WishRefused};
use quorate_core::membership::work::LivenessRecord;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Put, Txn};
use quorate_transport::api::{self, request, response};
use tokio::time::Instant;

pub(super) use describe::{Observed, info, is_manager, state};
pub(super) use lookup::find;

use super::gate::Asker;
use super::records;
use super::router::{Failure, fail, refused_by};
use super::service::{Service, blocking, broken, display_name, document};
use crate::membership::{NodeInfo, NodeList, NodeOutcome, NodeState, Rule};

/// Attempts when somebody else changes the same record.
const ATTEMPTS: usize = 16;
/// Longest time for which a manager is kept from being replaced: what takes longer is no maintenance.
const HOLD_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What is to become of a record; `None` leaves it.
type Rewritten = Result<Option<NodeRecord>, Failure>;

fn refusal(refused: &WishRefused) -> Failure {
    let rule = match refused {
        WishRefused::EvenMaxVoters(_) => Rule::EvenMaxVoters,
        WishRefused::LastVoter { .. } => Rule::LastVoter,
        WishRefused::EndsFaultTolerance { .. } => Rule::EndsFaultTolerance,
        WishRefused::QuorumAtRisk { .. } => Rule::QuorumAtRisk,
    };
    refused_by(rule, refused.to_string())
}

fn refuse_unwishable(node: &NodeRecord) -> Result<(), Failure> {
    let name = display_name(node);
    if node.lost {
        return Err(refused_by(
            Rule::NodeLost,
            format!(
                "{name} was left behind by a force-new-cluster and is no member any more; `quorate node rm {name}` takes it off the list, and the node itself comes back by `quorate join --replace --token T`. Nothing was changed"
            ),
        ));
    }
    if node.removing {
        return Err(refused_by(
            Rule::BeingRemoved,
            format!(
                "{name} is being removed, and that is not taken back; once it is gone it may join again. Nothing was changed"
            ),
        ));
    }
    Ok(())
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
        let reachable = |id: RaftId| id == self.facts.raft() || reports.contains_key(&id);
        let seats = self.seats(&status);
        let mut nodes: Vec<NodeInfo> = records
            .nodes
            .iter()
            .map(|node| {
                let observed = Observed {
                    configuration: &status.configuration,
                    leader: status.leader,
                    reachable: node.raft().is_some_and(reachable),
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
        if outlook == Outlook::Enrolling && !node.hindrance.is_empty() {
            words = format!("waits: {}", node.hindrance);
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
        // A node may look at itself and at nobody else.
        let wanted = if let Asker::Node(own) = asker { own.to_string() } else { wanted.to_owned() };
        let kind = request::Kind::NodeInspect(api::NodeInspect { node: wanted.clone() });
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let node = self.node_named(&wanted)?;
        document(&self.outcome(node.node_id().unwrap_or_default(), false).await?)
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
            reachable: self.is_reachable(&record).await,
            presence: self.presence_of(id),
            outlook: self.outlook(self.seats(&status).as_ref(), &record),
        };
        let node = info(&record, &observed);
        Ok(NodeOutcome { node, changed, done: false, voters_before: seats.0, voters: seats.0, standbys: seats.1 })
    }

    /// Whether a manager answers now.
    async fn is_reachable(&self, node: &NodeRecord) -> bool {
        match node.raft() {
            Some(id) if id == self.facts.raft() => true,
            Some(id) => self.reports(&[id]).await.contains_key(&id),
            None => false,
        }
    }

    /// Lets `change` say what the record becomes, and writes that unless somebody was faster: then again. Answers whether
    /// anything was written.
    async fn rewrite(
        &self,
        id: NodeId,
        until: Instant,
        change: impl Fn(&NodeRecord) -> Rewritten,
    ) -> Result<bool, Failure> {
        for _ in 0..ATTEMPTS {
            let (reader, key) = (self.store()?.reader, NodeRecord::key(id));
            let current = key.clone();
            let found =
                blocking(move || records::value(&*reader.view(), current).map_err(|error| broken(&error))).await?;
            let Some((bytes, revision)) = found else {
                return Err(fail(api::Code::NotFound, format!("there is no node {id} any more. Nothing was changed")));
            };
            let record = NodeRecord::decode(bytes).map_err(|error| {
                fail(api::Code::Internal, format!("the record of node {id} cannot be read: {error}"))
            })?;
            let Some(updated) = change(&record)?.filter(|updated| *updated != record) else { return Ok(false) };
            let txn = Txn {
                compares: vec![Compare::mod_revision(key.clone(), revision)],
                then: vec![Put { key, value: updated.to_bytes(), ..Put::default() }.into()],
                ..Txn::default()
            };
            let done = self.router.execute(Command::from(CommandKind::System(txn)), Origin::Here, until).await?;
            if done.succeeded {
                return Ok(true);
            }
            self.router.read_index(until).await?;
        }
        Err(fail(
            api::Code::Overloaded,
            "too many changes of this node at the same time. Nothing was changed; try again",
        ))
    }

    /// Refuses what can never be done with a manager's seat.
    fn check_wish(&self, node: &NodeRecord, wish: Wish) -> Result<(), Failure> {
        let Some(target) = node.raft() else { return Ok(()) };
        let policy = self.seat_policy()?;
        let view = self.seat_view(&self.status.borrow().clone(), &policy);
        wish::check(&view, &policy, target, wish).map_err(|refused| refusal(&refused))
    }

    /// Refuses a number of voters that may not be.
    pub(super) fn check_max_voters(&self, max: u32) -> Result<(), Failure> {
        let status = self.status.borrow().clone();
        let policy = self.seat_policy()?;
        wish::check(&self.seat_view(&status, &policy), &policy, status.id, Wish::MaxVoters(max))
            .map_err(|refused| refusal(&refused))
    }

    /// Promotes or demotes.
    pub(super) async fn node_role(
        &self,
        asker: &Asker,
        wanted: api::NodeRole,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let role = records::role_named(&wanted.role)?;
        let forced = wanted.forced;
        let kind = request::Kind::NodeRole(wanted.clone());
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let node = self.node_named(&wanted.node)?;
        let id = node.node_id().unwrap_or_default();
        let changed = self
            .rewrite(id, until, |node| match role {
                Role::Manager => promoted(node),
                Role::Worker => {
                    let updated = demoted(node, forced)?;
                    if updated.as_ref().is_some_and(|updated| updated != node) {
                        self.check_wish(node, Wish::Demote { forced })?;
                    }
                    Ok(updated)
                }
            })
            .await?;
        if changed {
            tracing::info!(node = display_name(&node), role = role.name(), forced, "a node's desired role was changed");
        }
        document(&self.outcome(id, changed).await?)
    }

    /// Changes what people say about a node.
    pub(super) async fn node_update(&self, update: api::NodeUpdate, until: Instant) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let id = self.node_named(&update.node)?.node_id().unwrap_or_default();
        let changed = self.rewrite(id, until, |node| updated(node, &update)).await?;
        if changed {
            // It was applied where the leader is: the answer shows it, too.
            self.router.read_index(until).await?;
        }
        document(&self.outcome(id, changed).await?)
    }

    /// The node that asks, or whose own socket is asked, leaves.
    pub(super) async fn node_leave(
        &self,
        asker: &Asker,
        forced: bool,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let Asker::Node(own) = asker else {
            return Err(fail(
                api::Code::Denied,
                "a node leaves by itself: ask on its own machine, with --data-dir. Others are taken off with `quorate node rm`",
            ));
        };
        self.node_remove(asker, api::NodeRemove { node: own.to_string(), forced, leaving: true }, until).await
    }

    /// Removes a node, or rather wishes for it.
    pub(super) async fn node_remove(
        &self,
        asker: &Asker,
        wanted: api::NodeRemove,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = request::Kind::NodeRemove(wanted.clone());
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let node = self.node_named(&wanted.node)?;
        let id = node.node_id().unwrap_or_default();
        if !(wanted.forced || wanted.leaving || node.removing || node.lost) {
            self.refuse_what_is_there(&node).await?;
        }
        let forced = wanted.forced;
        let changed = self
            .rewrite(id, until, |node| {
                let updated = NodeRecord { removing: true, forced: node.forced || forced, ..node.clone() };
                if updated != *node && !node.lost {
                    self.check_wish(node, Wish::Remove { forced })?;
                }
                Ok(Some(updated))
            })
            .await?;
        if changed {
            tracing::info!(node = display_name(&node), forced, leaving = wanted.leaving, "a node is being removed");
        }
        document(&self.outcome(id, changed).await?)
    }

    /// As in Swarm, only who is known to be down is removed without force.
    async fn refuse_what_is_there(&self, node: &NodeRecord) -> Result<(), Failure> {
        let presence = self.presence_of(node.node_id().unwrap_or_default());
        let (name, state) = (display_name(node), state(node, self.is_reachable(node).await, presence));
        if matches!(state, NodeState::Down | NodeState::Lost) {
            return Ok(());
        }
        let found = if state == NodeState::Ready { "is ready" } else { "is not known to be down" };
        let gently = if is_manager(node) {
            format!("demote it (`quorate node demote {name}`) and stop it")
        } else {
            "stop it there".to_owned()
        };
        Err(refused_by(
            Rule::NodeReady,
            format!(
                "{name} {found}: {gently}, or let it go by itself (`quorate leave` on its machine), or ask again with --force. Nothing was changed"
            ),
        ))
    }
}

fn promoted(node: &NodeRecord) -> Rewritten {
    refuse_unwishable(node)?;
    // By a person: it is not taken back by itself, whatever it was promoted for at first.
    Ok(Some(NodeRecord { role: Role::Manager.into(), forced: false, stands_in: false, ..node.clone() }))
}

fn demoted(node: &NodeRecord, forced: bool) -> Rewritten {
    refuse_unwishable(node)?;
    let is_worker = node.role == i32::from(Role::Worker);
    if is_worker && node.raft_id == 0 {
        return Ok(None);
    }
    let forced = forced || (is_worker && node.forced);
    let hindrance = String::new();
    Ok(Some(NodeRecord { role: Role::Worker.into(), forced, stands_in: false, hindrance, ..node.clone() }))
}

fn updated(node: &NodeRecord, update: &api::NodeUpdate) -> Rewritten {
    refuse_unwishable(node)?;
    let mut updated = node.clone();
    labels::apply(&mut updated, update)?;
    if !update.availability.is_empty() {
        let availability = Availability::from_name(&update.availability).ok_or_else(|| {
            let given: String = update.availability.chars().take(40).collect();
            fail(
                api::Code::Invalid,
                format!("there is no availability `{given}`; say active, pause or drain. Nothing was changed"),
            )
        })?;
        updated.availability = availability.into();
    }
    if let Some(hold_ms) = update.hold_ms {
        if u128::from(hold_ms) > HOLD_MAX.as_millis() {
            return Err(refused_by(
                Rule::TimesDoNotFit,
                format!(
                    "a replacement may be paused for 24 hours at most; who stays away longer is better removed (`quorate node rm {}`). Nothing was changed",
                    display_name(node)
                ),
            ));
        }
        if hold_ms > 0 && node.role != i32::from(Role::Manager) {
            return Err(refused_by(
                Rule::NotAManager,
                format!("{} is no manager: nobody would replace it. Nothing was changed", display_name(node)),
            ));
        }
        if hold_ms > 0 || node.hold_ms > 0 {
            updated.hold_ms = hold_ms;
            // The leader counts anew, also for the same time once more.
            updated.hold_serial += 1;
        }
    }
    Ok(Some(updated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> NodeRecord {
        NodeRecord { name: "n1".into(), role: Role::Manager.into(), raft_id: 1, ..NodeRecord::default() }
    }

    #[test]
    fn a_wish_that_holds_already_changes_nothing() {
        let worker = NodeRecord { role: Role::Worker.into(), raft_id: 0, ..manager() };
        assert_eq!(promoted(&manager()), Ok(Some(manager())));
        assert_eq!(demoted(&worker, true), Ok(None));
        // A demotion that is under way stays as forced as it was asked for.
        let leaving = NodeRecord { role: Role::Worker.into(), forced: true, ..manager() };
        assert_eq!(demoted(&leaving, false), Ok(Some(leaving.clone())));
        assert_eq!(promoted(&leaving).unwrap().unwrap(), manager(), "and may be taken back");
    }

    #[test]
    fn who_stands_in_for_somebody_and_is_promoted_by_a_person_stays() {
        let stand_in = NodeRecord { stands_in: true, ..manager() };
        assert_eq!(promoted(&stand_in), Ok(Some(manager())));
    }

    #[test]
    fn nothing_is_wished_for_a_node_that_goes_or_is_lost() {
        let removing = NodeRecord { removing: true, ..manager() };
        let lost = NodeRecord { lost: true, ..manager() };
        for (node, rule) in [(removing, "being_removed"), (lost, "node_lost")] {
            assert_eq!(promoted(&node).unwrap_err().rule, rule);
            assert_eq!(demoted(&node, true).unwrap_err().rule, rule);
            assert_eq!(updated(&node, &api::NodeUpdate::default()).unwrap_err().rule, rule);
        }
    }

    #[test]
    fn a_pause_of_the_replacement_is_counted_anew_each_time_it_is_asked_for() {
        let asked = |node: &NodeRecord, hold_ms: u64| {
            updated(node, &api::NodeUpdate { hold_ms: Some(hold_ms), ..api::NodeUpdate::default() })
        };
        let held = asked(&manager(), 60_000).unwrap().unwrap();
        assert_eq!((held.hold_ms, held.hold_serial), (60_000, 1));
        let again = asked(&held, 60_000).unwrap().unwrap();
        assert_eq!((again.hold_ms, again.hold_serial), (60_000, 2));
        let over = asked(&again, 0).unwrap().unwrap();
        assert_eq!((over.hold_ms, over.hold_serial), (0, 3));
        assert_eq!(asked(&over, 0), Ok(Some(over.clone())));
        assert_eq!(asked(&manager(), 25 * 3_600_000).unwrap_err().rule, "times_do_not_fit");
        let worker = NodeRecord { role: Role::Worker.into(), ..manager() };
        assert_eq!(asked(&worker, 1).unwrap_err().rule, "not_a_manager");
    }

    #[test]
    fn an_availability_is_one_of_three_words() {
        let asked = |word: &str| {
            updated(&manager(), &api::NodeUpdate { availability: word.into(), ..api::NodeUpdate::default() })
        };
        assert_eq!(asked("drain").unwrap().unwrap().availability, i32::from(Availability::Drain));
        assert_eq!(asked("").unwrap().unwrap().availability, i32::from(Availability::Active));
        assert!(asked("gone").unwrap_err().message.contains("active, pause or drain"));
    }
}
