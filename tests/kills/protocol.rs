//! What `cargo test` and `cargo nextest` ask of a test binary without the standard harness.
//!
//! Owns the arguments: names, `--exact`, `--skip`, `--list`, `--ignored`; every other flag is ignored.

use std::process::ExitCode;
use std::time::Instant;

use crate::Outcome;

pub enum Wanted {
    /// Answered already, or there is nothing to run.
    Listed,
    Run,
}

/// Flags of the standard harness that take a value; those written with `=` need no entry.
const WITH_VALUE: [&str; 7] =
    ["--format", "--color", "--logfile", "--test-threads", "--shuffle-seed", "--report-time", "-Z"];

/// Whether the one test with this name is to be run.
pub fn wanted(name: &str, mut arguments: impl Iterator<Item = String>) -> Wanted {
    let (mut list, mut exact, mut ignored) = (false, false, false);
    let (mut filters, mut skips) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => list = true,
            "--exact" => exact = true,
            "--ignored" => ignored = true,
            "--skip" => skips.extend(arguments.next()),
            flag if WITH_VALUE.contains(&flag) => {
                arguments.next();
            }
            flag if flag.starts_with("--skip=") => skips.push(flag["--skip=".len()..].to_owned()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter.to_owned()),
        }
    }
    let matches = |pattern: &String| if exact { pattern == name } else { name.contains(pattern.as_str()) };
    // It is no ignored test, so a caller that asks for those only gets none.
    let chosen = !ignored && (filters.is_empty() || filters.iter().any(matches)) && !skips.iter().any(matches);
    match (list, chosen) {
        (true, true) => println!("{name}: test"),
        (true, false) => {}
        (false, true) => return Wanted::Run,
        (false, false) => println!("\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 1 filtered out\n"),
    }
    Wanted::Listed
}

/// Runs it, in the standard harness's words.
pub fn report(name: &str, test: impl FnOnce() -> Outcome) -> ExitCode {
    println!("\nrunning 1 test");
    let began = Instant::now();
    let outcome = test();
    let seconds = began.elapsed().as_secs_f32();
    match outcome {
        Ok(()) => {
            println!("test {name} ... ok\n\ntest result: ok. 1 passed; 0 failed; finished in {seconds:.2}s\n");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("VIOLATION: {why}");
            println!("test {name} ... FAILED\n\ntest result: FAILED. 0 passed; 1 failed; finished in {seconds:.2}s\n");
            ExitCode::from(101)
        }
    }
}
