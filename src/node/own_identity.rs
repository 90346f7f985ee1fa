//! The file `node.id`: who this node is.
//!
//! Owns that a manager's private key lies in it sealed, by the key-encryption keys that open its store, and by no others: whoever
//! opens the store opens it. It is sealed apart from the store, so that a manager whose store is damaged or gone can still prove who it is
//! to whoever has the key, and to nobody else. While a key changes it is opened by both, from before the store is until after: a crash
//! between two writes leaves it opened by what opens the store. A worker's key is in clear. A renewed certificate leaves the key as
//! it lies. Never changes the key itself. Blocks. Called by whoever starts, prepares or renews a node, and by the desk of keys.

use std::sync::{Mutex, PoisonError};

#[cfg(feature = "manager")]
use quorate_core::ports::{StoreError, StoreResult};
#[cfg(feature = "manager")]
use quorate_storage::{GivenKey, Key, KeyKeeper, KeyProvider, KeySlot, open_secret, seal_secret, secret_slots};
#[cfg(feature = "manager")]
use quorate_transport::{CertRole, KeyPair, sweep};
use quorate_transport::{FileKey, Identity, IdentityError, IdentityFile, Shown};

use super::facts::Layout;
use super::stop::StartError;

/// One reads and replaces at a time: a renewal, and a change of the key, which go on side by side in a running manager.
static TURN: Mutex<()> = Mutex::new(());

fn unreadable(error: &IdentityError) -> StartError {
    StartError::Directory(error.to_string())
}

fn unwritable(error: &IdentityError) -> StartError {
    StartError::Disk(format!("{error}. The file is as it was"))
}

/// The identity, its key opened.
///
/// # Errors
/// `Locked` when the key that opens it was not given, `Directory` when there is none.
pub(super) fn load(layout: &Layout) -> Result<Identity, StartError> {
    let file = IdentityFile::load(&layout.identity()).map_err(|error| unreadable(&error))?;
    match file.key {
        FileKey::Clear(key) => Identity::of(file.shown, key).map_err(|error| damaged(layout, &error)),
        FileKey::Sealed(sealed) => opened(layout, file.shown, &sealed),
    }
}

#[cfg(feature = "manager")]
fn opened(layout: &Layout, shown: Shown, sealed: &[u8]) -> Result<Identity, StartError> {
    identity(layout, shown, open_secret(sealed, &layout.keys()))
}

#[cfg(not(feature = "manager"))]
fn opened(layout: &Layout, _shown: Shown, _sealed: &[u8]) -> Result<Identity, StartError> {
    Err(super::state_file::not_a_manager(layout))
}

fn damaged(layout: &Layout, why: &dyn std::fmt::Display) -> StartError {
    StartError::Directory(format!("the key in {} cannot be used: {why}", layout.identity().display()))
}

/// With the key that was opened, or why it was not.
#[cfg(feature = "manager")]
fn identity(
    layout: &Layout,
    shown: Shown,
    opened: StoreResult<zeroize::Zeroizing<Vec<u8>>>,
) -> Result<Identity, StartError> {
    match opened {
        Ok(key) => {
            let key = KeyPair::from_pkcs8(&key).map_err(|error| damaged(layout, &error))?;
            Identity::of(shown, key).map_err(|error| damaged(layout, &error))
        }
        Err(StoreError::KeyWanted { wanted, found }) => Err(StartError::Locked(format!(
            "the node's own key, in {}, is sealed with {wanted}: {found}. Nothing was changed; {}",
            layout.identity().display(),
            crate::keys::lost(layout.root())
        ))),
        Err(error) => Err(damaged(layout, &error)),
    }
}

/// Whose directory it is, and whether that can be proven.
#[cfg(feature = "manager")]
pub(super) enum Own {
    /// By its key.
    Proven(Identity),
    /// Its key is sealed, and what opens it was not given: why.
    Sealed(Shown, StartError),
}

#[cfg(feature = "manager")]
impl Own {
    /// `means` is what it means for the node that there is no such file, or none that can be read.
    pub(super) fn load(layout: &Layout, means: &str) -> Result<Self, StartError> {
        match load(layout) {
            Ok(identity) => Ok(Self::Proven(identity)),
            Err(why @ StartError::Locked(_)) => {
                Ok(Self::Sealed(shown(layout).map_err(|error| unreadable(&error))?, why))
            }
            Err(StartError::Directory(why)) => {
                Err(StartError::Directory(format!("{why}. Without its identity file {means}")))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) const fn shown(&self) -> &Shown {
        match self {
            Self::Proven(identity) => identity.shown(),
            Self::Sealed(shown, _) => shown,
        }
    }

    pub(super) fn proven(self) -> Result<Identity, StartError> {
        match self {
            Self::Proven(identity) => Ok(identity),
            Self::Sealed(_, why) => Err(why),
        }
    }
}

/// What everybody may see of it; needs no key.
pub(super) fn shown(layout: &Layout) -> Result<Shown, IdentityError> {
    IdentityFile::load(&layout.identity()).map(|file| file.shown)
}

/// Until when the certificate in a directory holds, seconds since 1970.
#[cfg(feature = "manager")]
pub(crate) fn certificate_ends(layout: &Layout) -> Result<u64, StartError> {
    shown(layout).map(|shown| shown.subject().not_after).map_err(|error| unreadable(&error))
}

/// Who the node in a directory is, with its key: to act as it does.
///
/// # Errors
/// `Locked` when `keys` do not open it, `Directory` when there is none.
#[cfg(feature = "testing")]
pub fn of_node(directory: &std::path::Path, keys: &crate::keys::Keys) -> Result<Identity, StartError> {
    load(&Layout::with_keys(directory, keys))
}

/// Replaces it by one of the same key, which stays sealed where it was; one of another key, and the first one, is in clear.
pub(super) fn write(layout: &Layout, identity: &Identity) -> Result<(), StartError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = layout.identity();
    let written = match IdentityFile::load(&path) {
        Ok(IdentityFile { shown, key: FileKey::Sealed(sealed) })
            if shown.subject().key_digest == identity.subject().key_digest =>
        {
            identity.write_sealed(&path, &sealed)
        }
        Ok(_) => identity.write(&path),
        Err(IdentityError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => identity.write(&path),
        // What cannot be read may be sealed: in its place nothing is put in clear.
        Err(error) => Err(error),
    };
    written.map_err(|error| unwritable(&error))
}

/// Writes it sealed from the first, by what opens the store; in clear where the store is in memory and has no key.
#[cfg(feature = "manager")]
pub(super) fn write_sealed(layout: &Layout, identity: &Identity, store: Option<&KeyKeeper>) -> Result<(), StartError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = layout.identity();
    let written = match store.and_then(KeyKeeper::held) {
        Some(held) => identity.write_sealed(&path, &seal_secret(identity.key().pkcs8_der(), &[held])?),
        None => identity.write(&path),
    };
    written.map_err(|error| unwritable(&error))
}

/// Seals it by these keys and no others; one that is in clear, or sealed by others that `before` has. There is nothing to do where it
/// is sealed so already, or not there.
#[cfg(feature = "manager")]
pub(crate) fn seal(layout: &Layout, keys: &[(Key, KeySlot)], before: &dyn KeyProvider) -> Result<(), StartError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = layout.identity();
    sweep(&path).map_err(|error| {
        StartError::Disk(format!("what is left of writes to {} cannot be removed: {error}", path.display()))
    })?;
    let IdentityFile { shown, key } = match IdentityFile::load(&path) {
        Ok(file) => file,
        Err(IdentityError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(&error)),
    };
    let identity = match key {
        FileKey::Clear(key) => Identity::of(shown, key).map_err(|error| damaged(layout, &error))?,
        FileKey::Sealed(sealed) => {
            let slots = secret_slots(&sealed).map_err(|error| damaged(layout, &error))?;
            if slots.iter().eq(keys.iter().map(|(_, slot)| slot)) {
                return Ok(());
            }
            let fits = keys.iter().find(|(key, _)| slots.iter().any(|slot| slot.id == key.id()));
            let opened = match fits {
                Some((key, _)) => open_secret(&sealed, &GivenKey(key.clone())),
                None => open_secret(&sealed, before),
            };
            identity(layout, shown, opened)?
        }
    };
    // Somebody put the file of a worker there: what lies in clear elsewhere is sealed by nobody here.
    if identity.subject().role != CertRole::Manager {
        return Ok(());
    }
    let sealed = seal_secret(identity.key().pkcs8_der(), keys)?;
    identity.write_sealed(&path, &sealed).map_err(|error| unwritable(&error))
}
