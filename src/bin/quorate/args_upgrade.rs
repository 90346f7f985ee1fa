//! What can be typed about a rolling upgrade.
//!
//! Owns the shape of these verbs, with their help and examples. Never talks to a cluster. Called by `args`.

use clap::Subcommand;

/// `upgrade`.
#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeVerb {
    /// Show the cluster's version, every manager's program, and what holds an upgrade back; needs no quorum
    #[command(after_help = "\
Goes by what every manager has last reported of its program; answers from the manager asked, also without a quorum.

Example:
  quorate upgrade status --data-dir /var/lib/quorate
  quorate upgrade status --json --connect 10.0.0.1:4701 --identity operator.id")]
    Status,
    /// Say that every manager has the newer program and keeps it: what it brings is enabled, and there is no way back
    #[command(after_help = "\
Refused (upgrade_held_back) while a manager, also an absent one, has not reported that it supports the newer version; the
answer names them. Until then every manager may go back to the older program; afterwards the older program is refused by the
other managers and by the directory, with nothing changed. Where there is nothing to finish, nothing happens.

Example:
  quorate upgrade finish --data-dir /var/lib/quorate")]
    Finish,
    /// Leave a note on the cluster: what version 2 brings; for tests of the upgrade
    #[cfg(feature = "next-version")]
    #[command(after_help = "\
Example:
  quorate upgrade note 'moved to the new rack' --data-dir /var/lib/quorate")]
    Note {
        /// The note
        text: String,
    },
}
