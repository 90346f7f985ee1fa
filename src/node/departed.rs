//! That a node was removed from its cluster: a mark in its directory.
//!
//! Owns the file `node.removed`. It is written when a node stops for that reason, and goes when the node is started again
//! or comes back anew: what it says is what the node was told last. Never decides anything; for people who come across the
//! directory, and for whoever waits until the node has left.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::builder::Prepared;
use super::facts::Layout;
use super::files;
use crate::client::REMOVED_MARK;

/// What the directory of a removed node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Departed {
    /// Base32.
    pub cluster_id: String,
    /// Base32.
    pub node_id: String,
    /// The node's name.
    pub name: String,
}

impl Departed {
    /// What happened, what was not harmed, what to do.
    pub fn message(&self, directory: &Path) -> String {
        let (name, cluster, directory) = (&self.name, &self.cluster_id, directory.display());
        format!(
            "{name} was removed from cluster {cluster}. Its directory stays as it is, and is not run again. Next: prepare the node anew in another directory with `quorate join`, or come back from this one with a token: quorate join --replace --token TOKEN --manager HOST:PORT --data-dir {directory}"
        )
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.root().join(REMOVED_MARK)
}

/// The mark in a directory; none also where it cannot be read, since it only tells people what the cluster knows.
pub fn departed(directory: impl AsRef<Path>) -> Option<Departed> {
    let bytes = files::read(&path(&Layout::new(directory.as_ref()))).ok()??;
    serde_json::from_slice(&bytes).ok()
}

/// The node was told that it was removed, and stops.
pub(super) fn note(layout: &Layout, node: &Prepared) {
    let mark = Departed { cluster_id: node.cluster_id.clone(), node_id: node.node_id.clone(), name: node.name.clone() };
    let written = serde_json::to_vec(&mark)
        .map_err(std::io::Error::other)
        .and_then(|bytes| files::replace(&path(layout), &bytes));
    if let Err(error) = written {
        tracing::warn!(%error, "that this node was removed could not be noted in its directory");
    }
}

/// The node is started, or comes back anew.
pub(super) fn forget(layout: &Layout) {
    if let Err(error) = files::remove(&path(layout)) {
        tracing::warn!(%error, "the mark of a removal could not be taken off the directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::NodeRole;

    #[test]
    fn a_removed_node_says_so_in_its_directory_until_it_comes_back() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path());
        assert_eq!(departed(place.path()), None);
        let node = Prepared {
            cluster_id: "c".into(),
            node_id: "n".into(),
            name: "w1".into(),
            advertise: String::new(),
            role: NodeRole::Worker,
            raft_id: 0,
            operator_identity: None,
            certificate_only: false,
        };
        note(&layout, &node);
        let mark = departed(place.path()).unwrap();
        assert_eq!((mark.name.as_str(), mark.cluster_id.as_str()), ("w1", "c"));
        let said = mark.message(place.path());
        assert!(said.contains("quorate join --replace --token") && said.contains("another directory"), "{said}");
        forget(&layout);
        assert_eq!(departed(place.path()), None);
    }
}
