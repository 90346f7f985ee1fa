//! What can be typed about backups: take one, look at one, make a cluster of one.
//!
//! Owns the shape of these verbs and options, with their help and examples. Never talks to a cluster. Called by `args`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args_keys::KeyOptions;

/// `backup`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    pub(crate) verb: Option<BackupVerb>,
    #[command(flatten)]
    pub(crate) take: Take,
}

/// `backup FILE`.
#[derive(Debug, Args)]
pub(crate) struct Take {
    /// The file to write; it has this name once it is whole
    #[arg(value_name = "FILE", required = true)]
    pub(crate) file: Option<PathBuf>,
    /// For whom it is sealed: the public half of a key, age1...; several may be given
    #[arg(
        long = "recipient",
        value_name = "KEY",
        required_unless_present = "backup_passphrase_file",
        conflicts_with = "backup_passphrase_file"
    )]
    pub(crate) recipients: Vec<String>,
    /// A file with a passphrase in its first line, instead of a recipient
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_passphrase_file: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) force: bool,
    /// What the manager asked has, also without a quorum; the answer says how old that may be
    #[arg(long)]
    pub(crate) serializable: bool,
}

/// What opens a backup.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Opens {
    /// The key file of a recipient of the backup, AGE-SECRET-KEY-1... in it
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_key: Option<PathBuf>,
    /// A file with the passphrase of the backup in its first line
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_passphrase_file: Option<PathBuf>,
}

/// `backup VERB`.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupVerb {
    /// Read a backup from its first byte to its last, and say what is in it; writes nothing
    #[command(after_help = "\
Needs no cluster. Exits 0 when the key opens it, nothing was altered or cut off, and the state in it is sound; else 1, and says
what is wrong.

Example:
  quorate backup verify monday.quorate --backup-key backup.key
  quorate backup verify monday.quorate --backup-passphrase-file phrase --json
  quorate backup verify monday.quorate --backup-key backup.key --ca HASH     # as `quorate backup` printed it")]
    Verify {
        /// The backup
        file: PathBuf,
        #[command(flatten)]
        opens: Opens,
        /// Only good if it is of the cluster whose CA has this hash, as `quorate backup` printed it
        #[arg(long, value_name = "HASH")]
        ca: Option<String>,
    },
    /// Print a fresh key for backups: keep it away from them and from the cluster
    #[command(after_help = "\
The whole key file goes to stdout; the recipient, its public half, to stderr as well. Keys of `age-keygen` serve, too.

Example:
  (umask 077; quorate backup new-key > backup.key)
  quorate backup monday.quorate --recipient age1... --data-dir /var/lib/quorate")]
    NewKey,
}

/// `restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) opens: Opens,
    /// Only a backup of the cluster whose CA has this hash, as `quorate backup` printed it
    #[arg(long, value_name = "HASH")]
    pub(crate) ca: Option<String>,
    /// Where the new manager listens (UDP), for example 10.0.0.1:4701 or [::]:4701
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where the others reach it, if that is not the address it listens on
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// A name for people; that of a manager in the backup takes over its record, with its labels
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Also when managers of the cluster are alive: they are fenced when they meet the new one
    #[arg(long)]
    pub(crate) despite_peers: bool,
    #[command(flatten)]
    pub(crate) keys: KeyOptions,
}
