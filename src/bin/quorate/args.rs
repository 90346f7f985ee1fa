//! What can be typed: verbs, options, their help and their examples.
//!
//! Owns the shape of the command line. Never talks to a cluster. Called by `main`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::args_backup::{Backup, Restore};
use crate::args_bench::Bench;
use crate::args_ca::CaVerb;
pub(crate) use crate::args_global::{Global, MOMENT, SECOND, When, YEAR, duration, duration_within, given, whole};
use crate::args_keys::{AutolockVerb, KeyVerb, UnlockKeyVerb};
use crate::args_kv::Kv;
use crate::args_lease::{LeaseVerb, Lock, UnderLock};
use crate::args_membership::{Leave, NodeVerb, PolicyVerb, Token};
use crate::args_node::{Init, Inspect, Join, Recover, Run};
use crate::args_objects::{ConfigVerb, KeyringVerb, SecretVerb};
use crate::args_operator::OperatorVerb;
use crate::args_upgrade::UpgradeVerb;

const ABOUT: &str = "\
quorate: a manager quorum with a replicated key-value store, over QUIC.

A node's directory is prepared once with `init` (the first manager) or `join` (every further node, manager or worker by \
its token) and then started with `run`. Everything else talks to a running cluster: with --data-dir on the machine of a node, with --connect and \
--identity from anywhere.";

/// As in hellos and in `status`.
const VERSION: &str = if cfg!(feature = "next-version") {
    concat!(env!("CARGO_PKG_VERSION"), "-next")
} else {
    env!("CARGO_PKG_VERSION")
};

pub(crate) const EXIT: &str = "\
Exit codes: 0 done; 1 refused; 2 usage; 3 unavailable, nothing was done, try again; 4 unknown outcome, or done and the answer is lost: \
look before you ask again; 101 a defect; 128 + N ended by signal N (130 Ctrl-C, 143 TERM): as 4.
`run` exits 0 stopped as asked, 10 removed, 11 fenced, 12 store damaged, rolled back or of a newer version, 13 disk failed, 14 identity refused; \
`lock` as its command does.
With --json, stdout is JSON lines, one document a line, an error the last of them: \
{\"error\":{\"kind\",\"message\",\"retryable\",\"outcome\"}}. Most commands write one; `kv watch`, `kv export`, `lease keep-alive`, \
`inspect --dump` and `run` write as many as there are.

Example:
  quorate init --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1
  quorate run --data-dir /var/lib/quorate &
  quorate kv put greeting hello --data-dir /var/lib/quorate";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "quorate", version = VERSION, long_about = ABOUT, about = "A manager quorum with a replicated key-value store, over QUIC", after_help = EXIT, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Prepare the directory of the first manager: makes the cluster and its CA
    #[command(after_help = "\
Writes DIR/operator.id, the operator's identity for --identity. Keep it as you keep a root password. Refused where another process
listens at that address already: nothing is written then.

Example:
  quorate init --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1
  quorate run --data-dir /var/lib/quorate")]
    Init(Init),
    /// Prepare the directory of a further node with a token of the cluster: manager or worker, as the token says
    #[command(after_help = "\
The token pins the cluster's CA: a manager of another cluster is not trusted. It is visible to other users of this \
machine while the command runs; give it as `@FILE` or `-` (stdin) to avoid that.
A join that was refused leaves nothing behind; one that was cut off is finished by the same command.

Example:
  quorate token show manager --data-dir /var/lib/quorate | tail -1 > token   # on n1
  quorate join --data-dir /var/lib/quorate --listen 10.0.0.2:4701 --name n2 \\
    --token @token --manager 10.0.0.1:4701
  quorate run --data-dir /var/lib/quorate
  quorate join --data-dir /var/lib/quorate --name w1 --token @worker-token --manager 10.0.0.1:4701   # a worker
  quorate join --replace --data-dir /var/lib/quorate --manager 10.0.0.1:4701   # store damaged or rolled back
  quorate join --replace --key-lost --token @token --data-dir /var/lib/quorate --manager 10.0.0.1:4701   # key lost
  quorate join --replace --token @token --data-dir /var/lib/quorate --manager 10.0.0.1:4701   # fenced, removed, or
                                            # away while the CA was replaced
  quorate join --replace --name w1 --token @worker-token --data-dir /var/lib/quorate \\
    --manager 10.0.0.1:4701                                         # a worker whose disk is gone")]
    Join(Join),
    /// Run a prepared node in the foreground
    #[command(after_help = "\
Prints one line on stdout when ready: `ready: NAME ADDRESS raft id N voter|standby, leader X` on a manager,
`ready: NAME worker, session with M, assignments at revision R` on a worker. Logs go to stderr.
With --http ADDR it serves /metrics for Prometheus, /livez (it is at work; needs no quorum) and /readyz (it can serve; with
?verbose why not). A node keeps running when it is promoted or demoted. With --listen or --advertise it has moved, and tells the others.
SIGTERM and SIGINT hand leadership over and stop cleanly. A second one stops at once, as safe as a kill: nothing acknowledged is
lost, and the others have to elect. Both exit 0.
Exits 0 stopped as asked, 10 removed, 11 fenced, 12 store damaged, rolled back or of a newer version, 13 disk failed, 14 identity refused.
--force-new-cluster=G ends generation G (`status` and `inspect` say it) and goes on from this directory alone; left behind
in a unit file it does no harm: a directory beyond G just starts.

Example:
  quorate run --data-dir /var/lib/quorate --log quorate=debug
  quorate run --data-dir /var/lib/quorate --http 127.0.0.1:4702
  quorate run --data-dir /var/lib/quorate --force-new-cluster=1")]
    Run(Run),
    /// Show health, what to do, and every manager; needs no quorum
    #[command(after_help = "\
Answers from the manager asked, also without a quorum. Exits 0 whenever a manager answered; scripts read `health`.
With --data-dir of a worker, the worker answers for itself: its session, its items. A stopped directory that was fenced or
rolled back, that a manager found damaged, or whose node was removed, says so.

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
    /// Grant leases, keep them alive, end them: what keys live by
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate lease grant --ttl 30s --data-dir /var/lib/quorate
  quorate lease list --data-dir /var/lib/quorate"
    )]
    Lease(LeaseVerb),
    /// Run a command while holding a lock
    #[command(after_help = "\
Waits for the lock, runs COMMAND, lets the lock go. COMMAND finds the fencing token in QUORATE_FENCING_TOKEN and its key in \
QUORATE_LOCK_KEY; whatever it changes elsewhere should carry the token, because a lock is advisory: a machine that sleeps loses \
it without noticing.

COMMAND and what it starts are a process group of their own. The whole group is ended before somebody else can have the lock: \
by TERM when its lease could not be renewed for two thirds of --ttl (or is 10 s from its end, whichever is later), also when \
this program is stopped (SIGSTOP) meanwhile, and when it is killed; and by KILL a sixth of --ttl later, at most 5 s: with the \
default, COMMAND has 2.5 s to end by itself. A second process of this program, the first of the group, sees to that: who stops \
both, as a machine that sleeps does, has only the fencing token. A lock that is lost at once, because its lease was revoked or its key deleted, leaves no time: KILL comes first. \
TERM, HUP and INT are passed on to it; after TERM and HUP it has 5 s. Interrupted while it waits, this program leaves the line \
first, for which it takes some seconds at most. A terminal cannot suspend COMMAND.

Exits as COMMAND does (128 + N when signal N ended it); else 1 when the lock was lost or not had within --wait, when interrupted \
while waiting, and when COMMAND does not start; 3 when no manager can be reached; 2 when the command line is wrong.

Example:
  quorate lock nightly-backup --data-dir /var/lib/quorate -- /usr/local/bin/backup --all")]
    Lock(Lock),
    /// What `lock` starts to run its command
    #[command(
        hide = true,
        after_help = "\
Example:
  quorate under-lock 4711 2500 /tmp/quorate-lock-1/held -- /usr/local/bin/backup --all"
    )]
    UnderLock(UnderLock),
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
last voter, and where it would end fault tolerance (--force lifts that). As long as it waits for something, `quorate node
promote NODE` takes it back. The directory stays; to come back, the node joins anew: from another directory, or from this one
with `join --replace --token`.

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
    /// Replace the CA that all certificates are signed by, and see how far that is
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate ca rotate --data-dir /var/lib/quorate
  quorate ca status --data-dir /var/lib/quorate"
    )]
    Ca(CaVerb),
    /// Make, list and take back identities for people and programs that administer the cluster, or only look
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate operator issue --name ann --out ann.id --data-dir /var/lib/quorate
  quorate operator issue --name grafana --read-only --out grafana.id --data-dir /var/lib/quorate
  quorate operator revoke ann --data-dir /var/lib/quorate"
    )]
    Operator(OperatorVerb),
    /// Show, make and take back what lets new nodes in
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate token show manager --data-dir /var/lib/quorate | tail -1
  quorate token create --role worker --ttl 1h --uses 20 --data-dir /var/lib/quorate"
    )]
    Token(Token),
    /// Make, list, look at, label and remove configs: data that nodes get with the items that refer to it
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate config create web.conf ./web.conf --label env=prod --data-dir /var/lib/quorate
  quorate config ls --label env=prod --data-dir /var/lib/quorate"
    )]
    Config(ConfigVerb),
    /// Make, list, look at, label, rotate and remove secrets: sealed everywhere but at the node that needs them
    #[command(
        subcommand,
        after_help = "\
The data of a secret is never an argument: other users of the machine see those. It is shown by `secret inspect --reveal` only.

Example:
  quorate secret create db-password ./password --data-dir /var/lib/quorate
  pass show db | quorate secret create db-password - --data-dir /var/lib/quorate"
    )]
    Secret(SecretVerb),
    /// Show and replace the key that secrets, the CA and join tokens are sealed with in the log
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate keyring show --data-dir /var/lib/quorate
  quorate keyring rotate --data-dir /var/lib/quorate"
    )]
    Keyring(KeyringVerb),
    /// Show and change the settings of the whole cluster
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate policy show --data-dir /var/lib/quorate
  quorate policy set --lost-after 10s --data-dir /var/lib/quorate"
    )]
    Policy(PolicyVerb),
    /// See how far a rolling upgrade is, and finish it
    #[command(
        subcommand,
        after_help = "\
A newer quorate is installed on one manager after the other, while the cluster works; what the newer version brings is enabled
only by `upgrade finish`, and until then every manager can go back.

Example:
  quorate upgrade status --data-dir /var/lib/quorate
  quorate upgrade finish --data-dir /var/lib/quorate"
    )]
    Upgrade(UpgradeVerb),
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
Opens the store read only and refuses while the node runs (then ask it with `status`). A store that was moved aside is read by its
own path, DIR/store.old-1, with the key of DIR.
--configurations prints every Raft configuration in the log and the one in force, both halves of joint ones.
--dump prints every live record, one a line (with --json as JSON lines, values in base64): what the disk holds for who has its key.

Example:
  quorate inspect --data-dir /var/lib/quorate --json
  quorate inspect --data-dir /var/lib/quorate/store.old-1
  quorate inspect --configurations --data-dir /var/lib/quorate")]
    Inspect(Inspect),
    /// Put a load on a cluster and measure how it answers
    #[command(
        subcommand,
        after_help = "\
Every client sends its next request when its last one has been answered; one request is one put, get or transaction. Goes over
QUIC with an operator's identity, as programs elsewhere do: --connect and --identity, never --data-dir. Connections go to the
managers of --connect in turn, the first of them to the first.
Writes below `bench/` (--prefix) and leaves the keys there. Not on a cluster that others need: it takes what it can get.
Exits 1 when requests failed, 4 when some of them may have been done; the figures are those of the answered ones.

Example:
  quorate bench put --clients 100 --connect 10.0.0.1:4701,10.0.0.2:4701,10.0.0.3:4701 --identity operator.id
  quorate bench get --consistency s --clients 100 --connect 10.0.0.1:4701 --identity operator.id --json"
    )]
    Bench(Bench),
    /// Take a backup of the whole cluster into one sealed file, or look at one
    #[command(after_help = "\
Online, from any manager, also a follower: everything at one revision, with all that was acknowledged before. Sealed for a
recipient (a key of `quorate backup new-key` or age-keygen) or with a passphrase; without that nobody opens it, so keep the key apart, and
prove that it opens with `backup verify`. FILE is for its owner only, has its name once it is whole and on disk, and replaces
nothing without --force. A backup that is interrupted leaves nothing.

Example:
  (umask 077; quorate backup new-key > backup.key)     # once; keep it away from the cluster
  quorate backup monday.quorate --recipient age1... --data-dir /var/lib/quorate
  quorate backup verify monday.quorate --backup-key backup.key
  quorate restore monday.quorate --backup-key backup.key --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1")]
    Backup(Backup),
    /// Make a cluster again of a backup, in an empty directory, when all managers are gone
    #[command(after_help = "\
The new manager is alone, in a new generation; the cluster keeps its id, CA, tokens, keys, workers and assignments, as of the
backup's revision. Managers of then are lost, and fenced where they meet the new one. Refused while one of them runs
(--despite-peers), and where DIR holds anything. The whole file is read and judged before anything is written. Killed at any
moment, DIR counts for nothing, and the same command begins anew. If one manager is left, `recover` on it keeps more.

Example:
  quorate restore monday.quorate --backup-key backup.key --data-dir /var/lib/quorate --listen 10.0.0.1:4701 --name n1
  quorate run --data-dir /var/lib/quorate")]
    Restore(Restore),
    /// When a majority of the managers is lost for good: go on from this stopped manager alone (force-new-cluster)
    #[command(after_help = "\
Run --dry-run on every manager that is left (exit code 1: recover would be refused): the best survivor has the newest generation, then the highest last term, then
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
    /// Show, change and move the keys that open the store of the manager on this machine
    #[command(
        subcommand,
        after_help = "\
Everything in a manager's store is sealed; SECURITY.md says with what, and what that protects. Works on a running manager
over its local socket, and on a stopped one with its key.

Example:
  quorate key show --data-dir /var/lib/quorate
  quorate key move /mnt/key/n1.key --data-dir /var/lib/quorate"
    )]
    Key(KeyVerb),
    /// Let the manager on this machine wait for its key after each start, or not
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate autolock on --data-dir /var/lib/quorate
  quorate autolock off --data-dir /var/lib/quorate"
    )]
    Autolock(AutolockVerb),
    /// Give a locked manager its unlock key or passphrase: from stdin, or asked for
    #[command(after_help = "\
The key is never an argument: other users of the machine see those. A wrong one changes nothing, and the answer says which one is
wanted.

Example:
  quorate unlock --data-dir /var/lib/quorate
  pass show quorate/n1 | quorate unlock --data-dir /var/lib/quorate")]
    Unlock,
    /// Show or change the unlock key of the manager on this machine
    #[command(
        subcommand,
        after_help = "\
Example:
  quorate unlock-key show --data-dir /var/lib/quorate"
    )]
    UnlockKey(UnlockKeyVerb),
    /// Look at what a manager needs of its machine and network: one line each, ok or what to do
    #[command(after_help = "\
With --data-dir: the disk (synced writes of a small file of its own, for at most two seconds), its space, and, of the running \
node, UDP buffers, certificate, and the ways to and from every other manager, with their clocks and versions. With --connect the \
same of each manager named, and the way from here. Exits 0 when all is well, 1 when something needs attention.

Example:
  quorate check --data-dir /var/lib/quorate
  quorate check --connect 10.0.0.1:4701,10.0.0.2:4701 --identity operator.id")]
    Check,
    /// Print the completions of a shell: bash, elvish, fish, powershell or zsh
    #[command(after_help = "\
`make install` puts those of bash, fish and zsh where the shells look for them.

Example:
  quorate completions bash > /etc/bash_completion.d/quorate")]
    Completions {
        /// Of which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the man pages, one for each verb, into a directory
    #[command(after_help = "\
`make install` does it.

Example:
  quorate man /usr/local/share/man/man1")]
    Man {
        /// The directory; it is made where it is missing
        directory: PathBuf,
    },
}

/// `assign`.
#[derive(Debug, Subcommand)]
pub(crate) enum Assign {
    /// Give a node an item, or write the one it has anew
    #[command(after_help = "\
VALUE is text, `-` for stdin, or `@FILE`; it is opaque to quorate.

Example:
  quorate assign set w1 web.1 @web.json --data-dir /var/lib/quorate
  quorate assign set w1 web.1 @web.json --secret db-password --config web.conf --data-dir /var/lib/quorate")]
    Set {
        /// The node: its name or its id
        node: String,
        /// What names the item within its node
        item: String,
        /// What the node gets: text, - for stdin, or @FILE
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// A secret that the item refers to: the node gets its data with it; may be given several times
        #[arg(long, value_name = "NAME")]
        secret: Vec<String>,
        /// A config that the item refers to, likewise
        #[arg(long, value_name = "NAME")]
        config: Vec<String>,
    },
    /// Take an item from a node
    #[command(after_help = "\
An item that the node does not have is said so, and is no error.

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
        #[arg(long, value_name = "MANAGER", value_parser = given("the name of a manager"))]
        to: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

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
