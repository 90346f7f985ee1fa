//! What a node is given of configs and secrets, and what lies on its disk of it: its own items' data, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use quorate::status::NodeRole;
use quorate::{Identity, Item, Node, Start};
use quorate_transport::session_api::{Down, ObjectName, Open, Part, Up, down, up};
use quorate_transport::{Connection, Session};

use crate::secrets::{canary, files_with, next};
use crate::support::{BUDGET, Cluster, eventually, raw_as};

/// A worker's session, and everything that came through it.
struct Told {
    session: Session,
    _connection: Connection,
    items: BTreeSet<String>,
    /// Data that came, and was not withdrawn, by whether it is secret and by name.
    has: BTreeMap<(bool, String), Bytes>,
    /// What the newest part takes back.
    withdrawn: BTreeSet<(bool, String)>,
}

impl Told {
    /// Opened with the identity of a worker that does not run.
    async fn to(cluster: &Cluster, name: &str) -> Self {
        let identity = Identity::load(&cluster.path(name).join("node.id")).unwrap();
        let connection = raw_as(cluster, 0, identity).await;
        let mut session = connection.session().await.unwrap();
        let open = Up { kind: Some(up::Kind::Open(Open { software: "scenario".into(), ..Open::default() })) };
        session.sender.send(open.encode_to_vec().into()).await.unwrap();
        let (items, has, withdrawn) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        Self { session, _connection: connection, items, has, withdrawn }
    }

    /// Takes what comes until this is what it is told to run, and every part of that is here.
    async fn until(&mut self, items: &[&str]) {
        self.when(|told| told.items.iter().eq(items.iter())).await;
    }

    async fn when(&mut self, done: impl Fn(&Self) -> bool) {
        let name = |name: ObjectName| (name.secret, name.name);
        loop {
            let message = tokio::time::timeout(BUDGET, self.session.receiver.next()).await.expect("a message").unwrap();
            let Some(down::Kind::Part(part)) = Down::decode(message).unwrap().kind else { continue };
            let Part { last, items, removed, objects, withdrawn, .. } = part;
            self.items.retain(|id| !removed.contains(id));
            self.items.extend(items.into_iter().map(|item| item.id));
            self.withdrawn = withdrawn.into_iter().map(name).collect();
            self.has.retain(|name, _| !self.withdrawn.contains(name));
            self.has.extend(objects.into_iter().map(|object| (name(object.name.unwrap()), object.data)));
            if last && done(self) {
                return;
            }
        }
    }

    /// Exactly this has come: names, those of secrets with a mark, and data.
    #[track_caller]
    fn has(&self, expected: &[(&str, &[u8])]) {
        let marked = |secret: bool, name: &str| format!("{}{name}", if secret { "secret " } else { "" });
        let has: Vec<_> = self.has.iter().map(|((secret, name), data)| (marked(*secret, name), &data[..])).collect();
        let expected: Vec<_> = expected.iter().map(|(name, data)| ((*name).to_owned(), *data)).collect();
        assert_eq!(has, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_carries_what_the_items_of_that_node_refer_to_and_takes_it_back_with_them() {
    // Given two workers, configs and secrets, and items of which each refers to some
    let cluster = Cluster::of(3).await;
    for name in ["w1", "w2"] {
        cluster.worker(name).await.shutdown().await;
    }
    let client = cluster.any().client();
    for (name, data) in [("db", "hunter2"), ("db2", "swordfish"), ("nobodys", "sesame")] {
        client.secrets().create(name, data).await.unwrap();
    }
    let large = vec![b'x'; quorate::config::OBJECT_BYTES_MAX];
    client.secrets().create("large", large.clone()).await.unwrap();
    client.configs().create("conf", "listen 80").await.unwrap();
    client.configs().create("conf2", "listen 81").await.unwrap();
    let work = client.assignments();
    work.set("w1", "web", "run").secret("db").config("conf").await.unwrap();
    work.set("w2", "idle", "run").await.unwrap();
    // When both open their sessions, then what comes down has the data of the own items, and of nothing else:
    let (mut first, mut second) = (Told::to(&cluster, "w1").await, Told::to(&cluster, "w2").await);
    first.until(&["web"]).await;
    first.has(&[("conf", b"listen 80"), ("secret db", b"hunter2")]);
    second.until(&["idle"]).await;
    second.has(&[]);
    // also when items come later, with data that fills messages by itself,
    work.set("w2", "more", "run").secret("db2").config("conf2").secret("large").await.unwrap();
    second.until(&["idle", "more"]).await;
    second.has(&[("conf2", b"listen 81"), ("secret db2", b"swordfish"), ("secret large", &large)]);
    // and what no item refers to any more is taken back by name: of one that is written anew,
    work.set("w1", "web", "run").secret("db").await.unwrap();
    first.when(|told| !told.withdrawn.is_empty()).await;
    assert_eq!(first.withdrawn, BTreeSet::from([(false, "conf".to_owned())]));
    first.has(&[("secret db", b"hunter2")]);
    // and of one that goes, while what another one still refers to stays.
    work.set("w1", "other", "run").secret("db").secret("db2").await.unwrap();
    first.until(&["other", "web"]).await;
    work.remove("w1", "web").await.unwrap();
    first.until(&["other"]).await;
    assert_eq!(first.withdrawn, BTreeSet::new());
    first.has(&[("secret db", b"hunter2"), ("secret db2", b"swordfish")]);
    work.remove("w1", "other").await.unwrap();
    first.until(&[]).await;
    assert_eq!(first.withdrawn, BTreeSet::from([(true, "db".to_owned()), (true, "db2".to_owned())]));
    cluster.stop().await;
}

/// Waits until a node has the data of what its items refer to.
async fn complete(node: &Node) {
    let mut stream = node.assignments();
    while !next(&mut stream).await.iter().any(Item::is_complete) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manager_is_to_run_itself_lies_on_no_disk_in_clear_also_once_a_worker_is_promoted() {
    // Given a manager and a worker with items, whose payloads hold a word, as the config does that they refer to
    let (word, _) = canary();
    let cluster = Cluster::of(3).await;
    let client = cluster.any().client();
    client.configs().create("conf", word.clone()).await.unwrap();
    let worker = cluster.worker("w1").await;
    for name in ["m3", "w1"] {
        client.assignments().set(name, "web", word.clone()).config("conf").await.unwrap();
    }
    complete(cluster.node(2)).await;
    complete(&worker).await;
    // then the worker keeps them on its disk, and no manager does.
    let (directory, kept) = (cluster.path("w1"), cluster.path("w1").join("assignments"));
    assert_eq!(files_with(&directory, word.as_bytes()), std::slice::from_ref(&kept));
    let directories: Vec<PathBuf> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    let of_managers = || directories.iter().flat_map(|each| files_with(each, word.as_bytes())).collect::<Vec<_>>();
    assert_eq!(of_managers(), Vec::<PathBuf>::new());
    // When the worker is promoted, then it has its items on, and nothing of them on its disk,
    let before = std::fs::read(&kept).unwrap();
    client.nodes().promote("w1").await.unwrap();
    eventually("a manager", || async {
        (worker.role() == NodeRole::Manager && worker.ready().await.is_ok()).then_some(())
    })
    .await;
    complete(&worker).await;
    assert_eq!(files_with(&directory, word.as_bytes()), Vec::<PathBuf>::new());
    // also after a restart, and where files of before came back with a copy of the directory.
    worker.shutdown().await;
    std::fs::write(&kept, &before).unwrap();
    std::fs::write(directory.join("assignments.new"), &before).unwrap();
    let worker = cluster.builder(&directory, "").start(Start::Open).await.unwrap();
    complete(&worker).await;
    assert_eq!(files_with(&directory, word.as_bytes()), Vec::<PathBuf>::new());
    // And a worker again it keeps them as workers do.
    client.nodes().demote("w1").await.unwrap();
    eventually("its items are on its disk again", || async {
        (worker.role() == NodeRole::Worker && files_with(&directory, word.as_bytes()) == [kept.clone()]).then_some(())
    })
    .await;
    worker.shutdown().await;
    cluster.stop().await;
}
