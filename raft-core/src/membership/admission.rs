//! Who gets in among the managers, by what this one knows, and on whose word where it knows too little.
//!
//! A manager that was away while another one was promoted, joined anew or came back knows it as what it was before, and if that one
//! leads now, nobody else sends the entries that say otherwise. Its certificate proves which node it is, and it may prove no more
//! than what the node once was: so a manager whose records it knows is asked for its word about the raft id.
//!
//! Where nobody could give a word, the certificate itself is one: it says which raft id was given to the node, for which store and in
//! which incarnation, and raft ids only rise, so one that is newer than all that this manager has heard of cannot be older news. It is
//! then as if the record had come that the certificate repeats, and no more: whether the caller gets a vote, or is followed, Raft
//! decides, which needs no voter to know the configuration of a candidate. Without that, two managers of three of which one has missed
//! that the other came back would turn each other away for ever, though they are a majority. Nobody could give a word to a manager that
//! is connected to none that it knows, nor to one that has had no leader for as long as it takes to believe what only the CA has
//! signed ([`CLAIM_TICKS`]): all that it is connected to may have missed the same. Else a word is waited for, as the key of the CA
//! outlives a removal.
//!
//! Owns the judgement on who calls, who is to be asked about, and whom somebody vouched for. Never lets anybody in that was removed
//! under the raft id it claims, and never asks anybody itself. Called by the managers' gate, and by whoever brings the words.

use std::collections::VecDeque;

use crate::consensus::io::Records;
use crate::id::{Enrolled, NodeId, RaftId, StoreId};
use crate::membership::upgrade::{Support, Unfit};
use crate::mutants::{Mutant, on};
use crate::succession::CLAIM_TICKS;

/// So many are remembered, newest last: more managers than a cluster has.
const REMEMBERED: usize = 32;

/// Who calls: what its certificate has proven, and what it says besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calling {
    /// The node, by its certificate.
    pub node: NodeId,
    /// The digest of the key that it has proven to have.
    pub key_digest: [u8; 32],
    /// The raft id that it claims.
    pub raft_id: RaftId,
    /// The store that it says it has.
    pub store_id: Option<StoreId>,
    /// The raft id that its certificate says it was given; `None` where it says none, as those of older programs.
    pub enrolled: Option<Enrolled>,
    /// The cluster versions that its program supports.
    pub support: Support,
}

/// Why somebody does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// It is none of the managers, as far as is known here.
    NotAMember,
    /// The raft id was taken from it for ever.
    Removed,
    /// Its program does not fit the cluster.
    Unfit(Unfit),
    /// It has another key than the node that it says it is.
    OtherKey,
    /// The raft id is bound to another store.
    StoreReplaced,
}

/// Managers that have called and that the records do not have yet.
#[derive(Debug, Default)]
pub struct Strangers {
    called: VecDeque<Stranger>,
    company: bool,
    leaderless: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stranger {
    raft_id: RaftId,
    node: NodeId,
    vouched: bool,
}

impl Strangers {
    /// Whether a manager of the cluster has said that this raft id is that node's.
    pub fn is_vouched_for(&self, raft_id: RaftId, node: NodeId) -> bool {
        self.called.iter().any(|known| known.vouched && (known.raft_id, known.node) == (raft_id, node))
    }

    /// It has called: from now on a word about it counts, and is waited for.
    fn ask_about(&mut self, raft_id: RaftId, node: NodeId) {
        if self.called.iter().any(|known| (known.raft_id, known.node) == (raft_id, node)) {
            return;
        }
        // One place for each node: whoever calls under many raft ids pushes out nobody else.
        self.called.retain(|known| known.node != node);
        if self.called.len() == REMEMBERED {
            self.called.pop_front();
        }
        self.called.push_back(Stranger { raft_id, node, vouched: false });
    }

    /// Whether a manager that is known is connected now, and so can be asked for a word, and for how many ticks there was no leader.
    pub const fn look_around(&mut self, company: bool, leaderless_ticks: u64) {
        (self.company, self.leaderless) = (company, leaderless_ticks >= CLAIM_TICKS);
    }

    /// Whether nobody could give a word now: what a certificate says has to do.
    const fn nobody_could_tell(&self) -> bool {
        !self.company || self.leaderless
    }

    /// Whether somebody waits for a word.
    pub fn wait(&self) -> bool {
        self.called.iter().any(|known| !known.vouched)
    }

    /// A manager that is known says that this raft id is that node's.
    pub fn vouch(&mut self, raft_id: RaftId, node: NodeId) {
        for known in self.called.iter_mut().filter(|known| (known.raft_id, known.node) == (raft_id, node)) {
            known.vouched = true;
        }
    }

    /// Nobody whom the records know by now needs a word.
    pub fn forget_known(&mut self, records: &Records) {
        let is_known =
            |known: &Stranger| records.nodes.get(known.node).is_some_and(|record| record.raft() == Some(known.raft_id));
        self.called.retain(|known| !is_known(known));
    }
}

/// Whether a manager with these records talks to who calls. Who would need a word and has none is remembered, to be asked about.
///
/// # Errors
/// Why not.
pub fn admit(records: &Records, strangers: &mut Strangers, calling: &Calling) -> Result<(), TurnedAway> {
    let Calling { node, key_digest, raft_id, store_id, enrolled, support } = *calling;
    if raft_id == RaftId(0) {
        return Err(TurnedAway::NotAMember);
    }
    if records.removed.contains(&raft_id) {
        return Err(TurnedAway::Removed);
    }
    support.check(records.cluster.version).map_err(TurnedAway::Unfit)?;
    if records.nodes.is_empty() {
        // A newcomer knows nobody yet: a manager's certificate of this cluster is what it can check.
        return Ok(());
    }
    // A raft id that this member has not heard of is newer than its own state, and so may everything be that it knows of the node.
    // A node's certificate outlives what it was, though, and any raft id can be claimed with that: so it gets in once a manager
    // that is known has the same record of it, or where none could, on its certificate, if that says so. Who can ask none of these yet
    // takes a node of which it has never heard.
    let newer = raft_id.0 >= records.cluster.next_raft_id;
    let unheard_of = newer && !strangers.company && !records.removed.contains_node(node);
    let is_given = |given: Enrolled| {
        let of_now = records.lineage().current() == Some(given.lineage) && store_id == Some(given.store_id);
        of_now && (given.raft_id == raft_id || on(Mutant::AnyCertificate))
    };
    let by_certificate = newer && strangers.nobody_could_tell() && enrolled.is_some_and(is_given);
    let mut has_a_word = || {
        if newer && !strangers.is_vouched_for(raft_id, node) && !on(Mutant::NoWordNeeded) {
            strangers.ask_about(raft_id, node);
            return false;
        }
        newer
    };
    let Some(record) = records.nodes.get(node) else {
        return if unheard_of || by_certificate || has_a_word() { Ok(()) } else { Err(TurnedAway::NotAMember) };
    };
    if record.compromised {
        // Not "removed": whoever dials it and refuses it here must not take that for a word about itself.
        return Err(TurnedAway::NotAMember);
    }
    if record.raft() != Some(raft_id) && (by_certificate || has_a_word()) {
        return Ok(());
    }
    if record.key_digest != key_digest.as_slice() {
        return Err(TurnedAway::OtherKey);
    }
    if record.raft() != Some(raft_id) {
        return Err(TurnedAway::NotAMember);
    }
    match record.store() {
        Some(bound) if store_id != Some(bound) => Err(TurnedAway::StoreReplaced),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
