//! Two hundred kills: three real manager processes, real QUIC, real disks with fsync, writers that keep a list, and
//! SIGKILL, SIGSTOP and power-off-like cuts until the list has proven itself.
//!
//! Owns its own small test protocol (`harness = false`): the binary runs itself again as each manager process, which
//! the standard harness does not allow. Settings: `QUORATE_KILLS` (number of kills, default 200), `QUORATE_KILLS_SEED`,
//! `QUORATE_KILLS_LOG` (filter of the managers' logs, default `info`), `QUORATE_KILLS_KEEP` (keep the directories),
//! `QUORATE_KILLS_ONLY` (one kind of round), `QUORATE_KILLS_BREAK` (`list` or `reads`: a run that must fail).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test says what it expects, prints its counts, and fails loudly"
)]

mod fleet;
mod ledger;
mod load;
mod manager;
mod nemesis;
mod protocol;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use fleet::Fleet;
use ledger::Ledger;
use load::Load;
use nemesis::Nemesis;

const NAME: &str = "two_hundred_kills_lose_nothing";

/// What is wrong, in one line.
type Outcome<T = ()> = Result<T, String>;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `QUORATE_KILLS_BREAK=list` puts a write on the list that was never sent, `reads` lets the readers take what may be
/// stale: a run that is broken like this must fail, or it proves nothing.
fn broken(what: &str) -> bool {
    std::env::var("QUORATE_KILLS_BREAK").is_ok_and(|broken| broken == what)
}

fn main() -> ExitCode {
    if let Some(directory) = std::env::var_os(manager::DIRECTORY) {
        return manager::run(directory.as_ref());
    }
    match protocol::wanted(NAME, std::env::args().skip(1)) {
        protocol::Wanted::Listed => ExitCode::SUCCESS,
        protocol::Wanted::Run => protocol::report(NAME, run),
    }
}

fn run() -> Outcome {
    let kills = number("QUORATE_KILLS", 200);
    let from_clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seed = number("QUORATE_KILLS_SEED", u64::from(from_clock.subsec_nanos()));
    println!("{kills} kills of 3 manager processes under load, seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut root = tempfile::Builder::new().prefix("quorate-kills-").tempdir().unwrap();
    root.disable_cleanup(std::env::var_os("QUORATE_KILLS_KEEP").is_some());
    let outcome = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).unwrap();
        let mut interrupted = signal(SignalKind::interrupt()).unwrap();
        // Whatever ends first, the fleet is dropped with the future: every process is killed and reaped.
        tokio::select! {
            outcome = story(root.path(), kills, seed) => outcome,
            _ = terminated.recv() => Err("asked to stop before the end (SIGTERM)".to_owned()),
            _ = interrupted.recv() => Err("asked to stop before the end (SIGINT)".to_owned()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome.inspect_err(|_| fleet::print_tails(root.path()))
}

async fn story(root: &std::path::Path, kills: u64, seed: u64) -> Outcome {
    let began = Instant::now();
    // Given three managers in their seats, and writers and readers that never stop.
    let mut fleet = Fleet::formed(root).await?;
    let ledger = Arc::new(Ledger::create(&root.join("acknowledged.list"))?);
    let load = Load::start(&fleet, &ledger).await?;
    println!("formed in {:.1} s, writing", began.elapsed().as_secs_f32());
    // When managers are killed and paused, each time with a quorum in between.
    let raging = Instant::now();
    let mut nemesis = Nemesis::new(&fleet, &ledger, seed).await?;
    nemesis.rage(&mut fleet, kills).await?;
    let raged = raging.elapsed();
    // Then nothing acknowledged is missing anywhere, nothing happened twice, and all three are alike.
    fleet.all_run()?;
    load.stop().await?;
    if broken("list") {
        ledger.acknowledged(format!("{}never/sent", load::KEYS), Instant::now()).await;
    }
    let settled = verdict::settled(&mut fleet).await?;
    nemesis.count(&settled);
    let verdict = verdict::check(&fleet, &ledger).await;
    nemesis.print(raged);
    ledger.print();
    fleet.nobody_panicked()?;
    verdict?;
    ledger.clean()?;
    nemesis.enough(kills)?;
    println!("all of it holds, {:.0} s in all", began.elapsed().as_secs_f32());
    Ok(())
}
