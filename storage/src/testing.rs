//! What tests do to a store and to the disk below it.
//!
//! Owns the imitation of a power cut on a closed RocksDB store, and small file systems that fill up. Never part of a node.
//! Called by the tests of this crate and of the node.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use quorate_core::ports::StoreResult;

use crate::error::io_error;
use crate::marker::Marker;
use crate::{dir, wal};

/// Takes everything that was not synced from the newest file of the journal of the closed store in `dir`, as a power cut
/// may. Says how many batches were taken. Older files stay as they are: RocksDB syncs them when it writes tables.
///
/// # Errors
/// As opening it.
pub fn lose_unsynced(dir: &Path) -> StoreResult<usize> {
    let marker = Marker::open(dir, true)?;
    let database = dir::database(dir);
    let judged = wal::scan(&database)?;
    let Some(newest) = wal::files(&database)?.pop() else { return Ok(0) };
    let records = judged.ends.iter().filter(|(file, _, _)| *file == newest);
    let keep = records.clone().filter(|(_, _, last)| *last <= marker.sequence()).map(|(_, end, _)| *end).max();
    OpenOptions::new()
        .write(true)
        .open(&newest)
        .and_then(|open| open.set_len(keep.unwrap_or(0)))
        .map_err(|error| io_error("cutting a write-ahead log for a test", &error))?;
    Ok(records.filter(|(_, _, last)| *last > marker.sequence()).count())
}

/// A small file system of its own (a tmpfs), unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts one at the directory `mount`, which is made. `None`, and a word about it, where this machine does not let us.
    ///
    /// # Errors
    /// What was refused to root under CI: there such a test may not be skipped.
    pub fn mount(mount: PathBuf, size: &str) -> Result<Option<Self>, String> {
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let options = format!("size={size}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&mount).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) {
            return Ok(Some(Self { mount }));
        }
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
        if root && std::env::var_os("CI").is_some() {
            return Err(format!("root under CI could not mount a tmpfs: {done:?}"));
        }
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("SKIP: a full disk needs a tmpfs of its own, and mounting one is not allowed here");
        }
        Ok(None)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Makes it larger, or smaller down to what it holds.
    ///
    /// # Errors
    /// What the system says.
    pub fn resize(&self, size: &str) -> Result<(), String> {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.mount).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) { Ok(()) } else { Err(format!("{done:?}")) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
    }
}
