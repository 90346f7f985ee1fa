//! `init`, `join`, `run`, `inspect`: what is done with a node's own directory.
//!
//! Owns the process of a running node: its log output, its signals, its one line when ready. Never opens a running
//! node's store. Called by `main`.

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use quorate::status::NodeRole;
use quorate::{Node, NodeBuilder, Prepared, Start, StopReason};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::args::Global;
use crate::args_keys::KeyOptions;
use crate::args_node::{Init, Join, Run, RunOptions};
use crate::failure::Failure;
use crate::http::Pages;
use crate::output::{Output, escaped, preview, table};

pub(crate) fn directory(global: &Global) -> Result<&Path, Failure> {
    match &global.data_dir {
        Some(directory) => Ok(directory),
        None => Err(Failure::usage("--data-dir DIR is needed: the node's own directory on this machine")),
    }
}

/// Whether this user may look into a node's directory: of one that it may not, all else that is said would be a guess.
pub(crate) fn look_into(directory: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Failure::local(format!(
            "cannot look into {}: {error}. Run this as the user who owns it",
            directory.display()
        ))),
        // One that is not there is said to be so by whoever needs it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A first manager that listens on every address is known at none. (Of a newcomer the managers see where it is.)
pub(crate) fn check_reach(address: &str, output: Output) {
    if address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified()) {
        output.note(&format!(
            "warning: this node listens on every address, and {address} is all that other managers would be told. \
             Unless it stays alone, found it anew in another directory with --advertise HOST:PORT"
        ));
    }
}

/// A directory may be prepared for an address that the machine gets later; mostly it is a slip.
fn check_listen(listen: Option<&str>, output: Output) {
    let resolved = listen.and_then(|listen| listen.to_socket_addrs().ok()?.next());
    let Some(address) = resolved else { return };
    let bound = UdpSocket::bind((address.ip(), 0));
    if bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable) {
        output.note(&format!(
            "warning: {} is no address of this machine now; `quorate run` fails until it is",
            address.ip()
        ));
    }
}

fn builder(
    directory: &Path,
    keys: &KeyOptions,
    listen: Option<String>,
    advertise: Option<String>,
    name: Option<String>,
) -> Result<NodeBuilder, Failure> {
    let mut builder = Node::builder(directory).keys(keys.keys()?);
    if let Some(listen) = listen {
        builder = builder.listen(listen);
    }
    if let Some(advertise) = advertise {
        builder = builder.advertise(advertise);
    }
    if let Some(name) = name {
        builder = builder.name(name);
    }
    Ok(builder)
}

/// Where the key of a new manager lies, when that protects nothing.
pub(crate) fn check_key(directory: &Path, output: Output) -> Result<(), Failure> {
    if let Some(key) = quorate::keys::status(directory)?.filter(|key| !key.advice.is_empty()) {
        output.note(&format!("warning: {}", key.advice));
    }
    Ok(())
}

pub(crate) async fn init(init: Init, global: &Global, output: Output) -> Result<(), Failure> {
    let directory = directory(global)?;
    let listen = init.listen.clone();
    let builder = builder(directory, &init.keys, init.listen, init.advertise, init.name)?;
    if init.run {
        return run_on(builder, Start::OpenOrInit, &init.log, output).await;
    }
    let prepared = builder.init().await?;
    check_reach(&prepared.advertise, output);
    check_listen(listen.as_deref(), output);
    check_key(directory, output)?;
    if output.json {
        return output.document(&prepared_json(&prepared));
    }
    output.line(&format!("cluster {} made; {}", prepared.cluster_id, described(&prepared)))?;
    if let Some(identity) = &prepared.operator_identity {
        output.line(&format!("operator identity: {} (keep it as you keep a root password)", identity.display()))?;
    }
    output.line(&format!("next: quorate run --data-dir {}", directory.display()))
}

pub(crate) async fn join(join: Join, global: &Global, output: Output) -> Result<(), Failure> {
    let directory = directory(global)?;
    if join.replace && join.name.is_some() {
        return take_place(directory, join, global, output).await;
    }
    if join.replace {
        let builder = builder(directory, &join.keys, join.listen, join.advertise, None)?
            .patience(global.timeout())
            .key_lost(join.key_lost);
        let prepared = match &join.token {
            Some(argument) => Box::pin(builder.replace(&token(argument)?, join.managers)).await?,
            None => builder.rejoin(join.managers).await?,
        };
        if output.json {
            return output.document(&prepared_json(&prepared));
        }
        let (how, store) = match (prepared.certificate_only, prepared.role) {
            (true, _) => ("with a certificate of the cluster's new CA, and all that it had", ""),
            (false, NodeRole::Worker) => ("as a worker", ""),
            (false, NodeRole::Manager) => ("with a fresh store", "the old store was moved aside, not deleted. "),
        };
        output.line(&format!("came back {how}; {}", described(&prepared)))?;
        return output.line(&format!("{store}next: quorate run --data-dir {}", directory.display()));
    }
    let token = token(join.token.as_deref().unwrap_or_default())?;
    let listen = join.listen.clone();
    let builder = builder(directory, &join.keys, join.listen, join.advertise, join.name)?.patience(global.timeout());
    if join.run {
        let start = Start::OpenOrJoin { token, managers: join.managers };
        return run_on(builder, start, &join.log, output).await;
    }
    let prepared = builder.join(&token, join.managers).await?;
    check_listen(listen.as_deref(), output);
    check_key(directory, output)?;
    if output.json {
        return output.document(&prepared_json(&prepared));
    }
    let role = prepared.role.word();
    output.line(&format!("joined cluster {} as a {role}; {}", prepared.cluster_id, described(&prepared)))?;
    output.line(&format!("next: quorate run --data-dir {}", directory.display()))
}

/// `join --replace --name`: the place of a worker whose disk is gone.
async fn take_place(directory: &Path, join: Join, global: &Global, output: Output) -> Result<(), Failure> {
    let Some(argument) = join.token else {
        return Err(Failure::usage(
            "--replace with --name takes the place of a worker whose disk is gone, and needs its role's token: --token TOKEN. Without --name, --replace brings this very node back",
        ));
    };
    let builder = builder(directory, &join.keys, join.listen, join.advertise, join.name)?.patience(global.timeout());
    let prepared = Box::pin(builder.join_in_place(&token(&argument)?, join.managers)).await?;
    if output.json {
        return output.document(&prepared_json(&prepared));
    }
    output.line(&format!("took the place of {}; {}", prepared.name, described(&prepared)))?;
    output.line("its labels (but not quorate.manager, which an operator sets) and its assignments are as they were; the disk it had before is refused from now on")?;
    output.line(&format!("next: quorate run --data-dir {}", directory.display()))
}

pub(crate) async fn run(run: Run, global: &Global, output: Output) -> Result<(), Failure> {
    let mut builder = builder(directory(global)?, &run.keys, run.listen, run.advertise, None)?;
    for manager in run.managers {
        builder = builder.manager(manager);
    }
    if let Some(generation) = run.force_new_cluster {
        builder = builder.force_new_cluster(generation).despite_peers(run.despite_peers);
    }
    if let Some(address) = run.address {
        builder = builder.advertise(address);
    }
    if let Some(entries) = run.log_window {
        builder = builder.log_window(entries);
    }
    #[cfg(feature = "testing")]
    if let Some(seconds) = run.certificate_life {
        builder = builder.certificate_life(Duration::from_secs(seconds));
    }
    run_on(builder, Start::Open, &run.log, output).await
}

fn described(prepared: &Prepared) -> String {
    if prepared.role == NodeRole::Worker {
        return format!("this node is {} ({})", prepared.name, prepared.node_id);
    }
    format!(
        "this node is {} ({}), raft id {}, at {}",
        prepared.name, prepared.node_id, prepared.raft_id, prepared.advertise
    )
}

fn prepared_json(prepared: &Prepared) -> Value {
    json!({
        "cluster_id": prepared.cluster_id,
        "node_id": prepared.node_id,
        "name": prepared.name,
        "address": prepared.advertise,
        "role": prepared.role.word(),
        "raft_id": prepared.raft_id,
        "operator_identity": prepared.operator_identity,
        "certificate_only": prepared.certificate_only,
    })
}

/// The token itself, from a file, or from stdin. The output of `token show` serves as it is: its last line counts.
fn token(argument: &str) -> Result<String, Failure> {
    let text = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the token from file {path}: {error}")))?,
        None if argument == "-" => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::usage(format!("cannot read the token from stdin: {error}")))?,
        None => argument.to_owned(),
    };
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(token) => Ok(token.to_owned()),
        None => Err(Failure::usage("the token is empty; `quorate token show manager` shows it")),
    }
}

/// How long the threads of a node that is to stop at once are waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Runs the node until it stops, by a signal or for a reason of its own.
async fn run_on(builder: NodeBuilder, start: Start, options: &RunOptions, output: Output) -> Result<(), Failure> {
    start_logging(options)?;
    // Before the node starts: what it measures goes to the recorder that is there then.
    let pages = match &options.http {
        Some(address) => Some(Pages::open(address).await?),
        None => None,
    };
    let mut signals = Signals::new()?;
    let node = tokio::select! {
        node = builder.start(start) => node.map_err(Failure::start)?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before the node had started");
            return Ok(());
        }
    };
    if let Some(pages) = &pages {
        pages.show(&node);
    }
    let http = pages.as_ref().map(Pages::address);
    let why = tokio::select! {
        why = node.stopped() => why,
        never = announce(&node, http, output) => match never {},
        name = signals.next() => {
            if let Some(pages) = &pages {
                pages.stopping();
            }
            tracing::info!(signal = name, "stopping: handing leadership over; a second signal stops at once");
            tokio::select! {
                why = node.shutdown() => why,
                name = signals.next() => at_once(&node, name).await,
            }
        }
    };
    if why == StopReason::Asked { Ok(()) } else { Err(Failure::stopped(why.exit_code(), why.to_string())) }
}

/// Somebody is in a hurry. What is acknowledged is on disk, so that this is as safe as a kill: what does not end in a moment is left to
/// the end of the process.
async fn at_once(node: &Node, signal: &str) -> StopReason {
    tracing::warn!(
        signal,
        "came twice: stopping at once, without handing leadership over. Nothing acknowledged is lost; if this manager leads, the others elect another one"
    );
    node.abandon();
    tokio::time::timeout(AT_ONCE, node.stopped()).await.unwrap_or(StopReason::Asked)
}

/// Waits until the node serves, says so on one line, and then waits for ever. That the line cannot be written is no reason to stop:
/// whoever waits for it can ask `/readyz` or `status`.
async fn announce(node: &Node, http: Option<SocketAddr>, output: Output) -> Infallible {
    while let Err(error) = node.ready().await {
        tracing::warn!(%error, "not ready yet");
        // An error that comes at once must not make a busy loop of this.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let written = if node.role() == NodeRole::Worker {
        announce_worker(node, http, output)
    } else {
        announce_manager(node, http, output).await
    };
    if let Err(failure) = written {
        tracing::warn!(error = failure.message(), "ready, and the line that says so could not be written");
    }
    std::future::pending().await
}

async fn announce_manager(node: &Node, http: Option<SocketAddr>, output: Output) -> Result<(), Failure> {
    let status = node.status().await;
    let id = node.id();
    let (raft_id, seat) = match status.managers.iter().find(|manager| manager.id == id) {
        Some(own) => (own.raft_id, if own.seat == "voter" { "voter" } else { "standby" }),
        None => (0, "standby"),
    };
    let leader = status.leader.as_deref().unwrap_or("none");
    let (name, address) = (node.name(), node.address());
    if output.json {
        return output.document(&json!({
            "ready": { "name": name, "address": address, "raft_id": raft_id, "seat": seat, "leader": leader, "http": http }
        }));
    }
    output.line(&format!("ready: {name} {address} raft id {raft_id} {seat}, leader {leader}"))
}

fn announce_worker(node: &Node, http: Option<SocketAddr>, output: Output) -> Result<(), Failure> {
    let report = node.report_of_itself();
    let manager = report.session.as_ref().map_or("nobody", |session| session.manager.as_str());
    let revision = report.assignments_revision.unwrap_or(0);
    if output.json {
        return output.document(&json!({
            "ready": {
                "name": report.name, "role": "worker", "session": report.session, "assignments_revision": revision,
                "http": http
            }
        }));
    }
    output.line(&format!("ready: {} worker, session with {manager}, assignments at revision {revision}", report.name))
}

/// SIGTERM and SIGINT, by name.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::local(format!("cannot listen for signals: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn start_logging(options: &RunOptions) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&options.log)
        .map_err(|error| Failure::usage(format!("--log {} is no filter: {error}", options.log)))?;
    let colored = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colored);
    let started = if options.log_json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| Failure::local(format!("cannot start logging: {error}")))
}

pub(crate) fn inspect(keys: &KeyOptions, global: &Global, output: Output) -> Result<(), Failure> {
    let inspection = quorate::inspect_with(directory(global)?, &keys.keys()?)?;
    let document = serde_json::to_value(&inspection)
        .map_err(|error| Failure::local(format!("the inspection cannot be written as JSON: {error}")))?;
    if output.json {
        return output.document(&document);
    }
    output.line(&inspected(document))
}

/// Characters of a value on a line.
const SHOWN: usize = 60;

/// `inspect --dump`.
pub(crate) fn dump(keys: &KeyOptions, global: &Global, output: Output) -> Result<(), Failure> {
    let mut printed = Ok(true);
    quorate::dump(directory(global)?, &keys.keys()?, &mut |record| {
        let (key, revision) = (escaped(&record.key), record.revision);
        let line = if output.json {
            let value = BASE64.encode(&record.value);
            json!({ "section": record.section, "key": key, "revision": revision, "value_base64": value }).to_string()
        } else {
            format!("{:<10} {key}  revision {revision}  {}", record.section, preview(&record.value, SHOWN))
        };
        printed = output.streamed(format!("{line}\n").as_bytes());
        matches!(printed, Ok(true))
    })?;
    printed.map(|_reader| ())
}

/// What of an inspection is said of a directory without a log and a state.
const OF_A_WORKER: [&str; 9] =
    ["cluster_id", "node_id", "name", "role", "generation", "lineage", "listen", "advertise", "ready"];

fn inspected(document: Value) -> String {
    let Value::Object(fields) = document else { return document.to_string() };
    let worker = fields.get("role").and_then(Value::as_str) == Some("worker");
    let rows = fields
        .into_iter()
        .filter(|(name, _)| !worker || OF_A_WORKER.contains(&name.as_str()))
        .map(|(name, value)| vec![name.replace('_', " "), plain(&value)])
        .collect();
    table(&["WHAT", "VALUE"], &[], rows)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_worker_nothing_is_said_that_only_a_manager_has() {
        let inspection =
            |role: &str| json!({ "name": "w1", "role": role, "raft_id": 0, "state_hash": "", "voters": [] });
        let text = inspected(inspection("worker"));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("w1") && !text.contains("hash"), "{text}");
        assert_eq!(inspected(inspection("manager")).lines().count(), 6);
    }

    #[test]
    fn a_token_is_taken_from_the_last_line() {
        assert_eq!(token("QRT-1-a-b").unwrap(), "QRT-1-a-b");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "Whoever has this token\n\nQRT-1-a-b\n\n").unwrap();
        assert_eq!(token(&format!("@{}", file.path().display())).unwrap(), "QRT-1-a-b");
        assert_eq!(token("").unwrap_err().exit, 2);
        assert_eq!(token("@/no/such/file").unwrap_err().exit, 2);
    }
}
