//! quorate beside etcd: the same load on the same machine, turn about, medians of several rounds.
//!
//! Three managers of the `quorate` binary (QUIC with mutual TLS, fsync) and three members of Debian's etcd (plain HTTP/2,
//! fsync) run side by side over loopback, each on directories of its own on the same disk. Both are driven by the very same
//! closed loop, a process of its own: `quorate bench` there, this program with the `etcd-client` crate here, which includes the
//! loop's source. `make bench` runs it; `make bench ROWS="put 1 256B,get l 1000"` measures single rows and merges them.
#![allow(dead_code, reason = "what is shared with other programs is not all used here")]

#[path = "../../../src/bin/quorate/bench/board.rs"]
mod board;
mod etcd;
mod failover;
mod figures;
mod growth;
#[path = "../../../src/bin/quorate/bench/load.rs"]
mod load;
mod loads;
mod machine;
#[path = "../../managers.rs"]
mod managers;
mod picture;
mod rows;
mod stores;
#[path = "../../../src/bin/quorate/bench/tally.rs"]
mod tally;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use figures::{Environment, Figures};
use loads::Sides;
use machine::say;
use rows::Measure;

/// Errors are sentences.
type Told<T> = Result<T, String>;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Whom clients connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Targets {
    Leader,
    All,
}

impl Targets {
    /// Of so many, the leader first, so many are connected to.
    const fn count(self, all: usize) -> usize {
        match self {
            Self::Leader => 1,
            Self::All => all,
        }
    }
}

/// The peer of callers inside a process.
const HIQLITE: &str = "hiqlite";

#[derive(Debug, Parser)]
#[command(about = "Measures three quorate managers beside three etcd members")]
struct Options {
    /// Measure nothing: write the page and the picture anew from results.json.
    #[arg(long)]
    pages: bool,
    /// Rows to measure, by their names, comma separated; without it all.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Rounds of each row; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each round that count, after 2 s of warm-up.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Leaders that are killed, for that row.
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Leaders that are stopped, for that row.
    #[arg(long, default_value_t = 20)]
    stops: usize,
    /// The most keys that the row about keys goes up to: five million take tens of gigabytes on both sides together.
    #[arg(long, default_value_t = 5_000_000)]
    keys_up_to: u64,
    /// Whom clients connect to: the leader only, or all in turn.
    #[arg(long, value_enum, default_value_t = Targets::All)]
    targets: Targets,
    /// The `quorate` binary.
    #[arg(long, default_value = "quorate")]
    binary: PathBuf,
    /// The program of `benches/inside`; by default the one among the examples beside the binary.
    #[arg(long)]
    inside: Option<PathBuf>,
    /// The program of `benches/hiqlite`; by default the one beside this program.
    #[arg(long)]
    inside_hiqlite: Option<PathBuf>,
    /// The `etcd` binary.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where results.json and RESULTS.md are.
    #[arg(long, default_value = "benches")]
    results: PathBuf,
    /// What to write down as the command.
    #[arg(long, default_value = "make bench")]
    command: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(told)?;
        // However it ends, the processes end with it.
        tokio::select! {
            done = run(&options) => done,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("FAILED: {why}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Told<()> {
    let rows = rows::chosen(&options.rows)?;
    let mut figures = Figures::load(&options.results)?;
    if options.pages {
        return figures.save(&options.results);
    }
    let environment = environment(options)?;
    say(&format!("{}; disk: {}", environment.machine, environment.disk_in_words()));
    let loads: Vec<_> = rows
        .iter()
        .filter_map(|row| match &row.measure {
            Measure::Load(load) => Some((row.name, *load)),
            Measure::Memory
            | Measure::Inside(_)
            | Measure::LeaderKilled
            | Measure::LeaderStopped
            | Measure::Restart
            | Measure::CatchUp
            | Measure::Told
            | Measure::Managers
            | Measure::Keys
            | Measure::Watches => None,
        })
        .collect();
    if !loads.is_empty() {
        let sides = Sides::start(options, 3).await?;
        let pauses = Duration::from_secs(options.seconds);
        for measured in sides.measure(&loads, options.rounds, pauses).await? {
            figures.put(measured, &environment, &options.command);
            figures.save(&options.results)?;
        }
    }
    for row in rows {
        let measured = match row.measure {
            Measure::Load(_) => continue,
            Measure::Memory => stores::memory(options).await?,
            Measure::Inside(callers) => vec![inside(options, row.name, callers).await?],
            Measure::LeaderKilled => failover::measure(options, options.kills, true).await?,
            Measure::LeaderStopped => failover::measure(options, options.stops, false).await?,
            Measure::Restart => stores::restart(options).await?,
            Measure::CatchUp => stores::catch_up(options).await?,
            Measure::Told => growth::told_row(options, row.name).await?,
            Measure::Managers => growth::managers(options).await?,
            Measure::Keys => growth::keys(options).await?,
            Measure::Watches => growth::watches(options).await?,
        };
        for measured in measured {
            figures.put(measured, &environment, &options.command);
        }
        figures.save(&options.results)?;
    }
    Ok(())
}

/// Puts by callers inside the leader's process, beside hiqlite, which is embedded as well: turn about, each round a program of its own.
async fn inside(options: &Options, name: &str, callers: usize) -> Told<figures::Measured> {
    let ours = options.binary.parent().unwrap_or(Path::new(".")).join("examples/inside");
    let here = std::env::current_exe().map_err(told)?;
    let theirs = here.parent().unwrap_or(Path::new(".")).join("inside-hiqlite");
    let ours = options.inside.as_deref().unwrap_or(&ours);
    let theirs = options.inside_hiqlite.as_deref().unwrap_or(&theirs);
    let (mut quorate, mut hiqlite) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for (who, program, rounds) in [("quorate", ours, &mut quorate), (HIQLITE, theirs, &mut hiqlite)] {
            let seen = round_inside(options, program, callers).await?;
            say(&loads::line(round + 1, name, who, &seen));
            rounds.push(seen);
        }
    }
    let rate = |rounds: &[loads::Round]| figures::median(rounds.iter().map(|round| round.rate));
    let measured = figures::Measured::new(name, rate(&quorate), Some(rate(&hiqlite)), "1/s").beside(HIQLITE);
    Ok(measured.rounds(quorate, hiqlite))
}

/// One load of a program that has store and callers in it.
async fn round_inside(options: &Options, program: &Path, callers: usize) -> Told<loads::Round> {
    let mut command = tokio::process::Command::new(program);
    command.args(["--callers", &callers.to_string(), "--seconds", &options.seconds.to_string()]);
    let output =
        command.kill_on_drop(true).output().await.map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let document: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
        format!("{}: {error}: {text}{}", program.display(), String::from_utf8_lossy(&output.stderr))
    })?;
    let summary = &document["summary"];
    let figure = |value: &serde_json::Value| value.as_f64().unwrap_or_default();
    Ok(loads::Round {
        rate: figure(&summary["rate"]),
        p50_us: figure(&summary["latency_us"]["p50"]),
        p99_us: figure(&summary["latency_us"]["p99"]),
        max_us: figure(&summary["latency_us"]["max"]),
        failed: summary["failed"]["refused"].as_u64().unwrap_or(0) + summary["failed"]["unknown"].as_u64().unwrap_or(0),
        ..loads::Round::default()
    })
}

fn environment(options: &Options) -> Told<Environment> {
    let place = tempfile::Builder::new().prefix("disk-bench-").tempdir().map_err(told)?;
    let disk = [1, 3].map(|writers| machine::sync_time(place.path(), writers, Duration::from_secs(2)));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |arguments: &[&str]| machine::first_line(Command::new("git").arg("-C").arg(&repository).args(arguments));
    let changed =
        if git(&["status", "--porcelain", "--untracked-files=no", "--", "src", "raft-core", "storage", "transport"])
            .is_empty()
        {
            ""
        } else {
            " and changes"
        };
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    if commit.is_empty() {
        let why =
            "this program was built in a place that is not there any more, and nobody could say what was measured";
        return Err(format!("{} is in no git repository: {why}. Build it again (make bench)", repository.display()));
    }
    Ok(Environment {
        measured: machine::first_line(Command::new("date").args(["-u", "+%F %H:%M"])),
        commit: format!("{commit}{changed}"),
        quorate: machine::first_line(Command::new(&options.binary).arg("--version")),
        etcd: machine::first_line(Command::new(&options.etcd).arg("--version")),
        machine: machine::machine(),
        load_before: machine::load_average(),
        disk: disk.into_iter().collect::<Told<_>>()?,
    })
}
