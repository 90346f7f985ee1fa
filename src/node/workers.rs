//! A manager's side of workers, put together.
//!
//! Owns what sessions, reports, presence and this manager's own items share, and their tasks. Started with the manager.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::membership::trust::TrustRecord;
use quorate_core::membership::work::{ItemStatus, ReportRecord};
use quorate_transport::trust_id;
use tokio::sync::{mpsc, oneshot, watch};

use super::changes::Changes;
use super::gate::Who;
use super::items::{Item, Set};
use super::presence::{self, Judged, Told};
use super::reports::{self, Said, Settled};
use super::service::{Service, blocking, broken, display_name};
use super::session_table::SessionTable;
use super::sessions::{ClusterNews, Fresh, see, to_item};
use super::work::Work;
use crate::status::{NodeReport, NodeRole};

/// This manager's own statuses are said at most so often.
const OWN_EVERY: Duration = Duration::from_millis(200);
/// Between two attempts to say them.
const OWN_AGAIN: Duration = Duration::from_secs(2);

/// What requests and sessions need of it.
pub(crate) struct Workers {
    pub(super) changes: Arc<Changes>,
    pub(super) table: SessionTable,
    pub(super) news: watch::Receiver<Arc<ClusterNews>>,
    pub(super) reports: mpsc::Sender<Said>,
    pub(super) judge: mpsc::Sender<Told>,
    pub(super) judged: watch::Receiver<Judged>,
    work: Work,
}

/// The other ends, for [`run`].
pub(super) struct Inboxes {
    news: watch::Sender<Arc<ClusterNews>>,
    reports: mpsc::Receiver<Said>,
    judge: mpsc::Receiver<Told>,
    judged: watch::Sender<Judged>,
}

impl Workers {
    pub(super) fn new(changes: Arc<Changes>, work: Work) -> (Self, Inboxes) {
        let (news_out, news) = watch::channel(Arc::default());
        let (reports, reports_in) = mpsc::channel(reports::INBOX);
        let (judge, judge_in) = mpsc::channel(presence::INBOX);
        let (judged_out, judged) = watch::channel(Judged::default());
        let workers = Self { changes, table: SessionTable::default(), news, reports, judge, judged, work };
        (workers, Inboxes { news: news_out, reports: reports_in, judge: judge_in, judged: judged_out })
    }
}

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>, inboxes: Inboxes) {
    let Inboxes { news, reports, judge, judged } = inboxes;
    tell_news(&service, &news);
    tokio::join!(
        keep_news(Arc::clone(&service), news),
        reports::run(Arc::clone(&service), reports),
        presence::report(Arc::clone(&service)),
        presence::judge(Arc::clone(&service), judge, judged),
        own_items(Arc::clone(&service)),
        own_statuses(service),
    );
}

fn tell_news(service: &Service, news: &watch::Sender<Arc<ClusterNews>>) {
    let records = service.records.borrow().clone();
    let fresh = ClusterNews {
        manager: service.name_of(service.facts.raft()),
        raft_id: service.facts.raft_id,
        lineage: records.cluster.lineage.clone(),
        managers: ClusterNews::managers_of(&records.nodes),
        trust: trust_named(&records.trust),
        trust_spread_ms: records.trust.spread_ms,
    };
    news.send_if_modified(|known| {
        let changed = **known != fresh;
        if changed {
            *known = Arc::new(fresh);
        }
        changed
    });
}

/// Empty before anything is known of it.
fn trust_named(trust: &TrustRecord) -> Bytes {
    if trust.authorities.is_empty() {
        return Bytes::new();
    }
    Bytes::copy_from_slice(&trust_id(trust.authorities.iter().map(|authority| &authority[..])))
}

/// Keeps what all workers are told in step with the records: thousands wake when it changes, so it changes only if it must.
async fn keep_news(service: Arc<Service>, news: watch::Sender<Arc<ClusterNews>>) {
    let mut records = service.records.clone();
    while records.changed().await.is_ok() {
        records.borrow_and_update();
        tell_news(&service, &news);
    }
}

/// What this manager is to run itself, from its own state: a node keeps its items when it is promoted.
async fn own_items(service: Arc<Service>) {
    let node = service.facts.node();
    let mut own = service.workers.changes.of_node(node);
    loop {
        own.borrow_and_update();
        let Ok(store) = service.store() else { return };
        let (barrier, had) = (Arc::clone(&service.barrier), service.workers.work.current().data.revisions());
        let seen =
            blocking(move || see(&*store.reader.view(), &barrier, node, &had).map_err(|error| broken(&error))).await;
        // Before its first snapshot a newcomer's state has no record of anybody: what the node had stands.
        if let Ok(seen) = seen
            && seen.record.is_some()
        {
            let work = &service.workers.work;
            if work.current().admits(&seen.lineage, seen.revision) {
                let items = seen.items.iter().map(|item| Item::from(to_item(item)));
                let items = items.map(|item| (item.id.clone(), item)).collect();
                let mut data = work.current().data.clone();
                for name in data.revisions().keys().filter(|name| !seen.objects.contains_key(*name)) {
                    data.remove(name);
                }
                for Fresh { name, revision, data: fresh } in seen.fresh {
                    data.put(name, revision, &fresh);
                }
                work.hold(Set::told(seen.lineage, seen.revision, items, data));
            }
            work.instance(seen.reported);
        }
        if own.changed().await.is_err() {
            return;
        }
    }
}

/// What the embedder of this manager says of its items.
async fn own_statuses(service: Arc<Service>) {
    let work = &service.workers.work;
    let mut statuses = work.statuses();
    let mut said = (0, 0);
    loop {
        let now = statuses.borrow_and_update().clone();
        let instance = work.instance(0);
        // Nothing said yet in this process: what an earlier one said stands.
        if now.sequence > 0 && said != (instance, now.sequence) {
            let items = now.items.iter().map(|(id, status)| ItemStatus { id: id.clone(), status: status.clone() });
            let report = ReportRecord { instance, sequence: now.sequence, items: items.collect() };
            let (reply, settled) = oneshot::channel();
            if service.workers.reports.send(Said { node: service.facts.node(), report, reply }).await.is_err() {
                return;
            }
            match settled.await {
                Ok(Settled::Taken(sequence)) => said = (instance, sequence),
                Ok(Settled::Behind(recorded)) => {
                    work.overtake(recorded);
                }
                // The node's record is not here yet, or not any more.
                Err(_dropped) => tokio::time::sleep(OWN_AGAIN).await,
            }
        } else if statuses.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(OWN_EVERY).await;
    }
}

impl Service {
    /// What this manager says of itself: to other nodes less than to operators.
    pub(super) fn node_report(&self, to: Who) -> NodeReport {
        let of_a_node = matches!(to, Who::Node(_));
        let set = self.workers.work.current();
        let name = self.records.borrow().nodes.get(self.facts.node()).map(display_name);
        NodeReport {
            id: self.facts.node().to_string(),
            name: name.unwrap_or_else(|| self.facts.node().to_string()),
            cluster_id: self.facts.cluster().to_string(),
            role: NodeRole::Manager,
            session: None,
            assignments_revision: set.known.then_some(set.revision),
            assignments_stale: set.stale,
            items: if of_a_node { Vec::new() } else { set.items.keys().cloned().collect() },
            trouble: String::new(),
            key: if of_a_node { None } else { self.store().ok().and_then(|store| Some(store.keys?.report())) },
        }
    }
}
