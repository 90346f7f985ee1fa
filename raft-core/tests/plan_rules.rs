//! The seat planner's rules: every small case there is, and properties of larger ones and of long stories.
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
use quorate_core::membership::plan::{ManagerView, SeatChange, SeatPolicy, SeatStep, SeatView, leave, plan};
use quorate_core::membership::quorum::{Quorum, check_odd};
use quorate_core::membership::wish::{Wish, WishRefused, check as may};

const LOST: u64 = 1_000_000;

/// The rules, asked of a view without the planner's help.
struct Rules<'a> {
    view: &'a SeatView,
    replaced: BTreeSet<RaftId>,
}

impl<'a> Rules<'a> {
    fn of(view: &'a SeatView) -> Self {
        Self { view, replaced: view.managers.iter().filter_map(|manager| manager.replaces).collect() }
    }

    fn manager(&self, id: RaftId) -> Option<&'a ManagerView> {
        self.view.managers.iter().find(|manager| manager.raft_id == id && !self.replaced.contains(&id))
    }

    fn is_alive(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(|manager| manager.connected || manager.leader)
    }

    fn is_leaving(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(|manager| manager.demoted || manager.removing)
    }

    /// It does not come back: nobody stands behind it, or it was silent for too long and nobody said to wait.
    fn is_lost(&self, id: RaftId, policy: &SeatPolicy) -> bool {
        match self.manager(id) {
            None => !self.view.managers.iter().any(|manager| {
                let returned = manager.replaces == Some(id) && self.manager(manager.raft_id).is_some();
                returned && !self.is_leaving(manager.raft_id) && manager.waiting_ticks < policy.lost_after
            }),
            Some(manager) => {
                !manager.held
                    && !policy.keep_lost
                    && !self.is_alive(id)
                    && !self.is_leaving(id)
                    && manager.silent_ticks >= policy.lost_after
            }
        }
    }

    fn is_ready(&self, id: RaftId) -> bool {
        let manager = self.manager(id);
        let ready = manager.is_some_and(|manager| manager.connected && manager.caught_up && manager.stable);
        ready && self.view.configuration.learners.contains(&id) && !self.is_leaving(id)
    }

    fn leads(&self, id: RaftId) -> bool {
        self.manager(id).is_some_and(|manager| manager.leader)
    }
}

/// Every rule that any plan must keep, whatever the view.
fn check(view: &SeatView, policy: &SeatPolicy, change: &SeatChange) -> Result<(), TestCaseError> {
    let (rules, before) = (Rules::of(view), &view.configuration);
    prop_assert!(!view.pending && !before.is_joint(), "nothing starts while something is under way");
    let after = change.apply_to(before);
    prop_assert!(check_odd(before).is_ok() && check_odd(&after).is_ok(), "{after:?}");
    prop_assert!(Quorum::of(&after).is_alive(|id| rules.is_alive(id)), "both majorities are alive");
    match change {
        SeatChange::Learner { step } => {
            prop_assert!(!after.is_joint());
            prop_assert_eq!(&after.voters, &before.voters, "a simple change never touches a voter");
            prop_assert!(matches!(step, SeatStep::AddLearner(_) | SeatStep::Remove(_)));
        }
        SeatChange::Joint { .. } => {
            prop_assert_eq!(&after.voters_outgoing, &before.voters);
            prop_assert_ne!(&after.voters, &before.voters, "a joint change is for voters only");
            check_joint(&rules, policy, &after)?;
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

fn check_joint(rules: &Rules<'_>, policy: &SeatPolicy, after: &Configuration) -> Result<(), TestCaseError> {
    let before = &rules.view.configuration.voters;
    let seated: Vec<RaftId> = after.voters.iter().copied().filter(|id| !before.contains(id)).collect();
    let out: Vec<RaftId> = before.iter().copied().filter(|id| !after.voters.contains(id)).collect();
    prop_assert!(after.voters.len() <= policy.max_voters().max(before.len()));
    for id in &seated {
        prop_assert!(rules.is_ready(*id), "{id} was not ready");
        let old = rules.manager(*id).and_then(|manager| manager.replaces);
        let two = old.is_some_and(|old| after.voters.contains(&old) && !rules.is_lost(old, policy));
        prop_assert!(!two, "two seats for the node of {id}");
    }
    let replaced = |id: &RaftId| seated.iter().any(|new| rules.manager(*new).and_then(|m| m.replaces) == Some(*id));
    let justified = |id: &RaftId| rules.is_leaving(*id) || rules.is_lost(*id, policy) || replaced(id);
    // Seats are given up in pairs: a healthy one only together with one that goes, or when there are too many.
    let healthy = out.iter().filter(|id| !justified(id)).count();
    let excess = before.len().saturating_sub(policy.max_voters());
    prop_assert!(healthy <= excess + out.iter().filter(|id| rules.is_leaving(**id)).count(), "{out:?} for nothing");
    for id in out.iter().filter(|id| !justified(id)) {
        prop_assert!(!rules.leads(*id), "the leader gives up its seat for another one's");
        let stays = leave(after).learners.contains(id) || rules.manager(*id).is_none();
        prop_assert!(stays, "{id} stays a manager");
    }
    if let Some(leader) = out.iter().find(|id| rules.leads(**id)) {
        prop_assert!(rules.is_leaving(*leader));
        prop_assert!(out.len() + seated.len() == 2, "the leader's seat goes last, and by itself");
    }
    if after.voters.len() < before.len() {
        let (lost, leaving) =
            (out.iter().filter(|id| rules.is_lost(**id, policy)).count(), out.iter().any(|id| rules.is_leaving(*id)));
        prop_assert!(excess > 0 || leaving || lost >= 2, "{out:?} shrink for nothing");
    }
    if before.len() > 1 && after.voters.len() == 1 {
        let forced = out.iter().filter(|id| rules.is_leaving(**id)).any(|id| rules.manager(*id).unwrap().forced);
        prop_assert!(forced, "fault tolerance ends and nobody forced it");
    }
    Ok(())
}

/// What must be planned is planned.
fn check_progress(view: &SeatView, policy: &SeatPolicy, change: Option<&SeatChange>) {
    let (rules, voters) = (Rules::of(view), &view.configuration.voters);
    if check_odd(&view.configuration).is_err() || !Quorum::of(&view.configuration).is_alive(|id| rules.is_alive(id)) {
        assert_eq!(change, None, "without a majority nothing is proposed: {view:?}");
        return;
    }
    // Who replaces a voter may have to wait for that voter's seat.
    let is_free = |id: &&RaftId| rules.is_ready(**id) && rules.manager(**id).is_some_and(|m| m.replaces.is_none());
    let ready = view.configuration.learners.iter().filter(is_free).count();
    let after = change.map(|change| change.apply_to(&view.configuration).voters);
    let after = after.as_ref().unwrap_or(voters);
    let lost = |voters: &[RaftId]| voters.iter().filter(|id| rules.is_lost(**id, policy)).count();
    let leaving = |voters: &[RaftId]| voters.iter().filter(|id| rules.is_leaving(**id) && !rules.leads(**id)).count();
    let (lost, lost_after) = (lost(voters), lost(after));
    if lost > 0 && ready > 0 || lost >= 2 && voters.len() >= 5 {
        assert!(lost_after < lost, "a lost voter keeps its seat: {view:?}");
    }
    if lost == 0 && leaving(voters) > 0 && (ready > 0 || voters.len() >= 5) {
        let waits = ready == 0 && may_come(view, policy);
        assert!(waits || leaving(after) < leaving(voters), "nobody may go: {view:?}");
    }
    if voters.len() > policy.max_voters() {
        assert!(after.len() < voters.len(), "too many voters: {view:?}");
    }
    if lost == 0 && ready >= 2 && voters.len() + 2 <= policy.max_voters() && leaving(voters) == 0 {
        assert!(after.len() > voters.len() || voters.iter().any(|id| rules.manager(*id).is_none()), "{view:?}");
    }
}

fn may_come(view: &SeatView, policy: &SeatPolicy) -> bool {
    let rules = Rules::of(view);
    view.managers.iter().any(|manager| {
        let id = manager.raft_id;
        let is_there = rules.is_ready(id) && manager.replaces.is_none();
        let settled = is_there || rules.is_leaving(id) || view.configuration.voters.contains(&id);
        !settled && (manager.connected || manager.waiting_ticks < policy.lost_after)
    })
}

/// Plans, and plans again, until there is nothing to do: soon, and every step keeps every rule.
fn settle(view: &mut SeatView, policy: &SeatPolicy) -> Result<u32, TestCaseError> {
    for steps in 0..40 {
        let Some(change) = plan(view, policy) else { return Ok(steps) };
        check(view, policy, &change)?;
        check_progress(view, policy, Some(&change));
        let after = change.apply_to(&view.configuration);
        // Who leads must keep its seat: leadership goes first, as the machine does it.
        let leads = |id: &RaftId| view.managers.iter().any(|m| m.leader && m.raft_id == *id);
        if view.configuration.voters.iter().any(leads) && !after.voters.iter().any(leads) {
            let alive =
                |id: &&RaftId| view.managers.iter().any(|m| m.raft_id == **id && m.connected && !m.is_leaving());
            let next = after.voters.iter().find(alive).copied();
            let stays = next.is_some_and(|next| view.configuration.voters.contains(&next));
            for manager in &mut view.managers {
                manager.leader = Some(manager.raft_id) == next;
            }
            if stays {
                continue;
            }
        }
        view.configuration = leave(&after);
    }
    prop_assert!(false, "still at work: {:?}", view);
    Ok(0)
}

/// Of each manager: voter or standby, and how it is.
fn small(kinds: &[ManagerView], sets: usize, managers: usize, mut visit: impl FnMut(SeatView, usize)) {
    let per_manager = sets * kinds.len();
    for case in 0..per_manager.pow(u32::try_from(managers).unwrap()) {
        let mut view = SeatView::default();
        let mut rest = case;
        for id in (1u64..).take(managers).map(RaftId) {
            let (set, kind) = (rest % sets, rest / sets % kinds.len());
            rest /= per_manager;
            match set {
                0 => view.configuration.voters.push(id),
                1 => view.configuration.learners.push(id),
                _ => {}
            }
            view.managers.push(ManagerView { raft_id: id, ..kinds[kind].clone() });
        }
        // Somebody leads: the first voter that is alive.
        let voters = &view.configuration.voters;
        if let Some(leader) = view.managers.iter_mut().find(|m| voters.contains(&m.raft_id) && m.connected) {
            leader.leader = true;
        }
        visit(view, case);
    }
}

fn ready() -> ManagerView {
    ManagerView { connected: true, caught_up: true, stable: true, ..ManagerView::default() }
}

fn lost() -> ManagerView {
    ManagerView { silent_ticks: LOST, waiting_ticks: LOST, caught_up: true, ..ManagerView::default() }
}

fn leaving(forced: bool) -> ManagerView {
    ManagerView { demoted: true, forced, ..ready() }
}

fn exhaust(kinds: &[ManagerView], sets: usize, managers: usize) -> [u32; 3] {
    let mut planned = [0u32; 3];
    small(kinds, sets, managers, |mut view, case| {
        let policy = SeatPolicy::new([3, 5, 7][case % 3]).unwrap();
        let change = plan(&view, &policy);
        check_progress(&view, &policy, change.as_ref());
        planned[match &change {
            None => 0,
            Some(SeatChange::Learner { .. }) => 1,
            Some(SeatChange::Joint { .. }) => 2,
        }] += 1;
        // From every case it comes to rest, and every step keeps every rule.
        settle(&mut view, &policy).unwrap_or_else(|error| panic!("{error}"));
    });
    planned
}

/// Seven managers, each a voter or a standby, every subset of them alive, lost, or asked to go.
#[test]
fn every_case_of_up_to_seven_managers_keeps_every_rule() {
    for managers in 1..=7 {
        let planned = exhaust(&[ready(), lost(), leaving(false)], 2, managers);
        assert!(managers < 5 || planned[0] > 100 && planned[2] > 100, "{planned:?}");
    }
}

/// Five managers, each in every state there is; also those that are no members yet.
#[test]
fn every_state_of_up_to_five_managers_keeps_every_rule() {
    let silent = ManagerView { caught_up: true, ..ManagerView::default() };
    let catching_up = ManagerView { connected: true, ..ManagerView::default() };
    for managers in 1..=4 {
        let kinds = [ready(), lost(), leaving(false), leaving(true), silent.clone(), catching_up.clone()];
        exhaust(&kinds, 3, managers);
    }
    let planned = exhaust(&[ready(), lost(), leaving(true), silent], 3, 5);
    assert!(planned.iter().all(|count| *count > 1000), "{planned:?}");
}

fn manager(id: u64) -> impl Strategy<Value = ManagerView> {
    let facts = any::<[bool; 3]>();
    let wishes = (proptest::bool::weighted(0.15), proptest::bool::weighted(0.05), any::<bool>());
    let rest = (
        proptest::option::weighted(0.15, 1u64..12),
        proptest::bool::weighted(0.1),
        prop_oneof![Just(0), 0..LOST],
        prop_oneof![Just(0), 0..LOST],
        0..3u8,
    );
    (facts, wishes, rest).prop_map(
        move |([connected, caught_up, stable], (demoted, removing, forced), (old, held, silent, waiting, zone))| {
            ManagerView {
                raft_id: RaftId(id),
                replaces: old.filter(|old| *old != id).map(RaftId),
                connected,
                caught_up,
                stable,
                silent_ticks: if connected { 0 } else { silent },
                waiting_ticks: waiting,
                demoted,
                removing,
                forced: forced && (demoted || removing),
                held,
                zone: ["", "a", "b"][usize::from(zone)].to_owned(),
                ..ManagerView::default()
            }
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
            let mut managers: Vec<ManagerView> =
                managers.into_iter().filter(|(_, there)| *there).map(|(manager, _)| manager).collect();
            let voters = &configuration.voters;
            if let Some(leader) = managers.iter_mut().find(|m| voters.contains(&m.raft_id) && m.connected) {
                leader.leader = true;
            }
            SeatView { configuration, pending, managers, ..SeatView::default() }
        })
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
enum Event {
    Join,
    Lose(usize),
    Return(usize),
    Demote(usize, bool),
    Remove(usize),
    Max(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Join),
        3 => (0..12usize).prop_map(Event::Lose),
        2 => (0..12usize).prop_map(Event::Return),
        2 => (0..12usize, any::<bool>()).prop_map(|(who, forced)| Event::Demote(who, forced)),
        1 => (0..12usize).prop_map(Event::Remove),
        1 => proptest::sample::select(vec![3u32, 5, 7, 9]).prop_map(Event::Max),
    ]
}

/// A cluster in a long story; the planner is all that changes its seats.
struct Story {
    view: SeatView,
    policy: SeatPolicy,
    next: u64,
}

impl Story {
    fn new() -> Self {
        let first = ManagerView { raft_id: RaftId(1), leader: true, ..ready() };
        let configuration = Configuration { voters: vec![RaftId(1)], ..Configuration::default() };
        let view = SeatView { configuration, managers: vec![first], ..SeatView::default() };
        Self { view, policy: SeatPolicy::new(5).unwrap(), next: 2 }
    }

    fn has_quorum(&self) -> bool {
        let rules = Rules::of(&self.view);
        Quorum::of(&self.view.configuration).is_alive(|id| rules.is_alive(id))
    }

    fn somebody(&mut self, index: usize) -> Option<&mut ManagerView> {
        let count = self.view.managers.len().max(1);
        self.view.managers.get_mut(index % count)
    }

    /// Whoever is alive leads.
    fn elect(&mut self) {
        let voters = self.view.configuration.voters.clone();
        let leads = |m: &ManagerView| m.leader && m.connected && voters.contains(&m.raft_id);
        if self.view.managers.iter().any(leads) {
            return;
        }
        let next = self.view.managers.iter().find(|m| m.connected && voters.contains(&m.raft_id)).map(|m| m.raft_id);
        for manager in &mut self.view.managers {
            manager.leader = Some(manager.raft_id) == next;
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Join => {
                self.view.managers.push(ManagerView { raft_id: RaftId(self.next), ..ready() });
                self.next += 1;
            }
            Event::Lose(who) => {
                if let Some(manager) = self.somebody(who) {
                    *manager = ManagerView { raft_id: manager.raft_id, demoted: manager.demoted, ..lost() };
                }
            }
            Event::Return(who) => {
                if let Some(manager) = self.somebody(who) {
                    *manager = ManagerView { raft_id: manager.raft_id, demoted: manager.demoted, ..ready() };
                }
            }
            Event::Demote(who, forced) => self.wish(who, Wish::Demote { forced })?,
            Event::Remove(who) => self.wish(who, Wish::Remove { forced: false })?,
            Event::Max(max) => self.policy = SeatPolicy::new(max).unwrap(),
        }
        Ok(())
    }

    /// As an operator does it: what is refused is not written; and what is not refused is done.
    fn wish(&mut self, who: usize, wish: Wish) -> Result<(), TestCaseError> {
        self.elect();
        let Some(target) = self.somebody(who).map(|manager| manager.raft_id) else { return Ok(()) };
        let voters = self.view.configuration.voters.clone();
        match may(&self.view, &self.policy, target, wish) {
            Ok(()) => {}
            Err(WishRefused::LastVoter { .. }) => return Ok(()),
            Err(WishRefused::EndsFaultTolerance { from, to }) => {
                let forced = matches!(wish, Wish::Demote { forced: true } | Wish::Remove { forced: true });
                prop_assert!((from, to) == (3, 1) && !forced, "{voters:?}");
                return Ok(());
            }
            Err(WishRefused::QuorumAtRisk { reachable, needed }) => {
                prop_assert!(reachable < needed && !self.has_quorum());
                return Ok(());
            }
            // Neither is wished here.
            Err(WishRefused::EvenMaxVoters(_) | WishRefused::MajorityWith { .. }) => unreachable!(),
        }
        let forced = matches!(wish, Wish::Demote { forced: true } | Wish::Remove { forced: true });
        let manager = self.view.managers.iter_mut().find(|manager| manager.raft_id == target).unwrap();
        (manager.demoted, manager.removing, manager.forced) = (true, matches!(wish, Wish::Remove { .. }), forced);
        if self.has_quorum() {
            self.settle()?;
            let still = self.view.configuration.voters.contains(&target);
            prop_assert!(!still, "{target} was to go and holds a seat: {:?}", self.view);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.elect();
        settle(&mut self.view, &self.policy)?;
        let configuration = &self.view.configuration;
        prop_assert!(check_odd(configuration).is_ok());
        self.view.managers.retain(|manager| !manager.is_leaving() || configuration.contains(manager.raft_id));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_plan_keeps_every_rule(view in view(), max in proptest::sample::select(vec![3u32, 5, 7, 9])) {
        let policy = SeatPolicy::new(max).unwrap();
        if let Some(change) = plan(&view, &policy) {
            check(&view, &policy, &change)?;
        }
    }

    /// Applied again and again the plan comes to rest, and then nothing is left that it could do.
    #[test]
    fn the_planner_comes_to_rest(mut view in view(), max in proptest::sample::select(vec![3u32, 5, 7, 9])) {
        let policy = SeatPolicy::new(max).unwrap();
        settle(&mut view, &policy)?;
    }

    /// Joins, losses, returns, demotions and removals in any order; in the end everybody is well, and there are as many
    /// voters as there can be.
    #[test]
    fn whatever_happens_the_voters_are_odd_and_as_many_as_can_be_in_the_end(
        events in proptest::collection::vec(event(), 1..40)
    ) {
        let mut story = Story::new();
        for event in events {
            story.happen(event)?;
            story.settle()?;
        }
        for manager in &mut story.view.managers {
            let demoted = manager.demoted;
            *manager = ManagerView { raft_id: manager.raft_id, leader: manager.leader, demoted, ..ready() };
        }
        story.settle()?;
        // A wish that could not be fulfilled is taken back.
        for manager in &mut story.view.managers {
            manager.demoted = false;
        }
        story.settle()?;
        let managers = story.view.managers.len();
        let voters = story.view.configuration.voters.len();
        let most = managers.min(story.policy.max_voters());
        prop_assert_eq!(voters, if most % 2 == 1 { most } else { most - 1 }, "{:?}", story.view);
        prop_assert_eq!(story.view.configuration.members().len(), managers);
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
