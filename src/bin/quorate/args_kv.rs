//! What can be typed about keys and values.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use clap::{Args, Subcommand};

/// `kv`.
#[derive(Debug, Subcommand)]
pub(crate) enum Kv {
    /// Write one key
    #[command(after_help = "\
VALUE is text, `-` for stdin, or `@FILE`; with --literal it is taken as it stands. Up to 1 MiB.
A write that got no answer exits 4: it may have been done; read the key.

Example:
  quorate kv put app/config @config.yaml --data-dir /var/lib/quorate
  quorate kv put workers/w1 here --lease 17 --data-dir /var/lib/quorate
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
    /// Attach the key to this lease: it goes when the lease ends (`quorate lease grant`). Without it, it stays
    #[arg(long, value_name = "LEASE", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) lease: Option<u64>,
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
