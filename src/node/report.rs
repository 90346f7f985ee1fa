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
use quorate_transport::api::{self, request, response};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::applier;
use super::router::{Failure, fail};
use super::service::{Service, display_name};
use crate::client::SOFTWARE;
use crate::status::{ClusterStatus, Health, ManagerStatus, MemberReport, SnapshotStatus, WorkerStatus, silence};

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

    fn silent_ms(&self, id: RaftId) -> Option<u64> {
        self.peers.silence(id).map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX))
    }

    /// The whole cluster as this manager sees it.
    pub(crate) async fn cluster_status(&self) -> ClusterStatus {
        let records = self.records.borrow().clone();
        let others: Vec<RaftId> =
            records.nodes.iter().filter_map(NodeRecord::raft).filter(|id| *id != self.facts.raft()).collect();
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
            .iter()
            .filter(|node| node.role == i32::from(Role::Manager))
            .map(|node| {
                let id = RaftId(node.raft_id);
                let mut manager = manager_status(node, &status, reports.get(&id), shared, newest);
                manager.silent_ms = if manager.reachable { Some(0) } else { self.silent_ms(id) };
                manager
            })
            .collect();
        let alive = |id: RaftId| reports.contains_key(&id);
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
            tolerance: String::new(),
            health: Health::Ok,
            advice: Vec::new(),
            age_ms: self.age_ms(),
            answered_by: own_name(&self.facts.name, &self.facts.node().to_string()),
            leaderless_ms: self.leaderless_ms(),
            managers,
            workers: records
                .nodes
                .iter()
                .filter(|node| node.role == i32::from(Role::Worker))
                .map(worker_status)
                .collect(),
            cluster_version: records.cluster.version,
        };
        answer.health = health(&answer, &status);
        answer.tolerance = tolerance(&answer, usize::try_from(records.cluster.max_voters).unwrap_or(usize::MAX));
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
        silent_ms: None,
        applied: report.map_or(0, |report| report.applied),
        lag: report.map_or(0, |report| newest.saturating_sub(report.applied)),
        version: report.map_or_else(|| node.software.clone(), |report| report.version.clone()),
        hash_revision: state_hash.as_ref().and(shared),
        state_hash,
        snapshots: report.map(|report| report.snapshots).unwrap_or_default(),
    }
}

fn worker_status(node: &NodeRecord) -> WorkerStatus {
    WorkerStatus {
        id: node.node_id().unwrap_or_default().to_string(),
        name: display_name(node),
        address: node.addresses.first().cloned().unwrap_or_default(),
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
    if answer.voters == 0 {
        // A newcomer that nobody has told of the cluster yet cannot know how that is.
        Health::Degraded
    } else if answer.fault_tolerance < 0 || !follows {
        Health::QuorumLost
    } else if answer.voters == 1 {
        Health::SingleCopy
    } else if voters_reachable && !diverged(answer) {
        Health::Ok
    } else {
        Health::Degraded
    }
}

/// Small numbers as people say them.
fn spelled(n: usize) -> String {
    ["no", "one", "two", "three", "four", "five"].get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

fn names(managers: &[&ManagerStatus], and: &str) -> String {
    managers.iter().map(|manager| manager.name.as_str()).collect::<Vec<_>>().join(and)
}

/// How many voters may be lost, and what would make it more.
fn tolerance(answer: &ClusterStatus, max_voters: usize) -> String {
    let Ok(now) = usize::try_from(answer.fault_tolerance) else { return String::new() };
    if answer.health == Health::QuorumLost || answer.voters == 0 {
        return String::new();
    }
    let mut managers: Vec<&ManagerStatus> = answer.managers.iter().collect();
    managers.sort_by_key(|manager| manager.raft_id);
    let (voters, others): (Vec<&ManagerStatus>, Vec<_>) = managers.into_iter().partition(|m| m.seat == "voter");
    let silent: Vec<&ManagerStatus> = voters.into_iter().filter(|manager| !manager.reachable).collect();
    let (waiting, away): (Vec<&ManagerStatus>, Vec<_>) = others.into_iter().partition(|manager| manager.reachable);
    let full = answer.voters.saturating_sub(1) / 2;
    let more = spelled(full + 1);
    let how = if !silent.is_empty() && now < full {
        format!("start {} again to tolerate {}", names(&silent, " and "), spelled(full))
    } else if answer.voters + 2 > max_voters {
        format!("{} voters are the most that this cluster takes; further managers stand by", spelled(answer.voters))
    } else if waiting.len() >= 2 {
        format!("it tolerates {more} once {} are caught up and have their seats", names(&waiting, " and "))
    } else if let Some(missing) = 2_usize.checked_sub(waiting.len()).filter(|missing| away.len() < *missing) {
        let (missing, s) = (missing - away.len(), if missing - away.len() == 1 { "" } else { "s" });
        let start = if away.is_empty() { String::new() } else { format!("start {} again and ", names(&away, " and ")) };
        format!("{start}join {} more manager{s} to tolerate {more}", spelled(missing))
    } else {
        format!("start {} again to tolerate {more}", names(&away, " and "))
    };
    format!("tolerates {} loss{}: {how}", spelled(now), if now > 1 { "es" } else { "" })
}

fn advice(answer: &ClusterStatus) -> Vec<String> {
    let mut missing: Vec<&ManagerStatus> = answer.managers.iter().filter(|manager| !manager.reachable).collect();
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
    match answer.health {
        Health::Ok => {}
        Health::QuorumLost if missing.is_empty() => {
            lines.push(
                "next: wait a moment, the managers are electing a leader. If this stays, look at their logs".into(),
            );
        }
        Health::QuorumLost => {
            lines.push(format!("next: start {} again", names(&missing, " or ")));
            lines.push(
                "writes are refused until then; nothing acknowledged is lost. Keep every directory, wipe nothing"
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
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_that_knows_no_cluster_yet_does_not_call_its_quorum_lost() {
        let answer = ClusterStatus { leaderless_ms: 140, ..ClusterStatus::default() };
        assert_eq!(health(&answer, &Status::default()), Health::Degraded);
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
    fn what_would_raise_the_tolerance_is_said() {
        let (voter, standby) = (("voter", true), ("standby", true));
        for (managers, said_is) in [
            (&[voter][..], "tolerates no loss: join two more managers to tolerate one"),
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
