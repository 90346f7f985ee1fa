//! Rows about how cost grows: with managers, with keys, with watches. On both sides, under the same load.
//!
//! Owns what grows and by how much, and the watches that stand while a load runs. Called by `main`.

use std::time::Duration;

use etcd_client::WatchOptions;
use quorate::{Client, Identity};
use tokio::task::JoinSet;

use crate::figures::{Measured, median};
use crate::load::{Draws, Keys, Length, Load};
use crate::loads::{Amount, Round, Sides};
use crate::machine::say;
use crate::rows::{Kind, LoadRow};
use crate::tally::Failed;
use crate::{Options, Told, board, etcd, load, told};

/// Under which every step is measured.
const PUT: LoadRow = LoadRow { kind: Kind::Put, clients: 100, size: 256, keys: ("grow/", 10_000) };
const GET: LoadRow = LoadRow { kind: Kind::Get { serializable: false }, ..PUT };
/// Members of a cluster.
const MANAGERS: [usize; 4] = [1, 3, 5, 7];
/// Keys that are there; those above `--keys-up-to` are left out.
const KEYS: [u64; 4] = [10_000, 100_000, 1_000_000, 5_000_000];
/// Watches that stand, each of one key.
const WATCHES: [usize; 3] = [0, 100, 10_000];
/// Watches on one connection.
const WATCHES_EACH: usize = 100;
/// Watches of the row about their latency.
const TOLD: usize = 100;

/// What a row of a growing number is called; what follows is the number.
pub(crate) fn name(what: &str, number: u64, load: &str) -> String {
    format!("{what} {number} {load}")
}

async fn step(sides: &Sides, options: &Options, what: &str, number: u64, row: LoadRow) -> Told<Vec<Measured>> {
    let loads = [("put 100 256B", row), ("get l 100", LoadRow { kind: GET.kind, ..row })];
    let time = Duration::from_secs(options.seconds);
    let measured = sides.measure(&loads, options.rounds, time).await?;
    Ok(measured.into_iter().zip(loads).map(|(one, (load, _))| one.named(name(what, number, load))).collect())
}

/// With 1, 3, 5 and 7 managers.
pub(crate) async fn managers(options: &Options) -> Told<Vec<Measured>> {
    let mut measured = Vec::new();
    for count in MANAGERS {
        let sides = Sides::start(options, count).await?;
        measured.extend(step(&sides, options, "managers", count as u64, PUT).await?);
    }
    Ok(measured)
}

/// With more and more keys in one cluster.
pub(crate) async fn keys(options: &Options) -> Told<Vec<Measured>> {
    let sides = Sides::start(options, 3).await?;
    let mut measured = Vec::new();
    for count in KEYS.into_iter().filter(|count| *count <= options.keys_up_to) {
        let row = LoadRow { keys: (PUT.keys.0, count), ..PUT };
        measured.extend(step(&sides, options, "keys", count, row).await?);
    }
    Ok(measured)
}

/// With watches that stand, each of one of the keys that are written.
pub(crate) async fn watches(options: &Options) -> Told<Vec<Measured>> {
    let sides = Sides::start(options, 3).await?;
    sides.fill(&PUT).await?;
    let mut measured = Vec::new();
    for count in WATCHES {
        let standing = standing(&sides, count).await?;
        say(&format!("{count} watches stand on each side"));
        measured.extend(step(&sides, options, "watches", count as u64, PUT).await?);
        drop(standing);
    }
    Ok(measured)
}

/// Opens so many watches on both sides; they end when this is dropped.
async fn standing(sides: &Sides, count: usize) -> Told<JoinSet<()>> {
    let mut running = JoinSet::new();
    let keys = Keys { prefix: PUT.keys.0.into(), width: 8, count: PUT.keys.1, sequential: true, next: 0.into() };
    for connection in 0..count.div_ceil(WATCHES_EACH) {
        let client = ours(sides, connection).await?;
        let mut member = theirs(sides, connection).await?;
        for number in connection * WATCHES_EACH..count.min((connection + 1) * WATCHES_EACH) {
            let key = keys.key(number as u64 % keys.count);
            let mut watch = client.kv().watch(key.clone()).await.map_err(told)?;
            running.spawn(async move { while watch.next().await.is_ok() {} });
            let mut watch = member.watch(key, None).await.map_err(told)?;
            running.spawn(async move { while matches!(watch.message().await, Ok(Some(_))) {} });
        }
    }
    Ok(running)
}

async fn ours(sides: &Sides, number: usize) -> Told<Client> {
    let mut managers = sides.managers.addresses();
    let first = number % managers.len().max(1);
    managers.rotate_left(first);
    let identity = Identity::load(&sides.managers.operator()).map_err(told)?;
    Client::connect(managers, identity).await.map_err(told)
}

async fn theirs(sides: &Sides, number: usize) -> Told<etcd_client::Client> {
    let urls = sides.members.urls().await?;
    let url = urls.get(number % urls.len().max(1)).ok_or("no member")?;
    etcd::connect(url).await
}

/// From a put to when the last of a hundred watches of its key space has been told of it; one put after the other.
pub(crate) async fn told_row(options: &Options, name: &str) -> Told<Vec<Measured>> {
    let sides = Sides::start(options, 3).await?;
    let row = LoadRow { kind: Kind::Told { watchers: TOLD }, clients: 1, ..PUT };
    let time = Duration::from_secs(options.seconds);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ours.push(sides.quorate(&row, Amount::Time(time)).await?);
            } else {
                theirs.push(their_told(&sides, &row, time).await?);
            }
        }
    }
    let middle = |rounds: &[Round]| median(rounds.iter().map(|round| round.p50_us / 1e3));
    let (quorate, etcd) = (middle(&ours), middle(&theirs));
    say(&format!("{name}: quorate {quorate:.3} ms, etcd {etcd:.3} ms"));
    Ok(vec![Measured::new(name, quorate, Some(etcd), "ms").rounds(ours, theirs)])
}

/// Puts to etcd, each told when the last watcher has it.
struct Telling {
    member: etcd_client::Client,
    board: board::Board,
}

impl load::Store for Telling {
    async fn request(&self, _client: usize, draw: &mut load::Draw) -> Result<usize, Failed> {
        let failed = |message: String| Failed { kind: "etcd", unknown: true, message };
        let (announced, value) = self.board.announce(&draw.value());
        self.member.kv_client().put(draw.key(), value, None).await.map_err(|error| failed(error.to_string()))?;
        announced.told().await.map_err(failed)?;
        Ok(0)
    }
}

async fn their_told(sides: &Sides, row: &LoadRow, time: Duration) -> Told<Round> {
    let board = board::Board::new(TOLD);
    let mut watchers = JoinSet::new();
    for number in 0..TOLD {
        let mut member = theirs(sides, number / 10).await?;
        let mut watch = member.watch(row.keys.0, Some(WatchOptions::new().with_prefix())).await.map_err(told)?;
        let board = board.clone();
        watchers.spawn(async move {
            while let Ok(Some(answer)) = watch.message().await {
                for event in answer.events() {
                    board.seen(event.kv().map(|entry| entry.value()).unwrap_or_default());
                }
            }
            board.ended(format!("watcher {number} has ended"));
        });
    }
    let telling = Telling { member: theirs(sides, 0).await?, board };
    let draws = Draws::new(Sides::keys(row, false), row.size);
    let load = |length| Load { clients: row.clients, length, rate: None };
    let warm_up = load(Length::Time(Duration::from_secs(2)));
    let (telling, _) = load::run(telling, &draws, warm_up, 1, Default::default()).await?;
    let (_, tally) = load::run(telling, &draws, load(Length::Time(time)), 1, Default::default()).await?;
    let summary = tally.summary(&["told"]);
    Ok(Round {
        rate: summary.rate,
        p50_us: summary.latency_us.p50,
        p99_us: summary.latency_us.p99,
        max_us: summary.latency_us.max,
        failed: summary.failed.refused + summary.failed.unknown,
        ..Default::default()
    })
}
