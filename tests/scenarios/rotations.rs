//! Rotations of the CA beside other things: clocks that differ, more nodes in other hands than rotations fit into each other, and
//! backups.

use std::sync::Arc;
use std::time::Duration;

use quorate::backup::{BackupKey, BackupSeal, KeyPair, verify};
use quorate::membership::Role;
use quorate::{Client, Identity, Start, StopReason};
use quorate_core::id::Lineage;
use quorate_transport::{Clock, ConnectError, Connection, Connector, Hello, JoinRequest, Network};

use crate::authorities::{ended, held, status, without_the_first_operator};
use crate::recovery::recovered;
use crate::support::{BUDGET, Cluster, eventually, says};

const HOUR: Duration = Duration::from_secs(3_600);

/// A member is started again with a clock that is so many seconds ahead, or behind.
async fn with_clock(cluster: &mut Cluster, index: usize, ahead: i64) {
    cluster.kill(index).await;
    let node = cluster.builder_of(index).clock_ahead(ahead).start(Start::Open).await.unwrap();
    cluster.members[index].node = Some(node);
    cluster.settled(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_a_length_of_time_whatever_the_clocks_of_managers_say() {
    // Given a worker that is off, and a manager whose clock is fifty minutes behind that of the leader
    let mut cluster = Cluster::of(3).await;
    without_the_first_operator(&cluster).await;
    cluster.worker("w1").await.shutdown().await;
    let leader = cluster.leader().await;
    let other = cluster.others(leader)[0];
    with_clock(&mut cluster, other, -3_000).await;
    // When a rotation begins there that has ten minutes
    let begun = cluster.node(other).client().ca().rotate(Duration::from_secs(600)).await.unwrap();
    assert!(begun.rotating && begun.deadline_in_s.is_some_and(|left| left > 500), "{begun:?}");
    eventually("the managers have renewed", || async { (status(&cluster).await.renewed >= 3).then_some(()) }).await;
    // Then a worker that is back within a moment is in time, though by the leader's clock it is not:
    let back = cluster.worker_again("w1").await;
    back.ready().await.unwrap();
    cluster.sees_worker("w1", "ready").await;
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    // it is of the new root.
    eventually("it has renewed", || async {
        (held(&cluster.path("w1")).ca_hash().to_string() == over.root).then_some(())
    })
    .await;
    back.shutdown().await;
    // When one begins where the clock is fifty minutes ahead, with ten seconds, and the worker is off again
    with_clock(&mut cluster, other, 3_000).await;
    cluster.node(other).client().ca().rotate(Duration::from_secs(10)).await.unwrap();
    // Then it is over in seconds, and not in fifty minutes.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (2, 1));
    cluster.stop().await;
}

/// With this identity, and never another one.
async fn comes_as(cluster: &Cluster, identity: &Arc<Identity>) -> Result<Connection, ConnectError> {
    let subject = identity.subject();
    let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), "test");
    Connector::connect(&cluster.addresses(), Arc::clone(identity), hello, BUDGET).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_who_is_waited_for_is_sent_away_until_it_renews_and_seen_when_it_has_though_it_asks_for_nothing() {
    // Given an operator's program that keeps its old certificate, as one whose renewals come to nothing
    let cluster = Cluster::founded().await;
    let identity = Arc::new(cluster.operator());
    let mut stands = comes_as(&cluster, &identity).await.unwrap();
    // When the CA is replaced, then it is sent away, and once more when it has come back and stays: it may try again.
    cluster.any().client().ca().rotate(HOUR).await.unwrap();
    for _ in 0..2 {
        let sent = tokio::time::timeout(BUDGET, stands.closed()).await.expect("it is sent away");
        says(&sent, &["is being replaced", "come back"]);
        stands = comes_as(&cluster, &identity).await.unwrap();
    }
    assert_eq!(status(&cluster).await.waits_for.len(), 1);
    // When it has renewed, and only stays connected, then it is seen by that, and nobody is waited for any more.
    let (clock, network, csr) = (Clock::default(), Network::default(), identity.key().csr().unwrap());
    let request = JoinRequest::renewal(csr, identity.subject().node_id, clock);
    let (managers, roots) = (cluster.addresses(), identity.trusted());
    let joined = quorate_transport::renew(&managers, &roots, request, BUDGET, clock, &network).await.unwrap();
    let authorities = std::iter::once(joined.ca_certificate).chain(joined.authorities).map(Into::into).collect();
    let renewed = Arc::new(identity.renewed_under(joined.certificate.into(), authorities).unwrap());
    let _quiet = comes_as(&cluster, &renewed).await.unwrap();
    ended(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_renewed_at_the_deadline_loses_the_connection_that_stands() {
    // Given an operator's program that keeps its old certificate, whatever it is shown
    let cluster = Cluster::founded().await;
    let identity = Arc::new(cluster.operator());
    let comes = async || comes_as(&cluster, &identity).await;
    let before = comes().await.unwrap();
    // When the CA is replaced, then it is sent away once, and taken again while both are trusted;
    cluster.any().client().ca().rotate(Duration::from_secs(10)).await.unwrap();
    let sent = tokio::time::timeout(BUDGET, before.closed()).await.expect("it is sent away");
    says(&sent, &["is being replaced", "come back"]);
    let again = comes().await.unwrap();
    // and when the deadline is over, what it has ends, and it is not taken any more.
    let over = ended(&cluster).await;
    assert_eq!((over.serial, over.trusted.len()), (1, 1));
    let cut = tokio::time::timeout(BUDGET, again.closed()).await.expect("it is cut off");
    says(&cut, &["of a CA that was replaced"]);
    comes().await.expect_err("nobody trusts the old root");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_nodes_are_thrown_out_within_one_deadline_each_of_them_is() {
    // Given a manager, workers that somebody else may be, and an operator who does not come by
    let mut cluster = Cluster::founded().await;
    let client = cluster.any().client();
    let token = client.tokens().show(Role::Worker).await.unwrap();
    for name in ["w1", "w2", "w3", "w4"] {
        cluster.builder(&cluster.path(name), name).join(&token, cluster.addresses()).await.unwrap();
    }
    let running = [cluster.worker("w5").await, cluster.worker("w6").await];
    // When as many are thrown out as rotations fit within each other, then each brings another root.
    for (serial, name) in (1..).zip(["w1", "w2", "w3", "w4"]) {
        assert!(client.nodes().remove_compromised(name, HOUR).await.unwrap().done);
        let info = status(&cluster).await;
        assert!(info.rotating && info.serial == serial && !info.another_follows, "{info:?}");
    }
    // When two more are, that are there
    for (name, taken) in ["w5", "w6"].into_iter().zip(running) {
        let token = client.tokens().show(Role::Worker).await.unwrap();
        let gone = client.nodes().remove_compromised(name, HOUR / 2).await.unwrap();
        // Then they are out as the others are, and what they knew lets nobody in;
        assert!(gone.done, "{gone:?}");
        assert_eq!(taken.stopped().await, StopReason::Removed);
        let refused = cluster.builder(&cluster.path("x"), "x").join(&token, cluster.addresses()).await.unwrap_err();
        says(&refused, &["rotated"]);
        // that another root follows is said, and those rotations are over when it was asked for.
        let info = status(&cluster).await;
        assert!(info.rotating && info.another_follows && info.serial == 4, "{info:?}");
        assert!(info.deadline_in_s.is_some_and(|left| left <= 1_800), "{info:?}");
    }
    // A rotation that anybody may ask for again is refused as before.
    says(&client.ca().rotate_anew(HOUR).await.unwrap_err(), &["within each other", "Nothing was changed"]);
    // When whoever leads has died since, and the operator comes by
    cluster.kill(0).await;
    cluster.restart(0).await;
    let before = status(&cluster).await;
    assert!(before.another_follows, "{before:?}");
    let outside = cluster.outside(&[0]).await;
    // Then those that were under way are over, and the one in line begins by itself, once.
    let begun = eventually("the one that stood in line has begun", || async {
        outside.kv().get("k").await.ok()?;
        let info = status(&cluster).await;
        (info.serial == 5).then_some(info)
    })
    .await;
    assert!(!begun.another_follows && begun.root != before.root, "{begun:?}");
    let over = eventually("it is over, too", || async {
        outside.kv().get("k").await.ok()?;
        let info = status(&cluster).await;
        (!info.rotating).then_some(info)
    })
    .await;
    assert_eq!((over.serial, over.trusted.len(), over.another_follows), (5, 1, false));
    let token = cluster.any().client().tokens().show(Role::Worker).await.unwrap();
    cluster.builder(&cluster.path("x"), "x").join(&token, cluster.addresses()).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_under_way_is_told_to_its_end_while_the_ca_is_replaced() {
    // Given more than travels unread, and somebody outside who has begun to take a backup of it
    let cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    for n in 0..80_u8 {
        client.kv().put(format!("v/{n}"), vec![n; 50_000]).await.unwrap();
    }
    let outside = cluster.outside(&[0, 1, 2]).await;
    let pair = KeyPair::generate();
    let seal = BackupSeal::recipients([pair.recipient()]).unwrap();
    let mut backup = outside.backup(&seal).await.unwrap();
    let (ca, mut bytes) = (backup.info().ca.clone(), Vec::new());
    bytes.extend(backup.next().await.unwrap().unwrap());
    // When the CA is replaced meanwhile, until nobody trusts the old one any more
    let begun = client.ca().rotate(HOUR).await.unwrap();
    eventually("only the operator is waited for", || async {
        let info = status(&cluster).await;
        (info.waits_for.len() == 1 && info.renewed == 3).then_some(())
    })
    .await;
    let over = eventually("the operator is back by the new root, and it is over", || async {
        outside.kv().get("k").await.ok()?;
        let info = status(&cluster).await;
        (!info.rotating).then_some(info)
    })
    .await;
    assert!(over.root == begun.root && over.root != ca && over.trusted.len() == 1, "{over:?}");
    // Then all of the backup is told, as of when it was begun.
    while let Some(more) = backup.next().await.unwrap() {
        bytes.extend(more);
    }
    let file = cluster.path("b");
    std::fs::write(&file, &bytes).unwrap();
    let contents = verify(&file, &BackupKey::from_text(&pair.to_text()).unwrap()).unwrap();
    assert_eq!((contents.keys, contents.info.ca), (80, ca));
    // The next one is by the new root, and of it.
    let next = outside.backup(&seal).await.unwrap().save(cluster.path("c"), false).await.unwrap();
    assert_eq!(next.ca, over.root);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_goes_back_to_before_a_rotation_keeps_those_who_had_renewed_for_it() {
    // Given a manager that is off when a rotation begins, for which everybody else renews: managers, a worker, and an operator
    let mut cluster = Cluster::of(3).await;
    let worker = cluster.worker("w1").await;
    let root = status(&cluster).await.root;
    let survivor = cluster.others(cluster.leader().await)[0];
    let (file, managers) = (cluster.path("renewed.id"), cluster.addresses());
    cluster.kill(survivor).await;
    cluster.any().client().ca().rotate(HOUR).await.unwrap();
    let operator = Client::connect(managers.clone(), cluster.operator()).await.unwrap();
    eventually("all but that one have renewed", || async {
        operator.kv().get("k").await.ok()?;
        (status(&cluster).await.waits_for.len() == 1).then_some(())
    })
    .await;
    operator.identity().unwrap().write(&file).unwrap();
    let roots =
        || [held(&cluster.path("w1")).ca_hash().to_string(), Identity::load(&file).unwrap().ca_hash().to_string()];
    assert!(roots().iter().all(|of| *of != root), "{:?}", roots());
    // When the others are lost, and the cluster goes on from that one, which has never heard of it
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    recovered(&mut cluster, survivor).await;
    assert_eq!(status(&cluster).await.root, root);
    // Then the worker comes to it by what both trust, and has a certificate of the root that signs there,
    eventually("it has renewed", || async { (held(&cluster.path("w1")).ca_hash().to_string() == root).then_some(()) })
        .await;
    cluster.sees_worker("w1", "ready").await;
    // so does the operator,
    let again = Client::connect(managers, Identity::load(&file).unwrap()).await.unwrap();
    again.kv().put("k", "v").await.unwrap();
    assert_eq!(again.identity().unwrap().ca_hash().to_string(), root);
    // and the next rotation waits for nobody in vain.
    let begun = cluster.any().client().ca().rotate(HOUR).await.unwrap();
    let over = eventually("it is over", || async {
        again.kv().get("k").await.ok()?;
        let info = status(&cluster).await;
        (!info.rotating).then_some(info)
    })
    .await;
    assert_eq!((over.root, over.trusted.len()), (begun.root, 1));
    worker.shutdown().await;
    cluster.stop().await;
}
