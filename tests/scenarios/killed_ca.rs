//! The replacement of the CA, with one of its nodes killed at each of the writes that it makes for it: it goes on to its end, and
//! everybody is trusted then, by nothing but what lies on the disks.

use std::path::Path;
use std::time::Duration;

use quorate::Client;
use quorate::keys::Keys;
use quorate::testing::node_identity;

use crate::authorities::without_the_first_operator;
use crate::killed::{Killing, Rotation, pristine};
use crate::support::Cluster;

/// One voter, which leads, a standby, and a worker: everybody shows another certificate, and nobody takes over from anybody.
const NAMES: [&str; 3] = ["m1", "m2", "w1"];

/// The CA is replaced; nobody is to join anew.
struct Ca {
    /// Name, node id and raft id of each node, before.
    nodes: Vec<(String, String, u64)>,
}

async fn nodes(client: &Client) -> Vec<(String, String, u64)> {
    let listed = client.nodes().list().await.unwrap().nodes;
    let mut nodes: Vec<_> = listed.into_iter().map(|node| (node.name, node.id, node.raft_id)).collect();
    nodes.sort();
    nodes
}

impl Rotation for Ca {
    async fn ask(&self, client: &Client) -> bool {
        client.ca().rotate(Duration::from_secs(3_600)).await.is_ok()
    }

    /// It is over when each of them has, and trusts, the root that signs, and no other.
    async fn done(&self, client: &Client, place: &Path) -> Option<u64> {
        let info = client.ca().status().await.ok()?;
        let rests = |name: &str| {
            let held = node_identity(&place.join(name), &Keys::default());
            held.is_ok_and(|held| held.authorities().count() == 1 && held.ca_hash().to_string() == info.root)
        };
        let over = !info.rotating && info.trusted == [info.root.clone()] && NAMES.iter().all(|name| rests(name));
        over.then_some(info.serial)
    }

    /// Everybody is who it was, and there: nobody has joined anew, which would have taken a token.
    async fn holds(&self, client: &Client) {
        assert_eq!(nodes(client).await, self.nodes);
        client.kv().put("k", "v").await.unwrap();
        crate::support::eventually("everybody is there", || async {
            let status = client.status().await.ok()?;
            let managers = status.managers.iter().all(|manager| manager.reachable && manager.lag == 0);
            let workers = status.workers.iter().all(|worker| worker.state.word() == "ready");
            (managers && workers && status.managers.len() == 2 && status.workers.len() == 1).then_some(())
        })
        .await;
    }
}

/// How often the victim was killed, and after how many of these the rotation had been begun.
async fn killed(victim: &str) -> (u64, u64) {
    let mut cluster = Cluster::of(2).await;
    without_the_first_operator(&cluster).await;
    let worker = cluster.worker("w1").await;
    cluster.sees_worker("w1", "ready").await;
    let nodes = nodes(&cluster.node(0).client()).await;
    cluster.add(cluster.path("w1"), worker);
    let pristine = pristine(&mut cluster, &NAMES).await;
    let killing = Killing { cluster: &cluster, pristine, names: &NAMES, victim, rotation: Ca { nodes } };
    let (points, begun) = killing.at_each_change().await;
    println!(
        "{victim} was killed at {points} writes, syncs and renames of a rotation of the CA; it went on after {begun}"
    );
    (points, begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_ca_killed_at_every_write_of_its_leader_goes_on_to_its_end_or_was_never_begun() {
    let (points, begun) = killed("m1").await;
    assert!(points > 20 && begun > 10 && begun < points, "{begun} of {points}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_ca_goes_on_to_its_end_wherever_a_standby_is_killed_that_renews_for_it() {
    let (points, begun) = killed("m2").await;
    assert!(points > 10 && begun == points, "{begun} of {points}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_the_ca_goes_on_to_its_end_wherever_a_worker_is_killed_that_renews_for_it() {
    let (points, begun) = killed("w1").await;
    assert!(points > 4 && begun == points, "{begun} of {points}");
}
