//! What must not outlive the demo: every process that it starts, what these start themselves, and their directory.
//!
//! Owns the list of them. Nothing is left when [`Remains::clean`] has run, at the end, after a failure, a panic or a ctrl-c,
//! unless the cluster is held. Never looks at what the processes do. Called by `processes` and by the handler of signals.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::processes::Told;

#[derive(Debug, Default)]
struct State {
    /// Each with the name of its node; a command has none.
    running: Vec<(String, Child)>,
    /// Everything is being ended: nothing new is started.
    closed: bool,
    /// The cluster is left as it is.
    held: bool,
}

/// What must not outlive the demo.
#[derive(Debug)]
pub(crate) struct Remains {
    directory: PathBuf,
    state: Mutex<State>,
}

impl Remains {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, state: Mutex::default() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every process and removes the directory; the second time there is nothing left to do.
    pub(crate) fn clean(&self) {
        let mut state = self.state();
        if state.held || std::mem::replace(&mut state.closed, true) {
            return;
        }
        kill_groups(state.running.iter().map(|(_, child)| child.id()));
        for (_, mut child) in state.running.drain(..) {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
        let _gone_already = std::fs::remove_dir_all(&self.directory);
    }

    /// Starts a process that [`Self::clean`] knows of from its first moment.
    pub(crate) fn spawn(
        &self,
        name: &str,
        command: &mut Command,
    ) -> Told<(u32, Option<ChildStdout>, Option<ChildStderr>)> {
        let mut state = self.state();
        if state.closed {
            return Err("the demo is being ended".into());
        }
        // A ctrl-c in the terminal is for the demo, which then ends what it started.
        let spawned = command.current_dir(&self.directory).stdin(Stdio::null()).process_group(0).spawn();
        let mut child =
            spawned.map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))?;
        let (pid, stdout, stderr) = (child.id(), child.stdout.take(), child.stderr.take());
        state.running.push((name.to_owned(), child));
        Ok((pid, stdout, stderr))
    }

    /// Name and pid of every node that runs.
    pub(crate) fn pids(&self) -> Vec<(String, u32)> {
        let state = self.state();
        let nodes = state.running.iter().filter(|(name, _)| !name.is_empty());
        nodes.map(|(name, child)| (name.clone(), child.id())).collect()
    }

    /// Whether the process is gone, and with which exit code; it is forgotten then.
    pub(crate) fn ended(&self, pid: u32) -> Told<Option<Option<i32>>> {
        let mut state = self.state();
        let Some(at) = state.running.iter().position(|(_, child)| child.id() == pid) else {
            return Err(format!("process {pid} does not run"));
        };
        let ended = state.running.get_mut(at).and_then(|(_, child)| child.try_wait().ok().flatten());
        if ended.is_some() {
            state.running.remove(at);
        }
        Ok(ended.map(|status| status.code()))
    }

    /// How a process ended that should run. It stays on the list, so that what it has started is ended, too.
    pub(crate) fn died(&self, pid: u32) -> Option<ExitStatus> {
        let mut state = self.state();
        let found = state.running.iter_mut().find(|(_, child)| child.id() == pid);
        found.and_then(|(_, child)| child.try_wait().ok().flatten())
    }

    /// Leaves processes and directory as they are.
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }
}

/// Ends processes with everything they have started: each is the head of a group.
pub(crate) fn kill_groups(heads: impl IntoIterator<Item = u32>) {
    let groups: Vec<String> = heads.into_iter().map(|pid| format!("-{pid}")).collect();
    if !groups.is_empty() {
        let kill = format!("kill -KILL {}", groups.join(" "));
        let _gone_already = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
    }
}
