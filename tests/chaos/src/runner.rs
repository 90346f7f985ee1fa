//! Runs many seeds, on several threads, within a budget.
//!
//! Owns which seed runs next and when it is enough. A run itself knows nothing of threads or time. Called by `chaos sim`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::kept;
use crate::sim::{Profile, Report, SimConfig, Violation, run_config};

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The first seed, and the one after the last.
    pub seeds: std::ops::Range<u64>,
    /// Threads; each runs one seed at a time.
    pub jobs: usize,
    /// What seeds draw.
    pub profile: Profile,
    /// Members, where it is not to be drawn.
    pub nodes: Option<u64>,
    /// After this no further seed is begun.
    pub budget: Option<Duration>,
    /// Every so many seeds are run twice, and must be equal; 0 for none.
    pub twice_every: u64,
    /// After so many failures no further seed is begun.
    pub failures_max: usize,
    /// Seeds that once broke something come first, of whatever profile they are.
    pub kept: bool,
}

impl Plan {
    /// The knobs of one seed.
    #[must_use]
    pub fn config(&self, seed: u64) -> SimConfig {
        let drawn = SimConfig::draw(seed, self.profile);
        match self.nodes {
            Some(members) => SimConfig { members, recorded: drawn.recorded.min(members), ..drawn },
            None => drawn,
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds that were run to their end.
    pub seeds: u64,
    /// Sums over all of them.
    pub report: Report,
    /// By seed, ascending.
    pub failures: Vec<Box<Violation>>,
    /// Seeds that were run twice and were equal.
    pub twice: u64,
    /// Wall time.
    pub wall: Duration,
    /// Processor time of all threads.
    pub cpu: Duration,
}

impl Summary {
    /// Simulated hours of a cluster for each hour of a core.
    #[must_use]
    pub fn speed(&self) -> u64 {
        let cpu = u64::try_from(self.cpu.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.report.simulated / cpu
    }

    /// So many of a thing for each hour of a core.
    #[must_use]
    pub fn per_cpu_hour(&self, count: u64) -> u64 {
        let millis = u128::from(u64::try_from(self.cpu.as_millis()).unwrap_or(u64::MAX).max(1));
        u64::try_from(u128::from(count) * 3_600_000 / millis).unwrap_or(u64::MAX)
    }
}

/// Runs seeds until they, or the budget, or the patience with failures are used up.
pub fn run(plan: &Plan) -> Summary {
    let begun = Instant::now();
    let kept: Vec<SimConfig> =
        if plan.kept { kept::all().iter().map(kept::Kept::config).collect() } else { Vec::new() };
    let (again, next) = (AtomicUsize::new(0), AtomicU64::new(plan.seeds.start));
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs.max(1) {
            scope.spawn(|| {
                let before = thread_cpu();
                loop {
                    let late = plan.budget.is_some_and(|budget| begun.elapsed() >= budget);
                    let once = kept.get(again.fetch_add(1, Ordering::Relaxed));
                    let config = once.cloned().or_else(|| {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        (!late && seed < plan.seeds.end).then(|| plan.config(seed))
                    });
                    let Some(config) = config.filter(|_| !stop.load(Ordering::Relaxed)) else { break };
                    let played = one(plan, config);
                    let Ok(mut summary) = summary.lock() else { break };
                    summary.seeds += 1;
                    match played {
                        Ok((report, twice)) => {
                            summary.report.add(&report);
                            summary.twice += u64::from(twice);
                        }
                        Err(violation) => {
                            summary.failures.push(violation);
                            if summary.failures.len() >= plan.failures_max {
                                stop.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                }
                if let Ok(mut summary) = summary.lock() {
                    summary.cpu += thread_cpu().saturating_sub(before);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_default();
    summary.failures.sort_by_key(|violation| violation.seed);
    summary.wall = begun.elapsed();
    summary
}

/// One seed, twice where that is asked for; says whether it was.
fn one(plan: &Plan, config: SimConfig) -> Result<(Report, bool), Box<Violation>> {
    let seed = config.seed;
    let report = run_config(config.clone())?;
    if plan.twice_every == 0 || !seed.is_multiple_of(plan.twice_every) {
        return Ok((report, false));
    }
    let again = run_config(config.clone())?;
    if again == report {
        return Ok((report, true));
    }
    Err(Box::new(Violation {
        invariant: "a_seed_is_a_run",
        detail: format!("run twice it differs: {} and {} events", report.events, again.events),
        seed,
        at: again.simulated,
        last: Vec::new(),
        replay: config.replay(),
        acts: Vec::new(),
        config,
    }))
}

/// Processor time of this thread so far.
fn thread_cpu() -> Duration {
    let read = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = read.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}
