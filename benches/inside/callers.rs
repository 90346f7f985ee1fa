//! Callers inside a store's own process: their options, and the loads that they are.
//!
//! Owns what the programs that measure this have in common: the command line, the loop over numbers of callers, and the JSON
//! document of each. Never starts a store. Called by `main` here and by that of `benches/hiqlite`, which includes this source.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Args;

use crate::load::{self, Draws, Keys, Length, Load, Store};

/// Errors are sentences.
pub(crate) type Told<T> = Result<T, String>;

pub(crate) fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[derive(Debug, Args)]
pub(crate) struct Callers {
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

impl Callers {
    /// Loads the store with each number of callers, and prints what was seen.
    pub(crate) async fn load<S: Store>(&self, store: impl Fn() -> S) -> Told<()> {
        for callers in &self.callers {
            let keys = Keys {
                prefix: "bench/".into(),
                width: 8,
                count: self.key_space_size,
                sequential: false,
                next: AtomicU64::new(0),
            };
            let draws = Draws::new(keys, self.val_size);
            let load =
                |seconds| Load { clients: *callers, length: Length::Time(Duration::from_secs(seconds)), rate: None };
            let (inside, _) = load::run(store(), &draws, load(2), 1, Arc::default()).await?;
            let (_, tally) = load::run(inside, &draws, load(self.seconds), 1, Arc::default()).await?;
            println!("{}", serde_json::json!({ "callers": callers, "summary": tally.summary(&["put"]) }));
        }
        Ok(())
    }
}

/// Runs the program to its end.
pub(crate) fn done(run: impl Future<Output = Told<()>>) -> ExitCode {
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
        .and_then(|runtime| runtime.block_on(run));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}
