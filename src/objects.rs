//! Configs and secrets as people see them: the documented JSON of `quorate config` and `secret`, and data that is not to be shown.
//!
//! Owns plain types. A [`SecretBytes`] says nothing of its content in `Debug`, has no `Display`, and is wiped when its last copy is
//! dropped. Never decides. Used by clients, by the command line and on workers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Secret data. Copies share it; it is wiped with the last one.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Arc<Zeroizing<Vec<u8>>>);

impl SecretBytes {
    /// Takes the data over: the buffer is wiped when it is dropped.
    #[must_use]
    pub fn new(data: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(data)))
    }

    /// The data in clear. What is copied out of it is the caller's to wipe.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(data: Vec<u8>) -> Self {
        Self::new(data)
    }
}

impl From<String> for SecretBytes {
    fn from(data: String) -> Self {
        Self::new(data.into_bytes())
    }
}

impl From<&str> for SecretBytes {
    fn from(data: &str) -> Self {
        Self::new(data.as_bytes().to_vec())
    }
}

impl From<&[u8]> for SecretBytes {
    fn from(data: &[u8]) -> Self {
        Self::new(data.to_vec())
    }
}

/// A config or a secret without its data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Unique among those of its kind.
    pub name: String,
    /// What people say about it.
    pub labels: BTreeMap<String, String>,
    /// Bytes of the data.
    pub size: u64,
    /// The revision that made it: it has this data for ever.
    pub create_revision: u64,
    /// The revision that last wrote it, when its labels changed.
    pub revision: u64,
    /// When it was made, by the clock of a manager, milliseconds since 1970.
    pub created_ms: u64,
    /// The one in whose place it was made.
    pub succeeds: Option<String>,
    /// Of a secret: the number of the barrier key that it is sealed with.
    pub barrier_key: Option<u32>,
    /// Which items refer to it; told of one that is looked at, not in lists.
    pub users: Vec<ObjectUser>,
}

/// An item that refers to a config or a secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ObjectUser {
    /// The node's name, or its id when it has none.
    pub node: String,
    /// The node's id.
    pub node_id: String,
    /// The item.
    pub item: String,
}

/// One page of configs or secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ObjectPage {
    pub(crate) objects: Vec<ObjectInfo>,
    /// Ask again, after the last of these (which may not be among them).
    pub(crate) after: Option<String>,
}

/// A secret in another one's place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SecretRotation {
    /// The new one, with the labels of the old.
    pub successor: ObjectInfo,
    /// The old one, with the items that still refer to it.
    pub old: ObjectInfo,
}

/// The barrier's keyring: with which keys secrets are sealed in the log, and who can open them. No secret in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyringReport {
    /// The number of the key that seals.
    pub active: u32,
    /// Another one is due: it was asked for, or somebody who could open this one is gone, or it is worn.
    pub due: bool,
    /// All keys, ascending. More than one while records are sealed anew.
    pub keys: Vec<KeyringKey>,
    /// Managers that have no copy of the active key yet: they hold no seat before they do.
    pub lacking: Vec<String>,
    /// Of these, managers that no key can be sealed to: what their record has as their public sealing key is none. They need a
    /// store of their own anew (`quorate join --replace`).
    #[serde(default)]
    pub unusable: Vec<String>,
}

/// One key of the barrier.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyringKey {
    /// Its number.
    pub id: u32,
    /// How often it has sealed something.
    pub uses: u64,
    /// Records that name it: it goes when there are none, unless it is the active one.
    pub records: u64,
    /// Managers that can open it, by name.
    pub managers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_data_is_in_no_debug_output() {
        let secret = SecretBytes::from("hunter2");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "SecretBytes(..) Some(\n    SecretBytes(..),\n)");
        assert_eq!((secret.expose(), secret.len(), secret.is_empty()), (&b"hunter2"[..], 7, false));
    }
}
