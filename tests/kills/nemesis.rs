//! Who is killed, when, and what is waited for in between.
//!
//! Owns the rounds and their counts. A round ends when the cluster has a quorum again and has acknowledged a write
//! that began after the kill.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate::Client;
use quorate::status::{ClusterStatus, SnapshotStatus};
use quorate_core::testing::Rng;
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::fleet::{BUDGET, Fleet, MANAGERS, leader_of};
use crate::ledger::Ledger;

/// Of two hundred kills at least seventy must hit the leader; some more are aimed at.
const LEADERS_DEMANDED: (u64, u64) = (70, 200);
const LEADERS_WANTED: (u64, u64) = (85, 200);
/// How long a paused manager stands still: several election timeouts.
const PAUSE: Duration = Duration::from_secs(2);
/// How long the quorum is away: longer than the shorter deadlines of the writers.
const DARK: Duration = Duration::from_millis(2_500);
/// Writes acknowledged while one is away: enough entries to leave the log window behind.
const AWAY: usize = 400;
/// Between two looks at the snapshot counters, which die with each process.
const LOOK: Duration = Duration::from_millis(250);

/// The newest counters seen of each process life, by name and number of the life.
type Lives = BTreeMap<(String, u64), SnapshotStatus>;

/// What a round does.
#[derive(Clone, Copy)]
enum Round {
    PowerCut,
    Pause,
    Dark,
    Again,
    Second,
    Away,
    Leader,
    Anybody,
}

impl Round {
    /// `QUORATE_KILLS_ONLY` narrows a run to one kind, to look at it closely.
    fn only() -> Option<Self> {
        match std::env::var("QUORATE_KILLS_ONLY").ok()?.as_str() {
            "power-cut" => Some(Self::PowerCut),
            "pause" => Some(Self::Pause),
            "dark" => Some(Self::Dark),
            "again" => Some(Self::Again),
            "second" => Some(Self::Second),
            "away" => Some(Self::Away),
            "leader" => Some(Self::Leader),
            "anybody" => Some(Self::Anybody),
            other => panic!("QUORATE_KILLS_ONLY={other} is no kind of round"),
        }
    }
}

pub struct Nemesis {
    only: Option<Round>,
    darks: u64,
    dice: Rng,
    ledger: Arc<Ledger>,
    admins: Vec<Client>,
    lives: Arc<Mutex<Lives>>,
    life_of: Vec<(String, Arc<std::sync::atomic::AtomicU64>)>,
    look: JoinHandle<()>,
    kills: u64,
    leader_kills: u64,
    follower_kills: u64,
    second_kills: u64,
    power_cuts: u64,
    pauses: u64,
    gaps: Vec<Duration>,
    last_kill: Instant,
}

impl Drop for Nemesis {
    fn drop(&mut self) {
        self.look.abort();
    }
}

fn note(
    lives: &Mutex<Lives>,
    life_of: &[(String, Arc<std::sync::atomic::AtomicU64>)],
    before: &[u64],
    status: &ClusterStatus,
) {
    let mut lives = lives.lock().unwrap_or_else(PoisonError::into_inner);
    for manager in status.managers.iter().filter(|manager| manager.reachable) {
        let Some(number) = life_of.iter().position(|(name, _)| *name == manager.name) else { continue };
        // Restarted between question and answer: nobody knows whose counters these are.
        if life_of[number].1.load(Ordering::SeqCst) == before[number] {
            let seen = lives.entry((manager.name.clone(), before[number])).or_default();
            let counted = manager.snapshots;
            seen.sent = seen.sent.max(counted.sent);
            seen.failed = seen.failed.max(counted.failed);
            seen.installed = seen.installed.max(counted.installed);
            seen.refused = seen.refused.max(counted.refused);
        }
    }
}

impl Nemesis {
    pub async fn new(fleet: &Fleet, ledger: &Arc<Ledger>, seed: u64) -> Outcome<Self> {
        let mut admins = Vec::new();
        for index in 0..MANAGERS {
            admins.push(fleet.client(&[index]).await?.with_deadline(Duration::from_secs(1)));
        }
        let lives = Arc::<Mutex<Lives>>::default();
        let life_of: Vec<_> =
            fleet.members.iter().map(|member| (member.name.clone(), Arc::clone(&member.life))).collect();
        let watcher = fleet.client(&[0, 1, 2]).await?.with_deadline(Duration::from_secs(1));
        let (noted, known) = (Arc::clone(&lives), life_of.clone());
        let look = tokio::spawn(async move {
            loop {
                let before: Vec<u64> = known.iter().map(|(_, life)| life.load(Ordering::SeqCst)).collect();
                if let Ok(status) = watcher.status().await {
                    note(&noted, &known, &before, &status);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self {
            only: Round::only(),
            darks: 0,
            dice: Rng::stream(seed, 0),
            ledger: Arc::clone(ledger),
            admins,
            lives,
            life_of,
            look,
            kills: 0,
            leader_kills: 0,
            follower_kills: 0,
            second_kills: 0,
            power_cuts: 0,
            pauses: 0,
            gaps: Vec::new(),
            last_kill: Instant::now(),
        })
    }

    /// Takes the counters of the processes that live at the end.
    pub fn count(&self, status: &ClusterStatus) {
        let before: Vec<u64> = self.life_of.iter().map(|(_, life)| life.load(Ordering::SeqCst)).collect();
        note(&self.lives, &self.life_of, &before, status);
    }

    /// Rounds until so many were killed.
    pub async fn rage(&mut self, fleet: &mut Fleet, kills: u64) -> Outcome {
        let began = Instant::now();
        self.acknowledging(fleet, began, "at the start").await?;
        let mut said = 0;
        let pauses_count = matches!(self.only, Some(Round::Pause));
        while self.kills + if pauses_count { self.pauses } else { 0 } < kills {
            let (wanted, of) = LEADERS_WANTED;
            let behind = self.leader_kills * of < (self.kills + 1) * wanted;
            let round = match self.dice.between(0, 99) {
                0..4 => Round::PowerCut,
                4..8 => Round::Pause,
                8..12 => Round::Dark,
                12..22 => Round::Again,
                22..32 => Round::Second,
                32..38 => Round::Away,
                _ if behind => Round::Leader,
                _ => Round::Anybody,
            };
            match self.only.unwrap_or(round) {
                Round::PowerCut => self.power_cut(fleet).await?,
                Round::Pause => self.pause(fleet).await?,
                Round::Dark => self.dark(fleet).await?,
                Round::Again => self.again(fleet).await?,
                Round::Second => self.second(fleet).await?,
                Round::Away => self.away(fleet).await?,
                Round::Leader => self.leader(fleet).await?,
                Round::Anybody => self.anybody(fleet).await?,
            }
            self.ledger.clean()?;
            if self.kills >= said + 20 {
                said = self.kills;
                println!(
                    "{} kills, {} of the leader, {} acknowledged, {:.0} s",
                    self.kills,
                    self.leader_kills,
                    self.ledger.acknowledged_count(),
                    began.elapsed().as_secs_f32()
                );
            }
        }
        Ok(())
    }

    /// Waits for the acknowledgement of a write that began after `then`.
    async fn acknowledging(&self, fleet: &mut Fleet, then: Instant, when: &str) -> Outcome {
        let until = Instant::now() + BUDGET;
        while !self.ledger.acknowledged_since(then) {
            fleet.all_run()?;
            self.ledger.clean()?;
            if Instant::now() > until {
                let why = format!("no write was acknowledged for {BUDGET:?} {when}");
                for admin in &self.admins {
                    match admin.status().await {
                        Ok(status) => println!("{}", serde_json::to_string(&status).unwrap_or_default()),
                        Err(error) => println!("no status: {error}"),
                    }
                }
                return Err(why);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Who leads, by its own word.
    async fn who_leads(&self, fleet: &mut Fleet) -> Outcome<usize> {
        let until = Instant::now() + BUDGET;
        loop {
            let before: Vec<u64> = self.life_of.iter().map(|(_, life)| life.load(Ordering::SeqCst)).collect();
            let asked: Vec<_> = self
                .admins
                .iter()
                .map(|admin| {
                    let admin = admin.clone();
                    tokio::spawn(async move { admin.status().await })
                })
                .collect();
            let mut answers = Vec::new();
            for asked in asked {
                if let Ok(Ok(status)) = asked.await {
                    note(&self.lives, &self.life_of, &before, &status);
                    answers.push(status);
                }
            }
            if let Some(leader) = leader_of(&answers).and_then(|name| fleet.index_of(&name)) {
                return Ok(leader);
            }
            fleet.all_run()?;
            if Instant::now() > until {
                return Err(format!("nobody leads for {BUDGET:?} though writes were acknowledged"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self, fleet: &mut Fleet, victims: &[usize]) -> Outcome<Instant> {
        fleet.kill(victims)?;
        self.kills += victims.len() as u64;
        self.last_kill = Instant::now();
        Ok(self.last_kill)
    }

    /// The leader, after a fresh acknowledged write since the last kill.
    async fn kill_leader(&mut self, fleet: &mut Fleet) -> Outcome<usize> {
        let last = self.last_kill;
        self.acknowledging(fleet, last, "since the last kill").await?;
        let leader = self.who_leads(fleet).await?;
        let killed = Instant::now();
        self.kill(fleet, &[leader])?;
        self.leader_kills += 1;
        let when = format!("after {}, the leader, was killed", fleet.members[leader].name);
        self.acknowledging(fleet, killed, &when).await?;
        self.gaps.push(self.ledger.longest_gap_since(killed));
        Ok(leader)
    }

    async fn back(&self, fleet: &mut Fleet, member: usize) -> Outcome {
        fleet.restart(member)?;
        fleet.up(member).await?;
        let when = format!("after {} was started again", fleet.members[member].name);
        self.acknowledging(fleet, Instant::now(), &when).await
    }

    async fn leader(&mut self, fleet: &mut Fleet) -> Outcome {
        let leader = self.kill_leader(fleet).await?;
        self.back(fleet, leader).await
    }

    async fn anybody(&mut self, fleet: &mut Fleet) -> Outcome {
        let victim = self.dice.index(MANAGERS);
        let killed = self.kill(fleet, &[victim])?;
        self.follower_kills += 1;
        let when = format!("after {} was killed", fleet.members[victim].name);
        self.acknowledging(fleet, killed, &when).await?;
        self.back(fleet, victim).await
    }

    /// The one that just came back dies again in the middle of its start, its catching up or its snapshot.
    async fn again(&mut self, fleet: &mut Fleet) -> Outcome {
        let victim = self.kill_leader(fleet).await?;
        fleet.restart(victim)?;
        tokio::time::sleep(Duration::from_millis(self.dice.between(0, 400))).await;
        let killed = self.kill(fleet, &[victim])?;
        self.second_kills += 1;
        let when = format!("after {} was killed in its start", fleet.members[victim].name);
        self.acknowledging(fleet, killed, &when).await?;
        self.back(fleet, victim).await
    }

    /// Another one dies right after the first has come up: the quorum hangs on how the first catches up.
    async fn second(&mut self, fleet: &mut Fleet) -> Outcome {
        let first = self.kill_leader(fleet).await?;
        fleet.restart(first)?;
        fleet.up(first).await?;
        let other = self.other_than(first);
        let killed = self.kill(fleet, &[other])?;
        self.second_kills += 1;
        let when =
            format!("after {} was killed with {} just back", fleet.members[other].name, fleet.members[first].name);
        self.acknowledging(fleet, killed, &when).await?;
        self.back(fleet, other).await
    }

    /// All at once, as when the power goes.
    async fn power_cut(&mut self, fleet: &mut Fleet) -> Outcome {
        let last = self.last_kill;
        self.acknowledging(fleet, last, "since the last kill").await?;
        let killed = self.kill(fleet, &[0, 1, 2])?;
        self.power_cuts += 1;
        for member in 0..MANAGERS {
            fleet.restart(member)?;
        }
        for member in 0..MANAGERS {
            fleet.up(member).await?;
        }
        self.acknowledging(fleet, killed, "after all three were killed and started again").await
    }

    /// The quorum is lost for longer than some writers wait: what those are told must be true afterwards too.
    async fn dark(&mut self, fleet: &mut Fleet) -> Outcome {
        let last = self.last_kill;
        self.acknowledging(fleet, last, "since the last kill").await?;
        let leader = self.who_leads(fleet).await?;
        let other = self.other_than(leader);
        let killed = self.kill(fleet, &[leader, other])?;
        self.leader_kills += 1;
        self.darks += 1;
        tokio::time::sleep(DARK).await;
        // Whoever is back first has the quorum with the survivor.
        let (first, then) = if self.dice.chance(500) { (leader, other) } else { (other, leader) };
        fleet.restart(first)?;
        fleet.up(first).await?;
        self.acknowledging(fleet, killed, "after two of three were killed and one came back").await?;
        self.back(fleet, then).await
    }

    /// One is away for longer than the log window, and needs a snapshot.
    async fn away(&mut self, fleet: &mut Fleet) -> Outcome {
        let victim = self.kill_leader(fleet).await?;
        let target = self.ledger.acknowledged_count() + AWAY;
        let until = Instant::now() + BUDGET;
        while self.ledger.acknowledged_count() < target {
            fleet.all_run()?;
            if Instant::now() > until {
                return Err(format!("two of three did not acknowledge {AWAY} writes within {BUDGET:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.back(fleet, victim).await?;
        if self.dice.chance(500) {
            // In the middle of receiving or installing it.
            tokio::time::sleep(Duration::from_millis(self.dice.between(0, 500))).await;
            let killed = self.kill(fleet, &[victim])?;
            self.second_kills += 1;
            let when = format!("after {} was killed while it caught up", fleet.members[victim].name);
            self.acknowledging(fleet, killed, &when).await?;
            self.back(fleet, victim).await?;
        }
        Ok(())
    }

    fn other_than(&mut self, member: usize) -> usize {
        (member + 1 + self.dice.index(2)) % MANAGERS
    }

    /// The leader stands still for longer than an election takes, and wakes up deposed.
    async fn pause(&mut self, fleet: &mut Fleet) -> Outcome {
        let leader = self.who_leads(fleet).await?;
        let paused = Instant::now();
        fleet.signal(leader, "STOP")?;
        self.pauses += 1;
        let when = format!("after {}, the leader, was paused", fleet.members[leader].name);
        let went_on = self.acknowledging(fleet, paused, &when).await;
        tokio::time::sleep((paused + PAUSE).saturating_duration_since(Instant::now())).await;
        fleet.signal(leader, "CONT")?;
        went_on?;
        self.acknowledging(fleet, Instant::now(), "after the paused leader went on").await
    }

    pub fn print(&mut self, raged: Duration) {
        println!(
            "{} kills in {:.0} s: {} of the leader after a fresh acknowledged write, {} of anybody, {} right after a restart, {} times two of three at once, {} power cuts of all three; {} pauses of the leader",
            self.kills,
            raged.as_secs_f32(),
            self.leader_kills,
            self.follower_kills,
            self.second_kills,
            self.darks,
            self.power_cuts,
            self.pauses,
        );
        let sum = self.snapshots();
        println!(
            "snapshots (as far as seen before each kill): {} sent, {} failed, {} installed, {} refused",
            sum.sent, sum.failed, sum.installed, sum.refused
        );
        self.gaps.sort();
        if let Some(longest) = self.gaps.last() {
            let at = |percent: usize| self.gaps[(self.gaps.len() - 1) * percent / 100].as_secs_f32();
            println!(
                "writes stopped after a leader kill: median {:.2} s, 90 of 100 within {:.2} s, longest {:.2} s",
                at(50),
                at(90),
                longest.as_secs_f32()
            );
        }
    }

    fn snapshots(&self) -> SnapshotStatus {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.values().fold(SnapshotStatus::default(), |sum, life| SnapshotStatus {
            sent: sum.sent + life.sent,
            failed: sum.failed + life.failed,
            installed: sum.installed + life.installed,
            refused: sum.refused + life.refused,
        })
    }

    /// The run was worth something: enough leaders, and snapshots on the way.
    pub fn enough(&self, kills: u64) -> Outcome {
        if self.only.is_some() {
            return Ok(());
        }
        let (demanded, of) = LEADERS_DEMANDED;
        if self.kills < kills || self.leader_kills * of < kills * demanded {
            return Err(format!(
                "only {} kills, {} of the leader: at least {} were demanded",
                self.kills,
                self.leader_kills,
                (kills * demanded).div_ceil(of)
            ));
        }
        let snapshots = self.snapshots();
        if kills >= 50 && (snapshots.sent == 0 || snapshots.installed == 0) {
            return Err("no snapshot was sent and installed: the log window is too wide for this run".to_owned());
        }
        Ok(())
    }
}
