//! Verbs of the scenarios: run the binary to its end, run a node beside the test, wait for a condition.
//!
//! Owns the processes that a scenario starts: they are gone when it ends, however it ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes on the slowest machine; only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary of today.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate");

fn command(arguments: &[&str]) -> Command {
    command_of(PROGRAM, arguments)
}

fn command_of(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("QUORATE_CONNECT")
        .env_remove("QUORATE_IDENTITY")
        .env_remove("QUORATE_LOG")
        .env_remove("NO_COLOR");
    command
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub exit: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub bytes: Vec<u8>,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            exit: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }

    /// The one JSON document on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It must have ended so.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.exit, Some(code), "{self:?}");
        self
    }

    /// It must have said so on stderr.
    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in {self:?}");
        }
        self
    }
}

/// Runs the binary to its end.
pub fn quorate(arguments: &[&str]) -> Said {
    Said::of(command(arguments).stdin(Stdio::null()).output().unwrap())
}

/// The same, with another stdout.
pub fn quorate_into(arguments: &[&str], stdout: Stdio) -> Said {
    let stderr = Stdio::piped();
    let child = command(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
    Said::of(child.wait_with_output().unwrap())
}

/// A pipe whose reader went away.
pub fn gone() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// A disk without room.
pub fn full() -> Stdio {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// The binary, with a closed stdout.
pub fn quorate_closed(arguments: &[&str]) -> Said {
    let words = ["-c", "exec \"$0\" \"$@\" >&-", PROGRAM];
    Said::of(Command::new("sh").args(words).args(arguments).stdin(Stdio::null()).output().unwrap())
}

/// The same, of another binary.
pub fn quorate_of(program: &str, arguments: &[&str]) -> Said {
    Said::of(command_of(program, arguments).stdin(Stdio::null()).output().unwrap())
}

/// A command that runs beside the test; killed when it is dropped.
pub struct Beside {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Beside {
    pub fn start(arguments: &[&str]) -> Self {
        Self::of(&mut command(arguments))
    }

    /// The same, with a directory for what is temporary of its own.
    pub fn start_with_temporary(temporary: &Path, arguments: &[&str]) -> Self {
        Self::of(command(arguments).env("TMPDIR", temporary))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line on its stdout.
    #[track_caller]
    pub fn says(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// It ends by itself; answers the exit code.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        eventually("the command ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same, with something on stdin.
pub fn quorate_with_stdin(arguments: &[&str], input: &[u8]) -> Said {
    let mut child =
        command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Said::of(child.wait_with_output().unwrap())
}

/// The same, with environment.
pub fn quorate_with_env(arguments: &[&str], env: &[(&str, &str)]) -> Said {
    Said::of(command(arguments).envs(env.iter().copied()).stdin(Stdio::null()).output().unwrap())
}

/// The sum of a metric over all its labels, as the page of a node (`run --http`) has it.
pub fn metric_sum(http: &str, name: &str) -> u64 {
    let mut stream = std::net::TcpStream::connect(http).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    std::io::Read::read_to_string(&mut stream, &mut page).unwrap();
    let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let values = page.lines().filter(of_it).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    values.sum()
}

/// Waits until `found` answers.
#[track_caller]
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A command on a node's own machine.
pub fn on(node: &Node, arguments: &[&str]) -> Said {
    quorate(&[arguments, &["--data-dir", node.dir()]].concat())
}

/// Managers n1, n2, ..., each in its seat where the number is odd.
pub fn managers(place: &Path, count: usize) -> Vec<Node> {
    let mut nodes = vec![Node::init(place, "n1")];
    nodes[0].run();
    for number in 2..=count {
        let mut node = Node::join(place, &format!("n{number}"), &nodes[0]);
        node.run();
        nodes.push(node);
    }
    let seats = if count.is_multiple_of(2) { count - 1 } else { count };
    eventually("all have their seats", || (nodes[0].status()["voters"] == seats).then_some(()));
    nodes
}

/// A node's directory, prepared, and its process while it runs.
pub struct Node {
    pub directory: PathBuf,
    /// Which binary it is run with.
    pub program: String,
    /// What it is run with besides.
    pub environment: Vec<(&'static str, PathBuf)>,
    pub address: String,
    child: Option<Child>,
    pub ready: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node {
    pub fn init(place: &Path, name: &str) -> Self {
        let directory = place.join(name);
        let path = directory.to_str().unwrap();
        let made = quorate(&["init", "--data-dir", path, "--listen", "127.0.0.1:0", "--name", name, "--json"]).exits(0);
        let address = made.json()["address"].as_str().unwrap().to_owned();
        Self::at(directory, address)
    }

    pub fn join(place: &Path, name: &str, first: &Self) -> Self {
        Self::join_as("manager", place, name, first)
    }

    /// As manager or worker.
    pub fn join_as(role: &str, place: &Path, name: &str, first: &Self) -> Self {
        let token = first.token(role);
        let directory = place.join(name);
        let path = directory.to_str().unwrap();
        let base = ["join", "--data-dir", path, "--listen", "127.0.0.1:0", "--name", name, "--json"];
        let joined = quorate(&[&base[..], &["--token", &token, "--manager", &first.address]].concat()).exits(0);
        let address = joined.json()["address"].as_str().unwrap().to_owned();
        Self::at(directory, address)
    }

    /// The standing token of a role, as this running manager shows it.
    pub fn token(&self, role: &str) -> String {
        let said = quorate(&["token", "show", role, "--data-dir", self.dir()]).exits(0);
        said.stdout.lines().next_back().unwrap().to_owned()
    }

    fn at(directory: PathBuf, address: String) -> Self {
        let (program, environment) = (PROGRAM.to_owned(), Vec::new());
        Self { directory, program, environment, address, child: None, ready: String::new() }
    }

    /// A directory that was prepared otherwise.
    pub fn of(directory: PathBuf) -> Self {
        Self::at(directory, String::new())
    }

    pub fn dir(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    pub fn operator(&self) -> String {
        self.directory.join("operator.id").to_str().unwrap().to_owned()
    }

    /// Starts it and waits for its first line.
    #[track_caller]
    pub fn run(&mut self) -> &mut Self {
        self.run_with(&["run"])
    }

    /// The same, by another command line.
    #[track_caller]
    pub fn run_with(&mut self, words: &[&str]) -> &mut Self {
        let lines = self.start(words);
        self.wait_ready(&lines);
        self
    }

    /// Starts it; what it says on stdout, line by line.
    pub fn start(&mut self, words: &[&str]) -> mpsc::Receiver<String> {
        let log = std::fs::File::create(self.directory.with_extension("log")).unwrap();
        let mut child = command_of(&self.program, &[words, &["--data-dir", self.dir()]].concat())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        self.child = Some(child);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        lines
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn wait_ready(&mut self, lines: &mpsc::Receiver<String>) {
        self.ready = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(self.directory.with_extension("log")).unwrap_or_default();
            panic!("{} was not ready: {log}", self.dir())
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// It ends by itself; answers the exit code.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        eventually("the node stops", || child.try_wait().unwrap()).code()
    }

    /// What it logged since it was started last.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.with_extension("log")).unwrap()
    }

    /// SIGTERM; answers the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.pid())]).status().unwrap();
        assert!(sent.success());
        self.ends()
    }

    pub fn status(&self) -> Value {
        quorate(&["status", "--json", "--data-dir", self.dir()]).exits(0).json()
    }
}
