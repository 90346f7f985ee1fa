//! Managers among themselves: lanes, snapshots, restarts, races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, clippy::print_stdout, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::RaftId;
use quorate_transport::*;
use support::*;
use tokio::sync::mpsc;

fn numbered(n: u32, padding: usize) -> Bytes {
    let mut body = n.to_be_bytes().to_vec();
    body.resize(4 + padding, 7);
    body.into()
}

fn number(body: &Bytes) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

#[tokio::test]
async fn messages_go_both_ways_on_both_lanes_each_lane_in_order() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    for n in 0..300 {
        one.peers.send(two.id, Lane::Control, numbered(n, 10)).unwrap();
        one.peers.send(two.id, Lane::Append, numbered(n, 2_000)).unwrap();
        two.peers.send(one.id, Lane::Control, numbered(n, 10)).unwrap();
        two.peers.send(one.id, Lane::Append, numbered(n, 2_000)).unwrap();
    }
    for (node, other) in [(&mut one, RaftId(2)), (&mut two, RaftId(1))] {
        let (mut control, mut append) = (Vec::new(), Vec::new());
        while control.len() + append.len() < 600 {
            let (from, lane, body) = node.message().await;
            assert_eq!(from, other);
            match lane {
                Lane::Control => control.push(number(&body)),
                Lane::Append => append.push(number(&body)),
            }
        }
        assert_eq!(control, (0..300).collect::<Vec<_>>());
        assert_eq!(append, (0..300).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_but_lives_is_not_silent_and_one_that_is_gone_is() {
    let cluster = TestCluster::new(1);
    let (one, two) = pair(&cluster).await;
    assert_eq!(one.peers.silence(RaftId(9)), None, "nothing ever came from it");
    // Given two that send each other no message, then a sign of life ends every silence.
    let mut last = None;
    within("a sign of life", async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = one.peers.silence(two.id);
            if now.is_some() && last.is_some() && now < last {
                return;
            }
            last = now;
        }
    })
    .await;
    // When the other one is gone, then its silence grows and is not forgotten.
    two.endpoint.close("the test ends it").await;
    within("the end of the connection", async {
        while !one.peers.connected().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut last = one.peers.silence(two.id).expect("it was there");
    let until = last + Duration::from_secs(2);
    while last < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = one.peers.silence(two.id).unwrap();
        assert!(now > last, "{now:?} after {last:?}");
        last = now;
    }
}

#[tokio::test]
async fn sending_never_waits_and_says_what_did_not_fit() {
    let cluster = TestCluster::new(1);
    let (one, two) = pair(&cluster).await;
    assert_eq!(one.peers.send(RaftId(9), Lane::Control, Bytes::new()), Err(SendError::NotConnected));
    let too_large = vec![0; Lane::Control.message_bytes_max() + 1].into();
    assert!(matches!(one.peers.send(two.id, Lane::Control, too_large), Err(SendError::TooLarge { .. })));
    // The runtime has one thread and this loop does not yield: nothing can be written meanwhile.
    let full = (0..5_000).filter_map(|_| one.peers.send(two.id, Lane::Control, Bytes::from_static(b"x")).err());
    assert!(full.collect::<Vec<_>>().iter().all(|error| *error == SendError::Full));
    let (_, info) = one.peers.connected().pop().unwrap();
    assert!(info.dropped >= 5_000 - 4_096, "{}", info.dropped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_append_message_arrives_whole() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let body = numbered(77, Lane::Append.message_bytes_max() - 4);
    one.peers.send(two.id, Lane::Append, body.clone()).unwrap();
    let (_, _, arrived) = two.message().await;
    assert!(arrived == body);
}

async fn feed(pieces: mpsc::Sender<SnapshotPiece>, mebibytes: usize) {
    for n in 0..mebibytes {
        let piece = vec![u8::try_from(n % 251).unwrap(); 1024 * 1024];
        if pieces.send(SnapshotPiece::Data(piece.into())).await.is_err() {
            return;
        }
    }
    let _ = pieces.send(SnapshotPiece::End).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_pass_a_snapshot_of_50_mib_whose_receiver_stands_still() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    let (pieces, receiver) = mpsc::channel(2);
    let feeding = tokio::spawn(feed(pieces.clone(), 50));
    let sending = tokio::spawn({
        let peers = one.peers.clone();
        async move { peers.send_snapshot(RaftId(2), Bytes::from_static(b"index 7"), receiver).await }
    });
    // Given a receiver that has taken nothing yet, when the snapshot fills whatever it can fill,
    let (from, mut incoming) = two.incoming_snapshot().await;
    assert_eq!((from, incoming.header.as_ref()), (RaftId(1), b"index 7".as_slice()));
    // then control messages still make a hundred round trips.
    for n in 0..100 {
        one.peers.send(two.id, Lane::Control, numbered(n, 0)).unwrap();
        let (_, _, body) = two.message().await;
        two.peers.send(one.id, Lane::Control, body).unwrap();
        assert_eq!(number(&one.message().await.2), n);
    }
    // A slow receiver holds a bounded part of it: the sender has not got rid of the 50 MiB.
    assert!(!feeding.is_finished(), "50 MiB went into queues");
    let mut received = 0;
    while let SnapshotPiece::Data(piece) = within("a piece", incoming.chunks.recv()).await.unwrap() {
        received += piece.len();
    }
    assert_eq!(received, 50 * 1024 * 1024);
    assert!(!sending.is_finished(), "the receiver has not said yet that it is on disk");
    incoming.done.send(Ok(())).unwrap();
    assert_eq!(within("the verdict", sending).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_snapshot_that_its_receiver_does_not_take_is_given_up() {
    let cluster = TestCluster::new(1);
    let mut setup = Setup::new(&cluster, 1);
    setup.options.snapshot_patience = Duration::from_millis(300);
    let (one, mut two) = pair_of(setup, Setup::new(&cluster, 2)).await;
    // Given a receiver that takes nothing, then it is given up, and the receiver has no whole one;
    let (pieces, receiver) = mpsc::channel(2);
    let feeding = tokio::spawn(feed(pieces, 50));
    let sent = within("the end", one.peers.send_snapshot(two.id, Bytes::new(), receiver)).await;
    assert!(matches!(&sent, Err(SnapshotSendError::Cut(why)) if why.contains("took nothing")), "{sent:?}");
    within("nothing is read any more", feeding).await.unwrap();
    let (_, mut incoming) = two.incoming_snapshot().await;
    let mut whole = false;
    while let Some(piece) = within("what came", incoming.chunks.recv()).await {
        whole |= piece == SnapshotPiece::End;
    }
    assert!(!whole);
    // and so it is where it does not say whether it has it on disk.
    let (pieces, receiver) = mpsc::channel(2);
    pieces.send(SnapshotPiece::End).await.unwrap();
    let sent = within("the end", one.peers.send_snapshot(two.id, Bytes::new(), receiver)).await;
    assert!(matches!(&sent, Err(SnapshotSendError::Cut(why)) if why.contains("on disk")), "{sent:?}");
}

#[tokio::test]
async fn a_snapshot_whose_source_stops_before_the_end_is_a_failure_on_both_sides() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let (pieces, receiver) = mpsc::channel(2);
    let sending = one.peers.send_snapshot(two.id, Bytes::new(), receiver);
    let receiving = async {
        pieces.send(SnapshotPiece::Data(Bytes::from_static(b"begin"))).await.unwrap();
        let (_, mut incoming) = two.incoming_snapshot().await;
        drop(pieces);
        let mut last = None;
        while let Some(piece) = incoming.chunks.recv().await {
            last = Some(piece);
        }
        last
    };
    let (sent, last) = within("both ends", async { tokio::join!(sending, receiving) }).await;
    assert_eq!(sent, Err(SnapshotSendError::Aborted));
    assert_ne!(last, Some(SnapshotPiece::End));
}

#[tokio::test]
async fn a_snapshot_whose_future_is_dropped_is_not_taken_for_a_whole_one() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let (pieces, receiver) = mpsc::channel(2);
    pieces.send(SnapshotPiece::Data(Bytes::from_static(b"begin"))).await.unwrap();
    let peers = one.peers.clone();
    let sending = tokio::spawn(async move { peers.send_snapshot(RaftId(2), Bytes::new(), receiver).await });
    let (_, mut incoming) = two.incoming_snapshot().await;
    assert_eq!(
        within("a piece", incoming.chunks.recv()).await,
        Some(SnapshotPiece::Data(Bytes::from_static(b"begin")))
    );
    sending.abort();
    assert_eq!(within("the end", incoming.chunks.recv()).await, None);
}

#[tokio::test]
async fn a_snapshot_that_the_receiver_cannot_store_is_reported_with_its_words() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    for give_up_early in [true, false] {
        let (pieces, receiver) = mpsc::channel(2);
        let feeding = tokio::spawn(feed(pieces, 20));
        let sending = one.peers.send_snapshot(two.id, Bytes::new(), receiver);
        let receiving = async {
            let (_, mut incoming) = two.incoming_snapshot().await;
            while !give_up_early && incoming.chunks.recv().await.is_some() {}
            incoming.done.send(Err("disk full".into())).unwrap();
        };
        let (sent, ()) = within("both ends", async { tokio::join!(sending, receiving) }).await;
        assert_eq!(sent, Err(SnapshotSendError::Rejected("disk full".into())));
        feeding.await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_is_cut_when_the_receiver_goes_away() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let (pieces, receiver) = mpsc::channel(2);
    let feeding = tokio::spawn(feed(pieces, 20));
    let sending = one.peers.send_snapshot(two.id, Bytes::new(), receiver);
    let receiving = async {
        let (_, incoming) = two.incoming_snapshot().await;
        two.endpoint.close("test").await;
        drop(incoming);
    };
    let (sent, ()) = within("both ends", async { tokio::join!(sending, receiving) }).await;
    assert!(matches!(sent, Err(SnapshotSendError::Cut(_))), "{sent:?}");
    drop(feeding);
}

#[tokio::test]
async fn peers_ask_each_other_in_both_directions() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let answer = one.peers.request(two.id, Bytes::from_static(b"hello"), PATIENCE).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"hello")));
    assert_eq!(two.peers.request(one.id, Bytes::from_static(b"back"), PATIENCE).await, Ok(Bytes::from_static(b"back")));
    let missing = one.peers.request(RaftId(9), Bytes::new(), PATIENCE).await;
    assert!(matches!(missing, Err(RequestError::NotSent(_))), "{missing:?}");
    // The handler sees who asks, bound to the connection.
    let asking = one.peers.request(two.id, Bytes::from_static(b"hold"), PATIENCE);
    let serving = async {
        let (caller, _, reply) = two.held_request().await;
        reply.send(Bytes::from_static(b"done"));
        caller
    };
    let (answer, caller) = within("an answer", async { tokio::join!(asking, serving) }).await;
    assert_eq!(answer, Ok(Bytes::from_static(b"done")));
    assert_eq!((caller.plane, caller.role, caller.raft_id), (Plane::Peer, CertRole::Manager, Some(RaftId(1))));
    assert_eq!(caller.node_id, node_id(1));
}

#[tokio::test]
async fn a_request_whose_peer_vanishes_has_an_unknown_outcome() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let asking = one.peers.request(two.id, Bytes::from_static(b"hold"), PATIENCE);
    let vanishing = async {
        let held = two.held_request().await;
        two.endpoint.close("test").await;
        drop(held);
    };
    let (answer, ()) = within("an answer", async { tokio::join!(asking, vanishing) }).await;
    assert!(matches!(&answer, Err(RequestError::Unknown(_))), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_noticed_by_its_reset_and_not_by_the_idle_timeout() {
    let cluster = TestCluster::new(1);
    let mut one = Setup::new(&cluster, 1).start();
    // A second manager on a runtime of its own, so that it can die without a word.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let setup = Setup::new(&cluster, 2);
    let mut two = process.spawn(async move { setup.start() }).await.unwrap();
    one.endpoint.set_peers(vec![two.peer()]);
    one.up(two.id).await;
    two.up(one.id).await;
    // When its process dies: the runtime stops first, so that not even a close frame leaves,
    let listen = two.address.parse().unwrap();
    tokio::task::spawn_blocking(move || process.shutdown_timeout(PATIENCE)).await.unwrap();
    drop(two);
    // and starts again on the same port with the same seed,
    let again = std::iter::repeat_with(|| {
        std::thread::yield_now();
        Setup { listen, ..Setup::new(&cluster, 2) }.try_start()
    })
    .find_map(Result::ok)
    .unwrap();
    // then the reason is the reset, and the connection comes back.
    assert_eq!(one.down(RaftId(2)).await, Down::Reset);
    one.up(RaftId(2)).await;
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_at_once_end_with_one_connection() {
    for _ in 0..10 {
        let cluster = TestCluster::new(1);
        let mut one = Setup::new(&cluster, 1).start();
        let mut two = Setup::new(&cluster, 2).start();
        one.endpoint.set_peers(vec![two.peer()]);
        two.endpoint.set_peers(vec![one.peer()]);
        one.peers.nudge(two.id);
        two.peers.nudge(one.id);
        one.up(two.id).await;
        two.up(one.id).await;
        // Both directions work, and go on working: a second connection that is dropped later would lose one of these.
        for n in 0.. {
            let sent = one.peers.send(two.id, Lane::Control, numbered(n, 0));
            let back = two.peers.send(one.id, Lane::Control, numbered(n, 0));
            if sent.is_ok() && back.is_ok() && n > 20 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let there = one.peers.request(two.id, Bytes::from_static(b"a"), PATIENCE);
        let back = two.peers.request(one.id, Bytes::from_static(b"b"), PATIENCE);
        // A request that meets the losing connection is told so; the next one meets the kept one.
        let _ = tokio::join!(there, back);
        assert_eq!(
            within("an answer", async {
                loop {
                    if let Ok(answer) = one.peers.request(two.id, Bytes::from_static(b"a"), PATIENCE).await {
                        break answer;
                    }
                }
            })
            .await,
            Bytes::from_static(b"a")
        );
        assert_eq!(one.peers.connected().len(), 1);
        assert_eq!(two.peers.connected().len(), 1);
        // The side that accepted sees the dialler's port as the address: exactly one of the two dialled the kept one, and it
        // is the lower raft id; so every connection of `two` comes from `one`'s port and the other way round.
        assert_eq!(two.peers.connected()[0].1.address.to_string(), one.address);
    }
}

#[tokio::test]
async fn the_higher_raft_id_dials_when_the_lower_one_does_not_know_it() {
    let cluster = TestCluster::new(1);
    let mut one = Setup::new(&cluster, 1).start();
    let mut setup = Setup::new(&cluster, 2);
    setup.options.dial_grace = Duration::from_millis(1);
    let mut two = setup.start();
    two.endpoint.set_peers(vec![one.peer()]);
    one.up(two.id).await;
    two.up(one.id).await;
    one.peers.send(two.id, Lane::Control, numbered(1, 0)).unwrap();
    assert_eq!(number(&two.message().await.2), 1);
}

#[tokio::test]
async fn a_peer_that_leaves_the_set_is_disconnected_and_told_so() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    one.endpoint.set_peers(Vec::new());
    assert!(matches!(one.down(RaftId(2)).await, Down::Ours(_)));
    let told = two.down(RaftId(1)).await;
    assert!(matches!(&told, Down::Closed(why) if why.contains("not in the set")), "{told:?}");
    assert_eq!(one.peers.send(RaftId(2), Lane::Control, Bytes::new()), Err(SendError::NotConnected));
}

#[tokio::test]
async fn a_peer_whose_address_changes_is_found_at_the_new_one() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    two.endpoint.close("moves").await;
    assert!(matches!(one.down(RaftId(2)).await, Down::Closed(why) if why == "moves"));
    two = Setup::new(&cluster, 2).start();
    one.endpoint.set_peers(vec![two.peer()]);
    one.up(two.id).await;
    two.up(one.id).await;
}

#[tokio::test]
async fn three_managers_talk_pairwise() {
    let cluster = TestCluster::new(1);
    let mut nodes: Vec<TestNode> = (1..=3).map(|n| Setup::new(&cluster, n).start()).collect();
    let all: Vec<PeerAddress> = nodes.iter().map(TestNode::peer).collect();
    for node in &nodes {
        // The own address may be in the set: it is left out.
        node.endpoint.set_peers(all.clone());
    }
    for node in &mut nodes {
        let mut up = 0;
        while up < 2 {
            up += usize::from(matches!(node.event("two peers come up").await, Event::Up(_)));
        }
        assert_eq!(node.peers.connected().len(), 2);
    }
}

#[tokio::test]
async fn closing_ends_every_task_and_later_calls_say_so() {
    let cluster = TestCluster::new(1);
    let (mut one, mut two) = pair(&cluster).await;
    let address = one.address.clone();
    within("the close", one.endpoint.close("asked")).await;
    assert!(matches!(one.down(RaftId(2)).await, Down::Ours(_)));
    assert!(matches!(two.down(RaftId(1)).await, Down::Closed(why) if why == "asked"));
    assert_eq!(one.peers.send(RaftId(2), Lane::Control, Bytes::new()), Err(SendError::NotConnected));
    one.endpoint.set_peers(vec![two.peer()]);
    let metrics = tokio::runtime::Handle::current().metrics();
    two.endpoint.close("asked").await;
    let TestNode { endpoint, peers, mut events, gate, .. } = one;
    drop((endpoint, peers, gate));
    // The handler goes when the last task that could call it has gone.
    assert!(within("the handler is dropped", events.recv()).await.is_none());
    drop(two);
    within("no task is left", async {
        while metrics.num_alive_tasks() > 0 || std::net::UdpSocket::bind(&address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn handles_work_from_threads_without_a_runtime() {
    let cluster = TestCluster::new(1);
    let (one, mut two) = pair(&cluster).await;
    let peers = one.peers.clone();
    std::thread::spawn(move || {
        peers.send(RaftId(2), Lane::Control, Bytes::from_static(b"from a thread")).unwrap();
        let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // The endpoint's own runtime is blocked by nobody here: it answers on its own thread.
        elsewhere.block_on(async { tokio::time::timeout(Duration::from_millis(1), async {}).await.unwrap() });
        peers.nudge(RaftId(2));
    })
    .join()
    .unwrap();
    assert_eq!(two.message().await.2, Bytes::from_static(b"from a thread"));
}
