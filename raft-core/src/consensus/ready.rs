//! Raft's Ready, handled asynchronously: what goes out at once, what waits for the disk, what goes to the applier.
//!
//! Owns the order (design section 4, rules 2, 3 and 5): the leader's messages leave beside its own fsync; votes and
//! acknowledgements leave after everything before them is durable; the hard state of a Ready, commit included, is in
//! the batch of its entries. One Ready with a snapshot is alone.

use raft::eraftpb::{self, EntryType, MessageType};

use super::config::{ROUNDS_HANDED_MAX, WRITES_HANDED_MAX};
use super::io::{Answer, Effect, Lane, Records, Rejection, Ticket};
use super::waiters::Owed;
use super::{Consensus, convert, guard::Guard};
use crate::id::{LogIndex, RaftId, Term};
use crate::log::LogEntry;
use crate::mutants::{Mutant, on};
use crate::ports::LogBatch;
use crate::state::contract::{Committed, LeaseChange, Payload};
use std::sync::Arc;

/// A Ready that is on its way to the disk, with what may be said once it is there.
#[derive(Debug)]
pub(super) struct Unpersisted {
    pub(super) number: u64,
    pub(super) messages: Vec<eraftpb::Message>,
    /// The term that is on disk with it.
    term: u64,
}

/// Bytes handed to the applier and not applied, above which appends are dropped and proposals wait.
const BACKLOG_BYTES_MAX: u64 = 64 << 20;

/// Messages held back until one write is on disk, above which further ones are dropped: lost messages, which raft allows
/// for. Only a disk that hangs brings that many about.
const HELD_BACK_MAX: usize = 1_024;
/// Confirmations of read rounds among them: a disk that is only slow is synced long before there are so many.
const CONFIRMATIONS_MAX: usize = 64;

/// One more message waits for the disk. A leader asks again and again, however long the disk hangs: of answers to its
/// heartbeats the newest counts, and of the confirmations of its read rounds the newest few.
fn hold_back(held: &mut Vec<eraftpb::Message>, message: eraftpb::Message) {
    if message.msg_type() == MessageType::MsgHeartbeatResponse {
        let confirms = !message.context.is_empty();
        let is_alike = |old: &eraftpb::Message| {
            old.msg_type() == MessageType::MsgHeartbeatResponse
                && old.to == message.to
                && old.context.is_empty() != confirms
        };
        let max = if confirms { CONFIRMATIONS_MAX } else { 1 };
        if held.iter().filter(|old| is_alike(old)).count() >= max
            && let Some(oldest) = held.iter().position(is_alike)
        {
            held.remove(oldest);
        }
    }
    if held.len() < HELD_BACK_MAX {
        held.push(message);
    }
}

impl Consensus {
    /// Takes everything that raft has ready.
    pub(super) fn drive(&mut self) {
        self.release();
        while !self.stopped && self.installing.as_ref().is_none_or(|i| !i.is_running()) && self.raw.has_ready() {
            let has_snapshot = self.raw.snap().is_some_and(|snapshot| !snapshot.is_empty());
            let writes = !self.unpersisted.is_empty() || self.disk.is_probed();
            if has_snapshot && (writes || self.applied != self.handed) {
                // Both threads drain first; their reports bring us back here.
                return;
            }
            #[cfg(feature = "chaos-mutants")]
            self.commit_wrongly();
            let mut ready = self.raw.ready();
            let number = ready.number();
            // A leader speaks beside its own fsync, but only once its term is on disk: a single voter wins without asking
            // anybody, and one that forgot this term in a crash would win it again and fill it with other entries.
            let (mut said, held) = if self.durable_term == self.raw.raft.term {
                (ready.take_messages(), Vec::new())
            } else {
                (Vec::new(), ready.take_messages())
            };
            // Entries leave before they go to the disk here. That something is committed may be told once it is on its way to
            // the applier, at whose end somebody waits for it.
            if !ready.entries().is_empty() || !ready.snapshot().is_empty() {
                self.send_all(&mut said);
            }
            for state in ready.take_read_states() {
                self.on_read_state(&state);
            }
            let snapshot = ready.snapshot().clone();
            if !snapshot.is_empty() {
                let mut messages = held;
                messages.extend(ready.take_persisted_messages());
                let entries = ready.take_entries();
                let hard_state = convert::hard_state(&self.raw.raft.hard_state());
                self.install(&snapshot, hard_state, number, messages);
                if !entries.is_empty() {
                    self.broken("snapshot_ready_is_alone", format!("{} entries came with it", entries.len()));
                }
                self.raw.advance_append_async(ready);
                return;
            }
            let entries = ready.take_entries();
            self.check_odd(&entries);
            if self.stopped {
                return;
            }
            let committed = ready.take_committed_entries();
            let mut persisted = held;
            persisted.extend(ready.take_persisted_messages());
            if on(Mutant::SendBeforeDurable) {
                for message in std::mem::take(&mut persisted) {
                    self.send(message);
                }
            }
            let must_sync = ready.must_sync();
            self.raw.mut_store().append(&entries);
            self.answer_truncated();
            if must_sync {
                let count = entries.len();
                let mut hard_state = convert::hard_state(&self.raw.raft.hard_state());
                if on(Mutant::VoteNotPersisted) {
                    hard_state.vote = RaftId(0);
                }
                let batch = LogBatch {
                    entries: entries.into_iter().filter_map(convert::entry).collect(),
                    hard_state: Some(hard_state),
                    cut: self.leadership.pending_cut.take(),
                };
                if batch.entries.len() != count {
                    self.broken("configuration_entries_are_v2", "an entry of the old kind was appended".into());
                    return;
                }
                self.raw.advance_append_async(ready);
                self.disk.note_written(&batch);
                self.effects.push(Effect::Persist { number, batch });
                let term = self.raw.raft.term;
                self.unpersisted.push_back(Unpersisted { number, messages: persisted, term });
            } else {
                self.raw.advance_append_async(ready);
                self.after_the_disk(number, persisted);
            }
            self.copies.push(self.tick, committed);
            self.release();
            self.send_all(&mut said);
            self.after_ready();
        }
        self.after_ready();
    }

    fn send_all(&mut self, messages: &mut Vec<eraftpb::Message>) {
        for message in std::mem::take(messages) {
            self.send(message);
        }
    }

    /// Whose entry stands in the log no more, and with nothing in its place: nobody knows here what becomes of it.
    pub(super) fn answer_truncated(&mut self) {
        let last = LogIndex(self.raw.raft.raft_log.last_index());
        for ticket in self.waiters.above(last) {
            self.effects.push(Effect::Answer { ticket, answer: Answer::Unknown });
        }
    }

    /// A Ready without anything that must be synced: its messages wait only for the Readies before it.
    fn after_the_disk(&mut self, number: u64, messages: Vec<eraftpb::Message>) {
        match self.unpersisted.back_mut() {
            Some(last) => messages.into_iter().for_each(|message| hold_back(&mut last.messages, message)),
            None => {
                self.raw.on_persist_ready(number);
                self.pin_timeout();
                for message in messages {
                    self.send(message);
                }
            }
        }
    }

    fn after_ready(&mut self) {
        self.pin_timeout();
        self.note_fetches();
        self.note_snapshot_wanted();
    }

    pub(super) fn on_persisted(&mut self, number: u64) {
        self.log_answered(number);
        while self.unpersisted.front().is_some_and(|front| front.number <= number) {
            if let Some(done) = self.unpersisted.pop_front() {
                self.durable_term = done.term;
                self.raw.on_persist_ready(done.number);
                self.pin_timeout();
                for message in done.messages {
                    self.send(message);
                }
            }
        }
    }

    pub(super) fn send(&mut self, mut message: eraftpb::Message) {
        #[cfg(feature = "chaos-mutants")]
        if on(Mutant::RemovedVote) {
            for asked in self.ask_the_removed(&message) {
                let to = RaftId(asked.to);
                self.effects.push(Effect::Send { to, lane: Lane::Control, body: convert::message_bytes(&asked) });
            }
        }
        self.stamp_pace(&mut message);
        let to = RaftId(message.to);
        let kind = message.msg_type();
        if kind == MessageType::MsgSnapshot {
            self.send_snapshot(to, &message);
            return;
        }
        self.stamp_space(&mut message);
        if kind == MessageType::MsgTimeoutNow && !self.calls_to_take_over(to) {
            return;
        }
        let lane = if kind == MessageType::MsgAppend { Lane::Append } else { Lane::Control };
        self.effects.push(Effect::Send { to, lane, body: convert::message_bytes(&message) });
    }

    /// The invariant ODD, at every append, in every build.
    fn check_odd(&mut self, entries: &[eraftpb::Entry]) {
        for entry in entries.iter().filter(|entry| entry.entry_type() == EntryType::EntryConfChangeV2) {
            let guard = convert::conf_change(&entry.data).as_ref().and_then(Guard::of);
            match guard {
                Some(guard) if guard.is_odd() => {}
                Some(guard) => self.broken(
                    "ODD",
                    format!("entry {} changes {} voters to {}", entry.index, guard.before.len(), guard.after.len()),
                ),
                None => self.broken("ODD", format!("configuration entry {} carries no guard", entry.index)),
            }
        }
    }

    /// Committed and durable here, and where it has to be: to the applier, with what each entry means for those who wait.
    pub(super) fn hand_over(&mut self, entries: Vec<eraftpb::Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut committed = Vec::with_capacity(entries.len());
        let mut waiters = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let kind = entry.entry_type();
            let Some(LogEntry { index, term, data, .. }) = convert::entry(entry) else { continue };
            if index != self.handed.next() {
                self.broken("applied_in_order", format!("entry {index} follows {}", self.handed));
                return;
            }
            self.handed = index;
            bytes += data.len() as u64 + 64;
            let wanted = self.settle(index, term, &mut waiters);
            let payload = match kind {
                EntryType::EntryNormal if data.is_empty() => Payload::Empty,
                EntryType::EntryNormal => Payload::Commands { data, wanted },
                EntryType::EntryConfChangeV2 | EntryType::EntryConfChange => self.configure(index, &data),
            };
            committed.push(Committed { index, term, payload });
        }
        if self.stopped {
            return;
        }
        self.backlog.push_back((self.handed, bytes));
        self.effects.push(Effect::Apply { entries: committed, waiters });
    }

    /// Who waits for the entry that is handed over: the only place where what was promised at its index ends.
    fn settle(&mut self, index: LogIndex, term: Term, waiters: &mut Vec<(LogIndex, Vec<Ticket>)>) -> bool {
        let (tickets, answer) = match self.waiters.committed(index, term) {
            Owed::Outcome(tickets) if !self.is_disowned(index) => {
                waiters.push((index, tickets));
                return true;
            }
            Owed::Outcome(tickets) => (tickets, Answer::Unknown),
            Owed::Replaced(tickets) => (tickets, Answer::Refused(Rejection::Replaced)),
            Owed::Nothing => return false,
        };
        self.effects.extend(tickets.into_iter().map(|ticket| Effect::Answer { ticket, answer: answer.clone() }));
        false
    }

    /// The applier has as much as it is given at once.
    pub(super) fn applier_is_behind(&self) -> bool {
        self.backlog.len() >= ROUNDS_HANDED_MAX
    }

    /// The log writer has as much as it is given at once.
    pub(super) fn writer_is_behind(&self) -> bool {
        self.unpersisted.len() >= WRITES_HANDED_MAX
    }

    pub(super) fn backlog_is_full(&self) -> bool {
        self.writer_is_behind()
            || self.applier_is_behind()
            || self.copies.bytes() + self.backlog.iter().map(|(_, bytes)| bytes).sum::<u64>() > BACKLOG_BYTES_MAX
    }

    pub(super) fn on_applied(&mut self, index: LogIndex, records: Option<Arc<Records>>, leases: &[LeaseChange]) {
        if index < self.applied || index > self.handed {
            let (applied, handed) = (self.applied, self.handed);
            self.broken("applied_never_regresses", format!("reported {index}, was {applied}, handed over {handed}"));
            return;
        }
        self.applied = index;
        self.applier_answered();
        while self.backlog.front().is_some_and(|(upto, _)| *upto <= index) {
            self.backlog.pop_front();
        }
        if let Some(records) = records {
            self.records = records;
            self.note_records();
        }
        self.raw.advance_apply_to(index.0);
        self.pin_timeout();
        self.raw.mut_store().evict(index.0, self.config.cache_bytes);
        // Before anybody is answered out of this state.
        self.note_leases(leases);
        self.release_reads();
        self.cut_at_recovery();
        self.consider_cut();
    }

    /// The log of an incarnation begins at the entry that made it: what is before belongs to the one that it ended, and
    /// nobody who joins may be sent it. The state is in the same journal before the cut, so that it is durable with it.
    /// Level-triggered: done at the next start when a crash came between.
    pub(super) fn cut_at_recovery(&mut self) {
        let index = self.records.recovery.index;
        if self.raw.store().start().index < index
            && self.applied >= index
            && let Some(cut) = self.raw.mut_store().cut(index.0)
        {
            self.leadership.pending_cut = Some(cut);
        }
    }

    /// Forgets the log that nobody needs: never above what is applied, and not past a live follower that is only
    /// somewhat behind, or was sent a snapshot and is catching up.
    fn consider_cut(&mut self) {
        let start = self.raw.store().start().index.0;
        let held = self.applied.0 - start;
        let over_entries = held > self.config.log_window_entries;
        let over_bytes = self.raw.store().bytes() > self.config.log_window_bytes;
        if (!over_entries && !over_bytes) || self.leadership.pending_cut.is_some() {
            return;
        }
        let mut to = self.applied.0 - (held / 2).min(self.config.log_window_entries / 2);
        if self.is_leader() && held < 2 * self.config.log_window_entries && !over_bytes {
            let slowest = self
                .raw
                .raft
                .prs()
                .iter()
                .filter(|(id, progress)| **id != self.config.id.0 && progress.recent_active && progress.matched > 0)
                .map(|(_, progress)| progress.matched)
                .min();
            to = to.min(slowest.unwrap_or(to));
        }
        if self.is_leader()
            && let Some(kept) = self.kept_for_fed()
        {
            to = to.min(kept);
        }
        self.leadership.pending_cut = self.raw.mut_store().cut(to);
    }

    pub(super) fn note_fetches(&mut self) {
        for (number, from, to, max_bytes) in self.raw.store().new_fetches(self.fetches_known) {
            self.fetches_known = number;
            self.effects.push(Effect::Fetch { number, from: LogIndex(from), to: LogIndex(to), max_bytes });
        }
    }

    pub(super) fn on_fetched(&mut self, number: u64, entries: Vec<LogEntry>) {
        let entries = entries.into_iter().map(convert::raft_entry).collect();
        for context in self.raw.store().fetched(number, entries) {
            self.raw.on_entries_fetched(context);
        }
        self.raw.store().forget_fetched();
    }
}

#[cfg(test)]
mod tests;
