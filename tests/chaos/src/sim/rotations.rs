//! Rotations of the CA, again and again, while everything else goes wrong.
//!
//! Owns what managers do about one beside the consensus machine: they renew by what a quorum has, say so in their records, tell the
//! machine what their clocks say (each something else, by any amount), and some are away until a deadline. Owns a model of certificates
//! besides, by which nobody who takes part may ever be without a way to the others. Draws from a stream of its own. Called by tests, and
//! by whoever runs seeds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::config::{MILLIS, Profile, SimConfig};
use super::world::{Run, World};
use quorate_core::command::CommandKind;
use quorate_core::consensus::io::{Input, Records};
use quorate_core::id::{RaftId, Revision};
use quorate_core::log::Configuration;
use quorate_core::membership::quorum::Quorum;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::trust::{RotationRefused, TrustRecord};
use quorate_core::state::read;
use quorate_core::testing::Rng;
use quorate_core::txn::{Compare, Operand, Put, Relation, Txn};

/// Between two looks.
const SLICE: u64 = 50 * MILLIS;
/// Deadlines, seconds.
const DEADLINE_S: (u64, u64) = (1, 8);
/// Clocks of members run apart by so much at most, in percent.
const DRIFT_PERCENT: u64 = 3;
const SECOND: u64 = 1_000 * MILLIS;

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "counts, named by what is counted")]
pub struct Rotated {
    pub begun: u64,
    /// Begun while another one was under way.
    pub nested: u64,
    /// That stood in line.
    pub in_line: u64,
    pub ended_by_all: u64,
    pub ended_by_deadline: u64,
    /// Members that were shut out by a deadline, and came back with a token.
    pub left_behind: u64,
    /// Leaders that wrote down how much time had passed.
    pub noted: u64,
    /// The run's [`super::Report::trace_hash`].
    pub trace_hash: u64,
}

impl Rotated {
    /// Both together.
    pub const fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.nested += other.nested;
        self.in_line += other.in_line;
        self.ended_by_all += other.ended_by_all;
        self.ended_by_deadline += other.ended_by_deadline;
        self.left_behind += other.left_behind;
        self.noted += other.noted;
    }
}

/// What a member shows and trusts: it lies in a file, and outlives its processes.
#[derive(Debug, Clone)]
struct Held {
    issuer: Bytes,
    authorities: Vec<Bytes>,
}

/// In the model root `n` is eight times the byte `n`, and the cross certificate of `n` by the root before it eight times `n + 128`.
fn root(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[n; 8])
}

fn cross(n: u8) -> Bytes {
    root(n | 128)
}

/// Roots that one after the other can have, before they begin again: no two that are trusted at once have the same number.
const ROOTS: u8 = 120;

const fn next(n: u8) -> u8 {
    if n >= ROOTS { 1 } else { n + 1 }
}

fn number(of: &Bytes) -> u8 {
    of.first().copied().unwrap_or_default()
}

impl Held {
    /// Whether it accepts what `other` shows: its root is trusted, or cross certificates lead to one that is.
    fn accepts(&self, other: &Self) -> bool {
        let mut at = number(&other.issuer);
        for _ in 0..=ROOTS {
            if self.authorities.contains(&root(at)) {
                return true;
            }
            if !other.authorities.contains(&cross(at)) {
                return false;
            }
            at = if at == 1 { ROOTS } else { at - 1 };
        }
        false
    }
}

struct Rotations {
    rng: Rng,
    held: BTreeMap<RaftId, Held>,
    /// Who does not renew until the deadline, in the rotation that is under way.
    away: BTreeSet<RaftId>,
    /// Who was shut out.
    left_behind: BTreeSet<RaftId>,
    /// What the clock of each member says more than it is, seconds.
    clocks: BTreeMap<RaftId, u64>,
    /// What is trusted, as it was in the newest state that anybody has had, and which that was.
    latest: TrustRecord,
    newest: Revision,
    /// When each rotation was asked for first, by its serial, and its shortest deadline.
    asked: BTreeMap<u64, (u64, u64)>,
    configuration: u64,
    noted: (u64, u64),
    calm: bool,
    done: Rotated,
}

/// Runs a seed with rotations under its faults: then peace, the audit, and the end of the last one.
///
/// # Errors
/// The first broken invariant.
pub fn run_rotations(seed: u64, profile: Profile) -> Run<Rotated> {
    let drawn = SimConfig::draw(seed, profile);
    let config = SimConfig {
        recorded: drawn.members,
        // Who votes is not the question here, nor what comes after a recovery; and time that jumps is no length.
        churn: false,
        kills: false,
        replacements: false,
        recoveries: 0,
        rot: false,
        frozen: false,
        clocks: false,
        upgrades: false,
        ..drawn
    };
    let (mut world, mut rotations) = (World::new(config.clone())?, Rotations::new(seed));
    world.be_silent();
    let end = world.now + config.duration + 10 * SECOND;
    while world.now < end {
        world.run_for(SLICE)?;
        rotations.step(&mut world)?;
    }
    rotations.calm = true;
    world.config.duration = 0;
    world.play()?;
    for _ in 0..(60 * SECOND / SLICE) {
        world.run_for(SLICE)?;
        rotations.step(&mut world)?;
        if !rotations.latest.is_rotating() && rotations.latest.next_s == 0 {
            break;
        }
    }
    let latest = &rotations.latest;
    world.expect(!latest.is_rotating() && latest.next_s == 0, "a_rotation_ends", || format!("{latest:?}"))?;
    Ok(Rotated { trace_hash: world.report().trace_hash, ..rotations.done })
}

impl Rotations {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng::stream(seed, 30),
            held: BTreeMap::new(),
            away: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            clocks: BTreeMap::new(),
            latest: TrustRecord::default(),
            newest: Revision(0),
            asked: BTreeMap::new(),
            configuration: 0,
            noted: (0, 0),
            calm: false,
            done: Rotated::default(),
        }
    }

    fn step(&mut self, world: &mut World) -> Run {
        let up: Vec<RaftId> = world.ids().into_iter().filter(|id| world.is_up(*id)).collect();
        self.look(world, &up)?;
        if !self.latest.authorities.is_empty() {
            self.renew(world, &up)?;
            self.everybody_is_understood(world)?;
        }
        self.begin(world)
    }

    /// Says to the machines what clocks say, and lets some members renew, each by what a quorum has.
    fn renew(&mut self, world: &mut World, up: &[RaftId]) -> Run {
        let awake = |id: &RaftId| world.members.get(id).is_some_and(|member| member.paused_until <= world.now);
        for id in up.iter().copied().filter(awake).collect::<Vec<_>>() {
            let ahead =
                *self.clocks.entry(id).or_insert_with(|| if self.rng.chance(500) { 0 } else { self.rng.next() });
            world.clock_says(id, ahead.saturating_add(world.now / SECOND))?;
            let now = || Held { issuer: self.latest.issuer.clone(), authorities: self.latest.authorities.clone() };
            self.held.entry(id).or_insert_with(now);
            if self.left_behind.contains(&id) && (self.calm || self.rng.chance(20)) {
                // Somebody gives it a token, which names the root of now.
                self.left_behind.remove(&id);
                self.held.insert(id, now());
                self.done.left_behind += 1;
            }
            let stays = self.left_behind.contains(&id) || (self.away.contains(&id) && !self.calm);
            if stays || !(self.calm || self.rng.chance(150)) {
                continue;
            }
            let Some(records) = world.records(id).filter(|records| records.trust == self.latest) else { continue };
            let fresh = Held { issuer: records.trust.issuer.clone(), authorities: records.trust.authorities.clone() };
            let shows = fresh.issuer.clone();
            self.held.insert(id, fresh);
            let waits = |record: &&NodeRecord| record.issuer != shows;
            if records.trust.is_rotating()
                && records.by_raft_id(id).filter(waits).is_some()
                && let Some(node) = world.node_of(id)
            {
                world.edit(node, |record| record.issuer.clone_from(&shows))?;
            }
        }
        Ok(())
    }

    /// What the newest state says, and whether what has changed may have.
    fn look(&mut self, world: &World, up: &[RaftId]) -> Run {
        let known = up.iter().filter_map(|id| Some((world.records(*id)?, *id)));
        let Some((records, id)) = known.max_by_key(|(records, id)| (records.revision, *id)) else { return Ok(()) };
        if records.revision <= self.newest {
            // Who has seen more is down.
            return Ok(());
        }
        self.newest = records.revision;
        let Some(status) = world.view(id).and_then(|view| read::status(&*view).ok()) else { return Ok(()) };
        let time = (records.trust_time.serial, records.trust_time.passed_s);
        self.done.noted += u64::from(time != self.noted && time.1 != 0);
        self.noted = time;
        let same_seats = std::mem::replace(&mut self.configuration, status.configuration_number)
            == status.configuration_number
            && !status.configuration.is_joint();
        let (was, is) = (std::mem::replace(&mut self.latest, records.trust.clone()), &records.trust);
        if is.serial > was.serial {
            self.away = up.iter().copied().filter(|_| self.rng.chance(150)).collect();
            self.done.begun += 1;
            self.done.nested += u64::from(was.is_rotating());
        }
        self.done.in_line += u64::from(was.next_s == 0 && is.next_s != 0);
        if was.is_rotating() && !is.is_rotating() && was.serial == is.serial {
            self.ended(world, &records, same_seats.then_some(&status.configuration))?;
        }
        Ok(())
    }

    /// A rotation has ended: not before its time without everybody, and never without a majority.
    fn ended(&mut self, world: &World, records: &Records, seats: Option<&Configuration>) -> Run {
        let issuer = &records.trust.issuer;
        let late: BTreeSet<RaftId> =
            records.nodes.members().filter(|node| node.issuer != *issuer).filter_map(|node| node.raft()).collect();
        if late.is_empty() {
            self.done.ended_by_all += 1;
            return Ok(());
        }
        self.done.ended_by_deadline += 1;
        let (asked, deadline_s) = self.asked.get(&records.trust.serial).copied().unwrap_or((world.now, 0));
        let passed = (world.now - asked) / 100 * (100 + DRIFT_PERCENT);
        world.expect(passed >= deadline_s * SECOND, "no_rotation_ends_early", || {
            format!("without {late:?} after {} ms of {deadline_s} s", (world.now - asked) / MILLIS)
        })?;
        if let Some(seats) = seats {
            let alive = Quorum::of(seats).is_alive(|id| !late.contains(&id));
            world.expect(alive, "no_rotation_takes_the_quorum", || format!("{late:?} are shut out of {seats:?}"))?;
        }
        self.left_behind.extend(late);
        Ok(())
    }

    fn everybody_is_understood(&self, world: &World) -> Run {
        let held = || self.held.iter().filter(|(id, _)| !self.left_behind.contains(id));
        for ((a, one), (b, other)) in held().flat_map(|one| held().map(move |other| (one, other))) {
            world.expect(one.accepts(other), "who_takes_part_is_understood", || {
                format!("{a} does not accept {b}: {one:?} {other:?}")
            })?;
        }
        Ok(())
    }

    /// Some manager begins one, or lets one stand in line, by what the leader has, and by its own clock.
    fn begin(&mut self, world: &mut World) -> Run {
        let (Some(leader), Some(records)) = (world.leader(), world.leader_records()) else { return Ok(()) };
        let trust = &records.trust;
        if trust.authorities.is_empty() {
            return put(world, leader, None, &TrustRecord::first(root(1), root(1)));
        }
        let due = trust.next_due();
        let rare = if trust.is_rotating() { 12 } else { 60 };
        if due.is_none() && (self.calm || !self.rng.chance(rare)) {
            return Ok(());
        }
        let deadline_s = due.unwrap_or_else(|| self.rng.between(DEADLINE_S.0, DEADLINE_S.1));
        let n = next(number(&trust.issuer));
        let now = self.rng.next() >> self.rng.between(0, 60);
        let wished = match trust.rotated((root(n), root(n)), cross(n), 5, now, deadline_s) {
            Err(RotationRefused::TooMany) => trust.with_next(&records.trust_time, deadline_s),
            other => other,
        };
        let Ok(wished) = wished else { return Ok(()) };
        let asked = self.asked.entry(wished.serial).or_insert((world.now, wished.deadline_s));
        asked.1 = asked.1.min(wished.deadline_s);
        put(world, leader, Some(trust), &wished)
    }
}

/// What is trusted is this from now on, if it still is what it was.
fn put(world: &mut World, leader: RaftId, was: Option<&TrustRecord>, is: &TrustRecord) -> Run {
    let key = TrustRecord::key();
    let same = match was {
        Some(was) => Compare::new(key.clone(), Relation::Equal, Operand::Value(was.to_bytes())),
        None => Compare::absent(key.clone()),
    };
    let then = vec![Put { key, value: is.to_bytes(), ..Put::default() }.into()];
    let txn = Txn { compares: vec![same], then, ..Txn::default() };
    world.command(leader, CommandKind::System(txn).into()).map(|_ticket| ())
}

impl World {
    /// The wall clock of a member that is up says this, seconds since 1970.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn clock_says(&mut self, id: RaftId, unix_s: u64) -> Run {
        self.input(id, [Input::Clock { unix_s }]).map_err(|broken| self.violation(broken))
    }
}
