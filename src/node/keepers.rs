//! What runs beside the requests for as long as the node does: peers, announcements, words for the log, the free space.
//!
//! Owns small loops that each keep one thing up to date. None of them decides anything: what they see is an input to the
//! machine, or a write like any other. Started by [`super::running`]; should one fail, the node stops.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_core::consensus::config::ELECTION_TICKS;
use quorate_core::consensus::io::{Input, Records, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::quorum::Quorum;
use quorate_core::ports::MetaStore;
use quorate_transport::Endpoint;
use tokio::sync::{mpsc, watch};

use super::facts::{Facts, KnownManager, Layout};
use super::meeting::{self, Met};
use super::metering;
use super::service::Service;
use super::tasks::Call;
use crate::config;
use crate::metrics::Meters;

/// Each so many looks at the free space, the store's own size is measured: every 10 s.
const SIZE_EACH: u64 = 20;

/// Keeps the endpoint's peers in step with the records, and remembers them for a start without any.
pub(super) async fn keep_peers(
    endpoint: Endpoint,
    facts: Facts,
    hints: Vec<String>,
    mut met: watch::Receiver<Arc<Met>>,
    mut records: watch::Receiver<Arc<Records>>,
    meta: Arc<dyn MetaStore>,
) {
    let mut known = facts.managers.clone();
    loop {
        let current = records.borrow_and_update().clone();
        let listed: Vec<KnownManager> = current
            .nodes
            .members()
            .filter(|node| node.raft_id != 0 && node.raft_id != facts.raft_id)
            .filter(|node| !current.removed.contains(&RaftId(node.raft_id)))
            .map(|node| KnownManager {
                raft_id: node.raft_id,
                node_id: node.id.clone(),
                addresses: node.addresses.clone(),
            })
            .collect();
        let news = !current.nodes.is_empty() && listed != known;
        if news {
            known = listed;
        }
        // Dialled before they are remembered: that waits for the disk.
        endpoint.set_peers(meeting::peers(&known, &met.borrow_and_update(), &hints));
        if news {
            let (updated, meta) = (Facts { managers: known.clone(), ..facts.clone() }, Arc::clone(&meta));
            let saved = tokio::task::spawn_blocking(move || updated.save(&*meta)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "the managers' addresses could not be remembered");
            }
        }
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = met.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps this manager's own record up to date.
pub(super) async fn keep_announced(service: Arc<Service>, mut status: watch::Receiver<Arc<Status>>) {
    loop {
        if status.wait_for(|status| status.leader.is_some()).await.is_err() {
            return;
        }
        service.announce().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What an operator looks for in the log first: who leads, that nobody does, and that a quorum is not even reachable.
pub(super) async fn narrate(service: Arc<Service>, mut status: watch::Receiver<Arc<Status>>) {
    let (mut told, mut leaderless, mut lost) = (None, false, false);
    let mut records = service.records.clone();
    loop {
        let current = status.borrow_and_update().clone();
        if let Some(leader) = current.leader {
            // A newcomer learns names a moment later than who leads.
            if records.borrow_and_update().by_raft_id(leader).is_some() && told != Some((leader, current.term)) {
                told = Some((leader, current.term));
                tracing::info!(leader = service.name_of(leader), term = %current.term, "leader");
            }
            (leaderless, lost) = (false, false);
        } else if !current.configuration.voters.is_empty() && current.leaderless_ticks >= 2 * u64::from(ELECTION_TICKS)
        {
            let leaving = service.leaving();
            if !std::mem::replace(&mut leaderless, true) {
                match &leaving {
                    Some(leaving) => tracing::info!("{leaving}"),
                    None => tracing::warn!("no leader: writes are refused until there is one"),
                }
            }
            // That a manager is gone without a word is noticed later.
            let seen = |id: RaftId| id == current.id || current.connected.contains(&id);
            if !lost && leaving.is_none() && !Quorum::of(&current.configuration).is_alive(seen) {
                lost = true;
                let voters = current.configuration.all_voters();
                let missing: Vec<String> =
                    voters.into_iter().filter(|id| !seen(*id)).map(|id| service.name_of(id)).collect();
                tracing::warn!(
                    missing = missing.join(", "),
                    "quorum lost: writes are refused until enough of the missing are started again; nothing acknowledged is lost"
                );
            }
        }
        let changed = tokio::select! {
            changed = status.changed() => changed,
            changed = records.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Who is connected is told by events; should they have been reordered under pressure, this tells it anew.
pub(super) async fn keep_connected(
    endpoint: Endpoint,
    status: watch::Receiver<Arc<Status>>,
    inbox: mpsc::Sender<Call>,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let believed = status.borrow().connected.clone();
        let connected: Vec<RaftId> = endpoint.peers().connected().into_iter().map(|(id, _)| id).collect();
        let up = connected.iter().filter(|id| !believed.contains(id)).map(|id| Input::PeerUp(*id));
        let down = believed.iter().filter(|id| !connected.contains(id)).map(|id| Input::PeerDown(*id));
        for input in up.chain(down) {
            if inbox.send(Call::Input(input)).await.is_err() {
                return;
            }
        }
    }
}

/// What the last look at the free space has found.
#[derive(Default)]
pub(super) struct Space(Mutex<Option<u64>>);

impl Space {
    fn note(&self, free: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(free);
    }

    /// Bytes; `None` where it could not be told yet.
    pub(super) fn free(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the free space of the store's file system; the machine decides what follows. One look at a time, so that a
/// disk that does not answer holds one thread and no more.
pub(super) async fn keep_space(layout: Layout, inbox: mpsc::Sender<Call>, space: Arc<Space>, meters: Arc<Meters>) {
    let mut told = false;
    for look in 0_u64.. {
        tokio::time::sleep(config::SPACE_EVERY).await;
        let (layout, measured) = (layout.clone(), Arc::clone(&meters));
        let looked = tokio::task::spawn_blocking(move || {
            if look.is_multiple_of(SIZE_EACH) {
                measured.db_size.set(metering::size(&layout.store()) as f64);
            }
            layout.free_space()
        });
        match looked.await {
            Ok(Ok(free)) => {
                space.note(free);
                meters.disk_free.set(free as f64);
                if inbox.send(Call::Input(Input::Space { free })).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, "the free space of the disk cannot be told: a full one will be noticed when a write fails");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
