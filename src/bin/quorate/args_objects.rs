//! What can be typed about configs, secrets and the keyring.
//!
//! Owns the shape of these verbs and options, with their help and examples. Never talks to a node. Called by `args`.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::duration;

/// A new config or secret.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name: letters, digits, `.`, `_` and `-`
    pub(crate) name: String,
    /// The file with the data, or - for stdin
    pub(crate) file: String,
    /// A label, may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
}

/// Which are listed.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only those with this label; given several times, all must hold
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
}

/// Other labels.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Its name
    pub(crate) name: String,
    /// Add a label, or give it another value
    #[arg(long, value_name = "KEY=VALUE", value_parser = label, required_unless_present = "label_rm")]
    pub(crate) label_add: Vec<(String, String)>,
    /// Take a label off
    #[arg(long, value_name = "KEY")]
    pub(crate) label_rm: Vec<String>,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Make a config out of a file; it holds this data for ever
    #[command(after_help = "\
Example:
  quorate config create web.conf ./web.conf --label env=prod --data-dir /var/lib/quorate")]
    Create(Create),
    /// List configs
    #[command(after_help = "\
Example:
  quorate config ls --label env=prod --data-dir /var/lib/quorate")]
    Ls(List),
    /// Show a config with its data, and which items refer to it
    #[command(after_help = "\
Example:
  quorate config inspect web.conf --data-dir /var/lib/quorate")]
    Inspect {
        /// Its name
        name: String,
    },
    /// Change the labels of a config: all that can change
    #[command(after_help = "\
Example:
  quorate config update web.conf --label-add env=test --label-rm owner --data-dir /var/lib/quorate")]
    Update(Update),
    /// Remove a config that no item refers to
    #[command(after_help = "\
Refused while items refer to it; the answer names them.

Example:
  quorate config rm web.conf --data-dir /var/lib/quorate")]
    Rm {
        /// Its name
        name: String,
    },
}

/// `secret`.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretVerb {
    /// Make a secret out of a file or stdin; it holds this data for ever
    #[command(after_help = "\
The data is taken as it is, a newline at its end included; that there is none is refused. It is sealed before it is written anywhere.

Example:
  quorate secret create db-password ./password --label env=prod --data-dir /var/lib/quorate
  pass show db | quorate secret create db-password - --data-dir /var/lib/quorate")]
    Create(Create),
    /// List secrets, without their data
    #[command(after_help = "\
Example:
  quorate secret ls --label env=prod --data-dir /var/lib/quorate")]
    Ls(List),
    /// Show a secret without its data, and which items refer to it; with --reveal the data
    #[command(after_help = "\
With --reveal the data alone goes to stdout, as it is; with --json it is in the document (`data_base64`).

Example:
  quorate secret inspect db-password --data-dir /var/lib/quorate
  quorate secret inspect db-password --reveal --data-dir /var/lib/quorate > password")]
    Inspect {
        /// Its name
        name: String,
        /// Show the data
        #[arg(long)]
        reveal: bool,
    },
    /// Change the labels of a secret: all that can change
    #[command(after_help = "\
Example:
  quorate secret update db-password --label-add env=test --data-dir /var/lib/quorate")]
    Update(Update),
    /// Make a successor with other data beside a secret, and say which items still refer to the old one
    #[command(after_help = "\
The successor has the labels of the old one, and its name with the next number behind it (db-password.2), or --as NAME. Items
are not touched: write them anew with the new name, then remove the old secret.

Example:
  quorate secret rotate db-password ./new-password --data-dir /var/lib/quorate
  quorate secret rm db-password --data-dir /var/lib/quorate   # once nothing refers to it")]
    Rotate {
        /// The name of the old one
        name: String,
        /// The file with the new data, or - for stdin
        file: String,
        /// The name of the new one
        #[arg(long = "as", value_name = "NAME")]
        successor: Option<String>,
    },
    /// Remove a secret that no item refers to
    #[command(after_help = "\
Refused while items refer to it; the answer names them.

Example:
  quorate secret rm db-password --data-dir /var/lib/quorate")]
    Rm {
        /// Its name
        name: String,
    },
}

/// `keyring`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyringVerb {
    /// Show the keys by their numbers, how often each was used, and who can open them; no secret
    #[command(after_help = "\
Example:
  quorate keyring show --data-dir /var/lib/quorate")]
    Show,
    /// Replace the key, and seal everything anew with another one
    #[command(after_help = "\
The leader makes the key, gives it to every manager, and seals secrets, the CA's key and tokens anew; the old key goes when no record
names it. Waits for that; cut off or out of time it goes on by itself, and `keyring show` says how far it is. Happens by itself
when a manager goes, and after a recovery.

Example:
  quorate keyring rotate --data-dir /var/lib/quorate")]
    Rotate {
        /// How long to wait until everything is sealed anew; 0: do not wait [default: 2m]
        #[arg(long, value_name = "TIME", value_parser = wait)]
        wait: Option<Duration>,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("`{text}` is no label; write KEY=VALUE")),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    duration(text)
}
