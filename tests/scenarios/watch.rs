//! Watches on real nodes: what is told, in which order, over whatever happens to the managers.

use std::collections::BTreeMap;

use quorate::{Change, Changes, Client, Error, Watch, Watched, operation};

use quorate_transport::frame::FrameKind;

use crate::between::GoBetween;
use crate::partition::wired_with_window;
use crate::support::{BUDGET, Cluster, eventually, says};

/// The next revision that concerns the watch; bookmarks are passed over, and none may have vouched for it.
pub async fn changes(watch: &mut Watch) -> Changes {
    let mut vouched = 0;
    tokio::time::timeout(BUDGET, async {
        loop {
            match watch.next().await {
                Ok(Watched::Changes(changes)) => {
                    assert!(changes.revision > vouched, "{} was told after bookmark {vouched}", changes.revision);
                    return changes;
                }
                Ok(Watched::Bookmark(upto)) => vouched = upto,
                Ok(_) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => panic!("the watch is over: {error}"),
            }
        }
    })
    .await
    .expect("something is told")
}

/// Keys and values of what the next revision did; a removed key has none.
async fn told(watch: &mut Watch) -> Vec<(String, Option<String>)> {
    changes(watch).await.changes.iter().map(plain).collect()
}

fn plain(change: &Change) -> (String, Option<String>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&change.key), change.entry.as_ref().map(|entry| text(&entry.value)))
}

fn put(key: &str, value: &str) -> (String, Option<String>) {
    (key.to_owned(), Some(value.to_owned()))
}

fn gone(key: &str) -> (String, Option<String>) {
    (key.to_owned(), None)
}

/// What makes it final.
async fn refused(watch: &mut Watch) -> Error {
    tokio::time::timeout(BUDGET, async {
        loop {
            match watch.next().await {
                Ok(_) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => return error,
            }
        }
    })
    .await
    .expect("the watch is over")
}

/// These revisions come, in order and once, and none between them.
async fn follows_all(watch: &mut Watch, revisions: &[u64]) {
    for revision in revisions {
        let changes = changes(watch).await;
        assert_eq!(changes.revision, *revision);
    }
}

/// Up to this revision there was nothing for it.
async fn told_nothing_up_to(watch: &mut Watch, revision: u64) {
    let hears = async {
        loop {
            match watch.next().await {
                Ok(Watched::Changes(changes)) => panic!("it is told of {changes:?}"),
                Ok(Watched::Bookmark(upto)) if upto >= revision => return,
                Ok(_) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => panic!("the watch is over: {error}"),
            }
        }
    };
    tokio::time::timeout(BUDGET, hears).await.expect("a bookmark comes");
}

async fn write(client: &Client, key: &str, count: usize) -> Vec<u64> {
    let mut revisions = Vec::new();
    for number in 0..count {
        revisions.push(client.kv().put(key.to_owned(), number.to_string()).await.unwrap().revision);
    }
    revisions
}

#[tokio::test]
async fn a_watch_tells_what_becomes_of_its_keys_and_nothing_else() {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    kv.put("a/1", "before").await.unwrap();
    // Given watches that begin now, of one key and of a prefix, over QUIC and in process
    let outside = cluster.outside(&[0]).await;
    let mut one = outside.kv().watch("a/1").await.unwrap();
    let mut all = kv.watch("a/").prefix().previous().await.unwrap();
    let mut removals = outside.kv().watch("").prefix().deletes_only().await.unwrap();
    let mut writes = kv.watch("a/").prefix().puts_only().keys_only().await.unwrap();
    // When keys are written and removed, several of them in one revision
    let first = kv.put("a/1", "one").await.unwrap().revision;
    kv.put("b/1", "unrelated").await.unwrap();
    let both = kv.txn().then(operation::put("a/2", "two")).then(operation::delete("a/1")).await.unwrap().revision;
    kv.put("a/1", "again").await.unwrap();
    // Then each is told its part, revision by revision
    let told_first = changes(&mut one).await;
    assert_eq!((told_first.revision, plain(&told_first.changes[0])), (first, put("a/1", "one")));
    assert_eq!(told_first.changes[0].entry.as_ref().unwrap().version, 2);
    assert_eq!(told_first.changes[0].previous, None, "it was not asked for");
    assert_eq!(told(&mut one).await, [gone("a/1")]);
    let recreated = changes(&mut one).await;
    assert_eq!(plain(&recreated.changes[0]), put("a/1", "again"));
    let entry = recreated.changes[0].entry.as_ref().unwrap();
    assert_eq!((entry.version, entry.create_revision), (1, recreated.revision), "it is another key by the same name");

    let previous = |change: &Change| change.previous.as_ref().map(|entry| entry.value.clone());
    assert_eq!(previous(&changes(&mut all).await.changes[0]).as_deref(), Some(&b"before"[..]));
    let atomic = changes(&mut all).await;
    assert_eq!((atomic.revision, atomic.changes.len()), (both, 2));
    assert_eq!(plain(&atomic.changes[0]), put("a/2", "two"));
    assert_eq!((atomic.changes[1].is_delete(), previous(&atomic.changes[1]).as_deref()), (true, Some(&b"one"[..])));
    assert_eq!(told(&mut all).await, [put("a/1", "again")]);

    assert_eq!(told(&mut removals).await, [gone("a/1")]);
    for key in ["a/1", "a/2", "a/1"] {
        let told = told(&mut writes).await;
        assert_eq!(told, [put(key, "")], "the value is left out");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_read_and_a_watch_from_the_revision_after_it_fit_together() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let kv = client.kv();
    // Given somebody who writes all the time
    let writing = tokio::spawn({
        let kv = kv.clone();
        async move {
            for number in 0..200 {
                kv.put(format!("jobs/{}", number % 7), number.to_string()).await.unwrap();
            }
            kv.put("jobs/end", "").await.unwrap();
        }
    });
    // When the keys are read at some moment, and watched from the revision after that
    eventually("some are written", || async { (kv.prefix("jobs/").await.unwrap().entries.len() > 3).then_some(()) })
        .await;
    let page = kv.prefix("jobs/").await.unwrap();
    let mut seen: BTreeMap<_, _> = page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut watch = kv.watch("jobs/").prefix().from_revision(page.revision + 1).await.unwrap();
    while !seen.contains_key(&b"jobs/end"[..]) {
        for change in changes(&mut watch).await.changes {
            seen.insert(change.key, change.entry.expect("nothing is removed").value);
        }
    }
    writing.await.unwrap();
    // Then the two together are what is there
    let now: BTreeMap<_, _> = kv.prefix("jobs/").all().await.unwrap().into_iter().map(|e| (e.key, e.value)).collect();
    assert_eq!(seen, now);
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_from_the_future_waits_for_its_revision() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let now = client.kv().put("k", "0").await.unwrap().revision;
    let mut watch = client.kv().watch("k").from_revision(now + 3).await.unwrap();
    let revisions = write(&client, "k", 5).await;
    assert_eq!(changes(&mut watch).await.revision, now + 3);
    follows_all(&mut watch, &revisions[3..]).await;
    assert_eq!(watch.next_revision(), now + 6);
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_its_leader_is_killed() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let mut watches = Vec::new();
    for _ in 0..6 {
        // They spread over the managers: whoever dies, some of them lose theirs.
        watches.push(cluster.outside(&[0, 1, 2]).await.kv().watch("k").await.unwrap());
    }
    let mut revisions = write(&client, "k", 10).await;
    for watch in &mut watches {
        follows_all(watch, &revisions[..4]).await;
    }
    // When leaders are killed, one after the other, and writing goes on
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        revisions.extend(write(&client, "k", 10).await);
        cluster.restart(leader).await;
        cluster.settled(3).await;
    }
    // Then each watch is told every revision, in order and once
    for watch in &mut watches {
        follows_all(watch, &revisions[4..]).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_moves_on_when_its_manager_stops_or_loses_its_quorum() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    let follower = cluster.others(cluster.leader().await)[0];
    // Given a watch whose first manager is a follower that is stopped in order
    let order = [&[follower][..], &cluster.others(follower)].concat();
    let mut watch = cluster.outside(&order).await.kv().watch("k").await.unwrap();
    let mut in_process = cluster.node(cluster.leader().await).client().kv().watch("k").await.unwrap();
    let node = cluster.members[follower].node.take().unwrap();
    assert_eq!(node.shutdown().await, quorate::StopReason::Asked);
    let client = if cluster.running().contains(&0) { client } else { cluster.any().client() };
    let revisions = write(&client, "k", 3).await;
    follows_all(&mut watch, &revisions).await;
    follows_all(&mut in_process, &revisions).await;
    // When only one manager is left: it knows nothing new, and says so
    let last = cluster.leader().await;
    let other = cluster.others(last)[0];
    cluster.kill(other).await;
    let hasty = cluster.outside(&[last]).await.with_deadline(std::time::Duration::from_secs(2));
    let mut alone = hasty.kv().watch("k").from_revision(1).await.unwrap();
    follows_all(&mut alone, &revisions).await;
    let told = tokio::time::timeout(BUDGET, async {
        loop {
            if let Err(error) = alone.next().await {
                return error;
            }
        }
    });
    let error = told.await.expect("it is told");
    assert!(error.is_retryable(), "{error}");
    says(&error, &["no quorum"]);
    // And when the others are back, the very same watch goes on
    cluster.restart(follower).await;
    cluster.restart(other).await;
    let more = write(&cluster.outside(&[0, 1, 2]).await, "k", 3).await;
    follows_all(&mut alone, &more).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_installed_under_a_watch_and_nothing_is_skipped_or_told_again() {
    // Given managers that keep little of the log for who is away, and a watch of one of them, which is told what there is
    let (cluster, wires) = wired_with_window(16).await;
    let away = cluster.others(cluster.leader().await)[0];
    let client = cluster.outside(&cluster.others(away)).await;
    let before = write(&client, "k", 5).await;
    let mut watch = cluster.outside(&[away]).await.kv().watch("k").from_revision(before[2]).await.unwrap();
    follows_all(&mut watch, &before[2..]).await;
    let name = cluster.node(away).name();
    let installed = async || {
        let status = cluster.node(away).status().await;
        status.managers.iter().find(|manager| manager.name == name).unwrap().snapshots.installed
    };
    let earlier = installed().await;
    // when that manager is cut off from the others for longer than the log reaches back, and more than is on its way to it,
    wires.cut(&[away]);
    let missed = write(&client, "k", 400).await;
    wires.heal();
    eventually("it gets a snapshot", async || (installed().await > earlier).then_some(())).await;
    let after = write(&client, "k", 5).await;
    // then everything is told, in order and once.
    follows_all(&mut watch, &[missed, after].concat()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_read_the_past_slowly_hold_up_neither_one_that_reads_nor_anybody_else() {
    // Given a past of a few mebibytes,
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let mut revisions = Vec::new();
    for number in 0..30u8 {
        revisions.push(client.kv().put("past", vec![number; 100 << 10]).await.unwrap().revision);
    }
    // and more watches that begin there and are not read than there are places for slow ones
    let from =
        |client: Client| async move { client.kv().watch("past").from_revision(revisions_begin(&client).await).await };
    let idle = cluster.outside(&[0]).await;
    let mut stuck = Vec::new();
    for _ in 0..300 {
        stuck.push(from(idle.clone()).await.unwrap());
    }
    // Then one that is read is told everything, also while they wait,
    let mut healthy = from(client.clone()).await.unwrap();
    follows_all(&mut healthy, &revisions).await;
    assert_eq!(client.kv().get("past").await.unwrap().unwrap().value.len(), 100 << 10);
    // and of the others each, once it is read, in order and once.
    for watch in stuck.iter_mut().step_by(60) {
        follows_all(watch, &revisions).await;
    }
    cluster.stop().await;
}

/// The revision that wrote the key first.
async fn revisions_begin(client: &Client) -> u64 {
    client.kv().get("past").await.unwrap().unwrap().create_revision
}

#[tokio::test]
async fn at_the_edge_of_what_is_compacted_a_watch_begins_or_is_told_why_not() {
    // Given a manager that keeps ten revisions
    let mut cluster = Cluster::empty();
    let directory = cluster.path("m1");
    let builder = cluster.builder(&directory, "m1");
    let node = builder.start(quorate::Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    cluster.add(directory, node);
    cluster.any().client().policy().set().history_revisions(10).await.unwrap();
    let kv = cluster.any().client().kv();
    let revisions = write(&cluster.any().client(), "k", 100).await;
    let oldest = eventually("history is compacted", || async {
        let mut watch = kv.watch("k").from_revision(1).await.unwrap();
        match watch.next().await {
            Err(Error::Compacted { oldest, .. }) => Some(oldest),
            _ => None,
        }
    })
    .await;
    // Then at the edge and above it every revision is told, and below it none
    for (from, follows) in [(oldest, oldest), (oldest + 1, oldest + 1)] {
        let mut watch = kv.watch("k").from_revision(from).await.unwrap();
        let wanted: Vec<u64> = revisions.iter().copied().filter(|revision| *revision >= follows).collect();
        assert!(!wanted.is_empty());
        follows_all(&mut watch, &wanted).await;
    }
    let mut watch = kv.watch("k").from_revision(oldest - 1).await.unwrap();
    let error = refused(&mut watch).await;
    assert!(matches!(error, Error::Compacted { oldest: edge, .. } if edge == oldest), "{error}");
    says(&error, &["compacted", &oldest.to_string(), "read the keys anew"]);
    assert_eq!(watch.next().await, Err(error), "it is over");
    cluster.stop().await;
}

#[tokio::test]
async fn what_may_not_or_cannot_be_watched_is_refused() {
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    let error = kv.watch("").await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let error = kv.watch("b").range_to("a").await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let error = kv.watch(vec![b'k'; 5000]).await.unwrap_err();
    says(&error, &["KEY_BYTES_MAX"]);
    // A worker's own identity reads nothing, from its process and on its socket.
    let worker = cluster.worker("w1").await;
    let error = worker.client().kv().watch("k").await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    let socket = Client::local(cluster.path("w1")).await.unwrap();
    let error = socket.kv().watch("k").await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error}");
    // On a manager's socket its operator watches.
    let mut watch = Client::local(&cluster.members[0].directory).await.unwrap().kv().watch("k").await.unwrap();
    let revisions = write(&cluster.any().client(), "k", 3).await;
    follows_all(&mut watch, &revisions).await;
    drop(watch);
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watches_on_one_manager() {
    const WATCHES: usize = 10_000;
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let before = resident();
    let mut watches = Vec::with_capacity(WATCHES);
    for number in 0..WATCHES {
        // Every hundredth watches them all.
        let watch = match number % 100 {
            0 => client.kv().watch("w/").prefix(),
            _ => client.kv().watch(format!("w/{number}")),
        };
        watches.push(watch.await.unwrap());
    }
    let grown = resident().saturating_sub(before);
    println!("{WATCHES} watches, both ends in this process: {} KiB each", grown / 1024 / WATCHES);
    // Both ends of the watches, of their streams and of 79 connections: a quarter of a GiB is modest.
    assert!(grown < 512 << 20, "{} MiB", grown >> 20);
    // When some keys are written, among many that nobody watches
    for number in 0..200 {
        client.kv().put(format!("unwatched/{number}"), "x").await.unwrap();
    }
    let first = client.kv().put("w/17", "x").await.unwrap().revision;
    let second = client.kv().put("w/9999", "y").await.unwrap().revision;
    // Then those concerned are told
    follows_all(&mut watches[17], &[first]).await;
    follows_all(&mut watches[9_999], &[second]).await;
    for number in (0..WATCHES).step_by(100) {
        follows_all(&mut watches[number], &[first, second]).await;
    }
    // and nobody else: the others only hear that they were told everything.
    for (number, watch) in watches.iter_mut().enumerate() {
        if number % 100 != 0 && number != 17 && number != 9_999 {
            told_nothing_up_to(watch, second).await;
        }
    }
    // And when all end, nothing is left of them
    assert_eq!(cluster.any().watches(), WATCHES);
    drop(watches);
    eventually("none is left", async || (cluster.any().watches() == 0).then_some(())).await;
    cluster.stop().await;
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_watch_whose_stream_is_cut_at_any_byte_loses_nothing_and_hears_nothing_twice() {
    let cluster = Cluster::founded().await;
    let near = cluster.path("near");
    std::fs::create_dir(&near).unwrap();
    let between = GoBetween::start(&cluster.members[0].directory, &near, FrameKind::Feed);
    let client = Client::local(&near).await.unwrap();
    let kv = cluster.any().client().kv();
    let mut revisions = write(&cluster.any().client(), "k", 3).await;
    revisions.push(kv.txn().then(operation::put("k", "x")).then(operation::put("k2", "y")).await.unwrap().revision);
    // One after the other every byte is the last one that passes; 400 are more than all of it has.
    for byte in 0..400 {
        between.cut_answer_after(byte);
        let mut watch = client.kv().watch("k").prefix().from_revision(revisions[0]).await.unwrap();
        follows_all(&mut watch, &revisions[..3]).await;
        let last = changes(&mut watch).await;
        assert_eq!((last.revision, last.changes.len()), (revisions[3], 2), "cut after {byte} bytes");
    }
    let cuts = between.cuts();
    assert!(cuts > 100, "most of them hit the stream: {cuts}");
    // Of a revision that comes in several pieces half is none: wherever it is cut, it comes whole.
    let large = |key: &str| operation::put(key.to_owned(), vec![b'x'; 300_000]);
    let txn = (0..3).fold(kv.txn(), |txn, number| txn.then(large(&format!("large/{number}"))));
    let revision = txn.await.unwrap().revision;
    let after = kv.put("large/after", "x").await.unwrap().revision;
    for byte in (0..1_000_000).step_by(25_000) {
        between.cut_answer_after(byte);
        let mut watch = client.kv().watch("large/").prefix().from_revision(revision).await.unwrap();
        let whole = changes(&mut watch).await;
        assert_eq!((whole.revision, whole.changes.len()), (revision, 3), "cut after {byte} bytes");
        assert_eq!(changes(&mut watch).await.revision, after, "cut after {byte} bytes");
    }
    assert!(between.cuts() > cuts + 30, "most of them hit the stream: {}", between.cuts() - cuts);
    cluster.stop().await;
}

#[tokio::test]
async fn a_standby_serves_watches_as_any_manager_does() {
    // Given a voter and a standby
    let cluster = Cluster::of(2).await;
    let client = cluster.any().client();
    let standby = cluster.others(cluster.leader().await)[0];
    let before = write(&client, "k", 3).await;
    let mut past = cluster.outside(&[standby]).await.kv().watch("k").from_revision(before[0]).await.unwrap();
    let mut now = cluster.node(standby).client().kv().watch("k").await.unwrap();
    let after = write(&client, "k", 3).await;
    follows_all(&mut past, &[before, after.clone()].concat()).await;
    // What was acknowledged before it began is not told.
    follows_all(&mut now, &after).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_mirror_is_what_there_was_at_its_revision_and_lists_anew_where_history_is_gone() {
    // Given a manager that keeps ten revisions, and a mirror
    let mut cluster = Cluster::empty();
    let directory = cluster.path("m1");
    let builder = cluster.builder(&directory, "m1");
    let node = builder.start(quorate::Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    cluster.add(directory, node);
    cluster.any().client().policy().set().history_revisions(10).await.unwrap();
    let client = cluster.outside(&[0]).await;
    let kv = client.kv();
    kv.put("m/kept", "1").await.unwrap();
    kv.put("m/gone", "1").await.unwrap();
    let mut mirror = kv.mirror("m/").await.unwrap();
    // What is there is in the view, and told at once
    let first = mirror.next().await.unwrap().unwrap();
    assert_eq!(first.revision, mirror.revision());
    assert!(first.changes.iter().map(|change| change.entry.as_ref().unwrap()).eq(mirror.view().values()));
    assert_eq!(mirror.view().len(), 2);
    // What becomes of keys is in it when it was told, and not before
    let second = kv.put("m/kept", "2").await.unwrap().revision;
    assert_eq!(mirror.view()[&b"m/kept"[..]].value, "1");
    let changes = mirror.next().await.unwrap().unwrap();
    assert_eq!((changes.revision, mirror.revision()), (second, second));
    assert_eq!(changes.changes[0].previous.as_ref().unwrap().value, "1");
    assert_eq!(mirror.view()[&b"m/kept"[..]].value, "2");
    // When its manager is restarted, and what comes next is compacted before it looks again
    cluster.kill(0).await;
    let node = cluster.builder_of(0).start(quorate::Start::Open).await.unwrap();
    node.ready().await.unwrap();
    cluster.members[0].node = Some(node);
    kv.delete("m/gone").await.unwrap();
    kv.put("m/new", "1").await.unwrap();
    write(&client, "m/many", 60).await;
    eventually("history is compacted", || async {
        let error = kv.watch("m/new").from_revision(second + 1).await.unwrap().next().await;
        matches!(error, Err(Error::Compacted { .. })).then_some(())
    })
    .await;
    let changes = mirror.next().await.unwrap().unwrap();
    // Then the difference is told at once, and the view is what there is
    let told: BTreeMap<_, _> = changes.changes.iter().map(plain).collect();
    assert_eq!(told, BTreeMap::from([gone("m/gone"), put("m/new", "1"), put("m/many", "59")]));
    let now = kv.prefix("m/").await.unwrap();
    assert!(now.entries.iter().eq(mirror.view().values()) && now.revision >= mirror.revision());
    // And it goes on
    let last = kv.put("m/kept", "3").await.unwrap().revision;
    assert_eq!(mirror.next().await.unwrap().unwrap().revision, last);
    cluster.stop().await;
}

#[tokio::test]
async fn a_key_that_is_deleted_and_made_again_under_a_watch_is_told_as_each_of_these() {
    // Given a watch that wants to know what was there before, and one that wants deletes only
    let cluster = Cluster::founded().await;
    let kv = cluster.any().client().kv();
    let mut all = kv.watch("k").previous().await.unwrap();
    let mut deletes = kv.watch("k").deletes_only().await.unwrap();
    // When the key comes, goes, comes again as another, and that all over, once in one transaction with a neighbour
    let mut expected = Vec::new();
    for round in 0..3 {
        let value = format!("v{round}");
        let made = kv.put("k", value.clone()).await.unwrap().revision;
        let removed = kv.txn().then(operation::delete("k")).then(operation::put("k2", "x")).await.unwrap().revision;
        expected.push((made, value, removed));
    }
    // Then each is told, in order, with what it ended: nothing of one life is taken for the next.
    for (made, value, removed) in &expected {
        let told = changes(&mut all).await;
        assert_eq!((told.revision, told.changes.len()), (*made, 1));
        assert_eq!(plain(&told.changes[0]), put("k", value));
        let entry = told.changes[0].entry.as_ref().unwrap();
        assert_eq!((entry.version, entry.create_revision), (1, *made), "a life of its own");
        assert!(told.changes[0].previous.is_none());
        let told = changes(&mut all).await;
        assert_eq!((told.revision, plain(&told.changes[0])), (*removed, gone("k")));
        let previous = told.changes[0].previous.as_ref().unwrap();
        assert_eq!((previous.mod_revision, &previous.value[..]), (*made, value.as_bytes()));
        assert_eq!(changes(&mut deletes).await.revision, *removed);
    }
    // One that begins in the middle is told the rest alike.
    let mut later = kv.watch("k").from_revision(expected[1].0).await.unwrap();
    for revision in [expected[1].0, expected[1].2, expected[2].0, expected[2].2] {
        assert_eq!(changes(&mut later).await.revision, revision);
    }
    cluster.stop().await;
}
