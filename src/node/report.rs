//! Status: this manager's view, put together without a quorum.
//!
//! Owns the questions to the other managers and the words of advice. Called by the service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{RaftRole, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::quorum::Quorum;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_transport::api::{self, request, response};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::applier;
use super::changes::Presences;
use super::router::{Failure, fail};
use super::service::{Service, display_name};
use crate::client::SOFTWARE;
use crate::status::{ClusterStatus, Health, ManagerStatus, MemberReport, SnapshotStatus, WorkerStatus};

/// How long the others are waited for.
const PATIENCE: Duration = Duration::from_millis(800);

impl Service {
    /// What this manager says of itself.
    pub(super) async fn member_report(&self) -> Result<MemberReport, Failure> {
        let (reply, hashes) = oneshot::channel();
        let stopping = || fail(api::Code::Stopping, "this manager is stopping");
        let applier = self.applier.upgrade().ok_or_else(stopping)?;
        applier.send(applier::Job::Hashes(reply)).await.map_err(|_closed| stopping())?;
        drop(applier);
        let hashes = hashes.await.map_err(|_dropped| stopping())?;
        let status = self.status.borrow().clone();
        Ok(MemberReport {
            applied: hashes.applied.0,
            commit: status.commit.0,
            term: status.term.0,
            version: SOFTWARE.to_owned(),
            revision: hashes.revision.0,
            hashes: hashes.hashes.into_iter().map(|(revision, hash)| (revision.0, blake3_hex(&hash))).collect(),
            snapshots: SnapshotStatus {
                sent: status.snapshots.sent,
                failed: status.snapshots.failed,
                installed: status.snapshots.installed,
                refused: status.snapshots.refused,
            },
            sessions: self.workers.table.count() as u64,
            judged: self.workers.judged.borrow().complete,
        })
    }

    async fn reports(&self, others: &[RaftId]) -> BTreeMap<RaftId, MemberReport> {
        let mut asking = JoinSet::new();
        for id in others.iter().copied() {
            let peers = self.peers.clone();
            let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
            let kind = request::Kind::MemberStatus(api::MemberStatus {});
            let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
            asking.spawn(async move {
                let answer = peers.request(id, body, PATIENCE).await.ok()?;
                let response::Kind::Status(done) = api::Response::decode(answer).ok()?.kind? else { return None };
                Some((id, serde_json::from_slice(&done.json).ok()?))
            });
        }
        let mut reports = BTreeMap::new();
        while let Some(answer) = asking.join_next().await {
            if let Ok(Some((id, report))) = answer {
                reports.insert(id, report);
            }
        }
        reports
    }

    /// The whole cluster as this manager sees it.
    pub(crate) async fn cluster_status(&self) -> ClusterStatus {
        let records = self.records.borrow().clone();
        let others: Vec<RaftId> =
            records.nodes.members().filter_map(NodeRecord::raft).filter(|id| *id != self.facts.raft()).collect();
        let mut reports = self.reports(&others).await;
        let own = self.member_report().await.ok();
        let status = self.status.borrow().clone();
        let revision = own.as_ref().map_or(0, |own| own.revision);
        if let Some(own) = own {
            reports.insert(self.facts.raft(), own);
        }
        let shared = newest_shared(reports.values());
        let newest = reports.values().map(|report| report.commit).max().unwrap_or(0);
        let managers: Vec<ManagerStatus> = records
            .nodes
            .members()
            .filter(|node| node.role == i32::from(Role::Manager))
            .map(|node| manager_status(node, &status, reports.get(&RaftId(node.raft_id)), shared, newest))
            .collect();
        let alive = |id: RaftId| reports.contains_key(&id);
        let presence = self.workers.changes.presence().borrow().clone();
        // What is recorded holds only while a leader judges it.
        let judged = status.leader.and_then(|leader| reports.get(&leader)).is_some_and(|leader| leader.judged);
        let quorum = Quorum::of(&status.configuration);
        let lineage = records.lineage();
        let mut answer = ClusterStatus {
            cluster_id: self.facts.cluster().to_string(),
            generation: if lineage.generation() == 0 {
                self.facts.lineage_list().generation()
            } else {
                lineage.generation()
            },
            term: status.term.0,
            leader: status.leader.map(|leader| self.name_of(leader)),
            revision,
            voters: status.configuration.voters.len(),
            fault_tolerance: quorum.fault_tolerance(alive),
            health: Health::Ok,
            advice: Vec::new(),
            answered_by: own_name(&self.facts.name, &self.facts.node().to_string()),
            leaderless_ms: self.leaderless_ms(),
            managers,
            workers: records
                .nodes
                .iter()
                .filter(|node| node.role == i32::from(Role::Worker))
                .map(|node| worker_status(node, &presence, judged))
                .collect(),
            cluster_version: records.cluster.version,
        };
        answer.health = health(&answer, &status);
        answer.advice = advice(&answer);
        answer
    }
}

fn own_name(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { name.to_owned() }
}

fn blake3_hex(hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}

/// The newest revision whose digest every report has.
fn newest_shared<'a>(reports: impl Iterator<Item = &'a MemberReport>) -> Option<u64> {
    let mut shared: Option<BTreeSet<u64>> = None;
    for report in reports {
        let theirs: BTreeSet<u64> = report.hashes.iter().map(|(revision, _)| *revision).collect();
        shared = Some(match shared {
            None => theirs,
            Some(shared) => shared.intersection(&theirs).copied().collect(),
        });
    }
    shared.and_then(|shared| shared.last().copied())
}

fn manager_status(
    node: &NodeRecord,
    status: &Status,
    report: Option<&MemberReport>,
    shared: Option<u64>,
    newest: u64,
) -> ManagerStatus {
    let raft_id = RaftId(node.raft_id);
    let configuration = &status.configuration;
    let seat = if configuration.voters.contains(&raft_id) {
        "voter"
    } else if configuration.contains(raft_id) {
        "standby"
    } else {
        "joining"
    };
    let state_hash = report.zip(shared).and_then(|(report, shared)| {
        report.hashes.iter().find(|(revision, _)| *revision == shared).map(|(_, hash)| hash.clone())
    });
    ManagerStatus {
        id: node.node_id().unwrap_or_default().to_string(),
        name: display_name(node),
        address: node.addresses.first().cloned().unwrap_or_default(),
        raft_id: node.raft_id,
        seat: seat.to_owned(),
        leader: status.leader == Some(raft_id),
        reachable: report.is_some(),
        applied: report.map_or(0, |report| report.applied),
        lag: report.map_or(0, |report| newest.saturating_sub(report.applied)),
        version: report.map_or_else(|| node.software.clone(), |report| report.version.clone()),
        hash_revision: state_hash.as_ref().and(shared),
        state_hash,
        snapshots: report.map(|report| report.snapshots).unwrap_or_default(),
        sessions: report.map_or(0, |report| report.sessions),
    }
}

fn worker_status(node: &NodeRecord, presence: &Presences, judged: bool) -> WorkerStatus {
    let recorded = node.node_id().and_then(|id| presence.get(id)).filter(|_| judged);
    WorkerStatus {
        id: node.node_id().unwrap_or_default().to_string(),
        name: display_name(node),
        address: node.addresses.first().cloned().unwrap_or_default(),
        state: recorded.and_then(LivenessRecord::state).map_or("unknown", Presence::name).to_owned(),
        since_ms: recorded.map_or(0, |recorded| recorded.since_ms),
    }
}

/// The reachable managers' digests at one revision differ: never by quorate's own doing, unless it has a defect.
fn diverged(answer: &ClusterStatus) -> bool {
    let mut hashes = answer.managers.iter().filter_map(|manager| manager.state_hash.as_ref());
    hashes.next().is_some_and(|first| hashes.any(|other| other != first))
}

fn health(answer: &ClusterStatus, status: &Status) -> Health {
    let follows = status.leader.is_some() || status.role == Some(RaftRole::Leader);
    let voters_reachable = answer.managers.iter().all(|manager| manager.reachable || manager.seat != "voter");
    if answer.fault_tolerance < 0 || !follows {
        Health::QuorumLost
    } else if answer.voters == 1 {
        Health::SingleCopy
    } else if voters_reachable && !diverged(answer) {
        Health::Ok
    } else {
        Health::Degraded
    }
}

fn advice(answer: &ClusterStatus) -> Vec<String> {
    let mut missing: Vec<&ManagerStatus> = answer.managers.iter().filter(|manager| !manager.reachable).collect();
    missing.sort_by_key(|manager| manager.raft_id);
    let mut lines: Vec<String> = missing
        .iter()
        .map(|manager| format!("missing {} {} ({})", manager.name, manager.address, manager.seat))
        .collect();
    // Only a voter helps a quorum.
    missing.retain(|manager| manager.seat == "voter");
    let names = missing.iter().map(|manager| manager.name.as_str()).collect::<Vec<_>>().join(" or ");
    if diverged(answer) {
        let revision = answer.managers.iter().find_map(|manager| manager.hash_revision).unwrap_or(answer.revision);
        lines.insert(0, format!("DIVERGED: managers hold different state at revision {revision}; the table shows which. A directory was rolled back by a copy or a restored disk, or quorate has a defect. Stop writing, keep every directory, wipe nothing"));
    }
    match answer.health {
        Health::Ok => {}
        Health::QuorumLost if missing.is_empty() => {
            lines.push(
                "next: wait a moment, the managers are electing a leader. If this stays, look at their logs".into(),
            );
        }
        Health::QuorumLost => {
            lines.push(format!("next: start {names} again"));
            lines.push(
                "writes are refused until then; nothing acknowledged is lost. Keep every directory, wipe nothing"
                    .into(),
            );
        }
        Health::SingleCopy if answer.managers.len() >= 3 => {
            lines.push("one voter: if its disk is lost, the cluster is lost. next: wait, or start the managers that are missing".into());
        }
        Health::SingleCopy => {
            lines.push(
                "one voter: if its disk is lost, the cluster is lost. next: join managers until there are three".into(),
            );
        }
        Health::Degraded if missing.is_empty() => {}
        Health::Degraded => lines.push(format!("next: start {names} again, or join a new manager")),
    }
    lines
}
