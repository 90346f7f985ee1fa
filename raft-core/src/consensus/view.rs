//! What the planner is shown: records, configuration and what is observed, put together.
//!
//! Owns how a node record becomes a manager, or an eligible worker, in the planner's eyes. The leader's machine uses it
//! with what it counts; request handlers use it with a published status. Pure.

use super::io::{Progress, Records, Status};
use crate::id::RaftId;
use crate::keyring::KeyringRecord;
use crate::log::Configuration;
use crate::membership::plan::{ManagerView, SeatPolicy, SeatView, WorkerView};
use crate::membership::record::{LABEL_LEADER, LABEL_MANAGER, LABEL_ZONE, NodeRecord, Role};

/// Which node records matter for seats; chosen anew whenever the records changed.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// With a raft id that is not burnt: positions among the members of [`Records::nodes`].
    pub(super) managers: Vec<usize>,
    /// To be managers, without a raft id.
    pub(super) enrolling: Vec<usize>,
    /// Workers that may be promoted for a lost voter.
    pub(super) eligible: Vec<usize>,
}

impl Roster {
    pub(super) fn of(records: &Records) -> Self {
        let mut roster = Self::default();
        for (position, node) in records.nodes.members().enumerate() {
            let is_manager = node.role == i32::from(Role::Manager);
            let burnt = records.removed.contains(&RaftId(node.raft_id));
            if node.lost || burnt {
                continue;
            }
            if node.raft_id != 0 {
                roster.managers.push(position);
            } else if is_manager && !node.removing {
                roster.enrolling.push(position);
            } else if !is_manager && !node.removing && node.is_labelled(LABEL_MANAGER) {
                roster.eligible.push(position);
            }
        }
        roster
    }

    fn nodes<'a>(records: &'a Records, positions: &'a [usize]) -> impl Iterator<Item = &'a NodeRecord> {
        positions.iter().filter_map(|position| records.nodes.member(*position))
    }

    pub(super) fn managers<'a>(&'a self, records: &'a Records) -> impl Iterator<Item = &'a NodeRecord> {
        Self::nodes(records, &self.managers)
    }

    pub(super) fn enrolling<'a>(&'a self, records: &'a Records) -> impl Iterator<Item = &'a NodeRecord> {
        Self::nodes(records, &self.enrolling)
    }

    pub(super) fn eligible<'a>(&'a self, records: &'a Records) -> impl Iterator<Item = &'a NodeRecord> {
        Self::nodes(records, &self.eligible)
    }
}

/// What the leader sees of one manager; times in ticks of its leadership.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, by name")]
pub(super) struct Observed {
    pub(super) leader: bool,
    pub(super) connected: bool,
    pub(super) caught_up: bool,
    pub(super) stable_ticks: u64,
    pub(super) silent_ticks: u64,
    pub(super) waiting_ticks: u64,
    pub(super) held: bool,
    pub(super) let_pass: u32,
}

/// One manager in the planner's eyes.
pub(super) fn manager(
    node: &NodeRecord,
    keyring: &KeyringRecord,
    observed: Observed,
    policy: &SeatPolicy,
) -> ManagerView {
    let Observed { leader, connected, caught_up, stable_ticks, silent_ticks, waiting_ticks, held, let_pass } = observed;
    ManagerView {
        raft_id: RaftId(node.raft_id),
        replaces: (node.replaces != 0).then_some(RaftId(node.replaces)),
        leader,
        connected: leader || connected,
        caught_up: leader || caught_up,
        stable: leader || (connected && caught_up && stable_ticks >= policy.stable),
        stable_ticks,
        silent_ticks: if leader { 0 } else { silent_ticks },
        waiting_ticks,
        demoted: node.role != i32::from(Role::Manager),
        removing: node.removing,
        forced: node.forced,
        held,
        let_pass,
        stands_in: node.stands_in,
        preferred: node.is_labelled(LABEL_LEADER),
        sealed_out: !keyring.opens(node),
        zone: node.label(LABEL_ZONE).unwrap_or_default().to_owned(),
    }
}

/// One eligible worker in the planner's eyes.
pub(super) fn worker(node: &NodeRecord, taken_back: Option<u64>) -> WorkerView {
    WorkerView {
        node: node.node_id().unwrap_or_default(),
        zone: node.label(LABEL_ZONE).unwrap_or_default().to_owned(),
        taken_back,
    }
}

impl Status {
    /// What the planner would be shown, as far as this member can tell. On the leader it is what the planner is shown,
    /// but for replacements that are held up and workers that were taken back. On others whoever is connected counts as
    /// ready: ask the leader.
    pub fn seat_view(&self, records: &Records, policy: &SeatPolicy) -> SeatView {
        let roster = Roster::of(records);
        let leads = self.leader == Some(self.id);
        let observe = |id: RaftId| {
            let connected = id == self.id || self.connected.contains(&id);
            let progress = self.progress.iter().find(|progress| progress.id == id);
            match progress {
                Some(Progress { heard, caught_up, stable_ticks, silent_ticks, waiting_ticks, .. }) => Observed {
                    leader: false,
                    connected: connected && *heard,
                    caught_up: *caught_up,
                    stable_ticks: *stable_ticks,
                    silent_ticks: *silent_ticks,
                    waiting_ticks: *waiting_ticks,
                    held: false,
                    let_pass: 0,
                },
                None => Observed {
                    leader: self.leader == Some(id),
                    connected: connected && !(leads && id != self.id),
                    caught_up: connected,
                    stable_ticks: policy.stable,
                    ..Observed::default()
                },
            }
        };
        SeatView {
            configuration: self.configuration.clone(),
            pending: self.changing,
            managers: roster
                .managers(records)
                .map(|node| manager(node, &records.keyring, observe(RaftId(node.raft_id)), policy))
                .collect(),
            enrolling: roster.enrolling.len(),
            workers: roster.eligible(records).map(|node| worker(node, None)).collect(),
        }
    }
}

/// Whether the configuration has one voter, `id`.
pub(super) fn is_alone(configuration: &Configuration, id: RaftId) -> bool {
    !configuration.is_joint() && configuration.voters == [id]
}
