//! Keys that open a manager's store: where they come from, and the trait for your own.
//!
//! Owns the built-in providers. A store is sealed with a data key of its own; that key lies in the store, wrapped by a
//! key-encryption key, and [`Keys`] says where that one comes from. Keeps no key longer than it is needed. Called when a store
//! is opened or made.

mod desk;
mod file;
mod outlook;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

pub use desk::{KeyAnswer, KeyOrder, change};
use quorate_core::limits::{Met, PASSPHRASE_CHARS_MIN};
pub use quorate_storage::{Key, KeyError, KeyId, KeyKind, KeyProvider, KeySlot};
use zeroize::Zeroizing;

use crate::node::{Layout, StartError, explained};
use crate::status::KeyReport;

pub(crate) use desk::{Desk, Refusal};
pub(crate) use outlook::lost;

/// The key file's name, in the service manager's credential directory.
pub const CREDENTIAL: &str = "quorate.key";
/// The key file's name, beside the data.
pub(crate) const BESIDE: &str = "key";

/// Where the key-encryption key of a node comes from. The default is the key file: `quorate.key` in the service manager's
/// credential directory (`$CREDENTIALS_DIRECTORY`) if there is one, else where the store says that it lies, else `key` beside
/// the data, where it protects nothing against who steals the disk.
#[derive(Clone, Default)]
#[must_use = "keys do nothing until a node is given them"]
pub struct Keys(Given);

#[derive(Clone, Default)]
enum Given {
    #[default]
    Places,
    File(PathBuf),
    Command(String),
    Passphrase(Zeroizing<String>),
    PassphraseFile(PathBuf),
    Key(Key),
    Custom(Arc<dyn KeyProvider>),
}

impl Keys {
    /// The key file at `path`; one is made there for a store that is made.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Given::File(path.into()))
    }

    /// What `command`, given to `sh -c`, prints: a key as `quorate key new` prints it. What it says on stderr is logged when it
    /// fails.
    pub fn command(command: impl Into<String>) -> Self {
        Self(Given::Command(command.into()))
    }

    /// A key stretched out of a passphrase (Argon2id, 64 MiB, three passes). A store is made with no shorter one than
    /// `PASSPHRASE_CHARS_MIN`.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        Self(Given::Passphrase(Zeroizing::new(passphrase.into())))
    }

    /// As [`passphrase`](Self::passphrase), from the first line of a file.
    pub fn passphrase_file(path: impl Into<PathBuf>) -> Self {
        Self(Given::PassphraseFile(path.into()))
    }

    /// The key itself, for example an unlock key.
    pub const fn key(key: Key) -> Self {
        Self(Given::Key(key))
    }

    /// Your own: a key service, a TPM.
    pub fn custom(provider: Arc<dyn KeyProvider>) -> Self {
        Self(Given::Custom(provider))
    }

    /// For the node in `directory`.
    pub(crate) fn provider(&self, directory: &Path) -> Provider {
        Provider { keys: self.clone(), directory: directory.to_owned() }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Given::Places => "Keys(default)",
            Given::File(_) => "Keys(file)",
            Given::Command(_) => "Keys(command)",
            Given::Passphrase(_) | Given::PassphraseFile(_) => "Keys(passphrase)",
            Given::Key(_) => "Keys(key)",
            Given::Custom(_) => "Keys(custom)",
        })
    }
}

/// The key file that the service manager brings, if there is one.
pub(crate) fn credential() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
    path.is_file().then_some(path)
}

/// Where a file lies whose place a slot names: a relative one is in the data directory, wherever that was moved to.
pub(crate) fn located(directory: &Path, place: &str) -> PathBuf {
    directory.join(place)
}

/// [`Keys`] for one directory.
#[derive(Clone)]
pub(crate) struct Provider {
    keys: Keys,
    directory: PathBuf,
}

impl Provider {
    /// The key files to look at, most particular first.
    fn files(&self, slots: &[KeySlot]) -> Vec<PathBuf> {
        let named = slots.iter().filter(|slot| slot.kind == KeyKind::File && !slot.place.is_empty());
        let named = named.map(|slot| located(&self.directory, &slot.place));
        let mut files: Vec<PathBuf> = credential().into_iter().chain(named).collect();
        files.push(self.directory.join(BESIDE));
        files.dedup();
        files
    }

    /// What lies at the usual places. Not being there is an error only where nothing else is.
    fn at_places(&self, slots: &[KeySlot]) -> Result<Vec<Key>, KeyError> {
        let mut found = Vec::new();
        let mut trouble = None;
        for path in self.files(slots) {
            match file::read(&path) {
                Ok(keys) => found.extend(keys),
                Err(error) => trouble = trouble.or(Some(error)),
            }
        }
        let wanted = |key: &Key| slots.iter().any(|slot| slot.id == key.id());
        if found.iter().any(wanted) || slots.iter().any(|slot| slot.kind == KeyKind::File) && !found.is_empty() {
            return Ok(found);
        }
        Err(missing(slots).or(trouble).unwrap_or_else(|| KeyError::Missing("no key was given".to_owned())))
    }

    /// The passphrase, stretched with each salt that a slot names.
    fn stretched(passphrase: &str, slots: &[KeySlot]) -> Result<Vec<Key>, KeyError> {
        let salted = slots.iter().filter(|slot| slot.kind == KeyKind::Passphrase);
        salted.map(|slot| stretch(passphrase, &slot.salt)).collect()
    }

    /// The key file that a store is made with, and what it says of it.
    fn make_file(path: &Path, place: String) -> Result<(Key, KeySlot), KeyError> {
        // One that is only read needs no right to be written.
        let found = match file::read(path) {
            Ok(keys) => keys.into_iter().next(),
            Err(KeyError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        let made = |keys: &mut Vec<Key>| match keys.first() {
            Some(key) => Ok(key.clone()),
            None => {
                let key = Key::generate()?;
                keys.push(key.clone());
                Ok(key)
            }
        };
        let key = found.map_or_else(|| file::change(path, made), Ok)?;
        let slot = KeySlot::new(&key, KeyKind::File, place);
        Ok((key, slot))
    }
}

/// Why a passphrase is not set, where it is too short to be one; nothing of that is asked of one that opens. Its words are for people.
pub(crate) fn too_short(passphrase: &str) -> Option<(Met, String)> {
    let (bound, actual) = (PASSPHRASE_CHARS_MIN as u64, passphrase.chars().count() as u64);
    (actual < bound).then(|| {
        let met = Met { name: "PASSPHRASE_CHARS_MIN", bound, actual };
        let why = format!("a passphrase has {bound} characters at least (`PASSPHRASE_CHARS_MIN`): whoever has what it seals finds a shorter one by trying");
        (met, why)
    })
}

/// A key out of a passphrase that is set, with fresh salt.
fn salted(passphrase: &str) -> Result<(Key, KeySlot), KeyError> {
    if let Some((_met, why)) = too_short(passphrase) {
        return Err(KeyError::Failed(why));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| KeyError::Failed(format!("the system gives no entropy: {error}")))?;
    let key = stretch(passphrase, &salt)?;
    let slot = KeySlot::new(&key, KeyKind::Passphrase, "").salted(salt);
    Ok((key, slot))
}

/// What there is to say of the keys that open a store, without opening it.
pub(crate) fn report(directory: &Path, slots: &[KeySlot]) -> KeyReport {
    // Two while a change goes on: the one that can still be found, first of all the old one.
    let there = |slot: &&KeySlot| slot.kind != KeyKind::File || file::holds(&located(directory, &slot.place), slot.id);
    let cut_off = || slots.iter().find(there).filter(|_| slots.len() > 1);
    let Some(slot) = cut_off().or(slots.first()) else { return KeyReport::default() };
    let begun = slots.get(1).filter(|next| next.kind == KeyKind::Unlock);
    let pending = begun.is_some_and(|next| next.id != slot.id);
    let path = located(directory, &slot.place);
    let beside_data = slot.kind == KeyKind::File && path.exists() && is_inside(&path, directory);
    let shown = directory.display();
    let advice = if pending {
        format!(
            "a new unlock key was shown and not confirmed: both open the store until the next start, then only the old one; next: quorate unlock-key rotate --data-dir {shown}, or quorate autolock on --data-dir {shown}"
        )
    } else if beside_data {
        format!(
            "key beside data: no protection against a stolen disk; next: quorate key move PATH --data-dir {shown}, to a path on another disk, or quorate autolock on --data-dir {shown}"
        )
    } else {
        String::new()
    };
    KeyReport {
        kind: slot.kind.word().to_owned(),
        id: slot.id.to_string(),
        place: if slot.kind == KeyKind::File { path.display().to_string() } else { slot.place.clone() },
        beside_data,
        pending,
        advice,
        ..KeyReport::default()
    }
}

/// Whether both paths lead to one file, however they are spelled.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    one == other || inode(one).is_some_and(|found| inode(other) == Some(found))
}

/// Whether a file is in a directory, also where one of them is named by a link.
fn is_inside(path: &Path, directory: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_error| path.to_owned());
    real(path).starts_with(real(directory))
}

/// What the directory of a manager, running or stopped, says of the keys that open its store; `None` of any other. Needs no
/// key.
///
/// # Errors
/// `Damaged` when its key record cannot be read.
pub fn status(directory: &Path) -> Result<Option<KeyReport>, StartError> {
    let layout = Layout::new(directory);
    if !quorate_storage::exists(&layout.store()) {
        return Ok(None);
    }
    let slots = quorate_storage::key_slots(&layout.store()).map_err(|error| explained(&layout, error))?;
    Ok(Some(layout.keys().outlook(&slots, false, report(directory, &slots))))
}

/// What people are to do where a key is theirs to give.
fn missing(slots: &[KeySlot]) -> Option<KeyError> {
    let why = match slots.first()?.kind {
        KeyKind::Unlock => {
            "give it with `quorate unlock`, or to a command on the stopped directory with --unlock-key-file"
        }
        KeyKind::Passphrase => "give it with `quorate unlock`, or with --passphrase-file",
        KeyKind::Command => "give the command with --key-command",
        KeyKind::Custom => "the program that embeds this node brings it",
        KeyKind::File => return None,
    };
    Some(KeyError::Missing(why.to_owned()))
}

/// 64 MiB, three passes, one lane: what Argon2's authors ask for where memory is short.
pub(crate) fn stretch(passphrase: &str, salt: &[u8]) -> Result<Key, KeyError> {
    let failed = |error: argon2::Error| KeyError::Failed(format!("the passphrase cannot be stretched: {error}"));
    let params = argon2::Params::new(64 * 1024, 3, 1, Some(32)).map_err(failed)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon.hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice()).map_err(failed)?;
    Ok(Key::from_bytes(&key))
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| KeyError::Failed(format!("the passphrase cannot be read from {}: {error}", path.display())))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(KeyError::Failed(format!("the passphrase file {} is empty", path.display())));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Runs it, and reads the key that it prints.
fn run(command: &str) -> Result<Key, KeyError> {
    let failed = |why: String| KeyError::Failed(format!("the key command {why}"));
    let done = Command::new("sh").arg("-c").arg(command).stdin(std::process::Stdio::null()).output();
    let done = done.map_err(|error| failed(format!("cannot be started: {error}")))?;
    let printed = Zeroizing::new(done.stdout);
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(failed(format!("ended with {}: {}", done.status, said.trim())));
    }
    let text = std::str::from_utf8(&printed).map_err(|_not_text| failed("printed no key".to_owned()))?;
    Key::from_text(text).map_err(|error| failed(format!("printed no key: {error}")))
}

impl KeyProvider for Provider {
    fn keys(&self, slots: &[KeySlot]) -> Result<Vec<Key>, KeyError> {
        match &self.keys.0 {
            Given::Places => self.at_places(slots),
            Given::File(path) => {
                // The file that was named goes first; where the store says that it was moved, that one counts as well, also
                // when the first is gone.
                let more = self.at_places(slots).unwrap_or_default();
                let wanted = |key: &Key| slots.iter().any(|slot| slot.id == key.id());
                match file::read(path) {
                    Ok(found) => Ok(found.into_iter().chain(more).collect()),
                    Err(KeyError::Missing(_)) if more.iter().any(wanted) => Ok(more),
                    Err(error) => Err(error),
                }
            }
            Given::Command(command) => run(command).map(|key| vec![key]),
            Given::Passphrase(passphrase) => Self::stretched(passphrase, slots),
            Given::PassphraseFile(path) => Self::stretched(&first_line(path)?, slots),
            Given::Key(key) => Ok(vec![key.clone()]),
            Given::Custom(provider) => provider.keys(slots),
        }
    }

    fn make(&self) -> Result<(Key, KeySlot), KeyError> {
        match &self.keys.0 {
            Given::Places => match credential() {
                Some(path) => Self::make_file(&path, path.display().to_string()),
                None => Self::make_file(&self.directory.join(BESIDE), BESIDE.to_owned()),
            },
            Given::File(path) => {
                let whole = std::path::absolute(path).unwrap_or_else(|_error| path.clone());
                Self::make_file(&whole, whole.display().to_string())
            }
            Given::Command(command) => {
                let key = run(command)?;
                let slot = KeySlot::new(&key, KeyKind::Command, "");
                Ok((key, slot))
            }
            Given::Passphrase(passphrase) => salted(passphrase),
            Given::PassphraseFile(path) => salted(&first_line(path)?),
            Given::Key(key) => Ok((key.clone(), KeySlot::new(key, KeyKind::Unlock, ""))),
            Given::Custom(provider) => provider.make(),
        }
    }
}

#[cfg(test)]
mod tests;
