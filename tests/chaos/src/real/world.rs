//! One cluster of real processes, and what a scenario can do with it.
//!
//! Owns everything of a run: the ground, the network, the processes, the clients, the clock and the list of faults. What is
//! done to it is in `faults`; what must hold in `judge`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::Client;
use quorate::membership::Timing;
use quorate::status::ClusterStatus;

use super::disk::{Disk, Kind};
use super::fleet::{Fleet, Member, leader_of};
use super::load::{Load, Mix};
use super::machine::Ground;
use super::mesh::Mesh;
use super::observe::Observer;
use super::preload::{self, Told};
use super::recorder::Recorder;
use super::timeline::{Effect, Timeline};
use super::{BUDGET, Done, Net, Options, Trouble, harness, violation};

/// What a scenario needs before it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) managers: usize,
    /// Most managers that there will ever be.
    pub(super) managers_most: usize,
    pub(super) workers: usize,
    pub(super) disk: Kind,
    /// Whether something stands before the disks.
    pub(super) told: bool,
    /// Whether something stands before the clocks.
    pub(super) clock: bool,
    pub(super) mix: Mix,
    pub(super) log_window: u64,
    pub(super) lost_after: Duration,
    /// None is without the binary of the next version.
    pub(super) next_version: bool,
}

impl Setup {
    pub(super) const COMMON: Self = Self {
        managers: 3,
        managers_most: 3,
        workers: 0,
        disk: Kind::Plain,
        told: false,
        clock: false,
        mix: Mix::COMMON,
        log_window: 400,
        lost_after: Duration::from_secs(600),
        next_version: false,
    };
}

/// The cluster.
pub(super) struct World {
    // (Dropped in this order: processes first, the ground that clears up after them last.)
    pub(super) load: Option<Load>,
    pub(super) observer: Observer,
    pub(super) fleet: Fleet,
    pub(super) mesh: Mesh,
    pub(super) timeline: Timeline,
    pub(super) recorder: Recorder,
    pub(super) dice: fastrand::Rng,
    pub(super) setup: Setup,
    pub(super) until: Instant,
    pub(super) pace: Duration,
    /// The longest election timeout.
    pub(super) election: Duration,
    tick: Duration,
    /// How many kills end the run, whatever its time.
    pub(super) kills: Option<u64>,
    /// Each time without an acknowledged write after a leader was lost, nanoseconds.
    pub(super) gaps: Vec<u64>,
    /// How many processes were killed, and how many of them led.
    pub(super) killed: u64,
    /// The faults that the scenario is about.
    pub(super) requires: &'static [&'static str],
    /// From when to when there was load, nanoseconds; 0 is not yet.
    pub(super) loaded: (u64, u64),
    pub(super) leaders_killed: u64,
    /// The longest time for which a task that only sleeps was late, milliseconds.
    pub(super) machine_gap: Arc<AtomicU64>,
    admins: Vec<(usize, Client)>,
    programs: (PathBuf, Option<PathBuf>),
    cutter: PathBuf,
    library: Option<PathBuf>,
    skipped: Option<String>,
    pub(super) ground: Ground,
}

impl World {
    /// The ground, the network and the directories, and nothing that runs.
    pub(super) async fn new(options: &Options, setup: Setup) -> Done<Self> {
        let ground = Ground::new(options.keep)?;
        let timeline = Timeline::new();
        std::fs::create_dir_all(&options.out)?;
        let recorder = Recorder::create(&options.out.join("history.jsonl"), timeline.clock);
        let mesh =
            match Mesh::new(&ground.root, options.net, setup.managers_most.max(setup.managers), options.seed).await? {
                Ok(mesh) => mesh,
                Err(why) => return Err(Trouble::NotReached(format!("the network was skipped: {why}"))),
            };
        let (mut cutter, mut library, mut skipped) = (PathBuf::new(), None, None);
        if setup.disk != Kind::Plain {
            if super::machine::is_root().await {
                match preload::cutter(&ground.root).await? {
                    Ok(built) => cutter = built,
                    Err(why) => skipped = Some(why),
                }
            } else {
                skipped = Some("only root may mount file systems here".to_owned());
            }
        }
        if setup.told {
            match preload::disk_library(&ground.root).await? {
                Ok(built) => library = Some(built),
                Err(why) => skipped = Some(why),
            }
        }
        Ok(Self {
            load: None,
            observer: Observer::new(timeline.clock),
            fleet: Fleet::new(&ground.root),
            mesh,
            recorder,
            dice: fastrand::Rng::with_seed(options.seed),
            setup,
            until: Instant::now(),
            pace: options.pace,
            election: options.tick * 30,
            tick: options.tick,
            kills: options.kills,
            gaps: Vec::new(),
            killed: 0,
            requires: &[],
            loaded: (0, 0),
            leaders_killed: 0,
            machine_gap: watchdog(),
            admins: Vec::new(),
            programs: (options.binary.clone(), options.next_binary()),
            cutter,
            library,
            skipped,
            timeline,
            ground,
        })
    }

    /// The managers in their seats, the workers with their sessions, the observer at work.
    pub(super) async fn form(&mut self) -> Done {
        if let Some(why) = &self.skipped {
            return Err(Trouble::NotReached(format!("skipped: {why}")));
        }
        if self.setup.next_version && self.programs.1.is_none() {
            return Err(Trouble::NotReached("skipped: quorate-next is not built (make next-binary)".to_owned()));
        }
        let first = self.add(false).await?;
        self.fleet.found(first).await?;
        self.start(first)?;
        self.fleet.ready(first).await?;
        self.know(first).await?;
        let client = self.fleet.client(&[first]).await?;
        let policy = client.policy().set().timing(Timing::Tick(self.tick)).stable(Duration::from_millis(500));
        policy.lost_after(self.setup.lost_after).await.map_err(|why| Trouble::Harness(format!("the policy: {why}")))?;
        while self.fleet.members.len() < self.setup.managers {
            self.grow().await?;
        }
        self.seated(self.setup.managers).await?;
        for _ in 0..self.setup.workers {
            self.hire().await?;
        }
        Ok(())
    }

    /// A directory for one more node.
    async fn add(&mut self, is_worker: bool) -> Done<usize> {
        let index = self.fleet.members.len();
        let name = if is_worker { format!("w{}", index + 1) } else { format!("m{}", index + 1) };
        let kind = if is_worker { Kind::Plain } else { self.setup.disk };
        let disk = match Disk::make(&self.ground.root, &name, kind, &self.cutter).await? {
            Ok(disk) => disk,
            Err(why) => return Err(Trouble::NotReached(format!("skipped: {why}"))),
        };
        let (listen, front) = if index < self.mesh.managers() {
            (self.mesh.listening(index), self.mesh.front(index))
        } else {
            let free = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
            (free, free)
        };
        let mut member = Member::new(name.clone(), disk, listen, front, self.programs.0.clone());
        member.is_worker = is_worker;
        if let (Some(library), false) = (&self.library, is_worker) {
            let told = Told::new(&self.ground.root, &name)?;
            let (variable, path) = told.environment();
            member.environment.push(("LD_PRELOAD".to_owned(), library.clone().into_os_string()));
            member.environment.push((variable, path.into_os_string()));
            member.told = Some(told);
        }
        if let (true, Some(library)) = (self.setup.clock, preload::clock_library()) {
            let stamp = self.stamp_of(&name);
            std::fs::write(&stamp, "+0\n")?;
            member.environment.extend([
                ("LD_PRELOAD".to_owned(), library.into_os_string()),
                ("FAKETIME_TIMESTAMP_FILE".to_owned(), stamp.into_os_string()),
                ("FAKETIME_NO_CACHE".to_owned(), "1".into()),
                ("DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
            ]);
        }
        self.fleet.members.push(member);
        Ok(index)
    }

    pub(super) fn stamp_of(&self, name: &str) -> PathBuf {
        self.ground.path(&format!("{name}.clock"))
    }

    /// One more manager joins and runs.
    pub(super) async fn grow(&mut self) -> Done<usize> {
        let index = self.add(false).await?;
        self.enlist(index, "manager").await?;
        self.know(index).await?;
        Ok(index)
    }

    /// One more worker joins and runs.
    pub(super) async fn hire(&mut self) -> Done<usize> {
        let index = self.add(true).await?;
        self.enlist(index, "worker").await?;
        Ok(index)
    }

    async fn enlist(&mut self, index: usize, role: &str) -> Done {
        let until = Instant::now() + BUDGET;
        let through = self.doors();
        loop {
            let token = self.any().await?.join_token(role).await;
            let joined = match token {
                Ok(token) => self.fleet.join(index, &token, &through).await?,
                Err(why) => Err(why.to_string()),
            };
            match joined {
                Ok(_said) => break,
                // In the middle of faults a join may find nobody; the same command finishes it.
                Err(why) if Instant::now() > until => return violation(format!("no join within {BUDGET:?}: {why}")),
                Err(_again) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        self.start(index)?;
        self.fleet.ready(index).await
    }

    /// Where a newcomer may knock: where all managers listen, whichever of them run.
    pub(super) fn doors(&self) -> String {
        let managers = self.fleet.running().into_iter().map(|index| self.fleet.members[index].listen.to_string());
        managers.collect::<Vec<_>>().join(",")
    }

    pub(super) fn start(&mut self, index: usize) -> Done {
        let window = self.setup.log_window.to_string();
        let words: &[&str] = if self.fleet.members[index].is_worker { &[] } else { &["--log-window", &window] };
        self.fleet.start(index, words)
    }

    /// The binary of the version after this one.
    pub(super) fn next_program(&self) -> Option<PathBuf> {
        self.programs.1.clone()
    }

    pub(super) async fn know(&mut self, index: usize) -> Done {
        let client = self.fleet.client(&[index]).await?;
        self.observer.follow(index, client.clone());
        self.admins.push((index, client.with_deadline(Duration::from_secs(2))));
        Ok(())
    }

    /// Clients begin, and the time runs.
    pub(super) async fn begin(&mut self, duration: Duration, seed: u64) -> Done {
        self.load = Some(Load::start(&self.fleet, &self.recorder, self.setup.mix, seed).await?);
        self.until = Instant::now() + duration;
        self.loaded = (self.now(), 0);
        self.acknowledging(0, "at the start").await
    }

    /// Whether there is time for another fault.
    pub(super) fn goes_on(&self) -> bool {
        match self.kills {
            Some(kills) => self.killed < kills,
            // A fault that the scenario is about is tried once, however short the run was asked to be.
            None => {
                Instant::now() < self.until
                    || (!self.timeline.tried(self.requires) && Instant::now() < self.until + BUDGET * 2)
            }
        }
    }

    /// A client of any manager that runs.
    pub(super) async fn any(&self) -> Done<Client> {
        let running = self.fleet.running();
        if running.is_empty() { harness("no manager runs") } else { self.fleet.client(&running).await }
    }

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
                return violation(format!("nobody leads for {BUDGET:?}"));
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
                return violation(format!("no write was acknowledged for {budget:?} {when}"));
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
        self.machine_gap.load(Ordering::Relaxed) > u64::try_from(self.election.as_millis() / 2).unwrap_or(u64::MAX)
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
                return violation(format!("{voters} voters are not seated within {BUDGET:?}: {seen}"));
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
                return violation(format!("not within {BUDGET:?}: {what}: {seen}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A fault that this machine cannot do.
    pub(super) fn skip(&self, name: &str, nodes: &[usize], why: impl Into<String>) {
        self.timeline.fault(name, nodes, self.now(), Effect::Skipped(why.into()));
    }

    /// Everything is undone, and everybody runs again.
    pub(super) async fn heal(&mut self) -> Done {
        self.mesh.set(&[]).await?;
        for index in 0..self.fleet.members.len() {
            if let Some(told) = &self.fleet.members[index].told {
                told.tell(preload::Orders::default())?;
            }
            if self.fleet.members[index].state() == Some('T') {
                self.fleet.signal(index, "CONT").await?;
            }
        }
        for index in 0..self.fleet.members.len() {
            if !self.fleet.members[index].runs() && self.fleet.members[index].may_return {
                self.start(index)?;
            }
        }
        Ok(())
    }

    pub(super) const fn is_proxy(&self) -> bool {
        self.mesh.is_proxy()
    }

    pub(super) fn net(&self) -> Net {
        if self.mesh.is_proxy() { Net::Proxy } else { Net::Nft }
    }
}

/// A thread that only sleeps: how late it wakes up says what the machine does to everybody else.
fn watchdog() -> Arc<AtomicU64> {
    let worst = Arc::new(AtomicU64::new(0));
    let seen = Arc::downgrade(&worst);
    let nap = Duration::from_millis(50);
    std::thread::spawn(move || {
        while let Some(worst) = seen.upgrade() {
            let slept = Instant::now();
            std::thread::sleep(nap);
            let late = slept.elapsed().saturating_sub(nap);
            worst.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    });
    worst
}
