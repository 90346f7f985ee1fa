//! The invariants, held against every event.
//!
//! Owns what an observer who sees all members at once knows. Never influences a run. Called by the world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::acts::Timed;
use super::config::SimConfig;
use super::holders::Held;
use super::trace::{Trace, Violation, Words};
use super::watcher::Facts;
use super::wire::{APPEND, Header, VOTE, VOTE_GIVEN};
use quorate_core::consensus::io::{RaftRole, Status};
use quorate_core::id::RaftId;
use quorate_core::log::{Configuration, HardState};
use quorate_core::membership::quorum::Quorum;
use quorate_core::state::contract::{Committed, Payload, StateStatus};

/// What a check says: nothing, or the name of the invariant and the numbers.
pub(super) type Check = Result<(), Broken>;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) invariant: &'static str,
    pub(super) detail: String,
}

pub(super) fn broken<T>(invariant: &'static str, detail: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { invariant, detail: detail.into() })
}

impl Broken {
    pub(super) fn at(self, config: &SimConfig, at: u64, last: Vec<String>, acts: &[Timed]) -> Box<Violation> {
        Box::new(Violation {
            invariant: self.invariant,
            detail: self.detail,
            seed: config.seed,
            at,
            last,
            replay: config.replay(),
            acts: acts.to_vec(),
            config: config.clone(),
        })
    }
}

/// Everything known about one incarnation of the cluster.
#[derive(Default, Clone)]
pub(super) struct Checks {
    leaders: BTreeMap<u64, RaftId>,
    committed: BTreeMap<u64, (u64, u64)>,
    /// By the term of who handed it over: the newest entry, committed in that term at the latest.
    committed_in: BTreeMap<u64, u64>,
    configurations: BTreeMap<u64, Configuration>,
    hashes: BTreeMap<u64, [u8; 32]>,
    votes: BTreeMap<(RaftId, u64), RaftId>,
    /// As they were seen on the wire: by term who sends appends, by voter and term who got the vote.
    appends: BTreeMap<u64, RaftId>,
    given: BTreeMap<(RaftId, u64), RaftId>,
    leases: BTreeMap<RaftId, (u64, u64)>,
    fenced: BTreeMap<u64, RaftId>,
    applied: BTreeMap<RaftId, u64>,
    /// The highest entry that somebody was told of.
    acked_index: u64,
    /// By member: what was acknowledged anywhere when it took a step, by its own clock; kept where that grew.
    known: BTreeMap<RaftId, VecDeque<(u64, u64)>>,
    /// Acknowledged writes with their revisions.
    pub(super) acked: BTreeMap<(u64, u64), u64>,
    pub(super) revisions: BTreeMap<u64, (u64, u64)>,
    pub(super) attempted: BTreeSet<(u64, u64)>,
    /// The newest revision that somebody was told of.
    pub(super) floor: u64,
    /// The newest leadership that somebody was told of, by a lease or by the answer to a read.
    told_term: u64,
    /// No clock faults: leases must exclude each other.
    pub(super) exact_clocks: bool,
    /// Somebody forced a wish.
    pub(super) forced: bool,
    /// Leases of keys.
    pub(super) held: Held,
    pub(super) elections: u64,
    pub(super) leases_seen: u64,
    pub(super) facts: Facts,
    /// That some member has applied.
    pub(super) newest_revision: u64,
}

/// An entry in one number, for every member that is handed it.
fn print_of(entry: &Committed) -> u64 {
    let mut print = Trace::new(Words::None);
    match &entry.payload {
        Payload::Empty => print.bytes(b"e"),
        Payload::Commands { data, .. } => print.bytes(data),
        Payload::Configuration { result, number } => print.bytes(format!("{result:?}{number}").as_bytes()),
    }
    print.hash()
}

impl Checks {
    pub(super) fn new(exact_clocks: bool) -> Self {
        // The founding's: the first member votes alone.
        let founding = Configuration { voters: vec![RaftId(1)], ..Configuration::default() };
        Self { exact_clocks, configurations: [(1, founding)].into(), ..Self::default() }
    }

    /// What is known of the incarnation that `survivor` makes of this one: what it had applied is as it was, what lies
    /// above in its log is decided anew, and of the acknowledged writes those that it `held` must be there for ever.
    pub(super) fn recovered(&self, survivor: RaftId, applied: u64, held: &BTreeSet<(u64, u64)>) -> Self {
        let mut next = self.clone();
        next.committed.retain(|index, _| *index <= applied);
        next.committed_in.values_mut().for_each(|index| *index = (*index).min(applied));
        let alone = Configuration { voters: vec![survivor], ..Configuration::default() };
        next.configurations = [(0, alone)].into();
        next.hashes.clear();
        next.leases.clear();
        next.appends.clear();
        next.given.clear();
        next.fenced.clear();
        next.acked.retain(|write, _| held.contains(write));
        next.revisions.retain(|_, write| held.contains(write));
        next.floor = next.revisions.last_key_value().map_or(0, |(revision, _)| *revision);
        // What was acknowledged further on is lost, and nobody can be as of a moment of the incarnation that it ended.
        next.acked_index = next.acked_index.min(applied);
        next.known.clear();
        next.told_term = 0;
        // Whose end, or grant, only lost members knew is not known here.
        next.held = Held::default();
        next
    }

    /// Whether the entry of this index and term was handed to somebody's applier.
    pub(super) fn is_committed(&self, index: u64, term: u64) -> bool {
        self.committed.get(&index).is_some_and(|(committed, _)| *committed == term)
    }

    /// The fencing tokens of the leaderships that were acted on.
    pub(super) fn tokens(&self) -> BTreeSet<u64> {
        self.fenced.keys().copied().collect()
    }

    pub(super) fn terms(&self) -> u64 {
        self.leaders.last_key_value().map_or(0, |(term, _)| *term)
    }

    pub(super) fn configuration_count(&self) -> u64 {
        self.configurations.len() as u64
    }

    pub(super) fn status(&mut self, now: u64, id: RaftId, status: &Status) -> Check {
        if !status.configuration.voters.is_empty() && !status.configuration.is_odd() {
            return broken("ODD", format!("{id} has {:?}", status.configuration));
        }
        if status.role == Some(RaftRole::Leader) {
            if !status.configuration.is_voter(id) {
                return broken("the_leader_votes", format!("{id} leads and has {:?}", status.configuration));
            }
            let first = self.leaders.insert(status.term.0, id);
            match first {
                None => {
                    self.elections += 1;
                    // A leader of an earlier term that a late vote makes one need not have what a later one committed.
                    let newest = self.committed_in.range(..status.term.0).map(|(_, index)| *index).max().unwrap_or(0);
                    if status.last.0 < newest {
                        return broken(
                            "leader_completeness",
                            format!(
                                "{id} leads term {} with {} entries, {newest} was committed before",
                                status.term, status.last
                            ),
                        );
                    }
                }
                Some(first) if first != id => {
                    return broken("one_leader_per_term", format!("{first} and {id} in term {}", status.term));
                }
                Some(_) => {}
            }
        }
        if let Some(as_of) = status.as_of {
            self.is_as_fresh(id, as_of.0, status.applied.0)?;
        }
        match status.lease {
            None => {
                self.leases.remove(&id);
            }
            Some(lease) => self.lease(now, id, lease.term.0, lease.until.0)?,
        }
        Ok(())
    }

    /// A member takes a step at `clock`, its own time.
    pub(super) fn steps(&mut self, id: RaftId, clock: u64) {
        let known = self.known.entry(id).or_default();
        if known.back().is_none_or(|(at, index)| *at < clock && *index < self.acked_index) {
            known.push_back((clock, self.acked_index));
        }
    }

    /// What leaves a member: one sends appends in a term, and a member votes once in it, itself included.
    pub(super) fn sends(&mut self, id: RaftId, body: &[u8]) -> Check {
        let header = Header::of(body);
        match header.kind {
            APPEND => match self.appends.insert(header.term, id) {
                Some(first) if first != id => {
                    broken("one_leader_per_term", format!("{first} and {id} send appends in term {}", header.term))
                }
                Some(_) | None => Ok(()),
            },
            VOTE | VOTE_GIVEN if !header.rejects => {
                let to = if header.kind == VOTE { id } else { RaftId(header.to) };
                match self.given.insert((id, header.term), to) {
                    Some(first) if first != to => broken(
                        "one_vote_per_term",
                        format!("{id} gives its vote to {first} and to {to} in term {}", header.term),
                    ),
                    Some(_) | None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Everything acknowledged before `as_of` is applied there.
    fn is_as_fresh(&mut self, id: RaftId, as_of: u64, applied: u64) -> Check {
        let Some(known) = self.known.get_mut(&id) else { return Ok(()) };
        while known.get(1).is_some_and(|(at, _)| *at <= as_of) {
            known.pop_front();
        }
        match known.front() {
            Some((at, acked)) if *at <= as_of && *acked > applied => broken(
                "age_is_honest",
                format!("{id} says that it is as of {as_of} with {applied} applied, {acked} was acknowledged before"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn lease(&mut self, now: u64, id: RaftId, term: u64, until: u64) -> Check {
        if let Some(other) = self.fenced.insert(term, id)
            && other != id
        {
            return broken("fencing_is_unique", format!("{other} and {id} acted in term {term}"));
        }
        if self.exact_clocks {
            for (other, (their_term, their_until)) in &self.leases {
                if *other != id && *their_until > now {
                    return broken(
                        "leases_exclude_each_other",
                        format!("{id} in term {term}, {other} in term {their_term} until {their_until}, now {now}"),
                    );
                }
            }
        }
        self.leases_seen += 1;
        self.told_term = self.told_term.max(term);
        self.leases.insert(id, (term, until));
        Ok(())
    }

    pub(super) fn crashed(&mut self, id: RaftId) {
        self.leases.remove(&id);
    }

    pub(super) fn has_lease(&self, now: u64, id: RaftId) -> bool {
        self.leases.get(&id).is_some_and(|(_, until)| *until > now)
    }

    /// An entry was handed to an applier by a member in this term: it is committed.
    pub(super) fn committed(&mut self, id: RaftId, term: u64, entry: &Committed) -> Check {
        let newest = self.committed_in.entry(term).or_default();
        *newest = entry.index.0.max(*newest);
        let this = (entry.term.0, print_of(entry));
        if let Some(first) = self.committed.insert(entry.index.0, this)
            && first != this
        {
            return broken(
                "log_matching",
                format!("entry {} is of term {} for {id}, of term {} for another member", entry.index, this.0, first.0),
            );
        }
        if let Payload::Configuration { result: Some(result), .. } = &entry.payload {
            if !result.is_odd() {
                return broken("ODD", format!("entry {} makes {result:?}", entry.index));
            }
            if let Some((_, before)) = self.configurations.range(..entry.index.0).next_back() {
                self.follows(entry.index.0, before, result)?;
            }
            self.configurations.insert(entry.index.0, result.clone());
        }
        Ok(())
    }

    /// Voters change by one joint entry and its leave, learners one at a time, and fault tolerance ends only by force.
    fn follows(&self, index: u64, before: &Configuration, after: &Configuration) -> Check {
        if self.configurations.contains_key(&index) {
            return Ok(());
        }
        let standbys = |configuration: &Configuration| {
            let all: BTreeSet<RaftId> =
                configuration.learners.iter().chain(&configuration.learners_next).copied().collect();
            all
        };
        let sound = match (before.is_joint(), after.is_joint()) {
            (false, true) => after.voters_outgoing == before.voters && after.voters != before.voters,
            (true, false) => after.voters == before.voters && standbys(after) == standbys(before),
            (false, false) => {
                let changed = standbys(before).symmetric_difference(&standbys(after)).count();
                after.voters == before.voters && changed == 1
            }
            (true, true) => false,
        };
        if !sound {
            return broken("one_joint_entry_and_its_leave", format!("entry {index} makes {after:?} of {before:?}"));
        }
        if before.voters.len() > 1 && after.voters.len() == 1 && !before.is_joint() && !self.forced {
            return broken(
                "fault_tolerance_ends_only_by_force",
                format!("entry {index} makes {after:?} of {before:?}"),
            );
        }
        Ok(())
    }

    pub(super) fn all_configurations(&self) -> impl Iterator<Item = &Configuration> {
        self.configurations.values()
    }

    pub(super) fn newest_configuration(&self) -> Option<&Configuration> {
        self.configurations.last_key_value().map(|(_, configuration)| configuration)
    }

    /// A leader that does not say `single_copy` acknowledges: a second member has it on disk, also while there is only
    /// one voter. Says whether there was.
    pub(super) fn copied(
        &self,
        id: RaftId,
        status: &Status,
        index: u64,
        holds: impl Fn(RaftId, u64, u64) -> bool,
    ) -> Result<bool, Broken> {
        if status.role != Some(RaftRole::Leader) || status.single_copy {
            return Ok(false);
        }
        let term = self.committed.get(&index).map_or(0, |(term, _)| *term);
        let disks = status.configuration.members().into_iter().filter(|member| holds(*member, index, term)).count();
        if disks >= 2 {
            return Ok(status.configuration.voters.len() == 1);
        }
        broken(
            "acknowledged_is_on_two_disks",
            format!("entry {index} is on the disk of {id} only, and its status is not single_copy"),
        )
    }

    pub(super) fn applied(&mut self, id: RaftId, status: &StateStatus) -> Check {
        let before = self.applied.insert(id, status.applied.0).unwrap_or(0);
        if status.applied.0 < before {
            return broken("applied_never_regresses", format!("{id} went from {before} to {}", status.applied));
        }
        let hash = self.hashes.insert(status.applied.0, status.hash);
        if hash.is_some_and(|hash| hash != status.hash) {
            return broken("equal_state", format!("{id} differs at applied index {}", status.applied));
        }
        Ok(())
    }

    /// A member starts from its disk: only what was not synced may be gone.
    pub(super) fn restarted(&mut self, id: RaftId, before: &HardState, now: &HardState, applied: u64) -> Check {
        if now.term < before.term || (now.term == before.term && before.vote.0 != 0 && now.vote != before.vote) {
            return broken("votes_survive", format!("{id} had {before:?}, now {now:?}"));
        }
        if now.commit < before.commit {
            return broken("commit_survives", format!("{id} had {before:?}, now {now:?}"));
        }
        self.applied.insert(id, applied);
        Ok(())
    }

    pub(super) fn voted(&mut self, id: RaftId, hard: &HardState) -> Check {
        if hard.vote.0 == 0 {
            return Ok(());
        }
        let first = self.votes.insert((id, hard.term.0), hard.vote);
        match first {
            Some(first) if first != hard.vote => {
                broken("one_vote_per_term", format!("{id} voted for {first} and {} in term {}", hard.vote, hard.term))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// At the moment of an acknowledgement the write is in the synced storage of a quorum.
    pub(super) fn acknowledged(&mut self, index: u64, holds: impl Fn(RaftId, u64, u64) -> bool) -> Check {
        self.acked_index = self.acked_index.max(index);
        let Some((term, _)) = self.committed.get(&index).copied() else {
            return broken("acknowledged_is_committed", format!("entry {index} was acknowledged by nobody's commit"));
        };
        let mut in_force = self.configurations.range(..=index).rev().map(|(_, configuration)| configuration).take(2);
        let durable = |configuration: &Configuration| Quorum::of(configuration).is_alive(|id| holds(id, index, term));
        if in_force.any(durable) {
            return Ok(());
        }
        broken("acknowledged_is_durable", format!("entry {index} of term {term} is not synced by a quorum"))
    }

    pub(super) fn write_acked(
        &mut self,
        client: u64,
        sequence: u64,
        revision: u64,
        replayed: bool,
        floor: u64,
    ) -> Check {
        if !replayed && revision <= floor {
            return broken(
                "linearizable_writes",
                format!("write {client}/{sequence} got revision {revision}, {floor} was known before it began"),
            );
        }
        if let Some(other) = self.revisions.insert(revision, (client, sequence))
            && other != (client, sequence)
        {
            return broken("one_revision_per_write", format!("{other:?} and {client}/{sequence} have {revision}"));
        }
        if let Some(first) = self.acked.insert((client, sequence), revision)
            && first != revision
        {
            return broken("exactly_once", format!("write {client}/{sequence} has revisions {first} and {revision}"));
        }
        self.floor = self.floor.max(revision);
        Ok(())
    }

    pub(super) const fn told_term(&self) -> u64 {
        self.told_term
    }

    /// A quorum of `term` has confirmed a read at `index`, which was asked for when `floor` was the newest leadership told of: that
    /// leadership, or a later one, and one of whose own entries the read sees the last that was committed. A caller that holds a
    /// fencing token goes by the term alone.
    pub(super) fn read_confirmed(&mut self, id: RaftId, index: u64, term: u64, floor: u64) -> Check {
        self.told_term = self.told_term.max(term);
        if term < floor {
            return broken(
                "a_read_is_of_no_older_leadership",
                format!("{id} answered a read in term {term}, {floor} had a lease before it was asked"),
            );
        }
        match self.committed.get(&index) {
            Some((of, _)) if *of != term => broken(
                "a_read_is_of_the_leadership_that_confirmed_it",
                format!("{id} answered a read in term {term} at entry {index}, which is of term {of}"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn read_done(&mut self, id: RaftId, revision: u64, floor: u64) -> Check {
        if revision < floor {
            return broken(
                "linearizable_reads",
                format!("{id} answered at revision {revision}, {floor} was known before the read began"),
            );
        }
        self.floor = self.floor.max(revision);
        Ok(())
    }
}

/// The key of one write, and of its client's counter.
pub(super) fn keys(client: u64, sequence: u64) -> (Bytes, Bytes) {
    let section = quorate_core::keyspace::Section::User;
    (section.key(format!("c{client}").as_bytes()), section.key(format!("c{client}/{sequence}").as_bytes()))
}
