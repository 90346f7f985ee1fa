//! The disk of one node: a directory, or a file system of its own that can be stalled, filled, starved and cut off.
//!
//! Owns images, mounts and ballast. Every fault answers with what was seen of it. Never touches the processes that use it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::machine::{ask, must};
use super::timeline::Effect;
use super::{Done, Trouble, harness};

/// Roomy enough that nothing is low on space by itself; sparse, so that it takes what is written.
const IMAGE: &str = "1200M";
/// What a power cut is tried on: so many bytes are synced, and as many more are not.
const PROBE: usize = 5_000;

/// What a node's files lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The directory of the run.
    Plain,
    /// ext4 in a file.
    Ext4,
    /// ext4 in a file that lies in memory which can be taken away.
    Starving,
}

/// One disk.
#[derive(Debug)]
pub(super) struct Disk {
    kind: Kind,
    /// Where the node's directory lies.
    pub(super) path: PathBuf,
    image: PathBuf,
    memory: PathBuf,
    /// The helper that takes the power away.
    cutter: PathBuf,
}

impl Disk {
    /// Makes one; or why this machine cannot.
    pub(super) async fn make(root: &Path, name: &str, kind: Kind, cutter: &Path) -> Done<Result<Self, String>> {
        let path = root.join(format!("{name}.disk"));
        let memory = root.join(format!("{name}.memory"));
        std::fs::create_dir_all(&path)?;
        let image = if kind == Kind::Starving { memory.join("image") } else { root.join(format!("{name}.image")) };
        let disk = Self { kind, path, image, memory, cutter: cutter.to_owned() };
        if kind == Kind::Starving {
            std::fs::create_dir_all(&disk.memory)?;
            let mounted = ask(
                "mount",
                [
                    OsStr::new("-t"),
                    "tmpfs".as_ref(),
                    "-o".as_ref(),
                    "size=1300m".as_ref(),
                    "tmpfs".as_ref(),
                    disk.memory.as_os_str(),
                ],
            );
            if let Err(why) = mounted.await? {
                return Ok(Err(format!("no tmpfs can be mounted: {why}")));
            }
        }
        if kind != Kind::Plain {
            must("truncate", [OsStr::new("-s"), IMAGE.as_ref(), disk.image.as_os_str()]).await?;
            let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
            if let Err(why) = ask("mkfs.ext4", options.iter().map(OsStr::new).chain([disk.image.as_os_str()])).await? {
                return Ok(Err(format!("no ext4 can be made: {why}")));
            }
            if let Err(why) = disk.mount().await? {
                return Ok(Err(format!("ext4 in a file cannot be mounted: {why}")));
            }
        }
        Ok(Ok(disk))
    }

    async fn mount(&self) -> Done<Result<String, String>> {
        ask("mount", [OsStr::new("-o"), "loop,noatime".as_ref(), self.image.as_os_str(), self.path.as_os_str()]).await
    }

    /// Whether it is a file system of its own.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Ext4 | Kind::Starving)
    }

    /// The power goes: nothing that was not synced will be there. The node must be killed before it is given back.
    pub(super) async fn cut(&self) -> Done<Result<(), String>> {
        let probe = self.path.join("probe");
        let write = |sync: bool| -> Done {
            use std::io::Write as _;
            let mut file = std::fs::File::options().create(true).append(true).open(&probe)?;
            file.write_all(&[7; PROBE])?;
            if sync { Ok(file.sync_all()?) } else { Ok(()) }
        };
        std::fs::remove_file(&probe)
            .or_else(|why| if why.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(why) })?;
        write(true)?;
        write(false)?;
        Ok(ask(&self.cutter, [&self.path]).await?.map(|_said| ()))
    }

    /// The power is back: what is there, and whether that is what a power cut leaves.
    pub(super) async fn restore(&self) -> Done<Effect> {
        must("umount", [&self.path]).await?;
        if let Err(why) = self.mount().await? {
            return harness(format!("what a power cut left cannot be mounted: {why}"));
        }
        let left = usize::try_from(std::fs::metadata(self.path.join("probe"))?.len()).unwrap_or(usize::MAX);
        let proof = format!("of {} bytes, {PROBE} of them synced, {left} are left", 2 * PROBE);
        // (Written back by itself in the meantime, it may be all of it.)
        Ok(if left == PROBE { Effect::Installed(proof) } else { Effect::Indeterminate(proof) })
    }

    /// From now on every write waits.
    pub(super) async fn freeze(&self) -> Done<Result<(), String>> {
        Ok(ask("fsfreeze", [OsStr::new("-f"), self.path.as_os_str()]).await?.map(|_said| ()))
    }

    /// Whether a write waits: a program that writes there is started, and has not ended after a while.
    pub(super) async fn is_stuck(&self) -> Done<bool> {
        let probe = self.path.join("stall");
        let mut child = tokio::process::Command::new("touch").arg(&probe).spawn()?;
        let ended = tokio::time::timeout(Duration::from_millis(500), child.wait()).await;
        // It cannot be killed while it waits; once the disk answers it ends by itself, and is reaped then.
        Ok(ended.is_err())
    }

    pub(super) async fn thaw(&self) -> Done {
        must("fsfreeze", [OsStr::new("-u"), self.path.as_os_str()]).await.map(|_said| ())
    }

    /// Takes all space but so many bytes; with none left, whoever writes is told so.
    pub(super) async fn fill(&self, leave: u64) -> Done<Effect> {
        let ballast = self.path.join("ballast");
        let free = self.free().await?;
        // Quickly most of it, and then, where nothing is to be left, byte by byte: the node writes on meanwhile.
        let take = free.saturating_sub(leave.max(16 << 20));
        must("fallocate", [OsStr::new("-l"), take.to_string().as_ref(), ballast.as_os_str()]).await?;
        if leave > 0 {
            let left = self.free().await?;
            let proof = format!("{} MiB of {} MiB are left", left >> 20, free >> 20);
            return Ok(if left <= leave * 2 { Effect::Installed(proof) } else { Effect::Indeterminate(proof) });
        }
        let refused = tokio::task::spawn_blocking(move || rest(&ballast)).await;
        let refused = refused.map_err(|why| Trouble::Harness(why.to_string()))?;
        Ok(match refused {
            Some(why) => Effect::Installed(format!("a write beside the store: {why}")),
            None => Effect::Indeterminate("64 MiB more still found room".to_owned()),
        })
    }

    async fn free(&self) -> Done<u64> {
        self.column("avail", &self.path).await
    }

    async fn column(&self, name: &str, of: &Path) -> Done<u64> {
        let column = format!("--output={name}");
        let said = must("df", [OsStr::new("-B1"), column.as_ref(), of.as_os_str()]).await?;
        let number = said.lines().last().and_then(|line| line.trim().parse().ok());
        number.map_or_else(|| harness(format!("df says {said}")), Ok)
    }

    /// Space is back.
    pub(super) fn empty(&self) -> Done {
        Ok(std::fs::remove_file(self.path.join("ballast"))?)
    }

    /// What lies below the file system has no room for anything new: writes seem to succeed, and their sync fails.
    pub(super) async fn starve(&self) -> Done<Effect> {
        must("sync", ["-f".as_ref(), self.path.as_os_str()]).await?;
        let mut tries = 0;
        loop {
            let used = self.column("used", &self.memory).await?;
            let size = format!("remount,size={used}");
            match ask("mount", [OsStr::new("-o"), size.as_ref(), self.memory.as_os_str()]).await? {
                Ok(_said) => break,
                // (The node writes on, and may have taken more since we looked.)
                Err(why) if tries >= 20 => return harness(format!("the memory below a disk cannot be bounded: {why}")),
                Err(_again) => tries += 1,
            }
        }
        // As any program would be told: the first sync fails, and the second says that all is well.
        let probe = self.path.join("starved");
        let sync = |probe: &Path| std::fs::File::open(probe).and_then(|file| file.sync_all());
        let written = std::fs::write(&probe, vec![7_u8; 8 << 20]);
        let (first, second) = (written.and_then(|()| sync(&probe)), sync(&probe));
        Ok(match (first, second) {
            (Err(why), second) => Effect::Installed(format!(
                "the first sync of a probe: {why}; the second: {}",
                second.map_or_else(|why| why.to_string(), |()| "said to be done".to_owned())
            )),
            (Ok(()), _) => Effect::Indeterminate("a probe of 8 MiB could still be synced".to_owned()),
        })
    }

    /// There is room below again.
    pub(super) async fn feed(&self) -> Done {
        must("mount", [OsStr::new("-o"), "remount,size=2g".as_ref(), self.memory.as_os_str()]).await.map(|_said| ())
    }

    /// Mounts it anew, repaired where that is needed.
    pub(super) async fn remount(&self) -> Done {
        must("umount", [&self.path]).await?;
        let _repaired = ask("e2fsck", [OsStr::new("-fy"), self.image.as_os_str()]).await?;
        match self.mount().await? {
            Ok(_said) => Ok(()),
            Err(why) => harness(format!("the disk cannot be mounted again: {why}")),
        }
    }
}

/// Writes at the end of the ballast until there is no room; what the system says then.
fn rest(ballast: &Path) -> Option<std::io::Error> {
    use std::io::Write as _;
    let mut file = match std::fs::File::options().append(true).open(ballast) {
        Ok(file) => file,
        Err(why) => return Some(why),
    };
    for _ in 0..16_384 {
        if let Err(why) = file.write_all(&[7; 4096]) {
            return Some(why);
        }
    }
    // (Where room is given only when it is written back.)
    file.sync_all().err()
}
