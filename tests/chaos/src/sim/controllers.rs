//! An embedder's own controllers, one in every manager's process, over the simulated store.
//!
//! Owns when a controller is asked and what it is told. It dies with its process and is made anew by the next one; what it asks
//! travels, fails and is answered as any request is. After every revision, wherever it is applied first, the embedder's own
//! invariant sees all user keys. Called by the world; for embedders by [`run_controllers`].

use std::collections::BTreeMap;

use bytes::Bytes;

use super::asks::{Reply, What};
use super::check::broken;
use super::config::{MILLIS, SimConfig};
use super::event::Event;
use super::trace::Report;
use super::world::{Run, Step, World};
use quorate_core::command::{Command, CommandKind, Request};
use quorate_core::consensus::io::Ticket;
use quorate_core::id::{ClientId, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::state::contract::{Applied, Outcome};
use quorate_core::testing::Rng;
use quorate_core::txn::{Compare, Delete, Op, Operand, Put, Relation, Txn};

/// What a controller wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Nothing now: it is asked again after a while.
    Nothing,
    /// A linearizable read of one key.
    Get(String),
    /// Writes, all of them or none: only if each `expected` is what is there (nothing is a key that is absent), and with `fence` only
    /// in the leadership of that token.
    Write {
        /// What must be there.
        expected: Vec<(String, Option<String>)>,
        /// What is to be there; nothing removes the key.
        writes: Vec<(String, Option<String>)>,
        /// The fencing token of the leadership that it is done in.
        fence: Option<u64>,
    },
}

/// What came of its last wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It wished nothing, or it has just begun.
    Nothing,
    /// What a read found.
    Value(Option<String>),
    /// Whether a write was done.
    Written(bool),
    /// It may have been done.
    Unknown,
}

/// Where it stands when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The manager's raft id.
    pub manager: u64,
    /// The fencing token of its leadership, while it holds the lease of it.
    pub leads: Option<u64>,
    /// Nanoseconds of virtual time, of this manager's own clock.
    pub now: u64,
}

/// A controller: a loop, turned into one step at a time. It must draw and read the clock from nowhere else.
pub trait Controller {
    /// Says what it wants next, given what came of its last wish.
    fn step(&mut self, seat: Seat, told: Told) -> Wish;
}

/// All user keys with their values.
pub type Everything = BTreeMap<String, String>;

/// Says what is broken, if anything, in a state with all user keys, given the one before.
pub type Promise = dyn Fn(&Everything, &Everything) -> Result<(), String>;

/// An embedder's controllers, and what they promise together.
pub struct Embedded {
    /// Makes the controller of a process that starts.
    pub make: Box<dyn Fn(u64) -> Box<dyn Controller>>,
    /// What they promise.
    pub holds: Box<Promise>,
}

/// Runs a seed with an embedder's controllers in every manager, under the faults of the knobs.
///
/// # Errors
/// The first invariant that breaks; the embedder's own is `the_controllers_promise`.
pub fn run_controllers(config: SimConfig, embedded: Embedded) -> Run<Report> {
    let mut world = World::new(config)?;
    world.embed(embedded);
    world.play()?;
    Ok(world.report())
}

/// The controllers of a world.
pub(super) struct Controllers {
    embedded: Embedded,
    running: BTreeMap<RaftId, Running>,
    rng: Rng,
    everything: Everything,
    /// As it was one revision earlier.
    before: Everything,
    /// The newest revision that `everything` is as of.
    revision: u64,
    sequence: u64,
}

struct Running {
    boot: u64,
    controller: Box<dyn Controller>,
    told: Told,
    waits: Option<Ticket>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl World {
    /// From now on every process runs a controller.
    pub fn embed(&mut self, embedded: Embedded) {
        self.controllers = Some(Controllers {
            embedded,
            running: BTreeMap::new(),
            rng: Rng::stream(self.config.seed, 18),
            everything: Everything::new(),
            before: Everything::new(),
            revision: 0,
            sequence: 0,
        });
        self.schedule(self.now + 100 * MILLIS, Event::Controllers);
    }

    /// Everybody who does not wait takes a step.
    pub(super) fn controllers_step(&mut self) -> Step {
        let Some(mut controllers) = self.controllers.take() else { return Ok(()) };
        let done = self.all_step(&mut controllers);
        let next = self.now + controllers.rng.between(MILLIS, 40 * MILLIS);
        self.controllers = Some(controllers);
        self.schedule(next, Event::Controllers);
        done
    }

    fn all_step(&mut self, controllers: &mut Controllers) -> Step {
        if !self.faults && self.config.fault_every > 0 {
            return Ok(());
        }
        let up: Vec<(RaftId, u64)> = self
            .members
            .iter()
            .filter(|(_, member)| member.process.is_some() && member.paused_until <= self.now)
            .map(|(id, member)| (*id, member.boot))
            .collect();
        for (id, boot) in up {
            let lease = self.status(id).and_then(|status| status.lease);
            let now = self.members.get(&id).map_or(0, |member| member.clock(self.now));
            let seat = Seat { manager: id.0, leads: lease.filter(|lease| lease.until.0 > now).map(|l| l.term.0), now };
            let Controllers { embedded, running, .. } = &mut *controllers;
            let fresh = || Running { boot, controller: (embedded.make)(id.0), told: Told::Nothing, waits: None };
            let place = running.entry(id).or_insert_with(fresh);
            if place.boot != boot {
                *place = fresh();
            }
            if place.waits.is_some() {
                continue;
            }
            let told = std::mem::replace(&mut place.told, Told::Nothing);
            let wish = place.controller.step(seat, told);
            if wish == Wish::Nothing {
                continue;
            }
            controllers.sequence += 1;
            let (key, command) = asked(id, controllers.sequence, wish);
            let ticket = Ticket(self.next_ticket + 1);
            if let Some(place) = controllers.running.get_mut(&id) {
                place.waits = Some(ticket);
            }
            self.schedule(self.now + self.config.patience, Event::Timeout { ticket });
            self.ask(id, What::Controller { key, command }, 0, None)?;
        }
        Ok(())
    }

    /// What came of a controller's wish; `None`: nothing in time.
    pub(super) fn controller_told(
        &mut self,
        at: RaftId,
        ticket: Ticket,
        key: Option<&str>,
        reply: Option<Reply>,
    ) -> Step {
        let told = match (reply, key) {
            (Some(Reply::ReadAt { index, .. }), Some(key)) => match self.read_register(at, index, key)? {
                Some((_, value)) => Told::Value(value),
                None => Told::Unknown,
            },
            (Some(Reply::Outcome(Outcome::Done(done))), _) => Told::Written(done.succeeded),
            // A fence that is over, or a limit: not done.
            (Some(Reply::Outcome(Outcome::Refused(_)) | Reply::Refused(_)), _) => Told::Written(false),
            (Some(_) | None, _) => Told::Unknown,
        };
        let running = self.controllers.as_mut().and_then(|controllers| controllers.running.get_mut(&at));
        if let Some(place) = running.filter(|place| place.waits == Some(ticket)) {
            (place.told, place.waits) = (told, None);
        }
        Ok(())
    }

    /// A member has applied a round: where it is the first one, the embedder's invariant looks at each revision.
    pub(super) fn controllers_watch(&mut self, applied: &Applied) -> Step {
        let Some(controllers) = &mut self.controllers else { return Ok(()) };
        for unit in applied.units.iter().filter(|unit| unit.revision() > controllers.revision) {
            let changes: Vec<(String, Option<String>)> = unit
                .told()
                .map(|(key, new, _)| {
                    (text(&Section::User.strip(&key).unwrap_or_default()), new.map(|entry| text(&entry.value)))
                })
                .collect();
            let change = |all: &mut Everything| {
                for (key, value) in &changes {
                    match value {
                        Some(value) => all.insert(key.clone(), value.clone()),
                        None => all.remove(key),
                    };
                }
            };
            change(&mut controllers.everything);
            if let Err(what) = (controllers.embedded.holds)(&controllers.before, &controllers.everything) {
                return broken("the_controllers_promise", format!("revision {}: {what}", unit.revision()));
            }
            change(&mut controllers.before);
        }
        controllers.revision = controllers.revision.max(applied.revision.0);
        Ok(())
    }
}

/// A wish as a request: the key to read, or the command.
fn asked(id: RaftId, sequence: u64, wish: Wish) -> (Option<String>, Option<Command>) {
    let full = |key: &str| Section::User.key(key.as_bytes());
    let (expected, writes, fence) = match wish {
        Wish::Nothing => return (None, None),
        Wish::Get(key) => return (Some(key), None),
        Wish::Write { expected, writes, fence } => (expected, writes, fence),
    };
    let compare = |(key, value): &(String, Option<String>)| match value {
        None => Compare::absent(full(key)),
        Some(value) => {
            let value = Bytes::copy_from_slice(value.as_bytes());
            Compare::new(full(key), Relation::Equal, Operand::Value(value))
        }
    };
    let write = |(key, value): &(String, Option<String>)| -> Op {
        match value {
            None => Delete { key: full(key), ..Delete::default() }.into(),
            Some(value) => {
                Put { key: full(key), value: Bytes::copy_from_slice(value.as_bytes()), ..Put::default() }.into()
            }
        }
    };
    let txn = Txn {
        compares: expected.iter().map(compare).collect(),
        then: writes.iter().map(write).collect(),
        fence,
        ..Txn::default()
    };
    let mut client = [13; 16];
    client[8..].copy_from_slice(&(id.0 * 1_000_000_000 + sequence).to_be_bytes());
    let request = Request {
        client: Bytes::copy_from_slice(ClientId::from_bytes(client).as_bytes()),
        sequence: 1,
        txn: Some(txn),
        ..Request::default()
    };
    (None, Some(CommandKind::Request(request).into()))
}
