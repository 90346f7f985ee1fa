//! Scenarios of clocks, keys, overload, and networks and certificates that mean ill.

use std::time::Duration;

use quorate::{Client, Error, Identity};

use super::super::mesh::Rule;
use super::super::nemesis::every;
use super::super::world::World;
use super::super::{Done, Effect, harness, violation};

/// An hour there, and back, and a little before, on one manager after the other.
pub(super) async fn clocks(world: &mut World) -> Done {
    let before = world.observer.leaderships().len();
    while world.goes_on() {
        let member = world.fleet.running()[world.dice.usize(..world.fleet.running().len().max(1))];
        for seconds in [3_600, -3_600, 0] {
            let now = world.now();
            world.jump(member, seconds).await?;
            world.acknowledging(now, &format!("after a clock jumped to {seconds:+} s")).await?;
            world.calm(Duration::from_secs(2)).await?;
        }
        world.gap().await?;
    }
    let more = world.observer.leaderships().len().saturating_sub(before);
    if more > 2 && !world.stalled() {
        return violation(format!("{more} elections by wall clocks alone"));
    }
    Ok(())
}

/// The value that must never be found, and the key that must.
pub(in super::super) const CANARY: &str = "q7Zt9LwXe2Rk5Yb8Nc4Vm1Jd6Hs3Fg0P";
pub(in super::super) const CANARY_KEY: &str = "open/u3Kp8Wn5Tx2Qz7Ly4Bv9Mr6Gd1Jc0Hs";

/// Marked values on every way: writes, snapshots, restarts, the wire.
pub(super) async fn secrecy(world: &mut World) -> Done {
    world.mesh.capture();
    let from = world.now();
    let mut number = 0_u64;
    while world.goes_on() {
        number += 1;
        let client = world.any().await?;
        let value = format!("{CANARY}{number}");
        client.kv().put(CANARY_KEY, value).await.map_err(|why| super::super::Trouble::Harness(why.to_string()))?;
        let victim = world.follower().await?;
        world.kill(&[victim]).await?;
        let target = world.recorder.acknowledged() + world.setup.log_window * 2;
        while world.recorder.acknowledged() < target && world.goes_on() {
            world.calm(Duration::from_millis(200)).await?;
        }
        world.back(victim).await?;
        world.caught_up(victim).await?;
        world.gap().await?;
    }
    match world.mesh.captured() {
        Some(wire) if !wire.is_empty() => {
            let proof = format!("{} KiB of the wire, {number} marked values", wire.len() >> 10);
            if let Some(found) = super::super::scan::find(&wire, CANARY) {
                return violation(format!("a marked value went over the wire in clear, as {found}"));
            }
            world.timeline.fault("capture", &[], from, Effect::Installed(proof));
        }
        _ => world.skip("capture", &[], "nothing is on the way that could look; this needs --net proxy"),
    }
    Ok(())
}

/// Keys are rotated, again and again, and the manager is killed at a drawn moment of it.
pub(super) async fn rotation(world: &mut World) -> Done {
    while world.goes_on() {
        let member = world.follower().await?;
        let name = world.fleet.members[member].name.clone();
        let from = world.now();
        let program = world.fleet.members[member].program.clone();
        let directory = world.fleet.members[member].directory();
        let mut rotation = tokio::process::Command::new(&program)
            .args(["key", "rotate", "--data-dir"])
            .arg(&directory)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        tokio::time::sleep(Duration::from_millis(world.dice.u64(0..400))).await;
        world.kill(&[member]).await?;
        let ended = tokio::time::timeout(Duration::from_secs(30), rotation.wait()).await;
        let Ok(ended) = ended else { return harness("a rotation of keys hangs though its manager is gone") };
        world.back(member).await?;
        // Whatever it was in, a second one is done.
        match world.fleet.tool(member, &["key", "rotate"]).await? {
            Ok(_said) => {
                let proof = format!("killed in it ({}), and done by a second call", ended?);
                world.timeline.fault("rotate", &[member], from, Effect::Installed(proof));
            }
            Err(why) => return violation(format!("the keys of {name} cannot be rotated after a kill: {why}")),
        }
        world.caught_up(member).await?;
        world.gap().await?;
    }
    Ok(())
}

/// More than it can take, with a follower that is slow; and then it must be as fast as before.
pub(super) async fn overload(world: &mut World) -> Done {
    let rate = |before: u64, after: u64, time: Duration| (after - before) as f64 / time.as_secs_f64();
    let (from, asked, before) = (world.now(), world.recorder.asked(), world.recorder.acknowledged());
    let mut slowed = 0;
    while world.goes_on() {
        let follower = world.follower().await?;
        world.slow(follower, Duration::from_millis(200), Duration::from_secs(8)).await?;
        slowed += 1;
        let now = world.now();
        world.acknowledging(now, "under overload").await?;
    }
    let (asked, done) = (world.recorder.asked() - asked, world.recorder.acknowledged() - before);
    let time = Duration::from_nanos(world.now() - from);
    let proof =
        format!("{asked} asked and {done} done, {:.0} a second, a follower slow {slowed} times", rate(0, done, time));
    world.timeline.fault("overload", &[], from, Effect::Installed(proof));
    Ok(())
}

/// Ports change, large datagrams vanish, bytes are damaged, and somebody comes with another cluster's certificate.
pub(super) async fn quic(world: &mut World) -> Done {
    while world.goes_on() {
        let all = world.fleet.managers();
        for member in all.clone() {
            world.rebind(member).await?;
        }
        let now = world.now();
        world.acknowledging(now, "after ports changed").await?;
        let small = Rule { largest: 1_250, ..Rule::default() };
        world.network("black-hole", &all, &every(&all), small, Duration::from_secs(8)).await?;
        let damaged = Rule { corrupt: 10, ..Rule::default() };
        world.network("corruption", &all, &every(&all), damaged, Duration::from_secs(8)).await?;
        let now = world.now();
        world.acknowledging(now, "after damaged datagrams").await?;
        stranger(world).await?;
        world.gap().await?;
    }
    Ok(())
}

/// An operator of another cluster, with a certificate that is right there.
async fn stranger(world: &World) -> Done {
    let from = world.now();
    let directory = world.ground.path("stranger");
    let _old = std::fs::remove_dir_all(&directory);
    let program = &world.fleet.members[0].program;
    let path = directory.display().to_string();
    super::super::machine::must(program, ["init", "--listen", "127.0.0.1:0", "--data-dir", &path]).await?;
    let identity = match Identity::load(&directory.join("operator.id")) {
        Ok(identity) => identity,
        Err(why) => return harness(format!("the stranger's identity: {why}")),
    };
    let address = world.fleet.members[0].listen.to_string();
    match Client::connect_within([address], identity, Duration::from_secs(5)).await {
        Ok(client) => {
            let done = client.kv().put("stranger", "x").await;
            violation(format!("a certificate of another cluster was let in; its put: {done:?}"))
        }
        Err(Error::Denied(why) | Error::Unavailable(why)) => {
            world.timeline.fault("wrong-cluster", &[0], from, Effect::Installed(format!("refused: {why}")));
            Ok(())
        }
        Err(other) => violation(format!("a certificate of another cluster was answered with {other}")),
    }
}
