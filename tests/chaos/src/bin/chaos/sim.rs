//! `sim` and `replay`.
//!
//! Owns how a run is told: a summary of many seeds, or every line of one. Called by `main`.

use std::time::Duration;

use quorate_chaos::report::{self, Judged, Page};
use quorate_chaos::repro::Repro;
use quorate_chaos::runner::{self, Plan, Summary};
use quorate_chaos::scenarios::Scenario;
use quorate_chaos::shrink::shrink as shrink_it;
use quorate_chaos::sim::{MILLIS, Profile, REQUIRED, Report, Violation, World, run_config};
use serde_json::{Value, json};

use crate::args::{Drawn, Replay, Run, Shown, Shrink, Sim};
use crate::output::{Exit, Output};

fn plan(drawn: &Drawn, seeds: std::ops::Range<u64>) -> Plan {
    Plan {
        seeds,
        jobs: 1,
        profile: drawn.profile,
        nodes: drawn.nodes.0,
        budget: None,
        twice_every: 0,
        failures_max: 1,
        kept: false,
    }
}

pub(crate) fn sim(output: Output, asked: &Sim) -> Result<Exit, String> {
    let plan = Plan {
        jobs: asked.jobs,
        budget: asked.budget,
        twice_every: if asked.check_determinism { 100 } else { 0 },
        failures_max: asked.failures,
        kept: asked.kept,
        ..plan(&asked.drawn, asked.seeds.clone())
    };
    let summary = runner::run(&plan);
    if let Some(into) = &asked.report {
        let seed =
            summary.failures.first().map_or(plan.seeds.start + summary.seeds.saturating_sub(1), |first| first.seed);
        let (lines, played) = play(&asked.drawn, seed, None);
        let mut page = page(&asked.drawn, seed, &lines, &played);
        page.facts.extend(told(&plan, &summary).into_iter().map(|line| ("all seeds".to_owned(), line)));
        page.passed = summary.failures.is_empty();
        write(into, &page)?;
    }
    if output.json {
        output.json(&document(&plan, &summary))?;
    } else {
        for violation in &summary.failures {
            output.line(&format!("{violation}\n"))?;
        }
        for line in told(&plan, &summary) {
            output.line(&line)?;
        }
    }
    Ok(if !summary.failures.is_empty() {
        Exit::Violation
    } else if is_uncovered(&plan, &summary) {
        Exit::Coverage
    } else {
        Exit::Pass
    })
}

/// Marks decide from so many seeds on.
const SEEDS_FOR_MARKS: u64 = 2_000;

fn is_uncovered(plan: &Plan, summary: &Summary) -> bool {
    plan.profile == Profile::Mixed && summary.seeds >= SEEDS_FOR_MARKS && !summary.report.marks.missed().is_empty()
}

/// Runs a repro file, or a scenario.
pub(crate) fn run(output: Output, asked: &Run) -> Result<Exit, String> {
    if let Some(scenario) = Scenario::named(&asked.what) {
        for seed in asked.seeds.clone() {
            if let Err(violation) = scenario.run(seed) {
                told_violation(output, &violation)?;
                output.line(&format!("FAIL {} {} in seed {seed}", scenario.id, scenario.name))?;
                return Ok(Exit::Violation);
            }
        }
        output.line(&format!("PASS {} {}: {} seeds", scenario.id, scenario.name, asked.seeds.clone().count()))?;
        return Ok(Exit::Pass);
    }
    let text = std::fs::read_to_string(&asked.what).map_err(|why| {
        format!("`{}` is no scenario, and cannot be read as a file: {why}; nothing was run", asked.what)
    })?;
    let repro = Repro::from_toml(&text).map_err(|why| format!("{} is no repro file: {why}", asked.what))?;
    match repro.run() {
        Ok(report) => {
            output.line(&counted(&report))?;
            output.line(&format!("PASS: `{}` does not break any more", repro.invariant))?;
            Ok(Exit::Pass)
        }
        Err(violation) => {
            told_violation(output, &violation)?;
            Ok(Exit::Violation)
        }
    }
}

fn told_violation(output: Output, violation: &Violation) -> Result<(), String> {
    if output.json { output.json(&failure(violation)) } else { output.line(&format!("{violation}")) }
}

/// Makes a failing seed small.
pub(crate) fn shrink(output: Output, asked: &Shrink) -> Result<Exit, String> {
    let config = plan(&asked.drawn, asked.seed..asked.seed + 1).config(asked.seed);
    let Err(violation) = run_config(config) else {
        return Err(format!("seed {} passes: there is nothing to make small", asked.seed));
    };
    let repro = Repro::of(&violation);
    if repro.still_fails().is_none() {
        return Err(format!(
            "`{}` does not break when the list of acts is run in place of the seed",
            violation.invariant
        ));
    }
    let (small, runs) = shrink_it(repro, asked.runs, |best| {
        let _nobody_reads = output.line(&format!("{} acts, {} members", best.acts.len(), best.config.members));
    });
    let text = small.to_toml().map_err(|why| format!("the run has no form as TOML: {why}"))?;
    std::fs::write(&asked.output, text)
        .map_err(|why| format!("{} cannot be written: {why}", asked.output.display()))?;
    output.line(&format!(
        "`{}` with {} acts after {runs} runs: chaos run {}",
        small.invariant,
        small.acts.len(),
        asked.output.display()
    ))?;
    Ok(Exit::Violation)
}

/// The summary in a few lines.
fn told(plan: &Plan, summary: &Summary) -> Vec<String> {
    let report = &summary.report;
    let nodes = plan.nodes.map_or_else(|| "random".to_owned(), |nodes| nodes.to_string());
    let mut lines = vec![format!(
        "seeds={} profile={} n={nodes} sim={} wall={} cpu={} x{} events={} twice={}",
        summary.seeds,
        plan.profile.name(),
        hours(Duration::from_nanos(report.simulated)),
        hours(summary.wall),
        hours(summary.cpu),
        summary.speed(),
        report.events,
        summary.twice,
    )];
    lines.push(counted(report));
    let hour = |count| summary.per_cpu_hour(count);
    lines.push(format!(
        "per CPU-hour: acks={} elections={} membership={} recoveries={} powercuts={} faults={}",
        hour(report.acks),
        hour(report.elections),
        hour(report.configurations),
        hour(report.recoveries),
        hour(report.crashes),
        hour(report.acts),
    ));
    let missed = report.marks.missed();
    let missing: Vec<String> = missed.iter().map(|(what, whom)| format!("{what} ({whom})")).collect();
    lines.push(format!(
        "judged: {} register operations, {} keys beyond the search | marks {}/{}{}",
        report.judged,
        report.unjudged,
        REQUIRED.len() - missed.len(),
        REQUIRED.len(),
        if missing.is_empty() { String::new() } else { format!(" MISSED {}", missing.join(", ")) },
    ));
    let verdict = match summary.failures.first() {
        None if is_uncovered(plan, summary) => "FAIL: marks were missed".to_owned(),
        None => "PASS".to_owned(),
        Some(first) => format!(
            "FAIL {} of {} seeds, first `{}` in seed {}",
            summary.failures.len(),
            summary.seeds,
            first.invariant,
            first.seed
        ),
    };
    lines.push(verdict);
    lines
}

fn counted(report: &Report) -> String {
    format!(
        "ops ok={} unk={} fail={} reads={} | elections={} | conf={} fnc={} snap={} | crash={} lost={} torn={} rot={}/{} part={} pause={} stall={} enospc={} ioerr={}",
        report.acks,
        report.unknown,
        report.refused,
        report.reads,
        report.elections,
        report.configurations,
        report.recoveries,
        report.snapshots_installed,
        report.crashes,
        report.lost_batches,
        report.torn,
        report.damage_found,
        report.rotten,
        report.partitions,
        report.pauses,
        report.disk_hangs,
        report.shortages,
        report.disk_faults,
    )
}

fn document(plan: &Plan, summary: &Summary) -> Value {
    let failures: Vec<Value> = summary.failures.iter().map(|violation| failure(violation)).collect();
    json!({
        "profile": plan.profile.name(),
        "seeds": summary.seeds,
        "simulated_ms": summary.report.simulated / MILLIS,
        "wall_ms": millis(summary.wall),
        "cpu_ms": millis(summary.cpu),
        "speed": summary.speed(),
        "events": summary.report.events,
        "acks": summary.report.acks,
        "elections": summary.report.elections,
        "crashes": summary.report.crashes,
        "twice": summary.twice,
        "failures": failures,
    })
}

fn failure(violation: &Violation) -> Value {
    json!({
        "invariant": violation.invariant,
        "detail": violation.detail,
        "seed": violation.seed,
        "at_ms": violation.at / MILLIS,
        "last": violation.last,
        "replay": violation.replay,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn hours(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// One seed, with every line of its trace.
fn play(drawn: &Drawn, seed: u64, stop_at: Option<u64>) -> (Vec<String>, Result<Report, Box<Violation>>) {
    let config = plan(drawn, seed..seed + 1).config(seed);
    let mut lines = Vec::new();
    let played = World::new(config).and_then(|mut world| {
        world.keep_lines();
        let played = match stop_at {
            Some(at) => world.run_for(at * MILLIS),
            None => world.play(),
        };
        lines = world.take_lines();
        played.map(|()| world.report())
    });
    (lines, played)
}

/// What is shown of it.
fn page(drawn: &Drawn, seed: u64, lines: &[String], played: &Result<Report, Box<Violation>>) -> Page {
    let mut page = report::of_trace(lines);
    page.title = format!("seed {seed}, profile {}", drawn.profile.name());
    page.passed = played.is_ok();
    let judged = |checker: &str, verdict: &str, detail: String| Judged {
        checker: checker.into(),
        verdict: verdict.into(),
        detail,
    };
    match played {
        Ok(report) => {
            page.verdict = "pass".to_owned();
            page.facts = vec![("trace".to_owned(), hex(report)), ("counts".to_owned(), counted(report))];
            page.findings.push(judged("every invariant, at every step", "pass", format!("{} events", report.events)));
        }
        Err(violation) => {
            page.verdict =
                format!("`{}` broken at {} ms: {}", violation.invariant, violation.at / MILLIS, violation.detail);
            page.facts = violation.replay.iter().map(|line| ("again".to_owned(), line.clone())).collect();
            page.findings.push(judged(violation.invariant, "fail", violation.detail.clone()));
            page.tails.push(("the last events".to_owned(), violation.last.clone()));
        }
    }
    page
}

fn write(into: &std::path::Path, page: &Page) -> Result<(), String> {
    let html = page.html().map_err(|why| why.to_string())?;
    std::fs::write(into, html).map_err(|why| format!("{} cannot be written: {why}", into.display()))
}

pub(crate) fn replay(output: Output, asked: &Replay) -> Result<Exit, String> {
    let (lines, played) = play(&asked.drawn, asked.seed, asked.stop_at);
    if let Some(into) = &asked.report {
        write(into, &page(&asked.drawn, asked.seed, &lines, &played))?;
    }
    if !output.json
        && let Some(shown) = asked.trace
    {
        for line in lines.iter().filter(|line| shown == Shown::Full || is_transition(line)) {
            output.line(line)?;
        }
    }
    match played {
        Ok(report) if output.json => {
            output.json(&json!({"seed": asked.seed, "events": report.events, "trace": hex(&report)}))?
        }
        Ok(report) => {
            output.line(&format!(
                "seed={} sim={} events={} trace={}",
                asked.seed,
                hours(Duration::from_nanos(report.simulated)),
                report.events,
                hex(&report)
            ))?;
            output.line(&counted(&report))?;
            output.line("PASS")?;
        }
        Err(violation) => {
            if output.json {
                output.json(&failure(&violation))?;
            } else {
                output.line(&format!("{violation}\nFAIL"))?;
            }
            return Ok(Exit::Violation);
        }
    }
    Ok(Exit::Pass)
}

fn hex(report: &Report) -> String {
    format!("{:016x}", report.trace_hash)
}

/// Whether a line of the trace says that something changed: a role, a term, a configuration, a process.
fn is_transition(line: &str) -> bool {
    ["starts", "crashes", "stops", " term ", "installed", "recovered", "fenced", "fault:"]
        .iter()
        .any(|word| line.contains(word))
}
