//! A backup's file while it is written: under another name until it is whole.
//!
//! Owns the name that the file has meanwhile, that nothing is overwritten unasked, and the syncs. Blocks. Called by whoever
//! saves a backup.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::BackupError;

/// Dropped before its end, it is removed.
pub(crate) struct Draft {
    to: PathBuf,
    beside: PathBuf,
    file: File,
    replace: bool,
    done: bool,
}

fn failed(path: &Path, error: &io::Error) -> BackupError {
    BackupError::File(format!(
        "cannot write {}: {error}. There is no backup, and the cluster was only read",
        path.display()
    ))
}

impl Draft {
    /// Begins one, which is to be `to`; `replace` says whether there may be a file of that name.
    pub(crate) fn begin(to: &Path, replace: bool) -> Result<Self, BackupError> {
        let to = std::path::absolute(to).map_err(|error| failed(to, &error))?;
        let name = to.file_name().ok_or_else(|| BackupError::File(format!("{} names no file", to.display())))?;
        Self::free(&to, replace)?;
        let mut beside = name.to_owned();
        beside.push(".part");
        let beside = to.with_file_name(beside);
        let file = Self::held(&to, &beside)?;
        // What an earlier one that was killed has left.
        file.set_len(0)
            .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(0o600)))
            .map_err(|error| failed(&beside, &error))?;
        Ok(Self { to, beside, file, replace, done: false })
    }

    /// The file beside, held by nobody else.
    fn held(to: &Path, beside: &Path) -> Result<File, BackupError> {
        let io = |error: io::Error| failed(beside, &error);
        loop {
            let mut options = OpenOptions::new();
            // It is sealed, and yet nobody's business.
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(beside).map_err(io)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(BackupError::File(format!(
                        "another backup is being written to {}. Nothing was done; wait for it, or choose another file",
                        to.display()
                    )));
                }
                // Some network file systems have no locks: there people have to take one at a time.
                Err(TryLockError::Error(error)) => tracing::debug!(%error, "the file cannot be locked"),
            }
            let opened = file.metadata().map_err(io)?;
            let named = beside.symlink_metadata().ok();
            if named.is_some_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
                return Ok(file);
            }
            // Whoever held it has finished meanwhile: what was opened is a whole backup by now.
        }
    }

    fn free(to: &Path, replace: bool) -> Result<(), BackupError> {
        match to.symlink_metadata() {
            Ok(found) if replace && found.is_file() => Ok(()),
            Ok(found) if found.is_file() => Err(Self::taken(to)),
            Ok(_) => Err(BackupError::File(format!(
                "{} is there already, and is no file. Nothing was done; choose another name",
                to.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(to, &error)),
        }
    }

    fn taken(to: &Path) -> BackupError {
        BackupError::File(format!(
            "{} is there already. It was left as it is; choose another name, or say that it may be replaced (--force)",
            to.display()
        ))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(|error| failed(&self.beside, &error))
    }

    /// It is whole: on disk, and under its name.
    pub(crate) fn finish(mut self) -> Result<(), BackupError> {
        self.file.sync_all().map_err(|error| failed(&self.beside, &error))?;
        let named = if self.replace {
            std::fs::rename(&self.beside, &self.to)
        } else {
            // A link is refused where somebody was faster; a renaming would take that file's place.
            match std::fs::hard_link(&self.beside, &self.to) {
                Ok(()) => std::fs::remove_file(&self.beside),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Self::taken(&self.to)),
                Err(_no_links_here) => {
                    Self::free(&self.to, false)?;
                    std::fs::rename(&self.beside, &self.to)
                }
            }
        };
        let parent = self.to.parent().unwrap_or_else(|| Path::new("/"));
        named.and_then(|()| File::open(parent)?.sync_all()).map_err(|error| failed(&self.to, &error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _gone = std::fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_backup_has_its_name_when_it_is_whole_and_replaces_nothing_unasked() {
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("b");
        // One that was given up leaves nothing; what a killed one left is no obstacle.
        std::fs::write(place.path().join("b.part"), "of a killed one, longer than the next").unwrap();
        let mut draft = Draft::begin(&to, false).unwrap();
        draft.write(b"half").unwrap();
        assert_eq!(names(place.path()), ["b.part"]);
        assert!(matches!(Draft::begin(&to, false), Err(BackupError::File(why)) if why.contains("another backup")));
        drop(draft);
        assert!(names(place.path()).is_empty());
        let mut draft = Draft::begin(&to, false).unwrap();
        draft.write(b"whole").unwrap();
        draft.finish().unwrap();
        assert_eq!((names(place.path()), std::fs::read(&to).unwrap()), (vec!["b".to_owned()], b"whole".to_vec()));
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // A second one is refused at once, and, should the file come meanwhile, at its end.
        assert!(matches!(Draft::begin(&to, false), Err(BackupError::File(why)) if why.contains("--force")));
        let other = place.path().join("c");
        let mut draft = Draft::begin(&other, false).unwrap();
        draft.write(b"mine").unwrap();
        std::fs::write(&other, "somebody else's").unwrap();
        assert!(draft.finish().is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"somebody else's");
        let mut draft = Draft::begin(&to, true).unwrap();
        draft.write(b"newer").unwrap();
        draft.finish().unwrap();
        assert_eq!(
            (names(place.path()), std::fs::read(&to).unwrap()),
            (vec!["b".into(), "c".into()], b"newer".to_vec())
        );
        assert!(Draft::begin(place.path(), true).is_err(), "a directory");
    }
}
