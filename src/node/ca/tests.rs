//! Who is noted and who is waited for, and that a root's key is nowhere in clear.

use std::path::Path;

use quorate_core::id::LogIndex;
use quorate_core::membership::record::Role;
use quorate_core::ports::Visit;

use super::*;
use crate::node::directory::look_into;
use crate::node::facts::{Facts, Layout};
use crate::{Node, Start};

#[test]
fn only_what_a_rotation_waits_for_is_noted() {
    let node = NodeRecord::default();
    let calm = TrustRecord { issuer: Bytes::from_static(&[2; 8]), ..TrustRecord::default() };
    assert_eq!(with_issuer(&calm, &node, &[2; 8]), None, "nobody waits for it");
    let rotating = TrustRecord { started: 1, ..calm };
    let noted = with_issuer(&rotating, &node, &[2; 8]).unwrap();
    assert_eq!(noted.issuer[..], [2; 8]);
    assert_eq!(with_issuer(&rotating, &noted, &[2; 8]), None);
    assert_eq!(with_issuer(&rotating, &noted, &[1; 8]), None, "who shows an older one is not taken back");
}

/// How many values of the state, and entries of the log, hold these bytes, as who has the disk and its key reads them.
fn holds(directory: &Path, wanted: &[u8]) -> (usize, usize) {
    let layout = Layout::new(directory);
    let store = look_into(&layout, &layout.store()).unwrap();
    let has = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    let mut values = 0;
    let visit = &mut |_: &[u8], value: &[u8]| {
        values += usize::from(has(value));
        Visit::More
    };
    store.state.scan(b"", b"", visit).unwrap();
    let (mut next, mut entries) = (LogIndex(store.boot.start.index.0 + 1), 0);
    while next <= store.boot.last {
        for entry in store.log.entries(next, LogIndex(store.boot.last.0 + 1), 1 << 20).unwrap() {
            entries += usize::from(has(&entry.data));
            next = LogIndex(entry.index.0 + 1);
        }
    }
    (values, entries)
}

/// The root's certificate, and every secret that lies beside it, out of a stopped manager's store.
fn secrets(directory: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let layout = Layout::new(directory);
    let store = look_into(&layout, &layout.store()).unwrap();
    let facts = Facts::read(store.fact(Facts::NAME).unwrap()).unwrap().unwrap();
    let (state, barrier) = (&*store.state, Barrier::of(&facts));
    let (certificate, key) = records::ca(state, &barrier).unwrap().unwrap().to_parts();
    let token = |role| records::token(state, role, &barrier).unwrap().unwrap().expose().to_vec();
    // The key itself, without what every such file begins with.
    (certificate, vec![key[16..48].to_vec(), token(Role::Manager), token(Role::Worker)])
}

/// The keys that a transaction compares by the revision that wrote them, and that are what they are in `view`.
fn compared(view: &dyn StateRead, txn: &Txn) -> Vec<Bytes> {
    let holds = |compare: &&Compare| {
        let revision = records::value(view, compare.key.clone()).unwrap().map_or(0, |(_, revision)| revision);
        **compare == Compare::mod_revision(compare.key.clone(), revision)
    };
    txn.compares.iter().filter(holds).map(|compare| compare.key.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_that_begin_at_once_one_is_void() {
    // Given a stopped manager's state, as two managers may see it at once
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("m1");
    let builder = Node::builder(&directory).listen("127.0.0.1:0").name("m1");
    let node = builder.start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    node.shutdown().await;
    let layout = Layout::new(&directory);
    let store = look_into(&layout, &layout.store()).unwrap();
    let facts = Facts::read(store.fact(Facts::NAME).unwrap()).unwrap().unwrap();
    let (view, barrier) = (&*store.state, Barrier::of(&facts));
    let begin = Begin { nodes: 1, now: SystemTime::now(), deadline_s: 60 };
    // When one is worked out, then it holds for the root's key, and for what is trusted, as they are there: not after another one.
    for txn in [rotation(view, &barrier, begin).unwrap(), rotation_in_any_case(view, &barrier, begin).unwrap()] {
        assert_eq!(compared(view, &txn), [records::ca_key(), TrustRecord::key()]);
        assert_eq!(txn.then.len(), 2);
    }
    let refused = rotation(view, &barrier, Begin { deadline_s: 0, ..begin }).unwrap_err();
    assert!(refused.message.contains("Nothing was changed"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_new_root_is_in_clear_neither_in_the_log_nor_in_the_state() {
    // Given a manager whose CA is replaced twice, once together with everything that a node knew
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("m1");
    let started = async || {
        let builder = Node::builder(&directory).listen("127.0.0.1:0").name("m1");
        let node = builder.start(Start::OpenOrInit).await.unwrap();
        node.ready().await.unwrap();
        node
    };
    let node = started().await;
    let (token, managers) = (node.client().join_token("worker").await.unwrap(), vec![node.address().to_string()]);
    Node::builder(root.path().join("w1")).listen("127.0.0.1:0").name("w1").join(&token, managers).await.unwrap();
    node.client().ca().rotate(Duration::from_secs(3_600)).await.unwrap();
    node.shutdown().await;
    let (first, mut all) = secrets(&directory);
    let node = started().await;
    node.client().nodes().remove_compromised("w1", Duration::from_secs(3_600)).await.unwrap();
    node.shutdown().await;
    let (second, more) = secrets(&directory);
    assert!(first != second && all.iter().zip(&more).all(|(one, other)| one != other), "everything is another one");
    all.extend(more);
    // When everything is looked through as who has the disk and its key reads it, then the certificates are found,
    for public in [first, second] {
        let (values, entries) = holds(&directory, &public);
        assert!(values > 0 && entries > 0, "what is public is found: {values} {entries}");
    }
    // and no secret.
    for secret in all {
        assert_eq!(holds(&directory, &secret), (0, 0));
    }
}
