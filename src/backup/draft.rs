//! A backup's file while it is written: under another name until it is whole.
//!
//! Owns the name that the file has meanwhile, that nothing is overwritten unasked, and the syncs. The file beside is always a new
//! one of its own: what lies under that name, a link above all, is never written to. Blocks. Called by whoever saves a backup.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
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

/// Whether a path names this very file, and not by a link.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
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
        Ok(Self { to, beside, file, replace, done: false })
    }

    /// The file beside: new, and held by nobody else.
    fn held(to: &Path, beside: &Path) -> Result<File, BackupError> {
        loop {
            let mut options = OpenOptions::new();
            // It is sealed, and yet nobody's business. A new one only: no link is followed, and no file of others is used.
            match options.write(true).create_new(true).mode(0o600).open(beside) {
                Ok(file) => {
                    Self::lock(&file, to)?;
                    if is_named(&file, beside).map_err(|error| failed(beside, &error))? {
                        return Ok(file);
                    }
                    // Taken for a left-over in the moment before it was locked; whoever did so has its own by now.
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::clear(to, beside)?,
                Err(error) => return Err(failed(beside, &error)),
            }
        }
    }

    /// Takes away what an earlier one that was killed has left, and nothing else.
    fn clear(to: &Path, beside: &Path) -> Result<(), BackupError> {
        let found = match beside.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(beside, &error)),
        };
        if !found.is_file() {
            return Err(BackupError::File(format!(
                "{} is there already, and is no file that a backup has left: it was neither followed nor written to. There is no backup, and the cluster was only read; look what it is and remove it, or choose another name",
                beside.display()
            )));
        }
        let left = match File::open(beside) {
            Ok(left) => left,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(beside, &error)),
        };
        if !Self::lock(&left, to)? {
            return Err(BackupError::File(format!(
                "{} is there already, and this file system does not tell whether a backup is being written to it. Nothing was done; remove it if none is, or choose another name",
                beside.display()
            )));
        }
        if is_named(&left, beside).map_err(|error| failed(beside, &error))? {
            std::fs::remove_file(beside).map_err(|error| failed(beside, &error))?;
            tracing::warn!(file = %beside.display(), "a backup that was cut off had left this; it was removed");
        }
        Ok(())
    }

    /// Holds the file, or says who does; whether it can be held.
    fn lock(file: &File, to: &Path) -> Result<bool, BackupError> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Err(BackupError::File(format!(
                "another backup is being written to {}. Nothing was done; wait for it, or choose another file",
                to.display()
            ))),
            // Some network file systems have no locks: there people have to take one at a time.
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the file cannot be locked");
                Ok(false)
            }
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
        if !is_named(&self.file, &self.beside).map_err(|error| failed(&self.beside, &error))? {
            // What is there now is somebody else's.
            self.done = true;
            return Err(BackupError::File(format!(
                "{} was taken away while the backup was written to it. There is no backup, and the cluster was only read; take it again, in a directory where only you can write",
                self.beside.display()
            )));
        }
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};

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

    #[test]
    fn nothing_that_lies_under_the_name_of_the_draft_is_written_to() {
        let place = tempfile::tempdir().unwrap();
        let (to, beside) = (place.path().join("b"), place.path().join("b.part"));
        // Given a link where the draft is to be, to a file that is there, and to one that is not
        let other = place.path().join("other");
        std::fs::write(&other, "precious").unwrap();
        for target in [&other, &place.path().join("not-there")] {
            symlink(target, &beside).unwrap();
            // When a backup is begun, then it is refused, and neither is written to
            let refused = Draft::begin(&to, false).err().unwrap();
            assert!(matches!(&refused, BackupError::File(why) if why.contains("neither followed")), "{refused}");
            assert!(beside.is_symlink() && !place.path().join("not-there").exists());
            assert_eq!(std::fs::read(&other).unwrap(), b"precious");
            std::fs::remove_file(&beside).unwrap();
        }
        // And a file that others may read, or that has another name too, is not used either: the draft is a new one
        std::fs::hard_link(&other, &beside).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut draft = Draft::begin(&to, false).unwrap();
        draft.write(b"sealed").unwrap();
        assert_eq!(beside.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        draft.finish().unwrap();
        assert_eq!(
            (std::fs::read(&other).unwrap(), std::fs::read(&to).unwrap()),
            (b"precious".into(), b"sealed".into())
        );
        // Nor is something that comes under its name later taken for it
        let draft = Draft::begin(&to, true).unwrap();
        std::fs::remove_file(&beside).unwrap();
        std::fs::write(&beside, "somebody else's").unwrap();
        assert!(draft.finish().is_err());
        assert_eq!(
            (std::fs::read(&beside).unwrap(), std::fs::read(&to).unwrap()),
            (b"somebody else's".into(), b"sealed".into())
        );
    }
}
