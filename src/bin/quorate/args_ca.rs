//! What can be typed about the cluster's CA.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::{SECOND, YEAR, duration, duration_within};

/// `ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Replace the CA's root by another, while everything goes on
    #[command(after_help = "\
The new root signs from now on, and the old one signs it across, so that nodes find the way from one to the other. Nodes renew their
certificates by themselves, a few in a second; an operator's identity file when it is used (copies of it elsewhere are not: give
those out anew). Operators' connections are closed once, and come back; one that takes a backup, when that is done.
It ends when all have renewed, or at the deadline: a node that was away until then comes back with `join --replace --token TOKEN`
and keeps what it has, an operator gets a new file (`operator issue`). Of the deadline counts the time in which the cluster has a
leader; what the clocks of managers say does not matter. One that is too near for nodes to renew is refused. Join tokens shown from now on name the new root; the older
ones hold until the end.
While a rotation is under way no other one is begun: the command says how far it is (with --json `begun` is false), and --wait follows it.

Example:
  quorate ca rotate --data-dir /var/lib/quorate
  quorate ca rotate --deadline 2d --wait 5m --data-dir /var/lib/quorate")]
    Rotate(Rotate),
    /// Show which root signs, and who has not renewed yet
    #[command(after_help = "\
Example:
  quorate ca status --data-dir /var/lib/quorate")]
    Status,
}

/// `ca rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// When the old root ends also for those who have not renewed: 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = deadline)]
    pub(crate) deadline: Duration,
    /// Begin another one also while one is under way: the root that signs now may be in other hands already
    #[arg(long)]
    pub(crate) another: bool,
    /// Wait so long for the end, and show how far it is
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

fn deadline(text: &str) -> Result<Duration, String> {
    duration_within(text, SECOND, YEAR)
}
