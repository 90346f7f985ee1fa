//! Is everything that was acknowledged there, on every manager?
//!
//! Owns the comparison of the lists and files with what a manager answers. Never trusts another connection than one
//! of its own to one manager. Called by the last chapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate::{Client, Entry, Identity};

use crate::processes::{Manager, Told};
use crate::writers::{Acknowledged, PREFIX};

/// Keys of the files begin with this.
pub(crate) const FILES: &str = "repo/";
/// The largest value there can be.
const VALUE_BYTES_MAX: u64 = 1024 * 1024;

/// A file and where it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
}

/// The files below `root` that fit into a value, without what is built and what is hidden.
pub(crate) fn files(root: &Path) -> Told<Vec<Kept>> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(unreadable)?;
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            // A directory with this tag is a cache, such as cargo's `target`.
            if kind.is_dir() && !path.join("CACHEDIR.TAG").exists() && name != "target" {
                left.push(path);
            } else if kind.is_file() && entry.metadata().map_err(unreadable)?.len() <= VALUE_BYTES_MAX {
                let content = std::fs::read(&path).map_err(unreadable)?;
                let key = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
                found.push(Kept { key: format!("{FILES}{key}"), path, content });
            }
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    if found.is_empty() {
        return Err(format!("there are no files below {}; name a directory with --files", root.display()));
    }
    Ok(found)
}

/// A client that knows one manager only, over a new connection.
pub(crate) async fn only(manager: &Manager, identity: &Path) -> Told<Client> {
    let identity = Identity::load(identity).map_err(|error| error.to_string())?;
    Client::connect([manager.address.clone()], identity)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", manager.name))
}

/// How a manager is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    /// As of now, confirmed by a majority.
    Linearizable,
    /// From this manager's own store.
    Serializable,
}

/// Compares one manager with the lists and the files; answers what is missing or different, one line each.
pub(crate) async fn differences(
    client: &Client,
    reads: Reads,
    acknowledged: &[Acknowledged],
    files: &[Kept],
) -> Told<Vec<String>> {
    let mut wrong = Vec::new();
    let written = everything(client, reads, PREFIX).await?;
    for write in acknowledged {
        match written.get(write.key.as_bytes()) {
            None => wrong.push(format!("MISSING {} (acknowledged at revision {})", write.key, write.revision)),
            Some(entry) if entry.value != write.value || entry.mod_revision != write.revision => wrong.push(format!(
                "DIFFERENT {}: acknowledged at revision {}, found at {}",
                write.key, write.revision, entry.mod_revision
            )),
            Some(_) => {}
        }
    }
    let kept = everything(client, reads, FILES).await?;
    for file in files {
        match kept.get(file.key.as_bytes()) {
            Some(entry) if entry.value == file.content => {}
            Some(_) => wrong.push(format!("DIFFERENT {}", file.key)),
            None => wrong.push(format!("MISSING {}", file.key)),
        }
    }
    Ok(wrong)
}

async fn everything(client: &Client, reads: Reads, prefix: &'static str) -> Told<BTreeMap<Vec<u8>, Entry>> {
    let range = client.kv().prefix(prefix);
    let range = match reads {
        Reads::Linearizable => range,
        Reads::Serializable => range.serializable(),
    };
    let entries = range.all().await.map_err(|error| format!("cannot read {prefix}: {error}"))?;
    Ok(entries.into_iter().map(|entry| (entry.key.to_vec(), entry)).collect())
}
