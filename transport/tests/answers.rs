//! Who does not take its answers: what it costs, and how it ends. And requests, calls and their answers that end half-way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use frame::FrameKind;
use quorate_transport::*;
use support::raw::{Raw, answering_by_hand, greeted_by_hand};
use support::*;

const MIB: usize = 1024 * 1024;
/// What the first byte of a stream says, and how a stream ends whose answer was not read.
const REQUEST: u8 = 0x14;
const CALLS: u8 = 0x16;
const UNREAD: u64 = 5;

/// One request on a stream of its own, by hand.
async fn asked(connection: &quinn::Connection, body: &[u8]) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&[REQUEST], &frame::encode(FrameKind::Request, body).unwrap()[..]].concat()).await.unwrap();
    (send, receive)
}

async fn reset_code(receive: &mut quinn::RecvStream) -> Option<u64> {
    within("the stream ends", receive.received_reset()).await.unwrap().map(quinn::VarInt::into_inner)
}

/// A client that does not read: its QUIC takes little more than a mebibyte of an answer.
async fn reads_nothing(cluster: &TestCluster, node: &TestNode) -> (Raw, quinn::Connection) {
    greeted_by_hand(cluster, node, Plane::Client).await
}

async fn answer_bytes_are(node: &TestNode, bytes: usize) {
    within("what answers take", async {
        while node.peers.answer_bytes() != bytes {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_and_has_held_no_more_than_its_room() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    // Given a node with room for 8 MiB of answers on one connection
    setup.options.answer_bytes_each = 8 * MIB;
    setup.options.answer_deadline = Duration::from_millis(300);
    let mut node = setup.start();
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    // and a client that asks for four answers of 4 MiB, and reads none,
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(asked(&connection, b"hold").await);
        let (_, _, mut reply) = node.held_request().await;
        tokio::spawn(async move {
            if reply.fits(4 * MIB).await {
                reply.send(vec![7; 4 * MIB].into());
            }
        });
    }
    // when others ask meanwhile, then they are answered, and what it holds stays within its room:
    let other = client(&cluster, &node).await;
    while node.peers.answers_cut() < 2 {
        assert!(node.peers.answer_bytes() <= (8 + 2) * MIB, "{} bytes", node.peers.answer_bytes());
        let body = Bytes::from(vec![1; MIB]);
        assert!(other.request(body.clone(), PATIENCE).await == Ok(body));
    }
    // each is cut when its time is up, which makes room for the next,
    for (_, receive) in &mut streams {
        assert_eq!(reset_code(receive).await, Some(UNREAD));
    }
    assert_eq!(node.peers.answers_cut(), 4);
    // and nothing is left of it. The connection itself is as good as before.
    answer_bytes_are(&node, 0).await;
    let (_send, mut receive) = asked(&connection, b"small").await;
    let answer = frame::read_kind(&mut receive, FrameKind::Response, MIB).await.unwrap();
    assert_eq!(answer, "small");
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_whole_answer_and_holds_up_nobody() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.answer_bytes_each = 4 * MIB;
    setup.options.answer_deadline = PATIENCE;
    let mut node = setup.start();
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    // Given an answer that takes all the room of its connection, and one behind it that finds none
    let (_send, mut first) = asked(&connection, b"hold").await;
    let (_, _, mut reply) = node.held_request().await;
    assert!(reply.fits(4 * MIB).await);
    reply.send(vec![7; 4 * MIB].into());
    let (_send, mut second) = asked(&connection, b"hold").await;
    let (_, _, mut reply) = node.held_request().await;
    assert!(!reply.place().take_now(MIB));
    let waiting = tokio::spawn(async move {
        assert!(reply.fits(MIB).await);
        reply.send(vec![8; MIB].into());
    });
    // when it is read piece by piece, with questions of others between,
    let other = client(&cluster, &node).await;
    let mut read = 0;
    while let Some(chunk) = within("a piece", first.read_chunk(64 * 1024, true)).await.unwrap() {
        assert!(!waiting.is_finished() || read > 0);
        read += chunk.bytes.len();
        assert_eq!(other.request(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
    }
    // then all of it comes, and after it the other one; nobody was cut.
    assert_eq!(read, frame::HEADER_BYTES + 4 * MIB);
    within("room for the second", waiting).await.unwrap();
    let answer = frame::read_kind(&mut second, FrameKind::Response, MIB).await.unwrap();
    assert_eq!(answer.len(), MIB);
    answer_bytes_are(&node, 0).await;
    assert_eq!(node.peers.answers_cut(), 0);
}

#[tokio::test]
async fn a_lane_whose_answers_are_not_read_is_cut_with_its_calls_and_another_one_serves() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.answer_deadline = Duration::from_millis(200);
    let mut node = setup.start();
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    let call =
        |number: u64, body: &[u8]| frame::encode(FrameKind::Call, &[&number.to_be_bytes()[..], body].concat()).unwrap();
    // Given a lane on which a large answer is not read,
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&[CALLS], &call(1, b"hold")[..], &call(2, b"hold")[..]].concat()).await.unwrap();
    let (_, _, first) = node.held_request().await;
    let (_, _, mut second) = node.held_request().await;
    first.send(vec![7; 4 * MIB].into());
    // then it is cut, and who answers another call of it learns that nobody waits.
    assert_eq!(reset_code(&mut receive).await, Some(UNREAD));
    assert_eq!(node.peers.answers_cut(), 1);
    within("the handler learns of it", second.closed()).await;
    drop(second);
    answer_bytes_are(&node, 0).await;
    // No more calls are taken on it,
    within("it stops reading", send.stopped()).await.unwrap();
    // and on another one they are.
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&[CALLS], &call(3, b"small")[..]].concat()).await.unwrap();
    let answer = frame::read_kind(&mut receive, FrameKind::Answer, MIB).await.unwrap();
    assert_eq!(&answer[8..], b"small");
}

#[tokio::test]
async fn who_was_too_slow_is_told_so_by_its_type() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    // Given a node that gives no time at all to take more than QUIC takes at once
    setup.options.answer_deadline = Duration::ZERO;
    let mut node = setup.start();
    let connection = client(&cluster, &node).await;
    let large = Bytes::from(vec![5; frame::REQUEST_BYTES_MAX]);
    // then a large answer is cut, and it is said what that means,
    let asked = connection.request(large.clone(), PATIENCE).await;
    assert_eq!(asked, Err(RequestError::Unread));
    assert!(RequestError::Unread.may_have_executed());
    // among many on one stream, too,
    let (asked, ()) = tokio::join!(connection.call(Bytes::from_static(b"hold"), PATIENCE), async {
        node.held_request().await.2.send(large.clone());
    });
    assert_eq!(asked, Err(RequestError::Unread));
    // and small ones come as ever.
    assert_eq!(connection.call(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
    assert_eq!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await, Ok(Bytes::from_static(b"ok")));
}

#[tokio::test]
async fn a_manager_that_does_not_take_its_answers_is_cut_as_well() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.answer_deadline = Duration::ZERO;
    let mut one = setup.start();
    let mut two = Setup::new(&cluster, 2).start();
    one.endpoint.set_peers(vec![two.peer()]);
    two.endpoint.set_peers(vec![one.peer()]);
    one.up(two.id).await;
    two.up(one.id).await;
    let large = Bytes::from(vec![5; frame::REQUEST_BYTES_MAX]);
    assert_eq!(two.peers.request(one.id, large, PATIENCE).await, Err(RequestError::Unread));
    assert_eq!(one.peers.answers_cut(), 1);
    // Messages between the two are not held up by it.
    two.peers.send(one.id, Lane::Control, Bytes::from_static(b"heartbeat")).unwrap();
    assert_eq!(one.message().await, (two.id, Lane::Control, Bytes::from_static(b"heartbeat")));
}

#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_is_none() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    let request = [&[REQUEST], &frame::encode(FrameKind::Request, b"hold this").unwrap()[..]].concat();
    let mut call = vec![CALLS];
    call.extend(frame::encode(FrameKind::Call, &[&1u64.to_be_bytes()[..], b"hold this"].concat()).unwrap());
    for whole in [&request, &call] {
        for byte in 0..whole.len() {
            for reset in [false, true] {
                // Given a stream that ends before the last byte, in one way or the other,
                let (mut send, mut receive) = connection.open_bi().await.unwrap();
                send.write_all(&whole[..byte]).await.unwrap();
                if reset {
                    send.reset(9u32.into()).unwrap();
                } else {
                    send.finish().unwrap();
                }
                // then there is no answer to it,
                let answer = within("it ends", receive.read_to_end(100)).await.unwrap_or_default();
                assert!(answer.is_empty(), "cut after {byte} bytes");
            }
        }
        // and who asks in one piece is the first to be heard.
        let (_stranger, connection) = reads_nothing(&cluster, &node).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(whole).await.unwrap();
        let (_, body, _) = node.held_request().await;
        assert_eq!(body, "hold this");
        assert!(node.events.try_recv().is_err(), "it was heard once");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_none_and_the_outcome_is_unknown() {
    let cluster = TestCluster::new(1);
    // Given a manager, played by hand, that stops at some byte of its answer
    let manager = answering_by_hand(&cluster).await;
    let identity = cluster.identity(99, CertRole::Operator);
    let addresses = [manager.address.clone()];
    let request = frame::encode(FrameKind::Response, b"done").unwrap();
    let call = |number: &[u8]| frame::encode(FrameKind::Answer, &[number, b"done"].concat()).unwrap();
    for on_a_lane in [false, true] {
        let whole = if on_a_lane { call(&[0; 8]).len() } else { request.len() };
        for byte in 0..=whole {
            for reset in [false, true] {
                let connection = Connector::connect(&addresses, identity.clone(), cluster.client_hello(99), PATIENCE);
                let (connection, theirs) = tokio::join!(connection, manager.greets());
                let connection = connection.unwrap();
                let asking = async {
                    let body = Bytes::from_static(b"put");
                    if on_a_lane {
                        connection.call(body, PATIENCE).await
                    } else {
                        connection.request(body, PATIENCE).await
                    }
                };
                let answering = async {
                    let (mut send, mut receive) = theirs.accept_bi().await.unwrap();
                    let mut kind = [0];
                    receive.read_exact(&mut kind).await.unwrap();
                    let answer = if on_a_lane {
                        let body = frame::read_kind(&mut receive, FrameKind::Call, MIB).await.unwrap();
                        call(&body[..8])
                    } else {
                        frame::read_kind(&mut receive, FrameKind::Request, MIB).await.unwrap();
                        request.clone()
                    };
                    send.write_all(&answer[..byte]).await.unwrap();
                    if !reset {
                        send.finish().unwrap();
                    } else if byte < whole {
                        send.reset(9u32.into()).unwrap();
                    }
                    (send, receive)
                };
                let (answer, streams) = within("an answer", async { tokio::join!(asking, answering) }).await;
                // then the caller has all of it, or knows that it does not know.
                match answer {
                    Ok(body) => assert!(byte == whole && body == "done", "cut after {byte} bytes"),
                    Err(error) => {
                        assert!(byte < whole, "cut after {byte} bytes: {error}");
                        assert!(error.may_have_executed(), "cut after {byte} bytes: {error}");
                    }
                }
                drop(streams);
            }
        }
    }
}

#[tokio::test]
async fn half_closed_streams_are_answered_as_others_are() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    // Given a request whose asker closes its half, and one whose asker never does,
    for closes in [true, false] {
        let (mut send, mut receive) = asked(&connection, b"hold").await;
        if closes {
            send.finish().unwrap();
        }
        let (_, _, mut reply) = node.held_request().await;
        // then the handler is not told that somebody left, and the answer comes.
        let told = tokio::time::timeout(Duration::from_millis(200), reply.closed()).await;
        assert!(told.is_err(), "its asker waits");
        reply.send(Bytes::from_static(b"here"));
        let answer = frame::read_kind(&mut receive, FrameKind::Response, MIB).await.unwrap();
        assert_eq!(answer, "here");
    }
    // An asker that closes the other half does not wait any more.
    let (_send, mut receive) = asked(&connection, b"hold").await;
    let (_, _, mut reply) = node.held_request().await;
    receive.stop(9u32.into()).unwrap();
    within("the handler learns of it", reply.closed()).await;
    assert!(!reply.fits(MIB).await, "nothing is kept for who is gone");
    // Calls whose lane is closed by their asker are answered, also those that take long,
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let call = frame::encode(FrameKind::Call, &[&1u64.to_be_bytes()[..], b"hold"].concat()).unwrap();
    send.write_all(&[&[CALLS], &call[..]].concat()).await.unwrap();
    send.finish().unwrap();
    let (_, _, reply) = node.held_request().await;
    reply.send(Bytes::from_static(b"late"));
    let answer = within("the answer", receive.read_to_end(MIB)).await.unwrap();
    assert!(answer.ends_with(b"late"));
    // and those of one that takes no answers are of no use to anybody.
    let (_stranger, connection) = reads_nothing(&cluster, &node).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&[CALLS], &call[..]].concat()).await.unwrap();
    let (_, _, reply) = node.held_request().await;
    receive.stop(9u32.into()).unwrap();
    reply.send(Bytes::from_static(b"nobody"));
    within("it is not read any more", send.stopped()).await.unwrap();
}
