//! `node ls | inspect | promote | demote | update | rm`, `leave`.
//!
//! Owns their words and the progress on a terminal. Never decides what can be done. Called by `main`.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate::membership::{Availability, CaInfo, NodeInfo, NodeList, NodeOutcome, Role, Seat};
use quorate::objects::KeyringReport;
use quorate::status::{counted, span};
use quorate::{Client, Error, NodeChange};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_membership::{AvailabilityWord, Leave, NodeVerb, Update, Wait};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::{ca, objects, target};

pub(crate) async fn run(verb: NodeVerb, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        NodeVerb::Ls => list(global, output).await,
        NodeVerb::Inspect { node } => inspect(&node, global, output).await,
        NodeVerb::Promote { nodes, wait } => {
            change(&nodes, Role::Manager, &wait, global, output, |client, node| client.nodes().promote(node)).await
        }
        NodeVerb::Demote { nodes, force, wait } => {
            let demote = |client: &Client, node: &str| forced(client.nodes().demote(node), force);
            change(&nodes, Role::Worker, &wait, global, output, demote).await
        }
        NodeVerb::Update(update) => self::update(update, global, output).await,
        NodeVerb::Rm { node, compromised: true, deadline, wait, .. } => {
            let client = target::client(global).await?;
            let within = global.patience(wait.wait);
            let change = client.nodes().remove_compromised(node, deadline);
            let outcome = waited(change, &wait, within, output).await?;
            // What is done is told before anything is waited for: whoever is interrupted, or loses the quorum now, knows it.
            if !output.json {
                output.line(&removed(&outcome))?;
                warned(&outcome, output);
                output.note("the CA and the barrier's keyring are being replaced, also when this command is interrupted: `quorate ca status`, `quorate keyring show`");
            }
            let until = Instant::now() + if wait.detach { Duration::ZERO } else { within };
            let (info, sealed) = replaced(&client, until).await.map_err(|failure| {
                failure.after("The removal of the node stands all the same, and the CA and the keyring go on being replaced: `quorate ca status` and `quorate keyring show` say how far").all_the_same()
            })?;
            if output.json {
                let (node, ca, keyring) = (document(&outcome)?, document(&info)?, document(&sealed)?);
                return output.document(&json!({ "node": node, "ca": ca, "keyring": keyring }));
            }
            output.line("every join token was replaced (`quorate token show ROLE`), and the CA is:")?;
            ca::show(&info, output)?;
            let how_far = if objects::is_at_rest(&sealed) {
                ""
            } else {
                ", which goes on being replaced (`quorate keyring show`)"
            };
            output.line(&format!("the barrier's keyring{how_far}:"))?;
            objects::show_keyring(&sealed, output)
        }
        NodeVerb::Rm { node, force, wait, .. } => {
            let client = target::client(global).await?;
            let within = global.patience(wait.wait);
            let outcome = waited(forced(client.nodes().remove(node), force), &wait, within, output).await?;
            answer(&outcome, output, || removed(&outcome))
        }
    }
}

/// Waits until nothing of what a node that was thrown out may know counts any more, at most so long: how far it is.
async fn replaced(client: &Client, until: Instant) -> Result<(CaInfo, KeyringReport), Failure> {
    let sealed = client.keyring().show().await?;
    let sealed = objects::keyring_followed(client, sealed, until, objects::is_at_rest).await?;
    let left = until.saturating_duration_since(Instant::now());
    let info = ca::followed(client, client.ca().status().await?, left).await?;
    Ok((info, sealed))
}

fn document(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::local(format!("the answer cannot be written as JSON: {error}")))
}

fn answer(outcome: &NodeOutcome, output: Output, words: impl FnOnce() -> String) -> Result<(), Failure> {
    if output.json {
        return output.document(&document(outcome)?);
    }
    output.line(&words())?;
    warned(outcome, output);
    Ok(())
}

/// What the cluster bears less from then on.
fn warned(outcome: &NodeOutcome, output: Output) {
    for warning in &outcome.warnings {
        output.note(&format!("warning: {warning}"));
    }
}

async fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let list = target::client(global).await?.nodes().list().await?;
    if output.json {
        return output.document(&document(&list)?);
    }
    output.line(&render(&list))
}

fn render(list: &NodeList) -> String {
    let rows = list.nodes.iter().map(row).collect();
    let header = ["NAME", "ID", "ADDRESS", "ROLE", "SEAT", "STATE", "AVAILABILITY", "RAFT ID", "VERSION", "LABELS"];
    let age =
        if list.age_ms == 0 { String::new() } else { format!(", {} old", span(Duration::from_millis(list.age_ms))) };
    format!("{}\n\nas {} knows it at revision {}{age}", table(&header, &[7], rows), list.answered_by, list.revision)
}

fn row(node: &NodeInfo) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        node.name.clone(),
        node.id.chars().take(10).collect(),
        // Where a worker would listen if it were promoted nobody listens now.
        or_dash(if node.observed_role == Role::Worker { String::new() } else { node.address.clone() }),
        role(node),
        if node.leader { format!("{}, leads", node.seat.word()) } else { or_dash_seat(node.seat) },
        node.state.word().to_owned(),
        node.availability.word().to_owned(),
        if node.raft_id == 0 { "-".into() } else { node.raft_id.to_string() },
        or_dash(node.version.clone()),
        or_dash(labels(node)),
    ]
}

fn or_dash_seat(seat: Seat) -> String {
    if seat == Seat::None { "-".to_owned() } else { seat.word().to_owned() }
}

/// What it is, and what it is becoming.
fn role(node: &NodeInfo) -> String {
    if node.removing {
        format!("{}, leaving", node.observed_role.word())
    } else if node.desired_role == node.observed_role {
        node.observed_role.word().to_owned()
    } else {
        format!("{} > {}", node.observed_role.word(), node.desired_role.word())
    }
}

fn labels(node: &NodeInfo) -> String {
    node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

async fn inspect(node: &str, global: &Global, output: Output) -> Result<(), Failure> {
    let node = target::client(global).await?.nodes().inspect(node).await?;
    if output.json {
        return output.document(&document(&node)?);
    }
    output.line(&described(&node))
}

fn described(node: &NodeInfo) -> String {
    let mut rows = vec![
        ("name", node.name.clone()),
        ("id", node.id.clone()),
        (if node.observed_role == Role::Worker { "address, once a manager" } else { "address" }, node.address.clone()),
        ("role", role(node)),
        ("seat", if node.leader { format!("{}, leads", node.seat.word()) } else { node.seat.word().to_owned() }),
        ("state", node.state.word().to_owned()),
        ("availability", node.availability.word().to_owned()),
        ("labels", labels(node)),
        ("raft id", if node.raft_id == 0 { String::new() } else { node.raft_id.to_string() }),
        ("version", node.version.clone()),
    ];
    if node.replacement_paused_ms > 0 {
        rows.push((
            "replacement",
            format!("paused for {} of each leadership", span(Duration::from_millis(node.replacement_paused_ms))),
        ));
    }
    if node.stands_in {
        rows.push(("stands in", "promoted in place of a lost voter".to_owned()));
    }
    if let Some(outlook) = &node.outlook {
        rows.push((if node.settled { "now" } else { "next" }, outlook.clone()));
    }
    let dash = |value: String| if value.is_empty() { "-".to_owned() } else { value };
    table(&["WHAT", "VALUE"], &[], rows.into_iter().map(|(what, value)| vec![what.to_owned(), dash(value)]).collect())
}

fn forced(change: NodeChange, force: bool) -> NodeChange {
    if force { change.forced() } else { change }
}

/// Sends a wish, and waits for it unless that is not asked for.
async fn waited(change: NodeChange, wait: &Wait, within: Duration, output: Output) -> Result<NodeOutcome, Error> {
    if wait.detach {
        return change.detached().await;
    }
    let (change, progress) = shown(change.within(within), output);
    let outcome = change.await;
    progress.finish_and_clear();
    outcome
}

/// With its progress on a terminal.
fn shown(change: NodeChange, output: Output) -> (NodeChange, ProgressBar) {
    let progress = progress(output);
    let shown = progress.clone();
    let change = change.watch(move |node| {
        let outlook = node.outlook.as_deref().unwrap_or("waiting");
        shown.set_message(format!("{}: {outlook}", node.name));
    });
    (change, progress)
}

/// A line that moves, where somebody sees it.
fn progress(output: Output) -> ProgressBar {
    let terminal = !output.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let progress = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(120));
    progress
}

/// Wishes for one node after the other; all are recorded before any is waited for, since one may wait for another.
async fn change(
    nodes: &[String],
    role: Role,
    wait: &Wait,
    global: &Global,
    output: Output,
    wish: impl Fn(&Client, &str) -> NodeChange,
) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let mut outcomes: Vec<NodeOutcome> = Vec::new();
    let mut failures: Vec<(String, Failure)> = Vec::new();
    for node in nodes {
        match wish(&client, node).detached().await {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => failures.push((node.clone(), error.into())),
        }
    }
    if !wait.detach {
        for recorded in &mut outcomes {
            let change = wish(&client, &recorded.node.id).within(global.patience(wait.wait));
            let (change, progress) = shown(change, output);
            match change.follow(recorded.clone()).await {
                Ok(done) => *recorded = done,
                Err(error) => failures.push((recorded.node.name.clone(), error.into())),
            }
            progress.finish_and_clear();
        }
    }
    let failed: Vec<Value> = failures.iter().map(|(node, failure)| failed(node, failure)).collect();
    let documents = json!({ "nodes": document(&outcomes)?, "failed": failed });
    let tell = |outcome: &NodeOutcome, detached: bool| {
        output.line(&changed(outcome, role, detached))?;
        warned(outcome, output);
        Ok(())
    };
    // Of several it has to be said whom a refusal is about.
    let named = |(node, failure): (String, Failure)| if nodes.len() > 1 { failure.about(node) } else { failure };
    match Failure::all(failures.into_iter().map(named).collect()) {
        None if output.json => output.document(&documents),
        None => outcomes.iter().try_for_each(|outcome| tell(outcome, wait.detach)),
        Some(failure) => {
            // What was done is told on its own: with --json it is in the one document.
            if !output.json {
                outcomes.iter().try_for_each(|outcome| tell(outcome, !outcome.done))?;
            }
            Err(failure.with(documents))
        }
    }
}

/// One of several whose wish came to nothing, for scripts.
fn failed(node: &str, failure: &Failure) -> Value {
    let mut document = failure.json();
    if let Value::Object(fields) = &mut document {
        fields.insert("node".into(), node.into());
    }
    document
}

fn seats(outcome: &NodeOutcome) -> String {
    let standbys = match outcome.standbys {
        0 => String::new(),
        1 => ", 1 standby".to_owned(),
        several => format!(", {several} standby managers"),
    };
    let before = if outcome.voters_before == outcome.voters {
        String::new()
    } else {
        format!(" ({} before)", outcome.voters_before)
    };
    format!("{}{standbys}{before}", counted(outcome.voters, "voter"))
}

fn changed(outcome: &NodeOutcome, role: Role, detached: bool) -> String {
    let (node, name) = (&outcome.node, &outcome.node.name);
    let verb = if role == Role::Manager { "promotion" } else { "demotion" };
    if detached {
        let already = if outcome.changed { "" } else { " already" };
        return format!("{name}: {verb} recorded{already}; `quorate node inspect {name}` shows how it goes");
    }
    let already = if outcome.changed { "" } else { " already" };
    if role == Role::Worker {
        return format!("{name} is a worker{already}; {}", seats(outcome));
    }
    let what = match (node.seat, node.outlook.as_deref()) {
        (Seat::Standby, Some(outlook)) => outlook.to_owned(),
        (seat, _) => seat.word().to_owned(),
    };
    format!("{name} is a manager{already}: {what}; {}", seats(outcome))
}

fn removed(outcome: &NodeOutcome) -> String {
    let name = &outcome.node.name;
    let seats = if outcome.voters == 0 { String::new() } else { format!("; {}", seats(outcome)) };
    match (outcome.done, outcome.changed) {
        (true, _) => format!("{name} is removed{seats}"),
        (false, true) => format!("{name}: removal recorded; `quorate node ls` shows when it is gone"),
        (false, false) => format!("{name}: removal recorded already; `quorate node ls` shows when it is gone"),
    }
}

async fn update(update: Update, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let mut change = client.nodes().update(update.node);
    for (key, value) in update.label_add {
        change = change.label(key, value);
    }
    for key in update.label_rm {
        change = change.remove_label(key);
    }
    if let Some(word) = update.availability {
        change = change.availability(match word {
            AvailabilityWord::Active => Availability::Active,
            AvailabilityWord::Pause => Availability::Pause,
            AvailabilityWord::Drain => Availability::Drain,
        });
    }
    if let Some(pause) = update.pause_replacement {
        change = change.pause_replacement(pause);
    }
    let outcome = change.await?;
    answer(&outcome, output, || {
        let node = &outcome.node;
        let labels = if node.labels.is_empty() { "no labels".to_owned() } else { labels(node) };
        let held = match node.replacement_paused_ms {
            0 => String::new(),
            ms => format!(", not replaced for {}", span(Duration::from_millis(ms))),
        };
        let word = if outcome.changed { "updated" } else { "as it was" };
        format!("{} {word}: {}, {labels}{held}", node.name, node.availability.word())
    })
}

/// The node on this machine, by its own socket.
pub(crate) async fn leave(leave: Leave, global: &Global, output: Output) -> Result<(), Failure> {
    if global.data_dir.is_none() {
        return Err(Failure::usage(
            "a node leaves by itself: give --data-dir DIR of the node on this machine. From elsewhere it is `quorate node rm NODE`",
        ));
    }
    let client = target::client(global).await?;
    let within = global.patience(leave.wait.wait);
    let outcome = waited(forced(client.nodes().leave(), leave.force), &leave.wait, within, output).await?;
    answer(&outcome, output, || {
        let name = &outcome.node.name;
        if outcome.done {
            format!("{name} has left the cluster, and its node stops; the directory stays as it is")
        } else {
            format!(
                "{name}: leaving is recorded; it stops when it has left. As long as that waits, `quorate node promote {name}` takes it back"
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::membership::NodeState;

    fn node(name: &str) -> NodeInfo {
        NodeInfo {
            name: name.into(),
            id: "abcdefghijklmnopqrstuvwxyz".into(),
            address: "10.0.0.1:4701".into(),
            desired_role: Role::Manager,
            observed_role: Role::Manager,
            seat: Seat::Voter,
            state: NodeState::Ready,
            availability: Availability::Active,
            raft_id: 1,
            version: "quorate 0.1.0".into(),
            settled: true,
            ..NodeInfo::default()
        }
    }

    #[test]
    fn a_list_is_aligned_and_says_how_old_it_is() {
        let leader = NodeInfo { leader: true, ..node("n1") };
        let leaving = NodeInfo {
            desired_role: Role::Worker,
            labels: [("zone".to_owned(), "b".to_owned())].into(),
            raft_id: 2,
            ..node("n2")
        };
        let worker = NodeInfo {
            name: "w1".into(),
            desired_role: Role::Worker,
            observed_role: Role::Worker,
            seat: Seat::None,
            state: NodeState::Unknown,
            raft_id: 0,
            address: "10.0.0.9:4701".into(),
            removing: true,
            ..node("w1")
        };
        let list =
            NodeList { nodes: vec![leader, leaving, worker], answered_by: "n1".into(), revision: 42, age_ms: 252_000 };
        let text = render(&list);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("voter, leads") && lines[1].contains("abcdefghij "), "{text}");
        assert!(lines[2].contains("manager > worker") && lines[2].ends_with("zone=b"), "{text}");
        assert!(lines[3].contains("worker, leaving") && lines[3].contains("unknown"), "{text}");
        assert!(
            lines[1].contains("10.0.0.1:4701") && !lines[3].contains("10.0.0.9:4701"),
            "nobody listens there: {text}"
        );
        assert_eq!(lines[5], "as n1 knows it at revision 42, 4m 12s old");
        assert_eq!(lines[1].find("voter"), lines[2].find("voter"), "{text}");
    }

    #[test]
    fn an_answer_says_what_was_decided() {
        let standby = NodeInfo {
            seat: Seat::Standby,
            outlook: Some("standby until one more manager joins".into()),
            ..node("n4")
        };
        let outcome = NodeOutcome {
            node: standby,
            changed: true,
            done: true,
            voters_before: 3,
            voters: 3,
            standbys: 1,
            ..NodeOutcome::default()
        };
        assert_eq!(
            changed(&outcome, Role::Manager, false),
            "n4 is a manager: standby until one more manager joins; 3 voters, 1 standby"
        );
        let already = NodeOutcome { changed: false, ..outcome.clone() };
        assert!(changed(&already, Role::Manager, false).starts_with("n4 is a manager already: "));
        let demoted = NodeOutcome { voters_before: 5, standbys: 2, ..outcome.clone() };
        assert_eq!(changed(&demoted, Role::Worker, false), "n4 is a worker; 3 voters, 2 standby managers (5 before)");
        assert!(changed(&outcome, Role::Worker, true).contains("demotion recorded;"));
        assert_eq!(removed(&outcome), "n4 is removed; 3 voters, 1 standby");
    }

    #[test]
    fn one_node_is_described_line_by_line() {
        let held = NodeInfo { replacement_paused_ms: 900_000, outlook: Some("voter".into()), ..node("n1") };
        let text = described(&held);
        for line in ["name", "labels", "replacement   paused for 15m", "now           voter"] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line}: {text}");
        }
    }
}
