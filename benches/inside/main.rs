//! Puts by callers inside the leader's process: no network and no TLS between a caller and its node.
//!
//! Three nodes of the library in this one process, each with a directory of its own, over loopback QUIC with mutual TLS and
//! with fsync, as always. The callers hold the leader's client and are the closed loop of `quorate bench`, whose source this
//! includes. Prints one JSON document for each number of callers. Run by `benches/beside`, or by hand:
//! `cargo run --release --features cli,testing --example inside -- --callers 1,64,1000`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

#[allow(dead_code, reason = "shared with `quorate bench`, which uses the rest")]
#[path = "../../src/bin/quorate/bench/load.rs"]
mod load;
#[path = "../../src/bin/quorate/bench/tally.rs"]
mod tally;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Parser;
use quorate::{Client, Node, Outcome, Start};

use load::{Draw, Draws, Keys, Length, Load, Store};
use tally::Failed;

/// Errors are sentences.
type Told<T> = Result<T, String>;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[derive(Debug, Parser)]
#[command(about = "Measures puts by callers inside the leader's process")]
struct Options {
    /// Callers at a time, one load after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000")]
    callers: Vec<usize>,
    /// Seconds of each that count, after 2 s of warm-up.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    val_size: usize,
    /// Different keys.
    #[arg(long, default_value_t = 100_000)]
    key_space_size: u64,
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
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
    for callers in &options.callers {
        let keys = Keys {
            prefix: "bench/".into(),
            width: 8,
            count: options.key_space_size,
            sequential: false,
            next: AtomicU64::new(0),
        };
        let draws = Draws::new(keys, options.val_size);
        let load = |seconds| Load { clients: *callers, length: Length::Time(Duration::from_secs(seconds)), rate: None };
        let inside = Inside(leader.client());
        let (inside, _) = load::run(inside, &draws, load(2), 1, Arc::default()).await?;
        let (_, tally) = load::run(inside, &draws, load(options.seconds), 1, Arc::default()).await?;
        let summary = tally.summary(&["put"]);
        println!("{}", serde_json::json!({ "callers": callers, "summary": summary }));
    }
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
