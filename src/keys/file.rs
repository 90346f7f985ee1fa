//! Key files: a few lines of text, for their owner alone.
//!
//! Owns their form: lines that begin with `#` are for people, every other line is a key. The first is the one to use from now
//! on; those below it are older ones that some store may still be opened by. Several stores may share a file: it is read and
//! replaced by one of them at a time, as a whole, synced. Called by the provider, and where a key is changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use quorate_storage::{Key, KeyError, KeyId};
use zeroize::Zeroizing;

use crate::node::files;

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

/// Whether that key lies there.
pub(crate) fn holds(path: &Path, id: KeyId) -> bool {
    read(path).is_ok_and(|keys| keys.iter().any(|key| key.id() == id))
}

/// Changes what is in a file, which need not be there before, nor after: without a key there is no file. After a crash there is
/// the old one or the new one, whole. Its directory is made, if need be. Nobody else changes it meanwhile.
pub(crate) fn change<T>(path: &Path, how: impl FnOnce(&mut Vec<Key>) -> Result<T, KeyError>) -> Result<T, KeyError> {
    let failed =
        |error: io::Error| KeyError::Failed(format!("the key file {} cannot be written: {error}", path.display()));
    let directory = directory_of(path).map_err(failed)?;
    let held = File::open(directory).map_err(failed)?;
    if let Err(error) = held.lock() {
        // Some network file systems have no locks: there people have to do one thing at a time.
        tracing::debug!(%error, file = %path.display(), "the directory of the key file cannot be locked");
    }
    let mut keys = match read(path) {
        Err(KeyError::Missing(_)) => Vec::new(),
        found => found?,
    };
    let ids = |keys: &[Key]| keys.iter().map(Key::id).collect::<Vec<_>>();
    let before = ids(&keys);
    let done = how(&mut keys)?;
    if ids(&keys) != before {
        let changed = if keys.is_empty() { std::fs::remove_file(path) } else { replace(path, directory, &keys) };
        changed.and_then(|()| held.sync_all()).map_err(failed)?;
    }
    Ok(done)
}

/// The directory of a file, which is there then.
fn directory_of(path: &Path) -> io::Result<&Path> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    files::make_directory(directory)?;
    Ok(directory)
}

/// The text of a file with these keys instead of those that were in it: what people wrote into it stays where it is, new keys
/// come before the first one.
fn text_of(before: &str, keys: &[Key]) -> Zeroizing<String> {
    let is_key = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let id_of = |line: &str| Key::from_text(line.trim()).ok().map(|key| key.id());
    let were: Vec<KeyId> = before.lines().filter(|line| is_key(line)).filter_map(id_of).collect();
    // Room for all of it from the beginning: what is left behind by growing is not wiped.
    let mut text = Zeroizing::new(String::with_capacity(before.len() + keys.len() * 80 + 2));
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let mut fresh = keys.iter().filter(|key| !were.contains(&key.id()));
    for line in before.lines() {
        if !is_key(line) {
            add(line);
            continue;
        }
        fresh.by_ref().for_each(|key| add(&key.to_text()));
        if id_of(line).is_some_and(|id| keys.iter().any(|key| key.id() == id)) {
            add(line);
        }
    }
    fresh.for_each(|key| add(&key.to_text()));
    text
}

/// Its directory is to be synced afterwards.
fn replace(path: &Path, directory: &Path, keys: &[Key]) -> io::Result<()> {
    let mut name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?.to_owned();
    name.push(".new");
    let draft = directory.join(name);
    let before = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Zeroizing::new(HEAD.to_owned()),
        Err(error) => return Err(error),
    };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text_of(&before, keys).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_into_a_key_file_stays_when_its_keys_change() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("k");
        let [old, other, new] = [(); 3].map(|()| Key::generate().unwrap());
        let line = |key: &Key| key.to_text().to_string();
        let written = format!("# of n1 and n2\n\n{}\n# of the old cluster\n{}\n", line(&old), line(&other));
        std::fs::write(&path, &written).unwrap();
        // Given another key, the first one from now on
        change(&path, |keys| {
            keys.insert(0, new.clone());
            Ok(())
        })
        .unwrap();
        let both =
            format!("# of n1 and n2\n\n{}\n{}\n# of the old cluster\n{}\n", line(&new), line(&old), line(&other));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), both);
        // and the old one dropped
        change(&path, |keys| {
            keys.retain(|key| key.id() != old.id());
            Ok(())
        })
        .unwrap();
        let left = format!("# of n1 and n2\n\n{}\n# of the old cluster\n{}\n", line(&new), line(&other));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), left);
        assert_eq!(read(&path).unwrap().iter().map(Key::id).collect::<Vec<_>>(), [new.id(), other.id()]);
        // A file of ours begins with what it is
        let fresh = place.path().join("fresh");
        change(&fresh, |keys| {
            keys.push(new.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(std::fs::read_to_string(&fresh).unwrap(), format!("{HEAD}{}\n", line(&new)));
    }
}
