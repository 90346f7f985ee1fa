//! Where an example plays: on managers of its own in this process, which are gone afterwards, or on a cluster that is there.
//!
//! Owns the two arguments that all of them take. Everything that an example writes is below a prefix of its own, and is removed
//! at the end.

use std::time::Duration;

use quorate::membership::Role;
use quorate::{Client, Identity, Node, ScopedClient, Start};
use tempfile::TempDir;

/// Errors of examples are for people.
pub(crate) type Told<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str =
    "arguments: none, for managers of its own in this process; or --connect HOST:PORT[,..] --identity operator.id";

/// Longer than anything in an example takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Place {
    /// What the example calls its own.
    pub(crate) scope: ScopedClient,
    /// The managers in this process; none where it is connected to others.
    pub(crate) nodes: Vec<Node>,
    _directory: Option<TempDir>,
}

impl Place {
    /// As the arguments say; with so many managers where they are its own.
    pub(crate) async fn of(name: &str, managers: usize, arguments: impl IntoIterator<Item = String>) -> Told<Self> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let (client, nodes, directory) = match arguments[..] {
            [] => {
                let directory = tempfile::tempdir()?;
                let nodes = own(&directory, managers).await?;
                (nodes.first().ok_or("at least one manager")?.client(), nodes, Some(directory))
            }
            ["--connect", managers, "--identity", file] => {
                let identity = Identity::load(file.as_ref())?;
                (Client::connect(managers.split(','), identity).await?, Vec::new(), None)
            }
            _ => return Err(USAGE.into()),
        };
        let scope = client.scoped(format!("examples/{name}-{}/", std::process::id()));
        Ok(Self { scope, nodes, _directory: directory })
    }

    /// Leaves nothing behind.
    pub(crate) async fn end(self) -> Told<()> {
        self.scope.kv().delete_prefix("").await?;
        for node in &self.nodes {
            node.shutdown().await;
        }
        Ok(())
    }
}

/// One founds the cluster, the others join it.
async fn own(directory: &TempDir, managers: usize) -> Told<Vec<Node>> {
    let tolerated = i64::try_from(managers.saturating_sub(1) / 2)?;
    let builder = |number| {
        let name = format!("m{number}");
        Node::builder(directory.path().join(&name)).name(name).listen("127.0.0.1:0").stable(Duration::from_millis(200))
    };
    let first = builder(1).start(Start::OpenOrInit).await?;
    first.ready().await?;
    let (token, address) = (first.client().tokens().show(Role::Manager).await?, first.address().to_string());
    let mut nodes = vec![first.clone()];
    for number in 2..=managers {
        let start = Start::OpenOrJoin { token: token.clone(), managers: vec![address.clone()] };
        let node = builder(number).start(start).await?;
        node.ready().await?;
        nodes.push(node);
    }
    // A newcomer stands by first, and gets its seat when it has caught up.
    tokio::time::timeout(PATIENCE, async {
        while first.status().await.fault_tolerance < tolerated {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    Ok(nodes)
}

/// What an example says must be so; else it ends with that sentence.
pub(crate) fn check(holds: bool, what: &str) -> Told<()> {
    if holds { Ok(()) } else { Err(format!("this does not hold: {what}").into()) }
}
