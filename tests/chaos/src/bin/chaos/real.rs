//! `chaos real`.
//!
//! Owns the words of it. Called by `main`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_chaos::real::{self, Options, Outcome, Trouble};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Net, Real};
use crate::output::{Exit, Output};

pub(crate) fn run(output: Output, asked: Real) -> Result<Exit, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|why| format!("no runtime: {why}"))?;
    let ended = runtime.block_on(async {
        let stop = |kind| signal(kind).map_err(|why| format!("signals cannot be waited for: {why}"));
        let (mut terminated, mut interrupted) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
        // Whatever ends first, the cluster is dropped with the future: every process is ended, every mount undone.
        tokio::select! {
            ended = Box::pin(all(output, asked)) => ended,
            _ = terminated.recv() => Err("asked to stop before the end (SIGTERM)".to_owned()),
            _ = interrupted.recv() => Err("asked to stop before the end (SIGINT)".to_owned()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

async fn all(output: Output, asked: Real) -> Result<Exit, String> {
    let from_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let binary = match asked.binary.clone() {
        Some(binary) => binary,
        None => real::beside().map_err(|why| why.to_string())?,
    };
    let (mut worst, mut outcomes) = (0, Vec::new());
    for scenario in &asked.scenario {
        let several = asked.scenario.len() > 1;
        let options = Options {
            nodes: asked.nodes,
            duration: asked.duration.unwrap_or_else(|| Duration::from_secs(scenario.seconds)),
            seed: asked.seed.unwrap_or_else(|| u64::from(from_clock)),
            out: if several { asked.out.join(scenario.id) } else { asked.out.clone() },
            binary: binary.clone(),
            net: match asked.net {
                Net::Proxy => real::Net::Proxy,
                Net::Nft => real::Net::Nft,
            },
            pace: asked.pace,
            tick: asked.tick,
            kills: asked.kills,
            limit: asked.limit,
            keep: asked.keep,
        };
        let outcome = Box::pin(real::run(scenario, &options)).await.map_err(|why: Trouble| why.to_string())?;
        if !output.json {
            show(output, &outcome)?;
            if outcome.exit_code != 0 {
                let Options { nodes, duration, seed, .. } = &options;
                output.line(&format!(
                    "  again: chaos real --scenario {} --nodes {nodes} --duration {}s --seed {seed}",
                    scenario.id,
                    duration.as_secs()
                ))?;
            }
        }
        worst = worse(worst, outcome.exit_code);
        outcomes.push(outcome);
    }
    if output.json {
        output.json(&json!({"runs": outcomes}))?;
    }
    Ok(match worst {
        0 => Exit::Pass,
        1 => Exit::Violation,
        2 => Exit::Inconclusive,
        4 => Exit::Coverage,
        _ => Exit::Harness,
    })
}

/// A broken promise is worse than a harness that failed, and that is worse than what was not reached.
const fn worse(one: u8, other: u8) -> u8 {
    const fn rank(code: u8) -> u8 {
        match code {
            0 => 0,
            4 => 1,
            2 => 2,
            1 => 4,
            _ => 3,
        }
    }
    if rank(one) >= rank(other) { one } else { other }
}

fn show(output: Output, outcome: &Outcome) -> Result<(), String> {
    output.line(&format!("{} seed {}: {}", outcome.scenario, outcome.seed, outcome.verdict))?;
    let rate = if outcome.seconds > 0.0 { outcome.acknowledged as f64 / outcome.seconds * 3600.0 } else { 0.0 };
    output.line(&format!(
        "  {} of {} operations acknowledged in {:.0} s ({:.0} an hour); {} leaderships; snapshots {} sent, {} installed; machine late by {} ms",
        outcome.acknowledged,
        outcome.asked,
        outcome.seconds,
        rate,
        outcome.leaderships,
        outcome.snapshots.0,
        outcome.snapshots.1,
        outcome.machine_late_ms
    ))?;
    if let Some((median, longest)) = outcome.gap_ms {
        output.line(&format!("  without writes after a leader was lost: median {median} ms, longest {longest} ms"))?;
    }
    let faults: Vec<String> = outcome.installed.iter().map(|(name, times)| format!("{name} x{times}")).collect();
    output.line(&format!(
        "  faults that took effect: {}",
        if faults.is_empty() { "none".to_owned() } else { faults.join(", ") }
    ))?;
    for (name, why) in &outcome.skipped {
        output.line(&format!("  SKIPPED {name}: {why}"))?;
    }
    for (checker, verdict, detail) in &outcome.findings {
        output.line(&format!("  {verdict:<12} {checker:<26} {detail}"))?;
    }
    output.line(&format!("  report: {}", outcome.report.display()))
}
