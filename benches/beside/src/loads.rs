//! Rows that are loads: both clusters stand beside each other and are loaded turn about.
//!
//! Owns the rounds, and what is looked at while a load runs. The loop itself is `load`, here and in `quorate bench`. Called by `main`.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use quorate::{Client, Identity};
use serde::Serialize;
use serde_json::Value;

use crate::etcd::{Members, Requests};
use crate::figures::{Measured, median};
use crate::load::{Draws, Keys, Length, Load};
use crate::machine::{Counting, load_average, say};
use crate::managers::{Managers, usage_of};
use crate::rows::{Kind, LoadRow};
use crate::{Options, Targets, Told, load, told};

const WARM_UP: Duration = Duration::from_secs(2);
/// Bytes of a key behind the prefix.
const KEY_SIZE: usize = 8;
/// Between two loads: what the last one has left to do in the background is not the next one's.
const REST: Duration = Duration::from_millis(1_500);

/// One round of one row on one side.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Round {
    /// Answered requests a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// Of all members together; none where they cannot be counted.
    pub(crate) syncs_per_second: Option<f64>,
    /// Processor time of all members for each request, microseconds.
    pub(crate) cpu_us: f64,
    /// The same of the process that sends the load, over all of its life.
    pub(crate) client_cpu_us: f64,
    pub(crate) failed: u64,
    /// What the first failed request of each kind said.
    pub(crate) errors: Vec<String>,
}

/// How long a load lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    Time(Duration),
    Requests(u64),
}

/// Both clusters.
pub(crate) struct Sides {
    binary: PathBuf,
    targets: Targets,
    pub(crate) managers: Managers,
    pub(crate) client: Client,
    pub(crate) members: Members,
}

impl Sides {
    pub(crate) async fn start(options: &Options, count: usize) -> Told<Self> {
        say(&format!("starting {count} managers and {count} etcd members"));
        let managers = Managers::start(Some(&options.binary), count, None)?;
        managers.allow_voters(count)?;
        let client = seated(&managers, count).await?;
        let members = Members::start(&options.etcd, count).await?;
        Ok(Self { binary: options.binary.clone(), targets: options.targets, managers, client, members })
    }

    /// All rows, in rounds: in each round every row on both sides, who begins by turns.
    pub(crate) async fn measure(
        &self,
        rows: &[(&'static str, LoadRow)],
        rounds: usize,
        time: Duration,
    ) -> Told<Vec<Measured>> {
        for (_, row) in rows {
            self.fill(row).await?;
        }
        let mut seen: Vec<(Vec<Round>, Vec<Round>)> = rows.iter().map(|_| Default::default()).collect();
        for round in 0..rounds {
            for ((name, row), (ours, theirs)) in rows.iter().zip(&mut seen) {
                for turn in 0..2 {
                    tokio::time::sleep(REST).await;
                    let is_ours = (round + turn) % 2 == 0;
                    let (who, seen) = if is_ours { ("quorate", &mut *ours) } else { ("etcd", &mut *theirs) };
                    let measured = if is_ours {
                        self.quorate(row, Amount::Time(time)).await?
                    } else {
                        self.etcd(row, Amount::Time(time)).await?
                    };
                    say(&line(round + 1, name, who, &measured));
                    seen.push(measured);
                }
            }
        }
        let measured = rows.iter().zip(seen).map(|((name, _), (ours, theirs))| {
            let rate = |rounds: &[Round]| median(rounds.iter().map(|round| round.rate));
            let (quorate, etcd) = (rate(&ours), rate(&theirs));
            Measured::new(name, quorate, Some(etcd), "1/s").rounds(ours, theirs)
        });
        Ok(measured.collect())
    }

    pub(crate) fn keys(row: &LoadRow, sequential: bool) -> Keys {
        let (prefix, count) = row.keys;
        Keys { prefix: prefix.into(), width: KEY_SIZE, count, sequential, next: AtomicU64::new(0) }
    }

    /// All keys are there, on both sides: a put writes over, a get finds.
    pub(crate) async fn fill(&self, row: &LoadRow) -> Told<()> {
        let get = LoadRow { kind: Kind::Get { serializable: false }, clients: 1, ..*row };
        self.bench(&get, &["--total", "1", "--warm-up", "0"]).await?;
        self.members.fill(&Self::keys(row, true), Draws::new(Self::keys(row, true), row.size).draw()).await
    }

    /// Runs `quorate bench`; answers its document.
    async fn bench(&self, row: &LoadRow, length: &[&str]) -> Told<Value> {
        let status = self.client.status().await.map_err(told)?;
        let leader = status.leader.unwrap_or_default();
        // The leader first, as for etcd.
        let mut managers: Vec<_> = self.managers.names().zip(self.managers.addresses()).collect();
        managers.sort_by_key(|(name, _)| *name != leader);
        managers.truncate(self.targets.count(managers.len()));
        let managers = managers.into_iter().map(|(_, address)| address).collect::<Vec<_>>().join(",");
        let (prefix, count) = row.keys;
        let mut command = tokio::process::Command::new(&self.binary);
        command.arg("bench").arg(match row.kind {
            Kind::Put => "put",
            Kind::Get { .. } => "get",
            Kind::Mixed { .. } => "txn",
            Kind::Told { .. } => "watch",
        });
        match row.kind {
            Kind::Put => {}
            Kind::Told { watchers } => {
                command.args(["--watchers", &watchers.to_string()]);
            }
            Kind::Get { serializable } => {
                command.args(["--consistency", if serializable { "s" } else { "l" }]);
            }
            Kind::Mixed { reads } => {
                command.args(["--rw-ratio", &reads.to_string()]);
            }
        }
        command
            .args(["--clients", &row.clients.to_string(), "--conns", &row.connections().to_string()])
            .args(["--key-size", &KEY_SIZE.to_string(), "--val-size", &row.size.to_string()])
            .args(["--key-space-size", &count.to_string(), "--prefix", prefix])
            .args(length)
            .args(["--json", "--connect", &managers, "--identity"])
            .arg(self.managers.operator())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.map_err(told)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let document: Value = serde_json::from_str(&text)
            .map_err(|error| format!("quorate bench: {error}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        // With failed requests there are figures, too; without figures there was no load.
        if document["rate"].is_null() {
            return Err(format!("quorate bench: {}", document["error"]["message"]));
        }
        Ok(document)
    }

    pub(crate) async fn quorate(&self, row: &LoadRow, amount: Amount) -> Told<Round> {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let length = match amount {
            Amount::Time(time) => ["--duration".to_owned(), ms(time)],
            Amount::Requests(requests) => ["--total".to_owned(), requests.to_string()],
        };
        let warm_up = ["--warm-up".to_owned(), ms(WARM_UP)];
        let words: Vec<&str> = length.iter().chain(&warm_up).map(String::as_str).collect();
        let before = children_cpu();
        let (document, looked) = tokio::join!(self.bench(row, &words), look(self.managers.pids(), amount));
        let (document, (syncs, cpu)) = (document?, looked?);
        let client = children_cpu().saturating_sub(before).as_secs_f64();
        let figure = |value: &Value| value.as_f64().unwrap_or_default();
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let (rate, latency, failed) = (figure(&document["rate"]), &document["latency_us"], &document["failed"]);
        let errors = document["errors"].as_array().map(|errors| {
            let told = |error: &Value| {
                format!(
                    "{} x {}: {}",
                    error["count"],
                    error["kind"].as_str().unwrap_or_default(),
                    error["message"].as_str().unwrap_or_default()
                )
            };
            errors.iter().map(told).collect()
        });
        Ok(Round {
            rate,
            p50_us: figure(&latency["p50"]),
            p99_us: figure(&latency["p99"]),
            max_us: figure(&latency["max"]),
            syncs_per_second: syncs,
            cpu_us: cpu * 1e6 / rate.max(1.0),
            // It has sent the warm-up, too.
            client_cpu_us: client * 1e6 / (rate * (figure(&document["seconds"]) + WARM_UP.as_secs_f64())).max(1.0),
            failed: count(&failed["refused"]) + count(&failed["unknown"]),
            errors: errors.unwrap_or_default(),
        })
    }

    pub(crate) async fn etcd(&self, row: &LoadRow, amount: Amount) -> Told<Round> {
        let connections = self.members.connections(row.connections(), self.targets).await?;
        let draws = Draws::new(Self::keys(row, false), row.size);
        let load = |length| Load { clients: row.clients, length, rate: None };
        let length = match amount {
            Amount::Time(time) => Length::Time(time),
            Amount::Requests(requests) => Length::Requests(requests),
        };
        let before = usage_of(std::process::id()).cpu;
        let loaded = async {
            let requests = Requests { connections, kind: row.kind };
            let (requests, _) = load::run(requests, &draws, load(Length::Time(WARM_UP)), 2, Arc::default()).await?;
            load::run(requests, &draws, load(length), 2, Arc::default()).await
        };
        let (loaded, looked) = tokio::join!(loaded, look(self.members.pids(), amount));
        let ((_, tally), (syncs, cpu)) = (loaded?, looked?);
        let client = usage_of(std::process::id()).cpu.saturating_sub(before).as_secs_f64();
        let summary = tally.summary(&["first", "second"]);
        Ok(Round {
            rate: summary.rate,
            p50_us: summary.latency_us.p50,
            p99_us: summary.latency_us.p99,
            max_us: summary.latency_us.max,
            syncs_per_second: syncs,
            cpu_us: cpu * 1e6 / summary.rate.max(1.0),
            client_cpu_us: client * 1e6 / (summary.rate * (summary.seconds + WARM_UP.as_secs_f64())).max(1.0),
            failed: summary.failed.refused + summary.failed.unknown,
            errors: summary
                .errors
                .iter()
                .map(|error| format!("{} x {}: {}", error.count, error.kind, error.message))
                .collect(),
        })
    }
}

/// Looks at these processes in the middle of a load that begins now: syncs a second, and seconds of processor time a second.
async fn look(pids: Vec<u32>, amount: Amount) -> Told<(Option<f64>, f64)> {
    let time = match amount {
        Amount::Time(time) => time,
        // However long it will last: long enough for this.
        Amount::Requests(_) => Duration::from_secs(6),
    };
    tokio::time::sleep(WARM_UP + Duration::from_millis(1_500)).await;
    let cpu = |pids: &[u32]| pids.iter().map(|pid| usage_of(*pid).cpu).sum::<Duration>();
    let (began, before, counting) = (Instant::now(), cpu(&pids), Counting::begin(&pids));
    tokio::time::sleep(time.saturating_sub(Duration::from_secs(3)).max(Duration::from_secs(1))).await;
    let (took, used) = (began.elapsed().as_secs_f64(), cpu(&pids).saturating_sub(before));
    let syncs = tokio::task::spawn_blocking(|| counting.syncs()).await.map_err(told)?;
    Ok((syncs.map(|syncs| syncs as f64 / took), used.as_secs_f64() / took))
}

/// Processor time of the processes that this one has started and that have ended.
fn children_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(13) + ticks(14)) * 10)
}

/// A client of these managers, once all have what seats they can have.
pub(crate) async fn seated(managers: &Managers, count: usize) -> Told<Client> {
    let identity = Identity::load(&managers.operator()).map_err(told)?;
    let client = Client::connect(managers.addresses(), identity).await.map_err(told)?;
    let seats = if count.is_multiple_of(2) { count - 1 } else { count };
    let until = Instant::now() + Duration::from_secs(60);
    while client.status().await.map_err(told)?.voters < seats {
        if Instant::now() > until {
            return Err(format!("{seats} managers do not get their seats"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(client)
}

pub(crate) fn line(round: usize, name: &str, who: &str, seen: &Round) -> String {
    let syncs = seen.syncs_per_second.map_or_else(|| "?".to_owned(), |syncs| format!("{syncs:.0}"));
    let failed =
        if seen.failed > 0 { format!("  FAILED {}: {}", seen.failed, seen.errors.join("; ")) } else { String::new() };
    format!(
        "round {round}  {name:<22} {who:<8} {:>8.0}/s  p50 {:>8.3} ms  p99 {:>8.3} ms  {syncs:>6} syncs/s  {:>6.1} + {:>5.1} us cpu  load {}{failed}",
        seen.rate,
        seen.p50_us / 1e3,
        seen.p99_us / 1e3,
        seen.cpu_us,
        seen.client_cpu_us,
        load_average()
    )
}
