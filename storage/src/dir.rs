//! The directory of a store: who may open it, which format it has, how much room there is.
//!
//! Owns the files beside the database: `lock` (one process at a time, its pid inside) and `format` (written last when a
//! store is made, so a directory without it was never handed to anybody; in it the layout, and the cluster version that
//! whoever opens it has to know). Never touches the database in `db`. Called
//! when a store is opened.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use quorate_core::ports::{StoreError, StoreResult};

use crate::error::io_error;

/// The layout on disk that this binary knows. No release ever wrote an older one.
pub(crate) const FORMAT: u32 = 4;
const FORMAT_FILE: &str = "format";
const FORMAT_WORDS: &str = "quorate store format ";
const NEEDS_WORDS: &str = "needs version ";
const LOCK_FILE: &str = "lock";

/// Where the database lies in a store's directory.
pub(crate) fn database(dir: &Path) -> PathBuf {
    dir.join("db")
}

/// Makes a directory for its owner alone, and its name durable. One that is there stays as it is.
pub(crate) fn make(dir: &Path) -> StoreResult<()> {
    let doing = "creating the store's directory";
    let io = |error: io::Error| io_error(doing, &error);
    if dir.is_dir() {
        return Ok(());
    }
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        sync(parent)?;
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(crate) fn sync(dir: &Path) -> StoreResult<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error("syncing a directory", &error))
}

/// Takes the directory for this process; given back when the file is dropped, also by a crash.
pub(crate) fn lock(dir: &Path) -> StoreResult<File> {
    let doing = "locking the store";
    let io = |error: io::Error| io_error(doing, &error);
    let path = dir.join(LOCK_FILE);
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { holder: holder(&path) }),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).map_err(io)?;
    file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(io)?;
    Ok(file)
}

/// Keeps others from writing while somebody only looks. Changes nothing; none when the store was never locked.
pub(crate) fn lock_shared(dir: &Path) -> StoreResult<Option<File>> {
    let path = dir.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("locking the store", &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { holder: holder(&path) }),
        Err(TryLockError::Error(error)) => Err(io_error("locking the store", &error)),
    }
}

fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The version that the store in `dir` needs; none when it was not made, or not to the end. `supported` is the newest that
/// this binary knows.
///
/// # Errors
/// `FormatTooNew` for a newer layout, `FormatTooOld` for one from before any release, `NeedsVersion` for a newer version,
/// `Corrupt` for a file that says something else.
pub(crate) fn declared(dir: &Path, supported: u32) -> StoreResult<Option<u32>> {
    let text = match fs::read(dir.join(FORMAT_FILE)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("reading the store's format", &error)),
    };
    let number = |line: Option<&str>, words: &str| line?.strip_prefix(words)?.parse::<u32>().ok();
    let mut lines = text.lines();
    // A newer layout may say whatever it likes after its first line.
    match number(lines.next(), FORMAT_WORDS) {
        Some(found) if found > FORMAT => return Err(StoreError::FormatTooNew { found, supported: FORMAT }),
        Some(FORMAT) => {}
        Some(found) if found > 0 => return Err(StoreError::FormatTooOld { found, supported: FORMAT }),
        Some(_) | None => return Err(unreadable()),
    }
    match number(lines.next(), NEEDS_WORDS) {
        Some(needed) if needed > supported => Err(StoreError::NeedsVersion { needed, supported }),
        Some(needed) if lines.next().is_none() => Ok(Some(needed)),
        Some(_) | None => Err(unreadable()),
    }
}

fn unreadable() -> StoreError {
    StoreError::Corrupt {
        record: format!("file `{FORMAT_FILE}`"),
        detail: "it does not say which format the store has; nothing was changed".to_owned(),
    }
}

/// Declares the store made, for whoever knows version `needs`: from now on what it holds counts. Replaced whole, synced.
pub(crate) fn declare(dir: &Path, needs: u32) -> StoreResult<()> {
    let doing = "writing the store's format";
    let io = |error: io::Error| io_error(doing, &error);
    let draft = dir.join("format.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(io)?;
    file.write_all(format!("{FORMAT_WORDS}{FORMAT}\n{NEEDS_WORDS}{needs}\n").as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&draft, dir.join(FORMAT_FILE)).map_err(io)?;
    sync(dir)
}

/// Whether `dir` holds a store that was made to the end. Opens nothing and changes nothing; what it holds may still be
/// damaged.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    dir.join(FORMAT_FILE).is_file()
}

/// Whether what lies in the directory `dir` is gone after the next boot: its file system is kept in memory.
///
/// # Errors
/// What the system says when it cannot tell.
#[cfg(target_os = "linux")]
pub fn is_in_memory(dir: &Path) -> io::Result<bool> {
    /// tmpfs and ramfs, by `statfs(2)`.
    const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
    let kind = u64::try_from(rustix::fs::statfs(dir)?.f_type).unwrap_or_default();
    Ok(IN_MEMORY.contains(&kind))
}

/// Cannot be told here: it is taken to last.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub const fn is_in_memory(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Bytes that an unprivileged process can still write to the file system of `dir`.
///
/// # Errors
/// What the system says when it cannot tell.
pub fn free_space(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
