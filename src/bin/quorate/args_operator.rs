//! What can be typed about operators' identities.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{SECOND, YEAR, duration_within};

/// `operator`.
#[derive(Debug, Subcommand)]
pub(crate) enum OperatorVerb {
    /// Make an identity for --identity: an operator's, or one that may only look
    #[command(after_help = "\
The key is made here and goes nowhere but into FILE (mode 0600); the managers sign it and keep a record. Its certificate is renewed
by the commands that use it, in the file, for as long as the record stands; also once it has ended. What is not renewed: a file that
was not used while the CA was replaced (`ca rotate`), and copies of it.

Example:
  quorate operator issue --name ann --out ann.id --data-dir /var/lib/quorate
  quorate operator issue --name grafana --read-only --out grafana.id --data-dir /var/lib/quorate
  quorate operator issue --name visitor --ttl 8h --out visitor.id --connect 10.0.0.1:4701 --identity operator.id")]
    Issue(Issue),
    /// Take an identity back: it counts nowhere any more, and its connections are closed
    #[command(after_help = "\
Counts at once on every manager that is in touch with the others. The operator that `init` made is called `operator`. On a manager's
own machine --data-dir works without any identity: also after the last one was taken back, or the one that this command shows (which is
said then).

Example:
  quorate operator revoke ann --data-dir /var/lib/quorate")]
    Revoke {
        /// Its name, or its id as `operator ls --json` shows it
        name: String,
    },
    /// List the identities, those that were taken back among them
    #[command(after_help = "\
Example:
  quorate operator ls --data-dir /var/lib/quorate")]
    Ls,
}

/// `operator issue`.
#[derive(Debug, Args)]
pub(crate) struct Issue {
    /// What people call it; unique among those that stand
    #[arg(long)]
    pub(crate) name: String,
    /// It may look at everything but tokens and secrets, and change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// When it ends: 30m, 12h, 7d; without it, it stands until it is revoked
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) ttl: Option<Duration>,
    /// Where the identity is written; there must be no such file yet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

fn ttl(text: &str) -> Result<Duration, String> {
    duration_within(text, SECOND, 10 * YEAR)
}
