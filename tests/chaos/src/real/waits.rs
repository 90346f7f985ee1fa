//! What a scenario waits for: who leads, what is acknowledged, who has a seat.
//!
//! Owns the waits, each with a budget, and each looking all the time whether anything is wrong. Never hurts anybody.

use std::time::{Duration, Instant};

use quorate::status::ClusterStatus;

use super::fleet::leader_of;
use super::world::World;
use super::{BUDGET, Done, harness, violation};

impl World {
    /// What every manager says that answers.
    pub(super) async fn answers(&self) -> Vec<ClusterStatus> {
        let running = self.fleet.running();
        let asked: Vec<_> = self
            .admins
            .iter()
            .filter(|(index, _)| running.contains(index))
            .map(|(_, admin)| {
                let admin = admin.clone();
                tokio::spawn(async move { admin.status().await })
            })
            .collect();
        let mut answers = Vec::new();
        for asked in asked {
            if let Ok(Ok(status)) = asked.await {
                answers.push(status);
            }
        }
        answers
    }

    /// Who leads, by its own word.
    pub(super) async fn leader(&mut self) -> Done<usize> {
        let until = Instant::now() + BUDGET;
        loop {
            let leader = leader_of(&self.answers().await).and_then(|name| self.fleet.index_of(&name));
            if let Some(leader) = leader.filter(|leader| self.fleet.members[*leader].runs()) {
                return Ok(leader);
            }
            self.sound()?;
            if Instant::now() > until {
                return Err(self.recorder.too_late(format!("nobody leads for {BUDGET:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A running manager that does not lead.
    pub(super) async fn follower(&mut self) -> Done<usize> {
        let leader = self.leader().await?;
        let others: Vec<usize> = self.fleet.running().into_iter().filter(|index| *index != leader).collect();
        match others.get(self.dice.usize(..others.len().max(1))) {
            Some(index) => Ok(*index),
            None => harness("there is no follower"),
        }
    }

    pub(super) fn others(&self, index: usize) -> Vec<usize> {
        self.fleet.managers().into_iter().filter(|other| *other != index).collect()
    }

    /// Nobody ended, and no client saw anything that must not be.
    pub(super) fn sound(&mut self) -> Done {
        self.fleet.nobody_ended()?;
        self.recorder.clean()?;
        self.observer.violations().into_iter().next().map_or(Ok(()), violation)
    }

    /// Waits for the acknowledgement of a write that began after `then`.
    pub(super) async fn acknowledging(&mut self, then: u64, when: &str) -> Done {
        self.acknowledging_within(then, when, BUDGET).await
    }

    pub(super) async fn acknowledging_within(&mut self, then: u64, when: &str, budget: Duration) -> Done {
        let until = Instant::now() + budget;
        while !self.recorder.acknowledged_since(then) {
            self.sound()?;
            if Instant::now() > until {
                for status in self.answers().await {
                    self.timeline.note(serde_json::to_string(&status).unwrap_or_default());
                }
                return Err(self.recorder.too_late(format!("no write was acknowledged for {budget:?} {when}")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until this manager is reachable, and has applied everything.
    pub(super) async fn caught_up(&mut self, member: usize) -> Done {
        let name = self.fleet.members[member].name.clone();
        // (With a load that never ends nobody is ever quite there.)
        let what = format!("{name} has caught up");
        self.eventually(&what, |status| {
            status.managers.iter().any(|manager| manager.name == name && manager.reachable && manager.lag < 200)
        })
        .await
        .map(|_status| ())
    }

    /// The newest term that anybody is in.
    pub(super) async fn term(&self) -> Done<u64> {
        let newest = self.answers().await.iter().map(|status| status.term).max();
        newest.map_or_else(|| harness("no manager answers"), Ok)
    }

    /// Whether this machine itself stood still for an election.
    pub(super) fn stalled(&self) -> bool {
        self.recorder.late_ms() > u64::try_from(self.election.as_millis() / 2).unwrap_or(u64::MAX)
    }

    pub(super) fn now(&self) -> u64 {
        self.timeline.clock.now()
    }

    /// Until the next fault: drawn, so that no fault keeps time with anything; and half of the time not before a fresh
    /// acknowledgement, right after which a fault hurts most.
    pub(super) async fn gap(&mut self) -> Done {
        let drawn = -self.dice.f64().max(1e-9).ln();
        let wait = self.pace.mul_f64(drawn.clamp(0.1, 3.0)).min(self.until.saturating_duration_since(Instant::now()));
        self.calm(wait).await?;
        if self.dice.bool() {
            let now = self.now();
            self.acknowledging(now, "while a fault waited for one").await?;
        }
        Ok(())
    }

    /// Nothing happens for so long, and it is looked whether all is well.
    pub(super) async fn calm(&mut self, time: Duration) -> Done {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.sound()?;
            tokio::time::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(100))).await;
        }
        self.sound()
    }

    /// Nothing happens for so many milliseconds, drawn.
    pub(super) async fn a_while(&mut self, millis: std::ops::Range<u64>) -> Done {
        let drawn = self.dice.u64(millis);
        self.calm(Duration::from_millis(drawn)).await
    }

    /// Waits until so many voters are seated and reachable, as a manager says.
    pub(super) async fn seated(&mut self, voters: usize) -> Done<ClusterStatus> {
        let until = Instant::now() + BUDGET;
        loop {
            let answers = self.answers().await;
            let whole = answers.iter().find(|status| {
                status.voters == voters
                    && status.leader.is_some()
                    && status.managers.iter().filter(|manager| manager.seat == "voter" && manager.reachable).count()
                        == voters
            });
            if let Some(status) = whole {
                return Ok(status.clone());
            }
            self.sound()?;
            if Instant::now() > until {
                let seen = serde_json::to_string(&answers).unwrap_or_default();
                return Err(self
                    .recorder
                    .too_late(format!("{voters} voters are not seated within {BUDGET:?}: {seen}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for something that a status must say.
    pub(super) async fn eventually(
        &mut self,
        what: &str,
        mut is: impl FnMut(&ClusterStatus) -> bool,
    ) -> Done<ClusterStatus> {
        let until = Instant::now() + BUDGET;
        loop {
            let answers = self.answers().await;
            if let Some(status) = answers.iter().find(|status| is(status)) {
                return Ok(status.clone());
            }
            self.sound()?;
            if Instant::now() > until {
                let seen = serde_json::to_string(&answers).unwrap_or_default();
                return Err(self.recorder.too_late(format!("not within {BUDGET:?}: {what}: {seen}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
