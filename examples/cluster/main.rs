//! The demo: a cluster of real processes that loses its leader, a voter, and at last all managers but one, and neither an
//! acknowledged write nor a worker's process.
//!
//! Run it with `make demo`, or build both and run
//! `cargo run --release --features cli --example cluster -- --managers 5`. Every command it runs is printed, so that
//! you can repeat it by hand.
//!
//! Owns the order of the chapters. The managers are processes of the `quorate` binary; the workers are processes of this
//! program, which embed a node as an orchestrator's agent does; the writers and readers in here use nothing but the
//! library's public client.

mod failover;
mod items;
mod processes;
mod proof;
mod reading;
mod recovery;
mod remains;
mod replacement;
mod secrets;
mod story;
mod watching;
mod worker;
mod writers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use processes::{Processes, Told};
use reading::Written;
use story::Story;

const HELP: &str = "\
Any number of managers from 3 to 7 plays the same story. Of 4, 6 or 7 one or two begin as standbys, and one of these takes \
the seat of the voter that dies; of 3 or 5 it is the promoted worker. With --hold the last two chapters are left out: the \
orderly stop, and the proof in the logs of the stopped nodes. `worker` is what the demo runs as its workers: an \
orchestrator's agent with a node in it.";

/// A cluster of real processes on this machine, told as a story.
#[derive(Debug, Parser)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true, max_term_width = 110)]
struct Options {
    /// How many managers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    managers: u8,
    /// Put a write on the list that was never sent; the demo must notice and fail
    #[arg(long = "break")]
    forge: bool,
    /// Leave the cluster running at the end
    #[arg(long)]
    hold: bool,
    /// Less load, for tests
    #[arg(long)]
    short: bool,
    /// The files to load into the store
    #[arg(long, default_value = ".")]
    files: PathBuf,
    /// The quorate binary; without it the one that was built with this demo
    #[arg(long)]
    bin: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Run the worker that was prepared in a directory, and a process for each item it is assigned
    Worker {
        /// Its directory, as `quorate join` has prepared it
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Part::Worker { data_dir }) = &options.part {
        return worker::run(data_dir);
    }
    let mut story = Story::begin();
    let told = Runtime::new().map_err(|error| error.to_string()).and_then(|runtime| {
        let processes = Processes::prepare(&binary(&options)?, options.managers.into())?;
        clean_up_when_interrupted(&runtime, &processes);
        let demo = Demo { runtime, processes, options };
        demo.tell(&mut story).inspect_err(|_| story::print(&demo.processes.logs()))
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story::print(&format!("\nDEMO FAILED after {:.1} s: {error}", story.elapsed().as_secs_f64()));
            ExitCode::FAILURE
        }
    }
}

/// Beside this program's directory `examples`, where cargo puts it.
fn binary(options: &Options) -> Told<PathBuf> {
    if let Some(given) = &options.bin {
        return Ok(given.clone());
    }
    let own = std::env::current_exe().map_err(|error| format!("cannot find the demo's own file: {error}"))?;
    own.parent()
        .and_then(Path::parent)
        .map(|built| built.join("quorate"))
        .ok_or_else(|| "cannot find the quorate binary; name it with --bin".into())
}

fn clean_up_when_interrupted(runtime: &Runtime, processes: &Processes) {
    let remains = processes.remains();
    runtime.spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return;
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
        remains.clean();
        story::print("\ninterrupted: all nodes and their items are ended, their directory is removed");
        std::process::exit(130);
    });
}

/// The cluster, and how it is looked at; the chapters are in the modules that they are about.
struct Demo {
    runtime: Runtime,
    processes: Processes,
    options: Options,
}

impl Demo {
    fn tell(&self, story: &mut Story) -> Told<()> {
        let managers: Vec<String> = self.processes.managers.iter().map(|manager| manager.name.clone()).collect();

        // A leader is lost.
        self.form(story)?;
        let files = self.load_files(story)?;
        story.chapter("The cluster as it is now");
        story.say(&self.processes.quorate(story, &["status", "--data-dir", "n1"])?);
        let (writers, killed, stopped) = self.kill_leader_under_load(story)?;
        self.bring_back(story, &killed, ", while the writers go on")?;
        let mut written = Written { acknowledged: self.end_load(story, writers)?, files };
        self.read_everything(story, &managers, &written)?;
        self.compare_hashes(story, "n1")?;

        // A voter is lost and replaced.
        let items = self.give_work(story)?;
        let words = self.deliver(story)?;
        self.lock_and_look(story, words)?;
        self.promote(story, &items)?;
        let (writers, replaced) = self.kill_a_voter(story, &items)?;
        self.take_back(story, &replaced, &items)?;
        written.acknowledged = self.end_load(story, writers)?;

        // All managers but one are lost for good.
        let survivor = self.lose_the_majority(story, &items)?;
        self.recover(story, &survivor, &replaced, &items)?;
        self.read_everything(story, std::slice::from_ref(&survivor), &written)?;
        self.check_after_recovery(story, &survivor, &items)?;
        let old: Vec<String> = managers.into_iter().filter(|name| *name != survivor).collect();
        self.fence(story, &old)?;
        let members = self.grow(story, &survivor, &old, &items)?;
        self.read_everything(story, &members, &written)?;
        let hash = self.compare_hashes(story, &survivor)?;
        if self.options.hold {
            self.hold(story, &members)?;
        } else {
            self.stop(story, &survivor, &members, &items)?;
            self.prove_odd(story, &survivor)?;
        }
        story::print(&format!(
            "\nDEMO PASSED in {:.1} s: {} managers, {} workers, {} files, {} acknowledged writes.\n\
             The leader was killed under load: writes stopped for {} ms. A dead voter was replaced in one change.\n\
             A secret went to one worker and is readable on no disk; a manager was locked and unlocked.\n\
             All managers but one were lost for good, and the last one went on: no acknowledged write is missing on any \
             manager,\nno item was restarted, the old managers are fenced, and the number of voters was always odd.\n\
             All managers have the same state ({hash}).",
            story.elapsed().as_secs_f64(),
            self.processes.managers.len(),
            self.processes.workers.len(),
            written.files.len(),
            written.acknowledged.len(),
            stopped.as_millis(),
        ));
        Ok(())
    }

    fn hold(&self, story: &mut Story, members: &[String]) -> Told<()> {
        let processes = &self.processes;
        processes.hold();
        story.chapter("The cluster stays as it is");
        story.command(&format!("cd {}", processes.directory().display()), None);
        story.command(&format!("export PATH={}:$PATH", processes.places()), None);
        let first = members.first().ok_or("nobody is left")?;
        story.command(&format!("quorate status --data-dir {first}"), None);
        story.command(&format!("quorate assign ls w1 --data-dir {first}"), None);
        let connect = self.addresses(members)?.join(",");
        story.command(
            &format!("quorate kv ls --prefix {} --connect {connect} --identity n1/operator.id", reading::FILES),
            None,
        );
        let pids: Vec<String> = processes.pids().iter().map(|(_, pid)| pid.to_string()).collect();
        story.say("when you are done:");
        story
            .command(&format!("kill {} && sleep 2 && rm -r {}", pids.join(" "), processes.directory().display()), None);
        Ok(())
    }

    fn stop(&self, story: &mut Story, asked: &str, members: &[String], items: &items::Items) -> Told<()> {
        story.chapter("Orderly stop");
        let leader = self.until(asked, |status| status.leader.clone())?;
        let (first, then): (Vec<&String>, Vec<&String>) = members.iter().partition(|name| **name == leader);
        for name in first.into_iter().chain(then) {
            let took = self.processes.stop(story, name)?;
            story.say(&format!("{name} stopped in {} ms, exit code 0", took.as_millis()));
        }
        items.check_ended()?;
        story.say("the items ended with their agents");
        Ok(())
    }
}
