//! Members: who is heard, how long everybody is silent, caught up or on the way, and what the leader does about it.
//!
//! Owns the counting, in ticks of this leadership and from messages received (not raft's own activity mark, which is
//! cleared every election timeout): from zero for each new leader and after missed ticks, and turned into ticks of the new
//! length when that changes. What to change is the planner's
//! decision ([`crate::membership::plan`]); everything here is level-triggered: it is computed anew from what is in force.

use std::collections::BTreeMap;

use raft::ProgressState;

use super::Consensus;
use super::config::ELECTION_TICKS;
use super::io::Progress;
use super::pace::Rescale;
use super::snapshots::Fed;
use super::view::{self, Observed, Roster};
use crate::id::{LogIndex, NodeId, RaftId};
use crate::membership::plan::{self, SeatPolicy, SeatView};
use crate::membership::record::NodeRecord;

/// When a member was heard of.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: u64,
    stable_since: Option<u64>,
}

/// A manager on its way.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    raft_id: u64,
    since: u64,
}

/// A manager that is not to be replaced for a while.
#[derive(Debug, Clone, Copy)]
struct Hold {
    serial: u64,
    until: u64,
}

/// What the leader counts.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Silence is counted from here at the earliest.
    watching: u64,
    heard: BTreeMap<RaftId, Heard>,
    waiting: BTreeMap<NodeId, Waiting>,
    holds: BTreeMap<NodeId, Hold>,
    pub(super) taken_back: BTreeMap<NodeId, u64>,
    /// Since when a seat has nobody to go to.
    pub(super) short_since: Option<u64>,
    /// Leadership is not handed over for a seat, or by preference, before.
    pub(super) next_transfer: u64,
    /// How often leadership was to be handed over since another one led.
    pub(super) transfers: u32,
    /// How often each member let that pass since then: it goes to another one first.
    let_pass: BTreeMap<RaftId, u32>,
    /// Records were changed by the entry at this index: until it is applied they are not looked at.
    pub(super) written: LogIndex,
    /// Members that this leader has sent a snapshot and that have not caught up since.
    pub(super) fed: BTreeMap<RaftId, Fed>,
    /// Records or configuration have changed: they may have to be brought in line.
    pub(super) unsettled: bool,
    pub(super) roster: Roster,
}

impl Members {
    pub(super) fn new(roster: Roster) -> Self {
        Self { roster, ..Self::default() }
    }

    /// Everything is counted from now on: a leadership begins. How often the one before was to be handed over, and who
    /// let it pass, stays: an attempt that failed may have ended it, and must not be made again at once.
    pub(super) fn begin(&mut self, tick: u64) {
        let (next_transfer, transfers) = (self.next_transfer, self.transfers);
        let (roster, let_pass) = (std::mem::take(&mut self.roster), std::mem::take(&mut self.let_pass));
        *self = Self { watching: tick, unsettled: true, roster, next_transfer, transfers, let_pass, ..Self::default() };
    }

    /// Another member leads: leadership did go.
    pub(super) fn handed_over(&mut self) {
        (self.next_transfer, self.transfers) = (0, 0);
        self.let_pass.clear();
    }

    /// Called upon to take over, `id` did not.
    pub(super) fn lets_pass(&mut self, id: RaftId) {
        *self.let_pass.entry(id).or_default() += 1;
    }

    /// How often `id` let leadership pass since another member led.
    pub(super) fn times_let_pass(&self, id: RaftId) -> u32 {
        self.let_pass.get(&id).copied().unwrap_or_default()
    }

    /// Silence that we slept through says nothing about the others.
    pub(super) fn forget(&mut self, tick: u64) {
        self.watching = tick;
        self.heard.clear();
        self.waiting.clear();
        self.short_since = None;
    }

    /// The policy's times are asked for in ticks of the length in use, so what is held against them is counted in those.
    pub(super) fn rescale(&mut self, to: Rescale) {
        self.watching = to.past(self.watching);
        for heard in self.heard.values_mut() {
            // Heartbeats of a faster pace have yet to come: whoever was heard lately still is.
            if to.used > to.before || to.tick - heard.at > u64::from(ELECTION_TICKS) {
                heard.at = to.past(heard.at);
            }
            heard.stable_since = heard.stable_since.map(|since| to.past(since));
        }
        for waiting in self.waiting.values_mut() {
            waiting.since = to.past(waiting.since);
        }
        for hold in self.holds.values_mut() {
            hold.until = to.future(hold.until);
        }
        for at in self.taken_back.values_mut() {
            *at = to.past(*at);
        }
        self.short_since = self.short_since.map(|since| to.past(since));
    }

    /// Since when this leadership has been watching without a break.
    pub(super) const fn watching(&self) -> u64 {
        self.watching
    }
}

impl Consensus {
    pub(super) fn hear(&mut self, from: RaftId) {
        let tick = self.tick;
        let heard = self.members.heard.entry(from).or_insert(Heard { at: tick, stable_since: None });
        heard.at = tick;
    }

    /// Heard of within one election timeout.
    pub(super) fn is_heard(&self, id: RaftId) -> bool {
        self.members.heard.get(&id).is_some_and(|heard| self.tick - heard.at <= u64::from(ELECTION_TICKS))
    }

    pub(super) fn silent_ticks(&self, id: RaftId) -> u64 {
        let heard = self.members.heard.get(&id).map_or(0, |heard| heard.at);
        self.tick.saturating_sub(heard.max(self.members.watching))
    }

    pub(super) fn is_caught_up(&self, id: RaftId) -> bool {
        let raft = &self.raw.raft;
        raft.prs().get(id.0).is_some_and(|progress| {
            let log = &raft.raft_log;
            // Probed or not: raft asks a member where it is after every entry that another one overtook on the way, and under load
            // that never ends. What it has acknowledged it has. Whom only a snapshot helps has not caught up.
            let near = progress.matched > 0 && progress.matched + self.config.caught_up_entries >= log.committed;
            let follows = progress.state != ProgressState::Snapshot && progress.matched + 1 >= log.first_index();
            // A member whose acknowledgement of a snapshot overtakes the report of its delivery is not told so while nobody
            // writes. Who has the whole log has caught up.
            (near && follows) || progress.matched >= log.last_index()
        })
    }

    fn stable_ticks(&self, id: RaftId) -> u64 {
        let since = self.members.heard.get(&id).and_then(|heard| heard.stable_since);
        since.map_or(0, |since| self.tick - since)
    }

    pub(super) fn note_records(&mut self) {
        self.members.roster = Roster::of(&self.records);
        self.members.unsettled = true;
        self.rotation.look_again();
    }

    pub(super) fn tick_members(&mut self, missed: bool) {
        if !self.is_leader() || missed {
            return;
        }
        for id in self.configuration.members() {
            let able = self.is_heard(id) && !self.is_low_on_space(id);
            let stable = able && self.is_caught_up(id) && self.connected.contains(&id);
            let tick = self.tick;
            if let Some(heard) = self.members.heard.get_mut(&id) {
                heard.stable_since = if stable { heard.stable_since.or(Some(tick)) } else { None };
            }
        }
        self.drop_stale_sendable();
        // A record that no policy can be read from cannot be written; nothing is planned by it.
        let Ok(policy) = SeatPolicy::of(&self.records.cluster, &self.config.seat_times, self.tick_nanos()) else {
            return;
        };
        self.count_waiting(&policy);
        self.change_members(&policy);
    }

    /// Since when each manager has been on its way, and until when each replacement is held up.
    fn count_waiting(&mut self, policy: &SeatPolicy) {
        let (tick, tick_nanos) = (self.tick, self.tick_nanos().max(1));
        let (was, held) = (std::mem::take(&mut self.members.waiting), std::mem::take(&mut self.members.holds));
        let roster = &self.members.roster;
        let (mut waiting, mut holds) = (BTreeMap::new(), BTreeMap::new());
        for node in roster.managers(&self.records).chain(roster.enrolling(&self.records)) {
            let Some(id) = node.node_id() else { continue };
            let raft_id = RaftId(node.raft_id);
            let arrived = self.configuration.voters.contains(&raft_id) || self.stable_ticks(raft_id) >= policy.stable;
            let ready = raft_id == self.config.id || (arrived && self.is_heard(raft_id));
            if !ready {
                // A raft id that an enrolling node gets does not begin its way anew, a fresh store's does.
                let known = was.get(&id).filter(|was| was.raft_id == node.raft_id || was.raft_id == 0);
                let since = known.map_or(tick, |was| was.since);
                waiting.insert(id, Waiting { raft_id: node.raft_id, since });
            }
            if node.hold_ms > 0 {
                let known = held.get(&id).copied().filter(|hold| hold.serial == node.hold_serial);
                let ticks = node.hold_ms.saturating_mul(1_000_000) / tick_nanos;
                let fresh = Hold { serial: node.hold_serial, until: tick.saturating_add(ticks) };
                holds.insert(id, known.unwrap_or(fresh));
            }
        }
        (self.members.waiting, self.members.holds) = (waiting, holds);
    }

    pub(super) fn waiting_ticks(&self, node: &NodeRecord) -> u64 {
        let waiting = node.node_id().and_then(|id| self.members.waiting.get(&id));
        waiting.map_or(0, |waiting| self.tick - waiting.since)
    }

    fn is_held(&self, node: &NodeRecord) -> bool {
        let hold = node.node_id().and_then(|id| self.members.holds.get(&id));
        hold.is_some_and(|hold| self.tick < hold.until)
    }

    pub(super) fn seat_view(&self, policy: &SeatPolicy) -> SeatView {
        let (roster, records) = (&self.members.roster, &*self.records);
        let manager = |node: &NodeRecord| {
            let id = RaftId(node.raft_id);
            let observed = Observed {
                leader: id == self.config.id,
                connected: self.connected.contains(&id) && self.is_heard(id),
                caught_up: self.is_caught_up(id),
                stable_ticks: self.stable_ticks(id),
                silent_ticks: self.silent_ticks(id),
                waiting_ticks: self.waiting_ticks(node),
                held: self.is_held(node),
                let_pass: self.members.times_let_pass(id),
            };
            view::manager(node, &records.keyring, observed, policy)
        };
        let worker = |node: &NodeRecord| {
            let taken_back = node.node_id().and_then(|id| self.members.taken_back.get(&id));
            view::worker(node, taken_back.map(|at| self.tick - at))
        };
        SeatView {
            configuration: self.configuration.clone(),
            pending: self.raw.raft.has_pending_conf(),
            managers: roster.managers(records).map(manager).collect(),
            enrolling: roster.enrolling(records).filter(|node| self.waiting_ticks(node) < policy.patience).count(),
            workers: roster.eligible(records).map(worker).collect(),
        }
    }

    /// Whether the leader's own changes may be made: of records and configuration that are in force.
    pub(super) fn is_settled(&self) -> bool {
        // A log of an incarnation that was ended is cut before anybody may join: the cut is in no later batch than this.
        let cut =
            self.raw.store().start().index >= self.records.recovery.index && self.records.recovery.begun.is_none();
        cut && self.raw.raft.commit_to_current_term()
            && !self.raw.raft.has_pending_conf()
            && !self.is_transferring()
            && self.may_write()
    }

    /// One step towards what the records ask for, if one is due and nothing is in flight.
    fn change_members(&mut self, policy: &SeatPolicy) {
        if !self.is_settled() {
            return;
        }
        if self.configuration.is_joint() {
            self.leave_joint();
            return;
        }
        self.settle_records();
        let view = self.seat_view(policy);
        if let Some(change) = plan::plan(&view, policy) {
            self.members.short_since = None;
            self.change_to(&change);
            return;
        }
        self.stand_in(&view, policy);
        if self.tick >= self.members.next_transfer
            && let Some(to) = plan::preferred_leader(&view, policy)
        {
            tracing::info!(%to, "leadership goes to a preferred leader");
            self.hand_over_to(to);
        }
    }

    pub(super) fn progress(&self) -> Vec<Progress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let waiting = |id: RaftId| {
            let node = self.members.roster.managers(&self.records).find(|node| node.raft_id == id.0);
            node.map_or(0, |node| self.waiting_ticks(node))
        };
        self.configuration
            .members()
            .into_iter()
            .filter(|id| *id != self.config.id)
            .map(|id| Progress {
                id,
                matched: LogIndex(self.raw.raft.prs().get(id.0).map_or(0, |progress| progress.matched)),
                heard: self.is_heard(id),
                caught_up: self.is_caught_up(id),
                silent_ticks: self.silent_ticks(id),
                stable_ticks: self.stable_ticks(id),
                waiting_ticks: waiting(id),
            })
            .collect()
    }
}
