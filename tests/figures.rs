//! What several nodes in one process measure: each under its own name, and true when leadership moves and a quorum is lost.
//!
//! A process has one recorder: all tests of this one share it, and name their nodes apart.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use quorate::{Client, Error, Identity, Node, Start, Watch, Watched};
use tokio::time::{Instant, sleep};

/// Series by name and labels, as they are scraped.
struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn now(recorder: &PrometheusHandle) -> Self {
        let text = recorder.render();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(
            lines
                .map(|line| line.rsplit_once(' ').unwrap())
                .map(|(of, value)| (of.into(), value.parse().unwrap()))
                .collect(),
        )
    }

    /// Of a node.
    fn of(&self, node: &str, name: &str) -> f64 {
        self.with(name, &format!("node=\"{node}\""))
    }

    fn with(&self, name: &str, labels: &str) -> f64 {
        let series = format!("{name}{{{labels}}}");
        *self.0.get(&series).unwrap_or_else(|| panic!("no {series}"))
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < until, "not within a minute: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn builder(place: &Path, name: &str) -> quorate::NodeBuilder {
    Node::builder(place.join(name)).listen("127.0.0.1:0").name(name).stable(Duration::from_millis(200))
}

static RECORDER: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());

const NAMES: [&str; 3] = ["a1", "a2", "a3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_of_a_process_measures_itself_and_tells_the_truth() {
    let recorder = &*RECORDER;
    let place = tempfile::tempdir().unwrap();
    // Given three managers in one process, and a fourth that comes and goes
    let first = builder(place.path(), NAMES[0]).start(Start::OpenOrInit).await.unwrap();
    first.ready().await.unwrap();
    let token = first.client().join_token("manager").await.unwrap();
    let start = Start::OpenOrJoin { token, managers: vec![first.address().to_string()] };
    let mut nodes = vec![first];
    for name in [NAMES[1], NAMES[2], "a4"] {
        nodes.push(builder(place.path(), name).start(start.clone()).await.unwrap());
    }
    let figures = || Figures::now(recorder);
    eventually("three voters and a standby", || async {
        let figures = figures();
        let of = |name: &str| NAMES.map(|node| figures.of(node, name));
        let peer = figures.0.get("quorate_network_peer_connected{node=\"a1\",peer=\"a4\"}").copied();
        (of("quorate_voters") == [3.0; 3] && of("quorate_quorum_margin") == [1.0; 3] && peer == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(figures().of("a4", "quorate_is_voter"), 0.0);
    // When the fourth is gone, then what is told of it is no number, which trips no alert
    nodes[3].client().nodes().leave().detached().await.unwrap();
    eventually("the fourth is no peer any more", || async {
        let figures = figures();
        figures.with("quorate_network_peer_connected", "node=\"a1\",peer=\"a4\"").is_nan().then_some(())
    })
    .await;
    eventually("what the fourth said of itself is over", || async {
        let figures = figures();
        let over = figures.of("a4", "quorate_ready").is_nan() && figures.of("a4", "quorate_has_leader").is_nan();
        over.then_some(())
    })
    .await;
    // And one of the three leads, in the eyes of each
    let leads = |figures: &Figures| NAMES.map(|node| figures.of(node, "quorate_is_leader"));
    eventually("one leads", || async { (leads(&figures()).iter().sum::<f64>() == 1.0).then_some(()) }).await;
    // When it writes, then all of them count what they apply, and their logs' syncs
    let before = figures();
    for n in 0..10 {
        nodes[1].client().kv().put(format!("k{n}"), "v").await.unwrap();
    }
    eventually("all have applied it", || async {
        let now = figures();
        let more = |node, name, by| now.of(node, name) >= before.of(node, name) + by;
        let all = NAMES.iter().all(|node| {
            more(node, "quorate_proposals_applied_total", 10.0)
                && more(node, "quorate_proposals_committed_total", 10.0)
                && more(node, "quorate_disk_log_entries_total", 10.0)
                && more(node, "quorate_disk_log_write_bytes_total", 100.0)
                && now.of(node, "quorate_store_revision") == now.of("a1", "quorate_store_revision")
        });
        all.then_some(())
    })
    .await;
    let now = figures();
    assert_eq!(now.with("quorate_requests_total", "node=\"a2\",kind=\"write\",outcome=\"done\""), 10.0);
    assert_eq!(now.of("a2", "quorate_proposals_pending"), 0.0);
    assert_eq!(now.of("a2", "quorate_proposals_failed_total"), before.of("a2", "quorate_proposals_failed_total"));
    // When leadership moves, each has seen one more
    let successor = *NAMES.iter().find(|node| now.of(node, "quorate_is_leader") == 0.0).unwrap();
    nodes[0].client().transfer_leadership(Some(successor)).await.unwrap();
    eventually("each has seen the new leader", || async {
        let after = figures();
        let seen = |node: &str| {
            after.of(node, "quorate_leader_changes_seen_total") > now.of(node, "quorate_leader_changes_seen_total")
        };
        (NAMES.iter().all(|node| seen(node)) && after.of(successor, "quorate_is_leader") == 1.0).then_some(())
    })
    .await;
    // When the quorum is lost
    for node in [nodes.remove(2), nodes.remove(1)] {
        node.abandon();
        node.stopped().await;
    }
    let client = nodes[0].client().with_deadline(Duration::from_secs(3));
    let write = client.kv().put("k", "v").await.unwrap_err();
    let read = client.kv().get("k").await.unwrap_err();
    assert!(write.is_retryable() || matches!(write, Error::Unknown(_)), "{write}");
    assert!(read.is_retryable(), "{read}");
    // Then the one that is left says so, and counts what it could not do
    let lost = eventually("it knows no leader", || async {
        let now = figures();
        (now.of("a1", "quorate_has_leader") == 0.0 && now.of("a1", "quorate_ready") == 0.0).then_some(now)
    })
    .await;
    assert_eq!(lost.of("a1", "quorate_quorum_margin"), -1.0);
    assert!(lost.of("a1", "quorate_proposals_failed_total") > now.of("a1", "quorate_proposals_failed_total"));
    assert!(lost.of("a1", "quorate_read_indexes_failed_total") > now.of("a1", "quorate_read_indexes_failed_total"));
    assert_eq!(lost.with("quorate_ready_check", "node=\"a1\",check=\"disk\""), 1.0);
    assert_eq!(lost.with("quorate_network_peer_connected", "node=\"a1\",peer=\"a2\""), 0.0);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_the_past_end_when_nobody_waits_for_them_any_more() {
    const READS: usize = 300;
    let recorder = &*RECORDER;
    let place = tempfile::tempdir().unwrap();
    // Given a manager with much of a past
    let node = builder(place.path(), "reader").start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    let first = node.client().kv().put("k", "at first").await.unwrap().revision;
    for n in 0..60_u8 {
        node.client().kv().put("k", vec![n; 1024 * 1024]).await.unwrap();
    }
    // and far more reads of all of it than are at work at once,
    let operator = Identity::load(&place.path().join("reader/operator.id")).unwrap();
    let client = Client::connect([node.address().to_string()], operator).await.unwrap();
    let client = client.with_deadline(Duration::from_secs(500));
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..READS {
        let kv = client.kv();
        asked.spawn(async move { kv.prefix("k").revision(first).await.unwrap().entries.len() });
    }
    let under_way = || async { Figures::now(recorder).of("reader", "quorate_requests_under_way") };
    assert_eq!(asked.join_next().await.unwrap().unwrap(), 1);
    eventually("they are under way", || async { (under_way().await > 50.0).then_some(()) }).await;
    // when who asked does not wait any more,
    asked.shutdown().await;
    // then they end, before they are done.
    eventually("none is under way", || async { (under_way().await == 0.0).then_some(()) }).await;
    let labels = "node=\"reader\",kind=\"read\",outcome=\"done\"";
    let done = Figures::now(recorder).with("quorate_requests_total", labels);
    assert!(done < READS as f64, "{done} were done");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_is_cut_and_loses_nothing() {
    let recorder = &*RECORDER;
    let place = tempfile::tempdir().unwrap();
    // Given two watches, over QUIC and in process, and a third that is read
    let node = builder(place.path(), "watched").start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    let connect = async || {
        let operator = Identity::load(&place.path().join("watched/operator.id")).unwrap();
        Client::connect([node.address().to_string()], operator).await.unwrap()
    };
    let mut stuck = connect().await.kv().watch("big").await.unwrap();
    let mut here = node.client().kv().watch("big").await.unwrap();
    let mut read = connect().await.kv().watch("big").await.unwrap();
    let figure = |name: &str| Figures::now(recorder).of("watched", name);
    eventually("they are counted", async || (figure("quorate_watches") == 3.0).then_some(())).await;
    let reading = tokio::spawn(async move {
        let told = follow(&mut read, 40).await;
        (told, read)
    });
    // When far more is written than any queue or window holds, and nobody reads the two
    let mut written = Vec::new();
    for number in 0..40u8 {
        let done = node.client().kv().put("big", vec![number; 1 << 20]).await.unwrap();
        written.push((done.revision, number));
    }
    // Then they are cut,
    eventually("they are cut", async || (figure("quorate_watches_cut_total") >= 2.0).then_some(())).await;
    let cuts = figure("quorate_watches_cut_total");
    // and still everything comes, in order and once, from the store.
    for watch in [&mut stuck, &mut here] {
        assert_eq!(follow(watch, 40).await, written);
    }
    let (told, read) = reading.await.unwrap();
    assert_eq!(told, written);
    assert!(cuts >= 2.0, "{cuts}");
    drop((stuck, here, read));
    eventually("none is left", async || (figure("quorate_watches") == 0.0).then_some(())).await;
    node.shutdown().await;
}

/// So many revisions of a watch: each with the byte that its value is full of.
async fn follow(watch: &mut Watch, count: usize) -> Vec<(u64, u8)> {
    let mut told = Vec::new();
    while told.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("something is told");
        match next {
            Ok(Watched::Changes(changes)) => {
                let value = &changes.changes[0].entry.as_ref().unwrap().value;
                assert!(value.len() == 1 << 20 && value.iter().all(|byte| *byte == value[0]));
                told.push((changes.revision, value[0]));
            }
            Ok(_) => {}
            Err(error) if error.is_retryable() => {}
            Err(error) => panic!("the watch is over: {error}"),
        }
    }
    told
}
