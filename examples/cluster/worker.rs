//! `cluster worker`: an orchestrator's agent on a worker, in small.
//!
//! Owns the processes of its items: one each, kept for as long as the item is assigned with this payload, whatever becomes of
//! the managers and of this node's role. What an item refers to lies in files below `/dev/shm` for as long as its process runs. Uses nothing but the library's public API. Never restarts an item that ended: it
//! reports that. Started by the demo as a process of its own; the demo talks to it by signals alone.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use quorate::{AssignmentEvent, Item, Node, Start, StopReason};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::processes::Told;
use crate::story;

/// How often the agent looks whether its items still run.
const LOOK: Duration = Duration::from_millis(200);

/// An item with its process.
struct Running {
    item: Item,
    child: Child,
    status: String,
    /// Where its process finds its secrets; they go with it.
    _secrets: Option<SecretFiles>,
}

impl Running {
    /// Whether it is to run as it does: the same payload, with the same data.
    fn is(&self, item: &Item) -> bool {
        let same = |name: &String| self.item.secret(name) == item.secret(name);
        let alike = |name: &String| self.item.config(name) == item.config(name);
        self.item.payload == item.payload
            && (&self.item.secrets, &self.item.configs) == (&item.secrets, &item.configs)
            && item.secrets.iter().all(same)
            && item.configs.iter().all(alike)
    }
}

/// Files with what an item refers to, in memory (tmpfs), for this user alone. Removed with their process.
struct SecretFiles(PathBuf);

impl SecretFiles {
    fn write(item: &Item) -> std::io::Result<Option<Self>> {
        if item.secrets.is_empty() && item.configs.is_empty() {
            return Ok(None);
        }
        let id: String = item.id.bytes().map(|byte| format!("{byte:02x}")).collect();
        let directory = Path::new("/dev/shm").join(format!("quorate-{}-{id}", std::process::id()));
        let _left_over = std::fs::remove_dir_all(&directory);
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let files = Self(directory);
        let secrets = item.secrets.iter().filter_map(|name| Some((name, item.secret(name)?.expose())));
        let configs = item.configs.iter().filter_map(|name| Some((name, &item.config(name)?[..])));
        for (name, data) in configs.chain(secrets) {
            // Names have no `/` and do not begin with a dot.
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true).mode(0o600);
            options.open(files.0.join(name))?.write_all(data)?;
        }
        Ok(Some(files))
    }
}

impl Drop for SecretFiles {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "secrets could not be removed");
        }
    }
}

/// Runs the node in `directory` until it is told to stop or stops by itself; its exit codes are those of `quorate run`.
pub(crate) fn run(directory: &Path) -> ExitCode {
    let colored = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("info")).with_writer(std::io::stderr);
    let _logs_already = log.with_ansi(colored).try_init();
    let ended = tokio::runtime::Runtime::new()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(agent(directory)));
    match ended {
        Ok(StopReason::Asked) => ExitCode::SUCCESS,
        Ok(why) => {
            tracing::error!("{why}");
            ExitCode::from(why.exit_code())
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn agent(directory: &Path) -> Told<StopReason> {
    let listen = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let node = Node::builder(directory).start(Start::Open).await.map_err(|error| error.to_string())?;
    let mut work = node.assignments();
    let mut items: BTreeMap<String, Running> = BTreeMap::new();
    let mut look = tokio::time::interval(LOOK);
    let ready = found_managers(&node);
    tokio::pin!(ready);
    let mut announced = false;
    let why = loop {
        tokio::select! {
            event = work.next() => match event {
                Some(event) => take(&node, &mut items, event).await,
                None => break node.stopped().await,
            },
            // What it had before is run without waiting for any manager: this only says that one has been found.
            () = &mut ready, if !announced => {
                announced = true;
                story::print(&format!("ready: {} worker, in an agent that runs its items", node.name()));
            }
            _ = look.tick() => report(&node, &mut items),
            _ = terminate.recv() => break node.shutdown().await,
            _ = interrupt.recv() => break node.shutdown().await,
        }
    };
    for (id, running) in items {
        end(&id, running).await;
    }
    Ok(why)
}

async fn found_managers(node: &Node) {
    while let Err(error) = node.ready().await {
        tracing::warn!(%error, "not ready yet");
        // An error that comes at once must not make a busy loop of this.
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes what runs what is to run: a process whose item is given again as it was is not touched.
async fn take(node: &Node, items: &mut BTreeMap<String, Running>, event: AssignmentEvent) {
    let (wanted, gone) = match event {
        AssignmentEvent::Complete { items: wanted, .. } => {
            let gone = items.keys().filter(|id| !wanted.iter().any(|item| item.id == **id)).cloned().collect();
            (wanted, gone)
        }
        AssignmentEvent::Changed { added, removed, .. } => (added, removed),
        _ => return,
    };
    for id in gone {
        if let Some(running) = items.remove(&id) {
            end(&id, running).await;
        }
    }
    for item in wanted {
        if items.get(&item.id).is_some_and(|running| running.is(&item)) {
            continue;
        }
        if !item.is_complete() {
            // After a restart without managers: secrets are not kept on this disk. They come with the next event.
            say(node, &item.id, "waits for its secrets");
            continue;
        }
        if let Some(running) = items.remove(&item.id) {
            end(&item.id, running).await;
        }
        match begin(&item) {
            Ok(running) => {
                tracing::info!(item = item.id, status = running.status, "begun");
                items.insert(item.id, running);
            }
            Err(error) => say(node, &item.id, &format!("cannot be started: {error}")),
        }
    }
    report(node, items);
}

/// The payload is a line for the shell; what it prints goes into a file that is named like the item.
fn begin(item: &Item) -> std::io::Result<Running> {
    let out = OpenOptions::new().create(true).append(true).open(format!("{}.out", item.id))?;
    let line = String::from_utf8_lossy(&item.payload).into_owned();
    let secrets = SecretFiles::write(item)?;
    let mut command = Command::new("sh");
    if let Some(SecretFiles(directory)) = &secrets {
        command.env("QUORATE_SECRETS", directory);
    }
    let child = command
        .args(["-c", &line])
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .kill_on_drop(true)
        .spawn()?;
    let status = format!("running, pid {}", child.id().unwrap_or_default());
    Ok(Running { item: item.clone(), child, status, _secrets: secrets })
}

async fn end(id: &str, mut running: Running) {
    match running.child.kill().await {
        Ok(()) => tracing::info!(item = id, "ended"),
        Err(error) => tracing::warn!(item = id, %error, "was gone already"),
    }
}

/// Tells the managers how each item goes; what they know already costs nothing.
fn report(node: &Node, items: &mut BTreeMap<String, Running>) {
    for (id, running) in items {
        if let Ok(Some(status)) = running.child.try_wait() {
            running.status = format!("ended by itself: {status}");
        }
        say(node, id, &running.status);
    }
}

fn say(node: &Node, id: &str, status: &str) {
    // An item that was taken away a moment ago comes as an event next.
    if let Err(error) = node.report(id, status.to_owned()) {
        tracing::debug!(item = id, %error, "the status was not noted");
    }
}
