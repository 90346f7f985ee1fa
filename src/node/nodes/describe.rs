//! From a record, and what is seen of its node, to what people read.
//!
//! Owns desired against observed, and when a wish is fulfilled. Pure. Called by the requests about nodes, and by status.

use quorate_core::id::RaftId;
use quorate_core::log::Configuration;
use quorate_core::membership::record::{self, NodeRecord};
use quorate_core::membership::wish::Outlook;
use quorate_core::membership::work::Presence;

use crate::membership::{Availability, NodeInfo, NodeState, Role, Seat};
use crate::node::service::display_name;

/// What is seen of a node besides its record.
pub(in crate::node) struct Observed<'a> {
    pub(in crate::node) configuration: &'a Configuration,
    pub(in crate::node) leader: Option<RaftId>,
    /// What a manager answered just now.
    pub(in crate::node) met: Met,
    /// What is recorded of a worker.
    pub(in crate::node) presence: Option<Presence>,
    /// What the leader does with it next, and in words; only the leader knows.
    pub(in crate::node) outlook: Option<(Outlook, String)>,
}

/// What comes of asking a manager.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Met {
    Answers,
    /// It says that it waits for its key.
    Locked,
    Silent,
    /// It does not answer, and the manager that asked is one itself no more, or in a moment: the others talk to it no more.
    Unheard,
}

/// Whether a manager, or a node on its way to be none any more, is meant: it has a raft id.
pub(in crate::node) const fn is_manager(node: &NodeRecord) -> bool {
    node.raft_id != 0
}

pub(in crate::node) fn state(node: &NodeRecord, met: Met, presence: Option<Presence>) -> NodeState {
    if node.lost {
        return NodeState::Lost;
    }
    if is_manager(node) {
        return match met {
            Met::Answers => NodeState::Ready,
            Met::Locked => NodeState::Locked,
            Met::Silent => NodeState::Down,
            Met::Unheard => NodeState::Unknown,
        };
    }
    match presence {
        Some(Presence::Ready) => NodeState::Ready,
        Some(Presence::Down) => NodeState::Down,
        None => NodeState::Unknown,
    }
}

fn seat(node: &NodeRecord, configuration: &Configuration) -> Seat {
    match node.raft() {
        Some(id) if configuration.is_voter(id) => Seat::Voter,
        Some(id) if configuration.contains(id) => Seat::Standby,
        _ if node.role == i32::from(record::Role::Manager) && !node.lost => Seat::Joining,
        _ => Seat::None,
    }
}

/// Nothing is under way for it.
fn is_settled(node: &NodeRecord, observed: &Observed<'_>) -> bool {
    if node.removing {
        return false;
    }
    if node.role != i32::from(record::Role::Manager) || node.lost {
        return node.raft_id == 0 || node.lost;
    }
    match &observed.outlook {
        // A standby that waits for somebody else has got what it was promised.
        Some((outlook, _)) => matches!(outlook, Outlook::Voter | Outlook::OneMoreNeeded | Outlook::Full { .. }),
        None => node.raft().is_some_and(|id| observed.configuration.contains(id)),
    }
}

fn role(node: &NodeRecord) -> Role {
    if node.role == i32::from(record::Role::Manager) { Role::Manager } else { Role::Worker }
}

pub(in crate::node) fn info(node: &NodeRecord, observed: &Observed<'_>) -> NodeInfo {
    let settled = is_settled(node, observed);
    let member = node.raft().filter(|id| observed.configuration.contains(*id));
    NodeInfo {
        name: display_name(node),
        id: node.node_id().unwrap_or_default().to_string(),
        address: node.addresses.first().cloned().unwrap_or_default(),
        labels: node.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect(),
        availability: match record::Availability::try_from(node.availability) {
            Ok(record::Availability::Active) => Availability::Active,
            Ok(record::Availability::Pause) => Availability::Pause,
            Ok(record::Availability::Drain) => Availability::Drain,
            Err(_) => Availability::Unknown,
        },
        desired_role: role(node),
        observed_role: if member.is_some() { Role::Manager } else { Role::Worker },
        seat: seat(node, observed.configuration),
        leader: member.is_some() && observed.leader == member,
        state: state(node, observed.met, observed.presence),
        raft_id: node.raft_id,
        version: node.software.clone(),
        removing: node.removing,
        stands_in: node.stands_in,
        replacement_paused_ms: node.hold_ms,
        settled,
        outlook: observed.outlook.as_ref().map(|(_, words)| words.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: record::Role, raft_id: u64) -> NodeRecord {
        NodeRecord { role: role.into(), raft_id, ..NodeRecord::default() }
    }

    fn seen(node: &NodeRecord, outlook: Option<Outlook>) -> NodeInfo {
        let configuration = Configuration {
            voters: vec![RaftId(1), RaftId(2), RaftId(3)],
            learners: vec![RaftId(4)],
            ..Configuration::default()
        };
        let outlook = outlook.map(|outlook| (outlook.clone(), outlook.to_string()));
        let leader = Some(RaftId(2));
        info(node, &Observed { configuration: &configuration, leader, met: Met::Answers, presence: None, outlook })
    }

    #[test]
    fn what_a_node_is_follows_the_configuration_and_what_it_is_to_be_its_record() {
        let manager = |raft_id| node(record::Role::Manager, raft_id);
        let voter = seen(&manager(2), Some(Outlook::Voter));
        assert_eq!(
            (voter.seat, voter.observed_role, voter.leader, voter.settled),
            (Seat::Voter, Role::Manager, true, true)
        );
        let joined = seen(&manager(9), Some(Outlook::Joins));
        assert_eq!((joined.seat, joined.observed_role, joined.settled), (Seat::Joining, Role::Worker, false));
        let promoted = seen(&manager(0), Some(Outlook::Enrolling));
        assert_eq!((promoted.seat, promoted.state, promoted.settled), (Seat::Joining, NodeState::Unknown, false));
        // A demoted one is a manager until its seat is gone and its raft id is burnt.
        let demoted = seen(&node(record::Role::Worker, 3), Some(Outlook::InFlight));
        assert_eq!(
            (demoted.seat, demoted.desired_role, demoted.observed_role),
            (Seat::Voter, Role::Worker, Role::Manager)
        );
        assert!(!demoted.settled);
        let worker = seen(&node(record::Role::Worker, 0), None);
        assert_eq!((worker.seat, worker.observed_role, worker.settled), (Seat::None, Role::Worker, true));
    }

    #[test]
    fn a_standby_has_arrived_when_it_only_waits_for_others() {
        let standby = node(record::Role::Manager, 4);
        for (outlook, settled) in [
            (Outlook::OneMoreNeeded, true),
            (Outlook::Full { max: 5 }, true),
            (Outlook::CatchesUp, false),
            (Outlook::Unreachable, false),
            (Outlook::InFlight, false),
        ] {
            let shown = seen(&standby, Some(outlook.clone()));
            assert_eq!((shown.seat, shown.settled), (Seat::Standby, settled), "{outlook:?}");
            assert_eq!(shown.outlook, Some(outlook.to_string()));
        }
        let removing = NodeRecord { removing: true, ..standby };
        assert!(!seen(&removing, Some(Outlook::OneMoreNeeded)).settled);
    }

    #[test]
    fn a_state_is_what_is_seen_and_unknown_what_nobody_has_said() {
        let (manager, worker) = (node(record::Role::Manager, 4), node(record::Role::Worker, 0));
        let met = [Met::Answers, Met::Locked, Met::Silent, Met::Unheard].map(|met| state(&manager, met, None));
        assert_eq!(met, [NodeState::Ready, NodeState::Locked, NodeState::Down, NodeState::Unknown]);
        assert_eq!(state(&worker, Met::Silent, Some(Presence::Ready)), NodeState::Ready);
        assert_eq!(state(&worker, Met::Answers, Some(Presence::Down)), NodeState::Down);
        assert_eq!(state(&worker, Met::Answers, None), NodeState::Unknown);
        let lost = NodeRecord { lost: true, ..manager };
        assert_eq!(state(&lost, Met::Answers, None), NodeState::Lost);
    }
}
