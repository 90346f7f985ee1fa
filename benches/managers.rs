//! The managers, real processes of the `quorate` binary, and what they cost. They end when this is dropped.
//!
//! Owns their directories, below one temporary one. Never talks to a manager but by the binary and by signals. Called by the
//! programs beside it, which include this file.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Told;

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) mebibytes: f64,
    pub(crate) cpu: Duration,
}

/// As the system counts them.
pub(crate) fn usage_of(pid: u32) -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let rss = read("status").lines().find_map(|line| {
        let kib = line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
        Some(kib / 1024.0)
    });
    let stat = read("stat");
    // After the name in parentheses: state is the first field, user and system time the 12th and 13th, in hundredths.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Usage { mebibytes: rss.unwrap_or(0.0), cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10) }
}

/// SIGTERM. Every shell has this `kill`; a program of that name is not on every machine.
pub(crate) fn terminate(pid: u32) -> Told<()> {
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status();
    match sent {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("process {pid} cannot be told to stop")),
    }
}

struct Manager {
    name: String,
    address: String,
    child: Option<Child>,
}

/// The processes; they go when this is dropped.
pub(crate) struct Managers {
    binary: PathBuf,
    place: TempDir,
    managers: Vec<Manager>,
    /// Of the certificates that they make, seconds.
    life: Option<u64>,
}

impl Drop for Managers {
    fn drop(&mut self) {
        for manager in &mut self.managers {
            if let Some(mut child) = manager.child.take() {
                let _gone_already = child.kill();
                let _gone_already = child.wait();
            }
        }
    }
}

fn beside() -> Told<PathBuf> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let release = own.parent().and_then(Path::parent).ok_or("this program has no directory")?;
    Ok(release.join("quorate"))
}

impl Managers {
    /// So many managers, each with its directory, one after the other.
    pub(crate) fn start(binary: Option<&Path>, count: usize, life: Option<u64>) -> Told<Self> {
        let binary = binary.map_or_else(beside, |path| Ok(path.to_owned()))?;
        let place = tempfile::Builder::new().prefix("quorate-bench-").tempdir().map_err(|error| error.to_string())?;
        let mut managers = Self { binary, place, managers: Vec::new(), life };
        for _ in 0..count {
            let name = managers.prepare()?;
            managers.run(&name)?;
        }
        Ok(managers)
    }

    /// Has so many of them voting, where that is more than the default.
    pub(crate) fn allow_voters(&self, count: usize) -> Told<()> {
        if count <= 5 {
            return Ok(());
        }
        let most = count.next_multiple_of(2) - 1;
        let set = self.quorate(&self.directory("n1"), &["policy", "set", "--max-voters", &most.to_string()]);
        Self::done(set).map(|_| ())
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn operator(&self) -> PathBuf {
        self.directory("n1").join("operator.id")
    }

    /// In the order of [`usage`](Self::usage).
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.managers.iter().map(|manager| manager.name.as_str())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.managers.iter().map(|manager| manager.address.clone()).collect()
    }

    fn quorate(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data-dir").arg(directory).stdin(Stdio::null());
        command
    }

    fn done(mut command: Command) -> Told<String> {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// One more directory; answers the name.
    pub(crate) fn prepare(&mut self) -> Told<String> {
        let name = format!("n{}", self.managers.len() + 1);
        let directory = self.directory(&name);
        let common = ["--listen", "127.0.0.1:0", "--name", &name, "--json"];
        let made = if let Some(first) = self.managers.first() {
            let show = self.quorate(&self.directory("n1"), &["token", "show", "manager"]);
            let token = Self::done(show)?.lines().next_back().unwrap_or_default().to_owned();
            let join = [&["join"], &common[..], &["--token", &token, "--manager", &first.address]].concat();
            Self::done(self.quorate(&directory, &join))?
        } else {
            Self::done(self.quorate(&directory, &[&["init"], &common[..]].concat()))?
        };
        let made: serde_json::Value = serde_json::from_str(&made).map_err(|error| error.to_string())?;
        let address = made["address"].as_str().unwrap_or_default().to_owned();
        self.managers.push(Manager { name: name.clone(), address, child: None });
        Ok(name)
    }

    fn spawn(&self, name: &str) -> Told<Child> {
        let directory = self.directory(name);
        let log = std::fs::File::create(directory.with_extension("log")).map_err(|error| error.to_string())?;
        let mut command = self.quorate(&directory, &["run", "--log", "warn"]);
        if let Some(life) = self.life {
            command.args(["--certificate-life", &life.to_string()]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().map_err(|error| error.to_string())?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _said_by_the_log = BufReader::new(stdout).read_line(&mut ready);
        }
        if ready.starts_with("ready") {
            return Ok(child);
        }
        let _gone_already = child.kill();
        let _gone_already = child.wait();
        let log = std::fs::read_to_string(directory.with_extension("log")).unwrap_or_default();
        Err(format!("{name} was not ready: {log}"))
    }

    /// Starts what was prepared or has ended, and waits until it is ready.
    pub(crate) fn run(&mut self, name: &str) -> Told<()> {
        let child = self.spawn(name)?;
        self.manager(name)?.child = Some(child);
        Ok(())
    }

    fn manager(&mut self, name: &str) -> Told<&mut Manager> {
        let manager = self.managers.iter_mut().find(|manager| manager.name == name);
        manager.ok_or_else(|| format!("there is no manager {name}"))
    }

    /// A worker as a process of its own, which joins first if it is new.
    pub(crate) fn worker(&self, name: &str, token: &str, new: bool) -> Told<Child> {
        if new {
            let managers = self.addresses().join(",");
            let join = ["join", "--listen", "127.0.0.1:0", "--name", name, "--token", token, "--manager", &managers];
            Self::done(self.quorate(&self.directory(name), &join))?;
        }
        self.spawn(name)
    }

    /// SIGKILL; answers when it was sent.
    pub(crate) fn kill(&mut self, name: &str) -> Told<Instant> {
        let mut child = self.manager(name)?.child.take().ok_or_else(|| format!("{name} does not run"))?;
        let sent = Instant::now();
        child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
        Ok(sent)
    }

    /// SIGTERM; answers when it was sent, once it has ended.
    pub(crate) fn stop(&mut self, name: &str) -> Told<Instant> {
        let mut child = self.manager(name)?.child.take().ok_or_else(|| format!("{name} does not run"))?;
        let sent = Instant::now();
        terminate(child.id())?;
        let status = child.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(sent) } else { Err(format!("{name} did not stop orderly: {status}")) }
    }

    /// Of those that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.managers.iter().filter_map(|manager| manager.child.as_ref()).map(Child::id).collect()
    }

    pub(crate) fn usage(&self) -> Vec<Usage> {
        self.pids().into_iter().map(usage_of).collect()
    }
}
