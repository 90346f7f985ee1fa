//! Bad input: who may not come in is told why and what to do, and the cluster goes on.

use std::net::UdpSocket;
use std::time::Duration;

use quorate::{Client, Error, Node, Start, StartError, inspect};
use quorate_core::limits::NAME_BYTES_MAX;
use quorate_transport::{JoinToken, TokenSecret};

use crate::support::{Cluster, closed_port, eventually, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_is_named_to_a_client_and_to_a_newcomer() {
    let cluster = Cluster::founded().await;
    let closed = closed_port();
    // When a client is pointed at a port where nobody listens.
    let refused = Client::connect([closed.clone()], cluster.operator()).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable(_)), "{refused}");
    says(&refused, &[&closed, "port closed", "start the node there"]);
    // When a newcomer is.
    let (directory, token) = (cluster.path("newcomer"), cluster.token().await);
    let start = Start::OpenOrJoin { token, managers: vec![closed.clone()] };
    let refused = cluster.builder(&directory, "newcomer").start(start).await.unwrap_err();
    assert!(matches!(refused, StartError::Unavailable(_)), "{refused}");
    says(&refused, &[&closed, "port closed"]);
    assert!(!directory.exists(), "nobody has heard of it: nothing of it is left");
    // Then one good address among closed ones is enough for both.
    let managers = vec![closed.clone(), cluster.any().address().to_string()];
    let client = Client::connect(managers.clone(), cluster.operator()).await.unwrap();
    client.kv().put("k", "v").await.unwrap();
    let start = Start::OpenOrJoin { token: cluster.token().await, managers };
    let node = cluster.builder(&directory, "newcomer").start(start).await.unwrap();
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_made_directory_is_finished_as_the_same_node() {
    let cluster = Cluster::founded().await;
    // Given a join that was cut off before any manager answered.
    let directory = cluster.path("half");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let managers = vec![silent.local_addr().unwrap().to_string()];
    let start = Start::OpenOrJoin { token: cluster.token().await, managers };
    tokio::select! {
        started = cluster.builder(&directory, "half").start(start) => panic!("nobody answers: {:?}", started.map(|_| ())),
        () = eventually("it is begun", || async { inspect(&directory).is_ok().then_some(()) }) => {}
    }
    let before = inspect(&directory).unwrap().node_id;
    // When it is run as it is, it is said how to go on.
    let refused = cluster.builder(&directory, "half").start(Start::Open).await.unwrap_err();
    assert!(matches!(refused, StartError::Directory(_)), "{refused}");
    says(&refused, &["half", "quorate join", "again"]);
    // When the same call is made again, it goes on as the same node.
    // (The port is free a moment after the join was cut off.)
    let node = eventually("it joins", || async {
        cluster.builder(&directory, "half").start(cluster.joining().await).await.ok()
    })
    .await;
    node.ready().await.unwrap();
    assert_eq!(node.id(), before);
    // And joined once: one record, one raft id.
    assert_eq!(cluster.any().status().await.managers.len(), 2);
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_too_long_is_refused_by_the_limits_name_and_the_longest_is_taken() {
    let cluster = Cluster::founded().await;
    let (directory, longest) = (cluster.path("second"), "n".repeat(NAME_BYTES_MAX));
    let refused = cluster.builder(&directory, &format!("{longest}n")).start(cluster.joining().await).await.unwrap_err();
    assert!(matches!(refused, StartError::Invalid(_)), "{refused}");
    says(&refused, &["256 bytes", "the limit `NAME_BYTES_MAX` is 255", "Nothing was changed"]);
    assert!(!directory.exists() && cluster.any().status().await.managers.len() == 1);
    let node = cluster.builder(&directory, &longest).start(cluster.joining().await).await.unwrap();
    node.ready().await.unwrap();
    assert_eq!(node.name(), longest);
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_name_is_refused_leaves_nothing_behind_and_another_one_goes_through() {
    let cluster = Cluster::founded().await;
    let directory = cluster.path("second");
    let refused = cluster.builder(&directory, "m1").start(cluster.joining().await).await.unwrap_err();
    assert!(matches!(refused, StartError::Refused(_)), "{refused}");
    says(&refused, &["m1", "taken", "--name"]);
    assert_eq!(cluster.any().status().await.managers.len(), 1);
    assert!(!directory.exists());
    // When the advice is followed.
    let node = cluster.builder(&directory, "m2").start(cluster.joining().await).await.unwrap();
    node.ready().await.unwrap();
    assert_eq!(node.name(), "m2");
    let names: Vec<_> = node.status().await.managers.into_iter().map(|manager| manager.name).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&"m2".to_owned()), "{names:?}");
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_open_this_cluster_are_told_apart() {
    let (cluster, other) = (Cluster::founded().await, Cluster::founded().await);
    let managers = cluster.addresses();
    let refused = async |token: String, name: &str| {
        let start = Start::OpenOrJoin { token, managers: managers.clone() };
        cluster.builder(&cluster.path(name), name).start(start).await.unwrap_err()
    };
    // No token at all.
    let error = refused("swordfish".into(), "a").await;
    assert!(matches!(error, StartError::Invalid(_)), "{error}");
    says(&error, &["QRT-1-", "quorate token show"]);
    // A token with a secret that is not this cluster's.
    let good: JoinToken = cluster.token().await.parse().unwrap();
    let wrong = JoinToken::new(*good.ca_hash(), TokenSecret::from_bytes([7; 16]));
    let error = refused(wrong.reveal(), "b").await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");
    says(&error, &["token", "quorate token show"]);
    // A token of another cluster: the newcomer does not trust this one, and it is no use to try again.
    let error = refused(other.token().await, "c").await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");
    says(&error, &["not trusted", "join token"]);
    // Then nobody came in and the cluster goes on.
    assert_eq!(cluster.any().status().await.managers.len(), 1);
    cluster.any().client().kv().put("k", "v").await.unwrap();
    other.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_of_another_cluster_is_denied() {
    let (cluster, other) = (Cluster::founded().await, Cluster::founded().await);
    let refused = Client::connect(cluster.addresses(), other.operator()).await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    says(&refused, &[&cluster.addresses()[0], "identity"]);
    cluster.outside(&[0]).await.kv().put("k", "v").await.unwrap();
    other.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_port_is_named_and_the_directory_starts_once_it_is_free() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("node");
    let busy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let builder = Node::builder(&directory).listen(&address);
    let refused = builder.clone().start(Start::OpenOrInit).await.unwrap_err();
    assert!(matches!(refused, StartError::Address(_)), "{refused}");
    says(&refused, &[&address]);
    drop(busy);
    let node = builder.start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_serves_one_node_and_is_free_when_its_last_handle_is_dropped() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("node");
    let builder = Node::builder(&directory).listen("127.0.0.1:0");
    // An empty directory is not run.
    let refused = builder.clone().start(Start::Open).await.unwrap_err();
    assert!(matches!(refused, StartError::Directory(_)), "{refused}");
    says(&refused, &["quorate init", "quorate join"]);
    assert!(!directory.exists());
    let node = builder.clone().start(Start::OpenOrInit).await.unwrap();
    node.ready().await.unwrap();
    // A second start on the same directory is refused, however it is asked, and does not disturb the first.
    for start in [Start::Open, Start::OpenOrInit] {
        let refused = builder.clone().start(start).await.unwrap_err();
        assert!(matches!(refused, StartError::InUse(_)), "{refused}");
        says(&refused, &["stop the running node"]);
    }
    let client = node.client();
    client.kv().put("k", "v").await.unwrap();
    // When the handle is dropped while a client is still held, then the directory is free and nothing is lost.
    drop(node);
    let again = eventually("the directory is free", || async {
        match builder.clone().start(Start::Open).await {
            Ok(node) => Some(node),
            Err(StartError::InUse(_) | StartError::Address(_)) => None,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    again.ready().await.unwrap();
    assert_eq!(again.client().kv().get("k").await.unwrap().unwrap().value, "v");
    // And the client of the node that is gone says so.
    let gone = client.with_deadline(Duration::from_millis(300)).kv().put("k", "w").await.unwrap_err();
    assert!(matches!(gone, Error::Unavailable(_)), "{gone}");
    again.shutdown().await;
}
