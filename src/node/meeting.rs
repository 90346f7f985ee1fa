//! Managers that do not find each other ask those they have found.
//!
//! Owns the addresses that other managers have met each other at. When all managers of a cluster have moved, one hint joins
//! them one by one to a first one, and that one has met them all: what it knows from their own hellos is asked for until
//! nobody is missing. No address told here is trusted: whoever answers at one proves by its certificate who it is. What is taken on
//! trust is which raft id a node has, of which this manager has an older record or none ([`quorate_core::membership::admission`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message as _;
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::admission::Strangers;
use quorate_transport::PeerAddress;
use quorate_transport::api::{self, request, response};
use tokio::sync::watch;

use super::facts::KnownManager;
use super::service::Service;

/// How often it is looked whether somebody is missing.
const EVERY: Duration = Duration::from_secs(1);
/// How long the others may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Addresses of one manager that are remembered, newest first.
const REMEMBERED: usize = 4;

/// Where managers were met, by raft id.
pub(super) type Met = BTreeMap<RaftId, Vec<String>>;

/// Whom to connect to, and where: where they say they are, where others have met them, and the hints, which may be anybody.
pub(super) fn peers(known: &[KnownManager], met: &Met, hints: &[String]) -> Vec<PeerAddress> {
    let address = |manager: &KnownManager| {
        let id = RaftId(manager.raft_id);
        let mut addresses: Vec<String> = Vec::new();
        let elsewhere = met.get(&id).into_iter().flatten();
        for address in manager.addresses.iter().chain(elsewhere).chain(hints) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        PeerAddress { raft_id: id, node_id: NodeId::from_slice(&manager.node_id), addresses }
    };
    known.iter().map(address).collect()
}

/// Runs until the node stops.
pub(super) async fn run(service: Arc<Service>, met: watch::Sender<Arc<Met>>, strangers: Arc<Mutex<Strangers>>) {
    loop {
        tokio::time::sleep(EVERY).await;
        if service.is_closed() {
            return;
        }
        let connected = service.peers.connected();
        let own = service.facts.raft();
        // Only those are asked of whom there is a record: who was let in without one vouches for nobody.
        let (known, missing): (Vec<RaftId>, Vec<RaftId>) = {
            let records = service.records.borrow();
            locked(&strangers).forget_known(&records);
            let others = records.nodes.members().filter_map(|node| node.raft()).filter(|id| *id != own);
            others.partition(|id| connected.contains(id))
        };
        let leaderless = service.status.borrow().leaderless_ticks;
        let wait = {
            let mut strangers = locked(&strangers);
            strangers.look_around(!known.is_empty(), leaderless);
            strangers.wait()
        };
        if missing.is_empty() && !wait {
            continue;
        }
        for peer in known {
            for api::Known { raft_id, node_id, addresses } in ask(&service, peer).await {
                let id = RaftId(raft_id);
                if let Some(node) = NodeId::from_slice(&node_id) {
                    locked(&strangers).vouch(id, node);
                }
                if missing.contains(&id) {
                    note(&met, id, addresses);
                }
            }
        }
    }
}

fn locked(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(met: &watch::Sender<Arc<Met>>, id: RaftId, addresses: Vec<String>) {
    met.send_if_modified(|met| {
        let known = met.get(&id).map(Vec::as_slice).unwrap_or_default();
        let news: Vec<String> = addresses.into_iter().filter(|address| !known.contains(address)).collect();
        if news.is_empty() {
            return false;
        }
        let mut all = news;
        all.extend_from_slice(known);
        all.truncate(REMEMBERED);
        Arc::make_mut(met).insert(id, all);
        true
    });
}

async fn ask(service: &Service, peer: RaftId) -> Vec<api::Known> {
    let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let kind = request::Kind::Addresses(api::Addresses {});
    let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
    let Ok(answer) = service.peers.request(peer, body, PATIENCE).await else { return Vec::new() };
    match api::Response::decode(answer).map(|response| response.kind) {
        Ok(Some(response::Kind::Addresses(done))) => done.managers,
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_looked_for_where_it_is_recorded_where_it_was_met_and_at_the_hints() {
        let known = KnownManager { raft_id: 2, addresses: vec!["old:1".into()], ..KnownManager::default() };
        let met = watch::Sender::new(Arc::new(Met::new()));
        note(&met, RaftId(2), vec!["new:1".into(), "old:1".into()]);
        note(&met, RaftId(2), vec!["new:1".into()]);
        let peers = peers(&[known], &met.borrow(), &["hint:1".into(), "old:1".into()]);
        assert_eq!(peers[0].addresses, ["old:1", "new:1", "hint:1"]);
        for n in 0..9 {
            note(&met, RaftId(2), vec![format!("later:{n}")]);
        }
        assert_eq!(met.borrow()[&RaftId(2)].len(), REMEMBERED);
        assert_eq!(met.borrow()[&RaftId(2)][0], "later:8");
    }
}
