//! An embedder's own controller in the simulator: managers claim jobs, and no job may ever have a second owner.
//!
//! `cargo run --release --workspace --features cli,testing --example claims` runs 200 seeds, and finds nothing. With the feature
//! `planted-race` beside them the controller writes what it read a moment ago without saying so, and the harness finds the seed in
//! which two managers claim one job.

use std::process::ExitCode;

use quorate_chaos::sim::{
    Controller, Embedded, Everything, Profile, Seat, SimConfig, Told, Violation, Wish, run_controllers,
};

/// Jobs that are there to be claimed.
const JOBS: u64 = 40;

/// Claims one job after the other: reads whether it is free, and writes its own name.
struct Claimer {
    name: String,
    job: u64,
    looked: bool,
    /// Says what it has read when it writes.
    careful: bool,
}

impl Claimer {
    fn key(&self) -> String {
        format!("job/{}", self.job)
    }
}

impl Controller for Claimer {
    fn step(&mut self, _seat: Seat, told: Told) -> Wish {
        if self.job >= JOBS {
            return Wish::Nothing;
        }
        match told {
            Told::Value(None) if self.looked => {
                self.looked = false;
                let expected = if self.careful { vec![(self.key(), None)] } else { Vec::new() };
                let writes = vec![(self.key(), Some(self.name.clone()))];
                self.job += 1;
                Wish::Write { expected, writes, fence: None }
            }
            Told::Value(Some(_)) => {
                // Somebody has it.
                self.job += 1;
                self.looked = true;
                Wish::Get(self.key())
            }
            Told::Value(None) | Told::Nothing | Told::Written(_) | Told::Unknown => {
                self.looked = true;
                Wish::Get(self.key())
            }
        }
    }
}

/// No job changes its owner.
fn one_owner(before: &Everything, now: &Everything) -> Result<(), String> {
    for (job, owner) in before.range("job/".to_owned().."job0".to_owned()) {
        match now.get(job) {
            Some(still) if still == owner => {}
            other => return Err(format!("{job} was {owner}'s, and is {other:?}'s")),
        }
    }
    Ok(())
}

/// Runs a seed with claimers in every manager.
///
/// # Errors
/// What breaks.
fn claim(seed: u64, careful: bool) -> Result<u64, Box<Violation>> {
    let embedded = Embedded {
        make: Box::new(move |manager| {
            Box::new(Claimer { name: format!("m{manager}"), job: 0, looked: false, careful })
        }),
        holds: Box::new(one_owner),
    };
    run_controllers(SimConfig::draw(seed, Profile::Swarm), embedded).map(|report| report.acks)
}

/// The first of these seeds in which two claim one job.
pub(crate) fn find(seeds: std::ops::Range<u64>, careful: bool) -> Option<Box<Violation>> {
    seeds.into_iter().find_map(|seed| claim(seed, careful).err())
}

#[allow(clippy::print_stdout, dead_code, reason = "an example speaks to people; a test includes it for the rest")]
fn main() -> ExitCode {
    match find(1..201, cfg!(not(feature = "planted-race"))) {
        None => {
            println!("200 seeds: no job ever had a second owner");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("{violation}\nseed {} of the profile swarm shows it", violation.seed);
            ExitCode::FAILURE
        }
    }
}
