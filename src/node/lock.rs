//! The lock of a data directory: one process in a worker's directory, or in one that changes roles.
//!
//! Owns `node.lock`, which holds the process id of whoever has it, for people and for commands that come across the
//! directory. A manager's store has a lock of its own besides. Called by the supervisor.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::facts::Layout;
use super::stop::StartError;

fn path(layout: &Layout) -> PathBuf {
    layout.root().join("node.lock")
}

/// Takes it; held until the file is dropped.
pub(super) fn lock(layout: &Layout) -> Result<File, StartError> {
    let failed = |error: std::io::Error| {
        StartError::Directory(format!("{} cannot be locked: {error}. Nothing was changed", layout.root().display()))
    };
    let path = path(layout);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            // For whoever meets the lock.
            file.set_len(0).map_err(failed)?;
            file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(StartError::InUse(format!(
            "{} is in use by process {}. Nothing was changed; stop the running node first, or talk to it with --data-dir",
            layout.root().display(),
            std::fs::read_to_string(&path).unwrap_or_default().trim()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// The process that runs the node of a directory, or is just starting it, as far as can be told: a process that ended
/// leaves its number behind, and another one may have it since. The lock itself is not touched, because whoever looks must
/// not be in the way of a node that starts.
pub fn runner(directory: impl AsRef<Path>) -> Option<u32> {
    let text = std::fs::read_to_string(path(&Layout::new(directory.as_ref()))).ok()?;
    let pid = text.trim().parse().ok()?;
    is_there(pid).then_some(pid)
}

#[cfg(target_os = "linux")]
fn is_there(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Cannot be told from the file system: it may be.
#[cfg(not(target_os = "linux"))]
const fn is_there(_pid: u32) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_runner_who_is_told_by_its_process_id() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path());
        assert_eq!(runner(place.path()), None);
        let held = lock(&layout).unwrap();
        assert_eq!(runner(place.path()), Some(std::process::id()));
        let refused = lock(&layout).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(held);
        // One that is gone left its number, and is gone all the same.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        std::fs::write(path(&layout), format!("{}\n", child.id())).unwrap();
        assert_eq!(runner(place.path()), None);
        lock(&layout).unwrap();
    }
}
