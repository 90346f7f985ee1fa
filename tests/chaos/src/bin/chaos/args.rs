//! What can be typed: verbs, options, their help and their examples.
//!
//! Owns the shape of the command line. Never runs anything. Called by `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate_chaos::real::{self, Scenario};
use quorate_chaos::sim::Profile;

const ABOUT: &str = "\
chaos: proves what quorate promises under faults, and proves the proof.

`sim` runs the code that decides in a simulated cluster, thousands of seeds of it; a seed is a run, to the byte. `real` runs the \
program itself, as processes that are killed, paused, cut off and robbed of their disks. `check` judges a recorded history.";

const EXIT: &str = "\
Exit codes: 0 pass; 1 a promise was broken; 2 inconclusive; 3 the harness failed, or the command line; 4 a fault or a mark that \
is required was never reached. Only 0 is green.

Example:
  chaos sim --seeds 1..2000 --jobs 2
  chaos replay --seed 133 --trace short
  chaos real --scenario S02 --duration 120s --out out
  chaos check history.jsonl";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "chaos", version, about = "Proves what quorate promises under faults", long_about = ABOUT, after_help = EXIT, max_term_width = 110)]
pub(crate) struct Cli {
    /// Answer with one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run seeds in simulated clusters
    #[command(after_help = "\
Seeds come one after the other until they or the budget are used up. What fails is printed with the line that replays it.

Example:
  chaos sim --seeds 1..10000 --jobs 2 --profile swarm
  chaos sim --kept --seeds 1..1000000 --budget 10m --check-determinism")]
    Sim(Sim),
    /// Run one seed again, and show what happens
    #[command(after_help = "\
Example:
  chaos replay --seed 133 --trace short
  chaos replay --seed 0x85 --profile network --trace full --stop-at 2000")]
    Replay(Replay),
    /// Run real processes under faults
    #[command(after_help = "\
Each fault has to show that it took effect; what this machine cannot do (some need root) is reported as skipped, and a scenario \
whose fault was skipped ends with 4. Writes DIR/report.html, DIR/run.json and DIR/history.jsonl. `chaos list` names the scenarios.

Example:
  chaos real --scenario S02 --nodes 3 --duration 120s --seed 7 --out out
  chaos real --scenario power-cut --pace 15s --duration 1h --out hour
  chaos real --scenario minority-leader --net nft --out out")]
    Real(Real),
    /// Judge a recorded history by every checker
    #[command(after_help = "\
A history is one operation a line; `quorate_chaos::history` says what the fields mean.

Example:
  chaos check out/history.jsonl --limit 60s")]
    Check(Check),
    /// Make a failing seed small, and write it into a file
    #[command(after_help = "\
Acts, clients, knobs, members and lengths are left out as long as the same invariant fires.

Example:
  chaos shrink --seed 0x1f3a --profile swarm -o repro.toml")]
    Shrink(Shrink),
    /// Run a file that `shrink` wrote, or a named scenario
    #[command(after_help = "\
Example:
  chaos run repro.toml
  chaos run S09 --seeds 1..20")]
    Run(Run),
    /// Plant every deliberate bug, and see that it is caught
    #[command(after_help = "\
Only a build with the feature `chaos-mutants` has any: `make mutants` builds it and hunts for all of them.

Example:
  chaos mutants
  chaos mutants --only M07 --max-seeds 500")]
    Mutants(Mutants),
    /// Say which profiles, scenarios and deliberate bugs there are
    #[command(after_help = "Example:\n  chaos list --json")]
    List,
}

/// Which cluster a seed makes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Drawn {
    /// What seeds draw; `chaos list` says what each is
    #[arg(long, default_value = "swarm", value_parser = profile)]
    pub(crate) profile: Profile,
    /// Managers: 1 to 7, or `random` for what the seed draws
    #[arg(long, default_value = "random", value_parser = nodes)]
    pub(crate) nodes: Nodes,
}

/// So many managers; none is for what the seed draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nodes(pub(crate) Option<u64>);

/// `sim`.
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// The first seed and the one after the last
    #[arg(long, default_value = "1..2001", value_parser = seeds, value_name = "A..B")]
    pub(crate) seeds: std::ops::Range<u64>,
    /// Seeds at a time, each on a thread of its own
    #[arg(long, default_value_t = 1)]
    pub(crate) jobs: usize,
    #[command(flatten)]
    pub(crate) drawn: Drawn,
    /// Begin no further seed after this time
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) budget: Option<Duration>,
    /// Run those seeds first that once broke something, of whatever profile
    #[arg(long)]
    pub(crate) kept: bool,
    /// Run every hundredth seed twice; both runs must be equal
    #[arg(long)]
    pub(crate) check_determinism: bool,
    /// Write a page of it there, one file of HTML: the figures, and the first seed that failed, or the last one
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Begin no further seed after so many failures
    #[arg(long, default_value_t = 10)]
    pub(crate) failures: usize,
}

/// How much of a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// Who leads, what is in force, who comes and goes
    Short,
    /// Every event and effect
    Full,
}

/// `replay`.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The seed; hexadecimal with 0x
    #[arg(long, value_parser = number)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) drawn: Drawn,
    /// What to show
    #[arg(long, value_enum)]
    pub(crate) trace: Option<Shown>,
    /// Stop after so many milliseconds of simulated time
    #[arg(long, value_name = "MS")]
    pub(crate) stop_at: Option<u64>,
    /// Write a page of it there: one file of HTML
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// `real`.
#[derive(Debug, Args)]
pub(crate) struct Real {
    /// Which; several are run one after the other, each in a directory of its own below DIR
    #[arg(long, required = true, value_delimiter = ',', value_parser = scenario, value_name = "NAME[,..]")]
    pub(crate) scenario: Vec<&'static Scenario>,
    /// Managers, where the scenario does not say how many
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    /// For how long faults go on; what the scenario says when not given
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) duration: Option<Duration>,
    /// What is drawn; of the clock when not given
    #[arg(long, value_parser = number)]
    pub(crate) seed: Option<u64>,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "chaos-out")]
    pub(crate) out: PathBuf,
    /// The program under test; the quorate beside this program when not given
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// How links are hurt
    #[arg(long, value_enum, default_value_t = Net::Proxy)]
    pub(crate) net: Net,
    /// The mean time between two faults
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "3s")]
    pub(crate) pace: Duration,
    /// The length of a tick of the managers, an election being 22 to 30: long, so that stalls of this machine are no faults
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "75ms")]
    pub(crate) tick: Duration,
    /// End after so many kills instead of after a time
    #[arg(long, value_name = "COUNT")]
    pub(crate) kills: Option<u64>,
    /// How long the search for an order of the history may take
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) limit: Duration,
    /// Leave the directories of the nodes where they are
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What stands between managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// A forwarder of datagrams: loss, delay, duplication, damage, other ports
    Proxy,
    /// The kernel's filter (nftables, root): cuts only, and nothing on the way
    Nft,
}

/// `shrink`.
#[derive(Debug, Args)]
pub(crate) struct Shrink {
    /// The seed; hexadecimal with 0x
    #[arg(long, value_parser = number)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) drawn: Drawn,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Runs at most
    #[arg(long, default_value_t = 2_000)]
    pub(crate) runs: u64,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A repro file, or the number or name of a scenario
    pub(crate) what: String,
    /// Seeds of a scenario
    #[arg(long, default_value = "1..6", value_parser = seeds, value_name = "A..B")]
    pub(crate) seeds: std::ops::Range<u64>,
}

/// `mutants`.
#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Only this one, such as M07
    #[arg(long, value_name = "MNN")]
    pub(crate) only: Option<String>,
    /// Seeds at most for each, in place of its own budget
    #[arg(long, value_name = "N")]
    pub(crate) max_seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub(crate) first_seed: u64,
}

/// `check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The history
    pub(crate) history: PathBuf,
    /// How long the search may take
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub(crate) limit: Duration,
}

fn scenario(text: &str) -> Result<&'static Scenario, String> {
    real::find(text).ok_or_else(|| "there is no such scenario; `chaos list` names them".to_owned())
}

fn profile(text: &str) -> Result<Profile, String> {
    Profile::named(text).ok_or_else(|| {
        let names: Vec<&str> = Profile::ALL.into_iter().map(Profile::name).collect();
        format!("there is no such profile; there are {}", names.join(", "))
    })
}

fn nodes(text: &str) -> Result<Nodes, String> {
    match text {
        "random" => Ok(Nodes(None)),
        text => match text.parse() {
            Ok(count @ 1..=7) => Ok(Nodes(Some(count))),
            _ => Err("it is 1 to 7, or `random`".to_owned()),
        },
    }
}

pub(crate) fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|why| format!("it is no number: {why}"))
}

fn seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("it is FIRST..AFTER, for example 1..2001")?;
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("there is no seed in it".to_owned()) } else { Ok(range) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(split);
    let count: u64 =
        count.parse().map_err(|_nothing| "it is a number and a unit, for example 90s or 10m".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(count.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(count.saturating_mul(3600))),
        _ => Err("the unit is one of ms, s, m, h".to_owned()),
    }
}
