//! Who lets whom in among the managers, and what a manager believes of what others say about it.
//!
//! Owns the part that gate, transport and identity have on a node, each by the very code of a node: two managers talk once each lets
//! the other one in ([`quorate_core::membership::admission`]); those that one knows are asked for a word on those that it does not;
//! and who is turned away weighs what that says about itself ([`quorate_core::membership::hearsay`]), asks a quorum what it is, and
//! stops when that says so, or its own records. Also those who lie: a node that claims a raft id which is none of its own, and somebody
//! in the place of a manager who says of another one that it is none any more. Draws of its own. Called by the world, in runs with the
//! knob `gates`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::check::broken;
use super::config::MILLIS;
use super::event::Event;
use super::recovery::key_of;
use super::world::{Step, World, node_id};
use quorate_core::consensus::io::{Nanos, Records};
use quorate_core::id::{Enrolled, RaftId, StoreId};
use quorate_core::membership::admission::{Calling, Strangers, TurnedAway, admit};
use quorate_core::membership::hearsay::{After, Hearsay, NoMore, Own, Said, after_removal};
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::upgrade::{Support, Unfit};
use quorate_core::testing::Rng;

/// For so long somebody who knows better must have been away before a lie may be believed.
const ALONE: u64 = 3_000 * MILLIS;

/// What one start of a manager has at its door.
struct Door {
    boot: u64,
    strangers: Strangers,
    hearsay: Hearsay,
    /// What others said when they turned it away.
    said: BTreeMap<RaftId, Said>,
    /// Somebody that it knows could be asked when it last looked.
    company: bool,
    /// When somebody of whom it has a record was last connected, by its own clock, as an observer saw it.
    in_company: u64,
    /// It asks a quorum what it is.
    asks: bool,
}

/// All doors.
pub(super) struct Gates {
    rng: Rng,
    doors: BTreeMap<RaftId, Door>,
    /// Who has stopped because it is none any more, and of which start that was.
    stopped: BTreeMap<RaftId, u64>,
    /// Who talks with whom, the smaller id first, each with the start that it is of.
    pairs: BTreeMap<(RaftId, RaftId), (u64, u64)>,
}

impl Gates {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::stream(seed, 25), doors: BTreeMap::new(), stopped: BTreeMap::new(), pairs: BTreeMap::new() }
    }

    fn door(&mut self, id: RaftId, boot: u64) -> Option<&mut Door> {
        self.doors.get_mut(&id).filter(|door| door.boot == boot)
    }
}

/// The store that has this raft id; a worker has none.
pub(super) fn store_of(id: u64) -> Bytes {
    let mut store = [0; 16];
    for (at, byte) in store.iter_mut().zip(id.to_le_bytes()) {
        *at = byte;
    }
    if id == 0 { Bytes::new() } else { Bytes::copy_from_slice(&store) }
}

/// What a refusal says about who is refused; the others say nothing that lasts.
const fn said(turned_away: TurnedAway) -> Option<Said> {
    match turned_away {
        TurnedAway::Removed => Some(Said::Removed),
        TurnedAway::Unfit(Unfit::TooOld { cluster, .. } | Unfit::TooNew { cluster, .. }) => {
            Some(Said::Version(cluster))
        }
        TurnedAway::StoreReplaced => Some(Said::StoreReplaced),
        TurnedAway::NotAMember | TurnedAway::OtherKey => None,
    }
}

impl World {
    fn boot(&self, id: RaftId) -> u64 {
        self.members.get(&id).map_or(0, |member| member.boot)
    }

    /// Liars come, now and then.
    pub(super) fn begin_gates(&mut self) {
        if self.config.gates {
            let at = self.now + self.gates.rng.between(1_000 * MILLIS, 4_000 * MILLIS);
            self.schedule(at, Event::Liar);
        }
    }

    /// A process has started: it knows nobody yet.
    pub(super) fn opens_its_door(&mut self, id: RaftId, boot: u64) {
        if !self.config.gates {
            return;
        }
        let now = self.members.get(&id).map_or(0, |member| member.clock(self.now));
        let store_id = StoreId::from_slice(&store_of(id.0)).unwrap_or_default();
        let hearsay = Hearsay::new(Own { raft_id: id, store_id, support: Support::THIS }, Nanos(now));
        let strangers = Strangers::default();
        let door =
            Door { boot, strangers, hearsay, said: BTreeMap::new(), company: false, in_company: now, asks: false };
        self.gates.doors.insert(id, door);
        let at = self.now + self.gates.rng.between(MILLIS, 500 * MILLIS);
        self.schedule(at, Event::Door { id, boot });
    }

    /// Whether messages pass between the two, as far as their gates go.
    pub(super) fn talk(&self, a: RaftId, b: RaftId) -> bool {
        !self.config.gates
            || self.gates.pairs.get(&(a.min(b), a.max(b))) == Some(&(self.boot(a.min(b)), self.boot(a.max(b))))
    }

    /// Two that reach each other and do not talk greet each other; says whether they talk then.
    pub(super) fn greet(&mut self, a: RaftId, b: RaftId) -> bool {
        if self.talk(a, b) {
            return true;
        }
        let (by_a, by_b) = (self.lets_in(a, b), self.lets_in(b, a));
        for (at, caller, answer) in [(a, b, by_a), (b, a, by_b)] {
            let boot = self.boot(caller);
            let Some(door) = self.gates.door(caller, boot) else { continue };
            match answer {
                Ok(()) => {
                    door.said.remove(&at);
                }
                Err(turned_away) => {
                    door.said.extend(said(turned_away).map(|said| (at, said)));
                }
            }
        }
        if by_a.is_err() || by_b.is_err() {
            self.marks.hit("door", "a manager was turned away");
            return false;
        }
        let (low, high) = (a.min(b), a.max(b));
        let boots = (self.boot(low), self.boot(high));
        self.gates.pairs.insert((low, high), boots);
        self.trace.line(self.now, || format!("{low} and {high} let each other in"));
        self.schedule(self.now + MILLIS, Event::Connections { id: low, boot: boots.0 });
        self.schedule(self.now + MILLIS, Event::Connections { id: high, boot: boots.1 });
        true
    }

    /// Whether `at` lets `caller` in, which is who it says it is.
    fn lets_in(&mut self, at: RaftId, caller: RaftId) -> Result<(), TurnedAway> {
        let (Some(records), Some(node)) = (self.records(at), self.node_of(caller)) else {
            return Err(TurnedAway::NotAMember);
        };
        let calling = Calling { enrolled: self.certified(caller), ..calling(node, caller) };
        let boot = self.boot(at);
        let Some(door) = self.gates.door(at, boot) else { return Err(TurnedAway::NotAMember) };
        let answer = admit(&records, &mut door.strangers, &calling);
        if answer.is_ok() && records.nodes.get(node_id(node)).is_some_and(|known| known.raft() != Some(caller)) {
            let word = door.strangers.is_vouched_for(caller, calling.node);
            self.marks.hit("door", if word { "let in on a word" } else { "let in on its certificate" });
        }
        answer
    }

    /// What the certificate of a member says: it signs itself one once it is in its own state, and needs none before it has a seat.
    fn certified(&self, id: RaftId) -> Option<Enrolled> {
        self.records(id)?.by_raft_id(id)?;
        self.given(id)
    }

    /// A raft id as it was given out.
    fn given(&self, id: RaftId) -> Option<Enrolled> {
        let (store_id, lineage) = (StoreId::from_slice(&store_of(id.0))?, self.lineage(id).current()?);
        Some(Enrolled { raft_id: id, store_id, lineage })
    }

    /// A manager looks who is at its door, and what is said about itself.
    pub(super) fn at_the_door(&mut self, id: RaftId, boot: u64) -> Step {
        let next = self.now + self.gates.rng.between(200 * MILLIS, 900 * MILLIS);
        self.schedule(next, Event::Door { id, boot });
        let Some(records) = self.records(id) else { return Ok(()) };
        self.ask_for_words(id, boot, &records);
        for other in self.ids() {
            // Who is none any more is not dialled any more, and what it had open is closed.
            if records.removed.contains(&other) {
                self.gates.pairs.remove(&(id.min(other), id.max(other)));
            } else if other != id && self.is_up(other) && self.link_is_up(id, other) {
                self.greet(id, other);
            }
        }
        self.weigh_what_is_said(id, boot, &records)
    }

    /// Those that it knows, and talks with, are asked about those that it does not.
    fn ask_for_words(&mut self, id: RaftId, boot: u64, records: &Records) {
        let others = records.nodes.members().filter_map(NodeRecord::raft).filter(|other| *other != id);
        let known: Vec<RaftId> =
            others.filter(|other| self.is_up(*other) && self.link_is_up(id, *other) && self.talk(id, *other)).collect();
        let words: Vec<_> = known.iter().filter_map(|peer| self.records(*peer)).collect();
        let leaderless = self.status(id).map_or(0, |status| status.leaderless_ticks);
        let Some(door) = self.gates.door(id, boot) else { return };
        door.strangers.forget_known(records);
        door.company = !known.is_empty();
        door.strangers.look_around(door.company, leaderless);
        if !door.strangers.wait() {
            return;
        }
        for theirs in words {
            for node in theirs.nodes.members().filter(|node| !node.compromised) {
                if let (Some(raft_id), Some(node)) = (node.raft(), node.node_id()) {
                    door.strangers.vouch(raft_id, node);
                }
            }
        }
    }

    /// Its own records it believes, others where nobody could say otherwise; of what these say about its raft id it asks first.
    fn weigh_what_is_said(&mut self, id: RaftId, boot: u64, records: &Records) -> Step {
        let Some(member) = self.members.get(&id) else { return Ok(()) };
        let clock = member.clock(self.now);
        let connected: Vec<RaftId> = member
            .process
            .iter()
            .flat_map(|process| &process.connected)
            .copied()
            .filter(|o| self.talk(id, *o))
            .collect();
        let company = connected.iter().any(|other| records.by_raft_id(*other).is_some());
        let Some(door) = self.gates.door(id, boot) else { return Ok(()) };
        if company {
            door.in_company = clock;
        }
        let alone_for = clock.saturating_sub(door.in_company);
        door.hearsay.connected(Nanos(clock), records, connected);
        let own = door.hearsay.by_the_records(records);
        let heard = door.said.values().find_map(|said| door.hearsay.believe(Nanos(clock), records, *said));
        let Some(why) = own.or(heard) else { return Ok(()) };
        let first = own.is_none() && why == NoMore::Removed && !door.hearsay.is_leaving(records);
        if first && std::mem::replace(&mut door.asks, true) {
            return Ok(());
        }
        let gone = self.is_none_any_more(id);
        if own.is_none() && !gone && (alone_for < ALONE || why != NoMore::Removed) {
            let detail =
                format!("{id} believes {why:?}, after {} ms in which nobody it knows was there", alone_for / MILLIS);
            return broken("a_liar_is_not_believed_in_company", detail);
        }
        self.marks.hit("hearsay", if gone { "is none any more" } else { "hears a lie" });
        if first {
            self.trace.line(self.now, || format!("{id} asks what it is: {why:?}"));
        } else {
            self.trace.line(self.now, || format!("{id} stops: {why:?}"));
            self.crash(id, usize::MAX);
            // (It asks as what it is now: the process that ended has another number.)
            self.gates.stopped.insert(id, self.boot(id));
        }
        let at = self.now + self.gates.rng.between(MILLIS, 500 * MILLIS);
        let boot = self.boot(id);
        self.schedule(at, Event::Asks { id, boot });
        Ok(())
    }

    /// Whether anybody's records say that this raft id was taken for ever.
    fn is_none_any_more(&self, id: RaftId) -> bool {
        self.ids().into_iter().any(|other| self.records(other).is_some_and(|records| records.removed.contains(&id)))
    }

    /// Who was called gone asks a quorum what it is, until one answers; by the word of others it goes on meanwhile.
    pub(super) fn asks_what_it_is(&mut self, id: RaftId, boot: u64) -> Step {
        let stopped = self.gates.stopped.get(&id) == Some(&boot);
        let Some(member) = self.members.get(&id).filter(|member| member.boot == boot) else { return Ok(()) };
        // A process that has died meanwhile is told anew.
        if member.process.is_none() != stopped {
            return Ok(());
        }
        let node = member.node;
        // By what the leader says itself: its clock may be any.
        let leads = |leader: &RaftId| self.status(*leader).is_some_and(|status| status.lease.is_some());
        let leader = self.leader().filter(leads).filter(|leader| self.link_is_up(id, *leader));
        let Some(records) = leader.and_then(|leader| self.records(leader)) else {
            if let Some(door) = self.gates.door(id, boot).filter(|_| !stopped) {
                door.asks = false;
                return Ok(());
            }
            let at = self.now + self.gates.rng.between(200 * MILLIS, 900 * MILLIS);
            self.schedule(at, Event::Asks { id, boot });
            return Ok(());
        };
        let told = records.nodes.get(node_id(node)).map(|record| RaftId(record.raft_id));
        match told.map(|told| after_removal(id, told)) {
            Some(After::Manager) => {
                self.marks.hit("hearsay", "goes on as the manager that it is");
                if stopped {
                    return self.start(id);
                }
                if let Some(door) = self.gates.door(id, boot) {
                    (door.asks, door.said) = (false, BTreeMap::new());
                }
            }
            Some(After::Worker | After::Elsewhere) | None => self.destroy(id),
        }
        Ok(())
    }

    /// Somebody lies, at the door of one or in the place of another.
    pub(super) fn somebody_lies(&mut self) -> Step {
        let next = self.now + self.gates.rng.between(100 * MILLIS, 1_500 * MILLIS);
        self.schedule(next, Event::Liar);
        if !self.faults {
            return Ok(());
        }
        let up: Vec<RaftId> = self.ids().into_iter().filter(|id| self.is_up(*id)).collect();
        let Some(at) = self.gates.rng.pick(&up) else { return Ok(()) };
        let Some(records) = self.records(at).filter(|records| !records.nodes.is_empty()) else { return Ok(()) };
        if self.gates.rng.chance(500) {
            self.claims_a_raft_id(at, &records)
        } else {
            self.is_said_to_be_gone(at, &records)
        }
    }

    /// A node of the cluster, or one that was, calls under a raft id that it never had.
    fn claims_a_raft_id(&mut self, at: RaftId, records: &Records) -> Step {
        let node = self.gates.rng.between(1, self.operator.next_node);
        let raft_id = RaftId(self.next_raft_id + self.gates.rng.between(0, 3));
        // With what it was certified once.
        let enrolled = self.raft_ids_of(node).last().copied().and_then(|id| self.given(id));
        let store_id = enrolled.map(|given| given.store_id);
        let calling = Calling { enrolled, store_id, ..calling(node, raft_id) };
        let boot = self.boot(at);
        let Some(door) = self.gates.door(at, boot) else { return Ok(()) };
        let answer = admit(records, &mut door.strangers, &calling);
        // Who can ask nobody takes a node of which it has never heard: a newcomer could not come in else.
        let known = records.nodes.get(node_id(node)).is_some() || records.removed.contains_node(node_id(node));
        let may = !door.company && !known;
        match answer {
            Ok(()) if !may => {
                let detail = format!("{at} lets node {node} in as {raft_id}, which nobody was given");
                broken("nobody_gets_in_by_a_claim", detail)
            }
            Ok(()) => Ok(()),
            Err(_turned_away) => {
                self.marks.hit("door", "a claim was turned away");
                Ok(())
            }
        }
    }

    /// In the place of `liar`, somebody tells a manager that its raft id was taken from it.
    pub fn lie_to(&mut self, at: RaftId, liar: RaftId) {
        let boot = self.boot(at);
        if let Some(door) = self.gates.door(at, boot) {
            door.said.insert(liar, Said::Removed);
        }
    }

    /// In the place of a manager that it knows, and does not talk with, somebody answers that it is none any more.
    fn is_said_to_be_gone(&mut self, at: RaftId, records: &Records) -> Step {
        let others: Vec<RaftId> = records
            .nodes
            .members()
            .filter_map(NodeRecord::raft)
            .filter(|other| *other != at && !(self.is_up(*other) && self.talk(at, *other)))
            .collect();
        let Some(liar) = self.gates.rng.pick(&others) else { return Ok(()) };
        let bound = records.by_raft_id(at).is_some();
        let lie = match self.gates.rng.between(0, 3) {
            0 if bound => Said::StoreReplaced,
            1 => Said::Version(records.cluster.version),
            _ => Said::Removed,
        };
        let boot = self.boot(at);
        if let Some(door) = self.gates.door(at, boot) {
            door.said.insert(liar, lie);
            self.marks.hit("hearsay", "a lie was told");
        }
        Ok(())
    }
}

/// As a node calls: its certificate proves which one it is, and its key; it says nothing of a raft id.
fn calling(node: u64, raft_id: RaftId) -> Calling {
    let key = key_of(node);
    let mut key_digest = [0; 32];
    for (at, byte) in key_digest.iter_mut().zip(key.iter()) {
        *at = *byte;
    }
    let store_id = StoreId::from_slice(&store_of(raft_id.0));
    Calling { node: node_id(node), key_digest, raft_id, store_id, enrolled: None, support: Support::THIS }
}
