//! The nodes as processes: managers of the real `quorate` binary, workers of this program (see `worker`).
//!
//! Owns the commands that are run, the nodes' names and addresses, and what they print. Never talks to a node but by the
//! binary and by signals. All of it is gone when this is dropped, see `remains`. Called by the chapters.

use std::io::{BufRead as _, BufReader, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::remains::{Remains, kill_groups};
use crate::story::Story;

/// Errors of the demo are sentences.
pub(crate) type Told<T> = Result<T, String>;

/// How long a node may take to be ready, and to stop, and a command to end.
const PATIENCE: Duration = Duration::from_secs(45);
/// How much of a log is shown.
const LOG_LINES: usize = 12;
/// How many workers there are.
const WORKERS: usize = 2;

/// One node.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) address: String,
    /// It begins as a worker: a process of this program, which embeds the node.
    pub(crate) embedded: bool,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Done {
    /// None when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The cluster of processes.
#[derive(Debug)]
pub(crate) struct Processes {
    binary: PathBuf,
    /// This program.
    own: PathBuf,
    pub(crate) managers: Vec<Member>,
    pub(crate) workers: Vec<Member>,
    remains: Arc<Remains>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.remains.clean();
    }
}

impl Processes {
    /// A directory on a real disk and a free port for each node; nothing runs yet.
    pub(crate) fn prepare(binary: &Path, managers: usize) -> Told<Self> {
        let io = |error: std::io::Error| format!("cannot prepare the demo: {error}");
        let binary = binary.canonicalize().map_err(|error| {
            format!("there is no quorate binary at {}: {error}; make demo builds it", binary.display())
        })?;
        let own = std::env::current_exe().map_err(io)?;
        // All sockets are open at once, so that no port comes twice.
        let sockets: Vec<UdpSocket> =
            (0..managers + WORKERS).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(io)?;
        let member = |(index, socket): (usize, &UdpSocket)| {
            let embedded = index >= managers;
            let name = if embedded { format!("w{}", index + 1 - managers) } else { format!("n{}", index + 1) };
            Ok(Member { name, address: socket.local_addr().map_err(io)?.to_string(), embedded })
        };
        let mut members = sockets.iter().enumerate().map(member).collect::<Told<Vec<_>>>()?;
        let workers = members.split_off(managers);
        let directory = tempfile::Builder::new().prefix("quorate-demo-").tempdir_in(disk()).map_err(io)?.keep();
        let remains = Arc::new(Remains::new(directory));
        Ok(Self { binary, own, managers: members, workers, remains })
    }

    /// For whoever has to clean up when the demo is interrupted.
    pub(crate) fn remains(&self) -> Arc<Remains> {
        Arc::clone(&self.remains)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.remains.directory()
    }

    /// Where the two programs lie, for a PATH.
    pub(crate) fn places(&self) -> String {
        let places = [&self.binary, &self.own].map(|program| program.parent().unwrap_or(program).display().to_string());
        places.join(":")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.directory().join("n1").join("operator.id")
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.managers.iter().map(|manager| manager.address.clone()).collect()
    }

    /// The node of this name.
    pub(crate) fn member(&self, name: &str) -> Told<&Member> {
        let known = self.managers.iter().chain(&self.workers).find(|member| member.name == name);
        known.ok_or_else(|| format!("there is talk of a node `{name}` that the demo did not start"))
    }

    /// Name and pid of every node that runs.
    pub(crate) fn pids(&self) -> Vec<(String, u32)> {
        self.remains.pids()
    }

    /// The pid of a node that was started and not ended by the demo.
    pub(crate) fn pid(&self, name: &str) -> Told<u32> {
        let running = self.pids().into_iter().find(|(running, _)| running == name);
        running.map(|(_, pid)| pid).ok_or_else(|| format!("{name} does not run"))
    }

    /// Runs the binary to its end, whatever that is.
    pub(crate) fn command(&self, story: &Story, arguments: &[&str]) -> Told<Done> {
        story.command(&shown("quorate", arguments), None);
        self.ended(Command::new(&self.binary).args(arguments), arguments)
    }

    /// As [`quorate`](Self::quorate), and its command line is not told: it is given again and again, or its answer is long.
    pub(crate) fn quorate_quietly(&self, arguments: &[&str]) -> Told<String> {
        let done = self.ended(Command::new(&self.binary).args(arguments), arguments)?;
        if done.code == Some(0) { Ok(done.stdout) } else { Err(done.stderr) }
    }

    /// As [`quorate`](Self::quorate), with a file to read from.
    pub(crate) fn quorate_from(&self, story: &Story, arguments: &[&str], file: &Path) -> Told<String> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        story.command(&format!("{} < {name}", shown("quorate", arguments)), None);
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" < \"$QUORATE_DEMO_INPUT\""]).arg(&self.binary).args(arguments);
        let done = self.ended(command.env("QUORATE_DEMO_INPUT", file), arguments)?;
        if done.code == Some(0) { Ok(done.stdout) } else { Err(done.stderr) }
    }

    /// Runs a command to its end.
    fn ended(&self, command: &mut Command, arguments: &[&str]) -> Told<Done> {
        let (pid, stdout, stderr) = self.remains.spawn("", command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        let code = self.reap(pid).map_err(|error| format!("`{}`: {error}", shown("quorate", arguments)))?;
        let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
        Ok(Done { code, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs the binary to its good end and answers what it printed.
    pub(crate) fn quorate(&self, story: &Story, arguments: &[&str]) -> Told<String> {
        let done = self.command(story, arguments)?;
        if done.code == Some(0) {
            return Ok(done.stdout);
        }
        let command = shown("quorate", arguments);
        Err(format!("`{command}` ended with {}: {}", exit(done.code), done.stderr.trim()))
    }

    /// Runs the binary, which has to end with this exit code; answers the message.
    pub(crate) fn refused(&self, story: &Story, arguments: &[&str], code: i32) -> Told<String> {
        let done = self.command(story, arguments)?;
        let message = done.stderr.lines().last().unwrap_or_default().to_owned();
        story.say(&message);
        if done.code == Some(code) {
            story.say(&format!("(exit code {code})"));
            return Ok(message);
        }
        let command = shown("quorate", arguments);
        Err(format!("`{command}` should have ended with exit code {code}, and ended with {}", exit(done.code)))
    }

    /// Starts a prepared node and waits for its line; answers that line.
    pub(crate) fn start(&self, story: &Story, name: &str) -> Told<String> {
        let ready = self.begin(story, name)?;
        self.wait_ready(story, name, ready)
    }

    /// Starts a prepared node; what it says on stdout.
    pub(crate) fn begin(&self, story: &Story, name: &str) -> Told<mpsc::Receiver<String>> {
        let member = self.member(name)?;
        let (program, shown_as, verb) =
            if member.embedded { (&self.own, "cluster", "worker") } else { (&self.binary, "quorate", "run") };
        let arguments = [verb, "--data-dir", name];
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))
            .map_err(|error| format!("cannot open the log of {name}: {error}"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(log);
        let (pid, stdout, _) = self.remains.spawn(name, &mut command)?;
        story.command(&format!("{} 2>>{name}.log", shown(shown_as, &arguments)), Some(pid));
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
                let _not_waited_for = sender.send(line);
            }
        });
        Ok(ready)
    }

    /// Waits for the line of a node that was started; answers that line.
    pub(crate) fn wait_ready(&self, story: &Story, name: &str, ready: mpsc::Receiver<String>) -> Told<String> {
        let live = story.waiting(&format!("{name} starts"));
        let line = ready.recv_timeout(PATIENCE);
        drop(live);
        match line {
            Ok(line) => {
                story.say(&line);
                Ok(line)
            }
            Err(_) => {
                Err(format!("{name} was not ready within {} s; its log ends:\n{}", PATIENCE.as_secs(), self.tail(name)))
            }
        }
    }

    /// SIGKILL: these processes have no chance to say anything. Answers when it was sent.
    pub(crate) fn kill(&self, story: &Story, names: &[&str]) -> Told<Instant> {
        let pids = names.iter().map(|name| self.pid(name)).collect::<Told<Vec<_>>>()?;
        let sent = Instant::now();
        self.signal(story, "KILL", &pids)?;
        for pid in pids {
            self.reap(pid)?;
        }
        Ok(sent)
    }

    /// SIGTERM: it hands over what it has and stops. Answers how long that took.
    pub(crate) fn stop(&self, story: &Story, name: &str) -> Told<Duration> {
        let pid = self.pid(name)?;
        let sent = Instant::now();
        self.signal(story, "TERM", &[pid])?;
        match self.reap(pid)? {
            Some(0) => Ok(sent.elapsed()),
            code => {
                kill_groups([pid]);
                Err(format!("{name} did not stop orderly: {}; its log ends:\n{}", exit(code), self.tail(name)))
            }
        }
    }

    fn signal(&self, story: &Story, signal: &str, pids: &[u32]) -> Told<()> {
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let command = format!("kill -{signal} {}", pids.join(" "));
        story.command(&command, None);
        // Every shell has this `kill`; a program of that name is not on every machine.
        let done = Command::new("sh").args(["-c", &command]).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("`{command}` did not work")),
        }
    }

    /// Waits until the process is gone; none when a signal ended it.
    fn reap(&self, pid: u32) -> Told<Option<i32>> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(code) = self.remains.ended(pid)? {
                return Ok(code);
            }
            if Instant::now() > until {
                return Err(format!("process {pid} did not end within {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The process that was started as this node is the one that runs.
    pub(crate) fn check_runs(&self, name: &str, pid: u32) -> Told<()> {
        let now = self.pid(name)?;
        if now != pid {
            return Err(format!("{name} was process {pid} and is process {now}"));
        }
        match self.remains.died(pid) {
            None => Ok(()),
            Some(how) => Err(format!("{name} ended by itself: {how}; its log ends:\n{}", self.tail(name))),
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.log"))
    }

    /// The last lines of a node's log.
    fn tail(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
    }

    /// The end of each node's log, for whoever has to find out what went wrong: the logs go with the directory.
    pub(crate) fn logs(&self) -> String {
        let members = self.managers.iter().chain(&self.workers).filter(|member| self.log(&member.name).exists());
        let ends = members.map(|member| format!("\n   {}.log ends:\n{}", member.name, self.tail(&member.name)));
        ends.collect::<Vec<_>>().join("\n")
    }

    /// Leaves processes and directory as they are.
    pub(crate) fn hold(&self) {
        self.remains.hold();
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _what_there_is = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"))
}

fn shown(program: &str, arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@[]".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            (*argument).to_owned()
        } else {
            format!("'{argument}'")
        }
    });
    std::iter::once(program.to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}

/// Where temporary files go; not into memory, because then a sync would cost nothing and prove nothing.
fn disk() -> PathBuf {
    let usual = std::env::temp_dir();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let in_memory = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| usual.starts_with(at))
        .max_by_key(|(at, _)| at.len())
        .is_some_and(|(_, kind)| kind == "tmpfs");
    let on_disk = PathBuf::from("/var/tmp");
    if in_memory && on_disk.is_dir() { on_disk } else { usual }
}
