//! What the log tells of a request: its way through the cluster, by its id.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing_subscriber::EnvFilter;

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
    // And the read's, up to where a quorum confirmed it
    let mut spans = log.answered().into_iter();
    let read = spans.find(|span| span["node"] == "m2" && span["kind"] == "read" && !span["read_index"].is_null());
    assert!(read.unwrap()["read_index"].as_u64().unwrap() >= here["index"].as_u64().unwrap());
    cluster.stop().await;
}
