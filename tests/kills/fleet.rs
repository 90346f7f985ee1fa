//! The manager processes: started, killed, paused, reaped.
//!
//! Owns every child process, and kills and reaps all of them when it is dropped. Sends signals to no process but its
//! own children.

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::status::ClusterStatus;
use quorate::{Client, Identity};

use crate::{Outcome, manager};

pub const MANAGERS: usize = 3;
/// How long anything that must happen may take on a slow machine.
pub const BUDGET: Duration = Duration::from_secs(60);

pub struct Member {
    pub name: String,
    pub address: String,
    directory: PathBuf,
    child: Option<Child>,
    /// How often it was started; shared with whoever sums up what one process life has counted.
    pub life: Arc<AtomicU64>,
}

pub struct Fleet {
    pub members: Vec<Member>,
    root: PathBuf,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
        }
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.wait();
        }
    }
}

impl Fleet {
    /// Three managers, all in their seats.
    pub async fn formed(root: &Path) -> Outcome<Self> {
        let mut fleet = Self { members: Vec::new(), root: root.to_owned() };
        let first = fleet.add()?;
        fleet.spawn(first, "found", &[])?;
        fleet.up(first).await?;
        let client = fleet.client(&[first]).await?;
        let token = client.join_token("manager").await.map_err(|error| error.to_string())?;
        while fleet.members.len() < MANAGERS {
            let through = fleet.members[first].address.clone();
            let next = fleet.add()?;
            fleet.spawn(next, "join", &[(manager::TOKEN, &token), (manager::THROUGH, &through)])?;
            fleet.up(next).await?;
        }
        let until = Instant::now() + BUDGET;
        loop {
            let status = client.status().await.map_err(|error| error.to_string())?;
            if status.voters == MANAGERS && status.managers.iter().all(|manager| manager.reachable) {
                return Ok(fleet);
            }
            if Instant::now() > until {
                return Err(format!("{} of {MANAGERS} managers have a seat after {BUDGET:?}", status.voters));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn add(&mut self) -> Outcome<usize> {
        let number = self.members.len();
        let name = format!("m{}", number + 1);
        let address = lasting_address()?;
        let directory = self.root.join(&name);
        self.members.push(Member { name, address, directory, child: None, life: Arc::default() });
        Ok(number)
    }

    fn up_file(&self, index: usize) -> PathBuf {
        let member = &self.members[index];
        self.root.join(format!("{}.up.{}", member.name, member.life.load(Ordering::SeqCst)))
    }

    fn spawn(&mut self, index: usize, start: &str, more: &[(&str, &str)]) -> Outcome {
        self.members[index].life.fetch_add(1, Ordering::SeqCst);
        let up = self.up_file(index);
        let member = &mut self.members[index];
        let io = |error: std::io::Error| format!("{} cannot be started: {error}", member.name);
        let log = self.root.join(format!("{}.log", member.name));
        let log = File::options().create(true).append(true).open(log).map_err(io)?;
        let child = Command::new(std::env::current_exe().map_err(io)?)
            .env(manager::DIRECTORY, &member.directory)
            .env(manager::START, start)
            .env(manager::CALLED, &member.name)
            .env(manager::LISTEN, &member.address)
            .env(manager::UP, up)
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(io)?;
        member.child = Some(child);
        Ok(())
    }

    /// Starts a killed one again; does not wait for it.
    pub fn restart(&mut self, index: usize) -> Outcome {
        self.spawn(index, "open", &[])
    }

    /// Waits until its endpoint listens.
    pub async fn up(&mut self, index: usize) -> Outcome {
        let up = self.up_file(index);
        let until = Instant::now() + BUDGET;
        while !up.exists() {
            self.all_run()?;
            if Instant::now() > until {
                return Err(format!("{} does not come up within {BUDGET:?}", self.members[index].name));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// SIGKILL to all of these, and only then the wait for their end: as when the power goes.
    pub fn kill(&mut self, indices: &[usize]) -> Outcome {
        self.all_run()?;
        for index in indices {
            if let Some(child) = self.members[*index].child.as_mut() {
                child.kill().map_err(|error| format!("cannot kill {}: {error}", self.members[*index].name))?;
            }
        }
        for index in indices {
            if let Some(mut child) = self.members[*index].child.take() {
                child.wait().map_err(|error| format!("cannot reap {}: {error}", self.members[*index].name))?;
            }
        }
        Ok(())
    }

    /// `STOP` or `CONT`, by the kill command: the standard library has no safe call for it.
    pub fn signal(&self, index: usize, signal: &str) -> Outcome {
        let member = &self.members[index];
        let Some(child) = member.child.as_ref() else { return Ok(()) };
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("kill -{signal} of {} failed: {status}", member.name)),
            Err(error) => Err(format!("the kill command cannot be run: {error}")),
        }
    }

    /// Nobody that was not killed may have ended.
    pub fn all_run(&mut self) -> Outcome {
        for member in &mut self.members {
            if let Some(ended) = member.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("{} ended by itself: {ended}", member.name));
            }
        }
        Ok(())
    }

    /// No process life left a panic in its log.
    pub fn nobody_panicked(&self) -> Outcome {
        for member in &self.members {
            let log = std::fs::read(self.root.join(format!("{}.log", member.name))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                return Err(format!("{} panicked: {line}", member.name));
            }
        }
        Ok(())
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }

    /// A new client with connections of its own to these managers.
    pub async fn client(&self, indices: &[usize]) -> Outcome<Client> {
        let identity = self.members[0].directory.join("operator.id");
        let identity = Identity::load(&identity).map_err(|error| format!("the operator's identity: {error}"))?;
        let managers = indices.iter().map(|index| self.members[*index].address.clone());
        Client::connect(managers, identity).await.map_err(|error| format!("no connection to a manager: {error}"))
    }
}

/// A loopback address that stays this process's also while nobody listens on it: the system hands ports of its
/// ephemeral range to whatever client asks next, and a killed manager would find its port taken.
fn lasting_address() -> Outcome<String> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u16);
    for _ in 0..1_000 {
        // A port that the system gives is a random number; shifted below the range it gives from.
        let random = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let random = random.map_err(|error| format!("no port: {error}"))?.port();
        let port = 1_024 + random % first.saturating_sub(1_024).max(1);
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    Err("no free UDP port below the ephemeral range".to_owned())
}

/// The manager that says of itself that it leads, by the newest term.
pub fn leader_of(answers: &[ClusterStatus]) -> Option<String> {
    let own = |status: &&ClusterStatus| status.leader.as_ref() == Some(&status.answered_by);
    answers.iter().filter(own).max_by_key(|status| status.term).and_then(|status| status.leader.clone())
}

/// The end of every manager's log.
pub fn print_tails(root: &Path) {
    for number in 1..=MANAGERS {
        let log = std::fs::read(root.join(format!("m{number}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        println!("--- end of m{number}'s log ({} lines) ---", lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(40)) {
            println!("{line}");
        }
    }
}
