//! Feeds: one question, answers for as long as somebody listens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_transport::*;
use support::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn message(text: &'static str) -> Fed {
    Fed::Message(self::text(text))
}

/// What an operator asks, and both ends of what comes of it.
async fn asked(node: &mut TestNode, connection: &Connection) -> (FeedReceiver, Feed) {
    let receiver = connection.feed(text("question")).await.unwrap();
    let (caller, body, feed) = node.feed().await;
    assert_eq!((caller.role, &body[..]), (CertRole::Operator, &b"question"[..]));
    (receiver, feed)
}

#[tokio::test]
async fn answers_come_whole_and_in_order_and_then_the_last_word() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let (mut receiver, feed) = asked(&mut node, &connection).await;
    let (mut here, mut here_receiver) = Feed::here();
    let (mut sender, _asker) = (feed.sender, feed.asker);
    let large = Bytes::from(vec![7; 1 << 20]);
    // Given messages in pieces, small and large ones
    let messages = || vec![vec![text("a"), text("b")], vec![text("x"), large.clone(), text("y")], vec![text("c")]];
    for (sender, receiver) in [(&mut sender, &mut receiver), (&mut here.sender, &mut here_receiver)] {
        let reading = async {
            assert_eq!(receiver.next().await.unwrap(), message("ab"));
            let Fed::Message(whole) = receiver.next().await.unwrap() else { panic!("a message") };
            assert!(whole.len() == large.len() + 2 && whole[0] == b'x' && whole[1..=large.len()] == large[..]);
            assert_eq!(receiver.next().await.unwrap(), message("c"));
        };
        let (sent, ()) = within("it is read", async { tokio::join!(sender.send(messages()), reading) }).await;
        sent.unwrap();
    }
    sender.finish(text("over")).await.unwrap();
    assert_eq!(within("the last word", receiver.next()).await.unwrap(), Fed::End(text("over")));
    within("nothing follows", receiver.next()).await.unwrap_err();
    // A message over the limit is not sent, and says so.
    let (_receiver, mut feed) = asked(&mut node, &connection).await;
    let refused = feed.sender.send(vec![vec![Bytes::from(vec![0; frame::FEED_BYTES_MAX + 1])]]).await.unwrap_err();
    assert!(refused.to_string().contains("limit"), "{refused}");
    // Requests go on beside it.
    assert_eq!(connection.request(text("beside"), PATIENCE).await.unwrap(), "beside");
}

#[tokio::test]
async fn the_answering_end_hears_when_nobody_listens_any_more() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    // The asker drops its end, closes the connection, or is within the process and drops its end.
    let (receiver, mut feed) = asked(&mut node, &connection).await;
    drop(receiver);
    within("it is gone", feed.asker.gone()).await;
    let (receiver, mut feed) = asked(&mut node, &connection).await;
    connection.close().await;
    within("it is gone", feed.asker.gone()).await;
    within("nothing can be sent", feed.sender.send(vec![vec![text("a")]])).await.unwrap_err();
    drop(receiver);
    let (mut here, receiver) = Feed::here();
    drop(receiver);
    within("it is gone", here.asker.gone()).await;
    within("nothing can be sent", here.sender.send(vec![vec![text("a")]])).await.unwrap_err();
}

#[tokio::test]
async fn who_is_sent_away_first_hears_what_holds_its_connection_and_who_is_cut_off_does_not() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    // Given an operator with a feed of which a part is worth nothing, and one with nothing under way
    let connection = client(&cluster, &node).await;
    let (mut receiver, mut feed) = asked(&mut node, &connection).await;
    let (hold, other) = (feed.sender.hold(), feed.sender.hold());
    let free = client(&cluster, &node).await;
    assert!(free.request(text("ok"), PATIENCE).await.is_ok());
    let reason = Refused::Other("come back".into());
    // When both are sent away, then the second goes at once,
    node.endpoint.send_away(|caller| caller.role == CertRole::Operator, &reason);
    assert!(within("it is closed", free.request(text("ok"), PATIENCE)).await.is_err());
    // and the first hears all of it, as long as anything holds its connection,
    drop(other);
    feed.sender.send(vec![vec![text("a")]]).await.unwrap();
    assert_eq!(within("it comes", receiver.next()).await.unwrap(), message("a"));
    feed.sender.finish(text("over")).await.unwrap();
    assert_eq!(within("the last word", receiver.next()).await.unwrap(), Fed::End(text("over")));
    drop(receiver);
    within("it has heard all", feed.asker.gone()).await;
    assert!(connection.request(text("ok"), PATIENCE).await.is_ok());
    // and then goes.
    drop(hold);
    assert!(within("it is closed", connection.request(text("ok"), PATIENCE)).await.is_err());
    // When somebody is cut off, nothing holds that up.
    let connection = client(&cluster, &node).await;
    let (_receiver, feed) = asked(&mut node, &connection).await;
    let _hold = feed.sender.hold();
    node.endpoint.disconnect_where(|of| of.role == CertRole::Operator, &reason);
    assert!(within("it is closed", connection.request(text("ok"), PATIENCE)).await.is_err());
    // Nothing is kept of what was held: a connection that is held and then not goes on.
    let connection = client(&cluster, &node).await;
    let (_receiver, feed) = asked(&mut node, &connection).await;
    drop(feed.sender.hold());
    assert!(connection.request(text("ok"), PATIENCE).await.is_ok());
}

#[tokio::test]
async fn an_asker_that_closes_its_half_wants_no_more() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let (mut events, _serving) = serve(&cluster, directory.path());
    let mut stream = UnixStream::connect(directory.path().join("quorate.sock")).await.unwrap();
    stream.write_all(&frame::encode(frame::FrameKind::Feed, b"question").unwrap()).await.unwrap();
    let Event::Feed(_, _, mut feed) = within("it is asked", events.recv()).await.unwrap() else { panic!("a feed") };
    // Not yet: it has asked, and listens.
    assert!(tokio::time::timeout(Duration::from_millis(1), feed.asker.gone()).await.is_err());
    stream.shutdown().await.unwrap();
    within("it is gone", feed.asker.gone()).await;
}

#[tokio::test]
async fn an_asker_that_does_not_read_is_given_up_after_the_stall_deadline() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let (mut receiver, feed) = asked(&mut node, &connection).await;
    let mut sender = feed.sender.with_stall(Duration::from_millis(50));
    // Given far more than the window of a stream
    let much = vec![vec![Bytes::from(vec![1; 1 << 20])]; 30];
    assert_eq!(within("it is given up", sender.send(much)).await, Err(Down::Stalled));
    drop(sender);
    // What had come is whole, and then it is broken off: nothing looks finished.
    loop {
        match within("it ends", receiver.next()).await {
            Ok(Fed::Message(whole)) => assert_eq!(whole.len(), 1 << 20),
            Ok(Fed::End(_)) => panic!("it was never finished"),
            Err(_) => break,
        }
    }
    // The others go on.
    let (mut receiver, mut feed) = asked(&mut node, &connection).await;
    feed.sender.send(vec![vec![text("on")]]).await.unwrap();
    assert_eq!(within("it comes", receiver.next()).await.unwrap(), message("on"));
}

#[tokio::test]
async fn a_wait_for_a_message_may_be_cut_short_without_losing_one() {
    let cluster = TestCluster::new(1);
    let mut node = Setup::new(&cluster, 1).start();
    let connection = client(&cluster, &node).await;
    let (mut receiver, mut feed) = asked(&mut node, &connection).await;
    let writing = tokio::spawn(async move {
        for number in 0..20u8 {
            feed.sender.send(vec![vec![Bytes::from(vec![number; 300_000])]]).await.unwrap();
        }
        feed
    });
    let mut next = 0u8;
    while next < 20 {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            fed = receiver.next() => {
                assert!(fed.unwrap() == Fed::Message(vec![next; 300_000].into()));
                next += 1;
            }
        }
    }
    writing.await.unwrap();
}

fn serve(cluster: &TestCluster, directory: &Path) -> (mpsc::UnboundedReceiver<Event>, tokio::task::JoinHandle<()>) {
    let listener = LocalListener::bind(directory).unwrap();
    let (sender, events) = mpsc::unbounded_channel();
    let gate = TestGate { hello: Mutex::new(cluster.manager_hello(1)), admit: Box::new(|_, _, _| Ok(())) };
    (events, tokio::spawn(listener.serve(Arc::new(gate), Arc::new(Recorder { events: sender }))))
}

/// How many bytes of a feed pass a go-between before it drops both sides: of the question, and of the answers.
type Cut = Arc<Mutex<(usize, usize)>>;

/// A socket in `directory` that passes everything on to the one in `node`, and cuts feeds.
fn go_between(node: &Path, directory: &Path, cut: Cut) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(directory.join("quorate.sock")).unwrap();
    let node = node.join("quorate.sock");
    tokio::spawn(async move {
        while let Ok((asker, _)) = listener.accept().await {
            let answering = UnixStream::connect(&node).await.unwrap();
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                let (mut from_asker, mut to_asker) = asker.into_split();
                let (mut from_node, mut to_node) = answering.into_split();
                let mut first = [0; frame::HEADER_BYTES];
                from_asker.read_exact(&mut first).await.unwrap();
                let feed = first[4] == frame::FrameKind::Feed as u8;
                let (asks, hears) = if feed { *cut.lock().unwrap() } else { (usize::MAX, usize::MAX) };
                let asks = asks as u64;
                if asks <= first.len() as u64 {
                    let _ = to_node.write_all(&first[..usize::try_from(asks).unwrap()]).await;
                    return;
                }
                to_node.write_all(&first).await.unwrap();
                let mut question = from_asker.take(asks - first.len() as u64);
                let mut answers = (&mut from_node).take(hears as u64);
                // Whichever is through first ends both.
                tokio::select! {
                    _ = tokio::io::copy(&mut question, &mut to_node) => {}
                    _ = tokio::io::copy(&mut answers, &mut to_asker) => {}
                }
            });
        }
    })
}

#[tokio::test]
async fn a_feed_that_is_cut_at_any_byte_gives_whole_messages_and_no_last_word_that_was_not_said() {
    let cluster = TestCluster::new(1);
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut events, _serving) = serve(&cluster, far.path());
    let cut = Cut::new(Mutex::new((usize::MAX, usize::MAX)));
    let _between = go_between(far.path(), near.path(), Arc::clone(&cut));
    let connection = LocalConnection::connect(near.path()).await.unwrap();
    let messages = ["first", "second one", "3"];
    let ends: Vec<usize> = messages
        .iter()
        .chain([&"over"])
        .scan(0, |at, text| {
            *at += frame::HEADER_BYTES + text.len();
            Some(*at)
        })
        .collect();
    // Cut before the first byte the question might not come through either.
    for byte in 1..=ends[3] {
        *cut.lock().unwrap() = (usize::MAX, byte);
        let mut receiver = connection.feed(text("question")).await.unwrap();
        let Event::Feed(_, _, mut feed) = within("it is asked", events.recv()).await.unwrap() else { panic!("a feed") };
        // Both sides must survive that the other is gone by now.
        let _ = feed
            .sender
            .send(messages.iter().map(|message| vec![Bytes::from_static(message.as_bytes())]).collect())
            .await;
        let _ = feed.sender.finish(text("over")).await;
        let mut heard = Vec::new();
        let ended = loop {
            match within("it ends", receiver.next()).await {
                Ok(Fed::Message(message)) => heard.push(message),
                Ok(Fed::End(word)) => break Some(word),
                Err(_) => break None,
            }
        };
        let whole = ends[..3].iter().filter(|end| **end <= byte).count();
        assert_eq!(heard, messages[..whole], "cut after {byte} bytes");
        assert_eq!(ended.is_some(), byte >= ends[3], "cut after {byte} bytes");
    }
}

#[tokio::test]
async fn a_question_that_is_cut_at_any_byte_is_none() {
    let cluster = TestCluster::new(1);
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut events, _serving) = serve(&cluster, far.path());
    let cut = Cut::new(Mutex::new((usize::MAX, usize::MAX)));
    let _between = go_between(far.path(), near.path(), Arc::clone(&cut));
    let connection = LocalConnection::connect(near.path()).await.unwrap();
    let whole = frame::HEADER_BYTES + "question".len();
    for byte in 0..whole {
        *cut.lock().unwrap() = (byte, usize::MAX);
        if let Ok(mut receiver) = connection.feed(text("question")).await {
            within("it ends", receiver.next()).await.unwrap_err();
        }
    }
    // Whoever asks in one piece is the first to be heard.
    *cut.lock().unwrap() = (usize::MAX, usize::MAX);
    let _receiver = connection.feed(text("question")).await.unwrap();
    let Event::Feed(_, body, _) = within("it is asked", events.recv()).await.unwrap() else { panic!("a feed") };
    assert_eq!(body, "question");
    assert!(events.try_recv().is_err(), "it was asked once");
}
