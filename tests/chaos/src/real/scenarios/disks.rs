//! Scenarios of disks that lose power, fill up, fail, are slow or gone.

use std::time::Duration;

use super::super::world::World;
use super::super::{Done, violation};

/// One, or all, and the writes that were not synced are gone.
pub(super) async fn power(world: &mut World) -> Done {
    while world.goes_on() {
        let all = world.fleet.running();
        let victims = match world.dice.u8(0..3) {
            0 => all,
            1 => vec![world.follower().await?],
            _ => vec![world.leader().await?],
        };
        let now = world.now();
        world.acknowledging(now, "before the power was to go").await?;
        let cut = world.now();
        world.power_cut(&victims).await?;
        for victim in &victims {
            if !world.fleet.members[*victim].runs() {
                world.restart(*victim)?;
            }
        }
        world.acknowledging(cut, "after the power was back").await?;
        for victim in &victims {
            world.fleet.ready(*victim).await?;
        }
        world.gap().await?;
    }
    Ok(())
}

/// Killed before the Nth write, sync, rename or removal, N drawn over and over.
pub(super) async fn crash_at_call(world: &mut World) -> Done {
    while world.goes_on() {
        let member = if world.dice.bool() { world.leader().await? } else { world.follower().await? };
        let at = world.dice.u64(1..=300);
        let crashed = world.now();
        if world.die_at(member, at).await? {
            world.acknowledging(crashed, &format!("after a crash before the {at}th change of a file")).await?;
            world.back(member).await?;
        }
        world.calm(Duration::from_millis(300)).await?;
    }
    Ok(())
}

/// A follower, then the leader: each stops or says that it is full, and is back with space.
pub(super) async fn full(world: &mut World) -> Done {
    let mut leads = false;
    while world.goes_on() {
        let member = if leads { world.leader().await? } else { world.follower().await? };
        leads = !leads;
        let began = world.now();
        let all_of_it = world.dice.bool() || !leads;
        world.fill(&[member], if all_of_it { 0 } else { 100 << 20 }).await?;
        world.calm(Duration::from_secs(6)).await?;
        world.acknowledging(began, "with one full disk of three").await?;
        let now = world.now();
        world.acknowledging(now, "with one full disk of three, and a while later").await?;
        world.empty(&[member]).await?;
        world.caught_up(member).await?;
        world.gap().await?;
    }
    Ok(())
}

/// The leader's disk fails a sync: it stops. With a sound disk it is back, with its store or, where that lost what had been synced, anew.
pub(super) async fn fsync_fails(world: &mut World) -> Done {
    while world.goes_on() {
        let leader = world.leader().await?;
        let began = world.now();
        world.recorder.begin_gap();
        world.fsync_fails(leader).await?;
        world.acknowledging(began, "after the leader's disk failed").await?;
        world.gaps.push(world.recorder.gap());
        if !world.fleet.members[leader].runs() {
            world.back_from_starving(leader).await?;
            // (One that came back anew has no seat yet: the next one may not fall before it has.)
            world.seated(world.setup.managers).await?;
            world.caught_up(leader).await?;
        }
        world.gap().await?;
    }
    Ok(())
}

/// Followers, then the leader: slower than usual is no reason for an election.
pub(super) async fn slow(world: &mut World) -> Done {
    let before = world.observer.leaderships().len();
    let mut delay = Duration::from_millis(50);
    while world.goes_on() {
        let follower = world.follower().await?;
        world.slow(follower, delay, Duration::from_secs(6)).await?;
        let leader = world.leader().await?;
        world.slow(leader, delay, Duration::from_secs(6)).await?;
        delay = (delay * 2).min(Duration::from_millis(500));
        let now = world.now();
        world.acknowledging(now, "after slow disks").await?;
    }
    let more = world.observer.leaderships().len().saturating_sub(before);
    let election = world.election;
    if more > 0 && !world.stalled() {
        return violation(format!(
            "{more} elections for disks that were slower than usual by less than half of {election:?}"
        ));
    }
    Ok(())
}

/// The store of a follower is gone.
pub(super) async fn wiped(world: &mut World) -> Done {
    while world.goes_on() {
        let follower = world.follower().await?;
        world.wipe(follower).await?;
        world.seated(world.setup.managers).await?;
        world.caught_up(follower).await?;
        world.gap().await?;
    }
    Ok(())
}

/// All disks lie, and then the power goes: whatever was acknowledged in between must be missed.
pub(super) async fn lies(world: &mut World) -> Done {
    let all = world.fleet.running();
    world.lie(&all, Duration::from_secs(4)).await?;
    world.power_cut(&all).await?;
    for member in &all {
        world.restart(*member)?;
    }
    Ok(())
}

/// A majority is lost: the survivor whose log is furthest goes on, with every acknowledged write.
pub(super) async fn recovery(world: &mut World) -> Done {
    while world.goes_on() {
        let all = world.fleet.running();
        let now = world.now();
        world.acknowledging(now, "before all were to be killed").await?;
        let killed = world.now();
        world.kill(&all).await?;
        let mut best = None;
        for member in &all {
            // (It says so also where it would refuse.)
            let said = world.fleet.tool(*member, &["recover", "--dry-run", "--json", "--timeout", "1s"]).await?;
            let report: serde_json::Value = serde_json::from_str(&said.unwrap_or_else(|why| why)).unwrap_or_default();
            let rank = (report["last_term"].as_u64(), report["last_index"].as_u64());
            if rank.0.is_none() {
                return violation(format!("recover --dry-run says {report}"));
            }
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, *member));
            }
        }
        let Some((_rank, survivor)) = best else { return Ok(()) };
        world.force_new_cluster(survivor).await?;
        world.seated(world.setup.managers).await?;
        world.acknowledging(killed, "after the recovery").await?;
        world.gap().await?;
    }
    Ok(())
}
