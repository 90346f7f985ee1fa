//! What operators wish for: what can never be done is refused at once, and what has to wait says for what.
//!
//! Owns the typed refusals and the words for what the planner does next with a node. It asks the planner itself, on a
//! view in which the wish is written and everybody who is on the way has arrived; so it never promises what the planner
//! would not do. Pure. Called by the managers' handlers, before a wish is written into the records and while it waits.

use std::fmt;

use super::plan::{
    EvenMaxVoters, ManagerView, SeatChange, SeatPolicy, SeatStep, SeatView, Seats, Short, Standing, leave, plan,
};
use super::quorum::Quorum;
use crate::id::RaftId;

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The manager is to be a worker.
    Demote {
        /// It may end the cluster's fault tolerance.
        forced: bool,
    },
    /// The node is to be removed.
    Remove {
        /// It may end the cluster's fault tolerance.
        forced: bool,
    },
    /// The node is to be removed, forced, and nobody talks to it from now on: its seat is of no use to anybody at once.
    CutOff,
    /// So many voters at most.
    MaxVoters(u32),
}

/// Why a wish is refused at once. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WishRefused {
    /// The most voters must be odd.
    EvenMaxVoters(EvenMaxVoters),
    /// There is nobody to hand the last seat to.
    LastVoter {
        /// Its raft id.
        voter: RaftId,
    },
    /// From three voters to one: no loss would be survived any more.
    EndsFaultTolerance {
        /// Voters now.
        from: usize,
        /// Voters then.
        to: usize,
    },
    /// A majority, before the change or after it, would not be alive.
    QuorumAtRisk {
        /// Voters reachable.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// Cut off at once, it would take the majority with it.
    MajorityWith {
        /// Its raft id.
        voter: RaftId,
        /// Other voters reachable.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
}

impl From<EvenMaxVoters> for WishRefused {
    fn from(refused: EvenMaxVoters) -> Self {
        Self::EvenMaxVoters(refused)
    }
}

impl std::error::Error for WishRefused {}

impl fmt::Display for WishRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(numbered))
    }
}

/// What this file calls a manager whose name is not known here.
fn numbered(id: RaftId) -> String {
    format!("manager {id}")
}

impl WishRefused {
    /// For people, with names for raft ids.
    pub fn told(&self, name: impl Fn(RaftId) -> String) -> String {
        match *self {
            Self::EvenMaxVoters(refused) => refused.to_string(),
            Self::LastVoter { voter } => format!(
                "{} is the last voter: without it there is no cluster, and --force does not change that. Join or promote another manager, or start one that is down; once it has caught up, ask again. Nothing was changed",
                name(voter)
            ),
            Self::EndsFaultTolerance { from, to } => format!(
                "this would leave {to} of {from} voters, and no loss would be survived any more. Join or promote another manager first (or label a worker quorate.manager=yes), it takes the seat; or ask again with --force. Nothing was changed"
            ),
            Self::QuorumAtRisk { reachable, needed } => format!(
                "{reachable} of the voters are reachable and {needed} are needed: seats cannot be changed now, and --force does not change that. Start managers that are down, then ask again. Nothing was changed"
            ),
            Self::MajorityWith { voter, reachable, needed } => format!(
                "without {} {reachable} of the voters are reachable and {needed} are needed: cut off at once, it would take the cluster with it. Let another manager take its seat first (join or promote one, start one that is down, or demote this one), then ask again. Nothing was changed",
                name(voter)
            ),
        }
    }

    /// The same of a wish that is recorded and cannot be fulfilled yet: what it waits for.
    fn waiting(self) -> String {
        match self {
            Self::LastVoter { .. } => "waits for another manager: as the last voter it can only hand its seat on. Start a manager that is down, or join or promote one; once that has caught up, the seat moves".to_owned(),
            Self::EndsFaultTolerance { from, to } => format!(
                "waits for another manager to take its seat: without one {to} of {from} voters would be left, and no loss would be survived any more. Join or promote one (or label a worker quorate.manager=yes), or ask again with --force"
            ),
            Self::QuorumAtRisk { reachable, needed } | Self::MajorityWith { reachable, needed, .. } => {
                no_majority(reachable, needed)
            }
            Self::EvenMaxVoters(refused) => refused.to_string(),
        }
    }
}

fn no_majority(reachable: usize, needed: usize) -> String {
    format!("waits for a majority: {reachable} voters reachable, {needed} needed")
}

/// Members planned for at most until a view comes to rest: each change moves at least one, and none moves twice.
const CHANGES_MAX: usize = 64;

/// Whether a wish can be fulfilled, now or once those on the way have arrived.
///
/// # Errors
/// What can never be done, with the way out.
pub fn check(view: &SeatView, policy: &SeatPolicy, target: RaftId, wish: Wish) -> Result<(), WishRefused> {
    let Some(leaves) = leaves(wish)? else { return Ok(()) };
    let arrived = arrived(view, policy);
    if !arrived.configuration.voters.contains(&target) {
        return Ok(());
    }
    let alive = |view: &SeatView, id: RaftId| Seats::new(view, policy).is_alive(id);
    let quorum = Quorum::of(&view.configuration);
    if !quorum.is_alive(|id| alive(view, id)) {
        let (reachable, needed) = quorum.reach(|id| alive(view, id));
        return Err(WishRefused::QuorumAtRisk { reachable, needed });
    }
    let other = |id| id != target && alive(view, id);
    if wish == Wish::CutOff && !quorum.is_alive(other) {
        let (reachable, needed) = quorum.reach(other);
        return Err(WishRefused::MajorityWith { voter: target, reachable, needed });
    }
    let wished = at_rest(with(arrived, target, leaves), policy);
    let voters = &wished.configuration.voters;
    match voters.len() {
        _ if !voters.contains(&target) => Ok(()),
        1 => Err(WishRefused::LastVoter { voter: target }),
        3 if !leaves.forced => Err(WishRefused::EndsFaultTolerance { from: 3, to: 1 }),
        _ => {
            let (reachable, needed) = Quorum::of(&wished.configuration).reach(|id| alive(&wished, id));
            Err(WishRefused::QuorumAtRisk { reachable, needed })
        }
    }
}

/// How a manager leaves.
#[derive(Debug, Clone, Copy, Default)]
struct Leaves {
    demoted: bool,
    removing: bool,
    forced: bool,
}

/// `None`: it is no wish about one manager.
fn leaves(wish: Wish) -> Result<Option<Leaves>, EvenMaxVoters> {
    let (removing, forced) = match wish {
        Wish::MaxVoters(max) => return SeatPolicy::new(max).map(|_policy| None),
        Wish::Demote { forced } => (false, forced),
        Wish::Remove { forced } => (true, forced),
        Wish::CutOff => (true, true),
    };
    Ok(Some(Leaves { demoted: true, removing, forced }))
}

/// The view with that wish about `target`, in place of any before.
fn with(mut view: SeatView, target: RaftId, leaves: Leaves) -> SeatView {
    for manager in view.managers.iter_mut().filter(|manager| manager.raft_id == target) {
        Leaves { demoted: manager.demoted, removing: manager.removing, forced: manager.forced } = leaves;
    }
    view
}

/// The view once the planner has nothing left to do.
fn at_rest(mut view: SeatView, policy: &SeatPolicy) -> SeatView {
    for _ in 0..CHANGES_MAX {
        let Some(change) = plan(&view, policy) else { break };
        view.configuration = leave(&change.apply_to(&view.configuration));
    }
    view
}

/// What there is to bear losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strength {
    /// Voters.
    pub voters: usize,
    /// Standbys that are reached, and to stay managers.
    pub standbys: usize,
}

impl Strength {
    fn of(view: &SeatView, policy: &SeatPolicy) -> Self {
        let seats = Seats::new(view, policy);
        let stays =
            |id: &&RaftId| seats.manager(**id).is_some_and(|manager| !manager.is_leaving() && seats.is_alive(**id));
        Self {
            voters: view.configuration.voters.len(),
            standbys: view.configuration.learners.iter().filter(stays).count(),
        }
    }

    /// Voters that may be lost at once while writes go on.
    const fn survives(self) -> usize {
        self.voters.saturating_sub(1) / 2
    }
}

/// That a cluster bears less once a manager is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weakened {
    /// As it is, once those on the way have arrived.
    pub before: Strength,
    /// Without that manager.
    pub after: Strength,
}

/// Whether the cluster bears less once this wish is fulfilled: there are fewer voters, or the last standby is gone that would take
/// the seat of one that is lost.
pub fn weakens(view: &SeatView, policy: &SeatPolicy, target: RaftId, wish: Wish) -> Option<Weakened> {
    let leaves = leaves(wish).ok().flatten()?;
    let arrived = arrived(view, policy);
    let strength = |leaves| Strength::of(&at_rest(with(arrived.clone(), target, leaves), policy), policy);
    let (before, after) = (strength(Leaves::default()), strength(leaves));
    let less = after.voters < before.voters || (after.standbys == 0 && before.standbys > 0);
    less.then_some(Weakened { before, after })
}

impl fmt::Display for Weakened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after } = self;
        let (voters, survives) = (after.voters, after.survives());
        match (voters, after.standbys) {
            (1, 0) => f.write_str(
                "one voter and no standby are left: no loss is survived, and what is acknowledged is on one disk alone",
            )?,
            (1, _) => f.write_str(
                "one voter is left: when it is lost nothing is written until somebody recovers the cluster from a standby",
            )?,
            _ if voters < before.voters => write!(
                f,
                "{voters} of {} voters are left: the loss of {survives} at once is survived, instead of {}",
                before.voters,
                before.survives()
            )?,
            _ => write!(
                f,
                "no standby is left: of {voters} voters the loss of {survives} at once is survived, as before, but nobody takes the seat of one that is lost"
            )?,
        }
        f.write_str(". Join or promote another manager")
    }
}

/// The view once the change in flight is done and everybody on the way is a ready standby.
fn arrived(view: &SeatView, policy: &SeatPolicy) -> SeatView {
    let mut then = view.clone();
    then.pending = false;
    then.configuration = leave(&view.configuration);
    let coming: Vec<RaftId> = Seats::new(view, policy).coming().map(|manager| manager.raft_id).collect();
    for manager in then.managers.iter_mut().filter(|manager| coming.contains(&manager.raft_id)) {
        *manager = ManagerView { connected: true, caught_up: true, stable: true, ..manager.clone() };
        if !then.configuration.contains(manager.raft_id) {
            then.configuration.learners.push(manager.raft_id);
        }
    }
    let promoted = view.volunteers(Short::Wish).count() + view.enrolling;
    let next = view.managers.iter().map(|manager| manager.raft_id.0).chain(members(view)).max().unwrap_or(0);
    for raft_id in (next + 1..).take(promoted).map(RaftId) {
        then.configuration.learners.push(raft_id);
        let ready = ManagerView { raft_id, connected: true, caught_up: true, stable: true, ..ManagerView::default() };
        then.managers.push(ready);
    }
    (then.workers, then.enrolling) = (Vec::new(), 0);
    then.configuration = then.configuration.sorted();
    then
}

fn members(view: &SeatView) -> impl Iterator<Item = u64> {
    view.configuration.members().into_iter().map(|id| id.0)
}

/// What the planner does with a node next, or waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// It is no manager and no member.
    NoManager,
    /// It is to be a manager and has no raft id yet.
    Enrolling,
    /// It becomes a standby with one of the next changes.
    Joins,
    /// It holds a seat.
    Voter,
    /// A standby of which nothing arrives.
    Unreachable,
    /// A standby that has not been caught up for long enough.
    CatchesUp,
    /// A ready standby; a seat for it alone would make the number even.
    OneMoreNeeded,
    /// A ready standby; there are as many voters as are allowed.
    Full {
        /// The most voters.
        max: usize,
    },
    /// It takes this damaged voter's seat as soon as both majorities are alive.
    Replaces(RaftId),
    /// This change is proposed next.
    Next(SeatChange),
    /// Another change comes first: this one.
    After(SeatChange),
    /// A change is in flight.
    InFlight,
    /// It leads: another voter must lead before its seat goes.
    HandsOver,
    /// This manager takes its seat once it has caught up.
    WaitsFor(RaftId),
    /// A worker is promoted in its place.
    WaitsForWorker,
    /// It is lost, and nobody can take its seat.
    Lost,
    /// A majority is missing, nothing can be changed.
    NoQuorum {
        /// Voters reachable.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// The wish cannot be fulfilled as things are.
    Stuck(WishRefused),
}

/// What the planner does with `target` next, or waits for: for people to read. `RaftId(0)` is a node without one.
pub fn outlook(view: &SeatView, policy: &SeatPolicy, target: RaftId) -> Outlook {
    let seats = Seats::new(view, policy);
    if target == RaftId(0) {
        return Outlook::Enrolling;
    }
    let leaves = seats.manager(target).is_none_or(ManagerView::is_leaving);
    if !view.configuration.contains(target) {
        return if leaves { Outlook::NoManager } else { Outlook::Joins };
    }
    let is_voter = seats.is_voter(target);
    if !leaves && is_voter && seats.standing(target) == Standing::Keeps {
        return Outlook::Voter;
    }
    if !leaves && !is_voter {
        match seats.manager(target) {
            Some(manager) if !manager.connected => return Outlook::Unreachable,
            Some(manager) if !manager.is_ready() => return Outlook::CatchesUp,
            Some(_) | None => {}
        }
    }
    if view.pending || view.configuration.is_joint() {
        return Outlook::InFlight;
    }
    let alive = |id| seats.is_alive(id);
    if !Quorum::of(&view.configuration).is_alive(alive) {
        let (reachable, needed) = Quorum::of(&view.configuration).reach(alive);
        return Outlook::NoQuorum { reachable, needed };
    }
    match plan(view, policy) {
        Some(change) if !touches(&change, target) => Outlook::After(change),
        Some(_) if leaves && seats.manager(target).is_some_and(|manager| manager.leader) => Outlook::HandsOver,
        Some(change) => Outlook::Next(change),
        None if is_voter => waits_to_lose(&seats, view, target, leaves),
        None => waits_for_a_seat(&seats, view, policy, target),
    }
}

fn touches(change: &SeatChange, target: RaftId) -> bool {
    change.steps().iter().any(|step| {
        let (SeatStep::AddVoter(id) | SeatStep::AddLearner(id) | SeatStep::Remove(id)) = step;
        *id == target
    })
}

fn waits_to_lose(seats: &Seats<'_>, view: &SeatView, target: RaftId, leaves: bool) -> Outlook {
    if let Some(coming) = seats.coming().next() {
        return Outlook::WaitsFor(coming.raft_id);
    }
    if view.enrolling > 0 || view.volunteers(Short::Wish).next().is_some() {
        return Outlook::WaitsForWorker;
    }
    match view.configuration.voters.len() {
        _ if !leaves || seats.standing(target) == Standing::Gone => Outlook::Lost,
        1 => Outlook::Stuck(WishRefused::LastVoter { voter: target }),
        from => Outlook::Stuck(WishRefused::EndsFaultTolerance { from, to: from.saturating_sub(2) }),
    }
}

fn waits_for_a_seat(seats: &Seats<'_>, view: &SeatView, policy: &SeatPolicy, target: RaftId) -> Outlook {
    let replaces = seats.manager(target).and_then(|manager| manager.replaces);
    match replaces.filter(|old| seats.is_voter(*old)) {
        Some(old) => Outlook::Replaces(old),
        None if view.configuration.voters.len() + 2 > policy.max_voters() => Outlook::Full { max: policy.max_voters() },
        None => Outlook::OneMoreNeeded,
    }
}

impl Outlook {
    /// Whether nothing happens until somebody does something, or somebody else arrives.
    pub const fn waits_for_somebody(&self) -> bool {
        matches!(self, Self::WaitsFor(_) | Self::WaitsForWorker | Self::NoQuorum { .. } | Self::Stuck(_))
    }

    /// In words, with names for raft ids.
    pub fn text(&self, name: impl Fn(RaftId) -> String) -> String {
        let steps = |change: &SeatChange| {
            let words = |step: &SeatStep| match *step {
                SeatStep::AddVoter(id) => format!("{} gets a seat", name(id)),
                SeatStep::AddLearner(id) => format!("{} becomes a standby", name(id)),
                SeatStep::Remove(id) => format!("{} goes", name(id)),
            };
            change.steps().iter().map(words).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::NoManager => "no manager".to_owned(),
            Self::Enrolling => "waits until the node has asked for its raft id".to_owned(),
            Self::Joins => "becomes a standby with one of the next changes".to_owned(),
            Self::Voter => "voter".to_owned(),
            Self::Unreachable => "standby, not reachable from the leader".to_owned(),
            Self::CatchesUp => "standby, catching up".to_owned(),
            Self::OneMoreNeeded => "standby until one more manager joins".to_owned(),
            Self::Full { max } => {
                format!("standby: all {max} seats are taken; it gets the seat of a voter that is lost or leaves")
            }
            Self::Replaces(old) => {
                format!("takes the seat of its damaged store (raft id {old}) once a majority is alive")
            }
            Self::Next(change) => format!("next: {}", steps(change)),
            Self::After(change) => format!("waits for another change: {}", steps(change)),
            Self::InFlight => "waits for the change in flight".to_owned(),
            Self::HandsOver => "waits until another voter leads".to_owned(),
            Self::WaitsFor(id) => format!("waits until {} has caught up and takes the seat", name(*id)),
            Self::WaitsForWorker => "waits for a worker to be promoted, which takes the seat".to_owned(),
            Self::Lost => {
                "lost, and nobody can take its seat: join or promote a manager, or label a worker quorate.manager=yes"
                    .to_owned()
            }
            Self::NoQuorum { reachable, needed } => no_majority(*reachable, *needed),
            Self::Stuck(refused) => refused.waiting(),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(numbered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Configuration;

    const DEMOTE: Wish = Wish::Demote { forced: false };

    /// Ready managers: so many voters, the first of which leads, and standbys.
    fn cluster(voters: u64, standbys: u64) -> SeatView {
        let ready = |id| ManagerView {
            raft_id: RaftId(id),
            leader: id == 1,
            connected: true,
            caught_up: true,
            stable: true,
            ..ManagerView::default()
        };
        let configuration = Configuration {
            voters: (1..=voters).map(RaftId).collect(),
            learners: (voters + 1..=voters + standbys).map(RaftId).collect(),
            ..Configuration::default()
        };
        SeatView { configuration, managers: (1..=voters + standbys).map(ready).collect(), ..SeatView::default() }
    }

    #[test]
    fn that_a_cluster_bears_less_without_a_manager_is_known_before_it_goes() {
        let policy = SeatPolicy::new(5).unwrap();
        let told = |voters, standbys, target, wish| {
            weakens(&cluster(voters, standbys), &policy, RaftId(target), wish).map(|weakened| weakened.to_string())
        };
        let says = |told: Option<String>, words: &[&str]| {
            let told = told.expect("it bears less");
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
        };
        // Without its only standby, whether that goes itself or takes a seat;
        says(told(3, 1, 4, DEMOTE), &["no standby is left", "3 voters", "the loss of 1 at once", "as before"]);
        says(told(3, 1, 3, Wish::CutOff), &["no standby is left"]);
        says(told(1, 1, 2, DEMOTE), &["one voter and no standby", "one disk alone", "Join or promote"]);
        // with fewer voters;
        says(told(5, 0, 5, Wish::Remove { forced: false }), &["3 of 5 voters", "the loss of 1", "instead of 2"]);
        says(told(3, 0, 3, Wish::Demote { forced: true }), &["one voter is left", "recovers"]);
        // and not where there are others, nor where it is none of the standbys that would do.
        assert_eq!(told(5, 2, 7, DEMOTE), None);
        assert_eq!(told(3, 1, 9, DEMOTE), None);
        let mut silent = cluster(3, 1);
        silent.managers[3] = ManagerView { raft_id: RaftId(4), waiting_ticks: u64::MAX, ..ManagerView::default() };
        assert_eq!(weakens(&silent, &policy, RaftId(4), DEMOTE), None);
        // Asked again it is told again.
        let mut asked = cluster(3, 1);
        asked.managers[3].demoted = true;
        says(weakens(&asked, &policy, RaftId(4), DEMOTE).map(|weakened| weakened.to_string()), &["no standby"]);
    }

    #[test]
    fn a_refusal_calls_a_manager_by_the_name_that_people_know() {
        let refused = check(&cluster(1, 0), &SeatPolicy::new(5).unwrap(), RaftId(1), DEMOTE).unwrap_err();
        assert_eq!(refused, WishRefused::LastVoter { voter: RaftId(1) });
        assert!(refused.to_string().starts_with("manager 1 is the last voter"), "{refused}");
        assert!(refused.told(|id| format!("n{id}")).starts_with("n1 is the last voter"));
    }
}
