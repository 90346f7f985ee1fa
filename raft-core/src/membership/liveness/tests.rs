use proptest::prelude::*;

use super::*;

const ONE: RaftId = RaftId(1);
const TWO: RaftId = RaftId(2);
const THREE: RaftId = RaftId(3);
const ALL: [(RaftId, bool); 3] = [(ONE, true), (TWO, true), (THREE, true)];

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 16])
}

fn ready(n: u8) -> Candidate {
    Candidate { node: node(n), worker: true, recorded: Some(Presence::Ready) }
}

fn full(present: &[u8]) -> Report {
    Report { instance: 7, serial: 1, base: 0, present: present.iter().map(|n| node(*n)).collect(), gone: Vec::new() }
}

fn next(base: u64) -> Report {
    Report { instance: 7, serial: base + 1, base, ..Report::default() }
}

/// A cluster of three managers that report every second, with what they hold.
struct Story {
    ledger: Ledger,
    now: u64,
    holds: BTreeMap<RaftId, Vec<u8>>,
    recorded: BTreeMap<u8, Option<Presence>>,
    connected: BTreeMap<RaftId, bool>,
    written: Vec<Change>,
}

impl Story {
    fn new(workers: &[u8]) -> Self {
        Self {
            ledger: Ledger::new(Timing::default(), 0),
            now: 0,
            holds: [ONE, TWO, THREE].into_iter().map(|id| (id, Vec::new())).collect(),
            recorded: workers.iter().map(|n| (*n, Some(Presence::Ready))).collect(),
            connected: ALL.into_iter().collect(),
            written: Vec::new(),
        }
    }

    fn seconds(&mut self, seconds: u64) -> Vec<Change> {
        let before = self.written.len();
        for _ in 0..seconds {
            self.now += 1_000;
            for (id, holds) in &self.holds {
                self.ledger.report(self.now, *id, full(holds));
            }
            self.decide();
        }
        self.written[before..].to_vec()
    }

    fn decide(&mut self) {
        let managers: Vec<(RaftId, bool)> = self.connected.iter().map(|(id, connected)| (*id, *connected)).collect();
        let candidates: Vec<Candidate> = self
            .recorded
            .iter()
            .map(|(n, recorded)| Candidate { node: node(*n), worker: true, recorded: *recorded })
            .collect();
        for change in self.ledger.decide(self.now, &managers, candidates).changes {
            if let Change::Is(id, presence) = change {
                self.recorded.insert(id.as_bytes()[0], Some(presence));
            }
            self.written.push(change);
        }
    }

    fn kill(&mut self, id: RaftId) {
        self.holds.remove(&id);
        self.connected.insert(id, false);
    }
}

#[test]
fn ready_and_down_are_written_once_and_nothing_while_idle() {
    let mut story = Story::new(&[]);
    story.recorded.insert(5, None);
    story.holds.insert(TWO, vec![5]);
    assert_eq!(story.seconds(1), [Change::Is(node(5), Presence::Ready)]);
    assert_eq!(story.seconds(3_600), []);
    story.holds.insert(TWO, vec![]);
    assert_eq!(story.seconds(60), [Change::Is(node(5), Presence::Down)]);
    assert_eq!(story.seconds(3_600), []);
}

#[test]
fn a_worker_that_the_transport_gave_up_for_silence_is_down_at_once() {
    let mut ledger = Ledger::new(Timing::default(), 0);
    for id in [ONE, TWO, THREE] {
        ledger.report(0, id, full(&[9]));
    }
    ledger.report(1_000, ONE, Report { gone: vec![(node(9), 0)], ..next(1) });
    ledger.report(1_000, TWO, Report { gone: vec![(node(9), 0)], ..next(1) });
    // The third held it to the end; it had not been heard of for 15 s when the transport gave up.
    for second in 2..=20 {
        ledger.report(second * 1_000, ONE, next(second - 1));
        ledger.report(second * 1_000, TWO, next(second - 1));
        ledger.report(second * 1_000, THREE, next(second - 1));
        assert_eq!(ledger.decide(second * 1_000, &ALL, [ready(9)]).changes, []);
    }
    ledger.report(21_000, THREE, Report { gone: vec![(node(9), 15_000)], ..next(20) });
    assert_eq!(ledger.decide(21_000, &ALL, [ready(9)]).changes, [Change::Is(node(9), Presence::Down)]);
}

#[test]
fn a_worker_that_restarts_within_the_grace_is_not_told_down() {
    let mut story = Story::new(&[1]);
    story.holds.insert(ONE, vec![1]);
    story.seconds(5);
    story.holds.insert(ONE, vec![]);
    assert_eq!(story.seconds(14), []);
    story.holds.insert(THREE, vec![1]);
    assert_eq!(story.seconds(60), []);
}

#[test]
fn when_a_manager_dies_its_workers_have_the_time_to_notice_on_top() {
    let mut story = Story::new(&[1, 2]);
    story.holds.insert(ONE, vec![1]);
    story.holds.insert(TWO, vec![2]);
    story.seconds(5);
    story.kill(TWO);
    // Its last report was at 5 s: down at 35 s, not at 20.
    assert_eq!(story.seconds(29), []);
    assert_eq!(story.seconds(1), [Change::Is(node(2), Presence::Down)]);
    // Moved in time, nothing is written.
    let mut story = Story::new(&[2]);
    story.holds.insert(TWO, vec![2]);
    story.seconds(5);
    story.kill(TWO);
    assert_eq!(story.seconds(25), []);
    story.holds.insert(ONE, vec![2]);
    assert_eq!(story.seconds(60), []);
}

#[test]
fn nobody_is_down_before_every_live_manager_has_reported() {
    let mut ledger = Ledger::new(Timing::default(), 0);
    let mut waited = 0;
    // The third is connected and says nothing: it is waited for as long as its patience, and the grace comes after.
    for second in 1..=60 {
        let now = second * 1_000;
        ledger.report(now, ONE, full(&[]));
        ledger.report(now, TWO, full(&[]));
        let decision = ledger.decide(now, &ALL, [ready(4)]);
        if !decision.changes.is_empty() {
            break;
        }
        waited = second;
    }
    // It did not report, so the worker may have been with it: the time to notice counts.
    assert_eq!(waited, 1 + 15 + 30 - 1);
    // One that is not connected is not waited for.
    let mut story = Story::new(&[4]);
    story.kill(THREE);
    assert_eq!(story.seconds(30), []);
    assert_eq!(story.seconds(2), [Change::Is(node(4), Presence::Down)]);
}

#[test]
fn a_new_leader_gives_everybody_the_whole_grace_again() {
    let mut story = Story::new(&[1, 2]);
    story.holds.insert(ONE, vec![1]);
    // Nobody has told this leader of the second worker; every manager is there and has reported.
    assert_eq!(story.seconds(15), []);
    assert_eq!(story.seconds(2), [Change::Is(node(2), Presence::Down)]);
    // A worker that was never there and is not recorded is not down: unknown.
    story.recorded.insert(3, None);
    assert_eq!(story.seconds(120), []);
}

#[test]
fn a_pause_of_the_leader_counts_for_nobody() {
    let mut story = Story::new(&[1, 2]);
    story.holds.insert(ONE, vec![1, 2]);
    story.seconds(5);
    story.holds.insert(ONE, vec![1]);
    story.seconds(5);
    story.now += 3_600_000;
    story.decide();
    assert_eq!(story.written, [], "an hour in which the leader stood still");
    assert_eq!(story.seconds(7), []);
    assert_eq!(story.seconds(3), [Change::Is(node(2), Presence::Down)]);
}

#[test]
fn a_report_that_does_not_follow_on_asks_for_a_full_one() {
    let mut ledger = Ledger::new(Timing::default(), 0);
    assert!(!ledger.report(0, ONE, next(1)), "nothing is known of this manager");
    assert!(ledger.report(0, ONE, full(&[1])));
    assert!(ledger.report(0, ONE, next(1)));
    assert!(!ledger.report(0, ONE, next(1)), "one was lost");
    assert!(!ledger.report(0, ONE, Report { instance: 8, ..next(2) }), "another process");
    assert!(ledger.report(0, ONE, Report { present: vec![node(2)], ..next(2) }));
    assert!(ledger.is_present(node(1)) && ledger.is_present(node(2)));
    assert!(ledger.report(0, ONE, full(&[2])));
    assert!(!ledger.is_present(node(1)) && ledger.is_present(node(2)));
}

#[test]
fn what_is_no_worker_any_more_loses_its_record() {
    let mut ledger = Ledger::new(Timing::default(), 0);
    let promoted = Candidate { worker: false, ..ready(1) };
    let manager = Candidate { node: node(2), worker: false, recorded: None };
    assert_eq!(ledger.decide(0, &ALL, [promoted, manager]).changes, [Change::Forget(node(1))]);
}

/// What happens in one step of a random history.
#[derive(Debug, Clone)]
enum Happens {
    Time(u64),
    Session(u8, RaftId),
    Ends(u8, RaftId, u64),
    Dies(RaftId),
    Returns(RaftId),
}

fn happens() -> impl Strategy<Value = Happens> {
    let manager = || (1u64..=3).prop_map(RaftId);
    prop_oneof![
        4 => (1u64..6_000).prop_map(Happens::Time),
        3 => (0u8..4, manager()).prop_map(|(n, id)| Happens::Session(n, id)),
        2 => (0u8..4, manager(), prop_oneof![Just(0), Just(15_000)]).prop_map(|(n, id, silent)| Happens::Ends(n, id, silent)),
        1 => manager().prop_map(Happens::Dies),
        1 => manager().prop_map(Happens::Returns),
    ]
}

proptest! {
    /// Managers report every second, one may die and return. Nobody with a session at a live manager is ever told down;
    /// who is told down had none for the grace; and in peace everything is settled, once.
    #[test]
    fn nobody_with_a_session_is_down_and_everybody_without_one_is_in_the_end(
        history in prop::collection::vec(happens(), 0..60),
    ) {
        let mut ledger = Ledger::new(Timing::default(), 0);
        let mut now = 0u64;
        let mut serial = 1u64;
        let mut alive: BTreeMap<RaftId, BTreeSet<u8>> = ALL.iter().map(|(id, _)| (*id, BTreeSet::new())).collect();
        let mut recorded: BTreeMap<u8, Option<Presence>> = (0..4).map(|n| (n, None)).collect();
        // When each worker last had a session that its manager would have told as heard.
        let mut heard: BTreeMap<u8, u64> = BTreeMap::new();
        let mut gone: BTreeMap<RaftId, Vec<(NodeId, u64)>> = BTreeMap::new();
        let peace = std::iter::repeat_n(Happens::Time(6_000), 20);
        for what in history.into_iter().chain(peace) {
            let time = match what {
                Happens::Time(time) => time,
                Happens::Session(n, id) => {
                    if let Some(sessions) = alive.get_mut(&id) {
                        sessions.insert(n);
                    }
                    0
                }
                Happens::Ends(n, id, silent) => {
                    if alive.get_mut(&id).is_some_and(|sessions| sessions.remove(&n)) {
                        gone.entry(id).or_default().push((node(n), silent));
                        let at = heard.entry(n).or_default();
                        *at = (*at).max(now.saturating_sub(silent));
                    }
                    0
                }
                Happens::Dies(id) => {
                    for n in alive.remove(&id).unwrap_or_default() {
                        heard.insert(n, now);
                    }
                    gone.remove(&id);
                    0
                }
                Happens::Returns(id) => {
                    alive.entry(id).or_default();
                    0
                }
            };
            for _ in 0..=(time / 1_000) {
                now += time.min(1_000);
                serial += 1;
                for (id, sessions) in &alive {
                    let present: Vec<NodeId> = sessions.iter().map(|n| node(*n)).collect();
                    let delta = Report {
                        instance: 7,
                        serial,
                        base: serial - 1,
                        present: present.clone(),
                        gone: gone.remove(id).unwrap_or_default(),
                    };
                    if !ledger.report(now, *id, delta) {
                        ledger.report(now, *id, Report { instance: 7, serial, base: 0, present, gone: Vec::new() });
                    }
                }
                let managers: Vec<(RaftId, bool)> = ALL.iter().map(|(id, _)| (*id, alive.contains_key(id))).collect();
                let candidates: Vec<Candidate> =
                    recorded.iter().map(|(n, is)| Candidate { node: node(*n), worker: true, recorded: *is }).collect();
                for change in ledger.decide(now, &managers, candidates).changes {
                    let Change::Is(id, presence) = change else { panic!("all are workers") };
                    let n = id.as_bytes()[0];
                    let held = alive.values().any(|sessions| sessions.contains(&n));
                    prop_assert_ne!(recorded.insert(n, Some(presence)), Some(Some(presence)), "written twice");
                    if presence == Presence::Down {
                        prop_assert!(!held, "told down with a session");
                        let last = heard.get(&n).copied().unwrap_or(0);
                        prop_assert!(now >= last + Timing::default().grace, "told down at {now}, heard at {last}");
                    }
                }
            }
        }
        for (n, is) in recorded {
            let held = alive.values().any(|sessions| sessions.contains(&n));
            let expected = match (held, is) {
                (true, _) => Some(Presence::Ready),
                (false, None) => None,
                (false, Some(_)) => Some(Presence::Down),
            };
            // Without any manager nobody judges.
            if !alive.is_empty() {
                prop_assert_eq!(is, expected, "worker {}", n);
            }
        }
    }
}
