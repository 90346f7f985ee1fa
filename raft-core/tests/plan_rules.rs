//! The seat planner's rules: every small case there is, and properties of larger ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests stop at the first surprise"
)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use quorate_core::id::RaftId;
use quorate_core::log::Configuration;
use quorate_core::membership::plan::{
    EvenMaxVoters, ManagerView, SeatChange, SeatPolicy, SeatStep, SeatView, leave, plan,
};
use quorate_core::membership::quorum::{Quorum, check_odd};

/// Every rule that any plan must keep, whatever the view.
fn check(view: &SeatView, policy: SeatPolicy, change: &SeatChange) -> Result<(), TestCaseError> {
    let before = &view.configuration;
    prop_assert!(!view.pending && !before.is_joint(), "nothing starts while something is under way");
    let after = change.apply_to(before);
    prop_assert!(check_odd(before).is_ok() && check_odd(&after).is_ok(), "{after:?}");
    let seat = |id: RaftId| view.managers.iter().find(|manager| manager.raft_id == id);
    let replaced: BTreeSet<RaftId> = view.managers.iter().filter_map(|manager| manager.replaces).collect();
    match change {
        SeatChange::Learner { step } => {
            prop_assert!(!after.is_joint());
            prop_assert_eq!(&after.voters, &before.voters, "a simple change never touches a voter");
            prop_assert!(matches!(step, SeatStep::AddLearner(_) | SeatStep::Remove(_)));
        }
        SeatChange::Joint { .. } => {
            prop_assert_eq!(&after.voters_outgoing, &before.voters);
            prop_assert_ne!(&after.voters, &before.voters, "a joint change is for voters only");
            let alive = |id: RaftId| {
                !replaced.contains(&id) && seat(id).is_some_and(|manager| manager.connected || manager.leader)
            };
            prop_assert!(Quorum::of(&after).is_alive(alive), "both majorities are alive");
            prop_assert!(after.voters.len() >= before.voters.len(), "the simple form never shrinks");
            prop_assert!(after.voters.len() <= policy.max_voters().max(before.voters.len()));
            for id in after.voters.iter().filter(|id| !before.voters.contains(id)) {
                let manager = seat(*id).unwrap();
                prop_assert!(manager.connected && manager.caught_up && manager.stable, "{id} was not ready");
                prop_assert!(before.learners.contains(id), "{id} was no standby");
                prop_assert!(manager.replaces.is_none_or(|old| !after.voters.contains(&old)), "two seats for one node");
            }
            for id in before.voters.iter().filter(|id| !after.voters.contains(id)) {
                prop_assert!(replaced.contains(id), "{id} lost its seat to nobody");
            }
        }
    }
    // A member is in one set only, and the same view always gives the same plan.
    for configuration in [&after, &leave(&after)] {
        let all = configuration.voters.len() + configuration.learners.len();
        let distinct: BTreeSet<RaftId> = configuration.voters.iter().chain(&configuration.learners).copied().collect();
        prop_assert_eq!(all, distinct.len(), "{:?}", configuration);
    }
    let mut reversed = view.clone();
    reversed.managers.reverse();
    let again = plan(&reversed, policy);
    prop_assert_eq!(again.as_ref(), Some(change));
    Ok(())
}

/// Every manager in every state, in every odd configuration of up to five: some 200,000 views.
#[test]
fn every_small_case_keeps_every_rule() {
    // Of each manager: voter or standby or no member, and lost, connected, caught up or ready.
    const KINDS: usize = 3 * 4;
    let mut planned = [0u32; 3];
    for managers in 1..=5usize {
        for case in 0..KINDS.pow(u32::try_from(managers).unwrap()) {
            let mut view = SeatView::default();
            let mut rest = case;
            for id in (1u64..).take(managers) {
                let (set, state) = (rest % 3, rest / 3 % 4);
                rest /= KINDS;
                match set {
                    0 => view.configuration.voters.push(RaftId(id)),
                    1 => view.configuration.learners.push(RaftId(id)),
                    _ => {}
                }
                let manager = ManagerView {
                    raft_id: RaftId(id),
                    connected: state > 0,
                    caught_up: state > 1,
                    stable: state > 2,
                    ..ManagerView::default()
                };
                view.managers.push(manager);
            }
            let policy = SeatPolicy::new(if case % 2 == 0 { 3 } else { 5 }).unwrap();
            let change = plan(&view, policy);
            let even = view.configuration.voters.len() % 2 == 0;
            match &change {
                None => planned[0] += 1,
                Some(change) => {
                    assert!(!even, "nothing is planned from an even configuration: {view:?}");
                    check(&view, policy, change).unwrap();
                    planned[if matches!(change, SeatChange::Joint { .. }) { 2 } else { 1 }] += 1;
                }
            }
            // What must be planned is planned: two ready standbys, room, and a majority.
            let ready =
                view.managers.iter().filter(|m| m.stable && view.configuration.learners.contains(&m.raft_id)).count();
            let alive = |id: RaftId| view.managers.iter().any(|manager| manager.raft_id == id && manager.connected);
            let majority = Quorum::of(&view.configuration).is_alive(alive);
            if !even && ready >= 2 && majority && view.configuration.voters.len() + 2 <= policy.max_voters() {
                assert!(matches!(change, Some(SeatChange::Joint { .. })), "{view:?}");
            }
        }
    }
    assert!(planned.iter().all(|count| *count > 100), "{planned:?}");
}

fn manager(id: u64) -> impl Strategy<Value = ManagerView> {
    (any::<[bool; 3]>(), proptest::option::weighted(0.2, 1u64..12)).prop_map(
        move |([connected, caught_up, stable], old)| ManagerView {
            raft_id: RaftId(id),
            replaces: old.filter(|old| *old != id).map(RaftId),
            leader: false,
            connected,
            caught_up,
            stable,
        },
    )
}

fn view() -> impl Strategy<Value = SeatView> {
    let managers: Vec<_> = (1..12).map(|id| (manager(id), proptest::bool::weighted(0.9))).collect();
    (managers, proptest::collection::vec(0u8..4, 11), proptest::bool::weighted(0.1), proptest::bool::weighted(0.1))
        .prop_map(|(managers, sets, pending, joint)| {
            let mut configuration = Configuration::default();
            for (id, set) in (1..12).map(RaftId).zip(sets) {
                match set {
                    0 | 1 => configuration.voters.push(id),
                    2 => configuration.learners.push(id),
                    _ => {}
                }
            }
            if configuration.voters.len() % 2 == 0 {
                configuration.voters.pop();
            }
            if joint {
                configuration.voters_outgoing = configuration.voters.iter().take(1).copied().collect();
            }
            let managers = managers.into_iter().filter(|(_, there)| *there).map(|(manager, _)| manager).collect();
            SeatView { configuration, pending, managers }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_plan_keeps_every_rule(view in view(), max in proptest::sample::select(vec![3u32, 5, 7, 9])) {
        let policy = SeatPolicy::new(max).unwrap();
        if let Some(change) = plan(&view, policy) {
            check(&view, policy, &change)?;
        }
    }

    /// Applied again and again the plan comes to rest, and then nothing is left that it could do.
    #[test]
    fn the_planner_comes_to_rest(mut view in view(), max in proptest::sample::select(vec![3u32, 5, 7, 9])) {
        let policy = SeatPolicy::new(max).unwrap();
        for _ in 0..40 {
            let Some(change) = plan(&view, policy) else { return Ok(()) };
            check(&view, policy, &change)?;
            view.configuration = leave(&change.apply_to(&view.configuration));
        }
        prop_assert!(false, "still at work: {:?}", view);
    }
}

#[test]
fn only_odd_numbers_of_voters_are_taken_for_the_most() {
    for max in 0..=12u32 {
        let expected = if [3, 5, 7, 9].contains(&max) { Ok(max as usize) } else { Err(EvenMaxVoters { given: max }) };
        assert_eq!(SeatPolicy::new(max).map(|policy| policy.max_voters()), expected);
    }
}

#[test]
fn a_voter_made_learner_waits_in_the_next_set_until_the_joint_configuration_is_left() {
    let from = Configuration {
        voters: vec![RaftId(1), RaftId(2), RaftId(3)],
        learners: vec![RaftId(4)],
        ..Configuration::default()
    };
    let change = SeatChange::Joint { steps: vec![SeatStep::AddVoter(RaftId(4)), SeatStep::AddLearner(RaftId(3))] };
    let joint = change.apply_to(&from);
    assert_eq!(joint.voters, [RaftId(1), RaftId(2), RaftId(4)]);
    assert_eq!(joint.voters_outgoing, from.voters);
    assert_eq!((joint.learners.as_slice(), joint.learners_next.as_slice()), (&[][..], &[RaftId(3)][..]));
    let left = leave(&joint);
    assert_eq!((left.learners.as_slice(), left.is_joint()), (&[RaftId(3)][..], false));
}
