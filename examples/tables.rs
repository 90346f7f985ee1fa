//! Typed tables: rows instead of bytes, who wins, several tables in one transaction, and a local copy that follows.
//!
//! `cargo run --example tables`, on a manager of its own; or with `-- --connect HOST:PORT --identity operator.id`.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod support;

use quorate::{Error, ScopedClient};
use serde::{Deserialize, Serialize};
use support::{PATIENCE, Place, Told, check};
use tokio::time::timeout;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    owner: String,
    cents: i64,
}

#[tokio::main]
async fn main() -> Told<()> {
    run(std::env::args().skip(1)).await
}

pub(crate) async fn run(arguments: impl IntoIterator<Item = String>) -> Told<()> {
    let place = Place::of("tables", 1, arguments).await?;
    let told = timeout(PATIENCE, tour(&place.scope)).await?;
    place.end().await?;
    told
}

async fn tour(client: &ScopedClient) -> Told<()> {
    let accounts = client.table::<Account>("accounts/");
    let mut mirror = accounts.mirror().await?;

    // A row is created once, and read as what it is.
    for owner in ["ada", "bob"] {
        let row = accounts.create(owner, Account { owner: owner.into(), cents: 100 }).await?;
        println!("{} was created at revision {}", row.name(), row.mod_revision);
    }
    let again = accounts.create("ada", Account { owner: "somebody else".into(), cents: 0 }).await;
    check(matches!(again, Err(Error::Conflict { .. })), "nobody creates a row twice")?;

    // Twenty change one row at the same time; `modify` reads and writes until nobody was in between.
    let deposits: Vec<_> = (0..20)
        .map(|_| {
            let accounts = accounts.clone();
            tokio::spawn(async move { accounts.modify("ada", |account| account.cents += 5).await })
        })
        .collect();
    for deposit in deposits {
        deposit.await??;
    }
    let ada = accounts.get("ada").await?.ok_or("ada is there")?;
    check(ada.value.cents == 200, "each deposit counts once")?;
    println!(
        "after 20 deposits at once ada has {} cents, and her row was written {} times",
        ada.value.cents, ada.version
    );

    // Two rows change together, or neither does: as both were read.
    loop {
        let (Some(mut from), Some(mut to)) = (accounts.get("ada").await?, accounts.get("bob").await?) else {
            return Err("an account is gone".into());
        };
        let (unchanged, both_unchanged) = (accounts.unchanged(&from), accounts.unchanged(&to));
        from.value.cents -= 50;
        to.value.cents += 50;
        let moved = client
            .kv()
            .txn()
            .when(unchanged)
            .when(both_unchanged)
            .then(accounts.put_op("ada", &from.value)?)
            .then(accounts.put_op("bob", &to.value)?)
            .await?;
        if moved.succeeded {
            println!("50 cents moved from ada to bob, both at revision {}", moved.revision);
            break;
        }
    }

    // The mirror is told of all that, revision by revision, and never shows half a transfer.
    let end = accounts.list().await?.revision;
    while mirror.revision() < end {
        let Some(changes) = mirror.next().await else { break };
        let revision = changes?.revision;
        let sum: i64 = mirror.view().values().map(|row| row.value.cents).sum();
        if mirror.view().len() == 2 && mirror.get("bob").is_some_and(|bob| bob.value.cents == 150) {
            println!("the mirror shows the transfer at revision {revision}: {sum} cents in all");
            check(sum == 300, "a transfer is seen whole")?;
        }
    }

    // What somebody else wrote there and is no account is told by its key.
    client.kv().put("accounts/eve", "not JSON").await?;
    match accounts.list().await {
        Err(Error::Decode { key, .. }) => println!("`{}` is no account", key.escape_ascii()),
        other => return Err(format!("a broken row was taken for something: {other:?}").into()),
    }
    Ok(())
}
