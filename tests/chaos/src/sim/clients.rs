//! Clients: writes with request ids, retries of unknown ones elsewhere, reads; and the one-off requests of scenarios.
//!
//! Owns who asked what and what was answered. A client never gives a request id up before it knows the outcome. Called
//! by the world.

use bytes::Bytes;

use super::asks::{Ask, Reply, What, name};
use super::check::{broken, keys};
use super::config::MILLIS;
use super::event::Event;
use super::world::{Run, Step, World};
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::consensus::io::{Input, Origin, Rejection, Ticket};
use quorate_core::id::{ClientId, LeaseId, LogIndex, RaftId};
use quorate_core::state::contract::{Outcome, Refusal};
use quorate_core::state::read;
use quorate_core::txn::{Op, Put, Range, Txn};

/// A client with several requests open.
pub(super) struct Client {
    id: u64,
    next: u64,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// The write whose outcome is not known yet, and what was known when it began.
    open: Option<(u64, u64)>,
    busy: Option<Ticket>,
}

impl Client {
    pub(super) fn new(id: u64, slots: u64) -> Self {
        Self { id, next: 1, slots: (0..slots).map(|_| Slot::default()).collect() }
    }

    /// Another client from now on.
    fn be_born_again(&mut self) {
        self.id += 1_000;
        self.next = 1;
        self.slots.iter_mut().for_each(|slot| slot.open = None);
    }

    fn low_water(&self) -> u64 {
        self.slots.iter().filter_map(|slot| slot.open).map(|(sequence, _)| sequence).min().unwrap_or(self.next) - 1
    }

    pub(super) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.open.is_none() && slot.busy.is_none())
    }
}

/// A write of one client: its own key, and its counter.
fn write(client: u64, sequence: u64, low_water: u64, bytes: u64) -> Command {
    let (counter, own) = keys(client, sequence);
    let value = Bytes::from(vec![b'v'; usize::try_from(bytes).unwrap_or(0)]);
    let put = |key, value| Op::from(Put { key, value, ..Put::default() });
    let txn = Txn {
        then: vec![put(counter, Bytes::copy_from_slice(&sequence.to_be_bytes())), put(own, value)],
        ..Txn::default()
    };
    let mut id = [7; 16];
    id[8..].copy_from_slice(&client.to_be_bytes());
    CommandKind::Request(Request {
        client: Bytes::copy_from_slice(ClientId::from_bytes(id).as_bytes()),
        sequence,
        low_water,
        txn: Some(txn),
        ..Request::default()
    })
    .into()
}

impl World {
    fn somebody(&mut self) -> Option<RaftId> {
        let up: Vec<RaftId> = self.members.iter().filter(|(_, m)| m.process.is_some()).map(|(id, _)| *id).collect();
        self.work.pick(&up)
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Asks a member; the answer comes to `owner`, or is kept for [`World::reply`].
    pub(super) fn ask(&mut self, at: RaftId, what: What, floor: u64, owner: Option<(u64, u64)>) -> Step<Ticket> {
        let ticket = self.ticket();
        let input = match &what {
            What::Write { command, .. }
            | What::Other { command }
            | What::Hold { command, .. }
            | What::Register { command: Some(command), .. }
            | What::Controller { command: Some(command), .. } => {
                Input::Propose { ticket, command: command.clone(), origin: Origin::Here }
            }
            What::Renew { lease, .. } => Input::Renew { ticket, lease: *lease, origin: Origin::Here },
            What::Register { command: None, .. } | What::Controller { command: None, .. } | What::Read => {
                Input::Read { ticket }
            }
            What::Transfer => Input::Transfer { ticket, to: None },
        };
        let term_floor = self.checks_of(at).told_term();
        self.asks.insert(ticket, Ask { what, owner, at, floor, term_floor, reply: None });
        self.submit(at, ticket, input)?;
        Ok(ticket)
    }

    fn submit(&mut self, at: RaftId, ticket: Ticket, input: Input) -> Step {
        let process = self.members.get_mut(&at).and_then(|member| member.process.as_mut());
        if let Some(process) = process {
            process.tickets.insert(ticket, None);
        }
        self.trace.line(self.now, || format!("{at} is asked, ticket {}", ticket.0));
        self.input(at, [input])
    }

    /// A client's slot does its next thing.
    pub(super) fn client(&mut self, client: u64, slot: u64) -> Step {
        let (c, s) = (usize::try_from(client).unwrap_or(0), usize::try_from(slot).unwrap_or(0));
        let reads = self.work.chance(300);
        let at = self.somebody();
        let floor = at.map_or(0, |at| self.checks_of(at).floor);
        let bytes = self.config.value_bytes;
        let running = self.faults || self.config.fault_every == 0 && self.config.duration > self.now;
        let Some(state) = self.clients.get_mut(c) else { return Ok(()) };
        let id = state.id;
        let Some(open) = state.slots.get(s).map(|slot| slot.open) else { return Ok(()) };
        let Some(at) = at else {
            let again = self.now + 100 * MILLIS;
            self.schedule(again, Event::Client { client, slot });
            return Ok(());
        };
        if open.is_none()
            && running
            && let Some(end) = self.quiet_until()
        {
            let again = end + self.work.between(1, self.config.think);
            self.schedule(again, Event::Client { client, slot });
            return Ok(());
        }
        let Some(state) = self.clients.get_mut(c) else { return Ok(()) };
        let (what, floor) = match open {
            None if !running => return Ok(()),
            None if reads => (What::Read, floor),
            None => {
                let sequence = state.next;
                state.next += 1;
                if let Some(slot) = state.slots.get_mut(s) {
                    slot.open = Some((sequence, floor));
                }
                (What::Write { client: id, sequence, command: write(id, sequence, state.low_water(), bytes) }, floor)
            }
            Some((sequence, floor)) => {
                self.report.retries += 1;
                (What::Write { client: id, sequence, command: write(id, sequence, state.low_water(), bytes) }, floor)
            }
        };
        let timeout = self.now + self.config.patience;
        let expected = Ticket(self.next_ticket + 1);
        if let Some(slot) = self.clients.get_mut(c).and_then(|client| client.slots.get_mut(s)) {
            slot.busy = Some(expected);
        }
        self.schedule(timeout, Event::Timeout { ticket: expected });
        if let What::Write { client, sequence, .. } = &what {
            let write = (*client, *sequence);
            self.checks_of(at).attempted.insert(write);
        }
        self.ask(at, what, floor, Some((client, slot)))?;
        Ok(())
    }

    /// The client has waited long enough: it does not know.
    pub(super) fn timed_out(&mut self, ticket: Ticket) -> Step {
        let Some(ask) = self.asks.remove(&ticket) else { return Ok(()) };
        if let Some(holder) = ask.what.holder() {
            return self.holder_told(holder, None);
        }
        self.report.unknown += 1;
        if let What::Register { index, .. } = ask.what {
            return self.register_told(index, ask.at, None);
        }
        if let What::Controller { key, .. } = &ask.what {
            return self.controller_told(ask.at, ticket, key.as_deref(), None);
        }
        self.again(ask.owner, false)
    }

    fn again(&mut self, owner: Option<(u64, u64)>, known: bool) -> Step {
        let Some((client, slot)) = owner else { return Ok(()) };
        let (c, s) = (usize::try_from(client).unwrap_or(0), usize::try_from(slot).unwrap_or(0));
        if let Some(slot) = self.clients.get_mut(c).and_then(|client| client.slots.get_mut(s)) {
            slot.busy = None;
            if known {
                slot.open = None;
            }
        }
        let at = self.now + self.work.between(1, self.config.think);
        self.schedule(at, Event::Client { client, slot });
        Ok(())
    }

    /// A reply has reached the member that was asked.
    pub(super) fn replied(&mut self, at: RaftId, ticket: Ticket, reply: Reply) -> Step {
        let waits = |ask: &&Ask| ask.at == at && ask.reply.is_none();
        if let Some(term_floor) = self.asks.get(&ticket).filter(waits).map(|ask| ask.term_floor)
            && let Reply::ReadAt { index, term } = reply
        {
            self.checks_of(at).read_confirmed(at, index.0, term.0, term_floor)?;
        }
        let Some(ask) = self.asks.get_mut(&ticket).filter(|ask| ask.at == at && ask.reply.is_none()) else {
            return Ok(());
        };
        let (what, floor, owner) = (ask.what.clone(), ask.floor, ask.owner);
        if let Some(holder) = what.holder() {
            self.asks.remove(&ticket);
            self.trace.line(self.now, || format!("{at} answers ticket {}: {}", ticket.0, name(&reply)));
            return self.holder_told(holder, Some(reply));
        }
        if let What::Register { index, .. } = what {
            self.asks.remove(&ticket);
            self.trace.line(self.now, || format!("{at} answers ticket {}: {}", ticket.0, name(&reply)));
            self.count(&reply);
            return self.register_told(index, at, Some(reply));
        }
        if let What::Controller { key, .. } = &what {
            self.asks.remove(&ticket);
            return self.controller_told(at, ticket, key.as_deref(), Some(reply));
        }
        if owner.is_none() {
            ask.reply = Some(reply.clone());
        } else {
            self.asks.remove(&ticket);
        }
        self.trace.line(self.now, || format!("{at} answers ticket {}: {}", ticket.0, name(&reply)));
        let known = match (&what, &reply) {
            (What::Write { client, sequence, .. }, Reply::Outcome(Outcome::Done(done))) => {
                self.report.acks += 1;
                if done.replayed {
                    self.marks.hit("retry answered from the replay table", "any");
                }
                self.checks_of(at).write_acked(*client, *sequence, done.revision, done.replayed, floor)?;
                true
            }
            // What made it known is lost with the managers that the recovery gave up: it begins anew.
            (What::Write { .. }, Reply::Outcome(Outcome::Refused(Refusal::RequestExpired { .. })))
                if self.incarnation(at) > 0 && owner.is_some() =>
            {
                if let Some(client) = owner.and_then(|(client, _)| self.clients.get_mut(usize::try_from(client).ok()?))
                {
                    client.be_born_again();
                }
                true
            }
            (What::Write { client, sequence, .. }, Reply::Outcome(Outcome::Refused(refusal))) => {
                return broken("a_write_within_limits_is_done", format!("{client}/{sequence}: {}", refusal));
            }
            (What::Read, Reply::ReadAt { index, .. }) => {
                self.serve(at, *index, floor)?;
                true
            }
            (_, Reply::Refused(rejection)) => {
                self.report.refused += 1;
                if *rejection == Rejection::Replaced {
                    self.report.replaced += 1;
                }
                false
            }
            (What::Transfer, Reply::Transferred(_)) => {
                self.report.transfers += 1;
                true
            }
            (_, Reply::Unknown) => {
                self.report.unknown += 1;
                false
            }
            (
                _,
                Reply::Outcome(_)
                | Reply::ReadAt { .. }
                | Reply::Transferred(_)
                | Reply::Renewed { .. }
                | Reply::LeaseGone
                | Reply::LeaseTimes(_),
            ) => true,
        };
        self.again(owner, known)
    }

    /// What a process of the history was told, for the report.
    fn count(&mut self, reply: &Reply) {
        match reply {
            Reply::Outcome(Outcome::Done(_)) => self.report.acks += 1,
            Reply::ReadAt { .. } => self.report.reads += 1,
            Reply::Refused(_) => self.report.refused += 1,
            Reply::Unknown => self.report.unknown += 1,
            Reply::Outcome(Outcome::Refused(_))
            | Reply::Renewed { .. }
            | Reply::LeaseGone
            | Reply::LeaseTimes(_)
            | Reply::Transferred(_) => {}
        }
    }

    /// Reads at once from the state of `at`, as a manager does that got its `ReadAt`.
    fn serve(&mut self, at: RaftId, index: LogIndex, floor: u64) -> Step {
        let Some(process) = self.members.get(&at).and_then(|member| member.process.as_ref()) else { return Ok(()) };
        let view = process.reader.view();
        let Ok(status) = read::status(&*view) else { return broken("a_view_can_be_read", at.to_string()) };
        if status.applied < index {
            return broken("linearizable_reads", format!("{at} has applied {}, {index} was promised", status.applied));
        }
        // The newest write that was acknowledged before this read began must be seen by it.
        let Some(checks) = self.members.get(&at).and_then(|member| self.checks.get(member.incarnation)) else {
            return Ok(());
        };
        if let Some((_, (client, sequence))) = checks.revisions.range(..=floor).next_back() {
            let (_, own) = keys(*client, *sequence);
            let found = read::range(&*view, &Range { key: own, ..Range::default() });
            if found.is_ok_and(|found| found.entries.len() != 1) {
                return broken("linearizable_reads", format!("{at} does not see write {client}/{sequence}"));
            }
        }
        self.report.reads += 1;
        self.checks_of(at).read_done(at, status.revision.0, floor)
    }

    /// Asks `at` to write, as its own request of a client of its own.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn propose(&mut self, at: RaftId, sequence: u64) -> Run<Ticket> {
        let floor = self.checks_of(at).floor;
        let what = What::Write { client: 1_000_000, sequence, command: write(1_000_000, sequence, 0, 16) };
        self.checks_of(at).attempted.insert((1_000_000, sequence));
        self.ask(at, what, floor, None).map_err(|broken| self.violation(broken))
    }

    /// Asks `at` for any command.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn command(&mut self, at: RaftId, command: Command) -> Run<Ticket> {
        self.ask(at, What::Other { command }, 0, None).map_err(|broken| self.violation(broken))
    }

    /// Asks `at` for many writes in one step.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn propose_many(&mut self, at: RaftId, sequences: std::ops::Range<u64>) -> Run<Vec<Ticket>> {
        let floor = self.checks_of(at).floor;
        let mut inputs = Vec::new();
        let mut tickets = Vec::new();
        for sequence in sequences {
            let ticket = self.ticket();
            let command = write(1_000_000, sequence, 0, 16);
            self.checks_of(at).attempted.insert((1_000_000, sequence));
            inputs.push(Input::Propose { ticket, command: command.clone(), origin: Origin::Here });
            let what = What::Write { client: 1_000_000, sequence, command };
            self.asks.insert(ticket, Ask { what, owner: None, at, floor, term_floor: 0, reply: None });
            if let Some(process) = self.members.get_mut(&at).and_then(|member| member.process.as_mut()) {
                process.tickets.insert(ticket, None);
            }
            tickets.push(ticket);
        }
        self.input(at, inputs).map_err(|broken| self.violation(broken))?;
        Ok(tickets)
    }

    /// Asks `at` for a linearizable read.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn read(&mut self, at: RaftId) -> Run<Ticket> {
        let floor = self.checks_of(at).floor;
        self.ask(at, What::Read, floor, None).map_err(|broken| self.violation(broken))
    }

    /// Asks `at` to let a lease go on.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn renew(&mut self, at: RaftId, lease: LeaseId) -> Run<Ticket> {
        self.ask(at, What::Renew { holder: None, lease }, 0, None).map_err(|broken| self.violation(broken))
    }

    /// Asks `at` to hand leadership over, to `to` or to whom it likes.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn transfer(&mut self, at: RaftId, to: Option<RaftId>) -> Run<Ticket> {
        let ticket = self.ticket();
        self.asks.insert(ticket, Ask { what: What::Transfer, owner: None, at, floor: 0, term_floor: 0, reply: None });
        self.submit(at, ticket, Input::Transfer { ticket, to }).map_err(|broken| self.violation(broken))?;
        Ok(ticket)
    }

    /// What was answered, once it was.
    pub fn reply(&self, ticket: Ticket) -> Option<&Reply> {
        self.asks.get(&ticket)?.reply.as_ref()
    }

    /// Tickets that no running member has answered yet.
    pub fn unanswered(&self) -> usize {
        self.members.values().filter_map(|member| member.process.as_ref()).map(|process| process.tickets.len()).sum()
    }

    pub(super) fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(Client::is_idle)
    }
}
