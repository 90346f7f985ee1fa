//! The processes: prepared, started, killed, paused, stopped, reaped.
//!
//! Owns every child process, and kills and reaps all of them when it is dropped. Sends signals to no process but its own
//! children. Never decides who is to be hurt.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use quorate::status::ClusterStatus;
use quorate::{Client, Identity};

use super::disk::Disk;
use super::machine::ask;
use super::preload::Told;
use super::{BUDGET, Done, harness, violation};

/// One node: its directory, and its process while it runs.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) disk: Disk,
    pub(super) listen: SocketAddr,
    pub(super) front: SocketAddr,
    pub(super) is_worker: bool,
    /// Which program it is run with.
    pub(super) program: PathBuf,
    /// What its disk is told, where there is something in front of it.
    pub(super) told: Option<Told>,
    /// Of its next start.
    pub(super) environment: Vec<(String, OsString)>,
    /// It may end by itself, with one of these codes.
    pub(super) may_end: Vec<i32>,
    /// Whether it is started again when everything is healed; not one that was removed.
    pub(super) may_return: bool,
    /// How often it was started.
    pub(super) life: u64,
    child: Option<Child>,
}

impl Member {
    pub(super) fn new(name: String, disk: Disk, listen: SocketAddr, front: SocketAddr, program: PathBuf) -> Self {
        Self {
            name,
            disk,
            listen,
            front,
            is_worker: false,
            program,
            told: None,
            environment: Vec::new(),
            may_end: Vec::new(),
            may_return: true,
            life: 0,
            child: None,
        }
    }

    /// The node's directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.disk.path.join(&self.name)
    }

    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the kernel says of it: R, S, D, T and so on.
    pub(super) fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    root: PathBuf,
    /// A copy of the operator's identity, which outlives the first manager's disk.
    operator: PathBuf,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _gone_already = child.kill();
        }
        for member in &mut self.members {
            // Who waits for a stalled disk cannot be reaped; whoever clears the machine thaws first.
            let until = Instant::now() + Duration::from_secs(2);
            while member.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Fleet {
    pub(super) fn new(root: &Path) -> Self {
        Self { members: Vec::new(), root: root.to_owned(), operator: root.join("operator.id") }
    }

    /// Runs the binary of one node to its end, on its directory; what it said, or why not.
    pub(super) async fn tool(&self, index: usize, words: &[&str]) -> Done<Result<String, String>> {
        let member = &self.members[index];
        let directory = member.directory();
        let words = words.iter().map(OsStr::new);
        ask(&member.program, words.chain([OsStr::new("--data-dir"), directory.as_os_str()])).await
    }

    /// Makes the directory of the first manager.
    pub(super) async fn found(&self, index: usize) -> Done {
        let (listen, front, name) = self.address(index);
        let made = self.tool(index, &["init", "--name", &name, "--listen", &listen, "--advertise", &front]).await?;
        if let Err(why) = made {
            return harness(format!("the first manager cannot be made: {why}"));
        }
        std::fs::copy(self.members[index].directory().join("operator.id"), &self.operator)?;
        Ok(())
    }

    /// Makes the directory of a newcomer, through these managers.
    pub(super) async fn join(&self, index: usize, token: &str, through: &str) -> Done<Result<String, String>> {
        let (listen, front, name) = self.address(index);
        let words = [
            "join",
            "--name",
            &name,
            "--listen",
            &listen,
            "--advertise",
            &front,
            "--token",
            token,
            "--manager",
            through,
        ];
        self.tool(index, &words).await
    }

    fn address(&self, index: usize) -> (String, String, String) {
        let member = &self.members[index];
        (member.listen.to_string(), member.front.to_string(), member.name.clone())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }

    /// Starts it; does not wait for it.
    pub(super) fn start(&mut self, index: usize, more: &[&str]) -> Done {
        let (root, member) = (self.root.clone(), &mut self.members[index]);
        if member.child.is_some() {
            return harness(format!("{} runs already", member.name));
        }
        member.life += 1;
        let log = File::options().create(true).append(true).open(root.join(format!("{}.log", member.name)))?;
        let out = File::create(root.join(format!("{}.out.{}", member.name, member.life)))?;
        // The kernel ends it when we are gone, however we went.
        let mut command = std::process::Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&member.program).arg("run").args(more);
        command.arg("--data-dir").arg(member.directory()).stdin(Stdio::null()).stdout(out).stderr(log);
        command.envs(member.environment.iter().map(|(name, value)| (name, value)));
        for name in ["QUORATE_CONNECT", "QUORATE_IDENTITY", "QUORATE_LOG"] {
            command.env_remove(name);
        }
        member.child = Some(command.spawn()?);
        Ok(())
    }

    /// Whether it has said that it is ready since it was started last.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        let member = &self.members[index];
        let out = self.root.join(format!("{}.out.{}", member.name, member.life));
        std::fs::read_to_string(out).is_ok_and(|text| text.contains("ready:"))
    }

    /// Waits until it says so.
    pub(super) async fn ready(&mut self, index: usize) -> Done {
        if self.ready_or_over(index).await? {
            return Ok(());
        }
        violation(format!("{} ended before it was ready", self.members[index].name))
    }

    /// Waits until it says so, or ends as it may; whether it is ready.
    pub(super) async fn ready_or_over(&mut self, index: usize) -> Done<bool> {
        let until = Instant::now() + BUDGET;
        loop {
            self.nobody_ended()?;
            if self.is_ready(index) || !self.members[index].runs() {
                return Ok(self.members[index].runs());
            }
            if Instant::now() > until {
                return violation(format!(
                    "{} is neither ready nor refused {BUDGET:?} after it was started",
                    self.members[index].name
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether its log has these words.
    pub(super) fn has_said(&self, index: usize, words: &str) -> bool {
        let log = std::fs::read(self.log(&self.members[index].name)).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(words)
    }

    /// SIGKILL to all of these, and only then the wait for their end. What each ended with.
    pub(super) async fn kill(&mut self, indices: &[usize]) -> Done<Vec<ExitStatus>> {
        for index in indices {
            let member = &mut self.members[*index];
            if let Some(child) = member.child.as_mut() {
                child.kill()?;
            }
        }
        let mut ended = Vec::new();
        for index in indices {
            ended.extend(self.reap(*index, Duration::from_secs(30)).await?);
        }
        Ok(ended)
    }

    /// Waits for the end of a process that is about to end.
    pub(super) async fn reap(&mut self, index: usize, patience: Duration) -> Done<Option<ExitStatus>> {
        let until = Instant::now() + patience;
        loop {
            let member = &mut self.members[index];
            let Some(child) = member.child.as_mut() else { return Ok(None) };
            if let Some(ended) = child.try_wait()? {
                member.child = None;
                return Ok(Some(ended));
            }
            if Instant::now() > until {
                return harness(format!("{} has not ended after {patience:?}", member.name));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it has ended, however; it is reaped then.
    pub(super) fn peek(&mut self, index: usize) -> Done<Option<ExitStatus>> {
        let member = &mut self.members[index];
        let Some(child) = member.child.as_mut() else { return Ok(None) };
        let ended = child.try_wait()?;
        if ended.is_some() {
            member.child = None;
        }
        Ok(ended)
    }

    /// `STOP`, `CONT`, `TERM`, by the kill command: the standard library has no safe call for it.
    pub(super) async fn signal(&self, index: usize, signal: &str) -> Done {
        let Some(pid) = self.members[index].pid() else { return Ok(()) };
        super::machine::must("kill", [format!("-{signal}"), pid.to_string()]).await.map(|_said| ())
    }

    /// Nobody that was not killed may have ended, but those who may.
    pub(super) fn nobody_ended(&mut self) -> Done {
        for member in &mut self.members {
            let Some(ended) = member.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) else { continue };
            member.child = None;
            if !ended.code().is_some_and(|code| member.may_end.contains(&code)) {
                return violation(format!("{} ended by itself: {ended}", member.name));
            }
        }
        Ok(())
    }

    /// No process life left a panic in its log.
    pub(super) fn nobody_panicked(&self) -> Done {
        for member in &self.members {
            let log = std::fs::read(self.log(&member.name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                return violation(format!("{} panicked: {line}", member.name));
            }
        }
        Ok(())
    }

    /// The end of every node's log, for whoever has to find out.
    pub(super) fn tails(&self, lines: usize) -> Vec<(String, Vec<String>)> {
        let tail = |member: &Member| {
            let log = std::fs::read(self.log(&member.name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<&str> = log.lines().collect();
            all.iter().skip(all.len().saturating_sub(lines)).map(|line| (*line).to_owned()).collect()
        };
        self.members.iter().map(|member| (member.name.clone(), tail(member))).collect()
    }

    pub(super) fn logs(&self) -> Vec<PathBuf> {
        self.members.iter().map(|member| self.log(&member.name)).collect()
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.members.iter().position(|member| member.name == name)
    }

    /// Managers whose process runs.
    pub(super) fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].runs() && !self.members[*index].is_worker).collect()
    }

    pub(super) fn managers(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| !self.members[*index].is_worker).collect()
    }

    /// A new client with connections of its own to these managers.
    pub(super) async fn client(&self, indices: &[usize]) -> Done<Client> {
        let identity = match Identity::load(&self.operator) {
            Ok(identity) => identity,
            Err(why) => return harness(format!("the operator's identity: {why}")),
        };
        let managers = indices.iter().map(|index| self.members[*index].listen.to_string());
        match Client::connect_within(managers, identity, BUDGET).await {
            Ok(client) => Ok(client),
            Err(why) => harness(format!("no connection to a manager: {why}")),
        }
    }
}

/// The manager that says of itself that it leads, by the newest generation and term.
pub(super) fn leader_of(answers: &[ClusterStatus]) -> Option<String> {
    let own = |status: &&ClusterStatus| status.leader.as_ref() == Some(&status.answered_by);
    let newest = answers.iter().filter(own).max_by_key(|status| (status.generation, status.term));
    newest.and_then(|status| status.leader.clone())
}
