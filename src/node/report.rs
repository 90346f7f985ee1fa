//! Status: this manager's view, put together without a quorum.
//!
//! Owns the questions to the other managers, and what of their answers goes into it; the words are in [`super::advice`].
//! Called by the service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{RaftRole, Records, Status};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::quorum::Quorum;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_core::state::read;
use quorate_transport::Parting;
use quorate_transport::api::{self, request, response};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::advice::{advice, health, leaving, tolerance};
use super::applier::{self, Hashes};
use super::changes::Presences;
use super::nodes::{Met, is_manager, state};
use super::router::{Failure, fail};
use super::service::{Service, blocking, broken, display_name};
use super::upgrade;
use crate::client::SOFTWARE;
use crate::status::{
    ClusterStatus, ForkStatus, Health, LastWord, ManagerStatus, MemberReport, RecoveredStatus, SnapshotStatus,
    StoreStatus, WorkerStatus,
};

/// How long the others are waited for.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long this manager's own applier is waited for: less, so that one with a silent disk still answers the others.
const APPLIER_PATIENCE: Duration = Duration::from_millis(400);
/// For so long a manager that is to go puts down to that that it hears of nobody.
const GOING: u64 = 10_000;
/// Questions for digests that may wait for the applier: its queue belongs to the consensus task.
const QUESTIONS: usize = 4;

/// The applier's digests, and the last ones it gave for as long as its disk does not answer.
pub(super) struct Digests {
    slots: Arc<Semaphore>,
    last: Mutex<Hashes>,
}

impl Digests {
    pub(super) fn new() -> Self {
        Self { slots: Arc::new(Semaphore::new(QUESTIONS)), last: Mutex::default() }
    }
}

impl Service {
    /// What this manager says of itself.
    pub(super) async fn member_report(&self) -> Result<MemberReport, Failure> {
        let hashes = match tokio::time::timeout(APPLIER_PATIENCE, self.ask_applier()).await {
            Ok(hashes) => hashes?,
            Err(_elapsed) => self.digests.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
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
            disk_silent_ms: self.milliseconds(status.disk_silent_ticks),
            low_space: status.low_space,
            copied: status.role == Some(RaftRole::Leader) && !status.single_copy,
            sessions: self.workers.table.count() as u64,
            judged: self.workers.judged.borrow().complete,
            parted: self.parted(),
        })
    }

    /// The managers that said, when they went, that starting them again does not bring them back.
    fn parted(&self) -> Vec<(u64, LastWord)> {
        let records = self.records.borrow();
        let ids = records.nodes.members().filter_map(NodeRecord::raft);
        ids.filter_map(|id| Some((id.0, last_word(self.peers.parted(id)?)))).collect()
    }

    async fn ask_applier(&self) -> Result<Hashes, Failure> {
        let stopping = || fail(api::Code::Stopping, "this manager is stopping");
        let slot = Arc::clone(&self.digests.slots).acquire_owned().await.map_err(|_closed| stopping())?;
        let (reply, hashes) = oneshot::channel();
        let applier = self.applier.upgrade().ok_or_else(stopping)?;
        applier.send(applier::Job::Hashes { reply, slot }).await.map_err(|_closed| stopping())?;
        drop(applier);
        let hashes = hashes.await.map_err(|_dropped| stopping())?;
        self.digests.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&hashes);
        Ok(hashes)
    }

    /// What these managers say of themselves; who does not answer in time is not in it.
    pub(super) async fn reports(&self, others: &[RaftId]) -> BTreeMap<RaftId, MemberReport> {
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

    /// What people call this node.
    pub(super) fn own_name(&self) -> String {
        self.facts.display_name()
    }

    /// Whether what is recorded of workers holds: only while a leader judges it. `reports` are of the other managers.
    pub(super) fn is_judged(&self, leader: Option<RaftId>, reports: &BTreeMap<RaftId, MemberReport>) -> bool {
        match leader {
            Some(leader) if leader == self.facts.raft() => self.workers.judged.borrow().complete,
            Some(leader) => reports.get(&leader).is_some_and(|leader| leader.judged),
            None => false,
        }
    }

    /// What is recorded of one worker, as far as it holds; only the leader can tell.
    pub(super) fn presence_of(&self, node: NodeId) -> Option<Presence> {
        let presence = self.workers.changes.presence();
        let recorded = presence.borrow().get(node).copied();
        recorded.filter(|_| self.workers.judged.borrow().complete).as_ref().and_then(LivenessRecord::state)
    }

    fn silent_ms(&self, id: RaftId) -> Option<u64> {
        self.peers.silence(id).map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
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
            .filter(|node| is_member(node))
            .map(|node| {
                let id = RaftId(node.raft_id);
                let mut manager = manager_status(node, &status, reports.get(&id), shared, newest);
                manager.locked = !manager.reachable && self.peers.is_locked(id);
                manager.silent_ms = if manager.reachable { Some(0) } else { self.silent_ms(id) };
                // Who was not connected with it then was not told.
                let told = reports.values().flat_map(|report| &report.parted).find(|(parted, _)| *parted == id.0);
                manager.last_word = told.filter(|_| !manager.reachable).map(|(_, word)| *word);
                manager
            })
            .collect();
        let answers = |id: RaftId| reports.get(&id).is_some_and(|report| report.disk_silent_ms == 0);
        let able = |id: RaftId| answers(id) && reports.get(&id).is_some_and(|report| report.low_space.is_none());
        let presence = self.workers.changes.presence().borrow().clone();
        let judged = self.is_judged(status.leader, &reports);
        let quorum = Quorum::of(&status.configuration);
        let mut answer = ClusterStatus {
            cluster_id: self.facts.cluster().to_string(),
            generation: self.lineage().generation(),
            term: status.term.0,
            leader: status.leader.map(|leader| self.name_of(leader)),
            revision,
            voters: status.configuration.voters.len(),
            fault_tolerance: quorum.fault_tolerance(able),
            tolerance: String::new(),
            health: Health::Ok,
            advice: Vec::new(),
            age_ms: self.age_ms(),
            answered_by: self.own_name(),
            leaderless_ms: self.leaderless_ms(),
            managers,
            workers: records
                .nodes
                .iter()
                .filter(|node| !is_member(node))
                .map(|node| worker_status(node, &presence, judged))
                .collect(),
            cluster_version: records.cluster.version,
            upgrade: upgrade::status(&records, |id| reports.contains_key(&id)),
            leaving: String::new(),
            forks: self.forks(&records),
            recovered: recovered(&records),
            store: self.store_status().await,
        };
        // Only the leader knows, and one that does not answer confirms nothing.
        let copied = status.leader.and_then(|leader| reports.get(&leader)).is_some_and(|report| report.copied);
        answer.health = health(&answer, &status, quorum.is_alive(answers), copied);
        if let Some(leaving) = self.leaving().filter(|_| answer.health == Health::QuorumLost) {
            (answer.health, answer.leaving) = (Health::Degraded, leaving);
            return answer;
        }
        answer.tolerance = tolerance(&answer, usize::try_from(records.cluster.max_voters).unwrap_or(usize::MAX));
        answer.advice = advice(&answer);
        answer
    }

    /// How much the store holds here; `None` when it cannot be read in time.
    async fn store_status(&self) -> Option<StoreStatus> {
        let reader = self.store().ok()?.reader;
        let read = blocking(move || read::usage(&*reader.view()).map_err(|error| broken(&error)));
        let usage = tokio::time::timeout(APPLIER_PATIENCE, read).await.ok()?.ok()?;
        Some(StoreStatus {
            live_bytes: usage.live,
            history_bytes: usage.history,
            quota_bytes: usage.quota,
            full: usage.full,
        })
    }

    /// What becomes of this manager, while it is to be none and that is why it may hear of nobody.
    pub(super) fn leaving(&self) -> Option<String> {
        let leaving = leaving(&self.records.borrow(), self.facts.raft(), &self.facts.display_name());
        leaving.filter(|_| self.leaderless_ms() < GOING)
    }

    /// Managers of another recovery that were met, by name where the records have one.
    fn forks(&self, records: &Records) -> Vec<ForkStatus> {
        let mut forks = self.incarnations.forks();
        for fork in &mut forks {
            let known = records.nodes.iter().find(|node| node.node_id().is_some_and(|id| id.to_string() == fork.id));
            if let Some(known) = known {
                fork.name = display_name(known);
            }
        }
        forks
    }
}

const fn last_word(parting: Parting) -> LastWord {
    match parting {
        Parting::RolledBack => LastWord::RolledBack,
        Parting::Overruled => LastWord::Overruled,
        Parting::Damaged => LastWord::Damaged,
    }
}

fn recovered(records: &Records) -> Option<RecoveredStatus> {
    let recovery = &records.recovery;
    (recovery.index.0 > 0).then_some(RecoveredStatus {
        kept_revision: recovery.kept_revision.0,
        first_revision: recovery.first_revision.0,
    })
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
    let seat = if node.lost {
        "lost"
    } else if configuration.voters.contains(&raft_id) {
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
        locked: false,
        last_word: None,
        silent_ms: None,
        applied: report.map_or(0, |report| report.applied),
        lag: report.map_or(0, |report| newest.saturating_sub(report.applied)),
        version: report.map_or_else(|| node.software.clone(), |report| report.version.clone()),
        supports: (node.command_version_min, node.command_version),
        hash_revision: state_hash.as_ref().and(shared),
        state_hash,
        snapshots: report.map(|report| report.snapshots).unwrap_or_default(),
        disk_silent_ms: report.map_or(0, |report| report.disk_silent_ms),
        low_space: report.and_then(|report| report.low_space),
        sessions: report.map_or(0, |report| report.sessions),
    }
}

/// Whether it is, or is to be, a manager; a demoted one is until its seat is gone.
fn is_member(node: &NodeRecord) -> bool {
    is_manager(node) || node.role == i32::from(Role::Manager)
}

fn worker_status(node: &NodeRecord, presence: &Presences, judged: bool) -> WorkerStatus {
    let recorded = node.node_id().and_then(|id| presence.get(id)).filter(|_| judged);
    WorkerStatus {
        state: state(node, Met::Silent, recorded.and_then(LivenessRecord::state)),
        id: node.node_id().unwrap_or_default().to_string(),
        name: display_name(node),
        address: node.addresses.first().cloned().unwrap_or_default(),
        since_ms: recorded.map_or(0, |recorded| recorded.since_ms),
    }
}
