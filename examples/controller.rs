//! A controller in a few dozen lines: services say how many tasks they want, and whoever leads makes it so.
//!
//! It follows two tables through mirrors, compares what is wanted with what is there, and writes the difference. It never
//! remembers anything, so it may stop anywhere and go on anywhere; the fencing token on every write keeps one that was deposed
//! from taking part. That is all that an orchestrator's core needs of its store.
//!
//! `cargo run --example controller`, on three managers of its own in this process, where it runs by `Node::lead`; or with
//! `-- --connect HOST:PORT[,..] --identity operator.id`, where it runs by an election.
#![allow(clippy::print_stdout, reason = "an example says what it sees")]

mod support;

use std::collections::BTreeSet;

use quorate::{Compare, Error, ScopedClient, Table, TableMirror};
use serde::{Deserialize, Serialize};
use support::{PATIENCE, Place, Told, check};
use tokio::time::timeout;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Service {
    image: String,
    replicas: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    image: String,
    /// The leadership that made it.
    made_by: u64,
}

/// Runs while somebody leads with this token, and is dropped afterwards. `fence` is a further condition on every write, where the
/// client does not carry one.
async fn control(client: ScopedClient, token: u64, fence: Option<Compare>) -> quorate::Result<()> {
    let (services, tasks) = (client.table::<Service>("services/"), client.table::<Task>("tasks/"));
    let (mut wanted, mut there) = (services.mirror().await?, tasks.mirror().await?);
    loop {
        // The first that a mirror tells is what is there already.
        let changed = tokio::select! {
            changed = wanted.next() => changed.map(|changed| changed.map(drop)),
            changed = there.next() => changed.map(|changed| changed.map(drop)),
        };
        match changed {
            Some(Err(error)) if !error.is_retryable() => return Err(error),
            Some(_) => {}
            None => return Ok(()),
        }
        // Whatever has changed, everything is compared again: nothing can be missed, and nothing is done twice.
        reconcile(&client, &tasks, (&wanted, &there), token, fence.as_ref()).await?;
    }
}

async fn reconcile(
    client: &ScopedClient,
    tasks: &Table<Task>,
    (wanted, there): (&TableMirror<Service>, &TableMirror<Task>),
    token: u64,
    fence: Option<&Compare>,
) -> quorate::Result<()> {
    let mut surplus: BTreeSet<_> = there.view().keys().cloned().collect();
    let txn = || fence.into_iter().fold(client.kv().txn(), |txn, fence| txn.when(fence.clone()));
    for (name, service) in wanted.view() {
        for slot in 0..service.value.replicas {
            let key = format!("{}.{slot}", name.escape_ascii());
            let (image, made_by) = (service.value.image.clone(), token);
            match there.get(&key) {
                Some(task) if task.value.image == image => {}
                Some(task) => {
                    // It is written over only as it was seen; if it is another one by now, that will be told, and compared.
                    let write = tasks.put_op(&key, &Task { image, made_by })?;
                    txn().when(tasks.unchanged(task)).then(write).await?;
                }
                None => {
                    let write = tasks.put_op(&key, &Task { image, made_by })?;
                    txn().when(tasks.absent(&key)).then(write).await?;
                }
            }
            surplus.remove(key.as_bytes());
        }
    }
    for key in surplus {
        txn().then(tasks.delete_op(&key)).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Told<()> {
    run(std::env::args().skip(1)).await
}

pub(crate) async fn run(arguments: impl IntoIterator<Item = String>) -> Told<()> {
    let place = Place::of("controller", 3, arguments).await?;
    let mut controllers = tokio::task::JoinSet::new();
    for node in place.nodes.clone() {
        let prefix = place.scope.prefix().clone();
        controllers.spawn(async move {
            // Called again in each leadership of this node, and dropped when it ends. The client carries the token.
            let work = |lead: quorate::Lead| control(lead.client().scoped(&prefix), lead.fencing_token(), None);
            node.lead(work).await.and_then(|ended| ended)
        });
    }
    if place.nodes.is_empty() {
        let client = place.scope.clone();
        controllers.spawn(async move {
            let leading = client.election("controller").campaign("the example").await?;
            tokio::select! {
                ended = control(client, leading.token(), Some(leading.fence())) => ended,
                () = leading.lost() => Err(Error::Fenced("another one leads".into())),
            }
        });
    }
    let told = tokio::select! {
        told = timeout(PATIENCE, story(&place)) => told?,
        Some(ended) = controllers.join_next() => Err(format!("a controller ended: {ended:?}").into()),
    };
    controllers.shutdown().await;
    place.end().await?;
    told
}

async fn story(place: &Place) -> Told<()> {
    let services = place.scope.table::<Service>("services/");
    let tasks = place.scope.table::<Task>("tasks/");
    let mut mirror = tasks.mirror().await?;

    services.create("web", Service { image: "web:1".into(), replicas: 3 }).await?;
    until(&mut mirror, |mirror| mirror.view().len() == 3).await?;
    say("asked for three", &mirror);

    services.modify("web", |web| web.replicas = 2).await?;
    until(&mut mirror, |mirror| mirror.view().len() == 2).await?;
    say("asked for two", &mirror);

    // A task that is gone comes back.
    tasks.delete("web.0").await?;
    until(&mut mirror, |mirror| mirror.get("web.0").is_none()).await?;
    until(&mut mirror, |mirror| mirror.view().len() == 2).await?;
    say("one was lost, and is back", &mirror);

    // Another manager leads, and the controller there goes on; what it finds as it should be it leaves alone.
    let before = makers(&mirror);
    if let Some(node) = place.nodes.first() {
        let to = node.client().transfer_leadership(None).await?;
        println!("{to} leads");
    }
    services.modify("web", |web| web.image = "web:2".into()).await?;
    until(&mut mirror, |mirror| mirror.view().values().all(|task| task.value.image == "web:2")).await?;
    say("asked for another image", &mirror);
    let after = makers(&mirror);
    println!("made under the fencing tokens {before:?} before, {after:?} now");
    let moved = after.first() > before.last();
    check(moved || place.nodes.is_empty(), "who was deposed made none of them")?;

    services.delete("web").await?;
    until(&mut mirror, |mirror| mirror.view().is_empty()).await?;
    say("asked for none", &mirror);
    Ok(())
}

async fn until(mirror: &mut TableMirror<Task>, holds: impl Fn(&TableMirror<Task>) -> bool) -> Told<()> {
    while !holds(mirror) {
        match mirror.next().await {
            Some(Err(error)) if !error.is_retryable() => return Err(error.into()),
            Some(_) => {}
            None => return Err("the mirror has ended".into()),
        }
    }
    Ok(())
}

/// The leaderships that made what is there.
fn makers(mirror: &TableMirror<Task>) -> BTreeSet<u64> {
    mirror.view().values().map(|task| task.value.made_by).collect()
}

fn say(what: &str, mirror: &TableMirror<Task>) {
    let tasks: Vec<_> = mirror.view().values().map(|task| format!("{} ({})", task.name(), task.value.image)).collect();
    println!(
        "{what}: {} at revision {}",
        if tasks.is_empty() { "none".into() } else { tasks.join(", ") },
        mirror.revision()
    );
}
