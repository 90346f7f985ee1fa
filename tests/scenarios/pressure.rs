//! Many at once, members that come and go, and bytes that are no requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message as _;
use quorate::Client;
use quorate::status::SnapshotStatus;
use quorate_core::command::{LeaseOrder, LeaseOrderKind, Request};
use quorate_core::testing::Rng;
use quorate_core::txn::{Compare, Delete, Put, Range, Txn};
use quorate_transport::api;
use tokio::task::JoinHandle;

use crate::support::{Cluster, eventually, raw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_puts_at_once_are_each_applied_once_at_a_revision_of_their_own() {
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let before = client.kv().prefix("").count_only().await.unwrap().revision;
    let mut tasks = Vec::new();
    for number in 0..200 {
        // Half of them from inside, at every member; all of them on one key besides their own.
        let client = if number % 2 == 0 { client.clone() } else { cluster.node(number % 3).client() };
        tasks.push(tokio::spawn(async move {
            let own = quorate::operation::put(format!("n/{number}"), "x");
            let shared = quorate::operation::put("shared", number.to_string());
            client.kv().txn().then(own).then(shared).await.unwrap().revision
        }));
    }
    let mut revisions = BTreeSet::new();
    for task in tasks {
        assert!(revisions.insert(task.await.unwrap()), "two writes have one revision");
    }
    assert_eq!(revisions.len(), 200);
    assert!(revisions.first().unwrap() > &before);
    let kv = client.kv();
    let found = kv.prefix("n/").all().await.unwrap();
    assert_eq!(found.len(), 200);
    assert!(found.iter().all(|entry| entry.version == 1 && revisions.contains(&entry.mod_revision)));
    let shared = kv.get("shared").await.unwrap().unwrap();
    assert_eq!(shared.version, 200);
    assert_eq!(Some(&shared.mod_revision), revisions.last());
    cluster.agrees().await;
    cluster.stop().await;
}

/// Writers that go on until they are told to stop; each says how many of its writes were acknowledged.
struct Load {
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<usize>>,
}

impl Load {
    fn start(clients: Vec<Client>, value: usize) -> Self {
        let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let writers = clients.into_iter().enumerate().map(|(writer, client)| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let client = client.with_deadline(crate::support::BUDGET);
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.kv().put(format!("load/{writer}/{number}"), vec![b'x'; value]).await.unwrap();
                    number += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                number
            })
        });
        let writers = writers.collect();
        Self { done, stop, writers }
    }

    /// Waits for so many more acknowledged writes.
    async fn more(&self, count: usize) {
        let until = self.done.load(Ordering::Relaxed) + count;
        eventually("writes go on", || async {
            assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer failed");
            (self.done.load(Ordering::Relaxed) >= until).then_some(())
        })
        .await;
    }

    /// Ends it; every acknowledged write must be there and have been applied once.
    async fn settle(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        let kv = cluster.any().client().kv();
        for (writer, task) in self.writers.into_iter().enumerate() {
            let written = task.await.unwrap();
            let found = kv.prefix(format!("load/{writer}/")).all().await.unwrap();
            assert_eq!(found.len(), written);
            assert!(found.iter().all(|entry| entry.version == 1), "a write was applied twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_over_leader_kills_are_applied_once() {
    let mut cluster = Cluster::of(3).await;
    // Given writers that know every address; members keep theirs over a restart.
    let mut clients = Vec::new();
    for first in 0..4 {
        clients.push(cluster.outside(&[first % 3, (first + 1) % 3, (first + 2) % 3]).await);
    }
    let load = Load::start(clients, 16);
    for _ in 0..4 {
        load.more(20).await;
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        load.more(20).await;
        cluster.restart(leader).await;
        cluster.settled(3).await;
    }
    load.settle(&cluster).await;
    cluster.agrees().await;
    cluster.stop().await;
}

/// What a running member says of its snapshots.
async fn snapshots(cluster: &Cluster, member: usize) -> SnapshotStatus {
    let (status, name) = (cluster.node(member).status().await, cluster.node(member).name());
    status.managers.iter().find(|manager| manager.name == name).unwrap().snapshots
}

/// Waits for so many more entries of the log.
async fn entries(cluster: &Cluster, more: u64) {
    let applied = async || {
        let status = cluster.any().status().await;
        status.managers.iter().map(|manager| manager.applied).max().unwrap()
    };
    let before = applied().await;
    eventually("the log grows", async || (applied().await >= before + more).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_open_increments_of_one_client_count_once_over_leader_kills_restarts_and_snapshots() {
    // Given managers that keep little for others, and one client that has 48 increments of one counter open at any time,
    // answered in whatever order
    let mut cluster = Cluster::grown(3, 16).await;
    let client = cluster.outside(&[0, 1, 2]).await.with_deadline(crate::support::BUDGET);
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<JoinHandle<Vec<u64>>> = (0..48)
        .map(|_| {
            let (client, done, stop) = (client.clone(), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    revisions.push(client.kv().put("counter", "x").await.unwrap().revision);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                revisions
            })
        })
        .collect();
    let more = |count: usize| {
        let done = Arc::clone(&done);
        async move {
            let until = done.load(Ordering::Relaxed) + count;
            eventually("increments go on", || async { (done.load(Ordering::Relaxed) >= until).then_some(()) }).await;
        }
    };
    // When each manager in turn is killed while it leads, and comes back by what the others have
    let mut installed = 0;
    for _ in 0..3 {
        more(200).await;
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        // (many of them share an entry of the log)
        entries(&cluster, 64).await;
        cluster.restart(leader).await;
        cluster.settled(3).await;
        installed += snapshots(&cluster, leader).await.installed;
    }
    // (one that is ahead of the others, or comes back at once, needs none)
    assert!(installed > 0, "nobody was so far behind");
    stop.store(true, Ordering::Relaxed);
    // Then every increment that was answered counts, and none twice
    let mut revisions = BTreeSet::new();
    let mut answered = 0;
    for writer in writers {
        let told = writer.await.unwrap();
        assert!(told.is_sorted(), "an answer was that of another increment");
        answered += told.len();
        revisions.extend(told);
    }
    assert_eq!(revisions.len(), answered, "two increments have one revision");
    let counter = client.kv().get("counter").await.unwrap().unwrap();
    assert_eq!(usize::try_from(counter.version).unwrap(), answered);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_restarts_all_the_time_gets_snapshots_and_the_same_state() {
    let mut cluster = Cluster::grown(3, 32).await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let load = Load::start(vec![cluster.node(leader).client(), cluster.outside(&cluster.others(away)).await], 1024);
    let (mut sent, mut installed) = (0, 0);
    for _ in 0..6 {
        cluster.kill(away).await;
        load.more(120).await;
        cluster.restart(away).await;
        let status = cluster.settled(3).await;
        installed += eventually("it has caught up", async || {
            let own = snapshots(&cluster, away).await;
            (own.installed > 0).then_some(own.installed)
        })
        .await;
        sent = sent.max(status.managers.iter().map(|manager| manager.snapshots.sent).sum());
    }
    assert!(installed >= 6, "{installed}");
    assert!(sent > 0, "{sent}");
    load.settle(&cluster).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_while_it_installs_a_snapshot_comes_back_whole() {
    let mut cluster = Cluster::grown(3, 32).await;
    // Given enough state that a snapshot takes a while.
    let client = cluster.any().client();
    for number in 0..60 {
        client.kv().put(format!("big/{number}"), vec![b'x'; 200 << 10]).await.unwrap();
    }
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    let load = Load::start(vec![cluster.node(leader).client()], 1024);
    // When it dies again and again at other moments of its catching up: each time a little later.
    for round in 0..14_u32 {
        cluster.kill(away).await;
        load.more(60).await;
        cluster.restart(away).await;
        tokio::time::sleep(Duration::from_millis(35) * round).await;
    }
    // Then at last it has everything.
    load.settle(&cluster).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    let kv = cluster.node(away).client().kv();
    assert_eq!(kv.prefix("big/").keys_only().all().await.unwrap().len(), 60);
    cluster.stop().await;
}

/// Well-formed requests of every kind; what is made of them is not.
fn requests() -> Vec<Vec<u8>> {
    let txn = Txn {
        compares: vec![Compare::absent("garbage/a"), Compare::mod_revision("garbage/b", 3)],
        then: vec![
            Put { key: "garbage/a".into(), value: "1".into(), ..Put::default() }.into(),
            Delete { key: "garbage/b".into(), end: "garbage/c".into(), previous: true }.into(),
            Range { key: "garbage/".into(), end: "garbage0".into(), limit: 3, ..Range::default() }.into(),
        ],
        or_else: vec![Put { key: "garbage/d".into(), value: "2".into(), previous: true, ..Put::default() }.into()],
        ..Txn::default()
    };
    let write = Request { client: vec![5; 16].into(), sequence: 1, low_water: 1, txn: Some(txn), ..Request::default() };
    let order = LeaseOrder { kind: Some(LeaseOrderKind::Grant(60_000)), fence: None };
    let grant = Request { client: vec![6; 16].into(), sequence: 1, lease: Some(order), ..Request::default() };
    let range = Range { key: "a".into(), end: "z".into(), ..Range::default() };
    let kinds = [
        api::request::Kind::Write(api::Write { request: write.encode_to_vec().into(), reads: false }),
        api::request::Kind::Read(api::Read { range: range.encode_to_vec().into(), serializable: false }),
        api::request::Kind::Read(api::Read { range: range.encode_to_vec().into(), serializable: true }),
        api::request::Kind::Status(api::Status {}),
        api::request::Kind::MemberStatus(api::MemberStatus {}),
        api::request::Kind::TokenShow(api::TokenShow { role: "king".into() }),
        api::request::Kind::Transfer(api::Transfer { to: "nobody".into(), term: 0 }),
        api::request::Kind::Command(api::Command { command: write.encode_to_vec().into(), behalf: None }),
        api::request::Kind::LeaseWrite(api::LeaseWrite { request: grant.encode_to_vec().into() }),
        api::request::Kind::LeaseKeepAlive(api::LeaseKeepAlive { lease: u64::MAX }),
        api::request::Kind::LeaseList(api::LeaseList { after: u64::MAX, limit: 3 }),
        api::request::Kind::LeaseShow(api::LeaseShow { lease: u64::MAX, after: "garbage/a".into() }),
    ];
    kinds.into_iter().map(|kind| api::Request { deadline_ms: 2_000, kind: Some(kind) }.encode_to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_good_identity_hurts_nobody() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let term = cluster.any().status().await.term;
    let good = requests();
    let mut dice = Rng::stream(11, 0);
    let (mut answered, mut sent) = (0, 0);
    for index in [leader, (leader + 1) % 3] {
        let connection = raw(&cluster, index).await;
        let mut bodies = vec![Vec::new(), vec![0], vec![0xff; 4096]];
        for _ in 0..250 {
            let mut body = good[dice.index(good.len())].clone();
            match dice.index(4) {
                0 => body.truncate(dice.index(body.len())),
                1 => body.extend((0..dice.index(40)).map(|_| u8::try_from(dice.index(256)).unwrap())),
                _ => {
                    for _ in 0..=dice.index(6) {
                        let at = dice.index(body.len());
                        body[at] = u8::try_from(dice.index(256)).unwrap();
                    }
                }
            }
            bodies.push(body);
        }
        for body in bodies {
            sent += 1;
            // A deadline that was garbled to nothing or to an hour is the caller's own.
            let answer = connection.request(body.into(), Duration::from_secs(3)).await;
            if let Ok(answer) = answer {
                api::Response::decode(answer).unwrap();
                answered += 1;
            }
        }
    }
    assert!(answered * 10 > sent * 9, "{answered} of {sent}");
    // A request that is larger than any may be costs its own caller only.
    let connection = raw(&cluster, leader).await;
    connection.request(vec![7; 64 << 20].into(), Duration::from_secs(10)).await.unwrap_err();
    // Then everybody runs on, in the same term, with the same state.
    let client = cluster.outside(&[0, 1, 2]).await;
    client.kv().put("still", "here").await.unwrap();
    let status = cluster.settled(3).await;
    assert_eq!(status.managers.len(), 3);
    let leads = cluster.node(leader).name();
    assert!(status.term == term || status.leader.as_ref() != Some(&leads), "{} {}", status.term, term);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_one_revision_do_not_see_the_writes_between_them() {
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let kv = client.kv();
    for number in 0..40 {
        kv.put(format!("p/{number:02}"), "old").await.unwrap();
    }
    let mut found = Vec::new();
    let (mut from, mut revision) = (b"p/".to_vec(), 0);
    loop {
        let page = kv.range(from.clone(), "p0").limit(7).revision(revision).await.unwrap();
        revision = page.revision;
        let last = page.entries.last().unwrap().key.to_vec();
        found.extend(page.entries);
        // Meanwhile what was read and what was not is changed, removed and added to, through another manager.
        let done = found.len();
        let other = cluster.node(done % 3).client().kv();
        other.put(format!("p/{:02}", (done + 1) % 40), "new").await.unwrap();
        other.delete(format!("p/{:02}", (done + 2) % 40)).await.unwrap();
        other.put(format!("p/{:02}x", (done + 3) % 40), "new").await.unwrap();
        if !page.more {
            break;
        }
        from = [&last[..], &[0]].concat();
    }
    let keys: Vec<_> = found.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect();
    assert_eq!(keys, (0..40).map(|number| format!("p/{number:02}")).collect::<Vec<_>>());
    assert!(found.iter().all(|entry| entry.value == "old"));
    // A page of today sees them.
    assert_ne!(kv.prefix("p/").all().await.unwrap(), found);
    // A revision that does not exist yet is refused, not waited for.
    let refused = kv.prefix("p/").revision(revision + 1_000_000).await.unwrap_err();
    assert!(matches!(refused, quorate::Error::Invalid(_)), "{refused}");
    cluster.stop().await;
}
