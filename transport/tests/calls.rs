//! Many requests on one stream: what goes round, and what is told when it breaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use quorate_transport::*;
use support::*;

#[tokio::test]
async fn calls_go_round_many_at_once_short_ones_and_long_ones() {
    // Given a connection, when far more calls are under way than the other side serves at once,
    let cluster = TestCluster::new(1);
    let node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..5_000u32 {
        let connection = connection.clone();
        asked.spawn(async move {
            let length = 4 + usize::try_from(n % 700).unwrap();
            let body: Bytes = n.to_be_bytes().into_iter().cycle().take(length).collect::<Vec<_>>().into();
            // then each gets the answer to what it asked.
            assert_eq!(connection.call(body.clone(), PATIENCE).await, Ok(body));
        });
    }
    while let Some(ended) = within("answers", asked.join_next()).await {
        ended.unwrap();
    }
    // And one that is too long to keep others waiting goes its own way.
    let large = Bytes::from(vec![5; frame::REQUEST_BYTES_MAX]);
    assert!(connection.call(large.clone(), PATIENCE).await == Ok(large));
    let over = connection.call(vec![0; frame::REQUEST_BYTES_MAX + 1].into(), PATIENCE).await;
    assert!(matches!(over, Err(RequestError::NotSent(_))), "{over:?}");
}

#[tokio::test]
async fn answers_come_in_the_order_in_which_they_are_ready() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    // Given a call whose answer takes long, when another one is made after it, then that is answered first.
    let slow = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(Bytes::from_static(b"hold"), PATIENCE).await }
    });
    let (caller, body, reply) = node.held_request().await;
    assert_eq!((caller.plane, caller.role, &body[..]), (Plane::Client, CertRole::Operator, &b"hold"[..]));
    assert_eq!(connection.call(Bytes::from_static(b"quick"), PATIENCE).await.unwrap(), "quick");
    assert!(!slow.is_finished());
    reply.send(Bytes::from_static(b"at last"));
    assert_eq!(slow.await.unwrap().unwrap(), "at last");
}

#[tokio::test]
async fn a_short_call_does_not_wait_behind_a_longer_one_that_waits_for_room() {
    // Given room for one body only, which is taken, and another one that waits for it,
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.request_bytes = 8 * 1024;
    let mut node = setup.start();
    let connection = client(&cluster, &node).await;
    let body = |last: &[u8]| Bytes::from([&b"hold"[..], &vec![0; 8 * 1024], last].concat());
    let mut asked = Vec::new();
    for last in [&b"1"[..], b"2"] {
        let (connection, body) = (connection.clone(), body(last));
        asked.push(tokio::spawn(async move { connection.call(body, PATIENCE).await }));
    }
    let (_, first, reply) = node.held_request().await;
    // when a short one is made after both, then it is answered: the order of a lane is the order of sending.
    assert_eq!(connection.call(Bytes::from_static(b"quick"), PATIENCE).await.unwrap(), "quick");
    // And the one that waits comes once there is room.
    reply.send(Bytes::from_static(b"done"));
    let (_, second, reply) = node.held_request().await;
    assert_ne!(first, second);
    reply.send(Bytes::from_static(b"done"));
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap(), "done");
    }
}

#[tokio::test]
async fn a_call_without_an_answer_in_time_has_an_unknown_outcome_and_harms_no_other() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let asked = connection.call(Bytes::from_static(b"hold"), Duration::from_millis(50)).await;
    assert!(matches!(&asked, Err(error @ RequestError::Unknown(_)) if error.may_have_executed()), "{asked:?}");
    // Its answer comes when nobody waits any more, and goes to nobody.
    let (_, _, reply) = node.held_request().await;
    reply.send(Bytes::from_static(b"late"));
    assert_eq!(connection.call(Bytes::from_static(b"ok"), PATIENCE).await.unwrap(), "ok");
    // A handler that drops the reply says "unknown", at once.
    let asking = connection.call(Bytes::from_static(b"hold"), PATIENCE);
    let dropping = async { drop(node.held_request().await) };
    let (answer, ()) = within("an answer", async { tokio::join!(asking, dropping) }).await;
    assert!(matches!(&answer, Err(RequestError::Unknown(why)) if why.contains("no answer")), "{answer:?}");
}

#[tokio::test]
async fn calls_on_a_connection_that_is_cut_are_unknown_and_later_ones_not_sent() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let asking = connection.call(Bytes::from_static(b"hold"), PATIENCE);
    let cutting = async {
        let mut held = node.held_request().await;
        node.endpoint.close("cut").await;
        // Whoever works on it can tell that nobody waits any more.
        within("the handler learns of it", held.2.closed()).await;
    };
    let (answer, ()) = within("an answer", async { tokio::join!(asking, cutting) }).await;
    assert!(matches!(answer, Err(RequestError::Unknown(_))), "{answer:?}");
    within("the end", connection.closed()).await;
    let after = connection.call(Bytes::from_static(b"x"), PATIENCE).await;
    assert!(matches!(after, Err(RequestError::NotSent(_))), "{after:?}");
}

#[tokio::test]
async fn managers_call_each_other() {
    let cluster = TestCluster::new(2);
    let (one, two) = pair(&cluster).await;
    assert_eq!(one.peers.call(two.id, Bytes::from_static(b"hello"), PATIENCE).await.unwrap(), "hello");
    assert_eq!(two.peers.call(one.id, Bytes::from_static(b"back"), PATIENCE).await.unwrap(), "back");
}
