//! Locks, and why a lock alone is not enough: its holder may lose it without noticing, and only the fencing token keeps it from
//! doing harm then.
//!
//! `cargo run --example locks`, on a manager of its own; or with `-- --connect HOST:PORT --identity operator.id`.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod support;

use std::time::Duration;

use quorate::ScopedClient;
use support::{PATIENCE, Place, Told, check};

#[tokio::main]
async fn main() -> Told<()> {
    run(std::env::args().skip(1)).await
}

pub(crate) async fn run(arguments: impl IntoIterator<Item = String>) -> Told<()> {
    let place = Place::of("locks", 1, arguments).await?;
    let told = one_at_a_time(&place.scope).await;
    let told = match told {
        Ok(()) => lost_unawares(&place.scope).await,
        failed => failed,
    };
    place.end().await?;
    told
}

/// Five count in one key by reading and writing, each while it holds the lock.
async fn one_at_a_time(client: &ScopedClient) -> Told<()> {
    let counting: Vec<_> = (0..5)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let lock = client.lock("counter-lock").wait_at_most(PATIENCE).await?;
                let kv = client.kv();
                let count = kv.get("count").await?;
                let count =
                    count.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0u64);
                // Others run meanwhile: without the lock they would read the same count.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let written = kv.put("count", (count + 1).to_string()).when(lock.fence()).await?;
                check(written.succeeded, "the lock was held all the time")?;
                let token = lock.token();
                lock.unlock().await?;
                Told::Ok((token, count + 1))
            })
        })
        .collect();
    let mut held = Vec::new();
    for counting in counting {
        held.push(counting.await??);
    }
    held.sort_unstable();
    for (token, count) in &held {
        println!("the holder with the token {token} counted to {count}");
    }
    check(held.iter().map(|(_, count)| *count).eq(1..=5), "tokens grow from holder to holder, and no count is lost")
}

/// A holder loses the lock while it is busy, as it does when a process sleeps or a network is cut.
async fn lost_unawares(client: &ScopedClient) -> Told<()> {
    let kv = client.kv();
    let slow = client.lock("backup").await?;
    // What an operator does to free a lock. A machine that sleeps for longer than its lease finds its key gone just so.
    let freed = kv.delete(slow.key().clone()).await?;
    check(freed.deleted == 1, "who holds a lock is a key")?;

    let next = client.lock("backup").wait_at_most(PATIENCE).await?;
    check(next.token() > slow.token(), "the next holder has a higher token")?;
    let done = kv.put("last-backup", "by the next holder").when(next.fence()).await?;
    check(done.succeeded, "who holds the lock can write")?;

    // The slow one still believes that it holds the lock. Its write carries the condition, and so is void.
    let late = kv.put("last-backup", "by the slow holder").when(slow.fence()).await?;
    check(!late.succeeded, "who has lost the lock cannot write")?;
    let last = kv.get("last-backup").await?.ok_or("somebody wrote it")?;
    println!("the last backup was made {}", String::from_utf8_lossy(&last.value));
    next.unlock().await?;
    Ok(())
}
