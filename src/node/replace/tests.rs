//! When a sound store may be moved aside, by what the managers say and on real nodes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use quorate_core::id::LineageId;
use quorate_core::log::Configuration;
use quorate_transport::{CertSubject, Subject};

use super::*;
use crate::client::Client;
use crate::config;
use crate::node::barrier::Barrier;
use crate::node::damaged::DamageRecord;
use crate::node::directory::{look_into, open_store};
use crate::node::facts::Layout;
use crate::node::records;
use crate::{Node, Start};

fn lineage(ids: &[u8]) -> Lineage {
    Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
}

#[test]
fn a_sound_store_is_moved_only_where_the_cluster_does_not_count_on_it() {
    let store = StoreId::from_bytes([7; 16]);
    let facts = Facts { raft_id: 2, store_id: Bytes::copy_from_slice(store.as_bytes()), ..Facts::default() };
    let record = StandingRecord { raft_id: RaftId(2), store_id: Some(store), lost: false };
    let said = |theirs: &[u8], record| {
        let standing = NodeStanding { lineage: lineage(theirs), record };
        is_left_behind(&facts, &lineage(&[1, 2]), &standing)
    };
    // Of the same incarnation, and of another recovery: by the record.
    for theirs in [&[1, 2][..], &[1, 3]] {
        let counts = said(theirs, Some(record)).unwrap_err();
        assert!(counts.contains("counts on it as raft id 2") && counts.contains("Nothing was changed"), "{counts}");
        assert!(said(theirs, Some(StandingRecord { store_id: None, ..record })).is_err(), "not bound yet");
        let worker = said(theirs, Some(StandingRecord { raft_id: RaftId(0), ..record })).unwrap_err();
        assert!(worker.contains("worker") && worker.contains("quorate run"), "{worker}");
        assert!(said(theirs, None).is_ok(), "removed");
        assert!(said(theirs, Some(StandingRecord { lost: true, ..record })).is_ok());
        assert!(said(theirs, Some(StandingRecord { raft_id: RaftId(5), ..record })).is_ok(), "its raft id is burnt");
        let other = Some(StoreId::from_bytes([8; 16]));
        assert!(said(theirs, Some(StandingRecord { store_id: other, ..record })).is_ok(), "its store was replaced");
    }
    // The managers of a newer incarnation have left it behind; those of an older one have no say.
    assert!(said(&[1, 2, 3], Some(record)).is_ok());
    for known in [Some(record), None] {
        let older = said(&[1], known).unwrap_err();
        assert!(older.contains("generation 2") && older.contains("generation 1"), "{older}");
    }
}

async fn started(directory: &Path, name: &str, start: Start) -> Node {
    let node = Node::builder(directory.join(name)).listen("127.0.0.1:0").name(name).start(start).await.unwrap();
    node.ready().await.unwrap();
    node
}

/// The certificate in the identity file ran out long ago, as if the node had been off for a year.
fn run_out(directory: &Path) {
    let layout = Layout::new(directory);
    let held = || own_identity::load(&layout).unwrap();
    let identity = held();
    let store = look_into(&layout, &layout.store()).unwrap();
    let facts = Facts::read(store.fact(Facts::NAME).unwrap()).unwrap().unwrap();
    let ca = records::ca(&*store.state, &Barrier::of(&facts)).unwrap().unwrap();
    let Subject { cluster, node_id, .. } = *identity.subject();
    let subject = CertSubject { cluster, node_id, role: CertRole::Manager, enrolled: None };
    let long_ago = SystemTime::now() - Duration::from_secs(365 * 86_400);
    let certificate = ca.issue(&identity.key().csr().unwrap(), &subject, config::CERTIFICATE, long_ago).unwrap();
    identity.renewed(certificate).unwrap().write(&layout.identity()).unwrap();
    assert!(held().subject().check_time(SystemTime::now()).is_err());
}

async fn token(client: &Client) -> String {
    client.join_token("manager").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_store_is_not_moved_because_the_certificate_beside_it_has_run_out() {
    // Given a manager that is counted on, off for so long that its certificate has run out
    let root = tempfile::tempdir().unwrap();
    let first = started(root.path(), "m1", Start::OpenOrInit).await;
    let managers = vec![first.address().to_string()];
    let join = Start::OpenOrJoin { token: token(&first.client()).await, managers: managers.clone() };
    let second = started(root.path(), "m2", join).await;
    second.shutdown().await;
    let directory = root.path().join("m2");
    run_out(&directory);
    let secret = token(&first.client()).await;
    let replace = async |managers: &[String]| Node::builder(&directory).replace(&secret, managers.to_vec()).await;
    let is_untouched = || directory.join("store").is_dir() && !directory.join("store.old-1").exists();
    // When it is to be replaced, then it is refused, and its data is where it was
    let refused = replace(&managers).await.unwrap_err();
    assert!(matches!(&refused, StartError::Directory(why) if why.contains("counts on it as raft id 2")), "{refused}");
    assert!(is_untouched());
    // Nor is it moved while nobody says so
    first.shutdown().await;
    let refused = replace(&managers).await.unwrap_err();
    assert!(matches!(&refused, StartError::Unavailable(why) if why.contains("is not known")), "{refused}");
    assert!(is_untouched());
    // Only when the cluster has let it go
    let first = Node::builder(root.path().join("m1")).start(Start::Open).await.unwrap();
    first.ready().await.unwrap();
    first.client().nodes().remove("m2").forced().await.unwrap();
    let managers = vec![first.address().to_string()];
    let prepared = replace(&managers).await.unwrap();
    assert!(prepared.raft_id > 2 && directory.join("store.old-1").is_dir(), "{prepared:?}");
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_found_damaged_is_not_taken_for_sound() {
    // Given a stopped manager, whose store nothing is wrong with that an opening would tell
    let root = tempfile::tempdir().unwrap();
    started(root.path(), "m1", Start::OpenOrInit).await.shutdown().await;
    let directory = root.path().join("m1");
    let found = || Node::builder(&directory).find().unwrap().1;
    assert!(matches!(found(), Found::Sound(..)));
    // When it is marked as damaged, then it is replaced whatever the managers say
    let store = open_store(&Layout::new(&directory)).unwrap();
    let facts = Facts::load(&*store.meta).unwrap().unwrap();
    let mark = DamageRecord::of("a test".into(), &facts, &Configuration::default());
    Mark::Damaged(mark).put(&*store.meta).unwrap();
    drop(store);
    assert!(matches!(found(), Found::Spent(Some(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_has_no_say_about_a_store() {
    // Given a stopped manager of one cluster, and another cluster with a token of its own
    let root = tempfile::tempdir().unwrap();
    let ours = started(root.path(), "ours", Start::OpenOrInit).await;
    ours.shutdown().await;
    let theirs = started(root.path(), "theirs", Start::OpenOrInit).await;
    let (secret, managers) = (token(&theirs.client()).await, vec![theirs.address().to_string()]);
    // When somebody takes the one for the other
    let directory = root.path().join("ours");
    let refused = Node::builder(&directory).replace(&secret, managers).await.unwrap_err();
    // Then it is said, nothing is moved, and the manager goes on where it was
    assert!(matches!(&refused, StartError::Contradiction(why) if why.contains("of another one")), "{refused}");
    assert!(!directory.join("store.old-1").exists());
    let ours = Node::builder(&directory).start(Start::Open).await.unwrap();
    ours.ready().await.unwrap();
    ours.shutdown().await;
    theirs.shutdown().await;
}

#[test]
fn a_worker_is_never_taken_to_an_older_incarnation() {
    let facts = Facts::default();
    let said = |theirs: &[u8], record| {
        is_left_behind(&facts, &lineage(&[1, 2]), &NodeStanding { lineage: lineage(theirs), record })
    };
    let record = Some(StandingRecord { raft_id: RaftId(0), store_id: None, lost: false });
    assert!(said(&[1], None).unwrap_err().contains("generation 1"));
    assert!(said(&[1, 2], record).unwrap_err().contains("good standing"));
    assert!(said(&[1, 2, 3], record).unwrap_err().contains("good standing"));
    assert!(said(&[1, 2], None).is_ok());
}
