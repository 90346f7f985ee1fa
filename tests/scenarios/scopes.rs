//! Scoped clients on a real node: what is below the prefix, and that nothing else can be reached.

use std::time::Duration;

use quorate::{Client, Compare, Entry, Error, ScopedClient, Watched, compare, operation};

use crate::support::{BUDGET, Cluster};

fn keys(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.key.escape_ascii().to_string()).collect()
}

/// Everything that there is, by its whole name.
async fn everything(client: &Client) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let all = client.kv().prefix("").all().await.unwrap();
    all.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

/// Neighbours of the prefix `t/` on every side: the prefix itself, the keys just before and after it, and far ones.
async fn neighbours(client: &Client) -> Vec<(String, String)> {
    for key in [&b"a"[..], b"t", b"t.", b"t/", b"t0", b"tt/a", b"u", b"\0", b"\xff\xff"] {
        client.kv().put(key.to_vec(), "outside").await.unwrap();
    }
    everything(client).await
}

async fn inside(scope: &ScopedClient) {
    for key in [&b"a"[..], b"b", b"c", b"\0", b"\xff", b"\xff\xff\xff"] {
        scope.kv().put(key.to_vec(), "inside").await.unwrap();
    }
}

const INSIDE: [&str; 6] = ["\\x00", "a", "b", "c", "\\xff", "\\xff\\xff\\xff"];

#[tokio::test]
async fn every_kind_of_read_stays_below_the_prefix_and_names_keys_without_it() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    // Given keys on every side of a prefix, and below it
    neighbours(&client).await;
    let scope = client.scoped("t/");
    let kv = scope.kv();
    inside(&scope).await;
    // Then everything is what is below it, page by page, too
    assert_eq!(keys(&kv.prefix("").all().await.unwrap()), INSIDE);
    assert_eq!(keys(&kv.prefix("").limit(1).all().await.unwrap()), INSIDE);
    assert_eq!(kv.prefix("").count_only().await.unwrap().count, 6);
    assert_eq!(keys(&kv.prefix("\u{0}").all().await.unwrap()), ["\\x00"]);
    // And ranges that would end far beyond it, begin before it, or are empty
    let to_the_end = vec![0xff; 4096];
    assert_eq!(keys(&kv.range("b", to_the_end.clone()).all().await.unwrap()), ["b", "c", "\\xff", "\\xff\\xff\\xff"]);
    assert_eq!(keys(&kv.range("", "b").all().await.unwrap()), ["\\x00", "a"], "the prefix itself is no key below it");
    assert_eq!(keys(&kv.range("", to_the_end).all().await.unwrap()), INSIDE);
    assert!(kv.range("c", "a").all().await.unwrap().is_empty());
    assert!(kv.range("b", "b").all().await.unwrap().is_empty());
    assert_eq!(keys(&kv.range("b", "").all().await.unwrap()), ["b"], "without an end it is the one key");
    assert_eq!(kv.get("a").await.unwrap().unwrap().value, "inside");
    assert_eq!(kv.get("../a").await.unwrap(), None);
    assert_eq!(kv.get("t/a").await.unwrap(), None);
    for refused in [kv.get("").await.map(drop), kv.put("", "x").await.map(drop), kv.delete("").await.map(drop)] {
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    // The longest key counts the prefix, and is found by what ends after it
    kv.put(vec![b'z'; 4094], "inside").await.unwrap();
    assert!(
        matches!(kv.put(vec![b'z'; 4095], "x").await, Err(Error::Limit { limit, .. }) if limit.name == "KEY_BYTES_MAX")
    );
    let longest = kv.range(vec![b'z'; 4094], vec![b'z'; 4096]).all().await.unwrap();
    assert_eq!((longest.len(), longest[0].key.len()), (1, 4094));
    assert_eq!(kv.prefix("z").limit(1).all().await.unwrap().len(), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn no_write_leaves_the_prefix_and_conditions_look_nowhere_else() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let outside = neighbours(&client).await;
    let scope = client.scoped("t/");
    let kv = scope.kv();
    inside(&scope).await;
    // When a transaction of every kind of operation is done in the scope
    let holds = |compare: Compare| {
        let kv = kv.clone();
        async move { kv.txn().when(compare).await.unwrap().succeeded }
    };
    let done = kv
        .txn()
        .when(compare::exists("a"))
        .when(compare::value("b", "inside"))
        .when(compare::absent("u"))
        .then(operation::put("new", "inside"))
        .then(operation::get("a"))
        .then(operation::prefix(""))
        .then(operation::delete_prefix("b"))
        .await
        .unwrap();
    // Then its conditions and answers are of the scope
    assert!(done.succeeded);
    assert_eq!(keys(&done.results[1]), ["a"]);
    assert_eq!(done.results[2].len(), 7);
    assert_eq!(done.deleted, 1);
    for elsewhere in ["t", "t/", "u", "t0", "/a"] {
        assert!(!holds(compare::exists(elsewhere)).await, "{elsewhere}");
    }
    let previous = kv.put("c", "changed").previous().await.unwrap();
    assert_eq!(keys(&previous.results[0]), ["c"]);
    assert!(kv.compare_and_set("c", previous.revision, "once more").await.unwrap().succeeded);
    // And a scope in it is below both
    let deep = scope.scoped("deep/");
    deep.kv().put("x", "inside").await.unwrap();
    assert_eq!(
        (&deep.prefix()[..], keys(&deep.kv().prefix("").all().await.unwrap())),
        (&b"t/deep/"[..], vec!["x".into()])
    );
    assert_eq!(client.kv().get("t/deep/x").await.unwrap().unwrap().value, "inside");
    assert!(deep.kv().delete_prefix("").previous().await.unwrap().results[0].iter().all(|gone| gone.key == "x"));
    assert_eq!(kv.get("a").await.unwrap().unwrap().value, "inside", "the scope around it was left alone");
    // When all that it can name is removed
    let all = kv.delete_prefix("").await.unwrap();
    // Then all that is outside is as it was
    assert_eq!(all.deleted, 6);
    assert_eq!(everything(&client).await, outside);
    cluster.stop().await;
}

#[tokio::test]
async fn watches_mirrors_locks_and_elections_are_of_the_scope() {
    let cluster = Cluster::founded().await;
    let client = cluster.outside(&[0]).await;
    let scope = client.scoped("t/");
    let kv = scope.kv();
    kv.put("m/1", "before").await.unwrap();
    let mut all = kv.watch("").prefix().previous().await.unwrap();
    let mut to_the_end = kv.watch("m").range_to(vec![0xff; 4096]).await.unwrap();
    let mut mirror = kv.mirror("m/").await.unwrap();
    let first = mirror.next().await.unwrap().unwrap();
    assert_eq!((first.changes.len(), &first.changes[0].key[..]), (1, &b"m/1"[..]));
    assert!(matches!(kv.watch("").await, Err(Error::Invalid(_))));
    // When keys change on every side and below
    neighbours(&client).await;
    let written = kv.put("m/1", "inside").await.unwrap().revision;
    neighbours(&client).await;
    // Then only those below are told, by their names in the scope
    for watch in [&mut all, &mut to_the_end] {
        let changes = tokio::time::timeout(BUDGET, async {
            loop {
                if let Watched::Changes(changes) = watch.next().await.unwrap() {
                    break changes;
                }
            }
        })
        .await
        .unwrap();
        assert_eq!((changes.revision, changes.changes.len()), (written, 1));
        assert_eq!(changes.changes[0].key, "m/1");
        assert_eq!(changes.changes[0].entry.as_ref().unwrap().key, "m/1");
        assert!(changes.changes[0].previous.as_ref().is_none_or(|previous| previous.key == "m/1"));
    }
    let told = mirror.next().await.unwrap().unwrap();
    assert_eq!(told.revision, written);
    assert_eq!(mirror.view().keys().collect::<Vec<_>>(), ["m/1"]);
    // Locks and elections by one name in two scopes are two
    let other = client.scoped("other/");
    let lock = scope.lock("nightly").await.unwrap();
    let beside = other.lock("nightly").wait_at_most(Duration::from_secs(30)).await.unwrap();
    let again = scope.lock("nightly").wait_at_most(Duration::from_millis(100)).await;
    assert!(matches!(again, Err(Error::Refused(_))));
    assert!(client.kv().get([b"t/", &lock.key()[..]].concat()).await.unwrap().is_some());
    // A fence holds in writes of its scope, and never in those of another
    assert!(kv.put("done", "yes").when(lock.fence()).await.unwrap().succeeded);
    assert!(!client.kv().put("done", "yes").when(lock.fence()).await.unwrap().succeeded);
    assert!(!other.kv().put("done", "yes").when(lock.fence()).await.unwrap().succeeded);
    let leading = scope.election("chief").campaign("me").await.unwrap();
    assert_eq!(scope.election("chief").leader().await.unwrap().unwrap().value, "me");
    assert_eq!(other.election("chief").leader().await.unwrap(), None);
    leading.resign().await.unwrap();
    lock.unlock().await.unwrap();
    beside.unlock().await.unwrap();
    // A table in a scope is below both prefixes, and a lease takes its rows along
    let table = scope.table::<String>("names/");
    let lease = scope.grant_lease(Duration::from_secs(30)).await.unwrap();
    table.create("first", "Ada".to_owned()).lease(lease.id()).await.unwrap();
    assert_eq!(client.kv().get("t/names/first").await.unwrap().unwrap().value, "\"Ada\"");
    assert_eq!(table.list().await.unwrap().rows[0].name(), "first");
    lease.revoke().await.unwrap();
    assert!(table.list().await.unwrap().rows.is_empty());
    cluster.stop().await;
}
