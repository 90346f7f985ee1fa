//! Rows about what is stored: memory after many puts, the start of a member that has much, and one that has to get it.
//!
//! Owns these stories; each begins with clusters of its own. Called by `main`.

use std::time::{Duration, Instant};

use etcd_client::GetOptions;
use quorate::{Client, Identity};
use serde_json::json;

use crate::figures::{Measured, median};
use crate::loads::{Amount, Sides};
use crate::machine::say;
use crate::managers::usage_of;
use crate::rows::{Kind, LoadRow};
use crate::{Options, Told, etcd, told};

/// Puts before memory is looked at.
const PUTS: u64 = 1_000_000;
/// Keys that a member starts with, or has to get.
const MANY: LoadRow = LoadRow { kind: Kind::Put, clients: 1, size: 256, keys: ("many/", 1_000_000) };
/// Bytes of their keys and values.
const MANY_BYTES: f64 = 1e6 * (5.0 + 8.0 + 256.0);
const STARTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);
/// Written last: who has it has everything.
const LAST: &str = "last";

/// Memory of the largest member after a million puts over 100,000 keys.
pub(crate) async fn memory(options: &Options) -> Told<Vec<Measured>> {
    let sides = Sides::start(options, 3).await?;
    let row = LoadRow { kind: Kind::Put, clients: 1_000, size: 256, keys: ("bench/", 100_000) };
    let all = |pids: Vec<u32>| pids.into_iter().map(|pid| usage_of(pid).mebibytes).collect::<Vec<_>>();
    sides.quorate(&row, Amount::Requests(PUTS)).await?;
    let ours = all(sides.managers.pids());
    sides.etcd(&row, Amount::Requests(PUTS)).await?;
    let theirs = all(sides.members.pids());
    say(&format!("memory after {PUTS} puts: managers {ours:.0?} MiB, etcd members {theirs:.0?} MiB"));
    let most = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let measured = Measured::new("memory", most(&ours), Some(most(&theirs)), "MiB");
    Ok(vec![measured.with("members_mib", json!({ "quorate": ours, "etcd": theirs }))])
}

/// From the start of a follower that has a million keys to its first linearizable answer.
pub(crate) async fn restart(options: &Options) -> Told<Vec<Measured>> {
    let mut sides = Sides::start(options, 3).await?;
    sides.fill(&MANY).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let leader = sides.client.status().await.map_err(told)?.leader.unwrap_or_default();
        let follower = sides.managers.names().find(|name| *name != leader).unwrap_or_default().to_owned();
        sides.managers.stop(&follower)?;
        let began = Instant::now();
        sides.managers.run(&follower)?;
        let alone = alone(&sides, &follower).await?;
        alone.kv().get("many/00000000").await.map_err(told)?.ok_or("a key is gone")?;
        ours.push(began.elapsed().as_secs_f64() * 1e3);

        let leader = sides.members.leader().await?;
        let follower = sides.members.names().into_iter().find(|name| *name != leader).unwrap_or_default();
        sides.members.stop(&follower)?;
        let began = Instant::now();
        sides.members.run(&follower).await?;
        theirs.push(began.elapsed().as_secs_f64() * 1e3);
        say(&format!(
            "start with a million keys: quorate {:.0} ms, etcd {:.0} ms",
            ours.last().unwrap_or(&0.0),
            theirs.last().unwrap_or(&0.0)
        ));
    }
    let middle = |times: &[f64]| median(times.iter().copied());
    let measured = Measured::new("restart with 1M keys", middle(&ours), Some(middle(&theirs)), "ms");
    Ok(vec![measured.with("times_ms", json!({ "quorate": ours, "etcd": theirs }))])
}

/// From the start of a new member to when it has a million keys.
pub(crate) async fn catch_up(options: &Options) -> Told<Vec<Measured>> {
    let mut sides = Sides::start(options, 3).await?;
    sides.fill(&MANY).await?;
    sides.client.kv().put(LAST, "1").await.map_err(told)?;
    sides
        .members
        .connections(1, crate::Targets::Leader)
        .await?
        .pop()
        .ok_or("no connection")?
        .put(LAST, "1", None)
        .await
        .map_err(told)?;
    let until = Instant::now() + PATIENCE;
    let late = || format!("a new member has not got everything after {} s", PATIENCE.as_secs());

    let new = sides.managers.prepare()?;
    let began = Instant::now();
    sides.managers.run(&new)?;
    let alone = alone(&sides, &new).await?;
    while alone.kv().one(LAST).serializable().await.map_err(told)?.entries.is_empty() {
        if Instant::now() > until {
            return Err(late());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ours = began.elapsed().as_secs_f64();

    let (began, url) = sides.members.grow().await?;
    loop {
        if let Ok(mut client) = etcd::connect(&url).await
            && client
                .get(LAST, Some(GetOptions::new().with_serializable()))
                .await
                .is_ok_and(|found| !found.kvs().is_empty())
        {
            break;
        }
        if Instant::now() > until {
            return Err(late());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let theirs = began.elapsed().as_secs_f64();
    say(&format!("a new member has a million keys after: quorate {ours:.2} s, etcd {theirs:.2} s"));
    let rate = |seconds: f64| MANY_BYTES / seconds / f64::from(1 << 20);
    let measured = Measured::new("catch-up with 1M keys", rate(ours), Some(rate(theirs)), "MiB/s");
    Ok(vec![measured.with("seconds", json!({ "quorate": ours, "etcd": theirs }))])
}

/// A client of this one manager.
async fn alone(sides: &Sides, name: &str) -> Told<Client> {
    let address = sides.managers.names().zip(sides.managers.addresses()).find(|(known, _)| *known == name);
    let (_, address) = address.ok_or("no such manager")?;
    let identity = Identity::load(&sides.managers.operator()).map_err(told)?;
    Client::connect([address], identity).await.map_err(told)
}
