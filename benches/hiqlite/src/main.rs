//! hiqlite under the load of `benches/inside`: puts by callers inside the leader's process.
//!
//! Three of its nodes in this one process, each with a directory of its own, over loopback without TLS, with the log synced before
//! the answer (`LogSync::Immediate`; its default answers first and syncs every 200 ms) and its own defaults otherwise. A put is one
//! upsert of a row with a text key and a blob. The callers hold the leader's client and are the closed loop of `quorate bench`, whose
//! source this includes. Prints one JSON document for each number of callers, as `benches/inside` does. Run by `benches/beside`, or by hand:
//! `cargo run --release --manifest-path benches/hiqlite/Cargo.toml -- --callers 1,64,1000`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

#[allow(dead_code, reason = "shared with `quorate bench`, which uses the rest")]
#[path = "../../../src/bin/quorate/bench/load.rs"]
mod load;
#[path = "../../../src/bin/quorate/bench/tally.rs"]
mod tally;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::Parser;
use hiqlite::{Client, LogSync, Node, NodeConfig, Param};

use load::{Draw, Draws, Keys, Length, Load, Store};
use tally::Failed;

/// Errors are sentences.
type Told<T> = Result<T, String>;

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[derive(Debug, Parser)]
#[command(about = "Measures puts by callers inside the process of hiqlite's leader")]
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
}

/// The callers; they share the client of the leader's node.
struct Inside(Client);

impl Store for Inside {
    async fn request(&self, _caller: usize, draw: &mut Draw) -> Result<usize, Failed> {
        let row = vec![Param::Text(draw.key()), Param::Blob(draw.value().to_vec())];
        let upsert =
            "INSERT INTO bench (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        // What of its errors leaves the write open it does not say.
        let done = self.0.execute(upsert, row).await;
        done.map(|_| 0).map_err(|error| Failed { kind: "put", unknown: true, message: error.to_string() })
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
    let place = tempfile::Builder::new().prefix("hiqlite-inside-").tempdir().map_err(told)?;
    let nodes = addresses(3)?;
    let mut starting = Vec::new();
    for node in &nodes {
        let directory = place.path().join(format!("n{}", node.id));
        let directory = directory.to_str().ok_or("the directory's name is not text")?.to_owned();
        let config = NodeConfig {
            node_id: node.id,
            nodes: nodes.clone(),
            listen_addr_api: "127.0.0.1".into(),
            listen_addr_raft: "127.0.0.1".into(),
            data_dir: directory.into(),
            wal_sync: LogSync::Immediate,
            secret_raft: "of a cluster that lives for a minute".into(),
            secret_api: "of a cluster that lives for a minute".into(),
            ..NodeConfig::default()
        };
        starting.push(tokio::spawn(hiqlite::start_node(config)));
    }
    let mut clients = Vec::new();
    for starting in starting {
        clients.push(starting.await.map_err(told)?.map_err(told)?);
    }
    let leader = leading(&clients).await?;
    let table = "CREATE TABLE IF NOT EXISTS bench (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT";
    leader.execute(table, Vec::new()).await.map_err(told)?;
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
        let inside = Inside(leader.clone());
        let (inside, _) = load::run(inside, &draws, load(2), 1, Arc::default()).await?;
        let (_, tally) = load::run(inside, &draws, load(options.seconds), 1, Arc::default()).await?;
        println!("{}", serde_json::json!({ "callers": callers, "summary": tally.summary(&["put"]) }));
    }
    // Its orderly stop waits for balancers and takes longer than the load; the directories go with this process.
    Ok(())
}

/// So many nodes with two free ports each: hiqlite wants to know all ports before it listens on one.
fn addresses(count: u64) -> Told<Vec<Node>> {
    let mut held = Vec::new();
    let mut free = || -> Told<String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
        let address = listener.local_addr().map_err(told)?;
        held.push(listener);
        Ok(address.to_string())
    };
    (1..=count).map(|id| Ok(Node { id, addr_raft: free()?, addr_api: free()? })).collect()
}

/// The client of the node that leads, once all are healthy.
async fn leading(clients: &[Client]) -> Told<Client> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let mut healthy = 0;
        for client in clients {
            healthy += usize::from(client.is_healthy_db().await.is_ok());
        }
        if healthy == clients.len() {
            for client in clients {
                if client.is_leader_db().await {
                    return Ok(client.clone());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("three nodes of hiqlite are not healthy within 60 s".into())
}
