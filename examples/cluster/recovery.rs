//! The third part of the story: all managers but one are lost for good, and the cluster goes on.
//!
//! Owns these chapters. Called by `main`.

use quorate::membership::NodeState;
use quorate::status::Health;

use crate::Demo;
use crate::items::Items;
use crate::processes::Told;
use crate::replacement::Replaced;
use crate::story::Story;
use crate::watching::{members, seats};

/// A key that is put when nobody can acknowledge it.
const REFUSED: &str = "refused/without-a-quorum";

impl Demo {
    /// Answers who is left. It holds everything that was acknowledged.
    pub(crate) fn lose_the_majority(&self, story: &mut Story, items: &Items) -> Told<String> {
        let (count, seats) = (self.processes.managers.len(), seats(self.processes.managers.len()));
        story.chapter(&format!("{} of {count} managers die for good", count - 1));
        let live = story.waiting("the one that will be left holds everything");
        self.until_all_are_there("n1", count, seats)?;
        let survivor = self.until("n1", |status| {
            let left = members(status).find(|one| one.seat == "voter" && !one.leader)?;
            Some(left.name.clone())
        })?;
        drop(live);
        story.say(&format!("{survivor} has applied everything that is committed"));
        let others: Vec<&str> = self.processes.managers.iter().map(|one| one.name.as_str()).collect();
        let others: Vec<&str> = others.into_iter().filter(|name| *name != survivor).collect();
        self.processes.kill(story, &others)?;
        let live = story.waiting(&format!("{survivor} finds out"));
        self.until(&survivor, |status| {
            let reachable = members(status).filter(|one| one.reachable).count();
            (status.health == Health::QuorumLost && reachable == 1).then_some(())
        })
        .map_err(|last| format!("{survivor} does not say that the quorum is lost: {last}"))?;
        drop(live);
        let page = self.processes.quorate(story, &["status", "--data-dir", &survivor])?;
        story.say(&page);
        let alone = format!("1 of {seats} voters reachable, {} needed. Writes are refused.", seats / 2 + 1);
        for words in
            ["QUORUM LOST for ", &alone, "workers keep running", "  next     start ", "quorate recover --dry-run"]
        {
            if !page.contains(words) {
                return Err(format!("the status of {survivor} does not say `{words}`"));
            }
        }
        let put = ["kv", "put", REFUSED, "nobody has this", "--data-dir", &survivor];
        let message = self.processes.refused(story, &put, 3)?;
        if !message.contains("quorum lost") {
            return Err(format!("the write was refused for another reason: {message}"));
        }
        self.check_items(story, items)?;
        Ok(survivor)
    }

    /// Force-new-cluster: looks first, then ends this generation.
    pub(crate) fn recover(&self, story: &mut Story, survivor: &str, replaced: &Replaced, items: &Items) -> Told<()> {
        let processes = &self.processes;
        story.chapter(&format!("{survivor} goes on alone, with everything that is on its disk"));
        let took = processes.stop(story, survivor)?;
        story.say(&format!("{survivor} stopped in {} ms: now there is no manager at all", took.as_millis()));
        self.check_items(story, items)?;
        self.prove_replacement(story, survivor, replaced)?;
        let looked = processes.quorate(story, &["recover", "--dry-run", "--data-dir", survivor])?;
        story.say(&looked);
        let recovered = processes.quorate(story, &["recover", "--data-dir", survivor])?;
        story.say(recovered.lines().next().unwrap_or_default());
        let words = format!("RECOVERED: generation 1 is ended, generation 2 begins with {survivor} alone.");
        if !looked.starts_with("COULD BE RECOVERED") || !recovered.starts_with(&words) {
            return Err(format!("the recovery did not say `{words}`"));
        }
        processes.start(story, survivor)?;
        story.say(&processes.quorate(story, &["status", "--data-dir", survivor])?);
        Ok(())
    }

    /// What was refused is not there, the workers have come, and their items are the processes that they were.
    pub(crate) fn check_after_recovery(&self, story: &Story, survivor: &str, items: &Items) -> Told<()> {
        self.processes.refused(story, &["kv", "get", REFUSED, "--data-dir", survivor], 1)?;
        let live = story.waiting("the workers come");
        let workers = self.processes.workers.len();
        self.until(survivor, |status| {
            let ready = status.workers.iter().filter(|worker| worker.state == NodeState::Ready).count();
            (ready == workers && status.workers.len() == workers).then_some(())
        })
        .map_err(|last| format!("the workers did not come to {survivor}: {last}"))?;
        self.check_reports(survivor, items)?;
        drop(live);
        story.say("both workers have a session with the new generation:");
        self.check_items(story, items)
    }

    /// The managers of the ended generation are started again, one after the other.
    pub(crate) fn fence(&self, story: &mut Story, old: &[String]) -> Told<()> {
        story.chapter("The lost managers come back, and are fenced");
        for name in old {
            let message = self.processes.refused(story, &["run", "--data-dir", name, "--log", "off"], 11)?;
            if !message.contains("It is fenced") {
                return Err(format!("{name} stopped for another reason: {message}"));
            }
        }
        let first = old.first().ok_or("nobody was lost")?;
        let page = self.processes.quorate(story, &["status", "--data-dir", first])?;
        let headline = page.lines().next().unwrap_or_default();
        story.say(headline);
        if headline.starts_with("FENCED: ") { Ok(()) } else { Err(format!("{first} does not say that it is fenced")) }
    }

    /// Three voters again, of the workers. Answers the names of all managers then.
    pub(crate) fn grow(&self, story: &mut Story, survivor: &str, old: &[String], items: &Items) -> Told<Vec<String>> {
        let processes = &self.processes;
        story.chapter("Both workers are promoted: three voters again");
        let answer = processes.quorate(story, &["node", "promote", "w1", "w2", "--data-dir", survivor])?;
        story.say(&answer);
        self.until_all_are_there(survivor, 3, 3)?;
        let mut now: Vec<String> = [survivor, "w1", "w2"].map(str::to_owned).to_vec();
        if !self.options.short {
            let back = old.first().ok_or("nobody was lost")?;
            let address = processes.member(survivor)?.address.as_str();
            let token = self.token(story, "manager", survivor)?;
            let join = ["join", "--replace", "--data-dir", back, "--manager", address, "--token", &token];
            story.say(&processes.quorate(story, &join)?);
            processes.start(story, back)?;
            self.until_all_are_there(survivor, 4, 3)?;
            now.push(back.clone());
        }
        story.say(&processes.quorate(story, &["status", "--data-dir", survivor])?);
        self.check_reports(survivor, items)?;
        self.check_items(story, items)?;
        let put = ["kv", "put", "afterwards", "writes go on", "--data-dir", survivor];
        story.say(&processes.quorate(story, &put)?);
        Ok(now)
    }
}
