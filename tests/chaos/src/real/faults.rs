//! The faults of processes, disks and clocks: each is done, looked at, and undone.
//!
//! Owns what counts as proof. A fault without proof is written down as indeterminate, one that the machine cannot do as skipped;
//! neither counts as reached. What links are made to do is in `nemesis`.

use std::time::{Duration, Instant};

use super::disk::Kind;
use super::preload::Orders;
use super::timeline::Effect;
use super::world::World;
use super::{BUDGET, Done, harness, violation};

fn died(ended: &[std::process::ExitStatus]) -> Effect {
    use std::os::unix::process::ExitStatusExt as _;
    let proof = ended.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let is_killed = |status: &std::process::ExitStatus| status.signal() == Some(9);
    if !ended.is_empty() && ended.iter().all(is_killed) {
        Effect::Installed(proof)
    } else {
        Effect::Indeterminate(proof)
    }
}

impl World {
    /// SIGKILL to all of these at once.
    pub(super) async fn kill(&mut self, victims: &[usize]) -> Done {
        self.fleet.nobody_ended()?;
        let from = self.now();
        let ended = self.fleet.kill(victims).await?;
        self.killed += victims.len() as u64;
        self.timeline.fault("kill", victims, from, died(&ended));
        Ok(())
    }

    /// Started again; does not wait for it.
    pub(super) fn restart(&mut self, member: usize) -> Done {
        self.timeline.note(format!("{} is started again", self.fleet.members[member].name));
        self.start(member)
    }

    /// Started again, and waited for.
    pub(super) async fn back(&mut self, member: usize) -> Done {
        self.restart(member)?;
        self.fleet.ready(member).await
    }

    /// The leader, after a fresh acknowledged write; answers who it was once another one has acknowledged.
    pub(super) async fn kill_leader(&mut self) -> Done<usize> {
        let now = self.now();
        self.acknowledging(now, "before the leader was to be killed").await?;
        let leader = self.leader().await?;
        self.recorder.begin_gap();
        let killed = self.now();
        self.kill(&[leader]).await?;
        let when = format!("after {}, the leader, was killed", self.fleet.members[leader].name);
        self.acknowledging(killed, &when).await?;
        self.leaders_killed += 1;
        self.gaps.push(self.recorder.gap());
        Ok(leader)
    }

    /// SIGSTOP for so long; `meanwhile` the others are looked at.
    pub(super) async fn pause(&mut self, member: usize, time: Duration) -> Done {
        let from = self.now();
        self.fleet.signal(member, "STOP").await?;
        let until = Instant::now() + Duration::from_secs(2);
        while self.fleet.members[member].state() != Some('T') && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let stopped = self.fleet.members[member].state();
        let calm = self.calm(time).await;
        self.fleet.signal(member, "CONT").await?;
        let proof = format!("the kernel says {stopped:?} for {time:?}");
        let effect = if stopped == Some('T') { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
        self.timeline.fault("pause", &[member], from, effect);
        calm
    }

    /// The power goes on all of these at once: what was not synced is gone.
    pub(super) async fn power_cut(&mut self, victims: &[usize]) -> Done {
        let from = self.now();
        if let Some(victim) = victims.iter().find(|victim| !self.fleet.members[**victim].disk.is_own()) {
            self.skip("power-cut", victims, format!("{} has no disk of its own", self.fleet.members[*victim].name));
            return Ok(());
        }
        for victim in victims {
            // (It may notice, before we end it, that its disk is gone.)
            self.fleet.members[*victim].may_end = vec![13];
            if let Err(why) = self.fleet.members[*victim].disk.cut().await? {
                self.skip("power-cut", &[*victim], why);
            }
        }
        self.fleet.kill(victims).await?;
        for victim in victims {
            let effect = self.fleet.members[*victim].disk.restore().await?;
            self.fleet.members[*victim].may_end.clear();
            self.timeline.fault("power-cut", &[*victim], from, effect);
        }
        Ok(())
    }

    /// Every write of this node waits for so long.
    pub(super) async fn stall(&mut self, member: usize, time: Duration) -> Done {
        let from = self.now();
        if !self.fleet.members[member].disk.is_own() {
            self.skip("disk-stall", &[member], "it has no disk of its own");
            return Ok(());
        }
        if let Err(why) = self.fleet.members[member].disk.freeze().await? {
            self.skip("disk-stall", &[member], why);
            return Ok(());
        }
        let stuck = self.fleet.members[member].disk.is_stuck().await;
        let calm = self.calm(time).await;
        // Whatever was seen: first of all the disk is let go.
        self.fleet.members[member].disk.thaw().await?;
        let proof = "a program that writes beside the store".to_owned();
        let effect = if stuck? {
            Effect::Installed(format!("{proof} waits"))
        } else {
            Effect::Indeterminate(format!("{proof} does not wait"))
        };
        self.timeline.fault("disk-stall", &[member], from, effect);
        calm
    }

    /// Space of these is gone but for so many bytes.
    pub(super) async fn fill(&mut self, members: &[usize], leave: u64) -> Done {
        for member in members {
            let from = self.now();
            // With no space at all it stops and says so; the others go on.
            self.fleet.members[*member].may_end = vec![13];
            let effect = if self.fleet.members[*member].disk.is_own() {
                self.fleet.members[*member].disk.fill(leave).await?
            } else {
                Effect::Skipped("it has no disk of its own".to_owned())
            };
            self.timeline.fault(if leave == 0 { "disk-full" } else { "disk-low" }, &[*member], from, effect);
        }
        Ok(())
    }

    /// Space is back; who had stopped is started.
    pub(super) async fn empty(&mut self, members: &[usize]) -> Done {
        for member in members {
            self.fleet.members[*member].disk.empty()?;
            self.fleet.nobody_ended()?;
            if !self.fleet.members[*member].runs() {
                self.back(*member).await?;
            }
            self.fleet.members[*member].may_end.clear();
        }
        Ok(())
    }

    /// Syncs of this node fail from now on, as a disk's do that has no room behind it: it has to stop, and say so.
    pub(super) async fn fsync_fails(&mut self, member: usize) -> Done {
        let from = self.now();
        self.fleet.members[member].may_end = vec![13];
        let effect = if self.setup.disk == Kind::Starving {
            self.fleet.members[member].disk.starve().await?
        } else if let Some(told) = &self.fleet.members[member].told {
            told.tell(Orders { fail: 1, ..Orders::default() })?;
            let until = Instant::now() + Duration::from_secs(20);
            while told.deeds().failed == 0 && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            match told.deeds().failed {
                0 => Effect::Indeterminate("no sync was asked for".to_owned()),
                failed => Effect::Installed(format!("{failed} sync failed with EIO, those after it succeed")),
            }
        } else {
            Effect::Skipped("nothing stands before its disk".to_owned())
        };
        let installed = matches!(effect, Effect::Installed(_));
        self.timeline.fault("fsync-eio", &[member], from, effect);
        if !installed {
            return Ok(());
        }
        let name = self.fleet.members[member].name.clone();
        let until = Instant::now() + BUDGET;
        while self.fleet.members[member].runs() {
            self.sound()?;
            if Instant::now() > until {
                return violation(format!("{name} runs on {BUDGET:?} after a sync of its disk failed"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.fleet.members[member].may_end.clear();
        self.timeline.note(format!("{name} stopped because its disk failed"));
        Ok(())
    }

    /// Each sync of this node takes so much longer, for so long.
    pub(super) async fn slow(&mut self, member: usize, delay: Duration, time: Duration) -> Done {
        let from = self.now();
        let Some(told) = self.fleet.members[member].told.clone() else {
            self.skip("slow-disk", &[member], "nothing stands before its disk");
            return Ok(());
        };
        let before = told.deeds().delayed;
        told.tell(Orders { delay_ms: u64::try_from(delay.as_millis()).unwrap_or(0), ..Orders::default() })?;
        let calm = self.calm(time).await;
        told.tell(Orders::default())?;
        let slowed = told.deeds().delayed.saturating_sub(before);
        let proof = format!("{slowed} syncs took {delay:?} longer");
        let effect = if slowed > 0 { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
        self.timeline.fault("slow-disk", &[member], from, effect);
        calm
    }

    /// Syncs of these do nothing for so long, and say that they are done.
    pub(super) async fn lie(&mut self, members: &[usize], time: Duration) -> Done {
        let from = self.now();
        for member in members {
            if let Some(told) = &self.fleet.members[*member].told {
                told.tell(Orders { lie: true, ..Orders::default() })?;
            }
        }
        let calm = self.calm(time).await;
        for member in members {
            let lied = self.fleet.members[*member].told.as_ref().map_or(0, |told| told.deeds().lied);
            let proof = format!("{lied} syncs did nothing, and said that they were done");
            let effect = if lied > 0 { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
            self.timeline.fault("lying-sync", &[*member], from, effect);
        }
        calm
    }

    /// The process of this node ends by SIGKILL right before the Nth change of a file from now on.
    pub(super) async fn die_at(&mut self, member: usize, at: u64) -> Done<bool> {
        let from = self.now();
        let Some(told) = self.fleet.members[member].told.clone() else {
            self.skip("crash-at-call", &[member], "nothing stands before its disk");
            return Ok(false);
        };
        told.tell(Orders { die: at, ..Orders::default() })?;
        let until = Instant::now() + Duration::from_secs(60);
        // (It is a kill that nobody sends, so that it is not taken for an end of its own.)
        let ended = loop {
            if let Some(ended) = self.fleet.peek(member)? {
                break Some(ended);
            }
            if Instant::now() > until {
                break None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        told.tell(Orders::default())?;
        let effect = match ended {
            Some(ended) => died(&[ended]),
            None => Effect::Indeterminate(format!("fewer than {at} changes of files in a minute")),
        };
        let done = matches!(effect, Effect::Installed(_));
        self.timeline.fault("crash-at-call", &[member], from, effect);
        Ok(done)
    }

    /// The wall clock of this node is so many seconds ahead from now on; its monotonic clock goes on as it was.
    pub(super) async fn jump(&self, member: usize, seconds: i64) -> Done {
        let from = self.now();
        if !self.setup.clock || super::preload::clock_library().is_none() {
            self.skip("clock-jump", &[member], "libfaketime is not installed (apt-get install faketime)");
            return Ok(());
        }
        let stamp = self.stamp_of(&self.fleet.members[member].name);
        std::fs::write(&stamp, format!("{seconds:+}\n"))?;
        // What the manager itself says of its clock.
        let until = Instant::now() + Duration::from_secs(20);
        let mut ahead = 0_i64;
        while Instant::now() < until {
            let client = self.fleet.client(&[member]).await?.with_deadline(Duration::from_secs(2));
            if let Ok(check) = client.check().await {
                let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let ours = i64::try_from(ours.as_millis()).unwrap_or(0);
                ahead = i64::try_from(check.unix_ms).unwrap_or(0) - ours;
                if (ahead - seconds * 1000).abs() < 5_000 {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let proof = format!("it says that its clock is {ahead} ms ahead");
        let effect = if (ahead - seconds * 1000).abs() < 5_000 {
            Effect::Installed(proof)
        } else {
            Effect::Indeterminate(proof)
        };
        self.timeline.fault("clock-jump", &[member], from, effect);
        Ok(())
    }

    /// The store of this node is gone. It must not start as if nothing were; it comes back as somebody else in Raft.
    pub(super) async fn wipe(&mut self, member: usize) -> Done {
        let name = self.fleet.members[member].name.clone();
        let before = self.eventually("a status", |_any| true).await?;
        let old = before.managers.iter().find(|manager| manager.name == name).map(|manager| manager.raft_id);
        self.kill(&[member]).await?;
        let from = self.now();
        std::fs::remove_dir_all(self.fleet.members[member].directory().join("store"))?;
        // When it is started as it is
        self.fleet.members[member].may_end = vec![1, 12, 14];
        self.start(member)?;
        let ended = self.fleet.reap(member, Duration::from_secs(30)).await?;
        self.fleet.members[member].may_end.clear();
        let code = ended.and_then(|ended| ended.code());
        if code == Some(0) || code.is_none() {
            return violation(format!("{name} with its store gone ended with {ended:?}, and was not refused"));
        }
        let new = self.comes_back_anew(member, old).await?;
        let proof = format!("refused with exit code {code:?}; raft id {old:?} became {new:?}");
        self.timeline.fault("wiped-disk", &[member], from, Effect::Installed(proof));
        Ok(())
    }

    /// Joined anew by its certificate it gets a fresh store, and another raft id than this one.
    async fn comes_back_anew(&mut self, member: usize, old: Option<u64>) -> Done<Option<u64>> {
        let name = self.fleet.members[member].name.clone();
        let through = self.doors();
        // (Where it listens may have been known to its store alone; the others know where they reach it.)
        let listen = self.fleet.members[member].listen.to_string();
        let words = ["join", "--replace", "--manager", &through, "--listen", &listen];
        let joined = self.fleet.tool(member, &words).await?;
        if let Err(why) = joined {
            return violation(format!("{name} without a store that can be used cannot come back: {why}"));
        }
        self.back(member).await?;
        let after = self
            .eventually("it is back with a fresh store", |status| {
                status
                    .managers
                    .iter()
                    .any(|manager| manager.name == name && manager.reachable && Some(manager.raft_id) != old)
            })
            .await?;
        Ok(after.managers.iter().find(|manager| manager.name == name).map(|manager| manager.raft_id))
    }

    /// There is room below its disk again. What a sync had said to be done may be gone all the same: of ext4 above memory that is taken
    /// away, a sync that fails takes along what the one before it wrote. Then the manager has to notice, and comes back anew.
    pub(super) async fn back_from_starving(&mut self, member: usize) -> Done {
        let name = self.fleet.members[member].name.clone();
        let before = self.eventually("a status", |_any| true).await?;
        let old = before.managers.iter().find(|manager| manager.name == name).map(|manager| manager.raft_id);
        self.fleet.members[member].disk.feed().await?;
        self.fleet.members[member].disk.remount().await?;
        self.fleet.members[member].may_end = vec![12];
        self.restart(member)?;
        if self.fleet.ready_or_over(member).await? {
            self.fleet.members[member].may_end.clear();
            return Ok(());
        }
        self.fleet.members[member].may_end.clear();
        if !self.fleet.has_said(member, "were synced, but only those up to") {
            return violation(format!(
                "{name} was refused with a disk that had failed a sync, and not for what is gone"
            ));
        }
        let new = self.comes_back_anew(member, old).await?;
        self.timeline.note(format!("{name} was told by its disk that things were synced which are gone, and was refused: raft id {old:?} became {new:?}"));
        Ok(())
    }

    /// The cluster goes on from this stopped manager alone; the others are gone for good and come back as newcomers.
    pub(super) async fn force_new_cluster(&mut self, survivor: usize) -> Done {
        let from = self.now();
        let others: Vec<usize> =
            self.others(survivor).into_iter().filter(|other| self.fleet.members[*other].may_return).collect();
        let recovered = self.fleet.tool(survivor, &["recover", "--json"]).await?;
        let report = match recovered {
            Ok(report) => report,
            Err(why) => return violation(format!("no recovery from {}: {why}", self.fleet.members[survivor].name)),
        };
        self.back(survivor).await?;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        let proof =
            format!("generation {} begins, revision {} is kept", report["new_generation"], report["kept_revision"]);
        self.timeline.fault("force-new-cluster", &[survivor], from, Effect::Installed(proof));
        for other in others {
            let token = match self.fleet.client(&[survivor]).await?.join_token("manager").await {
                Ok(token) => token,
                Err(why) => return harness(format!("no token after the recovery: {why}")),
            };
            let through = self.fleet.members[survivor].listen.to_string();
            let joined =
                self.fleet.tool(other, &["join", "--replace", "--token", &token, "--manager", &through]).await?;
            if let Err(why) = joined {
                return violation(format!(
                    "{} cannot come back after the recovery: {why}",
                    self.fleet.members[other].name
                ));
            }
            self.back(other).await?;
        }
        Ok(())
    }
}
