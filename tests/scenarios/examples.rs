//! The examples: each runs as it would by itself, on managers of its own, and on a cluster that is there. Each checks what it says.
#![allow(dead_code, reason = "their `main`s are for who runs them by themselves")]

use crate::support::Cluster;

#[path = "../../examples/controller.rs"]
mod controller;
#[path = "../../examples/election.rs"]
mod election;
#[path = "../../examples/locks.rs"]
mod locks;
#[path = "../../examples/tables.rs"]
mod tables;

#[tokio::test]
async fn the_example_of_a_controller_says_what_is_true() {
    controller::run([]).await.unwrap();
}

#[tokio::test]
async fn the_example_of_an_election_says_what_is_true() {
    election::run([]).await.unwrap();
}

#[tokio::test]
async fn the_example_of_locks_says_what_is_true() {
    locks::run([]).await.unwrap();
}

#[tokio::test]
async fn the_example_of_tables_says_what_is_true() {
    tables::run([]).await.unwrap();
}

#[tokio::test]
async fn the_examples_run_on_a_cluster_that_is_there_and_leave_nothing_behind() {
    // Given a cluster with something in it
    let cluster = Cluster::founded().await;
    let client = cluster.any().client();
    client.kv().put("kept", "as it was").await.unwrap();
    let identity = cluster.members[0].directory.join("operator.id").display().to_string();
    let manager = cluster.any().address().to_string();
    let arguments = || ["--connect", &manager, "--identity", &identity].map(str::to_owned);
    // When each example is told to run there
    controller::run(arguments()).await.unwrap();
    election::run(arguments()).await.unwrap();
    locks::run(arguments()).await.unwrap();
    tables::run(arguments()).await.unwrap();
    // Then what was there is all that is there
    let left = client.kv().prefix("").all().await.unwrap();
    assert_eq!(left.iter().map(|entry| &entry.key[..]).collect::<Vec<_>>(), [b"kept"]);
    // And other arguments are told from these
    let wrong = tables::run(["--connect".to_owned()]).await.unwrap_err().to_string();
    assert!(wrong.contains("--identity"), "{wrong}");
    cluster.stop().await;
}
