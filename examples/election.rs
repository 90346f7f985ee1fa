//! An election among an application's own processes: one leads, the others stand by, everybody may watch who it is.
//!
//! This is for processes that are clients. Who embeds a manager has `Node::lead`, which needs neither lease nor campaign: see
//! `examples/controller.rs`.
//!
//! `cargo run --example election`, on a manager of its own; or with `-- --connect HOST:PORT --identity operator.id`.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod support;

use std::time::Duration;

use quorate::ScopedClient;
use support::{PATIENCE, Place, Told, check};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Told<()> {
    run(std::env::args().skip(1)).await
}

pub(crate) async fn run(arguments: impl IntoIterator<Item = String>) -> Told<()> {
    let place = Place::of("election", 1, arguments).await?;
    let told = timeout(PATIENCE, campaigns(&place.scope)).await?;
    place.end().await?;
    told
}

async fn campaigns(client: &ScopedClient) -> Told<()> {
    // So long after a leader died without a word another one leads.
    let election = client.election("dispatcher").ttl(Duration::from_secs(5));
    let mut observer = election.observe();
    check(observer.next().await?.is_none(), "nobody leads before anybody campaigned")?;

    let first = election.campaign("process-1 at 10.0.0.1").await?;
    let leader = observer.next().await?.ok_or("somebody leads")?;
    println!("{} leads with the token {}", String::from_utf8_lossy(&leader.value), leader.token);
    check(leader.token == first.token(), "what is observed is who was elected")?;

    // Two more stand by. Nothing polls: each waits for the one before it.
    let campaign = |name: &'static str| {
        let election = election.clone();
        tokio::spawn(async move { election.campaign(name).await })
    };
    let second = campaign("process-2 at 10.0.0.2");

    // What only the leader may do carries its fence, in the same write.
    let kv = client.kv();
    let ruled = kv.put("rules", "of process-1").when(first.fence()).await?;
    check(ruled.succeeded, "the leader can write")?;
    first.proclaim("process-1 at 10.0.0.9").await?;
    let moved = observer.next().await?.ok_or("it still leads")?;
    check(
        moved.token == leader.token && moved.value.ends_with(b".9"),
        "it says something else of itself, without an election",
    )?;

    // It resigns, as it does when its process is told to stop. When it dies instead, its lease runs out.
    let old = first.fence();
    first.resign().await?;
    let second = second.await??;
    check(second.token() > leader.token, "tokens grow from leader to leader")?;
    println!("process-2 leads with the token {}", second.token());
    let late = kv.put("rules", "of process-1, late").when(old).await?;
    check(!late.succeeded, "who leads no more cannot write")?;
    let rules = kv.put("rules", "of process-2").when(second.fence()).await?;
    check(rules.succeeded, "the new leader can")?;
    second.resign().await?;
    Ok(())
}
