//! The second part of the story: a worker is promoted, a voter dies and is replaced, and comes back.
//!
//! Owns these chapters. Called by `main`.

use std::time::{Duration, Instant};

use quorate::membership::NodeState;

use crate::Demo;
use crate::items::Items;
use crate::processes::Told;
use crate::story::Story;
use crate::watching::{members, seats};
use crate::writers::{Round, Writers};

/// The load while a voter is replaced. It is held back, so that the log reaches back to the replacement on any disk.
const LOAD: Round = Round { number: 2, writers: 4, pause: Duration::from_millis(5) };

/// A voter that lost its seat, and who took it.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) name: String,
    pub(crate) raft_id: u64,
    pub(crate) by: String,
    pub(crate) by_raft_id: u64,
}

impl Demo {
    fn seats(&self) -> usize {
        seats(self.processes.managers.len())
    }

    /// One manager more, and not one seat.
    pub(crate) fn promote(&self, story: &mut Story, items: &Items) -> Told<()> {
        let (managers, seats) = (self.processes.managers.len() + 1, self.seats());
        story.chapter(&format!(
            "w1 is promoted: {managers} managers, of which {seats} vote and {} stand by",
            managers - seats
        ));
        let answer = self.processes.quorate(story, &["node", "promote", "w1", "--data-dir", "n1"])?;
        story.say(&answer);
        self.until_all_are_there("n1", managers, seats)?;
        story.say(&self.processes.quorate(story, &["node", "ls", "--data-dir", "n1"])?);
        story.say("w1 is a manager now, in the same process; its item goes on:");
        self.check_items(story, items)
    }

    /// A voter dies while writers write; a standby takes its seat. Answers the writers and who took whose seat.
    pub(crate) fn kill_a_voter(&self, story: &mut Story, items: &Items) -> Told<(Writers, Replaced)> {
        let seats = self.seats();
        story.chapter("A voter is killed with SIGKILL, and stays away: a standby takes its seat");
        let (victim, raft_id, voters) = self.until("n1", |status| {
            // Not the leader: that was the story before. Not n1: it is the one that is asked.
            let voters: Vec<String> = voters_of(status);
            let victim = members(status).find(|manager| {
                manager.seat == "voter" && !manager.leader && manager.name != "n1" && manager.name.starts_with('n')
            })?;
            status.leader.as_ref()?;
            Some((victim.name.clone(), victim.raft_id, voters))
        })?;
        let writers = self.begin_load(LOAD)?;
        let sent = self.processes.kill(story, &[&victim])?;
        let live = story.waiting(&format!("{victim} is silent"));
        let (by, by_raft_id) = self
            .until("n1", |status| {
                let silent = sent.elapsed().as_secs_f64();
                live.show(format!(
                    "{victim} has been silent for {silent:.1} s, {} writes acknowledged",
                    writers.acknowledged()
                ));
                let gone = !voters_of(status).contains(&victim);
                let new = members(status).find(|one| one.seat == "voter" && !voters.contains(&one.name))?;
                (gone && status.voters == seats).then(|| (new.name.clone(), new.raft_id))
            })
            .map_err(|last| format!("{victim} was not replaced: {last}"))?;
        let after = sent.elapsed();
        drop(live);
        story.say(&self.processes.quorate(story, &["status", "--data-dir", "n1"])?);
        let gap = writers.stopped_for(sent).ok_or("no write was acknowledged after a voter was killed")?;
        story.say(&format!(
            "{by} took the seat of {victim} {:.1} s after the kill; still {seats} voters. Writes went on all the time: the \
             longest time without an acknowledged one was {} ms",
            after.as_secs_f64(),
            gap.as_millis()
        ));
        self.check_items(story, items)?;
        Ok((writers, Replaced { name: victim, raft_id, by, by_raft_id }))
    }

    /// Who was replaced comes back and stands by; w1 is no manager any more, and its seat, if it has one, goes back.
    pub(crate) fn take_back(&self, story: &mut Story, replaced: &Replaced, items: &Items) -> Told<()> {
        let (managers, seats) = (self.processes.managers.len(), self.seats());
        let name = &replaced.name;
        self.bring_back(story, name, ", without a token: it has lost its seat, and stands by")?;
        self.until("n1", |status| {
            members(status).find(|one| one.name == *name && one.seat == "standby" && one.reachable).map(|_| ())
        })
        .map_err(|last| format!("{name} does not stand by: {last}"))?;
        story.chapter(&if replaced.by == "w1" {
            format!("w1 has done its duty and becomes a worker again: its seat goes back to {name}, in one change")
        } else {
            "w1 is not needed and becomes a worker again".to_owned()
        });
        let began = Instant::now();
        let answer = self.processes.quorate(story, &["node", "demote", "w1", "--data-dir", "n1"])?;
        story.say(&answer);
        self.until_all_are_there("n1", managers, seats)?;
        // With a session of its own: that it is a manager no more the others know before it does.
        self.until("n1", |status| {
            status.workers.iter().any(|worker| worker.name == "w1" && worker.state == NodeState::Ready).then_some(())
        })
        .map_err(|last| format!("w1 does not go on as a worker: {last}"))?;
        story.say(&format!("{:.1} s. Still the same process, and the same items:", began.elapsed().as_secs_f64()));
        self.check_items(story, items)
    }
}

fn voters_of(status: &quorate::status::ClusterStatus) -> Vec<String> {
    members(status).filter(|manager| manager.seat == "voter").map(|manager| manager.name.clone()).collect()
}
