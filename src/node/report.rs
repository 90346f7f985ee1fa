//! Status: this manager's view, put together without a quorum.
//!
//! Owns the questions to the other managers and the words of advice. Called by the service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{RaftRole, Records, Status};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::membership::quorum::Quorum;
use quorate_core::membership::record::{NodeRecord, Role};
use quorate_core::membership::work::{LivenessRecord, Presence};
use quorate_transport::api::{self, request, response};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::applier::{self, Hashes};
use super::changes::Presences;
use super::nodes::{is_manager, state};
use super::router::{Failure, fail};
use super::service::{Service, display_name};
use crate::client::SOFTWARE;
use crate::status::{
    ClusterStatus, ForkStatus, Health, ManagerStatus, MemberReport, RecoveredStatus, SnapshotStatus, WorkerStatus,
    silence,
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
        })
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
        if self.facts.name.is_empty() { self.facts.node().to_string() } else { self.facts.name.clone() }
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
                manager.silent_ms = if manager.reachable { Some(0) } else { self.silent_ms(id) };
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
            leaving: String::new(),
            forks: self.forks(&records),
            recovered: recovered(&records),
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

    /// What becomes of this manager, while it is to be none and that is why it may hear of nobody.
    pub(super) fn leaving(&self) -> Option<String> {
        let leaving = self.records.borrow().by_raft_id(self.facts.raft()).and_then(leaving);
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

/// What becomes of a manager that is to be none, once the others do not talk to it any more.
fn leaving(node: &NodeRecord) -> Option<String> {
    let name = display_name(node);
    if node.removing {
        Some(format!("{name} is being removed, and hears of the others no more: it stops in a moment"))
    } else if node.role == i32::from(Role::Worker) {
        Some(format!("{name} is being demoted, and hears of the others no more: it goes on as a worker in a moment"))
    } else {
        None
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
        silent_ms: None,
        applied: report.map_or(0, |report| report.applied),
        lag: report.map_or(0, |report| newest.saturating_sub(report.applied)),
        version: report.map_or_else(|| node.software.clone(), |report| report.version.clone()),
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
        state: state(node, false, recorded.and_then(LivenessRecord::state)),
        id: node.node_id().unwrap_or_default().to_string(),
        name: display_name(node),
        address: node.addresses.first().cloned().unwrap_or_default(),
        since_ms: recorded.map_or(0, |recorded| recorded.since_ms),
    }
}

/// The reachable managers' digests at one revision differ: never by quorate's own doing, unless it has a defect.
fn diverged(answer: &ClusterStatus) -> bool {
    let mut hashes = answer.managers.iter().filter_map(|manager| manager.state_hash.as_ref());
    hashes.next().is_some_and(|first| hashes.any(|other| other != first))
}

/// `disks_answer`: those of a majority of the voters. `copied`: what is acknowledged is on more disks than one.
fn health(answer: &ClusterStatus, status: &Status, disks_answer: bool, copied: bool) -> Health {
    let follows = status.leader.is_some() || status.role == Some(RaftRole::Leader);
    let whole =
        |manager: &ManagerStatus| manager.reachable && manager.disk_silent_ms == 0 && manager.low_space.is_none();
    let voters_whole = answer.managers.iter().all(|manager| manager.seat != "voter" || whole(manager));
    if answer.voters == 0 {
        // A newcomer that nobody has told of the cluster yet cannot know how that is.
        Health::Degraded
    } else if answer.fault_tolerance < 0 && disks_answer {
        // With space there would be a majority.
        Health::ReadOnly
    } else if answer.fault_tolerance < 0 || !follows {
        Health::QuorumLost
    } else if !answer.forks.is_empty() {
        Health::Degraded
    } else if answer.voters == 1 && !copied {
        Health::SingleCopy
    } else if voters_whole && !diverged(answer) {
        Health::Ok
    } else {
        Health::Degraded
    }
}

/// Small numbers as people say them.
fn spelled(n: usize) -> String {
    ["no", "one", "two", "three", "four", "five"].get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

/// Names as people list them: `n1`, `n1 and n2`, `n1, n2 and n3`.
fn names(managers: &[&ManagerStatus], and: &str) -> String {
    let names: Vec<&str> = managers.iter().map(|manager| manager.name.as_str()).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} {and} {last}", others.join(", ")),
        Some((last, _)) => (*last).to_owned(),
        None => String::new(),
    }
}

/// How many voters may be lost, and what would make it more.
fn tolerance(answer: &ClusterStatus, max_voters: usize) -> String {
    let Ok(now) = usize::try_from(answer.fault_tolerance) else { return String::new() };
    if answer.health == Health::QuorumLost || answer.voters == 0 {
        return String::new();
    }
    // Who was left behind by a recovery does not come back by being started.
    let mut managers: Vec<&ManagerStatus> = answer.managers.iter().filter(|manager| manager.seat != "lost").collect();
    managers.sort_by_key(|manager| manager.raft_id);
    let (voters, others): (Vec<&ManagerStatus>, Vec<_>) = managers.into_iter().partition(|m| m.seat == "voter");
    let silent: Vec<&ManagerStatus> = voters.into_iter().filter(|manager| !manager.reachable).collect();
    let (waiting, away): (Vec<&ManagerStatus>, Vec<_>) = others.into_iter().partition(|manager| manager.reachable);
    let full = answer.voters.saturating_sub(1) / 2;
    let more = spelled(full + 1);
    let how = if !silent.is_empty() && now < full {
        format!("start {} again to tolerate {}", names(&silent, "and"), spelled(full))
    } else if answer.voters + 2 > max_voters {
        format!("{} voters are the most that this cluster takes; further managers stand by", spelled(answer.voters))
    } else if waiting.len() >= 2 {
        format!("it tolerates {more} once {} are caught up and have their seats", names(&waiting, "and"))
    } else if let Some(missing) = 2_usize.checked_sub(waiting.len()).filter(|missing| away.len() < *missing) {
        let (missing, s) = (missing - away.len(), if missing - away.len() == 1 { "" } else { "s" });
        let start = if away.is_empty() { String::new() } else { format!("start {} again and ", names(&away, "and")) };
        format!("{start}join {} more manager{s} to tolerate {more}", spelled(missing))
    } else {
        format!("start {} again to tolerate {more}", names(&away, "and"))
    };
    // One voter alone is well only while a standby has everything, too.
    let copied = if answer.health == Health::Ok && answer.voters == 1 {
        " of a manager, but a standby has every acknowledged write, too"
    } else {
        ""
    };
    format!("tolerates {} loss{}{copied}: {how}", spelled(now), if now > 1 { "es" } else { "" })
}

fn advice(answer: &ClusterStatus) -> Vec<String> {
    let (lost, members): (Vec<&ManagerStatus>, Vec<&ManagerStatus>) =
        answer.managers.iter().partition(|manager| manager.seat == "lost");
    let mut missing: Vec<&ManagerStatus> = members.iter().copied().filter(|manager| !manager.reachable).collect();
    missing.sort_by_key(|manager| manager.raft_id);
    let mut lines: Vec<String> = missing
        .iter()
        .map(|manager| {
            let silent = silence(manager.silent_ms);
            format!("missing  {} {} {silent} ({})", manager.name, manager.address, manager.seat)
        })
        .collect();
    // Only a voter helps a quorum.
    missing.retain(|manager| manager.seat == "voter");
    if diverged(answer) {
        let revision = answer.managers.iter().find_map(|manager| manager.hash_revision).unwrap_or(answer.revision);
        lines.insert(0, format!("DIVERGED: managers hold different state at revision {revision}; the table shows which. A directory was rolled back by a copy or a restored disk, or quorate has a defect. Stop writing, keep every directory, wipe nothing"));
    }
    lines.extend(answer.managers.iter().filter_map(disk_advice));
    match answer.health {
        Health::Ok | Health::Fenced | Health::Removed => {}
        Health::ReadOnly => {
            lines.push("writes are refused until then, and go on by themselves; reads go on".into());
        }
        Health::QuorumLost if missing.is_empty() && answer.fault_tolerance < 0 => {
            lines.push("writes are refused until the disks answer, and go on by themselves".into());
        }
        Health::QuorumLost if missing.is_empty() => {
            lines.push(
                "next: wait a moment, the managers are electing a leader. If this stays, look at their logs".into(),
            );
        }
        Health::QuorumLost => {
            lines.push(format!("next: start {} again", names(&missing, "or")));
            lines.push(
                "writes are refused until then; nothing acknowledged is lost. Keep every directory, wipe nothing"
                    .into(),
            );
            lines.push(
                "only if their disks are gone for good: stop this node, then  quorate recover --dry-run --data-dir DIR"
                    .into(),
            );
        }
        Health::SingleCopy => {
            lines.push("one voter: if its disk is lost, the cluster is lost".into());
            lines.push(answer.tolerance.clone());
        }
        Health::Degraded if answer.voters == 0 => lines.push(
            "next: wait a moment. If this stays, no manager of the cluster is in touch with this one: check UDP between them, or name one with quorate run --manager HOST:PORT".into(),
        ),
        Health::Degraded => lines.push(answer.tolerance.clone()),
    }
    for fork in &answer.forks {
        lines.insert(0, format!(
            "FORKED: {} {} is of another recovery of this cluster (generation {}), and the two do not talk to each other. next: decide which one to keep, stop the other and wipe it",
            fork.name, fork.address, fork.generation
        ));
    }
    if !lost.is_empty() {
        let (names, who) = (names(&lost, "and"), if lost.len() == 1 { "It" } else { "Each" });
        lines.push(format!(
            "lost in the recovery: {names}. {who} may come back with a fresh store: quorate join --replace --token TOKEN --manager {}",
            answer.managers.iter().find(|manager| manager.leader).map_or("HOST:PORT", |leader| &leader.address)
        ));
    }
    lines
}

/// What a manager's disk keeps it from, and what to do about it.
fn disk_advice(manager: &ManagerStatus) -> Option<String> {
    let name = &manager.name;
    if manager.disk_silent_ms > 0 {
        let seconds = manager.disk_silent_ms / 1_000;
        return Some(format!(
            "disk {name} has not answered for {seconds} s: {name} neither leads nor votes until it does. next: look at that disk and what lies behind it; nothing acknowledged is lost"
        ));
    }
    let free = manager.low_space? >> 20;
    Some(format!(
        "disk {name} is low on space, {free} MiB free: {name} takes no writes and neither leads nor votes. next: free space beside its data, or enlarge its disk"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_that_knows_no_cluster_yet_does_not_call_its_quorum_lost() {
        let answer = ClusterStatus { leaderless_ms: 140, ..ClusterStatus::default() };
        assert_eq!(health(&answer, &Status::default(), false, false), Health::Degraded);
        assert_eq!(tolerance(&answer, 5), "");
        assert!(advice(&answer)[0].contains("--manager HOST:PORT"));
    }

    /// Managers n1, n2, ... as `(seat, reachable)`.
    fn said(managers: &[(&str, bool)], max_voters: usize) -> String {
        let voters = managers.iter().filter(|(seat, _)| *seat == "voter").count();
        let alive = managers.iter().filter(|(seat, reachable)| *seat == "voter" && *reachable).count();
        let managers = managers
            .iter()
            .enumerate()
            .map(|(index, (seat, reachable))| ManagerStatus {
                name: format!("n{}", index + 1),
                raft_id: index as u64 + 1,
                seat: (*seat).into(),
                reachable: *reachable,
                ..ManagerStatus::default()
            })
            .collect();
        let fault_tolerance = i64::try_from(alive).unwrap() - i64::try_from(voters / 2 + 1).unwrap();
        tolerance(&ClusterStatus { voters, managers, fault_tolerance, ..ClusterStatus::default() }, max_voters)
    }

    #[test]
    fn a_manager_that_is_to_go_says_what_becomes_of_it() {
        let node = NodeRecord { name: "n4".into(), role: Role::Manager.into(), raft_id: 4, ..NodeRecord::default() };
        assert_eq!(leaving(&node), None);
        let demoted = leaving(&NodeRecord { role: Role::Worker.into(), ..node.clone() }).unwrap();
        assert!(demoted.contains("n4 is being demoted") && demoted.contains("as a worker"), "{demoted}");
        let removed = leaving(&NodeRecord { removing: true, ..node }).unwrap();
        assert!(removed.contains("n4 is being removed"), "{removed}");
    }

    #[test]
    fn one_voter_with_a_standby_is_well_and_says_what_it_does_not_tolerate() {
        let manager = |name: &str, raft_id, seat: &str| ManagerStatus {
            name: name.into(),
            raft_id,
            seat: seat.into(),
            reachable: true,
            ..ManagerStatus::default()
        };
        let managers = vec![manager("n1", 1, "voter"), manager("n2", 2, "standby")];
        let answer = ClusterStatus { voters: 1, managers, health: Health::Ok, ..ClusterStatus::default() };
        assert_eq!(
            tolerance(&answer, 5),
            "tolerates no loss of a manager, but a standby has every acknowledged write, too: join one more manager to tolerate one"
        );
        assert!(advice(&answer).is_empty());
    }

    #[test]
    fn what_would_raise_the_tolerance_is_said() {
        let (voter, standby) = (("voter", true), ("standby", true));
        for (managers, said_is) in [
            (&[voter][..], "tolerates no loss: join two more managers to tolerate one"),
            (&[voter, ("lost", false), ("lost", false)], "tolerates no loss: join two more managers to tolerate one"),
            (&[voter, standby], "tolerates no loss: join one more manager to tolerate one"),
            (
                &[voter, ("standby", false)],
                "tolerates no loss: start n2 again and join one more manager to tolerate one",
            ),
            (&[voter, standby, ("joining", false)], "tolerates no loss: start n3 again to tolerate one"),
            (
                &[voter, standby, standby],
                "tolerates no loss: it tolerates one once n2 and n3 are caught up and have their seats",
            ),
            (&[voter, voter, voter], "tolerates one loss: join two more managers to tolerate two"),
            (&[voter, voter, ("voter", false)], "tolerates no loss: start n3 again to tolerate one"),
            (
                &[("voter", true), ("voter", true), ("voter", true), ("voter", false), ("voter", false)],
                "tolerates no loss: start n4 and n5 again to tolerate two",
            ),
            (
                &[voter, voter, voter, voter, ("voter", false), ("voter", false), ("voter", false)],
                "tolerates no loss: start n5, n6 and n7 again to tolerate three",
            ),
            (&[voter, voter, ("voter", false), standby], "tolerates no loss: start n3 again to tolerate one"),
            (&[voter, voter, voter, standby], "tolerates one loss: join one more manager to tolerate two"),
            (
                &[voter; 5],
                "tolerates two losses: five voters are the most that this cluster takes; further managers stand by",
            ),
        ] {
            assert_eq!(said(managers, 5), said_is);
        }
        assert_eq!(said(&[voter, ("voter", false), ("voter", false)], 5), "", "the runbook says it");
    }

    #[test]
    fn who_was_left_behind_is_named_with_the_way_back() {
        let lost = |name: &str| ManagerStatus { name: name.into(), seat: "lost".into(), ..ManagerStatus::default() };
        let said = |managers: Vec<ManagerStatus>| {
            advice(&ClusterStatus { voters: 1, managers, health: Health::Ok, ..ClusterStatus::default() }).concat()
        };
        let one = said(vec![lost("n2")]);
        assert!(one.starts_with("lost in the recovery: n2. It may come back"), "{one}");
        let three = said(vec![lost("n2"), lost("n3"), lost("n4")]);
        assert!(three.starts_with("lost in the recovery: n2, n3 and n4. Each may come back"), "{three}");
    }

    #[test]
    fn a_missing_manager_is_told_with_its_silence() {
        let missing = ManagerStatus {
            name: "n3".into(),
            address: "10.0.0.3:4701".into(),
            seat: "voter".into(),
            silent_ms: Some(12_400),
            ..ManagerStatus::default()
        };
        let mut status = ClusterStatus { managers: vec![missing], ..ClusterStatus::default() };
        assert_eq!(advice(&status)[0], "missing  n3 10.0.0.3:4701 silent 12s (voter)");
        status.managers[0].silent_ms = None;
        assert_eq!(advice(&status)[0], "missing  n3 10.0.0.3:4701 not heard of yet (voter)");
    }
}
