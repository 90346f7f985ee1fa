//! What every handle and every request is to a program that uses them: it can be cloned, sent and dropped.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use quorate::{
    AssignmentApi, Assignments, Client, Election, Error, Kv, Lead, Lease, LeaseKeeper, Leases, LockGuard, Mirror, Node,
    Nodes, Observer, Outcome, Policy, ScopedClient, StartError, Table, TableMirror, Tokens, Watch, Watched, operation,
};

use crate::support::{BUDGET, Cluster};

const fn handle<T: Clone + Send + Sync + Unpin + 'static>() {}
const fn sent<T: Send + 'static>() {}
fn request<R: IntoFuture>(_: R)
where
    R::IntoFuture: Send,
{
}
fn future(_: impl Future + Send) {}

#[test]
fn handles_are_cloned_and_sent_wherever_they_are_needed() {
    handle::<Node>();
    handle::<Client>();
    handle::<ScopedClient>();
    handle::<Kv>();
    handle::<Table<String>>();
    handle::<Leases>();
    handle::<Lease>();
    handle::<LeaseKeeper>();
    handle::<Election>();
    handle::<Nodes>();
    handle::<Tokens>();
    handle::<Policy>();
    handle::<AssignmentApi>();
    handle::<Lead>();
    // What follows something, or is held, has one owner
    sent::<Watch>();
    sent::<Mirror>();
    sent::<TableMirror<String>>();
    sent::<LockGuard>();
    sent::<Observer>();
    sent::<Assignments>();
}

#[tokio::test]
async fn every_request_can_be_sent_to_another_task_and_has_a_deadline_of_its_own() {
    let cluster = Cluster::founded().await;
    let client = cluster.any().client();
    let (kv, soon) = (client.kv(), Duration::from_secs(1));
    let table = client.table::<String>("names/");
    request(kv.get("a").deadline(soon).serializable());
    request(kv.prefix("a").deadline(soon));
    request(kv.put("a", "b").deadline(soon));
    request(kv.txn().then(operation::put("a", "b")).deadline(soon));
    request(kv.watch("a").deadline(soon));
    request(kv.mirror("a").deadline(soon));
    request(table.get("a").deadline(soon));
    request(table.list().deadline(soon));
    request(table.put("a", &"b".to_owned()).deadline(soon));
    request(table.create("a", "b".to_owned()).deadline(soon));
    request(table.modify("a", |name| name.push('b')).or_insert_with(String::new).deadline(soon));
    request(table.watch().deadline(soon));
    request(table.mirror().deadline(soon));
    request(client.lock("a").wait_at_most(soon));
    request(client.nodes().promote("a"));
    request(client.nodes().update("a").label("a", "b"));
    request(client.tokens().create(quorate::membership::Role::Worker));
    request(client.policy().set().max_voters(5));
    request(client.assignments().set("n", "item", "payload"));
    future(client.leases().grant(soon));
    future(client.election("a").campaign("b"));
    future(client.with_deadline(soon).status());
    future(cluster.any().ready());
    future(cluster.any().stopped());
    future(cluster.any().lead(|lead| async move { lead.fencing_token() }));
    // None of them was awaited: nothing was sent
    assert!(kv.prefix("").all().await.unwrap().is_empty());
    // A deadline that is over before anybody can answer says so, and that nothing was done
    let late = kv.put("late", "").deadline(Duration::ZERO).await.unwrap_err();
    assert_eq!((late.is_retryable(), late.outcome()), (true, Outcome::NotDone), "{late:?}");
    assert!(matches!(kv.get("late").deadline(Duration::ZERO).await, Err(Error::Unavailable(_))));
    assert_eq!(kv.get("late").await.unwrap(), None);
    // Errors of a start say the same of themselves
    let taken = cluster.builder_of(0).start(quorate::Start::Open).await.unwrap_err();
    assert!(matches!(taken, StartError::InUse(_)), "{taken:?}");
    assert_eq!((taken.is_retryable(), taken.outcome()), (false, Outcome::NotDone));
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_is_a_stream_that_ends_with_its_last_error() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let (kv, names) = (client.kv(), client.table::<String>("names/"));
    let mut stream = kv.watch("names/a").await.unwrap().into_stream();
    let mut rows = names.watch().await.unwrap().into_stream();
    async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
        let told = std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context));
        tokio::time::timeout(BUDGET, told).await.expect("something is told")
    }
    names.put("a", &"Ada".to_owned()).await.unwrap();
    let told = next(&mut stream).await.unwrap().unwrap();
    assert!(matches!(&told, Watched::Changes(told) if told.changes[0].key == "names/a"), "{told:?}");
    assert!(matches!(next(&mut rows).await, Some(Ok(quorate::RowsWatched::Changes(_)))));
    // When a value comes that is none, that is the last word
    kv.put("names/a", "no JSON").await.unwrap();
    assert!(matches!(next(&mut rows).await, Some(Err(Error::Decode { .. }))));
    assert!(next(&mut rows).await.is_none());
    // While the untyped one goes on
    assert!(matches!(next(&mut stream).await, Some(Ok(Watched::Changes(_)))));
    cluster.stop().await;
}
