//! Where the keys of one store are changed: of a running manager, and of a stopped directory.
//!
//! Owns the order of the steps of each change, so that at every moment a key that somebody has opens the store, and the node's
//! own key, which is sealed by the same ones, with it. A new key lies
//! where it will be looked for, durable, before the store is opened by it; the old one goes after. A key that people must keep
//! is shown first, beside the old one, and takes its place only when they say that they have it. No key is dropped that another
//! store may need: out of a file elsewhere none at all, and out of the one beside the data only what this store was opened by
//! itself and no store that was moved aside names. Called by the node for its operator, and by the command line for a stopped
//! directory.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_core::ports::{OpenStore, StoreError};
use quorate_storage::{Key, KeyError, KeyId, KeyKeeper, KeyKind, KeyProvider as _, KeySlot, Options};
use zeroize::Zeroizing;

use super::{BESIDE, Keys, Provider, credential, file, is_same_file, located, salted};
use crate::config;
use crate::node::{Layout, StartError, explained, seal_identity, size_of};
use crate::status::KeyReport;

/// What is to be done with the keys of a node.
#[derive(Clone)]
#[non_exhaustive]
pub enum KeyOrder {
    /// Say what there is.
    Show,
    /// Another key in the key file, and another data key; what the old one has sealed is sealed anew.
    Rotate,
    /// The key file lies there from now on, with another key in it. A key file that is there already is used as it is. Refused
    /// where people keep the key: [`KeyOrder::AutolockOff`] says that a file is to have it.
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
    #[error("{0}")]
    Identity(StartError),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Refused(format!("{}. Nothing was changed", why.into())))
}

/// Why a store of that many bytes is not sealed anew with so many free: each record is written once more, and the old ones go
/// later.
pub(super) fn too_full(free: u64, size: u64) -> Option<String> {
    let wanted = size.saturating_add(config::SPACE_LOW);
    (free < wanted).then(|| {
        format!(
            "to seal everything anew, for a while as much space is needed as the store takes, and some to spare: {} MiB, and {} MiB are free on its disk. Clear some away or enlarge the disk, then rotate again",
            wanted.div_ceil(1 << 20),
            free >> 20
        )
    })
}

/// The hand on the keys of one store, with the directory around it.
pub(crate) struct Desk {
    keeper: KeyKeeper,
    directory: PathBuf,
    provider: Provider,
    /// One change at a time.
    turn: Mutex<()>,
}

impl Desk {
    pub(crate) fn new(keeper: KeyKeeper, layout: &Layout) -> Self {
        Self { keeper, directory: layout.root().to_owned(), provider: layout.keys(), turn: Mutex::default() }
    }

    /// Of a stopped directory; nothing else opens it meanwhile.
    fn open(directory: &Path, keys: &Keys) -> Result<(Self, OpenStore), StartError> {
        let layout = Layout::with_keys(directory, keys);
        let (store, keeper) = quorate_storage::open_with_keys(&layout.store(), Options::new(Arc::new(layout.keys())))
            .map_err(|error| explained(&layout, error))?;
        Ok((Self::new(keeper, &layout), store))
    }

    fn store(&self) -> PathBuf {
        Layout::new(&self.directory).store()
    }

    /// Whether the disk is above the mark below which a manager takes no writes; it is where that cannot be told.
    fn has_space(&self) -> bool {
        quorate_storage::free_space(&self.store()).map_or(true, |free| free >= config::SPACE_LOW)
    }

    /// The path that a slot of a key file names.
    fn path(&self, slot: &KeySlot) -> PathBuf {
        located(&self.directory, &slot.place)
    }

    /// As people are told of it: with the whole path of a key file.
    fn shown(&self, slot: &KeySlot) -> KeySlot {
        let mut shown = slot.clone();
        if slot.kind == KeyKind::File {
            shown.place = self.path(slot).display().to_string();
        }
        shown
    }

    fn in_force(&self) -> Result<(Key, KeySlot), Refusal> {
        self.keeper.held().map_or_else(|| refuse("the store does not say which key opens it"), Ok)
    }

    /// Ends what a crash left between two keys: the key that opened the store is the one in force. Whether there was something
    /// to end, and what is left to clear away.
    pub(crate) fn settle(&self) -> Result<(bool, Option<String>), Refusal> {
        let (_, now) = self.in_force()?;
        let slots = self.keeper.status().slots;
        let before = slots.first().filter(|first| first.id != now.id);
        let left = before.and_then(|before| self.clear(before, &now));
        let cut_off = self.keeper.settle()?;
        self.seal_identity(&[self.in_force()?])?;
        Ok((cut_off, left))
    }

    /// The node's own key is opened by these keys from now on, and by no others.
    fn seal_identity(&self, keys: &[(Key, KeySlot)]) -> Result<(), Refusal> {
        seal_identity(&Layout::new(&self.directory), keys, &self.provider).map_err(Refusal::Identity)
    }

    /// A key opens the store beside the one in force; the node's own key first, so that whatever opens the store opens that.
    fn begin(&self, key: &Key, now: &KeySlot) -> Result<(), Refusal> {
        self.seal_identity(&[self.in_force()?, (key.clone(), now.clone())])?;
        Ok(self.keeper.begin_change(key, now.clone())?)
    }

    /// The node's own key follows the store, which is opened by another key now. What is left to do where it cannot.
    fn identity_follows(&self) -> Result<Option<String>, Refusal> {
        let sealed = self.seal_identity(&[self.in_force()?]);
        Ok(sealed.err().map(|error| {
            format!("the node's own key is still opened by the key before, too, until the next start: {error}")
        }))
    }

    /// Another key opens the store from now on; it lies already where it will be looked for. What is left of the old one to
    /// clear away.
    fn replace(&self, before: &KeySlot, key: &Key, now: KeySlot) -> Result<Option<String>, Refusal> {
        if before.id == now.id {
            self.seal_identity(&[self.in_force()?, (key.clone(), now.clone())])?;
            self.keeper.change(key, now.clone())?;
            let left = self.identity_follows()?;
            return Ok(left.or_else(|| self.clear(before, &now)));
        }
        // The old key goes while the record names both: whenever a crash comes, what is left of the two opens the store, and
        // whoever opens it knows what was to go.
        self.begin(key, &now)?;
        let left = self.clear(before, &now);
        self.keeper.change(key, now)?;
        Ok(self.identity_follows()?.or(left))
    }

    /// Drops what the store is opened by no more, where it can be needed by nobody else. Else what people have to know of it.
    fn clear(&self, before: &KeySlot, now: &KeySlot) -> Option<String> {
        let path = self.path(before);
        if before.kind != KeyKind::File || !file::holds(&path, before.id) {
            return None;
        }
        let (id, shown) = (before.id, path.display());
        if !is_same_file(&path, &self.directory.join(BESIDE)) {
            return (id != now.id).then(|| format!(
                "the key {id} in {shown} opens this store no more, and stays there, since another store may use that file: remove it by hand when none does"
            ));
        }
        if let Some(aside) = self.aside_with(id) {
            return Some(format!(
                "the key {id} in {shown} opens this store no more, and stays there, since {} was moved aside and may be sealed with it: remove it by hand together with that",
                aside.display()
            ));
        }
        let there = self.path(now);
        if id == now.id && (is_same_file(&path, &there) || !file::holds(&there, id)) {
            return Some(format!("the key {id} stays in {shown}, since it cannot be found in {}", there.display()));
        }
        let dropped = file::change(&path, |keys| {
            keys.retain(|key| key.id() != id);
            Ok(())
        });
        dropped
            .err()
            .map(|error| format!("the key {id} in {shown} opens this store no more; remove it by hand: {error}"))
    }

    /// A store that was moved aside and may be opened by this key.
    fn aside_with(&self, id: KeyId) -> Option<PathBuf> {
        let found = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let is_aside = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(Layout::ASIDE);
        let mut stores = found.filter(|entry| is_aside(&entry.file_name())).map(|entry| entry.path());
        // Of one that cannot be read nobody knows.
        stores.find(|store| {
            quorate_storage::key_slots(store).map_or(true, |slots| slots.iter().any(|slot| slot.id == id))
        })
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
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, slot) = self.in_force()?;
        let (mut secret, mut notes) = (None, Vec::new());
        match order {
            KeyOrder::Show => {}
            KeyOrder::UnlockKeyShow if slot.kind == KeyKind::Unlock => secret = Some(old.to_text()),
            KeyOrder::UnlockKeyShow | KeyOrder::UnlockKeyRotate if slot.kind != KeyKind::Unlock => {
                return refuse(format!(
                    "there is no unlock key: this node is opened by {}; `quorate autolock on` makes one",
                    self.shown(&slot)
                ));
            }
            KeyOrder::AutolockOn if slot.kind == KeyKind::Unlock => {
                return refuse(
                    "autolock is on already; `quorate unlock-key show` shows the key, `quorate unlock-key rotate` makes another",
                );
            }
            KeyOrder::AutolockOn | KeyOrder::UnlockKeyRotate | KeyOrder::UnlockKeyShow => {
                let key = Key::generate()?;
                self.begin(&key, &KeySlot::new(&key, KeyKind::Unlock, ""))?;
                secret = Some(key.to_text());
            }
            KeyOrder::Confirm => {
                let Some(now) = self.keeper.status().slots.into_iter().nth(1) else {
                    return refuse(
                        "no new unlock key waits to be confirmed: make one with `quorate autolock on` or `quorate unlock-key rotate`",
                    );
                };
                notes.extend(self.clear(&slot, &now));
                self.keeper.finish_change()?;
                notes.extend(self.identity_follows()?);
            }
            KeyOrder::AutolockOff(_) if slot.kind == KeyKind::File => {
                return refuse(format!("autolock is off: this node is opened by {}", self.shown(&slot)));
            }
            KeyOrder::Move(path) if matches!(slot.kind, KeyKind::Unlock | KeyKind::Passphrase) => {
                return refuse(format!(
                    "this manager waits after each start for {slot}, and a key file would end that: whoever has the file could open the store. If that is what you want: quorate autolock off --to {}",
                    path.display()
                ));
            }
            KeyOrder::AutolockOff(None) => self.to_file(&slot, None, &mut notes)?,
            KeyOrder::AutolockOff(Some(path)) | KeyOrder::Move(path) => self.to_file(&slot, Some(path), &mut notes)?,
            KeyOrder::Passphrase(text) => {
                let (key, now) = salted(text)?;
                notes.extend(self.replace(&slot, &key, now)?);
                if slot.kind == KeyKind::Unlock {
                    notes.push(format!(
                        "{slot} opens the store no more: after each start this manager waits for the passphrase in its place"
                    ));
                }
            }
            KeyOrder::Rotate => {
                let store = self.store();
                let free = quorate_storage::free_space(&store).ok();
                if let Some(why) = free.and_then(|free| too_full(free, size_of(&store))) {
                    return refuse(why);
                }
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
        if before.kind == KeyKind::File && is_same_file(&self.path(before), &path) {
            return refuse(format!(
                "the key file is {} already; `quorate key rotate` puts another key into it",
                path.display()
            ));
        }
        // A directory that is not there is mistyped, or a disk that is not mounted: what was made in its place would be found by
        // nobody once it is.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            let shown = directory.display();
            return refuse(format!(
                "there is no directory {shown} for the key file: look whether the path is right, and its disk mounted; if it is, make it first (mkdir -m 700 {shown})"
            ));
        }
        let (key, now) = Provider::make_file(&path, place)?;
        notes.extend(self.replace(before, &key, now)?);
        notes.extend(doubts(&path, &self.directory));
        Ok(())
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
                    notes.extend(self.replace(slot, &given, next)?);
                    return Ok(());
                }
                if credential().is_some_and(|brought| brought == path) {
                    notes.push("the key file is the service manager's: to change that key, too, put another one (`quorate key new`) before it in the file and rotate again".to_owned());
                    return Ok(());
                }
                let key = Key::generate()?;
                file::change(&path, |keys| {
                    keys.insert(0, key.clone());
                    Ok(())
                })?;
                let next = KeySlot::new(&key, KeyKind::File, slot.place.clone());
                notes.extend(self.replace(slot, &key, next)?);
            }
            KeyKind::Command | KeyKind::Custom => {
                let (key, next) = self.provider.make()?;
                if key.id() != old.id() {
                    notes.extend(self.replace(slot, &key, next)?);
                }
            }
            KeyKind::Unlock => notes.push("the unlock key stays: `quorate unlock-key rotate` makes another".to_owned()),
            KeyKind::Passphrase => notes.push("the passphrase stays: `quorate key passphrase` sets another".to_owned()),
        }
        Ok(())
    }
}

/// What speaks against keeping the key file of this node there, if anything: it may be meant, and is done.
pub(super) fn doubts(path: &Path, directory: &Path) -> Option<String> {
    let shown = path.display();
    let there = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if quorate_storage::is_in_memory(there).unwrap_or(false) {
        return Some(format!(
            "warning: {shown} is in memory (tmpfs) and gone after the next boot, and with it everything in this store, unless something puts the key back there each time; keep a copy, or move it to a disk"
        ));
    }
    let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
    let same = device(there).is_some_and(|found| device(directory) == Some(found));
    (same && !super::is_inside(path, directory)).then(|| format!(
        "warning: {shown} is on the same file system as the data: who takes that disk has both. Is something to be mounted there first?"
    ))
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
        Refusal::Identity(error) => error,
    };
    // What was begun before counts when it was opened by the new key, and does not when it was by the old one.
    let (_, left) = desk.settle().map_err(explained)?;
    if matches!(order, KeyOrder::Confirm) {
        return Ok(KeyAnswer { report: desk.report(), secret: None, notes: left.into_iter().collect() });
    }
    let mut answer = desk.order(order).map_err(explained)?;
    answer.notes.extend(left);
    if matches!(order, KeyOrder::Rotate) {
        while desk.has_space() && desk.reseal_step()? {}
        answer.report = desk.report();
        if answer.report.sealing_anew {
            answer.notes.push(
                "the disk has become low on space: the rest is sealed anew when the manager runs and there is space"
                    .to_owned(),
            );
        }
    }
    Ok(answer)
}
