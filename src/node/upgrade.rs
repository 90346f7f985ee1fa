//! The rolling upgrade, for operators: how far it is, and that it is finished.
//!
//! Owns the words. What holds an upgrade back, and what finishing it writes, is decided by
//! [`quorate_core::membership::upgrade`]. Called by the service, and by the status.

use std::time::Duration;

use quorate_core::consensus::io::Records;
use quorate_core::id::RaftId;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::membership::upgrade::{Finish, HeldBack, Progress, counts, finish, progress};
use quorate_core::txn::Txn;
use quorate_transport::api::{self, request, response};
use tokio::time::Instant;

use super::gate::Asker;
use super::once;
use super::router::{Failure, refused_by};
use super::service::{Service, display_name, document};
use crate::membership::Rule;
use crate::upgrade::{ManagerVersion, UpgradeState, UpgradeStatus};

/// How long the records may take to follow what was just written.
const FOLLOW: Duration = Duration::from_secs(1);

/// How far the upgrade is, by the records; who answers is for the caller to say.
pub(super) fn status(records: &Records, answers: impl Fn(RaftId) -> bool) -> UpgradeStatus {
    let progress = progress(&records.cluster, &records.nodes);
    let managers: Vec<ManagerVersion> = records
        .nodes
        .members()
        .filter(|node| counts(node))
        .map(|node| ManagerVersion {
            id: node.node_id().unwrap_or_default().to_string(),
            name: display_name(node),
            address: node.addresses.first().cloned().unwrap_or_default(),
            raft_id: node.raft_id,
            software: node.software.clone(),
            oldest: node.command_version_min,
            newest: node.command_version,
            reachable: answers(RaftId(node.raft_id)),
            holds_back: node.node_id().is_some_and(|id| progress.behind.contains(&id)),
        })
        .collect();
    let state = match (progress.target > progress.cluster, progress.behind.is_empty()) {
        (false, _) => UpgradeState::UpToDate,
        (true, false) => UpgradeState::Rolling,
        (true, true) => UpgradeState::Ready,
    };
    let mut held_back_by: Vec<String> =
        managers.iter().filter(|manager| manager.holds_back).map(|manager| manager.name.clone()).collect();
    held_back_by.sort_unstable();
    UpgradeStatus {
        state,
        cluster_version: progress.cluster,
        target_version: progress.target,
        next: next(&managers, state, &progress),
        held_back_by,
        managers,
        #[cfg(feature = "next-version")]
        note: None,
    }
}

/// What to do, line by line.
fn next(managers: &[ManagerVersion], state: UpgradeState, progress: &Progress) -> Vec<String> {
    match state {
        UpgradeState::UpToDate => Vec::new(),
        UpgradeState::Ready => vec![format!(
            "every manager supports version {}, the cluster is at {}: watch it for as long as you like, every manager can still go back; then run  quorate upgrade finish  (there is no way back from that)",
            progress.target, progress.cluster
        )],
        UpgradeState::Rolling => {
            let mut lines: Vec<String> = managers
                .iter()
                .filter(|manager| manager.holds_back)
                .map(|manager| {
                    let absent = if manager.reachable {
                        String::new()
                    } else {
                        format!(
                            "; it does not answer: when it is gone for good, remove it with  quorate node rm {}",
                            manager.name
                        )
                    };
                    format!(
                        "{} {} runs {} and supports versions up to {}: stop it, install the newer quorate, start it again{absent}",
                        manager.name, manager.address, manager.software, manager.newest
                    )
                })
                .collect();
            lines.push("one manager after the other: wait until  quorate status  says OK before the next".to_owned());
            lines
        }
    }
}

/// Why an upgrade cannot be finished yet.
fn refusal(held: &HeldBack, records: &Records) -> Failure {
    let HeldBack(Progress { cluster, target, behind }) = held;
    let mut who: Vec<String> = records
        .nodes
        .members()
        .filter(|node| node.node_id().is_some_and(|id| behind.contains(&id)))
        .map(|node| format!("{} ({}, up to version {})", display_name(node), node.software, node.command_version))
        .collect();
    who.sort_unstable();
    refused_by(
        Rule::UpgradeHeldBack,
        format!(
            "the upgrade to version {target} is held back by {}: the cluster stays at version {cluster}. Install the newer quorate there and start it again; a manager that is gone for good is removed with `quorate node rm NAME`. Nothing was changed",
            who.join(", ")
        ),
    )
}

/// The transaction of a finish, answering with the record that it wrote.
fn wish(finish: Finish) -> Txn {
    let written = once::write(ClusterRecord::key(), finish.cluster.to_bytes(), false);
    Txn { compares: finish.compares, ..written }
}

impl Service {
    /// How far it is, as this manager knows it; needs no quorum.
    pub(super) async fn upgrade_status(&self) -> Result<UpgradeStatus, Failure> {
        let records = self.records.borrow().clone();
        let own = self.facts.raft();
        let others: Vec<RaftId> =
            records.nodes.members().filter_map(NodeRecord::raft).filter(|id| *id != own).collect();
        let reports = self.reports(&others).await;
        let status = status(&records, |id| id == own || reports.contains_key(&id));
        #[cfg(feature = "next-version")]
        let status = UpgradeStatus { note: self.note().await?, ..status };
        Ok(status)
    }

    /// The cluster's version rises to the newest that every manager supports.
    pub(super) async fn upgrade_finish(
        &self,
        asker: &Asker,
        asked: api::UpgradeFinish,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let kind = request::Kind::UpgradeFinish(asked.clone());
        if let Some(answered) = self.by_the_leader(asker, &kind, until).await? {
            return Ok(answered);
        }
        let records = self.records.borrow().clone();
        let planned = match finish(&records.cluster, &records.nodes) {
            Ok(planned) => Ok(planned.map(wish)),
            Err(held) => Err(refusal(&held, &records)),
        };
        let revision = records.revision;
        let wished = self.once(asker, asked.once, planned, until).await?;
        if wished.is_done() {
            let mut following = self.records.clone();
            // What is told then is what has become of it; that it is done is certain already.
            let _followed = tokio::time::timeout(FOLLOW, following.wait_for(|now| now.revision > revision)).await;
            let version = self.records.borrow().cluster.version;
            tracing::info!(
                by = %asker,
                version,
                "the upgrade is finished: the cluster's version has risen, and there is no way back"
            );
        }
        document(&self.upgrade_status().await.map_err(once::already_settled)?)
    }
}

/// What version 2 brings.
#[cfg(feature = "next-version")]
mod version_2 {
    use quorate_core::command::{Command, CommandKind, Request, note_key};
    use quorate_core::txn::TxnResult;

    use super::{Asker, Failure, Instant, Service};
    use crate::node::records;
    use crate::node::service::{blocking, broken};

    impl Service {
        /// The note on the cluster; none where there is none.
        pub(super) async fn note(&self) -> Result<Option<String>, Failure> {
            let reader = self.store()?.reader;
            let read = move || records::value(&*reader.view(), note_key()).map_err(|error| broken(&error));
            let found = blocking(read).await?;
            Ok(found.map(|(text, _)| String::from_utf8_lossy(&text).into_owned()))
        }

        /// Leaves a note on the cluster, in the format that only version 2 knows.
        pub(in crate::node) async fn write_note(
            &self,
            asker: &Asker,
            request: Request,
            until: Instant,
        ) -> Result<TxnResult, Failure> {
            let command = Command::from(CommandKind::Request(request));
            self.router.execute_for(asker, command, until).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn records(version: u32, managers: &[(&str, u32)]) -> Records {
        let node = |(number, (name, newest)): (usize, &(&str, u32))| NodeRecord {
            id: Bytes::copy_from_slice(&[u8::try_from(number).unwrap() + 1; 16]),
            name: (*name).to_owned(),
            raft_id: number as u64 + 1,
            addresses: vec![format!("10.0.0.{}:4701", number + 1)],
            software: format!("quorate 0.{newest}.0"),
            command_version: *newest,
            command_version_min: 1,
            ..NodeRecord::default()
        };
        let nodes: Vec<NodeRecord> = managers.iter().enumerate().map(node).collect();
        Records {
            cluster: ClusterRecord { version, ..ClusterRecord::default() },
            nodes: nodes.into(),
            ..Records::default()
        }
    }

    #[test]
    fn the_status_names_who_holds_an_upgrade_back_and_what_to_do() {
        let all = |_: RaftId| true;
        let before = status(&records(1, &[("n1", 1), ("n2", 1)]), all);
        assert_eq!((before.state, before.next.len(), before.target_version), (UpgradeState::UpToDate, 0, 1));
        let rolling = status(&records(1, &[("n1", 2), ("n2", 1), ("n3", 1)]), |id| id != RaftId(3));
        assert_eq!((rolling.state, rolling.target_version), (UpgradeState::Rolling, 2));
        assert_eq!(rolling.held_back_by, ["n2", "n3"]);
        assert!(rolling.next[0].starts_with("n2 10.0.0.2:4701 runs quorate 0.1.0 and supports versions up to 1:"));
        assert!(!rolling.next[0].contains("node rm") && rolling.next[1].contains("quorate node rm n3"));
        let ready = status(&records(1, &[("n1", 2), ("n2", 2)]), all);
        assert_eq!((ready.state, ready.held_back_by.len()), (UpgradeState::Ready, 0));
        assert!(ready.next[0].contains("quorate upgrade finish"));
        let done = status(&records(2, &[("n1", 2), ("n2", 2)]), all);
        assert_eq!((done.state, done.cluster_version), (UpgradeState::UpToDate, 2));
    }

    #[test]
    fn a_finish_that_comes_too_early_says_whom_it_waits_for_and_that_nothing_was_changed() {
        let records = records(1, &[("n1", 2), ("n2", 1)]);
        let refused = refusal(&finish(&records.cluster, &records.nodes).unwrap_err(), &records);
        assert_eq!(refused.rule, "upgrade_held_back");
        assert!(refused.message.contains("n2 (quorate 0.1.0, up to version 1)"), "{}", refused.message);
        assert!(refused.message.ends_with("Nothing was changed"), "{}", refused.message);
        assert!(!refused.message.contains("n1"), "{}", refused.message);
    }
}
