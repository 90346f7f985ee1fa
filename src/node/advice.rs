//! The words of a status: how the cluster is, what would raise its tolerance, what to do.
//!
//! Owns the judgement of what one manager sees, and its wording. Pure. Called by the status, and by what tells the log.

use quorate_core::consensus::io::{RaftRole, Records, Status};
use quorate_core::id::RaftId;
use quorate_core::membership::record::Role;

use crate::status::{ClusterStatus, Health, LastWord, ManagerStatus, StoreStatus, silence, size};

/// What becomes of a manager that is to be none, or is none since a moment ago, once the others do not talk to it any more.
pub(super) fn leaving(records: &Records, own: RaftId, name: &str) -> Option<String> {
    let Some(node) = records.by_raft_id(own) else {
        let gone = records.removed.contains(&own) && records.recovery.begun.is_none();
        return gone.then(|| format!("{name} is a manager no more, and hears of the others no more: it stops, or goes on as a worker, in a moment"));
    };
    if node.removing {
        Some(format!("{name} is being removed, and hears of the others no more: it stops in a moment"))
    } else if node.role == i32::from(Role::Worker) {
        Some(format!("{name} is being demoted, and hears of the others no more: it goes on as a worker in a moment"))
    } else {
        None
    }
}

/// The reachable managers' digests at one revision differ: never by quorate's own doing, unless it has a defect.
fn diverged(answer: &ClusterStatus) -> bool {
    let mut hashes = answer.managers.iter().filter_map(|manager| manager.state_hash.as_ref());
    hashes.next().is_some_and(|first| hashes.any(|other| other != first))
}

/// `disks_answer`: those of a majority of the voters. `copied`: what is acknowledged is on more disks than one.
pub(super) fn health(answer: &ClusterStatus, status: &Status, disks_answer: bool, copied: bool) -> Health {
    let follows = status.leader.is_some() || status.role == Some(RaftRole::Leader);
    let whole =
        |manager: &ManagerStatus| manager.reachable && manager.disk_silent_ms == 0 && manager.low_space.is_none();
    let voters_whole =
        empty_seats(answer) == 0 && answer.managers.iter().all(|manager| manager.seat != "voter" || whole(manager));
    if answer.voters == 0 {
        // A newcomer that nobody has told of the cluster yet cannot know how that is.
        Health::Degraded
    } else if answer.fault_tolerance < 0 && disks_answer {
        // With space there would be a majority.
        Health::ReadOnly
    } else if answer.fault_tolerance < 0 || !follows {
        Health::QuorumLost
    } else if answer.store.is_some_and(|store| store.full) {
        Health::ReadOnly
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

/// Voters of the configuration that no node stands for any more: its store was replaced, and then the node was taken away.
fn empty_seats(answer: &ClusterStatus) -> usize {
    answer.voters.saturating_sub(answer.managers.iter().filter(|manager| manager.seat == "voter").count())
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

/// What people do so that these managers serve again: `start n1 and n2 again`, `unlock n3`, `start n1 again and unlock n3`, `bring n2
/// back with a fresh store`.
fn again(managers: &[&ManagerStatus], and: &str) -> String {
    if !managers.iter().any(|manager| manager.locked || manager.last_word.is_some()) {
        return format!("start {} again", names(managers, and));
    }
    let each = |manager: &&ManagerStatus| match manager.last_word {
        Some(LastWord::RolledBack | LastWord::Damaged) => format!("bring {} back with a fresh store", manager.name),
        Some(LastWord::Overruled) => format!("see what {} says in its log", manager.name),
        None if manager.locked => format!("unlock {}", manager.name),
        None => format!("start {} again", manager.name),
    };
    managers.iter().map(each).collect::<Vec<_>>().join(&format!(" {and} "))
}

/// How many voters may be lost, and what would make it more.
pub(super) fn tolerance(answer: &ClusterStatus, max_voters: usize) -> String {
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
        format!("{} to tolerate {}", again(&silent, "and"), spelled(full))
    } else if empty_seats(answer) > 0 && now < full {
        let full = spelled(full);
        match (waiting.is_empty(), away.is_empty()) {
            (false, _) => format!("it tolerates {full} once {} has the seat that nobody holds", names(&waiting, "or")),
            (true, false) => {
                format!("{}, for the seat that nobody holds, to tolerate {full}", again(&away, "or"))
            }
            (true, true) => format!("join one more manager, for the seat that nobody holds, to tolerate {full}"),
        }
    } else if answer.voters + 2 > max_voters {
        format!("{} voters are the most that this cluster takes; further managers stand by", spelled(answer.voters))
    } else if waiting.len() >= 2 {
        format!("it tolerates {more} once {} are caught up and have their seats", names(&waiting, "and"))
    } else if let Some(missing) = 2_usize.checked_sub(waiting.len()).filter(|missing| away.len() < *missing) {
        let (missing, s) = (missing - away.len(), if missing - away.len() == 1 { "" } else { "s" });
        let start = if away.is_empty() { String::new() } else { format!("{} and ", again(&away, "and")) };
        format!("{start}join {} more manager{s} to tolerate {more}", spelled(missing))
    } else {
        format!("{} to tolerate {more}", again(&away, "and"))
    };
    // One voter alone is well only while a standby has everything, too.
    let copied = if answer.health == Health::Ok && answer.voters == 1 {
        " of a manager, but a standby has every acknowledged write, too"
    } else {
        ""
    };
    format!("tolerates {} loss{}{copied}: {how}", spelled(now), if now > 1 { "es" } else { "" })
}

pub(super) fn advice(answer: &ClusterStatus) -> Vec<String> {
    let (lost, members): (Vec<&ManagerStatus>, Vec<&ManagerStatus>) =
        answer.managers.iter().partition(|manager| manager.seat == "lost");
    let mut missing: Vec<&ManagerStatus> = members.iter().copied().filter(|manager| !manager.reachable).collect();
    missing.sort_by_key(|manager| manager.raft_id);
    let mut lines: Vec<String> = missing
        .iter()
        .map(|manager| {
            let ManagerStatus { name, address, seat, .. } = manager;
            let silent = silence(manager.silent_ms);
            if let Some(word) = manager.last_word {
                return last_word(manager, word, answer);
            }
            if manager.locked {
                return format!(
                    "locked   {name} {address} {silent} ({seat}): it runs, and waits for its key; on its machine: quorate unlock --data-dir DIR"
                );
            }
            format!("missing  {name} {address} {silent} ({seat})")
        })
        .collect();
    match empty_seats(answer) {
        0 => {}
        1 => lines.push("missing  a voter whose store is gone, and that no node stands for".into()),
        empty => {
            lines.push(format!("missing  {} voters whose stores are gone, and that no node stands for", spelled(empty)))
        }
    }
    // Only a voter helps a quorum.
    missing.retain(|manager| manager.seat == "voter");
    if diverged(answer) {
        let revision = answer.managers.iter().find_map(|manager| manager.hash_revision).unwrap_or(answer.revision);
        lines.insert(0, format!("DIVERGED: managers hold different state at revision {revision}; the table shows which. A directory was rolled back by a copy or a restored disk, or quorate has a defect. Stop writing, keep every directory, wipe nothing. Where it is known whose directory was put back: stop that manager, quorate node rm NAME --force on another one, then on its machine quorate join --replace --token TOKEN --data-dir DIR --manager HOST:PORT"));
    }
    lines.extend(answer.managers.iter().filter_map(disk_advice));
    lines.extend(answer.store.as_ref().and_then(store_advice));
    match answer.health {
        Health::Ok | Health::Locked | Health::Fenced | Health::Removed | Health::RolledBack | Health::Damaged => {}
        Health::ReadOnly => {
            let full = answer.store.is_some_and(|store| store.full);
            let go_on = if full { "reads and deletes go on" } else { "reads go on" };
            lines.push(format!("writes are refused until then, and go on by themselves; {go_on}"));
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
            // A fresh store is given by a quorum.
            let back: Vec<&ManagerStatus> = missing.iter().copied().filter(|m| m.last_word.is_none()).collect();
            if !back.is_empty() {
                lines.push(format!("next: {}", again(&back, "or")));
            }
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
            "lost in the recovery: {names}. {who} may come back with a fresh store: quorate join --replace --token TOKEN --data-dir DIR --manager {}",
            answer.managers.iter().find(|manager| manager.leader).map_or("HOST:PORT", |leader| &leader.address)
        ));
    }
    lines
}

/// What a manager said when it stopped, and the way back: it is not to be started as it is.
fn last_word(manager: &ManagerStatus, word: LastWord, answer: &ClusterStatus) -> String {
    let ManagerStatus { name, address, seat, silent_ms, .. } = manager;
    let (silent, words) = (silence(*silent_ms), word.words());
    let with = answer.managers.iter().find(|with| with.reachable).map_or("HOST:PORT", |with| &with.address);
    let fresh = format!("quorate join --replace --data-dir DIR --manager {with}, then  quorate run --data-dir DIR");
    let what = match word {
        LastWord::RolledBack => format!(
            "its directory was put back to an older state, or is a copy, and it does not run from it again; nothing acknowledged is lost. On its machine: {fresh} (was it a copy: remove it, and start {name} from its own directory)"
        ),
        LastWord::Damaged => format!(
            "its store is damaged, and it does not run from it again; nothing acknowledged is lost. On its machine: {fresh}"
        ),
        LastWord::Overruled => "the leader contradicts what it had acknowledged, so the directory of another manager was put back to an older state; it keeps what it has. Stop writing, wipe nothing; its log says what to do".to_owned(),
    };
    format!("{words}  {name} {address} {silent} ({seat}): {what}")
}

/// How full the store is, once that matters, and what to do about it.
fn store_advice(store: &StoreStatus) -> Option<String> {
    const NEARLY_FULL_PERCENT: u64 = 80;
    let used = store.live_bytes.saturating_add(store.history_bytes);
    let held = format!(
        "store    {} of its quota of {} ({} of it history)",
        size(used),
        size(store.quota_bytes),
        size(store.history_bytes)
    );
    if store.full {
        return Some(format!(
            "{held}: it is full. next: delete what is not needed, until nine tenths are left, or  quorate policy set --store-quota {}",
            size(store.quota_bytes.saturating_mul(2))
        ));
    }
    let percent = used.saturating_mul(100) / store.quota_bytes.max(1);
    (percent >= NEARLY_FULL_PERCENT).then(|| format!("{held}, {percent} %: when it is full, writes are refused"))
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
    use quorate_core::id::NodeId;
    use quorate_core::membership::record::NodeRecord;
    use quorate_core::membership::removed::{Gone, mark};

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
        let node = NodeRecord {
            id: bytes::Bytes::from_static(&[4; 16]),
            name: "n4".into(),
            role: Role::Manager.into(),
            raft_id: 4,
            ..NodeRecord::default()
        };
        let said =
            |node: NodeRecord| leaving(&Records { nodes: vec![node].into(), ..Records::default() }, RaftId(4), "n4");
        assert_eq!(said(node.clone()), None);
        let demoted = said(NodeRecord { role: Role::Worker.into(), ..node.clone() }).unwrap();
        assert!(demoted.contains("n4 is being demoted") && demoted.contains("as a worker"), "{demoted}");
        let removed = said(NodeRecord { removing: true, ..node }).unwrap();
        assert!(removed.contains("n4 is being removed"), "{removed}");
        // Its record is gone, and it has not stopped yet; who was never known is not leaving.
        let mut gone = Records::default();
        assert_eq!(leaving(&gone, RaftId(4), "n4"), None);
        gone.removed.set(RaftId(4), Some(&mark(Gone::Removed, NodeId::from_bytes([4; 16]))));
        let removed = leaving(&gone, RaftId(4), "n4").unwrap();
        assert!(removed.contains("n4 is a manager no more"), "{removed}");
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
    fn a_seat_that_no_node_stands_for_is_missing_and_says_who_may_take_it() {
        let manager = |raft_id: u64, seat: &str, reachable| ManagerStatus {
            name: format!("n{raft_id}"),
            raft_id,
            seat: seat.into(),
            reachable,
            ..ManagerStatus::default()
        };
        let leading = Status { role: Some(RaftRole::Leader), ..Status::default() };
        for (fourth, said) in [
            (None, "join one more manager, for the seat that nobody holds, to tolerate one"),
            (Some(true), "it tolerates one once n7 has the seat that nobody holds"),
            (Some(false), "start n7 again, for the seat that nobody holds, to tolerate one"),
        ] {
            let mut managers = vec![manager(1, "voter", true), manager(2, "voter", true)];
            managers.extend(fourth.map(|reachable| manager(7, "standby", reachable)));
            let mut answer = ClusterStatus { voters: 3, managers, ..ClusterStatus::default() };
            answer.health = health(&answer, &leading, true, true);
            assert_eq!(answer.health, Health::Degraded);
            answer.tolerance = tolerance(&answer, 5);
            assert!(answer.tolerance.ends_with(said), "{}", answer.tolerance);
            let lines = advice(&answer).join("\n");
            assert!(lines.contains("missing  a voter whose store is gone") && lines.contains(said), "{lines}");
        }
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
        let said = |mut managers: Vec<ManagerStatus>| {
            managers.push(ManagerStatus { seat: "voter".into(), reachable: true, ..ManagerStatus::default() });
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
        // And one that is there, and only waits for its key, with that.
        status.managers[0].locked = true;
        let said = &advice(&status)[0];
        assert!(
            said.starts_with("locked   n3 10.0.0.3:4701 not heard of yet (voter)") && said.contains("quorate unlock"),
            "{said}"
        );
        let manager = |name: &str, locked| ManagerStatus { name: name.into(), locked, ..ManagerStatus::default() };
        let (n1, n2, n3) = (manager("n1", false), manager("n2", false), manager("n3", true));
        assert_eq!(again(&[&n1, &n2], "or"), "start n1 or n2 again");
        assert_eq!(again(&[&n1, &n3], "or"), "start n1 again or unlock n3");
        assert_eq!(again(&[&n3], "and"), "unlock n3");
    }
}
