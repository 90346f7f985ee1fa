//! Clients of registers: they read, write, swap and remove a few keys, and what they are told is a history.
//!
//! Owns the processes of that history, each with one operation at a time. One that hears nothing in time either asks again
//! with the same request id, elsewhere, or gives up: then its operation is unknown for ever and its process is no more. After
//! peace the checkers of [`crate::check`] judge the whole history. Called by the world.

use bytes::Bytes;

use super::asks::{Reply, What};
use super::check::broken;
use super::config::MILLIS;
use super::event::Event;
use super::world::{Step, World};
use crate::check::{self, Limit, Verdict};
use crate::history::{self, Action, Answer, Operation};
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::consensus::io::{Rejection, Ticket};
use quorate_core::id::{ClientId, LogIndex, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::state::contract::Outcome;
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::{Compare, Delete, Op, OpResultKind, Operand, Put, Range, Relation, Txn};

/// Registers: few, so that they are fought for.
const KEYS: u64 = 4;
/// Steps of the search for each key; what takes more is counted, and judged by revisions alone.
const STEPS: u64 = 200_000;

/// A client with one operation at a time.
pub(super) struct Register {
    process: u64,
    sequence: u64,
    /// What is under way; its result is still missing.
    open: Option<Operation>,
    busy: Option<Ticket>,
    /// How often it was asked for.
    attempts: u64,
}

impl Register {
    pub(super) const fn new(process: u64) -> Self {
        Self { process, sequence: 0, open: None, busy: None, attempts: 0 }
    }

    /// The request of the operation that is open; a retry is the same one. A read is none.
    fn command(&self) -> Option<Command> {
        let open = self.open.as_ref()?;
        let key = Section::User.key(open.key.as_bytes());
        let put = |value: &str| -> Op {
            Put { key: key.clone(), value: Bytes::copy_from_slice(value.as_bytes()), ..Put::default() }.into()
        };
        let txn = match &open.action {
            Action::Get => return None,
            Action::Put(value) => Txn { then: vec![put(value)], ..Txn::default() },
            Action::Delete => {
                Txn { then: vec![Delete { key: key.clone(), ..Delete::default() }.into()], ..Txn::default() }
            }
            Action::Cas(from, to) => {
                let expected = from.as_ref().map_or_else(
                    || Compare::absent(key.clone()),
                    |from| {
                        let from = Bytes::copy_from_slice(from.as_bytes());
                        Compare::new(key.clone(), Relation::Equal, Operand::Value(from))
                    },
                );
                Txn { compares: vec![expected], then: vec![put(to)], ..Txn::default() }
            }
        };
        let mut id = [11; 16];
        id[8..].copy_from_slice(&self.process.to_be_bytes());
        let request = Request {
            client: Bytes::copy_from_slice(ClientId::from_bytes(id).as_bytes()),
            sequence: self.sequence,
            low_water: self.sequence.saturating_sub(1),
            txn: Some(txn),
            ..Request::default()
        };
        Some(CommandKind::Request(request).into())
    }
}

impl World {
    /// A process does its next thing.
    pub(super) fn register(&mut self, index: usize) -> Step {
        let running = self.faults || self.config.fault_every == 0 && self.config.duration > self.now;
        let up: Vec<RaftId> = self.members.iter().filter(|(_, m)| m.process.is_some()).map(|(id, _)| *id).collect();
        let at = self.registering.pick(&up);
        let (kind, key) = (self.registering.between(0, 9), self.registering.between(0, KEYS - 1));
        let expects = self.registering.chance(700);
        let Some(at) = at else {
            self.schedule(self.now + 100 * MILLIS, Event::Register { index });
            return Ok(());
        };
        let idle = self.registers.get(index).is_some_and(|register| register.open.is_none());
        if idle
            && running
            && let Some(end) = self.quiet_until()
        {
            let again = end + self.registering.between(1, self.config.think);
            self.schedule(again, Event::Register { index });
            return Ok(());
        }
        let seen = self.last_seen.get(usize::try_from(key).unwrap_or(0)).cloned().flatten();
        let (now, expected) = (self.now, Ticket(self.next_ticket + 1));
        let Some(register) = self.registers.get_mut(index) else { return Ok(()) };
        if register.open.is_none() {
            if !running {
                return Ok(());
            }
            register.sequence += 1;
            register.attempts = 0;
            let value = format!("{}.{}", register.process, register.sequence);
            let action = match kind {
                0..=3 => Action::Get,
                4..=6 => Action::Put(value),
                7 | 8 => Action::Cas(seen.filter(|_| expects), value),
                _ => Action::Delete,
            };
            register.open = Some(Operation {
                process: register.process,
                action,
                key: format!("r{key}"),
                result: Answer::Value(None),
                revision: None,
                node: Some(at.0),
                call_ns: now,
                return_ns: None,
                outcome: history::Outcome::Unknown,
            });
        } else if let Some(open) = &mut register.open {
            open.node = Some(at.0);
        }
        register.busy = Some(expected);
        register.attempts += 1;
        let command = register.command();
        self.schedule(now + self.config.patience, Event::Timeout { ticket: expected });
        self.ask(at, What::Register { index, command }, 0, None).map(|_: Ticket| ())
    }

    /// What came of it; `None`: nothing in time.
    pub(super) fn register_told(&mut self, index: usize, at: RaftId, reply: Option<Reply>) -> Step {
        let think = self.registering.between(1, self.config.think);
        let gives_up = self.registering.chance(300) || !self.faults;
        let Some(register) = self.registers.get_mut(index) else { return Ok(()) };
        register.busy = None;
        let first_attempt = register.attempts == 1;
        let Some(open) = register.open.take() else { return Ok(()) };
        let now = self.now;
        self.schedule(now + think, Event::Register { index });
        let done = |revision, result| Operation {
            result,
            revision,
            return_ns: Some(now),
            outcome: history::Outcome::Ok,
            ..open.clone()
        };
        let told = match reply {
            Some(Reply::Outcome(Outcome::Done(outcome))) => {
                let removed = match outcome.results.first().and_then(|result| result.kind.as_ref()) {
                    Some(OpResultKind::Delete(deleted)) => deleted.deleted > 0,
                    Some(OpResultKind::Put(_) | OpResultKind::Range(_)) | None => false,
                };
                match &open.action {
                    Action::Cas(..) => done(Some(outcome.revision), Answer::Swapped(outcome.succeeded)),
                    // What removed nothing has no revision of its own.
                    Action::Delete => done(removed.then_some(outcome.revision), Answer::Value(None)),
                    Action::Put(_) | Action::Get => done(Some(outcome.revision), Answer::Value(None)),
                }
            }
            Some(Reply::ReadAt { index: at_index, .. }) => match self.read_register(at, at_index, &open.key)? {
                Some((revision, value)) => done(Some(revision), Answer::Value(value)),
                None => return Ok(()),
            },
            // Certainly not done, unless an earlier attempt was.
            Some(Reply::Refused(Rejection::Replaced)) if gives_up && first_attempt => {
                Operation { return_ns: Some(now), outcome: history::Outcome::Fail, ..open }
            }
            // A read has no effect: what was not answered says nothing.
            _ if open.action == Action::Get => return Ok(()),
            Some(
                Reply::Outcome(Outcome::Refused(_))
                | Reply::Refused(_)
                | Reply::Unknown
                | Reply::Renewed { .. }
                | Reply::LeaseGone
                | Reply::LeaseTimes(_)
                | Reply::Transferred(_),
            )
            | None => {
                if gives_up {
                    self.processes += 1;
                    let fresh = Register::new(self.processes);
                    if let Some(place) = self.registers.get_mut(index) {
                        *place = fresh;
                    }
                    open
                } else {
                    // The same request again, at another member.
                    if let Some(register) = self.registers.get_mut(index) {
                        register.open = Some(open);
                    }
                    return Ok(());
                }
            }
        };
        self.remember(&told);
        self.history.push(told);
        Ok(())
    }

    /// What a swap may expect next.
    fn remember(&mut self, operation: &Operation) {
        let number = operation.key.strip_prefix('r').and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        let value = match (&operation.action, &operation.result) {
            (Action::Put(value), _) | (Action::Cas(_, value), Answer::Swapped(true)) => Some(value.clone()),
            (Action::Get, Answer::Value(value)) => value.clone(),
            (Action::Delete, _) => None,
            (Action::Cas(..) | Action::Get, _) => return,
        };
        if let Some(place) = self.last_seen.get_mut(number) {
            *place = value;
        }
    }

    /// Reads at once from the state of `at`, as a manager does that got its `ReadAt`; `None` when it is down, or stops over what it
    /// cannot read.
    pub(super) fn read_register(
        &mut self,
        at: RaftId,
        index: LogIndex,
        key: &str,
    ) -> Step<Option<(u64, Option<String>)>> {
        let Some(view) = self.view(at) else { return Ok(None) };
        let Ok(status) = read::status(&*view) else { return broken("a_view_can_be_read", at.to_string()) };
        if status.applied < index {
            return broken("linearizable_reads", format!("{at} has applied {}, {index} was promised", status.applied));
        }
        let range = Range { key: Section::User.key(key.as_bytes()), ..Range::default() };
        let found = match read::range(&*view, &range) {
            Ok(found) => found,
            Err(ReadError::Store(error)) => {
                self.unreadable(at, "a_view_can_be_read", error)?;
                return Ok(None);
            }
            Err(ReadError::Refused(refusal)) => return broken("a_view_can_be_read", format!("{at}: {refusal}")),
        };
        let value = found.entries.first().map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
        Ok(Some((status.revision.0, value)))
    }

    /// After peace: what every process was told, judged.
    pub(super) fn judge_registers(&mut self) -> Step {
        // Whoever still waits does not know.
        let open: Vec<Operation> = self.registers.iter_mut().filter_map(|register| register.open.take()).collect();
        self.history.extend(open.into_iter().filter(|operation| operation.action != Action::Get));
        self.report.judged += self.history.len() as u64;
        if self.history.is_empty() {
            return Ok(());
        }
        for finding in check::check(&self.history, Limit::steps(STEPS)) {
            match finding.verdict {
                Verdict::Pass => {}
                Verdict::Inconclusive => self.report.unjudged += 1,
                Verdict::Fail => {
                    return broken("linearizable_registers", format!("{}: {}", finding.checker, finding.detail));
                }
            }
        }
        Ok(())
    }

    /// What processes did and were told so far.
    pub fn history(&self) -> &[Operation] {
        &self.history
    }
}
