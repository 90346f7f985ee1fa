//! Holders of leases: they get one, attach keys, renew it for a while, and then forget it or give it back.
//!
//! Owns who holds what and what was answered, and with it what an observer holds against leases: none ends early, all end once
//! nobody renews them, the keys of one go together, and what is gone is gone. A holder never gives a request id up before it
//! knows the outcome. Called by the world.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::asks::{Reply, What};
use super::check::{Check, broken};
use super::config::MILLIS;
use super::event::Event;
use super::world::{Run, Step, World};
use quorate_core::command::{Command, CommandKind, LeaseOrder, LeaseOrderKind, Request};
use quorate_core::consensus::io::Ticket;
use quorate_core::id::{ClientId, LeaseId, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::ports::StateRead;
use quorate_core::state::contract::{LeaseChange, LeaseEvent, Outcome, Refusal};
use quorate_core::state::read;
use quorate_core::txn::{Put, Range, Txn};

/// Longer than any lease of a holder and its slack, the change of a leader included.
const ENDS_WITHIN: u64 = 60_000 * MILLIS;

/// What the observer knows of leases.
#[derive(Debug, Default, Clone)]
pub(super) struct Held {
    leases: BTreeMap<LeaseId, Observed>,
}

#[derive(Debug, Default, Clone)]
struct Observed {
    ttl: u64,
    /// When the question was sent that was answered last: the grant, or a renewal.
    began: Option<u64>,
    /// When some member had first applied its end.
    ended: Option<(u64, LeaseEvent)>,
    /// Keys that were attached, and acknowledged.
    keys: BTreeSet<Bytes>,
}

impl Held {
    /// A grant or a renewal that was asked for at `sent` is answered.
    fn holds(&mut self, lease: LeaseId, ttl: u64, sent: u64) -> Check {
        let observed = self.leases.entry(lease).or_default();
        observed.ttl = ttl;
        observed.began = observed.began.max(Some(sent));
        observed.is_in_time(lease)
    }

    /// A renewal that was asked for at `sent` is answered as done.
    fn renewed(&mut self, lease: LeaseId, ttl: u64, sent: u64) -> Check {
        if let Some((at, _)) = self.leases.get(&lease).and_then(|observed| observed.ended)
            && at <= sent
        {
            return broken("gone_is_gone", format!("lease {lease} is renewed at {sent}, its end was applied at {at}"));
        }
        self.holds(lease, ttl, sent)
    }

    fn is_gone(&self, lease: LeaseId) -> Check {
        match self.leases.get(&lease) {
            Some(observed) if observed.ended.is_none() => {
                broken("gone_is_gone", format!("lease {lease} is said to be gone, and nobody has ended it"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Observed {
    fn is_in_time(&self, lease: LeaseId) -> Check {
        match (self.began, self.ended) {
            (Some(began), Some((at, LeaseEvent::Expired))) if at < began + self.ttl => broken(
                "lease_never_early",
                format!("lease {lease} of {} ns, asked for at {began}, has expired at {at}", self.ttl),
            ),
            _ => Ok(()),
        }
    }
}

/// What a holder is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Granting,
    Attaching,
    Holding,
    Revoking,
}

/// A holder.
pub(super) struct Holder {
    id: u64,
    stage: Stage,
    sequence: u64,
    /// When the open request was first sent.
    sent: u64,
    busy: Option<Ticket>,
    ttl_ms: u64,
    lease: LeaseId,
    keys: u64,
    renewals: u64,
    revokes: bool,
}

impl Holder {
    pub(super) const fn new(id: u64) -> Self {
        Self {
            id,
            stage: Stage::Idle,
            sequence: 0,
            sent: 0,
            busy: None,
            ttl_ms: 0,
            lease: LeaseId(0),
            keys: 0,
            renewals: 0,
            revokes: false,
        }
    }

    fn names(&self) -> Vec<Bytes> {
        (0..self.keys).map(|key| Section::User.key(format!("l{}/{key}", self.lease).as_bytes())).collect()
    }

    /// The request of its stage; a retry is the same one.
    fn command(&self) -> Command {
        let mut client = [9; 16];
        client[8..].copy_from_slice(&(2_000_000 + self.id).to_be_bytes());
        let order = |kind| Some(LeaseOrder { kind: Some(kind), fence: None });
        let put = |key| Put { key, value: Bytes::from_static(b"held"), lease: self.lease.0, ..Put::default() }.into();
        let (txn, lease) = match self.stage {
            Stage::Attaching => {
                (Some(Txn { then: self.names().into_iter().map(put).collect(), ..Txn::default() }), None)
            }
            Stage::Revoking => (None, order(LeaseOrderKind::Revoke(self.lease.0))),
            Stage::Idle | Stage::Granting | Stage::Holding => (None, order(LeaseOrderKind::Grant(self.ttl_ms))),
        };
        CommandKind::Request(Request {
            client: Bytes::copy_from_slice(ClientId::from_bytes(client).as_bytes()),
            sequence: self.sequence,
            low_water: self.sequence.saturating_sub(1),
            txn,
            lease,
            ..Request::default()
        })
        .into()
    }
}

impl World {
    fn holder_mut(&mut self, holder: u64) -> Option<&mut Holder> {
        self.holders.get_mut(usize::try_from(holder).ok()?)
    }

    /// A holder does its next thing.
    pub(super) fn holder(&mut self, holder: u64) -> Step {
        let Some(at) = self.somebody_to_hold() else {
            self.schedule(self.now + 100 * MILLIS, Event::Holder { holder });
            return Ok(());
        };
        let (ttl_ms, keys, renewals, revokes) = (
            self.holding.between(1_000, 4_000),
            self.holding.between(0, 4),
            self.holding.between(0, 12),
            self.holding.chance(400),
        );
        let (running, now) = (self.faults, self.now);
        let expected = Ticket(self.next_ticket + 1);
        let Some(state) = self.holder_mut(holder) else { return Ok(()) };
        let first = match state.stage {
            // After peace nobody renews: everything ends by itself.
            Stage::Idle | Stage::Holding if !running => return Ok(()),
            Stage::Idle => {
                (state.stage, state.ttl_ms, state.keys) = (Stage::Granting, ttl_ms, keys);
                (state.renewals, state.revokes) = (renewals, revokes);
                true
            }
            Stage::Holding if state.renewals == 0 && state.revokes => {
                state.stage = Stage::Revoking;
                true
            }
            Stage::Holding if state.renewals == 0 => {
                state.stage = Stage::Idle;
                let at = now + state.ttl_ms * MILLIS;
                self.schedule(at, Event::Holder { holder });
                return Ok(());
            }
            Stage::Holding => true,
            // A retry of a request whose outcome is not known.
            Stage::Granting | Stage::Attaching | Stage::Revoking => state.busy.is_none() && state.sent == 0,
        };
        if first {
            state.sent = now;
            if state.stage != Stage::Holding {
                state.sequence += 1;
            }
        }
        state.busy = Some(expected);
        let what = match state.stage {
            Stage::Holding => What::Renew { holder: Some(holder), lease: state.lease },
            Stage::Idle | Stage::Granting | Stage::Attaching | Stage::Revoking => {
                What::Hold { holder, command: state.command() }
            }
        };
        self.schedule(now + self.config.patience, Event::Timeout { ticket: expected });
        self.ask(at, what, 0, None).map(|_ticket| ())
    }

    fn somebody_to_hold(&mut self) -> Option<RaftId> {
        let up: Vec<RaftId> = self.members.iter().filter(|(_, m)| m.process.is_some()).map(|(id, _)| *id).collect();
        self.holding.pick(&up)
    }

    /// What came of a holder's request; `None`: nothing in time.
    pub(super) fn holder_told(&mut self, holder: u64, reply: Option<Reply>) -> Step {
        let think = self.holding.between(1, 50) * MILLIS;
        let part = self.holding.between(150, 600);
        let now = self.now;
        let Some(state) = self.holder_mut(holder) else { return Ok(()) };
        state.busy = None;
        let (stage, lease, sent, ttl) = (state.stage, state.lease, state.sent, state.ttl_ms * MILLIS);
        let pause = ttl / 1000 * part;
        let mut next = now + think;
        match (stage, reply) {
            (Stage::Granting, Some(Reply::Outcome(Outcome::Done(done)))) => {
                let lease = LeaseId(done.lease);
                let attaches = state.keys > 0;
                (state.lease, state.stage, state.sent) = (lease, Stage::Holding, 0);
                if attaches {
                    state.stage = Stage::Attaching;
                } else {
                    next = now + pause;
                }
                self.report.granted += 1;
                self.newest_checks().holds(lease, ttl, sent)?;
            }
            (Stage::Attaching, Some(Reply::Outcome(Outcome::Done(_)))) => {
                (state.stage, state.sent) = (Stage::Holding, 0);
                let names = state.names();
                next = now + pause;
                let held = self.newest_checks();
                if let Some(observed) = held.leases.get_mut(&lease).filter(|observed| observed.ended.is_none()) {
                    observed.keys.extend(names);
                }
            }
            (Stage::Revoking, Some(Reply::Outcome(Outcome::Done(_)))) => {
                (state.stage, state.sent) = (Stage::Idle, 0);
                self.newest_checks().is_gone(lease)?;
            }
            (
                Stage::Attaching | Stage::Revoking,
                Some(Reply::Outcome(Outcome::Refused(Refusal::LeaseNotFound { .. }))),
            )
            | (Stage::Holding, Some(Reply::LeaseGone)) => {
                (state.stage, state.sent) = (Stage::Idle, 0);
                self.newest_checks().is_gone(lease)?;
            }
            (Stage::Holding, Some(Reply::Renewed { ttl_ms })) => {
                state.renewals = state.renewals.saturating_sub(1);
                next = now + pause;
                self.report.renewed += 1;
                self.newest_checks().renewed(lease, ttl_ms * MILLIS, sent)?;
            }
            (_, Some(Reply::Outcome(Outcome::Refused(refusal)))) => {
                return broken("a_holder_within_limits_is_served", format!("{stage:?}: {refusal}"));
            }
            // Refused before it entered the log, or not known: the same request again, or another renewal.
            (_, Some(_) | None) => {}
        }
        self.schedule(next, Event::Holder { holder });
        Ok(())
    }

    fn newest_checks(&mut self) -> &mut Held {
        let last = self.checks.len() - 1;
        &mut self.checks[last].held
    }

    /// A member has applied the end of leases: their keys are gone there, all at one revision.
    pub(super) fn leases_changed(&mut self, id: RaftId, changes: &[LeaseChange]) -> Step {
        let now = self.now;
        for LeaseChange { lease, event } in changes.iter().copied() {
            if matches!(event, LeaseEvent::Granted { .. }) {
                continue;
            }
            let observed = self.checks_of(id).held.leases.entry(lease).or_default();
            let first = observed.ended.is_none();
            if first {
                observed.ended = Some((now, event));
            }
            observed.is_in_time(lease)?;
            let keys = observed.keys.clone();
            if first {
                match event {
                    LeaseEvent::Expired => self.report.expired += 1,
                    LeaseEvent::Revoked => self.report.revoked += 1,
                    LeaseEvent::Granted { .. } => {}
                }
            }
            if let Some(process) = self.members.get(&id).and_then(|member| member.process.as_ref()) {
                together(&*process.reader.view(), lease, &keys)?;
            }
        }
        Ok(())
    }

    /// Once nobody renews them all leases end.
    pub(super) fn leases_end(&mut self) -> Run {
        let left = |world: &Self| {
            let process = world.leader().and_then(|leader| world.members.get(&leader)?.process.as_ref());
            process.map_or(usize::MAX, |process| process.machine.leases().len())
        };
        let ended = self.run_until(ENDS_WITHIN, |world| {
            left(world) == 0 && world.holders.iter().all(|holder| holder.busy.is_none() || holder.stage == Stage::Idle)
        })?;
        if ended {
            return Ok(());
        }
        let detail = format!("{} leases are left, though nobody renews them", left(self));
        Err(self.violation(super::check::Broken { invariant: "lease_ends", detail }))
    }
}

/// The keys of a lease that has ended are gone, and went in one revision.
fn together(view: &dyn StateRead, lease: LeaseId, keys: &BTreeSet<Bytes>) -> Check {
    let mut revisions = BTreeSet::new();
    for key in keys {
        let there = read::range(view, &Range { key: key.clone(), ..Range::default() });
        if there.is_ok_and(|found| !found.entries.is_empty()) {
            return broken(
                "lease_keys_go_together",
                format!("lease {lease} has ended, {} is there", key.escape_ascii()),
            );
        }
        revisions.extend(read::last_change(view, key).ok().flatten());
    }
    if revisions.len() > 1 {
        return broken("lease_keys_go_together", format!("the keys of lease {lease} went at {revisions:?}"));
    }
    Ok(())
}
