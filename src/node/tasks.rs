//! The consensus task: one thread that drives the machine.
//!
//! Owns the consensus machine, its clock and who waits for which ticket. Performs effects by handing them to their
//! owners and never waits for a disk, a socket or a caller. Runs on a thread with a runtime of its own, so that nothing
//! an embedder does to its runtime can cause an election.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::command::Command;
use quorate_core::consensus::Consensus;
use quorate_core::consensus::io::{Answer, Effect, Input, Lane, Nanos, Origin, Records, Status, StopCause, Ticket};
use quorate_core::id::{LeaseId, LogIndex, RaftId};
use quorate_core::ports::{LogReader, StagedId, Staging, StateRead};
use quorate_core::state::contract::Outcome;
use quorate_transport::Peers;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::ending::Ending;
use super::ground::Tasks;
use super::{applier, log_writer, snapshots};
use crate::metrics::Meters;

/// Messages and requests taken at once before the machine steps.
const BATCH: usize = 512;

/// What a waiting caller gets.
#[derive(Debug)]
pub(super) enum Reply {
    /// What the command came to, and in which entry of the log.
    Outcome { index: LogIndex, outcome: Box<Outcome> },
    /// What the machine says.
    Answer(Answer),
}

/// What comes to the consensus task from outside its own reports.
pub(super) enum Call {
    /// From the transport.
    Input(Input),
    Propose {
        command: Command,
        origin: Origin,
        reply: oneshot::Sender<Reply>,
    },
    Read {
        reply: oneshot::Sender<Reply>,
    },
    Renew {
        lease: LeaseId,
        origin: Origin,
        reply: oneshot::Sender<Reply>,
    },
    LeaseTimes {
        leases: Vec<LeaseId>,
        reply: oneshot::Sender<Reply>,
    },
    Transfer {
        to: Option<RaftId>,
        reply: oneshot::Sender<Reply>,
    },
    /// A received snapshot is aside; its slot is free again once it is installed or discarded.
    Staged {
        from: RaftId,
        message: Bytes,
        staged: StagedId,
        slot: OwnedSemaphorePermit,
    },
    /// A view for sending was made.
    Built(applier::View),
}

/// Everything the task hands effects to.
pub(super) struct Hands {
    pub(super) peers: Peers,
    pub(super) log: mpsc::Sender<log_writer::Job>,
    pub(super) applier: mpsc::Sender<applier::Job>,
    pub(super) log_reader: Arc<dyn LogReader>,
    pub(super) staging: Arc<dyn Staging>,
    /// For effects that are tasks: fetches and snapshots.
    pub(super) runtime: Tasks,
    /// The task's own inbox, for what those tasks bring back.
    pub(super) inbox: mpsc::Sender<Call>,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) records: watch::Sender<Arc<Records>>,
    pub(super) meters: Arc<Meters>,
}

pub(super) struct ConsensusTask {
    pub(super) machine: Consensus,
    pub(super) hands: Hands,
    /// The length of a tick, as the machine last said.
    tick: Duration,
    /// Where in a tick this node's ticks fall: nodes in step split votes.
    pub(super) phase: Duration,
    pub(super) began: Instant,
    waiting: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    next_ticket: u64,
    views: BTreeMap<u64, Arc<dyn StateRead>>,
    next_view: u64,
    slot: Option<OwnedSemaphorePermit>,
}

impl ConsensusTask {
    /// `began` is the start of the machine's clock.
    pub(super) fn new(machine: Consensus, hands: Hands, phase: Duration, began: Instant) -> Self {
        let tick = Duration::from_nanos(machine.tick_nanos());
        Self {
            machine,
            hands,
            tick,
            phase,
            began,
            waiting: BTreeMap::new(),
            next_ticket: 1,
            views: BTreeMap::new(),
            next_view: 1,
            slot: None,
        }
    }

    /// Runs until it is told to stop or the machine stops; says why.
    pub(super) async fn run(
        mut self,
        ending: &Ending,
        mut inbox: mpsc::Receiver<Call>,
        mut reports: mpsc::Receiver<Input>,
    ) -> Option<StopCause> {
        let mut next_tick = Instant::now() + self.phase;
        let mut calls = Vec::with_capacity(BATCH);
        let mut reported = Vec::with_capacity(BATCH);
        let mut inputs = Vec::new();
        let asked = ending.asked();
        tokio::pin!(asked);
        loop {
            tokio::select! {
                biased;
                () = &mut asked => return None,
                count = reports.recv_many(&mut reported, BATCH) => {
                    if count == 0 {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(next_tick) => {}
                _ = inbox.recv_many(&mut calls, BATCH) => {}
            }
            // Whatever else is there already goes into the same step.
            while reported.len() < BATCH
                && let Ok(report) = reports.try_recv()
            {
                reported.push(report);
            }
            inputs.append(&mut reported);
            let now = Instant::now();
            if now >= next_tick {
                let behind = now.saturating_duration_since(next_tick).as_nanos() / self.tick.as_nanos().max(1);
                let ticks = u32::try_from(behind).unwrap_or(u32::MAX - 1) + 1;
                next_tick += self.tick * ticks;
                inputs.push(Input::Tick(ticks));
            }
            for call in calls.drain(..) {
                inputs.push(self.take(call));
            }
            self.note_records(&inputs);
            let mut effects = self.machine.step(self.now(), inputs.drain(..));
            // A dropped send is told to raft at once.
            loop {
                let mut unreachable = Vec::new();
                if let Some(cause) = self.perform(effects, &mut unreachable).await {
                    return Some(cause);
                }
                if unreachable.is_empty() {
                    break;
                }
                for peer in &unreachable {
                    self.hands.meters.unsent(peer.0, 1);
                }
                unreachable.sort_unstable();
                unreachable.dedup();
                effects = self.machine.step(self.now(), unreachable.into_iter().map(Input::Unreachable));
            }
            let tick = Duration::from_nanos(self.machine.tick_nanos());
            if tick != self.tick {
                tracing::info!(from_ms = self.tick.as_millis(), to_ms = tick.as_millis(), "the timing has changed");
                // The tick that has begun is as long as the new ones.
                next_tick = (next_tick + tick).checked_sub(self.tick).unwrap_or(next_tick).max(Instant::now());
                self.tick = tick;
            }
        }
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn note_records(&self, inputs: &[Input]) {
        for input in inputs {
            if let Input::Applied { records: Some(records), .. } | Input::Installed { records, .. } = input {
                self.hands.records.send_replace(Arc::clone(records));
            }
        }
    }

    fn ticket(&mut self, reply: oneshot::Sender<Reply>) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.insert(ticket, reply);
        ticket
    }

    fn take(&mut self, call: Call) -> Input {
        match call {
            Call::Input(input) => input,
            Call::Propose { command, origin, reply } => Input::Propose { ticket: self.ticket(reply), command, origin },
            Call::Read { reply } => Input::Read { ticket: self.ticket(reply) },
            Call::Renew { lease, origin, reply } => Input::Renew { ticket: self.ticket(reply), lease, origin },
            Call::LeaseTimes { leases, reply } => Input::LeaseTimes { ticket: self.ticket(reply), leases },
            Call::Transfer { to, reply } => Input::Transfer { ticket: self.ticket(reply), to },
            Call::Staged { from, message, staged, slot } => {
                self.slot = Some(slot);
                Input::Staged { from, message, staged }
            }
            Call::Built(applier::View { status, bytes, view }) => {
                let number = self.next_view;
                self.next_view += 1;
                self.views.insert(number, view);
                Input::SnapshotBuilt { status, bytes, view: number }
            }
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>, unreachable: &mut Vec<RaftId>) -> Option<StopCause> {
        for effect in effects {
            match effect {
                Effect::Send { to, lane, body } => self.send(to, lane, body, unreachable),
                Effect::Persist { number, batch } => {
                    // The queue is shorter than the reports' queue: the writer can always report and take the next.
                    let _ = self.hands.log.send(log_writer::Job { number, batch }).await;
                }
                Effect::Apply { entries, waiters } => {
                    self.hands.meters.proposals_committed.increment(entries.len() as u64);
                    let waiters = waiters
                        .into_iter()
                        .map(|(index, tickets)| {
                            (index, tickets.iter().map(|ticket| self.waiting.remove(ticket)).collect())
                        })
                        .collect();
                    let _ = self.hands.applier.send(applier::Job::Apply { entries, waiters }).await;
                }
                Effect::Install { staged, reset } => {
                    let _ =
                        self.hands.applier.send(applier::Job::Install { staged, reset, slot: self.slot.take() }).await;
                }
                Effect::Discard(staged) => self.discard(staged),
                Effect::BuildSnapshot { .. } => {
                    // What is applied when the applier gets to it is at least what was asked for.
                    let (reply, built) = oneshot::channel();
                    let _ = self.hands.applier.send(applier::Job::View(reply)).await;
                    let inbox = self.hands.inbox.clone();
                    self.hands.runtime.spawn(async move {
                        if let Ok(view) = built.await {
                            let _ = inbox.send(Call::Built(view)).await;
                        }
                    });
                }
                Effect::SendSnapshot { to, message, view } => self.send_snapshot(to, message, view),
                Effect::DropSnapshot { view } => {
                    self.views.remove(&view);
                }
                Effect::Fetch { number, from, to, max_bytes } => {
                    let (reader, inbox) = (Arc::clone(&self.hands.log_reader), self.hands.inbox.clone());
                    self.hands.runtime.spawn(async move {
                        let read = tokio::task::spawn_blocking(move || reader.entries(from, to, max_bytes)).await;
                        let input = match read {
                            Ok(Ok(entries)) => Input::Fetched { number, entries },
                            // Cut meanwhile: raft will find out and send a snapshot.
                            Ok(Err(quorate_core::ports::StoreError::NotFound { .. })) | Err(_) => {
                                Input::Fetched { number, entries: Vec::new() }
                            }
                            Ok(Err(error)) => Input::StoreFailed(error),
                        };
                        let _ = inbox.send(Call::Input(input)).await;
                    });
                }
                Effect::Answer { ticket, answer } => {
                    if let Some(reply) = self.waiting.remove(&ticket) {
                        let _ = reply.send(Reply::Answer(answer));
                    }
                }
                Effect::Status(status) => {
                    // Everybody may look at it; who waits for a change is woken where something has turned, not for every
                    // entry that is committed.
                    // (The clock is read where nobody can look: a lease that a watcher found over must be over here, too.)
                    self.hands.status.send_if_modified(|told| {
                        let turned = status.is_a_turn_from(told, self.now());
                        *told = status;
                        turned
                    });
                }
                Effect::Stop(cause) => return Some(cause),
            }
        }
        None
    }

    fn send(&self, to: RaftId, lane: Lane, body: Bytes, unreachable: &mut Vec<RaftId>) {
        let lane = match lane {
            Lane::Control => quorate_transport::Lane::Control,
            Lane::Append => quorate_transport::Lane::Append,
        };
        if self.hands.peers.send(to, lane, body).is_err() {
            unreachable.push(to);
        }
    }

    /// Not the applier's work, though it writes: what was received is cleared away, however much that is, and nothing that is
    /// committed waits for it. With the slot, so that nothing else is received meanwhile.
    fn discard(&mut self, staged: StagedId) {
        let (staging, inbox) = (Arc::clone(&self.hands.staging), self.hands.inbox.clone());
        let slot = self.slot.take();
        self.hands.runtime.spawn(async move {
            let discarded = tokio::task::spawn_blocking(move || staging.discard(staged)).await;
            drop(slot);
            match discarded {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let _ = inbox.send(Call::Input(Input::StoreFailed(error))).await;
                }
                Err(error) => {
                    tracing::error!(%error, "a snapshot was not cleared away; it will be, before the next one")
                }
            }
        });
    }

    fn send_snapshot(&self, to: RaftId, message: Bytes, view: u64) {
        let (peers, inbox) = (self.hands.peers.clone(), self.hands.inbox.clone());
        let view = self.views.get(&view).map(Arc::clone);
        self.hands.runtime.spawn(async move {
            let sent = match view {
                Some(view) => snapshots::send(&peers, to, message, view).await,
                None => Ok(false),
            };
            let input = match sent {
                Ok(delivered) => Input::SnapshotSent { to, delivered },
                Err(error) => Input::StoreFailed(error),
            };
            let _ = inbox.send(Call::Input(input)).await;
        });
    }
}
