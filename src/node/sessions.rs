//! Workers' sessions, the manager's end.
//!
//! Owns the task of each session that is in the table ([`super::session_table`]): it tells the worker the managers, what it is asked to be
//! and what it is to run, from this manager's own applied state and never from one older than what the worker has; and it
//! hands on what the worker says of its items. Ten thousand of them must cost nothing while nothing changes: a session
//! wakes only when its own node's records, or the managers, do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, LineageOrder, NodeId};
use quorate_core::membership::nodes::Nodes;
use quorate_core::membership::record::NodeRecord;
use quorate_core::membership::work::{ItemStatus, ReportRecord};
use quorate_core::objects::{ObjectKind, ObjectRecord};
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::read::{self, AssignedItem};
use quorate_transport::session_api::{
    self, Behind, Down as ToWorker, Item, Manager, Open, Part, Taken, Up, Welcome, down, up,
};
use quorate_transport::{Caller, Down, Refused, Session, SessionSender};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

use super::barrier::Barrier;
use super::items::{ObjectName, digest};
use super::nodes::Shown;
use super::records;
use super::reports::{Said, Settled};
use super::service::{Service, blocking, broken};
use super::session_table::Registration;
use crate::config;

/// How long a worker may take to open what it has begun.
const OPEN: Duration = Duration::from_secs(10);
/// How long a manager that is behind a worker may take to catch up before the worker looks elsewhere.
const BEHIND: Duration = Duration::from_secs(10);
/// What a worker has shown and could not be noted is noted after so long, or after half of it.
const NOTED_AGAIN: Duration = Duration::from_secs(2);
/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(20);
/// Items of so many bytes make a part.
const PART_BYTES: usize = 1024 * 1024;

/// What every worker is told of the managers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ClusterNews {
    pub(super) manager: String,
    pub(super) raft_id: u64,
    pub(super) lineage: Bytes,
    pub(super) managers: Vec<Manager>,
    /// Names what is trusted.
    pub(super) trust: Bytes,
    /// Over which time renewals are spread.
    pub(super) trust_spread_ms: u64,
}

impl ClusterNews {
    pub(super) fn managers_of(nodes: &Nodes) -> Vec<Manager> {
        let managers = nodes.members().filter(|node| node.raft_id != 0 && !node.lost);
        managers
            .map(|node| Manager { raft_id: node.raft_id, node_id: node.id.clone(), addresses: node.addresses.clone() })
            .collect()
    }
}

/// What the state says of one node, all from one view.
pub(super) struct Seen {
    pub(super) record: Option<NodeRecord>,
    pub(super) items: Vec<AssignedItem>,
    /// What its items refer to, with the revision that made each.
    pub(super) objects: BTreeMap<ObjectName, u64>,
    /// The data of those that are not had yet.
    pub(super) fresh: Vec<Fresh>,
    pub(super) revision: u64,
    pub(super) lineage: Lineage,
    /// The instance of its newest report; 0: none.
    pub(super) reported: u64,
}

/// Data on its way to a node; secret data is wiped when it has gone.
pub(super) struct Fresh {
    pub(super) name: ObjectName,
    pub(super) revision: u64,
    pub(super) data: Zeroizing<Vec<u8>>,
}

/// What items refer to, as it is in the state, and the data of what is not among `had`.
fn objects(
    view: &dyn StateRead,
    barrier: &Barrier,
    items: &[AssignedItem],
    had: &BTreeMap<ObjectName, u64>,
) -> StoreResult<(BTreeMap<ObjectName, u64>, Vec<Fresh>)> {
    let secrets = items.iter().flat_map(|item| &item.record.secrets).map(|name| (true, name.clone()));
    let configs = items.iter().flat_map(|item| &item.record.configs).map(|name| (false, name.clone()));
    let names: BTreeSet<ObjectName> = secrets.chain(configs).collect();
    let (mut objects, mut fresh) = (BTreeMap::new(), Vec::new());
    for (secret, name) in names {
        let kind = if secret { ObjectKind::Secret } else { ObjectKind::Config };
        let key = kind.key(&name);
        // Apply sees to it that it is there.
        let Some((value, made)) = records::made(view, key.clone())? else { continue };
        let unreadable = |error: prost::DecodeError| records::corrupt(kind.word(), error);
        if had.get(&(secret, name.clone())) != Some(&made) {
            let data = match kind {
                ObjectKind::Secret => barrier.open(view, &key, &value)?.1,
                ObjectKind::Config => {
                    Zeroizing::new(ObjectRecord::read(kind, &value).map_err(unreadable)?.data.to_vec())
                }
            };
            fresh.push(Fresh { name: (secret, name.clone()), revision: made, data });
        }
        objects.insert((secret, name), made);
    }
    Ok((objects, fresh))
}

pub(super) fn see(
    view: &dyn StateRead,
    barrier: &Barrier,
    node: NodeId,
    had: &BTreeMap<ObjectName, u64>,
) -> StoreResult<Seen> {
    let items = read::assignments(view, node)?;
    let (objects, fresh) = objects(view, barrier, &items, had)?;
    Ok(Seen {
        record: read::node(view, node)?,
        items,
        objects,
        fresh,
        revision: read::status(view)?.revision.0,
        lineage: read::cluster(view)?.and_then(|cluster| cluster.lineage_list()).unwrap_or_default(),
        reported: read::report(view, node)?.map_or(0, |(report, _)| report.instance),
    })
}

pub(super) fn to_item(item: &AssignedItem) -> Item {
    Item {
        id: String::from_utf8_lossy(&item.id).into_owned(),
        revision: item.revision,
        payload: item.record.payload.clone(),
        secrets: item.record.secrets.clone(),
        configs: item.record.configs.clone(),
    }
}

/// How a session ended.
enum End {
    /// By the transport, or by the worker.
    Down(Down),
    /// This side does not talk to the worker any more.
    Refuse(Refused),
}

impl From<Down> for End {
    fn from(down: Down) -> Self {
        Self::Down(down)
    }
}

/// Serves one session until it ends.
pub(super) async fn serve(service: Arc<Service>, caller: Caller, session: Session) {
    let node = caller.node_id;
    let Session { mut sender, mut receiver } = session;
    let opened = match tokio::time::timeout(OPEN, receiver.next()).await {
        Ok(Ok(message)) => match Up::decode(message).map(|message| message.kind) {
            Ok(Some(up::Kind::Open(open))) => open,
            Ok(_) | Err(_) => return sender.refuse(&Refused::Malformed),
        },
        Ok(Err(_)) | Err(_) => return,
    };
    let (number, kick) = service.workers.table.begin(node);
    let mut registration = Registration { table: &service.workers.table, node, number, silent: Duration::ZERO };
    tracing::debug!(%node, "session");
    let shown =
        Shown { command_version: opened.command_version, software: opened.software.clone(), issuer: caller.issuer };
    let noting = keep_noted(service.workers.news.clone(), || {
        let (service, shown) = (Arc::clone(&service), shown.clone());
        async move { service.note_shown(node, &shown).await }
    });
    let feed = Box::pin(Feed::new(&service, node, caller.key_digest, opened));
    let end = tokio::select! {
        end = run(feed, &mut sender, &mut receiver, &service) => end,
        () = noting => End::Down(Down::Ours("the manager stops".into())),
        () = kick.notified() => End::Refuse(Refused::Other("this node has opened another session; two processes must not share its directory".into())),
    };
    match end {
        End::Down(down) => {
            tracing::debug!(%node, %down, "the session ended");
            if down == Down::TimedOut {
                registration.silent = config::WORKER_IDLE;
            }
        }
        End::Refuse(refused) => {
            tracing::info!(%node, %refused, "the session was ended");
            sender.refuse(&refused);
        }
    }
}

/// Notes what the worker has shown (`note` says whether that is settled), and again whenever what is known of the cluster changes: a rotation of the CA may become known here
/// only after a worker has come that has renewed for it, and its session may last for months.
async fn keep_noted<Noted: Future<Output = bool>>(
    mut news: watch::Receiver<Arc<ClusterNews>>,
    note: impl Fn() -> Noted,
) {
    loop {
        news.borrow_and_update();
        while !note().await {
            tokio::time::sleep(NOTED_AGAIN.mul_f64(0.5 + config::chance() / 2.0)).await;
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}

async fn run(
    mut feed: std::pin::Pin<Box<Feed<'_>>>,
    sender: &mut SessionSender,
    receiver: &mut quorate_transport::SessionReceiver,
    service: &Service,
) -> End {
    if let Err(end) = feed.tell(sender).await {
        return end;
    }
    let mut pending: Option<oneshot::Receiver<Settled>> = None;
    loop {
        let settled = async {
            match &mut pending {
                Some(pending) => pending.await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = receiver.next() => {
                let message = match message {
                    Ok(message) => message,
                    Err(down) => return down.into(),
                };
                match Up::decode(message).map(|message| message.kind) {
                    Ok(Some(up::Kind::Report(report))) => {
                        let items = report.items.into_iter().map(|item| ItemStatus { id: item.id, status: item.status });
                        let report = ReportRecord { instance: report.instance, sequence: report.sequence, items: items.collect() };
                        let (reply, answer) = oneshot::channel();
                        // A full queue slows this worker down, and nobody else.
                        if service.workers.reports.send(Said { node: feed.node, report, reply }).await.is_err() {
                            return Down::Ours("the manager stops".into()).into();
                        }
                        pending = Some(answer);
                    }
                    // From a newer worker, or twice: nothing that this version could do about it.
                    Ok(Some(up::Kind::Open(_)) | None) => {}
                    Err(_) => return End::Refuse(Refused::Malformed),
                }
            }
            settled = settled => {
                pending = None;
                let kind = match settled {
                    Some(Settled::Taken(sequence)) => down::Kind::Taken(Taken { sequence }),
                    Some(Settled::Behind(instance)) => down::Kind::Behind(Behind { instance }),
                    None => continue,
                };
                if let Err(down) = send(sender, kind).await {
                    return down.into();
                }
            }
            end = feed.changed() => {
                if let Some(end) = end {
                    return end;
                }
                tokio::time::sleep(GATHER).await;
                if let Err(end) = feed.tell(sender).await {
                    return end;
                }
            }
        }
    }
}

async fn send(sender: &mut SessionSender, kind: down::Kind) -> Result<(), Down> {
    sender.send(ToWorker { kind: Some(kind) }.encode_to_vec().into()).await
}

/// What one worker is told, and what it has been told.
struct Feed<'a> {
    service: &'a Service,
    node: NodeId,
    /// Of the key that it has shown.
    key: [u8; 32],
    open: Open,
    own: watch::Receiver<u64>,
    news: watch::Receiver<Arc<ClusterNews>>,
    welcomed: Option<Welcome>,
    /// Ids and revisions of the items told.
    sent: Option<BTreeMap<Bytes, u64>>,
    /// What they refer to, as far as the worker has it.
    given: BTreeMap<ObjectName, u64>,
}

impl<'a> Feed<'a> {
    fn new(service: &'a Service, node: NodeId, key: [u8; 32], open: Open) -> Self {
        // Waited on before anything is read: what changes meanwhile is told anew.
        let (own, news) = (service.workers.changes.of_node(node), service.workers.news.clone());
        Self { service, node, key, open, own, news, welcomed: None, sent: None, given: BTreeMap::new() }
    }

    /// Waits until there may be something to tell.
    async fn changed(&mut self) -> Option<End> {
        let changed = tokio::select! {
            changed = self.own.changed() => changed.is_ok(),
            changed = self.news.changed() => changed.is_ok(),
        };
        (!changed).then(|| Down::Ours("the manager stops".into()).into())
    }

    async fn see(&mut self) -> Result<Seen, End> {
        let store = self.service.store().map_err(|_stopping| End::Down(Down::Ours("the manager stops".into())))?;
        let node = self.node;
        self.own.borrow_and_update();
        let (barrier, given) = (Arc::clone(&self.service.barrier), self.given.clone());
        let seen =
            blocking(move || see(&*store.reader.view(), &barrier, node, &given).map_err(|error| broken(&error))).await;
        seen.map_err(|error| End::Down(Down::Ours(error.message)))
    }

    /// A worker is told nothing from a state older than what it has.
    async fn caught_up(&mut self) -> Result<Seen, End> {
        let mut applied = self.service.workers.changes.revision();
        let mut seen = self.see().await?;
        let theirs = Lineage::from_slice(&self.open.lineage).unwrap_or_default();
        let behind = |seen: &Seen, revision: u64| {
            seen.lineage.compare(&theirs) == LineageOrder::Equal && seen.revision < revision
        };
        if self.welcomed.is_none() && behind(&seen, self.open.revision) {
            let wanted = self.open.revision;
            let reached = tokio::time::timeout(BEHIND, applied.wait_for(|revision| revision.0 >= wanted)).await;
            let reached = reached.is_ok_and(|applied| applied.is_ok());
            if !reached {
                let why = format!("this manager is at revision {}, the worker has {wanted}", seen.revision);
                return Err(End::Refuse(Refused::Busy(why)));
            }
            seen = self.see().await?;
        }
        Ok(seen)
    }

    async fn tell(&mut self, sender: &mut SessionSender) -> Result<(), End> {
        let seen = self.caught_up().await?;
        let Some(record) = &seen.record else { return Err(End::Refuse(Refused::Removed)) };
        if record.key_digest != self.key.as_slice() {
            return Err(End::Refuse(Refused::WrongNode("another disk has taken this node's place".into())));
        }
        let news = self.news.borrow_and_update().clone();
        let welcome = Welcome {
            manager: news.manager.clone(),
            raft_id: news.raft_id,
            lineage: news.lineage.clone(),
            managers: news.managers.clone(),
            role: record.role,
            availability: record.availability,
            trust: news.trust.clone(),
            trust_spread_ms: news.trust_spread_ms,
            // Only at first: it is what orders a new process after those before it.
            reported_instance: self.welcomed.as_ref().map_or(seen.reported, |welcomed| welcomed.reported_instance),
        };
        if self.welcomed.as_ref() != Some(&welcome) {
            send(sender, down::Kind::Welcome(welcome.clone())).await?;
            self.welcomed = Some(welcome);
        }
        self.tell_items(&seen, sender).await
    }

    async fn tell_items(&mut self, seen: &Seen, sender: &mut SessionSender) -> Result<(), End> {
        let now: BTreeMap<Bytes, u64> = seen.items.iter().map(|item| (item.id.clone(), item.revision)).collect();
        let part = || Part { lineage: seen.lineage.to_bytes().into(), revision: seen.revision, ..Part::default() };
        let Some(sent) = &self.sent else {
            let same = digest(now.iter().map(|(id, revision)| (&id[..], *revision)), &seen.objects);
            if self.open.revision > 0 && self.open.digest == same[..] {
                send(sender, down::Kind::Part(Part { unchanged: true, last: true, ..part() })).await?;
            } else {
                let first = Part { complete: true, ..part() };
                tell_parts(first, &seen.fresh, seen.items.iter(), sender).await?;
            }
            (self.sent, self.given) = (Some(now), seen.objects.clone());
            return Ok(());
        };
        if *sent == now && self.given == seen.objects {
            return Ok(());
        }
        let removed = sent.keys().filter(|id| !now.contains_key(*id));
        let removed = removed.map(|id| String::from_utf8_lossy(id).into_owned()).collect();
        let withdrawn = self.given.keys().filter(|name| !seen.objects.contains_key(*name)).map(to_name).collect();
        let changed: Vec<&AssignedItem> =
            seen.items.iter().filter(|item| sent.get(&item.id) != Some(&item.revision)).collect();
        let first = Part { removed, withdrawn, ..part() };
        tell_parts(first, &seen.fresh, changed.into_iter(), sender).await?;
        (self.sent, self.given) = (Some(now), seen.objects.clone());
        Ok(())
    }
}

fn to_name((secret, name): &ObjectName) -> session_api::ObjectName {
    session_api::ObjectName { secret: *secret, name: name.clone() }
}

/// A set on its way, in parts that are not too large.
struct Telling<'s> {
    part: Part,
    bytes: usize,
    sender: &'s mut SessionSender,
}

impl Telling<'_> {
    /// Makes room for something of this size.
    async fn room(&mut self, size: usize) -> Result<(), End> {
        if self.bytes > 0 && self.bytes + size > PART_BYTES {
            let Part { lineage, revision, complete, .. } = &self.part;
            let next = Part { lineage: lineage.clone(), revision: *revision, complete: *complete, ..Part::default() };
            send(self.sender, down::Kind::Part(std::mem::replace(&mut self.part, next))).await?;
            self.bytes = 0;
        }
        self.bytes += size;
        Ok(())
    }
}

/// Sends data and items; the first part carries what `first` holds.
async fn tell_parts<'i>(
    first: Part,
    fresh: &[Fresh],
    items: impl Iterator<Item = &'i AssignedItem>,
    sender: &mut SessionSender,
) -> Result<(), End> {
    let mut telling = Telling { part: first, bytes: 0, sender };
    for Fresh { name, revision, data } in fresh {
        let data = Bytes::copy_from_slice(data);
        let object = session_api::Object { name: Some(to_name(name)), revision: *revision, data };
        telling.room(object.encoded_len()).await?;
        telling.part.objects.push(object);
    }
    for item in items {
        let item = to_item(item);
        telling.room(item.encoded_len()).await?;
        telling.part.items.push(item);
    }
    telling.part.last = true;
    send(telling.sender, down::Kind::Part(telling.part)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_worker_has_shown_is_noted_until_it_is_and_again_when_a_rotation_becomes_known() {
        // Given a worker that has come with a certificate of a new root before this manager knows of any rotation
        let (tell, news) = watch::channel(Arc::<ClusterNews>::default());
        let (tries, known) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(true));
        let (counted, settled) = (Arc::clone(&tries), known.subscribe());
        let noting = tokio::spawn(keep_noted(news, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(*settled.borrow())
        }));
        let day = || tokio::time::sleep(Duration::from_secs(86_400));
        day().await;
        assert_eq!(tries.load(Ordering::Relaxed), 1, "while nothing changes it costs nothing");
        // When the rotation becomes known, and it cannot be noted at once, then it is tried until it is,
        known.send_replace(false);
        tell.send_replace(Arc::new(ClusterNews { trust: Bytes::from_static(b"other"), ..ClusterNews::default() }));
        tokio::time::sleep(NOTED_AGAIN * 10).await;
        assert!(tries.load(Ordering::Relaxed) > 10, "{tries:?}");
        // and no more then.
        known.send_replace(true);
        tokio::time::sleep(NOTED_AGAIN * 2).await;
        let all = tries.load(Ordering::Relaxed);
        day().await;
        assert_eq!(tries.load(Ordering::Relaxed), all);
        // When the manager stops, it ends.
        drop(tell);
        noting.await.unwrap();
    }
}
