//! Which CA the cluster trusts, and the replacement of one by another.
//!
//! A rotation makes a new root, which the old root signs across. From then on the new one signs, and both are trusted: whoever
//! knows only the old one finds the way to the new one by the cross certificate that is shown with every certificate. Nodes and
//! operators renew theirs. It ends when all of them have been seen with a certificate of the new issuer, or at its deadline: then
//! the old root is trusted by nobody, and whoever has been away all the time has to join anew. Also then it does not end before a
//! majority of the voters has been seen so: a cluster never loses its quorum by a deadline. All of that is one record, so that a
//! leader that dies leaves nothing behind that the next one does not see.
//!
//! Owns the record, who is waited for, and when it is over. Pure: certificates are bytes, and the time is given. Called by the
//! leader's keeper of the rotation, by whoever begins one, and wherever somebody's trust is compared with the cluster's.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use crate::id::RaftId;
use crate::keyspace::Section;
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
    /// Since when the rotation that is under way is, seconds since 1970; 0: none is.
    #[prost(uint64, tag = "4")]
    pub started: u64,
    /// When it ends without those who are silent, seconds since 1970.
    #[prost(uint64, tag = "5")]
    pub deadline: u64,
    /// Over which time renewals are spread, milliseconds.
    #[prost(uint64, tag = "6")]
    pub spread_ms: u64,
}

/// Why no rotation begins. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefused {
    /// The deadline is too soon or too far.
    #[error("a rotation ends after 1 s at least, and 365 days at most")]
    Deadline,
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

    /// Whether a rotation is under way.
    pub const fn is_rotating(&self) -> bool {
        self.started != 0
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
        if self.authorities.len() + 2 > AUTHORITIES_MAX {
            return Err(RotationRefused::TooMany);
        }
        let mut authorities = vec![root, cross];
        authorities.extend(self.authorities.iter().cloned());
        let spread_ms = (nodes as u64).saturating_mul(1_000) / RENEWALS_PER_SECOND;
        // Whoever renews last has half of the time yet.
        let longest = deadline_s.saturating_mul(1_000) / 2;
        Ok(Self {
            authorities,
            issuer,
            serial: self.serial + 1,
            started: now.max(1),
            deadline: now.saturating_add(deadline_s),
            spread_ms: spread_ms.max(SPREAD_MS_MIN).min(longest),
        })
    }

    /// Who is waited for: nodes that the cluster counts on, and operators that stand.
    pub fn progress<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a NodeRecord>,
        operators: impl IntoIterator<Item = &'a OperatorRecord>,
        now: u64,
    ) -> Progress<'a> {
        let (mut all, mut waited) = (0, Vec::new());
        for node in nodes.into_iter().filter(|node| !node.lost && !node.compromised) {
            all += 1;
            if node.issuer != self.issuer {
                waited.push(Waited::Node(node));
            }
        }
        for operator in operators.into_iter().filter(|operator| operator.standing(now) == Standing::Stands) {
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
        now: u64,
    ) -> Option<Self> {
        if !self.is_rotating() {
            return None;
        }
        let nodes: Vec<&NodeRecord> = nodes.into_iter().collect();
        let all_have = self.progress(nodes.iter().copied(), operators, now).waited.is_empty();
        let over = all_have || (now >= self.deadline && self.keeps_quorum(&nodes, configuration));
        over.then(|| Self {
            authorities: self.authorities.first().cloned().into_iter().collect(),
            started: 0,
            deadline: 0,
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

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
