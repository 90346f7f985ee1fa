//! The workers and their items: real processes that count, and must not notice what becomes of the managers.
//!
//! Owns the proof that an item was never restarted: it writes its own pid once and then counts, so that its file shows every
//! restart and every pause; the pid is also what its agent has reported to the managers. Called by the chapters.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Demo;
use crate::processes::{Processes, Told};
use crate::story::Story;
use crate::watching::{LOOK, PATIENCE, seats};

/// Who gets what.
const WORK: [(&str, &str); 3] = [("w1", "web.1"), ("w2", "web.2"), ("w2", "db.1")];
/// What each item is: a line for the shell. It says its pid once and then counts.
const LINE: &str = "echo pid $$; n=0; while sleep 0.2; do n=$((n+1)); echo $n; done";

/// An item that runs.
#[derive(Debug)]
struct Item {
    worker: &'static str,
    id: &'static str,
    pid: u32,
    out: PathBuf,
}

/// All items, and the agents that started them.
#[derive(Debug)]
pub(crate) struct Items {
    items: Vec<Item>,
    agents: Vec<(String, u32)>,
}

impl Demo {
    /// Two workers join and are given items.
    pub(crate) fn give_work(&self, story: &mut Story) -> Told<Items> {
        let processes = &self.processes;
        story.chapter("Settings of the whole cluster: a lost voter is replaced soon, so that it can be watched");
        let mut set = vec!["policy", "set", "--lost-after", "5s", "--stable", "1s"];
        let managers = processes.managers.len();
        let most = seats(managers).to_string();
        if seats(managers + 1) > seats(managers) {
            // Else the manager that comes next would make the standby a voter.
            set.extend(["--max-voters", most.as_str()]);
        }
        set.extend(["--data-dir", "n1"]);
        story.say(&processes.quorate(story, &set)?);

        story.chapter("Two workers join, and get items of work");
        story.say(
            "A worker's node lives in an orchestrator's agent. Here that is `cluster worker`: this program as a process of its\n\
             own, with the library in it (examples/cluster/worker.rs). What an item means is the agent's business: it takes it\n\
             for a line of shell, runs that as a child process, and reports the pid.",
        );
        let token = self.token(story, "worker", "n1")?;
        let connect = processes.addresses().join(",");
        let mut agents = Vec::new();
        for worker in &processes.workers {
            let (name, address) = (worker.name.as_str(), worker.address.as_str());
            let join = ["join", "--data-dir", name, "--listen", address, "--name", name];
            processes.quorate(story, &[&join[..], &["--manager", &connect, "--token", &token]].concat())?;
            processes.start(story, name)?;
            agents.push((worker.name.clone(), processes.pid(name)?));
        }
        for (worker, id) in WORK {
            processes.quorate(story, &["assign", "set", worker, id, LINE, "--data-dir", "n1"])?;
        }
        let live = story.waiting("the items run");
        let mut items = Vec::new();
        for (worker, id) in WORK {
            let pid = self.reported_pid("n1", worker, id)?;
            items.push(Item { worker, id, pid, out: processes.directory().join(format!("{id}.out")) });
        }
        drop(live);
        for worker in &processes.workers {
            story.say(&processes.quorate(story, &["assign", "ls", &worker.name, "--data-dir", "n1"])?);
        }
        let items = Items { items, agents };
        self.check_items(story, &items)?;
        Ok(items)
    }

    /// The pid that the agent has told the managers.
    fn reported_pid(&self, asked: &str, worker: &str, item: &str) -> Told<u32> {
        let until = Instant::now() + PATIENCE;
        self.runtime.block_on(async {
            let work = self.client(asked).await?.assignments();
            loop {
                let report = work.reports(worker).await.map_err(|error| format!("{asked}: {error}"))?;
                let status = report.statuses.get(item).map(|status| String::from_utf8_lossy(status).into_owned());
                let status = status.unwrap_or_else(|| "nothing".into());
                if let Some(pid) = status.strip_prefix("running, pid ").and_then(|pid| pid.parse().ok()) {
                    return Ok(pid);
                }
                if Instant::now() > until {
                    return Err(format!("{worker} says of {item}: {status}"));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    /// The agents and all items are the processes that they were, and go on.
    pub(crate) fn check_items(&self, story: &Story, items: &Items) -> Told<()> {
        let live = story.waiting("the items go on");
        let counted = items.go_on(&self.processes)?;
        drop(live);
        story.say(&format!("items  {}", counted.join("   ")));
        Ok(())
    }

    /// What the managers know of the items is what it was, too.
    pub(crate) fn check_reports(&self, asked: &str, items: &Items) -> Told<()> {
        for item in &items.items {
            let pid = self.reported_pid(asked, item.worker, item.id)?;
            if pid != item.pid {
                return Err(format!("{} was process {}, and {} reports process {pid}", item.id, item.pid, item.worker));
            }
        }
        Ok(())
    }
}

impl Items {
    /// Each item counts on from where it is, as the process that it was. Answers a word about each.
    fn go_on(&self, processes: &Processes) -> Told<Vec<String>> {
        for (name, pid) in &self.agents {
            processes.check_runs(name, *pid)?;
        }
        let begun = self.items.iter().map(Item::counted).collect::<Told<Vec<_>>>()?;
        let mut words = Vec::new();
        for (item, begun) in self.items.iter().zip(begun) {
            let until = Instant::now() + PATIENCE;
            let counted = loop {
                let counted = item.counted()?;
                if counted > begun {
                    break counted;
                }
                if Instant::now() > until || !exists(item.pid) {
                    return Err(format!("{} (process {}) counts no more: it stands at {counted}", item.id, item.pid));
                }
                std::thread::sleep(LOOK);
            };
            words.push(format!("{} pid {}, at {counted}", item.id, item.pid));
        }
        Ok(words)
    }

    /// No item outlives its agent.
    pub(crate) fn check_ended(&self) -> Told<()> {
        let until = Instant::now() + PATIENCE;
        for item in &self.items {
            while exists(item.pid) {
                if Instant::now() > until {
                    return Err(format!("{} (process {}) is still there without its agent", item.id, item.pid));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

impl Item {
    fn counted(&self) -> Told<u64> {
        let text = std::fs::read_to_string(&self.out)
            .map_err(|error| format!("cannot read what {} wrote, {}: {error}", self.id, self.out.display()))?;
        counted(&text, self.pid).map_err(|error| format!("{} was not left alone: {error}", self.id))
    }
}

/// How far the process has counted that wrote this file: alone, from the beginning, without a gap.
fn counted(text: &str, pid: u32) -> Told<u64> {
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut lines = whole.lines();
    match lines.next() {
        Some(first) if first == format!("pid {pid}") => {}
        first => return Err(format!("it was process {pid}, its file begins with `{}`", first.unwrap_or_default())),
    }
    let mut count = 0;
    for line in lines {
        if line.parse() != Ok(count + 1) {
            return Err(format!("process {pid} had counted to {count}, then its file says `{line}`"));
        }
        count += 1;
    }
    Ok(count)
}

fn exists(pid: u32) -> bool {
    let asked = Command::new("sh").args(["-c", &format!("kill -0 {pid}")]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_a_gap_and_another_pid_fail_the_demo() {
        assert_eq!(counted("pid 7\n", 7), Ok(0));
        assert_eq!(counted("pid 7\n1\n2\n3", 7), Ok(2), "the last line is not whole");
        assert!(counted("pid 8\n1\n", 7).unwrap_err().contains("begins with `pid 8`"));
        assert!(counted("pid 7\n1\npid 9\n1\n", 7).unwrap_err().contains("`pid 9`"), "it was restarted");
        assert!(counted("pid 7\n1\n3\n", 7).unwrap_err().contains("`3`"));
        assert!(counted("", 7).is_err());
    }

    #[test]
    fn a_process_that_ended_is_seen_to_be_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(exists(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!exists(child.id()));
    }
}
