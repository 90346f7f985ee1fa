//! Key files: a few lines of text, for their owner alone.
//!
//! Owns their form: lines that begin with `#` are for people, every other line is a key. The first is in force; a second one is
//! there only while it is being changed. Replaced as a whole, synced. Called by the provider, and where a key is changed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use quorate_storage::{Key, KeyError};
use zeroize::Zeroizing;

const HEAD: &str = "# The key of a quorate node: it opens the store of that node. Keep it away from the node's data.\n";

/// The keys in a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Key>, KeyError> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::Missing(format!("there is no key file {shown}")));
        }
        Err(error) => return Err(KeyError::Failed(format!("the key file {shown} cannot be read: {error}"))),
    };
    if std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0) {
        tracing::warn!(file = %shown, "everybody on this machine can read the key file: chmod 600 it");
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Result<Vec<Key>, KeyError> = lines.map(Key::from_text).collect();
    match keys {
        Ok(keys) if keys.is_empty() => Err(KeyError::Failed(format!("the key file {shown} holds no key"))),
        Ok(keys) => Ok(keys),
        Err(error) => Err(KeyError::Failed(format!("the key file {shown} cannot be used: {error}"))),
    }
}

/// Removes the file for good. Whether there was one.
pub(crate) fn remove(path: &Path) -> Result<bool, KeyError> {
    let failed = |error: io::Error| {
        KeyError::Failed(format!("the old key file {} cannot be removed: {error}; remove it yourself", path.display()))
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
        Ok(()) => {
            let directory = path.parent().unwrap_or_else(|| Path::new("."));
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
            Ok(true)
        }
    }
}

/// Replaces the file: after a crash there is the old one or the new one, whole. Its directory is made, if need be.
pub(crate) fn write(path: &Path, keys: &[Key]) -> Result<(), KeyError> {
    let failed =
        |error: io::Error| KeyError::Failed(format!("the key file {} cannot be written: {error}", path.display()));
    replace(path, keys).map_err(failed)
}

fn replace(path: &Path, keys: &[Key]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
    }
    let mut name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?.to_owned();
    name.push(".new");
    let draft = directory.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut text = Zeroizing::new(String::with_capacity(HEAD.len() + keys.len() * 80));
    text.push_str(HEAD);
    for key in keys {
        text.push_str(&key.to_text());
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}
