//! Scenarios of processes that die and stand still.

use std::time::Duration;

use super::super::mesh::Rule;
use super::super::nemesis::{CUT, around, every};
use super::super::world::World;
use super::super::{BUDGET, Done, Trouble, violation};

/// Of twenty rounds of the mixture.
const AWAY: u64 = 600;

/// Nothing is done: there must be one leadership, and no write whose outcome nobody knows.
pub(super) async fn calm(world: &mut World) -> Done {
    let before = world.observer.leaderships().len();
    while world.goes_on() {
        world.calm(Duration::from_secs(1)).await?;
    }
    let more = world.observer.leaderships().len().saturating_sub(before);
    let unknown = world.recorder.unknown();
    let what = format!("{more} elections and {unknown} unknown outcomes while nothing was done");
    match more > 0 || unknown > 0 {
        false => Ok(()),
        // A machine that stood still for an election is a fault that nobody ordered.
        true if world.stalled() => {
            Err(Trouble::Inconclusive(format!("{what}, and this machine stood still meanwhile")))
        }
        true => violation(what),
    }
}

/// One comes back, and then the next one goes.
pub(super) async fn leader_kills(world: &mut World) -> Done {
    while world.goes_on() {
        let victim = world.kill_leader().await?;
        world.a_while(0..3_000).await?;
        world.restart(victim)?;
        if world.dice.u8(0..4) == 0 {
            // In the middle of its start.
            world.a_while(0..600).await?;
            world.kill(&[victim]).await?;
            world.restart(victim)?;
        }
        world.fleet.ready(victim).await?;
        if world.dice.u8(0..4) == 0 {
            // The quorum hangs on how the first catches up.
            let other = world.follower().await?;
            let killed = world.now();
            world.kill(&[other]).await?;
            world.acknowledging(killed, "after another one was killed with the first just back").await?;
            world.back(other).await?;
        }
        world.gap().await?;
    }
    Ok(())
}

/// The leader stands still for longer and longer.
pub(super) async fn leader_pauses(world: &mut World) -> Done {
    let lengths = [0.5, 2.0, 4.0, 10.0];
    for length in lengths.into_iter().cycle() {
        if !world.goes_on() {
            return Ok(());
        }
        let leader = world.leader().await?;
        let paused = world.now();
        let time = world.election.mul_f64(length);
        world.recorder.begin_gap();
        world.pause(leader, time).await?;
        if length > 1.0 {
            let deposed = world.others(leader);
            world.acknowledging(paused, &format!("after the leader was paused for {time:?}")).await?;
            world.gaps.push(world.recorder.gap());
            world.timeline.note(format!("{} others went on while it stood", deposed.len()));
        }
        let now = world.now();
        world.acknowledging(now, "after the paused leader went on").await?;
        world.gap().await?;
    }
    Ok(())
}

/// All at once, and back together or one after the other.
pub(super) async fn all_killed(world: &mut World) -> Done {
    while world.goes_on() {
        let all = world.fleet.running();
        let now = world.now();
        world.acknowledging(now, "before all were to be killed").await?;
        let killed = world.now();
        world.kill(&all).await?;
        let together = world.dice.bool();
        for member in &all {
            world.restart(*member)?;
            if !together {
                world.a_while(0..2_000).await?;
            }
        }
        world.acknowledging(killed, "after all were killed and started again").await?;
        world.gap().await?;
    }
    Ok(())
}

/// One is away for longer than the log window, and is killed while it gets its snapshot.
pub(super) async fn snapshot_crashes(world: &mut World) -> Done {
    while world.goes_on() {
        let from = world.now();
        let (sent_before, _) = world.observer.snapshots();
        let victim = world.kill_leader().await?;
        let target = world.recorder.acknowledged() + AWAY;
        let until = std::time::Instant::now() + BUDGET;
        while world.recorder.acknowledged() < target && std::time::Instant::now() < until {
            world.calm(Duration::from_millis(100)).await?;
        }
        world.restart(victim)?;
        for _ in 0..world.dice.u8(1..4) {
            world.a_while(100..1_200).await?;
            world.kill(&[victim]).await?;
            world.restart(victim)?;
        }
        world.fleet.ready(victim).await?;
        world.caught_up(victim).await?;
        let (sent, installed) = world.observer.snapshots();
        if sent > sent_before {
            let proof = format!("{sent} snapshots sent and {installed} installed so far");
            world.timeline.fault("snapshot", &[victim], from, super::super::Effect::Installed(proof));
        }
        world.gap().await?;
    }
    Ok(())
}

/// Short deadlines and many kills: what is unknown is asked again elsewhere.
pub(super) async fn exactly_once(world: &mut World) -> Done {
    while world.goes_on() {
        let victim = world.kill_leader().await?;
        world.back(victim).await?;
        world.calm(Duration::from_millis(500)).await?;
    }
    Ok(())
}

/// Many clients, few keys, answers that never come.
pub(super) async fn contention(world: &mut World) -> Done {
    while world.goes_on() {
        let leader = world.leader().await?;
        let time = world.election.mul_f64(1.0 + world.dice.f64());
        world.pause(leader, time).await?;
        world.gap().await?;
    }
    Ok(())
}

/// Whatever this machine can, drawn.
pub(super) async fn mixture(world: &mut World) -> Done {
    let mut round = 0_u8;
    while world.goes_on() {
        let leader = world.leader().await?;
        let all = world.fleet.managers();
        let time = world.election.mul_f64(0.5 + 2.0 * world.dice.f64());
        // The first rounds are those that every machine can; the rest is drawn.
        let kind = if round < 4 { round } else { world.dice.u8(0..9) };
        round = round.saturating_add(1);
        let lossy = Rule { lost: 150, twice: 200, delay_ms: (0, 60), ..Rule::default() };
        match kind {
            0 => {
                let victim = world.kill_leader().await?;
                world.back(victim).await?;
            }
            1 => world.pause(leader, time).await?,
            2 => world.network("cut-leader", &[leader], &around(&[leader], &all), CUT, time * 2).await?,
            3 => world.network("lossy", &all, &every(&all), lossy, time * 2).await?,
            4 => {
                let victims = if world.dice.bool() { all.clone() } else { vec![leader] };
                let cut = world.now();
                world.power_cut(&victims).await?;
                for victim in
                    victims.iter().filter(|victim| !world.fleet.members[**victim].runs()).copied().collect::<Vec<_>>()
                {
                    world.restart(victim)?;
                }
                world.acknowledging(cut, "after the power was back").await?;
            }
            5 => world.stall(leader, time * 3).await?,
            6 => {
                let follower = world.follower().await?;
                world.network("follower-deaf", &[follower], &[(leader, follower)], CUT, time * 2).await?;
            }
            7 => {
                let killed = world.now();
                world.kill(&all).await?;
                for member in &all {
                    world.restart(*member)?;
                }
                world.acknowledging(killed, "after all were killed and started again").await?;
            }
            _ => world.rebind(leader).await?,
        }
        world.gap().await?;
    }
    Ok(())
}
