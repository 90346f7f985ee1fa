//! Which workers are there: every manager tells the leader of its sessions, and the leader writes what changes.
//!
//! Owns both tasks. What counts as there and as gone is decided by the pure ledger in the core; here are its clock, its
//! inputs and its writes, which carry the leadership's fencing token and are joined into few transactions. While nothing
//! changes nothing is written.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::command::{Command, CommandKind};
use quorate_core::consensus::io::Status;
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::liveness::{Candidate, Change, Ledger, Report, Timing};
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_core::txn::{Compare, Delete, Op, Operand, Put, Relation, Txn};
use quorate_transport::api::{self, request, response};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::router::{Failure, fail};
use super::service::Service;
use crate::config;

/// A manager reports at least so often, so that the leader knows that it lives.
const EVERY: Duration = Duration::from_secs(1);
/// Changes gathered before they are reported, or judged.
const GATHER: Duration = Duration::from_millis(100);
/// How long the leader may take to note a report.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a write may take.
const WRITE: Duration = Duration::from_secs(5);
/// Changes in one transaction: a comparison and a write each, at most 128 together.
const CHANGES_AT_ONCE: usize = 64;
/// Reports that wait for the judge.
pub(super) const INBOX: usize = 64;

/// A report on its way to the judge; the answer is whether it followed on what was known.
pub(super) struct Told {
    pub(super) from: RaftId,
    pub(super) report: Report,
    pub(super) reply: oneshot::Sender<bool>,
}

/// What the judge says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Judged {
    /// This manager leads, and every live manager has reported to it: what is recorded holds.
    pub(crate) complete: bool,
}

/// Tells the leader of this manager's sessions, until the node stops.
pub(super) async fn report(service: Arc<Service>) {
    let Ok(instance) = config::random_u64() else { return };
    let (mut serial, mut base, mut told) = (0, 0, None);
    loop {
        let changed = tokio::time::timeout(EVERY, service.workers.table.changed()).await.is_ok();
        if changed {
            tokio::time::sleep(GATHER).await;
        }
        let (leader, term) = {
            let status = service.status.borrow();
            (status.leader, status.term)
        };
        let Some(leader) = leader else {
            base = 0;
            continue;
        };
        if told.replace((leader, term)) != Some((leader, term)) {
            base = 0;
        }
        serial += 1;
        let report = if base == 0 {
            Report { instance, serial, base, present: service.workers.table.all(), gone: Vec::new() }
        } else {
            let delta = service.workers.table.delta();
            Report { instance, serial, base, present: delta.came, gone: delta.gone }
        };
        // What may not have arrived is told in full the next time.
        base = if send(&service, leader, report).await { serial } else { 0 };
    }
}

/// Whether the leader has noted it.
async fn send(service: &Service, leader: RaftId, report: Report) -> bool {
    if leader == service.facts.raft() {
        return service.note_sessions(leader, report).await.unwrap_or(false);
    }
    let id = |node: &NodeId| Bytes::copy_from_slice(node.as_bytes());
    let kind = request::Kind::Sessions(api::Sessions {
        raft_id: service.facts.raft_id,
        instance: report.instance,
        serial: report.serial,
        base: report.base,
        present: report.present.iter().map(id).collect(),
        gone: report
            .gone
            .iter()
            .map(|(node, silent_ms)| api::Gone { node_id: id(node), silent_ms: *silent_ms })
            .collect(),
    });
    let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
    let Ok(answer) = service.peers.request(leader, body, PATIENCE).await else { return false };
    match api::Response::decode(answer).map(|response| response.kind) {
        Ok(Some(response::Kind::Sessions(done))) => !done.need_full,
        Ok(_) | Err(_) => false,
    }
}

impl Service {
    /// Hands a report to the judge; false: a full one is needed.
    pub(super) async fn note_sessions(&self, from: RaftId, report: Report) -> Result<bool, Failure> {
        let (reply, noted) = oneshot::channel();
        let stopping = || fail(api::Code::Stopping, "this manager is stopping");
        self.workers.judge.send(Told { from, report, reply }).await.map_err(|_closed| stopping())?;
        noted.await.map_err(|_dropped| stopping())
    }

    pub(super) async fn sessions(&self, told: api::Sessions) -> Result<api::SessionsDone, Failure> {
        let node =
            |id: &Bytes| NodeId::from_slice(id).ok_or_else(|| fail(api::Code::Invalid, "a node id must have 16 bytes"));
        let report = Report {
            instance: told.instance,
            serial: told.serial,
            base: told.base,
            present: told.present.iter().map(node).collect::<Result<_, _>>()?,
            gone: told
                .gone
                .iter()
                .map(|gone| Ok((node(&gone.node_id)?, gone.silent_ms)))
                .collect::<Result<_, Failure>>()?,
        };
        let noted = self.note_sessions(RaftId(told.raft_id), report).await?;
        Ok(api::SessionsDone { need_full: !noted })
    }
}

/// Judges while this manager holds the lease, until the node stops.
pub(super) async fn judge(service: Arc<Service>, mut inbox: mpsc::Receiver<Told>, judged: watch::Sender<Judged>) {
    let began = Instant::now();
    let now = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut status = service.status.clone();
    let mut records = service.records.clone();
    let mut presence = service.workers.changes.presence();
    let mut leading: Option<(u64, Ledger)> = None;
    let mut look = Instant::now();
    loop {
        tokio::select! {
            told = inbox.recv() => {
                let Some(Told { from, report, reply }) = told else { return };
                // Another leader begins with an empty ledger; who does not lead notes nothing, and asks for all of it again.
                let changes = report.base == 0 || !report.present.is_empty() || !report.gone.is_empty();
                let noted = leading.as_mut().is_some_and(|(_, ledger)| ledger.report(now(), from, report));
                if noted && changes {
                    look = look.min(Instant::now() + GATHER);
                }
                let _ = reply.send(noted);
                continue;
            }
            changed = records.changed() => {
                if changed.is_err() {
                    return;
                }
                look = look.min(Instant::now() + GATHER);
            }
            changed = presence.changed() => {
                if changed.is_err() {
                    return;
                }
                look = look.min(Instant::now() + GATHER);
            }
            changed = leads(&mut status, leading.as_ref().map(|(term, _)| *term)) => {
                if !changed {
                    return;
                }
                look = Instant::now();
            }
            () = tokio::time::sleep_until(look) => {}
        }
        let lease = status.borrow().lease;
        match lease {
            None => {
                leading = None;
                judged.send_if_modified(|judged| std::mem::take(judged) != Judged::default());
                look = Instant::now() + Duration::from_secs(3_600);
                continue;
            }
            Some(lease) if leading.as_ref().is_none_or(|(term, _)| *term != lease.term.0) => {
                leading = Some((lease.term.0, Ledger::new(Timing::default(), now())));
            }
            Some(_) => {}
        }
        if Instant::now() < look {
            continue;
        }
        let Some((term, ledger)) = leading.as_mut() else { continue };
        let managers = managers(&status.borrow_and_update(), &service);
        let (known, recorded) = (records.borrow_and_update().clone(), presence.borrow_and_update().clone());
        let candidates = known.nodes.iter().filter_map(|node| {
            let id = node.node_id()?;
            let recorded = recorded.get(id);
            // Nodes are workers as long as they hold no raft id: a manager is seen by the managers.
            Some(Candidate { node: id, worker: node.raft_id == 0, recorded: recorded.and_then(LivenessRecord::state) })
        });
        let decision = ledger.decide(now(), &managers, candidates);
        let complete = Judged { complete: decision.complete };
        judged.send_if_modified(|judged| std::mem::replace(judged, complete) != complete);
        // A second at most: who is connected is not told by a change of its own.
        let wake = decision.wake.map_or(EVERY, Duration::from_millis).clamp(GATHER, EVERY);
        look = Instant::now() + wake;
        if let Err(error) = write(&service, *term, &decision.changes).await {
            tracing::debug!(error = error.message, "the presence of workers is written later");
        }
    }
}

/// Waits until this manager begins or ceases to hold the lease of a term; false: the node has stopped.
async fn leads(status: &mut watch::Receiver<Arc<Status>>, term: Option<u64>) -> bool {
    status.wait_for(|status| status.lease.map(|lease| lease.term.0) != term).await.is_ok()
}

/// All managers that have a record, and whether this one hears them.
fn managers(status: &Status, service: &Service) -> Vec<(RaftId, bool)> {
    let records = service.records.borrow();
    let ids = records.nodes.members().filter(|node| !node.lost).filter_map(NodeRecord::raft);
    ids.map(|id| (id, id == status.id || status.connected.binary_search(&id).is_ok())).collect()
}

async fn write(service: &Service, term: u64, changes: &[Change]) -> Result<(), Failure> {
    let since_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let since_ms = u64::try_from(since_ms).unwrap_or(u64::MAX);
    for some in changes.chunks(CHANGES_AT_ONCE) {
        let mut txn = Txn { fence: Some(term), ..Txn::default() };
        for change in some {
            let op: Op = match *change {
                Change::Is(node, presence) => {
                    // A node that was removed meanwhile gets no record.
                    let exists = Compare::new(NodeRecord::key(node), Relation::NotEqual, Operand::Version(0));
                    txn.compares.push(exists);
                    let value = LivenessRecord { presence: presence.into(), since_ms }.to_bytes();
                    Put { key: LivenessRecord::key(node), value, ..Put::default() }.into()
                }
                Change::Forget(node) => Delete { key: LivenessRecord::key(node), ..Delete::default() }.into(),
            };
            txn.then.push(op);
        }
        let command = Command::from(CommandKind::System(txn));
        let done = service.router.execute(command, Instant::now() + WRITE).await?;
        if !done.succeeded {
            // The next look sees why.
            return Ok(());
        }
        for change in some {
            if let Change::Is(node, Presence::Down) = change {
                let name = service.records.borrow().nodes.get(*node).map(super::service::display_name);
                tracing::warn!(node = name.unwrap_or_else(|| node.to_string()), "worker down");
            }
        }
    }
    Ok(())
}
