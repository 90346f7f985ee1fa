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
    assert_eq!(trust.ended(&nodes, [&operator(1, 2)], &one, 110), None);
    assert_eq!(trust.ended([&node(1, 2)], [&operator(1, 1)], &one, 110), None);
    // Who was left behind, taken back or thrown out is not.
    let taken = NodeRecord { compromised: true, ..node(8, 1) };
    // When all have, it is over: the old root and the way from it are trusted no more.
    let everybody = [&node(1, 2), &node(2, 2), &lost, &taken];
    let ended = trust.ended(everybody, [&operator(1, 2), &gone], &one, 110).unwrap();
    assert!(!ended.is_rotating() && ended.authorities == [bytes(2)]);
    assert_eq!((ended.issuer.clone(), ended.serial), (bytes(2), 1));
    assert_eq!(ended.ended([&node(1, 1)], [], &one, 999), None, "once");
}

#[test]
fn the_deadline_ends_it_without_those_who_are_silent() {
    let trust = second(50);
    let (away, one) = ([manager(1, 2), node(2, 1)], voters(&[1]));
    assert_eq!(trust.ended(&away, [], &one, 149), None);
    assert_eq!(trust.ended(&away, [], &one, 150).unwrap().authorities, [bytes(2)]);
    // Any leader finds the same, and a clock that is set back only makes it last.
    assert_eq!(trust.ended(&away, [], &one, 0), None);
    assert_eq!(first().ended(&away, [], &one, u64::MAX), None, "none is under way");
}

#[test]
fn no_deadline_ends_it_before_a_majority_of_the_voters_has_renewed() {
    // Given three voters of which one has renewed, and standbys that have
    let trust = second(50);
    let others = [manager(4, 2), manager(5, 2)];
    let ended = |second: NodeRecord, configuration: &Configuration| {
        let nodes = [manager(1, 2), second, manager(3, 1)];
        trust.ended(nodes.iter().chain(&others), [], configuration, 999).is_some()
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
    assert_eq!((third.serial, third.deadline, third.spread_ms), (2, 180, 30_000));
    let unhurried = second(50).rotated((bytes(3), bytes(3)), bytes(23), 4_000, 120, 600).unwrap();
    assert_eq!(unhurried.spread_ms, 200_000);
    let one = voters(&[1]);
    assert_eq!(third.ended([&node(1, 2)], [], &one, 130), None);
    assert_eq!(third.ended([&node(1, 3)], [], &one, 130).unwrap().authorities, [bytes(3)]);
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
        let (mut trust, mut now, mut next) = (first(), 1_000, 2);
        let fresh = Held { issuer: 1, authorities: first().authorities, away: false, knows: first() };
        let mut held = vec![fresh; 4];
        // Who was away until a deadline is left behind, and has to join anew.
        let mut left_behind = BTreeSet::new();
        for event in events {
            match event {
                Event::Rotate => {
                    let begun = trust.rotated((bytes(next), bytes(next)), bytes(100 + next), 4, now, 30);
                    if let Ok(begun) = begun {
                        (trust, next) = (begun, next + 1);
                    }
                }
                Event::Renew(at) if !held[at].away && !left_behind.contains(&at) => {
                    held[at].knows = trust.clone();
                    held[at].issuer = trust.issuer[0];
                    held[at].authorities.clone_from(&trust.authorities);
                }
                Event::Toggle(at) => held[at].away = !held[at].away,
                Event::Wait(seconds) => now += seconds,
                Event::Renew(_) | Event::Look => {
                    // Three of the four vote.
                    let (ids, voters) = (1..=4_u8, voters(&[1, 2, 3]));
                    let records: Vec<NodeRecord> = ids.zip(&held).map(|(id, held)| manager(id, held.issuer)).collect();
                    // Told twice, by two leaders that follow each other, it comes to the same.
                    let ended = trust.ended(&records, [], &voters, now);
                    prop_assert_eq!(&ended, &trust.ended(&records, [], &voters, now));
                    if let Some(ended) = ended {
                        let late = held.iter().enumerate().filter(|(_, held)| bytes(held.issuer) != trust.issuer);
                        let late: Vec<usize> = late.map(|(at, _)| at).collect();
                        prop_assert!(late.is_empty() || now >= trust.deadline);
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
