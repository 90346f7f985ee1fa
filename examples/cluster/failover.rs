//! The first part of the story: managers form a cluster, and its leader is killed under load.
//!
//! Owns these chapters, and the load, which goes on in later ones. Called by `main`.

use std::time::{Duration, Instant};

use crate::Demo;
use crate::processes::Told;
use crate::reading::{self, Kept};
use crate::story::Story;
use crate::watching::{PATIENCE, seats};
use crate::writers::{self, Acknowledged, Round, Writers};

const WRITERS: usize = 8;

impl Demo {
    pub(crate) fn form(&self, story: &mut Story) -> Told<()> {
        let processes = &self.processes;
        let count = processes.managers.len();
        story.chapter(&format!("{count} managers form a cluster"));
        story.say("All commands run as printed in this directory, with these binaries:");
        story.command(&format!("cd {}", processes.directory().display()), None);
        story.command(&format!("export PATH={}:$PATH", processes.places()), None);
        let first = processes.member("n1")?;
        let made =
            processes.quorate(story, &["init", "--data-dir", "n1", "--listen", &first.address, "--name", "n1"])?;
        story.say(&made);
        processes.start(story, "n1")?;
        let token = self.token(story, "manager", "n1")?;
        for manager in processes.managers.iter().skip(1) {
            let (name, address) = (manager.name.as_str(), manager.address.as_str());
            let join = ["join", "--data-dir", name, "--listen", address, "--name", name];
            let way = ["--manager", first.address.as_str(), "--token", token.as_str()];
            processes.quorate(story, &[&join[..], &way[..]].concat())?;
            processes.start(story, name)?;
        }
        let live = story.waiting(&format!("{} managers take their seats", seats(count)));
        self.until("n1", |status| {
            live.show(format!("{} of {} seats taken", status.voters, seats(count)));
            let here = status.managers.iter().filter(|manager| manager.reachable).count();
            (status.voters == seats(count) && here == count).then_some(())
        })
        .map_err(|last| format!("the cluster did not come to {} voters: {last}", seats(count)))
    }

    /// The standing token of a role.
    pub(crate) fn token(&self, story: &Story, role: &str, from: &str) -> Told<String> {
        let shown = self.processes.quorate(story, &["token", "show", role, "--data-dir", from])?;
        Ok(shown.lines().next_back().unwrap_or_default().to_owned())
    }

    pub(crate) fn load_files(&self, story: &mut Story) -> Told<Vec<Kept>> {
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
            let client = self.client("n1").await?;
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
    pub(crate) fn kill_leader_under_load(&self, story: &mut Story) -> Told<(Writers, String, Duration)> {
        story.chapter(&format!("{WRITERS} writers write; then the leader is killed with SIGKILL"));
        let load = Duration::from_millis(if self.options.short { 800 } else { 4_000 });
        let writers = self.begin_load(Round { number: 1, writers: WRITERS, pause: Duration::ZERO })?;
        self.watch(story, &writers, load);
        let leader =
            self.until("n1", |status| status.leader.clone()).map_err(|last| format!("nobody leads: {last}"))?;
        let before = writers.acknowledged();
        story.say(&format!("{leader} leads; {before} writes acknowledged so far"));
        let sent = self.processes.kill(story, &[&leader])?;
        let live = story.waiting("the others elect a new leader");
        let next = self
            .until(beside(&leader), |status| status.leader.clone().filter(|next| *next != leader))
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
        Ok((writers, leader, stopped))
    }

    /// Starts writers that go on until [`Self::end_load`].
    pub(crate) fn begin_load(&self, round: Round) -> Told<Writers> {
        let processes = &self.processes;
        let (managers, lists) = (processes.addresses(), processes.directory());
        self.runtime.block_on(Writers::start(round, &managers, &processes.identity(), lists))
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

    /// Stops the writers and answers everything that is on their lists, those of earlier rounds with it.
    pub(crate) fn end_load(&self, story: &Story, writers: Writers) -> Told<Vec<Acknowledged>> {
        let report = self.runtime.block_on(writers.stop())?;
        if self.options.forge {
            let forged = writers::forge(&report.lists)?;
            story.say(&format!("BREAK: {} was put on the list, and never sent", forged.key));
        }
        story.say(&format!(
            "{} writes acknowledged, {:.0} a second; {} answered `not done`, {} without an answer in time",
            report.acknowledged(),
            report.rate(),
            report.refused,
            report.unknown
        ));
        writers::read_lists(self.processes.directory())
    }

    /// Starts a manager that was killed, and waits until it has what was there when it came back.
    pub(crate) fn bring_back(&self, story: &mut Story, name: &str, meanwhile: &str) -> Told<()> {
        story.chapter(&format!("{name} comes back{meanwhile}"));
        self.processes.start(story, name)?;
        let live = story.waiting(&format!("{name} catches up"));
        let began = Instant::now();
        // Under load it is always a few entries behind; what must be is that it has what was there when it came back.
        let goal = self.until(beside(name), |status| status.managers.iter().map(|manager| manager.applied).max())?;
        let applied = self
            .until(beside(name), |status| {
                let own = status.managers.iter().find(|manager| manager.name == name)?;
                live.show(format!("{name} has applied {} of {goal}, {} behind", own.applied, own.lag));
                (own.reachable && own.applied >= goal).then_some(own.applied)
            })
            .map_err(|last| format!("{name} did not catch up within {} s: {last}", PATIENCE.as_secs()))?;
        drop(live);
        story.say(&format!(
            "{name} has caught up: entry {applied} applied, {} ms after it was ready",
            began.elapsed().as_millis()
        ));
        Ok(())
    }
}

/// A manager to ask when this one cannot be.
fn beside(name: &str) -> &'static str {
    if name == "n1" { "n2" } else { "n1" }
}
