//! Kills in every combination, as many as are asked for.
//!
//! Owns the rounds. Each ends when a write that began after its last kill has been acknowledged, so that no kill is counted
//! that nobody noticed.

use std::time::{Duration, Instant};

use super::super::world::World;
use super::super::{BUDGET, Done, Effect, Trouble, violation};

/// Of two hundred kills at least seventy must hit the leader; more are aimed at.
const LEADERS_DEMANDED: (u64, u64) = (70, 200);
const LEADERS_WANTED: (u64, u64) = (85, 200);
/// How long the quorum is away: longer than the shorter deadlines of the clients.
const DARK: Duration = Duration::from_millis(2_500);
/// Operations acknowledged while one is away: enough entries to leave the log window behind.
const AWAY: u64 = 800;

/// Rounds until so many were killed, or the time is over.
pub(super) async fn all(world: &mut World) -> Done {
    let mut round = 0_u64;
    while world.goes_on() {
        round += 1;
        let (wanted, of) = LEADERS_WANTED;
        let behind = world.leaders_killed * of < (world.killed + 1) * wanted;
        // The rarer kinds come once each before anything is drawn: no run may miss one.
        let kind = match round {
            1 => 32,
            2 => 4,
            _ => world.dice.u8(0..100),
        };
        match kind {
            0..4 => all_at_once(world).await?,
            4..8 => pause(world).await?,
            8..12 => dark(world).await?,
            12..22 => again(world).await?,
            22..32 => second(world).await?,
            32..38 => away(world).await?,
            _ if behind => {
                let leader = world.kill_leader().await?;
                back(world, leader).await?;
            }
            _ => anybody(world).await?,
        }
        world.sound()?;
    }
    let (demanded, of) = LEADERS_DEMANDED;
    if world.kills.is_some() && world.leaders_killed * of < world.killed * demanded {
        let why = format!("only {} of {} kills hit the leader", world.leaders_killed, world.killed);
        return Err(Trouble::NotReached(why));
    }
    Ok(())
}

async fn back(world: &mut World, member: usize) -> Done {
    world.back(member).await?;
    let now = world.now();
    let when = format!("after {} was started again", world.fleet.members[member].name);
    world.acknowledging(now, &when).await
}

async fn anybody(world: &mut World) -> Done {
    let victim = world.dice.usize(..world.setup.managers);
    let killed = world.now();
    world.kill(&[victim]).await?;
    world.acknowledging(killed, "after one was killed").await?;
    back(world, victim).await
}

/// The one that just came back dies again in the middle of its start, its catching up or its snapshot.
async fn again(world: &mut World) -> Done {
    let victim = world.kill_leader().await?;
    world.restart(victim)?;
    world.a_while(0..400).await?;
    let killed = world.now();
    world.kill(&[victim]).await?;
    world.acknowledging(killed, "after one was killed in its start").await?;
    back(world, victim).await
}

/// Another one dies right after the first has come up: the quorum hangs on how the first catches up.
async fn second(world: &mut World) -> Done {
    let first = world.kill_leader().await?;
    world.back(first).await?;
    let others = world.others(first);
    let other = others[world.dice.usize(..others.len())];
    let killed = world.now();
    world.kill(&[other]).await?;
    world.acknowledging(killed, "after one was killed with another just back").await?;
    back(world, other).await
}

/// All at once, as when the power goes.
async fn all_at_once(world: &mut World) -> Done {
    let (all, now) = (world.fleet.running(), world.now());
    world.acknowledging(now, "before all were to be killed").await?;
    let killed = world.now();
    world.kill(&all).await?;
    for member in &all {
        world.restart(*member)?;
    }
    for member in &all {
        world.fleet.ready(*member).await?;
    }
    world.acknowledging(killed, "after all were killed and started again").await
}

/// The quorum is lost for longer than some clients wait: what those are told must be true afterwards too.
async fn dark(world: &mut World) -> Done {
    let now = world.now();
    world.acknowledging(now, "before the quorum was to be lost").await?;
    let leader = world.leader().await?;
    let others = world.others(leader);
    let mut victims = vec![leader, others[world.dice.usize(..others.len())]];
    let killed = world.now();
    world.kill(&victims).await?;
    world.leaders_killed += 1;
    world.calm(DARK).await?;
    // Whoever is back first has the quorum with the survivor.
    world.dice.shuffle(&mut victims);
    world.back(victims[0]).await?;
    world.acknowledging(killed, "after two of three were killed and one came back").await?;
    back(world, victims[1]).await
}

/// One is away for longer than the log window, and needs a snapshot; half of the time it dies in the middle of that.
async fn away(world: &mut World) -> Done {
    let (from, (sent_before, _)) = (world.now(), world.observer.snapshots());
    let victim = world.kill_leader().await?;
    let target = world.recorder.acknowledged() + AWAY;
    let until = Instant::now() + BUDGET;
    while world.recorder.acknowledged() < target {
        world.calm(Duration::from_millis(20)).await?;
        if Instant::now() > until {
            return violation(format!("those that were left did not acknowledge {AWAY} operations within {BUDGET:?}"));
        }
    }
    back(world, victim).await?;
    if world.dice.bool() {
        world.a_while(0..500).await?;
        let killed = world.now();
        world.kill(&[victim]).await?;
        world.acknowledging(killed, "after one was killed while it caught up").await?;
        back(world, victim).await?;
    }
    world.caught_up(victim).await?;
    world.calm(Duration::from_millis(300)).await?;
    let (sent, installed) = world.observer.snapshots();
    let proof = format!("{sent} sent and {installed} installed so far");
    let effect = if sent > sent_before { Effect::Installed(proof) } else { Effect::Indeterminate(proof) };
    world.timeline.fault("snapshot", &[victim], from, effect);
    Ok(())
}

/// The leader stands still for longer than an election takes, and wakes up deposed.
async fn pause(world: &mut World) -> Done {
    let (leader, paused) = (world.leader().await?, world.now());
    world.pause(leader, (world.election * 3).max(Duration::from_secs(2))).await?;
    world.acknowledging(paused, "after the leader was paused").await?;
    let now = world.now();
    world.acknowledging(now, "after the paused leader went on").await
}
