//! One manager becomes five and one again, with writers all the time and nodes that die every few moments.

use std::future::IntoFuture as _;
use std::time::Duration;

use quorate::membership::{NodeState, Seat};
use quorate::status::NodeRole;
use quorate::{Client, inspect_configurations};
use quorate_core::testing::Rng;

use crate::load::{Load, all_there};
use crate::recovery::odd_everywhere;
use crate::support::{BUDGET, Cluster, eventually, says};

/// How often it goes up and down; `make test-long` asks for more.
fn rounds() -> usize {
    std::env::var("QUORATE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// One manager, and as many workers as asked for, which count as members.
async fn one_and_workers(workers: usize) -> Cluster {
    let mut cluster = Cluster::founded().await;
    for number in 2..2 + workers {
        let node = cluster.worker(&format!("m{number}")).await;
        cluster.add(cluster.path(&format!("m{number}")), node);
    }
    cluster
}

async fn seat_of(client: &Client, name: &str) -> Option<Seat> {
    let list = client.nodes().list().await.ok()?;
    list.nodes.into_iter().find(|node| node.name == name).map(|node| node.seat)
}

/// Asks until the wish is recorded: whoever is asked may be dying.
async fn wished(client: &Client, name: &str, role: NodeRole, forced: bool) {
    eventually(&format!("{name} is to be a {}", role.word()), || async {
        let nodes = client.nodes();
        let wish = if role == NodeRole::Manager { nodes.promote(name) } else { nodes.demote(name) };
        let wish = if forced { wish.forced() } else { wish };
        wish.detached().await.ok()
    })
    .await;
}

/// Kills one member after the other until there are `voters` voters and the member is what it was asked to be.
async fn kills_until(
    cluster: &mut Cluster,
    client: &Client,
    dice: &mut Rng,
    member: usize,
    voters: usize,
    manager: bool,
) -> usize {
    let name = format!("m{}", member + 1);
    let until = tokio::time::Instant::now() + 4 * BUDGET;
    let mut kills = 0;
    loop {
        let victim = dice.index(cluster.members.len());
        tokio::time::sleep(Duration::from_millis(dice.between(0, 900))).await;
        cluster.kill(victim).await;
        kills += 1;
        tokio::time::sleep(Duration::from_millis(dice.between(0, 700))).await;
        cluster.restart(victim).await;
        for _ in 0..20 {
            let status = client.with_deadline(Duration::from_secs(2)).status().await;
            let seated = seat_of(&client.with_deadline(Duration::from_secs(2)), &name).await;
            let member = seated.is_some_and(|seat| matches!(seat, Seat::Voter | Seat::Standby));
            if member == manager && seated.is_some() && status.is_ok_and(|status| status.voters == voters) {
                return kills;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(tokio::time::Instant::now() < until, "not within {:?}: {name} and {voters} voters", 4 * BUDGET);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_becomes_five_and_one_again_under_load_while_nodes_are_killed() {
    let seed = u64::from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos());
    println!("dice {seed}");
    let mut dice = Rng::stream(seed, 0);
    // Given one manager, four workers, and writers.
    let mut cluster = one_and_workers(4).await;
    let client = cluster.outside(&[0, 1, 2, 3, 4]).await.with_deadline(BUDGET);
    let load = Load::start("load/", vec![client.with_deadline(BUDGET), client.with_deadline(Duration::from_secs(5))]);
    let mut kills = 0;
    for _ in 0..rounds() {
        // When one after the other is promoted, and demoted again, while now and then somebody dies.
        for (member, voters) in [(1, 1), (2, 3), (3, 3), (4, 5)] {
            wished(&client, &format!("m{}", member + 1), NodeRole::Manager, false).await;
            kills += kills_until(&mut cluster, &client, &mut dice, member, voters, true).await;
        }
        for (member, voters, forced) in [(4, 3, false), (3, 3, false), (2, 1, true), (1, 1, false)] {
            wished(&client, &format!("m{}", member + 1), NodeRole::Worker, forced).await;
            kills += kills_until(&mut cluster, &client, &mut dice, member, voters, false).await;
        }
    }
    // Then writes went on all the time, all of them are there, and every configuration was odd.
    let last = load.acknowledged();
    eventually("writes go on", || async { (load.acknowledged() > last + 20).then_some(()) }).await;
    let acknowledged = load.stop().await;
    println!("{kills} kills, {} writes acknowledged", acknowledged.len());
    all_there(&client, "load/", &acknowledged).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    let proof = inspect_configurations(&cluster.members[0].directory).unwrap();
    assert_eq!(proof.in_force.voters.len(), 1, "{:?}", proof.in_force);
    odd_everywhere(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_four_promotions_at_once_the_unreachable_one_holds_up_nobody() {
    // Given one manager and four workers, one of which was there, and is off.
    let mut cluster = one_and_workers(4).await;
    let client = cluster.node(0).client();
    eventually("m5 was seen", || async {
        let list = client.nodes().list().await.ok()?;
        list.nodes.iter().any(|node| node.name == "m5" && node.state == NodeState::Ready).then_some(())
    })
    .await;
    cluster.kill(4).await;
    // When all four are promoted at once
    let nodes = client.nodes();
    let names = ["m2", "m3", "m4", "m5"];
    let [a, b, c, d] = names.map(|name| nodes.promote(name).detached().into_future());
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    for wish in [a, b, c, d] {
        assert!(wish.unwrap().changed);
    }
    // then those that are there become managers: three voters and a standby,
    let status = eventually("four managers", || async {
        let status = client.status().await.unwrap();
        let seats = |seat: &str| status.managers.iter().filter(|manager| manager.seat == seat).count();
        (status.voters == 3 && seats("voter") == 3 && seats("standby") == 1).then_some(status)
    })
    .await;
    let absent = status.managers.iter().find(|manager| manager.name == "m5").unwrap();
    assert_eq!((absent.seat.as_str(), absent.raft_id), ("joining", 0), "{status:?}");
    let waiting = nodes.inspect("m5").await.unwrap();
    assert!(!waiting.settled && waiting.outlook.is_some(), "{waiting:?}");
    let outlook = eventually("what it waits for", || async {
        let outlook = nodes.inspect("m5").await.ok()?.outlook?;
        outlook.contains("m5 is down").then_some(outlook)
    })
    .await;
    says(&outlook, &["start it", "quorate node demote m5"]);
    // and the fifth once it is back, with the last two seats.
    cluster.restart(4).await;
    cluster.settled(5).await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
}
