//! The `chaos` binary: seeds, replays and verdicts, from a shell.
//!
//! Owns parsing, dispatch and the exit code. Never does anything that the library does not. Called by people and by CI.

mod args;
mod output;
mod real;
mod sim;

use std::process::ExitCode;

use clap::Parser as _;
use quorate_chaos::check::{self, Limit, Verdict};
use quorate_chaos::history;
use quorate_chaos::sim::Profile;
use serde_json::json;

use args::{Check, Cli, Verb};
use output::{Exit, Output};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // That nobody reads it is no reason to fail. Nothing was tested: not 2, which is a verdict.
            let _nobody_reads = error.print();
            return if error.use_stderr() { Exit::Harness.into() } else { Exit::Pass.into() };
        }
    };
    let output = Output { json: cli.json };
    let done = match cli.verb {
        Verb::Sim(asked) => sim::sim(output, &asked),
        Verb::Replay(asked) => sim::replay(output, &asked),
        Verb::Real(asked) => real::run(output, asked),
        Verb::Check(asked) => judge(output, &asked),
        Verb::List => list(output),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(why) => {
            output.failed(&why);
            Exit::Harness.into()
        }
    }
}

fn judge(output: Output, asked: &Check) -> Result<Exit, String> {
    let file = std::fs::File::open(&asked.history)
        .map_err(|why| format!("{} cannot be opened: {why}; nothing was judged", asked.history.display()))?;
    let history = history::read(std::io::BufReader::new(file)).map_err(|why| why.to_string())?;
    let findings = check::check(&history, Limit::time(asked.limit));
    let verdict = check::worst(&findings);
    if output.json {
        let all: Vec<_> = findings
            .iter()
            .map(|found| json!({"checker": found.checker, "verdict": word(found.verdict), "detail": found.detail}))
            .collect();
        output.json(&json!({"operations": history.len(), "verdict": word(verdict), "findings": all}))?;
    } else {
        for found in &findings {
            output.line(&format!("{:<12} {:<26} {}", word(found.verdict), found.checker, found.detail))?;
        }
    }
    Ok(match verdict {
        Verdict::Pass => Exit::Pass,
        Verdict::Fail => Exit::Violation,
        Verdict::Inconclusive => Exit::Inconclusive,
    })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Inconclusive => "inconclusive",
    }
}

fn list(output: Output) -> Result<Exit, String> {
    if output.json {
        let profiles: Vec<_> =
            Profile::ALL.iter().map(|profile| json!({"name": profile.name(), "about": profile.about()})).collect();
        let scenarios: Vec<_> = quorate_chaos::real::list()
            .iter()
            .map(|one| json!({"id": one.id, "name": one.name, "tier": "real", "about": one.about, "expects": one.expects, "requires": one.requires}))
            .collect();
        output.json(&json!({"profiles": profiles, "scenarios": scenarios}))?;
    } else {
        output.line("profiles of simulated clusters (`chaos sim --profile NAME`):")?;
        for profile in Profile::ALL {
            output.line(&format!("  {:<12} {}", profile.name(), profile.about()))?;
        }
        output.line("\nscenarios of real processes (`chaos real --scenario NAME`), and what each must come to:")?;
        for one in quorate_chaos::real::list() {
            output.line(&format!("  {:<6} {:<20} {}: {}", one.id, one.name, one.about, one.expects))?;
        }
    }
    Ok(Exit::Pass)
}
