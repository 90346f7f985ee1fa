//! What binds a store, by its facts and on real nodes.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use quorate_core::id::{Lineage, LineageId, NodeId, RaftId, StoreId};
use quorate_core::log::Configuration;
use quorate_core::testing::{Fault, MemoryStore};

use super::*;
use crate::node::ending::Ending;
use crate::node::facts::KnownManager;
use crate::node::ground::Ground;
use crate::node::{Node, Runtime, Start};

/// Of n2, after so many incarnations, with these addresses of others.
fn facts(incarnations: u8, others: &[&str]) -> Facts {
    let lineage = Lineage((1..=incarnations).map(|n| LineageId::from_bytes([n; 16])).collect());
    let known = |address: &&str| KnownManager { addresses: vec![(*address).to_owned()], ..KnownManager::default() };
    Facts {
        name: "n2".into(),
        raft_id: 2,
        node_id: Bytes::copy_from_slice(NodeId::from_bytes([2; 16]).as_bytes()),
        store_id: Bytes::copy_from_slice(StoreId::from_bytes([2; 16]).as_bytes()),
        seed: vec![1; 32].into(),
        sealing: vec![1; 32].into(),
        lineage: lineage.to_bytes().into(),
        managers: others.iter().map(known).collect(),
        ..Facts::default()
    }
}

fn voters(ids: &[u64]) -> Configuration {
    Configuration { voters: ids.iter().copied().map(RaftId).collect(), ..Configuration::default() }
}

fn rolled_back() -> Mark {
    Mark::RolledBack(RollbackRecord { acknowledged: 90, last: 40, generation: 1 })
}

fn damaged(facts: &Facts, ids: &[u64]) -> Mark {
    Mark::Damaged(DamageRecord::of("a record was taken away".into(), facts, &voters(ids)))
}

fn says(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_mark_binds_its_generation_and_a_recovery_from_the_same_store_ends_it() {
    for (mark, words) in [
        (rolled_back(), ["entry 90", "ends at 40", "nothing acknowledged is lost"]),
        (damaged(&facts(1, &[]), &[1, 2, 3]), ["a record was taken away", "never votes or serves", "hold the data"]),
    ] {
        let meta = MemoryStore::new().open().unwrap().meta;
        assert!(check(&*meta, &facts(1, &[]), Path::new("/d")).is_ok());
        mark.put(&*meta).unwrap();
        let error = check(&*meta, &facts(1, &["10.0.0.3:4701"]), Path::new("/d")).unwrap_err();
        assert_eq!((error.exit_code(), error.command_exit_code()), (12, 1));
        says(&error.to_string(), &words);
        says(&error.to_string(), &["quorate join --replace --data-dir /d --manager 10.0.0.3:4701, then quorate run"]);
        assert!(check(&*meta, &facts(2, &[]), Path::new("/d")).is_ok(), "recovered from");
    }
}

#[test]
fn who_votes_alone_is_sent_to_no_other_manager() {
    // Of a cluster of one, and with a standby, of which nobody knows here whether it has everything
    for (others, standby) in [(&[][..], false), (&["10.0.0.3:4701"][..], true)] {
        let facts = facts(1, others);
        let said = damaged(&facts, &[2]).words(&facts, Path::new("/d"));
        says(&said, &["is the only voter", "quorate restore", "quorate inspect --dump --data-dir /d"]);
        assert!(!said.contains("other managers") && !said.contains("join --replace"), "{said}");
        assert_eq!(said.contains("quorate recover --dry-run says so on its machine"), standby, "{said}");
    }
    let other = damaged(&facts(1, &[]), &[1]).words(&facts(1, &[]), Path::new("/d"));
    says(&other, &["The other managers go on", "join --replace"]);
}

#[tokio::test]
async fn a_disk_that_does_not_take_the_mark_is_told_with_what_was_found() {
    for (mark, told) in [(rolled_back(), "ends at 40"), (damaged(&facts(1, &[]), &[1, 2, 3]), "taken away")] {
        let disk = MemoryStore::new();
        let meta = disk.open().unwrap().meta;
        disk.fail_next_write(Fault::Io);
        let parts = Parts::new(&Ground::default(), Ending::new());
        let reason = End::Marked(mark).told(parts, meta, &facts(1, &[]), Path::new("/d")).await;
        // What it is told as stays what it is, and is not worth a restart, which would know nothing of it.
        assert_eq!(reason.exit_code(), 12);
        let said = reason.to_string();
        says(&said, &[told, "did not take the mark", "do not start it", "move /d/store aside by hand"]);
        let again = disk.open().unwrap().meta;
        assert!(check(&*again, &facts(1, &[]), Path::new("/d")).is_ok(), "there is no mark");
    }
}

#[tokio::test]
async fn what_the_files_have_heard_of_since_the_start_is_where_it_comes_back() {
    let meta = MemoryStore::new().open().unwrap().meta;
    facts(1, &["10.0.0.9:4701"]).save(&*meta).unwrap();
    let parts = Parts::new(&Ground::default(), Ending::new());
    let reason = End::Marked(rolled_back()).told(parts, meta, &facts(1, &[]), Path::new("/d")).await;
    says(&reason.to_string(), &["--manager 10.0.0.9:4701"]);
}

/// A disk on which the thread that marks a store hangs until it is let go.
#[derive(Clone, Default)]
struct Hanging(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Hanging {
    fn probe(&self) -> Arc<dyn Fn(&'static str) + Send + Sync> {
        let this = self.clone();
        Arc::new(move |point| {
            if point == "journal: before a sync" && std::thread::current().name() == Some("quorate-mark") {
                let (state, changed) = &*this.0;
                let mut state = state.lock().unwrap();
                state.0 = true;
                changed.notify_all();
                drop(changed.wait_while(state, |(_, free)| !*free).unwrap());
            }
        })
    }

    /// Blocks until it hangs.
    fn hangs(&self) {
        let (state, changed) = &*self.0;
        let (state, waited) =
            changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(60), |(hangs, _)| !*hangs).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "nothing is marked");
    }

    fn free(&self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_hangs_with_the_mark_nothing_is_served_and_nobody_is_told() {
    // Given a manager that is to stop for its state, on a disk that hangs then
    let directory = tempfile::tempdir().unwrap();
    let disk = Hanging::default();
    let builder = || Node::builder(directory.path()).listen("127.0.0.1:0");
    let node = builder().store_probe(disk.probe()).start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    let client = node.client().with_deadline(Duration::from_secs(5));
    client.kv().put("k", "v").await.unwrap();
    let address = node.address();
    let Some(Runtime::Manager(manager)) = node.inner.current.borrow().clone() else { panic!("it is a manager") };
    // When it does
    manager.ending.stop(StopReason::Damaged("on purpose".into()));
    drop(manager);
    let hanging = disk.clone();
    tokio::task::spawn_blocking(move || hanging.hangs()).await.unwrap();
    // Then nothing is read from it, its address is given back, and nobody has heard of it
    client.kv().get("k").serializable().await.unwrap_err();
    let given_back = async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.expect("the network is stopped");
    assert!(node.inner.stopped.borrow().is_none(), "nobody is told before it is on the disk");
    // When the disk answers, then it has stopped for that, and no start runs it again
    disk.free();
    let reason = node.stopped().await;
    says(&reason.to_string(), &["on purpose", "never votes or serves from this store again"]);
    drop((client, node));
    let refused = builder().start(Start::Open).await.map(drop).unwrap_err();
    assert!(matches!(&refused, StartError::Damaged(why) if *why == reason.to_string()), "{refused}");
    let said = spent(directory.path()).unwrap().unwrap();
    assert_eq!((said.health, said.message), (Health::Damaged, reason.to_string()));
}
