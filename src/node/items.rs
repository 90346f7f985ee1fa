//! Items of work as a node has them: each with the data of what it refers to, and all together as one set.
//!
//! Owns their form, in memory and on the disk (where nothing secret of them lies), what tells two sets apart, and which set may
//! replace which. Never waits, and touches no file. Called by what keeps the set in force ([`super::work`]), and by both ends of a session.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::Lineage;
use quorate_core::membership::work::takes;
use quorate_transport::session_api::{self, Part};

use crate::objects::SecretBytes;

/// One item of work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// What names it within its node.
    pub id: String,
    /// What the orchestrator wrote; opaque to quorate.
    pub payload: Bytes,
    /// The store's revision at which it was last written.
    pub revision: u64,
    /// Secrets it refers to, by name.
    pub secrets: Vec<String>,
    /// Configs it refers to, by name.
    pub configs: Vec<String>,
    /// The data of both, as far as it is here.
    pub(super) data: Data,
}

impl Item {
    /// The data of a secret that it refers to. `None` when it does not, and in a stale set: secrets are never on this node's
    /// disk, so after a restart without any manager they are not there until one is reached.
    pub fn secret(&self, name: &str) -> Option<&SecretBytes> {
        self.data.secrets.get(name).map(|(_, data)| data)
    }

    /// The data of a config that it refers to. `None` when it does not.
    pub fn config(&self, name: &str) -> Option<&Bytes> {
        self.data.configs.get(name).map(|(_, data)| data)
    }

    /// Whether the data of everything that it refers to is here.
    pub fn is_complete(&self) -> bool {
        self.secrets.iter().all(|name| self.secret(name).is_some())
            && self.configs.iter().all(|name| self.config(name).is_some())
    }
}

/// What items refer to, by name, each with the revision that made it: under one name there may have been another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Data {
    secrets: BTreeMap<String, (u64, SecretBytes)>,
    configs: BTreeMap<String, (u64, Bytes)>,
}

/// The name of something that items refer to.
pub(crate) type ObjectName = (bool, String);

impl Data {
    pub(crate) fn put(&mut self, (secret, name): ObjectName, revision: u64, data: &[u8]) {
        if secret {
            self.secrets.insert(name, (revision, SecretBytes::from(data)));
        } else {
            self.configs.insert(name, (revision, Bytes::copy_from_slice(data)));
        }
    }

    pub(crate) fn remove(&mut self, (secret, name): &ObjectName) {
        if *secret {
            self.secrets.remove(name);
        } else {
            self.configs.remove(name);
        }
    }

    /// Names and revisions, configs first, ascending.
    pub(crate) fn revisions(&self) -> BTreeMap<ObjectName, u64> {
        let configs = self.configs.iter().map(|(name, (revision, _))| ((false, name.clone()), *revision));
        let secrets = self.secrets.iter().map(|(name, (revision, _))| ((true, name.clone()), *revision));
        configs.chain(secrets).collect()
    }

    /// As much of it as this item refers to.
    fn of(&self, item: &Item) -> Self {
        let secrets = item.secrets.iter().filter_map(|name| Some((name.clone(), self.secrets.get(name)?.clone())));
        let configs = item.configs.iter().filter_map(|name| Some((name.clone(), self.configs.get(name)?.clone())));
        Self { secrets: secrets.collect(), configs: configs.collect() }
    }
}

impl From<session_api::Item> for Item {
    fn from(item: session_api::Item) -> Self {
        let session_api::Item { id, revision, payload, secrets, configs } = item;
        Self { id, payload, revision, secrets, configs, data: Data::default() }
    }
}

impl From<&Item> for session_api::Item {
    fn from(item: &Item) -> Self {
        let Item { id, payload, revision, secrets, configs, .. } = item.clone();
        Self { id, revision, payload, secrets, configs }
    }
}

/// The set in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set {
    /// There is one: a manager has told it, now or before a restart.
    pub(crate) known: bool,
    pub(crate) stale: bool,
    pub(crate) lineage: Lineage,
    pub(crate) revision: u64,
    pub(crate) items: BTreeMap<String, Item>,
    /// What they refer to.
    pub(crate) data: Data,
}

impl Set {
    /// A set that a manager told, in which each item has its data.
    pub(crate) fn told(lineage: Lineage, revision: u64, items: BTreeMap<String, Item>, data: Data) -> Self {
        Self { known: true, stale: false, lineage, revision, ..Self::default() }.with(items, data)
    }

    fn with(self, mut items: BTreeMap<String, Item>, data: Data) -> Self {
        for item in items.values_mut() {
            item.data = data.of(item);
        }
        Self { items, data, ..self }
    }

    /// What tells two sets apart: ids and revisions of all items, and of what they refer to as far as it is here.
    pub(crate) fn digest(&self) -> [u8; 32] {
        digest(self.items.values().map(|item| (item.id.as_bytes(), item.revision)), &self.data.revisions())
    }

    /// Whether something told by `lineage` at `revision` may replace this.
    pub(crate) fn admits(&self, lineage: &Lineage, revision: u64) -> bool {
        takes(self.known.then_some((&self.lineage, self.revision)), (lineage, revision))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        Part {
            lineage: self.lineage.to_bytes().into(),
            revision: self.revision,
            complete: true,
            last: true,
            items: self.items.values().map(session_api::Item::from).collect(),
            // What is secret is never written here.
            objects: self.data.configs.iter().map(|(name, (revision, data))| config(name, *revision, data)).collect(),
            ..Part::default()
        }
        .encode_to_vec()
    }

    /// What of it lies on disk, but for its revision.
    pub(super) fn to_bytes_without_revision(&self) -> Vec<u8> {
        Self { revision: 0, ..self.clone() }.to_bytes()
    }

    pub(super) fn from_bytes(bytes: Bytes) -> Option<Self> {
        let part = Part::decode(bytes).ok()?;
        let mut data = Data::default();
        for object in part.objects {
            let name = object.name.unwrap_or_default();
            data.put((name.secret, name.name), object.revision, &object.data);
        }
        let items = part.items.into_iter().map(|item| (item.id.clone(), item.into())).collect();
        let lineage = Lineage::from_slice(&part.lineage)?;
        let set = Self { known: true, stale: true, lineage, revision: part.revision, ..Self::default() };
        Some(set.with(items, data))
    }
}

fn config(name: &str, revision: u64, data: &Bytes) -> session_api::Object {
    let name = Some(session_api::ObjectName { secret: false, name: name.to_owned() });
    session_api::Object { name, revision, data: data.clone() }
}

/// What tells two sets apart, from ids and revisions in ascending order of ids, and of what the items refer to.
pub(crate) fn digest<'a>(
    items: impl Iterator<Item = (&'a [u8], u64)>,
    objects: &BTreeMap<ObjectName, u64>,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (id, revision) in items {
        hasher.update(&(id.len() as u64).to_be_bytes());
        hasher.update(id);
        hasher.update(&revision.to_be_bytes());
    }
    for ((secret, name), revision) in objects {
        // No item has an id of that length.
        hasher.update(&u64::MAX.to_be_bytes());
        hasher.update(&[u8::from(*secret)]);
        hasher.update(&(name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&revision.to_be_bytes());
    }
    *hasher.finalize().as_bytes()
}
