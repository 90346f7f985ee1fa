//! The machine that all of it runs on: programs that are run to their end, and what is undone first and last.
//!
//! Owns the directories of runs and everything that may be left in them: processes, mounts, frozen file systems, loop devices,
//! rules of the firewall. A sweep can be repeated at will, and touches nothing that does not carry the name of a run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use super::{Done, Trouble, harness};

/// What the directories of runs begin with; the process id of their owner follows.
const PREFIX: &str = "quorate-chaos-";
/// Longer than any program here takes; one that hangs must not hang the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program to its end.
pub(super) async fn run<I: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = I>,
) -> Done<Output> {
    let program = program.as_ref();
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(why)) => harness(format!("{} cannot be run: {why}", program.display())),
        Err(_late) => harness(format!("{} did not end within {PATIENCE:?}", program.display())),
    }
}

/// The same; what it said on stdout, or why it failed in its own words.
pub(super) async fn ask<I: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = I>,
) -> Done<Result<String, String>> {
    let program = program.as_ref();
    let output = run(program, arguments).await?;
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(said(program, &output)) })
}

/// The same, where anything but success is a failure of the harness.
pub(super) async fn must<I: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = I>,
) -> Done<String> {
    ask(program, arguments).await?.map_err(Trouble::Harness)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn said(program: &OsStr, output: &Output) -> String {
    format!("{} ended with {}: {} {}", program.display(), output.status, text(&output.stderr), text(&output.stdout))
}

/// A program to its end, from where nothing can be awaited; whether it succeeded.
fn plainly<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> bool {
    let mut command = std::process::Command::new(program);
    let quiet = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether we may mount, freeze and filter here.
pub(super) async fn is_root() -> bool {
    ask("id", ["-u"]).await.is_ok_and(|id| id.is_ok_and(|id| id == "0"))
}

/// Compiles a helper in C with the compiler that RocksDB is built with.
pub(super) async fn compile(source: &str, options: &[&str], into: &Path) -> Done<Result<(), String>> {
    let from = into.with_extension("c");
    std::fs::write(&from, source)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_unset| "cc".to_owned());
    let mut arguments: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
    arguments.extend([OsStr::new("-O1"), OsStr::new("-o"), into.as_os_str(), from.as_os_str(), OsStr::new("-ldl")]);
    let mut command = tokio::process::Command::new(&compiler);
    match command.args(arguments).stdin(Stdio::null()).output().await {
        Ok(output) if output.status.success() => Ok(Ok(())),
        Ok(output) => Ok(Err(said(OsStr::new(&compiler), &output))),
        Err(why) => Ok(Err(format!("there is no C compiler: {why}"))),
    }
}

/// The directory of one run. Swept when it is dropped; kept on disk where that is asked.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) root: PathBuf,
    keep: bool,
}

impl Ground {
    /// Sweeps what dead runs left, and makes a directory for this one.
    pub(super) fn new(keep: bool) -> Done<Self> {
        let place = std::env::temp_dir();
        for entry in std::fs::read_dir(&place)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
            if owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists() {
                let _left_over = sweep(&entry.path());
                let _gone = std::fs::remove_dir_all(entry.path());
            }
        }
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let root = tempfile::Builder::new().prefix(&prefix).tempdir_in(&place)?.keep();
        Ok(Self { root, keep })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Undoes everything, and says what should not have been left any more.
    pub(super) fn clear(&self) -> Vec<String> {
        sweep(&self.root)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _left_over = sweep(&self.root);
        if !self.keep {
            let _gone = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// The name of the firewall's table of one run.
pub(super) fn table_of(root: &Path) -> String {
    let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
}

/// Ends and undoes whatever carries the name of this directory; says what there was.
fn sweep(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let below = format!("{}/", root.display());
    for (mount, device) in mounts_below(&below) {
        // A frozen file system cannot be unmounted, and whoever waits for it cannot be killed: first of all.
        if plainly("fsfreeze", [OsStr::new("-u"), mount.as_os_str()]) {
            found.push(format!("{} ({device}) was still frozen", mount.display()));
        }
    }
    for process in processes_of(&below) {
        found.push(format!("process {process} still ran"));
        plainly("kill", ["-KILL", &process.to_string()]);
    }
    for (mount, _device) in mounts_below(&below).into_iter().rev() {
        if !plainly("umount", [&mount]) {
            plainly("umount", [OsStr::new("-l"), mount.as_os_str()]);
        }
    }
    let loops = std::process::Command::new("losetup").args(["-a"]).stdin(Stdio::null()).output();
    for line in loops.map(|output| text(&output.stdout)).unwrap_or_default().lines() {
        if let (true, Some((device, _rest))) = (line.contains(&below), line.split_once(':')) {
            plainly("losetup", ["-d", device]);
        }
    }
    plainly("nft", ["delete", "table", "inet", &table_of(root)]);
    found
}

/// Where something is mounted below a directory, outermost first.
fn mounts_below(below: &str) -> Vec<(PathBuf, String)> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, mount) = (fields.next()?, fields.next()?);
        mount.starts_with(below).then(|| (PathBuf::from(mount), device.to_owned()))
    });
    fields.collect()
}

/// Processes, other than this one, whose command line names the directory.
fn processes_of(below: &str) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = all.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    let named = numbers.filter(|number| {
        let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        // The binary itself, or what was asked to run it.
        let ours = [&b"quorate"[..], b"setpriv"].iter().any(|name| first.ends_with(name));
        ours && String::from_utf8_lossy(&line).contains(below)
    });
    named.collect()
}
