//! The consensus machine: one `step(inputs) -> effects` over tikv raft.
//!
//! Owns every decision of a member: what to append, send, persist, apply, answer; who leads and until when that may be
//! acted on; which configuration is in force. Never touches a clock, a random source, a disk or a socket. Called by
//! the node's consensus task and by the simulator, which both perform the effects and feed the results back.
//!
//! ```text
//!  inputs ──► step ──► raft ──► Ready ──► Send      (leader: at once, beside its own fsync)
//!                                    ├──► Persist ──(log writer)──► Persisted ──► Send (votes, acks)
//!                                    ├──► Apply ────(applier)─────► Applied ────► reads, log cut
//!                                    └──► Install ──(applier)─────► Installed
//! ```
//!
//! The rules it keeps are those of the design, section 4; each file names the ones that live in it:
//! [`config`] 1 and 11, `inbound` 8, `ready` 2, 3 and 5, `disk` the part of 4 that is no failure yet, `memlog` 5, `reads`
//! 6 and 8, `leases` the leases of section 7, `freshness` 6, `seating` and [`guard`] 7, `leadership` 8 and 10, [`pace`] 8 and 11, `waiters` and `proposals`
//! 9 and 12. Of section 5: `members` counts and asks the planner, `view` shows it what there is, `upkeep` brings the
//! records in line, `copies` waits for the second disk. `rotation` ends a rotation of the CA.

pub mod config;
pub mod configurations;
mod convert;
mod copies;
mod disk;
mod entropy;
mod freshness;
pub mod guard;
#[cfg(test)]
mod harness;
mod inbound;
pub mod io;
mod leadership;
mod leases;
mod logging;
mod members;
mod memlog;
#[cfg(feature = "chaos-mutants")]
mod mutated;
pub mod pace;
mod proposals;
mod reads;
mod ready;
mod records;
mod rejection;
mod rotation;
mod seating;
mod snapshots;
mod status;
mod upkeep;
mod view;
mod waiters;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft::eraftpb;
use raft::{RawNode, ReadOnlyOption, StateRole};

use crate::id::{LeaseId, LogIndex, RaftId};
use crate::log::{Configuration, LogEntry};
use crate::mutants::{Mutant, on};
use crate::ports::Boot;
use crate::state::contract::StateStatus;

use config::{Config, ELECTION_TICKS, ELECTION_TICKS_MAX, ELECTION_TICKS_MIN, HEARTBEAT_TICKS, TICKS_AT_ONCE_MAX};
use copies::Copies;
use disk::Disk;
use entropy::Entropy;
use freshness::Freshness;
use io::{Effect, Input, Nanos, Records, SnapshotCounts, Status, StopCause};
use leadership::{Leadership, Transfer};
use leases::Leases;
use members::Members;
use memlog::MemLog;
use pace::Pace;
use reads::Reads;
use rotation::Rotation;
use snapshots::Installing;
use view::Roster;
use waiters::Waiters;

/// A member's consensus. See the module.
pub struct Consensus {
    config: Config,
    raw: RawNode<MemLog>,
    entropy: Entropy,
    now: Nanos,
    pace: Pace,
    /// Ticks since the start.
    tick: u64,
    /// What they add up to, nanoseconds: their length changes.
    running_nanos: u64,
    /// The timeout drawn for this (term, role), set again after every call into raft.
    timeout: (u64, StateRole, usize),
    records: Arc<Records>,
    /// In force after everything that was handed to the applier.
    configuration: Configuration,
    configuration_number: u64,
    /// Handed to the applier.
    handed: LogIndex,
    /// Reported by the applier.
    applied: LogIndex,
    /// Bytes handed over and not reported.
    backlog: VecDeque<(LogIndex, u64)>,
    unpersisted: VecDeque<ready::Unpersisted>,
    /// The term on disk.
    durable_term: u64,
    queue: proposals::Queue,
    waiters: Waiters,
    reads: Reads,
    freshness: Freshness,
    leadership: Leadership,
    leases: Leases,
    disk: Disk,
    transfer: Option<Transfer>,
    connected: BTreeSet<RaftId>,
    members: Members,
    rotation: Rotation,
    copies: Copies,
    installing: Option<Installing>,
    snapshot_building: bool,
    /// The managers known were asked for their lineage.
    lineages_asked: bool,
    fetches_known: u64,
    counts: SnapshotCounts,
    published: Option<Arc<Status>>,
    stopped: bool,
    effects: Vec<Effect>,
}

/// What a machine starts from; everything read from disk by the caller.
#[derive(Debug, Clone)]
pub struct Start {
    /// From the store.
    pub boot: Boot,
    /// From the applied state.
    pub state: StateStatus,
    /// From the applied state.
    pub records: Arc<Records>,
    /// Every entry above `state.applied`.
    pub tail: Vec<LogEntry>,
    /// From the applied state: every lease with its time to live in milliseconds.
    pub leases: Vec<(LeaseId, u64)>,
}

impl Consensus {
    /// Makes a machine from what is on disk.
    ///
    /// # Errors
    /// `Invariant` when log and state contradict each other: the store is damaged.
    pub fn new(config: Config, start: Start) -> Result<Self, StopCause> {
        let Start { boot, state, records, tail, leases } = start;
        let broken = |detail: String| StopCause::Invariant { name: "log_and_state_agree", detail };
        if state.applied > boot.last || state.applied < boot.start.index {
            return Err(broken(format!(
                "applied {} is outside of the log {}..={}",
                state.applied, boot.start.index, boot.last
            )));
        }
        let mut hard_state = boot.hard_state;
        hard_state.commit = hard_state.commit.max(state.applied);
        if hard_state.commit > boot.last {
            return Err(broken(format!("commit {} is above the last entry {}", hard_state.commit, boot.last)));
        }
        let expected = boot.last.0 - state.applied.0;
        if tail.len() as u64 != expected {
            return Err(broken(format!("{} entries above applied {}, not {expected}", tail.len(), state.applied)));
        }
        let tail: Vec<eraftpb::Entry> = tail.into_iter().map(convert::raft_entry).collect();
        let log = MemLog::new(hard_state, state.configuration.clone(), boot.start, boot.last, &boot.terms, tail);
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            min_election_tick: ELECTION_TICKS_MIN as usize,
            max_election_tick: ELECTION_TICKS_MAX as usize + 1,
            applied: state.applied.0,
            max_size_per_msg: config.message_bytes_max,
            max_inflight_msgs: config.inflight_messages_max,
            check_quorum: !on(Mutant::NoPreVote),
            pre_vote: !on(Mutant::NoPreVote),
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: true,
            priority: 0,
            max_uncommitted_size: config.uncommitted_bytes_max,
            max_committed_size_per_ready: config.apply_bytes_max,
        };
        let raw = RawNode::new(&raft_config, log, &logging::logger(config.id))
            .map_err(|error| broken(format!("raft refused to start: {error}")))?;
        let mut entropy = Entropy::new(config.entropy ^ config.id.0.rotate_left(32));
        let nonce = entropy.next();
        let mut machine = Self {
            timeout: (0, StateRole::Follower, 0),
            reads: Reads::new(config.id, nonce),
            freshness: Freshness::default(),
            leadership: Leadership::new(),
            leases: Leases::of(leases),
            members: Members::new(Roster::of(&records)),
            rotation: Rotation::default(),
            copies: Copies::new(),
            pace: Pace::new(config.tick_nanos, records.cluster.tick_micros),
            config,
            raw,
            entropy,
            now: Nanos(0),
            tick: 0,
            running_nanos: 0,
            records,
            configuration: state.configuration,
            configuration_number: state.configuration_number,
            handed: state.applied,
            applied: state.applied,
            backlog: VecDeque::new(),
            unpersisted: VecDeque::new(),
            durable_term: hard_state.term.0,
            queue: proposals::Queue::default(),
            waiters: Waiters::default(),
            disk: Disk::with(hard_state),
            transfer: None,
            connected: BTreeSet::new(),
            installing: None,
            snapshot_building: false,
            lineages_asked: false,
            fetches_known: 0,
            counts: SnapshotCounts::default(),
            published: None,
            stopped: false,
            effects: Vec::new(),
        };
        machine.pin_timeout();
        machine.cut_at_recovery();
        Ok(machine)
    }

    /// Takes inputs in order at time `now` and says what is to be done, in order.
    ///
    /// After an [`Effect::Stop`] nothing more comes out.
    pub fn step(&mut self, now: Nanos, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        self.now = self.now.max(now);
        for input in inputs {
            if self.stopped {
                break;
            }
            self.take(input);
            self.pin_timeout();
        }
        if !self.stopped {
            self.propose_waiting();
            self.direct_renewals();
            self.start_read_round();
            self.drive();
            self.note_leadership();
            self.publish();
        }
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(stop) = effects.iter().position(|effect| matches!(effect, Effect::Stop(_))) {
            effects.truncate(stop + 1);
        }
        effects
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick(ticks) => self.on_ticks(ticks),
            Input::Message { from, body } => self.on_message(from, &body),
            Input::Propose { ticket, command, origin } => self.on_propose(ticket, command, origin),
            Input::Read { ticket } => self.on_read(ticket),
            Input::Transfer { ticket, to } => self.on_transfer(ticket, to),
            Input::Persisted { number } => self.on_persisted(number),
            Input::Renew { ticket, lease, origin } => self.on_renew(ticket, lease, origin),
            Input::LeaseTimes { ticket, leases } => self.on_lease_times(ticket, &leases),
            Input::Applied { index, records, leases } => self.on_applied(index, records, &leases),
            Input::Installed { status, records, leases } => {
                self.leases.installed(leases);
                self.on_installed(status, records);
            }
            Input::Staged { from, message, staged } => self.on_staged(from, &message, staged),
            Input::SnapshotBuilt { status, bytes, view } => self.on_snapshot_built(status, bytes, view),
            Input::SnapshotSent { to, delivered } => self.on_snapshot_sent(to, delivered),
            Input::Fetched { number, entries } => self.on_fetched(number, entries),
            Input::PeerUp(id) => self.note_connected(id, true),
            Input::PeerDown(id) => {
                self.note_connected(id, false);
                self.raw.report_unreachable(id.0);
            }
            Input::LineagesAsked => self.lineages_asked = true,
            Input::Clock { unix_s } => self.rotation.clock(unix_s),
            Input::Space { free } => self.on_space(free),
            Input::Unreachable(id) => self.raw.report_unreachable(id.0),
            Input::StoreFailed(error) => self.stop(StopCause::Store(error)),
            Input::ApplyFailed(error) => self.stop(StopCause::Apply(error)),
        }
    }

    fn on_ticks(&mut self, ticks: u32) {
        let missed = ticks > TICKS_AT_ONCE_MAX;
        for _ in 0..ticks.min(TICKS_AT_ONCE_MAX) {
            self.tick += 1;
            self.running_nanos = self.running_nanos.saturating_add(self.tick_nanos());
            self.tick_disk();
            if self.may_campaign() {
                self.raw.tick();
            } else if !self.may_write() || self.installing.is_some() {
                // It may not campaign, but it must notice that nobody leads, and free others from its promise.
                self.raw.raft.election_elapsed += 1;
            }
            self.pin_timeout();
            self.tick_leadership();
            self.tick_pace();
            self.tick_reads();
            self.tick_members(missed);
            self.tick_rotation();
            self.make_room();
        }
        if missed {
            // Silence that we slept through says nothing about the others.
            self.members.forget(self.tick);
        }
        if ticks > ELECTION_TICKS {
            // Nor about holders of leases, who may have tried to renew them all the while.
            self.leases.restart(self.now);
        }
        self.expire_leases();
    }

    /// Raft's clock stands still where an election would end in a panic: while a snapshot replaces the log under it, and
    /// for a single voter, which wins at once, as long as something of its log is not on disk. And where it would be too
    /// early, before the other managers were asked for their lineage, or where the winner could not write. A leader's
    /// clock runs on.
    fn may_campaign(&self) -> bool {
        let alone = !self.configuration.is_joint() && self.configuration.voters == [self.config.id];
        let free = self.has_asked() && self.may_write() && self.installing.is_none();
        self.is_leader() || (free && (!alone || self.unpersisted.is_empty()))
    }

    /// Whether the managers known were asked for their lineage, or for long enough.
    const fn has_asked(&self) -> bool {
        self.lineages_asked || self.running_nanos > self.config.ask_nanos
    }

    /// tikv raft draws election timeouts from the system's random source; ours are drawn from the input's entropy, one
    /// per term and role, and set again after every call.
    fn pin_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        if self.timeout.2 == 0 || self.timeout.0 != raft.term || self.timeout.1 != raft.state {
            let drawn = self.entropy.between(u64::from(ELECTION_TICKS_MIN), u64::from(ELECTION_TICKS_MAX));
            let drawn = if on(Mutant::FixedTimeout) { u64::from(ELECTION_TICKS_MIN) } else { drawn };
            self.timeout = (raft.term, raft.state, usize::try_from(drawn).unwrap_or(ELECTION_TICKS_MAX as usize));
        }
        raft.set_randomized_election_timeout(self.timeout.2);
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<RaftId> {
        // A learner never campaigns, so raft lets it believe in a dead leader for ever.
        let silent = !self.is_leader() && self.raw.raft.election_elapsed > ELECTION_TICKS_MAX as usize;
        match self.raw.raft.leader_id {
            0 => None,
            _ if silent => None,
            id => Some(RaftId(id)),
        }
    }

    fn stop(&mut self, cause: StopCause) {
        if !self.stopped {
            self.stopped = true;
            self.effects.push(Effect::Stop(cause));
        }
    }

    fn broken(&mut self, name: &'static str, detail: String) {
        self.stop(StopCause::Invariant { name, detail });
    }

    /// The term that it is in.
    pub fn term(&self) -> crate::id::Term {
        crate::id::Term(self.raw.raft.term)
    }

    /// What others may see, as it is now.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            term: crate::id::Term(self.raw.raft.term),
            role: Some(leadership::role(self.raw.raft.state)),
            leader: self.leader(),
            commit: LogIndex(self.raw.raft.raft_log.committed),
            applied: self.applied,
            last: LogIndex(self.raw.raft.raft_log.last_index()),
            last_term: crate::id::Term(self.raw.raft.raft_log.last_term()),
            configuration: self.configuration.clone(),
            configuration_number: self.configuration_number,
            changing: self.raw.raft.has_pending_conf(),
            single_copy: self.is_single_copy(),
            lease: self.lease(),
            as_of: self.freshness.as_of(),
            leaderless_ticks: self.leadership.leaderless_ticks(self.tick),
            tick: Nanos(self.tick_nanos()),
            connected: self.connected.iter().copied().collect(),
            progress: self.progress(),
            snapshots: self.counts,
            disk_silent_ticks: self.disk_silent_ticks(),
            low_space: self.disk.low_space(),
            read_only: self.is_leader() && self.read_only().is_some(),
        }
    }

    fn publish(&mut self) {
        let status = self.status();
        if self.published.as_deref() != Some(&status) {
            let status = Arc::new(status);
            self.published = Some(Arc::clone(&status));
            self.effects.push(Effect::Status(status));
        }
    }
}
