//! Typed tables on real nodes: what is written and read, who wins, and what follows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::{
    Codec, CodecError, Error, Outcome, Row, RowChange, RowChanges, RowsWatched, Start, Table, TableMirror, compare,
    operation,
};
use serde::{Deserialize, Serialize};

use crate::support::{BUDGET, Cluster, eventually};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pod {
    image: String,
    ready: bool,
    #[serde(default)]
    restarts: u64,
}

fn pod(image: &str) -> Pod {
    Pod { image: image.into(), ..Pod::default() }
}

/// Numbers as decimal text.
#[derive(Clone)]
struct Text;

impl Codec<u64> for Text {
    fn encode(&self, value: &u64) -> Result<Bytes, CodecError> {
        if *value == u64::MAX { Err("too large for a test".into()) } else { Ok(value.to_string().into()) }
    }

    fn decode(&self, bytes: &Bytes) -> Result<u64, CodecError> {
        Ok(std::str::from_utf8(bytes)?.parse()?)
    }
}

/// What a mirror shows, in short.
fn view<C: Codec<Pod>>(mirror: &TableMirror<Pod, C>) -> BTreeMap<String, String> {
    mirror.view().values().map(|row| (row.name().into_owned(), row.value.image.clone())).collect()
}

fn is(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    rows.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect()
}

async fn next<C: Codec<Pod>>(mirror: &mut TableMirror<Pod, C>) -> RowChanges<Pod> {
    tokio::time::timeout(BUDGET, async {
        loop {
            match mirror.next().await.expect("it goes on") {
                Err(error) if error.is_retryable() => {}
                told => return told.unwrap(),
            }
        }
    })
    .await
    .expect("something changes")
}

/// Images before and after.
fn images(change: &RowChange<Pod>) -> (Option<&str>, Option<&str>) {
    fn image(row: &Option<Arc<Row<Pod>>>) -> Option<&str> {
        row.as_ref().map(|row| row.value.image.as_str())
    }
    (image(&change.previous), image(&change.row))
}

#[tokio::test]
async fn rows_are_created_read_changed_and_removed_as_what_they_are() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let pods = client.table::<Pod>("pods/");
    // Given a key beside the table, which is none of its rows
    client.kv().put("pods", "not a row").await.unwrap();
    client.kv().put("pods0", "not a row").await.unwrap();
    // When a row is created, it is there as it was given, once
    let row = pods.create("web-1", pod("web:1")).await.unwrap();
    assert_eq!((row.version, row.create_revision, row.lease), (1, row.mod_revision, 0));
    assert_eq!(pods.get("web-1").await.unwrap().as_ref(), Some(&row));
    let again = pods.create("web-1", pod("web:2")).await.unwrap_err();
    assert!(matches!(&again, Error::Conflict { key, .. } if key == "pods/web-1"), "{again:?}");
    assert_eq!((again.outcome(), again.is_retryable()), (Outcome::NotDone, false));
    // When it is changed by who has read it, that is answered as it is then
    let mut changed = row.clone();
    changed.value.ready = true;
    let changed = pods.update(changed).await.unwrap();
    assert_eq!((changed.version, changed.create_revision), (2, row.create_revision));
    assert_eq!(pods.get("web-1").await.unwrap(), Some(changed.clone()));
    // Then who read it before does not get through
    let late = pods.update(row.clone()).await.unwrap_err();
    assert!(matches!(late, Error::Conflict { .. }), "{late:?}");
    // And rows are listed at one revision, in order, by what they are called in the table
    pods.put("db-1", &pod("db:1")).await.unwrap();
    let rows = pods.list().await.unwrap();
    assert_eq!(rows.rows.iter().map(|row| row.name()).collect::<Vec<_>>(), ["db-1", "web-1"]);
    assert_eq!(pods.list().starting_with("web-").await.unwrap().rows, std::slice::from_ref(&changed));
    assert_eq!(
        pods.list().revision(rows.revision - 1).await.unwrap().rows,
        std::slice::from_ref(&changed),
        "as it was"
    );
    assert_eq!(pods.get("web-1").revision(row.mod_revision).await.unwrap(), Some(row.clone()), "as it was");
    // And they are removed only as they were read, where that is asked for
    assert!(!pods.delete("web-1").when(pods.unchanged(&row)).await.unwrap().succeeded);
    assert_eq!(pods.delete("web-1").when(pods.unchanged(&changed)).await.unwrap().deleted, 1);
    assert_eq!(pods.get("web-1").await.unwrap(), None);
    let gone = pods.update(changed).await.unwrap_err();
    assert!(matches!(gone, Error::Conflict { .. }), "{gone:?}");
    // What is beside it was left alone
    assert_eq!(client.kv().get("pods").await.unwrap().unwrap().value, "not a row");
    cluster.stop().await;
}

#[tokio::test]
async fn whoever_modifies_a_row_is_counted_once_however_many_do_at_a_time() {
    const EACH: u64 = 25;
    let cluster = Cluster::founded().await;
    let counters = cluster.any().client().table::<u64>("counters/").with_codec(Text);
    // Given eight who count in one row, which the first of them makes
    let counting = (0..8).map(|_| {
        let counters = counters.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                let count = counters.modify("hits", |count| *count += 1).or_insert_with(|| 0);
                count.deadline(BUDGET).await.unwrap();
            }
        })
    });
    for counting in counting.collect::<Vec<_>>() {
        counting.await.unwrap();
    }
    // Then each of their counts is there
    let row = counters.get("hits").await.unwrap().unwrap();
    assert_eq!((row.value, row.version), (8 * EACH, 8 * EACH));
    // What comes out as it was is not written
    let same = counters.modify("hits", |_| {}).await.unwrap();
    assert_eq!(same, row);
    assert_eq!(counters.get("hits").await.unwrap().unwrap().mod_revision, row.mod_revision);
    // What is not there is not made unless it is said what it is
    let none = counters.modify("none", |count| *count += 1).await.unwrap_err();
    assert!(matches!(none, Error::NotFound(_)), "{none:?}");
    // A condition beside the row that does not hold is told, and not tried until the deadline
    let client = cluster.any().client();
    let void = counters.modify("hits", |count| *count += 1).when(compare::exists("a/fence")).deadline(BUDGET);
    let told = tokio::time::timeout(BUDGET / 2, void).await.expect("it is told at once").unwrap_err();
    assert!(matches!(told, Error::Conflict { .. }), "{told:?}");
    client.kv().put("a/fence", "").await.unwrap();
    let met = counters.modify("hits", |count| *count += 1).when(compare::exists("a/fence")).await.unwrap();
    assert_eq!(met.value, 8 * EACH + 1);
    // What cannot be written down is not sent
    for refused in [
        counters.put("hits", &u64::MAX).await.map(drop),
        counters.create("other", u64::MAX).await.map(drop),
        counters.modify("hits", |count| *count = u64::MAX).await.map(drop),
        counters.put_op("hits", &u64::MAX).map(drop),
    ] {
        assert!(matches!(refused, Err(Error::Invalid(ref why)) if why.contains("too large for a test")), "{refused:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_overtaken_every_time_is_told_at_the_deadline_and_has_changed_nothing() {
    let cluster = Cluster::founded().await;
    let counters = cluster.any().client().table::<u64>("counters/").with_codec(Text);
    counters.create("hits", 0).await.unwrap();
    // Given somebody who writes the row between each read and the write after it
    let (other, runtime) = (counters.clone(), tokio::runtime::Handle::current());
    let mut overtaken = 0_u64;
    let told = counters
        .modify("hits", |count| {
            overtaken += 1;
            *count = 1_000_000;
            let value = overtaken;
            tokio::task::block_in_place(|| runtime.block_on(async { other.put("hits", &value).await })).unwrap();
        })
        .deadline(Duration::from_millis(500))
        .await
        .unwrap_err();
    // Then it was tried anew each time, and ends with that word, unless the deadline came while a write was on its way
    assert!(matches!(told, Error::Conflict { .. }) || told.outcome() == Outcome::Unknown, "{told:?}");
    // And nothing was done by it
    assert!(overtaken > 1, "it was tried again");
    assert_eq!(counters.get("hits").await.unwrap().unwrap().value, overtaken);
    cluster.stop().await;
}

#[tokio::test]
async fn rows_of_several_tables_go_together_and_with_a_lease() {
    let cluster = Cluster::founded().await;
    let client = cluster.any().client();
    let (pods, slots) = (client.table::<Pod>("pods/"), client.table::<u64>("slots/").with_codec(Text));
    // Given a transaction over two tables and a plain key
    let placed = client
        .kv()
        .txn()
        .when(pods.absent("web-1"))
        .then(pods.put_op("web-1", &pod("web:1")).unwrap())
        .then(slots.put_op("n1", &7).unwrap())
        .then(operation::put("last-placed", "web-1"))
        .await
        .unwrap();
    assert!(placed.succeeded);
    // When another one takes the row as it was read
    let row = pods.get("web-1").await.unwrap().unwrap();
    assert_eq!(row.mod_revision, placed.revision);
    let moved = client
        .kv()
        .txn()
        .when(pods.unchanged(&row))
        .then(pods.get_op("web-1"))
        .then(slots.delete_op("n1"))
        .then(slots.put_op("n2", &7).unwrap())
        .await
        .unwrap();
    // Then what comes back is a row, and both have changed at once
    assert_eq!(pods.decode(&moved.results[0][0]).unwrap(), row);
    let slots_now: Vec<_> = slots.list().await.unwrap().rows.into_iter().map(|row| (row.key, row.value)).collect();
    assert_eq!(slots_now, [(Bytes::from("n2"), 7)]);
    assert!(matches!(slots.decode(&moved.results[0][0]), Err(Error::Invalid(_))), "it is no row of that table");
    // A row on a lease stays on it when it is updated, and goes with it
    let lease = client.leases().grant(Duration::from_secs(30)).await.unwrap();
    let mut held = pods.create("held", pod("held:1")).lease(lease.id()).await.unwrap();
    held.value.ready = true;
    let held = pods.update(held).await.unwrap();
    assert_eq!(held.lease, lease.id());
    assert_eq!(pods.modify("held", |pod| pod.restarts += 1).await.unwrap().lease, lease.id());
    lease.revoke().await.unwrap();
    assert_eq!(pods.get("held").await.unwrap(), None);
    let ended = pods.create("late", pod("late:1")).lease(held.lease).await.unwrap_err();
    assert!(matches!(ended, Error::LeaseNotFound { .. }), "{ended:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_value_that_is_no_row_is_told_by_its_key_and_never_taken_for_nothing() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let pods: Table<Pod> = client.table("pods/");
    pods.create("a", pod("a:1")).await.unwrap();
    let mut mirror = pods.mirror().await.unwrap();
    let mut lenient = pods.mirror().set_aside().await.unwrap();
    for mirror in [&mut mirror, &mut lenient] {
        assert_eq!(images(&next(mirror).await.changes[0]), (None, Some("a:1")), "at first it tells what is there");
    }
    let mut watch = pods.watch().await.unwrap();
    let before = mirror.revision();
    let names = |told: Error| match told {
        Error::Decode { key, message } => {
            assert!(message.contains("pods/b") && message.contains("Pod"), "{message}");
            key
        }
        other => panic!("{other:?}"),
    };
    // When somebody writes what is no pod, and a pod beside it
    let broken = client.kv().txn().then(operation::put("pods/b", "{")).then(operation::delete("pods/a")).await.unwrap();
    // Then whoever reads it is told which it is
    assert_eq!(names(pods.get("b").await.unwrap_err()), "pods/b");
    assert_eq!(names(pods.list().await.unwrap_err()), "pods/b");
    assert_eq!(names(pods.modify("b", |pod| pod.ready = true).await.unwrap_err()), "pods/b");
    assert_eq!(names(pods.mirror().await.map(drop).unwrap_err()), "pods/b");
    assert_eq!(names(watch.next().await.unwrap_err()), "pods/b");
    assert_eq!(names(watch.next().await.unwrap_err()), "pods/b", "it is final");
    assert_eq!(watch.next_revision(), broken.revision);
    // A mirror stays as it was, whole, and is over
    assert_eq!(names(mirror.next().await.unwrap().unwrap_err()), "pods/b");
    assert_eq!((view(&mirror), mirror.revision()), (is(&[("a", "a:1")]), before));
    assert!(mirror.next().await.is_none());
    // One that sets such rows aside goes on, and still says that they are there
    let told = next(&mut lenient).await;
    assert_eq!(told.revision, broken.revision);
    let by_key: BTreeMap<_, _> = told.changes.iter().map(|change| (&change.key[..], change)).collect();
    assert!(!by_key[&b"b"[..]].is_delete() && by_key[&b"a"[..]].is_delete());
    assert_eq!(lenient.unreadable().keys().collect::<Vec<_>>(), ["b"]);
    let mut fresh = pods.mirror().set_aside().await.unwrap();
    assert_eq!((fresh.unreadable().len(), fresh.view().len()), (1, 0));
    assert!(next(&mut fresh).await.changes[0].unreadable.is_some());
    // Once it is written anew it is a row like any other
    pods.put("b", &pod("b:1")).await.unwrap();
    assert_eq!(images(&next(&mut lenient).await.changes[0]), (None, Some("b:1")));
    assert!(lenient.unreadable().is_empty() && lenient.get("b").is_some());
    cluster.stop().await;
}

#[tokio::test]
async fn a_mirror_of_a_table_is_always_of_one_revision_and_reads_anew_where_history_is_gone() {
    let mut cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    client.policy().set().history_revisions(50).await.unwrap();
    let pods = client.table::<Pod>("pods/");
    pods.create("kept", pod("kept:1")).await.unwrap();
    pods.create("gone", pod("gone:1")).await.unwrap();
    let mut mirror = pods.mirror().await.unwrap();
    // What is there is in the view, and told at once
    let first = next(&mut mirror).await;
    assert_eq!((first.revision, first.changes.len()), (mirror.revision(), 2));
    assert_eq!(first.changes.iter().map(images).collect::<Vec<_>>(), [(None, Some("gone:1")), (None, Some("kept:1"))]);
    let mut watch = pods.watch().row("kept").previous().await.unwrap();
    // When rows change, several in one revision, then the view moves on when it is asked, and by whole revisions
    let both = client
        .kv()
        .txn()
        .then(pods.put_op("kept", &pod("kept:2")).unwrap())
        .then(pods.put_op("new", &pod("new:1")).unwrap())
        .await
        .unwrap()
        .revision;
    assert_eq!(view(&mirror), is(&[("kept", "kept:1"), ("gone", "gone:1")]));
    let kept = mirror.get("kept").unwrap().clone();
    let told = next(&mut mirror).await;
    assert_eq!((told.revision, mirror.revision(), told.changes.len()), (both, both, 2));
    assert_eq!(images(&told.changes[0]), (Some("kept:1"), Some("kept:2")));
    assert_eq!(view(&mirror), is(&[("kept", "kept:2"), ("gone", "gone:1"), ("new", "new:1")]));
    assert_eq!(kept.value.image, "kept:1", "what was taken from the view stays what it was");
    // And a watch of one row is told of that row
    let told = loop {
        if let RowsWatched::Changes(changes) = watch.next().await.unwrap() {
            break changes;
        }
    };
    assert_eq!((told.revision, told.changes.len()), (both, 1));
    assert_eq!(images(&told.changes[0]), (Some("kept:1"), Some("kept:2")));
    // When its manager is restarted, and what comes next is compacted before it looks again
    cluster.kill(0).await;
    let node = cluster.builder_of(0).start(Start::Open).await.unwrap();
    node.ready().await.unwrap();
    cluster.members[0].node = Some(node);
    pods.delete("gone").await.unwrap();
    for number in 0..60 {
        pods.put("busy", &pod(&format!("busy:{number}"))).await.unwrap();
    }
    eventually("history is compacted", || async {
        let error = client.kv().watch("other").from_revision(both + 1).await.unwrap().next().await;
        matches!(error, Err(Error::Compacted { .. })).then_some(())
    })
    .await;
    // Then the difference is told at once, with what was there before, and the view is what there is
    let told = next(&mut mirror).await;
    let told: BTreeMap<_, _> = told.changes.iter().map(|change| (&change.key[..], images(change))).collect();
    assert_eq!(told, BTreeMap::from([(&b"gone"[..], (Some("gone:1"), None)), (&b"busy"[..], (None, Some("busy:59")))]));
    assert_eq!(view(&mirror), is(&[("kept", "kept:2"), ("new", "new:1"), ("busy", "busy:59")]));
    // And it goes on
    pods.put("kept", &pod("kept:3")).await.unwrap();
    assert_eq!(images(&next(&mut mirror).await.changes[0]), (Some("kept:2"), Some("kept:3")));
    cluster.stop().await;
}

/// What the design shows as the embedder's first page.
async fn reconcile(
    pods: &Table<Pod>,
    view: &BTreeMap<Bytes, Arc<Row<Pod>>>,
    change: quorate::Result<RowChanges<Pod>>,
) -> quorate::Result<()> {
    for change in change?.changes {
        if view.get(&change.key).is_some_and(|row| !row.value.ready) {
            pods.modify(change.key, |pod| pod.ready = true).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_controller_reconciles_while_it_leads_and_cannot_write_afterwards() {
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let pods = client.table::<Pod>("pods/");
    let (old, told_old) = tokio::sync::mpsc::unbounded_channel();
    let controllers: Vec<_> = cluster
        .members
        .iter()
        .map(|member| {
            let (node, old) = (member.node.clone().unwrap(), old.clone());
            tokio::spawn(async move {
                node.lead(|lead| {
                    let old = old.clone();
                    async move {
                        let pods = lead.client().table::<Pod>("pods/");
                        let _ = old.send((lead.fencing_token(), pods.clone(), lead.client().scoped("pods/")));
                        let mut mirror = pods.mirror().await?;
                        // The first is what is there already, so nothing is missed between two leaderships
                        while let Some(change) = mirror.next().await {
                            reconcile(&pods, mirror.view(), change).await?;
                        }
                        Ok::<(), Error>(())
                    }
                })
                .await
            })
        })
        .collect();
    let mut told_old = told_old;
    let (first, deposed, deposed_scope) = told_old.recv().await.unwrap();
    // Given a controller that works: what is new becomes ready
    let ready = |name: &'static str| {
        let pods = pods.clone();
        async move {
            eventually("the pod is ready", || async { pods.get(name).await.unwrap().filter(|row| row.value.ready) })
                .await
        }
    };
    pods.create("a", pod("a:1")).await.unwrap();
    ready("a").await;
    // When another manager leads
    // (Nobody takes it who was connected just now.)
    eventually("leadership moves", || async { client.transfer_leadership(None).await.ok() }).await;
    let (second, ..) = tokio::time::timeout(BUDGET, told_old.recv()).await.unwrap().unwrap();
    assert!(second > first);
    // Then the controller goes on there
    pods.create("b", pod("b:1")).await.unwrap();
    ready("b").await;
    // And nothing that the deposed one held can write: not its table, not a scope of it, in whatever way
    let before = client.kv().get("pods/a").await.unwrap();
    let row = deposed.get("a").await.unwrap().unwrap();
    for written in [
        deposed.put("a", &pod("late")).await.map(drop),
        deposed.create("late", pod("late")).await.map(drop),
        deposed.update(row).await.map(drop),
        deposed.modify("a", |pod| pod.restarts += 1).await.map(drop),
        deposed.delete("a").await.map(drop),
        deposed_scope.kv().put("a", "late").await.map(drop),
        deposed_scope.scoped("a").kv().delete_prefix("").await.map(drop),
        deposed_scope.table::<Pod>("").put("a", &pod("late")).await.map(drop),
        deposed_scope.grant_lease(Duration::from_secs(5)).await.map(drop),
    ] {
        assert!(matches!(written, Err(Error::Fenced(_))), "{written:?}");
    }
    assert_eq!(client.kv().get("pods/a").await.unwrap(), before);
    controllers.iter().for_each(tokio::task::JoinHandle::abort);
    cluster.stop().await;
}
