//! Where the keys of one store are changed: of a running manager, and of a stopped directory.
//!
//! Owns the order of the steps of each change, so that at every moment a key that somebody has opens the store. A new key lies
//! where it will be looked for, durable, before the store is opened by it; the old one goes after. A key that people must keep
//! is shown first, beside the old one, and takes its place only when they say that they have it. Called by the node for its
//! operator, and by the command line for a stopped directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::ports::{OpenStore, StoreError};
use quorate_storage::{Key, KeyError, KeyKeeper, KeyKind, KeyProvider as _, KeySlot, Options};
use zeroize::Zeroizing;

use super::{BESIDE, Keys, Provider, credential, file, located, salted};
use crate::node::{Layout, StartError, explained};
use crate::status::KeyReport;

/// What is to be done with the keys of a node.
#[derive(Clone)]
#[non_exhaustive]
pub enum KeyOrder {
    /// Say what there is.
    Show,
    /// Another key in the key file, and another data key; what the old one has sealed is sealed anew.
    Rotate,
    /// The key file lies there from now on, with another key in it. A key file that is there already is used as it is.
    Move(PathBuf),
    /// Nothing on this machine opens the store any more: a key is made and shown, and counts once it is confirmed.
    AutolockOn,
    /// Back to a key file: there, or at the usual place.
    AutolockOff(Option<PathBuf>),
    /// Show the unlock key again.
    UnlockKeyShow,
    /// Another unlock key: it is shown, and counts once it is confirmed.
    UnlockKeyRotate,
    /// What was shown was written down: only that opens the store from now on.
    Confirm,
    /// The store is opened by this passphrase from now on.
    Passphrase(Zeroizing<String>),
}

/// What became of it.
#[derive(Clone)]
#[non_exhaustive]
pub struct KeyAnswer {
    /// What there is now.
    pub report: KeyReport,
    /// The unlock key, where it was asked for.
    pub secret: Option<Zeroizing<String>>,
    /// What else is to be said, for people.
    pub notes: Vec<String>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Refused(String),
    #[error("{0}. Nothing was changed")]
    Key(#[from] KeyError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Refused(format!("{}. Nothing was changed", why.into())))
}

/// The hand on the keys of one store, with the directory around it.
pub(crate) struct Desk {
    keeper: KeyKeeper,
    directory: PathBuf,
    provider: Provider,
}

impl Desk {
    pub(crate) fn new(keeper: KeyKeeper, layout: &Layout) -> Self {
        Self { keeper, directory: layout.root().to_owned(), provider: layout.keys() }
    }

    /// Of a stopped directory; nothing else opens it meanwhile.
    fn open(directory: &Path, keys: &Keys) -> Result<(Self, OpenStore), StartError> {
        let layout = Layout::with_keys(directory, keys);
        let (store, keeper) = quorate_storage::open_with_keys(&layout.store(), Options::new(Arc::new(layout.keys())))
            .map_err(|error| explained(&layout, error))?;
        Ok((Self::new(keeper, &layout), store))
    }

    /// The path that a slot of a key file names.
    fn path(&self, slot: &KeySlot) -> PathBuf {
        located(&self.directory, &slot.place)
    }

    fn in_force(&self) -> Result<(Key, KeySlot), Refusal> {
        self.keeper.held().map_or_else(|| refuse("the store does not say which key opens it"), Ok)
    }

    /// Ends what a crash left between two keys: the key that opened the store is the one in force, and whatever of a key
    /// lies beside the data and opens nothing goes.
    pub(crate) fn settle(&self) -> Result<bool, Refusal> {
        let cut_off = self.keeper.settle()?;
        let (key, slot) = self.in_force()?;
        if slot.kind == KeyKind::File {
            let path = self.path(&slot);
            // A second key in it is what a rotation left; a file of the service manager's is its own affair.
            if credential().as_ref() != Some(&path) && file::read(&path).is_ok_and(|keys| keys.len() > 1) {
                file::write(&path, std::slice::from_ref(&key))?;
            }
        }
        Ok(self.sweep()? || cut_off)
    }

    /// Removes the key file beside the data when nothing in it opens the store. Whether there was one.
    fn sweep(&self) -> Result<bool, Refusal> {
        let beside = self.directory.join(BESIDE);
        let slots = self.keeper.status().slots;
        // What cannot be read as a key file is not ours to remove.
        let dead =
            file::read(&beside).is_ok_and(|keys| keys.iter().all(|key| slots.iter().all(|slot| slot.id != key.id())));
        Ok(dead && file::remove(&beside)?)
    }

    /// Seals anew a few records that an older data key has sealed. Whether there is more to do.
    pub(crate) fn reseal_step(&self) -> Result<bool, StoreError> {
        self.keeper.reseal_step()
    }

    pub(crate) fn report(&self) -> KeyReport {
        let status = self.keeper.status();
        let mut report = super::report(&self.directory, &status.slots);
        report.data_key = status.data_key;
        report.data_key_made = status.made;
        report.sealing_anew = !status.older.is_empty();
        self.provider.outlook(&status.slots, true, report)
    }

    /// Does it.
    pub(crate) fn order(&self, order: &KeyOrder) -> Result<KeyAnswer, Refusal> {
        let (old, slot) = self.in_force()?;
        let (mut secret, mut notes) = (None, Vec::new());
        match order {
            KeyOrder::Show => {}
            KeyOrder::UnlockKeyShow if slot.kind == KeyKind::Unlock => secret = Some(old.to_text()),
            KeyOrder::UnlockKeyShow | KeyOrder::UnlockKeyRotate if slot.kind != KeyKind::Unlock => {
                return refuse(format!(
                    "there is no unlock key: this node is opened by {slot}; `quorate autolock on` makes one"
                ));
            }
            KeyOrder::AutolockOn if slot.kind == KeyKind::Unlock => {
                return refuse(
                    "autolock is on already; `quorate unlock-key show` shows the key, `quorate unlock-key rotate` makes another",
                );
            }
            KeyOrder::AutolockOn | KeyOrder::UnlockKeyRotate | KeyOrder::UnlockKeyShow => {
                let key = Key::generate()?;
                self.keeper.begin_change(&key, KeySlot::new(&key, KeyKind::Unlock, ""))?;
                secret = Some(key.to_text());
            }
            KeyOrder::Confirm => {
                if !self.keeper.finish_change()? {
                    return refuse(
                        "no new unlock key waits to be confirmed: make one with `quorate autolock on` or `quorate unlock-key rotate`",
                    );
                }
                let (_, now) = self.in_force()?;
                self.sweep()?;
                notes.extend(self.left_behind(&slot, &now));
            }
            KeyOrder::AutolockOff(_) if slot.kind == KeyKind::File => {
                return refuse(format!("autolock is off: this node is opened by {slot}"));
            }
            KeyOrder::AutolockOff(None) => self.to_file(&slot, None, &mut notes)?,
            KeyOrder::AutolockOff(Some(path)) | KeyOrder::Move(path) => self.to_file(&slot, Some(path), &mut notes)?,
            KeyOrder::Passphrase(text) => {
                let (key, now) = salted(text)?;
                self.keeper.change(&key, now.clone())?;
                self.sweep()?;
                notes.extend(self.left_behind(&slot, &now));
            }
            KeyOrder::Rotate => {
                self.rotate(&old, &slot, &mut notes)?;
                self.keeper.rotate_data_key()?;
            }
        }
        Ok(KeyAnswer { report: self.report(), secret, notes })
    }

    /// A key file opens the store from now on.
    fn to_file(&self, before: &KeySlot, path: Option<&PathBuf>, notes: &mut Vec<String>) -> Result<(), Refusal> {
        let (path, place) = match (path, credential()) {
            (Some(path), _) => {
                let whole = std::path::absolute(path).unwrap_or_else(|_error| path.clone());
                let place = whole.display().to_string();
                (whole, place)
            }
            (None, Some(path)) => (path.clone(), path.display().to_string()),
            (None, None) => (self.directory.join(BESIDE), BESIDE.to_owned()),
        };
        if before.kind == KeyKind::File && self.path(before) == path {
            return refuse(format!(
                "the key file is {} already; `quorate key rotate` puts another key into it",
                path.display()
            ));
        }
        let (key, now) = Provider::make_file(&path, place)?;
        self.keeper.change(&key, now.clone())?;
        self.sweep()?;
        let beside = self.directory.join(BESIDE);
        if before.id == now.id && self.path(before) == beside && path != beside {
            // The same key lies at its new place: the copy beside the data is one too many.
            file::remove(&beside)?;
        }
        notes.extend(self.left_behind(before, &now));
        Ok(())
    }

    /// What of the key before people have to clear away themselves.
    fn left_behind(&self, before: &KeySlot, now: &KeySlot) -> Option<String> {
        let path = self.path(before);
        let left = before.kind == KeyKind::File && before.id != now.id && path.exists();
        left.then(|| format!("the key file {} opens this store no more: delete it", path.display()))
    }

    /// Another key-encryption key, where it is ours to make.
    fn rotate(&self, old: &Key, slot: &KeySlot, notes: &mut Vec<String>) -> Result<(), Refusal> {
        match slot.kind {
            KeyKind::File => {
                let path = self.path(slot);
                let given = file::read(&path)?.into_iter().next().filter(|first| first.id() != old.id());
                if let Some(given) = given {
                    // Somebody has put another key before the one in force.
                    let next = KeySlot::new(&given, KeyKind::File, slot.place.clone());
                    return Ok(self.keeper.change(&given, next)?);
                }
                if credential().is_some_and(|brought| brought == path) {
                    notes.push("the key file is the service manager's: to change that key, too, put another one (`quorate key new`) before it in the file and rotate again".to_owned());
                    return Ok(());
                }
                let key = Key::generate()?;
                file::write(&path, &[key.clone(), old.clone()])?;
                self.keeper.change(&key, KeySlot::new(&key, KeyKind::File, slot.place.clone()))?;
                file::write(&path, std::slice::from_ref(&key))?;
            }
            KeyKind::Command | KeyKind::Custom => {
                let (key, next) = self.provider.make()?;
                if key.id() != old.id() {
                    self.keeper.change(&key, next)?;
                }
            }
            KeyKind::Unlock => notes.push("the unlock key stays: `quorate unlock-key rotate` makes another".to_owned()),
            KeyKind::Passphrase => notes.push("the passphrase stays: `quorate key passphrase` sets another".to_owned()),
        }
        Ok(())
    }
}

/// Does something with the keys of a stopped node, all of it before it returns. Blocks.
///
/// # Errors
/// `InUse` when the node runs; `Locked` when the key that opens its store was not given; `Refused` when it makes no sense;
/// `Disk` when the disk refused.
pub fn change(directory: &Path, keys: &Keys, order: &KeyOrder) -> Result<KeyAnswer, StartError> {
    let layout = Layout::with_keys(directory, keys);
    if !quorate_storage::exists(&layout.store()) {
        return Err(StartError::Directory(format!(
            "{} holds no manager, and only a manager's store is sealed. Nothing was changed",
            directory.display()
        )));
    }
    let (desk, _store) = Desk::open(directory, keys)?;
    let explained = |refusal: Refusal| match refusal {
        Refusal::Refused(why) => StartError::Refused(why),
        error @ Refusal::Key(_) => StartError::Refused(error.to_string()),
        Refusal::Store(error) => StartError::from(error),
    };
    // What was begun before counts when it was opened by the new key, and does not when it was by the old one.
    desk.settle().map_err(explained)?;
    if matches!(order, KeyOrder::Confirm) {
        return Ok(KeyAnswer { report: desk.report(), secret: None, notes: Vec::new() });
    }
    let mut answer = desk.order(order).map_err(explained)?;
    if matches!(order, KeyOrder::Rotate) {
        while desk.reseal_step()? {}
        answer.report = desk.report();
    }
    Ok(answer)
}
