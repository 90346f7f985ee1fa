//! The demo: a cluster of real processes that loses its leader under load and no acknowledged write.
//!
//! Run it with `make demo`, or build both and run
//! `cargo run --release --features cli --example cluster -- --managers 5`. Every command it runs is printed, so that
//! you can repeat it by hand.
//!
//! Owns the story. The managers are processes of the `quorate` binary; the writers and readers in here use nothing but
//! the library's public client.

mod processes;
mod reading;
mod story;
mod writers;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate::status::{ClusterStatus, ManagerStatus};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use processes::{Processes, Told};
use reading::{Kept, Reads};
use story::Story;
use writers::Writers;

/// A cluster of real processes on this machine, told as a story.
#[derive(Debug, Parser)]
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
}

const WRITERS: usize = 8;
/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let options = Options::parse();
    let mut story = Story::begin();
    let told = Runtime::new().map_err(|error| error.to_string()).and_then(|runtime| {
        let processes = Processes::prepare(&binary(&options)?, options.managers.into())?;
        clean_up_when_interrupted(&runtime, &processes);
        Demo { runtime, processes, options }.tell(&mut story)
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
        story::print("\ninterrupted: the managers are stopped, their directory is removed");
        std::process::exit(130);
    });
}

struct Demo {
    runtime: Runtime,
    processes: Processes,
    options: Options,
}

impl Demo {
    fn tell(&self, story: &mut Story) -> Told<()> {
        let count = self.processes.managers.len();
        self.form(story, count)?;
        let files = self.load_files(story)?;

        story.chapter("The cluster as it is now");
        story.say(&self.processes.quorate(story, &["status", "--data-dir", "n1"])?);

        story.chapter(&format!("{WRITERS} writers write; then the leader is killed with SIGKILL"));
        let (writers, killed, stopped) = self.kill_leader_under_load(story)?;
        self.bring_back(story, killed)?;
        let report = self.runtime.block_on(writers.stop())?;
        if self.options.forge {
            let forged = writers::forge(&report.lists)?;
            story.say(&format!("BREAK: {} was put on the list, and never sent", forged.key));
        }
        let acknowledged = writers::read_lists(&report.lists)?;
        story.say(&format!(
            "{} writes acknowledged, {:.0} a second; {} answered `not done`, {} without an answer in time",
            acknowledged.len(),
            report.rate(),
            report.refused,
            report.unknown
        ));

        self.read_everything(story, &acknowledged, &files)?;
        let hash = self.compare_hashes(story)?;
        if self.options.hold {
            self.hold(story);
        } else {
            self.stop(story)?;
        }
        story::print(&format!(
            "\nDEMO PASSED in {:.1} s: {count} managers, {} files, {} acknowledged writes.\n\
             The leader was killed under load: writes stopped for {} ms, and every acknowledged write was read from \
             every manager.\nAll managers have the same state ({hash}).",
            story.elapsed().as_secs_f64(),
            files.len(),
            acknowledged.len(),
            stopped.as_millis(),
        ));
        Ok(())
    }

    fn form(&self, story: &mut Story, count: usize) -> Told<()> {
        let processes = &self.processes;
        story.chapter(&format!("{count} managers form a cluster"));
        story.say("All commands run as printed in this directory, with this binary:");
        story.command(&format!("cd {}", processes.directory().display()), None);
        let place = processes.binary().parent().unwrap_or(processes.binary());
        story.command(&format!("export PATH={}:$PATH", place.display()), None);
        let first = processes.manager(0)?.clone();
        let made = processes
            .quorate(story, &["init", "--data-dir", &first.name, "--listen", &first.address, "--name", &first.name])?;
        story.say(&made);
        processes.start(story, 0)?;
        let shown = processes.quorate(story, &["token", "show", "manager", "--data-dir", &first.name])?;
        let token = shown.lines().next_back().unwrap_or_default().to_owned();
        for (index, manager) in processes.managers.iter().enumerate().skip(1) {
            let (name, address) = (manager.name.as_str(), manager.address.as_str());
            let join = ["join", "--data-dir", name, "--listen", address, "--name", name];
            let way = ["--manager", first.address.as_str(), "--token", token.as_str()];
            processes.quorate(story, &[&join[..], &way[..]].concat())?;
            processes.start(story, index)?;
        }
        // The number of voters is odd: of four or six managers one stays standby.
        let seats = if count % 2 == 1 { count } else { count - 1 }.min(5);
        let live = story.waiting(&format!("{seats} managers take their seats"));
        self.until(0, |status| {
            live.show(format!("{} of {seats} seats taken", status.voters));
            let here = status.managers.iter().filter(|manager| manager.reachable).count();
            (status.voters == seats && here == count).then_some(())
        })
        .map_err(|last| format!("the cluster did not come to {seats} voters: {last}"))
    }

    fn load_files(&self, story: &mut Story) -> Told<Vec<Kept>> {
        let files = reading::files(&self.options.files)?;
        let bytes: usize = files.iter().map(|file| file.content.len()).sum();
        story.chapter(&format!("{} files of this repository go into the store ({} KiB)", files.len(), bytes / 1024));
        let [first, rest @ ..] = files.as_slice() else {
            return Err("there are no files".into());
        };
        let path = first.path.canonicalize().map_err(|error| error.to_string())?;
        let value = format!("@{}", path.display());
        let answer = self.processes.quorate(story, &["kv", "put", &first.key, &value, "--data-dir", "n1"])?;
        story.say(&answer);
        let live = story.waiting("the others go the same way, by the library");
        self.runtime.block_on(async {
            let client = reading::only(self.processes.manager(0)?, &self.processes.identity()).await?;
            for (done, file) in rest.iter().enumerate() {
                live.show(format!("{done} of {} {}", rest.len(), file.key));
                let put = client.kv().put(file.key.clone(), file.content.clone());
                put.await.map_err(|error| format!("cannot put {}: {error}", file.key))?;
            }
            Ok::<_, String>(())
        })?;
        drop(live);
        let connect = self.processes.addresses().join(",");
        let listing =
            ["kv", "ls", "--prefix", reading::FILES, "--count", "--connect", &connect, "--identity", "n1/operator.id"];
        let count = self.processes.quorate(story, &listing)?;
        story.say(&count);
        if count.trim() != files.len().to_string() {
            return Err(format!("{} files were put, and the store counts {}", files.len(), count.trim()));
        }
        Ok(files)
    }

    /// Answers the writers, who was killed, and how long writes stopped.
    fn kill_leader_under_load(&self, story: &Story) -> Told<(Writers, usize, Duration)> {
        let processes = &self.processes;
        let load = Duration::from_millis(if self.options.short { 800 } else { 4_000 });
        let lists = processes.directory();
        let writers =
            self.runtime.block_on(Writers::start(WRITERS, &processes.addresses(), &processes.identity(), lists))?;
        self.watch(story, &writers, load);
        let leader = self.until(0, |status| status.leader.clone()).map_err(|last| format!("nobody leads: {last}"))?;
        let victim = processes.named(&leader)?;
        let before = writers.acknowledged();
        story.say(&format!("{leader} leads; {before} writes acknowledged so far"));
        let sent = processes.kill(story, victim)?;
        let live = story.waiting("the others elect a new leader");
        let survivor = if victim == 0 { 1 } else { 0 };
        let next = self
            .until(survivor, |status| status.leader.clone().filter(|next| *next != leader))
            .map_err(|last| format!("nobody took over: {last}"))?;
        let seen = sent.elapsed();
        drop(live);
        self.watch(story, &writers, load);
        if writers.acknowledged() <= before {
            return Err("no write was acknowledged after the leader was killed".into());
        }
        let stopped = writers.stopped_for(sent).ok_or("no write was acknowledged after the leader was killed")?;
        story.say(&format!(
            "{next} leads, seen after {} ms; the longest time without an acknowledged write was {} ms",
            seen.as_millis(),
            stopped.as_millis()
        ));
        Ok((writers, victim, stopped))
    }

    /// Lets the writers write for a while.
    fn watch(&self, story: &Story, writers: &Writers, load: Duration) {
        let live = story.waiting(&format!("{WRITERS} writers write for {:.1} s", load.as_secs_f64()));
        let until = Instant::now() + load;
        while Instant::now() < until {
            live.show(format!("{} writes acknowledged", writers.acknowledged()));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn bring_back(&self, story: &mut Story, victim: usize) -> Told<()> {
        let name = self.processes.manager(victim)?.name.clone();
        story.chapter(&format!("{name} comes back, while the writers go on"));
        self.processes.start(story, victim)?;
        let live = story.waiting(&format!("{name} catches up"));
        let survivor = if victim == 0 { 1 } else { 0 };
        let began = Instant::now();
        // Under load it is always a few entries behind; what must be is that it has what was there when it came back.
        let goal = self.until(survivor, |status| status.managers.iter().map(|manager| manager.applied).max())?;
        let applied = self
            .until(survivor, |status| {
                let own = status.managers.iter().find(|manager| manager.name == name)?;
                live.show(format!("{name} has applied {} of {goal}, {} behind", own.applied, own.lag));
                (own.reachable && own.applied >= goal).then_some(own.applied)
            })
            .map_err(|last| format!("{name} did not catch up: {last}"))?;
        drop(live);
        story.say(&format!(
            "{name} has caught up: entry {applied} applied, {} ms after it was ready",
            began.elapsed().as_millis()
        ));
        Ok(())
    }

    fn read_everything(&self, story: &mut Story, acknowledged: &[writers::Acknowledged], files: &[Kept]) -> Told<()> {
        story.chapter("Every acknowledged write is read from every manager, over a new connection each");
        let mut wrong = Vec::new();
        for reads in [Reads::Linearizable, Reads::Serializable] {
            if reads == Reads::Serializable {
                self.all_caught_up(story)?;
            }
            for manager in &self.processes.managers {
                let live = story.waiting(&format!("reading {}", manager.name));
                let found = self.runtime.block_on(async {
                    let client = reading::only(manager, &self.processes.identity()).await?;
                    reading::differences(&client, reads, acknowledged, files).await
                })?;
                drop(live);
                let how = match reads {
                    Reads::Linearizable => "linearizable",
                    Reads::Serializable => "from its own store",
                };
                story.say(&format!(
                    "{} ({how}): {} writes and {} files compared, {} missing or different",
                    manager.name,
                    acknowledged.len(),
                    files.len(),
                    found.len()
                ));
                wrong.extend(found.into_iter().map(|line| format!("{}: {line}", manager.name)));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
        Err(format!("{} entries are not as they were acknowledged:\n{}", wrong.len(), shown.join("\n")))
    }

    fn all_caught_up(&self, story: &Story) -> Told<()> {
        let _live = story.waiting("every manager applies what is committed");
        self.until(0, |status| {
            let done = |manager: &ManagerStatus| manager.reachable && manager.lag == 0;
            status.managers.iter().all(done).then_some(())
        })
        .map_err(|last| format!("a manager stays behind: {last}"))
    }

    fn compare_hashes(&self, story: &mut Story) -> Told<String> {
        story.chapter("Each manager's own digest over its whole state");
        let live = story.waiting("all managers name a digest at one revision");
        let hashes = self
            .until(0, |status| {
                let hashes: Option<Vec<_>> = status
                    .managers
                    .iter()
                    .map(|manager| Some((manager.name.clone(), manager.state_hash.clone()?, manager.hash_revision?)))
                    .collect();
                hashes.filter(|hashes| hashes.windows(2).all(|pair| matches!(pair, [a, b] if a.2 == b.2)))
            })
            .map_err(|last| format!("the managers name no digest at one revision: {last}"))?;
        drop(live);
        self.processes.quorate(story, &["status", "--data-dir", "n1", "--json"])?;
        for (name, hash, revision) in &hashes {
            story.say(&format!("{name}  {hash}  at revision {revision}"));
        }
        match hashes.as_slice() {
            [(_, first, revision), others @ ..] if others.iter().all(|(_, hash, _)| hash == first) => {
                Ok(format!("{} at revision {revision}", first.chars().take(16).collect::<String>()))
            }
            _ => Err("the managers' states differ".into()),
        }
    }

    fn stop(&self, story: &mut Story) -> Told<()> {
        story.chapter("Orderly stop");
        let leader = self.until(0, |status| status.leader.clone())?;
        let mut order: Vec<usize> = (0..self.processes.managers.len()).collect();
        let first = self.processes.named(&leader)?;
        order.sort_by_key(|index| *index != first);
        for index in order {
            let name = &self.processes.manager(index)?.name;
            let took = self.processes.stop(story, index)?;
            story.say(&format!("{name} stopped in {} ms, exit code 0", took.as_millis()));
        }
        Ok(())
    }

    fn hold(&self, story: &mut Story) {
        let processes = &self.processes;
        processes.hold();
        story.chapter("The cluster stays as it is");
        story.command(&format!("cd {}", processes.directory().display()), None);
        story.command("quorate status --data-dir n1", None);
        let connect = processes.addresses().join(",");
        story.command(
            &format!("quorate kv ls --prefix {} --connect {connect} --identity n1/operator.id", reading::FILES),
            None,
        );
        let pids: Vec<String> = processes.pids().iter().map(|(_, pid)| pid.to_string()).collect();
        story.say("when you are done:");
        story.command(&format!("kill {} && rm -r {}", pids.join(" "), processes.directory().display()), None);
    }

    /// Asks one manager for its status until `found` answers; the error is the last thing seen.
    fn until<T>(&self, manager: usize, mut found: impl FnMut(&ClusterStatus) -> Option<T>) -> Told<T> {
        let until = Instant::now() + PATIENCE;
        let manager = self.processes.manager(manager)?;
        self.runtime.block_on(async {
            let client = reading::only(manager, &self.processes.identity()).await?;
            loop {
                let last = match client.status().await {
                    Ok(status) => match found(&status) {
                        Some(found) => return Ok(found),
                        None => format!("{} says {}: {}", manager.name, status.health.word(), described(&status)),
                    },
                    Err(error) => error.to_string(),
                };
                if Instant::now() > until {
                    return Err(format!("{last} (after {} s)", PATIENCE.as_secs()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }
}

fn described(status: &ClusterStatus) -> String {
    let managers = status.managers.iter().map(|manager| {
        let reached = if manager.reachable { "reachable" } else { "not reachable" };
        format!("{} {} {reached} applied {} lag {}", manager.name, manager.seat, manager.applied, manager.lag)
    });
    managers.collect::<Vec<_>>().join("; ")
}
