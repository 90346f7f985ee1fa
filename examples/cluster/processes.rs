//! The managers as processes of the real `quorate` binary.
//!
//! Owns every process that the demo starts and the directory they live in: both are gone when this is dropped, also
//! after a panic or ctrl-c. Never talks to a manager but by the binary and by signals. Called by the chapters.

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::story::Story;

/// Errors of the demo are sentences.
pub(crate) type Told<T> = Result<T, String>;

/// How long a manager may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// One manager.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) address: String,
}

/// What must not outlive the demo.
#[derive(Debug)]
pub(crate) struct Remains {
    directory: PathBuf,
    running: Mutex<Vec<(usize, Child)>>,
    held: Mutex<bool>,
}

impl Remains {
    fn running(&self) -> MutexGuard<'_, Vec<(usize, Child)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every process and removes the directory; the second time there is nothing left to do.
    pub(crate) fn clean(&self) {
        if *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        for (_, mut child) in self.running().drain(..) {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
        let _gone_already = std::fs::remove_dir_all(&self.directory);
    }
}

/// The cluster of processes.
#[derive(Debug)]
pub(crate) struct Processes {
    binary: PathBuf,
    pub(crate) managers: Vec<Manager>,
    remains: Arc<Remains>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.remains.clean();
    }
}

impl Processes {
    /// A directory on a real disk and a free port for each manager; nothing runs yet.
    pub(crate) fn prepare(binary: &Path, count: usize) -> Told<Self> {
        let io = |error: std::io::Error| format!("cannot prepare the demo: {error}");
        let binary = binary.canonicalize().map_err(|error| {
            format!("there is no quorate binary at {}: {error}; make demo builds it", binary.display())
        })?;
        // All sockets are open at once, so that no port comes twice.
        let sockets: Vec<UdpSocket> =
            (0..count).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(io)?;
        let managers = sockets
            .iter()
            .enumerate()
            .map(|(index, socket)| {
                let address = socket.local_addr().map_err(io)?.to_string();
                Ok(Manager { name: format!("n{}", index + 1), address })
            })
            .collect::<Told<Vec<_>>>()?;
        let directory = tempfile::Builder::new().prefix("quorate-demo-").tempdir_in(disk()).map_err(io)?.keep();
        let remains = Arc::new(Remains { directory, running: Mutex::new(Vec::new()), held: Mutex::new(false) });
        Ok(Self { binary, managers, remains })
    }

    /// For whoever has to clean up when the demo is interrupted.
    pub(crate) fn remains(&self) -> Arc<Remains> {
        Arc::clone(&self.remains)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.remains.directory
    }

    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.directory().join("n1").join("operator.id")
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.managers.iter().map(|manager| manager.address.clone()).collect()
    }

    pub(crate) fn manager(&self, index: usize) -> Told<&Manager> {
        self.managers.get(index).ok_or_else(|| format!("there is no manager number {index}"))
    }

    /// The place of the manager with this name.
    pub(crate) fn named(&self, name: &str) -> Told<usize> {
        self.managers
            .iter()
            .position(|manager| manager.name == name)
            .ok_or_else(|| format!("the status names a manager `{name}` that the demo did not start"))
    }

    /// Pid and name of everything that runs.
    pub(crate) fn pids(&self) -> Vec<(usize, u32)> {
        self.remains.running().iter().map(|(index, child)| (*index, child.id())).collect()
    }

    fn pid(&self, index: usize) -> Told<u32> {
        let running = self.pids().into_iter().find(|(running, _)| *running == index);
        running.map(|(_, pid)| pid).ok_or_else(|| format!("manager number {index} does not run"))
    }

    /// Runs the binary to its end and answers what it printed.
    pub(crate) fn quorate(&self, story: &Story, arguments: &[&str]) -> Told<String> {
        let shown = shown(arguments);
        story.command(&shown, None);
        let done = Command::new(&self.binary)
            .args(arguments)
            .current_dir(self.directory())
            .output()
            .map_err(|error| format!("cannot run `{shown}`: {error}"))?;
        if !done.status.success() {
            let error = String::from_utf8_lossy(&done.stderr);
            return Err(format!("`{shown}` ended with {}: {}", done.status, error.trim()));
        }
        String::from_utf8(done.stdout).map_err(|_not_text| format!("`{shown}` did not print text"))
    }

    /// Starts a prepared manager and waits for its line; answers that line.
    pub(crate) fn start(&self, story: &Story, index: usize) -> Told<String> {
        let name = &self.manager(index)?.name;
        let arguments = ["run", "--data-dir", name];
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))
            .map_err(|error| format!("cannot open the log of {name}: {error}"))?;
        let mut child = Command::new(&self.binary)
            .args(arguments)
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A ctrl-c in the terminal is for the demo, which then stops its managers.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        story.command(&format!("{} 2>>{name}.log", shown(&arguments)), Some(child.id()));
        let stdout = child.stdout.take();
        self.remains.running().push((index, child));
        let (sender, ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
                let _not_waited_for = sender.send(line);
            }
        });
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

    /// SIGKILL: the process has no chance to say anything. Answers when it was sent.
    pub(crate) fn kill(&self, story: &Story, index: usize) -> Told<Instant> {
        let pid = self.pid(index)?;
        let sent = Instant::now();
        self.signal(story, "KILL", pid)?;
        self.reap(index)?;
        Ok(sent)
    }

    /// SIGTERM: it hands over what it has and stops. Answers how long that took.
    pub(crate) fn stop(&self, story: &Story, index: usize) -> Told<Duration> {
        let pid = self.pid(index)?;
        let sent = Instant::now();
        self.signal(story, "TERM", pid)?;
        let name = &self.manager(index)?.name;
        let status = self.reap(index)?;
        if status == Some(0) {
            return Ok(sent.elapsed());
        }
        Err(format!("{name} did not stop orderly: exit code {status:?}; its log ends:\n{}", self.tail(name)))
    }

    fn signal(&self, story: &Story, signal: &str, pid: u32) -> Told<()> {
        let command = format!("kill -{signal} {pid}");
        story.command(&command, None);
        // Every shell has this `kill`; a program of that name is not on every machine.
        let done = Command::new("sh").args(["-c", &command]).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("`{command}` did not work")),
        }
    }

    /// Waits until the process is gone; none when a signal ended it.
    fn reap(&self, index: usize) -> Told<Option<i32>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut running = self.remains.running();
            let Some(at) = running.iter().position(|(running, _)| *running == index) else {
                return Err(format!("manager number {index} does not run"));
            };
            let ended = running.get_mut(at).and_then(|(_, child)| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                running.remove(at);
                return Ok(status.code());
            }
            drop(running);
            if Instant::now() > until {
                return Err(format!("manager number {index} did not end within {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}.log"))
    }

    /// The last lines of a manager's log.
    pub(crate) fn tail(&self, name: &str) -> String {
        let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// Leaves processes and directory as they are.
    pub(crate) fn hold(&self) {
        *self.remains.held.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

fn shown(arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@[]".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            (*argument).to_owned()
        } else {
            format!("'{argument}'")
        }
    });
    std::iter::once("quorate".to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
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
