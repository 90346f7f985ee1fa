//! What can be typed about leases and locks.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{MOMENT, SECOND, YEAR, duration_within, given, whole};

/// `lease`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseVerb {
    /// Grant a lease
    #[command(after_help = "\
Prints the id of the lease. It ends so long after its last renewal, and takes the keys that are attached to it along, in one
revision; never earlier, a little later after a change of leader.

Example:
  quorate lease grant --ttl 30s --data-dir /var/lib/quorate
  quorate kv put workers/w1 here --lease 17 --data-dir /var/lib/quorate")]
    Grant {
        /// How long it lasts after its last renewal: from 1s to 365d
        #[arg(long, value_name = "TIME", value_parser = ttl)]
        ttl: Duration,
    },
    /// Keep a lease alive: until interrupted (exit code 0), or with --once a single time
    #[command(after_help = "\
Renews at a third of its time to live, and says so each time (with --json one document a line). Exits 1 when the lease has
ended, 3 when it could not be renewed in time: then it may have ended.

Example:
  quorate lease keep-alive 17 --data-dir /var/lib/quorate
  quorate lease keep-alive 17 --once --data-dir /var/lib/quorate")]
    KeepAlive {
        /// The lease
        #[arg(value_parser = whole(1, u64::MAX, "the id of a lease"))]
        id: u64,
        /// Renew it once and return
        #[arg(long)]
        once: bool,
    },
    /// End a lease, and remove its keys
    #[command(after_help = "\
Says how many keys went with it.

Example:
  quorate lease revoke 17 --data-dir /var/lib/quorate")]
    Revoke {
        /// The lease
        #[arg(value_parser = whole(1, u64::MAX, "the id of a lease"))]
        id: u64,
    },
    /// List all leases
    #[command(after_help = "\
LEFT is the leader's count; after a change of leader every lease begins anew.

Example:
  quorate lease list --data-dir /var/lib/quorate")]
    List,
    /// Show one lease with its keys
    #[command(after_help = "\
Example:
  quorate lease show 17 --data-dir /var/lib/quorate")]
    Show {
        /// The lease
        #[arg(value_parser = whole(1, u64::MAX, "the id of a lease"))]
        id: u64,
    },
}

/// `lock`.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// What the lock is called; its waiters are the keys NAME/...
    #[arg(value_parser = given("the name of a lock"))]
    pub(crate) name: String,
    /// If this command dies without a word the lock is free after so long: from 1s to 365d
    #[arg(long, value_name = "TIME", value_parser = ttl, default_value = "15s")]
    pub(crate) ttl: Duration,
    /// Wait for it at most so long [default: as long as it takes]
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
    /// What to run while it is held
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `under-lock`.
#[derive(Debug, Args)]
pub(crate) struct UnderLock {
    /// The process that holds the lock
    pub(crate) holder: u32,
    /// How long the command has to end by itself when that process dies, milliseconds
    pub(crate) grace_ms: u64,
    /// Where that process says how long the lock holds
    pub(crate) telling: std::path::PathBuf,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<std::ffi::OsString>,
}

fn wait(text: &str) -> Result<Duration, String> {
    duration_within(text, MOMENT, YEAR)
}

fn ttl(text: &str) -> Result<Duration, String> {
    duration_within(text, SECOND, YEAR)
}
