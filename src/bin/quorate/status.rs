//! `status` as people read it: health and what to do first, then every manager.
//!
//! Owns the words and the table. Never judges health: the manager that answered did. Called by `main`.

use std::fmt::Write as _;

use quorate::status::{ClusterStatus, Health, ManagerStatus, NodeReport, NodeRole};

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Tone, table};
use crate::target;

pub(crate) async fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    // On a node's own machine that node is asked, and a worker answers for itself.
    if global.data_dir.is_some() {
        let report = client.node_report().await?;
        if report.role == NodeRole::Worker {
            return worker(&report, output);
        }
    }
    let mut status = client.status().await?;
    // By their numbers, so that a manager stands where it stood the last time.
    status.managers.sort_by_key(|manager| manager.raft_id);
    if output.json {
        let document = serde_json::to_value(&status)
            .map_err(|error| Failure::local(format!("the status cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&render(&status, output))
}

/// What a worker says of itself.
fn worker(report: &NodeReport, output: Output) -> Result<(), Failure> {
    if output.json {
        let document = serde_json::to_value(report)
            .map_err(|error| Failure::local(format!("the report cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&render_worker(report, output))
}

fn render_worker(report: &NodeReport, output: Output) -> String {
    let session = match &report.session {
        Some(session) => format!(
            "{}: session with {} {} for {}",
            output.tint(Tone::Good, "WORKER"),
            session.manager,
            session.address,
            ago(session.for_ms)
        ),
        None => format!(
            "{}: no session with a manager; its items go on",
            output.tint(Tone::Warning, "WORKER")
        ),
    };
    let assignments = match (report.assignments_revision, report.assignments_stale) {
        (Some(revision), false) => format!("{} at revision {revision}", count(report.items.len(), "item")),
        (Some(revision), true) => format!(
            "{} as of revision {revision}, not confirmed since the last start",
            count(report.items.len(), "item")
        ),
        (None, _) => "never told what to run".to_owned(),
    };
    let mut page = format!("{session}, {assignments}.\n");
    if !report.trouble.is_empty() {
        let _infallible = writeln!(page, "  trouble  {}", report.trouble);
    }
    for item in &report.items {
        let _infallible = writeln!(page, "  item     {item}");
    }
    let _infallible = write!(page, "\nnode {} {}  cluster {}", report.name, report.id, report.cluster_id);
    page
}

/// The whole page.
pub(crate) fn render(status: &ClusterStatus, output: Output) -> String {
    let mut page = runbook(status, output);
    page.push('\n');
    let leader = status.leader.as_deref().unwrap_or("none");
    let _infallible = writeln!(
        page,
        "cluster {}  generation {}  term {}  leader {leader}  revision {}",
        status.cluster_id, status.generation, status.term, status.revision
    );
    let _infallible = writeln!(page, "answered by {}, from what it knows", status.answered_by);
    page.push('\n');
    page.push_str(&managers(status));
    if !status.workers.is_empty() {
        let rows = status.workers.iter().map(|worker| vec![worker.name.clone(), worker.state.clone()]).collect();
        let _infallible = write!(page, "\n\n{}", table(&["WORKER", "STATE"], &[], rows));
    }
    page
}

/// Health in one line, then what to do.
fn runbook(status: &ClusterStatus, output: Output) -> String {
    let voters: Vec<&ManagerStatus> = status.managers.iter().filter(|manager| manager.seat == "voter").collect();
    let reachable = voters.iter().filter(|manager| manager.reachable).count();
    let needed = status.voters / 2 + 1;
    let standbys = status.managers.iter().filter(|manager| manager.seat != "voter").count();
    let seats = format!("{reachable} of {}", count(status.voters, "voter"));
    let also = if standbys == 0 { String::new() } else { format!(", {}", count(standbys, "standby manager")) };
    let can_lose = match status.fault_tolerance {
        i64::MIN..=0 => "no voter may be lost".to_owned(),
        1 => "1 voter may be lost".to_owned(),
        n => format!("{n} voters may be lost"),
    };
    let mut page = match status.health {
        Health::Ok => format!("{}: {seats} reachable{also}; {can_lose}.", output.tint(Tone::Good, "OK")),
        Health::Degraded => {
            format!("{}: {seats} reachable{also}; {can_lose}.", output.tint(Tone::Warning, "DEGRADED"))
        }
        Health::SingleCopy => format!("{}: 1 voter{also}; {can_lose}.", output.tint(Tone::Warning, "SINGLE COPY")),
        Health::QuorumLost => {
            return lost(status, &voters, output, &format!("{seats} reachable, {needed} needed"));
        }
    };
    page.push('\n');
    for line in &status.advice {
        let _infallible = writeln!(page, "  {line}");
    }
    page
}

/// The runbook of a lost quorum.
fn lost(status: &ClusterStatus, voters: &[&ManagerStatus], output: Output, seats: &str) -> String {
    let word = output.tint(Tone::Bad, "QUORUM LOST");
    let mut page = format!(
        "{word} for {}: {seats}. Writes are refused. Nothing acknowledged is lost.\n",
        ago(status.leaderless_ms)
    );
    let missing: Vec<&&ManagerStatus> = voters.iter().filter(|manager| !manager.reachable).collect();
    if missing.is_empty() {
        let _infallible = writeln!(
            page,
            "  next     enough voters answer again: the cluster is electing, or its voters do not reach each other. Ask again in a few\n           seconds; if it stays so, check UDP between the managers"
        );
        return page;
    }
    let places: Vec<String> = missing.iter().map(|manager| format!("{} {}", manager.name, manager.address)).collect();
    let _infallible = writeln!(page, "  missing  {}", places.join("    "));
    let reachable = voters.len() - missing.len();
    let wanted = (voters.len() / 2 + 1).saturating_sub(reachable);
    let names: Vec<&str> = missing.iter().map(|manager| manager.name.as_str()).collect();
    let next = if wanted >= missing.len() {
        format!("start {} again", names.join(" AND "))
    } else if wanted == 1 && missing.len() == 2 {
        format!("start {} again; either one is enough", names.join(" OR "))
    } else if wanted == 1 {
        format!("start {} again; any one of them is enough", names.join(" OR "))
    } else {
        format!("start {wanted} of {} again", names.join(", "))
    };
    let _infallible = writeln!(page, "  next     {next}");
    let _infallible = writeln!(
        page,
        "  only if their disks are gone for good: this version cannot recover from that. Keep every directory as it is; wipe nothing."
    );
    page
}

fn managers(status: &ClusterStatus) -> String {
    let rows = status
        .managers
        .iter()
        .map(|manager| {
            let hash = match (&manager.state_hash, manager.hash_revision) {
                (Some(hash), Some(revision)) => {
                    format!("{} @{revision}", hash.chars().take(12).collect::<String>())
                }
                _ => "-".into(),
            };
            let when_known = |value: String| if manager.reachable { value } else { "-".into() };
            vec![
                manager.name.clone(),
                manager.address.clone(),
                manager.raft_id.to_string(),
                manager.seat.clone(),
                if manager.leader { "leader" } else { "" }.into(),
                if manager.reachable { "yes" } else { "NO" }.into(),
                when_known(manager.applied.to_string()),
                when_known(manager.lag.to_string()),
                if manager.version.is_empty() { "-".into() } else { manager.version.clone() },
                hash,
            ]
        })
        .collect();
    let header =
        ["MANAGER", "ADDRESS", "RAFT ID", "SEAT", "LEADS", "REACHABLE", "APPLIED", "LAG", "VERSION", "STATE HASH"];
    table(&header, &[2, 6, 7], rows)
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A duration as people say it: `4m 12s`.
fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h {minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::When;

    fn output() -> Output {
        Output::new(false, When::Never)
    }

    fn cluster(voters: &[(&str, bool)], health: Health) -> ClusterStatus {
        let managers = voters
            .iter()
            .enumerate()
            .map(|(index, (name, reachable))| ManagerStatus {
                name: (*name).into(),
                address: format!("10.0.0.{}:4701", index + 1),
                raft_id: index as u64 + 1,
                seat: "voter".into(),
                reachable: *reachable,
                ..ManagerStatus::default()
            })
            .collect();
        ClusterStatus { voters: voters.len(), managers, health, leaderless_ms: 252_000, ..ClusterStatus::default() }
    }

    #[test]
    fn a_lost_quorum_begins_with_the_runbook() {
        let page = render(&cluster(&[("n1", false), ("n2", false), ("n3", true)], Health::QuorumLost), output());
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(
            lines[0],
            "QUORUM LOST for 4m 12s: 1 of 3 voters reachable, 2 needed. Writes are refused. Nothing acknowledged is lost."
        );
        assert_eq!(lines[1], "  missing  n1 10.0.0.1:4701    n2 10.0.0.2:4701");
        assert_eq!(lines[2], "  next     start n1 OR n2 again; either one is enough");
        assert!(lines[3].starts_with("  only if their disks are gone for good"), "{page}");
    }

    #[test]
    fn the_runbook_asks_for_as_many_as_are_needed() {
        let four_of_five = [("a", false), ("b", false), ("c", false), ("d", false), ("e", true)];
        let page = render(&cluster(&four_of_five, Health::QuorumLost), output());
        assert!(page.contains("start 2 of a, b, c, d again"), "{page}");
        let page = render(&cluster(&[("a", false)], Health::QuorumLost), output());
        assert!(page.contains("start a again\n"), "{page}");
        let page = render(&cluster(&[("a", true), ("b", true), ("c", true)], Health::QuorumLost), output());
        assert!(page.contains("electing"), "{page}");
    }

    #[test]
    fn health_is_the_first_word_and_advice_follows() {
        let mut status = cluster(&[("n1", true), ("n2", true), ("n3", true)], Health::Ok);
        status.fault_tolerance = 1;
        assert!(render(&status, output()).starts_with("OK: 3 of 3 voters reachable; 1 voter may be lost.\n"));
        status.health = Health::Degraded;
        status.advice = vec!["start n3".into()];
        let page = render(&status, output());
        assert!(page.starts_with("DEGRADED: ") && page.lines().nth(1) == Some("  start n3"), "{page}");
    }
}
