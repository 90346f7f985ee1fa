//! Libraries in front of libc: disks that are slow, fail or lie, and clocks that jump.
//!
//! Owns the files by which they are told what to do, and what they say they did. Never talks to a process.

use std::path::{Path, PathBuf};

use super::Done;
use super::machine::compile;

/// What a disk is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Before each sync, milliseconds.
    pub(super) delay_ms: u64,
    /// So many of the next syncs fail.
    pub(super) fail: u64,
    /// Syncs do nothing, and say that they are done.
    pub(super) lie: bool,
    /// The process ends before so many changes of files from now on; 0 is never.
    pub(super) die: u64,
}

/// What the disk says it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Deeds {
    pub(super) delayed: u64,
    pub(super) failed: u64,
    pub(super) lied: u64,
}

/// The library that stands before the disk.
pub(super) async fn disk_library(root: &Path) -> Done<Result<PathBuf, String>> {
    let library = root.join("disk.so");
    let built = compile(include_str!("../../helpers/disk.c"), &["-shared", "-fPIC"], &library).await?;
    Ok(built.map(|()| library))
}

/// The helper that takes the power from a file system.
pub(super) async fn cutter(root: &Path) -> Done<Result<PathBuf, String>> {
    let program = root.join("power_cut");
    let built = compile(include_str!("../../helpers/power_cut.c"), &[], &program).await?;
    Ok(built.map(|()| program))
}

/// The library that stands before the clock, where it is installed.
pub(super) fn clock_library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];
    let files = places.iter().map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists())
}

/// The orders of one node's disk.
#[derive(Debug, Clone)]
pub(super) struct Told {
    orders: PathBuf,
}

impl Told {
    pub(super) fn new(root: &Path, name: &str) -> Done<Self> {
        let told = Self { orders: root.join(format!("{name}.orders")) };
        told.tell(Orders::default())?;
        Ok(told)
    }

    /// What the process is to be started with.
    pub(super) fn environment(&self) -> (String, PathBuf) {
        ("QUORATE_DISK_ORDERS".to_owned(), self.orders.clone())
    }

    pub(super) fn tell(&self, orders: Orders) -> Done {
        let Orders { delay_ms, fail, lie, die } = orders;
        // Whole or not at all: it is read while we write.
        let draft = self.orders.with_extension("draft");
        std::fs::write(&draft, format!("{delay_ms} {fail} {} {die}\n", u8::from(lie)))?;
        Ok(std::fs::rename(&draft, &self.orders)?)
    }

    pub(super) fn deeds(&self) -> Deeds {
        let mut path = self.orders.clone().into_os_string();
        path.push(".done");
        let line = std::fs::read_to_string(path).unwrap_or_default();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Deeds { delayed: next(), failed: next(), lied: next() }
    }
}
