//! Snapshots: built by the applier, streamed by the driver, announced and installed here.
//!
//! Owns the order of an installation (design section 4, rule 5): streamed, verified and synced aside BEFORE the message
//! is stepped; then it is the only Ready open, both threads drain, and one synced batch switches everything. Every way
//! of sending one ends in a report to raft, or the receiver would be paused for ever.

use std::sync::Arc;

use raft::eraftpb;
use raft::{ProgressState, SnapshotStatus};

use super::config::ELECTION_TICKS;
use super::inbound::{self, NUMBER_MAX};
use super::io::{Answer, Effect, Records};
use super::memlog::Sendable;
use super::{Consensus, convert};
use crate::id::{LogIndex, RaftId, Term};
use crate::log::{Configuration, HardState, LogStart};
use crate::ports::{LogReset, StagedId};
use crate::state::contract::StateStatus;

/// Ticks for which a view is kept for further receivers.
const VIEW_PATIENCE_TICKS: u64 = 5 * ELECTION_TICKS as u64;

/// A snapshot between its arrival and its installation.
pub(super) struct Installing {
    staged: StagedId,
    index: LogIndex,
    running: Option<Running>,
}

struct Running {
    number: u64,
    /// The term that is on disk with it.
    term: u64,
    messages: Vec<eraftpb::Message>,
}

impl Installing {
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

impl Consensus {
    pub(super) fn note_snapshot_wanted(&mut self) {
        let Some(at_least) = self.raw.store().take_snapshot_wanted() else { return };
        if !self.snapshot_building {
            self.snapshot_building = true;
            self.effects.push(Effect::BuildSnapshot { at_least: LogIndex(at_least) });
        }
    }

    pub(super) fn on_snapshot_built(&mut self, status: StateStatus, view: u64) {
        self.snapshot_building = false;
        if !self.is_leader() {
            self.effects.push(Effect::DropSnapshot { view });
            return;
        }
        let index = status.applied;
        let (term, configuration) = (status.applied_term.0, status.configuration);
        let built = Sendable { index: index.0, term, configuration, view, built: self.tick };
        if let Some(old) = self.raw.mut_store().set_sendable(Some(built)) {
            self.effects.push(Effect::DropSnapshot { view: old.view });
        }
    }

    pub(super) fn send_snapshot(&mut self, to: RaftId, message: &eraftpb::Message) {
        match self.raw.store().sendable() {
            // Who is low on space has none for a snapshot.
            Some(_) if self.is_low_on_space(to) => self.raw.report_snapshot(to.0, SnapshotStatus::Failure),
            Some(sendable) if message.get_snapshot().get_metadata().index == sendable.index => {
                let view = sendable.view;
                self.effects.push(Effect::SendSnapshot { to, message: convert::message_bytes(message), view });
            }
            _ => self.raw.report_snapshot(to.0, SnapshotStatus::Failure),
        }
    }

    pub(super) fn on_snapshot_sent(&mut self, to: RaftId, delivered: bool) {
        let status = if delivered {
            self.counts.sent += 1;
            SnapshotStatus::Finish
        } else {
            self.counts.failed += 1;
            SnapshotStatus::Failure
        };
        self.raw.report_snapshot(to.0, status);
    }

    /// A view that the log has left behind helps nobody, and one that nobody waits for pins old state: the next receiver
    /// gets a fresh one.
    pub(super) fn drop_stale_sendable(&mut self) {
        let start = self.raw.store().start().index.0;
        let leads = self.is_leader();
        let waited_for = self.raw.raft.prs().iter().any(|(_, progress)| progress.state == ProgressState::Snapshot);
        let (tick, patience) = (self.tick, VIEW_PATIENCE_TICKS);
        let stale = |view: &Sendable| {
            !leads || view.index < start || (!waited_for && tick.saturating_sub(view.built) > patience)
        };
        if self.raw.store().sendable().is_some_and(stale)
            && let Some(old) = self.raw.mut_store().set_sendable(None)
        {
            self.effects.push(Effect::DropSnapshot { view: old.view });
        }
    }

    pub(super) fn on_staged(&mut self, from: RaftId, message: &[u8], staged: StagedId) {
        let wanted = convert::message(message).filter(|message| {
            message.from == from.0
                && message.to == self.config.id.0
                && message.msg_type() == eraftpb::MessageType::MsgSnapshot
                && self.installing.is_none()
                && inbound::is_sound(message)
                && is_sound(message.get_snapshot())
                && !self.records.removed.contains(&from)
        });
        let Some(message) = wanted else {
            self.discard(staged);
            return;
        };
        self.hear(from);
        let index = LogIndex(message.get_snapshot().get_metadata().index);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%from, %error, "snapshot message ignored");
        }
        self.pin_timeout();
        let taken = self.raw.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index.0);
        if taken {
            self.installing = Some(Installing { staged, index, running: None });
        } else {
            self.discard(staged);
        }
    }

    fn discard(&mut self, staged: StagedId) {
        self.counts.refused += 1;
        self.effects.push(Effect::Discard(staged));
    }

    /// The Ready that carries the snapshot; everything before it is on disk and applied.
    pub(super) fn install(
        &mut self,
        snapshot: &eraftpb::Snapshot,
        hard_state: HardState,
        number: u64,
        messages: Vec<eraftpb::Message>,
    ) {
        let metadata = snapshot.get_metadata();
        let start = LogStart { index: LogIndex(metadata.index), term: Term(metadata.term) };
        let Some(installing) = self.installing.as_mut().filter(|installing| installing.index == start.index) else {
            self.broken(
                "snapshot_is_staged_first",
                format!("raft takes a snapshot at {} that nobody staged", start.index),
            );
            return;
        };
        installing.running = Some(Running { number, term: hard_state.term.0, messages });
        let staged = installing.staged;
        let configuration = convert::configuration(metadata.get_conf_state());
        self.raw.mut_store().reset(start, configuration);
        self.leadership.pending_cut = None;
        self.disk.note_installed(hard_state);
        self.effects.push(Effect::Install { staged, reset: LogReset { start, hard_state } });
    }

    pub(super) fn on_installed(&mut self, status: StateStatus, records: Arc<Records>) {
        let Some(Installing { index, running: Some(running), .. }) = self.installing.take() else {
            self.broken("snapshot_is_staged_first", "an installation was reported that was not asked for".into());
            return;
        };
        if status.configuration != *self.raw.store().configuration() {
            let detail =
                format!("it is of {:?}, announced was {:?}", status.configuration, self.raw.store().configuration());
            self.broken("snapshot_holds_what_it_says", detail);
            return;
        }
        if status.applied != index {
            self.broken("snapshot_holds_what_it_says", format!("{} is applied, {index} was announced", status.applied));
            return;
        }
        self.counts.installed += 1;
        self.configuration = status.configuration;
        self.configuration_number = status.configuration_number;
        self.records = records;
        self.note_records();
        self.handed = index;
        self.applied = index;
        self.backlog.clear();
        self.applier_answered();
        self.durable_term = running.term;
        self.raw.on_persist_ready(running.number);
        self.raw.advance_apply_to(index.0);
        self.pin_timeout();
        for message in running.messages {
            self.send(message);
        }
        for ticket in self.waiters.covered(index) {
            self.effects.push(Effect::Answer { ticket, answer: Answer::Unknown });
        }
        self.answer_truncated();
        self.release_reads();
    }
}

/// Whether raft can restore from it: a configuration that raft finds contradictory would be a panic.
fn is_sound(snapshot: &eraftpb::Snapshot) -> bool {
    let metadata = snapshot.get_metadata();
    let configuration = convert::configuration(metadata.get_conf_state());
    let distinct = |ids: &[RaftId]| ids.windows(2).all(|pair| pair.first() != pair.last()) && !ids.contains(&RaftId(0));
    let Configuration { voters, voters_outgoing, learners, learners_next } = &configuration;
    (1..NUMBER_MAX).contains(&metadata.index)
        && (1..NUMBER_MAX).contains(&metadata.term)
        && configuration.is_odd()
        && [voters, voters_outgoing, learners, learners_next].into_iter().all(|ids| distinct(ids))
        && !learners.iter().any(|id| configuration.is_voter(*id))
        && learners_next.iter().all(|id| voters_outgoing.contains(id) && !voters.contains(id))
}
