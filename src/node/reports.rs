//! What nodes say of their items, joined into few writes.
//!
//! Owns one task per manager: it gathers the newest report of each node for a moment, and writes many of them in one
//! transaction. Each write is bound to the report that it replaces, so that of two managers that were told something the
//! later word stands. Called by sessions, and by this manager for itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::command::{Command, CommandKind};
use quorate_core::id::NodeId;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::work::ReportRecord;
use quorate_core::ports::StoreResult;
use quorate_core::state::read;
use quorate_core::txn::{Compare, Operand, Put, Relation, Txn};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::router::Failure;
use super::service::{Service, blocking, broken};

/// Reports gathered before they are written.
const GATHER: Duration = Duration::from_millis(250);
/// Nodes in one transaction: two comparisons and a put each, at most 128 together.
const NODES_AT_ONCE: usize = 42;
/// Bytes in one transaction.
const BYTES_AT_ONCE: usize = 3 * 1024 * 1024;
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a failed write.
const PAUSE: Duration = Duration::from_millis(500);
/// Reports that wait to be gathered.
pub(super) const INBOX: usize = 1_024;

/// One node's word.
pub(super) struct Said {
    pub(super) node: NodeId,
    pub(super) report: ReportRecord,
    /// Dropped when a later word of the same node came before this one was written.
    pub(super) reply: oneshot::Sender<Settled>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// It, or a later one, is in the replicated state.
    Taken(u64),
    /// Another process of the node has said something later, as this instance.
    Behind(u64),
}

type Waiting = BTreeMap<NodeId, (ReportRecord, oneshot::Sender<Settled>)>;

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>, mut inbox: mpsc::Receiver<Said>) {
    let mut waiting = Waiting::new();
    loop {
        if waiting.is_empty() {
            let Some(said) = inbox.recv().await else { return };
            waiting.insert(said.node, (said.report, said.reply));
        }
        let until = Instant::now() + GATHER;
        // Who comes when so many wait already, waits in front.
        while waiting.len() < INBOX
            && let Ok(said) = tokio::time::timeout_at(until, inbox.recv()).await
        {
            let Some(said) = said else { return };
            waiting.insert(said.node, (said.report, said.reply));
        }
        if let Err(error) = write(&service, &mut waiting).await {
            tracing::debug!(error = error.message, "reports are written later");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What is recorded of the nodes that wait.
struct Recorded {
    known: bool,
    report: Option<(ReportRecord, u64)>,
}

/// Writes what waits; who is settled waits no longer.
async fn write(service: &Service, waiting: &mut Waiting) -> Result<(), Failure> {
    while !waiting.is_empty() {
        let some: Vec<NodeId> = waiting.keys().take(NODES_AT_ONCE).copied().collect();
        let asked = some.clone();
        let reader = service.store()?.reader;
        let recorded = blocking(move || {
            let view = reader.view();
            let look = |node: NodeId| -> StoreResult<Recorded> {
                Ok(Recorded { known: read::node(&*view, node)?.is_some(), report: read::report(&*view, node)? })
            };
            asked.into_iter().map(look).collect::<StoreResult<Vec<_>>>().map_err(|error| broken(&error))
        })
        .await?;
        let (mut txn, mut written, mut bytes) = (Txn::default(), Vec::new(), 0);
        for (node, recorded) in some.into_iter().zip(recorded) {
            let Some((report, _)) = waiting.get(&node) else { continue };
            let settled = match &recorded.report {
                Some((known, _)) if known.order() > report.order() => Some(Settled::Behind(known.instance)),
                Some((known, _)) if known.items == report.items => Some(Settled::Taken(report.sequence)),
                // The same order and another content: two processes chose one instance.
                Some((known, _)) if known.order() == report.order() => Some(Settled::Behind(known.instance)),
                Some(_) | None => None,
            };
            if let Some(settled) = settled {
                settle(waiting, node, settled);
                continue;
            }
            if !recorded.known {
                // The node is gone, and what it says with it.
                waiting.remove(&node);
                continue;
            }
            let value = report.to_bytes();
            bytes += value.len();
            if bytes > BYTES_AT_ONCE && !written.is_empty() {
                break;
            }
            let key = ReportRecord::key(node);
            let revision = recorded.report.map_or(0, |(_, revision)| revision);
            txn.compares.push(Compare::new(NodeRecord::key(node), Relation::NotEqual, Operand::Version(0)));
            txn.compares.push(Compare::mod_revision(key.clone(), revision));
            txn.then.push(Put { key, value, ..Put::default() }.into());
            written.push((node, report.sequence));
        }
        if written.is_empty() {
            continue;
        }
        let command = Command::from(CommandKind::System(txn));
        let done = service.router.execute(command, Instant::now() + PATIENCE).await?;
        if done.succeeded {
            // Applied by the leader; read from here it is only once it is applied here.
            let mut applied = service.workers.changes.revision();
            let here = applied.wait_for(|revision| revision.0 >= done.revision);
            let _ = tokio::time::timeout(PATIENCE, here).await;
            for (node, sequence) in written {
                settle(waiting, node, Settled::Taken(sequence));
            }
        } else {
            // Somebody else wrote one of them, or a node was removed: looked at anew, a moment later.
            tokio::time::sleep(GATHER).await;
        }
    }
    Ok(())
}

fn settle(waiting: &mut Waiting, node: NodeId, settled: Settled) {
    if let Some((_, reply)) = waiting.remove(&node) {
        let _ = reply.send(settled);
    }
}
