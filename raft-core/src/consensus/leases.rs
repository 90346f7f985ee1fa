//! Leases of keys: who is in time, and whose time is over. Not the lease of leadership; that is in `leadership`.
//!
//! Owns the leader's ledger: until when each lease was renewed. A pure count on the machine's own clock, of this leadership
//! only: a new leader, and one that slept for more than an election timeout, begins every lease anew with its whole time to
//! live. Nothing of it is in the log; what is, are grants, revocations and expiries ([`crate::state`]). Called by the
//! machine for each question, tick and applied round.
//!
//! # Why no lease ends early
//! A holder that was told "renewed", or "granted", at a question sent at moment S has its lease at least until S plus its time
//! to live (on clocks that differ by less than [`SLACK`]):
//! - *The leader that answered ends it.* It counts from the moment of its answer, which is after S.
//! - *A leader of a later term ends it.* The answer came after a quorum round of the earlier term that began after the
//!   question arrived, so that a majority had not voted in a later term at S: whoever leads later was elected after S, and
//!   has begun the lease anew then. For a grant the same holds by the commit of its entry.
//! - *A leader of an earlier term ends it.* Its expiry is an entry of its own term, and void in an entry of any other. Before
//!   a leader answers anybody it has committed an entry of its own term and applied all before: a valid expiry of an earlier
//!   term that is ever committed lies below, so the lease is gone already where it answers, and the answer is "gone".
//! - *Its expiry is under way while the holder asks.* One machine both renews and proposes expiries. From the proposal until
//!   the entry is applied nobody is told that one of its leases was renewed: they wait for the outcome. Then the lease is
//!   gone, or, where the entry left it out, it is renewed. If leadership ends before, they are told so, and ask again.
//! - *Its holder asks while it is due.* A lease that somebody is about to renew is not proposed to end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::Message as _;

use super::Consensus;
use super::io::{Answer, Effect, Nanos, Origin, Rejection, Ticket};
use super::reads::Caller;
use crate::command::{Batch, Command, CommandKind, ExpireLeases};
use crate::id::{LeaseId, LogIndex};
use crate::mutants::{Mutant, on};
use crate::state::contract::{LeaseChange, LeaseEvent};

/// Leases named by one expiry.
const EXPIRED_AT_ONCE: usize = 1024;
/// What clocks may differ by: a lease ends after its time to live and one part in so many of it.
const SLACK: u64 = 32;

/// A question that nobody has been asked yet.
#[derive(Debug)]
struct Queued {
    ticket: Ticket,
    lease: LeaseId,
    origin: Origin,
}

#[derive(Debug)]
struct Known {
    ttl_ms: u64,
    /// Where this member leads: when its time is over.
    deadline: Nanos,
}

impl Known {
    const fn ttl_nanos(&self) -> u64 {
        self.ttl_ms.saturating_mul(1_000_000)
    }

    const fn slack_nanos(&self) -> u64 {
        self.ttl_nanos() / SLACK
    }

    const fn deadline_from(&self, now: Nanos) -> Nanos {
        Nanos(now.0.saturating_add(self.ttl_nanos()).saturating_add(self.slack_nanos()))
    }
}

/// An expiry in the log that is not applied yet.
#[derive(Debug)]
struct Flight {
    index: LogIndex,
    leases: BTreeSet<LeaseId>,
    /// Holders whose round has come back meanwhile.
    waiting: Vec<(Ticket, LeaseId)>,
}

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Leases {
    known: BTreeMap<LeaseId, Known>,
    /// By deadline, where this member leads.
    due: Option<BTreeSet<(Nanos, LeaseId)>>,
    flight: Option<Flight>,
    /// Asked while nobody was known to lead.
    queue: VecDeque<Queued>,
}

impl Leases {
    /// Of a state.
    pub(super) fn of(all: Vec<(LeaseId, u64)>) -> Self {
        let known = |(lease, ttl_ms)| (lease, Known { ttl_ms, deadline: Nanos(0) });
        Self { known: all.into_iter().map(known).collect(), ..Self::default() }
    }

    /// A snapshot has replaced the state. Who installs one does not lead.
    pub(super) fn installed(&mut self, all: Vec<(LeaseId, u64)>) {
        self.known = Self::of(all).known;
    }

    /// Every lease begins anew, where this member leads.
    pub(super) fn restart(&mut self, now: Nanos) {
        if let Some(due) = &mut self.due {
            due.clear();
            for (lease, known) in &mut self.known {
                known.deadline = known.deadline_from(now);
                due.insert((known.deadline, *lease));
            }
        }
    }

    /// A leadership begins here, or there is none here any more. Those are given back who wait for what the earlier one did.
    fn leadership_changed(&mut self, leads: bool, now: Nanos) -> Vec<Ticket> {
        self.due = leads.then(BTreeSet::new);
        self.restart(now);
        self.flight
            .take()
            .map_or_else(Vec::new, |flight| flight.waiting.into_iter().map(|(ticket, _)| ticket).collect())
    }

    /// It goes on from now; its time to live. `None` when there is no such lease.
    fn renew(&mut self, lease: LeaseId, now: Nanos) -> Option<u64> {
        let known = self.known.get_mut(&lease)?;
        if let Some(due) = &mut self.due {
            due.remove(&(known.deadline, lease));
            known.deadline = known.deadline_from(now);
            due.insert((known.deadline, lease));
        }
        Some(known.ttl_ms)
    }

    fn note(&mut self, change: LeaseChange, now: Nanos) {
        let LeaseChange { lease, event } = change;
        match event {
            LeaseEvent::Granted { ttl_ms } => {
                self.known.insert(lease, Known { ttl_ms, deadline: now });
                self.renew(lease, now);
            }
            LeaseEvent::Revoked | LeaseEvent::Expired => {
                if let (Some(known), Some(due)) = (self.known.remove(&lease), &mut self.due) {
                    due.remove(&(known.deadline, lease));
                }
            }
        }
    }

    /// Whose time is over, the longest first, without those that somebody is about to renew.
    fn overdue(&self, now: Nanos, holders: impl Iterator<Item = LeaseId>) -> BTreeSet<LeaseId> {
        let Some(due) = self.due.as_ref().filter(|due| due.first().is_some_and(|(first, _)| *first <= now)) else {
            return BTreeSet::new();
        };
        let held: BTreeSet<LeaseId> = holders.collect();
        let over = due.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, lease)| *lease);
        over.filter(|lease| !held.contains(lease)).take(EXPIRED_AT_ONCE).collect()
    }

    /// Everybody whose question nobody was asked, to be told that there is no leader.
    pub(super) fn give_up(&mut self) -> Vec<Ticket> {
        self.queue.drain(..).map(|queued| queued.ticket).collect()
    }

    /// Who waits here.
    fn pending(&self) -> usize {
        self.queue.len() + self.flight.as_ref().map_or(0, |flight| flight.waiting.len())
    }
}

impl Consensus {
    /// A holder asks: it is taken to the next quorum round here, or to who leads.
    pub(super) fn on_renew(&mut self, ticket: Ticket, lease: LeaseId, origin: Origin) {
        let waiting = self.reads.pending() + self.leases.pending();
        if waiting >= self.config.waiting_max {
            self.refuse(ticket, Rejection::Overloaded { waiting, max: self.config.waiting_max });
        } else if !self.is_leader() && self.no_leader_is_old_news() {
            let rejection = self.no_leader();
            self.refuse(ticket, rejection);
        } else {
            self.leases.queue.push_back(Queued { ticket, lease, origin });
        }
    }

    /// Questions go to a round of this leadership, or to who leads; without a leader they wait.
    pub(super) fn direct_renewals(&mut self) {
        let (leads, leader) = (self.is_leader(), self.leader());
        if !leads && leader.is_none() {
            return;
        }
        while let Some(Queued { ticket, lease, origin }) = self.leases.queue.pop_front() {
            match leader.filter(|_| !leads && origin == Origin::Here) {
                Some(leader) => self.effects.push(Effect::Answer { ticket, answer: Answer::Forward(leader) }),
                None if leads && on(Mutant::RenewalWithoutQuorum) => self.renew(ticket, lease),
                None if leads => self.reads.ask(Caller::Holder(ticket, lease)),
                None => self.refuse(ticket, Rejection::NotLeader { leader }),
            }
        }
    }

    /// A round that began after the holder's question has come back, and everything acknowledged before is applied.
    pub(super) fn renew(&mut self, ticket: Ticket, lease: LeaseId) {
        if let Some(flight) = self.leases.flight.as_mut().filter(|flight| flight.leases.contains(&lease)) {
            flight.waiting.push((ticket, lease));
            return;
        }
        let answer = match self.leases.renew(lease, self.now) {
            Some(ttl_ms) => Answer::Renewed { ttl_ms },
            None => Answer::LeaseGone,
        };
        self.effects.push(Effect::Answer { ticket, answer });
    }

    pub(super) fn on_lease_times(&mut self, ticket: Ticket, leases: &[LeaseId]) {
        if !self.is_leader() {
            let leader = self.leader();
            self.refuse(ticket, Rejection::NotLeader { leader });
            return;
        }
        let now = self.now.0;
        let left = |lease: &LeaseId| {
            let known = self.leases.known.get(lease)?;
            Some(known.deadline.0.saturating_sub(known.slack_nanos()).saturating_sub(now) / 1_000_000)
        };
        let answer = Answer::LeaseTimes(leases.iter().map(left).collect());
        self.effects.push(Effect::Answer { ticket, answer });
    }

    /// What the applier has done to leases; with it the outcome of an expiry.
    pub(super) fn note_leases(&mut self, changes: &[LeaseChange]) {
        for change in changes {
            self.leases.note(*change, self.now);
        }
        if let Some(flight) = self.leases.flight.take_if(|flight| flight.index <= self.applied) {
            for (ticket, lease) in flight.waiting {
                self.renew(ticket, lease);
            }
        }
    }

    /// Whoever waits for a renewal waits for the leadership that it was asked of: its ledger is void.
    pub(super) fn leadership_of_leases(&mut self, leads: bool) {
        let holders = self.reads.restart();
        let waiting = self.leases.leadership_changed(leads, self.now);
        let leader = self.leader();
        for ticket in holders.into_iter().chain(waiting) {
            self.refuse(ticket, Rejection::NotLeader { leader });
        }
    }

    /// Proposes the end of what is overdue, one entry at a time.
    pub(super) fn expire_leases(&mut self) {
        if !self.is_leader() || self.transfer.is_some() || self.leases.flight.is_some() || self.read_only().is_some() {
            return;
        }
        let leases = self.leases.overdue(self.now, self.reads.holders());
        if leases.is_empty() {
            return;
        }
        let command = ExpireLeases { term: self.raw.raft.term, leases: leases.iter().map(|lease| lease.0).collect() };
        let batch = Batch::new(vec![Command::from(CommandKind::ExpireLeases(command))]);
        // What raft does not take now (too much is uncommitted) is due at the next tick, too.
        if self.raw.propose(Vec::new(), batch.encode_to_vec()).is_ok() {
            let index = LogIndex(self.raw.raft.raft_log.last_index());
            self.leases.flight = Some(Flight { index, leases, waiting: Vec::new() });
        }
        self.pin_timeout();
    }
}
