//! Who leads, until when that may be acted on, and how it is handed over.
//!
//! Owns the lease (design section 4, rule 8), the clock of being without a leader (rule 10), transfers and reads.
//! Without pauses and clock faults a lease ends before another member can lead; with them only the fencing token is
//! exclusive.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use bytes::Bytes;
use raft::{ReadState, StateRole, eraftpb};

use super::Consensus;
use super::config::{ELECTION_TICKS, HEARTBEAT_TICKS, lease_nanos};
use super::io::{Answer, Effect, Lease, Nanos, RaftRole, Rejection, Ticket};
use super::reads::{Caller, Remote};
use crate::id::{LogIndex, RaftId, Term};
use crate::log::LogStart;
use crate::membership::quorum::Quorum;
use crate::mutants::{Mutant, on};

/// Ticks after which a read round that nobody answered is started anew.
const ROUND_PATIENCE_TICKS: u64 = 2 * HEARTBEAT_TICKS as u64;

pub(super) struct Leadership {
    leader: Option<RaftId>,
    term: u64,
    leads: bool,
    leaderless_since: Option<u64>,
    /// First index of this leadership: everything before it must be applied before anybody is told.
    first_index: LogIndex,
    /// A quorum round came back: until when nobody who answered it helps another one to lead.
    confirmed: Option<Nanos>,
    /// `TimeoutNow` left in this term: another member may win at any time, so no lease any more.
    timeout_now_sent: bool,
    last_lease_round: u64,
    /// When the connection to each came to stand.
    came: BTreeMap<RaftId, u64>,
    pub(super) pending_cut: Option<LogStart>,
}

/// Leadership on its way to another member.
pub(super) struct Transfer {
    ticket: Option<Ticket>,
    to: RaftId,
    until_tick: u64,
}

pub(super) const fn role(state: StateRole) -> RaftRole {
    match state {
        StateRole::Follower => RaftRole::Follower,
        StateRole::Candidate | StateRole::PreCandidate => RaftRole::Candidate,
        StateRole::Leader => RaftRole::Leader,
    }
}

impl Leadership {
    pub(super) const fn new() -> Self {
        Self {
            leader: None,
            term: 0,
            leads: false,
            leaderless_since: Some(0),
            first_index: LogIndex(0),
            confirmed: None,
            timeout_now_sent: false,
            last_lease_round: 0,
            came: BTreeMap::new(),
            pending_cut: None,
        }
    }

    pub(super) fn leaderless_ticks(&self, tick: u64) -> u64 {
        self.leaderless_since.map_or(0, |since| tick.saturating_sub(since))
    }
}

impl Consensus {
    /// Compares with what was, after every step.
    pub(super) fn note_leadership(&mut self) {
        let (leader, term, leads) = (self.leader(), self.raw.raft.term, self.is_leader());
        let was = &mut self.leadership;
        if was.leader == leader && was.term == term && was.leads == leads {
            return;
        }
        if leader.is_none() {
            was.leaderless_since = was.leaderless_since.or(Some(self.tick));
        } else {
            was.leaderless_since = None;
        }
        if leader.is_some_and(|id| id != self.config.id) {
            self.members.handed_over();
        }
        let began = leads && !(was.leads && was.term == term);
        was.leader = leader;
        was.term = term;
        was.leads = leads;
        was.confirmed = None;
        was.timeout_now_sent = false;
        if began {
            was.first_index = LogIndex(self.raw.raft.raft_log.last_index());
            self.members.begin(self.tick);
            self.copies.begin();
        }
        self.disk.leadership_changed();
        self.leadership_of_leases(leads);
        self.pace.restart();
        self.drop_stale_sendable();
        self.finish_transfer(leader, leads);
    }

    fn finish_transfer(&mut self, leader: Option<RaftId>, leads: bool) {
        if leads {
            return;
        }
        let Some(transfer) = &mut self.transfer else { return };
        let ticket = transfer.ticket.take();
        match (leader, ticket) {
            (None, ticket) => transfer.ticket = ticket,
            (Some(leader), Some(ticket)) => {
                self.transfer = None;
                self.effects.push(Effect::Answer { ticket, answer: Answer::Transferred(leader) });
            }
            (Some(_), None) => self.transfer = None,
        }
    }

    /// The leadership that may be acted on now.
    pub(super) fn lease(&self) -> Option<Lease> {
        let leadership = &self.leadership;
        if !self.is_leader()
            || leadership.term != self.raw.raft.term
            || self.transfer.is_some()
            || leadership.timeout_now_sent
            || self.applied < leadership.first_index
        {
            return None;
        }
        let until = leadership.confirmed?;
        (until > self.now).then_some(Lease { term: Term(self.raw.raft.term), until })
    }

    pub(super) fn tick_leadership(&mut self) {
        self.note_leadership();
        if let Some(transfer) = &self.transfer
            && (self.tick >= transfer.until_tick || (self.is_leader() && self.raw.raft.lead_transferee.is_none()))
        {
            self.abort_transfer();
        }
        if self.leadership.leaderless_ticks(self.tick) == 2 * u64::from(ELECTION_TICKS) {
            self.refuse_waiting();
        }
    }

    fn abort_transfer(&mut self) {
        let Some(transfer) = self.transfer.take() else { return };
        self.members.lets_pass(transfer.to);
        if let Some(ticket) = transfer.ticket.filter(|_| !self.is_leader() || self.leadership.timeout_now_sent) {
            // Called upon to take over, it may still do so.
            self.effects.push(Effect::Answer { ticket, answer: Answer::Unknown });
        } else if let Some(ticket) = transfer.ticket {
            let why = format!("manager {} did not take over within one election timeout", transfer.to);
            self.refuse(ticket, Rejection::Transfer(why));
        }
        if self.is_leader() {
            self.raw.raft.abort_leader_transfer();
            if self.leadership.timeout_now_sent {
                // The call to take over may still arrive; in this term we can promise nobody anything any more.
                self.step_down();
            }
        }
    }

    /// Leads no more, in this term, and knows nobody who does.
    pub(super) fn step_down(&mut self) {
        let term = self.raw.raft.term;
        self.raw.raft.become_follower(term, 0);
        self.pin_timeout();
        self.note_leadership();
    }

    /// Whether a call to take over may leave; then there is no lease any more. Only while leadership is being handed to that very
    /// member: raft may make the call in the step in which it is given up, and a leader that was to lead on would have no lease
    /// for as long as nobody follows the call.
    pub(super) fn calls_to_take_over(&mut self, to: RaftId) -> bool {
        let calls = self.transfer.as_ref().is_some_and(|transfer| transfer.to == to);
        self.leadership.timeout_now_sent |= calls;
        calls
    }

    pub(super) fn on_transfer(&mut self, ticket: Ticket, to: Option<RaftId>) {
        if !self.is_leader() {
            let leader = self.leader();
            self.refuse(ticket, Rejection::NotLeader { leader });
            return;
        }
        if self.transfer.is_some() {
            self.refuse(ticket, Rejection::Transfer("it is being handed over already".into()));
            return;
        }
        let Some(to) = to.or_else(|| self.furthest_voter()) else {
            self.refuse(ticket, Rejection::Transfer("no other voter is reachable".into()));
            return;
        };
        if to == self.config.id {
            self.effects.push(Effect::Answer { ticket, answer: Answer::Transferred(to) });
        } else if !self.configuration.voters.contains(&to) {
            self.refuse(ticket, Rejection::Transfer(format!("manager {to} holds no seat")));
        } else if !self.is_heard(to) {
            self.refuse(ticket, Rejection::Transfer(format!("manager {to} has not been heard of lately")));
        } else if self.is_low_on_space(to) {
            self.refuse(ticket, Rejection::Transfer(format!("manager {to} is low on disk space")));
        } else if !self.takes_over(to) {
            let why = format!("manager {to} was connected just now and takes nothing over yet; try again in a moment");
            self.refuse(ticket, Rejection::Transfer(why));
        } else {
            self.start_transfer(Some(ticket), to);
        }
    }

    pub(super) fn start_transfer(&mut self, ticket: Option<Ticket>, to: RaftId) {
        self.transfer = Some(Transfer { ticket, to, until_tick: self.tick + u64::from(ELECTION_TICKS) });
        // The embedder hears that the lease is over before the successor hears that it may begin.
        self.publish();
        self.raw.transfer_leader(to.0);
    }

    pub(super) const fn is_transferring(&self) -> bool {
        self.transfer.is_some()
    }

    pub(super) fn note_connected(&mut self, id: RaftId, up: bool) {
        if up {
            if self.connected.insert(id) {
                self.leadership.came.insert(id, self.tick);
            }
        } else {
            self.connected.remove(&id);
            self.leadership.came.remove(&id);
        }
    }

    /// Whether a call to take over would be heard: a member that has just started lets it pass, as any question for its
    /// vote (rule 8).
    fn takes_over(&self, id: RaftId) -> bool {
        self.leadership.came.get(&id).is_none_or(|came| self.tick - came > u64::from(ELECTION_TICKS))
    }

    /// The other voter (of the incoming half) with the most of the log, heard of lately and with space to write; rather
    /// one that would take over now, and first of all one that has not let it pass before.
    pub(super) fn furthest_voter(&self) -> Option<RaftId> {
        self.furthest(self.configuration.voters.iter().copied())
    }

    /// Of these the one with the most of the log, heard of lately and with space to write; never this member.
    pub(super) fn furthest(&self, among: impl Iterator<Item = RaftId>) -> Option<RaftId> {
        among.filter(|id| *id != self.config.id && self.is_heard(*id) && !self.is_low_on_space(*id)).max_by_key(|id| {
            let matched = self.raw.raft.prs().get(id.0).map_or(0, |progress| progress.matched);
            let near = matched + self.config.caught_up_entries >= self.raw.raft.raft_log.last_index();
            let let_pass = Reverse(self.members.times_let_pass(*id));
            (let_pass, near && self.takes_over(*id), matched, Reverse(*id))
        })
    }

    pub(super) fn on_read(&mut self, ticket: Ticket) {
        if !self.is_leader() && self.no_leader_is_old_news() {
            let rejection = self.no_leader();
            self.refuse(ticket, rejection);
            return;
        }
        if self.reads.pending() >= self.config.waiting_max {
            let (waiting, max) = (self.reads.pending(), self.config.waiting_max);
            self.refuse(ticket, Rejection::Overloaded { waiting, max });
            return;
        }
        let no_op_is_missing = !self.raw.raft.commit_to_current_term();
        if self.is_leader() && (on(Mutant::LocalReads) || on(Mutant::ReadsBeforeNoOp) && no_op_is_missing) {
            let (index, term) = (self.applied, Term(self.raw.raft.term));
            self.effects.push(Effect::Answer { ticket, answer: Answer::ReadAt { index, term } });
            return;
        }
        self.reads.ask(Caller::Reader(ticket));
    }

    /// Another member asks this leader to confirm a round of its own.
    pub(super) fn on_remote_read(&mut self, from: RaftId, message: &eraftpb::Message) {
        if let Some(entry) = message.entries.first() {
            self.reads.ask_for(from, Bytes::copy_from_slice(&entry.data));
        }
    }

    fn answer_remote(&mut self, to: RaftId, context: &Bytes, index: u64) {
        let entry = eraftpb::Entry { data: context.to_vec(), ..eraftpb::Entry::default() };
        let mut answer = eraftpb::Message {
            from: self.config.id.0,
            to: to.0,
            term: self.raw.raft.term,
            index,
            entries: vec![entry],
            ..eraftpb::Message::default()
        };
        answer.set_msg_type(eraftpb::MessageType::MsgReadIndexResp);
        self.send(answer);
    }

    pub(super) fn tick_reads(&mut self) {
        self.reads.retry(self.tick, ROUND_PATIENCE_TICKS);
    }

    /// Starts a quorum round for the readers that wait, and one per heartbeat for the lease. Raft drops a round in
    /// silence when it knows no leader, or leads without a committed entry of its own term: then we do not start one.
    pub(super) fn start_read_round(&mut self) {
        let leads = self.is_leader();
        let lease_due = leads
            && self.tick >= self.leadership.last_lease_round + u64::from(HEARTBEAT_TICKS)
            && self.transfer.is_none();
        let age_due = !leads && self.freshness.is_due(self.tick);
        if !self.reads.wants_round(lease_due || age_due) {
            return;
        }
        if leads && !self.raw.raft.commit_to_current_term() || self.leader().is_none() {
            return;
        }
        if leads {
            self.leadership.last_lease_round = self.tick;
        }
        self.freshness.asks(self.tick);
        let context = self.reads.start(self.now, self.tick, !leads, self.tick_offered());
        self.raw.read_index(context);
    }

    /// A round for the lease is due at once.
    pub(super) const fn renew_lease(&mut self) {
        self.leadership.last_lease_round = 0;
    }

    pub(super) fn on_read_state(&mut self, state: &ReadState) {
        let (index, term) = (LogIndex(state.index), Term(self.raw.raft.term));
        if let Some((sent, tick_nanos, remotes)) = self.reads.confirm(&state.request_ctx, index, term) {
            self.freshness.confirmed(index, sent);
            if self.is_leader() && self.leadership.term == self.raw.raft.term {
                let until = Nanos(sent.0 + lease_nanos(tick_nanos));
                self.leadership.confirmed = self.leadership.confirmed.max(Some(until));
                for Remote { from, context, .. } in remotes {
                    self.answer_remote(from, &context, state.index);
                }
            }
        }
        self.release_reads();
    }

    pub(super) fn release_reads(&mut self) {
        self.freshness.applied(self.applied);
        for (caller, index, term) in self.reads.release(self.applied) {
            let term = if on(Mutant::ReadOfThisTerm) { Term(self.raw.raft.term) } else { term };
            match caller {
                Caller::Reader(ticket) => {
                    self.effects.push(Effect::Answer { ticket, answer: Answer::ReadAt { index, term } });
                }
                Caller::Holder(ticket, lease) => self.renew(ticket, lease),
            }
        }
    }

    pub(super) fn no_leader_is_old_news(&self) -> bool {
        self.leadership.leaderless_ticks(self.tick) >= 2 * u64::from(ELECTION_TICKS)
    }

    /// What a caller is told when nobody leads.
    pub(super) fn no_leader(&self) -> Rejection {
        if self.disk.low_space().is_some() && self.configuration.is_voter(self.config.id) {
            // With its vote there might be one.
            return Rejection::ReadOnly { low: vec![self.config.id] };
        }
        let reachable = |id: RaftId| id == self.config.id || self.connected.contains(&id);
        let missing_of = |voters: &[RaftId]| voters.iter().copied().filter(|id| !reachable(*id)).collect::<Vec<_>>();
        let leaderless_ticks = self.leadership.leaderless_ticks(self.tick);
        // Of a joint configuration it is one half that misses its majority, and its voters that are to be started.
        let outgoing = Some(&self.configuration.voters_outgoing).filter(|half| !half.is_empty());
        for half in std::iter::once(&self.configuration.voters).chain(outgoing) {
            let (missing, voters, needed) = (missing_of(half), half.len(), Quorum::majority(half.len()));
            let reachable = voters - missing.len();
            if reachable < needed {
                return Rejection::QuorumLost { leaderless_ticks, reachable, voters, needed, missing };
            }
        }
        let voters = self.configuration.all_voters();
        let missing = missing_of(&voters);
        Rejection::NoLeader { leaderless_ticks, reachable: voters.len() - missing.len(), voters: voters.len(), missing }
    }
}

#[cfg(test)]
mod tests;
