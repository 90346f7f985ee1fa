//! What a node without a store must not forget: a worker, and any node between two roles.
//!
//! Owns `node.state`, one small file that is replaced whole. It is there while a node joins, while it is a worker, and while
//! it changes roles; a manager has its facts in its store. What managers decided (a certificate, a raft id) is written here
//! first, and then made true by [`settle`], which may be cut off anywhere and is run again at every start. Blocks.

use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{NodeId, StoreId};
use quorate_transport::{Identity, KeyPair};
use zeroize::Zeroizing;

use super::facts::{Facts, Layout, kept_wiped};
use super::files::{self, FileError};
use super::own_identity;
use super::stop::StartError;

/// The file's content. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct StateFile {
    /// As they will lie in the store, should the node be a manager one day. The store id is drawn before anybody hears of it,
    /// and empty when there never will be one, or it was never asked for; with a raft id the node is a manager once this
    /// file is settled.
    #[prost(message, required, tag = "1")]
    pub(crate) facts: Facts,
    /// PKCS#8, kept only until the join is done, so that a half-made one can be finished; and of a manager that was demoted,
    /// whose identity file has it sealed, until it lies there as a worker's does.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) joining_key: Bytes,
    /// A certificate that was given and is not in the identity file yet.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) certificate: Bytes,
    /// The CA that came with it.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) ca: Bytes,
    /// What else is trusted.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) authorities: Vec<Bytes>,
}

/// Without the key in it.
impl std::fmt::Debug for StateFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateFile").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// What a directory is to be run as.
#[derive(Debug)]
pub(crate) enum Settled {
    /// There is no such file: the store says what this is.
    Store,
    /// A worker.
    Worker(Box<StateFile>),
    /// A join that was not finished.
    HalfJoined,
}

fn path(layout: &Layout) -> PathBuf {
    layout.root().join("node.state")
}

impl StateFile {
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>, StartError> {
        let damaged = |what: String| {
            StartError::Damaged(format!(
                "{}: {what}. Nothing was changed; move the directory aside and join again",
                path(layout).display()
            ))
        };
        let bytes = match files::read(&path(layout)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(FileError::Io(error)) => {
                return Err(StartError::Disk(format!("{} cannot be read: {error}", path(layout).display())));
            }
            Err(error @ FileError::Damaged(_)) => return Err(damaged(error.to_string())),
        };
        let file = Facts::decoded(bytes, |plain| Self::decode(plain), |file| &mut file.facts);
        let mut file = file.map_err(|error| damaged(error.to_string()))?;
        file.joining_key = kept_wiped(std::mem::take(&mut file.joining_key));
        let whole = NodeId::from_slice(&file.facts.node_id).is_some() && file.facts.seed.len() == 32;
        if whole { Ok(Some(file)) } else { Err(damaged("an id in it has the wrong length".into())) }
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<(), StartError> {
        files::replace(&path(layout), &Zeroizing::new(self.encode_to_vec()))
            .map_err(|error| StartError::Disk(format!("{} cannot be written: {error}", path(layout).display())))
    }

    pub(super) fn remove(layout: &Layout) -> Result<(), StartError> {
        files::remove(&path(layout))
            .map_err(|error| StartError::Disk(format!("{} cannot be removed: {error}", path(layout).display())))
    }

    /// The store that it has or will have as a manager.
    pub(crate) fn store(&self) -> Option<StoreId> {
        StoreId::from_slice(&self.facts.store_id)
    }

    pub(crate) fn joining_key(&self) -> Result<KeyPair, StartError> {
        KeyPair::from_pkcs8(&self.joining_key)
            .map_err(|error| StartError::Damaged(format!("the key kept for joining cannot be read: {error}")))
    }
}

/// Makes true what the file says was decided, and says what the directory is to be run as. Cut off anywhere, it is run
/// again with the same end.
pub(crate) fn settle(layout: &Layout) -> Result<Settled, StartError> {
    let Some(mut file) = StateFile::load(layout)? else {
        #[cfg(feature = "manager")]
        if layout.has_store() {
            forget_work(layout)?;
        }
        return Ok(Settled::Store);
    };
    if !file.facts.is_ready() {
        return Ok(Settled::HalfJoined);
    }
    if !file.certificate.is_empty() {
        let key = if file.joining_key.is_empty() {
            let old = own_identity::load(layout)?;
            KeyPair::from_pkcs8(old.key().pkcs8_der()).map_err(|error| StartError::Damaged(error.to_string()))?
        } else {
            file.joining_key()?
        };
        let identity = Identity::new(file.ca.to_vec().into(), file.certificate.to_vec().into(), key)
            .map_err(|error| StartError::Refused(error.to_string()))?
            .with_others(file.authorities.iter().map(|authority| authority.to_vec().into()).collect());
        // Tokens of roots that the node has known stay tokens of its cluster.
        let identity = match own_identity::shown(layout) {
            Ok(old) if old.subject().cluster == identity.subject().cluster => identity.after(&old),
            Ok(_) | Err(_) => identity,
        };
        // In clear, as a worker has it, and as a manager's has lain beside it in this file until now.
        identity.write(&layout.identity()).map_err(|error| StartError::Disk(error.to_string()))?;
    }
    if file.facts.raft_id != 0 {
        return as_manager(layout, &file);
    }
    // A worker holds no log. What is left of a time as a manager, or of an attempt to become one, goes.
    match layout.remove_store() {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StartError::Disk(format!(
                "the log and state of the time as a manager, in {}, cannot be removed: {error}",
                layout.store().display()
            )));
        }
        Err(_) | Ok(()) => {}
    }
    if !file.certificate.is_empty() {
        (file.certificate, file.ca, file.joining_key) = (Bytes::new(), Bytes::new(), Bytes::new());
        file.authorities.clear();
        file.save(layout)?;
    }
    Ok(Settled::Worker(Box::new(file)))
}

#[cfg(feature = "manager")]
fn as_manager(layout: &Layout, file: &StateFile) -> Result<Settled, StartError> {
    let (store, keys) = super::directory::open_store_with(layout, super::directory::options(layout))?;
    file.facts.save(&*store.meta)?;
    if let Some(held) = keys.as_ref().and_then(quorate_storage::KeyKeeper::held) {
        own_identity::seal(layout, &[held], &layout.keys())?;
    }
    drop((store, keys));
    // First: as long as this file is here, all of it is done again.
    forget_work(layout)?;
    StateFile::remove(layout)?;
    Ok(Settled::Store)
}

/// A manager's files hold no item in clear.
#[cfg(feature = "manager")]
fn forget_work(layout: &Layout) -> Result<(), StartError> {
    super::work::forget(layout).map_err(|error| {
        StartError::Disk(format!(
            "the items of the time as a worker, in {}, cannot be removed: {error}",
            layout.root().display()
        ))
    })
}

#[cfg(not(feature = "manager"))]
fn as_manager(layout: &Layout, _file: &StateFile) -> Result<Settled, StartError> {
    Err(not_a_manager(layout))
}

/// The directory holds a manager, and this program cannot run one.
#[cfg(not(feature = "manager"))]
pub(super) fn not_a_manager(layout: &Layout) -> StartError {
    StartError::NotBuiltAsManager(format!(
        "{} holds a manager, and this program was built without the `manager` feature. Nothing was changed; run it with a program that has it",
        layout.root().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_is_kept_for_joining_is_printed_nowhere_and_in_memory_that_is_wiped_only() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path());
        let id = Bytes::from_static(&[1; 16]);
        let facts = Facts { node_id: id, seed: Bytes::from(vec![7; 32]), ..Facts::default() };
        let file = StateFile { facts, joining_key: Bytes::from_static(b"swordfish"), ..StateFile::default() };
        assert!(!format!("{file:?}").contains("swordfish"));
        file.save(&layout).unwrap();
        let read = StateFile::load(&layout).unwrap().unwrap();
        assert!(read.joining_key == "swordfish" && !format!("{read:?}").contains("swordfish"));
        assert!(read.joining_key.try_into_mut().is_err(), "it is in plain memory");
    }
}
