//! What can be typed about keys and values.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{MOMENT, YEAR, duration_within, given, whole};

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
Says how many keys were removed; none is not an error. All of them go at one revision, 10,000 keys and 64 MiB at most: with \
--in-parts as many as there are, a part at a time, each at a revision of its own. Cut off, some parts are gone and the others are \
there, and the same command goes on; keys that are written meanwhile may go or stay.

Example:
  quorate kv del app/config --data-dir /var/lib/quorate
  quorate kv del --prefix app/ --data-dir /var/lib/quorate
  quorate kv del --prefix bench/ --in-parts --data-dir /var/lib/quorate")]
    Del(Del),
    /// Write one key only if it is as expected (compare and set)
    #[command(after_help = "\
When it does not match, nothing is written, the exit code is 1, and the message says the current revision.

Example:
  quorate kv cas lock me --expect-absent --data-dir /var/lib/quorate
  quorate kv cas app/config @new.yaml --expect-revision 42 --data-dir /var/lib/quorate")]
    Cas(Cas),
    /// Write keys and values out as JSON lines
    #[command(after_help = "\
All of it is read at one revision. One line is one key: `key` and `value` where they are text, `key_base64` and `value_base64` \
where they are not; the first line says which cluster and revision, the last one how many, so that a part is never taken for \
the whole. A FILE is there once it is whole, readable by its owner only, and takes the place of none without --force; an export to stdout that nobody reads to its end fails. Revisions and versions are not in it; a key's lease is named, and an import gives it none.

Example:
  quorate kv export --output store.jsonl --data-dir /var/lib/quorate
  quorate kv export --prefix app/ --data-dir /var/lib/quorate | gzip > app.jsonl.gz")]
    Export(Export),
    /// Write keys and values of an export, or of `etcdctl get -w json`, into the store
    #[command(after_help = "\
Everything is checked against the limits before anything is written. A key that has its value already is not written again, \
so that the same command goes on where it was cut off; keys that are not in FILE stay. FILE is what `kv export` writes, or \
what `etcdctl get --prefix '' -w json` prints (leases are left out).

Example:
  quorate kv import store.jsonl --dry-run --data-dir /var/lib/quorate
  etcdctl get --prefix '' -w json | quorate kv import - --under etcd/ --data-dir /var/lib/quorate")]
    Import(Import),
    /// Do several things at one revision, if all conditions hold
    #[command(after_help = "\
Conditions (--if), all of them about keys as they are before:
  exists KEY | absent KEY | value KEY = TEXT | version KEY = N | mod KEY = N | create KEY = N
with =, !=, < or > (mod and create: the revision that last wrote, or made, the key; version: writes since then).
Operations (--then when all conditions hold, --else when not), done in order, each key written once:
  put KEY TEXT | del KEY | del-prefix PREFIX | get KEY | get-prefix PREFIX
Words with blanks stand in quotes, 'so' or \"so\"; outside single quotes \\n, \\t, \\\\ and \\\" mean what they mean elsewhere.
With --file FILE (- is stdin) the same lines come below lines that say `if`, `then` and `else`; # begins a comment.
Exits 0 when the conditions held, and 1 when they did not: then the --else operations are done, if there are any. With --json that
is an error of kind `mismatch`, beside the answer: its outcome is `done` where the --else operations write, else `not_done`.

Example:
  quorate kv txn --if 'mod app/config = 42' --then 'put app/config \"new text\"' --else 'get app/config' \\
    --data-dir /var/lib/quorate
  printf 'if\\nabsent lock\\nthen\\nput lock me\\nput log/1 locked\\n' | \\
    quorate kv txn --file - --data-dir /var/lib/quorate")]
    Txn(Txn),
    /// Tell what becomes of a key, or of all with a prefix, as it happens
    #[command(after_help = "\
Goes on until it is stopped (Ctrl-C and TERM: exit code 0), over leader changes and lost managers, and skips nothing. One line for each change:
`REVISION put KEY VALUE` or `REVISION delete KEY`, escaped as by `kv ls --keys-only`. With --json one document a line
for each revision: {\"revision\",\"changes\":[{\"type\",\"key\",\"value\",..,\"previous\"}]}; with --bookmarks also {\"bookmark\":REVISION}:
everything up to there was told.
Where --from-revision is compacted it exits 1 and says from which revision on it can be watched: read the keys anew (`kv ls
--json` says at which revision), then watch from the one after it. While no manager answers it says so on stderr and tries on.

Example:
  quorate kv watch --prefix app/ --data-dir /var/lib/quorate
  quorate kv watch app/config --count 1 --for 30s --data-dir /var/lib/quorate   # wait for the next change
  quorate kv watch --prefix '' --from-revision 42 --json --connect 10.0.0.1:4701 --identity operator.id")]
    Watch(Watch),
}

/// `kv export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: String,
    /// As of this revision
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "a revision"))]
    pub(crate) revision: Option<u64>,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

/// `kv import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file, or - for stdin
    #[arg(value_name = "FILE|-")]
    pub(crate) from: String,
    /// Put this in front of every key
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(crate) under: String,
    /// Leave keys that have another value as they are, instead of overwriting them
    #[arg(long)]
    pub(crate) keep: bool,
    /// Only say what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// An input without any key is no mistake
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Take it that all values are empty, which otherwise looks like etcdctl's --keys-only
    #[arg(long)]
    pub(crate) empty_values: bool,
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
    #[arg(long, value_name = "LEASE", value_parser = whole(1, u64::MAX, "the id of a lease"))]
    pub(crate) lease: Option<u64>,
}

/// `kv get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The key
    pub(crate) key: String,
    /// Read as of this revision
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "a revision"))]
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
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "keys"))]
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
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "a revision"))]
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
    #[arg(long, value_parser = given("a prefix"))]
    pub(crate) prefix: Option<String>,
    /// A part at a time, each at a revision of its own: for more keys than may go at once
    #[arg(long, requires = "prefix", conflicts_with = "key")]
    pub(crate) in_parts: bool,
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
    #[arg(long, value_name = "N", value_parser = whole(0, u64::MAX, "a revision, 0 for a key that does not exist"))]
    pub(crate) expect_revision: Option<u64>,
    /// The key does not exist
    #[arg(long)]
    pub(crate) expect_absent: bool,
    /// The key has exactly this value now
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub(crate) expect_value: Option<String>,
}

/// `kv txn`.
#[derive(Debug, Args)]
pub(crate) struct Txn {
    /// A condition; may be given several times
    #[arg(long = "if", value_name = "CONDITION")]
    pub(crate) conditions: Vec<String>,
    /// An operation for when all conditions hold; may be given several times
    #[arg(long = "then", value_name = "OPERATION")]
    pub(crate) then: Vec<String>,
    /// An operation for when they do not; may be given several times
    #[arg(long = "else", value_name = "OPERATION")]
    pub(crate) or_else: Vec<String>,
    /// Read all of it from a file, or from stdin (-)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["conditions", "then", "or_else"], required_unless_present_any = ["conditions", "then", "or_else"])]
    pub(crate) file: Option<String>,
}

/// `kv watch`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["key", "prefix"])))]
pub(crate) struct Watch {
    /// The key
    pub(crate) key: Option<String>,
    /// Every key that begins with this; empty: every key
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Begin with this revision, also one that is past [default: with the next]
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "a revision"))]
    pub(crate) from_revision: Option<u64>,
    /// Tell what was there before, too
    #[arg(long)]
    pub(crate) previous: bool,
    /// Only writes
    #[arg(long, conflicts_with = "deletes_only")]
    pub(crate) puts_only: bool,
    /// Only removals
    #[arg(long)]
    pub(crate) deletes_only: bool,
    /// Leave the values out
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Also tell up to where everything was told
    #[arg(long)]
    pub(crate) bookmarks: bool,
    /// End after so many revisions
    #[arg(long, value_name = "N", value_parser = whole(1, u64::MAX, "revisions"))]
    pub(crate) count: Option<u64>,
    /// End after so long: 10, 2s, 500ms, 1m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) lasts: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    duration_within(text, MOMENT, YEAR)
}
