//! Scenarios of links, and of a leader that sleeps.

use super::{another_leads, at, grown, loaded, scripted};
use crate::sim::{Act, ELECTION, MILLIS, Report, Run, SimConfig, World};

pub(super) fn calm(seed: u64) -> Run<Report> {
    let members = if seed.is_multiple_of(2) { 3 } else { 5 };
    let config = SimConfig { duration: 600_000 * MILLIS, fault_every: 0, think: 300 * MILLIS, ..loaded(seed, members) };
    let mut world = World::new(config)?;
    world.be_silent();
    world.play()?;
    let report = world.report();
    world.expect(report.elections == 1, "a_calm_cluster_elects_once", || format!("{} elections", report.elections))?;
    Ok(report)
}

pub(super) fn leader_pause(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    for halves in [1, 4, 20, 200] {
        let Some(leader) = world.leader() else { continue };
        let sleeps = halves * ELECTION / 2;
        world.pause(leader, sleeps);
        world.run_for(sleeps + 3 * ELECTION)?;
        let leads = world.leader().is_some();
        world.expect(leads, "somebody_leads_after_a_pause", || format!("nobody leads after {halves} half timeouts"))?;
    }
    world.play_out()
}

pub(super) fn minority_leader(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(old) = world.leader() else { return world.play_out() };
    world.isolate(old);
    another_leads(&mut world, old, 5 * ELECTION)?;
    world.run_for(30_000 * MILLIS)?;
    let before = world.report();
    let leader = world.leader();
    world.heal();
    world.run_for(10 * ELECTION)?;
    let after = world.report();
    // Who was alone has not raised its term, and disturbs nobody.
    world.expect(after.elections == before.elections && world.leader() == leader, "no_storm_on_return", || {
        format!("{} elections when the isolated member came back", after.elections - before.elections)
    })?;
    world.play_out()
}

pub(super) fn rings(seed: u64) -> Run<Report> {
    let mut acts = Vec::new();
    for turn in 0..8_u64 {
        let links = (1..=5_u64).flat_map(|a| (1..=5_u64).map(move |b| (a, b))).filter(|(a, b)| match turn % 3 {
            0 => (*a <= 2) != (*b <= 2),
            1 => a != b && (a + 5 - b) % 5 > 2,
            _ => (a + turn) % 2 != (b + turn) % 2,
        });
        acts.push(at(4_000 + turn * 5_000, Act::Cut { links: links.collect(), lasts: 4_500 * MILLIS }));
    }
    scripted(loaded(seed, 5), acts)
}

pub(super) fn leader_mute(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let Some(old) = world.leader() else { return world.play_out() };
    let before = world.status(old).map_or(0, |status| status.term.0);
    for other in world.ids().into_iter().filter(|id| *id != old) {
        world.cut(old, other);
    }
    another_leads(&mut world, old, 5 * ELECTION)?;
    let term = world.leader().and_then(|leader| world.status(leader)).map_or(0, |status| status.term.0);
    world.expect(term <= before + 3, "no_term_jump", || format!("from term {before} to {term}"))?;
    world.play_out()
}

pub(super) fn lossy(seed: u64) -> Run<Report> {
    let config = SimConfig { loss: 300, duplicates: 500, delay_max: 100 * MILLIS, ..loaded(seed, 3) };
    scripted(SimConfig { duration: 60_000 * MILLIS, ..config }, Vec::new())
}

pub(super) fn swizzle(seed: u64) -> Run<Report> {
    let mut rng = quorate_core::testing::Rng::stream(seed, 40);
    let mut acts = Vec::new();
    for turn in 0..6_u64 {
        for id in 1..=5_u64 {
            if rng.chance(500) {
                let links = (1..=5).filter(|other| *other != id).flat_map(|other| [(id, other), (other, id)]).collect();
                let begins = 4_000 + turn * 6_000 + rng.between(0, 1_500);
                acts.push(at(begins, Act::Cut { links, lasts: rng.between(500, 4_000) * MILLIS }));
            }
        }
    }
    acts.sort_by_key(|timed| timed.at);
    scripted(loaded(seed, 5), acts)
}

pub(super) fn flap(seed: u64) -> Run<Report> {
    let mut world = grown(loaded(seed, 3))?;
    let leader = world.leader();
    let before = world.report().elections;
    let Some(flaps) = world.ids().into_iter().find(|id| Some(*id) != leader) else { return world.play_out() };
    for _ in 0..30 {
        world.isolate(flaps);
        world.run_for(1_000 * MILLIS)?;
        world.heal();
        world.run_for(1_000 * MILLIS)?;
    }
    let after = world.report().elections;
    world.expect(after == before && world.leader() == leader, "no_storm_on_return", || {
        format!("{} elections while a follower came and went", after - before)
    })?;
    world.play_out()
}
