//! A manager's own key is sealed as its store is: who takes its directory without the key-encryption key is nobody.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use quorate::keys::{Key, KeyOrder, Keys, change};
use quorate::testing::node_identity;
use quorate::{Node, Start, StartError};
use quorate_storage::{KeySlot, key_slots, secret_slots};
use quorate_transport::{FileKey, Identity, IdentityFile};

use crate::sealing::{found_in, stopped};
use crate::support::{Cluster, copy, eventually, says};

/// Which keys open the node's own key; none where it is in clear.
fn opened_by(directory: &Path) -> Option<Vec<KeySlot>> {
    match IdentityFile::load(&directory.join("node.id")).unwrap().key {
        FileKey::Clear(_) => None,
        FileKey::Sealed(sealed) => Some(secret_slots(&sealed).unwrap()),
    }
}

fn own(directory: &Path) -> Identity {
    node_identity(directory, &Keys::default()).unwrap()
}

/// Files that hold the private key of this identity, in the forms in which it could lie somewhere.
fn in_clear(directory: &Path, identity: &Identity) -> Vec<PathBuf> {
    // The last 32 bytes of an Ed25519 key in PKCS#8 that has no public half; somewhere in the middle of one that has.
    let der = identity.key().pkcs8_der();
    let mut found = found_in(directory, &der[16..48]);
    let pem = BASE64.encode(der);
    found.extend(found_in(directory, &pem.as_bytes()[24..60]));
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managers_directory_without_its_key_comes_back_by_the_word_of_a_managers_token_only() {
    // Given a manager that is off, a thief's copy of its directory without the key, and one with it
    let mut cluster = Cluster::of(3).await;
    let away = cluster.others(cluster.leader().await)[0];
    cluster.kill(away).await;
    let directory = cluster.members[away].directory.clone();
    let identity = own(&directory);
    let (stolen, whole) = (cluster.path("stolen"), cluster.path("whole"));
    copy(&directory, &whole);
    copy(&directory, &stolen);
    let _ = std::fs::remove_file(stolen.join("operator.id"));
    std::fs::remove_file(stolen.join("key")).unwrap();
    // Then nothing in it is that node's key,
    assert_eq!(in_clear(&stolen, &identity), Vec::<PathBuf>::new());
    assert_eq!(opened_by(&stolen).unwrap(), key_slots(&stolen.join("store")).unwrap());
    std::fs::write(stolen.join("control"), identity.to_pem().as_bytes()).unwrap();
    assert_eq!(in_clear(&stolen, &identity), [stolen.join("control")]);
    std::fs::remove_file(stolen.join("control")).unwrap();
    // whoever wants it is told which key is wanted,
    let id = opened_by(&stolen).unwrap()[0].id.to_string();
    says(&Identity::load(&stolen.join("node.id")).unwrap_err(), &["sealed", "operator's identity"]);
    says(&node_identity(&stolen, &Keys::default()).unwrap_err(), &["node.id", "sealed with key", &id]);
    let other = node_identity(&stolen, &Keys::key(Key::generate().unwrap())).unwrap_err();
    assert!(matches!(other, StartError::Locked(_)), "{other}");
    says(&other, &["another one", &id, "Nothing was changed"]);
    // and nobody is given a fresh store by that certificate, also where the store is gone with which it was sealed.
    let builder = |at: &Path| cluster.builder(at, "").key_lost(true);
    let managers = cluster.addresses();
    for gone in [false, true] {
        if gone {
            std::fs::rename(stolen.join("store"), stolen.join("elsewhere")).unwrap();
        }
        let refused = cluster.builder(&stolen, "").rejoin(managers.clone()).await.unwrap_err();
        assert!(matches!(refused, StartError::Locked(_)), "{refused}");
        let refused = builder(&stolen).rejoin(managers.clone()).await.unwrap_err();
        assert!(matches!(refused, StartError::Locked(_)), "{refused}");
        says(&refused, &["--token TOKEN", "token show manager", &id]);
    }
    std::fs::rename(stolen.join("elsewhere"), stolen.join("store")).unwrap();
    let worker = cluster.any().client().join_token("worker").await.unwrap();
    let refused = builder(&stolen).replace(&worker, managers.clone()).await.unwrap_err();
    says(&refused, &["give the manager token"]);
    assert!(!stolen.join("store.old-1").exists(), "it was moved though nobody was taken in");
    // When its operator gives a manager's token, then it is that manager again, under another key
    let token = cluster.token().await;
    let refused = cluster.builder(&stolen, "").replace(&token, managers.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Locked(_)), "{refused}");
    let back = builder(&stolen).replace(&token, managers.clone()).await.unwrap();
    assert_eq!(back.node_id, identity.subject().node_id.to_string());
    assert!(stolen.join("store.old-1").is_dir());
    let fresh = own(&stolen);
    assert_ne!(fresh.subject().key_digest, identity.subject().key_digest);
    assert_eq!(in_clear(&stolen, &fresh), Vec::<PathBuf>::new());
    cluster.members[away].directory = stolen;
    cluster.restart(away).await;
    cluster.settled(3).await;
    // and who has the key of before is nobody any more.
    cluster.kill(away).await;
    std::fs::rename(whole.join("store"), whole.join("aside")).unwrap();
    let refused = cluster.builder(&whole, "").rejoin(managers).await.unwrap_err();
    assert!(!whole.join("store").exists(), "{refused}");
    cluster.restart(away).await;
    cluster.settled(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_own_key_is_opened_by_what_opens_the_store_and_by_nothing_else() {
    let (cluster, directory) = stopped().await;
    let identity = own(&directory);
    let store = || key_slots(&directory.join("store")).unwrap();
    let agree = |keys: &Keys| {
        assert_eq!(opened_by(&directory), Some(store()));
        assert_eq!(node_identity(&directory, keys).unwrap().subject(), identity.subject());
    };
    agree(&Keys::default());
    // When the key goes through everything that can be done to it, then both go together
    let moved = cluster.path("elsewhere").join("m1.key");
    std::fs::create_dir(cluster.path("elsewhere")).unwrap();
    for order in [KeyOrder::Rotate, KeyOrder::Move(moved), KeyOrder::Rotate] {
        let before = opened_by(&directory);
        change(&directory, &Keys::default(), &order).unwrap();
        assert_ne!(opened_by(&directory), before);
        agree(&Keys::default());
    }
    let shown = change(&directory, &Keys::default(), &KeyOrder::AutolockOn).unwrap().secret.unwrap();
    let unlock = Keys::key(Key::from_text(&shown).unwrap());
    // (Both, until it is said that the one shown is kept.)
    assert_eq!((store().len(), opened_by(&directory)), (2, Some(store())));
    change(&directory, &unlock, &KeyOrder::Confirm).unwrap();
    agree(&unlock);
    assert!(matches!(node_identity(&directory, &Keys::default()), Err(StartError::Locked(_))));
    let phrase = Keys::passphrase("correct horse battery");
    let text = zeroize::Zeroizing::new("correct horse battery".to_owned());
    change(&directory, &unlock, &KeyOrder::Passphrase(text)).unwrap();
    agree(&phrase);
    assert!(matches!(node_identity(&directory, &unlock), Err(StartError::Locked(_))));
    change(&directory, &phrase, &KeyOrder::AutolockOff(None)).unwrap();
    agree(&Keys::default());
    // A change that was begun and not finished before the next start does not count for either.
    let shown = change(&directory, &Keys::default(), &KeyOrder::AutolockOn).unwrap().secret.unwrap();
    change(&directory, &Keys::default(), &KeyOrder::Show).unwrap();
    agree(&Keys::default());
    assert!(node_identity(&directory, &Keys::key(Key::from_text(&shown).unwrap())).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_whose_key_lies_in_clear_as_it_did_before_is_sealed_by_its_next_start() {
    let (mut cluster, directory) = stopped().await;
    let identity = own(&directory);
    let pem = identity.to_pem().to_string();
    for attempt in 0..2 {
        std::fs::write(directory.join("node.id"), &pem).unwrap();
        assert_eq!(opened_by(&directory), None, "attempt {attempt}");
        cluster.restart(0).await;
        assert_eq!(opened_by(&directory), Some(key_slots(&directory.join("store")).unwrap()));
        assert_eq!(own(&directory).subject(), identity.subject());
        assert_eq!(in_clear(&directory, &identity), Vec::<PathBuf>::new());
        cluster.kill(0).await;
    }
}

async fn is(cluster: &Cluster, name: &str, sealed: bool) {
    eventually(&format!("{name} is sealed: {sealed}"), || async {
        (opened_by(&cluster.path(name)).is_some() == sealed).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_key_is_sealed_when_it_becomes_a_manager_and_in_clear_when_it_is_one_no_more() {
    let cluster = Cluster::of(3).await;
    let worker: Node = cluster.worker("w1").await;
    assert_eq!(opened_by(&cluster.path("w1")), None);
    let key = own(&cluster.path("w1")).subject().key_digest;
    let client = cluster.any().client();
    client.nodes().promote("w1").detached().await.unwrap();
    is(&cluster, "w1", true).await;
    eventually("it is a manager", || async { (worker.role() == quorate::status::NodeRole::Manager).then_some(()) })
        .await;
    assert_eq!(own(&cluster.path("w1")).subject().key_digest, key);
    assert_eq!(in_clear(&cluster.path("w1"), &own(&cluster.path("w1"))), Vec::<PathBuf>::new());
    // As a worker again it needs no key to be who it is, and has none.
    client.nodes().demote("w1").detached().await.unwrap();
    is(&cluster, "w1", false).await;
    eventually("it is a worker", || async { (worker.role() == quorate::status::NodeRole::Worker).then_some(()) }).await;
    cluster.sees_worker("w1", "ready").await;
    worker.shutdown().await;
    let _ = std::fs::remove_file(cluster.path("w1").join("key"));
    let again = cluster.builder(&cluster.path("w1"), "").start(Start::Open).await.unwrap();
    cluster.sees_worker("w1", "ready").await;
    assert_eq!(own(&cluster.path("w1")).subject().key_digest, key);
    again.shutdown().await;
    cluster.stop().await;
}
