//! What can be typed about the keys of a manager's store.
//!
//! Owns the shape of these verbs and options, with their help and examples. Never talks to a node. Called by `args`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where the key that opens a store comes from. A key itself is never an argument: other users of the machine see those.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Key options")]
pub(crate) struct KeyOptions {
    /// The key file; default: quorate.key in $CREDENTIALS_DIRECTORY, else where the store says, else `key` in the data directory
    #[arg(long, value_name = "FILE", env = "QUORATE_KEY_FILE", group = "key_source")]
    pub(crate) key_file: Option<PathBuf>,
    /// A command that prints the key, given to `sh -c`: for a key service or a TPM
    #[arg(long, value_name = "COMMAND", env = "QUORATE_KEY_COMMAND", group = "key_source")]
    pub(crate) key_command: Option<String>,
    /// A file with the passphrase in its first line
    #[arg(long, value_name = "FILE", env = "QUORATE_PASSPHRASE_FILE", group = "key_source")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// A file with the unlock key (autolock)
    #[arg(long, value_name = "FILE", group = "key_source")]
    pub(crate) unlock_key_file: Option<PathBuf>,
}

/// `key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Show what opens the store, and which data key seals; no secret
    #[command(after_help = "\
Needs no key, also of a locked or a stopped manager (then without the data key).

Example:
  quorate key show --data-dir /var/lib/quorate")]
    Show,
    /// Print a fresh key, for a key file of your own
    #[command(after_help = "\
Example:
  quorate key new > /mnt/key/quorate.key && chmod 600 /mnt/key/quorate.key
  quorate key new | systemd-creds encrypt --name=quorate.key - /etc/credstore.encrypted/quorate.key")]
    New,
    /// Put another key into the key file, and seal everything anew with another data key
    #[command(after_help = "\
Of a running manager the sealing goes on in the background (`key show` says when it is over); of a stopped one the command does
it. The old data key stays, wrapped, until no record names it. Killed at any moment, the store opens, and the command can
be given again. An unlock key or passphrase stays: `unlock-key rotate`, `key passphrase`.

Refused where the disk has less free than the store takes, and 256 MiB; should it become low on space meanwhile, the
sealing waits.

The old key goes out of the key file beside the data, unless a store moved aside (`store.old-N`) is sealed with it. In a key
file elsewhere it stays, below the new one, since other stores may use that file: remove its line by hand when none does. If
another key than the one in force is the first in the file, that one is taken.

Example:
  quorate key rotate --data-dir /var/lib/quorate")]
    Rotate(KeyOptions),
    /// Let the key file lie somewhere else from now on, with another key in it
    #[command(after_help = "\
Its directory must be there. A key file that is there already is used as it is. The key beside the data is removed (unless a store moved aside needs it; a
key file elsewhere stays, for you to remove); what a disk still holds of it opens
nothing but older copies of the store: `key rotate` afterwards makes also those worthless.
Refused where the manager waits for an unlock key or a passphrase after each start, since that would end it: `autolock off --to PATH`.

Example:
  quorate key move /mnt/key/n1.key --data-dir /var/lib/quorate")]
    Move {
        /// Where to, on the manager's machine
        path: PathBuf,
        #[command(flatten)]
        keys: KeyOptions,
    },
    /// Let a passphrase open the store from now on: read from stdin, or asked for
    #[command(after_help = "\
At least 12 characters, stretched by Argon2id. It takes the place of an unlock key, which opens the store no more. The manager starts locked and waits for `quorate unlock`, unless it is run with --passphrase-file.

Example:
  quorate key passphrase --data-dir /var/lib/quorate < phrase")]
    Passphrase(KeyOptions),
}

/// `autolock`.
#[derive(Debug, Subcommand)]
pub(crate) enum AutolockVerb {
    /// Make an unlock key that nothing on this machine holds: after each start the manager waits for it
    #[command(after_help = "\
The key alone goes to stdout, all else to stderr. Keep it: without it nothing in the store can be read again, by anybody. Where
it cannot be written (a full disk, a closed pipe, /dev/null) it does not count, and the old key still opens the store. The key
file beside the data is removed.

Example:
  quorate autolock on --data-dir /var/lib/quorate")]
    On(KeyOptions),
    /// Back to a key file
    #[command(after_help = "\
From an unlock key, or from a passphrase: whoever has the file can open the store from then on.

Example:
  quorate autolock off --to /mnt/key/n1.key --data-dir /var/lib/quorate")]
    Off {
        /// Where the key file is to lie; default: $CREDENTIALS_DIRECTORY, else beside the data
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        #[command(flatten)]
        keys: KeyOptions,
    },
}

/// `unlock-key`.
#[derive(Debug, Subcommand)]
pub(crate) enum UnlockKeyVerb {
    /// Show the unlock key of a manager that runs unlocked
    #[command(after_help = "\
Example:
  quorate unlock-key show --data-dir /var/lib/quorate")]
    Show(KeyOptions),
    /// Make another unlock key
    #[command(after_help = "\
The key alone goes to stdout; where it cannot be written it does not count, and the old one still opens the store.

Example:
  quorate unlock-key rotate --data-dir /var/lib/quorate")]
    Rotate(KeyOptions),
}
