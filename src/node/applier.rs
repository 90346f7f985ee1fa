//! The applier: one thread, one inbox, the replicated state.
//!
//! Owns the state machine, and with it every write to the state. Answers the callers whose commands it applied. Never
//! syncs an apply: the log makes it reproducible. Called by the consensus task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quorate_core::consensus::io::{Input, Records};
use quorate_core::id::{LogIndex, Revision};
use quorate_core::ports::{LogReset, MetaStore, StagedId, StateRead, StoreResult};
use quorate_core::state::Machine;
use quorate_core::state::contract::{Applied, ApplyError, Committed, Outcome, StateStatus};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::changes::Changes;
use super::tasks::Reply;
use super::watching::Watches;
use crate::metrics::Meters;

/// Who waits for the commands of one entry, by position; `None` where the caller is not on this node any more.
pub(super) type EntryWaiters = (LogIndex, Vec<Option<oneshot::Sender<Reply>>>);

pub(super) enum Job {
    Apply {
        entries: Vec<Committed>,
        waiters: Vec<EntryWaiters>,
    },
    /// The slot is free again when the job is done.
    Install {
        staged: StagedId,
        reset: LogReset,
        slot: Option<OwnedSemaphorePermit>,
    },
    View(oneshot::Sender<View>),
    /// The slot bounds how many such questions wait.
    Hashes {
        reply: oneshot::Sender<Hashes>,
        slot: OwnedSemaphorePermit,
    },
}

/// A view for sending, with what it contains.
pub(super) struct View {
    pub(super) status: StateStatus,
    /// Of its records and history.
    pub(super) bytes: u64,
    pub(super) view: Arc<dyn StateRead>,
}

/// Digests after the newest revisions, oldest first.
#[derive(Clone, Default)]
pub(super) struct Hashes {
    pub(super) applied: LogIndex,
    pub(super) revision: Revision,
    pub(super) hashes: Vec<(Revision, [u8; 32])>,
}

/// How many digests a member offers for comparison.
const HASHES_OFFERED: usize = 1024;

pub(super) struct Applier {
    pub(super) machine: Machine,
    pub(super) reports: mpsc::Sender<Input>,
    /// As of the last round that changed one.
    pub(super) records: Arc<Records>,
    /// Where it is marked which version the directory needs.
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) changes: Arc<Changes>,
    pub(super) meters: Arc<Meters>,
    pub(super) watches: Arc<Watches>,
    /// Whether the store is full, for whoever asks whether this manager is ready.
    pub(super) full: Arc<AtomicBool>,
}

impl Applier {
    /// Runs until the inbox closes or something is final.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        self.measure();
        self.meters.revision.set(self.machine.status().revision.0 as f64);
        while let Some(job) = inbox.recv().await {
            let report = match job {
                Job::Apply { entries, waiters } => Some(self.apply(&entries, waiters)),
                Job::Install { staged, reset, slot } => {
                    let report = self.install(staged, reset);
                    drop(slot);
                    Some(report)
                }
                Job::View(reply) => {
                    let view = self.machine.reader().view();
                    // Status and view are read together: nobody else writes.
                    let (status, bytes) = (self.machine.status().clone(), self.machine.usage().used());
                    let _ = reply.send(View { status, bytes, view });
                    None
                }
                Job::Hashes { reply, slot } => {
                    let _ = reply.send(self.hashes());
                    drop(slot);
                    None
                }
            };
            if let Some(report) = report {
                let last = matches!(report, Input::ApplyFailed(_) | Input::StoreFailed(_));
                if self.reports.send(report).await.is_err() || last {
                    return;
                }
            }
        }
    }

    fn hashes(&self) -> Hashes {
        let status = self.machine.status();
        let mut hashes: Vec<_> = self.machine.hashes().rev().take(HASHES_OFFERED).collect();
        hashes.reverse();
        Hashes { applied: status.applied, revision: status.revision, hashes }
    }

    fn apply(&mut self, entries: &[Committed], waiters: Vec<EntryWaiters>) -> Input {
        let watched = self.watches.are_any();
        self.machine.gather(watched);
        let began = Instant::now();
        match self.machine.apply(entries) {
            Ok(applied) => {
                self.meters.applied(began.elapsed(), entries.len(), applied.revision.0);
                self.measure();
                // Before anybody hears of it: who watches from now on, after a write, is not told of that write.
                self.watches.applied(&applied, watched);
                let report = self.applied(&applied);
                if !matches!(report, Input::StoreFailed(_)) {
                    answer(applied, waiters);
                }
                report
            }
            Err(error) => {
                answer(self.machine.salvage(), waiters);
                Input::ApplyFailed(error)
            }
        }
    }

    fn measure(&self) {
        let usage = self.machine.usage();
        self.meters.store_used.set(usage.used() as f64);
        self.meters.store_quota.set(usage.quota as f64);
        self.full.store(usage.full, Ordering::Relaxed);
        self.meters.store_full.set(f64::from(u8::from(usage.full)));
        let (clients, bytes) = self.machine.replay();
        self.meters.replay_clients.set(clients as f64);
        self.meters.replay_bytes.set(bytes as f64);
    }

    fn applied(&mut self, applied: &Applied) -> Input {
        match self.follow(applied) {
            Ok(records) => Input::Applied { index: applied.index, records, leases: applied.leases.clone() },
            Err(error) => Input::StoreFailed(error),
        }
    }

    /// Tells what changed to whom it concerns; the records, when one of them did.
    fn follow(&mut self, applied: &Applied) -> StoreResult<Option<Arc<Records>>> {
        let view = self.machine.reader().view();
        let records = if applied.records_changed {
            self.records = Arc::new(self.records.follow(&*view, &applied.changed)?);
            self.meta.require(self.records.cluster.version)?;
            Some(Arc::clone(&self.records))
        } else {
            None
        };
        self.changes.told(&*view, applied.revision, &applied.changed)?;
        Ok(records)
    }

    fn anew(&mut self) -> StoreResult<Arc<Records>> {
        let view = self.machine.reader().view();
        self.records = Arc::new(Records::read(&*view)?);
        self.meta.require(self.records.cluster.version)?;
        self.changes.installed(&*view, self.machine.status().revision)?;
        self.watches.installed(self.machine.status().revision);
        Ok(Arc::clone(&self.records))
    }

    fn install(&mut self, staged: StagedId, reset: LogReset) -> Input {
        let installed = self.machine.install(staged, reset).and_then(|()| self.anew().map_err(ApplyError::from));
        match installed {
            Ok(records) => {
                Input::Installed { status: self.machine.status().clone(), records, leases: self.machine.leases() }
            }
            Err(error) => Input::ApplyFailed(error),
        }
    }
}

/// Everybody whose command is applied is told; the report to the consensus task may follow later.
fn answer(applied: Applied, waiters: Vec<EntryWaiters>) {
    let mut outcomes = applied.outcomes.into_iter().peekable();
    for (index, tickets) in waiters {
        while outcomes.peek().is_some_and(|(at, _)| *at < index) {
            outcomes.next();
        }
        let Some((_, results)) = outcomes.next_if(|(at, _)| *at == index) else { continue };
        for (ticket, outcome) in tickets.into_iter().zip(results) {
            if let Some(ticket) = ticket {
                let _ = ticket.send(Reply::Outcome { index, outcome: Box::<Outcome>::new(outcome) });
            }
        }
    }
}
