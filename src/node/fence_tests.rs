//! Who can make a manager step aside, and who cannot, on real nodes.

use std::time::SystemTime;

use quorate_core::id::LineageId;
use quorate_core::succession::Succession;
use quorate_transport::{CertRole, CertSubject, ClusterCa, ConnectError, Connector, Identity, KeyPair, Refused, word};

use super::*;
use crate::client::SOFTWARE;
use crate::node::barrier::Barrier;
use crate::node::records;
use crate::{Node, Start};

const PATIENCE: Duration = Duration::from_secs(60);

async fn started(directory: &Path, name: &str, start: Start) -> Node {
    let builder = Node::builder(directory.join(name)).listen("127.0.0.1:0").name(name);
    // An election takes a fifth of a second.
    let node = builder.tick(Duration::from_millis(10)).stable(Duration::from_millis(100)).start(start).await.unwrap();
    node.ready().await.unwrap();
    node
}

/// The CA of the cluster of a stopped manager, as everybody had it who was a manager.
fn ca(directory: &Path) -> ClusterCa {
    let (store, facts) = stopped(directory, &Keys::default()).unwrap().unwrap();
    records::ca(&*store.state, &Barrier::of(&facts)).unwrap().unwrap()
}

/// A manager's identity that the cluster has never heard of.
fn forged(ca: &ClusterCa) -> Identity {
    let key = KeyPair::generate().unwrap();
    let subject = CertSubject {
        cluster: ca.cluster_id(),
        node_id: NodeId::from_bytes([66; 16]),
        role: CertRole::Manager,
        enrolled: None,
    };
    let certificate = ca.issue(&key.csr().unwrap(), &subject, PATIENCE * 60, SystemTime::now()).unwrap();
    Identity::new(ca.certificate().clone(), certificate, key).unwrap()
}

fn again(identity: &Identity) -> Arc<Identity> {
    Arc::new(Identity::from_pem(identity.to_pem().as_bytes(), Path::new("again")).unwrap())
}

/// Shows a lineage to a manager, with this word for it; it has judged it when this returns.
async fn show(node: &Node, identity: &Identity, lineage: &Lineage, words: Vec<Succession>) -> Refused {
    let subject = identity.subject();
    let mut hello = Hello::client(subject.cluster, subject.node_id, lineage.clone(), SOFTWARE);
    hello.successions = words;
    let address = [node.address().to_string()];
    let connected = Connector::connect(&address, again(identity), hello, PATIENCE).await;
    let error = connected.map(drop).expect_err("one of another incarnation is not let in");
    let ConnectError::Refused { refused, .. } = error.root() else { panic!("{error}") };
    refused.clone()
}

fn longer(directory: &Path) -> Lineage {
    let ours = crate::inspect(directory).unwrap().lineage;
    let mut lineage = Lineage(ours.iter().map(|id| id.parse().unwrap()).collect());
    lineage.0.push(LineageId::from_bytes([99; 16]));
    lineage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_member_ends_an_incarnation_that_has_a_leader_whatever_the_cas_key_signs() {
    // Given a manager, and somebody who had the CA's key and has made an identity with it
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("m1");
    started(root.path(), "m1", Start::OpenOrInit).await.shutdown().await;
    let (ca, lineage) = (ca(&directory), longer(&directory));
    let liar = forged(&ca);
    let own = crate::node::node_identity(&directory, &Keys::default()).unwrap();
    let node = started(root.path(), "m1", Start::Open).await;
    // When it shows a newer generation: bare, with its own word for it, with that of the CA, with the word of the manager itself for
    // another generation
    let mut other = lineage.clone();
    other.0.pop();
    other.0.push(LineageId::from_bytes([98; 16]));
    let by_itself = word::of_recovery(&liar, &lineage, None).unwrap();
    let by_the_ca = word::of_recovery(&liar, &lineage, Some(&ca)).unwrap();
    let misplaced = word::of_recovery(&own, &other, Some(&ca)).unwrap();
    for words in [vec![], vec![by_itself], vec![by_the_ca.clone()], vec![misplaced, by_the_ca]] {
        let refused = show(&node, &liar, &lineage, words).await;
        assert!(matches!(refused, Refused::Superseded { .. }), "{refused}");
    }
    // Then it is not talked to, and the manager goes on, also when it has thought about it
    tokio::time::sleep(3 * LOOK).await;
    node.client().kv().put("k", "v").await.unwrap();
    assert!(fenced(&directory).is_err() || fenced(&directory).unwrap().is_none());
    // And shown the word of a member, by whomever, it stops for good.
    let by_a_member = word::of_recovery(&own, &lineage, None).unwrap();
    let refused = show(&node, &liar, &lineage, vec![by_a_member]).await;
    assert!(matches!(refused, Refused::Superseded { .. } | Refused::Fenced), "{refused}");
    let reason = tokio::time::timeout(PATIENCE, node.stopped()).await.unwrap();
    assert!(matches!(reason, StopReason::Superseded(_)), "{reason}");
    assert!(fenced(&directory).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_ca_stands_for_is_believed_by_a_manager_that_is_alone_for_long() {
    // Given two managers out of three, of which one leads,
    let root = tempfile::tempdir().unwrap();
    let first = started(root.path(), "m1", Start::OpenOrInit).await;
    let token = first.client().join_token("manager").await.unwrap();
    let managers = vec![first.address().to_string()];
    let join = |name: &'static str| {
        let start = Start::OpenOrJoin { token: token.clone(), managers: managers.clone() };
        started(root.path(), name, start)
    };
    let (second, third) = (join("m2").await, join("m3").await);
    let voters = async || {
        while first.status().await.voters != 3 {
            tokio::time::sleep(LOOK).await
        }
    };
    tokio::time::timeout(PATIENCE, voters()).await.unwrap();
    third.shutdown().await;
    let directory = root.path().join("m3");
    let (ca, lineage) = (ca(&directory), longer(&directory));
    // and a survivor that joined after they were cut off: they do not know it
    let stranger = forged(&ca);
    let claim = word::of_recovery(&stranger, &lineage, Some(&ca)).unwrap();
    for node in [&first, &second] {
        show(node, &stranger, &lineage, vec![claim.clone()]).await;
    }
    // When they have a leader, then they go on
    tokio::time::sleep(3 * LOOK).await;
    first.client().kv().put("k", "v").await.unwrap();
    // When one of them has none for long, then it believes what it was shown, and stops for good.
    second.shutdown().await;
    let reason = tokio::time::timeout(PATIENCE, first.stopped()).await.unwrap();
    assert!(matches!(reason, StopReason::Superseded(_)), "{reason}");
    assert!(fenced(&root.path().join("m1")).unwrap().is_some());
}
