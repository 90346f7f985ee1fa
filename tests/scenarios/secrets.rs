//! Configs and secrets: made, given to whom they belong, taken back, and readable nowhere else; the keys that seal them follow the
//! managers.

use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use quorate::keys::Key;
use quorate::objects::KeyringReport;
use quorate::{AssignmentEvent, Assignments, Client, Error, Item, SecretBytes};
use quorate_core::keyring::named_key;
use quorate_core::keyspace::Section;
use quorate_core::state::read;

use crate::support::{BUDGET, Cluster, eventually, says, store_options};

/// A random word, and the forms in which it could lie somewhere.
pub fn canary() -> (String, Vec<Vec<u8>>) {
    let word = Key::generate().unwrap().to_text()[6..54].to_owned();
    let json = format!("{:?}", word.as_bytes()).replace(' ', "");
    let forms = [word.clone(), HEXLOWER.encode(word.as_bytes()), BASE64.encode(word.as_bytes()), json];
    (word, forms.into_iter().map(String::into_bytes).collect())
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

pub fn files_with(directory: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path).is_ok_and(|whole| holds(&whole, needle)) {
            found.push(path);
        }
    }
    found
}

/// A file with all forms, deep in the directory: what a search of it must find.
fn planted(directory: &Path, forms: &[Vec<u8>]) -> PathBuf {
    let inside = directory.join("a").join("b");
    std::fs::create_dir_all(&inside).unwrap();
    let control = inside.join("control");
    std::fs::write(&control, forms.join(&b'\n')).unwrap();
    control
}

/// What the store of a stopped manager holds, opened with its data key: everything that is not sealed above the log is found.
fn opened(directory: &Path, needle: &[u8]) -> usize {
    let store = quorate_storage::open(&directory.join("store"), store_options(directory)).unwrap();
    let mut found = 0;
    let visit = &mut |_: &[u8], value: &[u8]| {
        found += usize::from(holds(value, needle));
        quorate_core::ports::Visit::More
    };
    store.state.scan(b"", b"", visit).unwrap();
    let (first, last) = (store.boot.start.index.next(), store.boot.last.next());
    let entries = store.log_reader.entries(first, last, u64::MAX).unwrap();
    found + entries.iter().filter(|entry| holds(&entry.data, needle)).count()
}

pub async fn next(stream: &mut Assignments) -> Vec<Item> {
    match tokio::time::timeout(BUDGET, stream.next()).await.expect("an event").expect("the node runs") {
        AssignmentEvent::Complete { items, .. } => items,
        AssignmentEvent::Changed { added, .. } => added,
        other => panic!("{other:?}"),
    }
}

/// Waits until the only key is a newer one than `before`, and every manager of the roster has it.
async fn rotated(client: &Client, before: u32, managers: usize) -> KeyringReport {
    eventually("another key is the only one", || async {
        let report = client.keyring().show().await.ok()?;
        let [key] = report.keys.as_slice() else { return None };
        (report.active > before && !report.due && report.lacking.is_empty() && key.managers.len() == managers)
            .then_some(report)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_made_listed_labelled_and_shown_only_where_it_is_asked_for() {
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[1]).await;
    let secrets = client.secrets();
    // Given a secret
    let made = secrets.create("db-password", "hunter2").label("env", "prod").label("team", "a").await.unwrap();
    assert_eq!((made.size, made.barrier_key, made.users.len()), (7, Some(1), 0));
    assert!(made.create_revision > 0 && made.labels["env"] == "prod");
    // When it is listed and looked at, through any manager, then its data is nowhere
    let other = cluster.outside(&[2]).await;
    let listed = other.secrets().list().label("env=prod").await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["db-password"]);
    assert!(other.secrets().list().label("env=test").await.unwrap().is_empty());
    assert!(!format!("{listed:?} {:?}", other.secrets().inspect("db-password").await.unwrap()).contains("hunter2"));
    // And revealed it is what it was
    assert_eq!(other.secrets().reveal("db-password").await.unwrap(), SecretBytes::from("hunter2"));
    // A name is taken once, and data never changes; labels do
    let refused = secrets.create("db-password", "other").await.unwrap_err();
    says(&refused, &["already", "never changes", "Nothing was changed"]);
    let changed = secrets.update("db-password").label("env", "test").without("team").await.unwrap();
    assert_eq!(changed.labels.len(), 1);
    assert!(changed.revision > made.revision && changed.create_revision == made.create_revision);
    assert_eq!(secrets.reveal("db-password").await.unwrap().expose(), b"hunter2");
    // What cannot be is refused with what is wrong
    assert!(matches!(secrets.create("a/b", "x").await.unwrap_err(), Error::Invalid(_)));
    let large = vec![7; quorate::config::OBJECT_BYTES_MAX];
    secrets.create("large", large.clone()).await.unwrap();
    assert_eq!(secrets.reveal("large").await.unwrap().expose(), large);
    let refused = secrets.create("larger", vec![7; quorate::config::OBJECT_BYTES_MAX + 1]).await.unwrap_err();
    says(&refused, &["OBJECT_BYTES_MAX"]);
    // A config of the same name is another thing
    let configs = client.configs();
    configs.create("db-password", "no secret").await.unwrap();
    assert_eq!(configs.read("db-password").await.unwrap(), "no secret");
    secrets.remove("db-password").await.unwrap();
    assert!(matches!(secrets.reveal("db-password").await.unwrap_err(), Error::NotFound(_)));
    assert_eq!(configs.inspect("db-password").await.unwrap().size, 9);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_gets_what_its_items_refer_to_and_nothing_else_and_loses_it_with_them() {
    let cluster = Cluster::of(3).await;
    let (one, two) = (cluster.worker("w1").await, cluster.worker("w2").await);
    let client = cluster.any().client();
    let (mut first, mut second) = (one.assignments(), two.assignments());
    assert!(next(&mut first).await.is_empty() && next(&mut second).await.is_empty());
    client.secrets().create("db", "hunter2").await.unwrap();
    client.secrets().create("other", "swordfish").await.unwrap();
    client.configs().create("conf", "listen 80").await.unwrap();
    // When an item that refers to one is given to a worker, then it has the data of that one, and of no other
    let work = client.assignments();
    work.set("w1", "web", "run").secret("db").config("conf").await.unwrap();
    let items = next(&mut first).await;
    assert_eq!(items[0].secret("db").unwrap().expose(), b"hunter2");
    assert_eq!(items[0].config("conf").unwrap(), "listen 80");
    assert!(items[0].is_complete() && items[0].secret("other").is_none());
    // And the other worker has neither: its item refers to nothing
    work.set("w2", "web", "run").await.unwrap();
    let others = next(&mut second).await;
    assert!(others[0].secret("db").is_none() && others[0].config("conf").is_none() && others[0].is_complete());
    assert!(!format!("{items:?}").contains("hunter2"));
    // What an item refers to is there, and stays
    let refused = work.set("w2", "web", "run").secret("missing").await.unwrap_err();
    says(&refused, &["secret `missing`", "create it first"]);
    let refused = client.secrets().remove("db").await.unwrap_err();
    says(&refused, &["in use by item `web` of w1", "Nothing was changed"]);
    assert_eq!(client.secrets().inspect("db").await.unwrap().users[0].node, "w1");
    assert!(client.configs().remove("conf").await.is_err());
    // A successor stands beside it, and it is told who still uses the old one
    let rotation = client.secrets().rotate("db", "hunter3", None).await.unwrap();
    assert_eq!((rotation.successor.name.as_str(), rotation.successor.succeeds.as_deref()), ("db.2", Some("db")));
    assert_eq!(rotation.old.users.len(), 1);
    work.set("w1", "web", "run").secret("db.2").await.unwrap();
    let items = next(&mut first).await;
    assert_eq!(items[0].secret("db.2").unwrap().expose(), b"hunter3");
    assert!(items[0].secret("db").is_none() && items[0].config("conf").is_none(), "withdrawn");
    assert_eq!(client.secrets().rotate("db.2", "hunter4", None).await.unwrap().successor.name, "db.3");
    // With its last user gone it can be removed
    client.secrets().remove("db").await.unwrap();
    work.remove("w1", "web").await.unwrap();
    let gone = tokio::time::timeout(BUDGET, first.next()).await.expect("an event").expect("the node runs");
    assert!(matches!(gone, AssignmentEvent::Changed { removed, .. } if removed == ["web"]));
    client.secrets().remove("db.2").await.unwrap();
    one.shutdown().await;
    two.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_away_has_its_secrets_again_and_never_on_its_disk() {
    let cluster = Cluster::of(3).await;
    let (word, forms) = canary();
    let client = cluster.any().client();
    client.secrets().create("db", word.as_str()).await.unwrap();
    client.configs().create("conf", "listen 80").await.unwrap();
    let worker = cluster.worker("w1").await;
    client.assignments().set("w1", "web", "run").secret("db").config("conf").await.unwrap();
    let mut stream = worker.assignments();
    while !next(&mut stream).await.iter().any(Item::is_complete) {}
    // When it is stopped, then its directory has the config and nothing of the secret, in no form
    worker.shutdown().await;
    let directory = cluster.path("w1");
    assert!(!files_with(&directory, b"listen 80").is_empty());
    for form in &forms {
        assert_eq!(files_with(&directory, form), Vec::<PathBuf>::new());
    }
    let control = planted(&directory, &forms);
    for form in &forms {
        assert_eq!(files_with(&directory, form), std::slice::from_ref(&control), "the control is found");
    }
    std::fs::remove_file(control).unwrap();
    // And started again it has what it had, from a manager
    let worker = cluster.worker_again("w1").await;
    let mut stream = worker.assignments();
    let whole = async {
        loop {
            if let Some(item) = next(&mut stream).await.into_iter().find(Item::is_complete) {
                return item;
            }
        }
    };
    let item = tokio::time::timeout(BUDGET, whole).await.unwrap();
    assert_eq!(item.secret("db").unwrap().expose(), word.as_bytes());
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_readable_on_any_managers_disk_not_even_with_its_data_key() {
    // Given three managers, one of which gets a snapshot, and a secret and a config in every form
    let (word, forms) = canary();
    let mut cluster = Cluster::grown(3, 64).await;
    cluster.kill(2).await;
    let client = cluster.any().client();
    for (n, form) in forms.iter().enumerate() {
        client.secrets().create(format!("s{n}"), &form[..]).await.unwrap();
        client.secrets().update(format!("s{n}")).label("n", "1").await.unwrap();
    }
    client.configs().create("control", word.as_bytes()).await.unwrap();
    let (_, others) = canary();
    for (n, other) in others.iter().enumerate() {
        client.configs().create(format!("control{n}"), &other[..]).await.unwrap();
    }
    for n in 0..100 {
        client.kv().put(format!("k{n}"), "v").await.unwrap();
    }
    cluster.restart(2).await;
    cluster.settled(3).await;
    cluster.agrees().await;
    client.keyring().rotate().await.unwrap();
    rotated(&cluster.any().client(), 1, 3).await;
    cluster.agrees().await;
    let directories: Vec<PathBuf> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for directory in &directories {
        // Then nothing is found on the raw disk,
        for form in &forms {
            assert_eq!(files_with(directory, form), Vec::<PathBuf>::new());
        }
        // and of what the data key opens only the config, in its one form
        assert!(opened(directory, forms[0].as_slice()) >= 1, "the control is found");
        for form in &forms[1..] {
            assert_eq!(opened(directory, form), 0);
        }
        // (In each form, when it is none of a secret.)
        for other in &others {
            assert!(opened(directory, other) >= 1, "the control is found");
        }
        let control = planted(directory, &forms);
        for form in &forms {
            assert_eq!(files_with(directory, form), std::slice::from_ref(&control), "the control is found");
        }
        std::fs::remove_file(control).unwrap();
        // while what is there of the secrets names a key.
        let store = quorate_storage::open(&directory.join("store"), store_options(directory)).unwrap();
        let mut named = 0;
        read::live_records(&*store.state, Section::Secret, &mut |record| {
            named += usize::from(named_key(&record.key, &record.value).unwrap().is_some());
            true
        })
        .unwrap();
        assert_eq!(named, forms.len());
    }
    for index in 0..3 {
        cluster.restart(index).await;
    }
    cluster.settled(3).await;
    assert_eq!(cluster.any().client().secrets().reveal("s0").await.unwrap().expose(), word.as_bytes());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced_under_load_and_everything_opens_all_the_time() {
    let cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    for n in 0..40 {
        client.secrets().create(format!("old{n}"), format!("value {n}")).await.unwrap();
    }
    // When the key is replaced again and again, while secrets are made, labelled, removed and read through all managers
    let rotating = async {
        for _ in 0..3 {
            let before = client.keyring().show().await.unwrap().active;
            client.keyring().rotate().await.unwrap();
            rotated(&client, before, 3).await;
        }
    };
    let using = async {
        for n in 0..60_usize {
            let secrets = cluster.node(n % 3).client().secrets();
            let name = format!("new{n}");
            secrets.create(name.as_str(), format!("value {n}")).await.unwrap();
            secrets.update(name.as_str()).label("n", n.to_string()).await.unwrap();
            let old = format!("old{}", n % 40);
            assert_eq!(secrets.reveal(&old).await.unwrap().expose(), format!("value {}", n % 40).as_bytes());
            if n % 3 == 0 {
                secrets.remove(&name).await.unwrap();
            }
        }
    };
    tokio::join!(rotating, using);
    let before = client.keyring().show().await.unwrap().active;
    client.keyring().rotate().await.unwrap();
    let report = rotated(&client, before, 3).await;
    // Then all of it is sealed with the last key, with the CA and the tokens, and opens
    assert!(report.active >= 5);
    assert_eq!(report.keys[0].records, 40 + 40 + 3);
    for n in 0..40 {
        assert_eq!(
            client.secrets().reveal(&format!("old{n}")).await.unwrap().expose(),
            format!("value {n}").as_bytes()
        );
    }
    assert!(client.tokens().show(quorate::membership::Role::Worker).await.unwrap().starts_with("QRT-1-"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_follow_the_managers_who_come_and_go() {
    // Given a manager that joins: it has its copy before it has a seat
    let mut cluster = Cluster::of(3).await;
    cluster.any().client().secrets().create("db", "hunter2").await.unwrap();
    let fourth = cluster.join().await;
    let name = cluster.node(fourth).name();
    eventually("the newcomer opens what is sealed", || async {
        let shown = cluster.node(fourth).client().secrets().reveal("db").await.ok()?;
        (shown.expose() == b"hunter2").then_some(())
    })
    .await;
    let leader = cluster.leader().await;
    let client = cluster.node(leader).client();
    let before = client.keyring().show().await.unwrap();
    assert_eq!((before.active, before.keys[0].managers.len()), (1, 4));
    // When it is demoted, then another key takes over, which it has no copy of
    if leader == fourth {
        cluster.lead_by(0).await;
    }
    let client = cluster.node(cluster.leader().await).client();
    client.nodes().demote(&name).await.unwrap();
    let after = rotated(&client, 1, 3).await;
    assert!(!after.keys[0].managers.contains(&name));
    // And promoted again it gets its copy anew
    client.nodes().promote(&name).await.unwrap();
    eventually("it has a copy", || async {
        let report = client.keyring().show().await.ok()?;
        report.keys.iter().all(|key| key.managers.contains(&name)).then_some(())
    })
    .await;
    assert_eq!(client.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_leaves_the_keys_to_the_survivor_alone_and_replaces_them() {
    let mut cluster = Cluster::of(3).await;
    cluster.any().client().secrets().create("db", "hunter2").await.unwrap();
    cluster.agrees().await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    let directory = cluster.members[1].directory.clone();
    quorate::Recover::from(&directory).run().await.unwrap();
    cluster.restart(1).await;
    let client = cluster.node(1).client();
    let report = rotated(&client, 1, 1).await;
    assert_eq!(report.keys[0].managers, [cluster.node(1).name()]);
    assert_eq!(client.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
    // Whoever joins gets a copy
    cluster.join().await;
    eventually("the newcomer has a copy", || async {
        let report = client.keyring().show().await.ok()?;
        (report.lacking.is_empty() && report.keys.iter().all(|key| key.managers.len() == 2)).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_was_cut_off_goes_on_wherever_the_leader_was_killed() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    for n in 0..30 {
        client.secrets().create(format!("s{n}"), format!("value {n}")).await.unwrap();
    }
    let mut active = 1;
    for round in 0..4 {
        // When the leader is killed a moment after a rotation was asked for, each time a little later
        let leader = cluster.leader().await;
        cluster.node(leader).client().keyring().rotate().await.unwrap();
        for _ in 0..round {
            cluster.node(leader).client().keyring().show().await.unwrap();
        }
        cluster.kill(leader).await;
        // Then the next one does what is left
        let next = cluster.node(cluster.leader().await).client();
        active = rotated(&next, active, 3).await.active;
        cluster.restart(leader).await;
        cluster.settled(3).await;
        for n in 0..30 {
            let shown = cluster.node(leader).client().secrets().reveal(&format!("s{n}")).await.unwrap();
            assert_eq!(shown.expose(), format!("value {n}").as_bytes());
        }
    }
    cluster.stop().await;
}
