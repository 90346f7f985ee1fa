//! The seat planner's stories: `tests/golden/*.txt`, in a small language of events.
//!
//! A line is an event; the lines with `->` under it are what the planner then does, until it has nothing more to do.
//! Events: `max N`, `join N`, `caught-up N` (caught up, connected and stable), `lags N`, `unstable N`, `lost N`, `back N`,
//! `drop N` (no manager any more), `replace OLD NEW` (a fresh store of the node of OLD), `pending`, `settled`.
//! `UPDATE_GOLDEN=1` writes the answers anew: read the difference before you keep it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use quorate_core::id::RaftId;
use quorate_core::log::Configuration;
use quorate_core::membership::plan::{ManagerView, SeatChange, SeatPolicy, SeatStep, SeatView, leave, plan};
use quorate_core::membership::quorum::{Quorum, check_odd};

struct World {
    policy: SeatPolicy,
    configuration: Configuration,
    pending: bool,
    managers: BTreeMap<u64, ManagerView>,
}

fn ids(ids: &[RaftId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

fn shown(configuration: &Configuration) -> String {
    let Configuration { voters, voters_outgoing, learners, learners_next } = configuration;
    let mut text = format!("voters {}", ids(voters));
    for (name, set) in [("outgoing", voters_outgoing), ("standbys", learners), ("standbys next", learners_next)] {
        if !set.is_empty() {
            write!(text, " | {name} {}", ids(set)).unwrap();
        }
    }
    text
}

fn step(step: &SeatStep) -> String {
    match step {
        SeatStep::AddVoter(id) => format!("seat {id}"),
        SeatStep::AddLearner(id) => format!("add standby {id}"),
        SeatStep::Remove(id) => format!("remove {id}"),
    }
}

impl World {
    fn new() -> Self {
        let first = ManagerView {
            raft_id: RaftId(1),
            leader: true,
            connected: true,
            caught_up: true,
            stable: true,
            ..ManagerView::default()
        };
        Self {
            policy: SeatPolicy::new(5).unwrap(),
            configuration: Configuration { voters: vec![RaftId(1)], ..Configuration::default() },
            pending: false,
            managers: [(1, first)].into(),
        }
    }

    /// Does what the line says; what it has to say itself.
    fn event(&mut self, line: &str) -> Option<String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        match (verb, numbers.as_slice()) {
            ("max", [max]) => match SeatPolicy::new(u32::try_from(*max).unwrap()) {
                Ok(policy) => self.policy = policy,
                Err(error) => return Some(format!("refused: {error}")),
            },
            ("join", [id]) => {
                let joined = ManagerView { raft_id: RaftId(*id), connected: true, ..ManagerView::default() };
                assert!(self.managers.insert(*id, joined).is_none(), "{id} is there");
            }
            ("replace", [old, new]) => {
                // The old raft id's record is the new one's: one node, one record.
                self.managers.remove(old).unwrap();
                let replaces = Some(RaftId(*old));
                let joined = ManagerView { raft_id: RaftId(*new), connected: true, replaces, ..ManagerView::default() };
                self.managers.insert(*new, joined);
            }
            ("drop", [id]) => drop(self.managers.remove(id).unwrap()),
            ("pending", []) => self.pending = true,
            ("settled", []) => self.pending = false,
            (verb, [id]) => {
                let manager = self.managers.get_mut(id).unwrap();
                match verb {
                    "caught-up" => (manager.connected, manager.caught_up, manager.stable) = (true, true, true),
                    "lags" => (manager.caught_up, manager.stable) = (false, false),
                    "unstable" => manager.stable = false,
                    "lost" => (manager.connected, manager.stable) = (false, false),
                    "back" => manager.connected = true,
                    other => panic!("no such event: {other}"),
                }
            }
            _ => panic!("not understood: {line}"),
        }
        None
    }

    fn settle(&mut self, out: &mut String) {
        for _ in 0..20 {
            let view = SeatView {
                configuration: self.configuration.clone(),
                pending: self.pending,
                managers: self.managers.values().copied().collect(),
            };
            let Some(change) = plan(&view, self.policy) else {
                let alive = |id: RaftId| self.managers.get(&id.0).is_some_and(|manager| manager.connected);
                let tolerance = Quorum::of(&self.configuration).fault_tolerance(alive);
                writeln!(out, "   = {} | may lose {tolerance}", shown(&self.configuration)).unwrap();
                return;
            };
            let kind = if matches!(change, SeatChange::Joint { .. }) { "joint" } else { "simple" };
            let steps: Vec<String> = change.steps().iter().map(step).collect();
            self.configuration = change.apply_to(&self.configuration);
            check_odd(&self.configuration).unwrap();
            writeln!(out, "  -> {kind}: {}: {}", steps.join(", "), shown(&self.configuration)).unwrap();
            if self.configuration.is_joint() {
                let joint = SeatView { configuration: self.configuration.clone(), ..view };
                assert_eq!(
                    plan(&joint, self.policy),
                    None,
                    "nothing is planned while a joint configuration is in force"
                );
                self.configuration = leave(&self.configuration);
                writeln!(out, "  -> leave: {}", shown(&self.configuration)).unwrap();
            }
            // The record is told that the replacement is done.
            for manager in self.managers.values_mut() {
                manager.replaces = manager.replaces.filter(|old| self.configuration.contains(*old));
            }
        }
        panic!("the planner does not come to rest:\n{out}");
    }
}

fn run(story: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for line in story.lines() {
        if line.starts_with("  ") {
            continue;
        }
        writeln!(out, "{line}").unwrap();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(said) = world.event(line) {
            writeln!(out, "  {said}").unwrap();
        }
        world.settle(&mut out);
    }
    out
}

#[test]
fn the_planner_does_what_the_stories_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut stories = 0;
    #[expect(clippy::disallowed_methods, reason = "the rule against I/O is for the core, not for its test data")]
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let story = std::fs::read_to_string(&path).unwrap();
        let out = run(&story);
        stories += 1;
        if std::env::var("UPDATE_GOLDEN").is_ok() {
            std::fs::write(&path, &out).unwrap();
        } else {
            assert_eq!(out, story, "{} (UPDATE_GOLDEN=1 writes it anew)", path.display());
        }
    }
    assert!(stories >= 3, "the stories were found: {stories}");
}
