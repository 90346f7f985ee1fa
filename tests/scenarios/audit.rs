//! The log says who did what to the cluster.

use std::sync::Arc;

use crate::support::{Cluster, eventually};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_to_the_cluster_is_in_the_log_with_who_asked_for_it() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).with_writer(move || writer.clone()).init();
    // Given an operator from elsewhere, at a manager that does not lead
    let cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let worker = cluster.worker("w1").await;
    let client = cluster.outside(&[1]).await;
    let who = format!("operator {}", cluster.operator().subject().node_id);
    // When it does one of each
    client.operators().issue("viewer").read_only().await.unwrap();
    client.operators().revoke("viewer").await.unwrap();
    let role = quorate::membership::Role::Worker;
    client.tokens().show(role).await.unwrap();
    client.tokens().rotate(role).await.unwrap();
    let made = client.tokens().create(role).await.unwrap();
    client.tokens().revoke(&made.info.id).await.unwrap();
    client.secrets().create("s", "x").await.unwrap();
    client.secrets().reveal("s").await.unwrap();
    client.secrets().remove("s").await.unwrap();
    client.keyring().rotate().await.unwrap();
    client.nodes().update("w1").label("zone", "a").await.unwrap();
    client.policy().set().max_voters(3).await.unwrap();
    client.nodes().remove("w1").forced().await.unwrap();
    eventually("leadership moves", || async { client.transfer_leadership(None).await.ok() }).await;
    // and somebody on a manager's own machine
    cluster.node(0).client().tokens().show(role).await.unwrap();
    // Then each has its line, with who it was.
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let by = |message: &str| {
        let found = lines.iter().filter(|line| line["fields"]["message"] == message);
        found.map(|line| line["fields"]["by"].as_str().unwrap_or("nobody").to_owned()).collect::<Vec<_>>()
    };
    for message in [
        "an operator's identity was issued",
        "an operator's identity was revoked",
        "the join token was rotated",
        "a join token was made",
        "a join token was revoked",
        "made",
        "a secret is shown to an operator",
        "removed",
        "another barrier key was asked for",
        "what is said of a node was changed",
        "the cluster's policy was changed",
        "a node is being removed",
        "leadership was handed over",
    ] {
        assert!(by(message).contains(&who), "{message}: {:?}", by(message));
        assert!(!by(message).contains(&"nobody".to_owned()), "{message}");
    }
    let shown = by("a join token is shown");
    assert!(shown.contains(&who) && shown.contains(&"this machine".to_owned()), "{shown:?}");
    worker.stopped().await;
    cluster.stop().await;
}
