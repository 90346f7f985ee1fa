//! What ten thousand workers cost three managers, and how soon one of them is missed.
//!
//! The managers are processes of the real `quorate` binary, on loopback, with fsync and mutual TLS as always. The workers'
//! ends are sessions of the library's own code in this process, each with a directory, a key, a certificate and a QUIC connection
//! of its own; they share a few UDP sockets, which a real worker does not, and which makes no difference to a manager. Fails
//! when something is not as it must be: the log grew, a worker was told down, a session did not come back.
//! `make bench-sessions SESSIONS=10000` runs it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

mod fleet;
#[allow(dead_code, reason = "shared with other programs, which use the rest")]
#[path = "../managers.rs"]
mod managers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate::membership::NodeState;
use quorate::status::ClusterStatus;
use quorate::{Client, Identity};

use tokio::signal::unix::{SignalKind, signal};

use fleet::Fleet;
use managers::{Managers, Usage, usage_of};

/// Errors are sentences.
type Told<T> = Result<T, String>;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[derive(Debug, Parser)]
#[command(about = "Measures the sessions of many workers with three real managers")]
struct Options {
    /// How many workers.
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// How many join at the same time.
    #[arg(long, default_value_t = 8)]
    joining: usize,
    /// Seconds for which nothing happens while it is measured.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Life of the workers' certificates, seconds: their renewals are waited for. 0 leaves that part out.
    #[arg(long, default_value_t = 600)]
    certificate_life: u64,
    /// Where the workers' directories lie; they are many small files.
    #[arg(long, default_value = "/dev/shm")]
    place: PathBuf,
    /// The `quorate` binary; by default the one beside this program's directory.
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(told)?;
        // However it ends, the managers end with it.
        tokio::select! {
            done = run(&options) => done,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

fn say(what: &str, value: impl std::fmt::Display) {
    println!("{what:<56} {value}");
}

fn seconds(began: Instant) -> String {
    format!("{:.1} s", began.elapsed().as_secs_f64())
}

async fn run(options: &Options) -> Told<()> {
    let life = (options.certificate_life > 0).then_some(options.certificate_life);
    let mut managers = Managers::start(options.binary.as_deref(), 3, life)?;
    let identity = Identity::load(&managers.operator()).map_err(told)?;
    let client = Client::connect(managers.addresses(), identity).await.map_err(told)?;
    let client = client.with_deadline(Duration::from_secs(30));
    wait("every manager has its seat", Duration::from_secs(60), async || {
        (client.status().await.ok()?.voters == 3).then_some(())
    })
    .await?;
    let token = client.join_token("worker").await.map_err(told)?;
    let alone = managers.usage();

    let count = options.sessions;
    let (began, before) = (Instant::now(), managers.usage());
    let mut fleet = Fleet::join(&options.place, &token, managers.addresses(), count, options.joining).await?;
    let (took, after) = (began.elapsed().as_secs_f64(), managers.usage());
    let cpu: f64 = before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64()).sum();
    say("joined, each with a key and a certificate", format!("{count} in {took:.1} s ({:.0}/s)", count as f64 / took));
    say("  the managers' processor time for each", format!("{:.2} ms", cpu * 1_000.0 / count as f64));

    let (began, before) = (Instant::now(), managers.usage());
    fleet.open().await?;
    wait("every worker has its session", Duration::from_secs(300), async || (fleet.sessions() == count).then_some(()))
        .await?;
    let after = managers.usage();
    let cpu: f64 = before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64()).sum();
    say("all have their sessions after", seconds(began));
    say("  the managers' processor time for each", format!("{:.2} ms", cpu * 1_000.0 / count as f64));
    wait("every worker is recorded ready", Duration::from_secs(120), async || {
        (in_state(&client.status().await.ok()?, NodeState::Ready) == count).then_some(())
    })
    .await?;
    say("all are recorded ready after", seconds(began));

    // Let what has just happened settle.
    tokio::time::sleep(Duration::from_secs(5)).await;
    idle("idle", &client, &managers, &alone, options.idle).await?;
    if life.is_some() {
        renewed(&client, &managers, &alone, &fleet, options).await?;
    }
    killed_worker(&client, &managers, &token).await?;
    killed_manager(&client, &mut managers, &fleet).await
}

/// What the managers cost while nothing happens, and that the log does not grow.
async fn idle(what: &str, client: &Client, managers: &Managers, alone: &[Usage], period: u64) -> Told<()> {
    let log = |status: &ClusterStatus| -> Vec<u64> { status.managers.iter().map(|manager| manager.applied).collect() };
    let before = client.status().await.map_err(told)?;
    let usage = managers.usage();
    let (own, began) = (usage_of(std::process::id()), Instant::now());
    tokio::time::sleep(Duration::from_secs(period)).await;
    let took = began.elapsed().as_secs_f64();
    let share = |before: &Usage, now: &Usage| (now.cpu - before.cpu).as_secs_f64() / took * 100.0;
    let now = managers.usage();
    let own_now = usage_of(std::process::id());
    let after = client.status().await.map_err(told)?;
    for (name, (alone, (before, now))) in managers.names().zip(alone.iter().zip(usage.iter().zip(&now))) {
        let manager = after.managers.iter().find(|manager| manager.name == name).ok_or("a manager is missing")?;
        let each = (now.mebibytes - alone.mebibytes) * 1_024.0 / manager.sessions.max(1) as f64;
        say(
            &format!("{what}: {} with {} sessions", manager.name, manager.sessions),
            format!("{:.0} MiB ({each:.1} KiB each), {:.1} % of a core", now.mebibytes, share(before, now)),
        );
    }
    say(
        &format!("{what}: this process, all the workers' ends"),
        format!("{:.0} MiB, {:.1} % of a core", own_now.mebibytes, share(&own, &own_now)),
    );
    let (before, after) = (log(&before), log(&after));
    say(&format!("{what}: last log index, and {took:.0} s later"), format!("{before:?} {after:?}"));
    if before != after {
        return Err(format!("the log grew: {what}"));
    }
    Ok(())
}

/// The same while the workers renew their certificates, at half of their life.
async fn renewed(client: &Client, managers: &Managers, alone: &[Usage], fleet: &Fleet, options: &Options) -> Told<()> {
    let patience = Duration::from_secs(options.certificate_life);
    wait("the first certificates are renewed", patience, async || (fleet.renewed() > 0).then_some(())).await?;
    let (before, lost) = (fleet.renewed(), fleet.moved());
    idle("renewing", client, managers, alone, options.idle).await?;
    say("renewing: certificates renewed in that time", fleet.renewed() - before);
    let began = Instant::now();
    wait("every certificate is renewed", patience, async || (fleet.renewed() == options.sessions).then_some(()))
        .await?;
    say("renewing: all are renewed after another", seconds(began));
    say("renewing: sessions that ended meanwhile", fleet.moved() - lost);
    if fleet.moved() != lost || fleet.sessions() != options.sessions {
        return Err("a session ended while certificates were renewed".into());
    }
    Ok(())
}

/// SIGKILL of a real worker process: how long until the managers say so.
async fn killed_worker(client: &Client, managers: &Managers, token: &str) -> Told<()> {
    let is = async |state: NodeState| {
        let status = client.status().await.ok()?;
        status.workers.iter().any(|worker| worker.name == "victim" && worker.state == state).then_some(())
    };
    let mut took = Vec::new();
    for round in 0..3 {
        let mut victim = managers.worker("victim", token, round == 0)?;
        wait("the victim is ready", Duration::from_secs(60), async || is(NodeState::Ready).await).await?;
        // Somewhere between two keep-alives, as in life.
        tokio::time::sleep(Duration::from_millis(6_000 + 1_700 * round)).await;
        victim.kill().and_then(|()| victim.wait()).map_err(told)?;
        let began = Instant::now();
        wait("the victim is told down", Duration::from_secs(120), async || is(NodeState::Down).await).await?;
        took.push(seconds(began));
    }
    say("a worker killed with SIGKILL is told down after", took.join(", "));
    Ok(())
}

/// SIGKILL of the leader with its share of the sessions: nobody is told down, and how long until all are back.
async fn killed_manager(client: &Client, managers: &mut Managers, fleet: &Fleet) -> Told<()> {
    let recorded = |status: &ClusterStatus| -> Vec<(String, NodeState, u64)> {
        let workers = status.workers.iter().filter(|worker| worker.name != "victim");
        workers.map(|worker| (worker.id.clone(), worker.state, worker.since_ms)).collect()
    };
    let before = client.status().await.map_err(told)?;
    // The one that leads: the others have to notice that, too.
    let leader = before.leader.clone().ok_or("no leader")?;
    let lost = fleet.with(&leader);
    managers.kill(&leader)?;
    let began = Instant::now();
    let (mut back, mut told_down) = (None, 0);
    // Past every grace there is.
    while began.elapsed() < Duration::from_secs(45) || back.is_none() {
        if back.is_none() && fleet.with(&leader) == 0 && fleet.sessions() == fleet.len() {
            back = Some(seconds(began));
        }
        if let Ok(status) = client.status().await {
            told_down = told_down.max(recorded(&status).iter().filter(|worker| worker.1 == NodeState::Down).count());
        }
        if began.elapsed() > Duration::from_secs(300) {
            return Err(format!("only {} of {} sessions are back after 300 s", fleet.sessions(), fleet.len()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    say("the leader killed with SIGKILL, with sessions", lost);
    say("  all of them have sessions again after", back.unwrap_or_default());
    say("  told down", told_down);
    let after = client.status().await.map_err(told)?;
    for manager in after.managers.iter().filter(|manager| manager.reachable) {
        say(&format!("  sessions with {} then", manager.name), manager.sessions);
    }
    if told_down > 0 || recorded(&after) != recorded(&before) {
        return Err("what is recorded of the workers' presence changed".into());
    }
    Ok(())
}

fn in_state(status: &ClusterStatus, state: NodeState) -> usize {
    status.workers.iter().filter(|worker| worker.state == state).count()
}

async fn wait<T>(what: &str, patience: Duration, condition: impl AsyncFn() -> Option<T>) -> Told<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = condition().await {
            return Ok(found);
        }
        if Instant::now() >= until {
            return Err(format!("not within {} s: {what}", patience.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
