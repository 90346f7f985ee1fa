//! The other half of the binary: one manager process.
//!
//! Owns nothing of the test: it opens its directory and runs until it is killed, or ends by itself and says why.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use quorate::{Node, Start};

/// The node's directory; its presence makes this process a manager.
pub const DIRECTORY: &str = "QUORATE_KILLS_NODE";
/// `found`, `join` or `open`.
pub const START: &str = "QUORATE_KILLS_START";
/// The node's name.
pub const CALLED: &str = "QUORATE_KILLS_NAME";
/// Where it listens.
pub const LISTEN: &str = "QUORATE_KILLS_LISTEN";
/// The join token.
pub const TOKEN: &str = "QUORATE_KILLS_TOKEN";
/// The manager to join through.
pub const THROUGH: &str = "QUORATE_KILLS_THROUGH";
/// A file that is made once the endpoint listens.
pub const UP: &str = "QUORATE_KILLS_UP";

/// Small, so that whoever was away for a second needs a snapshot.
const LOG_WINDOW: u64 = 100;

fn text(variable: &str) -> String {
    std::env::var(variable).unwrap_or_default()
}

pub fn run(directory: &Path) -> ExitCode {
    let filter = std::env::var("QUORATE_KILLS_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    // The test holds the other end: when it is gone, however it went, nobody must be left behind. An orderly exit would
    // run the destructors of a store that is still in use, and may take its time.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::abort();
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(serve(directory))
}

async fn serve(directory: &Path) -> ExitCode {
    let start = match text(START).as_str() {
        "found" => Start::OpenOrInit,
        "join" => Start::OpenOrJoin { token: text(TOKEN), managers: vec![text(THROUGH)] },
        _ => Start::Open,
    };
    let builder = Node::builder(directory)
        .listen(text(LISTEN))
        .name(text(CALLED))
        .log_window(LOG_WINDOW)
        .stable(Duration::from_millis(200));
    match builder.start(start).await {
        Ok(node) => {
            std::fs::write(text(UP), node.address().to_string()).unwrap();
            let reason = node.stopped().await;
            eprintln!("the node ended by itself: {reason}");
            ExitCode::from(reason.exit_code())
        }
        Err(error) => {
            eprintln!("the node does not start: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
