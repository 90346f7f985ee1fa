//! What the machine does: how long its disk takes to sync, and how often processes ask it to.
//!
//! Owns the counting of syncs: `perf stat` counts entries into the system calls fsync, fdatasync and sync_file_range of the
//! processes given, all their threads, in the kernel. That costs next to nothing and is the same for both sides. Where perf may
//! not do that, it is left out and said. Called by the rows.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{Told, told};

const CALLS: &str = "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync";
/// Bytes that are written before each sync.
const WRITTEN: usize = 512;

/// Counts from when it is made until [`syncs`](Self::syncs).
pub(crate) struct Counting(Option<Child>);

impl Counting {
    pub(crate) fn begin(pids: &[u32]) -> Self {
        let pids = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", CALLS, "-p", &pids])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.ok())
    }

    /// How many syncs there were; `None` when they could not be counted.
    pub(crate) fn syncs(mut self) -> Option<u64> {
        let mut child = self.0.take()?;
        // perf prints what it has counted when it is interrupted.
        let _gone_already = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
        let mut text = String::new();
        let _counted_below = child.stderr.take()?.read_to_string(&mut text);
        let _ended = child.wait();
        let counts = text
            .lines()
            .filter(|line| line.contains("sys_enter_"))
            .map(|line| line.split(',').next()?.parse::<u64>().ok());
        let counts = counts.collect::<Option<Vec<_>>>()?;
        (!counts.is_empty()).then(|| counts.iter().sum())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
    }
}

/// How long fdatasync takes with so many writers, each with a file of its own, microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct SyncTime {
    pub(crate) writers: usize,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// All writers together.
    pub(crate) per_second: f64,
}

/// Appends 512 bytes and syncs, for `time`, in files below `place`.
pub(crate) fn sync_time(place: &Path, writers: usize, time: Duration) -> Told<SyncTime> {
    let write = |number: usize| -> Told<Vec<Duration>> {
        let path = place.join(format!("sync-{number}"));
        let file = File::create(&path).map_err(told)?;
        let (bytes, begun) = ([7_u8; WRITTEN], Instant::now());
        let (mut took, mut at) = (Vec::new(), 0);
        while begun.elapsed() < time {
            file.write_all_at(&bytes, at).map_err(told)?;
            at += WRITTEN as u64;
            let began = Instant::now();
            file.sync_data().map_err(told)?;
            took.push(began.elapsed());
        }
        std::fs::remove_file(&path).map_err(told)?;
        Ok(took)
    };
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|number| scope.spawn(move || write(number))).collect();
        let ended =
            threads.into_iter().map(|thread| thread.join().map_err(|_| "a writer ended by a defect".to_owned())?);
        ended.collect::<Told<Vec<_>>>()
    })?
    .concat();
    took.sort();
    let at = |share: f64| {
        let place = ((took.len() as f64 - 1.0) * share).round().max(0.0) as usize;
        took.get(place).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    Ok(SyncTime { writers, p50_us: at(0.5), p99_us: at(0.99), per_second: took.len() as f64 / time.as_secs_f64() })
}

/// The machine in a few words.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown")
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores ({model}), {} GiB, Linux {}", memory.unwrap_or(0) >> 20, kernel.trim())
}

/// How busy the machine is, over the last minute.
pub(crate) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What a command prints first, or that it cannot be run.
pub(crate) fn first_line(command: &mut Command) -> String {
    match command.output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned(),
        Err(error) => format!("unknown ({error})"),
    }
}

/// Something for whoever watches.
pub(crate) fn say(text: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{text}");
}
