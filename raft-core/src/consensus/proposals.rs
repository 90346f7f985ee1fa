//! From a request to an entry: queue, version gate, batching, refusals.
//!
//! Owns what waits for the log. Many commands become one entry; while enough entries are on their way to the leader's
//! own disk, further commands gather, so that one sync serves all of them. Rules 9, 10 and 12 of design section 4.

use std::collections::VecDeque;

use raft::Error as RaftError;

use super::Consensus;
use super::io::{Answer, Effect, Origin, Rejection, Ticket};
use crate::command::{Batch, Command};
use crate::id::{LogIndex, Term};
use prost::Message as _;

/// A request that is not in the log yet.
#[derive(Debug)]
pub(super) struct Queued {
    ticket: Ticket,
    command: Command,
    origin: Origin,
    bytes: usize,
}

impl Queued {
    /// What it counts in an entry. One that may remove far more than it carries has an entry for itself: what an entry
    /// does is in memory at once.
    fn weight(&self, entry_bytes_max: usize) -> usize {
        if self.command.removes_many() { entry_bytes_max } else { self.bytes }
    }
}

/// What waits for the log, in order, and how much that is.
#[derive(Debug, Default)]
pub(super) struct Queue {
    commands: VecDeque<Queued>,
    bytes: usize,
    /// No command of it is of a newer version than this.
    newest: u32,
}

impl Queue {
    fn push_back(&mut self, queued: Queued) {
        self.bytes += queued.bytes;
        self.newest = self.newest.max(queued.command.version());
        self.commands.push_back(queued);
    }

    fn push_front(&mut self, queued: Queued) {
        self.bytes += queued.bytes;
        self.newest = self.newest.max(queued.command.version());
        self.commands.push_front(queued);
    }

    fn pop_front(&mut self) -> Option<Queued> {
        let queued = self.commands.pop_front()?;
        self.bytes -= queued.bytes;
        Some(queued)
    }

    /// Everything; nothing waits any more.
    fn take(&mut self) -> VecDeque<Queued> {
        std::mem::take(self).commands
    }
}

impl Consensus {
    pub(super) fn on_propose(&mut self, ticket: Ticket, command: Command, origin: Origin) {
        let waiting = self.queue.commands.len() + self.waiters.len();
        if waiting >= self.config.waiting_max {
            self.refuse(ticket, Rejection::Overloaded { waiting, max: self.config.waiting_max });
            return;
        }
        let (bytes, max) = (command.encoded_len(), self.config.waiting_bytes_max);
        if self.queue.bytes > 0 && self.queue.bytes + bytes > max {
            self.refuse(ticket, Rejection::OverloadedBytes { waiting: self.queue.bytes + bytes, max });
            return;
        }
        if !self.is_leader() && self.no_leader_is_old_news() {
            let rejection = self.no_leader();
            self.refuse(ticket, rejection);
            return;
        }
        self.queue.push_back(Queued { ticket, command, origin, bytes });
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, rejection: Rejection) {
        self.effects.push(Effect::Answer { ticket, answer: Answer::Refused(rejection) });
    }

    /// Moves what waits: into the log when this member leads, to the leader when another does. Without a leader, and
    /// while leadership is being handed over, it waits: the successor gets it.
    pub(super) fn propose_waiting(&mut self) {
        if self.queue.commands.is_empty() || self.transfer.is_some() {
            return;
        }
        if !self.is_leader() {
            if let Some(leader) = self.leader() {
                for Queued { ticket, origin, .. } in self.queue.take() {
                    let answer = match origin {
                        Origin::Here => Answer::Forward(leader),
                        Origin::Forwarded => Answer::Refused(Rejection::NotLeader { leader: Some(leader) }),
                    };
                    self.effects.push(Effect::Answer { ticket, answer });
                }
            }
            return;
        }
        if let Some(rejection) = self.read_only() {
            for Queued { ticket, .. } in self.queue.take() {
                self.refuse(ticket, rejection.clone());
            }
            return;
        }
        self.refuse_newer();
        while !self.stopped
            && self.is_leader()
            && !self.queue.commands.is_empty()
            && self.unpersisted.len() < self.config.unpersisted_max
            && !self.backlog_is_full()
            && !self.copies_are_behind()
        {
            if !self.propose_one_entry() {
                break;
            }
            // The entry must be on its way before the next one is filled, or the bound above would not see it.
            self.drive();
        }
    }

    /// The version gate (rule 12), the leader's alone: whoever only passes a command on may not have heard yet that the
    /// upgrade was finished. A leader that has not applied that itself refuses, which is never wrong.
    fn refuse_newer(&mut self) {
        let current = self.records.cluster.version;
        if self.queue.newest <= current {
            return;
        }
        for queued in self.queue.take() {
            let needed = queued.command.version();
            if needed > current {
                self.refuse(queued.ticket, Rejection::VersionNotEnabled { needed, current });
            } else {
                self.queue.push_back(queued);
            }
        }
    }

    fn propose_one_entry(&mut self) -> bool {
        let mut commands = Vec::new();
        let mut tickets = Vec::new();
        let mut from = Vec::new();
        let mut total = 0;
        while let Some(next) = self.queue.commands.front() {
            let weight = next.weight(self.config.entry_bytes_max);
            if !commands.is_empty() && total + weight > self.config.entry_bytes_max {
                break;
            }
            total += weight;
            if let Some(Queued { ticket, command, origin, bytes }) = self.queue.pop_front() {
                commands.push(command);
                tickets.push(ticket);
                from.push((origin, bytes));
            }
        }
        let batch = Batch::new(commands);
        match self.raw.propose(Vec::new(), batch.encode_to_vec()) {
            Ok(()) => {
                let index = LogIndex(self.raw.raft.raft_log.last_index());
                let term = Term(self.raw.raft.term);
                for ticket in self.waiters.register(index, term, tickets) {
                    self.effects.push(Effect::Answer { ticket, answer: Answer::Unknown });
                }
                true
            }
            Err(RaftError::ProposalDropped) => {
                // Too much is uncommitted, or leadership is just going: it waits.
                for ((ticket, command), (origin, bytes)) in tickets.into_iter().zip(batch.commands).zip(from).rev() {
                    self.queue.push_front(Queued { ticket, command, origin, bytes });
                }
                false
            }
            Err(error) => {
                self.broken("proposals_are_taken_or_dropped", error.to_string());
                false
            }
        }
    }

    /// Everybody in the queue has waited too long for a leader.
    pub(super) fn refuse_waiting(&mut self) {
        let rejection = self.no_leader();
        for Queued { ticket, .. } in self.queue.take() {
            self.refuse(ticket, rejection.clone());
        }
        for ticket in self.reads.give_up().into_iter().chain(self.leases.give_up()) {
            self.refuse(ticket, rejection.clone());
        }
    }
}

#[cfg(test)]
mod tests;
