//! `status` as people read it: health and what to do first, then every manager.
//!
//! Owns the words and the table. Never judges health: the manager that answered did. Called by `main`.

use std::fmt::Write as _;
use std::time::Duration;

use quorate::status::{
    ClusterStatus, Health, LastWord, ManagerStatus, NodeReport, NodeRole, WorkerStatus, ago, at_most, counted, silence,
};

use quorate::StartError;
use quorate::upgrade::UpgradeState;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, Tone, table};
use crate::target;

pub(crate) async fn run(global: &Global, output: Output) -> Result<(), Failure> {
    let client = match target::client_at_once(global).await {
        Ok(client) => client,
        Err(failure) => return stopped(failure, global, output),
    };
    // On a node's own machine that node is asked, and a worker answers for itself.
    if global.data_dir.is_some() {
        let report = client.node_report().await?;
        if report.role == NodeRole::Worker {
            return worker(&report, output);
        }
    }
    let key = if global.data_dir.is_some() { client.node_report().await?.key } else { None };
    let mut status = client.status().await?;
    if status.health == Health::Locked && !output.json {
        let word = output.tint(Tone::Bad, "LOCKED");
        return output.line(&format!("{word}: {}", status.advice.join("\n  ")));
    }
    // By their numbers, so that a manager stands where it stood the last time.
    status.managers.sort_by_key(|manager| manager.raft_id);
    if output.json {
        return document(&status, output);
    }
    output.line(&render(&status, output))?;
    match key.filter(|key| !key.advice.is_empty()) {
        Some(key) => output.line(&format!("\n{}", crate::keys::words(&key))),
        None => Ok(()),
    }
}

/// Nobody answers. A directory that is fenced, was rolled back or is damaged, or whose node was removed, says so itself: nobody runs on
/// it as it is.
fn stopped(failure: Failure, global: &Global, output: Output) -> Result<(), Failure> {
    let directory = global.data_dir.as_deref().filter(|directory| directory.is_dir());
    if let Some((mark, directory)) = directory.and_then(|directory| Some((quorate::departed(directory)?, directory))) {
        return removed(&mark, &mark.message(directory), output);
    }
    match directory.map(quorate::spent) {
        Some(Ok(Some(spent))) => return never_again(spent, output),
        Some(Err(StartError::Locked(_))) => {
            return Err(failure.after("Whether it may be started (it may have been fenced, rolled back, or found damaged) stands in its store, which is sealed: `quorate inspect` reads it with --passphrase-file FILE or --unlock-key-file FILE, and the start says it once it has the key"));
        }
        _ => {}
    }
    let Some(fenced) = directory.and_then(|directory| quorate::fenced(directory).ok().flatten()) else {
        return Err(failure);
    };
    if output.json {
        return document(
            &ClusterStatus {
                cluster_id: fenced.cluster_id,
                generation: fenced.generation,
                health: Health::Fenced,
                advice: vec![fenced.message],
                answered_by: fenced.name,
                ..ClusterStatus::default()
            },
            output,
        );
    }
    let word = output.tint(Tone::Bad, "FENCED");
    output.line(&format!(
        "{word}: {} is of generation {}, the cluster is at generation {}. It is stopped and will not run again.\n  {}",
        fenced.name, fenced.generation, fenced.by_generation, fenced.message
    ))
}

fn removed(mark: &quorate::Departed, message: &str, output: Output) -> Result<(), Failure> {
    if output.json {
        return document(
            &ClusterStatus {
                cluster_id: mark.cluster_id.clone(),
                health: Health::Removed,
                advice: vec![message.to_owned()],
                answered_by: mark.name.clone(),
                ..ClusterStatus::default()
            },
            output,
        );
    }
    output.line(&format!(
        "{}: {} is of its cluster no more, and is stopped.\n  {message}",
        output.tint(Tone::Bad, "REMOVED"),
        mark.name
    ))
}

fn never_again(spent: quorate::Spent, output: Output) -> Result<(), Failure> {
    if output.json {
        return document(
            &ClusterStatus {
                cluster_id: spent.cluster_id,
                generation: spent.generation,
                health: spent.health,
                advice: vec![spent.message],
                answered_by: spent.name,
                ..ClusterStatus::default()
            },
            output,
        );
    }
    let word = output.tint(Tone::Bad, if spent.health == Health::Damaged { "DAMAGED" } else { "ROLLED BACK" });
    output.line(&format!(
        "{word}: {} is stopped, and will not run again from this directory.\n  {}",
        spent.name, spent.message
    ))
}

fn document(status: &impl serde::Serialize, output: Output) -> Result<(), Failure> {
    let document = serde_json::to_value(status)
        .map_err(|error| Failure::local(format!("the status cannot be written as JSON: {error}")))?;
    output.document(&document)
}

/// What a worker says of itself.
fn worker(report: &NodeReport, output: Output) -> Result<(), Failure> {
    if output.json {
        return document(report, output);
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
            ago(Duration::from_millis(session.for_ms))
        ),
        None => format!("{}: no session with a manager; its items go on", output.tint(Tone::Warning, "WORKER")),
    };
    let assignments = match (report.assignments_revision, report.assignments_stale) {
        (Some(revision), false) => format!("{} at revision {revision}", counted(report.items.len(), "item")),
        (Some(revision), true) => format!(
            "{} as of revision {revision}, not confirmed since the last start",
            counted(report.items.len(), "item")
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
    if let Some(recovered) = &status.recovered {
        let _infallible = writeln!(
            page,
            "recovered: of generation {} everything up to revision {} was kept; revisions go on at {}",
            status.generation.saturating_sub(1),
            recovered.kept_revision,
            recovered.first_revision
        );
    }
    let _infallible = writeln!(
        page,
        "cluster {}  generation {}  version {}  term {}  leader {leader}  revision {}",
        status.cluster_id, status.generation, status.cluster_version, status.term, status.revision
    );
    say_of_upgrade(&mut page, status);
    let age = at_most(status.age_ms.map(Duration::from_millis));
    let _infallible = writeln!(page, "answered by {}, from what it knows ({age})", status.answered_by);
    page.push('\n');
    page.push_str(&managers(status));
    if !status.workers.is_empty() {
        let row =
            |worker: &WorkerStatus| vec![worker.name.clone(), worker.address.clone(), worker.state.word().to_owned()];
        let rows = status.workers.iter().map(row).collect();
        let _infallible = write!(page, "\n\n{}", table(&["WORKER", "ADDRESS ONCE A MANAGER", "STATE"], &[], rows));
    }
    page
}

/// Health in one line, then what to do.
fn runbook(status: &ClusterStatus, output: Output) -> String {
    let voters: Vec<&ManagerStatus> = status.managers.iter().filter(|manager| manager.seat == "voter").collect();
    let reachable = voters.iter().filter(|manager| manager.reachable).count();
    let needed = status.voters / 2 + 1;
    let seated = |seat: &str| status.managers.iter().filter(|manager| manager.seat == seat).count();
    let (standbys, joining) = (seated("standby"), seated("joining"));
    let seats = format!("{reachable} of {}", counted(status.voters, "voter"));
    let mut also = if standbys == 0 { String::new() } else { format!(", {}", counted(standbys, "standby manager")) };
    if joining > 0 {
        // It has no copy of anything yet, and may never get one.
        also += &format!(", {joining} on the way");
    }
    let mut page = match status.health {
        Health::Ok => format!("{}: {seats} reachable{also}.", output.tint(Tone::Good, "OK")),
        Health::Degraded if !status.leaving.is_empty() => {
            let word = output.tint(Tone::Warning, "LEAVING");
            format!("{word}: {}. Ask another manager how the cluster is.", status.leaving)
        }
        Health::Degraded if status.voters == 0 => {
            let word = output.tint(Tone::Warning, "DEGRADED");
            format!("{word}: {} has not heard from its cluster yet.", status.answered_by)
        }
        Health::Degraded => {
            format!("{}: {seats} reachable{also}.", output.tint(Tone::Warning, "DEGRADED"))
        }
        Health::SingleCopy => format!("{}: 1 voter{also}.", output.tint(Tone::Warning, "SINGLE COPY")),
        Health::Locked => output.tint(Tone::Bad, "LOCKED"),
        Health::Fenced => output.tint(Tone::Bad, "FENCED"),
        Health::Removed => output.tint(Tone::Bad, "REMOVED"),
        Health::RolledBack => output.tint(Tone::Bad, "ROLLED BACK"),
        Health::Damaged => output.tint(Tone::Bad, "DAMAGED"),
        Health::ReadOnly => {
            let full = status.store.is_some_and(|store| store.full);
            let why = if full { "because the store is full" } else { "for lack of disk space" };
            format!("{}: writes are refused {why}; {seats} reachable{also}.", output.tint(Tone::Bad, "READ ONLY"))
        }
        Health::QuorumLost => {
            return if reachable < needed {
                lost(status, &voters, output, &format!("{seats} reachable, {needed} needed"))
            } else {
                leaderless(status, output, &seats)
            };
        }
    };
    page.push('\n');
    for line in &status.advice {
        let _infallible = writeln!(page, "  {line}");
    }
    if !status.tolerance.is_empty() && !status.advice.contains(&status.tolerance) {
        let _infallible = writeln!(page, "  {}", status.tolerance);
    }
    page
}

/// Enough voters answer, and none of them leads.
fn leaderless(status: &ClusterStatus, output: Output, seats: &str) -> String {
    let mut page = format!(
        "{} for {}: {seats} reachable. Writes are refused until one of them leads. Nothing acknowledged is lost.\n",
        output.tint(Tone::Bad, "NO LEADER"),
        ago(Duration::from_millis(status.leaderless_ms))
    );
    say_of_disks(&mut page, status);
    page.push_str(
        "  next     wait a moment, they are electing. If it stays so, check UDP between the managers, and their logs.\n",
    );
    page
}

/// What a disk keeps a voter from is nowhere else on the page of a runbook.
fn say_of_disks(page: &mut String, status: &ClusterStatus) {
    for line in status.advice.iter().filter(|line| line.starts_with("disk ")) {
        let _infallible = writeln!(page, "  {line}");
    }
}

/// The runbook of a lost quorum.
fn lost(status: &ClusterStatus, voters: &[&ManagerStatus], output: Output, seats: &str) -> String {
    let word = output.tint(Tone::Bad, "QUORUM LOST");
    let workers = if status.workers.is_empty() { "" } else { "; workers keep running" };
    let mut page = format!(
        "{word} for {}: {seats}. Writes are refused. Nothing acknowledged is lost{workers}.\n",
        ago(Duration::from_millis(status.leaderless_ms))
    );
    say_of_disks(&mut page, status);
    let missing: Vec<&&ManagerStatus> = voters.iter().filter(|manager| !manager.reachable).collect();
    let place = |manager: &&&ManagerStatus| {
        format!("{} {} {}{}", manager.name, manager.address, plight(manager), silence(manager.silent_ms))
    };
    let places: Vec<String> = missing.iter().map(place).collect();
    let _infallible = writeln!(page, "  missing  {}", places.join("    "));
    let reachable = voters.len() - missing.len();
    let wanted = (voters.len() / 2 + 1).saturating_sub(reachable);
    // Who is given a fresh store gets it from a quorum.
    let back: Vec<&&ManagerStatus> = missing.iter().copied().filter(|manager| manager.last_word.is_none()).collect();
    let names: Vec<&str> = back.iter().map(|manager| manager.name.as_str()).collect();
    let next = if wanted > back.len() {
        "starting them again does not help: keep every directory, and compare  quorate recover --dry-run --data-dir DIR  on all machines".to_owned()
    } else if back.iter().any(|manager| manager.locked) {
        // On the machine of each: quorate unlock.
        let each: Vec<String> = back.iter().map(|manager| again(manager)).collect();
        if wanted >= back.len() {
            each.join(" AND ")
        } else if wanted == 1 {
            format!("{}; one of them is enough", each.join(" OR "))
        } else {
            format!("{wanted} of these: {}", each.join(", "))
        }
    } else if wanted >= back.len() {
        format!("start {} again", names.join(" AND "))
    } else if wanted == 1 && back.len() == 2 {
        format!("start {} again; either one is enough", names.join(" OR "))
    } else if wanted == 1 {
        format!("start {} again; any one of them is enough", names.join(" OR "))
    } else {
        format!("start {wanted} of {} again", names.join(", "))
    };
    let _infallible = writeln!(page, "  next     {next}.");
    let disks = match missing.len() {
        1 => "its disk is",
        2 => "both disks are",
        _ => "all these disks are",
    };
    let _infallible = writeln!(
        page,
        "  only if {disks} gone for good: stop this node, then  quorate recover --dry-run --data-dir DIR"
    );
    page
}

/// That it is there, and only waits for its key; or that it does not come back by being started.
const fn plight(manager: &ManagerStatus) -> &'static str {
    match manager.last_word {
        Some(LastWord::RolledBack) => "ROLLED BACK, ",
        Some(LastWord::Overruled) => "OVERRULED, ",
        Some(LastWord::Damaged) => "DAMAGED, ",
        None | Some(_) if manager.locked => "LOCKED, ",
        None | Some(_) => "",
    }
}

/// What to do so that it serves again.
fn again(manager: &ManagerStatus) -> String {
    if manager.locked {
        format!("unlock {} (quorate unlock --data-dir DIR on its machine)", manager.name)
    } else {
        format!("start {} again", manager.name)
    }
}

/// Nothing of it while there is no upgrade.
fn say_of_upgrade(page: &mut String, status: &ClusterStatus) {
    let (state, target) = (status.upgrade.state, status.upgrade.target_version);
    let said = match state {
        UpgradeState::UpToDate => return,
        UpgradeState::Rolling => {
            format!("version {target} is held back by {}", status.upgrade.held_back_by.join(", "))
        }
        UpgradeState::Ready => format!("every manager supports version {target}; `quorate upgrade finish` enables it"),
    };
    let _infallible = writeln!(page, "upgrade {}: {said}; see `quorate upgrade status`", state.word());
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
                if manager.reachable {
                    "yes".into()
                } else {
                    format!("NO, {}{}", plight(manager), silence(manager.silent_ms))
                },
                when_known(manager.applied.to_string()),
                when_known(manager.lag.to_string()),
                if manager.version.is_empty() { "-".into() } else { manager.version.clone() },
                crate::upgrade::range(manager.supports.0, manager.supports.1),
                hash,
            ]
        })
        .collect();
    let header = [
        "MANAGER",
        "ADDRESS",
        "RAFT ID",
        "SEAT",
        "LEADS",
        "REACHABLE",
        "APPLIED",
        "LAG",
        "SOFTWARE",
        "SUPPORTS",
        "STATE HASH",
    ];
    table(&header, &[2, 6, 7], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Loss;
    use crate::args::When;

    fn output() -> Output {
        Output::new(false, When::Never, Loss::Nothing)
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
    fn a_manager_that_waits_for_its_key_is_told_from_one_that_is_gone() {
        let mut status = cluster(&[("n1", false), ("n2", false), ("n3", true)], Health::QuorumLost);
        status.managers[1].locked = true;
        let page = render(&status, output());
        let unlock = "unlock n2 (quorate unlock --data-dir DIR on its machine)";
        assert!(page.contains(&format!("next     start n1 again OR {unlock}; one of them is enough.")), "{page}");
        assert!(page.contains("n2 10.0.0.2:4701 LOCKED, not heard of yet") && page.contains("NO, LOCKED"), "{page}");
    }

    #[test]
    fn a_lost_quorum_begins_with_the_runbook() {
        let mut status = cluster(&[("n1", false), ("n2", false), ("n3", true)], Health::QuorumLost);
        status.managers[0].silent_ms = Some(252_000);
        status.managers[1].silent_ms = Some(249_000);
        let page = render(&status, output());
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "QUORUM LOST for 4m 12s: 1 of 3 voters reachable, 2 needed. Writes are refused. Nothing acknowledged is lost.",
                "  missing  n1 10.0.0.1:4701 silent 4m 12s    n2 10.0.0.2:4701 silent 4m 09s",
                "  next     start n1 OR n2 again; either one is enough.",
            ]
        );
        assert_eq!(
            lines[3],
            "  only if both disks are gone for good: stop this node, then  quorate recover --dry-run --data-dir DIR"
        );
        // Who has workers is told of them; who has just been started cannot say since when.
        status.workers.push(WorkerStatus::default());
        status.managers[1].silent_ms = None;
        let page = render(&status, output());
        assert!(
            page.lines().next().unwrap().ends_with("Nothing acknowledged is lost; workers keep running."),
            "{page}"
        );
        assert!(page.contains("    n2 10.0.0.2:4701 not heard of yet\n"), "{page}");
    }

    #[test]
    fn who_is_on_the_way_is_no_standby() {
        let mut status = cluster(&[("n1", true), ("n2", true), ("n3", true), ("n4", true), ("w1", false)], Health::Ok);
        status.voters = 3;
        status.managers[3].seat = "standby".into();
        // A worker that was promoted, and whom nobody reaches at the address that it gives.
        status.managers[4].seat = "joining".into();
        let page = render(&status, output());
        assert!(page.starts_with("OK: 3 of 3 voters reachable, 1 standby manager, 1 on the way."), "{page}");
    }

    #[test]
    fn the_runbook_asks_for_as_many_as_are_needed() {
        let four_of_five = [("a", false), ("b", false), ("c", false), ("d", false), ("e", true)];
        let page = render(&cluster(&four_of_five, Health::QuorumLost), output());
        assert!(page.contains("start 2 of a, b, c, d again.\n") && page.contains("all these disks are gone"), "{page}");
        let page = render(&cluster(&[("a", false)], Health::QuorumLost), output());
        assert!(page.contains("start a again.\n") && page.contains("its disk is gone"), "{page}");
        let page = render(&cluster(&[("a", true), ("b", true), ("c", true)], Health::QuorumLost), output());
        assert!(
            page.starts_with("NO LEADER for 4m 12s: 3 of 3 voters reachable.") && page.contains("electing"),
            "{page}"
        );
        let two_of_three = [("a", true), ("b", true), ("c", false)];
        let page = render(&cluster(&two_of_three, Health::QuorumLost), output());
        assert!(page.starts_with("NO LEADER for 4m 12s: 2 of 3 voters reachable."), "{page}");
        let mut newcomer = cluster(&[], Health::Degraded);
        newcomer.answered_by = "n2".into();
        let page = render(&newcomer, output());
        assert!(page.starts_with("DEGRADED: n2 has not heard from its cluster yet.\n"), "{page}");
    }

    #[test]
    fn a_manager_that_is_to_go_calls_nothing_lost() {
        let mut status = cluster(&[("n1", false), ("n2", false), ("n3", false)], Health::Degraded);
        status.leaving = "n4 is being demoted, and hears of the others no more".into();
        let page = render(&status, output());
        assert!(
            page.starts_with("LEAVING: n4 is being demoted, and hears of the others no more. Ask another"),
            "{page}"
        );
        assert!(!page.contains("recover"), "{page}");
    }

    #[test]
    fn a_cluster_without_disk_space_says_so_first_and_then_where() {
        let mut status = cluster(&[("n1", true)], Health::ReadOnly);
        status.advice = vec!["disk n1 is low on space".into()];
        let page = render(&status, output());
        assert!(
            page.starts_with("READ ONLY: writes are refused for lack of disk space; 1 of 1 voter reachable.\n"),
            "{page}"
        );
        assert_eq!(page.lines().nth(1), Some("  disk n1 is low on space"));
        status.health = Health::QuorumLost;
        status.advice = vec!["disk n1 has not answered for 7 s".into(), "next: something else".into()];
        let page = render(&status, output());
        assert_eq!(page.lines().nth(1), Some("  disk n1 has not answered for 7 s"), "{page}");
    }

    #[test]
    fn workers_are_shown_with_their_state() {
        let mut status = cluster(&[("n1", true)], Health::SingleCopy);
        status.workers.push(WorkerStatus {
            name: "w1".into(),
            address: "10.0.0.9:4701".into(),
            ..WorkerStatus::default()
        });
        let page = render(&status, output());
        let line = page.lines().last().unwrap();
        assert!(line.starts_with("w1") && line.ends_with("unknown"), "{page}");
    }

    #[test]
    fn health_is_the_first_word_and_advice_follows() {
        let mut status = cluster(&[("n1", true), ("n2", true), ("n3", true)], Health::Ok);
        status.tolerance = "tolerates one loss: join two more managers to tolerate two".into();
        let page = render(&status, output());
        let begins = "OK: 3 of 3 voters reachable.\n  tolerates one loss: join two more managers to tolerate two\n";
        assert!(page.starts_with(begins), "{page}");
        // What is among the things to do is not said twice.
        status.advice = vec![status.tolerance.clone()];
        assert_eq!(render(&status, output()).matches("tolerates").count(), 1);
        status.health = Health::Degraded;
        status.advice = vec!["start n3".into()];
        let page = render(&status, output());
        assert!(page.starts_with("DEGRADED: ") && page.lines().nth(1) == Some("  start n3"), "{page}");
    }
}
