//! Linearizable reads, renewals of leases and the leadership lease: all are quorum rounds.
//!
//! Owns which callers wait for which round, and until when leadership may be acted on. Whoever asks goes with a round that
//! begins after; all that ask meanwhile share it. A round's context is used once
//! (etcd #20418: a context used again can serve a stale read). Never reads a clock: time comes with each call.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::freshness::ASK_TICKS;
use super::io::{Nanos, Ticket};
use crate::id::{LeaseId, LogIndex, RaftId, Term};
use crate::mutants::{Mutant, on};

/// Rounds in flight at most: reads that arrive meanwhile gather for the next one.
const ROUNDS_MAX: usize = 4;

/// Rounds of other members that wait for the next round here.
const REMOTES_MAX: usize = 1024;

/// Last byte of a context: whether its round may wait for the next one that starts anyway. Nobody waits for it.
const URGENT: u8 = 0;
const PATIENT: u8 = 1;

/// Another member that asks this leader, with its own round's context: it is given back, and never used here. Raft would
/// take it for the context of its own round, and acknowledgements of a first copy of the message would count for a second.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) from: RaftId,
    pub(super) context: Bytes,
    patient: bool,
}

/// Who waits for a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Wants to read, wherever the leader is.
    Reader(Ticket),
    /// Renews a lease, and only with the leadership that it was asked of.
    Holder(Ticket, LeaseId),
}

#[derive(Debug)]
struct Round {
    callers: Vec<Caller>,
    remotes: Vec<Remote>,
    sent: Nanos,
    sent_tick: u64,
    /// It only says how old this member's state is.
    patient: bool,
    /// The length of a tick that its heartbeats say.
    tick_nanos: u64,
}

#[derive(Debug)]
pub(super) struct Reads {
    id: RaftId,
    nonce: u64,
    next: u64,
    waiting: Vec<Caller>,
    remotes: Vec<Remote>,
    rounds: BTreeMap<u64, Round>,
    /// Answered by the quorum, waiting for the applier: by index, and by the term of that quorum. A later leadership may begin
    /// before they are answered; it did not confirm them.
    confirmed: BTreeMap<(LogIndex, Term), Vec<Caller>>,
}

impl Reads {
    pub(super) const fn new(id: RaftId, nonce: u64) -> Self {
        Self {
            id,
            nonce,
            next: 1,
            waiting: Vec::new(),
            remotes: Vec::new(),
            rounds: BTreeMap::new(),
            confirmed: BTreeMap::new(),
        }
    }

    pub(super) fn ask(&mut self, caller: Caller) {
        self.waiting.push(caller);
    }

    /// A member asks; at most so many wait, the rest asks again.
    pub(super) fn ask_for(&mut self, from: RaftId, context: Bytes) {
        if self.remotes.len() < REMOTES_MAX {
            let patient = context.last() == Some(&PATIENT);
            self.remotes.push(Remote { from, context, patient });
        }
    }

    pub(super) fn pending(&self) -> usize {
        let in_flight: usize = self.rounds.values().map(|round| round.callers.len()).sum();
        let confirmed: usize = self.confirmed.values().map(Vec::len).sum();
        self.waiting.len() + in_flight + confirmed
    }

    /// Whether a round should start now for callers (`due` asks for one also when nobody waits).
    pub(super) fn wants_round(&self, due: bool) -> bool {
        let urgent = !self.waiting.is_empty() || self.remotes.iter().any(|remote| !remote.patient);
        self.rounds.len() < ROUNDS_MAX && (due || urgent)
    }

    /// Starts a round for everybody who waits; returns its context. One `elsewhere`, at the leader, that nobody waits for
    /// may take its time.
    pub(super) fn start(&mut self, now: Nanos, tick: u64, elsewhere: bool, tick_nanos: u64) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        let callers = std::mem::take(&mut self.waiting);
        let remotes = std::mem::take(&mut self.remotes);
        let patient = elsewhere && callers.is_empty();
        self.rounds.insert(number, Round { callers, remotes, sent: now, sent_tick: tick, patient, tick_nanos });
        let mut context = Vec::with_capacity(25);
        context.extend_from_slice(&self.id.0.to_be_bytes());
        context.extend_from_slice(&self.nonce.to_be_bytes());
        context.extend_from_slice(&number.to_be_bytes());
        context.push(if patient { PATIENT } else { URGENT });
        context
    }

    /// A round came back from the quorum of `term`: when it was sent, in ticks of which length those who answered count, and who
    /// else is to be told. `None` when it is not ours or was given up.
    pub(super) fn confirm(&mut self, context: &[u8], index: LogIndex, term: Term) -> Option<(Nanos, u64, Vec<Remote>)> {
        let (id, rest) = context.split_first_chunk::<8>()?;
        let (nonce, rest) = rest.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        if u64::from_be_bytes(*id) != self.id.0 || u64::from_be_bytes(*nonce) != self.nonce {
            return None;
        }
        let round = self.rounds.remove(&number)?;
        if !round.callers.is_empty() {
            self.confirmed.entry((index, term)).or_default().extend(round.callers);
        }
        Some((round.sent, round.tick_nanos, round.remotes))
    }

    /// Gives up rounds that were lost on the way (raft drops them in silence): their callers wait for the next one. One
    /// that nobody waits for may come back until the next of its kind leaves.
    pub(super) fn retry(&mut self, tick: u64, patience_ticks: u64) {
        let late: Vec<u64> = self
            .rounds
            .iter()
            .filter(|(_, round)| {
                let patience = if round.patient { ASK_TICKS } else { patience_ticks };
                tick.saturating_sub(round.sent_tick) >= patience
            })
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            if let Some(round) = self.rounds.remove(&number) {
                self.waiting.extend(round.callers);
                if on(Mutant::ReadContextAgain) {
                    self.next = number;
                }
            }
        }
    }

    /// Leadership changed: nothing in flight counts any more, and other members ask whoever leads now. So do readers here;
    /// those who wanted to renew are given back, also where only the applier was missing.
    pub(super) fn restart(&mut self) -> Vec<Ticket> {
        self.remotes.clear();
        for (_, round) in std::mem::take(&mut self.rounds) {
            self.waiting.extend(round.callers);
        }
        let mut holders = Vec::new();
        for callers in std::iter::once(&mut self.waiting).chain(self.confirmed.values_mut()) {
            callers.retain(|caller| match caller {
                Caller::Reader(_) => true,
                Caller::Holder(ticket, _) => {
                    holders.push(*ticket);
                    false
                }
            });
        }
        holders
    }

    /// The leases that somebody is about to renew.
    pub(super) fn holders(&self) -> impl Iterator<Item = LeaseId> + '_ {
        let rounds = self.rounds.values().flat_map(|round| &round.callers);
        self.waiting.iter().chain(rounds).chain(self.confirmed.values().flatten()).filter_map(|caller| match caller {
            Caller::Reader(_) => None,
            Caller::Holder(_, lease) => Some(*lease),
        })
    }

    /// Everybody whose index is applied, with the index and the term of the quorum that confirmed it.
    pub(super) fn release(&mut self, applied: LogIndex) -> Vec<(Caller, LogIndex, Term)> {
        let later = self.confirmed.split_off(&(applied.next(), Term(0)));
        let ready = std::mem::replace(&mut self.confirmed, later);
        ready
            .into_iter()
            .flat_map(|((index, term), callers)| callers.into_iter().map(move |caller| (caller, index, term)))
            .collect()
    }

    /// Everybody who is not confirmed, to be told that there is no leader.
    pub(super) fn give_up(&mut self) -> Vec<Ticket> {
        let mut tickets = self.restart();
        tickets.extend(std::mem::take(&mut self.waiting).into_iter().map(|caller| match caller {
            Caller::Reader(ticket) | Caller::Holder(ticket, _) => ticket,
        }));
        tickets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_of_the_term_whose_quorum_confirmed_it_whoever_leads_when_it_is_answered() {
        // Given two readers whose rounds came back, one in term 5 and one in term 6, and an applier that is behind
        let mut reads = Reads::new(RaftId(1), 7);
        for (reader, term) in [(1, 5), (2, 6)] {
            reads.ask(Caller::Reader(Ticket(reader)));
            let context = reads.start(Nanos(0), 0, false, 1);
            assert!(reads.confirm(&context, LogIndex(10), Term(term)).is_some());
            // When leadership changes after each
            assert_eq!(reads.restart(), []);
        }
        assert_eq!(reads.release(LogIndex(9)), []);
        // Then each is told of its own.
        let told = [(1, 5), (2, 6)].map(|(reader, term)| (Caller::Reader(Ticket(reader)), LogIndex(10), Term(term)));
        assert_eq!(reads.release(LogIndex(10)), told);
        assert_eq!(reads.pending(), 0);
    }
}
