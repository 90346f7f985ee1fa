//! Small files that must be whole: replaced in one step, synced, and with a digest of what they hold.
//!
//! Owns their form. A worker keeps no store: what it must not forget lies in these. Never repairs: a file that does not
//! hold what its digest says is damaged, and the caller decides what that means. Blocks; called away from async threads.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// First bytes of every such file; the number is the form's version.
const MAGIC: &[u8; 8] = b"quorate1";
const DIGEST: usize = 32;

/// Why a file gives nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Replaces the file: after a crash there is the old one or the new one, whole. Only its owner can read it.
pub(crate) fn replace(path: &Path, payload: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    if path.file_name().is_none() {
        return Err(io::Error::other("the path names no file"));
    }
    let draft = draft_of(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(MAGIC)?;
    file.write_all(blake3::hash(payload).as_bytes())?;
    file.write_all(payload)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()
}

/// Where the file is written before it takes its name; a crash may leave it.
pub(crate) fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// What was written last; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Bytes>, FileError> {
    let whole = match std::fs::read(path) {
        Ok(whole) => Bytes::from(whole),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let body = whole.strip_prefix(MAGIC).ok_or(FileError::Damaged("it does not begin as one of quorate's files"))?;
    let (digest, payload) = body.split_at_checked(DIGEST).ok_or(FileError::Damaged("it ends too early"))?;
    if blake3::hash(payload).as_bytes() != digest {
        return Err(FileError::Damaged("its digest does not hold"));
    }
    Ok(Some(whole.slice_ref(payload)))
}

/// The directory, for its owner alone, and its name durable; one that is there stays as it is. Answers which directories it
/// made, outermost first.
pub(crate) fn make_directory(directory: &Path) -> io::Result<Vec<PathBuf>> {
    make_directory_with(directory, |made| File::open(made)?.sync_all())
}

fn make_directory_with(directory: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<Vec<PathBuf>> {
    let missing = |directory: &&Path| !directory.as_os_str().is_empty() && !directory.exists();
    let mut made: Vec<PathBuf> = directory.ancestors().take_while(missing).map(Path::to_owned).collect();
    made.reverse();
    for made in &made {
        match DirBuilder::new().mode(0o700).create(made) {
            // Somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && made.is_dir() => {}
            done => done?,
        }
        // Each name is in the directory above it: without this one a crash may take all of them.
        let above = made.parent().filter(|above| !above.as_os_str().is_empty());
        sync(above.unwrap_or_else(|| Path::new(".")))?;
    }
    Ok(made)
}

/// Removes the file for good; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_name_of_every_directory_that_is_made_is_synced() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("a/b/c");
        let mut synced = Vec::new();
        let made = make_directory_with(&deep, |directory| {
            // Of what is there by now.
            assert!(directory.is_dir());
            synced.push(directory.to_owned());
            Ok(())
        });
        let of = |name: &str| place.path().join(name);
        assert_eq!(made.unwrap(), [of("a"), of("a/b"), of("a/b/c")]);
        assert_eq!(synced, [place.path().to_owned(), of("a"), of("a/b")]);
        assert_eq!(deep.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(make_directory(&deep).unwrap().is_empty());
    }

    #[test]
    fn a_file_is_whole_or_it_is_called_damaged() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        assert!(read(&path).unwrap().is_none());
        replace(&path, b"first").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), "second");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(matches!(read(&path), Err(FileError::Damaged(_))), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(read(&path), Err(FileError::Damaged(_))), "cut at {at}");
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path).unwrap().is_none());
    }
}
