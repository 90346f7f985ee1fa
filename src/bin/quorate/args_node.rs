//! What can be typed about a node's own directory: prepare it, run it, read it, recover from it.
//!
//! Owns the options of these verbs; their help is in `args`. Never talks to a cluster. Called by `args`.

use clap::Args;

use crate::args::whole;
use crate::args_keys::KeyOptions;

/// Options of a node that runs on.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunOptions {
    /// What to log to stderr: a level, or a filter such as quorate=debug,warn (raft=debug: the library below)
    #[arg(long, value_name = "FILTER", env = "QUORATE_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Log as JSON lines
    #[arg(long)]
    pub(crate) log_json: bool,
    /// Serve /metrics, /livez and /readyz over HTTP there, for example 127.0.0.1:4702 (TCP); off when not given. It is not
    /// encrypted and answers everybody who reaches it: keep it on loopback or a network of your own
    #[arg(long, value_name = "ADDR", env = "QUORATE_HTTP")]
    pub(crate) http: Option<String>,
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    /// Where this node listens (UDP), for example 10.0.0.1:4701 or [::]:4701
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the others reach it, if that is not the address it listens on
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// A name for people; the node id when not given
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Go on as `run` does; on a directory that is prepared already, just run (what contradicts it is refused)
    #[arg(long)]
    pub(crate) run: bool,
    #[command(flatten)]
    pub(crate) log: RunOptions,
}

/// `join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    /// Where this node listens (UDP), for example 10.0.0.2:4701 or [::]:4701
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the others reach it, if that is not the address it listens on
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// A name for people; the node id when not given
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The join token, or @FILE, or - for stdin
    #[arg(long, value_name = "TOKEN|@FILE|-", required_unless_present = "replace")]
    pub(crate) token: Option<String>,
    /// Come back with a fresh store under a new raft id; the old store is moved aside, not deleted. Without --token, by the
    /// node's own certificate, when the store is damaged, rolled back or gone; with --token also when the cluster has left this node
    /// behind: lost or fenced by a recovery, or removed (a worker, too). Name and address stay as recorded. With --token and --name on
    /// an empty directory: take the place of the worker of that name, whose disk is gone for good; its labels (but quorate.manager) and assignments
    /// stay, and the old disk is refused from then on
    #[arg(long, conflicts_with = "run")]
    pub(crate) replace: bool,
    /// With --replace and a manager's --token: the key of the store is lost for good, so the store is moved aside as a damaged one
    /// is, and the node gets another key of its own, since that was sealed with it. What only this store held is gone; should the
    /// key be found, `quorate inspect --data-dir DIR/store.old-N` reads it
    #[arg(long, requires = "replace", conflicts_with = "name")]
    pub(crate) key_lost: bool,
    /// Managers of the cluster, comma separated; one that answers is enough
    #[arg(long = "manager", value_name = "HOST:PORT[,..]", value_delimiter = ',', required = true)]
    pub(crate) managers: Vec<String>,
    /// Go on as `run` does; on a directory that is prepared already, just run (what contradicts it is refused)
    #[arg(long)]
    pub(crate) run: bool,
    #[command(flatten)]
    pub(crate) log: RunOptions,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    /// Further managers to try, when the known addresses no longer hold
    #[arg(long = "manager", value_name = "HOST:PORT[,..]", value_delimiter = ',')]
    pub(crate) managers: Vec<String>,
    /// Recover first (see `quorate recover`), when the directory is of exactly this generation; beyond it, just run
    #[arg(long, value_name = "GENERATION", value_parser = whole(1, u64::MAX, "a generation"))]
    pub(crate) force_new_cluster: Option<u64>,
    /// With --force-new-cluster: where this manager is reached from now on, if not as before
    #[arg(long, value_name = "HOST:PORT", requires = "force_new_cluster", conflicts_with = "advertise")]
    pub(crate) address: Option<String>,
    /// With --force-new-cluster: also when other managers are alive or hold more
    #[arg(long, requires = "force_new_cluster")]
    pub(crate) despite_peers: bool,
    /// Where this node listens from now on (UDP), if it has moved
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the others reach it from now on, if it has moved and that is not the address it listens on
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// How many seconds the certificates hold that this manager makes
    #[cfg(feature = "testing")]
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub(crate) certificate_life: Option<u64>,
    /// How many log entries are kept for managers that lag: few, so that tests see snapshots
    #[arg(long, value_name = "ENTRIES", hide = true)]
    pub(crate) log_window: Option<u64>,
    #[command(flatten)]
    pub(crate) log: RunOptions,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Every Raft configuration in the directory: both halves, index, term, and whether it took effect
    #[arg(long)]
    pub(crate) configurations: bool,
    /// Every live record, as whoever has this disk and its key can read it; secrets stay sealed by the barrier
    #[arg(long, conflicts_with = "configurations")]
    pub(crate) dump: bool,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
}

/// `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
    /// Only say what would be kept and what speaks against it; reads only
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where this manager is reached from now on, if not as before
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<String>,
    /// Also when other managers are alive or hold more: they are fenced, and what only they hold is lost
    #[arg(long)]
    pub(crate) despite_peers: bool,
}
