//! What a node knows about itself that is not replicated, and where its files lie.
//!
//! Owns the layout of a data directory: `store/` (log and state), `node.id` (the node's certificate and key),
//! `operator.id` (written by `init`), `node.listen` (a manager's address and name, for when its store cannot be opened), the local socket. Never changes a fact in place: each write replaces them all,
//! synced. Called by the builder, and by the running node when it learns new addresses.

use std::path::{Path, PathBuf};

use bytes::Bytes;
#[cfg(feature = "manager")]
use prost::Message as _;
use quorate_core::id::{ClusterId, Lineage, NodeId};
#[cfg(feature = "manager")]
use quorate_core::id::{RaftId, StoreId};
#[cfg(feature = "manager")]
use quorate_core::ports::{MetaStore, OpenStore, StoreError, StoreResult};
#[cfg(feature = "manager")]
use quorate_storage::{KeyKeeper, SealingPair};
use zeroize::{Zeroize as _, Zeroizing};

#[cfg(feature = "manager")]
use super::ground::Ground;
#[cfg(feature = "manager")]
use crate::keys::{Keys, Provider};

/// Under which name the facts lie in the meta store.
#[cfg(feature = "manager")]
const NAME: &str = "node";

/// How far the preparation of a directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Stage {
    /// Begun: ids are drawn, nothing has been founded or joined for certain.
    Begun = 0,
    /// Founded or joined: the directory can be run.
    Ready = 1,
}

/// A manager to connect to before there are records.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct KnownManager {
    #[prost(uint64, tag = "1")]
    pub(crate) raft_id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) node_id: Bytes,
    #[prost(string, repeated, tag = "3")]
    pub(crate) addresses: Vec<String>,
}

/// The facts, one record: in the store of a manager, and in the state file of every other node. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Facts {
    #[prost(enumeration = "Stage", tag = "1")]
    pub(crate) stage: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) cluster_id: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) lineage: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) node_id: Bytes,
    #[prost(uint64, tag = "5")]
    pub(crate) raft_id: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) store_id: Bytes,
    #[prost(string, tag = "7")]
    pub(crate) name: String,
    #[prost(string, tag = "8")]
    pub(crate) listen: String,
    #[prost(string, tag = "9")]
    pub(crate) advertise: String,
    /// 32 bytes: QUIC's reset and connection-id keys are derived from it.
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) seed: Bytes,
    #[prost(message, repeated, tag = "11")]
    pub(crate) managers: Vec<KnownManager>,
    /// 32 bytes, drawn with the store: its sealing key pair is made from them. Empty where there is no store. Its bytes are
    /// [`wiped`] once nobody holds them.
    #[prost(bytes = "bytes", tag = "12")]
    pub(crate) sealing: Bytes,
}

/// Secret bytes that are wiped when the last of their clones is dropped.
pub(crate) fn wiped(secret: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(secret)
}

/// Without what is secret in it.
impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts")
            .field("node", &self.node().to_string())
            .field("name", &self.name)
            .field("raft_id", &self.raft_id)
            .finish_non_exhaustive()
    }
}

/// In the store.
#[cfg(feature = "manager")]
impl Facts {
    pub(crate) fn load(meta: &dyn MetaStore) -> StoreResult<Option<Self>> {
        Self::read(meta.get(NAME)?)
    }

    /// Under which name [`Facts::read`]'s argument lies.
    pub(crate) const NAME: &'static str = NAME;

    pub(crate) fn read(stored: Option<Bytes>) -> StoreResult<Option<Self>> {
        let Some(bytes) = stored else { return Ok(None) };
        let corrupt = |detail: String| StoreError::Corrupt { record: format!("meta {NAME}"), detail };
        let facts = Self::decoded(bytes, |plain| Self::decode(plain), |facts| facts);
        let facts = facts.map_err(|error| corrupt(error.to_string()))?;
        let whole = NodeId::from_slice(&facts.node_id).is_some()
            && StoreId::from_slice(&facts.store_id).is_some()
            && facts.seed.len() == 32
            && facts.sealing.len() == 32;
        if whole { Ok(Some(facts)) } else { Err(corrupt("an id in it has the wrong length".into())) }
    }

    pub(crate) fn save(&self, meta: &dyn MetaStore) -> StoreResult<()> {
        meta.put(&[(NAME, self.encoded())])
    }

    /// As they are stored.
    pub(crate) fn encoded(&self) -> Bytes {
        wiped(Zeroizing::new(self.encode_to_vec()))
    }
}

impl Facts {
    /// Decodes what holds them, so that the seed of the sealing key is left in no memory that is not wiped.
    pub(crate) fn decoded<T>(
        stored: Bytes,
        decode: impl FnOnce(&[u8]) -> Result<T, prost::DecodeError>,
        facts: impl FnOnce(&mut T) -> &mut Self,
    ) -> Result<T, prost::DecodeError> {
        // From a slice: each field has bytes of its own then, and none keeps the whole.
        let decoded = decode(&stored).map(|mut decoded| {
            let facts = facts(&mut decoded);
            facts.sealing = kept_wiped(std::mem::take(&mut facts.sealing));
            decoded
        });
        wipe(stored);
        decoded
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.stage() == Stage::Ready
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        ClusterId::from_slice(&self.cluster_id).unwrap_or_default()
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId::from_slice(&self.node_id).unwrap_or_default()
    }

    #[cfg(feature = "manager")]
    pub(crate) fn store(&self) -> StoreId {
        StoreId::from_slice(&self.store_id).unwrap_or_default()
    }

    /// The name, or the node id where there is none.
    pub(crate) fn display_name(&self) -> String {
        if self.name.is_empty() { self.node().to_string() } else { self.name.clone() }
    }

    #[cfg(feature = "manager")]
    pub(crate) const fn raft(&self) -> RaftId {
        RaftId(self.raft_id)
    }

    pub(crate) fn lineage_list(&self) -> Lineage {
        Lineage::from_slice(&self.lineage).unwrap_or_default()
    }

    #[cfg(feature = "manager")]
    pub(crate) fn seed_array(&self) -> [u8; 32] {
        self.seed.as_ref().try_into().unwrap_or_default()
    }

    /// The pair that barrier keys are sealed to.
    #[cfg(feature = "manager")]
    pub(crate) fn sealing_pair(&self) -> SealingPair {
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(self.sealing.as_ref().try_into().unwrap_or_default());
        SealingPair::from_seed(&seed)
    }

    /// Its public half; empty where there is no store, nor ever will be.
    #[cfg(feature = "manager")]
    pub(crate) fn sealing_key(&self) -> Bytes {
        if self.sealing.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(self.sealing_pair().public()) }
    }

    /// None: this program has no managers.
    #[cfg(not(feature = "manager"))]
    pub(crate) const fn sealing_key(&self) -> Bytes {
        Bytes::new()
    }
}

/// The same bytes in memory that is wiped; where they were is wiped, too, unless somebody else holds them.
pub(crate) fn kept_wiped(plain: Bytes) -> Bytes {
    let kept = wiped(Zeroizing::new(plain.to_vec()));
    wipe(plain);
    kept
}

/// Wipes bytes that nobody else holds.
fn wipe(plain: Bytes) {
    if let Ok(mut plain) = plain.try_into_mut() {
        plain.as_mut().zeroize();
    }
}

/// Where things lie in a data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Where the key comes from that opens the store.
    #[cfg(feature = "manager")]
    keys: Keys,
    /// What the node stands on that lives there.
    #[cfg(feature = "manager")]
    ground: Ground,
}

impl Layout {
    /// Of a directory with everything in it.
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            root: directory.to_owned(),
            #[cfg(feature = "manager")]
            keys: Keys::default(),
            #[cfg(feature = "manager")]
            ground: Ground::default(),
        }
    }

    #[cfg(feature = "manager")]
    pub(crate) fn with_keys(directory: &Path, keys: &Keys) -> Self {
        Self { keys: keys.clone(), ..Self::new(directory) }
    }

    /// The same directory, its store perhaps elsewhere.
    #[cfg(feature = "manager")]
    pub(crate) fn on(self, ground: &Ground) -> Self {
        Self { ground: ground.clone(), ..self }
    }

    /// What the node stands on that lives there.
    #[cfg(feature = "manager")]
    pub(crate) const fn ground(&self) -> &Ground {
        &self.ground
    }

    /// What gives the key that opens the store.
    #[cfg(feature = "manager")]
    pub(crate) fn keys(&self) -> Provider {
        self.keys.provider(&self.root)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("node.id")
    }

    /// Where it listens, in clear: what a manager has to know whose facts are in a store that it cannot open.
    #[cfg(feature = "manager")]
    pub(crate) fn listen(&self) -> PathBuf {
        self.root.join("node.listen")
    }

    #[cfg(feature = "manager")]
    pub(crate) fn operator(&self) -> PathBuf {
        self.root.join("operator.id")
    }

    /// Whether there is anything where the store lies.
    pub(crate) fn has_store(&self) -> bool {
        #[cfg(feature = "testing")]
        if let Some(disk) = &self.ground.disk {
            return disk.has_store();
        }
        self.store().exists()
    }

    /// Removes it with everything in it.
    pub(crate) fn remove_store(&self) -> std::io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(disk) = &self.ground.disk {
            disk.remove_store();
            return Ok(());
        }
        std::fs::remove_dir_all(self.store())
    }
}

/// The store of a directory.
#[cfg(feature = "manager")]
impl Layout {
    /// How the names of stores begin that were moved aside.
    pub(crate) const ASIDE: &str = "store.old-";

    /// Whether a store was made.
    pub(crate) fn holds_store(&self) -> bool {
        #[cfg(feature = "testing")]
        if let Some(disk) = &self.ground.disk {
            return disk.has_store();
        }
        quorate_storage::exists(&self.store())
    }

    /// Opens it, or makes it; with the hand on its keys where it has some, as every store on a disk has.
    pub(crate) fn open_store(&self, options: quorate_storage::Options) -> StoreResult<(OpenStore, Option<KeyKeeper>)> {
        #[cfg(feature = "testing")]
        if let Some(disk) = &self.ground.disk {
            return Ok((disk.open()?, None));
        }
        quorate_storage::open_with_keys(&self.store(), options).map(|(store, keys)| (store, Some(keys)))
    }

    /// Bytes free beside it.
    pub(crate) fn free_space(&self) -> std::io::Result<u64> {
        #[cfg(feature = "testing")]
        if let Some(disk) = &self.ground.disk {
            return Ok(disk.free_space());
        }
        quorate_storage::free_space(&self.store())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_of_the_sealing_key_is_in_memory_that_is_wiped_only() {
        // Given facts as they lie in the store
        let id = Bytes::from_static(&[1; 16]);
        let seed = Bytes::from(vec![7; 32]);
        let facts = Facts { node_id: id.clone(), store_id: id, seed: seed.clone(), sealing: seed, ..Facts::default() };
        let stored = facts.encoded();
        // When they are read, and read back from what they are written as
        let read = Facts::read(Some(Bytes::copy_from_slice(&stored))).unwrap().unwrap();
        assert_eq!((read.sealing.as_ref(), &read), (&[7; 32][..], &facts));
        // Then plain memory, which `bytes` gives back to who asks for it, holds neither
        assert!(Bytes::from(vec![7; 32]).try_into_mut().is_ok(), "plain memory would be given back");
        for (what, secret) in [("what is written", stored), ("what was read", read.sealing)] {
            assert!(secret.try_into_mut().is_err(), "{what} is in plain memory");
        }
        assert!(super::super::builder::random_seed().unwrap().try_into_mut().is_err(), "a seed that was drawn");
    }
}
