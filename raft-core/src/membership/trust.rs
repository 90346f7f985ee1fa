//! Which CA the cluster trusts, and the replacement of one by another.
//!
//! A rotation makes a new root, which the old root signs across. From then on the new one signs, and both are trusted: whoever
//! knows only the old one finds the way to the new one by the cross certificate that is shown with every certificate. Nodes and
//! operators renew theirs. It ends when all of them have been seen with a certificate of the new issuer, or at its deadline: then
//! the old root is trusted by nobody, and whoever has been away all the time has to join anew. Also then it does not end before a
//! majority of the voters has been seen so: a cluster never loses its quorum by a deadline. All of that is in records, so that a
//! leader that dies leaves nothing behind that the next one does not see.
//!
//! # The deadline
//! It is a length of time, and no wall clock counts it: clocks of managers differ, and one that is ahead would shut out who is in
//! time by all the others. The leader counts the seconds in which it leads, in its ticks, and writes down how many there
//! were ([`TrustTime`]); the next one goes on from there. So it is never over early, whoever leads, and late by what nobody led, and
//! by what was not written down yet whenever another one took over ([`TrustRecord::step_s`]).
//!
//! Owns the records, who is waited for, and when it is over. Pure: certificates are bytes, and the time is given. Called by the
//! consensus machine, which ends a rotation, by whoever begins one, and wherever somebody's trust is compared with the cluster's.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use crate::id::RaftId;
use crate::keyspace::Section;
use crate::limits::{Met, ROTATION_S_MIN};
use crate::log::Configuration;
use crate::membership::operators::{OperatorRecord, Standing};
use crate::membership::quorum::Quorum;
use crate::membership::record::NodeRecord;

/// Bytes of an issuer's id: the beginning of the SHA-256 of its name.
pub const ISSUER_BYTES: usize = 8;
/// Roots and cross certificates at most: a rotation that begins in another one adds to those that are trusted still.
pub const AUTHORITIES_MAX: usize = 9;
/// Shortest and longest time until a rotation ends without those who are silent, seconds.
pub const DEADLINE_S: (u64, u64) = (1, 365 * 86_400);
/// What is counted of a deadline is written down in so many steps, and so often at least and at most, seconds.
const STEPS: u64 = 64;
const STEP_S: (u64, u64) = (1, 60);
/// So long after its end, seconds, an operator is waited for no more: the clock that says so may be ahead by that.
const CLOCKS_APART_S: u64 = 3_600;
/// Renewals in a second that a rotation asks for.
const RENEWALS_PER_SECOND: u64 = 20;
/// The shortest time over which they are spread, milliseconds.
const SPREAD_MS_MIN: u64 = 200;

/// What the cluster trusts. Everything in it is public; the key of the issuing root lies elsewhere. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrustRecord {
    /// Roots and cross certificates, DER: first the root that signs, then what leads to it, then older roots that are trusted
    /// still.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub authorities: Vec<Bytes>,
    /// The id of the root that signs.
    #[prost(bytes = "bytes", tag = "2")]
    pub issuer: Bytes,
    /// How often the root was replaced.
    #[prost(uint64, tag = "3")]
    pub serial: u64,
    /// Since when the rotation that is under way is, by the clock of who began it, seconds since 1970; 0: none is.
    #[prost(uint64, tag = "4")]
    pub started: u64,
    /// Over which time renewals are spread, milliseconds.
    #[prost(uint64, tag = "6")]
    pub spread_ms: u64,
    /// After how much time it ends without those who are silent, seconds; see the module.
    #[prost(uint64, tag = "7")]
    pub deadline_s: u64,
    /// Another one begins when this one is over, with this deadline, seconds; 0: none does.
    #[prost(uint64, tag = "8")]
    pub next_s: u64,
}

/// How much of a rotation's time is over. A record of its own, so that whoever changes what is trusted, meanwhile, is not overtaken
/// by the time that passes. Field numbers are for ever.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TrustTime {
    /// Of the rotation with this serial: of any other nothing is over yet.
    #[prost(uint64, tag = "1")]
    pub serial: u64,
    /// Seconds.
    #[prost(uint64, tag = "2")]
    pub passed_s: u64,
}

impl TrustTime {
    /// Where it lives.
    pub fn key() -> Bytes {
        Section::Identity.key(b"trust-time")
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// The time at which somebody asks whether a rotation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// How long it has gone on, seconds, as the leader counts it.
    pub passed_s: u64,
    /// Seconds since 1970 by the clock of who asks: only the ends of operators are measured by it.
    pub unix_s: u64,
}

/// Why no rotation begins. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// The deadline is too soon or too far.
    #[error("a rotation lasts a second at least, and 365 days at most")]
    Deadline,
    /// Nobody could be in time.
    #[error("a rotation lasts {} s at least here (`ROTATION_S_MIN`), or nodes could not renew in time, and {} s were given", .0.bound, .0.actual)]
    TooSoon(Met),
    /// Rotations within each other, and no end.
    #[error(
        "there are several rotations under way within each other already; see `quorate ca status` for who is waited for"
    )]
    TooMany,
}

/// Somebody who has not been seen with a certificate of the new issuer.
#[derive(Debug, Clone, PartialEq)]
pub enum Waited<'a> {
    /// A node of the cluster.
    Node(&'a NodeRecord),
    /// An operator that stands.
    Operator(&'a OperatorRecord),
}

/// How far a rotation is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// Nodes and operators that have to renew.
    pub all: usize,
    /// Those that have not.
    pub waited: Vec<Waited<'a>>,
}

impl TrustRecord {
    /// Where it lives.
    pub fn key() -> Bytes {
        Section::Identity.key(b"trust")
    }

    /// As stored.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Of a cluster whose root was never replaced.
    pub fn first(root: Bytes, issuer: Bytes) -> Self {
        Self { authorities: vec![root], issuer, ..Self::default() }
    }

    /// Refuses a deadline that is so near that nodes which are there could not renew before it. Only of who asks for it: what stands in
    /// line is not refused because there are more nodes by then.
    ///
    /// # Errors
    /// [`RotationRefused::TooSoon`].
    pub fn check_deadline(nodes: usize, deadline_s: u64) -> Result<(), RotationRefused> {
        let bound = ROTATION_S_MIN.max(spread_ms(nodes).saturating_mul(2).div_ceil(1_000));
        if deadline_s < bound {
            let met = Met { name: "ROTATION_S_MIN", bound, actual: deadline_s };
            return Err(RotationRefused::TooSoon(met));
        }
        Ok(())
    }

    /// Whether a rotation is under way.
    pub const fn is_rotating(&self) -> bool {
        self.started != 0
    }

    /// Whether one more root may be trusted besides those that are.
    pub const fn has_room(&self) -> bool {
        self.authorities.len() + 2 <= AUTHORITIES_MAX
    }

    /// The record once another root signs. `cross` is the new root's key, signed by the one before it. One that is under way goes
    /// on in the new one: what was trusted is trusted until this one ends.
    ///
    /// # Errors
    /// Why not.
    pub fn rotated(
        &self,
        (root, issuer): (Bytes, Bytes),
        cross: Bytes,
        nodes: usize,
        now: u64,
        deadline_s: u64,
    ) -> Result<Self, RotationRefused> {
        if deadline_s < DEADLINE_S.0 || deadline_s > DEADLINE_S.1 {
            return Err(RotationRefused::Deadline);
        }
        if !self.has_room() {
            return Err(RotationRefused::TooMany);
        }
        let mut authorities = vec![root, cross];
        authorities.extend(self.authorities.iter().cloned());
        Ok(Self {
            authorities,
            issuer,
            serial: self.serial + 1,
            started: now.max(1),
            spread_ms: spread_ms(nodes).min(longest_spread_ms(deadline_s)),
            deadline_s,
            next_s: 0,
        })
    }

    /// The record once another rotation stands in line, for where no further one may begin within those that are under way
    /// ([`RotationRefused::TooMany`]) and what it is for bears no refusal. These are over after `deadline_s` at the latest, then it
    /// begins, with that deadline again. One that stands there already serves for both, with the nearer deadline.
    ///
    /// # Errors
    /// [`RotationRefused::Deadline`].
    pub fn with_next(&self, time: &TrustTime, deadline_s: u64) -> Result<Self, RotationRefused> {
        if deadline_s < DEADLINE_S.0 || deadline_s > DEADLINE_S.1 {
            return Err(RotationRefused::Deadline);
        }
        let left = self.left_s(time).min(deadline_s);
        Ok(Self {
            deadline_s: self.passed_s(time).saturating_add(left),
            spread_ms: self.spread_ms.min(longest_spread_ms(left)),
            next_s: if self.next_s == 0 { deadline_s } else { self.next_s.min(deadline_s) },
            ..self.clone()
        })
    }

    /// The deadline of the rotation that stood in line, once its turn has come.
    pub const fn next_due(&self) -> Option<u64> {
        if self.next_s != 0 && !self.is_rotating() { Some(self.next_s) } else { None }
    }

    /// How much of the time of the rotation that is under way is over, as far as that is written down, seconds.
    pub const fn passed_s(&self, time: &TrustTime) -> u64 {
        if time.serial == self.serial && self.is_rotating() { time.passed_s } else { 0 }
    }

    /// How much is left, seconds.
    pub const fn left_s(&self, time: &TrustTime) -> u64 {
        if self.is_rotating() { self.deadline_s.saturating_sub(self.passed_s(time)) } else { 0 }
    }

    /// After how many seconds more what has passed is written down.
    pub fn step_s(&self) -> u64 {
        (self.deadline_s / STEPS).clamp(STEP_S.0, STEP_S.1)
    }

    /// Who is waited for: nodes that the cluster counts on, and operators that stand, or ended a moment ago.
    pub fn progress<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a NodeRecord>,
        operators: impl IntoIterator<Item = &'a OperatorRecord>,
        unix_s: u64,
    ) -> Progress<'a> {
        let surely = unix_s.saturating_sub(CLOCKS_APART_S);
        let (mut all, mut waited) = (0, Vec::new());
        for node in nodes.into_iter().filter(|node| !node.lost && !node.compromised) {
            all += 1;
            if node.issuer != self.issuer {
                waited.push(Waited::Node(node));
            }
        }
        for operator in operators.into_iter().filter(|operator| operator.standing(surely) == Standing::Stands) {
            all += 1;
            if operator.issuer != self.issuer {
                waited.push(Waited::Operator(operator));
            }
        }
        Progress { all, waited }
    }

    /// The record after the end of the rotation, where it has come: only the root that signs is trusted. `None` while it goes on,
    /// or none is under way.
    pub fn ended<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a NodeRecord>,
        operators: impl IntoIterator<Item = &'a OperatorRecord>,
        configuration: &Configuration,
        at: Moment,
    ) -> Option<Self> {
        if !self.is_rotating() {
            return None;
        }
        let nodes: Vec<&NodeRecord> = nodes.into_iter().collect();
        let all_have = self.progress(nodes.iter().copied(), operators, at.unix_s).waited.is_empty();
        let over = all_have || (at.passed_s >= self.deadline_s && self.keeps_quorum(&nodes, configuration));
        over.then(|| Self {
            authorities: self.authorities.first().cloned().into_iter().collect(),
            started: 0,
            deadline_s: 0,
            spread_ms: SPREAD_MS_MIN,
            ..self.clone()
        })
    }

    /// Whether the voters that have renewed are enough for a quorum, without any other.
    fn keeps_quorum(&self, nodes: &[&NodeRecord], configuration: &Configuration) -> bool {
        let counts = |node: &&&NodeRecord| !node.lost && !node.compromised && node.issuer == self.issuer;
        let renewed: BTreeSet<RaftId> = nodes.iter().filter(counts).filter_map(|node| node.raft()).collect();
        Quorum::of(configuration).is_alive(|id| renewed.contains(&id))
    }
}

/// Over which time the renewals of so many nodes are spread.
fn spread_ms(nodes: usize) -> u64 {
    ((nodes as u64).saturating_mul(1_000) / RENEWALS_PER_SECOND).max(SPREAD_MS_MIN)
}

/// Whoever renews last has half of the time yet.
const fn longest_spread_ms(deadline_s: u64) -> u64 {
    deadline_s.saturating_mul(1_000) / 2
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
