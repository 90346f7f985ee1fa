//! Scenarios of networks that are cut, lossy, one-way and flapping.

use std::time::{Duration, Instant};

use super::super::mesh::Rule;
use super::super::nemesis::{CUT, around, bridge, every, ring};
use super::super::world::World;
use super::super::{Done, violation};

/// The leader and its clients on one side, the majority on the other.
pub(super) async fn minority_leader(world: &mut World) -> Done {
    while world.goes_on() {
        let (leader, all) = (world.leader().await?, world.fleet.managers());
        world.recorder.begin_gap();
        let cut = world.now();
        let hurt = world.hurt(&around(&[leader], &all), CUT).await?;
        world.acknowledging(cut, "after the leader was cut off").await?;
        world.gaps.push(world.recorder.gap());
        // Beyond an election it may say nothing that needs a quorum.
        world.calm(world.election * 2).await?;
        let alone = world.fleet.client(&[leader]).await?.with_deadline(Duration::from_secs(2));
        let refused = alone.kv().put("alone", "x").await;
        let read = alone.kv().get("counter").await;
        world.mend("cut-leader", &[leader], hurt).await?;
        if refused.is_ok() || read.is_ok() {
            return violation(format!("cut off from the majority it answered: put {refused:?}, get {read:?}"));
        }
        let now = world.now();
        world.acknowledging(now, "after the cut was healed").await?;
        world.gap().await?;
    }
    Ok(())
}

/// Halves, a ring, a bridge, in turn.
pub(super) async fn rings_and_halves(world: &mut World) -> Done {
    let all = world.fleet.managers();
    let mut order = all.clone();
    for shape in ["cut-halves", "cut-ring", "cut-bridge"].into_iter().cycle() {
        if !world.goes_on() {
            return Ok(());
        }
        world.dice.shuffle(&mut order);
        let links = match shape {
            "cut-halves" => around(order.get(..2).unwrap_or_default(), &all),
            "cut-ring" => ring(&order),
            _ => bridge(&order),
        };
        let cut = world.now();
        let hurt = world.hurt(&links, CUT).await?;
        world.calm(Duration::from_secs(2)).await?;
        let went_on = world.acknowledging(cut, &format!("with the links of a {shape}")).await;
        world.calm(Duration::from_secs(3)).await?;
        world.mend(shape, &order, hurt).await?;
        went_on?;
        world.gap().await?;
    }
    Ok(())
}

/// It receives, and nothing that it sends arrives.
pub(super) async fn leader_mute(world: &mut World) -> Done {
    while world.goes_on() {
        let (leader, term) = (world.leader().await?, world.term().await?);
        let links: Vec<_> = world.others(leader).into_iter().map(|other| (leader, other)).collect();
        world.recorder.begin_gap();
        let cut = world.now();
        let hurt = world.hurt(&links, CUT).await?;
        world.calm(world.election).await?;
        let went_on = world.acknowledging(cut, "after the leader became mute").await;
        world.gaps.push(world.recorder.gap());
        world.mend("leader-mute", &[leader], hurt).await?;
        went_on?;
        let jumped = world.term().await?.saturating_sub(term);
        if jumped > 10 {
            return violation(format!("the term jumped by {jumped} while one manager was mute"));
        }
        world.gap().await?;
    }
    Ok(())
}

/// A bad line, all the time.
pub(super) async fn lossy(world: &mut World) -> Done {
    let all = world.fleet.managers();
    let bad = Rule { lost: 300, twice: 500, delay_ms: (0, 100), ..Rule::default() };
    while world.goes_on() {
        world.network("lossy", &all, &every(&all), bad, Duration::from_secs(15)).await?;
        let now = world.now();
        world.acknowledging(now, "after the line was good again").await?;
        world.gap().await?;
    }
    Ok(())
}

/// Links of a drawn part stop one by one, and come back in another order.
pub(super) async fn swizzle(world: &mut World) -> Done {
    let all = world.fleet.managers();
    while world.goes_on() {
        let mut some = all.clone();
        world.dice.shuffle(&mut some);
        some.truncate(world.dice.usize(1..=all.len().div_ceil(2)));
        let mut links: Vec<(usize, usize)> = some.iter().flat_map(|one| around(&[*one], &all)).collect();
        links.sort_unstable();
        links.dedup();
        let began = world.now();
        let mut last = None;
        for count in 1..=some.len() {
            let now: Vec<_> = some.iter().take(count).flat_map(|one| around(&[*one], &all)).collect();
            last = Some(world.hurt(&now, CUT).await?);
            world.a_while(100..800).await?;
        }
        world.dice.shuffle(&mut some);
        world.calm(Duration::from_secs(2)).await?;
        if let Some(hurt) = last {
            world.mend("swizzle", &some, hurt).await?;
        }
        for count in (1..some.len()).rev() {
            let now: Vec<_> = some.iter().take(count).flat_map(|one| around(&[*one], &all)).collect();
            let hurt = world.hurt(&now, CUT).await?;
            world.a_while(100..800).await?;
            world.mend("swizzle-back", &some, hurt).await?;
        }
        world.acknowledging(began, "after a swizzle").await?;
        world.gap().await?;
    }
    Ok(())
}

/// A follower comes and goes: nobody else may notice.
pub(super) async fn flap(world: &mut World) -> Done {
    let (follower, all) = (world.follower().await?, world.fleet.managers());
    let before = world.observer.leaderships().len();
    while world.goes_on() {
        let second = Duration::from_secs(1);
        world.network("flap", &[follower], &around(&[follower], &all), CUT, second).await?;
        let up = Instant::now();
        world.calm(second.saturating_sub(up.elapsed())).await?;
    }
    world.calm(world.election).await?;
    let more = world.observer.leaderships().len().saturating_sub(before);
    if more > 0 && !world.stalled() {
        return violation(format!("{more} leader changes while a follower flapped"));
    }
    Ok(())
}
