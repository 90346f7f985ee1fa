//! One run of a scenario, from the first process to the report.
//!
//! Owns the order: form, load, faults, heal, converge, final reads, stop, disks, history, report. A run that is broken in the
//! middle is judged as far as it came. Never decides what a scenario does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::check::{self, Finding, Limit, Verdict};
use crate::history::{self, Operation};
use crate::report::{self, Page};

use super::judge::{durable, finding};
use super::scenarios::Scenario;
use super::timeline::{Effect, Fault};
use super::world::World;
use super::{Done, Trouble, harness};

/// How links between managers are hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Net {
    /// A forwarder of datagrams before each manager.
    Proxy,
    /// The kernel's filter; links can be cut, and nothing else.
    Nft,
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Managers, where the scenario does not say how many.
    pub nodes: usize,
    /// How long faults go on.
    pub duration: Duration,
    /// What is drawn.
    pub seed: u64,
    /// Where history, timeline and report go; made where it is missing.
    pub out: PathBuf,
    /// The program under test.
    pub binary: PathBuf,
    /// How links are hurt.
    pub net: Net,
    /// The mean time between two faults.
    pub pace: Duration,
    /// The length of a tick: an election takes 22 to 30.
    pub tick: Duration,
    /// End after so many kills instead of after a time.
    pub kills: Option<u64>,
    /// How long the search for an order of the history may take.
    pub limit: Duration,
    /// Whether the directories of the nodes stay.
    pub keep: bool,
}

impl Options {
    /// The program of the version after this one, if it lies beside the other.
    pub(super) fn next_binary(&self) -> Option<PathBuf> {
        let next = self.binary.with_file_name("quorate-next");
        next.exists().then_some(next)
    }
}

/// The `quorate` that was built beside the running program.
///
/// # Errors
/// A word about where it was looked for.
pub fn beside() -> Done<PathBuf> {
    let own = std::env::current_exe()?;
    let places = own.ancestors().skip(1).take(2).map(|place| place.join("quorate"));
    match places.into_iter().find(|path| path.is_file()) {
        Some(binary) => Ok(binary),
        None => harness(format!("there is no quorate beside {}; build it, or give --binary", own.display())),
    }
}

/// `QUORATE_CHAOS_BREAK=list` puts a write into the history that was never sent, `reads` lets readers take what may be stale: a
/// run that is broken like this must fail, or it proves nothing.
pub(super) fn is_broken(what: &str) -> bool {
    std::env::var("QUORATE_CHAOS_BREAK").is_ok_and(|broken| broken == what)
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Which scenario.
    pub scenario: String,
    /// What was drawn.
    pub seed: u64,
    /// `pass`, or what it ended with, in words.
    pub verdict: String,
    /// 0 pass, 1 violation, 2 inconclusive, 3 harness failure, 4 a required fault was not reached.
    pub exit_code: u8,
    /// Operations answered as done.
    pub acknowledged: u64,
    /// Operations asked for.
    pub asked: u64,
    /// Seconds of load.
    pub seconds: f64,
    /// Faults that were seen to take effect, by name.
    pub installed: Vec<(String, usize)>,
    /// Faults that this machine cannot do, and why.
    pub skipped: Vec<(String, String)>,
    /// Leaderships seen.
    pub leaderships: usize,
    /// The longest time without an acknowledged write after a leader was lost, milliseconds: median and longest.
    pub gap_ms: Option<(u64, u64)>,
    /// Snapshots sent and installed, as far as seen.
    pub snapshots: (u64, u64),
    /// Milliseconds by which this machine itself was late at worst.
    pub machine_late_ms: u64,
    /// What each checker says: name, verdict, detail.
    pub findings: Vec<(String, String, String)>,
    /// Where the page is.
    pub report: PathBuf,
}

/// Runs one scenario to its end, and writes `history.jsonl`, `run.json` and `report.html`.
///
/// # Errors
/// Only where not even a report can be written; everything else is in the outcome.
pub async fn run(scenario: &Scenario, options: &Options) -> Done<Outcome> {
    let setup = scenario.setup(options.nodes.max(1));
    let mut world = match World::new(options, setup).await {
        Ok(world) => world,
        Err(trouble) => return nothing(scenario, options, &trouble),
    };
    let mut findings = Vec::new();
    let mut trouble = Box::pin(faulted(scenario, options, &mut world)).await.err();
    if trouble.is_none() {
        trouble = Box::pin(judged(&mut world, &mut findings)).await.err();
    }
    let ended = world.now();
    if trouble.is_some() {
        // The load is of no use any more; whoever hangs is not waited for.
        if let Some(load) = world.load.take() {
            let _late = tokio::time::timeout(Duration::from_secs(5), stop(load)).await;
        }
    }
    let tails = if trouble.is_some() { world.fleet.tails(40) } else { Vec::new() };
    let history = Box::pin(finish(&mut world)).await?;
    let mut findings_of_history = Vec::new();
    if world.loaded.0 > 0 {
        let limit = options.limit;
        let history_to_check = history.clone();
        let checked = tokio::task::spawn_blocking(move || check::check(&history_to_check, Limit::time(limit))).await;
        findings_of_history = checked.map_err(|why| Trouble::Harness(why.to_string()))?;
    }
    findings.extend(findings_of_history);
    let faults = world.timeline.faults();
    let missing: Vec<&str> =
        scenario.requires.iter().copied().filter(|name| world.timeline.installed(name) == 0).collect();
    let trouble = match (trouble, check::worst(&findings)) {
        (Some(trouble), _) => Some(trouble),
        (None, Verdict::Fail) => Some(Trouble::Violation(first_bad(&findings, &Verdict::Fail))),
        (None, _) if !missing.is_empty() => {
            Some(Trouble::NotReached(format!("{}; {}", missing.join(", "), why_not(&faults))))
        }
        (None, Verdict::Inconclusive) => Some(Trouble::Inconclusive(first_bad(&findings, &Verdict::Inconclusive))),
        (None, Verdict::Pass) => None,
    };
    let outcome = summed(scenario, options, &world, &findings, &faults, trouble.as_ref());
    let page = page(scenario, &outcome, &world, &history, &findings, faults, (ended, tails));
    drop(world);
    write(&options.out, &outcome, &page)?;
    Ok(outcome)
}

async fn stop(mut load: super::load::Load) {
    let _broken_already = load.stop().await;
    load.end_watches().await;
}

/// Everything up to the last fault.
async fn faulted(scenario: &Scenario, options: &Options, world: &mut World) -> Done {
    world.requires = scenario.requires;
    world.form().await?;
    world.begin(options.duration, options.seed).await?;
    scenario.play(world).await
}

/// Everything that follows, in the running cluster and on its disks.
async fn judged(world: &mut World, findings: &mut Vec<Finding>) -> Done {
    findings.push(world.recovers().await?);
    if let Some(load) = world.load.as_mut() {
        load.stop().await?;
    }
    world.loaded.1 = world.now();
    let status = world.settled().await?;
    let digest = status.managers.first().and_then(|first| first.state_hash.clone()).unwrap_or_default();
    let detail = format!(
        "{} managers at revision {}, digest {}",
        status.managers.len(),
        status.revision,
        digest.get(..16).unwrap_or_default()
    );
    findings.push(finding("equal state", Ok(detail)));
    findings.push(world.counter().await?);
    let managers = world.final_reads().await?;
    world.recorder.sync().await?;
    let history = world.recorder.so_far().await?;
    let history = if is_broken("list") { with_a_lie(history) } else { history };
    findings.extend(durable(&history, &managers));
    findings.push(world.watched(&history).await);
    if let Some(load) = world.load.as_mut() {
        load.end_watches().await;
    }
    world.observer.stop().await;
    let leaderships = world.observer.leaderships();
    let answered = world.observer.answered();
    findings.push(finding(
        "one leader per term",
        match world.observer.violations().first() {
            None => Ok(format!("{} leaderships in {answered} answers", leaderships.len())),
            Some(first) => Err(first.clone()),
        },
    ));
    for index in 0..world.fleet.members.len() {
        world.fleet.members[index].may_end = vec![0, 10, 11];
        world.fleet.signal(index, "TERM").await?;
    }
    for index in 0..world.fleet.members.len() {
        let ended = world.fleet.reap(index, super::BUDGET).await?;
        if let Some(ended) = ended.filter(|ended| !ended.code().is_some_and(|code| [0, 10, 11].contains(&code))) {
            let name = &world.fleet.members[index].name;
            return Err(Trouble::Violation(format!("{name} was asked to stop, and ended with {ended}")));
        }
    }
    findings.extend(world.stores().await?);
    if world.timeline.installed("capture") > 0 {
        findings.push(world.secrecy()?);
    }
    let panicked = world.fleet.nobody_panicked();
    findings.push(finding("no panic", panicked.map(|()| "no log has one".to_owned()).map_err(|why| why.to_string())));
    Ok(())
}

/// A write that was acknowledged, it says, and never sent.
fn with_a_lie(mut history: Vec<Operation>) -> Vec<Operation> {
    if let Some(put) =
        history.iter().rfind(|operation| operation.key.starts_with(super::load::KEYS) && operation.wrote()).cloned()
    {
        history.push(Operation { key: format!("{}never/sent", super::load::KEYS), ..put });
    }
    history
}

/// Nothing of the harness is left behind, and the history is whole.
async fn finish(world: &mut World) -> Done<Vec<Operation>> {
    world.observer.stop().await;
    let _healed = world.mesh.set(&[]).await;
    world.recorder.sync().await?;
    let history = world.recorder.so_far().await?;
    let running: Vec<usize> =
        (0..world.fleet.members.len()).filter(|index| world.fleet.members[*index].runs()).collect();
    // A disk that is still frozen would hold them for ever: the ground is cleared first.
    for left in world.ground.clear() {
        world.timeline.note(format!("left over: {left}"));
    }
    world.fleet.kill(&running).await?;
    Ok(history)
}

fn first_bad(findings: &[Finding], verdict: &Verdict) -> String {
    let bad = findings.iter().find(|finding| finding.verdict == *verdict);
    bad.map(|finding| format!("{}: {}", finding.checker, finding.detail)).unwrap_or_default()
}

fn why_not(faults: &[Fault]) -> String {
    let word = |fault: &Fault| match &fault.effect {
        Effect::Installed(_) => None,
        Effect::Skipped(why) => Some(format!("{} skipped: {why}", fault.name)),
        Effect::Indeterminate(why) => Some(format!("{} without effect: {why}", fault.name)),
    };
    let all: std::collections::BTreeSet<String> = faults.iter().filter_map(word).collect();
    all.into_iter().collect::<Vec<_>>().join("; ")
}

/// A run that did not even begin: what it was to be, and why not.
fn nothing(scenario: &Scenario, options: &Options, trouble: &Trouble) -> Done<Outcome> {
    std::fs::create_dir_all(&options.out)?;
    let outcome = Outcome {
        scenario: scenario.id.to_owned(),
        seed: options.seed,
        verdict: trouble.to_string(),
        exit_code: trouble.exit_code(),
        acknowledged: 0,
        asked: 0,
        seconds: 0.0,
        installed: Vec::new(),
        skipped: Vec::new(),
        leaderships: 0,
        gap_ms: None,
        snapshots: (0, 0),
        machine_late_ms: 0,
        findings: Vec::new(),
        report: options.out.join("report.html"),
    };
    let page = Page { title: title(scenario), verdict: outcome.verdict.clone(), ..Page::default() };
    write(&options.out, &outcome, &page)?;
    Ok(outcome)
}

fn title(scenario: &Scenario) -> String {
    format!("{} {}", scenario.id, scenario.name)
}

fn summed(
    scenario: &Scenario,
    options: &Options,
    world: &World,
    findings: &[Finding],
    faults: &[Fault],
    trouble: Option<&Trouble>,
) -> Outcome {
    let mut installed = std::collections::BTreeMap::<String, usize>::new();
    for fault in faults.iter().filter(|fault| matches!(fault.effect, Effect::Installed(_))) {
        *installed.entry(fault.name.clone()).or_default() += 1;
    }
    let skipped = faults.iter().filter_map(|fault| match &fault.effect {
        Effect::Skipped(why) => Some((fault.name.clone(), why.clone())),
        Effect::Installed(_) | Effect::Indeterminate(_) => None,
    });
    let mut gaps: Vec<u64> = world.gaps.iter().map(|gap| gap / 1_000_000).collect();
    gaps.sort_unstable();
    let (from, to) = world.loaded;
    let time = if to > from { to - from } else { world.now().saturating_sub(from) };
    Outcome {
        scenario: scenario.id.to_owned(),
        seed: options.seed,
        verdict: trouble.map_or_else(|| "pass".to_owned(), ToString::to_string),
        exit_code: trouble.map_or(0, Trouble::exit_code),
        acknowledged: world.recorder.acknowledged(),
        asked: world.recorder.asked(),
        seconds: Duration::from_nanos(time).as_secs_f64(),
        installed: installed.into_iter().collect(),
        skipped: skipped.collect(),
        leaderships: world.observer.leaderships().len(),
        gap_ms: gaps.last().map(|longest| (gaps[gaps.len() / 2], *longest)),
        snapshots: world.observer.snapshots(),
        machine_late_ms: world.machine_gap.load(std::sync::atomic::Ordering::Relaxed),
        findings: findings
            .iter()
            .map(|found| (found.checker.to_owned(), report::word(&found.verdict).to_owned(), found.detail.clone()))
            .collect(),
        report: options.out.join("report.html"),
    }
}

fn page(
    scenario: &Scenario,
    outcome: &Outcome,
    world: &World,
    history: &[Operation],
    findings: &[Finding],
    faults: Vec<Fault>,
    (ended, tails): (u64, Vec<(String, Vec<String>)>),
) -> Page {
    let mut page = Page {
        title: title(scenario),
        verdict: outcome.verdict.clone(),
        passed: outcome.exit_code == 0,
        unit: "s".to_owned(),
        end: ended,
        nodes: world.fleet.members.iter().map(|member| member.name.clone()).collect(),
        findings: findings.iter().map(report::Judged::from).collect(),
        notes: world.timeline.notes().into_iter().map(|(at, text)| report::Note { at, text }).collect(),
        tails,
        ..Page::default()
    };
    page.facts = vec![
        ("about".into(), scenario.about.into()),
        ("expected".into(), scenario.expects.into()),
        ("seed".into(), outcome.seed.to_string()),
        ("network".into(), format!("{:?}", world.net()).to_lowercase()),
        (
            "acknowledged".into(),
            format!("{} of {} operations in {:.0} s", outcome.acknowledged, outcome.asked, outcome.seconds),
        ),
        ("leaderships".into(), outcome.leaderships.to_string()),
        ("election timeout".into(), format!("{} ms at most", world.election.as_millis())),
        ("machine".into(), format!("{} ms late at worst", outcome.machine_late_ms)),
    ];
    if let Some((median, longest)) = outcome.gap_ms {
        page.facts.push((
            "without writes after a leader was lost".into(),
            format!("median {median} ms, longest {longest} ms"),
        ));
    }
    page.faults = faults
        .into_iter()
        .map(|fault| {
            let (effect, proof) = match fault.effect {
                Effect::Installed(proof) => ("installed", proof),
                Effect::Skipped(why) => ("skipped", why),
                Effect::Indeterminate(what) => ("indeterminate", what),
            };
            report::Span {
                name: fault.name,
                nodes: fault.nodes,
                from: fault.from_ns,
                to: fault.to_ns,
                effect: effect.into(),
                proof,
            }
        })
        .collect();
    for sample in world.observer.samples() {
        page.saw(sample.at_ns, sample.node, sample.leads.then_some((sample.generation, sample.term)), &sample.seats);
    }
    // Who is killed leads no more, though nobody can be asked at that moment.
    for fault in page.faults.iter().filter(|fault| fault.name == "kill" || fault.name == "power-cut") {
        for led in page.leaders.iter_mut().filter(|led| fault.nodes.contains(&led.node)) {
            if led.from < fault.from && fault.from < led.to {
                led.to = fault.from;
            }
        }
    }
    page.operations = report::buckets(
        history.iter().filter_map(|operation| {
            let returned = operation.return_ns?;
            let kind = match operation.outcome {
                history::Outcome::Ok => 0,
                history::Outcome::Fail => 1,
                history::Outcome::Unknown => 2,
            };
            Some((returned, returned.saturating_sub(operation.call_ns), kind))
        }),
        ended,
    );
    page
}

fn write(out: &Path, outcome: &Outcome, page: &Page) -> Done {
    let text = serde_json::to_string_pretty(outcome).map_err(|why| Trouble::Harness(why.to_string()))?;
    std::fs::write(out.join("run.json"), text)?;
    std::fs::write(out.join("report.html"), page.html().map_err(|why| Trouble::Harness(why.to_string()))?)?;
    Ok(())
}
