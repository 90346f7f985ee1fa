//! Puts by callers inside the leader's process: no network and no TLS between a caller and its node.
//!
//! Three nodes of the library in this one process, each with a directory of its own, over loopback QUIC with mutual TLS and
//! with fsync, as always. The callers hold the leader's client and are the closed loop of `quorate bench`, whose source this
//! includes. Prints one JSON document for each number of callers. Run by `benches/beside`, or by hand:
//! `cargo run --release --features cli,testing --example inside -- --callers 1,64,1000`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

mod callers;
#[allow(dead_code, reason = "shared with `quorate bench`, which uses the rest")]
#[path = "../../src/bin/quorate/bench/load.rs"]
mod load;
#[path = "../../src/bin/quorate/bench/tally.rs"]
mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate::{Client, Node, Outcome, Start};

use callers::{Callers, Told, told};
use load::{Draw, Store};
use tally::Failed;

#[derive(Debug, Parser)]
#[command(about = "Measures puts by callers inside the leader's process")]
struct Options {
    #[command(flatten)]
    callers: Callers,
    /// Keep the records of all three stores as they are: what sealing costs is the difference.
    #[arg(long)]
    unsealed: bool,
}

/// The callers; they share the client of the leader's node.
struct Inside(Client);

impl Store for Inside {
    async fn request(&self, _caller: usize, draw: &mut Draw) -> Result<usize, Failed> {
        let done = self.0.kv().put(draw.key(), draw.value()).await;
        done.map(|_| 0).map_err(|error| Failed {
            kind: "put",
            unknown: error.outcome() == Outcome::Unknown,
            message: error.to_string(),
        })
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    callers::done(run(&options))
}

async fn run(options: &Options) -> Told<()> {
    let place = tempfile::Builder::new().prefix("quorate-inside-").tempdir().map_err(told)?;
    let node = |name: &str| {
        let builder = Node::builder(place.path().join(name)).name(name).listen("127.0.0.1:0");
        if options.unsealed { builder.unsealed() } else { builder }
    };
    let first = node("n1").start(Start::OpenOrInit).await.map_err(told)?;
    first.ready().await.map_err(told)?;
    let token = first.client().join_token("manager").await.map_err(told)?;
    let mut nodes = vec![first];
    for name in ["n2", "n3"] {
        let managers = nodes.iter().map(|node: &Node| node.address().to_string()).collect();
        let start = Start::OpenOrJoin { token: token.clone(), managers };
        nodes.push(node(name).start(start).await.map_err(told)?);
    }
    let leader = seated(&nodes).await?;
    options.callers.load(|| Inside(leader.client())).await?;
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// The node that leads, once all three have their seats.
async fn seated(nodes: &[Node]) -> Told<&Node> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        for (number, node) in nodes.iter().enumerate() {
            let status = node.status().await;
            if status.voters == nodes.len() && status.leader == Some(format!("n{}", number + 1)) {
                return Ok(node);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("three nodes do not get their seats within 60 s".into())
}
