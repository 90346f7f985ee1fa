//! A request's way: what the log tells of it, by its id, and what becomes of it when it is cut.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use quorate::Client;
use quorate_transport::frame::FrameKind;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::between::GoBetween;
use crate::support::{Cluster, eventually};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The spans of answered requests.
    fn answered(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        // The last line may be half written.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["fields"]["message"] == "answered").map(|line| line["span"].clone()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_a_follower_is_found_on_both_managers_by_its_request_id() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(EnvFilter::new("quorate=debug"))
        .with_writer(move || writer.clone())
        .init();
    // Given a client of a follower
    let cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let client = cluster.outside(&[1]).await;
    // When it writes, and reads
    let revision = client.kv().put("k", "v").await.unwrap().revision;
    client.kv().get("k").await.unwrap();
    // Then the follower's span says where it went and what came of it
    let there = eventually("the follower has told", || async {
        let mut spans = log.answered().into_iter();
        spans.find(|span| span["node"] == "m2" && span["kind"] == "write")
    })
    .await;
    assert_eq!((there["leader"].as_u64(), there["revision"].as_u64()), (Some(1), Some(revision)), "{there}");
    assert_eq!((there["outcome"].as_str(), there["asker"].as_str()), (Some("done"), Some("operator")));
    assert!(there["micros"].as_u64().unwrap() > 0 && there["index"].is_null(), "{there}");
    // And the leader's, found by the same request id, in which entry it was
    let mut spans = log.answered().into_iter();
    let id = (&there["client"], &there["sequence"]);
    let here = spans.find(|span| span["kind"] == "command" && (&span["client"], &span["sequence"]) == id).unwrap();
    assert_eq!((here["node"].as_str(), here["asker"].as_str()), (Some("m1"), Some("manager")));
    assert_eq!((here["revision"].as_u64(), here["outcome"].as_str()), (Some(revision), Some("done")));
    assert!(here["index"].as_u64().unwrap() > 0, "{here}");
    // When it watches until it has heard enough, then so do the spans of the watch, and those of the sessions and joins of others
    let mut watch = client.kv().watch("k").from_revision(revision).await.unwrap();
    assert_eq!(crate::watch::changes(&mut watch).await.revision, revision);
    drop(watch);
    let worker = cluster.worker("w1").await;
    worker.shutdown().await;
    for (kind, asker, node) in
        [("watch", "operator", Some("m2")), ("join", "newcomer", None), ("session", "node", None)]
    {
        let span = eventually("it has told of its end", || async {
            let mut spans = log.answered().into_iter();
            spans.find(|span| span["kind"] == kind && node.is_none_or(|node| span["node"] == node))
        })
        .await;
        assert_eq!((span["asker"].as_str(), span["outcome"].as_str()), (Some(asker), Some("done")), "{span}");
        assert!(span["micros"].as_u64().unwrap() > 0, "{span}");
    }
    // And the read's, up to where a quorum confirmed it
    let mut spans = log.answered().into_iter();
    let read = spans.find(|span| span["node"] == "m2" && span["kind"] == "read" && !span["read_index"].is_null());
    assert!(read.unwrap()["read_index"].as_u64().unwrap() >= here["index"].as_u64().unwrap());
    cluster.stop().await;
}

#[tokio::test]
async fn a_put_whose_stream_is_cut_at_any_byte_counts_once() {
    // Given a client behind something that cuts its streams
    let cluster = Cluster::founded().await;
    let near = cluster.path("near");
    std::fs::create_dir(&near).unwrap();
    let between = GoBetween::start(&cluster.members[0].directory, &near, FrameKind::Request);
    let client = Client::local(&near).await.unwrap();
    // when one byte after the other is the last that passes, of what it asks and of what it is answered; 300 and 100 are
    // more than all of it has,
    let (mut revisions, mut puts) = (Vec::new(), 0);
    for byte in 0..300 {
        between.cut_question_after(byte);
        revisions.push(client.kv().put("counter", "x").await.unwrap().revision);
        puts += 1;
    }
    let questions = between.cuts();
    for byte in 0..100 {
        between.cut_answer_after(byte);
        revisions.push(client.kv().put("counter", "x").await.unwrap().revision);
        puts += 1;
    }
    let answers = between.cuts() - questions;
    // then every put was done once, at the revision that its client was told.
    let counter = cluster.any().client().kv().get("counter").await.unwrap().unwrap();
    assert_eq!(counter.version, puts);
    assert!(revisions.windows(2).all(|two| two[1] == two[0] + 1), "{revisions:?}");
    assert!(questions > 50 && answers > 10, "the cuts hit: {questions} and {answers}");
    cluster.stop().await;
}
