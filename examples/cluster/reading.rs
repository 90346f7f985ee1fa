//! Is everything that was acknowledged there, on every manager?
//!
//! Owns the comparison of the lists and files with what a manager answers, and of the managers with each other. Never trusts
//! another connection than one of its own to one manager. Called at the end of each part of the story.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate::{Client, Entry, Identity};

use crate::Demo;
use crate::processes::{Member, Told};
use crate::story::Story;
use crate::watching::{has_all, members};
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

/// Everything that has to be there.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) acknowledged: Vec<Acknowledged>,
    pub(crate) files: Vec<Kept>,
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
pub(crate) async fn only(manager: &Member, identity: &Path) -> Told<Client> {
    let identity = Identity::load(identity).map_err(|error| error.to_string())?;
    Client::connect([manager.address.clone()], identity)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", manager.name))
}

/// How a manager is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// As of now, confirmed by a majority.
    Linearizable,
    /// From this manager's own store.
    Serializable,
}

impl Demo {
    /// Reads each of these managers both ways.
    pub(crate) fn read_everything(&self, story: &mut Story, names: &[String], written: &Written) -> Told<()> {
        story.chapter(&match names {
            [one] => format!("Every acknowledged write is read from {one}, over a new connection"),
            _ => "Every acknowledged write is read from every manager, over a new connection each".to_owned(),
        });
        let mut wrong = Vec::new();
        for reads in [Reads::Linearizable, Reads::Serializable] {
            if reads == Reads::Serializable {
                self.all_caught_up(story, names)?;
            }
            for name in names {
                let live = story.waiting(&format!("reading {name}"));
                let found =
                    self.runtime.block_on(async { differences(&self.client(name).await?, reads, written).await })?;
                drop(live);
                let how = match reads {
                    Reads::Linearizable => "linearizable",
                    Reads::Serializable => "from its own store",
                };
                story.say(&format!(
                    "{name} ({how}): {} writes and {} files compared, {} missing or different",
                    written.acknowledged.len(),
                    written.files.len(),
                    found.len()
                ));
                wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = wrong.iter().take(10).map(String::as_str).collect();
        Err(format!("{} entries are not as they were acknowledged:\n{}", wrong.len(), shown.join("\n")))
    }

    fn all_caught_up(&self, story: &Story, names: &[String]) -> Told<()> {
        let asked = names.first().ok_or("there is nobody to ask")?;
        let _live = story.waiting("every manager applies what is committed");
        self.until(asked, |status| members(status).all(has_all).then_some(()))
            .map_err(|last| format!("a manager stays behind: {last}"))
    }

    /// Compares what the managers say of their states, all at one revision.
    pub(crate) fn compare_hashes(&self, story: &mut Story, asked: &str) -> Told<String> {
        story.chapter("Each manager's own digest over its whole state");
        let live = story.waiting("all managers name a digest at one revision");
        let hashes = self
            .until(asked, |status| {
                let hashes: Option<Vec<_>> = members(status)
                    .map(|manager| Some((manager.name.clone(), manager.state_hash.clone()?, manager.hash_revision?)))
                    .collect();
                hashes.filter(|hashes| hashes.windows(2).all(|pair| matches!(pair, [a, b] if a.2 == b.2)))
            })
            .map_err(|last| format!("the managers name no digest at one revision: {last}"))?;
        drop(live);
        self.processes.quorate(story, &["status", "--data-dir", asked, "--json"])?;
        for (name, hash, revision) in &hashes {
            story.say(&format!("{name}  {hash}  at revision {revision}"));
        }
        match hashes.as_slice() {
            [(_, first, revision), others @ ..] if others.iter().all(|(_, hash, _)| hash == first) => {
                Ok(format!("{} at revision {revision}", first.chars().take(16).collect::<String>()))
            }
            _ => Err("the managers' states differ".into()),
        }
    }
}

/// Compares one manager with the lists and the files; answers what is missing or different, one line each.
async fn differences(client: &Client, reads: Reads, expected: &Written) -> Told<Vec<String>> {
    let mut wrong = Vec::new();
    let written = everything(client, reads, PREFIX).await?;
    for write in &expected.acknowledged {
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
    for file in &expected.files {
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
