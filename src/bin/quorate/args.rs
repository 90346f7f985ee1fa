//! What can be typed: verbs, options, their help and their examples.
//!
//! Owns the shape of the command line. Never talks to a cluster. Called by `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::args_membership::{Leave, NodeVerb, PolicyVerb, Token};

const ABOUT: &str = "\
quorate: a manager quorum with a replicated key-value store, over QUIC.

A node's directory is prepared once with `init` (the first manager) or `join` (every further node, manager or worker by \
its token) and then started with `run`. Everything else talks to a running cluster: with --data-dir on the machine of a node, with --connect and \
--identity from anywhere.";

const EXIT: &str = "\
Exit codes: 0 done; 1 refused; 2 usage; 3 unavailable, nothing was done, try again; 4 unknown outcome, read to find out.
`run` exits 0 stopped as asked, 10 removed, 11 fenced, 12 store damaged, 13 disk failed, 14 identity refused.
With --json, stdout is one JSON document, also for an error: {\"error\":{\"kind\",\"message\",\"retryable\",\"outcome\"}}.

Example:
  quorate init --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1
  quorate run --data-dir /var/lib/quorate &
  quorate kv put greeting hello --data-dir /var/lib/quorate";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, long_about = ABOUT, about = "A manager quorum with a replicated key-value store, over QUIC", after_help = EXIT, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb, before or after it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Managers to talk to, comma separated [env: QUORATE_CONNECT]
    #[arg(long, global = true, value_name = "HOST:PORT[,..]", value_delimiter = ',', conflicts_with = "data_dir")]
    pub(crate) connect: Vec<String>,
    /// Who we are towards them: the operator.id that `init` wrote [env: QUORATE_IDENTITY]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// The directory of a node on this machine
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How long to wait for an answer: 10, 2s, 500ms, 1m
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Answer as one JSON document on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "auto|never|always", value_enum, default_value_t = When::Auto, hide_possible_values = true)]
    pub(crate) color: When,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Prepare the directory of the first manager: makes the cluster and its CA
    #[command(after_help = "\
Writes DIR/operator.id, the operator's identity for --identity. Keep it as you keep a root password.

Example:
  quorate init --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1
  quorate run --data-dir /var/lib/quorate")]
    Init(Init),
    /// Prepare the directory of a further node with a token of the cluster: manager or worker, as the token says
    #[command(after_help = "\
The token pins the cluster's CA: a manager of another cluster is not trusted. It is visible to other users of this \
machine while the command runs; give it as `@FILE` or `-` (stdin) to avoid that.
A join that was cut off or refused is finished by the same command, with what was wrong put right.

Example:
  quorate token show manager --data-dir /var/lib/quorate | tail -1 > token   # on n1
  quorate join --data-dir /var/lib/quorate --listen 10.0.0.2:4701 --name n2 \\
    --token @token --manager 10.0.0.1:4701
  quorate run --data-dir /var/lib/quorate
  quorate join --data-dir /var/lib/quorate --name w1 --token @worker-token --manager 10.0.0.1:4701   # a worker
  quorate join --replace --data-dir /var/lib/quorate --manager 10.0.0.1:4701   # store damaged
  quorate join --replace --token @token --data-dir /var/lib/quorate --manager 10.0.0.1:4701   # fenced
  quorate join --replace --name w1 --token @worker-token --data-dir /var/lib/quorate \\
    --manager 10.0.0.1:4701                                         # a worker whose disk is gone")]
    Join(Join),
    /// Run a prepared node in the foreground
    #[command(after_help = "\
Prints one line on stdout when ready: `ready: NAME ADDRESS raft id N voter|standby, leader X` on a manager,
`ready: NAME worker, session with M, assignments at revision R` on a worker. Logs go to stderr.
A node keeps running when it is promoted or demoted. With --listen or --advertise it has moved, and tells the others.
SIGTERM and SIGINT hand leadership over and stop cleanly.
Exits 0 stopped as asked, 10 removed, 11 fenced, 12 store damaged, 13 disk failed, 14 identity refused.
--force-new-cluster=G ends generation G (`status` and `inspect` say it) and goes on from this directory alone; left behind
in a unit file it does no harm: a directory beyond G just starts.

Example:
  quorate run --data-dir /var/lib/quorate --log quorate=debug
  quorate run --data-dir /var/lib/quorate --force-new-cluster=1")]
    Run(Run),
    /// Show health, what to do, and every manager; needs no quorum
    #[command(after_help = "\
Answers from the manager asked, also without a quorum. Exits 0 whenever a manager answered; scripts read `health`.
With --data-dir of a worker, the worker answers for itself: its session, its items.

Example:
  quorate status --data-dir /var/lib/quorate
  quorate status --connect 10.0.0.1:4701,10.0.0.2:4701 --identity operator.id --json")]
    Status,
    /// Read and write the key-value store
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate kv put app/config @config.yaml --data-dir /var/lib/quorate
  quorate kv get app/config --data-dir /var/lib/quorate"
    )]
    Kv(Kv),
    /// List nodes, change what they are asked to be, remove them
    #[command(
        subcommand,
        after_help = "\
A node is named by its name, its node id or a unique beginning of it, or its raft id.

Example:
  quorate node ls --data-dir /var/lib/quorate
  quorate node promote n4 --data-dir /var/lib/quorate"
    )]
    Node(NodeVerb),
    /// Take this machine's node out of the cluster, for ever
    #[command(after_help = "\
Asks over the local socket of the running node. A manager gives up its seat first; when it has left, it stops. Refused for the
last voter, and where it would end fault tolerance (--force lifts that). The directory stays; to come back, the node joins
anew from another one.

Example:
  quorate leave --data-dir /var/lib/quorate")]
    Leave(Leave),
    /// Give items of work to nodes and see what they say of them; for trying out, orchestrators use the library
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate assign set w1 web.1 @web.json --data-dir /var/lib/quorate
  quorate assign ls w1 --data-dir /var/lib/quorate"
    )]
    Assign(Assign),
    /// Show, make and take back what lets new nodes in
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate token show manager --data-dir /var/lib/quorate | tail -1
  quorate token create --role worker --ttl 1h --uses 20 --data-dir /var/lib/quorate"
    )]
    Token(Token),
    /// Show and change the settings of the whole cluster
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate policy show --data-dir /var/lib/quorate
  quorate policy set --lost-after 10s --data-dir /var/lib/quorate"
    )]
    Policy(PolicyVerb),
    /// Move leadership
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate leader transfer --to n2 --data-dir /var/lib/quorate"
    )]
    Leader(Leader),
    /// Read a stopped node's directory; changes nothing
    #[command(after_help = "\
Opens the store read only and refuses while the node runs (then ask it with `status`).
--configurations prints every Raft configuration in the log and the one in force, both halves of joint ones.

Example:
  quorate inspect --data-dir /var/lib/quorate --json
  quorate inspect --configurations --data-dir /var/lib/quorate")]
    Inspect(Inspect),
    /// When a majority of the managers is lost for good: go on from this stopped manager alone (force-new-cluster)
    #[command(after_help = "\
Run --dry-run on every manager that is left: the best survivor has the newest generation, then the highest last term, then
the highest last index; voter or standby does not matter. Then stop the best one's process and recover from its directory.
Everything on its disk is kept, also what is above its commit index. A write that only lost managers had acknowledged is
gone. The other managers are fenced when they meet this one, and come back with `join --replace`.
Refused while another manager follows a leader or holds more (ClusterAlive). Killed at any moment, it has changed nothing
or everything; run it again.

Example:
  quorate recover --dry-run --data-dir /var/lib/quorate
  quorate recover --data-dir /var/lib/quorate
  quorate run --data-dir /var/lib/quorate")]
    Recover(Recover),
}

/// Options of a node that runs on.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogOptions {
    /// What to log to stderr: a level, or a filter such as quorate=debug,warn (raft=debug: the library below)
    #[arg(long, value_name = "FILTER", env = "QUORATE_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Log as JSON lines
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
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
    pub(crate) log: LogOptions,
}

/// `join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
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
    /// node's own certificate, when the store is damaged or gone; with --token also when the cluster has left this manager
    /// behind: lost or fenced by a recovery, or removed. Name and address stay as recorded. With --token and --name on an
    /// empty directory: take the place of the worker of that name, whose disk is gone for good; its labels and assignments
    /// stay, and the old disk is refused from then on
    #[arg(long, conflicts_with = "run")]
    pub(crate) replace: bool,
    /// Managers of the cluster, comma separated; one that answers is enough
    #[arg(long = "manager", value_name = "HOST:PORT[,..]", value_delimiter = ',', required = true)]
    pub(crate) managers: Vec<String>,
    /// Go on as `run` does; on a directory that is prepared already, just run (what contradicts it is refused)
    #[arg(long)]
    pub(crate) run: bool,
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Further managers to try, when the known addresses no longer hold
    #[arg(long = "manager", value_name = "HOST:PORT[,..]", value_delimiter = ',')]
    pub(crate) managers: Vec<String>,
    /// Recover first (see `quorate recover`), when the directory is of exactly this generation; beyond it, just run
    #[arg(long, value_name = "GENERATION")]
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
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

/// `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Every Raft configuration in the directory: both halves, index, term, and whether it took effect
    #[arg(long)]
    pub(crate) configurations: bool,
}

/// `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
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

/// `assign`.
#[derive(Debug, Subcommand)]
pub(crate) enum Assign {
    /// Give a node an item, or write the one it has anew
    #[command(after_help = "\
VALUE is text, `-` for stdin, or `@FILE`; it is opaque to quorate.

Example:
  quorate assign set w1 web.1 @web.json --data-dir /var/lib/quorate")]
    Set {
        /// The node: its name or its id
        node: String,
        /// What names the item within its node
        item: String,
        /// What the node gets: text, - for stdin, or @FILE
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Take an item from a node
    #[command(after_help = "\
Example:
  quorate assign rm w1 web.1 --data-dir /var/lib/quorate")]
    Rm {
        /// The node: its name or its id
        node: String,
        /// The item
        item: String,
    },
    /// List a node's items with what it says of them
    #[command(after_help = "\
Example:
  quorate assign ls w1 --data-dir /var/lib/quorate")]
    Ls {
        /// The node: its name or its id
        node: String,
    },
}

/// `kv`.
#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Write one key
    #[command(after_help = "\
VALUE is text, `-` for stdin, or `@FILE`; with --literal it is taken as it stands. Up to 1 MiB.
A write that got no answer exits 4: it may have been done; read the key.

Example:
  quorate kv put app/config @config.yaml --data-dir /var/lib/quorate
  echo hello | quorate kv put greeting - --connect 10.0.0.1:4701 --identity operator.id")]
    Put(Put),
    /// Read one key
    #[command(after_help = "\
Prints the value and nothing else. An absent key exits 1.
Linearizable: it sees every write that was acknowledged before it began. With --serializable the asked manager answers \
from what it has, without a quorum, and may be behind. It says by how much at most, on stderr or as `age_ms`: every write \
that was acknowledged longer ago is in it (null: not known, it has not heard from a quorum since it was started).

Example:
  quorate kv get app/config --data-dir /var/lib/quorate > config.yaml")]
    Get(Get),
    /// List keys in order
    #[command(after_help = "\
All pages are read at one revision. With --limit, the last line says how to go on: --after KEY --revision R.
--keys-only prints one key a line, for scripts: control characters, backslashes and bytes that are no text are escaped \
(\\n, \\u{1b}, \\\\, \\xff), with --raw printed as they are. --json is exact in any case.

Example:
  quorate kv ls --prefix app/ --keys-only --data-dir /var/lib/quorate
  quorate kv ls --prefix app/ --count --data-dir /var/lib/quorate")]
    Ls(Ls),
    /// Remove one key, or all with a prefix
    #[command(after_help = "\
Says how many keys were removed; none is not an error.

Example:
  quorate kv del app/config --data-dir /var/lib/quorate
  quorate kv del --prefix app/ --data-dir /var/lib/quorate")]
    Del(Del),
    /// Write one key only if it is as expected (compare and set)
    #[command(after_help = "\
When it does not match, nothing is written, the exit code is 1, and the message says the current revision.

Example:
  quorate kv cas lock me --expect-absent --data-dir /var/lib/quorate
  quorate kv cas app/config @new.yaml --expect-revision 42 --data-dir /var/lib/quorate")]
    Cas(Cas),
}

/// `kv put`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The key, up to 4 KiB
    pub(crate) key: String,
    /// The value: text, - for stdin, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Take VALUE as it stands, also when it is - or begins with @
    #[arg(long)]
    pub(crate) literal: bool,
}

/// `kv get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The key
    pub(crate) key: String,
    /// Read as of this revision
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// Let the asked manager answer alone: no quorum needed, may be behind
    #[arg(long)]
    pub(crate) serializable: bool,
}

/// `kv ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Go on behind this key
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    pub(crate) after: String,
    /// Leave the values out
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// With --keys-only: print keys as they are, also what a terminal takes for a command
    #[arg(long, requires = "keys_only")]
    pub(crate) raw: bool,
    /// Only say how many there are
    #[arg(long, conflicts_with_all = ["limit", "keys_only", "after"])]
    pub(crate) count: bool,
    /// Read as of this revision
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    /// Let the asked manager answer alone: no quorum needed, may be behind
    #[arg(long)]
    pub(crate) serializable: bool,
}

/// `kv del`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["key", "prefix"])))]
pub(crate) struct Del {
    /// The key
    pub(crate) key: Option<String>,
    /// Every key that begins with this
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) prefix: Option<String>,
}

/// `kv cas`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("expected").required(true).args(["expect_revision", "expect_absent", "expect_value"])))]
pub(crate) struct Cas {
    /// The key
    pub(crate) key: String,
    /// The new value: text, - for stdin, or @FILE
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: String,
    /// Take VALUE as it stands, also when it is - or begins with @
    #[arg(long)]
    pub(crate) literal: bool,
    /// The key was last written at this revision (its mod_revision)
    #[arg(long, value_name = "N")]
    pub(crate) expect_revision: Option<u64>,
    /// The key does not exist
    #[arg(long)]
    pub(crate) expect_absent: bool,
    /// The key has exactly this value now
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) expect_value: Option<String>,
}

/// `leader`.
#[derive(Debug, Subcommand)]
pub(crate) enum Leader {
    /// Hand leadership to another voter
    #[command(after_help = "\
Without --to the voter that is furthest takes over. Says who leads then.

Example:
  quorate leader transfer --to n2 --data-dir /var/lib/quorate")]
    Transfer {
        /// To whom: name, node id or raft id
        #[arg(long, value_name = "MANAGER")]
        to: Option<String>,
    },
}

/// `10`, `2s`, `500ms`, `1m`; a bare number is seconds. A day is more than any request waits.
fn duration(text: &str) -> Result<Duration, String> {
    duration_up_to(text, Duration::from_secs(86_400), "one day")
}

/// `10`, `2s`, `500ms`, `1m`, `2h`, `7d`; a bare number is seconds.
pub(crate) fn duration_up_to(text: &str, longest: Duration, words: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 10 or 10s (seconds), 500ms, 1m, 2h or 7d");
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_not_a_number| wrong())?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        "d" => number * 86_400.0,
        _ => return Err(wrong()),
    };
    // The bound also keeps the conversion from failing.
    if !(0.001..=longest.as_secs_f64()).contains(&seconds) {
        return Err(format!("`{text}` is out of range; between 1ms and {words}"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn a_time_is_read_with_and_without_unit() {
        for (text, ms) in
            [("10", 10_000), ("2s", 2_000), ("500ms", 500), ("1m", 60_000), ("0.5", 500), ("2h", 7_200_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "-1", "10x", "25h", "2d", "0", "1e9", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_help_ends_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = help.rsplit("Example:\n").next().unwrap_or_default();
            assert!(help.contains("Example:\n  ") && example.contains("quorate "), "`{path} --help` has no example");
            for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
                check(verb, &format!("{path} {}", verb.get_name()));
            }
        }
        check(&Cli::command(), "quorate");
        Cli::command().debug_assert();
    }
}
