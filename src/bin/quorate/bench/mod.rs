//! `bench`: a load on a running cluster, over QUIC as any client's, and what came of it.
//!
//! Owns the steps: connect, write what is to be read, one request to see that it works, warm up, measure, show. Never talks to
//! a node's local socket, and never decides an outcome: the client does. `load` is the loop, `tally` the figures, `requests`
//! what is sent, `report` the words. Called by `main`.

mod load;
mod report;
mod requests;
mod tally;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate::Client;
use tokio::task::JoinSet;

use crate::args::Global;
use crate::args_bench::{Bench, Shape};
use crate::failure::Failure;
use crate::output::Output;
use crate::target;
use load::{Draws, Keys, Length, Load, Progress};
use report::Report;
use requests::{Kinds, Requests};
use tally::Tally;

pub(crate) async fn run(verb: Bench, global: &Global, output: Output) -> Result<(), Failure> {
    let (name, shape, kinds) = match verb {
        Bench::Put(shape) => ("put", shape, Kinds::Put),
        Bench::Get(get) => ("get", get.shape, Kinds::Get { consistency: get.consistency }),
        Bench::Txn(txn) => {
            let (consistency, reads, puts) = (txn.consistency, txn.rw_ratio, txn.txn_ops);
            ("txn", txn.shape, Kinds::Mixed { consistency, reads, puts })
        }
    };
    shape.check()?;
    let (managers, connections) = connect(&shape, global).await?;
    let keys = Keys {
        prefix: shape.prefix.clone(),
        width: usize::from(shape.key_size),
        count: shape.key_space_size,
        sequential: shape.sequential_keys,
        next: AtomicU64::new(0),
    };
    let draws = Draws::new(keys, usize::try_from(shape.val_size).unwrap_or(0));
    output.note(&format!(
        "keys below `{}`, of {} at most; what is written stays there: `quorate kv del --prefix {}` removes it",
        shape.prefix, shape.key_space_size, shape.prefix
    ));
    let filled = if kinds.reads() { fill(&connections, &draws, output).await? } else { 0 };
    let requests = Requests { connections, kinds };
    // What is refused to one would be refused to all: as an answer of its own, before any figure.
    requests.attempt(0, &mut draws.draw()).await?;

    let load = |length| Load { clients: usize::try_from(shape.clients).unwrap_or(1), length, rate: shape.rate };
    let progress = Arc::new(Progress::default());
    let (requests, _) =
        watched(requests, &draws, load(Length::Time(shape.warm_up)), "warming up", &progress, output).await?;
    let length = shape.duration.map_or(Length::Requests(shape.total), Length::Time);
    progress.ended.store(0, Ordering::Relaxed);
    let (requests, tally) = watched(requests, &draws, load(length), name, &progress, output).await?;

    let summary = tally.summary(requests.kinds.names());
    let report = Report { verb: name, shape: &shape, managers, filled, summary };
    if !output.json {
        output.line(&report.page())?;
    }
    match report.failure() {
        Some(failure) => Err(failure.with(report.document()?)),
        None if output.json => output.document(&report.document()?),
        None => Ok(()),
    }
}

/// As many connections as are asked for, each to the next of the managers; answers how many managers there are.
async fn connect(shape: &Shape, global: &Global) -> Result<(usize, Vec<Client>), Failure> {
    let (managers, identity) = target::remote(global)?;
    let mut connections = Vec::new();
    for number in 0..usize::try_from(shape.conns()).unwrap_or(1) {
        let mut managers = managers.clone();
        let first = number % managers.len().max(1);
        managers.rotate_left(first);
        connections.push(target::dial(managers, &identity, global).await?);
    }
    Ok((managers.len(), connections))
}

/// Puts in one transaction of the preparation; their bytes are bounded, too.
const FILL_PUTS: usize = 100;
const FILL_BYTES: usize = 1 << 20;
/// Transactions of the preparation under way at once.
const FILLING: usize = 16;

/// Writes every key of the key space, unless all of them are there; answers how many were written. Not measured, so that it may
/// take many at a time.
async fn fill(connections: &[Client], draws: &Draws, output: Output) -> Result<u64, Failure> {
    let Some(first) = connections.first() else { return Ok(0) };
    let keys = &draws.keys;
    let there = first.kv().prefix(keys.prefix.clone()).count_only().await?.count;
    // As many may be there and not all of these: those of a load that drew them by chance, or of another shape.
    if there >= keys.count {
        let entries = first.kv().prefix(keys.prefix.clone()).keys_only().all().await?;
        let found: HashSet<&[u8]> = entries.iter().map(|entry| &entry.key[..]).collect();
        if (0..keys.count).all(|number| found.contains(keys.key(number).as_bytes())) {
            return Ok(0);
        }
    }
    let value = draws.draw().value().len();
    let at_once = u64::try_from((FILL_BYTES / (value + 64)).clamp(1, FILL_PUTS)).unwrap_or(1);
    let bar = bar(keys.count, "writing what is to be read", output);
    let next = Arc::new(AtomicU64::new(0));
    let mut filling = JoinSet::new();
    for client in connections.iter().cycle().take(FILLING) {
        let (client, draws, next, bar) = (client.clone(), draws.clone(), Arc::clone(&next), bar.clone());
        filling.spawn(async move {
            let mut draw = draws.draw();
            loop {
                let from = next.fetch_add(at_once, Ordering::Relaxed);
                let to = draws.keys.count.min(from.saturating_add(at_once));
                if from >= to {
                    return Ok::<_, quorate::Error>(());
                }
                let puts = (from..to).map(|number| quorate::operation::put(draws.keys.key(number), draw.value()));
                puts.fold(client.kv().txn(), quorate::TxnBuilder::then).await?;
                bar.inc(to - from);
            }
        });
    }
    // Whoever fails first ends it: the others are dropped with the set.
    while let Some(ended) = filling.join_next().await {
        ended.map_err(|defect| Failure::local(format!("writing what is to be read ended by a defect: {defect}")))??;
    }
    bar.finish_and_clear();
    Ok(keys.count)
}

/// The load with a bar that moves, where somebody sees it. An interrupt ends it with what was measured so far.
async fn watched(
    requests: Requests,
    draws: &Draws,
    load: Load,
    what: &'static str,
    progress: &Arc<Progress>,
    output: Output,
) -> Result<(Requests, Tally), Failure> {
    let (most, by_time) = match load.length {
        Length::Requests(most) => (most, None),
        Length::Time(time) => (u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Some(Instant::now())),
    };
    let bar = bar(most, what, output);
    let running = load::run(requests, draws, load, 2, Arc::clone(progress));
    tokio::pin!(running);
    let mut look = tokio::time::interval(Duration::from_millis(120));
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            _ = look.tick() => {
                let done = by_time.map_or_else(|| progress.ended.load(Ordering::Relaxed), |began| {
                    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
                });
                bar.set_position(done.min(most));
            }
            _ = tokio::signal::ctrl_c() => progress.stop.store(true, Ordering::Relaxed),
        }
    };
    bar.finish_and_clear();
    ended.map_err(Failure::local)
}

fn bar(most: u64, what: &'static str, output: Output) -> ProgressBar {
    let terminal = !output.json && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(most), target);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent} % ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
