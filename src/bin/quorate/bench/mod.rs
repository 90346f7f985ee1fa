//! `bench`: a load on a running cluster, over QUIC as any client's, and what came of it.
//!
//! Owns the steps: connect, write what is to be read, one request to see that it works, warm up, measure, show. Never talks to
//! a node's local socket, and never decides an outcome: the client does. `load` is the loop, `tally` the figures, `requests`
//! and `standing` what is sent, `board` who was told, `report` the words. Called by `main`.

mod board;
mod load;
mod report;
mod requests;
mod standing;
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
use load::{Draws, Keys, Length, Load, Progress, Store};
use report::Report;
use requests::{Kinds, Requests};
use standing::{Renewing, Telling};
use tally::Tally;

pub(crate) async fn run(verb: Bench, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        Bench::Put(shape) => requests("put", shape, Kinds::Put, global, output).await,
        Bench::Get(get) => {
            requests("get", get.shape, Kinds::Get { consistency: get.consistency }, global, output).await
        }
        Bench::Txn(txn) => {
            let (consistency, reads, puts) = (txn.consistency, txn.rw_ratio, txn.txn_ops);
            requests("txn", txn.shape, Kinds::Mixed { consistency, reads, puts }, global, output).await
        }
        Bench::Watch(watch) => {
            let bench = Running::begin("watch", watch.shape, global, output).await?;
            bench.say_what_stays();
            let watchers = usize::try_from(watch.watchers).unwrap_or(1);
            let telling = Telling::start(bench.connections.clone(), &bench.shape.prefix, watchers).await?;
            telling.attempt(0, &mut bench.draws.draw()).await?;
            bench.measure(telling, &["told"], 0).await.1
        }
        Bench::Lease(lease) => {
            let bench = Running::begin("lease", lease.shape, global, output).await?;
            let clients = usize::try_from(bench.shape.clients).unwrap_or(1);
            let renewing = Renewing::start(bench.connections.clone(), clients, lease.ttl).await?;
            renewing.attempt(0).await?;
            let (renewing, measured) = bench.measure(renewing, &["renewal"], 0).await;
            if let Some(renewing) = renewing {
                renewing.end().await;
            }
            measured
        }
    }
}

/// Puts, gets and transactions.
async fn requests(
    name: &'static str,
    shape: Shape,
    kinds: Kinds,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    let bench = Running::begin(name, shape, global, output).await?;
    bench.say_what_stays();
    let filled = if kinds.reads() { fill(&bench.connections, &bench.draws, output).await? } else { 0 };
    let requests = Requests { connections: bench.connections.clone(), kinds };
    // What is refused to one would be refused to all: as an answer of its own, before any figure.
    requests.attempt(0, &mut bench.draws.draw()).await?;
    bench.measure(requests, kinds.names(), filled).await.1
}

/// A load that is about to be put on a cluster.
struct Running {
    verb: &'static str,
    shape: Shape,
    /// How many managers were given.
    managers: usize,
    connections: Vec<Client>,
    draws: Draws,
    output: Output,
}

impl Running {
    async fn begin(verb: &'static str, shape: Shape, global: &Global, output: Output) -> Result<Self, Failure> {
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
        Ok(Self { verb, shape, managers, connections, draws, output })
    }

    fn say_what_stays(&self) {
        let prefix = &self.shape.prefix;
        self.output.note(&format!(
            "keys below `{prefix}`, {} at most; what is written stays there: `quorate kv del --prefix {prefix} --in-parts` removes it",
            self.shape.key_space_size
        ));
    }

    /// Warms up, measures and shows; the store comes back, if it came that far.
    async fn measure<S: Store>(
        &self,
        store: S,
        names: &'static [&'static str],
        filled: u64,
    ) -> (Option<S>, Result<(), Failure>) {
        let Self { verb, shape, draws, output, .. } = self;
        let load = |length| Load { clients: usize::try_from(shape.clients).unwrap_or(1), length, rate: shape.rate };
        let progress = Arc::new(Progress::default());
        let warm_up = load(Length::Time(shape.warm_up));
        let (store, _) = match watched(store, draws, warm_up, "warming up", &progress, *output).await {
            Ok(warm) => warm,
            Err(failure) => return (None, Err(failure)),
        };
        let length = shape.duration.map_or(Length::Requests(shape.total), Length::Time);
        progress.ended.store(0, Ordering::Relaxed);
        match watched(store, draws, load(length), verb, &progress, *output).await {
            Ok((store, tally)) => (Some(store), self.show(&tally, names, filled)),
            Err(failure) => (None, Err(failure)),
        }
    }

    fn show(&self, tally: &Tally, names: &'static [&'static str], filled: u64) -> Result<(), Failure> {
        let Self { verb, shape, managers, output, .. } = self;
        let report = Report { verb, shape, managers: *managers, filled, summary: tally.summary(names) };
        if !output.json {
            output.line(&report.page())?;
        }
        match report.failure() {
            Some(failure) => Err(failure.with(report.document()?)),
            None if output.json => output.document(&report.document()?),
            None => Ok(()),
        }
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
async fn watched<S: Store>(
    store: S,
    draws: &Draws,
    load: Load,
    what: &'static str,
    progress: &Arc<Progress>,
    output: Output,
) -> Result<(S, Tally), Failure> {
    let (most, by_time) = match load.length {
        Length::Requests(most) => (most, None),
        Length::Time(time) => (u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Some(Instant::now())),
    };
    let bar = bar(most, what, output);
    let running = load::run(store, draws, load, 2, Arc::clone(progress));
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
