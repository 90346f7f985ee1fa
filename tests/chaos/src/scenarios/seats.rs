//! Scenarios of managers that come and go.

use super::{grown, loaded};
use crate::sim::{ELECTION, MILLIS, Report, Run, SimConfig, World};

/// Without a leader that has a lease for so long at most, while the one before hands over.
const HANDED_OVER_WITHIN: u64 = 2 * ELECTION;

pub(super) fn demote_leader(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 6))?;
    world.let_workers_enrol();
    let Some(old) = world.leader() else { return world.play_out() };
    // When the leader is demoted under load
    world.demote(old, false)?;
    let (mut led_at, mut gap) = (world.now(), 0);
    let gone = world.run_until(60_000 * MILLIS, |world| {
        if world.leader().is_some_and(|leader| world.has_lease(leader)) {
            led_at = world.now();
        }
        gap = gap.max(world.now() - led_at);
        world.leader_records().is_some_and(|records| records.removed.contains(&old))
    })?;
    // Then it is a manager no more, five others vote, and nobody led for a moment only
    world.expect(gone, "a_demoted_manager_is_burnt", || format!("{old} was to be demoted"))?;
    world.expect(gap <= HANDED_OVER_WITHIN, "leadership_is_handed_over", || {
        format!("nobody had a lease for {} ms", gap / MILLIS)
    })?;
    let (leader, seats) = (world.leader(), world.leader().and_then(|leader| world.status(leader)));
    let voters = seats.map_or(0, |status| status.configuration.voters.len());
    world.expect(leader != Some(old) && voters == 5, "as_many_voters_as_can_be", || {
        format!("{leader:?} leads {voters} voters")
    })?;
    world.play_out()
}

pub(super) fn removed_vote(seed: u64) -> Run<Report> {
    let config = SimConfig { max_voters: 3, watchers: 0, ..loaded(seed, 4) };
    let mut world = World::new(config)?;
    let seated = world.run_until(60_000 * MILLIS, |world| {
        let leader = world.leader().and_then(|leader| world.status(leader));
        leader.is_some_and(|status| status.configuration.voters.len() == 3 && status.configuration.learners.len() == 1)
    })?;
    world.expect(seated, "grows_to_all_its_voters", || "three voters and a standby".to_owned())?;
    world.run_for(5_000 * MILLIS)?;
    // Given a voter that was removed, and runs on
    let voters = |world: &World| {
        let status = world.leader().and_then(|leader| world.status(leader));
        status.map(|status| status.configuration.voters.clone()).unwrap_or_default()
    };
    let leader = world.leader();
    let Some(gone) = voters(&world).into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    world.remove(gone, false)?;
    let burnt = world.run_until(60_000 * MILLIS, |world| {
        world.leader_records().is_some_and(|records| records.removed.contains(&gone))
    })?;
    world.expect(burnt, "a_removed_manager_is_burnt", || format!("{gone} was to be removed"))?;
    world.run_for(2_000 * MILLIS)?;
    // When a voter is cut off with it, while the others write on
    let leader = world.leader();
    let Some(lonely) = voters(&world).into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    for other in world.ids().into_iter().filter(|id| *id != lonely && *id != gone) {
        for here in [lonely, gone] {
            world.cut(here, other);
            world.cut(other, here);
        }
    }
    world.run_for(20 * ELECTION)?;
    // Then it has not won: the invariants see to that
    world.heal();
    world.play_out()
}
