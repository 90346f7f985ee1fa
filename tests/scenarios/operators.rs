//! Operators' identities: issued, renewed, taken back, and ended.

use std::time::{Duration, SystemTime};

use quorate::{Client, Error, Identity};

use crate::support::{Cluster, eventually, says};

/// Everybody who is connected by this identity, to each of the managers, with a watch open.
async fn connected(cluster: &Cluster, identity: &std::path::Path) -> Vec<(Client, quorate::Watch)> {
    let mut clients = Vec::new();
    for index in cluster.running() {
        let address = cluster.node(index).address().to_string();
        let client = Client::connect([address], Identity::load(identity).unwrap()).await.unwrap();
        let client = client.with_deadline(Duration::from_secs(2));
        let watch = client.kv().watch("k").await.unwrap();
        clients.push((client, watch));
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_taken_back_is_disconnected_from_every_manager_and_not_taken_again() {
    // Given an operator with connections to every manager
    let cluster = Cluster::of(3).await;
    let operators = cluster.any().client().operators();
    let made = operators.issue("ann").await.unwrap();
    let path = cluster.path("ann.id");
    made.identity.write(&path).unwrap();
    let mut clients = connected(&cluster, &path).await;
    for (client, _) in &clients {
        client.kv().put("a", "b").await.unwrap();
    }
    // Its name is taken for as long as it stands.
    let taken = operators.issue("ann").await.unwrap_err();
    says(&taken, &["ann", "already", "Nothing was changed"]);
    // When it is taken back
    let revoked = operators.revoke("ann").await.unwrap();
    assert!(!revoked.operator.stands && revoked.operator.revoked_unix > 0);
    assert_eq!((revoked.own, revoked.left), (false, 1), "another's, and one is left");
    // Then its watches end, and nothing that it asks is done, wherever it asks: it is told so
    for (client, watch) in &mut clients {
        let ended = tokio::time::timeout(crate::support::BUDGET, async {
            loop {
                if let Err(ended) = watch.next().await {
                    break ended;
                }
            }
        });
        let _ended: Error = ended.await.expect("the watch ends");
        // at once, and not only when its time is over.
        let patient = client.clone().with_deadline(crate::support::BUDGET * 2);
        let refused = tokio::time::timeout(crate::support::BUDGET, patient.kv().put("a", "c")).await.expect("at once");
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Denied(_)), "{refused}");
        says(&refused, &["revoked"]);
    }
    // and it gets no connection any more.
    for index in cluster.running() {
        let address = cluster.node(index).address().to_string();
        let refused = Client::connect([address], Identity::load(&path).unwrap()).await.unwrap_err();
        says(&refused, &["revoked"]);
    }
    assert_eq!(cluster.any().client().kv().get("a").await.unwrap().unwrap().value, "b");
    // It is listed as what it is, and another one may have its name.
    let list = operators.list().await.unwrap();
    assert_eq!(list.len(), 2);
    for operator in list {
        assert_eq!(operator.stands, operator.name == "operator");
    }
    let unknown = operators.revoke("ann").await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound(_)), "{unknown}");
    operators.issue("ann").await.unwrap();
    // The first one of all is one like others.
    operators.revoke("operator").await.unwrap();
    let address = cluster.any().address().to_string();
    says(&Client::connect([address], cluster.operator()).await.unwrap_err(), &["revoked"]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_itself_back_hears_that_it_is_done_also_when_the_leader_goes_in_between() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..4 {
        // Given an operator that is connected to every manager
        let name = format!("ann{round}");
        let made = cluster.any().client().operators().issue(&name).await.unwrap();
        let ann = Client::connect(cluster.addresses(), made.identity).await.unwrap();
        ann.kv().get("k").await.unwrap();
        let leader = cluster.leader().await;
        // When it takes itself back, and the leader dies a little later each time
        let (ann, its_name) = (ann.operators(), name.clone());
        let asked = tokio::spawn(async move { ann.revoke(&its_name).await });
        tokio::time::sleep(Duration::from_millis(5 * round)).await;
        cluster.kill(leader).await;
        // Then it is told that it is done, and it is.
        let revoked = asked.await.unwrap().unwrap();
        assert_eq!((revoked.own, revoked.left, revoked.operator.name.as_str()), (true, 1, name.as_str()));
        let list = cluster.any().client().operators().list().await.unwrap();
        assert!(list.iter().all(|operator| operator.stands == (operator.name == "operator")), "{list:?}");
        cluster.restart(leader).await;
        cluster.settled(3).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_with_a_time_ends_with_it_and_is_disconnected() {
    let cluster = Cluster::founded().await;
    let operators = cluster.any().client().operators();
    let made = operators.issue("visitor").ttl(Duration::from_secs(3)).await.unwrap();
    let address = cluster.any().address().to_string();
    let path = cluster.path("visitor.id");
    made.identity.write(&path).unwrap();
    let client = Client::connect([address.clone()], made.identity).await.unwrap();
    eventually("its time is over", || async { client.status().await.err() }).await;
    let over = operators.list().await.unwrap().into_iter().find(|operator| operator.name == "visitor").unwrap();
    assert!(!over.stands && over.revoked_unix == 0);
    // It is not renewed, either.
    let refused = Client::connect([address], Identity::load(&path).unwrap()).await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_) | Error::Unavailable(_)), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_half_over_or_has_run_out_is_renewed_for_as_long_as_the_record_stands() {
    // Given a cluster that was founded by a clock sixty days behind: half of the operator's certificate is over by now.
    const DAY: i64 = 86_400;
    let mut cluster = Cluster::empty();
    let directory = cluster.path("m1");
    let behind = cluster.builder(&directory, "m1").clock_ahead(-60 * DAY);
    behind.init().await.unwrap();
    let node = cluster.builder(&directory, "m1").start(quorate::Start::Open).await.unwrap();
    node.ready().await.unwrap();
    cluster.add(directory, node);
    let old = cluster.operator();
    let left = old.subject().not_after - SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(left < 31 * 86_400, "{left}");
    // When it is used
    let address = cluster.any().address().to_string();
    let client = Client::connect([address.clone()], cluster.operator()).await.unwrap();
    client.kv().put("k", "v").await.unwrap();
    // Then it shows another certificate for the same key, which holds for ninety days from now, and the record says so.
    let fresh = client.identity().unwrap();
    assert_eq!(fresh.subject().key_digest, old.subject().key_digest);
    assert!(fresh.subject().not_after > old.subject().not_after + 50 * 86_400);
    let info = &cluster.any().client().operators().list().await.unwrap()[0];
    assert_eq!(info.certificate_ends_unix, fresh.subject().not_after);
    // Once it is taken back it is renewed no more.
    cluster.any().client().operators().revoke("operator").await.unwrap();
    let refused = Client::connect([address], old).await.unwrap_err();
    says(&refused, &["revoked"]);
    cluster.stop().await;
}
