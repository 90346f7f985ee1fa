//! The seat planner's stories: `tests/golden/*.txt`, in a small language of events.
//!
//! A line is an event or a question; the lines with `->` under it are what the leader then does, until it has nothing
//! more to do, and the line with `=` is what is in force. Everybody is known by a number: a manager by its raft id.
//!
//! | event | |
//! |---|---|
//! | `join N`, `caught-up N`, `lags N`, `unstable N` | a manager joins; it is ready for a seat; it is not |
//! | `silent N`, `lost N`, `back N` | nothing arrives from it; for longer than is waited for; it is here again |
//! | `demote N`, `remove N`, `demote N force`, `remove N force`, `keep N` | wishes, and a wish taken back |
//! | `replace OLD NEW`, `drop N` | a fresh store of the node of OLD; a record that somebody deleted |
//! | `replace OLD NEW for SEAT` | the same, the record written before OLD got the seat that it had a claim on |
//! | `worker N`, `waits`, `overdue N` | an eligible worker; `promote_after` passes; N has been on its way for too long |
//! | `later` | much time passes |
//! | `zone N Z`, `prefer N`, `hold N`, `unhold N`, `lead N` | labels, a held replacement, a new leader |
//! | `max N`, `keep-lost`, `replace-lost` | policy |
//! | `pending`, `settled` | a configuration entry is in the log; it is applied |
//! | `may demote N`, `may remove N force`, `may max N` | a question: would the wish be refused? |
//! | `outlook N` | a question: what is done with it next, or waited for? |
//!
//! `UPDATE_GOLDEN=1` writes the answers anew: read the difference before you keep it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use quorate_core::id::{NodeId, RaftId};
use quorate_core::log::Configuration;
use quorate_core::membership::plan::{
    ManagerView, SeatChange, SeatPolicy, SeatView, Short, WorkerView, leave, plan, preferred_leader, stand_in,
};
use quorate_core::membership::quorum::{Quorum, check_odd};
use quorate_core::membership::wish::{Wish, check, outlook};

struct World {
    policy: SeatPolicy,
    configuration: Configuration,
    pending: bool,
    managers: BTreeMap<u64, ManagerView>,
    workers: BTreeMap<u64, WorkerView>,
    /// A seat that nobody can take has waited for as long as it has to.
    waited: bool,
    clock: u64,
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

fn node(number: u64) -> NodeId {
    NodeId::from_bytes(u128::from(number).to_be_bytes())
}

fn ready(id: u64) -> ManagerView {
    ManagerView { raft_id: RaftId(id), connected: true, caught_up: true, stable: true, ..ManagerView::default() }
}

impl World {
    fn new() -> Self {
        Self {
            policy: SeatPolicy::new(5).unwrap(),
            configuration: Configuration { voters: vec![RaftId(1)], ..Configuration::default() },
            pending: false,
            managers: [(1, ManagerView { leader: true, ..ready(1) })].into(),
            workers: BTreeMap::new(),
            waited: false,
            clock: 1000,
        }
    }

    fn view(&self) -> SeatView {
        SeatView {
            configuration: self.configuration.clone(),
            pending: self.pending,
            managers: self.managers.values().cloned().collect(),
            enrolling: 0,
            workers: self.workers.values().cloned().collect(),
        }
    }

    fn join(&mut self, id: u64, manager: ManagerView) {
        let joined = ManagerView { raft_id: RaftId(id), connected: true, ..manager };
        assert!(self.managers.insert(id, joined).is_none(), "{id} is there");
    }

    /// Does what the line says; what it has to say itself.
    fn event(&mut self, line: &str) -> Option<String> {
        // Whoever was ready before has been so for longer.
        self.clock += 1;
        for manager in self.managers.values_mut().filter(|manager| manager.stable) {
            manager.stable_ticks += 1;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("no number in: {line}"));
        match words[..] {
            ["max", max] => match SeatPolicy::new(u32::try_from(number(max)).unwrap()) {
                Ok(policy) => self.policy = policy,
                Err(error) => return Some(format!("refused: {error}")),
            },
            ["keep-lost"] => self.policy.keep_lost = true,
            ["replace-lost"] => self.policy.keep_lost = false,
            ["join", id] => self.join(number(id), ManagerView::default()),
            ["replace", old, new] => self.replace(number(old), number(new), number(old)),
            ["replace", old, new, "for", seat] => self.replace(number(old), number(new), number(seat)),
            ["later"] => {
                for manager in self.managers.values_mut().filter(|manager| manager.stable) {
                    manager.stable_ticks += 1000;
                }
            }
            ["drop", id] => drop(self.managers.remove(&number(id)).unwrap()),
            ["worker", id] => {
                let worker = WorkerView { node: node(number(id)), ..WorkerView::default() };
                self.workers.insert(number(id), worker);
            }
            ["waits"] => self.waited = true,
            ["pending"] => self.pending = true,
            ["settled"] => self.pending = false,
            ["lead", id] => {
                for manager in self.managers.values_mut() {
                    manager.leader = manager.raft_id == RaftId(number(id));
                    // A new leader counts from zero.
                    manager.stable_ticks = 0;
                }
            }
            ["may", "max", max] => {
                let wish = Wish::MaxVoters(u32::try_from(number(max)).unwrap());
                return Some(self.may(RaftId(0), wish));
            }
            ["may", verb, id, ..] => {
                let forced = words.last() == Some(&"force");
                let wish = if verb == "demote" { Wish::Demote { forced } } else { Wish::Remove { forced } };
                return Some(self.may(RaftId(number(id)), wish));
            }
            ["outlook", id] => return Some(outlook(&self.view(), &self.policy, RaftId(number(id))).to_string()),
            ["zone", id, zone] => match self.workers.get_mut(&number(id)) {
                Some(worker) => worker.zone = zone.to_owned(),
                None => self.managers.get_mut(&number(id)).unwrap().zone = zone.to_owned(),
            },
            [verb, id, ..] => self.manager_event(verb, number(id), words.last() == Some(&"force")),
            _ => panic!("not understood: {line}"),
        }
        None
    }

    /// The old raft id's record is the new one's: one node, one record.
    fn replace(&mut self, old: u64, new: u64, seat: u64) {
        let before = self.managers.remove(&old).unwrap();
        let replaces = Some(RaftId(seat));
        self.join(new, ManagerView { replaces, zone: before.zone, ..ManagerView::default() });
    }

    fn manager_event(&mut self, verb: &str, id: u64, forced: bool) {
        let silent = self.policy.lost_after + 10_000 - self.clock;
        let (lost_after, patience) = (self.policy.lost_after, self.policy.patience);
        let manager = self.managers.get_mut(&id).unwrap_or_else(|| panic!("{id} is not there"));
        match verb {
            "caught-up" => {
                (manager.connected, manager.caught_up, manager.stable, manager.waiting_ticks) = (true, true, true, 0);
            }
            "lags" => (manager.caught_up, manager.stable, manager.stable_ticks) = (false, false, 0),
            "unstable" => (manager.stable, manager.stable_ticks) = (false, 0),
            "silent" => (manager.connected, manager.stable, manager.stable_ticks) = (false, false, 0),
            "lost" => {
                (manager.connected, manager.stable, manager.stable_ticks) = (false, false, 0);
                (manager.silent_ticks, manager.waiting_ticks) = (silent, lost_after);
            }
            "back" => (manager.connected, manager.silent_ticks, manager.waiting_ticks) = (true, 0, 0),
            "overdue" => manager.waiting_ticks = patience,
            "demote" => (manager.demoted, manager.forced) = (true, forced),
            "remove" => (manager.removing, manager.forced) = (true, forced),
            "keep" => (manager.demoted, manager.removing, manager.forced) = (false, false, false),
            "prefer" => manager.preferred = true,
            "hold" => manager.held = true,
            "unhold" => manager.held = false,
            other => panic!("no such event: {other}"),
        }
    }

    fn may(&self, target: RaftId, wish: Wish) -> String {
        match check(&self.view(), &self.policy, target, wish) {
            Ok(()) => "may be done".to_owned(),
            Err(refused) => format!("refused: {refused}"),
        }
    }

    fn lead(&mut self, out: &mut String) {
        let leads = |world: &Self, id: &RaftId| world.managers.get(&id.0).is_some_and(|manager| manager.leader);
        if self.configuration.voters.iter().any(|id| leads(self, id)) {
            return;
        }
        let next = self.configuration.voters.iter().find(|id| self.managers.get(&id.0).is_some_and(|m| m.connected));
        let Some(next) = next.copied() else { return };
        for manager in self.managers.values_mut() {
            manager.leader = manager.raft_id == next;
        }
        writeln!(out, "  -> leader: {next}").unwrap();
    }

    fn change(&mut self, change: &SeatChange, out: &mut String) {
        let after = change.apply_to(&self.configuration);
        let leader = self.managers.values().find(|manager| manager.leader).map(|manager| manager.raft_id).unwrap();
        let stays = |id: &RaftId| self.configuration.voters.contains(id);
        if !after.voters.contains(&leader) && after.voters.iter().any(stays) {
            let kept = Configuration { voters: after.voters.iter().copied().filter(stays).collect(), ..after };
            let before = std::mem::replace(&mut self.configuration, kept);
            self.lead(out);
            self.configuration = before;
            return;
        }
        self.configuration = after;
        check_odd(&self.configuration).unwrap();
        let kind = if self.configuration.is_joint() { "joint" } else { "simple" };
        writeln!(out, "  -> {kind}: {change}: {}", shown(&self.configuration)).unwrap();
        if self.configuration.is_joint() {
            assert_eq!(plan(&self.view(), &self.policy), None, "nothing is planned while a joint one is in force");
            self.lead(out);
            self.configuration = leave(&self.configuration);
            writeln!(out, "  -> leave: {}", shown(&self.configuration)).unwrap();
        }
    }

    /// What `membership::settle` writes into the records.
    fn records(&mut self, out: &mut String) {
        let configuration = self.configuration.clone();
        self.managers.retain(|id, manager| {
            let stays = !manager.is_leaving() || configuration.contains(RaftId(*id));
            if !stays {
                let what = if manager.removing { "is removed" } else { "is a worker" };
                writeln!(out, "  -> record: {id} {what}, its raft id is burnt").unwrap();
            }
            stays
        });
        for manager in self.managers.values_mut() {
            manager.replaces = manager.replaces.filter(|old| configuration.contains(*old));
            manager.stands_in &= !configuration.voters.contains(&manager.raft_id);
        }
    }

    /// A worker is promoted, or taken back.
    fn stand_in(&mut self, out: &mut String) -> bool {
        let patience = self.policy.patience;
        let late = self.managers.values().find(|manager| manager.stands_in && manager.waiting_ticks >= patience);
        if let Some(id) = late.map(|manager| manager.raft_id) {
            writeln!(out, "  -> record: {id} is taken back").unwrap();
            self.managers.get_mut(&id.0).unwrap().demoted = true;
            let worker = WorkerView { node: node(id.0), taken_back: Some(0), ..WorkerView::default() };
            self.workers.insert(id.0, worker);
            return true;
        }
        let Some(wanted) = stand_in(&self.view(), &self.policy) else { return false };
        if wanted.why == Short::Loss && !self.waited {
            return false;
        }
        self.waited = false;
        let id = *self.workers.iter().find(|(_, worker)| worker.node == wanted.node).unwrap().0;
        let worker = self.workers.remove(&id).unwrap();
        let why = if wanted.why == Short::Loss { "a lost voter" } else { "a voter that leaves" };
        writeln!(out, "  -> record: worker {id} is promoted for {why}").unwrap();
        self.join(id, ManagerView { stands_in: true, zone: worker.zone, ..ManagerView::default() });
        true
    }

    fn settle(&mut self, out: &mut String) {
        self.lead(out);
        for _ in 0..20 {
            self.records(out);
            if let Some(change) = plan(&self.view(), &self.policy) {
                self.change(&change, out);
                continue;
            }
            if self.stand_in(out) {
                continue;
            }
            if let Some(to) = preferred_leader(&self.view(), &self.policy) {
                for manager in self.managers.values_mut() {
                    manager.leader = manager.raft_id == to;
                }
                writeln!(out, "  -> leader: {to}, as preferred").unwrap();
                continue;
            }
            let alive = |id: RaftId| self.managers.get(&id.0).is_some_and(|manager| manager.connected);
            let tolerance = Quorum::of(&self.configuration).fault_tolerance(alive);
            writeln!(out, "   = {} | may lose {tolerance}", shown(&self.configuration)).unwrap();
            return;
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
            if line.starts_with("may ") || line.starts_with("outlook ") {
                continue;
            }
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
        println!("{}", path.display());
        let out = run(&story);
        stories += 1;
        if std::env::var("UPDATE_GOLDEN").is_ok() {
            std::fs::write(&path, &out).unwrap();
        } else {
            assert_eq!(out, story, "{} (UPDATE_GOLDEN=1 writes it anew)", path.display());
        }
    }
    assert!(stories >= 10, "the stories were found: {stories}");
}
