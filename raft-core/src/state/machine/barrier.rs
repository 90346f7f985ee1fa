//! What the barrier's keyring is after each command.
//!
//! Owns the rules of [`crate::keyring`] at apply: a record may name only a key that is there, copies go with their manager's
//! sealing key, a key goes when no record names it, and how often each one was used. Never seals nor opens. Called by the machine.

use bytes::Bytes;
use prost::Message as _;

use super::{Memory, Round, malformed};
use crate::id::NodeId;
use crate::keyring::{
    BarrierKey, GivenCopy, KeyCopy, KeyringOrder, KeyringOrderKind, KeyringRecord, Reseal, Resealed, is_sealed_section,
    may_hold, named_key,
};
use crate::keyspace::Section;
use crate::membership::record::NodeRecord;
use crate::ports::{StateRead, StoreResult};
use crate::state::check;
use crate::state::contract::{Outcome, Refusal};
use crate::state::execute::{Change, Present};
use crate::state::hash::Lanes;
use crate::state::layout::{self, Record, RecordView};
use crate::state::stored::decode;

/// What a record names; one that cannot be read names nothing, and cannot have come in by [`Memory::admit_sealed`].
fn named(key: &[u8], record: Option<&Record>) -> Option<u32> {
    record.and_then(|record| named_key(key, record.view().value).ok().flatten())
}

/// The sealing key that a node's record has a claim to copies with.
fn claim(record: Option<&Record>) -> Option<Bytes> {
    let node = NodeRecord::decode(record?.view().value).ok()?;
    may_hold(&node).then_some(node.sealing_key)
}

impl Memory {
    /// Whether these changes leave no record that names a key which is not in the keyring.
    pub(super) fn admit_sealed(&self, changes: &[Change]) -> Result<(), Refusal> {
        for Change { key, new, .. } in changes {
            let Some(new) = new else { continue };
            if let Some(id) = named_key(key, new.view().value).map_err(check::malformed)?
                && self.keyring.key(id).is_none()
            {
                return Err(Refusal::StaleKey { key: id });
            }
        }
        Ok(())
    }

    /// The changes of one revision: the keyring follows, all of them together. A key whose last record goes and another one
    /// comes in the same revision stays.
    pub(super) fn follow_keyring(&mut self, changes: &[Change], round: &mut Round) {
        let concerns = |change: &Change| change.key.first() == Some(&NODES) || is_sealed_section(&change.key);
        if self.keyring.is_none() || !changes.iter().any(concerns) {
            return;
        }
        let mut keyring = self.keyring.clone();
        for Change { key, old, new, .. } in changes {
            if key.first() == Some(&NODES) {
                // Where another record claims the same key there is a copied directory: it goes all the same, and is given anew.
                let (before, after) = (claim(old.as_ref()), claim(new.as_ref()));
                if let Some(before) = before.filter(|before| after.as_ref() != Some(before)) {
                    keyring.forget(&before);
                }
            } else {
                count(&mut keyring, named(key, old.as_ref()), named(key, new.as_ref()));
            }
        }
        keyring.settle();
        self.keyring_is(keyring, round);
    }

    /// An incarnation has ended: whoever had its keys is not to open what comes.
    pub(super) fn rotate_keyring(&mut self, round: &mut Round) {
        if !self.keyring.is_none() {
            let keyring = KeyringRecord { due: true, ..self.keyring.clone() };
            self.keyring_is(keyring, round);
        }
    }

    fn keyring_is(&mut self, keyring: KeyringRecord, round: &mut Round) {
        if keyring == self.keyring {
            return;
        }
        self.lanes.remove(self.keyring_lanes);
        self.keyring_lanes = Lanes::of(layout::SYSTEM_KEYRING, &keyring.encode_to_vec());
        self.lanes.add(self.keyring_lanes);
        round.keyring_changed = true;
        round.records_changed = true;
        self.keyring = keyring;
    }

    pub(super) fn order_keyring(
        &mut self,
        store: &dyn StateRead,
        order: &KeyringOrder,
        round: &mut Round,
    ) -> StoreResult<Outcome> {
        let mut keyring = self.keyring.clone();
        let present = Present { store, overlay: &round.overlay, leases: &self.leases };
        let done = match &order.kind {
            None => return Ok(malformed("order of no known kind for the keyring")),
            Some(KeyringOrderKind::Ask(ask)) => {
                let meant = ask.active == keyring.active && !keyring.is_none();
                keyring.due |= meant;
                meant
            }
            Some(KeyringOrderKind::Share(share)) if share.serial == keyring.serial => {
                let mut given = false;
                for copy in &share.copies {
                    let Some(new) = wanted(present, copy)? else { continue };
                    if let Some(key) = keyring.key_mut(copy.key).filter(|key| !key.is_for(&new.to)) {
                        key.copies.push(new);
                        given = true;
                    }
                }
                keyring.serial += u64::from(given);
                given
            }
            Some(KeyringOrderKind::Rotate(rotate)) if rotate.serial == keyring.serial => {
                let mut key = BarrierKey { id: rotate.id, ..BarrierKey::default() };
                for copy in &rotate.copies {
                    if let Some(new) =
                        wanted(present, copy)?.filter(|new| copy.key == rotate.id && !key.is_for(&new.to))
                    {
                        key.copies.push(new);
                    }
                }
                let fits = rotate.id == keyring.next_id() && covers(&keyring, &key);
                if fits {
                    keyring.keys.push(key);
                    keyring.active = rotate.id;
                    keyring.due = false;
                    keyring.serial += 1;
                    keyring.settle();
                }
                fits
            }
            Some(KeyringOrderKind::Share(_) | KeyringOrderKind::Rotate(_)) => false,
            Some(KeyringOrderKind::Reseal(reseal)) => return self.reseal(store, reseal, round),
        };
        if done {
            self.keyring_is(keyring, round);
        }
        Ok(self.done(done, Vec::new()))
    }

    /// Records are replaced in their places, without a revision: what they say is the same.
    fn reseal(&mut self, store: &dyn StateRead, reseal: &Reseal, round: &mut Round) -> StoreResult<Outcome> {
        let mut keyring = self.keyring.clone();
        let (mut done, mut usage) = (false, self.usage);
        for Resealed { key, revision, from, value } in &reseal.records {
            let to = match named_key(key, value) {
                Ok(Some(to)) if keyring.key(to).is_some() => to,
                Ok(Some(to)) => return Ok(Outcome::Refused(Refusal::StaleKey { key: to })),
                Ok(None) | Err(_) => return Ok(malformed("a record that is sealed anew without a seal")),
            };
            if let Err(refusal) =
                check::within("the record", value.len(), "RECORD_BYTES_MAX", crate::limits::RECORD_BYTES_MAX)
            {
                return Ok(Outcome::Refused(refusal));
            }
            let stored = layout::current_key(key);
            let present = Present { store, overlay: &round.overlay, leases: &self.leases };
            let Some(old) = present.get(&stored)? else { continue };
            if old.view().modified != *revision || named(key, Some(&old)) != Some(*from) || to == *from {
                continue;
            }
            let new = Record::new(RecordView { value, ..old.view() });
            count(&mut keyring, Some(*from), Some(to));
            usage.reseal(key, &old, &new);
            round.bytes += old.raw().len() + new.raw().len();
            self.lanes.remove(Lanes::of(&stored, old.raw()));
            self.lanes.add(Lanes::of(&stored, new.raw()));
            round.overlay.insert(stored, Some(new));
            done = true;
        }
        keyring.settle();
        self.use_as(usage);
        self.keyring_is(keyring, round);
        Ok(self.done(done, Vec::new()))
    }
}

/// What the full keys of node records begin with.
const NODES: u8 = Section::Node as u8;

/// A record that named one key names another from now on. Whoever has counted everything lets the keyring settle.
fn count(keyring: &mut KeyringRecord, old: Option<u32>, new: Option<u32>) {
    if let Some(key) = new.and_then(|id| keyring.key_mut(id)) {
        key.uses = key.uses.saturating_add(1);
        key.records = key.records.saturating_add(1);
    }
    if let Some(key) = old.and_then(|id| keyring.key_mut(id)) {
        key.records = key.records.saturating_sub(1);
    }
}

/// Everybody who can open the active key can open the new one.
fn covers(keyring: &KeyringRecord, new: &BarrierKey) -> bool {
    keyring.key(keyring.active).is_none_or(|active| active.copies.iter().all(|copy| new.is_for(&copy.to)))
}

/// The copy, if that manager's record still asks for it.
fn wanted(present: Present<'_>, given: &GivenCopy) -> StoreResult<Option<KeyCopy>> {
    let (Some(node), Some(copy)) = (NodeId::from_slice(&given.node), &given.copy) else { return Ok(None) };
    let key = NodeRecord::key(node);
    let Some(record) = present.get(&layout::current_key(&key))? else { return Ok(None) };
    let record: NodeRecord = decode(&key, record.view().value)?;
    Ok((may_hold(&record) && record.sealing_key == copy.to).then(|| copy.clone()))
}
