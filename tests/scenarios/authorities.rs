//! The cluster's CA: replaced while everything goes on, with nodes away, over the death of leaders, and refused requests to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::membership::{CaInfo, Role};
use quorate::{Client, Identity, Node, Start, StartError, StopReason};
use tokio::task::JoinHandle;

use crate::support::{Cluster, eventually, says};

const DAY: Duration = Duration::from_secs(86_400);

pub fn held(directory: &Path) -> Identity {
    quorate::testing::node_identity(directory, &quorate::keys::Keys::default()).expect("an identity")
}

/// The roots that an identity trusts, and cross certificates, counted.
fn authorities(identity: &Identity) -> usize {
    identity.authorities().count()
}

pub async fn status(cluster: &Cluster) -> CaInfo {
    cluster.any().client().ca().status().await.unwrap()
}

pub async fn ended(cluster: &Cluster) -> CaInfo {
    let until = tokio::time::Instant::now() + crate::support::BUDGET;
    loop {
        let info = status(cluster).await;
        if !info.rotating {
            return info;
        }
        assert!(tokio::time::Instant::now() < until, "the rotation does not end: {info:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Writes until it is stopped, and says how often.
async fn writes(client: Client, key: &'static str, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        client.kv().put(key, count.to_string()).await.expect("it is written whatever becomes of the CA");
        count += 1;
    }
    count
}

/// Watches what is written until it is stopped.
async fn watches(client: Client, key: &'static str, stop: Arc<AtomicBool>) -> u64 {
    let mut watch = client.kv().watch(key).await.unwrap();
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(told) = tokio::time::timeout(Duration::from_millis(50), watch.next()).await {
            told.expect("it is watched whatever becomes of the CA");
            count += 1;
        }
    }
    count
}

/// Comes with another connection each time, until it is stopped, and keeps its identity as the command line does.
async fn comes(managers: Vec<String>, identity: Identity, stop: Arc<AtomicBool>) -> u64 {
    let (mut count, mut pem) = (0_u64, identity.to_pem());
    while !stop.load(Ordering::Relaxed) {
        let identity = Identity::from_pem(pem.as_bytes(), Path::new("comer")).unwrap();
        let client = Client::connect(managers.clone(), identity).await.expect("nobody who means well is refused");
        pem = client.identity().unwrap().to_pem();
        client.kv().get("inside").await.expect("it is read whatever becomes of the CA");
        count += 1;
    }
    count
}

/// Who works all the time, and is never refused: within a manager; from outside over a connection that stands, with a watch; and
/// from outside with another connection each time.
async fn load(cluster: &Cluster, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let (inner, managers) = (cluster.any().client(), cluster.addresses());
    let standing = inner.operators().issue("standing").await.unwrap().identity;
    let comer = inner.operators().issue("comer").await.unwrap().identity;
    let standing = Client::connect(managers.clone(), standing).await.unwrap();
    vec![
        tokio::spawn(writes(inner, "inside", Arc::clone(stop))),
        tokio::spawn(writes(standing.clone(), "outside", Arc::clone(stop))),
        tokio::spawn(watches(standing, "inside", Arc::clone(stop))),
        tokio::spawn(comes(managers, comer, Arc::clone(stop))),
    ]
}

/// The operator that founding made is used by nobody here: it would be waited for.
pub async fn without_the_first_operator(cluster: &Cluster) {
    cluster.any().client().operators().revoke("operator").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_is_replaced_while_everything_goes_on_and_ends_when_all_have_renewed() {
    // Given three managers, two workers, an operator, and somebody who writes all the time.
    let cluster = Cluster::of(3).await;
    let workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    let file = cluster.members[0].directory.join("operator.id");
    let before = Identity::load(&file).unwrap();
    let old_token = cluster.token().await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = load(&cluster, &stop).await;
    // When the CA is replaced
    let first = status(&cluster).await;
    assert!(!first.rotating && first.serial == 0 && first.trusted == [first.root.clone()]);
    let begun = cluster.any().client().ca().rotate(Duration::from_secs(3_600)).await.unwrap();
    assert!(begun.rotating && begun.root != first.root && begun.serial == 1, "{begun:?}");
    assert_eq!((begun.all, begun.trusted.len()), (8, 2));
    // Then all nodes renew by themselves, and the operator, who has not come by, is waited for.
    let waiting = eventually("only the operator is waited for", || async {
        let info = status(&cluster).await;
        (info.renewed == 7).then_some(info)
    })
    .await;
    assert_eq!(waiting.waits_for.iter().map(|waits| waits.name.as_str()).collect::<Vec<_>>(), ["operator"]);
    // Tokens of both roots let nodes in meanwhile.
    let new_token = cluster.token().await;
    assert_ne!(old_token, new_token);
    let address = vec![cluster.any().address().to_string()];
    for (name, token) in [("old", &old_token), ("new", &new_token)] {
        let directory = cluster.path(name);
        cluster.builder(&directory, name).join(token, address.clone()).await.unwrap();
        assert_eq!(authorities(&held(&directory)), 3, "both roots, and the way from one to the other");
        cluster.any().client().nodes().remove(name).forced().await.unwrap();
    }
    // When the operator comes by with the certificate of the old root, it is given one of the new,
    let operator = Client::connect(address.clone(), cluster.operator()).await.unwrap();
    let renewed = operator.identity().unwrap();
    assert_ne!(renewed.subject().issuer, before.subject().issuer);
    renewed.write(&file).unwrap();
    // (It counts once it is shown, which the connection may have done by now.)
    operator.kv().get("k").await.unwrap();
    // And it is over: nothing of the old root is trusted any more, anywhere.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted), (1, vec![over.root.clone()]));
    let directories: Vec<_> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    for directory in directories.iter().chain(&[cluster.path("w1"), cluster.path("w2")]) {
        eventually("only the new root is trusted", || async {
            let held = held(directory);
            (authorities(&held) == 1 && held.subject().issuer != before.subject().issuer).then_some(())
        })
        .await;
    }
    let late = Client::connect(address.clone(), before).await.unwrap_err();
    says(&late, &["CA"]);
    let refused = cluster.builder(&cluster.path("late"), "late").join(&old_token, address.clone()).await.unwrap_err();
    says(&refused, &["CA"]);
    cluster.builder(&cluster.path("in-time"), "in-time").join(&new_token, address).await.unwrap();
    // And all the while everybody was there.
    stop.store(true, Ordering::Relaxed);
    for worked in load {
        assert!(worked.await.unwrap() > 0);
    }
    let outside = cluster.outside(&[0, 1, 2]).await;
    outside.kv().put("k", "v").await.unwrap();
    assert_eq!(authorities(&outside.identity().unwrap()), 1, "it does not trust the old root for long, either");
    for name in ["w1", "w2"] {
        cluster.sees_worker(name, "ready").await;
    }
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_back_in_time_renews_and_one_that_is_not_joins_anew() {
    // Given a manager and two workers that are off
    let mut cluster = Cluster::of(3).await;
    let token_of_then = cluster.any().client().tokens().show(Role::Worker).await.unwrap();
    let workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    for worker in workers {
        worker.shutdown().await;
    }
    without_the_first_operator(&cluster).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    cluster.kill(away).await;
    // When the CA is replaced meanwhile
    cluster.any().client().ca().rotate(Duration::from_secs(3_600)).await.unwrap();
    eventually("those who are there have renewed", || async { (status(&cluster).await.renewed == 2).then_some(()) })
        .await;
    // Then whoever comes back finds the way, and renews: the manager, and a worker,
    cluster.restart(away).await;
    let back = cluster.worker_again("w1").await;
    back.ready().await.unwrap();
    let waiting = eventually("one is waited for", || async {
        let info = status(&cluster).await;
        (info.waits_for.len() == 1).then_some(info)
    })
    .await;
    assert_eq!(waiting.waits_for[0].name, "w2");
    // and the leader may die, and all managers at once: the next one goes on where it was.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    cluster.restart(leader).await;
    cluster.settled(3).await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        let node = cluster.builder_of_as_recorded(index).start(Start::Open).await.unwrap();
        cluster.members[index].node = Some(node);
    }
    cluster.settled(3).await;
    assert!(status(&cluster).await.rotating);
    // When its deadline comes without the other one (another rotation within this one brings one that is near)
    cluster.any().client().ca().rotate_anew(Duration::from_secs(10)).await.unwrap();
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (2, 1));
    // Then that one is not taken any more
    let late = cluster.worker_again("w2").await;
    let trouble = eventually("it has no session, and says why", || async {
        let report = late.report_of_itself();
        report.trouble.contains("CA").then_some(report.trouble)
    })
    .await;
    assert!(!trouble.is_empty());
    let id = late.id();
    late.shutdown().await;
    // until a token says which CA is the new one: it is who it was.
    let token = cluster.any().client().tokens().show(Role::Worker).await.unwrap();
    let boot = Start::OpenOrJoin { token: token.clone(), managers: cluster.addresses() };
    let refused = cluster.builder(&cluster.path("w2"), "").start(boot).await.unwrap_err();
    says(&refused, &["of another one", "join --replace --token"]);
    let back_again = cluster.builder(&cluster.path("w2"), "").replace(&token, cluster.addresses()).await.unwrap();
    assert_eq!(back_again.node_id, id);
    let again = cluster.worker_again("w2").await;
    again.ready().await.unwrap();
    cluster.sees_worker("w2", "ready").await;
    // The one that was in time is there, also when it is started with the token of then.
    cluster.sees_worker("w1", "ready").await;
    back.shutdown().await;
    let boot = Start::OpenOrJoin { token: token_of_then, managers: cluster.addresses() };
    let back = cluster.builder(&cluster.path("w1"), "").start(boot).await.unwrap();
    back.ready().await.unwrap();
    again.shutdown().await;
    back.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_makes_no_sense_and_rotations_without_an_end_are_refused() {
    let cluster = Cluster::founded().await;
    let ca = cluster.any().client().ca();
    for too_near in [Duration::ZERO, Duration::from_secs(9)] {
        for refused in [ca.rotate(too_near).await, ca.rotate_anew(too_near).await] {
            let refused = refused.unwrap_err();
            let limit = refused.limit().unwrap_or_else(|| panic!("{refused:?}"));
            assert_eq!((limit.name.as_str(), limit.bound, limit.actual), ("ROTATION_S_MIN", 10, too_near.as_secs()));
            says(&refused, &["10 s at least", "Nothing was changed"]);
        }
    }
    says(&ca.rotate(DAY * 366).await.unwrap_err(), &["365 days", "Nothing was changed"]);
    assert_eq!(status(&cluster).await.serial, 0);
    // While one is under way no other is begun, unless that is asked for.
    let first = ca.rotate(DAY).await.unwrap();
    assert_eq!((first.serial, first.begun), (1, true));
    let again = ca.rotate(Duration::from_secs(3_600)).await.unwrap();
    assert_eq!((again.serial, again.rotating, again.begun, again.root), (1, true, false, first.root));
    assert!(again.deadline_in_s > Some(80_000), "its deadline stays: {:?}", again.deadline_in_s);
    for serial in 2..=4 {
        let another = ca.rotate_anew(Duration::from_secs(3_600)).await.unwrap();
        assert_eq!((another.serial, another.begun), (serial, true));
    }
    says(&ca.rotate_anew(Duration::from_secs(3_600)).await.unwrap_err(), &["within each other", "ca status"]);
    // All of it ends with the last one, once the operator has come by.
    cluster.outside(&[0]).await.kv().get("k").await.unwrap();
    assert_eq!(ended(&cluster).await.trusted.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_token_of_a_role_that_was_rotated_lets_nobody_in_again() {
    // Given a worker that has joined with a token for one
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let made = tokens.create(Role::Worker).await.unwrap();
    let managers = cluster.addresses();
    let join = |name: &'static str| cluster.builder(&cluster.path(name), name).join(&made.token, managers.clone());
    join("w1").await.unwrap();
    // When somebody comes with the same token, it is used up.
    let refused = join("w2").await.unwrap_err();
    assert!(matches!(refused, StartError::Refused(_)), "{refused}");
    says(&refused, &["used up"]);
    // A standing one that was rotated is worth nothing, in whatever case it is written.
    let old = tokens.show(Role::Worker).await.unwrap();
    tokens.rotate(Role::Worker).await.unwrap();
    let refused = cluster.builder(&cluster.path("w3"), "w3").join(&old, managers.clone()).await.unwrap_err();
    says(&refused, &["rotated"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_other_hands_is_thrown_out_with_everything_that_it_knew() {
    // Given three managers and two workers, and somebody who has copied the identity of one
    let cluster = Cluster::of(3).await;
    let (taken, safe) = (cluster.worker("w1").await, cluster.worker("w2").await);
    without_the_first_operator(&cluster).await;
    let client = cluster.any().client();
    let tokens = [
        client.tokens().show(Role::Worker).await.unwrap(),
        cluster.token().await,
        client.tokens().create(Role::Worker).uses(0).await.unwrap().token,
    ];
    let stolen = held(&cluster.path("w1"));
    // When the worker is thrown out, though it is there
    let gone = client.nodes().remove_compromised("w1", Duration::from_secs(3_600)).await.unwrap();
    assert!(gone.done, "{gone:?}");
    // Then neither it nor who has copied it gets in,
    assert_eq!(taken.stopped().await, StopReason::Removed);
    let address = cluster.any().address().to_string();
    Client::connect([address.clone()], stolen).await.unwrap_err();
    // no token that there was lets anybody in,
    for token in &tokens {
        cluster.builder(&cluster.path("x"), "x").join(token, vec![address.clone()]).await.unwrap_err();
    }
    // and the root is another one, which everybody else has come to.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    cluster.sees_worker("w2", "ready").await;
    client.kv().put("k", "v").await.unwrap();
    let token = client.tokens().show(Role::Worker).await.unwrap();
    cluster.builder(&cluster.path("w3"), "w3").join(&token, vec![address]).await.unwrap();
    safe.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_was_away_all_the_time_comes_back_with_a_token_and_keeps_what_it_has() {
    // Given three managers of which one is off while the CA is replaced, until the old root is trusted by nobody
    let mut cluster = Cluster::of(3).await;
    without_the_first_operator(&cluster).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    let name = cluster.node(away).name();
    let listed = cluster.any().client().nodes().list().await.unwrap().nodes;
    let raft_id = listed.iter().find(|node| node.name == name).unwrap().raft_id;
    let old_token = cluster.token().await;
    cluster.kill(away).await;
    cluster.any().client().kv().put("k", "v").await.unwrap();
    cluster.any().client().ca().rotate(Duration::from_secs(10)).await.unwrap();
    assert_eq!(ended(&cluster).await.trusted.len(), 1);
    // When it comes back, then nobody takes it, and it takes nobody: it harms nothing,
    cluster.restart(away).await;
    let before = held(&cluster.members[away].directory).subject().issuer;
    cluster.node(leader).client().kv().put("k", "w").await.unwrap();
    assert!(cluster.node(away).client().kv().get("k").deadline(Duration::from_secs(2)).await.is_err());
    cluster.kill(away).await;
    // nor does a token of the old root help.
    let directory = cluster.members[away].directory.clone();
    let managers = cluster.addresses();
    let replace = async |token: &str| Node::builder(&directory).replace(token, managers.clone()).await;
    says(&replace(&old_token).await.unwrap_err(), &["CA", "nothing was changed"]);
    // With one of the new root it is who it was, with all that it has,
    let prepared = replace(&cluster.token().await).await.unwrap();
    assert_eq!((prepared.raft_id, prepared.certificate_only), (raft_id, true));
    assert!(directory.join("store").is_dir() && !directory.join("store.old-1").exists());
    assert_ne!(held(&directory).subject().issuer, before);
    // and takes its seat.
    cluster.restart(away).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    assert_eq!(cluster.node(away).client().kv().get("k").await.unwrap().unwrap().value, "w");
    // A second time there is nothing to do.
    cluster.kill(away).await;
    let refused = Node::builder(&directory).replace(&cluster.token().await, cluster.addresses()).await.unwrap_err();
    says(&refused, &["counts on it"]);
    cluster.restart(away).await;
    cluster.settled(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_whoever_dies_between_its_steps() {
    let mut cluster = Cluster::of(3).await;
    without_the_first_operator(&cluster).await;
    let worker = cluster.worker("w1").await;
    // Given a rotation that has just been acknowledged, or that one, two or three of the four have followed, or that is over
    for reached in 0..=4 {
        let before = status(&cluster).await;
        let leader = cluster.leader().await;
        let watched = cluster.node(leader).client();
        let begun = watched.ca().rotate(Duration::from_secs(3_600)).await.unwrap();
        let mut info = begun;
        while info.renewed < reached && info.rotating {
            info = watched.ca().status().await.unwrap();
        }
        // When the leader dies there, without a word
        cluster.kill(leader).await;
        cluster.restart(leader).await;
        // Then the next one goes on where it was, and it ends, once.
        let over = ended(&cluster).await;
        assert_eq!((over.serial, over.trusted.len()), (before.serial + 1, 1));
        assert_ne!(over.root, before.root);
        cluster.settled(3).await;
        let directories = cluster.members.iter().map(|member| member.directory.clone());
        for directory in directories.chain([cluster.path("w1")]) {
            eventually("everybody has and trusts the new root alone", || async {
                let held = held(&directory);
                (authorities(&held) == 1 && held.ca_hash().to_string() == over.root).then_some(())
            })
            .await;
        }
        cluster.sees_worker("w1", "ready").await;
        cluster.any().client().kv().put("k", reached.to_string()).await.unwrap();
    }
    cluster.agrees().await;
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_in_other_hands_is_thrown_out_with_the_keys_that_it_had() {
    // Given four managers, a secret, and somebody who has copied the directory of one
    let mut cluster = Cluster::of(4).await;
    without_the_first_operator(&cluster).await;
    let leader = cluster.leader().await;
    let (taken, third) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    // While the cluster has no majority without it, nothing is done at all.
    cluster.kill(third).await;
    cluster.kill(3).await;
    let asked = cluster.node(leader).client().nodes().remove_compromised(cluster.node(taken).name(), DAY).await;
    says(&asked.unwrap_err(), &["cut off at once", "Nothing was changed"]);
    assert_eq!(status(&cluster).await.serial, 0);
    cluster.restart(third).await;
    cluster.restart(3).await;
    cluster.settled(3).await;
    let (name, directory) = (cluster.node(taken).name(), cluster.members[taken].directory.clone());
    let client = cluster.node(leader).client();
    client.secrets().create("db", "hunter2").await.unwrap();
    let (keyring, token) = (client.keyring().show().await.unwrap(), cluster.token().await);
    let stolen = held(&directory);
    // When it is thrown out, though it is there and has a seat
    client.nodes().remove_compromised(&name, Duration::from_secs(3_600)).await.unwrap();
    // Then it stops, it is gone from the list,
    assert_eq!(cluster.node(taken).stopped().await, StopReason::Removed);
    cluster.members[taken].node = None;
    eventually("it is listed no more", || async {
        let nodes = client.nodes().list().await.ok()?;
        nodes.nodes.iter().all(|node| node.name != name).then_some(())
    })
    .await;
    // it has no copy of any key, and everything is sealed with another one that it never had,
    let now = eventually("the keyring has one other key", || async {
        let now = client.keyring().show().await.ok()?;
        (now.active > keyring.active && now.keys.len() == 1 && !now.due).then_some(now)
    })
    .await;
    assert!(now.keys.iter().all(|key| !key.managers.contains(&name)), "{now:?}");
    assert!(now.lacking.is_empty(), "{now:?}");
    assert_eq!(client.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
    // the root is another one that everybody else has,
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    // and neither its certificate, nor the token that it knew, nor its directory lets anybody in at any manager.
    for address in cluster.addresses() {
        Client::connect([address.clone()], Identity::from_pem(stolen.to_pem().as_bytes(), &directory).unwrap())
            .await
            .unwrap_err();
        let refused = cluster.builder(&cluster.path("x"), "x").join(&token, vec![address]).await.unwrap_err();
        says(&refused, &["CA"]);
    }
    let again = cluster.builder_of_as_recorded(taken).start(Start::Open).await.unwrap();
    assert!(again.client().kv().get("k").deadline(Duration::from_secs(2)).await.is_err());
    again.shutdown().await;
    // The others go on, and take in whoever comes with a token of now.
    cluster.settled(3).await;
    client.kv().put("k", "v").await.unwrap();
    cluster.join().await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_in_other_hands_is_thrown_out_as_any_other() {
    // Given a leader that somebody else may be
    let mut cluster = Cluster::of(4).await;
    without_the_first_operator(&cluster).await;
    let taken = cluster.leader().await;
    let (name, other) = (cluster.node(taken).name(), cluster.others(taken)[0]);
    let client = cluster.node(other).client();
    // When it is thrown out, asked through another one
    client.nodes().remove_compromised(&name, Duration::from_secs(3_600)).detached().await.unwrap();
    // Then it stops, and another one leads and finishes all of it.
    assert_eq!(cluster.node(taken).stopped().await, StopReason::Removed);
    cluster.members[taken].node = None;
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    eventually("the keyring has one key, which it never had", || async {
        let now = client.keyring().show().await.ok()?;
        (now.active > 1 && now.keys.len() == 1 && now.keys.iter().all(|key| !key.managers.contains(&name)))
            .then_some(())
    })
    .await;
    cluster.settled(3).await;
    client.kv().put("k", "v").await.unwrap();
    cluster.stop().await;
}
