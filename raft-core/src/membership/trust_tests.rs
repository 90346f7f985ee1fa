//! Rotations of the CA: how one ends, and that nobody who takes part is ever without a way to the others.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn bytes(of: u8) -> Bytes {
    Bytes::copy_from_slice(&[of; ISSUER_BYTES])
}

fn node(id: u8, issuer: u8) -> NodeRecord {
    NodeRecord { id: Bytes::copy_from_slice(&[id; 16]), issuer: bytes(issuer), ..NodeRecord::default() }
}

/// With its id as its raft id.
fn manager(id: u8, issuer: u8) -> NodeRecord {
    NodeRecord { raft_id: id.into(), ..node(id, issuer) }
}

fn voters(ids: &[u64]) -> Configuration {
    Configuration { voters: ids.iter().copied().map(RaftId).collect(), ..Configuration::default() }
}

fn operator(id: u8, issuer: u8) -> OperatorRecord {
    OperatorRecord { id: Bytes::copy_from_slice(&[id; 16]), issuer: bytes(issuer), ..OperatorRecord::default() }
}

fn first() -> TrustRecord {
    TrustRecord::first(bytes(1), bytes(1))
}

fn second(deadline_s: u64) -> TrustRecord {
    first().rotated((bytes(2), bytes(2)), bytes(12), 2, 100, deadline_s).unwrap()
}

/// So long after it began.
fn after(passed_s: u64) -> Moment {
    Moment { passed_s, unix_s: passed_s.saturating_add(100) }
}

#[test]
fn a_rotation_ends_when_everybody_who_counts_has_been_seen_with_the_new_issuer() {
    let trust = second(50);
    assert!(trust.is_rotating() && trust.authorities == [bytes(2), bytes(12), bytes(1)]);
    let lost = NodeRecord { lost: true, ..node(9, 1) };
    let gone = OperatorRecord { revoked: 1, ..operator(9, 1) };
    // Given one that has not renewed, it goes on: a node, or an operator.
    let nodes = [node(1, 2), node(2, 1), lost.clone()];
    let ann = operator(1, 2);
    let progress = trust.progress(&nodes, [&ann, &gone], 110);
    assert_eq!((progress.all, progress.waited), (3, vec![Waited::Node(&nodes[1])]));
    let one = voters(&[1]);
    assert_eq!(trust.ended(&nodes, [&operator(1, 2)], &one, after(10)), None);
    assert_eq!(trust.ended([&node(1, 2)], [&operator(1, 1)], &one, after(10)), None);
    // Who was left behind, taken back or thrown out is not.
    let taken = NodeRecord { compromised: true, ..node(8, 1) };
    // When all have, it is over: the old root and the way from it are trusted no more.
    let everybody = [&node(1, 2), &node(2, 2), &lost, &taken];
    let ended = trust.ended(everybody, [&operator(1, 2), &gone], &one, after(10)).unwrap();
    assert!(!ended.is_rotating() && ended.authorities == [bytes(2)]);
    assert_eq!((ended.issuer.clone(), ended.serial), (bytes(2), 1));
    assert_eq!(ended.ended([&node(1, 1)], [], &one, after(999)), None, "once");
}

#[test]
fn the_deadline_ends_it_without_those_who_are_silent_and_no_clock_does() {
    let trust = second(50);
    let (away, one) = ([manager(1, 2), node(2, 1)], voters(&[1]));
    assert_eq!(trust.ended(&away, [], &one, after(49)), None);
    assert_eq!(trust.ended(&away, [], &one, after(50)).unwrap().authorities, [bytes(2)]);
    // Whatever the clock of who leads says: only time that has passed counts, and whoever began it may have had another clock.
    for unix_s in [0, u64::MAX] {
        assert_eq!(trust.ended(&away, [], &one, Moment { passed_s: 49, unix_s }), None);
        assert!(trust.ended(&away, [], &one, Moment { passed_s: 50, unix_s }).is_some());
    }
    assert_eq!(first().ended(&away, [], &one, after(u64::MAX)), None, "none is under way");
}

#[test]
fn what_has_passed_counts_for_that_rotation_only() {
    let trust = second(50);
    let time = TrustTime { serial: 1, passed_s: 20 };
    assert_eq!((trust.passed_s(&time), trust.left_s(&time)), (20, 30));
    let nested = trust.rotated((bytes(3), bytes(3)), bytes(23), 1, 120, 60).unwrap();
    assert_eq!((nested.passed_s(&time), nested.left_s(&time)), (0, 60), "it has all of its time yet");
    assert_eq!((first().passed_s(&time), first().left_s(&time)), (0, 0));
    let ended = trust.ended([&node(1, 2)], [], &voters(&[1]), after(1)).unwrap();
    assert_eq!((ended.passed_s(&time), ended.left_s(&time)), (0, 0));
    // It is written down often enough that leaders who follow each other fast get on, and not too often.
    let steps = [1, 64, 640, 7 * 86_400, 365 * 86_400].map(|deadline_s| second(deadline_s).step_s());
    assert_eq!(steps, [1, 1, 10, 60, 60]);
}

#[test]
fn an_operator_whose_end_a_clock_may_only_believe_to_have_come_is_waited_for() {
    let trust = second(86_400);
    let (nodes, one) = ([manager(1, 2)], voters(&[1]));
    let ann = OperatorRecord { ends: 1_000_000, ..operator(1, 1) };
    let at = |unix_s| trust.ended(&nodes, [&ann], &one, Moment { passed_s: 10, unix_s });
    // By a clock that may be an hour ahead it is not over for her; an hour after her end it surely is.
    for unix_s in [999_999, 1_000_000, 1_003_599] {
        assert_eq!(at(unix_s), None, "{unix_s}");
        assert_eq!(trust.progress(&nodes, [&ann], unix_s).waited.len(), 1);
    }
    assert!(at(1_003_600).is_some());
}

#[test]
fn no_deadline_ends_it_before_a_majority_of_the_voters_has_renewed() {
    // Given three voters of which one has renewed, and standbys that have
    let trust = second(50);
    let others = [manager(4, 2), manager(5, 2)];
    let ended = |second: NodeRecord, configuration: &Configuration| {
        let nodes = [manager(1, 2), second, manager(3, 1)];
        trust.ended(nodes.iter().chain(&others), [], configuration, after(999)).is_some()
    };
    let three = voters(&[1, 2, 3]);
    assert!(!ended(manager(2, 1), &three));
    // When a second one has, it is over; not when that one is thrown out, or was left behind,
    assert!(ended(manager(2, 2), &three));
    assert!(!ended(NodeRecord { compromised: true, ..manager(2, 2) }, &three));
    assert!(!ended(NodeRecord { lost: true, ..manager(2, 2) }, &three));
    // and while the voters change, not before both halves have.
    let joint = Configuration { voters_outgoing: vec![RaftId(3), RaftId(6), RaftId(7)], ..three };
    assert!(!ended(manager(2, 2), &joint));
    assert!(!ended(manager(2, 2), &Configuration::default()), "who knows no voters ends nothing");
}

#[test]
fn one_that_begins_within_another_waits_for_everybody_anew() {
    let third = second(50).rotated((bytes(3), bytes(3)), bytes(23), 4_000, 120, 60).unwrap();
    assert_eq!(third.authorities, [bytes(3), bytes(23), bytes(2), bytes(12), bytes(1)]);
    // (What would take 200 s is done in half of the time that there is.)
    assert_eq!((third.serial, third.deadline_s, third.spread_ms), (2, 60, 30_000));
    let unhurried = second(50).rotated((bytes(3), bytes(3)), bytes(23), 4_000, 120, 600).unwrap();
    assert_eq!(unhurried.spread_ms, 200_000);
    let one = voters(&[1]);
    assert_eq!(third.ended([&node(1, 2)], [], &one, after(10)), None);
    assert_eq!(third.ended([&node(1, 3)], [], &one, after(10)).unwrap().authorities, [bytes(3)]);
    let mut nested = third;
    for n in 4..6 {
        nested = nested.rotated((bytes(n), bytes(n)), bytes(n + 100), 1, 120, 60).unwrap();
    }
    let more = nested.rotated((bytes(7), bytes(7)), bytes(107), 1, 120, 60);
    assert_eq!(more, Err(RotationRefused::TooMany));
    for deadline in [0, 366 * 86_400] {
        let refused = first().rotated((bytes(2), bytes(2)), bytes(12), 1, 1, deadline);
        assert_eq!(refused, Err(RotationRefused::Deadline));
    }
}

#[test]
fn where_no_further_one_fits_the_next_stands_in_line_and_brings_the_deadline_nearer() {
    // Given as many rotations within each other as there may be, of which 100 of 1,000 s are over
    let mut full = first();
    for n in 2..6 {
        full = full.rotated((bytes(n), bytes(n)), bytes(n + 100), 40_000, 120, 1_000).unwrap();
    }
    let time = TrustTime { serial: 4, passed_s: 100 };
    assert_eq!(full.rotated((bytes(7), bytes(7)), bytes(107), 1, 120, 60), Err(RotationRefused::TooMany));
    assert_eq!(full.with_next(&time, 0), Err(RotationRefused::Deadline));
    // When one stands in line, then nothing else is trusted, and nobody is trusted for longer: those under way are over in its time,
    let line = full.with_next(&time, 60).unwrap();
    assert_eq!((&line.authorities, &line.issuer, line.serial), (&full.authorities, &full.issuer, 4));
    assert_eq!((line.left_s(&time), line.next_s, line.spread_ms), (60, 60, 30_000));
    let later = full.with_next(&time, 5_000).unwrap();
    assert_eq!((later.left_s(&time), later.next_s), (900, 5_000));
    // one more joins it, with the nearer deadline,
    assert_eq!(line.with_next(&time, 5_000), Ok(line.clone()));
    assert_eq!(later.with_next(&time, 60).unwrap(), line);
    // and its turn comes when they are over, not before, and once.
    assert_eq!(line.next_due(), None);
    let one = voters(&[1]);
    assert_eq!(line.ended([&manager(1, 4)], [], &one, after(159)), None);
    let ended = line.ended([&manager(1, 5)], [], &one, after(120)).unwrap();
    assert_eq!((ended.next_due(), ended.authorities.len()), (Some(60), 1));
    let begun = ended.rotated((bytes(7), bytes(7)), bytes(107), 1, 120, 60).unwrap();
    assert_eq!((begun.next_s, begun.next_due(), begun.serial), (0, None, 5));
    assert_eq!(first().next_due(), None);
}

/// What one of the model's nodes has: its certificate's issuer, and what it shows and trusts.
#[derive(Debug, Clone)]
struct Held {
    issuer: u8,
    authorities: Vec<Bytes>,
    away: bool,
    /// The record that it has applied: a follower may be behind.
    knows: TrustRecord,
}

/// In the model root `n` is `[n; 8]`, and the cross certificate of `n` by `n - 1` is `[100 + n; 8]`.
fn roots(authorities: &[Bytes]) -> BTreeSet<u8> {
    authorities.iter().map(|authority| authority[0]).filter(|authority| *authority < 100).collect()
}

/// Whether who trusts `trusting` accepts what `shown` shows: its root is trusted, or cross certificates lead to one that is.
fn accepts(trusting: &Held, shown: &Held) -> bool {
    let trusted = roots(&trusting.authorities);
    let mut at = shown.issuer;
    loop {
        if trusted.contains(&at) {
            return true;
        }
        if !shown.authorities.contains(&bytes(100 + at)) || at <= 1 {
            return false;
        }
        at -= 1;
    }
}

#[derive(Debug, Clone)]
enum Event {
    Rotate,
    /// A node applies what is committed, and renews by it.
    Renew(usize),
    /// It is away, or back.
    Toggle(usize),
    /// A leader, whichever, looks whether it is over.
    Look,
    /// Time passes.
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Rotate),
        8 => (0..4_usize).prop_map(Event::Renew),
        2 => (0..4_usize).prop_map(Event::Toggle),
        6 => Just(Event::Look),
        2 => (1..40_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn whoever_takes_part_always_finds_a_way_to_the_others(events in prop::collection::vec(event(), 0..60)) {
        let (mut trust, mut passed_s, mut next) = (first(), 0, 2);
        let fresh = Held { issuer: 1, authorities: first().authorities, away: false, knows: first() };
        let mut held = vec![fresh; 4];
        // Who was away until a deadline is left behind, and has to join anew.
        let mut left_behind = BTreeSet::new();
        for event in events {
            match event {
                Event::Rotate => {
                    let begun = trust.rotated((bytes(next), bytes(next)), bytes(100 + next), 4, 1_000, 30);
                    if let Ok(begun) = begun {
                        (trust, next, passed_s) = (begun, next + 1, 0);
                    }
                }
                Event::Renew(at) if !held[at].away && !left_behind.contains(&at) => {
                    held[at].knows = trust.clone();
                    held[at].issuer = trust.issuer[0];
                    held[at].authorities.clone_from(&trust.authorities);
                }
                Event::Toggle(at) => held[at].away = !held[at].away,
                Event::Wait(seconds) => passed_s += seconds,
                Event::Renew(_) | Event::Look => {
                    // Three of the four vote.
                    let (ids, voters) = (1..=4_u8, voters(&[1, 2, 3]));
                    let records: Vec<NodeRecord> = ids.zip(&held).map(|(id, held)| manager(id, held.issuer)).collect();
                    // Told twice, by two leaders whose clocks differ as much as they can, it comes to the same.
                    let ended = trust.ended(&records, [], &voters, Moment { passed_s, unix_s: 0 });
                    let again = trust.ended(&records, [], &voters, Moment { passed_s, unix_s: u64::MAX });
                    prop_assert_eq!(&ended, &again);
                    if let Some(ended) = ended {
                        let late = held.iter().enumerate().filter(|(_, held)| bytes(held.issuer) != trust.issuer);
                        let late: Vec<usize> = late.map(|(at, _)| at).collect();
                        prop_assert!(late.is_empty() || passed_s >= trust.deadline_s);
                        left_behind.extend(late);
                        prop_assert!((0..3).filter(|at| left_behind.contains(at)).count() <= 1, "the quorum is gone");
                        trust = ended;
                    }
                }
            }
            prop_assert!(trust.authorities.first().is_some_and(|root| *root == trust.issuer));
            prop_assert!(trust.authorities.len() <= AUTHORITIES_MAX);
            // Also who has not renewed yet, and who has only just come back, is understood by everybody, and understands them.
            for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
                if !left_behind.contains(&a) && !left_behind.contains(&b) {
                    prop_assert!(accepts(&held[a], &held[b]), "{a} does not accept {b}: {held:?}");
                }
            }
        }
    }
}

#[test]
fn a_deadline_before_which_nodes_could_not_renew_is_refused_with_the_least() {
    for (nodes, least) in [(1, 10), (100, 10), (101, 11), (10_000, 1_000)] {
        assert_eq!(TrustRecord::check_deadline(nodes, least), Ok(()), "{nodes}");
        let refused = TrustRecord::check_deadline(nodes, least - 1).unwrap_err();
        let met = Met { name: "ROTATION_S_MIN", bound: least, actual: least - 1 };
        assert_eq!(refused, RotationRefused::TooSoon(met));
        assert!(refused.to_string().contains(&format!("{least} s at least")), "{refused}");
        // With it nobody is asked to come in less time than there is room for.
        assert!(longest_spread_ms(least) >= spread_ms(nodes), "{nodes}");
    }
}
