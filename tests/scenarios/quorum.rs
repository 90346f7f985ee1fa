//! The quorum lost and regained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use quorate::status::Health;
use quorate::{Client, Error, Outcome};
use quorate_core::txn::{Put, Txn};
use quorate_transport::api;

use crate::support::{BUDGET, Cluster, eventually, raw, says};

/// Three managers of which only one runs, with `n/0..n/20` acknowledged before.
async fn one_of_three() -> (Cluster, usize, Vec<String>) {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    for number in 0..20 {
        client.kv().put(format!("n/{number}"), "x").await.unwrap();
    }
    cluster.agrees().await;
    let left = (cluster.leader().await + 1) % 3;
    let addresses = cluster.addresses();
    let survivor = cluster.node(left).client();
    eventually("the survivor knows how old its state is", || async {
        survivor.kv().prefix("n/").serializable().await.unwrap().age
    })
    .await;
    for gone in cluster.others(left) {
        cluster.kill(gone).await;
    }
    (cluster, left, addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_named_and_regained() {
    let (mut cluster, left, addresses) = one_of_three().await;
    let client = cluster.outside(&[left]).await;
    // Then `status` still answers, and names who is missing and what to do.
    let status = eventually("the survivor knows that the quorum is lost", || async {
        let status = client.status().await.unwrap();
        (status.health == Health::QuorumLost && status.leader.is_none()).then_some(status)
    })
    .await;
    assert_eq!(status.fault_tolerance, -1);
    let advice = status.advice.join("\n");
    for gone in (0..3).filter(|index| *index != left) {
        says(&advice, &[&format!("m{}", gone + 1)]);
    }
    says(&advice, &["start", "nothing acknowledged is lost"]);
    // Once it is known, a caller with all the patience in the world is told at once by the manager.
    let connection = raw(&cluster, left).await;
    eventually("callers are told at once", || async {
        let began = Instant::now();
        let body = write(1, "raw", "x");
        let answer = connection.request(body.into(), Duration::from_secs(30)).await.unwrap();
        let answer = api::Response::decode(answer).unwrap().kind.unwrap();
        let api::response::Kind::Error(error) = answer else { panic!("a write without a quorum was answered") };
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(!error.message.is_empty());
        (error.code() == api::Code::QuorumLost).then_some(())
    })
    .await;
    // And the library's caller, long before its own deadline, with what is missing; for a linearizable read as well.
    let patient = client.with_deadline(BUDGET * 10);
    let told =
        tokio::time::timeout(BUDGET, async { (patient.kv().put("k", "v").await, patient.kv().get("n/0").await) });
    let (written, read) = told.await.expect("both are told at once");
    let refused = written.unwrap_err();
    let Error::QuorumLost { missing, message } = &refused else { panic!("{refused}") };
    let gone: Vec<String> = (0..3).filter(|index| *index != left).map(|index| format!("m{}", index + 1)).collect();
    assert_eq!(missing, &gone);
    assert!(message.contains(&format!("not heard from: {}", gone.join(", "))), "{message}");
    assert_eq!(refused.outcome(), Outcome::NotDone);
    assert!(refused.is_retryable());
    let refused = read.unwrap_err();
    assert!(matches!(refused, Error::QuorumLost { .. }), "{refused}");
    // So it is for one who knows all managers, of whom two cannot be reached, and on the node itself.
    let all = Client::connect(addresses, cluster.operator()).await.unwrap().with_deadline(BUDGET * 10);
    let inside = cluster.node(left).client().with_deadline(BUDGET * 10);
    let told = tokio::time::timeout(BUDGET, async { (all.kv().put("k", "v").await, inside.kv().put("k", "v").await) });
    let (outside, inside) = told.await.expect("both are told at once");
    for refused in [outside.unwrap_err(), inside.unwrap_err()] {
        assert!(matches!(refused, Error::QuorumLost { .. }), "{refused}");
    }
    // A serializable read answers and says how old it may be.
    let hasty = client.with_deadline(Duration::from_millis(500));
    let stale = client.kv().prefix("n/").serializable().await.unwrap();
    assert_eq!(stale.entries.len(), 20);
    let quorum_lost_for = Duration::from_millis(client.status().await.unwrap().leaderless_ms);
    let older = client.kv().prefix("n/").serializable().await.unwrap().age.expect("it had a quorum once");
    assert!(stale.age.is_some_and(|age| age <= older) && older >= quorum_lost_for, "{stale:?} {quorum_lost_for:?}");
    // And nobody who asks for a hand-over or a token waits for ever.
    hasty.transfer_leadership(None).await.unwrap_err();
    hasty.join_token("manager").await.unwrap_err();

    // When one of the others is back, writes go on, and nothing acknowledged is missing.
    let gone = (left + 1) % 3;
    cluster.restart(gone).await;
    cluster.settled(3).await;
    client.with_deadline(BUDGET).kv().put("k", "v").await.unwrap();
    assert_eq!(client.kv().prefix("n/").all().await.unwrap().len(), 20);
    eventually("the survivor knows again how things stand", || async {
        let page = client.kv().prefix("n/").serializable().await.unwrap();
        page.age.is_some_and(|age| age < older).then_some(())
    })
    .await;
    assert_eq!(client.kv().prefix("n/").await.unwrap().age, Some(Duration::ZERO), "linearizable: as of now");
    // What was refused was not done.
    let found = client.kv().get("k").await.unwrap().unwrap();
    assert_eq!(found.version, 1);
    assert_eq!(client.kv().get("raw").await.unwrap(), None);
    cluster.restart((left + 2) % 3).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_sent_again_until_the_quorum_was_back_is_done_once() {
    let (mut cluster, left, _) = one_of_three().await;
    // Given a patient writer that does what the error says: it sends the same write again while there is no quorum.
    let client = cluster.outside(&[left]).await;
    let writing = tokio::spawn(async move {
        eventually("the write is done", || async {
            match client.kv().put("patient", "v").await {
                Ok(done) => Some(done),
                Err(error) if error.is_retryable() && error.outcome() == Outcome::NotDone => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    });
    // When the quorum is back.
    cluster.restart((left + 1) % 3).await;
    // Then it is done, and once.
    writing.await.unwrap();
    let found = cluster.node(left).client().kv().get("patient").await.unwrap().unwrap();
    assert_eq!(found.version, 1);
    cluster.stop().await;
}

/// A write as it goes over the wire.
fn write(sequence: u64, key: &'static str, value: &'static str) -> Vec<u8> {
    let txn = Txn::of(Put { key: key.into(), value: value.into(), ..Put::default() });
    let request = quorate_core::command::Request {
        client: Arc::<[u8]>::from([9; 16]).to_vec().into(),
        sequence,
        low_water: 1,
        txn: Some(txn),
        ..quorate_core::command::Request::default()
    };
    let kind = api::request::Kind::Write(api::Write { request: request.encode_to_vec().into(), reads: false });
    api::Request { deadline_ms: 30_000, kind: Some(kind) }.encode_to_vec()
}
